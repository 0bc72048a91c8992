/* Many rows with the tile unit: 16 (or 8) rows x 16 columns x one group of k a tile operation, and
 * the scales in vector registers. */

/* Tiles 0..3: sums; 4, 5: rows; 6, 7: columns. */
struct tile_shape {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* The form with this zero point is that of 6 bits. */
INLINE int has_second(struct tile_kind f)
{
    return f.zero == 128 || f.zero == 32;
}

INLINE size_t block_bytes(struct tile_kind f)
{
    return has_second(f) ? 2048 : 1024;
}

INLINE int tile_rows(size_t n_rows)
{
    return n_rows <= 8 ? 8 : 16;
}

INLINE void gemm_begin(int group, size_t n_rows)
{
    struct tile_shape shape = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        shape.rows[t] = (uint8_t)(t < 6 ? tile_rows(n_rows) : group / 2);
        shape.row_bytes[t] = (uint16_t)(t == 4 || t == 5 ? 2 * group : 64);
    }
    _tile_loadconfig(&shape);
}

INLINE void gemm_end(void)
{
    _tile_release();
}

/* Weights are unsigned where there is a minimum, signed elsewhere. */
#define TILE_MULTIPLY(sum, row_tile, column_tile)                                                  \
    do {                                                                                           \
        if (f.has_min)                                                                             \
            _tile_dpbsud(sum, row_tile, column_tile);                                              \
        else                                                                                       \
            _tile_dpbssd(sum, row_tile, column_tile);                                              \
    } while (0)

/* The dot products of group g in tile `sum`; those of the high bytes of 8-bit codes go to memory
 * at once. */
#define TILE_STEP(sum, row_tile, column_tile, g)                                                   \
    do {                                                                                           \
        const uint8_t *tile = panel->codes + (g) * ((size_t)f.group * block_bytes(f) / 32);        \
        _tile_loadd(row_tile, a + (g) * (size_t)f.group * 2, layout.bytes);                        \
        _tile_loadd(column_tile, tile, 64);                                                        \
        _tile_zero(sum);                                                                           \
        TILE_MULTIPLY(sum, row_tile, column_tile);                                                 \
        if (f.zero == 128) {                                                                       \
            _tile_stored(sum, dots[sum][1], 64);                                                   \
            _tile_zero(sum);                                                                       \
        }                                                                                          \
        if (has_second(f)) {                                                                       \
            _tile_loadd(column_tile, tile + 32 * (size_t)f.group, 64);                             \
            TILE_MULTIPLY(sum, row_tile, column_tile);                                             \
        }                                                                                          \
    } while (0)

INLINE void add_group(struct tile_kind f, const struct panel *panel, int rows, const char *x,
                      size_t group, const int32_t (*dots)[16][16], fvec *acc)
{
    const struct row_layout layout = row_layout(f.is_fine);
    const size_t groups = 32 / (size_t)f.group;
    fvec scales = f_load(panel->scales + group * PACKED_COLUMNS), minima = scales;
    if (f.has_min)
        minima = f_load(panel->offsets + group * PACKED_COLUMNS);
    UNROLL
    for (int r = 0; r < rows; r++) {
        const struct cpu_span *row = row_span(x, layout, r);
        ivec dot = b_load(dots[0][r]);
        if (f.zero == 128)
            dot = i_add(i_shift_left(b_load(dots[1][r]), CPU_HIGH_BITS), dot);
        acc[r] = f_fma(f_of_i(dot), f_mul(scales, f_splat(row->scales[group / groups])), acc[r]);
        if (f.has_min)
            acc[r] = f_fma(minima, f_splat(scaled_sum(f.group, row, group)), acc[r]);
    }
}

/* Element i of a block of a panel, without its zero point. */
INLINE ivec signed_element(const struct panel *panel, struct tile_kind f, size_t block, size_t i)
{
    /* the quads of the low bytes, which hold the codes as they are */
    size_t half = i / 16, bytes = block_bytes(f), second = 32 * (size_t)f.group;
    const uint8_t *tile = panel->codes + block * bytes + half * (f.group == 16 ? bytes / 2 : 512);
    const uint8_t *quad = tile + 256 + (f.zero == 128 ? second : 0) + i % 16 / 4 * 64;
    ivec v = i_shift_left(i_load(quad), 24 - (int)(i % 4) * 8);
    return f.has_min ? i_and(i_shift_right(v, 24), 255) : _mm512_srai_epi32(v, 24);
}

