#include "server/trace_json.h"

#include "program/op.h"

#include <inttypes.h>
#include <string.h>

/* Threads of the one process that viewers show; a worker's is its number behind the last. */
enum { TRACK_ENGINE = 1, TRACK_STEPS, TRACK_LAYERS, TRACK_WORKERS };

/* Constants that an event names; nodes without any that are passed on the way to some. */
#define MAX_SOURCES      4u
#define MAX_SOURCE_DEPTH 4u

/* Shorter waits are not shown. */
#define MIN_WAIT_NS 500u

/* Microseconds since the trace began; what lies outside of it is moved to its border. */
static void write_time(const struct inspection *trace, uint64_t at_ns, struct buffer *out)
{
    if (at_ns < trace->begin_ns)
        at_ns = trace->begin_ns;
    if (at_ns > trace->end_ns)
        at_ns = trace->end_ns;
    uint64_t ns = at_ns - trace->begin_ns;
    buffer_append_u64(out, ns / 1000);
    const char fraction[] = {'.', (char)('0' + ns / 100 % 10), (char)('0' + ns / 10 % 10),
                             (char)('0' + ns % 10)};
    buffer_append(out, fraction, sizeof fraction);
}

static void write_count(const char *text, uint64_t n, struct buffer *out)
{
    buffer_append_str(out, text);
    buffer_append_u64(out, n);
}

/* Times of a slice whose line has begun. */
static void write_extent(const struct inspection *trace, uint64_t begin_ns, uint64_t end_ns,
                         struct buffer *out)
{
    const struct inspection from_zero = {.end_ns = UINT64_MAX};
    buffer_append_str(out, ",\"ts\":");
    write_time(trace, begin_ns, out);
    buffer_append_str(out, ",\"dur\":");
    write_time(&from_zero, end_ns > begin_ns ? end_ns - begin_ns : 0, out);
}

/* A slice of the engine thread, open at its arguments. */
static void begin_slice(const struct inspection *trace, const char *name, uint64_t begin_ns,
                        uint64_t end_ns, struct buffer *out)
{
    write_count(",\n{\"ph\":\"X\",\"pid\":1,\"tid\":", TRACK_ENGINE, out);
    buffer_append_str(out, ",\"cat\":\"engine\",\"name\":\"");
    buffer_append_str(out, name);
    buffer_append_char(out, '"');
    write_extent(trace, begin_ns, end_ns, out);
}

static void write_step(const struct inspection *trace, const struct step_record *s,
                       struct buffer *out)
{
    begin_slice(trace, "step", s->begin_ns, s->emitted_ns, out);
    write_count(",\"args\":{\"rows\":", s->n_rows, out);
    write_count(",\"decode_rows\":", s->n_decode_rows, out);
    write_count(",\"prefill_rows\":", s->n_prefill_rows, out);
    write_count(",\"running\":", s->n_running, out);
    write_count(",\"waiting\":", s->n_waiting, out);
    write_count(",\"free_pages\":", s->n_free, out);
    write_count(",\"evictable_pages\":", s->n_evictable, out);
    buffer_append_str(out, "}}");
    begin_slice(trace, "schedule", s->begin_ns, s->scheduled_ns, out);
    write_count(",\"args\":{\"admitted\":", s->n_admitted, out);
    write_count(",\"cached_tokens\":", s->n_cached, out);
    write_count(",\"preempted\":", s->n_preempted, out);
    buffer_append_str(out, "}}");
    begin_slice(trace, "compute", s->scheduled_ns, s->computed_ns, out);
    buffer_append_char(out, '}');
    begin_slice(trace, "sample", s->computed_ns, s->sampled_ns, out);
    buffer_append_char(out, '}');
    begin_slice(trace, "emit", s->sampled_ns, s->emitted_ns, out);
    buffer_append_char(out, '}');
}

/* One end of a slice on the request's own track. */
static void write_border(const struct inspection *trace, const struct request_record *r, char which,
                         const char *name, uint64_t at_ns, struct buffer *out)
{
    buffer_printf(out,
                  ",\n{\"ph\":\"%c\",\"pid\":1,\"tid\":1,\"cat\":\"request\",\"id\":%" PRIu64
                  ",\"name\":\"%s\",\"ts\":",
                  which, r->id, name);
    write_time(trace, at_ns, out);
}

