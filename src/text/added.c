/* Added tokens as the tokenizers package looks for them: those that are not normalised in the text
 * as it is, then the others in what is left, normalised. */
#include "base/error.h"
#include "base/numeric.h"
#include "base/utf8.h"
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- lists ----------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    const struct added_token *p = a, *q = b;
    int order = memcmp(p->bytes, q->bytes, min_size(p->len, q->len));
    if (order != 0)
        return order;
    if (p->len != q->len)
        return p->len < q->len ? -1 : 1;
    return (p->id > q->id) - (p->id < q->id);
}

static void sort_list(struct added_list *list)
{
    if (list->n > 0)
        qsort(list->items, list->n, sizeof *list->items, compare);
    for (uint32_t i = 0, byte = 0; byte <= 256; byte++) {
        while (i < list->n && (uint8_t)list->items[i].bytes[0] < byte)
            i++;
        list->first[byte] = i;
    }
}

static void add_plain(const struct tokenizer *tokenizer, uint32_t index, const uint8_t *flags,
                      struct added_list *list)
{
    const uint32_t id = tokenizer->specials.ids[index];
    const uint32_t begin = tokenizer->texts.offsets[id];
    list->items[list->n++] =
        (struct added_token){.bytes = tokenizer->texts.bytes + begin,
                             .len = tokenizer->texts.offsets[id + 1] - begin,
                             .id = (int32_t)id,
                             .flags = flags[id],
                             .is_control = tokenizer->types[id] != TOKEN_USER_DEFINED};
}

/* The token's text through the normalisers, behind the others; what becomes of its bytes is known
 * when all are there. */
static serverd_status add_normalised(const struct tokenizer *tokenizer,
                                     const struct added_token *token, struct piece_text *pieces,
                                     struct piece_text *spare, struct added *out,
                                     serverd_error *err)
{
    const char *text = token->bytes;
    size_t n = token->len;
    if (utf8_valid_run(text, n) == n) {
        serverd_status status =
            pipeline_normalise(tokenizer->pipeline, text, n, pieces, spare, err);
        if (status != SERVERD_OK)
            return status;
        text = buffer_str(&pieces->text);
        n = pieces->text.len;
    }
    if (n == 0 || n > UINT32_MAX)
        return SERVERD_OK;
    struct added_token *made = &out->normalised.items[out->normalised.n++];
    *made = *token;
    made->len = (uint32_t)n;
    buffer_append(&out->texts, text, n);
    return out->texts.is_failed ? fail(err, SERVERD_NOMEM, "tokenizer: no memory for added tokens")
                                : SERVERD_OK;
}

static serverd_status fill(const struct tokenizer *tokenizer, const uint8_t *flags,
                           struct added *out, serverd_error *err)
{
    struct piece_text pieces = {0}, spare = {0};
    serverd_status status = SERVERD_OK;
    buffer_init(&pieces.text, SIZE_MAX / 2);
    buffer_init(&spare.text, SIZE_MAX / 2);
    for (uint32_t i = 0; i < tokenizer->specials.n && status == SERVERD_OK; i++) {
        add_plain(tokenizer, i, flags, &out->plain);
        const struct added_token *token = &out->plain.items[out->plain.n - 1];
        if (token->flags & STEP_IS_NORMALISED)
            status = add_normalised(tokenizer, token, &pieces, &spare, out, err);
    }
    const char *at = buffer_str(&out->texts);
    for (uint32_t i = 0; i < out->normalised.n; at += out->normalised.items[i++].len)
        out->normalised.items[i].bytes = at;
    fragment_list_deinit(&pieces.fragments);
    fragment_list_deinit(&spare.fragments);
    buffer_deinit(&pieces.text);
    buffer_deinit(&spare.text);
    return status;
}

serverd_status added_create(const struct tokenizer *tokenizer, struct added *out,
                            serverd_error *err)
{
    const size_t n = max_size(tokenizer->specials.n, 1);
    const uint32_t n_tokens = tokenizer->vocabulary.n_tokens;
    uint8_t *flags = calloc(max_size(n_tokens, 1), sizeof *flags);
    *out = (struct added){.plain.items = calloc(n, sizeof *out->plain.items),
                          .normalised.items = calloc(n, sizeof *out->normalised.items),
                          .types = calloc(max_size(n_tokens, 1), sizeof *out->types)};
    buffer_init(&out->texts, SIZE_MAX / 2);
    serverd_status status = SERVERD_OK;
    if (!flags || !out->plain.items || !out->normalised.items || !out->types)
        status = fail(err, SERVERD_NOMEM, "tokenizer: no memory for %zu added tokens", n);
    if (status == SERVERD_OK) {
        pipeline_mark_flags(tokenizer->pipeline, n_tokens, flags);
        status = fill(tokenizer, flags, out, err);
    }
    if (status == SERVERD_OK) {
        for (uint32_t i = 0; i < n_tokens; i++)
            out->types[i] = flags[i] & STEP_IS_APART ? TOKEN_CONTROL : tokenizer->types[i];
        sort_list(&out->plain);
        sort_list(&out->normalised);
    }
    free(flags);
    return status;
}

