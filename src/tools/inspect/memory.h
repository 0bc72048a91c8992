/* What a daemon would take of memory that serves a model. */
#ifndef TOOLS_INSPECT_MEMORY_H
#define TOOLS_INSPECT_MEMORY_H

#include "tools/inspect/subject.h"

/* As serverd's options of the same names. */
struct memory_options {
    uint32_t context, seqs, prefill_chunk; /* context 0: what the model was trained for */
    serverd_dtype kv_dtype;
};

struct memory_facts {
    uint32_t context, seqs;
    bool fits; /* the KV pages are what all sequences need, not less */
    uint32_t n_pages, n_window_pages;
    uint64_t weights, packed; /* bytes mapped from the file; copied into memory beside that */
    uint64_t arena_planned, arena_naive, scratch, buffers;
    uint64_t kv;
    uint64_t tables;  /* of the scheduler, the prefix cache and the server */
    uint64_t process; /* code, libraries, stacks, rings */
    uint64_t peak;    /* the sum, but for arena_naive */
};

/* The subject is placed. SERVERD_NOMEM: not one context fits. */
serverd_status memory_predict(const struct subject *subject, const struct memory_options *options,
                              struct memory_facts *out, serverd_error *err);

#endif
