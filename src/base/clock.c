#include "base/clock.h"

#include <stddef.h>
#include <time.h>

static uint64_t system_now_ns(void *context)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t); /* cannot fail for this clock */
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int64_t system_wall_seconds(void *context)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t); /* cannot fail for this clock */
    return (int64_t)t.tv_sec;
}

static uint64_t processor_now_ns(void *context)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* cannot fail for this clock */
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

const struct clock system_clock = {system_now_ns, system_wall_seconds, NULL};
const struct clock processor_clock = {processor_now_ns, system_wall_seconds, NULL};
