/* The object "timings", as llama-server has it: what a prompt and its output took. */
#ifndef SERVER_DIALECTS_TIMINGS_H
#define SERVER_DIALECTS_TIMINGS_H

#include "base/buffer.h"

#include <stdint.h>

struct timings {
    uint64_t n_prompt, n_cached, n_output; /* tokens; the prompt's those that were cached, too */
    uint64_t n_drafts,
        n_drafts_right; /* guessed tokens; 0: there were none, or it is not known yet */
    /* The clock when the prompt was begun, at the first token, and now. */
    uint64_t begin_ns, first_token_ns, end_ns;
};

void timings_write(const struct timings *timings, struct buffer *out);

#endif
