#include "tools/inspect/drawing.h"

#include "base/error.h"
#include "base/numeric.h"
#include "base/utf8.h"
#include "program/op.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GAP_X  14
#define GAP_Y  22
#define MARGIN 24

/* ---- groups and ranks ------------------------------------------------------------------------ */

static void find_groups(struct drawing *drawing)
{
    const serverd_graph *graph = drawing->graph;
    for (uint32_t n = 0; n < graph->n_nodes; n++) {
        if (n == 0 || graph->nodes[n].layer != graph->nodes[n - 1].layer)
            drawing->groups[drawing->n_groups++] =
                (struct drawing_group){.first_node = n,
                                       .layer = graph->nodes[n].layer,
                                       .has_one_device = true,
                                       .device = drawing_device(drawing, n)};
        drawing->groups[drawing->n_groups - 1].n_nodes++;
        drawing->places[n].group = drawing->n_groups - 1;
    }
}

/* One more than the largest rank of what it reads in its own group; and who reads it elsewhere. */
static void find_ranks(struct drawing *drawing)
{
    const serverd_graph *graph = drawing->graph;
    for (uint32_t n = 0; n < graph->n_nodes; n++) {
        struct drawing_place *place = &drawing->places[n];
        struct drawing_group *group = &drawing->groups[place->group];
        for (uint32_t i = 0; i < graph->nodes[n].n_inputs; i++) {
            uint32_t producer = drawing_producer(drawing, n, i);
            if (producer == UINT32_MAX)
                continue;
            struct drawing_place *from = &drawing->places[producer];
            if (from->group == place->group)
                place->rank = (uint32_t)max_size(place->rank, from->rank + 1);
            else if (from->reader == 0)
                from->reader = n;
        }
        group->n_ranks = (uint32_t)max_size(group->n_ranks, place->rank + 1);
    }
}

/* ---- places ---------------------------------------------------------------------------------- */

struct slot {
    uint32_t node;
    int wish; /* the middle of what it reads */
};

static int compare_slots(const void *a, const void *b)
{
    const struct slot *x = a, *y = b;
    if (x->wish != y->wish)
        return x->wish < y->wish ? -1 : 1;
    return x->node < y->node ? -1 : x->node > y->node;
}

static int wish_of(const struct drawing *drawing, uint32_t node, int middle)
{
    int64_t sum = 0, n = 0;
    for (uint32_t i = 0; i < drawing->graph->nodes[node].n_inputs; i++) {
        uint32_t producer = drawing_producer(drawing, node, i);
        if (producer == UINT32_MAX ||
            drawing->places[producer].group != drawing->places[node].group)
            continue;
        sum += drawing->places[producer].x;
        n++;
    }
    return n ? (int)(sum / n) : middle;
}

/* The nodes of each rank side by side, in the order of what they read, about the group's middle. */
static void place_group(struct drawing *drawing, struct drawing_group *group, struct slot *slots,
                        uint32_t *widths)
{
    uint32_t widest = 1;
    memset(widths, 0, group->n_ranks * sizeof *widths);
    for (uint32_t n = group->first_node; n < group->first_node + group->n_nodes; n++)
        widest = (uint32_t)max_size(widest, ++widths[drawing->places[n].rank]);
    group->width = 2 * MARGIN + (int)widest * (BOX_WIDTH + GAP_X) - GAP_X;
    group->height = 2 * MARGIN + (int)group->n_ranks * (BOX_HEIGHT + GAP_Y) - GAP_Y;
    int middle = (group->width - BOX_WIDTH) / 2;
    for (uint32_t rank = 0; rank < group->n_ranks; rank++) {
        uint32_t n_slots = 0;
        for (uint32_t n = group->first_node; n < group->first_node + group->n_nodes; n++)
            if (drawing->places[n].rank == rank)
                slots[n_slots++] = (struct slot){n, wish_of(drawing, n, middle)};
        qsort(slots, n_slots, sizeof *slots, compare_slots);
        int x = (group->width - (int)n_slots * (BOX_WIDTH + GAP_X) + GAP_X) / 2;
        for (uint32_t i = 0; i < n_slots; i++, x += BOX_WIDTH + GAP_X) {
            drawing->places[slots[i].node].x = x;
            drawing->places[slots[i].node].y = MARGIN + (int)rank * (BOX_HEIGHT + GAP_Y);
        }
    }
}

static void sum_group(const struct drawing *drawing, struct drawing_group *group)
{
    const struct placement *placement = drawing->subject->placement;
    bool is_known = true;
    for (uint32_t n = group->first_node; n < group->first_node + group->n_nodes; n++) {
        uint32_t device = drawing_device(drawing, n);
        const struct placement_claim *claim = placement_claim(placement, device, n);
        group->has_one_device &= device == group->device;
        group->bytes += claim->resident_bytes;
        group->seconds += (double)claim->seconds[0];
        is_known &= claim->seconds[0] > 0;
    }
    if (!is_known)
        group->seconds = 0;
}

