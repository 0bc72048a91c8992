/* y = x W^T + b over packed weights (packed.h). Included once by each cpu_kernels_LEVEL.c behind
 * the level's simd header.
 *
 * An output is one lane. For each span of 256 k, over its groups in ascending order with the
 * group's integer dot product i, and then over its outliers,
 *
 *   acc = fma(i, weight scale * row scale, acc);  acc = fma(minimum, row scale * row sum, acc)
 *   acc = fma(outlier, weight, acc)
 *
 * whatever the number of rows, the tile or the level, so all paths give the same bits. Few rows
 * take the codes apart in registers; many rows share a *panel*: the codes of a column block as
 * bytes and its scales as floats, made once in the worker's scratch memory. */
#include "base/numeric.h"
#include "kernels/cpu/cpu_kernels.h"

#include <string.h>

/* Bytes ahead of the weights' stream that are asked for. */
#define PREFETCH_BYTES 4096

/* What a kernel knows of its form when it is compiled. */
struct form_constants {
    int codes, scales, has_min, group, zero;
};

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

/* The bits from `shift` on of each 32-bit word at p. */
INLINE ivec field(const uint8_t *p, int shift, int mask)
{
    return i_and(i_shift_right(i_load(p), shift), mask);
}

/* The codes of element i of a block, unsigned. */
INLINE ivec element_codes(struct form_constants f, const int8_t *table, const uint8_t *block, int i)
{
    int q = i / 4, j = i % 4;
    if (f.codes == CODES_8BIT)
        return field(block + 64 * q, 8 * j, 255);
    ivec code = field(block + 64 * (q % 4), 8 * j + q / 4 * 4, 15);
    if (f.codes == CODES_TABLE)
        return i_add(i_lookup(table, code), i_splat(f.zero));
    if (f.codes == CODES_5BIT)
        return i_add(code, i_shift_left(field(block + 256, 8 * j + q, 1), 4));
    if (f.codes == CODES_6BIT)
        return i_add(code,
                     i_shift_left(field(block + 256 + q / 4 * 64, 8 * j + 2 * (q % 4), 3), 4));
    return code;
}

/* Scales, or minima, of group g of a unit. */
INLINE fvec group_scales(struct form_constants f, const uint8_t *unit, int g, int minima)
{
    const uint8_t *d = unit + (minima ? 32 : 0);
    if (f.scales == SCALES_BF16)
        return f_load_bf16(d);
    if (f.scales == SCALES_F16)
        return f_load_f16(d);
    int n = 256 / f.group;
    const uint8_t *sub = unit + (f.has_min ? 64 : 32) + 16 * (g + (minima ? n : 0));
    return f_mul(f_load_f16(d), f_load_i8(sub));
}

/* What is added to code * scale: the minimum, or minus the zero point. */
INLINE fvec offset_of(int has_min, int zero, fvec scales, fvec minima)
{
    return has_min ? minima : f_mul(scales, f_splat((float)-zero));
}

/* The zero point that a sum of products still holds. */
INLINE int zero_left(int zero)
{
    return zero == 128 && DOT_TAKES_128_OFF ? 0 : zero;
}

/* ---- few rows -------------------------------------------------------------------------------- */

/* Adds the outliers of a span. */
INLINE void add_few_outliers(const struct cpu_linear *call, struct form_constants f, int m,
                             const uint8_t *unit, size_t n_blocks, const char *spans,
                             struct row_layout layout, fvec *acc)
{
    const struct packed_form *form = call->form;
    size_t n = (n_blocks * PACKED_BLOCK + CPU_OUTLIER_SPAN - 1) / CPU_OUTLIER_SPAN;
    for (size_t o = 0; o < n; o++)
        UNROLL
    for (int r = 0; r < m; r++) {
        struct cpu_outlier outlier = row_span(spans, layout, r)->outliers[o];
        size_t block = outlier.index / PACKED_BLOCK;
        int i = (int)(outlier.index % PACKED_BLOCK), g = i / f.group;
        const uint8_t *scales_at = unit, *codes = unit + form->header_bytes;
        if (f.scales == SCALES_SUPER) {
            codes += block * form->block_bytes;
            g += (int)block * (32 / f.group);
        } else {
            scales_at += block * form->unit_bytes;
            codes += block * form->unit_bytes;
        }
        fvec scales = group_scales(f, scales_at, g, 0), minima = scales;
        if (f.has_min)
            minima = group_scales(f, scales_at, g, 1);
        fvec w = f_fma(f_of_i(element_codes(f, form->table, codes, i)), scales,
                       offset_of(f.has_min, f.zero, scales, minima));
        acc[r] = f_fma(f_splat(outlier.value), w, acc[r]);
    }
}

