/* Adapters that come and go while the server runs. The job thread reads the file and puts the
 * adapter in; one that goes is the engine's affair. */
#include "compiler/adapter_import.h"
#include "server/endpoints.h"
#include "server/request/api_request.h"
#include "server/server_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- the reply --------------------------------------------------------------------------------
 */

struct adapter_reply {
    char name[LIMIT_ADAPTER_NAME];
    const char *done; /* "loaded" */
    char *path;       /* of one that is loaded */
    float scale;
};

static void on_end(void *state, struct buffer *out)
{
    const struct adapter_reply *reply = state;
    buffer_append_str(out, "{\"object\":\"adapter\",\"id\":\"");
    buffer_append_json(out, reply->name, strlen(reply->name));
    buffer_printf(out, "\",\"status\":\"%s\"}", reply->done);
}

static void destroy(void *state)
{
    struct adapter_reply *reply = state;
    if (!reply)
        return;
    free(reply->path);
    free(reply);
}

static const struct reply_encoder encoder = {.on_end = on_end, .destroy = destroy};

/* ---- the job ----------------------------------------------------------------------------------
 */

static bool load(void *state, const struct served_model *model, struct api_error *e)
{
    const struct adapter_reply *reply = state;
    struct adapter *adapter;
    serverd_error err;
    serverd_status status = adapter_import(reply->path, model->program, &adapter, &err);
    if (status != SERVERD_OK) {
        api_error_from(e, &err);
        if (status != SERVERD_NOMEM)
            api_error_set(e, "invalid_value", "lora_path", "%s", err.text);
        return false;
    }
    status = engine_load_adapter(model->engine, reply->name, adapter, reply->scale, &err);
    if (status != SERVERD_OK)
        api_error_from(e, &err);
    adapter_destroy(adapter);
    return status == SERVERD_OK;
}

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

/* Fills in what the reply has and the job needs. */
static bool read_change(struct exchange *x, const json_t *root, bool is_load,
                        struct adapter_reply *out, struct api_error *e)
{
    const char *name, *path;
    if (!read_name(x, root, &name, e))
        return false;
    memcpy(out->name, name, strlen(name) + 1);
    out->done = is_load ? "loaded" : "unloaded";
    if (!is_load)
        return true;
    if (!read_text(root, "lora_path", &path, e) || !read_scale(root, &out->scale, e))
        return false;
    out->path = strdup(path);
    return out->path || api_error_no_memory(e);
}

static void change(struct exchange *x, bool is_load)
{
    struct api_error e;
    json_t *root;
    if (!exchange_take_json(x, &root, &e)) {
        exchange_fail(x, &e);
        return;
    }
    struct adapter_reply *reply = calloc(1, sizeof *reply);
    if (!(reply ? read_change(x, root, is_load, reply, &e) : api_error_no_memory(&e))) {
        destroy(reply);
        exchange_fail(x, &e);
    } else if (is_load) {
        exchange_run(x, load, &encoder, reply);
    } else {
        exchange_unload_adapter(x, reply->name, &encoder, reply);
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
