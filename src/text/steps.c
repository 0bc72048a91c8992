/* Normalisers of texts, as the tokenizers package defines them. */
#include "base/utf8.h"
#include "text/characters_internal.h"
#include "text/pipeline_internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

bool step_is_space(uint32_t code)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    return (code >= 9 && code <= 13) || code == 0x85 || category == UTF8PROC_CATEGORY_ZS ||
           category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP;
}

static void append_code(struct buffer *out, uint32_t code)
{
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t len = utf8proc_encode_char((utf8proc_int32_t)code, bytes);
    buffer_append(out, bytes, len > 0 ? (size_t)len : 0);
}

/* Marks that take no room of their own; BERT's accents. */
static bool is_accent(uint32_t code)
{
    return utf8proc_category((utf8proc_int32_t)code) == UTF8PROC_CATEGORY_MN;
}

static bool is_mark(uint32_t code)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

static void drop(bool (*is_dropped)(uint32_t code), const char *text, size_t n, struct buffer *out)
{
    for (size_t at = 0; at < n;) {
        uint32_t code;
        size_t len = utf8_decode(text + at, n - at, &code);
        if (!is_dropped(code))
            buffer_append(out, text + at, len);
        at += len;
    }
}

void step_unicode(enum vocabulary_step_kind kind, const char *text, size_t n, struct buffer *out)
{
    const bool is_compatible = kind == STEP_NFKC || kind == STEP_NFKD;
    const bool composes = kind == STEP_NFC || kind == STEP_NFKC;
    int options = UTF8PROC_STABLE | (composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                  (is_compatible ? UTF8PROC_COMPAT : 0);
    utf8proc_uint8_t *mapped = NULL;
    utf8proc_ssize_t len =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &mapped, options);
    if (len < 0)
        out->is_failed = true; /* no memory: the text is valid */
    else
        buffer_append(out, mapped, (size_t)len);
    free(mapped);
}

/* One character gives one, but for a capital I with a dot. */
static void append_lower(struct buffer *out, uint32_t code)
{
    if (code == 0x130)
        buffer_append_str(out, "i\xcc\x87");
    else
        append_code(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)code));
}

void step_lowercase(const char *text, size_t n, struct buffer *out)
{
    for (size_t at = 0; at < n;) {
        uint32_t code;
        at += utf8_decode(text + at, n - at, &code);
        append_lower(out, code);
    }
}

void step_strip_accents(const char *text, size_t n, struct buffer *out)
{
    drop(is_mark, text, n, out);
}

void step_strip(uint32_t flags, const char *text, size_t n, struct buffer *out)
{
    size_t begin = 0, end = 0;
    bool has_begun = !(flags & STEP_STRIPS_LEFT);
    for (size_t at = 0; at < n;) {
        uint32_t code;
        size_t len = utf8_decode(text + at, n - at, &code);
        if (!step_is_space(code) && !has_begun) {
            begin = at;
            has_begun = true;
        }
        at += len;
        if (!step_is_space(code))
            end = at;
    }
    if (!(flags & STEP_STRIPS_RIGHT))
        end = n;
    if (has_begun && end > begin)
        buffer_append(out, text + begin, end - begin);
}

static bool is_control(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return c != '\t' && c != '\n' && c != '\r' &&
           (category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
            category == UTF8PROC_CATEGORY_CO);
}

/* Drops what is no text, writes white space as blanks, sets ideographs apart. */
static void clean(uint32_t flags, const char *text, size_t n, struct buffer *out)
{
    for (size_t at = 0; at < n;) {
        uint32_t code;
        size_t len = utf8_decode(text + at, n - at, &code);
        bool is_apart = flags & STEP_SPLITS_IDEOGRAPHS && char_is_ideograph(code);
        if (flags & STEP_CLEANS && (code == 0 || code == UTF8_REPLACEMENT || is_control(code))) {
            at += len;
            continue;
        }
        if (is_apart)
            buffer_append_char(out, ' ');
        if (flags & STEP_CLEANS && step_is_space(code))
            buffer_append_char(out, ' ');
        else
            buffer_append(out, text + at, len);
        if (is_apart)
            buffer_append_char(out, ' ');
        at += len;
    }
}

void step_bert(uint32_t flags, const char *text, size_t n, struct buffer *out)
{
    struct buffer cleaned, decomposed, stripped;
    buffer_init(&cleaned, SIZE_MAX / 2);
    buffer_init(&decomposed, SIZE_MAX / 2);
    buffer_init(&stripped, SIZE_MAX / 2);
    clean(flags, text, n, &cleaned);
    struct buffer *from = &cleaned;
    if (flags & STEP_STRIPS_ACCENTS && cleaned.len > 0) {
        step_unicode(STEP_NFD, cleaned.data, cleaned.len, &decomposed);
        drop(is_accent, buffer_str(&decomposed), decomposed.len, &stripped);
        from = &stripped;
    }
    if (flags & STEP_LOWERCASES)
        step_lowercase(buffer_str(from), from->len, out);
    else
        buffer_append(out, buffer_str(from), from->len);
    out->is_failed |= cleaned.is_failed || decomposed.is_failed || stripped.is_failed;
    buffer_deinit(&cleaned);
    buffer_deinit(&decomposed);
    buffer_deinit(&stripped);
}
