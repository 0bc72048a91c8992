/* The tokenizer's table of texts, which grows. */
#include "text/tokenizer_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

enum { N_TEXTS = 5000 };

static void texts_are_found_while_the_table_grows(void **state)
{
    (void)state;
    static char texts[N_TEXTS][8];
    struct text_table table;
    assert_true(text_table_init(&table, 0));
    for (int32_t i = 0; i < N_TEXTS; i++) {
        int len = snprintf(texts[i], sizeof texts[i], "%d", i);
        assert_int_equal(text_table_find(&table, texts[i], (size_t)len), NO_TOKEN);
        assert_true(text_table_put(&table, texts[i], (uint32_t)len, i));
        for (int32_t back = i; back >= 0; back = back / 2 - 1) {
            char text[8];
            len = snprintf(text, sizeof text, "%d", back);
            text_table_prefetch(&table, text, (size_t)len);
            assert_int_equal(text_table_find(&table, text, (size_t)len), back);
        }
    }
    /* a later entry of the same text replaces the earlier one */
    assert_true(text_table_put(&table, "42", 2, 7));
    assert_int_equal(text_table_find(&table, "42", 2), 7);
    assert_int_equal(text_table_find(&table, "420", 3), 420);
    assert_int_equal(text_table_find(&table, "", 0), NO_TOKEN);
    assert_true(text_table_put(&table, "", 0, 3));
    assert_int_equal(text_table_find(&table, "", 0), 3);
    text_table_deinit(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(texts_are_found_while_the_table_grows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
