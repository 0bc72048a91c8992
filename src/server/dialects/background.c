#include "server/dialects/background.h"

#include "base/numeric.h"
#include "server/server_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_FRAMES (64 * MIB) /* of one stream; beyond it the response ends */

enum background_state { BACKGROUND_QUEUED, BACKGROUND_RUNNING, BACKGROUND_ENDED };

/* References: the set's while it is in there, the detached request's until its end, and one of each
 * follower. All is under the set's lock, but for what never changes. */
struct background {
    struct background *next;
    struct server *server;
    char id[64];
    uint64_t tenant;
    uint32_t references;
    enum background_state state;
    uint64_t number;            /* of the detached request */
    bool is_cancelled;          /* by a client */
    bool is_in_store;           /* it ended well: the store of responses has it */
    struct buffer before, rest; /* the object around its status and error */
    char *failure;              /* the error's JSON; NULL: null */
    uint64_t expires_ns;        /* of one that has ended */
    struct buffer frames;
    struct exchange *followers[LIMIT_FOLLOWERS];
    uint32_t n_followers;
};

void background_set_init(struct background_set *set)
{
    *set = (struct background_set){0};
    (void)pthread_mutex_init(&set->lock, NULL);
}

/* Under the lock, or nobody else is left. */
static void unref(struct background *b)
{
    if (--b->references > 0)
        return;
    buffer_deinit(&b->before);
    buffer_deinit(&b->rest);
    buffer_deinit(&b->frames);
    free(b->failure);
    free(b);
}

static void drop_first(struct background_set *set)
{
    struct background *b = set->first;
    set->first = b->next;
    if (!set->first)
        set->last = NULL;
    set->n--;
    unref(b);
}

void background_set_deinit(struct background_set *set)
{
    while (set->first)
        drop_first(set);
    (void)pthread_mutex_destroy(&set->lock);
}

static struct background_set *set_of(const struct background *b)
{
    return &b->server->background;
}

static uint64_t now_ns(const struct server *server)
{
    return clock_now_ns(server->context.clock);
}

static bool is_over(const struct background *b)
{
    return b->state == BACKGROUND_ENDED && now_ns(b->server) >= b->expires_ns;
}

/* Under the lock; the key has to be the same one. */
static struct background *find(struct exchange *x, const char *id)
{
    struct background *b = x->server->background.first;
    while (b && (strcmp(b->id, id) != 0 || b->tenant != x->tenant))
        b = b->next;
    return b && !is_over(b) ? b : NULL;
}

/* ---- the object ---- */

/* It is queued, and there is no error in it yet. */
static bool cut_object(struct background *b, const struct buffer *queued)
{
    static const char status[] = "\"status\":\"queued\",\"error\":null";
    const char *at = strstr(buffer_str(queued), status);
    if (!at)
        return false;
    buffer_append(&b->before, queued->data, (size_t)(at - queued->data));
    buffer_append_str(&b->rest, at + sizeof status - 1);
    return !b->before.is_failed && !b->rest.is_failed;
}

static const char *status_of(const struct background *b)
{
    if (b->is_cancelled)
        return "cancelled";
    if (b->state == BACKGROUND_QUEUED)
        return "queued";
    if (b->state == BACKGROUND_RUNNING)
        return "in_progress";
    return "failed";
}

static void write_object(const struct background *b, struct buffer *out)
{
    buffer_append(out, buffer_str(&b->before), b->before.len);
    buffer_printf(out, "\"status\":\"%s\",\"error\":", status_of(b));
    buffer_append_str(out, b->failure ? b->failure : "null");
    buffer_append(out, buffer_str(&b->rest), b->rest.len);
}

/* ---- followers ---- */

static void tell(struct exchange *x, enum event_kind kind)
{
    const struct event event = {
        .kind = kind, .user = x, .token = -1, .stop_token = -1, .stop_index = -1};
    struct http_worker *worker = x->worker; /* the exchange may go with its end */
    exchange_deliver(x, &event);
    if (worker)
        worker_ring(worker);
}

/* What one exchange has of the stream; under the set's lock. */
struct follower {
    struct background *background;
    size_t n_taken;
};

static void on_event(void *state, struct event *event, struct buffer *out)
{
    struct follower *f = state;
    struct background *b = f->background;
    struct background_set *set = set_of(b);
    (void)event; /* it says that there is something, or an end */
    (void)pthread_mutex_lock(&set->lock);
    if (b->frames.len > f->n_taken)
        buffer_append(out, b->frames.data + f->n_taken, b->frames.len - f->n_taken);
    f->n_taken = b->frames.len;
    (void)pthread_mutex_unlock(&set->lock);
}

static void on_follower_end(void *state, struct buffer *out)
{
    (void)state; /* the last frame is the response's own */
    (void)out;
}

static void drop_follower(void *state)
{
    struct follower *f = state;
    struct background_set *set = set_of(f->background);
    (void)pthread_mutex_lock(&set->lock);
    unref(f->background);
    (void)pthread_mutex_unlock(&set->lock);
    free(f);
}

