#include "tools/command.h"

#include "base/error.h"
#include "base/hint.h"
#include "base/limits.h"
#include "base/numeric.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HELP_COLUMN  28
#define HELP_COLUMNS 80

/* ---- text to value ---- */

static serverd_status fail_number(const struct command_option *row, const char *text,
                                  serverd_error *err)
{
    return fail(err, SERVERD_INVALID, "--%s: \"%.100s\" is not a %s from %.10g to %.10g", row->name,
                text, row->type == COMMAND_FLOAT ? "number" : "whole number", row->min, row->max);
}

static serverd_status parse_list(const struct command_option *row, const char *text,
                                 struct command_list *out, serverd_error *err)
{
    struct command_list list = {0};
    for (const char *s = text;; s++) {
        size_t n = strcspn(s, ",");
        char number[16];
        uint64_t value;
        if (list.n == COMMAND_LIST_MAX)
            return fail(err, SERVERD_INVALID, "--%s: more than %u numbers", row->name,
                        COMMAND_LIST_MAX);
        if (n >= sizeof number)
            return fail_number(row, s, err);
        memcpy(number, s, n);
        number[n] = '\0';
        if (n == 1 && *number == '0' && list.n == 0 && s[n] == '\0' && row->min > 0)
            break; /* none */
        if (!parse_u64(number, (uint64_t)row->min, (uint64_t)row->max, &value))
            return fail_number(row, number, err);
        list.value[list.n++] = (uint32_t)value;
        s += n;
        if (*s == '\0')
            break;
    }
    *out = list;
    return SERVERD_OK;
}

static serverd_status parse_choice(const struct command_option *row, const char *text, int *out,
                                   serverd_error *err)
{
    struct hint hint = hint_for(text);
    int index = 0;
    for (const char *s = row->metavar;; s++, index++) {
        size_t n = strcspn(s, "|");
        if (strlen(text) == n && memcmp(text, s, n) == 0) {
            *out = index;
            return SERVERD_OK;
        }
        hint_consider(&hint, s, n);
        s += n;
        if (*s == '\0')
            break;
    }
    if (hint.best)
        return fail(err, SERVERD_INVALID, "--%s: \"%.100s\" is not one of %s; did you mean %.*s?",
                    row->name, text, row->metavar, (int)hint.n_best, hint.best);
    return fail(err, SERVERD_INVALID, "--%s: \"%.100s\" is not one of %s", row->name, text,
                row->metavar);
}

static serverd_status parse_string(const struct command_option *row, const char *text,
                                   const char **out, serverd_error *err)
{
    if (*text == '\0')
        return fail(err, SERVERD_INVALID, "--%s: may not be empty", row->name);
    if (strlen(text) > LIMIT_OPTION_BYTES)
        return fail(err, SERVERD_INVALID, "--%s: %zu bytes, at most %zu allowed", row->name,
                    strlen(text), LIMIT_OPTION_BYTES);
    *out = text;
    return SERVERD_OK;
}

static serverd_status add_name(const struct command_option *row, const char *text,
                               struct command_names *names, serverd_error *err)
{
    if (names->n == COMMAND_NAMES_MAX)
        return fail(err, SERVERD_INVALID, "--%s: more than %u of them", row->name,
                    COMMAND_NAMES_MAX);
    return parse_string(row, text, &names->value[names->n++], err);
}

static serverd_status set(const struct command_option *row, const char *text, void *values,
                          serverd_error *err)
{
    void *field = (char *)values + row->offset;
    uint64_t whole;
    double real;
    switch (row->type) {
    case COMMAND_STRING:
        return parse_string(row, text, field, err);
    case COMMAND_COUNT:
        if (!parse_u64(text, (uint64_t)row->min, (uint64_t)row->max, &whole))
            return fail_number(row, text, err);
        *(uint32_t *)field = (uint32_t)whole;
        return SERVERD_OK;
    case COMMAND_FLOAT:
        if (!parse_f64(text, &real) || real < row->min || real > row->max)
            return fail_number(row, text, err);
        *(double *)field = real;
        return SERVERD_OK;
    case COMMAND_LIST:
        return parse_list(row, text, field, err);
    case COMMAND_NAMES:
        return add_name(row, text, field, err);
    case COMMAND_FLAG:
        *(bool *)field = strcmp(text, "true") == 0;
        return SERVERD_OK;
    case COMMAND_CHOICE:
        return parse_choice(row, text, field, err);
    }
    return fail(err, SERVERD_INTERNAL, "--%s: a type that is not known", row->name);
}

/* ---- the command line ---- */

static const struct command_option *find_name(const struct command *command, const char *name)
{
    for (size_t i = 0; i < command->n_options; i++)
        if (same_name(command->options[i].name, name))
            return &command->options[i];
    return NULL;
}

static const struct command_option *find_letter(const struct command *command, char letter)
{
    for (size_t i = 0; i < command->n_options; i++)
        if (command->options[i].letter == letter)
            return &command->options[i];
    return NULL;
}

/* Behind a command's name in messages; the one of a tool without sub-commands has none. */
static const char *colon(const struct command *command)
{
    return *command->name ? ": " : "";
}

