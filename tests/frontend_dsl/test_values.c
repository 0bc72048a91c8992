/* Grammars, declared types, tools, programs that call others. */
#include "run_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct dsl_world *world;

static int setup(void **state)
{
    (void)state;
    world = dsl_world_create(&(struct dsl_world_options){0});
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    dsl_world_destroy(world);
    return 0;
}

static void declared_types_are_values(void **state)
{
    (void)state;
    must_equal(value_of_body(world, "s:add('x') local r = {}\n"
                                    "for i = 1, 5 do\n"
                                    " r[1] = math.type(s:gen{dtype = 'int', max_tokens = 30})\n"
                                    " r[2] = type(s:gen{dtype = 'bool', max_tokens = 10})\n"
                                    " local ok, f = pcall(s.gen, s, {dtype = 'float', max_tokens = "
                                    "60}) r[3] = ok and type(f) or 'number'\n"
                                    "end return r"),
               "[\"integer\",\"boolean\",\"number\"]");
}

/* What cannot go on ends a value, so numbers do not run to their bound. */
static void a_number_ends_where_the_model_writes_on(void **state)
{
    (void)state;
    must_equal(
        value_of_body(
            world,
            "local longest = 0 for i = 1, 20 do\n"
            " local b = s:copy():add('n', i, ' ') b:gen{name = 'v', dtype = 'int', max_tokens = "
            "30}\n"
            " longest = math.max(longest, #b:meta('v').text) b:release() end return longest < 6"),
        "true");
}

static void schemas_give_tables(void **state)
{
    (void)state;
    must_equal(value_of_body(
                   world, "s:add('x') local v = s:gen{name = 'v', max_tokens = 200, temperature = "
                          "0, json_schema = {type = 'object',\n"
                          " required = {'zeta', 'alpha'}, additionalProperties = false, properties "
                          "= {alpha = {type = 'boolean'},\n"
                          " zeta = {type = 'string', maxLength = 3}}}}\n"
                          "local t = s:meta('v').text\n"
                          "return {type(v.alpha), type(v.zeta), t:find('zeta') < t:find('alpha')}"),
               "[\"boolean\",\"string\",true]");
    json_t *object = run_body(world, "s:add('x') return s:gen{max_tokens = 200, json_schema = "
                                     "'{\"const\": {\"forced\": \"all of this text\"}}'}");
    assert_true(json_integer_value(
                    json_object_get(json_object_get(object, "usage"), "forced_tokens")) > 10);
    json_decref(object);
}

static void what_is_cut_short_is_incomplete(void **state)
{
    (void)state;
    must_equal(
        value_of_body(
            world,
            "s:add('x') local ok, e = pcall(s.gen, s, {max_tokens = 3, regex = '[a-z]{40}'})\n"
            "return {ok, e.code, type(e.detail)}"),
        "[false,\"incomplete\",\"string\"]");
    must_fail(world, "s:add('x'):gen{regex = '('}", "invalid_grammar");
    must_fail(world, "s:add('x'):gen{regex = 'a', ebnf = 'root ::= \"a\"'}", "invalid_option");
    must_fail(world, "s:add('x'):gen{dtype = 'date'}", "invalid_option");
    must_equal(
        value_of_body(world, "return s:add('x'):gen{ebnf = 'root ::= \"yes\"', max_tokens = 9}"),
        "\"yes\"");
}

/* ---- tools ----------------------------------------------------------------------------------- */

#define TOOLS                                                                                      \
    "return program{tools = {sum = {params = {x = 'int', y = {type = 'int', default = 2}}, run = " \
    "function(p) return p.x + p.y end},\n"                                                         \
    " bad = {run = function() error('broken') end}, ask = {doc = 'Ask.', params = {q = "           \
    "'string'}}},\n"                                                                               \
    " main = function(s, a) "

static json_t *run_tools(const char *body)
{
    char source[4096];
    const struct run_options options = run_options_default();
    (void)snprintf(source, sizeof source, TOOLS "%s end}", body);
    return run_source(world, source, &options);
}

static void tools_of_the_program_run_in_it(void **state)
{
    (void)state;
    json_t *object =
        run_tools("local ok, e = pcall(call_tool, 'sum', {x = 'no'}) local ok2, e2 = "
                  "pcall(call_tool, 'bad')\n"
                  "return {call_tool('sum', {x = 1}), e.code, e2.code, tool_schema('ask').type}");
    must_equal(json_incref(json_object_get(object, "value")),
               "[3,\"invalid_tool_arguments\",\"tool_error\",\"object\"]");
    json_decref(object);
}

