/* Cutting a partition into phases. */
#include "base/error.h"
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"
#include "program/op.h"

#include <stdlib.h>
#include <string.h>

#define MADE_BEFORE (UINT32_MAX - 1)

struct planner {
    serverd_handle *handle;
    const serverd_graph *graph;
    bool *is_done;     /* [n_nodes] */
    uint32_t *made_in; /* [n_values] phase; UINT32_MAX: not yet; MADE_BEFORE: by others */
    bool *is_appended; /* [n_nodes] of attention: keys and values are in their pages */
};

static uint32_t kind_of(const serverd_node *node)
{
    if (node->op == SERVERD_OP_LINEAR)
        return PHASE_LINEAR;
    return node->op == SERVERD_OP_ATTN ? PHASE_ATTENTION : PHASE_ROWS;
}

static uint32_t output_of(const serverd_graph *graph, const serverd_node *node)
{
    return graph->operands[node->first_operand + node->n_inputs];
}

uint32_t cpu_written_by(const serverd_handle *handle, uint32_t n)
{
    uint32_t addition = handle->addition[n];
    const serverd_graph *graph = handle->graph;
    return output_of(graph, &graph->nodes[addition == CPU_NO_NODE ? n : addition]);
}

uint32_t cpu_added_value(const serverd_handle *handle, uint32_t n)
{
    const serverd_graph *graph = handle->graph;
    const serverd_node *addition = &graph->nodes[handle->addition[n]];
    const uint32_t *operands = &graph->operands[addition->first_operand];
    return operands[operands[0] == output_of(graph, &graph->nodes[n])];
}

static int64_t rows_kind(const serverd_graph *graph, const serverd_node *node)
{
    return graph->values[output_of(graph, node)].dims[0];
}

/* SELECT and POOL read other rows than their own, so what they read must be of an earlier phase. */
static bool reads_other_rows(const serverd_node *node)
{
    return node->op == SERVERD_OP_SELECT || node->op == SERVERD_OP_POOL;
}

static bool is_value_made(const struct planner *planner, uint32_t value, bool in_earlier_phase)
{
    if (planner->graph->values[value].kind == SERVERD_VALUE_CONSTANT)
        return true;
    uint32_t phase = planner->made_in[value];
    return phase != UINT32_MAX && !(in_earlier_phase && phase == planner->handle->n_phases);
}

static bool is_made(const struct planner *planner, uint32_t operand, bool in_earlier_phase)
{
    return is_value_made(planner, planner->graph->operands[operand], in_earlier_phase);
}

static bool is_ready(const struct planner *planner, uint32_t n)
{
    const serverd_node *node = &planner->graph->nodes[n];
    if (planner->is_done[n])
        return false;
    for (uint32_t i = 0; i < node->n_inputs; i++)
        if (!is_made(planner, node->first_operand + i, reads_other_rows(node)))
            return false;
    if (planner->handle->addition[n] != CPU_NO_NODE &&
        !is_value_made(planner, cpu_added_value(planner->handle, n), true))
        return false;
    return node->op != SERVERD_OP_ATTN || planner->is_appended[n];
}

/* Keys and values are appended as soon as they are there. */
static bool can_append(const struct planner *planner, uint32_t n)
{
    const serverd_node *node = &planner->graph->nodes[n];
    return node->op == SERVERD_OP_ATTN && !planner->is_appended[n] &&
           is_made(planner, node->first_operand + 1, false) &&
           is_made(planner, node->first_operand + 2, false);
}

static void add_action(struct planner *planner, struct cpu_phase *phase, uint32_t kind,
                       uint32_t index)
{
    serverd_handle *handle = planner->handle;
    handle->actions[handle->n_actions++] = (struct cpu_action){kind, index};
    phase->n_actions++;
}

static bool wants_quantising(const struct planner *planner, uint32_t value)
{
    return planner->handle->quantised_at[value] != CPU_NOWHERE;
}

static void add_node(struct planner *planner, struct cpu_phase *phase, uint32_t n)
{
    uint32_t value = cpu_written_by(planner->handle, n), addition = planner->handle->addition[n];
    add_action(planner, phase, ACTION_NODE, n);
    planner->is_done[n] = true;
    if (addition != CPU_NO_NODE)
        planner->is_done[addition] = true;
    planner->made_in[value] = planner->handle->n_phases;
    if (phase->kind == PHASE_ROWS && wants_quantising(planner, value))
        add_action(planner, phase, ACTION_QUANTISE, value);
}

