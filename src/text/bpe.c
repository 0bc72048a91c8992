/* Byte-level byte-pair encoding ("gpt2"), and the same on raw UTF-8 ("gemma4"). */
#include "base/utf8.h"
#include "text/tokenizer_internal.h"

static bool find_pair(const struct tokenizer *tokenizer, const char *text,
                      const struct symbol *left, const struct symbol *right, struct merge *out)
{
    (void)text;
    if (left->id == NO_TOKEN || right->id == NO_TOKEN)
        return false;
    const uint32_t rank =
        merge_table_find(&tokenizer->merges, (uint32_t)left->id, (uint32_t)right->id);
    if (rank == NO_ITEM)
        return false;
    *out = (struct merge){(float)rank, (int32_t)tokenizer->merges.merges[rank].result};
    return true;
}

static bool emit_bytes(const struct tokenizer *tokenizer, const char *text, size_t n,
                       struct token_list *out)
{
    bool fits = true;
    for (size_t i = 0; i < n && fits; i++) {
        int32_t id = tokenizer->byte_symbol[(uint8_t)text[i]];
        if (id == NO_TOKEN || id >= (int32_t)tokenizer->vocabulary.n_tokens)
            id = tokenizer->vocabulary.unknown;
        fits = id < 0 || token_list_add(out, id);
    }
    return fits;
}

/* The fragment as the vocabulary writes it. */
static int32_t find_whole(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                          const char *text, size_t n)
{
    if (tokenizer->vocabulary.kind == VOCABULARY_BPE_UTF8)
        return text_table_find(&tokenizer->texts, text, n);
    buffer_reset(&scratch->text);
    for (size_t i = 0; i < n; i++) {
        char code[4];
        size_t len = bpe_write_code(bpe_code_of_byte((uint8_t)text[i]), code);
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
        size_t len = tokenizer->vocabulary.kind == VOCABULARY_BPE
                         ? 1
                         : utf8_decode(text + at, n - at, &code);
        int32_t id = tokenizer->vocabulary.kind == VOCABULARY_BPE
                         ? tokenizer->byte_symbol[(uint8_t)text[at]]
                         : text_table_find(&tokenizer->texts, text + at, len);
        scratch->symbols[count] =
            (struct symbol){.begin = (uint32_t)at, .len = (uint32_t)len, .id = id};
        at += len;
    }
    return count;
}

bool bpe_encode_fragment(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                         const char *text, size_t n, struct token_list *out)
{
    int32_t n_tokens = (int32_t)tokenizer->vocabulary.n_tokens;
    if (tokenizer->vocabulary.ignores_merges) {
        int32_t whole = plain_token(tokenizer, find_whole(tokenizer, scratch, text, n));
        if (whole != NO_TOKEN && whole < n_tokens)
            return token_list_add(out, whole);
    }
    if (!tokenizer_reserve_symbols(scratch, n))
        return false;
    size_t count = first_symbols(tokenizer, scratch, text, n);
    if (!tokenizer_merge_symbols(tokenizer, scratch, text, count, find_pair))
        return false;
    bool fits = true, was_unknown = false;
    for (int32_t i = count > 0 ? 0 : -1; i >= 0 && fits; i = scratch->symbols[i].next) {
        const struct symbol *s = &scratch->symbols[i];
        bool is_known = s->id < n_tokens && plain_token(tokenizer, s->id) != NO_TOKEN;
        if (is_known)
            fits = token_list_add(out, s->id);
        else if (tokenizer->pipeline)
            fits = tokenizer_emit_unknown(tokenizer, text + s->begin, s->len, !was_unknown, out);
        else
            fits = emit_bytes(tokenizer, text + s->begin, s->len, out);
        was_unknown = !is_known;
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
            if (!bpe_encode_fragment(tokenizer, scratch, text + at, scratch->fragments.len[i], out))
                return tokenizer_list_error(out, err);
        if (run < n && !emit_bytes(tokenizer, text + run, 1, out))
            return tokenizer_list_error(out, err);
        run += run < n;
        text += run;
        n -= run;
    }
    return SERVERD_OK;
}
