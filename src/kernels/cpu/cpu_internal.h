/* The CPU back-end's own types: an instance, a loaded partition with its plan and buffers, the KV
 * store.
 *
 * At load the nodes are cut into phases (plan.c). A phase is handed to the threads once: all
 * linear layers with the same input; the attention of a layer; or a run of everything that works
 * row by row (norms, residuals, rope, activations, appending to the KV pages, quantising the
 * input of the next linear layers), which a thread does from first to last for its rows. Few rows
 * of such a run are done by the caller alone, so that one token of a layer costs five hand-outs:
 * q/k/v, attention, o, gate/up, down.
 *
 * Every activation has a place in one block of memory that is planned at load. */
#ifndef KERNELS_CPU_INTERNAL_H
#define KERNELS_CPU_INTERNAL_H

#include "kernels/batch_check.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/kv_store.h"

#include <stdbool.h>

/* Queries of one KV head (rows of one sequence times heads) that one attention chunk takes. */
#define CPU_ATTENTION_ROWS 32

#define CPU_NOWHERE SIZE_MAX
#define CPU_NO_NODE UINT32_MAX

/* Layouts of serverd_form. */
enum { CPU_LAYOUT_PACKED = 1 };

/* Partitions of an instance run one after the other, so they use the same working memory: one block
 * for activations and scratch, as large as the greatest of them needs. */
struct serverd_instance {
    const serverd_host *host;
    const struct cpu_kernels *kernels;
    char *block;
    size_t block_bytes;
    struct cpu_split *split; /* attention_split.c; NULL: no partition has causal attention */
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

enum cpu_phase_kind { PHASE_ROWS = 0, PHASE_LINEAR, PHASE_ATTENTION };

enum cpu_action_kind {
    ACTION_NODE = 0, /* index: node */
    ACTION_QUANTISE, /* index: value */
    ACTION_APPEND    /* index: node (of attention) */
};

struct cpu_action {
    uint32_t kind, index;
};

/* Phases of a stage can be run for some rows from first to last, whatever other rows do: a stage
 * begins where a phase reads what other rows have written (attention, selecting), and behind an
 * encoder's attention, which has to end before the next layer's keys and values are written. */
struct cpu_phase {
    uint32_t kind, stage;
    int64_t rows; /* SERVERD_DIM_*: what its rows are */
    uint32_t first_action, n_actions;
};

/* Where a worker's clock stands, for traces. */
struct cpu_watch {
    _Alignas(64) uint64_t at_ns;
    uint64_t phase; /* cpu_step.phase at that time */
    /* columns that were not told yet; CPU_NO_NODE: none */
    uint32_t node, n_rows;
    uint64_t start_ns;
    bool is_read; /* they ended at at_ns; else at the next look */
};

struct serverd_handle {
    serverd_instance *instance;
    const serverd_graph *graph;
    const serverd_partition *partition; /* its nodes alone are looked at */
    const void *const *packed;
    serverd_limits limits;
    bool has_kv; /* some attention is causal */
    serverd_footprint footprint;

    struct cpu_phase *phases;
    struct cpu_action *actions;
    uint32_t n_phases, n_actions;
    /* [n_nodes] of linear layers: the addition that its output only goes into, so that it writes
     * the sum; CPU_NO_NODE: none */
    uint32_t *addition;

    float *activations; /* in the instance's block, where it was when the handle ran last */
    size_t activation_floats;
    /* [n_values] offset of an activation in it, in floats; CPU_NOWHERE: what the partition reads or
     * gives away, which lies in the host's memory */
    size_t *value_at;
    float **values;       /* [n_values] the rows of this step */
    size_t *quantised_at; /* [n_values] of its quantised form, CPU_NOWHERE: has none */

    struct cpu_rope_table *ropes;
    uint32_t n_ropes;
    uint32_t *node_rope; /* [n_nodes] index of ropes */

    char *scratch; /* [n_workers][scratch_bytes], behind the activations */
    size_t scratch_bytes;
    struct cpu_watch *watches; /* [n_workers] */
    uint64_t n_run;            /* phases, or stages that ran as one */

    struct batch_bounds bounds;

    uint32_t *seq_begin;              /* [max_seqs + 1] first row of each sequence of the step */
    struct cpu_attention_item *items; /* [max_rows] */
    struct cpu_split *split;          /* the instance's; NULL: no attention is causal */

    /* Attention that is not causal sees the rows of this step only: their keys and values are
     * kept here, sequence after sequence. */
    serverd_kv *step_kv;
    uint32_t *step_pages;     /* page numbers in order */
    uint32_t *seq_first_page; /* [max_seqs] */

