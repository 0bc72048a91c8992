#define LEVEL        avx512
#define TILE_ROWS    4
#define TILE_COLUMNS 4
#include "kernels/cpu/cpu_kernels_template.h"
