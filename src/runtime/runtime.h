/* How a program runs: on which devices, with which packed weights and KV pages. Opened once
 * per loaded model; runtime_execute and the KV calls have one caller at a time (the engine
 * thread).
 *
 * A device that cannot be opened or loaded costs a warning, and its nodes go to others
 * (placement.h), if there are any that take them. */
#ifndef RUNTIME_RUNTIME_H
#define RUNTIME_RUNTIME_H

#include "program/adapter.h"
#include "program/program.h"
#include "runtime/memory.h"
#include "runtime/placement.h"
#include "runtime/trace.h"
#include "runtime/worker_pool.h"
#include "serverd/delegate.h"

#include <stdbool.h>

struct runtime;

struct runtime_options {
    const serverd_delegate *const *delegates; /* in order of preference */
    uint32_t n_delegates;
    const char *device, *place; /* as placement_options has them */
    struct worker_pool *pool;   /* outlives the runtime */
    const struct clock *clock;
    serverd_limits limits;
    serverd_dtype kv_dtype;
    /* Memory for KV pages, rounded down to pages; 0: what limits.max_seqs full contexts need, at
     * most a third of the device's free memory. One full context must fit. */
    uint64_t kv_bytes;
    uint64_t free_bytes; /* what counts as free there, if it is less; 0: what the device says */
    /* So many, whatever is free; 0: as kv_bytes says. */
    uint32_t n_pages, n_window_pages;
    const serverd_collective
        *collective; /* of a shard: the other ranks; NULL: programs are whole */
    /* Whether layers with a window get window pages (delegate.h), if that pays: what is left of
     * windows that have moved on is given to others. Who wants them fills the window table. */
    bool wants_window_pages;
    double window_share; /* window pages for each page; 0: found from window and context */
    /* For runtime_kv_identity: all weights are hashed while they are packed. */
    bool wants_kv_identity;
    void (*log)(void *context, int level, const char *text); /* may be NULL */
    void *log_context;
    /* Packing progress 0..1, from the calling thread; may be NULL. */
    void (*progress)(void *context, double share);
    void *progress_context;
    void (*fell_back)(void *context); /* a device will not work; may be NULL */
    void *fell_back_context;
};

/* Takes its own reference to the program. */
serverd_status runtime_open(struct program *program, const struct runtime_options *options,
                            struct runtime **out, serverd_error *err);
void runtime_close(struct runtime *runtime); /* NULL is fine */

/* What runtime_open with the same options takes of memory. Asks the devices, but packs and loads
 * nothing. */
serverd_status runtime_predict(struct program *program, const struct runtime_options *options,
                               struct runtime_memory *out, serverd_error *err);

/* Pages the pool has, 0 for encoders, and window pages, 0 if pages hold all layers; bytes of one, 0
 * if there are none; of all. */
uint32_t runtime_n_pages(const struct runtime *runtime);
uint32_t runtime_n_window_pages(const struct runtime *runtime);
uint64_t runtime_page_bytes(const struct runtime *runtime); /* of all ranks (ranks.h) together */
uint64_t runtime_window_page_bytes(const struct runtime *runtime);
uint64_t runtime_kv_total_bytes(const struct runtime *runtime);

/* Pages before the beginning of a page whose window pages a row there needs; 0: none. */
uint32_t runtime_window_span(const struct runtime *runtime);

/* What was promised to the delegate; shape and place of the output. */
const serverd_limits *runtime_limits(const struct runtime *runtime);
uint32_t runtime_output_width(const struct runtime *runtime); /* n_vocab, or n_embd */
const char *runtime_device(const struct runtime *runtime);    /* "cpu (avx512, 2 threads)" */

/* Who runs which nodes, and why; lives as long as the runtime. */
const struct placement *runtime_placement(const struct runtime *runtime);

/* What a partition of the placement takes, as its delegate plans it, and what the values take that
 * pass between partitions. SERVERD_UNSUPPORTED: the delegate does not say. */
