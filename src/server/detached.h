/* Requests that come from inside: an endpoint is called as if a client had asked, without a
 * connection. The endpoint does not notice. Batches run their lines so; whatever has to outlive its
 * connection can, too: what is streamed goes to a callback, frame by frame as a client would get
 * it, pings left out.
 *
 * All of a request, the endpoint's handler too, runs on one thread of its own, which serves no
 * connections, so that long bodies delay nobody. Any thread may submit and cancel. */
#ifndef SERVER_DETACHED_H
#define SERVER_DETACHED_H

#include "server/server.h"

/* Valid during the call that hands it over. */
struct detached_result {
    int status;        /* of HTTP; 0: it was cancelled, or the server ended before it did */
    const char *bytes; /* the body, NUL-terminated; of a stream that has begun what is left: none */
    size_t n;
    const char *request_id;  /* as x-request-id would have it */
    uint32_t retry_after_ms; /* of 429 and 503, if known */
    bool has_failed;         /* a stream of status 200 ended with an error's frame */
};

/* Calls come one at a time on the thread of detached requests, never out of detached_submit. They
 * must not block; they may submit and cancel others. */
struct detached_sink {
    /* A piece of a stream, whole frames. NULL: a request to stream is refused with 400. */
    void (*on_frames)(void *context, const char *bytes, size_t n);
    /* Once for each request, the last call of it. */
    void (*on_end)(void *context, const struct detached_result *result);
    void *context;
};

struct detached_request {
    const char *method, *path; /* of routes.def */
    const char *body;          /* copied; at most --max-body, else 413 */
    size_t n_body;
    /* Whose it is, as exchange->tenant said when it was decided to run it. If there is no such key
     * any more the reply is 401. The key's limits count; its scopes are the caller's affair. */
    uint64_t tenant;
    const char *reply_id; /* what the reply is called, where it has an id; NULL: as it likes */
    bool is_counted;      /* the key's limit of requests has it already */
    int32_t max_priority; /* what the body asks for beyond that is cut; INT32_MAX: nothing is */
    struct detached_sink sink;
};

/* The request's number, for detached_cancel; 0: there is no memory, and no call will come. How many
 * there are at once is the caller's to bound. */
uint64_t detached_submit(struct server *server, const struct detached_request *request);

/* It ends soon, with status 0 unless it just has ended. An unknown number is ignored. */
void detached_cancel(struct server *server, uint64_t number);

#endif
