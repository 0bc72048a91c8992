/* Figures over samples: mean, deviation, percentiles. */
#ifndef TOOLS_BENCH_STATS_H
#define TOOLS_BENCH_STATS_H

#include <stdbool.h>
#include <stddef.h>

/* A growing list with a bound; what does not fit makes it `is_failed`. Zero is an empty one. */
struct samples {
    double *value;
    size_t n, cap;
    bool is_failed, is_sorted;
};

#define SAMPLES_MAX ((size_t)1 << 24)

void samples_add(struct samples *samples, double value);
void samples_deinit(struct samples *samples);

/* 0 without samples; the deviation (of the sample, n - 1) also with one. */
double samples_mean(const struct samples *samples);
double samples_stddev(const struct samples *samples);
double samples_min(const struct samples *samples);
double samples_max(const struct samples *samples);

/* The smallest value that at least the share q (0..1) of the samples does not exceed; sorts. */
double samples_percentile(struct samples *samples, double q);

/* The middle one, or the mean of the middle two; sorts. */
double samples_median(struct samples *samples);

#endif
