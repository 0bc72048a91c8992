/* Characters, search, case and classes of text. */
#include "base/utf8.h"
#include "text/jinja/text_internal.h"
#include "text/tokenizer.h"

#include <string.h>
#include <utf8proc.h>

static bool is_guard(char c)
{
    return c == TOKENIZER_GUARD;
}

/* ---- characters ---- */

size_t text_offset(struct text t, size_t index)
{
    size_t at = 0;
    uint32_t code;
    while (index > 0 && at < t.n) {
        while (at < t.n && is_guard(t.s[at]))
            at++;
        if (at == t.n)
            break;
        at += utf8_decode(t.s + at, t.n - at, &code);
        index--;
    }
    return at;
}

size_t text_length(struct text t)
{
    size_t n = 0;
    uint32_t code;
    for (size_t at = 0; at < t.n;) {
        if (is_guard(t.s[at])) {
            at++;
            continue;
        }
        at += utf8_decode(t.s + at, t.n - at, &code);
        n++;
    }
    return n;
}

size_t text_last(struct text t)
{
    size_t n = 0;
    while (n < t.n && is_guard(t.s[t.n - n - 1]))
        n++;
    const size_t guards = n;
    if (n < t.n)
        n++;
    while (n < t.n && n - guards < 4 && ((unsigned char)t.s[t.n - n] & 0xc0) == 0x80)
        n++;
    return n;
}

size_t text_line_break(struct text t)
{
    if (t.n == 0)
        return 0;
    const unsigned char *s = (const unsigned char *)t.s;
    if (s[0] == '\r')
        return t.n > 1 && s[1] == '\n' ? 2 : 1;
    if ((s[0] >= 10 && s[0] <= 12) || (s[0] >= 0x1c && s[0] <= 0x1e))
        return 1;
    if (t.n > 1 && s[0] == 0xc2 && s[1] == 0x85)
        return 2;
    return t.n > 2 && s[0] == 0xe2 && s[1] == 0x80 && (s[2] == 0xa8 || s[2] == 0xa9) ? 3 : 0;
}

/* ---- search ---- */

/* Bytes of t that needle takes from its begin on, guards inside included. */
static bool match(struct text t, struct text needle, size_t *len)
{
    size_t at = 0;
    for (size_t i = 0; i < needle.n; i++) {
        if (is_guard(needle.s[i]))
            continue;
        while (at < t.n && is_guard(t.s[at]))
            at++;
        if (at == t.n || t.s[at++] != needle.s[i])
            return false;
    }
    *len = at;
    return true;
}

static bool has_guard(struct text t)
{
    return t.n > 0 && memchr(t.s, TOKENIZER_GUARD, t.n) != NULL;
}

bool text_find(struct text t, struct text needle, bool from_end, size_t *at, size_t *len)
{
    if (!from_end && !has_guard(t) && !has_guard(needle)) {
        const char *found = needle.n ? memmem(t.s, t.n, needle.s, needle.n) : t.s;
        *at = found ? (size_t)(found - t.s) : 0;
        *len = needle.n;
        return found != NULL;
    }
    for (size_t i = 0; i <= t.n; i++) {
        const size_t k = from_end ? t.n - i : i;
        if ((k == t.n || !is_guard(t.s[k]) || needle.n == 0) &&
            match((struct text){t.s + k, t.n - k}, needle, len)) {
            *at = k;
            return true;
        }
    }
    return false;
}

bool text_begins_with(struct text t, struct text prefix, size_t *len)
{
    return match(t, prefix, len);
}

bool text_ends_with(struct text t, struct text suffix, size_t *len)
{
    size_t i = suffix.n, n = t.n;
    while (i > 0) {
        if (is_guard(suffix.s[i - 1])) {
            i--;
            continue;
        }
        while (n > 0 && is_guard(t.s[n - 1]))
            n--;
        if (n == 0 || t.s[n - 1] != suffix.s[i - 1])
            return false;
        n--, i--;
    }
    *len = t.n - n;
    return true;
}

/* ---- case ---- */

static bool is_letter(uint32_t code)
{
    const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT ||
           c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_LO;
}

static bool is_upper(uint32_t code)
{
    const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LT;
}

static bool is_cased(uint32_t code)
{
    return is_upper(code) || utf8proc_category((utf8proc_int32_t)code) == UTF8PROC_CATEGORY_LL;
}

static void put_code(struct buffer *b, utf8proc_int32_t code)
{
    utf8proc_uint8_t bytes[4];
    buffer_append(b, bytes, (size_t)utf8proc_encode_char(code, bytes));
}

