/* A drawing as SVG: all groups below each other, or each for itself in a page of HTML where layers
 * are closed until they are clicked. Browsers show a <title> where the pointer is. */
#include "tools/inspect/drawing.h"

#include "base/numeric.h"

#include <stdio.h>
#include <stdlib.h>

#define TITLE_HEIGHT 22 /* above a group */
#define PORT_HEIGHT  26 /* above and below a group that stands alone */
#define SIDE         8  /* of lines past boxes, from a group's left */
#define HINT_BYTES   (64 * 1024)

static const char style[] =
    "text{font:12px sans-serif;fill:#1d2733;text-anchor:middle}"
    "text.w{font-size:10px;fill:#4a5560}text.t{text-anchor:start;font-weight:bold}"
    "rect{stroke:#5b6875}rect.g{fill:#fafbfc;stroke:#d7dde3}"
    "path{fill:none;stroke:#7a8794}";

static const char *escape(char c)
{
    switch (c) {
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '&':
        return "&amp;";
    case '"':
        return "&quot;";
    case '\n':
        return "&#10;";
    default:
        return NULL;
    }
}

/* ---- boxes and lines ------------------------------------------------------------------------- */

static void put_box(const struct drawing *drawing, uint32_t node, int x, int y, struct buffer *out)
{
    char weights[40];
    struct buffer hint;
    buffer_init(&hint, HINT_BYTES);
    drawing_weights(drawing, node, weights);
    drawing_hint(drawing, node, &hint);
    buffer_printf(out, "<g id=\"n%u\"><title>", node);
    drawing_put_text(out, buffer_str(&hint), escape);
    buffer_printf(out,
                  "</title><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"5\" "
                  "fill=\"%s\"/><text x=\"%d\" y=\"%d\">%s</text>",
                  x, y, BOX_WIDTH, BOX_HEIGHT, drawing_colour(drawing_device(drawing, node)),
                  x + BOX_WIDTH / 2, y + (*weights ? 15 : 21), drawing_op(drawing, node));
    if (*weights) {
        buffer_printf(out, "<text class=\"w\" x=\"%d\" y=\"%d\">", x + BOX_WIDTH / 2, y + 28);
        drawing_put_text(out, weights, escape);
        buffer_append_str(out, "</text>");
    }
    buffer_append_str(out, "</g>\n");
    buffer_deinit(&hint);
}

/* From the lower edge of a box to the upper edge of another; if there are boxes between them, along
 * `side`, which is left of all. */
