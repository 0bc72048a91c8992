/* Nanoseconds of the machine's clock for who looks thousands of times in a step of milliseconds. A
 * look at the system's own clock lets the processor finish all loads that are under way first,
 * which costs a stream of weights more than the look itself; the processor's counter does not wait.
 *
 * It is used where the kernel itself keeps time by it, which is where all processors agree on it.
 */
#ifndef BASE_TICKS_H
#define BASE_TICKS_H

#include "base/clock.h"

#include <stdbool.h>

struct ticks {
    const struct clock *clock;
    bool has_counter;               /* else the clock itself is looked at */
    uint64_t first_count, first_ns; /* since when its rate is measured */
    uint64_t count, ns;             /* since when time is told */
    uint64_t ns_per_2e32;           /* counts */
};

/* Takes some milliseconds where the counter is used, which is for system_clock only. */
void ticks_start(struct ticks *ticks, const struct clock *clock);

/* Brings the counter and the clock together again, as they part by some microseconds a second. By
 * one thread, while no other looks. */
void ticks_renew(struct ticks *ticks);

static inline uint64_t ticks_now_ns(const struct ticks *ticks)
{
#if defined(__x86_64__)
    if (ticks->has_counter) {
        int64_t n = (int64_t)(__builtin_ia32_rdtsc() - ticks->count);
        return ticks->ns + (uint64_t)(int64_t)((__int128)n * (int64_t)ticks->ns_per_2e32 >> 32);
    }
#endif
    return clock_now_ns(ticks->clock);
}

#endif