/* One block of k of the first `m` rows. */
INLINE void few_rows_block(const struct cpu_linear *call, struct form_constants f, int m,
                           const uint8_t *unit, int i, size_t block, const char *spans,
                           struct row_layout layout, fvec *acc)
{
    const struct packed_form *form = call->form;
    const int groups = 32 / f.group;
    const uint8_t *codes = unit + form->header_bytes + (size_t)i * form->block_bytes;
    for (size_t at = 0; at < form->block_bytes + 63; at += 64)
        __builtin_prefetch(codes + PREFETCH_BYTES + at, 0, 3);
    bvec quads[8];
    load_quads(f, form->table, codes, quads);
    UNROLL
    for (int g = 0; g < groups; g++) {
        fvec scales = group_scales(f, unit, i * groups + g, 0), minima = {0};
        if (f.has_min)
            minima = group_scales(f, unit, i * groups + g, 1);
        size_t group = block * (size_t)groups + (size_t)g;
        UNROLL
        for (int r = 0; r < m; r++) {
            const struct cpu_span *span = row_span(spans, layout, r);
            ivec dot = i_splat(0);
            for (int pass = 0; pass < layout.n_passes; pass++) { /* once or twice */
                if (pass)
                    dot = i_shift_left(dot, CPU_HIGH_BITS);
                UNROLL
                for (int q = g * 8 / groups; q < (g + 1) * 8 / groups; q++)
                    dot = i_dot(dot, quads[q],
                                quad_codes(layout, span, block * 8 + (size_t)q) + 16 * pass,
                                f.zero == 128);
            }
            if (zero_left(f.zero))
                dot = i_add(dot, i_splat(f.zero * *minus_sum(f.group, span, group)));
            acc[r] = f_fma(f_of_i(dot), f_mul(scales, f_splat(span->scales[block])), acc[r]);
            if (f.has_min)
                acc[r] = f_fma(minima, f_splat(scaled_sum(f.group, span, group)), acc[r]);
        }
    }
}

/* The first `m` rows times one column block. */
INLINE void few_rows(const struct cpu_linear *call, struct form_constants f, int m,
                     const uint8_t *unit, fvec *acc)
{
    const struct packed_form *form = call->form;
    const struct row_layout layout = row_layout(call->x->is_fine);
    UNROLL
    for (int r = 0; r < m; r++)
        acc[r] = f_splat(0.0f);
    for (size_t s = 0; s < cpu_n_spans(call->k); s++) {
        const char *spans = spans_at(call->x, layout, s, 0);
        size_t n = min_size(CPU_SPAN_BLOCKS, call->k / PACKED_BLOCK - s * CPU_SPAN_BLOCKS);
        for (size_t block = 0; block < n; block++) {
            if (f.scales == SCALES_SUPER)
                few_rows_block(call, f, m, unit, (int)block, block, spans, layout, acc);
            else
                few_rows_block(call, f, m, unit + block * form->unit_bytes, 0, block, spans, layout,
                               acc);
        }
        if (layout.n_passes == 1)
            add_few_outliers(call, f, m, unit, n, spans, layout, acc);
        unit += f.scales == SCALES_SUPER ? form->unit_bytes : n * form->unit_bytes;
    }
}

