/* What a run against a server comes to: summary, table, JSON lines. */
#include "base/error.h"
#include "tools/bench/serve.h"

#include <stdlib.h>
#include <string.h>

/* ---- summary ---- */

/* That a long prompt is between its start and its first content at some time in begin..end. */
static bool is_beside_long(const struct serve_result *result, double begin, double end)
{
    for (uint32_t i = 0; i < result->n; i++) {
        const struct record *r = &result->records[i];
        double first = r->n_chunks ? r->chunk_s[0] : r->end_s;
        if (r->is_long && !r->is_alone && begin < first && end > r->start_s)
            return true;
    }
    return false;
}

static void add_gaps(const struct serve_options *options, struct serve_result *result,
                     const struct record *record)
{
    struct serve_summary *s = &result->summary;
    for (size_t i = 1; i < record->n_chunks; i++) {
        double begin = record->chunk_s[i - 1], end = record->chunk_s[i];
        samples_add(&s->itl, (end - begin) * 1e3);
        if (options->scenario == SCENARIO_LONGPREFILL)
            samples_add(is_beside_long(result, begin, end) ? &s->itl_long : &s->itl_quiet,
                        (end - begin) * 1e3);
    }
}

static void add_good(const struct serve_options *options, struct serve_result *result,
                     const struct record *record)
{
    struct serve_summary *s = &result->summary;
    double ttft = record_ttft(record) * 1e3, tpot = record_tpot(record) * 1e3;
    s->n_prompt += record->n_prompt;
    s->n_cached += record->n_cached;
    s->n_output += record->n_output ? record->n_output : record->n_chunks;
    if (record->is_long) {
        s->n_long++;
        samples_add(record->is_alone ? &s->ttft_alone : &s->ttft_long, ttft);
        return;
    }
    if (record->n_chunks > 0)
        samples_add(&s->ttft, ttft);
    samples_add(&s->e2e, (record->end_s - record->start_s) * 1e3);
    if (tpot > 0)
        samples_add(&s->tpot, tpot);
    s->n_good +=
        record->n_chunks > 0 && ttft <= options->slo_ttft_ms && tpot <= options->slo_tpot_ms;
    add_gaps(options, result, record);
}

void serve_summarise(const struct serve_options *options, struct serve_result *result)
{
    struct serve_summary *s = &result->summary;
    s->n = result->n;
    for (uint32_t i = 0; i < result->n; i++) {
        const struct record *record = &result->records[i];
        if (record_is_good(record)) {
            add_good(options, result, record);
            continue;
        }
        if (s->n_errors++ == 0)
            memcpy(s->first_error, record->error, sizeof s->first_error);
    }
    if (s->wall_s > 0) {
        s->output_tok_s = (double)s->n_output / s->wall_s;
        s->total_tok_s = (double)(s->n_output + s->n_prompt) / s->wall_s;
        s->goodput = s->n_good / s->wall_s;
    }
}

/* ---- table ---- */

static void add_row(struct table *table, const char *name, struct samples *samples)
{
    if (samples->n == 0)
        return;
    table_cell(table, "%s", name);
    table_cell(table, "%.2f", samples_mean(samples));
    table_cell(table, "%.2f", samples_percentile(samples, 0.50));
    table_cell(table, "%.2f", samples_percentile(samples, 0.90));
    table_cell(table, "%.2f", samples_percentile(samples, 0.99));
    table_cell(table, "%.2f", samples_max(samples));
    table_cell(table, "%zu", samples->n);
}

static void print_totals(const struct serve_options *options, const struct serve_result *result,
                         FILE *to)
{
    const struct serve_summary *s = &result->summary;
    uint32_t n_done = s->n - s->n_errors;
    (void)fprintf(to,
                  "\n%u requests, %u errors, %.2f s; tokens: %llu prompt (%llu cached, %.1f %%), "
                  "%llu output\n",
                  s->n, s->n_errors, s->wall_s, (unsigned long long)s->n_prompt,
                  (unsigned long long)s->n_cached,
                  s->n_prompt ? 100.0 * (double)s->n_cached / (double)s->n_prompt : 0.0,
                  (unsigned long long)s->n_output);
    (void)fprintf(to, "output %.2f tok/s, total %.2f tok/s, %.3f requests/s\n", s->output_tok_s,
                  s->total_tok_s, s->wall_s > 0 ? n_done / s->wall_s : 0.0);
    (void)fprintf(to, "goodput (TTFT <= %g ms, TPOT <= %g ms): %.3f requests/s, %.1f %% of all\n",
                  options->slo_ttft_ms, options->slo_tpot_ms, s->goodput,
                  s->n > s->n_long ? 100.0 * s->n_good / (s->n - s->n_long) : 0.0);
    (void)fprintf(to, "this client: %.2f s of processor time\n", s->cpu_s);
    if (s->n_errors > 0)
        (void)fprintf(to, "first error: %s\n", s->first_error);
}

static void print_long(struct serve_summary *s, FILE *to)
{
    double p50 = samples_percentile(&s->itl_quiet, 0.5);
    double alone = samples_median(&s->ttft_alone);
    if (s->itl_long.n == 0) {
        (void)fputs("no long prompt came while all streams ran: raise --max-tokens\n", to);
        return;
    }
    (void)fprintf(to,
                  "beside the long prompt: ITL p99 / their quiet p50 = %.2f; its TTFT / alone = "
                  "%.2f\n",
                  p50 > 0 ? samples_percentile(&s->itl_long, 0.99) / p50 : 0.0,
                  alone > 0 ? samples_median(&s->ttft_long) / alone : 0.0);
}

