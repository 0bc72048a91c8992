/* serverd-compile diff A B */
#include "tools/compile/commands.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "tools/compile/diff_report.h"

#include <stdio.h>

#define OUTPUT_BYTES (256 * MIB)

struct values {
    const char *a, *b, *ids, *device_a, *device_b, *delegate;
    uint32_t tokens, threads;
    bool json, nodes, all, run;
};

#define AT(field) offsetof(struct values, field)

static const struct command_option rows[] = {
    {"a", 0, COMMAND_STRING, AT(a), "A", NULL, 0, 0,
     "What is right: a program file, or anything that compiles"},
    {"b", 0, COMMAND_STRING, AT(b), "B", NULL, 0, 0,
     "What is compared with it; it may be the same file on another device"},
    {"ids", 0, COMMAND_STRING, AT(ids), "FILE", NULL, 0, 0,
     "JSON file with the tokens to run: a list of ids, or of such lists; else an English text"},
    {"tokens", 'n', COMMAND_COUNT, AT(tokens), "N", "64", 1, LIMIT_DIFF_TOKENS,
     "Tokens of that text at most"},
    {"device-a", 0, COMMAND_STRING, AT(device_a), "NAME", "auto", 0, 0,
     "Back-end that runs A, as serverd's --device; cpu-reference is exact"},
    {"device-b", 0, COMMAND_STRING, AT(device_b), "NAME", "auto", 0, 0, "Back-end that runs B"},
    {"delegate", 0, COMMAND_STRING, AT(delegate), "FILES", NULL, 0, 0,
     "Shared objects with further back-ends, as serverd's option"},
    {"run", 0, COMMAND_FLAG, AT(run), NULL, "true", 0, 0,
     "Run both (--no-run: compare the files alone)"},
    {"nodes", 0, COMMAND_FLAG, AT(nodes), NULL, NULL, 0, 0, "Every node, not layers alone"},
    {"all", 0, COMMAND_FLAG, AT(all), NULL, NULL, 0, 0, "All weights that differ, not some"},
    {"json", 0, COMMAND_FLAG, AT(json), NULL, NULL, 0, 0, "The same as JSON"},
    {"threads", 't', COMMAND_COUNT, AT(threads), "N", "0", 0, 1024,
     "Threads that work; 0: one for each processor that the process may use"},
};

static serverd_status open_side(struct subject *subject, const char *path, const char *device,
                                const struct values *values, serverd_error *err)
{
    serverd_status status = subject_open(subject, path, values->delegate, values->threads, err);
    return status == SERVERD_OK ? subject_place(subject, device, NULL, err) : status;
}

static serverd_status choose_tokens(const struct values *values, const struct subject *a,
                                    const struct subject *b, struct token_sequences *out,
                                    serverd_error *err)
{
    uint32_t n_vocab = (uint32_t)min_size(a->program->config.n_vocab, b->program->config.n_vocab);
    if (a->program->config.n_vocab != b->program->config.n_vocab)
        return fail(err, SERVERD_UNSUPPORTED, "A has a vocabulary of %u, B of %u",
                    a->program->config.n_vocab, b->program->config.n_vocab);
    return values->ids ? token_sequences_read(values->ids, n_vocab, out, err)
                       : token_sequences_make(a, values->tokens, out, err);
}

static serverd_status print(const struct diff_report *report, bool is_json, serverd_error *err)
{
    struct buffer out;
    serverd_status status = SERVERD_OK;
    buffer_init(&out, OUTPUT_BYTES);
    if (is_json)
        diff_report_json(report, &out);
    else
        diff_report_text(report, &out);
    if (out.is_failed)
        status = fail(err, SERVERD_NOMEM, "no memory for the report");
    else if (fwrite(buffer_str(&out), 1, out.len, stdout) != out.len || fflush(stdout) != 0)
        status = fail(err, SERVERD_INVALID, "cannot write to standard output: %m");
    buffer_deinit(&out);
    return status;
}

/* Two that cannot be run side by side have their files compared all the same. */
static serverd_status compare(const struct values *values, const struct subject *a,
                              const struct subject *b, serverd_error *err)
{
    struct diff_files files;
    struct diff_run run = {0};
    struct token_sequences tokens = {0};
    serverd_error why = {.text = "not wanted"};
    struct diff_report report = {.a = a,
                                 .b = b,
                                 .files = &files,
                                 .why = why.text,
                                 .has_nodes = values->nodes,
                                 .has_all = values->all};
    serverd_status status = diff_files(a, b, &files, err);
    if (status == SERVERD_OK && values->run) {
        status = choose_tokens(values, a, b, &tokens, err);
        if (status == SERVERD_OK)
            status = diff_run(a, b, &files, &tokens, &run, err);
        if (status == SERVERD_OK)
            report.run = &run;
        for (uint32_t i = 0; i < tokens.n; i++)
            report.n_tokens += tokens.items[i].n;
        if (status == SERVERD_UNSUPPORTED) {
            why = *err;
            status = SERVERD_OK;
        }
    }
    if (status == SERVERD_OK)
        status = print(&report, values->json, err);
    token_sequences_free(&tokens);
    diff_run_free(&run);
    diff_files_free(&files);
    return status;
}

static serverd_status run(const void *arg, serverd_error *err)
{
    const struct values *values = arg;
    struct subject a = {0}, b = {0};
    if (!values->a || !values->b)
        return fail(err, SERVERD_INVALID, "diff: names no two models; see --help");
    serverd_status status = open_side(&a, values->a, values->device_a, values, err);
    if (status == SERVERD_OK)
        status = open_side(&b, values->b, values->device_b, values, err);
    if (status == SERVERD_OK)
        status = compare(values, &a, &b, err);
    subject_close(&a);
    subject_close(&b);
    return status;
}

const struct command compile_diff = {
    .name = "diff",
    .summary = "Compares two models, and what they compute, layer by layer",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
    .bare = {"a", "b"},
    .run = run,
    .values_bytes = sizeof(struct values)};
