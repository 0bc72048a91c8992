/* What the delegate's C files share: delegate.c (which nodes, on which device), pack.c (weights in
 * fragments), load.c (memory of a partition), fuse.c (nodes that are done together), execute.c (a
 * step), chains.c (sequences with the same pages), graphs.c (steps that come again), meetings.c
 * (other ranks), kv.c (pages). */
#ifndef KERNELS_CUDA_CUDA_INTERNAL_H
#define KERNELS_CUDA_CUDA_INTERNAL_H

#include "kernels/batch_check.h"
#include "kernels/cuda/fuse.h"
#include "kernels/cuda/graphs.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/meetings.h"
#include "kernels/kv_store.h"
#include "serverd/delegate.h"

struct serverd_instance {
    const serverd_host *host;
    struct gpu *gpu;
};

/* Arrays of a step, one behind the other in one block, what is not always copied last: on the host,
 * pinned, and on the device. */
struct step_arrays {
    int32_t *drawn, *token, *position; /* `drawn` comes back, the others go there */
    uint32_t *row_seq, *segment, *first_row, *logit_row, *page_table, *window_table;
    uint32_t *chain; /* [max_seqs][n_segments] of chains.h */
    serverd_draw *draw;
    serverd_logit_change *change;
    uint64_t *mask;
    float *unchanged; /* of the device alone; NULL: no tokens are drawn here */
};

struct serverd_handle {
    const serverd_instance *instance;
    const serverd_graph *graph;
    const serverd_partition *partition;
    struct batch_bounds bounds;
    bool has_kv;            /* some attention is causal */
    struct fusion *fusions; /* [n_nodes] of the partition */
    /* of the device */
    char *weights;       /* one block */
    const void **tensor; /* [n_tensors] in it; NULL: nobody reads it */
    float *values_block;
    float **value;   /* [n_values] in it; NULL: none of an activation of the partition */
    void *fragments; /* the rows of a linear layer */
    float *scratch;  /* of attention */
    size_t scratch_floats;
    /* of the host, and the same on the device */
    struct step_arrays staged, arrays;
    char *staged_block, *arrays_block;
    size_t arrays_bytes;
    size_t lists_bytes; /* of what is before the page tables */
    uint32_t n_drawn;   /* logit rows of the last step that may be read */
    uint32_t max_pages; /* columns of its page tables */
    uint32_t n_segments;
    uint32_t n_chained; /* sequences whose chains on the device may be others than 0 */
    struct graphs graphs;
    struct meetings meetings;
    serverd_footprint footprint;
};

static inline const serverd_tensor *cuda_tensor(const serverd_graph *graph,
                                                const serverd_node *node, uint32_t input)
{
    return &graph->tensors[graph->values[graph->operands[node->first_operand + input]].tensor];
}

/* Only rank 0 has the result of a gather. */
static inline bool cuda_is_elsewhere(const serverd_graph *graph, uint32_t value)
{
    const serverd_node *node = &graph->nodes[graph->values[value].producer];
    return node->op == SERVERD_OP_GATHER && node->attributes.shard.rank != 0;
}

/* ---- pack.c ---------------------------------------------------------------------------------- */

/* Of a matrix of this type. */
enum fragment_form cuda_fragment_form(serverd_dtype dtype);
serverd_status cuda_form(const serverd_tensor *tensor, serverd_form *out, serverd_error *err);
serverd_status cuda_pack(const serverd_tensor *tensor, const serverd_form *form, uint64_t first_row,
                         uint64_t n_rows, void *dst, serverd_error *err);

/* ---- load.c ---------------------------------------------------------------------------------- */

serverd_status cuda_load(serverd_instance *instance, const serverd_graph *graph,
                         const serverd_partition *partition, const void *const *packed,
                         const serverd_limits *limits, const serverd_kv_spec *kv,
                         serverd_handle **out, serverd_error *err);
serverd_status cuda_footprint(serverd_instance *instance, const serverd_graph *graph,
                              const serverd_partition *partition, const serverd_limits *limits,
                              const serverd_kv_spec *kv, serverd_footprint *out,
                              serverd_error *err);
void cuda_unload(serverd_handle *handle);

/* ---- execute.c ------------------------------------------------------------------------------- */

serverd_status cuda_execute(serverd_handle *handle, const serverd_batch *batch, serverd_kv *kv,
                            const float *const *inputs, float *const *outputs, serverd_error *err);

serverd_status cuda_read_logits(serverd_handle *handle, uint32_t logit_row, float *out,
                                serverd_error *err);

/* ---- kv.c ------------------------------------------------------------------------------------ */

serverd_status cuda_kv_page_bytes(serverd_instance *instance, const serverd_kv_spec *spec,
                                  serverd_kv_bytes *out, serverd_error *err);
serverd_status cuda_kv_create(serverd_instance *instance, const serverd_kv_spec *spec,
                              uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                              serverd_error *err);
void cuda_kv_destroy(serverd_kv *kv);
serverd_status cuda_kv_export(const serverd_kv *kv, serverd_kv_page page, void *out,
                              serverd_error *err);
serverd_status cuda_kv_import(serverd_kv *kv, serverd_kv_page page, const void *bytes,
                              serverd_error *err);
serverd_status cuda_kv_settle(serverd_kv *kv, serverd_error *err);
serverd_status cuda_kv_identity(serverd_instance *instance, const serverd_kv_spec *spec,
                                uint64_t *out, serverd_error *err);
/* One layer of the store as kernels see it. */
struct gpu_kv cuda_kv_layer(const serverd_kv *kv, uint32_t layer);

#endif
