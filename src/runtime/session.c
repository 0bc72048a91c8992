#include "base/error.h"
#include "base/numeric.h"
#include "runtime/session_internal.h"

#include <string.h>

/* ---- what a call may be ---------------------------------------------------------------------- */

static serverd_status check_session(const serverd_session *session, serverd_error *err)
{
    if (session->error.code == SERVERD_OK)
        return SERVERD_OK;
    *err = session->error;
    return error_context(err, "session %u must be reset", session->index);
}

static serverd_status check_tokens(const serverd_session *session, const int32_t *tokens,
                                   size_t n_tokens, serverd_error *err)
{
    const struct serverd_runtime *owner = session->owner;
    const struct program_config *config = &owner->program->config;
    size_t room = runtime_limits(owner->runtime)->max_context - session->n_tokens;
    if (n_tokens == 0 || n_tokens > room)
        return fail(err, SERVERD_INVALID, "session %u: %zu tokens, there is room for 1..%zu",
                    session->index, n_tokens, room);
    if (config->is_encoder && session->n_tokens > 0)
        return fail(err, SERVERD_INVALID,
                    "session %u: an encoder reads a whole text, and this one has %u tokens",
                    session->index, session->n_tokens);
    for (size_t i = 0; i < n_tokens; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= config->n_vocab)
            return fail(err, SERVERD_INVALID, "session %u: token %zu is %d, 0..%u are allowed",
                        session->index, i, tokens[i], config->n_vocab - 1);
    return SERVERD_OK;
}

/* Everything that can be wrong before anything has happened. */
static serverd_status check_inputs(struct serverd_runtime *owner, const serverd_input *inputs,
                                   uint32_t n_inputs, serverd_error *err)
{
    const serverd_limits *limits = runtime_limits(owner->runtime);
    size_t n_rows = 0;
    if (owner->lost.code != SERVERD_OK) {
        *err = owner->lost;
        return err->code;
    }
    if (n_inputs == 0 || n_inputs > owner->n_sessions)
        return fail(err, SERVERD_INVALID, "step: %u sessions, 1..%u are allowed", n_inputs,
                    owner->n_sessions);
    for (uint32_t i = 0; i < n_inputs; i++) {
        const serverd_session *session = inputs[i].session;
        if (session->owner != owner || !session->is_taken)
            return fail(err, SERVERD_INVALID, "step: input %u is no session of this runtime", i);
        for (uint32_t k = 0; k < i; k++)
            if (inputs[k].session == session)
                return fail(err, SERVERD_INVALID, "step: session %u comes twice", session->index);
        serverd_status status = check_session(session, err);
        if (status == SERVERD_OK)
            status = check_tokens(session, inputs[i].tokens, inputs[i].n_tokens, err);
        if (status != SERVERD_OK)
            return status;
        n_rows += inputs[i].n_tokens;
    }
    if (n_rows > limits->max_rows)
        return fail(err, SERVERD_INVALID, "step: %zu tokens, at most %u are allowed", n_rows,
                    limits->max_rows);
    return SERVERD_OK;
}

/* ---- a step ---------------------------------------------------------------------------------- */

/* One session's rows, its part of the page table, and the pages that it enters, which must not
 * have what an earlier text left there. */
static void add_rows(struct serverd_runtime *owner, const serverd_input *input,
                     serverd_batch *batch, uint32_t *n_zeroed)
{
    const serverd_session *session = input->session;
    uint32_t seq = batch->n_seqs++, first_page = session->index * owner->n_session_pages;
    for (uint32_t i = 0; i < input->n_tokens; i++) {
        uint32_t row = batch->n_rows++, position = session->n_tokens + i;
        owner->token[row] = input->tokens[i];
        owner->position[row] = (int32_t)position;
        owner->row_seq[row] = seq;
        if (owner->page_table && position % SERVERD_PAGE_TOKENS == 0)
            owner->zeroed[(*n_zeroed)++] =
                (serverd_kv_page){first_page + position / SERVERD_PAGE_TOKENS, SERVERD_NO_PAGE};
    }
    if (!owner->page_table)
        return;
    uint32_t n_pages = (session->n_tokens + input->n_tokens - 1) / SERVERD_PAGE_TOKENS + 1;
    for (uint32_t i = 0; i < n_pages; i++)
        owner->page_table[(size_t)seq * owner->n_session_pages + i] = first_page + i;
}

