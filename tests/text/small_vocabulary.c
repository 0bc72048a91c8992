#include "text/small_vocabulary.h"

#include "base/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_token(struct small_vocabulary *v, uint8_t type, const char *text)
{
    uint32_t i = v->vocabulary.n_tokens++;
    (void)snprintf(v->texts[i], sizeof v->texts[i], "%s", text);
    v->tokens[i] = (struct token_text){.bytes = v->texts[i],
                                       .len = (uint32_t)strlen(v->texts[i]),
                                       .score = -(float)i,
                                       .type = type};
}

static void add_specials(struct small_vocabulary *v)
{
    add_token(v, TOKEN_CONTROL, "<s>");
    add_token(v, TOKEN_CONTROL, "</s>");
    add_token(v, TOKEN_UNKNOWN, "<unk>");
    add_token(v, TOKEN_CONTROL, "<|im_start|>");
    add_token(v, TOKEN_CONTROL, "<|im_end|>");
    add_token(v, TOKEN_USER_DEFINED, "\n\n");
    add_token(v, TOKEN_USER_DEFINED, "<b>");
    add_token(v, TOKEN_CONTROL, "<|im");
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

static void add_bytes(struct small_vocabulary *v)
{
    for (unsigned b = 0; b < 256; b++) {
        char text[8];
        (void)snprintf(text, sizeof text, "<0x%02X>", b);
        add_token(v, TOKEN_BYTE, text);
    }
}

/* Each pair, "left right", and what it becomes. */
static void add_merges(struct small_vocabulary *v, const char *const *pairs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char text[24];
        const char *space = strchr(pairs[i] + 1, ' ');
        (void)snprintf(text, sizeof text, "%.*s%s", (int)(space - pairs[i]), pairs[i], space + 1);
        add_token(v, TOKEN_NORMAL, text);
        v->merges[v->vocabulary.n_merges++] =
            (struct merge_text){pairs[i], (uint32_t)strlen(pairs[i])};
    }
}

static void make_bpe(struct small_vocabulary *v, const char *pre)
{
    static const char *const pairs[] = {"t h",          "th e",
                                        "a n",          "an d",
                                        "\xc4\xa0 the", "i n",
                                        "1 2",          "\xc4\xa0 \xc4\xa0",
                                        "e r",          "\xc3\xa2 \xc4\xa4"};
    add_specials(v);
    for (unsigned b = 0; b < 256; b++) {
        char text[4];
        byte_text(b, text);
        add_token(v, TOKEN_NORMAL, text);
    }
    add_merges(v, pairs, sizeof pairs / sizeof *pairs);
    v->vocabulary.kind = VOCABULARY_BPE;
    (void)snprintf(v->vocabulary.pre, sizeof v->vocabulary.pre, "%s", pre);
}

/* With merges of texts that are no tokens, one that comes twice, and lines that are none. */
static void make_bpe_utf8(struct small_vocabulary *v)
{
    static const char *const pairs[] = {"t h", "th e", "\xe2\x96\x81 the", "\xc3\xa9 t"};
    static const char *const others[] = {"q u", "qu i", "t h", "nothing", " ", "x "};
    add_specials(v);
    add_bytes(v);
    for (char c = 'a'; c <= 'h'; c++)
        add_token(v, TOKEN_NORMAL, (char[]){c, '\0'});
    add_token(v, TOKEN_NORMAL, "t");
    add_token(v, TOKEN_NORMAL, "\xe2\x96\x81");
    add_token(v, TOKEN_NORMAL, "\xc3\xa9");
    add_token(v, TOKEN_NORMAL, "t"); /* of two tokens of one text the last is found */
    add_merges(v, pairs, sizeof pairs / sizeof *pairs);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        v->merges[v->vocabulary.n_merges++] =
            (struct merge_text){others[i], (uint32_t)strlen(others[i])};
    v->vocabulary.kind = VOCABULARY_BPE_UTF8;
    (void)snprintf(v->vocabulary.pre, sizeof v->vocabulary.pre, "gemma4");
}

static void make_spm(struct small_vocabulary *v)
{
    static const char *const pieces[] = {
        "\xe2\x96\x81",  "a",        "b", "t", "h", "e", "th", "the", "\xe2\x96\x81the",
        "\xe2\x96\x81t", "\xc3\xa9", "\n"};
    add_specials(v);
    add_bytes(v);
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        add_token(v, TOKEN_NORMAL, pieces[i]);
    v->vocabulary.kind = VOCABULARY_SPM;
    v->vocabulary.adds_space_prefix = true;
}

