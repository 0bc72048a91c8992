/* Rotary position embeddings as config.json states them: rope_theta with rope_scaling, or
 * rope_parameters, for all layers or by their type. */
#include "base/error.h"
#include "base/limits.h"
#include "compiler/hf_config_internal.h"

#include <math.h>
#include <string.h>

/* What is being imported, handed from step to step. */
struct rope_input {
    const struct json_place *config;
    struct json_place scaling; /* object NULL: none */
    double base;
    uint32_t n_rot, n_context;
    struct key_list *list;
    struct hf_rope *out;
};

static serverd_status fail_memory(const struct rope_input *in, serverd_error *err)
{
    return fail(err, SERVERD_NOMEM, "%s: no memory for rope tables", in->config->file);
}

static serverd_status read_factor(const struct rope_input *in, double *out, serverd_error *err)
{
    serverd_status status = json_place_need(&in->scaling, "factor", err);
    if (status == SERVERD_OK)
        status = json_place_f64(&in->scaling, "factor", 1e-3, 1e6, out, err);
    return status;
}

/* In the scaling's object, or (Phi 3) in the configuration; else the context. */
static serverd_status read_original(const struct rope_input *in, uint32_t *out, serverd_error *err)
{
    static const char name[] = "original_max_position_embeddings";
    *out = in->n_context;
    serverd_status status = json_place_u32(in->config, name, 1, LIMIT_CONTEXT, out, err);
    if (status == SERVERD_OK)
        status = json_place_u32(&in->scaling, name, 1, LIMIT_CONTEXT, out, err);
    return status;
}

/* ---- types of scaling ---------------------------------------------------------------------- */

static serverd_status import_default(struct rope_input *in, serverd_error *err)
{
    (void)in, (void)err;
    return SERVERD_OK;
}

static serverd_status import_linear(struct rope_input *in, serverd_error *err)
{
    double factor;
    serverd_status status = read_factor(in, &factor, err);
    if (status != SERVERD_OK)
        return status;
    put_string(in->list, "rope.scaling.type", "linear");
    put_f64(in->list, "rope.scaling.factor", factor);
    return SERVERD_OK;
}

/* Llama 3.1: long waves are divided by the factor, short ones kept, those between interpolated in
 * the number of turns within the original context. */
static serverd_status import_llama3(struct rope_input *in, serverd_error *err)
{
    serverd_status status;
    double factor = 8, low = 1, high = 4;
    uint32_t original = 8192;
    if ((status = read_factor(in, &factor, err)) != SERVERD_OK ||
        (status = json_place_f64(&in->scaling, "low_freq_factor", 1e-3, 1e6, &low, err)) !=
            SERVERD_OK ||
        (status = json_place_f64(&in->scaling, "high_freq_factor", 1e-3, 1e6, &high, err)) !=
            SERVERD_OK ||
        (status = json_place_u32(&in->scaling, "original_max_position_embeddings", 1, LIMIT_CONTEXT,
                                 &original, err)) != SERVERD_OK)
        return status;
    if (high <= low)
        return json_place_fail(&in->scaling, "high_freq_factor", "more than low_freq_factor", err);
    float *divisors = arena_array(in->list->source->arena, in->n_rot / 2, sizeof *divisors);
    if (!divisors)
        return fail_memory(in, err);
    for (uint32_t i = 0; i < in->n_rot / 2; i++) {
        double wave = 2.0 * M_PI * pow(in->base, 2.0 * i / in->n_rot);
        double t = (original / wave - low) / (high - low);
        divisors[i] = (float)(t >= 1.0 ? 1.0 : t <= 0.0 ? factor : 1.0 / ((1.0 - t) / factor + t));
    }
    in->out->divisors = divisors;
    return SERVERD_OK;
}

/* YaRN's multiplier of cos and sin for a slope: 1 + slope * 0.1 ln factor. */
static double yarn_mscale(double factor, double slope)
{
    return factor > 1.0 ? 1.0 + 0.1 * slope * log(factor) : 1.0;
}

