/* A page about one run: figures, distributions and a time line, inline, without scripts. */
#include "base/error.h"
#include "base/file.h"
#include "base/limits.h"
#include "tools/bench/serve.h"

#include <string.h>

#define PAGE_LIMIT  (64 * MIB)
#define PLOT_WIDTH  460.0
#define PLOT_HEIGHT 240.0
#define LEFT        46.0 /* margins of a plot */
#define BOTTOM      34.0
#define TOP         24.0
#define RIGHT       14.0
#define CDF_POINTS  300u
#define RATE_BINS   80u
#define LINE_ROWS   1500u /* requests of the time line; of more, every k-th */

static const char style[] =
    ":root{--ink:#1d2733;--soft:#5b6875;--rule:#d7dde3;--paper:#fff;--a:#2066c7;--b:#c9d4e0;"
    "--bad:#c0392b;--long:#b8741a}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e4e9ee;--soft:#9aa7b4;--rule:#36414d;"
    "--paper:#151b22;--a:#6fa8f5;--b:#46535f;--bad:#ef7a6d;--long:#e0a554}}"
    "body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);"
    "max-width:1000px;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:.2rem .8rem;border-bottom:1px solid var(--rule);text-align:right}"
    "td:first-child,th:first-child{text-align:left}p{color:var(--soft)}"
    "svg{max-width:100%;height:auto}svg text{fill:var(--soft);font-size:11px}"
    ".t{fill:var(--ink)!important;font-weight:600}.g{stroke:var(--rule)}"
    ".l{fill:none;stroke:var(--a);stroke-width:1.6}.w{fill:var(--b)}.d{fill:var(--a)}"
    ".e{fill:var(--bad)}.o{fill:var(--long)}";

/* ---- plots ---- */

/* A round step that cuts 0..top into at most six. */
static double tick_step(double top)
{
    double step = 1e-6;
    for (int i = 0; top / step > 6; i++)
        step *= i % 3 == 1 ? 2.5 : 2; /* 1, 2, 5, 10 */
    return step;
}

struct plot {
    struct buffer *out;
    double x_top, y_top; /* the axes begin at 0 */
};

static double plot_x(const struct plot *plot, double x)
{
    return LEFT + (PLOT_WIDTH - LEFT - RIGHT) * (plot->x_top > 0 ? x / plot->x_top : 0);
}

static double plot_y(const struct plot *plot, double y)
{
    return PLOT_HEIGHT - BOTTOM -
           (PLOT_HEIGHT - BOTTOM - TOP) * (plot->y_top > 0 ? y / plot->y_top : 0);
}

static void begin_plot(struct plot *plot, const char *title, const char *x_label)
{
    struct buffer *out = plot->out;
    buffer_printf(out,
                  "<svg viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" role=\"img\"><title>%s</title>"
                  "<text class=\"t\" x=\"%.0f\" y=\"14\">%s</text>",
                  PLOT_WIDTH, PLOT_HEIGHT, PLOT_WIDTH, title, LEFT, title);
    double step = tick_step(plot->x_top);
    for (double x = 0; x <= plot->x_top * 1.0001 && plot->x_top > 0; x += step)
        buffer_printf(out,
                      "<line class=\"g\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>"
                      "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g</text>",
                      plot_x(plot, x), plot_x(plot, x), TOP, PLOT_HEIGHT - BOTTOM, plot_x(plot, x),
                      PLOT_HEIGHT - BOTTOM + 14, x);
    step = tick_step(plot->y_top);
    for (double y = 0; y <= plot->y_top * 1.0001 && plot->y_top > 0; y += step)
        buffer_printf(out,
                      "<line class=\"g\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>"
                      "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%g</text>",
                      LEFT, PLOT_WIDTH - RIGHT, plot_y(plot, y), plot_y(plot, y), LEFT - 5,
                      plot_y(plot, y) + 4, y);
    buffer_printf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>",
                  PLOT_WIDTH - RIGHT, PLOT_HEIGHT - 5, x_label);
}

