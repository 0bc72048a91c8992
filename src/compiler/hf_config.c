#include "base/error.h"
#include "base/limits.h"
#include "compiler/hf_config_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_KEYS = 64, POOLING_RANK = 4 };

/* ---- the table of classes ------------------------------------------------------------------ */

#define GEMMA3                                                                                     \
    .arch = "gemma3", .has_unit_norms = true, .has_local_rope = true, .n_heads = 8,                \
    .n_kv_heads = 4, .head_dim = 256, .context = 131072, .window = 4096, .local_period = 6,        \
    .eps = 1e-6, .rope_base = 1e6, .query_scalar = 256, .activation = "gelu_pytorch_tanh"
#define BERT                                                                                       \
    .arch = "bert", .is_encoder = true, .n_heads = 12, .context = 512, .eps = 1e-12,               \
    .activation = "gelu"

static const struct hf_class classes[] = {
    {.name = "LlamaForCausalLM",
     .arch = "llama",
     .n_heads = 32,
     .context = 2048,
     .eps = 1e-6,
     .rope_base = 1e4,
     .activation = "silu"},
    {.name = "MistralForCausalLM",
     .arch = "llama",
     .n_heads = 32,
     .n_kv_heads = 8,
     .context = 131072,
     .window = 4096,
     .local_period = 1,
     .eps = 1e-6,
     .rope_base = 1e4,
     .activation = "silu"},
    {.name = "Mistral3ForConditionalGeneration",
     .arch = "mistral3",
     .has_text_config = true,
     .n_heads = 32,
     .n_kv_heads = 8,
     .context = 131072,
     .window = 4096,
     .local_period = 1,
     .eps = 1e-6,
     .rope_base = 1e4,
     .activation = "silu"},
    {.name = "Qwen2ForCausalLM",
     .arch = "qwen2",
     .n_heads = 32,
     .n_kv_heads = 32,
     .context = 32768,
     .eps = 1e-6,
     .rope_base = 1e4,
     .activation = "silu"},
    {.name = "Qwen3ForCausalLM",
     .arch = "qwen3",
     .n_heads = 32,
     .n_kv_heads = 32,
     .head_dim = 128,
     .context = 32768,
     .eps = 1e-6,
     .rope_base = 1e4,
     .activation = "silu"},
    {.name = "Gemma2ForCausalLM",
     .arch = "gemma2",
     .has_unit_norms = true,
     .n_heads = 8,
     .n_kv_heads = 4,
     .head_dim = 256,
     .context = 8192,
     .window = 4096,
     .local_period = 2,
     .eps = 1e-6,
     .rope_base = 1e4,
     .query_scalar = 256,
     .attn_cap = 50,
     .final_cap = 30,
     .activation = "gelu_pytorch_tanh"},
    {.name = "Gemma3ForCausalLM", GEMMA3},
    {.name = "Gemma3ForConditionalGeneration", .has_text_config = true, GEMMA3},
    {.name = "Phi3ForCausalLM",
     .arch = "phi3",
     .n_heads = 32,
     .context = 4096,
     .local_period = 1,
     .eps = 1e-5,
     .rope_base = 1e4,
     .activation = "silu"},
    {.name = "BertModel", BERT},
    {.name = "BertForSequenceClassification", .has_scores = true, BERT},
    {.name = "RobertaModel", .pads_positions = true, BERT},
    {.name = "RobertaForSequenceClassification", .pads_positions = true, .has_scores = true, BERT},
    {.name = "XLMRobertaModel", .pads_positions = true, BERT},
    {.name = "XLMRobertaForSequenceClassification",
     .pads_positions = true,
     .has_scores = true,
     BERT},
};

