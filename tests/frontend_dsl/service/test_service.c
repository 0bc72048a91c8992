/* Jobs over runs that do as they are told: who waits, what is said and to whom, rests and ends. */
#include "fake_run.h"

#include "base/limits.h"
#include "frontend_dsl/service.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SECOND_NS UINT64_C(1000000000)

enum { TENANT = 7, WAIT_MS = 10000, N_RANDOM = 300 };

/* ---- the world ------------------------------------------------------------------------------- */

struct world {
    struct clock clock;
    _Atomic uint64_t ahead_ns;
    struct dsl_service *service;
    struct dsl_program *program;
    _Atomic unsigned n_released;
};

static uint64_t now_ns(void *context)
{
    struct world *w = context;
    return clock_now_ns(&system_clock) + atomic_load(&w->ahead_ns);
}

static int64_t wall_seconds(void *context)
{
    (void)context;
    return 1700000000;
}

static struct world *world_create(uint32_t max_runs, uint32_t max_queue)
{
    serverd_error err;
    struct world *w = calloc(1, sizeof *w);
    w->clock = (struct clock){now_ns, wall_seconds, w};
    w->program = fake_program_create();
    const struct dsl_service_options options = {.n_threads = 2,
                                                .slice_ns = 1000000,
                                                .max_runs = max_runs,
                                                .max_queue = max_queue,
                                                .batch_parallel = 4,
                                                .finished_ttl_ns = 60 * SECOND_NS,
                                                .memory_total = 1 << 20,
                                                .clock = &w->clock};
    assert_int_equal(dsl_service_create(&options, &w->service, &err), SERVERD_OK);
    return w;
}

static void world_destroy(struct world *w)
{
    dsl_service_destroy(w->service);
    assert_int_equal(fake_run_n_alive(), 0);
    assert_int_equal(w->program->n_references, 1);
    dsl_program_unref(w->program);
    free(w);
}

static void release(void *context, uint64_t n_tokens)
{
    struct world *w = context;
    assert_int_equal(n_tokens % 7, 0);
    (void)atomic_fetch_add(&w->n_released, 1);
}

/* `args`: of one run, or with `is_batch` the list of items. */
static struct dsl_job_setup setup_of(struct world *w, const char *args, bool is_batch)
{
    json_t *body = json_loads(args, 0, NULL);
    assert_non_null(body);
    if (!is_batch)
        body = json_pack("[{s:o}]", "args", body);
    return (struct dsl_job_setup){
        .program_name = "fake",
        .body = body,
        .items = body,
        .is_batch = is_batch,
        .seed = 5,
        .keeps_events = true,
        .release = release,
        .release_context = w,
        .run = {.program = w->program,
                .model = {.name = "m"},
                .tenant = TENANT,
                .limits = {.deadline_s = 100, .cpu_ms = 5000}},
    };
}

static struct dsl_job *start_with(struct world *w, struct dsl_job_setup *setup)
{
    struct dsl_job *job = NULL;
    assert_int_equal(dsl_service_start(w->service, setup, &job), DSL_START_OK);
    json_decref(setup->body);
    return job;
}

static struct dsl_job *start(struct world *w, const char *args)
{
    struct dsl_job_setup setup = setup_of(w, args, false);
    return start_with(w, &setup);
}

static json_t *object_of(struct dsl_job *job)
{
    struct buffer text;
    buffer_init(&text, 1 << 20);
    dsl_job_write(job, &text);
    json_t *object = json_loads(buffer_str(&text), 0, NULL);
    buffer_deinit(&text);
    assert_non_null(object);
    return object;
}

static bool has_status(struct dsl_job *job, const char *status)
{
    json_t *object = object_of(job);
    const bool is_equal = strcmp(json_string_value(json_object_get(object, "status")), status) == 0;
    json_decref(object);
    return is_equal;
}

static void wait_for(struct dsl_job *job, const char *status)
{
    for (int ms = 0; !has_status(job, status); ms++) {
        if (ms == WAIT_MS) {
            json_t *object = object_of(job);
            fail_msg("%s is not %s", json_dumps(object, 0), status);
        }
        (void)usleep(1000);
    }
}

