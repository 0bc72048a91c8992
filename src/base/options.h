/* Options of the daemon. One table, options.def, makes the struct, the command line, the
 * environment, the configuration file's keys, the help, the man page and the completion.
 * Later sources win only over earlier ones of lower rank: default < file < environment <
 * command line. */
#ifndef BASE_OPTIONS_H
#define BASE_OPTIONS_H

#include "base/buffer.h"
#include "serverd/status.h"

#include <stdbool.h>
#include <stdint.h>

enum option_source { OPTION_DEFAULT, OPTION_FILE, OPTION_ENVIRONMENT, OPTION_COMMAND_LINE };

/* Strings are owned by the struct; sizes are uint64_t, enums index their choices. */
struct options {
#define OPTION_STRING(field, name, def, metavar, group, help)          char *field;
#define OPTION_INT(field, name, def, min, max, metavar, group, help)   int64_t field;
#define OPTION_FLOAT(field, name, def, min, max, metavar, group, help) double field;
#define OPTION_SIZE(field, name, def, min, max, group, help)           uint64_t field;
#define OPTION_BOOL(field, name, def, group, help)                     bool field;
#define OPTION_ENUM(field, name, def, choices, group, help)            int field;
#include "base/options.def"
#undef OPTION_STRING
#undef OPTION_INT
#undef OPTION_FLOAT
#undef OPTION_SIZE
#undef OPTION_BOOL
#undef OPTION_ENUM
    uint8_t source[128]; /* enum option_source of each row */
};

serverd_status options_init(struct options *options, serverd_error *err); /* the defaults */
void options_deinit(struct options *options);

/* One option by its name ("ctx-size"; "ctx_size" is the same) from its text. Out of range, a bad
 * choice or an unknown name (with the nearest known one) is SERVERD_INVALID. A source of lower
 * rank than the one already there is checked and otherwise ignored. */
serverd_status options_set(struct options *options, const char *name, const char *text,
                           enum option_source source, serverd_error *err);

/* What the command line asks for besides running. */
enum options_request {
    OPTIONS_RUN,
    OPTIONS_HELP,
    OPTIONS_VERSION,
    OPTIONS_MAN,
    OPTIONS_YAML,
    OPTIONS_BASH_COMPLETION
};

/* --name VALUE, --name=VALUE, --flag, --no-flag, -h, and one bare argument = --model-path. Also
 * --help, --version, and the generators --print-man, --print-config, --print-completion. */
serverd_status options_parse_args(struct options *options, int argc, char *const *argv,
                                  enum options_request *request, serverd_error *err);

/* SERVERD_CTX_SIZE and so on from environ-style strings. An unknown SERVERD_ name is an error
 * with a hint, but for names in options.c's list of variables that belong to scripts. */
serverd_status options_parse_env(struct options *options, char *const *environment,
                                 serverd_error *err);

/* The texts, wrapped at 80 columns. */
void options_help(struct buffer *out);
void options_man(struct buffer *out);
void options_yaml(struct buffer *out); /* configs/serverd.yaml: every option, commented */
void options_bash_completion(struct buffer *out);

/* Every option with value and source, key files by name only, as JSON:
 * {"ctx-size":{"value":0,"reason":"default"},...}; null: it is not set. */
void options_write_json(const struct options *options, struct buffer *out);

#endif
