/* y = x W^T + b over packed weights (packed.h). Included once by each cpu_kernels_LEVEL.c behind
 * the level's simd header.
 *
 * An output is one lane. For each span of 256 k, over its groups in ascending order with the
 * group's integer dot product i and sum of codes s,
 *
 *   part = fma(i, weight scale, part);  part = fma(minimum, s, part)
 *
 * (of fine rows part = fma(fma(minimum, s, i * weight scale), block scale, part)) and then
 * acc = fma(part, row scale, acc), whatever the number of rows, the tile or the level, so
 * all paths give the same bits. Few rows take the codes apart in registers; many rows share a
 * *panel*: the codes of a column block as bytes and its scales as floats, made once in the worker's
 * scratch memory. */
#include "base/numeric.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/linear_floats.h"

#include <string.h>

/* Up to so many rows are taken without panels, FEW_ROWS at a time; from two whole rounds on panels
 * are faster. */
#define MOST_FEW_ROWS (2 * FEW_ROWS - 1)

/* Bytes ahead of the weights' stream that are asked for. */
#define PREFETCH_BYTES 4096

/* What a kernel knows of its form when it is compiled. */
struct form_constants {
    int codes, scales, has_min, group, zero;
    int unit_blocks; /* 0: as the form says */
};

/* Blocks of codes of a unit, a power of two, as its logarithm. */
INLINE int log2_unit_blocks(struct form_constants f, const struct packed_form *form)
{
    return __builtin_ctz(f.unit_blocks ? (unsigned)f.unit_blocks : form->unit_k / PACKED_BLOCK);
}

/* ---- one block of codes, one group of scales ------------------------------------------------- */

/* quads[q] = codes of quad q, unsigned. */
INLINE void load_quads(struct form_constants f, const int8_t *table, const uint8_t *block,
                       bvec *quads)
{
    if (f.codes == CODES_8BIT) {
        UNROLL
        for (int q = 0; q < 8; q++)
            quads[q] = b_load(block + 64 * q);
        return;
    }
    UNROLL
    for (int z = 0; z < 4; z++) {
        bvec v = b_load(block + 64 * z);
        quads[z] = b_low_nibbles(v);
        quads[z + 4] = b_high_nibbles(v);
    }
    if (f.codes == CODES_TABLE)
        UNROLL
    for (int q = 0; q < 8; q++)
        quads[q] = b_lookup(table, f.zero, quads[q]);
    if (f.codes == CODES_5BIT) {
        bvec plane = b_load(block + 256);
        UNROLL
        for (int q = 0; q < 8; q++)
            quads[q] = b_or(quads[q], b_shift_and(plane, q - 4, 16));
    }
    if (f.codes == CODES_6BIT)
        UNROLL
    for (int q = 0; q < 8; q++)
        quads[q] = b_or(quads[q], b_shift_and(b_load(block + 256 + q / 4 * 64), q % 4 * 2 - 4, 48));
}

/* Quad q of a block, as load_quads has it. */
INLINE bvec load_quad(struct form_constants f, const int8_t *table, const uint8_t *block, int q)
{
    if (f.codes == CODES_8BIT)
        return b_load(block + 64 * q);
    bvec code = b_shift_right_and(b_load(block + 64 * (q % 4)), q / 4 * 4, 15);
    if (f.codes == CODES_TABLE)
        return b_lookup(table, f.zero, code);
    bvec high;
    if (f.codes == CODES_5BIT)
        high = b_shift_right_and(b_load(block + 256), q, 1);
    else if (f.codes == CODES_6BIT)
        high = b_shift_right_and(b_load(block + 256 + q / 4 * 64), q % 4 * 2, 3);
    else
        return code;
    return b_or(code, b_shift_and(high, -4, 0xf0));
}

/* Scales, or minima, of group g of a unit. */
INLINE fvec group_scales(struct form_constants f, const uint8_t *unit, int g, int minima)
{
    if (f.scales == SCALES_F32)
        return f_load((const float *)(const void *)(unit + (minima ? 64 : 0)));
    if (f.scales == SCALES_ZEROS || f.scales == SCALES_ZEROS_F32) {
        const int is_f32 = f.scales == SCALES_ZEROS_F32;
        fvec scale = is_f32 ? f_load((const float *)(const void *)unit) : f_load_f16(unit);
        if (!minima)
            return scale;
        return f_mul(f_sub(f_splat(0.0f), scale), f_load_i8(unit + (is_f32 ? 64 : 32)));
    }
    const uint8_t *d = unit + (minima ? 32 : 0);
    if (f.scales == SCALES_BF16)
        return f_load_bf16(d);
    if (f.scales == SCALES_F16)
        return f_load_f16(d);
    int n = 256 / f.group;
    const uint8_t *sub = unit + (f.has_min ? 64 : 32) + 16 * (g + (minima ? n : 0));
    return f_mul(f_load_f16(d), f_load_i8(sub));
}

