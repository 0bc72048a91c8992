/* Our own formats. A block is one group of G elements:
 *
 *   scale    f16, or f32
 *   minimum  as the scale (I4A), or zero point u8 (I8A), 7 bits of a byte (I4Z)
 *   codes    G bytes, or G / 2 with element 2i in the low half of byte i
 *
 * One conversion for each format, group and kind of scale, so that nothing is decided per
 * element. */
#include "program/dtype_internal.h"

const float nf4_values[16] = {-1.0f,         -0.696192801f, -0.525073051f,  -0.394917488f,
                              -0.284441382f, -0.18477343f,  -0.0910500363f, 0.0f,
                              0.0795802996f, 0.160930201f,  0.246112302f,   0.337915242f,
                              0.440709829f,  0.562617004f,  0.722956836f,   1.0f};

static inline float number_at(const uint8_t *p, bool is_f32)
{
    return is_f32 ? f32_from_bits(u32_at(p)) : half_at(p);
}

static inline __attribute__((always_inline)) void
own_to_f32(enum dtype_format format, size_t group, bool is_f32, const uint8_t *b, float *out)
{
    const size_t scale_bytes = is_f32 ? 4 : 2;
    const float s = number_at(b, is_f32);
    b += scale_bytes;
    float m = 0.0f;
    int z = 0;
    if (format == FORMAT_I4A) {
        m = number_at(b, is_f32);
        b += scale_bytes;
    } else if (format == FORMAT_I8A) {
        z = *b++;
    } else if (format == FORMAT_I4Z) {
        z = *b++ & 127;
    } else if (format == FORMAT_I4S) {
        z = 8;
    }
    for (size_t i = 0; i < group; i++) {
        switch (format) {
        case FORMAT_I8S:
            out[i] = s * (float)(int8_t)b[i];
            break;
        case FORMAT_I8A:
            out[i] = s * (float)(b[i] - z);
            break;
        case FORMAT_F8:
            out[i] = s * e4m3_to_f32(b[i]);
            break;
        default: {
            int q = b[i / 2] >> 4 * (i % 2) & 15;
            if (format == FORMAT_I4A)
                out[i] = s * (float)q + m;
            else if (format == FORMAT_NF4)
                out[i] = s * nf4_values[q];
            else
                out[i] = s * (float)(q - z);
        }
        }
    }
}

#define CONVERSION(id, group, is_f32, suffix, head, bits)                                          \
    static void id##_##group##_##suffix(const void *blocks, float *out, size_t n)                  \
    {                                                                                              \
        const uint8_t *b = blocks;                                                                 \
        const bool has_f32 = (is_f32) || FORMAT_##id == FORMAT_F8;                                 \
        for (size_t i = 0; i < n; i++, b += (head) + (group) * (bits) / 8, out += (group))         \
            own_to_f32(FORMAT_##id, group, has_f32, b, out);                                       \
    }
#define CONVERSIONS(id, name, f16_head, f32_head, bits)                                            \
    CONVERSION(id, 32, false, f16, f16_head, bits)                                                 \
    CONVERSION(id, 64, false, f16, f16_head, bits)                                                 \
    CONVERSION(id, 128, false, f16, f16_head, bits)                                                \
    CONVERSION(id, 32, true, f32, f32_head, bits)                                                  \
    CONVERSION(id, 64, true, f32, f32_head, bits)                                                  \
    CONVERSION(id, 128, true, f32, f32_head, bits)
OWN_DTYPES(CONVERSIONS)

#define INFO(id, name, group, suffix, mark, head, bits)                                            \
    {                                                                                              \
#name "_g" #group mark, group, (head) + (group) * (bits) / 8, id##_##group##_##suffix      \
    }
#define INFOS(id, name, f16_head, f32_head, bits)                                                  \
    {{INFO(id, name, 32, f16, "", f16_head, bits), INFO(id, name, 64, f16, "", f16_head, bits),    \
      INFO(id, name, 128, f16, "", f16_head, bits)},                                               \
     {INFO(id, name, 32, f32, "_f32", f32_head, bits),                                             \
      INFO(id, name, 64, f32, "_f32", f32_head, bits),                                             \
      INFO(id, name, 128, f32, "_f32", f32_head, bits)}},

static const struct dtype_info infos[FORMAT_LIMIT - FORMAT_I8S][2][3] = {OWN_DTYPES(INFOS)};

const struct dtype_info *own_dtype_info(uint32_t dtype)
{
    uint32_t format, is_f32, step;
    return own_dtype_parts(dtype, &format, &is_f32, &step) ? &infos[format][is_f32][step] : NULL;
}
