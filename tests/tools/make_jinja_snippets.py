"""Writes tests/data/jinja_snippets.json: short templates and what Python's jinja2 makes of them.

The environment is the one of Hugging Face transformers: an immutable sandbox, trim_blocks and
lstrip_blocks, loop controls, tojson without HTML escapes, raise_exception. Needs jinja2 3.1.

    python3 tests/tools/make_jinja_snippets.py > tests/data/jinja_snippets.json
"""

import json

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

GLOBALS = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  Hi there \n"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes.", "tool_calls": [
            {"id": "c1", "type": "function",
             "function": {"name": "get", "arguments": {"b": 1, "a": "x"}}}]},
        {"role": "tool", "content": "{\"t\": 21.5}", "tool_call_id": "c1"},
        {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image"}]},
    ],
    "tools": [{"type": "function", "function": {
        "name": "get", "description": "Gets \"it\" <now> & 'here'.",
        "parameters": {"type": "object", "properties": {
            "b": {"type": "integer", "description": "é \u2028 ü"},
            "a": {"type": ["string", "null"], "enum": ["x", "y"], "default": None}},
            "required": ["b"]}}}],
    "bos_token": "<s>",
    "eos_token": "</s>",
    "s": "Hello, World",
    "u": "Größe ΣΑΣ éa 世界",
    "ws": " \t a  b\u00a0c \n\u3000",
    "empty": "",
    "n": 7,
    "neg": -7,
    "big": 9007199254740993,
    "f": 2.5,
    "t": True,
    "none": None,
    "nums": [3, 1, 2, 3, -1],
    "mixed": [1, "a", None, True, 2.5],
    "words": ["b", "A", "c", "a", "B"],
    "d": {"b": 1, "a": [1, 2], "C": {"x": "y"}},
    "people": [{"name": "Ann", "age": 30, "at": {"city": "X"}},
               {"name": "bob", "age": 25, "at": {"city": "Y"}},
               {"name": "Cy", "age": 30, "at": {"city": "X"}}],
    "nested": [[1, [2, 3]], [], ["q"]],
}

