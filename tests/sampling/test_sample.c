/* Sampling against a naive twin that sorts everything, and facts of the order of steps. */
#include "base/hash.h"
#include "base/limits.h"
#include "sampling/candidates_internal.h"
#include "sampling/logprobs.h"
#include "sampling/random.h"
#include "sampling/sample.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_VOCAB = 3000, LARGE_VOCAB = 20000 };

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

/* Few distinct values, so that ties are common. */
static void random_logits(float *logits, uint32_t n)
{
    float spread = random_float(0.1f, 20);
    uint32_t n_levels = 2 + random_below(2000);
    for (uint32_t i = 0; i < n; i++)
        logits[i] = spread * ((float)random_below(n_levels) / (float)n_levels - 0.5f);
    for (uint32_t i = 0; i < n / 50; i++)
        logits[random_below(n)] = -INFINITY;
    logits[random_below(n)] = spread;
}

/* Rows that are hard on a selection: many equal, zeros of both signs, denormals, all magnitudes. */
static void nasty_logits(float *logits, uint32_t n)
{
    uint32_t kind = random_below(7);
    for (uint32_t i = 0; i < n; i++) {
        const float tiny[] = {0.0f, -0.0f, FLT_TRUE_MIN, -FLT_TRUE_MIN, FLT_MIN, -FLT_MIN};
        const float large[] = {FLT_MAX, -FLT_MAX, 1e30f, -1e30f, 88.0f, -88.0f, 0.0f, -INFINITY};
        float bell = random_float(-5, 5) + random_float(-5, 5) + random_float(-5, 5);
        float values[] = {2.5f,
                          tiny[random_below(6)],
                          large[random_below(8)],
                          random_below(3) ? 1.0f : 0.5f,
                          bell,
                          i * 2 < n ? -INFINITY : bell,
                          (float)(i / BLOCK % 7)};
        logits[i] = values[kind];
    }
    if (random_below(2))
        logits[random_below(n)] = random_below(2) ? 16.0f : 2.5f;
    logits[random_below(n)] = 0.25f; /* something finite */
}

/* ---- the twin ---------------------------------------------------------------------------- */

struct item {
    int32_t id;
    float z;
    double p;
};

static int by_logit(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->z != y->z)
        return x->z > y->z ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static int by_id(const void *a, const void *b)
{
    return ((const struct item *)a)->id - ((const struct item *)b)->id;
}

static double sum_of(const struct item *items, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += items[i].p;
    return sum;
}

static uint32_t twin_filter(struct item *items, uint32_t n, const struct sampling_params *p)
{
    qsort(items, n, sizeof *items, by_logit);
    float max = items[0].z;
    for (uint32_t i = 0; i < n; i++)
        items[i].p = exp(((double)items[i].z - (double)max) / (double)p->temperature);
    if (p->top_k > 0 && (uint32_t)p->top_k < n)
        n = (uint32_t)p->top_k;
    if (p->top_p < 1) {
        double target = sum_of(items, n) * (double)p->top_p, sum = 0;
        uint32_t k = 0;
        while (k < n && sum < target)
            sum += items[k++].p;
        n = k;
    }
    uint32_t k = 0;
    while (k < n && items[k].p >= (double)p->min_p)
        k++;
    return k;
}

/* True if the draw is so close to a border that rounding may decide: then *token means nothing. */
static bool twin_draw(const float *logits, uint32_t n_vocab, const struct sampling_params *p,
                      double u, int32_t *token)
{
    static struct item items[MAX_VOCAB];
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_vocab; i++)
        if (logits[i] > -INFINITY)
            items[n++] = (struct item){.id = (int32_t)i, .z = logits[i]};
    n = twin_filter(items, n, p);
    qsort(items, n, sizeof *items, by_id);
    double total = sum_of(items, n), cumulative = 0;
    for (uint32_t i = 0; i < n; i++) {
        cumulative += items[i].p;
        if (fabs(cumulative - u * total) < 1e-5 * total)
            return true;
        if (cumulative > u * total) {
            *token = items[i].id;
            return false;
        }
    }
    return true;
}

/* ---- helpers ----------------------------------------------------------------------------- */

