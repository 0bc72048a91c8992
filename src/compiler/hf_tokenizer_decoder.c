/* The decoder of tokenizer.json. It is applied to each token at once, here, so that running text is
 * pieces one behind the other; what would need to see the whole text is refused by name, but for
 * one blank that goes from its begin. */
#include "base/buffer.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/utf8.h"
#include "compiler/hf_tokenizer_internal.h"

#include <string.h>

#define MARK "\xe2\x96\x81"

enum { MAX_DECODERS = 16, MAPPED_CODES = 0x144 /* of byte-level BPE */ };

enum decoder_kind { DECODE_BYTES, DECODE_REPLACE, DECODE_FALLBACK, DECODE_STRIP, DECODE_CLEAN };

struct decoder {
    enum decoder_kind kind;
    const char *text, *other; /* REPLACE: text by other; STRIP: the character */
    uint32_t left, right;     /* of STRIP: how many at most */
};

struct decoding {
    struct decoder decoder[MAX_DECODERS];
    uint32_t n;
    bool is_fused;                 /* what follows sees the whole text */
    bool has_words;                /* of WordPiece */
    bool drops_prefix;             /* one blank in front of the whole text */
    int16_t byte_of[MAPPED_CODES]; /* -1: none */
};

/* ---- reading --------------------------------------------------------------------------------- */

static serverd_status refuse(const struct json_place *place, const char *what, serverd_error *err)
{
    return fail(err, SERVERD_UNSUPPORTED, "%s: decoder: %s is not supported", place->file, what);
}

static serverd_status add(const struct json_place *place, struct decoding *d,
                          struct decoder decoder, serverd_error *err)
{
    if (d->is_fused)
        return refuse(place, "a decoder behind Fuse", err);
    if (d->n == MAX_DECODERS)
        return refuse(place, "so long a Sequence", err);
    d->decoder[d->n++] = decoder;
    return SERVERD_OK;
}

static serverd_status read_bytes(const struct hf_tokenizer *t, const struct json_place *place,
                                 struct decoding *d, serverd_error *err)
{
    (void)t;
    return add(place, d, (struct decoder){.kind = DECODE_BYTES}, err);
}

static serverd_status read_fallback(const struct hf_tokenizer *t, const struct json_place *place,
                                    struct decoding *d, serverd_error *err)
{
    (void)t;
    return add(place, d, (struct decoder){.kind = DECODE_FALLBACK}, err);
}

static serverd_status read_fuse(const struct hf_tokenizer *t, const struct json_place *place,
                                struct decoding *d, serverd_error *err)
{
    (void)t, (void)place, (void)err;
    d->is_fused = true;
    return SERVERD_OK;
}

static serverd_status read_replace(const struct hf_tokenizer *t, const struct json_place *place,
                                   struct decoding *d, serverd_error *err)
{
    (void)t;
    const json_t *pattern = json_object_get(json_place_get(place, "pattern"), "String");
    const char *text = json_string_value(pattern);
    const char *content = json_string_value(json_place_get(place, "content"));
    if (!text)
        return refuse(place, "Replace with an expression", err);
    if (!content || text[0] == '\0')
        return json_place_fail(place, "content", "a string", err);
    return add(place, d, (struct decoder){.kind = DECODE_REPLACE, .text = text, .other = content},
               err);
}

static serverd_status read_strip(const struct hf_tokenizer *t, const struct json_place *place,
                                 struct decoding *d, serverd_error *err)
{
    (void)t;
    const char *content = " ";
    struct decoder strip = {.kind = DECODE_STRIP};
    serverd_status status;
    if ((status = json_place_string(place, "content", &content, err)) != SERVERD_OK ||
        (status = json_place_u32(place, "start", 0, LIMIT_TOKEN_BYTES, &strip.left, err)) !=
            SERVERD_OK ||
        (status = json_place_u32(place, "stop", 0, LIMIT_TOKEN_BYTES, &strip.right, err)) !=
            SERVERD_OK)
        return status;
    strip.text = content;
    if (!d->is_fused)
        return add(place, d, strip, err);
    if (strcmp(content, " ") != 0 || strip.left > 1 || strip.right > 0)
        return refuse(place, "Strip of more than one blank in front, behind Fuse,", err);
    d->drops_prefix |= strip.left == 1;
    return SERVERD_OK;
}

static serverd_status read_metaspace(const struct hf_tokenizer *t, const struct json_place *place,
                                     struct decoding *d, serverd_error *err)
{
    (void)t;
    const char *mark = MARK, *scheme = NULL;
    bool has_prefix = true;
    serverd_status status;
    if ((status = json_place_string(place, "replacement", &mark, err)) != SERVERD_OK ||
        (status = json_place_bool(place, "add_prefix_space", &has_prefix, err)) != SERVERD_OK ||
        (status = json_place_string(place, "prepend_scheme", &scheme, err)) != SERVERD_OK)
        return status;
    if (mark[0] == '\0')
        return json_place_fail(place, "replacement", "a character", err);
    d->drops_prefix |= scheme ? strcmp(scheme, "never") != 0 : has_prefix;
    return add(place, d, (struct decoder){.kind = DECODE_REPLACE, .text = mark, .other = " "}, err);
}

