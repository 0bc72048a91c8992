#include "server/dialects/token_logprobs.h"

#include "base/numeric.h"
#include "base/utf8.h"

#include <string.h>

#define LIMIT_LOGPROB_TEXT (256 * MIB)

/* Chat shows the tokens of the content alone. */
struct held_entry {
    uint64_t first_byte; /* in the choice's text */
    size_t n;            /* of held_json */
};

void logprob_text_init(struct logprob_text *l)
{
    buffer_init(&l->content, LIMIT_LOGPROB_TEXT);
    buffer_init(&l->tokens, LIMIT_LOGPROB_TEXT);
    buffer_init(&l->values, LIMIT_LOGPROB_TEXT);
    buffer_init(&l->tops, LIMIT_LOGPROB_TEXT);
    buffer_init(&l->offsets, LIMIT_LOGPROB_TEXT);
    buffer_init(&l->held, LIMIT_LOGPROB_TEXT);
    buffer_init(&l->held_json, LIMIT_LOGPROB_TEXT);
    buffer_init(&l->piece, MIB);
}

void logprob_text_deinit(struct logprob_text *l)
{
    buffer_deinit(&l->content);
    buffer_deinit(&l->tokens);
    buffer_deinit(&l->values);
    buffer_deinit(&l->tops);
    buffer_deinit(&l->offsets);
    buffer_deinit(&l->held);
    buffer_deinit(&l->held_json);
    buffer_deinit(&l->piece);
}

void logprob_text_reset(struct logprob_text *l)
{
    buffer_reset(&l->content);
    buffer_reset(&l->tokens);
    buffer_reset(&l->values);
    buffer_reset(&l->tops);
    buffer_reset(&l->offsets);
    l->n = 0;
}

/* ---- names of tokens ---- */

/* How a completion's logprobs name a token: its text, token_id:N if asked for, and bytes:\xe2
 * where the text is a part of a character. */
static void name_token(const struct token_style *style, int32_t token, struct buffer *out)
{
    uint32_t n;
    const char *bytes = tokenizer_piece(style->tokenizer, token, &n);
    buffer_reset(out);
    if (style->as_ids) {
        buffer_printf(out, "token_id:%d", token);
    } else if (utf8_valid_run(bytes, n) == n) {
        buffer_append(out, bytes, n);
    } else {
        buffer_append_str(out, "bytes:");
        for (uint32_t i = 0; i < n; i++)
            buffer_printf(out, "\\x%02x", (uint8_t)bytes[i]);
    }
}

bool token_has_text(const struct token_style *style, int32_t token)
{
    return !(style->skips_special && tokenizer_is_control(style->tokenizer, token));
}

uint64_t count_code_points(const char *bytes, size_t n)
{
    uint64_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((uint8_t)bytes[i] & 0xc0) != 0x80;
    return count;
}

uint64_t token_code_points(const struct token_style *style, int32_t token)
{
    uint32_t n;
    const char *bytes = tokenizer_piece(style->tokenizer, token, &n);
    return token_has_text(style, token) ? count_code_points(bytes, n) : 0;
}

/* ---- entries ---- */

static void write_logprob(struct buffer *out, float logprob)
{
    buffer_append_f32(out, logprob > -9999.0f ? logprob : -9999.0f);
}

/* Whether an earlier entry of the map has the same name; with equal texts the larger counts. */
static bool is_named_before(const struct token_style *style, const struct logprobs *l,
                            uint32_t index, int32_t token)
{
    uint32_t n, m;
    const char *bytes = tokenizer_piece(style->tokenizer, token, &n);
    if (style->as_ids)
        return false;
    for (uint32_t i = 0; i < index; i++) {
        const char *other = tokenizer_piece(style->tokenizer, l->top[i].token, &m);
        if (m == n && memcmp(bytes, other, n) == 0)
            return true;
    }
    return false;
}

static void write_entry(struct logprob_text *text, const struct token_style *style, int32_t token,
                        float logprob, bool is_first)
{
    struct buffer *out = &text->tops;
    name_token(style, token, &text->piece);
    if (!is_first)
        buffer_append_char(out, ',');
    buffer_append_json_string(out, buffer_str(&text->piece), text->piece.len);
    buffer_append_char(out, ':');
    write_logprob(out, logprob);
}

/* {piece: logprob} of the best, and of the chosen token. */
static void write_top_map(struct logprob_text *text, const struct token_style *style,
                          const struct logprobs *l)
{
    struct buffer *out = &text->tops;
    bool is_first = true, has_chosen = false;
    buffer_append_char(out, '{');
    for (uint32_t i = 0; i < l->n_top; i++) {
        has_chosen = has_chosen || l->top[i].token == l->chosen.token;
        if (is_named_before(style, l, i, l->top[i].token))
            continue;
        write_entry(text, style, l->top[i].token, l->top[i].logprob, is_first);
        is_first = false;
    }
    if (!has_chosen && !is_named_before(style, l, l->n_top, l->chosen.token))
        write_entry(text, style, l->chosen.token, l->chosen.logprob, is_first);
    buffer_append_char(out, '}');
}

void logprob_text_add(struct logprob_text *text, const struct token_style *style, int32_t token,
                      const struct logprobs *l, uint64_t offset)
{
    const char *comma = text->n++ ? "," : "";
    name_token(style, token, &text->piece);
    buffer_append_str(&text->tokens, comma);
    buffer_append_json_string(&text->tokens, buffer_str(&text->piece), text->piece.len);
    buffer_append_str(&text->offsets, comma);
    buffer_append_u64(&text->offsets, offset);
    buffer_append_str(&text->values, comma);
    buffer_append_str(&text->tops, comma);
    if (!l) {
        buffer_append_str(&text->values, "null");
        buffer_append_str(&text->tops, "null");
        return;
    }
    write_logprob(&text->values, l->chosen.logprob);
    write_top_map(text, style, l);
}

