/* A graph in exact float32 over many sequences at once, stopping at any node: what a layer reads
 * can be looked at, and changed, before the layer runs. */
#ifndef QUANTISE_FORWARD_H
#define QUANTISE_FORWARD_H

#include "kernels/reference/run_node.h"
#include "program/program.h"
#include "runtime/worker_pool.h"

/* Token ids of some sequences, one behind the other. */
struct token_sequences {
    int32_t *token;
    uint32_t *begin; /* [n + 1] */
    uint32_t n;
};
static inline uint32_t sequences_n_tokens(const struct token_sequences *s)
{
    return s->n ? s->begin[s->n] : 0;
}

struct forward {
    const serverd_graph *graph;
    struct worker_pool *pool;
    serverd_host host;
    serverd_batch batch;
    uint32_t max_context;
    int32_t *position;
    uint32_t *row_seq, *logit_row; /* every row's logits are wanted */
    float **values;                /* [n_values] rows of those that are alive, NULL the others */
    uint32_t *last_use;            /* [n_values] node */
    uint32_t next;                 /* the node that runs next */
};

/* The graph and the sequences outlive it; tensors may change while it stands still. */
serverd_status forward_create(const serverd_graph *graph, uint32_t max_context,
                              const struct token_sequences *sequences, struct worker_pool *pool,
                              struct forward **out, serverd_error *err);
void forward_destroy(struct forward *forward); /* NULL is fine */

/* Runs all nodes before `node`; values that nothing reads from there on are let go. */
serverd_status forward_run_to(struct forward *forward, uint32_t node, serverd_error *err);

/* One node, whose values are there. */
serverd_status forward_run_node(const struct reference_step *step, uint32_t index,
                                struct worker_pool *pool, serverd_error *err);

/* Rows of a value in this step, and its columns. */
size_t forward_rows(const struct forward *forward, uint32_t value);
size_t forward_width(const struct forward *forward, uint32_t value);

#endif