serverd_status runtime_footprint(const struct runtime *runtime, uint32_t partition,
                                 serverd_footprint *out, serverd_error *err);
uint64_t runtime_buffer_bytes(const struct runtime *runtime);

/* A trace for this runtime. n_events: of all workers together. Any thread. */
serverd_status runtime_create_trace(const struct runtime *runtime, uint32_t n_events,
                                    uint32_t n_steps, struct trace **out, serverd_error *err);

/* From the next step on, what workers do is recorded there; NULL: nobody looks, and no time is
 * taken. The trace is one of this runtime and outlives its use. By the thread that executes. */
void runtime_set_trace(struct runtime *runtime, struct trace *or_null);

/* During steps of a device that computes alone, `fn` is called once it does, on the thread that
 * executes; never by devices that compute on that thread. By that thread. */
void runtime_set_meanwhile(struct runtime *runtime, void (*fn)(void *context), void *context);

/* One step. out [n_logit_rows][n_vocab], or [n_seqs][n_embd] for encoders. */
serverd_status runtime_execute(struct runtime *runtime, const serverd_batch *batch, float *out,
                               serverd_error *err);

/* Whether batches may have draws: the device that makes the logits says tokens. */
bool runtime_draws(const struct runtime *runtime);

/* The logits of a row of the last step of which the device has said something else: out [n_vocab].
 */
serverd_status runtime_read_logits(struct runtime *runtime, uint32_t logit_row, float *out,
                                   serverd_error *err);

/* Puts an adapter that fits the program (adapter_fits) into a slot, limits.max_adapters of them;
 * NULL: empties it. What is needed of it is copied. A batch of runtime_execute may then name the
 * slot; SERVERD_NO_ADAPTER, or an empty slot, is the base alone. After a failure the slot is empty.
 * Any thread, also beside steps whose batch does not name the slot; one slot, one thread at a time.
 * SERVERD_UNSUPPORTED: its rank is above limits.max_adapter_rank, or a device that runs one of its
 * sites takes no adapters. */
serverd_status runtime_adapter_set(struct runtime *runtime, uint32_t slot,
                                   const struct adapter *or_null, serverd_error *err);

/* As the delegate's: SERVERD_NO_PAGE leaves a half out. */
serverd_status runtime_kv_zero(struct runtime *runtime, const serverd_kv_page *pages, uint32_t n,
                               serverd_error *err);
serverd_status runtime_kv_copy(struct runtime *runtime, serverd_kv_page from, serverd_kv_page to,
                               uint32_t n_tokens, serverd_error *err);

/* The bytes of one page, runtime_page_bytes, and behind them those of its window page, if that is
 * not left out, out of the pool and into it. SERVERD_UNSUPPORTED: the delegate cannot. */
serverd_status runtime_kv_export(struct runtime *runtime, serverd_kv_page page, void *out,
                                 serverd_error *err);
/* Whether steps may run before the runtime_kv_settle behind which `out` of an export is there, and
 * that may be called while one runs (runtime_set_meanwhile); with other ranks, whose devices are
 * other threads' then, not. After an error the bytes are undefined. */
bool runtime_kv_leaves_late(const struct runtime *runtime);
serverd_status runtime_kv_settle(struct runtime *runtime, serverd_error *err);
serverd_status runtime_kv_import(struct runtime *runtime, serverd_kv_page page, const void *bytes,
                                 serverd_error *err);

/* What exported bytes are good for: they may be imported, in this process or a later one, where
 * the identity is the same. It covers weights, graph, KV spec, delegate, the arithmetic it chose
 * and the version of serverd. SERVERD_UNSUPPORTED: not wanted at open, no KV pages, or the delegate
 * cannot export. */
serverd_status runtime_kv_identity(struct runtime *runtime, uint8_t out[32], serverd_error *err);

#endif
