#include "tools/bench/durations.h"

#include <math.h>

static uint32_t bucket_of(uint64_t us)
{
    if (us < 128)
        return (uint32_t)us;
    uint32_t power = 63 - (uint32_t)__builtin_clzll(us); /* 7.. */
    uint32_t bucket = 128 + (power - 7) * 64 + (uint32_t)(us >> (power - 6)) - 64;
    return bucket < DURATION_BUCKETS ? bucket : DURATION_BUCKETS - 1;
}

/* The middle of a bucket, microseconds. */
static double middle_of(uint32_t bucket)
{
    if (bucket < 128)
        return bucket + 0.5;
    uint32_t power = 7 + (bucket - 128) / 64, step = (bucket - 128) % 64;
    return ldexp(64.5 + step, (int)power - 6);
}

void durations_add(struct durations *d, uint64_t ns)
{
    d->n++;
    d->sum_ns += (double)ns;
    d->max_ns = ns > d->max_ns ? ns : d->max_ns;
    d->bucket[bucket_of(ns / 1000)]++;
}

double durations_mean_ms(const struct durations *d)
{
    return d->n ? d->sum_ns / (double)d->n * 1e-6 : 0;
}

double durations_max_ms(const struct durations *d)
{
    return (double)d->max_ns * 1e-6;
}

double durations_percentile_ms(const struct durations *d, double q)
{
    double rank = ceil(q * (double)d->n), n = 0;
    uint32_t i = 0;
    while (i + 1 < DURATION_BUCKETS && (n += d->bucket[i]) < fmax(rank, 1))
        i++;
    return d->n ? fmin(middle_of(i) * 1e-3, durations_max_ms(d)) : 0;
}
