/* WordPiece ("bert"): normalised words, each cut greedily into its longest pieces. */
#include "base/error.h"
#include "base/numeric.h"
#include "base/utf8.h"
#include "text/characters_internal.h"
#include "text/tokenizer_internal.h"

#include <string.h>
#include <utf8proc.h>

#define WORD_START     "\xe2\x96\x81"
#define WORD_START_LEN 3

/* Longer words are unknown: characters, as in the reference. */
#define MAX_WORD_CHARS 100

static bool is_space(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return c == '\t' || c == '\n' || c == '\r' || category == UTF8PROC_CATEGORY_ZS ||
           category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP;
}

/* Controls, formats and private use are no text; other controls that are white space, neither. */
static bool is_dropped(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return c == 0 || c == UTF8_REPLACEMENT ||
           ((category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
             category == UTF8PROC_CATEGORY_CO) &&
            !is_space(c));
}

static bool is_word_of_its_own(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    bool is_punctuation = category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
    bool is_ascii_symbol =
        c < 0x80 && category >= UTF8PROC_CATEGORY_SM && category <= UTF8PROC_CATEGORY_SO;
    return is_punctuation || is_ascii_symbol || char_is_ideograph(c);
}

static bool is_accent(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_MN;
}

/* A word that is being collected; its text begins with U+2581. */
struct word {
    const struct tokenizer *tokenizer;
    struct buffer *text;
    uint32_t n_chars; /* without the mark */
    struct token_list *out;
};

/* Appends the word's pieces; false: the list is full. */
static bool encode_word(const struct word *word)
{
    const struct tokenizer *tokenizer = word->tokenizer;
    const char *text = word->text->data;
    const size_t n = word->text->len;
    struct token_list *out = word->out;
    uint32_t before = out->n;
    size_t at = 0;
    while (at < n && word->n_chars <= MAX_WORD_CHARS) {
        size_t end = at + min_size(n - at, tokenizer->texts.longest);
        int32_t id = NO_TOKEN;
        if (at > 0 && n - at >= WORD_START_LEN &&
            memcmp(text + at, WORD_START, WORD_START_LEN) == 0)
            break; /* a mark of the text's own begins no word */
        while (end > at && id < 0) {
            id = plain_token(tokenizer, text_table_find(&tokenizer->texts, text + at, end - at));
            end -= id < 0;
        }
        if (id < 0)
            break;
        if (!token_list_add(out, id))
            return false;
        at = end;
    }
    if (at == n)
        return true;
    out->n = before;
    return tokenizer->vocabulary.unknown < 0 || token_list_add(out, tokenizer->vocabulary.unknown);
}

static bool end_word(struct word *word)
{
    bool fits = word->text->len == 0 || encode_word(word);
    buffer_reset(word->text);
    word->n_chars = 0;
    return fits;
}

static void append_code(struct word *word, uint32_t c)
{
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t len = utf8proc_encode_char((utf8proc_int32_t)c, bytes);
    if (word->text->len == 0)
        buffer_append_str(word->text, WORD_START);
    buffer_append(word->text, bytes, len > 0 ? (size_t)len : 0);
    word->n_chars++;
}

static bool add_code(struct word *word, uint32_t c)
{
    if (is_space(c))
        return end_word(word);
    if (!is_word_of_its_own(c)) {
        append_code(word, c);
        return true;
    }
    if (!end_word(word))
        return false;
    append_code(word, c);
    return end_word(word);
}

/* Lowercase, decomposed, without accents, as the vocabulary's flags say. */
static bool add_normalised(struct word *word, uint32_t c)
{
    const struct vocabulary *v = &word->tokenizer->vocabulary;
    utf8proc_int32_t codes[32] = {(utf8proc_int32_t)c};
    utf8proc_ssize_t n = 1;
    if (v->strips_accents) {
        int boundary = 0;
        n = utf8proc_decompose_char((utf8proc_int32_t)c, codes, 32, UTF8PROC_DECOMPOSE, &boundary);
    }
    bool fits = true;
    for (utf8proc_ssize_t i = 0; i < n && i < 32 && fits; i++) {
        uint32_t code = (uint32_t)codes[i];
        if (v->lowercases)
            code = (uint32_t)utf8proc_tolower((utf8proc_int32_t)code);
        if (!v->strips_accents || !is_accent(code))
            fits = add_code(word, code);
    }
    return fits;
}

bool wordpiece_encode_fragment(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                               const char *text, size_t n, struct token_list *out)
{
    struct word word = {.tokenizer = tokenizer, .text = &scratch->text, .out = out};
    buffer_reset(word.text);
    for (size_t at = 0; at < n;) {
        uint32_t code;
        at += utf8_decode(text + at, n - at, &code);
        append_code(&word, code);
    }
    return !word.text->is_failed && end_word(&word);
}

serverd_status wordpiece_encode(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                                const char *text, size_t n, struct token_list *out,
                                serverd_error *err)
{
    struct word word = {.tokenizer = tokenizer, .text = &scratch->text, .out = out};
    buffer_reset(word.text);
    for (size_t at = 0; at < n;) {
        uint32_t code;
        at += utf8_decode(text + at, n - at, &code);
        if (!is_dropped(code) && !add_normalised(&word, code))
            return tokenizer_list_error(out, err);
        if (word.text->is_failed)
            return fail(err, SERVERD_NOMEM, "no memory to tokenise %zu bytes", n);
    }
    return end_word(&word) ? SERVERD_OK : tokenizer_list_error(out, err);
}
