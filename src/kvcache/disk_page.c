#include "kvcache/disk_page.h"

#include "base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FORMAT_VERSION 2u
#define PAGE           SERVERD_PAGE_TOKENS

static const char magic[8] = {'S', 'R', 'V', 'D', 'K', 'V', 'P', 'G'};

/* Offsets in the header. */
enum {
    AT_VERSION = 8,
    AT_HEADER_BYTES = 12,
    AT_IDENTITY = 16,
    AT_SPACE = 48,
    AT_HASH = 80,
    AT_BEFORE = 112,
    AT_PAGE_TOKENS = 144,
    AT_FLAGS = 148,
    AT_POSITION = 152,
    AT_TOKENS = 160,
    AT_PAYLOAD_BYTES = AT_TOKENS + 4 * PAGE,
    AT_PAGE_SUM = AT_PAYLOAD_BYTES + 8,
    AT_WINDOW_SUM = AT_PAGE_SUM + 8,
    AT_HEADER_SUM = AT_WINDOW_SUM + 8
};
enum { FLAG_WINDOW = 1 };
_Static_assert(AT_HEADER_SUM + 8 == DISK_PAGE_HEADER_BYTES, "the header ends with its checksum");

static void put_u32(uint8_t *at, uint32_t x)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(x >> 8 * i);
}

static void put_u64(uint8_t *at, uint64_t x)
{
    for (int i = 0; i < 8; i++)
        at[i] = (uint8_t)(x >> 8 * i);
}

static uint32_t get_u32(const uint8_t *at)
{
    uint32_t x = 0;
    for (int i = 0; i < 4; i++)
        x |= (uint32_t)at[i] << 8 * i;
    return x;
}

static uint64_t get_u64(const uint8_t *at)
{
    uint64_t x = 0;
    for (int i = 0; i < 8; i++)
        x |= (uint64_t)at[i] << 8 * i;
    return x;
}

static void put_tokens(uint8_t *at, const int32_t *tokens)
{
    for (uint32_t i = 0; i < PAGE; i++)
        put_u32(at + 4 * i, (uint32_t)tokens[i]);
}

/* ---- chains and names ------------------------------------------------------------------------ */

void disk_chain_begin(const uint8_t identity[DISK_HASH_BYTES], uint64_t space,
                      struct disk_chain *out)
{
    uint8_t seed[sizeof magic + 4 + DISK_HASH_BYTES + 8];
    memcpy(seed, magic, sizeof magic);
    put_u32(seed + 8, FORMAT_VERSION);
    memcpy(seed + 12, identity, DISK_HASH_BYTES);
    put_u64(seed + 12 + DISK_HASH_BYTES, space);
    *out = (struct disk_chain){0};
    sha256_bytes(seed, sizeof seed, out->space);
    memcpy(out->hash, out->space, sizeof out->hash);
}

void disk_chain_extend(struct disk_chain *chain, const int32_t *tokens, uint32_t n_pages)
{
    uint8_t text[DISK_HASH_BYTES + PAGE * 4];
    for (uint32_t p = 0; p < n_pages; p++) {
        memcpy(chain->before, chain->hash, sizeof chain->before);
        memcpy(text, chain->hash, DISK_HASH_BYTES);
        put_tokens(text + DISK_HASH_BYTES, tokens + (size_t)p * PAGE);
        sha256_bytes(text, sizeof text, chain->hash);
    }
    chain->n_pages += n_pages;
}

struct disk_key disk_key_of(const uint8_t hash[DISK_HASH_BYTES])
{
    struct disk_key key = {{0, 0}};
    for (int i = 0; i < 16; i++) /* so that the name shows the hash */
        key.word[i / 8] = key.word[i / 8] << 8 | hash[i];
    return key;
}