/* From one time to the next that is known; nothing if it never began. */
static void write_phase(const struct inspection *trace, const struct request_record *r,
                        const char *name, uint64_t begin_ns, uint64_t end_ns, struct buffer *out)
{
    if (begin_ns == 0)
        return;
    write_border(trace, r, 'b', name, begin_ns, out);
    buffer_append_char(out, '}');
    write_border(trace, r, 'e', name, end_ns, out);
    buffer_append_char(out, '}');
}

static void write_request(const struct inspection *trace, const struct request_record *r,
                          struct buffer *out)
{
    const struct request_times *t = &r->times;
    uint64_t end = t->end_ns ? t->end_ns : trace->end_ns;
    uint64_t admitted = t->admitted_ns ? t->admitted_ns : end;
    uint64_t first = t->first_token_ns ? t->first_token_ns : end;
    write_border(trace, r, 'b', "request", t->arrival_ns, out);
    write_count(",\"args\":{\"prompt_tokens\":", r->n_prompt, out);
    write_count(",\"cached_tokens\":", r->n_cached, out);
    write_count(",\"output_tokens\":", r->n_output, out);
    buffer_append_str(out, t->end_ns ? ",\"has_ended\":true}}" : ",\"has_ended\":false}}");
    write_phase(trace, r, "queued", t->arrival_ns, admitted, out);
    write_phase(trace, r, "prefill", t->admitted_ns, first, out);
    write_phase(trace, r, "decode", t->first_token_ns, end, out);
    write_border(trace, r, 'e', "request", end, out);
    buffer_append_char(out, '}');
}

/* ---- operations ------------------------------------------------------------------------------ */

/* "attn_q" of "blk.3.attn_q.weight". */
static void write_short_name(const char *tensor, struct buffer *out)
{
    const char *name = tensor, *dot;
    if (strncmp(tensor, "blk.", 4) == 0 && (dot = strchr(tensor + 4, '.')))
        name = dot + 1;
    size_t n = strlen(name), suffix = strlen(".weight");
    if (n > suffix && strcmp(name + n - suffix, ".weight") == 0)
        n -= suffix;
    buffer_append_json(out, name, n);
}

static const char *source_of(const serverd_graph *graph, uint32_t node, uint32_t input)
{
    const serverd_value *value = node_input(graph, &graph->nodes[node], input);
    return value->kind == SERVERD_VALUE_CONSTANT ? graph->tensors[value->tensor].name : NULL;
}

/* The weights that a node is known by, or the operation. */
static void write_node_name(const serverd_graph *graph, uint32_t node, struct buffer *out)
{
    const serverd_node *n = &graph->nodes[node];
    for (uint32_t i = 0; i < n->n_inputs; i++)
        if (source_of(graph, node, i)) {
            write_short_name(source_of(graph, node, i), out);
            return;
        }
    buffer_append_str(out, op_info(n->op)->name);
}

/* Names of constants, without repeats. */
struct sources {
    const char *name[MAX_SOURCES];
    uint32_t n;
};

static void add_source(struct sources *sources, const char *name)
{
    for (uint32_t i = 0; i < sources->n; i++)
        if (sources->name[i] == name)
            return;
    if (sources->n < MAX_SOURCES)
        sources->name[sources->n++] = name;
}

/* Those that a node reads; of one that reads none, those of the nodes that made what it reads. */
static void find_sources(const serverd_graph *graph, uint32_t node, uint32_t depth,
                         struct sources *sources)
{
    const serverd_node *n = &graph->nodes[node];
    bool has_own = false;
    for (uint32_t i = 0; i < n->n_inputs; i++)
        if (source_of(graph, node, i)) {
            add_source(sources, source_of(graph, node, i));
            has_own = true;
        }
    for (uint32_t i = 0; i < n->n_inputs && !has_own && depth < MAX_SOURCE_DEPTH; i++)
        find_sources(graph, node_input(graph, n, i)->producer, depth + 1, sources);
}

static void write_sources(const serverd_graph *graph, const struct trace_event *event,
                          struct buffer *out)
{
    struct sources sources = {.n = 0};
    uint32_t main_node = trace_main_node(graph, event->first_node, event->n_nodes);
    find_sources(graph, main_node, 0, &sources);
    for (uint32_t n = event->first_node; n - event->first_node < event->n_nodes; n++)
        if (n != main_node)
            find_sources(graph, n, MAX_SOURCE_DEPTH, &sources);
    buffer_append_str(out, ",\"tensors\":[");
    for (uint32_t i = 0; i < sources.n; i++) {
        buffer_append_str(out, i > 0 ? ",\"" : "\"");
        buffer_append_json(out, sources.name[i], strlen(sources.name[i]));
        buffer_append_char(out, '"');
    }
    buffer_append_char(out, ']');
}