/* Share of the samples that are at most x; cut at twice the 99th percentile. */
static void append_cdf(struct buffer *out, const char *title, struct samples *samples)
{
    if (samples->n == 0)
        return;
    double top = 2 * samples_percentile(samples, 0.99), most = samples_max(samples);
    struct plot plot = {out, most < top ? most : top, 100};
    begin_plot(&plot, title, "ms");
    buffer_append_str(out, "<polyline class=\"l\" points=\"");
    for (uint32_t i = 0; i <= CDF_POINTS; i++) {
        double share = (double)i / CDF_POINTS, x = samples_percentile(samples, share);
        if (x <= plot.x_top)
            buffer_printf(out, "%.1f,%.1f ", plot_x(&plot, x), plot_y(&plot, 100 * share));
    }
    buffer_append_str(out, "\"/></svg>\n");
}

/* Chunks of content per second over the run. */
static void append_rate(struct buffer *out, const struct serve_result *result)
{
    double bins[RATE_BINS] = {0}, wall = result->summary.wall_s, most = 0;
    if (wall <= 0)
        return;
    for (uint32_t i = 0; i < result->n; i++) {
        const struct record *r = &result->records[i];
        for (size_t c = 0; c < r->n_chunks; c++) {
            size_t bin = (size_t)(r->chunk_s[c] / wall * RATE_BINS);
            bins[bin < RATE_BINS ? bin : RATE_BINS - 1] += RATE_BINS / wall;
        }
    }
    for (uint32_t i = 0; i < RATE_BINS; i++)
        most = bins[i] > most ? bins[i] : most;
    struct plot plot = {out, wall, most};
    begin_plot(&plot, "chunks per second", "s");
    buffer_append_str(out, "<polyline class=\"l\" points=\"");
    for (uint32_t i = 0; i < RATE_BINS; i++)
        buffer_printf(out, "%.1f,%.1f %.1f,%.1f ", plot_x(&plot, wall * i / RATE_BINS),
                      plot_y(&plot, bins[i]), plot_x(&plot, wall * (i + 1) / RATE_BINS),
                      plot_y(&plot, bins[i]));
    buffer_append_str(out, "\"/></svg>\n");
}

/* ---- the time line ---- */

static void append_bar(struct buffer *out, const char *class, double x0, double x1, double y,
                       double height)
{
    buffer_printf(out, "<rect class=\"%s\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"/>",
                  class, x0, y, x1 - x0 > 0.5 ? x1 - x0 : 0.5, height);
}

static void append_time_line(struct buffer *out, const struct serve_result *result)
{
    const double width = 960, top = 6;
    double wall = result->summary.wall_s;
    uint32_t step = (result->n + LINE_ROWS - 1) / LINE_ROWS;
    uint32_t n_rows = step ? (result->n + step - 1) / step : 0;
    if (n_rows == 0 || wall <= 0)
        return;
    double row = n_rows < 60 ? 12 : n_rows < 300 ? 4 : 1.5, height = top + row * n_rows;
    buffer_printf(out,
                  "<svg viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" role=\"img\">"
                  "<title>time line</title>",
                  width, height + 20, width);
    double tick = tick_step(wall);
    for (double t = 0; t <= wall; t += tick)
        buffer_printf(out,
                      "<line class=\"g\" x1=\"%.1f\" x2=\"%.1f\" y1=\"0\" y2=\"%.1f\"/>"
                      "<text x=\"%.1f\" y=\"%.1f\">%g s</text>",
                      t / wall * width, t / wall * width, height, t / wall * width + 2, height + 14,
                      t);
    for (uint32_t i = 0; i < n_rows; i++) {
        const struct record *r = &result->records[i * step];
        double y = top + row * i, thick = row > 2 ? row - 1 : row;
        double x0 = r->start_s / wall * width, x2 = r->end_s / wall * width;
        double x1 = (r->n_chunks ? r->chunk_s[0] : r->end_s) / wall * width;
        buffer_printf(out,
                      "<g><title>%u: first content after %.1f ms, end after %.1f ms, "
                      "%u tokens ",
                      r->index, record_ttft(r) * 1e3, (r->end_s - r->start_s) * 1e3, r->n_output);
        buffer_append_html(out, r->error);
        buffer_append_str(out, "</title>");
        append_bar(out, r->is_long ? "o" : "w", x0, x1, y, thick);
        if (x2 > x1 || !record_is_good(r))
            append_bar(out, record_is_good(r) ? "d" : "e", x1, x2, y, thick);
        buffer_append_str(out, "</g>");
    }
    buffer_append_str(out, "</svg>\n");
}

