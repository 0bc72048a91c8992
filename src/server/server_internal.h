/* The edge's own types. One exchange is one HTTP request and its reply; it is shared by two
 * sides: the HTTP thread that serves its connection, and the engine's events, which come through
 * that thread's mailbox. `references` counts them; the last one frees. */
#ifndef SERVER_INTERNAL_H
#define SERVER_INTERNAL_H

#include "server/certificate.h"
#include "server/data/upload.h"
#include "server/detached.h"
#include "server/dialects/background.h"
#include "server/dialects/response_store.h"
#include "server/model_set_internal.h"
#include "server/programs/programs.h"
#include "server/rate_limit.h"
#include "server/server.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

enum route_scope {
    SCOPE_PUBLIC,  /* no key */
    SCOPE_ANY_KEY, /* a key of any scope */
    SCOPE_INFER,
    SCOPE_EMBED,
    SCOPE_BATCH,
    SCOPE_PROGRAMS,       /* to run programs */
    SCOPE_PROGRAMS_WRITE, /* to upload and remove them; administrators have it, too */
    SCOPE_METRICS,
    SCOPE_ADMIN
};
enum route_flags {
    NEEDS_MODEL = 1,
    JSON_BODY = 2,
    MAY_BE_EMPTY = 4,   /* with JSON_BODY: no body is fine, too */
    WHILE_DRAINING = 8, /* goes on when others get 503; looks at models, loads and keeps none */
    FORM_BODY = 16,     /* a file, as multipart/form-data */
};

struct route {
    const char *method, *path;
    void (*handler)(struct exchange *x);
    enum route_scope scope;
    unsigned flags;
};

/* ---- connections -------------------------------------------------------------------------------
 */

/* From accept to close. The timer thread may shut the socket down while `fd` is not -1. */
struct connection {
    struct connection *previous, *next;
    struct server *server;
    struct certificate *certificate; /* its own reference; NULL: no TLS */
    int fd;
    uint64_t opened_ns;
    uint64_t head_began_ns; /* of the request whose head is being read; 0: none */
    uint64_t idle_since_ns; /* the last reply was complete; 0: a request is being served */
    uint64_t body_began_ns; /* 0: no body is being read */
    uint64_t body_bytes;
};

/* ---- exchanges ---------------------------------------------------------------------------------
 */

enum exchange_phase {
    PHASE_HEAD,       /* not yet looked at */
    PHASE_BODY,       /* taking the body */
    PHASE_GENERATING, /* events come */
    PHASE_REPLIED     /* a whole reply is ready */
};

struct event_queue {
    struct event *items;
    size_t first, n, cap;
};

/* What the engine said of the exchange's requests, for the log. */
struct request_summary {
    uint64_t n_prompt, n_cached, n_output;
    uint64_t admitted_ns, first_token_ns, end_ns; /* the first two of the first, end of the last */
    bool has_finish, is_cancelled;
    enum finish_reason finish; /* of the last choice */
};

struct exchange {
    struct server *server;
    struct http_worker *worker; /* serves the connection; set once, at the request line */
    _Atomic uint32_t references;
    struct connection *connection;
    uint64_t number; /* never given twice */

    /* The request: HTTP thread only. */
    struct MHD_Connection *mhd;
    char *target; /* raw */
    size_t target_len;
    const char *target_at; /* where it stands in the library's buffer, for the byte check */
    const struct route *route;
    char *path_rest; /* decoded */
    struct buffer body;
    json_t *json; /* of the body, until its handler takes it; NULL: not parsed */
    const struct served_model *model; /* set before the handler is called */
    struct model_entry *model_entry;  /* of `model`, with a reference */
    bool is_counted;                  /* among those that await a model; under the set's mutex */
    size_t max_body;
    struct upload *upload; /* of a FORM_BODY, instead of `body`; NULL: it was refused */
    bool is_chunked, has_seen_head, is_dispatched, is_swallowing,
        is_last;              /* is_last: the connection ends */
    struct api_error refusal; /* http_status 0: none */
    uint64_t tenant;          /* from the API key's digest; 0 without keys */
    uint32_t weight;          /* of the key; 0 without keys */
    char key_name[LIMIT_KEY_NAME_BYTES + 1];
    struct rate_limit *limit; /* the key's; NULL: none. With a reference. */
    char allow[80];           /* of a 405 */
    uint64_t arrival_ns;
    char request_id[LIMIT_REQUEST_ID_BYTES + 1];
    char body_id[LIMIT_REQUEST_ID_BYTES + 1]; /* that its body gives it; "": none */
    bool is_admin;                            /* who asks may do what administrators may */
    struct buffer ignored_fields;
    enum exchange_phase phase;