static int32_t draw_once(const struct sampler_setup *setup, const float *logits, uint32_t index)
{
    struct sampler *sampler = sampler_create(setup);
    struct sampling_scratch *scratch = sampling_scratch_create(setup->n_vocab);
    int32_t token = -1;
    if (sampler_draw(sampler, scratch, logits, index, &token, &err))
        fail_msg("%s", err.text);
    sampler_destroy(sampler);
    sampling_scratch_destroy(scratch);
    return token;
}

/* ---- facts ------------------------------------------------------------------------------- */

static void draws_equal_those_of_a_naive_twin(void **state)
{
    uint32_t n_compared = 0, n_rounded = 0;
    for (uint64_t seed = 1; seed <= 2000; seed++) {
        static float logits[MAX_VOCAB];
        random_state = seed;
        uint32_t n_vocab = 2 + random_below(seed % 4 ? 300 : MAX_VOCAB - 2);
        random_logits(logits, n_vocab);
        struct sampling_params params = sampling_params_default();
        params.temperature = random_float(0.05f, 3);
        params.seed = seed;
        if (random_below(2))
            params.top_k = (int32_t)(1 + random_below(random_below(2) ? 40 : n_vocab));
        if (random_below(2))
            params.top_p = random_float(0.01f, 0.999f);
        if (random_below(2))
            params.min_p = random_float(0.0f, 0.5f);
        struct sampler_setup setup = {.params = &params, .choice = 3, .n_vocab = n_vocab};
        int32_t token = draw_once(&setup, logits, 7), expected = -1;
        if (twin_draw(logits, n_vocab, &params, random_uniform(seed, 3, 7), &expected))
            continue;
        n_compared++;
        /* A top_p border that rounding moves by one token is no error, but it is rare. */
        bool is_rounding = params.top_p < 1 && n_rounded < 5;
        if (token != expected && is_rounding)
            n_rounded++;
        else if (token != expected)
            fail_msg("seed %llu: token %d, expected %d (n_vocab %u, top_k %d, min_p %g)",
                     (unsigned long long)seed, token, expected, n_vocab, params.top_k,
                     (double)params.min_p);
    }
    assert_true(n_compared > 1800);
}

/* The length of the shortest head that weighs `target`, of weights in descending order. */
static uint32_t head_of(const struct item *items, uint32_t n, double target)
{
    double sum = 0;
    uint32_t k = 0;
    while (k < n && sum < target)
        sum += items[k++].p;
    return k;
}

/* What the three filters keep, by sorting all. Where float sums may put the top_p border one way
 * or the other, *n_most is larger than the result. */
static uint32_t twin_keep(struct item *items, uint32_t n, const struct sampling_params *p,
                          uint32_t n_vocab, uint32_t *n_most)
{
    qsort(items, n, sizeof *items, by_logit);
    if (p->top_k > 0 && (uint32_t)p->top_k < n_vocab && (uint32_t)p->top_k < n)
        n = (uint32_t)p->top_k;
    *n_most = n;
    if (p->top_p < 1) {
        double total = sum_of(items, n), rounding = 3e-7 * total;
        *n_most = head_of(items, n, (double)p->top_p * total + rounding);
        n = head_of(items, n, fmax((double)p->top_p * total - rounding, DBL_MIN));
    }
    uint32_t k = 0;
    while (k < *n_most && (float)items[k].p >= p->min_p)
        k++;
    *n_most = k;
    return k < n ? k : n;
}

static void compare_kept(const float *logits, uint32_t n_vocab, const struct sampling_params *p,
                         uint64_t seed, uint32_t *n_in_doubt)
{
    static struct item items[LARGE_VOCAB];
    static float weight[LARGE_VOCAB + BLOCK];
    struct sampling_scratch *s = sampling_scratch_create(n_vocab);
    float max, scale = 1.0f / p->temperature;
    assert_true(row_take(s, logits, &max));
    (void)s->passes->weigh(s->block, s->n_blocks, max, scale, weight, NULL);
    uint32_t n = 0, n_most;
    for (uint32_t i = 0; i < n_vocab; i++)
        if (logits[i] > -INFINITY)
            items[n++] = (struct item){.id = (int32_t)i, .z = logits[i], .p = (double)weight[i]};
    uint32_t n_least = twin_keep(items, n, p, n_vocab, &n_most);
    (void)candidates_choose(s, p, max, false);
    bool is_good = s->n >= n_least && s->n <= n_most;
    qsort(items, is_good ? s->n : 0, sizeof *items, by_id);
    for (uint32_t i = 0; is_good && i < s->n; i++)
        is_good = s->id[i] == items[i].id && s->z[i] == items[i].z;
    if (!is_good)
        fail_msg(
            "seed %llu: %u kept, expected %u to %u (of %u; top_k %d, top_p %g, min_p %g, t %g)",
            (unsigned long long)seed, s->n, n_least, n_most, n_vocab, p->top_k, (double)p->top_p,
            (double)p->min_p, (double)p->temperature);
    *n_in_doubt += n_least != n_most;
    sampling_scratch_destroy(s);
}

