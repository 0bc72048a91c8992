/* The disk tier: what it stores it finds and loads, in this process and the next, and nothing else;
 * random operations against a list; a process that is killed in the midst of it. */
#include "base/hash.h"
#include "kvcache/disk_tier.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGE = SERVERD_PAGE_TOKENS, MAX_PAGES = 24, PAYLOAD = 6000, FILE_BYTES = 8192 };

#define LONG_NS UINT64_C(20000000000)
#define PLENTY  (UINT64_C(1) << 30)

static serverd_error err;
static char folder[64];
static _Atomic uint32_t n_wakes, n_lines;

static void count_wake(void *context)
{
    (void)context;
    atomic_fetch_add(&n_wakes, 1);
}

static void count_line(void *context, int level, const char *text)
{
    (void)context, (void)level;
    print_message("  log: %s\n", text);
    atomic_fetch_add(&n_lines, 1);
}

static void remove_files(void)
{
    DIR *dir = opendir(folder);
    for (struct dirent *item; dir && (item = readdir(dir));)
        (void)unlinkat(dirfd(dir), item->d_name, 0);
    if (dir)
        (void)closedir(dir);
}

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/serverd-tier-XXXXXX");
    n_wakes = n_lines = 0;
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    remove_files();
    return rmdir(folder);
}

static struct disk_tier_options options_of(uint8_t identity, uint64_t max_bytes)
{
    return (struct disk_tier_options){.folder = folder,
                                      .identity = {identity},
                                      .page_bytes = PAYLOAD,
                                      .max_bytes = max_bytes,
                                      .store_bytes = 64 * PAYLOAD,
                                      .load_bytes = 64 * PAYLOAD,
                                      .clock = &system_clock,
                                      .log = count_line};
}

