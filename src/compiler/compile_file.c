#include "compiler/compile_file.h"

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "compiler/facts.h"
#include "compiler/sdp_write.h"
#include "compiler/source_hash.h"
#include "compiler/verify_file.h"
#include "program/sdp_format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Shares of the progress: hashing the source, packing, checking; quantising, if there is any, comes
 * before all that and takes most of the time. */
#define PACK_FROM      0.2
#define VERIFY_FROM    0.8
#define QUANTISE_SHARE 0.9

/* A name for each node of the largest models is far below it. */
#define DEBUG_BYTES (256 * MIB)

/* What a file says, not where it lies; a word that names none is what it says. */
static void hash_input(struct sha256 *hash, const char *word_or_path)
{
    char *text;
    size_t n;
    serverd_error err;
    if (file_read(word_or_path, LIMIT_CALIBRATION_BYTES, &text, &n, &err) == SERVERD_OK) {
        sha256_update(hash, text, n);
        free(text);
    } else {
        sha256_update(hash, word_or_path, strlen(word_or_path) + 1);
    }
}

static uint32_t or_default(uint32_t limit, uint32_t otherwise)
{
    return limit > 0 ? limit : otherwise;
}

/* max_context 0: the model's. */
static serverd_limits limits_of(const struct compile_file_options *options)
{
    const serverd_limits *limits = &options->limits;
    return (serverd_limits){.struct_bytes = sizeof *limits,
                            .max_rows = or_default(limits->max_rows, COMPILE_MAX_ROWS),
                            .max_logit_rows =
                                or_default(limits->max_logit_rows, COMPILE_MAX_LOGIT_ROWS),
                            .max_seqs = or_default(limits->max_seqs, COMPILE_MAX_SEQS),
                            .max_context = limits->max_context};
}

/* What is as always is not in the hash. */
static void hash_limits(struct sha256 *hash, const struct compile_file_options *options)
{
    const serverd_limits limits = limits_of(options);
    const uint32_t numbers[] = {limits.max_rows, limits.max_logit_rows, limits.max_seqs,
                                limits.max_context};
    if (numbers[0] == COMPILE_MAX_ROWS && numbers[1] == COMPILE_MAX_LOGIT_ROWS &&
        numbers[2] == COMPILE_MAX_SEQS && numbers[3] == 0)
        return;
    sha256_update(hash, " limits ", 8);
    sha256_update(hash, numbers, sizeof numbers);
}

void compile_options_hash(const struct compile_file_options *options, uint8_t out[32])
{
    char text[256];
    int n = snprintf(text, sizeof text, "serverd %s compiler %u sdp %u.%u page %u delegate %s %s",
                     PROJECT_VERSION, COMPILER_VERSION, SDP_MAJOR, SDP_MINOR, SERVERD_PAGE_TOKENS,
                     options->delegate->name, options->delegate->version);
    struct sha256 hash;
    sha256_init(&hash);
    sha256_update(&hash, text, n > 0 ? (size_t)n : 0);
    for (uint32_t i = 0; i < options->n_others; i++) {
        n = snprintf(text, sizeof text, " and %s %s", options->others[i]->name,
                     options->others[i]->version);
        sha256_update(&hash, text, n > 0 ? (size_t)n : 0);
    }
    if (options->source.passes.off) {
        sha256_update(&hash, " without ", 9);
        sha256_update(&hash, options->source.passes.off, strlen(options->source.passes.off) + 1);
    }
    if (options->quantise) {
        n = snprintf(text, sizeof text, " target %.17g %llu quantise ", options->target_bits,
                     (unsigned long long)options->target_bytes);
        sha256_update(&hash, text, n > 0 ? (size_t)n : 0);
        hash_input(&hash, options->quantise);
        hash_input(&hash, options->calibration ? options->calibration : "");
    }
    if (options->source.shard.n_ranks > 1) {
        sha256_update(&hash, " shard ", 7);
        sha256_update(&hash, &options->source.shard, sizeof options->source.shard);
    }
    hash_limits(&hash, options);
    sha256_final(&hash, out);
}

static void report(const struct compile_file_options *options, double share)
{
    if (options->progress && options->quantise)
        share = QUANTISE_SHARE + (1 - QUANTISE_SHARE) * share;
    if (options->progress)
        options->progress(options->progress_context, share);
}

static void report_quantising(void *context, double share, const char *what)
{
    (void)what;
    const struct compile_file_options *options = context;
    if (options->progress)
        options->progress(options->progress_context, share * QUANTISE_SHARE);
}

static void report_packing(void *context, double share)
{
    report(context, PACK_FROM + (VERIFY_FROM - PACK_FROM) * share);
}

static void report_verifying(void *context, double share)
{
    report(context, VERIFY_FROM + (1 - VERIFY_FROM) * share);
}

/* Rows of a step while tests are made: other ones than serverd-compile verify runs, so that this
 * also shows that it is the same. */
enum { ROWS_OF_MAKING = 64 };

struct tests_context {
    const struct compile_file_options *options;
    const struct program *source;
};

static serverd_status make_tests(void *context, const char *path, struct buffer *out,
                                 serverd_error *err)
{
    const struct tests_context *tests = context;
    const struct self_test_options options = {
        .path = path, .device = "cpu", .rows = ROWS_OF_MAKING, .pool = tests->options->pool};
    return self_test_make(tests->source, &options, out, err);
}

