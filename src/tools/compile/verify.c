/* serverd-compile verify FILE */
#include "tools/compile/commands.h"

#include "base/error.h"
#include "program/sdp_file.h"
#include "program/sdp_program.h"

#include <stdio.h>

struct values {
    const char *file;
};

static const struct command_option rows[] = {
    {"file", 0, COMMAND_STRING, offsetof(struct values, file), "FILE", NULL, 0, 0,
     "The program file to check"},
};

static serverd_status run(const void *arg, serverd_error *err)
{
    const struct values *values = arg;
    struct program *program = NULL;
    struct sdp_file file;
    if (!values->file)
        return fail(err, SERVERD_INVALID, "verify: names no file; see --help");
    serverd_status status = sdp_open(values->file, &program, err);
    program_unref(program);
    if (status == SERVERD_OK)
        status = sdp_file_open(values->file, &file, err);
    if (status != SERVERD_OK)
        return status;
    status = sdp_file_verify(&file, NULL, NULL, err);
    sdp_file_close(&file);
    if (status == SERVERD_OK && printf("%s: every byte is as it was written\n", values->file) < 0)
        status = fail(err, SERVERD_INVALID, "cannot write to standard output: %m");
    return status;
}

const struct command compile_verify = {.name = "verify",
                                       .summary = "Checks every byte of a program file",
                                       .options = rows,
                                       .n_options = sizeof rows / sizeof *rows,
                                       .bare = {"file"},
                                       .run = run,
                                       .values_bytes = sizeof(struct values)};