static serverd_status find_class(const struct json_place *config, const struct hf_class **out,
                                 serverd_error *err)
{
    const json_t *names = json_place_get(config, "architectures");
    const char *name = json_string_value(json_array_get(names, 0));
    if (!name || json_array_size(names) != 1)
        return json_place_fail(config, "architectures", "an array of one class name", err);
    char known[1024] = "";
    size_t n = 0;
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
        if (strcmp(classes[i].name, name) == 0) {
            *out = &classes[i];
            return SERVERD_OK;
        }
        if (n < sizeof known)
            n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "",
                                  classes[i].name);
    }
    return fail(err, SERVERD_UNSUPPORTED,
                "%s: architectures: unknown class \"%.64s\"; supported are %s", config->file, name,
                known);
}

const struct hf_class *hf_class_of_arch(const char *arch, uint32_t i)
{
    for (size_t k = 0; k < sizeof classes / sizeof classes[0]; k++)
        if (strcmp(classes[k].arch, arch) == 0 && i-- == 0)
            return &classes[k];
    return NULL;
}

/* ---- keys ---------------------------------------------------------------------------------- */

static void put_key(struct key_list *list, const char *name, enum source_type type, uint64_t n,
                    const void *items, size_t bytes)
{
    struct source_keys *keys = &list->source->keys;
    struct arena *arena = list->source->arena;
    char full[96];
    bool is_general = strncmp(name, "general.", 8) == 0;
    int len = snprintf(full, sizeof full, "%s%s%s", is_general ? "" : list->arch,
                       is_general ? "" : ".", name);
    void *copy = arena_alloc(arena, bytes ? bytes : 1);
    const char *own_name = arena_copy(arena, full, (size_t)len);
    if (keys->n_keys == MAX_KEYS || !copy || !own_name)
        list->is_failed = true;
    if (list->is_failed)
        return;
    memcpy(copy, items, bytes);
    keys->keys[keys->n_keys++] = (struct source_key){
        .name = own_name, .type = type, .is_array = n > 0, .n_items = n ? n : 1, .items = copy};
}

void put_u32(struct key_list *list, const char *name, uint32_t value)
{
    put_key(list, name, SOURCE_U32, 0, &value, sizeof value);
}

void put_f64(struct key_list *list, const char *name, double value)
{
    put_key(list, name, SOURCE_F64, 0, &value, sizeof value);
}

void put_bool(struct key_list *list, const char *name, bool value)
{
    put_key(list, name, SOURCE_BOOL, 0, &value, sizeof value);
}

void put_string(struct key_list *list, const char *name, const char *value)
{
    struct source_string text = {.len = (uint32_t)strlen(value)};
    text.bytes = arena_copy(list->source->arena, value, text.len);
    if (!text.bytes)
        list->is_failed = true;
    else
        put_key(list, name, SOURCE_STRING, 0, &text, sizeof text);
}

/* ---- hyper-parameters ---------------------------------------------------------------------- */

struct sizes {
    uint32_t n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim, n_context;
};

static serverd_status read_sizes(const struct json_place *config, const struct hf_class *class,
                                 struct sizes *s, serverd_error *err)
{
    serverd_status status;
    *s = (struct sizes){.n_heads = class->n_heads,
                        .n_kv_heads = class->n_kv_heads,
                        .head_dim = class->head_dim,
                        .n_context = class->context};
    const struct {
        const char *name;
        uint32_t *out, max;
        bool is_needed;
    } rows[] = {
        {"num_hidden_layers", &s->n_layers, LIMIT_LAYERS, true},
        {"hidden_size", &s->n_embd, LIMIT_EMBD, true},
        {"intermediate_size", &s->n_ff, LIMIT_FF, true},
        {"num_attention_heads", &s->n_heads, LIMIT_HEADS, !class->has_text_config},
        {"num_key_value_heads", &s->n_kv_heads, LIMIT_HEADS, false},
        {"head_dim", &s->head_dim, LIMIT_HEAD_DIM, false},
        {"max_position_embeddings", &s->n_context, LIMIT_CONTEXT, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].is_needed &&
            (status = json_place_need(config, rows[i].name, err)) != SERVERD_OK)
            return status;
        if ((status = json_place_u32(config, rows[i].name, 1, rows[i].max, rows[i].out, err)) !=
            SERVERD_OK)
            return status;
    }
    if (s->n_kv_heads == 0)
        s->n_kv_heads = s->n_heads;
    if (s->head_dim == 0 && s->n_embd % s->n_heads != 0)
        return fail(err, SERVERD_CORRUPT,
                    "%s: hidden_size: %u is no multiple of %u num_attention_heads", config->file,
                    s->n_embd, s->n_heads);
    if (s->head_dim == 0)
        s->head_dim = s->n_embd / s->n_heads;
    return SERVERD_OK;
}

