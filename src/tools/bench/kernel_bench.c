/* serverd-bench kernels: every type on every instruction-set level, alone, with shares of the
 * limit that the machine has in the same run. */
#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/dtype.h"
#include "tools/bench/calibrate.h"
#include "tools/bench/commands.h"
#include "tools/bench/kernel_calls.h"
#include "tools/bench/report.h"

#include <string.h>
#include <strings.h>

#define CALIBRATION_BYTES (512 * MIB)
#define ONE_GROUP         16u /* outputs that lie side by side */
#define HEAD_DIM          64u
#define GROUP             4u
#define PREFILL_ROWS      512u
#define SLOW_CALL         0.5        /* seconds */
#define KV_BYTES          (96 * MIB) /* of attention: more than caches hold */

struct kernel_options {
    const char *type, *isa, *jsonl;
    uint32_t threads, n_out, k, weight_mib;
    struct command_list rows, context;
    double seconds;
    bool linear, attention, quantise;
    int codes;
};

struct bench {
    const struct kernel_options *options;
    struct worker_pool *pool;
    struct calibrator *calibrator;
    struct machine_limits before, after;
    struct table table;
    struct json_lines lines;
    uint32_t n_unsteady, n_calibrations;
};

/* One figure, until the limits of after it are known. */
struct figure {
    char what[CELL_BYTES], level[16], form[32], work[32];
    double seconds, macs, bytes; /* of one call */
    enum { LIMIT_INT8, LIMIT_BF16, LIMIT_FP32 } arithmetic;
    double spread; /* 90th percentile of the calls over their median, minus 1 */
};

#define MAX_FIGURES 256u /* between two calibrations */

struct figures {
    struct figure figure[MAX_FIGURES];
    uint32_t n;
};

/* ---- timing ---- */

struct timed {
    void (*call)(void *arg);
    void *arg;
};

static double once(struct timed timed)
{
    uint64_t begin = clock_now_ns(&system_clock);
    timed.call(timed.arg);
    return (double)(clock_now_ns(&system_clock) - begin) * 1e-9;
}

/* The median of calls for about `seconds`, three at least; of a very slow one, the first. */
static double time_calls(struct timed timed, double seconds, double *spread)
{
    struct samples samples = {0};
    double first = once(timed), sum = 0;
    if (first > SLOW_CALL) {
        *spread = 0;
        return first;
    }
    while (samples.n < 3 || sum < seconds) {
        double each = once(timed);
        samples_add(&samples, each);
        sum += each;
    }
    double median = samples_median(&samples);
    *spread = median > 0 ? samples_percentile(&samples, 0.9) / median - 1 : 0;
    samples_deinit(&samples);
    return median;
}

/* ---- figures ---- */

static struct figure *next_figure(struct figures *figures, const char *level)
{
    struct figure *figure = &figures->figure[figures->n < MAX_FIGURES ? figures->n++ : 0];
    *figure = (struct figure){0};
    (void)snprintf(figure->level, sizeof figure->level, "%s", level);
    return figure;
}

static double limit_of(const struct machine_limits *limits, const struct figure *figure)
{
    if (figure->arithmetic == LIMIT_INT8)
        return limits->int8_gmacs;
    if (figure->arithmetic == LIMIT_BF16 && limits->bf16_gmacs > 0)
        return limits->bf16_gmacs;
    return limits->fp32_gmacs;
}

static const char *arithmetic_name(const struct machine_limits *limits, const struct figure *figure)
{
    if (figure->arithmetic == LIMIT_BF16 && limits->bf16_gmacs > 0)
        return "bf16";
    return figure->arithmetic == LIMIT_INT8 ? "int8" : "fp32";
}

