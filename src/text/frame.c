/* What stands around a text, or around the two of a pair, before the model reads them. */
#include "base/error.h"
#include "text/tokenizer_internal.h"

#include <string.h>

struct frame {
    const struct frame_item *items;
    uint32_t n;
};

static int32_t begin_token(const struct vocabulary *v)
{
    if (v->kind == VOCABULARY_WORDPIECE)
        return v->cls >= 0 ? v->cls : v->bos;
    return v->adds_bos ? v->bos : -1;
}

static int32_t end_token(const struct vocabulary *v)
{
    if (v->kind == VOCABULARY_WORDPIECE && (!v->is_stepwise || v->adds_separator))
        return v->separator >= 0 ? v->separator : v->eos;
    return v->adds_eos ? v->eos : -1;
}

static void put(struct frame_item *items, uint32_t *n, int32_t token, uint32_t segment)
{
    items[(*n)++] = (struct frame_item){token, segment};
}

static void put_token(struct frame_item *items, uint32_t *n, int32_t token, uint32_t segment)
{
    if (token >= 0)
        put(items, n, token, segment);
}

/* By the flags of a vocabulary that states no frames. */
static uint32_t frame_of_flags(const struct vocabulary *v, bool is_pair, struct frame_item *items)
{
    uint32_t n = 0, second = v->kind == VOCABULARY_WORDPIECE;
    int32_t end = end_token(v);
    put_token(items, &n, begin_token(v), 0);
    put(items, &n, FRAME_FIRST, 0);
    put_token(items, &n, end, 0);
    if (!is_pair)
        return n;
    if (v->kind != VOCABULARY_WORDPIECE && v->adds_separator)
        put_token(items, &n, v->separator, 0);
    put(items, &n, FRAME_SECOND, second);
    put_token(items, &n, end, second);
    return n;
}

static struct frame find_frame(const struct vocabulary *v, bool is_pair,
                               struct frame_item items[VOCABULARY_MAX_FRAME])
{
    if (is_pair && v->n_pair > 0)
        return (struct frame){v->pair, v->n_pair};
    if (!is_pair && v->n_single > 0)
        return (struct frame){v->single, v->n_single};
    return (struct frame){items, frame_of_flags(v, is_pair, items)};
}

static bool begins_with_token(const struct vocabulary *v, int32_t id, const char *text, size_t n)
{
    uint32_t len;
    const char *token = vocabulary_text(v, (uint32_t)id, &len);
    return len > 0 && n >= len && memcmp(text, token, len) == 0;
}

serverd_status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t n,
                                unsigned flags, struct token_list *out, serverd_error *err)
{
    static const struct frame_item bare = {FRAME_FIRST, 0};
    const struct vocabulary *v = &tokenizer->vocabulary;
    const bool parses = flags & TOKENIZER_PARSE_SPECIAL;
    struct frame_item items[VOCABULARY_MAX_FRAME];
    struct frame frame = {&bare, 1};
    if (flags & TOKENIZER_ADD_SPECIAL)
        frame = find_frame(v, false, items);
    int32_t begin = frame.items[0].token;
    uint32_t first = begin >= 0 && parses && begins_with_token(v, begin, text, n);
    for (uint32_t i = first; i < frame.n; i++) {
        serverd_status status = SERVERD_OK;
        if (frame.items[i].token == FRAME_FIRST)
            status = tokenizer_encode_text(tokenizer, text, n, flags, out, err);
        else if (!token_list_add(out, frame.items[i].token))
            status = tokenizer_list_error(out, err);
        if (status != SERVERD_OK)
            return status;
    }
    return SERVERD_OK;
}

serverd_status tokenizer_encode_pair(const struct tokenizer *tokenizer, const char *first,
                                     size_t n_first_bytes, const char *second,
                                     size_t n_second_bytes, struct token_list *out,
                                     uint32_t *n_first, serverd_error *err)
{
    struct frame_item items[VOCABULARY_MAX_FRAME];
    const struct frame frame = find_frame(&tokenizer->vocabulary, true, items);
    const uint32_t n_before = out->n;
    uint32_t n_of_first = 0;
    for (uint32_t i = 0; i < frame.n; i++) {
        serverd_status status = SERVERD_OK;
        int32_t token = frame.items[i].token;
        if (token == FRAME_FIRST)
            status = tokenizer_encode_text(tokenizer, first, n_first_bytes, 0, out, err);
        else if (token == FRAME_SECOND)
            status = tokenizer_encode_text(tokenizer, second, n_second_bytes, 0, out, err);
        else if (!token_list_add(out, token))
            status = tokenizer_list_error(out, err);
        if (status != SERVERD_OK)
            return status;
        if (frame.items[i].segment == 0)
            n_of_first = out->n - n_before;
    }
    *n_first = n_of_first;
    return SERVERD_OK;
}
