/* The radix tree: single cases, and random requests against a list of all prefixes that should be
 * there. */
#include "base/hash.h"
#include "kvcache/radix_tree.h"
#include "serverd/delegate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PAGE = SERVERD_PAGE_TOKENS, MAX_PAGES = 12, MAX_TOKENS = MAX_PAGES * PAGE };
enum { SOME = PAGE / 5 + (PAGE < 5) }; /* tokens of a page: few of them, at least one */

static serverd_error err;

/* Tokens of which page p is filled with digits[p]. */
static const int32_t *spell(const char *digits)
{
    static int32_t tokens[MAX_TOKENS];
    for (size_t p = 0; digits[p]; p++)
        for (size_t i = 0; i < PAGE; i++)
            tokens[p * PAGE + i] = digits[p] - '0';
    return tokens;
}

static uint32_t n_found(const struct radix_tree *tree, const char *digits)
{
    return radix_tree_find(tree, 0, spell(digits), (uint32_t)strlen(digits) * PAGE).n_pages;
}

/* A request: what is there is held, the rest is computed and published at once. */
static struct radix_hold run(struct radix_tree *tree, struct page_pool *pool, const char *digits,
                             struct page_id *pages)
{
    uint32_t n = (uint32_t)strlen(digits), n_hit = n_found(tree, digits);
    struct radix_hold hold;
    assert_int_equal(radix_tree_hold(tree, 0, spell(digits), n_hit, pages, &hold, &err),
                     SERVERD_OK);
    assert_int_equal(page_pool_take(pool, n - n_hit, pages + n_hit, &err), SERVERD_OK);
    assert_int_equal(radix_tree_publish(tree, &hold, spell(digits) + n_hit * PAGE, pages + n_hit,
                                        n - n_hit, RADIX_PROMPT, &err),
                     SERVERD_OK);
    if (radix_tree_check(tree, &err) != SERVERD_OK || page_pool_check(pool, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    return hold;
}

static void a_prefix_is_found_while_its_request_runs(void **state)
{
    (void)state;
    struct page_pool *pool = page_pool_create(20, 0);
    struct radix_tree *tree = radix_tree_create(pool, 0);
    struct page_id first[MAX_PAGES], second[MAX_PAGES];
    assert_int_equal(n_found(tree, "123"), 0);
    struct radix_hold a = run(tree, pool, "1234", first);
    assert_int_equal(n_found(tree, "1234"), 4);
    assert_int_equal(n_found(tree, "12"), 2);
    assert_int_equal(n_found(tree, "129"), 2);
    assert_int_equal(n_found(tree, "2"), 0);
    struct radix_hold b = run(tree, pool, "1257", second);
    assert_memory_equal(first, second, 2 * sizeof *first);
    assert_int_equal(page_pool_n_shared(pool), 6);
    assert_int_equal(radix_tree_n_locked(tree), 6);
    assert_int_equal(radix_tree_evict(tree, 10), 0);
    radix_tree_release(tree, &a);
    assert_int_equal(radix_tree_n_locked(tree), 4);
    assert_int_equal(radix_tree_evict(tree, 10), 2);
    assert_int_equal(n_found(tree, "1234"), 2);
    radix_tree_release(tree, &b);
    radix_tree_release(tree, &b); /* nothing */
    assert_int_equal(radix_tree_evict(tree, 3), 3);
    assert_int_equal(n_found(tree, "1257"), 1);
    radix_tree_destroy(tree);
    assert_int_equal(page_pool_n_free(pool), 20);
    page_pool_destroy(pool);
}

static void the_last_page_may_be_shared_in_part(void **state)
{
    (void)state;
    struct page_pool *pool = page_pool_create(20, 0);
    struct radix_tree *tree = radix_tree_create(pool, 0);
    struct page_id pages[MAX_PAGES];
    struct radix_hold hold = run(tree, pool, "123", pages);
    int32_t tokens[3 * PAGE];
    memcpy(tokens, spell("123"), sizeof tokens);
    tokens[PAGE + PAGE / 3] = 99; /* page 1 differs from this token on */
    struct radix_match match = radix_tree_find(tree, 0, tokens, 3 * PAGE);
    assert_int_equal(match.n_pages, 1);
    assert_int_equal(match.n_partial, PAGE / 3);
    if (PAGE / 3 > 0)
        assert_int_equal(match.partial.index, pages[1].index);
    match = radix_tree_find(tree, 0, spell("123"), 3 * PAGE - 1);
    assert_int_equal(match.n_pages, 2);
    assert_int_equal(match.n_partial, PAGE - 1);
    match = radix_tree_find(tree, 1, spell("123"), 3 * PAGE); /* another namespace */
    assert_int_equal(match.n_pages + match.n_partial, 0);
    radix_tree_release(tree, &hold);
    radix_tree_destroy(tree);
    page_pool_destroy(pool);
}

static void equal_pages_are_kept_once(void **state)
{
    (void)state;
    struct page_pool *pool = page_pool_create(20, 0);
    struct radix_tree *tree = radix_tree_create(pool, 0);
    struct page_id first[4], second[4];
    struct radix_hold a, b;
    /* both begin when nothing is there */
    assert_int_equal(radix_tree_hold(tree, 0, spell("1"), 0, first, &a, &err), SERVERD_OK);
    assert_int_equal(radix_tree_hold(tree, 0, spell("1"), 0, second, &b, &err), SERVERD_OK);
    assert_int_equal(page_pool_take(pool, 4, first, &err), SERVERD_OK);
    assert_int_equal(page_pool_take(pool, 4, second, &err), SERVERD_OK);
    assert_int_equal(radix_tree_publish(tree, &a, spell("1234"), first, 4, RADIX_PROMPT, &err),
                     SERVERD_OK);
    assert_int_equal(radix_tree_publish(tree, &b, spell("1256"), second, 4, RADIX_PROMPT, &err),
                     SERVERD_OK);
    assert_memory_equal(first, second, 2 * sizeof *first);
    assert_int_equal(page_pool_n_shared(pool), 6);
    assert_int_equal(page_pool_n_private(pool), 0);
    assert_int_equal(radix_tree_check(tree, &err), SERVERD_OK);
    assert_int_equal(radix_tree_stats(tree).n_duplicates, 2);
    radix_tree_release(tree, &a);
    radix_tree_release(tree, &b);
    assert_int_equal(radix_tree_evict(tree, 100), 6);
    assert_int_equal(radix_tree_n_nodes(tree), 0);
    radix_tree_destroy(tree);
    page_pool_destroy(pool);
}

/* ---- window pages ---- */

/* The window page of these pages, which nobody pins, is taken for others. */
static void lose_window(struct page_pool *pool, struct page_id page)
{
    struct page_id other;
    while (page_pool_window(pool, page) != SERVERD_NO_PAGE) {
        assert_int_equal(page_pool_take(pool, 1, &other, &err), SERVERD_OK);
        assert_true(page_pool_take_window(pool, other));
    }
}

static void a_prefix_is_reusable_where_the_window_before_its_end_is_there(void **state)
{
    (void)state;
    enum { SPAN = 2, N = 6 };
    struct page_pool *pool = page_pool_create(40, N);
    struct radix_tree *tree = radix_tree_create(pool, SPAN);
    struct page_id pages[MAX_PAGES];
    struct radix_hold hold = run(tree, pool, "12", pages);
    assert_int_equal(n_found(tree, "12"), 0); /* nothing was computed there */
    for (int i = 0; i < 2; i++)
        assert_true(page_pool_take_window(pool, pages[i]));
    assert_int_equal(n_found(tree, "12"), 2);
    /* the same node grows, and a second one */
    assert_int_equal(page_pool_take(pool, 4, pages + 2, &err), SERVERD_OK);
    for (int i = 2; i < 6; i++)
        assert_true(page_pool_take_window(pool, pages[i]));
    assert_int_equal(radix_tree_publish(tree, &hold, spell("34"), pages + 2, 2, RADIX_PROMPT, &err),
                     SERVERD_OK);
    assert_int_equal(radix_tree_publish(tree, &hold, spell("56"), pages + 4, 2, RADIX_OUTPUT, &err),
                     SERVERD_OK);
    assert_int_equal(n_found(tree, "123456"), 6);
    page_pool_unpin_window(pool, pages[2], false);
    lose_window(pool, pages[2]); /* page 2 is seen from the ends of 3 and 4 pages */
    assert_int_equal(n_found(tree, "123456"), 6);
    assert_int_equal(n_found(tree, "12345"), 5);
    assert_int_equal(n_found(tree, "1234"), 2);
    assert_int_equal(n_found(tree, "1239"), 2);
    assert_int_equal(n_found(tree, "12"), 2);
    page_pool_unpin_window(pool, pages[0], false);
    lose_window(pool, pages[0]);
    assert_int_equal(n_found(tree, "1234"), 0);
    assert_int_equal(n_found(tree, "12345"), 5);
    page_pool_unpin_window(pool, pages[4], false);
    lose_window(pool, pages[4]);
    assert_int_equal(n_found(tree, "123456"), 0);
    for (int i = 1; i < 6; i += 2)
        page_pool_unpin_window(pool, pages[i], false);
    radix_tree_release(tree, &hold);
    assert_int_equal(radix_tree_check(tree, &err), SERVERD_OK);
    radix_tree_destroy(tree);
    page_pool_destroy(pool);
}

static void a_part_of_a_page_needs_its_window_page_and_those_before(void **state)
{
    (void)state;
    struct page_pool *pool = page_pool_create(20, 3);
    struct radix_tree *tree = radix_tree_create(pool, 1);
    struct page_id pages[MAX_PAGES];
    struct radix_hold hold = run(tree, pool, "123", pages);
    for (int i = 0; i < 3; i++)
        assert_true(page_pool_take_window(pool, pages[i]));
    struct radix_match match = radix_tree_find(tree, 0, spell("123"), 3 * PAGE - 1);
    assert_int_equal(match.n_pages, 2);
    assert_int_equal(match.n_partial, PAGE - 1);
    page_pool_unpin_window(pool, pages[2], false);
    lose_window(pool, pages[2]);
    match = radix_tree_find(tree, 0, spell("123"), 3 * PAGE - 1);
    assert_int_equal(match.n_pages, 2);
    assert_int_equal(match.n_partial, 0);
    page_pool_unpin_window(pool, pages[1], false);
    lose_window(pool, pages[1]);
    match = radix_tree_find(tree, 0, spell("123"), 2 * PAGE + PAGE / 5);
    assert_int_equal(match.n_pages, 1);
    assert_int_equal(match.n_partial, 0);
    page_pool_unpin_window(pool, pages[0], false);
    radix_tree_release(tree, &hold);
    radix_tree_destroy(tree);
    page_pool_destroy(pool);
}

static void equal_pages_bring_window_pages_back(void **state)
{
    (void)state;
    struct page_pool *pool = page_pool_create(20, 5);
    struct radix_tree *tree = radix_tree_create(pool, 2);
    struct page_id first[4], second[4];
    struct radix_hold a = run(tree, pool, "123", first), b;
    assert_true(page_pool_take_window(pool, first[2]));
    assert_int_equal(n_found(tree, "123"), 0);
    assert_int_equal(radix_tree_hold(tree, 0, spell("1"), 0, second, &b, &err), SERVERD_OK);
    assert_int_equal(page_pool_take(pool, 4, second, &err), SERVERD_OK);
    for (int i = 0; i < 4; i++)
        assert_true(page_pool_take_window(pool, second[i]));
    uint32_t window = page_pool_window(pool, second[1]);
    assert_int_equal(radix_tree_publish(tree, &b, spell("1234"), second, 4, RADIX_PROMPT, &err),
                     SERVERD_OK);
    assert_memory_equal(first, second, 3 * sizeof *first);
    assert_int_equal(page_pool_window(pool, first[1]), window);
    assert_int_equal(n_found(tree, "1234"), 4);
    struct window_counts n = page_pool_windows(pool);
    assert_int_equal(n.n_pins, 5); /* of page 2 there are two */
    assert_int_equal(n.n_pinned, 4);
    assert_int_equal(n.n_free, 1);
    for (int i = 0; i < 4; i++)
        page_pool_unpin_window(pool, second[i], false);
    page_pool_unpin_window(pool, first[2], false);
    radix_tree_release(tree, &a);
    radix_tree_release(tree, &b);
    assert_int_equal(radix_tree_evict(tree, 4), 4); /* and their window pages with them */
    assert_int_equal(page_pool_windows(pool).n_free, 5);
    assert_int_equal(page_pool_check(pool, &err), SERVERD_OK);
    radix_tree_destroy(tree);
    page_pool_destroy(pool);
}

static void prefixes_of_urgent_requests_stay_longer(void **state)
{
    (void)state;
    struct page_pool *pool = page_pool_create(20, 0);
    struct radix_tree *tree = radix_tree_create(pool, 0);
    struct page_id pages[MAX_PAGES];
    static const int32_t priorities[] = {0, 5, INT32_MIN, INT32_MAX};
    static const char *const digits[] = {"1", "2", "3", "4"};
    static const size_t order[] = {2, 0, 1, 3};
    for (size_t i = 0; i < 4; i++) {
        struct radix_hold hold;
        assert_int_equal(radix_tree_hold(tree, 0, spell(""), 0, pages, &hold, &err), SERVERD_OK);
        hold.priority = priorities[i];
        assert_int_equal(page_pool_take(pool, 1, pages, &err), SERVERD_OK);
        assert_int_equal(
            radix_tree_publish(tree, &hold, spell(digits[i]), pages, 1, RADIX_PROMPT, &err),
            SERVERD_OK);
        radix_tree_release(tree, &hold);
    }
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(n_found(tree, digits[order[i]]), 1);
        assert_int_equal(radix_tree_evict(tree, 1), 1);
        assert_int_equal(n_found(tree, digits[order[i]]), 0);
    }
    radix_tree_destroy(tree);
    page_pool_destroy(pool);
}

static void the_least_recently_used_goes_first_and_output_before_prompts(void **state)
{
    (void)state;
    struct page_pool *pool = page_pool_create(20, 0);
    struct radix_tree *tree = radix_tree_create(pool, 0);
    struct page_id pages[MAX_PAGES];
    struct radix_hold hold = run(tree, pool, "12", pages);
    radix_tree_release(tree, &hold);
    hold = run(tree, pool, "34", pages);
    radix_tree_release(tree, &hold);
    hold = run(tree, pool, "12", pages); /* used again */
    assert_int_equal(page_pool_take(pool, 1, pages, &err), SERVERD_OK);
    assert_int_equal(radix_tree_publish(tree, &hold, spell("7"), pages, 1, RADIX_OUTPUT, &err),
                     SERVERD_OK);
    radix_tree_release(tree, &hold);
    assert_int_equal(radix_tree_evict(tree, 1), 1);
    assert_int_equal(n_found(tree, "127"), 2); /* the output, though it was used last */
    assert_int_equal(radix_tree_evict(tree, 2), 2);
    assert_int_equal(n_found(tree, "34"), 0);
    assert_int_equal(n_found(tree, "12"), 2);
    const struct radix_stats stats = radix_tree_stats(tree);
    assert_int_equal(stats.n_evicted[RADIX_OUTPUT], 1);
    assert_int_equal(stats.n_evicted[RADIX_PROMPT], 2);
    assert_int_equal(stats.n_duplicates, 0);
    radix_tree_destroy(tree);
    page_pool_destroy(pool);
}

/* Writes the node's space and first token, and its age. */
struct walk {
    char text[64];
    uint64_t age[8];
    uint32_t n, most;
};

static bool look(void *context, const struct radix_node_view *view)
{
    struct walk *walk = context;
    size_t len = strlen(walk->text);
    walk->text[len] = (char)('a' + view->space);
    walk->text[len + 1] = (char)('0' + view->tokens[0]);
    walk->age[walk->n++] = view->age;
    return walk->n < walk->most;
}

static void a_walk_keeps_namespaces_together_and_ends_when_told_to(void **state)
{
    (void)state;
    struct page_pool *pool = page_pool_create(20, 0);
    struct radix_tree *tree = radix_tree_create(pool, 0);
    struct page_id pages[MAX_PAGES];
    struct radix_hold hold = run(tree, pool, "12", pages);
    radix_tree_release(tree, &hold);
    assert_int_equal(radix_tree_hold(tree, 1, spell("5"), 0, pages, &hold, &err), SERVERD_OK);
    assert_int_equal(page_pool_take(pool, 1, pages, &err), SERVERD_OK);
    assert_int_equal(radix_tree_publish(tree, &hold, spell("5"), pages, 1, RADIX_PROMPT, &err),
                     SERVERD_OK);
    radix_tree_release(tree, &hold);
    hold = run(tree, pool, "13", pages);
    radix_tree_release(tree, &hold);
    struct walk walk = {.most = 8};
    radix_tree_visit(tree, look, &walk);
    /* of one namespace the new one, then the other with its fork, youngest child first */
    assert_string_equal(walk.text, "b5a1a3a2");
    assert_int_equal(walk.age[1], 0);
    assert_int_equal(walk.age[2], 0);
    assert_true(walk.age[3] > walk.age[0] && walk.age[0] > 0);
    walk = (struct walk){.most = 2};
    radix_tree_visit(tree, look, &walk);
    assert_string_equal(walk.text, "b5a1");
    assert_int_equal(radix_tree_evict(tree, 20), 4);
    walk = (struct walk){.most = 8};
    radix_tree_visit(tree, look, &walk);
    assert_string_equal(walk.text, "");
    radix_tree_destroy(tree);
    page_pool_destroy(pool);
}

/* The digits of what others went on with; '.' where a page ends in the middle. */
static const char *went_on(const struct radix_tree *tree, const struct radix_hold *hold,
                           const char *digits, uint32_t n_tail, uint32_t n_most)
{
    static char found[MAX_TOKENS + 1];
    int32_t tail[MAX_TOKENS], out[MAX_TOKENS];
    memcpy(tail, spell(digits), sizeof tail);
    uint32_t n = radix_tree_continuation(tree, hold, tail, n_tail, out, n_most), n_digits = 0;
    assert_true(n <= n_most);
    for (uint32_t i = 0; i < n; i++)
        if (i == 0 || (n_tail + i) % PAGE == 0)
            found[n_digits++] = (char)('0' + out[i]);
    found[n_digits] = '\0';
    return found;
}

static void others_have_gone_on_behind_a_prefix(void **state)
{
    (void)state;
    struct page_pool *pool = page_pool_create(30, 0);
    struct radix_tree *tree = radix_tree_create(pool, 0);
    struct page_id pages[MAX_PAGES];
    struct radix_hold first = run(tree, pool, "1234", pages), hold;
    struct radix_hold second = run(tree, pool, "1256", pages);
    assert_int_equal(radix_tree_hold(tree, 0, spell("12"), 2, pages, &hold, &err), SERVERD_OK);
    if (PAGE > 1) { /* else no page ends in its middle */
        assert_string_equal(went_on(tree, &hold, "3", 1, 2 * PAGE), "34");
        assert_string_equal(went_on(tree, &hold, "5", PAGE - 1, 2 * PAGE), "56");
        assert_string_equal(went_on(tree, &hold, "5", PAGE - 1, 1), "5");
        assert_string_equal(went_on(tree, &hold, "34", PAGE + SOME, PAGE / 2), "4");
        assert_string_equal(went_on(tree, &hold, "35", PAGE + SOME, PAGE / 2), "");
    }
    assert_string_equal(went_on(tree, &hold, "3", PAGE, 2 * PAGE), "4");
    assert_string_equal(went_on(tree, &hold, "5", PAGE, 2 * PAGE), "6");
    assert_string_equal(went_on(tree, &hold, "34", 2 * PAGE, 7), "");
    assert_string_equal(went_on(tree, &hold, "35", 2 * PAGE, 7), "");
    assert_string_equal(went_on(tree, &hold, "7", SOME, 7), "");
    assert_string_equal(went_on(tree, &hold, "3", SOME, 0), "");
    assert_string_equal(went_on(tree, &first, "3", SOME, 9), ""); /* its own end */
    assert_string_equal(went_on(tree, &(struct radix_hold){0}, "1", SOME, 9), "");
    radix_tree_release(tree, &hold);
    assert_int_equal(radix_tree_hold(tree, 0, spell(""), 0, pages, &hold, &err), SERVERD_OK);
    assert_string_equal(went_on(tree, &hold, "1", SOME, 6 * PAGE), /* what was used last */
                        PAGE > 1 ? "1256" : "256");
    assert_string_equal(went_on(tree, &hold, "123", 2 * PAGE + SOME, 6 * PAGE),
                        PAGE > 1 ? "34" : "4");
    radix_tree_release(tree, &hold);
    radix_tree_release(tree, &first);
    radix_tree_release(tree, &second);
    assert_int_equal(radix_tree_check(tree, &err), SERVERD_OK);
    radix_tree_destroy(tree);
    page_pool_destroy(pool);
}

/* ---- random requests against a list ---------------------------------------------------------- */

enum { N_PAGES = 160, MAX_KNOWN = 4096, N_RUNNING = 12, N_WINDOWS = 60 };

/* Every prefix that the tree should have, by its namespace and the digits of its pages. */
struct known {
    uint64_t space;
    char digits[MAX_PAGES + 1];
    struct page_id page; /* the last */
};

struct model {
    struct known known[MAX_KNOWN];
    uint32_t n_known;
};

static const struct known *find_known(const struct model *model, uint64_t space, const char *digits,
                                      size_t n)
{
    for (uint32_t i = 0; i < model->n_known; i++)
        if (model->known[i].space == space && strlen(model->known[i].digits) == n &&
            memcmp(model->known[i].digits, digits, n) == 0)
            return &model->known[i];
    return NULL;
}

static void learn(struct model *model, uint64_t space, const char *digits, size_t n,
                  struct page_id page)
{
    assert_true(model->n_known < MAX_KNOWN && n <= MAX_PAGES);
    struct known *known = &model->known[model->n_known++];
    *known = (struct known){.space = space, .page = page};
    memcpy(known->digits, digits, n);
}

/* Views come parents first: a node's digits are its parent's and its own. */
struct seen {
    const struct radix_node *node;
    char digits[MAX_PAGES + 1];
};
struct listing {
    struct model *model;
    struct seen seen[N_PAGES];
    uint32_t n_seen;
};

static bool list_node(void *context, const struct radix_node_view *view)
{
    struct listing *listing = context;
    struct seen *seen = &listing->seen[listing->n_seen++];
    *seen = (struct seen){.node = view->node};
    for (uint32_t i = 0; view->parent && i < listing->n_seen - 1; i++)
        if (listing->seen[i].node == view->parent)
            memcpy(seen->digits, listing->seen[i].digits, sizeof seen->digits);
    for (uint32_t p = 0; p < view->n_pages; p++) {
        size_t n = strlen(seen->digits);
        seen->digits[n] = (char)('0' + view->tokens[p * PAGE]);
        learn(listing->model, view->space, seen->digits, n + 1, view->pages[p]);
    }
    return true;
}

struct request {
    bool runs;
    uint64_t space;
    char digits[MAX_PAGES + 1];
    uint32_t n, n_done, n_private; /* pages: all, in the tree, computed but not published */
    struct page_id pages[MAX_PAGES];
    struct radix_hold hold;
};

static struct model model, after;

/* What must be found: of the first n pages, which are known, those before which `span` have their
 * window pages. */
static uint32_t expect_found(const struct page_pool *pool, const struct request *r, uint32_t n,
                             uint32_t span)
{
    for (; n > 0; n--) {
        bool is_reusable = true;
        for (uint32_t p = n > span ? n - span : 0; p < n; p++) {
            struct page_id page = find_known(&model, r->space, r->digits, p + 1)->page;
            is_reusable = is_reusable && page_pool_window(pool, page) != SERVERD_NO_PAGE;
        }
        if (is_reusable)
            break;
    }
    return n;
}

/* Pages in the tree, or the request's own, take window pages and let go of them at once: those
 * that are needed longer are what the engine's tests are about. */
static void touch_windows(struct page_pool *pool, const struct request *r, uint64_t random)
{
    for (uint32_t p = 0; p < r->n_done + r->n_private; p++, random = hash_mix(random)) {
        struct page_id page = r->pages[p];
        if (random % 3 == 0 &&
            (page_pool_pin_window(pool, page) || page_pool_take_window(pool, page)))
            page_pool_unpin_window(pool, page, random % 7 == 0);
    }
}

static void begin_request(struct radix_tree *tree, const struct page_pool *pool, uint32_t span,
                          struct request *r, uint64_t random)
{
    *r = (struct request){
        .runs = true, .space = random % 3, .n = 1 + (uint32_t)(random / 3 % MAX_PAGES)};
    for (uint32_t p = 0; p < r->n; p++) /* few digits: many common prefixes */
        r->digits[p] = (char)('0' + hash_mix(random + p) % (p < 4 ? 2 : 3));
    struct radix_match match = radix_tree_find(tree, r->space, spell(r->digits), r->n * PAGE - 1);
    uint32_t n = 0;
    while (n < r->n - 1 && find_known(&model, r->space, r->digits, n + 1))
        n++;
    n = expect_found(pool, r, n, span);
    assert_int_equal(match.n_pages, n);
    assert_int_equal(radix_tree_hold(tree, r->space, spell(r->digits), n, r->pages, &r->hold, &err),
                     SERVERD_OK);
    for (uint32_t p = 0; p < n; p++)
        assert_int_equal(find_known(&model, r->space, r->digits, p + 1)->page.index,
                         r->pages[p].index);
    r->n_done = n;
}

static void publish(struct radix_tree *tree, struct request *r, uint64_t random)
{
    uint32_t n = r->n_private;
    assert_int_equal(radix_tree_publish(tree, &r->hold, spell(r->digits) + r->n_done * PAGE,
                                        r->pages + r->n_done, n,
                                        random % 2 ? RADIX_PROMPT : RADIX_OUTPUT, &err),
                     SERVERD_OK);
    for (uint32_t p = r->n_done; p < r->n_done + n; p++) {
        const struct known *known = find_known(&model, r->space, r->digits, p + 1);
        if (known)
            assert_int_equal(known->page.index, r->pages[p].index);
        else
            learn(&model, r->space, r->digits, p + 1, r->pages[p]);
    }
    r->n_done += n;
    r->n_private = 0;
}

static void end_request(struct radix_tree *tree, struct page_pool *pool, struct request *r)
{
    page_pool_give(pool, r->pages + r->n_done, r->n_private);
    radix_tree_release(tree, &r->hold);
    r->runs = false;
}

/* What is left is a part of what was there, with every held prefix and every beginning. */
static void evict(struct radix_tree *tree, const struct request *requests, uint32_t n)
{
    uint32_t n_evicted = radix_tree_evict(tree, n);
    uint32_t n_evictable = model.n_known;
    static struct listing listing;
    listing = (struct listing){.model = &after};
    after.n_known = 0;
    for (uint32_t i = 0; i < model.n_known; i++) {
        const struct known *known = &model.known[i];
        for (uint32_t r = 0; r < N_RUNNING; r++)
            if (requests[r].runs && requests[r].space == known->space &&
                strlen(known->digits) <= requests[r].n_done &&
                memcmp(known->digits, requests[r].digits, strlen(known->digits)) == 0) {
                n_evictable--;
                break;
            }
    }
    assert_int_equal(n_evicted, n < n_evictable ? n : n_evictable);
    radix_tree_visit(tree, list_node, &listing);
    assert_int_equal(after.n_known, model.n_known - n_evicted);
    for (uint32_t i = 0; i < after.n_known; i++) {
        const struct known *known = &after.known[i];
        const struct known *before =
            find_known(&model, known->space, known->digits, strlen(known->digits));
        assert_non_null(before);
        assert_int_equal(before->page.index, known->page.index);
    }
    for (uint32_t r = 0; r < N_RUNNING; r++)
        for (uint32_t p = 0; requests[r].runs && p < requests[r].n_done; p++)
            assert_non_null(find_known(&after, requests[r].space, requests[r].digits, p + 1));
    model = after;
}

/* It publishes nothing more. */
static void keep(struct radix_tree *tree, struct page_pool *pool, struct request *r)
{
    page_pool_give(pool, r->pages + r->n_done, r->n_private);
    r->n_private = 0;
    radix_tree_keep(tree, &r->hold);
}

/* Pages of the model that kept requests have. */
static uint32_t expect_kept(const struct request *requests)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < model.n_known; i++) {
        const struct known *known = &model.known[i];
        const size_t len = strlen(known->digits);
        bool is_kept = false;
        for (uint32_t r = 0; r < N_RUNNING; r++)
            is_kept |= requests[r].hold.is_kept && requests[r].space == known->space &&
                       len <= requests[r].n_done &&
                       memcmp(known->digits, requests[r].digits, len) == 0;
        n += is_kept;
    }
    return n;
}

