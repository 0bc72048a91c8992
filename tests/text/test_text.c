/* Detokenizer, stop strings and guards as properties over random splits, on a small byte-level
 * vocabulary. */
#include "base/hash.h"
#include "text/detokenizer.h"
#include "text/stop_matcher.h"
#include "text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { N_BYTES = 256 };

static char names[N_BYTES + 8][24];
static struct token_text tokens[N_BYTES + 8];
static struct vocabulary vocabulary;
static struct tokenizer *tokenizer;

static void add_token(uint8_t type, const char *text)
{
    uint32_t i = vocabulary.n_tokens++;
    (void)snprintf(names[i], sizeof names[i], "%s", text);
    tokens[i] = (struct token_text){names[i], (uint32_t)strlen(names[i]), 0.0f, type};
}

static int make(void **state)
{
    (void)state;
    serverd_error err;
    vocabulary = (struct vocabulary){.kind = VOCABULARY_SPM,
                                     .token = tokens,
                                     .bos = -1,
                                     .eos = -1,
                                     .eot = -1,
                                     .eom = -1,
                                     .unknown = -1,
                                     .separator = -1,
                                     .padding = -1,
                                     .cls = -1,
                                     .mask = -1,
                                     .fim_prefix = -1,
                                     .fim_suffix = -1,
                                     .fim_middle = -1,
                                     .fim_pad = -1,
                                     .fim_repo = -1,
                                     .fim_separator = -1};
    for (unsigned b = 0; b < N_BYTES; b++) {
        char text[8];
        (void)snprintf(text, sizeof text, "<0x%02X>", b);
        add_token(TOKEN_BYTE, text);
    }
    add_token(TOKEN_CONTROL, "<|end|>");
    add_token(TOKEN_CONTROL, "<|");
    add_token(TOKEN_CONTROL, "aa");
    return tokenizer_create(&vocabulary, &tokenizer, &err) == SERVERD_OK ? 0 : -1;
}

static int unmake(void **state)
{
    (void)state;
    tokenizer_destroy(tokenizer);
    return 0;
}

/* Bytes of which many are parts of characters. */
static size_t random_bytes_of_text(uint64_t seed, char *out, size_t max)
{
    static const char *const parts[] = {"a",        "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
                                        "\xe2\x82", "\xff",     "\x80",         "ab",
                                        "\xf0\x9f", "\xc3"};
    size_t n = 0, count = hash_mix(seed) % 12;
    for (size_t i = 0; i < count; i++) {
        const char *part = parts[hash_mix(seed * 31 + i) % 10];
        if (n + strlen(part) > max)
            break;
        memcpy(out + n, part, strlen(part));
        n += strlen(part);
    }
    return n;
}

static void a_stream_gives_the_same_text_however_it_is_released(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 20000; seed++) {
        char bytes[64];
        size_t n = random_bytes_of_text(seed, bytes, sizeof bytes);
        struct buffer whole, streamed;
        struct detokenizer a, b;
        buffer_init(&whole, 4096);
        buffer_init(&streamed, 4096);
        detokenizer_init(&a, tokenizer, true);
        detokenizer_init(&b, tokenizer, true);
        uint64_t release = 0;
        for (size_t i = 0; i < n; i++) {
            detokenizer_push(&a, (uint8_t)bytes[i]);
            detokenizer_push(&b, (uint8_t)bytes[i]);
            release += hash_mix(seed * 77 + i) % 3; /* behind or before what is there */
            size_t before = streamed.len;
            detokenizer_take(&b, release, &streamed);
            for (size_t k = before; k < streamed.len; k++) /* whole characters each time */
                assert_true(k > before || ((uint8_t)streamed.data[k] & 0xc0) != 0x80);
        }
        detokenizer_finish(&a, UINT64_MAX, &whole);
        detokenizer_finish(&b, UINT64_MAX, &streamed);
        if (whole.len != streamed.len ||
            (whole.len > 0 && memcmp(whole.data, streamed.data, whole.len) != 0))
            fail_msg("seed %llu: %s, streamed %s", (unsigned long long)seed, buffer_str(&whole),
                     buffer_str(&streamed));
        detokenizer_deinit(&a);
        detokenizer_deinit(&b);
        buffer_deinit(&whole);
        buffer_deinit(&streamed);
    }
}

/* The naive twin: the earliest match in the whole text, of those the longest. */
static bool naive_match(const char *text, size_t n, const struct stop_string *stops, uint32_t count,
                        uint64_t *begin, uint64_t *end)
{
    for (size_t at = 0; at < n; at++) {
        bool is_found = false;
        for (uint32_t s = 0; s < count; s++) {
            if (stops[s].len > n - at || memcmp(text + at, stops[s].bytes, stops[s].len) != 0)
                continue;
            if (!is_found || at + stops[s].len > *end) {
                *begin = at;
                *end = at + stops[s].len;
            }
            is_found = true;
        }
        if (is_found)
            return true;
    }
    return false;
}