/* Whether dot products still hold the zero point, a power of two, times the sum of the codes. */
INLINE int keeps_zero(int zero)
{
    return zero != 0 && !(zero == 128 && DOT_TAKES_128_OFF);
}

/* ---- few rows -------------------------------------------------------------------------------- */

INLINE int log2_of(int power)
{
    return __builtin_ctz((unsigned)power);
}

/* part + the group's products, as above. */
INLINE fvec add_group_sum(fvec part, fvec dot, fvec scales, fvec minima, int has_min, int is_fine,
                          const struct cpu_span *span, int group_k, size_t group)
{
    fvec products = is_fine ? f_mul(dot, scales) : f_fma(dot, scales, part);
    if (has_min)
        products = f_fma(minima, f_splat(*sum_of_codes(group_k, span, group)), products);
    if (!is_fine)
        return products;
    return f_fma(products, f_splat(span->block_scales[group * (size_t)group_k / 32]), part);
}

/* The dot product of a group with the codes of a row. `wide` is the quad of the group's 32 that is
 * wide. */
INLINE fvec few_rows_dot(struct form_constants f, const bvec *quads, bvec wide,
                         const struct cpu_span *span, size_t group)
{
    const int n = f.group / 4, first = f.group == 32 ? 0 : (int)(group % 2) * n;
    const size_t first_quad = group * (size_t)n;
    const int is_8bit = f.zero == 128;
    ivec low = i_low_begin(), high = i_high_begin();
    UNROLL
    for (int q = 0; q < n; q++)
        low = i_dot(low, quads[first + q], quad_codes(span, first_quad + (size_t)q), is_8bit);
    high = i_dot(high, wide, wide_high(f.group, span, group), is_8bit);
    fvec zero_sum = f_splat(0.0f);
    if (keeps_zero(f.zero))
        zero_sum = f_zero_sum(sum_of_codes(f.group, span, group), log2_of(f.zero));
    return f_of_dots(low, zero_sum, high);
}

/* Adds block `block` of a span to the parts of the first `m` rows; it is block i of its unit. */
INLINE void few_rows_block(const struct cpu_linear *call, struct form_constants f, int m,
                           const uint8_t *unit, int i, size_t block, const struct cpu_span *spans,
                           fvec *parts)
{
    const struct packed_form *form = call->form;
    const int groups = 32 / f.group, is_fine = call->x->is_fine;
    const uint8_t *codes = unit + form->header_bytes + (size_t)i * form->block_bytes;
    for (size_t at = 0; at < form->block_bytes + 63; at += 64)
        __builtin_prefetch(codes + PREFETCH_BYTES + at, 0, 3);
    bvec quads[8], wide[FEW_ROWS];
    load_quads(f, form->table, codes, quads);
    UNROLL
    for (int g = 0; g < groups; g++) {
        fvec scales = group_scales(f, unit, i * groups + g, 0), minima = {0};
        if (f.has_min)
            minima = group_scales(f, unit, i * groups + g, 1);
        size_t group = block * (size_t)groups + (size_t)g;
        UNROLL
        for (int r = 0; r < m; r++) {
            if (g == 0) /* as late as can be: registers are few */
                wide[r] = load_quad(f, form->table, codes, spans[r].wide_quads[block] % 8);
            fvec dot = few_rows_dot(f, quads, wide[r], &spans[r], group);
            parts[r] = add_group_sum(parts[r], dot, scales, minima, f.has_min, is_fine, &spans[r],
                                     f.group, group);
        }
    }
}

/* `m` rows from `row` on times one column block. */
INLINE void few_rows(const struct cpu_linear *call, struct form_constants f, int m, size_t row,
                     const uint8_t *unit, fvec *acc)
{
    const struct packed_form *form = call->form;
    UNROLL
    for (int r = 0; r < m; r++)
        acc[r] = f_splat(0.0f);
    for (size_t s = 0; s < cpu_n_spans(call->k); s++) {
        const struct cpu_span *spans = spans_at(call->x, s, row);
        size_t n = min_size(CPU_SPAN_BLOCKS, call->k / PACKED_BLOCK - s * CPU_SPAN_BLOCKS);
        fvec parts[FEW_ROWS];
        UNROLL
        for (int r = 0; r < m; r++)
            parts[r] = f_splat(0.0f);
        const int shift = log2_unit_blocks(f, form);
        for (size_t block = 0; block < n; block++)
            few_rows_block(call, f, m, unit + (block >> shift) * form->unit_bytes,
                           (int)(block & (((size_t)1 << shift) - 1)), block, spans, parts);
        UNROLL
        for (int r = 0; r < m; r++)
            acc[r] = f_fma(parts[r], f_splat(spans[r].scale), acc[r]);
        unit += (n >> shift) * form->unit_bytes;
    }
}