    /* A whole reply. */
    int status;
    char content_type[64];
    struct buffer reply;
    struct file reply_file; /* the body instead, if fd is not -1 */
    uint32_t retry_after_ms;

    /* A generated reply. */
    struct reply_encoder encoder;
    void *encoder_state;
    bool is_stream, is_ended;
    _Atomic bool has_begun;     /* a stream's head is out */
    bool has_failed;            /* the encoder's error ends the reply */
    void (*leave)(void *state); /* exchange_attend's; NULL: none */
    uint64_t *request_ids;      /* with n_requests: written under `lock` */
    uint32_t n_requests, n_ended;
    _Atomic uint64_t last_write_ns;

    struct exchange_preparation preparation; /* while is_preparing, with the requests */
    struct request **prepared;
    uint32_t n_prepared;

    const char *busy_code; /* of an EVENT_END with SERVERD_BUSY; NULL: queue_timeout */

    struct api_error job_error; /* the job thread's, before its EVENT_END; http_status 0: none */
    int own_status;             /* exchange_set_result; 0: there is none */
    struct buffer own_body;

    uint64_t end_ns; /* the connection was done with it; 0: it was never served */

    /* Of one without a connection (detached.h): the worker is the server's `detached`. */
    bool is_detached;
    struct detached_sink sink;
    struct exchange *next_ready; /* under the worker's mailbox_lock */
    int32_t max_priority;        /* of its requests */
    char reply_id[64];           /* "": a reply may choose its own */

    /* Between the two sides, under `lock`. */
    pthread_mutex_t lock;
    struct event_queue queue;
    struct request_summary summary;
    bool is_suspended, is_gone, is_aborted, needs_ping, is_preparing;
    bool is_cancelled;     /* by another request: what runs for it ends */
    bool is_awaiting;      /* its model is being loaded */
    uint32_t n_open;       /* requests whose END has not come from the engine */
    uint64_t n_reserved;   /* tokens of the key's limit that are not settled yet */
    _Atomic bool has_lost; /* there was no memory for an event */

    struct exchange *previous_live, *next_live; /* under server->lock */
    /* Under server->lock: others may look at its ids and its tenant, which stay as they are. */
    bool may_be_cancelled;
};

struct exchange *exchange_create(struct server *server);
void exchange_unref(struct exchange *x);
/* Takes the event over; wakes the connection if that is worth it. */
void exchange_deliver(struct exchange *x, const struct event *event);
/* Wakes a suspended connection; under x->lock. Other threads than the worker's ring then. */
void exchange_wake(struct exchange *x);
/* Under x->lock: nothing has come since the queue was looked at. */
bool exchange_may_sleep(const struct exchange *x);
void exchange_make_request_id(struct exchange *x);
/* The reply ends with an error as soon as its thread looks at it. */
void exchange_abort(struct exchange *x);
/* The same if something runs for it, which is cancelled. */
void exchange_end(struct exchange *x);
/* Ends what runs for those whose request id, or the id in their body, is this one (NULL: for all),
 * of this tenant unless any_tenant; returns for how many. Detached ones are not meant. */
uint32_t exchange_cancel_others(struct server *server, const char *id, uint64_t tenant,
                                bool any_tenant);
/* The client is gone: cancels what still runs. */
void exchange_abandon(struct exchange *x);
/* HTTP thread: encodes what has come. Returns true if there is something to send or the end. */
bool exchange_advance(struct exchange *x);
/* Under no lock: fails the exchange with an error (whole reply, or the stream's error frame). */
void exchange_set_error(struct exchange *x, const struct api_error *e);

/* ---- HTTP threads ------------------------------------------------------------------------------
 */

/* One thread, with a daemon of the library that it runs, and the events for its exchanges. Without
 * a daemon it serves detached exchanges. */
struct http_worker {
    struct server *server;
    struct MHD_Daemon *daemon;
    pthread_t thread;
    bool has_thread;
    int listen_fd; /* after quiesce, to be closed; its thread's */
    int wake_fd;   /* eventfd: written once for all mail of an engine's step */
    atomic_bool has_mail, is_stopping, asks_quiesce;

    pthread_mutex_t dispatch_lock; /* one delivery at a time keeps the order of events */
    struct event_queue dispatched;
    pthread_mutex_t mailbox_lock;
    struct event_queue mailbox;
    struct exchange *first_ready, *last_ready; /* detached ones that have something to do */
};