static void stop_strings_are_found_where_a_search_finds_them(void **state)
{
    (void)state;
    static const char *const words[] = {"ab", "aab", "b", "abab", "ba", "bbb", "aaaa", "abc"};
    for (uint64_t seed = 1; seed < 30000; seed++) {
        struct stop_string stops[3];
        uint32_t count = 1 + (uint32_t)(hash_mix(seed) % 3);
        for (uint32_t s = 0; s < count; s++) {
            stops[s].bytes = words[hash_mix(seed * 5 + s) % 8];
            stops[s].len = (uint32_t)strlen(stops[s].bytes);
        }
        struct stop_matcher *matcher = stop_matcher_create(stops, count);
        assert_non_null(matcher);
        char text[40];
        size_t n = 0;
        bool is_found = false;
        while (n < 30 && !is_found) { /* tokens of 1 to 4 bytes */
            size_t len = 1 + hash_mix(seed * 131 + n) % 4;
            for (size_t i = 0; i < len; i++)
                text[n + i] = "abc"[hash_mix(seed * 977 + n + i) % 3];
            uint32_t index;
            uint64_t begin = 0, end = 0, wanted_begin = 0, wanted_end = 0;
            is_found = stop_matcher_push(matcher, text + n, (uint32_t)len, &index, &begin, &end);
            n += len;
            bool is_wanted = naive_match(text, n, stops, count, &wanted_begin, &wanted_end);
            if (is_found != is_wanted || (is_found && (begin != wanted_begin || end != wanted_end)))
                fail_msg("seed %llu: %.*s: %d at %llu..%llu, expected %d at %llu..%llu",
                         (unsigned long long)seed, (int)n, text, is_found,
                         (unsigned long long)begin, (unsigned long long)end, is_wanted,
                         (unsigned long long)wanted_begin, (unsigned long long)wanted_end);
            uint64_t safe = stop_matcher_safe(matcher);
            for (uint32_t s = 0; s < count && !is_found; s++) /* no start of a string is let go */
                for (uint32_t k = 1; k < stops[s].len && k <= n; k++)
                    if (memcmp(text + n - k, stops[s].bytes, k) == 0)
                        assert_true(safe <= n - k);
            assert_true(is_found || safe <= n);
        }
        stop_matcher_destroy(matcher);
    }
}

static void guarded_text_holds_no_control_token_and_reads_the_same(void **state)
{
    (void)state;
    static const char *const parts[] = {"<|end|>", "<|", "|>",  "a",       "aa",
                                        "end",     "<",  "aaa", "\xc3\xa9"};
    for (uint64_t seed = 1; seed < 20000; seed++) {
        char text[128];
        size_t n = 0, count = hash_mix(seed) % 10;
        for (size_t i = 0; i < count; i++) {
            const char *part = parts[hash_mix(seed * 3 + i) % 9];
            memcpy(text + n, part, strlen(part));
            n += strlen(part);
        }
        struct buffer guarded, back;
        struct token_list ids;
        serverd_error err;
        buffer_init(&guarded, 4096);
        buffer_init(&back, 4096);
        token_list_init(&ids, 4096);
        tokenizer_guard(tokenizer, text, n, &guarded);
        assert_int_equal(tokenizer_encode(tokenizer, buffer_str(&guarded), guarded.len,
                                          TOKENIZER_PARSE_SPECIAL, &ids, &err),
                         SERVERD_OK);
        for (uint32_t i = 0; i < ids.n; i++)
            assert_false(tokenizer_is_control(tokenizer, ids.id[i]));
        tokenizer_decode(tokenizer, ids.id, ids.n, true, &back);
        assert_int_equal(back.len, n);
        assert_true(n == 0 || memcmp(back.data, text, n) == 0);
        if (guarded.len > 0)
            assert_int_equal(tokenizer_unguard(guarded.data, guarded.len), n);
        token_list_deinit(&ids);
        buffer_deinit(&guarded);
        buffer_deinit(&back);
    }
}

static void long_texts_take_linear_time(void **state)
{
    (void)state;
    enum { BIG = 1 << 20 };
    char *text = malloc(BIG);
    assert_non_null(text);
    static const char fills[] = "a \n<\xc3";
    for (size_t f = 0; f < sizeof fills - 1; f++) {
        memset(text, fills[f], BIG);
        struct token_list ids;
        serverd_error err;
        struct timespec begin, end;
        token_list_init(&ids, 4 * BIG);
        (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
        assert_int_equal(tokenizer_encode(tokenizer, text, BIG, 0, &ids, &err), SERVERD_OK);
        (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
        assert_true(end.tv_sec - begin.tv_sec < 20); /* quadratic would be minutes */
        token_list_deinit(&ids);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_gives_the_same_text_however_it_is_released),
        cmocka_unit_test(stop_strings_are_found_where_a_search_finds_them),
        cmocka_unit_test(guarded_text_holds_no_control_token_and_reads_the_same),
        cmocka_unit_test(long_texts_take_linear_time),
    };
    return cmocka_run_group_tests(tests, make, unmake);
}
