#include "quantise/evaluate.h"

#include "base/error.h"
#include "base/numeric.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_ROWS      96u /* rows that have logits at a time */
#define MAX_BUCKETS    (sizeof((struct divergence_report *)0)->bucket_kl / sizeof(double))
#define BATCH_TOKENS   2048u /* tokens that are in memory at a time, about */
#define ROW_IS_UNKNOWN (-1)

/* What one row's logits came to. */
struct row_result {
    float kl;
    float source_nll, nll; /* negative: there is no next token */
    bool agrees;
};

struct run {
    const struct evaluation *evaluation;
    struct forward *source, *program;
    struct row_result *rows;                                          /* [n_tokens] */
    uint32_t first_row;                                               /* of this batch, among all */
    double *layer_noise, *layer_signal, *layer_product, *layer_other; /* [n_layers] */
    double cosine_sum, cosine_min;
    uint32_t n_cosines;
};

/* ---- layers ---------------------------------------------------------------------------------- */

static void compare_layer(struct run *run, uint32_t layer, uint32_t value)
{
    const float *a = run->source->values[value], *b = run->program->values[value];
    const size_t n = forward_rows(run->source, value) * forward_width(run->source, value);
    double noise = 0, signal = 0, product = 0, other = 0;
    for (size_t i = 0; i < n; i++) {
        const double x = (double)a[i], y = (double)b[i];
        noise += (x - y) * (x - y);
        signal += x * x;
        product += x * y;
        other += y * y;
    }
    run->layer_noise[layer] += noise;
    run->layer_signal[layer] += signal;
    run->layer_product[layer] += product;
    run->layer_other[layer] += other;
}

/* Both up to `node`. */
static serverd_status run_both(struct run *run, uint32_t node, serverd_error *err)
{
    serverd_status status = forward_run_to(run->source, node, err);
    return status == SERVERD_OK ? forward_run_to(run->program, node, err) : status;
}

/* Every node before `end`; behind each layer the residuals are compared. */
static serverd_status run_layers(struct run *run, uint32_t end, serverd_error *err)
{
    const serverd_graph *graph = run->evaluation->source;
    for (uint32_t n = 0; n < end; n++) {
        const serverd_node *node = &graph->nodes[n];
        const bool is_last = n + 1 == graph->n_nodes || graph->nodes[n + 1].layer != node->layer;
        if (node->layer >= run->evaluation->n_layers || !is_last)
            continue;
        serverd_status status = run_both(run, n + 1, err);
        if (status != SERVERD_OK)
            return status;
        compare_layer(run, node->layer, graph->operands[node->first_operand + node->n_inputs]);
    }
    return run_both(run, end, err);
}

/* ---- logits ---------------------------------------------------------------------------------- */

struct logits_job {
    struct run *run;
    const float *p, *q; /* [rows][n_vocab] logits of source and program */
    size_t n_vocab, first_row;
};

static double log_of_sum(const float *logits, size_t n, float *most, size_t *first)
{
    *most = logits[0];
    *first = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > *most) {
            *most = logits[i];
            *first = i;
        }
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)(logits[i] - *most));
    return log(sum) + (double)*most;
}

static void judge_row(void *arg, uint32_t r, uint32_t worker)
{
    (void)worker;
    const struct logits_job *job = arg;
    const size_t n = job->n_vocab, row = job->first_row + r;
    const float *p = job->p + r * n, *q = job->q + r * n;
    const serverd_batch *batch = &job->run->source->batch;
    struct row_result *result = &job->run->rows[job->run->first_row + row];
    float most;
    size_t first_p, first_q;
    const double log_p = log_of_sum(p, n, &most, &first_p);
    const double log_q = log_of_sum(q, n, &most, &first_q);
    double kl = 0;
    for (size_t i = 0; i < n; i++) {
        const double x = (double)p[i] - log_p;
        kl += exp(x) * (x - ((double)q[i] - log_q));
    }
    *result = (struct row_result){.kl = (float)(kl > 0 ? kl : 0),
                                  .source_nll = ROW_IS_UNKNOWN,
                                  .nll = ROW_IS_UNKNOWN,
                                  .agrees = first_p == first_q};
    if (row + 1 < batch->n_rows && batch->row_seq[row + 1] == batch->row_seq[row]) {
        const size_t next = (size_t)batch->token[row + 1];
        result->source_nll = (float)fmax(log_p - (double)p[next], 0);
        result->nll = (float)fmax(log_q - (double)q[next], 0);
    }
}

/* The nodes from the head on, for some rows. `values` is scratch, [n_values]. */
static serverd_status run_head(const struct forward *forward, uint32_t head, size_t first, size_t n,
                               float **values, float *out, serverd_error *err)
{
    const serverd_graph *graph = forward->graph;
    serverd_batch batch = forward->batch;
    batch.n_logit_rows = (uint32_t)n;
    for (uint32_t i = head; i < graph->n_nodes; i++) {
        const serverd_node *node = &graph->nodes[i];
        const uint32_t input = graph->operands[node->first_operand];
        const uint32_t made = graph->operands[node->first_operand + node->n_inputs];
        if (i == head)
            values[input] = forward->values[input] + first * forward_width(forward, input);
        values[made] = out; /* elementwise nodes may work in place */
    }
    const struct reference_step step = {.graph = graph,
                                        .host = &forward->host,
                                        .batch = &batch,
                                        .max_context = forward->max_context,
                                        .values = values};
    serverd_status status = SERVERD_OK;
    for (uint32_t i = head; i < graph->n_nodes && status == SERVERD_OK; i++)
        status = forward_run_node(&step, i, forward->pool, err);
    return status;
}