static serverd_status report_figure(struct bench *bench, const struct figure *figure,
                                    const struct machine_limits *limits, bool is_steady,
                                    serverd_error *err)
{
    double gmacs = figure->macs / figure->seconds / 1e9,
           gbps = figure->bytes / figure->seconds / 1e9;
    double peak = limit_of(limits, figure);
    double arithmetic_s = peak > 0 ? figure->macs / peak / 1e9 : 0;
    double read_s = limits->read_gbps > 0 ? figure->bytes / limits->read_gbps / 1e9 : 0;
    bool is_read = read_s >= arithmetic_s;
    const char *limit = is_read ? "read" : arithmetic_name(limits, figure);
    double share = (is_read ? read_s : arithmetic_s) / figure->seconds;
    table_cell(&bench->table, "%s", figure->what);
    table_cell(&bench->table, "%s", figure->level);
    table_cell(&bench->table, "%s", figure->form);
    table_cell(&bench->table, "%s", figure->work);
    table_cell(&bench->table, "%.1f", figure->seconds * 1e6);
    table_cell(&bench->table, "%.0f %%", figure->spread * 100);
    table_cell(&bench->table, "%.2f", gbps);
    table_cell(&bench->table, "%.1f", gmacs);
    table_cell(&bench->table, "%s", limit);
    table_cell(&bench->table, "%.1f %%%s", 100 * share, is_steady ? "" : " ~");
    json_t *line = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:s, s:f, s:b, s:f, s:f}", "kind",
        "kernel", "version", PROJECT_VERSION, "what", figure->what, "isa", figure->level, "form",
        figure->form, "work", figure->work, "threads", (int)worker_pool_n_workers(bench->pool),
        "seconds", figure->seconds, "spread", figure->spread, "gb_s", gbps, "gmac_s", gmacs,
        "limit", limit, "share", share, "is_steady", (int)is_steady, "limit_read_gbps",
        limits->read_gbps, "limit_gmac_s", peak);
    return json_lines_add(&bench->lines, line, err);
}

/* Calibrates and reports what was measured since the last time. */
static serverd_status report_figures(struct bench *bench, struct figures *figures,
                                     serverd_error *err)
{
    bench->after = calibrator_run(bench->calibrator);
    struct machine_limits limits = limits_between(&bench->before, &bench->after);
    bool is_steady = limits_are_steady(&bench->before, &bench->after);
    bench->n_calibrations++;
    bench->n_unsteady += !is_steady;
    bench->before = bench->after;
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < figures->n && status == SERVERD_OK; i++)
        status = report_figure(bench, &figures->figure[i], &limits, is_steady, err);
    figures->n = 0;
    return status;
}

/* ---- linear layers ---- */

struct linear_call {
    struct kernel_linear *linear;
    size_t n_columns;
};

static void call_linear(void *arg)
{
    const struct linear_call *call = arg;
    kernel_linear_run(call->linear, call->n_columns);
}

/* As many outputs as take a quarter of the time, so that slow paths end, too. */
static size_t choose_columns(const struct bench *bench, struct kernel_linear *linear)
{
    size_t most = bench->options->n_out / ONE_GROUP * ONE_GROUP;
    size_t n = min_size(most, ONE_GROUP * 4 * (size_t)worker_pool_n_workers(bench->pool));
    struct linear_call call = {linear, n};
    double seconds = once((struct timed){call_linear, &call});
    double wanted = bench->options->seconds / 4 / (seconds > 1e-7 ? seconds : 1e-7);
    size_t chosen = (size_t)((double)n * (wanted < 1e6 ? wanted : 1e6)) / ONE_GROUP * ONE_GROUP;
    return min_size(most, max_size(n, chosen));
}

static void measure_linear(const struct bench *bench, struct kernel_linear *linear,
                           const char *type, const char *level, uint32_t n_rows,
                           struct figures *figures)
{
    const struct kernel_options *options = bench->options;
    kernel_linear_prepare(linear, level, n_rows);
    struct linear_call call = {linear, choose_columns(bench, linear)};
    struct figure *figure = next_figure(figures, level);
    figure->seconds =
        time_calls((struct timed){call_linear, &call}, options->seconds, &figure->spread);
    figure->macs = (double)n_rows * (double)call.n_columns * options->k;
    figure->bytes =
        (double)(call.n_columns / ONE_GROUP) * (double)kernel_linear_column_bytes(linear);
    figure->arithmetic = kernel_linear_is_integer(linear) ? LIMIT_INT8
                         : kernel_linear_is_bf16(linear)  ? LIMIT_BF16
                                                          : LIMIT_FP32;
    (void)snprintf(figure->what, sizeof figure->what, "linear %s", type);
    (void)snprintf(figure->form, sizeof figure->form, "%s%s%s", kernel_linear_form(linear),
                   kernel_linear_is_integer(linear) && options->codes == 1 ? ", fine" : "",
                   kernel_linear_is_own_form(linear) ? "" : " (none of its own)");
    (void)snprintf(figure->work, sizeof figure->work, "M %u", n_rows);
}

