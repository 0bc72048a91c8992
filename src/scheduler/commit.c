#include "base/error.h"
#include "scheduler/constraint_internal.h"
#include "scheduler/engine_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- events ------------------------------------------------------------------------------ */

void engine_flush(struct engine *engine)
{
    if (engine->n_events == 0)
        return;
    uint32_t n = engine->n_events;
    engine->n_events = 0;
    engine->options.sink.deliver(engine->options.sink.context, engine->events, n);
}

void engine_event(struct engine *engine, const struct event *event)
{
    if (engine->n_events == engine->events_cap)
        engine_flush(engine); /* more than an ordinary step can have: a second delivery */
    engine->events[engine->n_events++] = *event;
}

static struct event event_of(const struct job *job, enum event_kind kind, uint32_t choice)
{
    return (struct event){
        .kind = kind,
        .choice = choice,
        .request_id = job->request->id,
        .user = job->request->user,
        .user_index = job->request->user_index,
        .owner = job->request->owner,
        .token = -1,
        .stop_token = -1,
        .stop_index = -1,
        .n_cached = job->n_cached,
    };
}

static void measure_end(struct engine *engine, const struct job *job)
{
    struct metrics *metrics = engine->options.metrics;
    const struct request_times *t = &job->times;
    uint32_t n_prompt = job->request->n_prompt;
    if (atomic_load(&job->is_cancelled)) {
        const char *phase = t->admitted_ns ? "running" : "waiting";
        metrics_add_labelled(metrics, METRIC_CANCELLED, &phase, 1);
    }
    if (!t->admitted_ns || job->failure.code)
        return;
    metrics_add(metrics, METRIC_PROMPT_TOKENS, n_prompt);
    metrics_observe(metrics, METRIC_PROMPT_LENGTH, n_prompt);
    metrics_observe(metrics, METRIC_UNCACHED_PROMPT, n_prompt - job->n_cached);
    metrics_observe(metrics, METRIC_E2E, seconds_between(t->arrival_ns, t->end_ns));
    if (!t->first_token_ns)
        return;
    metrics_observe(metrics, METRIC_PREFILL_TIME,
                    seconds_between(t->admitted_ns, t->first_token_ns));
    double decode = seconds_between(t->first_token_ns, t->end_ns);
    metrics_observe(metrics, METRIC_DECODE_TIME, decode);
    uint32_t n_per_choice = job->n_output / job->request->n_choices;
    if (n_per_choice > 1)
        metrics_observe(metrics, METRIC_TPOT, decode / (n_per_choice - 1));
    double mean = atomic_load_explicit(&engine->shared.mean_output, memory_order_relaxed);
    mean += (job->n_output - mean) * (mean > 0 ? 0.1 : 1.0);
    atomic_store_explicit(&engine->shared.mean_output, mean, memory_order_relaxed);
}

void engine_end_event(struct engine *engine, struct job *job)
{
    job->times.end_ns = clock_now_ns(engine->options.clock); /* its last token has been drawn */
    measure_end(engine, job);
    if (engine->trace)
        engine_trace_request(engine, job);
    struct event event = event_of(job, EVENT_END, 0);
    event.status = job->failure.code;
    event.message = job->failure.code ? strdup(job->failure.text) : NULL; /* NULL is legal */
    event.is_cancelled = atomic_load(&job->is_cancelled);
    event.n_prompt = job->request->n_prompt;
    event.n_output = job->n_output;
    event.n_drafts = job->n_drafts;
    event.n_drafts_right = job->n_drafts_right;
    event.first_step = job->first_step;
    event.prefix_handle = job->prefix_handle;
    event.n_held = job->n_held;
    event.times = job->times;
    engine_event(engine, &event);
}

static const char *finish_name(enum finish_reason reason)
{
    return reason == FINISH_STOP ? "stop" : "length";
}

static void finish_event(struct engine *engine, struct job *job, uint32_t choice,
                         enum finish_reason reason, const struct text_step *text, int32_t token)
{
    struct event event = event_of(job, EVENT_FINISH, choice);
    event.finish = reason;
    event.release = text->release;
    event.stop_token = text->is_stop_token ? token : -1;
    event.is_end_token = text->is_end_token;
    event.stop_index = text->stop_index;
    engine_event(engine, &event);
    const char *name = finish_name(reason);
    metrics_add_labelled(engine->options.metrics, METRIC_FINISH, &name, 1);
    if (--job->n_open == 0)
        job_finish(engine, job);
}

