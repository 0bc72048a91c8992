#include "scheduler/engine_internal.h"

#include <assert.h>
#include <math.h>

#define CHUNK_TILE  16u /* rows that the kernels like to have together */
#define LEAST_CHUNK 8u  /* so that prefill always moves */

/* If no target is set, prefill may take so many times what decode rows alone take, and more if more
 * prompts wait for it than streams go on: a step for few streams is a poor use of the machine. */
#define AUTO_PREFILL 1.5

static void add_slice(struct engine *engine, struct sequence *s, uint32_t n_rows)
{
    engine->slice[engine->n_slices++] = (struct slice){.sequence = s, .n_rows = n_rows};
}

/* As many of the rows as have window pages. */
static void add_prefill(struct engine *engine, struct sequence *s, uint32_t n_rows)
{
    n_rows = windows_take(engine, s, n_rows);
    if (n_rows == 0)
        return; /* it was admitted just now, and others have taken what was left */
    add_slice(engine, s, n_rows);
    engine->work.n_prefill += n_rows;
    engine->work.prefill_context += (double)n_rows * (s->n_computed + n_rows / 2.0);
}

/* Rows of one sequence, at most `budget`; scored rows take logit rows from *n_spare. */
static uint32_t take_rows(const struct sequence *s, uint32_t budget, uint32_t *n_spare)
{
    uint32_t n = min_u32(sequence_n_left(s), budget);
    if (n > 0 && s->job->request->wants_prompt_logprobs) {
        /* every running sequence has one logit row for itself */
        uint32_t first_scored = sequence_next_score(s) - 1;
        uint32_t n_before = first_scored > s->n_computed ? first_scored - s->n_computed : 0;
        n = min_u32(n, n_before + *n_spare + 1);
        *n_spare -= n > n_before + 1 ? n - n_before - 1 : 0;
    }
    return n;
}

/* An encoder's rows see each other, so a sequence runs whole. */
static void plan_encoder(struct engine *engine)
{
    uint32_t n_rows = 0;
    for (uint32_t i = 0; i < engine->n_running; i++) {
        uint32_t n = sequence_n_left(engine->running[i]);
        if (n_rows + n > engine->max_rows)
            break;
        add_slice(engine, engine->running[i], n);
        n_rows += n;
    }
}

/* Rows of prefill for this step behind n_before tokens, beside n_decoding rows of decode, for that
 * many prompts. */
static uint32_t chunk_budget(const struct engine *engine, uint32_t n_decoding, uint32_t n_prompts,
                             uint32_t n_before)
{
    uint32_t most = min_u32(engine->options.prefill_chunk, engine->max_rows - n_decoding);
    double decode = n_decoding > 0 ? cost_of_decode(&engine->cost, n_decoding) : 0;
    if (decode <= 0)
        return most;
    double seconds = (double)engine->options.itl_target_ns * 1e-9 - decode;
    if (engine->options.itl_target_ns == 0)
        seconds = AUTO_PREFILL * decode * fmax(1.0, (double)n_prompts / n_decoding);
    uint32_t n = cost_prefill_rows(&engine->cost, seconds, n_before, most);
    if (n == most)
        return most;
    if (n >= CHUNK_TILE)
        return n / CHUNK_TILE * CHUNK_TILE;
    return min_u32(n < LEAST_CHUNK ? LEAST_CHUNK : n, most);
}

/* What decode rows take alone tells how long prefill may take beside them, and what prefill takes
 * of a step of both. So a step has decode rows alone now and then, and when they have become many
 * more, however many prompts wait. */
#define MOST_MIXED 64u

static bool knows_decode(const struct engine *engine)
{
    return engine->n_mixed < MOST_MIXED && 2 * engine->work.n_decode <= 3 * engine->n_decoded + 1;
}

static void note_decode(struct engine *engine)
{
    engine->n_decoded = engine->work.n_decode;
    engine->n_mixed = 0;
}

/* Its next row is one of decode. The last one of a prompt is not, even if it is the only one, so
 * that requests that come together begin in the same step. */
static bool decodes(const struct sequence *s)
{
    return s->n_output > 0 && sequence_n_left(s) == 1;
}

/* Decode rows first, with guesses behind them if there is nothing else. Then prefill in the order
 * of admission; the first keeps at least half of the chunk, so that short prompts behind a long one
 * get on too. */
