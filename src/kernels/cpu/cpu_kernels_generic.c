#define LEVEL generic
#define KERNELS_SMALL
#include "kernels/cpu/simd_generic.h"

#include "kernels/cpu/cpu_kernels_template.h"
