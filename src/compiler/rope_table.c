#include "compiler/rope_table.h"

#include "base/error.h"
#include "program/dtype.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define MAX_FREQUENCY 1e6 /* beyond it an angle says nothing; also stops infinities */

static double clamp_unit(double x)
{
    return x < 0.0 ? 0.0 : x > 1.0 ? 1.0 : x;
}

/* The pair whose wave turns `turns` times within the original context (YaRN, section 3.2). */
static double yarn_pair(const struct arch_params *p, double turns)
{
    return p->n_rot * log(p->rope_original_context / (2.0 * M_PI * turns)) /
           (2.0 * log(p->rope_base));
}

/* Long waves are stretched by the factor, short ones kept, a ramp between them. */
static double yarn_frequency(const struct arch_params *p, uint32_t i, double inv)
{
    double low = fmax(0.0, floor(yarn_pair(p, p->yarn_beta_fast)));
    double high = fmin(p->n_rot - 1.0, ceil(yarn_pair(p, p->yarn_beta_slow)));
    double keep = 1.0 - clamp_unit((i - low) / fmax(0.001, high - low));
    return inv / p->rope_factor * (1.0 - keep) + inv * keep;
}

static double scaled(const struct arch_params *p, uint32_t i, double inv)
{
    switch (p->scaling) {
    case ROPE_SCALING_LINEAR:
        return inv / p->rope_factor;
    case ROPE_SCALING_YARN:
        return yarn_frequency(p, i, inv);
    default:
        return inv;
    }
}

/* Divisors of the frequencies, NULL in *out if the file has no such tensor. */
static serverd_status find_divisors(struct arch *arch, const char *name, float **out,
                                    serverd_error *err)
{
    struct source_tensor *tensor = source_find(arch->source, name);
    *out = NULL;
    if (!tensor)
        return SERVERD_OK;
    uint64_t n = arch->params.n_rot / 2;
    const struct dtype_info *info = dtype_info(tensor->dtype);
    if (tensor->rank != 1 || tensor->dims[0] != n || !info || !info->to_f32)
        return fail(err, SERVERD_CORRUPT,
                    "%s: tensor %s: %" PRIu64 " elements in %u dims, [%" PRIu64 "] is needed",
                    arch->source->keys.path, name, tensor->dims[0], tensor->rank, n);
    tensor->is_used = true;
    float *divisors = arena_array(arch->program->arena, n, sizeof *divisors);
    if (!divisors)
        return fail(err, SERVERD_NOMEM, "%s: no memory for rope tables", arch->source->keys.path);
    info->to_f32(tensor->data, divisors, n / info->block_elements);
    for (uint64_t i = 0; i < n; i++)
        if (!isfinite(divisors[i]) || divisors[i] <= 0.0f)
            return fail(err, SERVERD_CORRUPT,
                        "%s: tensor %s: element %" PRIu64 " is %g, a finite number above 0 is "
                        "needed",
                        arch->source->keys.path, name, i, (double)divisors[i]);
    *out = divisors;
    return SERVERD_OK;
}

static serverd_status make_inv_freq(struct arch *arch, double base, bool is_scaled,
                                    const float *divisors, float **out, serverd_error *err)
{
    const struct arch_params *p = &arch->params;
    float *inv_freq = arena_array(arch->program->arena, p->n_rot / 2, sizeof *inv_freq);
    if (!inv_freq)
        return fail(err, SERVERD_NOMEM, "%s: no memory for rope tables", arch->source->keys.path);
    for (uint32_t i = 0; i < p->n_rot / 2; i++) {
        double inv = pow(base, -2.0 * i / p->n_rot);
        if (divisors)
            inv /= (double)divisors[i];
        if (is_scaled)
            inv = scaled(p, i, inv);
        if (!(fabs(inv) <= MAX_FREQUENCY)) /* also NaN */
            return fail(err, SERVERD_CORRUPT, "%s: frequency %u of rope is %g",
                        arch->source->keys.path, i, inv);
        inv_freq[i] = (float)inv;
    }
    *out = inv_freq;
    return SERVERD_OK;
}

/* YaRN's attention temperature, section 3.4. A model that was trained with a temperature of its
 * own states the multiplier (mscale_all_dim in its configuration), which divides it out. */
static float cos_sin_scale(const struct arch_params *p)
{
    double mscale = p->rope_attn_factor;
    if (p->scaling == ROPE_SCALING_YARN && p->rope_factor > 1.0) {
        double step = 0.1 * log(p->rope_factor);
        mscale *= (1.0 + step) / (1.0 + p->yarn_log_multiplier * step);
    }
    return (float)mscale;
}

static serverd_status make_long(struct arch *arch, struct rope_table *out, serverd_error *err)
{
    static const char *const names[] = {"rope_factors_short.weight", "rope_factors_long.weight"};
    float **tables[] = {&out->inv_freq, &out->alt_inv_freq};
    for (int i = 0; i < 2; i++) {
        float *divisors;
        serverd_status status = find_divisors(arch, names[i], &divisors, err);
        if (status == SERVERD_OK && !divisors)
            status = fail(err, SERVERD_CORRUPT, "%s: tensor %s is missing", arch->source->keys.path,
                          names[i]);
        if (status != SERVERD_OK ||
            (status = make_inv_freq(arch, arch->params.rope_base, false, divisors, tables[i],
                                    err)) != SERVERD_OK)
            return status;
    }
    return SERVERD_OK;
}

serverd_status rope_table_make(struct arch *arch, bool is_local, struct rope_table *out,
                               serverd_error *err)
{
    const struct arch_params *p = &arch->params;
    *out = (struct rope_table){.mscale = 1.0f};
    if (is_local)
        return make_inv_freq(arch, p->rope_base_local, false, NULL, &out->inv_freq, err);
    out->mscale = cos_sin_scale(p);
    if (p->scaling == ROPE_SCALING_LONG || source_find(arch->source, "rope_factors_long.weight"))
        return make_long(arch, out, err);
    float *divisors;
    serverd_status status = find_divisors(arch, "rope_freqs.weight", &divisors, err);
    if (status != SERVERD_OK)
        return status;
    return make_inv_freq(arch, p->rope_base, true, divisors, &out->inv_freq, err);
}
