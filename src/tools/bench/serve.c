/* serverd-bench serve: the runner, and the sub-command. */
#include "tools/bench/serve.h"

#include "base/error.h"
#include "base/limits.h"
#include "tools/bench/commands.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define BODY_LIMIT   (64 * MIB)
#define MODELS_LIMIT (1 * MIB)
#define GET_SECONDS  10.0

struct runner {
    const struct serve_options *options;
    const char *label, *path;
    struct load_client *client;
    struct workload *workload;
    struct serve_result *result;
    struct buffer body;
    uint32_t n_started, n_ended;
    double shown_s; /* when progress was shown last */
};

const char *serve_scenario_name(const struct serve_options *options)
{
    static const char *const names[] = {"closed",  "poisson",     "shared",   "multiturn",
                                        "fewshot", "longprefill", "code-edit"};
    return names[options->scenario];
}

static double cpu_seconds(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

/* ---- one run of a workload ---- */

static void show_progress(struct runner *runner)
{
    double now = load_client_now(runner->client);
    uint32_t n = runner->result->n;
    if (now - runner->shown_s < 0.1)
        return;
    runner->shown_s = now;
    progress_bar((double)runner->n_ended / n, "%s%s%u of %u, %u in flight, %.0f s",
                 runner->label ? runner->label : "", runner->label ? ": " : "", runner->n_ended, n,
                 load_client_n_running(runner->client), now);
}

/* Chunks of the slowest stream that runs. */
static size_t least_chunks(const struct runner *runner)
{
    size_t least = SIZE_MAX;
    for (uint32_t i = 0; i < runner->n_started; i++) {
        const struct record *record = &runner->result->records[i];
        if (!record->is_long && record->end_s <= 0 && record->n_chunks < least)
            least = record->n_chunks;
    }
    return least == SIZE_MAX ? 0 : least;
}

static serverd_status start_some(struct runner *runner, double *wait_s, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    if (runner->options->scenario == SCENARIO_LONGPREFILL)
        workload_progress(runner->workload, least_chunks(runner));
    while (runner->n_started < runner->result->n && status == SERVERD_OK &&
           load_client_n_running(runner->client) < LOAD_MAX_RUNNING) {
        struct record *record = &runner->result->records[runner->n_started];
        if (!workload_next(runner->workload, load_client_now(runner->client),
                           load_client_n_running(runner->client), record, wait_s))
            break;
        runner->n_started++;
        status = workload_body(runner->workload, record, &runner->body, err);
        if (status == SERVERD_OK)
            status = load_client_start(runner->client, runner->path, buffer_str(&runner->body),
                                       runner->body.len, record, err);
    }
    return status;
}

static serverd_status run_workload(struct runner *runner, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    while (status == SERVERD_OK && !workload_is_over(runner->workload)) {
        double wait_s = 1;
        struct record *done = NULL;
        status = start_some(runner, &wait_s, err);
        if (status == SERVERD_OK)
            status = load_client_poll(runner->client, wait_s < 0.1 ? wait_s : 0.1, &done, err);
        while (status == SERVERD_OK && done) {
            runner->n_ended++;
            status = workload_done(runner->workload, done, err);
            if (done->keeps_text)
                buffer_deinit(&done->text);
            if (status == SERVERD_OK)
                status = start_some(runner, &wait_s, err);
            if (status == SERVERD_OK)
                status = load_client_poll(runner->client, 0, &done, err);
        }
        show_progress(runner);
    }
    progress_clear();
    return status;
}

/* ---- set-up ---- */

static struct workload_options workload_of(const struct serve_options *options, const char *model)
{
    return (struct workload_options){.scenario = (enum scenario)options->scenario,
                                     .n = options->n,
                                     .concurrency = options->concurrency,
                                     .prompt_words = options->prompt_words,
                                     .prompt_words_max = options->prompt_words_max,
                                     .max_tokens = options->max_tokens,
                                     .max_tokens_max = options->max_tokens_max,
                                     .shared_share = options->shared_share,
                                     .shared_words = options->shared_words,
                                     .turns = options->turns,
                                     .conversations = options->conversations,
                                     .preambles = options->preambles,
                                     .questions = options->questions,
                                     .long_words = options->long_words,
                                     .n_long = options->n_long,
                                     .rate = options->rate,
                                     .seed = options->seed,
                                     .is_chat = options->endpoint == 0,
                                     .model = model,
                                     .extra = options->extra};
}

/* The first model that the server lists; "default" if it lists none. */
static serverd_status choose_model(const struct serve_options *options, struct load_client *client,
                                   char *out, size_t n, serverd_error *err)
{
    (void)snprintf(out, n, "%s", options->model ? options->model : "default");
    if (options->model)
        return SERVERD_OK;
    struct buffer body;
    long http_status = 0;
    buffer_init(&body, MODELS_LIMIT);
    serverd_status status =
        load_client_get(client, "/v1/models", GET_SECONDS, &body, &http_status, err);
    if (status == SERVERD_OK && http_status == 0)
        status = fail(err, SERVERD_INVALID, "nothing answers at %s", options->url);
    if (status == SERVERD_OK && http_status == 200) {
        json_t *root = json_loadb(buffer_str(&body), body.len, 0, NULL);
        const char *id = json_string_value(
            json_object_get(json_array_get(json_object_get(root, "data"), 0), "id"));
        if (id && strlen(id) >= n)
            status = fail(err, SERVERD_INVALID,
                          "%s: a model's name of %zu bytes, at most %zu "
                          "allowed",
                          options->url, strlen(id), n - 1);
        else if (id)
            (void)snprintf(out, n, "%s", id);
        json_decref(root);
    }
    buffer_deinit(&body);
    return status;
}

static serverd_status make_records(struct serve_result *result, uint32_t n, serverd_error *err)
{
    result->records = calloc(n, sizeof *result->records);
    if (!result->records)
        return fail(err, SERVERD_NOMEM, "no memory for %u requests", n);
    result->n = n;
    for (uint32_t i = 0; i < n; i++)
        record_init(&result->records[i]);
    return SERVERD_OK;
}

void serve_result_deinit(struct serve_result *result)
{
    struct serve_summary *s = &result->summary;
    struct samples *all[] = {&s->ttft,      &s->itl,      &s->tpot,       &s->e2e,
                             &s->itl_quiet, &s->itl_long, &s->ttft_alone, &s->ttft_long};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        samples_deinit(all[i]);
    for (uint32_t i = 0; i < result->n; i++)
        record_deinit(&result->records[i]);
    free(result->records);
    *result = (struct serve_result){0};
}

static serverd_status run_plan(const struct serve_options *options, const char *label,
                               struct load_client *client, struct workload_options *plan,
                               struct serve_result *result, serverd_error *err)
{
    struct runner runner = {.options = options,
                            .label = label,
                            .path = plan->is_chat ? "/v1/chat/completions" : "/v1/completions",
                            .client = client,
                            .result = result};
    buffer_init(&runner.body, BODY_LIMIT);
    serverd_status status = workload_create(plan, &runner.workload, err);
    if (status == SERVERD_OK)
        status = make_records(result, workload_n_requests(runner.workload), err);
    load_client_begin(client);
    double cpu = cpu_seconds();
    if (status == SERVERD_OK)
        status = run_workload(&runner, err);
    result->summary.wall_s = load_client_now(client);
    result->summary.cpu_s = cpu_seconds() - cpu;
    if (runner.n_started < result->n) { /* prompts that did not come any more */
        for (uint32_t i = runner.n_started; i < result->n; i++)
            record_deinit(&result->records[i]);
        result->n = runner.n_started;
    }
    workload_destroy(runner.workload);
    buffer_deinit(&runner.body);
    return status;
}

static serverd_status warm_up(const struct serve_options *options, struct load_client *client,
                              const char *model, serverd_error *err)
{
    struct serve_options short_options = *options;
    short_options.scenario = SCENARIO_CLOSED;
    struct workload_options plan = workload_of(options, model);
    plan.scenario = SCENARIO_CLOSED;
    plan.n = options->warmup;
    plan.concurrency = 1;
    plan.prompt_words = 16;
    plan.max_tokens = 4;
    plan.prompt_words_max = plan.max_tokens_max = 0;
    plan.shared_share = 0;
    plan.seed += UINT64_C(1) << 40;
    struct serve_result ignored = {0};
    serverd_status status = run_plan(&short_options, "warm-up", client, &plan, &ignored, err);
    for (uint32_t i = 0; i < ignored.n && status == SERVERD_OK; i++)
        if (!record_is_good(&ignored.records[i]))
            status = fail(err, SERVERD_INVALID, "%s: %s", options->url, ignored.records[i].error);
    serve_result_deinit(&ignored);
    return status;
}

serverd_status serve_run(const struct serve_options *options, const char *label,
                         struct serve_result *out, serverd_error *err)
{
    char *key = NULL;
    struct load_client *client = NULL;
    struct serve_result result = {0};
    serverd_status status =
        options->api_key_file ? load_read_key(options->api_key_file, &key, err) : SERVERD_OK;
    if (status == SERVERD_OK) {
        const struct load_client_options client_options = {
            .url = options->url, .api_key = key, .timeout_s = options->timeout_s};
        status = load_client_create(&client_options, &client, err);
    }
    if (status == SERVERD_OK)
        status = choose_model(options, client, result.model, sizeof result.model, err);
    if (status == SERVERD_OK && options->warmup > 0)
        status = warm_up(options, client, result.model, err);
    if (status == SERVERD_OK) {
        struct workload_options plan = workload_of(options, result.model);
        status = run_plan(options, label, client, &plan, &result, err);
    }
    load_client_destroy(client);
    free(key);
    if (status != SERVERD_OK) {
        serve_result_deinit(&result);
        return status;
    }
    serve_summarise(options, &result);
    *out = result;
    return SERVERD_OK;
}

/* ---- the sub-command ---- */

static serverd_status report(const struct serve_options *options, struct serve_result *result,
                             serverd_error *err)
{
    struct json_lines lines;
    serverd_status status = serve_print(options, result, stdout, err);
    if (status == SERVERD_OK)
        status = json_lines_open(&lines, options->jsonl, err);
    if (status != SERVERD_OK)
        return status;
    status = serve_write_jsonl(options, result, &lines, err);
    json_lines_close(&lines);
    if (status == SERVERD_OK && options->html)
        status = html_report_write(options, result, options->html, err);
    if (status == SERVERD_OK && result->n > 0 && result->summary.n_errors == result->n)
        status =
            fail(err, SERVERD_INVALID, "every request failed: %s", result->summary.first_error);
    return status;
}

static serverd_status bench_serve_run(const void *values, serverd_error *err)
{
    const struct serve_options *options = values;
    struct serve_result result = {0};
    serverd_status status = serve_run(options, options->label, &result, err);
    if (status == SERVERD_OK)
        status = report(options, &result, err);
    serve_result_deinit(&result);
    return status;
}

static const struct command_option rows[] = {
    SERVE_ROWS,
    {"html", 0, COMMAND_STRING, SERVE_AT(html), "FILE", NULL, 0, 0,
     "Write a page with figures, distributions and a time line"},
};

const struct command bench_serve = {
    .name = "serve",
    .summary = "Load on a server with the OpenAI API: latencies, throughput, goodput",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
    .bare = {"scenario"},
    .run = bench_serve_run,
    .values_bytes = sizeof(struct serve_options),
};
