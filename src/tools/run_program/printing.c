#include "tools/run_program/printing.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- pieces ---- */

/* Writing can fail only for a terminal or pipe that is gone; main sees that at the end. */
static void put(FILE *to, const char *text)
{
    for (const char *s = text; *s;) {
        size_t n = 0;
        while (s[n] && ((unsigned char)s[n] >= 0x20 || s[n] == '\n' || s[n] == '\t') &&
               s[n] != 0x7f)
            n++;
        (void)fwrite(s, 1, n, to);
        s += n;
        if (*s) {
            (void)fputc('?', to);
            s++;
        }
    }
}

static void put_value(FILE *to, const json_t *value, size_t flags)
{
    if (json_is_string(value)) {
        put(to, json_string_value(value));
        return;
    }
    char *text = value ? json_dumps(value, flags | JSON_ENCODE_ANY) : NULL;
    put(to, text ? text : "null");
    free(text);
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static long long number_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

/* The log at a line's beginning. */
static FILE *line(struct printer *printer)
{
    if (printer->is_in_line)
        (void)fputc('\n', printer->log);
    printer->is_in_line = false;
    printer->last[0] = '\0';
    return printer->log;
}

/* ---- events ---- */

/* Deltas of one variable are one text; its heading comes once, and again after another's. */
static void print_delta(struct printer *printer, const json_t *data)
{
    char whose[sizeof printer->last];
    const char *delta = text_of(data, "delta");
    (void)snprintf(whose, sizeof whose, "%.100s %.100s", text_of(data, "branch"),
                   text_of(data, "name"));
    if (strcmp(whose, printer->last) != 0) {
        FILE *log = line(printer);
        (void)fputc('[', log);
        put(log, whose);
        (void)fputs("] ", log);
        memcpy(printer->last, whose, sizeof whose);
    }
    put(printer->log, delta);
    printer->is_in_line = true;
}

static void print_log(struct printer *printer, const json_t *data)
{
    FILE *log = line(printer);
    (void)fputs("| ", log);
    put(log, text_of(data, "text"));
    (void)fputc('\n', log);
}

static void print_custom(struct printer *printer, const json_t *data)
{
    FILE *log = line(printer);
    put(log, text_of(data, "name"));
    (void)fputs(": ", log);
    put_value(log, json_object_get(data, "value"), JSON_COMPACT);
    (void)fputc('\n', log);
}

static void print_select(struct printer *printer, const json_t *data)
{
    FILE *log = line(printer);
    (void)fputc('[', log);
    put(log, text_of(data, "branch"));
    (void)fputc(' ', log);
    put(log, text_of(data, "name"));
    (void)fputs("] =", log);
    put(log, text_of(data, "value"));
    (void)fputc('\n', log);
}

static void print_tool_call(struct printer *printer, const json_t *data)
{
    FILE *log = line(printer);
    (void)fputs("tool ", log);
    put(log, text_of(data, "name"));
    put_value(log, json_object_get(data, "arguments"), JSON_COMPACT);
    (void)fputc('\n', log);
}

static const struct event_row {
    const char *name;
    bool is_stream; /* shown with --stream alone */
    void (*print)(struct printer *printer, const json_t *data);
} event_rows[] = {
    {"var.delta", true, print_delta},
    {"select.done", true, print_select},
    {"tool.call", true, print_tool_call},
    {"custom", true, print_custom},
    {"log", false, print_log},
};

void print_event(struct printer *printer, const char *name, const json_t *data)
{
    for (size_t i = 0; i < sizeof event_rows / sizeof *event_rows; i++)
        if (strcmp(event_rows[i].name, name) == 0 &&
            (printer->shows_stream || !event_rows[i].is_stream))
            event_rows[i].print(printer, data);
    (void)fflush(printer->log);
}

void print_event_json(struct printer *printer, const char *name, const json_t *data)
{
    json_t *both = json_pack("{s:s, s:O}", "event", name, "data", data);
    print_json_line(printer, both);
    json_decref(both);
    (void)fflush(printer->out);
}

/* ---- values ---- */

/* A string as it is, but for a terminal, which it might make do things. */
void print_value(struct printer *printer, const json_t *value)
{
    (void)line(printer);
    if (json_is_string(value) && !isatty(fileno(printer->out)))
        (void)fwrite(json_string_value(value), 1, json_string_length(value), printer->out);
    else
        put_value(printer->out, value, JSON_INDENT(2));
    (void)fputc('\n', printer->out);
}

static void dump(struct printer *printer, const json_t *value, size_t flags)
{
    (void)line(printer);
    /* JSON escapes control characters itself */
    if (!value || json_dumpf(value, printer->out, flags | JSON_ENCODE_ANY) != 0)
        (void)fputs("null", printer->out);
    (void)fputc('\n', printer->out);
}

void print_json(struct printer *printer, const json_t *value)
{
    dump(printer, value, JSON_INDENT(2));
}

void print_json_line(struct printer *printer, const json_t *value)
{
    dump(printer, value, JSON_COMPACT);
}

/* ---- trace ---- */

static const struct trace_column {
    const char *title, *key;
    int width; /* negative: text */
} columns[] = {{"op", "op", -8},          {"branch", "branch", -10},   {"line", "line", 5},
               {"name", "name", -14},     {"prompt", "prompt", 7},     {"reused", "reused", 7},
               {"prefill", "prefill", 8}, {"appended", "appended", 9}, {"carry", "carry", 6},
               {"out", "completion", 5},  {"peers", "batch_peers", 6}};

static void print_operation(FILE *log, const json_t *operation)
{
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
        if (columns[i].width < 0) {
            char cell[32];
            (void)snprintf(cell, sizeof cell, "%*.*s", columns[i].width, -columns[i].width,
                           text_of(operation, columns[i].key));
            put(log, cell);
        } else {
            (void)fprintf(log, "%*lld", columns[i].width, number_of(operation, columns[i].key));
        }
        (void)fputc(' ', log);
    }
    (void)fprintf(log, "%9.1f\n", json_number_value(json_object_get(operation, "ms")));
}

