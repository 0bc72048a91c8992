/* Files of single pages: what is written is read, and nothing else is. */
#include "base/hash.h"
#include "kvcache/disk_page.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAYLOAD = 5000, FILE_BYTES = DISK_PAGE_HEADER_BYTES + PAYLOAD };

static char folder_path[] = "/tmp/serverd-page-XXXXXX";
static int folder;
static uint8_t payload[PAYLOAD], found[PAYLOAD];

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(folder_path))
        return -1;
    folder = open(folder_path, O_RDONLY | O_DIRECTORY);
    for (size_t i = 0; i < PAYLOAD; i++)
        payload[i] = (uint8_t)hash_mix(i);
    return folder < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    (void)close(folder);
    return rmdir(folder_path); /* tests leave nothing */
}

/* Page number n_before of a sequence. */
static struct disk_page make_page(uint8_t identity, uint64_t space, uint32_t n_before,
                                  int32_t last_token)
{
    struct disk_page page = {.page_bytes = PAYLOAD};
    memset(page.identity, identity, sizeof page.identity);
    disk_chain_begin(page.identity, space, &page.chain);
    for (uint32_t p = 0; p <= n_before; p++) {
        for (uint32_t i = 0; i < SERVERD_PAGE_TOKENS; i++)
            page.tokens[i] = (int32_t)(100 * p + i);
        if (p == n_before)
            page.tokens[SERVERD_PAGE_TOKENS - 1] = last_token;
        disk_chain_extend(&page.chain, page.tokens, 1);
    }
    return page;
}

static const char *name_of(const struct disk_page *page)
{
    static char name[DISK_NAME_BYTES];
    disk_name_of(disk_key_of(page->chain.hash), name);
    return name;
}

static void write_page(const struct disk_page *page)
{
    assert_int_equal(disk_page_write(folder, "t", page, payload, 7000000000u), DISK_OK);
}

static void drop(const struct disk_page *page)
{
    assert_int_equal(unlinkat(folder, name_of(page), 0), 0);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    struct disk_page page = make_page(1, 2, 3, 4);
    struct stat st;
    assert_int_equal(disk_page_read(folder, &page, found), DISK_GONE);
    write_page(&page);
    assert_int_equal(disk_page_read(folder, &page, found), DISK_OK);
    assert_memory_equal(found, payload, PAYLOAD);
    assert_int_equal(fstatat(folder, name_of(&page), &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_mtim.tv_sec, 7);
    assert_int_equal(faccessat(folder, "t", F_OK, 0), -1);
    write_page(&page); /* again: replaced as a whole */
    assert_int_equal(disk_page_read(folder, &page, found), DISK_OK);
    drop(&page);
}

enum { WINDOW_BYTES = 2000 };

/* The payload is a page and a window page, or the former alone. */
static struct disk_page make_window_page(bool has_window)
{
    struct disk_page page = make_page(1, 2, 3, 4);
    page.page_bytes = PAYLOAD - WINDOW_BYTES;
    page.window_page_bytes = WINDOW_BYTES;
    page.has_window = has_window;
    return page;
}

static void a_page_is_stored_with_its_window_page_or_without(void **state)
{
    (void)state;
    for (int is_stored = 0; is_stored < 2; is_stored++)
        for (int is_wanted = 0; is_wanted < 2; is_wanted++) {
            struct disk_page written = make_window_page(is_stored);
            struct disk_page page = make_window_page(is_wanted);
            write_page(&written);
            memset(found, 0, PAYLOAD);
            assert_int_equal(disk_page_read(folder, &page, found), DISK_OK);
            assert_int_equal(page.has_window, is_stored && is_wanted);
            assert_memory_equal(found, payload, disk_page_payload_bytes(&page));
            if (!page.has_window)
                assert_int_equal(found[page.page_bytes], 0); /* not even looked at */
            drop(&page);
        }
    /* where there are no window pages, the same bytes are something else */
    struct disk_page written = make_window_page(true), page = make_page(1, 2, 3, 4);
    write_page(&written);
    assert_int_equal(disk_page_read(folder, &page, found), DISK_FOREIGN);
    drop(&page);
}

static void a_chain_is_the_same_in_one_go_and_in_steps(void **state)
{
    (void)state;
    int32_t tokens[5 * SERVERD_PAGE_TOKENS];
    for (int32_t i = 0; i < 5 * (int32_t)SERVERD_PAGE_TOKENS; i++)
        tokens[i] = i * 31;
    const uint8_t identity[DISK_HASH_BYTES] = {9};
    struct disk_chain once, steps;
    disk_chain_begin(identity, 5, &once);
    disk_chain_begin(identity, 5, &steps);
    disk_chain_extend(&once, tokens, 5);
    disk_chain_extend(&steps, tokens, 2);
    disk_chain_extend(&steps, tokens + 2 * SERVERD_PAGE_TOKENS, 3);
    assert_memory_equal(&once, &steps, sizeof once);
}

/* A name stands for the model, the namespace and every token from the first one on. */
static void names_differ_with_all_that_comes_before(void **state)
{
    (void)state;
    const struct disk_page pages[] = {make_page(1, 2, 3, 4), make_page(2, 2, 3, 4),
                                      make_page(1, 3, 3, 4), make_page(1, 2, 2, 4),
                                      make_page(1, 2, 3, 5)};
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++)
        for (size_t j = 0; j < i; j++)
            assert_false(disk_key_equals(disk_key_of(pages[i].chain.hash),
                                         disk_key_of(pages[j].chain.hash)));
    struct disk_key key;
    assert_true(disk_key_of_name(name_of(&pages[0]), &key));
    assert_true(disk_key_equals(key, disk_key_of(pages[0].chain.hash)));
    static const char *const others[] = {"",
                                         "0123456789abcdef0123456789abcdef",
                                         "0123456789abcdef0123456789abcdef.kw",
                                         "0123456789abcdef0123456789abcdef.kvv",
                                         "0123456789abcdef0123456789abcde.kv",
                                         "0123456789ABCDEF0123456789abcdef.kv"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_false(disk_key_of_name(others[i], &key));
}

/* The file as it was written, changed by the caller. */
static void rewrite(const struct disk_page *page, const uint8_t *bytes, size_t n)
{
    int fd = openat(folder, name_of(page), O_WRONLY | O_TRUNC | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), n);
    (void)close(fd);
}

