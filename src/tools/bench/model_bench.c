/* serverd-bench model: the speed of a model without server and scheduler, and its share of what
 * the machine can do. */
#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "program/dtype.h"
#include "tools/bench/calibrate.h"
#include "tools/bench/commands.h"
#include "tools/bench/model_cost.h"
#include "tools/bench/model_driver.h"
#include "tools/bench/report.h"

#include <stdlib.h>

#define CALIBRATION_BYTES (512 * MIB)
#define MAX_TESTS         (COMMAND_LIST_MAX * COMMAND_LIST_MAX * 2 + COMMAND_LIST_MAX)
#define WARM_UP_STEPS     16 /* of decode */

struct model_options {
    const char *model_path, *device, *jsonl;
    uint32_t threads, repeat, chunk, batch_prompt, batch_gen;
    struct command_list prompt, gen, depth, batch;
    int kv_dtype;
};

/* n_seqs sequences that hold `depth` tokens, then a prompt, then generated tokens. */
struct test {
    uint32_t n_seqs, depth, n_prompt, n_gen;
};

struct run {
    const struct model_options *options;
    struct driver driver;
    struct calibrator *calibrator;
    struct machine_limits before, after, least, greatest;
    struct model_cost cost;
    struct table table;
    struct json_lines lines;
    char model[96];
    uint32_t n_unsteady, n_rows;
};

/* ---- running a test ---- */

struct result {
    struct samples prefill, decode, total;  /* tok/s */
    double prefill_seconds, decode_seconds; /* of all repeats */
};

static serverd_status run_once(struct run *run, const struct test *test, uint32_t n_gen,
                               double *prefill, double *decode, serverd_error *err)
{
    uint32_t at = test->depth + test->n_prompt;
    uint64_t begin = clock_now_ns(&system_clock);
    serverd_status status = SERVERD_OK;
    if (test->n_prompt > 0)
        status =
            driver_prefill(&run->driver, test->n_seqs, test->depth, at, run->options->chunk, err);
    uint64_t middle = clock_now_ns(&system_clock);
    for (uint32_t i = 0; i < n_gen && status == SERVERD_OK; i++)
        status = driver_decode(&run->driver, test->n_seqs, at + i, err);
    *prefill = (double)(middle - begin) * 1e-9;
    *decode = (double)(clock_now_ns(&system_clock) - middle) * 1e-9;
    return status;
}

static serverd_status prepare(struct run *run, const struct test *test, serverd_error *err)
{
    uint32_t n_tokens = test->depth + test->n_prompt + test->n_gen;
    serverd_status status = driver_clear(&run->driver, test->n_seqs, n_tokens, err);
    if (status == SERVERD_OK && test->depth > 0)
        status =
            driver_prefill(&run->driver, test->n_seqs, 0, test->depth, run->options->chunk, err);
    double ignored[2];
    uint32_t n_gen = test->n_gen < WARM_UP_STEPS ? test->n_gen : WARM_UP_STEPS;
    if (status == SERVERD_OK)
        status = run_once(run, test, n_gen, &ignored[0], &ignored[1], err);
    return status;
}

static serverd_status run_test(struct run *run, const struct test *test, const char *name,
                               struct result *result, serverd_error *err)
{
    serverd_status status = prepare(run, test, err);
    for (uint32_t i = 0; i < run->options->repeat && status == SERVERD_OK; i++) {
        double prefill, decode;
        progress_show("%s: %u of %u", name, i + 1, run->options->repeat);
        status = run_once(run, test, test->n_gen, &prefill, &decode, err);
        if (status != SERVERD_OK)
            break;
        result->prefill_seconds += prefill;
        result->decode_seconds += decode;
        samples_add(&result->prefill, (double)test->n_prompt * test->n_seqs / prefill);
        samples_add(&result->decode, (double)test->n_gen * test->n_seqs / decode);
        samples_add(&result->total,
                    (double)(test->n_prompt + test->n_gen) * test->n_seqs / (prefill + decode));
    }
    progress_clear();
    return status;
}

/* ---- what it is a share of ---- */

