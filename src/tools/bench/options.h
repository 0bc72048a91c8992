/* Options of the sub-commands: each has a const table of rows over a struct of its own. A row's
 * default is text and read like the command line's. Values that are strings point into argv. */
#ifndef TOOLS_BENCH_OPTIONS_H
#define TOOLS_BENCH_OPTIONS_H

#include "base/buffer.h"
#include "serverd/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BENCH_LIST_MAX 32u /* numbers of a list: more are refused */

/* "512,4096": a 0 alone is the empty list. */
struct bench_list {
    uint32_t n;
    uint32_t value[BENCH_LIST_MAX];
};

enum bench_option_type {
    BENCH_STRING, /* const char *, NULL if not given and without a default */
    BENCH_COUNT,  /* uint32_t */
    BENCH_FLOAT,  /* double */
    BENCH_LIST,   /* struct bench_list */
    BENCH_FLAG,   /* bool; --NAME, --no-NAME */
    BENCH_CHOICE  /* int, index in `metavar`, "a|b|c" */
};

struct bench_option {
    const char *name;
    char letter; /* -x, or 0 */
    enum bench_option_type type;
    size_t offset;
    const char *metavar;
    const char *initial; /* NULL: none (a string), or false */
    double min, max;     /* of numbers, and of each in a list */
    const char *help;
};

struct bench_command {
    const char *name, *summary;
    const struct bench_option *options;
    size_t n_options;
    /* One bare argument is the value of this option; NULL: none is taken. */
    const char *bare;
    serverd_status (*run)(const void *values, serverd_error *err);
    size_t values_bytes; /* of the struct that `options` fills */
};

/* Fills `values`, which is zeroed, with defaults and then argv[0..argc-1], which starts behind the
 * sub-command. `*wants_help`: --help was among them. SERVERD_INVALID names the option and, for
 * an unknown one, the nearest. */
serverd_status bench_options_parse(const struct bench_command *command, int argc, char *const *argv,
                                   void *values, bool *wants_help, serverd_error *err);

/* The text of `serverd-bench COMMAND --help`. */
void bench_options_help(const struct bench_command *command, struct buffer *out);

#endif