/* By hand: with 20 alternatives this is a good part of what a token costs. */
static void write_byte_list(const char *bytes, uint32_t n, struct buffer *out)
{
    buffer_append_str(out, ",\"bytes\":[");
    for (uint32_t i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)bytes[i];
        const char digits[] = {(char)('0' + byte / 100), (char)('0' + byte / 10 % 10),
                               (char)('0' + byte % 10)};
        size_t n_zeros = byte >= 100 ? 0 : byte >= 10 ? 1 : 2;
        if (i > 0)
            buffer_append_char(out, ',');
        buffer_append(out, digits + n_zeros, 3 - n_zeros);
    }
    buffer_append_char(out, ']');
}

/* {"token","logprob","bytes"...} of the chat's list. */
static void write_chat_token(const struct token_style *style, int32_t token, float logprob,
                             struct buffer *out)
{
    uint32_t n;
    const char *bytes = tokenizer_piece(style->tokenizer, token, &n);
    buffer_append_str(out, "{\"token\":");
    if (style->as_ids)
        buffer_printf(out, "\"token_id:%d\"", token);
    else
        buffer_append_json_string(out, bytes, n);
    buffer_append_str(out, ",\"logprob\":");
    write_logprob(out, logprob);
    write_byte_list(bytes, n, out);
}

void logprob_text_hold(struct logprob_text *text, const struct token_style *style,
                       const struct logprobs *l, uint64_t first_byte)
{
    struct buffer *out = &text->held_json;
    size_t before = out->len;
    write_chat_token(style, l->chosen.token, l->chosen.logprob, out);
    buffer_append_str(out, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < l->n_top; i++) {
        if (i)
            buffer_append_char(out, ',');
        write_chat_token(style, l->top[i].token, l->top[i].logprob, out);
        buffer_append_char(out, '}');
    }
    buffer_append_str(out, "]}");
    const struct held_entry entry = {first_byte, out->len - before};
    buffer_append(&text->held, &entry, sizeof entry);
}

void logprob_text_decide(struct logprob_text *text, enum stream_part part, uint64_t end)
{
    size_t done = 0, n_json = 0;
    struct held_entry entry;
    for (; done < text->held.len; done += sizeof entry) {
        memcpy(&entry, text->held.data + done, sizeof entry);
        if (entry.first_byte >= end)
            break;
        if (part == STREAM_CONTENT) {
            if (text->content.len > 0)
                buffer_append_char(&text->content, ',');
            buffer_append(&text->content, text->held_json.data + n_json, entry.n);
        }
        n_json += entry.n;
    }
    buffer_consume(&text->held, done);
    buffer_consume(&text->held_json, n_json);
}

/* ---- values ---- */

static void write_joined(struct buffer *out, const char *name, const struct buffer *first,
                         const struct buffer *second)
{
    buffer_printf(out, "\"%s\":[", name);
    if (first)
        buffer_append(out, buffer_str(first), first->len);
    if (first && first->len > 0 && second->len > 0)
        buffer_append_char(out, ',');
    buffer_append(out, buffer_str(second), second->len);
    buffer_append_char(out, ']');
}

void logprob_text_write_completion(const struct logprob_text *l, const struct logprob_text *before,
                                   struct buffer *out)
{
    buffer_append_char(out, '{');
    write_joined(out, "tokens", before ? &before->tokens : NULL, &l->tokens);
    buffer_append_char(out, ',');
    write_joined(out, "token_logprobs", before ? &before->values : NULL, &l->values);
    buffer_append_char(out, ',');
    write_joined(out, "top_logprobs", before ? &before->tops : NULL, &l->tops);
    buffer_append_char(out, ',');
    write_joined(out, "text_offset", before ? &before->offsets : NULL, &l->offsets);
    buffer_append_char(out, '}');
}

void logprob_text_write_chat(const struct logprob_text *l, struct buffer *out)
{
    buffer_append_str(out, "{\"content\":[");
    buffer_append(out, buffer_str(&l->content), l->content.len);
    buffer_append_str(out, "],\"refusal\":null}");
}

/* ---- prompts ---- */

static void write_ranked(const struct token_style *style, struct token_logprob l, uint32_t rank,
                         struct buffer *out)
{
    uint32_t n;
    const char *piece = tokenizer_piece(style->tokenizer, l.token, &n);
    buffer_printf(out, "\"%d\":{\"logprob\":", l.token);
    buffer_append_f32(out, l.logprob);
    buffer_printf(out, ",\"rank\":%u,\"decoded_token\":\"", rank);
    buffer_append_json(out, piece, n);
    buffer_append_str(out, "\"}");
}

void prompt_logprob_write(const struct token_style *style, const struct logprobs *l, uint32_t n_top,
                          struct buffer *out)
{
    buffer_append_str(out, ",{");
    write_ranked(style, l->chosen, l->chosen_rank, out);
    for (uint32_t i = 0; i < min_u32(l->n_top, n_top); i++)
        if (l->top[i].token != l->chosen.token) {
            buffer_append_char(out, ',');
            write_ranked(style, l->top[i], i + 1, out);
        }
    buffer_append_char(out, '}');
}
