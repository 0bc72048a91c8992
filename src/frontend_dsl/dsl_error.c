#include "frontend_dsl/dsl_error.h"

#include "base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void dsl_error_init(struct dsl_error *err)
{
    *err = (struct dsl_error){0};
}

void dsl_error_deinit(struct dsl_error *err)
{
    json_decref(err->traceback);
    json_decref(err->detail);
    *err = (struct dsl_error){0};
}

void dsl_error_set(struct dsl_error *err, const char *code, const char *format, ...)
{
    char text[DSL_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    dsl_error_deinit(err);
    snprintf(err->code, sizeof err->code, "%s", code);
    size_t length = n < 0 ? 0 : strlen(text);
    if (n >= (int)sizeof text) /* cut: not within a character */
        length = utf8_valid_run(text, length);
    memcpy(err->message, text, length);
    err->message[length] = '\0';
}

void dsl_error_move(struct dsl_error *to, struct dsl_error *from)
{
    dsl_error_deinit(to);
    *to = *from;
    *from = (struct dsl_error){0};
}

void dsl_error_copy(struct dsl_error *to, const struct dsl_error *from)
{
    struct dsl_error copy = *from;
    copy.traceback = json_incref(from->traceback);
    copy.detail = json_incref(from->detail);
    dsl_error_move(to, &copy);
}

void dsl_error_text(const struct dsl_error *err, char *out, size_t size)
{
    int n;
    if (err->program[0] != '\0' && err->line > 0)
        n = snprintf(out, size, "%s:%d: %s", err->program, err->line, err->message);
    else if (err->program[0] != '\0')
        n = snprintf(out, size, "%s: %s", err->program, err->message);
    else
        n = snprintf(out, size, "%s", err->message);
    if (n >= 0 && (size_t)n >= size)
        out[utf8_valid_run(out, strlen(out))] = '\0';
}

static json_t *text_or_null(const char *text)
{
    return text[0] != '\0' ? json_string(text) : json_null();
}

json_t *dsl_error_json(const struct dsl_error *err)
{
    char text[DSL_NAME_BYTES + 16 + DSL_MESSAGE_BYTES];
    dsl_error_text(err, text, sizeof text);
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:O?, s:O?}", "message", text, "type",
                     "program_error", "code", err->code, "param", text_or_null(err->param), "line",
                     err->line > 0 ? json_integer(err->line) : json_null(), "program",
                     text_or_null(err->program), "branch", text_or_null(err->branch), "detail",
                     err->detail, "traceback", err->traceback);
}