static serverd_status fail_unknown(const struct command *command, const char *name,
                                   serverd_error *err)
{
    struct hint hint = hint_for(name);
    for (size_t i = 0; i < command->n_options; i++)
        hint_consider(&hint, command->options[i].name, strlen(command->options[i].name));
    if (hint.best)
        return fail(err, SERVERD_INVALID, "%s%sunknown option --%.100s; did you mean --%.*s?",
                    command->name, colon(command), name, (int)hint.n_best, hint.best);
    return fail(err, SERVERD_INVALID, "%s%sunknown option --%.100s; --help lists all",
                command->name, colon(command), name);
}

/* The value of argv[*i]: behind the = (`attached`), or the next argument. */
static serverd_status take_value(const struct command_option *row, const char *attached, int argc,
                                 char *const *argv, int *i, void *values, serverd_error *err)
{
    if (row->type == COMMAND_FLAG && !attached)
        return set(row, "true", values, err);
    if (row->type == COMMAND_FLAG)
        return fail(err, SERVERD_INVALID, "--%s: takes no value", row->name);
    if (!attached && *i + 1 >= argc)
        return fail(err, SERVERD_INVALID, "--%s: needs a value, %s", row->name, row->metavar);
    return set(row, attached ? attached : argv[++*i], values, err);
}

static serverd_status parse_long(const struct command *command, int argc, char *const *argv, int *i,
                                 void *values, serverd_error *err)
{
    const char *text = argv[*i] + 2, *equals = strchr(text, '=');
    size_t n = equals ? (size_t)(equals - text) : strlen(text);
    char name[64];
    if (n >= sizeof name)
        return fail(err, SERVERD_INVALID, "%s%sunknown option --%.100s", command->name,
                    colon(command), text);
    memcpy(name, text, n);
    name[n] = '\0';
    const struct command_option *row = find_name(command, name);
    if (row)
        return take_value(row, equals ? equals + 1 : NULL, argc, argv, i, values, err);
    if (strncmp(name, "no-", 3) == 0 && (row = find_name(command, name + 3)) &&
        row->type == COMMAND_FLAG)
        return set(row, "false", values, err);
    return fail_unknown(command, name, err);
}

static serverd_status parse_one(const struct command *command, int argc, char *const *argv, int *i,
                                void *values, uint32_t *n_bare, serverd_error *err)
{
    const char *text = argv[*i];
    const struct command_option *row;
    if (strncmp(text, "--", 2) == 0)
        return parse_long(command, argc, argv, i, values, err);
    if (text[0] == '-' && text[1] != '\0') {
        row = find_letter(command, text[1]);
        if (!row)
            return fail(err, SERVERD_INVALID, "%s%sunknown option -%c; --help lists all",
                        command->name, colon(command), text[1]);
        return take_value(row, text[2] ? text + 2 : NULL, argc, argv, i, values, err);
    }
    row = *n_bare < COMMAND_BARE_MAX && command->bare[*n_bare]
              ? find_name(command, command->bare[*n_bare])
              : NULL;
    if (!row)
        return fail(err, SERVERD_INVALID, "%s%sunexpected argument \"%.100s\"; --help lists all",
                    command->name, colon(command), text);
    *n_bare += row->type != COMMAND_NAMES;
    return set(row, text, values, err);
}

serverd_status command_parse(const struct command *command, int argc, char *const *argv,
                             void *values, bool *wants_help, serverd_error *err)
{
    uint32_t n_bare = 0;
    *wants_help = false;
    for (size_t i = 0; i < command->n_options; i++) {
        const struct command_option *row = &command->options[i];
        serverd_status status = row->initial ? set(row, row->initial, values, err) : SERVERD_OK;
        if (status != SERVERD_OK)
            return status;
    }
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            *wants_help = true;
            return SERVERD_OK;
        }
        serverd_status status = parse_one(command, argc, argv, &i, values, &n_bare, err);
        if (status != SERVERD_OK)
            return status;
    }
    return SERVERD_OK;
}

/* ---- help ---- */

static void append_wrapped(struct buffer *out, const char *text)
{
    size_t at = HELP_COLUMN;
    for (bool is_first = true; *text; is_first = false) {
        size_t n = strcspn(text, " ");
        if (!is_first && at + 1 + n > HELP_COLUMNS) {
            buffer_printf(out, "\n%*s", HELP_COLUMN, "");
            at = HELP_COLUMN;
        } else if (!is_first) {
            buffer_append_char(out, ' ');
            at++;
        }
        buffer_append(out, text, n);
        at += n;
        text += n + strspn(text + n, " ");
    }
    buffer_append_char(out, '\n');
}

