#include "base/error.h"
#include "scheduler/engine_internal.h"

#include <stdlib.h>

/* ---- lists ------------------------------------------------------------------------------- */

void live_insert(struct engine *engine, struct job *job)
{
    job->live_next = engine->live;
    if (engine->live)
        engine->live->live_prev = job;
    engine->live = job;
}

static void live_remove(struct engine *engine, struct job *job)
{
    *(job->live_prev ? &job->live_prev->live_next : &engine->live) = job->live_next;
    if (job->live_next)
        job->live_next->live_prev = job->live_prev;
}

/* Drops entries that no longer run; the others keep their order. */
void engine_compact(struct engine *engine)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < engine->n_running; i++)
        if (engine->running[i]->state == SEQUENCE_RUNNING)
            engine->running[n++] = engine->running[i];
    engine->n_running = n;
}

/* ---- endings ----------------------------------------------------------------------------- */

void job_finish(struct engine *engine, struct job *job)
{
    if (job->is_ending)
        return;
    job->is_ending = true;
    job->ending_next = engine->ending;
    engine->ending = job;
}

void job_fail(struct engine *engine, struct job *job, const serverd_error *err)
{
    if (job->is_ending)
        return;
    job->failure = *err;
    job_finish(engine, job);
}

void engine_give_pages(struct engine *engine, struct sequence *s)
{
    windows_release(engine, s);
    if (s->n_pages > s->n_shared)
        page_pool_give(engine->pool, s->page + s->n_shared, s->n_pages - s->n_shared);
    if (engine->tree)
        radix_tree_release(engine->tree, &s->hold);
    draft_model_release(engine->draft_model, s);
    s->n_pages = s->n_shared = 0;
    s->n_computed = 0;
}

void engine_release(struct engine *engine, struct sequence *s)
{
    if (s->state == SEQUENCE_WAITING)
        waiting_remove(engine, s);
    s->state = SEQUENCE_DONE;
    if (s->job->request->hold_ns > 0 && s->choice == 0 && !s->job->is_ending)
        handles_keep(engine, s);
    engine_give_pages(engine, s);
}

void engine_wait(struct engine *engine, struct sequence *s)
{
    engine_give_pages(engine, s);
    s->state = SEQUENCE_WAITING;
    waiting_insert(engine, s);
}

static void end_job(struct engine *engine, struct job *job)
{
    engine_unqueue(engine, job);
    engine_forget(engine, job);
    live_remove(engine, job);
    engine_end_event(engine, job);
    adapters_release(engine, job);
    tenant_leave(engine, job);
    while (job->sequences) {
        struct sequence *s = job->sequences;
        job->sequences = s->sibling;
        sequence_destroy(s);
    }
    request_destroy(job->request);
    free(job);
}

/* The one place where jobs end. */
void engine_sweep(struct engine *engine)
{
    if (!engine->ending)
        return;
    bool has_bad_numbers = false;
    for (struct job *job = engine->ending; job; job = job->ending_next) {
        const bool is_bad = job->failure.code == SERVERD_NUMERIC;
        has_bad_numbers |= is_bad;
        for (struct sequence *s = job->sequences; s && is_bad; s = s->sibling)
            tier_forget(engine, s);
        for (struct sequence *s = job->sequences; s; s = s->sibling)
            if (s->state != SEQUENCE_DONE)
                engine_release(engine, s);
    }
    if (has_bad_numbers)
        engine_forget_prefixes(engine);
    engine_compact(engine);
    while (engine->ending) {
        struct job *job = engine->ending;
        engine->ending = job->ending_next;
        end_job(engine, job);
    }
}

void engine_end_all(struct engine *engine, serverd_status code, const char *text)
{
    serverd_error err;
    (void)fail(&err, code, "%s", text);
    for (struct job *job = engine->live; job; job = job->live_next)
        job_fail(engine, job, &err);
    engine_sweep(engine);
}
