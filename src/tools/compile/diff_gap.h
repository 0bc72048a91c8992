/* How far two arrays of numbers are apart. */
#ifndef TOOLS_COMPILE_DIFF_GAP_H
#define TOOLS_COMPILE_DIFF_GAP_H

#include <stddef.h>
#include <stdint.h>

/* Sums over what was added; all from zero. */
struct gap {
    double n, absolute, square; /* of b - a */
    double a_square, b_square, product;
    uint64_t n_not_finite; /* numbers of either, left out of the sums */
};

void gap_add(struct gap *gap, const float *a, const float *b, size_t n);

double gap_l1(const struct gap *gap);  /* mean of |b - a| */
double gap_mse(const struct gap *gap); /* mean of (b - a)^2 */
/* Sum of (b - a)^2 by sum of a^2: 0 for equal numbers, infinite if some are not finite. */
double gap_noise(const struct gap *gap);
double noise_db(double noise);            /* -10 log10: the signal to noise ratio in dB */
double gap_cosine(const struct gap *gap); /* of the two as vectors; 1 if both are 0 */

/* Of rows of logits. */
struct logits_gap {
    double kl_sum, kl_max;    /* KL(softmax a || softmax b), nats */
    uint64_t n_rows, n_agree; /* rows; those with the same largest logit */
};

void logits_gap_add(struct logits_gap *gap, const float *a, const float *b, size_t n_vocab);

#endif
