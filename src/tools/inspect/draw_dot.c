/* A drawing for Graphviz; a layer is a cluster. */
#include "tools/inspect/drawing.h"

#include <stdio.h>

static const char *escape(char c)
{
    return c == '"' ? "\\\"" : c == '\\' ? "\\\\" : c == '\n' ? "\\n" : NULL;
}

static void put_quoted(struct buffer *out, const char *text)
{
    buffer_append_char(out, '"');
    drawing_put_text(out, text, escape);
    buffer_append_char(out, '"');
}

static void put_node(const struct drawing *drawing, uint32_t node, struct buffer *out)
{
    char weights[40], label[80];
    struct buffer hint;
    buffer_init(&hint, 64 * 1024);
    drawing_weights(drawing, node, weights);
    (void)snprintf(label, sizeof label, "%s%s%s", drawing_op(drawing, node), *weights ? "\n" : "",
                   weights);
    drawing_hint(drawing, node, &hint);
    buffer_printf(out, "    n%u [fillcolor=\"%s\" label=", node,
                  drawing_colour(drawing_device(drawing, node)));
    put_quoted(out, label);
    buffer_append_str(out, " tooltip=");
    put_quoted(out, buffer_str(&hint));
    buffer_append_str(out, "];\n");
    buffer_deinit(&hint);
}

void draw_dot(const struct drawing *drawing, struct buffer *out)
{
    const serverd_graph *graph = drawing->graph;
    buffer_append_str(out,
                      "digraph program {\n"
                      "  node [shape=box style=\"rounded,filled\" fontname=\"sans-serif\"];\n");
    for (uint32_t g = 0; g < drawing->n_groups; g++) {
        const struct drawing_group *group = &drawing->groups[g];
        char title[40];
        drawing_title(drawing, g, title);
        buffer_printf(out, "  subgraph cluster_%u {\n    label=\"%s\";\n", g, title);
        for (uint32_t n = group->first_node; n < group->first_node + group->n_nodes; n++)
            put_node(drawing, n, out);
        buffer_append_str(out, "  }\n");
    }
    for (uint32_t n = 0; n < graph->n_nodes; n++)
        for (uint32_t i = 0; i < graph->nodes[n].n_inputs; i++)
            if (drawing_producer(drawing, n, i) != UINT32_MAX)
                buffer_printf(out, "  n%u -> n%u;\n", drawing_producer(drawing, n, i), n);
    buffer_append_str(out, "}\n");
}
