#include "compiler/json_file.h"

#include "base/error.h"
#include "base/json_scan.h"
#include "compiler/model_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

serverd_status json_file_parse(const char *path, const char *text, size_t n, size_t max_values,
                               json_type needed, json_t **out, serverd_error *err)
{
    const char *fault = json_scan(text, n, max_values);
    if (fault)
        return fail(err, SERVERD_CORRUPT, "%s: the JSON %s", path, fault);
    json_error_t error;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!root && json_error_code(&error) == json_error_out_of_memory)
        return fail(err, SERVERD_NOMEM, "%s: no memory for its JSON", path);
    if (!root)
        return fail(err, SERVERD_CORRUPT, "%s: line %d, column %d: %.100s", path, error.line,
                    error.column, error.text);
    if (json_typeof(root) != needed) {
        json_decref(root);
        return fail(err, SERVERD_CORRUPT, "%s: the JSON is no %s", path,
                    needed == JSON_ARRAY ? "array" : "object");
    }
    *out = root;
    return SERVERD_OK;
}

serverd_status json_file_read(const char *path, struct json_bounds bounds, json_type needed,
                              json_t **out, serverd_error *err)
{
    char *text;
    size_t n;
    serverd_status status = model_file_read(path, bounds.bytes, &text, &n, err);
    if (status != SERVERD_OK)
        return status;
    status = json_file_parse(path, text, n, bounds.values, needed, out, err);
    free(text);
    return status;
}

/* ---- members ------------------------------------------------------------------------------- */

const json_t *json_place_get(const struct json_place *place, const char *name)
{
    const json_t *value = json_object_get(place->object, name);
    return json_is_null(value) ? NULL : value;
}

bool json_place_has(const struct json_place *place, const char *name)
{
    return json_object_get(place->object, name) != NULL;
}

static const char *dot(const struct json_place *place)
{
    return place->where[0] ? "." : "";
}

static void describe(const json_t *value, char *out, size_t size)
{
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_OBJECT:
        (void)snprintf(out, size, "an object");
        break;
    case JSON_ARRAY:
        (void)snprintf(out, size, "an array of %zu", json_array_size(value));
        break;
    case JSON_STRING:
        (void)snprintf(out, size, "\"%.60s\"", json_string_value(value));
        break;
    case JSON_INTEGER:
        (void)snprintf(out, size, "%lld", (long long)json_integer_value(value));
        break;
    case JSON_REAL:
        (void)snprintf(out, size, "%g", json_real_value(value));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        (void)snprintf(out, size, json_is_true(value) ? "true" : "false");
        break;
    default:
        (void)snprintf(out, size, "nothing");
    }
}

serverd_status json_place_fail(const struct json_place *place, const char *name, const char *needed,
                               serverd_error *err)
{
    char found[80];
    describe(json_place_get(place, name), found, sizeof found);
    return fail(err, SERVERD_CORRUPT, "%s: %s%s%.100s: found %s, needed is %s", place->file,
                place->where, dot(place), name, found, needed);
}

serverd_status json_place_need(const struct json_place *place, const char *name, serverd_error *err)
{
    if (!json_place_get(place, name))
        return fail(err, SERVERD_CORRUPT, "%s: %s%s%s is missing", place->file, place->where,
                    dot(place), name);
    return SERVERD_OK;
}

serverd_status json_place_u32(const struct json_place *place, const char *name, uint32_t min,
                              uint32_t max, uint32_t *out, serverd_error *err)
{
    const json_t *value = json_place_get(place, name);
    if (!value)
        return SERVERD_OK;
    if (!json_is_integer(value) || json_integer_value(value) < (json_int_t)min ||
        json_integer_value(value) > (json_int_t)max) {
        char needed[64];
        (void)snprintf(needed, sizeof needed, "an integer in %u..%u", min, max);
        return json_place_fail(place, name, needed, err);
    }
    *out = (uint32_t)json_integer_value(value);
    return SERVERD_OK;
}

serverd_status json_place_f64(const struct json_place *place, const char *name, double min,
                              double max, double *out, serverd_error *err)
{
    const json_t *value = json_place_get(place, name);
    if (!value)
        return SERVERD_OK;
    double x = json_number_value(value);
    if (!json_is_number(value) || !(x >= min && x <= max)) {
        char needed[64];
        (void)snprintf(needed, sizeof needed, "a number in %g..%g", min, max);
        return json_place_fail(place, name, needed, err);
    }
    *out = x;
    return SERVERD_OK;
}

serverd_status json_place_bool(const struct json_place *place, const char *name, bool *out,
                               serverd_error *err)
{
    const json_t *value = json_place_get(place, name);
    if (!value)
        return SERVERD_OK;
    if (!json_is_boolean(value))
        return json_place_fail(place, name, "true or false", err);
    *out = json_is_true(value);
    return SERVERD_OK;
}

serverd_status json_place_string(const struct json_place *place, const char *name, const char **out,
                                 serverd_error *err)
{
    const json_t *value = json_place_get(place, name);
    if (!value)
        return SERVERD_OK;
    if (!json_is_string(value))
        return json_place_fail(place, name, "a string", err);
    *out = json_string_value(value);
    return SERVERD_OK;
}

serverd_status json_place_object(const struct json_place *place, const char *name,
                                 struct json_place *out, serverd_error *err)
{
    const json_t *value = json_place_get(place, name);
    if (!value)
        return SERVERD_OK;
    if (!json_is_object(value))
        return json_place_fail(place, name, "an object", err);
    *out = (struct json_place){.file = place->file, .where = name, .object = value};
    return SERVERD_OK;
}

serverd_status json_place_array(const struct json_place *place, const char *name,
                                const json_t **out, serverd_error *err)
{
    const json_t *value = json_place_get(place, name);
    if (!value)
        return SERVERD_OK;
    if (!json_is_array(value))
        return json_place_fail(place, name, "an array", err);
    *out = value;
    return SERVERD_OK;
}

serverd_status join_path(const char *folder, const char *name, size_t size, char *out,
                         serverd_error *err)
{
    int n = snprintf(out, size, "%s/%s", folder, name);
    if (n < 0 || (size_t)n >= size)
        return fail(err, SERVERD_INVALID, "%.200s/%.100s: the path is longer than %zu bytes",
                    folder, name, size - 1);
    return SERVERD_OK;
}