/* Adds the bias and writes the columns that exist. */
INLINE void put_row(const struct cpu_linear *call, size_t row, size_t column, fvec v)
{
    float *out = call->out + row * call->out_stride + column;
    if (column + PACKED_COLUMNS <= call->n_out) {
        f_store(out, call->bias ? f_add(v, f_load(call->bias + column)) : v);
        return;
    }
    size_t n = call->n_out - column;
    if (call->bias) {
        float bias[PACKED_COLUMNS] = {0};
        memcpy(bias, call->bias + column, n * sizeof *bias);
        v = f_add(v, f_load(bias));
    }
    f_store_part(out, n, v);
}

INLINE void few_rows_linear(const struct cpu_linear *call, struct form_constants f)
{
    for (size_t b = 0; b < call->n_blocks; b++) {
        const uint8_t *unit = call->weights + b * call->column_bytes;
        fvec acc[FEW_ROWS];
        if (!IS_SPECIALISED)
            few_rows(call, f, (int)call->n_rows, unit, acc);
        else if (FEW_ROWS == 1 || call->n_rows == 1)
            few_rows(call, f, 1, unit, acc);
        else if (call->n_rows == 2)
            few_rows(call, f, 2, unit, acc);
        else if (call->n_rows == 3)
            few_rows(call, f, 3, unit, acc);
        else
            few_rows(call, f, FEW_ROWS, unit, acc);
        for (size_t r = 0; r < call->n_rows; r++)
            put_row(call, r, (call->first_block + b) * PACKED_COLUMNS, acc[r]);
    }
}

/* ---- many rows -------------------------------------------------------------------------------
 *
 * A panel is taken apart for some column blocks and one span of k, and all rows run over it, their
 * sums resting in scratch memory from one panel to the next. What runs over panels knows only the
 * kind of their groups, not the form that they came from. */

#ifdef LEVEL_HAS_AMX
#include "kernels/cpu/panel_amx.h"
#else
#define PANEL_BLOCK_BYTES 512

INLINE size_t panel_block_bytes(struct form_constants f)
{
    (void)f;
    return PANEL_BLOCK_BYTES;
}

INLINE void put_panel_block(struct form_constants f, const bvec *quads, uint8_t *to)
{
    (void)f;
    UNROLL
    for (int q = 0; q < 8; q++)
        b_store(to + q * 64, quads[q]);
}
#endif

#define GEMM_PANELS 4   /* column blocks */
#define GEMM_ROWS   512 /* whose sums are kept */

struct panel {
    _Alignas(64) uint8_t codes[CPU_SPAN_BLOCKS * PANEL_BLOCK_BYTES]; /* put_panel_block */
    float scales[CPU_SPAN_BLOCKS * 2 * PACKED_COLUMNS];              /* [group][16] */
    float offsets[CPU_SPAN_BLOCKS * 2 * PACKED_COLUMNS];             /* offset_of */
};

struct gemm_scratch {
    struct panel panels[GEMM_PANELS];
    float sums[GEMM_ROWS][GEMM_PANELS * PACKED_COLUMNS];
};

static size_t linear_scratch(size_t k)
{
    (void)k;
    return sizeof(struct gemm_scratch);
}

/* Where block `block` of a column begins, or, behind the end of k, that of the column which takes
 * its place in the next panels. */
INLINE const uint8_t *block_ahead(const struct cpu_linear *call, struct form_constants f,
                                  const uint8_t *column, size_t block)
{
    const struct packed_form *form = call->form;
    if (block >= call->k / PACKED_BLOCK) {
        block -= call->k / PACKED_BLOCK;
        column += GEMM_PANELS * call->column_bytes;
    }
    if (f.scales != SCALES_SUPER)
        return column + block * form->unit_bytes;
    return column + block / CPU_SPAN_BLOCKS * form->unit_bytes +
           block % CPU_SPAN_BLOCKS * form->block_bytes;
}

