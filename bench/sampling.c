/* Times one draw by kind of sampling and size of the vocabulary: `meson test -C build --benchmark
 * -v sampling`, or the program itself with the number of rows that are drawn from in turn
 * (default 16, as in a step with 16 sequences; 1 measures with the row in the cache).
 * Prints the median and the least of many rounds, in microseconds a draw. */
#include "base/hash.h"
#include "base/numeric.h"
#include "sampling/logprobs.h"
#include "sampling/sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N_ROUNDS = 41, N_SEEN = 400 };

static const uint32_t vocabularies[] = {49152, 151936, 262144};

/* How a draw is made: what is not stated is off; n_top < 0: no log probabilities. */
struct kind {
    const char *name;
    struct sampling_params params;
    int n_top;
};

static const struct kind kinds[] = {
    {"greedy", {.temperature = 0, .top_p = 1, .repetition_penalty = 1}, -1},
    {"greedy, penalties",
     {.top_p = 1, .repetition_penalty = 1.1f, .frequency_penalty = 0.1f, .presence_penalty = 0.1f},
     -1},
    {"temperature", {.temperature = 1, .top_p = 1, .repetition_penalty = 1}, -1},
    {"top-k", {.temperature = 0.8f, .top_k = 40, .top_p = 1, .repetition_penalty = 1}, -1},
    {"top-p", {.temperature = 0.8f, .top_p = 0.95f, .repetition_penalty = 1}, -1},
    {"top-p, temperature 2", {.temperature = 2, .top_p = 0.95f, .repetition_penalty = 1}, -1},
    {"min-p", {.temperature = 0.8f, .top_p = 1, .min_p = 0.05f, .repetition_penalty = 1}, -1},
    {"top-k, top-p, min-p",
     {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .repetition_penalty = 1},
     -1},
    {"the same, penalties",
     {.temperature = 0.8f,
      .top_k = 40,
      .top_p = 0.95f,
      .min_p = 0.05f,
      .repetition_penalty = 1.1f,
      .frequency_penalty = 0.1f,
      .presence_penalty = 0.1f},
     -1},
    {"top-k 5000, top-p",
     {.temperature = 1, .top_k = 5000, .top_p = 0.95f, .repetition_penalty = 1},
     -1},
    {"typical-p", {.temperature = 0.8f, .top_p = 1, .typical_p = 0.95f}, -1},
    {"top-n-sigma", {.temperature = 0.8f, .top_p = 1, .top_n_sigma = 1}, -1},
    {"xtc", {.temperature = 0.8f, .top_p = 1, .xtc_probability = 1}, -1},
    {"dry", {.temperature = 0.8f, .top_p = 1, .dry_multiplier = 0.8f}, -1},
    {"greedy, logprobs 0", {.temperature = 0, .top_p = 1, .repetition_penalty = 1}, 0},
    {"greedy, logprobs 20", {.temperature = 0, .top_p = 1, .repetition_penalty = 1}, 20},
};

static double now_us(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

/* Like a model's: bell-shaped, and a few tokens that stand out. */
static void fill(float *logits, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t bits = hash_mix(seed << 32 | i);
        float sum = 0;
        for (unsigned k = 0; k < 4; k++)
            sum += (float)(bits >> (16 * k) & 0xffff) * 0x1p-16f;
        logits[i] = (sum - 2.0f) * 5.0f;
    }
    for (unsigned i = 0; i < 30; i++)
        logits[hash_mix(seed * 1000 + i) % n] = 16.0f - 0.4f * (float)i;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Microseconds a draw, of one round over all rows; the token's number is `index`. */
static double time_round(const struct kind *kind, struct sampler *sampler,
                         struct sampling_scratch *scratch, const float *logits, uint32_t n_vocab,
                         uint32_t n_rows, uint32_t index)
{
    double begin = now_us();
    for (uint32_t r = 0; r < n_rows; r++) {
        const float *row = logits + (size_t)r * n_vocab;
        serverd_error err;
        int32_t token;
        struct logprobs logprobs;
        bool is_good = sampler_draw(sampler, scratch, row, index + r, &token, &err) == SERVERD_OK;
        if (is_good && kind->n_top >= 0)
            is_good = logprobs_compute(scratch, row, token, (uint32_t)kind->n_top, &logprobs);
        if (!is_good)
            exit(1);
    }
    return (now_us() - begin) / n_rows;
}

static struct sampling_params complete(struct sampling_params params)
{
    const struct sampling_params initial = sampling_params_default();
    memcpy(params.step, initial.step, sizeof params.step);
    params.n_steps = initial.n_steps;
    params.xtc_threshold = initial.xtc_threshold;
    params.dry_base = initial.dry_base;
    params.dry_allowed = initial.dry_allowed;
    params.dry_penalty_last = initial.dry_penalty_last;
    if (params.typical_p == 0)
        params.typical_p = initial.typical_p;
    if (params.repetition_penalty == 0)
        params.repetition_penalty = initial.repetition_penalty;
    return params;
}

static void time_kind(const struct kind *kind, const float *logits, uint32_t n_vocab,
                      uint32_t n_rows)
{
    const struct sampling_params params = complete(kind->params);
    const struct sampler_setup setup = {.params = &params, .n_vocab = n_vocab};
    struct sampler *sampler = sampler_create(&setup);
    struct sampling_scratch *scratch = sampling_scratch_create(n_vocab);
    if (!sampler || !scratch)
        exit(1);
    for (uint64_t i = 0; i < N_SEEN; i++)
        sampler_accept(sampler, (int32_t)(hash_mix(i) % n_vocab));
    double us[N_ROUNDS];
    for (uint32_t i = 0; i < N_ROUNDS; i++)
        us[i] = time_round(kind, sampler, scratch, logits, n_vocab, n_rows, i * n_rows);
    qsort(us, N_ROUNDS, sizeof *us, by_value);
    printf("%-22s %7u %9.1f %9.1f\n", kind->name, n_vocab, us[N_ROUNDS / 2], us[0]);
    sampler_destroy(sampler);
    sampling_scratch_destroy(scratch);
}

int main(int argc, char **argv)
{
    uint64_t n_rows = 16;
    if (argc > 2 || (argc == 2 && !parse_u64(argv[1], 1, 1024, &n_rows))) {
        (void)fprintf(stderr, "usage: sampling [ROWS]\n");
        return 2;
    }
    printf("%-22s %7s %9s %9s   us a draw, %u rows in turn\n", "", "vocab", "median", "least",
           (unsigned)n_rows);
    for (size_t v = 0; v < sizeof vocabularies / sizeof *vocabularies; v++) {
        uint32_t n_vocab = vocabularies[v];
        float *logits = calloc(n_rows * n_vocab, sizeof *logits);
        if (!logits)
            return 1;
        for (uint32_t r = 0; r < n_rows; r++)
            fill(logits + (size_t)r * n_vocab, n_vocab, r + 1);
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
            time_kind(&kinds[k], logits, n_vocab, (uint32_t)n_rows);
        free(logits);
    }
    return 0;
}
