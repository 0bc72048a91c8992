#include "scheduler/adapters.h"

#include "base/error.h"
#include "base/hash.h"
#include "scheduler/engine_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- the table ------------------------------------------------------------------------------- */

static struct adapter_slot *find(const struct engine *engine, const char *name)
{
    for (uint32_t i = 0; i < engine->n_adapters; i++)
        if (engine->adapters[i].state != ADAPTER_NONE &&
            strcmp(engine->adapters[i].name, name) == 0)
            return &engine->adapters[i];
    return NULL;
}

static struct adapter_slot *find_ready(const struct engine *engine, const char *name)
{
    struct adapter_slot *slot = find(engine, name);
    return slot && slot->state == ADAPTER_READY ? slot : NULL;
}

static uint32_t index_of(const struct engine *engine, const struct adapter_slot *slot)
{
    return (uint32_t)(slot - engine->adapters);
}

/* The same for adapters that compute the same with the same scale, in any process. */
static uint64_t space_of(const struct adapter *adapter, float scale)
{
    uint8_t bytes[sizeof adapter->id + sizeof scale];
    memcpy(bytes, adapter->id, sizeof adapter->id);
    memcpy(bytes + sizeof adapter->id, &scale, sizeof scale);
    return sha256_number(bytes, sizeof bytes);
}

/* A free slot with that name. */
static serverd_status take_slot(struct engine *engine, const char *name,
                                const struct adapter *adapter, float scale,
                                struct adapter_slot **out, serverd_error *err)
{
    struct adapter_slot *slot = engine->adapters;
    size_t n = strlen(name);
    if (n == 0 || n >= sizeof slot->name)
        return fail(err, SERVERD_INVALID, "an adapter's name has 1 to %zu bytes",
                    sizeof slot->name - 1);
    if (find(engine, name))
        return fail(err, SERVERD_INVALID, "there is an adapter %s already", name);
    for (uint32_t i = 0; i < engine->n_adapters; i++) {
        slot = &engine->adapters[i];
        if (slot->state != ADAPTER_NONE)
            continue;
        *slot = (struct adapter_slot){.scale = scale, .space = space_of(adapter, scale)};
        memcpy(slot->name, name, n + 1);
        *out = slot;
        return SERVERD_OK;
    }
    if (engine->n_adapters == 0)
        return fail(err, SERVERD_UNSUPPORTED, "max-adapters is 0");
    return fail(err, SERVERD_BUSY, "all %u slots for adapters are taken: see max-adapters",
                engine->n_adapters);
}

/* ---- changes: any thread --------------------------------------------------------------------- */

static serverd_status begin_load(struct engine *engine, const char *name,
                                 const struct adapter *adapter, float scale,
                                 struct adapter_slot **out, serverd_error *err)
{
    if (atomic_load(&engine->shared.is_draining))
        return fail(err, SERVERD_UNSUPPORTED, "the server is shutting down");
    serverd_status status = take_slot(engine, name, adapter, scale, out, err);
    if (status == SERVERD_OK)
        (*out)->state = ADAPTER_COMING;
    return status;
}

serverd_status engine_load_adapter(struct engine *engine, const char *name,
                                   const struct adapter *adapter, float scale, serverd_error *err)
{
    struct adapter_slot *slot = NULL;
    (void)pthread_mutex_lock(&engine->mutex);
    serverd_status status = begin_load(engine, name, adapter, scale, &slot, err);
    (void)pthread_mutex_unlock(&engine->mutex);
    if (status != SERVERD_OK)
        return status;
    status = runtime_adapter_set(engine->options.runtime, index_of(engine, slot), adapter, err);
    (void)pthread_mutex_lock(&engine->mutex);
    slot->state = status == SERVERD_OK ? ADAPTER_READY : ADAPTER_NONE;
    (void)pthread_mutex_unlock(&engine->mutex);
    return status;
}

static serverd_status begin_unload(struct engine *engine, const char *name, void *user,
                                   uint64_t *id, serverd_error *err)
{
    struct adapter_slot *slot = find_ready(engine, name);
    if (atomic_load(&engine->shared.is_draining))
        return fail(err, SERVERD_UNSUPPORTED, "the server is shutting down");
    if (!slot)
        return fail(err, SERVERD_INVALID, "there is no adapter %.100s", name);
    slot->state = ADAPTER_LEAVING;
    slot->user = user;
    slot->change_id = *id = ++engine->last_id;
    atomic_store(&engine->has_adapter_changes, true);
    engine_wake(engine);
    return SERVERD_OK;
}

