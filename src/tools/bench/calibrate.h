/* What the machine can do at this moment, measured on the threads of a worker pool: the limits
 * that shares are computed of. Compute peaks repeat within a percent; bandwidth and, on a shared
 * machine, everything else does not, so a share is only worth something with limits of the same
 * run, taken before and after the measurement. One caller at a time, between steps. */
#ifndef TOOLS_BENCH_CALIBRATE_H
#define TOOLS_BENCH_CALIBRATE_H

#include "runtime/worker_pool.h"

#include <stdbool.h>
#include <stddef.h>

/* GB/s and 10^9 multiply-adds per second, all threads together; 0: not there. */
struct machine_limits {
    double read_gbps, int8_gmacs, bf16_gmacs, fp32_gmacs;
};

struct calibrator;

/* `buffer_bytes` is read for the bandwidth: many times the last cache. The pool outlives it. */
serverd_status calibrator_create(struct worker_pool *pool, size_t buffer_bytes,
                                 struct calibrator **out, serverd_error *err);
void calibrator_destroy(struct calibrator *calibrator); /* NULL is fine */

/* A quarter of a second. The best of several tries each. */
struct machine_limits calibrator_run(struct calibrator *calibrator);

/* "vpdpbusd zmm, vdpbf16ps zmm, vfmadd231ps zmm": what the peaks are made of. */
void calibrator_describe(char *out, size_t n);

/* The limit of a measurement between two calibrations: the greater of the two each. */
struct machine_limits limits_between(const struct machine_limits *before,
                                     const struct machine_limits *after);

/* That compute moved by at most 3 % and bandwidth by at most 10 %. */
bool limits_are_steady(const struct machine_limits *before, const struct machine_limits *after);

#endif