# Expressions: each becomes {{ expression }}.
EXPRESSIONS = r"""
1
1.0
1e3
1_000
0x1f
0b11
0o17
1e16
1e15
123456789012345680.0
0.1 + 0.2
1e-5
0.0001
-0.0
1.5e300 * 1e10
7 / 2
6 / 2
7 // 2
-7 // 2
7 % 3
-7 % 3
7 % -3
7.5 % 2
-7.5 // 2
2 ** 10
2 ** -1
2 ** 0.5
2 ** 3 ** 2
-2 ** 2
1 / 0
1 % 0
n + 1 * 2
(n + 1) * 2
- n
+ n
- - n
not n
not not n
n == 7.0
true == 1
1 < 2 < 3
3 > 2 > 2
1 < 2 == true
1 == 1.0
'a' < 'b'
'a' < 1
[1, 2] < [1, 3]
none == None
None is none
True and 1
0 or 'x'
'' or none
none and 1
1 and 2 and 0
'a' ~ 1 ~ none ~ true ~ 2.0 ~ [1, 'x'] ~ undefinedthing
'a' + 'b'
'a' 'b' "c"
'a' + 1
1 + 'a'
'ab' * 3
3 * 'ab'
'ab' * -1
[1] * 2
[1] + [2]
(1, 2) + (3,)
[1] + (2,)
true + true
'%s-%d' % ('a', 3)
'%5.2f|%-5s|%05d|%x|%X|%o|%e|%g|%%' % (3.14159, 'ab', 42, 255, 255, 8, 12345.678, 0.0001)
'%s' % 'x'
'%s' % [1, 2]
'%s %s' % 'x'
'%r' % 'it\'s'
'%(a)s %(b)d' % {'a': 'x', 'b': 2}
'%+d % d' % (3, 4)
'%c' % 'x'
'%i' % 3.9
'%s' % none
'%.2s' % 'abc'
'%10s|' % 'abc'
'{} {}'.format('a', 1)
'{0} {1} {0}'.format('a', 'b')
'{x} {y}'.format(x=1, y='z')
'{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd')
'{:.2f} {:,} {:05d} {:x} {:b} {:e} {:%}'.format(3.14159, 1234567, 42, 255, 5, 12345.6, 0.25)
'{!r}'.format('x')
'{{}} {}'.format(1)
'{a.name} {a[age]}'.format(a=people[0])
'{'.format()
'{}'.format()
'{0[1]}'.format([1, 2])
'{:d}'.format('x')
'{:10.3}|'.format('abcdef')
'{:+d} {: d}'.format(5, 6)
'{:#x} {:o}'.format(255, 8)
'{:g} {:G} {:n}'.format(0.00001, 1e20, 5)
[1, 'a', none, true, 1.0, 'it\'s', "q\"", {'k': (1,)}]
(1,)
()
(1, 'a')
[]
{}
{'a': 1, 'b': [1, 2]}
{1: 2, none: 3}
{'a': 1}['a']
{'a': 1}.a
{[1]: 2}
'a\nb\tc\\'
['a\nb\tc\\', 'é', '\u200b', '\x07', "\u2028"]
"\x41\u00e9\101\
"
's[0]'
s[0]
s[-1]
s[100]
s[1:3]
s[:5]
s[-5:]
s[::2]
s[::-1]
s[5:2]
s[10:100]
s[-100:3]
s[::0]
u[0:6]
u[::-1]
u|length
nums[0]
nums[-1]
nums[10]
nums[1:]
nums[:-1]
nums[::-1]
nums[::2]
nums[-2:]
nums[4:0:-2]
nums['x']
nums[1.0]
nums[true]
(1, 2, 3)[1:]
d['b']
d.b
d['zz']
d.zz
d.zz.yy
d['zz']['yy']
d.a.0
d.a[1]
d.C.x
d['C']['x']
d.items
d.items()
d.items()|list
d.keys()|list
d.values()|list
d.get('b')
d.get('zz')
d.get('zz', 5)
d.get('zz', default=5)
d.copy()
d.pop('b')
d.update({'q': 1})
d.setdefault('q', 1)
d.clear()
nums.append(1)
nums.pop()
nums.insert(0, 1)
nums.extend([1])
nums.sort()
nums.reverse()
nums.remove(1)
nums.count(3)
nums.index(2)
nums.index(99)
nums.append is defined
messages[0].role
messages[0]['role']
messages[0].content
messages|length
messages[2].tool_calls[0].function.arguments
messages[2].tool_calls[0].function.arguments|tojson
messages[2].tool_calls[0]['function']['name']
messages[4].content[0].text
messages[-1]['content'][0]['type']
messages[1:]|length
messages[0:1]
tools
tools|tojson
tools|tojson(indent=4)
tools|tojson(indent=2, ensure_ascii=True)
tools|tojson(separators=(',', ':'))
tools|tojson(sort_keys=true)
tools|tojson(ensure_ascii=true)
tools[0]|tojson(indent=0)
d|tojson(2)
d|tojson(False, 2)
d|tojson(indent='--')
d|tojson(indent=none)
[]|tojson(indent=2)
{}|tojson(indent=2)
[[], {}]|tojson(indent=2)
mixed|tojson
'é"\\\n\u0001<>&\''|tojson
u|tojson
u|tojson(ensure_ascii=true)
'😀'|tojson(ensure_ascii=true)
1.0|tojson
1e100|tojson
{1: 2, true: 3, none: 4, 1.5: 6}|tojson
(1, 2)|tojson
undefinedthing|tojson
range(3)|tojson
d.items()|tojson
namespace(a=1)|tojson
'\x7f'|tojson
'\x7f'|tojson(ensure_ascii=true)
s.upper()
s.lower()
s.title()
s.swapcase()
'hELLO wORLD'.capitalize()
"they're bill's".title()
u.upper()
u.lower()
u.title()
s.split(',')
s.split(', ')
s.split()
ws.split()
ws.split(' ')
' a b c '.split(' ', 1)
' a b c '.split(none, 1)
'a b c d'.split(maxsplit=2)
'a,b,c'.rsplit(',', 1)
'a b c '.rsplit(none, 1)
'a,b,c'.split(',')[-1]
''.split()
''.split(',')
'abc'.split('')
'a<think>b</think>c'.split('</think>')[0].split('<think>')[-1]
ws.strip()
ws.lstrip()
ws.rstrip()
'xxaxx'.strip('x')
'xyaxy'.strip('yx')
'xxaxx'.lstrip('x')
'xxaxx'.rstrip('x')
'\n\na\n'.strip('\n')
'a'.strip(none)
s.startswith('Hello')
s.startswith(('X', 'Hel'))
s.endswith('ld')
s.endswith(('x', 'd'))
s.startswith('lo', 3)
s.startswith(1)
s.startswith('')
s.find('o')
s.find('o', 5)
s.find('zz')
s.find('o', 5, 7)
s.rfind('o')
s.index('W')
s.index('zz')
s.rindex('o')
s.count('l')
s.count('')
'aaaa'.count('aa')
s.replace('o', '0')
s.replace('o', '0', 1)
s.replace('l', '')
'abc'.replace('', '-')
'abc'.replace('', '-', 2)
''.replace('', 'x')
', '.join(['a', 'b'])
', '.join([1, 2])
''.join('abc')
'-'.join({'a': 1, 'b': 2})
'a\nb\r\nc\n'.splitlines()
'a\nb\r\nc\n'.splitlines(true)
''.splitlines()
'a\n\nb'.splitlines()
'123'.isdigit()
''.isdigit()
'12a'.isdigit()
'²'.isdigit()
'²'.isdecimal()
'½'.isnumeric()
'abc'.isalpha()
'ab1'.isalpha()
'ab1'.isalnum()
'世界'.isalpha()
'abc'.isascii()
'é'.isascii()
'  '.isspace()
'Ab'.istitle()
'AB'.isupper()
'ab1'.islower()
'1'.islower()
'a_1'.isidentifier()
'1a'.isidentifier()
'a\n'.isprintable()
'ab'.center(7, '*')
'abc'.center(6)
'abc'.ljust(5, '.')
'abc'.rjust(5)
'abc'.ljust(2)
'42'.zfill(5)
'-42'.zfill(5)
'a\tb'.expandtabs(4)
'a=b=c'.partition('=')
'a=b=c'.rpartition('=')
'abc'.partition('=')
'abc'.rpartition('=')
'abcabc'.removeprefix('abc')
'abcabc'.removesuffix('bc')
'abc'.removeprefix('x')
'ß'.upper()
'ẞİ'.lower()|length
'ABC'.casefold()
s.encode
s.nosuch
s.nosuch()
s.format_map({'a': 1})
s.__class__
s.__class__.__mro__
''.__class__
d.__class__ is defined
nosuch
nosuch.attr
nosuch['x']
nosuch()
nosuch|length
nosuch|default('x')
nosuch|d('x')|upper
''|default('x')
''|default('x', true)
none|default('x')
none|default('x', boolean=true)
nosuch is defined
nosuch is undefined
nosuch.x is defined
d.zz is defined
nosuch == nosuch2
nosuch == none
nosuch + 1
nosuch ~ 'x'
nosuch|list
nosuch|join(',')
nosuch in [1]
'x' in nosuch
not nosuch
nosuch or 'x'
nosuch and 'x'
'Hello' in s
'' in s
1 in nums
9 in nums
9 not in nums
'b' in d
'zz' in d
1 in s
1 in 5
[1] in d
none in mixed
1.0 in nums
n is number
n is integer
f is float
f is number
t is number
t is integer
t is boolean
n is string
s is string
s is sequence
s is iterable
d is sequence
d is mapping
d is iterable
n is iterable
nums is sequence
nums is mapping
none is none
none is not none
none is defined
n is odd
n is even
n is divisibleby 7
n is divisibleby(2)
n is not divisibleby 2
n is eq 7
n is == 7
n is equalto 7
n is ne 7
n is gt 3
n is greaterthan 3
n is lt 3
n is ge 7
n is le 7
n is in nums
3 is in nums
n is sameas 7
none is sameas none
t is true
t is false
1 is true
s is lower
s is upper
'abc' is lower
range is callable
s is callable
s.upper is callable
'upper' is filter
'nosuch' is filter
'odd' is test
s is escaped
n is nosuchtest
s is mapping
nosuch is none
nosuch is string
nosuch is sequence
nosuch is iterable
nosuch is mapping
nosuch is number
'a' is odd
n is defined and n is odd
n is odd is defined
s|upper
s|lower
s|title
'hello world-foo (bar) [x] <y> {z}'|title
'o\'neil'|title
s|capitalize
s|length
s|count
s|trim
ws|trim
'xxaxx'|trim('x')
s|replace('o', '0')
s|replace('o', '0', 1)
s|first
s|last
s|list
s|reverse
s|string
s|wordcount
"it's a-b"|wordcount
s|center(20)
s|safe
'<a href="x">\'&'|escape
'<b>x</b>'|e
'<b>x</b>  <i>y</i> z'|striptags
'a b&c/d?é=ü'|urlencode
{'a': 'b c', 'd': 1}|urlencode
'a\nb\n\nc'|indent
'a\nb\n\nc'|indent(2)
'a\nb\n\nc'|indent(2, true)
'a\nb\n\nc'|indent(2, true, true)
'a\nb'|indent('>>')
'a\nb\n'|indent(2, first=true)
'foo bar baz qux'|truncate(9)
'foo bar baz qux'|truncate(9, true)
'foo bar baz qux'|truncate(11)
'foo bar baz qux'|truncate(11, false, '...', 0)
'foo bar baz qux'|truncate(11, leeway=0, end='!')
'foo'|truncate(2)
'%s-%s'|format('a', 'b')
'%(x)s'|format(x=1)
'%s'|format
n|abs
neg|abs
'x'|abs
f|round
2.567|round(2)
2.5|round
3.5|round
-2.5|round
2.3|round(0, 'ceil')
2.7|round(method='floor')
1234.5|round(-2)
7|round
'3'|int
'3.7'|int
'x'|int
'x'|int(5)
'0x1f'|int(base=16)
'ff'|int(0, 16)
'0b11'|int(0, 2)
' 42 '|int
none|int
f|int
-2.7|int
'1e3'|int
'3.5'|float
'x'|float
'x'|float(1.5)
n|float
'1e3'|float
nums|sum
nums|min
nums|max
words|min
words|max
[]|min
[]|max
[]|sum
[1.5, 2]|sum
people|sum(attribute='age')
people|sum('age', 10)
people|max(attribute='age')
nums|sort
nums|sort(reverse=true)
nums|sort(true)
words|sort
words|sort(case_sensitive=true)
words|sort(false, true)
mixed|sort
people|sort(attribute='age')|map(attribute='name')|list
people|sort(attribute='age,name')|map(attribute='name')|list
people|sort(attribute='at.city', reverse=true)|map(attribute='name')|list
d|dictsort
d|dictsort(true)
{'a': 3, 'b': 1}|dictsort(by='value')
{'a': 3, 'b': 1}|dictsort(false, 'value', true)
{'a': 3, 'b': 1}|dictsort(reverse=true)
nums|unique|list
words|unique|list
words|unique(true)|list
people|unique(attribute='age')|map(attribute='name')|list
nums|reverse|list
nums|first
nums|last
[]|first
[]|last
nums|length
d|length
d|list
d|first
n|length
n|list
none|length
nums|join
nums|join(', ')
people|join(', ', attribute='name')
mixed|join('|')
d|join(',')
nums|batch(2)|list
nums|batch(2, 0)|list
nums|slice(2)|list
nums|slice(3, 'x')|list
nums|map('string')|list
nums|map('string')|join(',')
words|map('upper')|list
people|map(attribute='name')|list
people|map(attribute='at.city')|list
people|map(attribute='zz', default='-')|list
people|map(attribute='zz')|list
nested|map('first')|list
nested|map('length')|list
nested|map(attribute=0)|list
words|map('replace', 'a', 'z')|list
words|map('nosuch')|list
words|map
nums|select('odd')|list
nums|select|list
[0, 1, '', 'a', none]|select|list
[0, 1, '', 'a', none]|reject|list
nums|select('gt', 1)|list
nums|reject('gt', 1)|list
nums|select('in', [1, 2])|list
nums|select('>', 1)|list
people|selectattr('age', 'equalto', 30)|map(attribute='name')|list
people|selectattr('age', 'eq', 30)|list|length
people|selectattr('zz')|list
people|selectattr('zz', 'defined')|list
people|rejectattr('zz', 'defined')|list|length
people|rejectattr('name', 'equalto', 'bob')|map(attribute='name')|join
people|selectattr('at.city', 'equalto', 'X')|map(attribute='name')|list
messages|selectattr('role', 'equalto', 'system')|list|length
messages|selectattr('role', 'in', ['user', 'tool'])|map(attribute='role')|list
messages|selectattr('tool_calls', 'defined')|list|length
(messages|selectattr('role', 'equalto', 'user')|list|last)['content'][0]['text']
messages|map(attribute='role')|join('/')
messages|rejectattr('role', 'equalto', 'system')|list|first
people|groupby('age')|map('first')|list
people|groupby('at.city')|map('last')|map('length')|list
people|groupby('zz')|list
people|groupby('zz', default='q')|map('first')|list
d|items|list
nosuch|items|list
n|items
people[0]|attr('name')
s|attr('upper')
d|attr('items') is callable
s|nosuchfilter
1 if true
1 if false
1 if false else 2
1 if nosuch else 2 if true else 3
(1 if false) is defined
'a' if s == 'x' else 'b' ~ 'c'
range(3)|list
range(1, 4)|list
range(5, 0, -2)|list
range(0)|list
range(3)
range(1000000)
range(2, 2)|length
range(3)[1]
range(5)[-1]
range(3) is iterable
3 in range(5)
dict(a=1, b=2)
dict({'a': 1}, b=2)
dict([('a', 1)])
namespace(a=1).a
namespace(a=1).b
namespace({'a': 1}).a
joiner()()
cycler(1, 2).next()
cycler()
raise_exception('no')
strftime_now is defined
true is boolean
True ~ False ~ None
true ~ false ~ none
[true, false, none]
1 ,2
(1, 2)|join
1|string ~ 2
-1|abs
-5 // 2
n ** 2
- n|abs
not 1 in [1]
1 + 2|string
'a' ~ 'b'|upper
'a'|upper ~ 'b'
5 is divisibleby 5 and true
n if n is odd else 0
'a' in 'abc' and 'd' not in 'abc'
{'a': 'x'}.a.upper()
[1, 2, 3][1:][0]
'abc'[1].upper()
'%d' % 3 ~ 'x'
d.a is sequence and d.a is not mapping and d.a is not string
d.b is iterable and d.b is not mapping
9223372036854775807
9007199254740993 + 0
big
big * 1.0
1e22
123456.789e3
[0.1, 1e20, 1.5e-7, 100.0]
'a' == 'a' == 'a'
[1, [2]] == [1, [2]]
{'a': 1} == {'a': 1.0}
(1, 2) == [1, 2]
'1' == 1
s.upper().lower().title()
s.split(',')|map('trim')|list
s.split(',')|map('trim')|map('lower')|join('-')
[1, 2, 3]|map('float')|list
[[1, 2], [3]]|sum(start=[])
['a', 'b']|sum(start='')
u|upper|lower
u|capitalize
messages[0]|tojson
messages[0] is mapping
messages[4].content is string
messages[4].content is iterable and messages[4].content is not string
loop is defined
caller is defined
varargs is defined
x.y.z is defined
(nosuch|default({})).x is defined
nosuch|default({})|length
[1, 2,]
{'a': 1,}
(1, 2,)
foo(1,)
[1 2]
{'a' 1}
1 +
(1
"unterminated
a b
1 = 2
s.1
d.a.1
nums.0
nums[0
nums|
nums is
s s
a..b
{'a': 1}|tojson|length
'\q'
'a' is string is string
n is gt(3) and n is lt(10)
n is not gt 3
n is not none
n is not defined
nosuch is not defined
3 is odd and not 4 is odd
'x' * 3 ~ 'y'
[] is sameas []
not none is none
'a,b'.split(',')|first|upper
namespace()
s|list|length
'abc'|batch(2)|list
'tést'|upper
'x'|center(5)|replace(' ', '.')
'a'|indent|indent
1.23456789012345678
3.0 * 2
7 // 2.0
10 % 3.5
0.1 * 3
1/3
2/3*100
100 * 1.1
'%.3f' % 2.0005
'%d%%' % 50
'%5d|%-5d|' % (3, 4)
'%s' % true
'%d' % true
'%d' % 'x'
'%z' % 1
'%s' % ()
'%s %s' % (1, 2, 3)
messages|tojson|length > 10
"a" "b" ~ 'c'
s[n]
s[neg]
people|map(attribute='age')|sum
people|map(attribute='age')|max
people|map(attribute='age')|unique|list
people|length - 1
people[people|length - 1].name
(people|last).name
(people|first)['at']['city']
messages[(messages|length) - 1].role
d.items()|first
d.items()|map('first')|list
d.items()|list|length
d.items()|length
d.keys()|join(',')
d.values()|first
d.items()|sort|first
'a' in d.keys()
1 in d.values()
d.a.copy()
(d.keys()|list)[0]
d|map('upper')|list
d.items() is iterable
d.keys() is sequence
[d.keys(), 1]
d.values()
range(3) is sequence
[range(3)]
"%s" % range(2)
s.split
none.x
none.x.y
none['x']
none()
none + 1
none < 1
none|string
none ~ ''
n.x
n.x.y
n[0]
n['x']
t.x
d[none]
d[[1]]
d[1:2]
nums[1:'a']
nums[none:2]
"a"[0][0][0]
s * 0
s + none
[] + none
{} + {}
nums - 1
-s
+none
'b' > 'a'
none == false
0 == false
'' == false
[] == false
1 is eq true
not ''
not []
not {}
not 0.0
not none
not 'x'
'á' < 'b'
words|map('lower')|sort|join
words|map('lower')|unique|sort|join
nums|map('abs')|list
nums|sort|first
nums|sort|join('<')
people|selectattr('age', '>', 26)|map(attribute='name')|sort|list
people|selectattr('name', 'in', 'Ann Cy')|list|length
people|map('attr', 'name')|list
people|map('tojson')|join
nums|map('multiply', 2)|list
nums|select('nosuch')|list
[1, 'a']|map('int')|list
[1, 'a', none]|map('default', 'x')|list
[nosuch, 1]|map('default', 'x')|list
'a-b_c d'|replace('-', ' ')|replace('_', ' ')|title
'line1\nline2'|replace('\n', '\\n')
'tab\there'
'quote\'s'
"dq\"s"
'back\\slash'
'nul\0x'|length
'€'|length
'👩‍👩‍👧'|length
'👩‍👩‍👧'[0]
'日本語'[1:]
'日本語'.find('語')
'日本語'.center(7, '・')
'%s' % '日本'
'%5s|' % '日本'
['日本', 'é']
{'é': 'ü'}
{'é': 'ü'}|tojson
""|length
''|upper
''|title
''|capitalize
''|trim
''|first
''|list
''|reverse
''|wordcount
''|int
''|float
""|indent(4, true)
""|truncate
""|replace('', 'x')
""|tojson
""|join(',')
"".join([])
"".strip()
"".startswith('')
"" in ""
"" == ''
""[0:1]
""[0]
"""