static void write_op(const struct inspection *inspection, const struct trace_event *event,
                     struct buffer *out)
{
    const struct trace *trace = inspection->ops;
    const serverd_graph *graph = trace_graph(trace);
    uint32_t node = trace_main_node(graph, event->first_node, event->n_nodes);
    write_count(",\n{\"ph\":\"X\",\"pid\":1,\"tid\":", TRACK_WORKERS + event->worker, out);
    buffer_append_str(out, ",\"cat\":\"op\",\"name\":\"");
    write_node_name(graph, node, out);
    buffer_append_char(out, '"');
    write_extent(inspection, event->start_ns, event->start_ns + event->duration_ns, out);
    write_count(",\"args\":{\"step\":", event->step, out);
    write_count(",\"worker\":", event->worker, out);
    write_count(",\"node\":", event->first_node, out);
    write_count(",\"nodes\":", event->n_nodes, out);
    write_count(",\"rows\":", event->n_rows, out);
    buffer_append_str(out, ",\"op\":\"");
    buffer_append_str(out, op_info(graph->nodes[node].op)->name);
    buffer_append_str(out, "\",\"delegate\":\"");
    const char *device = trace_device(trace, event->partition);
    buffer_append_json(out, device, strlen(device));
    buffer_append_char(out, '"');
    if (graph->nodes[node].layer != UINT32_MAX)
        write_count(",\"layer\":", graph->nodes[node].layer, out);
    write_sources(graph, event, out);
    buffer_append_str(out, "}}");
}

/* What the delegates did of a step. */
static void write_execution(const struct inspection *inspection, const struct trace_step *step,
                            struct buffer *out)
{
    write_count(",\n{\"ph\":\"X\",\"pid\":1,\"tid\":", TRACK_STEPS, out);
    buffer_append_str(out, ",\"cat\":\"execute\",\"name\":\"execute\"");
    write_extent(inspection, step->begin_ns, step->end_ns, out);
    write_count(",\"args\":{\"step\":", step->step, out);
    write_count(",\"rows\":", step->n_rows, out);
    write_count(",\"seqs\":", step->n_seqs, out);
    write_count(",\"logit_rows\":", step->n_logit_rows, out);
    buffer_append_str(out, ",\"keys\":[");
    for (uint32_t i = 0; i < TRACE_SPANS; i++)
        write_count(i > 0 ? "," : "", step->n_keys[i], out);
    buffer_append_str(out, "]}}");
}

static uint32_t layer_of(const struct trace *trace, const struct trace_event *event)
{
    return trace_graph(trace)->nodes[event->first_node].layer;
}

/* Layers as worker 0 passes through them. */
static void write_layers(const struct inspection *inspection, uint32_t first_step,
                         struct buffer *out)
{
    const struct trace *trace = inspection->ops;
    uint32_t n = trace_n_events(trace, 0);
    for (uint32_t i = 0, end; i < n; i = end) {
        const struct trace_event *first = trace_event_at(trace, 0, i), *last = first;
        uint32_t layer = layer_of(trace, first);
        for (end = i + 1; end < n; end++) {
            const struct trace_event *event = trace_event_at(trace, 0, end);
            if (event->step != first->step || layer_of(trace, event) != layer)
                break;
            last = event;
        }
        if (layer == UINT32_MAX || first->step < first_step)
            continue;
        write_count(",\n{\"ph\":\"X\",\"pid\":1,\"tid\":", TRACK_LAYERS, out);
        write_count(",\"cat\":\"layer\",\"name\":\"layer ", layer, out);
        buffer_append_char(out, '"');
        write_extent(inspection, first->start_ns, last->start_ns + last->duration_ns, out);
        write_count(",\"args\":{\"step\":", first->step, out);
        buffer_append_str(out, "}}");
    }
}

/* NULL: it is not there any more, or has failed and its events are not all there. */
static const struct trace_step *find_step(const struct trace *trace, uint32_t step)
{
    uint32_t n = trace_n_steps(trace);
    uint32_t oldest = n > 0 ? trace_step_at(trace, 0)->step : 0;
    if (step < oldest || step - oldest >= n)
        return NULL;
    const struct trace_step *found = trace_step_at(trace, step - oldest);
    return found->end_ns > 0 ? found : NULL;
}