static void what_is_kept_equals_a_full_sort(void **state)
{
    enum { N_ROWS = 3000 };
    uint32_t n_in_doubt = 0;
    for (uint64_t seed = 1; seed <= N_ROWS; seed++) {
        static float logits[LARGE_VOCAB];
        random_state = seed;
        uint32_t n_vocab = 2 + random_below(seed % 20 == 0  ? LARGE_VOCAB - 2
                                            : seed % 4 == 0 ? MAX_VOCAB
                                                            : 300);
        if (random_below(3))
            nasty_logits(logits, n_vocab);
        else
            random_logits(logits, n_vocab);
        struct sampling_params params = sampling_params_default();
        params.temperature = random_float(0.05f, 3);
        uint32_t filters = 1 + random_below(7);
        if (filters & 1)
            params.top_k = (int32_t)(1 + random_below(random_below(2) ? 40 : n_vocab));
        if (filters & 2)
            params.top_p = random_below(4) ? random_float(0.01f, 0.999f) : 0.5f;
        if (filters & 4)
            params.min_p = random_below(4) ? random_float(0.0001f, 0.5f) : 1.0f;
        if (params.top_k >= (int32_t)n_vocab)
            params.top_k = 1;
        compare_kept(logits, n_vocab, &params, seed, &n_in_doubt);
    }
    assert_true(n_in_doubt < N_ROWS / 10);
}

static void of_equals_the_lowest_ids_are_kept(void **state)
{
    /* weights are 1 and sums exact: borders are, too */
    enum { N = 10000 };
    static float logits[N];
    const uint32_t sizes[] = {4, 64, 100, 640, 5000, N};
    for (uint32_t i = 0; i < N; i++)
        logits[i] = i % 2 ? 0.0f : -0.0f;
    for (uint32_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint32_t n = sizes[i];
        const struct {
            int32_t top_k;
            float top_p;
            uint32_t n_kept;
        } rows[] = {{1, 1, 1},
                    {3, 1, 3},
                    {(int32_t)n / 2, 1, n / 2},
                    {(int32_t)n - 1, 1, n - 1},
                    {0, 0.5f, n / 2},
                    {0, 0.25f, n / 4},
                    {(int32_t)n / 2, 0.5f, n / 4},
                    {0, 1e-9f, 1}};
        struct sampling_scratch *s = sampling_scratch_create(n);
        for (uint32_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            struct sampling_params params = sampling_params_default();
            params.top_k = rows[r].top_k;
            params.top_p = rows[r].top_p;
            float max;
            assert_true(row_take(s, logits, &max));
            (void)candidates_choose(s, &params, max, false);
            assert_int_equal(s->n, rows[r].n_kept);
            for (uint32_t k = 0; k < s->n; k++)
                assert_int_equal(s->id[k], k);
        }
        sampling_scratch_destroy(s);
    }
}

static void top_p_keeps_the_shortest_head(void **state)
{
    /* p = 0.5, 0.25, 0.125, ...: exact in binary */
    enum { N = 200 };
    float logits[N];
    for (uint32_t i = 0; i < N; i++)
        logits[i] = i < 20 ? -(float)i * 0.6931472f : -50.0f;
    struct sampling_params params = sampling_params_default();
    struct sampler_setup setup = {.params = &params, .n_vocab = N};
    const struct {
        float top_p;
        int32_t n_kept;
    } rows[] = {{0.4f, 1}, {0.6f, 2}, {0.74f, 2}, {0.8f, 3}, {0.87f, 3}, {0.9f, 4}, {1e-6f, 1}};
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        int32_t largest = 0;
        params.top_p = rows[r].top_p;
        for (uint64_t seed = 0; seed < 300; seed++) {
            params.seed = seed;
            int32_t token = draw_once(&setup, logits, 0);
            largest = token > largest ? token : largest;
        }
        assert_int_equal(largest, rows[r].n_kept - 1);
    }
}

