/* The steps of sampling against a reference in double precision that follows their definitions by
 * sorting everything, and DRY and banned words against searches that try every place. */
#include "base/hash.h"
#include "base/limits.h"
#include "sampling/candidates_internal.h"
#include "sampling/random.h"
#include "sampling/sample.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_VOCAB = 3000 };

static serverd_error err;
static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
    random_state = hash_mix(random_state);
    return (uint32_t)(random_state % n);
}

static float random_float(float low, float high)
{
    return low + (high - low) * (float)random_below(1 << 20) * 0x1p-20f;
}

static void random_logits(float *logits, uint32_t n)
{
    float spread = random_float(0.1f, 20);
    bool is_tied = random_below(3) == 0;
    uint32_t n_levels = 2 + random_below(50);
    for (uint32_t i = 0; i < n; i++) {
        float level = (float)random_below(n_levels) / (float)n_levels - 0.5f;
        float bell = random_float(-0.3f, 0.3f) + random_float(-0.3f, 0.3f);
        logits[i] = spread * (is_tied ? level : bell);
    }
    for (uint32_t i = 0; i < n / 20; i++)
        logits[random_below(n)] = -INFINITY;
    for (uint32_t i = 0; i < 4; i++)
        logits[random_below(n)] = spread * random_float(0.3f, 0.8f);
}

/* ---- the reference ----------------------------------------------------------------------- */

struct item {
    int32_t id;
    double z, p, distance;
};

struct set {
    struct item item[MAX_VOCAB];
    uint32_t n;
    double temperature;
    bool is_in_doubt; /* a border is so near that rounding may decide */
};

static int by_logit(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    return x->z != y->z ? (x->z > y->z ? -1 : 1) : x->id - y->id;
}

static int by_distance(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    /* equal logits are equally typical, however their distance was rounded */
    if (x->z == y->z)
        return x->id - y->id;
    return x->distance < y->distance ? -1 : 1;
}

static void set_probabilities(struct set *set)
{
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < set->n; i++)
        max = fmax(max, set->item[i].z);
    for (uint32_t i = 0; i < set->n; i++)
        sum += set->item[i].p = exp((set->item[i].z - max) / set->temperature);
    for (uint32_t i = 0; i < set->n; i++)
        set->item[i].p /= sum;
}

static bool is_near(double a, double b)
{
    return fabs(a - b) <= 2e-6 * fmax(fabs(b), 1e-30);
}

/* The shortest head of the items as they are ordered with a sum of `least` or more. */
static void keep_head(struct set *set, double least)
{
    double sum = 0;
    uint32_t n = 0;
    while (n < set->n && sum < least) {
        sum += set->item[n++].p;
        set->is_in_doubt |= fabs(sum - least) < 2e-6;
    }
    set->n = n;
}

static void keep_above(struct set *set, double border, bool looks_at_p)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < set->n; i++) {
        double x = looks_at_p ? set->item[i].p : set->item[i].z;
        set->is_in_doubt |= is_near(x, border) && i > 0;
        if (x >= border || i == 0) /* the first is the largest */
            set->item[n++] = set->item[i];
    }
    set->n = n;
}

static void reference_sigma(struct set *set, double n_sigma)
{
    double mean = 0, squares = 0;
    for (uint32_t i = 0; i < set->n; i++)
        mean += set->item[i].z / set->n;
    for (uint32_t i = 0; i < set->n; i++)
        squares += (set->item[i].z - mean) * (set->item[i].z - mean) / set->n;
    keep_above(set, set->item[0].z - n_sigma * sqrt(squares), false);
}

