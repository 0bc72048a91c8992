/* Models that several ranks share: near the whole model, and with the same bits for a sequence
 * alone, in chunks and beside others; what a rank's failure does; the collectives. */
#include "base/clock.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "runtime/collective.h"
#include "runtime/ranks.h"
#include "support/run_program.h"
#include "support/sequences.h"
#include "support/synthetic_program.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_RANKS = 4, MAX_TOKENS = 37 };

static serverd_error err;

struct model {
    struct program *programs[MAX_RANKS];
    uint32_t n_ranks;
    struct worker_pool *pool;
    struct runtime *runtime;
};

static struct runtime_options options_of(const struct model *m, const char *device,
                                         serverd_dtype kv)
{
    return (struct runtime_options){.delegates = builtin_delegates,
                                    .n_delegates = n_builtin_delegates,
                                    .device = device,
                                    .pool = m->pool,
                                    .clock = &system_clock,
                                    .limits = sequences_limits(),
                                    .kv_dtype = kv,
                                    .wants_window_pages = true,
                                    .wants_kv_identity = true,
                                    .window_share = 0.9};
}

static void take_programs(struct model *m, const char *arch, const char *dtype, uint32_t n_ranks)
{
    *m = (struct model){.n_ranks = n_ranks};
    for (uint32_t r = 0; r < n_ranks; r++)
        m->programs[r] = synthetic_shard(arch, dtype, (struct shard){r, n_ranks});
    assert_int_equal(worker_pool_create(1, &m->pool, &err), SERVERD_OK);
}

static serverd_status try_open(struct model *m, const struct runtime_options *options)
{
    const struct runtime_ranks ranks = {m->programs, m->n_ranks, 1};
    return m->n_ranks > 1 ? runtime_open_ranks(&ranks, options, &m->runtime, &err)
                          : runtime_open(m->programs[0], options, &m->runtime, &err);
}

static struct model open_model(const char *arch, const char *dtype, uint32_t n_ranks,
                               const char *device, serverd_dtype kv)
{
    struct model m;
    take_programs(&m, arch, dtype, n_ranks);
    const struct runtime_options options = options_of(&m, device, kv);
    if (try_open(&m, &options) != SERVERD_OK)
        fail_msg("%s %s, %u ranks: %s", arch, dtype, n_ranks, err.text);
    return m;
}

static void close_model(struct model *m)
{
    runtime_close(m->runtime);
    worker_pool_destroy(m->pool);
    for (uint32_t r = 0; r < m->n_ranks; r++)
        program_unref(m->programs[r]);
}

/* ---- whole and shared ------------------------------------------------------------------------ */

static void check_decoder(const char *arch, const char *dtype, uint32_t n_ranks, const char *device,
                          serverd_dtype kv, double limit)
{
    struct model whole = open_model(arch, dtype, 1, device, kv),
                 shared = open_model(arch, dtype, n_ranks, device, kv);
    const size_t width = runtime_output_width(whole.runtime);
    float *exact = sequences_rows(whole.runtime), *alone[N_SEQUENCES];
    double mean = 0;
    assert_int_equal(runtime_output_width(shared.runtime), width);
    for (uint32_t s = 0; s < N_SEQUENCES; s++) {
        alone[s] = sequences_rows(shared.runtime);
        sequences_alone(whole.runtime, whole.programs[0], s, MAX_TOKENS, MAX_TOKENS, exact);
        sequences_alone(shared.runtime, shared.programs[0], s, MAX_TOKENS, MAX_TOKENS, alone[s]);
        mean += sequences_divergence(exact, alone[s], MAX_TOKENS, width) / N_SEQUENCES;
    }
    print_message("%s %s on %s, %u ranks: a mean divergence of %.2g\n", arch, dtype, device,
                  n_ranks, mean);
    if (!(fabs(mean) <= limit))
        fail_msg("%s %s on %s, %u ranks: a mean divergence of %g", arch, dtype, device, n_ranks,
                 mean);
    sequences_check_bits(shared.runtime, shared.programs[0], alone, MAX_TOKENS);
    for (uint32_t s = 0; s < N_SEQUENCES; s++)
        free(alone[s]);
    free(exact);
    close_model(&whole);
    close_model(&shared);
}

