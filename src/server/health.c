#include "base/clock.h"
#include "server/endpoints.h"
#include "server/server_internal.h"

#include <string.h>

#ifndef PROJECT_VERSION
#define PROJECT_VERSION "0"
#endif

/* An engine that has not passed its loop for so long is taken for dead. */
#define DEAD_AFTER_SECONDS 10.0

static void reply_text(struct exchange *x, int status, const char *type, const char *text)
{
    struct buffer body;
    buffer_init(&body, 8 * KIB);
    buffer_append_str(&body, text);
    exchange_reply(x, status, type, &body);
}

static void reply_ok(struct exchange *x)
{
    reply_text(x, 200, "application/json", "{\"status\":\"ok\"}");
}

/* The envelope of 503 with how far loading has come. */
static void reply_loading(struct exchange *x)
{
    struct buffer body;
    uint32_t permille = atomic_load(&x->server->progress_permille);
    buffer_init(&body, 4 * KIB);
    buffer_printf(
        &body,
        "{\"error\":{\"message\":\"The model is being loaded.\",\"type\":\"server_error\","
        "\"param\":null,\"code\":\"model_loading\"},\"progress\":%u.%03u}",
        permille / 1000, permille % 1000);
    x->retry_after_ms = model_set_forecast_ms(&x->server->models);
    exchange_reply(x, 503, "application/json", &body);
}

static void fail_with(struct exchange *x, const char *code, const char *text)
{
    struct api_error e;
    api_error_set(&e, code, NULL, "%s", text);
    exchange_fail(x, &e);
}

double server_heartbeat_age(struct server *server)
{
    struct model_set_health health;
    model_set_health(&server->models, &health);
    return health.heartbeat_age;
}

bool server_is_healthy(struct server *server)
{
    struct model_set_health health;
    model_set_health(&server->models, &health);
    return health.has_started && !health.is_lost && health.heartbeat_age < DEAD_AFTER_SECONDS;
}

static bool has_started(struct server *server)
{
    struct model_set_health health;
    model_set_health(&server->models, &health);
    return health.has_started;
}

static void reply_health(struct exchange *x, bool ok_while_loading)
{
    if (atomic_load(&x->server->has_failed)) {
        fail_with(x, "model_unavailable", "The model could not be loaded.");
    } else if (!has_started(x->server)) {
        if (ok_while_loading)
            reply_ok(x);
        else
            reply_loading(x);
    } else if (!server_is_healthy(x->server)) {
        fail_with(x, "model_unavailable", "The engine does not answer.");
    } else {
        reply_ok(x);
    }
}

void endpoint_health(struct exchange *x)
{
    reply_health(x, false);
}

void endpoint_live(struct exchange *x)
{
    reply_health(x, true);
}

void endpoint_ready(struct exchange *x)
{
    if (atomic_load(&x->server->is_draining))
        fail_with(x, "draining", "The server takes no new requests now.");
    else
        reply_health(x, false);
}

void endpoint_version(struct exchange *x)
{
    struct buffer body;
    buffer_init(&body, 4 * KIB);
    buffer_printf(&body, "{\"version\":\"" PROJECT_VERSION "\",\"commit\":\"%s\"}",
                  x->server->commit);
    exchange_reply(x, 200, "application/json", &body);
}

/* Of the first configured model; "" before it is known. */
static const char *default_model(struct server *server)
{
    struct model_set *set = &server->models;
    (void)pthread_mutex_lock(&set->mutex);
    const char *name = set->n > 0 ? set->entries[0]->config.name : "";
    (void)pthread_mutex_unlock(&set->mutex);
    return name; /* it outlives the server */
}

static void append_label(struct buffer *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            buffer_append_char(out, '\\');
        buffer_append_char(out, *text == '\n' ? ' ' : *text);
    }
}

/* vLLM's list of adapters, by which routers choose a server: here all that are loaded are at hand
 * at once, whoever runs. Under the set's mutex. */
static void append_adapters(const struct model_entry *entry, uint32_t max, int64_t now,
                            struct buffer *out)
{
    char names[LIMIT_ADAPTERS][LIMIT_ADAPTER_NAME];
    const uint32_t n = engine_list_adapters(entry->served->engine, names, LIMIT_ADAPTERS);
    buffer_append_str(out, "vllm:lora_requests_info{model_name=\"");
    append_label(out, entry->config.name);
    buffer_printf(out, "\",max_lora=\"%u\",running_lora_adapters=\"", max);
    for (uint32_t i = 0; i < n; i++) {
        buffer_append_str(out, i > 0 ? "," : "");
        append_label(out, names[i]);
    }
    buffer_printf(out, "\",waiting_lora_adapters=\"\"} %lld\n", (long long)now);
}

static void append_all_adapters(struct server *server, struct buffer *out)
{
    struct model_set *set = &server->models;
    const uint32_t max = (uint32_t)server->context.options->max_adapters;
    if (max == 0)
        return;
    buffer_append_str(out, "# TYPE vllm:lora_requests_info gauge\n");
    (void)pthread_mutex_lock(&set->mutex);
    for (uint32_t i = 0; i < set->n; i++)
        if (set->entries[i]->state == MODEL_LOADED && set->entries[i]->served)
            append_adapters(set->entries[i], max, clock_wall_seconds(server->context.clock), out);
    (void)pthread_mutex_unlock(&set->mutex);
}

void endpoint_metrics(struct exchange *x)
{
    struct buffer body;
    buffer_init(&body, LIMIT_METRICS_BYTES);
    metrics_set(x->server->context.metrics, METRIC_HEARTBEAT_AGE, server_heartbeat_age(x->server));
    programs_tick(x->server->programs); /* what changes faster than the clock ticks */
    metrics_render(x->server->context.metrics, &body);
    if (x->server->context.options->metrics_compat) {
        metrics_render_compat(x->server->context.metrics, default_model(x->server), &body);
        append_all_adapters(x->server, &body);
    }
    exchange_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", &body);
}

/* All that there is, one route a line. */
void endpoint_root(struct exchange *x)
{
    static const char text[] = "serverd " PROJECT_VERSION "\n\n"
#define ROUTE(method, path, handler, scope, flags) #method " " path "\n"
#include "server/routes.def"
#undef ROUTE
        ;
    reply_text(x, 200, "text/plain; charset=utf-8", text);
}
