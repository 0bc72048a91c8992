/* The sizes of all types, apart from their conversions. */
#include "program/dtype_internal.h"

/* Without pointers, which would have to be relocated. */
static const struct {
    char name[8]; /* "": no type */
    uint16_t elements, bytes;
    bool is_loadable;
} blocks[DTYPE_LIMIT] = {
#define LOADABLE(name, elements, bytes, to_f32) [DTYPE_##name] = {#name, elements, bytes, true},
#define KNOWN(name, elements, bytes)            [DTYPE_##name] = {#name, elements, bytes, false},
    GGUF_DTYPES(LOADABLE, KNOWN)
#undef LOADABLE
#undef KNOWN
};

static bool own_block(uint32_t dtype, struct dtype_block *out)
{
    static const struct {
        uint8_t head[2], bits; /* bytes before the codes, with f16 and with f32 scales */
    } formats[] = {
#define FORMAT(id, name, f16_head, f32_head, bits) {{f16_head, f32_head}, bits},
        OWN_DTYPES(FORMAT)
#undef FORMAT
    };
    uint32_t format, is_f32, step;
    if (!own_dtype_parts(dtype, &format, &is_f32, &step))
        return false;
    uint32_t n = 32u << step;
    *out = (struct dtype_block){dtype_format_name(dtype_format_of(dtype)), n,
                                formats[format].head[is_f32] + n * formats[format].bits / 8, true};
    return true;
}

bool dtype_block(uint32_t dtype, struct dtype_block *out)
{
    if (dtype >= DTYPE_LIMIT)
        return own_block(dtype, out);
    *out = (struct dtype_block){blocks[dtype].name, blocks[dtype].elements, blocks[dtype].bytes,
                                blocks[dtype].is_loadable};
    return blocks[dtype].name[0] != '\0';
}

bool dtype_row_bytes(uint32_t dtype, uint64_t n_elements, uint64_t *bytes)
{
    struct dtype_block block;
    uint64_t product;
    if (!dtype_block(dtype, &block) || n_elements % block.elements != 0 ||
        __builtin_mul_overflow(n_elements / block.elements, (uint64_t)block.bytes, &product))
        return false;
    *bytes = product;
    return true;
}

const char *dtype_format_name(uint32_t format)
{
    static const char *const names[] = {
#define NAME(id, name, f16_head, f32_head, bits) #name,
        OWN_DTYPES(NAME)
#undef NAME
    };
    return format >= FORMAT_I8S && format < FORMAT_LIMIT ? names[format - FORMAT_I8S] : NULL;
}

uint32_t dtype_own(enum dtype_format format, uint32_t group, bool has_f32_scales)
{
    uint32_t step = group == 32 ? 0 : group == 64 ? 1 : 2;
    return (uint32_t)format | step << 8 | (has_f32_scales && format != FORMAT_F8 ? 1u : 0u) << 10;
}
