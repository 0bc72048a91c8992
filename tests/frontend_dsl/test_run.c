/* What programs do with states and one model: texts, gens, variables, counts. */
#include "run_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
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

static void a_program_without_a_model_returns_its_value(void **state)
{
    (void)state;
    must_equal(value_of_body(world, "return {1, 'two', {three = 3.5}}"),
               "[1,\"two\",{\"three\":3.5}]");
    must_equal(value_of_body(world, "return nil"), "null");
}

static void texts_gather_and_are_tokenised_once(void **state)
{
    (void)state;
    must_equal(value_of_body(world, "s:add('he', 'llo ', 3, ' ', 2.5) return s:text()"),
               "\"hello 3 2.5\"");
    must_equal(value_of_body(world, "s:add('hello '):add('world') local n = s:len()"
                                    " return n == count_tokens('hello world')"),
               "true");
}

static void a_gen_appends_what_it_returns(void **state)
{
    (void)state;
    must_equal(
        value_of_body(
            world,
            "s:add('one two three') local t = s:text()"
            " local x = s:gen{name = 'x', max_tokens = 8, temperature = 0, ignore_eos = true}"
            " return {type(x), s:text() == t .. x, s.v.x == x, #s:meta('x').tokens,"
            " s:meta('x').finish_reason}"),
        "[\"string\",true,true,8,\"length\"]");
}

static void variables_are_set_and_read(void **state)
{
    (void)state;
    must_equal(value_of_body(
                   world, "s:set('a', 1) s.v.b = {2} return {s:get('a'), s.v.b[1], s.v.c == nil}"),
               "[1,2,true]");
    must_fail(world, "return s:get('nothing')", "unknown_variable");
    must_fail(world, "s:gen{nonsense = 1}", "invalid_option");
    must_fail(world, "s:add{}", "invalid_option");
}

/* K3, and the carry of a last token that was never fed. */
static void gens_go_on_behind_each_other(void **state)
{
    (void)state;
    json_t *object =
        run_body(world, "for i = 1, 5 do s:add('question ', i, ' is this'):gen{max_tokens = 6,"
                        " ignore_eos = true} end return s:len()");
    assert_int_equal(trace_count(object), 5);
    check_counts(object);
    assert_int_equal(trace_field(object, 0, "reused"), 0);
    long n = trace_field(object, 0, "prompt") + 6;
    for (int i = 1; i < 5; i++) {
        assert_int_equal(trace_field(object, i, "reused"), n - 1);
        assert_int_equal(trace_field(object, i, "carry"), 1);
        n += trace_field(object, i, "appended") + 6;
    }
    const json_t *usage = json_object_get(object, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), 30);
    assert_int_equal(json_integer_value(json_object_get(usage, "reprefilled_tokens")), 0);
    assert_int_equal(json_integer_value(json_object_get(usage, "gens")), 5);
    json_decref(object);
}

static void a_second_run_finds_the_first_ones_pages(void **state)
{
    (void)state;
    static const char body[] = "s:add(('many words to be kept '):rep(20)):gen{max_tokens = 2, "
                               "temperature = 0} return s:text()";
    json_t *first = run_body(world, body), *second = run_body(world, body);
    assert_true(json_equal(json_object_get(first, "value"), json_object_get(second, "value")));
    const json_t *usage = json_object_get(second, "usage");
    assert_true(json_integer_value(json_object_get(usage, "cached_tokens")) >= 64);
    json_decref(first);
    json_decref(second);
}

static void a_stop_is_no_part_of_the_value(void **state)
{
    (void)state;
    /* whatever it writes, some letter comes: stop there, and see that the state is as if it had
     * never been */
    json_t *value = value_of_body(
        world, "s:add('tell me') local t = s:text()\n"
               "local x = s:copy():gen{max_tokens = 20, ignore_eos = true, temperature = 0}\n"
               "local stop = x:match('^.+([a-z][a-z])')\n"
               "local y = s:gen{name = 'y', max_tokens = 20, ignore_eos = true, temperature = 0, "
               "stop = stop}\n"
               "local z = x:sub(1, x:find(stop, 1, true) - 1)\n"
               "return {y == z, s:text() == t .. z, s:meta('y').finish_reason, "
               "s:meta('y').matched_stop == stop}");
    must_equal(value, "[true,true,\"stop\",true]");
}

/* Tokens of a stop were computed, but are none of the state's: nothing is computed twice for them.
 */
