#define REFERENCE_TABLE reference_kernels_avx512
#define TILE_ROWS       8
#include "kernels/reference/matmul_template.h"