void engine_finish_choice(struct engine *engine, struct sequence *s, enum finish_reason reason,
                          const struct text_step *text, int32_t token)
{
    metrics_observe(engine->options.metrics, METRIC_OUTPUT_LENGTH, s->n_output);
    engine_release(engine, s);
    finish_event(engine, s->job, s->choice, reason, text, token);
}

static void no_memory(struct engine *engine, struct job *job, const char *what)
{
    serverd_error err;
    (void)fail(&err, SERVERD_NOMEM, "no memory for %s", what);
    job_fail(engine, job, &err);
}

/* NULL: the job has failed. */
static struct logprobs *allocate_logprobs(struct engine *engine, struct job *job)
{
    struct logprobs *logprobs = calloc(1, sizeof *logprobs);
    if (!logprobs)
        no_memory(engine, job, "log probabilities");
    return logprobs;
}

/* Of the raw logits. NULL: the job has failed. */
static struct logprobs *make_logprobs(struct engine *engine, struct job *job, const float *logits,
                                      int32_t token)
{
    struct logprobs *logprobs = allocate_logprobs(engine, job);
    if (!logprobs)
        return NULL;
    if (logprobs_compute(engine->scratch, logits, token, job->request->n_top_logprobs, logprobs))
        return logprobs;
    serverd_error err;
    (void)fail(&err, SERVERD_NUMERIC, "log probability of token %d: NaN or infinity", token);
    job_fail(engine, job, &err);
    free(logprobs);
    return NULL;
}

/* ---- tokens ------------------------------------------------------------------------------ */

static void measure_token(struct engine *engine, struct sequence *s)
{
    struct metrics *metrics = engine->options.metrics;
    struct job *job = s->job;
    uint64_t now = engine->now_ns;
    metrics_add(metrics, METRIC_GENERATED_TOKENS, 1);
    if (s->n_output > 0)
        metrics_observe(metrics, METRIC_ITL, seconds_between(s->last_token_ns, now));
    s->last_token_ns = now;
    if (job->times.first_token_ns)
        return;
    job->times.first_token_ns = now;
    metrics_observe(metrics, METRIC_TTFT, seconds_between(job->times.arrival_ns, now));
}

/* A token that is none: what was drawn cannot go on. */
enum { TOKEN_ENDS = -1 };

/* The device's token, unless it was not sure or did not know that the filter refuses it. */
static serverd_status draw_token(struct engine *engine, struct sequence *s, const float *logits,
                                 const struct draw_wish *wish, int32_t *token, serverd_error *err)
{
    const struct token_filter *filter = wish->filter;
    const int32_t drawn = draws_token(engine, logits);
    if (drawn >= 0 &&
        (!filter || draws_were_masked(engine, logits) || filter->allows(filter->user, drawn))) {
        *token = drawn;
        return SERVERD_OK;
    }
    const serverd_status status = draws_need_logits(engine, logits, err);
    return status == SERVERD_OK
               ? sampler_draw_as(s->sampler, engine->scratch, logits, s->n_output, wish, token, err)
               : status;
}

/* What has to come is not drawn. processed: NULL if they are not wanted. */
static bool choose_token(struct engine *engine, struct sequence *s, const float *logits,
                         struct logprobs *processed, struct event *event, serverd_error *err)
{
    struct token_filter filter;
    const struct request *r = s->job->request;
    event->token = constraint_forced(s->constraint, engine->options.tokenizer);
    event->is_forced = event->token >= 0;
    if (event->is_forced) {
        if (processed)
            logprobs_of_certain(engine->width, event->token, r->n_top_logprobs, processed);
        return true;
    }
    const bool has_filter = constraint_filter(s->constraint, &filter);
    const bool any_may_come = r->ends_on_illegal && constraint_may_end(s->constraint);
    const bool is_filtered = has_filter && !any_may_come;
    const struct draw_wish wish = {is_filtered ? &filter : NULL, processed, r->n_top_logprobs};
    if (draw_token(engine, s, logits, &wish, &event->token, err))
        return false;
    if (any_may_come && has_filter && !filter.allows(filter.user, event->token))
        event->token = TOKEN_ENDS;
    return true;
}