/* ---- a follower -------------------------------------------------------------------------------
 */

struct reader {
    struct dsl_follower *follower;
    pthread_mutex_t lock;
    unsigned n_news, n_ends;
    struct buffer text;
};

static void tell(void *context, enum dsl_tell what)
{
    struct reader *r = context;
    (void)pthread_mutex_lock(&r->lock);
    r->n_news += what == DSL_TELL_NEWS;
    r->n_ends += what == DSL_TELL_END;
    (void)pthread_mutex_unlock(&r->lock);
}

static enum dsl_following follow(struct reader *r, struct dsl_job *job, uint64_t from,
                                 bool is_binding)
{
    *r = (struct reader){0};
    (void)pthread_mutex_init(&r->lock, NULL);
    buffer_init(&r->text, 1 << 20);
    r->follower = dsl_follower_create(job, &(struct dsl_follower_setup){.tell = tell,
                                                                        .context = r,
                                                                        .wants_events = true,
                                                                        .from = from,
                                                                        .is_binding = is_binding});
    assert_non_null(r->follower);
    return dsl_follower_begin(r->follower);
}

static const char *read_to_end(struct reader *r, bool is_over)
{
    for (int ms = 0; !is_over; ms++) {
        (void)pthread_mutex_lock(&r->lock);
        is_over = r->n_ends > 0;
        (void)pthread_mutex_unlock(&r->lock);
        assert_int_not_equal(ms, WAIT_MS);
        dsl_follower_take(r->follower, &r->text);
        if (!is_over)
            (void)usleep(1000);
    }
    dsl_follower_take(r->follower, &r->text);
    assert_true(r->n_ends <= 1);
    return buffer_str(&r->text);
}

static void drop(struct reader *r)
{
    dsl_follower_destroy(r->follower);
    buffer_deinit(&r->text);
}

/* Numbers of events from `first` on, none missing, and their names. */
static void assert_events(const char *text, unsigned first, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char head[64];
        (void)snprintf(head, sizeof head, "id: %u\nevent: %s\ndata: {\"run\":\"",
                       first + (unsigned)i, names[i]);
        if (strncmp(text, head, strlen(head)) != 0)
            fail_msg("%s instead of %s", text, head);
        text = strstr(text, "\n\n") + 2;
    }
    assert_string_equal(text, "");
}

/* ---- runs -------------------------------------------------------------------------------------
 */

static void a_run_ends_with_its_object_and_lets_its_model_go(void **state)
{
    (void)state;
    struct world *w = world_create(8, 8);
    struct dsl_job *job = start(w, "{\"do\":[\"again\",\"emit a\",\"again\"],\"value\":[1]}");
    wait_for(job, "completed");
    json_t *object = object_of(job);
    assert_string_equal(json_string_value(json_object_get(object, "id")), dsl_job_id(job));
    assert_string_equal(json_string_value(json_object_get(object, "object")), "program.run");
    assert_string_equal(json_string_value(json_object_get(object, "model")), "m");
    assert_string_equal(json_string_value(json_object_get(object, "program")), "fake");
    assert_int_equal(json_integer_value(json_object_get(object, "seed")), 5);
    assert_int_equal(json_array_size(json_object_get(object, "value")), 1);
    json_decref(object);
    for (int ms = 0; atomic_load(&w->n_released) == 0 && ms < WAIT_MS; ms++)
        (void)usleep(1000);
    assert_int_equal(atomic_load(&w->n_released), 1);
    dsl_job_unref(job);
    world_destroy(w);
}

