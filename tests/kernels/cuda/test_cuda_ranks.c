/* Ranks on emulated CUDA devices that meet there: the bits of ranks that meet in memory of the
 * host, and what happens when one of them fails. Argument: none. */
#include "base/clock.h"
#include "base/hash.h"
#include "base/limits.h"
#include "kernels/builtin.h"
#include "kernels/cuda/delegate.h"
#include "kernels/cuda/emulated_group.h"
#include "kernels/cuda/meetings.h"
#include "program/dtype.h"
#include "program/op.h"
#include "runtime/collective.h"
#include "runtime/ranks.h"
#include "support/sequences.h"
#include "support/synthetic_program.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_RANKS = 4, N_TOKENS = 10 };

static const char in_host_memory[] = "all_reduce=collective,gather=collective";

static serverd_error err;
static const char *device_text; /* that models are opened on */

/* ---- a CUDA back-end that a test can disturb ---------------------------------------------------
 */

static serverd_delegate disturbed;
static serverd_instance *instances[MAX_RANKS];
static serverd_handle *handles[MAX_RANKS];
static uint32_t failing_rank, refusing_rank; /* MAX_RANKS: none */
static atomic_int calls_until_failure;

static serverd_status open_disturbed(const serverd_host *host, const serverd_device *device,
                                     serverd_instance **out, serverd_error *e)
{
    const serverd_status status = cuda_delegate.open(host, device, out, e);
    if (status == SERVERD_OK && host->collective)
        instances[host->collective->rank] = *out;
    return status;
}

static serverd_status load_disturbed(serverd_instance *instance, const serverd_graph *graph,
                                     const serverd_partition *partition, const void *const *packed,
                                     const serverd_limits *limits, const serverd_kv_spec *kv,
                                     serverd_handle **out, serverd_error *e)
{
    const serverd_status status =
        cuda_delegate.load(instance, graph, partition, packed, limits, kv, out, e);
    for (uint32_t r = 0; r < MAX_RANKS && status == SERVERD_OK; r++)
        if (instances[r] == instance)
            handles[r] = *out;
    return status;
}

static serverd_status match_disturbed(const serverd_host *host, const serverd_graph *graph,
                                      uint32_t node, serverd_claim *out, serverd_error *e)
{
    const serverd_status status = cuda_delegate.match(host, graph, node, out, e);
    if (host->collective && host->collective->rank == refusing_rank &&
        graph->nodes[node].op == SERVERD_OP_ALL_REDUCE)
        *out = (serverd_claim){.struct_bytes = sizeof *out, .reason = SERVERD_REASON_OP};
    return status;
}

static serverd_status execute_disturbed(serverd_handle *handle, const serverd_batch *batch,
                                        serverd_kv *kv, const float *const *inputs,
                                        float *const *outputs, serverd_error *e)
{
    if (failing_rank < MAX_RANKS && handle == handles[failing_rank] &&
        atomic_fetch_sub(&calls_until_failure, 1) == 1) {
        e->code = SERVERD_NUMERIC;
        (void)strcpy(e->text, "a test wants it");
        return SERVERD_NUMERIC;
    }
    return cuda_delegate.execute(handle, batch, kv, inputs, outputs, e);
}

static int set_up(void **state)
{
    (void)state;
    disturbed = cuda_delegate;
    disturbed.open = open_disturbed;
    disturbed.load = load_disturbed;
    disturbed.match = match_disturbed;
    disturbed.execute = execute_disturbed;
    device_text = "cuda";
    failing_rank = refusing_rank = MAX_RANKS;
    emulated_groups_allow(true);
    emulated_groups_fail(0, 0);
    return 0;
}

/* ---- models -----------------------------------------------------------------------------------
 */

struct model {
    struct program *shards[MAX_RANKS];
    uint32_t n_ranks;
    struct worker_pool *pool;
    struct runtime *runtime;
};

