#include "runtime/placement.h"

#include "base/error.h"
#include "base/numeric.h"
#include "program/op.h"
#include "program/program.h"
#include "runtime/placement_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *placement_reason_name(uint32_t reason)
{
    static const char *const names[SERVERD_REASON_COUNT] = {
        [SERVERD_REASON_NONE] = "none",
        [SERVERD_REASON_OP] = "unsupported-op",
        [SERVERD_REASON_DTYPE] = "unsupported-dtype",
        [SERVERD_REASON_SHAPE] = "unsupported-shape",
        [SERVERD_REASON_LAYOUT] = "no-layout",
        [SERVERD_REASON_MEMORY] = "memory",
        [SERVERD_REASON_SLOWER] = "slower",
        [SERVERD_REASON_OVERRIDE] = "override",
        [SERVERD_REASON_UNAVAILABLE] = "unavailable",
        [SERVERD_REASON_INIT_FAILED] = "init-failed",
    };
    return reason < SERVERD_REASON_COUNT ? names[reason] : "unknown";
}

double placement_seconds(const struct placement_claim *claim)
{
    return 0.25 * (double)claim->seconds[0] + 0.25 * (double)claim->seconds[1] +
           0.5 * (double)claim->seconds[2];
}

/* ---- claims ---------------------------------------------------------------------------------- */

static bool has_state(const serverd_node *node)
{
    return node->op == SERVERD_OP_ATTN && node->attributes.attn.is_causal;
}

/* Delegates for ABI 3.0 see no segments: to them every row is of the first. */
static bool needs_segments(const serverd_graph *graph, const serverd_node *node)
{
    return node->op == SERVERD_OP_EMBED && node->attributes.embed.index == SERVERD_INDEX_SEGMENT &&
           graph->tensors[node_input(graph, node, 0)->tensor].dims[0] > 1;
}

static bool knows_segments(const serverd_delegate *delegate)
{
    return (delegate->abi & 0xffffu) >= 1;
}

/* Delegates for ABI 3.1 know of no other ranks. */
static bool knows_ranks(const serverd_delegate *delegate)
{
    return (delegate->abi & 0xffffu) >= 2;
}

/* Whether the delegate finds the weights of a node: rows, or the file has them in its form. */
static bool has_weights(const struct placement *placement, const serverd_delegate *delegate,
                        const serverd_node *node)
{
    const serverd_graph *graph = placement->graph;
    for (uint32_t i = 0; i < node->n_inputs; i++) {
        const serverd_value *value = node_input(graph, node, i);
        serverd_form form = {.struct_bytes = sizeof form};
        serverd_error ignored;
        if (value->kind != SERVERD_VALUE_CONSTANT || graph->tensors[value->tensor].data)
            continue;
        if (delegate->form(&graph->tensors[value->tensor], &form, &ignored) != SERVERD_OK ||
            (form.bytes > 0 &&
             !(placement->program &&
               program_find_form(placement->program, value->tensor, form.layout))))
            return false;
    }
    return true;
}

static float as_seconds(float x)
{
    return x > 0 && x < 1e9f ? x : 0; /* whatever a delegate says */
}

static void refuse(serverd_claim *claim, serverd_reason reason, const char *text)
{
    claim->n_nodes = 0;
    claim->reason = reason;
    (void)snprintf(claim->text, sizeof claim->text, "%s", text);
}

serverd_status placement_ask(const struct placement *placement, uint32_t device, uint32_t node,
                             serverd_claim *out, serverd_error *err)
{
    const serverd_graph *graph = placement->graph;
    const serverd_node *n = &graph->nodes[node];
    const serverd_delegate *delegate = placement->devices[device].delegate;
    *out = (serverd_claim){.struct_bytes = sizeof *out};
    serverd_status status = delegate->match(placement->host, graph, node, out, err);
    if (status != SERVERD_OK || out->n_nodes == 0)
        return status;
    if (out->n_nodes > graph->n_nodes - node || (has_state(n) && !delegate->kv_create) ||
        (needs_segments(graph, n) && !knows_segments(delegate)) ||
        (op_is_collective(n->op) && !knows_ranks(delegate)))
        refuse(out, SERVERD_REASON_OP, "");
    else if (!has_weights(placement, delegate, n))
        refuse(out, SERVERD_REASON_LAYOUT, "the program file has the weights for others only");
    return SERVERD_OK;
}

