/* The draft model at work: it has keys and values of its own for the tokens of a few sequences, in
 * pages of its own, and continues them greedily, all in the same steps. What it says are guesses,
 * so whatever it lacks (pages, context, tokens) means no guesses and nothing worse. Engine thread
 * only. */
#ifndef SCHEDULER_DRAFT_MODEL_INTERNAL_H
#define SCHEDULER_DRAFT_MODEL_INTERNAL_H

#include "base/clock.h"
#include "runtime/runtime.h"
#include "scheduler/draft_internal.h"
#include "scheduler/draft_model.h"

/* Sequences that it may know at once: those that a step with guesses can have. */
#define DRAFT_MAX_SEQUENCES (DRAFT_MAX_ROWS / 2)

/* Rows of a step for sequences that it has yet to catch up with, so that streams do not stall. */
#define DRAFT_CATCH_UP_ROWS 64u

/* Rows that a sequence needs which it guessed for the last time: the last guess, if all were right,
 * and the token behind it. */
#define DRAFT_STEADY_ROWS 2u

struct draft_model;
struct draft_context; /* what it has of one sequence */
struct sequence;

/* For a model whose tokens are below n_vocab. NULL: no memory. The runtime and the clock outlive
 * it. */
struct draft_model *draft_model_create(struct runtime *runtime, const struct clock *clock,
                                       uint32_t n_vocab);
void draft_model_destroy(struct draft_model *model); /* NULL is fine */

/* Tokens of the sequence that it has to compute before it can guess; at least 1. */
uint32_t draft_model_n_left(const struct sequence *sequence);

/* A place and pages for the next n_rows tokens of the sequence and n_guesses behind them. False:
 * there are none, and it has given up what it had, for others; or it cannot know such a sequence.
 */
bool draft_model_reserve(struct draft_model *model, struct sequence *sequence, uint32_t n_rows,
                         uint32_t n_guesses);
void draft_model_release(struct draft_model *model, struct sequence *sequence);

/* Work on one sequence, after draft_model_reserve. */
struct draft_work {
    struct sequence *sequence;
    uint32_t n_rows;    /* of its tokens: all that are left, if guesses are wanted */
    uint32_t n_guesses; /* 0: it catches up */
    int32_t *out;       /* [n_guesses] */
};

/* Does all of it, of DRAFT_MAX_SEQUENCES sequences at most. *seconds: how long it took. An error is
 * the device's or the numbers'; after one the model is good for nothing any more. */
serverd_status draft_model_guess(struct draft_model *model, const struct draft_work *work,
                                 uint32_t n, double *seconds, serverd_error *err);

bool draft_model_is_good(const struct draft_model *model);

/* Measured: of steps with one row for each sequence; seconds of a row of those that catch up, 0:
 * unknown. */
const struct row_cost *draft_model_step_cost(const struct draft_model *model);
double draft_model_row_seconds(const struct draft_model *model);

/* Its pages add up. */
serverd_status draft_model_audit(const struct draft_model *model, serverd_error *err);

#endif
