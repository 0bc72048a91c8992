/* Byte-level byte-pair encoding ("gpt2"), and the same on raw UTF-8 ("gemma4"). */
#include "base/error.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "base/utf8.h"
#include "text/tokenizer_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NO_PAIR UINT64_MAX

/* ---- tables ------------------------------------------------------------------------------------
 */

/* The tables are larger than caches: so many merges go through one step together, and ask for the
 * memory that their next step needs. */
#define MERGES_AT_ONCE 16

/* A merge's texts, then what they are. left NULL: such a line never applies. */
struct parts {
    const char *left, *right, *both;
    uint32_t left_len, right_len;
    uint64_t pair;
    int32_t symbol;
};

/* "left right", split at the first space after byte 0. False: no memory. */
static bool split_merge(struct tokenizer *tokenizer, const struct merge_text *merge,
                        struct parts *out)
{
    *out = (struct parts){0};
    const char *space = merge->len > 1 ? memchr(merge->bytes + 1, ' ', merge->len - 1) : NULL;
    const uint32_t left_len = space ? (uint32_t)(space - merge->bytes) : 0;
    if (!space || left_len + 1 == merge->len)
        return true;
    const uint32_t right_len = merge->len - left_len - 1;
    char *both = arena_alloc(tokenizer->arena, (size_t)left_len + right_len);
    if (!both)
        return false;
    memcpy(both, merge->bytes, left_len);
    memcpy(both + left_len, space + 1, right_len);
    *out = (struct parts){merge->bytes, space + 1, both, left_len, right_len};
    text_table_prefetch(&tokenizer->texts, out->left, left_len);
    text_table_prefetch(&tokenizer->texts, out->right, right_len);
    text_table_prefetch(&tokenizer->texts, both, (size_t)left_len + right_len);
    return true;
}

/* The id of a text, a new one behind all tokens if no token has it. NO_TOKEN: no memory. */
static int32_t intern(struct tokenizer *tokenizer, const char *bytes, uint32_t len, int32_t *next)
{
    int32_t id = text_table_find(&tokenizer->texts, bytes, len);
    if (id == NO_TOKEN && text_table_put(&tokenizer->texts, bytes, len, *next))
        id = (*next)++;
    return id;
}