/* A column block stays in the first cache while all rows run over it. */
INLINE void few_rows_linear(const struct cpu_linear *call, struct form_constants f)
{
    for (size_t b = 0; b < call->n_blocks; b++)
        for (size_t row = 0; row < call->n_rows; row += FEW_ROWS) {
            const uint8_t *unit = call->weights + b * call->column_bytes;
            const size_t n = min_size(FEW_ROWS, call->n_rows - row);
            fvec acc[FEW_ROWS];
            if (!IS_SPECIALISED)
                few_rows(call, f, (int)n, row, unit, acc);
            else if (FEW_ROWS == 1 || n == 1)
                few_rows(call, f, 1, row, unit, acc);
            else if (n == 2)
                few_rows(call, f, 2, row, unit, acc);
            else /* three are four, of which one lies behind the last (CPU_ROW_PADDING) */
                few_rows(call, f, FEW_ROWS, row, unit, acc);
            for (size_t r = 0; r < n; r++)
                put_row(call, row + r, (call->first_block + b) * PACKED_COLUMNS, acc[r]);
        }
}

/* ---- many rows -------------------------------------------------------------------------------
 *
 * A panel is taken apart for some column blocks and one span of k, and all rows run over it, their
 * sums resting in scratch memory from one panel to the next. What runs over panels knows only the
 * kind of their groups, not the form that they came from. */

#define GEMM_PANELS 4   /* column blocks */
#define GEMM_ROWS   512 /* whose sums are kept */
#define FETCH_AHEAD 2   /* panels' weights are asked for so many panels before they are needed */

struct panel {
    _Alignas(64) uint8_t codes[CPU_SPAN / 4][64];       /* quads */
    float scales[CPU_SPAN_BLOCKS * 2 * PACKED_COLUMNS]; /* [group][16] */
    float minima[CPU_SPAN_BLOCKS * 2 * PACKED_COLUMNS];
};

struct gemm_scratch {
    struct panel panels[GEMM_PANELS];
    float sums[GEMM_ROWS][GEMM_PANELS * PACKED_COLUMNS];
};

static size_t linear_scratch(size_t k)
{
    return max_size(sizeof(struct gemm_scratch), float_linear_scratch(k));
}

/* Blocks first .. first + n_blocks - 1 of a column. */
INLINE void fill_panel(const struct cpu_linear *call, struct form_constants f,
                       const uint8_t *column, size_t first, size_t n_blocks, struct panel *panel)
{
    const struct packed_form *form = call->form;
    const int groups = 32 / f.group, shift = log2_unit_blocks(f, form);
    for (size_t block = 0; block < n_blocks; block++) {
        size_t in_unit = block & (((size_t)1 << shift) - 1);
        const uint8_t *unit = column + ((first + block) >> shift) * form->unit_bytes;
        const uint8_t *codes = unit + form->header_bytes + in_unit * form->block_bytes;
        bvec quads[8];
        load_quads(f, form->table, codes, quads);
        UNROLL
        for (int q = 0; q < 8; q++)
            b_store(panel->codes[8 * block + (size_t)q], quads[q]);
        UNROLL
        for (int g = 0; g < groups; g++) {
            size_t at = (block * (size_t)groups + (size_t)g) * PACKED_COLUMNS;
            int in_scales = (int)in_unit * groups + g;
            f_store(panel->scales + at, group_scales(f, unit, in_scales, 0));
            if (f.has_min)
                f_store(panel->minima + at, group_scales(f, unit, in_scales, 1));
        }
    }
}

/* One span of k for some rows and column blocks. */
struct gemm_span {
    const struct cpu_linear *call;
    size_t first_block, n_blocks; /* of k */
    size_t first_column;          /* of the first panel, in the whole matrix */
    bool is_last;                 /* of k: the sums are the result */
    const uint8_t *next;          /* the weights of panels to come, column_bytes apart */
    size_t next_bytes;            /* of each */
};

/* The lines of those weights that are still to be asked for. */
struct fetch {
    size_t columns, lines; /* this column among them, lines of it */
    const uint8_t *at;
};

INLINE struct fetch fetch_begin(const struct gemm_span *span)
{
    return (struct fetch){GEMM_PANELS, (span->next_bytes + 63) / 64, span->next};
}

/* Asks for the next `n` lines: while tiles are computed memory is idle. */
INLINE void fetch_lines(const struct gemm_span *span, struct fetch *fetch, size_t n)
{
    const size_t all = (span->next_bytes + 63) / 64;
    for (; n > 0 && fetch->columns > 0; n--) {
        __builtin_prefetch(fetch->at, 0, 2);
        fetch->at += 64;
        if (--fetch->lines == 0) {
            fetch->at += span->call->column_bytes - all * 64;
            fetch->lines = all;
            fetch->columns--;
        }
    }
}

/* What a tile knows when it is compiled. */
struct tile_kind {
    int group, has_min, is_8bit, is_fine;
};