static void frequencies_follow_the_probabilities(void **state)
{
    const float logits[] = {0.0f, 1.0f, 2.0f, -INFINITY, 0.5f};
    const double total = 1 + exp(1) + exp(2) + exp(0.5);
    const double p[] = {1 / total, exp(1) / total, exp(2) / total, 0, exp(0.5) / total};
    struct sampling_params params = sampling_params_default();
    struct sampler_setup setup = {.params = &params, .n_vocab = 5};
    uint32_t count[5] = {0};
    enum { N_DRAWS = 20000 };
    for (uint32_t i = 0; i < N_DRAWS; i++)
        count[draw_once(&setup, logits, i)]++;
    assert_int_equal(count[3], 0);
    for (uint32_t i = 0; i < 5; i++)
        assert_true(fabs(count[i] / (double)N_DRAWS - p[i]) < 0.015);
}

static void the_same_seed_draws_the_same_and_another_does_not(void **state)
{
    float logits[1000] = {0};
    struct sampling_params params = sampling_params_default();
    struct sampler_setup setup = {.params = &params, .n_vocab = 1000};
    uint32_t n_equal = 0;
    for (uint32_t i = 0; i < 100; i++) {
        params.seed = 1;
        int32_t first = draw_once(&setup, logits, i);
        assert_int_equal(draw_once(&setup, logits, i), first);
        params.seed = 2;
        n_equal += draw_once(&setup, logits, i) == first;
        params.seed = 1;
        setup.choice = 1;
        n_equal += draw_once(&setup, logits, i) == first;
        setup.choice = 0;
    }
    assert_true(n_equal < 5);
}

static void greedy_takes_the_lowest_id_of_equals(void **state)
{
    struct sampling_params params = sampling_params_default();
    params.temperature = 0;
    for (uint32_t n = 2; n < 300; n++) {
        float logits[300];
        for (uint32_t i = 0; i < n; i++)
            logits[i] = -1;
        uint32_t low = (n * 7) % n / 2, high = n - 1;
        logits[low] = logits[high] = 3;
        struct sampler_setup setup = {.params = &params, .n_vocab = n};
        assert_int_equal(draw_once(&setup, logits, 0), low);
    }
}

static void greedy_equals_a_plain_search_and_changes_nothing(void **state)
{
    struct sampling_params params = sampling_params_default();
    params.temperature = 0;
    params.ignore_eos = true; /* the row is adjusted */
    for (uint64_t seed = 1; seed <= 500; seed++) {
        static float logits[MAX_VOCAB], before[MAX_VOCAB];
        random_state = seed;
        uint32_t n_vocab = 2 + random_below(MAX_VOCAB - 2);
        nasty_logits(logits, n_vocab);
        memcpy(before, logits, sizeof logits);
        const int32_t end[] = {(int32_t)random_below(n_vocab)};
        struct sampler_setup setup = {
            .params = &params, .n_vocab = n_vocab, .end_tokens = end, .n_end_tokens = 1};
        uint32_t best = end[0] == 0;
        for (uint32_t i = 0; i < n_vocab; i++)
            if ((int32_t)i != end[0] && logits[i] > logits[best])
                best = i;
        if (logits[best] > -INFINITY)
            assert_int_equal(draw_once(&setup, logits, 0), best);
        assert_memory_equal(before, logits, sizeof logits);
    }
}

static void a_row_that_is_not_finite_is_an_error(void **state)
{
    struct sampling_params params = sampling_params_default();
    struct sampler_setup setup = {.params = &params, .n_vocab = 130};
    struct sampler *sampler = sampler_create(&setup);
    struct sampling_scratch *scratch = sampling_scratch_create(130);
    const float bad[] = {NAN, -NAN, INFINITY};
    for (uint32_t at = 0; at < 130; at++)
        for (uint32_t k = 0; k < 3; k++) {
            float logits[130] = {0};
            int32_t token = -7;
            logits[at] = bad[k];
            assert_int_equal(sampler_draw(sampler, scratch, logits, 0, &token, &err),
                             SERVERD_NUMERIC);
            assert_int_equal(token, -7);
            struct logprobs none;
            assert_false(logprobs_compute(scratch, logits, 0, 3, &none));
        }
    float nothing[130];
    for (uint32_t i = 0; i < 130; i++)
        nothing[i] = -INFINITY;
    int32_t token;
    assert_int_equal(sampler_draw(sampler, scratch, nothing, 0, &token, &err), SERVERD_NUMERIC);
    sampler_destroy(sampler);
    sampling_scratch_destroy(scratch);
}