static serverd_status judge_logits(struct run *run, uint32_t head, serverd_error *err)
{
    const serverd_graph *graph = run->evaluation->source;
    const size_t n_vocab = forward_width(run->source, graph->output);
    const size_t rows = run->source->batch.n_logit_rows;
    float **values = calloc(graph->n_values, sizeof *values);
    float *p = calloc(n_vocab, HEAD_ROWS * sizeof *p), *q = calloc(n_vocab, HEAD_ROWS * sizeof *q);
    serverd_status status = SERVERD_OK;
    if (!values || !p || !q)
        status = fail(err, SERVERD_NOMEM, "no memory for logits of %zu tokens", n_vocab);
    for (size_t r = 0; r < rows && status == SERVERD_OK; r += HEAD_ROWS) {
        const size_t n = min_size(HEAD_ROWS, rows - r);
        if ((status = run_head(run->source, head, r, n, values, p, err)) != SERVERD_OK ||
            (status = run_head(run->program, head, r, n, values, q, err)) != SERVERD_OK)
            break;
        struct logits_job job = {run, p, q, n_vocab, r};
        worker_pool_run(run->evaluation->pool, (uint32_t)n, judge_row, &job);
    }
    free(values);
    free(p);
    free(q);
    return status;
}

/* The first node behind which every value has the rows of logits and one input: the last linear
 * layer. */
static uint32_t find_head(const serverd_graph *graph)
{
    uint32_t head = graph->n_nodes;
    for (uint32_t i = 0; i < graph->n_nodes; i++)
        if (graph->nodes[i].op == SERVERD_OP_LINEAR)
            head = i;
    return head;
}

/* ---- embeddings ------------------------------------------------------------------------------ */

static double probability_of(float score)
{
    return 1 / (1 + exp(-(double)score));
}

/* Scores are few and may be near 0, so that their direction says little: they are as near in
 * probability as vectors of that cosine are. */
static double likeness_of_scores(const float *a, const float *b, size_t n)
{
    double apart = 0;
    for (size_t i = 0; i < n; i++)
        apart = fmax(apart, fabs(probability_of(a[i]) - probability_of(b[i])));
    return 1 - apart * apart / 2;
}

static bool has_scores(const serverd_graph *graph)
{
    return graph->nodes[graph->values[graph->output].producer].op != SERVERD_OP_L2;
}

static void compare_embeddings(struct run *run)
{
    const uint32_t output = run->evaluation->source->output;
    const bool is_score = has_scores(run->evaluation->source);
    const size_t width = forward_width(run->source, output);
    for (size_t s = 0; s < run->source->batch.n_seqs; s++) {
        const float *a = run->source->values[output] + s * width;
        const float *b = run->program->values[output] + s * width;
        double aa = 0, bb = 0, ab = 0;
        for (size_t i = 0; i < width; i++) {
            aa += (double)a[i] * (double)a[i];
            bb += (double)b[i] * (double)b[i];
            ab += (double)a[i] * (double)b[i];
        }
        double cosine = aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
        if (is_score)
            cosine = likeness_of_scores(a, b, width);
        run->cosine_sum += cosine;
        run->cosine_min = run->n_cosines++ == 0 ? cosine : fmin(run->cosine_min, cosine);
    }
}

/* ---- all of it ------------------------------------------------------------------------------- */

static serverd_status run_batch(struct run *run, const struct token_sequences *batch,
                                serverd_error *err)
{
    const struct evaluation *e = run->evaluation;
    const uint32_t head = e->is_encoder ? e->source->n_nodes : find_head(e->source);
    serverd_status status =
        forward_create(e->source, e->max_context, batch, e->pool, &run->source, err);
    if (status == SERVERD_OK)
        status = forward_create(e->program, e->max_context, batch, e->pool, &run->program, err);
    if (status == SERVERD_OK)
        status = run_layers(run, head, err);
    if (status == SERVERD_OK && e->is_encoder)
        compare_embeddings(run);
    else if (status == SERVERD_OK)
        status = judge_logits(run, head, err);
    forward_destroy(run->source);
    forward_destroy(run->program);
    run->source = run->program = NULL;
    return status;
}

