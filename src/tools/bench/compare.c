/* serverd-bench compare: two servers in turn under the same load, and the ratios of each round. */
#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "tools/bench/calibrate.h"
#include "tools/bench/child.h"
#include "tools/bench/commands.h"
#include "tools/bench/serve.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define MAX_ROUNDS        100u
#define CALIBRATION_BYTES (256 * MIB)
#define STOP_SECONDS      30.0

struct compare_options {
    struct serve_options serve; /* first: SERVE_ROWS */
    const char *a, *b, *url_b, *ready_url, *logs;
    uint32_t rounds;
    double ready_s;
    bool keep_all;
};

/* What is compared; of each the ratio b / a is reported. */
struct metric {
    const char *name;
    bool is_better_if_less;
    double (*of)(struct serve_summary *summary);
};

static double output_rate(struct serve_summary *s)
{
    return s->output_tok_s;
}

static double total_rate(struct serve_summary *s)
{
    return s->total_tok_s;
}

static double goodput(struct serve_summary *s)
{
    return s->goodput;
}

static double ttft_p50(struct serve_summary *s)
{
    return samples_percentile(&s->ttft, 0.50);
}

static double ttft_p99(struct serve_summary *s)
{
    return samples_percentile(&s->ttft, 0.99);
}

static double itl_p50(struct serve_summary *s)
{
    return samples_percentile(&s->itl, 0.50);
}

static double itl_p99(struct serve_summary *s)
{
    return samples_percentile(&s->itl, 0.99);
}

static double tpot_p50(struct serve_summary *s)
{
    return samples_percentile(&s->tpot, 0.50);
}

static double e2e_p50(struct serve_summary *s)
{
    return samples_percentile(&s->e2e, 0.50);
}

static const struct metric metrics[] = {
    {"output tok/s", false, output_rate}, {"total tok/s", false, total_rate},
    {"goodput req/s", false, goodput},    {"TTFT p50 ms", true, ttft_p50},
    {"TTFT p99 ms", true, ttft_p99},      {"ITL p50 ms", true, itl_p50},
    {"ITL p99 ms", true, itl_p99},        {"TPOT p50 ms", true, tpot_p50},
    {"request p50 ms", true, e2e_p50},
};

#define N_METRICS (sizeof metrics / sizeof *metrics)

struct round {
    double value[2][N_METRICS];
    uint32_t n_errors[2];
    bool is_steady;
};

struct comparison {
    const struct compare_options *options;
    struct worker_pool *pool;
    struct calibrator *calibrator;
    struct json_lines lines;
    struct round round[MAX_ROUNDS];
    uint32_t n_rounds;
};

/* ---- one server ---- */

static const char *url_of(const struct compare_options *options, int side)
{
    return side == 1 && options->url_b ? options->url_b : options->serve.url;
}

/* 200 of --ready-url; else of /health, or of /v1/models where there is no /health. */
static serverd_status ask_ready(const struct compare_options *options, struct load_client *client,
                                long *http_status, serverd_error *err)
{
    if (options->ready_url)
        return load_client_get_url(client, options->ready_url, 2, NULL, http_status, err);
    serverd_status status = load_client_get(client, "/health", 2, NULL, http_status, err);
    if (status == SERVERD_OK && *http_status == 404)
        status = load_client_get(client, "/v1/models", 2, NULL, http_status, err);
    return status;
}

static serverd_status wait_ready(const struct compare_options *options, struct load_client *client,
                                 struct child *child, serverd_error *err)
{
    const struct timespec nap = {.tv_nsec = 20000000};
    load_client_begin(client);
    for (;;) {
        long http_status = 0;
        serverd_status status = ask_ready(options, client, &http_status, err);
        if (status != SERVERD_OK || http_status == 200 || http_status == 401)
            return status;
        if (!child_is_running(child))
            return fail(err, SERVERD_INVALID, "the server ended before it was ready%s",
                        options->logs ? "; see its log" : "; --logs keeps what it says");
        if (load_client_now(client) > options->ready_s)
            return fail(err, SERVERD_TIMEOUT, "the server was not ready after %g s",
                        options->ready_s);
        (void)nanosleep(&nap, NULL);
    }
}

/* Nothing may answer at the address before the server is started. */
static serverd_status check_free(const struct compare_options *options, struct load_client *client,
                                 serverd_error *err)
{
    long http_status = 0;
    serverd_status status = ask_ready(options, client, &http_status, err);
    if (status == SERVERD_OK && http_status != 0)
        status = fail(err, SERVERD_BUSY, "another server answers there");
    return status;
}

