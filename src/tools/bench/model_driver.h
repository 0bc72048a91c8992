/* A model under measurement: opened as the daemon opens it, driven step by step without an
 * engine. Tokens are fixed random ids; each sequence has pages of its own. One thread. */
#ifndef TOOLS_BENCH_MODEL_DRIVER_H
#define TOOLS_BENCH_MODEL_DRIVER_H

#include "runtime/runtime.h"

#include <stdbool.h>

/* Tokens begin .. begin + n - 1 of a sequence; the last one's logits if wanted. */
struct driver_slice {
    uint32_t seq, begin, n;
    bool wants_logits;
};

struct driver {
    struct program *program;
    struct worker_pool *pool;
    struct runtime *runtime;
    const serverd_delegate *delegate;
    uint32_t max_rows, max_seqs, max_context, pages_per_seq;
    /* of a step */
    int32_t *token, *position;      /* [max_rows] */
    uint32_t *row_seq, *page_table; /* [max_rows], [max_seqs][pages_per_seq] */
    uint32_t *logit_row;            /* [max_seqs] */
    float *out;                     /* [max_seqs][width] */
    struct driver_slice *slices;    /* [max_seqs] */
    uint32_t n_adapters;            /* sequence s has the one in slot s % n; 0: none has */
    uint32_t *adapter_slot;         /* [max_seqs] */
    float *adapter_scale;
    uint64_t n_steps;
};

struct driver_options {
    const char *path, *device;
    const char *program_cache; /* as program_open_options.cache has it */
    uint32_t threads, max_rows, max_seqs, max_context;
    serverd_dtype kv_dtype;
    uint32_t max_adapters, max_adapter_rank;
};

serverd_status driver_open(struct driver *driver, const struct driver_options *options,
                           serverd_error *err);
void driver_close(struct driver *driver); /* safe on a zeroed one */

/* One step; the earlier tokens of each sequence are computed. */
serverd_status driver_step(struct driver *driver, const struct driver_slice *slices, uint32_t n,
                           serverd_error *err);

/* Tokens begin .. end - 1 of sequences 0 .. n_seqs - 1, in steps of at most `chunk` rows filled
 * with one sequence behind the other. Logits of each sequence's last token. */
serverd_status driver_prefill(struct driver *driver, uint32_t n_seqs, uint32_t begin, uint32_t end,
                              uint32_t chunk, serverd_error *err);

/* The next token, at `position`, of sequences 0 .. n_seqs - 1 in one step. */
serverd_status driver_decode(struct driver *driver, uint32_t n_seqs, uint32_t position,
                             serverd_error *err);

/* Pages of n_tokens tokens of the first n_seqs sequences, as the engine hands them out. */
serverd_status driver_clear(struct driver *driver, uint32_t n_seqs, uint32_t n_tokens,
                            serverd_error *err);

#endif