static bool is_wanted(const char *wanted, const char *name)
{
    size_t n = strlen(name);
    for (const char *s = wanted; s && *s; s += strcspn(s, ","), s += *s == ',')
        if (strcspn(s, ",") == n && strncasecmp(s, name, n) == 0)
            return true;
    return !wanted;
}

static serverd_status measure_type(struct bench *bench, const struct dtype_info *info,
                                   serverd_dtype dtype, const char *const *levels,
                                   uint32_t n_levels, struct figures *figures, serverd_error *err)
{
    const struct kernel_options *options = bench->options;
    struct kernel_linear_options linear_options = {.pool = bench->pool,
                                                   .dtype = dtype,
                                                   .n_out = options->n_out,
                                                   .k = options->k,
                                                   .max_rows = 1,
                                                   .is_fine = options->codes == 1,
                                                   .weight_bytes = options->weight_mib * MIB};
    for (uint32_t r = 0; r < options->rows.n; r++)
        linear_options.max_rows = max_size(linear_options.max_rows, options->rows.value[r]);
    struct kernel_linear *linear;
    serverd_status status = kernel_linear_create(&linear_options, &linear, err);
    if (status != SERVERD_OK)
        return status;
    for (uint32_t l = 0; l < n_levels; l++) {
        for (uint32_t r = 0; r < options->rows.n; r++) {
            progress_show("linear %s, %s, M %u", info->name, levels[l], options->rows.value[r]);
            measure_linear(bench, linear, info->name, levels[l], options->rows.value[r], figures);
        }
    }
    kernel_linear_destroy(linear);
    progress_clear();
    return report_figures(bench, figures, err);
}

static serverd_status measure_types(struct bench *bench, const char *const *levels,
                                    uint32_t n_levels, struct figures *figures, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    uint32_t n = 0;
    for (uint32_t dtype = 0; dtype < DTYPE_LIMIT && status == SERVERD_OK; dtype++) {
        const struct dtype_info *info = dtype_info(dtype);
        if (!info || !info->to_f32 || !is_wanted(bench->options->type, info->name))
            continue;
        if (bench->options->k % info->block_elements != 0)
            continue;
        n++;
        status = measure_type(bench, info, dtype, levels, n_levels, figures, err);
    }
    if (status == SERVERD_OK && n == 0)
        status = fail(err, SERVERD_INVALID, "--type: no type is called %.100s",
                      bench->options->type ? bench->options->type : "so");
    return status;
}

/* ---- quantising ---- */

static void call_quantise(void *arg)
{
    kernel_linear_quantise(arg);
}

static serverd_status measure_quantise(struct bench *bench, const char *const *levels,
                                       uint32_t n_levels, struct figures *figures,
                                       serverd_error *err)
{
    const struct kernel_options *options = bench->options;
    const struct kernel_linear_options linear_options = {.pool = bench->pool,
                                                         .dtype = DTYPE_Q4_0,
                                                         .n_out = ONE_GROUP,
                                                         .k = options->k,
                                                         .max_rows = PREFILL_ROWS,
                                                         .is_fine = options->codes == 1};
    struct kernel_linear *linear;
    serverd_status status = kernel_linear_create(&linear_options, &linear, err);
    if (status != SERVERD_OK)
        return status;
    for (uint32_t l = 0; l < n_levels; l++) {
        kernel_linear_prepare(linear, levels[l], PREFILL_ROWS);
        struct figure *figure = next_figure(figures, levels[l]);
        figure->seconds =
            time_calls((struct timed){call_quantise, linear}, options->seconds, &figure->spread);
        figure->bytes = (double)PREFILL_ROWS * options->k * sizeof(float);
        (void)snprintf(figure->what, sizeof figure->what, "quantise");
        (void)snprintf(figure->form, sizeof figure->form, options->codes ? "fine" : "coarse");
        (void)snprintf(figure->work, sizeof figure->work, "%u rows of %u", PREFILL_ROWS,
                       options->k);
    }
    kernel_linear_destroy(linear);
    return report_figures(bench, figures, err);
}

/* ---- attention ---- */

struct attention_call {
    struct kernel_attention *attention;
    const char *level;
};

static void call_attention(void *arg)
{
    const struct attention_call *call = arg;
    kernel_attention_run(call->attention, call->level);
}

