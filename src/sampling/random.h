/* Counter-based random numbers: u = F(seed, choice, index), no state. */
#ifndef SAMPLING_RANDOM_H
#define SAMPLING_RANDOM_H

#include <stdint.h>

/* Uniform in [0, 1), 53 bits. */
double random_uniform(uint64_t seed, uint32_t choice, uint32_t index);

#endif
