#define LEVEL        amx
#define LEVEL_FLOATS avx512bf16
#define LEVEL_FEW    avx512bf16
#define LEVEL_ROWS   avx512bf16
#define LEVEL_HAS_AMX
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/cpu_kernels_template.h"
