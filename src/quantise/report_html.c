/* A page about one quantising: figures, plots and a line for each tensor, inline, without scripts.
 */
#include "program/dtype.h"
#include "quantise/report.h"

#include <math.h>
#include <string.h>

#define PLOT_WIDTH  460.0
#define PLOT_HEIGHT 220.0
#define LEFT        56.0 /* margins of a plot */
#define RIGHT       12.0
#define TOP         24.0
#define BOTTOM      32.0

static const char style[] =
    ":root{--ink:#1d2733;--soft:#5b6875;--rule:#d7dde3;--paper:#fff;--a:#2066c7}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e4e9ee;--soft:#9aa7b4;--rule:#36414d;"
    "--paper:#151b22;--a:#6fa8f5}}"
    "body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);"
    "max-width:1000px;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:.15rem .7rem;border-bottom:1px solid var(--rule);text-align:right}"
    "td:first-child,th:first-child{text-align:left}p{color:var(--soft)}"
    "svg{max-width:100%;height:auto;margin-right:1rem}svg text{fill:var(--soft);font-size:11px}"
    ".t{fill:var(--ink)!important;font-weight:600}.g{stroke:var(--rule)}"
    ".l{fill:none;stroke:var(--a);stroke-width:1.6}.d{fill:var(--a)}";

/* ---- text ------------------------------------------------------------------------------------ */

static void put_row(struct buffer *out, const char *what, const char *format, double x)
{
    buffer_printf(out, "<tr><td>%s</td><td>", what);
    buffer_printf(out, format, x);
    buffer_append_str(out, "</td></tr>");
}

/* ---- plots ----------------------------------------------------------------------------------- */

struct plot {
    struct buffer *out;
    double x_from, x_to, y_to; /* y begins at 0 */
};

static double plot_x(const struct plot *plot, double x)
{
    const double span = plot->x_to - plot->x_from;
    return LEFT + (PLOT_WIDTH - LEFT - RIGHT) * (span > 0 ? (x - plot->x_from) / span : 0.5);
}

static double plot_y(const struct plot *plot, double y)
{
    return PLOT_HEIGHT - BOTTOM -
           (PLOT_HEIGHT - BOTTOM - TOP) * (plot->y_to > 0 ? y / plot->y_to : 0);
}

/* A round number that cuts `span` into at most six parts. */
static double tick_step(double span)
{
    double step = pow(10, floor(log10(span > 0 ? span : 1)) - 1);
    for (int i = 0; span / step > 6; i++)
        step *= i % 3 == 1 ? 2.5 : 2;
    return step;
}

static void begin_plot(const struct plot *plot, const char *title, const char *x_label)
{
    struct buffer *out = plot->out;
    buffer_printf(out,
                  "<svg viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" role=\"img\"><title>%s</title>"
                  "<text class=\"t\" x=\"%.0f\" y=\"14\">%s</text>",
                  PLOT_WIDTH, PLOT_HEIGHT, PLOT_WIDTH, title, LEFT, title);
    double step = tick_step(plot->x_to - plot->x_from);
    for (double x = ceil(plot->x_from / step) * step; x <= plot->x_to * 1.0001; x += step)
        buffer_printf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g</text>",
                      plot_x(plot, x), PLOT_HEIGHT - BOTTOM + 14, x);
    step = tick_step(plot->y_to);
    for (double y = 0; y <= plot->y_to * 1.0001 && plot->y_to > 0; y += step)
        buffer_printf(out,
                      "<line class=\"g\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>"
                      "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.3g</text>",
                      LEFT, PLOT_WIDTH - RIGHT, plot_y(plot, y), plot_y(plot, y), LEFT - 5,
                      plot_y(plot, y) + 4, y);
    buffer_printf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>",
                  PLOT_WIDTH - RIGHT, PLOT_HEIGHT - 5, x_label);
}