static struct disk_tier *open_with(const struct disk_tier_options *options)
{
    struct disk_tier *tier;
    if (disk_tier_create(options, &tier, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    disk_tier_set_wake(tier, count_wake, NULL);
    assert_true(disk_tier_flush(tier, LONG_NS));
    return tier;
}

static struct disk_tier *open_tier(uint64_t max_bytes)
{
    const struct disk_tier_options options = options_of(1, max_bytes);
    return open_with(&options);
}

/* Tokens of which page p is filled with digits[p]. */
static const int32_t *spell(const char *digits)
{
    static int32_t tokens[MAX_PAGES * PAGE];
    for (size_t p = 0; digits[p]; p++)
        for (size_t i = 0; i < PAGE; i++)
            tokens[p * PAGE + i] = digits[p] + (int32_t)i;
    return tokens;
}

/* The bytes that the last page of these stands for. */
static void fill(char *out, uint64_t space, const char *digits, size_t n_pages)
{
    uint64_t seed = hash_bytes(digits, n_pages, space);
    for (size_t i = 0; i < PAYLOAD / sizeof seed; i++) {
        uint64_t x = hash_mix(seed + i);
        memcpy(out + i * sizeof x, &x, sizeof x);
    }
}

/* Stores all pages that are not known; returns how many were taken. */
static uint32_t store(struct disk_tier *tier, uint64_t space, const char *digits)
{
    struct disk_chain chain = disk_tier_chain(tier, space);
    uint32_t n = 0;
    for (size_t p = 0; digits[p]; p++) {
        char *bytes = disk_tier_stage(tier, &chain, spell(digits) + p * PAGE, false);
        if (!bytes)
            continue;
        fill(bytes, space, digits, p + 1);
        disk_tier_store(tier, bytes);
        n++;
    }
    return n;
}

static uint32_t n_found(struct disk_tier *tier, uint64_t space, const char *digits)
{
    struct disk_chain chain = disk_tier_chain(tier, space);
    return disk_tier_find(tier, &chain, spell(digits), (uint32_t)strlen(digits), 0);
}

static void sleep_ms(long ms)
{
    const struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    (void)nanosleep(&time, NULL);
}

static void wait_done(const struct disk_load *load)
{
    for (int i = 0; i < 20000 && !disk_load_is_done(load); i++)
        sleep_ms(1);
    assert_true(disk_load_is_done(load));
}

/* Loads these pages from page `first` on and checks the bytes; returns how many were good. */
static uint32_t load(struct disk_tier *tier, uint64_t space, const char *digits, uint32_t first)
{
    static char expected[PAYLOAD];
    struct disk_chain chain = disk_tier_chain(tier, space);
    disk_chain_extend(&chain, spell(digits), first);
    struct disk_load *l = disk_tier_load(tier, &chain, spell(digits) + first * PAGE,
                                         (uint32_t)strlen(digits) - first, 0);
    assert_non_null(l);
    wait_done(l);
    uint32_t n = disk_load_n_ready(l);
    assert_true(n <= disk_load_n_pages(l));
    for (uint32_t p = 0; p < n; p++) {
        fill(expected, space, digits, first + p + 1);
        bool has_window;
        assert_memory_equal(disk_load_page(l, p, &has_window), expected, PAYLOAD);
        assert_false(has_window);
    }
    disk_tier_drop(tier, l);
    return n;
}

static struct disk_tier_status status_of(const struct disk_tier *tier)
{
    struct disk_tier_status status;
    disk_tier_status(tier, &status);
    if (disk_tier_check(tier, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    return status;
}

static uint32_t n_files(void)
{
    uint32_t n = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *item; (item = readdir(dir));)
        n += item->d_name[0] != '.';
    (void)closedir(dir);
    return n;
}

/* The path of the file of the last page. */
static const char *path_of(const struct disk_tier *tier, uint64_t space, const char *digits)
{
    static char path[128];
    char name[DISK_NAME_BYTES];
    struct disk_chain chain = disk_tier_chain(tier, space);
    disk_chain_extend(&chain, spell(digits), (uint32_t)strlen(digits));
    disk_name_of(disk_key_of(chain.hash), name);
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* ---- single cases ---------------------------------------------------------------------------- */

static void pages_are_found_and_come_back(void **state)
{
    (void)state;
    struct disk_tier_options options = options_of(1, PLENTY);
    options.metrics = metrics_create();
    assert_non_null(options.metrics);
    struct disk_tier *tier = open_with(&options);
    assert_int_equal(n_found(tier, 0, "1234"), 0);
    assert_int_equal(store(tier, 0, "1234"), 4);
    assert_true(disk_tier_flush(tier, LONG_NS));
    assert_int_equal(store(tier, 0, "1256"), 2); /* the rest is known */
    assert_true(disk_tier_flush(tier, LONG_NS));
    assert_int_equal(n_files(), 6);
    assert_int_equal(n_found(tier, 0, "1234"), 4);
    assert_int_equal(n_found(tier, 0, "1259"), 3);
    assert_int_equal(n_found(tier, 0, "2"), 0);
    assert_int_equal(n_found(tier, 7, "1234"), 0); /* another namespace */
    assert_true(disk_tier_load_ns(tier, 4) == 0);
    assert_int_equal(load(tier, 0, "1234", 0), 4);
    assert_int_equal(load(tier, 0, "1256", 2), 2);
    assert_int_equal(load(tier, 0, "1277", 0), 2);
    assert_true(disk_tier_load_ns(tier, 4) > 0);
    assert_int_equal(n_wakes, 3);
    disk_tier_set_wake(tier, NULL, NULL);
    assert_int_equal(load(tier, 0, "1", 0), 1);
    assert_int_equal(n_wakes, 3);
    struct disk_tier_status status = status_of(tier);
    assert_int_equal(status.n_stored, 6);
    assert_int_equal(status.stored_bytes, 6 * PAYLOAD);
    assert_int_equal(status.n_loaded, 9);
    assert_int_equal(status.n_refused[DISK_GONE], 1);
    assert_int_equal(status.bytes, 6 * FILE_BYTES);
    assert_int_equal(status.n_staged + status.n_loading, 0);
    assert_true(status.load_rate > 0 && status.is_writing && status.is_scanned);
    disk_tier_destroy(tier);
    struct buffer text;
    buffer_init(&text, 1 << 20);
    metrics_render(options.metrics, &text);
    assert_non_null(strstr(buffer_str(&text), "serverd_tier_bytes{tier=\"disk\"} 49152\n"));
    assert_non_null(strstr(buffer_str(&text), "serverd_tier_refused_total{reason=\"gone\"} 1\n"));
    assert_true(metrics_get(options.metrics, METRIC_TIER_STORED) == 6);
    assert_true(metrics_get(options.metrics, METRIC_TIER_LOADED) == 9);
    buffer_deinit(&text);
    metrics_destroy(options.metrics);
}

static void a_restart_finds_what_was_stored(void **state)
{
    (void)state;
    struct disk_tier *tier = open_tier(PLENTY);
    assert_int_equal(store(tier, 5, "123456789"), 9);
    assert_true(disk_tier_flush(tier, LONG_NS));
    disk_tier_destroy(tier);

    tier = open_tier(PLENTY);
    assert_int_equal(n_found(tier, 5, "123456789"), 9);
    assert_int_equal(load(tier, 5, "123456789", 0), 9);
    assert_int_equal(store(tier, 5, "123456789"), 0);
    disk_tier_destroy(tier);

    struct disk_tier_options other = options_of(2, PLENTY); /* another model */
    tier = open_with(&other);
    assert_int_equal(n_found(tier, 5, "123456789"), 0);
    assert_int_equal(status_of(tier).n_files, 9); /* they count */
    disk_tier_destroy(tier);
    assert_int_equal(n_files(), 9);
}

/* ---- window pages ---- */

enum { WINDOW_BYTES = 1000 };

/* Page p is stored with its window page where shape[p] is 'w'. */
static void store_shape(struct disk_tier *tier, const char *digits, const char *shape)
{
    struct disk_chain chain = disk_tier_chain(tier, 0);
    for (size_t p = 0; digits[p]; p++) {
        char *bytes = disk_tier_stage(tier, &chain, spell(digits) + p * PAGE, shape[p] == 'w');
        assert_non_null(bytes);
        fill(bytes, 0, digits, p + 1);
        if (shape[p] == 'w')
            memset(bytes + PAYLOAD, digits[p], WINDOW_BYTES);
        disk_tier_store(tier, bytes);
    }
    assert_true(disk_tier_flush(tier, LONG_NS));
}

static uint32_t n_reusable(struct disk_tier *tier, uint32_t n_before, const char *digits,
                           uint32_t span)
{
    struct disk_chain chain = disk_tier_chain(tier, 0);
    disk_chain_extend(&chain, spell(digits), n_before);
    return disk_tier_find(tier, &chain, spell(digits) + n_before * PAGE,
                          (uint32_t)strlen(digits) - n_before, span);
}

static void check_found_windows(struct disk_tier *tier)
{
    assert_int_equal(n_reusable(tier, 0, "12345678", 0), 8);
    assert_int_equal(n_reusable(tier, 0, "12345678", 2), 7); /* those with the numbers 5, 6 */
    assert_int_equal(n_reusable(tier, 0, "12345678", 3), 2);
    assert_int_equal(n_reusable(tier, 0, "123456", 2), 2);
    assert_int_equal(n_reusable(tier, 0, "1234", 3), 2);
    assert_int_equal(n_reusable(tier, 4, "12345678", 2), 3);
    /* what is before the chain is somewhere else, with its window pages */
    assert_int_equal(n_reusable(tier, 5, "12345678", 4), 2);
    assert_int_equal(n_reusable(tier, 2, "123456", 2), 0);
    assert_int_equal(n_reusable(tier, 7, "12345678", 2), 0);
}

static void what_is_found_ends_behind_window_pages(void **state)
{
    (void)state;
    struct disk_tier_options options = options_of(1, PLENTY);
    options.window_page_bytes = WINDOW_BYTES;
    struct disk_tier *tier = open_with(&options);
    store_shape(tier, "12345678", "ww...ww.");
    check_found_windows(tier);
    disk_tier_destroy(tier);
    tier = open_with(&options); /* sizes of files tell */
    check_found_windows(tier);
    struct disk_chain chain = disk_tier_chain(tier, 0);
    struct disk_load *load = disk_tier_load(tier, &chain, spell("1234567"), 7, 3);
    wait_done(load);
    assert_int_equal(disk_load_n_ready(load), 7);
    uint64_t n_bytes = 0;
    for (uint32_t p = 0; p < 7; p++) {
        static char expected[PAYLOAD], window[WINDOW_BYTES];
        bool has_window;
        const char *bytes = disk_load_page(load, p, &has_window);
        fill(expected, 0, "1234567", p + 1);
        assert_memory_equal(bytes, expected, PAYLOAD);
        /* the last three are wanted, of which one has none */
        assert_int_equal(has_window, p >= 5);
        memset(window, "1234567"[p], WINDOW_BYTES);
        if (has_window)
            assert_memory_equal(bytes + PAYLOAD, window, WINDOW_BYTES);
        n_bytes += PAYLOAD + (has_window ? WINDOW_BYTES : 0);
    }
    disk_tier_drop(tier, load);
    struct disk_tier_status status = status_of(tier);
    assert_int_equal(status.loaded_bytes, n_bytes);
    disk_tier_destroy(tier);
}

/* As another process may do it. */
static void store_without_window(struct disk_tier *tier, const char *digits)
{
    static char payload[PAYLOAD];
    struct disk_page page = {.identity = {1},
                             .chain = disk_tier_chain(tier, 0),
                             .page_bytes = PAYLOAD,
                             .window_page_bytes = WINDOW_BYTES};
    uint32_t n = (uint32_t)strlen(digits);
    disk_chain_extend(&page.chain, spell(digits), n);
    memcpy(page.tokens, spell(digits) + (n - 1) * PAGE, sizeof page.tokens);
    fill(payload, 0, digits, n);
    int at = open(folder, O_RDONLY | O_DIRECTORY);
    assert_int_equal(disk_page_write(at, "other", &page, payload, 1), DISK_OK);
    (void)close(at);
}

static void a_file_that_has_lost_its_window_page_is_found_out(void **state)
{
    (void)state;
    struct disk_tier_options options = options_of(1, PLENTY);
    options.window_page_bytes = WINDOW_BYTES;
    struct disk_tier *tier = open_with(&options);
    store_shape(tier, "1234", "wwww");
    store_without_window(tier, "1234");
    assert_int_equal(n_reusable(tier, 0, "1234", 2), 4);
    struct disk_chain chain = disk_tier_chain(tier, 0);
    struct disk_load *load = disk_tier_load(tier, &chain, spell("1234"), 4, 2);
    wait_done(load);
    assert_int_equal(disk_load_n_ready(load), 4);
    for (uint32_t p = 0; p < 4; p++) {
        bool has_window;
        (void)disk_load_page(load, p, &has_window);
        assert_int_equal(has_window, p == 2);
    }
    disk_tier_drop(tier, load);
    assert_int_equal(n_reusable(tier, 0, "1234", 2), 3); /* nobody tries it again */
    disk_tier_destroy(tier);
}

static void a_load_tells_how_much_room_there_is(void **state)
{
    (void)state;
    struct disk_tier_options options = options_of(1, PLENTY);
    options.load_bytes = 3 * 6016;
    struct disk_tier *tier = open_with(&options);
    assert_int_equal(disk_tier_n_room(tier), 3);
    struct disk_chain chain = disk_tier_chain(tier, 0);
    struct disk_load *load = disk_tier_load(tier, &chain, spell("12"), 2, 0);
    assert_int_equal(disk_tier_n_room(tier), 1);
    wait_done(load);
    disk_tier_drop(tier, load);
    assert_int_equal(disk_tier_n_room(tier), 3);
    disk_tier_destroy(tier);
}

static void a_damaged_file_is_a_miss_and_goes(void **state)
{
    (void)state;
    struct disk_tier *tier = open_tier(PLENTY);
    assert_int_equal(store(tier, 0, "12345"), 5);
    assert_true(disk_tier_flush(tier, LONG_NS));
    int fd = open(path_of(tier, 0, "123"), O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "x", 1, 5000), 1);
    (void)close(fd);
    assert_int_equal(truncate(path_of(tier, 0, "12345"), 5000), 0);
    assert_int_equal(load(tier, 0, "12345", 0), 2);
    assert_int_equal(n_found(tier, 0, "12345"), 2);
    assert_int_equal(load(tier, 0, "12345", 3), 1);
    assert_int_equal(n_files(), 3);
    struct disk_tier_status status = status_of(tier);
    assert_int_equal(status.n_refused[DISK_BAD_PAYLOAD], 1);
    assert_int_equal(status.n_refused[DISK_BAD_SIZE], 1);
    assert_int_equal(n_lines, 1); /* the second of them within a minute is only counted */
    assert_int_equal(store(tier, 0, "12345"), 2); /* it heals */
    assert_true(disk_tier_flush(tier, LONG_NS));
    assert_int_equal(load(tier, 0, "12345", 0), 5);
    disk_tier_destroy(tier);
}

static void pages_that_are_forgotten_are_gone_for_good(void **state)
{
    (void)state;
    struct disk_tier *tier = open_tier(PLENTY);
    assert_int_equal(store(tier, 0, "1234"), 4);
    struct disk_chain chain = disk_tier_chain(tier, 0);
    disk_chain_extend(&chain, spell("12"), 2);
    disk_tier_forget(tier, &chain, spell("1234") + 2 * PAGE, 2); /* written or still waiting */
    assert_true(disk_tier_flush(tier, LONG_NS));
    assert_int_equal(n_found(tier, 0, "1234"), 2);
    for (int i = 0; i < 20000 && n_files() > 2; i++)
        sleep_ms(1);
    disk_tier_destroy(tier);
    tier = open_tier(PLENTY);
    assert_int_equal(n_found(tier, 0, "1234"), 2);
    disk_tier_destroy(tier);
}

static void pages_that_are_forgotten_are_gone_when_the_tier_ends(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        struct disk_tier *tier = open_tier(PLENTY);
        (void)store(tier, 0, "123456789abc");
        assert_true(disk_tier_flush(tier, LONG_NS));
        struct disk_chain chain = disk_tier_chain(tier, 0);
        disk_tier_forget(tier, &chain, spell("123456789abc"), 12);
        disk_tier_destroy(tier);
        assert_int_equal(n_files(), 0);
    }
}

/* The least recently used goes first, the end of a chain before its beginning. */
static void the_folder_keeps_to_its_bound(void **state)
{
    (void)state;
    struct disk_tier *tier = open_tier(10 * FILE_BYTES);
    assert_int_equal(store(tier, 0, "12345"), 5);
    assert_true(disk_tier_flush(tier, LONG_NS));
    sleep_ms(400); /* longer than the steps between pages of a chain, on a busy machine, too */
    assert_int_equal(store(tier, 0, "abcde"), 5);
    assert_true(disk_tier_flush(tier, LONG_NS));
    assert_int_equal(n_files(), 10);
    sleep_ms(400);
    assert_int_equal(n_found(tier, 0, "123"), 3); /* used, and so are those before */
    assert_int_equal(store(tier, 0, "wxyz"), 4);
    assert_true(disk_tier_flush(tier, LONG_NS));
    assert_int_equal(n_files(), 10);
    assert_int_equal(n_found(tier, 0, "12345"), 3);
    assert_int_equal(n_found(tier, 0, "abcde"), 3);
    assert_int_equal(n_found(tier, 0, "wxyz"), 4);
    struct disk_tier_status status = status_of(tier);
    assert_int_equal(status.n_evicted, 4);
    assert_int_equal(status.evicted_bytes, 4 * FILE_BYTES);
    assert_int_equal(status.bytes, 10 * FILE_BYTES);
    disk_tier_destroy(tier);
}

/* Times of use last through a restart, also those of pages that were only looked up; and a smaller
 * bound takes hold. */
static void the_order_of_eviction_outlives_the_process(void **state)
{
    (void)state;
    struct disk_tier *tier = open_tier(PLENTY);
    (void)store(tier, 0, "12");
    (void)store(tier, 0, "ab");
    assert_true(disk_tier_flush(tier, LONG_NS));
    sleep_ms(400);
    assert_int_equal(n_found(tier, 0, "12"), 2);
    disk_tier_destroy(tier);
    tier = open_tier(3 * FILE_BYTES);
    for (int i = 0; i < 20000 && n_files() > 3; i++)
        sleep_ms(1);
    assert_int_equal(n_found(tier, 0, "12"), 2);
    assert_int_equal(n_found(tier, 0, "ab"), 1);
    disk_tier_destroy(tier);
}

static void staging_memory_is_bounded(void **state)
{
    (void)state;
    struct disk_tier_options options = options_of(1, PLENTY);
    options.store_bytes = options.load_bytes = 3 * 6016;
    struct disk_tier *tier = open_with(&options);
    struct disk_chain chain = disk_tier_chain(tier, 0);
    void *bytes[4];
    for (int i = 0; i < 4; i++)
        bytes[i] = disk_tier_stage(tier, &chain, spell("1234") + i * PAGE, false);
    assert_true(bytes[0] && bytes[1] && bytes[2] && !bytes[3]);
    assert_int_equal(chain.n_pages, 4); /* goes on nevertheless */
    assert_int_equal(status_of(tier).n_not_stored, 1);
    struct disk_chain again = disk_tier_chain(tier, 0);
    assert_null(disk_tier_stage(tier, &again, spell("1"), false)); /* is on its way */
    for (int i = 0; i < 3; i++)
        disk_tier_unstage(tier, bytes[i]);
    assert_int_equal(n_found(tier, 0, "1234"), 0);
    for (int round = 0; round < 5; round++) { /* room again, and again */
        char digits[3] = {(char)('a' + round), 'x', 0};
        assert_int_equal(store(tier, 0, digits), 2);
        assert_true(disk_tier_flush(tier, LONG_NS));
    }
    chain = disk_tier_chain(tier, 0);
    struct disk_load *first = disk_tier_load(tier, &chain, spell("ax"), 2, 0);
    struct disk_load *second = disk_tier_load(tier, &chain, spell("bx"), 2, 0);
    assert_non_null(first);
    assert_int_equal(disk_load_n_pages(second), 1); /* what there is room for */
    assert_null(disk_tier_load(tier, &chain, spell("cx"), 2, 0));
    wait_done(first);
    disk_tier_drop(tier, first);
    wait_done(second);
    disk_tier_drop(tier, second);
    assert_int_equal(load(tier, 0, "cx", 0), 2);
    disk_tier_destroy(tier);
}

static void loads_can_be_dropped_at_any_time(void **state)
{
    (void)state;
    struct disk_tier *tier = open_tier(PLENTY);
    assert_int_equal(store(tier, 0, "123456789"), 9);
    assert_true(disk_tier_flush(tier, LONG_NS));
    struct disk_chain chain = disk_tier_chain(tier, 0);
    for (uint64_t i = 0; i < 300; i++) {
        struct disk_load *loads[3];
        for (int k = 0; k < 3; k++)
            loads[k] = disk_tier_load(tier, &chain, spell("123456789"), 9, 0);
        for (int k = 0; k < 3; k++) {
            struct timespec time = {.tv_nsec = (long)(hash_mix(i * 3 + (uint64_t)k) % 100000)};
            if (i % 2)
                (void)nanosleep(&time, NULL);
            int which = i % 3 == 0 ? 2 - k : k;
            if (loads[which])
                disk_tier_drop(tier, loads[which]);
        }
    }
    for (int i = 0; i < 20000 && status_of(tier).n_loading > 0; i++)
        sleep_ms(1);
    assert_int_equal(load(tier, 0, "123456789", 0), 9);
    disk_tier_destroy(tier);
}

static struct rlimit limit_before;

/* The files of this process end at 3,000 bytes; output of the tests goes to pipes and terminals. */
static void fill_disk(void)
{
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit_before), 0);
    const struct rlimit small = {.rlim_cur = 3000, .rlim_max = limit_before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
}

static void empty_disk(void)
{
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit_before), 0);
}

