/* What an API key may ask for: requests and tokens a minute, a token bucket for each. A bucket
 * holds what a minute allows and is refilled at that rate, so that a burst of a whole minute is
 * fine and the long run is kept. What an amount will be is not always known before: it is reserved,
 * and settled by what was used. A request for more than a bucket holds needs a full one, and what
 * it used beyond that is owed: nothing is taken until time has paid it.
 *
 * Any thread. All times are of the server's clock. */
#ifndef SERVER_RATE_LIMIT_H
#define SERVER_RATE_LIMIT_H

#include "server/api_error.h"

#include <stdbool.h>
#include <stdint.h>

enum rate { RATE_REQUESTS, RATE_TOKENS, N_RATES };

struct rate_limit;

struct rate_limit *rate_limit_create(void);                  /* without limits; NULL: no memory */
struct rate_limit *rate_limit_ref(struct rate_limit *limit); /* NULL is fine, here and below */
void rate_limit_unref(struct rate_limit *limit);

/* Sets what a minute allows, 0: anything. What has been used of the present minute stays used. */
void rate_limit_set(struct rate_limit *limit, const uint32_t per_minute[N_RATES], uint64_t now_ns);

/* Takes an amount, or as much as the bucket holds if that is less: *taken. False: there is too
 * little; in wait_ms, 50..60,000, there may be enough. */
bool rate_limit_take(struct rate_limit *limit, enum rate rate, uint64_t amount, uint64_t now_ns,
                     uint64_t *taken, uint32_t *wait_ms);

/* Of what was taken so much was used: less or more. */
void rate_limit_settle(struct rate_limit *limit, enum rate rate, uint64_t taken, uint64_t used,
                       uint64_t now_ns);

/* The error of a rate_limit_take that failed. */
void rate_limit_error(enum rate rate, uint32_t wait_ms, struct api_error *e);

struct rate_state {
    uint32_t per_minute; /* 0: there is no limit, and the rest says nothing */
    uint32_t n_left;
    uint32_t full_in_seconds; /* rounded up */
};
struct rate_state rate_limit_state(struct rate_limit *limit, enum rate rate, uint64_t now_ns);

#endif