static const struct reply_encoder follower_encoder = {
    .on_event = on_event, .on_end = on_follower_end, .destroy = drop_follower};

/* Where the first event behind number `after` begins. */
static size_t find_event(const struct buffer *frames, int64_t after)
{
    static const char number[] = "\"sequence_number\":";
    const char *text = buffer_str(frames), *at = text;
    while (*at) {
        const char *value = strstr(at, number), *end = strstr(at, "\n\n");
        if (!value || !end || strtoll(value + sizeof number - 1, NULL, 10) > after)
            break;
        at = end + 2;
    }
    return (size_t)(at - text);
}

bool background_follow(struct exchange *x, const char *id, int64_t after, struct api_error *e)
{
    struct background_set *set = &x->server->background;
    struct follower *f = calloc(1, sizeof *f);
    bool is_followed = false, has_ended = false;
    api_error_set(e, "not_found", NULL, "There is no stream of a response with the id %.64s.", id);
    (void)pthread_mutex_lock(&set->lock);
    struct background *b = f ? find(x, id) : NULL;
    if (b && b->state != BACKGROUND_ENDED && b->n_followers == LIMIT_FOLLOWERS) {
        api_error_set(e, "rate_limit_exceeded", NULL,
                      "%u streams of this response are open. Please try again in 1s.",
                      LIMIT_FOLLOWERS);
    } else if (b) {
        *f = (struct follower){b, find_event(&b->frames, after)};
        b->references++;
        has_ended = b->state == BACKGROUND_ENDED;
        is_followed = true;
        exchange_follow(x, &follower_encoder, f);
        if (!has_ended && x->phase == PHASE_GENERATING)
            b->followers[b->n_followers++] = x;
    }
    (void)pthread_mutex_unlock(&set->lock);
    if (!is_followed)
        free(f);
    else if (x->phase == PHASE_GENERATING)
        tell(x, has_ended ? EVENT_END : EVENT_TOKEN);
    return is_followed;
}

/* ---- the detached request: its thread ---- */

static bool has_left(struct exchange *x)
{
    (void)pthread_mutex_lock(&x->lock);
    const bool has_left = x->is_gone;
    (void)pthread_mutex_unlock(&x->lock);
    return has_left;
}

/* Takes those who have left out of the list, under the lock; returns how many there are in out. */
static uint32_t take_left(struct background *b, struct exchange *out[LIMIT_FOLLOWERS])
{
    uint32_t n = 0, n_left = 0;
    for (uint32_t i = 0; i < b->n_followers; i++) {
        if (has_left(b->followers[i]))
            out[n_left++] = b->followers[i];
        else
            b->followers[n++] = b->followers[i];
    }
    b->n_followers = n;
    return n_left;
}

static void on_frames(void *context, const char *bytes, size_t n)
{
    struct background *b = context;
    struct exchange *followers[LIMIT_FOLLOWERS], *left[LIMIT_FOLLOWERS];
    (void)pthread_mutex_lock(&set_of(b)->lock);
    b->state = BACKGROUND_RUNNING;
    buffer_append(&b->frames, bytes, n);
    bool is_too_long = b->frames.is_failed;
    const uint32_t n_left = take_left(b, left), n_followers = b->n_followers;
    memcpy(followers, b->followers, n_followers * sizeof *followers);
    (void)pthread_mutex_unlock(&set_of(b)->lock);
    for (uint32_t i = 0; i < n_left; i++)
        tell(left[i], EVENT_END);
    for (uint32_t i = 0; i < n_followers; i++) /* none of them ends but on this thread */
        tell(followers[i], EVENT_TOKEN);
    if (is_too_long)
        detached_cancel(b->server, b->number);
}

/* A stream that says nothing of its end ends with this. */
static void add_last_event(struct background *b)
{
    int64_t number = -1;
    for (const char *at = buffer_str(&b->frames);
         (at = strstr(at, "data: {\"type\":\"response.")) != NULL; at++)
        number++; /* they are counted from 0 */
    buffer_printf(&b->frames,
                  "event: response.failed\ndata: {\"type\":\"response.failed\","
                  "\"sequence_number\":%" PRId64 ",\"response\":",
                  number + 1);
    write_object(b, &b->frames);
    buffer_append_str(&b->frames, "}\n\n");
}

/* The error of a reply, as the object has it. */
static char *failure_of(const struct detached_result *result)
{
    json_t *root = json_loadb(result->bytes, result->n, JSON_ALLOW_NUL, NULL);
    const json_t *text = json_object_get(json_object_get(root, "error"), "message");
    json_t *error = json_pack("{s:s,s:s}", "code", "server_error", "message",
                              json_is_string(text) ? json_string_value(text)
                                                   : "The response could not be made.");
    char *out = json_dumps(error, JSON_COMPACT);
    json_decref(error);
    json_decref(root);
    return out;
}

