/* Adapters that come and go while the server runs. The file is read by the HTTP thread that has the
 * request, so replies that it serves wait for some milliseconds; the engine takes the adapter in
 * between two steps. */
#include "compiler/adapter_import.h"
#include "server/api_request.h"
#include "server/endpoints.h"
#include "server/server_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- the reply --------------------------------------------------------------------------------
 */

struct adapter_reply {
    char name[LIMIT_ADAPTER_NAME];
    const char *done; /* "loaded" */
};

static void on_event(void *state, struct event *event, struct buffer *out)
{
    (void)state, (void)event, (void)out; /* there is only the end */
}

static void on_end(void *state, struct buffer *out)
{
    const struct adapter_reply *reply = state;
    buffer_append_str(out, "{\"object\":\"adapter\",\"id\":\"");
    buffer_append_json(out, reply->name, strlen(reply->name));
    buffer_printf(out, "\",\"status\":\"%s\"}", reply->done);
}

static void on_error(void *state, const struct api_error *e, struct buffer *out)
{
    (void)state, (void)e, (void)out; /* never a stream */
}

static const struct reply_encoder encoder = {
    .on_event = on_event, .on_end = on_end, .on_error = on_error, .destroy = free};

/* ---- the request ------------------------------------------------------------------------------
 */

/* A member that has to be a text without NUL. */
static bool read_text(const json_t *root, const char *name, const char **out, struct api_error *e)
{
    const json_t *value = json_body_get(root, name);
    *out = json_string_value(value);
    if (!value)
        api_error_set(e, "missing_required_parameter", name, "%s is missing.", name);
    else if (!*out || **out == '\0' || strlen(*out) != json_string_length(value))
        api_error_set(e, "invalid_type", name, "%s has to be a string.", name);
    else
        return true;
    return false;
}

static bool read_name(struct exchange *x, const json_t *root, const char **out, struct api_error *e)
{
    if (!read_text(root, "lora_name", out, e))
        return false;
    if (strlen(*out) < LIMIT_ADAPTER_NAME && api_adapter_name(exchange_model(x), *out))
        return true;
    api_error_set(e, "invalid_value", "lora_name",
                  "lora_name has to be a name of its own of up to %u bytes.",
                  LIMIT_ADAPTER_NAME - 1);
    return false;
}

static bool read_scale(const json_t *root, float *out, struct api_error *e)
{
    const json_t *value = json_body_get(root, "scale");
    double scale = value ? json_number_value(value) : 1.0;
    if ((!value || json_is_number(value)) && scale >= -ADAPTER_MAX_SCALE &&
        scale <= ADAPTER_MAX_SCALE) {
        *out = (float)scale;
        return true;
    }
    api_error_set(e, "invalid_value", "scale", "scale has to be a number from -%.0f to %.0f.",
                  ADAPTER_MAX_SCALE, ADAPTER_MAX_SCALE);
    return false;
}

static bool import(struct exchange *x, const char *path, struct adapter **out, struct api_error *e)
{
    serverd_error err;
    serverd_status status = adapter_import(path, exchange_model(x)->program, out, &err);
    if (status == SERVERD_OK)
        return true;
    if (status == SERVERD_NOMEM)
        api_error_from(e, &err);
    else
        api_error_set(e, "invalid_value", "lora_path", "%s", err.text);
    return false;
}

/* Fills in the change; its texts live as long as the body. */
static bool read_change(struct exchange *x, const json_t *root, bool is_load,
                        struct adapter_change *out, struct api_error *e)
{
    const char *path = NULL;
    *out = (struct adapter_change){.scale = 1};
    if (!read_name(x, root, &out->name, e))
        return false;
    return !is_load || (read_text(root, "lora_path", &path, e) &&
                        read_scale(root, &out->scale, e) && import(x, path, &out->adapter, e));
}

static void change(struct exchange *x, bool is_load)
{
    size_t n;
    struct api_error e;
    json_t *root;
    struct adapter_change change;
    const char *body = exchange_body(x, &n);
    if (!json_body_parse(body, n, &root, &e)) {
        exchange_fail(x, &e);
        return;
    }
    struct adapter_reply *reply = calloc(1, sizeof *reply);
    bool is_good = read_change(x, root, is_load, &change, &e);
    if (is_good && reply) {
        memcpy(reply->name, change.name, strlen(change.name));
        reply->done = is_load ? "loaded" : "unloaded";
        exchange_change_adapter(x, &change, &encoder, reply);
    } else {
        if (is_good) {
            api_error_set(&e, "model_unavailable", NULL, "The server is out of memory.");
            adapter_destroy(change.adapter);
        }
        free(reply);
        exchange_fail(x, &e);
    }
    json_decref(root);
}

void endpoint_load_adapter(struct exchange *x)
{
    change(x, true);
}

void endpoint_unload_adapter(struct exchange *x)
{
    change(x, false);
}
