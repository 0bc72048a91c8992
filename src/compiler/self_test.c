#include "compiler/self_test.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "compiler/self_test_internal.h"
#include "program/sdp_program.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What is exact is kept to so much: what another exp of the C library would change is far below
 * it. Of log probabilities, and of an encoder's numbers in bits. */
#define LOG_P_STEP 0x1p-12
#define VALUE_BITS 16

/* What is left to all other tokens is looked at down to this. */
#define LEAST_REST 1e-6

/* ---- rows ------------------------------------------------------------------------------------ */

/* Of all cases, one behind the other. */
struct row_job {
    const struct sdp_tests *tests;
    const struct answers *answers;
    uint32_t first_row[LIMIT_TEST_CASES + 1];
    int32_t *top; /* [rows][n_top], written by list_row */
    float *log_p; /* likewise */
    double *kl;   /* [rows], written by judge_row */
};

static struct row_job make_job(const struct sdp_tests *tests, const struct answers *answers)
{
    struct row_job job = {.tests = tests, .answers = answers};
    for (uint32_t i = 0; i < tests->n_cases; i++)
        job.first_row[i + 1] = job.first_row[i] + tests->cases[i].n_positions;
    return job;
}

static uint32_t case_of(const struct row_job *job, uint32_t row)
{
    uint32_t i = 0;
    while (row >= job->first_row[i + 1])
        i++;
    return i;
}

static const float *logits_of(const struct row_job *job, uint32_t row)
{
    const uint32_t i = case_of(job, row);
    return job->answers->rows[i] + (size_t)(row - job->first_row[i]) * job->answers->width;
}

/* sum of exp(logits - *most) */
static double sum_of(const float *logits, uint32_t n, double *most)
{
    *most = (double)logits[0];
    for (uint32_t i = 1; i < n; i++)
        *most = fmax(*most, (double)logits[i]);
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - *most);
    return sum;
}

/* The likeliest tokens, descending; among equals the lowest id first. */
static void list_row(void *arg, uint32_t row, uint32_t worker)
{
    (void)worker;
    const struct row_job *job = arg;
    const uint32_t n_top = job->tests->n_top;
    const float *logits = logits_of(job, row);
    int32_t *top = job->top + (size_t)row * n_top;
    uint32_t n = 0;
    for (uint32_t i = 0; i < job->answers->width; i++) {
        if (n == n_top && logits[i] <= logits[top[n - 1]])
            continue;
        uint32_t at = n < n_top ? n++ : n - 1;
        for (; at > 0 && logits[i] > logits[top[at - 1]]; at--)
            top[at] = top[at - 1];
        top[at] = (int32_t)i;
    }
    double most;
    const double log_sum = log(sum_of(logits, job->answers->width, &most)) + most;
    for (uint32_t i = 0; i < n_top; i++) {
        const double log_p = (double)logits[top[i]] - log_sum;
        job->log_p[(size_t)row * n_top + i] = (float)(nearbyint(log_p / LOG_P_STEP) * LOG_P_STEP);
    }
}

/* KL(exact || answer) over the listed tokens and one for all others, which is at most that over the
 * vocabulary. */
static void judge_row(void *arg, uint32_t row, uint32_t worker)
{
    (void)worker;
    const struct row_job *job = arg;
    const uint32_t i = case_of(job, row), n_top = job->tests->n_top;
    const struct sdp_case *c = &job->tests->cases[i];
    const size_t first = (size_t)(row - job->first_row[i]) * n_top;
    const float *logits = logits_of(job, row);
    double most, p_rest = 1, q_rest = 1, kl = 0;
    const double log_sum = log(sum_of(logits, job->answers->width, &most)) + most;
    for (uint32_t k = 0; k < n_top; k++) {
        const double log_p = (double)c->log_p[first + k];
        const double log_q = (double)logits[c->top[first + k]] - log_sum;
        kl += exp(log_p) * (log_p - log_q);
        p_rest -= exp(log_p);
        q_rest -= exp(log_q);
    }
    if (p_rest > LEAST_REST)
        kl += p_rest * (log(p_rest) - log(fmax(q_rest, LEAST_REST)));
    job->kl[row] = fmax(kl, 0);
}

