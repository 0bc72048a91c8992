/* Forks, joins, maps, copies: who computes what, in which batch, and what comes of errors. */
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

#define GEN ":gen{max_tokens = 4, ignore_eos = true, name = 'v'}"

/* Acceptance 2: a fork computes its prefix once, to the token. */
static void a_fork_computes_its_prefix_once(void **state)
{
    (void)state;
    json_t *object =
        run_body(world, "s:add(('w '):rep(250)) local n = s:len()\n"
                        "s:fork(5, function(b, i) b:add('abc ', i)" GEN " end):join() return n");
    const long n = (long)json_integer_value(json_object_get(object, "value"));
    check_counts(object);
    assert_int_equal(trace_count(object), 6);
    assert_string_equal(trace_text(object, 0, "op"), "fork");
    assert_int_equal(trace_field(object, 0, "prefill"), n);
    for (int i = 1; i < 6; i++) {
        assert_int_equal(trace_field(object, i, "reused"), n);
        assert_int_equal(trace_field(object, i, "batch_peers"), 4);
        assert_int_equal(trace_field(object, i, "carry"), 0);
    }
    json_decref(object);
}

static void a_fork_without_new_text_feeds_the_last_token_again(void **state)
{
    (void)state;
    json_t *object = run_body(world, "s:add(('y '):rep(100)) local n = s:len()"
                                     " s:fork(5, function(b) b" GEN " end):join() return n");
    const long n = (long)json_integer_value(json_object_get(object, "value"));
    long prefill = 0;
    for (int i = 0; i < trace_count(object); i++)
        prefill += trace_field(object, i, "prefill");
    assert_int_equal(prefill, n + 5);
    check_counts(object);
    json_decref(object);
}

static void results_come_in_order(void **state)
{
    (void)state;
    must_equal(
        value_of_body(world,
                      "s:add('x ') return s:fork(4, function(b, i) b:add(i):gen{max_tokens = 6 - i,"
                      " ignore_eos = true} return i * 10 end):join()"),
        "[10,20,30,40]");
    must_equal(
        value_of_body(world, "return s:map({'a', 'b'}, function(b, item, i) return item .. i end)"),
        "[\"a1\",\"b2\"]");
    must_equal(value_of_body(world, "return parallel({3, 4}, function(x, i) return x * i end)"),
               "[3,8]");
    must_equal(value_of_body(world, "return parallel({}, function(x) return x end)"), "[]");
}

static void a_branch_has_variables_of_its_own(void **state)
{
    (void)state;
    must_equal(value_of_body(
                   world,
                   "s.v.a = 1 s.v.b = 2\n"
                   "local r = s:fork(2, function(b, i) b.v.a = b.v.a + i return b.v.a end):join()\n"
                   "return {s.v.a, r[1], r[2]}"),
               "[1,2,3]");
}

static void gather_makes_lists_of_what_changed(void **state)
{
    (void)state;
    must_equal(
        value_of_body(world,
                      "s.v.a = 1 s.v.b = 2\n"
                      "local g = s:fork(3, function(b, i) b.v.a = i * 10 if i == 2 then b.v.c = "
                      "'x' end end)\n"
                      "g:join('gather') return {s.v.a, s.v.b, s.v.c, (pcall(g[1].text, g[1]))}"),
        "[[10,20,30],2,[false,\"x\",false],false]");
}

static void concat_adopts_the_first_branch(void **state)
{
    (void)state;
    json_t *object =
        run_body(world, "s:add('a b c d e f')\n"
                        "local t = s:text() local parts\n"
                        "local g = s:fork(3, function(b, i) b:add(' part ', i, ':')" GEN " end)\n"
                        "g:join('wait') parts = {g[1]:text():sub(#t + 1), g[2]:text():sub(#t + 1), "
                        "g[3]:text():sub(#t + 1)}\n"
                        "g:join{mode = 'concat', vars = true, sep = '|'}\n"
                        "local whole = s:text() == t .. table.concat(parts, '|')\n"
                        "s:add(' end'):gen{max_tokens = 2} return {whole, #s.v.v}");
    must_equal(json_incref(json_object_get(object, "value")), "[true,3]");
    check_counts(object);
    const int last = trace_count(object) - 1;
    /* the first branch's keys and values are the parent's now */
    assert_true(trace_field(object, last, "reused") >=
                trace_field(object, 1, "prompt") + trace_field(object, 1, "completion") - 1);
    json_decref(object);
}