/* Words stand behind U+2581 in the vocabulary already. */
static serverd_status read_wordpiece(const struct hf_tokenizer *t, const struct json_place *place,
                                     struct decoding *d, serverd_error *err)
{
    bool cleans = true;
    const char *prefix = "##";
    serverd_status status;
    if ((status = json_place_string(place, "prefix", &prefix, err)) != SERVERD_OK ||
        (status = json_place_bool(place, "cleanup", &cleans, err)) != SERVERD_OK)
        return status;
    if (t->vocabulary->kind != VOCABULARY_WORDPIECE || strcmp(prefix, "##") != 0)
        return refuse(place, "WordPiece with another model or prefix", err);
    d->drops_prefix = d->has_words = true;
    status =
        add(place, d, (struct decoder){.kind = DECODE_REPLACE, .text = MARK, .other = " "}, err);
    if (status == SERVERD_OK && cleans)
        status = add(place, d, (struct decoder){.kind = DECODE_CLEAN}, err);
    return status;
}

/* One of the table, or a Sequence of such. Nests as deeply as JSON may. */
static serverd_status read_decoder(const struct hf_tokenizer *t, const struct json_place *place,
                                   struct decoding *d, serverd_error *err)
{
    static const struct {
        const char *type;
        serverd_status (*read)(const struct hf_tokenizer *t, const struct json_place *place,
                               struct decoding *d, serverd_error *err);
    } rows[] = {
        {"ByteLevel", read_bytes}, {"Metaspace", read_metaspace},   {"WordPiece", read_wordpiece},
        {"Replace", read_replace}, {"ByteFallback", read_fallback}, {"Fuse", read_fuse},
        {"Strip", read_strip}};
    const char *type;
    serverd_status status = hf_tokenizer_type(place, &type, err);
    if (status != SERVERD_OK)
        return status;
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_place_get(place, "decoders");
        if (!json_is_array(list))
            return json_place_fail(place, "decoders", "an array", err);
        for (size_t i = 0; i < json_array_size(list) && status == SERVERD_OK; i++) {
            const struct json_place item = {
                .file = place->file, .where = place->where, .object = json_array_get(list, i)};
            status = read_decoder(t, &item, d, err);
        }
        return status;
    }
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(rows[i].type, type) == 0)
            return rows[i].read(t, place, d, err);
    return fail(err, SERVERD_UNSUPPORTED, "%s: decoder: type \"%.32s\" is not supported",
                place->file, type);
}

/* ---- applying -------------------------------------------------------------------------------- */

static void replace(const char *from, const char *to, const struct buffer *in, struct buffer *out)
{
    const char *at = buffer_str(in), *end = at + in->len;
    const size_t n = strlen(from);
    for (const char *found; (found = memmem(at, (size_t)(end - at), from, n)); at = found + n) {
        buffer_append(out, at, (size_t)(found - at));
        buffer_append_str(out, to);
    }
    buffer_append(out, at, (size_t)(end - at));
}

/* What prints stands for itself, the other bytes follow each other from U+0100 on. */
static void map_bytes(struct decoding *d)
{
    uint32_t next = 0x100;
    for (uint32_t code = 0; code < MAPPED_CODES; code++)
        d->byte_of[code] = -1;
    for (int byte = 0; byte < 256; byte++) {
        bool is_own = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
        d->byte_of[is_own ? (uint32_t)byte : next++] = (int16_t)byte;
    }
}

/* All characters are mapped ones, or the text stays as it is. */
static void unmap(const struct decoding *d, const struct buffer *in, struct buffer *out)
{
    const char *text = buffer_str(in);
    for (size_t at = 0; at < in->len;) {
        uint32_t code;
        at += utf8_decode(text + at, in->len - at, &code);
        if (code >= MAPPED_CODES || d->byte_of[code] < 0) {
            buffer_reset(out);
            buffer_append(out, text, in->len);
            return;
        }
        buffer_append_char(out, (char)d->byte_of[code]);
    }
}

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef", *at = NULL;
    if (c)
        at = strchr(digits, c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c);
    return at ? (int)(at - digits) : -1;
}

/* "<0xNN>" is the byte. */
static void fall_back(const struct buffer *in, struct buffer *out)
{
    const char *text = buffer_str(in);
    int high = -1, low = -1;
    if (in->len == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>') {
        high = hex_digit(text[3]);
        low = hex_digit(text[4]);
    }
    if (high >= 0 && low >= 0)
        buffer_append_char(out, (char)(high * 16 + low));
    else
        buffer_append(out, text, in->len);
}