static serverd_status try_open(const char *arch, const char *dtype, uint32_t n_ranks,
                               const char *place, struct model *m)
{
    const serverd_delegate *const delegates[] = {builtin_delegate("cpu-reference"),
                                                 builtin_delegate("collective"), &disturbed};
    *m = (struct model){.n_ranks = n_ranks};
    for (uint32_t r = 0; r < n_ranks; r++)
        m->shards[r] = synthetic_shard(arch, dtype, (struct shard){r, n_ranks});
    assert_int_equal(worker_pool_create(1, &m->pool, &err), SERVERD_OK);
    const struct runtime_ranks ranks = {m->shards, n_ranks, 1};
    const struct runtime_options options = {.delegates = delegates,
                                            .n_delegates = sizeof delegates / sizeof *delegates,
                                            .device = device_text,
                                            .place = place,
                                            .pool = m->pool,
                                            .clock = &system_clock,
                                            .limits = sequences_limits(),
                                            .kv_dtype = DTYPE_BF16,
                                            .wants_window_pages = true,
                                            .window_share = 0.9};
    return runtime_open_ranks(&ranks, &options, &m->runtime, &err);
}

static struct model open_model(const char *arch, const char *dtype, uint32_t n_ranks,
                               const char *place)
{
    struct model m;
    if (try_open(arch, dtype, n_ranks, place, &m) != SERVERD_OK)
        fail_msg("%s, %u ranks: %s", arch, n_ranks, err.text);
    return m;
}

static void close_model(struct model *m)
{
    if (m->runtime)
        runtime_close(m->runtime);
    worker_pool_destroy(m->pool);
    for (uint32_t r = 0; r < m->n_ranks; r++)
        program_unref(m->shards[r]);
}

/* Of all ranks in a step: then nothing but the device runs any node, and a step is one partition.
 */
static uint64_t n_meetings(const struct model *m)
{
    const serverd_graph *graph = &m->shards[0]->graph;
    uint64_t n = 0;
    for (uint32_t i = 0; i < graph->n_nodes; i++)
        n += op_is_collective(graph->nodes[i].op);
    return n * m->n_ranks;
}

/* Both sequences alone, in one step each: the logits of alone[s], [N_TOKENS][width], to be freed.
 */
static void check_alone(struct model *host, struct model *own, float *alone[])
{
    const size_t width = runtime_output_width(host->runtime);
    float *expected = sequences_rows(host->runtime);
    for (uint32_t s = 0; s < N_SEQUENCES; s++) {
        const uint64_t before = emulated_groups_operations();
        alone[s] = sequences_rows(own->runtime);
        sequences_alone(host->runtime, host->shards[0], s, N_TOKENS, N_TOKENS, expected);
        assert_int_equal(emulated_groups_operations(), before);
        sequences_alone(own->runtime, own->shards[0], s, N_TOKENS, N_TOKENS, alone[s]);
        assert_int_equal(emulated_groups_operations(), before + n_meetings(own));
        assert_memory_equal(alone[s], expected, N_TOKENS * width * sizeof *expected);
    }
    free(expected);
}

/* Launched, recorded, repeated. */
static void check_records(struct model *m, const float *alone)
{
    enum { N = 4 };
    const size_t width = runtime_output_width(m->runtime);
    float *out = sequences_rows(m->runtime);
    sequences_alone(m->runtime, m->shards[0], 0, N, 1, out);
    assert_memory_equal(alone, out, N * width * sizeof *out);
    free(out);
}

static void check_bits(const char *arch, const char *dtype, uint32_t n_ranks, bool is_cut)
{
    struct model host = open_model(arch, dtype, n_ranks, in_host_memory),
                 own = open_model(arch, dtype, n_ranks, NULL);
    float *alone[N_SEQUENCES];
    check_alone(&host, &own, alone);
    if (is_cut)
        sequences_check_bits(own.runtime, own.shards[0], alone, N_TOKENS);
    check_records(&own, alone[0]);
    for (uint32_t s = 0; s < N_SEQUENCES; s++)
        free(alone[s]);
    close_model(&host);
    close_model(&own);
}

static void meeting_on_devices_has_the_bits_of_meeting_in_host_memory(void **state)
{
    (void)state;
    check_bits("qwen3", "Q8_0", 4, true);
    check_bits("gemma2", "BF16", 2, false); /* in chunks: cuda_delegate */
}

