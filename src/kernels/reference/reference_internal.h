/* What the files of the reference share. */
#ifndef KERNELS_REFERENCE_INTERNAL_H
#define KERNELS_REFERENCE_INTERNAL_H

#include "kernels/kv_store.h"
#include "kernels/reference/run_node.h"
#include "program/op.h"

#include <stdbool.h>

/* Keys and values, layer by layer: [page][slot][head] of [dim] in the type of the store; I8 codes
 * have their f32 scale before them. */
static inline const serverd_tensor *reference_tensor(const serverd_graph *graph,
                                                     const serverd_node *node, uint32_t input)
{
    return &graph->tensors[node_input(graph, node, input)->tensor];
}

/* weights.c: elements begin .. begin + n - 1 of a row of a matrix, begin a multiple of
 * REFERENCE_SPAN */
void reference_read_weights(const struct reference_step *step, uint32_t tensor, size_t row,
                            size_t begin, size_t n, float *out);

/* adapter.c: *out is NULL if the limits have no slots */
struct reference_adapters;
serverd_status reference_adapters_create(const serverd_graph *graph, const serverd_limits *limits,
                                         struct reference_adapters **out, serverd_error *err);
void reference_adapters_destroy(struct reference_adapters *adapters);
serverd_status reference_adapters_set(struct reference_adapters *adapters,
                                      const serverd_graph *graph, uint32_t slot,
                                      const serverd_adapter *or_null, serverd_error *err);
serverd_status reference_adapters_check(const struct reference_adapters *adapters,
                                        const serverd_batch *batch, serverd_error *err);
/* To the output of a linear layer that has been computed. */
void reference_add_adapters(const struct reference_step *step, const serverd_node *node);

/* linear.c */
void reference_run_linear(const struct reference_step *step, const serverd_node *node);

/* attention.c */
void reference_attend(const struct reference_step *step, const serverd_node *node);

/* kv.c: one head of one token, into the store and out of it; `slot` counts tokens of the store. */
void reference_kv_write(const struct kv_store_layer *layer, serverd_dtype dtype, size_t slot,
                        uint32_t head, const float *key, const float *value);
void reference_kv_read_key(const struct kv_store_layer *layer, serverd_dtype dtype, size_t slot,
                           uint32_t head, float *out);
void reference_kv_read_value(const struct kv_store_layer *layer, serverd_dtype dtype, size_t slot,
                             uint32_t head, float *out);

/* kv.c: the members of the delegate */
serverd_status reference_kv_page_bytes(serverd_instance *instance, const serverd_kv_spec *spec,
                                       serverd_kv_bytes *out, serverd_error *err);
serverd_status reference_kv_create(serverd_instance *instance, const serverd_kv_spec *spec,
                                   uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                                   serverd_error *err);
serverd_status reference_kv_identity(serverd_instance *instance, const serverd_kv_spec *spec,
                                     uint64_t *out, serverd_error *err);

#endif
