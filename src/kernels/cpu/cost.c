/* What a node costs here, estimated from the bytes and multiply-adds it takes. */
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"
#include "program/op.h"

#include <string.h>

/* A memory of the kind that such processors have. */
#define BYTES_PER_SECOND 20e9

/* Numbers that go in and come out are in a cache, most of the time. */
#define ACTIVATION_BYTES_PER_SECOND 40e9

/* Handing a phase to the threads; several nodes share one. */
#define NODE_SECONDS 1e-6

/* Keys that a row sees, if it sees all of them. */
#define TYPICAL_CONTEXT 512

/* Multiply-adds of a thread with integer codes; floats take three times as long. */
static const struct {
    const char *level;
    double macs_per_second;
} speeds[] = {
    {"generic", 1e9}, {"avx2", 25e9},       {"avxvnni", 50e9},
    {"avx512", 80e9}, {"avx512bf16", 80e9}, {"amx", 160e9},
};

static double macs_per_second(const serverd_host *host)
{
    const char *level = cpu_kernels_best()->name;
    for (size_t i = 0; i < sizeof speeds / sizeof *speeds; i++)
        if (strcmp(speeds[i].level, level) == 0)
            return speeds[i].macs_per_second * host->n_workers;
    return speeds[0].macs_per_second * host->n_workers;
}

/* Of T rows of a step; of many rows, which are a prompt, one result is wanted. */
static double rows_of(const serverd_value *value, double n_rows)
{
    return value->dims[0] == SERVERD_DIM_ROWS || n_rows <= 16 ? n_rows : 1;
}

static uint64_t resident_bytes(const serverd_graph *graph, const serverd_node *node)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < node->n_inputs; i++) {
        const serverd_value *value = node_input(graph, node, i);
        if (value->kind != SERVERD_VALUE_CONSTANT)
            continue;
        const serverd_tensor *tensor = &graph->tensors[value->tensor];
        size_t packed;
        bool is_matrix = node->op == SERVERD_OP_LINEAR && i == 1;
        if (is_matrix &&
            packed_bytes(packed_form(tensor->dtype), tensor->dims[0], tensor->dims[1], &packed))
            sum += packed;
        else
            sum += tensor->bytes;
    }
    return sum;
}

/* For one row of the output. */
static double macs_of(const serverd_graph *graph, const serverd_node *node)
{
    if (node->op == SERVERD_OP_LINEAR) {
        const serverd_tensor *weights = cpu_linear_weights(graph, node);
        double macs = (double)weights->dims[0] * (double)weights->dims[1];
        return packed_is_float(packed_form(weights->dtype)) ? 3 * macs : macs;
    }
    if (node->op != SERVERD_OP_ATTN)
        return 0;
    const serverd_attn *a = &node->attributes.attn;
    double keys = a->window ? (double)min_size(a->window, TYPICAL_CONTEXT) : TYPICAL_CONTEXT;
    return 3 * keys * a->n_heads * (a->k_dim + a->v_dim);
}

void cpu_estimate(const serverd_host *host, const serverd_graph *graph, const serverd_node *node,
                  serverd_claim *out)
{
    static const double rows[3] = {1, 16, 512};
    const serverd_value *value = node_output(graph, node);
    out->resident_bytes = resident_bytes(graph, node);
    /* of a table only the rows that are wanted are read */
    double weights = node->op == SERVERD_OP_EMBED ? 0 : (double)out->resident_bytes;
    double macs = macs_of(graph, node), numbers = (double)value_width(value);
    for (uint32_t i = 0; i < node->n_inputs; i++)
        if (node_input(graph, node, i)->kind == SERVERD_VALUE_ACTIVATION)
            numbers += (double)value_width(node_input(graph, node, i));
    for (int i = 0; i < 3; i++) {
        double n = rows_of(value, rows[i]);
        double reading = weights / BYTES_PER_SECOND;
        double computing = macs * n / macs_per_second(host);
        out->seconds[i] = (float)(NODE_SECONDS + (reading > computing ? reading : computing) +
                                  numbers * n * sizeof(float) / ACTIVATION_BYTES_PER_SECOND);
    }
}