static void put_sizes(struct key_list *list, const struct sizes *s)
{
    put_u32(list, "block_count", s->n_layers);
    put_u32(list, "embedding_length", s->n_embd);
    put_u32(list, "feed_forward_length", s->n_ff);
    put_u32(list, "context_length", s->n_context);
    put_u32(list, "attention.head_count", s->n_heads);
    put_u32(list, "attention.head_count_kv", s->n_kv_heads);
    put_u32(list, "attention.key_length", s->head_dim);
    put_u32(list, "attention.value_length", s->head_dim);
}

/* Features that would silently change the result if they were passed over. */
static serverd_status refuse_features(const struct json_place *config, const struct hf_class *class,
                                      serverd_error *err)
{
    serverd_status status;
    const char *activation = class->activation, *positions = "absolute";
    if ((status = json_place_string(config, "hidden_act", &activation, err)) != SERVERD_OK ||
        (status = json_place_string(config, "hidden_activation", &activation, err)) != SERVERD_OK ||
        (status = json_place_string(config, "position_embedding_type", &positions, err)) !=
            SERVERD_OK)
        return status;
    if (strcmp(activation, class->activation) != 0)
        return fail(err, SERVERD_UNSUPPORTED, "%s: hidden_act: \"%.32s\"; %s has \"%s\"",
                    config->file, activation, class->name, class->activation);
    if (class->is_encoder && strcmp(positions, "absolute") != 0)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: position_embedding_type: \"%.32s\"; absolute is supported", config->file,
                    positions);
    bool is_decoder = false;
    if ((status = json_place_bool(config, "is_decoder", &is_decoder, err)) != SERVERD_OK)
        return status;
    if (class->is_encoder && is_decoder)
        return fail(err, SERVERD_UNSUPPORTED, "%s: is_decoder: true is not supported",
                    config->file);
    return SERVERD_OK;
}

static serverd_status import_attention(const struct json_place *config,
                                       const struct hf_class *class, uint32_t head_dim,
                                       struct key_list *list, serverd_error *err)
{
    serverd_status status;
    double scalar = class->query_scalar, attn_cap = class->attn_cap, final_cap = class->final_cap;
    double eps = class->eps;
    const char *eps_name = class->is_encoder ? "layer_norm_eps" : "rms_norm_eps";
    if ((status = json_place_f64(config, eps_name, 0, 1, &eps, err)) != SERVERD_OK)
        return status;
    put_f64(list,
            class->is_encoder ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon",
            eps);
    put_bool(list, "attention.causal", !class->is_encoder);
    if (class->query_scalar == 0.0) /* the members below are Gemma's */
        return SERVERD_OK;
    if (json_place_has(config, "attn_logit_softcapping") &&
        !json_place_get(config, "attn_logit_softcapping"))
        attn_cap = 0;
    if (json_place_has(config, "final_logit_softcapping") &&
        !json_place_get(config, "final_logit_softcapping"))
        final_cap = 0;
    if ((status = json_place_f64(config, "query_pre_attn_scalar", 1e-6, 1e6, &scalar, err)) !=
            SERVERD_OK ||
        (status = json_place_f64(config, "attn_logit_softcapping", 0, 1e6, &attn_cap, err)) !=
            SERVERD_OK ||
        (status = json_place_f64(config, "final_logit_softcapping", 0, 1e6, &final_cap, err)) !=
            SERVERD_OK)
        return status;
    if (scalar != head_dim)
        put_f64(list, "attention.scale", 1.0 / sqrt(scalar));
    put_f64(list, "attn_logit_softcapping", attn_cap);
    put_f64(list, "final_logit_softcapping", final_cap);
    return SERVERD_OK;
}