static void strip(const struct decoder *decoder, const struct buffer *in, struct buffer *out)
{
    const char *text = buffer_str(in);
    const size_t n = strlen(decoder->text);
    size_t begin = 0, end = in->len;
    for (uint32_t i = 0; n > 0 && i < decoder->left && end - begin >= n &&
                         memcmp(text + begin, decoder->text, n) == 0;
         i++)
        begin += n;
    for (uint32_t i = 0; n > 0 && i < decoder->right && end - begin >= n &&
                         memcmp(text + end - n, decoder->text, n) == 0;
         i++)
        end -= n;
    buffer_append(out, text + begin, end - begin);
}

/* English punctuation without the blank before it, in this order. */
static void clean(struct buffer *in, struct buffer *out)
{
    static const char *const rows[][2] = {{" .", "."},     {" ?", "?"},           {" !", "!"},
                                          {" ,", ","},     {" ' ", "'"},          {" n't", "n't"},
                                          {" 'm", "'m"},   {" do not", " don't"}, {" 's", "'s"},
                                          {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        buffer_reset(out);
        replace(rows[i][0], rows[i][1], in, out);
        struct buffer swap = *in;
        *in = *out;
        *out = swap;
    }
    struct buffer swap = *in;
    *in = *out;
    *out = swap;
}

/* The result is in *text. */
static void decode(const struct decoding *d, struct buffer *text, struct buffer *spare)
{
    for (uint32_t i = 0; i < d->n; i++) {
        const struct decoder *decoder = &d->decoder[i];
        buffer_reset(spare);
        if (decoder->kind == DECODE_BYTES)
            unmap(d, text, spare);
        else if (decoder->kind == DECODE_REPLACE)
            replace(decoder->text, decoder->other, text, spare);
        else if (decoder->kind == DECODE_FALLBACK)
            fall_back(text, spare);
        else if (decoder->kind == DECODE_STRIP)
            strip(decoder, text, spare);
        else
            clean(text, spare);
        struct buffer swap = *text;
        *text = *spare;
        *spare = swap;
    }
}

/* Control tokens are their name; user-defined ones of a byte-level model are no mapped text. */
static bool is_raw(const struct hf_tokenizer *t, uint8_t type)
{
    return type == TOKEN_CONTROL || type == TOKEN_UNKNOWN ||
           (type == TOKEN_USER_DEFINED && t->vocabulary->kind == VOCABULARY_BPE);
}

/* An added token of WordPiece is a word without its mark, unless it says that it goes on. */
static void put_text(const struct decoding *d, const struct token_text *token, struct buffer *out)
{
    const bool goes_on = token->len >= 2 && memcmp(token->bytes, "##", 2) == 0;
    if (!d->has_words || token->type != TOKEN_USER_DEFINED)
        buffer_append(out, token->bytes, token->len);
    else if (goes_on)
        buffer_append(out, token->bytes + 2, token->len - 2);
    if (d->has_words && token->type == TOKEN_USER_DEFINED && !goes_on) {
        buffer_append_str(out, MARK);
        buffer_append(out, token->bytes, token->len);
    }
}

static serverd_status make_pieces(struct hf_tokenizer *t, const struct decoding *d,
                                  serverd_error *err)
{
    struct buffer text, spare;
    struct piece *pieces = arena_array(t->arena, t->n_tokens, sizeof *pieces);
    bool fits = pieces;
    buffer_init(&text, 16 * MIB);
    buffer_init(&spare, 16 * MIB);
    for (uint32_t i = 0; i < t->n_tokens && fits; i++) {
        const struct token_text *token = &t->token[i];
        if (is_raw(t, token->type)) {
            pieces[i] = (struct piece){token->bytes, token->len};
            continue;
        }
        buffer_reset(&text);
        put_text(d, token, &text);
        decode(d, &text, &spare);
        const char *copy = arena_copy(t->arena, buffer_str(&text), text.len);
        fits = copy && !text.is_failed && !spare.is_failed;
        pieces[i] = (struct piece){copy, (uint32_t)text.len};
    }
    buffer_deinit(&text);
    buffer_deinit(&spare);
    t->vocabulary->piece = pieces;
    return fits ? SERVERD_OK : hf_tokenizer_no_memory(t, err);
}

serverd_status hf_tokenizer_decoder(struct hf_tokenizer *t, serverd_error *err)
{
    struct decoding d = {0};
    struct json_place place = {.file = t->root.file};
    serverd_status status = json_place_object(&t->root, "decoder", &place, err);
    if (status != SERVERD_OK || !place.object)
        return status;
    place.where = "decoder";
    map_bytes(&d);
    if ((status = read_decoder(t, &place, &d, err)) != SERVERD_OK)
        return status;
    t->vocabulary->adds_space_prefix = d.drops_prefix;
    return make_pieces(t, &d, err);
}
