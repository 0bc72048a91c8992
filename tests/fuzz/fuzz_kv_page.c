/* Any bytes as a file of the disk tier, and as the name of one: a page that is taken is exactly
 * what would have been written. */
#include "kvcache/disk_page.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PAGE_BYTES = 64, WINDOW_BYTES = 32, PAYLOAD = PAGE_BYTES + WINDOW_BYTES };

/* Of which the corpus has whole files, with and without the window page. */
static struct disk_page expected_page(bool wants_window)
{
    struct disk_page page = {.identity = {1, 2, 3},
                             .page_bytes = PAGE_BYTES,
                             .window_page_bytes = WINDOW_BYTES,
                             .has_window = wants_window};
    disk_chain_begin(page.identity, 4, &page.chain);
    for (int p = 0; p < 2; p++) {
        for (int i = 0; i < (int)SERVERD_PAGE_TOKENS; i++)
            page.tokens[i] = 1000 * p + i;
        disk_chain_extend(&page.chain, page.tokens, 1);
    }
    return page;
}

static void must(bool holds)
{
    if (!holds)
        abort();
}

/* What the writer makes of the page and this payload; returns the file's size. */
static size_t write_anew(const struct disk_page *page, const void *payload, uint8_t *out)
{
    char folder[] = "/tmp/serverd-fuzz-XXXXXX", name[DISK_NAME_BYTES];
    must(mkdtemp(folder) != NULL);
    int at = open(folder, O_RDONLY | O_DIRECTORY);
    must(disk_page_write(at, "t", page, payload, 1) == DISK_OK);
    disk_name_of(disk_key_of(page->chain.hash), name);
    int fd = openat(at, name, O_RDONLY);
    ssize_t n = read(fd, out, DISK_PAGE_HEADER_BYTES + PAYLOAD);
    must(n == (ssize_t)(DISK_PAGE_HEADER_BYTES + disk_page_payload_bytes(page)));
    (void)close(fd);
    (void)unlinkat(at, name, 0);
    (void)close(at);
    (void)rmdir(folder);
    return (size_t)n;
}

static void check_file(const uint8_t *data, size_t size, bool wants_window)
{
    struct disk_page page = expected_page(wants_window);
    uint8_t payload[PAYLOAD], again[DISK_PAGE_HEADER_BYTES + PAYLOAD];
    int fd = memfd_create("page", MFD_CLOEXEC);
    must(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    enum disk_result result = disk_page_read_fd(fd, &page, payload);
    (void)close(fd);
    must(result < DISK_N_RESULTS && strcmp(disk_result_name(result), "unknown") != 0);
    if (result != DISK_OK)
        return;
    must(wants_window || !page.has_window);
    if (size == DISK_PAGE_HEADER_BYTES + PAYLOAD && !wants_window)
        return; /* of which only the page was read */
    must(write_anew(&page, payload, again) == size);
    must(memcmp(again, data, size) == 0);
}

static void check_name(const uint8_t *data, size_t size)
{
    char name[64], again[DISK_NAME_BYTES];
    struct disk_key key;
    if (size >= sizeof name)
        return;
    memcpy(name, data, size);
    name[size] = '\0';
    if (!disk_key_of_name(name, &key))
        return;
    disk_name_of(key, again);
    must(strcmp(name, again) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_file(data, size, false);
    check_file(data, size, true);
    check_name(data, size);
    return 0;
}