static void a_full_disk_ends_writing_for_a_while_and_nothing_else(void **state)
{
    (void)state;
    struct disk_tier *tier = open_tier(PLENTY);
    assert_int_equal(store(tier, 0, "12"), 2);
    assert_true(disk_tier_flush(tier, LONG_NS));
    fill_disk();
    (void)store(tier, 0, "1234");
    bool is_flushed = disk_tier_flush(tier, LONG_NS);
    empty_disk();
    assert_true(is_flushed);
    struct disk_tier_status status = status_of(tier);
    assert_int_equal(status.n_failed_writes, 1);
    assert_int_equal(status.n_not_stored, 2);
    assert_false(status.is_writing);
    assert_int_equal(n_lines, 1);
    assert_int_equal(n_files(), 2);
    assert_int_equal(n_found(tier, 0, "1234"), 2);
    assert_int_equal(load(tier, 0, "1234", 0), 2);
    assert_int_equal(store(tier, 0, "1234"), 0); /* not now */
    disk_tier_destroy(tier);
}

static _Atomic uint64_t virtual_ns;

static uint64_t virtual_now(void *context)
{
    (void)context;
    return virtual_ns;
}

static int64_t virtual_wall(void *context)
{
    (void)context;
    return 1700000000;
}

/* Twice as long after each failure, and from the start again after a success. */
static void writing_is_tried_again_later(void **state)
{
    (void)state;
    const struct clock clock = {.now_ns = virtual_now, .wall_seconds = virtual_wall};
    const uint64_t second = 1000000000, pauses[] = {30, 60, 120, 240, 480, 600, 600};
    struct disk_tier_options options = options_of(1, PLENTY);
    options.clock = &clock;
    struct disk_tier *tier = open_with(&options);
    for (size_t i = 0; i < sizeof pauses / sizeof *pauses; i++) {
        fill_disk();
        assert_int_equal(store(tier, 0, "1"), 1);
        assert_true(disk_tier_flush(tier, LONG_NS));
        empty_disk();
        assert_int_equal(status_of(tier).n_failed_writes, i + 1);
        virtual_ns += pauses[i] * second - 1;
        assert_int_equal(store(tier, 0, "1"), 0);
        assert_false(status_of(tier).is_writing);
        virtual_ns += 1;
        assert_true(status_of(tier).is_writing);
    }
    assert_int_equal(store(tier, 0, "1"), 1);
    assert_true(disk_tier_flush(tier, LONG_NS));
    assert_int_equal(load(tier, 0, "1", 0), 1);
    fill_disk();
    assert_int_equal(store(tier, 0, "12"), 1);
    assert_true(disk_tier_flush(tier, LONG_NS));
    empty_disk();
    assert_false(status_of(tier).is_writing);
    virtual_ns += pauses[0] * second;
    assert_true(status_of(tier).is_writing);
    disk_tier_destroy(tier);
}

