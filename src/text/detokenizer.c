#include "text/detokenizer.h"

#include "base/limits.h"
#include "base/numeric.h"
#include "base/utf8.h"

#include <string.h>

void detokenizer_init(struct detokenizer *d, const struct tokenizer *tokenizer, bool skips_special)
{
    *d = (struct detokenizer){.tokenizer = tokenizer, .skips_special = skips_special};
    buffer_init(&d->pending, LIMIT_PENDING_TEXT);
}

void detokenizer_deinit(struct detokenizer *d)
{
    buffer_deinit(&d->pending);
}

void detokenizer_push(struct detokenizer *d, int32_t token)
{
    uint32_t len;
    const char *bytes = tokenizer_piece(d->tokenizer, token, &len);
    if (!(d->skips_special && tokenizer_is_control(d->tokenizer, token)))
        buffer_append(&d->pending, bytes, len);
}

/* Bytes at the end of text[0..n-1] that may be the start of a character. */
static size_t incomplete_tail(const char *text, size_t n)
{
    for (size_t tail = 1; tail <= 3 && tail <= n; tail++) {
        uint8_t byte = (uint8_t)text[n - tail];
        if (byte < 0x80)
            return 0;
        if (byte < 0xc0)
            continue;
        size_t need = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
        if (byte < 0xc2 || byte > 0xf4 || tail >= need)
            return 0;
        /* only if some continuation makes it valid: the bytes so far are one maximal subpart */
        uint32_t code;
        return utf8_decode(text + n - tail, tail, &code) == tail ? tail : 0;
    }
    return 0;
}

/* n bytes to `out`, what is no UTF-8 as U+FFFD. */
static void give(struct detokenizer *d, size_t n, struct buffer *out)
{
    const char *text = buffer_str(&d->pending);
    for (size_t at = 0; at < n;) {
        uint32_t code;
        size_t len = utf8_decode(text + at, n - at, &code);
        bool is_replacement = len == 3 && memcmp(text + at, "\xef\xbf\xbd", 3) == 0;
        if (code == UTF8_REPLACEMENT && !is_replacement)
            buffer_append_str(out, "\xef\xbf\xbd");
        else
            buffer_append(out, text + at, len);
        at += len;
    }
    buffer_consume(&d->pending, n);
    d->n_given += n;
}

/* Pending bytes before `release`. */
static size_t released(const struct detokenizer *d, uint64_t release)
{
    return release > d->n_given ? (size_t)min_size(d->pending.len, release - d->n_given) : 0;
}

void detokenizer_take(struct detokenizer *d, uint64_t release, struct buffer *out)
{
    size_t n = released(d, release);
    give(d, n - incomplete_tail(buffer_str(&d->pending), n), out);
}

void detokenizer_finish(struct detokenizer *d, uint64_t release, struct buffer *out)
{
    give(d, released(d, release), out);
}
