/* The adapters of an engine, by the names that requests choose them with. Each has a slot of the
 * runtime; requests of all of them, and of the base, share batches. What they computed is never
 * shared: the namespace of the prefix cache has the adapter's identity and scale in it, also on the
 * disk, so that an adapter that comes back finds its prefixes again.
 *
 * One that comes is put into its slot by the caller's thread, beside running steps, which do not
 * know the slot yet. One that is unloaded takes no new requests at once, and is let go by the
 * engine thread, between two steps, when the last of its requests has ended. */
#ifndef SCHEDULER_ADAPTERS_H
#define SCHEDULER_ADAPTERS_H

#include "base/limits.h"
#include "program/adapter.h"

/* Greatest factor, either sign. */
#define ADAPTER_MAX_SCALE 1000.0

struct engine;

/* Any thread that has some milliseconds, also before engine_start. The adapter fits the engine's
 * program and stays the caller's; its part is multiplied with `scale`; the name has 1 ..
 * LIMIT_ADAPTER_NAME - 1 bytes. On success requests may choose it. SERVERD_INVALID (a name that is
 * taken or cannot be one), SERVERD_BUSY (no slot is free), SERVERD_UNSUPPORTED (draining, no slots
 * at all, its rank), SERVERD_NOMEM. */
serverd_status engine_load_adapter(struct engine *engine, const char *name,
                                   const struct adapter *adapter, float scale, serverd_error *err);

/* Any thread. On success one event for `user` follows when it has gone, EVENT_END.
 * SERVERD_INVALID: there is none of that name; SERVERD_UNSUPPORTED: draining. */
serverd_status engine_unload_adapter(struct engine *engine, const char *name, void *user,
                                     uint64_t *id, serverd_error *err);

/* Any thread: whether requests may choose it now; the names of those, in slots' order. */
bool engine_has_adapter(struct engine *engine, const char *name);
uint32_t engine_list_adapters(struct engine *engine, char (*out)[LIMIT_ADAPTER_NAME], uint32_t cap);

#endif