# Whole templates.
TEMPLATES = [
    "a\n{% if true %}\nb\n{% endif %}\nc\n",
    "a\n  {% if true %}\n  b\n  {% endif %}\nc",
    "a\n  {%- if true %}\n  b\n  {%- endif %}\nc",
    "a\n  {%- if true -%}\n  b\n  {%- endif -%}\nc",
    "a {%+ if true %} b {% endif %}",
    "  {%+ if true %}x{% endif %}",
    "{% if true +%}\nx{% endif %}",
    "a\n{{ 1 }}\nb\n\n",
    "a\n  {{- 1 -}}  \nb",
    "a {{- 1 }} b",
    "a {# comment #} b",
    "a\n  {# comment #}\nb",
    "a {#- c -#} b",
    "{# multi\nline #}x",
    "{# {{ x }} #}y",
    "{% raw %}{{ x }}{% y %}{% endraw %}",
    "a {%- raw -%} {{ x }} {%- endraw -%} b",
    "{% raw %}\n{{ x }}\n{% endraw %}\nz",
    "{{ '{{' }}{{ '}}' }}{{ '{%' }}",
    "{{ \"a}}b\" }}",
    "{{ {'a': {'b': 1}} }}",
    "{{ {'a': {'b': 1}}}}",
    "\n\n{{ 1 }}\n\n",
    "a\r\nb\r\n{{ 1 }}\r\nc",
    "a\rb",
    "{{ 'a\r\nb' }}",
    "{% set x = 1 %}{{ x }}",
    "{% set x, y = 1, 2 %}{{ x }}{{ y }}",
    "{% set x, y = [1] %}",
    "{% set x, y = [1, 2, 3] %}",
    "{% set (a, b), c = (1, 2), 3 %}{{ a }}{{ b }}{{ c }}",
    "{% set x = 1, %}{{ x }}",
    "{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]",
    "{% set x | upper %}ab{% endset %}{{ x }}",
    "{% set x | replace('a', 'b') | upper %}aac{% endset %}{{ x }}",
    "{% set ns = namespace(a=1) %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}",
    "{% set ns = namespace() %}{% set ns.b = [1] %}{{ ns.b }}{{ ns.c is defined }}",
    "{% set ns = namespace(a=[]) %}{% set ns.a = ns.a + [1] %}{{ ns.a }}",
    "{% set ns = namespace(a=1) %}{{ ns['a'] }}",
    "{% set d.x = 1 %}",
    "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% if false %}{% set x = 2 %}{% endif %}{{ x is defined }}",
    "{% if true %}{% set q = 2 %}{% endif %}{{ q }}",
    "{% for i in nums %}{{ i }},{% endfor %}",
    "{% for i in nums %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}"
    "{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}",
    "{% for i in nums %}{{ loop.previtem }}-{{ loop.nextitem }};{% endfor %}",
    "{% for i in nums %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }};{% endfor %}",
    "{% for i in nums %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{% endfor %}",
    "{% for i in nums if i > 1 %}{{ loop.index }}/{{ loop.length }}:{{ i }} {% endfor %}",
    "{% for i in nums if i > 100 %}x{% else %}none{% endfor %}",
    "{% for i in [] %}x{% else %}empty{% endfor %}",
    "{% for i in nosuch %}x{% else %}empty{% endfor %}",
    "{% for i in none %}x{% endfor %}",
    "{% for i in 5 %}x{% endfor %}",
    "{% for c in s %}{{ c }}.{% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d|dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d %}{{ k }}{% endfor %}",
    "{% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for i in range(10) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in range(5) %}{% if i == 3 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in range(3) %}{% for j in range(3) %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}",
    "{% for i in range(3) %}{{ loop.index }}{% for j in 'ab' %}{{ loop.index }}{% endfor %}{{ loop.last }}{% endfor %}",
    "{% for i in [1, [2, [3]]] recursive %}{% if i is iterable %}({{ loop(i) }}){% else %}{{ i }}{{ loop.depth }}{% endif %}{% endfor %}",
    "{% for i in range(2) %}{% set outer = loop %}{% for j in range(2) %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}",
    "{% for m in messages %}{{ loop.index0 }}{{ m.role }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for m in messages[::-1] %}{{ m.role }} {% endfor %}",
    "{% for m in messages|reverse %}{{ m.role }} {% endfor %}",
    "{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ m.role }} {% endfor %}",
    "{% for m in messages if m.role != 'system' recursive %}{{ loop.index }} {% endfor %}",
    "{{ i }}{% for i in [1] %}{% endfor %}{{ i is defined }}",
    "{% for i in [1, 2] %}{{ i }}{% endfor %}{{ loop is defined }}",
    "{% break %}",
    "{% for x in [3, 1]|sort %}{{ x }}{% endfor %}",
    "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}",
    "{% for x in (1, 2) if x %}{{ x }}{% endfor %}",
    "{% if n == 7 and s %}A{% elif n %}B{% else %}C{% endif %}",
    "{% if nosuch %}A{% elif n %}B{% else %}C{% endif %}",
    "{% if nosuch is defined and nosuch.x %}A{% else %}C{% endif %}",
    "{% if nosuch.x %}A{% endif %}",
    "{% if %}A{% endif %}",
    "{% if 1 %}A",
    "{% endif %}",
    "{% else %}",
    "{% nosuchtag %}",
    "{% for %}{% endfor %}",
    "{% for i nums %}{% endfor %}",
    "{{ }}",
    "{{",
    "{%",
    "{{ 1 }",
    "{# open",
    "{% raw %} open",
    "{% macro m(a, b=2) %}[{{ a }}{{ b }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=4, a=5) }}{{ m() }}",
    "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}{{ m(1) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(q=2) }}",
    "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}",
    "{% macro m() %}{{ caller() }}!{% endmacro %}{% call m() %}body{% endcall %}",
    "{% macro m() %}{{ caller(1, 2) }}!{% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{% endcall %}",
    "{% macro m() %}x{% endmacro %}{% call m() %}body{% endcall %}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% macro m() %}{{ s }}{{ later }}{% endmacro %}{% set later = 1 %}{{ m() }}",
    "{% macro m(x) -%}\n  {{ x }}\n{%- endmacro %}[{{ m('a') }}]",
    "{% macro m(x) %}\n  {{ x }}\n{% endmacro %}[{{ m('a') }}]",
    "{% macro m() %}{% set z = 1 %}{% endmacro %}{{ m() }}{{ z is defined }}",
    "{% macro m() %}a{% endmacro %}{{ m()|upper }}{{ m() ~ 'x' }}{{ m.name }}",
    "{% macro m() %}a{% endmacro %}{% set x = m() %}{{ x|length }}",
    "{% macro m(items) %}{% for i in items %}{{ i }}{% endfor %}{% endmacro %}{{ m([1, 2]) }}{{ m(items=(3,)) }}",
    "{{ m is defined }}{% macro m() %}{% endmacro %}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}",
    "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 3, 'b': 4}) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}",
    "{% for i in [1, 2] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% filter upper %}ab{{ 1 }}c{% endfilter %}",
    "{% filter replace('a', 'x')|upper %}abc{% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}",
    "{% with %}{% set z = 3 %}{{ z }}{% endwith %}{{ z is defined }}",
    "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}",
    "{% do nums.append(1) %}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}",
    "{% set j = joiner('|') %}{% for i in [1, 2, 3] %}{{ j() }}{{ i }}{% endfor %}",
    "{% set j = joiner() %}{{ j() }}a{{ j() }}b",
    "{{ raise_exception('Bad ' ~ n) }}",
    "{% if messages[0].role == 'system' %}{% set sys = messages[0].content %}{% set loop_messages = messages[1:] %}{% endif %}{{ sys }}{{ loop_messages|length }}",
    "{%- for message in messages -%}\n{{ '<|im_start|>' + message['role'] + '\\n' }}\n{%- endfor -%}",
    "{%- for m in messages %}\n    {%- if m.content is string %}\n        {{- m.content|trim }}\n    {%- else %}\n        {%- for c in m.content %}\n            {{- c.type }}\n        {%- endfor %}\n    {%- endif %}\n{%- endfor %}",
    "{% for t in tools %}{{ t.function.name }}: {{ t.function.description|e }}\n{% for k, v in t.function.parameters.properties|items %}- {{ k }}: {{ v.type }} {{ v|tojson }}\n{% endfor %}{% endfor %}",
    "{% set x = messages[2].content %}{% if '</think>' in x %}{{ x.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') }}|{{ x.split('</think>')[-1].lstrip('\\n') }}{% endif %}",
    "{% set ns = namespace(multi_step_tool=true, last=messages|length - 1) %}{% for m in messages[::-1] %}{% set index = (messages|length - 1) - loop.index0 %}{% if ns.multi_step_tool and m.role == 'user' and m.content is string %}{% set ns.multi_step_tool = false %}{% set ns.last = index %}{% endif %}{% endfor %}{{ ns.last }}",
    "{% for tc in messages[2].tool_calls %}{% if tc.function is defined %}{% set tc = tc.function %}{% endif %}{{ tc.name }}{% for k, v in tc.arguments|items %}<{{ k }}>{{ v|tojson if v is mapping or (v is sequence and v is not string) else v|string }}{% endfor %}{% endfor %}",
    "{% set s = 'a' %}{% set s = s ~ 'b' %}{{ s }}",
    "{% set x = {'a': 1} %}{% set x = dict(x, b=2) %}{{ x }}",
    "{% set x = [] %}{% for i in [1, 2] %}{% set x = x + [i] %}{% endfor %}{{ x }}",
    "{% set items = [1] %}{{ items }}",
    "{% set loop = 5 %}{{ loop }}{% for i in [1] %}{{ loop.index }}{% endfor %}{{ loop }}",
    "{% set none = 1 %}",
    "{% set true = 1 %}",
    "{{ none }}{{ None }}{{ True }}",
    "{% set true_ = 1 %}{{ true_ }}",
    "{{ 1 if n is odd and (s is string or nosuch) else 2 }}",
    "{{ [1, 2, 3] | map('string') | join(', ') }}",
    "{{ 'a' if n else 'b' }}{{ ('x' ~ 'y') * 2 }}",
    "{% for i in range(3) -%}\n  {{ i }}\n{%- endfor %}",
    "{% for i in range(3) %}\n  {{ i }}\n{% endfor %}",
    "x\n\n{% for i in range(2) %}\n\n{{ i }}\n\n{% endfor %}\n\ny",
    "\t{% if true %}\tx\t{% endif %}\t\n",
    "  {{ 1 }}  {% if true %}  {% endif %}  \n  {% if true %}\n{% endif %}",
    "a{% if true %} {%- endif %} b",
    "a {% if true -%} \n {{ 1 }} {% endif %}\n\nb",
    "{{ 1 }}\n{{ 2 -}}\n{{ 3 }}",
    "{{- '\\n' }}\n{{ 'x' }}",
    "line {{ s }}\n{%- if t %}\n  yes\n{%- endif %}\nend\n\n",
    "{% set a %}\n  x\n{% endset %}[{{ a }}]",
    "{%set x=1%}{{x}}",
    "{{x|default(1)}}{{ x | default ( 2 ) }}",
    "{{ s\n  |upper\n  |lower }}",
    "{{ [1,\n2] }}",
    "{% if (n == 7\n and t) %}x{% endif %}",
    "{{ '''a''' }}",
    "{{ d . b }}{{ d [ 'b' ] }}",
    "{{ range(3)|list }}{{ range(2, 8, 3)|list }}",
    "{{ namespace(a=1, b='x').b }}",
    "{% set a = b = 1 %}",
    "{% set a += 1 %}",
    "{{ a := 1 }}",
    "{{ lambda x: x }}",
    "{{ [x for x in nums] }}",
    "{{ f'{n}' }}",
    "{{ n; s }}",
    "{{ n if }}",
    "{{ @ }}",
    "{{ $x }}",
    "{{ a ? b : c }}",
    "{{ a && b }}",
    "{{ !a }}",
    "{{ 'a' is in ['a'] }}{{ 'a' is not in ['a'] }}",
    "{% for i in [1] %}{% else %}x{% endfor %}|{% for i in [] %}{{ i }}{% endfor %}|",
    "{% if not (messages|length) %}a{% else %}b{% endif %}",
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ loop.index0 }}{% endif %}{% endfor %}",
    "{% set q = messages|selectattr('role', 'equalto', 'user')|list %}{{ q|length }}{{ q[0].content|trim }}",
    "{% set sys = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}{{ sys }}",
    "{% for k in {'a': 1, 'b': 2}.keys() %}{{ k }}{% endfor %}",
    "{% for v in {'a': 1, 'b': 2}.values() %}{{ v }}{% endfor %}",
    "{{ messages[2]['tool_calls'][0]['function']['arguments']['b'] }}",
    "{{ (tools[0].function.parameters.properties.items()|list)[0][0] }}",
    "{{ tools[0].function.parameters.required|join(', ') }}",
    "{{ tools[0].function.parameters.properties.a.type is string }}",
    "{% set t = tools[0] %}{{ t|tojson(indent=4)|replace('\\n', '\\n  ') }}",
    "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}",
    "{{ '\\n\\n' }}{{ '\\u003c' }}{{ '\\x3c' }}",
    "{% macro json_to_python(t) %}{% if t == 'string' %}str{% elif t == 'integer' %}int{% else %}{{ t }}{% endif %}{% endmacro %}{{ json_to_python('string') }}{{ json_to_python('x') }}",
    "{% macro rec(x, lvl=0) %}{% if x is mapping %}{% for k, v in x.items() %}{{ ' ' * lvl }}{{ k }}:{{ rec(v, lvl + 1) }}{% endfor %}{% else %}{{ x }};{% endif %}{% endmacro %}{{ rec(d) }}",
    "{%- macro m(x) -%}{%- set y = x|upper -%}{{- y -}}{%- endmacro -%}{{- m('a') -}} b",
    "{% set content %}{% for c in [1, 2] %}{{ c }}{% endfor %}{% endset %}{{ content }}",
    "{{ messages | length > 3 }}{{ messages|length - 1 }}{{ -messages|length }}",
    "{{ 'a' ~ ('b' if false) ~ 'c' }}",
    "{{ nums[:2] + nums[-2:] }}{{ nums[1:-1] }}",
    "{% if 'x' in nosuch|default([]) %}a{% else %}b{% endif %}",
    "{% if d.C and d.C.x and not d.C.y %}ok{% endif %}",
    "{% for p in people|groupby('age') %}{{ p.grouper }}{{ p.list|length }}{{ p[0] }}{% endfor %}",
    "{% for age, ps in people|groupby('age') %}{{ age }}:{{ ps|map(attribute='name')|join(',') }};{% endfor %}",
    "{% for row in nums|batch(2) %}{{ row|join }}/{% endfor %}",
    "{% call nosuch() %}x{% endcall %}",
    "{% if true %}{% elif %}{% endif %}",
    "{% if true %}{% endfor %}",
    "{% for i in [1] %}{% endif %}",
    "{% macro %}{% endmacro %}",
    "{% set %}",
    "{% set 1 = 2 %}",
    "{% raw %}{% endraw %}",
    "{%- raw %} x {% endraw -%} y",
    "{{ loop }}",
    "{{ d['a'][0] if 'a' in d else 'no' }}",
    "{{ (d.get('C') or {}).get('x', 'no') }}{{ (d.get('Q') or {}).get('x', 'no') }}",
    "{{ d.get('C', {}).get('zz', 'no') }}",
    "{% set _ = 1 %}{{ _ }}",
    "{% set ns = namespace(x=none) %}{% if ns.x is none %}n{% endif %}{% set ns.x = 'v' %}{{ ns.x }}",
    "{% set ns = namespace(x=0) %}{% macro inc() %}{% set ns.x = ns.x + 1 %}{% endmacro %}{{ inc() }}{{ inc() }}{{ ns.x }}",
    "{% for i in range(2) %}{% for m in messages %}{% if loop.first %}{{ i }}{{ m.role }}{% endif %}{% endfor %}{% endfor %}",
    "{% if s.startswith('Hel') and s[-1:] == 'd' %}ok{% endif %}",
    "{{ s[:-1] }}{{ s[-3:-1] }}",
    "{{ ' '.join(s.split()[::-1]) }}",
    "{{ 'yes' if s is string and s|length > 3 else 'no' }}",
    "{%- if tools %}\n{{- 'T' }}\n{%- for t in tools %}\n{{- '\\n' }}\n{{- t | tojson }}\n{%- endfor %}\n{%- endif %}\n",
    "{% if messages[0].role != 'system' %}{{ raise_exception('x') }}{% endif %}ok",
    "{% set p = {'type': 'array', 'items': {'type': 'string'}} %}{{ p['items']['type'] }}{{ p.items is mapping }}{{ p.type }}{{ p['items'] is mapping }}",
    "{% set p = {'get': 1, 'keys': 2} %}{{ p['get'] }}{{ p['keys'] }}{{ p.get('keys') }}",
    "{% macro ts(p, req, nullable=false) -%}\n{%- if p.type == 'array' -%}\n{%- if p['items'] -%}\n{{ ts(p['items'], req) }}[]\n{%- else -%}\nany[]\n{%- endif -%}\n{%- elif p.type is defined and p.type is iterable and p.type is not string and p.type is not mapping and p.type[0] is defined -%}\n{{ p.type | join(' | ') }}\n{%- elif p.enum -%}\n\"{{ p.enum|join('\" | \"') }}\"\n{%- else -%}\n{{ p.type }}{{ ' | null' if nullable }}\n{%- endif -%}\n{%- endmacro -%}\n{{ ts({'type': 'array', 'items': {'type': 'string', 'enum': ['a', 'b']}}, []) }} {{ ts({'type': ['a', 'b']}, []) }} {{ ts({'type': 'x'}, [], nullable=true) }}",
    "{% for param_name, param_spec in tools[0].function.parameters.properties.items() %}// {{ param_spec.description }}\n{{ param_name }}{% if param_name not in (tools[0].function.parameters.required or []) %}?{% endif %}: {{ param_spec.type }}{% if param_spec.default is defined %}{{ param_spec.default }}{% endif %}{% if not loop.last %},\n{% else %}\n{% endif %}{% endfor %}",
    "{%- set ns = namespace(is_first=false, is_tool=false, system_prompt='', is_first_sp=true) %}{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}{{ ns.system_prompt }}",
    "{% for m in messages %}{% if not loop.last and messages[loop.index0 + 1].role == 'tool' %}T{{ loop.index0 }}{% endif %}{% if loop.index0 > 0 and messages[loop.index0 - 1].role == 'user' %}U{{ loop.index0 }}{% endif %}{% endfor %}",
    "{% for m in messages %}{% if loop.previtem is defined and loop.previtem.role == 'system' %}S{% endif %}{% if loop.nextitem is defined and loop.nextitem.role == 'tool' %}N{% endif %}{% endfor %}",
    "{% for m in messages %}{% if loop.previtem and loop.previtem.role == 'system' %}S{% endif %}{% endfor %}",
    "{{ messages | map(attribute='role') | unique | list }}{{ messages | map(attribute='role') | list | length }}",
    "{{ messages | selectattr('content', 'string') | map(attribute='content') | map('trim') | join('|') }}",
    "{{ messages[4].content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join }}",
    "{{ messages[4].content | map(attribute='text') | list }}",
    "{{ messages[4]['content'] | selectattr('text', 'defined') | list | length }}",
    "{% set tool_calls = messages[0].tool_calls or [] %}{{ tool_calls | length }}",
    "{% if messages[0].tool_calls %}a{% endif %}{% if messages[2].tool_calls is defined and messages[2].tool_calls is not none and messages[2].tool_calls|length > 0 %}b{% endif %}",
    "{% if 'tool_calls' in messages[2] and messages[2]['tool_calls'] %}a{% endif %}",
    "{% if messages[0]['tool_calls'] is not defined %}a{% endif %}",
    "{% set enable_thinking = enable_thinking if enable_thinking is defined else false %}{{ enable_thinking }}",
    "{% set enable_thinking = enable_thinking | default(true) %}{{ enable_thinking }}",
    "{% if enable_thinking is defined and enable_thinking is false %}x{% else %}y{% endif %}",
    "{% if (enable_thinking is undefined or enable_thinking) and add_generation_prompt is not defined %}x{% endif %}",
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ add_generation_prompt }}",
    "{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools is none }}",
    "{% if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = 'D' %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}{{ date_string }}",
    "{{ 'a' if 'b' in 'abc' and not 'x' in 'abc' else 'c' }}",
    "{{ (messages[0].content if messages[0].content is string else messages[0].content[0].text) | trim }}",
    "{%- set content = messages[2].content %}{%- set reasoning = '' %}{%- if '</think>' in content %}{%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}{{ reasoning }}|{{ content }}",
    "{%- if content is defined %}a{%- endif %}{{ content }}",
    "{{ '<tool_call>\\n{\"name\": \"' + messages[2].tool_calls[0].function.name + '\", \"arguments\": ' }}{{ messages[2].tool_calls[0].function.arguments | tojson }}{{ '}\\n</tool_call>' }}",
    "{% set args = messages[2].tool_calls[0].function.arguments %}{% for k in args %}{{ k }}={{ args[k] }};{% endfor %}{% for k in args|sort %}{{ k }}={{ args[k] }};{% endfor %}",
    "{% for k, v in messages[2].tool_calls[0].function.arguments|dictsort %}{{ k }}:{{ v if v is string else v|tojson }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for k, v in {'a': true, 'b': 1, 'c': 'x', 'd': none, 'e': [1], 'f': {'g': 1}}.items() %}{{ 's' if v is string else 'b' if v is boolean else 'n' if v is number else 'm' if v is mapping else 'l' if v is iterable else '0' }}{% endfor %}",
    "{{ {'a': true, 'b': none}|string }}{{ {'a': true}|tojson }}",
    "{{ '\\n'.join(['a', 'b']) }}{{ ['a', 'b']|join('\\n') }}",
    "{% set parts = [] %}{% for m in messages %}{% set parts = parts + [m.role] %}{% endfor %}{{ parts }}",
    "{% set ns = namespace(parts=[]) %}{% for m in messages %}{% set ns.parts = ns.parts + [m.role] %}{% endfor %}{{ ns.parts | join(',') }}",
    "{% set _ = messages.append({'role': 'x'}) %}",
    "{% set _ = d.update({'a': 1}) %}",
    "{% set ns = namespace(found=false) %}{% for m in messages %}{% if m.role == 'tool' and not ns.found %}{% set ns.found = true %}{{ loop.index }}{% endif %}{% endfor %}{{ ns.found }}",
    "{% set last = messages | last %}{% set first = messages | first %}{{ first.role }}{{ last.content | length }}",
    "{% set user = messages | selectattr('role', 'equalto', 'user') | list %}{{ user[-1].content[0].text }}{{ (user | first).content | trim }}",
    "{% set n2 = n %}{% for i in range(n2, 0, -2) %}{{ i }}{% endfor %}",
    "{% for i in range(messages|length - 1, -1, -1) %}{{ messages[i].role[0] }}{% endfor %}",
    "{% for chunk in s|batch(4) %}{{ chunk|join }}/{% endfor %}",
    "{% for line in 'a\\nb\\n'.split('\\n') %}[{{ line }}]{% endfor %}{% for line in 'a\\nb\\n'.splitlines() %}[{{ line }}]{% endfor %}",
    "{% for x in s.split(',')|map('trim')|reject('equalto', '')|list %}{{ x }};{% endfor %}",
    "{% if s|length > 5 and s[0:5] == 'Hello' and s[-1] == 'd' %}ok{% endif %}",
    "{% macro a(x) %}{{ x }}{% endmacro %}{% macro b(x) %}{{ a(x) ~ a(x) }}{% endmacro %}{{ b('q') }}{{ b(b('r')) }}",
    "{% macro tool(t, i=0) -%}{{ '  ' * i }}{{ t.function.name }}{%- endmacro %}{% for t in tools %}{{ tool(t, 1) }}{{ tool(t, i=2) }}{{ tool(i=1, t=t) }}{% endfor %}",
    "{% macro m(c, wrap=true) %}{% if c is string %}{{ c }}{% elif c is iterable %}{% for i in c %}{{ i.text if i.type == 'text' else '<img>' }}{% endfor %}{% endif %}{% endmacro %}{% for msg in messages %}{{ m(msg.content)|trim }}/{% endfor %}",
    "{%- macro m() -%}\n\n  x  \n\n{%- endmacro -%}\n\n[{{ m() }}]\n",
    "{% set x = m() if m is defined else 'no' %}{{ x }}",
    "{% set f = none %}{% if f %}{{ f() }}{% endif %}ok",
    "{% call(x) m2() %}{{ x }}{% endcall %}",
    "{% macro outer() %}{% macro inner() %}i{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}{{ inner is defined }}",
    "{% set x = 1 %}{% macro m() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ m() }}",
    "{% for x in [1] %}{% set y = x %}{% if true %}{% set y = 5 %}{% endif %}{{ y }}{% endfor %}",
    "{% set x = 0 %}{% for i in [1, 2] %}{{ x }}{% set x = i %}{{ x }}{% endfor %}{{ x }}",
    "{% with x = 1 %}{% for i in [1] %}{{ x }}{% endfor %}{% endwith %}",
    "{% for i in [1, 2] %}{% for j in [1, 2] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for i in [[1, 2], [3]] %}{% for j in i %}{{ j }}{{ '' if loop.last else ',' }}{% endfor %};{% endfor %}",
    "{% for k, g in messages|groupby('role') %}{{ k }}{{ g|length }}{% endfor %}",
    "{% if tools is iterable and tools|length > 0 %}a{% endif %}{% if tools is not none and tools %}b{% endif %}",
    "{% for t in tools %}{% set t = t.function if t.function is defined else t %}{{ t.name }}{{ t.parameters.properties|length }}{% endfor %}",
    "{% for t in tools %}{{- '{\"type\": \"function\", \"function\": ' }}{{- t.function | tojson(indent=4) | indent(2) }}{{- '}' }}{% endfor %}",
    "{% for t in tools %}{{ t | tojson(indent=2) | replace('\\n', '\\n    ') | trim }}{% endfor %}",
    "{% set j = {'a': {'b': [1, {'c': 'é'}]}} %}{{ j | tojson }}{{ j | tojson(indent=1) }}{{ j | tojson(separators=(',', ': '), indent=2) }}",
    "{{ [{'a': 1}, {'a': 2}] | map(attribute='a') | map('string') | join('+') }}",
    "{{ ['x', 'y'] | map('upper') | list | tojson }}",
    "{{ {'b': 1, 'a': 2} | dictsort | map('first') | join }}{{ {'b': 1, 'a': 2} | items | list }}",
    "{{ '%02d:%02d' % (5, 7) }}{{ '%s' | format('x') }}{{ '%.1f%%' % 12.34 }}",
    "{{ 1 }}{{ '1' }}{{ 1.0 }}{{ 1 ~ '' }}{{ '1' | int + 1 }}",
    "{{ 5 / 2 }}{{ 4 / 2 }}{{ 5 // 2 }}{{ (4 / 2) | int }}{{ 2 ** 3 }}{{ 10 % 4 }}",
    "{{ 1 < 2 and 2 < 3 or false }}{{ not (1 > 2) }}{{ 1 != 2 }}",
    "{{ messages[0]['role'] == 'system' and messages[0]['content'] != '' }}",
    "{{ messages[10] is defined }}{{ messages[10].role is defined }}",
    "{{ messages[10]['role'] }}",
    "{{ messages[0].foo.bar }}",
    "{{ messages[0].foo is defined and messages[0].foo.bar }}",
    "{{ messages[0].foo | default('x') }}{{ (messages[0].foo or {}).bar | default('y') }}",
    "{{ messages[0].foo ~ 'x' }}{{ messages[0].foo }}",
    "{{ messages[0].foo + 'x' }}",
    "{{ 'x' + messages[0].foo }}",
    "{{ 'x' + none }}",
    "{{ 'x' + 1|string }}{{ 'x' ~ 1 }}",
    "{{ messages[0].content.foo }}{{ messages[0].content.strip }}",
    "{{ messages[0].foo | length }}{{ messages[0].foo | list }}{{ messages[0].foo | trim }}|{{ messages[0].foo | upper }}|{{ messages[0].foo | string }}",
    "{{ none | trim }}|{{ none | upper }}|{{ 5 | trim }}|{{ [1] | trim }}|{{ none | length if none else 0 }}",
    "{{ none | list }}",
    "{{ none | join }}",
    "{{ none | first }}",
    "{{ 5 | join }}",
    "{{ 5 | replace('5', '6') }}{{ none | replace('o', '0') }}",
    "{{ 'a' | replace(1, 2) }}",
    "{{ 'a1' | replace('1', 2) }}",
    "{{ 'ab'.replace('a', none) }}",
    "{{ 'a'.join(none) }}",
    "{{ s.strip(1) }}",
    "{{ s.split(1) }}",
    "{{ s.split(',', 'x') }}",
    "{{ s.upper(1) }}",
    "{{ s | upper(1) }}",
    "{{ s.startswith() }}",
    "{{ s.replace('a') }}",
    "{{ d.get() }}",
    "{{ d.items(1) }}",
    "{{ range() }}",
    "{{ range('a') }}",
    "{{ range(1, 10, 0) }}",
    "{{ raise_exception() }}",
    "{{ s is divisibleby }}",
    "{{ s is in }}",
    "{{ n is divisibleby(0) }}",
    "{{ 'ab' in ['ab', 'c'] }}{{ 'a' in ['ab'] }}{{ 'a' in ('a',) }}",
    "{{ true in [1] }}{{ 1 in {1: 2} }}{{ 1.0 in {1: 2} }}",
    "{{ {1: 'a', '1': 'b'}[1] }}{{ {1: 'a', '1': 'b'}['1'] }}{{ {true: 'x'}[1] }}",
    "{{ {'a': 1, 'a': 2} }}",
    "{{ [1, 2, 3][-4:] }}{{ [1, 2, 3][5:] }}{{ 'abc'[-2] }}",
    "{{ (1, 2)[0] }}{{ ((1, 2), 3) }}{{ () is sequence }}",
    "{% set a, b = 'x=y'.split('=') %}{{ a }}{{ b }}",
    "{% set a, b = 'xy' %}{{ a }}{{ b }}",
    "{% set a, b = {'p': 1, 'q': 2} %}{{ a }}{{ b }}",
    "{% for a, b in [[1, 2, 3]] %}{% endfor %}",
    "{% for a, b in [1] %}{% endfor %}",
    "{# a {# b #} c",
    "{#- a -#}\n{#+ b #}",
    "{{ '{#' }}{{ '#}' }}",
    "{% if '%}' == '%}' %}x{% endif %}",
    "{% set x = '{{ y }}' %}{{ x }}",
    "a{{ '' }}\n{{ '' }}\nb\n",
    "   {% set x = 1 %}   \n   y",
    "   {%- set x = 1 -%}   \n   y",
    "   {{ 'x' }}   \n   {% set y = 1 %}\n   {# c #}\n   z",
    "{% if true %}\n\n\nx{% endif %}\n\n\n",
    "{%- if true %}\n    {{- 'a' }}\n{%- else %}\n    {{- 'b' }}\n{%- endif %}\n",
    "{%- if true -%}\n    {{ 'a' }}\n{%- endif -%}\n\n\nend",
    "<|im_start|>{{ 'a' }}<|im_end|>\n{% if true %}<|im_start|>\n{% endif %}",
    "{% for m in messages %}\n<|{{ m.role }}|>\n{% endfor %}\n<|end|>\n",
    "{% for m in messages -%}\n<|{{ m.role }}|>\n{% endfor -%}\n<|end|>\n",
    "{%- for m in messages %}\n  {%- if m.role == 'user' %}\n    {{- '[INST] ' ~ 'q' ~ ' [/INST]' }}\n  {%- elif m.role == 'assistant' %}\n    {{- ' ' + m.content.split('</think>')[-1]|trim + eos_token }}\n  {%- endif %}\n{%- endfor %}",
    "\ufeffx{{ 1 }}",
    "日本{{ '語' }}\n{% if true %}\n🙂\n{% endif %}",
    "{{ '▁a'.replace('▁', ' ') }}{{ '｜'|length }}{{ '<｜tool▁calls▁begin｜>' }}",
    "{{ \"it's\" }}{{ 'say \"x\"' }}{{ 'it\\'s' }}{{ \"a\\\\b\" }}{{ 'a\\/b' }}{{ 'tab\\t.' }}",
    "{{ '\\u00e9\\x41\\101\\0' | length }}{{ '\\U0001F600' }}{{ 'a\\\nb' }}",
    "{{ \"multi\nline\" }}",
    "{{ 00 }}",
    "{{ 1.e3 }}",
    "{{ 1..2 }}",
    "{{ .5 }}",
    "{{ 1_0.5_0 }}",
    "{{ a.b.c is defined }}",
    "{{ a is defined and a.b is defined }}",
    "{% if a is defined and a.b == 1 %}x{% else %}y{% endif %}",
    "{{ [1, 2, 3] | sum / 3 }}{{ [1, 2] | length * 2 }}",
    "{{ s | length is gt 3 }}{{ s | length == 12 }}{{ 3 < s | length }}",
    "{{ -1 | abs }}{{ (-1) | abs }}{{ 2 + 3 | string ~ 'x' }}",
    "{{ not n == 7 }}{{ not n is odd }}{{ n is not odd or n }}",
    "{{ 1 if 2 if 0 else 3 }}",
    "{{ 'a' in 'b' in 'c' }}",
    "{{ 1 in [1] == true }}",
    "{{ d.a[-1] }}{{ d.a|last }}{{ d['a']|first }}{{ d.C.x.upper() }}",
    "{{ people | map(attribute='at') | map(attribute='city') | join(',') }}",
    "{{ people | sort(attribute='name') | map(attribute='name') | list }}{{ people | sort(attribute='age', reverse=True) | map(attribute='name') | first }}",
    "{{ people | selectattr('age', 'ge', 30) | map(attribute='name') | list }}{{ people | rejectattr('at.city', 'eq', 'X') | map(attribute='name') | list }}",
    "{{ people | max(attribute='name') }}",
    "{{ dict(d, **{'z': 1}) | length }}{{ dict(a=1, **{'b': 2}) }}{{ namespace(**{'q': 5}).q }}",
    "{{ dict(d.items()) == d }}{{ dict(d.items()|list)|length }}",
    "{% if messages[1].role == 'user' %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}ok",
]


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: "now"
    return env


def row(env, source):
    try:
        return {"source": source, "output": env.from_string(source).render(**GLOBALS)}
    except Exception as e:
        return {"source": source, "error": f"{type(e).__name__}: {e}"}


def main():
    env = environment()
    sources = ["{{ " + line + " }}" for line in EXPRESSIONS.strip("\n").split("\n")] + TEMPLATES
    rows = [row(env, source) for source in sources]
    # Addresses and the words of messages are no one's business.
    rows = [r for r in rows if " at 0x" not in r.get("output", "")]
    print(json.dumps({"globals": GLOBALS, "rows": rows}, indent=1))


main()
