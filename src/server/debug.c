/* What the engine thread does and holds, for operators: the prefix tree, and a trace of its
 * steps. */
#include "base/numeric.h"
#include "server/endpoints.h"
#include "server/server_internal.h"
#include "server/trace_json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_TOKENS    8u /* of a node, if not all are wanted */
#define DEFAULT_STEPS   1000u
#define DEFAULT_SECONDS 10u

struct debug_reply {
    const struct served_model *model;
    struct inspection *inspection; /* NULL until it has come */
};

static void on_event(void *state, struct event *event, struct buffer *out)
{
    struct debug_reply *reply = state;
    (void)out;
    if (!event->inspection)
        return;
    inspection_destroy(reply->inspection);
    reply->inspection = event->inspection;
    event->inspection = NULL;
}

static void destroy(void *state)
{
    struct debug_reply *reply = state;
    inspection_destroy(reply->inspection);
    free(reply);
}

static void inspect(struct exchange *x, const struct inspection_options *options,
                    const struct reply_encoder *encoder)
{
    struct debug_reply *reply = calloc(1, sizeof *reply);
    if (!reply) {
        struct api_error e;
        (void)api_error_no_memory(&e);
        exchange_fail(x, &e);
        return;
    }
    reply->model = exchange_model(x);
    exchange_inspect(x, options, encoder, reply);
}

static void write_model(const struct debug_reply *reply, struct buffer *out)
{
    buffer_append_str(out, "{\"model\":\"");
    buffer_append_json(out, reply->model->name, strlen(reply->model->name));
    buffer_append_char(out, '"');
}

/* ---- the KV cache ------------------------------------------------------------------------------
 */

static void write_totals(const struct cache_totals *t, struct buffer *out)
{
    buffer_printf(out,
                  ",\"page_tokens\":%u,\"pages\":{\"total\":%u,\"free\":%u,\"private\":%u,"
                  "\"locked\":%u,\"evictable\":%u},\"has_prefix_cache\":%s",
                  SERVERD_PAGE_TOKENS, t->n_pages, t->n_free, t->n_private, t->n_locked,
                  t->n_evictable, t->has_tree ? "true" : "false");
    const struct window_counts *w = &t->windows;
    buffer_printf(out,
                  ",\"window_pages\":{\"total\":%u,\"free\":%u,\"pinned\":%u,\"middle\":%u,"
                  "\"kept\":%u,\"dropped_middle\":%" PRIu64 ",\"dropped_kept\":%" PRIu64 "}",
                  w->n_pages, w->n_free, w->n_pinned, w->n_middle, w->n_kept, w->n_middle_dropped,
                  w->n_kept_dropped);
    buffer_printf(out,
                  ",\"counters\":{\"requests\":%" PRIu64 ",\"hits\":%" PRIu64
                  ",\"cached_tokens\":%" PRIu64 ",\"computed_tokens\":%" PRIu64
                  ",\"recomputed_tokens\":%" PRIu64 ",\"preemptions\":%" PRIu64,
                  t->use.n_admitted, t->use.n_hits, t->use.n_cached, t->use.n_computed,
                  t->use.n_recomputed, t->use.n_preempted);
    buffer_printf(out,
                  ",\"evicted_tokens\":{\"prompt\":%" PRIu64 ",\"output\":%" PRIu64
                  "},\"duplicate_pages\":%" PRIu64 ",\"uses\":%" PRIu64 "}",
                  t->tree.n_evicted[RADIX_PROMPT] * SERVERD_PAGE_TOKENS,
                  t->tree.n_evicted[RADIX_OUTPUT] * SERVERD_PAGE_TOKENS, t->tree.n_duplicates,
                  t->tree.n_uses);
}

static void write_node(const struct inspection *inspection, uint32_t index, struct buffer *out)
{
    const struct cache_node *node = &inspection->nodes[index];
    const int32_t *tokens = inspection->tokens + node->first_token;
    buffer_append_str(out, "{\"id\":");
    buffer_append_u64(out, index + 1);
    buffer_append_str(out, ",\"parent\":");
    if (node->parent)
        buffer_append_u64(out, node->parent);
    else
        buffer_append_str(out, "null");
    buffer_append_str(out, node->kind == RADIX_PROMPT ? ",\"kind\":\"prompt\",\"n_pages\":"
                                                      : ",\"kind\":\"output\",\"n_pages\":");
    buffer_append_u64(out, node->n_pages);
    buffer_append_str(out, ",\"n_tokens\":");
    buffer_append_u64(out, (uint64_t)node->n_pages * SERVERD_PAGE_TOKENS);
    buffer_append_str(out, ",\"locks\":");
    buffer_append_u64(out, node->n_locks);
    buffer_append_str(out, ",\"age\":");
    buffer_append_u64(out, node->age);
    buffer_append_str(out, ",\"tokens\":[");
    for (uint32_t i = 0; i < node->n_tokens; i++) {
        if (i > 0)
            buffer_append_char(out, ',');
        buffer_append_u64(out, (uint64_t)tokens[i]);
    }
    buffer_append_str(out, "]}");
}