static void put_line(const struct plot *plot, const double *x, const double *y, uint32_t n)
{
    buffer_append_str(plot->out, "<polyline class=\"l\" points=\"");
    for (uint32_t i = 0; i < n; i++)
        buffer_printf(plot->out, "%.1f,%.1f ", plot_x(plot, x[i]), plot_y(plot, y[i]));
    buffer_append_str(plot->out, "\"/>");
    for (uint32_t i = 0; i < n; i++)
        buffer_printf(plot->out, "<circle class=\"d\" r=\"2\" cx=\"%.1f\" cy=\"%.1f\"/>",
                      plot_x(plot, x[i]), plot_y(plot, y[i]));
    buffer_append_str(plot->out, "</svg>");
}

#define MOST_POINTS 1024u

/* Points that are computed one by one from `data`. */
static void put_curve(struct buffer *out, const char *title, const char *x_label, uint32_t n,
                      void (*point)(const void *data, uint32_t i, double *x, double *y),
                      const void *data)
{
    double x[MOST_POINTS], y[MOST_POINTS];
    n = n < MOST_POINTS ? n : MOST_POINTS;
    struct plot plot = {.out = out};
    for (uint32_t i = 0; i < n; i++) {
        point(data, i, &x[i], &y[i]);
        plot.x_from = i == 0 || x[i] < plot.x_from ? x[i] : plot.x_from;
        plot.x_to = i == 0 || x[i] > plot.x_to ? x[i] : plot.x_to;
        plot.y_to = y[i] > plot.y_to ? y[i] : plot.y_to;
    }
    if (n == 0)
        return;
    begin_plot(&plot, title, x_label);
    put_line(&plot, x, y, n);
}

static void layer_error(const void *data, uint32_t i, double *x, double *y)
{
    const struct quantise_report *r = data;
    *x = i;
    *y = r->layers[i].error;
}

static void layer_angle(const void *data, uint32_t i, double *x, double *y)
{
    const struct quantise_report *r = data;
    *x = i;
    *y = 1 - r->layers[i].cosine;
}

static void kl_by_position(const void *data, uint32_t i, double *x, double *y)
{
    const struct divergence_report *d = data;
    *x = (i + 0.5) * d->bucket_tokens;
    *y = d->bucket_kl[i];
}

static void candidate(const void *data, uint32_t i, double *x, double *y)
{
    const struct quantise_report *r = data;
    *x = r->candidates[i].bits;
    *y = r->candidates[i].damage;
}

static void tensor_error(const void *data, uint32_t i, double *x, double *y)
{
    const struct quantise_report *r = data;
    const struct tensor_report *t = &r->tensors[i];
    *x = i;
    *y = t->output_error >= 0 ? t->output_error : t->weight_error;
}

static void put_plots(const struct quantise_report *report, struct buffer *out)
{
    const struct divergence_report *d = &report->divergence;
    buffer_append_str(out, "<h2>Where the error comes from</h2><div>");
    put_curve(out, "Error of the residual behind each layer", "layer", report->n_layers,
              layer_error, report);
    put_curve(out, "1 - cosine of the residual", "layer", report->n_layers, layer_angle, report);
    if (!d->is_encoder)
        put_curve(out, "Mean KL by position", "token", d->n_buckets, kl_by_position, d);
    put_curve(out, "Error of each tensor (of its outputs, where measured)", "tensor",
              report->n_tensors, tensor_error, report);
    put_curve(out, "Size against expected damage", "bits for each weight", report->n_candidates,
              candidate, report);
    buffer_append_str(out, "</div>");
}

/* ---- tables ---------------------------------------------------------------------------------- */