/* Of the forms with minima only codes of eight bits have a zero point, too. */
INLINE int has_zero(struct tile_kind t)
{
    return !t.has_min || t.is_8bit;
}

#ifdef LEVEL_HAS_AMX
#include "kernels/cpu/gemm_amx.h"
#else

#ifdef SIMD_HAS_PAIRS
/* Quads whose sums of pairs fit into 16 bits: codes of six bits have groups of 16 and no minima, 2
 * * 2 * 63 * 127; others that are not of eight have five bits at most, 4 * 2 * 31 * 127. */
INLINE int quads_together(struct tile_kind t)
{
    return t.group == 32 || t.has_min ? 4 : 2;
}

/* The same sums as below, to the bit: they are of integers. */
INLINE void add_small_dots(struct tile_kind t, const struct panel *panels, int rows,
                           const struct cpu_span *x, size_t group, ivec *dots)
{
    const int quads = t.group / 4, together = quads_together(t);
    UNROLL
    for (int first = 0; first < quads; first += together) {
        ivec pairs[TILE_ROWS * TILE_COLUMNS];
        UNROLL
        for (int i = 0; i < together; i++) {
            const size_t q = group * (size_t)quads + (size_t)(first + i);
            UNROLL
            for (int r = 0; r < rows; r++)
                UNROLL
            for (int c = 0; c < TILE_COLUMNS; c++) {
                ivec *pair = &pairs[r * TILE_COLUMNS + c];
                const ivec dot = w_dot(b_load(panels[c].codes[q]), quad_codes(&x[r], q));
                *pair = i == 0 ? dot : w_add(*pair, dot);
            }
        }
        UNROLL
        for (int i = 0; i < rows * TILE_COLUMNS; i++)
            dots[i] = i_add_pairs(dots[i], pairs[i]);
    }
}
#endif

/* Adds the dot products of a group, but for the high bytes. */
INLINE void add_dots(struct tile_kind t, const struct panel *panels, int rows,
                     const struct cpu_span *x, size_t group, ivec *dots)
{
    const int quads = t.group / 4; /* the loop has a constant number of rounds: it is unrolled */
#ifdef SIMD_HAS_PAIRS
    if (!t.is_8bit) {
        add_small_dots(t, panels, rows, x, group, dots);
        return;
    }
#endif
    UNROLL
    for (int i = 0; i < quads; i++) {
        const size_t q = group * (size_t)quads + (size_t)i;
        UNROLL
        for (int r = 0; r < rows; r++)
            UNROLL
        for (int c = 0; c < TILE_COLUMNS; c++)
            dots[r * TILE_COLUMNS + c] =
                i_dot(dots[r * TILE_COLUMNS + c], b_load(panels[c].codes[q]), quad_codes(&x[r], q),
                      t.is_8bit);
    }
}

/* The high bytes' part of the dot product of a group with a row. */
INLINE ivec wide_dot(struct tile_kind t, const struct panel *panel, const struct cpu_span *codes,
                     size_t group)
{
    return i_dot(i_high_begin(),
                 b_load(panel->codes[codes->wide_quads[group * (size_t)t.group / 32]]),
                 wide_high(t.group, codes, group), t.is_8bit);
}

/* Adds a span to the sums of rows x TILE_COLUMNS: the rows from `row` on, which lie at x; the
 * columns from `column` on, of which only n_columns are there: what is computed for others is not
 * kept. */