/* ---- windows ------------------------------------------------------------------------------- */

/* Which layers are local, from layer_types. */
static serverd_status read_layer_types(const struct json_place *config, const json_t *types,
                                       uint32_t n_layers, bool *is_local, serverd_error *err)
{
    if (json_array_size(types) != n_layers)
        return fail(err, SERVERD_CORRUPT, "%s: layer_types: %zu items for %u layers", config->file,
                    json_array_size(types), n_layers);
    for (uint32_t i = 0; i < n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        is_local[i] = type && strcmp(type, "sliding_attention") == 0;
        if (!is_local[i] && (!type || strcmp(type, "full_attention") != 0))
            return fail(err, SERVERD_UNSUPPORTED,
                        "%s: layer_types[%u]: \"%.32s\"; full_attention and sliding_attention are "
                        "supported",
                        config->file, i, type ? type : "");
    }
    return SERVERD_OK;
}

/* By the rule of the class: all but the last of each period, or from max_window_layers on. */
static serverd_status derive_layer_types(const struct json_place *config,
                                         const struct hf_class *class, uint32_t n_layers,
                                         bool *is_local, serverd_error *err)
{
    serverd_status status;
    uint32_t period = class->local_period, first = n_layers;
    bool uses_window = false; /* Qwen's switch */
    if ((status = json_place_u32(config, "sliding_window_pattern", 1, LIMIT_LAYERS, &period,
                                 err)) != SERVERD_OK ||
        (status = json_place_bool(config, "use_sliding_window", &uses_window, err)) != SERVERD_OK)
        return status;
    if (uses_window) {
        first = 28;
        if ((status = json_place_u32(config, "max_window_layers", 0, LIMIT_LAYERS, &first, err)) !=
            SERVERD_OK)
            return status;
    }
    for (uint32_t i = 0; i < n_layers; i++)
        is_local[i] = class->local_period == 0   ? i >= first
                      : class->local_period == 1 ? true
                                                 : i % period != period - 1;
    return SERVERD_OK;
}

/* A window as wide as the context hides nothing. */
static serverd_status import_windows(const struct json_place *config, const struct hf_class *class,
                                     const struct sizes *sizes, struct key_list *list,
                                     serverd_error *err)
{
    serverd_status status;
    const json_t *types = NULL;
    bool is_null =
        json_place_has(config, "sliding_window") && !json_place_get(config, "sliding_window");
    uint32_t window = is_null ? 0 : class->window, n = sizes->n_layers;
    if ((status = json_place_u32(config, "sliding_window", 0, UINT32_MAX, &window, err)) !=
            SERVERD_OK ||
        (status = json_place_array(config, "layer_types", &types, err)) != SERVERD_OK)
        return status;
    bool *is_local = arena_array(list->source->arena, n, sizeof *is_local);
    if (!is_local)
        return fail(err, SERVERD_NOMEM, "%s: no memory", config->file);
    status = types ? read_layer_types(config, types, n, is_local, err)
                   : derive_layer_types(config, class, n, is_local, err);
    if (status != SERVERD_OK || window == 0 || window >= sizes->n_context)
        return status;
    bool is_any = false;
    for (uint32_t i = 0; i < n; i++)
        is_any = is_any || is_local[i];
    if (!is_any)
        return SERVERD_OK;
    put_u32(list, "attention.sliding_window", window);
    put_key(list, "attention.sliding_window_pattern", SOURCE_BOOL, n, is_local, n);
    return SERVERD_OK;
}

