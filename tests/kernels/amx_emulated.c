/* The kernels of level amx over emulated tiles. Its attention over bf16 pages is that of level
 * avx512bf16 and left out, so that this runs wherever AVX-512 does. */
#define LEVEL amx_emulated
#define LEVEL_HAS_AMX
#include "kernels/cpu/simd_avx512.h"

#include "amx_emulation.h"

#include "kernels/cpu/cpu_kernels_template.h"
