/* The files of a Hugging Face folder, by path. A zip archive counts as a folder:
 * "m.zip/config.json" is a file in m.zip, or in the one directory that all files of m.zip are in.
 * Nothing is ever written by a name that an archive states: a member is read into memory, or into a
 * file without a name. Used by the importer; any thread. */
#ifndef COMPILER_MODEL_FILE_H
#define COMPILER_MODEL_FILE_H

#include "base/file.h"

/* A regular file whose name ends in ".zip". */
bool model_file_is_archive(const char *path);

/* As file_exists, file_read and file_open; an archive that is damaged has no files. Members are
 * stored or deflated, not encrypted, at most LIMIT_ZIP_ENTRIES, and all together within
 * LIMIT_ZIP_RATIO; else SERVERD_CORRUPT or SERVERD_UNSUPPORTED. */
bool model_file_exists(const char *path);
serverd_status model_file_read(const char *path, size_t limit, char **out, size_t *len,
                               serverd_error *err);
serverd_status model_file_open(const char *path, struct file *out, serverd_error *err);

/* Calls `each` with the name of everything in a folder, in any order, until it fails; a folder that
 * is not there is empty. */
serverd_status model_file_list(const char *folder,
                               serverd_status (*each)(void *arg, const char *name,
                                                      serverd_error *err),
                               void *arg, serverd_error *err);

#endif