/* A layer on the device, whose sums are made there; all others are made beside the other layers. */
static void ranks_meet_where_the_layers_are(void **state)
{
    (void)state;
    enum { N = 3 };
    static const char *const places[] = {
        "blk.1=cuda", "all_reduce=collective,gather=collective,blk.1=cuda", NULL};
    static const uint32_t n_on_device[] = {2, 0, 0};
    float *out[3];
    size_t width = 0;
    device_text = "hetero:cpu-reference,cuda"; /* the emulated device is slow */
    for (uint32_t i = 0; i < 3; i++) {
        struct model m = open_model("llama", "Q8_0", 2, places[i]);
        const uint64_t before = emulated_groups_operations();
        width = runtime_output_width(m.runtime);
        out[i] = sequences_rows(m.runtime);
        sequences_alone(m.runtime, m.shards[0], 0, N, N, out[i]);
        assert_int_equal(emulated_groups_operations() - before, n_on_device[i] * m.n_ranks);
        close_model(&m);
    }
    assert_memory_equal(out[0], out[1], N * width * sizeof *out[0]);
    for (uint32_t i = 0; i < 3; i++)
        free(out[i]);
}

/* Of every other row its best column alone, which rank 0 says. */
static void the_best_of_all_columns_is_found_on_the_device(void **state)
{
    (void)state;
    enum { N = 5 };
    struct model m = open_model("llama", "Q8_0", 2, NULL);
    const uint32_t width = runtime_output_width(m.runtime);
    float *whole = sequences_rows(m.runtime), *out = sequences_rows(m.runtime);
    int32_t token[N], position[N], drawn[N];
    uint32_t row_seq[N] = {0}, row[N];
    serverd_draw draw[N];
    for (uint32_t i = 0; i < N; i++) {
        token[i] = (int32_t)(i * 31 % width);
        position[i] = (int32_t)i;
        row[i] = i;
        draw[i] = (serverd_draw){.kind = i % 2 ? SERVERD_DRAW_BEST : SERVERD_DRAW_LOGITS,
                                 .mask = SERVERD_NO_MASK};
        drawn[i] = SERVERD_DRAWN_LOGITS;
    }
    serverd_batch batch = {.struct_bytes = sizeof batch,
                           .n_rows = N,
                           .n_seqs = 1,
                           .n_logit_rows = N,
                           .token = token,
                           .position = position,
                           .row_seq = row_seq,
                           .page_table = row,
                           .max_pages = 1,
                           .logit_row = row};
    assert_int_equal(runtime_execute(m.runtime, &batch, whole, &err), SERVERD_OK);
    batch.draw = draw;
    batch.drawn = drawn;
    assert_true(runtime_draws(m.runtime));
    assert_int_equal(runtime_execute(m.runtime, &batch, out, &err), SERVERD_OK);
    for (uint32_t i = 0; i < N; i++) {
        const float *logits = whole + (size_t)i * width;
        int32_t expected = 0;
        for (uint32_t k = 1; k < width; k++)
            expected = logits[k] > logits[expected] ? (int32_t)k : expected;
        assert_int_equal(drawn[i], i % 2 ? expected : SERVERD_DRAWN_LOGITS);
        if (i % 2)
            assert_int_equal(runtime_read_logits(m.runtime, i, out + (size_t)i * width, &err),
                             SERVERD_OK);
        assert_memory_equal(logits, out + (size_t)i * width, width * sizeof *out);
    }
    free(whole);
    free(out);
    close_model(&m);
}

static void without_groups_ranks_meet_in_host_memory(void **state)
{
    (void)state;
    emulated_groups_allow(false);
    struct model m = open_model("llama", "Q8_0", 2, NULL);
    const uint64_t before = emulated_groups_operations();
    float *out = sequences_rows(m.runtime);
    sequences_alone(m.runtime, m.shards[0], 0, 3, 3, out);
    assert_int_equal(emulated_groups_operations(), before);
    free(out);
    close_model(&m);
}

static void meetings_are_claimed_where_they_are_possible(void **state)
{
    (void)state;
    struct collective_group *group;
    char reason[128] = "";
    assert_int_equal(collective_group_create(5, &group, &err), SERVERD_OK);
    serverd_collective ranks = *collective_group_rank(group, 1);
    const serverd_host host = {.struct_bytes = sizeof host, .collective = &ranks};
    assert_false(meetings_are_possible(&host, &(serverd_shard){1, 5, 0, 0}, reason, 128));
    assert_string_equal(reason, "5 ranks on 4 devices");
    ranks.n_ranks = 4;
    assert_true(meetings_are_possible(&host, &(serverd_shard){1, 4, 0, 0}, reason, 128));
    assert_false(meetings_are_possible(&host, &(serverd_shard){2, 4, 0, 0}, reason, 128));
    assert_string_equal(reason, "the shard is rank 2 of 4");
    emulated_groups_allow(false);
    assert_false(meetings_are_possible(&host, &(serverd_shard){1, 4, 0, 0}, reason, 128));
    assert_string_equal(reason, "a test says no");
    emulated_groups_allow(true);
    ranks.struct_bytes = offsetof(serverd_collective, n_breaks);
    assert_false(meetings_are_possible(&host, &(serverd_shard){1, 4, 0, 0}, reason, 128));
    assert_string_equal(reason, "the host does not say when a rank fails");
    collective_group_destroy(group);
}

