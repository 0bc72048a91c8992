#include "scheduler/constraint_internal.h"

#include "base/limits.h"
#include "base/numeric.h"
#include "grammar/token_mask.h"
#include "text/stop_matcher.h"

#include <stdlib.h>
#include <string.h>

#define MASK_CACHE_BYTES (32 * MIB)
#define FORCED_BYTES     256u /* that are looked ahead at once */

struct constraint {
    struct constraint_memory *memory;
    struct matcher *matcher;
    struct stop_string mark;        /* the request's, behind which the grammar begins */
    struct stop_matcher *mark_seen; /* looks for it; NULL: there is none, or it has come */
    struct buffer forced;           /* text that must come */
    struct token_list ids;          /* its tokens, of which n_taken have come */
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
    if (request->grammar_mark) {
        c->mark =
            (struct stop_string){request->grammar_mark, (uint32_t)strlen(request->grammar_mark)};
        c->mark_seen = stop_matcher_create(&c->mark, 1);
    }
    bool has_mark = c->mark_seen || !request->grammar_mark;
    if (has_mark && prepare_memory(memory, request->trie))
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
    stop_matcher_destroy(c->mark_seen);
    buffer_deinit(&c->forced);
    token_list_deinit(&c->ids);
    free(c);
}

static bool allows(void *user, int32_t token)
{
    struct constraint *c = user;
    return (uint32_t)token < c->memory->trie->n_tokens &&
           matcher_allows_token(c->matcher, c->memory->trie, (uint32_t)token);
}

static const uint64_t *make_mask(void *user)
{
    struct constraint *c = user;
    matcher_mask(c->matcher, c->memory->masks, c->memory->mask);
    return matcher_has_failed(c->matcher) ? NULL : c->memory->mask;
}

bool constraint_filter(struct constraint *c, struct token_filter *out)
{
    if (!c || c->mark_seen)
        return false;
    *out = (struct token_filter){allows, make_mask, c};
    return true;
}

/* What stands behind the mark in the same token is the frame's. */
static void look_for_mark(struct constraint *c, const char *bytes, uint32_t n)
{
    uint32_t index;
    uint64_t begin, end;
    if (!stop_matcher_push(c->mark_seen, bytes, n, &index, &begin, &end))
        return;
    stop_matcher_destroy(c->mark_seen);
    c->mark_seen = NULL;
}

bool constraint_accept(struct constraint *c, const struct tokenizer *tokenizer, int32_t token)
{
    if (!c)
        return true;
    if (c->mark_seen) {
        uint32_t n;
        const char *bytes = tokenizer_piece(tokenizer, token, &n);
        look_for_mark(c, bytes, n);
        return true;
    }
    c->has_looked = false;
    if (c->n_taken < c->ids.n && c->ids.id[c->n_taken] == token)
        c->n_taken++;
    else
        c->ids.n = c->n_taken = 0;
    return matcher_accept_token(c->matcher, c->memory->trie, (uint32_t)token) &&
           !matcher_has_failed(c->matcher);
}

bool constraint_is_complete(struct constraint *c)
{
    return c && !c->mark_seen && matcher_is_complete(c->matcher);
}

/* Cuts the text that must come into tokens, but for the last one, which could be a longer one with
 * what follows. Done once for each such text, so that the cuts do not depend on who asks when. */
static void find_forced(struct constraint *c, const struct tokenizer *tokenizer)
{
    serverd_error ignored;
    uint32_t n_good = 0, n_bytes;
    size_t at = 0;
    buffer_reset(&c->forced);
    c->ids.n = c->n_taken = 0;
    matcher_forced(c->matcher, FORCED_BYTES, &c->forced);
    if (c->forced.len == 0 || c->forced.is_failed ||
        tokenizer_encode(tokenizer, c->forced.data, c->forced.len, 0, &c->ids, &ignored))
        c->ids.n = 0;
    /* a tokenizer that adds a space in front does not say this text */
    for (; n_good + 1 < c->ids.n; n_good++, at += n_bytes) {
        const char *piece = tokenizer_piece(tokenizer, c->ids.id[n_good], &n_bytes);
        if (n_bytes == 0 || n_bytes > c->forced.len - at ||
            memcmp(piece, c->forced.data + at, n_bytes) != 0)
            break;
    }
    c->ids.n = n_good;
}

uint32_t constraint_look_ahead(struct constraint *c, const struct tokenizer *tokenizer,
                               int32_t *out, uint32_t n_most)
{
    uint32_t n = 0;
    if (!c || c->mark_seen)
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