/* One line of the report: what ran, and what it had to do. */
struct line {
    char name[48];
    const struct test *test;
    const struct samples *rate; /* tok/s */
    double seconds;             /* of all repeats */
    double macs, bytes;         /* of all repeats; of linear layers, of weights and KV */
    double attention_macs;
};

static void add_prefill_cost(const struct run *run, const struct test *test, struct line *line)
{
    const struct model_cost *cost = &run->cost;
    const struct driver *driver = &run->driver;
    double rows = (double)test->n_prompt * test->n_seqs, repeats = run->options->repeat;
    double steps = (double)(((uint64_t)test->n_prompt * test->n_seqs + run->options->chunk - 1) /
                            run->options->chunk);
    double mean_context = test->depth + (test->n_prompt + 1) / 2.0;
    line->macs += repeats * rows * cost->body_macs;
    line->attention_macs +=
        repeats * rows * model_attention_macs(&driver->program->graph, mean_context);
    line->bytes +=
        repeats * (steps * (cost->body_bytes + cost->head_bytes) + rows * cost->embed_bytes);
}

static void add_decode_cost(const struct run *run, const struct test *test, struct line *line)
{
    const struct model_cost *cost = &run->cost;
    const struct driver *driver = &run->driver;
    double repeats = run->options->repeat, n_seqs = test->n_seqs;
    for (uint32_t i = 0; i < test->n_gen; i++) {
        double context = test->depth + test->n_prompt + i + 1;
        double kv =
            model_kv_bytes(&driver->program->kv, runtime_page_bytes(driver->runtime), context);
        line->macs += repeats * n_seqs * (cost->body_macs + cost->head_macs);
        line->attention_macs +=
            repeats * n_seqs * model_attention_macs(&driver->program->graph, context);
        line->bytes +=
            repeats * (cost->body_bytes + cost->head_bytes + n_seqs * (cost->embed_bytes + kv));
    }
}

static double share(double rate, double limit)
{
    return limit > 0 ? rate / limit : 0;
}

static json_t *json_of_limits(const struct machine_limits *limits)
{
    return json_pack("{s:f, s:f, s:f, s:f}", "read_gbps", limits->read_gbps, "int8_gmacs",
                     limits->int8_gmacs, "bf16_gmacs", limits->bf16_gmacs, "fp32_gmacs",
                     limits->fp32_gmacs);
}

static json_t *json_of_line(const struct run *run, const struct line *line, double int8_share,
                            double read_share, bool is_steady)
{
    const struct program_config *config = &run->driver.program->config;
    const struct test *test = line->test;
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:s, s:i, s:i, s:s, s:i, s:i, s:i, s:i, s:o, s:f, s:f,"
        " s:f, s:f, s:f, s:f, s:f, s:o, s:o, s:b}",
        "kind", "model", "version", PROJECT_VERSION, "model", config->name, "architecture",
        config->architecture, "quantisation", config->quantisation, "n_parameters",
        (json_int_t)config->n_parameters, "weight_bytes", (json_int_t)config->weight_bytes,
        "device", runtime_device(run->driver.runtime), "threads",
        (int)worker_pool_n_workers(run->driver.pool), "chunk", (int)run->options->chunk, "test",
        line->name, "n_prompt", (int)test->n_prompt, "n_gen", (int)test->n_gen, "depth",
        (int)test->depth, "n_seqs", (int)test->n_seqs, "tok_s", json_of_samples(line->rate),
        "seconds", line->seconds, "body_macs", run->cost.body_macs, "head_macs",
        run->cost.head_macs, "step_bytes", run->cost.body_bytes + run->cost.head_bytes, "gmac_s",
        line->macs / line->seconds / 1e9, "int8_share", int8_share, "read_share", read_share,
        "limits_before", json_of_limits(&run->before), "limits_after", json_of_limits(&run->after),
        "is_steady", is_steady);
}

