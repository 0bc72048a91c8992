#include "scheduler/sequence_internal.h"

#include "base/error.h"
#include "base/numeric.h"
#include "grammar/stop_pattern.h"
#include "scheduler/constraint_internal.h"
#include "serverd/delegate.h"

#include <stdlib.h>

struct sequence *sequence_create(struct job *job, uint32_t choice)
{
    struct sequence *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->job = job;
    s->choice = choice;
    return s;
}

uint32_t sequence_n_room(const struct sequence *s, uint32_t context_size)
{
    const struct request *r = s->job->request;
    uint32_t n_tokens = sequence_n_tokens(s);
    uint32_t in_context = n_tokens < context_size ? context_size - n_tokens : 0;
    uint32_t asked_for = r->max_new_tokens - s->n_output;
    return asked_for < in_context ? asked_for : in_context;
}

static const char *piece_of(const void *user, int32_t token, uint32_t *n)
{
    return tokenizer_piece(user, token, n);
}

serverd_status sequence_prepare(struct sequence *s, const struct sequence_limits *limits,
                                serverd_error *err)
{
    const struct request *r = s->job->request;
    uint32_t n_new = sequence_n_room(s, limits->context_size);
    s->output = calloc(max_size(n_new, 1), sizeof *s->output);
    if (!s->output)
        goto no_memory;
    if (limits->has_pages) {
        size_t n_tokens = (size_t)r->n_prompt + n_new;
        s->page = calloc(n_tokens / SERVERD_PAGE_TOKENS + 1, sizeof *s->page);
        if (!s->page)
            goto no_memory;
    }
    if (r->max_new_tokens == 0)
        return SERVERD_OK;
    struct sampler_setup setup = {
        .params = &r->sampling,
        .choice = s->choice,
        .n_vocab = limits->n_vocab,
        .prompt = r->prompt,
        .n_prompt = r->n_prompt,
        .stop_tokens = r->stop_tokens,
        .n_stop_tokens = r->n_stop_tokens,
        .piece = piece_of,
        .piece_user = limits->tokenizer,
    };
    setup.end_tokens = tokenizer_end_tokens(limits->tokenizer, &setup.n_end_tokens);
    s->sampler = sampler_create(&setup);
    if (!s->sampler)
        goto no_memory;
    if (r->grammar || r->reasoning) {
        s->constraint = constraint_create(limits->constraints, r);
        if (!s->constraint)
            goto no_memory;
    }
    if (r->n_stops > 0) {
        s->matcher = stop_matcher_create(r->stops, r->n_stops);
        if (!s->matcher)
            goto no_memory;
    }
    if (r->n_stop_patterns > 0) {
        s->scanner = stop_scanner_create(r->stop_patterns, r->n_stop_patterns);
        if (!s->scanner)
            goto no_memory;
    }
    return SERVERD_OK;

no_memory:
    return fail(err, SERVERD_NOMEM, "no memory for choice %u of %u prompt tokens", s->choice,
                r->n_prompt);
}

void sequence_destroy(struct sequence *s)
{
    if (!s)
        return;
    free(s->output);
    free(s->page);
    sampler_destroy(s->sampler);
    constraint_destroy(s->constraint);
    stop_matcher_destroy(s->matcher);
    stop_scanner_destroy(s->scanner);
    drafter_destroy(s->drafter);
    free(s);
}

bool sequence_comes_before(const struct sequence *a, const struct sequence *b)
{
    const struct request *ra = a->job->request, *rb = b->job->request;
    if (ra->priority != rb->priority)
        return ra->priority > rb->priority;
    if (ra->id != rb->id)
        return ra->id < rb->id;
    return a->choice < b->choice;
}

static bool is_stop_token(const struct request *r, int32_t token)
{
    for (uint32_t i = 0; i < r->n_stop_tokens; i++)
        if (r->stop_tokens[i] == token)
            return true;
    return false;
}

/* No stop lies in it, nor across it. */
static void skip_text(struct sequence *s, uint32_t len)
{
    if (s->matcher)
        stop_matcher_skip(s->matcher, len);
    if (s->scanner)
        stop_scanner_skip(s->scanner, len);
}

struct stop_match {
    uint32_t index;
    uint64_t begin, end;
};

static bool ends_before(const struct stop_match *a, const struct stop_match *b)
{
    return a->end < b->end || (a->end == b->end && a->begin < b->begin);
}

/* Stop strings and patterns in the token's text; the match that ends first counts. */
static void look_for_stops(struct sequence *s, const char *piece, uint32_t len,
                           struct text_step *step)
{
    const struct request *r = s->job->request;
    struct stop_match string, pattern;
    const bool has_string =
        s->matcher && len > 0 &&
        stop_matcher_push(s->matcher, piece, len, &string.index, &string.begin, &string.end);
    const bool has_pattern = s->scanner && stop_scanner_push(s->scanner, piece, len, &pattern.index,
                                                             &pattern.begin, &pattern.end);
    if (!has_string && !has_pattern) {
        if (s->matcher)
            step->release = stop_matcher_safe(s->matcher);
        if (s->scanner && stop_scanner_safe(s->scanner) < step->release)
            step->release = stop_scanner_safe(s->scanner);
        return;
    }
    const bool is_string = has_string && !(has_pattern && ends_before(&pattern, &string));
    const struct stop_match *match = is_string ? &string : &pattern;
    step->is_stop_string = true;
    step->stop_index = (int32_t)(is_string ? match->index : r->n_stops + match->index);
    step->release = r->includes_stop ? match->end : match->begin;
}

struct text_step sequence_push_text(struct sequence *s, const struct tokenizer *tokenizer,
                                    int32_t token, uint32_t index)
{
    const struct request *r = s->job->request;
    struct text_step step = {.stop_index = -1};
    step.is_end_token = tokenizer_is_end(tokenizer, token);
    step.is_stop_token = step.is_end_token || is_stop_token(r, token);
    if (step.is_stop_token) {
        step.release = s->n_bytes;
        return step;
    }

    uint32_t len = 0;
    const char *piece = tokenizer_piece(tokenizer, token, &len);
    if (r->skips_special && tokenizer_is_control(tokenizer, token))
        len = 0;
    s->n_bytes += len;
    step.release = s->n_bytes;
    if (index < r->sampling.min_tokens || constraint_is_reasoning(s->constraint))
        skip_text(s, len);
    else
        look_for_stops(s, piece, len, &step);
    return step;
}
