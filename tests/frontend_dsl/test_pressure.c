/* Many runs at once, little memory, runs that are stopped anywhere: values are those that a run has
 * alone, and nothing stays behind. */
#include "run_fixture.h"

#include "base/limits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_RUNS = 10, N_ROUNDS = 30 };

/* Each uses another part of the language; x makes them different from each other. */
static const char *const bodies[] = {
    "s:add(('alpha beta '):rep(10), a.x) for i = 1, 5 do s:add(' go'):gen{max_tokens = 5, "
    "temperature = 1} end return s:text()",
    "s:add(('alpha beta '):rep(9)) local g = s:fork(5, function(b, i) b:add(i, a.x):gen{name = "
    "'v', max_tokens = 9, temperature = 1,"
    " ignore_eos = true} b:add(' more'):gen{max_tokens = 4} end) g:join{mode = 'concat', vars = "
    "true} return {s:text(), s.v.v}",
    "s:user('question ' .. a.x) local l = s:map({1, 2, 3}, function(b, n) b:user('n' .. n) return "
    "b:assistant{max_tokens = 6, temperature = 1} end)"
    " return {l, s:assistant{max_tokens = 4, temperature = 1}}",
    "s:add('which is it ', a.x) local c, i = s:select{choices = {' one', ' two things', ' three'}} "
    "s:gen{max_tokens = 3}"
    " return {c, i.scores, s:text()}",
    "local r = s:add('some fail ', a.x):fork(4, function(b, i) b:gen{max_tokens = 2 + 9 * i, "
    "ignore_eos = true}"
    " if i == 2 then error('no') end return b:text() end):join{on_error = 'keep'}"
    " return {r[1], r[2].code, r[4], s:add('x'):gen{max_tokens = 3, dtype = 'int'}}",
    "local b = s:add(('long '):rep(30), a.x):copy() local t = {} for i = 1, 4 do local k = "
    "b:copy() t[i] = k:add(i):gen{max_tokens = 4, temperature = 1} end"
    " return {t, b:score(' and so on').sum}",
};
enum { N_BODIES = sizeof bodies / sizeof *bodies };

static struct dsl_run *create_in(struct dsl_world *world, uint32_t number, size_t memory_bytes)
{
    char source[2048], args[32];
    struct run_options options = run_options_default();
    options.memory_bytes = memory_bytes;
    (void)snprintf(
        source, sizeof source,
        "local shift = ('x'):rep(%u)\n"
        "return program{args = {x = 'int'}, main = function(s, a) local k = shift %s end}",
        memory_bytes > 0 ? number * 197 : 1, bodies[number % N_BODIES]);
    (void)snprintf(args, sizeof args, "{\"x\": %u}", number);
    options.args = args;
    options.seed = number;
    options.rank = number;
    options.limits.tool_wait_s = 1;
    return run_create(world, source, &options);
}

static struct dsl_run *create(struct dsl_world *world, uint32_t number)
{
    return create_in(world, number, 0);
}

/* What each run has alone, in a world with room and without a cache. */
static json_t *expected[N_RUNS];

static int setup(void **state)
{
    (void)state;
    struct dsl_world *world =
        dsl_world_create(&(struct dsl_world_options){.has_no_prefix_cache = true});
    for (uint32_t i = 0; i < N_RUNS; i++) {
        struct dsl_run *run = create(world, i);
        assert_int_equal(run_advance(world, run), DSL_RUN_ENDED);
        expected[i] = dsl_run_object(run, true, false);
        dsl_run_destroy(run);
    }
    dsl_world_destroy(world);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < N_RUNS; i++)
        json_decref(expected[i]);
    return 0;
}

static uint64_t n_reprefilled; /* of all runs since the test began */

static void check_value(uint32_t number, const struct dsl_run *run)
{
    json_t *object = dsl_run_object(run, true, false);
    const json_t *found = json_object_get(object, "value");
    if (!json_equal(found, json_object_get(expected[number], "value"))) {
        char *a = json_dumps(object, 0), *b = json_dumps(expected[number], 0);
        fail_msg("run %u\n%s\nexpected\n%s", number, a, b);
    }
    json_decref(object);
}

static void check_nothing_is_left(struct dsl_world *world)
{
    struct engine_status status;
    serverd_error err;
    while (engine_step(world->engine))
        ;
    if (engine_check(world->engine, &err))
        fail_msg("%s", err.text);
    engine_status(world->engine, &status);
    assert_int_equal(status.n_handles, 0);
    assert_int_equal(status.n_running + status.n_waiting, 0);
}

/* All at once, advanced in another order each time; with `stops`, some of them are cancelled
 * anywhere. Returns how many had their value. */