static serverd_status report(struct run *run, const struct line *line, serverd_error *err)
{
    const struct program_config *config = &run->driver.program->config;
    struct machine_limits limits = limits_between(&run->before, &run->after);
    bool is_steady = limits_are_steady(&run->before, &run->after);
    double macs = line->macs / line->seconds / 1e9, bytes = line->bytes / line->seconds / 1e9;
    double int8_share = share(macs, limits.int8_gmacs), read_share = share(bytes, limits.read_gbps);
    run->n_rows++;
    run->n_unsteady += !is_steady;
    table_cell(&run->table, "%s", run->model);
    table_cell(&run->table, "%.1f MiB", (double)config->weight_bytes / MIB);
    table_cell(&run->table, "%.60s", runtime_device(run->driver.runtime));
    table_cell(&run->table, "%s", line->name);
    table_cell(&run->table, "%.1f ± %.1f", samples_mean(line->rate), samples_stddev(line->rate));
    table_cell(&run->table, "%.1f", samples_min(line->rate));
    table_cell(&run->table, "%.1f", samples_max(line->rate));
    table_cell(&run->table, "%.1f", macs);
    table_cell(&run->table, "%.1f %%", 100 * int8_share);
    table_cell(&run->table, "%.1f", bytes);
    table_cell(&run->table, "%.1f %%%s", 100 * read_share, is_steady ? "" : " ~");
    return json_lines_add(&run->lines, json_of_line(run, line, int8_share, read_share, is_steady),
                          err);
}

/* ---- the tests ---- */

static void name_test(const struct test *test, bool has_prompt, bool has_gen, char *out, size_t n)
{
    char prompt[16] = "", gen[16] = "", depth[24] = "", seqs[16] = "";
    if (has_prompt)
        (void)snprintf(prompt, sizeof prompt, "pp%u", test->n_prompt);
    if (has_gen)
        (void)snprintf(gen, sizeof gen, "%stg%u", has_prompt ? "+" : "", test->n_gen);
    if (test->depth > 0)
        (void)snprintf(depth, sizeof depth, " @ d%u", test->depth);
    if (test->n_seqs > 1)
        (void)snprintf(seqs, sizeof seqs, " x %u", test->n_seqs);
    (void)snprintf(out, n, "%s%s%s%s", prompt, gen, seqs, depth);
}

static serverd_status report_test(struct run *run, const struct test *test,
                                  const struct result *result, serverd_error *err)
{
    bool has_prompt = test->n_prompt > 0, has_gen = test->n_gen > 0;
    serverd_status status = SERVERD_OK;
    struct line total = {.test = test,
                         .rate = &result->total,
                         .seconds = result->prefill_seconds + result->decode_seconds};
    name_test(test, has_prompt, has_gen, total.name, sizeof total.name);
    if (has_prompt) {
        struct line line = {
            .test = test, .rate = &result->prefill, .seconds = result->prefill_seconds};
        name_test(test, true, false, line.name, sizeof line.name);
        add_prefill_cost(run, test, &line);
        add_prefill_cost(run, test, &total);
        status = report(run, &line, err);
    }
    if (has_gen && status == SERVERD_OK) {
        struct line line = {
            .test = test, .rate = &result->decode, .seconds = result->decode_seconds};
        name_test(test, false, true, line.name, sizeof line.name);
        add_decode_cost(run, test, &line);
        add_decode_cost(run, test, &total);
        status = report(run, &line, err);
    }
    if (has_prompt && has_gen && status == SERVERD_OK)
        status = report(run, &total, err);
    return status;
}

static void widen(struct run *run)
{
    const struct machine_limits *now = &run->after;
    run->greatest = limits_between(&run->greatest, now);
    struct machine_limits *least = &run->least;
    if (now->read_gbps < least->read_gbps)
        least->read_gbps = now->read_gbps;
    if (now->int8_gmacs < least->int8_gmacs)
        least->int8_gmacs = now->int8_gmacs;
    if (now->bf16_gmacs < least->bf16_gmacs)
        least->bf16_gmacs = now->bf16_gmacs;
    if (now->fp32_gmacs < least->fp32_gmacs)
        least->fp32_gmacs = now->fp32_gmacs;
}

static serverd_status measure(struct run *run, const struct test *test, serverd_error *err)
{
    struct result result = {0};
    char name[48];
    name_test(test, test->n_prompt > 0, test->n_gen > 0, name, sizeof name);
    serverd_status status = run_test(run, test, name, &result, err);
    if (status == SERVERD_OK) {
        run->after = calibrator_run(run->calibrator);
        widen(run);
        status = report_test(run, test, &result, err);
        run->before = run->after;
    }
    samples_deinit(&result.prefill);
    samples_deinit(&result.decode);
    samples_deinit(&result.total);
    return status == SERVERD_OK ? status : error_context(err, "%s", name);
}

