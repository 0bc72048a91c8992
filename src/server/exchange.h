/* One HTTP request and its reply, as an endpoint sees it. The endpoint runs on an HTTP thread
 * once the body is complete and ends with exactly one of exchange_reply, exchange_fail,
 * exchange_generate, exchange_inspect, exchange_run, exchange_run_with_data, exchange_follow,
 * exchange_attend, exchange_unload_adapter. It knows nothing of
 * libmicrohttpd, sockets or suspended connections. */
#ifndef SERVER_EXCHANGE_H
#define SERVER_EXCHANGE_H

#include "base/buffer.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/options.h"
#include "scheduler/engine.h"
#include "scheduler/request.h"
#include "server/api_error.h"
#include "text/chat_template.h"
#include "text/output_formats.h"
#include "text/tokenizer.h"

#include <jansson.h>

struct data_thread;
struct exchange;
struct file;

/* A loaded model and what serves it; immutable while it is published. */
struct served_model {
    const char *name;    /* id in the API */
    const char *path;    /* where it was loaded from; NULL: it is not told */
    const char *aliases; /* further ids, comma separated; NULL: none */
    int64_t created;     /* Unix seconds */
    struct program *program;
    struct tokenizer *tokenizer;
    struct chat_template *chat_template; /* NULL: a base model */
    const char *chat_template_source;
    struct output_formats output; /* how it writes calls and reasoning */
    struct engine *engine;
    uint32_t context_size;
    const char *device;
    char fingerprint[24]; /* "fp_..." */
};

/* What every endpoint may use. */
struct server_context {
    const struct options *options;
    const struct clock *clock;
    struct log *log;
    struct metrics *metrics;
};

const struct server_context *exchange_context(const struct exchange *x);

/* The model that the request names, as long as the exchange; never NULL in a route that needs one,
 * NULL in others. */
const struct served_model *exchange_model(const struct exchange *x);

/* Request: the whole body; the decoded rest of the path of a `{id}` route; a header's value or
 * NULL; the request's id as it stands in x-request-id; when its head arrived. */
const char *exchange_body(const struct exchange *x, size_t *n);
/* The body as a JSON object, json_decref it. False: *e says why. Once: it may have been parsed
 * before, to find the model, and is handed over. */
bool exchange_take_json(struct exchange *x, json_t **out, struct api_error *e);
const char *exchange_path_rest(const struct exchange *x);
const char *exchange_header(const struct exchange *x, const char *name);
const char *exchange_request_id(const struct exchange *x);
/* What the reply has to be called, if it has an id; "": what it likes. */
const char *exchange_reply_id(const struct exchange *x);
uint64_t exchange_arrival_ns(const struct exchange *x);

/* The id that the body gives the request, by which it can be cancelled; before it is handed on. One
 * that is too long is none. */
void exchange_set_body_id(struct exchange *x, const char *id);

/* A number of the query string, least..most; *value stays as it is if there is none of that name.
 * False: e says what is wrong with it. */
bool exchange_query_u32(const struct exchange *x, const char *name, uint32_t least, uint32_t most,
                        uint32_t *value, struct api_error *e);

/* A text of the query string, escapes decoded; "": there is none of that name. False: it is longer
 * than size - 1 bytes. */
bool exchange_query_text(const struct exchange *x, const char *name, char *out, size_t size);

/* A field that was ignored: reported in X-Serverd-Warning and counted. */
void exchange_ignored_field(struct exchange *x, const char *name);

/* Reply with a whole body; takes the buffer's bytes over. */
void exchange_reply(struct exchange *x, int status, const char *content_type, struct buffer *body);
void exchange_fail(struct exchange *x, const struct api_error *e);
/* In an encoder's on_end: the body is what the file holds, sent as it is read. Takes it over. */
void exchange_attach_file(struct exchange *x, const char *content_type, struct file *file);

/* Turns events into bytes of the reply. All calls come on HTTP threads, one at a time. For a
 * stream the bytes are SSE frames, sent as they come; else they are the body, sent after on_end. */
