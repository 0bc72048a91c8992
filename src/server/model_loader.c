/* The thread that loads and unloads models, one at a time. */
#include "server/model_set_internal.h"
#include "server/server_internal.h"

#include "base/error.h"
#include "base/memory_info.h"
#include "frontend_dsl/run.h"

#include <errno.h>

#define SECOND_NS UINT64_C(1000000000)

/* What clients are told to wait: nothing is known of a load's pace before so much of it is done. */
#define LEAST_PERMILLE 10u
#define UNKNOWN_MS     1000u
#define MIN_MS         50u
#define MAX_MS         60000u

/* A model that could not be loaded is tried again by requests that come so much later. */
#define RETRY_SECONDS 10u

static uint64_t now_ns(const struct model_set *set)
{
    return clock_now_ns(set->server->context.clock);
}

static const struct options *options_of(const struct model_set *set)
{
    return set->server->context.options;
}

/* ---- unloading, under the mutex ----------------------------------------------------------------
 */

static bool is_idle(const struct model_entry *entry)
{
    return entry->state == MODEL_LOADED && entry->n_references == 0 && entry->model &&
           !entry->config.is_pinned;
}

/* The least recently used of those that nobody holds; NULL: there is none. */
static struct model_entry *find_idle(const struct model_set *set)
{
    struct model_entry *oldest = NULL;
    for (uint32_t i = 0; i < set->n; i++) {
        struct model_entry *entry = set->entries[i];
        if (is_idle(entry) && (!oldest || entry->last_use_ns < oldest->last_use_ns))
            oldest = entry;
    }
    return oldest;
}

static struct model_entry *find_leaving(const struct model_set *set)
{
    for (uint32_t i = 0; i < set->n; i++)
        if (set->entries[i]->state == MODEL_LEAVING && set->entries[i]->n_references == 0)
            return set->entries[i];
    return NULL;
}

/* Closes an entry that nobody holds; the mutex is free meanwhile. */
static void unload(struct model_set *set, struct model_entry *entry)
{
    void *model = entry->model;
    entry->state = MODEL_LEAVING; /* until its memory is back */
    entry->served = NULL;
    entry->model = NULL;
    (void)pthread_mutex_unlock(&set->mutex);
    /* grammars refer to the tokenizer, sequences to grammars */
    set->opener.close(set->opener.context, model);
    grammar_cache_deinit(&entry->grammars);
    score_memo_destroy(entry->memo);
    entry->memo = NULL;
    log_info(set->server->context.log, "models", "%s is unloaded", entry->config.name);
    (void)pthread_mutex_lock(&set->mutex);
    entry->state = MODEL_UNLOADED;
    entry->bytes = 0;
}

/* True: something has changed. */
static bool unload_one(struct model_set *set)
{
    struct model_entry *entry = find_leaving(set);
    const uint64_t idle_ns = (uint64_t)(options_of(set)->models_idle_timeout * 1e9);
    if (!entry && idle_ns > 0) {
        entry = find_idle(set);
        if (entry && now_ns(set) < entry->last_use_ns + idle_ns)
            entry = NULL;
    }
    if (entry)
        unload(set, entry);
    return entry != NULL;
}

/* ---- room, for a load that is going on ---------------------------------------------------------
 */

void model_load_progress(struct model_load *load, double share)
{
    const double bounded = share < 0 ? 0 : share > 1 ? 1 : share;
    atomic_store(&load->set->load_permille, (uint32_t)(bounded * 1000));
    if (load->entry == load->set->entries[0])
        server_set_progress(load->set->server, bounded);
}

uint32_t model_set_forecast_ms(struct model_set *set)
{
    (void)pthread_mutex_lock(&set->mutex);
    const bool is_loading = set->is_loading;
    const uint64_t began_ns = set->load_began_ns;
    (void)pthread_mutex_unlock(&set->mutex);
    const uint32_t permille = atomic_load(&set->load_permille);
    if (!is_loading || permille < LEAST_PERMILLE)
        return UNKNOWN_MS;
    const double ms = (double)(now_ns(set) - began_ns) * 1e-6 * (1000 - permille) / permille;
    return ms < MIN_MS ? MIN_MS : ms > MAX_MS ? MAX_MS : (uint32_t)ms;
}

