#include "server/data/batch_lines.h"

#include "base/error.h"
#include "base/numeric.h"
#include "server/request/json_body.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES (64 * KIB)

/* ---- lines -------------------------------------------------------------------------------------
 */

serverd_status line_reader_init(struct line_reader *reader, struct file *file, size_t max_line,
                                serverd_error *err)
{
    *reader = (struct line_reader){.file.fd = -1, .max_line = max_line};
    reader->block = malloc(BLOCK_BYTES);
    if (!reader->block)
        return fail(err, SERVERD_NOMEM, "a batch's lines: no memory");
    reader->file = *file;
    file->fd = -1;
    buffer_init(&reader->text, max_line + 1);
    return SERVERD_OK;
}

void line_reader_deinit(struct line_reader *reader)
{
    file_close(&reader->file);
    free(reader->block);
    buffer_deinit(&reader->text);
    *reader = (struct line_reader){.file.fd = -1};
}

void line_reader_rewind(struct line_reader *reader)
{
    reader->offset = reader->at = reader->n = 0;
    reader->n_lines = 0;
}

static serverd_status read_block(struct line_reader *reader, serverd_error *err)
{
    const uint64_t left = reader->file.bytes - reader->offset;
    const size_t n = left < BLOCK_BYTES ? (size_t)left : BLOCK_BYTES;
    serverd_status status = file_read_at(&reader->file, reader->offset, reader->block, n, err);
    if (status != SERVERD_OK)
        return status;
    reader->offset += n;
    reader->at = 0;
    reader->n = n;
    return SERVERD_OK;
}

/* Up to the newline, or the end of the file. */
static serverd_status read_line(struct line_reader *reader, struct batch_line *line,
                                serverd_error *err)
{
    *line = (struct batch_line){.number = ++reader->n_lines,
                                .offset = reader->offset - (reader->n - reader->at)};
    buffer_reset(&reader->text);
    for (bool has_ended = false; !has_ended;) {
        if (reader->at == reader->n) {
            if (reader->offset == reader->file.bytes)
                break;
            if (read_block(reader, err))
                return err->code;
        }
        const char *from = reader->block + reader->at;
        const size_t left = reader->n - reader->at;
        const char *newline = memchr(from, '\n', left);
        const size_t n = newline ? (size_t)(newline - from) : left;
        has_ended = newline != NULL;
        reader->at += n + has_ended;
        if (n > reader->max_line - min_size(reader->max_line, reader->text.len))
            line->is_too_long = true;
        if (!line->is_too_long)
            buffer_append(&reader->text, from, n);
    }
    if (reader->text.is_failed)
        return fail(err, SERVERD_NOMEM, "a batch's line: no memory");
    if (!line->is_too_long) {
        line->text = buffer_str(&reader->text);
        line->n = reader->text.len;
    }
    return SERVERD_OK;
}

static bool is_blank(const struct batch_line *line)
{
    return !line->is_too_long && strspn(line->text, " \t\r") == line->n;
}

serverd_status line_reader_next(struct line_reader *reader, struct batch_line *line, bool *is_end,
                                serverd_error *err)
{
    for (;;) {
        *is_end = reader->at == reader->n && reader->offset == reader->file.bytes;
        if (*is_end)
            return SERVERD_OK;
        if (read_line(reader, line, err))
            return err->code;
        if (!is_blank(line))
            return SERVERD_OK;
    }
}

/* ---- what a line says --------------------------------------------------------------------------
 */

static bool refuse(struct batch_fault *fault, const char *code, const char *param,
                   const char *format, ...) __attribute__((format(printf, 4, 5)));

static bool refuse(struct batch_fault *fault, const char *code, const char *param,
                   const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fault->code = code;
    fault->param = param;
    (void)vsnprintf(fault->message, sizeof fault->message, format, args); /* cut if too long */
    va_end(args);
    return false;
}

static bool read_id(const json_t *root, struct batch_item *out, struct batch_fault *fault)
{
    const json_t *value = json_body_get(root, "custom_id");
    const char *text = json_string_value(value);
    const size_t n = json_string_length(value);
    if (!value)
        return refuse(fault, "missing_required_parameter", "custom_id", "custom_id is missing.");
    if (!text || n == 0 || n > LIMIT_CUSTOM_ID || strlen(text) != n)
        return refuse(fault, "invalid_custom_id", "custom_id",
                      "custom_id has to be a string of 1 to %u bytes.", LIMIT_CUSTOM_ID);
    memcpy(out->custom_id, text, n + 1);
    return true;
}

static bool read_target(const json_t *root, const char *endpoint, struct batch_fault *fault)
{
    const json_t *method = json_body_get(root, "method"), *url = json_body_get(root, "url");
    if (!method || !url)
        return refuse(fault, "missing_required_parameter", method ? "url" : "method",
                      "%s is missing.", method ? "url" : "method");
    if (!json_is_string(method) || strcmp(json_string_value(method), "POST") != 0)
        return refuse(fault, "invalid_method", "method", "method has to be POST.");
    if (!json_is_string(url) || strcmp(json_string_value(url), endpoint) != 0)
        return refuse(fault, "invalid_url", "url",
                      "url has to be the batch's endpoint, which is %s.", endpoint);
    return true;
}

static bool read_body(const json_t *root, struct batch_item *out, struct batch_fault *fault)
{
    const json_t *body = json_body_get(root, "body");
    if (!body)
        return refuse(fault, "missing_required_parameter", "body", "body is missing.");
    if (!json_is_object(body))
        return refuse(fault, "invalid_body", "body", "body has to be an object.");
    const json_t *model = json_object_get(body, "model");
    if (json_is_string(model) && json_string_length(model) <= LIMIT_CUSTOM_ID)
        (void)snprintf(out->model, sizeof out->model, "%s", json_string_value(model));
    out->body = json_dumps(body, JSON_COMPACT);
    if (!out->body)
        return refuse(fault, "invalid_body", "body", "body cannot be read.");
    out->n_body = strlen(out->body);
    return true;
}

bool batch_item_read(const char *text, size_t n, const char *endpoint, struct batch_item *out,
                     struct batch_fault *fault)
{
    struct api_error e;
    json_t *root;
    *out = (struct batch_item){0};
    if (!json_body_parse(text, n, &root, &e))
        return refuse(fault, "invalid_json_line", NULL, "This line is no valid JSON object.");
    const bool is_good = read_id(root, out, fault) && read_target(root, endpoint, fault) &&
                         read_body(root, out, fault);
    json_decref(root);
    return is_good;
}

void batch_item_release(struct batch_item *item)
{
    free(item->body);
    item->body = NULL;
}
