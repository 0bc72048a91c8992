#include "server/endpoints.h"
#include "server/request/api_request.h"
#include "server/request/json_body.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static void write_text(struct buffer *out, const char *s)
{
    buffer_append_char(out, '"');
    buffer_append_json(out, s, strlen(s));
    buffer_append_char(out, '"');
}

static void write_sampling(const struct program_sampling *s, struct buffer *out)
{
    buffer_append_str(out, ",\"sampling_defaults\":{\"temperature\":");
    buffer_append_f32(out, s->has_temperature ? s->temperature : 1.0f);
    buffer_printf(out, ",\"top_k\":%d,\"top_p\":", s->has_top_k ? s->top_k : 0);
    buffer_append_f32(out, s->has_top_p ? s->top_p : 1.0f);
    buffer_append_str(out, ",\"min_p\":");
    buffer_append_f32(out, s->has_min_p ? s->min_p : 0.0f);
    buffer_append_str(out, ",\"repetition_penalty\":");
    buffer_append_f32(out, s->has_repetition_penalty ? s->repetition_penalty : 1.0f);
    buffer_append_char(out, '}');
}

/* What is known of a model without loading it. `id` is its name or an alias, of n bytes. */
static void write_head(const char *id, size_t n, const struct model_entry *entry, int64_t created,
                       struct buffer *out)
{
    buffer_append_str(out, "{\"id\":\"");
    buffer_append_json(out, id, n);
    buffer_printf(out,
                  "\",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"serverd\",\"root\":",
                  (long long)created);
    write_text(out, entry->config.name);
    buffer_append_str(out, ",\"parent\":null,\"status\":{\"value\":");
    write_text(out, model_state_name(entry));
    buffer_append_char(out, '}');
}

static void write_meta(struct exchange *x, const struct served_model *model, bool is_loaded,
                       struct buffer *out)
{
    const struct program_config *config = &model->program->config;
    const struct program_sampling none = {0};
    bool uses_own = exchange_context(x)->options->sampling_defaults == 0;
    buffer_printf(out,
                  ",\"max_model_len\":%u,\"meta\":{\"n_params\":%llu,\"n_vocab\":%u,"
                  "\"n_ctx_train\":%u,\"n_embd\":%u,\"size_bytes\":%llu,\"quantization\":",
                  model->context_size, (unsigned long long)config->n_parameters, config->n_vocab,
                  config->context_length, config->n_embd, (unsigned long long)config->weight_bytes);
    write_text(out, config->quantisation);
    buffer_printf(out, ",\"modalities\":[\"text\"],\"capabilities\":[\"%s\"]",
                  config->n_scores     ? "rerank"
                  : config->is_encoder ? "embeddings"
                                       : "completion");
    write_sampling(uses_own ? &model->program->sampling : &none, out);
    buffer_printf(out, ",\"loaded\":%s}}", is_loaded ? "true" : "false");
}

static int64_t created(struct exchange *x, const struct model_entry *entry)
{
    return entry->served ? entry->served->created : x->server->created;
}

static void write_model(struct exchange *x, const struct model_entry *entry, const char *id,
                        size_t n, struct buffer *out)
{
    write_head(id, n, entry, created(x, entry), out);
    if (entry->served)
        write_meta(x, entry->served, entry->state == MODEL_LOADED, out);
    else
        buffer_append_str(out, ",\"meta\":{\"loaded\":false}}");
}

/* Adapters are models of their own with the loaded one as parent. */
static void write_adapter(const struct served_model *model, const char *name, struct buffer *out)
{
    buffer_append_str(out, "{\"id\":");
    write_text(out, name);
    buffer_printf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"serverd\",\"root\":",
                  (long long)model->created);
    write_text(out, name);
    buffer_append_str(out, ",\"parent\":");
    write_text(out, model->name);
    buffer_printf(out, ",\"max_model_len\":%u}", model->context_size);
}

/* Anthropic's form, for its clients: {"type":"model","id","display_name","created_at"}. */
static void write_anthropic_model(int64_t created_s, const char *id, size_t n, struct buffer *out)
{
    char at[32];
    struct tm utc;
    time_t seconds = (time_t)created_s;
    (void)strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&seconds, &utc));
    buffer_append_str(out, "{\"type\":\"model\",\"id\":\"");
    buffer_append_json(out, id, n);
    buffer_append_str(out, "\",\"display_name\":\"");
    buffer_append_json(out, id, n);
    buffer_printf(out, "\",\"created_at\":\"%s\"}", at);
}

/* ---- lists ------------------------------------------------------------------------------------
 */

/* A list as it is written; in it stand models, their aliases and loaded adapters. */
struct list {
    struct exchange *x;
    struct buffer *out;
    bool is_anthropic;
    uint32_t n;
    char first[LIMIT_MODEL_NAME], last[LIMIT_MODEL_NAME]; /* ids */
};

static void begin_item(struct list *list, const char *id, size_t n)
{
    if (list->n++ > 0)
        buffer_append_char(list->out, ',');
    (void)snprintf(list->last, sizeof list->last, "%.*s", (int)n, id);
    if (list->n == 1)
        memcpy(list->first, list->last, sizeof list->first);
}

static void add_id(struct list *list, const struct model_entry *entry, const char *id, size_t n)
{
    begin_item(list, id, n);
    if (list->is_anthropic)
        write_anthropic_model(created(list->x, entry), id, n, list->out);
    else
        write_model(list->x, entry, id, n, list->out);
}

