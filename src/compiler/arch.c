#include "compiler/arch.h"

#include "base/error.h"
#include "base/limits.h"
#include "program/dtype.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- the table ----------------------------------------------------------------------------- */

static const struct arch_row rows[] = {
    {.name = "llama", .build = build_llama},
    {.name = "mistral3", .build = build_mistral3},
    {.name = "qwen2", .build = build_qwen2, .is_neox = true},
    {.name = "qwen3", .build = build_qwen3, .is_neox = true},
    {.name = "gemma2",
     .build = build_gemma2,
     .is_neox = true,
     .local_period = 2,
     .wide_n_layers = 46,
     .attn_cap = 50.0f,
     .final_cap = 30.0f},
    {.name = "gemma3",
     .build = build_gemma3,
     .is_neox = true,
     .has_local_rope = true,
     .local_period = 6,
     .wide_n_layers = 62},
    {.name = "phi3", .build = build_phi3, .is_neox = true},
    {.name = "bert", .build = build_bert, .is_encoder = true},
};

static const struct arch_row *find_row(struct source_string name)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(rows[i].name, name.bytes) == 0)
            return &rows[i];
    return NULL;
}

bool arch_rotates_halves(const char *architecture)
{
    const struct arch_row *row = find_row((struct source_string){.bytes = architecture});
    return row && row->is_neox;
}

static serverd_status fail_unknown(const struct source_keys *keys, struct source_string name,
                                   serverd_error *err)
{
    char known[128] = "";
    size_t n = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0] && n < sizeof known; i++)
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", rows[i].name);
    return fail(err, SERVERD_UNSUPPORTED,
                "%s: key general.architecture: unknown architecture \"%.64s\"; supported are %s",
                keys->path, name.bytes, known);
}

/* ---- hyper-parameters ---------------------------------------------------------------------- */

enum { KEY_BYTES = 96 };

/* ARCH.name, as keys of an architecture are called. */
static void full_key(const struct arch *arch, const char *name, char out[KEY_BYTES])
{
    (void)snprintf(out, KEY_BYTES, "%s.%s", arch->row->name, name);
}

static bool has_key(const struct arch *arch, const char *name)
{
    char key[KEY_BYTES];
    full_key(arch, name, key);
    return source_find_key(&arch->source->keys, key) != NULL;
}

static serverd_status need_key(const struct arch *arch, const char *name, serverd_error *err)
{
    char key[KEY_BYTES];
    full_key(arch, name, key);
    return source_need(&arch->source->keys, key, err);
}

static serverd_status get_u32(const struct arch *arch, const char *name, uint32_t min, uint32_t max,
                              uint32_t *out, serverd_error *err)
{
    char key[KEY_BYTES];
    full_key(arch, name, key);
    return source_get_u32(&arch->source->keys, key, min, max, out, err);
}

static serverd_status get_each(const struct arch *arch, const char *name, uint32_t max,
                               uint32_t *out, serverd_error *err)
{
    char key[KEY_BYTES];
    full_key(arch, name, key);
    return source_get_u32_each(&arch->source->keys, key, arch->params.n_layers, 1, max, out, err);
}

static serverd_status get_f64(const struct arch *arch, const char *name, double min, double max,
                              double *out, serverd_error *err)
{
    char key[KEY_BYTES];
    full_key(arch, name, key);
    return source_get_f64(&arch->source->keys, key, min, max, out, err);
}

static serverd_status get_f32(const struct arch *arch, const char *name, double min, double max,
                              float *out, serverd_error *err)
{
    serverd_status status;
    double x = (double)*out;
    if ((status = get_f64(arch, name, min, max, &x, err)) != SERVERD_OK)
        return status;
    *out = (float)x;
    return SERVERD_OK;
}

static serverd_status get_bool(const struct arch *arch, const char *name, bool *out,
                               serverd_error *err)
{
    char key[KEY_BYTES];
    full_key(arch, name, key);
    return source_get_bool(&arch->source->keys, key, out, err);
}

static serverd_status no_memory(const struct arch *arch, serverd_error *err)
{
    return fail(err, SERVERD_NOMEM, "%s: no memory", arch->source->keys.path);
}

