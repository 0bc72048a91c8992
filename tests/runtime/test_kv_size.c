/* How memory is cut into pages and window pages. */
#include "runtime/kv_size_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { PAGE = SERVERD_PAGE_TOKENS };

/* Bytes of a page and of a window page. */
#define PAGE_BYTES   (UINT64_C(3072) * PAGE)
#define WINDOW_BYTES (UINT64_C(15360) * PAGE)

static serverd_error err;

/* As Gemma3-270m has them with bf16: 3 layers that see all, 15 that see 512 tokens. */
static struct kv_demand gemma(uint32_t context, uint64_t kv_bytes)
{
    return (struct kv_demand){.bytes = {PAGE_BYTES, WINDOW_BYTES},
                              .window = 512,
                              .max_context = context,
                              .max_seqs = 16,
                              .kv_bytes = kv_bytes,
                              .free_bytes = UINT64_C(8) << 30};
}

static struct kv_size found(struct kv_demand demand)
{
    struct kv_size size;
    if (kv_size_find(&demand, &size, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    uint64_t bytes = size.n_pages * size.page_bytes + size.n_window_pages * size.window_page_bytes;
    if (demand.kv_bytes > 0) {
        assert_true(bytes <= demand.kv_bytes);
        assert_true(bytes + size.page_bytes + size.window_page_bytes >= demand.kv_bytes);
    }
    return size;
}

static void a_span_is_what_the_window_reaches_over(void **state)
{
    (void)state;
    /* of a window of none or one page, of some, and of a token more */
    assert_int_equal(kv_window_span(0), 0);
    assert_int_equal(kv_window_span(1), 0);
    for (uint32_t n = 1; n < 300; n++) {
        assert_int_equal(kv_window_span(n * PAGE + 1), n);
        assert_int_equal(kv_window_span(n * PAGE + 2), n + 1);
    }
    /* the row at the beginning of a page sees window - 1 tokens before it */
    for (uint32_t window = 1; window < 100; window++) {
        uint32_t span = kv_window_span(window);
        assert_true(span * SERVERD_PAGE_TOKENS >= window - 1);
        assert_true(span == 0 || (span - 1) * SERVERD_PAGE_TOKENS < window - 1);
    }
}

static void a_long_context_gives_pages_for_more_tokens(void **state)
{
    (void)state;
    const uint64_t bytes = UINT64_C(1) << 30;
    struct kv_size size = found(gemma(32768, bytes));
    assert_int_equal(size.page_bytes, PAGE_BYTES);
    assert_int_equal(size.window_page_bytes, WINDOW_BYTES);
    assert_int_equal(size.n_window_pages, size.n_pages / 4);
    double together = (double)bytes / (double)(PAGE_BYTES + WINDOW_BYTES);
    assert_true(size.n_pages > 2.6 * together && size.n_pages < 2.7 * together);
}

static void a_short_context_has_no_window_pages(void **state)
{
    (void)state;
    const uint32_t contexts[] = {128, 512, 1024, 4096};
    for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++) {
        struct kv_size size = found(gemma(contexts[i], UINT64_C(1) << 28));
        assert_int_equal(size.n_window_pages, 0);
        assert_int_equal(size.page_bytes, PAGE_BYTES + WINDOW_BYTES);
        assert_int_equal(size.n_pages, (UINT64_C(1) << 28) / (PAGE_BYTES + WINDOW_BYTES));
    }
    struct kv_demand plain = gemma(32768, UINT64_C(1) << 30);
    plain.window = 0; /* nobody wants them */
    assert_int_equal(found(plain).n_window_pages, 0);
}

static void a_sequence_can_always_go_on(void **state)
{
    (void)state;
    struct kv_demand demand = gemma(600, 48 * UINT64_C(400000));
    demand.window_share = 0.1;
    struct kv_size size = found(demand);
    assert_int_equal(size.n_window_pages, kv_window_span(512) + 4);
    assert_true(size.n_pages >= (600 + PAGE - 1) / PAGE);
}

static void only_window_layers_are_fine(void **state)
{
    (void)state;
    struct kv_demand demand = gemma(32768, UINT64_C(1) << 30);
    demand.bytes.page = 0;
    struct kv_size size = found(demand);
    assert_int_equal(size.page_bytes, 0);
    assert_true(size.n_window_pages * WINDOW_BYTES <= demand.kv_bytes);
    assert_int_equal(size.n_pages / 4, size.n_window_pages);
}

static void less_than_a_context_is_refused_with_what_it_needs(void **state)
{
    (void)state;
    struct kv_size size;
    struct kv_demand demand = gemma(32768, UINT64_C(200) << 20);
    unsigned needed;
    assert_int_equal(kv_size_find(&demand, &size, &err), SERVERD_NOMEM);
    const char *at = strstr(err.text, "needs ");
    assert_non_null(at);
    assert_int_equal(sscanf(at, "needs %u MiB", &needed), 1);
    demand.kv_bytes = (uint64_t)needed << 20;
    assert_true(found(demand).n_pages >= 32768 / PAGE);
    demand.kv_bytes = (uint64_t)(needed - 2) << 20;
    assert_int_equal(kv_size_find(&demand, &size, &err), SERVERD_NOMEM);
}

static void without_a_number_all_contexts_fit_or_a_third_of_memory_is_taken(void **state)
{
    (void)state;
    struct kv_demand demand = gemma(8192, 0);
    demand.free_bytes = UINT64_C(1) << 40;
    assert_int_equal(found(demand).n_pages, 16 * 8192 / PAGE);
    demand.free_bytes = UINT64_C(600) << 20;
    struct kv_size size = found(demand);
    uint64_t bytes = size.n_pages * size.page_bytes + size.n_window_pages * size.window_page_bytes;
    assert_true(bytes <= demand.free_bytes / 3 && size.n_pages >= 8192 / PAGE);
    demand.free_bytes = 1; /* one context in any case */
    assert_int_equal(found(demand).n_pages, 8192 / PAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_span_is_what_the_window_reaches_over),
        cmocka_unit_test(a_long_context_gives_pages_for_more_tokens),
        cmocka_unit_test(a_short_context_has_no_window_pages),
        cmocka_unit_test(a_sequence_can_always_go_on),
        cmocka_unit_test(only_window_layers_are_fine),
        cmocka_unit_test(less_than_a_context_is_refused_with_what_it_needs),
        cmocka_unit_test(without_a_number_all_contexts_fit_or_a_third_of_memory_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
