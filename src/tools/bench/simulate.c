/* serverd-bench simulate: a trace through the scheduler in virtual time. */
#include "tools/bench/simulate.h"

#include "base/error.h"
#include "tools/bench/commands.h"
#include "tools/bench/trace_workloads.h"

#define TRACE_BLOCK    512u /* of the published traces */
#define WORKLOAD_BLOCK (SERVERD_PAGE_TOKENS > 16 ? SERVERD_PAGE_TOKENS : 16u) /* whole pages */

static serverd_status make_trace(const struct simulate_options *o, int workload,
                                 struct trace *trace, serverd_error *err)
{
    uint32_t block = o->block_tokens ? o->block_tokens : workload ? WORKLOAD_BLOCK : TRACE_BLOCK;
    serverd_status status = trace_init(trace, block, err);
    if (status != SERVERD_OK)
        return status;
    if (!workload)
        return trace_read(trace, o->trace, err);
    const struct trace_workload_options options = {.workload = (enum trace_workload)(workload - 1),
                                                   .n = o->n,
                                                   .rate = o->rate,
                                                   .seed = o->seed};
    return trace_generate(trace, &options, err);
}

static serverd_status run_trace(const struct simulate_options *o, const struct trace *trace,
                                serverd_error *err)
{
    const struct virtual_engine_options options = {
        .price = o->price,
        .n_vocab = TRACE_VOCABULARY,
        .context_size = o->context_size,
        .n_pages = o->n_pages,
        .max_running = o->max_running,
        .prefill_chunk = o->prefill_chunk,
        .max_queue = o->max_queue,
        .max_queue_tokens = o->max_queue_tokens,
        .itl_target_ns = (uint64_t)(o->itl_target_ms * 1e6),
        .queue_timeout_ns = (uint64_t)(o->queue_timeout_s * 1e9),
        .has_prefix_cache = o->has_prefix_cache,
        .wait_bound = o->wait_bound,
    };
    struct simulation_result result = {0};
    struct json_lines lines;
    if (json_lines_open(&lines, o->jsonl, err))
        return err->code;
    serverd_status status = simulate(trace, &options, &result, err);
    if (status == SERVERD_OK)
        status = simulate_print(o, trace, &result, stdout, err);
    if (status == SERVERD_OK)
        status = simulate_write_jsonl(o, trace, &result, &lines, err);
    simulation_result_deinit(&result);
    json_lines_close(&lines);
    return status;
}

static serverd_status bench_simulate_run(const void *values, serverd_error *err)
{
    const struct simulate_options *o = values;
    struct trace trace = {0};
    if ((o->trace != NULL) + (o->generate > 0) + (o->workload > 0) != 1)
        return fail(err, SERVERD_INVALID,
                    "simulate: takes a trace, or --workload, or --generate; one of them");
    serverd_status status = make_trace(o, o->generate ? o->generate : o->workload, &trace, err);
    if (status == SERVERD_OK)
        status = o->generate ? trace_write(&trace, stdout, err) : run_trace(o, &trace, err);
    trace_deinit(&trace);
    return status;
}

#define AT(field) offsetof(struct simulate_options, field)
#define WORKLOADS "none|" TRACE_WORKLOAD_NAMES

static const struct command_option rows[] = {
    {"trace", 't', COMMAND_STRING, AT(trace), "FILE", NULL, 0, 0, "Trace of JSON lines to run"},
    {"workload", 'w', COMMAND_CHOICE, AT(workload), WORKLOADS, "none", 0, 0,
     "Run a trace made of a seed instead"},
    {"generate", 'g', COMMAND_CHOICE, AT(generate), WORKLOADS, "none", 0, 0,
     "Print such a trace and run nothing"},
    {"requests", 'n', COMMAND_COUNT, AT(n), "N", "0", 0, TRACE_MAX_REQUESTS,
     "Requests of the workload; 0: as many as its description has"},
    {"rate", 'r', COMMAND_FLOAT, AT(rate), "R", "0", 0, 1e6,
     "Its arrivals per second, at random; 0: all at once"},
    {"seed", 's', COMMAND_COUNT, AT(seed), "N", "1", 0, 4294967295.0, "Its seed"},
    {"block-tokens", 0, COMMAND_COUNT, AT(block_tokens), "TOKENS", "0", 0, 65536,
     "Tokens of a hash id; 0: 512 of a trace, 16 of a workload"},
    {"ctx-size", 0, COMMAND_COUNT, AT(context_size), "TOKENS", "8192", 16, 1048576,
     "Longest prompt plus answer"},
    {"kv-pages", 0, COMMAND_COUNT, AT(n_pages), "N", "4096", 1, 100000000, "Pages in the KV pool"},
    {"max-running", 0, COMMAND_COUNT, AT(max_running), "N", "16", 1, 4096,
     "Sequences that run at once"},
    {"prefill-chunk", 0, COMMAND_COUNT, AT(prefill_chunk), "TOKENS", "512", 16, 8192,
     "Prompt tokens computed in one step at most"},
    {"itl-target-ms", 0, COMMAND_FLOAT, AT(itl_target_ms), "MS", "0", 0, 60000,
     "Longest gap wanted between two tokens of a stream; 0: two and a half times the gap without "
     "prefill"},
    {"prefix-cache", 0, COMMAND_FLAG, AT(has_prefix_cache), NULL, "true", 0, 0,
     "Requests with the same beginning compute it once"},
    {"max-queue", 0, COMMAND_COUNT, AT(max_queue), "N", "1000000", 1, TRACE_MAX_REQUESTS,
     "Requests that may wait; more are refused"},
    {"max-queue-tokens", 0, COMMAND_COUNT, AT(max_queue_tokens), "TOKENS", "2000000000", 1,
     4294967295.0, "Prompt tokens that may wait; more are refused"},
    {"queue-timeout", 0, COMMAND_FLOAT, AT(queue_timeout_s), "SECONDS", "0", 0, 1e6,
     "Longest wait in the queue; 0: any"},
    {"queue-wait-bound", 0, COMMAND_FLOAT, AT(wait_bound), "X", "2", 1, 1000,
     "Requests behind a cached prefix go first, until others have waited for X times their fair "
     "time"},
    {"cost-step-ms", 0, COMMAND_FLOAT, AT(price.step_ms), "MS", "2.5", 0, 60000,
     "A step lasts at least so long"},
    {"cost-row-ms", 0, COMMAND_FLOAT, AT(price.row_ms), "MS", "0.5", 0, 60000,
     "Or so long for each row"},
    {"cost-context-us", 0, COMMAND_FLOAT, AT(price.context_us), "US", "0.25", 0, 60000,
     "And longer for each row and token that it sees"},
    {"cost-sequence-ms", 0, COMMAND_FLOAT, AT(price.sequence_ms), "MS", "0.5", 0, 60000,
     "And for each sequence"},
    {"label", 0, COMMAND_STRING, AT(label), "TEXT", NULL, 0, 0, "Name of the run in the report"},
    {"jsonl", 'o', COMMAND_STRING, AT(jsonl), "FILE", NULL, 0, 0, "Append JSON lines to this file"},
};

const struct command bench_simulate = {
    .name = "simulate",
    .summary = "The scheduler in virtual time: long traces in seconds, without a model",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
    .bare = {"trace"},
    .run = bench_simulate_run,
    .values_bytes = sizeof(struct simulate_options),
};
