#include "base/base64.h"

#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_append(struct buffer *out, const void *data, size_t n)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t word = (uint32_t)bytes[i] << 16;
        word |= i + 1 < n ? (uint32_t)bytes[i + 1] << 8 : 0;
        word |= i + 2 < n ? bytes[i + 2] : 0;
        const char four[] = {digits[word >> 18], digits[word >> 12 & 63],
                             i + 1 < n ? digits[word >> 6 & 63] : '=',
                             i + 2 < n ? digits[word & 63] : '='};
        buffer_append(out, four, sizeof four);
    }
}

/* Four characters, of which the last `n_padding` are no digits. */
static bool decode_four(const char *four, unsigned n_padding, struct buffer *out)
{
    uint32_t word = 0;
    for (unsigned i = 0; i < 4 - n_padding; i++) {
        const char *digit = memchr(digits, four[i], 64);
        if (!digit)
            return false;
        word |= (uint32_t)(digit - digits) << (18 - 6 * i);
    }
    if (word & ((UINT32_C(1) << 8 * n_padding) - 1))
        return false;
    for (unsigned i = 0; i < 3 - n_padding; i++)
        buffer_append_char(out, (char)(word >> (16 - 8 * i)));
    return true;
}

bool base64_decode(const char *text, size_t n, struct buffer *out)
{
    size_t before = out->len;
    bool is_good = n % 4 == 0;
    for (size_t i = 0; i < n && is_good; i += 4) {
        unsigned n_padding = 0;
        if (i + 4 == n && text[n - 1] == '=')
            n_padding = text[n - 2] == '=' ? 2 : 1;
        is_good = decode_four(text + i, n_padding, out);
    }
    if (!is_good && out->data) {
        out->len = before;
        out->data[before] = '\0';
    }
    return is_good && !out->is_failed;
}