static void plan_decoder(struct engine *engine)
{
    uint32_t n_left_others = 0, n_prompts = 0;
    struct sequence *first = NULL;
    for (uint32_t i = 0; i < engine->n_running; i++) {
        struct sequence *s = engine->running[i];
        uint32_t n_left = sequence_n_left(s);
        if (decodes(s)) {
            if (windows_take(engine, s, 1) == 0)
                continue;
            add_slice(engine, s, 1);
            engine->work.n_decode++;
            continue;
        }
        n_prompts++;
        if (!first)
            first = s;
        else
            n_left_others =
                min_u32(n_left_others + min_u32(n_left, engine->max_rows), engine->max_rows);
    }
    if (engine->work.n_decode > 0 && !first && engine_draft(engine) > 0)
        return;
    if (engine->work.n_decode > 0 && (!first || !knows_decode(engine))) {
        note_decode(engine);
        return;
    }
    if (!first)
        return;
    engine->n_mixed += engine->work.n_decode > 0;
    uint32_t budget = chunk_budget(engine, engine->n_slices, n_prompts, first->n_computed);
    uint32_t n_spare = engine->max_logit_rows - engine->n_running;
    uint32_t for_others = min_u32(n_left_others, budget / 2);
    uint32_t n = take_rows(first, budget - for_others, &n_spare);
    add_prefill(engine, first, n);
    budget -= n;
    for (uint32_t i = 0; i < engine->n_running && budget > 0; i++) {
        struct sequence *s = engine->running[i];
        if (s == first || decodes(s))
            continue;
        n = take_rows(s, budget, &n_spare);
        add_prefill(engine, s, n);
        budget -= n;
    }
}

static struct sequence *find_suspect(const struct engine *engine)
{
    for (uint32_t i = 0; i < engine->n_running; i++)
        if (engine->running[i]->n_failures > 0)
            return engine->running[i];
    return NULL;
}

void engine_plan(struct engine *engine)
{
    engine->n_slices = 0;
    engine->work = (struct step_work){0};
    engine->n_rejected_rows = 0;
    engine->draft_seconds = 0;
    struct sequence *suspect = find_suspect(engine);
    if (suspect) {
        uint32_t n_spare = engine->max_logit_rows - engine->n_running;
        uint32_t budget = engine->is_encoder
                              ? engine->max_rows
                              : min_u32(engine->options.prefill_chunk, engine->max_rows);
        uint32_t n = take_rows(suspect, budget, &n_spare);
        add_prefill(engine, suspect, n);
    } else if (engine->is_encoder) {
        plan_encoder(engine);
    } else {
        plan_decoder(engine);
    }
}

bool slice_wants_logits(const struct slice *slice, uint32_t position)
{
    const struct sequence *s = slice->sequence;
    const struct request *r = s->job->request;
    if (position + 1 < r->n_prompt && position + 1 >= sequence_next_score(s))
        return true;
    return (r->max_new_tokens > 0 || r->n_next_tokens > 0) && position + 1 >= sequence_n_tokens(s);
}

static void fill_rows(struct engine *engine, uint32_t index, serverd_batch *batch)
{
    const struct slice *slice = &engine->slice[index];
    const struct sequence *s = slice->sequence;
    uint32_t n_known = slice->n_rows - slice->n_drafts, n_first = s->job->request->n_first_segment;
    for (uint32_t i = 0; i < slice->n_rows; i++) {
        uint32_t row = batch->n_rows++, position = s->n_computed + i;
        engine->token[row] = i < n_known ? sequence_token(s, position) : slice->draft[i - n_known];
        engine->position[row] = (int32_t)position;
        engine->row_seq[row] = index;
        engine->segment[row] = n_first > 0 && position >= n_first;
        if (engine->segment[row])
            batch->segment = engine->segment;
        if (engine->is_encoder || !slice_wants_logits(slice, position))
            continue;
        draws_add(engine, s, position, batch->n_logit_rows);
        engine->logit_row[batch->n_logit_rows++] = row;
    }
    uint32_t *table = engine->page_table + (size_t)index * engine->max_pages;
    uint32_t n_used = engine->is_encoder ? 0 : pages_for(s->n_computed + slice->n_rows);
    assert(n_used <= s->n_pages);
    for (uint32_t i = 0; i < n_used; i++) {
        assert(page_pool_is_live(engine->pool, s->page[i]));
        table[i] = s->page[i].index;
    }
    if (!engine->has_windows)
        return;
    table = engine->window_table + (size_t)index * engine->max_pages;
    assert(n_used <= s->window_end);
    for (uint32_t i = s->window_begin; i < n_used; i++)
        table[i] = page_pool_window(engine->pool, s->page[i]);
}

serverd_batch engine_build(struct engine *engine)
{
    serverd_batch batch = {
        .struct_bytes = sizeof batch,
        .n_seqs = engine->n_slices,
        .token = engine->token,
        .position = engine->position,
        .row_seq = engine->row_seq,
        .page_table = engine->is_encoder ? NULL : engine->page_table,
        .max_pages = engine->is_encoder ? 0 : engine->max_pages,
        .logit_row = engine->logit_row,
        .window_table = engine->window_table,
        .step = atomic_load_explicit(&engine->shared.n_steps, memory_order_relaxed),
    };
    draws_begin(engine);
    for (uint32_t i = 0; i < engine->n_slices; i++) {
        struct job *job = engine->slice[i].sequence->job;
        if (job->first_step == 0)
            job->first_step = batch.step + 1;
        fill_rows(engine, i, &batch);
        engine->adapter_slot[i] = job->adapter_slot;
        engine->adapter_scale[i] = job->adapter_scale;
        if (job->adapter_slot != SERVERD_NO_ADAPTER) {
            batch.adapter_slot = engine->adapter_slot;
            batch.adapter_scale = engine->adapter_scale;
        }
    }
    draws_give(engine, &batch);
    return batch;
}
