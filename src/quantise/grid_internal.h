/* The levels of grid.c. */
#ifndef QUANTISE_GRID_INTERNAL_H
#define QUANTISE_GRID_INTERNAL_H

#include "quantise/grid.h"

extern const struct grid_kernels grid_kernels_generic;
#if defined(__x86_64__)
extern const struct grid_kernels grid_kernels_avx2, grid_kernels_avx512;
#endif

/* The values of NF4 and MXFP4 in ascending order, and their codes. */
struct grid_table {
    uint32_t n;
    float value[16];
    float code[16];
};
extern const struct grid_table grid_table_nf4, grid_table_mxfp4;

#endif
