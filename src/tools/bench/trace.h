/* Requests as a trace tells them: when each came, how long prompt and answer are, and which blocks
 * of tokens the prompt is made of. One JSON object a line, the form of the Mooncake traces:
 *
 *   {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 2353]}
 *
 * A hash id stands for `block_tokens` tokens, the last one of a prompt for its first so many; the
 * same id is the same tokens. Further fields, all optional: key (whose request it is), class (a
 * label for the report), priority, cancel_after_ms, deadline_ms (both from the arrival). Fields
 * that are not known are ignored.
 *
 * The tokens of an id are 16 tokens over and over, and an answer goes on with those of the prompt's
 * last id: a trace whose next turn names this id again holds the answer, too. */
#ifndef TOOLS_BENCH_TRACE_H
#define TOOLS_BENCH_TRACE_H

#include "serverd/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define TRACE_VOCABULARY 256u /* tokens 0..2 are control tokens and in no prompt */

#define TRACE_MAX_REQUESTS   10000000u
#define TRACE_MAX_LINE_BYTES (1u << 20)
#define TRACE_MAX_RUNS       (1u << 28) /* of all prompts */
#define TRACE_MAX_NAMES      65536u
#define TRACE_NAME_BYTES     64u
#define TRACE_MAX_MS         1e12 /* of a time */

/* Adjacent blocks with the same id. */
struct trace_run {
    uint64_t id;
    uint32_t n_tokens; /* whole blocks, but for the last of a prompt */
};

struct trace_request {
    uint64_t arrival_ns;      /* from the start, never falling */
    uint64_t cancel_after_ns; /* 0: never */
    uint64_t deadline_ns;     /* behind the arrival; 0: none */
    uint32_t n_prompt, n_output;
    uint32_t first_run, n_runs;
    uint32_t key, class; /* numbers in `names`; 0: none */
    int32_t priority;
};

/* Texts by number, 0 is "". */
struct trace_names {
    char (*text)[TRACE_NAME_BYTES];
    uint32_t n, cap;
    uint32_t *slot; /* open addressing; 0 is empty */
    uint32_t n_slots;
};

struct trace {
    uint32_t block_tokens; /* a multiple of SERVERD_PAGE_TOKENS */
    struct trace_request *requests;
    uint32_t n, cap;
    struct trace_run *runs;
    uint32_t n_runs, runs_cap;
    struct trace_names names;
};

serverd_status trace_init(struct trace *trace, uint32_t block_tokens, serverd_error *err);
void trace_deinit(struct trace *trace); /* also of a zeroed one */

/* The number of a text, new or known; SERVERD_INVALID: too long, or too many. */
serverd_status trace_name(struct trace *trace, const char *text, uint32_t *number,
                          serverd_error *err);
static inline const char *trace_name_text(const struct trace *trace, uint32_t number)
{
    return trace->names.text[number];
}

/* n_tokens more for the prompt of the request to be added next; joins them to an equal run. */
serverd_status trace_add_tokens(struct trace *trace, uint64_t id, uint32_t n_tokens,
                                serverd_error *err);
/* A request whose prompt is what was added since the last one; sets its runs and n_prompt. */
serverd_status trace_add_request(struct trace *trace, const struct trace_request *request,
                                 serverd_error *err);

/* Appends the request of one line; errors name the field. */
serverd_status trace_parse_line(struct trace *trace, const char *line, size_t n,
                                serverd_error *err);
/* Appends all lines of a file; errors name path and line. */
serverd_status trace_read(struct trace *trace, const char *path, serverd_error *err);
serverd_status trace_write(const struct trace *trace, FILE *to, serverd_error *err);

/* The tokens of a prompt. [n_prompt] */
void trace_prompt(const struct trace *trace, const struct trace_request *request, int32_t *tokens);

/* Of all prompt tokens, in whole pages: those that a pool without end, in which every earlier
 * request is done, would have. Requests of different keys share nothing. */
serverd_status trace_optimum(const struct trace *trace, uint64_t *n_cached, serverd_error *err);

#endif
