#define REFERENCE_TABLE reference_kernels_avx2
#define TILE_ROWS       4
#include "kernels/reference/matmul_template.h"
