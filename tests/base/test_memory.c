/* Arenas and buffers. */
#include "base/arena.h"
#include "base/base64.h"
#include "base/buffer.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "base/utf8.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void an_arena_gives_aligned_zeroed_memory_up_to_its_limit(void **state)
{
    (void)state;
    struct arena *arena = arena_create(100000);
    assert_non_null(arena);
    size_t got = 0;
    for (size_t n = 1;; n = n * 3 % 1999 + 1) {
        unsigned char *p = arena_alloc(arena, n);
        if (!p)
            break;
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xab, n);
        got += n;
    }
    assert_in_range(got, 50000, 100000);
    assert_true(arena_used(arena) <= 100000);
    arena_reset(arena);
    unsigned char *again = arena_alloc(arena, 500);
    assert_non_null(again);
    for (size_t i = 0; i < 500; i++)
        assert_int_equal(again[i], 0);
    assert_null(arena_array(arena, SIZE_MAX / 2, 4));
    assert_null(arena_alloc(arena, SIZE_MAX));
    assert_string_equal(arena_copy(arena, "abcdef", 3), "abc");
    arena_destroy(arena);
}

static void a_buffer_stops_at_its_limit_and_says_so(void **state)
{
    (void)state;
    struct buffer b;
    buffer_init(&b, 10);
    assert_string_equal(buffer_str(&b), "");
    buffer_append_str(&b, "12345");
    buffer_printf(&b, "%d", 67890);
    assert_false(b.is_failed);
    assert_string_equal(buffer_str(&b), "1234567890");
    buffer_append_char(&b, 'x');
    assert_true(b.is_failed);
    buffer_append_str(&b, "");
    size_t len;
    assert_null(buffer_take(&b, &len));
    buffer_reset(&b);
    buffer_append_str(&b, "again");
    buffer_consume(&b, 2);
    assert_string_equal(buffer_str(&b), "ain");
    char *taken = buffer_take(&b, &len);
    assert_int_equal(len, 3);
    assert_string_equal(taken, "ain");
    free(taken);
    buffer_deinit(&b);
}

/* Any bytes become JSON that jansson reads back: the same text where it was valid. */
static void any_bytes_become_valid_json(void **state)
{
    (void)state;
    struct buffer b;
    buffer_init(&b, 1 << 16);
    for (uint64_t seed = 0; seed < 3000; seed++) {
        char bytes[32];
        size_t n = hash_mix(seed) % sizeof bytes;
        for (size_t i = 0; i < n; i++)
            bytes[i] =
                (char)(hash_mix(seed * 100 + i) >> (seed % 2 ? 8 : 9) & (seed % 3 ? 0x7f : 0xff));
        buffer_reset(&b);
        buffer_append_char(&b, '"');
        buffer_append_json(&b, bytes, n);
        buffer_append_char(&b, '"');
        assert_false(b.is_failed);
        json_error_t error;
        json_t *value = json_loadb(b.data, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
        if (!value)
            fail_msg("seed %llu: %s: %s", (unsigned long long)seed, error.text, b.data);
        if (seed % 3) {
            assert_int_equal(json_string_length(value), n);
            assert_memory_equal(json_string_value(value), bytes, n);
        }
        json_decref(value);
    }
    buffer_deinit(&b);
}

static void integers_are_written_in_full(void **state)
{
    (void)state;
    struct buffer b;
    buffer_init(&b, 64);
    const uint64_t values[] = {0, 9, 10, 4294967296, UINT64_MAX};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char expected[24];
        (void)snprintf(expected, sizeof expected, "%llu", (unsigned long long)values[i]);
        buffer_reset(&b);
        buffer_append_u64(&b, values[i]);
        assert_string_equal(buffer_str(&b), expected);
    }
    buffer_deinit(&b);
}

