/* Errors of programs as replies. */
#include "frontend_dsl/dsl_json.h"
#include "server/programs/programs_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is refused before it runs; the rest is a run's failure. */
static int status_of(const char *code)
{
    static const struct {
        const char *code;
        int status;
    } rows[] = {{"syntax_error", 400},      {"bad_program", 400},   {"invalid_arguments", 400},
                {"program_not_found", 404}, {"run_not_found", 404}, {"tool_call_not_pending", 409},
                {"source_too_large", 413}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i].code, code) == 0)
            return rows[i].status;
    return 422;
}

static void write_text(struct buffer *out, const char *name, const char *text)
{
    buffer_printf(out, ",\"%s\":", name);
    if (text && *text)
        buffer_append_json_string(out, text, strlen(text));
    else
        buffer_append_str(out, "null");
}

static void write_json(struct buffer *out, const char *name, const json_t *value)
{
    char *text = value ? dsl_json_text(value, NULL) : NULL;
    buffer_printf(out, ",\"%s\":%s", name, text ? text : "null");
    free(text);
}

/* Everything but status and message may be missing. */
struct parts {
    const char *message, *code, *param, *program, *branch, *run;
    int64_t line; /* 0: not known */
    const json_t *traceback, *detail;
};

static void set(struct program_error *e, int status, const struct parts *p)
{
    *e = (struct program_error){.status = status};
    buffer_init(&e->body, LIMIT_DSL_EVENT_BYTES);
    buffer_append_str(&e->body, "{\"error\":{\"message\":\"");
    if (p->line > 0 && p->program) { /* as Lua says where */
        buffer_append_json(&e->body, p->program, strlen(p->program));
        buffer_printf(&e->body, ":%lld: ", (long long)p->line);
    }
    buffer_append_json(&e->body, p->message, strlen(p->message));
    buffer_append_char(&e->body, '"');
    buffer_append_str(&e->body, ",\"type\":\"program_error\"");
    write_text(&e->body, "code", p->code);
    write_text(&e->body, "param", p->param);
    if (p->line > 0)
        buffer_printf(&e->body, ",\"line\":%lld", (long long)p->line);
    else
        buffer_append_str(&e->body, ",\"line\":null");
    write_text(&e->body, "program", p->program);
    write_text(&e->body, "branch", p->branch);
    write_text(&e->body, "run", p->run);
    write_json(&e->body, "detail", p->detail);
    write_json(&e->body, "traceback", p->traceback);
    buffer_append_str(&e->body, "}}");
}

void program_error_set(struct program_error *e, const char *code, const char *param,
                       const char *program, const char *run, const char *format, ...)
{
    char message[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(message, sizeof message, format, args);
    va_end(args);
    set(e, status_of(code),
        &(struct parts){
            .message = message, .code = code, .param = param, .program = program, .run = run});
}

void program_error_from(struct program_error *e, const struct dsl_error *error, const char *program)
{
    set(e, status_of(error->code),
        &(struct parts){.message = error->message,
                        .code = error->code,
                        .param = error->param,
                        .program = *error->program ? error->program : program,
                        .branch = error->branch,
                        .line = error->line,
                        .traceback = error->traceback,
                        .detail = error->detail});
}

static const char *text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

void program_error_of_run(struct program_error *e, const json_t *failure, bool was_refused,
                          const char *program, const char *run)
{
    const char *code = text_of(failure, "code"), *message = text_of(failure, "message"),
               *own = text_of(failure, "program");
    set(e, was_refused && code ? status_of(code) : 422,
        &(struct parts){.message = message ? message : "The run failed.",
                        .code = code,
                        .param = text_of(failure, "param"),
                        .program = own ? own : program,
                        .branch = text_of(failure, "branch"),
                        .run = run,
                        .line = json_integer_value(json_object_get(failure, "line")),
                        .traceback = json_object_get(failure, "traceback"),
                        .detail = json_object_get(failure, "detail")});
}

void program_error_of_server(struct program_error *e, const struct api_error *error)
{
    *e = (struct program_error){.status = error->http_status,
                                .retry_after_ms = error->retry_after_ms};
    buffer_init(&e->body, 16 * KIB);
    api_error_write(error, &e->body);
}

void program_fail(struct exchange *x, struct program_error *e)
{
    x->retry_after_ms = e->retry_after_ms;
    exchange_reply(x, e->status, "application/json", &e->body);
}
