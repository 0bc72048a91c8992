/* One request as the client saw it, and how its stream is read. */
#ifndef TOOLS_BENCH_RECORD_H
#define TOOLS_BENCH_RECORD_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stdint.h>

#define RECORD_CHUNKS_MAX ((size_t)1 << 20) /* times of further chunks are not kept */

struct record {
    uint32_t index, conversation, turn, preamble;
    bool is_long;  /* the long prompt of scenario longprefill */
    bool is_alone; /* ... without streams beside it */

    double start_s, end_s; /* since the run began */
    double *chunk_s;       /* [n_chunks] arrivals of content since the run began */
    size_t n_chunks, cap_chunks;
    uint32_t n_prompt, n_cached, n_output; /* tokens, of the usage block */
    bool has_usage, is_done;               /* is_done: the stream ended as it should */
    long http_status;
    char finish[16];
    char error[200]; /* "" if it went well */
    struct buffer text;
    bool keeps_text;
};

void record_init(struct record *record);
void record_deinit(struct record *record);

/* The data of one event, at `now_s`: content, usage, an error, or [DONE]. */
void record_event(struct record *record, const char *data, size_t n, double now_s);

/* The first failure is kept. */
void record_fail(struct record *record, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The text of an error reply: its message if it is the API's JSON, else its beginning. */
void record_fail_reply(struct record *record, const char *body, size_t n);

static inline bool record_is_good(const struct record *record)
{
    return record->error[0] == '\0';
}

/* Seconds; 0 without content. Time for each output token after the first. */
double record_ttft(const struct record *record);
double record_tpot(const struct record *record);

#endif
