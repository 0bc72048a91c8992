"""Programs that nobody wants: each ends with its code, soon, and nobody else notices."""
import concurrent.futures
import os
import pathlib
import re
import time

import pytest
from conftest import Server
from programs import Failed, ask, held, main_of, metrics, number_of_runs, run, value

CPU_MS = 300
SECONDS = CPU_MS / 1000 + 10  # one, if the machine has nothing else to do


@pytest.fixture(scope="module")
def server(tiny_model):
    s = Server(tiny_model("llama"), "--ctx-size", 512, "--programs-cpu-ms", CPU_MS, "--programs-finished-ttl-s", 2)
    yield s
    assert s.stop() == 0, s.log[-3000:]


@pytest.fixture(scope="module")
def patient(tiny_model):
    """Has processor time for what is to end for want of memory, on a machine with other work, too."""
    s = Server(tiny_model("llama"), "--ctx-size", 512, "--programs-cpu-ms", 4000, "--programs-finished-ttl-s", 2)
    yield s
    assert s.stop() == 0, s.log[-3000:]


def at_load(statement):
    """The same when the text is read, not when it runs."""
    return statement + "\nreturn program{main = function() end}"


SPINS = [
    "while true do end",
    "repeat until false",
    "while true do pcall(function() while true do end end) end",
    "pcall(pcall, function() while true do end end); while true do end",
    "while true do xpcall(error, function() while true do end end) end",
    "xpcall(function() while true do end end, function() while true do end end)",
    "local t = setmetatable({}, {__index = function(t, k) while true do end end}); return t.x",
    "local t = setmetatable({}, {__index = function(t, k) return t[k + 1] end}); while true do pcall(function() return t[1] end) end",
    "local t = {} for i = 1, 100 do t[i] = i end; table.sort(t, function() while true do end end)",
    "local t = {} for i = 1, 1000 do t[i] = i end; while true do table.sort(t, function(a, b) return (a * 7919) % 1009 < (b * 7919) % 1009 end) end",
    "('a'):rep(30):find(('a?'):rep(30) .. ('a'):rep(30))",
    "local s = ('a'):rep(200000); s:match('.-.-.-.-.-b')",
    "local s = ('a'):rep(1000000); while true do s:find('ab', 1, true) end",
    "local s, p = ('a'):rep(500000), ('a'):rep(250000) .. 'b'; while true do s:find(p, 1, true) end",
    "for _ in ('a'):rep(100000):gmatch('(.-)(.-)(.-)$') do end while true do end",
    "while true do ('abc'):gsub('.', function() while true do end end) end",
    "table.move({}, 1, 1 << 40, 2, {})",
    "table.insert(setmetatable({}, {__len = function() return 1 << 40 end}), 1, 1); while true do end",
    "local t = setmetatable({}, {__len = function() return 1 << 30 end}); table.concat(t); table.unpack(t); while true do end",
    "local t = {} for i = 1, 100000 do t[i] = 0 end; while true do table.insert(t, 1, 0); table.remove(t, 1) end",
    "goto x; ::x:: goto x",
    "local function f() return f() end; return f()",
    "for i = 1, math.huge do end",
    "for _ in pairs(setmetatable({}, {__pairs = function() return function() return 1 end end})) do end; while true do end",
    "local x <close> = setmetatable({}, {__close = function() while true do end end}); while true do end",
    "while true do json.decode(json.encode({1, 2, 3})) end",
    "while true do count_tokens('hello there') end",
    "while true do tostring({}) end",
]
MEMORY = [
    "local t = {} while true do t[#t + 1] = {} end",
    "local s = 'x' while true do s = s .. s end",
    "return ('x'):rep(1e9)",
    "return ('x'):rep(1 << 62)",
    "return ('x'):rep(1e6, ('y'):rep(1000))",
    "local t = {} for i = 1, 1e9 do t[i] = tostring(i) .. ('x'):rep(1000) end",
    "local t = {('x'):rep(1e6)} for i = 1, 100 do t[i + 1] = t[i] end return #table.concat(t)",
    "while pcall(function() local t = {} while true do t[#t + 1] = {} end end) do end return 1",
    "local s = ('x'):rep(1e6) return (s:gsub('x', s))",
    "local t = {} for i = 1, 1e9 do t[i] = function() return t, i end end",
    "return string.format('%s%s%s', ('x'):rep(2e7), ('y'):rep(2e7), 1)",
]


@pytest.mark.parametrize("where,body", [(main_of, b) for b in SPINS] + [(at_load, b) for b in SPINS[:20]])
def test_endless_work_is_stopped(server, where, body):
    begin = time.monotonic()
    with pytest.raises(Failed) as e:
        run(server, where("do " + body + " end"))
    # what does not loop itself may have ended by its own fault
    assert e.value.code in ("instruction_limit", "cpu_limit") or "while true" not in body and e.value.code == "runtime_error", e.value
    assert time.monotonic() - begin < SECONDS


