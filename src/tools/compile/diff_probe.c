#include "tools/compile/diff_probe.h"

#include "base/error.h"
#include "base/numeric.h"
#include "program/dtype.h"
#include "program/op.h"

#include <stdlib.h>
#include <string.h>

#define VALUE_ALIGNMENT 64

/* ---- opening --------------------------------------------------------------------------------- */

/* The first instance of the same delegate, whose forms serve for all of them. */
static uint32_t first_alike(const struct instances *instances, uint32_t index)
{
    uint32_t i = 0;
    while (instances->items[i].delegate != instances->items[index].delegate)
        i++;
    return i;
}

static serverd_status pack_for(struct probe *probe, uint32_t index, serverd_error *err)
{
    const struct subject *subject = probe->subject;
    const serverd_graph *graph = &subject->program->graph;
    const serverd_delegate *delegate = probe->instances.items[index].delegate;
    bool *is_wanted = calloc(max_size(graph->n_tensors, 1), sizeof *is_wanted);
    if (!is_wanted)
        return fail(err, SERVERD_NOMEM, "no memory to pack");
    for (uint32_t n = 0; n < graph->n_nodes; n++) {
        uint32_t device = subject->placement->chosen[n];
        if (subject->placement->devices[device].delegate != delegate)
            continue;
        for (uint32_t i = 0; i < graph->nodes[n].n_inputs; i++) {
            const serverd_value *value = node_input(graph, &graph->nodes[n], i);
            if (value->kind == SERVERD_VALUE_CONSTANT)
                is_wanted[value->tensor] = true;
        }
    }
    const struct packing packing = {.program = subject->program,
                                    .delegate = delegate,
                                    .is_wanted = is_wanted,
                                    .pool = subject->pool};
    serverd_status status = pack_weights(&packing, &probe->packed[index], err);
    free(is_wanted);
    return status;
}

static serverd_status create_kv(struct probe *probe, serverd_error *err)
{
    serverd_kv_spec spec = probe->subject->program->kv;
    uint32_t failed;
    if (spec.n_layers == 0)
        return SERVERD_OK;
    spec.struct_bytes = sizeof spec;
    spec.dtype = DTYPE_F32;
    spec.page_tokens = SERVERD_PAGE_TOKENS;
    serverd_status status =
        instances_divide_kv(&probe->instances, probe->subject->placement, &spec, &failed, err);
    uint32_t n_pages = (probe->limits.max_rows + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS;
    return status == SERVERD_OK ? instances_create_kv(&probe->instances, n_pages, 0, &failed, err)
                                : status;
}

static serverd_status take_arrays(struct probe *probe, serverd_error *err)
{
    size_t n = probe->limits.max_rows;
    probe->token = calloc(n, sizeof *probe->token);
    probe->position = calloc(n, sizeof *probe->position);
    probe->zero = calloc(n, sizeof *probe->zero);
    probe->page = calloc(n, sizeof *probe->page);
    probe->logit_row = calloc(n, sizeof *probe->logit_row);
    if (!probe->token || !probe->position || !probe->zero || !probe->page || !probe->logit_row)
        return fail(err, SERVERD_NOMEM, "no memory for %zu rows", n);
    for (size_t i = 0; i < n; i++) {
        probe->position[i] = (int32_t)i;
        probe->page[i] = (uint32_t)i;
    }
    return SERVERD_OK;
}

serverd_status probe_open(struct probe *probe, const struct subject *subject, uint32_t max_tokens,
                          uint32_t max_logit_rows, serverd_error *err)
{
    *probe = (struct probe){.subject = subject,
                            .limits = {.struct_bytes = sizeof probe->limits,
                                       .max_rows = max_tokens,
                                       .max_logit_rows = max_logit_rows,
                                       .max_seqs = 1,
                                       .max_context = max_tokens}};
    uint32_t failed;
    bool is_device;
    serverd_status status = take_arrays(probe, err);
    if (status == SERVERD_OK)
        status = instances_open(&probe->instances, subject->placement, &failed, &is_device, err);
    for (uint32_t i = 0; i < probe->instances.n && status == SERVERD_OK; i++)
        if (first_alike(&probe->instances, i) == i)
            status = pack_for(probe, i, err);
    return status == SERVERD_OK ? create_kv(probe, err) : status;
}

void probe_close(struct probe *probe)
{
    instances_close(&probe->instances);
    for (uint32_t i = 0; i < LIMIT_DEVICES; i++)
        packed_weights_free(&probe->packed[i]);
    free(probe->token);
    free(probe->position);
    free(probe->zero);
    free(probe->page);
    free(probe->logit_row);
    *probe = (struct probe){0};
}

/* ---- running --------------------------------------------------------------------------------- */

void probe_begin(struct probe *probe, const int32_t *token, uint32_t n, const uint32_t *logit_row,
                 uint32_t n_logit_rows)
{
    bool is_encoder = probe->subject->program->config.is_encoder;
    memcpy(probe->token, token, n * sizeof *token);
    memcpy(probe->logit_row, logit_row, n_logit_rows * sizeof *logit_row);
    probe->batch = (serverd_batch){.struct_bytes = sizeof probe->batch,
                                   .n_rows = n,
                                   .n_seqs = 1,
                                   .n_logit_rows = is_encoder ? 0 : n_logit_rows,
                                   .token = probe->token,
                                   .position = probe->position,
                                   .row_seq = probe->zero,
                                   .page_table = is_encoder ? NULL : probe->page,
                                   .max_pages = is_encoder ? 0 : probe->limits.max_rows,
                                   .logit_row = probe->logit_row,
                                   .step = probe->batch.step + 1};
}

size_t probe_floats(const struct probe *probe, uint32_t value)
{
    const serverd_value *v = &probe->subject->program->graph.values[value];
    size_t rows = probe->batch.n_rows;
    if (v->dims[0] != SERVERD_DIM_ROWS)
        rows = v->dims[0] == SERVERD_DIM_SEQS ? 1 : probe->batch.n_logit_rows;
    return rows * value_width(v);
}

static bool take_value(const struct probe *probe, struct probe_values *values, uint32_t value)
{
    size_t bytes;
    if (values->rows[value])
        return true;
    if (!size_mul(max_size(probe_floats(probe, value), 1), sizeof(float), &bytes) ||
        !size_align(bytes, VALUE_ALIGNMENT, &bytes))
        return false;
    return (values->rows[value] = aligned_alloc(VALUE_ALIGNMENT, bytes)) != NULL;
}

/* The node's activations, each once, ascending: at most as many as an operation has inputs. */
static uint32_t list_inputs(const serverd_graph *graph, uint32_t node, uint32_t out[8])
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < graph->nodes[node].n_inputs && n < 8; i++) {
        uint32_t value = graph->operands[graph->nodes[node].first_operand + i], at = 0;
        if (graph->values[value].kind != SERVERD_VALUE_ACTIVATION)
            continue;
        while (at < n && out[at] < value)
            at++;
        if (at < n && out[at] == value)
            continue;
        memmove(out + at + 1, out + at, (n - at) * sizeof *out);
        out[at] = value;
        n++;
    }
    return n;
}

