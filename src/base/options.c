#include "base/options.h"

#include "base/error.h"
#include "base/hint.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "base/options_internal.h"

#include <stdlib.h>
#include <string.h>

const struct option_row option_rows[N_OPTIONS] = {
#define OPTION_STRING(field, n, d, meta, g, h)                                                     \
    {.name = n,                                                                                    \
     .metavar = meta,                                                                              \
     .help = h,                                                                                    \
     .type = TYPE_STRING,                                                                          \
     .group = GROUP_##g,                                                                           \
     .offset = offsetof(struct options, field),                                                    \
     .initial = {.s = d}},
#define OPTION_INT(field, n, d, lo, hi, meta, g, h)                                                \
    {.name = n,                                                                                    \
     .metavar = meta,                                                                              \
     .help = h,                                                                                    \
     .type = TYPE_INT,                                                                             \
     .group = GROUP_##g,                                                                           \
     .offset = offsetof(struct options, field),                                                    \
     .initial = {.i = d},                                                                          \
     .min = {.i = lo},                                                                             \
     .max = {.i = hi}},
#define OPTION_FLOAT(field, n, d, lo, hi, meta, g, h)                                              \
    {.name = n,                                                                                    \
     .metavar = meta,                                                                              \
     .help = h,                                                                                    \
     .type = TYPE_FLOAT,                                                                           \
     .group = GROUP_##g,                                                                           \
     .offset = offsetof(struct options, field),                                                    \
     .initial = {.f = d},                                                                          \
     .min = {.f = lo},                                                                             \
     .max = {.f = hi}},
#define OPTION_SIZE(field, n, d, lo, hi, g, h)                                                     \
    {.name = n,                                                                                    \
     .metavar = "SIZE",                                                                            \
     .help = h,                                                                                    \
     .type = TYPE_SIZE,                                                                            \
     .group = GROUP_##g,                                                                           \
     .offset = offsetof(struct options, field),                                                    \
     .initial = {.u = d},                                                                          \
     .min = {.u = lo},                                                                             \
     .max = {.u = hi}},
#define OPTION_BOOL(field, n, d, g, h)                                                             \
    {.name = n,                                                                                    \
     .help = h,                                                                                    \
     .type = TYPE_BOOL,                                                                            \
     .group = GROUP_##g,                                                                           \
     .offset = offsetof(struct options, field),                                                    \
     .initial = {.b = d}},
#define OPTION_ENUM(field, n, d, c, g, h)                                                          \
    {.name = n,                                                                                    \
     .metavar = c,                                                                                 \
     .help = h,                                                                                    \
     .choices = c,                                                                                 \
     .type = TYPE_ENUM,                                                                            \
     .group = GROUP_##g,                                                                           \
     .offset = offsetof(struct options, field),                                                    \
     .initial = {.i = d}},
#include "base/options.def"
#undef OPTION_STRING
#undef OPTION_INT
#undef OPTION_FLOAT
#undef OPTION_SIZE
#undef OPTION_BOOL
#undef OPTION_ENUM
};

const struct option_command option_commands[N_OPTION_COMMANDS] = {
    {"help", "Show this text", OPTIONS_HELP},
    {"version", "Show the version", OPTIONS_VERSION},
    {"print-config", "Print a configuration file with every option explained", OPTIONS_YAML},
    {"print-man", "Print the manual page", OPTIONS_MAN},
    {"print-completion", "Print the completion for bash", OPTIONS_BASH_COMPLETION},
};

const struct option_letter option_letters[N_OPTION_LETTERS] = {
    {'h', "help"},
    {'m', "model-path"},
};

/* Variables in our name space that are not options: those of the scripts, and those that
 * Kubernetes makes for a service called "serverd". A trailing * stands for any rest. */
static const char *const foreign_variables[] = {
    "SERVERD_TEST_MODELS",
    "SERVERD_BUILD_DIR",
    "SERVERD_SERVICE_*",
    "SERVERD_PORT_*",
};

_Static_assert(N_OPTIONS <= sizeof((struct options *)0)->source, "struct options: enlarge source");

/* ---- names and hints ---- */

static const struct option_row *find_row(const char *name)
{
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (same_name(option_rows[i].name, name))
            return &option_rows[i];
    return NULL;
}

