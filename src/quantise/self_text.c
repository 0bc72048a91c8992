/* Text that the model makes itself, where no other is at hand: sequences grow side by side, token
 * by token, on the CPU back-end. */
#include "quantise/calibration_internal.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "runtime/runtime.h"

#include <math.h>
#include <stdlib.h>

#define MOST_SEQUENCES 1024u

struct self_text {
    struct runtime *runtime;
    uint32_t n_seqs, n_tokens; /* of each */
    uint32_t n_vocab, pages_per_seq;
    int32_t *token; /* [n_seqs][n_tokens] */
    int32_t *input, *position;
    uint32_t *row, *page_table; /* row: 0, 1, 2, ... */
    float *logits;              /* [n_seqs][n_vocab] */
    uint32_t at;                /* the position that is drawn */
};

static double uniform(uint32_t seq, uint32_t at)
{
    return (double)(hash_mix((uint64_t)seq << 32 | at) >> 11) * 0x1p-53;
}

/* Temperature 1: the token at which the running sum of probabilities passes u. */
static void draw(void *arg, uint32_t seq, uint32_t worker)
{
    (void)worker;
    struct self_text *t = arg;
    const float *logits = t->logits + (size_t)seq * t->n_vocab;
    float most = logits[0];
    for (uint32_t i = 1; i < t->n_vocab; i++)
        most = logits[i] > most ? logits[i] : most;
    double total = 0, passed = 0;
    for (uint32_t i = 0; i < t->n_vocab; i++)
        total += exp((double)(logits[i] - most));
    const double u = uniform(seq, t->at) * total;
    uint32_t chosen = 0;
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        double p = exp((double)(logits[i] - most));
        if (p > 0)
            chosen = i;
        passed += p;
        if (passed > u)
            break;
    }
    t->token[(size_t)seq * t->n_tokens + t->at] = (int32_t)chosen;
}

/* The beginning of a text, or any token of its own in each sequence. */
static int32_t first_token(const struct program *program, uint32_t seq)
{
    const struct vocabulary *v = &program->vocabulary;
    if (v->bos >= 0 && v->adds_bos)
        return v->bos;
    return (int32_t)(hash_mix(seq) % program->config.n_vocab);
}

static serverd_status step(struct self_text *t, serverd_error *err)
{
    const serverd_batch batch = {.struct_bytes = sizeof batch,
                                 .n_rows = t->n_seqs,
                                 .n_seqs = t->n_seqs,
                                 .n_logit_rows = t->n_seqs,
                                 .token = t->input,
                                 .position = t->position,
                                 .row_seq = t->row,
                                 .page_table = t->page_table,
                                 .max_pages = t->pages_per_seq,
                                 .logit_row = t->row,
                                 .step = t->at};
    for (uint32_t s = 0; s < t->n_seqs; s++) {
        t->input[s] = t->token[(size_t)s * t->n_tokens + t->at - 1];
        t->position[s] = (int32_t)t->at - 1;
    }
    return runtime_execute(t->runtime, &batch, t->logits, err);
}

static serverd_status open_runtime(struct self_text *t, struct program *program,
                                   struct worker_pool *pool, serverd_error *err)
{
    const struct runtime_options options = {.delegates = builtin_delegates,
                                            .n_delegates = n_builtin_delegates,
                                            .device = "cpu",
                                            .pool = pool,
                                            .clock = &system_clock,
                                            .limits = {.struct_bytes = sizeof options.limits,
                                                       .max_rows = t->n_seqs,
                                                       .max_logit_rows = t->n_seqs,
                                                       .max_seqs = t->n_seqs,
                                                       .max_context = t->n_tokens},
                                            .kv_dtype = DTYPE_F32};
    serverd_status status = runtime_open(program, &options, &t->runtime, err);
    if (status == SERVERD_OK && runtime_n_pages(t->runtime) < t->n_seqs * t->pages_per_seq)
        status = fail(err, SERVERD_NOMEM, "no memory for %u sequences of %u tokens", t->n_seqs,
                      t->n_tokens);
    return status;
}

static serverd_status take_memory(struct self_text *t, const struct program *program,
                                  serverd_error *err)
{
    const size_t n = t->n_seqs;
    t->n_vocab = program->config.n_vocab;
    t->pages_per_seq = (t->n_tokens + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS;
    t->token = calloc(n * t->n_tokens, sizeof *t->token);
    t->input = calloc(n, sizeof *t->input);
    t->position = calloc(n, sizeof *t->position);
    t->row = calloc(n, sizeof *t->row);
    t->page_table = calloc(n * t->pages_per_seq, sizeof *t->page_table);
    t->logits = calloc(n * t->n_vocab, sizeof *t->logits);
    if (!t->token || !t->input || !t->position || !t->row || !t->page_table || !t->logits)
        return fail(err, SERVERD_NOMEM, "no memory for %zu sequences", n);
    for (uint32_t s = 0; s < n; s++) {
        t->row[s] = s;
        t->token[(size_t)s * t->n_tokens] = first_token(program, s);
    }
    for (uint32_t p = 0; p < n * t->pages_per_seq; p++)
        t->page_table[p] = p;
    return SERVERD_OK;
}

serverd_status add_self_text(struct program *program, struct worker_pool *pool,
                             struct calibration_builder *builder, serverd_error *err)
{
    const struct calibration_options *options = builder->options;
    struct self_text t = {.n_tokens = options->sequence_tokens};
    if (program->config.is_encoder)
        return fail(err, SERVERD_INVALID, "an encoder makes no text to calibrate on: name a file");
    /* one in five is held out */
    const uint32_t held_out = (options->n_held_out_tokens + t.n_tokens - 1) / t.n_tokens;
    t.n_seqs =
        (uint32_t)max_size(held_out * 5, options->n_sequences + options->n_sequences / 4 + 1);
    t.n_seqs = (uint32_t)min_size(t.n_seqs, MOST_SEQUENCES);
    serverd_status status = take_memory(&t, program, err);
    if (status == SERVERD_OK)
        status = open_runtime(&t, program, pool, err);
    for (t.at = 1; t.at < t.n_tokens && status == SERVERD_OK; t.at++) {
        status = step(&t, err);
        if (status == SERVERD_OK)
            worker_pool_run(pool, t.n_seqs, draw, &t);
    }
    for (uint32_t s = 0; s < t.n_seqs && status == SERVERD_OK; s++)
        status = calibration_add(builder, t.token + (size_t)s * t.n_tokens, t.n_tokens, err);
    runtime_close(t.runtime);
    free(t.token);
    free(t.input);
    free(t.position);
    free(t.row);
    free(t.page_table);
    free(t.logits);
    return status == SERVERD_OK ? status : error_context(err, "text of the model's own");
}
