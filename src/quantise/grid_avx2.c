#define GRID_TABLE grid_kernels_avx2
#include "quantise/grid_template.h"
