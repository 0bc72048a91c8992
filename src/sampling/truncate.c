/* The chain of steps from temperature to XTC, and those of them that do not keep a head of the
 * logits. */
#include "sampling/candidates_internal.h"

#include "base/numeric.h"

#include <assert.h>
#include <float.h>
#include <math.h>

/* ---- what several need ------------------------------------------------------------------- */

static void need_list(struct sampling_scratch *s, struct candidates *c)
{
    if (!c->is_list)
        candidates_list_from(s, -FLT_MAX);
    c->is_list = true;
}

/* After a step that may have dropped the most likely token: weights are relative to it. */
static void find_max(const struct sampling_scratch *s, struct candidates *c)
{
    float max = s->z[0];
    for (uint32_t i = 1; i < s->n; i++)
        max = s->z[i] > max ? s->z[i] : max;
    c->has_weights = c->has_weights && max == c->max;
    c->max = max;
}

/* ---- top_n_sigma ------------------------------------------------------------------------- */

/* Sums over the finite logits of what is left, in one fixed order. */
struct moments {
    double n, sum, sum_of_squares; /* of the distances from `origin` */
};

static void add_block(struct moments *m, const float *x, double origin)
{
    enum { LANES = 4 };
    double n[LANES] = {0}, sum[LANES] = {0}, squares[LANES] = {0};
    for (int i = 0; i < BLOCK; i += LANES)
        for (int k = 0; k < LANES; k++) {
            bool is_finite = x[i + k] > -INFINITY;
            double d = is_finite ? (double)x[i + k] - origin : 0.0;
            n[k] += is_finite;
            sum[k] += d;
            squares[k] += d * d;
        }
    m->n += (n[0] + n[1]) + (n[2] + n[3]);
    m->sum += (sum[0] + sum[1]) + (sum[2] + sum[3]);
    m->sum_of_squares += (squares[0] + squares[1]) + (squares[2] + squares[3]);
}

static struct moments measure(const struct sampling_scratch *s, bool is_list, double origin)
{
    struct moments m = {0};
    const float *const *block = is_list ? s->list_block : s->block;
    uint32_t n = is_list ? n_blocks(s->n) : s->n_blocks;
    for (uint32_t b = 0; b < n; b++)
        add_block(&m, block[b], origin);
    return m;
}

/* Logits and their deviation scale alike, so the temperature does not matter here. */
static void keep_sigma(struct sampling_scratch *s, const struct sampling_params *p,
                       struct candidates *c)
{
    struct moments first = measure(s, c->is_list, (double)c->max);
    double mean = (double)c->max + first.sum / first.n;
    struct moments second = measure(s, c->is_list, mean); /* around the mean: nothing cancels */
    double border =
        (double)c->max - (double)p->top_n_sigma * sqrt(second.sum_of_squares / second.n);
    float floor = border > -(double)FLT_MAX ? (float)border : -FLT_MAX;
    if ((double)floor < border && floor < c->max)
        floor = nextafterf(floor, INFINITY); /* so that a float is below both or neither */
    if (!c->is_list) {
        candidates_list_from(s, floor);
        c->is_list = true;
        return;
    }
    for (uint32_t i = 0; i < s->n; i++)
        s->key[i] = s->z[i] >= floor;
    candidates_keep_marked(s);
}

/* ---- typical_p --------------------------------------------------------------------------- */

/* With x = (z - max) / T and W the sum of the weights, -ln p = ln W - x and H = ln W - mean of x,
 * so that their distance is the one between x and its mean. */
static double exponent_of(float z, const struct candidates *c)
{
    return ((double)z - (double)c->max) * (double)c->scale;
}

static float distance_of(float z, const struct candidates *c, double mean)
{
    return (float)fabs(exponent_of(z, c) - mean);
}

enum { N_BUCKETS = 2048, BUCKET_SHIFT = 20 }; /* of distances, by exponent and 3 bits */

static uint32_t bucket_of(float distance)
{
    return f32_bits(distance) >> BUCKET_SHIFT;
}

/* The key of the last token of the shortest head by distance that weighs `target`: first the bucket
 * in which it lies, then selected from that alone. */
static uint64_t last_typical(struct sampling_scratch *s, const struct candidates *c, double mean,
                             double target)
{
    double sum[N_BUCKETS] = {0}, before = 0;
    uint32_t bucket = 0, n_keys = 0;
    for (uint32_t i = 0; i < s->n; i++)
        sum[bucket_of(distance_of(s->z[i], c, mean))] += (double)s->weight[i];
    while (bucket + 1 < N_BUCKETS && before + sum[bucket] < target)
        before += sum[bucket++];
    for (uint32_t i = 0; i < s->n; i++) {
        float distance = distance_of(s->z[i], c, mean);
        s->key[n_keys] = candidate_key(-distance, i);
        n_keys += bucket_of(distance) == bucket;
    }
    /* none: rounding at the border, nothing is left out */
    return n_keys > 0 ? candidates_select(s->key, n_keys, s->weight, target - before) : UINT64_MAX;
}