void disk_name_of(struct disk_key key, char out[DISK_NAME_BYTES])
{
    (void)snprintf(out, DISK_NAME_BYTES, "%016llx%016llx.kv", (unsigned long long)key.word[0],
                   (unsigned long long)key.word[1]); /* fits: 32 digits and 3 letters */
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool disk_key_of_name(const char *name, struct disk_key *out)
{
    struct disk_key key = {{0, 0}};
    for (int i = 0; i < 32; i++) {
        int digit = hex_digit(name[i]); /* -1 at the end, too */
        if (digit < 0)
            return false;
        key.word[i / 16] = key.word[i / 16] << 4 | (uint64_t)digit;
    }
    if (strcmp(name + 32, ".kv") != 0)
        return false;
    *out = key;
    return true;
}

const char *disk_result_name(enum disk_result result)
{
    static const char *const names[DISK_N_RESULTS] = {"ok",          "gone",       "not_regular",
                                                      "bad_size",    "bad_header", "foreign",
                                                      "bad_payload", "no_space",   "io_error"};
    return result < DISK_N_RESULTS ? names[result] : "unknown";
}

/* ---- the header ------------------------------------------------------------------------------ */

static void make_header(const struct disk_page *page, uint64_t page_sum, uint64_t window_sum,
                        uint8_t out[DISK_PAGE_HEADER_BYTES])
{
    memset(out, 0, DISK_PAGE_HEADER_BYTES);
    memcpy(out, magic, sizeof magic);
    put_u32(out + AT_VERSION, FORMAT_VERSION);
    put_u32(out + AT_HEADER_BYTES, DISK_PAGE_HEADER_BYTES);
    memcpy(out + AT_IDENTITY, page->identity, DISK_HASH_BYTES);
    memcpy(out + AT_SPACE, page->chain.space, DISK_HASH_BYTES);
    memcpy(out + AT_HASH, page->chain.hash, DISK_HASH_BYTES);
    memcpy(out + AT_BEFORE, page->chain.before, DISK_HASH_BYTES);
    put_u32(out + AT_PAGE_TOKENS, PAGE);
    put_u32(out + AT_FLAGS, page->has_window ? FLAG_WINDOW : 0);
    put_u64(out + AT_POSITION, (uint64_t)(page->chain.n_pages - 1) * PAGE);
    put_tokens(out + AT_TOKENS, page->tokens);
    put_u64(out + AT_PAYLOAD_BYTES, disk_page_payload_bytes(page));
    put_u64(out + AT_PAGE_SUM, page_sum);
    put_u64(out + AT_WINDOW_SUM, page->has_window ? window_sum : 0);
    put_u64(out + AT_HEADER_SUM, checksum64(out, AT_HEADER_SUM));
}

/* A header that is whole in itself but not the one expected is somebody else's. */
static enum disk_result check_header(const struct disk_page *page,
                                     const uint8_t found[DISK_PAGE_HEADER_BYTES])
{
    uint8_t expected[DISK_PAGE_HEADER_BYTES];
    make_header(page, get_u64(found + AT_PAGE_SUM), get_u64(found + AT_WINDOW_SUM), expected);
    if (memcmp(found, expected, sizeof expected) == 0)
        return DISK_OK;
    if (memcmp(found, expected, AT_IDENTITY) != 0 ||
        get_u64(found + AT_HEADER_SUM) != checksum64(found, AT_HEADER_SUM))
        return DISK_BAD_HEADER;
    return DISK_FOREIGN;
}

/* ---- writing --------------------------------------------------------------------------------- */

static bool write_whole(int fd, struct iovec *parts, int n_parts)
{
    while (n_parts > 0) {
        ssize_t put = writev(fd, parts, n_parts);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return false;
        size_t left = (size_t)put;
        while (n_parts > 0 && left >= parts->iov_len) {
            left -= parts->iov_len;
            parts++;
            n_parts--;
        }
        if (n_parts > 0) {
            parts->iov_base = (char *)parts->iov_base + left;
            parts->iov_len -= left;
        }
    }
    return true;
}

static struct timespec time_of(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};
}

static enum disk_result write_failure(void)
{
    return errno == ENOSPC || errno == EDQUOT || errno == EFBIG ? DISK_NO_SPACE : DISK_IO_ERROR;
}

