/* Prefixes on the disk: they come back after their eviction and after a restart, with the same
 * answers, and whatever goes wrong there is only time. */
#include "engine_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGE = SERVERD_PAGE_TOKENS };

static char folder[64];

static int setup(void **state)
{
    (void)state;
    folder_create(folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    folder_remove(folder);
    return 0;
}

static bool is_late; /* pages leave the device late */

static struct world *new_world(uint32_t n_pages)
{
    return world_create(&(struct world_options){.device = is_late ? "null:waits=1" : "null",
                                                .n_pages = PAGES(n_pages),
                                                .disk_folder = folder});
}

static struct plan *alike(uint32_t n_alike, uint32_t n_prompt, uint64_t seed)
{
    struct plan *plan = plan_create();
    plan_fill_prompt(plan, n_prompt, seed);
    plan_begin_alike(plan, n_alike, 1);
    plan->max_new_tokens = 3;
    plan->sampling.ignore_eos = true;
    return plan;
}

static uint32_t cached_of(struct world *world, struct plan *plan)
{
    plan_must_submit(world, plan);
    world_run(world);
    plan_check_whole(world, plan);
    uint32_t n = plan->n_cached;
    free(plan);
    return n;
}

/* All that was cached before is evicted. */
static void fill_pool(struct world *world, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        (void)cached_of(world, alike(0, 150, seed + i));
    assert_true(disk_tier_flush(world->disk, UINT64_C(10000000000)));
}

static void evicted_prefixes_come_back(void **state)
{
    (void)state;
    struct world *world = new_world(24);
    assert_int_equal(cached_of(world, alike(100, 100, 1)), 0);
    fill_pool(world, 6, 100);
    assert_int_equal(cached_of(world, alike(100, 120, 2)), WHOLE(100));
    fill_pool(world, 6, 200);
    /* in the tree some of it, the rest on the disk */
    assert_int_equal(cached_of(world, alike(40, 120, 3)), WHOLE(40));
    assert_int_equal(cached_of(world, alike(100, 130, 4)), WHOLE(100));
    struct plan *stranger = alike(100, 120, 5);
    stranger->cache_space = 9;
    assert_int_equal(cached_of(world, stranger), 0);
    world_check_empty(world);
    world_destroy(world);
}

static void a_restart_comes_back_warm(void **state)
{
    (void)state;
    struct world *world = new_world(0);
    struct plan *first = alike(90, 90, 1), *next = alike(90, 140, 2);
    first->max_new_tokens = 40;
    plan_must_submit(world, first);
    world_run(world);
    memcpy(next->prompt + 90, first->result[0].token, 39 * sizeof *next->prompt);
    free(first);
    world_destroy(world);
    world = new_world(0);
    assert_int_equal(cached_of(world, next), WHOLE(129)); /* the output, too */
    world_check_empty(world);
    world_destroy(world);
}

static void requests_with_one_beginning_read_it_once(void **state)
{
    (void)state;
    enum { N = 6 };
    struct world *world = new_world(0);
    (void)cached_of(world, alike(100, 100, 1));
    world_destroy(world);
    world = new_world(0);
    struct plan *plans[N];
    for (uint32_t i = 0; i < N; i++)
        plan_must_submit(world, plans[i] = alike(100, 110 + i, 10 + i));
    world_run(world);
    struct disk_tier_status status;
    disk_tier_status(world->disk, &status);
    assert_int_equal(status.n_loaded, 100 / PAGE);
    for (uint32_t i = 0; i < N; i++) {
        plan_check_whole(world, plans[i]);
        assert_true(plans[i]->n_cached >= WHOLE(100));
        free(plans[i]);
    }
    world_check_empty(world);
    world_destroy(world);
}

/* Flips a byte of every file, or cuts it off. */
static void damage_files(bool cuts)
{
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        int fd = openat(dirfd(dir), entry->d_name, O_RDWR);
        assert_true(fd >= 0);
        off_t last = lseek(fd, 0, SEEK_END) - 1;
        char byte = 0;
        assert_int_equal(pread(fd, &byte, 1, last), 1);
        byte ^= 1;
        assert_int_equal(cuts ? ftruncate(fd, last) : pwrite(fd, &byte, 1, last) - 1, 0);
        (void)close(fd);
    }
    (void)closedir(dir);
}

static void damaged_files_are_computed_again(void **state)
{
    (void)state;
    for (int cuts = 0; cuts < 2; cuts++) {
        struct world *world = new_world(0);
        (void)cached_of(world, alike(100, 100, 1));
        world_destroy(world);
        damage_files(cuts != 0);
        world = new_world(0);
        assert_int_equal(cached_of(world, alike(100, 120, 2)), 0);
        world_destroy(world);
    }
}

static void a_cancelled_request_ends_its_load(void **state)
{
    (void)state;
    struct world *world = new_world(0);
    (void)cached_of(world, alike(100, 100, 1));
    world_destroy(world);
    for (uint32_t n_steps = 0; n_steps < 4; n_steps++) {
        world = new_world(0);
        struct plan *plan = alike(100, 120, 2);
        plan_must_submit(world, plan);
        for (uint32_t i = 0; i < n_steps; i++)
            (void)engine_step(world->engine);
        engine_cancel(world->engine, plan->id);
        world_run(world);
        assert_int_equal(plan->n_ends, 1);
        free(plan);
        world_check_empty(world);
        world_destroy(world);
    }
}