static void add_adapters(struct list *list, const struct served_model *model)
{
    char names[LIMIT_ADAPTERS][LIMIT_ADAPTER_NAME];
    uint32_t n = engine_list_adapters(model->engine, names, LIMIT_ADAPTERS);
    for (uint32_t i = 0; i < n; i++) {
        begin_item(list, names[i], strlen(names[i]));
        if (list->is_anthropic)
            write_anthropic_model(model->created, names[i], strlen(names[i]), list->out);
        else
            write_adapter(model, names[i], list->out);
    }
}

static void add_model(struct list *list, const struct model_entry *entry)
{
    const char *at = entry->config.aliases, *alias;
    size_t n;
    add_id(list, entry, entry->config.name, strlen(entry->config.name));
    while ((alias = api_next_alias(&at, &n)))
        add_id(list, entry, alias, n);
    if (entry->served)
        add_adapters(list, entry->served);
}

static void add_models(struct list *list)
{
    struct model_set *set = &list->x->server->models;
    (void)pthread_mutex_lock(&set->mutex);
    for (uint32_t i = 0; i < set->n; i++)
        if (!set->entries[i]->is_missing)
            add_model(list, set->entries[i]);
    (void)pthread_mutex_unlock(&set->mutex);
}

static void end_anthropic_list(const struct list *list)
{
    buffer_append_str(list->out, "],\"has_more\":false,\"first_id\":");
    if (list->n == 0) {
        buffer_append_str(list->out, "null,\"last_id\":null}");
        return;
    }
    write_text(list->out, list->first);
    buffer_append_str(list->out, ",\"last_id\":");
    write_text(list->out, list->last);
    buffer_append_char(list->out, '}');
}

static bool wants_anthropic(const struct exchange *x)
{
    return exchange_header(x, "anthropic-version") != NULL;
}

void endpoint_models_list(struct exchange *x)
{
    struct buffer body;
    struct list list = {.x = x, .out = &body, .is_anthropic = wants_anthropic(x)};
    buffer_init(&body, 4 * MIB);
    buffer_append_str(&body, list.is_anthropic ? "{\"data\":[" : "{\"object\":\"list\",\"data\":[");
    add_models(&list);
    if (list.is_anthropic)
        end_anthropic_list(&list);
    else
        buffer_append_str(&body, "]}");
    exchange_reply(x, 200, "application/json", &body);
    buffer_deinit(&body);
}

/* ---- one of them -------------------------------------------------------------------------------
 */

/* Under the mutex. False: there is none of this name. */
static bool write_named(struct exchange *x, const char *name, struct buffer *out)
{
    const struct model_entry *entry = model_set_find(&x->server->models, name);
    if (!entry)
        return false;
    const struct model_config *config = &entry->config;
    const char *adapter = api_adapter_of(config->name, config->aliases, name);
    if (adapter && !(entry->served && engine_has_adapter(entry->served->engine, adapter)))
        return false;
    if (strcmp(name, "default") == 0)
        name = config->name;
    if (wants_anthropic(x))
        write_anthropic_model(created(x, entry), name, strlen(name), out);
    else if (adapter)
        write_adapter(entry->served, adapter, out);
    else
        write_model(x, entry, name, strlen(name), out);
    return true;
}

static void reply_named(struct exchange *x, int status, const char *name)
{
    struct model_set *set = &x->server->models;
    struct buffer body;
    struct api_error e;
    buffer_init(&body, 64 * KIB);
    (void)pthread_mutex_lock(&set->mutex);
    const bool is_found = write_named(x, name, &body);
    (void)pthread_mutex_unlock(&set->mutex);
    if (is_found) {
        exchange_reply(x, status, "application/json", &body);
    } else {
        api_error_unknown_model(&e, name);
        exchange_fail(x, &e);
    }
    buffer_deinit(&body);
}

void endpoint_models_get(struct exchange *x)
{
    reply_named(x, 200, exchange_path_rest(x));
}

/* ---- loading and unloading ---------------------------------------------------------------------
 */

/* False: the reply is an error. */
static bool order(struct exchange *x, const char *name, bool is_load)
{
    struct model_set *set = &x->server->models;
    struct api_error e;
    bool is_pinned = false;
    (void)pthread_mutex_lock(&set->mutex);
    struct model_entry *entry = model_set_find(set, name);
    if (entry && is_load)
        model_set_want(set, entry);
    else if (entry)
        is_pinned = !model_set_unload(set, entry);
    (void)pthread_mutex_unlock(&set->mutex);
    if (!entry)
        api_error_unknown_model(&e, name);
    else if (is_pinned)
        api_error_set(&e, "busy", "model", "The model `%.100s` stays loaded.", name);
    else
        return true;
    exchange_fail(x, &e);
    return false;
}

static void change(struct exchange *x, bool is_load)
{
    struct api_error e;
    json_t *root;
    if (!exchange_take_json(x, &root, &e)) {
        exchange_fail(x, &e);
        return;
    }
    const char *name = json_string_value(json_body_get(root, "model"));
    if (!name || *name == '\0') {
        api_error_set(&e, "missing_required_parameter", "model", "model has to name a model.");
        exchange_fail(x, &e);
    } else if (atomic_load(&x->server->is_draining)) {
        api_error_set(&e, "draining", NULL, "The server is going down.");
        exchange_fail(x, &e);
    } else if (order(x, name, is_load)) {
        reply_named(x, 202, name);
    }
    json_decref(root);
}

void endpoint_load_model(struct exchange *x)
{
    change(x, true);
}

void endpoint_unload_model(struct exchange *x)
{
    change(x, false);
}