static void reference_typical(struct set *set, double typical_p)
{
    double entropy = 0;
    for (uint32_t i = 0; i < set->n; i++)
        if (set->item[i].p > 0)
            entropy -= set->item[i].p * log(set->item[i].p);
    for (uint32_t i = 0; i < set->n; i++)
        set->item[i].distance = fabs(-log(set->item[i].p) - entropy);
    qsort(set->item, set->n, sizeof *set->item, by_distance);
    uint32_t n_before = set->n;
    keep_head(set, typical_p);
    /* two tokens at both sides of the entropy may be equally far from it */
    for (uint32_t i = set->n > 0 ? set->n - 1 : 0; i + 1 < n_before && i <= set->n; i++)
        if (set->item[i].z != set->item[i + 1].z &&
            fabs(set->item[i].distance - set->item[i + 1].distance) < 1e-5)
            set->is_in_doubt = true;
}

static void reference_xtc(struct set *set, double threshold)
{
    uint32_t n_top = 0; /* items are by descending logit */
    for (uint32_t i = 0; i < set->n; i++) {
        set->is_in_doubt |= is_near(set->item[i].p, threshold);
        n_top += set->item[i].p >= threshold;
    }
    if (n_top < 2)
        return;
    set->n -= n_top - 1;
    memmove(set->item, set->item + n_top - 1, set->n * sizeof *set->item);
}

static void reference_step(struct set *set, const struct sampling_params *p, uint8_t step,
                           bool hits_xtc)
{
    qsort(set->item, set->n, sizeof *set->item, by_logit);
    set_probabilities(set);
    switch ((enum sampling_step)step) {
    case STEP_TEMPERATURE:
        set->temperature = (double)p->temperature;
        break;
    case STEP_TOP_N_SIGMA:
        if (p->top_n_sigma > 0)
            reference_sigma(set, (double)p->top_n_sigma);
        break;
    case STEP_TOP_K:
        if (p->top_k > 0 && (uint32_t)p->top_k < set->n)
            set->n = (uint32_t)p->top_k;
        break;
    case STEP_TYPICAL_P:
        if (p->typical_p < 1)
            reference_typical(set, (double)p->typical_p);
        break;
    case STEP_TOP_P:
        if (p->top_p < 1)
            keep_head(set, (double)p->top_p);
        break;
    case STEP_MIN_P:
        if (p->min_p > 0)
            keep_above(set, (double)p->min_p * set->item[0].p, true);
        break;
    case STEP_XTC:
        if (hits_xtc)
            reference_xtc(set, (double)p->xtc_threshold);
        break;
    default:
        fail();
    }
}

static void reference(const float *logits, uint32_t n_vocab, const struct sampling_params *p,
                      bool hits_xtc, struct set *set)
{
    set->n = 0;
    set->temperature = 1;
    set->is_in_doubt = false;
    for (uint32_t i = 0; i < n_vocab; i++)
        if (logits[i] > -INFINITY)
            set->item[set->n++] = (struct item){.id = (int32_t)i, .z = (double)logits[i]};
    for (uint32_t i = 0; i < p->n_steps; i++)
        reference_step(set, p, p->step[i], hits_xtc);
    set_probabilities(set);
}

/* ---- comparison -------------------------------------------------------------------------- */

static struct sampling_params random_params(uint32_t n_vocab)
{
    struct sampling_params p = sampling_params_default();
    uint32_t on = 1 + random_below(127);
    p.temperature = random_float(0.1f, 3);
    if (on & 1)
        p.top_k = (int32_t)(1 + random_below(random_below(2) ? 40 : n_vocab));
    if (on & 2)
        p.top_p = random_float(0.05f, 0.999f);
    if (on & 4)
        p.min_p = random_float(0.001f, 0.5f);
    if (on & 8)
        p.typical_p = random_float(0.05f, 0.999f);
    if (on & 16)
        p.top_n_sigma = random_float(0.1f, 3);
    if (on & 32) {
        p.xtc_probability = random_below(2) ? 1.0f : 0.5f;
        p.xtc_threshold = random_below(8) ? random_float(0.0f, 0.6f) : 0.0f;
    }
    if (on & 64)
        for (uint32_t i = N_SAMPLING_STEPS; i > 1; i--) {
            uint32_t k = random_below(i);
            uint8_t t = p.step[k];
            p.step[k] = p.step[i - 1];
            p.step[i - 1] = t;
        }
    if (random_below(8) == 0)
        p.n_steps = random_below(N_SAMPLING_STEPS);
    return p;
}