/* Tokens of one request against what the other one holds. */
static void compare(const struct request *held, const struct request *other, uint64_t random)
{
    int32_t tokens[MAX_TOKENS];
    uint32_t n = (uint32_t)(random % (other->n * PAGE + 1)), n_equal = 0;
    memcpy(tokens, spell(other->digits), sizeof tokens);
    if (n > 0 && random % 3 == 0)
        tokens[random / 3 % n] ^= 1;
    while (n_equal < n && n_equal < held->n_done * PAGE &&
           tokens[n_equal] == held->digits[n_equal / PAGE] - '0')
        n_equal++;
    struct page_id page = {0};
    assert_int_equal(radix_tree_common(&held->hold, tokens, n, &page), n_equal);
    if (n_equal % PAGE > 0)
        assert_int_equal(page.index, held->pages[n_equal / PAGE].index);
}

static void random_requests(uint64_t seed, uint32_t span)
{
    static struct request requests[N_RUNNING];
    struct page_pool *pool = page_pool_create(N_PAGES, span > 0 ? N_WINDOWS : 0);
    struct radix_tree *tree = radix_tree_create(pool, span);
    memset(requests, 0, sizeof requests);
    model.n_known = 0;
    for (uint64_t i = 0; i < 3000; i++) {
        uint64_t random = hash_mix(seed * 100003 + i);
        struct request *r = &requests[random % N_RUNNING];
        random = hash_mix(random);
        if (!r->runs)
            begin_request(tree, pool, span, r, random);
        else if (random % 16 == 0)
            end_request(tree, pool, r);
        else if (r->hold.is_kept)
            compare(r, &requests[random / 16 % N_RUNNING], random / 256);
        else if (random % 16 == 1)
            keep(tree, pool, r);
        else if (random % 3 == 0 && r->n_private)
            publish(tree, r, random / 3);
        else if (r->n_done + r->n_private < r->n &&
                 page_pool_take(pool, 1, &r->pages[r->n_done + r->n_private], &err) == SERVERD_OK)
            r->n_private++;
        else if (random % 5 == 0)
            evict(tree, requests, (uint32_t)(random / 5 % 20));
        if (r->runs && span > 0)
            touch_windows(pool, r, random);
        if (radix_tree_check(tree, &err) != SERVERD_OK || page_pool_check(pool, &err) != SERVERD_OK)
            fail_msg("seed %llu, step %llu: %s", (unsigned long long)seed, (unsigned long long)i,
                     err.text);
        assert_int_equal(radix_tree_n_pages(tree), model.n_known);
        assert_int_equal(radix_tree_n_kept(tree), expect_kept(requests));
    }
    for (uint32_t r = 0; r < N_RUNNING; r++)
        if (requests[r].runs)
            end_request(tree, pool, &requests[r]);
    assert_int_equal(radix_tree_n_locked(tree), 0);
    assert_int_equal(radix_tree_n_kept(tree), 0);
    assert_int_equal(radix_tree_evict(tree, N_PAGES), model.n_known);
    assert_int_equal(radix_tree_n_nodes(tree), 0);
    assert_int_equal(page_pool_n_free(pool), N_PAGES);
    radix_tree_destroy(tree);
    page_pool_destroy(pool);
}

static void random_requests_find_what_was_published_and_lose_no_page(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++)
        random_requests(seed, (uint32_t)(seed % 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prefix_is_found_while_its_request_runs),
        cmocka_unit_test(the_last_page_may_be_shared_in_part),
        cmocka_unit_test(equal_pages_are_kept_once),
        cmocka_unit_test(a_prefix_is_reusable_where_the_window_before_its_end_is_there),
        cmocka_unit_test(a_part_of_a_page_needs_its_window_page_and_those_before),
        cmocka_unit_test(equal_pages_bring_window_pages_back),
        cmocka_unit_test(the_least_recently_used_goes_first_and_output_before_prompts),
        cmocka_unit_test(prefixes_of_urgent_requests_stay_longer),
        cmocka_unit_test(a_walk_keeps_namespaces_together_and_ends_when_told_to),
        cmocka_unit_test(others_have_gone_on_behind_a_prefix),
        cmocka_unit_test(random_requests_find_what_was_published_and_lose_no_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
