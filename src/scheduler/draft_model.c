#include "scheduler/draft_model.h"

#include "base/error.h"
#include "base/numeric.h"
#include "kvcache/page_pool.h"
#include "sampling/sample.h"
#include "scheduler/draft_model_internal.h"
#include "scheduler/sequence_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ROWS   (DRAFT_CATCH_UP_ROWS + DRAFT_STEADY_ROWS * DRAFT_MAX_SEQUENCES)
#define ROW_WEIGHT 0.25 /* of a step in the mean of its rows' time */

struct draft_context {
    struct sequence *sequence; /* NULL: free */
    struct page_id *page;      /* [max_pages] */
    uint32_t n_pages;
    /* Keys and values are there of the first n_computed tokens of the sequence, and behind these of
     * guesses: as far as they turn out right they are tokens of the sequence. */
    uint32_t n_computed, n_guessed;
    int32_t guess[DRAFT_MAX_ROWS];
};

struct draft_model {
    struct runtime *runtime;
    const struct clock *clock;
    struct page_pool *pool;
    struct sampling_params greedy;
    struct sampler *sampler;
    struct sampling_scratch *scratch;
    uint32_t n_vocab; /* of the engine's model */
    uint32_t width, max_context, max_pages;
    struct row_cost step_cost;
    double row_seconds;
    uint64_t n_steps;
    bool is_broken;
    struct draft_context context[DRAFT_MAX_SEQUENCES];

    /* The batch. */
    serverd_batch batch;
    int32_t token[MAX_ROWS], position[MAX_ROWS];
    uint32_t row_seq[MAX_ROWS], logit_row[DRAFT_MAX_SEQUENCES];
    uint32_t *page_table;        /* [DRAFT_MAX_SEQUENCES][max_pages] */
    serverd_kv_page *page_index; /* [max_pages] */
    struct page_id *pages;
    float *logits; /* [DRAFT_MAX_SEQUENCES][width] */
};

/* ---- which models ---------------------------------------------------------------------------- */

serverd_limits draft_model_limits(uint32_t max_running, uint32_t context_size)
{
    uint32_t n_sequences = max_running < DRAFT_MAX_SEQUENCES ? max_running : DRAFT_MAX_SEQUENCES;
    return (serverd_limits){.struct_bytes = sizeof(serverd_limits),
                            .max_rows = MAX_ROWS,
                            .max_logit_rows = n_sequences,
                            .max_seqs = n_sequences,
                            .max_context = context_size};
}

/* Of tokens from `begin` on. */
static bool are_unused(const struct vocabulary *v, uint32_t begin)
{
    for (uint32_t i = begin; i < v->n_tokens; i++)
        if (vocabulary_type(v, i) != TOKEN_UNUSED)
            return false;
    return true;
}

static bool are_same_texts(const struct vocabulary *a, const struct vocabulary *b, uint32_t id)
{
    uint32_t a_len, b_len;
    const char *a_text = vocabulary_text(a, id, &a_len), *b_text = vocabulary_text(b, id, &b_len);
    return a_len == b_len && memcmp(a_text, b_text, a_len) == 0;
}

static serverd_status check_end(const char *kind, int32_t draft, int32_t model, serverd_error *err)
{
    if (draft == model)
        return SERVERD_OK;
    return fail(err, SERVERD_UNSUPPORTED, "its %s token is %d, the model's is %d", kind, draft,
                model);
}

serverd_status draft_model_check(const struct program *draft, const struct program *model,
                                 serverd_error *err)
{
    if (draft->config.is_encoder || model->config.is_encoder)
        return fail(err, SERVERD_UNSUPPORTED, "%s makes embeddings, there is nothing to guess",
                    draft->config.is_encoder ? "it" : "the model");
    const struct vocabulary *d = &draft->vocabulary, *m = &model->vocabulary;
    uint32_t n = (uint32_t)min_size(d->n_tokens, m->n_tokens);
    if (n == 0 || !are_unused(d, n) || !are_unused(m, n))
        return fail(err, SERVERD_UNSUPPORTED,
                    "its vocabulary has %u tokens, the model's has %u: they have to be the same",
                    d->n_tokens, m->n_tokens);
    for (uint32_t i = 0; i < n; i++)
        if (!are_same_texts(d, m, i))
            return fail(err, SERVERD_UNSUPPORTED,
                        "token %u of its vocabulary is not the model's: they have to be the same",
                        i);
    if (check_end("end-of-text", d->eos, m->eos, err) ||
        check_end("end-of-turn", d->eot, m->eot, err) ||
        check_end("end-of-message", d->eom, m->eom, err))
        return err->code;
    return SERVERD_OK;
}

