/* Forks of a state and what goes on behind them, with real models on the CPU: every operation has
 * the bits that the same prompt has alone, on an engine without a prefix cache. */
#include "base/arena.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "scheduler/engine.h"
#include "support/synthetic_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
    CONTEXT = 256,
    N_RUNNING = 8,
    N_FORKS = 5,
    N_TURNS = 3,
    MAX_NEW = 12,
    N_NEXT = 3,
    N_TOP = 2
};

static serverd_error err;

static void must(serverd_status status)
{
    if (status != SERVERD_OK)
        fail_msg("%s", err.text);
}

/* One request and what came of it. */
struct operation {
    int32_t prompt[CONTEXT];
    uint32_t n_prompt, n_new, seed;
    uint64_t behind;
    uint32_t n_behind; /* tokens under that handle */

    int32_t token[MAX_NEW];
    struct logprobs logprobs[MAX_NEW];
    float next[N_NEXT];
    uint32_t n_output, n_cached, n_held, n_ends;
    uint64_t handle, first_step;
};

static void deliver(void *context, const struct event *events, uint32_t n)
{
    (void)context;
    for (uint32_t i = 0; i < n; i++) {
        struct operation *op = events[i].user;
        if (events[i].kind == EVENT_TOKEN) {
            op->token[op->n_output] = events[i].token;
            op->logprobs[op->n_output++] = *events[i].logprobs;
        } else if (events[i].kind == EVENT_NEXT_LOGPROBS) {
            memcpy(op->next, events[i].next_logprobs, sizeof op->next);
        } else if (events[i].kind == EVENT_END) {
            assert_int_equal(events[i].status, SERVERD_OK);
            op->n_cached = events[i].n_cached;
            op->n_held = events[i].n_held;
            op->handle = events[i].prefix_handle;
            op->first_step = events[i].first_step;
            op->n_ends++;
        }
        free(events[i].logprobs);
        free(events[i].next_logprobs);
        free(events[i].message);
    }
}

/* One engine reuses, the other one does not. */
struct world {
    struct program *program;
    struct worker_pool *pool;
    struct tokenizer *tokenizer;
    struct runtime *runtime[2];
    struct engine *engine[2];
};

static void open_engine(struct world *world, uint32_t i, serverd_dtype kv_dtype)
{
    const struct runtime_options runtime = {.delegates = builtin_delegates,
                                            .n_delegates = n_builtin_delegates,
                                            .device = "cpu",
                                            .pool = world->pool,
                                            .limits = {.max_rows = 64 + N_RUNNING,
                                                       .max_logit_rows = N_RUNNING,
                                                       .max_seqs = N_RUNNING,
                                                       .max_context = CONTEXT},
                                            .wants_window_pages = true,
                                            .kv_dtype = kv_dtype};
    must(runtime_open(world->program, &runtime, &world->runtime[i], &err));
    const struct engine_options engine = {.runtime = world->runtime[i],
                                          .tokenizer = world->tokenizer,
                                          .clock = &system_clock,
                                          .sink = {deliver, NULL},
                                          .context_size = CONTEXT,
                                          .max_running = N_RUNNING,
                                          .prefill_chunk = 64,
                                          .has_prefix_cache = i == 0,
                                          .max_queue = 1000,
                                          .max_queue_tokens = 100000};
    must(engine_create(&engine, &world->engine[i], &err));
}

static void open_world(struct world *world, const char *arch, serverd_dtype kv_dtype)
{
    world->program = synthetic_program(arch, "Q8_0");
    must(worker_pool_create(2, &world->pool, &err));
    must(tokenizer_create(&world->program->vocabulary, &world->tokenizer, &err));
    for (uint32_t i = 0; i < 2; i++)
        open_engine(world, i, kv_dtype);
}

static void close_world(struct world *world)
{
    for (uint32_t i = 0; i < 2; i++) {
        engine_destroy(world->engine[i]);
        runtime_close(world->runtime[i]);
    }
    tokenizer_destroy(world->tokenizer);
    worker_pool_destroy(world->pool);
    program_unref(world->program);
}

