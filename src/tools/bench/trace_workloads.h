/* Traces made of a seed: each workload is a few kinds of requests, mixed. The same options give the
 * same trace on every machine.
 *
 *   hot-cold             95 % over four preambles, 5 % with prompts that nobody shares
 *   tenants              one key asks for 90 % of the work, four others for the rest
 *   multiturn            conversations of four turns that send their whole history
 *   preambles            24 preambles, questions shuffled (8 for each at n = 192)
 *   mixed                prompts of 100 to 1,500 tokens, half with one preamble; answers of 16 to
 * 128 long-behind-streams  streams; then, from two seconds on, prompts of 4,096 tokens */
#ifndef TOOLS_BENCH_TRACE_WORKLOADS_H
#define TOOLS_BENCH_TRACE_WORKLOADS_H

#include "tools/bench/trace.h"

enum trace_workload {
    TRACE_HOT_COLD,
    TRACE_TENANTS,
    TRACE_MULTITURN,
    TRACE_PREAMBLES,
    TRACE_MIXED,
    TRACE_LONG_BEHIND_STREAMS
};
#define TRACE_WORKLOAD_NAMES "hot-cold|tenants|multiturn|preambles|mixed|long-behind-streams"

struct trace_workload_options {
    enum trace_workload workload;
    uint32_t n;    /* requests; 0: as many as the workload's description has */
    double rate;   /* mean arrivals per second, at random; 0: all at once */
    uint64_t seed; /* also of the ids, so that traces of other seeds share nothing */
};

/* Appends to a trace that trace_init has made. Shared parts are rounded up to whole blocks. */
serverd_status trace_generate(struct trace *trace, const struct trace_workload_options *options,
                              serverd_error *err);

#endif
