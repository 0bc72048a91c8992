/* Who computed which nodes when: what delegates tell the host of their workers (delegate.h,
 * serverd_trace_event), step by step, in rings of fixed size.
 *
 * Every worker has a ring of its own, which nobody else writes: no locks. A full ring goes on over
 * its oldest events, which are counted. Memory is taken when a trace is created, none in a step.
 *
 * What a worker does not compute in a step it waits: for others, or, worker 0, while it hands work
 * out. That is no event; who reads sees it between events.
 *
 * One thread executes and calls begin and end of steps and partitions; workers call trace_add
 * between these. What is recorded may be read while no step runs: by the thread that executes, or
 * by who got the trace from it. */
#ifndef RUNTIME_TRACE_H
#define RUNTIME_TRACE_H

#include "base/clock.h"
#include "serverd/delegate.h"

#include <stdbool.h>

struct placement;

struct trace_event {
    uint64_t start_ns;
    uint32_t duration_ns; /* UINT32_MAX: that or longer */
    uint32_t step;        /* number of the step in this trace, from 0 */
    uint32_t first_node, n_rows;
    uint16_t n_nodes, partition;
    uint16_t worker, reserved;
};

/* Kinds of attention of a model by what a row sees; of more than so many kinds the last ones count
 * as one. */
#define TRACE_SPANS 4u
struct trace_spans {
    uint32_t n;
    struct trace_span {
        uint32_t window, is_causal; /* as serverd_attn */
    } of[TRACE_SPANS];
};

void trace_find_spans(const serverd_graph *graph, struct trace_spans *out);
uint32_t trace_span_of(const struct trace_spans *spans, const serverd_attn *attn);

struct trace_step {
    uint64_t begin_ns, end_ns; /* end 0: it failed, and some events are missing */
    uint64_t number;           /* serverd_batch.step */
    uint32_t step;             /* as in its events */
    uint32_t n_rows, n_seqs, n_logit_rows;
    uint64_t
        n_keys[TRACE_SPANS]; /* tokens that all rows together see, for each kind of attention */
};

struct trace;

struct trace_options {
    const serverd_graph *graph;        /* outlives the trace */
    const struct placement *placement; /* who runs what; is copied */
    uint32_t n_workers;
    uint32_t n_events; /* of each worker; rounded up to a power of two */
    uint32_t n_steps;
    const struct clock *clock; /* outlives the trace */
};

serverd_status trace_create(const struct trace_options *options, struct trace **out,
                            serverd_error *err);
void trace_destroy(struct trace *trace); /* NULL is fine */

/* ---- recording ------------------------------------------------------------------------------ */

/* The clock's time, from a cheaper source where there is one (base/ticks.h). Any thread. */
uint64_t trace_now_ns(const struct trace *trace);

void trace_begin_step(struct trace *trace, const serverd_batch *batch);
void trace_end_step(struct trace *trace); /* it has succeeded */

/* Of a delegate that told nothing, the partition as a whole is an event. */
void trace_begin_partition(struct trace *trace, uint32_t partition);
void trace_end_partition(struct trace *trace);

/* By the worker that event->worker names, or by the thread that executes while no worker computes.
 * Events of one worker come in the order of their times. Those of workers or nodes that do not
 * exist, or that end before they begin, are counted as lost.
 *
 * An event for all rows that goes on with the node of the one before it can only be of other
 * columns, or heads: the two become one. */
void trace_add(struct trace *trace, const serverd_trace_event *event);

/* ---- reading -------------------------------------------------------------------------------- */

/* Steps that are still there, oldest first; events of a worker, oldest first; those that were
 * overwritten or refused, of all workers. */
uint32_t trace_n_steps(const struct trace *trace);
const struct trace_step *trace_step_at(const struct trace *trace, uint32_t i);
uint32_t trace_n_workers(const struct trace *trace);
uint32_t trace_n_events(const struct trace *trace, uint32_t worker);
const struct trace_event *trace_event_at(const struct trace *trace, uint32_t worker, uint32_t i);
uint64_t trace_n_lost(const struct trace *trace);

/* All events of this step and of later ones are there. */
uint32_t trace_first_whole_step(const struct trace *trace);

const serverd_graph *trace_graph(const struct trace *trace);
const char *trace_device(const struct trace *trace, uint32_t partition); /* "cpu", "cpu.1" */

/* ---- what an event is about ----------------------------------------------------------------- */

/* Multiply-adds of a node in a step: of linear layers and attention, 0 of others. */
double trace_node_macs(const serverd_graph *graph, uint32_t node, const struct trace_spans *spans,
                       const struct trace_step *step);

/* The node that an event's time is counted for: the one of its nodes with the most multiply-adds,
 * of equals the first. */
uint32_t trace_main_node(const serverd_graph *graph, uint32_t first_node, uint32_t n_nodes);

#endif
