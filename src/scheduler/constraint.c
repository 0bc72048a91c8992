#include "scheduler/constraint_internal.h"

#include "base/limits.h"
#include "base/numeric.h"
#include "grammar/token_mask.h"
#include "text/reasoning.h"

#include <stdlib.h>
#include <string.h>

#define MASK_CACHE_BYTES (32 * MIB)
#define FORCED_BYTES     256u /* that are looked ahead at once */

struct constraint {
    struct constraint_memory *memory;
    struct matcher *matcher;             /* NULL: no grammar */
    const struct reasoning_marks *marks; /* the model's; NULL: it writes no reasoning */
    struct reasoning_track track;
    uint32_t budget;       /* of reasoning, in tokens */
    uint32_t n_closing;    /* tokens of the mark that closes it, since it was used up */
    bool may_open;         /* nothing was said yet, and a block may come first */
    bool is_reasoning;     /* the last token was of a block, or of its marks */
    struct buffer forced;  /* text that must come */
    struct token_list ids; /* its tokens, of which n_taken have come */
    uint32_t n_taken;
    bool has_looked; /* for such text, since the last token */
};

void constraint_memory_deinit(struct constraint_memory *memory)
{
    mask_cache_destroy(memory->masks);
    free(memory->mask);
    *memory = (struct constraint_memory){0};
}

static bool prepare_memory(struct constraint_memory *memory, const struct token_trie *trie)
{
    if (memory->masks)
        return true;
    memory->trie = trie;
    size_t n_words = max_size(token_mask_words(trie), ((size_t)memory->n_vocab + 63) / 64);
    memory->mask = calloc(n_words, sizeof *memory->mask);
    memory->masks = memory->mask ? mask_cache_create(trie, MASK_CACHE_BYTES) : NULL;
    return memory->masks != NULL;
}

struct constraint *constraint_create(struct constraint_memory *memory,
                                     const struct request *request)
{
    struct constraint *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    buffer_init(&c->forced, FORCED_BYTES + 1);
    token_list_init(&c->ids, FORCED_BYTES);
    c->memory = memory;
    c->marks = request->reasoning;
    c->budget = request->reasoning_budget;
    c->may_open = request->grammar && request->may_reason && c->marks && c->marks->open_token >= 0;
    reasoning_track_begin(&c->track, c->marks && request->is_reasoning_open);
    if (!request->grammar)
        return c;
    if (prepare_memory(memory, request->trie))
        c->matcher = matcher_create(request->grammar);
    if (c->matcher)
        return c;
    constraint_destroy(c);
    return NULL;
}

void constraint_destroy(struct constraint *c)
{
    if (!c)
        return;
    if (c->matcher)
        matcher_destroy(c->matcher);
    buffer_deinit(&c->forced);
    token_list_deinit(&c->ids);
    free(c);
}

static bool allows(void *user, int32_t token)
{
    struct constraint *c = user;
    if (c->may_open && token == c->marks->open_token)
        return true;
    return (uint32_t)token < c->memory->trie->n_tokens &&
           matcher_allows_token(c->matcher, c->memory->trie, (uint32_t)token);
}

static const uint64_t *make_mask(void *user)
{
    struct constraint *c = user;
    matcher_mask(c->matcher, c->memory->masks, c->memory->mask);
    if (c->may_open)
        c->memory->mask[c->marks->open_token / 64] |= UINT64_C(1) << (c->marks->open_token % 64);
    return matcher_has_failed(c->matcher) ? NULL : c->memory->mask;
}

bool constraint_filter(struct constraint *c, struct token_filter *out)
{
    if (!c || !c->matcher || c->track.is_open)
        return false;
    *out = (struct token_filter){allows, make_mask, c};
    return true;
}

/* The budget is used up: the closing mark has to come, or the rest of it. */
static bool must_close(const struct constraint *c)
{
    return c->n_closing > 0 || (c->track.is_open && c->track.n_tokens >= c->budget);
}

/* What stands behind a mark in the same token is the frame's. */
static void follow_reasoning(struct constraint *c, const struct tokenizer *tokenizer, int32_t token)
{
    uint32_t n;
    const char *bytes = tokenizer_piece(tokenizer, token, &n);
    bool was_open = c->track.is_open;
    if (must_close(c) && ++c->n_closing == c->marks->n_close_tokens)
        c->n_closing = 0;
    reasoning_track_push(&c->track, c->marks, bytes, n, tokenizer_is_control(tokenizer, token));
    c->is_reasoning = was_open || c->track.is_open;
    if (c->matcher && !was_open && c->track.is_open) { /* the grammar knows nothing of the mark */
        (void)matcher_rollback(c->matcher, c->track.n_before);
        c->ids.n = c->n_taken = 0;
    }
}

