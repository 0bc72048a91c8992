/* The real engine of src/scheduler over the virtual device and clock, stepped by its owner. One
 * thread. */
#ifndef TOOLS_BENCH_VIRTUAL_ENGINE_H
#define TOOLS_BENCH_VIRTUAL_ENGINE_H

#include "scheduler/engine.h"
#include "tools/bench/virtual_device.h"

struct virtual_engine_options {
    struct step_price price;
    uint32_t n_vocab, context_size, n_pages, max_running, prefill_chunk, max_queue;
    uint64_t max_queue_tokens, itl_target_ns, queue_timeout_ns; /* no timeout: 0 */
    double wait_bound;
    bool has_prefix_cache;
    struct event_sink sink;
};

/* Its address stays the same while it lives. */
struct virtual_engine {
    struct virtual_machine machine;
    struct clock clock;
    struct program *program;
    struct worker_pool *workers;
    struct runtime *runtime;
    struct tokenizer *tokenizer;
    struct metrics *metrics;
    struct engine *engine;
};

serverd_status virtual_engine_create(const struct virtual_engine_options *options,
                                     struct virtual_engine **out, serverd_error *err);
void virtual_engine_destroy(struct virtual_engine *engine); /* NULL is fine */

/* Everything is idle: all is in order, and all pages are free or hold what nobody uses. */
serverd_status virtual_engine_check_idle(const struct virtual_engine *engine, serverd_error *err);

#endif
