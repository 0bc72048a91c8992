/* The events of one job, as frames of a server-sent stream, numbered from 0: what has been said can
 * be said again to whoever asks from a number on. Bounded; not locked: whoever has it locks.
 *
 *     frames   id: 0\nevent: run.created\ndata: {..}\n\n  id: 1\n..
 *     starts   0                                          57 .. */
#ifndef FRONTEND_DSL_EVENT_LOG_H
#define FRONTEND_DSL_EVENT_LOG_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_log {
    struct buffer frames;
    size_t *starts; /* [n], where each event's frame begins */
    uint64_t n, cap;
};

void event_log_init(struct event_log *log);
void event_log_deinit(struct event_log *log);

/* `data`: JSON, one line. False: there is no room or no memory, and nothing was added. A last event
 * finds room beyond the bound. */
bool event_log_add(struct event_log *log, const char *name, const char *data, size_t n,
                   bool is_last);

/* Where the frame of event number `seq` begins, or will. */
size_t event_log_start(const struct event_log *log, uint64_t seq);

#endif