/* All that works row by row and can be done now, of one kind of rows. True: there was some. */
static bool add_row_phase(struct planner *planner, const struct cpu_phase *last)
{
    serverd_handle *handle = planner->handle;
    const serverd_graph *graph = planner->graph;
    struct cpu_phase *phase = &handle->phases[handle->n_phases];
    *phase = (struct cpu_phase){.kind = PHASE_ROWS, .first_action = handle->n_actions};
    /* what linear layers and attention made and a linear layer reads next */
    if (last && last->kind != PHASE_ROWS)
        for (uint32_t i = 0; i < last->n_actions; i++) {
            uint32_t n = handle->actions[last->first_action + i].index;
            const serverd_node *node = &graph->nodes[n];
            uint32_t value = cpu_written_by(handle, n);
            if (!wants_quantising(planner, value) ||
                (phase->rows && phase->rows != rows_kind(graph, node)))
                continue;
            phase->rows = rows_kind(graph, node);
            add_action(planner, phase, ACTION_QUANTISE, value);
        }
    bool is_growing = true;
    while (is_growing) {
        is_growing = false;
        for (uint32_t n = cpu_first_node(handle); n < cpu_end_node(handle); n++) {
            const serverd_node *node = &graph->nodes[n];
            if (can_append(planner, n) && (!phase->rows || phase->rows == SERVERD_DIM_ROWS)) {
                phase->rows = SERVERD_DIM_ROWS;
                add_action(planner, phase, ACTION_APPEND, n);
                planner->is_appended[n] = true;
                is_growing = true;
            }
            if (kind_of(node) != PHASE_ROWS || !is_ready(planner, n) ||
                (phase->rows && phase->rows != rows_kind(graph, node)))
                continue;
            phase->rows = rows_kind(graph, node);
            add_node(planner, phase, n);
            is_growing = true;
        }
    }
    return phase->n_actions > 0;
}

/* The first ready linear layer and all others with its input; or one attention. */
static bool add_mixing_phase(struct planner *planner)
{
    serverd_handle *handle = planner->handle;
    const serverd_graph *graph = planner->graph;
    struct cpu_phase *phase = &handle->phases[handle->n_phases];
    *phase = (struct cpu_phase){.kind = PHASE_LINEAR, .first_action = handle->n_actions};
    uint32_t input = UINT32_MAX;
    for (uint32_t n = cpu_first_node(handle); n < cpu_end_node(handle); n++) {
        const serverd_node *node = &graph->nodes[n];
        if (node->op != SERVERD_OP_LINEAR || !is_ready(planner, n))
            continue;
        if (input == UINT32_MAX)
            input = graph->operands[node->first_operand];
        if (graph->operands[node->first_operand] == input) {
            phase->rows = rows_kind(graph, node);
            add_node(planner, phase, n);
        }
    }
    for (uint32_t n = cpu_first_node(handle); n < cpu_end_node(handle) && phase->n_actions == 0;
         n++)
        if (graph->nodes[n].op == SERVERD_OP_ATTN && is_ready(planner, n)) {
            phase->kind = PHASE_ATTENTION;
            phase->rows = SERVERD_DIM_ROWS;
            add_node(planner, phase, n);
        }
    return phase->n_actions > 0;
}

/* What others made and linear layers read becomes codes first: a phase for each kind of rows. */
static void add_input_phases(struct planner *planner)
{
    serverd_handle *handle = planner->handle;
    const serverd_partition *partition = handle->partition;
    for (int64_t rows = SERVERD_DIM_ROWS; rows >= SERVERD_DIM_SELECTED; rows--) {
        struct cpu_phase *phase = &handle->phases[handle->n_phases];
        *phase =
            (struct cpu_phase){.kind = PHASE_ROWS, .rows = rows, .first_action = handle->n_actions};
        for (uint32_t i = 0; i < partition->n_inputs; i++)
            if (wants_quantising(planner, partition->inputs[i]) &&
                planner->graph->values[partition->inputs[i]].dims[0] == rows)
                add_action(planner, phase, ACTION_QUANTISE, partition->inputs[i]);
        handle->n_phases += phase->n_actions > 0;
    }
}

