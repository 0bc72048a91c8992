/* The engine on its own thread while others submit and cancel. Meant for ThreadSanitizer too. */
#include "engine_fixture.h"

#include "base/hash.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

enum { N_CLIENTS = 4, N_REQUESTS = 60 };

struct client {
    struct world *world;
    uint64_t seed;
    struct plan *plans[N_REQUESTS];
    bool was_cancelled[N_REQUESTS];
    uint32_t n_refused, n_inspections;
};

static void nap(void)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

static serverd_status submit(struct client *client, struct plan *plan, uint64_t *id)
{
    serverd_error err;
    struct request *r = request_create();
    if (!r)
        return SERVERD_NOMEM;
    r->user = plan;
    r->prompt = plan->prompt;
    r->n_prompt = plan->n_prompt;
    r->n_choices = plan->n_choices;
    r->max_new_tokens = plan->max_new_tokens;
    r->sampling = plan->sampling;
    serverd_status status = engine_submit(client->world->engine, r, id, &err);
    if (status)
        request_destroy(r);
    return status;
}

/* Looks at the cache or at some steps, and perhaps loses interest. */
static void inspect(struct client *client, uint64_t dice)
{
    serverd_error err;
    uint64_t id;
    const struct inspection_options options = {
        .kind = dice % 2 ? INSPECT_CACHE : INSPECT_STEPS,
        .max_nodes = 100,
        .max_tokens = 1000,
        .tokens_per_node = UINT32_MAX,
        .max_steps = 1 + (uint32_t)(dice / 2 % 20),
        .duration_ns = 50000000,
        .max_events = (uint32_t)(dice / 64 % 3) * 100, /* 0: no operations */
    };
    serverd_status status = engine_inspect(client->world->engine, &options, &id, &err);
    assert_true(status == SERVERD_OK || status == SERVERD_BUSY);
    client->n_inspections += status == SERVERD_OK;
    if (status == SERVERD_OK && dice % 5 == 0)
        engine_cancel(client->world->engine, id);
}

static void *client_main(void *arg)
{
    struct client *client = arg;
    for (uint32_t i = 0; i < N_REQUESTS; i++) {
        uint64_t dice = hash_mix(client->seed * N_REQUESTS + i), id;
        struct plan *plan = client->plans[i];
        while (submit(client, plan, &id) == SERVERD_BUSY) {
            client->n_refused++;
            nap();
        }
        if (dice % 3 == 0) {
            if (dice % 2)
                nap();
            engine_cancel(client->world->engine, id);
            client->was_cancelled[i] = true;
        }
        if (dice % 4 == 0)
            inspect(client, dice / 16);
        struct engine_status status;
        engine_status(client->world->engine, &status);
        (void)engine_retry_after_ms(client->world->engine);
    }
    return NULL;
}

static struct plan *client_plan(uint64_t seed)
{
    struct plan *plan = plan_create();
    plan_fill_prompt(plan, 1 + (uint32_t)(hash_mix(seed) % 60), seed);
    plan->n_choices = seed % 7 < 5 ? 1 : 2;
    plan->max_new_tokens = 1 + (uint32_t)(hash_mix(seed + 1) % 20);
    plan->sampling.temperature = seed % 2 ? 6.0f : 0.0f;
    plan->sampling.seed = seed;
    return plan;
}

static void wait_for_ends(const struct client *clients)
{
    for (uint32_t c = 0; c < N_CLIENTS; c++)
        for (uint32_t i = 0; i < N_REQUESTS; i++) {
            uint32_t n_naps = 0;
            while (clients[c].plans[i]->n_ends == 0 && n_naps++ < 100000)
                nap();
            assert_int_equal(clients[c].plans[i]->n_ends, 1);
        }
}