static void on_end(void *context, const struct detached_result *result)
{
    struct background *b = context;
    struct background_set *set = set_of(b);
    struct exchange *followers[LIMIT_FOLLOWERS];
    (void)pthread_mutex_lock(&set->lock);
    b->state = BACKGROUND_ENDED;
    b->expires_ns = now_ns(b->server) + (uint64_t)(b->server->context.options->response_ttl * 1e9);
    b->is_in_store = result->status == 200 && !result->has_failed;
    b->is_cancelled = b->is_cancelled && !b->is_in_store;
    if (!b->is_in_store && !b->is_cancelled)
        b->failure = failure_of(result);
    if (!b->is_in_store && !result->has_failed)
        add_last_event(b);
    uint32_t n_followers = b->n_followers;
    memcpy(followers, b->followers, n_followers * sizeof *followers);
    b->n_followers = 0;
    set->n_running--;
    (void)pthread_mutex_unlock(&set->lock);
    for (uint32_t i = 0; i < n_followers; i++)
        tell(followers[i], EVENT_END);
    (void)pthread_mutex_lock(&set->lock);
    unref(b);
    (void)pthread_mutex_unlock(&set->lock);
}

/* ---- any thread ---- */

static struct background *create(struct exchange *x, const char *id, const struct buffer *queued)
{
    struct background *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->server = x->server;
    b->tenant = x->tenant;
    b->references = 2; /* the set's and the request's */
    (void)snprintf(b->id, sizeof b->id, "%s", id);
    buffer_init(&b->before, LIMIT_FRAMES);
    buffer_init(&b->rest, LIMIT_FRAMES);
    buffer_init(&b->frames, LIMIT_FRAMES);
    if (cut_object(b, queued))
        return b;
    b->references = 1;
    unref(b);
    return NULL;
}

/* Puts it into the set. False: too many run. */
static bool keep(struct background_set *set, struct background *b)
{
    (void)pthread_mutex_lock(&set->lock);
    bool is_kept = set->n_running < LIMIT_BACKGROUND;
    if (is_kept) {
        while (set->first && (is_over(set->first) || (set->n >= 2 * LIMIT_BACKGROUND &&
                                                      set->first->state == BACKGROUND_ENDED)))
            drop_first(set);
        *(set->last ? &set->last->next : &set->first) = b;
        set->last = b;
        set->n++;
        set->n_running++;
    }
    (void)pthread_mutex_unlock(&set->lock);
    return is_kept;
}

bool background_start(struct exchange *x, const char *id, const struct buffer *body,
                      const struct buffer *queued, struct api_error *e)
{
    struct background_set *set = &x->server->background;
    struct background *b = create(x, id, queued);
    if (!b)
        return api_error_no_memory(e);
    if (!keep(set, b)) {
        b->references = 1;
        unref(b);
        api_error_set(e, "rate_limit_exceeded", NULL,
                      "%u responses are made in the background. Please try again in 1s.",
                      LIMIT_BACKGROUND);
        e->retry_after_ms = 1000;
        return false;
    }
    const struct detached_request request = {.method = "POST",
                                             .path = "/v1/responses",
                                             .body = buffer_str(body),
                                             .n_body = body->len,
                                             .tenant = x->tenant,
                                             .is_counted = true,
                                             .max_priority = INT32_MAX,
                                             .reply_id = id,
                                             .sink = {on_frames, on_end, b}};
    uint64_t number = detached_submit(x->server, &request);
    if (number == 0) {
        const struct detached_result nothing = {.bytes = ""};
        on_end(b, &nothing);
    }
    (void)pthread_mutex_lock(&set->lock);
    struct background *own = find(x, id); /* it may have ended and gone */
    if (own)
        own->number = number;
    (void)pthread_mutex_unlock(&set->lock);
    return true;
}

bool background_look(struct exchange *x, const char *id, struct buffer *out)
{
    struct background_set *set = &x->server->background;
    (void)pthread_mutex_lock(&set->lock);
    const struct background *b = find(x, id);
    bool is_here = b && !b->is_in_store;
    if (is_here)
        write_object(b, out);
    (void)pthread_mutex_unlock(&set->lock);
    return is_here;
}

bool background_cancel(struct exchange *x, const char *id)
{
    struct background_set *set = &x->server->background;
    (void)pthread_mutex_lock(&set->lock);
    struct background *b = find(x, id);
    uint64_t number = b && b->state != BACKGROUND_ENDED ? b->number : 0;
    if (number != 0)
        b->is_cancelled = true;
    (void)pthread_mutex_unlock(&set->lock);
    if (number != 0)
        detached_cancel(x->server, number);
    return b != NULL;
}

bool background_forget(struct exchange *x, const char *id)
{
    struct background_set *set = &x->server->background;
    if (!background_cancel(x, id))
        return false;
    (void)pthread_mutex_lock(&set->lock);
    struct background *b = find(x, id), *before = NULL;
    for (struct background *at = set->first; b && at != b; at = at->next)
        before = at;
    if (b) {
        *(before ? &before->next : &set->first) = b->next;
        set->last = set->last == b ? before : set->last;
        set->n--;
        unref(b);
    }
    (void)pthread_mutex_unlock(&set->lock);
    return b != NULL;
}