static void a_failure_is_told_and_a_refusal_known(void **state)
{
    (void)state;
    bool was_refused = true;
    struct world *w = world_create(8, 8);
    struct dsl_job *job = start(w, "{\"do\":[\"fail gen_limit\"]}");
    wait_for(job, "failed");
    json_t *failure = dsl_job_failure(job, &was_refused);
    assert_string_equal(json_string_value(json_object_get(failure, "code")), "gen_limit");
    assert_false(was_refused);
    json_decref(failure);
    dsl_job_unref(job);
    job = start(w, "{\"do\":[\"refuse\"]}");
    wait_for(job, "failed");
    failure = dsl_job_failure(job, &was_refused);
    assert_string_equal(json_string_value(json_object_get(failure, "code")), "invalid_arguments");
    assert_true(was_refused);
    json_decref(failure);
    dsl_job_unref(job);
    world_destroy(w);
}

static void runs_are_found_by_their_tenant_until_they_expire(void **state)
{
    (void)state;
    struct world *w = world_create(8, 8);
    struct dsl_job *job = start(w, "{\"do\":[]}"), *found;
    wait_for(job, "completed");
    assert_null(dsl_service_find(w->service, dsl_job_id(job), TENANT + 1));
    assert_null(dsl_service_find(w->service, "prun_0", TENANT));
    found = dsl_service_find(w->service, dsl_job_id(job), TENANT);
    assert_ptr_equal(found, job);
    dsl_job_unref(found);
    atomic_store(&w->ahead_ns, 61 * SECOND_NS);
    assert_null(dsl_service_find(w->service, dsl_job_id(job), TENANT));
    dsl_service_tick(w->service);
    assert_null(dsl_service_find(w->service, dsl_job_id(job), TENANT));
    dsl_job_unref(job);
    world_destroy(w);
}

static void more_runs_wait_and_still_more_are_refused(void **state)
{
    (void)state;
    struct world *w = world_create(2, 1);
    struct dsl_job *jobs[3], *none;
    for (int i = 0; i < 2; i++) {
        jobs[i] = start(w, "{\"do\":[\"block\"]}");
        wait_for(jobs[i], "running");
    }
    jobs[2] = start(w, "{\"do\":[]}");
    struct dsl_job_setup setup = setup_of(w, "{\"do\":[]}", false);
    assert_int_equal(dsl_service_start(w->service, &setup, &none), DSL_START_FULL);
    json_decref(setup.body);
    assert_true(has_status(jobs[2], "queued"));
    fake_run_wake_all();
    for (int i = 0; i < 3; i++) {
        wait_for(jobs[i], "completed");
        dsl_job_unref(jobs[i]);
    }
    world_destroy(w);
}

/* As a step of the engine does: the logits are there, mail comes, or none, and a kick, or none. */
static void a_step(struct world *w, bool has_mail, bool has_kick)
{
    dsl_service_expect(w->service);
    if (has_mail)
        fake_run_wake_all();
    if (has_kick)
        dsl_service_kick(w->service);
}

static void kicks_that_are_expected_are_heard(void **state)
{
    (void)state;
    struct world *w = world_create(8, 8);
    for (int i = 0; i < 40; i++) {
        struct dsl_job *jobs[3];
        for (int k = 0; k < 3; k++) {
            jobs[k] = start(w, "{\"do\":[\"block\"]}");
            wait_for(jobs[k], "running");
        }
        a_step(w, false, i % 2 == 0);
        (void)usleep((useconds_t)(i % 8) * 100); /* it spins, or sleeps again */
        a_step(w, true, true);
        for (int k = 0; k < 3; k++) {
            wait_for(jobs[k], "completed");
            dsl_job_unref(jobs[k]);
        }
    }
    world_destroy(w);
}

static void higher_priorities_begin_first(void **state)
{
    (void)state;
    struct world *w = world_create(1, 8);
    struct dsl_job *first = start(w, "{\"do\":[\"block\"]}"), *low, *high;
    wait_for(first, "running");
    low = start(w, "{\"do\":[\"block\"]}");
    struct dsl_job_setup setup = setup_of(w, "{\"do\":[\"block\"]}", false);
    setup.run.priority = 1;
    high = start_with(w, &setup);
    fake_run_wake_all();
    wait_for(high, "running");
    assert_true(has_status(low, "queued"));
    dsl_job_cancel(high);
    wait_for(low, "running");
    dsl_job_cancel(low);
    wait_for(low, "cancelled");
    dsl_job_unref(first);
    dsl_job_unref(low);
    dsl_job_unref(high);
    world_destroy(w);
}

