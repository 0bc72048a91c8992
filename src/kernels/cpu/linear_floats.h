/* Linear layers whose weights are plain numbers, f32, f16 or bf16 (packed.h), and what every kind
 * of linear layer does with its sums. Included once by each cpu_kernels_LEVEL.c.
 *
 * F32, F16   acc = fma(x, w, acc) over ascending k.
 * BF16       x is rounded to bf16, too; over ascending pairs of k first the odd, then the even one:
 *            acc = fma(x[2i+1], w[2i+1], acc);  acc = fma(x[2i], w[2i], acc)
 *            which are the two steps of the processor's dot product of pairs (vdpbf16ps), so every
 *            level gives the same bits, as long as no number is denormal: it takes those for 0. */
#ifndef LEVEL_LINEAR_FLOATS
#define LEVEL_LINEAR_FLOATS

/* v + numbers[0 .. n - 1] */
INLINE fvec add_some(fvec v, const float *numbers, size_t n)
{
    float some[PACKED_COLUMNS] = {0};
    memcpy(some, numbers, n * sizeof *some);
    return f_add(v, f_load(some));
}

/* Adds the bias, then what is to be added, and writes sixteen columns, all of which exist. */
INLINE void put_whole_row(const struct cpu_linear *call, size_t row, size_t column, fvec v)
{
    const size_t at = row * call->out_stride + column;
    if (call->bias)
        v = f_add(v, f_load(call->bias + column));
    f_store(call->out + at, call->added ? f_add(v, f_load(call->added + at)) : v);
}

/* The same, and writes those that exist. */
INLINE void put_row(const struct cpu_linear *call, size_t row, size_t column, fvec v)
{
    if (column + PACKED_COLUMNS <= call->n_out) {
        put_whole_row(call, row, column, v);
        return;
    }
    const size_t at = row * call->out_stride + column;
    size_t n = call->n_out - column;
    if (call->bias)
        v = add_some(v, call->bias + column, n);
    f_store_part(call->out + at, n, call->added ? add_some(v, call->added + at, n) : v);
}

/* The sums of rows x columns. It asks once whether all exist: with that question before each of
 * them no sum would stay in its register. */
INLINE void put_tile(const struct cpu_linear *call, const fvec *acc, int rows, int columns,
                     size_t row, size_t block)
{
    const size_t column = (call->first_block + block) * PACKED_COLUMNS;
    if (column + PACKED_COLUMNS * (size_t)columns <= call->n_out) {
        UNROLL
        for (int r = 0; r < rows; r++)
            UNROLL
        for (int c = 0; c < columns; c++)
            put_whole_row(call, row + (size_t)r, column + PACKED_COLUMNS * (size_t)c,
                          acc[r * columns + c]);
        return;
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int c = 0; c < columns; c++)
        put_row(call, row + (size_t)r, column + PACKED_COLUMNS * (size_t)c, acc[r * columns + c]);
}

/* ---- f32 and f16 ----------------------------------------------------------------------------- */

INLINE fvec load_numbers(int codes, const uint8_t *p)
{
    return codes == CODES_F32 ? f_load((const float *)(const void *)p) : f_load_f16(p);
}

INLINE void number_tile(const struct cpu_linear *call, int codes, int rows, int columns, size_t row,
                        size_t block)
{
    size_t number_bytes = codes == CODES_F32 ? 64 : 32;
    const float *x = call->x->values + row * call->k;
    const uint8_t *w = call->weights + block * call->column_bytes;
    fvec acc[TILE_ROWS * TILE_COLUMNS];
    UNROLL
    for (int i = 0; i < rows * columns; i++)
        acc[i] = f_splat(0.0f);
    for (size_t k = 0; k < call->k; k++, w += number_bytes)
        UNROLL
    for (int c = 0; c < columns; c++) {
        fvec v = load_numbers(codes, w + (size_t)c * call->column_bytes);
        UNROLL
        for (int r = 0; r < rows; r++)
            acc[r * columns + c] =
                f_fma(f_splat(x[(size_t)r * call->k + k]), v, acc[r * columns + c]);
    }
    put_tile(call, acc, rows, columns, row, block);
}