static struct dsl_run *begin_tools(const char *body, const struct run_options *options)
{
    char source[4096];
    (void)snprintf(source, sizeof source, TOOLS "%s end}", body);
    return run_create(world, source, options);
}

static const char *call_id(const json_t *object, size_t i)
{
    const json_t *list = json_object_get(json_object_get(object, "required_action"), "tool_calls");
    return json_string_value(json_object_get(json_array_get(list, i), "id"));
}

static void external_tools_are_answered_in_any_order(void **state)
{
    (void)state;
    const struct run_options options = run_options_default();
    struct dsl_run *run = begin_tools("return s:add('x'):fork(2, function(b, i) b:gen{max_tokens = "
                                      "i} local r = call_tool('ask', {q = 'q' .. i})\n"
                                      " b:gen{max_tokens = 1} return r end):join()",
                                      &options);
    assert_int_equal(run_advance(world, run), DSL_RUN_NEEDS_TOOLS);
    json_t *object = dsl_run_object(run, false, false);
    assert_string_equal(json_string_value(json_object_get(object, "status")), "requires_action");
    json_t *one = json_pack("{s:i}", "n", 1), *two = json_string("two");
    assert_false(dsl_run_post_tool_result(run, "call_0", one, NULL));
    assert_true(dsl_run_post_tool_result(run, call_id(object, 1), two, NULL));
    assert_false(dsl_run_post_tool_result(run, call_id(object, 1), two, NULL));
    assert_int_equal(run_advance(world, run), DSL_RUN_NEEDS_TOOLS);
    assert_true(dsl_run_post_tool_result(run, call_id(object, 0), one, NULL));
    assert_int_equal(run_advance(world, run), DSL_RUN_ENDED);
    assert_false(dsl_run_post_tool_result(run, call_id(object, 0), one, NULL));
    json_t *end = dsl_run_object(run, true, true);
    must_equal(json_incref(json_object_get(end, "value")), "[{\"n\":1},\"two\"]");
    check_counts(end);
    json_decref(end);
    json_decref(object);
    json_decref(one);
    json_decref(two);
    dsl_run_destroy(run);
}