/* The sizes that everything else is held against. */
static serverd_status read_sizes(struct arch *arch, serverd_error *err)
{
    serverd_status status;
    struct arch_params *p = &arch->params;
    const struct {
        const char *name;
        uint32_t *out, max;
    } needed[] = {
        {"block_count", &p->n_layers, LIMIT_LAYERS},
        {"embedding_length", &p->n_embd, LIMIT_EMBD},
        {"context_length", &p->n_context, LIMIT_CONTEXT},
    };
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        if ((status = need_key(arch, needed[i].name, err)) != SERVERD_OK ||
            (status = get_u32(arch, needed[i].name, 1, needed[i].max, needed[i].out, err)) !=
                SERVERD_OK)
            return status;
    }
    const struct source_tensor *table = source_find(arch->source, "token_embd.weight");
    if (!table)
        return fail(err, SERVERD_CORRUPT, "%s: tensor token_embd.weight is missing",
                    arch->source->keys.path);
    uint64_t n_tokens = arch->program->vocabulary.n_tokens, n_rows = table->dims[0];
    if (table->rank != 2 || n_rows > LIMIT_VOCAB || n_rows < n_tokens)
        return fail(err, SERVERD_CORRUPT,
                    "%s: tensor token_embd.weight: %" PRIu64 " rows in %u dims for %" PRIu64
                    " tokens, at most %u rows are allowed",
                    arch->source->keys.path, n_rows, table->rank, n_tokens, LIMIT_VOCAB);
    p->n_vocab = (uint32_t)n_rows;
    return SERVERD_OK;
}

static serverd_status read_per_layer(struct arch *arch, serverd_error *err)
{
    serverd_status status;
    struct arch_params *p = &arch->params;
    uint32_t n = p->n_layers;
    uint32_t *each = arena_array(arch->source->arena, 3 * (size_t)n, sizeof *each);
    if (!each)
        return no_memory(arch, err);
    uint32_t *n_ff = each, *n_heads = each + n, *n_kv_heads = each + 2 * (size_t)n;
    if ((status = need_key(arch, "feed_forward_length", err)) != SERVERD_OK ||
        (status = need_key(arch, "attention.head_count", err)) != SERVERD_OK ||
        (status = get_each(arch, "feed_forward_length", LIMIT_FF, n_ff, err)) != SERVERD_OK ||
        (status = get_each(arch, "attention.head_count", LIMIT_HEADS, n_heads, err)) != SERVERD_OK)
        return status;
    memcpy(n_kv_heads, n_heads, n * sizeof *n_heads);
    if ((status = get_each(arch, "attention.head_count_kv", LIMIT_HEADS, n_kv_heads, err)) !=
        SERVERD_OK)
        return status;
    for (uint32_t i = 0; i < n; i++)
        if (n_heads[i] % n_kv_heads[i] != 0)
            return fail(err, SERVERD_CORRUPT,
                        "%s: key %s.attention.head_count_kv: in layer %u %u heads do not share %u "
                        "KV heads evenly",
                        arch->source->keys.path, arch->row->name, i, n_heads[i], n_kv_heads[i]);
    p->n_ff = n_ff;
    p->n_heads = n_heads;
    p->n_kv_heads = n_kv_heads;
    return SERVERD_OK;
}

static serverd_status read_attention(struct arch *arch, serverd_error *err)
{
    serverd_status status;
    struct arch_params *p = &arch->params;
    p->k_dim = p->v_dim = p->n_embd / p->n_heads[0];
    if ((status = get_u32(arch, "attention.key_length", 1, LIMIT_HEAD_DIM, &p->k_dim, err)) !=
            SERVERD_OK ||
        (status = get_u32(arch, "attention.value_length", 1, LIMIT_HEAD_DIM, &p->v_dim, err)) !=
            SERVERD_OK)
        return status;
    if (p->k_dim == 0 || p->k_dim > LIMIT_HEAD_DIM || p->v_dim == 0 || p->v_dim > LIMIT_HEAD_DIM)
        return fail(err, SERVERD_CORRUPT, "%s: heads of %u and %u elements, 1..%u is allowed",
                    arch->source->keys.path, p->k_dim, p->v_dim, LIMIT_HEAD_DIM);
    bool is_causal = !arch->row->is_encoder;
    if ((status = get_bool(arch, "attention.causal", &is_causal, err)) != SERVERD_OK)
        return status;
    if (is_causal == arch->row->is_encoder)
        return fail(err, SERVERD_UNSUPPORTED, "%s: key %s.attention.causal: %s is not supported",
                    arch->source->keys.path, arch->row->name, is_causal ? "true" : "false");
    float scale = 0.0f;
    if ((status = get_f32(arch, "attention.scale", 0, 1e6, &scale, err)) != SERVERD_OK)
        return status;
    if (scale == 0.0f && p->n_layers == arch->row->wide_n_layers) /* the size that differs */
        scale = 1.0f / sqrtf((float)p->n_embd / (float)p->n_heads[0]);
    p->attn_scale = scale > 0.0f ? scale : 1.0f / sqrtf((float)p->k_dim);
    if ((status = get_f32(arch, "attention.temperature_scale", 0, 1e3, &p->temperature_scale,
                          err)) != SERVERD_OK)
        return status;
    p->attn_cap = arch->row->attn_cap;
    p->final_cap = arch->row->final_cap;
    if ((status = get_f32(arch, "attn_logit_softcapping", 0, 1e6, &p->attn_cap, err)) != SERVERD_OK)
        return status;
    return get_f32(arch, "final_logit_softcapping", 0, 1e6, &p->final_cap, err);
}

