#include "frontend_dsl/operation_internal.h"

#include "base/error.h"
#include "base/numeric.h"
#include "frontend_dsl/run_internal.h"
#include "grammar/grammar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const dsl_op_names[DSL_N_OPS] = {"gen", "select", "score", "fork"};
_Static_assert((int)DSL_N_OPS == (int)N_OP_KINDS, "a name for each kind");

static void finish(struct dsl_op *op);

/* ---- life ------------------------------------------------------------------------------------ */

static void link_op(struct dsl_run *run, struct dsl_op *op)
{
    op->link = run->last_op;
    *run->last_op = op;
    run->last_op = &op->next;
}

static void unlink_op(struct dsl_op *op)
{
    *op->link = op->next;
    if (op->next)
        op->next->link = op->link;
    else
        op->run->last_op = op->link;
}

static void deinit_choice(struct op_choice *choice)
{
    for (uint32_t i = 0; i < choice->n; i++)
        free(choice->token[i].logprobs);
    free(choice->token);
    detokenizer_deinit(&choice->detokenizer);
    buffer_deinit(&choice->text);
}

static void deinit_request(struct op_request *r)
{
    request_destroy(r->request);
    free(r->end.message);
    free(r->next);
    free(r->score);
}

/* What an operation would have made is not there; who waits for it computes it. */
static void drop_prefixes(struct dsl_op *op)
{
    for (uint32_t i = 0; op->becomes && i < op->n_requests; i++) {
        if (op->becomes[i])
            op->becomes[i]->is_pending = false;
        prefix_unref(op->becomes[i]);
    }
}

void op_destroy(struct dsl_op *op)
{
    if (!op)
        return;
    unlink_op(op);
    if (op->task && op->task->op == op)
        op->task->op = NULL;
    if (op->state && op->state->op == op)
        op->state->op = NULL;
    op->run->n_reserved -= op->n_reserved;
    drop_prefixes(op);
    free(op->becomes);
    for (uint32_t i = 0; op->requests && i < op->n_requests; i++)
        deinit_request(&op->requests[i]);
    free(op->requests);
    for (uint32_t i = 0; i < op->n_choices; i++)
        deinit_choice(&op->choices[i]);
    free(op->choices);
    trace_deinit(&op->row);
    free(op->name);
    grammar_unref(op->grammar);
    prefix_unref(op->behind);
    state_unref(op->state);
    free(op);
}

void op_forget_last(lua_State *L)
{
    const struct dsl_task *task = run_of(L)->current;
    if (task)
        op_destroy(task->op);
}

struct dsl_op *op_create(lua_State *L, struct dsl_state *state, enum dsl_op_kind kind,
                         uint32_t n_requests)
{
    struct dsl_task *task = task_of(L);
    op_forget_last(L);
    struct dsl_op *op = calloc(1, sizeof *op);
    if (!op)
        raise_memory(L);
    *op = (struct dsl_op){.run = state->run,
                          .kind = kind,
                          .task = task,
                          .state = state_ref(state),
                          .n_base = state->n_base,
                          .n_ahead = min_u32(state->n_ahead, state->tokens.n),
                          .behind = prefix_ref(state->prefix),
                          .n_requests = n_requests};
    link_op(state->run, op);
    task->op = op;
    op->requests = calloc(n_requests, sizeof *op->requests);
    op->becomes = calloc(n_requests, sizeof *op->becomes);
    if (!op->requests || !op->becomes)
        raise_memory(L);
    for (uint32_t i = 0; i < n_requests; i++)
        op->requests[i].op = op;
    return op;
}

struct request *op_request(lua_State *L, struct dsl_op *op, uint32_t i, uint32_t n_state,
                           const int32_t *more, uint32_t n_more, bool makes_prefix)
{
    const struct dsl_run_setup *setup = &op->run->setup;
    struct request *r = request_create();
    op->requests[i].request = r;
    int32_t *prompt = r ? arena_array(r->arena, (size_t)n_state + n_more, sizeof *prompt) : NULL;
    op->becomes[i] = makes_prefix ? prefix_create(op->run) : NULL;
    if (!prompt || (makes_prefix && !op->becomes[i]))
        raise_memory(L);
    if (n_state > 0)
        memcpy(prompt, op->state->tokens.id, n_state * sizeof *prompt);
    if (n_more > 0)
        memcpy(prompt + n_state, more, n_more * sizeof *prompt);
    sandbox_charge(L, (n_state + n_more) / 64);
    r->user = op;
    r->user_index = i;
    r->owner = OWNER_PROGRAM;
    r->prompt = prompt;
    r->n_prompt = op->requests[i].n_prompt = n_state + n_more;
    r->priority = setup->priority;
    r->tenant = setup->tenant;
    r->weight = setup->weight;
    r->cache_space = setup->cache_space;
    r->adapter = setup->adapter;
    r->hold_ns = makes_prefix ? UINT64_MAX : 0;
    r->hold_rank = setup->rank;
    return r;
}

