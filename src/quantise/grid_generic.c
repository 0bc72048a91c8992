#define GRID_TABLE grid_kernels_generic
#include "quantise/grid_template.h"
