/* Linear layers: all that read the same rows are one hand-out, cut along their columns. */
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"
#include "program/op.h"

/* The column blocks of all layers of a phase, one behind the other, are cut into chunks. Each
 * worker begins with a large one, since weights come fastest as one long stream; small ones behind
 * them even out what holds a thread up. */
#define LARGE_SHARE  0.7 /* of a worker's part of the columns */
#define SMALL_CHUNKS 4   /* for each worker */
#define MIN_BLOCKS   2   /* even, so that kernels take them in pairs */

struct linear_job {
    const struct cpu_step *step;
    const struct cpu_phase *phase;
    uint32_t n_large, n_chunks;
    size_t n_blocks, large_blocks, small_blocks;
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
    *out = (struct cpu_linear_call){
        .x = {.values = NULL}, .node = (uint32_t)(node - graph->nodes), .first_row = first_row};
    if (step->handle->quantised_at[input] != CPU_NOWHERE) {
        out->x = cpu_quantised(step->handle, input);
        out->x.spans += first_row;
    }
    size_t n_out = weights->dims[0], k = weights->dims[1];
    uint32_t n = out->node, addition = step->handle->addition[n];
    const serverd_node *writer = addition == CPU_NO_NODE ? node : &graph->nodes[addition];
    out->x.values = cpu_value(step, input) + first_row * k;
    out->linear = (struct cpu_linear){
        .form = packed_form(weights->dtype),
        .weights = step->handle->packed[node_input(graph, node, 1)->tensor],
        .n_out = n_out,
        .k = k,
        .x = &out->x,
        .n_rows = n_rows,
        .bias = bias_of(graph, node),
        .out = cpu_value(step, graph->operands[writer->first_operand + writer->n_inputs]) +
               first_row * n_out,
        .out_stride = n_out,
        .scratch = cpu_worker_scratch(step, worker)};
    if (addition != CPU_NO_NODE)
        out->linear.added = cpu_value(step, cpu_added_value(step->handle, n)) + first_row * n_out;
    out->linear.column_bytes = packed_column_bytes(out->linear.form, k);
}

void cpu_run_linear(const struct cpu_step *step, struct cpu_linear_call *call, size_t first,
                    size_t n)
{
    struct cpu_linear linear = call->linear;
    bool has_adapters = cpu_has_adapters(step, call);
    linear.x = &call->x;
    linear.first_block = first;
    linear.n_blocks = n;
    linear.weights += first * linear.column_bytes;
    if (has_adapters)
        linear.added = NULL; /* comes last, here as where nothing is fused */
    step->kernels->linear(&linear);
    if (has_adapters)
        cpu_adapter_up(step, call, first, n);
}

/* Column blocks begin .. end - 1 of all layers of the phase. is_early: each worker will find
 * another chunk behind this one, as things go. */
static void run_range(const struct linear_job *job, size_t begin, size_t end, bool is_early,
                      uint32_t worker)
{
    const struct cpu_step *step = job->step;
    size_t n_rows = cpu_rows_of(step, job->phase->rows);
    for (uint32_t i = 0; i < job->phase->n_actions && begin < end; i++) {
        const serverd_node *node = node_at(job, i);
        size_t blocks = column_blocks(job, node);
        if (begin < blocks) {
            struct cpu_linear_call call;
            cpu_columns_begin(step, worker, (uint32_t)(node - step->graph->nodes));
            cpu_bind_linear(step, node, 0, n_rows, worker, &call);
            cpu_run_linear(step, &call, begin, min_size(end, blocks) - begin);
            cpu_columns_end(step, worker, n_rows, is_early && end < blocks);
            begin = blocks;
        }
        begin -= blocks;
        end -= min_size(end, blocks);
    }
}

static void linear_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    const struct linear_job *job = arg;
    size_t begin, n;
    if (chunk < job->n_large) {
        begin = chunk * job->large_blocks;
        n = job->large_blocks;
    } else {
        begin = job->n_large * job->large_blocks + (chunk - job->n_large) * job->small_blocks;
        n = job->small_blocks;
    }
    run_range(job, begin, min_size(begin + n, job->n_blocks),
              chunk + job->step->host->n_workers < job->n_chunks, worker);
}

void cpu_run_linears(const struct cpu_step *step, const struct cpu_phase *phase)
{
    if (cpu_rows_of(step, phase->rows) == 0)
        return;
    cpu_adapters_down(step, phase);
    const size_t n_workers = step->host->n_workers;
    struct linear_job job = {.step = step, .phase = phase};
    for (uint32_t i = 0; i < phase->n_actions; i++)
        job.n_blocks += column_blocks(&job, node_at(&job, i));
    job.large_blocks = (size_t)((double)job.n_blocks * LARGE_SHARE / (double)n_workers) / 2 * 2;
    job.n_large = job.large_blocks ? (uint32_t)n_workers : 0;
    size_t rest = job.n_blocks - job.n_large * job.large_blocks;
    job.small_blocks = max_size(MIN_BLOCKS, rest / (n_workers * SMALL_CHUNKS) / 2 * 2);
    uint32_t n_small = (uint32_t)((rest + job.small_blocks - 1) / job.small_blocks);
    job.n_chunks = job.n_large + n_small;
    step->host->parallel_for(step->host->context, job.n_chunks, linear_chunk, &job);
}
