/* Low-rank additions in double: y = f32(y + scale * B (A x)), row by row. */
#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "kernels/reference/matmul.h"
#include "kernels/reference/reference_internal.h"

#include <stdlib.h>
#include <string.h>

struct low_rank {
    uint32_t rank; /* 0: nothing is added */
    float scale;
    const float *a, *b; /* in the slot's block */
};

struct reference_adapters {
    uint32_t n_slots, max_rank, n_nodes;
    struct low_rank *sites; /* [n_slots][n_nodes] */
    float **blocks;         /* [n_slots] */
};

serverd_status reference_adapters_create(const serverd_graph *graph, const serverd_limits *limits,
                                         struct reference_adapters **out, serverd_error *err)
{
    *out = NULL;
    if (limits->max_adapters == 0)
        return SERVERD_OK;
    struct reference_adapters *adapters = calloc(1, sizeof *adapters);
    if (adapters) {
        *adapters = (struct reference_adapters){
            .n_slots = limits->max_adapters,
            .max_rank = (uint32_t)min_size(limits->max_adapter_rank, LIMIT_ADAPTER_RANK),
            .n_nodes = graph->n_nodes,
            .sites = calloc((size_t)limits->max_adapters * graph->n_nodes, sizeof(struct low_rank)),
            .blocks = calloc(limits->max_adapters, sizeof(float *))};
        if (adapters->sites && adapters->blocks) {
            *out = adapters;
            return SERVERD_OK;
        }
    }
    reference_adapters_destroy(adapters);
    return fail(err, SERVERD_NOMEM, "cpu-reference: no memory for %u adapters",
                limits->max_adapters);
}

void reference_adapters_destroy(struct reference_adapters *adapters)
{
    if (!adapters)
        return;
    for (uint32_t i = 0; adapters->blocks && i < adapters->n_slots; i++)
        free(adapters->blocks[i]);
    free(adapters->blocks);
    free(adapters->sites);
    free(adapters);
}

/* ---- putting one in -------------------------------------------------------------------------- */

static serverd_status check_site(const struct reference_adapters *adapters,
                                 const serverd_graph *graph, const serverd_adapter_site *site,
                                 serverd_error *err)
{
    if (site->node >= graph->n_nodes || graph->nodes[site->node].op != SERVERD_OP_LINEAR)
        return fail(err, SERVERD_INTERNAL, "cpu-reference: node %u is no linear layer", site->node);
    if (site->rank == 0 || site->rank > adapters->max_rank)
        return fail(err, SERVERD_UNSUPPORTED,
                    "cpu-reference: an adapter of rank %u, at most %u are possible", site->rank,
                    adapters->max_rank);
    return SERVERD_OK;
}

static size_t n_floats(const serverd_graph *graph, const serverd_adapter_site *site)
{
    const serverd_tensor *w = reference_tensor(graph, &graph->nodes[site->node], 1);
    return site->rank * (size_t)(w->dims[0] + w->dims[1]);
}

static float *copy_sites(const serverd_graph *graph, const serverd_adapter *adapter, float *block,
                         struct low_rank *out)
{
    float *at = block;
    for (uint32_t i = 0; i < adapter->n_sites; i++) {
        const serverd_adapter_site *from = &adapter->sites[i];
        const serverd_tensor *w = reference_tensor(graph, &graph->nodes[from->node], 1);
        size_t n_a = from->rank * (size_t)w->dims[1], n_b = from->rank * (size_t)w->dims[0];
        out[from->node] = (struct low_rank){
            .rank = from->rank,
            .scale = from->scale,
            .a = memcpy(at, from->a, n_a * sizeof *at),
            .b = memcpy(at + n_a, from->b, n_b * sizeof *at),
        };
        at += n_a + n_b;
    }
    return block;
}

