#include "server/json_body.h"

#include "base/json_scan.h"
#include "base/limits.h"

#include <math.h>

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
