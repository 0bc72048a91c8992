#include "program/dtype.h"

#include "program/dtype_internal.h"

static const struct dtype_info dtypes[DTYPE_LIMIT] = {
    [DTYPE_F32] = {"F32", 1, 4, f32_to_f32},
    [DTYPE_F16] = {"F16", 1, 2, f16_blocks_to_f32},
    [DTYPE_BF16] = {"BF16", 1, 2, bf16_blocks_to_f32},
    [DTYPE_Q4_0] = {"Q4_0", 32, 18, q4_0_to_f32},
    [DTYPE_Q4_1] = {"Q4_1", 32, 20, q4_1_to_f32},
    [DTYPE_Q5_0] = {"Q5_0", 32, 22, q5_0_to_f32},
    [DTYPE_Q5_1] = {"Q5_1", 32, 24, q5_1_to_f32},
    [DTYPE_Q8_0] = {"Q8_0", 32, 34, q8_0_to_f32},
    [DTYPE_Q8_1] = {"Q8_1", 32, 36, NULL},
    [DTYPE_Q2_K] = {"Q2_K", 256, 84, q2_k_to_f32},
    [DTYPE_Q3_K] = {"Q3_K", 256, 110, q3_k_to_f32},
    [DTYPE_Q4_K] = {"Q4_K", 256, 144, q4_k_to_f32},
    [DTYPE_Q5_K] = {"Q5_K", 256, 176, q5_k_to_f32},
    [DTYPE_Q6_K] = {"Q6_K", 256, 210, q6_k_to_f32},
    [DTYPE_Q8_K] = {"Q8_K", 256, 292, NULL},
    [DTYPE_IQ4_NL] = {"IQ4_NL", 32, 18, iq4_nl_to_f32},
    [DTYPE_IQ4_XS] = {"IQ4_XS", 256, 136, iq4_xs_to_f32},
    [DTYPE_TQ1_0] = {"TQ1_0", 256, 54, tq1_0_to_f32},
    [DTYPE_TQ2_0] = {"TQ2_0", 256, 66, tq2_0_to_f32},
    [DTYPE_MXFP4] = {"MXFP4", 32, 17, mxfp4_to_f32},
    [DTYPE_NVFP4] = {"NVFP4", 64, 36, nvfp4_to_f32},
    [DTYPE_Q1_0] = {"Q1_0", 128, 18, q1_0_to_f32},
    [DTYPE_Q2_0] = {"Q2_0", 64, 18, q2_0_to_f32},
    [DTYPE_IQ2_XXS] = {"IQ2_XXS", 256, 66, iq2_xxs_to_f32},
    [DTYPE_IQ2_XS] = {"IQ2_XS", 256, 74, iq2_xs_to_f32},
    [DTYPE_IQ2_S] = {"IQ2_S", 256, 82, iq2_s_to_f32},
    [DTYPE_IQ3_XXS] = {"IQ3_XXS", 256, 98, iq3_xxs_to_f32},
    [DTYPE_IQ3_S] = {"IQ3_S", 256, 110, iq3_s_to_f32},
    [DTYPE_IQ1_S] = {"IQ1_S", 256, 50, iq1_s_to_f32},
    [DTYPE_IQ1_M] = {"IQ1_M", 256, 56, iq1_m_to_f32},
    [DTYPE_I8] = {"I8", 1, 1, NULL},
    [DTYPE_I16] = {"I16", 1, 2, NULL},
    [DTYPE_I32] = {"I32", 1, 4, NULL},
    [DTYPE_I64] = {"I64", 1, 8, NULL},
    [DTYPE_F64] = {"F64", 1, 8, NULL},
};

const struct dtype_info *dtype_info(uint32_t dtype)
{
    if (dtype >= DTYPE_LIMIT)
        return own_dtype_info(dtype);
    return dtypes[dtype].name ? &dtypes[dtype] : NULL;
}

bool dtype_row_bytes(uint32_t dtype, uint64_t n_elements, uint64_t *bytes)
{
    const struct dtype_info *info = dtype_info(dtype);
    uint64_t product;
    if (!info || n_elements % info->block_elements != 0 ||
        __builtin_mul_overflow(n_elements / info->block_elements, (uint64_t)info->block_bytes,
                               &product))
        return false;
    *bytes = product;
    return true;
}