serverd_status drawing_create(const struct subject *subject, struct drawing **out,
                              serverd_error *err)
{
    const serverd_graph *graph = &subject->program->graph;
    if (!subject->placement)
        return fail(err, SERVERD_UNSUPPORTED, "%s: a vocabulary without a graph", subject->path);
    struct drawing *drawing = calloc(1, sizeof *drawing);
    struct slot *slots = calloc(graph->n_nodes, sizeof *slots);
    uint32_t *widths = calloc(graph->n_nodes, sizeof *widths);
    if (drawing) {
        drawing->subject = subject;
        drawing->graph = graph;
        drawing->groups = calloc(graph->n_nodes, sizeof *drawing->groups);
        drawing->places = calloc(graph->n_nodes, sizeof *drawing->places);
    }
    bool has_memory = drawing && slots && widths && drawing->groups && drawing->places;
    if (has_memory) {
        find_groups(drawing);
        find_ranks(drawing);
        for (uint32_t g = 0; g < drawing->n_groups; g++) {
            place_group(drawing, &drawing->groups[g], slots, widths);
            sum_group(drawing, &drawing->groups[g]);
        }
        *out = drawing;
    } else {
        drawing_destroy(drawing);
    }
    free(slots);
    free(widths);
    return has_memory ? SERVERD_OK
                      : fail(err, SERVERD_NOMEM, "no memory to draw %u nodes", graph->n_nodes);
}

void drawing_destroy(struct drawing *drawing)
{
    if (!drawing)
        return;
    free(drawing->groups);
    free(drawing->places);
    free(drawing);
}

/* ---- texts ----------------------------------------------------------------------------------- */

const char *drawing_op(const struct drawing *drawing, uint32_t node)
{
    return op_info(drawing->graph->nodes[node].op)->name;
}

void drawing_weights(const struct drawing *drawing, uint32_t node, char out[40])
{
    static const char weight[] = ".weight";
    const char *name = node_weights(drawing->graph, node);
    unsigned layer;
    int skipped = 0;
    if (sscanf(name, "blk.%u.%n", &layer, &skipped) == 1)
        name += skipped;
    size_t n = strlen(name), tail = sizeof weight - 1;
    if (n > tail && strcmp(name + n - tail, weight) == 0)
        n -= tail;
    (void)snprintf(out, 40, "%.*s", (int)min_size(n, 24), name);
}

uint32_t drawing_device(const struct drawing *drawing, uint32_t node)
{
    return drawing->subject->placement->chosen[node];
}

const char *drawing_colour(uint32_t device)
{
    static const char *const colours[] = {"#cfe2f3", "#fce5cd", "#d9ead3", "#ead1dc",
                                          "#fff2cc", "#d0e0e3", "#e6d5f5", "#e0e0e0"};
    return colours[device % (sizeof colours / sizeof *colours)];
}

void drawing_title(const struct drawing *drawing, uint32_t group, char out[40])
{
    uint32_t layer = drawing->groups[group].layer;
    if (layer != UINT32_MAX)
        (void)snprintf(out, 40, "layer %u", layer);
    else
        (void)snprintf(out, 40, "%s the layers", group == 0 ? "before" : "behind");
}

static void put_shape(const struct drawing *drawing, uint32_t operand, struct buffer *out)
{
    static const char *const symbols[] = {"?", "R", "S", "T"}; /* -3, -2, -1 */
    const serverd_value *value = &drawing->graph->values[drawing->graph->operands[operand]];
    buffer_append_char(out, '[');
    for (uint32_t d = 0; d < value->rank; d++) {
        if (d)
            buffer_append_char(out, ',');
        if (value->dims[d] < 0 && value->dims[d] >= -3)
            buffer_append_str(out, symbols[value->dims[d] + 4]);
        else
            buffer_append_u64(out, (uint64_t)value->dims[d]);
    }
    buffer_append_char(out, ']');
}

void drawing_hint(const struct drawing *drawing, uint32_t node, struct buffer *out)
{
    const serverd_graph *graph = drawing->graph;
    const serverd_node *n = &graph->nodes[node];
    const struct placement *placement = drawing->subject->placement;
    const struct placement_claim *claim =
        placement_claim(placement, drawing_device(drawing, node), node);
    buffer_printf(out, "node %u: %s on %s\n", node, drawing_op(drawing, node),
                  placement->devices[drawing_device(drawing, node)].name);
    for (uint32_t i = 0; i < n->n_inputs; i++) {
        const serverd_value *value = node_input(graph, n, i);
        buffer_append_str(out, i ? ", " : "");
        put_shape(drawing, n->first_operand + i, out);
        if (value->kind != SERVERD_VALUE_CONSTANT)
            continue;
        const serverd_tensor *tensor = &graph->tensors[value->tensor];
        char scratch[24], bytes[24];
        format_bytes(tensor->bytes, bytes, sizeof bytes);
        buffer_printf(out, " %s %s %s", tensor->name, dtype_name(tensor->dtype, scratch), bytes);
    }
    buffer_append_str(out, " -> ");
    put_shape(drawing, n->first_operand + n->n_inputs, out);
    if (claim->seconds[0] > 0)
        buffer_printf(out, "\n1 row %.1f us, 16 rows %.1f us, 512 rows %.1f us",
                      (double)claim->seconds[0] * 1e6, (double)claim->seconds[1] * 1e6,
                      (double)claim->seconds[2] * 1e6);
}

void drawing_put_text(struct buffer *out, const char *text, const char *(*escape)(char c))
{
    for (size_t n = strlen(text); n > 0;) {
        uint32_t code;
        size_t len = utf8_decode(text, n, &code);
        const char *instead = code < 0x80 ? escape((char)code) : NULL;
        if (instead)
            buffer_append_str(out, instead);
        else if (code == UTF8_REPLACEMENT)
            buffer_append_str(out, "\xef\xbf\xbd");
        else if (code >= 0x20 && code != 0x7f && code != 0xffff && code != 0xfffe)
            buffer_append(out, text, len);
        text += len;
        n -= len;
    }
}
