/* What the library's files share (serverd/runtime.h). Session i has the KV pages i * n .. i * n +
 * n - 1 for good, where n pages hold max_context tokens: no page is ever given or taken. */
#ifndef RUNTIME_SESSION_INTERNAL_H
#define RUNTIME_SESSION_INTERNAL_H

#include "runtime/runtime.h"
#include "serverd/runtime.h"

#include <stdatomic.h>

struct serverd_session {
    struct serverd_runtime *owner;
    uint32_t index;
    bool is_taken;
    uint32_t n_tokens;   /* that it has */
    uint64_t in_step;    /* the last one that it was in; 0: none, or changed since */
    const float *result; /* of that step; NULL: not wanted */
    serverd_error error; /* code SERVERD_OK: not poisoned */
    _Atomic bool stops;  /* set by any thread, taken by the one that appends */
};

struct serverd_runtime {
    struct program *program;
    struct worker_pool *pool;
    struct runtime *runtime;
    uint32_t n_sessions, n_session_pages; /* pages of each */
    uint32_t n_results;                   /* of a row */
    uint64_t n_steps;
    serverd_error lost; /* the device; SERVERD_OK: it is there */
    void *arrays;       /* the block that all of these lie in */
    struct serverd_session *sessions;
    /* The batch of a step. */
    int32_t *token, *position;      /* [max_rows] */
    uint32_t *row_seq;              /* [max_rows] */
    uint32_t *page_table;           /* [n_sessions][n_session_pages]; NULL: an encoder */
    uint32_t *logit_row;            /* [n_sessions] */
    struct serverd_kv_page *zeroed; /* [max_rows / SERVERD_PAGE_TOKENS + n_sessions] */
    float *results;                 /* [n_sessions][n_results] */
};

#endif
