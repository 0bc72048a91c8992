/* The CPU back-end's own types: an instance, a loaded graph with its buffers, the KV store.
 *
 * Weights are used in place, in the block format of the file: `linear` turns a few rows at a
 * time into floats in the worker's scratch memory and multiplies them with all rows of the step.
 * Every activation has a place in one block of memory that is planned at load. */
#ifndef KERNELS_CPU_INTERNAL_H
#define KERNELS_CPU_INTERNAL_H

#include "kernels/cpu/cpu_kernels.h"

#include <stdbool.h>

/* Consecutive rows of one sequence that one attention chunk takes together. */
#define CPU_ATTENTION_ROWS 16

struct serverd_instance {
    const serverd_host *host;
    const struct cpu_kernels *kernels;
};

struct serverd_kv {
    uint32_t n_layers, n_pages;
    serverd_dtype dtype;
    size_t element_bytes;
    struct cpu_kv_layer {
        uint32_t n_kv_heads, k_dim, v_dim;
        /* [n_pages][n_kv_heads][page_tokens][dim] */
        void *keys, *values;
        size_t key_bytes, value_bytes; /* of the whole store */
    } * layers;
};

/* cos and sin of one set of frequencies for the rows of a step, shared by all layers. */
struct cpu_rope_table {
    const float *inv_freq; /* [n_rot / 2], a tensor's data */
    uint32_t n_pairs;
    float mscale;
    float *cos_sin; /* [max_rows][n_pairs][2] */
};

struct cpu_attention_item {
    uint32_t first_row, n_rows;
};

struct serverd_handle {
    serverd_instance *instance;
    const serverd_graph *graph;
    serverd_limits limits;
    bool has_kv;

    float *activations; /* one block */
    size_t *value_at;   /* [n_values] offset of an activation in it, in floats */
    struct cpu_rope_table *ropes;
    uint32_t n_ropes;
    uint32_t *node_rope; /* [n_nodes] index of ropes */

    float *scratch; /* [n_workers][scratch_floats] */
    size_t scratch_floats;

    uint64_t n_tokens, n_positions; /* rows of the smallest table that these index */

    uint32_t *seq_begin; /* [max_seqs + 1] first row of each sequence of the step */
    struct cpu_attention_item *items;
    uint32_t n_items;
};

/* All that the ops of one step see. */
struct cpu_step {
    const serverd_handle *handle;
    const struct cpu_kernels *kernels;
    const serverd_host *host;
    const serverd_graph *graph;
    const serverd_batch *batch;
    serverd_kv *kv;
    float *out; /* the graph's output */
};

struct cpu_op_call {
    const struct cpu_step *step;
    const serverd_node *node;
    uint32_t node_index;
    size_t n_rows; /* of input 0, or of the step for EMBED */
};

/* The floats of a value of this step; rows of it. */
float *cpu_value(const struct cpu_step *step, uint32_t value);
size_t cpu_value_rows(const struct cpu_step *step, const serverd_value *value);
float *cpu_worker_scratch(const struct cpu_step *step, uint32_t worker);

static inline float *cpu_input(const struct cpu_op_call *call, uint32_t i)
{
    return cpu_value(call->step, call->step->graph->operands[call->node->first_operand + i]);
}

static inline float *cpu_output(const struct cpu_op_call *call)
{
    return cpu_input(call, call->node->n_inputs);
}

/* Runs fn(call, first, n) over [0, n) cut into runs of at least `grain`. */
void cpu_split(const struct cpu_op_call *call, size_t n, size_t grain,
               void (*fn)(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker));

/* load.c */
serverd_status cpu_load(serverd_instance *instance, const serverd_graph *graph,
                        const void *const *packed, const serverd_limits *limits,
                        const serverd_kv_spec *kv, serverd_handle **out, serverd_error *err);
void cpu_unload(serverd_handle *handle);
/* linear.c */
size_t cpu_linear_scratch(const serverd_graph *graph, const serverd_node *node);
void cpu_run_linear(const struct cpu_op_call *call);
/* attention.c */
size_t cpu_attention_scratch(const serverd_node *node);
void cpu_plan_attention(serverd_handle *handle, const serverd_batch *batch);
void cpu_run_attention(const struct cpu_op_call *call);
/* ops.c */
void cpu_prepare_ropes(const struct cpu_step *step);
void cpu_run_op(const struct cpu_op_call *call);
/* kv.c */
serverd_status cpu_kv_page_bytes(serverd_instance *instance, const serverd_kv_spec *spec,
                                 uint64_t *out, serverd_error *err);
serverd_status cpu_kv_create(serverd_instance *instance, const serverd_kv_spec *spec,
                             uint32_t n_pages, serverd_kv **out, serverd_error *err);
serverd_status cpu_kv_zero(serverd_kv *kv, serverd_pages pages, serverd_error *err);
serverd_status cpu_kv_copy(serverd_kv *kv, uint32_t from, uint32_t to, uint32_t n_tokens,
                           serverd_error *err);
void cpu_kv_destroy(serverd_kv *kv);
/* Floats of n tokens from position `first` on (all in pages of the table) to out [n][dim]. */
void cpu_kv_read(const struct cpu_kernels *kernels, const serverd_kv *kv, uint32_t layer,
                 bool is_value, const uint32_t *pages, uint32_t head, uint32_t first, uint32_t n,
                 float *out);
void cpu_kv_write(const struct cpu_kernels *kernels, serverd_kv *kv, uint32_t layer, bool is_value,
                  const uint32_t *pages, uint32_t head, uint32_t position, const float *in);

#endif