void op_add_choices(lua_State *L, struct dsl_op *op, uint32_t n)
{
    op->choices = calloc(n, sizeof *op->choices);
    if (!op->choices)
        raise_memory(L);
    op->n_choices = n;
    for (uint32_t i = 0; i < n; i++) {
        struct op_choice *choice = &op->choices[i];
        choice->stop_index = choice->stop_token = -1;
        detokenizer_init(&choice->detokenizer, op->run->setup.model.tokenizer, true);
        buffer_init(&choice->text, LIMIT_PENDING_TEXT);
    }
}

void op_queue(struct dsl_op *op)
{
    op->is_queued = true;
    op->run->has_queued = true;
    op->n_open = op->n_requests;
    if (op->kind != OP_FORK)
        op->state->op = op;
}

/* Those that the engine has are cancelled, the others will never be. */
static void cancel_requests(struct dsl_op *op)
{
    op->is_queued = false;
    for (uint32_t i = 0; i < op->n_requests; i++) {
        struct op_request *r = &op->requests[i];
        if (r->is_submitted && !r->has_ended)
            engine_cancel(op->run->setup.model.engine, r->id);
        if (r->request) {
            request_destroy(r->request);
            r->request = NULL;
            op->n_open--;
        }
    }
}

void op_cancel(struct dsl_op *op)
{
    op->status = SERVERD_BUSY;
    op->code = "released";
    (void)snprintf(op->message, sizeof op->message, "the state was cancelled");
    cancel_requests(op);
    if (op->n_open == 0 && !op->is_done)
        finish(op);
}

void op_abandon(struct dsl_op *op)
{
    if (op->task && op->task->op == op)
        op->task->op = NULL;
    op->task = NULL;
    if (op->state->op == op)
        op->state->op = NULL;
    op->is_unwanted = true;
    if (!op->is_submitted || op->is_done) {
        op_destroy(op);
        return;
    }
    cancel_requests(op);
    if (op->n_open == 0)
        finish(op);
}

/* ---- to the engine --------------------------------------------------------------------------- */

static void finish(struct dsl_op *op)
{
    struct dsl_run *run = op->run;
    op->is_done = true;
    op->is_queued = false;
    if (op->is_submitted)
        run->n_outstanding--;
    op->row.end_ns = clock_now_ns(run->setup.clock);
    run->n_reserved -= op->n_reserved;
    op->n_reserved = 0;
    if (op->task && !op->is_unwanted) {
        const uint64_t end_ns = op->requests[op->n_requests - 1].end.times.end_ns;
        op->task->idle_since_ns = end_ns ? end_ns : op->row.end_ns;
        task_ready(op->task);
        return;
    }
    if (op->kind == OP_FORK && op->status == SERVERD_OK && !op->is_unwanted) {
        op_count(op, 0, 0);
        trace_end(op);
    }
    op_destroy(op);
}

static bool may_go(const struct dsl_op *op)
{
    return op->is_queued && (!op->behind || !op->behind->is_pending);
}

static void count_gap(struct dsl_run *run, struct dsl_task *task, uint64_t now_ns)
{
    const uint32_t cap = sizeof run->gaps / sizeof *run->gaps;
    if (task && task->idle_since_ns && run->n_gaps < cap)
        run->gaps[run->n_gaps++] = now_ns - task->idle_since_ns;
    if (task)
        task->idle_since_ns = 0;
}

static void mark_submitted(struct op_request *r, uint64_t id)
{
    struct dsl_op *op = r->op;
    r->id = id;
    r->request = NULL;
    r->is_submitted = true;
    if (op->is_submitted)
        return;
    op->is_submitted = true;
    op->run->n_outstanding++;
    op->run->n_ops[op->kind]++;
    count_gap(op->run, op->task, clock_now_ns(op->run->setup.clock));
}

/* One that the engine takes at no time. */
static void refuse(struct dsl_op *op, const serverd_error *err)
{
    op->status = err->code;
    (void)snprintf(op->message, sizeof op->message, "%s", err->text);
    cancel_requests(op);
    if (op->n_open == 0)
        finish(op);
}