static serverd_status measure_attention(struct bench *bench, serverd_dtype kv, size_t n_rows,
                                        size_t context, const char *const *levels,
                                        uint32_t n_levels, struct figures *figures,
                                        serverd_error *err)
{
    size_t element = kv == DTYPE_F32 ? 4 : kv == DTYPE_I8 ? 1 : 2;
    size_t head_bytes = context * HEAD_DIM * 2 * element;
    const struct kernel_attention_options attention_options = {
        .pool = bench->pool,
        .kv = kv,
        .head_dim = HEAD_DIM,
        .group = GROUP,
        .context = context,
        .n_rows = min_size(n_rows, context),
        .n_heads = n_rows > 1 ? 2 * (size_t)worker_pool_n_workers(bench->pool)
                              : max_size(1, KV_BYTES / head_bytes)};
    struct attention_call call;
    serverd_status status = kernel_attention_create(&attention_options, &call.attention, err);
    for (uint32_t l = 0; l < n_levels && status == SERVERD_OK; l++) {
        call.level = levels[l];
        progress_show("attention, %s, %zu rows, context %zu", levels[l], n_rows, context);
        struct figure *figure = next_figure(figures, levels[l]);
        figure->seconds = time_calls((struct timed){call_attention, &call}, bench->options->seconds,
                                     &figure->spread);
        figure->macs = kernel_attention_macs(call.attention);
        figure->bytes = kernel_attention_bytes(call.attention);
        figure->arithmetic = LIMIT_BF16;
        (void)snprintf(figure->what, sizeof figure->what, "attention, %s",
                       n_rows > 1 ? "prefill" : "decode");
        (void)snprintf(figure->form, sizeof figure->form, "%s", dtype_info(kv)->name);
        (void)snprintf(figure->work, sizeof figure->work, "%zu at %zu", attention_options.n_rows,
                       context);
    }
    progress_clear();
    if (status == SERVERD_OK)
        kernel_attention_destroy(call.attention);
    return status;
}

static serverd_status measure_attentions(struct bench *bench, const char *const *levels,
                                         uint32_t n_levels, struct figures *figures,
                                         serverd_error *err)
{
    static const serverd_dtype kvs[] = {DTYPE_BF16, DTYPE_F16, DTYPE_I8, DTYPE_F32};
    serverd_status status = SERVERD_OK;
    for (size_t v = 0; v < sizeof kvs / sizeof *kvs && status == SERVERD_OK; v++) {
        for (uint32_t c = 0; c < bench->options->context.n && status == SERVERD_OK; c++) {
            size_t context = bench->options->context.value[c] / 256 * 256;
            status = measure_attention(bench, kvs[v], PREFILL_ROWS, context, levels, n_levels,
                                       figures, err);
            if (status == SERVERD_OK)
                status =
                    measure_attention(bench, kvs[v], 1, context, levels, n_levels, figures, err);
        }
        if (status == SERVERD_OK)
            status = report_figures(bench, figures, err);
    }
    return status;
}

/* ---- the sub-command ---- */

/* Those that are asked for; else all but the slow one that is for machines without others. */
static uint32_t choose_levels(const struct kernel_options *options,
                              const char *levels[KERNEL_MAX_LEVELS])
{
    const char *here[KERNEL_MAX_LEVELS];
    uint32_t n_here = kernel_levels(here), n = 0;
    for (uint32_t i = 0; i < n_here; i++)
        if (options->isa ? is_wanted(options->isa, here[i]) : i > 0 || n_here == 1)
            levels[n++] = here[i];
    return n;
}

static void print_end(const struct bench *bench)
{
    char loops[128];
    const struct machine_limits *l = &bench->after;
    calibrator_describe(loops, sizeof loops);
    (void)printf("\nlimits at the end, %u threads: read %.1f GB/s, int8 %.0f, bf16 %.0f, fp32 %.0f "
                 "GMAC/s (%s)\n",
                 worker_pool_n_workers(bench->pool), l->read_gbps, l->int8_gmacs, l->bf16_gmacs,
                 l->fp32_gmacs, loops);
    if (bench->n_unsteady)
        (void)printf("~ in %u of %u parts the limits moved between before and after by more than "
                     "3 %% (compute) or 10 %% (bandwidth); measure these again\n",
                     bench->n_unsteady, bench->n_calibrations);
}

