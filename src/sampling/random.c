#include "sampling/random.h"

#include "base/hash.h"

uint64_t random_seed(uint64_t seed, enum random_use use)
{
    return use == RANDOM_TOKEN ? seed : hash_mix(hash_mix(seed) + use);
}

double random_uniform(uint64_t seed, uint32_t choice, uint32_t index)
{
    /* The seed is mixed first, so that neighbouring seeds do not share counters. */
    uint64_t counter = (uint64_t)choice << 32 | index;
    uint64_t bits = hash_mix(hash_mix(seed) ^ counter);
    return (double)(bits >> 11) * 0x1p-53;
}