INLINE void gemm_tile(const struct gemm_span *span, struct tile_kind t, const struct panel *panels,
                      int rows, size_t n_columns, const struct cpu_span *x, float *sums, size_t row,
                      size_t column)
{
    const int columns = TILE_COLUMNS;
    if (span->is_last) /* the lines are fetched for writing while the tile is computed */
        UNROLL
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++)
            __builtin_prefetch(span->call->out + (row + (size_t)r) * span->call->out_stride +
                                   column + PACKED_COLUMNS * (size_t)c,
                               1, 3);
    const size_t groups = 32 / (size_t)t.group;
    const int keeps_sum = has_zero(t) && !(t.is_8bit && DOT_TAKES_128_OFF);
    const int shift = keeps_sum ? log2_of(span->call->form->zero) : 0;
    fvec parts[TILE_ROWS * TILE_COLUMNS];
    UNROLL
    for (int i = 0; i < rows * columns; i++)
        parts[i] = f_splat(0.0f);
    for (size_t group = 0; group < span->n_blocks * groups; group++) {
        ivec low[TILE_ROWS * TILE_COLUMNS];
        UNROLL
        for (int i = 0; i < rows * columns; i++)
            low[i] = i_low_begin();
        add_dots(t, panels, rows, x, group, low);
        UNROLL
        for (int r = 0; r < rows; r++) {
            const float *sum = sum_of_codes(t.group, &x[r], group);
            fvec zero_sum = keeps_sum ? f_zero_sum(sum, shift) : f_splat(0.0f);
            UNROLL
            for (int c = 0; c < columns; c++) {
                fvec *part = &parts[r * columns + c], minima = {0};
                fvec dot = f_of_dots(low[r * columns + c], zero_sum,
                                     wide_dot(t, &panels[c], &x[r], group));
                if (t.has_min)
                    minima = f_load(panels[c].minima + group * PACKED_COLUMNS);
                *part = add_group_sum(*part, dot, f_load(panels[c].scales + group * PACKED_COLUMNS),
                                      minima, t.has_min, t.is_fine, &x[r], t.group, group);
            }
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        fvec scale = f_splat(x[r].scale);
        UNROLL
        for (int c = 0; c < columns; c++) {
            const float *kept = sums + (size_t)(r * GEMM_PANELS + c) * PACKED_COLUMNS;
            parts[r * columns + c] = f_fma(parts[r * columns + c], scale, f_load(kept));
        }
    }
    const struct cpu_linear *call = span->call;
    const bool is_whole = (size_t)columns <= n_columns && !call->bias &&
                          column + PACKED_COLUMNS * (size_t)columns <= call->n_out;
    float *out = sums;
    size_t stride = GEMM_PANELS * PACKED_COLUMNS;
    if (span->is_last && is_whole) {
        out = call->out + row * call->out_stride + column;
        stride = call->out_stride;
        if (call->added)
            UNROLL
        for (int r = 0; r < rows; r++)
            UNROLL
        for (int c = 0; c < columns; c++)
            parts[r * columns + c] =
                f_add(parts[r * columns + c], f_load(call->added + (row + (size_t)r) * stride +
                                                     column + PACKED_COLUMNS * (size_t)c));
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int c = 0; c < columns; c++)
        f_store(out + (size_t)r * stride + (size_t)c * PACKED_COLUMNS, parts[r * columns + c]);
    if (!span->is_last || is_whole)
        return;
    for (size_t r = 0; r < (size_t)rows; r++)
        for (size_t c = 0; c < min_size((size_t)columns, n_columns); c++)
            put_row(call, row + r, column + PACKED_COLUMNS * c,
                    f_load(sums + (r * GEMM_PANELS + c) * PACKED_COLUMNS));
}

/* Rows of the next tile, `most` at most: no more tiles of one row than there must be. */
INLINE int rows_of_tile(size_t left, int most)
{
    const size_t some = TILE_ROWS_SOME, rest = left % (size_t)most;
    if (left >= (size_t)most && !(rest > 0 && rest < some && rest + (size_t)most >= 2 * some))
        return most;
    return left >= some ? TILE_ROWS_SOME : 1;
}

/* All rows over the panels of `columns` column blocks. */
INLINE void gemm_rows(const struct gemm_span *span, struct tile_kind t, size_t columns,
                      size_t first_row, size_t n_rows, struct gemm_scratch *s)
{
    const struct cpu_span *spans =
        spans_at(span->call->x, span->first_block / CPU_SPAN_BLOCKS, first_row);
    struct fetch fetch = fetch_begin(span);
    const int most = n_rows <= 16 ? TILE_ROWS_SOME : TILE_ROWS; /* four by four is 16 */
    const size_t tile_columns = (columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
    const size_t lines_per_row = GEMM_PANELS * fetch.lines / (n_rows * tile_columns) + 1;
    for (size_t row = 0; row < n_rows;) {
        const struct cpu_span *x = spans + row;
        int rows = rows_of_tile(n_rows - row, most);
        for (size_t c = 0; c < columns; c += TILE_COLUMNS) {
            const struct panel *panels = &s->panels[c];
            float *sums = &s->sums[row][c * PACKED_COLUMNS];
            size_t column = span->first_column + c * PACKED_COLUMNS, n = columns - c;
            fetch_lines(span, &fetch, (size_t)rows * lines_per_row);
            if (!IS_SPECIALISED)
                gemm_tile(span, t, panels, rows, n, x, sums, first_row + row, column);
            else if (rows == TILE_ROWS)
                gemm_tile(span, t, panels, TILE_ROWS, n, x, sums, first_row + row, column);
            else if (rows == TILE_ROWS_SOME)
                gemm_tile(span, t, panels, TILE_ROWS_SOME, n, x, sums, first_row + row, column);
            else
                gemm_tile(span, t, panels, 1, n, x, sums, first_row + row, column);
        }
        row += (size_t)rows;
    }
}

INLINE void gemm_begin(int group, size_t n_rows)
{
    (void)group;
    (void)n_rows;
}

INLINE void gemm_end(void)
{
}
#endif

/* One for each kind, so that tiles are compiled once for all forms of the kind. */
typedef void (*gemm_rows_fn)(const struct gemm_span *span, size_t columns, size_t first_row,
                             size_t n_rows, struct gemm_scratch *s);

#define TILES(name, ...)                                                                           \
    static void rows_##name(const struct gemm_span *span, size_t columns, size_t first_row,        \
                            size_t n_rows, struct gemm_scratch *s)                                 \
    {                                                                                              \
        gemm_rows(span, (struct tile_kind){__VA_ARGS__, 0}, columns, first_row, n_rows, s);        \
    }                                                                                              \
    static void rows_fine_##name(const struct gemm_span *span, size_t columns, size_t first_row,   \
                                 size_t n_rows, struct gemm_scratch *s)                            \
    {                                                                                              \
        gemm_rows(span, (struct tile_kind){__VA_ARGS__, 1}, columns, first_row, n_rows, s);        \
    }

