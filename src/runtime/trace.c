#include "runtime/trace.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "base/ticks.h"
#include "program/op.h"
#include "runtime/placement.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Two events of a worker with less between them follow each other. */
#define SAME_PIECE_NS 2000u

_Static_assert(sizeof(struct trace_event) == 32, "two events a cache line");

/* On cache lines of its own. */
struct ring {
    _Alignas(64) struct trace_event *events;
    uint64_t n;      /* that were ever added: the next one's place, modulo the size */
    uint64_t end_ns; /* of the last one */
};

struct trace {
    struct ticks ticks;
    const serverd_graph *graph;
    struct ring *rings; /* [n_workers] */
    uint32_t n_workers, mask;
    _Atomic uint64_t n_refused;
    struct trace_event *events; /* of all rings */
    struct trace_step *steps;   /* a ring, too */
    uint32_t max_steps;
    uint64_t n_steps; /* that were ever begun */
    struct trace_spans spans;
    uint8_t *row_kind; /* [n_nodes] index of n_rows */
    struct trace_part {
        uint32_t first_node, n_nodes;
        char device[72];
    } * parts;
    uint32_t n_parts;
    /* of the step that runs */
    uint32_t n_rows[3]; /* of rows, sequences, selected rows */
    uint32_t step, partition;
    uint64_t part_begin_ns, n_before; /* events, when the partition began */
    bool has_waited;                  /* worker 0, since its last event */
};

/* ---- what a graph is made of ----------------------------------------------------------------- */

uint32_t trace_span_of(const struct trace_spans *spans, const serverd_attn *attn)
{
    for (uint32_t i = 0; i < spans->n; i++)
        if (spans->of[i].window == attn->window && spans->of[i].is_causal == attn->is_causal)
            return i;
    return TRACE_SPANS - 1;
}

void trace_find_spans(const serverd_graph *graph, struct trace_spans *out)
{
    *out = (struct trace_spans){0};
    for (uint32_t n = 0; n < graph->n_nodes; n++) {
        const serverd_attn *attn = &graph->nodes[n].attributes.attn;
        if (graph->nodes[n].op != SERVERD_OP_ATTN || out->n == TRACE_SPANS)
            continue;
        if (trace_span_of(out, attn) >= out->n)
            out->of[out->n++] = (struct trace_span){attn->window, attn->is_causal};
    }
}

static uint8_t row_kind_of(const serverd_graph *graph, const serverd_node *node)
{
    int64_t kind = node_output(graph, node)->dims[0];
    return kind == SERVERD_DIM_SEQS ? 1 : kind == SERVERD_DIM_SELECTED ? 2 : 0;
}

static double linear_macs(const serverd_graph *graph, const serverd_node *node)
{
    const serverd_tensor *weights = &graph->tensors[node_input(graph, node, 1)->tensor];
    return (double)weights->dims[0] * (double)weights->dims[1];
}

double trace_node_macs(const serverd_graph *graph, uint32_t node, const struct trace_spans *spans,
                       const struct trace_step *step)
{
    const serverd_node *n = &graph->nodes[node];
    const uint32_t rows[] = {step->n_rows, step->n_seqs, step->n_logit_rows};
    if (n->op == SERVERD_OP_LINEAR)
        return linear_macs(graph, n) * rows[row_kind_of(graph, n)];
    if (n->op != SERVERD_OP_ATTN)
        return 0;
    const serverd_attn *a = &n->attributes.attn;
    return (double)step->n_keys[trace_span_of(spans, a)] * a->n_heads * (a->k_dim + a->v_dim);
}

uint32_t trace_main_node(const serverd_graph *graph, uint32_t first_node, uint32_t n_nodes)
{
    uint32_t best = first_node;
    double most = -1;
    for (uint32_t n = first_node; n - first_node < n_nodes && n < graph->n_nodes; n++) {
        const serverd_node *node = &graph->nodes[n];
        const serverd_attn *a = &node->attributes.attn;
        double macs = 0;
        if (node->op == SERVERD_OP_LINEAR)
            macs = linear_macs(graph, node);
        else if (node->op == SERVERD_OP_ATTN) /* for each token that it sees */
            macs = (double)a->n_heads * (a->k_dim + a->v_dim);
        if (macs > most) {
            most = macs;
            best = n;
        }
    }
    return best;
}

/* ---- life ------------------------------------------------------------------------------------ */

