/* Rotary frequencies: theta_i = base^(-2i/n_rot), divided, stretched or replaced as the file
 * says. They are computed in double and stored as a constant of the graph. */
#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "compiler/arch.h"
#include "program/dtype.h"

#include <math.h>
#include <string.h>

/* Room for a table; NULL after a failure. */
static float *new_table(struct model_builder *model)
{
    if (model->status != SERVERD_OK)
        return NULL;
    float *table = arena_array(model->program->arena, model->hparams.n_rot / 2, sizeof *table);
    if (!table)
        model->status = fail(model->err, SERVERD_NOMEM, "no memory for rope frequencies");
    return table;
}

static uint32_t table_constant(struct model_builder *model, const float *table, const char *name)
{
    uint32_t n = model->hparams.n_rot / 2;
    for (uint32_t i = 0; model->status == SERVERD_OK && i < n; i++)
        if (!isfinite(table[i]))
            model->status = fail(model->err, SERVERD_CORRUPT,
                                 "rope: frequency %u is not finite; see rope.freq_base and the "
                                 "rope factors",
                                 i);
    if (model->status != SERVERD_OK)
        return NO_VALUE;
    serverd_tensor tensor = {.struct_bytes = sizeof tensor,
                             .dtype = DTYPE_F32,
                             .name = name,
                             .rank = 1,
                             .dims = {n},
                             .data = table,
                             .bytes = n * sizeof *table};
    return graph_constant(model->graph, &tensor);
}

static double theta(const struct model_builder *model, double base, uint32_t i)
{
    return pow(base, -2.0 * i / model->hparams.n_rot);
}

static struct rope no_rope(const struct model_builder *model, bool is_neox)
{
    return (struct rope){.attributes = {.head_dim = model->hparams.head_dim,
                                        .n_rot = model->hparams.n_rot,
                                        .is_neox = is_neox,
                                        .alt_from = UINT32_MAX,
                                        .mscale = 1.0f,
                                        .alt_mscale = 1.0f},
                         .inv_freq = NO_VALUE,
                         .alt_inv_freq = NO_VALUE};
}

struct rope rope_plain(struct model_builder *model, bool is_neox, float base)
{
    struct rope rope = no_rope(model, is_neox);
    float *table = new_table(model);
    for (uint32_t i = 0; table && i < model->hparams.n_rot / 2; i++)
        table[i] = (float)theta(model, (double)base, i);
    rope.inv_freq = table_constant(model, table, "rope.inv_freq.plain");
    return rope;
}

/* The usual frequencies divided by a tensor's elements. */
static uint32_t divided(struct model_builder *model, const char *tensor_name, const char *name)
{
    float *table = new_table(model);
    uint32_t n = model->hparams.n_rot / 2;
    const serverd_tensor *tensor = gguf_tensor(model->gguf, tensor_name);
    if (!table)
        return NO_VALUE;
    if (!tensor || tensor->dtype != DTYPE_F32 || tensor->rank != 1 || tensor->dims[0] != n) {
        model->status = fail(model->err, SERVERD_CORRUPT, "tensor %s: is not %u elements of F32",
                             tensor_name, n);
        return NO_VALUE;
    }
    for (uint32_t i = 0; i < n; i++) {
        float factor;
        memcpy(&factor, (const char *)tensor->data + i * sizeof factor, sizeof factor);
        table[i] = (float)(theta(model, (double)model->hparams.rope_base, i) / (double)factor);
    }
    return table_constant(model, table, name);
}

static double clamp01(double x)
{
    if (x < 0.0)
        return 0.0;
    return x > 1.0 ? 1.0 : x;
}

/* YaRN (arXiv 2309.00071): high frequencies stay, low ones are stretched by s, a ramp between. */
static void fill_yarn(struct model_builder *model, float *table, double s, double original)
{
    const struct hparams *h = &model->hparams;
    double base = (double)h->rope_base;
    double fast = (double)key_f32(model, "rope.scaling.yarn_beta_fast", 32.0f);
    double slow = (double)key_f32(model, "rope.scaling.yarn_beta_slow", 1.0f);
    double per = h->n_rot / (2.0 * log(base));
    double low = floor(per * log(original / (2.0 * M_PI * fast)));
    double high = ceil(per * log(original / (2.0 * M_PI * slow)));
    low = low > 0.0 ? low : 0.0;
    high = high < h->n_rot - 1.0 ? high : h->n_rot - 1.0;
    double width = high - low > 0.001 ? high - low : 0.001;
    for (uint32_t i = 0; i < h->n_rot / 2; i++) {
        double keep = 1.0 - clamp01((i - low) / width);
        double t = theta(model, base, i);
        table[i] = (float)(t / s * (1.0 - keep) + t * keep);
    }
}

