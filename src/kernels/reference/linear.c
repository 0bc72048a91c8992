/* Linear layers: blocks of weights become floats in the worker's own memory and meet all rows. */
#include "base/numeric.h"
#include "kernels/reference/matmul.h"
#include "kernels/reference/reference_internal.h"

#include <string.h>

struct linear_job {
    const struct reference_step *step;
    const struct reference_kernels *kernels;
    uint32_t weights; /* tensor */
    const float *x;
    const float *bias; /* NULL: none */
    float *out;
    size_t n_rows, k, n;
};

static void run_block(const struct linear_job *job, size_t first, size_t n_columns, size_t row,
                      size_t n_rows)
{
    float w[REFERENCE_COLUMNS][REFERENCE_SPAN];
    double sums[REFERENCE_ROWS][REFERENCE_COLUMNS];
    memset(sums, 0, n_rows * sizeof *sums);
    for (size_t begin = 0; begin < job->k; begin += REFERENCE_SPAN) {
        size_t k = min_size(REFERENCE_SPAN, job->k - begin);
        for (size_t c = 0; c < n_columns; c++) /* columns are rows of the weights */
            reference_read_weights(job->step, job->weights, first + c, begin, k, w[c]);
        job->kernels->add_products(job->x + row * job->k + begin, job->k, n_rows, w[0], n_columns,
                                   k, sums);
    }
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < n_columns; c++) {
            double sum = sums[r][c] + (job->bias ? (double)job->bias[first + c] : 0);
            job->out[(row + r) * job->n + first + c] = (float)sum;
        }
}

static void run_columns(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct linear_job *job = arg;
    size_t first = (size_t)chunk * REFERENCE_COLUMNS;
    size_t n_columns = min_size(REFERENCE_COLUMNS, job->n - first);
    for (size_t row = 0; row < job->n_rows; row += REFERENCE_ROWS)
        run_block(job, first, n_columns, row, min_size(REFERENCE_ROWS, job->n_rows - row));
}

void reference_run_linear(const struct reference_step *step, const serverd_node *node)
{
    const serverd_graph *graph = step->graph;
    const uint32_t *operands = graph->operands + node->first_operand;
    const serverd_tensor *weights = reference_tensor(graph, node, 1);
    struct linear_job job = {
        .step = step,
        .kernels = reference_kernels_best(),
        .weights = node_input(graph, node, 1)->tensor,
        .x = step->values[operands[0]],
        .bias = node->n_inputs == 3 ? reference_tensor(graph, node, 2)->data : NULL,
        .out = step->values[operands[node->n_inputs]],
        .n_rows = reference_rows(step->batch, node_output(graph, node)->dims[0]),
        .k = weights->dims[1],
        .n = weights->dims[0]};
    if (job.n_rows > 0)
        step->host->parallel_for(step->host->context,
                                 (uint32_t)((job.n + REFERENCE_COLUMNS - 1) / REFERENCE_COLUMNS),
                                 run_columns, &job);
    reference_add_adapters(step, node);
}