@pytest.mark.parametrize("body", MEMORY)
def test_endless_memory_is_refused(patient, body):
    begin = time.monotonic()
    with pytest.raises(Failed) as e:
        value(patient, body)
    assert e.value.code == "memory_limit", e.value
    assert time.monotonic() - begin < SECONDS


@pytest.mark.parametrize("body,codes", [
    ("local function f(x) return 1 + f(x) end; return f(1)", ("runtime_error", "memory_limit")),
    ("local t = setmetatable({}, {__gc = function() end})", ("runtime_error",)),
    ("local t = setmetatable({}, {}); getmetatable(t).__gc = 1; setmetatable(t, getmetatable(t))", ("runtime_error",)),
    ("local t = {} for i = 1, 1e6 do t[i] = s:fork(100) end", ("branch_limit",)),
    ("for i = 1, 1e6 do s:fork(100) end", ("branch_limit", "cpu_limit", "instruction_limit")),
    ("s:add('x') for i = 1, 1e6 do s:gen{max_tokens = 1} end", ("gen_limit", "budget_exceeded", "context_length_exceeded")),
    ("s:add('x ') for i = 1, 1e6 do s:score('a') end", ("gen_limit", "budget_exceeded", "cpu_limit")),
    ("s:release(); s:add('x')", ("released",)),
    ("local b = s:copy(); b:release(); b:gen{max_tokens = 1}", ("released",)),
    ("s:add('x') table.sort({1, 2, 3}, function() s:gen{max_tokens = 1} end)", ("yield_not_allowed",)),
    ("s:add('x'); ('abc'):gsub('.', function() s:gen{max_tokens = 1} end)", ("yield_not_allowed",)),
    ("return {0 / 0}", ("bad_return_value",)),
    ("local t = {}; t.t = t; return t", ("bad_return_value",)),
    ("return function() end", ("bad_return_value",)),
    ("return {s}", ("bad_return_value",)),
    ("return {1, a = 2}", ("bad_return_value",)),
    ("s:add('x'):gen{max_tokens = 1, nix = 2}", ("invalid_option",)),
    ("s:add('x'):gen{regex = '(', max_tokens = 1}", ("invalid_grammar",)),
    ("s:add('x'):gen{dtype = 'int', regex = 'a'}", ("invalid_grammar", "invalid_option")),
    ("s:get('nix')", ("unknown_variable",)),
    ("s:close()", ("role_nesting",)),
    ("s:open('user'):open('user')", ("role_nesting",)),
    ("call('nix', {})", ("program_not_found",)),
    ("call_tool('nix', {})", ("invalid_tool_arguments", "tool_error", "runtime_error")),
    ("s:image('x')", ("unsupported",)),
    ("error({code = 'mine', message = 'hello'})", ("mine", "runtime_error")),
    ("error()", ("runtime_error",)),
    ("error(nil)", ("runtime_error",)),
    ("error(setmetatable({}, {__tostring = function() error('x') end}))", ("runtime_error",)),
])
def test_each_fault_has_its_code(server, body, codes):
    with pytest.raises(Failed) as e:
        value(server, body)
    assert e.value.status == 422 and e.value.code in codes, e.value
    assert e.value.error["type"] == "program_error" and e.value.error["line"] in (None, 0, 2), e.value


@pytest.mark.parametrize("text,code", [
    ("\x1bLua\x54\x00", "syntax_error"), ("return " + "(" * 300 + "1" + ")" * 300, "syntax_error"), ("retur program{}", "syntax_error"),
    ("", "bad_program"), ("return 1", "bad_program"), ("return {}", "bad_program"), ("return program{}", "bad_program"),
    ("return program{main = 1}", "bad_program"), ("return program{main = function() end, nix = 1}", "bad_program"),
    ("return program{main = function() end, args = {x = 'nix'}}", "bad_program"),
    ("return program{main = function() end, args = {x = {type = 'int', nix = 1}}}", "bad_program"),
    ("return program{main = function() end, tools = {f = 1}}", "bad_program"),
    ("return program{main = function() end, limits = {nix = 1}}", "bad_program"),
    ("return program{main = function() end, doc = 5}", "bad_program"),
    ("error('at load')", "runtime_error"),
])
def test_texts_that_are_no_program_are_refused(server, text, code):
    for body in ({"source": text}, {"source": text, "run": False}, {"source": text, "stream": True}):
        status, data = ask(server, "POST", "/v1/programs", body)
        assert status in (400, 422) and data["error"]["code"] == code, data
        assert "/" not in data["error"]["message"].replace("'/'", ""), data  # no path of the host


