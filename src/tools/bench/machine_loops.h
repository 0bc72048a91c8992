/* Loops that run at the peak of one kind of arithmetic, for calibration. Each keeps twelve (on
 * tiles four) independent accumulators in registers, so that latency does not count; they are
 * written in assembly, because a compiler merges chains that it sees to be equal and the result
 * is then wrong by up to two. No memory is read inside. */
#ifndef TOOLS_BENCH_MACHINE_LOOPS_H
#define TOOLS_BENCH_MACHINE_LOOPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum machine_arithmetic { MACHINE_INT8, MACHINE_BF16, MACHINE_FP32, N_MACHINE_ARITHMETIC };

struct machine_loop {
    enum machine_arithmetic arithmetic;
    const char *instruction; /* "vpdpbusd zmm" */
    double macs_per_step;
    bool (*is_here)(void);
    void (*run)(uint64_t n_steps); /* on the calling thread */
};

/* The fastest of this machine; NULL: it has none. */
const struct machine_loop *machine_loop_best(enum machine_arithmetic arithmetic);

/* Reads n bytes, aligned to 64, in four streams; n is a multiple of 1024. */
void machine_read(const void *bytes, size_t n);

#endif