static serverd_status execute(struct serverd_runtime *owner, const serverd_input *inputs,
                              uint32_t n_inputs, bool wants_logits, serverd_error *err)
{
    serverd_batch batch = {.struct_bytes = sizeof batch,
                           .token = owner->token,
                           .position = owner->position,
                           .row_seq = owner->row_seq,
                           .page_table = owner->page_table,
                           .max_pages = owner->n_session_pages,
                           .logit_row = owner->logit_row,
                           .step = owner->n_steps};
    uint32_t n_zeroed = 0;
    for (uint32_t i = 0; i < n_inputs; i++) {
        add_rows(owner, &inputs[i], &batch, &n_zeroed);
        if (wants_logits && owner->page_table)
            owner->logit_row[batch.n_logit_rows++] = batch.n_rows - 1;
    }
    serverd_status status = SERVERD_OK;
    if (n_zeroed > 0)
        status = runtime_kv_zero(owner->runtime, owner->zeroed, n_zeroed, err);
    return status == SERVERD_OK ? runtime_execute(owner->runtime, &batch, owner->results, err)
                                : status;
}

static bool is_finite(const float *x, uint32_t n)
{
    uint32_t highest = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t magnitude = f32_bits(x[i]) & 0x7fffffffu;
        highest = magnitude > highest ? magnitude : highest;
    }
    return highest < 0x7f800000u;
}

/* The step has been run: the session has its tokens, and its result if that is a number. */
static serverd_status take_result(const serverd_input *input, const float *result,
                                  serverd_error *err)
{
    serverd_session *session = input->session;
    const struct serverd_runtime *owner = session->owner;
    session->n_tokens += input->n_tokens;
    session->in_step = owner->n_steps;
    session->result = result;
    if (!result || is_finite(result, owner->n_results))
        return SERVERD_OK;
    (void)fail(&session->error, SERVERD_NUMERIC, "the result at token %u is not finite",
               session->n_tokens - 1);
    return check_session(session, err);
}

/* The inputs have been checked. */
static serverd_status run(struct serverd_runtime *owner, const serverd_input *inputs,
                          uint32_t n_inputs, bool wants_logits, serverd_error *err)
{
    owner->n_steps++;
    serverd_status status = execute(owner, inputs, n_inputs, wants_logits, err);
    if (status == SERVERD_DEVICE_LOST)
        owner->lost = *err;
    for (uint32_t i = 0; i < n_inputs; i++) {
        if (status != SERVERD_OK)
            inputs[i].session->error = *err;
    }
    if (status != SERVERD_OK)
        return status;
    serverd_error other;
    for (uint32_t i = 0; i < n_inputs; i++) {
        const float *result = wants_logits ? owner->results + (size_t)i * owner->n_results : NULL;
        serverd_status one = take_result(&inputs[i], result, status == SERVERD_OK ? err : &other);
        if (status == SERVERD_OK)
            status = one;
    }
    return status;
}

static serverd_status take_stop(serverd_session *session, serverd_error *err)
{
    /* Relaxed: it says nothing but itself. */
    if (!atomic_exchange_explicit(&session->stops, false, memory_order_relaxed))
        return SERVERD_OK;
    return fail(err, SERVERD_TIMEOUT, "session %u was stopped at token %u", session->index,
                session->n_tokens);
}

serverd_status serverd_runtime_step(serverd_runtime *runtime, const serverd_input *inputs,
                                    uint32_t n_inputs, serverd_error *err)
{
    serverd_status status = check_inputs(runtime, inputs, n_inputs, err);
    for (uint32_t i = 0; i < n_inputs && status == SERVERD_OK; i++)
        status = take_stop(inputs[i].session, err);
    return status == SERVERD_OK ? run(runtime, inputs, n_inputs, true, err) : status;
}

