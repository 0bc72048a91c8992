/* Where kernels find what they need of quantised rows (cpu_kernels.h). Included once by each
 * cpu_kernels_LEVEL.c. */
#include "kernels/cpu/cpu_kernels.h"

INLINE const struct cpu_span *row_span(const char *spans, int is_fine, int r)
{
    return (const struct cpu_span *)(const void *)(spans + (size_t)r * cpu_span_bytes(is_fine));
}

/* The spans of rows from `row` on. */
INLINE const char *spans_at(const struct cpu_rows *x, int is_fine, size_t span, size_t row)
{
    return x->spans + (span * x->n_max + row) * cpu_span_bytes(is_fine);
}

/* The low bytes, or codes, of quad q of a span. */
INLINE const int8_t *low_codes(int is_fine, const struct cpu_span *span, size_t q)
{
    return span->codes + (is_fine ? q / 8 * 64 + 32 + q % 8 * 4 : q * 4);
}

/* The high bytes of quad q of a span of fine codes. */
INLINE const int8_t *high_codes(const struct cpu_span *span, size_t q)
{
    return span->codes + q / 8 * 64 + q % 8 * 4;
}

/* The wide quad of a block of coarse codes. */
INLINE size_t wide_quad(const struct cpu_span *span, size_t block)
{
    return span->wide_quads[block];
}

/* The high bytes of the wide quad that count for a group. */
INLINE const int8_t *wide_high(int group_k, const struct cpu_span *span, size_t group)
{
    return span->wide_high[group_k == 32 ? wide_quad(span, group) / 4 : group];
}

/* The sum of a group's codes. */
INLINE const float *sum_of_codes(int group_k, const struct cpu_span *span, size_t group)
{
    return group_k == 32 ? &span->sums[group] : &span->half_sums[group];
}