static int by_id(const void *a, const void *b)
{
    return ((const struct item *)a)->id - ((const struct item *)b)->id;
}

static bool equals_set(struct set *set, const struct sampling_scratch *s,
                       const struct candidates *c, const float *logits, uint32_t n_vocab)
{
    qsort(set->item, set->n, sizeof *set->item, by_id);
    uint32_t n = 0;
    for (uint32_t i = 0; !c->is_list && i < n_vocab; i++)
        if (logits[i] > -INFINITY) {
            if (n == set->n || set->item[n].id != (int32_t)i)
                return false;
            n++;
        }
    if (c->is_list && s->n != set->n)
        return false;
    for (uint32_t i = 0; c->is_list && i < s->n; i++)
        if (s->id[i] != set->item[i].id || s->z[i] != logits[s->id[i]])
            return false;
    return true;
}

static void every_order_of_steps_keeps_what_the_definitions_say(void **state)
{
    enum { N_ROWS = 12000 };
    static struct set set;
    static float logits[MAX_VOCAB];
    uint32_t n_compared = 0;
    for (uint64_t seed = 1; seed <= N_ROWS; seed++) {
        random_state = seed;
        uint32_t n_vocab = 2 + random_below(seed % 20 ? 300 : MAX_VOCAB - 2);
        random_logits(logits, n_vocab);
        struct sampling_params p = random_params(n_vocab);
        bool hits_xtc = p.xtc_probability > 0 && random_below(2);
        reference(logits, n_vocab, &p, hits_xtc, &set);
        struct sampling_scratch *s = sampling_scratch_create(n_vocab);
        float max;
        assert_true(row_take(s, logits, &max));
        struct candidates c = candidates_choose(s, &p, max, hits_xtc);
        assert_true(!c.is_list || s->n > 0);
        assert_true(c.is_list == candidates_are_limited(s->n_vocab, &p, hits_xtc));
        if (!set.is_in_doubt && !equals_set(&set, s, &c, logits, n_vocab))
            fail_msg("seed %llu: %u kept, expected %u of %u", (unsigned long long)seed, s->n, set.n,
                     n_vocab);
        n_compared += !set.is_in_doubt;
        sampling_scratch_destroy(s);
    }
    if (n_compared < N_ROWS * 8 / 10)
        fail_msg("only %u of %u rows compared", n_compared, N_ROWS);
}

