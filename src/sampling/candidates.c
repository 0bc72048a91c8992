#include "sampling/candidates_internal.h"

#include "base/numeric.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_FIRST_GUESS = 256, /* tokens with which the search for a top_p border begins */
    MAX_FIRST_GUESS = 4096,
    N_BRACKETED = 8192, /* so many in doubt are quickly selected from */
    MAX_PASSES = 4      /* over the row, to narrow a bracket */
};

#define ROUNDING 1e-5 /* of sums of float weights, generously */

/* ---- selection from a list --------------------------------------------------------------- */

uint64_t candidate_key(float value, uint32_t place)
{
    uint32_t bits = f32_bits(value + 0.0f); /* -0 becomes +0: equal logits, equal bits */
    uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)~ascending << 32 | place;
}

static void swap_keys(uint64_t *a, uint64_t *b)
{
    uint64_t t = *a;
    *a = *b;
    *b = t;
}

/* Middle of first, middle and last: good on ordered input too. */
static uint64_t choose_pivot(const uint64_t *key, uint32_t n)
{
    uint64_t a = key[0], b = key[n / 2], c = key[n - 1];
    uint64_t low = a < b ? a : b, high = a < b ? b : a;
    return c < low ? low : c > high ? high : c;
}

/* Moves keys <= pivot to the front and returns how many; the pivot is one of the keys. */
static uint32_t partition(uint64_t *key, uint32_t n, uint64_t pivot)
{
    uint32_t n_front = 0;
    for (uint32_t i = 0; i < n; i++) {
        swap_keys(&key[i], &key[n_front]); /* no branch: which way it would go is a guess */
        n_front += key[n_front] <= pivot;
    }
    return n_front;
}

/* What keys weigh: 1 each for top_k, the probability of their tokens for top_p. */
static double weigh_keys(const uint64_t *key, uint32_t n, const float *weight)
{
    if (!weight)
        return n;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)weight[(uint32_t)key[i]];
    return sum;
}

/* A quickselect by weight: expected linear time. */
uint64_t candidates_select(uint64_t *key, uint32_t n, const float *weight, double target)
{
    while (n > 1) {
        uint64_t pivot = choose_pivot(key, n);
        uint32_t n_front = partition(key, n, pivot);
        if (n_front == n) { /* the pivot is the largest: set it apart to get on */
            for (uint32_t i = 0; i < n; i++)
                if (key[i] == pivot)
                    swap_keys(&key[i], &key[n - 1]);
            n_front = n - 1;
        }
        double front = weigh_keys(key, n_front, weight);
        if (front >= target) {
            n = n_front;
        } else {
            target -= front;
            key += n_front;
            n -= n_front;
        }
    }
    return key[0];
}

/* ---- the list ---------------------------------------------------------------------------- */

/* The list's n is settled. */
static void close_list(struct sampling_scratch *s, uint32_t n)
{
    s->n = n;
    memcpy(s->z + n, s->nothing, (n_blocks(n) * BLOCK - n) * sizeof *s->z);
}

/* Lists what is not below `floor` (finite). False, and no list, if these are more than max_n. */
static bool list_from(struct sampling_scratch *s, float floor, uint32_t max_n)
{
    int32_t *id = s->id;
    float *z = s->z;
    uint32_t n = 0;
    for (uint32_t b = 0; b < s->n_blocks; b++) {
        if (s->block_max[b] < floor)
            continue;
        const float *x = s->block[b];
        for (uint32_t i = 0; i < BLOCK; i++) { /* written first and kept or not: no branch */
            id[n] = (int32_t)(b * BLOCK + i);
            z[n] = x[i];
            n += x[i] >= floor;
        }
        if (n > max_n)
            return false;
    }
    close_list(s, n);
    return true;
}

/* The same, but of those equal to `floor` only the first max_equal. */
static void list_from_first(struct sampling_scratch *s, float floor, uint32_t max_equal)
{
    int32_t *id = s->id;
    float *z = s->z;
    uint32_t n = 0, n_equal = 0;
    for (uint32_t b = 0; b < s->n_blocks; b++) {
        if (s->block_max[b] < floor)
            continue;
        const float *x = s->block[b];
        for (uint32_t i = 0; i < BLOCK; i++) {
            id[n] = (int32_t)(b * BLOCK + i);
            z[n] = x[i];
            n_equal += x[i] == floor;
            n += (x[i] > floor) | ((x[i] == floor) & (n_equal <= max_equal));
        }
    }
    close_list(s, n);
}

void candidates_list_from(struct sampling_scratch *s, float floor)
{
    (void)list_from(s, floor, UINT32_MAX);
}

