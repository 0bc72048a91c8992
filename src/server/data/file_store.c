#include "server/data/file_store.h"

#include "base/error.h"
#include "base/limits.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, SWEPT_AT_ONCE = 64 };

/* ---- the folder --------------------------------------------------------------------------------
 */

static serverd_status path_of(const struct file_store *store, const char *id, char out[PATH_BYTES],
                              serverd_error *err)
{
    int n = snprintf(out, PATH_BYTES, "%s/files/%s", store->folder, id);
    return n > 0 && n < PATH_BYTES
               ? SERVERD_OK
               : fail(err, SERVERD_INVALID, "%s: too long a path", store->folder);
}

/* The folder and those above it, for the owner only. */
static serverd_status make_folders(const char *folder, serverd_error *err)
{
    char path[PATH_BYTES];
    const size_t n = strlen(folder);
    if (n == 0 || n >= sizeof path)
        return fail(err, SERVERD_INVALID, "data-path: %.200s: no name for a folder", folder);
    memcpy(path, folder, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        const char c = path[i];
        path[i] = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return fail(err, SERVERD_INVALID, "data-path: %s: cannot make it: %m", path);
        path[i] = c;
    }
    return SERVERD_OK;
}

/* What a process that was killed has left: contents without a row. */
static serverd_status remove_orphans(struct file_store *store, serverd_error *err)
{
    char path[PATH_BYTES];
    serverd_status status = path_of(store, "", path, err);
    DIR *folder = status == SERVERD_OK ? opendir(path) : NULL;
    if (status == SERVERD_OK && !folder)
        status = fail(err, SERVERD_INVALID, "data-path: %s: cannot read it: %m", path);
    const struct dirent *entry;
    while (status == SERVERD_OK && (entry = readdir(folder))) {
        struct file_row row;
        bool is_known = false;
        if (strncmp(entry->d_name, "file-", 5) != 0)
            continue; /* not ours */
        status = store_find_file(store->index, entry->d_name, &row, &is_known, err);
        if (status == SERVERD_OK && is_known)
            file_row_release(&row);
        else if (status == SERVERD_OK && path_of(store, entry->d_name, path, err) == SERVERD_OK)
            (void)unlink(path); /* the next start tries again */
    }
    if (folder)
        (void)closedir(folder); /* only read */
    return status;
}

static serverd_status set_up(struct file_store *store, serverd_error *err)
{
    char path[PATH_BYTES];
    uint64_t n_files, n_bytes;
    serverd_status status = path_of(store, "", path, err);
    if (status == SERVERD_OK)
        status = make_folders(path, err);
    if (status != SERVERD_OK)
        return status;
    (void)snprintf(path, sizeof path, "%s/index.sqlite", store->folder); /* is no longer */
    if ((status = store_index_open(path, &store->index, err)) ||
        (status = remove_orphans(store, err)) ||
        (status = store_count_files(store->index, &n_files, &n_bytes, err)))
        return status;
    atomic_store(&store->n_files, n_files);
    atomic_store(&store->n_bytes, n_bytes);
    return SERVERD_OK;
}

serverd_status file_store_open(const char *folder, uint64_t max_bytes, struct file_store **out,
                               serverd_error *err)
{
    struct file_store *store = calloc(1, sizeof *store);
    if (store)
        store->folder = strdup(folder);
    if (!store || !store->folder) {
        free(store);
        return fail(err, SERVERD_NOMEM, "data-path: no memory");
    }
    store->max_bytes = max_bytes;
    const serverd_status status = set_up(store, err);
    if (status == SERVERD_OK)
        *out = store;
    else
        file_store_close(store);
    return status;
}

void file_store_close(struct file_store *store)
{
    if (!store)
        return;
    store_index_close(store->index);
    free(store->folder);
    free(store);
}

/* ---- contents that are being written -----------------------------------------------------------
 */

serverd_status new_content_create(struct file_store *store, struct new_content *out,
                                  serverd_error *err)
{
    char path[PATH_BYTES];
    struct new_content content = {.store = store};
    if (atomic_load(&store->n_files) >= LIMIT_STORED_FILES)
        return fail(err, SERVERD_BUSY, "There are %u files already; delete some.",
                    LIMIT_STORED_FILES);
    serverd_status status = store_make_id("file-", content.id, err);
    if (status == SERVERD_OK)
        status = path_of(store, content.id, path, err);
    if (status == SERVERD_OK)
        status = new_file_create(path, 0600, &content.file, err);
    if (status == SERVERD_OK)
        *out = content;
    return status;
}

serverd_status new_content_append(struct new_content *content, const void *bytes, size_t n,
                                  serverd_error *err)
{
    struct file_store *store = content->store;
    const uint64_t before = atomic_fetch_add(&store->n_bytes, n);
    serverd_status status = SERVERD_OK;
    if (before > store->max_bytes || n > store->max_bytes - before)
        status = fail(err, SERVERD_BUSY, "There is no room for more files; delete some.");
    else
        status = new_file_write_at(&content->file, content->bytes, bytes, n, err);
    if (status == SERVERD_OK)
        content->bytes += n;
    else
        atomic_fetch_sub(&store->n_bytes, n);
    return status;
}

void new_content_discard(struct new_content *content)
{
    if (!content->store)
        return;
    new_file_discard(&content->file);
    atomic_fetch_sub(&content->store->n_bytes, content->bytes);
    *content = (struct new_content){.file.fd = -1};
}

/* ---- files -------------------------------------------------------------------------------------
 */

serverd_status file_store_keep(struct file_store *store, struct new_content *content,
                               struct file_row *row, serverd_error *err)
{
    const serverd_status status = new_file_commit(&content->file, err); /* ends it either way */
    if (status == SERVERD_OK) {
        memcpy(row->id, content->id, sizeof row->id);
        row->bytes = content->bytes;
    } else {
        atomic_fetch_sub(&store->n_bytes, content->bytes);
    }
    *content = (struct new_content){.file.fd = -1};
    return status;
}

serverd_status file_store_add(struct file_store *store, const struct file_row *row,
                              serverd_error *err)
{
    const serverd_status status = store_add_file(store->index, row, err);
    if (status == SERVERD_OK)
        atomic_fetch_add(&store->n_files, 1);
    return status;
}

void file_store_drop(struct file_store *store, const struct file_row *row)
{
    char path[PATH_BYTES];
    serverd_error ignored;
    if (path_of(store, row->id, path, &ignored) == SERVERD_OK)
        (void)unlink(path); /* or the next start does */
    atomic_fetch_sub(&store->n_bytes, row->bytes);
}

serverd_status file_store_read(struct file_store *store, const char *id, struct file *out,
                               serverd_error *err)
{
    char path[PATH_BYTES];
    const serverd_status status = path_of(store, id, path, err);
    return status == SERVERD_OK ? file_open(path, out, err) : status;
}

serverd_status file_store_delete(struct file_store *store, const char *id, serverd_error *err)
{
    return store_hide_file(store->index, id, err);
}

serverd_status file_store_sweep(struct file_store *store, int64_t now, serverd_error *err)
{
    for (int i = 0; i < SWEPT_AT_ONCE; i++) {
        struct file_row row;
        bool is_found = false;
        serverd_status status = store_next_useless_file(store->index, now, &row, &is_found, err);
        if (status != SERVERD_OK || !is_found)
            return status;
        if ((status = store_remove_file(store->index, row.id, err)) == SERVERD_OK) {
            atomic_fetch_sub(&store->n_files, 1);
            file_store_drop(store, &row);
        }
        file_row_release(&row);
        if (status != SERVERD_OK)
            return status;
    }
    return SERVERD_OK;
}
