#include "compiler/source_hash.h"

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/numeric.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Bytes that are looked at before they leave memory again. */
#define ROUND_BYTES (64 * MIB)

struct file_list {
    char **paths; /* ascending */
    size_t n, capacity;
};

static void free_list(struct file_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->paths[i]);
    free(list->paths);
}

static serverd_status add_path(struct file_list *list, const char *folder, const char *name,
                               serverd_error *err)
{
    if (list->n == LIMIT_SOURCE_FILES)
        return fail(err, SERVERD_CORRUPT, "%s: more than %u files", folder, LIMIT_SOURCE_FILES);
    if (list->n == list->capacity) {
        size_t capacity = 2 * list->capacity + 16;
        char **grown = realloc(list->paths, capacity * sizeof *grown);
        if (!grown)
            return fail(err, SERVERD_NOMEM, "%s: no memory", folder);
        list->paths = grown;
        list->capacity = capacity;
    }
    size_t room = strlen(folder) + strlen(name) + 2;
    char *path = malloc(room);
    if (!path)
        return fail(err, SERVERD_NOMEM, "%s: no memory", folder);
    (void)snprintf(path, room, "%s%s%s", folder, *folder && *name ? "/" : "", name);
    list->paths[list->n++] = path;
    return SERVERD_OK;
}

static int compare_paths(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* ---- directories ------------------------------------------------------------------------------
 */

static bool is_part_of_model(const char *name)
{
    static const char *const endings[] = {".json", ".safetensors", ".jinja", ".model", ".txt"};
    size_t len = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t n = strlen(endings[i]);
        if (name[0] != '.' && len > n && strcmp(name + len - n, endings[i]) == 0)
            return true;
    }
    return false;
}

/* One level of folders below, where pooling and templates stand. */
static serverd_status list_folder(struct file_list *list, const char *folder, bool goes_deeper,
                                  serverd_error *err)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return fail(err, SERVERD_INVALID, "%s: cannot open: %m", folder);
    serverd_status status = SERVERD_OK;
    for (struct dirent *entry; status == SERVERD_OK && (entry = readdir(dir));) {
        char path[4096];
        struct stat st;
        if (entry->d_name[0] == '.' ||
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) >= (int)sizeof path ||
            stat(path, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode) && goes_deeper)
            status = list_folder(list, path, false, err);
        else if (S_ISREG(st.st_mode) && is_part_of_model(entry->d_name))
            status = add_path(list, folder, entry->d_name, err);
    }
    (void)closedir(dir); /* was read only */
    return status;
}

/* ---- shards -----------------------------------------------------------------------------------
 */

/* The number of shards in PREFIX-00002-of-00003.gguf; 0: the name is not of that form. */
static unsigned shard_count(const char *path)
{
    static const char form[] = "-00000-of-00000.gguf";
    size_t len = strlen(path), tail = sizeof form - 1;
    if (len <= tail)
        return 0;
    const char *end = path + len - tail;
    for (size_t i = 0; i < tail; i++)
        if (form[i] == '0' ? end[i] < '0' || end[i] > '9' : end[i] != form[i])
            return 0;
    return (unsigned)strtoul(end + 10, NULL, 10); /* five digits */
}

static serverd_status list_shards(struct file_list *list, const char *path, unsigned n,
                                  serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    size_t prefix = strlen(path) - strlen("-00000-of-00000.gguf");
    for (unsigned i = 1; i <= n && status == SERVERD_OK; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "-%05u-of-%05u.gguf", i % 100000u, n % 100000u);
        char *shard = malloc(prefix + sizeof name);
        if (!shard)
            return fail(err, SERVERD_NOMEM, "%s: no memory", path);
        memcpy(shard, path, prefix);
        memcpy(shard + prefix, name, sizeof name);
        status = add_path(list, shard, "", err);
        free(shard);
    }
    return status;
}

static serverd_status list_files(const char *path, struct file_list *out, serverd_error *err)
{
    struct stat st;
    *out = (struct file_list){0};
    if (stat(path, &st) != 0)
        return fail(err, SERVERD_INVALID, "%s: cannot open: %m", path);
    unsigned n_shards = shard_count(path);
    serverd_status status;
    if (S_ISDIR(st.st_mode))
        status = list_folder(out, path, true, err);
    else if (n_shards > 0)
        status = list_shards(out, path, n_shards, err);
    else
        status = add_path(out, path, "", err);
    if (status == SERVERD_OK)
        qsort(out->paths, out->n, sizeof *out->paths, compare_paths);
    else
        free_list(out);
    return status;
}

