/* y = x W^T + b over packed weights (packed.h). Included once by each cpu_kernels_LEVEL.c behind
 * the level's simd header.
 *
 * An output is one lane: over ascending groups of k, with the group's integer dot product i,
 *
 *   acc = fma(i, weight scale * row scale, acc);  acc = fma(minimum, row scale * row sum, acc)
 *
 * whatever the number of rows, the tile or the level, so all paths give the same bits. Few rows
 * take the codes apart in registers; many rows share a *panel*: the codes of a column block as
 * bytes and its scales as floats, made once in the worker's scratch memory. */
#include "base/numeric.h"
#include "kernels/cpu/cpu_kernels.h"

#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* Bytes ahead of the weights' stream that are asked for. */
#define PREFETCH_BYTES 1536

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

/* Where the high bytes of quad q of a row are; the low ones stand 16 further. */
INLINE const int8_t *quad_codes(const int8_t *row, size_t q)
{
    return row + q / 4 * 32 + q % 4 * 4;
}

/* The sum of a group's codes with its sign turned. */
INLINE int32_t minus_sum(struct form_constants f, const struct cpu_rows *x, size_t row,
                         size_t n_blocks, size_t group)
{
    const int32_t *sums = x->minus_sums + row * 2 * n_blocks;
    return f.group == 32 ? sums[2 * group] + sums[2 * group + 1] : sums[group];
}

/* Where a dot product begins: minus the zero point times the sum of the codes, divided by the
 * unit of the high bytes, which come first. */
INLINE ivec first_dot(struct form_constants f, const struct cpu_rows *x, size_t row,
                      size_t n_blocks, size_t group)
{
    if (f.zero == 0)
        return i_splat(0);
    ivec sum = i_splat(minus_sum(f, x, row, n_blocks, group));
    return f.zero == CPU_HIGH_UNIT ? sum : i_shift_left(sum, __builtin_ctz(f.zero) - CPU_HIGH_BITS);
}

/* Row scale * sum of a group's codes. */
INLINE float scaled_sum(struct form_constants f, const struct cpu_rows *x, size_t row,
                        size_t n_blocks, size_t group)
{
    if (f.group == 32)
        return x->scaled_sums[row * n_blocks + group];
    return x->scales[row * n_blocks + group / 2] *
           (float)-x->minus_sums[row * 2 * n_blocks + group];
}

/* ---- few rows -------------------------------------------------------------------------------- */

/* `m` rows times one column block. */
INLINE void few_rows(const struct cpu_linear *call, struct form_constants f, int m, size_t row,
                     const uint8_t *unit, fvec *acc)
{
    const struct packed_form *form = call->form;
    const struct cpu_rows *x = call->x;
    size_t n_blocks = call->k / PACKED_BLOCK, blocks_per_unit = form->unit_k / PACKED_BLOCK;
    int groups = 32 / f.group;
    UNROLL
    for (int r = 0; r < m; r++)
        acc[r] = f_splat(0.0f);
    for (size_t block = 0; block < n_blocks; unit += form->unit_bytes)
        for (size_t i = 0; i < blocks_per_unit; i++, block++) {
            const uint8_t *codes = unit + form->header_bytes + i * form->block_bytes;
            for (size_t at = 0; at < form->block_bytes + 63; at += 64)
                __builtin_prefetch(codes + PREFETCH_BYTES + at, 0, 3);
            bvec quads[8];
            load_quads(f, form->table, codes, quads);
            UNROLL
            for (int g = 0; g < groups; g++) {
                fvec scales = group_scales(f, unit, (int)i * groups + g, 0), minima = {0};
                if (f.has_min)
                    minima = group_scales(f, unit, (int)i * groups + g, 1);
                UNROLL
                for (int r = 0; r < m; r++) {
                    const int8_t *a = x->codes + ((row + (size_t)r) * call->k + block * 32) * 2;
                    size_t at = (row + (size_t)r) * n_blocks + block;
                    size_t group = block * (size_t)groups + (size_t)g;
                    ivec dot = first_dot(f, x, row + (size_t)r, n_blocks, group);
                    UNROLL
                    for (int q = g * 8 / groups; q < (g + 1) * 8 / groups; q++)
                        dot = i_dot(dot, quads[q], quad_codes(a, (size_t)q), f.zero == 128);
                    dot = i_shift_left(dot, CPU_HIGH_BITS);
                    UNROLL
                    for (int q = g * 8 / groups; q < (g + 1) * 8 / groups; q++)
                        dot = i_dot(dot, quads[q], quad_codes(a, (size_t)q) + 16, f.zero == 128);
                    acc[r] = f_fma(f_of_i(dot), f_mul(scales, f_splat(x->scales[at])), acc[r]);
                    if (f.has_min)
                        acc[r] = f_fma(minima,
                                       f_splat(scaled_sum(f, x, row + (size_t)r, n_blocks, group)),
                                       acc[r]);
                }
            }
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
        if (FEW_ROWS == 1 || call->n_rows == 1)
            few_rows(call, f, 1, 0, unit, acc);
        else if (call->n_rows == 2)
            few_rows(call, f, 2, 0, unit, acc);
        else if (call->n_rows == 3)
            few_rows(call, f, 3, 0, unit, acc);
        else
            few_rows(call, f, FEW_ROWS, 0, unit, acc);
        for (size_t r = 0; r < call->n_rows; r++)
            put_row(call, r, (call->first_block + b) * PACKED_COLUMNS, acc[r]);
    }
}