static void what_gave_not_a_number_is_not_kept(void **state)
{
    (void)state;
    /* another script would be another model to the disk */
    const struct world_options options = {
        .device = is_late ? "fault:inner=null;inner.waits=1;script=nan@6:0"
                          : "fault:inner=null;script=nan@6:0",
        .prefill_chunk = 32,
        .disk_folder = folder};
    for (uint32_t n_new = 1; n_new <= 20; n_new += 19) {
        struct world *world = world_create(&options);
        struct plan *plan = alike(100, 100, 1);
        plan->max_new_tokens = n_new;
        plan_must_submit(world, plan);
        world_run(world);
        assert_int_equal(plan->status, n_new == 1 ? SERVERD_OK : SERVERD_NUMERIC);
        free(plan);
        world_destroy(world);
        world = world_create(&options);
        plan = alike(100, 100, 1);
        plan->max_new_tokens = 1;
        assert_int_equal(cached_of(world, plan), n_new == 1 ? WHOLE(99) : 0);
        world_destroy(world);
    }
}

/* ---- window pages ---- */

enum { WINDOW = 40, SPAN = (WINDOW - 2) / PAGE + 1 }; /* pages of a window */

static struct world *new_window_world(uint32_t n_pages, uint32_t n_windows)
{
    return world_create(&(struct world_options){.device = is_late ? "null:waits=1" : "null",
                                                .n_pages = PAGES(n_pages),
                                                .window = WINDOW,
                                                .n_windows = n_windows,
                                                .disk_folder = folder});
}

static void evicted_prefixes_come_back_with_their_windows(void **state)
{
    (void)state;
    struct world *world = new_window_world(24, PAGES(20));
    assert_int_equal(cached_of(world, alike(100, 100, 1)), 0);
    fill_pool(world, 6, 100);
    assert_int_equal(cached_of(world, alike(100, 120, 2)), WHOLE(100));
    fill_pool(world, 6, 200);
    assert_int_equal(cached_of(world, alike(100, 130, 4)), WHOLE(100));
    world_check_empty(world);
    world_destroy(world);
}

/* Only the windows before the end of what is loaded come back; what lies before them is computed
 * again by whoever ends there, and then it is there for others. */
static void a_restart_comes_back_with_the_last_windows(void **state)
{
    (void)state;
    struct world *world = new_window_world(40, PAGES(30));
    assert_int_equal(cached_of(world, alike(150, 150, 1)), 0);
    world_destroy(world);
    world = new_window_world(40, PAGES(30));
    assert_int_equal(cached_of(world, alike(150, 160, 2)), WHOLE(150));
    struct disk_tier_status status;
    disk_tier_status(world->disk, &status);
    assert_int_equal(status.n_loaded, 150 / PAGE);
    assert_int_equal(status.loaded_bytes, (150 / PAGE + SPAN) * PAGE * sizeof(uint64_t));
    /* pages 0 .. 5 are there, without window pages, which are on the disk */
    assert_int_equal(cached_of(world, alike(90, 120, 3)), WHOLE(90));
    disk_tier_status(world->disk, &status);
    assert_int_equal(status.n_loaded, 150 / PAGE + 90 / PAGE);
    assert_true(world_counter(world, "\nserverd_duplicate_pages_total ") == 90 / PAGE);
    assert_int_equal(cached_of(world, alike(90, 120, 4)), 90); /* and a part of the next page */
    world_check_empty(world);
    world_destroy(world);
}

/* What was dropped before it was saved is not on the disk: a prefix ends before it, or is computed
 * from its beginning. */
static void pages_without_windows_are_saved_and_not_relied_on(void **state)
{
    (void)state;
    struct world *world = new_window_world(80, SPAN + 4);
    assert_int_equal(cached_of(world, alike(150, 150, 1)), 0);
    world_destroy(world);
    world = new_window_world(80, SPAN + 4);
    assert_int_equal(cached_of(world, alike(90, 120, 2)), 0);
    assert_int_equal(cached_of(world, alike(150, 158, 3)), WHOLE(150));
    world_check_empty(world);
    world_destroy(world);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(evicted_prefixes_come_back),
        TEST(a_restart_comes_back_warm),
        TEST(requests_with_one_beginning_read_it_once),
        TEST(damaged_files_are_computed_again),
        TEST(a_cancelled_request_ends_its_load),
        TEST(what_gave_not_a_number_is_not_kept),
        TEST(evicted_prefixes_come_back_with_their_windows),
    };
    /* Of prompts of several pages, within 160 tokens. */
    const struct CMUnitTest of_small_pages[] = {
        TEST(a_restart_comes_back_with_the_last_windows),
        TEST(pages_without_windows_are_saved_and_not_relied_on),
    };
    int n_failed = 0;
    for (int late = 0; late < 2; late++) {
        is_late = late;
        n_failed += cmocka_run_group_tests(tests, NULL, NULL);
        if (SERVERD_PAGE_TOKENS <= 16)
            n_failed += cmocka_run_group_tests(of_small_pages, NULL, NULL);
    }
    return n_failed;
}