def test_what_touches_the_outside_is_absent(server):
    names = "io os require package debug load loadstring loadfile dofile coroutine collectgarbage _VERSION".split()
    fields = "string.dump string.pack string.unpack string.packsize math.randomseed".split()
    found = value(server, f"local out = {{}} for _, n in ipairs{{{', '.join(repr(n) for n in names)}}} do if _G and _G[n] ~= nil then out[#out + 1] = n end end "
                          f"return {{out, {', '.join(f'{f} == nil' for f in fields)}, {', '.join(f'{n} == nil' for n in names if n != '_VERSION')}}}")
    assert found[0] == [] and all(found[1:]), found


def test_an_empty_string_is_repeated_at_once(server):
    assert value(server, "return {('').rep('', 1 << 62), #(''):rep(1e9), ('x'):rep(-5), ('x'):rep(3, ',')}") == ["", 0, "", "x,x,x"]


@pytest.mark.parametrize("expression", [
    "tostring({})", "tostring(print)", "tostring(s)", "string.format('%s', {})", "string.format('%p', {})", "tostring(json.null)",
    "select(2, pcall(error, {}))", "tostring(setmetatable({}, {__name = 'x'}))"])
def test_no_text_tells_an_address(server, expression):
    try:
        text = value(server, f"return tostring({expression})")
    except Failed as e:
        text = e.error["message"]
    assert not re.search(r"0x[0-9a-f]{5,}", str(text)), text


def test_metatables_of_handles_are_locked(server):
    v = value(server, "return {type(getmetatable(s)) == 'table' , pcall(setmetatable, s, {}), type(getmetatable('')) == 'table', pcall(rawset, s, 1, 2)}")
    assert v[1] is False and v[0] is False, v


def test_runs_do_not_see_each_other(server):
    """Globals, metatables of strings, library tables: each run begins with its own."""
    value(server, "x = 1; pcall(function() string.rep = nil end); pcall(function() getmetatable('').__index = nil end)")
    assert value(server, "return {x == nil, ('a'):rep(2)}") == [True, "aa"]


def test_deep_values_are_refused(server):
    assert value(server, "local t = {} for i = 1, 60 do t = {t} end return t") is not None
    with pytest.raises(Failed) as e:
        value(server, "local t = {} for i = 1, 70 do t = {t} end return t")
    assert e.value.code == "bad_return_value"
    status, data = ask(server, "POST", "/v1/programs", {"source": main_of("return 1", "args = {x = 'json'}"), "args": {"x": eval("[" * 70 + "]" * 70)}})
    assert status == 400


def rss_kb(process):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{process.pid}/status").read_text())[1])


@pytest.mark.timing
def test_a_thousand_of_them_leave_no_memory(server):
    bodies = [b for b in MEMORY if "1e9" not in b][:4] + ["error('x')", "s:fork(50); return 1", "s:add('x'):gen{max_tokens = 2}", "return ('x'):rep(1e5)"]
    sources = [main_of(b, "limits = {memory_mb = 4}") for b in bodies]
    n = number_of_runs(1000)

    def one(i):
        try:
            run(server, sources[i % len(sources)])
        except Failed:
            pass

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(200)))
        before = rss_kb(server.process)
        list(pool.map(one, range(n)))
    end = time.monotonic() + 10
    while held(server) and time.monotonic() < end:
        time.sleep(0.05)
    assert held(server) == {}
    time.sleep(3)  # until ended runs are not readable any more
    assert rss_kb(server.process) - before < 10 * 1024


@pytest.mark.timing
def test_other_clients_do_not_notice(server):
    """The times between tokens of a completion, with spinning programs on all threads and without."""
    def gaps():
        out = []
        for _ in range(20):
            begin = time.monotonic()
            status, _ = ask(server, "POST", "/v1/completions", {"prompt": "abc", "max_tokens": 100, "ignore_eos": True})
            assert status == 200
            out.append((time.monotonic() - begin) / 100)
        return sorted(out)[len(out) // 2]

    alone = gaps()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        spins = [pool.submit(lambda: pytest.raises(Failed, run, server, main_of("while true do end"))) for _ in range(8)]
        together = gaps()
        for s in spins:
            s.result()
    # as equals of the engine's threads they would take half of the processors
    assert together < max(1.8 * alone, alone + 0.002), (alone, together)
    assert metrics(server)  # which still answers


def threads(server, name):
    """(scheduling policy, processor time in ticks) of its threads of that name."""
    out = []
    for folder in pathlib.Path(f"/proc/{server.process.pid}/task").iterdir():
        if (folder / "comm").read_text().strip() == name:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            out.append((int(fields[38]), int(fields[11]) + int(fields[12])))
    return out


def test_what_computes_for_long_has_little_of_the_processor(server):
    before = sum(t for _, t in threads(server, "programs"))
    with pytest.raises(Failed):
        run(server, main_of("while true do end"))
    usual, slow = threads(server, "programs"), threads(server, "programs-slow")
    assert len(slow) == len(usual) and {policy for policy, _ in slow} == {os.SCHED_IDLE}
    assert sum(t for _, t in slow) >= 15 and sum(t for _, t in usual) - before <= 15, (usual, slow)
