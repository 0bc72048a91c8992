#include "base/file.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/numeric.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_READ (4 * KIB)

bool file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

bool file_is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

serverd_status file_open(const char *path, struct file *out, serverd_error *err)
{
    /* O_NONBLOCK: opening a FIFO, which is refused below, would wait for a writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return fail(err, errno == ENOMEM ? SERVERD_NOMEM : SERVERD_INVALID, "%s: cannot open: %m",
                    path);
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size < 0) {
        (void)close(fd); /* nothing was written */
        return fail(err, SERVERD_INVALID, "%s: not a regular file", path);
    }
    *out = (struct file){.fd = fd, .bytes = (uint64_t)st.st_size};
    return SERVERD_OK;
}

void file_close(struct file *file)
{
    if (file->fd >= 0)
        (void)close(file->fd); /* nothing was written */
    *file = (struct file){.fd = -1};
}

static ssize_t read_retrying(int fd, void *out, size_t n)
{
    ssize_t got;
    do
        got = read(fd, out, n);
    while (got < 0 && errno == EINTR);
    return got;
}

/* Until the end rather than up to the size: files of /proc and /sys say 0 or too much. */
static serverd_status read_to_end(const char *path, const struct file *file, size_t limit,
                                  char **out, size_t *len, serverd_error *err)
{
    char *data = NULL;
    size_t cap = 0, used = 0;
    size_t want = (size_t)min_size(file->bytes, limit) + 1;
    for (;;) {
        if (used == cap) {
            cap = max_size(max_size(want, FIRST_READ), cap <= SIZE_MAX / 4 ? cap * 2 : cap);
            char *grown = realloc(data, cap + 1);
            if (!grown || cap == used) {
                free(grown ? grown : data);
                return fail(err, SERVERD_NOMEM, "%s: no memory for %zu bytes", path, cap);
            }
            data = grown;
        }
        ssize_t got = read_retrying(file->fd, data + used, cap - used);
        if (got < 0) {
            free(data);
            return fail(err, SERVERD_INVALID, "%s: cannot read: %m", path);
        }
        if (got == 0)
            break;
        used += (size_t)got;
        if (used > limit) {
            free(data);
            return fail(err, SERVERD_INVALID, "%s: more than %zu bytes, the most allowed", path,
                        limit);
        }
    }
    data[used] = '\0';
    *out = data;
    *len = used;
    return SERVERD_OK;
}

serverd_status file_read(const char *path, size_t limit, char **out, size_t *len,
                         serverd_error *err)
{
    struct file file;
    serverd_status status = file_open(path, &file, err);
    if (status != SERVERD_OK)
        return status;
    if (file.bytes > limit)
        status = fail(err, SERVERD_INVALID, "%s: %" PRIu64 " bytes, at most %zu allowed", path,
                      file.bytes, limit);
    else
        status = read_to_end(path, &file, limit, out, len, err);
    file_close(&file);
    return status;
}