/* ---- faults -----------------------------------------------------------------------------------
 */

static serverd_status try_step(struct model *m, uint32_t n_tokens, float *out)
{
    int32_t token[N_TOKENS], position[N_TOKENS];
    uint32_t row_seq[N_TOKENS] = {0}, row[N_TOKENS];
    for (uint32_t i = 0; i < n_tokens; i++) {
        token[i] = (int32_t)(i * 31);
        position[i] = (int32_t)i;
        row[i] = i;
    }
    const serverd_batch batch = {.struct_bytes = sizeof batch,
                                 .n_rows = n_tokens,
                                 .n_seqs = 1,
                                 .n_logit_rows = n_tokens,
                                 .token = token,
                                 .position = position,
                                 .row_seq = row_seq,
                                 .page_table = row,
                                 .max_pages = 1,
                                 .logit_row = row};
    return runtime_execute(m->runtime, &batch, out, &err);
}

/* Steps after a failure are as if nothing had been. */
static void check_recovered(struct model *m, const float *expected, size_t bytes, float *out)
{
    for (uint32_t i = 0; i < 3; i++) {
        memset(out, 0, bytes);
        if (try_step(m, 3, out) != SERVERD_OK)
            fail_msg("step %u after a failure: %s", i, err.text);
        assert_memory_equal(out, expected, bytes);
    }
}

static void a_rank_that_fails_ends_the_step_of_all(void **state)
{
    (void)state;
    struct model m = open_model("llama", "Q8_0", 2, NULL);
    const size_t bytes = 3 * runtime_output_width(m.runtime) * sizeof(float);
    float *expected = sequences_rows(m.runtime), *out = sequences_rows(m.runtime);
    assert_int_equal(try_step(&m, 3, expected), SERVERD_OK);
    for (uint32_t call = 1; call <= 4; call++) { /* launched, recorded, repeated */
        failing_rank = call % 2;
        calls_until_failure = (int)call;
        serverd_status status = SERVERD_OK;
        for (uint32_t i = 0; i < 4 && status == SERVERD_OK; i++)
            status = try_step(&m, 3, out);
        assert_int_equal(status, SERVERD_NUMERIC);
        check_recovered(&m, expected, bytes, out);
    }
    free(expected);
    free(out);
    close_model(&m);
}

static void a_broken_link_ends_the_step_of_all(void **state)
{
    (void)state;
    struct model m = open_model("llama", "Q8_0", 2, NULL);
    const size_t bytes = 3 * runtime_output_width(m.runtime) * sizeof(float);
    float *expected = sequences_rows(m.runtime), *out = sequences_rows(m.runtime);
    assert_int_equal(try_step(&m, 3, expected), SERVERD_OK);
    for (uint32_t call = 1; call <= 12; call += 4) {
        emulated_groups_fail(call % 8 / 4, call);
        serverd_status status = SERVERD_OK;
        for (uint32_t i = 0; i < 12 && status == SERVERD_OK; i++)
            status = try_step(&m, 3, out);
        assert_int_equal(status, SERVERD_DEVICE_LOST);
        check_recovered(&m, expected, bytes, out);
    }
    free(expected);
    free(out);
    close_model(&m);
}

static void ranks_that_meet_in_different_places_are_refused(void **state)
{
    (void)state;
    for (refusing_rank = 0; refusing_rank < 2; refusing_rank++) {
        struct model m;
        assert_int_equal(try_open("llama", "Q8_0", 2, NULL, &m), SERVERD_UNSUPPORTED);
        assert_non_null(strstr(err.text, refusing_rank
                                             ? "rank 1 meets the others through collective"
                                             : "rank 0 through collective"));
        close_model(&m);
    }
}