static void floats_are_written_shortest_and_read_back(void **state)
{
    (void)state;
    struct buffer b;
    buffer_init(&b, 1 << 10);
    const struct {
        double value;
        const char *text;
    } rows[] = {{0.1, "0.1"}, {1.0, "1.0"}, {-2.5, "-2.5"}, {0.0, "0.0"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        buffer_reset(&b);
        buffer_append_f64(&b, rows[i].value);
        assert_true(strtod(buffer_str(&b), NULL) == rows[i].value);
        assert_true(strlen(buffer_str(&b)) <= strlen(rows[i].text));
    }
    for (uint64_t seed = 0; seed < 20000; seed++) {
        float x = f32_from_bits((uint32_t)hash_mix(seed));
        buffer_reset(&b);
        buffer_append_f32(&b, x);
        float back = strtof(buffer_str(&b), NULL);
        assert_true(isfinite(x) ? back == x : back == 0.0f);
        double y = (double)(int64_t)hash_mix(seed) * 1e-9;
        buffer_reset(&b);
        buffer_append_f64(&b, y);
        assert_true(strtod(buffer_str(&b), NULL) == y);
    }
    buffer_deinit(&b);
}

static void utf8_refuses_long_forms_surrogates_and_cut_characters(void **state)
{
    (void)state;
    const struct {
        const char *bytes;
        size_t n, taken;
        uint32_t code;
    } rows[] = {
        {"a", 1, 1, 'a'},
        {"\xc3\xa9", 2, 2, 0xe9},
        {"\xe2\x82\xac", 3, 3, 0x20ac},
        {"\xf0\x9f\x98\x80", 4, 4, 0x1f600},
        {"\xc0\x80", 2, 1, UTF8_REPLACEMENT},
        {"\xed\xa0\x80", 3, 1, UTF8_REPLACEMENT},
        {"\xf4\x90\x80\x80", 4, 1, UTF8_REPLACEMENT},
        {"\xe2\x82", 2, 2, UTF8_REPLACEMENT},
        {"\xe2\x82x", 3, 2, UTF8_REPLACEMENT},
        {"\xf0\x9f\x98", 3, 3, UTF8_REPLACEMENT},
        {"\xff", 1, 1, UTF8_REPLACEMENT},
        {"\x80", 1, 1, UTF8_REPLACEMENT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t code = 0;
        assert_int_equal(utf8_decode(rows[i].bytes, rows[i].n, &code), rows[i].taken);
        assert_int_equal(code, rows[i].code);
    }
}

static void base64_has_one_spelling(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "f", "fo", "foo", "foob", "fooba", "foobar"};
    static const char *const spelled[] = {"",         "Zg==",     "Zm8=",    "Zm9v",
                                          "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"}; /* RFC 4648 */
    static const char *const bad[] = {
        "Z", "Zg", "Zg=", "Zh==", "Zm9=", "Z===", "====", "Zg==Zg==", "Zm 9", "Zm9v\n", "Zm8-"};
    struct buffer out;
    buffer_init(&out, 64);
    for (size_t i = 0; i < 7; i++) {
        buffer_reset(&out);
        base64_append(&out, texts[i], strlen(texts[i]));
        assert_string_equal(buffer_str(&out), spelled[i]);
        buffer_reset(&out);
        assert_true(base64_decode(spelled[i], strlen(spelled[i]), &out));
        assert_string_equal(buffer_str(&out), texts[i]);
    }
    buffer_reset(&out);
    buffer_append_str(&out, "kept");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(base64_decode(bad[i], strlen(bad[i]), &out));
        assert_string_equal(buffer_str(&out), "kept");
    }
    buffer_deinit(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_arena_gives_aligned_zeroed_memory_up_to_its_limit),
        cmocka_unit_test(a_buffer_stops_at_its_limit_and_says_so),
        cmocka_unit_test(base64_has_one_spelling),
        cmocka_unit_test(any_bytes_become_valid_json),
        cmocka_unit_test(integers_are_written_in_full),
        cmocka_unit_test(floats_are_written_shortest_and_read_back),
        cmocka_unit_test(utf8_refuses_long_forms_surrogates_and_cut_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