uint64_t model_load_memory(const struct model_load *load)
{
    return load->set->memory_bytes;
}

struct room {
    uint64_t bytes; /* that loaded models were granted */
    uint32_t n;
};

static struct room count(const struct model_set *set)
{
    struct room room = {0};
    for (uint32_t i = 0; i < set->n; i++) {
        room.bytes += set->entries[i]->bytes;
        room.n += set->entries[i]->model != NULL;
    }
    return room;
}

static bool fits(const struct model_set *set, uint64_t bytes)
{
    const struct options *options = options_of(set);
    const struct room room = count(set);
    const uint64_t most = set->memory_bytes;
    return (most == 0 || (room.bytes <= most && bytes <= most - room.bytes)) &&
           (options->models_max == 0 || room.n < (uint64_t)options->models_max);
}

serverd_status model_load_reserve(struct model_load *load, uint64_t bytes, serverd_error *err)
{
    struct model_set *set = load->set;
    const uint64_t until = now_ns(set) + (uint64_t)(options_of(set)->queue_timeout * 1e9);
    serverd_status status = SERVERD_OK;
    if (set->memory_bytes > 0 && bytes > set->memory_bytes)
        return fail(err, SERVERD_NOMEM,
                    "%.100s takes %llu MiB, and all models together may take %llu MiB: raise "
                    "models-memory, or lower kv-memory, ctx-size or max-running",
                    load->entry->config.name, (unsigned long long)(bytes / MIB),
                    (unsigned long long)(set->memory_bytes / MIB));
    (void)pthread_mutex_lock(&set->mutex);
    while (status == SERVERD_OK && !fits(set, bytes)) {
        struct model_entry *idle = find_leaving(set);
        if (!idle)
            idle = find_idle(set);
        if (set->is_stopping)
            status = fail(err, SERVERD_BUSY, "the server is ending");
        else if (idle)
            unload(set, idle);
        else if (now_ns(set) >= until)
            status =
                fail(err, SERVERD_BUSY, "%.100s finds no room: the models that are loaded are busy",
                     load->entry->config.name);
        else
            (void)pthread_cond_wait(&set->has_changed, &set->mutex); /* or a tick */
    }
    if (status == SERVERD_OK)
        load->entry->bytes = bytes;
    (void)pthread_mutex_unlock(&set->mutex);
    return status;
}

/* ---- loading, under the mutex ------------------------------------------------------------------
 */

static struct model_entry *find_wanted(const struct model_set *set)
{
    struct model_entry *first = NULL;
    for (uint32_t i = 0; i < set->n; i++) {
        struct model_entry *entry = set->entries[i];
        if (entry->is_wanted && !entry->model && (!first || entry->wanted_ns < first->wanted_ns))
            first = entry;
    }
    return first;
}

static void keep(struct model_set *set, struct model_entry *entry, void *model,
                 const struct served_model *served)
{
    grammar_cache_init(&entry->grammars);
    entry->memo = score_memo_create();
    entry->model = model;
    entry->served = served;
    entry->last_use_ns = now_ns(set);
    entry->state = entry->is_refused ? MODEL_LEAVING : MODEL_LOADED;
    if (set->is_draining)
        engine_drain(served->engine);
}

/* A model for which there is no room now is no broken one. */
static void give_up(struct model_set *set, struct model_entry *entry, const serverd_error *err)
{
    entry->bytes = 0;
    entry->error = *err;
    entry->state = err->code == SERVERD_BUSY ? MODEL_UNLOADED : MODEL_FAILED;
    entry->retry_ns = now_ns(set) + RETRY_SECONDS * SECOND_NS;
}

