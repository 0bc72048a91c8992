/* Delegates in shared objects. A file is taken if nobody but root or the daemon's user can have
 * written it, exports serverd_delegate_entry (delegate.h), and its table is of this ABI, complete,
 * and of a name that is not taken. One thread. */
#ifndef RUNTIME_DELEGATE_FILE_H
#define RUNTIME_DELEGATE_FILE_H

#include "base/limits.h"
#include "serverd/delegate.h"

#include <stdbool.h>

/* The delegates of a process: those that are built in, then those of files in the order in which
 * they were loaded. */
struct delegate_list {
    const serverd_delegate *items[LIMIT_DELEGATES];
    uint32_t n;
    struct delegate_file *files; /* the last one first */
};

serverd_status delegate_list_create(struct delegate_list *list,
                                    const serverd_delegate *const *builtin, uint32_t n_builtin,
                                    serverd_error *err);
/* Unloads the files: when nothing runs on their delegates any more. */
void delegate_list_destroy(struct delegate_list *list);

/* Loads one file and adds its delegate. Errors name the file. */
serverd_status delegate_list_load(struct delegate_list *list, const char *path, serverd_error *err);

/* Several files, comma separated; NULL or "": none. */
serverd_status delegate_list_load_all(struct delegate_list *list, const char *paths,
                                      serverd_error *err);

/* Every *.so of a folder, by name. A file that is not taken costs a warning; a folder that is not
 * there, nothing. */
void delegate_list_load_folder(struct delegate_list *list, const char *folder,
                               void (*warn)(void *context, int level, const char *text),
                               void *context);

#endif