/* What of operations is to be submitted, in a row. */
struct submission {
    struct op_request **of; /* [n] */
    struct request **request;
    uint64_t *id;
    uint32_t n;
};

static void add_requests(struct submission *all, struct dsl_op *op, uint64_t now_ns)
{
    for (uint32_t i = 0; i < op->n_requests; i++) {
        struct op_request *r = &op->requests[i];
        if (!r->request)
            continue;
        r->request->arrival_ns = now_ns;
        r->request->behind = op->behind && !r->is_apart ? op->behind->handle : 0;
        all->of[all->n] = r;
        all->request[all->n++] = r->request;
    }
}

/* Those from `at` on, n of them, at once. */
static serverd_status submit(struct dsl_run *run, const struct submission *all, uint32_t at,
                             uint32_t n, serverd_error *err)
{
    const serverd_status status =
        engine_submit_all(run->setup.model.engine, all->request + at, n, all->id + at, err);
    for (uint32_t i = at; status == SERVERD_OK && i < at + n; i++)
        mark_submitted(all->of[i], all->id[i]);
    return status;
}

static void try_later(struct dsl_run *run)
{
    const struct dsl_model *model = &run->setup.model;
    const uint64_t wait_ns = engine_retry_after_ms(model->engine) * UINT64_C(1000000);
    run->has_queued = true;
    run->retry_ns = clock_now_ns(run->setup.clock) + wait_ns;
}

/* Together they were refused: one operation after the other, so that only those fail that must;
 * and what a full queue has no room for, request by request, as there will be. */
static void submit_each(struct dsl_run *run, const struct submission *all)
{
    serverd_error err;
    for (uint32_t at = 0, n; at < all->n; at += n) {
        struct dsl_op *op = all->of[at]->op;
        for (n = 1; at + n < all->n && all->of[at + n]->op == op;)
            n++;
        serverd_status status = submit(run, all, at, n, &err);
        for (uint32_t i = 0; i < n && status == SERVERD_BUSY && n > 1; i++)
            if (submit(run, all, at + i, 1, &err))
                break;
        if (status == SERVERD_BUSY)
            try_later(run);
        else if (status)
            refuse(op, &err);
    }
}

static bool is_complete(const struct dsl_op *op)
{
    for (uint32_t i = 0; i < op->n_requests; i++)
        if (op->requests[i].request)
            return false;
    return true;
}

void ops_submit(struct dsl_run *run)
{
    uint32_t n = 0;
    serverd_error err;
    const uint64_t now_ns = clock_now_ns(run->setup.clock);
    run->has_queued = false;
    run->retry_ns = 0;
    for (const struct dsl_op *op = run->ops; op; op = op->next) {
        n += may_go(op) ? op->n_requests : 0;
        run->has_queued |= op->is_queued && !may_go(op);
    }
    if (n == 0)
        return;
    struct submission all = {calloc(n, sizeof(struct op_request *)),
                             calloc(n, sizeof(struct request *)), calloc(n, sizeof(uint64_t)), 0};
    if (all.of && all.request && all.id) {
        for (struct dsl_op *op = run->ops; op; op = op->next)
            if (may_go(op))
                add_requests(&all, op, now_ns);
        if (submit(run, &all, 0, all.n, &err))
            submit_each(run, &all);
        for (struct dsl_op *op = run->ops; op; op = op->next)
            op->is_queued = op->is_queued && !is_complete(op);
    } else {
        try_later(run);
    }
    free(all.of);
    free(all.request);
    free(all.id);
}

bool ops_may_go(const struct dsl_run *run)
{
    for (const struct dsl_op *op = run->ops; op; op = op->next)
        if (may_go(op))
            return run->retry_ns == 0;
    return false;
}

/* ---- from the engine ------------------------------------------------------------------------- */

static bool add_token(struct op_choice *choice, struct event *event)
{
    if (choice->n == choice->cap) {
        const uint32_t cap = (uint32_t)max_size(32, (size_t)choice->cap * 2);
        struct op_token *bigger = realloc(choice->token, cap * sizeof *bigger);
        if (!bigger)
            return false;
        choice->token = bigger;
        choice->cap = cap;
    }
    choice->token[choice->n++] =
        (struct op_token){event->token, event->is_hidden, event->is_forced, event->logprobs};
    event->logprobs = NULL;
    return true;
}

