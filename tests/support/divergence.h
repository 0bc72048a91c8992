/* How far two rows of logits are from each other. */
#ifndef TESTS_SUPPORT_DIVERGENCE_H
#define TESTS_SUPPORT_DIVERGENCE_H

#include <math.h>
#include <stddef.h>

/* KL divergence of softmax(b) from softmax(a). */
static inline double divergence(const float *a, const float *b, size_t n)
{
    double most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, kl = 0;
    for (size_t i = 0; i < n; i++) {
        most[0] = fmax(most[0], (double)a[i]);
        most[1] = fmax(most[1], (double)b[i]);
    }
    for (size_t i = 0; i < n; i++) {
        total[0] += exp((double)a[i] - most[0]);
        total[1] += exp((double)b[i] - most[1]);
    }
    for (size_t i = 0; i < n; i++) {
        double p = (double)a[i] - most[0] - log(total[0]);
        double q = (double)b[i] - most[1] - log(total[1]);
        kl += exp(p) * (p - q);
    }
    return kl;
}

#endif