static bool take_memory(struct trace *trace, const struct trace_options *options)
{
    const struct placement *placement = options->placement;
    size_t n_events = 1, all, bytes, ring_bytes;
    while (n_events < options->n_events)
        n_events *= 2;
    trace->mask = (uint32_t)n_events - 1;
    trace->max_steps = (uint32_t)max_size(options->n_steps, 1);
    trace->n_parts = placement->n_partitions;
    if (!size_mul(n_events, options->n_workers, &all) ||
        !size_mul(all, sizeof *trace->events, &bytes) ||
        !size_mul(options->n_workers, sizeof *trace->rings, &ring_bytes))
        return false;
    trace->events = aligned_alloc(64, (bytes + 63) / 64 * 64);
    trace->rings = aligned_alloc(64, ring_bytes);
    trace->steps = calloc(trace->max_steps, sizeof *trace->steps);
    trace->row_kind = calloc(max_size(options->graph->n_nodes, 1), sizeof *trace->row_kind);
    trace->parts = calloc(max_size(trace->n_parts, 1), sizeof *trace->parts);
    if (!trace->events || !trace->rings || !trace->steps || !trace->row_kind || !trace->parts)
        return false;
    memset(trace->events, 0, bytes); /* so that no step has to wait for the system's pages */
    memset(trace->rings, 0, ring_bytes);
    for (uint32_t w = 0; w < options->n_workers; w++)
        trace->rings[w].events = trace->events + w * n_events;
    return true;
}

serverd_status trace_create(const struct trace_options *options, struct trace **out,
                            serverd_error *err)
{
    if (options->n_workers == 0 || options->n_workers > LIMIT_WORKERS || options->n_events == 0 ||
        options->n_events > LIMIT_TRACE_EVENTS || options->n_steps > LIMIT_INSPECT_STEPS)
        return fail(err, SERVERD_INVALID,
                    "trace: %u workers, %u events of each, %u steps; at most %u, %u, %u allowed",
                    options->n_workers, options->n_events, options->n_steps, LIMIT_WORKERS,
                    LIMIT_TRACE_EVENTS, LIMIT_INSPECT_STEPS);
    struct trace *trace = calloc(1, sizeof *trace);
    if (!trace || !take_memory(trace, options)) {
        trace_destroy(trace);
        return fail(err, SERVERD_NOMEM, "trace: no memory for %u events of %u workers",
                    options->n_events, options->n_workers);
    }
    ticks_start(&trace->ticks, options->clock);
    trace->graph = options->graph;
    trace->n_workers = options->n_workers;
    trace_find_spans(trace->graph, &trace->spans);
    for (uint32_t n = 0; n < trace->graph->n_nodes; n++)
        trace->row_kind[n] = row_kind_of(trace->graph, &trace->graph->nodes[n]);
    for (uint32_t p = 0; p < trace->n_parts; p++) {
        const struct placement_partition *from = &options->placement->partitions[p];
        struct trace_part *part = &trace->parts[p];
        part->first_node = from->view.first_node;
        part->n_nodes = from->view.n_nodes;
        memcpy(part->device, options->placement->devices[from->device].name, sizeof part->device);
    }
    *out = trace;
    return SERVERD_OK;
}

void trace_destroy(struct trace *trace)
{
    if (!trace)
        return;
    free(trace->events);
    free(trace->rings);
    free(trace->steps);
    free(trace->row_kind);
    free(trace->parts);
    free(trace);
}

/* ---- recording ------------------------------------------------------------------------------- */

static uint64_t count_all(const struct trace *trace)
{
    uint64_t n = 0;
    for (uint32_t w = 0; w < trace->n_workers; w++)
        n += trace->rings[w].n;
    return n;
}

/* Tokens that the rows of a batch see: a row that sees all is one of a sequence that stays together
 * in this step, others see what came before them. */
static void count_keys(const struct trace *trace, const serverd_batch *batch, uint64_t *n_keys)
{
    for (uint32_t s = 0; s < trace->spans.n; s++) {
        const struct trace_span *span = &trace->spans.of[s];
        for (uint32_t row = 0, first = 0; row < batch->n_rows; row++) {
            bool is_last =
                row + 1 == batch->n_rows || batch->row_seq[row + 1] != batch->row_seq[row];
            uint64_t seen = (uint64_t)batch->position[row] + 1, n = row + 1 - first;
            if (span->is_causal)
                n_keys[s] += span->window ? min_size(seen, span->window) : seen;
            else if (is_last)
                n_keys[s] += n * n;
            if (is_last)
                first = row + 1;
        }
    }
}

uint64_t trace_now_ns(const struct trace *trace)
{
    return ticks_now_ns(&trace->ticks);
}

void trace_begin_step(struct trace *trace, const serverd_batch *batch)
{
    ticks_renew(&trace->ticks);
    struct trace_step *step = &trace->steps[trace->n_steps % trace->max_steps];
    trace->step = (uint32_t)trace->n_steps++;
    *step = (struct trace_step){.begin_ns = trace_now_ns(trace),
                                .number = batch->step,
                                .step = trace->step,
                                .n_rows = batch->n_rows,
                                .n_seqs = batch->n_seqs,
                                .n_logit_rows = batch->n_logit_rows};
    count_keys(trace, batch, step->n_keys);
    trace->n_rows[0] = batch->n_rows;
    trace->n_rows[1] = batch->n_seqs;
    trace->n_rows[2] = batch->n_logit_rows;
}