bool constraint_accept(struct constraint *c, const struct tokenizer *tokenizer, int32_t token)
{
    if (!c)
        return true;
    if (c->marks)
        follow_reasoning(c, tokenizer, token);
    c->may_open = false;
    c->has_looked = false;
    if (!c->matcher || c->is_reasoning)
        return true;
    if (c->n_taken < c->ids.n && c->ids.id[c->n_taken] == token)
        c->n_taken++;
    else
        c->ids.n = c->n_taken = 0;
    return matcher_accept_token(c->matcher, c->memory->trie, (uint32_t)token) &&
           !matcher_has_failed(c->matcher);
}

bool constraint_may_end(struct constraint *c)
{
    return c && c->matcher && !c->track.is_open && matcher_may_end(c->matcher);
}

bool constraint_is_complete(struct constraint *c)
{
    return c && c->matcher && !c->track.is_open && matcher_is_complete(c->matcher);
}

bool constraint_is_reasoning(const struct constraint *c)
{
    return c && c->is_reasoning;
}

/* Appends the tokens of forced[at..end-1], of which there are no more than the text says; false: a
 * tokenizer that adds a space in front does not say this text. */
static bool cut_text(struct constraint *c, const struct tokenizer *tokenizer, size_t at, size_t end)
{
    serverd_error ignored;
    uint32_t n_good = c->ids.n, n_bytes;
    if (tokenizer_encode(tokenizer, c->forced.data + at, end - at, 0, &c->ids, &ignored)) {
        c->ids.n = n_good;
        return false;
    }
    for (; n_good < c->ids.n; n_good++, at += n_bytes) {
        const char *piece = tokenizer_piece(tokenizer, c->ids.id[n_good], &n_bytes);
        if (n_bytes == 0 || n_bytes > end - at || memcmp(piece, c->forced.data + at, n_bytes) != 0)
            break;
    }
    bool is_good = n_good == c->ids.n && at == end;
    c->ids.n = n_good;
    return is_good;
}

/* Cuts the text that must come into tokens, but for the last one, which could be a longer one with
 * what follows, unless it is a control token or nothing may follow. Done once for each such text,
 * so that the cuts do not depend on who asks when. */
static void find_forced(struct constraint *c, const struct tokenizer *tokenizer)
{
    buffer_reset(&c->forced);
    c->ids.n = c->n_taken = 0;
    const bool ends = matcher_forced(c->matcher, FORCED_BYTES, &c->forced);
    const char *text = c->forced.data;
    for (size_t at = 0, n = c->forced.is_failed ? 0 : c->forced.len; at < n;) {
        bool is_mark = text[at] == TOKEN_MARK_BEGIN;
        const char *stop = memchr(text + at, is_mark ? TOKEN_MARK_END : TOKEN_MARK_BEGIN, n - at);
        size_t end = stop ? (size_t)(stop - text) + is_mark : n;
        if (is_mark) {
            int32_t id = stop ? tokenizer_find(tokenizer, text + at + 1, end - at - 2) : -1;
            if (id < 0 || !token_list_add(&c->ids, id))
                return;
        } else if (!cut_text(c, tokenizer, at, end)) {
            return;
        } else if (!stop && !ends) {
            c->ids.n--;
        }
        at = end;
    }
}

uint32_t constraint_look_ahead(struct constraint *c, const struct tokenizer *tokenizer,
                               int32_t *out, uint32_t n_most)
{
    uint32_t n = 0;
    if (c && must_close(c)) {
        for (; n < n_most && c->n_closing + n < c->marks->n_close_tokens; n++)
            out[n] = c->marks->close_tokens[c->n_closing + n];
        return n;
    }
    if (!c || !c->matcher || c->track.is_open || c->may_open)
        return 0;
    if (c->n_taken == c->ids.n && !c->has_looked)
        find_forced(c, tokenizer);
    c->has_looked = true; /* at this place */
    for (; n < n_most && c->n_taken + n < c->ids.n; n++)
        out[n] = c->ids.id[c->n_taken + n];
    return n;
}

int32_t constraint_forced(struct constraint *c, const struct tokenizer *tokenizer)
{
    int32_t token;
    return constraint_look_ahead(c, tokenizer, &token, 1) == 1 ? token : -1;
}
