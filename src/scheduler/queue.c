/* Who is next. Among those of the highest priority:
 *
 *   1. sequences that ran already and had to give their pages up, oldest first;
 *   2. the tenant (API key) that was served least for its weight;
 *   3. of that tenant's requests those that are overdue, oldest first: they have waited for a
 *      multiple of their fair time, which is the time that those before them should have taken;
 *   4. the greatest response ratio, (wait + service) / service, where service is the time that
 *      the tokens take that the prefix tree does not have: a request behind a cached prefix is
 *      soon first, and a cold one rises until it is (Brinch Hansen's highest response ratio next).
 *
 * A request stands back while another one computes the beginning that both have. */
#include "scheduler/engine_internal.h"

#include "base/hash.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PAGE SERVERD_PAGE_TOKENS

/* What a prefill row is taken to cost before one was measured, and the least service. */
#define UNKNOWN_ROW_SECONDS 0.5e-3
#define LEAST_SERVICE_ROWS  16.0

/* The least fair time: running sequences end when they do. */
#define LEAST_FAIR_SECONDS 0.5

/* A common beginning of so many tokens that are not there is computed by one, if nothing else is
 * said. */
#define DEDUP_TOKENS 16u

/* Requests of a tenant that are compared: the oldest, so that a choice takes little time however
 * many wait. */
#define LOOKED_AT 1024u

/* Waiting requests that are looked up in the prefix tree again, each step. */
#define REFRESHED_PER_STEP 16u

/* ---- tenants --------------------------------------------------------------------------------- */

struct tenant {
    struct tenant *next;
    uint64_t id;
    double weight;
    /* Rows that were computed for it, for each unit of weight; newcomers begin where the one that
     * was served last stands, so that idle time earns nothing. */
    double served;
    uint32_t n_jobs, n_waiting;
    struct sequence_list waiting; /* that never ran, sorted by sequence_comes_before */
    uint64_t looked_at;           /* the last selection that it had its turn in */
};

bool tenant_join(struct engine *engine, struct job *job)
{
    const struct request *r = job->request;
    struct tenant *tenant = engine->tenants;
    while (tenant && tenant->id != r->tenant)
        tenant = tenant->next;
    if (!tenant) {
        tenant = calloc(1, sizeof *tenant);
        if (!tenant)
            return false;
        tenant->id = r->tenant;
        tenant->next = engine->tenants;
        engine->tenants = tenant;
    }
    if (tenant->n_waiting == 0)
        tenant->served = fmax(tenant->served, engine->tenant_floor);
    tenant->weight = r->weight > 0 ? r->weight : 1;
    tenant->n_jobs++;
    job->tenant = tenant;
    return true;
}

void tenant_leave(struct engine *engine, struct job *job)
{
    struct tenant *tenant = job->tenant;
    if (!tenant || --tenant->n_jobs > 0)
        return;
    struct tenant **link = &engine->tenants;
    while (*link != tenant)
        link = &(*link)->next;
    *link = tenant->next;
    free(tenant);
}

void tenant_charge(struct job *job, uint32_t n_rows)
{
    job->tenant->served += n_rows / job->tenant->weight;
}

/* ---- lists ----------------------------------------------------------------------------------- */

static struct sequence_list *list_of(struct engine *engine, const struct sequence *s)
{
    return s->job->is_queued ? &s->job->tenant->waiting : &engine->resuming;
}

void waiting_insert(struct engine *engine, struct sequence *s)
{
    struct sequence_list *list = list_of(engine, s);
    struct sequence *after = list->last; /* newcomers belong at the end */
    while (after && sequence_comes_before(s, after))
        after = after->prev;
    s->prev = after;
    s->next = after ? after->next : list->first;
    *(s->prev ? &s->prev->next : &list->first) = s;
    *(s->next ? &s->next->prev : &list->last) = s;
    engine->n_waiting++;
    s->job->tenant->n_waiting += s->job->is_queued;
}

/* The next of those that never ran; NULL: the round is over. */
static struct sequence *behind(const struct sequence *s)
{
    if (s->next)
        return s->next;
    for (const struct tenant *t = s->job->tenant->next; t; t = t->next)
        if (t->waiting.first)
            return t->waiting.first;
    return NULL;
}

static struct sequence *first_waiting(const struct engine *engine)
{
    for (const struct tenant *t = engine->tenants; t; t = t->next)
        if (t->waiting.first)
            return t->waiting.first;
    return NULL;
}

void waiting_remove(struct engine *engine, struct sequence *s)
{
    struct sequence_list *list = list_of(engine, s);
    tier_leave(engine, s);
    if (engine->refreshed == s)
        engine->refreshed = behind(s);
    *(s->prev ? &s->prev->next : &list->first) = s->next;
    *(s->next ? &s->next->prev : &list->last) = s->prev;
    s->prev = s->next = NULL;
    engine->n_waiting--;
    s->job->tenant->n_waiting -= s->job->is_queued;
}