/* False: the job has failed. The event gets the token and its log probabilities. */
static bool fill_token(struct engine *engine, struct sequence *s, const float *logits,
                       struct event *event)
{
    struct job *job = s->job;
    const struct request *r = job->request;
    struct logprobs *processed = NULL;
    serverd_error err;
    if (r->wants_logprobs && r->logprobs_are_processed) {
        processed = allocate_logprobs(engine, job);
        if (!processed)
            return false;
    }
    if (!choose_token(engine, s, logits, processed, event, &err)) {
        free(processed);
        job_fail(engine, job, &err);
        return false;
    }
    if (event->token == TOKEN_ENDS) {
        free(processed);
        return true;
    }
    event->logprobs = processed;
    if (r->wants_logprobs && !processed)
        event->logprobs = make_logprobs(engine, job, logits, event->token);
    return !r->wants_logprobs || event->logprobs;
}

/* The newest token is out of the time that the request has for its output. */
static bool is_out_of_time(const struct engine *engine, struct sequence *s)
{
    const struct job *job = s->job;
    uint32_t n;
    if (job->request->decode_ns == 0)
        return false;
    const char *piece = tokenizer_piece(engine->options.tokenizer, s->output[s->n_output - 1], &n);
    s->has_line |= n > 0 && memchr(piece, '\n', n) != NULL;
    return s->has_line && engine->now_ns - job->times.first_token_ns >= job->request->decode_ns;
}

/* Draws the sequence's next token, appends it, and finishes the choice if it ends there. */
static void commit_token(struct engine *engine, struct sequence *s, const float *logits)
{
    struct job *job = s->job;
    struct event event = event_of(job, EVENT_TOKEN, s->choice);
    event.index = s->n_output;
    if (!fill_token(engine, s, logits, &event))
        return;
    if (event.token == TOKEN_ENDS) {
        const struct text_step end = {.release = s->n_bytes, .stop_index = -1};
        engine_finish_choice(engine, s, FINISH_STOP, &end, -1);
        return;
    }
    if (!constraint_accept(s->constraint, engine->options.tokenizer, event.token)) {
        serverd_error err;
        (void)fail(&err, SERVERD_INVALID, "grammar: the output went over a bound of the grammar");
        free(event.logprobs);
        job_fail(engine, job, &err);
        return;
    }
    measure_token(engine, s);
    tenant_charge(job, 1);
    sampler_accept(s->sampler, event.token);
    s->output[s->n_output++] = event.token;
    job->n_output++;
    struct text_step text =
        sequence_push_text(s, engine->options.tokenizer, event.token, event.index);
    event.is_hidden = text.is_stop_token;
    event.release = text.release;
    engine_event(engine, &event);

    const bool is_late = is_out_of_time(engine, s);
    if (text.is_stop_token || text.is_stop_string) {
        engine_finish_choice(engine, s, FINISH_STOP, &text, event.token);
    } else if (constraint_is_complete(s->constraint)) {
        text.release = s->n_bytes;
        engine_finish_choice(engine, s, FINISH_STOP, &text,
                             -1); /* an end token would say nothing */
    } else if (is_late || sequence_n_room(s, engine->limits.context_size) == 0) {
        text.release = s->n_bytes; /* nothing can complete a stop string any more */
        engine_finish_choice(engine, s, FINISH_LENGTH, &text, event.token);
    }
}

/* ---- several choices --------------------------------------------------------------------- */

/* Pages with the prompt's keys and values. False: it has to compute the prompt itself. */
static bool copy_prompt(struct engine *engine, const struct sequence *from, struct sequence *to)
{
    serverd_error err;
    uint32_t n_prompt = to->job->request->n_prompt;
    engine_share_prompt(engine, from, to);
    if (!engine_take_pages(engine, to, pages_for(n_prompt), &err) ||
        !windows_fork(engine, to, n_prompt))
        return false;
    for (uint32_t i = to->n_shared; i < to->n_pages; i++) {
        uint32_t n_left = n_prompt - i * SERVERD_PAGE_TOKENS;
        uint32_t n = n_left < SERVERD_PAGE_TOKENS ? n_left : SERVERD_PAGE_TOKENS;
        serverd_kv_page source = engine_kv_page(engine, from->page[i]);
        serverd_kv_page target = engine_kv_page(engine, to->page[i]);
        if (target.window_page == SERVERD_NO_PAGE) /* nobody sees it any more */
            source.window_page = SERVERD_NO_PAGE;
        if (runtime_kv_copy(engine->options.runtime, source, target, n, &err))
            return false;
    }
    to->n_computed = n_prompt;
    return true;
}