/* ---- meetings alone ---------------------------------------------------------------------------
 */

enum { N_ROWS = 7, WIDTH = 96, N_NUMBERS = N_ROWS * WIDTH };

/* x -> ALL_REDUCE; x [N_COLUMNS of the rank] -> GATHER. */
struct meeting_graph {
    serverd_value values[4];
    serverd_node nodes[2];
    uint32_t operands[4];
    serverd_graph graph;
    serverd_partition partition;
};

static void make_graph(struct meeting_graph *g, uint32_t rank, uint32_t n_ranks)
{
    const uint32_t begin = WIDTH * rank * rank / (n_ranks * n_ranks),
                   end = WIDTH * (rank + 1) * (rank + 1) / (n_ranks * n_ranks);
    const int64_t widths[] = {WIDTH, WIDTH, end - begin, WIDTH};
    memset(g, 0, sizeof *g);
    for (uint32_t i = 0; i < 4; i++) {
        g->values[i] = (serverd_value){
            .kind = SERVERD_VALUE_ACTIVATION, .rank = 2, .dims = {SERVERD_DIM_ROWS, widths[i]}};
        g->operands[i] = i;
    }
    for (uint32_t i = 0; i < 2; i++)
        g->nodes[i] = (serverd_node){.op = i ? SERVERD_OP_GATHER : SERVERD_OP_ALL_REDUCE,
                                     .n_inputs = 1,
                                     .n_outputs = 1,
                                     .first_operand = 2 * i,
                                     .attributes.shard = {rank, n_ranks, begin, WIDTH}};
    g->graph = (serverd_graph){.n_values = 4,
                               .n_nodes = 2,
                               .n_operands = 4,
                               .values = g->values,
                               .nodes = g->nodes,
                               .operands = g->operands};
    g->partition = (serverd_partition){.n_nodes = 2};
}

struct rank {
    const serverd_collective *collective;
    pthread_t thread;
    size_t gathered_floats; /* that it is given */
    uint32_t first;         /* of the model's meetings */
    size_t least_shared;
    bool is_right;
    serverd_status status;
};

static float number(uint32_t rank, size_t i)
{
    return (float)(int32_t)(hash_mix(rank * 7919u + i) >> 40) * 0x1p-10f;
}

static bool meet_both_ways(struct rank *rank, struct meetings *meetings, struct gpu *gpu,
                           const struct meeting_graph *g)
{
    const serverd_collective *c = rank->collective;
    const uint32_t n_columns = (uint32_t)g->values[2].dims[1];
    const serverd_shard *shard = &g->nodes[1].attributes.shard;
    struct graphs graphs = {0};
    float x[N_NUMBERS], sum[N_NUMBERS], expected[N_NUMBERS], whole[N_NUMBERS],
        expected_whole[N_NUMBERS];
    serverd_error e;
    for (size_t i = 0; i < N_NUMBERS; i++)
        x[i] = expected[i] = number(c->rank, i);
    rank->status = meetings_begin(meetings, gpu, &graphs, &e);
    if (rank->status != SERVERD_OK)
        return false;
    meetings_all_reduce(meetings, gpu, x, N_NUMBERS, sum);
    meetings_gather(meetings, gpu, &g->nodes[1], x, N_ROWS, whole);
    if (meetings_wait(meetings, gpu, &graphs, &e) != SERVERD_OK ||
        c->all_reduce(c->context, expected, N_NUMBERS, &e) != SERVERD_OK ||
        c->gather(c->context, x, N_ROWS, n_columns, shard->begin, WIDTH,
                  c->rank == 0 ? expected_whole : NULL, &e) != SERVERD_OK)
        return false;
    return memcmp(sum, expected, sizeof sum) == 0 &&
           (c->rank != 0 || memcmp(whole, expected_whole, sizeof whole) == 0);
}

