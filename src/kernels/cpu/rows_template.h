/* Where kernels find what they need of quantised rows (cpu_kernels.h). Included once by each
 * cpu_kernels_LEVEL.c. */
#include "kernels/cpu/cpu_kernels.h"

#define INLINE static inline __attribute__((always_inline))

/* Rows of codes in one or two bytes (cpu_kernels.h). */
struct row_layout {
    size_t bytes; /* of a span */
    int n_passes; /* bytes of a code that are multiplied */
    int first;    /* where the first of them is */
    int step;     /* from 16 codes to the next 16 */
};

INLINE struct row_layout row_layout(int is_fine)
{
    if (is_fine)
        return (struct row_layout){CPU_SPAN_BYTES(2), 2, 0, 32};
    return (struct row_layout){CPU_SPAN_BYTES(CPU_COARSE_STEP / 16), 1, CPU_COARSE_AT,
                               CPU_COARSE_STEP};
}

static size_t span_bytes(bool is_fine)
{
    return row_layout(is_fine).bytes;
}

INLINE const struct cpu_span *row_span(const char *spans, struct row_layout layout, int r)
{
    return (const struct cpu_span *)(const void *)(spans + (size_t)r * layout.bytes);
}

/* The spans of rows from `row` on. */
INLINE const char *spans_at(const struct cpu_rows *x, struct row_layout layout, size_t span,
                            size_t row)
{
    return x->spans + (span * x->n_max + row) * layout.bytes;
}

/* Where quad q of a span is; its second byte stands 16 further. */
INLINE const int8_t *quad_codes(struct row_layout layout, const struct cpu_span *span, size_t q)
{
    return span->codes + layout.first + q / 4 * (size_t)layout.step + q % 4 * 4;
}

/* The sum of a group's codes with its sign turned. */
INLINE const int32_t *minus_sum(int group_k, const struct cpu_span *span, size_t group)
{
    return group_k == 32 ? &span->minus_sums[group] : &span->minus_half_sums[group];
}

/* Row scale * sum of a group's codes. */
INLINE float scaled_sum(int group_k, const struct cpu_span *span, size_t group)
{
    if (group_k == 32)
        return span->scaled_sums[group];
    return span->scales[group / 2] * (float)-span->minus_half_sums[group];
}