static void make_wordpiece(struct small_vocabulary *v)
{
    add_specials(v);
    for (char c = 'a'; c <= 'z'; c++) {
        char text[8];
        (void)snprintf(text, sizeof text, "\xe2\x96\x81%c", c);
        add_token(v, TOKEN_NORMAL, text);
        add_token(v, TOKEN_NORMAL, text + 3);
    }
    v->vocabulary.kind = VOCABULARY_WORDPIECE;
    v->vocabulary.lowercases = v->vocabulary.strips_accents = true;
}

void small_vocabulary_init(struct small_vocabulary *v, int kind)
{
    static const char *const pres[] = {"gpt-2", "llama-bpe", "tekken", "deepseek-v3"};
    *v = (struct small_vocabulary){0};
    v->vocabulary = (struct vocabulary){.token = v->tokens,
                                        .merge = v->merges,
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
    if (kind == SMALL_SPM)
        make_spm(v);
    else if (kind == SMALL_WORDPIECE)
        make_wordpiece(v);
    else if (kind == SMALL_BPE_UTF8)
        make_bpe_utf8(v);
    else
        make_bpe(v, pres[kind]);
}

/* ---- asking everything ----------------------------------------------------------------------- */

static void must(bool holds)
{
    if (!holds)
        abort();
}

static uint64_t encode(const struct tokenizer *tokenizer, const char *text, unsigned flags)
{
    const struct vocabulary *v = tokenizer_vocabulary(tokenizer);
    struct token_list ids;
    struct buffer out;
    serverd_error err;
    token_list_init(&ids, 4096);
    buffer_init(&out, 1 << 24);
    tokenizer_guard(tokenizer, text, strlen(text), &out);
    uint64_t sum = hash_bytes(buffer_str(&out), out.len, 1);
    buffer_reset(&out);
    if (tokenizer_encode(tokenizer, text, strlen(text), flags, &ids, &err) == SERVERD_OK) {
        for (uint32_t i = 0; i < ids.n; i++)
            must(ids.id[i] >= 0 && ids.id[i] < (int32_t)v->n_tokens);
        tokenizer_decode(tokenizer, ids.id, ids.n, flags & 1, &out);
    }
    sum = hash_bytes(buffer_str(&out), out.len, sum);
    sum = hash_bytes(ids.n > 0 ? ids.id : &(int32_t){0}, ids.n * sizeof *ids.id, sum);
    buffer_deinit(&out);
    token_list_deinit(&ids);
    return sum;
}

uint64_t exercise_tokenizer(const struct tokenizer *tokenizer)
{
    static const char *const texts[] = {
        "the theatre and the  12 \xe2\x82\xac quid\n\n<b>Th\xc3\xa9 \xc3\xa9t\xc3\xa9</b>",
        "<s><|im_start|>user<|im_end|> \xff\x80 <unk></s>\n\n\n"};
    const struct vocabulary *v = tokenizer_vocabulary(tokenizer);
    uint64_t sum = v->n_tokens;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        for (unsigned flags = 0; flags < 4; flags++)
            sum = sum * 31 + encode(tokenizer, texts[i], flags);
    for (int32_t id = -1; id <= (int32_t)v->n_tokens; id++) {
        uint32_t len, text_len = 0;
        const char *piece = tokenizer_piece(tokenizer, id, &len), *text = "";
        if (id >= 0 && id < (int32_t)v->n_tokens) {
            text = vocabulary_text(v, (uint32_t)id, &text_len);
            sum += vocabulary_type(v, (uint32_t)id);
        }
        const int32_t found = tokenizer_find(tokenizer, text, text_len);
        must(found >= -1 && found < (int32_t)v->n_tokens);
        sum = hash_bytes(piece, len, sum) + (uint64_t)found;
        sum += tokenizer_is_control(tokenizer, id) + 2u * tokenizer_is_end(tokenizer, id);
    }
    uint32_t n;
    const int32_t *ends = tokenizer_end_tokens(tokenizer, &n);
    for (uint32_t i = 0; i < n; i++)
        must(ends[i] >= 0 && ends[i] < (int32_t)v->n_tokens);
    return sum;
}