uint32_t queue_n_listed(const struct engine *engine)
{
    uint32_t n = 0;
    for (const struct sequence *s = engine->resuming.first; s; s = s->next)
        n++;
    for (const struct tenant *t = engine->tenants; t; t = t->next)
        for (const struct sequence *s = t->waiting.first; s; s = s->next)
            n++;
    return n;
}

/* ---- common prefixes ------------------------------------------------------------------------- */

static uint32_t n_reusable(const struct sequence *s)
{
    return min_u32(sequence_next_score(s), s->job->request->n_prompt) - 1;
}

uint32_t queue_reusable_pages(const struct sequence *s)
{
    return n_reusable(s) / PAGE;
}

void queue_look_up(struct engine *engine, struct sequence *s)
{
    const struct request *r = s->job->request;
    if (!engine->tree || queue_reusable_pages(s) == 0)
        return;
    struct radix_match match =
        radix_tree_find(engine->tree, r->cache_space, r->prompt, queue_reusable_pages(s) * PAGE);
    handles_match(engine, r, r->prompt, n_reusable(s), &match);
    s->n_matched = match.n_pages * PAGE + match.n_partial;
}

static bool is_prefilling(const struct sequence *s)
{
    return s->state == SEQUENCE_RUNNING && s->choice == 0 && !s->job->is_ending &&
           s->n_computed < s->job->request->n_prompt;
}

void queue_find_leaders(struct engine *engine)
{
    engine->n_leaders = 0;
    if (!engine->tree)
        return;
    for (uint32_t i = 0; i < engine->n_running; i++)
        queue_add_leader(engine, engine->running[i]);
}

void queue_add_leader(struct engine *engine, struct sequence *s)
{
    if (engine->tree && is_prefilling(s))
        engine->leaders[engine->n_leaders++] = s;
}

/* Pages that both prompts begin with. */
static uint32_t common_pages(const struct sequence *a, const struct sequence *b)
{
    const int32_t *p = a->job->request->prompt, *q = b->job->request->prompt;
    uint32_t n = min_u32(queue_reusable_pages(a), b->job->request->n_prompt / PAGE), i = 0;
    while (i < n && memcmp(p + i * PAGE, q + i * PAGE, PAGE * sizeof *p) == 0)
        i++;
    return i;
}

/* Tokens that it would save by waiting are worth it, and not there yet. */
static bool is_behind(const struct engine *engine, const struct sequence *s,
                      const struct sequence *leader)
{
    const uint32_t least = engine->options.dedup_min_tokens;
    return s->n_led >= s->n_matched + (least > 0 ? least : DEDUP_TOKENS) &&
           leader->n_computed < s->n_led;
}

/* Does somebody compute what it would compute, or the disk read it? Its leader is remembered by its
 * id, since it may be gone any time; when it is done the tree most likely has the tokens. */
static bool stands_back(struct engine *engine, struct sequence *s)
{
    if (tier_is_loading(engine, s))
        return true;
    for (uint32_t i = 0; i < engine->n_leaders && s->leader; i++)
        if (engine->leaders[i]->job->request->id == s->leader &&
            is_behind(engine, s, engine->leaders[i]))
            return true;
    if (s->leader && s->n_matched < s->n_led)
        s->n_matched = s->n_led;
    s->leader = 0;
    for (uint32_t i = 0; i < engine->n_leaders; i++) {
        const struct sequence *leader = engine->leaders[i];
        const struct request *r = leader->job->request;
        if (leader->first_page != s->first_page || r->cache_space != s->job->request->cache_space)
            continue;
        s->n_led = common_pages(s, leader) * PAGE;
        if (is_behind(engine, s, leader)) {
            s->leader = r->id;
            return true;
        }
    }
    return false;
}

/* ---- waiting times --------------------------------------------------------------------------- */

static double service_seconds(const struct engine *engine, const struct sequence *s)
{
    double row = cost_of_prefill_row(&engine->cost);
    double n_rows = (double)s->job->request->n_prompt - s->n_matched;
    return (row > 0 ? row : UNKNOWN_ROW_SECONDS) * fmax(n_rows, LEAST_SERVICE_ROWS);
}

/* How many should be admitted before one that arrives now: those that wait, in turn with other
 * tenants. */
static double fair_place(const struct engine *engine, const struct tenant *own)
{
    double n_before = engine->n_waiting, weights = 0;
    for (const struct tenant *t = engine->tenants; t; t = t->next)
        weights += t->n_waiting > 0 ? t->weight : 0;
    return own->n_waiting > 0 ? fmin(n_before, own->n_waiting * weights / own->weight) : n_before;
}