static void *run_rank(void *arg)
{
    struct rank *rank = arg;
    struct meeting_graph g;
    struct meetings meetings;
    struct gpu *gpu;
    serverd_error e;
    const serverd_host host = {.struct_bytes = sizeof host, .collective = rank->collective};
    const serverd_limits limits = {.max_rows = N_ROWS};
    make_graph(&g, rank->collective->rank, rank->collective->n_ranks);
    if (gpu_open(rank->collective->rank, &gpu, &e) != SERVERD_OK)
        return NULL;
    if (meetings_open(&meetings, gpu, &host, &g.graph, &g.partition, &limits, &e) == SERVERD_OK &&
        rank->gathered_floats <= meetings.gathered_floats) {
        meetings.gathered_floats = rank->gathered_floats;
        meetings.first = rank->first;
        meetings.least_shared = rank->least_shared;
        rank->is_right = meet_both_ways(rank, &meetings, gpu, &g);
    }
    meetings_close(&meetings, gpu);
    gpu_close(gpu);
    return NULL;
}

/* first: of the last rank's meetings; of others it is 0. */
static void run_ranks(struct rank *ranks, uint32_t n_ranks, size_t gathered_floats, uint32_t first,
                      size_t least_shared)
{
    struct collective_group *group;
    assert_int_equal(collective_group_create(n_ranks, &group, &err), SERVERD_OK);
    for (uint32_t r = 0; r < n_ranks; r++) {
        ranks[r] = (struct rank){.collective = collective_group_rank(group, r),
                                 .gathered_floats = gathered_floats,
                                 .first = r == n_ranks - 1 ? first : 0,
                                 .least_shared = least_shared};
        assert_int_equal(pthread_create(&ranks[r].thread, NULL, run_rank, &ranks[r]), 0);
    }
    for (uint32_t r = 0; r < n_ranks; r++)
        assert_int_equal(pthread_join(ranks[r].thread, NULL), 0);
    collective_group_destroy(group);
}

static void meetings_in_slices_have_the_same_bits(void **state)
{
    (void)state;
    struct rank ranks[MAX_RANKS];
    for (uint32_t n_ranks = 2; n_ranks <= MAX_RANKS; n_ranks++)
        for (size_t floats = 64 * n_ranks; floats <= N_NUMBERS; floats += 400) {
            run_ranks(ranks, n_ranks, floats, 0, SIZE_MAX);
            for (uint32_t r = 0; r < n_ranks; r++)
                assert_true(ranks[r].is_right);
        }
}

static void meetings_by_shares_have_the_same_bits(void **state)
{
    (void)state;
    struct rank ranks[MAX_RANKS];
    for (uint32_t n_ranks = 2; n_ranks <= MAX_RANKS; n_ranks++)
        for (size_t floats = 64 * n_ranks; floats <= N_NUMBERS; floats += 400) {
            const uint64_t before = emulated_groups_operations();
            run_ranks(ranks, n_ranks, floats, 0, 0);
            for (uint32_t r = 0; r < n_ranks; r++)
                assert_true(ranks[r].is_right);
            if (floats == 64 * n_ranks) /* sums: two each; what is left of the last; the gather */
                assert_in_range(emulated_groups_operations() - before,
                                (2 * (N_NUMBERS / floats) + 2) * n_ranks, UINT32_MAX);
        }
}

/* Nobody waits for ever, and nobody gets a result. */
static void ranks_that_want_different_things_are_an_error(void **state)
{
    (void)state;
    struct rank ranks[MAX_RANKS];
    run_ranks(ranks, 3, N_NUMBERS, 1, SIZE_MAX);
    for (uint32_t r = 0; r < 3; r++)
        assert_int_equal(ranks[r].status, SERVERD_INTERNAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(meetings_are_claimed_where_they_are_possible, set_up),
        cmocka_unit_test_setup(meetings_in_slices_have_the_same_bits, set_up),
        cmocka_unit_test_setup(meetings_by_shares_have_the_same_bits, set_up),
        cmocka_unit_test_setup(ranks_that_want_different_things_are_an_error, set_up),
        cmocka_unit_test_setup(meeting_on_devices_has_the_bits_of_meeting_in_host_memory, set_up),
        cmocka_unit_test_setup(ranks_meet_where_the_layers_are, set_up),
        cmocka_unit_test_setup(the_best_of_all_columns_is_found_on_the_device, set_up),
        cmocka_unit_test_setup(without_groups_ranks_meet_in_host_memory, set_up),
        cmocka_unit_test_setup(a_rank_that_fails_ends_the_step_of_all, set_up),
        cmocka_unit_test_setup(a_broken_link_ends_the_step_of_all, set_up),
        cmocka_unit_test_setup(ranks_that_meet_in_different_places_are_refused, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