void print_trace(struct printer *printer, const json_t *run)
{
    json_t *trace = json_object_get(run, "trace"), *usage = json_object_get(run, "usage");
    const char *key;
    json_t *value, *operation;
    size_t i;
    if (!json_is_array(trace))
        return;
    FILE *log = line(printer);
    for (i = 0; i < sizeof columns / sizeof *columns; i++)
        (void)fprintf(log, "%*s ", columns[i].width, columns[i].title);
    (void)fprintf(log, "%9s\n", "ms");
    json_array_foreach(trace, i, operation) print_operation(log, operation);
    json_object_foreach(usage, key, value)
    {
        if (!json_is_integer(value))
            continue;
        put(log, key);
        (void)fprintf(log, " %lld  ", (long long)json_integer_value(value));
    }
    (void)fputc('\n', log);
}

/* ---- errors ---- */

/* "PROGRAM:LINE: ", unless the message says so itself. */
static void put_place(FILE *log, const json_t *error)
{
    char place[160];
    int n = snprintf(place, sizeof place, "%.100s:%lld: ", text_of(error, "program"),
                     number_of(error, "line"));
    if (*text_of(error, "program") && number_of(error, "line") > 0 && n > 0 &&
        strncmp(text_of(error, "message"), place, (size_t)n) != 0)
        put(log, place);
}

void print_error(struct printer *printer, const char *where, const json_t *error)
{
    FILE *log = line(printer);
    const json_t *frame;
    size_t i;
    if (where) {
        put(log, where);
        (void)fputs(": ", log);
    }
    put_place(log, error);
    put(log, *text_of(error, "message") ? text_of(error, "message") : "an error without a message");
    if (*text_of(error, "code"))
        (void)fprintf(log, " (%.64s)", text_of(error, "code"));
    (void)fputc('\n', log);
    json_array_foreach(json_object_get(error, "traceback"), i, frame)
    {
        (void)fputs("    in ", log);
        put(log, *text_of(frame, "func") ? text_of(frame, "func") : "?");
        (void)fputs(", ", log);
        put(log, text_of(frame, "program"));
        (void)fprintf(log, ":%lld\n", number_of(frame, "line"));
    }
}

/* ---- descriptions ---- */

static bool is_in(const json_t *list, const char *text)
{
    const json_t *item;
    size_t i;
    json_array_foreach(list, i, item) if (json_is_string(item) &&
                                          strcmp(json_string_value(item), text) == 0) return true;
    return false;
}

static void print_arguments(FILE *out, const json_t *schema)
{
    const char *key;
    json_t *declared;
    json_object_foreach(json_object_get(schema, "properties"), key, declared)
    {
        const char *type = text_of(declared, "type");
        (void)fputs("  --arg ", out);
        put(out, key);
        (void)fprintf(out, "=%s", *type ? type : "json");
        if (json_object_get(declared, "default")) {
            (void)fputs(", default ", out);
            put_value(out, json_object_get(declared, "default"), JSON_COMPACT);
        } else if (is_in(json_object_get(schema, "required"), key)) {
            (void)fputs(", required", out);
        }
        if (*text_of(declared, "description")) {
            (void)fputs(": ", out);
            put(out, text_of(declared, "description"));
        }
        (void)fputc('\n', out);
    }
}

static void print_tools(FILE *out, const json_t *tools)
{
    const json_t *tool;
    size_t i;
    json_array_foreach(tools, i, tool)
    {
        bool is_external = json_is_true(json_object_get(tool, "external"));
        (void)fputs("  tool ", out);
        put(out, text_of(tool, "name"));
        if (is_external)
            (void)fputs(", run by the client", out);
        if (*text_of(tool, "doc")) {
            (void)fputs(": ", out);
            put(out, text_of(tool, "doc"));
        }
        (void)fputc('\n', out);
    }
}

void print_description(struct printer *printer, const char *name, const json_t *description)
{
    FILE *out = printer->out;
    put(out, *text_of(description, "name") ? text_of(description, "name") : name);
    if (*text_of(description, "version")) {
        (void)fputc(' ', out);
        put(out, text_of(description, "version"));
    }
    if (*text_of(description, "doc")) {
        (void)fputs(": ", out);
        put(out, text_of(description, "doc"));
    }
    (void)fputc('\n', out);
    print_arguments(out, json_object_get(description, "args_schema"));
    print_tools(out, json_object_get(description, "tools"));
}