void added_destroy(struct added *added)
{
    free(added->plain.items);
    free(added->normalised.items);
    free(added->types);
    buffer_deinit(&added->texts);
}

/* ---- search ---------------------------------------------------------------------------------- */

/* In one of the two lists. */
static bool is_wanted(const struct added_token *token, bool is_normalised,
                      const struct added_search *search)
{
    if (token->is_control && !search->parses_control)
        return false;
    if (token->is_control && search->has_guards)
        return !is_normalised;
    return is_normalised || !(token->flags & STEP_IS_NORMALISED);
}

/* The first item of lo .. hi - 1 whose byte at `depth` is at least `byte`; all are longer. */
static uint32_t bound(const struct added_list *list, uint32_t lo, uint32_t hi, size_t depth,
                      unsigned byte)
{
    while (lo < hi) {
        uint32_t middle = lo + (hi - lo) / 2;
        if ((uint8_t)list->items[middle].bytes[depth] < byte)
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo;
}

/* Items lo .. hi - 1 share the first `depth` bytes with the text, the shortest come first. */
static const struct added_token *longest_at(const struct added_list *list, bool is_normalised,
                                            const struct added_search *search, const char *text,
                                            size_t n)
{
    const struct added_token *longest = NULL;
    uint32_t lo = list->first[(uint8_t)text[0]], hi = list->first[(uint8_t)text[0] + 1];
    for (size_t depth = 1; lo < hi; depth++) {
        for (; lo < hi && list->items[lo].len == depth; lo++)
            if ((!longest || longest->len < depth) &&
                is_wanted(&list->items[lo], is_normalised, search))
                longest = &list->items[lo];
        if (depth == n)
            break;
        const unsigned byte = (uint8_t)text[depth];
        lo = bound(list, lo, hi, depth, byte);
        hi = bound(list, lo, hi, depth, byte + 1);
    }
    return longest;
}

/* Letters, marks, digits and connectors, as \w of Unicode. */
static bool is_word(uint32_t code)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    bool is_circled = (code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
                      (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NL) || c == UTF8PROC_CATEGORY_PC ||
           code == 0x200c || code == 0x200d || is_circled;
}

/* The character that ends before text[end]; its length. */
static size_t last_character(const char *text, size_t end, uint32_t *code)
{
    size_t len = 1;
    while (len < 4 && len < end && ((uint8_t)text[end - len] & 0xc0) == 0x80)
        len++;
    if (utf8_decode(text + end - len, len, code) != len)
        len = utf8_decode(text + end - 1, 1, code);
    return len;
}

static bool is_apart(const char *text, size_t n, size_t begin, size_t end)
{
    uint32_t before = ' ', behind = ' ';
    if (begin > 0)
        (void)last_character(text, begin, &before);
    if (end < n)
        (void)utf8_decode(text + end, n - end, &behind);
    return !is_word(before) && !is_word(behind);
}

static size_t skip_spaces_before(const char *text, size_t least, size_t begin)
{
    while (begin > least) {
        uint32_t code;
        size_t len = last_character(text, begin, &code);
        if (!step_is_space(code) || len > begin - least)
            break;
        begin -= len;
    }
    return begin;
}

static size_t skip_spaces_behind(const char *text, size_t n, size_t end)
{
    while (end < n) {
        uint32_t code;
        size_t len = utf8_decode(text + end, n - end, &code);
        if (!step_is_space(code))
            break;
        end += len;
    }
    return end;
}

bool added_cut(const struct added *added, bool is_normalised, const struct added_search *search,
               const char *text, size_t n, struct stretch_list *out)
{
    const struct added_list *list = is_normalised ? &added->normalised : &added->plain;
    size_t done = 0, at = 0;
    while (at < n) {
        const struct added_token *token =
            longest_at(list, is_normalised, search, text + at, n - at);
        if (!token) {
            at++;
            continue;
        }
        size_t begin = at, end = at + token->len;
        at = end;
        if (token->flags & STEP_IS_WORD && !is_apart(text, n, begin, end))
            continue;
        if (token->flags & STEP_STRIPS_LEFT)
            begin = skip_spaces_before(text, done, begin);
        if (token->flags & STEP_STRIPS_RIGHT)
            end = at = skip_spaces_behind(text, n, end);
        if (!stretch_list_add(out, done, begin, NO_TOKEN) ||
            !stretch_list_add(out, begin, end, token->id))
            return false;
        done = end;
    }
    return stretch_list_add(out, done, n, NO_TOKEN);
}