enum disk_result disk_page_write(int folder, const char *temporary, const struct disk_page *page,
                                 const void *payload, uint64_t rank_ns)
{
    uint8_t header[DISK_PAGE_HEADER_BYTES];
    char name[DISK_NAME_BYTES];
    uint64_t n_bytes = disk_page_payload_bytes(page);
    make_header(page, checksum64(payload, page->page_bytes),
                checksum64((const char *)payload + page->page_bytes, n_bytes - page->page_bytes),
                header);
    disk_name_of(disk_key_of(page->chain.hash), name);
    int fd = openat(folder, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return write_failure();
    struct iovec parts[] = {{.iov_base = header, .iov_len = sizeof header},
                            {.iov_base = (void *)(uintptr_t)payload, .iov_len = n_bytes}};
    const struct timespec times[2] = {time_of(rank_ns), time_of(rank_ns)};
    /* No fsync: a file that a power cut leaves torn is found out when it is read. */
    bool is_written = write_whole(fd, parts, 2) && futimens(fd, times) == 0;
    int reason = errno;
    bool is_closed = close(fd) == 0;
    if (is_written && is_closed && renameat(folder, temporary, folder, name) == 0)
        return DISK_OK;
    reason = is_written ? errno : reason;
    (void)unlinkat(folder, temporary, 0); /* a left-over is swept up later */
    errno = reason;
    return write_failure();
}

/* ---- reading --------------------------------------------------------------------------------- */

/* False: an error, or the file has ended. */
static bool read_whole(int fd, uint64_t offset, void *out, size_t n)
{
    char *at = out;
    while (n > 0) {
        ssize_t got = pread(fd, at, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            errno = got == 0 ? 0 : errno;
            return false;
        }
        at += got;
        offset += (uint64_t)got;
        n -= (size_t)got;
    }
    return true;
}

/* One half of the payload. */
static enum disk_result read_half(int fd, uint64_t offset, void *out, uint64_t n_bytes,
                                  uint64_t sum)
{
    if (!read_whole(fd, offset, out, n_bytes))
        return errno ? DISK_IO_ERROR : DISK_BAD_SIZE;
    return checksum64(out, n_bytes) == sum ? DISK_OK : DISK_BAD_PAYLOAD;
}

enum disk_result disk_page_read_fd(int fd, struct disk_page *page, void *payload)
{
    struct stat st;
    const bool wants_window = page->has_window;
    if (fstat(fd, &st) != 0)
        return DISK_IO_ERROR;
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid())
        return DISK_NOT_REGULAR;
    if (st.st_size < (off_t)DISK_PAGE_HEADER_BYTES)
        return DISK_BAD_SIZE;
    uint8_t header[DISK_PAGE_HEADER_BYTES];
    if (!read_whole(fd, 0, header, sizeof header))
        return errno ? DISK_IO_ERROR : DISK_BAD_SIZE;
    page->has_window = page->window_page_bytes > 0 && get_u32(header + AT_FLAGS) == FLAG_WINDOW;
    enum disk_result result = check_header(page, header);
    if (result != DISK_OK)
        return result;
    if ((uint64_t)st.st_size != DISK_PAGE_HEADER_BYTES + disk_page_payload_bytes(page))
        return DISK_BAD_SIZE;
    page->has_window &= wants_window;
    result = read_half(fd, DISK_PAGE_HEADER_BYTES, payload, page->page_bytes,
                       get_u64(header + AT_PAGE_SUM));
    if (result == DISK_OK && page->has_window)
        result = read_half(fd, DISK_PAGE_HEADER_BYTES + page->page_bytes,
                           (char *)payload + page->page_bytes, page->window_page_bytes,
                           get_u64(header + AT_WINDOW_SUM));
    return result;
}

enum disk_result disk_page_read(int folder, struct disk_page *page, void *payload)
{
    char name[DISK_NAME_BYTES];
    disk_name_of(disk_key_of(page->chain.hash), name);
    /* O_NONBLOCK: opening a FIFO, which is refused, would wait for a writer */
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return DISK_GONE;
    if (fd < 0)
        return errno == ELOOP ? DISK_NOT_REGULAR : DISK_IO_ERROR;
    enum disk_result result = disk_page_read_fd(fd, page, payload);
    (void)close(fd); /* nothing was written */
    return result;
}