/* The exact back-end differs by the order of sums alone, the quick one rounds rows in between. */
static void shared_decoders_give_what_whole_ones_give(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *dtype;
        serverd_dtype kv;
    } models[] = {{"llama", "Q4_0", DTYPE_BF16},  {"mistral3", "F16", DTYPE_F16},
                  {"qwen2", "F32", DTYPE_F32},    {"qwen3", "Q8_0", DTYPE_I8},
                  {"gemma2", "BF16", DTYPE_BF16}, {"gemma3", "Q8_0", DTYPE_BF16},
                  {"phi3", "Q8_0", DTYPE_F16},    {"llama", "Q4_K", DTYPE_F32},
                  {"llama", "F32", DTYPE_F32}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        for (uint32_t n_ranks = 2; n_ranks <= MAX_RANKS; n_ranks += 2) {
            const bool is_float = models[i].kv == DTYPE_F32;
            check_decoder(models[i].arch, models[i].dtype, n_ranks, "cpu-reference", models[i].kv,
                          is_float ? 1e-9 : 1e-4);
            check_decoder(models[i].arch, models[i].dtype, n_ranks, "cpu", models[i].kv, 1e-3);
        }
}

static void shared_encoders_give_what_whole_ones_give(void **state)
{
    (void)state;
    int32_t tokens[MAX_TOKENS];
    for (uint32_t n_ranks = 2; n_ranks <= MAX_RANKS; n_ranks += 2) {
        struct model whole = open_model("bert", "F32", 1, "cpu-reference", DTYPE_F32),
                     shared = open_model("bert", "F32", n_ranks, "cpu-reference", DTYPE_F32);
        const uint32_t width = runtime_output_width(whole.runtime);
        float *a = sequences_rows(whole.runtime), *b = sequences_rows(whole.runtime);
        run_random_tokens(whole.programs[0], tokens, MAX_TOKENS);
        assert_int_equal(
            run_one_sequence(whole.runtime, whole.programs[0], tokens, MAX_TOKENS, a, &err),
            SERVERD_OK);
        assert_int_equal(
            run_one_sequence(shared.runtime, shared.programs[0], tokens, MAX_TOKENS, b, &err),
            SERVERD_OK);
        for (uint32_t i = 0; i < width; i++)
            assert_true(fabsf(a[i] - b[i]) < 1e-5f);
        free(a);
        free(b);
        close_model(&whole);
        close_model(&shared);
    }
}

/* ---- pages ----------------------------------------------------------------------------------- */

static void pages_leave_and_come_back_on_all_ranks(void **state)
{
    (void)state;
    struct model m = open_model("gemma2", "Q8_0", 2, "cpu", DTYPE_BF16);
    const serverd_kv_page page = {0, runtime_n_window_pages(m.runtime) > 0 ? 0 : SERVERD_NO_PAGE},
                          other = {1, runtime_n_window_pages(m.runtime) > 0 ? 1 : SERVERD_NO_PAGE};
    const size_t n = runtime_page_bytes(m.runtime) + runtime_window_page_bytes(m.runtime);
    char *before = calloc(1, n), *after = calloc(1, n);
    float *logits = sequences_rows(m.runtime);
    uint8_t identity[32], again[32];
    sequences_alone(m.runtime, m.programs[0], 0, MAX_TOKENS, MAX_TOKENS, logits);
    assert_int_equal(runtime_kv_export(m.runtime, page, before, &err), SERVERD_OK);
    assert_int_equal(runtime_kv_zero(m.runtime, &page, 1, &err), SERVERD_OK);
    assert_int_equal(runtime_kv_export(m.runtime, page, after, &err), SERVERD_OK);
    assert_memory_not_equal(before, after, n);
    assert_int_equal(runtime_kv_import(m.runtime, other, before, &err), SERVERD_OK);
    assert_int_equal(runtime_kv_copy(m.runtime, other, page, SERVERD_PAGE_TOKENS, &err),
                     SERVERD_OK);
    assert_int_equal(runtime_kv_export(m.runtime, page, after, &err), SERVERD_OK);
    assert_memory_equal(before, after, n);
    assert_int_equal(runtime_kv_identity(m.runtime, identity, &err), SERVERD_OK);
    assert_int_equal(runtime_kv_identity(m.runtime, again, &err), SERVERD_OK);
    assert_memory_equal(identity, again, sizeof identity);
    free(before);
    free(after);
    free(logits);
    close_model(&m);
}

/* ---- refusals and faults --------------------------------------------------------------------- */

static void what_cannot_be_shared_is_refused(void **state)
{
    (void)state;
    struct program *program = synthetic_program("llama", "F32");
    assert_int_equal(shard_program(program, (struct shard){0, 3}, &err), SERVERD_UNSUPPORTED);
    assert_non_null(strstr(err.text, "3 ranks cannot share 4 heads with 2 KV heads"));
    assert_int_equal(shard_program(program, (struct shard){2, 2}, &err), SERVERD_INVALID);
    assert_int_equal(shard_program(program, (struct shard){0, 1000}, &err), SERVERD_INVALID);
    assert_int_equal(shard_program(program, (struct shard){0, 8}, &err), SERVERD_UNSUPPORTED);
    program_unref(program);
}

