#define REFERENCE_TABLE reference_kernels_generic
#define TILE_ROWS       2
#include "kernels/reference/matmul_template.h"
