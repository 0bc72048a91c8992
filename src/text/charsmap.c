/* The double array of SentencePiece's precompiled normalisers. A unit of it has, from the lowest
 * bit: the label of 8 bits (or, in a leaf, a value of 31 bits), at bit 8 whether a leaf hangs from
 * it, at bit 9 whether the offset above is in steps of 256. Any bytes may stand there: every index
 * is held against the array's size, and a walk ends with its key. */
#include "base/utf8.h"
#include "text/pipeline_internal.h"

#include <string.h>
#include <utf8proc.h>

enum { MAX_GRAPHEME_BYTES = 6 }; /* longer ones are replaced character by character */

struct charsmap {
    const char *units;
    uint32_t n_units;
    const char *texts;
    size_t n_texts;
};

static uint32_t unit_at(const struct charsmap *map, uint32_t i)
{
    uint32_t unit;
    memcpy(&unit, map->units + (size_t)i * sizeof unit, sizeof unit);
    return unit;
}

static uint32_t offset_of(uint32_t unit)
{
    return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

/* The value of the shortest key that begins key[0..n-1]; false: there is none. */
static bool find(const struct charsmap *map, const char *key, size_t n, uint32_t *value)
{
    if (map->n_units == 0)
        return false;
    uint32_t node = offset_of(unit_at(map, 0));
    for (size_t i = 0; i < n && key[i] != '\0'; i++) {
        node ^= (uint8_t)key[i];
        if (node >= map->n_units)
            return false;
        uint32_t unit = unit_at(map, node);
        if ((unit & (1u << 31 | 0xffu)) != (uint8_t)key[i])
            return false;
        node ^= offset_of(unit);
        if (node >= map->n_units)
            return false;
        if (unit & 1u << 8) {
            *value = unit_at(map, node) & ((1u << 31) - 1);
            return true;
        }
    }
    return false;
}

/* Appends what stands for the text; false: nothing does. */
static bool replace(const struct charsmap *map, const char *text, size_t n, struct buffer *out)
{
    uint32_t at;
    if (!find(map, text, n, &at) || at >= map->n_texts)
        return false;
    buffer_append(out, map->texts + at, strnlen(map->texts + at, map->n_texts - at));
    return true;
}

static void replace_characters(const struct charsmap *map, const char *text, size_t n,
                               struct buffer *out)
{
    for (size_t at = 0; at < n;) {
        uint32_t code;
        size_t len = utf8_decode(text + at, n - at, &code);
        if (!replace(map, text + at, len, out))
            buffer_append(out, text + at, len);
        at += len;
    }
}

/* Bytes of the first character as a reader sees it. */
static size_t grapheme_length(const char *text, size_t n)
{
    uint32_t code, next;
    utf8proc_int32_t state = 0;
    size_t at = utf8_decode(text, n, &code);
    while (at < n) {
        size_t len = utf8_decode(text + at, n - at, &next);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)code, (utf8proc_int32_t)next,
                                             &state))
            break;
        at += len;
        code = next;
    }
    return at;
}

void step_charsmap(const char *bytes, size_t n_map, const char *text, size_t n, struct buffer *out)
{
    uint32_t array_bytes = 0;
    if (n_map >= sizeof array_bytes)
        memcpy(&array_bytes, bytes, sizeof array_bytes);
    if (n_map < sizeof array_bytes || array_bytes > n_map - sizeof array_bytes) {
        buffer_append(out, text, n);
        return;
    }
    const char *units = bytes + sizeof array_bytes;
    const struct charsmap map = {units, array_bytes / 4, units + array_bytes,
                                 n_map - sizeof array_bytes - array_bytes};
    for (size_t at = 0; at < n;) {
        size_t len = grapheme_length(text + at, n - at);
        if (len >= MAX_GRAPHEME_BYTES || !replace(&map, text + at, len, out))
            replace_characters(&map, text + at, len, out);
        at += len;
    }
}
