/* The set in memory, shared by model_set.c (who has which model), model_loader.c (the thread) and
 * the endpoints that show it. */
#ifndef SERVER_MODEL_SET_INTERNAL_H
#define SERVER_MODEL_SET_INTERNAL_H

#include "base/limits.h"
#include "server/exchange.h"
#include "server/model_set.h"
#include "server/request/grammar_cache.h"

#include <pthread.h>
#include <stdatomic.h>

enum model_state {
    MODEL_UNLOADED,
    MODEL_LOADING,
    MODEL_LOADED,
    MODEL_LEAVING, /* closes when nobody holds it; nobody new gets it */
    MODEL_FAILED   /* as unloaded, but requests do not try again before retry_ns */
};

/* Under the set's mutex, but for `config`, which stays, and what a reference keeps: `served`,
 * `grammars` and `memo`. */
struct model_entry {
    struct model_config config;
    enum model_state state;
    const struct served_model *served; /* NULL: there is none */
    struct grammar_cache grammars;     /* while there is one */
    struct score_memo *memo;           /* likewise, of programs; NULL: no memory for one */
    void *model;                       /* of the opener; NULL: not opened by it */
    uint32_t n_references;
    uint64_t last_use_ns;
    uint64_t bytes;  /* that it was granted */
    bool is_wanted;  /* to be loaded */
    bool is_refused; /* to leave as soon as it is loaded */
    bool is_missing; /* what it is made of has gone: nobody finds it */
    uint64_t wanted_ns, retry_ns;
    serverd_error error; /* of the last load, if it failed */
};

/* What a load has of the set. */
struct model_load {
    struct model_set *set;
    struct model_entry *entry;
};

struct server;

struct model_set {
    struct server *server;
    struct model_opener opener; /* open NULL: what is there was published */
    pthread_t thread;
    bool has_thread;

    pthread_mutex_t
        mutex; /* of all below; behind the server's lock, before an exchange's and an engine's */
    pthread_cond_t has_changed;
    struct model_entry *entries[LIMIT_MODELS];
    uint32_t n;
    uint64_t memory_bytes; /* of all models together; 0: no bound */
    uint32_t n_awaiting;   /* requests that wait for their model */
    bool is_draining;      /* engines that come take nothing new */
    bool is_stopping;      /* no more loads */
    bool is_loading;       /* the opener is at work */
    bool has_started;      /* the first load has ended, well or not */
    uint64_t load_began_ns;
    _Atomic uint32_t load_permille; /* how far it has come, as the opener says */
};

void model_set_init(struct model_set *set, struct server *server);
/* Closes what is loaded; nobody holds anything, and the thread has stopped. */
void model_set_deinit(struct model_set *set);

/* SERVERD_INVALID: another has one of its names. */
serverd_status model_set_add(struct model_set *set, const struct model_config *config,
                             serverd_error *err);
/* A model that somebody else opened, and closes after the set. It is the default if it is the
 * first. */
void model_set_publish(struct model_set *set, const struct served_model *served);

/* Its file or folder is there, or has gone: then nobody finds it any more, and it leaves. Not of
 * the default. */
void model_set_mark(struct model_set *set, const char *name, bool is_there);

/* ---- requests ---- */

enum model_take {
    MODEL_TAKEN,   /* *out, with a reference */
    MODEL_COMING,  /* it is being loaded: the exchange awaits it, and is told when to try again */
    MODEL_UNKNOWN, /* there is none of this name */
    MODEL_BROKEN,  /* it cannot be loaded, *err says why */
    MODEL_CROWDED, /* too many requests wait already */
    MODEL_ABSENT   /* it is not loaded, to be looked at */
};
/* `name` as in requests: an id, an alias, an adapter's name, MODEL:ADAPTER; "default", empty and
 * NULL are the default. */
enum model_take model_set_take(struct model_set *set, const char *name, struct exchange *x,
                               struct model_entry **out, serverd_error *err);
/* The same for who only looks at a loaded model, which is no use of it; without a name at the first
 * that is loaded. Nothing is loaded for that. */
enum model_take model_set_look(struct model_set *set, const char *name, struct model_entry **out);
/* One more reference of what has one: a program's run outlives its request. */
void model_set_hold(struct model_set *set, struct model_entry *entry);
/* was_used: it is of who took it, not of who looked. */
void model_set_release(struct model_set *set, struct model_entry *entry, bool was_used);
/* The exchange awaits no more. */
void model_set_forget(struct model_set *set, struct exchange *x);

/* ---- operators ---- */

/* The entry of that name, under the mutex; NULL: there is none. */
struct model_entry *model_set_find(struct model_set *set, const char *name);
const char *model_state_name(const struct model_entry *entry);
/* Begin to load or unload it, under the mutex. False: it is pinned. */
void model_set_want(struct model_set *set, struct model_entry *entry);
bool model_set_unload(struct model_set *set, struct model_entry *entry);

/* ---- the whole ---- */

/* No model has been loaded yet and none of several will be: requests are refused with their head.
 */
bool model_set_is_starting(struct model_set *set);

/* Milliseconds until the present load may have ended, for who is to try again. */
uint32_t model_set_forecast_ms(struct model_set *set);

/* Of all engines. */
struct model_set_health {
    uint32_t n_engines;
    double heartbeat_age; /* seconds, of the slowest */
    bool is_lost;         /* one of them has lost its device */
    bool has_started;
    uint32_t n_running, n_waiting;
};
void model_set_health(struct model_set *set, struct model_set_health *out);
void model_set_drain(struct model_set *set);  /* all engines */
void model_set_resume(struct model_set *set); /* takes that back */

/* ---- the thread, model_loader.c ---- */

serverd_status model_set_start(struct model_set *set, serverd_error *err); /* loads the default */
void model_set_tick(struct model_set *set); /* a few times a second: times may be over */
/* Ends the thread and the engines: after it the last events are out. False: the opener is at work
 * and cannot be stopped. */
bool model_set_stop(struct model_set *set);

#endif
