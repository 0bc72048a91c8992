#include "server/api_request.h"
#include "server/endpoints.h"
#include "server/server_internal.h"

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

/* `id` is its name or an alias, of n bytes. */
static void write_model(struct exchange *x, const struct served_model *model, const char *id,
                        size_t n, struct buffer *out)
{
    const struct program_config *config = &model->program->config;
    const struct program_sampling none = {0};
    bool uses_own = exchange_context(x)->options->sampling_defaults == 0;
    buffer_append_str(out, "{\"id\":\"");
    buffer_append_json(out, id, n);
    buffer_printf(out,
                  "\",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"serverd\",\"root\":",
                  (long long)model->created);
    write_text(out, model->name);
    buffer_printf(
        out,
        ",\"parent\":null,\"max_model_len\":%u,\"meta\":{\"n_params\":%llu,\"n_vocab\":%u,"
        "\"n_ctx_train\":%u,\"n_embd\":%u,\"size_bytes\":%llu,\"quantization\":",
        model->context_size, (unsigned long long)config->n_parameters, config->n_vocab,
        config->context_length, config->n_embd, (unsigned long long)config->weight_bytes);
    write_text(out, config->quantisation);
    buffer_printf(out, ",\"modalities\":[\"text\"],\"capabilities\":[\"%s\"]",
                  config->n_scores     ? "rerank"
                  : config->is_encoder ? "embeddings"
                                       : "completion");
    write_sampling(uses_own ? &model->program->sampling : &none, out);
    buffer_append_str(out, ",\"loaded\":true}}");
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

static void write_aliases(struct exchange *x, const struct served_model *model, struct buffer *out)
{
    const char *at = model->aliases, *alias;
    size_t n;
    while ((alias = api_next_alias(&at, &n))) {
        buffer_append_char(out, ',');
        write_model(x, model, alias, n, out);
    }
}

static void write_adapters(const struct served_model *model, struct buffer *out)
{
    char names[LIMIT_ADAPTERS][LIMIT_ADAPTER_NAME];
    uint32_t n = engine_list_adapters(model->engine, names, LIMIT_ADAPTERS);
    for (uint32_t i = 0; i < n; i++) {
        buffer_append_char(out, ',');
        write_adapter(model, names[i], out);
    }
}

/* Anthropic's form, for its clients: {"type":"model","id","display_name","created_at"}. */
static void write_anthropic_model(const struct served_model *model, const char *id, size_t n,
                                  struct buffer *out)
{
    char created[32];
    struct tm utc;
    time_t seconds = (time_t)model->created;
    (void)strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&seconds, &utc));
    buffer_append_str(out, "{\"type\":\"model\",\"id\":\"");
    buffer_append_json(out, id, n);
    buffer_append_str(out, "\",\"display_name\":\"");
    buffer_append_json(out, id, n);
    buffer_printf(out, "\",\"created_at\":\"%s\"}", created);
}

static void write_anthropic_list(const struct served_model *model, struct buffer *out)
{
    if (!model) {
        buffer_append_str(out,
                          "{\"data\":[],\"has_more\":false,\"first_id\":null,\"last_id\":null}");
        return;
    }
    char names[LIMIT_ADAPTERS][LIMIT_ADAPTER_NAME];
    const uint32_t n_adapters = engine_list_adapters(model->engine, names, LIMIT_ADAPTERS);
    const char *at = model->aliases, *alias, *last = model->name;
    size_t n, n_last = strlen(last);
    buffer_append_str(out, "{\"data\":[");
    write_anthropic_model(model, last, n_last, out);
    while ((alias = api_next_alias(&at, &n))) {
        buffer_append_char(out, ',');
        write_anthropic_model(model, alias, n, out);
        last = alias;
        n_last = n;
    }
    for (uint32_t i = 0; i < n_adapters; i++) {
        last = names[i];
        n_last = strlen(last);
        buffer_append_char(out, ',');
        write_anthropic_model(model, last, n_last, out);
    }
    buffer_append_str(out, "],\"has_more\":false,\"first_id\":");
    write_text(out, model->name);
    buffer_append_str(out, ",\"last_id\":\"");
    buffer_append_json(out, last, n_last);
    buffer_append_str(out, "\"}");
}

static bool wants_anthropic(const struct exchange *x)
{
    return exchange_header(x, "anthropic-version") != NULL;
}

void endpoint_models_list(struct exchange *x)
{
    const struct served_model *model = atomic_load(&x->server->model);
    struct buffer body;
    buffer_init(&body, 4 * MIB);
    if (wants_anthropic(x)) {
        write_anthropic_list(model, &body);
    } else {
        buffer_append_str(&body, "{\"object\":\"list\",\"data\":[");
        if (model) { /* none while it is being loaded */
            write_model(x, model, model->name, strlen(model->name), &body);
            write_aliases(x, model, &body);
            write_adapters(model, &body);
        }
        buffer_append_str(&body, "]}");
    }
    exchange_reply(x, 200, "application/json", &body);
    buffer_deinit(&body);
}

void endpoint_models_get(struct exchange *x)
{
    const struct served_model *model = atomic_load(&x->server->model);
    const char *name = exchange_path_rest(x);
    struct api_error e;
    if (!model) {
        api_error_set(&e, "model_loading", NULL, "The model is being loaded.");
        exchange_fail(x, &e);
        return;
    }
    if (!api_check_model(model, name, &e)) {
        exchange_fail(x, &e);
        return;
    }
    struct buffer body;
    buffer_init(&body, 64 * KIB);
    if (strcmp(name, "default") == 0)
        name = model->name;
    if (wants_anthropic(x))
        write_anthropic_model(model, name, strlen(name), &body);
    else if (api_adapter_name(model, name))
        write_adapter(model, name, &body);
    else
        write_model(x, model, name, strlen(name), &body);
    exchange_reply(x, 200, "application/json", &body);
    buffer_deinit(&body);
}
