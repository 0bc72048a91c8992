#include "server/model_set_internal.h"
#include "server/request/api_request.h"
#include "server/server_internal.h"

#include "base/error.h"
#include "frontend_dsl/run.h"

#include <stdlib.h>
#include <string.h>

static uint64_t now_ns(const struct model_set *set)
{
    return clock_now_ns(set->server->context.clock);
}

/* ---- life --------------------------------------------------------------------------------------
 */

void model_set_init(struct model_set *set, struct server *server)
{
    set->server = server;
    (void)pthread_mutex_init(&set->mutex, NULL);
    (void)pthread_cond_init(&set->has_changed, NULL);
}

void model_set_deinit(struct model_set *set)
{
    for (uint32_t i = 0; i < set->n; i++) {
        struct model_entry *entry = set->entries[i];
        if (entry->served) {
            grammar_cache_deinit(&entry->grammars);
            score_memo_destroy(entry->memo);
        }
        if (entry->model)
            set->opener.close(set->opener.context, entry->model);
        free(entry);
    }
    set->n = 0;
    (void)pthread_cond_destroy(&set->has_changed);
    (void)pthread_mutex_destroy(&set->mutex);
}

/* Under the mutex; NULL: no room. */
static struct model_entry *add(struct model_set *set)
{
    struct model_entry *entry = set->n < LIMIT_MODELS ? calloc(1, sizeof *entry) : NULL;
    if (entry)
        set->entries[set->n++] = entry;
    return entry;
}

static serverd_status check_names(struct model_set *set, const struct model_config *config,
                                  serverd_error *err)
{
    const char *at = config->aliases, *alias;
    size_t n;
    if (strcmp(config->name, "default") == 0)
        return fail(err, SERVERD_INVALID, "default: no model can have this name");
    if (model_set_find(set, config->name))
        return fail(err, SERVERD_INVALID, "%.100s: two models have this name", config->name);
    while ((alias = api_next_alias(&at, &n))) {
        char name[LIMIT_MODEL_NAME];
        if (n >= sizeof name)
            return fail(err, SERVERD_INVALID, "%.100s: an alias of %zu bytes, at most %zu allowed",
                        config->name, n, sizeof name - 1);
        memcpy(name, alias, n);
        name[n] = '\0';
        if (model_set_find(set, name))
            return fail(err, SERVERD_INVALID, "%.100s: two models have this name", name);
    }
    return SERVERD_OK;
}

serverd_status model_set_add(struct model_set *set, const struct model_config *config,
                             serverd_error *err)
{
    (void)pthread_mutex_lock(&set->mutex);
    serverd_status status = set->n > 0 ? check_names(set, config, err) : SERVERD_OK;
    struct model_entry *entry = status == SERVERD_OK ? add(set) : NULL;
    if (entry)
        entry->config = *config;
    else if (status == SERVERD_OK)
        status = fail(err, SERVERD_NOMEM, "%.100s: no room for more than %u models", config->name,
                      set->n);
    (void)pthread_mutex_unlock(&set->mutex);
    return status;
}

void model_set_publish(struct model_set *set, const struct served_model *served)
{
    (void)pthread_mutex_lock(&set->mutex);
    struct model_entry *entry = add(set);
    if (entry) {
        entry->config = (struct model_config){
            .name = served->name, .aliases = served->aliases, .is_pinned = true};
        entry->state = MODEL_LOADED;
        entry->served = served;
        grammar_cache_init(&entry->grammars);
        entry->memo = score_memo_create();
    }
    set->has_started = true;
    (void)pthread_mutex_unlock(&set->mutex);
}

/* ---- names -------------------------------------------------------------------------------------
 */

static bool is_name_of(const struct model_entry *entry, const char *name, size_t n)
{
    return api_is_id(entry->config.name, entry->config.aliases, name, n);
}

static struct model_entry *find_id(const struct model_set *set, const char *name, size_t n)
{
    for (uint32_t i = 0; i < set->n; i++)
        if (!set->entries[i]->is_missing && is_name_of(set->entries[i], name, n))
            return set->entries[i];
    return NULL;
}

