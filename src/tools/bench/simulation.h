/* A trace through the real scheduler in virtual time: what happened to each request, and what that
 * comes to. Requests arrive when the trace says; time in which nothing can run is skipped. */
#ifndef TOOLS_BENCH_SIMULATION_H
#define TOOLS_BENCH_SIMULATION_H

#include "tools/bench/durations.h"
#include "tools/bench/trace.h"
#include "tools/bench/virtual_engine.h"

/* Requests of a class, of a key, or all. */
struct simulated_group {
    uint32_t n, n_done, n_refused, n_failed, n_cancelled; /* sum of the last four: n */
    uint64_t n_prompt, n_cached, n_output;                /* tokens of those that were admitted */
    struct durations queue, ttft, itl;                    /* queue: of all that were admitted */
};

#define SIMULATED_GROUPS 24u /* classes and keys that are told apart; further ones are one more */

struct simulation_result {
    struct simulated_group *all;
    /* By name number of the trace, in the order of their first requests; the last one of
     * SIMULATED_GROUPS + 1 is of all others. */
    uint32_t n_classes, n_keys;
    uint32_t class_name[SIMULATED_GROUPS + 1], key_name[SIMULATED_GROUPS + 1];
    struct simulated_group *class[SIMULATED_GROUPS + 1], *key[SIMULATED_GROUPS + 1];

    double makespan_s;                                  /* first arrival to last end, virtual */
    uint64_t n_steps, n_rows, n_preemptions, n_optimum; /* n_optimum: tokens, see trace_optimum */
    double busy_s;                                      /* of the makespan, in steps */
    double wall_s;                                      /* real time of it all */
    double scheduler_us;   /* real time per step without device and this program's own part */
    char first_error[160]; /* of a refusal or failure; "" */
};

/* options->sink is not looked at. SERVERD_INTERNAL: the scheduler lost a request or a page, or
 * stands still. */
serverd_status simulate(const struct trace *trace, const struct virtual_engine_options *options,
                        struct simulation_result *out, serverd_error *err);
void simulation_result_deinit(struct simulation_result *result); /* also of a zeroed one */

/* NULL: there is none of that name. */
const struct simulated_group *simulation_find_class(const struct trace *trace,
                                                    const struct simulation_result *result,
                                                    const char *name);
const struct simulated_group *simulation_find_key(const struct trace *trace,
                                                  const struct simulation_result *result,
                                                  const char *name);

#endif
