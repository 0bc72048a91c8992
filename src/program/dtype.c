#include "program/dtype.h"

#include "program/dtype_internal.h"

static const struct dtype_info dtypes[DTYPE_LIMIT] = {
#define LOADABLE(name, elements, bytes, to_f32) [DTYPE_##name] = {#name, elements, bytes, to_f32},
#define KNOWN(name, elements, bytes)            [DTYPE_##name] = {#name, elements, bytes, NULL},
    GGUF_DTYPES(LOADABLE, KNOWN)
#undef LOADABLE
#undef KNOWN
};

const struct dtype_info *dtype_info(uint32_t dtype)
{
    if (dtype >= DTYPE_LIMIT)
        return own_dtype_info(dtype);
    return dtypes[dtype].name ? &dtypes[dtype] : NULL;
}