static bool add_score(struct op_request *r, float logprob)
{
    if (r->n_scores == r->scores_cap) {
        const uint32_t cap = (uint32_t)max_size(32, (size_t)r->scores_cap * 2);
        float *bigger = realloc(r->score, cap * sizeof *bigger);
        if (!bigger)
            return false;
        r->score = bigger;
        r->scores_cap = cap;
    }
    r->score[r->n_scores++] = logprob;
    return true;
}

/* Of the tokens since the last delta, if they were asked for; NULL: they were not. */
static json_t *take_logprobs(struct dsl_op *op)
{
    const struct op_choice *choice = &op->choices[0];
    json_t *list = choice->n > 0 && choice->token[0].logprobs ? json_array() : NULL;
    for (; list && op->n_tokens_streamed < choice->n; op->n_tokens_streamed++) {
        const struct logprobs *l = choice->token[op->n_tokens_streamed].logprobs;
        (void)json_array_append_new(list, json_real(l ? (double)l->chosen.logprob : 0));
    }
    return list;
}

/* Text of the first choice that is new goes out. */
static void stream(struct dsl_op *op)
{
    const struct op_choice *choice = &op->choices[0];
    const size_t n = choice->text.len - op->n_streamed;
    if (!op->name || op->is_unwanted || n == 0 || choice->text.is_failed)
        return;
    const char *delta = choice->text.data + op->n_streamed;
    json_t *logprobs = take_logprobs(op);
    op->n_streamed = choice->text.len;
    run_emit(op->run, "var.delta", op->state->branch.path, "{s:s, s:s%, s:O*}", "name", op->name,
             "delta", delta, n, "logprobs", logprobs);
    json_decref(logprobs);
}

static bool on_token(struct dsl_op *op, struct event *event)
{
    if (event->choice >= op->n_choices)
        return true;
    struct op_choice *choice = &op->choices[event->choice];
    if (!event->is_hidden)
        detokenizer_push(&choice->detokenizer, event->token);
    detokenizer_take(&choice->detokenizer, event->release, &choice->text);
    choice->release = event->release;
    if (!add_token(choice, event))
        return false;
    if (event->choice == 0)
        stream(op);
    return true;
}

static void on_finish(struct dsl_op *op, const struct event *event)
{
    if (event->choice >= op->n_choices)
        return;
    struct op_choice *choice = &op->choices[event->choice];
    choice->is_finished = true;
    choice->finish = event->finish;
    choice->is_end_token = event->is_end_token;
    choice->release = event->release;
    choice->stop_token = event->stop_token;
    choice->stop_index = event->stop_index;
    detokenizer_finish(&choice->detokenizer, event->release, &choice->text);
    if (event->choice == 0)
        stream(op);
}

void op_on_event(struct dsl_op *op, struct event *event)
{
    bool is_good = true;
    struct op_request *r = &op->requests[event->user_index];
    switch (event->kind) {
    case EVENT_TOKEN:
        is_good = on_token(op, event);
        break;
    case EVENT_FINISH:
        on_finish(op, event);
        break;
    case EVENT_NEXT_LOGPROBS:
        free(r->next);
        r->next = event->next_logprobs;
        event->next_logprobs = NULL;
        break;
    case EVENT_PROMPT_LOGPROBS:
        is_good = add_score(r, event->logprobs->chosen.logprob);
        break;
    default:
        break;
    }
    if (!is_good && op->status == SERVERD_OK) {
        op->status = SERVERD_NOMEM;
        (void)snprintf(op->message, sizeof op->message, "no memory for the output");
    }
    free(event->logprobs);
    free(event->next_logprobs);
    free(event->embedding);
}

static void settle_prefix(struct dsl_op *op, const struct op_request *r)
{
    const struct event *end = &r->end;
    struct dsl_prefix *prefix = op->becomes[r - op->requests];
    if (!prefix) {
        if (end->prefix_handle)
            engine_release_prefix(op->run->setup.model.engine, end->prefix_handle);
        return;
    }
    prefix->is_pending = false;
    prefix->handle = end->prefix_handle;
    prefix->n_held = end->n_held;
    /* computed, though the engine had no room to keep it */
    if (!prefix->handle && end->status == SERVERD_OK && !end->is_cancelled) {
        const uint32_t n_output = op->n_choices > 0 ? op->choices[0].n : 0;
        prefix->n_held = r->n_prompt + (n_output > 0 ? n_output - 1 : 0);
    }
}

