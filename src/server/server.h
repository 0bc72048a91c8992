/* The HTTP edge: listens, authorises, parses, replies. Made by tools/daemon, whose loop calls
 * server_tick. The engine's events go straight to the HTTP threads, one wake for each that a
 * step has something for. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "server/exchange.h"
#include "server/model_set.h"

struct server;

struct server_options {
    struct server_context context; /* outlives the server */
    /* Of files and batches; NULL: there are none. If it cannot be opened the server does without
     * it, unless the options name it. */
    const char *data_folder;
    /* The models that can be loaded, the default first; none: one is published. */
    const struct model_config *models;
    uint32_t n_models;
    struct model_opener opener;
    const char *commit; /* of the sources, for /version; NULL: unknown */
};

/* Reads the key file and the certificate, binds and listens; replies 503 to what needs a model
 * until one is set. */
serverd_status server_create(const struct server_options *options, struct server **out,
                             serverd_error *err);
uint16_t server_port(const struct server *server);
uint32_t server_n_keys(const struct server *server);

/* Where the engine's events go. */
struct event_sink server_event_sink(struct server *server);

/* Begins to load models, the default first; the others when requests ask for them. */
serverd_status server_start_models(struct server *server, serverd_error *err);
/* Ends what engines run; after it their last events are out, and no model comes any more. False:
 * one is being loaded, which nobody can stop: then call server_end_requests, and end the process.
 */
bool server_stop_models(struct server *server);

/* A model that has appeared while the server runs; whether what one is made of is there, which
 * decides if requests find it. Any thread. */
serverd_status server_add_model(struct server *server, const struct model_config *config,
                                serverd_error *err);
void server_mark_model(struct server *server, const char *name, bool is_there);

void server_set_progress(struct server *server, double share); /* of loading the default, 0..1 */
/* A model that the caller has opened, and closes after the server. */
void server_publish(struct server *server, const struct served_model *model);
/* The only model could not be loaded: 503 model_unavailable. */
void server_set_failed(struct server *server);

/* All engines move; false before the first load has ended, too. */
bool server_is_healthy(struct server *server);

/* Loop thread, a few times a second: time-outs, hang-ups, gauges. */
void server_tick(struct server *server);

/* Readable when a client that waits has hung up; then call server_check_hangups. */
int server_hangup_fd(const struct server *server);
void server_check_hangups(struct server *server);

/* Reads the key file again; a broken file leaves the old keys. Any thread. */
serverd_status server_reload_keys(struct server *server, serverd_error *err);

/* The same with the certificate, for new connections. */
serverd_status server_reload_certificate(struct server *server, serverd_error *err);
bool server_has_tls(const struct server *server);

/* Stop accepting; /ready turns 503. Then wait until server_n_active is 0 or time is up. */
void server_drain(struct server *server);
uint32_t server_n_active(const struct server *server);
/* Replies that are not complete end; engines must have stopped. */
void server_end_requests(struct server *server);
/* Ends what is left and closes the models; engines must have stopped. */
void server_destroy(struct server *server);

#endif
