/* The headers that all replies have, beside those of libmicrohttpd. */
#include "server/server_internal.h"

#include <inttypes.h>
#include <stdio.h>

/* `1s`, `6m0s` */
static void write_seconds(uint32_t seconds, char *out, size_t cap)
{
    if (seconds < 60)
        (void)snprintf(out, cap, "%us", seconds);
    else
        (void)snprintf(out, cap, "%um%us", seconds / 60, seconds % 60);
}

/* What the key may still ask for. */
static void add_rates(struct exchange *x, struct MHD_Response *response, uint64_t now_ns)
{
    static const char *const names[N_RATES][3] = {
        [RATE_REQUESTS] = {"X-RateLimit-Limit-Requests", "X-RateLimit-Remaining-Requests",
                           "X-RateLimit-Reset-Requests"},
        [RATE_TOKENS] = {"X-RateLimit-Limit-Tokens", "X-RateLimit-Remaining-Tokens",
                         "X-RateLimit-Reset-Tokens"}};
    for (enum rate rate = 0; rate < N_RATES; rate++) {
        const struct rate_state state = rate_limit_state(x->limit, rate, now_ns);
        char text[32];
        if (state.per_minute == 0)
            continue;
        (void)snprintf(text, sizeof text, "%u", state.per_minute);
        (void)MHD_add_response_header(response, names[rate][0], text);
        (void)snprintf(text, sizeof text, "%u", state.n_left);
        (void)MHD_add_response_header(response, names[rate][1], text);
        write_seconds(state.full_in_seconds, text, sizeof text);
        (void)MHD_add_response_header(response, names[rate][2], text);
    }
}

/* Since the request's head; of a whole reply that the engine had a part in, where it went. */
static void add_times(struct exchange *x, struct MHD_Response *response, uint64_t now_ns)
{
    char text[96];
    const uint64_t passed = now_ns > x->arrival_ns ? now_ns - x->arrival_ns : 0;
    (void)snprintf(text, sizeof text, "%" PRIu64, passed / 1000000);
    (void)MHD_add_response_header(response, "OpenAI-Processing-Ms", text);
    (void)pthread_mutex_lock(&x->lock);
    const struct request_summary summary = x->summary;
    (void)pthread_mutex_unlock(&x->lock);
    if (x->has_begun || summary.admitted_ns == 0)
        return;
    const struct request_durations ms = request_summary_durations(&summary, x->arrival_ns);
    (void)snprintf(text, sizeof text, "queue;dur=%.1f, prefill;dur=%.1f, decode;dur=%.1f", ms.queue,
                   ms.prefill, ms.decode);
    (void)MHD_add_response_header(response, "Server-Timing", text);
}

void reply_headers_add(struct exchange *x, struct MHD_Response *response)
{
    char text[32];
    const uint64_t now_ns = clock_now_ns(x->server->context.clock);
    (void)MHD_add_response_header(response, "Content-Type", x->content_type);
    (void)MHD_add_response_header(response, "X-Request-Id", x->request_id);
    (void)MHD_add_response_header(response, "Request-Id", x->request_id);
    add_times(x, response, now_ns);
    add_rates(x, response, now_ns);
    (void)MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (x->status == 401)
        (void)MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (x->allow[0])
        (void)MHD_add_response_header(response, "Allow", x->allow);
    if (x->retry_after_ms > 0) {
        (void)snprintf(text, sizeof text, "%u", (x->retry_after_ms + 999) / 1000);
        (void)MHD_add_response_header(response, "Retry-After", text);
        (void)snprintf(text, sizeof text, "%u", x->retry_after_ms);
        (void)MHD_add_response_header(response, "Retry-After-Ms", text);
    }
    if (x->status >= 400)
        (void)MHD_add_response_header(response, "X-Should-Retry",
                                      x->retry_after_ms > 0 ? "true" : "false");
    if (x->ignored_fields.len > 0 && !x->ignored_fields.is_failed) {
        char warning[KIB + 16];
        (void)snprintf(warning, sizeof warning, "ignored: %s", buffer_str(&x->ignored_fields));
        (void)MHD_add_response_header(response, "X-Serverd-Warning", warning);
    }
    /* leftovers of a chunked body never become a request */
    if (x->is_chunked || x->is_last || atomic_load(&x->server->is_draining))
        (void)MHD_add_response_header(response, "Connection", "close");
    (void)cors_add_headers(x, response);
}