static serverd_status read_eps(struct arch *arch, serverd_error *err)
{
    serverd_status status;
    const char *name =
        arch->row->is_encoder ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
    if ((status = need_key(arch, name, err)) != SERVERD_OK)
        return status;
    return get_f32(arch, name, 0, 1, &arch->params.eps, err);
}

/* Which layers are local: an array of bools, or all but the last of each period. */
static serverd_status read_windows(struct arch *arch, serverd_error *err)
{
    serverd_status status;
    struct arch_params *p = &arch->params;
    bool *is_local = arena_array(arch->source->arena, p->n_layers, sizeof *is_local);
    if (!is_local)
        return no_memory(arch, err);
    p->is_local = is_local;
    char name[KEY_BYTES];
    full_key(arch, "attention.sliding_window_pattern", name);
    const struct source_key *key = source_find_key(&arch->source->keys, name);
    bool is_listed = key && key->is_array;
    if (!is_listed && arch->row->local_period == 0)
        return SERVERD_OK;
    if ((status = get_u32(arch, "attention.sliding_window", 0, LIMIT_CONTEXT, &p->window, err)) !=
        SERVERD_OK)
        return status;
    if (is_listed) {
        if ((status = source_get_array(&arch->source->keys, name, SOURCE_BOOL, &key, err)) !=
            SERVERD_OK)
            return status;
        if (key->n_items < p->n_layers)
            return fail(err, SERVERD_CORRUPT, "%s: key %s: %" PRIu64 " items for %u layers",
                        arch->source->keys.path, name, key->n_items, p->n_layers);
        memcpy(is_local, key->items, p->n_layers); /* bools of one byte, 0 or 1 */
        return SERVERD_OK;
    }
    uint32_t period = arch->row->local_period;
    if ((status = get_u32(arch, "attention.sliding_window_pattern", 1, LIMIT_LAYERS, &period,
                          err)) != SERVERD_OK)
        return status;
    for (uint32_t i = 0; i < p->n_layers; i++)
        is_local[i] = i % period != period - 1;
    return SERVERD_OK;
}

static serverd_status read_scaling_type(struct arch *arch, serverd_error *err)
{
    serverd_status status;
    static const char *const names[] = {[ROPE_SCALING_NONE] = "none",
                                        [ROPE_SCALING_LINEAR] = "linear",
                                        [ROPE_SCALING_YARN] = "yarn",
                                        [ROPE_SCALING_LONG] = "longrope"};
    char key[KEY_BYTES];
    full_key(arch, "rope.scaling.type", key);
    struct source_string type = {.bytes = "linear", .len = 6};
    if ((status = source_get_string(&arch->source->keys, key, &type, err)) != SERVERD_OK)
        return status;
    for (uint32_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i], type.bytes) == 0) {
            arch->params.scaling = i;
            return SERVERD_OK;
        }
    return fail(err, SERVERD_UNSUPPORTED,
                "%s: key %s: unknown scaling \"%.64s\"; none, linear, yarn and longrope are "
                "supported",
                arch->source->keys.path, key, type.bytes);
}

