#include "tools/trace_file.h"

#include "base/error.h"
#include "base/limits.h"
#include "server/trace_json.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

struct trace_file {
    const char *path, *model;
    struct event_sink next;
    _Atomic(struct inspection *) trace; /* has come; NULL: not yet, or is written */
};

serverd_status trace_file_create(const char *path, struct event_sink next, struct trace_file **out,
                                 serverd_error *err)
{
    struct trace_file *file = calloc(1, sizeof *file);
    if (!file)
        return fail(err, SERVERD_NOMEM, "trace: no memory");
    file->path = path;
    file->next = next;
    atomic_init(&file->trace, NULL);
    *out = file;
    return SERVERD_OK;
}

void trace_file_destroy(struct trace_file *file)
{
    if (file)
        inspection_destroy(atomic_load(&file->trace));
    free(file);
}

/* Engine thread. */
static void deliver(void *context, const struct event *events, uint32_t n)
{
    struct trace_file *file = context;
    uint32_t first = 0; /* that has not been handed on */
    for (uint32_t i = 0; i <= n; i++) {
        if (i < n && events[i].user != file)
            continue;
        if (i > first)
            file->next.deliver(file->next.context, events + first, i - first);
        first = i + 1;
        if (i == n)
            break;
        free(events[i].message);
        inspection_destroy(atomic_exchange(&file->trace, events[i].inspection));
    }
}

static void expect(void *context)
{
    const struct event_sink *next = &((struct trace_file *)context)->next;
    if (next->expect)
        next->expect(next->context);
}

struct event_sink trace_file_sink(struct trace_file *file)
{
    return (struct event_sink){.deliver = deliver, .expect = expect, .context = file};
}

serverd_status trace_file_start(struct trace_file *file, struct engine *engine, const char *model,
                                uint32_t n_steps, serverd_error *err)
{
    const struct inspection_options options = {.kind = INSPECT_STEPS,
                                               .user = file,
                                               .max_steps = n_steps,
                                               .duration_ns = UINT64_MAX,
                                               .max_events = LIMIT_TRACE_ALL_EVENTS};
    uint64_t id;
    file->model = model;
    serverd_status status = engine_inspect(engine, &options, &id, err);
    return status == SERVERD_OK ? status : error_context(err, "trace");
}

static serverd_status write_text(const char *path, const struct buffer *text, serverd_error *err)
{
    if (text->is_failed)
        return fail(err, SERVERD_NOMEM, "%s: no memory for the text", path);
    FILE *to = fopen(path, "we");
    bool is_written = to && fwrite(buffer_str(text), 1, text->len, to) == text->len;
    if (to)
        is_written = fclose(to) == 0 && is_written;
    return is_written ? SERVERD_OK : fail(err, SERVERD_INVALID, "%s: cannot be written: %m", path);
}

bool trace_file_write(struct trace_file *file, struct log *log)
{
    struct inspection *trace = file ? atomic_exchange(&file->trace, NULL) : NULL;
    if (!trace)
        return false;
    struct buffer text;
    serverd_error err;
    buffer_init(&text, SIZE_MAX / 2);
    trace_json_write(trace, file->model, &text);
    if (write_text(file->path, &text, &err) == SERVERD_OK)
        log_info(log, "trace", "%s: %u steps, %zu KiB", file->path, trace->n_steps, text.len / KIB);
    else
        log_error(log, "trace", "%s", err.text);
    buffer_deinit(&text);
    inspection_destroy(trace);
    return true;
}
