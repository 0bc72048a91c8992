/* Low-rank additions on every level: against double precision, the levels against each other bit
 * for bit, and rows together against rows alone. */
#include "levels.h"

#include "base/numeric.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_ROWS = 9, MAX_RANK = 12, LONGEST = 70, WIDEST = 50, PADDED = 80 };

struct made {
    struct cpu_low_rank site;
    float a[MAX_RANK][LONGEST], b[WIDEST][MAX_RANK]; /* as they are in the site's type */
    _Alignas(64) char packed_a[MAX_RANK * PADDED * 4], packed_b[MAX_RANK * PADDED * 4];
};

static float put(void *out, size_t at, float x, uint32_t dtype)
{
    if (dtype == DTYPE_F32) {
        memcpy((float *)out + at, &x, sizeof x);
        return x;
    }
    uint16_t half = dtype == DTYPE_BF16 ? f32_to_bf16(x) : f32_to_f16(x);
    memcpy((uint16_t *)out + at, &half, sizeof half);
    return dtype == DTYPE_BF16 ? bf16_to_f32(half) : f16_to_f32(half);
}

static void make(struct made *m, uint32_t dtype, uint32_t rank, size_t n_in, size_t n_out)
{
    memset(m, 0, sizeof *m);
    m->site = (struct cpu_low_rank){.rank = rank,
                                    .dtype = dtype,
                                    .n_in = n_in,
                                    .n_out = n_out,
                                    .a = m->packed_a,
                                    .b = m->packed_b};
    size_t steps = (n_in + 15) / 16;
    for (size_t r = 0; r < rank; r++) {
        for (size_t i = 0; i < n_in; i++)
            m->a[r][i] = put(m->packed_a, ((r / 4 * steps + i / 16) * 4 + r % 4) * 16 + i % 16,
                             random_float(r * 1000 + i, 1), dtype);
        for (size_t j = 0; j < n_out; j++)
            m->b[j][r] = put(m->packed_b, (j / 16 * rank + r) * 16 + j % 16,
                             random_float(77000 + r * 1000 + j, 1), dtype);
    }
}

static float x[MAX_ROWS][LONGEST], y[MAX_ROWS][WIDEST];

static void run(const struct cpu_kernels *kernels, const struct made *m, size_t first, size_t n,
                float (*out)[WIDEST])
{
    const float *from[MAX_ROWS], *sums[MAX_ROWS];
    float t[MAX_ROWS][16], factor[MAX_ROWS], *sums_out[MAX_ROWS], *to[MAX_ROWS];
    for (size_t r = 0; r < n; r++) {
        from[r] = x[first + r];
        sums[r] = sums_out[r] = t[r];
        factor[r] = 0.5f + (float)(first + r);
        to[r] = memcpy(out[first + r], y[first + r], sizeof y[0]);
    }
    for (uint32_t group = 0; group < (m->site.rank + 3) / 4; group++)
        kernels->adapter_down(&m->site, group, from, sums_out, n);
    size_t blocks = (m->site.n_out + 15) / 16;
    kernels->adapter_up(&m->site, 0, blocks / 2, sums, factor, to, n);
    kernels->adapter_up(&m->site, blocks / 2, blocks - blocks / 2, sums, factor, to, n);
}

static void check_exact(const struct made *m, size_t n, float (*out)[WIDEST])
{
    for (size_t row = 0; row < n; row++)
        for (size_t j = 0; j < WIDEST; j++) {
            double sum = 0;
            for (uint32_t r = 0; r < m->site.rank && j < m->site.n_out; r++) {
                double t = 0;
                for (size_t i = 0; i < m->site.n_in; i++)
                    t += (double)m->a[r][i] * (double)x[row][i];
                sum += (double)m->b[j][r] * t;
            }
            double expected = (double)y[row][j] + (0.5 + (double)row) * sum;
            double allowed = j < m->site.n_out ? 1e-4 * (1 + fabs(expected)) : 0;
            if (!(fabs((double)out[row][j] - expected) <= allowed))
                fail_msg("rank %u, %zu -> %zu, row %zu, column %zu: %g, expected %g", m->site.rank,
                         m->site.n_in, m->site.n_out, row, j, (double)out[row][j], expected);
        }
}

static void check(const struct made *m, size_t n)
{
    static float first[MAX_ROWS][WIDEST], out[MAX_ROWS][WIDEST];
    for (size_t level = 0; level < n_levels; level++) {
        run(levels[level], m, 0, n, level ? out : first);
        if (level == 0)
            check_exact(m, n, first);
        else if (memcmp(first, out, n * sizeof *out) != 0)
            fail_msg("%s: other bits, rank %u, %zu -> %zu", levels[level]->name, m->site.rank,
                     m->site.n_in, m->site.n_out);
        for (size_t row = 0; row < n; row++)
            run(levels[level], m, row, 1, out);
        if (memcmp(first, out, n * sizeof *out) != 0)
            fail_msg("%s: %zu rows together differ from each alone", levels[level]->name, n);
    }
}

static void sums_are_right_and_equal_on_all_levels(void **state)
{
    (void)state;
    static struct made m;
    static const uint32_t dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    static const size_t lengths[] = {1, 15, 16, 33, LONGEST};
    fill(x[0], MAX_ROWS * LONGEST, 1, 2.0f);
    fill(y[0], MAX_ROWS * WIDEST, 2, 2.0f);
    for (size_t d = 0; d < 3; d++)
        for (uint32_t rank = 1; rank <= MAX_RANK; rank++)
            for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
                make(&m, dtypes[d], rank, lengths[i], (lengths[i] * 7 + rank) % WIDEST + 1);
                check(&m, 1 + (rank + i) % MAX_ROWS);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sums_are_right_and_equal_on_all_levels)};
    return cmocka_run_group_tests(tests, find_levels, NULL);
}
