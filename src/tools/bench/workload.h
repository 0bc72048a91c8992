/* What is asked: prompts made of a seed, the same on every machine and in every order, and when
 * each request may start. A workload knows nothing of HTTP; the runner asks it for the next job,
 * and tells it of every first content and every end. One thread.
 *
 *   closed       n requests, every prompt another, `concurrency` in flight
 *   poisson      the same, arriving at random at a mean rate, however many are in flight
 *   shared       one long preamble, n short questions
 *   multiturn    conversations that send their whole history again with each turn, the server's own
 *                answers in it; as many conversations as are in flight unless said
 *   fewshot      preambles x questions, shuffled
 *   longprefill  one long prompt alone; then `concurrency` streams, and the long prompts one after
 *                the other while they run
 *   code-edit    as closed: a source file of some 60 lines, to be returned with a function renamed
 */
#ifndef TOOLS_BENCH_WORKLOAD_H
#define TOOLS_BENCH_WORKLOAD_H

#include "tools/bench/record.h"

#include "serverd/status.h"

enum scenario {
    SCENARIO_CLOSED,
    SCENARIO_POISSON,
    SCENARIO_SHARED,
    SCENARIO_MULTITURN,
    SCENARIO_FEWSHOT,
    SCENARIO_LONGPREFILL,
    SCENARIO_CODE_EDIT
};
#define SCENARIO_NAMES "closed|poisson|shared|multiturn|fewshot|longprefill|code-edit"

#define WORKLOAD_MAX_REQUESTS 1000000u

struct workload_options {
    enum scenario scenario;
    uint32_t n, concurrency;
    uint32_t prompt_words, prompt_words_max; /* max 0: all alike */
    uint32_t max_tokens, max_tokens_max;     /* max 0: all alike */
    double shared_share;                     /* of closed and poisson: with one preamble in front */
    uint32_t shared_words;
    uint32_t turns, conversations; /* conversations 0: concurrency */
    uint32_t preambles, questions;
    uint32_t long_words, n_long;
    double rate; /* of poisson, requests per second */
    uint64_t seed;
    bool is_chat;
    const char *model;
    const char *extra; /* JSON object that is merged into every body, or NULL */
};

struct workload;

serverd_status workload_create(const struct workload_options *options, struct workload **out,
                               serverd_error *err);
void workload_destroy(struct workload *workload); /* NULL is fine */

uint32_t workload_n_requests(const struct workload *workload);

/* The next job that may start at now_s, with n_running in flight: true, and the record's index,
 * conversation, turn, preamble and is_long. Otherwise *wait_s is how long nothing can become due
 * by time alone. */
bool workload_next(struct workload *workload, double now_s, uint32_t n_running,
                   struct record *record, double *wait_s);

/* The body of the request. */
serverd_status workload_body(struct workload *workload, const struct record *record,
                             struct buffer *out, serverd_error *err);

/* A request ended; a conversation goes on with its text. */
serverd_status workload_done(struct workload *workload, const struct record *record,
                             serverd_error *err);

/* longprefill: chunks that the slowest of the running streams has got; all the same to others. */
void workload_progress(struct workload *workload, size_t least_chunks);

/* All jobs are started and ended, or will not come any more. */
bool workload_is_over(const struct workload *workload);

/* n words of sentences from the generator's state. */
void workload_text(struct buffer *out, uint64_t *state, uint32_t n_words);

/* A source file of n functions, the last of which calls the first. Writes the first one's name. */
#define SOURCE_NAME_BYTES 32
void workload_source(struct buffer *out, uint64_t *state, uint32_t n_functions,
                     char first[SOURCE_NAME_BYTES]);

/* Arrival of a poisson request, seconds from the start. */
double workload_arrival(const struct workload_options *options, uint32_t index);

#endif
