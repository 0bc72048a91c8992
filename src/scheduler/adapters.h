/* The adapters of an engine, by the names that requests choose them with. Each has a slot of the
 * runtime; requests of all of them, and of the base, share batches. What they computed is never
 * shared: the namespace of the prefix cache has the adapter's identity and scale in it, also on the
 * disk, so that an adapter that comes back finds its prefixes again.
 *
 * A change is carried out by the engine thread between two steps. One that is unloaded takes no new
 * requests at once, and leaves when the last of its requests has ended. */
#ifndef SCHEDULER_ADAPTERS_H
#define SCHEDULER_ADAPTERS_H

#include "base/limits.h"
#include "program/adapter.h"

/* Greatest factor, either sign. */
#define ADAPTER_MAX_SCALE 1000.0

struct engine;

struct adapter_change {
    void *user;              /* comes back in the one event, EVENT_END */
    const char *name;        /* 1 .. LIMIT_ADAPTER_NAME - 1 bytes; copied */
    struct adapter *adapter; /* that fits the engine's program; NULL: the one of that name goes */
    float scale;             /* its part is multiplied with it */
};

/* Any thread. On success the adapter is the engine's, and EVENT_END follows, with the failure of
 * the runtime if there is one, or for one that goes, when it has gone. Refusals: SERVERD_INVALID (a
 * name that is taken, is not there or cannot be one), SERVERD_BUSY (no slot is free),
 * SERVERD_UNSUPPORTED (draining, no slots at all). */
serverd_status engine_change_adapter(struct engine *engine, const struct adapter_change *change,
                                     uint64_t *id, serverd_error *err);

/* Before engine_start: an adapter that is there from the beginning; the caller keeps it. */
serverd_status engine_add_adapter(struct engine *engine, const char *name,
                                  const struct adapter *adapter, float scale, serverd_error *err);

/* Any thread: whether requests may choose it now; the names of those, in slots' order. */
bool engine_has_adapter(struct engine *engine, const char *name);
uint32_t engine_list_adapters(struct engine *engine, char (*out)[LIMIT_ADAPTER_NAME], uint32_t cap);

#endif
