/* Files: whole reads with a bound, read-only mappings, atomic replacement. Regular files only. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "serverd/status.h"

#include <stdbool.h>
#include <stdint.h>

/* The whole file, NUL-terminated (the NUL does not count); free() *out. */
serverd_status file_read(const char *path, size_t limit, char **out, size_t *len,
                         serverd_error *err);

/* Whether there is something of that kind; links are followed. */
bool file_exists(const char *path); /* anything that is not a folder */
bool file_is_folder(const char *path);

/* A regular file opened for reading, its size taken once. */
struct file {
    int fd;
    uint64_t bytes;
};

serverd_status file_open(const char *path, struct file *out, serverd_error *err);
void file_close(struct file *file); /* safe on {-1} and twice */

/* Exactly n bytes at offset; fewer is SERVERD_CORRUPT. */
serverd_status file_read_at(const struct file *file, uint64_t offset, void *out, size_t n,
                            serverd_error *err);

/* The whole file, read-only, shared with the page cache; *out is NULL for an empty file. */
struct mapping {
    const void *data;
    size_t bytes;
};
serverd_status file_map(const struct file *file, struct mapping *out, serverd_error *err);
void mapping_close(struct mapping *mapping);
/* The whole pages of data .. data + bytes - 1, if it lies in the mapping, leave this process; the
 * page cache keeps them, and who reads there again has them again. */
void mapping_forget(const struct mapping *mapping, const void *data, size_t bytes);

/* A file that nobody sees before it is whole: written under a temporary name in the same folder,
 * fsync, rename. */
struct new_file {
    int fd;
    char *path, *temporary;
};
/* `mode`: who may do what with it, as far as the process's umask lets them; 0600, 0666. Here and in
 * the two below SERVERD_NOMEM says that the disk has no room. */
serverd_status new_file_create(const char *path, unsigned mode, struct new_file *out,
                               serverd_error *err);
serverd_status new_file_write_at(struct new_file *file, uint64_t offset, const void *bytes,
                                 size_t n, serverd_error *err);
/* Ends it either way; after a failure nothing is left. */
serverd_status new_file_commit(struct new_file *file, serverd_error *err);
void new_file_discard(struct new_file *file); /* safe after commit, on {-1} and twice */

/* All at once, for the owner only. */
serverd_status file_write_atomic(const char *path, const void *bytes, size_t n, serverd_error *err);

#endif