/* What is drawn, with the probabilities of what was left. */
static void draws_and_processed_logprobs_are_those_of_the_reference(void **state)
{
    enum { N_ROWS = 4000 };
    static struct set set;
    static float logits[MAX_VOCAB];
    uint32_t n_compared = 0, n_top = 20;
    for (uint64_t seed = 1; seed <= N_ROWS; seed++) {
        random_state = seed + 1000000;
        uint32_t n_vocab = 2 + random_below(300);
        random_logits(logits, n_vocab);
        struct sampling_params p = random_params(n_vocab);
        p.seed = seed;
        struct sampler_setup setup = {.params = &p, .choice = 2, .n_vocab = n_vocab};
        struct sampler *sampler = sampler_create(&setup);
        struct sampling_scratch *s = sampling_scratch_create(n_vocab);
        struct logprobs found = {0};
        int32_t token, alone;
        const struct draw_wish wish = {.processed = &found, .n_top = n_top};
        assert_int_equal(sampler_draw_as(sampler, s, logits, 9, &wish, &token, &err), 0);
        assert_int_equal(sampler_draw(sampler, s, logits, 9, &alone, &err), 0);
        assert_int_equal(token, alone);
        for (uint32_t level = 0; row_passes_level(level); level++) {
            struct logprobs same = {0};
            const struct draw_wish again = {.processed = &same, .n_top = n_top};
            s->passes = row_passes_level(level);
            assert_int_equal(sampler_draw_as(sampler, s, logits, 9, &again, &alone, &err), 0);
            assert_int_equal(token, alone);
            assert_memory_equal(&same, &found, sizeof same);
        }
        sampler_destroy(sampler);
        sampling_scratch_destroy(s);

        bool hits_xtc =
            random_uniform(random_seed(seed, RANDOM_XTC), 2, 9) < (double)p.xtc_probability;
        reference(logits, n_vocab, &p, hits_xtc, &set);
        if (set.is_in_doubt)
            continue;
        qsort(set.item, set.n, sizeof *set.item, by_id);
        double u = random_uniform(seed, 2, 9), sum = 0;
        uint32_t k = 0;
        while (k + 1 < set.n && sum + set.item[k].p <= u)
            sum += set.item[k++].p;
        if (fabs(sum - u) < 1e-5 || fabs(sum + set.item[k].p - u) < 1e-5)
            continue;
        n_compared++;
        assert_int_equal(token, set.item[k].id);
        assert_int_equal(found.chosen.token, token);
        double lp = log(set.item[k].p);
        assert_true(fabs((double)found.chosen.logprob - lp) < 1e-5 * (1 - lp));
        qsort(set.item, set.n, sizeof *set.item, by_logit);
        assert_int_equal(set.item[found.chosen_rank - 1].id, token);
        assert_int_equal(found.n_top, n_top < n_vocab ? n_top : n_vocab);
        for (uint32_t i = 0; i < found.n_top; i++) {
            if (i >= set.n) {
                assert_true(found.top[i].logprob == -9999.0f);
                continue;
            }
            double expected = fmax(log(set.item[i].p), -9999);
            assert_int_equal(found.top[i].token, set.item[i].id);
            assert_true(fabs((double)found.top[i].logprob - expected) < 1e-5 * (1 - expected));
        }
    }
    assert_true(n_compared > N_ROWS * 7 / 10);
}

/* ---- facts of each step ------------------------------------------------------------------ */

/* Which of the tokens are ever drawn, as a bit mask. */
static uint32_t drawn(const struct sampling_params *params, const float *logits, uint32_t n_vocab)
{
    struct sampling_params p = *params;
    struct sampler_setup setup = {.params = &p, .n_vocab = n_vocab};
    struct sampler *sampler = sampler_create(&setup);
    struct sampling_scratch *s = sampling_scratch_create(n_vocab);
    uint32_t mask = 0;
    for (uint32_t i = 0; i < 500; i++) {
        int32_t token;
        assert_int_equal(sampler_draw(sampler, s, logits, i, &token, &err), 0);
        mask |= 1u << token;
    }
    sampler_destroy(sampler);
    sampling_scratch_destroy(s);
    return mask;
}

static void xtc_drops_all_top_tokens_but_the_least_likely(void **state)
{
    /* p = 0.4, 0.3, 0.2, 0.1 */
    const float logits[] = {logf(0.4f), logf(0.3f), logf(0.2f), logf(0.1f)};
    struct sampling_params p = sampling_params_default();
    p.xtc_probability = 1;
    const struct {
        float threshold;
        uint32_t drawn;
    } rows[] = {{0.15f, 0xc}, {0.25f, 0xe}, {0.35f, 0xf}, {0.45f, 0xf}, {0, 0x8}, {1, 0xf}};
    for (uint32_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        p.xtc_threshold = rows[i].threshold;
        assert_int_equal(drawn(&p, logits, 4), rows[i].drawn);
    }
    p.xtc_threshold = 0.15f; /* by chance: at times nothing is dropped */
    p.xtc_probability = 0.5f;
    assert_int_equal(drawn(&p, logits, 4), 0xf);
    p.temperature = 0; /* greedy: no step runs */
    p.xtc_probability = 1;
    assert_int_equal(drawn(&p, logits, 4), 0x1);
}

