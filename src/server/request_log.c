/* One line for each request that has ended: who asked for what, how it ended, and where its time
 * went. Ids, counts and times; never prompts, outputs, keys or query strings. */
#include "base/numeric.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <string.h>

#define LIMIT_LOGGED_PATH 200u

static void keep_first(uint64_t *first_ns, uint64_t at_ns)
{
    if (at_ns > 0 && (*first_ns == 0 || at_ns < *first_ns))
        *first_ns = at_ns;
}

void request_summary_add(struct request_summary *summary, const struct event *event)
{
    if (event->kind == EVENT_FINISH) {
        summary->has_finish = true;
        summary->finish = event->finish;
    } else if (event->kind == EVENT_END) {
        summary->n_prompt += event->n_prompt;
        summary->n_cached += event->n_cached;
        summary->n_output += event->n_output;
        summary->is_cancelled |= event->is_cancelled;
        keep_first(&summary->admitted_ns, event->times.admitted_ns);
        keep_first(&summary->first_token_ns, event->times.first_token_ns);
        if (event->times.end_ns > summary->end_ns)
            summary->end_ns = event->times.end_ns;
    }
}

/* Probes come every few seconds and say nothing; nor do scrapes that go well. */
static bool is_worth_it(const struct exchange *x)
{
    if (x->end_ns == 0 || (x->route && x->route->scope == SCOPE_PUBLIC))
        return false;
    return !x->route || x->route->scope != SCOPE_METRICS || x->status >= 400;
}

static const char *how_it_ended(const struct exchange *x)
{
    const struct request_summary *s = &x->summary;
    /* a client that has its answer may be gone before this side knows that it was sent */
    if (s->is_cancelled || (x->is_gone && s->end_ns == 0))
        return "cancelled";
    if (x->status >= 400 || x->has_failed)
        return "error";
    if (!s->has_finish)
        return "ok";
    return s->finish == FINISH_STOP ? "stop" : "length";
}

struct request_durations request_summary_durations(const struct request_summary *s,
                                                   uint64_t arrival_ns)
{
    const uint64_t waited = s->admitted_ns ? s->admitted_ns : s->end_ns;
    const uint64_t computed = s->first_token_ns ? s->first_token_ns : s->end_ns;
    return (struct request_durations){.queue = clock_ms_between(arrival_ns, waited),
                                      .prefill = clock_ms_between(s->admitted_ns, computed),
                                      .decode = clock_ms_between(s->first_token_ns, s->end_ns)};
}

/* What came in before the query: of a known route that, else what the client sent. */
static void write_path(const struct exchange *x, char *out, size_t cap)
{
    size_t n = x->target ? strcspn(x->target, "?#") : 0;
    if (x->route)
        (void)snprintf(out, cap, "%s", x->route->path);
    else
        (void)snprintf(out, cap, "%.*s", (int)min_size(n, cap - 1), n > 0 ? x->target : "");
}

void request_log_write(const struct exchange *x)
{
    const struct server_context *context = &x->server->context;
    if (!log_is_on(context->log, LOG_INFO) || !context->options->request_log || !is_worth_it(x))
        return;
    const struct request_summary *s = &x->summary;
    const struct served_model *model = exchange_model(x);
    bool used_model = s->n_prompt > 0 && model;
    const struct request_durations ms = request_summary_durations(s, x->arrival_ns);
    char path[LIMIT_LOGGED_PATH];
    write_path(x, path, sizeof path);
    const struct log_field fields[] = {
        {.key = "id", .text = x->request_id},
        {.key = "key", .text = x->key_name[0] ? x->key_name : NULL},
        {.key = "method", .text = x->route ? x->route->method : NULL},
        {.key = "path", .text = path},
        {.key = "model", .text = used_model ? model->name : NULL},
        {.key = "status", .is_number = true, .number = x->status},
        {.key = "finish", .text = how_it_ended(x)},
        {.key = "total_ms",
         .is_number = true,
         .number = clock_ms_between(x->arrival_ns, x->end_ns)},
        /* of requests that the engine had */
        {.key = "prompt_tokens", .is_number = used_model, .number = (double)s->n_prompt},
        {.key = "cached_tokens", .is_number = used_model, .number = (double)s->n_cached},
        {.key = "output_tokens", .is_number = used_model, .number = (double)s->n_output},
        {.key = "queue_ms", .is_number = used_model, .number = ms.queue},
        {.key = "prefill_ms", .is_number = used_model, .number = ms.prefill},
        {.key = "decode_ms", .is_number = used_model, .number = ms.decode},
    };
    log_record(context->log, LOG_INFO, "server", fields, sizeof fields / sizeof *fields, "request");
}

void request_count(struct exchange *x)
{
    char status[16];
    (void)snprintf(status, sizeof status, "%d", x->status);
    const char *labels[] = {x->route ? x->route->path : "other", status};
    if (x->status != 0) /* 0: the client left before its answer */
        metrics_add_labelled(x->server->context.metrics, METRIC_HTTP_RESPONSES, labels, 1);
    if (!x->route || !(x->route->flags & (JSON_BODY | FORM_BODY)))
        return;
    (void)pthread_mutex_lock(&x->lock);
    const bool is_gone = x->is_gone;
    (void)pthread_mutex_unlock(&x->lock);
    const char *outcome = is_gone                                ? "cancelled"
                          : x->status == 429 || x->status == 503 ? "rejected"
                          : x->status == 504                     ? "timeout"
                          : x->status >= 400 || x->has_failed    ? "error"
                                                                 : "ok";
    const char *outcome_labels[] = {x->route->path, outcome};
    metrics_add_labelled(x->server->context.metrics, METRIC_REQUESTS, outcome_labels, 1);
}
