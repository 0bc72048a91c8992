/* How a panel's codes lie for the tile unit. A row of 32 activations is 64 bytes (high 0..15, low
 * 0..15, high 16..31, low 16..31); a tile of weights has quads in the same order, signed unless
 * there is a minimum. Codes of up to 5 bits have room for the unit of the high bytes, so one tile
 * operation gives a group's dot product:
 *
 *   up to 5 bits   [8 w for the high bytes; w for the low ones]
 *   6 bits         [4 w; w], and a second tile [4 w; 0] to be added
 *   8 bits         [w; 0], and a second tile [0; w] with a sum of its own */
#define PANEL_BLOCK_BYTES 2048 /* at most */

INLINE int has_second_tile(struct form_constants f)
{
    return f.codes == CODES_6BIT || f.zero == 128;
}

INLINE size_t panel_block_bytes(struct form_constants f)
{
    return has_second_tile(f) ? 2048 : 1024;
}

INLINE void put_panel_block(struct form_constants f, const bvec *quads, uint8_t *to)
{
    size_t second = 32 * (size_t)f.group; /* behind the first tile of a group */
    for (int q = 0; q < 8; q++) {
        bvec code = f.zero ? b_subtract(quads[q], f.zero) : quads[q];
        uint8_t *high = to + q / 4 * (f.group == 16 ? panel_block_bytes(f) / 2 : 512) + q % 4 * 64;
        uint8_t *low = high + 256;
        if (f.zero == 128) {
            b_store(high, code);
            b_store(low, b_zero());
            b_store(high + second, b_zero());
            b_store(low + second, code);
        } else if (f.codes == CODES_6BIT) {
            b_store(high, b_shift_left(code, 2));
            b_store(low, code);
            b_store(high + second, b_shift_left(code, 2));
            b_store(low + second, b_zero());
        } else {
            b_store(high, b_shift_left(code, CPU_HIGH_BITS));
            b_store(low, code);
        }
    }
}