/* Every prompt and every generation at every depth, then the batches. */
static uint32_t list_tests(const struct model_options *options, bool is_encoder, struct test *tests)
{
    uint32_t n = 0;
    for (uint32_t d = 0; d < options->depth.n; d++) {
        uint32_t depth = options->depth.value[d];
        for (uint32_t i = 0; i < options->prompt.n; i++)
            tests[n++] = (struct test){1, depth, options->prompt.value[i], 0};
        for (uint32_t i = 0; i < options->gen.n && !is_encoder; i++)
            tests[n++] = (struct test){1, depth, 0, options->gen.value[i]};
    }
    for (uint32_t i = 0; i < options->batch.n && !is_encoder; i++)
        tests[n++] =
            (struct test){options->batch.value[i], 0, options->batch_prompt, options->batch_gen};
    return n;
}

static serverd_status open_run(struct run *run, const char *path, const struct test *tests,
                               uint32_t n_tests, serverd_error *err)
{
    const struct model_options *options = run->options;
    static const serverd_dtype kv_dtypes[] = {DTYPE_BF16, DTYPE_F16, DTYPE_I8, DTYPE_F32};
    struct driver_options driver_options = {.path = path,
                                            .device = options->device,
                                            .threads = options->threads,
                                            .max_rows = options->chunk,
                                            .kv_dtype = kv_dtypes[options->kv_dtype]};
    for (uint32_t i = 0; i < n_tests; i++) {
        uint32_t context = tests[i].depth + tests[i].n_prompt + tests[i].n_gen;
        if (context > driver_options.max_context)
            driver_options.max_context = context;
        if (tests[i].n_seqs > driver_options.max_seqs)
            driver_options.max_seqs = tests[i].n_seqs;
    }
    if (driver_options.max_seqs > driver_options.max_rows)
        driver_options.max_rows = driver_options.max_seqs;
    progress_show("loading %s", path);
    serverd_status status = driver_open(&run->driver, &driver_options, err);
    if (status == SERVERD_OK)
        status = model_cost(&run->driver.program->graph, run->driver.delegate, &run->cost, err);
    if (status == SERVERD_OK)
        status = calibrator_create(run->driver.pool, CALIBRATION_BYTES, &run->calibrator, err);
    progress_clear();
    return status;
}

static void print_limits(const struct run *run)
{
    char loops[128];
    const struct machine_limits *a = &run->least, *b = &run->greatest;
    calibrator_describe(loops, sizeof loops);
    (void)printf("\nlimits, %u threads: read %.1f-%.1f GB/s, int8 %.0f-%.0f, bf16 %.0f-%.0f, fp32 "
                 "%.0f-%.0f GMAC/s (%s)\n",
                 worker_pool_n_workers(run->driver.pool), a->read_gbps, b->read_gbps, a->int8_gmacs,
                 b->int8_gmacs, a->bf16_gmacs, b->bf16_gmacs, a->fp32_gmacs, b->fp32_gmacs, loops);
    if (run->n_unsteady)
        (void)printf("~ %u of %u rows: the limits moved between before and after by more than 3 %% "
                     "(compute) or 10 %% (bandwidth); measure these again\n",
                     run->n_unsteady, run->n_rows);
}

static serverd_status run_tests(struct run *run, const struct test *tests, uint32_t n_tests,
                                serverd_error *err)
{
    static const char *const headers[] = {"<model", "size",   "<device", "<test", "tok/s",  "min",
                                          "max",    "GMAC/s", "of int8", "GB/s",  "of read"};
    const struct program_config *config = &run->driver.program->config;
    (void)snprintf(run->model, sizeof run->model, "%s %.0fM %s", config->architecture,
                   (double)config->n_parameters / 1e6, config->quantisation);
    serverd_status status = table_init(&run->table, sizeof headers / sizeof *headers, headers, err);
    if (status == SERVERD_OK)
        status = json_lines_open(&run->lines, run->options->jsonl, err);
    run->before = run->least = run->greatest = calibrator_run(run->calibrator);
    for (uint32_t i = 0; i < n_tests && status == SERVERD_OK; i++)
        status = measure(run, &tests[i], err);
    if (run->table.n_cells > 0) {
        table_print(&run->table, stdout);
        print_limits(run);
    }
    return status;
}

