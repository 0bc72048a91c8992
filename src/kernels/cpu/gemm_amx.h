/* Many rows with the tile unit: 16 (or 8) rows x 16 columns x one group of k a tile operation, and
 * the scales in vector registers. */

/* Tiles 0..3: sums; 4, 5: rows; 6, 7: columns. */
struct tile_shape {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

INLINE int tile_rows(size_t n_rows)
{
    return n_rows <= 8 ? 8 : 16;
}

INLINE void gemm_begin(int group, size_t n_rows)
{
    struct tile_shape shape = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        shape.rows[t] = (uint8_t)(t < 6 ? tile_rows(n_rows) : group / 4);
        shape.row_bytes[t] = (uint16_t)(t == 4 || t == 5 ? group : 64);
    }
    _tile_loadconfig(&shape);
}

INLINE void gemm_end(void)
{
    _tile_release();
}

/* The dot products of group g in tile `sum`. */
#define TILE_STEP(sum, row_tile, column_tile, g)                                                   \
    do {                                                                                           \
        const size_t quad = (g) * (size_t)t.group / 4;                                             \
        _tile_loadd(column_tile, panel->codes[quad], 64);                                          \
        _tile_zero(sum);                                                                           \
        _tile_loadd(row_tile, quad_codes(x, quad), sizeof *x);                                     \
        _tile_dpbsud(sum, row_tile, column_tile);                                                  \
    } while (0)

INLINE void add_group(struct tile_kind t, int zero, const struct panel *panel, int rows,
                      const struct cpu_span *x, size_t group, const int32_t (*dots)[16],
                      fvec *parts)
{
    fvec scales = f_load(panel->scales + group * PACKED_COLUMNS), minima = scales;
    if (t.has_min)
        minima = f_load(panel->minima + group * PACKED_COLUMNS);
    /* rows of the padding name any quad */
    size_t quads[16];
    for (int r = 0; r < rows; r++)
        quads[r] = x[r].wide_quads[group * (size_t)t.group / 32] % (CPU_SPAN / 4);
    UNROLL
    for (int r = 0; r < rows; r++) {
        const float *sum = sum_of_codes(t.group, &x[r], group);
        ivec high = i_dot(i_high_begin(), b_load(panel->codes[quads[r]]),
                          x[r].wide_high[t.group == 32 ? quads[r] / 4 : group], t.is_8bit);
        fvec zero_sum = has_zero(t) ? f_zero_sum(sum, log2_of(zero)) : f_splat(0.0f);
        fvec dot = f_of_dots(i_add(i_low_begin(), i_load(dots[r])), zero_sum, high);
        parts[r] = add_group_sum(parts[r], dot, scales, minima, t.has_min, t.is_fine, &x[r],
                                 t.group, group);
    }
}

/* The tile unit works two groups ahead of the vector registers. Tile numbers are literals. */
#define GEMM_STEP(step, next_sum, stored_sum, row_tile, column_tile)                               \
    do {                                                                                           \
        if (g + (step) + 2 < n_groups)                                                             \
            TILE_STEP(next_sum, row_tile, column_tile, g + (step) + 2);                            \
        if (g + (step) + 1 < n_groups)                                                             \
            _tile_stored(stored_sum, dots[stored_sum], 64);                                        \
        if (g + (step) < n_groups)                                                                 \
            add_group(t, zero, panel, rows, x, g + (step), dots[step], parts);                     \
    } while (0)

/* Rows past the last one are computed from what lies in the padding. */
INLINE void gemm_tile(const struct gemm_span *gemm, struct tile_kind t, const struct panel *panel,
                      int rows, const struct cpu_span *x, float *sums, size_t row, size_t column)
{
    _Alignas(64) int32_t dots[4][16][16];
    const size_t n_groups = gemm->n_blocks * 32 / (size_t)t.group;
    const int zero = gemm->call->form->zero;
    fvec parts[16];
    UNROLL
    for (int r = 0; r < rows; r++)
        parts[r] = f_splat(0.0f);
    TILE_STEP(0, 4, 6, 0);
    if (n_groups > 1)
        TILE_STEP(1, 5, 7, 1);
    _tile_stored(0, dots[0], 64);
    for (size_t g = 0; g < n_groups; g += 4) {
        GEMM_STEP(0, 2, 1, 4, 6);
        GEMM_STEP(1, 3, 2, 5, 7);
        GEMM_STEP(2, 0, 3, 4, 6);
        GEMM_STEP(3, 1, 0, 5, 7);
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        float *kept = sums + r * (int)(GEMM_PANELS * PACKED_COLUMNS);
        fvec sum = f_fma(parts[r], f_splat(x[r].scale), f_load(kept));
        if (!gemm->is_last)
            f_store(kept, sum);
        else if (row + (size_t)r < gemm->call->n_rows)
            put_row(gemm->call, row + (size_t)r, column, sum);
    }
}

/* All rows over the panels of `columns` column blocks. */
INLINE void gemm_rows(const struct gemm_span *span, struct tile_kind t, size_t columns,
                      size_t first_row, size_t n_rows, struct gemm_scratch *s)
{
    const struct cpu_span *spans =
        spans_at(span->call->x, span->first_block / CPU_SPAN_BLOCKS, first_row);
    const int rows = tile_rows(span->call->n_rows);
    struct fetch fetch = fetch_begin(span);
    const size_t n_tiles = (n_rows + (size_t)rows - 1) / (size_t)rows * columns;
    const size_t lines = fetch.lines * GEMM_PANELS / n_tiles + 1;
    for (size_t row = 0; row < n_rows; row += (size_t)rows)
        for (size_t c = 0; c < columns; c++) {
            const struct cpu_span *x = spans + row;
            float *sums = &s->sums[row][c * PACKED_COLUMNS];
            size_t column = span->first_column + c * PACKED_COLUMNS;
            fetch_lines(span, &fetch, lines);
            if (!IS_SPECIALISED)
                gemm_tile(span, t, &s->panels[c], rows, x, sums, first_row + row, column);
            else if (rows == 8)
                gemm_tile(span, t, &s->panels[c], 8, x, sums, first_row + row, column);
            else
                gemm_tile(span, t, &s->panels[c], 16, x, sums, first_row + row, column);
        }
}
