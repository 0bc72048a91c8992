/* The choice of a device for each node: the way through the graph that takes least time, where
 * going from one device to another costs a hand-over. */
#include "base/error.h"
#include "base/numeric.h"
#include "program/op.h"
#include "runtime/placement_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Another device takes over: the call, a barrier; and bytes that the next one has not in its
 * caches. */
#define HANDOVER_SECONDS          5e-6
#define HANDOVER_BYTES_PER_SECOND 10e9

/* Rows of the average step, as placement_seconds weighs it. */
#define AVERAGE_ROWS (0.25 * 1 + 0.25 * 16 + 0.5 * 512)

/* The best way to stand before a node with the last node on a device. */
struct way {
    double seconds; /* INFINITY: there is none */
    uint32_t from_node;
    uint8_t from_device;
};

struct cut {
    struct placement *placement;
    const serverd_graph *graph;
    struct way *ways; /* [n_nodes + 1][n_devices] */
    double *handover; /* [n_nodes] seconds to change the device before a node; INFINITY: never */
};

static struct way *way_at(const struct cut *cut, uint32_t node, uint32_t device)
{
    return &cut->ways[(size_t)node * cut->placement->n_devices + device];
}

/* ---- where devices may change ---------------------------------------------------------------- */

/* Bytes of one row that a node reads: at least they pass from one device to another before it. */
static void find_read_bytes(const struct cut *cut, double *bytes)
{
    const serverd_graph *graph = cut->graph;
    for (uint32_t n = 0; n < graph->n_nodes; n++) {
        bytes[n] = 0;
        for (uint32_t i = 0; i < graph->nodes[n].n_inputs; i++) {
            const serverd_value *value = node_input(graph, &graph->nodes[n], i);
            if (value->kind == SERVERD_VALUE_ACTIVATION)
                bytes[n] += (double)value_width(value) * sizeof(float);
        }
    }
}

/* A layer's query, key and value layers, what is between, and its attention stay together. */
static void keep_attention_together(const struct cut *cut)
{
    const serverd_graph *graph = cut->graph;
    for (uint32_t n = 0; n < graph->n_nodes; n++) {
        if (graph->nodes[n].op != SERVERD_OP_ATTN)
            continue;
        uint32_t first = n;
        for (uint32_t i = n; i-- > 0 && graph->nodes[i].layer == graph->nodes[n].layer &&
                             graph->nodes[i].op != SERVERD_OP_ATTN;)
            if (graph->nodes[i].op == SERVERD_OP_LINEAR)
                first = i;
        for (uint32_t i = first + 1; i <= n; i++)
            cut->handover[i] = INFINITY;
    }
}

/* Layers are not cut, but where ranks meet another one may take over in between. */
static bool is_inside_layer(const serverd_graph *graph, uint32_t node)
{
    const serverd_node *n = &graph->nodes[node], *before = n - 1;
    return n->layer == before->layer && !op_is_collective(n->op) && !op_is_collective(before->op);
}

static void find_handovers(const struct cut *cut, bool is_free)
{
    const struct placement *placement = cut->placement;
    const serverd_graph *graph = cut->graph;
    find_read_bytes(cut, cut->handover);
    for (uint32_t n = 0; n < graph->n_nodes; n++)
        cut->handover[n] =
            HANDOVER_SECONDS + cut->handover[n] * AVERAGE_ROWS / HANDOVER_BYTES_PER_SECOND;
    for (uint32_t n = 1; n < graph->n_nodes && placement->is_hetero && !is_free; n++)
        if (is_inside_layer(graph, n))
            cut->handover[n] = INFINITY;
    if (!is_free)
        keep_attention_together(cut);
    for (uint32_t n = 1; n < graph->n_nodes; n++) /* the user wins */
        if (placement->placed[n] != placement->placed[n - 1] && isinf(cut->handover[n]))
            cut->handover[n] = HANDOVER_SECONDS;
}

/* ---- the least way --------------------------------------------------------------------------- */

static bool is_usable(const struct placement *placement, uint32_t device, uint32_t node)
{
    return placement->devices[device].reason == SERVERD_REASON_NONE &&
           placement_is_allowed(placement, device, node);
}

/* Nodes from `node` on that the device would take together. */
static uint32_t claimed_nodes(const struct placement *placement, uint32_t device, uint32_t node)
{
    if (!is_usable(placement, device, node))
        return 0;
    uint32_t claimed = placement_claim(placement, device, node)->n_nodes, n = 0;
    while (n < claimed && placement_is_allowed(placement, device, node + n))
        n++;
    return n;
}

/* Unknown costs are those of the best that are known. */
static double seconds_of(const struct placement *placement, uint32_t device, uint32_t node)
{
    double known = placement_seconds(placement_claim(placement, device, node));
    if (known > 0)
        return known;
    for (uint32_t d = 0; d < placement->n_devices; d++) {
        const struct placement_claim *claim = placement_claim(placement, d, node);
        double seconds = placement_seconds(claim);
        if (claim->n_nodes > 0 && seconds > 0 && (known == 0 || seconds < known))
            known = seconds;
    }
    return known;
}

