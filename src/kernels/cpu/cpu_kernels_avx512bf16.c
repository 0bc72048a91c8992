#define LEVEL        avx512bf16
#define LEVEL_LINEAR avx512
#define LEVEL_HAS_BF16
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/cpu_kernels_template.h"