static void a_cancel_ends_runs_that_wait_block_and_compute(void **state)
{
    (void)state;
    struct world *w = world_create(1, 8);
    struct dsl_job *job = start(w, "{\"do\":[\"block\"]}"), *queued = start(w, "{\"do\":[]}");
    wait_for(job, "running");
    dsl_job_cancel(queued);
    wait_for(queued, "cancelled");
    dsl_job_cancel(job);
    wait_for(job, "cancelled");
    dsl_job_cancel(job); /* again */
    assert_true(has_status(job, "cancelled"));
    dsl_job_unref(job);
    dsl_job_unref(queued);
    assert_int_equal(dsl_service_n_open(w->service), 0);
    world_destroy(w);
}

static void a_deadline_ends_a_run_but_does_not_count_waits_for_tools(void **state)
{
    (void)state;
    struct world *w = world_create(8, 8);
    struct dsl_job *tool = start(w, "{\"do\":[\"tool a\",\"block\"]}");
    wait_for(tool, "requires_action");
    struct dsl_job *job = start(w, "{\"do\":[\"block\"]}");
    wait_for(job, "running");
    atomic_store(&w->ahead_ns, 101 * SECOND_NS);
    wait_for(job, "failed");
    bool was_refused;
    json_t *failure = dsl_job_failure(job, &was_refused);
    assert_string_equal(json_string_value(json_object_get(failure, "code")), "deadline_exceeded");
    json_decref(failure);
    assert_true(has_status(tool, "requires_action"));
    assert_true(dsl_job_post_tool_result(tool, "a", json_null(), NULL));
    atomic_store(&w->ahead_ns, 190 * SECOND_NS);
    (void)usleep(60000);
    assert_true(has_status(tool, "running"));
    atomic_store(&w->ahead_ns, 202 * SECOND_NS);
    wait_for(tool, "failed");
    dsl_job_unref(job);
    dsl_job_unref(tool);
    world_destroy(w);
}

static void who_computes_for_too_long_by_the_clock_ends(void **state)
{
    (void)state;
    struct world *w = world_create(8, 8);
    struct dsl_job *job = start(w, "{\"do\":[\"block\",\"compute\"]}"),
                   *other = start(w, "{\"do\":[\"block\"]}");
    wait_for(job, "running");
    wait_for(other, "running");
    atomic_store(&w->ahead_ns, 20 * SECOND_NS); /* which it waits for the model */
    (void)usleep(60000);
    fake_run_wake_all();
    wait_for(other, "completed");
    (void)usleep(60000);
    assert_true(has_status(job, "running"));
    atomic_store(&w->ahead_ns, 26 * SECOND_NS);
    wait_for(job, "failed");
    bool was_refused;
    json_t *failure = dsl_job_failure(job, &was_refused);
    assert_string_equal(json_string_value(json_object_get(failure, "code")), "cpu_limit");
    json_decref(failure);
    dsl_job_unref(job);
    dsl_job_unref(other);
    world_destroy(w);
}

/* ---- events -----------------------------------------------------------------------------------
 */

static void followers_get_every_event_once_from_any_number_on(void **state)
{
    (void)state;
    static const char *const names[] = {"a", "b", "c", "run.completed"};
    struct world *w = world_create(8, 8);
    struct reader live, early, late;
    struct dsl_job *job = start(w, "{\"do\":[\"emit a\",\"block\",\"emit b\",\"emit c\"]}");
    wait_for(job, "running");
    assert_int_equal(follow(&live, job, 0, false), DSL_FOLLOWING);
    assert_int_equal(follow(&early, job, 2, false), DSL_FOLLOWING); /* before it was said */
    (void)usleep(20000);
    fake_run_wake_all();
    assert_events(read_to_end(&live, false), 0, names, 4);
    assert_events(read_to_end(&early, false), 2, names + 2, 2);
    drop(&early);
    for (unsigned from = 0; from < 6; from++) {
        assert_int_equal(follow(&late, job, from, false), DSL_FOLLOWING_OVER);
        const unsigned n = from < 4 ? 4 - from : 0;
        assert_events(read_to_end(&late, true), from, names + (4 - n), n);
        drop(&late);
    }
    drop(&live);
    dsl_job_unref(job);
    world_destroy(w);
}