/* It waits for longer than its turn should have taken, times the bound. */
static bool is_overdue(const struct engine *engine, const struct sequence *s)
{
    double service = service_seconds(engine, s);
    double interval = engine->admit_interval > 0 ? engine->admit_interval : service;
    double fair = fmax(s->fair_place * interval + service, LEAST_FAIR_SECONDS);
    return seconds_between(s->job->times.arrival_ns, engine->now_ns) >=
           engine->options.wait_bound * fair;
}

void queue_arrive(struct engine *engine, struct sequence *s)
{
    const struct request *r = s->job->request;
    uint32_t n = min_u32(r->n_prompt, PAGE);
    s->first_page = hash_bytes(r->prompt, n * sizeof *r->prompt, r->cache_space);
    queue_look_up(engine, s);
    s->fair_place = fair_place(engine, s->job->tenant);
    waiting_insert(engine, s);
    tier_arrive(engine, s);
}

void queue_admitted(struct engine *engine, struct sequence *s)
{
    /* Time between admissions, while somebody waits for the next one. */
    const double weight = 1.0 / 32;
    if (engine->n_waiting > 0 && engine->last_admission_ns > 0) {
        double interval = seconds_between(engine->last_admission_ns, engine->now_ns);
        double *mean = &engine->admit_interval;
        *mean = *mean > 0 ? *mean + weight * (interval - *mean) : interval;
        atomic_store_explicit(&engine->shared.admit_interval, *mean, memory_order_relaxed);
    }
    engine->last_admission_ns = engine->n_waiting > 0 ? engine->now_ns : 0;
    engine->tenant_floor = fmax(engine->tenant_floor, s->job->tenant->served);
    tenant_charge(s->job, s->job->request->n_prompt - s->n_computed);
}

/* ---- choosing -------------------------------------------------------------------------------- */

struct candidate {
    struct sequence *sequence;
    bool is_overdue;
    double ratio;
};

static int32_t priority_of(const struct sequence *s)
{
    return s->job->request->priority;
}

/* The best of a tenant's, of the highest priority that does not stand back as a whole. */
static struct sequence *best_of_tenant(struct engine *engine, const struct tenant *tenant)
{
    struct candidate best = {NULL, false, 0};
    uint32_t n = 0;
    for (struct sequence *s = tenant->waiting.first; s && n < LOOKED_AT; s = s->next, n++) {
        if (best.sequence && priority_of(s) < priority_of(best.sequence))
            break;
        struct candidate c = {s, is_overdue(engine, s), 0};
        if (!c.is_overdue) {
            if (best.is_overdue || stands_back(engine, s))
                continue;
            c.ratio = seconds_between(s->job->times.arrival_ns, engine->now_ns) /
                      service_seconds(engine, s);
        }
        if (!best.sequence || c.is_overdue > best.is_overdue || c.ratio > best.ratio)
            best = c;
    }
    return best.sequence;
}

/* The tenant whose turn it is: of the highest priority, served least; NULL: all were looked at. */
static struct tenant *next_tenant(const struct engine *engine)
{
    struct tenant *best = NULL;
    for (struct tenant *t = engine->tenants; t; t = t->next) {
        if (!t->waiting.first || t->looked_at == engine->n_selections)
            continue;
        int32_t priority = priority_of(t->waiting.first);
        if (!best || priority > priority_of(best->waiting.first) ||
            (priority == priority_of(best->waiting.first) && t->served < best->served))
            best = t;
    }
    return best;
}

const struct sequence *queue_highest(const struct engine *engine)
{
    const struct sequence *best = engine->resuming.first;
    for (const struct tenant *t = engine->tenants; t; t = t->next)
        if (t->waiting.first && (!best || priority_of(t->waiting.first) > priority_of(best)))
            best = t->waiting.first;
    return best;
}

struct sequence *queue_best(struct engine *engine)
{
    struct sequence *best = engine->resuming.first;
    struct tenant *tenant;
    engine->n_selections++;
    while ((tenant = next_tenant(engine))) {
        if (best && priority_of(best) >= priority_of(tenant->waiting.first))
            break;
        tenant->looked_at = engine->n_selections;
        struct sequence *s = best_of_tenant(engine, tenant);
        if (s && (!best || priority_of(s) > priority_of(best)))
            best = s;
    }
    return best;
}

void queue_refresh(struct engine *engine)
{
    for (uint32_t i = 0; i < min_u32(REFRESHED_PER_STEP, engine->n_waiting); i++) {
        struct sequence *s = engine->refreshed ? engine->refreshed : first_waiting(engine);
        if (!s)
            return;
        engine->refreshed = behind(s);
        queue_look_up(engine, s);
        if (!s->has_asked_disk)
            tier_arrive(engine, s);
    }
}
