/* What operators do and ask: drain, forget the cache, load, configuration. */
#include "base/numeric.h"
#include "server/endpoints.h"
#include "server/request/json_body.h"
#include "server/server_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#ifndef PROJECT_VERSION
#define PROJECT_VERSION "0"
#endif

#define LONGEST_DRAIN 86400.0 /* s */
#define LONGEST_FLUSH 3600u   /* s */

static void append_text(struct buffer *out, const char *text)
{
    buffer_append_char(out, '"');
    buffer_append_json(out, text, strlen(text));
    buffer_append_char(out, '"');
}

/* ---- drain --------------------------------------------------------------------------------------
 */

static void reply_drain(struct exchange *x, const char *status)
{
    struct model_set_health engine;
    struct buffer body;
    model_set_health(&x->server->models, &engine);
    buffer_init(&body, 1 * KIB);
    buffer_printf(&body, "{\"status\":\"%s\",\"num_running_reqs\":%u,\"num_waiting_reqs\":%u}",
                  status, engine.n_running, engine.n_waiting);
    exchange_reply(x, 200, "application/json", &body);
}

/* timeout_s of a body that may be empty. */
static bool read_timeout(struct exchange *x, double *seconds, struct api_error *e)
{
    size_t n;
    const char *bytes = exchange_body(x, &n);
    json_t *root;
    *seconds = exchange_context(x)->options->drain_timeout;
    if (n == 0)
        return true;
    if (!json_body_parse(bytes, n, &root, e))
        return false;
    const char *name;
    json_t *value;
    bool is_good = true;
    json_object_foreach(root, name, value)
    {
        if (strcmp(name, "timeout_s") != 0) {
            exchange_ignored_field(x, name);
        } else if (!json_is_null(value)) {
            *seconds = json_number_value(value);
            is_good = json_is_number(value) && *seconds >= 0 && *seconds <= LONGEST_DRAIN;
        }
    }
    json_decref(root);
    if (!is_good)
        api_error_set(e, "invalid_value", "timeout_s",
                      "timeout_s has to be a number of seconds, 0 to %g.", LONGEST_DRAIN);
    return is_good;
}

void endpoint_drain(struct exchange *x)
{
    struct api_error e;
    double seconds;
    if (!read_timeout(x, &seconds, &e)) {
        exchange_fail(x, &e);
        return;
    }
    log_info(exchange_context(x)->log, "server", "drain: no new requests, %g s for the others",
             seconds);
    server_pause(x->server, (uint64_t)(seconds * 1e9));
    reply_drain(x, "draining");
}

void endpoint_undrain(struct exchange *x)
{
    struct api_error e;
    if (server_resume(x->server)) {
        log_info(exchange_context(x)->log, "server", "drain: taken back");
        reply_drain(x, "serving");
        return;
    }
    api_error_set(&e, "draining", NULL, "The server is ending.");
    exchange_fail(x, &e);
}

/* ---- replies that need the engine thread --------------------------------------------------------
 */

struct operation_reply {
    struct exchange *x;
    const struct served_model *model;
    struct inspection *inspection;
};

static void on_event(void *state, struct event *event, struct buffer *out)
{
    struct operation_reply *reply = state;
    (void)out;
    if (event->kind != EVENT_END)
        return;
    reply->inspection = event->inspection;
    event->inspection = NULL;
}

static void destroy(void *state)
{
    struct operation_reply *reply = state;
    if (!reply)
        return;
    inspection_destroy(reply->inspection);
    free(reply);
}

/* The encoder lives no longer than its exchange. */
static void inspect(struct exchange *x, const struct inspection_options *options,
                    const struct reply_encoder *encoder)
{
    struct operation_reply *reply = calloc(1, sizeof *reply);
    if (!reply) {
        struct api_error e;
        (void)api_error_no_memory(&e);
        exchange_fail(x, &e);
        return;
    }
    reply->x = x;
    reply->model = exchange_model(x);
    exchange_inspect(x, options, encoder, reply);
}

/* ---- the cache ---------------------------------------------------------------------------------
 */

static void on_flush_end(void *state, struct buffer *out)
{
    const struct operation_reply *reply = state;
    const struct cache_totals *totals = &reply->inspection->totals;
    buffer_printf(out, "{\"success\":true,\"locked_pages\":%u}",
                  totals->n_locked + totals->n_private);
}

static const struct reply_encoder flush_encoder = {
    .on_event = on_event, .on_end = on_flush_end, .destroy = destroy};

void endpoint_flush_cache(struct exchange *x)
{
    struct api_error e;
    uint32_t seconds = 0;
    if (!exchange_query_u32(x, "timeout", 0, LONGEST_FLUSH, &seconds, &e)) {
        exchange_fail(x, &e);
        return;
    }
    const struct inspection_options options = {.kind = INSPECT_FLUSH,
                                               .duration_ns = seconds * UINT64_C(1000000000)};
    inspect(x, &options, &flush_encoder);
}

/* ---- load ---------------------------------------------------------------------------------------
 */