static struct merge_slot *find_merge(const struct tokenizer *tokenizer, uint64_t pair)
{
    size_t i = hash_mix(pair) & (tokenizer->n_merge_slots - 1);
    while (tokenizer->merges[i].pair != NO_PAIR && tokenizer->merges[i].pair != pair)
        i = (i + 1) & (tokenizer->n_merge_slots - 1);
    return &tokenizer->merges[i];
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* False: no memory. */
static bool intern_parts(struct tokenizer *tokenizer, struct parts *parts, int32_t *next)
{
    int32_t left = intern(tokenizer, parts->left, parts->left_len, next);
    int32_t right = intern(tokenizer, parts->right, parts->right_len, next);
    parts->symbol = intern(tokenizer, parts->both, parts->left_len + parts->right_len, next);
    parts->pair = pair_of(left, right);
    __builtin_prefetch(&tokenizer->merges[hash_mix(parts->pair) & (tokenizer->n_merge_slots - 1)],
                       1);
    return left != NO_TOKEN && right != NO_TOKEN && parts->symbol != NO_TOKEN;
}

/* Merges first .. first + n - 1. False: no memory. */
static bool add_merges(struct tokenizer *tokenizer, uint32_t first, uint32_t n, int32_t *next)
{
    struct parts parts[MERGES_AT_ONCE];
    for (uint32_t i = 0; i < n; i++)
        if (!split_merge(tokenizer, &tokenizer->vocabulary->merge[first + i], &parts[i]))
            return false;
    for (uint32_t i = 0; i < n; i++)
        if (parts[i].left && !intern_parts(tokenizer, &parts[i], next))
            return false;
    for (uint32_t i = 0; i < n; i++) {
        struct merge_slot *slot = parts[i].left ? find_merge(tokenizer, parts[i].pair) : NULL;
        if (slot && slot->pair == NO_PAIR) /* the first rank of a pair counts */
            *slot = (struct merge_slot){parts[i].pair, first + i, parts[i].symbol};
    }
    return true;
}

static serverd_status make_merges(struct tokenizer *tokenizer, serverd_error *err)
{
    const struct vocabulary *v = tokenizer->vocabulary;
    size_t n = 16;
    while (n < (size_t)v->n_merges * 2)
        n *= 2;
    tokenizer->n_merge_slots = n;
    tokenizer->merges = calloc(n, sizeof *tokenizer->merges);
    if (!tokenizer->merges)
        return fail(err, SERVERD_NOMEM, "tokenizer: no memory for %u merges", v->n_merges);
    for (size_t i = 0; i < n; i++)
        tokenizer->merges[i].pair = NO_PAIR;
    int32_t next = (int32_t)v->n_tokens;
    for (uint32_t i = 0; i < v->n_merges; i += MERGES_AT_ONCE)
        if (!add_merges(tokenizer, i, (uint32_t)min_size(v->n_merges - i, MERGES_AT_ONCE), &next))
            return fail(err, SERVERD_NOMEM, "tokenizer: no memory for %u merges", v->n_merges);
    return SERVERD_OK;
}

static size_t write_code(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    out[0] = (char)(0xc0 | code >> 6); /* the mapped codes end at U+0143 */
    out[1] = (char)(0x80 | (code & 0x3f));
    return 2;
}

serverd_status bpe_prepare(struct tokenizer *tokenizer, serverd_error *err)
{
    const struct vocabulary *v = tokenizer->vocabulary;
    serverd_status status = pretokenizer_create(v->pre, &tokenizer->pre, err);
    if (status == SERVERD_OK)
        status = make_merges(tokenizer, err);
    if (status != SERVERD_OK)
        return status;
    tokenizer->ignores_merges =
        v->ignores_merges_set ? v->ignores_merges : pretokenizer_ignores_merges(tokenizer->pre);
    for (unsigned b = 0; b < 256; b++) {
        char text[8];
        size_t len = v->kind == VOCABULARY_BPE ? write_code(bpe_code_of_byte((uint8_t)b), text)
                                               : (size_t)snprintf(text, sizeof text, "<0x%02X>", b);
        tokenizer->byte_symbol[b] = text_table_find(&tokenizer->texts, text, len);
    }
    return SERVERD_OK;
}

/* ---- encoding ----------------------------------------------------------------------------------
 */

static bool find_pair(const struct tokenizer *tokenizer, const char *text,
                      const struct symbol *left, const struct symbol *right, struct merge *out)
{
    (void)text;
    if (left->id == NO_TOKEN || right->id == NO_TOKEN)
        return false;
    const struct merge_slot *slot = find_merge(tokenizer, pair_of(left->id, right->id));
    *out = (struct merge){(float)slot->rank, slot->symbol};
    return slot->pair != NO_PAIR;
}

static bool emit_bytes(const struct tokenizer *tokenizer, const char *text, size_t n,
                       struct token_list *out)
{
    bool fits = true;
    for (size_t i = 0; i < n && fits; i++) {
        int32_t id = tokenizer->byte_symbol[(uint8_t)text[i]];
        if (id == NO_TOKEN || id >= (int32_t)tokenizer->vocabulary->n_tokens)
            id = tokenizer->vocabulary->unknown;
        fits = id < 0 || token_list_add(out, id);
    }
    return fits;
}

/* The fragment as the vocabulary writes it. */
static int32_t find_whole(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                          const char *text, size_t n)
{
    if (tokenizer->vocabulary->kind == VOCABULARY_BPE_UTF8)
        return text_table_find(&tokenizer->texts, text, n);
    buffer_reset(&scratch->text);
    for (size_t i = 0; i < n; i++) {
        char code[4];
        size_t len = write_code(bpe_code_of_byte((uint8_t)text[i]), code);
        buffer_append(&scratch->text, code, len);
    }
    if (scratch->text.is_failed)
        return NO_TOKEN;
    return text_table_find(&tokenizer->texts, buffer_str(&scratch->text), scratch->text.len);
}

/* One symbol a byte, or a character. Returns how many. */
static size_t first_symbols(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                            const char *text, size_t n)
{
    size_t count = 0;
    for (size_t at = 0; at < n; count++) {
        uint32_t code;
        size_t len = tokenizer->vocabulary->kind == VOCABULARY_BPE
                         ? 1
                         : utf8_decode(text + at, n - at, &code);
        int32_t id = tokenizer->vocabulary->kind == VOCABULARY_BPE
                         ? tokenizer->byte_symbol[(uint8_t)text[at]]
                         : text_table_find(&tokenizer->texts, text + at, len);
        scratch->symbols[count] =
            (struct symbol){.begin = (uint32_t)at, .len = (uint32_t)len, .id = id};
        at += len;
    }
    return count;
}

static bool encode_fragment(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                            const char *text, size_t n, struct token_list *out)
{
    int32_t n_tokens = (int32_t)tokenizer->vocabulary->n_tokens;
    if (tokenizer->ignores_merges) {
        int32_t whole = plain_token(tokenizer, find_whole(tokenizer, scratch, text, n));
        if (whole != NO_TOKEN && whole < n_tokens)
            return token_list_add(out, whole);
    }
    if (!tokenizer_reserve_symbols(scratch, n))
        return false;
    size_t count = first_symbols(tokenizer, scratch, text, n);
    if (!tokenizer_merge_symbols(tokenizer, scratch, text, count, find_pair))
        return false;
    bool fits = true;
    for (int32_t i = count > 0 ? 0 : -1; i >= 0 && fits; i = scratch->symbols[i].next) {
        const struct symbol *s = &scratch->symbols[i];
        fits = s->id < n_tokens && plain_token(tokenizer, s->id) != NO_TOKEN
                   ? token_list_add(out, s->id)
                   : emit_bytes(tokenizer, text + s->begin, s->len, out);
    }
    return fits;
}

serverd_status bpe_encode(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                          const char *text, size_t n, struct token_list *out, serverd_error *err)
{
    while (n > 0) {
        size_t run = utf8_valid_run(text, n), at = 0;
        serverd_status status = pretokenizer_split(tokenizer->pre, text, run, &scratch->fragments,
                                                   &scratch->spare, err);
        if (status != SERVERD_OK)
            return status;
        for (size_t i = 0; i < scratch->fragments.n; at += scratch->fragments.len[i++])
            if (!encode_fragment(tokenizer, scratch, text + at, scratch->fragments.len[i], out))
                return tokenizer_list_error(out, err);
        if (run < n && !emit_bytes(tokenizer, text + run, 1, out))
            return tokenizer_list_error(out, err);
        run += run < n;
        text += run;
        n -= run;
    }
    return SERVERD_OK;
}
