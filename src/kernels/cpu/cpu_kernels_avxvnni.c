#define LEVEL        avxvnni
#define LEVEL_FLOATS avx2
#define LEVEL_ROWS   avx2
#define SIMD_HAS_VNNI
#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/cpu_kernels_template.h"