/* ---- judging --------------------------------------------------------------------------------- */

static uint64_t checksum_of(const struct answers *answers, uint32_t index, uint32_t row)
{
    const size_t width = answers->width;
    return checksum64(answers->rows[index] + row * width, width * sizeof(float));
}

static double cosine_of(const float *a, const float *b, size_t n)
{
    double aa = 0, bb = 0, ab = 0;
    for (size_t i = 0; i < n; i++) {
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
        ab += (double)a[i] * (double)b[i];
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : aa == bb;
}

/* The same measure for a few numbers that are no direction: of two vectors that are as far from
 * each other as these, against their length or 1. */
static double nearness_of(const float *a, const float *b, size_t n)
{
    double aa = 0, dd = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = (double)a[i] - (double)b[i];
        aa += (double)a[i] * (double)a[i];
        dd += d * d;
    }
    return 1 - dd / (2 * fmax(aa, 1));
}

static serverd_status judge_encoder(const struct sdp_tests *tests, const struct answers *answers,
                                    bool has_scores, struct self_test_result *out,
                                    serverd_error *err)
{
    for (uint32_t i = 0; i < tests->n_cases; i++) {
        const struct sdp_case *c = &tests->cases[i];
        const double cosine =
            (has_scores ? nearness_of : cosine_of)(c->value, answers->rows[i], c->n_values);
        out->cosine = fmin(out->cosine, cosine);
        if (!(cosine >= tests->cosine_limit))
            return fail(err, SERVERD_NUMERIC,
                        "case %u of %u tokens: the cosine to the exact output is %.6f, at least "
                        "%.6f is needed",
                        i, c->n_tokens, cosine, tests->cosine_limit);
    }
    return SERVERD_OK;
}

static serverd_status judge_decoder(const struct sdp_tests *tests, const struct answers *answers,
                                    struct worker_pool *pool, struct self_test_result *out,
                                    serverd_error *err)
{
    struct row_job job = make_job(tests, answers);
    const uint32_t n_rows = job.first_row[tests->n_cases];
    if (!(job.kl = calloc((size_t)n_rows + 1, sizeof *job.kl)))
        return fail(err, SERVERD_NOMEM, "no memory for a self-test");
    worker_pool_run(pool, n_rows, judge_row, &job);
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < tests->n_cases && status == SERVERD_OK; i++) {
        const struct sdp_case *c = &tests->cases[i];
        const double *kl = job.kl + job.first_row[i];
        double mean = 0;
        uint32_t worst = 0;
        for (uint32_t p = 0; p < c->n_positions; p++) {
            mean += kl[p] / c->n_positions;
            worst = kl[p] > kl[worst] ? p : worst;
        }
        out->kl = fmax(out->kl, mean);
        if (!(mean <= tests->kl_limit))
            status = fail(err, SERVERD_NUMERIC,
                          "case %u of %u tokens: KL to the exact logits is %.4f, at most %.4f is "
                          "allowed; the worst is position %u with %.4f",
                          i, c->n_tokens, mean, tests->kl_limit, c->position[worst], kl[worst]);
    }
    free(job.kl);
    return status;
}

static serverd_status judge(const struct sdp_tests *tests, const struct answers *answers,
                            const struct program_config *config, struct worker_pool *pool,
                            struct self_test_result *out, serverd_error *err)
{
    const bool is_encoder = config->is_encoder;
    *out =
        (struct self_test_result){.n_cases = tests->n_cases, .is_encoder = is_encoder, .cosine = 1};
    return is_encoder ? judge_encoder(tests, answers, config->n_scores > 0, out, err)
                      : judge_decoder(tests, answers, pool, out, err);
}

static serverd_status compare_rows(const struct sdp_case *c, const struct answers *answers,
                                   uint32_t index, serverd_error *err)
{
    for (uint32_t r = 0; r < sdp_case_rows(c); r++) {
        const uint64_t found = checksum_of(answers, index, r);
        if (found != c->checksum[r])
            return fail(err, SERVERD_NUMERIC,
                        "case %u of %u tokens, position %u: the %s has the checksum %016" PRIx64
                        ", it was %016" PRIx64,
                        index, c->n_tokens, c->n_values ? c->n_tokens - 1 : c->position[r],
                        c->n_values ? "output" : "row of logits", found, c->checksum[r]);
    }
    return SERVERD_OK;
}