double candidates_weigh(struct sampling_scratch *s, float max, float scale)
{
    return s->passes->weigh(s->list_block, n_blocks(s->n), max, scale, s->weight, NULL);
}

static void keep_until(struct sampling_scratch *s, uint64_t last)
{
    int32_t *id = s->id;
    float *z = s->z, *weight = s->weight;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        bool is_kept = candidate_key(z[i], i) <= last;
        id[n] = id[i];
        z[n] = z[i];
        weight[n] = weight[i];
        n += is_kept;
    }
    close_list(s, n);
}

void candidates_keep_marked(struct sampling_scratch *s)
{
    int32_t *id = s->id;
    float *z = s->z, *weight = s->weight;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        bool is_kept = s->key[i] != 0;
        id[n] = id[i];
        z[n] = z[i];
        weight[n] = weight[i];
        n += is_kept;
    }
    close_list(s, n);
}

void candidates_to_row(struct sampling_scratch *s)
{
    row_clear(s);
    for (uint32_t i = 0; i < s->n; i++)
        *row_logit(s, s->id[i]) = s->z[i];
}

/* ---- top_k ------------------------------------------------------------------------------- */

/* The k-th largest of one value of each block. */
static float select_of_blocks(struct sampling_scratch *s, const float *value, uint32_t k)
{
    for (uint32_t b = 0; b < s->n_blocks; b++)
        s->key[b] = candidate_key(value[b], b);
    return value[(uint32_t)candidates_select(s->key, s->n_blocks, NULL, k)];
}

/* A logit that about k or more are not below. At least k are not below the k-th largest block
 * maximum, which leaves a few hundred of a large vocabulary; for a larger k the first logit of
 * each block is a sample, and some more of it are taken than the share of k says. */
static float guess_floor(struct sampling_scratch *s, uint32_t k)
{
    if (k <= s->n_blocks / 2)
        return select_of_blocks(s, s->block_max, k);
    double share = (double)k / BLOCK;
    double n = share + 4 * sqrt(share) + 1;
    if (n >= s->n_blocks)
        return -FLT_MAX;
    for (uint32_t b = 0; b < s->n_blocks; b++)
        s->weight[b] = s->block[b][0];
    return select_of_blocks(s, s->weight, (uint32_t)n);
}

void candidates_list_first(struct sampling_scratch *s, uint32_t k)
{
    float floor = guess_floor(s, k);
    if (floor > -FLT_MAX)
        list_from_first(s, floor, k);
    if (!(floor > -FLT_MAX) || s->n < k)
        list_from_first(s, -FLT_MAX, k);
}

void candidates_keep_top_k(struct sampling_scratch *s, uint32_t k, struct candidates *c)
{
    if (!c->is_list) {
        candidates_list_first(s, k);
        c->is_list = true;
        c->has_weights = false;
    }
    if (s->n <= k)
        return;
    for (uint32_t i = 0; i < s->n; i++)
        s->key[i] = candidate_key(s->z[i], i);
    keep_until(s, candidates_select(s->key, s->n, NULL, k));
}

/* ---- top_p ------------------------------------------------------------------------------- */

/* Cuts the list, which weighs `target` or more, where that is reached; a token in doubt is one
 * below `high`, if those from there on weigh less than the target. */
static void cut_at(struct sampling_scratch *s, double target, float high)
{
    const float *z = s->z;
    uint64_t *key = s->key;
    double sure = 0;
    for (uint32_t i = 0; i < s->n; i++)
        sure += z[i] >= high ? (double)s->weight[i] : 0.0;
    bool is_below = sure < target; /* but for rounding: true */
    uint32_t n_keys = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        key[n_keys] = candidate_key(z[i], i);
        n_keys += (z[i] < high) == is_below;
    }
    if (n_keys > 0)
        keep_until(s, candidates_select(key, n_keys, s->weight, is_below ? target - sure : target));
}

/* The list is the whole of what there is. */
static void keep_top_p_of_list(struct sampling_scratch *s, double total, float top_p)
{
    /* A token lighter than this is never needed: all such together weigh less than what may be
     * left out. */
    double left_out = (1.0 - (double)top_p) * total / s->n, target = (double)top_p * total;
    uint32_t n_keys = 0;
    double heavy = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        if (!((double)s->weight[i] >= left_out))
            continue;
        s->key[n_keys++] = candidate_key(s->z[i], i);
        heavy += (double)s->weight[i];
    }
    if (heavy >= target && n_keys > 0) /* else rounding at the border: nothing is left out */
        keep_until(s, candidates_select(s->key, n_keys, s->weight, target));
}

/* A bracket of the logit at which weights, added up in descending order, reach a target: those
 * >= low weigh as much, those >= high do not. */
