/* The HTTP side of serverd-run: one request after the other on one connection (libcurl). SIGINT and
 * SIGTERM are blocked and come as events of a file descriptor, so that a request that is
 * interrupted ends where its caller can still tell the server. Proxies of the environment are
 * ignored. */
#ifndef TOOLS_RUN_PROGRAM_CONNECTION_H
#define TOOLS_RUN_PROGRAM_CONNECTION_H

#include "base/limits.h"
#include "serverd/status.h"

#include <jansson.h>
#include <stdbool.h>

/* Statuses with an exit code of their own (commands.h of this folder lists all). */
#define RUN_UNREACHABLE SERVERD_DEVICE_LOST /* no connection, or the server is full */
#define RUN_INTERRUPTED SERVERD_TIMEOUT     /* by a signal */
#define RUN_FAILED      SERVERD_CORRUPT     /* the program */

#define RUN_REPLY_LIMIT (256 * MIB) /* of a body, of an event: results of a batch are one */

struct connection;

struct reply {
    long http_status;
    json_t *body; /* NULL: it is no JSON. The caller's: json_decref */
};

/* An event of a stream; `name` is "" without one. The data stay the connection's. false ends the
 * request. */
typedef bool (*connection_event)(void *context, const char *name, const json_t *data);

/* `url` with or without /v1; `api_key` may be NULL. */
serverd_status connection_open(const char *url, const char *api_key, struct connection **out,
                               serverd_error *err);
void connection_close(struct connection *connection); /* NULL is fine */

/* Readable once a signal has come; see connection_interrupted. */
int connection_signal_fd(const struct connection *connection);
/* Whether a signal has come, ever. */
bool connection_interrupted(struct connection *connection);

/* `body` NULL: none. An HTTP status of any kind is a reply. */
serverd_status connection_ask(struct connection *connection, const char *method, const char *path,
                              const json_t *body, struct reply *out, serverd_error *err);

/* Posts; a reply that is an event stream goes to `on_event`, [DONE] left out, and leaves
 * out->body NULL. RUN_UNREACHABLE if the stream breaks off before its [DONE]. */
serverd_status connection_stream(struct connection *connection, const char *path,
                                 const json_t *body, connection_event on_event, void *context,
                                 struct reply *out, serverd_error *err);

/* The last word of a run that is interrupted: tries for some seconds, whatever signals come. */
void connection_tell(struct connection *connection, const char *method, const char *path);

#endif
