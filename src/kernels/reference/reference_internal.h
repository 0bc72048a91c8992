/* What the files of the reference share. */
#ifndef KERNELS_REFERENCE_INTERNAL_H
#define KERNELS_REFERENCE_INTERNAL_H

#include "kernels/reference/run_node.h"
#include "program/op.h"

#include <stdbool.h>

/* Keys and values, layer by layer: [page][slot][head] of [dim] in the type of the store; I8 codes
 * have their f32 scale before them. */
struct serverd_kv {
    uint32_t n_layers, n_pages;
    uint32_t n_window_pages; /* 0: none, pages hold all layers */
    uint32_t window;         /* the widest of those layers that are in window pages */
    serverd_dtype dtype;
    struct reference_kv_layer {
        uint32_t n_kv_heads, k_dim, v_dim; /* n_kv_heads 0: the layer is not here */
        bool is_windowed;                  /* its pages are the window pages */
        uint32_t n_pages;
        char *keys, *values;
        size_t key_bytes, value_bytes; /* of one head of one token */
    } * layers;
};

static inline const serverd_tensor *reference_tensor(const serverd_graph *graph,
                                                     const serverd_node *node, uint32_t input)
{
    return &graph->tensors[node_input(graph, node, input)->tensor];
}

/* linear.c */
void reference_run_linear(const struct reference_step *step, const serverd_node *node);

/* attention.c */
void reference_attend(const struct reference_step *step, const serverd_node *node);

/* kv.c: one head of one token, into the store and out of it; `slot` counts tokens of the store. */
void reference_kv_write(const struct reference_kv_layer *layer, serverd_dtype dtype, size_t slot,
                        uint32_t head, const float *key, const float *value);
void reference_kv_read_key(const struct reference_kv_layer *layer, serverd_dtype dtype, size_t slot,
                           uint32_t head, float *out);
void reference_kv_read_value(const struct reference_kv_layer *layer, serverd_dtype dtype,
                             size_t slot, uint32_t head, float *out);

#endif
