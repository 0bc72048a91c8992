/* The tile unit in plain C: its intrinsics that the amx kernels use, as macros in place of the
 * compiler's, with the semantics of Intel's Software Developer's Manual (volume 2, LDTILECFG to
 * TILEZERO). What faults there, or would read more than a tile has, fails an assertion here.
 *
 *   row r of a tile: colsb bytes;  TDPB: C[m][n] += sum over k, j of A[m][4k + j] * B[k][4n + j]
 *
 * Included behind immintrin.h and before the kernels. */
#ifndef TESTS_KERNELS_AMX_EMULATION_H
#define TESTS_KERNELS_AMX_EMULATION_H

#undef NDEBUG
#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { TILE_COUNT = 8, TILE_MAX_ROWS = 16, TILE_MAX_BYTES = 64 };

struct emulated_tile {
    size_t rows, bytes; /* as configured; 0: not configured */
    uint8_t at[TILE_MAX_ROWS][TILE_MAX_BYTES];
};

static _Thread_local struct emulated_tile emulated_tiles[TILE_COUNT];

static struct emulated_tile *emulated_tile(int t)
{
    assert(t >= 0 && t < TILE_COUNT && emulated_tiles[t].rows > 0);
    return &emulated_tiles[t];
}

static inline void emulated_loadconfig(const void *config)
{
    const uint8_t *bytes = config;
    assert(bytes[0] == 1 && bytes[1] == 0); /* palette, start row */
    for (int i = 2; i < 16; i++)
        assert(bytes[i] == 0);
    for (int i = 0; i < 16; i++) {
        uint16_t row_bytes;
        memcpy(&row_bytes, bytes + 16 + 2 * i, sizeof row_bytes);
        uint8_t rows = bytes[48 + i];
        assert(row_bytes <= TILE_MAX_BYTES && rows <= TILE_MAX_ROWS &&
               (row_bytes == 0) == (rows == 0));
        assert(i < TILE_COUNT || rows == 0);
        if (i < TILE_COUNT)
            emulated_tiles[i] = (struct emulated_tile){.rows = rows, .bytes = row_bytes};
    }
}

static inline void emulated_release(void)
{
    memset(emulated_tiles, 0, sizeof emulated_tiles);
}

static inline void emulated_zero(int t)
{
    memset(emulated_tile(t)->at, 0, sizeof emulated_tile(t)->at);
}

static inline void emulated_loadd(int t, const void *base, size_t stride)
{
    struct emulated_tile *tile = emulated_tile(t);
    memset(tile->at, 0, sizeof tile->at);
    for (size_t r = 0; r < tile->rows; r++)
        memcpy(tile->at[r], (const char *)base + r * stride, tile->bytes);
}

static inline void emulated_stored(int t, void *base, size_t stride)
{
    const struct emulated_tile *tile = emulated_tile(t);
    for (size_t r = 0; r < tile->rows; r++)
        memcpy((char *)base + r * stride, tile->at[r], tile->bytes);
}

static inline int32_t emulated_byte(uint8_t byte, bool is_signed)
{
    return is_signed ? (int8_t)byte : byte;
}

static inline void emulated_multiply(int sum, int a, int b, bool is_a_signed, bool is_b_signed)
{
    struct emulated_tile *c = emulated_tile(sum);
    const struct emulated_tile *x = emulated_tile(a), *y = emulated_tile(b);
    assert(sum != a && sum != b && a != b);
    assert(x->bytes % 4 == 0 && c->bytes % 4 == 0);
    assert(c->rows == x->rows && c->bytes == y->bytes && x->bytes / 4 == y->rows);
    for (size_t m = 0; m < c->rows; m++)
        for (size_t n = 0; n < c->bytes / 4; n++) {
            uint32_t total; /* wraps */
            memcpy(&total, c->at[m] + 4 * n, sizeof total);
            for (size_t k = 0; k < y->rows; k++)
                for (size_t j = 0; j < 4; j++)
                    total += (uint32_t)(emulated_byte(x->at[m][4 * k + j], is_a_signed) *
                                        emulated_byte(y->at[k][4 * n + j], is_b_signed));
            memcpy(c->at[m] + 4 * n, &total, sizeof total);
        }
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbsud
#undef _tile_dpbusd
#undef _tile_dpbuud
#define _tile_loadconfig(config)            emulated_loadconfig(config)
#define _tile_release()                     emulated_release()
#define _tile_zero(t)                       emulated_zero(t)
#define _tile_loadd(t, base, stride)        emulated_loadd(t, base, stride)
#define _tile_stream_loadd(t, base, stride) emulated_loadd(t, base, stride)
#define _tile_stored(t, base, stride)       emulated_stored(t, base, stride)
#define _tile_dpbssd(sum, a, b)             emulated_multiply(sum, a, b, true, true)
#define _tile_dpbsud(sum, a, b)             emulated_multiply(sum, a, b, true, false)
#define _tile_dpbusd(sum, a, b)             emulated_multiply(sum, a, b, false, true)
#define _tile_dpbuud(sum, a, b)             emulated_multiply(sum, a, b, false, false)

#endif