static void put_summary(const struct quantise_report *report, struct buffer *out)
{
    const struct divergence_report *d = &report->divergence;
    double bytes = 0, from_bytes = 0;
    for (uint32_t i = 0; i < report->n_tensors; i++) {
        bytes += (double)report->tensors[i].bytes;
        from_bytes += (double)report->tensors[i].from_bytes;
    }
    buffer_append_str(out, "<table>");
    put_row(out, "matrices before, MB", "%.1f", from_bytes / 1e6);
    put_row(out, "matrices after, MB", "%.1f", bytes / 1e6);
    put_row(out, "bits for each weight", "%.3f", quantise_report_bits(report));
    if (d->n_tokens > 0 && d->is_encoder) {
        put_row(out, "mean cosine of embeddings", "%.5f", d->mean_cosine);
        put_row(out, "least cosine of embeddings", "%.5f", d->min_cosine);
    } else if (d->n_tokens > 0) {
        put_row(out, "mean KL(source || program), nats", "%.5f", d->mean_kl);
        put_row(out, "99th percentile of KL", "%.4f", d->p99_kl);
        put_row(out, "greatest KL", "%.3f", d->max_kl);
        put_row(out, "negative log likelihood of the source", "%.4f", d->source_nll);
        put_row(out, "negative log likelihood", "%.4f", d->nll);
        put_row(out, "same first choice, %", "%.2f", 100 * d->top1);
    }
    if (d->n_tokens > 0)
        put_row(out, "held-out tokens", "%.0f", d->n_tokens);
    put_row(out, "seconds, all", "%.1f", report->seconds);
    put_row(out, "seconds, measuring", "%.1f", report->measuring_seconds);
    buffer_append_str(out, "</table>");
}

static void put_methods(unsigned methods, struct buffer *out)
{
    static const struct {
        unsigned method;
        const char *name;
    } names[] = {{METHOD_MINMAX, "minmax"},
                 {METHOD_PLAIN, "plain"},
                 {METHOD_AWQ, "awq"},
                 {METHOD_GPTQ, "gptq"},
                 {METHOD_SCALE, "scale"}};
    bool has_one = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (methods & names[i].method) {
            buffer_printf(out, "%s%s", has_one ? "+" : "", names[i].name);
            has_one = true;
        }
}

static void put_optional(struct buffer *out, const char *format, double x)
{
    buffer_append_str(out, "<td>");
    if (x >= 0)
        buffer_printf(out, format, x);
    buffer_append_str(out, "</td>");
}

static void put_tensors(const struct quantise_report *report, struct buffer *out)
{
    buffer_append_str(out, "<h2>Tensors</h2><table><tr><th>name</th><th>from</th><th>format</th>"
                           "<th>methods</th><th>kB</th><th>weight error</th><th>SNR, dB</th>"
                           "<th>output error</th><th>awq alpha</th></tr>");
    for (uint32_t i = 0; i < report->n_tensors; i++) {
        const struct tensor_report *t = &report->tensors[i];
        const bool is_kept = t->from_dtype == t->dtype;
        buffer_append_str(out, "<tr><td>");
        buffer_append_html(out, t->name);
        buffer_printf(out, "</td><td>%s</td><td>%s</td><td>", dtype_info(t->from_dtype)->name,
                      is_kept ? "kept" : dtype_info(t->dtype)->name);
        put_methods(is_kept ? 0 : t->methods, out);
        buffer_printf(out, "</td><td>%.1f</td>", (double)t->bytes / 1e3);
        put_optional(out, "%.3g", is_kept ? -1 : t->weight_error);
        put_optional(out, "%.1f",
                     is_kept || t->weight_error <= 0 ? -1 : -10 * log10(t->weight_error));
        put_optional(out, "%.3g", t->output_error);
        put_optional(out, "%.2f", t->awq_alpha > 0 ? t->awq_alpha : -1);
        buffer_append_str(out, "</tr>");
    }
    buffer_append_str(out, "</table>");
}

void quantise_report_html(const struct quantise_report *report, struct buffer *out)
{
    buffer_printf(out,
                  "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">"
                  "<meta name=\"viewport\" content=\"width=device-width\">"
                  "<title>Quantised model</title><style>%s</style></head><body><h1>",
                  style);
    buffer_append_html(out, report->model[0] ? report->model : "A model without a name");
    buffer_append_str(out, "</h1><p>Policy ");
    buffer_append_html(out, report->policy);
    if (report->n_calibration_tokens > 0)
        buffer_printf(out, ", on %u tokens of text", report->n_calibration_tokens);
    buffer_append_str(out, ". Errors are shares of the energy of the exact numbers.</p>");
    put_summary(report, out);
    put_plots(report, out);
    put_tensors(report, out);
    buffer_append_str(out, "</body></html>\n");
}