static void read_raw(const struct disk_page *page, uint8_t *bytes)
{
    int fd = openat(folder, name_of(page), O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, bytes, FILE_BYTES), FILE_BYTES);
    (void)close(fd);
}

static void check_flipped_bits(struct disk_page page)
{
    const bool has_window = page.has_window;
    static uint8_t bytes[FILE_BYTES];
    write_page(&page);
    read_raw(&page, bytes);
    for (size_t i = 0; i < FILE_BYTES; i += i < DISK_PAGE_HEADER_BYTES ? 1 : 97) {
        bytes[i] ^= (uint8_t)(1u << i % 8);
        rewrite(&page, bytes, FILE_BYTES);
        page.has_window = has_window; /* wanted */
        enum disk_result result = disk_page_read(folder, &page, found);
        if (result != (i < DISK_PAGE_HEADER_BYTES ? DISK_BAD_HEADER : DISK_BAD_PAYLOAD))
            fail_msg("byte %zu: %s", i, disk_result_name(result));
        bytes[i] ^= (uint8_t)(1u << i % 8);
    }
    rewrite(&page, bytes, FILE_BYTES);
    assert_int_equal(disk_page_read(folder, &page, found), DISK_OK);
    drop(&page);
}

static void a_flipped_bit_anywhere_is_found_out(void **state)
{
    (void)state;
    check_flipped_bits(make_page(1, 2, 3, 4));
    check_flipped_bits(make_window_page(true));
}

/* Headers that are whole, with a right checksum, but say something else. */
static void a_whole_file_of_something_else_is_refused(void **state)
{
    (void)state;
    struct disk_page page = make_page(1, 2, 3, 4);
    struct disk_page others[] = {make_page(2, 2, 3, 4), make_page(1, 3, 3, 4),
                                 make_page(1, 2, 2, 4), make_page(1, 2, 3, 5)};
    static uint8_t bytes[FILE_BYTES];
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        write_page(&others[i]);
        read_raw(&others[i], bytes);
        drop(&others[i]);
        rewrite(&page, bytes, FILE_BYTES);
        assert_int_equal(disk_page_read(folder, &page, found), DISK_FOREIGN);
    }
    /* each field for itself, checksums made right again */
    enum { IDS_END = 160 + 4 * SERVERD_PAGE_TOKENS, SUM = DISK_PAGE_HEADER_BYTES - 8 };
    static const size_t fields[] = {16,  48,  80,          112,     144,         148,
                                    152, 160, IDS_END - 4, IDS_END, IDS_END + 16};
    write_page(&page);
    read_raw(&page, bytes);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        bytes[fields[i]] ^= 1;
        uint64_t sum = checksum64(bytes, SUM);
        for (int b = 0; b < 8; b++)
            bytes[SUM + b] = (uint8_t)(sum >> 8 * b);
        rewrite(&page, bytes, FILE_BYTES);
        assert_int_equal(disk_page_read(folder, &page, found), DISK_FOREIGN);
        bytes[fields[i]] ^= 1;
    }
    bytes[8] ^= 1; /* another version, whatever else it says */
    rewrite(&page, bytes, FILE_BYTES);
    assert_int_equal(disk_page_read(folder, &page, found), DISK_BAD_HEADER);
    bytes[8] ^= 1;
    const uint32_t longer = DISK_PAGE_HEADER_BYTES + 4; /* pages of one token more */
    bytes[12] = (uint8_t)longer;
    bytes[13] = (uint8_t)(longer >> 8);
    rewrite(&page, bytes, FILE_BYTES);
    assert_int_equal(disk_page_read(folder, &page, found), DISK_BAD_HEADER);
    drop(&page);
}