static void append_row(struct buffer *out, const struct command_option *row)
{
    struct buffer text;
    buffer_init(&text, 4096);
    if (row->letter)
        buffer_printf(&text, "  -%c, --%s", row->letter, row->name);
    else
        buffer_printf(&text, "  --%s", row->name);
    if (row->metavar)
        buffer_printf(&text, " %s", row->metavar);
    buffer_append_str(out, buffer_str(&text));
    if (text.len + 2 > HELP_COLUMN)
        buffer_printf(out, "\n%*s", HELP_COLUMN, "");
    else
        buffer_printf(out, "%*s", (int)(HELP_COLUMN - text.len), "");
    buffer_reset(&text);
    buffer_append_str(&text, row->help);
    if (row->initial && row->type != COMMAND_FLAG)
        buffer_printf(&text, " [default %s]", row->initial);
    append_wrapped(out, buffer_str(&text));
    buffer_deinit(&text);
}

void command_help(const char *tool, const struct command *command, struct buffer *out)
{
    buffer_printf(out, "Usage: %s%s%s", tool, *command->name ? " " : "", command->name);
    for (size_t i = 0; i < COMMAND_BARE_MAX && command->bare[i]; i++) {
        const struct command_option *row = find_name(command, command->bare[i]);
        buffer_printf(out, " [%s]", row->type == COMMAND_CHOICE ? row->name : row->metavar);
    }
    buffer_printf(out, " [OPTION]...\n%s\n\n", command->summary);
    for (size_t i = 0; i < command->n_options; i++)
        append_row(out, &command->options[i]);
}

/* ---- tools ---- */

static int print_usage(const struct tool *tool, FILE *to)
{
    const struct command *otherwise = tool->otherwise;
    if (tool->n_commands == 0) {
        (void)fprintf(to, "Usage: %s %s [OPTION]...\n%s\n\n%s --help lists its options.\n",
                      tool->name, find_name(otherwise, otherwise->bare[0])->metavar, tool->summary,
                      tool->name);
        return to == stdout ? 0 : tool->usage_code;
    }
    (void)fprintf(to, "Usage: %s COMMAND [OPTION]...\n", tool->name);
    if (otherwise)
        (void)fprintf(to, "       %s %s [OPTION]...      %s\n", tool->name,
                      find_name(otherwise, otherwise->bare[0])->metavar, otherwise->summary);
    (void)fprintf(to, "%s\n\n", tool->summary);
    for (size_t i = 0; i < tool->n_commands; i++)
        (void)fprintf(to, "  %-10s %s\n", tool->commands[i]->name, tool->commands[i]->summary);
    (void)fprintf(to, "\n%s COMMAND --help lists its options%s.\n", tool->name,
                  otherwise ? "; so does --help behind the file's name" : "");
    return to == stdout ? 0 : tool->usage_code;
}

/* NULL: it is none, and the message is printed. */
static const struct command *find_command(const struct tool *tool, const char *name)
{
    struct hint hint = hint_for(name);
    for (size_t i = 0; i < tool->n_commands; i++) {
        if (strcmp(tool->commands[i]->name, name) == 0)
            return tool->commands[i];
        hint_consider(&hint, tool->commands[i]->name, strlen(tool->commands[i]->name));
    }
    if (tool->otherwise)
        return tool->otherwise;
    if (hint.best)
        (void)fprintf(stderr, "%s: there is no command %.100s; did you mean %.*s?\n", tool->name,
                      name, (int)hint.n_best, hint.best);
    else
        (void)fprintf(stderr, "%s: there is no command %.100s; --help lists them\n", tool->name,
                      name);
    return NULL;
}

static int print_help(const struct tool *tool, const struct command *command)
{
    struct buffer text;
    buffer_init(&text, 1 << 16);
    command_help(tool->name, command, &text);
    bool is_printed = !text.is_failed && fputs(buffer_str(&text), stdout) >= 0;
    buffer_deinit(&text);
    return is_printed ? 0 : 1;
}

static int run_command(const struct tool *tool, const struct command *command, int argc,
                       char *const *argv)
{
    serverd_error err;
    bool wants_help;
    void *values = calloc(1, command->values_bytes);
    if (!values) {
        (void)fprintf(stderr, "%s: no memory\n", tool->name);
        return 1;
    }
    int code = 0;
    serverd_status status = command_parse(command, argc, argv, values, &wants_help, &err);
    if (status != SERVERD_OK) {
        code = tool->usage_code;
    } else if (wants_help) {
        code = print_help(tool, command);
    } else {
        status = command->run(values, &err);
        if (status != SERVERD_OK)
            code = tool->exit_code ? tool->exit_code(status) : 1;
    }
    if (status != SERVERD_OK)
        (void)fprintf(stderr, "%s: %s\n", tool->name, err.text);
    free(values);
    return code;
}

int tool_main(const struct tool *tool, int argc, char *const *argv)
{
    if (argc < 2)
        return print_usage(tool, stderr);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return tool->n_commands == 0 ? print_help(tool, tool->otherwise)
                                     : print_usage(tool, stdout);
    if (strcmp(argv[1], "--version") == 0)
        return printf("%s " PROJECT_VERSION "\n", tool->name) < 0;
    const struct command *command = find_command(tool, argv[1]);
    if (!command)
        return tool->usage_code;
    int skipped = command == tool->otherwise ? 1 : 2;
    return run_command(tool, command, argc - skipped, argv + skipped);
}