static void a_folder_that_is_not_safe_is_refused(void **state)
{
    (void)state;
    struct disk_tier_options options = options_of(1, PLENTY);
    struct disk_tier *tier;
    char path[128];
    options.folder = path;
    (void)snprintf(path, sizeof path, "%s/none/deep", folder);
    assert_int_equal(disk_tier_create(&options, &tier, &err), SERVERD_INVALID);
    (void)snprintf(path, sizeof path, "%s/link", folder);
    assert_int_equal(symlink(folder, path), 0);
    assert_int_equal(disk_tier_create(&options, &tier, &err), SERVERD_INVALID);
    assert_non_null(strstr(err.text, "link"));
    options.folder = folder;
    assert_int_equal(chmod(folder, 0770), 0);
    assert_int_equal(disk_tier_create(&options, &tier, &err), SERVERD_INVALID);
    assert_int_equal(chmod(folder, 0700), 0);
    options.max_bytes = FILE_BYTES - 1;
    assert_int_equal(disk_tier_create(&options, &tier, &err), SERVERD_INVALID);
    options.max_bytes = FILE_BYTES;
    options.page_bytes = UINT64_MAX;
    assert_int_equal(disk_tier_create(&options, &tier, &err), SERVERD_UNSUPPORTED);

    struct stat st; /* and one that is not there is made */
    options = options_of(1, PLENTY);
    options.folder = path;
    (void)snprintf(path, sizeof path, "%s/new", folder);
    tier = open_with(&options);
    disk_tier_destroy(tier);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(rmdir(path), 0);
}

