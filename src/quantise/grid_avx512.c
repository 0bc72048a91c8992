#define GRID_TABLE grid_kernels_avx512
#include "quantise/grid_template.h"
