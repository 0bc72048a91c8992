#include "compiler/compile_file.h"

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "compiler/sdp_write.h"
#include "compiler/self_test.h"
#include "compiler/source_hash.h"
#include "program/sdp_file.h"
#include "program/sdp_program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Shares of the progress: hashing the source, packing, checking; quantising, if there is any, comes
 * before all that and takes most of the time. */
#define PACK_FROM      0.2
#define VERIFY_FROM    0.8
#define QUANTISE_SHARE 0.9

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

void compile_options_hash(const struct compile_file_options *options, uint8_t out[32])
{
    char text[256];
    int n = snprintf(text, sizeof text, "serverd %s compiler %u sdp %u.%u delegate %s %s",
                     PROJECT_VERSION, COMPILER_VERSION, SDP_MAJOR, SDP_MINOR,
                     options->delegate->name, options->delegate->version);
    struct sha256 hash;
    sha256_init(&hash);
    sha256_update(&hash, text, n > 0 ? (size_t)n : 0);
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
    sha256_final(&hash, out);
}

static void put_text(struct buffer *out, const char *key, const char *text)
{
    buffer_printf(out, "\"%s\":\"", key);
    buffer_append_json(out, text, strlen(text));
    buffer_append_str(out, "\",");
}

/* Facts that nothing depends on. */
static void put_meta(const struct program *program, struct buffer *out)
{
    const struct program_config *config = &program->config;
    buffer_append_char(out, '{');
    put_text(out, "architecture", config->architecture);
    put_text(out, "name", config->name);
    put_text(out, "quantisation", config->quantisation);
    buffer_printf(out, "\"parameters\":%llu,\"weight_bytes\":%llu,\"compiler\":%u}",
                  (unsigned long long)config->n_parameters,
                  (unsigned long long)config->weight_bytes, COMPILER_VERSION);
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

/* Tests are made in one step and run in many, so that they also show that this is the same. */
enum { ROWS_OF_MAKING = 512, ROWS_OF_TESTING = 96 };

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

static serverd_status run_tests(const struct compile_file_options *options, serverd_error *err)
{
    const struct self_test_options testing = {
        .path = options->out, .device = "cpu", .rows = ROWS_OF_TESTING, .pool = options->pool};
    struct self_test_result result;
    return self_test_run(&testing, &result, err);
}

static serverd_status write_program(const struct compile_file_options *options,
                                    const struct program *program, const uint8_t source[32],
                                    const char *or_null_report, serverd_error *err)
{
    uint8_t options_hash[32];
    struct buffer meta;
    buffer_init(&meta, 64 * KIB);
    put_meta(program, &meta);
    compile_options_hash(options, options_hash);
    struct tests_context tests = {options, program};
    const struct sdp_write_options writing = {.path = options->out,
                                              .delegate = options->delegate,
                                              .pool = options->pool,
                                              .source_hash = source,
                                              .options_hash = options_hash,
                                              .meta = buffer_str(&meta),
                                              .report = or_null_report,
                                              .make_tests =
                                                  options->wants_tests ? make_tests : NULL,
                                              .tests_context = &tests,
                                              .progress = report_packing,
                                              .progress_context = (void *)options};
    serverd_status status = meta.is_failed ? fail(err, SERVERD_NOMEM, "no memory to compile")
                                           : sdp_write(program, &writing, err);
    buffer_deinit(&meta);
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

/* As whoever opens it, and then every byte. */
static serverd_status verify(const struct compile_file_options *options, serverd_error *err)
{
    struct program *program = NULL;
    struct sdp_file file;
    serverd_status status = sdp_open(options->out, &program, err);
    program_unref(program);
    if (status == SERVERD_OK)
        status = sdp_file_open(options->out, &file, err);
    if (status == SERVERD_OK) {
        status = sdp_file_verify(&file, report_verifying, (void *)options, err);
        sdp_file_close(&file);
    }
    if (status == SERVERD_OK)
        return run_tests(options, err);
    err->code = SERVERD_INTERNAL;
    return error_context(err, "what was written is not what was meant");
}

serverd_status compile_file(const struct compile_file_options *options, serverd_error *err)
{
    uint8_t source[32];
    struct program *program = NULL;
    char *json = NULL;
    serverd_status status = compile_model(&options->source, &program, err);
    if (status != SERVERD_OK)
        return status;
    if (options->quantise)
        status = quantise(options, program, &json, err);
    if (status != SERVERD_OK) {
        program_unref(program);
        free(json);
        return status;
    }
    if (options->source_hash)
        memcpy(source, options->source_hash, sizeof source);
    else
        status = source_hash(options->source.path, options->pool, source, err);
    report(options, PACK_FROM);
    if (status == SERVERD_OK)
        status = write_program(options, program, source, json, err);
    program_unref(program);
    free(json);
    if (status == SERVERD_OK && options->wants_verify)
        status = verify(options, err);
    if (status == SERVERD_OK)
        report(options, 1);
    return status;
}