static void biases_bans_and_allowed_tokens_hold(void **state)
{
    const float logits[] = {1, 5, 3, 4, 2};
    const struct logit_bias bias[] = {{.token = 0, .bias = 100}, {.token = 1, .is_banned = true}};
    const int32_t allowed[] = {1, 2, 4};
    struct sampling_params params = sampling_params_default();
    params.temperature = 0;
    struct sampler_setup setup = {.params = &params, .n_vocab = 5};
    assert_int_equal(draw_once(&setup, logits, 0), 1);
    params.bias = bias;
    params.n_bias = 2;
    assert_int_equal(draw_once(&setup, logits, 0), 0);
    params.allowed = allowed;
    params.n_allowed = 3;
    assert_int_equal(draw_once(&setup, logits, 0), 2);
    params.n_allowed = 1; /* the banned one only */
    struct sampler *sampler = sampler_create(&setup);
    struct sampling_scratch *scratch = sampling_scratch_create(5);
    int32_t token;
    assert_int_equal(sampler_draw(sampler, scratch, logits, 0, &token, &err), SERVERD_INVALID);
    sampler_destroy(sampler);
    sampling_scratch_destroy(scratch);
}

static void end_and_stop_tokens_wait_for_min_tokens(void **state)
{
    const float logits[] = {1, 5, 3, 4, 2};
    const int32_t end[] = {1}, stop[] = {3};
    struct sampling_params params = sampling_params_default();
    params.temperature = 0;
    params.min_tokens = 2;
    struct sampler_setup setup = {.params = &params,
                                  .n_vocab = 5,
                                  .end_tokens = end,
                                  .n_end_tokens = 1,
                                  .stop_tokens = stop,
                                  .n_stop_tokens = 1};
    assert_int_equal(draw_once(&setup, logits, 0), 2);
    assert_int_equal(draw_once(&setup, logits, 1), 2);
    assert_int_equal(draw_once(&setup, logits, 2), 1);
    params.ignore_eos = true;
    assert_int_equal(draw_once(&setup, logits, 2), 3);
}

static void penalties_count_what_they_should(void **state)
{
    const float logits[] = {4.0f, 3.5f, 3.0f, -1.0f};
    const int32_t prompt[] = {0, 0};
    struct sampling_params params = sampling_params_default();
    params.temperature = 0;
    struct sampler_setup setup = {.params = &params, .n_vocab = 4, .prompt = prompt, .n_prompt = 2};
    params.repetition_penalty = 1.2f; /* 4 -> 3.33: prompt counts, once */
    assert_int_equal(draw_once(&setup, logits, 0), 1);
    params.repetition_penalty = 1;
    params.frequency_penalty = 1; /* the prompt does not count */
    assert_int_equal(draw_once(&setup, logits, 0), 0);

    struct sampler *sampler = sampler_create(&setup);
    struct sampling_scratch *scratch = sampling_scratch_create(4);
    const int32_t expected[] = {0, 1, 0, 2, 1};
    for (uint32_t i = 0; i < 5; i++) {
        int32_t token;
        assert_int_equal(sampler_draw(sampler, scratch, logits, i, &token, &err), SERVERD_OK);
        assert_int_equal(token, expected[i]);
        sampler_accept(sampler, token);
    }
    sampler_destroy(sampler);
    sampling_scratch_destroy(scratch);
}