static serverd_status read_rope(struct arch *arch, serverd_error *err)
{
    serverd_status status;
    struct arch_params *p = &arch->params;
    p->n_rot = p->k_dim;
    if ((status = get_u32(arch, "rope.dimension_count", 2, p->k_dim, &p->n_rot, err)) != SERVERD_OK)
        return status;
    if (p->n_rot % 2 != 0)
        return fail(err, SERVERD_CORRUPT,
                    "%s: key %s.rope.dimension_count: %u, an even number is needed",
                    arch->source->keys.path, arch->row->name, p->n_rot);
    p->rope_base = p->rope_base_local = 10000.0;
    p->rope_factor = p->rope_attn_factor = 1.0;
    p->yarn_beta_fast = 32.0;
    p->yarn_beta_slow = 1.0;
    p->rope_original_context = p->n_context;
    if ((status = read_scaling_type(arch, err)) != SERVERD_OK ||
        (status = get_u32(arch, "rope.scaling.original_context_length", 1, LIMIT_CONTEXT,
                          &p->rope_original_context, err)) != SERVERD_OK)
        return status;
    if (!has_key(arch, "rope.scaling.factor"))
        if ((status = get_f64(arch, "rope.scale_linear", 0, 1e6, &p->rope_factor, err)) !=
            SERVERD_OK)
            return status;
    const struct {
        const char *name;
        double min, max, *out;
    } numbers[] = {
        {"rope.freq_base", 1.001, 1e12, &p->rope_base},
        {"rope.freq_base_swa", 1.001, 1e12, &p->rope_base_local},
        {"rope.scaling.factor", 0, 1e6, &p->rope_factor},
        {"rope.scaling.attn_factor", 0, 1e3, &p->rope_attn_factor},
        {"rope.scaling.yarn_beta_fast", 1e-3, 1e6, &p->yarn_beta_fast},
        {"rope.scaling.yarn_beta_slow", 1e-3, 1e6, &p->yarn_beta_slow},
        {"rope.scaling.yarn_log_multiplier", 0, 1e3, &p->yarn_log_multiplier},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if ((status = get_f64(arch, numbers[i].name, numbers[i].min, numbers[i].max, numbers[i].out,
                              err)) != SERVERD_OK)
            return status;
    if (p->rope_factor == 0.0) /* written by some converters for "no scaling" */
        p->rope_factor = 1.0;
    return SERVERD_OK;
}

enum { POOLING_RANK = 4 }; /* of pooling_type: the first row's scores */

/* As many scores as the last layer has rows. */
static serverd_status read_scores(struct arch *arch, serverd_error *err)
{
    const struct source_tensor *output = source_find(arch->source, "cls.output.weight");
    if (!output)
        return fail(err, SERVERD_CORRUPT, "%s: tensor cls.output.weight is missing",
                    arch->source->keys.path);
    if (output->rank != 2 || output->dims[0] > LIMIT_SCORES)
        return fail(err, SERVERD_CORRUPT,
                    "%s: tensor cls.output.weight: %" PRIu64 " rows in %u dims, at most %u rows "
                    "are allowed",
                    arch->source->keys.path, output->dims[0], output->rank, LIMIT_SCORES);
    arch->params.pooling = SERVERD_POOL_CLS;
    arch->params.n_scores = (uint32_t)output->dims[0];
    return SERVERD_OK;
}

static serverd_status read_pooling(struct arch *arch, serverd_error *err)
{
    serverd_status status;
    arch->params.pooling = SERVERD_POOL_NONE;
    if ((status = get_u32(arch, "pooling_type", 0, UINT32_MAX, &arch->params.pooling, err)) !=
        SERVERD_OK)
        return status;
    if (arch->params.pooling == POOLING_RANK)
        return read_scores(arch, err);
    if (arch->params.pooling > SERVERD_POOL_LAST)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: key %s.pooling_type: %u; mean (1), cls (2), last (3) and rank (4) are "
                    "supported",
                    arch->source->keys.path, arch->row->name, arch->params.pooling);
    if (arch->params.pooling == SERVERD_POOL_NONE) /* one embedding is wanted all the same */
        arch->params.pooling = SERVERD_POOL_MEAN;
    return SERVERD_OK;
}

/* Features that would silently change the result if they were passed over. */
static serverd_status refuse_features(struct arch *arch, serverd_error *err)
{
    serverd_status status;
    uint32_t n_experts = 0;
    if ((status = get_u32(arch, "expert_count", 0, UINT32_MAX, &n_experts, err)) != SERVERD_OK)
        return status;
    if (n_experts > 0)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: key %s.expert_count: %u; mixtures of experts are not supported",
                    arch->source->keys.path, arch->row->name, n_experts);
    return SERVERD_OK;
}

static serverd_status read_params(struct arch *arch, serverd_error *err)
{
    serverd_status status;
    if ((status = refuse_features(arch, err)) != SERVERD_OK ||
        (status = read_sizes(arch, err)) != SERVERD_OK ||
        (status = read_per_layer(arch, err)) != SERVERD_OK ||
        (status = read_attention(arch, err)) != SERVERD_OK ||
        (status = read_eps(arch, err)) != SERVERD_OK ||
        (status = read_windows(arch, err)) != SERVERD_OK)
        return status;
    if (arch->row->is_encoder)
        return read_pooling(arch, err);
    return read_rope(arch, err);
}

/* ---- the program --------------------------------------------------------------------------- */