static void put_line(int x1, int y1, int x2, int y2, int side, struct buffer *out)
{
    int dy = y2 - y1;
    if (dy <= 2 * BOX_HEIGHT || x1 != x2) {
        buffer_printf(out, "<path d=\"M%d %dC%d %d %d %d %d %d\"/>\n", x1, y1, x1, y1 + dy / 2, x2,
                      y2 - dy / 2, x2, y2);
        return;
    }
    buffer_printf(out, "<path d=\"M%d %dC%d %d %d %d %d %dL%d %dC%d %d %d %d %d %d\"/>\n", x1, y1,
                  x1, y1 + 14, side, y1 + 4, side, y1 + 24, side, y2 - 24, side, y2 - 4, x2,
                  y2 - 14, x2, y2);
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* Groups are centred in the picture. */
static int left_of(const struct drawing *drawing, uint32_t group, int width)
{
    return (width - drawing->groups[group].width) / 2;
}

static int width_of(const struct drawing *drawing)
{
    int width = 0;
    for (uint32_t g = 0; g < drawing->n_groups; g++)
        width = drawing->groups[g].width > width ? drawing->groups[g].width : width;
    return width;
}

static void put_frame(const struct drawing *drawing, uint32_t group, int x, int y,
                      struct buffer *out)
{
    const struct drawing_group *g = &drawing->groups[group];
    char title[40];
    drawing_title(drawing, group, title);
    buffer_printf(out,
                  "<rect class=\"g\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>"
                  "<text class=\"t\" x=\"%d\" y=\"%d\">%s</text>\n",
                  x, y + TITLE_HEIGHT / 2, g->width, g->height + TITLE_HEIGHT / 2, x + 6,
                  y + TITLE_HEIGHT / 2 + 15, title);
}

static void put_lines(const struct drawing *drawing, int width, const int *top, uint32_t node,
                      struct buffer *out)
{
    const struct drawing_place *to = &drawing->places[node];
    for (uint32_t i = 0; i < drawing->graph->nodes[node].n_inputs; i++) {
        uint32_t producer = drawing_producer(drawing, node, i);
        if (producer == UINT32_MAX)
            continue;
        const struct drawing_place *from = &drawing->places[producer];
        put_line(left_of(drawing, from->group, width) + from->x + BOX_WIDTH / 2,
                 top[from->group] + TITLE_HEIGHT + from->y + BOX_HEIGHT,
                 left_of(drawing, to->group, width) + to->x + BOX_WIDTH / 2,
                 top[to->group] + TITLE_HEIGHT + to->y, left_of(drawing, to->group, width) + SIDE,
                 out);
    }
}

/* top[g]: where group g begins. */
static void put_picture(const struct drawing *drawing, const int *top, int height,
                        struct buffer *out)
{
    int width = width_of(drawing);
    buffer_printf(out,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                  "viewBox=\"0 0 %d %d\">\n<style>%s</style>\n",
                  width, height, width, height, style);
    for (uint32_t g = 0; g < drawing->n_groups; g++)
        put_frame(drawing, g, left_of(drawing, g, width), top[g], out);
    for (uint32_t n = 0; n < drawing->graph->n_nodes; n++)
        put_lines(drawing, width, top, n, out);
    for (uint32_t n = 0; n < drawing->graph->n_nodes; n++) {
        const struct drawing_place *place = &drawing->places[n];
        put_box(drawing, n, left_of(drawing, place->group, width) + place->x,
                top[place->group] + TITLE_HEIGHT + place->y, out);
    }
    buffer_append_str(out, "</svg>\n");
}

void draw_svg(const struct drawing *drawing, struct buffer *out)
{
    int *top = calloc(drawing->n_groups + 1u, sizeof *top);
    out->is_failed |= top == NULL;
    for (uint32_t g = 0; g < drawing->n_groups && top; g++)
        top[g + 1] = top[g] + TITLE_HEIGHT + drawing->groups[g].height;
    if (top)
        put_picture(drawing, top, top[drawing->n_groups], out);
    free(top);
}

/* ---- a page ---------------------------------------------------------------------------------- */

/* What the group reads of others comes in at the top; what others read goes out at the bottom. */
static void put_ports(const struct drawing *drawing, const struct drawing_group *group,
                      uint32_t node, struct buffer *out)
{
    const serverd_graph *graph = drawing->graph;
    const struct drawing_place *place = &drawing->places[node];
    int x = place->x + BOX_WIDTH / 2, y = PORT_HEIGHT + place->y;
    for (uint32_t i = 0; i < graph->nodes[node].n_inputs; i++) {
        uint32_t producer = drawing_producer(drawing, node, i);
        if (producer == UINT32_MAX)
            continue;
        const struct drawing_place *from = &drawing->places[producer];
        if (producer < group->first_node) {
            put_line(x, PORT_HEIGHT / 2 + 4, x, y, SIDE, out);
            buffer_printf(out, "<text class=\"w\" x=\"%d\" y=\"14\">from %s, node %u</text>\n", x,
                          drawing_op(drawing, producer), producer);
        } else {
            put_line(from->x + BOX_WIDTH / 2, PORT_HEIGHT + from->y + BOX_HEIGHT, x, y, SIDE, out);
        }
    }
}

static void put_way_out(const struct drawing *drawing, const struct drawing_group *group,
                        uint32_t node, struct buffer *out)
{
    const struct drawing_place *place = &drawing->places[node];
    uint32_t reader = place->reader;
    int x = place->x + BOX_WIDTH / 2, bottom = 2 * PORT_HEIGHT + group->height;
    if (reader == 0)
        return;
    put_line(x, PORT_HEIGHT + place->y + BOX_HEIGHT, x, bottom - 16, SIDE, out);
    buffer_printf(out, "<text class=\"w\" x=\"%d\" y=\"%d\">to %s, node %u</text>\n", x, bottom - 4,
                  drawing_op(drawing, reader), reader);
}

static void put_group(const struct drawing *drawing, const struct drawing_group *group,
                      struct buffer *out)
{
    uint32_t end = group->first_node + group->n_nodes;
    int height = group->height + 2 * PORT_HEIGHT;
    buffer_printf(out, "<svg width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\">\n", group->width,
                  height, group->width, height);
    for (uint32_t n = group->first_node; n < end; n++) {
        put_ports(drawing, group, n, out);
        put_way_out(drawing, group, n, out);
    }
    for (uint32_t n = group->first_node; n < end; n++)
        put_box(drawing, n, drawing->places[n].x, PORT_HEIGHT + drawing->places[n].y, out);
    buffer_append_str(out, "</svg>\n");
}

static void put_details(const struct drawing *drawing, uint32_t index, struct buffer *out)
{
    const struct drawing_group *group = &drawing->groups[index];
    const struct placement *placement = drawing->subject->placement;
    char title[40], bytes[24];
    drawing_title(drawing, index, title);
    format_bytes(group->bytes, bytes, sizeof bytes);
    buffer_printf(
        out,
        "<details%s>\n<summary style=\"background:%s\"><b>%s</b> "
        "<span>%u nodes, %s, on %s",
        group->layer == UINT32_MAX ? " open=\"open\"" : "",
        group->has_one_device ? drawing_colour(group->device) : "#fff", title, group->n_nodes,
        bytes, group->has_one_device ? placement->devices[group->device].name : "several devices");
    if (group->seconds > 0)
        buffer_printf(out, ", 1 row %.1f us", group->seconds * 1e6);
    buffer_append_str(out, "</span></summary>\n");
    put_group(drawing, group, out);
    buffer_append_str(out, "</details>\n");
}

static void put_legend(const struct drawing *drawing, struct buffer *out)
{
    const struct placement *placement = drawing->subject->placement;
    buffer_append_str(out, "<p>");
    for (uint32_t d = 0; d < placement->n_devices; d++) {
        buffer_printf(out, "<span class=\"c\" style=\"background:%s\">", drawing_colour(d));
        drawing_put_text(out, placement->devices[d].name, escape);
        buffer_append_str(out, "</span> ");
    }
    buffer_append_str(out, "</p>\n");
}

void draw_html(const struct drawing *drawing, struct buffer *out)
{
    const struct program_config *config = &drawing->subject->program->config;
    const char *path = drawing->subject->path;
    buffer_append_str(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta "
                           "charset=\"utf-8\"/>\n<title>");
    drawing_put_text(out, path, escape);
    buffer_printf(out,
                  "</title>\n<style>%s"
                  "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1000px;"
                  "padding:0 1rem;color:#1d2733}summary{cursor:pointer;padding:.2rem .6rem;"
                  "border:1px solid #d7dde3;margin:.15rem 0}summary span{color:#4a5560}"
                  "svg{display:block;margin:0 auto;max-width:100%%;height:auto}"
                  ".c{padding:.1rem .6rem;border:1px solid #d7dde3}</style>\n</head>\n<body>\n<h1>",
                  style);
    drawing_put_text(out, path, escape);
    buffer_append_str(out, "</h1>\n<p>");
    drawing_put_text(out, config->architecture, escape);
    buffer_printf(out, ", %u layers, %u nodes. A click opens a layer.</p>\n", config->n_layers,
                  drawing->graph->n_nodes);
    put_legend(drawing, out);
    for (uint32_t g = 0; g < drawing->n_groups; g++)
        put_details(drawing, g, out);
    buffer_append_str(out, "</body>\n</html>\n");
}
