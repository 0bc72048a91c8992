/* What guessing the next tokens of a sequence needs to remember; the guessing is draft.c's. */
#ifndef SCHEDULER_DRAFT_INTERNAL_H
#define SCHEDULER_DRAFT_INTERNAL_H

#include <stdint.h>

/* A step with guesses has no more rows. */
#define DRAFT_MAX_ROWS 16u

/* What speaks for a guess. */
enum draft_source {
    DRAFT_SHORT,   /* a few of the sequence's last tokens have occurred in it before */
    DRAFT_LONG,    /* many of them */
    DRAFT_TREE,    /* a sequence with the very same tokens has gone on like this */
    DRAFT_GRAMMAR, /* the grammar leaves no choice */
    DRAFT_MODEL,   /* a smaller model says so */
    DRAFT_N_SOURCES
};

/* Of one sequence. */
struct drafter;
void drafter_destroy(struct drafter *drafter); /* NULL is fine */

/* Measured time of steps without prefill: first * (1 + more * (rows - 1)). */
struct row_cost {
    double first; /* seconds; 0: nothing measured */
    double more;
    uint32_t n_learned; /* steps of more than one row */
};

/* Of n rows, in first rows. */
double row_cost_of(const struct row_cost *cost, uint32_t n_rows);
void row_cost_learn(struct row_cost *cost, uint32_t n_rows, double seconds);

#endif
