#ifndef GRAMMAR_MATCHER_INTERNAL_H
#define GRAMMAR_MATCHER_INTERNAL_H

#include "grammar/grammar_internal.h"
#include "grammar/matcher.h"
#include "grammar/run_internal.h"

struct matcher_step {
    struct frame_set tops; /* before the step */
    uint32_t n_bytes;
};

struct matcher {
    struct grammar *grammar;
    struct run run;
    struct frame_set tops, other; /* where it is; where it goes */
    struct matcher_step *steps;   /* a ring */
    uint32_t first_step, n_steps;
};

/* Goes over the bytes as far as possible, without a step: for looks ahead. The caller puts back
 * tops, run.bytes.len and the pool. */
size_t matcher_walk(struct matcher *matcher, const char *text, size_t n);

#endif