/* Ways on from a node; of equal ones the first device's. */
static void go_on(const struct cut *cut, uint32_t node)
{
    const struct placement *placement = cut->placement;
    for (uint32_t d = 0; d < placement->n_devices; d++) {
        uint32_t n = claimed_nodes(placement, d, node);
        if (n == 0)
            continue;
        struct way best = {.seconds = node == 0 ? 0 : INFINITY, .from_node = node};
        for (uint32_t e = 0; e < placement->n_devices && node > 0; e++) {
            double seconds = way_at(cut, node, e)->seconds + (d == e ? 0 : cut->handover[node]);
            if (seconds < best.seconds) {
                best.seconds = seconds;
                best.from_device = (uint8_t)e;
            }
        }
        best.seconds += seconds_of(placement, d, node);
        if (best.seconds < way_at(cut, node + n, d)->seconds)
            *way_at(cut, node + n, d) = best;
    }
}

/* False: there is no way to the end. */
static bool find_way(const struct cut *cut)
{
    struct placement *placement = cut->placement;
    const uint32_t n_nodes = cut->graph->n_nodes;
    for (uint32_t n = 0; n <= n_nodes; n++)
        for (uint32_t d = 0; d < placement->n_devices; d++)
            way_at(cut, n, d)->seconds = INFINITY;
    for (uint32_t n = 0; n < n_nodes; n++)
        go_on(cut, n);
    uint32_t device = 0;
    for (uint32_t d = 1; d < placement->n_devices; d++)
        if (way_at(cut, n_nodes, d)->seconds < way_at(cut, n_nodes, device)->seconds)
            device = d;
    if (isinf(way_at(cut, n_nodes, device)->seconds))
        return false;
    for (uint32_t node = n_nodes; node > 0;) {
        const struct way *way = way_at(cut, node, device);
        memset(placement->chosen + way->from_node, (int)device, node - way->from_node);
        device = way->from_device;
        node = way->from_node;
    }
    return true;
}

/* ---- impossible ------------------------------------------------------------------------------ */

/* The first node that nobody takes, and why the device that it should go to does not. */
static serverd_status say_why(const struct placement *placement, serverd_error *err)
{
    const serverd_graph *graph = placement->graph;
    for (uint32_t n = 0; n < graph->n_nodes; n++) {
        const uint32_t op = graph->nodes[n].op;
        uint32_t wanted = UINT32_MAX;
        bool is_taken = false;
        for (uint32_t d = 0; d < placement->n_devices; d++) {
            if (!is_usable(placement, d, n))
                continue;
            is_taken |= placement_claim(placement, d, n)->n_nodes > 0;
            if (wanted == UINT32_MAX || op_is_collective(op))
                wanted = d; /* of these the last one, which is for nothing else */
        }
        if (is_taken)
            continue;
        if (wanted == UINT32_MAX)
            return fail(err, SERVERD_UNSUPPORTED, "device %.64s: nobody runs node %u (%s)",
                        placement->device_text, n, op_info(op)->name);
        serverd_claim claim;
        (void)placement_ask(placement, wanted, n, &claim, err);
        return fail(err, SERVERD_UNSUPPORTED, "device %s: cannot run node %u (%s): %s%s%.127s",
                    placement->devices[wanted].name, n, op_info(op)->name,
                    placement_reason_name(claim.reason), claim.text[0] ? ": " : "", claim.text);
    }
    return fail(err, SERVERD_UNSUPPORTED, "device %.64s: no way to cut the graph",
                placement->device_text);
}

serverd_status placement_choose(struct placement *placement, serverd_error *err)
{
    const serverd_graph *graph = placement->graph;
    struct cut cut = {.placement = placement,
                      .graph = graph,
                      .ways =
                          calloc(((size_t)graph->n_nodes + 1) * max_size(placement->n_devices, 1),
                                 sizeof *cut.ways),
                      .handover = calloc(max_size(graph->n_nodes, 1), sizeof *cut.handover)};
    serverd_status status = SERVERD_OK;
    if (!cut.ways || !cut.handover) {
        status = fail(err, SERVERD_NOMEM, "no memory to place %u nodes", graph->n_nodes);
    } else {
        find_handovers(&cut, false);
        bool is_found = find_way(&cut);
        if (!is_found) { /* where not even one device takes a whole group */
            find_handovers(&cut, true);
            is_found = find_way(&cut);
        }
        if (!is_found)
            status = say_why(placement, err);
        else if (placement->is_hetero && placement->n_devices <= LIMIT_HETERO_DEVICES &&
                 !placement_fits(placement))
            status = placement_fit(placement, cut.handover, err);
    }
    free(cut.ways);
    free(cut.handover);
    return status;
}