serverd_status file_read_at(const struct file *file, uint64_t offset, void *out, size_t n,
                            serverd_error *err)
{
    if (offset > file->bytes || n > file->bytes - offset)
        return fail(err, SERVERD_CORRUPT,
                    "%zu bytes at offset %" PRIu64 " reach past the end of the file (%" PRIu64
                    " bytes)",
                    n, offset, file->bytes);
    unsigned char *p = out;
    while (n > 0) {
        ssize_t got = pread(file->fd, p, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail(err, SERVERD_CORRUPT, "cannot read at offset %" PRIu64 ": %m", offset);
        if (got == 0)
            return fail(err, SERVERD_CORRUPT,
                        "file ends at offset %" PRIu64 ", %zu bytes short: it shrank while in use",
                        offset, n);
        p += got;
        offset += (uint64_t)got;
        n -= (size_t)got;
    }
    return SERVERD_OK;
}

serverd_status file_map(const struct file *file, struct mapping *out, serverd_error *err)
{
    if (file->bytes == 0) {
        *out = (struct mapping){0};
        return SERVERD_OK;
    }
    if (file->bytes > SIZE_MAX)
        return fail(err, SERVERD_UNSUPPORTED, "%" PRIu64 " bytes do not fit the address space",
                    file->bytes);
    void *data = mmap(NULL, (size_t)file->bytes, PROT_READ, MAP_SHARED, file->fd, 0);
    if (data == MAP_FAILED)
        return fail(err, SERVERD_NOMEM, "cannot map %" PRIu64 " bytes: %m", file->bytes);
    *out = (struct mapping){.data = data, .bytes = (size_t)file->bytes};
    return SERVERD_OK;
}

void mapping_close(struct mapping *mapping)
{
    if (mapping->data)
        (void)munmap((void *)(uintptr_t)mapping->data, mapping->bytes); /* our own range */
    *mapping = (struct mapping){0};
}

void mapping_forget(const struct mapping *mapping, const void *data, size_t bytes)
{
    uintptr_t first = (uintptr_t)mapping->data, begin = (uintptr_t)data;
    if (!mapping->data || begin < first || begin - first > mapping->bytes ||
        bytes > mapping->bytes - (begin - first))
        return;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t end = (begin + bytes) / page * page;
    begin = (begin + page - 1) / page * page;
    if (begin < end)
        (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}

/* A rename lasts through a power cut once its folder is on the disk. */
static bool sync_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    char *folder = slash ? strndup(path, n ? n : 1) : strdup(".");
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    bool is_done = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        (void)close(fd); /* nothing was written */
    free(folder);
    return is_done;
}

/* A disk without room is no fault of who writes. */
static serverd_status write_fault(void)
{
    return errno == ENOSPC || errno == EDQUOT || errno == EFBIG ? SERVERD_NOMEM : SERVERD_INVALID;
}

serverd_status new_file_create(const char *path, unsigned mode, struct new_file *out,
                               serverd_error *err)
{
    size_t room = strlen(path) + sizeof ".0123456789abcdef";
    uint64_t number;
    struct new_file file = {.fd = -1, .path = strdup(path), .temporary = malloc(room)};
    *out = (struct new_file){.fd = -1};
    serverd_status status = random_bytes(&number, sizeof number, err);
    if (status == SERVERD_OK && (!file.path || !file.temporary))
        status = fail(err, SERVERD_NOMEM, "%s: no memory", path);
    if (status == SERVERD_OK) {
        (void)snprintf(file.temporary, room, "%s.%016" PRIx64, path, number); /* fits */
        file.fd = open(file.temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (file.fd < 0)
            status = fail(err, write_fault(), "%s: cannot create: %m", file.temporary);
    }
    if (status != SERVERD_OK) {
        free(file.path);
        free(file.temporary);
        return status;
    }
    *out = file;
    return SERVERD_OK;
}

serverd_status new_file_write_at(struct new_file *file, uint64_t offset, const void *bytes,
                                 size_t n, serverd_error *err)
{
    const unsigned char *p = bytes;
    while (n > 0) {
        ssize_t put = pwrite(file->fd, p, n, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return fail(err, write_fault(), "%s: cannot write: %m", file->path);
        p += put;
        offset += (uint64_t)put;
        n -= (size_t)put;
    }
    return SERVERD_OK;
}

static void forget_new_file(struct new_file *file)
{
    if (file->fd >= 0)
        (void)close(file->fd); /* its end was waited for, or it is not wanted */
    free(file->path);
    free(file->temporary);
    *file = (struct new_file){.fd = -1};
}

serverd_status new_file_commit(struct new_file *file, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    if (fsync(file->fd) != 0 || rename(file->temporary, file->path) != 0) {
        status = fail(err, write_fault(), "%s: cannot write: %m", file->path);
        (void)unlink(file->temporary); /* a left-over is harmless */
    } else if (!sync_folder(file->path)) {
        status =
            fail(err, SERVERD_INVALID, "%s: cannot write its folder to the disk: %m", file->path);
    }
    forget_new_file(file);
    return status;
}

void new_file_discard(struct new_file *file)
{
    if (file->fd >= 0)
        (void)unlink(file->temporary); /* a left-over is harmless */
    forget_new_file(file);
}

serverd_status file_write_atomic(const char *path, const void *bytes, size_t n, serverd_error *err)
{
    struct new_file file;
    serverd_status status = new_file_create(path, 0600, &file, err);
    if (status != SERVERD_OK)
        return status;
    status = new_file_write_at(&file, 0, bytes, n, err);
    if (status == SERVERD_OK)
        return new_file_commit(&file, err);
    new_file_discard(&file);
    return status;
}
