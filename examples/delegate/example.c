/* A back-end of one's own, as small as one can be: it takes two operations, rms_norm and glu, and
 * leaves the rest to others. It needs the installed headers of serverd and the C library, nothing
 * else:
 *
 *     cc -O2 -shared -fPIC -o example.so example.c -lm
 *     serverd --delegate ./example.so --place rms_norm=example,glu=example --explain MODEL
 *
 * With EXAMPLE_DELEGATE_FAIL=open in the environment it refuses to work, so that one can see what
 * becomes of its nodes. */
#include <serverd/delegate.h>

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An opened device, and a loaded partition: the host knows them as pointers. */
struct serverd_instance {
    const serverd_host *host;
};

struct serverd_handle {
    const serverd_host *host;
    const serverd_graph *graph;
    const serverd_partition *partition;
    float **values; /* [graph->n_values] rows of a value; those inside the partition are owned */
};

static serverd_status refuse(serverd_error *err, serverd_status code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    err->code = code;
    err->node = UINT32_MAX;
    (void)vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    return code;
}

/* ---- the graph ------------------------------------------------------------------------------- */

/* Operands are inputs, then outputs; all activations are matrices [rows][columns]. */
static uint32_t operand(const serverd_graph *graph, const serverd_node *node, uint32_t i)
{
    return graph->operands[node->first_operand + i];
}

static uint32_t output_of(const serverd_graph *graph, const serverd_node *node)
{
    return operand(graph, node, node->n_inputs);
}

static size_t width_of(const serverd_graph *graph, uint32_t value)
{
    return (size_t)graph->values[value].dims[1];
}

static uint32_t rows_of(const serverd_batch *batch, const serverd_value *value)
{
    switch (value->dims[0]) {
    case SERVERD_DIM_SEQS:
        return batch->n_seqs;
    case SERVERD_DIM_SELECTED:
        return batch->n_logit_rows;
    default:
        return batch->n_rows;
    }
}

/* ---- what it can do -------------------------------------------------------------------------- */

static serverd_status example_devices(const serverd_host *host, serverd_device *out, uint32_t cap,
                                      uint32_t *n, serverd_error *err)
{
    (void)host, (void)err;
    *n = 1;
    if (cap > 0) {
        memset(out, 0, sizeof *out);
        out->struct_bytes = sizeof *out;
        out->memory_bytes = out->free_bytes = UINT64_C(1) << 40; /* it needs next to nothing */
        (void)snprintf(out->name, sizeof out->name, "plain C in double precision");
    }
    return SERVERD_OK;
}

static serverd_status example_match(const serverd_host *host, const serverd_graph *graph,
                                    uint32_t index, serverd_claim *out, serverd_error *err)
{
    (void)host, (void)err;
    const serverd_node *node = &graph->nodes[index];
    memset(out, 0, sizeof *out);
    out->struct_bytes = sizeof *out;
    if (node->op != SERVERD_OP_RMS_NORM && node->op != SERVERD_OP_GLU) {
        out->reason = SERVERD_REASON_OP;
        return SERVERD_OK;
    }
    if (node->op == SERVERD_OP_GLU && node->attributes.activation != SERVERD_ACT_SILU &&
        node->attributes.activation != SERVERD_ACT_GELU_TANH) {
        out->reason = SERVERD_REASON_OP;
        (void)snprintf(out->text, sizeof out->text, "glu with another function than silu or gelu");
        return SERVERD_OK;
    }
    out->n_nodes = 1;
    double elements = (double)width_of(graph, output_of(graph, node));
    const double rows[3] = {1, 16, 512};
    for (int i = 0; i < 3; i++) /* some ten nanoseconds each: honest, so rarely the best offer */
        out->seconds[i] = (float)(elements * rows[i] * 10e-9);
    return SERVERD_OK;
}

