#define LEVEL amx
#define LEVEL_HAS_AMX
#define LEVEL_HAS_BF16
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/cpu_kernels_template.h"
