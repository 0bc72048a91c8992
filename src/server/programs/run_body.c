/* What a request to run a program says. */
#include "base/numeric.h"
#include "frontend_dsl/dsl_program.h"
#include "server/programs/programs_internal.h"
#include "server/request/json_body.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- members -----------------------------------------------------------------------------------
 */

static bool wrong(struct api_error *e, const char *name, const char *what)
{
    api_error_set(e, "invalid_type", name, "%s has to be %s.", name, what);
    return false;
}

static bool read_bool(const json_t *root, const char *name, bool *out, struct api_error *e)
{
    const json_t *value = json_body_get(root, name);
    if (value && !json_is_boolean(value))
        return wrong(e, name, "true or false");
    if (value)
        *out = json_is_true(value);
    return true;
}

static bool read_integer(const json_t *root, const char *name, int64_t least, int64_t most,
                         int64_t *out, struct api_error *e)
{
    const json_t *value = json_body_get(root, name);
    int64_t number;
    if (!value)
        return true;
    if (!json_body_integer(value, &number))
        return wrong(e, name, "an integer");
    if (number < least || number > most) {
        api_error_set(e, "invalid_value", name,
                      "%s is %" PRId64 ", allowed are %" PRId64 " to %" PRId64 ".", name, number,
                      least, most);
        return false;
    }
    *out = number;
    return true;
}

static bool read_text(const json_t *root, const char *name, const char **out, struct api_error *e)
{
    const json_t *value = json_body_get(root, name);
    if (!value)
        return true;
    *out = json_string_value(value);
    return *out && strlen(*out) == json_string_length(value) ? true : wrong(e, name, "a string");
}

/* true, false, or a list of names. */
static bool read_streamed(const json_t *root, struct run_body *out, struct api_error *e)
{
    const json_t *list = json_body_get(root, "stream_vars");
    const size_t n = json_array_size(list);
    if (!list || json_is_true(list))
        return true;
    if (json_is_false(list) || (json_is_array(list) && n == 0)) {
        out->streams_none = true;
        return true;
    }
    if (!json_is_array(list))
        return wrong(e, "stream_vars", "a list of names");
    out->streamed = calloc(n, sizeof *out->streamed);
    for (size_t i = 0; out->streamed && i < n; i++) {
        out->streamed[i] = json_string_value(json_array_get(list, i));
        if (!out->streamed[i])
            return wrong(e, "stream_vars", "a list of names");
    }
    out->n_streamed = (uint32_t)n;
    return true;
}

static bool read_include(const json_t *root, struct run_body *out, struct api_error *e)
{
    const json_t *list = json_body_get(root, "include");
    if (list && !json_is_array(list))
        return wrong(e, "include", "a list");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (name && strcmp(name, "text") == 0) {
            out->has_text = true;
        } else if (name && strcmp(name, "trace") == 0) {
            out->has_trace = true;
        } else {
            api_error_set(e, "invalid_value", "include", "include may have text and trace.");
            return false;
        }
    }
    return true;
}

static bool read_on_error(const json_t *root, struct run_body *out, struct api_error *e)
{
    const char *word = "keep";
    if (!read_text(root, "on_error", &word, e))
        return false;
    out->stops_on_error = strcmp(word, "stop") == 0;
    if (out->stops_on_error || strcmp(word, "keep") == 0)
        return true;
    api_error_set(e, "invalid_value", "on_error", "on_error is keep or stop.");
    return false;
}

static bool read_limits(const json_t *root, struct run_body *out, struct api_error *e)
{
    serverd_error err;
    if (dsl_limits_lower(&out->limits, json_body_get(root, "limits"), &err) == SERVERD_OK)
        return true;
    api_error_set(e, "invalid_value", "limits", "%s.", err.text);
    return false;
}

/* ---- items -------------------------------------------------------------------------------------
 */

static bool check_item(const json_t *item, size_t index, size_t most, struct api_error *e)
{
    char param[64];
    (void)snprintf(param, sizeof param, "items[%zu]", index);
    if (!json_is_object(item))
        return wrong(e, param, "an object");
    const json_t *args = json_body_get(item, "args"), *seed = json_body_get(item, "seed"),
                 *id = json_body_get(item, "id");
    (void)snprintf(param, sizeof param, "items[%zu].%s", index,
                   args && !json_is_object(args) ? "args" : "seed");
    if (args && !json_is_object(args))
        return wrong(e, param, "an object");
    if (seed && (!json_is_integer(seed) || json_integer_value(seed) < 0))
        return wrong(e, param, "an integer of 0 or more");
    (void)snprintf(param, sizeof param, "items[%zu].id", index);
    if (id && !json_is_string(id))
        return wrong(e, param, "a string");
    if (args && json_dumpb(args, NULL, 0, JSON_COMPACT) > most) {
        api_error_set(e, "request_too_large", "args",
                      "The arguments have more than the %zu bytes that are allowed.", most);
        return false;
    }
    return true;
}