/* ---- many rows -------------------------------------------------------------------------------
 *
 * A panel is taken apart for some column blocks and GEMM_BLOCKS blocks of k, and all rows run over
 * it, their sums resting in scratch memory from one panel to the next. */

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

#define GEMM_BLOCKS 8   /* one unit of 256, or eight of 32 */
#define GEMM_PANELS 4   /* column blocks */
#define GEMM_ROWS   256 /* whose sums are kept */

struct panel {
    _Alignas(64) uint8_t codes[GEMM_BLOCKS * PANEL_BLOCK_BYTES]; /* put_panel_block */
    float scales[GEMM_BLOCKS * 2 * PACKED_COLUMNS];              /* [group][16] */
    float minima[GEMM_BLOCKS * 2 * PACKED_COLUMNS];
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

/* `units` begins with block `first` of the column. */
INLINE void fill_panel(const struct cpu_linear *call, struct form_constants f, const uint8_t *unit,
                       size_t n_blocks, struct panel *panel)
{
    const struct packed_form *form = call->form;
    size_t blocks_per_unit = form->unit_k / PACKED_BLOCK;
    size_t ahead = GEMM_BLOCKS / blocks_per_unit * form->unit_bytes; /* the next panel */
    int groups = 32 / f.group;
    for (size_t block = 0; block < n_blocks; unit += form->unit_bytes)
        for (size_t i = 0; i < blocks_per_unit; i++, block++) {
            const uint8_t *codes = unit + form->header_bytes + i * form->block_bytes;
            for (size_t at = 0; at < form->block_bytes + 63; at += 64)
                __builtin_prefetch(codes + ahead + at, 0, 3);
            bvec quads[8];
            load_quads(f, form->table, codes, quads);
            put_panel_block(f, quads, panel->codes + block * panel_block_bytes(f));
            UNROLL
            for (int g = 0; g < groups; g++) {
                size_t at = (block * (size_t)groups + (size_t)g) * PACKED_COLUMNS;
                f_store(panel->scales + at, group_scales(f, unit, (int)i * groups + g, 0));
                if (f.has_min)
                    f_store(panel->minima + at, group_scales(f, unit, (int)i * groups + g, 1));
            }
        }
}

/* What the tiles of one panel share. */
struct gemm_block {
    const struct cpu_linear *call;
    size_t first_block, n_blocks; /* of k */
};

#ifdef LEVEL_HAS_AMX
#include "kernels/cpu/gemm_amx.h"
#else

/* rows x columns sums, sums_stride apart. */
INLINE void gemm_tile(const struct gemm_block *gemm, struct form_constants f,
                      const struct panel *panels, int rows, int columns, size_t row, float *sums)
{
    const struct cpu_linear *call = gemm->call;
    const struct cpu_rows *x = call->x;
    size_t n_blocks = call->k / PACKED_BLOCK;
    int groups = 32 / f.group, quads = 8 / groups;
    fvec acc[TILE_ROWS * TILE_COLUMNS];
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int c = 0; c < columns; c++)
        acc[r * columns + c] = gemm->first_block == 0
                                   ? f_splat(0.0f)
                                   : f_load(sums + (size_t)(r * GEMM_PANELS + c) * PACKED_COLUMNS);
    const int8_t *a = x->codes + (row * n_blocks + gemm->first_block) * 64;
    size_t first_group = gemm->first_block * (size_t)groups;
    for (size_t group = 0; group < gemm->n_blocks * (size_t)groups; group++) {
        ivec dot[TILE_ROWS * TILE_COLUMNS];
        UNROLL
        for (int r = 0; r < rows; r++)
            UNROLL
        for (int c = 0; c < columns; c++)
            dot[r * columns + c] = first_dot(f, x, row + (size_t)r, n_blocks, first_group + group);
        UNROLL
        for (int low = 0; low < 2; low++) {
            UNROLL
            for (int q = 0; q < quads; q++) {
                size_t quad = group * (size_t)quads + (size_t)q;
                UNROLL
                for (int r = 0; r < rows; r++)
                    UNROLL
                for (int c = 0; c < columns; c++)
                    dot[r * columns + c] = i_dot(
                        dot[r * columns + c], b_load(panels[c].codes + quad * 64),
                        quad_codes(a + (size_t)r * n_blocks * 64, quad) + 16 * low, f.zero == 128);
            }
            if (low)
                break;
            UNROLL
            for (int i = 0; i < rows * columns; i++)
                dot[i] = i_shift_left(dot[i], CPU_HIGH_BITS);
        }
        UNROLL
        for (int c = 0; c < columns; c++) {
            fvec scales = f_load(panels[c].scales + group * PACKED_COLUMNS);
            UNROLL
            for (int r = 0; r < rows; r++) {
                size_t block =
                    (row + (size_t)r) * n_blocks + (first_group + group) / (size_t)groups;
                fvec *sum = &acc[r * columns + c];
                *sum = f_fma(f_of_i(dot[r * columns + c]), f_mul(scales, f_splat(x->scales[block])),
                             *sum);
                if (f.has_min)
                    *sum = f_fma(
                        f_load(panels[c].minima + group * PACKED_COLUMNS),
                        f_splat(scaled_sum(f, x, row + (size_t)r, n_blocks, first_group + group)),
                        *sum);
            }
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int c = 0; c < columns; c++)
        f_store(sums + (size_t)(r * GEMM_PANELS + c) * PACKED_COLUMNS, acc[r * columns + c]);
}

/* All rows over the panels of `columns` column blocks. */
INLINE void gemm_rows(const struct gemm_block *gemm, struct form_constants f, size_t columns,
                      size_t first_row, size_t n_rows, struct gemm_scratch *s)
{
    for (size_t c = 0; c < columns; c += TILE_COLUMNS) {
        const struct panel *panels = &s->panels[c];
        bool is_wide = c + TILE_COLUMNS <= columns;
        for (size_t row = 0; row < n_rows;) {
            float *sums = &s->sums[row][c * PACKED_COLUMNS];
            bool is_high = row + TILE_ROWS <= n_rows;
            if (is_high && is_wide)
                gemm_tile(gemm, f, panels, TILE_ROWS, TILE_COLUMNS, first_row + row, sums);
            else if (is_high)
                gemm_tile(gemm, f, panels, TILE_ROWS, 1, first_row + row, sums);
            else if (is_wide)
                gemm_tile(gemm, f, panels, 1, TILE_COLUMNS, first_row + row, sums);
            else
                gemm_tile(gemm, f, panels, 1, 1, first_row + row, sums);
            row += is_high ? TILE_ROWS : 1;
        }
    }
}

INLINE void gemm_begin(struct form_constants f, size_t n_rows)
{
    (void)f;
    (void)n_rows;
}

INLINE void gemm_end(void)
{
}
#endif

INLINE void many_rows_linear(const struct cpu_linear *call, struct form_constants f)
{
    struct gemm_scratch *s = call->scratch;
    size_t k_blocks = call->k / PACKED_BLOCK;
    gemm_begin(f, call->n_rows);
    for (size_t row = 0; row < call->n_rows; row += GEMM_ROWS) {
        size_t rows = min_size(GEMM_ROWS, call->n_rows - row);
        for (size_t b = 0; b < call->n_blocks; b += GEMM_PANELS) {
            size_t columns = min_size(GEMM_PANELS, call->n_blocks - b);
            for (size_t k = 0; k < k_blocks; k += GEMM_BLOCKS) {
                struct gemm_block gemm = {call, k, min_size(GEMM_BLOCKS, k_blocks - k)};
                size_t at = k * PACKED_BLOCK / call->form->unit_k * call->form->unit_bytes;
                for (size_t c = 0; c < columns; c++)
                    fill_panel(call, f, call->weights + (b + c) * call->column_bytes + at,
                               gemm.n_blocks, &s->panels[c]);
                gemm_rows(&gemm, f, columns, row, rows, s);
            }
            for (size_t r = 0; r < rows; r++)
                for (size_t c = 0; c < columns; c++)
                    put_row(call, row + r, (call->first_block + b + c) * PACKED_COLUMNS,
                            f_load(&s->sums[r][c * PACKED_COLUMNS]));
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
            if (columns == TILE_COLUMNS)
                number_tile(call, codes, TILE_ROWS, TILE_COLUMNS, row, b);
            else
                number_tile(call, codes, TILE_ROWS, 1, row, b);
        for (; row < call->n_rows; row++)
            if (columns == TILE_COLUMNS)
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

static void linear(const struct cpu_linear *call)
{
    const struct packed_form *form = call->form;
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
