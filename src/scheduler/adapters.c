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

static serverd_status begin_change(struct engine *engine, const struct adapter_change *change,
                                   uint64_t *id, serverd_error *err)
{
    struct adapter_slot *slot = find_ready(engine, change->name);
    if (atomic_load(&engine->shared.is_draining))
        return fail(err, SERVERD_UNSUPPORTED, "the server is shutting down");
    if (!change->adapter && !slot)
        return fail(err, SERVERD_INVALID, "there is no adapter %.100s", change->name);
    if (change->adapter) {
        serverd_status status =
            take_slot(engine, change->name, change->adapter, change->scale, &slot, err);
        if (status != SERVERD_OK)
            return status;
    }
    slot->state = change->adapter ? ADAPTER_COMING : ADAPTER_LEAVING;
    slot->adapter = change->adapter;
    slot->user = change->user;
    slot->change_id = *id = ++engine->last_id;
    atomic_store(&engine->has_adapter_changes, true);
    engine_wake(engine);
    return SERVERD_OK;
}

serverd_status engine_change_adapter(struct engine *engine, const struct adapter_change *change,
                                     uint64_t *id, serverd_error *err)
{
    (void)pthread_mutex_lock(&engine->mutex);
    serverd_status status = begin_change(engine, change, id, err);
    (void)pthread_mutex_unlock(&engine->mutex);
    return status;
}

serverd_status engine_add_adapter(struct engine *engine, const char *name,
                                  const struct adapter *adapter, float scale, serverd_error *err)
{
    struct adapter_slot *slot;
    serverd_status status = take_slot(engine, name, adapter, scale, &slot, err);
    if (status == SERVERD_OK)
        status = runtime_adapter_set(engine->options.runtime, index_of(engine, slot), adapter, err);
    if (status == SERVERD_OK)
        slot->state = ADAPTER_READY;
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

serverd_status adapters_claim(struct engine *engine, struct job *job, serverd_error *err)
{
    struct request *request = job->request;
    job->adapter_slot = SERVERD_NO_ADAPTER;
    if (!request->adapter)
        return SERVERD_OK;
    struct adapter_slot *slot = find_ready(engine, request->adapter);
    if (!slot)
        return fail(err, SERVERD_INVALID, "there is no adapter %.100s", request->adapter);
    slot->n_jobs++;
    job->adapter_slot = index_of(engine, slot);
    job->adapter_scale = slot->scale;
    request->cache_space = hash_mix(hash_mix(request->cache_space) ^ slot->space);
    return SERVERD_OK;
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

static void end_change(struct engine *engine, const struct adapter_slot *slot,
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

/* Only this thread changes a slot that waits for it, so it may be read without the mutex. */
static void settle(struct engine *engine, struct adapter_slot *slot, enum adapter_state state,
                   const serverd_error *failure)
{
    end_change(engine, slot, failure);
    adapter_destroy(slot->adapter);
    (void)pthread_mutex_lock(&engine->mutex);
    slot->adapter = NULL;
    slot->user = NULL;
    slot->state = state;
    (void)pthread_mutex_unlock(&engine->mutex);
}

static void apply(struct engine *engine, uint32_t index)
{
    struct adapter_slot *slot = &engine->adapters[index];
    (void)pthread_mutex_lock(&engine->mutex);
    enum adapter_state state = slot->state;
    bool is_used = slot->n_jobs > 0;
    (void)pthread_mutex_unlock(&engine->mutex);
    serverd_error err;
    if (state == ADAPTER_COMING) {
        serverd_status status =
            runtime_adapter_set(engine->options.runtime, index, slot->adapter, &err);
        bool is_in = status == SERVERD_OK;
        settle(engine, slot, is_in ? ADAPTER_READY : ADAPTER_NONE, is_in ? NULL : &err);
    } else if (state == ADAPTER_LEAVING && !is_used) {
        /* emptying a slot frees */
        (void)runtime_adapter_set(engine->options.runtime, index, NULL, &err);
        settle(engine, slot, ADAPTER_NONE, NULL);
    }
}

void adapters_apply(struct engine *engine)
{
    if (!atomic_exchange(&engine->has_adapter_changes, false))
        return;
    for (uint32_t i = 0; i < engine->n_adapters; i++)
        apply(engine, i);
}

void adapters_end(struct engine *engine, const serverd_error *failure)
{
    for (uint32_t i = 0; i < engine->n_adapters; i++) {
        struct adapter_slot *slot = &engine->adapters[i];
        if (slot->state == ADAPTER_COMING || slot->state == ADAPTER_LEAVING)
            settle(engine, slot, ADAPTER_NONE, failure);
    }
}

void adapters_destroy(struct engine *engine)
{
    for (uint32_t i = 0; engine->adapters && i < engine->n_adapters; i++)
        adapter_destroy(engine->adapters[i].adapter);
    free(engine->adapters);
}
