#include "compiler/program_cache.h"

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "compiler/source_hash.h"
#include "program/sdp_program.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LEVEL_INFO = 1, LEVEL_WARN = 2, PATH_BYTES = 4096, HEX_BYTES = 65 };

#define LOCK_POLL_NS 50000000L

/* One program that is wanted. */
struct entry {
    const struct program_cache *cache;
    const struct compile_file_options *options;
    uint8_t source[32];
    char key[HEX_BYTES];
    char path[PATH_BYTES];
};

static void say(const struct program_cache *cache, int level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void say(const struct program_cache *cache, int level, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args); /* cut if it is too long */
    va_end(args);
    if (cache->log)
        cache->log(cache->log_context, level, text);
}

static void to_hex(const uint8_t digest[32], char out[HEX_BYTES])
{
    for (int i = 0; i < 32; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

static bool from_hex(const char *text, uint8_t out[32])
{
    for (int i = 0; i < 32; i++) {
        unsigned byte;
        if (sscanf(text + 2 * i, "%2x", &byte) != 1)
            return false;
        out[i] = (uint8_t)byte;
    }
    return true;
}

static serverd_status path_in(const struct program_cache *cache, const char *name,
                              const char *ending, char out[PATH_BYTES], serverd_error *err)
{
    int n = snprintf(out, PATH_BYTES, "%s/%s%s", cache->folder, name, ending);
    return n > 0 && n < PATH_BYTES ? SERVERD_OK
                                   : fail(err, SERVERD_INVALID, "%s: too long", cache->folder);
}

/* The folder and those above it. */
static serverd_status make_folder(const char *folder, serverd_error *err)
{
    char path[PATH_BYTES];
    size_t n = strlen(folder);
    if (n == 0 || n >= sizeof path)
        return fail(err, SERVERD_INVALID, "%s: no name for a folder", folder);
    memcpy(path, folder, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        char c = path[i];
        path[i] = '\0';
        if (mkdir(path, 0755) != 0 && errno != EEXIST)
            return fail(err, SERVERD_INVALID, "%s: cannot make it: %m", path);
        path[i] = c;
    }
    return SERVERD_OK;
}

/* ---- names ------------------------------------------------------------------------------------
 */

/* The source's hash from the last time that its files looked like this. */
static bool read_memo(const char *path, uint8_t source[32])
{
    char *text = NULL;
    size_t n;
    serverd_error err;
    if (file_read(path, HEX_BYTES, &text, &n, &err) != SERVERD_OK)
        return false;
    bool is_one = n == HEX_BYTES - 1 && from_hex(text, source);
    free(text);
    return is_one;
}

static serverd_status find_source(struct entry *entry, serverd_error *err)
{
    const char *model = entry->options->source.path;
    uint8_t stamp[32];
    char hex[HEX_BYTES], path[PATH_BYTES];
    serverd_status status = source_stamp(model, stamp, err);
    if (status != SERVERD_OK)
        return status;
    to_hex(stamp, hex);
    if ((status = path_in(entry->cache, hex, ".source", path, err)) != SERVERD_OK)
        return status;
    if (read_memo(path, entry->source))
        return SERVERD_OK;
    if ((status = source_hash(model, entry->options->pool, entry->source, err)) != SERVERD_OK)
        return status;
    to_hex(entry->source, hex);
    return file_write_atomic(path, hex, HEX_BYTES - 1, err);
}

static serverd_status find_key(struct entry *entry, serverd_error *err)
{
    uint8_t hashes[2][32], key[32];
    memcpy(hashes[0], entry->source, 32);
    compile_options_hash(entry->options, hashes[1]);
    sha256_bytes(hashes, sizeof hashes, key);
    to_hex(key, entry->key);
    return path_in(entry->cache, entry->key, ".sdp", entry->path, err);
}

/* ---- the folder's files -----------------------------------------------------------------------
 */

static bool ends_with(const char *text, const char *ending)
{
    size_t n = strlen(text), len = strlen(ending);
    return n >= len && strcmp(text + n - len, ending) == 0;
}

/* What a process left behind that ended while it wrote this program. The caller has the lock. */
static void remove_left_overs(const struct entry *entry)
{
    DIR *dir = opendir(entry->cache->folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char path[PATH_BYTES];
        serverd_error err;
        if (strncmp(e->d_name, entry->key, HEX_BYTES - 1) == 0 && strstr(e->d_name, ".sdp.") &&
            path_in(entry->cache, e->d_name, "", path, &err) == SERVERD_OK)
            (void)unlink(path); /* then it stays */
    }
    if (dir)
        (void)closedir(dir); /* was read only */
}

struct old_file {
    char path[PATH_BYTES];
    struct timespec used;
    uint64_t total; /* bytes of all */
};

static bool is_older(struct timespec a, struct timespec b)
{
    return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec < b.tv_nsec);
}

/* The least recently used program but the entry's. False: there is none. */
static bool find_oldest(const struct entry *entry, struct old_file *out)
{
    bool is_found = false;
    out->total = 0;
    DIR *dir = opendir(entry->cache->folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char path[PATH_BYTES];
        struct stat st;
        serverd_error err;
        if (!ends_with(e->d_name, ".sdp") ||
            path_in(entry->cache, e->d_name, "", path, &err) != SERVERD_OK || stat(path, &st) != 0)
            continue;
        out->total += (uint64_t)st.st_size;
        if (strcmp(path, entry->path) == 0 || (is_found && !is_older(st.st_mtim, out->used)))
            continue;
        memcpy(out->path, path, sizeof path);
        out->used = st.st_mtim;
        is_found = true;
    }
    if (dir)
        (void)closedir(dir); /* was read only */
    return is_found;
}

/* Who maps a file that goes keeps it until they end. */
static void evict(const struct entry *entry)
{
    struct old_file oldest;
    while (find_oldest(entry, &oldest) && oldest.total > entry->cache->max_bytes) {
        say(entry->cache, LEVEL_INFO, "program cache: %s goes to make room", oldest.path);
        if (unlink(oldest.path) != 0)
            return;
    }
}

/* ---- opening ----------------------------------------------------------------------------------
 */

/* False: it is not there. A damaged one, or one of another version, is taken away. */
static bool open_cached(const struct entry *entry, struct program **out)
{
    serverd_error err;
    if (access(entry->path, R_OK) != 0)
        return false;
    if (sdp_open(entry->path, out, &err) == SERVERD_OK) {
        (void)utimensat(AT_FDCWD, entry->path, NULL, 0); /* used now; else it goes earlier */
        return true;
    }
    say(entry->cache, LEVEL_WARN, "program cache: made anew: %s", err.text);
    (void)unlink(entry->path); /* is replaced */
    return false;
}

static serverd_status compile_into(const struct entry *entry, struct program **out,
                                   serverd_error *err)
{
    struct compile_file_options options = *entry->options;
    options.out = entry->path;
    options.source_hash = entry->source;
    remove_left_overs(entry);
    serverd_status status = compile_file(&options, err);
    if (status == SERVERD_OK)
        status = sdp_open(entry->path, out, err);
    if (status == SERVERD_OK)
        evict(entry);
    return status;
}

/* -1: no lock, with the reason in *err. */
static int take_lock(const struct entry *entry, const char *path, serverd_error *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        (void)fail(err, SERVERD_INVALID, "%s: cannot open: %m", path);
        return -1;
    }
    bool has_said = false;
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            (void)fail(err, SERVERD_INVALID, "%s: cannot lock: %m", path);
            (void)close(fd); /* nothing was written */
            return -1;
        }
        if (!has_said)
            say(entry->cache, LEVEL_INFO, "another process compiles the model, waiting for it");
        has_said = true;
        (void)nanosleep(&(struct timespec){.tv_nsec = LOCK_POLL_NS}, NULL);
    }
    return fd;
}