/* One more choice of a job whose first one has just computed the prompt. */
static void fork_choice(struct engine *engine, struct sequence *first, uint32_t choice,
                        const float *logits)
{
    struct job *job = first->job;
    struct sequence *s = sequence_create(job, choice);
    if (!s) {
        no_memory(engine, job, "a choice");
        return;
    }
    s->state = SEQUENCE_DONE; /* in no list yet */
    s->n_scored = first->n_scored;
    s->n_known = job->request->n_prompt; /* the first choice has computed it */
    s->sibling = job->sequences;
    job->sequences = s;
    serverd_error err;
    if (sequence_prepare(s, &engine->limits, &err)) {
        job_fail(engine, job, &err);
        return;
    }
    s->state = SEQUENCE_RUNNING; /* so that finishing it does not look for it in the queue */
    commit_token(engine, s, logits);
    if (s->state == SEQUENCE_DONE || job->is_ending) {
        s->state = SEQUENCE_DONE;
        return;
    }
    bool has_place = engine->n_running < engine->max_running;
    if (has_place && copy_prompt(engine, first, s))
        engine->running[engine->n_running++] = s;
    else
        engine_wait(engine, s);
}

static void fork_choices(struct engine *engine, struct sequence *first, const float *logits)
{
    struct job *job = first->job;
    for (uint32_t c = 1; c < job->request->n_choices && !job->is_ending; c++)
        fork_choice(engine, first, c, logits);
}

/* ---- slices ------------------------------------------------------------------------------ */

static void score_prompt(struct engine *engine, struct sequence *s, const float *logits)
{
    struct job *job = s->job;
    struct event event = event_of(job, EVENT_PROMPT_LOGPROBS, 0);
    event.index = sequence_next_score(s);
    event.token = job->request->prompt[event.index];
    event.logprobs = make_logprobs(engine, job, logits, event.token);
    if (!event.logprobs)
        return;
    s->n_scored++;
    engine_event(engine, &event);
}

/* The row of the prompt's last token: what might come behind it. */
static void score_next(struct engine *engine, struct sequence *s, const float *logits)
{
    struct job *job = s->job;
    const struct request *r = job->request;
    struct event event = event_of(job, EVENT_NEXT_LOGPROBS, 0);
    event.next_logprobs = calloc(r->n_next_tokens, sizeof *event.next_logprobs);
    if (!event.next_logprobs) {
        no_memory(engine, job, "log probabilities");
        return;
    }
    if (logprobs_of_tokens(engine->scratch, logits, r->next_tokens, r->n_next_tokens,
                           event.next_logprobs)) {
        engine_event(engine, &event);
        return;
    }
    serverd_error err;
    (void)fail(&err, SERVERD_NUMERIC, "log probabilities of next tokens: NaN or infinity");
    job_fail(engine, job, &err);
    free(event.next_logprobs);
}

static void progress_event(struct engine *engine, const struct sequence *s)
{
    struct event event = event_of(s->job, EVENT_PROGRESS, 0);
    event.index = s->n_computed;
    engine_event(engine, &event);
}

/* Only the prompt was wanted: all choices are complete, and empty. */
static void finish_empty(struct engine *engine, struct sequence *s)
{
    struct job *job = s->job;
    engine_release(engine, s);
    for (uint32_t c = 0; c < job->request->n_choices; c++)
        finish_event(engine, job, c, FINISH_LENGTH, &(struct text_step){.stop_index = -1}, -1);
}

static void count_computed(struct engine *engine, struct sequence *s, uint32_t end)
{
    uint32_t n_prompt = s->job->request->n_prompt, begin = s->n_computed;
    if (begin < s->n_known) {
        uint32_t n = min_u32(end, s->n_known) - begin;
        engine->use.n_recomputed += n;
        metrics_add(engine->options.metrics, METRIC_RECOMPUTED_TOKENS, n);
        begin += n;
    }
    if (begin < min_u32(end, n_prompt)) {
        uint32_t n = min_u32(end, n_prompt) - begin;
        engine->use.n_computed += n;
        metrics_add(engine->options.metrics, METRIC_COMPUTED_TOKENS, n);
    }
    if (end > s->n_known)
        s->n_known = end;
}

