/* Named programs: those of a folder, which are read again when they change, and those that were
 * uploaded, which live in memory and go before a file of the same name. A file that is broken
 * leaves the version that was there. Who got a program keeps it, whatever happens to its name.
 *
 * Any thread. The folder is looked at by whoever calls dsl_store_scan: reading a program runs it,
 * which may take as long as its limits allow. */
#ifndef FRONTEND_DSL_STORE_H
#define FRONTEND_DSL_STORE_H

#include "base/log.h"
#include "base/metrics.h"
#include "frontend_dsl/dsl_program.h"

#include <jansson.h>

struct dsl_store;

struct dsl_store_options {
    const char *folder; /* NULL: none; copied */
    size_t max_source;  /* bytes of one program */
    struct dsl_limits limits;
    struct log *log;         /* may be NULL */
    struct metrics *metrics; /* may be NULL */
};

serverd_status dsl_store_create(const struct dsl_store_options *options, struct dsl_store **out,
                                serverd_error *err);
void dsl_store_destroy(struct dsl_store *store);

/* Reads what is new or has changed in the folder, forgets what has gone. One thread at a time. */
void dsl_store_scan(struct dsl_store *store);

/* A reference, or NULL. */
struct dsl_program *dsl_store_find(struct dsl_store *store, const char *name);

enum dsl_put {
    DSL_PUT_NEW,
    DSL_PUT_REPLACED,
    DSL_PUT_BROKEN, /* *error: syntax_error, bad_program and so on */
    DSL_PUT_FULL,   /* LIMIT_DSL_PROGRAMS */
    DSL_PUT_NO_MEMORY
};
/* An upload under a valid name. Reads it on the caller's thread. */
enum dsl_put dsl_store_put(struct dsl_store *store, const char *name, const char *source, size_t n,
                           struct dsl_error *error);

enum dsl_removal { DSL_REMOVED, DSL_REMOVAL_UNKNOWN, DSL_REMOVAL_IS_FILE };
/* Of uploads only: the file of a program is its owner's. */
enum dsl_removal dsl_store_remove(struct dsl_store *store, const char *name);

/* [{name, version, doc, sha256, origin, load_error}], by name; or one of them, or NULL. origin:
 * "file" or "upload"; load_error: {code, message, line} of the last version that could not be
 * read; null. New references. */
json_t *dsl_store_list(struct dsl_store *store);
json_t *dsl_store_entry(struct dsl_store *store, const char *name);

#endif
