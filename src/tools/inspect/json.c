#include "tools/inspect/json.h"

#include <math.h>
#include <string.h>

/* Between two elements; none behind an opening bracket, a colon or nothing. */
static void separate(struct buffer *out)
{
    char last = out->len ? out->data[out->len - 1] : '{';
    if (last != '{' && last != '[' && last != ':' && last != '\n')
        buffer_append_char(out, ',');
}

static void put_key(struct buffer *out, const char *key)
{
    separate(out);
    buffer_append_char(out, '"');
    buffer_append_json(out, key, strlen(key));
    buffer_append_str(out, "\":");
}

static void put_string(struct buffer *out, const char *value, size_t n)
{
    buffer_append_char(out, '"');
    buffer_append_json(out, value, n);
    buffer_append_char(out, '"');
}

void json_begin(struct buffer *out, char bracket)
{
    separate(out);
    buffer_append_char(out, bracket);
}

void json_begin_in(struct buffer *out, const char *key, char bracket)
{
    put_key(out, key);
    buffer_append_char(out, bracket);
}

void json_end(struct buffer *out, char bracket)
{
    buffer_append_char(out, bracket);
}

void json_bytes(struct buffer *out, const char *key, const char *value, size_t n)
{
    put_key(out, key);
    put_string(out, value, n);
}

void json_text(struct buffer *out, const char *key, const char *value)
{
    if (value) {
        json_bytes(out, key, value, strlen(value));
        return;
    }
    put_key(out, key);
    buffer_append_str(out, "null");
}

void json_count(struct buffer *out, const char *key, uint64_t value)
{
    put_key(out, key);
    buffer_append_u64(out, value);
}

void json_number(struct buffer *out, const char *key, double value)
{
    put_key(out, key);
    if (isfinite(value))
        buffer_append_f64(out, value);
    else
        buffer_append_str(out, "null");
}

void json_flag(struct buffer *out, const char *key, bool value)
{
    put_key(out, key);
    buffer_append_str(out, value ? "true" : "false");
}

void json_raw(struct buffer *out, const char *key, const char *json)
{
    put_key(out, key);
    buffer_append_str(out, json);
}

void json_hex(struct buffer *out, const char *key, const uint8_t *bytes, size_t n)
{
    put_key(out, key);
    buffer_append_char(out, '"');
    for (size_t i = 0; i < n; i++)
        buffer_printf(out, "%02x", bytes[i]);
    buffer_append_char(out, '"');
}

void json_item_count(struct buffer *out, uint64_t value)
{
    separate(out);
    buffer_append_u64(out, value);
}

void json_item_text(struct buffer *out, const char *value)
{
    separate(out);
    put_string(out, value, strlen(value));
}
