/* Fitting one group, 16 lanes at a time; every sum has one order. Included once by each
 * grid_LEVEL.c, which defines GRID_TABLE. */
#include "base/numeric.h"
#include "quantise/grid_internal.h"

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES  16

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t int_lanes __attribute__((vector_size(4 * LANES)));

INLINE lanes load(const float *p)
{
    lanes v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE lanes splat(float x)
{
    return x - (lanes){0};
}

INLINE lanes select_lanes(int_lanes mask, lanes a, lanes b)
{
    return (lanes)((mask & (int_lanes)a) | (~mask & (int_lanes)b));
}

INLINE lanes clamp(lanes v, float low, float high)
{
    v = select_lanes(v > splat(high), splat(high), v);
    return select_lanes(v < splat(low), splat(low), v);
}

/* To the nearest whole number, even in the middle, of |v| < 2^22. */
INLINE lanes nearest(lanes v)
{
    const lanes magic = splat(0x1.8p23f);
    return (v + magic) - magic;
}

INLINE double add_lanes(lanes v)
{
    double sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += (double)v[i];
    return sum;
}

INLINE void put_codes(lanes v, uint8_t *codes)
{
    int_lanes c = __builtin_convertvector(v, int_lanes);
    for (int i = 0; i < LANES; i++)
        codes[i] = (uint8_t)c[i];
}

INLINE lanes get_codes(const uint8_t *codes)
{
    int_lanes c;
    for (int i = 0; i < LANES; i++)
        c[i] = codes[i];
    return __builtin_convertvector(c, lanes);
}

/* ---- codes and what they stand for ----------------------------------------------------------- */

INLINE bool is_uniform(uint32_t format)
{
    return format != FORMAT_NF4 && format != FORMAT_F8 && format != DTYPE_MXFP4;
}

INLINE float least_code(uint32_t format)
{
    return format == FORMAT_I8S ? 1.0f : 0.0f;
}

INLINE float most_code(uint32_t format)
{
    return format == FORMAT_I8S || format == FORMAT_I8A ? 255.0f : 15.0f;
}

/* The number below the scale that is nearest to t, and its code. */
INLINE lanes nearest_in_table(const struct grid_table *table, lanes t, lanes *code)
{
    lanes v = splat(table->value[0]);
    *code = splat(table->code[0]);
    for (uint32_t i = 1; i < table->n; i++) {
        int_lanes above = t > splat((table->value[i - 1] + table->value[i]) * 0.5f);
        v = select_lanes(above, splat(table->value[i]), v);
        *code = select_lanes(above, splat(table->code[i]), *code);
    }
    return v;
}

INLINE lanes nearest_e4m3(lanes t, lanes *code)
{
    t = clamp(t, -448, 448);
    int_lanes bits = (int_lanes)t, sign = bits & INT32_MIN;
    int_lanes a = bits & INT32_MAX;
    int_lanes rounded = (a + 0x7ffff + ((a >> 20) & 1)) & ~0xfffff;
    lanes eighths = nearest((lanes)a * splat(512));
    int_lanes is_small = (lanes)a < splat(0x1p-6f);
    lanes v = select_lanes(is_small, eighths * splat(0x1p-9f), (lanes)rounded);
    lanes normal = __builtin_convertvector((rounded >> 20) - (120 << 3), lanes);
    lanes high = select_lanes(sign != 0, splat(128), splat(0));
    *code = select_lanes(is_small, eighths, normal) + high;
    return (lanes)((int_lanes)v | sign);
}

/* What the scale multiplies. */
INLINE lanes nearest_unit(uint32_t format, lanes t, lanes *code)
{
    if (format == FORMAT_NF4)
        return nearest_in_table(&grid_table_nf4, t, code);
    if (format == DTYPE_MXFP4)
        return nearest_in_table(&grid_table_mxfp4, t, code);
    return nearest_e4m3(t, code);
}

INLINE lanes unit_of_codes(uint32_t format, const uint8_t *codes)
{
    lanes v;
    for (int i = 0; i < LANES; i++) {
        if (format == FORMAT_NF4)
            v[i] = nf4_values[codes[i] & 15];
        else if (format == DTYPE_MXFP4)
            v[i] = (float[]){0, 0.5f, 1, 1.5f, 2, 3, 4, 6}[codes[i] & 7] *
                   (codes[i] & 8 ? -1.0f : 1.0f);
        else
            v[i] = e4m3_to_f32(codes[i]);
    }
    return v;
}

INLINE lanes value_of(uint32_t format, struct grid_numbers n, lanes code)
{
    if (format == FORMAT_I4A)
        return splat(n.scale) * code + splat(n.zero);
    return splat(n.scale) * (code - splat(n.zero));
}

INLINE float encode_as(uint32_t format, size_t group, const float *x, const float *weight,
                       struct grid_numbers n, uint8_t *codes)
{
    const float inverse = n.scale != 0 ? 1.0f / n.scale : 0.0f;
    const float begin = format == FORMAT_I4A ? -n.zero * inverse : n.zero;
    lanes sum = {0};
    for (size_t i = 0; i < group; i += LANES) {
        lanes v = load(x + i), code, value;
        if (is_uniform(format)) {
            lanes t = v * splat(inverse) + splat(begin);
            code = nearest(clamp(t, least_code(format), most_code(format)));
            value = value_of(format, n, code);
        } else {
            value = splat(n.scale) * nearest_unit(format, v * splat(inverse), &code);
        }
        lanes e = v - value;
        sum += load(weight + i) * e * e;
        put_codes(code, codes + i);
    }
    return (float)add_lanes(sum);
}

/* ---- numbers --------------------------------------------------------------------------------- */

/* The numbers for elements from low to high; the ends may be clipped. */
INLINE struct grid_numbers numbers_for(const struct grid *grid, uint32_t format, float low,
                                       float high)
{
    const float most = fabsf(low) > fabsf(high) ? fabsf(low) : fabsf(high);
    switch (format) {
    case FORMAT_I8S:
        return grid_round(grid, most / 127.0f, 128);
    case FORMAT_I4S: /* the end that is farther from 0 has the one more code */
        return grid_round(grid, (fabsf(low) > fabsf(high) ? low : high) / -8.0f, 8);
    case FORMAT_I4A:
        return grid_round(grid, (high - low) / 15.0f, low);
    case FORMAT_I8A:
    case FORMAT_I4Z: {
        low = low < 0 ? low : 0;
        high = high > 0 ? high : 0;
        struct grid_numbers n = grid_round(grid, (high - low) / most_code(format), 0);
        if (n.scale != 0) {
            float z = rintf(-low / n.scale);
            n.zero = z < 0 ? 0 : z > most_code(format) ? most_code(format) : z;
        }
        return n;
    }
    case FORMAT_F8:
        return grid_round(grid, most / 448.0f, 0);
    case DTYPE_MXFP4: {
        int exponent;
        if (!(most > 0))
            return (struct grid_numbers){0x1p-126f, 0};
        (void)frexpf(most, &exponent); /* most = [0.5, 1) * 2^exponent */
        exponent = exponent - 3 < -126 ? -126 : exponent - 3;
        return (struct grid_numbers){ldexpf(1, exponent), 0};
    }
    default:
        return grid_round(grid, most, 0);
    }
}

INLINE void ends_of(const float *x, size_t group, float *low, float *high)
{
    lanes least = load(x), most = least;
    for (size_t i = LANES; i < group; i += LANES) {
        lanes v = load(x + i);
        least = select_lanes(v < least, v, least);
        most = select_lanes(v > most, v, most);
    }
    *low = least[0];
    *high = most[0];
    for (int i = 1; i < LANES; i++) {
        *low = least[i] < *low ? least[i] : *low;
        *high = most[i] > *high ? most[i] : *high;
    }
}

/* The numbers under which these codes have the least error. */
INLINE struct grid_numbers refit(const struct grid *grid, uint32_t format, size_t group,
                                 const float *x, const float *weight, struct grid_numbers n,
                                 const uint8_t *codes)
{
    lanes w1 = {0}, wt = {0}, wtt = {0}, wx = {0}, wtx = {0};
    for (size_t i = 0; i < group; i += LANES) {
        lanes w = load(weight + i), v = load(x + i), t;
        if (is_uniform(format))
            t = get_codes(codes + i) - splat(format == FORMAT_I4A ? 0 : n.zero);
        else
            t = unit_of_codes(format, codes + i);
        wt += w * t;
        wtt += w * t * t;
        wtx += w * t * v;
        if (format == FORMAT_I4A) {
            w1 += w;
            wx += w * v;
        }
    }
    double tt = add_lanes(wtt), tx = add_lanes(wtx);
    if (format != FORMAT_I4A)
        return tt > 0 ? grid_round(grid, (float)(tx / tt), n.zero) : n;
    double one = add_lanes(w1), t = add_lanes(wt), v = add_lanes(wx);
    double det = one * tt - t * t;
    if (!(det > 1e-9 * one * tt))
        return n;
    double scale = (one * tx - t * v) / det;
    return grid_round(grid, (float)scale, (float)((v - scale * t) / one));
}

/* ---- the methods ----------------------------------------------------------------------------- */

/* The best so far. */
struct best {
    float error;
    struct grid_numbers numbers;
    uint8_t *codes;
};

INLINE bool try_numbers(uint32_t format, size_t group, const float *x, const float *weight,
                        struct grid_numbers n, struct best *best)
{
    uint8_t codes[GRID_MAX_GROUP];
    float error = encode_as(format, group, x, weight, n, codes);
    if (!(error < best->error))
        return false;
    best->error = error;
    best->numbers = n;
    memcpy(best->codes, codes, group);
    return true;
}

INLINE float min_max_as(const struct grid *grid, uint32_t format, size_t group, const float *x,
                        const float *weight, struct grid_numbers *numbers, uint8_t *codes)
{
    float low, high;
    ends_of(x, group, &low, &high);
    *numbers = numbers_for(grid, format, low, high);
    return encode_as(format, group, x, weight, *numbers, codes);
}

#define CLIPS      12 /* below 1, in steps of 0.025 */
#define MAX_REFITS 8

INLINE float plain_as(const struct grid *grid, uint32_t format, size_t group, const float *x,
                      const float *weight, struct grid_numbers *numbers, uint8_t *codes)
{
    float low, high, low_clip = 1, high_clip = 1;
    ends_of(x, group, &low, &high);
    struct best best = {.codes = codes, .numbers = numbers_for(grid, format, low, high)};
    best.error = encode_as(format, group, x, weight, best.numbers, codes);
    if (format == DTYPE_MXFP4) {
        struct grid_numbers twice = {best.numbers.scale * 2, 0};
        (void)try_numbers(format, group, x, weight, twice, &best);
        *numbers = best.numbers;
        return best.error;
    }
    const bool is_wide = format == FORMAT_I8S || format == FORMAT_I8A || format == FORMAT_F8;
    const int n_clips = is_wide ? 1 : CLIPS;
    const bool has_two_ends = format == FORMAT_I4A || format == FORMAT_I8A || format == FORMAT_I4Z;
    for (int i = 1; i <= n_clips; i++) {
        float clip = 1.0f - 0.025f * (float)i;
        if (try_numbers(format, group, x, weight,
                        numbers_for(grid, format, low * clip, high * clip), &best))
            low_clip = high_clip = clip;
    }
    for (int i = 0; has_two_ends && i <= n_clips; i++) {
        float clip = 1.0f - 0.025f * (float)i;
        if (try_numbers(format, group, x, weight,
                        numbers_for(grid, format, low * clip, high * high_clip), &best))
            low_clip = clip;
    }
    for (int i = 0; has_two_ends && i <= n_clips; i++) {
        float clip = 1.0f - 0.025f * (float)i;
        (void)try_numbers(format, group, x, weight,
                          numbers_for(grid, format, low * low_clip, high * clip), &best);
    }
    for (int i = 0; i < MAX_REFITS; i++)
        if (!try_numbers(format, group, x, weight,
                         refit(grid, format, group, x, weight, best.numbers, codes), &best))
            break;
    *numbers = best.numbers;
    return best.error;
}

INLINE void decode_as(uint32_t format, size_t group, const uint8_t *codes, struct grid_numbers n,
                      float *out)
{
    for (size_t i = 0; i < group; i += LANES) {
        lanes v = is_uniform(format) ? value_of(format, n, get_codes(codes + i))
                                     : splat(n.scale) * unit_of_codes(format, codes + i);
        memcpy(out + i, &v, sizeof v);
    }
}

/* ---- one copy for each format ---------------------------------------------------------------- */

#define FOR_EACH_FORMAT(call)                                                                      \
    switch (grid->format) {                                                                        \
    case FORMAT_I8S:                                                                               \
        return call(FORMAT_I8S);                                                                   \
    case FORMAT_I8A:                                                                               \
        return call(FORMAT_I8A);                                                                   \
    case FORMAT_I4S:                                                                               \
        return call(FORMAT_I4S);                                                                   \
    case FORMAT_I4A:                                                                               \
        return call(FORMAT_I4A);                                                                   \
    case FORMAT_I4Z:                                                                               \
        return call(FORMAT_I4Z);                                                                   \
    case FORMAT_NF4:                                                                               \
        return call(FORMAT_NF4);                                                                   \
    case FORMAT_F8:                                                                                \
        return call(FORMAT_F8);                                                                    \
    default:                                                                                       \
        return call(DTYPE_MXFP4);                                                                  \
    }

static float encode(const struct grid *grid, const float *x, const float *weight,
                    struct grid_numbers numbers, uint8_t *codes)
{
#define CALL(format) encode_as(format, grid->group, x, weight, numbers, codes)
    FOR_EACH_FORMAT(CALL)
#undef CALL
}

static float min_max(const struct grid *grid, const float *x, const float *weight,
                     struct grid_numbers *numbers, uint8_t *codes)
{
#define CALL(format) min_max_as(grid, format, grid->group, x, weight, numbers, codes)
    FOR_EACH_FORMAT(CALL)
#undef CALL
}

static float plain(const struct grid *grid, const float *x, const float *weight,
                   struct grid_numbers *numbers, uint8_t *codes)
{
#define CALL(format) plain_as(grid, format, grid->group, x, weight, numbers, codes)
    FOR_EACH_FORMAT(CALL)
#undef CALL
}

static void decode(const struct grid *grid, const uint8_t *codes, struct grid_numbers numbers,
                   float *out)
{
#define CALL(format) decode_as(format, grid->group, codes, numbers, out)
    FOR_EACH_FORMAT(CALL)
#undef CALL
}

/* ---- sums over groups ------------------------------------------------------------------------ */

static void times_square(const float *x, const float *h, size_t stride, size_t n, float *out)
{
    lanes sums[GRID_MAX_GROUP / LANES] = {{0}};
    const size_t n_lanes = n / LANES;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n_lanes; j++)
            sums[j] += splat(x[i]) * load(h + i * stride + j * LANES);
    memcpy(out, sums, n * sizeof *out);
}

static void add_scaled(float *y, float factor, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes v = load(y + i) + splat(factor) * load(x + i);
        memcpy(y + i, &v, sizeof v);
    }
    for (; i < n; i++)
        y[i] += factor * x[i];
}

const struct grid_kernels GRID_TABLE = {encode, min_max, plain, decode, times_square, add_scaled};
