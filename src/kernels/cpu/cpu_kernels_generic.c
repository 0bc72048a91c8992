#define LEVEL        generic
#define TILE_ROWS    2
#define TILE_COLUMNS 2
#include "kernels/cpu/cpu_kernels_template.h"