static void tokens_of_a_stop_are_not_missed(void **state)
{
    (void)state;
    json_t *object = run_body(
        world, "s:add('tell me')\n"
               "local x = s:copy():gen{max_tokens = 24, regex = '[a-z]{7,24}', temperature = 0}\n"
               "s:gen{max_tokens = 24, regex = '[a-z]{7,24}', temperature = 0, stop = x:sub(8)}\n"
               "s:add(' and then there is a good deal more of literal text to read')\n"
               "s:gen{max_tokens = 2, ignore_eos = true} return s:len()");
    const json_t *usage = json_object_get(object, "usage");
    check_counts(object);
    assert_true(trace_field(object, 2, "completion") > 8);
    assert_int_equal(json_integer_value(json_object_get(usage, "reprefilled_tokens")), 0);
    json_decref(object);
}

/* What a scope says is cut at its ends, its tokens are not. */
static void a_scope_is_no_boundary_of_tokens(void **state)
{
    (void)state;
    /* "ab" is one token */
    must_equal(value_of_body(world,
                             "s:add('a'):scope('v', function(t) t:add('b') end)\n"
                             "local n = s:len() s:add(' and '):scope('w', function(t) t:add('cd')"
                             " t:gen{max_tokens = 3, ignore_eos = true, name = 'g'} end)\n"
                             "return {s.v.v, n == count_tokens('ab'), s.v.w == 'cd' .. s.v.g}"),
               "[\"b\",true,true]");
}

static void the_stop_can_be_kept(void **state)
{
    (void)state;
    must_equal(value_of_body(
                   world,
                   "s:add('tell me') local t = s:text()\n"
                   "local x = s:copy():gen{max_tokens = 20, ignore_eos = true, temperature = 0}\n"
                   "local stop = x:match('^.+([a-z][a-z])')\n"
                   "local y = s:gen{max_tokens = 20, ignore_eos = true, temperature = 0, stop = "
                   "stop, keep_stop = true}\n"
                   "local more = s:gen{max_tokens = 3, ignore_eos = true}\n"
                   "return s:text() == t .. y .. stop .. more"),
               "true");
}

/* Also when the run is traced. */
static void meta_knows_what_a_gen_took(void **state)
{
    (void)state;
    must_equal(value_of_body(world, "s:add('x y z') local n = s:len()\n"
                                    "s:gen{name = 'v', max_tokens = 3, ignore_eos = true}\n"
                                    "local u = s:meta('v').usage\n"
                                    "return {u.prompt_tokens == n, u.reused_tokens + "
                                    "u.prefill_tokens == n, u.completion_tokens}"),
               "[true,true,3]");
}

static void the_seed_decides(void **state)
{
    (void)state;
    static const char body[] =
        "local r = {} for i = 1, 3 do r[i] = s:add('x'):gen{max_tokens = 5, temperature = 1} end"
        " r[4] = math.random(1000000) return r";
    struct run_options options = run_options_default();
    json_t *a = run_body_as(world, body, &options), *b = run_body_as(world, body, &options);
    options.seed = 8;
    json_t *c = run_body_as(world, body, &options);
    assert_true(json_equal(json_object_get(a, "value"), json_object_get(b, "value")));
    assert_false(json_equal(json_object_get(a, "value"), json_object_get(c, "value")));
    json_decref(a);
    json_decref(b);
    json_decref(c);
}

static void limits_end_runs_with_their_codes(void **state)
{
    (void)state;
    must_fail(world, "while true do end", "instruction_limit");
    must_fail(world, "local t = {} while true do t[#t + 1] = ('x'):rep(1000) end", "memory_limit");
    must_fail(world, "while true do s:add('x'):gen{max_tokens = 1} end", "context_length_exceeded");
    must_fail(world, "for i = 1, 3000 do s:copy():add('x'):gen{max_tokens = 1} end", "gen_limit");
    must_fail(world, "local k = {} for i = 1, 300 do k[i] = s:add('x'):copy() end", "branch_limit");
    must_fail(world, "local k = s for i = 1, 300 do local n = k:copy() k:release() k = n end",
              "branch_limit");
    must_fail(world, "return function() end", "bad_return_value");
    must_fail(world, "return s", "bad_return_value");
    must_fail(world, "s:release() s:add('x')", "released");
    must_fail(world, "local x = nil; return x.y", "runtime_error");
    must_fail(world,
              "table.sort({2, 1}, function() s:add('x'):gen{max_tokens = 1} return true end)",
              "yield_not_allowed");
}