/* Blocks first .. first + n_blocks - 1 of a column. */
INLINE void fill_panel(const struct cpu_linear *call, struct form_constants f,
                       const uint8_t *column, size_t first, size_t n_blocks, struct panel *panel)
{
    const struct packed_form *form = call->form;
    const int groups = 32 / f.group;
    for (size_t block = 0; block < n_blocks; block++) {
        size_t in_unit = f.scales == SCALES_SUPER ? block : 0;
        const uint8_t *unit = column + first * PACKED_BLOCK / form->unit_k * form->unit_bytes;
        if (f.scales != SCALES_SUPER)
            unit += block * form->unit_bytes;
        const uint8_t *codes = unit + form->header_bytes + in_unit * form->block_bytes;
        const uint8_t *ahead = block_ahead(call, f, column, first + block + CPU_SPAN_BLOCKS);
        for (size_t at = 0; at < form->block_bytes + 63; at += 64)
            __builtin_prefetch(ahead + at, 0, 2);
        bvec quads[8];
        load_quads(f, form->table, codes, quads);
        put_panel_block(f, quads, panel->codes + block * panel_block_bytes(f));
        UNROLL
        for (int g = 0; g < groups; g++) {
            size_t at = (block * (size_t)groups + (size_t)g) * PACKED_COLUMNS;
            int in_scales = (int)in_unit * groups + g;
            fvec scales = group_scales(f, unit, in_scales, 0), minima = scales;
            if (f.has_min)
                minima = group_scales(f, unit, in_scales, 1);
            f_store(panel->scales + at, scales);
            f_store(panel->offsets + at, offset_of(f.has_min, f.zero, scales, minima));
        }
    }
}

/* One span of k for some rows and column blocks. */
struct gemm_span {
    const struct cpu_linear *call;
    size_t first_block, n_blocks; /* of k */
    size_t first_column;          /* of the first panel, in the whole matrix */
    bool is_last;                 /* of k: the sums are the result */
};

/* What a tile knows when it is compiled. */
struct tile_kind {
    int group, has_min, zero, is_fine;
};

#ifdef LEVEL_HAS_AMX
#include "kernels/cpu/gemm_amx.h"
#else

/* Element i of the span: the lowest bytes of the 32-bit words from there on. */
INLINE ivec element_of_panel(const struct panel *panel, size_t i)
{
    return i_and(i_load(panel->codes + i / 4 * 64 + i % 4), 255);
}

/* The weights of element i of the span. */
INLINE fvec weights_of_panel(struct tile_kind t, const struct panel *panel, size_t i)
{
    size_t at = i / (size_t)t.group * PACKED_COLUMNS;
    return f_fma(f_of_i(element_of_panel(panel, i)), f_load(panel->scales + at),
                 f_load(panel->offsets + at));
}

INLINE void add_outliers(const struct gemm_span *span, struct tile_kind t,
                         const struct panel *panels, int rows, int columns, const char *x,
                         fvec *acc)
{
    const struct row_layout layout = row_layout(0);
    size_t n = (span->n_blocks * PACKED_BLOCK + CPU_OUTLIER_SPAN - 1) / CPU_OUTLIER_SPAN;
    for (size_t o = 0; o < n; o++) {
        /* many models have elements that stand out in every row */
        uint32_t first = row_span(x, layout, 0)->outliers[o].index, others = 0;
        UNROLL
        for (int r = 1; r < rows; r++)
            others |= row_span(x, layout, r)->outliers[o].index ^ first;
        fvec w[TILE_COLUMNS];
        if (!others)
            UNROLL
        for (int c = 0; c < columns; c++)
            w[c] = weights_of_panel(t, &panels[c], first);
        UNROLL
        for (int r = 0; r < rows; r++) {
            struct cpu_outlier outlier = row_span(x, layout, r)->outliers[o];
            UNROLL
            for (int c = 0; c < columns; c++) {
                if (others)
                    w[c] = weights_of_panel(t, &panels[c], outlier.index);
                acc[r * columns + c] = f_fma(f_splat(outlier.value), w[c], acc[r * columns + c]);
            }
        }
    }
}

/* Where the dot product of a group begins: minus the zero point times the sum of the codes, divided
 * by the unit of the high bytes where those come first. */
INLINE ivec first_dot(struct tile_kind t, const struct cpu_span *span, size_t group)
{
    if (!zero_left(t.zero))
        return i_splat(0);
    ivec sum = i_splat(*minus_sum(t.group, span, group));
    int shift = __builtin_ctz((unsigned)t.zero) - (t.is_fine ? CPU_HIGH_BITS : 0);
    return shift ? i_shift_left(sum, shift) : sum;
}