/* Rows s->n_computed .. end - 1 have run. */
static void advance(struct engine *engine, struct sequence *s, uint32_t end)
{
    count_computed(engine, s, end);
    s->n_computed = end;
    engine_publish_prefix(engine, s);
    windows_pass(engine, s);
}

/* The rows behind the last token: as long as the guess is the token that was drawn, its row is what
 * a step of its own would have given. */
static void commit_drafts(struct engine *engine, const struct slice *slice, const float *logits)
{
    struct sequence *s = slice->sequence;
    uint32_t n_right = 0;
    while (n_right < slice->n_drafts && s->state == SEQUENCE_RUNNING && !s->job->is_ending &&
           s->output[s->n_output - 1] == slice->draft[n_right]) {
        advance(engine, s, s->n_computed + 1);
        commit_token(engine, s, logits + (size_t)n_right++ * engine->width);
    }
    s->job->n_drafts += slice->n_drafts;
    s->job->n_drafts_right += n_right;
    engine_learn_draft(engine, slice, n_right);
}

/* Returns how many of the logit rows were the slice's. */
static uint32_t commit_slice(struct engine *engine, const struct slice *slice, const float *logits)
{
    struct sequence *s = slice->sequence;
    struct job *job = s->job;
    uint32_t end = s->n_computed + slice->n_rows, n_logit_rows = 0, n_scores = 0;
    for (uint32_t p = s->n_computed; p < end; p++) {
        n_logit_rows += slice_wants_logits(slice, p);
        n_scores += slice_wants_logits(slice, p) && p + 1 < job->request->n_prompt;
    }
    for (uint32_t i = 0; i < n_scores && !job->is_ending; i++)
        score_prompt(engine, s, logits + (size_t)i * engine->width);
    end -= slice->n_drafts;
    advance(engine, s, end);
    if (job->request->wants_progress && s->choice == 0 && s->n_output == 0)
        progress_event(engine, s);
    if (job->is_ending || sequence_n_left(s) > 0)
        return n_logit_rows;

    s->n_failures = 0;
    const float *last = n_logit_rows > 0
                            ? logits + (size_t)(n_logit_rows - slice->n_drafts - 1) * engine->width
                            : NULL; /* nobody asked for any */
    if (job->request->n_next_tokens > 0 && s->choice == 0 && s->n_output == 0)
        score_next(engine, s, last);
    if (job->is_ending)
        return n_logit_rows;
    if (job->request->max_new_tokens == 0) {
        finish_empty(engine, s);
        return n_logit_rows;
    }
    if (s->choice == 0 && s->n_output == 0)
        fork_choices(engine, s, last);
    if (!job->is_ending)
        commit_token(engine, s, last);
    if (slice->n_drafts > 0)
        commit_drafts(engine, slice, last + engine->width);
    return n_logit_rows;
}

static void commit_embedding(struct engine *engine, struct sequence *s, const float *values)
{
    struct job *job = s->job;
    serverd_error err;
    for (uint32_t i = 0; i < engine->width; i++)
        if (!isfinite(values[i])) {
            (void)fail(&err, SERVERD_NUMERIC, "embedding: component %u is not finite", i);
            job_fail(engine, job, &err);
            return;
        }
    struct event event = event_of(job, EVENT_EMBEDDING, 0);
    event.embedding = malloc(engine->width * sizeof *values);
    if (!event.embedding) {
        no_memory(engine, job, "an embedding");
        return;
    }
    memcpy(event.embedding, values, engine->width * sizeof *values);
    engine_event(engine, &event);
    count_computed(engine, s, sequence_n_tokens(s));
    engine_release(engine, s);
    job_finish(engine, job);
}

void engine_commit(struct engine *engine)
{
    const float *out = engine->out;
    for (uint32_t i = 0; i < engine->n_slices; i++) {
        const struct slice *slice = &engine->slice[i];
        uint32_t n_rows = 1;
        if (engine->is_encoder)
            commit_embedding(engine, slice->sequence, out);
        else
            n_rows = commit_slice(engine, slice, out);
        out += (size_t)n_rows * engine->width;
    }
}
