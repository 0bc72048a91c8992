#include "server/rate_limit.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define MINUTE_NS    60e9
#define LEAST_WAIT   50.0 /* ms */
#define LONGEST_WAIT 60000.0

/* So much less than an amount is as good as it: sums of fractions. */
#define ROUNDING 1e-6

struct bucket {
    uint32_t per_minute; /* its size; 0: no limit */
    double level;        /* negative: owed */
    uint64_t filled_ns;
};

struct rate_limit {
    _Atomic uint32_t references;
    pthread_mutex_t lock; /* of the buckets */
    struct bucket buckets[N_RATES];
};

struct rate_limit *rate_limit_create(void)
{
    struct rate_limit *limit = calloc(1, sizeof *limit);
    if (!limit)
        return NULL;
    atomic_init(&limit->references, 1);
    (void)pthread_mutex_init(&limit->lock, NULL);
    return limit;
}

struct rate_limit *rate_limit_ref(struct rate_limit *limit)
{
    if (limit)
        atomic_fetch_add(&limit->references, 1);
    return limit;
}

void rate_limit_unref(struct rate_limit *limit)
{
    if (!limit || atomic_fetch_sub(&limit->references, 1) != 1)
        return;
    (void)pthread_mutex_destroy(&limit->lock);
    free(limit);
}

static void fill(struct bucket *bucket, uint64_t now_ns)
{
    if (now_ns <= bucket->filled_ns)
        return;
    const double passed = (double)(now_ns - bucket->filled_ns) / MINUTE_NS;
    bucket->level = fmin(bucket->per_minute, bucket->level + passed * bucket->per_minute);
    bucket->filled_ns = now_ns;
}

void rate_limit_set(struct rate_limit *limit, const uint32_t per_minute[N_RATES], uint64_t now_ns)
{
    (void)pthread_mutex_lock(&limit->lock);
    for (int i = 0; i < N_RATES; i++) {
        struct bucket *bucket = &limit->buckets[i];
        fill(bucket, now_ns);
        const double used = bucket->per_minute > 0 ? bucket->per_minute - bucket->level : 0.0;
        bucket->level = per_minute[i] - used;
        bucket->per_minute = per_minute[i];
        bucket->filled_ns = now_ns;
    }
    (void)pthread_mutex_unlock(&limit->lock);
}

bool rate_limit_take(struct rate_limit *limit, enum rate rate, uint64_t amount, uint64_t now_ns,
                     uint64_t *taken, uint32_t *wait_ms)
{
    *taken = 0;
    if (!limit)
        return true;
    (void)pthread_mutex_lock(&limit->lock);
    struct bucket *bucket = &limit->buckets[rate];
    fill(bucket, now_ns);
    const uint64_t wanted = amount < bucket->per_minute ? amount : bucket->per_minute;
    const double missing = (double)wanted - bucket->level;
    const bool is_there = bucket->per_minute == 0 || missing <= ROUNDING;
    if (is_there) {
        bucket->level -= (double)wanted;
        *taken = wanted;
    } else {
        const double ms = ceil(missing / bucket->per_minute * MINUTE_NS * 1e-6 - ROUNDING);
        *wait_ms = (uint32_t)fmin(fmax(ms, LEAST_WAIT), LONGEST_WAIT);
    }
    (void)pthread_mutex_unlock(&limit->lock);
    return is_there;
}

void rate_limit_settle(struct rate_limit *limit, enum rate rate, uint64_t taken, uint64_t used,
                       uint64_t now_ns)
{
    if (!limit)
        return;
    (void)pthread_mutex_lock(&limit->lock);
    struct bucket *bucket = &limit->buckets[rate];
    fill(bucket, now_ns);
    if (bucket->per_minute > 0)
        bucket->level = fmin(bucket->per_minute, bucket->level + (double)taken - (double)used);
    (void)pthread_mutex_unlock(&limit->lock);
}

void rate_limit_error(enum rate rate, uint32_t wait_ms, struct api_error *e)
{
    api_error_set(e, "rate_limit_exceeded", NULL,
                  "This API key has reached its limit of %s per minute. Please try again in "
                  "%.1fs.",
                  rate == RATE_REQUESTS ? "requests" : "tokens", wait_ms / 1000.0);
    e->retry_after_ms = wait_ms;
}

struct rate_state rate_limit_state(struct rate_limit *limit, enum rate rate, uint64_t now_ns)
{
    struct rate_state state = {0};
    if (!limit)
        return state;
    (void)pthread_mutex_lock(&limit->lock);
    struct bucket *bucket = &limit->buckets[rate];
    fill(bucket, now_ns);
    state.per_minute = bucket->per_minute;
    if (state.per_minute > 0) {
        const double missing = bucket->per_minute - bucket->level;
        state.n_left = (uint32_t)fmax(0.0, floor(bucket->level + ROUNDING));
        state.full_in_seconds =
            (uint32_t)fmin(ceil(missing / bucket->per_minute * 60.0 - ROUNDING), UINT32_MAX);
    }
    (void)pthread_mutex_unlock(&limit->lock);
    return state;
}
