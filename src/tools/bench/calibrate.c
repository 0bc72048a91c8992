#include "tools/bench/calibrate.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "tools/bench/machine_loops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define TRIES       5
#define READ_TRIES  8
#define LOOP_NS     12e6 /* of one try */
#define PART_BYTES  ((size_t)4096)
#define HUGE_PAGE   (2 * MIB)
#define STEADY_MACS 0.03
#define STEADY_READ 0.10

struct calibrator {
    struct worker_pool *pool;
    char *buffer;
    size_t bytes; /* a multiple of the threads' parts */
    uint64_t n_steps[N_MACHINE_ARITHMETIC];
};

struct loop_job {
    const struct machine_loop *loop;
    uint64_t n_steps;
};

static void loop_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)chunk;
    (void)worker;
    const struct loop_job *job = arg;
    job->loop->run(job->n_steps);
}

struct read_job {
    const char *bytes;
    size_t part;
};

static void read_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct read_job *job = arg;
    machine_read(job->bytes + job->part * chunk, job->part);
}

static double seconds_since(uint64_t begin_ns)
{
    return (double)(clock_now_ns(&system_clock) - begin_ns) * 1e-9;
}

/* The number of steps that takes about LOOP_NS on one thread. */
static uint64_t choose_steps(const struct machine_loop *loop)
{
    for (uint64_t n = 1024;; n *= 4) {
        uint64_t begin = clock_now_ns(&system_clock);
        loop->run(n);
        double ns = seconds_since(begin) * 1e9;
        if (ns > LOOP_NS / 8 || n > UINT64_C(1) << 40)
            return (uint64_t)((double)n * LOOP_NS / (ns > 1 ? ns : 1)) + 1;
    }
}

serverd_status calibrator_create(struct worker_pool *pool, size_t buffer_bytes,
                                 struct calibrator **out, serverd_error *err)
{
    struct calibrator *calibrator = calloc(1, sizeof *calibrator);
    if (!calibrator)
        return fail(err, SERVERD_NOMEM, "calibration: no memory");
    size_t unit = PART_BYTES * worker_pool_n_workers(pool);
    calibrator->pool = pool;
    calibrator->bytes = buffer_bytes / unit * unit;
    size_t rounded = (buffer_bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    calibrator->buffer = aligned_alloc(HUGE_PAGE, rounded);
    if (!calibrator->buffer) {
        free(calibrator);
        return fail(err, SERVERD_NOMEM, "calibration: no memory for a buffer of %zu MiB",
                    buffer_bytes / MIB);
    }
    (void)madvise(calibrator->buffer, rounded, MADV_HUGEPAGE); /* fewer TLB misses where it can */
    memset(calibrator->buffer, 1, rounded);
    for (int a = 0; a < N_MACHINE_ARITHMETIC; a++) {
        const struct machine_loop *loop = machine_loop_best((enum machine_arithmetic)a);
        calibrator->n_steps[a] = loop ? choose_steps(loop) : 0;
    }
    *out = calibrator;
    return SERVERD_OK;
}

void calibrator_destroy(struct calibrator *calibrator)
{
    if (!calibrator)
        return;
    free(calibrator->buffer);
    free(calibrator);
}

static double measure_loop(struct calibrator *calibrator, enum machine_arithmetic arithmetic)
{
    struct loop_job job = {machine_loop_best(arithmetic), calibrator->n_steps[arithmetic]};
    uint32_t n_workers = worker_pool_n_workers(calibrator->pool);
    double best = 0;
    for (int i = 0; i < TRIES && job.loop; i++) {
        uint64_t begin = clock_now_ns(&system_clock);
        worker_pool_run(calibrator->pool, n_workers, loop_chunk, &job);
        double macs = job.loop->macs_per_step * (double)job.n_steps * n_workers;
        double rate = macs / seconds_since(begin) / 1e9;
        best = rate > best ? rate : best;
    }
    return best;
}

static double measure_read(struct calibrator *calibrator)
{
    uint32_t n_workers = worker_pool_n_workers(calibrator->pool);
    struct read_job job = {calibrator->buffer, calibrator->bytes / n_workers};
    double best = 0;
    for (int i = 0; i < READ_TRIES; i++) {
        uint64_t begin = clock_now_ns(&system_clock);
        worker_pool_run(calibrator->pool, n_workers, read_chunk, &job);
        double rate = (double)calibrator->bytes / seconds_since(begin) / 1e9;
        best = rate > best ? rate : best;
    }
    return best;
}

struct machine_limits calibrator_run(struct calibrator *calibrator)
{
    return (struct machine_limits){.read_gbps = measure_read(calibrator),
                                   .int8_gmacs = measure_loop(calibrator, MACHINE_INT8),
                                   .bf16_gmacs = measure_loop(calibrator, MACHINE_BF16),
                                   .fp32_gmacs = measure_loop(calibrator, MACHINE_FP32)};
}

void calibrator_describe(char *out, size_t n)
{
    size_t at = 0;
    *out = '\0';
    for (int a = 0; a < N_MACHINE_ARITHMETIC && at < n; a++) {
        const struct machine_loop *loop = machine_loop_best((enum machine_arithmetic)a);
        if (loop)
            at += (size_t)snprintf(out + at, n - at, "%s%s", at ? ", " : "", loop->instruction);
    }
}

static double greater(double a, double b)
{
    return a > b ? a : b;
}

struct machine_limits limits_between(const struct machine_limits *before,
                                     const struct machine_limits *after)
{
    return (struct machine_limits){
        .read_gbps = greater(before->read_gbps, after->read_gbps),
        .int8_gmacs = greater(before->int8_gmacs, after->int8_gmacs),
        .bf16_gmacs = greater(before->bf16_gmacs, after->bf16_gmacs),
        .fp32_gmacs = greater(before->fp32_gmacs, after->fp32_gmacs),
    };
}

static bool is_near(double a, double b, double tolerance)
{
    double top = greater(a, b);
    return top - (a < b ? a : b) <= tolerance * top;
}

bool limits_are_steady(const struct machine_limits *before, const struct machine_limits *after)
{
    return is_near(before->read_gbps, after->read_gbps, STEADY_READ) &&
           is_near(before->int8_gmacs, after->int8_gmacs, STEADY_MACS) &&
           is_near(before->bf16_gmacs, after->bf16_gmacs, STEADY_MACS) &&
           is_near(before->fp32_gmacs, after->fp32_gmacs, STEADY_MACS);
}