static void what_is_not_ours_is_left_alone(void **state)
{
    (void)state;
    static const char *const names[] = {"notes.txt", "0123456789abcdef0123456789abcdef.kvx",
                                        "0123456789abcdef0123456789abcdef.bak"};
    struct stat st;
    char path[128];
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        int fd = open(path, O_CREAT | O_WRONLY, 0600);
        assert_int_equal(write(fd, "mine", 4), 4);
        (void)close(fd);
    }
    /* a link with a name of ours, to one of them; and a page that was cut off */
    (void)snprintf(path, sizeof path, "%s/0123456789abcdef0123456789abcdef.kv", folder);
    assert_int_equal(symlink("notes.txt", path), 0);
    (void)snprintf(path, sizeof path, "%s/1123456789abcdef0123456789abcdef.kv", folder);
    (void)close(open(path, O_CREAT | O_WRONLY, 0600));
    struct disk_tier *tier = open_tier(FILE_BYTES);
    (void)store(tier, 0, "123");
    assert_true(disk_tier_flush(tier, LONG_NS));
    assert_int_equal(status_of(tier).n_refused[DISK_BAD_SIZE], 1);
    disk_tier_destroy(tier);
    assert_int_equal(n_files(), 3 + 1 + 1);
    (void)snprintf(path, sizeof path, "%s/notes.txt", folder);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 4);
}

