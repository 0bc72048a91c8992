/* Uploaded files, and those that batches write: contents below FOLDER/files, each under its id,
 * and the index of them, FOLDER/index.sqlite.
 *
 * A content comes before its row in the index and goes after it, so that what is in the index is
 * whole, also after a crash; contents without a row are removed when the store is opened. Bytes are
 * counted from the moment on that they are written.
 *
 * Writing contents and the two readers of limits are for any thread, all else for the one that has
 * the index (store_index.h). SERVERD_NOMEM: the disk has
 * no room; SERVERD_BUSY: the limits leave none, in words for clients. */
#ifndef SERVER_DATA_FILE_STORE_H
#define SERVER_DATA_FILE_STORE_H

#include "base/file.h"
#include "server/data/store_index.h"

#include <stdatomic.h>

struct file_store {
    char *folder;
    struct store_index *index;
    uint64_t max_bytes;
    _Atomic uint64_t n_bytes; /* of all contents, those that are being written, too */
    _Atomic uint64_t n_files; /* in the index */
};

/* Makes the folder if it is not there, for its owner alone. */
serverd_status file_store_open(const char *folder, uint64_t max_bytes, struct file_store **out,
                               serverd_error *err);
void file_store_close(struct file_store *store); /* NULL is fine */

/* ---- a content that is being written; one thread at a time ---- */

struct new_content {
    struct file_store *store; /* NULL: there is none */
    char id[STORE_ID_BYTES];
    struct new_file file;
    uint64_t bytes;
};

serverd_status new_content_create(struct file_store *store, struct new_content *out,
                                  serverd_error *err);
serverd_status new_content_append(struct new_content *content, const void *bytes, size_t n,
                                  serverd_error *err);
void new_content_discard(struct new_content *content); /* safe on {0}, twice, and after a commit */

/* ---- files ---- */

/* Makes the content one that lasts (fsync, rename); the row is still to be added. On failure it is
 * gone. The row gets the content's id and size. */
serverd_status file_store_keep(struct file_store *store, struct new_content *content,
                               struct file_row *row, serverd_error *err);
/* A row of a content that was kept, and what to do if adding it fails. */
serverd_status file_store_add(struct file_store *store, const struct file_row *row,
                              serverd_error *err);
void file_store_drop(struct file_store *store, const struct file_row *row);

serverd_status file_store_read(struct file_store *store, const char *id, struct file *out,
                               serverd_error *err);

/* Nobody sees it any more; its content goes with the next sweep after the last batch that reads
 * it. */
serverd_status file_store_delete(struct file_store *store, const char *id, serverd_error *err);

/* Removes deleted and expired files that nothing reads, up to a bounded number. */
serverd_status file_store_sweep(struct file_store *store, int64_t now, serverd_error *err);

#endif