static void the_first_ones_stop_the_others(void **state)
{
    (void)state;
    json_t *object = run_body(
        world, "return s:add('x'):fork(4, function(b, i) b:gen{max_tokens = i == 2 and 2 or 500,"
               " ignore_eos = true} return i end):join{first = 1}");
    must_equal(json_incref(json_object_get(object, "value")), "[false,2,false,false]");
    json_decref(object);
}

static void errors_are_raised_or_kept(void **state)
{
    (void)state;
    static const char fork[] =
        "local g = s:add('x'):fork(3, function(b, i) if i > 1 then error('no ' .. i) end"
        " return b" GEN " end) ";
    char body[512];
    (void)snprintf(
        body, sizeof body,
        "%s local r = g:join{on_error = 'keep'} return {type(r[1]), r[2].code, r[3].branch}", fork);
    must_equal(value_of_body(world, body), "[\"string\",\"runtime_error\",\"0.3\"]");
    (void)snprintf(body, sizeof body, "%s return g:join()", fork);
    json_t *object = run_body(world, body);
    const json_t *error = json_object_get(object, "error");
    assert_string_equal(json_string_value(json_object_get(error, "code")), "runtime_error");
    assert_non_null(strstr(json_string_value(json_object_get(error, "message")), "no 2"));
    json_decref(object);
}

static void branches_begin_later(void **state)
{
    (void)state;
    must_equal(value_of_body(world,
                             "local g = s:add('x'):fork(2) g[1]:add('more')\n"
                             "g:run(function(b, i) return b:text() end) return {g:join(), #g}"),
               "[[\"xmore\",\"x\"],2]");
    must_equal(value_of_body(world, "local g = s:add('x'):fork(2) local r = g:join() return #r"),
               "0");
}

static void a_state_has_one_operation_at_a_time(void **state)
{
    (void)state;
    must_equal(value_of_body(world,
                             "s:add('x') local r = parallel({1, 2}, function(i)\n"
                             " local ok, e = pcall(s.gen, s, {max_tokens = 3, ignore_eos = true})\n"
                             " return ok and 'ok' or e.code end) return r"),
               "[\"ok\",\"state_busy\"]");
}

/* Also between the end of an operation and what its task does then. */
static void no_task_comes_between(void **state)
{
    (void)state;
    must_equal(value_of_body(world,
                             "s:add('x') local o = s:copy() return parallel({1, 2}, function(i)\n"
                             " if i == 2 then s:gen{max_tokens = 3, ignore_eos = true} return 'ok' "
                             "end\n"
                             " o:gen{max_tokens = 3, ignore_eos = true}\n"
                             " local ok, e = pcall(s.gen, s, {max_tokens = 3, ignore_eos = true})\n"
                             " return ok or e.code end)"),
               "[\"state_busy\",\"ok\"]");
}

static void cancelled_branches_stop(void **state)
{
    (void)state;
    must_equal(
        value_of_body(
            world,
            "local g = s:add('x'):fork(2, function(b, i) b:gen{max_tokens = i == 1 and 300 or 3,"
            " ignore_eos = true} if i == 2 then return 'done' end return 'never' end)\n"
            "g[1]:cancel() g[1]:cancel() return g:join()"),
        "[false,\"done\"]");
    must_equal(value_of_body(
                   world, "return s:add('x'):fork(2, function(b, i) if i == 1 then b:cancel() end"
                          " return i end):join()"),
               "[false,2]");
}

/* An operation of the first task's is stopped like others; the task goes on with an error. */
static void the_first_tasks_operation_can_be_cancelled(void **state)
{
    (void)state;
    json_t *object =
        run_body(world, "s:add('x'):fork(1, function() s:cancel() end)\n"
                        "local ok, e = pcall(s.gen, s, {max_tokens = 500, ignore_eos = true})\n"
                        "return {ok, e.code}");
    must_equal(json_incref(json_object_get(object, "value")), "[false,\"released\"]");
    const json_t *usage = json_object_get(object, "usage");
    assert_true(json_integer_value(json_object_get(usage, "completion_tokens")) < 60);
    json_decref(object);
}

