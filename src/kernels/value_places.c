#include "kernels/value_places.h"

#include "base/numeric.h"
#include "program/op.h"

#include <stdlib.h>

#define ALIGN_FLOATS 64 /* 256 bytes, as devices like them */

struct place {
    size_t offset, floats;
    uint32_t last_use; /* node */
};

struct placing {
    const serverd_graph *graph;
    const serverd_partition *partition;
    const serverd_limits *limits;
    uint32_t *last_use; /* [n_values] node */
    struct place *places;
    size_t n_places;
    struct value_places *out;
};

static bool is_listed(const uint32_t *values, uint32_t n, uint32_t value)
{
    for (uint32_t i = 0; i < n; i++)
        if (values[i] == value)
            return true;
    return false;
}

static bool floats_of(const serverd_limits *limits, const serverd_value *value, size_t *out)
{
    size_t rows = limits->max_rows;
    if (value->dims[0] != SERVERD_DIM_ROWS)
        rows = value->dims[0] == SERVERD_DIM_SEQS ? limits->max_seqs : limits->max_logit_rows;
    return size_mul(max_size(rows, 1), value_width(value), out) &&
           size_align(*out, ALIGN_FLOATS, out);
}

/* The smallest place that is free before a node and large enough, or a new one. */
static bool take_place(struct placing *placing, uint32_t node, uint32_t value)
{
    struct value_places *out = placing->out;
    struct place *best = NULL;
    size_t floats;
    if (!floats_of(placing->limits, &placing->graph->values[value], &floats))
        return false;
    for (size_t i = 0; i < placing->n_places; i++) {
        struct place *place = &placing->places[i];
        if (place->last_use < node && place->floats >= floats &&
            (!best || place->floats < best->floats))
            best = place;
    }
    if (!best) {
        best = &placing->places[placing->n_places++];
        *best = (struct place){.offset = out->n_floats, .floats = floats};
        if (!size_add(out->n_floats, floats, &out->n_floats))
            return false;
    }
    best->last_use = (uint32_t)max_size(placing->last_use[value], node);
    out->offset[value] = best->offset;
    return size_add(out->unshared, floats, &out->unshared);
}

static bool place_all(struct placing *placing, bool has_ends)
{
    const serverd_graph *graph = placing->graph;
    const serverd_partition *partition = placing->partition;
    const uint32_t first = partition->first_node, end = first + partition->n_nodes;
    for (uint32_t n = first; n < end; n++)
        for (uint32_t i = 0; i < graph->nodes[n].n_inputs; i++)
            placing->last_use[graph->operands[graph->nodes[n].first_operand + i]] = n;
    for (uint32_t i = 0; has_ends && i < partition->n_outputs; i++)
        placing->last_use[partition->outputs[i]] = end;
    for (uint32_t i = 0; has_ends && i < partition->n_inputs; i++)
        if (!take_place(placing, first, partition->inputs[i]))
            return false;
    for (uint32_t n = first; n < end; n++) {
        const serverd_node *node = &graph->nodes[n];
        const uint32_t value = graph->operands[node->first_operand + node->n_inputs];
        const bool is_end = is_listed(partition->outputs, partition->n_outputs, value);
        if ((has_ends || !is_end) && !take_place(placing, n, value))
            return false;
    }
    return true;
}

bool value_places_find(const serverd_graph *graph, const serverd_partition *partition,
                       const serverd_limits *limits, bool has_ends, struct value_places *out)
{
    const size_t n = max_size(graph->n_values, 1);
    const size_t most = (size_t)partition->n_nodes + partition->n_inputs + 1;
    struct placing placing = {.graph = graph,
                              .partition = partition,
                              .limits = limits,
                              .last_use = calloc(n, sizeof *placing.last_use),
                              .places = calloc(most, sizeof *placing.places),
                              .out = out};
    *out = (struct value_places){.offset = calloc(n, sizeof *out->offset)};
    bool is_found = placing.last_use && placing.places && out->offset;
    for (size_t i = 0; is_found && i < n; i++)
        out->offset[i] = VALUE_NOWHERE;
    is_found = is_found && place_all(&placing, has_ends);
    free(placing.last_use);
    free(placing.places);
    if (!is_found)
        value_places_deinit(out);
    return is_found;
}

void value_places_deinit(struct value_places *places)
{
    free(places->offset);
    places->offset = NULL;
}