static void whoever_is_bound_takes_the_run_along(void **state)
{
    (void)state;
    struct world *w = world_create(8, 8);
    struct reader other, bound;
    struct dsl_job *job = start(w, "{\"do\":[\"block\"]}");
    wait_for(job, "running");
    assert_int_equal(follow(&other, job, 0, false), DSL_FOLLOWING);
    dsl_follower_leave(other.follower);
    assert_int_equal(other.n_ends, 1);
    (void)usleep(30000);
    assert_true(has_status(job, "running"));
    assert_int_equal(follow(&bound, job, 0, true), DSL_FOLLOWING);
    dsl_follower_leave(bound.follower);
    dsl_follower_leave(bound.follower);
    wait_for(job, "cancelled");
    assert_int_equal(bound.n_ends, 1);
    drop(&other);
    drop(&bound);
    dsl_job_unref(job);

    struct dsl_job_setup setup = setup_of(w, "{\"do\":[\"block\"]}", false);
    setup.is_background = true;
    job = start_with(w, &setup);
    wait_for(job, "running");
    assert_int_equal(follow(&bound, job, 0, true), DSL_FOLLOWING);
    dsl_follower_leave(bound.follower);
    (void)usleep(30000);
    assert_true(has_status(job, "running"));
    drop(&bound);
    dsl_job_unref(job);
    world_destroy(w); /* ends it */
}

static void followers_are_counted(void **state)
{
    (void)state;
    struct world *w = world_create(8, 8);
    struct reader readers[9];
    struct dsl_job *job = start(w, "{\"do\":[\"block\"]}");
    wait_for(job, "running");
    for (int i = 0; i < 9; i++)
        assert_int_equal(follow(&readers[i], job, 0, false),
                         i < 8 ? DSL_FOLLOWING : DSL_FOLLOWING_FULL);
    dsl_job_cancel(job);
    for (int i = 0; i < 9; i++) {
        (void)read_to_end(&readers[i], i == 8);
        drop(&readers[i]);
    }
    dsl_job_unref(job);
    world_destroy(w);
}

/* ---- tools ------------------------------------------------------------------------------------
 */

static void a_run_rests_until_its_tools_have_answered(void **state)
{
    (void)state;
    static const char *const first[] = {"a", "run.requires_action"},
                             *const second[] = {"run.requires_action"},
                             *const third[] = {"b", "run.completed"};
    struct world *w = world_create(8, 8);
    struct reader r;
    struct dsl_job *job = start(w, "{\"do\":[\"block\",\"emit a\",\"tool x,y\",\"emit b\"]}");
    wait_for(job, "running");
    assert_int_equal(follow(&r, job, 0, true), DSL_FOLLOWING);
    fake_run_wake_all();
    assert_events(read_to_end(&r, false), 0, first, 2);
    dsl_follower_leave(r.follower); /* it has been answered: nothing ends */
    drop(&r);
    assert_true(has_status(job, "requires_action"));
    assert_false(dsl_job_post_tool_result(job, "z", json_null(), NULL));
    assert_true(has_status(job, "requires_action"));
    /* a part of them */
    uint64_t from = dsl_job_next_event(job);
    assert_true(dsl_job_post_tool_result(job, "x", json_null(), NULL));
    assert_false(dsl_job_post_tool_result(job, "x", json_null(), NULL));
    enum dsl_following how = follow(&r, job, from, true);
    assert_events(read_to_end(&r, how == DSL_FOLLOWING_OVER), 2, second, 1);
    drop(&r);
    from = dsl_job_next_event(job);
    assert_true(dsl_job_post_tool_result(job, "y", NULL, "no"));
    how = follow(&r, job, from, true);
    assert_events(read_to_end(&r, how == DSL_FOLLOWING_OVER), 3, third, 2);
    drop(&r);
    dsl_job_unref(job);
    world_destroy(w);
}

