#include "tools/bench/record.h"

#include "base/limits.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_LIMIT (16 * MIB)

void record_init(struct record *record)
{
    *record = (struct record){0};
    buffer_init(&record->text, TEXT_LIMIT);
}

void record_deinit(struct record *record)
{
    free(record->chunk_s);
    record->chunk_s = NULL;
    buffer_deinit(&record->text);
}

/* A text that was cut within a character, or never was UTF-8, becomes ASCII: JSON cannot hold it.
 */
static void make_valid(char *text)
{
    json_t *made = json_string(text);
    for (char *s = text; !made && *s; s++)
        if ((unsigned char)*s >= 0x80)
            *s = '?';
    json_decref(made);
}

void record_fail(struct record *record, const char *format, ...)
{
    if (!record_is_good(record))
        return;
    va_list list;
    va_start(list, format);
    (void)vsnprintf(record->error, sizeof record->error, format, list);
    va_end(list);
    make_valid(record->error);
    if (record_is_good(record))
        (void)snprintf(record->error, sizeof record->error, "unknown error");
}

/* {"error": {"message": "..."}}, {"error": "..."} or {"message": "..."}; NULL otherwise. */
static const char *message_of(const json_t *root)
{
    const json_t *error = json_object_get(root, "error");
    const json_t *message = json_is_object(error) ? json_object_get(error, "message") : error;
    if (!json_is_string(message))
        message = json_object_get(root, "message");
    return json_string_value(message);
}

void record_fail_reply(struct record *record, const char *body, size_t n)
{
    json_t *root = json_loadb(body, n, 0, NULL);
    const char *message = root ? message_of(root) : NULL;
    if (message)
        record_fail(record, "HTTP %ld: %s", record->http_status, message);
    else
        record_fail(record, "HTTP %ld: %.*s", record->http_status, (int)(n < 150 ? n : 150), body);
    json_decref(root);
}

static void add_chunk(struct record *record, double now_s)
{
    if (record->n_chunks == record->cap_chunks) {
        size_t cap = record->cap_chunks ? 2 * record->cap_chunks : 64;
        double *grown =
            cap > RECORD_CHUNKS_MAX ? NULL : realloc(record->chunk_s, cap * sizeof *grown);
        if (!grown) {
            record_fail(record, "more than %zu chunks", record->cap_chunks);
            return;
        }
        record->chunk_s = grown;
        record->cap_chunks = cap;
    }
    record->chunk_s[record->n_chunks++] = now_s;
}

static uint32_t count_of(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value < 0 ? 0 : value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static void read_usage(struct record *record, const json_t *usage)
{
    if (!json_is_object(usage))
        return;
    record->has_usage = true;
    record->n_prompt = count_of(usage, "prompt_tokens");
    record->n_output = count_of(usage, "completion_tokens");
    record->n_cached = count_of(json_object_get(usage, "prompt_tokens_details"), "cached_tokens");
}

/* Content of a chat chunk, with what models think aloud, or of a completion's. */
static void read_choice(struct record *record, const json_t *choice, double now_s)
{
    const json_t *delta = json_object_get(choice, "delta");
    const json_t *texts[] = {json_object_get(delta, "content"),
                             json_object_get(delta, "reasoning_content"),
                             json_object_get(choice, "text")};
    bool has_content = false;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        size_t n = json_string_length(texts[i]); /* a NUL may be in it */
        has_content = has_content || n > 0;
        if (n > 0 && record->keeps_text)
            buffer_append(&record->text, json_string_value(texts[i]), n);
    }
    if (has_content)
        add_chunk(record, now_s);
    const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
    if (finish) {
        (void)snprintf(record->finish, sizeof record->finish, "%s", finish);
        make_valid(record->finish);
    }
}

void record_event(struct record *record, const char *data, size_t n, double now_s)
{
    if (n == 6 && memcmp(data, "[DONE]", 6) == 0) {
        record->is_done = true;
        return;
    }
    json_error_t where;
    json_t *root = json_loadb(data, n, JSON_ALLOW_NUL, &where);
    if (!json_is_object(root)) {
        record_fail(record, "event that is no JSON object: %s at byte %d: %.*s", where.text,
                    where.position, (int)(n < 100 ? n : 100), data);
        json_decref(root);
        return;
    }
    const json_t *error = json_object_get(root, "error");
    if (error && !json_is_null(error)) {
        const char *message = message_of(root);
        record_fail(record, "in the stream: %s", message ? message : "error without a message");
    }
    read_usage(record, json_object_get(root, "usage"));
    const json_t *choices = json_object_get(root, "choices");
    for (size_t i = 0; i < json_array_size(choices); i++)
        read_choice(record, json_array_get(choices, i), now_s);
    json_decref(root);
}

double record_ttft(const struct record *record)
{
    return record->n_chunks ? record->chunk_s[0] - record->start_s : 0;
}

double record_tpot(const struct record *record)
{
    uint32_t n = record->n_output ? record->n_output : (uint32_t)record->n_chunks;
    if (record->n_chunks < 2 || n < 2)
        return 0;
    return (record->chunk_s[record->n_chunks - 1] - record->chunk_s[0]) / (n - 1);
}
