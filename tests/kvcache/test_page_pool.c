/* The page pool against a naive list of owned pages. */
#include "base/hash.h"
#include "kvcache/page_pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static serverd_error err;

static void take_is_all_or_none(void **state)
{
    struct page_pool *pool = page_pool_create(5);
    struct page_id pages[6];
    assert_int_equal(page_pool_take(pool, 3, pages, &err), SERVERD_OK);
    assert_int_equal(page_pool_take(pool, 3, pages + 3, &err), SERVERD_NOMEM);
    assert_int_equal(page_pool_n_free(pool), 2);
    assert_int_equal(page_pool_take(pool, 2, pages + 3, &err), SERVERD_OK);
    assert_int_equal(page_pool_n_private(pool), 5);
    page_pool_give(pool, pages, 5);
    assert_int_equal(page_pool_n_free(pool), 5);
    assert_int_equal(page_pool_check(pool, &err), SERVERD_OK);
    page_pool_destroy(pool);
}

static void a_page_that_was_given_back_is_stale(void **state)
{
    struct page_pool *pool = page_pool_create(1);
    struct page_id first, second;
    assert_int_equal(page_pool_take(pool, 1, &first, &err), SERVERD_OK);
    assert_true(page_pool_is_live(pool, first));
    page_pool_give(pool, &first, 1);
    assert_false(page_pool_is_live(pool, first));
    assert_int_equal(page_pool_take(pool, 1, &second, &err), SERVERD_OK);
    assert_int_equal(first.index, second.index);
    assert_false(page_pool_is_live(pool, first));
    assert_true(page_pool_is_live(pool, second));
    assert_false(page_pool_is_live(pool, (struct page_id){.index = 1}));
    page_pool_destroy(pool);
}

static void an_empty_pool_gives_nothing(void **state)
{
    struct page_pool *pool = page_pool_create(0);
    struct page_id page;
    assert_int_equal(page_pool_take(pool, 0, &page, &err), SERVERD_OK);
    assert_int_equal(page_pool_take(pool, 1, &page, &err), SERVERD_NOMEM);
    assert_int_equal(page_pool_check(pool, &err), SERVERD_OK);
    page_pool_destroy(pool);
}

static void no_page_has_two_owners(void **state)
{
    enum { N = 97 };
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct page_pool *pool = page_pool_create(N);
        struct page_id held[N];
        bool is_held[N] = {false};
        uint32_t n_held = 0;
        uint64_t dice = seed;
        print_message("seed %llu\n", (unsigned long long)seed);
        for (uint32_t round = 0; round < 2000; round++) {
            dice = hash_mix(dice);
            uint32_t n = (uint32_t)(dice >> 8) % 9;
            if (dice % 2) {
                serverd_status status = page_pool_take(pool, n, held + n_held, &err);
                assert_int_equal(status, n <= N - n_held ? SERVERD_OK : SERVERD_NOMEM);
                for (uint32_t i = 0; status == SERVERD_OK && i < n; i++) {
                    assert_false(is_held[held[n_held].index]);
                    is_held[held[n_held++].index] = true;
                }
            } else {
                n = n < n_held ? n : n_held;
                uint32_t from = n_held > n ? (uint32_t)(dice >> 16) % (n_held - n + 1) : 0;
                for (uint32_t i = from; i < from + n; i++)
                    is_held[held[i].index] = false;
                page_pool_give(pool, held + from, n);
                memmove(held + from, held + from + n, (n_held - from - n) * sizeof held[0]);
                n_held -= n;
            }
            assert_int_equal(page_pool_n_private(pool), n_held);
            assert_int_equal(page_pool_check(pool, &err), SERVERD_OK);
        }
        page_pool_destroy(pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(take_is_all_or_none),
        cmocka_unit_test(a_page_that_was_given_back_is_stale),
        cmocka_unit_test(an_empty_pool_gives_nothing),
        cmocka_unit_test(no_page_has_two_owners),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