/* group, has_min, is_8bit */
TILES(min, 32, 1, 0)
TILES(zero, 32, 0, 0)
TILES(halves_min, 16, 1, 0)
TILES(halves_zero, 16, 0, 0)
TILES(8bit_min, 32, 1, 1)
#if DOT_TAKES_128_OFF
TILES(8bit, 32, 0, 1)
#endif

static void rows_any(const struct gemm_span *span, size_t columns, size_t first_row, size_t n_rows,
                     struct gemm_scratch *s)
{
    const struct packed_form *form = span->call->form;
    gemm_rows(
        span,
        (struct tile_kind){form->group, form->has_min, form->zero == 128, span->call->x->is_fine},
        columns, first_row, n_rows, s);
}

#define KIND(name) (is_fine ? rows_fine_##name : rows_##name)

INLINE gemm_rows_fn tiles_of(struct form_constants f, bool is_fine)
{
    if (!IS_SPECIALISED)
        return rows_any;
    if (f.zero == 128 && f.has_min)
        return KIND(8bit_min);
#if DOT_TAKES_128_OFF
    if (f.zero == 128)
        return KIND(8bit);
#endif
    if (f.group == 16)
        return f.has_min ? KIND(halves_min) : KIND(halves_zero);
    return f.has_min ? KIND(min) : KIND(zero);
}

INLINE void many_rows_linear(const struct cpu_linear *call, struct form_constants f)
{
    const struct packed_form *form = call->form;
    struct gemm_scratch *s = call->scratch;
    gemm_rows_fn run_rows = tiles_of(f, call->x->is_fine);
    gemm_begin(f.group, call->n_rows);
    const size_t k_blocks = call->k / PACKED_BLOCK, n_spans = cpu_n_spans(call->k);
    for (size_t row = 0; row < call->n_rows; row += GEMM_ROWS) {
        size_t rows = min_size(GEMM_ROWS, call->n_rows - row);
        for (size_t b = 0; b < call->n_blocks; b += GEMM_PANELS) {
            size_t columns = min_size(GEMM_PANELS, call->n_blocks - b);
            for (size_t k = 0; k < k_blocks; k += CPU_SPAN_BLOCKS) {
                const uint8_t *weights = call->weights + b * call->column_bytes;
                struct gemm_span span = {.call = call,
                                         .first_block = k,
                                         .n_blocks = min_size(CPU_SPAN_BLOCKS, k_blocks - k),
                                         .first_column = (call->first_block + b) * PACKED_COLUMNS,
                                         .is_last = k + CPU_SPAN_BLOCKS >= k_blocks};
                size_t ahead = k / CPU_SPAN_BLOCKS + FETCH_AHEAD;
                size_t next = ahead % n_spans * CPU_SPAN_BLOCKS;
                span.next = weights + next * PACKED_BLOCK / form->unit_k * form->unit_bytes +
                            ahead / n_spans * GEMM_PANELS * call->column_bytes;
                span.next_bytes = min_size(CPU_SPAN_BLOCKS, k_blocks - next) * PACKED_BLOCK /
                                  form->unit_k * form->unit_bytes;
                if (k == 0)
                    memset(s->sums, 0, rows * sizeof *s->sums);
                for (size_t c = 0; c < columns; c++)
                    fill_panel(call, f, weights + c * call->column_bytes, k, span.n_blocks,
                               &s->panels[c]);
                run_rows(&span, columns, row, rows, s);
            }
        }
    }
    gemm_end();
}

/* ---- codes of numbers under a scale
 * -------------------------------------------------------------- */

/* Each becomes a number, and that is taken as in linear_floats.h. */

INLINE fvec load_scaled(int codes, const uint8_t *p, size_t i)
{
    if (codes == CODES_F8)
        return f_load_e4m3(p + 16 * i);
    return f_lookup(nf4_values, p + i / 2 * 16, 4 * (int)(i % 2));
}

