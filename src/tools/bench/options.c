#include "tools/bench/options.h"

#include "base/error.h"
#include "base/hint.h"
#include "base/limits.h"
#include "base/numeric.h"

#include <string.h>

#define HELP_COLUMN  28
#define HELP_COLUMNS 80

/* ---- text to value ---- */

static serverd_status fail_number(const struct bench_option *row, const char *text,
                                  serverd_error *err)
{
    return fail(err, SERVERD_INVALID, "--%s: \"%.100s\" is not a %s from %.10g to %.10g", row->name,
                text, row->type == BENCH_FLOAT ? "number" : "whole number", row->min, row->max);
}

static serverd_status parse_list(const struct bench_option *row, const char *text,
                                 struct bench_list *out, serverd_error *err)
{
    struct bench_list list = {0};
    for (const char *s = text;; s++) {
        size_t n = strcspn(s, ",");
        char number[16];
        uint64_t value;
        if (list.n == BENCH_LIST_MAX)
            return fail(err, SERVERD_INVALID, "--%s: more than %u numbers", row->name,
                        BENCH_LIST_MAX);
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

static serverd_status parse_choice(const struct bench_option *row, const char *text, int *out,
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

static serverd_status parse_string(const struct bench_option *row, const char *text,
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

static serverd_status set(const struct bench_option *row, const char *text, void *values,
                          serverd_error *err)
{
    void *field = (char *)values + row->offset;
    uint64_t whole;
    double real;
    switch (row->type) {
    case BENCH_STRING:
        return parse_string(row, text, field, err);
    case BENCH_COUNT:
        if (!parse_u64(text, (uint64_t)row->min, (uint64_t)row->max, &whole))
            return fail_number(row, text, err);
        *(uint32_t *)field = (uint32_t)whole;
        return SERVERD_OK;
    case BENCH_FLOAT:
        if (!parse_f64(text, &real) || real < row->min || real > row->max)
            return fail_number(row, text, err);
        *(double *)field = real;
        return SERVERD_OK;
    case BENCH_LIST:
        return parse_list(row, text, field, err);
    case BENCH_FLAG:
        *(bool *)field = strcmp(text, "true") == 0;
        return SERVERD_OK;
    case BENCH_CHOICE:
        return parse_choice(row, text, field, err);
    }
    return fail(err, SERVERD_INTERNAL, "--%s: a type that is not known", row->name);
}

/* ---- the command line ---- */

static const struct bench_option *find_name(const struct bench_command *command, const char *name)
{
    for (size_t i = 0; i < command->n_options; i++)
        if (same_name(command->options[i].name, name))
            return &command->options[i];
    return NULL;
}

static const struct bench_option *find_letter(const struct bench_command *command, char letter)
{
    for (size_t i = 0; i < command->n_options; i++)
        if (command->options[i].letter == letter)
            return &command->options[i];
    return NULL;
}

static serverd_status fail_unknown(const struct bench_command *command, const char *name,
                                   serverd_error *err)
{
    struct hint hint = hint_for(name);
    for (size_t i = 0; i < command->n_options; i++)
        hint_consider(&hint, command->options[i].name, strlen(command->options[i].name));
    if (hint.best)
        return fail(err, SERVERD_INVALID, "%s: unknown option --%.100s; did you mean --%.*s?",
                    command->name, name, (int)hint.n_best, hint.best);
    return fail(err, SERVERD_INVALID, "%s: unknown option --%.100s; --help lists all",
                command->name, name);
}

/* The value of argv[*i]: behind the = (`attached`), or the next argument. */
static serverd_status take_value(const struct bench_option *row, const char *attached, int argc,
                                 char *const *argv, int *i, void *values, serverd_error *err)
{
    if (row->type == BENCH_FLAG && !attached)
        return set(row, "true", values, err);
    if (row->type == BENCH_FLAG)
        return fail(err, SERVERD_INVALID, "--%s: takes no value", row->name);
    if (!attached && *i + 1 >= argc)
        return fail(err, SERVERD_INVALID, "--%s: needs a value, %s", row->name, row->metavar);
    return set(row, attached ? attached : argv[++*i], values, err);
}

static serverd_status parse_long(const struct bench_command *command, int argc, char *const *argv,
                                 int *i, void *values, serverd_error *err)
{
    const char *text = argv[*i] + 2, *equals = strchr(text, '=');
    size_t n = equals ? (size_t)(equals - text) : strlen(text);
    char name[64];
    if (n >= sizeof name)
        return fail(err, SERVERD_INVALID, "%s: unknown option --%.100s", command->name, text);
    memcpy(name, text, n);
    name[n] = '\0';
    const struct bench_option *row = find_name(command, name);
    if (row)
        return take_value(row, equals ? equals + 1 : NULL, argc, argv, i, values, err);
    if (strncmp(name, "no-", 3) == 0 && (row = find_name(command, name + 3)) &&
        row->type == BENCH_FLAG)
        return set(row, "false", values, err);
    return fail_unknown(command, name, err);
}

static serverd_status parse_one(const struct bench_command *command, int argc, char *const *argv,
                                int *i, void *values, bool *had_bare, serverd_error *err)
{
    const char *text = argv[*i];
    const struct bench_option *row;
    if (strncmp(text, "--", 2) == 0)
        return parse_long(command, argc, argv, i, values, err);
    if (text[0] == '-' && text[1] != '\0') {
        row = find_letter(command, text[1]);
        if (!row)
            return fail(err, SERVERD_INVALID, "%s: unknown option -%c; --help lists all",
                        command->name, text[1]);
        return take_value(row, text[2] ? text + 2 : NULL, argc, argv, i, values, err);
    }
    row = command->bare ? find_name(command, command->bare) : NULL;
    if (!row || *had_bare)
        return fail(err, SERVERD_INVALID, "%s: unexpected argument \"%.100s\"; --help lists all",
                    command->name, text);
    *had_bare = true;
    return set(row, text, values, err);
}

serverd_status bench_options_parse(const struct bench_command *command, int argc, char *const *argv,
                                   void *values, bool *wants_help, serverd_error *err)
{
    bool had_bare = false;
    *wants_help = false;
    for (size_t i = 0; i < command->n_options; i++) {
        const struct bench_option *row = &command->options[i];
        serverd_status status = row->initial ? set(row, row->initial, values, err) : SERVERD_OK;
        if (status != SERVERD_OK)
            return status;
    }
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            *wants_help = true;
            return SERVERD_OK;
        }
        serverd_status status = parse_one(command, argc, argv, &i, values, &had_bare, err);
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

static void append_row(struct buffer *out, const struct bench_option *row)
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
    if (row->initial && row->type != BENCH_FLAG)
        buffer_printf(&text, " [default %s]", row->initial);
    append_wrapped(out, buffer_str(&text));
    buffer_deinit(&text);
}

void bench_options_help(const struct bench_command *command, struct buffer *out)
{
    buffer_printf(out, "Usage: serverd-bench %s [OPTION]...\n%s\n\n", command->name,
                  command->summary);
    for (size_t i = 0; i < command->n_options; i++)
        append_row(out, &command->options[i]);
}