/* ---- bytes ------------------------------------------------------------------------------------
 */

struct leaves_job {
    const char *bytes;
    uint64_t n_bytes;
    uint8_t (*leaves)[32];
};

static void hash_leaf(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct leaves_job *job = arg;
    uint64_t first = (uint64_t)chunk * SHA256_LEAF;
    sha256_leaf(job->bytes + first, min_size(job->n_bytes - first, SHA256_LEAF),
                job->leaves[chunk]);
}

static serverd_status hash_file(const char *path, struct worker_pool *pool, uint64_t *bytes,
                                uint8_t out[32], serverd_error *err)
{
    struct file file;
    struct mapping mapping = {0};
    serverd_status status = file_open(path, &file, err);
    if (status != SERVERD_OK)
        return status;
    status = file_map(&file, &mapping, err);
    file_close(&file);
    if (status != SERVERD_OK)
        return error_context(err, "%s", path);
    *bytes = mapping.bytes;
    size_t n_leaves = (mapping.bytes + SHA256_LEAF - 1) / SHA256_LEAF;
    uint8_t(*leaves)[32] = calloc(max_size(n_leaves, 1), sizeof *leaves);
    for (uint64_t at = 0; leaves && at < mapping.bytes; at += ROUND_BYTES) {
        struct leaves_job job = {.bytes = (const char *)mapping.data + at,
                                 .n_bytes = min_size(mapping.bytes - at, ROUND_BYTES),
                                 .leaves = leaves + at / SHA256_LEAF};
        worker_pool_run(pool, (uint32_t)((job.n_bytes + SHA256_LEAF - 1) / SHA256_LEAF), hash_leaf,
                        &job);
        mapping_forget(&mapping, job.bytes, job.n_bytes);
    }
    if (leaves)
        sha256_root((const uint8_t(*)[32])leaves, n_leaves, out);
    else
        status = fail(err, SERVERD_NOMEM, "%s: no memory to hash it", path);
    free(leaves);
    mapping_close(&mapping);
    return status;
}

/* The part of the path that is the model's own. */
static const char *name_in(const char *path, const char *file)
{
    size_t n = strlen(path);
    if (strncmp(path, file, n) == 0 && file[n] == '/')
        return file + n + 1;
    const char *slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

serverd_status source_hash(const char *path, struct worker_pool *pool, uint8_t out[32],
                           serverd_error *err)
{
    struct file_list list;
    struct sha256 h;
    serverd_status status = list_files(path, &list, err);
    if (status != SERVERD_OK)
        return status;
    sha256_init(&h);
    for (size_t i = 0; i < list.n && status == SERVERD_OK; i++) {
        uint8_t hash[32];
        uint64_t bytes = 0;
        status = hash_file(list.paths[i], pool, &bytes, hash, err);
        const char *name = name_in(path, list.paths[i]);
        if (list.n > 1) /* one file is what it holds, whatever it is called */
            sha256_update(&h, name, strlen(name) + 1);
        sha256_update(&h, &bytes, sizeof bytes);
        sha256_update(&h, hash, sizeof hash);
    }
    sha256_final(&h, out);
    free_list(&list);
    return status;
}

serverd_status source_stamp(const char *path, uint8_t out[32], serverd_error *err)
{
    struct file_list list;
    struct sha256 h;
    serverd_status status = list_files(path, &list, err);
    if (status != SERVERD_OK)
        return status;
    sha256_init(&h);
    for (size_t i = 0; i < list.n && status == SERVERD_OK; i++) {
        struct stat st;
        if (stat(list.paths[i], &st) != 0) {
            status = fail(err, SERVERD_INVALID, "%s: cannot open: %m", list.paths[i]);
            break;
        }
        const uint64_t stamp[] = {
            st.st_dev,          st.st_ino,         st.st_size,         st.st_mtim.tv_sec,
            st.st_mtim.tv_nsec, st.st_ctim.tv_sec, st.st_ctim.tv_nsec, strlen(list.paths[i])};
        sha256_update(&h, stamp, sizeof stamp);
        sha256_update(&h, list.paths[i], strlen(list.paths[i]));
    }
    sha256_final(&h, out);
    free_list(&list);
    return status;
}
