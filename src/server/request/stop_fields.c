#include "server/request/stop_fields.h"

#include "base/numeric.h"
#include "grammar/stop_pattern.h"

#include <string.h>

/* A field is one text, or a list of them. */
static size_t count(const json_t *value)
{
    return json_is_array(value) ? json_array_size(value) : value != NULL;
}

static const json_t *item_of(const json_t *value, size_t i)
{
    return json_is_array(value) ? json_array_get(value, i) : value;
}

static bool is_nothing(const json_t *item)
{
    return json_is_null(item) || (json_is_string(item) && json_string_length(item) == 0);
}

/* The one of that number that is not nothing; *n of them were before it. */
static const json_t *find(const json_t *value, int32_t index, int32_t *n)
{
    for (size_t i = 0; i < count(value); i++)
        if (!is_nothing(item_of(value, i)) && (*n)++ == index)
            return item_of(value, i);
    return NULL;
}

const json_t *stop_fields_find(const struct api_fields *f, int32_t index)
{
    int32_t n = 0;
    const json_t *found = find(f->stop, index, &n);
    return found ? found : find(f->stop_regex, index, &n);
}

/* ---- strings ---- */

static bool add_stop(struct request *request, struct stop_string *stops, const json_t *item,
                     struct api_error *e)
{
    size_t len = json_string_length(item);
    if (is_nothing(item))
        return true;
    if (!json_is_string(item) || len > LIMIT_STOP_BYTES) {
        api_error_set(e, json_is_string(item) ? "invalid_value" : "invalid_type", "stop",
                      "stop has to be strings of at most %u bytes.", LIMIT_STOP_BYTES);
        return false;
    }
    char *copy = arena_copy(request->arena, json_string_value(item), len);
    if (!copy)
        return api_error_no_memory(e);
    stops[request->n_stops++] = (struct stop_string){copy, (uint32_t)len};
    return true;
}

static bool set_strings(const json_t *stop, struct request *request, struct api_error *e)
{
    const size_t n = count(stop);
    if (n > LIMIT_STOPS) {
        api_error_set(e, "invalid_value", "stop", "At most %u stop strings are allowed.",
                      LIMIT_STOPS);
        return false;
    }
    struct stop_string *stops = arena_array(request->arena, max_size(n, 1), sizeof *stops);
    if (!stops)
        return api_error_no_memory(e);
    request->stops = stops;
    for (size_t i = 0; i < n; i++)
        if (!add_stop(request, stops, item_of(stop, i), e))
            return false;
    return true;
}

/* ---- expressions ---- */

static bool compile(const json_t *item, struct request *request, const struct dfa **out,
                    struct api_error *e)
{
    serverd_error err;
    switch (stop_pattern_compile(json_string_value(item), json_string_length(item),
                                 &processor_clock, request->arena, out, &err)) {
    case SERVERD_OK:
        return true;
    case SERVERD_INVALID:
    case SERVERD_UNSUPPORTED:
        api_error_set(e, "invalid_regex", "stop_regex", "stop_regex: %s", err.text);
        return false;
    case SERVERD_TIMEOUT:
        api_error_set(e, "grammar_too_complex", "stop_regex", "stop_regex: %s", err.text);
        return false;
    default:
        api_error_from(e, &err);
        return false;
    }
}

static bool set_patterns(const json_t *value, struct request *request, struct api_error *e)
{
    const size_t n = count(value);
    if (n > LIMIT_STOP_PATTERNS) {
        api_error_set(e, "invalid_value", "stop_regex", "At most %u expressions are allowed.",
                      LIMIT_STOP_PATTERNS);
        return false;
    }
    const struct dfa **patterns =
        arena_array(request->arena, LIMIT_STOP_PATTERNS, sizeof(const struct dfa *));
    if (!patterns)
        return api_error_no_memory(e);
    request->stop_patterns = patterns;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = item_of(value, i);
        if (is_nothing(item))
            continue;
        if (!json_is_string(item) || json_string_length(item) > LIMIT_STOP_PATTERN_BYTES) {
            api_error_set(e, json_is_string(item) ? "invalid_value" : "invalid_type", "stop_regex",
                          "stop_regex has to be expressions of at most %u bytes.",
                          LIMIT_STOP_PATTERN_BYTES);
            return false;
        }
        if (!compile(item, request, &patterns[request->n_stop_patterns], e))
            return false;
        request->n_stop_patterns++;
    }
    return true;
}

bool stop_fields_read(const struct api_fields *f, struct request *request, struct api_error *e)
{
    return (!f->stop || set_strings(f->stop, request, e)) &&
           (!f->stop_regex || set_patterns(f->stop_regex, request, e));
}