static void write_wait(const struct inspection *inspection, const struct trace_event *event,
                       uint64_t begin_ns, uint64_t end_ns, struct buffer *out)
{
    if (end_ns < begin_ns + MIN_WAIT_NS)
        return;
    write_count(",\n{\"ph\":\"X\",\"pid\":1,\"tid\":", TRACK_WORKERS + event->worker, out);
    buffer_append_str(out, ",\"cat\":\"wait\",\"name\":\"wait\"");
    write_extent(inspection, begin_ns, end_ns, out);
    write_count(",\"args\":{\"step\":", event->step, out);
    write_count(",\"worker\":", event->worker, out);
    buffer_append_str(out, "}}");
}

/* Its operations, and what lies between them in a step. */
static void write_worker(const struct inspection *inspection, uint32_t worker, uint32_t first_step,
                         struct buffer *out)
{
    const struct trace *trace = inspection->ops;
    const struct trace_event *last = NULL;
    const struct trace_step *step = NULL;
    uint64_t at_ns = 0;
    for (uint32_t i = 0; i < trace_n_events(trace, worker); i++) {
        const struct trace_event *event = trace_event_at(trace, worker, i);
        if (event->step < first_step)
            continue;
        if (!last || last->step != event->step) {
            if (step)
                write_wait(inspection, last, at_ns, step->end_ns, out);
            step = find_step(trace, event->step);
            at_ns = step ? step->begin_ns : 0;
        }
        last = event;
        if (!step)
            continue;
        write_wait(inspection, event, at_ns, event->start_ns, out);
        write_op(inspection, event, out);
        at_ns = event->start_ns + event->duration_ns;
    }
    if (step)
        write_wait(inspection, last, at_ns, step->end_ns, out);
}

static void write_track(uint32_t track, const char *name, uint32_t number, struct buffer *out)
{
    buffer_printf(out,
                  ",\n{\"ph\":\"M\",\"pid\":1,\"tid\":%u,\"name\":\"thread_name\","
                  "\"args\":{\"name\":\"",
                  track);
    buffer_printf(out, name, number);
    buffer_append_str(out, "\"}}");
}

static void write_ops(const struct inspection *inspection, struct buffer *out)
{
    const struct trace *trace = inspection->ops;
    uint32_t first_step = trace_first_whole_step(trace);
    write_track(TRACK_STEPS, "execute", 0, out);
    write_track(TRACK_LAYERS, "layers", 0, out);
    for (uint32_t i = 0; i < trace_n_steps(trace); i++) {
        const struct trace_step *step = trace_step_at(trace, i);
        if (step->step >= first_step && step->end_ns > 0)
            write_execution(inspection, step, out);
    }
    write_layers(inspection, first_step, out);
    for (uint32_t w = 0; w < trace_n_workers(trace); w++) {
        write_track(TRACK_WORKERS + w, "worker %u", w, out);
        write_worker(inspection, w, first_step, out);
    }
}

/* ---- all ------------------------------------------------------------------------------------- */

void trace_json_write(const struct inspection *inspection, const char *model, struct buffer *out)
{
    const struct trace *ops = inspection->ops;
    buffer_append_str(out, "{\"displayTimeUnit\":\"ms\",\"otherData\":{\"model\":\"");
    buffer_append_json(out, model, strlen(model));
    buffer_printf(out, "\",\"steps\":%u,\"requests\":%u,\"requests_lost\":%u,\"seconds\":%.6f",
                  inspection->n_steps, inspection->n_requests, inspection->n_requests_lost,
                  (double)(inspection->end_ns - inspection->begin_ns) * 1e-9);
    if (ops)
        buffer_printf(out, ",\"workers\":%u,\"nodes\":%u,\"events_lost\":%" PRIu64,
                      trace_n_workers(ops), trace_graph(ops)->n_nodes, trace_n_lost(ops));
    buffer_append_str(out, "},\"traceEvents\":[\n"
                           "{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\","
                           "\"args\":{\"name\":\"serverd\"}}");
    write_track(TRACK_ENGINE, "engine", 0, out);
    for (uint32_t i = 0; i < inspection->n_steps; i++)
        write_step(inspection, &inspection->steps[i], out);
    for (uint32_t i = 0; i < inspection->n_requests; i++)
        write_request(inspection, &inspection->requests[i], out);
    if (ops)
        write_ops(inspection, out);
    buffer_append_str(out, "\n]}");
}