static uint32_t run_all(struct dsl_world *world, uint64_t seed, bool stops)
{
    struct dsl_run *runs[N_RUNS];
    bool is_over[N_RUNS] = {false}, is_stopped[N_RUNS] = {false};
    uint32_t n_open = N_RUNS, n_values = 0;
    uint64_t dice = seed;
    for (uint32_t i = 0; i < N_RUNS; i++)
        runs[i] = create(world, i);
    for (uint32_t step = 0; n_open > 0; step++) {
        assert_true(step < 100000);
        for (uint32_t k = 0; k < N_RUNS; k++) {
            dice = dice * 6364136223846793005u + 1442695040888963407u;
            const uint32_t i = (uint32_t)(dice >> 33) % N_RUNS;
            if (is_over[i])
                continue;
            if (stops && (dice >> 40) % 200 == 0) {
                dsl_run_stop(runs[i], "cancelled");
                is_stopped[i] = true;
            }
            if (dsl_run_advance(runs[i], 20000) != DSL_RUN_ENDED)
                continue;
            n_reprefilled += dsl_run_usage(runs[i]).reprefilled_tokens;
            is_over[i] = true;
            n_open--;
            if (dsl_run_status(runs[i]) != DSL_STATUS_CANCELLED || !is_stopped[i]) {
                check_value(i, runs[i]);
                n_values++;
            }
            dsl_run_destroy(runs[i]);
        }
        world->now_ns += 1000000;
        (void)engine_step(world->engine);
    }
    check_nothing_is_left(world);
    return n_values;
}

static void values_do_not_depend_on_other_runs(void **state)
{
    (void)state;
    struct dsl_world *world = dsl_world_create(&(struct dsl_world_options){0});
    for (uint64_t seed = 0; seed < 3; seed++)
        assert_int_equal(run_all(world, seed, false), N_RUNS);
    assert_int_equal(n_reprefilled, 0);
    dsl_world_destroy(world);
}

/* Handles give way and sequences are preempted: everything is computed again, with the same values.
 */
static void values_do_not_depend_on_memory(void **state)
{
    (void)state;
    enum { MEMORY = SERVERD_PAGE_TOKENS < 16 ? 384 : 512 }; /* small pages lose less of it */
    struct dsl_world *world = dsl_world_create(&(struct dsl_world_options){
        .context = MEMORY, .n_pages = MEMORY / SERVERD_PAGE_TOKENS + 8});
    n_reprefilled = 0;
    for (uint64_t seed = 0; seed < 3; seed++)
        assert_int_equal(run_all(world, seed, false), N_RUNS);
    assert_true(n_reprefilled > 0);
    dsl_world_destroy(world);
}

/* What a full queue has no room for waits, even of one operation of many requests. */
static void values_do_not_depend_on_the_queue(void **state)
{
    (void)state;
    struct dsl_world *world = dsl_world_create(&(struct dsl_world_options){.max_queue = 2});
    for (uint64_t seed = 0; seed < 3; seed++)
        assert_int_equal(run_all(world, seed, false), N_RUNS);
    for (uint64_t seed = 0; seed < N_ROUNDS; seed++)
        (void)run_all(world, 100 + seed, true);
    dsl_world_destroy(world);
}

static void stopped_runs_leave_nothing(void **state)
{
    (void)state;
    struct dsl_world *world = dsl_world_create(
        &(struct dsl_world_options){.context = 512, .n_pages = 1024 / SERVERD_PAGE_TOKENS});
    for (uint64_t seed = 0; seed < N_ROUNDS; seed++)
        (void)run_all(world, 100 + seed, true);
    dsl_world_destroy(world);
}

/* A fork is refused, and so is what waits for its prefix: nobody waits for ever. */
static void an_engine_that_is_lost_ends_runs(void **state)
{
    (void)state;
    struct dsl_world *world = dsl_world_create(&(struct dsl_world_options){0});
    engine_stop(world->engine);
    for (uint32_t i = 0; i < N_BODIES; i++) {
        struct dsl_run *run = create(world, i);
        assert_int_equal(run_advance(world, run), DSL_RUN_ENDED);
        assert_int_equal(dsl_run_status(run), DSL_STATUS_FAILED);
        dsl_run_destroy(run);
    }
    dsl_world_destroy(world);
}

/* Lua's memory ends somewhere, in a native or out of it: the run ends with its code, and all that
 * it held is given back (which the leak sanitizer sees). */
static void memory_may_end_anywhere(void **state)
{
    (void)state;
    struct dsl_world *world = dsl_world_create(&(struct dsl_world_options){0});
    uint32_t n_ended = 0;
    for (uint32_t number = 0; number < 30 * N_BODIES; number++) {
        for (size_t kib = 48; kib <= 112; kib += 16) {
            struct dsl_run *run = create_in(world, number, kib * KIB);
            if (!run)
                continue;
            assert_int_equal(run_advance(world, run), DSL_RUN_ENDED);
            const struct dsl_error *error = dsl_run_error(run);
            if (error)
                assert_string_equal(error->code, "memory_limit");
            n_ended += error != NULL;
            dsl_run_destroy(run);
            assert_int_equal(world->lua_bytes, 0);
        }
    }
    check_nothing_is_left(world);
    assert_true(n_ended > 100);
    dsl_world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_do_not_depend_on_other_runs),
        cmocka_unit_test(values_do_not_depend_on_memory),
        cmocka_unit_test(values_do_not_depend_on_the_queue),
        cmocka_unit_test(stopped_runs_leave_nothing),
        cmocka_unit_test(an_engine_that_is_lost_ends_runs),
        cmocka_unit_test(memory_may_end_anywhere),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
