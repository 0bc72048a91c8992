/* serverd-grammar --schema FILE --check INSTANCE... */
#include "tools/grammar/commands.h"

#include "base/error.h"
#include "base/file.h"
#include "base/limits.h"
#include "grammar/matcher.h"
#include "tools/grammar/sample.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INSTANCE_BYTES (64 * MIB)

struct values {
    const char *schema, *regex, *gbnf, *choice, *tags, *batch, *model;
    struct command_names check;
    uint32_t max_ms, sample, seed;
    int whitespace;
    bool produce, compare;
};

#define AT(field) offsetof(struct values, field)

static const struct command_option rows[] = {
    {"schema", 0, COMMAND_STRING, AT(schema), "FILE", NULL, 0, 0, "A JSON Schema"},
    {"regex", 0, COMMAND_STRING, AT(regex), "REGEX", NULL, 0, 0,
     "A regular expression for whole texts"},
    {"gbnf", 0, COMMAND_STRING, AT(gbnf), "FILE", NULL, 0, 0, "A grammar in GBNF"},
    {"choice", 0, COMMAND_STRING, AT(choice), "FILE", NULL, 0, 0, "A JSON list of strings"},
    {"tags", 0, COMMAND_STRING, AT(tags), "FILE", NULL, 0, 0,
     "What stands in a request as structural_tag"},
    {"check", 0, COMMAND_NAMES, AT(check), "INSTANCE", NULL, 0, 0,
     "A file that is to be accepted; bare arguments are more of them"},
    {"produce", 0, COMMAND_FLAG, AT(produce), NULL, NULL, 0, 0,
     "Accept only what production writes: one spelling, one order"},
    {"sample", 0, COMMAND_COUNT, AT(sample), "N", "0", 0, 100000,
     "Print so many random texts that production could write; implies --produce"},
    {"seed", 0, COMMAND_COUNT, AT(seed), "N", "1", 0, UINT32_MAX, "Of the first of them"},
    {"json-whitespace", 0, COMMAND_CHOICE, AT(whitespace), "spaced|compact|flexible", "spaced", 0,
     0, "White space of production"},
    {"max-ms", 0, COMMAND_COUNT, AT(max_ms), "MS", "250", 1, 60000, "Time for compiling"},
    {"model", 0, COMMAND_STRING, AT(model), "FILE", NULL, 0, 0,
     "Measure masks of this model's vocabulary along the instances; implies --produce"},
    {"compare", 0, COMMAND_FLAG, AT(compare), NULL, NULL, 0, 0,
     "With --model: compare every mask with every token (slow)"},
    {"batch", 0, COMMAND_STRING, AT(batch), "FILE", NULL, 0, 0,
     "Many schemas: lines of \"schema JSON\" and \"instance JSON\""},
};

struct source {
    enum grammar_form form;
    const char *name; /* of the file, or NULL */
    char *text;
    size_t n;
};

static serverd_status read_source(const struct values *values, struct source *out,
                                  serverd_error *err)
{
    const struct {
        const char *path;
        enum grammar_form form;
    } files[] = {{values->schema, GRAMMAR_JSON_SCHEMA},
                 {values->gbnf, GRAMMAR_GBNF},
                 {values->choice, GRAMMAR_CHOICE},
                 {values->tags, GRAMMAR_TAGS}};
    *out = (struct source){0};
    bool has_one = false;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (!files[i].path)
            continue;
        if (has_one)
            return fail(err, SERVERD_INVALID, "one of schema, regex, gbnf, choice, tags");
        *out = (struct source){.form = files[i].form, .name = files[i].path};
        has_one = true;
    }
    if (has_one == (values->regex != NULL))
        return fail(err, SERVERD_INVALID, "one of schema, regex, gbnf, choice, tags");
    if (out->name)
        return file_read(out->name, LIMIT_GRAMMAR_TEXT + 1, &out->text, &out->n, err);
    out->form = GRAMMAR_REGEX;
    out->text = strdup(values->regex);
    out->n = strlen(values->regex);
    return out->text ? SERVERD_OK : fail(err, SERVERD_NOMEM, "no memory");
}

static serverd_status check_instance(struct matcher *matcher, const char *path, bool *is_accepted,
                                     serverd_error *err)
{
    char *text;
    size_t n;
    serverd_status status = file_read(path, INSTANCE_BYTES, &text, &n, err);
    if (status != SERVERD_OK)
        return status;
    matcher_reset(matcher);
    size_t n_read = matcher_read(matcher, text, n);
    *is_accepted = n_read == n && matcher_may_end(matcher);
    if (matcher_has_failed(matcher))
        status = fail(err, SERVERD_NOMEM, "%s: takes more memory than is allowed", path);
    else if (*is_accepted)
        (void)printf("%s: accepted\n", path);
    else if (n_read < n)
        (void)printf("%s: rejected at byte %zu\n", path, n_read);
    else
        (void)printf("%s: rejected, ends too soon\n", path);
    free(text);
    return status;
}