INLINE void add_outliers(const struct gemm_span *span, struct tile_kind f,
                         const struct panel *panel, int rows, const char *x, fvec *acc)
{
    const struct row_layout layout = row_layout(0);
    size_t n = (span->n_blocks * PACKED_BLOCK + CPU_OUTLIER_SPAN - 1) / CPU_OUTLIER_SPAN;
    for (size_t o = 0; o < n; o++)
        UNROLL
    for (int r = 0; r < rows; r++) {
        struct cpu_outlier outlier = row_span(x, layout, r)->outliers[o];
        size_t i = outlier.index % CPU_SPAN; /* rows of the padding have any index */
        size_t at = i / (size_t)f.group * PACKED_COLUMNS;
        fvec scales = f_load(panel->scales + at), offset = f_load(panel->offsets + at);
        ivec code = signed_element(panel, f, i / 32, i % 32);
        if (!f.has_min)
            code = i_add(code, i_splat(f.zero));
        acc[r] = f_fma(f_splat(outlier.value), f_fma(f_of_i(code), scales, offset), acc[r]);
    }
}

/* The tile unit works two groups ahead of the vector registers. Tile numbers are literals. */
#define GEMM_STEP(step, next_sum, stored_sum, row_tile, column_tile)                               \
    do {                                                                                           \
        if (g + (step) + 2 < n_groups)                                                             \
            TILE_STEP(next_sum, row_tile, column_tile, g + (step) + 2);                            \
        if (g + (step) + 1 < n_groups)                                                             \
            _tile_stored(stored_sum, dots[stored_sum][0], 64);                                     \
        if (g + (step) < n_groups)                                                                 \
            add_group(f, panel, rows, x, g + (step), dots[step], acc);                             \
    } while (0)

/* Rows past the last one are computed from what lies in the padding. */
INLINE void gemm_tile(const struct gemm_span *gemm, struct tile_kind f, const struct panel *panel,
                      int rows, const char *x, float *sums, size_t row, size_t column)
{
    _Alignas(64) int32_t dots[4][2][16][16];
    const struct row_layout layout = row_layout(f.is_fine);
    size_t n_groups = gemm->n_blocks * 32 / (size_t)f.group;
    const int8_t *a = row_span(x, layout, 0)->codes;
    fvec acc[16];
    UNROLL
    for (int r = 0; r < rows; r++)
        acc[r] = gemm->first_block == 0 ? f_splat(0.0f)
                                        : f_load(sums + r * (int)(GEMM_PANELS * PACKED_COLUMNS));
    TILE_STEP(0, 4, 6, 0);
    if (n_groups > 1)
        TILE_STEP(1, 5, 7, 1);
    _tile_stored(0, dots[0][0], 64);
    for (size_t g = 0; g < n_groups; g += 4) {
        GEMM_STEP(0, 2, 1, 4, 6);
        GEMM_STEP(1, 3, 2, 5, 7);
        GEMM_STEP(2, 0, 3, 4, 6);
        GEMM_STEP(3, 1, 0, 5, 7);
    }
    if (!f.is_fine)
        add_outliers(gemm, f, panel, rows, x, acc);
    UNROLL
    for (int r = 0; r < rows; r++)
        if (!gemm->is_last)
            f_store(sums + r * (int)(GEMM_PANELS * PACKED_COLUMNS), acc[r]);
        else if (row + (size_t)r < gemm->call->n_rows)
            put_row(gemm->call, row + (size_t)r, column, acc[r]);
}

/* All rows over the panels of `columns` column blocks. */
INLINE void gemm_rows(const struct gemm_span *span, struct tile_kind f, size_t columns,
                      size_t first_row, size_t n_rows, struct gemm_scratch *s)
{
    const struct row_layout layout = row_layout(f.is_fine);
    const char *spans =
        spans_at(span->call->x, layout, span->first_block / CPU_SPAN_BLOCKS, first_row);
    for (size_t row = 0; row < n_rows && !IS_SPECIALISED; row += 16)
        for (size_t c = 0; c < columns; c++)
            gemm_tile(span, f, &s->panels[c], tile_rows(span->call->n_rows),
                      spans + row * layout.bytes, &s->sums[row][c * PACKED_COLUMNS],
                      first_row + row, span->first_column + c * PACKED_COLUMNS);
    if (!IS_SPECIALISED)
        return;
    if (span->call->n_rows <= 8) {
        for (size_t c = 0; c < columns; c++)
            gemm_tile(span, f, &s->panels[c], 8, spans, &s->sums[0][c * PACKED_COLUMNS], first_row,
                      span->first_column + c * PACKED_COLUMNS);
        return;
    }
    for (size_t row = 0; row < n_rows; row += 16)
        for (size_t c = 0; c < columns; c++)
            gemm_tile(span, f, &s->panels[c], 16, spans + row * layout.bytes,
                      &s->sums[row][c * PACKED_COLUMNS], first_row + row,
                      span->first_column + c * PACKED_COLUMNS);
}
