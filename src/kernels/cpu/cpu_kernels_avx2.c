#define LEVEL avx2
#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/cpu_kernels_template.h"
