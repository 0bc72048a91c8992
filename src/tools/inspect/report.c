/* What text and JSON share. */
#include "tools/inspect/report.h"

#include <stdio.h>

void partition_cost(const struct subject *subject, uint32_t partition, struct partition_cost *out)
{
    const struct placement *placement = subject->placement;
    const struct placement_partition *p = &placement->partitions[partition];
    bool is_known = true;
    struct weight_bytes weights = subject_weight_bytes(subject, partition);
    *out = (struct partition_cost){.weight_bytes = weights.packed + weights.in_file};
    for (uint32_t n = p->view.first_node; n < p->view.first_node + p->view.n_nodes;) {
        const struct placement_claim *claim = placement_claim(placement, p->device, n);
        for (int t = 0; t < 3; t++)
            out->seconds[t] += (double)claim->seconds[t];
        is_known &= claim->seconds[0] > 0;
        n += claim->n_nodes > 0 ? claim->n_nodes : 1;
    }
    for (int t = 0; t < 3 && !is_known; t++)
        out->seconds[t] = 0;
}

void partition_layers(const struct placement *placement, uint32_t partition, char *out, size_t size)
{
    const serverd_partition *view = &placement->partitions[partition].view;
    uint32_t first = UINT32_MAX, last = 0;
    for (uint32_t n = view->first_node; n < view->first_node + view->n_nodes; n++) {
        uint32_t layer = placement->graph->nodes[n].layer;
        if (layer == UINT32_MAX)
            continue;
        first = layer < first ? layer : first;
        last = layer > last ? layer : last;
    }
    if (first == UINT32_MAX)
        (void)snprintf(out, size, "-");
    else if (first == last)
        (void)snprintf(out, size, "blk.%u", first);
    else
        (void)snprintf(out, size, "blk.%u-%u", first, last);
}

const char *token_type_name(uint32_t type)
{
    static const char *const names[] = {"?",       "normal", "unknown", "control",
                                        "defined", "unused", "byte"};
    return type < sizeof names / sizeof *names ? names[type] : names[0];
}