static void a_shard_alone_is_refused(void **state)
{
    (void)state;
    struct model m;
    take_programs(&m, "llama", "F32", 2);
    const struct runtime_options options = options_of(&m, "cpu", DTYPE_F32);
    assert_int_not_equal(runtime_open(m.programs[0], &options, &m.runtime, &err), SERVERD_OK);
    const struct runtime_ranks swapped = {(struct program *[]){m.programs[1], m.programs[0]}, 2, 1};
    assert_int_not_equal(runtime_open_ranks(&swapped, &options, &m.runtime, &err), SERVERD_OK);
    m.runtime = NULL;
    close_model(&m);
}

/* A rank that waits for another one does not hang, and the next step is as if nothing had been. */
static void a_failing_step_ends_on_all_ranks(void **state)
{
    (void)state;
    struct model m =
        open_model("llama", "F32", 2, "fault:inner=cpu,script=error@13:numeric", DTYPE_F32);
    int32_t tokens[MAX_TOKENS];
    float *first = sequences_rows(m.runtime), *logits = sequences_rows(m.runtime);
    uint32_t n_failed = 0;
    run_random_tokens(m.programs[0], tokens, MAX_TOKENS);
    for (uint32_t i = 0; i < 6; i++) {
        const serverd_status status = run_one_sequence(m.runtime, m.programs[0], tokens, MAX_TOKENS,
                                                       i == 0 ? first : logits, &err);
        assert_true(status == SERVERD_OK || status == SERVERD_NUMERIC);
        n_failed += status != SERVERD_OK;
    }
    /* the one that was left alone has its thirteenth call in the next step */
    assert_in_range(n_failed, 1, 2);
    assert_memory_equal(first, logits,
                        sizeof *first * MAX_TOKENS * runtime_output_width(m.runtime));
    free(first);
    free(logits);
    close_model(&m);
}

/* ---- collectives ----------------------------------------------------------------------------- */

enum { N_ROUNDS = 300, MAX_FLOATS = 777 };

struct rank {
    const serverd_collective *collective;
    pthread_t thread;
    uint32_t n_lost; /* calls that ended with the error that is expected */
};

static float number(uint32_t rank, uint32_t round, size_t i)
{
    return (float)(int32_t)(hash_mix(rank * 7919u + round * 104729u + i) >> 40) * 0x1p-10f;
}

static void reduce_once(const struct rank *rank, uint32_t round, float *data, size_t n)
{
    const uint32_t n_ranks = rank->collective->n_ranks;
    serverd_error e;
    for (size_t i = 0; i < n; i++)
        data[i] = number(rank->collective->rank, round, i);
    assert_int_equal(rank->collective->all_reduce(rank->collective->context, data, n, &e),
                     SERVERD_OK);
    for (size_t i = 0; i < n; i++) {
        float sum = number(0, round, i);
        for (uint32_t r = 1; r < n_ranks; r++)
            sum += number(r, round, i);
        assert_true(data[i] == sum);
    }
}

/* Three rows; rank r has r + 1 columns. */
static void gather_once(const struct rank *rank, uint32_t round)
{
    const serverd_collective *c = rank->collective;
    const uint32_t n_columns = c->rank + 1, begin = c->rank * (c->rank + 1) / 2,
                   width = c->n_ranks * (c->n_ranks + 1) / 2;
    float part[3 * MAX_RANKS], out[3 * 10];
    serverd_error e;
    for (uint32_t i = 0; i < 3 * n_columns; i++)
        part[i] = number(c->rank, round, i);
    assert_int_equal(
        c->gather(c->context, part, 3, n_columns, begin, width, c->rank == 0 ? out : NULL, &e),
        SERVERD_OK);
    for (uint32_t r = 0; c->rank == 0 && r < c->n_ranks; r++)
        for (uint32_t row = 0; row < 3; row++)
            for (uint32_t k = 0; k <= r; k++)
                assert_true(out[row * width + r * (r + 1) / 2 + k] ==
                            number(r, round, row * (r + 1) + k));
}

static void *meet_often(void *arg)
{
    const struct rank *rank = arg;
    float data[MAX_FLOATS];
    for (uint32_t round = 0; round < N_ROUNDS; round++) {
        reduce_once(rank, round, data, hash_mix(round) % (MAX_FLOATS + 1));
        if (round % 3 == 0)
            gather_once(rank, round);
    }
    return NULL;
}

