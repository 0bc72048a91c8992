#include "kernels/testing/plain_draw.h"

#include "base/numeric.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#define MARGIN 1e-5 /* of the sum: more than the host's rounding */

static bool is_sound(const float *z, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!(z[i] < INFINITY))
            return false;
    return true;
}

static float changed(float z, const serverd_logit_change *change, const serverd_draw *draw)
{
    z += change->bias;
    if (change->count < 0 || z == -INFINITY)
        return z;
    z = z > 0 ? z / draw->repetition : z * draw->repetition;
    z -= draw->frequency * (float)change->count + (change->count > 0 ? draw->presence : 0.0f);
    return fminf(fmaxf(z, -FLT_MAX), FLT_MAX);
}

static void adjust(const serverd_batch *batch, const serverd_draw *draw, float *z, uint32_t n)
{
    const uint64_t *mask =
        draw->mask == SERVERD_NO_MASK ? NULL : batch->mask + (size_t)draw->mask * ((n + 63) / 64);
    for (uint32_t i = 0; i < draw->n_changes; i++) {
        const serverd_logit_change *change = &batch->change[draw->first_change + i];
        z[change->token] = changed(z[change->token], change, draw);
    }
    for (uint32_t i = 0; mask && i < n; i++)
        if (!(mask[i / 64] >> (i % 64) & 1))
            z[i] = -INFINITY;
}

static int by_logit(const void *a, const void *b, void *logits)
{
    const float *z = logits;
    const uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    if (z[i] != z[k])
        return z[i] > z[k] ? -1 : 1;
    return i < k ? -1 : 1;
}

static int32_t best_of(const float *z, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        best = z[i] > z[best] ? i : best;
    return z[best] > -INFINITY ? (int32_t)best : SERVERD_DRAWN_UNSURE;
}

static int by_id(const void *a, const void *b)
{
    const uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    return i < k ? -1 : 1;
}

struct weights {
    const float *z;
    double max, scale;
};

static double weight_of(const struct weights *w, uint32_t i)
{
    return exp(((double)w->z[i] - w->max) * w->scale);
}

static double sum_of(const struct weights *w, const uint32_t *order, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += weight_of(w, order[i]);
    return sum;
}

/* How many of the n first of the order weigh as much or more; 0: unsure. */
static uint32_t head_of(const struct weights *w, const uint32_t *order, uint32_t n, double target,
                        double margin)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += weight_of(w, order[i]);
        if (fabs(sum - target) < margin)
            return 0;
        if (sum > target)
            return i + 1;
    }
    return 0;
}

/* What the steps leave of the order; 0: unsure. */
static uint32_t limit(const struct weights *w, const serverd_draw *draw, const uint32_t *order,
                      uint32_t n)
{
    if (draw->top_k > 0)
        n = min_u32(n, draw->top_k);
    if (draw->top_p < 1) {
        const double sum = sum_of(w, order, n);
        n = head_of(w, order, n, (double)draw->top_p * sum, MARGIN * sum);
    }
    uint32_t n_heavy = 0;
    while (n_heavy < n && weight_of(w, order[n_heavy]) >= (double)draw->min_p * (1 + MARGIN))
        n_heavy++;
    if (draw->min_p <= 0 || n_heavy == n ||
        weight_of(w, order[n_heavy]) < (double)draw->min_p * (1 - MARGIN))
        return draw->min_p <= 0 ? n : n_heavy;
    return 0;
}

int32_t plain_draw(const serverd_batch *batch, const serverd_draw *draw, float *z, uint32_t *order,
                   uint32_t n_vocab)
{
    if (!is_sound(z, n_vocab))
        return SERVERD_DRAWN_UNSURE;
    adjust(batch, draw, z, n_vocab);
    if (draw->kind == SERVERD_DRAW_BEST)
        return best_of(z, n_vocab);
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_vocab; i++) {
        order[n] = i;
        n += z[i] > -INFINITY;
    }
    if (n == 0)
        return SERVERD_DRAWN_UNSURE;
    qsort_r(order, n, sizeof *order, by_logit, z);
    const struct weights w = {z, (double)z[order[0]], (double)draw->scale};
    n = limit(&w, draw, order, n);
    const double sum = sum_of(&w, order, n);
    qsort(order, n, sizeof *order, by_id);
    const uint32_t n_before = head_of(&w, order, n, draw->u * sum, MARGIN * sum);
    return n_before > 0 ? (int32_t)order[n_before - 1] : SERVERD_DRAWN_UNSURE;
}