/* Sequences first .. first + n - 1 as a set of their own. */
static serverd_status run_some(struct run *run, uint32_t first, uint32_t n, serverd_error *err)
{
    const struct token_sequences *all = run->evaluation->sequences;
    struct token_sequences some = {.token = all->token + all->begin[first], .n = n};
    some.begin = calloc((size_t)n + 1, sizeof *some.begin);
    if (!some.begin)
        return fail(err, SERVERD_NOMEM, "no memory to measure");
    for (uint32_t i = 0; i <= n; i++)
        some.begin[i] = all->begin[first + i] - all->begin[first];
    run->first_row = all->begin[first];
    serverd_status status = run_batch(run, &some, err);
    free(some.begin);
    return status;
}

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static serverd_status find_quantiles(const struct run *run, uint32_t n,
                                     struct divergence_report *out, serverd_error *err)
{
    float *kl = calloc(n, sizeof *kl);
    if (!kl)
        return fail(err, SERVERD_NOMEM, "no memory to measure");
    for (uint32_t i = 0; i < n; i++)
        kl[i] = run->rows[i].kl;
    qsort(kl, n, sizeof *kl, ascending);
    out->p99_kl = (double)kl[(size_t)n * 99 / 100 < n ? (size_t)n * 99 / 100 : n - 1];
    out->max_kl = (double)kl[n - 1];
    free(kl);
    return SERVERD_OK;
}

static void find_means(const struct run *run, uint32_t n, struct divergence_report *out)
{
    double source_nll = 0, nll = 0;
    uint32_t n_next = 0, n_agree = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct row_result *r = &run->rows[i];
        out->mean_kl += (double)r->kl / n;
        n_agree += r->agrees;
        if (r->nll < 0)
            continue;
        source_nll += (double)r->source_nll;
        nll += (double)r->nll;
        n_next++;
    }
    out->n_tokens = n;
    out->top1 = (double)n_agree / n;
    out->source_nll = n_next ? source_nll / n_next : 0;
    out->nll = n_next ? nll / n_next : 0;
}

static void find_buckets(const struct run *run, struct divergence_report *out)
{
    const struct token_sequences *s = run->evaluation->sequences;
    uint32_t longest = 1, count[MAX_BUCKETS] = {0};
    for (uint32_t i = 0; i < s->n; i++)
        longest = (uint32_t)max_size(longest, s->begin[i + 1] - s->begin[i]);
    out->bucket_tokens = (uint32_t)((longest + MAX_BUCKETS - 1) / MAX_BUCKETS);
    out->n_buckets = (longest + out->bucket_tokens - 1) / out->bucket_tokens;
    for (uint32_t i = 0; i < s->n; i++)
        for (uint32_t t = s->begin[i]; t < s->begin[i + 1]; t++) {
            const uint32_t b = (t - s->begin[i]) / out->bucket_tokens;
            out->bucket_kl[b] += (double)run->rows[t].kl;
            count[b]++;
        }
    for (uint32_t b = 0; b < out->n_buckets; b++)
        out->bucket_kl[b] /= count[b] ? count[b] : 1;
}

static serverd_status run_all(struct run *run, struct layer_report *layers,
                              struct divergence_report *out, serverd_error *err)
{
    const struct evaluation *e = run->evaluation;
    serverd_status status = SERVERD_OK;
    for (uint32_t first = 0, n; first < e->sequences->n && status == SERVERD_OK; first += n) {
        for (n = 1; first + n < e->sequences->n &&
                    e->sequences->begin[first + n + 1] - e->sequences->begin[first] <= BATCH_TOKENS;
             n++)
            ;
        status = run_some(run, first, n, err);
    }
    if (status != SERVERD_OK)
        return status;
    for (uint32_t l = 0; l < e->n_layers; l++) {
        const double both = sqrt(run->layer_signal[l] * run->layer_other[l]);
        layers[l].error = run->layer_signal[l] > 0 ? run->layer_noise[l] / run->layer_signal[l] : 0;
        layers[l].cosine = both > 0 ? run->layer_product[l] / both : 1;
    }
    out->is_encoder = e->is_encoder;
    const uint32_t n = sequences_n_tokens(e->sequences);
    if (e->is_encoder) {
        out->n_tokens = n;
        out->mean_cosine = run->n_cosines ? run->cosine_sum / run->n_cosines : 0;
        out->min_cosine = run->cosine_min;
        return SERVERD_OK;
    }
    find_means(run, n, out);
    find_buckets(run, out);
    return find_quantiles(run, n, out, err);
}

serverd_status evaluate(const struct evaluation *evaluation, struct layer_report **layers,
                        struct divergence_report *out, serverd_error *err)
{
    const size_t n = evaluation->n_layers + 1u;
    struct run run = {.evaluation = evaluation,
                      .rows =
                          calloc(sequences_n_tokens(evaluation->sequences) + 1u, sizeof *run.rows)};
    double *sums = calloc(4 * n, sizeof *sums);
    *layers = calloc(n, sizeof **layers);
    *out = (struct divergence_report){.n_tokens = 0};
    serverd_status status = SERVERD_OK;
    if (!run.rows || !sums || !*layers) {
        status = fail(err, SERVERD_NOMEM, "no memory to measure");
    } else {
        run.layer_noise = sums;
        run.layer_signal = sums + n;
        run.layer_product = sums + 2 * n;
        run.layer_other = sums + 3 * n;
        status = run_all(&run, *layers, out, err);
    }
    if (status != SERVERD_OK) {
        free(*layers);
        *layers = NULL;
    }
    free(sums);
    free(run.rows);
    return status;
}