serverd_status probe_run(struct probe *probe, uint32_t node, const struct probe_values *in,
                         struct probe_values *out, serverd_error *err)
{
    const serverd_graph *graph = &probe->subject->program->graph;
    const serverd_node *n = &graph->nodes[node];
    uint32_t inputs[9], output = graph->operands[n->first_operand + n->n_inputs];
    const serverd_partition view = {.struct_bytes = sizeof view,
                                    .first_node = node,
                                    .n_nodes = 1,
                                    .n_inputs = list_inputs(graph, node, inputs),
                                    .n_outputs = 1,
                                    .inputs = inputs,
                                    .outputs = &output};
    const float *from[8];
    for (uint32_t i = 0; i < view.n_inputs; i++)
        from[i] = in->rows[inputs[i]];
    if (!take_value(probe, out, output))
        return fail(err, SERVERD_NOMEM, "node %u: no memory for its output", node);
    struct instance *item =
        instances_of(&probe->instances, probe->subject->placement->chosen[node]);
    uint32_t packed = first_alike(&probe->instances, (uint32_t)(item - probe->instances.items));
    serverd_handle *handle;
    serverd_status status = item->delegate->load(
        item->instance, graph, &view, (const void *const *)probe->packed[packed].tensor,
        &probe->limits, item->kv ? &item->spec : NULL, &handle, err);
    if (status != SERVERD_OK)
        return error_context(err, "node %u", node);
    status =
        item->delegate->execute(handle, &probe->batch, item->kv, from, &out->rows[output], err);
    item->delegate->unload(handle);
    return status == SERVERD_OK ? SERVERD_OK : error_context(err, "node %u", node);
}

/* ---- values ---------------------------------------------------------------------------------- */

serverd_status probe_values_init(struct probe_values *values, const serverd_graph *graph,
                                 serverd_error *err)
{
    values->graph = graph;
    values->rows = calloc(max_size(graph->n_values, 1), sizeof *values->rows);
    return values->rows ? SERVERD_OK
                        : fail(err, SERVERD_NOMEM, "no memory for %u values", graph->n_values);
}

void probe_values_drop(struct probe_values *values, uint32_t value)
{
    free(values->rows[value]);
    values->rows[value] = NULL;
}

void probe_values_deinit(struct probe_values *values)
{
    for (uint32_t v = 0; values->rows && v < values->graph->n_values; v++)
        free(values->rows[v]);
    free(values->rows);
    *values = (struct probe_values){0};
}