/* ---- batches ----------------------------------------------------------------------------------
 */

static void a_batch_has_results_in_order_and_seeds_of_its_items(void **state)
{
    (void)state;
    struct world *w = world_create(8, 8);
    struct dsl_job_setup setup = setup_of(
        w,
        "[{\"args\":{\"do\":[\"again\",\"again\"],\"value\":0}},{\"args\":{\"do\":[\"fail x\"]}},"
        "{\"args\":{\"do\":[],\"value\":2},\"seed\":99,\"id\":\"own\"},"
        "{\"args\":{\"do\":[\"refuse\"]}}]",
        true);
    struct dsl_job *job = start_with(w, &setup);
    wait_for(job, "completed");
    static const char *const status[] = {"completed", "failed", "completed", "failed"};
    json_t *object = object_of(job), *results = json_object_get(object, "results");
    assert_int_equal(json_array_size(results), 4);
    for (size_t i = 0; i < 4; i++) {
        const json_t *result = json_array_get(results, i);
        assert_int_equal(json_integer_value(json_object_get(result, "index")), i);
        assert_string_equal(json_string_value(json_object_get(result, "status")), status[i]);
        assert_true(json_string_value(json_object_get(result, "run")) != NULL);
    }
    const json_t *own = json_array_get(results, 2);
    assert_string_equal(json_string_value(json_object_get(own, "id")), "own");
    assert_int_equal(json_integer_value(json_object_get(own, "seed")), 99);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(results, 0), "seed")),
                     (int64_t)(dsl_seed(5, "item", 0) >> 11));
    const json_t *usage = json_object_get(object, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), 12);
    json_decref(object);
    dsl_job_unref(job);
    world_destroy(w);
}

static void a_batch_says_its_own_name_first_and_each_item(void **state)
{
    (void)state;
    static const char *const names[] = {"run.created", "item.done", "batch.completed"};
    struct world *w = world_create(8, 8);
    struct reader r;
    struct dsl_job_setup setup = setup_of(w, "[{\"args\":{\"do\":[]}}]", true);
    struct dsl_job *job = start_with(w, &setup);
    wait_for(job, "completed");
    assert_int_equal(follow(&r, job, 0, false), DSL_FOLLOWING_OVER);
    const char *text = read_to_end(&r, true);
    assert_events(text, 0, names, 3);
    const char *run = strstr(text, "{\"run\":\"") + 8;
    assert_memory_equal(run, dsl_job_id(job), strlen(dsl_job_id(job)));
    assert_int_equal(run[strlen(dsl_job_id(job))], '"');
    drop(&r);
    dsl_job_unref(job);
    world_destroy(w);
}

static void a_batch_may_stop_at_the_first_failure(void **state)
{
    (void)state;
    struct world *w = world_create(2, 8);
    struct dsl_job_setup setup =
        setup_of(w,
                 "[{\"args\":{\"do\":[\"block\"]}},{\"args\":{\"do\":[\"fail x\"]}},"
                 "{\"args\":{\"do\":[]}},{\"args\":{\"do\":[]}}]",
                 true);
    setup.stops_on_error = true;
    setup.max_parallel = 2;
    const unsigned before = fake_run_n_advanced();
    struct dsl_job *job = start_with(w, &setup);
    wait_for(job, "completed");
    assert_int_equal(fake_run_n_advanced() - before, 2);
    json_t *object = object_of(job), *results = json_object_get(object, "results");
    static const char *const status[] = {"cancelled", "failed", "cancelled", "cancelled"};
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(
            json_string_value(json_object_get(json_array_get(results, i), "status")), status[i]);
    json_decref(object);
    dsl_job_unref(job);
    world_destroy(w);
}

