/* Where kernels find what they need of quantised rows (cpu_kernels.h). Included once by each
 * cpu_kernels_LEVEL.c. */
#include "kernels/cpu/cpu_kernels.h"

/* The spans of rows from `row` on. */
INLINE const struct cpu_span *spans_at(const struct cpu_rows *x, size_t span, size_t row)
{
    return x->spans + span * x->n_max + row;
}

INLINE const int8_t *quad_codes(const struct cpu_span *span, size_t q)
{
    return span->codes + q * 4;
}

/* The high bytes of the wide quad that count for a group. */
INLINE const int8_t *wide_high(int group_k, const struct cpu_span *span, size_t group)
{
    return span->wide_high[group_k == 32 ? span->wide_quads[group] / 4 : group];
}

/* The sum of a group's codes. */
INLINE const float *sum_of_codes(int group_k, const struct cpu_span *span, size_t group)
{
    return group_k == 32 ? &span->sums[group] : &span->half_sums[group];
}