static void xtc_keeps_the_highest_id_of_equals(void **state)
{
    const float logits[] = {0, 0, 0, 0};
    struct sampling_params p = sampling_params_default();
    p.xtc_probability = 1;
    assert_int_equal(drawn(&p, logits, 4), 0x8);
}

static void xtc_hits_as_often_as_asked_for(void **state)
{
    const float logits[] = {5, 4};
    struct sampling_params p = sampling_params_default();
    p.xtc_probability = 0.3f;
    p.temperature = 0.01f; /* the likely one, unless it is dropped */
    p.step[0] = STEP_XTC;  /* at p = 0.73, 0.27 */
    p.step[N_SAMPLING_STEPS - 1] = STEP_TEMPERATURE;
    struct sampler_setup setup = {.params = &p, .n_vocab = 2};
    struct sampler *sampler = sampler_create(&setup);
    struct sampling_scratch *s = sampling_scratch_create(2);
    uint32_t n_hits = 0;
    enum { N_DRAWS = 20000 };
    for (uint32_t i = 0; i < N_DRAWS; i++) {
        int32_t token;
        assert_int_equal(sampler_draw(sampler, s, logits, i, &token, &err), 0);
        n_hits += token == 1;
    }
    assert_true(fabs(n_hits / (double)N_DRAWS - 0.3) < 0.015);
    sampler_destroy(sampler);
    sampling_scratch_destroy(s);
}

static void typical_p_may_drop_the_most_likely_token(void **state)
{
    /* 0.4 and ten of 0.06: the entropy is nearer to the latter */
    float logits[11] = {logf(0.4f)};
    for (uint32_t i = 1; i < 11; i++)
        logits[i] = logf(0.06f);
    struct sampling_params p = sampling_params_default();
    p.typical_p = 0.1f;
    assert_int_equal(drawn(&p, logits, 11), 0x6); /* two of them, the lowest ids */
}

static void top_n_sigma_cuts_below_the_largest_logit(void **state)
{
    const float logits[] = {3, 1, -1, -3, -INFINITY}; /* deviation sqrt(5) = 2.236 */
    struct sampling_params p = sampling_params_default();
    p.temperature = 100; /* which does not matter */
    const struct {
        float n;
        uint32_t drawn;
    } rows[] = {{0.8f, 0x1}, {1, 0x3}, {1.8f, 0x7}, {3, 0xf}, {0, 0xf}, {-1, 0xf}};
    for (uint32_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        p.top_n_sigma = rows[i].n;
        assert_int_equal(drawn(&p, logits, 5), rows[i].drawn);
    }
}

static void the_order_of_steps_matters_and_steps_left_out_do_not_run(void **state)
{
    /* p = 0.4, 0.3, 0.2, 0.1; of the first two 0.57 and 0.43 */
    const float logits[] = {logf(0.4f), logf(0.3f), logf(0.2f), logf(0.1f)};
    struct sampling_params p = sampling_params_default();
    p.top_k = 2;
    p.top_p = 0.5f;
    p.n_steps = 2;
    p.step[0] = STEP_TOP_K;
    p.step[1] = STEP_TOP_P;
    assert_int_equal(drawn(&p, logits, 4), 0x1);
    p.step[0] = STEP_TOP_P;
    p.step[1] = STEP_TOP_K;
    assert_int_equal(drawn(&p, logits, 4), 0x3);
    p.n_steps = 0;
    assert_int_equal(drawn(&p, logits, 4), 0xf);
}

/* ---- DRY --------------------------------------------------------------------------------- */

static const char *piece_of(const void *user, int32_t token, uint32_t *n)
{
    const char *const *pieces = user;
    *n = (uint32_t)strlen(pieces[token]);
    return pieces[token];
}

static const char *const pieces[] = {"a", "b", "xy", "yz", "\n", "a:", "z", ""};
enum { N_PIECES = sizeof pieces / sizeof *pieces };

