#include "tools/grammar/sample.h"

#include "base/error.h"
#include "base/hash.h"

#include <string.h>

#define HURRY_BYTES 300u /* from here on what ends something is taken first */

static uint32_t weight_of(uint8_t byte, size_t n)
{
    bool ends = byte == '"' || byte == '}' || byte == ']';
    if (n > HURRY_BYTES)
        return ends ? 4096 : byte == ',' ? 1 : 8;
    if (ends)
        return 24;
    return byte >= 0x80 ? 1 : 4;
}

/* 0..255, or -1: no byte is legal. */
static int choose(struct matcher *matcher, uint64_t random, size_t n)
{
    uint8_t legal[256];
    uint32_t n_legal = 0;
    uint64_t sum = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        char text = (char)byte;
        if (matcher_allows(matcher, &text, 1)) {
            legal[n_legal++] = (uint8_t)byte;
            sum += weight_of((uint8_t)byte, n);
        }
    }
    if (n_legal == 0)
        return -1;
    uint64_t at = random % sum;
    for (uint32_t i = 0; i < n_legal; i++) {
        uint32_t weight = weight_of(legal[i], n);
        if (at < weight)
            return legal[i];
        at -= weight;
    }
    return legal[0];
}

serverd_status sample_text(struct matcher *matcher, uint64_t seed, struct buffer *out,
                           serverd_error *err)
{
    matcher_reset(matcher);
    for (size_t n = 0; n < SAMPLE_BYTES; n++) {
        uint64_t random = hash_mix(seed ^ hash_mix(n));
        bool may_end = matcher_may_end(matcher);
        if (may_end && (random >> 40) % 4 == 0)
            return SERVERD_OK;
        int byte = choose(matcher, random, n);
        char text = (char)byte;
        if (byte < 0 && may_end)
            return SERVERD_OK;
        if (byte < 0 || !matcher_accept(matcher, &text, 1))
            return fail(err, SERVERD_INTERNAL, "dead end behind %zu bytes: %.200s", n,
                        buffer_str(out));
        buffer_append_char(out, text);
    }
    return fail(err, SERVERD_BUSY, "no end within %u bytes", SAMPLE_BYTES);
}