/* Weights of norms are f32 vectors and are read where they lie. */
static serverd_status example_form(const serverd_tensor *tensor, serverd_form *out,
                                   serverd_error *err)
{
    (void)err;
    memset(out, 0, sizeof *out);
    out->struct_bytes = sizeof *out;
    out->layout = SERVERD_LAYOUT_ROWS;
    out->bytes = tensor->bytes;
    out->alignment = 1;
    return SERVERD_OK;
}

static serverd_status example_pack(const serverd_tensor *tensor, const serverd_form *form,
                                   uint64_t first_row, uint64_t n_rows, void *dst,
                                   serverd_error *err)
{
    (void)form, (void)first_row, (void)n_rows, (void)dst;
    return refuse(err, SERVERD_INTERNAL, "example: %s needs no packing", tensor->name);
}

/* ---- opening and loading --------------------------------------------------------------------- */

static serverd_status example_open(const serverd_host *host, const serverd_device *device,
                                   serverd_instance **out, serverd_error *err)
{
    (void)device;
    const char *fail = getenv("EXAMPLE_DELEGATE_FAIL");
    if (fail && strcmp(fail, "open") == 0)
        return refuse(err, SERVERD_UNSUPPORTED, "example: told to fail");
    serverd_instance *instance = calloc(1, sizeof *instance);
    if (!instance)
        return refuse(err, SERVERD_NOMEM, "example: no memory");
    instance->host = host;
    *out = instance;
    return SERVERD_OK;
}

static void example_close(serverd_instance *instance)
{
    free(instance);
}

static bool is_output(const serverd_partition *partition, uint32_t value)
{
    for (uint32_t i = 0; i < partition->n_outputs; i++)
        if (partition->outputs[i] == value)
            return true;
    return false;
}

static void example_unload(serverd_handle *handle)
{
    const serverd_partition *partition = handle->partition;
    for (uint32_t n = 0; handle->values && n < partition->n_nodes; n++) {
        uint32_t value = output_of(handle->graph, &handle->graph->nodes[partition->first_node + n]);
        if (!is_output(partition, value))
            free(handle->values[value]);
    }
    free(handle->values);
    free(handle);
}

/* All memory is taken here: what passes from one node of the partition to the next. */
static serverd_status example_load(serverd_instance *instance, const serverd_graph *graph,
                                   const serverd_partition *partition, const void *const *packed,
                                   const serverd_limits *limits, const serverd_kv_spec *kv,
                                   serverd_handle **out, serverd_error *err)
{
    (void)packed, (void)kv;
    const char *fail = getenv("EXAMPLE_DELEGATE_FAIL");
    if (fail && strcmp(fail, "load") == 0)
        return refuse(err, SERVERD_NOMEM, "example: told to fail");
    serverd_handle *handle = calloc(1, sizeof *handle);
    if (!handle)
        return refuse(err, SERVERD_NOMEM, "example: no memory");
    handle->host = instance->host;
    handle->graph = graph;
    handle->partition = partition;
    handle->values = calloc(graph->n_values, sizeof *handle->values);
    bool fits = handle->values != NULL;
    for (uint32_t n = 0; fits && n < partition->n_nodes; n++) {
        uint32_t value = output_of(graph, &graph->nodes[partition->first_node + n]);
        size_t most = limits->max_rows;
        if (limits->max_logit_rows > most)
            most = limits->max_logit_rows;
        if (limits->max_seqs > most)
            most = limits->max_seqs;
        if (is_output(partition, value))
            continue; /* lies in the host's memory */
        handle->values[value] = calloc(most * width_of(graph, value), sizeof(float));
        fits = handle->values[value] != NULL;
    }
    if (!fits) {
        example_unload(handle);
        return refuse(err, SERVERD_NOMEM, "example: no memory");
    }
    *out = handle;
    return SERVERD_OK;
}

/* ---- the arithmetic -------------------------------------------------------------------------- */

struct job {
    const serverd_handle *handle;
    const serverd_node *node;
};