serverd_status engine_unload_adapter(struct engine *engine, const char *name, void *user,
                                     uint64_t *id, serverd_error *err)
{
    (void)pthread_mutex_lock(&engine->mutex);
    serverd_status status = begin_unload(engine, name, user, id, err);
    (void)pthread_mutex_unlock(&engine->mutex);
    return status;
}

/* ---- readers: any thread --------------------------------------------------------------------- */

bool engine_has_adapter(struct engine *engine, const char *name)
{
    (void)pthread_mutex_lock(&engine->mutex);
    bool is_there = find_ready(engine, name) != NULL;
    (void)pthread_mutex_unlock(&engine->mutex);
    return is_there;
}

uint32_t engine_list_adapters(struct engine *engine, char (*out)[LIMIT_ADAPTER_NAME], uint32_t cap)
{
    uint32_t n = 0;
    (void)pthread_mutex_lock(&engine->mutex);
    for (uint32_t i = 0; i < engine->n_adapters && n < cap; i++)
        if (engine->adapters[i].state == ADAPTER_READY)
            memcpy(out[n++], engine->adapters[i].name, sizeof engine->adapters[i].name);
    (void)pthread_mutex_unlock(&engine->mutex);
    return n;
}

/* ---- requests -------------------------------------------------------------------------------- */

serverd_status adapters_check(const struct engine *engine, const struct request *request,
                              serverd_error *err)
{
    if (request->adapter && !find_ready(engine, request->adapter))
        return fail(err, SERVERD_INVALID, "there is no adapter %.100s", request->adapter);
    return SERVERD_OK;
}

void adapters_claim(struct engine *engine, struct job *job)
{
    struct request *request = job->request;
    job->adapter_slot = SERVERD_NO_ADAPTER;
    if (!request->adapter)
        return;
    struct adapter_slot *slot = find_ready(engine, request->adapter);
    slot->n_jobs++;
    job->adapter_slot = index_of(engine, slot);
    job->adapter_scale = slot->scale;
    request->cache_space = hash_mix(hash_mix(request->cache_space) ^ slot->space);
}

void adapters_release(struct engine *engine, const struct job *job)
{
    if (job->adapter_slot == SERVERD_NO_ADAPTER)
        return;
    (void)pthread_mutex_lock(&engine->mutex);
    struct adapter_slot *slot = &engine->adapters[job->adapter_slot];
    if (--slot->n_jobs == 0 && slot->state == ADAPTER_LEAVING)
        atomic_store(&engine->has_adapter_changes, true);
    (void)pthread_mutex_unlock(&engine->mutex);
}

/* ---- the engine thread ----------------------------------------------------------------------- */

static void tell(struct engine *engine, const struct adapter_slot *slot,
                 const serverd_error *failure)
{
    struct event event = {.kind = EVENT_END,
                          .request_id = slot->change_id,
                          .user = slot->user,
                          .token = -1,
                          .stop_token = -1,
                          .stop_index = -1};
    if (failure) {
        event.status = failure->code;
        event.message = strdup(failure->text); /* NULL is legal */
    }
    engine_event(engine, &event);
}

static bool may_go(struct engine *engine, const struct adapter_slot *slot)
{
    (void)pthread_mutex_lock(&engine->mutex);
    bool may = slot->state == ADAPTER_LEAVING && slot->n_jobs == 0;
    (void)pthread_mutex_unlock(&engine->mutex);
    return may;
}

/* Only this thread changes a slot that waits for it, so it may be read without the mutex. */
static void settle(struct engine *engine, struct adapter_slot *slot, enum adapter_state state,
                   const serverd_error *failure)
{
    tell(engine, slot, failure);
    (void)pthread_mutex_lock(&engine->mutex);
    slot->state = state;
    (void)pthread_mutex_unlock(&engine->mutex);
}

void adapters_apply(struct engine *engine)
{
    if (!atomic_exchange(&engine->has_adapter_changes, false))
        return;
    for (uint32_t i = 0; i < engine->n_adapters; i++) {
        struct adapter_slot *slot = &engine->adapters[i];
        serverd_error ignored; /* emptying a slot frees */
        if (!may_go(engine, slot))
            continue;
        (void)runtime_adapter_set(engine->options.runtime, i, NULL, &ignored);
        settle(engine, slot, ADAPTER_NONE, NULL);
    }
}

void adapters_end(struct engine *engine, const serverd_error *failure)
{
    for (uint32_t i = 0; i < engine->n_adapters; i++)
        if (may_go(engine, &engine->adapters[i])) /* its jobs have all ended */
            settle(engine, &engine->adapters[i], ADAPTER_READY, failure);
}