struct reply_encoder {
    /* An event of requests[user_index], EVENT_END included. It may take what the event owns by
     * setting the pointer to NULL; the rest is freed by the caller. NULL: only the end counts. */
    void (*on_event)(void *state, struct event *event, struct buffer *out);
    /* No event waits at the moment: what has gathered may be sent. NULL: nothing gathers. */
    void (*on_flush)(void *state, struct buffer *out);
    /* All requests have ended well. */
    void (*on_end)(void *state, struct buffer *out);
    /* A stream that has begun fails: the error frame and the end mark. NULL: it never is one, or
     * just ends. */
    void (*on_error)(void *state, const struct api_error *e, struct buffer *out);
    void (*destroy)(void *state);
    /* A request that another one cancelled ends well, too; EVENT_END says it. Else that is an
     * error.
     */
    bool shows_cancel;
    /* A stream's sign of life while nothing comes; NULL: a comment, ": ping"; "": none. */
    const char *ping;
};

/* Submit all requests (all or none) and reply with what the encoder makes of their events. If
 * the engine refuses, or a request fails before the first byte, the reply is that error. Takes
 * over the requests, the array (heap) and the encoder's state in every case. */
void exchange_generate(struct exchange *x, struct request **requests, uint32_t n_requests,
                       const struct reply_encoder *encoder, void *state, bool is_stream);

/* What has to be done to requests before they can be submitted, and takes long. */
struct exchange_preparation {
    /* On a job thread. False: *e is the reply. */
    bool (*prepare)(void *context, struct exchange *x, struct request **requests, uint32_t n,
                    struct api_error *e);
    void (*drop)(void *context); /* once, in every case */
    void *context;
};

/* exchange_generate behind a preparation. With LIMIT_SERVER_JOBS of them ahead the reply is 503. */
void exchange_generate_prepared(struct exchange *x, struct request **requests, uint32_t n_requests,
                                const struct exchange_preparation *preparation,
                                const struct reply_encoder *encoder, void *state, bool is_stream);

/* For what would keep the connections of an HTTP thread waiting: `run` is called on the server's
 * job thread, one job at a time, in order; false: *e says why. Then the reply is what the encoder
 * makes of the one EVENT_END, or that error. `run` has `state` for itself, and nothing else of the
 * exchange. Takes over the encoder's state in every case. With LIMIT_SERVER_JOBS jobs ahead the
 * reply is 503. */
void exchange_run(struct exchange *x,
                  bool (*run)(void *state, const struct served_model *model, struct api_error *e),
                  const struct reply_encoder *encoder, void *state);

/* The same on the thread that has files and batches (data_thread.h); without a --data-path the
 * reply is 501. */
void exchange_run_with_data(struct exchange *x,
                            bool (*run)(void *state, struct data_thread *data, struct api_error *e),
                            const struct reply_encoder *encoder, void *state);

/* Replies with a stream that comes from elsewhere: what the encoder makes of the events that are
 * handed over (exchange_deliver, and its worker is rung), the last of them one EVENT_END, which has
 * to come whatever happens. Takes over the encoder's state in every case. */
void exchange_follow(struct exchange *x, const struct reply_encoder *encoder, void *state);

/* The same for what may end before its time, and for replies that are no streams, whose bytes go
 * out behind the end. `leave` is called with the encoder's state, from any thread and maybe more
 * than once, when nobody will read the reply any more; the EVENT_END has to come all the same. */
void exchange_attend(struct exchange *x, const struct reply_encoder *encoder, void *state,
                     void (*leave)(void *state), bool is_stream);
/* In on_end of exchange_attend's encoder, or before its EVENT_END: the reply is this JSON instead,
 * taken over, unless a stream has begun. retry_after_ms: of 429 and 503. */
void exchange_set_result(struct exchange *x, int status, uint32_t retry_after_ms,
                         struct buffer *body);

/* Has the model's engine let an adapter go (scheduler/adapters.h); the reply is what the encoder
 * makes of the one EVENT_END. Takes over the encoder's state in every case. */
void exchange_unload_adapter(struct exchange *x, const char *name,
                             const struct reply_encoder *encoder, void *state);

/* Looks into the model's engine (scheduler/inspect.h; options->user is set here); the reply is what
 * the encoder makes of the one EVENT_END. Takes over the encoder's state in every case. */
void exchange_inspect(struct exchange *x, const struct inspection_options *options,
                      const struct reply_encoder *encoder, void *state);

#endif
