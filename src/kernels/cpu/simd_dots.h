/* Numbers of integer dot products, for levels whose conversions do not compete with the products
 * (simd_avx512.h has its own). Included by their simd headers. */

/* Where dot products begin. */
SIMD ivec i_low_begin(void)
{
    return i_splat(0);
}
SIMD ivec i_high_begin(void)
{
    return i_splat(0);
}
/* sum * 2^shift */
SIMD fvec f_zero_sum(const float *sum, int shift)
{
    return f_splat(*sum * (float)(1 << shift));
}
/* 128 * high + low - zero_sum; all but the last addition is exact */
SIMD fvec f_of_dots(ivec low, fvec zero_sum, ivec high)
{
    return f_add(f_of_i(low), f_sub(f_mul(f_of_i(high), f_splat(128.0f)), zero_sum));
}
