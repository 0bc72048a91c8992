/* Which model a request means, before anything that depends on it is looked at; and waiting for one
 * that is not loaded. */
#include "server/model_set_internal.h"
#include "server/request/json_body.h"
#include "server/server_internal.h"

#include <string.h>

/* Bodies that are no JSON are refused here. */
static bool parse_body(struct exchange *x, struct api_error *e)
{
    if (!(x->route->flags & JSON_BODY) || x->json ||
        (x->body.len == 0 && (x->route->flags & MAY_BE_EMPTY)))
        return true;
    return json_body_parse(buffer_str(&x->body), x->body.len, &x->json, e);
}

/* The body's, or that of the query string. Something else than a text is the handler's affair. */
static const char *named_model(const struct exchange *x, char buffer[LIMIT_MODEL_NAME])
{
    if (x->json)
        return json_string_value(json_body_get(x->json, "model"));
    return exchange_query_text(x, "model", buffer, LIMIT_MODEL_NAME) ? buffer : NULL;
}

/* What operators ask about a model goes on in a drain, and keeps none loaded. */
static bool only_looks(const struct exchange *x)
{
    return (x->route->flags & WHILE_DRAINING) != 0;
}

static bool is_too_late(const struct exchange *x)
{
    const struct server_context *context = &x->server->context;
    return clock_now_ns(context->clock) >
           x->arrival_ns + (uint64_t)(context->options->queue_timeout * 1e9);
}

static void set_loading(struct exchange *x, struct api_error *e, const char *text)
{
    api_error_set(e, "model_loading", NULL, "%s", text);
    e->retry_after_ms = model_set_forecast_ms(&x->server->models);
}

/* Nothing is waited for any more: why not. */
static bool has_to_end(struct exchange *x, struct api_error *e)
{
    (void)pthread_mutex_lock(&x->lock);
    const bool is_aborted = x->is_aborted;
    (void)pthread_mutex_unlock(&x->lock);
    if (is_aborted || (atomic_load(&x->server->is_draining) && !(x->route->flags & WHILE_DRAINING)))
        api_error_set(e, "draining", NULL, "The server takes no new requests now.");
    else if (x->is_counted && is_too_late(x))
        set_loading(x, e, "The model is still not loaded.");
    else
        return false;
    return true;
}

static bool is_taken(struct exchange *x, enum model_take how, const char *name,
                     const serverd_error *err, struct api_error *e)
{
    switch (how) {
    case MODEL_TAKEN:
        x->model = x->model_entry->served;
        return true;
    case MODEL_CROWDED:
        set_loading(x, e, "Too many requests wait for models that are being loaded.");
        return false;
    case MODEL_ABSENT:
        api_error_set(e, "model_unavailable", NULL, "The model is not loaded.");
        return false;
    case MODEL_BROKEN:
        /* what was wrong with a file is for the log alone, its path too */
        api_error_set(e, "model_unavailable", NULL, "The model could not be loaded: %s",
                      err->code == SERVERD_NOMEM ? err->text : "the log says why.");
        return false;
    default:
        api_error_unknown_model(e, name ? name : "default");
        return false;
    }
}

enum model_choice exchange_choose_model(struct exchange *x)
{
    struct api_error e;
    serverd_error err;
    char buffer[LIMIT_MODEL_NAME];
    if (!(x->route->flags & NEEDS_MODEL))
        return MODEL_CHOSEN;
    bool is_good = parse_body(x, &e) && !has_to_end(x, &e);
    if (is_good) {
        const char *name = named_model(x, buffer);
        const enum model_take how =
            only_looks(x) ? model_set_look(&x->server->models, name, &x->model_entry)
                          : model_set_take(&x->server->models, name, x, &x->model_entry, &err);
        if (how == MODEL_COMING)
            return MODEL_AWAITED;
        is_good = is_taken(x, how, name, &err, &e);
    }
    if (x->is_counted)
        model_set_forget(&x->server->models, x);
    if (!is_good)
        exchange_fail(x, &e);
    return is_good ? MODEL_CHOSEN : MODEL_REFUSED;
}

bool exchange_look_at_model(struct exchange *x)
{
    if (model_set_look(&x->server->models, NULL, &x->model_entry) != MODEL_TAKEN)
        return false;
    x->model = x->model_entry->served;
    return true;
}

void exchange_leave_model(struct exchange *x)
{
    if (x->is_counted)
        model_set_forget(&x->server->models, x);
    if (x->model_entry)
        model_set_release(&x->server->models, x->model_entry, !only_looks(x));
    x->model_entry = NULL;
    x->model = NULL;
}

struct grammar_cache *exchange_grammars(const struct exchange *x)
{
    return &x->model_entry->grammars;
}