/* A shard answers nothing on its own. */
static bool wants_tests(const struct compile_file_options *options)
{
    return options->wants_tests && options->source.shard.n_ranks <= 1;
}

static serverd_status write_program(const struct compile_file_options *options,
                                    const struct program *program, const uint8_t source[32],
                                    const struct pass_history *history, const char *or_null_report,
                                    serverd_error *err)
{
    uint8_t options_hash[32];
    struct buffer meta, debug;
    buffer_init(&meta, 256 * KIB);
    buffer_init(&debug, DEBUG_BYTES);
    facts_put_meta(program, options, &meta);
    facts_put_debug(program, history, &debug);
    compile_options_hash(options, options_hash);
    struct tests_context tests = {options, program};
    serverd_limits limits = limits_of(options);
    if (limits.max_context == 0)
        limits.max_context = program->config.context_length;
    const struct sdp_write_options writing = {.path = options->out,
                                              .delegate = options->delegate,
                                              .others = options->others,
                                              .n_others = options->n_others,
                                              .pool = options->pool,
                                              .limits = limits,
                                              .source_hash = source,
                                              .options_hash = options_hash,
                                              .meta = buffer_str(&meta),
                                              .report = or_null_report,
                                              .debug = buffer_str(&debug),
                                              .make_tests =
                                                  wants_tests(options) ? make_tests : NULL,
                                              .tests_context = &tests,
                                              .progress = report_packing,
                                              .progress_context = (void *)options};
    serverd_status status = meta.is_failed || debug.is_failed
                                ? fail(err, SERVERD_NOMEM, "no memory to compile")
                                : sdp_write(program, &writing, err);
    buffer_deinit(&meta);
    buffer_deinit(&debug);
    return status;
}

static serverd_status write_page(const struct quantise_report *found, const char *path,
                                 serverd_error *err)
{
    struct buffer page;
    buffer_init(&page, 64 * MIB);
    quantise_report_html(found, &page);
    serverd_status status = page.is_failed ? fail(err, SERVERD_NOMEM, "no memory for a report")
                                           : file_write_atomic(path, page.data, page.len, err);
    buffer_deinit(&page);
    return status;
}

/* *json is what was found, as text, to be freed. */
static serverd_status quantise(const struct compile_file_options *options, struct program *program,
                               char **json, serverd_error *err)
{
    const struct quantise_options quantising = {.policy = options->quantise,
                                                .calibration = options->calibration,
                                                .target_bits = options->target_bits,
                                                .target_bytes = options->target_bytes,
                                                .pool = options->pool,
                                                .progress = report_quantising,
                                                .progress_context = (void *)options};
    struct quantise_report found;
    struct buffer text;
    serverd_status status = quantise_program(program, &quantising, &found, err);
    if (status != SERVERD_OK)
        return status;
    buffer_init(&text, 64 * MIB);
    quantise_report_json(&found, &text);
    *json = buffer_take(&text, NULL);
    if (!*json)
        status = fail(err, SERVERD_NOMEM, "no memory for a report");
    else if (options->report)
        status = write_page(&found, options->report, err);
    quantise_report_destroy(&found);
    return status;
}

static serverd_status verify(const struct compile_file_options *options, serverd_error *err)
{
    const struct verify_options verifying = {.test = {.path = options->out, .pool = options->pool},
                                             /* making the tests ran the written file */
                                             .wants_test = false,
                                             .progress = report_verifying,
                                             .progress_context = (void *)options};
    struct self_test_result result;
    serverd_status status = verify_file(&verifying, &result, err);
    if (status == SERVERD_OK || status == SERVERD_NUMERIC)
        return status;
    err->code = SERVERD_INTERNAL;
    return error_context(err, "what was written is not what was meant");
}

/* From the source to the file. */
static serverd_status make_file(const struct compile_file_options *options,
                                const struct pass_history *history, struct program *program,
                                serverd_error *err)
{
    uint8_t source[32];
    char *json = NULL;
    serverd_status status = options->quantise ? quantise(options, program, &json, err) : SERVERD_OK;
    if (status == SERVERD_OK && options->quantise)
        status = shard_program(program, options->source.shard, err);
    if (status == SERVERD_OK && options->source_hash)
        memcpy(source, options->source_hash, sizeof source);
    else if (status == SERVERD_OK)
        status = source_hash(options->source.path, options->pool, source, err);
    if (status == SERVERD_OK) {
        report(options, PACK_FROM);
        status = write_program(options, program, source, history, json, err);
    }
    free(json);
    return status;
}

serverd_status compile_file(const struct compile_file_options *options, serverd_error *err)
{
    struct program *program = NULL;
    struct pass_history history = {.after = options->source.passes.after,
                                   .context = options->source.passes.context};
    struct compile_options compiling = options->source;
    buffer_init(&history.passes, 64 * KIB);
    compiling.passes.after = pass_history_add;
    compiling.passes.context = &history;
    if (options->quantise) /* which looks at the whole model; then it is cut */
        compiling.shard = (struct shard){0};
    serverd_status status = compile_model(&compiling, &program, err);
    if (status == SERVERD_OK)
        status = make_file(options, &history, program, err);
    program_unref(program);
    buffer_deinit(&history.passes);
    if (status == SERVERD_OK && options->wants_verify)
        status = verify(options, err);
    if (status == SERVERD_OK)
        report(options, 1);
    return status;
}
