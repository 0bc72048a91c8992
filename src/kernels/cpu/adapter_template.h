/* Low-rank additions (adapter.c): t = A x, then y += s * (B t), in f32, for some rows at a time
 * that read the same weights once. Part of cpu_kernels_template.h.
 *
 *   A   [rank / 4][k / 16][4][16]    both padded with zeros
 *   B   [columns / 16][rank][16]     padded with zeros
 *
 * so that each is read as one stream. Element i of x goes to lane i % 16, elements in ascending
 * order, and lanes are added as add_lanes does; a column's sum has its ranks in ascending order,
 * and is multiplied by s and added to y at once. No row's sums depend on how many rows there are.
 */

#define ADAPTER_TILE 4 /* rows */

/* Bytes that are asked for ahead: pages end the processor's own streams. */
#define ADAPTER_AHEAD 2048

INLINE fvec load_adapter(const void *weights, size_t i, uint32_t dtype)
{
    if (dtype == DTYPE_BF16)
        return f_load_bf16((const uint16_t *)weights + i);
    if (dtype == DTYPE_F16)
        return f_load_f16((const uint16_t *)weights + i);
    return f_load((const float *)weights + i);
}

INLINE void ask_ahead(const void *weights, size_t i, uint32_t dtype)
{
    const size_t bytes = dtype == DTYPE_F32 ? 4 : 2;
    __builtin_prefetch((const char *)weights + i * bytes + ADAPTER_AHEAD);
}

typedef float four_floats __attribute__((vector_size(16)));

INLINE four_floats load_four(const float *x)
{
    four_floats v;
    memcpy(&v, x, sizeof v);
    return v;
}

/* add_lanes of four vectors at once. */
INLINE void add_lanes_of_four(const fvec v[4], float *out)
{
    four_floats q[4], c[4];
    for (int i = 0; i < 4; i++) {
        float a[LANES];
        f_store(a, v[i]);
        q[i] = (load_four(a) + load_four(a + 8)) + (load_four(a + 4) + load_four(a + 12));
    }
    for (int i = 0; i < 2; i++) { /* columns i and i + 2 of the four: two of each pair at once */
        c[i] = __builtin_shufflevector(q[2 * i], q[2 * i + 1], 0, 4, 1, 5);
        c[i + 2] = __builtin_shufflevector(q[2 * i], q[2 * i + 1], 2, 6, 3, 7);
    }
    four_floats low = c[0] + c[2], high = c[1] + c[3];
    four_floats even = __builtin_shufflevector(low, high, 0, 1, 4, 5);
    four_floats odd = __builtin_shufflevector(low, high, 2, 3, 6, 7);
    four_floats sums = even + odd;
    memcpy(out, &sums, sizeof sums);
}

/* One step of the first: n_rows times CPU_ADAPTER_RANKS sums, x at from[r]. */
INLINE void adapter_down_step(const struct cpu_low_rank *site, size_t at, const float *const *from,
                              size_t n_rows, uint32_t dtype,
                              fvec acc[ADAPTER_TILE][CPU_ADAPTER_RANKS])
{
    fvec a[CPU_ADAPTER_RANKS];
    for (size_t i = 0; i < CPU_ADAPTER_RANKS; i++)
        a[i] = load_adapter(site->a, at + i * LANES, dtype);
    for (size_t i = 0; i < CPU_ADAPTER_RANKS; i += dtype == DTYPE_F32 ? 1 : 2)
        ask_ahead(site->a, at + i * LANES, dtype);
    for (size_t r = 0; r < n_rows; r++) {
        fvec v = f_load(from[r]);
        for (size_t i = 0; i < CPU_ADAPTER_RANKS; i++)
            acc[r][i] = f_fma(a[i], v, acc[r][i]);
    }
}

