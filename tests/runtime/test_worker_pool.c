#include "runtime/worker_pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MAX_CHUNKS 2000

struct tally {
    uint32_t n_workers;
    _Atomic uint32_t times[MAX_CHUNKS];
    uint32_t plain[MAX_CHUNKS]; /* without atomics: each chunk has one writer */
    _Atomic bool is_out_of_range;
};

static void mark(void *arg, uint32_t chunk, uint32_t worker)
{
    struct tally *tally = arg;
    if (worker >= tally->n_workers || chunk >= MAX_CHUNKS) {
        tally->is_out_of_range = true;
        return;
    }
    tally->times[chunk]++;
    tally->plain[chunk] += chunk;
}

static void every_chunk_runs_once_and_is_seen_by_the_caller(void **state)
{
    (void)state;
    for (uint32_t n_workers = 1; n_workers <= 5; n_workers++) {
        struct worker_pool *pool;
        serverd_error err;
        assert_int_equal(worker_pool_create(n_workers, &pool, &err), SERVERD_OK);
        assert_int_equal(worker_pool_n_workers(pool), n_workers);
        for (uint32_t round = 0; round < 400; round++) {
            static struct tally tally;
            memset(&tally, 0, sizeof tally);
            tally.n_workers = n_workers;
            uint32_t n = round * 37 % MAX_CHUNKS;
            worker_pool_run(pool, n, mark, &tally);
            assert_false(tally.is_out_of_range);
            for (uint32_t i = 0; i < MAX_CHUNKS; i++) {
                assert_int_equal(tally.times[i], i < n);
                assert_int_equal(tally.plain[i], i < n ? i : 0);
            }
        }
        worker_pool_destroy(pool);
    }
}

static void small_jobs_in_a_row_do_not_mix(void **state)
{
    (void)state;
    struct worker_pool *pool;
    serverd_error err;
    assert_int_equal(worker_pool_create(3, &pool, &err), SERVERD_OK);
    for (uint32_t round = 0; round < 20000; round++) {
        struct tally tally;
        tally.n_workers = 3;
        tally.is_out_of_range = false;
        uint32_t n = round % 4;
        for (uint32_t i = 0; i < 4; i++)
            tally.times[i] = tally.plain[i] = 0;
        worker_pool_run(pool, n, mark, &tally);
        for (uint32_t i = 0; i < 4; i++)
            assert_int_equal(tally.times[i], i < n);
        if (round % 4096 == 0)
            usleep(2000); /* the workers fall asleep */
    }
    worker_pool_destroy(pool);
}

static double cpu_seconds(void)
{
    struct timespec t;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void an_idle_pool_costs_nothing(void **state)
{
    (void)state;
    struct worker_pool *pool;
    serverd_error err;
    assert_int_equal(worker_pool_create(4, &pool, &err), SERVERD_OK);
    static struct tally tally;
    tally.n_workers = 4;
    worker_pool_run(pool, 100, mark, &tally);
    usleep(50000);
    double before = cpu_seconds();
    usleep(300000);
    assert_true(cpu_seconds() - before < 0.005);
    worker_pool_destroy(pool);
}

static void zero_means_as_many_as_the_process_may_use(void **state)
{
    (void)state;
    struct worker_pool *pool;
    serverd_error err;
    assert_int_equal(worker_pool_create(0, &pool, &err), SERVERD_OK);
    assert_in_range(worker_pool_n_workers(pool), 1, 1024);
    worker_pool_destroy(pool);
    worker_pool_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_chunk_runs_once_and_is_seen_by_the_caller),
        cmocka_unit_test(small_jobs_in_a_row_do_not_mix),
        cmocka_unit_test(an_idle_pool_costs_nothing),
        cmocka_unit_test(zero_means_as_many_as_the_process_may_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