struct bracket {
    float low, high;
};

/* Floors from high to low within the bracket, evenly spaced in the bits of the distance from the
 * largest logit: geometrically, where most of a vocabulary lies far below its best. */
static void place_floors(struct bracket bracket, float max, float *floor)
{
    float far = max - bracket.low, near = max - bracket.high;
    if (!(near >= far / 16)) /* none is known, or it is of no use for the spacing */
        near = far / 16;
    uint32_t from = f32_bits(near), to = f32_bits(far);
    for (uint32_t f = 0; f < N_FLOORS; f++) {
        uint32_t bits = from + (uint32_t)((uint64_t)(to - from) * (f + 1) / (N_FLOORS + 1));
        floor[f] = max - f32_from_bits(bits);
    }
}

/* Narrows the bracket until it holds few logits, or several passes have not brought that. */
static struct bracket narrow(const struct sampling_scratch *s, struct bracket bracket, float max,
                             float scale, double target)
{
    double weight_low = INFINITY, weight_high = 0;
    for (int pass = 0; pass < MAX_PASSES; pass++) {
        float floor[N_FLOORS];
        double sum[N_FLOORS];
        place_floors(bracket, max, floor);
        s->passes->weigh_above(s->block, s->n_blocks, max, scale, floor, sum);
        for (uint32_t f = 0; f < N_FLOORS; f++) {
            if (sum[f] < target && floor[f] < bracket.high) {
                bracket.high = floor[f];
                weight_high = sum[f];
            }
            if (sum[f] >= target * (1 + ROUNDING)) { /* so that a list from there weighs enough */
                bracket.low = floor[f] > bracket.low ? floor[f] : bracket.low;
                weight_low = sum[f];
                break;
            }
        }
        /* each in it weighs what one at its low end does, or more */
        double lightest = exp((double)(bracket.low - max) * (double)scale);
        if ((weight_low - weight_high) <= N_BRACKETED * lightest)
            break;
    }
    return bracket;
}

/* The logit whose weight is `weight` or a little less, not below the lowest. */
static float logit_of_weight(double weight, float max, float scale)
{
    double z = (double)max + (log(weight) - 1e-3) / (double)scale;
    z -= 4 * (double)FLT_EPSILON * (fabs(z) + fabs((double)max));
    return z > -(double)FLT_MAX ? (float)z : -FLT_MAX; /* weight 0 gives -infinity */
}

/* Mostly the border lies among the few hundred first; else it is searched in passes over the row,
 * between there and the tokens that are lighter than what may be left out. */
static void keep_top_p_of_row(struct sampling_scratch *s, float top_p, float max, float scale)
{
    double total = s->passes->weigh(s->block, s->n_blocks, max, scale, NULL, NULL);
    double target = (double)top_p * total;
    double left_out = (1.0 - (double)top_p) * total / s->n_vocab;
    struct bracket bracket = {logit_of_weight(left_out, max, scale), INFINITY};
    float guess = guess_floor(s, N_FIRST_GUESS);
    if (guess > bracket.low && list_from(s, guess, MAX_FIRST_GUESS)) {
        if (candidates_weigh(s, max, scale) >= target) {
            cut_at(s, target, INFINITY);
            return;
        }
        bracket.high = guess;
    }
    if (s->n_vocab > N_BRACKETED)
        bracket = narrow(s, bracket, max, scale, target);
    candidates_list_from(s, bracket.low);
    if (candidates_weigh(s, max, scale) >= target) {
        cut_at(s, target, bracket.high);
        return;
    }
    /* rounding at the border: nothing is left out */
    candidates_list_from(s, -FLT_MAX);
    (void)candidates_weigh(s, max, scale);
}

void candidates_keep_top_p(struct sampling_scratch *s, float top_p, struct candidates *c)
{
    if (c->is_list)
        keep_top_p_of_list(s, candidates_weigh(s, c->max, c->scale), top_p);
    else
        keep_top_p_of_row(s, top_p, c->max, c->scale);
    c->is_list = c->has_weights = true;
}

/* ---- min_p ------------------------------------------------------------------------------- */

void candidates_keep_min_p(struct sampling_scratch *s, float min_p, struct candidates *c)
{
    if (!c->is_list)
        candidates_list_from(s, logit_of_weight((double)min_p, c->max, c->scale));
    if (!c->is_list || !c->has_weights)
        (void)candidates_weigh(s, c->max, c->scale);
    c->is_list = c->has_weights = true;
    for (uint32_t i = 0; i < s->n; i++)
        s->key[i] = s->weight[i] >= min_p; /* the most likely token weighs 1 */
    candidates_keep_marked(s);
}
