#include "regular_fixture.h"

#include "base/hash.h"
#include "base/utf8.h"

#include <stdio.h>

struct grammar_budget budget;
serverd_error err;
static uint64_t random_state = 1;

void end(void)
{
    arena_destroy(budget.arena);
    budget.arena = NULL;
}

void begin(void)
{
    end();
    struct arena *arena = arena_create(512 * MIB);
    assert_non_null(arena);
    /* Ten times what is promised, for sanitizers and busy machines. */
    grammar_budget_init(&budget, arena, &system_clock, clock_now_ns(&system_clock) + 10000000000u);
}

void random_seed(uint64_t seed)
{
    random_state = seed;
}

uint32_t random_below(uint32_t n)
{
    random_state = hash_mix(random_state);
    return (uint32_t)(random_state % n);
}

size_t random_text(char *out, uint32_t max_length)
{
    static const char *const letters[] = {"a",
                                          "b",
                                          "a",
                                          "b",
                                          "A",
                                          "0",
                                          "_",
                                          " ",
                                          "\n",
                                          "\xc3\xa9",
                                          "\xe2\x82\xac",
                                          "\xf0\x9f\x98\x80",
                                          "-",
                                          "\"",
                                          "\\"};
    size_t n = 0;
    uint32_t length = random_below(max_length + 1);
    for (uint32_t i = 0; i < length; i++) {
        const char *letter =
            letters[random_below(random_below(3) ? 4 : sizeof letters / sizeof *letters)];
        memcpy(out + n, letter, strlen(letter));
        n += strlen(letter);
    }
    out[n] = '\0';
    return n;
}

struct string_set compile(const char *pattern, enum regex_use use)
{
    struct string_set set;
    if (regex_compile(&budget, pattern, strlen(pattern), use, &set, &err) != SERVERD_OK)
        fail_msg("%s: %s", pattern, err.text);
    return set;
}

bool has(const struct string_set *set, const char *text)
{
    return string_set_has(set, text, strlen(text));
}

const struct dfa *spelled(const struct string_set *set, enum spelling spelling)
{
    const struct dfa *dfa;
    if (spell(&budget, set, spelling, budget.arena, &dfa, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    return dfa;
}

static size_t write_escape(char *out, uint32_t unit, bool capital)
{
    return (size_t)snprintf(out, 7, capital ? "\\u%04X" : "\\u%04x", unit);
}

size_t json_spelling(const char *text, size_t n, char *out)
{
    static const char escaped[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    size_t length = 0;
    for (size_t i = 0; i < n; i++) {
        const char *found = text[i] ? strchr(escaped, text[i]) : NULL;
        if (found) {
            out[length++] = '\\';
            out[length++] = letters[found - escaped];
        } else if ((uint8_t)text[i] < 0x20) {
            length += write_escape(out + length, (uint8_t)text[i], false);
        } else {
            out[length++] = text[i];
        }
    }
    out[length] = '\0';
    return length;
}

size_t any_spelling(const char *text, size_t n, char *out)
{
    size_t length = 0;
    for (size_t at = 0; at < n;) {
        uint32_t c;
        size_t bytes = utf8_decode(text + at, n - at, &c);
        if (random_below(2) == 0) {
            length += json_spelling(text + at, bytes, out + length);
        } else if (c < 0x10000) {
            length += write_escape(out + length, c, random_below(2));
        } else {
            length += write_escape(out + length, 0xd800 + ((c - 0x10000) >> 10), random_below(2));
            length += write_escape(out + length, 0xdc00 + (c & 0x3ff), random_below(2));
        }
        at += bytes;
    }
    out[length] = '\0';
    return length;
}
