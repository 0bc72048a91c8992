/* What each token stands for in running text, and which tokens end it. */
#include "base/error.h"
#include "base/numeric.h"
#include "base/utf8.h"
#include "text/image_builder_internal.h"

#include <stdlib.h>
#include <string.h>

#define SPACE_MARK     "\xe2\x96\x81"
#define SPACE_MARK_LEN 3

/* ---- bytes and code points of byte-level BPE
 * ----------------------------------------------------- */

static bool is_own_code(unsigned byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

uint32_t bpe_code_of_byte(uint8_t byte)
{
    if (is_own_code(byte))
        return byte;
    /* the others, in order, from U+0100 on: 0..32, 127..160, 173 */
    if (byte <= 32)
        return 0x100u + byte;
    return byte <= 160 ? 0x100u + 33 + (byte - 127u) : 0x100u + 33 + 34;
}

size_t bpe_write_code(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    out[0] = (char)(0xc0 | code >> 6); /* the mapped codes end at U+0143 */
    out[1] = (char)(0x80 | (code & 0x3f));
    return 2;
}

int bpe_byte_of_code(uint32_t code)
{
    if (code < 256)
        return is_own_code(code) ? (int)code : -1;
    uint32_t i = code - 256;
    if (i <= 32)
        return (int)i;
    if (i < 33 + 34)
        return (int)(127 + i - 33);
    return i == 33 + 34 ? 173 : -1;
}

/* ---- pieces -------------------------------------------------------------------------------------
 */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "<0xNN>"; -1: it is not. */
static int byte_token_value(const struct token_text *token)
{
    if (token->len != 6 || memcmp(token->bytes, "<0x", 3) != 0 || token->bytes[5] != '>')
        return -1;
    int high = hex_digit(token->bytes[3]), low = hex_digit(token->bytes[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* out has room for token->len bytes. */
static uint32_t unmap_bytes(const struct token_text *token, char *out)
{
    uint32_t n = 0;
    for (size_t at = 0; at < token->len;) {
        uint32_t code;
        size_t len = utf8_decode(token->bytes + at, token->len - at, &code);
        int byte = bpe_byte_of_code(code);
        if (byte >= 0) {
            out[n++] = (char)byte;
        } else { /* no mapped text: as it stands */
            memcpy(out + n, token->bytes + at, len);
            n += (uint32_t)len;
        }
        at += len;
    }
    return n;
}

static uint32_t unmark_spaces(const struct token_text *token, char *out)
{
    uint32_t n = 0;
    for (uint32_t at = 0; at < token->len;) {
        if (token->len - at >= SPACE_MARK_LEN &&
            memcmp(token->bytes + at, SPACE_MARK, SPACE_MARK_LEN) == 0) {
            out[n++] = ' ';
            at += SPACE_MARK_LEN;
        } else {
            out[n++] = token->bytes[at++];
        }
    }
    return n;
}

static uint32_t make_piece(const struct vocabulary *v, const struct token_text *token, uint8_t type,
                           char *out)
{
    bool may_be_byte = type == TOKEN_BYTE || (v->kind == VOCABULARY_BPE_UTF8 && !v->is_stepwise);
    int byte = may_be_byte ? byte_token_value(token) : -1;
    if (byte >= 0) {
        out[0] = (char)byte;
        return 1;
    }
    bool is_raw = type == TOKEN_CONTROL || type == TOKEN_UNKNOWN ||
                  (type == TOKEN_USER_DEFINED && v->kind == VOCABULARY_BPE);
    if (!is_raw)
        return v->kind == VOCABULARY_BPE ? unmap_bytes(token, out) : unmark_spaces(token, out);
    memcpy(out, token->bytes, token->len);
    return token->len;
}

/* Of all pieces; one that is made here is no longer than its text. */
static size_t most_bytes(const struct image_builder *builder)
{
    const struct vocabulary *v = builder->vocabulary;
    size_t sum = 0;
    if (!v->piece)
        return builder->texts.offsets[v->n_tokens];
    for (uint32_t i = 0; i < v->n_tokens; i++)
        sum += v->piece[i].len;
    return sum;
}

serverd_status image_make_pieces(struct image_builder *builder, serverd_error *err)
{
    const struct vocabulary *v = builder->vocabulary;
    builder->piece_bytes = malloc(max_size(most_bytes(builder), 1));
    builder->piece_offsets = malloc(((size_t)v->n_tokens + 1) * sizeof *builder->piece_offsets);
    if (!builder->piece_bytes || !builder->piece_offsets)
        return fail(err, SERVERD_NOMEM, "tokenizer: no memory for %u tokens", v->n_tokens);
    uint32_t end = 0;
    builder->piece_offsets[0] = 0;
    for (uint32_t i = 0; i < v->n_tokens; i++) {
        if (v->piece && v->piece[i].len > 0)
            memcpy(builder->piece_bytes + end, v->piece[i].bytes, v->piece[i].len);
        end += v->piece
                   ? v->piece[i].len
                   : make_piece(v, &v->token[i], builder->types[i], builder->piece_bytes + end);
        builder->piece_offsets[i + 1] = end;
    }
    return SERVERD_OK;
}

/* ---- end of generation
 * --------------------------------------------------------------------------- */

static int compare_ids(const void *a, const void *b)
{
    const int32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static const char *const end_texts[] = {
    "<|eot_id|>",    "<|im_end|>",    "<|end|>", "<|return|>",      "<|call|>",
    "<end_of_turn>", "<|endoftext|>", "</s>",    "<|eom_id|>",      "<EOT>",
    "_<EOT>",        "[EOT]",         "[EOS]",   "<|end_of_text|>", "<end_of_utterance>",
    "<eos>"};

enum { N_END_TEXTS = sizeof end_texts / sizeof *end_texts, N_END_IDS = 6 };

_Static_assert(N_END_TEXTS + N_END_IDS + VOCABULARY_MAX_END_TOKENS <= MAX_END_TOKENS, "all fit");

/* Files mark some end tokens as plain or user-defined text; they are control tokens all the
 * same, as in the reference: text that may not hold control tokens cannot hold them. */
serverd_status image_make_types(struct image_builder *builder, serverd_error *err)
{
    const struct vocabulary *v = builder->vocabulary;
    builder->types = malloc(v->n_tokens);
    if (!builder->types)
        return fail(err, SERVERD_NOMEM, "tokenizer: no memory for %u tokens", v->n_tokens);
    for (uint32_t i = 0; i < v->n_tokens; i++)
        builder->types[i] = v->token[i].type;
    for (size_t i = 0; i < N_END_TEXTS; i++) {
        const int32_t id = image_builder_find(builder, end_texts[i]);
        if (id >= 0)
            builder->types[id] = TOKEN_CONTROL;
    }
    return SERVERD_OK;
}

serverd_status image_make_end_tokens(struct image_builder *builder, serverd_error *err)
{
    (void)err;
    const struct vocabulary *v = builder->vocabulary;
    const int32_t ids[N_END_IDS] = {v->eos,     v->eot,      v->eom,
                                    v->fim_pad, v->fim_repo, v->fim_separator};
    int32_t all[MAX_END_TOKENS];
    const bool is_harmony = image_builder_find(builder, "<|return|>") >= 0 &&
                            image_builder_find(builder, "<|call|>") >= 0;
    uint32_t n = 0;
    for (size_t i = 0; i < N_END_IDS; i++)
        if (ids[i] >= 0)
            all[n++] = ids[i];
    for (uint32_t i = 0; i < v->n_end_tokens; i++)
        all[n++] = v->end_token[i];
    for (size_t i = 0; i < N_END_TEXTS; i++) {
        const int32_t id = image_builder_find(builder, end_texts[i]);
        if (id >= 0 && !(is_harmony && strcmp(end_texts[i], "<|end|>") == 0))
            all[n++] = id;
    }
    qsort(all, n, sizeof *all, compare_ids);
    for (uint32_t i = 0; i < n; i++)
        if (i == 0 || all[i] != all[i - 1])
            builder->end_tokens[builder->n_end_tokens++] = (uint32_t)all[i];
    return SERVERD_OK;
}