    struct cpu_adapters *adapters; /* adapter.c; NULL: there never are any */
};

/* All that the ops of one step see. */
struct cpu_step {
    const serverd_handle *handle;
    const struct cpu_kernels *kernels;
    const serverd_host *host;
    const serverd_graph *graph;
    const serverd_batch *batch;
    serverd_kv *kv;
    uint64_t phase; /* which one runs: a number that does not come again */
};

struct cpu_op_call {
    const struct cpu_step *step;
    const serverd_node *node;
    uint32_t node_index;
};

static inline uint32_t cpu_first_node(const serverd_handle *handle)
{
    return handle->partition->first_node;
}
static inline uint32_t cpu_end_node(const serverd_handle *handle)
{
    return handle->partition->first_node + handle->partition->n_nodes;
}

/* The floats of a value of this step; its quantised form; rows of a kind (SERVERD_DIM_*). */
static inline float *cpu_value(const struct cpu_step *step, uint32_t value)
{
    return step->handle->values[value];
}
struct cpu_rows cpu_quantised(const serverd_handle *handle, uint32_t value);
size_t cpu_rows_of(const struct cpu_step *step, int64_t kind);
void *cpu_worker_scratch(const struct cpu_step *step, uint32_t worker);

static inline float *cpu_input(const struct cpu_op_call *call, uint32_t i)
{
    return cpu_value(call->step, call->step->graph->operands[call->node->first_operand + i]);
}

static inline float *cpu_output(const struct cpu_op_call *call)
{
    return cpu_input(call, call->node->n_inputs);
}

/* Calls fn(arg, first, n, worker) over [0, n) cut into runs of at least `grain`. */
typedef void (*cpu_run_fn)(const void *arg, size_t first, size_t n, uint32_t worker);
void cpu_split(const struct cpu_step *step, size_t n, size_t grain, cpu_run_fn fn, const void *arg);

/* cost.c: what a node that is run here costs */
void cpu_estimate(const serverd_host *host, const serverd_graph *graph, const serverd_node *node,
                  serverd_claim *out);
/* plan.c: phases; or_null: what is told of the places, serverd_plan's buffers */
struct cpu_plan_record {
    serverd_buffer *buffers;
    uint32_t n_buffers;
};
serverd_status cpu_plan(serverd_handle *handle, struct cpu_plan_record *or_null,
                        serverd_error *err);
serverd_status cpu_export_plan(const serverd_graph *graph, const serverd_partition *partition,
                               const serverd_limits *limits, serverd_buffer *buffers, uint32_t *use,
                               serverd_plan *out, serverd_error *err);
/* The value that a node of a phase writes; what a linear layer's output is added to. */
uint32_t cpu_written_by(const serverd_handle *handle, uint32_t n);
uint32_t cpu_added_value(const serverd_handle *handle, uint32_t n);
/* places.c: the places for rows of a value, what lies behind the last one included; that its
 * quantised form is fine (cpu_kernels.h) */
size_t cpu_max_rows(const serverd_limits *limits, const serverd_value *value);
bool cpu_is_fine(const serverd_value *value);
serverd_status cpu_place_activations(serverd_handle *handle, struct cpu_plan_record *or_null,
                                     serverd_error *err);
/* load.c: memory of a handle, zeroed, or aligned to 64 and not; it counts in its footprint */
void *cpu_take(serverd_handle *handle, size_t n, size_t size);
void *cpu_take_aligned(serverd_handle *handle, size_t bytes);
/* Binds a handle's values to the instance's block. */
void cpu_bind_values(serverd_handle *handle);
serverd_status cpu_load(serverd_instance *instance, const serverd_graph *graph,
                        const serverd_partition *partition, const void *const *packed,
                        const serverd_limits *limits, const serverd_kv_spec *kv,
                        serverd_handle **out, serverd_error *err);
serverd_status cpu_footprint(serverd_instance *instance, const serverd_graph *graph,
                             const serverd_partition *partition, const serverd_limits *limits,
                             const serverd_kv_spec *kv, serverd_footprint *out, serverd_error *err);
void cpu_unload(serverd_handle *handle);
/* linear.c */
const serverd_tensor *cpu_linear_weights(const serverd_graph *graph, const serverd_node *node);
/* Rows first_row .. first_row + n_rows - 1 and all columns of a linear layer. */
struct cpu_linear_call {
    struct cpu_rows x;
    struct cpu_linear linear;
    uint32_t node;
    size_t first_row;
};
void cpu_bind_linear(const struct cpu_step *step, const serverd_node *node, size_t first_row,
                     size_t n_rows, uint32_t worker, struct cpu_linear_call *out);
/* Its column blocks from `first` on. */
void cpu_run_linear(const struct cpu_step *step, struct cpu_linear_call *call, size_t first,
                    size_t n);
void cpu_run_linears(const struct cpu_step *step, const struct cpu_phase *phase);
/* adapter.c: low-rank additions */
serverd_status cpu_create_adapters(serverd_handle *handle, serverd_error *err);
void cpu_destroy_adapters(struct cpu_adapters *adapters); /* NULL is fine */
serverd_status cpu_set_adapter(serverd_handle *handle, uint32_t slot,
                               const serverd_adapter *or_null, serverd_error *err);
/* Checks the batch's slots and sorts its rows by them. */
serverd_status cpu_plan_adapters(serverd_handle *handle, const serverd_batch *batch,
                                 serverd_error *err);
/* A x for all rows and all layers of a phase, by all workers. */
void cpu_adapters_down(const struct cpu_step *step, const struct cpu_phase *phase);
/* The same for one layer and some rows, by the caller. */
void cpu_adapter_down_rows(const struct cpu_step *step, uint32_t node, size_t first, size_t n);
/* Whether some row of the call has an adapter of this layer. */
bool cpu_has_adapters(const struct cpu_step *step, const struct cpu_linear_call *call);
/* Column blocks have been computed without call->linear.added: adds B (A x), then that. */
void cpu_adapter_up(const struct cpu_step *step, const struct cpu_linear_call *call,
                    size_t first_block, size_t n_blocks);
/* row_blocks.c: the phases of a stage, for blocks of rows; false: there are too few rows for it,
 * the phases are to be run one by one */
bool cpu_run_stage(const struct cpu_step *step, uint32_t first_phase, uint32_t n_phases);
/* attention.c */
size_t cpu_attention_scratch(const struct cpu_kernels *kernels, const serverd_node *node);
serverd_status cpu_create_split(serverd_handle *handle, serverd_error *err);
void cpu_destroy_split(struct cpu_split *split);
void cpu_plan_split(serverd_handle *handle, const serverd_batch *batch);
void cpu_plan_attention(serverd_handle *handle, const serverd_batch *batch);
void cpu_attend_rows(const struct cpu_step *step, const struct cpu_phase *phase, size_t first,
                     size_t n, uint32_t worker);
void cpu_run_attention(const struct cpu_step *step, const struct cpu_phase *phase);
void cpu_append_rows(const struct cpu_op_call *call, size_t first, size_t n);
/* trace.c: who computes what when, if the host wants to know. Looks at the clock are dear while
 * weights stream in: they wait for what is under way. A worker starts its watch, and says after
 * each node what it was; cpu_watch_resume goes on where the worker stopped before in the same
 * phase. */
void cpu_watch_start(const struct cpu_step *step, uint32_t worker);
void cpu_watch_resume(const struct cpu_step *step, uint32_t worker);
void cpu_watch_node(const struct cpu_step *step, uint32_t worker, uint32_t node, size_t n_rows);

/* Around some columns of a linear layer. Those of one phase are told together, once the worker
 * begins with something else, or with cpu_watch_end of all workers behind a step. goes_on: more of
 * them are likely to follow at once, and the clock need not be looked at. */
void cpu_columns_begin(const struct cpu_step *step, uint32_t worker, uint32_t node);
void cpu_columns_end(const struct cpu_step *step, uint32_t worker, size_t n_rows, bool goes_on);
void cpu_watch_end(const struct cpu_step *step);

/* Where nodes take turns in a loop, laps add their times up, and tell them one after the other. */
#define CPU_LAPS 32u /* what is behind the last counts as the last */
struct cpu_laps {
    uint64_t begin_ns, at_ns;
    uint64_t ns[CPU_LAPS];
};
void cpu_laps_start(const struct cpu_step *step, uint32_t worker, struct cpu_laps *laps);
void cpu_laps_add(const struct cpu_step *step, struct cpu_laps *laps, uint32_t lap);
/* Tells a lap of so much time and moves begin_ns behind it. */
void cpu_laps_tell(const struct cpu_step *step, struct cpu_laps *laps, uint32_t lap,
                   uint32_t worker, uint32_t node, size_t n_rows);
/* ops.c */
void cpu_prepare_ropes(const struct cpu_step *step);
void cpu_run_actions(const struct cpu_step *step, const struct cpu_phase *phase, size_t first,
                     size_t n, uint32_t worker);
void cpu_run_rows(const struct cpu_step *step, const struct cpu_phase *phase);
/* kv.c */
serverd_status cpu_kv_page_bytes(serverd_instance *instance, const serverd_kv_spec *spec,
                                 serverd_kv_bytes *out, serverd_error *err);
serverd_status cpu_kv_create(serverd_instance *instance, const serverd_kv_spec *spec,
                             uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                             serverd_error *err);
serverd_status cpu_kv_identity(serverd_instance *instance, const serverd_kv_spec *spec,
                               uint64_t *out, serverd_error *err);

/* The page of one head. */
static inline void *cpu_kv_keys(const struct kv_store_layer *layer, uint32_t page, uint32_t head)
{
    return layer->keys + ((size_t)page * layer->n_kv_heads + head) * layer->key_bytes;
}
static inline void *cpu_kv_values(const struct kv_store_layer *layer, uint32_t page, uint32_t head)
{
    return layer->values + ((size_t)page * layer->n_kv_heads + head) * layer->value_bytes;
}

#endif
