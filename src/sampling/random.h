/* Counter-based random numbers: u = F(seed, choice, index), no state. */
#ifndef SAMPLING_RANDOM_H
#define SAMPLING_RANDOM_H

#include <stdint.h>

/* A token may need several numbers: the others belong to seeds of their own. */
enum random_use {
    RANDOM_TOKEN, /* which token is drawn */
    RANDOM_AGAIN, /* once more, from what is allowed */
    RANDOM_XTC    /* whether XTC acts */
};
uint64_t random_seed(uint64_t seed, enum random_use use);

/* Uniform in [0, 1), 53 bits. */
double random_uniform(uint64_t seed, uint32_t choice, uint32_t index);

#endif
