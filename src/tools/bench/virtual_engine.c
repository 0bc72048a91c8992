#include "tools/bench/virtual_engine.h"

#include "base/error.h"
#include "program/dtype.h"

#include <stdlib.h>

/* The engine takes 0 for a moment that never was. */
#define FIRST_NS UINT64_C(1000000000)

#define SPARE_LOGIT_ROWS 16u

static serverd_status open_runtime(struct virtual_engine *e, const struct virtual_engine_options *o,
                                   serverd_error *err)
{
    static const serverd_delegate *const delegates[] = {&virtual_delegate};
    const struct runtime_options options = {
        .delegates = delegates,
        .n_delegates = 1,
        .device = "virtual",
        .pool = e->workers,
        .clock = &e->clock,
        .limits = {.struct_bytes = sizeof(serverd_limits),
                   .max_rows = o->prefill_chunk + o->max_running,
                   .max_logit_rows = o->max_running + SPARE_LOGIT_ROWS,
                   .max_seqs = o->max_running,
                   .max_context = o->context_size},
        .kv_dtype = DTYPE_F32,
        .kv_bytes = (uint64_t)o->n_pages * SERVERD_PAGE_TOKENS * sizeof(int32_t),
    };
    if (o->n_pages < o->context_size / SERVERD_PAGE_TOKENS)
        return fail(err, SERVERD_INVALID,
                    "%u pages hold %u tokens: less than one context, which has %u", o->n_pages,
                    o->n_pages * SERVERD_PAGE_TOKENS, o->context_size);
    return runtime_open(e->program, &options, &e->runtime, err);
}

static serverd_status open_engine(struct virtual_engine *e, const struct virtual_engine_options *o,
                                  serverd_error *err)
{
    const struct engine_options options = {
        .runtime = e->runtime,
        .tokenizer = e->tokenizer,
        .clock = &e->clock,
        .metrics = e->metrics,
        .sink = o->sink,
        .context_size = o->context_size,
        .max_running = o->max_running,
        .prefill_chunk = o->prefill_chunk,
        .itl_target_ns = o->itl_target_ns,
        .has_prefix_cache = o->has_prefix_cache,
        .max_queue = o->max_queue,
        .max_queue_tokens = o->max_queue_tokens,
        .queue_timeout_ns = o->queue_timeout_ns,
        .wait_bound = o->wait_bound,
    };
    return engine_create(&options, &e->engine, err);
}

static serverd_status open_parts(struct virtual_engine *e, const struct virtual_engine_options *o,
                                 serverd_error *err)
{
    e->machine = (struct virtual_machine){.price = o->price, .now_ns = FIRST_NS};
    e->clock = virtual_clock(&e->machine);
    e->program = virtual_program(&e->machine, o->n_vocab);
    e->metrics = metrics_create();
    if (!e->program || !e->metrics)
        return fail(err, SERVERD_NOMEM, "no memory for a virtual engine");
    if (worker_pool_create(1, &e->workers, err) ||
        tokenizer_create(&e->program->vocabulary, &e->tokenizer, err) || open_runtime(e, o, err))
        return err->code;
    return open_engine(e, o, err);
}

serverd_status virtual_engine_create(const struct virtual_engine_options *options,
                                     struct virtual_engine **out, serverd_error *err)
{
    struct virtual_engine *e = calloc(1, sizeof *e);
    if (!e)
        return fail(err, SERVERD_NOMEM, "no memory for a virtual engine");
    serverd_status status = open_parts(e, options, err);
    if (status == SERVERD_OK)
        *out = e;
    else
        virtual_engine_destroy(e);
    return status;
}

void virtual_engine_destroy(struct virtual_engine *e)
{
    if (!e)
        return;
    engine_destroy(e->engine);
    runtime_close(e->runtime);
    tokenizer_destroy(e->tokenizer);
    metrics_destroy(e->metrics);
    worker_pool_destroy(e->workers);
    program_unref(e->program);
    free(e);
}

serverd_status virtual_engine_check_idle(const struct virtual_engine *e, serverd_error *err)
{
    struct engine_status s;
    engine_status(e->engine, &s);
    if (engine_check(e->engine, err))
        return err->code;
    if (s.n_running || s.n_waiting || s.n_waiting_tokens || s.n_free_pages != s.n_pages)
        return fail(err, SERVERD_INTERNAL,
                    "nothing is left to do, but %u requests run, %u wait, %u of %u pages are free",
                    s.n_running, s.n_waiting, s.n_free_pages, s.n_pages);
    return SERVERD_OK;
}