void op_on_end(struct op_request *r)
{
    struct dsl_op *op = r->op;
    r->has_ended = true;
    settle_prefix(op, r);
    if (op->kind == OP_GEN)
        op->run->usage.completion_tokens += r->end.n_output;
    if (r->end.status && op->status == SERVERD_OK) {
        op->status = r->end.status;
        (void)snprintf(op->message, sizeof op->message, "%s",
                       r->end.message ? r->end.message : "the model failed");
    } else if (r->end.is_cancelled && !op->is_unwanted && op->status == SERVERD_OK) {
        op->status = SERVERD_BUSY;
        (void)snprintf(op->message, sizeof op->message, "the operation was cancelled");
    }
    if (--op->n_open == 0)
        finish(op);
}

static void raise_failure(lua_State *L, const struct dsl_op *op)
{
    static const char *const codes[] = {
        [SERVERD_UNSUPPORTED] = "unsupported", [SERVERD_INVALID] = "kv_exhausted",
        [SERVERD_NOMEM] = "kv_exhausted",      [SERVERD_BUSY] = "engine_busy",
        [SERVERD_TIMEOUT] = "engine_busy",
    };
    const bool is_known = op->status < sizeof codes / sizeof *codes && codes[op->status];
    const char *code = op->code ? op->code : is_known ? codes[op->status] : "model_error";
    if (op->status)
        dsl_raise(L, code, "%s", op->message);
}

struct dsl_op *op_end_wait(lua_State *L)
{
    struct dsl_op *op = task_of(L)->op;
    struct dsl_state *state = op->state;
    if (state->op == op)
        state->op = NULL;
    raise_failure(L, op);
    if (state->is_released)
        dsl_raise(L, "released", "the state was released");
    return op;
}

/* ---- counts ---------------------------------------------------------------------------------- */

void op_count(struct dsl_op *op, uint32_t i, uint32_t n_shared)
{
    struct dsl_usage *usage = &op->run->usage;
    struct dsl_trace *row = &op->row;
    const struct event *end = &op->requests[i].end;
    const uint32_t n_prompt = op->requests[i].n_prompt, cached = end->n_cached;
    const bool is_apart = op->requests[i].is_apart;
    const uint32_t n_held = op->behind && !is_apart ? op->behind->n_held : 0;
    const uint32_t expected = min_u32(n_held, n_prompt - 1);
    const uint32_t begin = min_u32(n_shared, cached);
    row->prompt += n_prompt - begin;
    row->reused += cached - begin;
    row->prefill += n_prompt - cached;
    const bool is_first = i == 0 && n_shared == 0 && !is_apart;
    row->appended += n_prompt - (is_first ? max_u32(op->n_base, op->n_ahead) : n_shared);
    if (is_first)
        row->carry = op->n_base - min_u32(n_held, op->n_base);
    /* nothing is new: the last token runs once more for what comes behind it */
    if (row->appended + row->carry == 0)
        row->carry = 1;
    if (row->first_step == 0)
        row->first_step = end->first_step;
    usage->prefill_tokens += n_prompt - cached;
    usage->reused_tokens += cached;
    usage->cached_tokens += cached > expected ? cached - expected : 0;
    usage->reprefilled_tokens += expected > cached ? expected - cached : 0;
}

void trace_begin(lua_State *L, struct dsl_op *op, const char *name)
{
    op->row = (struct dsl_trace){
        .kind = op->kind, .line = sandbox_line(L), .begin_ns = clock_now_ns(op->run->setup.clock)};
    if (!op->run->setup.wants_trace)
        return;
    op->row.branch = strdup(op->state->branch.path);
    op->row.name = name ? strdup(name) : NULL;
    if (!op->row.branch || (name && !op->row.name))
        raise_memory(L);
}

void trace_deinit(struct dsl_trace *row)
{
    free(row->branch);
    free(row->name);
    row->branch = row->name = NULL;
}

void trace_move(struct dsl_op *from, struct dsl_op *to)
{
    trace_deinit(&to->row);
    to->row = from->row;
    from->row = (struct dsl_trace){0};
}

void trace_end(struct dsl_op *op)
{
    struct dsl_run *run = op->run;
    if (!op->row.branch || run->n_trace == LIMIT_DSL_TRACE)
        return;
    if (run->n_trace == run->trace_cap) {
        const uint32_t cap = (uint32_t)max_size(32, (size_t)run->trace_cap * 2);
        struct dsl_trace *bigger = realloc(run->trace, cap * sizeof *bigger);
        if (!bigger)
            return;
        run->trace = bigger;
        run->trace_cap = cap;
    }
    run->trace[run->n_trace++] = op->row;
    op->row.branch = op->row.name = NULL; /* its counts stay to be told */
}