/* Tables that converters leave behind and every reader computes itself. */
static bool is_leftover(const char *name)
{
    static const char *const endings[] = {".attn_rot_embd", ".rotary_emb.inv_freq",
                                          ".attn_rot_embd.weight"};
    size_t len = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t n = strlen(endings[i]);
        if (len >= n && strcmp(name + len - n, endings[i]) == 0)
            return true;
    }
    return false;
}

/* A tensor that the graph does not read belongs to a variant that is not known here: running
 * without it would give wrong text. */
static serverd_status check_all_used(const struct arch *arch, serverd_error *err)
{
    for (uint32_t i = 0; i < arch->source->n_tensors; i++) {
        const struct source_tensor *tensor = &arch->source->tensors[i];
        if (!tensor->is_used && !is_leftover(tensor->name))
            return fail(err, SERVERD_UNSUPPORTED,
                        "%s: tensor %.200s is not part of architecture %s as it is known here",
                        arch->source->keys.path, tensor->name, arch->row->name);
    }
    return SERVERD_OK;
}

/* Elements by type; the types of one source are few. */
struct type_count {
    uint32_t dtype;
    uint64_t n;
};

static struct type_count *find_count(struct type_count *counts, uint32_t limit, uint32_t dtype)
{
    for (uint32_t i = 0; i + 1 < limit; i++)
        if (counts[i].n == 0 || counts[i].dtype == dtype) {
            counts[i].dtype = dtype;
            return &counts[i];
        }
    return &counts[limit - 1];
}

/* Sizes, and the type that most weights have. */
static void count_weights(const struct source *source, struct program_config *config)
{
    enum { MAX_TYPES = 64 };
    struct type_count counts[MAX_TYPES] = {0}, *most = &counts[0];
    for (uint32_t i = 0; i < source->n_tensors; i++) {
        const struct source_tensor *tensor = &source->tensors[i];
        const struct dtype_info *info = dtype_info(tensor->dtype);
        uint64_t n = tensor->bytes / info->block_bytes * info->block_elements;
        struct type_count *count = find_count(counts, MAX_TYPES, tensor->dtype);
        config->n_parameters += n;
        config->weight_bytes += tensor->bytes;
        count->n += n;
        if (count->n > most->n)
            most = count;
    }
    (void)snprintf(config->quantisation, sizeof config->quantisation, "%s",
                   dtype_info(most->dtype)->name);
}

static void fill_config(const struct arch *arch)
{
    struct program_config *config = &arch->program->config;
    config->n_layers = arch->params.n_layers;
    config->n_embd = arch->params.n_embd;
    config->n_vocab = arch->params.n_vocab;
    config->context_length = arch->params.n_context;
    config->is_encoder = arch->row->is_encoder;
    config->pooling = arch->params.pooling;
    config->n_scores = arch->params.n_scores;
    count_weights(arch->source, config);
}

static serverd_status build_graph(struct arch *arch, serverd_error *err)
{
    struct program *program = arch->program;
    arch->kv_layers = arena_array(program->arena, arch->params.n_layers, sizeof *arch->kv_layers);
    if (!arch->kv_layers)
        return no_memory(arch, err);
    uint32_t output = arch->row->build(arch);
    if (arch->has_failed) {
        *err = arch->err;
        return err->code;
    }
    if (graph_finish(arch->graph, output, &program->graph, err) != SERVERD_OK)
        return error_context(err, "%s", arch->source->keys.path);
    program->kv.layers = arch->kv_layers;
    program->kv.n_layers = arch->n_kv_layers;
    return check_all_used(arch, err);
}

serverd_status arch_build(const struct compile_options *options, struct source *source,
                          struct program *program, serverd_error *err)
{
    serverd_status status;
    struct source_string name = {.bytes = ""};
    if ((status = source_need(&source->keys, "general.architecture", err)) != SERVERD_OK ||
        (status = source_get_string(&source->keys, "general.architecture", &name, err)) !=
            SERVERD_OK)
        return status;
    struct arch arch = {.source = source,
                        .program = program,
                        .row = find_row(name),
                        .layer = UINT32_MAX,
                        .token_table = NO_VALUE};
    if (!arch.row)
        return fail_unknown(&source->keys, name, err);
    arch.narrows_f32 = arch.row->is_encoder && !options->keeps_f32;
    if ((status = read_params(&arch, err)) != SERVERD_OK)
        return status;
    arch.graph = graph_builder_create(program->arena);
    if (!arch.graph)
        return no_memory(&arch, err);
    status = build_graph(&arch, err);
    graph_builder_destroy(arch.graph);
    if (status == SERVERD_OK)
        fill_config(&arch);
    return status;
}