static void write_load(const struct served_model *model, double n_cached, double n_computed,
                       struct buffer *out)
{
    struct engine_status s;
    engine_status(model->engine, &s);
    buffer_append_str(out, "{\"model\":");
    append_text(out, model->name);
    buffer_printf(out,
                  ",\"num_running_reqs\":%u,\"num_waiting_reqs\":%u,\"waiting_tokens\":%" PRIu64
                  ",\"token_usage\":",
                  s.n_running, s.n_waiting, s.n_waiting_tokens);
    buffer_append_f64(out, s.n_pages ? 1.0 - (double)s.n_free_pages / s.n_pages : 0.0);
    buffer_append_str(out, ",\"gen_throughput\":");
    buffer_append_f64(out, s.tokens_per_second);
    buffer_append_str(out, ",\"cache_hit_rate\":");
    buffer_append_f64(out, n_cached > 0 ? n_cached / (n_cached + n_computed) : 0.0);
    buffer_append_char(out, '}');
}

/* The model whose engine was asked, and what others' engines count anyway. */
static void on_loads_end(void *state, struct buffer *out)
{
    const struct operation_reply *reply = state;
    const struct cache_use *use = &reply->inspection->totals.use;
    struct model_set *set = &reply->x->server->models;
    buffer_append_str(out, "{\"loads\":[");
    write_load(reply->model, (double)use->n_cached, (double)use->n_computed, out);
    (void)pthread_mutex_lock(&set->mutex);
    for (uint32_t i = 0; i < set->n; i++) {
        const struct model_entry *entry = set->entries[i];
        if (!entry->served || entry->served == reply->model)
            continue;
        buffer_append_char(out, ',');
        write_load(entry->served, metrics_get(entry->config.metrics, METRIC_CACHED_TOKENS),
                   metrics_get(entry->config.metrics, METRIC_COMPUTED_TOKENS), out);
    }
    (void)pthread_mutex_unlock(&set->mutex);
    buffer_printf(out, "],\"timestamp\":%" PRId64 "}",
                  clock_wall_seconds(exchange_context(reply->x)->clock));
}

static const struct reply_encoder loads_encoder = {
    .on_event = on_event, .on_end = on_loads_end, .destroy = destroy};

static const struct inspection_options totals_only = {.kind = INSPECT_CACHE};

void endpoint_loads(struct exchange *x)
{
    inspect(x, &totals_only, &loads_encoder);
}

/* ---- what runs ----------------------------------------------------------------------------------
 */

/* A place of a running sequence is called a slot by llama-server; record NULL: a free one. */
static void write_slot(const struct operation_reply *reply, uint32_t i,
                       const struct request_record *record, struct buffer *out)
{
    const bool guesses = exchange_context(reply->x)->options->speculation != 0;
    buffer_printf(out, "%s{\"id\":%u,\"n_ctx\":%u,\"speculative\":%s,\"is_processing\":%s",
                  i > 0 ? "," : "", i, reply->model->context_size, guesses ? "true" : "false",
                  record ? "true" : "false");
    if (record)
        buffer_printf(out,
                      ",\"id_task\":%" PRIu64
                      ",\"n_prompt_tokens\":%u,\"n_prompt_tokens_cache\":%u,\"next_token\":"
                      "{\"has_next_token\":true,\"n_decoded\":%u}",
                      record->id, record->n_prompt, record->n_cached, record->n_output);
    buffer_append_char(out, '}');
}

static void on_slots_end(void *state, struct buffer *out)
{
    const struct operation_reply *reply = state;
    const struct inspection *found = reply->inspection;
    const uint32_t n_slots = (uint32_t)exchange_context(reply->x)->options->max_running;
    buffer_append_char(out, '[');
    for (uint32_t i = 0; i < max_u32(n_slots, found->n_requests); i++)
        write_slot(reply, i, i < found->n_requests ? &found->requests[i] : NULL, out);
    buffer_append_char(out, ']');
}

static const struct reply_encoder slots_encoder = {
    .on_event = on_event, .on_end = on_slots_end, .destroy = destroy};

void endpoint_slots(struct exchange *x)
{
    const struct inspection_options running = {.kind = INSPECT_REQUESTS};
    inspect(x, &running, &slots_encoder);
}

/* ---- configuration -----------------------------------------------------------------------------
 */

static void on_info_end(void *state, struct buffer *out)
{
    const struct operation_reply *reply = state;
    const struct cache_totals *totals = &reply->inspection->totals;
    const struct cache_use *use = &totals->use;
    buffer_append_str(out, "{\"version\":\"" PROJECT_VERSION "\",\"served_model_name\":");
    append_text(out, reply->model->name);
    buffer_append_str(out, ",\"device\":");
    append_text(out, reply->model->device);
    buffer_printf(out,
                  ",\"context_length\":%u,\"page_size\":%u,\"max_total_num_tokens\":%" PRIu64
                  ",\"internal_states\":[{\"avg_spec_accept_length\":",
                  reply->model->context_size, SERVERD_PAGE_TOKENS,
                  (uint64_t)totals->n_pages * SERVERD_PAGE_TOKENS);
    if (use->n_draft_checks > 0) /* a step gives one token, and those that were guessed right */
        buffer_append_f64(out, 1.0 + (double)use->n_draft_accepted / (double)use->n_draft_checks);
    else
        buffer_append_str(out, "null");
    buffer_append_str(out, "}],\"options\":");
    options_write_json(exchange_context(reply->x)->options, out);
    buffer_append_char(out, '}');
}

static const struct reply_encoder info_encoder = {
    .on_event = on_event, .on_end = on_info_end, .destroy = destroy};

void endpoint_server_info(struct exchange *x)
{
    inspect(x, &totals_only, &info_encoder);
}
