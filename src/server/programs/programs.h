/* Generation programs at the edge: their folder, uploads and runs (frontend_dsl/service.h), made
 * with the server. A thread of its own looks at the folder; the service has its workers. */
#ifndef SERVER_PROGRAMS_PROGRAMS_H
#define SERVER_PROGRAMS_PROGRAMS_H

#include "serverd/status.h"

#include <stdint.h>

struct programs;
struct server;

/* Reads the folder once before it returns. */
serverd_status programs_create(struct server *server, struct programs **out, serverd_error *err);

/* All runs end and those that follow them hear of it; no new ones begin. Engines go on, or have
 * ended their requests. NULL is fine, here and below. */
void programs_stop(struct programs *programs);
/* Nobody follows a run any more. */
void programs_destroy(struct programs *programs);

/* Events of a step may be handed to runs soon: see dsl_service_expect. */
void programs_expect(struct programs *programs);

/* Events were handed to runs (dsl_run_post): they go on. */
void programs_kick(struct programs *programs);
void programs_tick(struct programs *programs); /* a few times a second */
uint32_t programs_n_open(struct programs *programs);

#endif