static serverd_status import_yarn(struct rope_input *in, serverd_error *err)
{
    serverd_status status;
    double factor, fast = 32, slow = 1, slope = 0, slope_all = 0, attention = 0, temperature = 0;
    uint32_t original;
    bool truncates = true;
    const struct {
        const char *name;
        double min, *out;
    } numbers[] = {{"beta_fast", 1e-3, &fast},
                   {"beta_slow", 1e-3, &slow},
                   {"mscale", 0, &slope},
                   {"mscale_all_dim", 0, &slope_all},
                   {"attention_factor", 1e-3, &attention},
                   {"llama_4_scaling_beta", 0, &temperature}};
    if ((status = read_factor(in, &factor, err)) != SERVERD_OK ||
        (status = read_original(in, &original, err)) != SERVERD_OK ||
        (status = json_place_bool(&in->scaling, "truncate", &truncates, err)) != SERVERD_OK)
        return status;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if ((status = json_place_f64(&in->scaling, numbers[i].name, numbers[i].min, 1e6,
                                     numbers[i].out, err)) != SERVERD_OK)
            return status;
    if (!truncates)
        return fail(err, SERVERD_UNSUPPORTED, "%s: %s.truncate: false is not supported",
                    in->config->file, in->scaling.where);
    if (attention == 0 && slope > 0 && slope_all > 0)
        attention = yarn_mscale(factor, slope) / yarn_mscale(factor, slope_all);
    put_string(in->list, "rope.scaling.type", "yarn");
    put_f64(in->list, "rope.scaling.factor", factor);
    put_u32(in->list, "rope.scaling.original_context_length", original);
    put_f64(in->list, "rope.scaling.yarn_beta_fast", fast);
    put_f64(in->list, "rope.scaling.yarn_beta_slow", slow);
    put_f64(in->list, "attention.temperature_scale", temperature); /* of queries, by position */
    if (attention != 0) /* the key multiplies the usual scale, which is divided out here */
        put_f64(in->list, "rope.scaling.attn_factor", attention / yarn_mscale(factor, 1));
    return SERVERD_OK;
}

static serverd_status read_divisors(const struct rope_input *in, const char *name, float **out,
                                    serverd_error *err)
{
    const json_t *list = json_place_get(&in->scaling, name);
    uint32_t n = in->n_rot / 2;
    if (!json_is_array(list) || json_array_size(list) != n)
        return json_place_fail(&in->scaling, name, "an array of half the rotated elements", err);
    float *divisors = arena_array(in->list->source->arena, n, sizeof *divisors);
    if (!divisors)
        return fail_memory(in, err);
    for (uint32_t i = 0; i < n; i++) {
        double x = json_number_value(json_array_get(list, i));
        if (!(x > 0 && x < 1e30))
            return json_place_fail(&in->scaling, name, "numbers above 0", err);
        divisors[i] = (float)x;
    }
    *out = divisors;
    return SERVERD_OK;
}

static serverd_status import_longrope(struct rope_input *in, serverd_error *err)
{
    serverd_status status;
    double factor, attention = 0;
    uint32_t original;
    if ((status = read_original(in, &original, err)) != SERVERD_OK ||
        (status = read_divisors(in, "short_factor", &in->out->short_divisors, err)) != SERVERD_OK ||
        (status = read_divisors(in, "long_factor", &in->out->long_divisors, err)) != SERVERD_OK)
        return status;
    factor = (double)in->n_context / original;
    if ((status = json_place_f64(&in->scaling, "factor", 1e-3, 1e6, &factor, err)) != SERVERD_OK ||
        (status = json_place_f64(&in->scaling, "attention_factor", 1e-3, 1e3, &attention, err)) !=
            SERVERD_OK)
        return status;
    if (attention == 0)
        attention = factor > 1.0 ? sqrt(1.0 + log(factor) / log(original)) : 1.0;
    if (!isfinite(attention))
        return json_place_fail(in->config, "original_max_position_embeddings", "2 or more", err);
    put_string(in->list, "rope.scaling.type", "longrope");
    put_u32(in->list, "rope.scaling.original_context_length", original);
    put_f64(in->list, "rope.scaling.attn_factor", attention);
    return SERVERD_OK;
}

static const struct {
    const char *name;
    serverd_status (*import)(struct rope_input *in, serverd_error *err);
} types[] = {
    {"default", import_default}, {"linear", import_linear},     {"llama3", import_llama3},
    {"yarn", import_yarn},       {"longrope", import_longrope}, {"su", import_longrope},
};

static serverd_status import_scaling(struct rope_input *in, serverd_error *err)
{
    const char *type = "default";
    serverd_status status;
    if ((status = json_place_string(&in->scaling, "type", &type, err)) != SERVERD_OK ||
        (status = json_place_string(&in->scaling, "rope_type", &type, err)) != SERVERD_OK)
        return status;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].name, type) == 0)
            return types[i].import(in, err);
    return fail(err, SERVERD_UNSUPPORTED,
                "%s: %s.rope_type: \"%.32s\"; default, linear, llama3, yarn and longrope are "
                "supported",
                in->config->file, in->scaling.where, type);
}