serverd_status serverd_session_prefill(serverd_session *session, const int32_t *tokens,
                                       size_t n_tokens, serverd_error *err)
{
    struct serverd_runtime *owner = session->owner;
    size_t max_rows = runtime_limits(owner->runtime)->max_rows;
    serverd_input input = {session, tokens, (uint32_t)min_size(n_tokens, max_rows)};
    serverd_status status = check_inputs(owner, &input, 1, err); /* of the first step */
    if (status == SERVERD_OK)
        status = check_tokens(session, tokens, n_tokens, err);
    if (status == SERVERD_OK && n_tokens > max_rows && !owner->page_table)
        return fail(err, SERVERD_INVALID, "session %u: %zu tokens, an encoder's step has %zu",
                    session->index, n_tokens, max_rows);
    for (size_t done = 0; done < n_tokens && status == SERVERD_OK; done += input.n_tokens) {
        input.tokens = tokens + done;
        input.n_tokens = (uint32_t)min_size(n_tokens - done, max_rows);
        status = take_stop(session, err);
        if (status == SERVERD_OK)
            status = run(owner, &input, 1, done + input.n_tokens == n_tokens, err);
    }
    return status;
}

serverd_status serverd_session_decode(serverd_session *session, int32_t token, serverd_error *err)
{
    return serverd_session_prefill(session, &token, 1, err);
}

/* ---- results --------------------------------------------------------------------------------- */

const float *serverd_session_logits(const serverd_session *session)
{
    bool is_last = session->in_step > 0 && session->in_step == session->owner->n_steps;
    return is_last && session->error.code == SERVERD_OK ? session->result : NULL;
}

int32_t serverd_session_greedy(const serverd_session *session)
{
    const float *logits = serverd_session_logits(session);
    if (!logits || !session->owner->page_table)
        return -1;
    int32_t best = 0;
    for (uint32_t i = 1; i < session->owner->n_results; i++)
        if (logits[i] > logits[best])
            best = (int32_t)i;
    return best;
}

size_t serverd_session_position(const serverd_session *session)
{
    return session->n_tokens;
}

size_t serverd_session_capacity(const serverd_session *session)
{
    return runtime_limits(session->owner->runtime)->max_context;
}

serverd_status serverd_session_error(const serverd_session *session)
{
    return session->error.code;
}

/* ---- life ------------------------------------------------------------------------------------ */

serverd_status serverd_session_create(serverd_runtime *runtime, serverd_session **out,
                                      serverd_error *err)
{
    for (uint32_t i = 0; i < runtime->n_sessions; i++) {
        serverd_session *session = &runtime->sessions[i];
        if (session->is_taken)
            continue;
        serverd_session_reset(session);
        session->is_taken = true;
        *out = session;
        return SERVERD_OK;
    }
    return fail(err, SERVERD_BUSY, "all %u sessions are taken", runtime->n_sessions);
}

void serverd_session_destroy(serverd_session *session)
{
    if (session)
        session->is_taken = false;
}

serverd_status serverd_session_rollback(serverd_session *session, size_t n_tokens,
                                        serverd_error *err)
{
    serverd_status status = check_session(session, err);
    if (status != SERVERD_OK)
        return status;
    if (n_tokens > session->n_tokens)
        return fail(err, SERVERD_INVALID, "session %u: back to %zu tokens, it has %u",
                    session->index, n_tokens, session->n_tokens);
    if (n_tokens > 0 && !session->owner->page_table)
        return fail(err, SERVERD_INVALID, "session %u: an encoder keeps no tokens to go back to",
                    session->index);
    session->n_tokens = (uint32_t)n_tokens;
    session->in_step = 0;
    return SERVERD_OK;
}

void serverd_session_reset(serverd_session *session)
{
    session->n_tokens = 0;
    session->in_step = 0;
    session->error.code = SERVERD_OK;
    atomic_store_explicit(&session->stops, false, memory_order_relaxed);
}

void serverd_session_stop(serverd_session *session)
{
    atomic_store_explicit(&session->stops, true, memory_order_relaxed);
}
