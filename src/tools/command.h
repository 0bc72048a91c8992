/* Tools with sub-commands. Each has a const table of options over a struct of its own. A row's
 * default is text and read like the command line's. Values that are strings point into argv. */
#ifndef TOOLS_COMMAND_H
#define TOOLS_COMMAND_H

#include "base/buffer.h"
#include "serverd/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COMMAND_BARE_MAX  2u
#define COMMAND_LIST_MAX  32u /* numbers of a list: more are refused */
#define COMMAND_NAMES_MAX 256u

/* "512,4096": a 0 alone is the empty list. */
struct command_list {
    uint32_t n;
    uint32_t value[COMMAND_LIST_MAX];
};

/* Every time the option is given adds one; as the last of `bare`, so does every bare argument. */
struct command_names {
    uint32_t n;
    const char *value[COMMAND_NAMES_MAX];
};

enum command_option_type {
    COMMAND_STRING, /* const char *, NULL if not given and without a default */
    COMMAND_COUNT,  /* uint32_t */
    COMMAND_FLOAT,  /* double */
    COMMAND_LIST,   /* struct command_list */
    COMMAND_NAMES,  /* struct command_names */
    COMMAND_FLAG,   /* bool; --NAME, --no-NAME */
    COMMAND_CHOICE  /* int, index in `metavar`, "a|b|c" */
};

struct command_option {
    const char *name;
    char letter; /* -x, or 0 */
    enum command_option_type type;
    size_t offset;
    const char *metavar;
    const char *initial; /* NULL: none (a string), or false */
    double min, max;     /* of numbers, and of each in a list */
    const char *help;
};

struct command {
    const char *name, *summary;
    const struct command_option *options;
    size_t n_options;
    /* Bare arguments are the values of these options, in this order; NULL: none more is taken. */
    const char *bare[COMMAND_BARE_MAX];
    serverd_status (*run)(const void *values, serverd_error *err);
    size_t values_bytes; /* of the struct that `options` fills */
};

/* Fills `values`, which is zeroed, with defaults and then argv[0..argc-1], which starts behind the
 * sub-command. `*wants_help`: --help was among them. SERVERD_INVALID names the option and, for
 * an unknown one, the nearest. */
serverd_status command_parse(const struct command *command, int argc, char *const *argv,
                             void *values, bool *wants_help, serverd_error *err);

/* The text of `TOOL COMMAND --help`; `tool` is "serverd-bench". */
void command_help(const char *tool, const struct command *command, struct buffer *out);

/* A program made of sub-commands, or of `otherwise` alone. */
struct tool {
    const char *name, *summary;
    const struct command *const *commands;
    size_t n_commands;
    /* Runs if the first argument is no sub-command's name; NULL: that is an error. */
    const struct command *otherwise;
    int usage_code;                   /* exit code of a wrong command line */
    int (*exit_code)(serverd_status); /* of a command that failed; NULL: 1 */
};

/* The whole of main: chooses, parses, runs, prints the error; returns the exit code. */
int tool_main(const struct tool *tool, int argc, char *const *argv);

#endif
