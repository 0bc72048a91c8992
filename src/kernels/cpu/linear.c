/* Linear layers: all that read the same rows are one hand-out, cut along their columns. */
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"
#include "program/op.h"

/* Column blocks of one chunk: even, so that kernels take them in pairs; large enough to be worth
 * a hand-out; small enough that a thread that is held up delays the others little. */
#define MIN_BLOCKS        2
#define CHUNKS_PER_WORKER 10

struct linear_job {
    const struct cpu_step *step;
    const struct cpu_phase *phase;
    size_t blocks_per_chunk;
};

const serverd_tensor *cpu_linear_weights(const serverd_graph *graph, const serverd_node *node)
{
    return &graph->tensors[node_input(graph, node, 1)->tensor];
}

static const serverd_node *node_at(const struct linear_job *job, uint32_t i)
{
    const serverd_handle *handle = job->step->handle;
    return &handle->graph->nodes[handle->actions[job->phase->first_action + i].index];
}

static size_t column_blocks(const struct linear_job *job, const serverd_node *node)
{
    size_t n_out = cpu_linear_weights(job->step->graph, node)->dims[0];
    return (n_out + PACKED_COLUMNS - 1) / PACKED_COLUMNS;
}

static size_t chunks_of(const struct linear_job *job, const serverd_node *node)
{
    return (column_blocks(job, node) + job->blocks_per_chunk - 1) / job->blocks_per_chunk;
}

/* Biases are f32 vectors (op.h). */
static const float *bias_of(const serverd_graph *graph, const serverd_node *node)
{
    return node->n_inputs < 3 ? NULL : graph->tensors[node_input(graph, node, 2)->tensor].data;
}

void cpu_bind_linear(const struct cpu_step *step, const serverd_node *node, size_t first_row,
                     size_t n_rows, uint32_t worker, struct cpu_linear_call *out)
{
    const serverd_graph *graph = step->graph;
    const serverd_tensor *weights = cpu_linear_weights(graph, node);
    uint32_t input = graph->operands[node->first_operand];
    *out = (struct cpu_linear_call){.x = {.values = NULL}};
    if (step->handle->quantised_at[input] != CPU_NOWHERE) {
        out->x = cpu_quantised(step->handle, input);
        out->x.spans += first_row * step->kernels->span_bytes(out->x.is_fine);
    }
    size_t n_out = weights->dims[0], k = weights->dims[1];
    out->x.values = cpu_value(step, input) + first_row * k;
    out->linear = (struct cpu_linear){
        .form = packed_form(weights->dtype),
        .weights = step->handle->packed[node_input(graph, node, 1)->tensor],
        .n_out = n_out,
        .k = k,
        .x = &out->x,
        .n_rows = n_rows,
        .bias = bias_of(graph, node),
        .out = cpu_value(step, graph->operands[node->first_operand + node->n_inputs]) +
               first_row * n_out,
        .out_stride = n_out,
        .scratch = cpu_worker_scratch(step, worker)};
    out->linear.column_bytes = packed_column_bytes(out->linear.form, k);
}

void cpu_run_linear(const struct cpu_step *step, struct cpu_linear_call *call, size_t first,
                    size_t n)
{
    struct cpu_linear linear = call->linear;
    linear.x = &call->x;
    linear.first_block = first;
    linear.n_blocks = n;
    linear.weights += first * linear.column_bytes;
    step->kernels->linear(&linear);
}

static void linear_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    const struct linear_job *job = arg;
    uint32_t i = 0;
    size_t at = chunk;
    for (; at >= chunks_of(job, node_at(job, i)); i++)
        at -= chunks_of(job, node_at(job, i));
    const serverd_node *node = node_at(job, i);
    struct cpu_linear_call call;
    cpu_bind_linear(job->step, node, 0, cpu_rows_of(job->step, job->phase->rows), worker, &call);
    size_t first = at * job->blocks_per_chunk;
    cpu_run_linear(job->step, &call, first,
                   min_size(job->blocks_per_chunk, column_blocks(job, node) - first));
}

void cpu_run_linears(const struct cpu_step *step, const struct cpu_phase *phase)
{
    if (cpu_rows_of(step, phase->rows) == 0)
        return;
    struct linear_job job = {.step = step, .phase = phase};
    size_t blocks = 0, n_chunks = 0;
    for (uint32_t i = 0; i < phase->n_actions; i++)
        blocks += column_blocks(&job, node_at(&job, i));
    job.blocks_per_chunk =
        max_size(MIN_BLOCKS, blocks / (step->host->n_workers * CHUNKS_PER_WORKER) / 2 * 2);
    for (uint32_t i = 0; i < phase->n_actions; i++)
        n_chunks += chunks_of(&job, node_at(&job, i));
    step->host->parallel_for(step->host->context, (uint32_t)n_chunks, linear_chunk, &job);
}