/* ---- the whole ----------------------------------------------------------------------------- */

/* Where the sizes of the text model are. */
static serverd_status find_text_config(const struct json_place *root, const struct hf_class *class,
                                       struct json_place *out, serverd_error *err)
{
    *out = *root;
    if (!class->has_text_config)
        return SERVERD_OK;
    serverd_status status = json_place_need(root, "text_config", err);
    return status == SERVERD_OK ? json_place_object(root, "text_config", out, err) : status;
}

static serverd_status import_encoder(const struct json_place *config, const struct hf_class *class,
                                     const struct hf_pooling *pooling, struct sizes *sizes,
                                     uint32_t *first_position, struct key_list *list,
                                     serverd_error *err)
{
    uint32_t padding = 1, first = 0;
    if (class->pads_positions) {
        serverd_status status =
            json_place_u32(config, "pad_token_id", 0, LIMIT_CONTEXT - 1, &padding, err);
        if (status != SERVERD_OK)
            return status;
        first = padding + 1;
    }
    if (sizes->n_context <= first)
        return fail(err, SERVERD_CORRUPT, "%s: max_position_embeddings: %u, more than %u is needed",
                    config->file, sizes->n_context, first);
    sizes->n_context -= first;
    if (pooling->max_tokens != 0 && pooling->max_tokens < sizes->n_context)
        sizes->n_context = pooling->max_tokens;
    put_u32(list, "pooling_type", class->has_scores ? POOLING_RANK : pooling->pooling);
    *first_position = first;
    return SERVERD_OK;
}

static serverd_status import_keys(const struct json_place *root, const struct json_place *config,
                                  const struct hf_pooling *pooling, struct key_list *list,
                                  struct hf_config *made, serverd_error *err)
{
    serverd_status status;
    const struct hf_class *class = made->class;
    struct sizes sizes;
    if ((status = hf_quantised_read(root, &made->quantised, err)) != SERVERD_OK ||
        (status = refuse_features(config, class, err)) != SERVERD_OK ||
        (status = read_sizes(config, class, &sizes, err)) != SERVERD_OK)
        return status;
    put_string(list, "general.architecture", class->arch);
    if (class->is_encoder)
        status = import_encoder(config, class, pooling, &sizes, &made->first_position, list, err);
    else if ((status = import_windows(config, class, &sizes, list, err)) == SERVERD_OK)
        status =
            hf_rope_import(config, class, sizes.head_dim, sizes.n_context, list, &made->rope, err);
    if (status != SERVERD_OK)
        return status;
    put_sizes(list, &sizes);
    made->n_context = sizes.n_context;
    if ((status = json_place_bool(config, "tie_word_embeddings", &made->is_tied, err)) !=
        SERVERD_OK)
        return status;
    return import_attention(config, class, sizes.head_dim, list, err);
}

serverd_status hf_config_import(const struct json_place *root, const struct hf_pooling *pooling,
                                struct source *source, struct hf_config *out, serverd_error *err)
{
    struct hf_config made = {0};
    struct json_place config;
    serverd_status status = find_class(root, &made.class, err);
    if (status != SERVERD_OK ||
        (status = find_text_config(root, made.class, &config, err)) != SERVERD_OK)
        return status;
    source->keys.keys = arena_array(source->arena, MAX_KEYS, sizeof *source->keys.keys);
    struct key_list list = {
        .source = source, .arch = made.class->arch, .is_failed = !source->keys.keys};
    if (!list.is_failed &&
        (status = import_keys(root, &config, pooling, &list, &made, err)) != SERVERD_OK)
        return status;
    if (list.is_failed)
        return fail(err, SERVERD_NOMEM, "%s: no memory for its keys", root->file);
    *out = made;
    return source_sort_keys(&source->keys, err);
}