/* Adds a span to the sums of rows x TILE_COLUMNS: the rows from `row` on, which lie at x; the
 * columns from `column` on, of which only n_columns are there: what is computed for others is not
 * kept. */
INLINE void gemm_tile(const struct gemm_span *span, struct tile_kind t, const struct panel *panels,
                      int rows, size_t n_columns, const char *x, float *sums, size_t row,
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
    const struct row_layout layout = row_layout(t.is_fine);
    const int groups = 32 / t.group, quads = 8 / groups;
    fvec acc[TILE_ROWS * TILE_COLUMNS];
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int c = 0; c < columns; c++)
        acc[r * columns + c] = span->first_block == 0
                                   ? f_splat(0.0f)
                                   : f_load(sums + (size_t)(r * GEMM_PANELS + c) * PACKED_COLUMNS);
    for (size_t group = 0; group < span->n_blocks * (size_t)groups; group++) {
        ivec dot[TILE_ROWS * TILE_COLUMNS];
        UNROLL
        for (int r = 0; r < rows; r++) {
            ivec first = first_dot(t, row_span(x, layout, r), group);
            UNROLL
            for (int c = 0; c < columns; c++)
                dot[r * columns + c] = first;
        }
        UNROLL
        for (int pass = 0; pass < layout.n_passes; pass++) {
            if (pass)
                UNROLL
            for (int i = 0; i < rows * columns; i++)
                dot[i] = i_shift_left(dot[i], CPU_HIGH_BITS);
            UNROLL
            for (int q = 0; q < quads; q++) {
                size_t quad = group * (size_t)quads + (size_t)q;
                UNROLL
                for (int r = 0; r < rows; r++)
                    UNROLL
                for (int c = 0; c < columns; c++)
                    dot[r * columns + c] =
                        i_dot(dot[r * columns + c], b_load(panels[c].codes + quad * 64),
                              quad_codes(layout, row_span(x, layout, r), quad) + 16 * pass,
                              t.zero == 128);
            }
        }
        UNROLL
        for (int c = 0; c < columns; c++) {
            fvec scales = f_load(panels[c].scales + group * PACKED_COLUMNS);
            UNROLL
            for (int r = 0; r < rows; r++) {
                const struct cpu_span *codes = row_span(x, layout, r);
                float scale = codes->scales[group / (size_t)groups];
                fvec *sum = &acc[r * columns + c];
                *sum = f_fma(f_of_i(dot[r * columns + c]), f_mul(scales, f_splat(scale)), *sum);
                if (t.has_min)
                    *sum = f_fma(f_load(panels[c].offsets + group * PACKED_COLUMNS),
                                 f_splat(scaled_sum(t.group, codes, group)), *sum);
            }
        }
    }
    if (!t.is_fine)
        add_outliers(span, t, panels, rows, columns, x, acc);
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int c = 0; c < columns; c++)
        if (span->is_last && (size_t)c < n_columns)
            put_row(span->call, row + (size_t)r, column + PACKED_COLUMNS * (size_t)c,
                    acc[r * columns + c]);
        else if (!span->is_last)
            f_store(sums + (size_t)(r * GEMM_PANELS + c) * PACKED_COLUMNS, acc[r * columns + c]);
}