static void load(struct model_set *set, struct model_entry *entry)
{
    struct model_load load = {set, entry};
    const struct served_model *served = NULL;
    void *model = NULL;
    serverd_error err = {0};
    entry->state = MODEL_LOADING;
    entry->is_wanted = entry->is_refused = false;
    set->is_loading = true;
    set->load_began_ns = now_ns(set);
    atomic_store(&set->load_permille, 0);
    (void)pthread_mutex_unlock(&set->mutex);
    const serverd_status status =
        set->opener.open(set->opener.context, &entry->config, &load, &model, &served, &err);
    if (status != SERVERD_OK)
        log_error(set->server->context.log, "models", "%s", err.text);
    else if (set->memory_bytes > 0)
        log_info(set->server->context.log, "models", "%s is loaded and may take %llu MiB of %llu",
                 entry->config.name, (unsigned long long)(entry->bytes / MIB),
                 (unsigned long long)(set->memory_bytes / MIB));
    const char *labels[] = {entry->config.name, status == SERVERD_OK ? "ok" : "error"};
    metrics_add_labelled(set->server->context.metrics, METRIC_MODEL_LOADS, labels, 1);
    (void)pthread_mutex_lock(&set->mutex);
    if (status == SERVERD_OK)
        keep(set, entry, model, served);
    else
        give_up(set, entry, &err);
    set->is_loading = false;
    set->has_started = true;
    (void)pthread_mutex_unlock(&set->mutex);
    if (set->opener.has_loaded)
        set->opener.has_loaded(set->opener.context, &entry->config, served, &err);
    server_wake_awaiting(set->server);
    (void)pthread_mutex_lock(&set->mutex);
}

/* ---- the thread --------------------------------------------------------------------------------
 */

static void *serve(void *context)
{
    struct model_set *set = context;
    (void)pthread_mutex_lock(&set->mutex);
    while (!set->is_stopping) {
        struct model_entry *entry;
        if (unload_one(set))
            continue;
        if ((entry = find_wanted(set)))
            load(set, entry);
        else
            (void)pthread_cond_wait(&set->has_changed, &set->mutex);
    }
    (void)pthread_mutex_unlock(&set->mutex);
    return NULL;
}

/* Of what is free at the start, what models may take: the rest is for the system and for requests.
 */
#define MEMORY_SHARE 0.8

serverd_status model_set_start(struct model_set *set, serverd_error *err)
{
    set->memory_bytes = options_of(set)->models_memory;
    if (set->memory_bytes == 0 && (set->n > 1 || options_of(set)->models_path))
        set->memory_bytes = (uint64_t)(MEMORY_SHARE * (double)memory_available());
    (void)pthread_mutex_lock(&set->mutex);
    if (set->n > 0)
        model_set_want(set, set->entries[0]);
    (void)pthread_mutex_unlock(&set->mutex);
    int code = pthread_create(&set->thread, NULL, serve, set);
    if (code != 0) {
        errno = code;
        return fail(err, SERVERD_INTERNAL, "models: thread: %m");
    }
    set->has_thread = true;
    (void)pthread_setname_np(set->thread, "models");
    return SERVERD_OK;
}

void model_set_tick(struct model_set *set)
{
    (void)pthread_mutex_lock(&set->mutex);
    if (set->is_loading || options_of(set)->models_idle_timeout > 0) /* the rest is told at once */
        (void)pthread_cond_signal(&set->has_changed);
    (void)pthread_mutex_unlock(&set->mutex);
}

/* Without the mutex: it may take a while, and others look at the set meanwhile. Engines that are
 * there stay, since nothing is unloaded any more. */
static void stop_engines(struct model_set *set)
{
    for (uint32_t i = 0; i < LIMIT_MODELS; i++) {
        (void)pthread_mutex_lock(&set->mutex);
        const struct model_entry *entry = i < set->n ? set->entries[i] : NULL;
        const struct served_model *served = entry && entry->model ? entry->served : NULL;
        (void)pthread_mutex_unlock(&set->mutex);
        if (served)
            engine_stop(served->engine);
    }
}

bool model_set_stop(struct model_set *set)
{
    (void)pthread_mutex_lock(&set->mutex);
    set->is_stopping = true;
    const bool is_loading = set->is_loading;
    (void)pthread_cond_signal(&set->has_changed);
    (void)pthread_mutex_unlock(&set->mutex);
    if (set->has_thread && !is_loading) {
        (void)pthread_join(set->thread, NULL);
        set->has_thread = false;
    }
    stop_engines(set);
    return !is_loading;
}
