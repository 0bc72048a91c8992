/* What a step of the engine takes of memory, with a real model on the CPU: while sequences decode,
 * nothing but the prefix tree's room for them, which doubles; the rest comes and goes with
 * requests.
 */
#include "base/arena.h"
#include "base/limits.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "scheduler/engine.h"
#include "support/count_memory.h"
#include "support/synthetic_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { CONTEXT = 1200, N_RUNNING = 4, CHUNK = 32, N_DECODE = 1000, N_MIXED = 100 };

/* Of a sequence's 70 pages, from 2 on; tokens and pages each time. A request that comes and ends
 * makes and frees some things of its own. */
enum { MOST_DOUBLINGS = 6, MOST_OF_REQUEST = 20 };

static serverd_error err;

static void must(serverd_status status)
{
    if (status != SERVERD_OK)
        fail_msg("%s", err.text);
}

static uint32_t n_tokens, n_ends;

static void deliver(void *context, const struct event *events, uint32_t n)
{
    (void)context;
    for (uint32_t i = 0; i < n; i++) {
        n_tokens += events[i].kind == EVENT_TOKEN;
        n_ends += events[i].kind == EVENT_END;
        free(events[i].message);
    }
}

struct world {
    struct program *program;
    struct worker_pool *pool;
    struct runtime *runtime;
    struct tokenizer *tokenizer;
    struct metrics *metrics;
    struct engine *engine;
};

static void open_world(struct world *world)
{
    world->program = synthetic_program("llama", "Q8_0");
    must(worker_pool_create(2, &world->pool, &err));
    const struct runtime_options runtime = {.delegates = builtin_delegates,
                                            .n_delegates = n_builtin_delegates,
                                            .device = "cpu",
                                            .pool = world->pool,
                                            .limits = {.max_rows = CHUNK + N_RUNNING,
                                                       .max_logit_rows = N_RUNNING,
                                                       .max_seqs = N_RUNNING,
                                                       .max_context = CONTEXT},
                                            .kv_dtype = DTYPE_BF16};
    must(runtime_open(world->program, &runtime, &world->runtime, &err));
    must(tokenizer_create(&world->program->vocabulary, &world->tokenizer, &err));
    world->metrics = metrics_create();
    const struct engine_options engine = {.runtime = world->runtime,
                                          .tokenizer = world->tokenizer,
                                          .clock = &system_clock,
                                          .metrics = world->metrics,
                                          .sink = {deliver, NULL},
                                          .context_size = CONTEXT,
                                          .max_running = N_RUNNING,
                                          .prefill_chunk = CHUNK,
                                          .has_prefix_cache = true,
                                          .max_queue = 1000,
                                          .max_queue_tokens = 100000};
    must(engine_create(&engine, &world->engine, &err));
}

static void close_world(struct world *world)
{
    engine_stop(world->engine);
    engine_destroy(world->engine);
    runtime_close(world->runtime);
    tokenizer_destroy(world->tokenizer);
    metrics_destroy(world->metrics);
    worker_pool_destroy(world->pool);
    program_unref(world->program);
}

static void submit(const struct world *world, uint32_t n_prompt, uint32_t n_new, uint32_t seed)
{
    struct request *request = request_create();
    uint64_t id;
    assert_non_null(request);
    int32_t *prompt = arena_array(request->arena, n_prompt, sizeof *prompt);
    for (uint32_t i = 0; i < n_prompt; i++)
        prompt[i] = (int32_t)(10 + (i * 7 + seed * 31) % 100);
    request->prompt = prompt;
    request->n_prompt = n_prompt;
    request->n_choices = 1;
    request->max_new_tokens = n_new;
    request->sampling.temperature = 1;
    request->sampling.ignore_eos = true;
    must(engine_submit(world->engine, request, &id, &err));
}

static void decoding_takes_next_to_nothing(void **state)
{
    (void)state;
    struct world world;
    open_world(&world);
    for (uint32_t i = 0; i < N_RUNNING; i++)
        submit(&world, 20 + i, N_DECODE + 50, i);
    for (uint32_t i = 0; i < 20; i++) /* all have begun */
        assert_true(engine_step(world.engine));
    uint64_t space = count_memory_address_space(), before = count_memory_calls();
    uint32_t tokens = n_tokens;
    for (uint32_t i = 0; i < N_DECODE; i++)
        (void)engine_step(world.engine);
    uint64_t n_calls = count_memory_calls() - before;
    assert_int_equal(n_tokens - tokens, N_DECODE * N_RUNNING);
    print_message("1000 decode steps: %llu calls\n", (unsigned long long)n_calls);
    assert_true(n_calls <= N_RUNNING * MOST_DOUBLINGS * 2);
    assert_true(count_memory_address_space() <= space + MIB);
    close_world(&world);
}

/* Requests come and end all the time. */
static void mixed_steps_take_what_requests_bring(void **state)
{
    (void)state;
    struct world world;
    open_world(&world);
    uint64_t n_calls = 0;
    n_ends = 0;
    uint32_t n_submitted = 0;
    for (uint32_t i = 0; i < N_MIXED; i++) {
        if (i % 4 == 0)
            submit(&world, 30 + i % 50, 12, 100 + n_submitted++);
        uint64_t before = count_memory_calls();
        (void)engine_step(world.engine);
        n_calls += count_memory_calls() - before;
    }
    print_message("100 mixed steps: %llu calls, %u requests came, %u ended\n",
                  (unsigned long long)n_calls, n_submitted, n_ends);
    assert_true(n_ends > 0 && n_calls <= n_submitted * MOST_OF_REQUEST);
    close_world(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoding_takes_next_to_nothing),
        cmocka_unit_test(mixed_steps_take_what_requests_bring),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