/* ---- the job thread ----------------------------------------------------------------------------
 */

struct server_job {
    struct exchange *x; /* with a reference */
    bool (*run)(void *state, const struct served_model *model, struct api_error *e);
    /* Instead of `run`: ends the exchange's share, too. */
    void (*work)(struct exchange *x, bool is_stopping);
};

/* What takes too long for HTTP threads, one job at a time. */
struct job_thread {
    struct server *server;
    pthread_t thread;
    bool has_thread;

    pthread_mutex_t mutex; /* of all below */
    pthread_cond_t has_changed;
    bool is_stopping;
    struct server_job jobs[LIMIT_SERVER_JOBS]; /* a ring; the first one is being done */
    uint32_t first, n;
};

/* ---- the server --------------------------------------------------------------------------------
 */

struct api_key {
    uint8_t digest[32]; /* SHA-256 */
    char name[LIMIT_KEY_NAME_BYTES + 1];
    uint32_t weight;              /* its share of a busy engine, beside other keys */
    unsigned scopes;              /* 1 << enum route_scope */
    uint32_t per_minute[N_RATES]; /* 0: no limit */
    struct rate_limit *limit;     /* NULL: it has none */
};

struct key_set {
    _Atomic uint32_t references;
    uint32_t n;
    struct api_key keys[];
};

struct server {
    struct server_context context;
    const char *commit; /* of the sources */

    struct http_worker *workers;
    uint32_t n_workers;
    uint16_t port;
    bool checks_bytes; /* the library is of a version whose parser is known */
    bool is_local;     /* listens on a loopback address */
    struct response_store responses;
    struct background_set background;
    struct model_set models;
    int hangup_fd; /* epoll set of the sockets of waiting exchanges */

    pthread_mutex_t
        lock; /* connections, live exchanges, keys, certificate; taken before an exchange's lock */
    struct connection *connections;
    _Atomic uint32_t n_connections;
    uint64_t n_exchanges; /* that there have ever been */
    struct exchange *live;
    uint32_t n_live;
    struct key_set *keys;
    struct certificate *certificate; /* of new connections; NULL: no TLS, ever */
    struct job_thread jobs;
    struct job_thread compilers; /* of grammars */
    struct http_worker detached; /* serves exchanges without a connection */
    struct data_thread *data;    /* NULL: there are no files and batches */
    struct programs *programs;   /* generation programs; NULL only before they are made */

    _Atomic bool is_draining, has_failed; /* is_draining: no new requests */
    bool is_ending;                       /* for good; under `lock` */
    uint64_t ticked_ns;                   /* when server_tick last was here */
    uint64_t drain_until_ns; /* then what still runs is ended, 0: nothing is; under `lock` */
    _Atomic bool is_probing; /* /health_generate */
    _Atomic uint32_t progress_permille;
    _Atomic uint32_t n_streams;
    uint64_t started_ns;
    int64_t created; /* the same in Unix seconds, for models that are not loaded */
};

/* http.c */
serverd_status http_start(struct server *server, serverd_error *err);
void http_quiesce(struct server *server); /* no new connections, as soon as its threads see it */
void http_stop(struct server *server);
/* 503 as the refusal of an exchange whose route needs a model, if there is none for it. */
void request_refuse_without_model(struct exchange *x);

/* detached.c */
void detached_attend(struct exchange *x); /* its thread: what there is to do for it */
/* The thread has ended: what is left ends, too. */
void detached_end_all(struct server *server);

/* worker.c */
void worker_init(struct http_worker *worker, struct server *server);
serverd_status worker_start(struct http_worker *worker, serverd_error *err); /* with its daemon */
void worker_quiesce(struct http_worker *worker);
void worker_stop(struct http_worker *worker);   /* joins the thread */
void worker_deinit(struct http_worker *worker); /* events that nobody took are freed */
/* Puts an event into the mailbox; false without memory. worker_wake when all have been put. */
bool worker_post(struct http_worker *worker, const struct event *event);
void worker_wake(struct http_worker *worker);
/* Its thread looks at mail and resumed connections now: for other threads that resume one. */
void worker_ring(struct http_worker *worker);
/* Delivers the mailbox: the worker's own thread, and whoever ends the server. */
void worker_dispatch(struct http_worker *worker);
/* A detached exchange goes on at the next ring; it must not be in that list. */
void worker_put_ready(struct http_worker *worker, struct exchange *x);

