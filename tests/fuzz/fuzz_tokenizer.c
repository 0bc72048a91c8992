/* Any bytes as text for tokenizers of each kind: encoding ends, ids are in range, what comes out
 * of a byte-complete vocabulary is what went in, guarded text holds no control token. The first
 * byte chooses vocabulary and flags. */
#include "text/detokenizer.h"
#include "text/small_vocabulary.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct tables {
    struct small_vocabulary small;
    struct tokenizer *tokenizer;
};

static struct tables *make(int kind)
{
    struct tables *t = calloc(1, sizeof *t);
    serverd_error err;
    if (!t)
        abort();
    small_vocabulary_init(&t->small, kind);
    if (tokenizer_create(&t->small.vocabulary, &t->tokenizer, &err) != SERVERD_OK)
        abort();
    return t;
}

/* Whole text of the ids, the streaming way. */
static void stream(const struct tokenizer *tokenizer, const struct token_list *ids,
                   struct buffer *out)
{
    struct detokenizer d;
    detokenizer_init(&d, tokenizer, true);
    for (uint32_t i = 0; i < ids->n; i++) {
        detokenizer_push(&d, ids->id[i]);
        detokenizer_take(&d, i % 3 ? UINT64_MAX : d.n_given, out);
    }
    detokenizer_finish(&d, UINT64_MAX, out);
    detokenizer_deinit(&d);
}

static void check(const struct tables *t, const char *text, size_t n, unsigned flags)
{
    struct token_list ids;
    struct buffer whole;
    serverd_error err;
    token_list_init(&ids, 1 << 20);
    buffer_init(&whole, 1 << 24);
    if (tokenizer_encode(t->tokenizer, text, n, flags, &ids, &err) == SERVERD_OK) {
        for (uint32_t i = 0; i < ids.n; i++)
            if (ids.id[i] < 0 || ids.id[i] >= (int32_t)t->small.vocabulary.n_tokens)
                abort();
        tokenizer_decode(t->tokenizer, ids.id, ids.n, false, &whole);
        bool is_exact =
            t->small.vocabulary.kind == VOCABULARY_BPE && flags == 0 && !memchr(text, 0xff, n);
        if (is_exact && (whole.len != n || (n > 0 && memcmp(whole.data, text, n) != 0)))
            abort();
        buffer_reset(&whole);
        stream(t->tokenizer, &ids, &whole);
    }
    buffer_deinit(&whole);
    token_list_deinit(&ids);
}

static void check_guard(const struct tables *t, const char *text, size_t n)
{
    struct token_list ids;
    struct buffer guarded;
    serverd_error err;
    token_list_init(&ids, 1 << 20);
    buffer_init(&guarded, 1 << 24);
    tokenizer_guard(t->tokenizer, text, n, &guarded);
    if (tokenizer_encode(t->tokenizer, buffer_str(&guarded), guarded.len, TOKENIZER_PARSE_SPECIAL,
                         &ids, &err) == SERVERD_OK)
        for (uint32_t i = 0; i < ids.n; i++)
            if (tokenizer_is_control(t->tokenizer, ids.id[i]) &&
                ids.id[i] != t->small.vocabulary.unknown)
                abort();
    buffer_deinit(&guarded);
    token_list_deinit(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tables *kinds[SMALL_N_KINDS];
    if (size == 0)
        return 0;
    int kind = data[0] % SMALL_N_KINDS;
    if (!kinds[kind])
        kinds[kind] = make(kind);
    char *text = malloc(size); /* of its own size, so that reads behind the end are seen */
    if (!text)
        return 0;
    memcpy(text, data + 1, size - 1);
    check(kinds[kind], text, size - 1, data[0] / SMALL_N_KINDS % 4);
    if (!memchr(text, 0xff, size - 1))
        check_guard(kinds[kind], text, size - 1);
    free(text);
    return 0;
}
