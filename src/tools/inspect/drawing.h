/* A graph as boxes and lines. Consecutive nodes of one layer are a group, and groups stand below
 * each other; inside a group every node stands below what it reads.
 *
 *        embed            group 0, outside the layers
 *   ---------------
 *        norm             group 1, layer 0
 *     q   k   v
 *        attn
 *
 * Immutable once made. */
#ifndef TOOLS_INSPECT_DRAWING_H
#define TOOLS_INSPECT_DRAWING_H

#include "tools/inspect/subject.h"

#define BOX_WIDTH  150
#define BOX_HEIGHT 34

struct drawing_group {
    uint32_t first_node, n_nodes;
    uint32_t layer;      /* UINT32_MAX: outside the layers */
    uint32_t n_ranks;    /* rows of boxes */
    int width, height;   /* pixels, all boxes and the margins */
    uint64_t bytes;      /* of weights, as the devices of its nodes have them */
    double seconds;      /* of one row; 0: unknown */
    bool has_one_device; /* and it is: */
    uint32_t device;     /* of the placement */
};

struct drawing_place {
    uint32_t group, rank;
    int x, y;        /* upper left corner of the box, inside the group */
    uint32_t reader; /* first node of a later group that reads it; 0: none */
};

struct drawing {
    const struct subject *subject;
    const serverd_graph *graph;
    struct drawing_group *groups;
    uint32_t n_groups;
    struct drawing_place *places; /* [graph->n_nodes] */
};

/* The subject is placed, has a graph, and outlives the drawing. */
serverd_status drawing_create(const struct subject *subject, struct drawing **out,
                              serverd_error *err);
void drawing_destroy(struct drawing *drawing); /* NULL is fine */

/* UINT32_MAX: the value is a constant. */
static inline uint32_t drawing_producer(const struct drawing *drawing, uint32_t node, uint32_t i)
{
    const serverd_graph *graph = drawing->graph;
    return graph->values[graph->operands[graph->nodes[node].first_operand + i]].producer;
}

/* "linear", and "attn_q" of blk.3.attn_q.weight, which the group says; "" if no constant is read.
 */
const char *drawing_op(const struct drawing *drawing, uint32_t node);
void drawing_weights(const struct drawing *drawing, uint32_t node, char out[40]);

/* What is shown of a node that is pointed at: its number, delegate, shapes, bytes, cost, source
 * tensors; lines, plain text. */
void drawing_hint(const struct drawing *drawing, uint32_t node, struct buffer *out);

/* "layer 3", "before the layers", "behind the layers" */
void drawing_title(const struct drawing *drawing, uint32_t group, char out[40]);

/* The colour of a device of the placement, "#cfe2f3". */
const char *drawing_colour(uint32_t device);

/* The node's device. */
uint32_t drawing_device(const struct drawing *drawing, uint32_t node);

/* Text of unknown origin: ill-formed UTF-8 and control characters but '\n' are replaced or left
 * out; `escape` gives what stands for a character that has a meaning, NULL: itself. */
void drawing_put_text(struct buffer *out, const char *text, const char *(*escape)(char c));

/* Whole files. */
void draw_dot(const struct drawing *drawing, struct buffer *out);
void draw_svg(const struct drawing *drawing, struct buffer *out);
/* Layers open when they are clicked; no script. */
void draw_html(const struct drawing *drawing, struct buffer *out);

#endif