/* The nodes first .. end - 1, which are those of a namespace. */
static void write_namespace(const struct inspection *inspection, uint32_t first, uint32_t end,
                            struct buffer *out)
{
    uint64_t n_pages = 0, n_locked = 0;
    for (uint32_t i = first; i < end; i++) {
        const struct cache_node *node = &inspection->nodes[i];
        n_pages += node->n_pages;
        n_locked += node->n_locks > 0 ? node->n_pages : 0;
    }
    buffer_printf(out,
                  "%s{\"id\":\"%016" PRIx64 "\",\"n_nodes\":%u,\"n_pages\":%" PRIu64
                  ",\"n_locked_pages\":%" PRIu64 ",\"nodes\":[",
                  first > 0 ? "," : "", inspection->nodes[first].space, end - first, n_pages,
                  n_locked);
    for (uint32_t i = first; i < end; i++) {
        if (i > first)
            buffer_append_char(out, ',');
        write_node(inspection, i, out);
    }
    buffer_append_str(out, "]}");
}

static void on_cache_end(void *state, struct buffer *out)
{
    const struct debug_reply *reply = state;
    const struct inspection *inspection = reply->inspection;
    write_model(reply, out);
    write_totals(&inspection->totals, out);
    buffer_printf(out, ",\"n_nodes\":%u,\"is_cut\":%s,\"namespaces\":[", inspection->totals.n_nodes,
                  inspection->is_cut ? "true" : "false");
    uint32_t first = 0;
    for (uint32_t i = 1; i <= inspection->n_nodes; i++)
        if (i == inspection->n_nodes ||
            inspection->nodes[i].space != inspection->nodes[first].space) {
            write_namespace(inspection, first, i, out);
            first = i;
        }
    buffer_append_str(out, "]}");
}

static const struct reply_encoder cache_encoder = {
    .on_event = on_event, .on_end = on_cache_end, .destroy = destroy};

void endpoint_debug_kvcache(struct exchange *x)
{
    struct api_error e;
    uint32_t limit = LIMIT_INSPECT_NODES, wants_tokens = 0;
    if (!exchange_query_u32(x, "limit", 1, LIMIT_INSPECT_NODES, &limit, &e) ||
        !exchange_query_u32(x, "tokens", 0, 1, &wants_tokens, &e)) {
        exchange_fail(x, &e);
        return;
    }
    const struct inspection_options options = {
        .kind = INSPECT_CACHE,
        .max_nodes = limit,
        .max_tokens = wants_tokens ? LIMIT_INSPECT_TOKENS : limit * FIRST_TOKENS,
        .tokens_per_node = wants_tokens ? UINT32_MAX : FIRST_TOKENS,
    };
    inspect(x, &options, &cache_encoder);
}

/* ---- the trace ---------------------------------------------------------------------------------
 */

static void on_trace_end(void *state, struct buffer *out)
{
    const struct debug_reply *reply = state;
    trace_json_write(reply->inspection, reply->model->name, out);
}

static const struct reply_encoder trace_encoder = {
    .on_event = on_event, .on_end = on_trace_end, .destroy = destroy};

void endpoint_debug_trace(struct exchange *x)
{
    struct api_error e;
    uint32_t wants_ops = 0, n_steps = DEFAULT_STEPS, seconds = DEFAULT_SECONDS;
    if (!exchange_query_u32(x, "ops", 0, 1, &wants_ops, &e) ||
        !exchange_query_u32(x, "steps", 1, LIMIT_INSPECT_STEPS, &n_steps, &e) ||
        !exchange_query_u32(x, "seconds", 1, LIMIT_INSPECT_SECONDS, &seconds, &e)) {
        exchange_fail(x, &e);
        return;
    }
    const struct inspection_options options = {.kind = INSPECT_STEPS,
                                               .max_steps = n_steps,
                                               .duration_ns = seconds * UINT64_C(1000000000),
                                               .max_events =
                                                   wants_ops ? LIMIT_TRACE_ALL_EVENTS : 0};
    inspect(x, &options, &trace_encoder);
}