static void rms_norm_row(const struct job *job, size_t row)
{
    const serverd_graph *graph = job->handle->graph;
    const uint32_t x_value = operand(graph, job->node, 0), y_value = output_of(graph, job->node);
    const float *w = graph->tensors[graph->values[operand(graph, job->node, 1)].tensor].data;
    const size_t width = width_of(graph, x_value), group = job->node->attributes.norm.width;
    const float *x = job->handle->values[x_value] + row * width;
    float *y = job->handle->values[y_value] + row * width;
    for (size_t at = 0; at < width; at += group) {
        double squares = 0;
        for (size_t i = 0; i < group; i++)
            squares += (double)x[at + i] * (double)x[at + i];
        double scale = 1 / sqrt(squares / (double)group + (double)job->node->attributes.norm.eps);
        for (size_t i = 0; i < group; i++)
            y[at + i] = (float)((double)x[at + i] * scale * (double)w[i]);
    }
}

static double activate(uint32_t function, double x)
{
    if (function == SERVERD_ACT_SILU)
        return x / (1 + exp(-x));
    return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

static void glu_row(const struct job *job, size_t row)
{
    const serverd_graph *graph = job->handle->graph;
    const size_t width = width_of(graph, output_of(graph, job->node));
    const float *a = job->handle->values[operand(graph, job->node, 0)] + row * width;
    const float *b = job->handle->values[operand(graph, job->node, 1)] + row * width;
    float *y = job->handle->values[output_of(graph, job->node)] + row * width;
    for (size_t i = 0; i < width; i++)
        y[i] = (float)(activate(job->node->attributes.activation, (double)a[i]) * (double)b[i]);
}

static void run_row(void *arg, uint32_t row, uint32_t worker)
{
    (void)worker;
    const struct job *job = arg;
    if (job->node->op == SERVERD_OP_RMS_NORM)
        rms_norm_row(job, row);
    else
        glu_row(job, row);
}

static void run_node(const serverd_handle *handle, uint32_t index, const serverd_batch *batch)
{
    const serverd_host *host = handle->host;
    const serverd_node *node = &handle->graph->nodes[index];
    struct job job = {.handle = handle, .node = node};
    serverd_trace_event event = {.first_node = index, .n_nodes = 1};
    event.n_rows = rows_of(batch, &handle->graph->values[output_of(handle->graph, node)]);
    if (host->trace)
        event.start_ns = host->now_ns(host->context);
    if (event.n_rows > 0)
        host->parallel_for(host->context, event.n_rows, run_row, &job);
    if (!host->trace)
        return;
    event.end_ns = host->now_ns(host->context);
    host->trace(host->context, &event);
}

static serverd_status example_execute(serverd_handle *handle, const serverd_batch *batch,
                                      serverd_kv *kv, const float *const *inputs,
                                      float *const *outputs, serverd_error *err)
{
    (void)kv, (void)err;
    const serverd_partition *partition = handle->partition;
    for (uint32_t i = 0; i < partition->n_inputs; i++)
        handle->values[partition->inputs[i]] = (float *)inputs[i]; /* only read */
    for (uint32_t i = 0; i < partition->n_outputs; i++)
        handle->values[partition->outputs[i]] = outputs[i];
    for (uint32_t n = 0; n < partition->n_nodes; n++)
        run_node(handle, partition->first_node + n, batch);
    return SERVERD_OK;
}

/* ---- the table ------------------------------------------------------------------------------- */

static const serverd_delegate example = {
    .abi = SERVERD_DELEGATE_ABI,
    .struct_bytes = sizeof(serverd_delegate),
    .name = "example",
    .version = "1",
    .devices = example_devices,
    .match = example_match,
    .form = example_form,
    .pack = example_pack,
    .open = example_open,
    .load = example_load,
    .execute = example_execute,
    .unload = example_unload,
    .close = example_close,
};

__attribute__((visibility("default"))) const serverd_delegate *
serverd_delegate_entry(uint32_t host_abi);

const serverd_delegate *serverd_delegate_entry(uint32_t host_abi)
{
    return host_abi >> 16 == SERVERD_DELEGATE_ABI >> 16 ? &example : NULL;
}