static serverd_status fail_unknown(const char *name, bool is_command_line, serverd_error *err)
{
    struct hint hint = hint_for(name);
    for (size_t i = 0; i < N_OPTIONS; i++)
        hint_consider(&hint, option_rows[i].name, strlen(option_rows[i].name));
    for (size_t i = 0; is_command_line && i < N_OPTION_COMMANDS; i++)
        hint_consider(&hint, option_commands[i].name, strlen(option_commands[i].name));
    const char *dashes = is_command_line ? "--" : "";
    if (hint.best)
        return fail(err, SERVERD_INVALID, "unknown option %s%.100s; did you mean %s%.*s?", dashes,
                    name, dashes, (int)hint.n_best, hint.best);
    return fail(err, SERVERD_INVALID, "unknown option %s%.100s; --help lists all", dashes, name);
}

char option_letter(const char *name)
{
    for (size_t i = 0; i < N_OPTION_LETTERS; i++)
        if (strcmp(option_letters[i].name, name) == 0)
            return option_letters[i].letter;
    return 0;
}

/* ---- values as text ---- */

static void append_size(struct buffer *out, uint64_t bytes)
{
    static const char *const units[] = {"", "KiB", "MiB", "GiB", "TiB"};
    unsigned unit = 0;
    while (unit < 4 && bytes > 0 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    buffer_printf(out, "%llu%s", (unsigned long long)bytes, units[unit]);
}

/* 60 rather than 60.0. */
static void append_float(struct buffer *out, double x)
{
    if (x >= -1e15 && x <= 1e15 && (double)(int64_t)x == x)
        buffer_printf(out, "%lld", (long long)x);
    else
        buffer_append_f64(out, x);
}

/* The choice with the index, n bytes long; NULL past the last one. */
static const char *choice_at(const char *choices, int64_t index, size_t *n)
{
    for (const char *s = choices;; s++) {
        *n = strcspn(s, "|");
        if (index-- == 0)
            return s;
        s += *n;
        if (*s == '\0')
            return NULL;
    }
}

void option_append_value(struct buffer *out, const struct option_row *row, union option_value value)
{
    size_t n;
    const char *choice;
    switch (row->type) {
    case TYPE_STRING:
        buffer_append_str(out, value.s ? value.s : "");
        break;
    case TYPE_INT:
        buffer_printf(out, "%lld", (long long)value.i);
        break;
    case TYPE_FLOAT:
        append_float(out, value.f);
        break;
    case TYPE_SIZE:
        append_size(out, value.u);
        break;
    case TYPE_BOOL:
        buffer_append_str(out, value.b ? "true" : "false");
        break;
    case TYPE_ENUM:
        choice = choice_at(row->choices, value.i, &n);
        buffer_append(out, choice ? choice : "", choice ? n : 0);
        break;
    }
}

/* ---- text to value ---- */

static bool parse_bool(const char *text, bool *out)
{
    static const char *const words[][2] = {
        {"false", "true"}, {"no", "yes"}, {"off", "on"}, {"0", "1"}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        for (int k = 0; k < 2; k++) {
            if (strcmp(text, words[i][k]) == 0) {
                *out = k == 1;
                return true;
            }
        }
    }
    return false;
}

static bool has_control(const char *text)
{
    for (const char *s = text; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return true;
    return false;
}

static serverd_status check_string(const struct option_row *row, const char *text,
                                   serverd_error *err)
{
    size_t n = strlen(text);
    if (n == 0 && row->initial.s)
        return fail(err, SERVERD_INVALID, "--%s: may not be empty", row->name);
    if (n > LIMIT_OPTION_BYTES)
        return fail(err, SERVERD_INVALID, "--%s: %zu bytes, at most %zu allowed", row->name, n,
                    LIMIT_OPTION_BYTES);
    if (has_control(text))
        return fail(err, SERVERD_INVALID, "--%s: contains a control character", row->name);
    return SERVERD_OK;
}

static serverd_status parse_choice(const struct option_row *row, const char *text, int64_t *out,
                                   serverd_error *err)
{
    struct hint hint = hint_for(text);
    size_t n;
    const char *choice;
    for (int64_t i = 0; (choice = choice_at(row->choices, i, &n)); i++) {
        if (strlen(text) == n && memcmp(text, choice, n) == 0) {
            *out = i;
            return SERVERD_OK;
        }
        hint_consider(&hint, choice, n);
    }
    if (hint.best)
        return fail(err, SERVERD_INVALID, "--%s: \"%.100s\" is not one of %s; did you mean %.*s?",
                    row->name, text, row->choices, (int)hint.n_best, hint.best);
    return fail(err, SERVERD_INVALID, "--%s: \"%.100s\" is not one of %s", row->name, text,
                row->choices);
}

/* "a whole number from 1 to 4096": what the option takes. */
static serverd_status fail_range(const struct option_row *row, const char *text, const char *what,
                                 serverd_error *err)
{
    struct buffer range;
    buffer_init(&range, 128);
    option_append_value(&range, row, row->min);
    buffer_append_str(&range, " to ");
    option_append_value(&range, row, row->max);
    serverd_status status = fail(err, SERVERD_INVALID, "--%s: \"%.100s\" is not %s from %s",
                                 row->name, text, what, buffer_str(&range));
    buffer_deinit(&range);
    return status;
}

static serverd_status parse_value(const struct option_row *row, const char *text,
                                  union option_value *out, serverd_error *err)
{
    switch (row->type) {
    case TYPE_STRING:
        out->s = text;
        return check_string(row, text, err);
    case TYPE_INT:
        if (!parse_i64(text, row->min.i, row->max.i, &out->i))
            return fail_range(row, text, "a whole number", err);
        return SERVERD_OK;
    case TYPE_FLOAT:
        if (!parse_f64(text, &out->f) || out->f < row->min.f || out->f > row->max.f)
            return fail_range(row, text, "a number", err);
        return SERVERD_OK;
    case TYPE_SIZE:
        if (!parse_size(text, &out->u) || out->u < row->min.u || out->u > row->max.u)
            return fail_range(row, text, "a size such as 512MiB or 4G,", err);
        return SERVERD_OK;
    case TYPE_BOOL:
        if (!parse_bool(text, &out->b))
            return fail(err, SERVERD_INVALID, "--%s: \"%.100s\" is not true or false", row->name,
                        text);
        return SERVERD_OK;
    case TYPE_ENUM:
        return parse_choice(row, text, &out->i, err);
    }
    return fail(err, SERVERD_INTERNAL, "--%s: a type that is not known", row->name);
}

/* ---- the struct ---- */

static void *field_of(const struct options *options, const struct option_row *row)
{
    return (char *)(uintptr_t)options + row->offset;
}

/* Strings are copied; "" means none. */
static serverd_status store(struct options *options, const struct option_row *row,
                            union option_value value, serverd_error *err)
{
    void *field = field_of(options, row);
    char *copy = NULL;
    switch (row->type) {
    case TYPE_STRING:
        if (value.s && value.s[0] && !(copy = strdup(value.s)))
            return fail(err, SERVERD_NOMEM, "--%s: no memory for its value", row->name);
        free(*(char **)field);
        *(char **)field = copy;
        break;
    case TYPE_INT:
        *(int64_t *)field = value.i;
        break;
    case TYPE_FLOAT:
        *(double *)field = value.f;
        break;
    case TYPE_SIZE:
        *(uint64_t *)field = value.u;
        break;
    case TYPE_BOOL:
        *(bool *)field = value.b;
        break;
    case TYPE_ENUM:
        *(int *)field = (int)value.i;
        break;
    }
    return SERVERD_OK;
}

static union option_value value_of(const struct options *options, const struct option_row *row)
{
    const void *field = field_of(options, row);
    switch (row->type) {
    case TYPE_STRING:
        return (union option_value){.s = *(char *const *)field};
    case TYPE_INT:
        return (union option_value){.i = *(const int64_t *)field};
    case TYPE_FLOAT:
        return (union option_value){.f = *(const double *)field};
    case TYPE_SIZE:
        return (union option_value){.u = *(const uint64_t *)field};
    case TYPE_BOOL:
        return (union option_value){.b = *(const bool *)field};
    case TYPE_ENUM:
        break;
    }
    return (union option_value){.i = *(const int *)field};
}

serverd_status options_init(struct options *options, serverd_error *err)
{
    *options = (struct options){0};
    for (size_t i = 0; i < N_OPTIONS; i++) {
        serverd_status status = store(options, &option_rows[i], option_rows[i].initial, err);
        if (status != SERVERD_OK) {
            options_deinit(options);
            return status;
        }
    }
    return SERVERD_OK;
}

void options_deinit(struct options *options)
{
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (option_rows[i].type == TYPE_STRING)
            free(*(char **)field_of(options, &option_rows[i]));
    *options = (struct options){0};
}

static serverd_status set_row(struct options *options, const struct option_row *row,
                              const char *text, enum option_source source, serverd_error *err)
{
    union option_value value;
    serverd_status status = parse_value(row, text, &value, err);
    uint8_t *present = &options->source[row - option_rows];
    if (status != SERVERD_OK || source < *present)
        return status;
    status = store(options, row, value, err);
    if (status == SERVERD_OK)
        *present = (uint8_t)source;
    return status;
}

serverd_status options_set(struct options *options, const char *name, const char *text,
                           enum option_source source, serverd_error *err)
{
    const struct option_row *row = find_row(name);
    if (!row)
        return fail_unknown(name, source == OPTION_COMMAND_LINE, err);
    return set_row(options, row, text, source, err);
}

/* ---- the command line ---- */

struct args {
    struct options *options;
    int argc, i; /* argv[i] is the present argument */
    char *const *argv;
    enum options_request request;
    bool has_bare; /* a bare argument was seen */
};

static bool find_command(const char *name, enum options_request *request)
{
    for (size_t i = 0; i < N_OPTION_COMMANDS; i++) {
        if (same_name(option_commands[i].name, name)) {
            *request = option_commands[i].request;
            return true;
        }
    }
    return false;
}

/* The row of --no-NAME for a boolean NAME. */
static const struct option_row *find_negated(const char *name)
{
    bool is_negated = strncmp(name, "no", 2) == 0 && (name[2] == '-' || name[2] == '_');
    const struct option_row *row = is_negated ? find_row(name + 3) : NULL;
    return row && row->type == TYPE_BOOL ? row : NULL;
}

/* The next argument, unless it looks like an option: that is a forgotten value. */
static serverd_status take_value(struct args *args, const struct option_row *row,
                                 const char **value, serverd_error *err)
{
    const char *next = args->i + 1 < args->argc ? args->argv[args->i + 1] : NULL;
    if (!next)
        return fail(err, SERVERD_INVALID, "--%s: needs a value: %s", row->name,
                    row->choices ? row->choices : row->metavar);
    if (strncmp(next, "--", 2) == 0)
        return fail(err, SERVERD_INVALID,
                    "--%s: needs a value, found %.100s; one that begins with -- is written "
                    "--%s=VALUE",
                    row->name, next, row->name);
    args->i++;
    *value = next;
    return SERVERD_OK;
}

/* --name or --name=value; `value` is NULL without "=". */
static serverd_status parse_long(struct args *args, const char *name, const char *value,
                                 serverd_error *err)
{
    const struct option_row *row = find_row(name), *negated = row ? NULL : find_negated(name);
    if (!row && !negated) {
        if (!find_command(name, &args->request))
            return fail_unknown(name, true, err);
        if (value)
            return fail(err, SERVERD_INVALID, "--%.100s: takes no value", name);
        return SERVERD_OK;
    }
    if (negated && value)
        return fail(err, SERVERD_INVALID, "--no-%s: takes no value", negated->name);
    if (negated)
        return set_row(args->options, negated, "false", OPTION_COMMAND_LINE, err);
    if (!value && row->type == TYPE_BOOL)
        value = "true";
    if (!value) {
        serverd_status status = take_value(args, row, &value, err);
        if (status != SERVERD_OK)
            return status;
    }
    return set_row(args->options, row, value, OPTION_COMMAND_LINE, err);
}

static serverd_status parse_letter(struct args *args, const char *arg, serverd_error *err)
{
    for (size_t i = 0; i < N_OPTION_LETTERS; i++)
        if (arg[1] == option_letters[i].letter && arg[2] == '\0')
            return parse_long(args, option_letters[i].name, NULL, err);
    return fail(err, SERVERD_INVALID, "unknown option %.100s; --help lists all", arg);
}

static serverd_status parse_bare(struct args *args, const char *arg, serverd_error *err)
{
    if (args->has_bare)
        return fail(err, SERVERD_INVALID,
                    "unexpected argument \"%.100s\": the model is already \"%.100s\"", arg,
                    args->options->model_path);
    if (arg[0] == '\0')
        return fail(err, SERVERD_INVALID, "empty argument; expected a model file");
    args->has_bare = true;
    return options_set(args->options, "model-path", arg, OPTION_COMMAND_LINE, err);
}

static serverd_status parse_arg(struct args *args, const char *arg, serverd_error *err)
{
    if (arg[0] != '-' || arg[1] == '\0')
        return parse_bare(args, arg, err);
    if (arg[1] != '-')
        return parse_letter(args, arg, err);
    const char *equals = strchr(arg, '=');
    if (!equals)
        return parse_long(args, arg + 2, NULL, err);
    char *name = strndup(arg + 2, (size_t)(equals - arg - 2));
    if (!name)
        return fail(err, SERVERD_NOMEM, "no memory for an argument");
    serverd_status status = parse_long(args, name, equals + 1, err);
    free(name);
    return status;
}

serverd_status options_parse_args(struct options *options, int argc, char *const *argv,
                                  enum options_request *request, serverd_error *err)
{
    struct args args = {.options = options, .argc = argc, .argv = argv};
    bool is_bare = false; /* behind "--" */
    for (args.i = 1; args.i < argc && args.request == OPTIONS_RUN; args.i++) {
        const char *arg = argv[args.i];
        if (!is_bare && strcmp(arg, "--") == 0) {
            is_bare = true;
            continue;
        }
        serverd_status status = is_bare ? parse_bare(&args, arg, err) : parse_arg(&args, arg, err);
        if (status != SERVERD_OK)
            return status;
    }
    *request = args.request;
    return SERVERD_OK;
}

/* ---- the environment ---- */

static bool is_foreign(const char *variable, const char *value)
{
    if (strcmp(variable, "SERVERD_PORT") == 0 && strncmp(value, "tcp://", 6) == 0)
        return true; /* Kubernetes again */
    for (size_t i = 0; i < sizeof foreign_variables / sizeof foreign_variables[0]; i++) {
        const char *known = foreign_variables[i];
        size_t n = strcspn(known, "*");
        if (known[n] ? strncmp(variable, known, n) == 0 : strcmp(variable, known) == 0)
            return true;
    }
    return false;
}

/* "ctx_size" of SERVERD_CTX_SIZE; lower-case letters in a variable are another variable. */
static void name_of_variable(const char *variable, struct buffer *out)
{
    for (const char *s = variable + strlen("SERVERD_"); *s; s++) {
        bool is_upper = *s >= 'A' && *s <= 'Z', is_lower = *s >= 'a' && *s <= 'z';
        buffer_append_char(out, is_upper ? (char)(*s - 'A' + 'a') : is_lower ? '?' : *s);
    }
}

static serverd_status set_from_variable(struct options *options, const char *variable,
                                        const char *value, serverd_error *err)
{
    struct buffer name;
    buffer_init(&name, LIMIT_OPTION_BYTES);
    name_of_variable(variable, &name);
    serverd_status status =
        name.is_failed ? fail(err, SERVERD_INVALID, "name too long")
                       : options_set(options, buffer_str(&name), value, OPTION_ENVIRONMENT, err);
    buffer_deinit(&name);
    return status == SERVERD_OK ? status
                                : error_context(err, "environment variable %.100s", variable);
}

serverd_status options_parse_env(struct options *options, char *const *environment,
                                 serverd_error *err)
{
    for (; environment && *environment; environment++) {
        const char *equals = strchr(*environment, '=');
        if (!equals || strncmp(*environment, "SERVERD_", 8) != 0)
            continue;
        char *variable = strndup(*environment, (size_t)(equals - *environment));
        if (!variable)
            return fail(err, SERVERD_NOMEM, "no memory for an environment variable");
        serverd_status status = SERVERD_OK;
        if (!is_foreign(variable, equals + 1))
            status = set_from_variable(options, variable, equals + 1, err);
        free(variable);
        if (status != SERVERD_OK)
            return status;
    }
    return SERVERD_OK;
}

static const char *source_name(const struct options *options, size_t i)
{
    static const char *const names[] = {"default", "file", "environment", "command line"};
    return names[options->source[i] & 3];
}

static void append_json_string(struct buffer *out, const char *text, size_t n)
{
    buffer_append_char(out, '"');
    buffer_append_json(out, text, n);
    buffer_append_char(out, '"');
}

static void append_json_value(struct buffer *out, const struct option_row *row,
                              union option_value value)
{
    struct buffer text;
    switch (row->type) {
    case TYPE_STRING:
        if (value.s)
            append_json_string(out, value.s, strlen(value.s));
        else
            buffer_append_str(out, "null");
        return;
    case TYPE_INT:
        buffer_printf(out, "%lld", (long long)value.i);
        return;
    case TYPE_FLOAT:
        buffer_append_f64(out, value.f);
        return;
    case TYPE_SIZE:
        buffer_append_u64(out, value.u);
        return;
    case TYPE_BOOL:
        buffer_append_str(out, value.b ? "true" : "false");
        return;
    case TYPE_ENUM:
        buffer_init(&text, LIMIT_OPTION_BYTES);
        option_append_value(&text, row, value);
        append_json_string(out, buffer_str(&text), text.len);
        buffer_deinit(&text);
    }
}

void options_write_json(const struct options *options, struct buffer *out)
{
    buffer_append_char(out, '{');
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option_row *row = &option_rows[i];
        buffer_printf(out, "%s\"%s\":{\"value\":", i ? "," : "", row->name);
        append_json_value(out, row, value_of(options, row));
        buffer_printf(out, ",\"reason\":\"%s\"}", source_name(options, i));
    }
    buffer_append_char(out, '}');
}