/* ---- the page ---- */

static void append_row(struct buffer *out, const char *name, struct samples *samples)
{
    if (samples->n > 0)
        buffer_printf(out,
                      "<tr><td>%s</td><td>%.2f</td><td>%.2f</td><td>%.2f</td><td>%.2f</td>"
                      "<td>%.2f</td><td>%zu</td></tr>\n",
                      name, samples_mean(samples), samples_percentile(samples, 0.5),
                      samples_percentile(samples, 0.9), samples_percentile(samples, 0.99),
                      samples_max(samples), samples->n);
}

static void append_figures(struct buffer *out, const struct serve_options *options,
                           struct serve_summary *s)
{
    buffer_append_str(out, "<table><tr><th>ms</th><th>mean</th><th>p50</th><th>p90</th><th>p99</th>"
                           "<th>max</th><th>n</th></tr>\n");
    append_row(out, "time to first token", &s->ttft);
    append_row(out, "between chunks", &s->itl);
    append_row(out, "between chunks, quiet", &s->itl_quiet);
    append_row(out, "between chunks, beside a long prompt", &s->itl_long);
    append_row(out, "per output token", &s->tpot);
    append_row(out, "whole request", &s->e2e);
    append_row(out, "long prompt's first token, alone", &s->ttft_alone);
    append_row(out, "long prompt's first token, beside", &s->ttft_long);
    buffer_printf(out,
                  "</table><p>%u requests, %u errors in %.2f s. Output %.2f tok/s, total %.2f "
                  "tok/s; %llu of %llu prompt tokens cached. Goodput %.3f requests/s within %g ms "
                  "to the first and %g ms for each further token.</p>\n",
                  s->n, s->n_errors, s->wall_s, s->output_tok_s, s->total_tok_s,
                  (unsigned long long)s->n_cached, (unsigned long long)s->n_prompt, s->goodput,
                  options->slo_ttft_ms, options->slo_tpot_ms);
}

serverd_status html_report_write(const struct serve_options *options, struct serve_result *result,
                                 const char *path, serverd_error *err)
{
    struct serve_summary *s = &result->summary;
    struct buffer out;
    buffer_init(&out, PAGE_LIMIT);
    buffer_printf(&out, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
                        "<meta name=\"viewport\" content=\"width=device-width\"><title>");
    buffer_append_html(&out, options->label ? options->label : serve_scenario_name(options));
    buffer_printf(&out, "</title><style>%s</style></head><body>\n<h1>", style);
    buffer_append_html(&out, options->label ? options->label : "serverd-bench serve");
    buffer_printf(&out, "</h1><p>%s, concurrency %u, seed %u, ", serve_scenario_name(options),
                  options->concurrency, options->seed);
    buffer_append_html(&out, result->model);
    buffer_append_str(&out, " at ");
    buffer_append_html(&out, options->url);
    buffer_append_str(&out, "</p>\n");
    append_figures(&out, options, s);
    buffer_append_str(&out, "<h2>Distributions</h2>\n");
    append_cdf(&out, "time to first token, % of requests", &s->ttft);
    append_cdf(&out, "between chunks, % of gaps", &s->itl);
    append_cdf(&out, "per output token, % of requests", &s->tpot);
    append_cdf(&out, "whole request, % of requests", &s->e2e);
    buffer_append_str(&out, "<h2>Over time</h2>\n");
    append_rate(&out, result);
    buffer_append_str(&out, "<p>Each request: waiting for its first token, then its stream; long "
                            "prompts and failures have "
                            "colours of their own.</p>\n");
    append_time_line(&out, result);
    buffer_append_str(&out, "</body></html>\n");
    serverd_status status = out.is_failed
                                ? fail(err, SERVERD_NOMEM, "%s: the page is too large", path)
                                : file_write_atomic(path, out.data, out.len, err);
    buffer_deinit(&out);
    return status;
}