/* Of a loaded model its engine knows, of others their configuration. */
static bool has_adapter(const struct model_entry *entry, const char *name)
{
    const char *at = entry->config.adapters;
    const size_t n = strlen(name);
    if (entry->served)
        return engine_has_adapter(entry->served->engine, name);
    for (; at && *at; at += strcspn(at, ","), at += *at == ',')
        if (strncmp(at, name, n) == 0 && at[n] == '=')
            return true;
    return false;
}

struct model_entry *model_set_find(struct model_set *set, const char *name)
{
    if (set->n == 0)
        return NULL;
    if (!name || *name == '\0' || strcmp(name, "default") == 0)
        return set->entries[0];
    struct model_entry *entry = find_id(set, name, strlen(name));
    /* MODEL:ADAPTER, either of which may hold colons */
    for (const char *colon = strchr(name, ':'); colon && !entry; colon = strchr(colon + 1, ':'))
        entry = find_id(set, name, (size_t)(colon - name));
    for (uint32_t i = 0; i < set->n && !entry; i++)
        if (!set->entries[i]->is_missing && has_adapter(set->entries[i], name))
            entry = set->entries[i];
    return entry;
}

void model_set_mark(struct model_set *set, const char *name, bool is_there)
{
    (void)pthread_mutex_lock(&set->mutex);
    for (uint32_t i = 1; i < set->n; i++) {
        struct model_entry *entry = set->entries[i];
        if (entry->is_missing == !is_there || strcmp(entry->config.name, name) != 0)
            continue;
        entry->is_missing = !is_there;
        if (!is_there)
            (void)model_set_unload(set, entry);
    }
    (void)pthread_mutex_unlock(&set->mutex);
}

/* ---- requests ----------------------------------------------------------------------------------
 */

static enum model_take await(struct model_set *set, struct exchange *x)
{
    if (!x->is_counted && set->n_awaiting >= (uint32_t)set->server->context.options->max_queue)
        return MODEL_CROWDED;
    if (!x->is_counted)
        set->n_awaiting++;
    x->is_counted = true;
    (void)pthread_mutex_lock(&x->lock);
    x->is_awaiting = true; /* before the model can change, which ends it */
    (void)pthread_mutex_unlock(&x->lock);
    return MODEL_COMING;
}

static enum model_take take(struct model_set *set, struct model_entry *entry, struct exchange *x,
                            serverd_error *err)
{
    const uint64_t now = now_ns(set);
    if (entry->state == MODEL_LOADED) {
        entry->n_references++;
        entry->last_use_ns = now;
        return MODEL_TAKEN;
    }
    if (entry->state == MODEL_FAILED && now < entry->retry_ns) {
        *err = entry->error;
        return MODEL_BROKEN;
    }
    if (entry->state != MODEL_LOADING)
        model_set_want(set, entry);
    return await(set, x);
}

enum model_take model_set_take(struct model_set *set, const char *name, struct exchange *x,
                               struct model_entry **out, serverd_error *err)
{
    (void)pthread_mutex_lock(&set->mutex);
    struct model_entry *entry = model_set_find(set, name);
    const enum model_take how = entry ? take(set, entry, x, err) : MODEL_UNKNOWN;
    if (how == MODEL_TAKEN)
        *out = entry;
    (void)pthread_mutex_unlock(&set->mutex);
    return how;
}

static struct model_entry *first_loaded(const struct model_set *set)
{
    for (uint32_t i = 0; i < set->n; i++)
        if (set->entries[i]->served)
            return set->entries[i];
    return NULL;
}

enum model_take model_set_look(struct model_set *set, const char *name, struct model_entry **out)
{
    (void)pthread_mutex_lock(&set->mutex);
    const bool is_named = name && *name != '\0';
    struct model_entry *entry = is_named ? model_set_find(set, name) : first_loaded(set);
    enum model_take how = is_named && !entry ? MODEL_UNKNOWN : MODEL_ABSENT;
    if (entry && entry->served) {
        entry->n_references++;
        *out = entry;
        how = MODEL_TAKEN;
    }
    (void)pthread_mutex_unlock(&set->mutex);
    return how;
}

