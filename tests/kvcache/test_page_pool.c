/* The page pool against a naive list of owned pages, and of their window pages. */
#include "base/hash.h"
#include "kvcache/page_pool.h"
#include "serverd/delegate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static serverd_error err;

static void take_is_all_or_none(void **state)
{
    struct page_pool *pool = page_pool_create(5, 0);
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
    struct page_pool *pool = page_pool_create(1, 0);
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
    struct page_pool *pool = page_pool_create(0, 0);
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
        struct page_pool *pool = page_pool_create(N, 0);
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

/* ---- window pages ---------------------------------------------------------------------------- */

static bool has_window(const struct page_pool *pool, struct page_id page)
{
    return page_pool_window(pool, page) != SERVERD_NO_PAGE;
}

static void check(const struct page_pool *pool)
{
    if (page_pool_check(pool, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
}

static void passed_window_pages_go_before_kept_ones_and_pinned_ones_never(void **state)
{
    struct page_pool *pool = page_pool_create(8, 4);
    struct page_id p[8];
    assert_int_equal(page_pool_take(pool, 8, p, &err), SERVERD_OK);
    for (int i = 0; i < 8; i++)
        assert_false(has_window(pool, p[i]));
    for (int i = 0; i < 4; i++)
        assert_true(page_pool_take_window(pool, p[i]));
    assert_false(page_pool_take_window(pool, p[4]));
    page_pool_unpin_window(pool, p[0], true);
    page_pool_unpin_window(pool, p[1], false);
    page_pool_unpin_window(pool, p[2], false);
    struct window_counts n = page_pool_windows(pool);
    assert_int_equal(n.n_pages, 4);
    assert_int_equal(n.n_pinned, 1);
    assert_int_equal(n.n_middle, 2);
    assert_int_equal(n.n_kept, 1);
    assert_true(page_pool_take_window(pool, p[4]));
    assert_false(has_window(pool, p[1])); /* the oldest of the middle */
    assert_true(page_pool_take_window(pool, p[5]));
    assert_false(has_window(pool, p[2]));
    assert_true(page_pool_take_window(pool, p[6]));
    assert_false(has_window(pool, p[0])); /* kept, but there is nothing else */
    assert_false(page_pool_take_window(pool, p[7]));
    n = page_pool_windows(pool);
    assert_int_equal(n.n_middle_dropped, 2);
    assert_int_equal(n.n_kept_dropped, 1);
    check(pool);
    page_pool_destroy(pool);
}

static void a_pin_more_and_once_kept_stays_kept(void **state)
{
    struct page_pool *pool = page_pool_create(4, 2);
    struct page_id p[4];
    assert_int_equal(page_pool_take(pool, 4, p, &err), SERVERD_OK);
    assert_false(page_pool_pin_window(pool, p[0]));
    assert_true(page_pool_take_window(pool, p[0]));
    assert_true(page_pool_pin_window(pool, p[0]));
    assert_int_equal(page_pool_windows(pool).n_pins, 2);
    page_pool_unpin_window(pool, p[0], true);
    assert_int_equal(page_pool_windows(pool).n_pinned, 1);
    page_pool_unpin_window(pool, p[0], false);
    assert_int_equal(page_pool_windows(pool).n_kept, 1);
    assert_true(page_pool_take_window(pool, p[1]));
    page_pool_unpin_window(pool, p[1], false);
    assert_true(page_pool_take_window(pool, p[2]));
    assert_true(has_window(pool, p[0]) && !has_window(pool, p[1]));
    /* a page that goes takes its window page with it, and its being kept */
    page_pool_give(pool, p, 1);
    assert_int_equal(page_pool_windows(pool).n_free, 1);
    assert_true(page_pool_take_window(pool, p[3]));
    page_pool_unpin_window(pool, p[3], false);
    assert_int_equal(page_pool_windows(pool).n_middle, 1);
    check(pool);
    page_pool_destroy(pool);
}

static void a_window_page_moves_with_its_pins(void **state)
{
    struct page_pool *pool = page_pool_create(4, 3);
    struct page_id p[4];
    assert_int_equal(page_pool_take(pool, 4, p, &err), SERVERD_OK);
    page_pool_move_window(pool, p[0], p[1]); /* there is none */
    assert_true(page_pool_take_window(pool, p[0]));
    uint32_t index = page_pool_window(pool, p[0]);
    page_pool_move_window(pool, p[0], p[1]);
    assert_false(has_window(pool, p[0]));
    assert_int_equal(page_pool_window(pool, p[1]), index);
    assert_int_equal(page_pool_windows(pool).n_pins, 1);
    /* to one that has its own: the pins go over, the window page is free */
    assert_true(page_pool_take_window(pool, p[2]));
    assert_true(page_pool_pin_window(pool, p[2]));
    page_pool_unpin_window(pool, p[1], false);
    page_pool_move_window(pool, p[2], p[1]);
    assert_int_equal(page_pool_window(pool, p[1]), index);
    struct window_counts n = page_pool_windows(pool);
    assert_int_equal(n.n_pins, 2);
    assert_int_equal(n.n_pinned, 1);
    assert_int_equal(n.n_free, 2);
    page_pool_give(pool, p + 2, 1);
    page_pool_unpin_window(pool, p[1], false);
    page_pool_unpin_window(pool, p[1], false);
    check(pool);
    page_pool_destroy(pool);
}

/* What the list knows of a page. */
struct owned {
    struct page_id id;
    uint32_t n_pins;
    bool has_window, is_kept;
    uint64_t unpinned_at;
};

/* The one that goes next; NULL: all are pinned. */
static struct owned *next_to_go(struct owned *owned, uint32_t n)
{
    struct owned *next = NULL;
    for (struct owned *o = owned; o < owned + n; o++)
        if (o->has_window && o->n_pins == 0 &&
            (!next || o->is_kept < next->is_kept ||
             (o->is_kept == next->is_kept && o->unpinned_at < next->unpinned_at)))
            next = o;
    return next;
}

static void random_pins_agree_with_a_list(void **state)
{
    enum { N = 40, N_WINDOW_PAGES = 13 };
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct page_pool *pool = page_pool_create(N, N_WINDOW_PAGES);
        struct owned owned[N];
        uint32_t n = 0, n_windows = 0;
        uint64_t dice = seed;
        print_message("seed %llu\n", (unsigned long long)seed);
        for (uint64_t round = 1; round <= 4000; round++) {
            dice = hash_mix(dice);
            struct owned *o = n > 0 ? &owned[(dice >> 16) % n] : NULL;
            uint32_t what = (uint32_t)(dice >> 8) % 8;
            if (!o || (what == 0 && n < N)) {
                o = &owned[n++];
                *o = (struct owned){0};
                assert_int_equal(page_pool_take(pool, 1, &o->id, &err), SERVERD_OK);
            } else if (what == 1 && o->n_pins == 0) {
                page_pool_give(pool, &o->id, 1);
                n_windows -= o->has_window;
                *o = owned[--n];
            } else if (what < 4 && !o->has_window) {
                struct owned *goes = n_windows < N_WINDOW_PAGES ? NULL : next_to_go(owned, n);
                bool is_taken = page_pool_take_window(pool, o->id);
                assert_int_equal(is_taken, n_windows < N_WINDOW_PAGES || goes);
                if (goes)
                    *goes = (struct owned){.id = goes->id};
                n_windows += is_taken && !goes;
                o->has_window = is_taken;
                o->n_pins = is_taken;
            } else if (what < 5) {
                bool is_pinned = page_pool_pin_window(pool, o->id);
                assert_int_equal(is_pinned, o->has_window);
                o->n_pins += is_pinned;
            } else if (what == 5) {
                struct owned *to = &owned[(dice >> 32) % n];
                if (to == o || !o->has_window)
                    continue;
                if (!to->has_window) {
                    to->is_kept = o->is_kept;
                    to->unpinned_at = o->unpinned_at;
                } else {
                    n_windows--;
                }
                page_pool_move_window(pool, o->id, to->id);
                to->has_window = true;
                to->n_pins += o->n_pins;
                *o = (struct owned){.id = o->id};
            } else if (o->n_pins > 0) {
                o->is_kept |= dice % 3 == 0;
                page_pool_unpin_window(pool, o->id, dice % 3 == 0);
                if (--o->n_pins == 0)
                    o->unpinned_at = round;
            }
            check(pool);
            for (uint32_t i = 0; i < n; i++)
                assert_int_equal(has_window(pool, owned[i].id), owned[i].has_window);
            assert_int_equal(page_pool_windows(pool).n_free, N_WINDOW_PAGES - n_windows);
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
        cmocka_unit_test(passed_window_pages_go_before_kept_ones_and_pinned_ones_never),
        cmocka_unit_test(a_pin_more_and_once_kept_stays_kept),
        cmocka_unit_test(a_window_page_moves_with_its_pins),
        cmocka_unit_test(random_pins_agree_with_a_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