/* Attention over the rows of the step. All layers keep their keys and values in one store for it:
 * the next layer's may be written only when it has ended for all rows. */
static bool sees_step(const struct planner *planner, const struct cpu_phase *phase)
{
    const struct cpu_action *action = &planner->handle->actions[phase->first_action];
    return phase->kind == PHASE_ATTENTION &&
           !planner->graph->nodes[action->index].attributes.attn.is_causal;
}

static bool cut_into_phases(struct planner *planner)
{
    serverd_handle *handle = planner->handle;
    const struct cpu_phase *last = NULL;
    add_input_phases(planner);
    for (;;) {
        bool has_rows = add_row_phase(planner, last);
        if (has_rows)
            last = &handle->phases[handle->n_phases++];
        bool has_mixing = add_mixing_phase(planner);
        if (has_mixing)
            last = &handle->phases[handle->n_phases++];
        if (!has_rows && !has_mixing)
            break;
    }
    for (uint32_t p = 1; p < handle->n_phases; p++) {
        const struct cpu_phase *before = &handle->phases[p - 1];
        struct cpu_phase *phase = &handle->phases[p];
        bool goes_on = phase->kind != PHASE_ATTENTION && !sees_step(planner, before) &&
                       phase->rows == SERVERD_DIM_ROWS && before->rows == SERVERD_DIM_ROWS;
        phase->stage = before->stage + (goes_on ? 0 : 1);
    }
    for (uint32_t n = cpu_first_node(handle); n < cpu_end_node(handle); n++)
        if (!planner->is_done[n])
            return false;
    return true;
}

/* ---- all ------------------------------------------------------------------------------------- */

/* What lies in the host's memory. */
static void mark_outer(serverd_handle *handle)
{
    const serverd_partition *partition = handle->partition;
    for (uint32_t i = 0; i < partition->n_inputs; i++)
        handle->value_at[partition->inputs[i]] = CPU_NOWHERE;
    for (uint32_t i = 0; i < partition->n_outputs; i++)
        handle->value_at[partition->outputs[i]] = CPU_NOWHERE;
}

/* Which values linear layers read as codes. */
static void mark_quantised(serverd_handle *handle)
{
    const serverd_graph *graph = handle->graph;
    for (uint32_t v = 0; v < graph->n_values; v++)
        handle->quantised_at[v] = CPU_NOWHERE;
    for (uint32_t n = cpu_first_node(handle); n < cpu_end_node(handle); n++) {
        const serverd_node *node = &graph->nodes[n];
        if (node->op == SERVERD_OP_LINEAR &&
            !packed_is_float(packed_form(cpu_linear_weights(graph, node)->dtype)))
            handle->quantised_at[graph->operands[node->first_operand]] = 0;
    }
}

/* Finds the linear layers whose output only goes into an addition (of residuals): they write the
 * sum. The other side of an addition of two such layers is a value as others. */
static void find_additions(serverd_handle *handle, uint32_t *n_readers, uint32_t *maker)
{
    const serverd_graph *graph = handle->graph;
    memset(handle->addition, 0xff, graph->n_nodes * sizeof *handle->addition);
    memset(maker, 0xff, graph->n_values * sizeof *maker);
    for (uint32_t n = cpu_first_node(handle); n < cpu_end_node(handle); n++) {
        const serverd_node *node = &graph->nodes[n];
        maker[output_of(graph, node)] = n;
        for (uint32_t i = 0; i < node->n_inputs; i++)
            n_readers[graph->operands[node->first_operand + i]]++;
    }
    for (uint32_t n = cpu_first_node(handle); n < cpu_end_node(handle); n++) {
        const serverd_node *node = &graph->nodes[n];
        for (uint32_t i = 0; i < 2 && node->op == SERVERD_OP_ADD; i++) {
            uint32_t value = graph->operands[node->first_operand + i],
                     other = graph->operands[node->first_operand + 1 - i];
            if (maker[value] == CPU_NO_NODE || n_readers[value] != 1 ||
                handle->value_at[value] == CPU_NOWHERE ||
                graph->nodes[maker[value]].op != SERVERD_OP_LINEAR ||
                graph->values[other].kind == SERVERD_VALUE_CONSTANT)
                continue;
            handle->addition[maker[value]] = n;
            break;
        }
    }
}

