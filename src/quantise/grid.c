#include "quantise/grid_internal.h"

#include "base/numeric.h"
#include "base/simd_level.h"

#include <math.h>
#include <string.h>

const struct grid_table grid_table_nf4 = {16,
                                          {-1.0f, -0.696192801f, -0.525073051f, -0.394917488f,
                                           -0.284441382f, -0.18477343f, -0.0910500363f, 0.0f,
                                           0.0795802996f, 0.160930201f, 0.246112302f, 0.337915242f,
                                           0.440709829f, 0.562617004f, 0.722956836f, 1.0f},
                                          {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};

const struct grid_table grid_table_mxfp4 = {
    15,
    {-6, -4, -3, -2, -1.5f, -1, -0.5f, 0, 0.5f, 1, 1.5f, 2, 3, 4, 6},
    {15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7}};

uint32_t grid_dtype(const struct grid *grid)
{
    if (grid->format == DTYPE_MXFP4)
        return DTYPE_MXFP4;
    return dtype_own((enum dtype_format)grid->format, grid->group, grid->has_f32);
}

const char *grid_format_name(uint32_t format)
{
    return format == DTYPE_MXFP4 ? "mxfp4" : dtype_format_name(format);
}

bool grid_format_find(const char *name, size_t n, uint32_t *format)
{
    for (uint32_t f = FORMAT_I8S; f <= FORMAT_LIMIT; f++) {
        uint32_t id = f == FORMAT_LIMIT ? (uint32_t)DTYPE_MXFP4 : f;
        const char *known = grid_format_name(id);
        if (strlen(known) == n && memcmp(known, name, n) == 0) {
            *format = id;
            return true;
        }
    }
    return false;
}

uint32_t grid_code_bits(uint32_t format)
{
    return format == FORMAT_I8S || format == FORMAT_I8A || format == FORMAT_F8 ? 8 : 4;
}

static float round_number(const struct grid *grid, float x)
{
    if (grid->has_f32 || grid->format == FORMAT_F8)
        return x;
    uint16_t half = f32_to_f16(x);
    if ((half & 0x7fffu) >= 0x7c00u) /* the greatest number there is */
        half = (uint16_t)((half & 0x8000u) | 0x7bffu);
    return f16_to_f32(half);
}

struct grid_numbers grid_round(const struct grid *grid, float scale, float zero)
{
    struct grid_numbers numbers = {scale, zero};
    if (!(fabsf(scale) >= 0x1p-100f)) /* its inverse is a number */
        numbers.scale = 0;
    if (grid->format == DTYPE_MXFP4)
        return numbers;
    numbers.scale = round_number(grid, numbers.scale);
    if (grid->format == FORMAT_I4A)
        numbers.zero = round_number(grid, zero);
    return numbers;
}

static uint8_t nearest_entry(const struct grid_table *table, float t, float *value)
{
    uint32_t i = 0;
    while (i + 1 < table->n && t > (table->value[i] + table->value[i + 1]) * 0.5f)
        i++;
    *value = table->value[i];
    return (uint8_t)table->code[i];
}

static uint8_t nearest_e4m3(float t, float *value)
{
    float a = fminf(fabsf(t), 448.0f);
    uint32_t sign = f32_bits(t) >> 31, code;
    if (a < 0x1p-6f) {
        code = (uint32_t)((a * 512.0f + 0x1.8p23f) - 0x1.8p23f);
    } else {
        uint32_t bits = f32_bits(a);
        code = ((bits + 0x7ffffu + (bits >> 20 & 1u)) >> 20) - (120u << 3);
    }
    code |= sign << 7;
    *value = e4m3_to_f32((uint8_t)code);
    return (uint8_t)code;
}

uint8_t grid_nearest(const struct grid *grid, struct grid_numbers numbers, float x, float *value)
{
    const float inverse = numbers.scale != 0 ? 1.0f / numbers.scale : 0.0f;
    float unit;
    uint8_t code;
    switch (grid->format) {
    case FORMAT_NF4:
        code = nearest_entry(&grid_table_nf4, x * inverse, &unit);
        break;
    case DTYPE_MXFP4:
        code = nearest_entry(&grid_table_mxfp4, x * inverse, &unit);
        break;
    case FORMAT_F8:
        code = nearest_e4m3(x * inverse, &unit);
        break;
    default: {
        const bool is_8bit = grid_code_bits(grid->format) == 8;
        const float least = grid->format == FORMAT_I8S ? 1 : 0, most = is_8bit ? 255 : 15;
        float t =
            x * inverse + (grid->format == FORMAT_I4A ? -numbers.zero * inverse : numbers.zero);
        t = t > most ? most : t;
        t = t >= least ? t : least;
        t = (t + 0x1.8p23f) - 0x1.8p23f;
        *value = grid->format == FORMAT_I4A ? numbers.scale * t + numbers.zero
                                            : numbers.scale * (t - numbers.zero);
        return (uint8_t)t;
    }
    }
    *value = numbers.scale * unit;
    return code;
}

static uint8_t *put_number(const struct grid *grid, float x, uint8_t *to)
{
    if (grid->has_f32 || grid->format == FORMAT_F8) {
        memcpy(to, &x, sizeof x);
        return to + sizeof x;
    }
    uint16_t half = f32_to_f16(x);
    memcpy(to, &half, sizeof half);
    return to + sizeof half;
}

/* 2^(e - 127), e in 0..254 */
static uint8_t e8m0_of(float scale)
{
    int exponent;
    if (!(scale > 0))
        return 0;
    (void)frexpf(scale, &exponent);
    exponent += 126;
    return (uint8_t)(exponent < 0 ? 0 : exponent > 254 ? 254 : exponent);
}

void grid_write_block(const struct grid *grid, struct grid_numbers numbers, const uint8_t *codes,
                      uint8_t *block)
{
    if (grid->format == DTYPE_MXFP4) {
        *block++ = e8m0_of(numbers.scale);
        for (size_t i = 0; i < 16; i++)
            block[i] = (uint8_t)(codes[i] | codes[i + 16] << 4);
        return;
    }
    block = put_number(grid, numbers.scale, block);
    if (grid->format == FORMAT_I4A)
        block = put_number(grid, numbers.zero, block);
    else if (grid->format == FORMAT_I8A || grid->format == FORMAT_I4Z)
        *block++ = (uint8_t)numbers.zero;
    if (grid_code_bits(grid->format) == 4)
        for (size_t i = 0; i < grid->group / 2; i++)
            block[i] = (uint8_t)(codes[2 * i] | codes[2 * i + 1] << 4);
    else
        for (size_t i = 0; i < grid->group; i++)
            block[i] = (uint8_t)(codes[i] ^ (grid->format == FORMAT_I8S ? 0x80 : 0));
}

/* ---- levels ---------------------------------------------------------------------------------- */

static const struct grid_kernels *const levels[SIMD_LEVELS] = {
    [SIMD_GENERIC] = &grid_kernels_generic,
#if defined(__x86_64__)
    [SIMD_AVX2] = &grid_kernels_avx2,
    [SIMD_AVX512] = &grid_kernels_avx512,
#endif
};

const struct grid_kernels *grid_kernels_level(uint32_t i)
{
    const uint32_t best = simd_level_best();
    return i <= best ? levels[best - i] : NULL;
}

const struct grid_kernels *grid_kernels_best(void)
{
    return grid_kernels_level(0);
}