static void a_batch_rests_when_all_that_may_run_wait_for_tools(void **state)
{
    (void)state;
    struct world *w = world_create(8, 8);
    struct dsl_job_setup setup =
        setup_of(w,
                 "[{\"args\":{\"do\":[\"tool a\"]}},{\"args\":{\"do\":[\"again\"]}},"
                 "{\"args\":{\"do\":[\"again\",\"tool b\"]}}]",
                 true);
    struct dsl_job *job = start_with(w, &setup);
    wait_for(job, "requires_action");
    json_t *object = object_of(job);
    const json_t *calls = json_object_get(json_object_get(object, "required_action"), "tool_calls");
    assert_int_equal(json_array_size(calls), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(calls, 0), "id")), "a");
    assert_non_null(strstr(json_string_value(json_object_get(json_array_get(calls, 1), "run")),
                           dsl_job_id(job)));
    json_decref(object);
    assert_true(dsl_job_post_tool_result(job, "b", json_null(), NULL));
    wait_for(job, "requires_action");
    assert_true(dsl_job_post_tool_result(job, "a", json_null(), NULL));
    wait_for(job, "completed");
    dsl_job_unref(job);
    world_destroy(w);
}

static void a_batch_runs_no_more_at_once_than_it_may(void **state)
{
    (void)state;
    struct world *w = world_create(64, 8);
    char text[4096] = "[";
    for (int i = 0; i < 20; i++)
        (void)snprintf(text + strlen(text), sizeof text - strlen(text),
                       "%s{\"args\":{\"do\":[\"block\"]}}", i ? "," : "");
    (void)snprintf(text + strlen(text), sizeof text - strlen(text), "]");
    struct dsl_job_setup setup = setup_of(w, text, true);
    setup.max_parallel = 3;
    struct dsl_job *job = start_with(w, &setup);
    for (int ms = 0; !has_status(job, "completed"); ms++) {
        assert_true(fake_run_n_alive() <= 3);
        assert_int_not_equal(ms, WAIT_MS);
        fake_run_wake_all();
        (void)usleep(1000);
    }
    dsl_job_unref(job);
    world_destroy(w);
}

/* ---- all at once ------------------------------------------------------------------------------
 */

static uint32_t draw(uint64_t *seed, uint32_t n)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*seed >> 33) % n;
}

/* Jobs of all kinds, cancelled, answered and left at random: every one ends once, and nothing is
 * kept of it. */
static void random_jobs_all_end(void **state)
{
    (void)state;
    static const char *const kinds[] = {
        "{\"do\":[\"emit a\",\"again\",\"emit b\"]}",
        "{\"do\":[\"block\",\"emit a\",\"again\"]}",
        "{\"do\":[\"tool a,b\",\"block\"]}",
        "{\"do\":[\"again\",\"fail x\"]}",
        "{\"do\":[\"refuse\"]}",
    };
    static const char *const batches[] = {
        "[{\"args\":{\"do\":[\"tool a\"]}},{\"args\":{\"do\":[\"block\"]}},{\"args\":{\"do\":[]}}]",
        "[{\"args\":{\"do\":[\"fail "
        "x\"]}},{\"args\":{\"do\":[\"block\"]}},{\"args\":{\"do\":[\"tool b\"]"
        "}}]"};
    uint64_t seed = 20;
    struct world *w = world_create(6, 4);
    static struct dsl_job *jobs[N_RANDOM];
    static struct reader readers[N_RANDOM];
    static bool is_followed[N_RANDOM], is_over[N_RANDOM];
    size_t n = 0, n_started = 0;
    for (int i = 0; i < N_RANDOM; i++) {
        const bool is_batch = draw(&seed, 4) == 0;
        struct dsl_job_setup setup =
            setup_of(w, is_batch ? batches[draw(&seed, 2)] : kinds[draw(&seed, 5)], is_batch);
        setup.stops_on_error = draw(&seed, 2);
        setup.keeps_events = draw(&seed, 2);
        struct dsl_job *job = NULL;
        if (dsl_service_start(w->service, &setup, &job) == DSL_START_OK) {
            n_started++;
            jobs[n] = job;
            is_followed[n] = draw(&seed, 2);
            if (is_followed[n])
                is_over[n] = follow(&readers[n], job, 0, draw(&seed, 2)) != DSL_FOLLOWING;
            n++;
        }
        json_decref(setup.body);
        if (n == 0)
            continue;
        const size_t k = draw(&seed, (uint32_t)n);
        switch (draw(&seed, 6)) {
        case 0:
            dsl_job_cancel(jobs[k]);
            break;
        case 1:
            (void)dsl_job_post_tool_result(jobs[k], draw(&seed, 2) ? "a" : "b", json_null(), NULL);
            break;
        case 2:
            if (is_followed[k])
                dsl_follower_leave(readers[k].follower);
            break;
        case 3:
            dsl_service_tick(w->service);
            break;
        case 4:
            a_step(w, draw(&seed, 2), draw(&seed, 2));
            break;
        default:
            fake_run_wake_all();
            (void)usleep(200);
        }
    }
    for (size_t k = 0; k < n; k++)
        dsl_job_cancel(jobs[k]);
    for (size_t k = 0; k < n; k++) {
        if (is_followed[k]) {
            (void)read_to_end(&readers[k], is_over[k]);
            drop(&readers[k]);
        }
        for (int ms = 0; has_status(jobs[k], "running") || has_status(jobs[k], "queued"); ms++) {
            assert_int_not_equal(ms, WAIT_MS);
            (void)usleep(1000);
        }
        dsl_job_unref(jobs[k]);
    }
    dsl_service_stop(w->service);
    assert_int_equal(atomic_load(&w->n_released), n_started);
    assert_int_equal(fake_run_n_alive(), 0);
    world_destroy(w);
}