static serverd_status compile_locked(const struct entry *entry, struct program **out,
                                     serverd_error *err)
{
    char path[PATH_BYTES];
    serverd_status status = path_in(entry->cache, entry->key, ".lock", path, err);
    if (status != SERVERD_OK)
        return status;
    int lock = take_lock(entry, path, err);
    if (lock < 0)
        return err->code;
    if (!open_cached(entry, out)) /* who had the lock before may have made it */
        status = compile_into(entry, out, err);
    (void)unlink(path); /* who waits for it finds the program */
    (void)close(lock);  /* nothing was written */
    return status;
}

static serverd_status open_entry(struct entry *entry, struct program **out, serverd_error *err)
{
    serverd_status status = make_folder(entry->cache->folder, err);
    if (status == SERVERD_OK)
        status = find_source(entry, err);
    if (status == SERVERD_OK)
        status = find_key(entry, err);
    if (status != SERVERD_OK || open_cached(entry, out))
        return status;
    return compile_locked(entry, out, err);
}

serverd_status program_cache_open(const struct program_cache *cache,
                                  const struct compile_file_options *options, struct program **out,
                                  serverd_error *err)
{
    struct entry entry = {.cache = cache, .options = options};
    serverd_status status = open_entry(&entry, out, err);
    if (status == SERVERD_OK)
        return SERVERD_OK;
    /* the model's fault, or the cache's: without the cache it shows */
    serverd_error reason = *err;
    status = compile_model(&options->source, out, err);
    if (status == SERVERD_OK)
        say(cache, LEVEL_WARN, "the program cache is not used: %s", reason.text);
    return status;
}
