#include "tools/sse.h"

#include "base/error.h"

#include <string.h>

void sse_init(struct sse_parser *parser, size_t limit,
              void (*on_event)(void *context, const char *data, size_t n), void *context)
{
    *parser = (struct sse_parser){.on_event = on_event, .context = context};
    buffer_init(&parser->line, limit);
    buffer_init(&parser->data, limit);
    buffer_init(&parser->name, limit);
}

void sse_deinit(struct sse_parser *parser)
{
    buffer_deinit(&parser->line);
    buffer_deinit(&parser->data);
    buffer_deinit(&parser->name);
}

static serverd_status check(const struct buffer *buffer, serverd_error *err)
{
    if (!buffer->is_failed)
        return SERVERD_OK;
    return fail(err, SERVERD_INVALID, "event stream: more than %zu bytes in one event",
                buffer->limit);
}

static void end_event(struct sse_parser *parser)
{
    if (parser->has_data)
        parser->on_event(parser->context, buffer_str(&parser->data), parser->data.len);
    buffer_reset(&parser->data);
    buffer_reset(&parser->name);
    parser->has_data = false;
}

/* The value of line[0..n-1] if its field is `field`: where it begins, else 0. */
static size_t value_of(const char *line, size_t n, const char *field)
{
    size_t n_field = strlen(field);
    if (n <= n_field || memcmp(line, field, n_field) != 0 || line[n_field] != ':')
        return 0;
    return n_field + 1 + (n > n_field + 1 && line[n_field + 1] == ' ');
}

static serverd_status end_line(struct sse_parser *parser, serverd_error *err)
{
    const char *line = buffer_str(&parser->line);
    size_t n = parser->line.len, skip;
    if (n == 0) {
        end_event(parser);
    } else if ((skip = value_of(line, n, "event"))) {
        buffer_reset(&parser->name);
        buffer_append(&parser->name, line + skip, n - skip);
    } else if ((skip = value_of(line, n, "data"))) {
        if (parser->has_data)
            buffer_append_char(&parser->data, '\n');
        buffer_append(&parser->data, line + skip, n - skip);
        parser->has_data = true;
    }
    buffer_reset(&parser->line);
    return check(&parser->data, err);
}

serverd_status sse_push(struct sse_parser *parser, const char *bytes, size_t n, serverd_error *err)
{
    const char *end = bytes + n;
    serverd_status status = SERVERD_OK;
    while (bytes < end && status == SERVERD_OK) {
        if (parser->is_after_cr && *bytes == '\n')
            bytes++;
        parser->is_after_cr = false;
        const char *stop = bytes;
        while (stop < end && *stop != '\n' && *stop != '\r')
            stop++;
        buffer_append(&parser->line, bytes, (size_t)(stop - bytes));
        status = check(&parser->line, err);
        bytes = stop;
        if (stop == end || status != SERVERD_OK)
            break;
        parser->is_after_cr = *stop == '\r';
        bytes++;
        status = end_line(parser, err);
    }
    return status;
}

serverd_status sse_end(struct sse_parser *parser, serverd_error *err)
{
    serverd_status status = parser->line.len > 0 ? end_line(parser, err) : SERVERD_OK;
    if (status == SERVERD_OK)
        end_event(parser);
    return status;
}