static void clients_may_submit_and_cancel_at_any_time(void **state)
{
    struct world *world = world_create(&(struct world_options){
        .n_pages = PAGES(30), .max_queue = 20, .has_thread = true, .has_real_clock = true});
    static struct client clients[N_CLIENTS];
    pthread_t threads[N_CLIENTS];
    for (uint32_t c = 0; c < N_CLIENTS; c++) {
        clients[c] = (struct client){.world = world, .seed = c};
        for (uint32_t i = 0; i < N_REQUESTS; i++)
            clients[c].plans[i] = client_plan(c * N_REQUESTS + i);
        assert_int_equal(pthread_create(&threads[c], NULL, client_main, &clients[c]), 0);
    }
    for (uint32_t c = 0; c < N_CLIENTS; c++)
        (void)pthread_join(threads[c], NULL);
    wait_for_ends(clients);
    engine_stop(world->engine);
    world_check_empty(world);
    uint32_t n_inspections = 0;
    for (uint32_t c = 0; c < N_CLIENTS; c++)
        n_inspections += clients[c].n_inspections;
    assert_true(n_inspections > 0);
    assert_int_equal(world->n_inspection_ends, n_inspections);
    for (uint32_t c = 0; c < N_CLIENTS; c++)
        for (uint32_t i = 0; i < N_REQUESTS; i++) {
            struct plan *plan = clients[c].plans[i];
            assert_true(clients[c].was_cancelled[i] || !plan->is_cancelled);
            if (plan->is_cancelled)
                plan_check_prefix(world, plan);
            else
                plan_check_whole(world, plan);
            free(plan);
        }
    world_destroy(world);
}

static void stopping_under_load_ends_every_request_once(void **state)
{
    for (uint32_t round = 0; round < 5; round++) {
        struct world *world = world_create(&(struct world_options){
            .device = "null:step_us=100", .has_thread = true, .has_real_clock = true});
        struct client client = {.world = world};
        uint64_t id;
        for (uint32_t i = 0; i < N_REQUESTS; i++) {
            client.plans[i] = client_plan(i);
            assert_int_equal(submit(&client, client.plans[i], &id), SERVERD_OK);
        }
        for (uint32_t i = 0; i < round; i++)
            nap();
        engine_stop(world->engine);
        for (uint32_t i = 0; i < N_REQUESTS; i++) {
            plan_check_prefix(world, client.plans[i]);
            free(client.plans[i]);
        }
        world_check_empty(world);
        world_destroy(world);
    }
}

static void a_hanging_step_shows_in_the_heartbeat_and_loses_no_end(void **state)
{
    struct world *world = world_create(&(struct world_options){
        .device = "fault:inner=null;script=hang@3:1", .has_thread = true, .has_real_clock = true});
    struct client client = {.world = world};
    uint64_t id[2], begin = clock_now_ns(&system_clock), oldest = 0;
    for (uint32_t i = 0; i < 2; i++) {
        client.plans[i] = plan_create();
        client.plans[i]->sampling.ignore_eos = true;
        assert_int_equal(submit(&client, client.plans[i], &id[i]), SERVERD_OK);
    }
    while (oldest < 300000000 && clock_now_ns(&system_clock) - begin < 20000000000u) {
        struct engine_status status;
        engine_status(world->engine, &status);
        uint64_t now = clock_now_ns(&system_clock);
        oldest = now > status.heartbeat_ns ? now - status.heartbeat_ns : 0;
        nap();
    }
    engine_cancel(world->engine, id[0]); /* while it hangs */
    for (uint32_t i = 0; i < 2; i++)
        while (client.plans[i]->n_ends == 0 && clock_now_ns(&system_clock) - begin < 20000000000u)
            nap();
    assert_true(client.plans[0]->is_cancelled);
    plan_check_prefix(world, client.plans[0]);
    plan_check_whole(world, client.plans[1]);
    engine_stop(world->engine);
    world_check_empty(world);
    for (uint32_t i = 0; i < 2; i++)
        free(client.plans[i]);
    world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clients_may_submit_and_cancel_at_any_time),
        cmocka_unit_test(stopping_under_load_ends_every_request_once),
        cmocka_unit_test(a_hanging_step_shows_in_the_heartbeat_and_loses_no_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