void model_set_hold(struct model_set *set, struct model_entry *entry)
{
    (void)pthread_mutex_lock(&set->mutex);
    entry->n_references++;
    (void)pthread_mutex_unlock(&set->mutex);
}

void model_set_release(struct model_set *set, struct model_entry *entry, bool was_used)
{
    (void)pthread_mutex_lock(&set->mutex);
    if (was_used)
        entry->last_use_ns = now_ns(set);
    if (--entry->n_references == 0)
        (void)pthread_cond_signal(&set->has_changed);
    (void)pthread_mutex_unlock(&set->mutex);
}

void model_set_forget(struct model_set *set, struct exchange *x)
{
    (void)pthread_mutex_lock(&set->mutex);
    if (x->is_counted)
        set->n_awaiting--;
    x->is_counted = false;
    (void)pthread_mutex_unlock(&set->mutex);
}

/* ---- operators ---------------------------------------------------------------------------------
 */

const char *model_state_name(const struct model_entry *entry)
{
    static const char *const names[] = {[MODEL_UNLOADED] = "unloaded",
                                        [MODEL_LOADING] = "loading",
                                        [MODEL_LOADED] = "loaded",
                                        [MODEL_LEAVING] = "unloading",
                                        [MODEL_FAILED] = "failed"};
    return entry->is_wanted ? names[MODEL_LOADING] : names[entry->state];
}

void model_set_want(struct model_set *set, struct model_entry *entry)
{
    if (entry->is_wanted || entry->state == MODEL_LOADED)
        return;
    if (entry->state == MODEL_LOADING) {
        entry->is_refused = false;
        return;
    }
    entry->is_wanted = true;
    entry->wanted_ns = now_ns(set);
    (void)pthread_cond_signal(&set->has_changed);
}

bool model_set_unload(struct model_set *set, struct model_entry *entry)
{
    if (entry->config.is_pinned)
        return false;
    entry->is_wanted = false;
    if (entry->state == MODEL_LOADING)
        entry->is_refused = true;
    else if (entry->state == MODEL_LOADED)
        entry->state = MODEL_LEAVING;
    (void)pthread_cond_signal(&set->has_changed);
    return true;
}

/* ---- the whole ---------------------------------------------------------------------------------
 */

bool model_set_is_starting(struct model_set *set)
{
    (void)pthread_mutex_lock(&set->mutex);
    bool is_starting = !set->has_started && set->n <= 1;
    (void)pthread_mutex_unlock(&set->mutex);
    return is_starting;
}

void model_set_health(struct model_set *set, struct model_set_health *out)
{
    *out = (struct model_set_health){0};
    const uint64_t now = now_ns(set);
    (void)pthread_mutex_lock(&set->mutex);
    out->has_started = set->has_started;
    for (uint32_t i = 0; i < set->n; i++) {
        struct engine_status status;
        if (!set->entries[i]->served)
            continue;
        engine_status(set->entries[i]->served->engine, &status);
        double age = now > status.heartbeat_ns ? (double)(now - status.heartbeat_ns) * 1e-9 : 0.0;
        out->n_engines++;
        out->is_lost |= status.is_lost;
        out->n_running += status.n_running;
        out->n_waiting += status.n_waiting;
        if (age > out->heartbeat_age)
            out->heartbeat_age = age;
    }
    (void)pthread_mutex_unlock(&set->mutex);
}

void model_set_drain(struct model_set *set)
{
    (void)pthread_mutex_lock(&set->mutex);
    set->is_draining = true;
    for (uint32_t i = 0; i < set->n; i++)
        if (set->entries[i]->served)
            engine_drain(set->entries[i]->served->engine);
    (void)pthread_mutex_unlock(&set->mutex);
}

void model_set_resume(struct model_set *set)
{
    (void)pthread_mutex_lock(&set->mutex);
    set->is_draining = false;
    for (uint32_t i = 0; i < set->n; i++)
        if (set->entries[i]->served)
            engine_resume(set->entries[i]->served->engine);
    (void)pthread_mutex_unlock(&set->mutex);
}
