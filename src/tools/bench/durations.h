/* Many durations in little memory: mean and maximum are exact, percentiles to 1 %. */
#ifndef TOOLS_BENCH_DURATIONS_H
#define TOOLS_BENCH_DURATIONS_H

#include <stdbool.h>
#include <stdint.h>

/* Microseconds below 128 have a bucket each, and each power of two from there on has 64. */
#define DURATION_BUCKETS (128u + 64u * 34u)

struct durations {
    uint64_t n, max_ns;
    double sum_ns;
    uint32_t bucket[DURATION_BUCKETS]; /* longer ones are in the last */
};

void durations_add(struct durations *durations, uint64_t ns);

/* 0 without any. */
double durations_mean_ms(const struct durations *durations);
double durations_max_ms(const struct durations *durations);
double durations_percentile_ms(const struct durations *durations, double q); /* q 0..1 */

#endif