/* ---- several processes and threads ----------------------------------------------------------- */

static void two_tiers_share_a_folder(void **state)
{
    (void)state;
    struct disk_tier_options options = options_of(1, 12 * FILE_BYTES);
    options.rescan_ns = 1000000;
    struct disk_tier *a = open_with(&options), *b = open_with(&options);
    assert_int_equal(store(a, 0, "12345678"), 8);
    assert_true(disk_tier_flush(a, LONG_NS));
    for (int i = 0; i < 20000 && n_found(b, 0, "12345678") < 8; i++)
        sleep_ms(1);
    assert_int_equal(load(b, 0, "12345678", 0), 8);
    sleep_ms(50);
    /* both write the same, and more than there is room for */
    for (char c = 'a'; c < 'k'; c++) {
        const char digits[] = {c, 'x', 'y', 'z', 0};
        (void)store(a, 0, digits);
        (void)store(b, 0, digits);
        (void)n_found(c % 2 ? a : b, 0, digits);
        assert_true(load(c % 2 ? a : b, 0, digits, 0) <= 4);
    }
    assert_true(disk_tier_flush(a, LONG_NS) && disk_tier_flush(b, LONG_NS));
    for (int i = 0; i < 20000 && n_files() > 12; i++)
        sleep_ms(1);
    assert_true(n_files() <= 12);
    for (int i = 0; i < 20000 && (status_of(a).n_files > 12 || status_of(b).n_files > 12); i++)
        sleep_ms(1);
    struct disk_tier *both[] = {a, b};
    for (int i = 0; i < 2; i++) {
        struct disk_tier_status status = status_of(both[i]);
        for (int r = DISK_NOT_REGULAR; r < DISK_N_RESULTS; r++)
            assert_int_equal(status.n_refused[r], 0); /* at most gone */
        assert_int_equal(status.n_failed_writes, 0);
        disk_tier_destroy(both[i]);
    }
}