/* job_thread.c: each job that is taken ends in one EVENT_END, which this is. */
void server_end_job(struct server *server, struct exchange *x, serverd_status status);
void job_thread_init(struct job_thread *jobs, struct server *server);
serverd_status job_thread_start(struct job_thread *jobs, serverd_error *err);
bool job_thread_put(struct job_thread *jobs, const struct server_job *job); /* false: full */
uint32_t job_thread_n_jobs(struct job_thread *jobs); /* the one that is being done, too */
/* Ends after the present job; those behind it fail. New ones are not taken. */
void job_thread_stop(struct job_thread *jobs);
void job_thread_deinit(struct job_thread *jobs);

/* route.c: the route of a decoded path, or the refusal. */
bool route_find(struct exchange *x, const char *method);

/* Decodes the escapes of a part of the target; the policy has refused bad ones and %00. Returns its
 * length, which is n at most. */
size_t route_decode(const char *from, size_t n, char *out);

/* model_choice.c */
enum model_choice {
    MODEL_CHOSEN,
    MODEL_REFUSED, /* the reply is an error */
    MODEL_AWAITED  /* it is not loaded: call again once x->is_awaiting is false */
};
/* Before a handler is called: finds the model that the request names, which exchange_model has from
 * then on, for as long as the exchange lives. */
enum model_choice exchange_choose_model(struct exchange *x);
/* For a handler whose route is WHILE_DRAINING and needs no model: the exchange has the first that
 * is loaded from then on; false: there is none. */
bool exchange_look_at_model(struct exchange *x);
void exchange_leave_model(struct exchange *x); /* the last reference does that */
/* Grammars that were compiled for the exchange's model. */
struct grammar_cache *exchange_grammars(const struct exchange *x);

/* key_file.c */
serverd_status key_set_read(const char *path, struct key_set **out, serverd_error *err);
/* Gives keys their rate limits, those of the old set (may be NULL) with what was used of them. */
serverd_status key_set_limit(struct key_set *keys, const struct key_set *old, uint64_t now_ns,
                             serverd_error *err);
void key_set_unref(struct key_set *keys);

/* auth.c */
/* The error of an exchange whose key has to wait, which is counted. */
void auth_refuse_rate(struct exchange *x, enum rate rate, uint32_t wait_ms, struct api_error *e);
/* True if the exchange may use its route; else x->refusal is set. */
bool auth_check(struct exchange *x);
/* The same for a request from inside that a key's owner has a right to; is_counted: the key's limit
 * of requests has it already. */
bool auth_check_owner(struct exchange *x, uint64_t tenant, bool is_counted);

/* cors.c: the Access-Control headers of a reply; true if the origin is one of the allowed. */
bool cors_add_headers(const struct exchange *x, struct MHD_Response *response);
bool cors_is_configured(const struct server *server);
bool cors_is_allowed(const struct exchange *x); /* it names an allowed origin */

/* reply_headers.c: headers that every reply has. */
void reply_headers_add(struct exchange *x, struct MHD_Response *response);

/* request_log.c: one line for each request that has ended, and the counters of requests. */
void request_summary_add(struct request_summary *summary, const struct event *event);
/* Milliseconds that it waited for its place, computed its prompt, and generated. */
struct request_durations {
    double queue, prefill, decode;
};
struct request_durations request_summary_durations(const struct request_summary *summary,
                                                   uint64_t arrival_ns);
void request_log_write(const struct exchange *x); /* both sides are done with it */
void request_count(struct exchange *x);           /* its reply has ended */

/* server.c: the list of exchanges that are served; the one of a number, with a reference, or NULL.
 */
void server_add_live(struct exchange *x);
void server_remove_live(struct exchange *x);
struct exchange *server_find_live(struct server *server, uint64_t number);
/* Events into the mailboxes of their exchanges' threads. */
void server_put_events(struct server *server, const struct event *events, uint32_t n);
/* Exchanges that await a model look again: a load has ended, or a drain or a tick wants them to see
 * whether they still wait for something, and still may. */
void server_wake_awaiting(struct server *server);
/* No new requests for now; the waiting ones get 503, and what still runs after the timeout is
 * ended. */
void server_pause(struct server *server, uint64_t timeout_ns);
/* Takes that back; false: the server is ending. */
bool server_resume(struct server *server);

/* health.c */
double server_heartbeat_age(struct server *server);

void event_free(struct event *event);
bool event_queue_push(struct event_queue *queue, const struct event *event);
void event_queue_deinit(struct event_queue *queue);

#endif