static void errand(void *context)
{
    (void)atomic_fetch_add((_Atomic unsigned *)context, 1);
    (void)usleep(500);
}

static void errands_are_run_beside_runs_and_before_the_end(void **state)
{
    (void)state;
    struct world *w = world_create(8, 8);
    _Atomic unsigned n_run = 0;
    const unsigned n_tried = LIMIT_DSL_ERRANDS + 136;
    unsigned n = 0;
    for (unsigned i = 0; i < n_tried; i++)
        n += dsl_service_run_errand(w->service, errand, (void *)&n_run);
    assert_true(n >= LIMIT_DSL_ERRANDS && n < n_tried);
    struct dsl_job *job = start(w, "{\"do\":[\"again\"]}");
    wait_for(job, "completed");
    assert_true(atomic_load(&n_run) < n);
    dsl_job_unref(job);
    dsl_service_stop(w->service);
    assert_int_equal(atomic_load(&n_run), n);
    world_destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_ends_with_its_object_and_lets_its_model_go),
        cmocka_unit_test(a_failure_is_told_and_a_refusal_known),
        cmocka_unit_test(runs_are_found_by_their_tenant_until_they_expire),
        cmocka_unit_test(more_runs_wait_and_still_more_are_refused),
        cmocka_unit_test(kicks_that_are_expected_are_heard),
        cmocka_unit_test(higher_priorities_begin_first),
        cmocka_unit_test(a_cancel_ends_runs_that_wait_block_and_compute),
        cmocka_unit_test(a_deadline_ends_a_run_but_does_not_count_waits_for_tools),
        cmocka_unit_test(who_computes_for_too_long_by_the_clock_ends),
        cmocka_unit_test(followers_get_every_event_once_from_any_number_on),
        cmocka_unit_test(whoever_is_bound_takes_the_run_along),
        cmocka_unit_test(followers_are_counted),
        cmocka_unit_test(a_run_rests_until_its_tools_have_answered),
        cmocka_unit_test(a_batch_has_results_in_order_and_seeds_of_its_items),
        cmocka_unit_test(a_batch_says_its_own_name_first_and_each_item),
        cmocka_unit_test(a_batch_may_stop_at_the_first_failure),
        cmocka_unit_test(a_batch_rests_when_all_that_may_run_wait_for_tools),
        cmocka_unit_test(a_batch_runs_no_more_at_once_than_it_may),
        cmocka_unit_test(random_jobs_all_end),
        cmocka_unit_test(errands_are_run_beside_runs_and_before_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