serverd_status serve_print(const struct serve_options *options, struct serve_result *result,
                           FILE *to, serverd_error *err)
{
    static const char *const headers[] = {"<ms", "mean", "p50", "p90", "p99", "max", "n"};
    struct serve_summary *s = &result->summary;
    struct table table;
    serverd_status status = table_init(&table, 7, headers, err);
    if (status != SERVERD_OK)
        return status;
    (void)fprintf(to, "%s%s%s, concurrency %u, %s at %s\n\n", options->label ? options->label : "",
                  options->label ? ": " : "", serve_scenario_name(options), options->concurrency,
                  result->model, options->url);
    add_row(&table, "TTFT", &s->ttft);
    add_row(&table, "ITL", &s->itl);
    add_row(&table, "ITL, quiet", &s->itl_quiet);
    add_row(&table, "ITL, beside long prompt", &s->itl_long);
    add_row(&table, "TPOT", &s->tpot);
    add_row(&table, "whole request", &s->e2e);
    add_row(&table, "TTFT of long prompt, alone", &s->ttft_alone);
    add_row(&table, "TTFT of long prompt, beside", &s->ttft_long);
    table_print(&table, to);
    print_totals(options, result, to);
    if (options->scenario == SCENARIO_LONGPREFILL)
        print_long(s, to);
    table_deinit(&table);
    return SERVERD_OK;
}

/* ---- JSON ---- */

static json_t *percentiles(struct samples *samples)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:I}", "mean", samples_mean(samples), "p50",
                     samples_percentile(samples, 0.50), "p90", samples_percentile(samples, 0.90),
                     "p99", samples_percentile(samples, 0.99), "max", samples_max(samples), "n",
                     (json_int_t)samples->n);
}

json_t *serve_summary_json(const struct serve_options *options, struct serve_result *result)
{
    struct serve_summary *s = &result->summary;
    json_t *made = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f,"
        " s:f, s:f, s:o, s:o, s:o, s:o, s:s}",
        "kind", "serve", "version", PROJECT_VERSION, "label", options->label ? options->label : "",
        "scenario", serve_scenario_name(options), "model", result->model, "concurrency",
        (json_int_t)options->concurrency, "seed", (json_int_t)options->seed, "n", (json_int_t)s->n,
        "errors", (json_int_t)s->n_errors, "n_good", (json_int_t)s->n_good, "prompt_tokens",
        (json_int_t)s->n_prompt, "cached_tokens", (json_int_t)s->n_cached, "output_tokens",
        (json_int_t)s->n_output, "wall_s", s->wall_s, "client_cpu_s", s->cpu_s, "output_tok_s",
        s->output_tok_s, "total_tok_s", s->total_tok_s, "goodput_rps", s->goodput, "slo_ttft_ms",
        options->slo_ttft_ms, "slo_tpot_ms", options->slo_tpot_ms, "ttft_ms", percentiles(&s->ttft),
        "itl_ms", percentiles(&s->itl), "tpot_ms", percentiles(&s->tpot), "e2e_ms",
        percentiles(&s->e2e), "first_error", s->first_error);
    if (!made || options->scenario != SCENARIO_LONGPREFILL)
        return made;
    json_t *long_part =
        json_pack("{s:o, s:o, s:o, s:o}", "itl_quiet_ms", percentiles(&s->itl_quiet), "itl_long_ms",
                  percentiles(&s->itl_long), "ttft_alone_ms", percentiles(&s->ttft_alone),
                  "ttft_long_ms", percentiles(&s->ttft_long));
    bool is_added = long_part && json_object_update(made, long_part) == 0;
    json_decref(long_part);
    if (is_added)
        return made;
    json_decref(made);
    return NULL;
}

static json_t *record_json(const struct serve_options *options, const struct record *record)
{
    struct samples gaps = {0};
    for (size_t i = 1; i < record->n_chunks; i++)
        samples_add(&gaps, (record->chunk_s[i] - record->chunk_s[i - 1]) * 1e3);
    json_t *made = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:b, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I,"
        " s:I, s:s, s:s}",
        "kind", "request", "label", options->label ? options->label : "", "scenario",
        serve_scenario_name(options), "index", (json_int_t)record->index, "conversation",
        (json_int_t)record->conversation, "turn", (json_int_t)record->turn, "preamble",
        (json_int_t)record->preamble, "is_long", (int)record->is_long, "http_status",
        (json_int_t)record->http_status, "start_s", record->start_s, "ttft_ms",
        record_ttft(record) * 1e3, "tpot_ms", record_tpot(record) * 1e3, "itl_p50_ms",
        samples_percentile(&gaps, 0.5), "itl_max_ms", samples_max(&gaps), "e2e_ms",
        (record->end_s - record->start_s) * 1e3, "chunks", (json_int_t)record->n_chunks,
        "prompt_tokens", (json_int_t)record->n_prompt, "cached_tokens",
        (json_int_t)record->n_cached, "output_tokens", (json_int_t)record->n_output, "finish",
        record->finish, "error", record->error);
    samples_deinit(&gaps);
    return made;
}

serverd_status serve_write_jsonl(const struct serve_options *options, struct serve_result *result,
                                 struct json_lines *lines, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    if (!lines->file)
        return status;
    for (uint32_t i = 0; i < result->n && status == SERVERD_OK; i++)
        status = json_lines_add(lines, record_json(options, &result->records[i]), err);
    if (status == SERVERD_OK)
        status = json_lines_add(lines, serve_summary_json(options, result), err);
    return status;
}