/* Whether tokens hold a breaker, by joining their text. */
static bool holds_breaker(const struct sampling_params *p, const int32_t *token, uint32_t n)
{
    char text[4096] = "";
    size_t len = 0;
    for (uint32_t i = 0; i < n; i++) {
        size_t k = strlen(pieces[token[i]]);
        memcpy(text + len, pieces[token[i]], k + 1);
        len += k;
    }
    for (uint32_t i = 0; i < p->n_dry_breakers; i++)
        if (strstr(text, p->dry_breakers[i].bytes))
            return true;
    return false;
}

/* n of the definition: the longest end without a breaker that came before with t behind it. */
static uint32_t reference_repeat(const struct sampling_params *p, const int32_t *token, uint32_t n,
                                 int32_t t)
{
    for (uint32_t length = n - 1; length > 0; length--) {
        const int32_t *end = token + n - length;
        if (holds_breaker(p, end, length))
            continue;
        for (uint32_t i = 0; i + length < n; i++)
            if (memcmp(token + i, end, length * sizeof *end) == 0 && token[i + length] == t)
                return length;
    }
    return 0;
}

static void dry_lowers_what_the_definition_says(void **state)
{
    const struct dry_breaker breakers[] = {{"\n", 1}, {":", 1}, {"yy", 2}, {"bxyz", 4}};
    for (uint64_t seed = 1; seed <= 2000; seed++) {
        random_state = seed;
        struct sampling_params p = sampling_params_default();
        p.temperature = 0;
        p.dry_multiplier = random_float(0.1f, 3);
        p.dry_base = random_float(1, 2);
        p.dry_allowed = 1 + random_below(4);
        p.dry_penalty_last = random_below(2) ? -1 : (int32_t)random_below(60);
        p.dry_breakers = breakers;
        p.n_dry_breakers = random_below(5);
        uint32_t n_kinds = 2 + random_below(N_PIECES - 1), n = random_below(80);
        int32_t tokens[80], token;
        for (uint32_t i = 0; i < n; i++)
            tokens[i] = (int32_t)random_below(n_kinds);
        uint32_t n_prompt = n > 0 ? random_below(n + 1) : 0;
        struct sampler_setup setup = {.params = &p,
                                      .n_vocab = N_PIECES,
                                      .prompt = tokens,
                                      .n_prompt = n_prompt,
                                      .piece = piece_of,
                                      .piece_user = pieces};
        struct sampler *sampler = sampler_create(&setup);
        struct sampling_scratch *s = sampling_scratch_create(N_PIECES);
        for (uint32_t i = n_prompt; i < n; i++)
            sampler_accept(sampler, tokens[i]);
        const float logits[N_PIECES] = {0};
        struct logprobs found;
        const struct draw_wish wish = {.processed = &found, .n_top = N_PIECES};
        assert_int_equal(sampler_draw_as(sampler, s, logits, 5, &wish, &token, &err), 0);

        uint32_t n_last = n;
        if (p.dry_penalty_last >= 0 && (uint32_t)p.dry_penalty_last < n)
            n_last = (uint32_t)p.dry_penalty_last;
        double z[N_PIECES], sum = 0;
        for (int32_t t = 0; t < N_PIECES; t++) {
            uint32_t k = n_last < 2 ? 0 : reference_repeat(&p, tokens + n - n_last, n_last, t);
            bool is_lowered = k >= p.dry_allowed;
            z[t] = is_lowered ? -(double)p.dry_multiplier *
                                    pow((double)p.dry_base, (double)(k - p.dry_allowed))
                              : 0;
            sum += exp(z[t]);
        }
        for (uint32_t i = 0; i < N_PIECES; i++) {
            double expected = fmax(z[found.top[i].token] - log(sum), -9999);
            if (fabs((double)found.top[i].logprob - expected) > 1e-5 * (1 - expected))
                fail_msg("seed %llu: token %d: %g, expected %g", (unsigned long long)seed,
                         found.top[i].token, (double)found.top[i].logprob, expected);
        }
        sampler_destroy(sampler);
        sampling_scratch_destroy(s);
    }
}