/* Bits that the file says are the same on every processor. */
static serverd_status compare_bits(const struct sdp_tests *tests, const struct answers *answers,
                                   serverd_error *err)
{
    for (uint32_t i = 0; i < tests->n_cases; i++) {
        const struct sdp_case *c = &tests->cases[i];
        serverd_status status = compare_rows(c, answers, i, err);
        if (status != SERVERD_OK)
            return status;
        for (uint32_t g = 0; g < c->n_greedy; g++)
            if (answers->greedy[i][g] != c->greedy[g])
                return fail(err, SERVERD_NUMERIC,
                            "case %u of %u tokens, position %u: the likeliest token is %d, it was "
                            "%d",
                            i, c->n_tokens, c->n_tokens + g, answers->greedy[i][g], c->greedy[g]);
    }
    return SERVERD_OK;
}

/* ---- making ---------------------------------------------------------------------------------- */

static void put_tests(const struct sdp_tests *tests, struct buffer *out)
{
    const size_t start = out->len;
    const struct sdp_test head = {.n_cases = tests->n_cases,
                                  .n_top = tests->n_top,
                                  .kv_dtype = tests->kv_dtype,
                                  .contract = tests->contract,
                                  .kl_limit = (float)tests->kl_limit,
                                  .cosine_limit = (float)tests->cosine_limit};
    buffer_append(out, &head, sizeof head);
    for (uint32_t i = 0; i < tests->n_cases; i++) {
        const struct sdp_case *c = &tests->cases[i];
        const struct sdp_test_case record = {.n_tokens = c->n_tokens,
                                             .n_greedy = c->n_greedy,
                                             .n_positions = c->n_positions,
                                             .n_values = c->n_values};
        const size_t n_tops = (size_t)c->n_positions * tests->n_top;
        buffer_append(out, &record, sizeof record);
        buffer_append(out, c->checksum, sdp_case_rows(c) * sizeof *c->checksum);
        buffer_append(out, c->token, c->n_tokens * sizeof *c->token);
        buffer_append(out, c->greedy, c->n_greedy * sizeof *c->greedy);
        buffer_append(out, c->position, c->n_positions * sizeof *c->position);
        buffer_append(out, c->top, n_tops * sizeof *c->top);
        buffer_append(out, c->log_p, n_tops * sizeof *c->log_p);
        buffer_append(out, c->value, c->n_values * sizeof *c->value);
        if ((out->len - start) % 8 != 0)
            buffer_append(out, "\0\0\0", 4);
    }
}

static void round_values(float *values, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int exponent;
        const double fraction = frexp((double)values[i], &exponent);
        values[i] = (float)ldexp(nearbyint(ldexp(fraction, VALUE_BITS)), exponent - VALUE_BITS);
    }
}

/* What is exact goes into the cases, as views of *job and `exact`. */
static serverd_status list_exact(struct sdp_tests *tests, struct answers *exact,
                                 struct worker_pool *pool, struct row_job *job, serverd_error *err)
{
    *job = make_job(tests, exact);
    const uint32_t n_rows = job->first_row[tests->n_cases];
    job->top = calloc((size_t)n_rows + 1, ((size_t)tests->n_top + 1) * sizeof *job->top);
    job->log_p = calloc((size_t)n_rows + 1, ((size_t)tests->n_top + 1) * sizeof *job->log_p);
    if (!job->top || !job->log_p)
        return fail(err, SERVERD_NOMEM, "no memory for a self-test");
    worker_pool_run(pool, n_rows, list_row, job);
    for (uint32_t i = 0; i < tests->n_cases; i++) {
        struct sdp_case *c = &tests->cases[i];
        c->top = job->top + (size_t)job->first_row[i] * tests->n_top;
        c->log_p = job->log_p + (size_t)job->first_row[i] * tests->n_top;
        if (c->n_positions == 0) {
            round_values(exact->rows[i], exact->width);
            c->n_values = exact->width;
            c->value = exact->rows[i];
        } else { /* what is listed is enough, and logits are large */
            free(exact->rows[i]);
            exact->rows[i] = NULL;
        }
    }
    return SERVERD_OK;
}

