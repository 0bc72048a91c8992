/* The formulas of select (section 5 of the specification), and the memory for those that do not
 * depend on the state. */
#include "base/hash.h"
#include "base/limits.h"
#include "frontend_dsl/select_internal.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- formulas -------------------------------------------------------------------------------- */

static double sum_of(const struct scored_text *t)
{
    double sum = 0;
    for (uint32_t i = 0; i < t->n_scored; i++)
        sum += (double)t->logprob[i];
    return sum;
}

static double mean_of(const struct scored_text *t)
{
    return t->n_scored > 0 ? sum_of(t) / t->n_scored : 0;
}

/* Of lp - lp behind the begin token; a model without one has no such number of the first token. */
static double mean_gain(const struct scored_text *t, bool has_begin)
{
    const uint32_t first = has_begin || t->n_scored < 2 ? 0 : 1;
    double sum = 0;
    for (uint32_t i = first; i < t->n_scored; i++)
        sum += (double)t->logprob[i] - (double)t->alone[i];
    return t->n_scored > first ? sum / (t->n_scored - first) : 0;
}

/* Position for position the largest stay, until one is left; texts that are over count with their
 * mean. */
static uint32_t greedy_best(const struct select_plan *plan, bool *is_left)
{
    uint32_t n_left = plan->n, longest = 0;
    for (uint32_t i = 0; i < plan->n; i++) {
        is_left[i] = true;
        longest = plan->text[i].n_scored > longest ? plan->text[i].n_scored : longest;
    }
    for (uint32_t p = 0; p < longest && n_left > 1; p++) {
        double most = -INFINITY;
        for (int pass = 0; pass < 2; pass++) {
            for (uint32_t i = 0; i < plan->n; i++) {
                const struct scored_text *t = &plan->text[i];
                const double x = p < t->n_scored ? (double)t->logprob[p] : mean_of(t);
                if (is_left[i] && pass == 0 && x > most)
                    most = x;
                if (is_left[i] && pass == 1 && x < most) {
                    is_left[i] = false;
                    n_left--;
                }
            }
        }
    }
    for (uint32_t i = 0; i < plan->n; i++)
        if (is_left[i])
            return i;
    return 0;
}

static void soften(struct select_plan *plan)
{
    double sum = 0;
    for (uint32_t i = 0; i < plan->n; i++) {
        plan->prob[i] = exp(plan->score[i] - plan->score[plan->best]);
        sum += plan->prob[i];
    }
    for (uint32_t i = 0; i < plan->n; i++)
        plan->prob[i] /= sum;
}

void select_decide(struct select_plan *plan)
{
    bool is_left[LIMIT_NEXT_TOKENS];
    const uint32_t winner = plan->method == SELECT_GREEDY ? greedy_best(plan, is_left) : 0;
    plan->best = 0;
    for (uint32_t i = 0; i < plan->n; i++) {
        const struct scored_text *t = &plan->text[i];
        plan->score[i] = plan->method == SELECT_JOINT           ? sum_of(t)
                         : plan->method == SELECT_UNCONDITIONAL ? mean_gain(t, plan->begin >= 0)
                         : plan->method == SELECT_GREEDY        ? (i == winner ? 1 : 0)
                                                                : mean_of(t);
        if (plan->score[i] > plan->score[plan->best])
            plan->best = i;
    }
    soften(plan);
}

/* ---- the memo -------------------------------------------------------------------------------- */

struct memo_entry {
    uint64_t hash;
    uint32_t n; /* 0: free */
    int32_t *token;
    float *alone;
};

struct score_memo {
    pthread_mutex_t lock;
    struct memo_entry entry[LIMIT_SCORE_MEMO]; /* by hash; a later one takes the place */
};

struct score_memo *score_memo_create(void)
{
    struct score_memo *memo = calloc(1, sizeof *memo);
    if (memo)
        (void)pthread_mutex_init(&memo->lock, NULL);
    return memo;
}

void score_memo_destroy(struct score_memo *memo)
{
    if (!memo)
        return;
    for (uint32_t i = 0; i < LIMIT_SCORE_MEMO; i++) {
        free(memo->entry[i].token);
        free(memo->entry[i].alone);
    }
    (void)pthread_mutex_destroy(&memo->lock);
    free(memo);
}

bool score_memo_find(struct score_memo *memo, const int32_t *token, uint32_t n, float *out)
{
    const uint64_t hash = hash_bytes(token, n * sizeof *token, 0);
    const struct memo_entry *e = &memo->entry[hash % LIMIT_SCORE_MEMO];
    (void)pthread_mutex_lock(&memo->lock);
    const bool is_there =
        n > 0 && e->n == n && e->hash == hash && memcmp(e->token, token, n * sizeof *token) == 0;
    if (is_there)
        memcpy(out, e->alone, n * sizeof *out);
    (void)pthread_mutex_unlock(&memo->lock);
    return is_there;
}

void score_memo_keep(struct score_memo *memo, const int32_t *token, uint32_t n, const float *alone)
{
    const uint64_t hash = hash_bytes(token, n * sizeof *token, 0);
    struct memo_entry *e = &memo->entry[hash % LIMIT_SCORE_MEMO];
    int32_t *tokens = n > 0 ? malloc(n * sizeof *tokens) : NULL;
    float *values = n > 0 ? malloc(n * sizeof *values) : NULL;
    if (!tokens || !values) { /* then it is computed again */
        free(tokens);
        free(values);
        return;
    }
    memcpy(tokens, token, n * sizeof *tokens);
    memcpy(values, alone, n * sizeof *values);
    (void)pthread_mutex_lock(&memo->lock);
    struct memo_entry old = *e;
    *e = (struct memo_entry){hash, n, tokens, values};
    (void)pthread_mutex_unlock(&memo->lock);
    free(old.token);
    free(old.alone);
}
