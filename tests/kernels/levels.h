/* The instruction-set levels that this machine runs, the first of them plain C, and inputs for
 * their kernels. The tile unit's kernels are among them on every machine with AVX-512, over
 * emulated tiles (amx_emulation.h). */
#ifndef TESTS_KERNELS_LEVELS_H
#define TESTS_KERNELS_LEVELS_H

#include "kernels/cpu/cpu_kernels.h"

#include <stddef.h>
#include <stdint.h>

enum { MAX_LEVELS = 7 };

extern const struct cpu_kernels *levels[MAX_LEVELS];
extern size_t n_levels;

/* Fills `levels`; a group set-up of cmocka. */
int find_levels(void **state);

/* That attention over bf16 pages rounds queries and probabilities to bf16. */
bool has_bf16_attention(const struct cpu_kernels *kernels);

/* `bytes` rounded up to 64, aligned to 64, filled with `byte`. */
void *take_filled(size_t bytes, int byte);
/* The same with zeros. */
void *take(size_t bytes);

/* Number i of a sequence, in -spread .. spread. */
float random_float(uint64_t i, float spread);
void fill(float *x, size_t n, uint64_t seed, float spread);

#endif