/* What the packed weights gave goes into the cases, as views of `packed` and of the result, to be
 * freed. NULL: no memory. */
static uint64_t *list_packed(struct sdp_tests *tests, const struct answers *packed)
{
    uint32_t n_rows = 0;
    for (uint32_t i = 0; i < tests->n_cases; i++)
        n_rows += sdp_case_rows(&tests->cases[i]);
    uint64_t *checksums = calloc((size_t)n_rows + 1, sizeof *checksums), *next = checksums;
    for (uint32_t i = 0; i < tests->n_cases && checksums; i++) {
        struct sdp_case *c = &tests->cases[i];
        c->checksum = next;
        c->greedy = packed->greedy[i];
        for (uint32_t r = 0; r < sdp_case_rows(c); r++)
            *next++ = checksum_of(packed, i, r);
    }
    return checksums;
}

static serverd_status make(const struct program *source, struct program *program,
                           const struct self_test_options *options, struct sdp_tests *tests,
                           struct buffer *out, serverd_error *err)
{
    struct answers exact = {0}, packed = {0};
    struct row_job job = {0};
    uint64_t *checksums = NULL;
    struct self_test_result result;
    serverd_status status = answer_exactly(source, tests, options->pool, &exact, err);
    if (status == SERVERD_OK)
        status = list_exact(tests, &exact, options->pool, &job, err);
    if (status == SERVERD_OK)
        status = answer_cases(program, tests, options, &packed, err);
    if (status == SERVERD_OK)
        status = judge(tests, &packed, &program->config, options->pool, &result, err);
    if (status == SERVERD_OK && !(checksums = list_packed(tests, &packed)))
        status = fail(err, SERVERD_NOMEM, "no memory for a self-test");
    if (status == SERVERD_OK)
        put_tests(tests, out);
    answers_free(&exact);
    answers_free(&packed);
    free(job.top);
    free(job.log_p);
    free(checksums);
    return status;
}

serverd_status self_test_make(const struct program *source, const struct self_test_options *options,
                              struct buffer *out, serverd_error *err)
{
    struct program *program = NULL;
    struct sdp_tests tests;
    struct case_memory memory = {0};
    serverd_status status = sdp_open(options->path, &program, err);
    if (status == SERVERD_OK)
        status = cases_create(program, &tests, &memory, err);
    if (status == SERVERD_OK)
        status = make(source, program, options, &tests, out, err);
    cases_free(&memory);
    program_unref(program);
    return status == SERVERD_OK ? status : error_context(err, "self-test");
}

/* ---- running --------------------------------------------------------------------------------- */

static serverd_status run(struct program *program, const struct sdp_tests *tests,
                          const struct self_test_options *options, struct self_test_result *out,
                          serverd_error *err)
{
    struct answers answers = {0};
    serverd_status status = answer_cases(program, tests, options, &answers, err);
    if (status == SERVERD_OK)
        status = judge(tests, &answers, &program->config, options->pool, out, err);
    if (status == SERVERD_OK && answers.is_packed && tests->contract == SELF_TEST_CONTRACT)
        status = compare_bits(tests, &answers, err);
    answers_free(&answers);
    return status == SERVERD_OK ? status : error_context(err, "self-test");
}

serverd_status self_test_run(const struct self_test_options *options, struct self_test_result *out,
                             serverd_error *err)
{
    struct program *program = NULL;
    struct sdp_file file = {0};
    struct sdp_tests tests;
    struct self_test_result result = {.n_cases = 0, .cosine = 1};
    serverd_status status = sdp_open(options->path, &program, err);
    if (status == SERVERD_OK)
        status = sdp_file_open(options->path, &file, err);
    if (status == SERVERD_OK)
        status = sdp_tests_read(&file, program, &tests, err);
    if (status == SERVERD_OK && tests.n_cases > 0)
        status = run(program, &tests, options, &result, err);
    if (status == SERVERD_OK)
        *out = result;
    sdp_file_close(&file);
    program_unref(program);
    return status;
}