/* Of a single run its own fields are the item. */
static bool read_items(struct exchange *x, const json_t *root, struct run_body *out,
                       struct api_error *e)
{
    const size_t most = (size_t)out->limits.max_args_kb * KIB;
    const size_t max_items = (size_t)x->server->context.options->programs_max_batch_items;
    json_t *items = json_body_get(root, "items"), *args = json_body_get(root, "args");
    if (!out->is_batch) {
        if (args && !json_is_object(args))
            return wrong(e, "args", "an object");
        out->items = args ? json_pack("[{s:O}]", "args", args) : json_pack("[{}]");
    } else {
        if (!json_is_array(items) || json_array_size(items) == 0)
            return wrong(e, "items", "a list of at least one item");
        if (json_array_size(items) > max_items) {
            api_error_set(e, "request_too_large", "items",
                          "There are %zu items, at most %zu are allowed.", json_array_size(items),
                          max_items);
            return false;
        }
        out->items = json_incref(items);
    }
    for (size_t i = 0; i < json_array_size(out->items); i++)
        if (!check_item(json_array_get(out->items, i), i, most, e))
            return false;
    return true;
}

/* ---- the body ----------------------------------------------------------------------------------
 */

static bool check_names(struct exchange *x, const json_t *root, struct api_error *e)
{
    static const char *const known[] = {"args",         "items",      "model",    "stream",
                                        "stream_vars",  "seed",       "sampling", "limits",
                                        "priority",     "background", "include",  "cache_salt",
                                        "max_parallel", "on_error",   "source",   "run"};
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)root, name, value)
    {
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(known[i], name) != 0)
            i++;
        if (i < sizeof known / sizeof *known)
            continue;
        if (x->server->context.options->strict_fields) {
            api_error_set(e, "unknown_parameter", name, "There is no parameter of this name.");
            return false;
        }
        exchange_ignored_field(x, name);
    }
    return true;
}

static bool read_sampling(const json_t *root, struct run_body *out, struct api_error *e)
{
    out->sampling = json_body_get(root, "sampling");
    return !out->sampling || json_is_object(out->sampling) ? true
                                                           : wrong(e, "sampling", "an object");
}

bool run_body_read(struct exchange *x, json_t *root, bool is_batch, struct run_body *out,
                   struct api_error *e)
{
    int64_t seed = -1, priority = 0, parallel = 0;
    *out = (struct run_body){.root = root, .is_batch = is_batch, .limits = programs_of(x)->limits};
    const bool is_good =
        check_names(x, root, e) && read_bool(root, "stream", &out->is_stream, e) &&
        read_bool(root, "background", &out->is_background, e) && read_streamed(root, out, e) &&
        read_integer(root, "seed", 0, INT64_MAX, &seed, e) && read_sampling(root, out, e) &&
        read_limits(root, out, e) &&
        read_integer(root, "priority", INT32_MIN, INT32_MAX, &priority, e) &&
        read_include(root, out, e) && read_text(root, "cache_salt", &out->cache_salt, e) &&
        read_text(root, "model", &out->model, e) && read_on_error(root, out, e) &&
        read_integer(root, "max_parallel", 1, UINT32_MAX, &parallel, e) &&
        read_items(x, root, out, e);
    out->has_seed = seed >= 0;
    out->seed = (uint64_t)seed;
    out->priority = (int32_t)priority;
    out->max_parallel = (uint32_t)parallel;
    if (!is_good)
        run_body_release(out);
    return is_good;
}

void run_body_release(struct run_body *body)
{
    json_decref(body->items);
    json_decref(body->root);
    free(body->streamed);
    *body = (struct run_body){0};
}

bool run_body_check_args(const struct run_body *body, const struct dsl_program *program,
                         struct program_error *e)
{
    struct dsl_error error;
    char path[64] = "args";
    bool is_good = true;
    dsl_error_init(&error);
    for (size_t i = 0; is_good && i < json_array_size(body->items); i++) {
        json_t *complete = NULL;
        const json_t *args = json_body_get(json_array_get(body->items, i), "args");
        if (body->is_batch)
            (void)snprintf(path, sizeof path, "items[%zu].args", i);
        is_good = type_spec_complete(program->args, args, path, "invalid_arguments", &complete,
                                     &error) == SERVERD_OK;
        json_decref(complete);
    }
    if (!is_good)
        program_error_from(e, &error, program->name);
    dsl_error_deinit(&error);
    return is_good;
}