INLINE void scaled_tile(const struct cpu_linear *call, int codes, int scale_kind, int rows,
                        int columns, size_t row, size_t block)
{
    const struct packed_form *form = call->form;
    const float *x = call->x->values + row * call->k;
    const uint8_t *unit = call->weights + block * call->column_bytes;
    fvec acc[TILE_ROWS * TILE_COLUMNS];
    UNROLL
    for (int i = 0; i < rows * columns; i++)
        acc[i] = f_splat(0.0f);
    for (size_t k = 0; k < call->k; k += form->unit_k, unit += form->unit_bytes) {
        fvec scales[TILE_COLUMNS];
        UNROLL
        for (int c = 0; c < columns; c++) {
            const uint8_t *d = unit + (size_t)c * call->column_bytes;
            scales[c] =
                scale_kind == SCALES_F32 ? f_load((const float *)(const void *)d) : f_load_f16(d);
        }
        for (size_t i = 0; i < form->unit_k; i++)
            UNROLL
        for (int c = 0; c < columns; c++) {
            const uint8_t *p = unit + (size_t)c * call->column_bytes + form->header_bytes;
            fvec v = f_mul(scales[c], load_scaled(codes, p, i));
            UNROLL
            for (int r = 0; r < rows; r++)
                acc[r * columns + c] =
                    f_fma(f_splat(x[(size_t)r * call->k + k + i]), v, acc[r * columns + c]);
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int c = 0; c < columns; c++)
        put_row(call, row + (size_t)r, (call->first_block + block + (size_t)c) * PACKED_COLUMNS,
                acc[r * columns + c]);
}

INLINE void scaled_linear(const struct cpu_linear *call, int codes, int scale_kind)
{
    for (size_t b = 0; b < call->n_blocks;) {
        size_t row = 0;
        int columns = call->n_blocks - b >= TILE_COLUMNS ? TILE_COLUMNS : 1;
        for (; row + TILE_ROWS <= call->n_rows; row += TILE_ROWS)
            if (columns == TILE_COLUMNS)
                scaled_tile(call, codes, scale_kind, TILE_ROWS, TILE_COLUMNS, row, b);
            else
                scaled_tile(call, codes, scale_kind, TILE_ROWS, 1, row, b);
        for (; row < call->n_rows; row++)
            if (columns == TILE_COLUMNS)
                scaled_tile(call, codes, scale_kind, 1, TILE_COLUMNS, row, b);
            else
                scaled_tile(call, codes, scale_kind, 1, 1, row, b);
        b += (size_t)columns;
    }
}

/* ---- choice ---------------------------------------------------------------------------------- */

#ifdef LEVEL_FEW
#define FEW(name, ...)
#else
#define FEW(name, ...)                                                                             \
    static void few_##name(const struct cpu_linear *call)                                          \
    {                                                                                              \
        few_rows_linear(call, (struct form_constants){__VA_ARGS__});                               \
    }
#endif
#define LINEAR(name, ...)                                                                          \
    FEW(name, __VA_ARGS__)                                                                         \
    static void many_##name(const struct cpu_linear *call)                                         \
    {                                                                                              \
        many_rows_linear(call, (struct form_constants){__VA_ARGS__});                              \
    }

/* codes, scales, has_min, group, zero: as packed.c's tables have them; blocks of a unit */
LINEAR(q4_0, CODES_NIBBLE, SCALES_F16, 0, 32, 8, 1)
LINEAR(q4_1, CODES_NIBBLE, SCALES_F16, 1, 32, 0, 1)
LINEAR(q5_0, CODES_5BIT, SCALES_F16, 0, 32, 16, 1)
LINEAR(q5_1, CODES_5BIT, SCALES_F16, 1, 32, 0, 1)
LINEAR(q8_0, CODES_8BIT, SCALES_F16, 0, 32, 128, 1)
LINEAR(iq4_nl, CODES_TABLE, SCALES_F16, 0, 32, 128, 1)
LINEAR(mxfp4, CODES_TABLE, SCALES_BF16, 0, 32, 16, 1)
LINEAR(iq4_xs, CODES_TABLE, SCALES_SUPER, 0, 32, 128, 8)
LINEAR(q4_k, CODES_NIBBLE, SCALES_SUPER, 1, 32, 0, 8)
LINEAR(q5_k, CODES_5BIT, SCALES_SUPER, 1, 32, 0, 8)
LINEAR(q6_k, CODES_6BIT, SCALES_SUPER, 0, 16, 32, 8)
LINEAR(q2_k, CODES_NIBBLE, SCALES_SUPER, 1, 16, 0, 8)
LINEAR(q3_k, CODES_NIBBLE, SCALES_SUPER, 0, 16, 8, 8)
LINEAR(i8s, CODES_8BIT, SCALES_F16, 0, 32, 128, 0)
LINEAR(i8a, CODES_8BIT, SCALES_ZEROS, 1, 32, 128, 0)
LINEAR(i4s, CODES_NIBBLE, SCALES_F16, 0, 32, 8, 0)
LINEAR(i4a, CODES_NIBBLE, SCALES_F16, 1, 32, 0, 0)
LINEAR(i4z, CODES_NIBBLE, SCALES_ZEROS, 1, 32, 0, 0)

#ifdef LEVEL_FEW
#define WAYS(name) many_##name, NULL
#else
#define WAYS(name) many_##name, few_##name
#endif

static const struct {
    struct form_constants form;
    void (*many)(const struct cpu_linear *call);
    void (*few)(const struct cpu_linear *call); /* NULL: another level's */
} linears[] = {
    {{CODES_NIBBLE, SCALES_F16, 0, 32, 8, 1}, WAYS(q4_0)},
    {{CODES_NIBBLE, SCALES_F16, 1, 32, 0, 1}, WAYS(q4_1)},
    {{CODES_5BIT, SCALES_F16, 0, 32, 16, 1}, WAYS(q5_0)},
    {{CODES_5BIT, SCALES_F16, 1, 32, 0, 1}, WAYS(q5_1)},
    {{CODES_8BIT, SCALES_F16, 0, 32, 128, 1}, WAYS(q8_0)},
    {{CODES_TABLE, SCALES_F16, 0, 32, 128, 1}, WAYS(iq4_nl)},
    {{CODES_TABLE, SCALES_BF16, 0, 32, 16, 1}, WAYS(mxfp4)},
    {{CODES_TABLE, SCALES_SUPER, 0, 32, 128, 8}, WAYS(iq4_xs)},
    {{CODES_NIBBLE, SCALES_SUPER, 1, 32, 0, 8}, WAYS(q4_k)},
    {{CODES_5BIT, SCALES_SUPER, 1, 32, 0, 8}, WAYS(q5_k)},
    {{CODES_6BIT, SCALES_SUPER, 0, 16, 32, 8}, WAYS(q6_k)},
    {{CODES_NIBBLE, SCALES_SUPER, 1, 16, 0, 8}, WAYS(q2_k)},
    {{CODES_NIBBLE, SCALES_SUPER, 0, 16, 8, 8}, WAYS(q3_k)},
    {{CODES_8BIT, SCALES_F16, 0, 32, 128, 0}, WAYS(i8s)},
    {{CODES_8BIT, SCALES_ZEROS, 1, 32, 128, 0}, WAYS(i8a)},
    {{CODES_NIBBLE, SCALES_F16, 0, 32, 8, 0}, WAYS(i4s)},
    {{CODES_NIBBLE, SCALES_F16, 1, 32, 0, 0}, WAYS(i4a)},
    {{CODES_NIBBLE, SCALES_ZEROS, 1, 32, 0, 0}, WAYS(i4z)},
};

INLINE void linear_of_any_form(const struct cpu_linear *call)
{
    const struct packed_form *form = call->form;
    const struct form_constants f = {form->codes, form->scales, form->has_min,
                                     form->group, form->zero,   0};
    if (form->codes == CODES_F8 || form->codes == CODES_NF4)
        scaled_linear(call, form->codes, form->scales);
    else if (packed_is_float(form))
        float_linear(call);
    else if (call->n_rows <= MOST_FEW_ROWS)
        few_rows_linear(call, f);
    else
        many_rows_linear(call, f);
}

/* Our types with f32 scales are too rare for kernels of their own. */
INLINE void linear_of_any_scales(const struct cpu_linear *call)
{
    const struct packed_form *form = call->form;
    const struct form_constants f = {form->codes, form->scales, form->has_min, 32, form->zero, 0};
    if (call->n_rows <= MOST_FEW_ROWS)
        few_rows_linear(call, f);
    else
        many_rows_linear(call, f);
}

static void linear(const struct cpu_linear *call)
{
    const struct packed_form *form = call->form;
    if (!IS_SPECIALISED) {
        linear_of_any_form(call);
        return;
    }
#ifdef LEVEL_FLOATS
    if (packed_is_float(form)) {
        TABLE(LEVEL_FLOATS).linear(call);
        return;
    }
#else
    switch (form->codes) {
    case CODES_F8:
        scaled_linear(call, CODES_F8, SCALES_F32);
        return;
    case CODES_NF4:
        if (form->scales == SCALES_F16)
            scaled_linear(call, CODES_NF4, SCALES_F16);
        else
            scaled_linear(call, CODES_NF4, SCALES_F32);
        return;
    default:
        break;
    }
    if (packed_is_float(form)) {
        float_linear(call);
        return;
    }
#endif
#ifdef LEVEL_FEW
    if (call->n_rows <= MOST_FEW_ROWS) {
        TABLE(LEVEL_FEW).linear(call);
        return;
    }
#endif
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) {
        const struct form_constants *f = &linears[i].form;
        if (f->codes == form->codes && f->scales == form->scales &&
            f->has_min == (int)form->has_min && f->group == form->group && f->zero == form->zero &&
            (f->unit_blocks == 0 || (uint32_t)f->unit_blocks * PACKED_BLOCK == form->unit_k)) {
            (call->n_rows <= MOST_FEW_ROWS ? linears[i].few : linears[i].many)(call);
            return;
        }
    }
    linear_of_any_scales(call);
}