static void dry_over_a_long_run_of_one_token_stays_finite(void **state)
{
    enum { N = 20000 };
    int32_t *prompt = calloc(N, sizeof *prompt), token;
    struct sampling_params p = sampling_params_default();
    p.temperature = 0;
    p.dry_multiplier = 100;
    p.dry_base = 100;
    struct sampler_setup setup = {.params = &p, .n_vocab = 2, .prompt = prompt, .n_prompt = N};
    struct sampler *sampler = sampler_create(&setup);
    struct sampling_scratch *s = sampling_scratch_create(2);
    const float both[] = {9, 1}, one[] = {9, -INFINITY};
    assert_int_equal(sampler_draw(sampler, s, both, 0, &token, &err), 0);
    assert_int_equal(token, 1);
    assert_int_equal(sampler_draw(sampler, s, one, 0, &token, &err), 0); /* a token is left */
    assert_int_equal(token, 0);
    sampler_destroy(sampler);
    sampling_scratch_destroy(s);
    free(prompt);
}

/* ---- banned words ------------------------------------------------------------------------ */

static void a_word_is_banned_at_its_last_token(void **state)
{
    const int32_t single[] = {3}, pair[] = {0, 1}, triple[] = {1, 1, 2}, prompt[] = {0};
    const struct bad_word words[] = {{single, 1}, {pair, 2}, {triple, 3}};
    struct sampling_params p = sampling_params_default();
    p.temperature = 0;
    p.bad_words = words;
    p.n_bad_words = 3;
    struct sampler_setup setup = {.params = &p, .n_vocab = 4, .prompt = prompt, .n_prompt = 1};
    struct sampler *sampler = sampler_create(&setup);
    struct sampling_scratch *s = sampling_scratch_create(4);
    /* what is best, what comes: a word that begins in the prompt is none of the output */
    const struct {
        int32_t best, expected;
    } rows[] = {{3, 0}, {1, 1}, {1, 1}, {2, 0}, {1, 0}, {0, 0}, {1, 0}, {2, 2}, {1, 1}};
    for (uint32_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        float logits[4] = {1, 0, 0, 0};
        int32_t token;
        logits[rows[i].best] = 2;
        assert_int_equal(sampler_draw(sampler, s, logits, i, &token, &err), 0);
        assert_int_equal(token, rows[i].expected);
        if (i != 0) /* as if the first had not been asked for */
            sampler_accept(sampler, token);
    }
    sampler_destroy(sampler);
    sampling_scratch_destroy(s);
}

/* ---- filters, parameters ----------------------------------------------------------------- */

static bool allows_odd(void *user, int32_t token)
{
    return token % 2 == 1;
}

static const uint64_t *odd_mask(void *user)
{
    return user;
}

static void a_filter_comes_before_the_steps(void **state)
{
    uint64_t mask[] = {0xaaaaaaaaaaaaaaaau, 0xaaaaaaaaaaaaaaaau};
    const struct token_filter filter = {allows_odd, odd_mask, mask};
    enum { N = 100 };
    for (uint64_t seed = 1; seed <= 1000; seed++) {
        float logits[N], allowed[N];
        int32_t token, plain;
        random_state = seed;
        random_logits(logits, N);
        logits[1] = 0;
        struct sampling_params p = random_params(N);
        p.seed = seed;
        if (random_below(8) == 0)
            p.temperature = 0;
        for (uint32_t i = 0; i < N; i++)
            allowed[i] = i % 2 ? logits[i] : -INFINITY;
        struct sampler_setup setup = {.params = &p, .n_vocab = N};
        struct sampler *sampler = sampler_create(&setup);
        struct sampling_scratch *s = sampling_scratch_create(N);
        struct logprobs found, expected;
        const struct draw_wish filtered = {&filter, NULL, 0}, scored = {&filter, &found, 5};
        const struct draw_wish direct = {NULL, &expected, 5};
        assert_int_equal(sampler_draw_as(sampler, s, logits, 1, &filtered, &plain, &err), 0);
        assert_int_equal(sampler_draw_as(sampler, s, logits, 1, &scored, &token, &err), 0);
        assert_int_equal(token, plain); /* log probabilities do not change it */
        assert_int_equal(token % 2, 1);
        assert_int_equal(sampler_draw_as(sampler, s, allowed, 1, &direct, &plain, &err), 0);
        assert_memory_equal(found.top, expected.top, sizeof found.top[0] * 5);
        bool hits_xtc =
            random_uniform(random_seed(seed, RANDOM_XTC), 0, 1) < (double)p.xtc_probability;
        bool is_limited = p.temperature > 0 && candidates_are_limited(s->n_vocab, &p, hits_xtc);
        if (is_limited || p.temperature == 0)
            assert_int_equal(token, plain);
        sampler_destroy(sampler);
        sampling_scratch_destroy(s);
    }
}