/* ---- life ------------------------------------------------------------------------------------ */

static bool take_memory(struct draft_model *model)
{
    const struct sampler_setup setup = {.params = &model->greedy, .n_vocab = model->width};
    model->pool = page_pool_create(runtime_n_pages(model->runtime), 0);
    model->sampler = sampler_create(&setup);
    model->scratch = sampling_scratch_create(model->width);
    model->pages = calloc((size_t)DRAFT_MAX_SEQUENCES * model->max_pages, sizeof *model->pages);
    model->page_table =
        calloc((size_t)DRAFT_MAX_SEQUENCES * model->max_pages, sizeof *model->page_table);
    model->page_index = calloc(model->max_pages, sizeof *model->page_index);
    model->logits = calloc((size_t)DRAFT_MAX_SEQUENCES * model->width, sizeof *model->logits);
    return model->pool && model->sampler && model->scratch && model->pages && model->page_table &&
           model->page_index && model->logits;
}

struct draft_model *draft_model_create(struct runtime *runtime, const struct clock *clock,
                                       uint32_t n_vocab)
{
    struct draft_model *model = calloc(1, sizeof *model);
    if (!model)
        return NULL;
    model->runtime = runtime;
    model->clock = clock;
    model->n_vocab = n_vocab;
    model->width = runtime_output_width(runtime);
    model->max_context = runtime_limits(runtime)->max_context;
    model->max_pages = (model->max_context + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS;
    model->greedy = sampling_params_default();
    model->greedy.temperature = 0;
    if (!take_memory(model)) {
        draft_model_destroy(model);
        return NULL;
    }
    for (uint32_t i = 0; i < DRAFT_MAX_SEQUENCES; i++)
        model->context[i].page = model->pages + (size_t)i * model->max_pages;
    return model;
}

void draft_model_destroy(struct draft_model *model)
{
    if (!model)
        return;
    page_pool_destroy(model->pool);
    sampler_destroy(model->sampler);
    sampling_scratch_destroy(model->scratch);
    free(model->pages);
    free(model->page_table);
    free(model->page_index);
    free(model->logits);
    free(model);
}

/* ---- what it has of a sequence --------------------------------------------------------------- */

/* Tokens of the sequence whose keys and values need not be computed. The last token of all has to
 * run in any case, for its logits. */
static uint32_t n_kept(const struct draft_context *context, const struct sequence *s)
{
    uint32_t n = context->n_computed, n_tokens = sequence_n_tokens(s);
    for (uint32_t i = 0; i < context->n_guessed && n < n_tokens; i++, n++)
        if (sequence_token(s, n) != context->guess[i])
            break;
    return n < n_tokens ? n : n_tokens - 1;
}

uint32_t draft_model_n_left(const struct sequence *s)
{
    return sequence_n_tokens(s) - (s->draft_context ? n_kept(s->draft_context, s) : 0);
}

static struct draft_context *find_free(struct draft_model *model)
{
    for (uint32_t i = 0; i < DRAFT_MAX_SEQUENCES; i++)
        if (!model->context[i].sequence)
            return &model->context[i];
    return NULL;
}

/* A prompt may have tokens that only the engine's model knows. */
static bool knows_tokens(const struct draft_model *model, const struct sequence *s, uint32_t begin,
                         uint32_t end)
{
    for (uint32_t i = begin; i < end; i++)
        if ((uint32_t)sequence_token(s, i) >= model->width)
            return false;
    return true;
}

static bool take_pages(struct draft_model *model, struct draft_context *context, uint32_t n_pages)
{
    serverd_error ignored;
    if (n_pages <= context->n_pages)
        return true;
    struct page_id *added = context->page + context->n_pages;
    uint32_t n = n_pages - context->n_pages;
    if (page_pool_take(model->pool, n, added, &ignored))
        return false;
    context->n_pages = n_pages;
    for (uint32_t i = 0; i < n; i++)
        model->page_index[i] = (serverd_kv_page){added[i].index, SERVERD_NO_PAGE};
    return runtime_kv_zero(model->runtime, model->page_index, n, &ignored) == SERVERD_OK;
}

bool draft_model_reserve(struct draft_model *model, struct sequence *s, uint32_t n_rows,
                         uint32_t n_guesses)
{
    if (!s->draft_context) {
        s->draft_context = find_free(model);
        if (!s->draft_context)
            return false;
        s->draft_context->sequence = s;
    }
    struct draft_context *context = s->draft_context;
    context->n_computed = n_kept(context, s);
    context->n_guessed = 0;
    uint32_t begin = context->n_computed, end = begin + n_rows;
    uint32_t n_tokens = end + (n_guesses > 0 ? n_guesses - 1 : 0); /* the last one is not run */
    if (n_tokens <= model->max_context && knows_tokens(model, s, begin, end) &&
        take_pages(model, context, (n_tokens + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS))
        return true;
    draft_model_release(model, s);
    return false;
}

void draft_model_release(struct draft_model *model, struct sequence *s)
{
    struct draft_context *context = s->draft_context;
    if (!context)
        return;
    page_pool_give(model->pool, context->page, context->n_pages);
    *context = (struct draft_context){.page = context->page};
    s->draft_context = NULL;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void begin_batch(struct draft_model *model)
{
    model->batch = (serverd_batch){
        .struct_bytes = sizeof model->batch,
        .token = model->token,
        .position = model->position,
        .row_seq = model->row_seq,
        .logit_row = model->logit_row,
        .page_table = model->page_table,
        .max_pages = model->max_pages,
        .step = ++model->n_steps,
    };
}

static void add_row(struct draft_model *model, int32_t token, uint32_t position)
{
    serverd_batch *batch = &model->batch;
    assert(batch->n_rows < MAX_ROWS);
    model->token[batch->n_rows] = token;
    model->position[batch->n_rows] = (int32_t)position;
    model->row_seq[batch->n_rows++] = batch->n_seqs;
}

/* The rows that were added last are of this context. */
static void end_sequence(struct draft_model *model, const struct draft_context *context,
                         bool wants_logits)
{
    serverd_batch *batch = &model->batch;
    uint32_t *table = model->page_table + (size_t)batch->n_seqs++ * model->max_pages;
    for (uint32_t i = 0; i < context->n_pages; i++)
        table[i] = context->page[i].index;
    if (wants_logits)
        model->logit_row[batch->n_logit_rows++] = batch->n_rows - 1;
}

static void learn(struct draft_model *model, double seconds)
{
    uint32_t n_rows = model->batch.n_rows;
    if (seconds <= 0)
        return;
    if (n_rows <= DRAFT_MAX_ROWS)
        row_cost_learn(&model->step_cost, n_rows, seconds);
    else
        model->row_seconds +=
            (seconds / n_rows - model->row_seconds) * (model->row_seconds > 0 ? ROW_WEIGHT : 1);
}

static serverd_status run(struct draft_model *model, double *seconds, serverd_error *err)
{
    uint64_t begin_ns = clock_now_ns(model->clock);
    serverd_status status = runtime_execute(model->runtime, &model->batch, model->logits, err);
    double took = (double)(clock_now_ns(model->clock) - begin_ns) * 1e-9;
    *seconds += took;
    if (status == SERVERD_OK)
        learn(model, took);
    return status;
}

/* Guess number i of all that want so many. */
static serverd_status draw(struct draft_model *model, const struct draft_work *work, uint32_t n,
                           uint32_t i, serverd_error *err)
{
    const float *logits = model->logits;
    for (uint32_t k = 0; k < n; k++) {
        if (work[k].n_guesses <= i)
            continue;
        int32_t *token = &work[k].out[i];
        if (sampler_draw(model->sampler, model->scratch, logits, i, token, err))
            return err->code;
        if ((uint32_t)*token >= model->n_vocab)
            *token = 0; /* the engine's model has no such token: any other is as good */
        logits += model->width;
    }
    return SERVERD_OK;
}

static void add_tokens(struct draft_model *model, const struct draft_work *work)
{
    struct draft_context *context = work->sequence->draft_context;
    for (uint32_t i = 0; i < work->n_rows; i++, context->n_computed++)
        add_row(model, sequence_token(work->sequence, context->n_computed), context->n_computed);
    end_sequence(model, context, work->n_guesses > 0);
}

/* Guess number i, for the logits of the next one. */
static void add_guess(struct draft_model *model, const struct draft_work *work, uint32_t i)
{
    struct draft_context *context = work->sequence->draft_context;
    context->guess[i] = work->out[i];
    add_row(model, work->out[i], context->n_computed + i);
    context->n_guessed = i + 1;
    end_sequence(model, context, true);
}

static serverd_status guess(struct draft_model *model, const struct draft_work *work, uint32_t n,
                            double *seconds, serverd_error *err)
{
    begin_batch(model);
    for (uint32_t k = 0; k < n; k++)
        add_tokens(model, &work[k]);
    if (run(model, seconds, err) || draw(model, work, n, 0, err))
        return err->code;
    for (uint32_t i = 1; i < DRAFT_MAX_ROWS; i++) {
        begin_batch(model);
        for (uint32_t k = 0; k < n; k++)
            if (work[k].n_guesses > i)
                add_guess(model, &work[k], i - 1);
        if (model->batch.n_rows == 0)
            return SERVERD_OK;
        if (run(model, seconds, err) || draw(model, work, n, i, err))
            return err->code;
    }
    return SERVERD_OK;
}

serverd_status draft_model_guess(struct draft_model *model, const struct draft_work *work,
                                 uint32_t n, double *seconds, serverd_error *err)
{
    *seconds = 0;
    serverd_status status = guess(model, work, n, seconds, err);
    if (status == SERVERD_OK)
        return SERVERD_OK;
    model->is_broken = true;
    for (uint32_t i = 0; i < DRAFT_MAX_SEQUENCES; i++)
        if (model->context[i].sequence)
            draft_model_release(model, model->context[i].sequence);
    return status;
}

/* ---- what is known of it --------------------------------------------------------------------- */

bool draft_model_is_good(const struct draft_model *model)
{
    return !model->is_broken;
}

const struct row_cost *draft_model_step_cost(const struct draft_model *model)
{
    return &model->step_cost;
}

double draft_model_row_seconds(const struct draft_model *model)
{
    return model->row_seconds;
}

serverd_status draft_model_audit(const struct draft_model *model, serverd_error *err)
{
    uint32_t n_pages = 0;
    if (page_pool_check(model->pool, err))
        return err->code;
    for (uint32_t i = 0; i < DRAFT_MAX_SEQUENCES; i++) {
        const struct draft_context *context = &model->context[i];
        n_pages += context->n_pages;
        if (context->sequence && (context->sequence->draft_context != context ||
                                  context->sequence->state != SEQUENCE_RUNNING))
            return fail(err, SERVERD_INTERNAL, "draft context %u: its sequence does not run", i);
        for (uint32_t k = 0; k < context->n_pages; k++)
            if (!page_pool_is_live(model->pool, context->page[k]))
                return fail(err, SERVERD_INTERNAL, "draft context %u: stale page %u", i,
                            context->page[k].index);
    }
    if (n_pages != page_pool_n_private(model->pool))
        return fail(err, SERVERD_INTERNAL, "draft contexts hold %u pages, %u are taken", n_pages,
                    page_pool_n_private(model->pool));
    return SERVERD_OK;
}
