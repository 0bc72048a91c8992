/* What one group of weights can become: the numbers of a format's codes under a scale.
 *
 * A code c stands for
 *
 *   I8S, I4S, I8A, I4Z   scale * (c - zero)     zero is a whole number: 128, 8, or the group's own;
 *                                               I8S counts its codes from 128
 *   I4A                  scale * c + zero       zero is any number
 *   NF4, F8, MXFP4       scale * (what the type's table has for c)
 *
 * computed as dtype.h's conversions do, so that it is bit by bit what a program will see. */
#ifndef QUANTISE_GRID_H
#define QUANTISE_GRID_H

#include "program/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GRID_MAX_GROUP 128

struct grid {
    uint32_t format; /* FORMAT_*, or DTYPE_MXFP4 */
    uint32_t group;
    bool has_f32; /* scales and minima are f32 instead of f16 */
};

/* Scale and zero of one group, as the block will have them. */
struct grid_numbers {
    float scale, zero;
};

/* The element type of a grid's blocks. */
uint32_t grid_dtype(const struct grid *grid);

/* "i4a", "mxfp4"; NULL: quantising does not make this format. */
const char *grid_format_name(uint32_t format);
/* The format of that name; false if there is none. */
bool grid_format_find(const char *name, size_t n, uint32_t *format);
uint32_t grid_code_bits(uint32_t format);

/* The numbers rounded to what a block can hold. */
struct grid_numbers grid_round(const struct grid *grid, float scale, float zero);

/* The code whose value is nearest to x, and that value: what grid_kernels' encode finds. */
uint8_t grid_nearest(const struct grid *grid, struct grid_numbers numbers, float x, float *value);

/* One block of the grid's type. */
void grid_write_block(const struct grid *grid, struct grid_numbers numbers, const uint8_t *codes,
                      uint8_t *block);

/* The same of each group. Once per instruction-set level, with the same bits; `x`, `weight` and
 * `out` have grid->group elements. */
struct grid_kernels {
    /* The nearest codes; returns the sum of weight * (x - value)^2. */
    float (*encode)(const struct grid *grid, const float *x, const float *weight,
                    struct grid_numbers numbers, uint8_t *codes);
    /* Numbers and codes from the least and greatest element. */
    float (*min_max)(const struct grid *grid, const float *x, const float *weight,
                     struct grid_numbers *numbers, uint8_t *codes);
    /* The best of clipped ranges, then numbers and codes by least squares in turn. */
    float (*plain)(const struct grid *grid, const float *x, const float *weight,
                   struct grid_numbers *numbers, uint8_t *codes);
    void (*decode)(const struct grid *grid, const uint8_t *codes, struct grid_numbers numbers,
                   float *out);
    /* out[n] = x h of a square h[n][n] whose rows are `stride` apart; n is a group. */
    void (*times_square)(const float *x, const float *h, size_t stride, size_t n, float *out);
    /* y[n] += factor * x[n] */
    void (*add_scaled)(float *y, float factor, const float *x, size_t n);
};

const struct grid_kernels *grid_kernels_best(void);
/* Level i of this machine, best first; NULL: no more. */
const struct grid_kernels *grid_kernels_level(uint32_t i);

#endif
