/* The engine: one loaded program, its queue, its KV pool and its thread, and the only owner of
 * running state. Continuous batching: every step takes new requests in, admits the best of the
 * queue (queue.c) while pages and places last, runs all decode rows plus a bounded chunk of
 * prefill rows in one batch, samples, and hands all events out with one call.
 *
 * When pages run out the youngest sequence of the lowest priority gives its pages up, waits at the
 * head of the queue and is computed again from its tokens later: its client sees a pause and the
 * same text.
 *
 * engine_submit, engine_cancel and the readers are for any thread; everything else belongs to
 * the engine's own thread (or to the test that calls engine_step). */
#ifndef SCHEDULER_ENGINE_H
#define SCHEDULER_ENGINE_H

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "kvcache/disk_tier.h"
#include "runtime/runtime.h"
#include "scheduler/adapters.h"
#include "scheduler/inspect.h"
#include "scheduler/request.h"
#include "text/tokenizer.h"

struct engine;
struct disk_tier;

/* Where events go. Called on the engine thread, once per step (more often only if a step has far
 * more events than sequences), without locks held; it must not block. The events are the callee's
 * to read during the call only; what they own (logprobs, embedding, message, inspection) passes to
 * the callee. */
struct event_sink {
    void (*deliver)(void *context, const struct event *events, uint32_t n);
    void *context;
    /* The logits of a step are there; its events will be delivered when tokens have been drawn, in
     * some 50 to 500 us: time enough to wake who waits for them. NULL: nobody wants to know. */
    void (*expect)(void *context);
};

struct engine_options {
    struct runtime *runtime;           /* outlives the engine */
    const struct tokenizer *tokenizer; /* outlives the engine */
    const struct clock *clock;
    struct log *log;         /* may be NULL */
    struct metrics *metrics; /* may be NULL */
    struct event_sink sink;
    uint32_t context_size;  /* tokens of one sequence at most */
    uint32_t max_running;   /* sequences */
    uint32_t prefill_chunk; /* rows of prefill per step at most */
    /* Longest step wanted while sequences decode, which is the gap between two of their tokens:
     * the chunk shrinks to what fits, but not below 8 rows. 0: two and a half times what a step
     * of decode rows alone takes, or more if more prompts wait than streams go on. */
    uint64_t itl_target_ns;
    uint32_t max_draft; /* next tokens of a sequence that are guessed in a step; 0: none */
    /* A smaller model that guesses, too; see draft_model.h. NULL: none. Outlives the engine. */
    struct runtime *draft_runtime;
    bool has_prefix_cache; /* requests with the same beginning compute it once */
    /* Share of the pool that handles may hold, each page counted once; 0: 0.8. */
    double max_pinned_fraction;
    /* A request waits for another one that computes the same beginning if it saves so many tokens
     * or more, in whole pages; 0: 16. */
    uint32_t dedup_min_tokens;
    /* Where prefixes go that are evicted, and all of them when the engine stops; NULL: nowhere.
     * Outlives the engine, for pages of this runtime. */
    struct disk_tier *disk;
    uint32_t max_queue;
    uint64_t max_queue_tokens;
    uint64_t queue_timeout_ns;
    double wait_bound; /* a request is overdue after that multiple of its fair waiting time */
};

serverd_status engine_create(const struct engine_options *options, struct engine **out,
                             serverd_error *err);
serverd_status engine_start(struct engine *engine, serverd_error *err); /* its thread */

/* Takes the request over on success: its events follow, the last is EVENT_END. Failures leave it
 * with the caller: SERVERD_BUSY (queue full), SERVERD_INVALID (prompt too long for the context
 * or the pool, no such adapter), SERVERD_TIMEOUT (deadline over), SERVERD_DEVICE_LOST, or
 * SERVERD_UNSUPPORTED (draining; wrong kind of model). *id receives request->id. */
serverd_status engine_submit(struct engine *engine, struct request *request, uint64_t *id,
                             serverd_error *err);

/* The same for n requests at once, which are in the intake of one step: all, or none and the
 * failure of the first that cannot be. ids [n]. As a whole they need room in the queue. */
serverd_status engine_submit_all(struct engine *engine, struct request *const *requests, uint32_t n,
                                 uint64_t *ids, serverd_error *err);

/* Takes effect within one step; EVENT_END still comes. An unknown or ended id is ignored. Also for
 * inspections. */
void engine_cancel(struct engine *engine, uint64_t request_id);

/* Gives up what a request's hold_ns has kept (EVENT_END's prefix_handle) before its time is over.
 * Any thread; an unknown or expired handle is ignored. Requests go on behind a handle's tokens by
 * beginning with them, in whole pages, and if request.behind names it to the token; any number of
 * them may. Handles give way when pages are short for those who run, or when more than
 * max_pinned_fraction is held, those of the highest hold_rank first and of these the oldest: they
 * save work and promise nothing. */
void engine_release_prefix(struct engine *engine, uint64_t handle);

/* One step on the caller's thread; false if there was nothing to do. For tests. */
bool engine_step(struct engine *engine);

/* A snapshot, never blocking. */
struct engine_status {
    uint32_t n_running, n_waiting, n_pages;
    uint32_t n_free_pages; /* those that hold a prefix which nobody uses now are as good as free */
    uint32_t n_handles, n_held_pages; /* pages that handles hold, each counted once */
    uint64_t n_waiting_tokens;
    uint64_t heartbeat_ns; /* clock when the engine thread last passed its loop */
    uint64_t n_steps;
    bool is_draining, is_lost;
    double tokens_per_second; /* rate of the last seconds, prompt and output */
};
void engine_status(const struct engine *engine, struct engine_status *out);

/* When there will be room: the queue's length by the time between admissions, or, before any was
 * measured, its tokens by the rate of computing; 50..60,000 ms. */
uint32_t engine_retry_after_ms(const struct engine *engine);

/* No new requests: waiting ones end with SERVERD_BUSY, running ones go on, as do runs of programs
 * with all that they still ask for. */
void engine_drain(struct engine *engine);
/* Takes that back, unless the engine has stopped. */
void engine_resume(struct engine *engine);

/* End everything that still runs with SERVERD_BUSY ("shutting down") and join the thread. */
void engine_stop(struct engine *engine);
void engine_destroy(struct engine *engine);

/* Pages and references add up; for tests and idle checks, from the stepping thread. */
serverd_status engine_check(const struct engine *engine, serverd_error *err);

#endif
