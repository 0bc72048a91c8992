/* A device that computes nothing and takes virtual time: each step moves a clock on by what a model
 * of costs says. Its answers go on with the tokens 16 before them (trace.h says why). One thread.
 */
#ifndef TOOLS_BENCH_VIRTUAL_DEVICE_H
#define TOOLS_BENCH_VIRTUAL_DEVICE_H

#include "base/clock.h"
#include "program/program.h"
#include "serverd/delegate.h"

/* A step takes max(step_ms, rows * row_ms): few rows wait for the weights, many for arithmetic. To
 * that comes context_us for each row and token that it sees, and sequence_ms for each sequence
 * (its logits, its draw). */
struct step_price {
    double step_ms, row_ms, context_us, sequence_ms;
};

struct virtual_machine {
    struct step_price price;
    uint64_t now_ns; /* what its clock shows; anybody may move it on between steps */
    /* Counters since the beginning. */
    uint64_t n_steps, n_rows;
    uint64_t busy_ns; /* virtual time in steps */
    uint64_t real_ns; /* of the machine that simulates, in execute */
};

double step_price_ms(const struct step_price *price, uint32_t n_rows, uint32_t n_seqs,
                     uint64_t context);

/* A clock that stands still between steps; the machine outlives it. */
struct clock virtual_clock(struct virtual_machine *machine);

/* Takes the programs of virtual_program and no others. */
extern const serverd_delegate virtual_delegate;

/* A model of n_vocab tokens, of which 2 is the end and the first three are control tokens. Its one
 * constant is the machine that it runs on, which outlives it. NULL: no memory. */
struct program *virtual_program(struct virtual_machine *machine, uint32_t n_vocab);

#endif