static void penalties_equal_a_dense_count(void **state)
{
    enum { N = 500 };
    random_state = 77;
    float logits[N], adjusted[N];
    int32_t prompt[300];
    uint32_t count[N] = {0};
    bool is_seen[N] = {false};
    random_logits(logits, N);
    for (uint32_t i = 0; i < 300; i++) {
        prompt[i] = (int32_t)random_below(N);
        is_seen[prompt[i]] = true;
    }
    struct sampling_params params = sampling_params_default(), plain;
    params.repetition_penalty = 1.3f;
    params.frequency_penalty = 0.3f;
    params.presence_penalty = -0.4f;
    plain = sampling_params_default();
    struct sampler_setup setup = {
        .params = &params, .n_vocab = N, .prompt = prompt, .n_prompt = 300};
    struct sampler_setup plain_setup = {.params = &plain, .n_vocab = N};
    struct sampler *sampler = sampler_create(&setup);
    struct sampling_scratch *scratch = sampling_scratch_create(N);
    for (uint32_t i = 0; i < 400; i++) {
        for (uint32_t t = 0; t < N; t++) {
            float z = logits[t];
            if (is_seen[t] && z > -INFINITY)
                z = z > 0 ? z / 1.3f : z * 1.3f;
            adjusted[t] = z - (0.3f * (float)count[t] + (count[t] ? -0.4f : 0.0f));
        }
        int32_t token;
        assert_int_equal(sampler_draw(sampler, scratch, logits, i, &token, &err), SERVERD_OK);
        assert_int_equal(token, draw_once(&plain_setup, adjusted, i));
        sampler_accept(sampler, token);
        count[token]++;
        is_seen[token] = true;
    }
    sampler_destroy(sampler);
    sampling_scratch_destroy(scratch);
}

/* All three penalties look at the newest tokens of prompt and output alike. */
static void penalties_of_a_window_equal_a_dense_count(void **state)
{
    (void)state;
    enum { N = 200, N_PROMPT = 90, N_OUTPUT = 150 };
    static const int32_t lasts[] = {-1, 0, 1, 7, 64, 91, 1000000};
    for (size_t w = 0; w < sizeof lasts / sizeof *lasts; w++) {
        random_state = 99 + w;
        float logits[N], adjusted[N];
        int32_t all[N_PROMPT + N_OUTPUT];
        random_logits(logits, N);
        for (uint32_t i = 0; i < N_PROMPT; i++)
            all[i] = (int32_t)random_below(N);
        struct sampling_params params = sampling_params_default(),
                               plain = sampling_params_default();
        params.repetition_penalty = 1.4f;
        params.frequency_penalty = 0.2f;
        params.presence_penalty = 0.3f;
        params.has_penalty_window = true;
        params.penalty_last = lasts[w];
        struct sampler_setup setup = {
            .params = &params, .n_vocab = N, .prompt = all, .n_prompt = N_PROMPT};
        struct sampler_setup plain_setup = {.params = &plain, .n_vocab = N};
        struct sampler *sampler = sampler_create(&setup);
        struct sampling_scratch *scratch = sampling_scratch_create(N);
        for (uint32_t i = 0; i < N_OUTPUT; i++) {
            uint32_t n_all = N_PROMPT + i, count[N] = {0};
            uint32_t n = lasts[w] < 0 || (uint32_t)lasts[w] > n_all ? n_all : (uint32_t)lasts[w];
            for (uint32_t k = n_all - n; k < n_all; k++)
                count[all[k]]++;
            for (uint32_t t = 0; t < N; t++) {
                float z = logits[t];
                if (count[t] > 0 && z > -INFINITY) {
                    z = z > 0 ? z / 1.4f : z * 1.4f;
                    z -= 0.2f * (float)count[t] + 0.3f;
                }
                adjusted[t] = z;
            }
            int32_t token;
            assert_int_equal(sampler_draw(sampler, scratch, logits, i, &token, &err), SERVERD_OK);
            assert_int_equal(token, draw_once(&plain_setup, adjusted, i));
            sampler_accept(sampler, token);
            all[n_all] = token;
        }
        sampler_destroy(sampler);
        sampling_scratch_destroy(scratch);
    }
}