/* Pages of an endless sequence of chains, until the parent ends it. */
static void write_for_ever(void)
{
    struct disk_tier_options options = options_of(1, 200 * FILE_BYTES);
    options.log = NULL;
    struct disk_tier *tier;
    if (disk_tier_create(&options, &tier, &err) != SERVERD_OK)
        _exit(1);
    for (uint32_t round = 0;; round++) {
        char digits[9];
        for (int p = 0; p < 8; p++)
            digits[p] = (char)('a' + hash_mix(round / 2 * 8u + (uint32_t)p) % (p < 2 ? 3 : 20));
        digits[8] = '\0';
        (void)store(tier, 3, digits);
        if (round % 8 == 7)
            (void)disk_tier_flush(tier, LONG_NS);
    }
}

static void a_killed_process_leaves_whole_pages(void **state)
{
    (void)state;
    uint32_t n_loaded = 0;
    for (int round = 0; round < 8; round++) {
        pid_t child = fork();
        if (child == 0)
            write_for_ever();
        assert_true(child > 0);
        sleep_ms(10 + (long)(hash_mix((uint64_t)round) % 60));
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, NULL, 0), child);
        struct disk_tier *tier = open_tier(200 * FILE_BYTES);
        for (uint32_t i = 0; i < 400; i++) {
            char digits[9];
            for (int p = 0; p < 8; p++)
                digits[p] = (char)('a' + hash_mix(i * 8u + (uint32_t)p) % (p < 2 ? 3 : 20));
            digits[8] = '\0';
            uint32_t n = n_found(tier, 3, digits);
            if (n > 0)
                assert_int_equal(load(tier, 3, digits, 0), n); /* checks the bytes */
            n_loaded += n;
        }
        struct disk_tier_status status = status_of(tier);
        for (int r = DISK_NOT_REGULAR; r < DISK_N_RESULTS; r++)
            assert_int_equal(status.n_refused[r], 0);
        disk_tier_destroy(tier);
    }
    print_message("  %u pages loaded after kills\n", n_loaded);
    assert_true(n_loaded > 0);
}