/* All rows over the panels of `columns` column blocks. */
INLINE void gemm_rows(const struct gemm_span *span, struct tile_kind t, size_t columns,
                      size_t first_row, size_t n_rows, struct gemm_scratch *s)
{
    const struct row_layout layout = row_layout(t.is_fine);
    const char *spans =
        spans_at(span->call->x, layout, span->first_block / CPU_SPAN_BLOCKS, first_row);
    for (size_t row = 0; row < n_rows;) {
        const char *x = spans + row * layout.bytes;
        size_t left = n_rows - row;
        int rows = left >= TILE_ROWS ? TILE_ROWS : left >= TILE_ROWS_SOME ? TILE_ROWS_SOME : 1;
        for (size_t c = 0; c < columns; c += TILE_COLUMNS) {
            const struct panel *panels = &s->panels[c];
            float *sums = &s->sums[row][c * PACKED_COLUMNS];
            size_t column = span->first_column + c * PACKED_COLUMNS, n = columns - c;
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

/* group, has_min, zero */
TILES(min, 32, 1, 0)
TILES(zero_8, 32, 0, 8)
TILES(zero_16, 32, 0, 16)
TILES(zero_128, 32, 0, 128)
TILES(halves_min, 16, 1, 0)
TILES(halves_zero_8, 16, 0, 8)
TILES(halves_zero_32, 16, 0, 32)

static void rows_any(const struct gemm_span *span, size_t columns, size_t first_row, size_t n_rows,
                     struct gemm_scratch *s)
{
    const struct packed_form *form = span->call->form;
    gemm_rows(span,
              (struct tile_kind){form->group, form->has_min, form->zero, span->call->x->is_fine},
              columns, first_row, n_rows, s);
}

#define KIND(name) (is_fine ? rows_fine_##name : rows_##name)

INLINE gemm_rows_fn tiles_of(struct form_constants f, bool is_fine)
{
    if (!IS_SPECIALISED)
        return rows_any;
    if (f.group == 16)
        return f.has_min     ? KIND(halves_min)
               : f.zero == 8 ? KIND(halves_zero_8)
                             : KIND(halves_zero_32);
    if (f.has_min)
        return KIND(min);
    return f.zero == 8 ? KIND(zero_8) : f.zero == 16 ? KIND(zero_16) : KIND(zero_128);
}

INLINE void many_rows_linear(const struct cpu_linear *call, struct form_constants f)
{
    struct gemm_scratch *s = call->scratch;
    gemm_rows_fn run_rows = tiles_of(f, call->x->is_fine);
    gemm_begin(f.group, call->n_rows);
    size_t k_blocks = call->k / PACKED_BLOCK;
    for (size_t row = 0; row < call->n_rows; row += GEMM_ROWS) {
        size_t rows = min_size(GEMM_ROWS, call->n_rows - row);
        for (size_t b = 0; b < call->n_blocks; b += GEMM_PANELS) {
            size_t columns = min_size(GEMM_PANELS, call->n_blocks - b);
            for (size_t k = 0; k < k_blocks; k += CPU_SPAN_BLOCKS) {
                struct gemm_span span = {.call = call,
                                         .first_block = k,
                                         .n_blocks = min_size(CPU_SPAN_BLOCKS, k_blocks - k),
                                         .first_column = (call->first_block + b) * PACKED_COLUMNS,
                                         .is_last = k + CPU_SPAN_BLOCKS >= k_blocks};
                for (size_t c = 0; c < columns; c++)
                    fill_panel(call, f, call->weights + (b + c) * call->column_bytes, k,
                               span.n_blocks, &s->panels[c]);
                run_rows(&span, columns, row, rows, s);
            }
        }
    }
    gemm_end();
}

/* ---- plain numbers --------------------------------------------------------------------------- */

INLINE fvec load_numbers(int codes, const uint8_t *p)
{
    if (codes == CODES_F32)
        return f_load((const float *)(const void *)p);
    return codes == CODES_F16 ? f_load_f16(p) : f_load_bf16(p);
}

INLINE void number_tile(const struct cpu_linear *call, int codes, int rows, int columns, size_t row,
                        size_t block)
{
    size_t number_bytes = codes == CODES_F32 ? 64 : 32;
    const float *x = call->x->values + row * call->k;
    const uint8_t *w = call->weights + block * call->column_bytes;
    fvec acc[TILE_ROWS * 4];
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
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int c = 0; c < columns; c++)
        put_row(call, row + (size_t)r, (call->first_block + block + (size_t)c) * PACKED_COLUMNS,
                acc[r * columns + c]);
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

/* ---- choice ---------------------------------------------------------------------------------- */

#define LINEAR(name, ...)                                                                          \
    static void few_##name(const struct cpu_linear *call)                                          \
    {                                                                                              \
        few_rows_linear(call, (struct form_constants){__VA_ARGS__});                               \
    }                                                                                              \
    static void many_##name(const struct cpu_linear *call)                                         \
    {                                                                                              \
        many_rows_linear(call, (struct form_constants){__VA_ARGS__});                              \
    }

/* codes, scales, has_min, group, zero: as packed.c's table has them */
LINEAR(q4_0, CODES_NIBBLE, SCALES_F16, 0, 32, 8)
LINEAR(q4_1, CODES_NIBBLE, SCALES_F16, 1, 32, 0)
LINEAR(q5_0, CODES_5BIT, SCALES_F16, 0, 32, 16)
LINEAR(q5_1, CODES_5BIT, SCALES_F16, 1, 32, 0)
LINEAR(q8_0, CODES_8BIT, SCALES_F16, 0, 32, 128)
LINEAR(iq4_nl, CODES_TABLE, SCALES_F16, 0, 32, 128)
LINEAR(mxfp4, CODES_TABLE, SCALES_BF16, 0, 32, 16)
LINEAR(iq4_xs, CODES_TABLE, SCALES_SUPER, 0, 32, 128)
LINEAR(q4_k, CODES_NIBBLE, SCALES_SUPER, 1, 32, 0)
LINEAR(q5_k, CODES_5BIT, SCALES_SUPER, 1, 32, 0)
LINEAR(q6_k, CODES_6BIT, SCALES_SUPER, 0, 16, 32)
LINEAR(q2_k, CODES_NIBBLE, SCALES_SUPER, 1, 16, 0)
LINEAR(q3_k, CODES_NIBBLE, SCALES_SUPER, 0, 16, 8)

static const struct {
    struct form_constants form;
    void (*few)(const struct cpu_linear *call);
    void (*many)(const struct cpu_linear *call);
} linears[] = {
    {{CODES_NIBBLE, SCALES_F16, 0, 32, 8}, few_q4_0, many_q4_0},
    {{CODES_NIBBLE, SCALES_F16, 1, 32, 0}, few_q4_1, many_q4_1},
    {{CODES_5BIT, SCALES_F16, 0, 32, 16}, few_q5_0, many_q5_0},
    {{CODES_5BIT, SCALES_F16, 1, 32, 0}, few_q5_1, many_q5_1},
    {{CODES_8BIT, SCALES_F16, 0, 32, 128}, few_q8_0, many_q8_0},
    {{CODES_TABLE, SCALES_F16, 0, 32, 128}, few_iq4_nl, many_iq4_nl},
    {{CODES_TABLE, SCALES_BF16, 0, 32, 16}, few_mxfp4, many_mxfp4},
    {{CODES_TABLE, SCALES_SUPER, 0, 32, 128}, few_iq4_xs, many_iq4_xs},
    {{CODES_NIBBLE, SCALES_SUPER, 1, 32, 0}, few_q4_k, many_q4_k},
    {{CODES_5BIT, SCALES_SUPER, 1, 32, 0}, few_q5_k, many_q5_k},
    {{CODES_6BIT, SCALES_SUPER, 0, 16, 32}, few_q6_k, many_q6_k},
    {{CODES_NIBBLE, SCALES_SUPER, 1, 16, 0}, few_q2_k, many_q2_k},
    {{CODES_NIBBLE, SCALES_SUPER, 0, 16, 8}, few_q3_k, many_q3_k},
};

INLINE void linear_of_any_form(const struct cpu_linear *call)
{
    const struct packed_form *form = call->form;
    const struct form_constants f = {form->codes, form->scales, form->has_min, form->group,
                                     form->zero};
    if (packed_is_float(form))
        number_linear(call, form->codes);
    else if (call->n_rows <= FEW_ROWS)
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
    switch (form->codes) {
    case CODES_F32:
        number_linear(call, CODES_F32);
        return;
    case CODES_F16:
        number_linear(call, CODES_F16);
        return;
    case CODES_BF16:
        number_linear(call, CODES_BF16);
        return;
    default:
        break;
    }
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) {
        const struct form_constants *f = &linears[i].form;
        if (f->codes == form->codes && f->scales == form->scales &&
            f->has_min == (int)form->has_min && f->group == form->group && f->zero == form->zero) {
            (call->n_rows <= FEW_ROWS ? linears[i].few : linears[i].many)(call);
            return;
        }
    }
}
