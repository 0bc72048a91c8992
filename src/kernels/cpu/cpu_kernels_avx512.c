#define LEVEL avx512
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/cpu_kernels_template.h"