/* ---- random operations against a list ---------------------------------------------------------
 */

enum { N_CHAINS = 40 };

/* What is stored is a subset of what was ever stored and not forgotten; without eviction it is all
 * of it. Bytes are checked at each load, so no page is ever another's. */
static void random_operations(uint64_t seed, uint64_t max_bytes)
{
    bool is_known[N_CHAINS][MAX_PAGES] = {{false}}; /* by chain and page */
    char digits[N_CHAINS][9];
    struct disk_tier *tier = open_tier(max_bytes);
    print_message("  seed %llu\n", (unsigned long long)seed);
    for (uint32_t c = 0; c < N_CHAINS; c++) { /* no common beginnings: the list stays simple */
        for (uint32_t p = 0; p < 8; p++)
            digits[c][p] = (char)(p == 0 ? 1 + c : '0' + hash_mix(seed + c * 8 + p) % 10);
        digits[c][8] = '\0';
    }
    for (uint64_t i = 0; i < 600; i++) {
        uint64_t random = hash_mix(seed * 1000003 + i);
        uint32_t c = (uint32_t)(random % N_CHAINS), n = 1 + (uint32_t)(random / 64 % 8), most = 0;
        char part[9] = "";
        memcpy(part, digits[c], n);
        while (most < n && is_known[c][most])
            most++;
        switch (random / 1024 % 6) {
        case 0:
        case 1:
            (void)store(tier, 9, part);
            assert_true(disk_tier_flush(tier, LONG_NS));
            memset(is_known[c], true, n);
            break;
        case 2:
            if (max_bytes == PLENTY)
                assert_int_equal(n_found(tier, 9, part), most);
            else
                assert_true(n_found(tier, 9, part) <= most);
            break;
        case 3:
            if (max_bytes == PLENTY)
                assert_int_equal(load(tier, 9, part, 0), most);
            else
                assert_true(load(tier, 9, part, 0) <= most);
            break;
        case 4: {
            struct disk_chain chain = disk_tier_chain(tier, 9);
            if (random / 8192 % 4)
                break;
            disk_tier_forget(tier, &chain, spell(part), n);
            while (n_found(tier, 9, part) > 0 || load(tier, 9, part, 0) > 0)
                sleep_ms(1);
            memset(is_known[c], false, n);
            /* until the files are gone the pages count as known and are not stored again */
            while (!disk_tier_flush(tier, LONG_NS) || access(path_of(tier, 9, part), F_OK) == 0)
                sleep_ms(1);
            break;
        }
        default:
            if (random / 8192 % 8 == 0) {
                disk_tier_destroy(tier);
                tier = open_tier(max_bytes);
            }
        }
        struct disk_tier_status status = status_of(tier);
        assert_true(status.bytes <= max_bytes);
        assert_int_equal(status.n_failed_writes, 0);
    }
    disk_tier_destroy(tier);
    remove_files();
}

static void random_operations_agree_with_a_list(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        random_operations(seed, PLENTY);
        random_operations(seed + 100, 60 * FILE_BYTES);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pages_are_found_and_come_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_restart_finds_what_was_stored, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_found_ends_behind_window_pages, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_that_has_lost_its_window_page_is_found_out, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_load_tells_how_much_room_there_is, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_damaged_file_is_a_miss_and_goes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pages_that_are_forgotten_are_gone_for_good, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(pages_that_are_forgotten_are_gone_when_the_tier_ends,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_folder_keeps_to_its_bound, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_order_of_eviction_outlives_the_process, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(staging_memory_is_bounded, set_up, tear_down),
        cmocka_unit_test_setup_teardown(loads_can_be_dropped_at_any_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_full_disk_ends_writing_for_a_while_and_nothing_else,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(writing_is_tried_again_later, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_folder_that_is_not_safe_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_not_ours_is_left_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(two_tiers_share_a_folder, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_killed_process_leaves_whole_pages, set_up, tear_down),
        cmocka_unit_test_setup_teardown(random_operations_agree_with_a_list, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