static void what_is_not_allowed_is_named(void **state)
{
    const int32_t high[] = {100};
    const struct bad_word unknown = {high, 1}, empty = {high, 0};
    const struct dry_breaker nothing = {"", 0};
#define NAMED(word, change)                                                                        \
    do {                                                                                           \
        struct sampling_params p = sampling_params_default();                                      \
        change;                                                                                    \
        assert_int_equal(sampling_params_check(&p, 100, &err), SERVERD_INVALID);                   \
        assert_non_null(strstr(err.text, word));                                                   \
    } while (0)
    NAMED("typical_p", p.typical_p = 0);
    NAMED("typical_p", p.typical_p = NAN);
    NAMED("top_n_sigma", p.top_n_sigma = NAN);
    NAMED("xtc_probability", p.xtc_probability = 1.5f);
    NAMED("xtc_threshold", p.xtc_threshold = -0.1f);
    NAMED("dry_multiplier", p.dry_multiplier = -1);
    NAMED("dry_base", p.dry_base = 0.5f);
    NAMED("dry_allowed_length", p.dry_allowed = 0);
    NAMED("dry_penalty_last_n", p.dry_penalty_last = -2);
    NAMED("dry_sequence_breakers", (p.dry_breakers = &nothing, p.n_dry_breakers = 1));
    NAMED("dry_sequence_breakers", p.n_dry_breakers = LIMIT_DRY_BREAKERS + 1);
    NAMED("bad_words", (p.bad_words = &unknown, p.n_bad_words = 1));
    NAMED("bad_words", (p.bad_words = &empty, p.n_bad_words = 1));
    NAMED("bad_words", p.n_bad_words = LIMIT_BAD_WORDS + 1);
    NAMED("samplers", p.step[1] = p.step[0]);
    NAMED("samplers", p.step[1] = N_SAMPLING_STEPS);
    NAMED("samplers", p.n_steps = N_SAMPLING_STEPS + 1);
#undef NAMED
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_order_of_steps_keeps_what_the_definitions_say),
        cmocka_unit_test(draws_and_processed_logprobs_are_those_of_the_reference),
        cmocka_unit_test(xtc_drops_all_top_tokens_but_the_least_likely),
        cmocka_unit_test(xtc_keeps_the_highest_id_of_equals),
        cmocka_unit_test(xtc_hits_as_often_as_asked_for),
        cmocka_unit_test(typical_p_may_drop_the_most_likely_token),
        cmocka_unit_test(top_n_sigma_cuts_below_the_largest_logit),
        cmocka_unit_test(the_order_of_steps_matters_and_steps_left_out_do_not_run),
        cmocka_unit_test(dry_lowers_what_the_definition_says),
        cmocka_unit_test(dry_over_a_long_run_of_one_token_stays_finite),
        cmocka_unit_test(a_word_is_banned_at_its_last_token),
        cmocka_unit_test(a_filter_comes_before_the_steps),
        cmocka_unit_test(what_is_not_allowed_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