static serverd_status run_parts(struct bench *bench, const char *const *levels, uint32_t n_levels,
                                serverd_error *err)
{
    static const char *const headers[] = {"<kernel", "<isa", "<form",  "<work",  "us a call",
                                          "spread",  "GB/s", "GMAC/s", "<limit", "of it"};
    const struct kernel_options *options = bench->options;
    struct figures figures = {0};
    serverd_status status =
        table_init(&bench->table, sizeof headers / sizeof *headers, headers, err);
    bench->before = bench->after = calibrator_run(bench->calibrator);
    if (status == SERVERD_OK && options->linear)
        status = measure_types(bench, levels, n_levels, &figures, err);
    if (status == SERVERD_OK && options->quantise)
        status = measure_quantise(bench, levels, n_levels, &figures, err);
    if (status == SERVERD_OK && options->attention)
        status = measure_attentions(bench, levels, n_levels, &figures, err);
    if (bench->table.n_cells > 0) {
        table_print(&bench->table, stdout);
        print_end(bench);
    }
    table_deinit(&bench->table);
    return status;
}

static serverd_status bench_kernels_run(const void *values, serverd_error *err)
{
    const struct kernel_options *options = values;
    struct bench bench = {.options = options};
    const char *levels[KERNEL_MAX_LEVELS];
    uint32_t n_levels = choose_levels(options, levels);
    if (n_levels == 0)
        return fail(err, SERVERD_INVALID, "--isa: this machine has none of %.100s", options->isa);
    if (options->k % 256 != 0 || options->n_out % ONE_GROUP != 0)
        return fail(err, SERVERD_INVALID, "--k is a multiple of 256, --n-out of %u", ONE_GROUP);
    serverd_status status = json_lines_open(&bench.lines, options->jsonl, err);
    if (status == SERVERD_OK)
        status = worker_pool_create(options->threads, &bench.pool, err);
    if (status == SERVERD_OK)
        status = calibrator_create(bench.pool, CALIBRATION_BYTES, &bench.calibrator, err);
    if (status == SERVERD_OK)
        status = run_parts(&bench, levels, n_levels, err);
    calibrator_destroy(bench.calibrator);
    if (bench.pool)
        worker_pool_destroy(bench.pool);
    json_lines_close(&bench.lines);
    return status;
}

#define AT(field) offsetof(struct kernel_options, field)

static const struct command_option rows[] = {
    {"type", 0, COMMAND_STRING, AT(type), "NAME,...", NULL, 0, 0,
     "Block types of linear layers: Q4_0,Q6_K (default: all)"},
    {"isa", 0, COMMAND_STRING, AT(isa), "LEVEL,...", NULL, 0, 0,
     "Instruction-set levels (default: all that are here but generic)"},
    {"rows", 'M', COMMAND_LIST, AT(rows), "M,...", "1,4,16,128,512", 1, 4096,
     "Rows of activations of linear layers"},
    {"codes", 0, COMMAND_CHOICE, AT(codes), "coarse|fine", "coarse", 0, 0,
     "Activations as most rows have them, or as rows of logits"},
    {"threads", 't', COMMAND_COUNT, AT(threads), "N", "0", 0, 1024,
     "Threads that compute; 0: one for each processor"},
    {"n-out", 0, COMMAND_COUNT, AT(n_out), "N", "4096", 16, 262144, "Outputs of a linear layer"},
    {"k", 0, COMMAND_COUNT, AT(k), "K", "2048", 256, 65536, "Inputs of a linear layer"},
    {"weight-mib", 0, COMMAND_COUNT, AT(weight_mib), "MIB", "160", 1, 65536,
     "Weights to go through before a matrix comes again: more than caches hold"},
    {"context", 0, COMMAND_LIST, AT(context), "N,...", "1024,4096", 256, 131072,
     "Tokens that attention sees"},
    {"seconds", 0, COMMAND_FLOAT, AT(seconds), "S", "0.05", 0.001, 60, "Time for each figure"},
    {"linear", 0, COMMAND_FLAG, AT(linear), NULL, "true", 0, 0, "Linear layers; --no-linear: not"},
    {"quantise", 0, COMMAND_FLAG, AT(quantise), NULL, "true", 0, 0,
     "Quantising of activations; --no-quantise: not"},
    {"attention", 0, COMMAND_FLAG, AT(attention), NULL, "true", 0, 0,
     "Attention; --no-attention: not"},
    {"jsonl", 'o', COMMAND_STRING, AT(jsonl), "FILE", NULL, 0, 0,
     "Append a line of JSON for each row"},
};

const struct command bench_kernels = {
    .name = "kernels",
    .summary = "Each kernel of the CPU back-end alone, with its share of the machine's limits",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
    .run = bench_kernels_run,
    .values_bytes = sizeof(struct kernel_options),
};
