/* y = x W^T + b with W in any block format: each chunk of output columns turns its weight rows
 * into floats once and uses them for all rows of the step. */
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"
#include "program/dtype.h"
#include "program/op.h"

/* Weight rows that are floats at the same time. */
#define ROWS_AT_ONCE 8

/* Output columns of one chunk: small enough to balance, large enough to be worth a hand-out. */
#define CHUNK_COLUMNS 32

struct linear_job {
    const struct cpu_op_call *call;
    const serverd_tensor *weights;
    const float *x, *bias;
    float *out;
    size_t n_out, k, row_bytes;
};

static const serverd_tensor *input_tensor(const struct cpu_op_call *call, uint32_t i)
{
    const serverd_value *value = node_input(call->step->graph, call->node, i);
    return &call->step->graph->tensors[value->tensor];
}

/* Biases that are not floats are turned into floats behind the weight rows. */
static const float *bias_floats(const struct linear_job *job, size_t first, size_t n, float *space)
{
    if (job->call->node->n_inputs < 3)
        return NULL;
    const serverd_tensor *bias = input_tensor(job->call, 2);
    const struct dtype_info *info = dtype_info(bias->dtype);
    if (info->block_elements == 1) {
        info->to_f32((const char *)bias->data + first * info->block_bytes, space, n);
        return space;
    }
    return NULL; /* refused by match */
}

static void linear_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    const struct linear_job *job = arg;
    const struct cpu_op_call *call = job->call;
    const struct dtype_info *info = dtype_info(job->weights->dtype);
    float *rows = cpu_worker_scratch(call->step, worker), *bias = rows + ROWS_AT_ONCE * job->k;
    size_t begin = (size_t)chunk * CHUNK_COLUMNS;
    size_t end = min_size(begin + CHUNK_COLUMNS, job->n_out);
    for (size_t r = begin; r < end; r += ROWS_AT_ONCE) {
        size_t n = min_size(ROWS_AT_ONCE, end - r);
        const char *blocks = (const char *)job->weights->data + r * job->row_bytes;
        info->to_f32(blocks, rows, n * (job->k / info->block_elements));
        call->step->kernels->linear(job->x, call->n_rows, rows, bias_floats(job, r, n, bias), n,
                                    job->k, job->out + r, job->n_out);
    }
}

size_t cpu_linear_scratch(const serverd_graph *graph, const serverd_node *node)
{
    return ROWS_AT_ONCE * ((size_t)node_input(graph, node, 1)->dims[1] + 1);
}

void cpu_run_linear(const struct cpu_op_call *call)
{
    const serverd_tensor *weights = input_tensor(call, 1);
    uint64_t row_bytes = 0;
    if (call->n_rows == 0 || !dtype_row_bytes(weights->dtype, weights->dims[1], &row_bytes))
        return; /* program_check has seen to it */
    struct linear_job job = {.call = call,
                             .weights = weights,
                             .x = cpu_input(call, 0),
                             .out = cpu_output(call),
                             .n_out = weights->dims[0],
                             .k = weights->dims[1],
                             .row_bytes = row_bytes};
    uint32_t n_chunks = (uint32_t)((job.n_out + CHUNK_COLUMNS - 1) / CHUNK_COLUMNS);
    call->step->host->parallel_for(call->step->host->context, n_chunks, linear_chunk, &job);
}