static serverd_status ask_node(struct placement *placement, uint32_t device, uint32_t node,
                               serverd_error *err)
{
    serverd_claim claim;
    serverd_status status = placement_ask(placement, device, node, &claim, err);
    if (status != SERVERD_OK)
        return error_context(err, "device %s: node %u", placement->devices[device].name, node);
    placement->claims[(size_t)device * placement->graph->n_nodes + node] = (struct placement_claim){
        .n_nodes = claim.n_nodes,
        .reason = claim.n_nodes > 0 ? SERVERD_REASON_NONE : claim.reason,
        .seconds = {as_seconds(claim.seconds[0]), as_seconds(claim.seconds[1]),
                    as_seconds(claim.seconds[2])},
        .resident_bytes = claim.resident_bytes};
    return SERVERD_OK;
}

static serverd_status ask_all(struct placement *placement, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (uint32_t d = 0; d < placement->n_devices; d++)
        for (uint32_t n = 0; n < placement->graph->n_nodes && status == SERVERD_OK; n++)
            if (placement->devices[d].reason == SERVERD_REASON_NONE)
                status = ask_node(placement, d, n, err);
    return status;
}

/* ---- partitions ------------------------------------------------------------------------------ */

struct lists {
    uint32_t *partition_of; /* [n_nodes] */
    bool *is_given;         /* [n_values] the caller or another partition reads it */
    uint32_t *seen_in;      /* [n_values] the last partition that has it among its inputs, + 1 */
    uint32_t *end;          /* of what is used of placement->values */
};

