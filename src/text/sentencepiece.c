/* SentencePiece's byte-pair encoding by score ("llama"): the text's spaces are U+2581 already. */
#include "base/error.h"
#include "base/utf8.h"
#include "text/tokenizer_internal.h"

static bool find_pair(const struct tokenizer *tokenizer, const char *text,
                      const struct symbol *left, const struct symbol *right, struct merge *out)
{
    int32_t id = plain_token(tokenizer, text_table_find(&tokenizer->texts, text + left->begin,
                                                        (size_t)left->len + right->len));
    if (id == NO_TOKEN)
        return false;
    *out = (struct merge){-tokenizer->scores[id], id};
    return true;
}

static bool emit(const struct tokenizer *tokenizer, const char *text, const struct symbol *symbol,
                 struct token_list *out)
{
    if (symbol->id != NO_TOKEN)
        return token_list_add(out, symbol->id);
    bool fits = true;
    for (uint32_t i = 0; i < symbol->len && fits; i++) {
        int32_t id = tokenizer->byte_symbol[(uint8_t)text[symbol->begin + i]];
        if (id == NO_TOKEN)
            id = tokenizer->vocabulary.unknown;
        fits = id < 0 || token_list_add(out, id);
    }
    return fits;
}

serverd_status spm_encode(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                          const char *text, size_t n, struct token_list *out, serverd_error *err)
{
    if (!tokenizer_reserve_symbols(scratch, n))
        return fail(err, SERVERD_NOMEM, "no memory to tokenise %zu bytes", n);
    size_t count = 0;
    for (size_t at = 0; at < n; count++) {
        uint32_t code;
        size_t len = utf8_decode(text + at, n - at, &code);
        scratch->symbols[count] = (struct symbol){
            .begin = (uint32_t)at,
            .len = (uint32_t)len,
            .id = plain_token(tokenizer, text_table_find(&tokenizer->texts, text + at, len))};
        at += len;
    }
    if (!tokenizer_merge_symbols(tokenizer, scratch, text, count, find_pair))
        return fail(err, SERVERD_NOMEM, "no memory to tokenise %zu bytes", n);
    for (int32_t i = count > 0 ? 0 : -1; i >= 0; i = scratch->symbols[i].next)
        if (!emit(tokenizer, text, &scratch->symbols[i], out))
            return tokenizer_list_error(out, err);
    return SERVERD_OK;
}