static void a_file_of_another_length_is_refused(void **state)
{
    (void)state;
    struct disk_page page = make_page(1, 2, 3, 4);
    static uint8_t bytes[FILE_BYTES + 1];
    write_page(&page);
    read_raw(&page, bytes);
    static const size_t lengths[] = {0,
                                     1,
                                     DISK_PAGE_HEADER_BYTES - 1,
                                     DISK_PAGE_HEADER_BYTES,
                                     DISK_PAGE_HEADER_BYTES + 44,
                                     4096,
                                     FILE_BYTES - 1,
                                     FILE_BYTES + 1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        rewrite(&page, bytes, lengths[i]);
        assert_int_equal(disk_page_read(folder, &page, found), DISK_BAD_SIZE);
    }
    drop(&page);
}

static void links_folders_and_fifos_are_not_read(void **state)
{
    (void)state;
    struct disk_page page = make_page(1, 2, 3, 4);
    write_page(&page);
    assert_int_equal(renameat(folder, name_of(&page), folder, "elsewhere"), 0);
    assert_int_equal(symlinkat("elsewhere", folder, name_of(&page)), 0);
    assert_int_equal(disk_page_read(folder, &page, found), DISK_NOT_REGULAR);
    /* a temporary name that is a link is not followed, a link of the final name is replaced */
    assert_int_equal(symlinkat("elsewhere", folder, "t"), 0);
    assert_int_equal(disk_page_write(folder, "t", &page, payload, 1), DISK_IO_ERROR);
    assert_int_equal(unlinkat(folder, "t", 0), 0);
    write_page(&page);
    assert_int_equal(disk_page_read(folder, &page, found), DISK_OK);
    drop(&page);
    assert_int_equal(unlinkat(folder, "elsewhere", 0), 0);
    assert_int_equal(mkfifoat(folder, name_of(&page), 0600), 0);
    assert_int_equal(disk_page_read(folder, &page, found), DISK_NOT_REGULAR);
    drop(&page);
    assert_int_equal(mkdirat(folder, name_of(&page), 0700), 0);
    assert_int_equal(disk_page_read(folder, &page, found), DISK_NOT_REGULAR);
    assert_int_equal(unlinkat(folder, name_of(&page), AT_REMOVEDIR), 0);
}

static void a_disk_without_room_leaves_nothing_behind(void **state)
{
    (void)state;
    struct disk_page page = make_page(1, 2, 3, 4);
    struct rlimit before, small = {.rlim_cur = 3000};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    enum disk_result result = disk_page_write(folder, "t", &page, payload, 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    (void)signal(SIGXFSZ, handler);
    assert_int_equal(result, DISK_NO_SPACE);
    assert_int_equal(faccessat(folder, "t", F_OK, 0), -1);
    assert_int_equal(disk_page_read(folder, &page, found), DISK_GONE);
    assert_int_equal(disk_page_write(-1, "t", &page, payload, 1), DISK_IO_ERROR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(a_page_is_stored_with_its_window_page_or_without),
        cmocka_unit_test(a_chain_is_the_same_in_one_go_and_in_steps),
        cmocka_unit_test(names_differ_with_all_that_comes_before),
        cmocka_unit_test(a_flipped_bit_anywhere_is_found_out),
        cmocka_unit_test(a_whole_file_of_something_else_is_refused),
        cmocka_unit_test(a_file_of_another_length_is_refused),
        cmocka_unit_test(links_folders_and_fifos_are_not_read),
        cmocka_unit_test(a_disk_without_room_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