INLINE void number_linear(const struct cpu_linear *call, int codes)
{
    for (size_t b = 0; b < call->n_blocks;) {
        size_t row = 0;
        int columns = call->n_blocks - b >= TILE_COLUMNS ? TILE_COLUMNS : 1;
        for (; row + TILE_ROWS <= call->n_rows; row += TILE_ROWS)
            if (!IS_SPECIALISED)
                number_tile(call, codes, TILE_ROWS, columns, row, b);
            else if (columns == TILE_COLUMNS)
                number_tile(call, codes, TILE_ROWS, TILE_COLUMNS, row, b);
            else
                number_tile(call, codes, TILE_ROWS, 1, row, b);
        for (; row < call->n_rows; row++)
            if (!IS_SPECIALISED)
                number_tile(call, codes, 1, columns, row, b);
            else if (columns == TILE_COLUMNS)
                number_tile(call, codes, 1, TILE_COLUMNS, row, b);
            else
                number_tile(call, codes, 1, 1, row, b);
        b += (size_t)columns;
    }
}

/* ---- bf16: pairs ------------------------------------------------------------------------------
 *
 * Some rows of x are rounded into scratch memory; then two column blocks at a time run over them,
 * as many rows as have their sums in registers. Pairs lie in runs, of all rows side by side:
 *
 *   run 0   row 0: pair 0 .. 63 | row 1: pair 0 .. 63 | ...
 *   run 1   row 0: pair 64 .. 127 | ...
 *
 * so that the rows of a tile are a constant apart, and one pointer reaches them all. The bound is
 * one dot product a cycle (Zen 4); a tile of 12 x 2 with k = 384 reaches 0.92 of it. */

#define PAIR_ROWS  48 /* whose numbers lie in scratch memory */
#define PAIR_RUN   64
#define PAIR_AHEAD 4096 /* bytes of weights that are asked for, where rows are few */
#ifdef LEVEL_HAS_BF16
#define PAIR_TILE 12
#else
#define PAIR_TILE TILE_ROWS
#endif

static size_t float_linear_scratch(size_t k)
{
    const size_t n_runs = (k + 2 * PAIR_RUN - 1) / (2 * PAIR_RUN);
    return n_runs * PAIR_ROWS * PAIR_RUN * sizeof(uint32_t);
}

/* Where a row's pair p lies, from where its first one lies. */
INLINE size_t pair_at(size_t n_rows, size_t p)
{
    return p / PAIR_RUN * PAIR_RUN * n_rows + p % PAIR_RUN;
}

/* One of n_rows rows as pairs, the even one in the low half; 0 behind an odd end. */
INLINE void store_pairs(const float *x, size_t k, size_t n_rows, uint32_t *pairs)
{
    size_t i = 0;
    for (; i + 16 <= k; i += 16)
        f_store_bf16(pairs + pair_at(n_rows, i / 2), f_load(x + i));
    for (; i < k; i += 2) {
        float two[16] = {x[i], i + 1 < k ? x[i + 1] : 0.0f};
        uint32_t halves[8];
        f_store_bf16(halves, f_load(two));
        pairs[pair_at(n_rows, i / 2)] = halves[0];
    }
}

/* Sixteen columns' weights of two consecutive k; `both`: the second is there. */
#ifdef LEVEL_HAS_BF16
typedef __m512i pair_weights;

INLINE pair_weights load_pairs(const uint8_t *w, bool both)
{
    const __m512i interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512i v = both ? _mm512_loadu_si512(w)
                     : _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)w));
    return _mm512_permutexvar_epi16(interleave, v);
}

INLINE fvec add_pair(fvec acc, uint32_t x, pair_weights w)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_epi32((int)x), (__m512bh)w);
}
#else
typedef struct {
    fvec even, odd;
} pair_weights;

INLINE pair_weights load_pairs(const uint8_t *w, bool both)
{
    return (pair_weights){f_load_bf16(w), both ? f_load_bf16(w + 32) : f_splat(0.0f)};
}

