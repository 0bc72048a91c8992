/* The types whose codes are indexes of vectors in a fixed table, of 1 to 3.5 bits a weight. All
 * have 256 elements in 8 groups of 32. Formulas: docs/internals/block-formats.md. Products are
 * rounded in the order of the reference implementation, so that every bit agrees. */
#include "program/dtype_internal.h"

/* What the numbers in a grid word stand for. */
static const float iq2_levels[4] = {8, 25, 43, 0};
static const float iq3_xxs_levels[16] = {4, 12, 20, 28, 36, 44, 52, 62};
static const float iq3_s_levels[16] = {1, 3, 5, 7, 9, 11, 13, 15};
static const float iq1_levels[4] = {-1, 0, 1, 0};

/* Seven stored signs; the eighth makes the number of negative elements even. */
static uint8_t eight_signs(uint32_t code)
{
    code &= 127;
    return (uint8_t)(code | (uint32_t)__builtin_parity(code) << 7);
}

/* n elements of one grid vector; bit j of `signs`: element j is negative. */
static void put(uint16_t word, int n, const float *levels, float scale, uint8_t signs, float *out)
{
    int width = 16 / n, mask = (1 << width) - 1;
    for (int j = 0; j < n; j++) {
        float x = scale * levels[word >> width * j & mask];
        out[j] = signs >> j & 1 ? -x : x;
    }
}

void iq2_xxs_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 66) {
        float d = half_at(b);
        for (int group = 0; group < 8; group++) {
            const uint8_t *index = b + 2 + 8 * group;
            uint32_t w = u32_at(index + 4);
            float scale = d * (0.5f + (float)(w >> 28)) * 0.25f;
            for (int l = 0; l < 4; l++, out += 8)
                put(iq2_xxs_grid[index[l]], 8, iq2_levels, scale, eight_signs(w >> 7 * l), out);
        }
    }
}

void iq2_xs_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 74) {
        float d = half_at(b);
        for (int v = 0; v < 32; v++, out += 8) {
            unsigned q = u16_at(b + 2 + 2 * v);
            int nibble = b[66 + v / 4] >> 4 * (v / 2 % 2) & 15;
            float scale = d * (0.5f + (float)nibble) * 0.25f;
            put(iq2_xs_grid[q & 511], 8, iq2_levels, scale, eight_signs(q >> 9), out);
        }
    }
}

void iq2_s_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 82) {
        float d = half_at(b);
        const uint8_t *low = b + 2, *signs = b + 34, *high = b + 66, *scales = b + 74;
        for (int v = 0; v < 32; v++, out += 8) {
            int index = low[v] | (high[v / 4] >> 2 * (v % 4) & 3) << 8;
            int nibble = scales[v / 4] >> 4 * (v / 2 % 2) & 15;
            float scale = d * (0.5f + (float)nibble) * 0.25f;
            put(iq2_s_grid[index], 8, iq2_levels, scale, signs[v], out);
        }
    }
}

void iq3_xxs_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 98) {
        float d = half_at(b);
        for (int group = 0; group < 8; group++) {
            const uint8_t *index = b + 2 + 8 * group;
            uint32_t w = u32_at(b + 66 + 4 * group);
            float scale = d * (0.5f + (float)(w >> 28)) * 0.5f;
            for (int l = 0; l < 4; l++, index += 2, out += 8) {
                uint8_t signs = eight_signs(w >> 7 * l);
                put(iq3_xxs_grid[index[0]], 4, iq3_xxs_levels, scale, signs, out);
                put(iq3_xxs_grid[index[1]], 4, iq3_xxs_levels, scale, signs >> 4, out + 4);
            }
        }
    }
}

void iq3_s_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 110) {
        float d = half_at(b);
        const uint8_t *low = b + 2, *high = b + 66, *signs = b + 74, *scales = b + 106;
        for (int v = 0; v < 64; v++, out += 4) {
            int index = low[v] | (high[v / 8] >> v % 8 & 1) << 8;
            int nibble = scales[v / 16] >> 4 * (v / 8 % 2) & 15;
            float scale = d * (float)(1 + 2 * nibble);
            uint8_t half = (uint8_t)(signs[v / 2] >> 4 * (v % 2));
            put(iq3_s_grid[index], 4, iq3_s_levels, scale, half, out);
        }
    }
}

/* scale * (level + delta) of one vector of the ternary grid. */
static void put_ternary(int index, float scale, bool is_down, float *out)
{
    float delta = is_down ? -0.125f : 0.125f;
    for (int j = 0; j < 8; j++)
        out[j] = scale * (iq1_levels[iq1_grid[index] >> 2 * j & 3] + delta);
}

void iq1_s_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 50) {
        float d = half_at(b);
        for (int v = 0; v < 32; v++, out += 8) {
            unsigned high = u16_at(b + 34 + 2 * (v / 4));
            int index = b[2 + v] | (int)(high >> 3 * (v % 4) & 7) << 8;
            float scale = d * (float)(2 * (high >> 12 & 7) + 1);
            put_ternary(index, scale, high >> 15, out);
        }
    }
}

/* The half-precision scale is spread over the top nibbles of the four scale words; below are
 * four 3-bit scales each, one per 16 elements. */
void iq1_m_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 56) {
        unsigned spread = 0;
        for (int k = 0; k < 4; k++)
            spread |= (unsigned)(b[49 + 2 * k] >> 4) << 4 * k;
        float d = f16_to_f32((uint16_t)spread);
        for (int v = 0; v < 32; v++, out += 8) {
            int high = b[32 + v / 2] >> 4 * (v % 2) & 15;
            unsigned code = u16_at(b + 48 + 2 * (v / 8)) >> 3 * (v / 2 % 4) & 7;
            float scale = d * (float)(2 * code + 1);
            put_ternary(b[v] | (high & 7) << 8, scale, high >> 3, out);
        }
    }
}