/* Two steps after the first one has ended no other is computed any more. */
static void the_others_stop_within_two_steps(void **state)
{
    (void)state;
    json_t *object = run_body(
        world, "s:add('x'):fork(4, function(b, i) return b:add(i):gen{max_tokens = i == 3 and 5 or "
               "400, ignore_eos = true} end):join{first = 1}");
    const json_t *usage = json_object_get(object, "usage");
    const long made = (long)json_integer_value(json_object_get(usage, "completion_tokens"));
    /* the fixture steps once more while the run is blocked by requests that end */
    assert_true(made >= 4 * 5 && made <= 5 + 3 * (5 + 2));
    json_decref(object);
}

/* What a branch has started ends with it. */
static void branches_of_cancelled_branches_stop(void **state)
{
    (void)state;
    json_t *object = run_body(
        world, "local r = s:add('x'):fork(2, function(b, i)\n"
               " if i == 2 then b:gen{max_tokens = 3, ignore_eos = true} return 'first' end\n"
               " return b:fork(3, function(c) c:gen{max_tokens = 500, ignore_eos = true} "
               "end):join() end):join{first = 1}\n"
               "s:gen{max_tokens = 2, ignore_eos = true} return r");
    must_equal(json_incref(json_object_get(object, "value")), "[false,\"first\"]");
    const json_t *usage = json_object_get(object, "usage");
    assert_true(json_integer_value(json_object_get(usage, "completion_tokens")) < 60);
    json_decref(object);
}

static void who_waits_for_himself_fails(void **state)
{
    (void)state;
    must_fail(world, "local g g = s:fork(1, function(b) g:join() end) g:join()", "state_busy");
    must_fail(
        world,
        "local g, h g = s:fork(1, function() h:join() end) h = s:fork(1, function() g:join() end)"
        " s:add('x'):gen{max_tokens = 1} g:join{} ",
        "state_busy");
}

/* Values of branches depend on nothing but the seed and their place. */
static void values_do_not_depend_on_siblings(void **state)
{
    (void)state;
    json_t *a = value_of_body(
        world, "s:add('seed ') return s:fork(4, function(b, i) return {b:add(i):gen{max_tokens = 6,"
               " temperature = 1}, math.random()} end):join()");
    json_t *b = value_of_body(
        world,
        "s:add('seed ') local g = s:fork(4) local r = {}\n"
        "for i = 4, 1, -1 do r[i] = g[i]:add(i):gen{max_tokens = 6, temperature = 1} end return r");
    for (size_t i = 0; i < 4; i++)
        assert_true(json_equal(json_array_get(json_array_get(a, i), 0), json_array_get(b, i)));
    json_decref(a);
    json_decref(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fork_computes_its_prefix_once),
        cmocka_unit_test(a_fork_without_new_text_feeds_the_last_token_again),
        cmocka_unit_test(results_come_in_order),
        cmocka_unit_test(a_branch_has_variables_of_its_own),
        cmocka_unit_test(gather_makes_lists_of_what_changed),
        cmocka_unit_test(concat_adopts_the_first_branch),
        cmocka_unit_test(the_first_ones_stop_the_others),
        cmocka_unit_test(errors_are_raised_or_kept),
        cmocka_unit_test(branches_begin_later),
        cmocka_unit_test(a_state_has_one_operation_at_a_time),
        cmocka_unit_test(no_task_comes_between),
        cmocka_unit_test(cancelled_branches_stop),
        cmocka_unit_test(the_first_tasks_operation_can_be_cancelled),
        cmocka_unit_test(the_others_stop_within_two_steps),
        cmocka_unit_test(branches_of_cancelled_branches_stop),
        cmocka_unit_test(who_waits_for_himself_fails),
        cmocka_unit_test(values_do_not_depend_on_siblings),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