static serverd_status check_all(const struct values *values, struct grammar *grammar,
                                serverd_error *err)
{
    struct matcher *matcher = matcher_create(grammar);
    uint32_t n_rejected = 0;
    serverd_status status = matcher ? SERVERD_OK : fail(err, SERVERD_NOMEM, "no memory");
    for (uint32_t i = 0; i < values->check.n && status == SERVERD_OK; i++) {
        bool is_accepted;
        status = check_instance(matcher, values->check.value[i], &is_accepted, err);
        n_rejected += status == SERVERD_OK && !is_accepted;
    }
    matcher_destroy(matcher);
    if (status == SERVERD_OK && n_rejected > 0)
        status = fail(err, GRAMMAR_REJECTED, "%u of %u rejected", n_rejected, values->check.n);
    return status;
}

static serverd_status print_samples(const struct values *values, struct grammar *grammar,
                                    serverd_error *err)
{
    struct matcher *matcher = matcher_create(grammar);
    struct buffer text;
    serverd_status status = matcher ? SERVERD_OK : fail(err, SERVERD_NOMEM, "no memory");
    buffer_init(&text, SAMPLE_BYTES + 1);
    for (uint32_t i = 0; i < values->sample && status == SERVERD_OK; i++) {
        buffer_reset(&text);
        status = sample_text(matcher, (uint64_t)values->seed + i, &text, err);
        if (status == SERVERD_OK)
            (void)printf("%s\n", buffer_str(&text));
    }
    buffer_deinit(&text);
    matcher_destroy(matcher);
    return status;
}

static serverd_status time_instance(const struct values *values, struct mask_times *times,
                                    struct grammar *grammar, const char *path, serverd_error *err)
{
    char *text;
    size_t n;
    uint32_t n_tokens = 0;
    serverd_status status = file_read(path, INSTANCE_BYTES, &text, &n, err);
    if (status != SERVERD_OK)
        return status;
    status = mask_times_add(times, grammar, text, n, values->compare, &n_tokens, err);
    if (status == SERVERD_OK)
        (void)printf("%s: %u tokens\n", path, n_tokens);
    free(text);
    return status;
}

static serverd_status run_one(const struct values *values, const struct grammar_options *options,
                              struct mask_times *times, serverd_error *err)
{
    struct source source;
    struct grammar *grammar = NULL;
    const char *code;
    serverd_status status = read_source(values, &source, err);
    if (status == SERVERD_OK) {
        uint64_t begin = clock_now_ns(&system_clock);
        status = grammar_compile(source.form, source.text, source.n, options, &grammar, &code, err);
        if (status != SERVERD_OK)
            (void)error_context(err, "%s", code);
        else
            (void)printf("compiled in %.3f ms, %zu bytes\n",
                         (double)(clock_now_ns(&system_clock) - begin) / 1e6,
                         grammar_bytes(grammar));
    }
    if (status == SERVERD_OK && !times)
        status = check_all(values, grammar, err);
    for (uint32_t i = 0; times && i < values->check.n && status == SERVERD_OK; i++)
        status = time_instance(values, times, grammar, values->check.value[i], err);
    if (status == SERVERD_OK)
        status = print_samples(values, grammar, err);
    grammar_unref(grammar);
    free(source.text);
    return status;
}

static serverd_status run(const void *arg, serverd_error *err)
{
    const struct values *values = arg;
    const struct grammar_options options = {.checks = !values->produce && !values->sample &&
                                                      !values->model,
                                            .whitespace = (enum json_whitespace)values->whitespace,
                                            .max_ns = values->max_ms * UINT64_C(1000000)};
    struct mask_times *times = NULL;
    serverd_status status =
        values->model ? mask_times_create(values->model, &times, err) : SERVERD_OK;
    if (status == SERVERD_OK && values->batch)
        status = grammar_batch(values->batch, &options, times, err);
    else if (status == SERVERD_OK)
        status = run_one(values, &options, times, err);
    struct buffer report;
    buffer_init(&report, 4096);
    if (times)
        mask_times_report(times, &report);
    (void)fputs(buffer_str(&report), stdout);
    buffer_deinit(&report);
    mask_times_destroy(times);
    return status;
}

const struct command grammar_check = {
    .name = "",
    .summary = "Checks instances against a schema, a regular expression or a grammar",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
    .bare = {"check"},
    .run = run,
    .values_bytes = sizeof(struct values)};