serverd_status reference_adapters_set(struct reference_adapters *adapters,
                                      const serverd_graph *graph, uint32_t slot,
                                      const serverd_adapter *or_null, serverd_error *err)
{
    size_t n = 0;
    if (!adapters || slot >= adapters->n_slots)
        return fail(err, SERVERD_INTERNAL, "cpu-reference: adapter slot %u of %u", slot,
                    adapters ? adapters->n_slots : 0);
    for (uint32_t i = 0; or_null && i < or_null->n_sites; i++) {
        serverd_status status = check_site(adapters, graph, &or_null->sites[i], err);
        if (status != SERVERD_OK)
            return status;
        n += n_floats(graph, &or_null->sites[i]);
    }
    float *block = malloc(max_size(n, 1) * sizeof *block);
    if (!block)
        return fail(err, SERVERD_NOMEM, "cpu-reference: no memory for an adapter");
    free(adapters->blocks[slot]);
    struct low_rank *sites = adapters->sites + (size_t)slot * adapters->n_nodes;
    memset(sites, 0, adapters->n_nodes * sizeof *sites);
    adapters->blocks[slot] = or_null ? copy_sites(graph, or_null, block, sites) : block;
    return SERVERD_OK;
}

/* ---- a step ---------------------------------------------------------------------------------- */

serverd_status reference_adapters_check(const struct reference_adapters *adapters,
                                        const serverd_batch *batch, serverd_error *err)
{
    uint32_t n_slots = adapters ? adapters->n_slots : 0;
    for (uint32_t seq = 0; batch->adapter_slot && seq < batch->n_seqs; seq++)
        if (batch->adapter_slot[seq] != SERVERD_NO_ADAPTER && batch->adapter_slot[seq] >= n_slots)
            return fail(err, SERVERD_INTERNAL,
                        "cpu-reference: sequence %u has adapter slot %u of "
                        "%u",
                        seq, batch->adapter_slot[seq], n_slots);
    return SERVERD_OK;
}

struct adapter_job {
    const struct reference_step *step;
    const struct reference_kernels *kernels;
    uint32_t node;
    int64_t kind; /* of rows */
    const float *x;
    float *y;
    size_t n_in, n_out;
};

static uint32_t sequence_of(const struct adapter_job *job, uint32_t row)
{
    const serverd_batch *batch = job->step->batch;
    if (job->kind == SERVERD_DIM_SEQS)
        return row;
    return batch->row_seq[job->kind == SERVERD_DIM_SELECTED ? batch->logit_row[row] : row];
}

static void add_to_row(void *arg, uint32_t row, uint32_t worker)
{
    (void)worker;
    const struct adapter_job *job = arg;
    const struct reference_adapters *adapters = job->step->adapters;
    const serverd_batch *batch = job->step->batch;
    uint32_t seq = sequence_of(job, row), slot = batch->adapter_slot[seq];
    if (slot == SERVERD_NO_ADAPTER)
        return;
    const struct low_rank *site = &adapters->sites[(size_t)slot * adapters->n_nodes + job->node];
    double sums[LIMIT_ADAPTER_RANK], factor = (double)(site->scale * batch->adapter_scale[seq]);
    for (uint32_t r = 0; r < site->rank; r++)
        sums[r] = job->kernels->dot(site->a + r * job->n_in, job->x + row * job->n_in, job->n_in);
    float *y = job->y + row * job->n_out;
    for (size_t i = 0; i < job->n_out && site->rank > 0; i++) {
        double sum = 0;
        for (uint32_t r = 0; r < site->rank; r++)
            sum += (double)site->b[i * site->rank + r] * sums[r];
        y[i] = (float)((double)y[i] + factor * sum);
    }
}

void reference_add_adapters(const struct reference_step *step, const serverd_node *node)
{
    const serverd_graph *graph = step->graph;
    const uint32_t *operands = graph->operands + node->first_operand;
    const serverd_tensor *weights = reference_tensor(graph, node, 1);
    if (!step->adapters || !step->batch->adapter_slot)
        return;
    struct adapter_job job = {.step = step,
                              .kernels = reference_kernels_best(),
                              .node = (uint32_t)(node - graph->nodes),
                              .kind = node_output(graph, node)->dims[0],
                              .x = step->values[operands[0]],
                              .y = step->values[operands[node->n_inputs]],
                              .n_in = weights->dims[1],
                              .n_out = weights->dims[0]};
    size_t n_rows = reference_rows(step->batch, job.kind);
    if (n_rows > 0)
        step->host->parallel_for(step->host->context, (uint32_t)n_rows, add_to_row, &job);
}