static serverd_status load_server(struct comparison *comparison, int side, struct child *child,
                                  struct load_client *client, struct serve_result *result,
                                  serverd_error *err)
{
    const struct compare_options *options = comparison->options;
    struct serve_options serve = options->serve;
    char label[64], log[LIMIT_OPTION_BYTES + 8];
    serve.url = url_of(options, side);
    (void)snprintf(label, sizeof label, "round %u of %u, %c", comparison->n_rounds + 1,
                   options->rounds, 'a' + side);
    if (options->logs)
        (void)snprintf(log, sizeof log, "%s.%c.log", options->logs, 'a' + side);
    serverd_status status = check_free(options, client, err);
    if (status != SERVERD_OK)
        return status;
    progress_show("%s: starting", label);
    status = child_start(child, side ? options->b : options->a, options->logs ? log : NULL, err);
    if (status == SERVERD_OK)
        status = wait_ready(options, client, child, err);
    if (status == SERVERD_OK)
        status = serve_run(&serve, label, result, err);
    if (status == SERVERD_OK && result->summary.n_errors == result->n)
        status =
            fail(err, SERVERD_INVALID, "every request failed: %s", result->summary.first_error);
    return status;
}

static serverd_status run_side(struct comparison *comparison, int side, struct round *round,
                               serverd_error *err)
{
    struct child child = {0};
    struct serve_result result = {0};
    struct load_client *client = NULL;
    const struct load_client_options client_options = {.url = url_of(comparison->options, side),
                                                       .timeout_s = 10};
    serverd_status status = load_client_create(&client_options, &client, err);
    if (status == SERVERD_OK)
        status = load_server(comparison, side, &child, client, &result, err);
    progress_clear();
    child_stop(&child, STOP_SECONDS);
    load_client_destroy(client);
    if (status == SERVERD_OK) {
        round->n_errors[side] = result.summary.n_errors;
        for (size_t m = 0; m < N_METRICS; m++)
            round->value[side][m] = metrics[m].of(&result.summary);
        json_t *line = serve_summary_json(&comparison->options->serve, &result);
        json_t *where =
            json_pack("{s:s, s:i}", "side", side ? "b" : "a", "round", (int)comparison->n_rounds);
        if (!line || !where || json_object_update(line, where) != 0) {
            json_decref(line);
            line = NULL;
        }
        json_decref(where);
        status = json_lines_add(&comparison->lines, line, err);
    }
    serve_result_deinit(&result);
    return status == SERVERD_OK
               ? status
               : error_context(err, "server %c at %s", 'a' + side, client_options.url);
}

/* ---- rounds ---- */

/* A and B change places from round to round, so that neither always runs on a warmer machine. */
static serverd_status run_rounds(struct comparison *comparison, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    struct machine_limits before = calibrator_run(comparison->calibrator);
    while (comparison->n_rounds < comparison->options->rounds && status == SERVERD_OK) {
        struct round *round = &comparison->round[comparison->n_rounds];
        int first = (int)(comparison->n_rounds % 2);
        status = run_side(comparison, first, round, err);
        if (status == SERVERD_OK)
            status = run_side(comparison, !first, round, err);
        if (status != SERVERD_OK)
            break;
        struct machine_limits after = calibrator_run(comparison->calibrator);
        round->is_steady = limits_are_steady(&before, &after);
        before = after;
        comparison->n_rounds++;
    }
    return status;
}

/* ---- report ---- */

static uint32_t count_steady(const struct comparison *comparison)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < comparison->n_rounds; i++)
        n += comparison->round[i].is_steady;
    return n;
}

struct ratio {
    struct samples a, b, ratio;
};

static void collect(const struct comparison *comparison, size_t metric, bool only_steady,
                    struct ratio *out)
{
    for (uint32_t i = 0; i < comparison->n_rounds; i++) {
        const struct round *round = &comparison->round[i];
        double a = round->value[0][metric], b = round->value[1][metric];
        if (only_steady && !round->is_steady)
            continue;
        samples_add(&out->a, a);
        samples_add(&out->b, b);
        if (a > 0)
            samples_add(&out->ratio, b / a);
    }
}

static serverd_status report_metric(struct comparison *comparison, size_t metric, bool only_steady,
                                    struct table *table, serverd_error *err)
{
    struct ratio r = {0};
    collect(comparison, metric, only_steady, &r);
    double median = samples_median(&r.ratio);
    bool is_better = metrics[metric].is_better_if_less ? median < 1 : median > 1;
    table_cell(table, "%s", metrics[metric].name);
    table_cell(table, "%.2f", samples_median(&r.a));
    table_cell(table, "%.2f", samples_median(&r.b));
    table_cell(table, "%.3f", median);
    table_cell(table, "%.3f", samples_min(&r.ratio));
    table_cell(table, "%.3f", samples_max(&r.ratio));
    table_cell(table, "%s", median == 1 || r.ratio.n == 0 ? "" : is_better ? "b" : "a");
    json_t *line =
        json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:I, s:I}", "kind", "compare",
                  "scenario", serve_scenario_name(&comparison->options->serve), "metric",
                  metrics[metric].name, "a", samples_median(&r.a), "b", samples_median(&r.b),
                  "ratio", median, "min", samples_min(&r.ratio), "max", samples_max(&r.ratio),
                  "rounds_used", (json_int_t)r.ratio.n, "rounds", (json_int_t)comparison->n_rounds);
    samples_deinit(&r.a);
    samples_deinit(&r.b);
    samples_deinit(&r.ratio);
    return json_lines_add(&comparison->lines, line, err);
}