serverd_status cpu_plan(serverd_handle *handle, struct cpu_plan_record *or_null, serverd_error *err)
{
    const serverd_graph *graph = handle->graph;
    const serverd_partition *partition = handle->partition;
    size_t nodes = max_size(graph->n_nodes, 1), values = max_size(graph->n_values, 1);
    struct planner planner = {.handle = handle,
                              .graph = graph,
                              .is_done = calloc(nodes, sizeof(bool)),
                              .is_appended = calloc(nodes, sizeof(bool)),
                              .made_in = malloc(values * sizeof(uint32_t))};
    /* a node, its quantising, its appending; the quantising of inputs, of three kinds of rows */
    handle->actions = cpu_take(handle, (size_t)partition->n_nodes * 3 + partition->n_inputs,
                               sizeof *handle->actions);
    handle->phases =
        cpu_take(handle, (size_t)partition->n_nodes * 2 + 2 + 3, sizeof *handle->phases);
    handle->value_at = cpu_take(handle, values, sizeof *handle->value_at);
    handle->quantised_at = cpu_take(handle, values, sizeof *handle->quantised_at);
    handle->addition = cpu_take(handle, nodes, sizeof *handle->addition);
    uint32_t *n_readers = calloc(values, sizeof *n_readers);
    serverd_status status = SERVERD_OK;
    if (!planner.is_done || !planner.is_appended || !planner.made_in || !handle->actions ||
        !handle->phases || !handle->value_at || !handle->quantised_at || !handle->addition ||
        !n_readers) {
        status = fail(err, SERVERD_NOMEM, "cpu: no memory for a plan of %u nodes", graph->n_nodes);
    } else {
        mark_outer(handle);
        find_additions(handle, n_readers, planner.made_in);
        memset(planner.made_in, 0xff, values * sizeof(uint32_t));
        for (uint32_t i = 0; i < partition->n_inputs; i++)
            planner.made_in[partition->inputs[i]] = MADE_BEFORE;
        mark_quantised(handle);
        if (!cut_into_phases(&planner))
            status = fail(err, SERVERD_INTERNAL, "cpu: the graph has nodes that never get ready");
    }
    free(n_readers);
    free(planner.is_done);
    free(planner.is_appended);
    free(planner.made_in);
    return status == SERVERD_OK ? cpu_place_activations(handle, or_null, err) : status;
}

/* ---- for the host ---------------------------------------------------------------------------- */

/* A phase for each node; of an addition that a linear layer writes, that one's. */
static void record_uses(const serverd_handle *handle, uint32_t *use)
{
    for (uint32_t p = 0; p < handle->n_phases; p++)
        for (uint32_t a = 0; a < handle->phases[p].n_actions; a++) {
            const struct cpu_action *action = &handle->actions[handle->phases[p].first_action + a];
            if (action->kind != ACTION_NODE)
                continue;
            use[action->index - cpu_first_node(handle)] = p;
            if (handle->addition[action->index] != CPU_NO_NODE)
                use[handle->addition[action->index] - cpu_first_node(handle)] = p;
        }
}

serverd_status cpu_export_plan(const serverd_graph *graph, const serverd_partition *partition,
                               const serverd_limits *limits, serverd_buffer *buffers, uint32_t *use,
                               serverd_plan *out, serverd_error *err)
{
    serverd_handle *handle = calloc(1, sizeof *handle);
    struct cpu_plan_record record = {.buffers = buffers};
    if (!handle)
        return fail(err, SERVERD_NOMEM, "cpu: no memory");
    handle->graph = graph;
    handle->partition = partition;
    handle->limits = *limits;
    serverd_status status = cpu_plan(handle, &record, err);
    if (status == SERVERD_OK) {
        record_uses(handle, use);
        *out = (serverd_plan){.struct_bytes = sizeof *out,
                              .n_buffers = record.n_buffers,
                              .buffers = buffers,
                              .use = use,
                              .arena_bytes = handle->footprint.activation_bytes};
    }
    cpu_unload(handle);
    return status;
}