static void a_tool_may_fail_or_never_answer(void **state)
{
    (void)state;
    const struct run_options options = run_options_default();
    for (int i = 0; i < 2; i++) {
        struct dsl_run *run = begin_tools(
            "s:add('x'):gen{max_tokens = 1} local ok, e = pcall(call_tool, 'ask', {q = ''})\n"
            " s:add('y'):gen{max_tokens = 1} return {e.code, e.message}",
            &options);
        assert_int_equal(run_advance(world, run), DSL_RUN_NEEDS_TOOLS);
        json_t *object = dsl_run_object(run, false, false);
        if (i == 0) {
            assert_true(dsl_run_post_tool_result(run, call_id(object, 0), NULL, "no line"));
        } else { /* first the pins go, then the patience */
            world->now_ns = dsl_run_timer_ns(run);
            assert_int_equal(dsl_run_advance(run, 1000000), DSL_RUN_NEEDS_TOOLS);
            world->now_ns = dsl_run_timer_ns(run);
        }
        assert_int_equal(run_advance(world, run), DSL_RUN_ENDED);
        json_t *end = dsl_run_object(run, false, false);
        assert_string_equal(json_string_value(json_array_get(json_object_get(end, "value"), 0)),
                            i == 0 ? "tool_error" : "tool_timeout");
        json_decref(end);
        json_decref(object);
        dsl_run_destroy(run);
    }
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void programs_call_others(void **state)
{
    (void)state;
    static const struct named_program programs[] = {
        {"twice", "local n = 0 return program{args = {x = 'int'}, main = function(s, a) n = n + 1 "
                  "leaked = 1 s:add('in')"
                  " s:gen{name = 'own', max_tokens = 2, ignore_eos = true} return {a.x * 2, "
                  "s:text():sub(1, 2), s.v.outer == nil} end}"},
        {"deep", "return program{main = function(s) return call('deep') end}"},
        {"fails", "return program{main = function(s) error('inside') end}"},
        {NULL, NULL}};
    world->programs = programs;
    must_equal(value_of_body(
                   world,
                   "s.v.outer = 1 s:add('out') local r = call('twice', {x = 4})\n"
                   "local q = s:call('twice', {x = 5})\n"
                   "return {r, q, s.v.outer, s.v.own == nil, leaked == nil, s:text():sub(1, 5)}"),
               "[[8,\"in\",true],[10,\"ou\",true],1,true,true,\"outin\"]");
    must_fail(world, "return call('deep')", "call_depth");
    must_fail(world, "return call('nobody')", "program_not_found");
    must_fail(world, "return call('twice', {x = 'no'})", "invalid_arguments");
    must_equal(value_of_body(
                   world, "s.v.a = 1 local ok, e = pcall(s.call, s, 'fails') return {ok, s.v.a}"),
               "[false,1]");
    world->programs = NULL;
}

static void events_join_to_the_texts(void **state)
{
    (void)state;
    struct run_options options = run_options_default();
    options.wants_deltas = true;
    json_array_clear(world->events);
    json_t *object = run_body_as(
        world,
        "print('hello', 1) emit('mine', {1})\n"
        "s:add('x'):gen{name = 'v', max_tokens = 20, ignore_eos = true, stop = {'zz', 'qq'}}\n"
        "s:select{name = 'c', choices = {' a', ' b'}} s:fork(1, function(b) b:gen{max_tokens = 1} "
        "end):join()\n"
        "return s:meta('v').text",
        &options);
    char text[512] = "";
    size_t i, n_kinds = 0;
    json_t *event;
    static const char *const kinds[] = {"run.created", "log",      "custom",      "var.start",
                                        "var.delta",   "var.done", "select.done", "branch.created",
                                        "branch.done"};
    json_array_foreach(world->events, i, event)
    {
        const char *kind = json_string_value(json_object_get(event, "event"));
        if (n_kinds < sizeof kinds / sizeof *kinds && strcmp(kind, kinds[n_kinds]) == 0)
            n_kinds++; /* in this order */
        if (strcmp(kind, "var.delta") == 0)
            (void)strncat(text, json_string_value(json_object_get(event, "delta")),
                          sizeof text - strlen(text) - 1);
    }
    assert_int_equal(n_kinds, sizeof kinds / sizeof *kinds);
    assert_string_equal(text, json_string_value(json_object_get(object, "value")));
    assert_string_equal(json_string_value(json_object_get(object, "log")), "hello\t1\n");
    json_decref(object);
}

/* Items of parallel are branches, too. */
static void what_ends_was_created(void **state)
{
    (void)state;
    const struct run_options options = run_options_default();
    char path[16] = "";
    int n_done = 0;
    json_t *event;
    size_t i;
    json_array_clear(world->events);
    json_decref(run_body_as(world, "parallel({1, 2}, function() end)", &options));
    json_array_foreach(world->events, i, event)
    {
        const char *branch = json_string_value(json_object_get(event, "branch"));
        const char *kind = json_string_value(json_object_get(event, "event"));
        if (strcmp(kind, "branch.created") == 0 && n_done == 0 && !*path) {
            assert_string_equal(json_string_value(json_object_get(event, "parent")), "0");
            (void)snprintf(path, sizeof path, "%s", branch);
        }
        if (strcmp(kind, "branch.done") == 0 && n_done++ == 0)
            assert_string_equal(branch, path);
    }
    assert_int_equal(n_done, 2);
}

/* Those of all tokens, in order, with the text that they are of. */
static void deltas_have_log_probabilities(void **state)
{
    (void)state;
    struct run_options options = run_options_default();
    options.wants_deltas = true;
    json_array_clear(world->events);
    json_t *object = run_body_as(
        world,
        "s:add('x'):gen{name = 'v', max_tokens = 9, regex = '[a-z ]*', logprobs = 0}\n"
        "s:gen{name = 'w', max_tokens = 4, regex = '[a-z ]*'} return s:meta('v').logprobs",
        &options);
    json_t *sent = json_array(), *event;
    size_t i;
    json_array_foreach(world->events, i, event)
    {
        const json_t *list = json_object_get(event, "logprobs");
        const char *name = json_string_value(json_object_get(event, "name"));
        if (strcmp(json_string_value(json_object_get(event, "event")), "var.delta") != 0)
            continue;
        assert_int_equal(json_is_array(list), strcmp(name, "v") == 0);
        json_array_extend(sent, (json_t *)list);
    }
    assert_true(json_array_size(sent) > 0);
    assert_true(json_equal(sent, json_object_get(object, "value")));
    json_decref(sent);
    json_decref(object);
}

static void scopes_bind_what_was_appended(void **state)
{
    (void)state;
    must_equal(value_of_body(world, "s:add('before'):scope('part', function(t) t:add(' "
                                    "in'):gen{max_tokens = 2, ignore_eos = true} t:add('!') end)\n"
                                    "return s:text() == 'before' .. s.v.part"),
               "true");
}

static void several_choices_are_a_list(void **state)
{
    (void)state;
    must_equal(value_of_body(world, "s:add('x') local l = s:gen{n = 3, max_tokens = 4, ignore_eos "
                                    "= true, temperature = 1}\n"
                                    "return {#l, s:text() == 'x' .. l[1]}"),
               "[3,true]");
}

static void defaults_come_from_the_program_and_the_request(void **state)
{
    (void)state;
    struct run_options options = run_options_default();
    options.sampling = "{\"max_tokens\": 5, \"temperature\": 0, \"ignore_eos\": true}";
    json_t *object =
        run_source(world,
                   "return program{defaults = {max_tokens = 3}, main = function(s) s:add('x')\n"
                   " s:gen{name = 'a'} s:gen{name = 'b', max_tokens = 2}\n"
                   " return {#s:meta('a').tokens, #s:meta('b').tokens} end}",
                   &options);
    must_equal(json_incref(json_object_get(object, "value")), "[3,2]");
    json_decref(object);
}

/* ---- what the model calls itself ---------------------------------------------------------------
 */

/* A template that shows tools, in the notation of hermes, and a model held to one call of them. */
#define TOOL_TEMPLATE                                                                              \
    "{% if tools %}<|im_start|>system\n<tools>{{ tools | tojson }}</tools> <tool_call> "           \
    "</tool_call><|im_end|>\n{% endif %}"                                                          \
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"     \
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

static void calls_of_the_model_are_run(void **state)
{
    (void)state;
    struct dsl_world *kept = world;
    world = dsl_world_create(&(struct dsl_world_options){.chat_template = TOOL_TEMPLATE});
    json_t *object = run_tools("s:user('add them') local text, calls = s:assistant{tools = "
                               "{'sum'}, max_tokens = 300, temperature = 0,\n"
                               " regex = 'Well<tool_call>\\n\\\\{\"name\": \"sum\", \"arguments\": "
                               "\\\\{\"x\": 5\\\\}\\\\}\\n</tool_call>'}\n"
                               "local r = s:call_tools(calls) local m = s:messages()\n"
                               "return {text, #calls, calls[1].name, calls[1].arguments.x, r[1], "
                               "#m, m[3].role, m[3].content,"
                               " s:text():find('<tools>', 1, true) ~= nil}");
    const json_t *error = json_object_get(object, "error");
    if (!json_is_null(error))
        fail_msg("%s", json_dumps(error, 0));
    must_equal(json_incref(json_object_get(object, "value")),
               "[\"Well\",1,\"sum\",5,7,3,\"tool\",\"7\",true]");
    json_decref(object);
    object = run_tools("s:user('add them') local text, calls = s:assistant{tools = {'sum', 'ask'}, "
                       "tool_choice = 'sum', max_tokens = 300}\n"
                       "local _, any = s:user('x'):assistant{tools = {'sum', 'ask'}, tool_choice = "
                       "'required', max_tokens = 400}\n"
                       "return {text, #calls, calls[1].name, math.type(calls[1].arguments.x), "
                       "#any, type(s:call_tools(calls)[1])}");
    const json_t *e = json_object_get(object, "error");
    if (!json_is_null(e))
        fail_msg("%s", json_dumps(e, 0));
    must_equal(json_incref(json_object_get(object, "value")),
               "[\"\",1,\"sum\",\"integer\",1,\"number\"]");
    json_decref(object);
    dsl_world_destroy(world);
    world = kept;
}

static void reasoning_is_kept_apart(void **state)
{
    (void)state;
    struct dsl_world *other = dsl_world_create(&(struct dsl_world_options){
        .chat_template =
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
            "{% endif %}{# </think> #}"});
    must_equal(
        value_of_body(
            other,
            "s:user('x') local v = s:assistant{name = 'v', reasoning = 'separate', max_tokens = 40,"
            " ignore_eos = true, temperature = 1} return {v == s:meta('v').text, "
            "type(s:meta('v').reasoning)}"),
        "[true,\"string\"]");
    dsl_world_destroy(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(declared_types_are_values),
        cmocka_unit_test(a_number_ends_where_the_model_writes_on),
        cmocka_unit_test(schemas_give_tables),
        cmocka_unit_test(what_is_cut_short_is_incomplete),
        cmocka_unit_test(tools_of_the_program_run_in_it),
        cmocka_unit_test(external_tools_are_answered_in_any_order),
        cmocka_unit_test(a_tool_may_fail_or_never_answer),
        cmocka_unit_test(programs_call_others),
        cmocka_unit_test(events_join_to_the_texts),
        cmocka_unit_test(what_ends_was_created),
        cmocka_unit_test(deltas_have_log_probabilities),
        cmocka_unit_test(scopes_bind_what_was_appended),
        cmocka_unit_test(several_choices_are_a_list),
        cmocka_unit_test(calls_of_the_model_are_run),
        cmocka_unit_test(reasoning_is_kept_apart),
        cmocka_unit_test(defaults_come_from_the_program_and_the_request),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
