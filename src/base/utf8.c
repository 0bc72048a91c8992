#include "base/utf8.h"

#include <stdbool.h>
#include <string.h>

/* What may follow a lead byte: the number of further bytes and the range of the first of them
 * (Unicode, table 3-7). Further bytes are 80..bf. */
struct lead {
    uint8_t first, last, n_more, low, high;
};

static const struct lead leads[] = {
    {0xc2, 0xdf, 1, 0x80, 0xbf}, {0xe0, 0xe0, 2, 0xa0, 0xbf}, {0xe1, 0xec, 2, 0x80, 0xbf},
    {0xed, 0xed, 2, 0x80, 0x9f}, {0xee, 0xef, 2, 0x80, 0xbf}, {0xf0, 0xf0, 3, 0x90, 0xbf},
    {0xf1, 0xf3, 3, 0x80, 0xbf}, {0xf4, 0xf4, 3, 0x80, 0x8f},
};

size_t utf8_decode(const char *bytes, size_t n, uint32_t *code_point)
{
    const uint8_t *s = (const uint8_t *)bytes;
    if (s[0] < 0x80) {
        *code_point = s[0];
        return 1;
    }
    *code_point = UTF8_REPLACEMENT;
    for (size_t i = 0; i < sizeof leads / sizeof leads[0]; i++) {
        const struct lead *lead = &leads[i];
        if (s[0] < lead->first || s[0] > lead->last)
            continue;
        uint32_t c = s[0] & (0x3fu >> lead->n_more);
        uint8_t low = lead->low, high = lead->high;
        for (size_t k = 1; k <= lead->n_more; k++) {
            if (k >= n || s[k] < low || s[k] > high)
                return k;
            c = c << 6 | (s[k] & 0x3fu);
            low = 0x80;
            high = 0xbf;
        }
        *code_point = c;
        return lead->n_more + 1u;
    }
    return 1;
}

size_t utf8_valid_run(const char *bytes, size_t n)
{
    size_t at = 0;
    while (at < n) {
        uint32_t code;
        size_t len = utf8_decode(bytes + at, n - at, &code);
        bool is_replacement = len == 3 && memcmp(bytes + at, "\xef\xbf\xbd", 3) == 0;
        if (code == UTF8_REPLACEMENT && !is_replacement)
            break;
        at += len;
    }
    return at;
}

size_t utf8_encode(uint32_t c, char out[4])
{
    static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 63));
    out[0] = (char)(lead[n] | c);
    return n;
}
