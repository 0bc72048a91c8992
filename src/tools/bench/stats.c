#include "tools/bench/stats.h"

#include <math.h>
#include <stdlib.h>

void samples_add(struct samples *samples, double value)
{
    if (samples->n == samples->cap) {
        size_t cap = samples->cap ? 2 * samples->cap : 64;
        double *grown = cap > SAMPLES_MAX ? NULL : realloc(samples->value, cap * sizeof *grown);
        if (!grown) {
            samples->is_failed = true;
            return;
        }
        samples->value = grown;
        samples->cap = cap;
    }
    samples->value[samples->n++] = value;
    samples->is_sorted = false;
}

void samples_deinit(struct samples *samples)
{
    free(samples->value);
    *samples = (struct samples){0};
}

double samples_mean(const struct samples *samples)
{
    double sum = 0;
    for (size_t i = 0; i < samples->n; i++)
        sum += samples->value[i];
    return samples->n ? sum / (double)samples->n : 0;
}

double samples_stddev(const struct samples *samples)
{
    double mean = samples_mean(samples), sum = 0;
    for (size_t i = 0; i < samples->n; i++)
        sum += (samples->value[i] - mean) * (samples->value[i] - mean);
    return samples->n > 1 ? sqrt(sum / (double)(samples->n - 1)) : 0;
}

double samples_min(const struct samples *samples)
{
    double best = samples->n ? samples->value[0] : 0;
    for (size_t i = 1; i < samples->n; i++)
        best = fmin(best, samples->value[i]);
    return best;
}

double samples_max(const struct samples *samples)
{
    double best = samples->n ? samples->value[0] : 0;
    for (size_t i = 1; i < samples->n; i++)
        best = fmax(best, samples->value[i]);
    return best;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void sort(struct samples *samples)
{
    if (!samples->is_sorted && samples->n > 0)
        qsort(samples->value, samples->n, sizeof *samples->value, compare);
    samples->is_sorted = true;
}

double samples_percentile(struct samples *samples, double q)
{
    if (samples->n == 0)
        return 0;
    sort(samples);
    double rank = ceil(q * (double)samples->n);
    size_t index = rank < 1 ? 0 : (size_t)rank - 1;
    return samples->value[index < samples->n ? index : samples->n - 1];
}

double samples_median(struct samples *samples)
{
    if (samples->n == 0)
        return 0;
    sort(samples);
    size_t middle = samples->n / 2;
    return samples->n % 2 ? samples->value[middle]
                          : (samples->value[middle - 1] + samples->value[middle]) / 2;
}