static uint32_t output_of(const serverd_graph *graph, uint32_t node)
{
    const serverd_node *n = &graph->nodes[node];
    return graph->operands[n->first_operand + n->n_inputs];
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void list_inputs(const struct placement *placement, struct lists *lists, uint32_t index)
{
    const serverd_graph *graph = placement->graph;
    serverd_partition *view = &placement->partitions[index].view;
    uint32_t *begin = lists->end;
    for (uint32_t n = view->first_node; n < view->first_node + view->n_nodes; n++)
        for (uint32_t i = 0; i < graph->nodes[n].n_inputs; i++) {
            uint32_t value = graph->operands[graph->nodes[n].first_operand + i];
            if (graph->values[value].kind != SERVERD_VALUE_ACTIVATION ||
                lists->partition_of[graph->values[value].producer] == index ||
                lists->seen_in[value] == index + 1)
                continue;
            lists->seen_in[value] = index + 1;
            lists->is_given[value] = true;
            *lists->end++ = value;
        }
    view->inputs = begin;
    view->n_inputs = (uint32_t)(lists->end - begin);
    qsort(begin, view->n_inputs, sizeof *begin, compare);
}

static void list_outputs(const struct placement *placement, struct lists *lists, uint32_t index)
{
    serverd_partition *view = &placement->partitions[index].view;
    uint32_t *begin = lists->end;
    for (uint32_t n = view->first_node; n < view->first_node + view->n_nodes; n++)
        if (lists->is_given[output_of(placement->graph, n)])
            *lists->end++ = output_of(placement->graph, n);
    view->outputs = begin;
    view->n_outputs = (uint32_t)(lists->end - begin);
    qsort(begin, view->n_outputs, sizeof *begin, compare);
}

static void cut_partitions(struct placement *placement, struct lists *lists)
{
    const serverd_graph *graph = placement->graph;
    placement->n_partitions = 0;
    for (uint32_t n = 0; n < graph->n_nodes; n++) {
        if (n == 0 || placement->chosen[n] != placement->chosen[n - 1])
            placement->partitions[placement->n_partitions++] = (struct placement_partition){
                .view = {.struct_bytes = sizeof(serverd_partition), .first_node = n},
                .device = placement->chosen[n]};
        placement->partitions[placement->n_partitions - 1].view.n_nodes++;
        lists->partition_of[n] = placement->n_partitions - 1;
    }
    lists->is_given[graph->output] = true;
    for (uint32_t p = 0; p < placement->n_partitions; p++)
        list_inputs(placement, lists, p);
    for (uint32_t p = 0; p < placement->n_partitions; p++)
        list_outputs(placement, lists, p);
}

static serverd_status make_partitions(struct placement *placement, serverd_error *err)
{
    const serverd_graph *graph = placement->graph;
    struct lists lists = {.partition_of = calloc(graph->n_nodes, sizeof *lists.partition_of),
                          .is_given = calloc(graph->n_values, sizeof *lists.is_given),
                          .seen_in = calloc(graph->n_values, sizeof *lists.seen_in),
                          .end = placement->values};
    serverd_status status = SERVERD_OK;
    if (!lists.partition_of || !lists.is_given || !lists.seen_in)
        status = fail(err, SERVERD_NOMEM, "no memory to cut a graph of %u nodes", graph->n_nodes);
    else
        cut_partitions(placement, &lists);
    free(lists.partition_of);
    free(lists.is_given);
    free(lists.seen_in);
    return status;
}

static serverd_status plan(struct placement *placement, serverd_error *err)
{
    serverd_status status = placement_choose(placement, err);
    return status == SERVERD_OK ? make_partitions(placement, err) : status;
}

/* ---- life ------------------------------------------------------------------------------------ */

static serverd_status take_arrays(struct placement *placement, const char *device,
                                  serverd_error *err)
{
    const serverd_graph *graph = placement->graph;
    size_t n = max_size(graph->n_nodes, 1);
    placement->device_text = strdup(device ? device : "auto");
    placement->placed = malloc(n);
    placement->chosen = malloc(n);
    placement->partitions = calloc(n, sizeof *placement->partitions);
    placement->values =
        calloc((size_t)graph->n_operands + graph->n_values + 1, sizeof *placement->values);
    if (!placement->device_text || !placement->placed || !placement->chosen ||
        !placement->partitions || !placement->values)
        return fail(err, SERVERD_NOMEM, "no memory to place %zu nodes", n);
    memset(placement->placed, PLACEMENT_NO_DEVICE, n);
    memset(placement->chosen, PLACEMENT_NO_DEVICE, n);
    return SERVERD_OK;
}

static serverd_status create(struct placement *placement, const struct placement_options *options,
                             serverd_error *err)
{
    serverd_status status = take_arrays(placement, options->device, err);
    if (status == SERVERD_OK)
        status = placement_read_wishes(placement, options, err);
    if (status != SERVERD_OK)
        return status;
    placement->claims =
        calloc((size_t)placement->n_devices * placement->graph->n_nodes, sizeof *placement->claims);
    if (!placement->claims)
        return fail(err, SERVERD_NOMEM, "no memory for the claims of %u devices",
                    placement->n_devices);
    status = ask_all(placement, err);
    return status == SERVERD_OK ? plan(placement, err) : status;
}

serverd_status placement_create(const serverd_graph *graph, const struct placement_options *options,
                                struct placement **out, serverd_error *err)
{
    struct placement *placement = calloc(1, sizeof *placement);
    if (!placement)
        return fail(err, SERVERD_NOMEM, "no memory for a placement");
    placement->graph = graph;
    placement->host = options->host;
    placement->program = options->program;
    serverd_status status = create(placement, options, err);
    if (status != SERVERD_OK)
        placement_destroy(placement);
    else
        *out = placement;
    return status;
}

void placement_destroy(struct placement *placement)
{
    if (!placement)
        return;
    free(placement->device_text);
    free(placement->claims);
    free(placement->placed);
    free(placement->chosen);
    free(placement->partitions);
    free(placement->values);
    free(placement);
}

serverd_status placement_without(struct placement *placement, uint32_t device,
                                 const serverd_error *reason, serverd_error *err)
{
    const serverd_graph *graph = placement->graph;
    placement->devices[device].reason = SERVERD_REASON_INIT_FAILED;
    placement->devices[device].error = *reason;
    for (uint32_t n = 0; n < graph->n_nodes; n++)
        if (placement->placed[n] == device)
            placement->placed[n] = PLACEMENT_NO_DEVICE;
    serverd_error other;
    if (plan(placement, &other) == SERVERD_OK)
        return SERVERD_OK;
    *err = *reason; /* what is to be mended */
    return err->code;
}
