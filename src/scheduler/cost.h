/* What a step costs, learned from the steps that were run: decode rows as a constant and a share
 * for each sequence; prefill rows a share for each, and one for each token of context that a row
 * attends to, which outweighs the former in long prompts.
 *
 *   seconds = base + n_decode * per_sequence + n_prefill * per_row + context * per_pair
 *
 * Both pairs of numbers are least squares over the last steps, older ones counting less. */
#ifndef SCHEDULER_COST_H
#define SCHEDULER_COST_H

#include <stdint.h>

/* The rows of a step. */
struct step_work {
    uint32_t n_decode;      /* sequences that decode */
    uint32_t n_prefill;     /* rows of prefill */
    double prefill_context; /* tokens that these attend to, all together */
};

/* Weighted sums for y = a u + b v. */
struct plane_fit {
    double uu, uv, vv, uy, vy;
};

/* Zero: nothing is known. */
struct step_cost {
    struct plane_fit decode, prefill;
};

void cost_learn(struct step_cost *cost, const struct step_work *work, double seconds);

/* A step of decode rows alone; 0: not known. */
double cost_of_decode(const struct step_cost *cost, uint32_t n_decode);

/* Of a row of prefill without context; 0: not known. */
double cost_of_prefill_row(const struct step_cost *cost);

/* Rows of prefill behind `n_before` tokens; 0: not known. */
double cost_of_prefill(const struct step_cost *cost, uint32_t n_rows, uint32_t n_before);

/* Rows of prefill behind `n_before` tokens that take `seconds`; `most` if that is not known. */
uint32_t cost_prefill_rows(const struct step_cost *cost, double seconds, uint32_t n_before,
                           uint32_t most);

#endif