static void put_recased(struct buffer *b, uint32_t code, bool up)
{
    if (up && code == 0xdf) /* the common letter whose capital is two letters */
        buffer_append_str(b, "SS");
    else if (!up && code == 0x130) /* I with a dot keeps it, as a combining mark */
        buffer_append_str(b, "i\u0307");
    else
        put_code(b, up ? utf8proc_toupper((utf8proc_int32_t)code)
                       : utf8proc_tolower((utf8proc_int32_t)code));
}

static bool begins_with_cased(struct text t)
{
    uint32_t code;
    return t.n > 0 && utf8_decode(t.s, t.n, &code) > 0 && is_cased(code);
}

struct template_value *text_recased(struct eval *ev, struct text t, enum text_case to)
{
    struct buffer b;
    bool is_first = true, after_cased = false;
    eval_buffer(ev, &b);
    for (size_t at = 0; at < t.n && !b.is_failed;) {
        uint32_t code;
        const size_t n = utf8_decode(t.s + at, t.n - at, &code);
        if (code == UTF8_REPLACEMENT) { /* not a character that has a case, or a guard */
            buffer_append(&b, t.s + at, n);
            after_cased = after_cased && is_guard(t.s[at]);
            is_first = is_first && is_guard(t.s[at]);
        } else {
            const bool is_up = to == CASE_UPPER || (to == CASE_CAPITALIZED && is_first) ||
                               (to == CASE_TITLE && !after_cased) ||
                               (to == CASE_SWAPPED && !is_upper(code));
            const struct text rest = {t.s + at + n, t.n - at - n};
            if (!is_up && code == 0x3a3 && after_cased && !begins_with_cased(rest))
                put_code(&b, 0x3c2); /* sigma at the end of a word */
            else
                put_recased(&b, code, is_up);
            after_cased = is_cased(code);
            is_first = false;
        }
        at += n;
    }
    return eval_take(ev, &b);
}

bool text_is_cased(struct text t, enum text_case in)
{
    bool is_any = false, after_cased = false;
    for (size_t at = 0; at < t.n;) {
        uint32_t code;
        const size_t n = utf8_decode(t.s + at, t.n - at, &code);
        at += n;
        if (is_guard(t.s[at - n]))
            continue;
        const bool is_this = is_cased(code);
        if (is_this) {
            const bool wants_upper = in == CASE_UPPER || (in == CASE_TITLE && !after_cased);
            if (is_upper(code) != wants_upper)
                return false;
            is_any = true;
        }
        after_cased = is_this;
    }
    return is_any;
}

/* ---- classes ---- */

static bool is_decimal(uint32_t code)
{
    return utf8proc_category((utf8proc_int32_t)code) == UTF8PROC_CATEGORY_ND;
}

static bool is_numeric(uint32_t code)
{
    const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

/* Superscripts, subscripts and circled digits are digits without being decimal. */
static bool is_digit(uint32_t code)
{
    return is_decimal(code) || code == 0xb2 || code == 0xb3 || code == 0xb9 ||
           (code >= 0x2070 && code <= 0x2089 && is_numeric(code)) ||
           (code >= 0x2460 && code <= 0x2468);
}

static bool is_printable(uint32_t code)
{
    const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return code == ' ' ||
           !(c == UTF8PROC_CATEGORY_CN || c == UTF8PROC_CATEGORY_CC || c == UTF8PROC_CATEGORY_CF ||
             c == UTF8PROC_CATEGORY_CS || c == UTF8PROC_CATEGORY_CO || c == UTF8PROC_CATEGORY_ZS ||
             c == UTF8PROC_CATEGORY_ZL || c == UTF8PROC_CATEGORY_ZP);
}

static bool is_of_class(const char *s, size_t n, uint32_t code, enum text_class class)
{
    switch (class) {
    case CLASS_ALNUM:
        return is_letter(code) || is_numeric(code);
    case CLASS_ALPHA:
        return is_letter(code);
    case CLASS_ASCII:
        return code < 0x80;
    case CLASS_DECIMAL:
        return is_decimal(code);
    case CLASS_DIGIT:
        return is_digit(code);
    case CLASS_NUMERIC:
        return is_numeric(code);
    case CLASS_PRINTABLE:
        return is_printable(code);
    case CLASS_SPACE:
        return text_is_space(s, n);
    default:
        return is_letter(code) || is_decimal(code) || code == '_';
    }
}

bool text_is_all(struct text t, enum text_class class)
{
    uint32_t code;
    for (size_t at = 0; at < t.n;) {
        const size_t n = utf8_decode(t.s + at, t.n - at, &code);
        if (!is_guard(t.s[at]) && !is_of_class(t.s + at, n, code, class))
            return false;
        at += n;
    }
    return t.n > 0;
}