static void logprobs_are_those_of_a_naive_softmax(void **state)
{
    for (uint64_t seed = 1; seed <= 200; seed++) {
        static float logits[MAX_VOCAB];
        static struct item items[MAX_VOCAB];
        random_state = seed;
        uint32_t n_vocab = 1 + random_below(MAX_VOCAB - 1), n_top = random_below(21);
        if (seed % 2)
            random_logits(logits, n_vocab);
        else
            nasty_logits(logits, n_vocab);
        double max = -INFINITY, sum = 0;
        for (uint32_t i = 0; i < n_vocab; i++) {
            items[i] = (struct item){.id = (int32_t)i, .z = logits[i]};
            max = fmax(max, (double)logits[i]);
        }
        for (uint32_t i = 0; i < n_vocab; i++)
            sum += exp((double)logits[i] - max);
        qsort(items, n_vocab, sizeof *items, by_logit);
        int32_t chosen = (int32_t)random_below(n_vocab);
        struct logprobs found;
        struct sampling_scratch *scratch = sampling_scratch_create(n_vocab);
        assert_true(logprobs_compute(scratch, logits, chosen, n_top, &found));
        const int32_t tokens[] = {chosen, (int32_t)random_below(n_vocab), chosen};
        float logprobs[3];
        assert_true(logprobs_of_tokens(scratch, logits, tokens, 3, logprobs));
        assert_memory_equal(&logprobs[0], &found.chosen.logprob, sizeof(float));
        assert_memory_equal(&logprobs[2], &found.chosen.logprob, sizeof(float));
        struct logprobs other;
        assert_true(logprobs_compute(scratch, logits, tokens[1], 0, &other));
        assert_memory_equal(&logprobs[1], &other.chosen.logprob, sizeof(float));
        sampling_scratch_destroy(scratch);
        assert_int_equal(found.n_top, n_top < n_vocab ? n_top : n_vocab);
        for (uint32_t i = 0; i < found.n_top; i++) {
            double expected = fmax((double)items[i].z - max - log(sum), -9999);
            assert_int_equal(found.top[i].token, items[i].id);
            assert_true(fabs((double)found.top[i].logprob - expected) < 1e-5 * (1 - expected));
        }
        assert_int_equal(found.chosen.token, chosen);
        assert_int_equal(items[found.chosen_rank - 1].id, chosen);
        assert_true(found.chosen.logprob >= -9999.0f && found.chosen.logprob <= 1e-6f);
    }
}

/* x [n], n a multiple of BLOCK, as blocks. */
static const float *const *blocks_of(const float *x, uint32_t n)
{
    static const float *block[LARGE_VOCAB / BLOCK + 1];
    for (uint32_t b = 0; b < n / BLOCK; b++)
        block[b] = x + (size_t)b * BLOCK;
    return block;
}

static void the_quick_exponential_is_exact_to_a_few_bits(void **state)
{
    enum { N = 64 * BLOCK };
    static float x[N], y[N];
    for (uint32_t level = 0; row_passes_level(level); level++) {
        const struct row_passes *passes = row_passes_level(level);
        for (uint32_t i = 0; i < N; i++)
            x[i] = -(float)i * 0.0217f;
        double sum = passes->weigh(blocks_of(x, N), N / BLOCK, 0, 1, y, NULL), expected_sum = 0;
        for (uint32_t i = 0; i < N; i++) {
            double expected = x[i] > -87.0f ? exp((double)x[i]) : 0;
            expected_sum += expected;
            assert_true(fabs((double)y[i] - expected) <= 4e-7 * expected);
        }
        assert_true(fabs(sum - expected_sum) < 1e-6 * expected_sum);
        const float extremes[BLOCK] = {-INFINITY, -1e30f, 0.0f, -87.5f};
        (void)passes->weigh(blocks_of(extremes, BLOCK), 1, 0, 1e5f, y, NULL);
        assert_true(y[0] == 0 && y[1] == 0 && y[2] == 1 && y[3] == 0);
        /* scale 0 counts */
        sum = passes->weigh(blocks_of(extremes, BLOCK), 1, 0, 0, NULL, NULL);
        assert_true(sum == BLOCK - 1);
    }
}

static void all_levels_give_the_same_bits(void **state)
{
    enum { N = 40 * BLOCK };
    const struct row_passes *generic = &row_passes_generic;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        static float x[N], weight[2][N];
        float max[2], block_max[2][N / BLOCK], floor[N_FLOORS];
        double block_sum[2][N / BLOCK], sum[2][N_FLOORS];
        random_state = seed;
        if (seed % 2)
            random_logits(x, N);
        else
            nasty_logits(x, N);
        const float *const *block = blocks_of(x, N);
        float scale = 1 / random_float(0.05f, 3);
        for (uint32_t f = 0; f < N_FLOORS; f++)
            floor[f] = x[random_below(N)];
        assert_true(generic->max(block, N / BLOCK, block_max[0], &max[0]));
        double total = generic->weigh(block, N / BLOCK, max[0], scale, weight[0], block_sum[0]);
        generic->weigh_above(block, N / BLOCK, max[0], scale, floor, sum[0]);
        for (uint32_t level = 0; row_passes_level(level); level++) {
            const struct row_passes *passes = row_passes_level(level);
            assert_true(passes->max(block, N / BLOCK, block_max[1], &max[1]));
            assert_true(max[1] == max[0]);
            for (uint32_t b = 0; b < N / BLOCK; b++)
                assert_true(block_max[1][b] == block_max[0][b]);
            assert_true(passes->weigh(block, N / BLOCK, max[0], scale, weight[1], block_sum[1]) ==
                        total);
            assert_memory_equal(weight[1], weight[0], sizeof weight[0]);
            assert_memory_equal(block_sum[1], block_sum[0], sizeof block_sum[0]);
            passes->weigh_above(block, N / BLOCK, max[0], scale, floor, sum[1]);
            assert_memory_equal(sum[1], sum[0], sizeof sum[0]);
        }
    }
}

