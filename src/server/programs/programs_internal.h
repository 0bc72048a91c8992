/* What the files of this folder share. */
#ifndef SERVER_PROGRAMS_PROGRAMS_INTERNAL_H
#define SERVER_PROGRAMS_PROGRAMS_INTERNAL_H

#include "frontend_dsl/service.h"
#include "frontend_dsl/store.h"
#include "server/programs/programs.h"
#include "server/server_internal.h"

struct programs {
    struct server *server;
    struct dsl_store *store;
    struct dsl_service *service;
    struct dsl_limits limits; /* of the options */

    pthread_t thread; /* looks at the folder */
    bool has_thread;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t has_changed;
    bool is_stopping;
};

/* ---- errors (program_error.c) ------------------------------------------------------------------
 */

/* A reply that is an error: its status and the envelope's body. */
struct program_error {
    int status;
    uint32_t retry_after_ms;
    struct buffer body; /* its maker's to hand over or to free */
};

/* One of section "errors" of the API: program_not_found, run_not_found, tool_call_not_pending, and
 * what programs and arguments are refused with. param, program, run: NULL: null. */
void program_error_set(struct program_error *e, const char *code, const char *param,
                       const char *program, const char *run, const char *format, ...)
    __attribute__((format(printf, 6, 7)));
/* Why a program's text or arguments were refused: 400, or 422 if it failed as a run would. */
void program_error_from(struct program_error *e, const struct dsl_error *error,
                        const char *program);
/* Why a run failed, as its object says: 422; was_refused: as above. */
void program_error_of_run(struct program_error *e, const json_t *failure, bool was_refused,
                          const char *program, const char *run);
/* The server's own words. */
void program_error_of_server(struct program_error *e, const struct api_error *error);

/* The reply of a handler; frees the body. */
void program_fail(struct exchange *x, struct program_error *e);

/* ---- bodies (run_body.c) -----------------------------------------------------------------------
 */

/* What a request to run asks for. */
struct run_body {
    json_t *root;  /* its own reference */
    json_t *items; /* an array of {args, seed, id}, its own reference */
    bool is_batch, is_stream, is_background, has_text, has_trace, stops_on_error;
    bool has_seed;
    uint64_t seed;
    uint32_t max_parallel;
    int32_t priority;
    const char *cache_salt, *model; /* in root, or NULL */
    const json_t *sampling;         /* in root, or NULL */
    struct dsl_limits limits;       /* the server's, lowered */
    const char **streamed;          /* [n_streamed] names in root; heap */
    uint32_t n_streamed;
    bool streams_none; /* no variable is streamed */
};

/* Takes root over in every case. False: *e, and there is nothing to release. */
bool run_body_read(struct exchange *x, json_t *root, bool is_batch, struct run_body *out,
                   struct api_error *e);
void run_body_release(struct run_body *body);

/* Whether each item's arguments are those that the program declares. False: *e. */
bool run_body_check_args(const struct run_body *body, const struct dsl_program *program,
                         struct program_error *e);

/* ---- runs (run_start.c, run_reply.c) -----------------------------------------------------------
 */

/* Begins a run of the program for the exchange's key and model. NULL: *e. Takes nothing over. Any
 * thread, while the exchange lives. */
struct dsl_job *run_start(struct exchange *x, struct dsl_program *program, const char *name,
                          const struct run_body *body, struct program_error *e);

/* How a job is replied. */
struct run_reply_options {
    bool is_stream;
    bool is_binding; /* who leaves cancels */
    bool is_object;  /* a failure is no error: the object says it */
    uint64_t from;   /* of a stream: the first event */
};
/* Replies with a job when it rests or ends; takes the reference over. */
void run_reply(struct exchange *x, struct dsl_job *job, const struct run_reply_options *options);

/* The same for what has to be done on a worker first: `begin` is called there, once, and gives the
 * job, or NULL: *e is the reply, status 2xx included. `state` is freed by `drop`, once. */
struct run_errand {
    struct dsl_job *(*begin)(void *state, struct exchange *x, struct program_error *e);
    void (*drop)(void *state);
    void *state;
};
void run_reply_after(struct exchange *x, const struct run_errand *errand,
                     const struct run_reply_options *options);

/* The job's object at once. */
void run_reply_now(struct exchange *x, struct dsl_job *job, int status);

/* "append": what a new turn changes lies behind the old ones; "rewrite": it may not; NULL: the
 * model has no template, or one that takes no plain conversation. (template_mode.c) */
const char *program_template_mode(const struct exchange *x, const struct served_model *model);

static inline struct programs *programs_of(const struct exchange *x)
{
    return x->server->programs;
}

#endif