INLINE void adapter_down_tile(const struct cpu_low_rank *site, uint32_t group,
                              const float *const *x, float *const *t, size_t n_rows, uint32_t dtype)
{
    const size_t n_full = site->n_in / LANES, rest = site->n_in % LANES;
    const size_t stride = CPU_ADAPTER_RANKS * LANES;
    size_t at = group * (n_full + (rest > 0)) * stride;
    fvec acc[ADAPTER_TILE][CPU_ADAPTER_RANKS];
    const float *from[ADAPTER_TILE];
    float part[ADAPTER_TILE][LANES];
    for (size_t r = 0; r < n_rows; r++) {
        from[r] = x[r];
        for (size_t i = 0; i < CPU_ADAPTER_RANKS; i++)
            acc[r][i] = f_splat(0);
    }
    for (size_t step = 0; step < n_full; step++, at += stride) {
        adapter_down_step(site, at, from, n_rows, dtype, acc);
        for (size_t r = 0; r < n_rows; r++)
            from[r] += LANES;
    }
    if (rest > 0) {
        for (size_t r = 0; r < n_rows; r++) {
            memset(part[r], 0, sizeof part[r]);
            from[r] = memcpy(part[r], from[r], rest * sizeof *part[r]);
        }
        adapter_down_step(site, at, from, n_rows, dtype, acc);
    }
    for (size_t r = 0; r < n_rows; r++)
        add_lanes_of_four(acc[r], t[r] + group * CPU_ADAPTER_RANKS);
}

INLINE void adapter_up_tile(const struct cpu_low_rank *site, size_t first_block, size_t n_blocks,
                            const float *const *t, const float *factor, float *const *y,
                            size_t n_rows, uint32_t dtype)
{
    for (size_t block = first_block; block < first_block + n_blocks; block++) {
        const size_t n = min_size(LANES, site->n_out - block * LANES);
        size_t at = block * site->rank * LANES;
        fvec acc[ADAPTER_TILE];
        for (size_t r = 0; r < n_rows; r++)
            acc[r] = f_splat(0);
        for (uint32_t i = 0; i < site->rank; i++, at += LANES) {
            fvec b = load_adapter(site->b, at, dtype);
            ask_ahead(site->b, at, dtype);
            for (size_t r = 0; r < n_rows; r++)
                acc[r] = f_fma(b, f_splat(t[r][i]), acc[r]);
        }
        for (size_t r = 0; r < n_rows; r++) {
            float part[LANES] = {0}, *out = y[r] + block * LANES;
            fvec before = f_load(n < LANES ? memcpy(part, out, n * sizeof *part) : out);
            f_store_part(out, n, f_fma(acc[r], f_splat(factor[r]), before));
        }
    }
}

/* One function for each type and number of rows, so that the loops over rows are unrolled. */
#define EACH_TILE(call, n_rows, dtype)                                                             \
    switch (n_rows) {                                                                              \
    case 1:                                                                                        \
        call(1, dtype);                                                                            \
        break;                                                                                     \
    case 2:                                                                                        \
        call(2, dtype);                                                                            \
        break;                                                                                     \
    case 3:                                                                                        \
        call(3, dtype);                                                                            \
        break;                                                                                     \
    default:                                                                                       \
        call(4, dtype);                                                                            \
    }
#define EACH_TYPE(call, n_rows)                                                                    \
    if (site->dtype == DTYPE_BF16) {                                                               \
        EACH_TILE(call, n_rows, DTYPE_BF16)                                                        \
    } else if (site->dtype == DTYPE_F16) {                                                         \
        EACH_TILE(call, n_rows, DTYPE_F16)                                                         \
    } else {                                                                                       \
        EACH_TILE(call, n_rows, DTYPE_F32)                                                         \
    }

static void adapter_down(const struct cpu_low_rank *site, uint32_t group, const float *const *x,
                         float *const *t, size_t n_rows)
{
    for (size_t row = 0; row < n_rows; row += ADAPTER_TILE) {
#define DOWN(n, dtype) adapter_down_tile(site, group, x + row, t + row, n, dtype)
        EACH_TYPE(DOWN, n_rows - row)
#undef DOWN
    }
}

static void adapter_up(const struct cpu_low_rank *site, size_t first_block, size_t n_blocks,
                       const float *const *t, const float *factor, float *const *y, size_t n_rows)
{
    for (size_t row = 0; row < n_rows; row += ADAPTER_TILE) {
#define UP(n, dtype)                                                                               \
    adapter_up_tile(site, first_block, n_blocks, t + row, factor + row, y + row, n, dtype)
        EACH_TYPE(UP, n_rows - row)
#undef UP
    }
}

#undef EACH_TYPE
#undef EACH_TILE