static void random_numbers_are_uniform_and_have_no_state(void **state)
{
    double sum = 0, square = 0;
    enum { N = 20000 };
    for (uint32_t i = 0; i < N; i++) {
        double u = random_uniform(42, 0, i);
        assert_true(u >= 0 && u < 1);
        assert_true(u == random_uniform(42, 0, i));
        sum += u;
        square += u * u;
    }
    assert_true(fabs(sum / N - 0.5) < 0.01);
    assert_true(fabs(square / N - 1.0 / 3) < 0.01);
}

static void parameters_out_of_range_are_named(void **state)
{
    const struct logit_bias bias = {.token = 100}, strong = {.token = 1, .bias = NAN};
    const int32_t descending[] = {5, 4};
    struct sampling_params good = sampling_params_default();
    assert_int_equal(sampling_params_check(&good, 100, &err), SERVERD_OK);
#define NAMED(word, change)                                                                        \
    do {                                                                                           \
        struct sampling_params p = sampling_params_default();                                      \
        change;                                                                                    \
        assert_int_equal(sampling_params_check(&p, 100, &err), SERVERD_INVALID);                   \
        assert_non_null(strstr(err.text, word));                                                   \
    } while (0)
    NAMED("temperature", p.temperature = -0.1f);
    NAMED("temperature", p.temperature = 100.5f);
    NAMED("temperature", p.temperature = NAN);
    NAMED("top_k", p.top_k = -1);
    NAMED("top_p", p.top_p = 0);
    NAMED("top_p", p.top_p = 1.1f);
    NAMED("min_p", p.min_p = -1);
    NAMED("repetition_penalty", p.repetition_penalty = 0);
    NAMED("repeat_last_n", (p.has_penalty_window = true, p.penalty_last = -2));
    NAMED("frequency_penalty", p.frequency_penalty = 2.5f);
    NAMED("presence_penalty", p.presence_penalty = -INFINITY);
    NAMED("logit_bias", (p.bias = &bias, p.n_bias = 1));
    NAMED("logit_bias", (p.bias = &strong, p.n_bias = 1));
    NAMED("logit_bias", p.n_bias = LIMIT_LOGIT_BIAS + 1);
    NAMED("allowed_token_ids", (p.allowed = descending, p.n_allowed = 2));
    NAMED("allowed_token_ids", p.allowed = descending);
#undef NAMED
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_equal_those_of_a_naive_twin),
        cmocka_unit_test(what_is_kept_equals_a_full_sort),
        cmocka_unit_test(of_equals_the_lowest_ids_are_kept),
        cmocka_unit_test(top_p_keeps_the_shortest_head),
        cmocka_unit_test(frequencies_follow_the_probabilities),
        cmocka_unit_test(the_same_seed_draws_the_same_and_another_does_not),
        cmocka_unit_test(greedy_takes_the_lowest_id_of_equals),
        cmocka_unit_test(greedy_equals_a_plain_search_and_changes_nothing),
        cmocka_unit_test(a_row_that_is_not_finite_is_an_error),
        cmocka_unit_test(biases_bans_and_allowed_tokens_hold),
        cmocka_unit_test(end_and_stop_tokens_wait_for_min_tokens),
        cmocka_unit_test(penalties_count_what_they_should),
        cmocka_unit_test(penalties_equal_a_dense_count),
        cmocka_unit_test(penalties_of_a_window_equal_a_dense_count),
        cmocka_unit_test(logprobs_are_those_of_a_naive_softmax),
        cmocka_unit_test(the_quick_exponential_is_exact_to_a_few_bits),
        cmocka_unit_test(all_levels_give_the_same_bits),
        cmocka_unit_test(random_numbers_are_uniform_and_have_no_state),
        cmocka_unit_test(parameters_out_of_range_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
