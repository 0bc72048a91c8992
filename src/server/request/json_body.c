#include "server/request/json_body.h"

#include "base/json_scan.h"
#include "base/limits.h"

#include <math.h>
#include <string.h>

bool json_body_parse(const char *bytes, size_t n, json_t **out, struct api_error *e)
{
    const char *fault = json_scan(bytes, n, LIMIT_JSON_VALUES);
    if (fault) {
        api_error_set(e, "invalid_json", NULL, "The body %s.", fault);
        return false;
    }
    json_error_t error;
    json_t *root = json_loadb(bytes, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (!root) {
        /* the parser's text may quote the body: only the place is told */
        api_error_set(e, "invalid_json", NULL, "The body is no valid JSON (line %d, column %d).",
                      error.line, error.column);
        return false;
    }
    if (!json_is_object(root)) {
        json_decref(root);
        api_error_set(e, "invalid_json", NULL, "The body is no JSON object.");
        return false;
    }
    *out = root;
    return true;
}

json_t *json_body_get(const json_t *object, const char *name)
{
    json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

bool json_body_integer(const json_t *value, int64_t *out)
{
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    double x = json_is_real(value) ? json_real_value(value) : 0.5;
    if (x != floor(x) || fabs(x) > 9007199254740992.0)
        return false;
    *out = (int64_t)x;
    return true;
}

static void write_string(const char *text, size_t n, struct buffer *out)
{
    buffer_append_char(out, '"');
    buffer_append_json(out, text, n);
    buffer_append_char(out, '"');
}

static void write_object(const json_t *value, enum json_spelling spelling, struct buffer *out)
{
    bool is_spaced = spelling == JSON_SPELLING_SPACED;
    const char *key, *comma = "";
    json_t *item;
    buffer_append_char(out, '{');
    json_object_foreach((json_t *)value, key, item)
    {
        buffer_append_str(out, comma);
        write_string(key, strlen(key), out);
        buffer_append_str(out, is_spaced ? ": " : ":");
        json_body_write(item, spelling, out);
        comma = is_spaced ? ", " : ",";
    }
    buffer_append_char(out, '}');
}

static void write_array(const json_t *value, enum json_spelling spelling, struct buffer *out)
{
    buffer_append_char(out, '[');
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (i > 0)
            buffer_append_str(out, spelling == JSON_SPELLING_SPACED ? ", " : ",");
        json_body_write(json_array_get(value, i), spelling, out);
    }
    buffer_append_char(out, ']');
}

void json_body_write(const json_t *value, enum json_spelling spelling, struct buffer *out)
{
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_OBJECT:
        write_object(value, spelling, out);
        break;
    case JSON_ARRAY:
        write_array(value, spelling, out);
        break;
    case JSON_STRING:
        write_string(json_string_value(value), json_string_length(value), out);
        break;
    case JSON_INTEGER:
        buffer_printf(out, "%lld", (long long)json_integer_value(value));
        break;
    case JSON_REAL:
        buffer_append_f64(out, json_real_value(value));
        break;
    default:
        buffer_append_str(out, json_is_true(value)    ? "true"
                               : json_is_false(value) ? "false"
                                                      : "null");
        break;
    }
}
