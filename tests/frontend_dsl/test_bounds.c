/* What a run may take of the machine: heap beside its Lua state, tasks, slices, its budget. */
#include "run_fixture.h"

#include "base/numeric.h"

#include <malloc.h>
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

static size_t heap_bytes(void)
{
    const struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

/* By how many MiB the heap is larger at the end of the run of such a main than before it, garbage
 * of Lua's included. */
static size_t heap_growth_mb(const char *body)
{
    char source[4096];
    struct run_options options = run_options_default();
    options.limits.cpu_ms = 60000; /* also under a sanitizer */
    (void)snprintf(source, sizeof source,
                   "return program{tools = {ask = {params = {x = 'json'}}}, main = function(s)\n"
                   "local function try(f, ...) local ok, e = pcall(f, ...) assert(not ok) end\n"
                   "%s\nend}",
                   body);
    const size_t before = heap_bytes();
    struct dsl_run *run = run_create(world, source, &options);
    assert_int_equal(run_advance(world, run), DSL_RUN_ENDED);
    json_array_clear(world->events); /* they are of the fixture, and have values of the run */
    const size_t after = heap_bytes();
    const struct dsl_error *error = dsl_run_error(run);
    if (error && strcmp(error->code, "memory_limit") != 0)
        fail_msg("%s: %s", error->code, error->message);
    dsl_run_destroy(run);
    return after > before ? (after - before) / MIB : 0;
}

static void states_that_are_released_keep_no_tokens(void **state)
{
    (void)state;
    assert_true(heap_growth_mb("s:add(('w '):rep(900)) local kept = {}\n"
                               "for i = 1, 4000 do local c = s:copy() c:release() kept[i] = c end "
                               "return #kept") < 12);
}

/* The cap is one of all that a run holds: 32 MiB. */
static void values_beside_lua_count_as_its_memory(void **state)
{
    (void)state;
    static const char list[] = "local t = {} for i = 1, 100000 do t[i] = i end\n";
    char body[1024];
    (void)snprintf(body, sizeof body, "%s for i = 1, 60 do try(s.gen, s, {logit_bias = t}) end",
                   list);
    assert_true(heap_growth_mb(body) < 48);
    (void)snprintf(body, sizeof body, "%s for i = 1, 60 do json.encode(t) end", list);
    assert_true(heap_growth_mb(body) < 48);
}

static void literal_text_counts_as_memory(void **state)
{
    (void)state;
    assert_true(heap_growth_mb("local g, text = s:fork(200), ('x'):rep(1 << 20)\n"
                               "for i = 1, 200 do g[i]:add(text) end") < 48);
}

/* Calls that nobody waits for any more. */
static void calls_of_cancelled_tasks_go(void **state)
{
    (void)state;
    assert_true(heap_growth_mb("local text = ('x'):rep(500000) s:add('x')\n"
                               "for i = 1, 200 do\n"
                               " local g = s:fork(1, function() call_tool('ask', {x = text}) end)\n"
                               " s:copy():gen{max_tokens = 1} g[1]:release() end") < 48);
}

static void tasks_are_bounded(void **state)
{
    (void)state;
    must_fail(world,
              "local list = {} for i = 1, 64 do list[i] = i end\n"
              "local function grow(d) return d == 0 or parallel(list, function() return grow(d - 1)"
              " end) end grow(3)",
              "branch_limit");
}

/* A slice ends between tasks, too: each of these is too short for the count hook. */
static void many_short_tasks_end_a_slice(void **state)
{
    (void)state;
    const struct run_options options = run_options_default();
    struct dsl_run *run =
        run_create(world,
                   "local list = {} for i = 1, 200 do list[i] = i end\n"
                   "return program{main = function() return parallel(list, function() end) end}",
                   &options);
    uint32_t n = 0;
    while (dsl_run_advance(run, 1) == DSL_RUN_AGAIN)
        n++;
    assert_true(n >= 200);
    dsl_run_destroy(run);
}

/* So is the text of the program, which may compute what it likes. */
static void a_text_that_computes_is_sliced(void **state)
{
    (void)state;
    const struct run_options options = run_options_default();
    struct dsl_run *run = run_create(
        world, "for i = 1, 100000 do end return program{main = function() end}", &options);
    uint32_t n = 0;
    while (dsl_run_advance(run, 1) == DSL_RUN_AGAIN)
        n++;
    assert_true(n >= 100);
    assert_int_equal(dsl_run_status(run), DSL_STATUS_COMPLETED);
    dsl_run_destroy(run);
}

/* A gen that could not begin leaves the budget as it was. */
static void what_was_not_begun_costs_nothing(void **state)
{
    (void)state;
    struct run_options options = run_options_default();
    options.limits.max_total_tokens = 100;
    json_t *object = run_body_as(
        world,
        "s:add('x'):copy() local left = budget_left().tokens\n"
        "local ok, e = pcall(s.gen, s, {max_tokens = 99, regex = '('})\n"
        "local same = budget_left().tokens == left\n"
        "local sorted = pcall(table.sort, {2, 1}, function() s:gen{max_tokens = 99} end)\n"
        "return {e.code, same, sorted, #s:gen{max_tokens = 4, ignore_eos = true} > 0}",
        &options);
    must_equal(json_incref(json_object_get(object, "value")),
               "[\"invalid_grammar\",true,false,true]");
    json_decref(object);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(states_that_are_released_keep_no_tokens),
        cmocka_unit_test(values_beside_lua_count_as_its_memory),
        cmocka_unit_test(literal_text_counts_as_memory),
        cmocka_unit_test(calls_of_cancelled_tasks_go),
        cmocka_unit_test(tasks_are_bounded),
        cmocka_unit_test(many_short_tasks_end_a_slice),
        cmocka_unit_test(a_text_that_computes_is_sliced),
        cmocka_unit_test(what_was_not_begun_costs_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