static void *meet_until_lost(void *arg)
{
    struct rank *rank = arg;
    float x[3] = {1, 2, 3};
    serverd_error e;
    while (rank->collective->all_reduce(rank->collective->context, x, 3, &e) == SERVERD_OK)
        continue;
    rank->n_lost++;
    return NULL;
}

static void start_ranks(struct rank *ranks, const struct collective_group *group, uint32_t first,
                        uint32_t n, void *(*run)(void *))
{
    for (uint32_t r = first; r < n; r++) {
        ranks[r] = (struct rank){.collective = collective_group_rank(group, r)};
        assert_int_equal(pthread_create(&ranks[r].thread, NULL, run, &ranks[r]), 0);
    }
}

static void ranks_that_meet_have_the_same_sums(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= MAX_RANKS; n++) {
        struct rank ranks[MAX_RANKS];
        struct collective_group *group;
        assert_int_equal(collective_group_create(n, &group, &err), SERVERD_OK);
        start_ranks(ranks, group, 0, n, meet_often);
        for (uint32_t r = 0; r < n; r++)
            assert_int_equal(pthread_join(ranks[r].thread, NULL), 0);
        collective_group_destroy(group);
    }
    struct collective_group *none;
    assert_int_not_equal(collective_group_create(0, &none, &err), SERVERD_OK);
    assert_int_not_equal(collective_group_create(1000, &none, &err), SERVERD_OK);
}

static void nobody_waits_for_a_rank_that_does_not_come(void **state)
{
    (void)state;
    struct rank ranks[MAX_RANKS];
    struct collective_group *group;
    assert_int_equal(collective_group_create(MAX_RANKS, &group, &err), SERVERD_OK);
    for (uint32_t i = 0; i < 3; i++) {
        start_ranks(ranks, group, 1, MAX_RANKS, meet_until_lost); /* rank 0 stays away */
        collective_group_break(group);
        for (uint32_t r = 1; r < MAX_RANKS; r++) {
            assert_int_equal(pthread_join(ranks[r].thread, NULL), 0);
            assert_int_equal(ranks[r].n_lost, 1);
        }
        collective_group_mend(group);
    }
    start_ranks(ranks, group, 0, MAX_RANKS, meet_often);
    for (uint32_t r = 0; r < MAX_RANKS; r++)
        assert_int_equal(pthread_join(ranks[r].thread, NULL), 0);
    collective_group_destroy(group);
}

static void *reduce_some(void *arg)
{
    struct rank *rank = arg;
    float x[8] = {0};
    serverd_error e;
    const size_t n = 4 + rank->collective->rank / 2; /* the upper half of the ranks bring more */
    rank->n_lost =
        rank->collective->all_reduce(rank->collective->context, x, n, &e) == SERVERD_INTERNAL;
    return NULL;
}

static void parts_of_different_sizes_are_an_error_on_all_ranks(void **state)
{
    (void)state;
    struct rank ranks[MAX_RANKS];
    struct collective_group *group;
    assert_int_equal(collective_group_create(MAX_RANKS, &group, &err), SERVERD_OK);
    start_ranks(ranks, group, 0, MAX_RANKS, reduce_some);
    for (uint32_t r = 0; r < MAX_RANKS; r++) {
        assert_int_equal(pthread_join(ranks[r].thread, NULL), 0);
        assert_int_equal(ranks[r].n_lost, 1);
    }
    const serverd_collective *view = collective_group_rank(group, 1);
    assert_int_equal(view->n_breaks(view->context), 0);
    collective_group_break(group);
    assert_int_equal(view->n_breaks(view->context), 1);
    collective_group_mend(group);
    assert_int_equal(view->n_breaks(view->context), 1);
    collective_group_destroy(group);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_that_meet_have_the_same_sums),
        cmocka_unit_test(nobody_waits_for_a_rank_that_does_not_come),
        cmocka_unit_test(parts_of_different_sizes_are_an_error_on_all_ranks),
        cmocka_unit_test(what_cannot_be_shared_is_refused),
        cmocka_unit_test(a_shard_alone_is_refused),
        cmocka_unit_test(shared_decoders_give_what_whole_ones_give),
        cmocka_unit_test(shared_encoders_give_what_whole_ones_give),
        cmocka_unit_test(pages_leave_and_come_back_on_all_ranks),
        cmocka_unit_test(a_failing_step_ends_on_all_ranks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
