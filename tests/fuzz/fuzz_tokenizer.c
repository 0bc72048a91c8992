/* Any bytes as text for tokenizers of each kind: encoding ends, ids are in range, what comes out
 * of a byte-complete vocabulary is what went in, guarded text holds no control token. The first
 * byte chooses vocabulary and flags. */
#include "text/detokenizer.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_TOKENS = 600, N_MERGES = 40, N_KINDS = 6 };

struct tables {
    struct vocabulary vocabulary;
    struct token_text tokens[N_TOKENS];
    struct merge_text merges[N_MERGES];
    char texts[N_TOKENS + N_MERGES][24];
    struct tokenizer *tokenizer;
};

static void add_token(struct tables *t, uint8_t type, const char *text)
{
    uint32_t i = t->vocabulary.n_tokens++;
    (void)snprintf(t->texts[i], sizeof t->texts[i], "%s", text);
    t->tokens[i] = (struct token_text){.bytes = t->texts[i],
                                       .len = (uint32_t)strlen(t->texts[i]),
                                       .score = -(float)i,
                                       .type = type};
}

static void add_specials(struct tables *t)
{
    add_token(t, TOKEN_CONTROL, "<s>");
    add_token(t, TOKEN_CONTROL, "</s>");
    add_token(t, TOKEN_UNKNOWN, "<unk>");
    add_token(t, TOKEN_CONTROL, "<|im_start|>");
    add_token(t, TOKEN_CONTROL, "<|im_end|>");
    add_token(t, TOKEN_USER_DEFINED, "\n\n");
    add_token(t, TOKEN_USER_DEFINED, "<b>");
    add_token(t, TOKEN_CONTROL, "<|im");
}

/* As byte-level BPE writes a byte. */
static void byte_text(unsigned byte, char out[4])
{
    unsigned code = byte, next = 0x100;
    for (unsigned b = 0; b <= byte; b++) {
        bool is_plain = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        code = b == byte && !is_plain ? next : code;
        next += !is_plain;
    }
    memset(out, 0, 4);
    if (code < 0x80) {
        out[0] = (char)code;
    } else {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
    }
}

static void make_bpe(struct tables *t, const char *pre)
{
    static const char *const pairs[] = {"t h",          "th e",
                                        "a n",          "an d",
                                        "\xc4\xa0 the", "i n",
                                        "1 2",          "\xc4\xa0 \xc4\xa0",
                                        "e r",          "\xc3\xa2 \xc4\xa4"};
    char text[24];
    add_specials(t);
    for (unsigned b = 0; b < 256; b++) {
        byte_text(b, text);
        add_token(t, TOKEN_NORMAL, text);
    }
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const char *space = strchr(pairs[i] + 1, ' ');
        (void)snprintf(text, sizeof text, "%.*s%s", (int)(space - pairs[i]), pairs[i], space + 1);
        add_token(t, TOKEN_NORMAL, text);
        t->merges[t->vocabulary.n_merges++] =
            (struct merge_text){pairs[i], (uint32_t)strlen(pairs[i])};
    }
    t->vocabulary.kind = VOCABULARY_BPE;
    (void)snprintf(t->vocabulary.pre, sizeof t->vocabulary.pre, "%s", pre);
}

static void make_spm(struct tables *t)
{
    static const char *const pieces[] = {
        "\xe2\x96\x81",  "a",        "b", "t", "h", "e", "th", "the", "\xe2\x96\x81the",
        "\xe2\x96\x81t", "\xc3\xa9", "\n"};
    char text[24];
    add_specials(t);
    for (unsigned b = 0; b < 256; b++) {
        (void)snprintf(text, sizeof text, "<0x%02X>", b);
        add_token(t, TOKEN_BYTE, text);
    }
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        add_token(t, TOKEN_NORMAL, pieces[i]);
    t->vocabulary.kind = VOCABULARY_SPM;
    t->vocabulary.adds_space_prefix = true;
}

static void make_wordpiece(struct tables *t)
{
    add_specials(t);
    for (char c = 'a'; c <= 'z'; c++) {
        char text[8];
        (void)snprintf(text, sizeof text, "\xe2\x96\x81%c", c);
        add_token(t, TOKEN_NORMAL, text);
        add_token(t, TOKEN_NORMAL, text + 3);
    }
    t->vocabulary.kind = VOCABULARY_WORDPIECE;
    t->vocabulary.lowercases = t->vocabulary.strips_accents = true;
}

static struct tables *make(int kind)
{
    static const char *const pres[] = {"gpt-2", "llama-bpe", "tekken", "deepseek-v3"};
    struct tables *t = calloc(1, sizeof *t);
    serverd_error err;
    if (!t)
        abort();
    t->vocabulary = (struct vocabulary){.token = t->tokens,
                                        .merge = t->merges,
                                        .bos = 0,
                                        .eos = 1,
                                        .eot = -1,
                                        .eom = -1,
                                        .unknown = 2,
                                        .separator = 1,
                                        .padding = -1,
                                        .cls = 0,
                                        .mask = -1,
                                        .fim_prefix = -1,
                                        .fim_suffix = -1,
                                        .fim_middle = -1,
                                        .fim_pad = -1,
                                        .fim_repo = -1,
                                        .fim_separator = -1,
                                        .adds_bos = true};
    if (kind == 4)
        make_spm(t);
    else if (kind == 5)
        make_wordpiece(t);
    else
        make_bpe(t, pres[kind]);
    if (tokenizer_create(&t->vocabulary, &t->tokenizer, &err) != SERVERD_OK)
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
            if (ids.id[i] < 0 || ids.id[i] >= (int32_t)t->vocabulary.n_tokens)
                abort();
        tokenizer_decode(t->tokenizer, ids.id, ids.n, false, &whole);
        bool is_exact =
            t->vocabulary.kind == VOCABULARY_BPE && flags == 0 && !memchr(text, 0xff, n);
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
            if (tokenizer_is_control(t->tokenizer, ids.id[i]) && ids.id[i] != t->vocabulary.unknown)
                abort();
    buffer_deinit(&guarded);
    token_list_deinit(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tables *kinds[N_KINDS];
    if (size == 0)
        return 0;
    int kind = data[0] % N_KINDS;
    if (!kinds[kind])
        kinds[kind] = make(kind);
    char *text = malloc(size); /* of its own size, so that reads behind the end are seen */
    if (!text)
        return 0;
    memcpy(text, data + 1, size - 1);
    check(kinds[kind], text, size - 1, data[0] / N_KINDS % 4);
    if (!memchr(text, 0xff, size - 1))
        check_guard(kinds[kind], text, size - 1);
    free(text);
    return 0;
}
