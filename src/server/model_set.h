/* The models of a server: what is configured, which of it is loaded, and how it comes and goes. The
 * first configured one is the default. Opening and closing is the daemon's ability, handed over as
 * a table of functions and called on one thread of the set's own, so one model comes or goes at a
 * time, while requests to others go on:
 *
 *     unloaded -> loading -> loaded -> leaving -> unloaded        failed: as unloaded, for a while
 *
 * A request holds a reference to its model from its body's end to its own; what is leaving closes
 * when nobody holds it. Everything is behind one mutex, which is taken for moments only: names and
 * states are looked at once for a request. */
#ifndef SERVER_MODEL_SET_H
#define SERVER_MODEL_SET_H

#include "base/metrics.h"
#include "serverd/status.h"

#include <stdbool.h>
#include <stdint.h>

struct served_model;
struct model_load;

/* One configured model; its texts outlive the server. */
struct model_config {
    const char *name;        /* its id in the API, of its own */
    const char *aliases;     /* further ids, comma separated; NULL: none */
    const char *path;        /* for who opens it */
    const char *adapters;    /* NAME=FILE[:SCALE],...; NULL: none */
    struct metrics *metrics; /* of its engine */
    bool is_pinned;          /* never unloaded before the end */
};

/* How models are opened. */
struct model_opener {
    /* Loads the model and starts its engine. Asks for its memory, model_load_reserve, once that is
     * known and before it is taken. `model` is what close gets, `served` lives until then. */
    serverd_status (*open)(void *context, const struct model_config *config,
                           struct model_load *load, void **model,
                           const struct served_model **served, serverd_error *err);
    /* Frees everything; nobody holds the model any more. */
    void (*close)(void *context, void *model);
    /* A load has ended, and requests see how; *err if it failed. May be NULL. */
    void (*has_loaded)(void *context, const struct model_config *config,
                       const struct served_model *served, const serverd_error *err);
    void *context;
};

/* For `open`: how far it has come, 0..1. */
void model_load_progress(struct model_load *load, double share);

/* For `open`: bytes that all models may take together; 0: no bound. */
uint64_t model_load_memory(const struct model_load *load);

/* For `open`: waits until the model may take so many bytes: idle models leave, the least recently
 * used first, until it fits into --models-memory and --models-max. SERVERD_NOMEM: it never fits;
 * SERVERD_BUSY: what is loaded stays busy, or the server ends. */
serverd_status model_load_reserve(struct model_load *load, uint64_t bytes, serverd_error *err);

#endif