static void keep_typical(struct sampling_scratch *s, const struct sampling_params *p,
                         struct candidates *c)
{
    need_list(s, c);
    double total = candidates_weigh(s, c->max, c->scale), mean = 0;
    c->has_weights = true;
    for (uint32_t i = 0; i < s->n; i++)
        if (s->weight[i] > 0)
            mean += (double)s->weight[i] * exponent_of(s->z[i], c);
    mean /= total;
    uint64_t last = last_typical(s, c, mean, (double)p->typical_p * total);
    for (uint32_t i = 0; i < s->n; i++)
        s->key[i] = candidate_key(-distance_of(s->z[i], c, mean), i) <= last;
    candidates_keep_marked(s);
    find_max(s, c);
}

/* ---- XTC --------------------------------------------------------------------------------- */

static void drop_top(struct sampling_scratch *s, const struct sampling_params *p,
                     struct candidates *c)
{
    need_list(s, c);
    double border = (double)p->xtc_threshold * candidates_weigh(s, c->max, c->scale);
    uint32_t n_top = 0, least = 0;
    c->has_weights = true;
    for (uint32_t i = 0; i < s->n; i++) {
        bool is_top = (double)s->weight[i] >= border;
        s->key[i] = !is_top;
        if (is_top && (n_top == 0 || s->z[i] <= s->z[least]))
            least = i; /* of equals the highest id */
        n_top += is_top;
    }
    if (n_top < 2)
        return;
    s->key[least] = 1;
    candidates_keep_marked(s);
    find_max(s, c);
}

/* ---- the chain --------------------------------------------------------------------------- */

static bool is_on(enum sampling_step step, uint32_t n_vocab, const struct sampling_params *p,
                  bool hits_xtc)
{
    switch (step) {
    case STEP_TOP_N_SIGMA:
        return p->top_n_sigma > 0.0f;
    case STEP_TOP_K:
        return p->top_k > 0 && (uint32_t)p->top_k < n_vocab;
    case STEP_TYPICAL_P:
        return p->typical_p < 1.0f;
    case STEP_TOP_P:
        return p->top_p < 1.0f;
    case STEP_MIN_P:
        return p->min_p > 0.0f;
    case STEP_XTC: /* two tokens of more than a half there cannot be */
        return hits_xtc && p->xtc_threshold <= 0.5f;
    default:
        return false;
    }
}

bool candidates_are_limited(uint32_t n_vocab, const struct sampling_params *p, bool hits_xtc)
{
    bool is_limited = false;
    for (uint32_t i = 0; i < p->n_steps && !is_limited; i++)
        is_limited = is_on(p->step[i], n_vocab, p, hits_xtc);
    return is_limited;
}

static void run_step(enum sampling_step step, struct sampling_scratch *s,
                     const struct sampling_params *p, struct candidates *c)
{
    switch (step) {
    case STEP_TOP_N_SIGMA:
        keep_sigma(s, p, c);
        break;
    case STEP_TOP_K:
        candidates_keep_top_k(s, (uint32_t)p->top_k, c);
        break;
    case STEP_TYPICAL_P:
        keep_typical(s, p, c);
        break;
    case STEP_TOP_P:
        candidates_keep_top_p(s, p->top_p, c);
        break;
    case STEP_MIN_P:
        candidates_keep_min_p(s, p->min_p, c);
        break;
    case STEP_XTC:
        drop_top(s, p, c);
        break;
    default:
        break;
    }
}

struct candidates candidates_choose(struct sampling_scratch *s, const struct sampling_params *p,
                                    float max, bool hits_xtc)
{
    struct candidates c = {.max = max, .scale = 1.0f};
    for (uint32_t i = 0; i < p->n_steps; i++) {
        enum sampling_step step = p->step[i];
        if (step == STEP_TEMPERATURE) {
            c.scale = 1.0f / p->temperature;
            c.has_weights = false;
        } else if (is_on(step, s->n_vocab, p, hits_xtc)) {
            run_step(step, s, p, &c);
            assert(s->n > 0);
        }
    }
    return c;
}

bool candidates_describe(uint32_t n_vocab, const struct sampling_params *p, bool hits_xtc,
                         serverd_draw *draw)
{
    draw->scale = 1.0f;
    draw->top_k = 0;
    draw->top_p = 1.0f;
    draw->min_p = 0.0f;
    int last = -1;
    for (uint32_t i = 0; i < p->n_steps; i++) {
        const int step = p->step[i];
        if (step != STEP_TEMPERATURE && !is_on((enum sampling_step)step, n_vocab, p, hits_xtc))
            continue;
        if (step <= last)
            return false;
        last = step;
        if (step == STEP_TEMPERATURE)
            draw->scale = 1.0f / p->temperature;
        else if (step == STEP_TOP_K)
            draw->top_k = (uint32_t)p->top_k;
        else if (step == STEP_TOP_P)
            draw->top_p = p->top_p;
        else if (step == STEP_MIN_P)
            draw->min_p = p->min_p;
        else
            return false;
    }
    return true;
}