INLINE fvec add_pair(fvec acc, uint32_t x, pair_weights w)
{
    acc = f_fma(f_splat(f32_from_bits(x & 0xffff0000u)), w.odd, acc);
    return f_fma(f_splat(f32_from_bits(x << 16)), w.even, acc);
}
#endif

/* Adds one pair of the rows at x. */
INLINE void add_pairs(fvec *acc, const uint32_t *x, const uint8_t *w, size_t column_bytes, int rows,
                      int columns, bool both)
{
    pair_weights pairs[TILE_COLUMNS];
    UNROLL
    for (int c = 0; c < columns; c++)
        pairs[c] = load_pairs(w + (size_t)c * column_bytes, both);
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int c = 0; c < columns; c++)
        acc[r * columns + c] = add_pair(acc[r * columns + c], x[r * PAIR_RUN], pairs[c]);
}

/* Rows `row` .. of the call, whose pairs are at x, among those of n_rows. Meanwhile it asks for
 * weights: for the next column blocks if these have a whole tile's time to come, else for some a
 * little ahead. What may lie behind the last ones does no harm. */
INLINE void pair_tile(const struct cpu_linear *call, const uint32_t *x, size_t n_rows, int rows,
                      int columns, size_t row, size_t block)
{
    const size_t n_pairs = call->k / 2, column_bytes = call->column_bytes;
    const uint8_t *w = call->weights + block * column_bytes;
    const size_t ahead = rows == PAIR_TILE ? (size_t)columns * column_bytes : PAIR_AHEAD;
    fvec acc[PAIR_TILE * TILE_COLUMNS];
    UNROLL
    for (int i = 0; i < rows * columns; i++)
        acc[i] = f_splat(0.0f);
    for (size_t p = 0; p < n_pairs; p += PAIR_RUN) {
        const uint32_t *run = x + pair_at(n_rows, p), *end = run + min_size(PAIR_RUN, n_pairs - p);
        for (; run < end; run++, w += 64) {
            UNROLL
            for (int c = 0; c < columns; c++)
                __builtin_prefetch(w + ahead + (size_t)c * column_bytes, 0, 2);
            add_pairs(acc, run, w, column_bytes, rows, columns, true);
        }
    }
    if (call->k % 2 == 1)
        add_pairs(acc, x + pair_at(n_rows, n_pairs), w, column_bytes, rows, columns, false);
    put_tile(call, acc, rows, columns, row, block);
}

/* Rows `row` .. of the call, n_rows of them, whose pairs are at x. */
INLINE void pair_columns(const struct cpu_linear *call, const uint32_t *x, int columns, size_t row,
                         size_t n_rows, size_t block)
{
    size_t r = 0;
    for (; r + PAIR_TILE <= n_rows; r += PAIR_TILE)
        pair_tile(call, x + r * PAIR_RUN, n_rows, PAIR_TILE, columns, row + r, block);
    for (; r + TILE_ROWS_SOME <= n_rows; r += TILE_ROWS_SOME)
        pair_tile(call, x + r * PAIR_RUN, n_rows, TILE_ROWS_SOME, columns, row + r, block);
    for (; r < n_rows; r++)
        pair_tile(call, x + r * PAIR_RUN, n_rows, 1, columns, row + r, block);
}

static void pair_linear(const struct cpu_linear *call)
{
    uint32_t *pairs = call->scratch;
    for (size_t row = 0; row < call->n_rows; row += PAIR_ROWS) {
        const size_t n = min_size(PAIR_ROWS, call->n_rows - row);
        for (size_t r = 0; r < n; r++)
            store_pairs(call->x->values + (row + r) * call->k, call->k, n, pairs + r * PAIR_RUN);
        size_t b = 0;
        for (; b + TILE_COLUMNS <= call->n_blocks; b += TILE_COLUMNS)
            pair_columns(call, pairs, TILE_COLUMNS, row, n, b);
        for (; b < call->n_blocks; b++)
            pair_columns(call, pairs, 1, row, n, b);
    }
}

static inline void float_linear(const struct cpu_linear *call)
{
    if (call->form->codes == CODES_BF16)
        pair_linear(call);
    else if (call->form->codes == CODES_F32)
        number_linear(call, CODES_F32);
    else
        number_linear(call, CODES_F16);
}

#endif