/* ---- where it is stated -------------------------------------------------------------------- */

/* rope_parameters by layer type: those of local layers may have another base, and nothing else. */
static serverd_status read_local(const struct rope_input *in, const struct json_place *parameters,
                                 double *base, serverd_error *err)
{
    serverd_status status;
    struct json_place local = {.file = in->config->file, .where = "sliding_attention"};
    const char *type = "default";
    if ((status = json_place_object(parameters, "sliding_attention", &local, err)) != SERVERD_OK ||
        (status = json_place_f64(&local, "rope_theta", 1.001, 1e12, base, err)) != SERVERD_OK ||
        (status = json_place_string(&local, "rope_type", &type, err)) != SERVERD_OK)
        return status;
    if (strcmp(type, "default") != 0)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: rope_parameters.sliding_attention.rope_type: \"%.32s\"; default is "
                    "supported",
                    in->config->file, type);
    return SERVERD_OK;
}

/* Fills base and scaling, and the base of local layers. */
static serverd_status find_scaling(struct rope_input *in, double *local_base, serverd_error *err)
{
    serverd_status status;
    const struct json_place *config = in->config;
    struct json_place parameters = {.file = config->file, .where = "rope_parameters"};
    in->scaling = (struct json_place){.file = config->file, .where = "rope_scaling"};
    if ((status = json_place_f64(config, "rope_theta", 1.001, 1e12, &in->base, err)) !=
            SERVERD_OK ||
        (status = json_place_f64(config, "rope_local_base_freq", 1.001, 1e12, local_base, err)) !=
            SERVERD_OK ||
        (status = json_place_object(config, "rope_scaling", &in->scaling, err)) != SERVERD_OK ||
        (status = json_place_object(config, "rope_parameters", &parameters, err)) != SERVERD_OK)
        return status;
    if (!parameters.object)
        return SERVERD_OK;
    in->scaling = parameters;
    if (json_place_get(&parameters, "full_attention") ||
        json_place_get(&parameters, "sliding_attention")) {
        in->scaling.object = NULL;
        if ((status = json_place_object(&parameters, "full_attention", &in->scaling, err)) !=
                SERVERD_OK ||
            (status = read_local(in, &parameters, local_base, err)) != SERVERD_OK)
            return status;
    }
    return json_place_f64(&in->scaling, "rope_theta", 1.001, 1e12, &in->base, err);
}

static serverd_status read_n_rot(struct rope_input *in, uint32_t head_dim, serverd_error *err)
{
    double share = 1.0;
    serverd_status status;
    if ((status = json_place_f64(in->config, "partial_rotary_factor", 0, 1, &share, err)) !=
            SERVERD_OK ||
        (status = json_place_f64(&in->scaling, "partial_rotary_factor", 0, 1, &share, err)) !=
            SERVERD_OK)
        return status;
    in->n_rot = (uint32_t)(head_dim * share);
    if (in->n_rot < 2 || in->n_rot % 2 != 0)
        return fail(err, SERVERD_CORRUPT,
                    "%s: partial_rotary_factor: %u of %u elements of a head are rotated, an even "
                    "number is needed",
                    in->config->file, in->n_rot, head_dim);
    put_u32(in->list, "rope.dimension_count", in->n_rot);
    return SERVERD_OK;
}

serverd_status hf_rope_import(const struct json_place *config, const struct hf_class *class,
                              uint32_t head_dim, uint32_t n_context, struct key_list *list,
                              struct hf_rope *out, serverd_error *err)
{
    serverd_status status;
    double local_base = 0;
    struct rope_input in = {.config = config,
                            .base = class->rope_base,
                            .n_context = n_context,
                            .list = list,
                            .out = out};
    if ((status = find_scaling(&in, &local_base, err)) != SERVERD_OK ||
        (status = read_n_rot(&in, head_dim, err)) != SERVERD_OK)
        return status;
    if (!class->has_local_rope && local_base != 0 && local_base != in.base)
        return fail(err, SERVERD_UNSUPPORTED, "%s: a rope base for local layers: %s has none",
                    config->file, class->name);
    put_f64(list, "rope.freq_base", in.base);
    put_f64(list, "rope.freq_base_swa", local_base != 0 ? local_base : 10000.0);
    out->n = in.n_rot / 2;
    return import_scaling(&in, err);
}
