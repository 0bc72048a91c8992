/* The sub-command simulate: its options, and what it says of a run. */
#ifndef TOOLS_BENCH_SIMULATE_H
#define TOOLS_BENCH_SIMULATE_H

#include "tools/bench/report.h"
#include "tools/bench/simulation.h"

struct simulate_options {
    const char *trace, *label, *jsonl;
    int generate, workload; /* 0: none, else 1 + enum trace_workload */
    uint32_t n, seed, block_tokens;
    double rate;
    uint32_t context_size, n_pages, max_running, prefill_chunk, max_queue, max_queue_tokens;
    double itl_target_ms, queue_timeout_s, wait_bound;
    bool has_prefix_cache;
    struct step_price price;
};

serverd_status simulate_print(const struct simulate_options *options, const struct trace *trace,
                              const struct simulation_result *result, FILE *to, serverd_error *err);

/* One line for each class and key, and one of kind "simulate" for all. */
serverd_status simulate_write_jsonl(const struct simulate_options *options,
                                    const struct trace *trace,
                                    const struct simulation_result *result,
                                    struct json_lines *lines, serverd_error *err);

#endif