static void put(struct trace *trace, uint32_t worker, uint64_t start_ns, uint64_t end_ns,
                uint32_t first_node, uint32_t n_nodes, uint32_t n_rows)
{
    struct ring *ring = &trace->rings[worker];
    ring->events[ring->n++ & trace->mask] =
        (struct trace_event){.start_ns = start_ns,
                             .duration_ns = (uint32_t)min_size(end_ns - start_ns, UINT32_MAX),
                             .step = trace->step,
                             .first_node = first_node,
                             .n_rows = n_rows,
                             .n_nodes = (uint16_t)min_size(n_nodes, UINT16_MAX),
                             .partition = (uint16_t)min_size(trace->partition, UINT16_MAX),
                             .worker = (uint16_t)worker};
    ring->end_ns = end_ns;
}

static struct trace_event *last_of_step(const struct trace *trace, const struct ring *ring)
{
    struct trace_event *last = &ring->events[(ring->n - 1) & trace->mask];
    return ring->n > 0 && last->step == trace->step ? last : NULL;
}

static bool goes_on(const struct trace *trace, const struct ring *ring,
                    const struct trace_event *last, const serverd_trace_event *event)
{
    return last && last->first_node == event->first_node && last->n_nodes == event->n_nodes &&
           last->n_rows == event->n_rows &&
           event->n_rows == trace->n_rows[trace->row_kind[event->first_node]] &&
           event->start_ns >= ring->end_ns && event->start_ns - ring->end_ns < SAME_PIECE_NS;
}

void trace_add(struct trace *trace, const serverd_trace_event *event)
{
    uint32_t worker = event->worker;
    if (worker >= trace->n_workers || event->first_node >= trace->graph->n_nodes ||
        event->n_nodes > trace->graph->n_nodes - event->first_node ||
        event->end_ns < event->start_ns) {
        atomic_fetch_add_explicit(&trace->n_refused, 1, memory_order_relaxed);
        return;
    }
    struct ring *ring = &trace->rings[worker];
    struct trace_event *last = last_of_step(trace, ring);
    if (goes_on(trace, ring, last, event)) {
        last->duration_ns = (uint32_t)min_size(event->end_ns - last->start_ns, UINT32_MAX);
        ring->end_ns = event->end_ns;
        return;
    }
    put(trace, worker, event->start_ns, event->end_ns, event->first_node, event->n_nodes,
        event->n_rows);
}

void trace_end_step(struct trace *trace)
{
    trace->steps[(trace->n_steps - 1) % trace->max_steps].end_ns = trace_now_ns(trace);
}

void trace_begin_partition(struct trace *trace, uint32_t partition)
{
    trace->partition = partition;
    trace->part_begin_ns = trace_now_ns(trace);
    trace->n_before = count_all(trace);
}

void trace_end_partition(struct trace *trace)
{
    const struct trace_part *part = &trace->parts[trace->partition];
    if (count_all(trace) == trace->n_before)
        put(trace, 0, trace->part_begin_ns, trace_now_ns(trace), part->first_node, part->n_nodes,
            trace->n_rows[0]);
}

/* ---- reading --------------------------------------------------------------------------------- */

uint32_t trace_n_steps(const struct trace *trace)
{
    return (uint32_t)min_size(trace->n_steps, trace->max_steps);
}

const struct trace_step *trace_step_at(const struct trace *trace, uint32_t i)
{
    uint64_t first = trace->n_steps - trace_n_steps(trace);
    return &trace->steps[(first + i) % trace->max_steps];
}

uint32_t trace_n_workers(const struct trace *trace)
{
    return trace->n_workers;
}

uint32_t trace_n_events(const struct trace *trace, uint32_t worker)
{
    return (uint32_t)min_size(trace->rings[worker].n, (uint64_t)trace->mask + 1);
}

const struct trace_event *trace_event_at(const struct trace *trace, uint32_t worker, uint32_t i)
{
    const struct ring *ring = &trace->rings[worker];
    return &ring->events[(ring->n - trace_n_events(trace, worker) + i) & trace->mask];
}

uint64_t trace_n_lost(const struct trace *trace)
{
    uint64_t n = atomic_load_explicit(&trace->n_refused, memory_order_relaxed);
    for (uint32_t w = 0; w < trace->n_workers; w++)
        n += trace->rings[w].n - trace_n_events(trace, w);
    return n;
}

uint32_t trace_first_whole_step(const struct trace *trace)
{
    uint32_t first = 0;
    for (uint32_t w = 0; w < trace->n_workers; w++)
        if (trace->rings[w].n > trace_n_events(trace, w)) /* some of the oldest one's are gone */
            first = (uint32_t)max_size(first, trace_event_at(trace, w, 0)->step + 1u);
    return first;
}

const serverd_graph *trace_graph(const struct trace *trace)
{
    return trace->graph;
}

const char *trace_device(const struct trace *trace, uint32_t partition)
{
    return partition < trace->n_parts ? trace->parts[partition].device : "";
}
