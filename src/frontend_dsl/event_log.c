#include "frontend_dsl/event_log.h"

#include "base/limits.h"
#include "base/numeric.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define FRAME_BYTES 64u /* beside name and data: "id: ", "event: ", "data: ", ends of lines */

void event_log_init(struct event_log *log)
{
    *log = (struct event_log){0};
    buffer_init(&log->frames, SIZE_MAX / 2); /* event_log_add knows the bound */
}

void event_log_deinit(struct event_log *log)
{
    buffer_deinit(&log->frames);
    free(log->starts);
    *log = (struct event_log){0};
}

static bool reserve_start(struct event_log *log)
{
    if (log->n < log->cap)
        return true;
    size_t cap = max_size(16, (size_t)log->cap * 2), bytes;
    size_t *bigger = size_mul(cap, sizeof *bigger, &bytes) ? realloc(log->starts, bytes) : NULL;
    if (!bigger)
        return false;
    log->starts = bigger;
    log->cap = cap;
    return true;
}

bool event_log_add(struct event_log *log, const char *name, const char *data, size_t n,
                   bool is_last)
{
    const size_t len = log->frames.len;
    if (!is_last && n + strlen(name) + FRAME_BYTES >
                        LIMIT_DSL_EVENT_BYTES - min_size(len, LIMIT_DSL_EVENT_BYTES))
        return false;
    if (log->frames.is_failed || !reserve_start(log))
        return false;
    buffer_printf(&log->frames, "id: %" PRIu64 "\nevent: %s\ndata: ", log->n, name);
    buffer_append(&log->frames, data, n);
    buffer_append_str(&log->frames, "\n\n");
    if (log->frames.is_failed) { /* what stands there stays readable */
        log->frames.len = len;
        return false;
    }
    log->starts[log->n++] = len;
    return true;
}

size_t event_log_start(const struct event_log *log, uint64_t seq)
{
    return seq < log->n ? log->starts[seq] : log->frames.len;
}