/* The model that serverd.sh fetches; false: it is not there. */
static bool default_model(char *out, size_t n)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const char *name = "serverd/models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (cache && *cache)
        (void)snprintf(out, n, "%s/%s", cache, name);
    else
        (void)snprintf(out, n, "%s/.cache/%s", home ? home : "/root", name);
    FILE *file = fopen(out, "re");
    if (file)
        (void)fclose(file);
    return file != NULL;
}

static serverd_status bench_model_run(const void *values, serverd_error *err)
{
    const struct model_options *options = values;
    struct run run = {.options = options};
    struct test tests[MAX_TESTS];
    char path[LIMIT_OPTION_BYTES];
    if (!options->model_path && !default_model(path, sizeof path))
        return fail(err, SERVERD_INVALID, "--model-path: names the model, a GGUF file");
    uint32_t n_tests = list_tests(options, false, tests);
    if (n_tests == 0)
        return fail(err, SERVERD_INVALID, "nothing to measure: -p, -n and --batch are all 0");
    serverd_status status =
        open_run(&run, options->model_path ? options->model_path : path, tests, n_tests, err);
    if (status == SERVERD_OK) {
        n_tests = list_tests(options, run.driver.program->config.is_encoder, tests);
        status = run_tests(&run, tests, n_tests, err);
    }
    json_lines_close(&run.lines);
    table_deinit(&run.table);
    calibrator_destroy(run.calibrator);
    driver_close(&run.driver);
    return status;
}

#define AT(field) offsetof(struct model_options, field)

static const struct command_option rows[] = {
    {"model-path", 'm', COMMAND_STRING, AT(model_path), "FILE", NULL, 0, 0,
     "Model to measure: a GGUF file (default: the one that serverd.sh fetches)"},
    {"threads", 't', COMMAND_COUNT, AT(threads), "N", "0", 0, 1024,
     "Threads that compute; 0: one for each processor"},
    {"device", 0, COMMAND_STRING, AT(device), "NAME", "auto", 0, 0,
     "Back-end: auto, cpu, cpu:isa=LEVEL"},
    {"prompt", 'p', COMMAND_LIST, AT(prompt), "N,...", "512", 1, 1u << 20,
     "Prefill of N tokens; 0: none"},
    {"gen", 'n', COMMAND_LIST, AT(gen), "N,...", "128", 1, 1u << 20, "Decode of N tokens; 0: none"},
    {"depth", 'd', COMMAND_LIST, AT(depth), "N,...", "0", 0, 1u << 20,
     "Tokens that the context already holds"},
    {"batch", 'b', COMMAND_LIST, AT(batch), "B,...", "0", 1, 4096,
     "Prefill and decode of B sequences together; 0: none"},
    {"batch-prompt", 0, COMMAND_COUNT, AT(batch_prompt), "N", "128", 1, 1u << 20,
     "Prompt of each sequence of a batch"},
    {"batch-gen", 0, COMMAND_COUNT, AT(batch_gen), "N", "64", 1, 1u << 20,
     "Tokens that each sequence of a batch generates"},
    {"chunk", 0, COMMAND_COUNT, AT(chunk), "N", "512", 16, 8192,
     "Rows of one step of prefill, as the daemon's --prefill-chunk"},
    {"kv-dtype", 0, COMMAND_CHOICE, AT(kv_dtype), "bf16|f16|int8|f32", "bf16", 0, 0,
     "Type of cached keys and values"},
    {"repeat", 'r', COMMAND_COUNT, AT(repeat), "N", "5", 1, 1000, "Repeats of each test"},
    {"jsonl", 'o', COMMAND_STRING, AT(jsonl), "FILE", NULL, 0, 0,
     "Append a line of JSON for each row"},
};

const struct command bench_model = {
    .name = "model",
    .summary = "Prefill and decode of a model, with shares of the machine's limits",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
    .bare = {"model-path"},
    .run = bench_model_run,
    .values_bytes = sizeof(struct model_options),
};
