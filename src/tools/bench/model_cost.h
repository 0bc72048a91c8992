/* What a step of a model costs at least: multiply-adds and bytes, read from its graph. */
#ifndef TOOLS_BENCH_MODEL_COST_H
#define TOOLS_BENCH_MODEL_COST_H

#include "program/program.h"

/* Body: the linear layers that every row goes through. Head: those behind the selection of rows
 * (SELECT, POOL). Bytes are those of the form that the delegate asks for. */
struct model_cost {
    double body_macs, head_macs;   /* for each row */
    double body_bytes, head_bytes; /* read in every step */
    double embed_bytes;            /* read for each row */
};

serverd_status model_cost(const serverd_graph *graph, const serverd_delegate *delegate,
                          struct model_cost *out, serverd_error *err);

/* Bytes of keys and values of `n_tokens` tokens, as far as windows let them be seen, where a page
 * of all layers has page_bytes. */
double model_kv_bytes(const serverd_kv_spec *kv, uint64_t page_bytes, double n_tokens);

/* Multiply-adds of attention for one row that sees n_tokens. */
double model_attention_macs(const serverd_graph *graph, double n_tokens);

#endif