static struct request *request_of(struct operation *op)
{
    static const int32_t next[N_NEXT] = {20, 57, 33};
    struct request *request = request_create();
    assert_non_null(request);
    int32_t *prompt = arena_array(request->arena, op->n_prompt, sizeof *prompt);
    memcpy(prompt, op->prompt, op->n_prompt * sizeof *prompt);
    request->user = op;
    request->prompt = prompt;
    request->n_prompt = op->n_prompt;
    request->max_new_tokens = op->n_new;
    request->sampling.temperature = 0.8f;
    request->sampling.seed = op->seed;
    request->sampling.ignore_eos = true;
    request->wants_logprobs = true;
    request->n_top_logprobs = N_TOP;
    request->next_tokens = next;
    request->n_next_tokens = N_NEXT;
    request->hold_ns = UINT64_MAX;
    request->behind = op->behind;
    return request;
}

static void run_all(struct engine *engine, struct operation *ops, uint32_t n)
{
    struct request *requests[N_FORKS];
    uint64_t ids[N_FORKS];
    for (uint32_t i = 0; i < n; i++)
        requests[i] = request_of(&ops[i]);
    must(engine_submit_all(engine, requests, n, ids, &err));
    while (engine_step(engine))
        ;
    must(engine_check(engine, &err));
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(ops[i].n_ends, 1);
}

static void must_be_as_alone(struct world *world, const struct operation *op)
{
    struct operation alone = *op;
    alone.n_output = alone.n_ends = 0;
    alone.behind = 0;
    run_all(world->engine[1], &alone, 1);
    assert_int_equal(alone.n_cached, 0);
    assert_int_equal(op->n_output, alone.n_output);
    assert_memory_equal(op->token, alone.token, op->n_output * sizeof *op->token);
    assert_memory_equal(op->logprobs, alone.logprobs, op->n_output * sizeof *op->logprobs);
    assert_memory_equal(op->next, alone.next, sizeof op->next);
}

/* What it was, its output and n_literals more: its next operation. */
static void go_on(struct operation *op, uint32_t n_literals, uint32_t seed)
{
    struct operation next = {.n_prompt = op->n_prompt, .n_new = MAX_NEW - seed % 3, .seed = seed};
    memcpy(next.prompt, op->prompt, op->n_prompt * sizeof *op->prompt);
    for (uint32_t i = 0; i < op->n_output; i++)
        next.prompt[next.n_prompt++] = op->token[i];
    for (uint32_t i = 0; i < n_literals; i++)
        next.prompt[next.n_prompt++] = (int32_t)(10 + (i * 7 + seed * 31) % 100);
    next.behind = op->handle;
    next.n_behind = op->n_held;
    *op = next;
}

static void forks(const char *arch, serverd_dtype kv_dtype, uint32_t n_base)
{
    struct world world;
    open_world(&world, arch, kv_dtype);
    struct operation base = {.n_prompt = 0}, ops[N_FORKS];
    go_on(&base, n_base, 3);
    base.n_new = 0;
    run_all(world.engine[0], &base, 1);
    assert_int_equal(base.n_held, n_base);
    must_be_as_alone(&world, &base);
    for (uint32_t i = 0; i < N_FORKS; i++)
        ops[i] = base;
    for (uint32_t turn = 0; turn < N_TURNS; turn++) {
        for (uint32_t i = 0; i < N_FORKS; i++)
            go_on(&ops[i], (turn + i) % 4 + (turn == 0), 10 * turn + i);
        run_all(world.engine[0], ops, N_FORKS);
        for (uint32_t i = 0; i < N_FORKS; i++) {
            assert_int_equal(ops[i].n_cached, ops[i].n_behind);
            assert_int_equal(ops[i].first_step, ops[0].first_step);
            must_be_as_alone(&world, &ops[i]);
        }
    }
    close_world(&world);
}

static void operations_behind_handles_have_the_bits_of_whole_prompts(void **state)
{
    static const uint32_t lengths[] = {5, 16, 37, 95};
    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        forks("llama", DTYPE_BF16, lengths[i]);
        forks("llama", DTYPE_I8, lengths[i]);
        forks("gemma3", DTYPE_BF16, lengths[i]);
        forks("qwen3", DTYPE_F16, lengths[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_behind_handles_have_the_bits_of_whole_prompts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
