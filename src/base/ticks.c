#include "base/ticks.h"

#include "base/file.h"
#include "base/limits.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CLOCK_SOURCE "/sys/devices/system/clocksource/clocksource0/current_clocksource"

/* The rate is measured for so long at first; then for as long as the counter is in use. */
#define MEASURE_NS 2000000u

/* A thread that is interrupted between the two looks of a pair says nothing. */
#define PAIR_TRIES 8

static uint64_t look(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
}

static bool has_counter(void)
{
#if defined(__x86_64__)
    char *text;
    size_t len;
    serverd_error ignored; /* no such file: no counter */
    if (file_read(CLOCK_SOURCE, 4 * KIB, &text, &len, &ignored) != SERVERD_OK)
        return false;
    bool is_tsc = strcmp(text, "tsc\n") == 0;
    free(text);
    return is_tsc;
#else
    return false;
#endif
}

/* The count at a time of the clock: of several tries the one that took least. */
static void take_pair(const struct ticks *ticks, uint64_t *count, uint64_t *ns)
{
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < PAIR_TRIES; i++) {
        uint64_t before = look(), now = clock_now_ns(ticks->clock), after = look();
        if (after - before < least) {
            least = after - before;
            *count = before + (after - before) / 2;
            *ns = now;
        }
    }
}

void ticks_renew(struct ticks *ticks)
{
    if (!ticks->has_counter)
        return;
    take_pair(ticks, &ticks->count, &ticks->ns);
    uint64_t counts = ticks->count - ticks->first_count, ns = ticks->ns - ticks->first_ns;
    if (counts > 0)
        ticks->ns_per_2e32 = (uint64_t)(((unsigned __int128)ns << 32) / counts);
}

void ticks_start(struct ticks *ticks, const struct clock *clock)
{
    *ticks = (struct ticks){.clock = clock, .has_counter = clock == &system_clock && has_counter()};
    if (!ticks->has_counter)
        return;
    take_pair(ticks, &ticks->first_count, &ticks->first_ns);
    const struct timespec wait = {.tv_nsec = MEASURE_NS};
    (void)nanosleep(&wait, NULL); /* a shorter one does as well, nearly */
    ticks_renew(ticks);
}
