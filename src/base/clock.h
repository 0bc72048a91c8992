/* The one clock. Monotonic for everything that measures or waits; wall time only for the
 * `created` fields, logs and templates. Tests hand in a virtual clock. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

struct clock {
    uint64_t (*now_ns)(void *context);      /* monotonic */
    int64_t (*wall_seconds)(void *context); /* Unix time */
    void *context;
};

/* The machine's clock. */
extern const struct clock system_clock;

/* Processor time of the calling thread, for bounds on what a request may make it work: a busy
 * machine refuses nothing that an idle one takes. The wall's time is that of system_clock. */
extern const struct clock processor_clock;

static inline uint64_t clock_now_ns(const struct clock *clock)
{
    return clock->now_ns(clock->context);
}

/* From one time to another; 0 if it is not known when that was (0), or in the wrong order. */
static inline double clock_ms_between(uint64_t begin_ns, uint64_t end_ns)
{
    return begin_ns > 0 && end_ns > begin_ns ? (double)(end_ns - begin_ns) * 1e-6 : 0.0;
}

static inline int64_t clock_wall_seconds(const struct clock *clock)
{
    return clock->wall_seconds(clock->context);
}

#endif
