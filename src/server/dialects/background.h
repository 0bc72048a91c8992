/* Responses that are made while nobody waits: a detached request (detached.h) makes one, what it
 * streams is kept, and exchanges may look at how far it has come, follow its stream, or end it.
 * Finished ones stay in the store of responses; their streams stay here, until newer ones need the
 * room. Any thread. */
#ifndef SERVER_DIALECTS_BACKGROUND_H
#define SERVER_DIALECTS_BACKGROUND_H

#include "server/exchange.h"

#include <pthread.h>

struct background;

struct background_set {
    pthread_mutex_t lock;
    struct background *first, *last; /* oldest first */
    uint32_t n, n_running;
};

void background_set_init(struct background_set *set);
/* Nothing runs any more. */
void background_set_deinit(struct background_set *set);

/* Runs a body of POST /v1/responses, which streams, for the key of the exchange; `queued` is the
 * response as it is before it has begun, with that id. False: *e. */
bool background_start(struct exchange *x, const char *id, const struct buffer *body,
                      const struct buffer *queued, struct api_error *e);

/* The response as it is now, if it has not ended well: then it is in the store. False: there is
 * none, or it is another key's. */
bool background_look(struct exchange *x, const char *id, struct buffer *out);

/* Replies with its events behind number `after` (-1: all), those that will come, too. False: there
 * is no such stream. */
bool background_follow(struct exchange *x, const char *id, int64_t after, struct api_error *e);

/* It ends soon. False: there is none. One that has ended stays as it is. */
bool background_cancel(struct exchange *x, const char *id);

/* The same, and nobody finds it any more, but those who follow it now. */
bool background_forget(struct exchange *x, const char *id);

#endif