static float scaling_factor(struct model_builder *model)
{
    float s = key_f32(model, "rope.scaling.factor", key_f32(model, "rope.scale_linear", 1.0f));
    if (s == 0.0f)
        s = 1.0f;
    if (model->status == SERVERD_OK && !(s > 0.0f))
        model->status = fail(model->err, SERVERD_CORRUPT, "key %s.rope.scaling.factor: found %g",
                             model->arch, (double)s);
    return s;
}

static struct gguf_string scaling_type(struct model_builder *model)
{
    struct gguf_string type = {.bytes = "linear", .len = 6};
    char name[160] = "";
    (void)strncat(name, model->arch, 100);
    (void)strncat(name, ".rope.scaling.type", 50);
    if (model->status == SERVERD_OK)
        model->status = gguf_get_string(model->gguf, name, &type, model->err);
    return type;
}

/* Trained with short or long factors: the delegate takes the long ones if the context is above
 * the original one. */
static struct rope rope_long(struct model_builder *model, struct rope rope)
{
    rope.inv_freq = divided(model, "rope_factors_short.weight", "rope.inv_freq.short");
    rope.alt_inv_freq = divided(model, "rope_factors_long.weight", "rope.inv_freq.long");
    rope.attributes.alt_from = key_u32(model, "rope.scaling.original_context_length", 1,
                                       LIMIT_CONTEXT, model->hparams.context_length);
    rope.attributes.mscale = key_f32(model, "rope.scaling.attn_factor", 1.0f);
    rope.attributes.alt_mscale = rope.attributes.mscale;
    return rope;
}

struct rope rope_scaled(struct model_builder *model, bool is_neox)
{
    struct rope rope = no_rope(model, is_neox);
    if (gguf_tensor(model->gguf, "rope_factors_long.weight"))
        return rope_long(model, rope);
    if (gguf_tensor(model->gguf, "rope_freqs.weight")) {
        rope.inv_freq = divided(model, "rope_freqs.weight", "rope.inv_freq.divided");
        return rope;
    }
    struct gguf_string type = scaling_type(model);
    float *table = new_table(model);
    double s = (double)scaling_factor(model);
    if (!table || model->status != SERVERD_OK)
        return rope;
    uint32_t n = model->hparams.n_rot / 2;
    if (strcmp(type.bytes, "yarn") == 0) {
        uint32_t original = key_u32(model, "rope.scaling.original_context_length", 1, LIMIT_CONTEXT,
                                    model->hparams.context_length);
        fill_yarn(model, table, s, original);
        rope.attributes.mscale =
            (float)(1.0 + 0.1 * log(s)) * key_f32(model, "rope.scaling.attn_factor", 1.0f);
    } else if (strcmp(type.bytes, "linear") == 0 || strcmp(type.bytes, "none") == 0) {
        double divisor = type.bytes[0] == 'l' ? s : 1.0;
        for (uint32_t i = 0; i < n; i++)
            table[i] = (float)(theta(model, (double)model->hparams.rope_base, i) / divisor);
    } else {
        model->status = fail(model->err, SERVERD_UNSUPPORTED,
                             "key %s.rope.scaling.type: %.40s; there are none, linear, yarn and "
                             "longrope with its tensors",
                             model->arch, type.bytes);
    }
    rope.inv_freq = table_constant(model, table, "rope.inv_freq");
    return rope;
}

uint32_t rotate(struct model_builder *model, uint32_t x, const struct rope *rope)
{
    const uint32_t inputs[] = {x, rope->inv_freq, rope->alt_inv_freq};
    serverd_attributes a = {.rope = rope->attributes};
    return model->status == SERVERD_OK ? graph_node(model->graph, SERVERD_OP_ROPE, inputs, 3, &a)
                                       : NO_VALUE;
}
