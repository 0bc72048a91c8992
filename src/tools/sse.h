/* Server-sent events from a stream of bytes that is cut anywhere: lines end with LF, CRLF or CR,
 * an event with an empty line; its `data:` lines are joined with LF, `event:` names it. Comments
 * and other fields are skipped. */
#ifndef TOOLS_SSE_H
#define TOOLS_SSE_H

#include "base/buffer.h"
#include "serverd/status.h"

struct sse_parser {
    struct buffer line, data, name; /* of the event that is being read */
    bool is_after_cr, has_data;
    void (*on_event)(void *context, const char *data, size_t n);
    void *context;
};

/* No line and no event may be longer than `limit` bytes. */
void sse_init(struct sse_parser *parser, size_t limit,
              void (*on_event)(void *context, const char *data, size_t n), void *context);
void sse_deinit(struct sse_parser *parser);

/* Calls on_event for every event that ends in these bytes. SERVERD_INVALID: one is too long. */
serverd_status sse_push(struct sse_parser *parser, const char *bytes, size_t n, serverd_error *err);

/* The stream has ended: an event whose empty line is missing counts, too. */
serverd_status sse_end(struct sse_parser *parser, serverd_error *err);

#endif
