/* serverd-compile verify FILE */
#include "tools/compile/commands.h"

#include "base/error.h"
#include "compiler/verify_file.h"

#include <stdio.h>

struct values {
    const char *file, *device;
    uint32_t threads;
    bool self_test;
};

#define AT(field) offsetof(struct values, field)

static const struct command_option rows[] = {
    {"file", 0, COMMAND_STRING, AT(file), "FILE", NULL, 0, 0, "The program file to check"},
    {"self-test", 0, COMMAND_FLAG, AT(self_test), NULL, "true", 0, 0,
     "Run the tests that are in the file (--no-self-test: compare hashes alone)"},
    {"device", 0, COMMAND_STRING, AT(device), "NAME", "cpu", 0, 0,
     "Run them there, as serverd's option: cpu, cpu:isa=avx2, cpu-reference"},
    {"threads", 't', COMMAND_COUNT, AT(threads), "N", "0", 0, 1024,
     "Threads that work; 0: one for each processor that the process may use"},
};

/* Tokens of a step: not as many as when the tests were made, so that this makes no difference. */
enum { TEST_ROWS = 96 };

static int say(const struct values *values, const struct self_test_result *result)
{
    if (!values->self_test)
        return printf("%s: every byte is as it was written\n", values->file);
    if (result->n_cases == 0)
        return printf("%s: every byte is as it was written; it has no self-test\n", values->file);
    const char *measure = result->is_encoder ? "cosine to" : "KL to";
    return printf("%s: every byte is as it was written; %u cases answered as they were, %s exact "
                  "arithmetic %.6f\n",
                  values->file, result->n_cases, measure,
                  result->is_encoder ? result->cosine : result->kl);
}

static serverd_status run(const void *arg, serverd_error *err)
{
    const struct values *values = arg;
    struct verify_options options = {
        .test = {.path = values->file, .device = values->device, .rows = TEST_ROWS},
        .wants_test = values->self_test};
    struct self_test_result result;
    if (!values->file)
        return fail(err, SERVERD_INVALID, "verify: names no file; see --help");
    serverd_status status = worker_pool_create(values->threads, &options.test.pool, err);
    if (status == SERVERD_OK)
        status = verify_file(&options, &result, err);
    worker_pool_destroy(options.test.pool);
    if (status == SERVERD_OK && say(values, &result) < 0)
        status = fail(err, SERVERD_INVALID, "cannot write to standard output: %m");
    return status;
}

const struct command compile_verify = {.name = "verify",
                                       .summary = "Checks every byte of a program file, and what "
                                                  "it answers",
                                       .options = rows,
                                       .n_options = sizeof rows / sizeof *rows,
                                       .bare = {"file"},
                                       .run = run,
                                       .values_bytes = sizeof(struct values)};