static void the_budget_can_be_caught(void **state)
{
    (void)state;
    struct run_options options = run_options_default();
    options.limits.max_total_tokens = 40;
    json_t *object = run_body_as(
        world,
        "local n = 0 local ok, e\n"
        "repeat ok, e = pcall(function() s:add('word '):gen{max_tokens = 8, ignore_eos = true} end)"
        " n = n + (ok and 1 or 0) until not ok\n"
        "local again, f = pcall(s.gen, s, {max_tokens = 1})\n"
        "return {n, e.code, again, f.code}",
        &options);
    json_t *value = json_object_get(object, "value");
    assert_true(json_integer_value(json_array_get(value, 0)) >= 3);
    assert_string_equal(json_string_value(json_array_get(value, 1)), "budget_exceeded");
    assert_true(json_is_false(json_array_get(value, 2)));
    assert_string_equal(json_string_value(json_array_get(value, 3)), "budget_exceeded");
    json_decref(object);
}

static void a_stopped_run_keeps_nothing(void **state)
{
    (void)state;
    const struct run_options options = run_options_default();
    struct engine_status status;
    for (uint32_t n_steps = 0; n_steps < 12; n_steps++) {
        struct dsl_run *run =
            run_create(world,
                       "return program{main = function(s) s:add('some words'):fork(3, function(b) "
                       "b:gen{max_tokens = 500, ignore_eos = true}"
                       " end):join() end}",
                       &options);
        for (uint32_t i = 0; i < n_steps; i++) {
            assert_int_equal(dsl_run_advance(run, 1000000), DSL_RUN_BLOCKED);
            assert_true(engine_step(world->engine));
        }
        dsl_run_stop(run, "cancelled");
        assert_int_equal(run_advance(world, run), DSL_RUN_ENDED);
        assert_int_equal(dsl_run_status(run), DSL_STATUS_CANCELLED);
        dsl_run_destroy(run);
        while (engine_step(world->engine))
            ;
        engine_status(world->engine, &status);
        assert_int_equal(status.n_handles, 0);
    }
}

static void a_stopped_run_says_why(void **state)
{
    (void)state;
    static const char *const stops[][2] = {{"cancelled", "the run was cancelled"},
                                           {"deadline_exceeded", "the time of the run is over"},
                                           {"memory_limit", "the events of the run"}};
    const struct run_options options = run_options_default();
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        struct dsl_run *run = run_create(
            world, "return program{main = function(s) s:add('x'):gen{max_tokens = 90} end}",
            &options);
        assert_int_equal(dsl_run_advance(run, 1000000), DSL_RUN_BLOCKED);
        dsl_run_stop(run, stops[i][0]);
        assert_int_equal(run_advance(world, run), DSL_RUN_ENDED);
        assert_string_equal(dsl_run_error(run)->code, stops[i][0]);
        assert_non_null(strstr(dsl_run_error(run)->message, stops[i][1]));
        dsl_run_destroy(run);
    }
}

static void arguments_are_checked_and_cannot_be_changed(void **state)
{
    (void)state;
    struct run_options options = run_options_default();
    options.args = "{\"x\": {\"y\": [1, 2]}}";
    json_t *object = run_body_as(
        world, "return {a.x.y[2], (pcall(function() a.x.y[1] = 5 end)), #a.x.y}", &options);
    must_equal(json_incref(json_object_get(object, "value")), "[2,false,2]");
    json_decref(object);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_program_without_a_model_returns_its_value),
        cmocka_unit_test(texts_gather_and_are_tokenised_once),
        cmocka_unit_test(a_gen_appends_what_it_returns),
        cmocka_unit_test(variables_are_set_and_read),
        cmocka_unit_test(gens_go_on_behind_each_other),
        cmocka_unit_test(a_second_run_finds_the_first_ones_pages),
        cmocka_unit_test(a_stop_is_no_part_of_the_value),
        cmocka_unit_test(tokens_of_a_stop_are_not_missed),
        cmocka_unit_test(a_scope_is_no_boundary_of_tokens),
        cmocka_unit_test(the_stop_can_be_kept),
        cmocka_unit_test(meta_knows_what_a_gen_took),
        cmocka_unit_test(the_seed_decides),
        cmocka_unit_test(limits_end_runs_with_their_codes),
        cmocka_unit_test(the_budget_can_be_caught),
        cmocka_unit_test(a_stopped_run_keeps_nothing),
        cmocka_unit_test(a_stopped_run_says_why),
        cmocka_unit_test(arguments_are_checked_and_cannot_be_changed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
