#include "tools/compile/diff_gap.h"

#include <math.h>

void gap_add(struct gap *gap, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double x = (double)a[i], y = (double)b[i], d = y - x;
        if (!isfinite(x) || !isfinite(y)) {
            gap->n_not_finite++;
            continue;
        }
        gap->n += 1;
        gap->absolute += fabs(d);
        gap->square += d * d;
        gap->a_square += x * x;
        gap->b_square += y * y;
        gap->product += x * y;
    }
}

double gap_l1(const struct gap *gap)
{
    return gap->n > 0 ? gap->absolute / gap->n : 0;
}

double gap_mse(const struct gap *gap)
{
    return gap->n > 0 ? gap->square / gap->n : 0;
}

double gap_noise(const struct gap *gap)
{
    if (gap->n_not_finite > 0)
        return INFINITY;
    return gap->square > 0 ? gap->square / gap->a_square : 0; /* a of zeros: infinite */
}

double noise_db(double noise)
{
    return -10 * log10(noise);
}

double gap_cosine(const struct gap *gap)
{
    if (gap->a_square == 0 && gap->b_square == 0)
        return 1;
    return gap->product / (sqrt(gap->a_square) * sqrt(gap->b_square));
}

/* ---- logits ---------------------------------------------------------------------------------- */

static size_t largest(const float *x, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

/* log(sum exp(x)) */
static double log_sum(const float *x, size_t n, double max)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - max);
    return max + log(sum);
}

void logits_gap_add(struct logits_gap *gap, const float *a, const float *b, size_t n_vocab)
{
    size_t best_a = largest(a, n_vocab), best_b = largest(b, n_vocab);
    double log_a = log_sum(a, n_vocab, (double)a[best_a]),
           log_b = log_sum(b, n_vocab, (double)b[best_b]), kl = 0;
    for (size_t i = 0; i < n_vocab; i++) {
        double p = (double)a[i] - log_a;
        kl += exp(p) * (p - ((double)b[i] - log_b));
    }
    kl = kl > 0 ? kl : kl == kl ? 0 : INFINITY; /* rounding; not a number */
    gap->kl_sum += kl;
    gap->kl_max = kl > gap->kl_max ? kl : gap->kl_max;
    gap->n_rows++;
    gap->n_agree += best_a == best_b;
}
