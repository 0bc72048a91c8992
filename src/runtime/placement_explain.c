/* Why every node is where it is, in text. */
#include "program/op.h"
#include "runtime/placement_internal.h"

#include <inttypes.h>
#include <string.h>

static void append_seconds(struct buffer *out, double seconds)
{
    if (seconds >= 1)
        buffer_printf(out, "%.2f s", seconds);
    else if (seconds >= 1e-3)
        buffer_printf(out, "%.2f ms", seconds * 1e3);
    else
        buffer_printf(out, "%.1f us", seconds * 1e6);
}

/* Sums over some nodes of one device. */
struct cost {
    double seconds[3];
    uint64_t bytes;
    bool is_known;
};

static struct cost cost_of(const struct placement *placement, uint32_t device, uint32_t first,
                           uint32_t n)
{
    struct cost cost = {.is_known = true};
    for (uint32_t i = first; i < first + n;) {
        const struct placement_claim *claim = placement_claim(placement, device, i);
        for (int t = 0; t < 3; t++)
            cost.seconds[t] += (double)claim->seconds[t];
        cost.bytes += claim->resident_bytes;
        cost.is_known &= claim->seconds[0] > 0;
        i += claim->n_nodes > 0 ? claim->n_nodes : 1;
    }
    return cost;
}

static void append_cost(struct buffer *out, const struct cost *cost)
{
    static const unsigned rows[] = {1, 16, 512};
    if (!cost->is_known)
        buffer_append_str(out, "cost unknown");
    for (int t = 0; t < 3 && cost->is_known; t++) {
        buffer_printf(out, "%s%u row%s ", t ? ", " : "", rows[t], t ? "s" : "");
        append_seconds(out, cost->seconds[t]);
    }
    if (cost->bytes > 0)
        buffer_printf(out, ", weights %.1f MB", (double)cost->bytes / 1e6);
}

/* "embed, blk.0-7, output" */
static void append_places(struct buffer *out, const serverd_graph *graph,
                          const serverd_partition *view)
{
    uint32_t first = UINT32_MAX, last = 0;
    bool is_embed = false, is_output = false;
    for (uint32_t i = 0; i < view->first_node; i++)
        if (graph->nodes[i].layer != UINT32_MAX)
            last = graph->nodes[i].layer; /* so that what has no layer is behind them */
    bool is_behind = view->first_node > 0 && last > 0;
    for (uint32_t i = 0; i < view->first_node && !is_behind; i++)
        is_behind = graph->nodes[i].layer != UINT32_MAX;
    last = 0;
    for (uint32_t i = view->first_node; i < view->first_node + view->n_nodes; i++) {
        uint32_t layer = graph->nodes[i].layer;
        if (layer == UINT32_MAX) {
            is_embed |= !is_behind;
            is_output |= is_behind;
            continue;
        }
        is_behind = true;
        first = layer < first ? layer : first;
        last = layer > last ? layer : last;
    }
    const char *separator = "";
    if (is_embed) {
        buffer_append_str(out, "embed");
        separator = ", ";
    }
    if (first != UINT32_MAX) {
        buffer_printf(out, first == last ? "%sblk.%u" : "%sblk.%u-%u", separator, first, last);
        separator = ", ";
    }
    if (is_output)
        buffer_printf(out, "%soutput", separator);
}

/* Why a device does not run a node that another one runs. */
static uint32_t reason_of(const struct placement *placement, uint32_t device, uint32_t node)
{
    const struct placement_device *d = &placement->devices[device];
    if (d->reason != SERVERD_REASON_NONE)
        return d->reason;
    const struct placement_claim *claim = placement_claim(placement, device, node);
    if (claim->n_nodes == 0)
        return claim->reason;
    return placement_is_allowed(placement, device, node) ? SERVERD_REASON_SLOWER
                                                         : SERVERD_REASON_OVERRIDE;
}

/* The delegate's own words on the first node that has the reason. */
static void append_words(struct buffer *out, const struct placement *placement, uint32_t device,
                         uint32_t node, uint32_t reason)
{
    const struct placement_device *d = &placement->devices[device];
    if (reason == SERVERD_REASON_UNAVAILABLE || reason == SERVERD_REASON_INIT_FAILED) {
        buffer_printf(out, ": %s", d->error.text);
        return;
    }
    if (reason == SERVERD_REASON_SLOWER || reason == SERVERD_REASON_OVERRIDE)
        return;
    serverd_claim claim;
    serverd_error err;
    if (placement_ask(placement, device, node, &claim, &err) == SERVERD_OK && claim.text[0])
        buffer_printf(out, ": %.127s", claim.text);
}

static void append_loser(struct buffer *out, const struct placement *placement,
                         const struct placement_partition *partition, uint32_t device)
{
    const serverd_partition *view = &partition->view;
    uint32_t count[SERVERD_REASON_COUNT + 1] = {0}, first[SERVERD_REASON_COUNT + 1];
    double seconds[2] = {0, 0};
    for (uint32_t n = view->first_node; n < view->first_node + view->n_nodes; n++) {
        uint32_t reason = reason_of(placement, device, n);
        if (reason > SERVERD_REASON_COUNT)
            reason = SERVERD_REASON_COUNT; /* whatever a delegate says */
        if (count[reason]++ == 0)
            first[reason] = n;
        if (reason != SERVERD_REASON_SLOWER)
            continue;
        seconds[0] += placement_seconds(placement_claim(placement, device, n));
        seconds[1] += placement_seconds(placement_claim(placement, partition->device, n));
    }
    for (uint32_t reason = 0; reason <= SERVERD_REASON_COUNT; reason++) {
        if (count[reason] == 0)
            continue;
        buffer_printf(out, "  not %s: %s", placement->devices[device].name,
                      placement_reason_name(reason));
        if (reason == SERVERD_REASON_SLOWER) {
            buffer_append_str(out, " (");
            append_seconds(out, seconds[0]);
            buffer_append_str(out, ", ");
            append_seconds(out, seconds[1]);
            buffer_append_str(out, ")");
        }
        if (count[reason] < view->n_nodes)
            buffer_printf(out, ", %u of the nodes, first %u (%s)", count[reason], first[reason],
                          op_info(placement->graph->nodes[first[reason]].op)->name);
        append_words(out, placement, device, first[reason], reason);
        buffer_append_char(out, '\n');
    }
}

void placement_explain(const struct placement *placement, struct buffer *out)
{
    for (uint32_t p = 0; p < placement->n_partitions; p++) {
        const struct placement_partition *partition = &placement->partitions[p];
        const serverd_partition *view = &partition->view;
        const struct placement_device *device = &placement->devices[partition->device];
        buffer_printf(out, "nodes %u-%u (", view->first_node, view->first_node + view->n_nodes - 1);
        append_places(out, placement->graph, view);
        if (view->n_nodes == 1)
            buffer_printf(out, ": %s", op_info(placement->graph->nodes[view->first_node].op)->name);
        buffer_printf(out, "): %s, %.63s: ", device->name, device->device.name);
        struct cost cost = cost_of(placement, partition->device, view->first_node, view->n_nodes);
        append_cost(out, &cost);
        buffer_append_char(out, '\n');
        for (uint32_t d = 0; d < placement->n_devices; d++)
            if (d != partition->device)
                append_loser(out, placement, partition, d);
    }
}
