#define LEVEL avxvnni
#define SIMD_HAS_VNNI
#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/cpu_kernels_template.h"