static serverd_status report(struct comparison *comparison, serverd_error *err)
{
    static const char *const headers[] = {
        "<median of rounds", "a", "b", "b / a", "min", "max", "<better"};
    const struct compare_options *options = comparison->options;
    uint32_t n = comparison->n_rounds, n_steady = count_steady(comparison), n_errors[2] = {0};
    bool only_steady = !options->keep_all && n_steady > 0;
    struct table table;
    serverd_status status = table_init(&table, 7, headers, err);
    if (status != SERVERD_OK)
        return status;
    for (size_t m = 0; m < N_METRICS && status == SERVERD_OK; m++)
        status = report_metric(comparison, m, only_steady, &table, err);
    for (uint32_t i = 0; i < n; i++)
        for (int side = 0; side < 2; side++)
            n_errors[side] += comparison->round[i].n_errors[side];
    (void)printf("a: %s\nb: %s\n%s, concurrency %u\n\n", options->a, options->b,
                 serve_scenario_name(&options->serve), options->serve.concurrency);
    table_print(&table, stdout);
    (void)printf(
        "\n%u rounds, in %u of them the machine's limits moved (compute by more than 3 %%, "
        "bandwidth 10 %%); %s; errors: a %u, b %u\n",
        n, n - n_steady, only_steady ? "those are left out" : "all of them count here", n_errors[0],
        n_errors[1]);
    table_deinit(&table);
    return status;
}

static serverd_status bench_compare_run(const void *values, serverd_error *err)
{
    const struct compare_options *options = values;
    struct comparison comparison = {.options = options};
    if (!options->a || !options->b)
        return fail(err, SERVERD_INVALID, "--%s: names the command of a server",
                    options->a ? "b" : "a");
    serverd_status status = json_lines_open(&comparison.lines, options->serve.jsonl, err);
    if (status == SERVERD_OK)
        status = worker_pool_create(0, &comparison.pool, err);
    if (status == SERVERD_OK)
        status = calibrator_create(comparison.pool, CALIBRATION_BYTES, &comparison.calibrator, err);
    if (status == SERVERD_OK)
        status = run_rounds(&comparison, err);
    if (comparison.n_rounds > 0) {
        serverd_error ignored;
        serverd_status reported = report(&comparison, status == SERVERD_OK ? err : &ignored);
        status = status == SERVERD_OK ? reported : status;
    }
    json_lines_close(&comparison.lines);
    calibrator_destroy(comparison.calibrator);
    if (comparison.pool)
        worker_pool_destroy(comparison.pool);
    return status;
}

#define AT(field) offsetof(struct compare_options, field)

static const struct command_option rows[] = {
    {"a", 'a', COMMAND_STRING, AT(a), "COMMAND", NULL, 0, 0,
     "Starts the first server; words are split as by a shell, NAME=VALUE in front are variables"},
    {"b", 'b', COMMAND_STRING, AT(b), "COMMAND", NULL, 0, 0, "Starts the second server"},
    {"rounds", 'R', COMMAND_COUNT, AT(rounds), "N", "5", 1, MAX_ROUNDS, "Rounds of both"},
    {"url-b", 0, COMMAND_STRING, AT(url_b), "URL", NULL, 0, 0,
     "Address of the second server, if it is another"},
    {"ready-url", 0, COMMAND_STRING, AT(ready_url), "URL", NULL, 0, 0,
     "Address that answers 200 when a server is ready (default: /health, else /v1/models)"},
    {"ready-timeout", 0, COMMAND_FLOAT, AT(ready_s), "SECONDS", "300", 0.1, 86400,
     "Longest time until it is"},
    {"logs", 0, COMMAND_STRING, AT(logs), "PREFIX", NULL, 0, 0,
     "Append the servers' output to PREFIX.a.log and PREFIX.b.log"},
    {"keep-all", 0, COMMAND_FLAG, AT(keep_all), NULL, NULL, 0, 0,
     "Count rounds in which the machine's limits moved, too"},
    SERVE_ROWS,
};

const struct command bench_compare = {
    .name = "compare",
    .summary = "Two servers in turn under the same load: ratios of each round",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
    .bare = {"scenario"},
    .run = bench_compare_run,
    .values_bytes = sizeof(struct compare_options),
};
