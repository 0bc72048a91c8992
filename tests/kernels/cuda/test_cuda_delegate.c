/* Whole models on the CUDA back-end, emulated or on a device: near the exact reference, and with
 * the same bits for a sequence alone, in chunks and beside others. Argument: none. */
#include "base/clock.h"
#include "kernels/builtin.h"
#include "kernels/cuda/delegate.h"
#include "kernels/cuda/fuse.h"
#include "kernels/cuda/kernels.h"
#include "program/dtype.h"
#include "program/sdp_program.h"
#include "quantise/quantise.h"
#include "runtime/ranks.h"
#include "sampling/sample.h"
#include "support/program_file.h"
#include "support/sequences.h"
#include "support/synthetic_program.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_TOKENS = 37 };

static serverd_error err;

struct model {
    struct worker_pool *pool;
    struct runtime *runtime;
};

/* `place` as in runtime_options. */
static struct model open_placed(struct program *shards[], uint32_t n_ranks, const char *device,
                                const char *place, serverd_dtype kv)
{
    const serverd_delegate *const delegates[] = {builtin_delegate("cpu-reference"),
                                                 builtin_delegate("cpu"),
                                                 builtin_delegate("collective"), &cuda_delegate};
    const struct runtime_ranks ranks = {shards, n_ranks, 1};
    struct program *program = shards[0];
    struct model m;
    assert_int_equal(worker_pool_create(1, &m.pool, &err), SERVERD_OK);
    const struct runtime_options options = {.delegates = delegates,
                                            .n_delegates = sizeof delegates / sizeof *delegates,
                                            .device = device,
                                            .place = place,
                                            .pool = m.pool,
                                            .clock = &system_clock,
                                            .limits = sequences_limits(),
                                            .kv_dtype = kv,
                                            .wants_window_pages = true,
                                            .window_share = 0.9};
    serverd_status status = n_ranks > 1 ? runtime_open_ranks(&ranks, &options, &m.runtime, &err)
                                        : runtime_open(program, &options, &m.runtime, &err);
    if (status != SERVERD_OK)
        fail_msg("%s: %s", device, err.text);
    return m;
}

static struct model open_on(struct program *program, const char *device, serverd_dtype kv)
{
    return open_placed(&program, 1, device, NULL, kv);
}

static void close_model(struct model *m)
{
    runtime_close(m->runtime);
    worker_pool_destroy(m->pool);
}

/* `name` of its matrices' type. */
static void check_decoder(struct program *program, const char *name, serverd_dtype kv,
                          uint32_t n_tokens)
{
    struct model reference = open_on(program, "cpu-reference", kv),
                 cuda = open_on(program, "cuda", kv);
    float *exact = sequences_rows(cuda.runtime), *alone[N_SEQUENCES];
    double mean = 0;
    for (uint32_t s = 0; s < N_SEQUENCES; s++) {
        alone[s] = sequences_rows(cuda.runtime);
        sequences_alone(reference.runtime, program, s, n_tokens, n_tokens, exact);
        sequences_alone(cuda.runtime, program, s, n_tokens, n_tokens, alone[s]);
        mean +=
            sequences_divergence(exact, alone[s], n_tokens, runtime_output_width(cuda.runtime)) /
            N_SEQUENCES;
    }
    print_message("%s: a mean divergence of %.2g\n", name, mean);
    if (!(mean >= 0 && mean <= 2e-3))
        fail_msg("%s: a mean divergence of %g", name, mean);
    sequences_check_bits(cuda.runtime, program, alone, n_tokens);
    for (uint32_t s = 0; s < N_SEQUENCES; s++)
        free(alone[s]);
    free(exact);
    close_model(&reference);
    close_model(&cuda);
    program_unref(program);
}

static void decoders_are_near_the_reference_and_bit_equal_to_themselves(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *dtype;
        serverd_dtype kv;
    } models[] = {{"llama", "Q4_0", DTYPE_BF16},  {"mistral3", "F16", DTYPE_F16},
                  {"qwen2", "F32", DTYPE_F32},    {"qwen3", "Q8_0", DTYPE_I8},
                  {"gemma2", "BF16", DTYPE_BF16}, {"gemma3", "Q8_0", DTYPE_BF16},
                  {"phi3", "Q8_0", DTYPE_F16}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        check_decoder(synthetic_program(models[i].arch, models[i].dtype), models[i].dtype,
                      models[i].kv, MAX_TOKENS);
}

static void super_blocks_are_near_the_reference(void **state)
{
    (void)state;
    check_decoder(synthetic_program("llama", "Q4_K"), "Q4_K", DTYPE_BF16, 11);
    check_decoder(synthetic_program("mistral3", "Q6_K"), "Q6_K", DTYPE_BF16, 11);
}

/* A model whose matrices were quantised to a format of our own; at least one has that type. */
static struct program *quantised(const char *policy, serverd_dtype expected)
{
    struct program *program = synthetic_program("llama", "F32");
    struct quantise_report report;
    struct worker_pool *pool;
    bool any = false;
    assert_int_equal(worker_pool_create(1, &pool, &err), SERVERD_OK);
    const struct quantise_options options = {.policy = policy, .pool = pool};
    if (quantise_program(program, &options, &report, &err) != SERVERD_OK)
        fail_msg("%s: %s", policy, err.text);
    quantise_report_destroy(&report);
    worker_pool_destroy(pool);
    for (uint32_t i = 0; i < program->graph.n_tensors; i++)
        any |= program->graph.tensors[i].dtype == expected;
    assert_true(any);
    return program;
}

static void own_formats_are_near_the_reference(void **state)
{
    (void)state;
    check_decoder(quantised("i4a:g64", dtype_own(FORMAT_I4A, 64, false)), "i4a_g64", DTYPE_BF16,
                  19);
    check_decoder(quantised("i8a:g32", dtype_own(FORMAT_I8A, 32, false)), "i8a_g32", DTYPE_BF16,
                  19);
}

/* Both sequences on that device, n_tokens each; to be freed. */
static float *answers(struct program *program, const char *device, const char *place,
                      uint32_t n_tokens)
{
    struct model m = open_placed(&program, 1, device, place, DTYPE_BF16);
    float *out = sequences_rows(m.runtime);
    for (uint32_t s = 0; s < N_SEQUENCES; s++)
        sequences_alone(m.runtime, program, s, n_tokens, n_tokens,
                        out + (size_t)s * n_tokens * runtime_output_width(m.runtime));
    close_model(&m);
    return out;
}

/* The CPU does not look at the other's weights, and the other one needs not the source's rows. */
static void one_file_serves_both(void **state)
{
    (void)state;
    enum { N = 9 };
    struct program *source = synthetic_program("llama", "Q4_0"), *file, *cpu_only;
    struct program_file plain = program_file_create("llama", "Q4_0");
    char path[128];
    (void)snprintf(path, sizeof path, "%s/both.sdp", plain.folder);
    if (program_file_write_for(source, &cuda_delegate, path, &err) || sdp_open(path, &file, &err) ||
        sdp_open(plain.path, &cpu_only, &err))
        fail_msg("%s", err.text);
    static const char *const devices[] = {"cpu", "cuda"};
    for (size_t d = 0; d < 2; d++) {
        float *a = answers(source, devices[d], NULL, N), *b = answers(file, devices[d], NULL, N);
        assert_memory_equal(a, b,
                            sizeof *a * N * N_SEQUENCES * program_output_width(&source->config));
        free(a);
        free(b);
    }
    const serverd_host host = {.struct_bytes = sizeof host, .n_workers = 1};
    const serverd_delegate *const cuda[] = {&cuda_delegate};
    const struct placement_options options = {
        .delegates = cuda, .n_delegates = 1, .device = "cuda", .host = &host, .program = cpu_only};
    struct placement *placement;
    assert_int_not_equal(placement_create(&cpu_only->graph, &options, &placement, &err),
                         SERVERD_OK);
    if (!strstr(err.text, "no-layout"))
        fail_msg("%s", err.text);
    program_unref(source);
    program_unref(file);
    program_unref(cpu_only);
    (void)unlink(path);
    program_file_remove(&plain);
}

static void layers_on_two_devices_have_the_bits_of_one(void **state)
{
    (void)state;
    enum { N = 9 };
    char reason[128];
    if (gpu_count(reason, sizeof reason) < 2)
        skip();
    struct program *program = synthetic_program("qwen2", "Q8_0");
    float *one = answers(program, "cuda", NULL, N),
          *two = answers(program, "cuda", "blk.1=cuda.1,output=cuda.1", N);
    assert_memory_equal(one, two,
                        sizeof *one * N * N_SEQUENCES * program_output_width(&program->config));
    free(one);
    free(two);
    program_unref(program);
}

enum { N_DRAWN = 13 };

/* Of each row what is wanted: its logits, its best column under a ban, or a drawn one. */
struct draws {
    struct sampling_params params[3];
    struct logit_bias ban;
    struct sampler *sampler[3];
    serverd_logit_change items[N_DRAWN];
    struct change_list changes;
    serverd_draw draw[N_DRAWN];
};

static void make_draws(struct draws *d, uint32_t width)
{
    d->ban = (struct logit_bias){.token = 40, .is_banned = true};
    d->changes = (struct change_list){.items = d->items, .cap = N_DRAWN};
    for (uint32_t k = 0; k < 3; k++) {
        d->params[k] = sampling_params_default();
        d->params[k].temperature = k == 1 ? 0 : 0.9f;
        d->params[k].top_k = 50;
        d->params[k].bias = &d->ban;
        d->params[k].n_bias = k == 1;
        const struct sampler_setup setup = {.params = &d->params[k], .n_vocab = width};
        d->sampler[k] = sampler_create(&setup);
        assert_non_null(d->sampler[k]);
    }
    for (uint32_t i = 0; i < N_DRAWN; i++) {
        d->draw[i] = (serverd_draw){.kind = SERVERD_DRAW_LOGITS, .mask = SERVERD_NO_MASK};
        if (i % 3 > 0)
            assert_true(sampler_describe(d->sampler[i % 3], i, 0, &d->changes, &d->draw[i]));
    }
}

/* logits: those of the row when all are wanted; out: what came this time. */
static void check_drawn(const struct model *m, const struct draws *d, uint32_t row, int32_t drawn,
                        const float *logits, const float *out)
{
    const uint32_t width = runtime_output_width(m->runtime);
    float *read = calloc(width, sizeof *read);
    if (row % 3 == 0) {
        assert_int_equal(drawn, SERVERD_DRAWN_LOGITS);
        memcpy(read, out, width * sizeof *read);
    } else {
        int32_t token;
        struct sampling_scratch *scratch = sampling_scratch_create(width);
        assert_int_equal(sampler_draw(d->sampler[row % 3], scratch, logits, row, &token, &err),
                         SERVERD_OK);
        if (row % 3 == 1 || drawn != SERVERD_DRAWN_UNSURE)
            assert_int_equal(drawn, token);
        assert_int_equal(runtime_read_logits(m->runtime, row, read, &err), SERVERD_OK);
        sampling_scratch_destroy(scratch);
    }
    assert_memory_equal(read, logits, width * sizeof *read);
    free(read);
}

static void tokens_are_drawn_and_logits_stay_to_be_read(void **state)
{
    (void)state;
    struct program *program = synthetic_program("llama", "Q8_0");
    struct model m = open_on(program, "cuda", DTYPE_BF16);
    const uint32_t width = runtime_output_width(m.runtime);
    float *whole = sequences_rows(m.runtime), *out = sequences_rows(m.runtime);
    int32_t token[N_DRAWN], position[N_DRAWN], drawn[N_DRAWN];
    uint32_t row_seq[N_DRAWN] = {0}, row[N_DRAWN];
    for (uint32_t i = 0; i < N_DRAWN; i++) {
        token[i] = (int32_t)(i * 31 % width);
        position[i] = (int32_t)i;
        row[i] = i;
    }
    serverd_batch batch = {.struct_bytes = sizeof batch,
                           .n_rows = N_DRAWN,
                           .n_seqs = 1,
                           .n_logit_rows = N_DRAWN,
                           .token = token,
                           .position = position,
                           .row_seq = row_seq,
                           .page_table = row,
                           .max_pages = 1,
                           .logit_row = row};
    assert_true(runtime_draws(m.runtime));
    assert_int_equal(runtime_execute(m.runtime, &batch, whole, &err), SERVERD_OK);
    assert_int_not_equal(runtime_read_logits(m.runtime, 0, out, &err), SERVERD_OK);
    struct draws draws;
    make_draws(&draws, width);
    batch.draw = draws.draw;
    batch.drawn = drawn;
    batch.change = draws.items;
    batch.n_changes = draws.changes.n;
    for (uint32_t round = 0; round < 3; round++) { /* launched, recorded, repeated */
        for (uint32_t i = 0; i < N_DRAWN; i++)
            drawn[i] = SERVERD_DRAWN_LOGITS;
        memset(out, 0, N_DRAWN * width * sizeof *out);
        assert_int_equal(runtime_execute(m.runtime, &batch, out, &err), SERVERD_OK);
        for (uint32_t i = 0; i < N_DRAWN; i++)
            check_drawn(&m, &draws, i, drawn[i], whole + i * width, out + i * width);
    }
    for (uint32_t k = 0; k < 3; k++)
        sampler_destroy(draws.sampler[k]);
    free(whole);
    free(out);
    close_model(&m);
    program_unref(program);
}

/* A draw that refers to what is not there. */
static void draws_are_checked(void **state)
{
    (void)state;
    struct program *program = synthetic_program("llama", "Q8_0");
    struct model m = open_on(program, "cuda", DTYPE_BF16);
    float *out = sequences_rows(m.runtime);
    const int32_t zero = 0;
    const uint32_t first = 0;
    const serverd_logit_change changes[] = {{0, -1, 1},
                                            {(int32_t)runtime_output_width(m.runtime), -1, 1}};
    const struct {
        serverd_draw draw;
        uint32_t n_changes;
    } bad[] = {
        {{.kind = 7, .mask = SERVERD_NO_MASK}, 0},
        {{.kind = SERVERD_DRAW_BEST, .mask = 0}, 0},
        {{.kind = SERVERD_DRAW_BEST, .mask = SERVERD_NO_MASK, .first_change = 1, .n_changes = 1},
         1},
        {{.kind = SERVERD_DRAW_BEST, .mask = SERVERD_NO_MASK, .first_change = 2}, 1},
        {{.kind = SERVERD_DRAW_BEST, .mask = SERVERD_NO_MASK, .n_changes = 2}, 2},
        {{.kind = SERVERD_DRAW_RANDOM, .mask = SERVERD_NO_MASK, .u = 1, .scale = 1, .top_p = 1}, 0},
        {{.kind = SERVERD_DRAW_RANDOM, .mask = SERVERD_NO_MASK, .scale = NAN, .top_p = 1}, 0},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int32_t drawn = SERVERD_DRAWN_LOGITS;
        const serverd_batch batch = {.struct_bytes = sizeof batch,
                                     .n_rows = 1,
                                     .n_seqs = 1,
                                     .n_logit_rows = 1,
                                     .token = &zero,
                                     .position = &zero,
                                     .row_seq = &first,
                                     .page_table = &first,
                                     .max_pages = 1,
                                     .logit_row = &first,
                                     .draw = &bad[i].draw,
                                     .drawn = &drawn,
                                     .change = changes,
                                     .n_changes = bad[i].n_changes};
        assert_int_equal(runtime_execute(m.runtime, &batch, out, &err), SERVERD_INTERNAL);
    }
    free(out);
    close_model(&m);
    program_unref(program);
}

/* Token by token: from the third step on they are records of the second one. */
static void check_repeated(const char *arch, const char *dtype)
{
    enum { N = 19 };
    struct program *program = synthetic_program(arch, dtype);
    struct model m = open_on(program, "cuda", DTYPE_BF16);
    const size_t bytes = N * runtime_output_width(m.runtime) * sizeof(float);
    float *whole = sequences_rows(m.runtime), *steps = sequences_rows(m.runtime);
    for (uint32_t s = 0; s < N_SEQUENCES; s++) {
        sequences_alone(m.runtime, program, s, N, N, whole);
        sequences_alone(m.runtime, program, s, N, 1, steps);
        assert_memory_equal(whole, steps, bytes);
    }
    free(whole);
    free(steps);
    close_model(&m);
    program_unref(program);
}

static void steps_of_one_shape_have_their_own_bits(void **state)
{
    (void)state;
    check_repeated("llama", "Q4_0");
    check_repeated("gemma2", "BF16");
}

/* Logits of the row at `position` behind what is in the first page. */
static float *answer_behind(struct model *m, uint32_t first_page, int32_t position)
{
    const int32_t token = 5;
    const uint32_t zero = 0, table[] = {first_page, 1};
    const serverd_batch batch = {.struct_bytes = sizeof batch,
                                 .n_rows = 1,
                                 .n_seqs = 1,
                                 .n_logit_rows = 1,
                                 .token = &token,
                                 .position = &position,
                                 .row_seq = &zero,
                                 .page_table = table,
                                 .max_pages = 2,
                                 .logit_row = &zero};
    float *out = sequences_rows(m->runtime);
    if (runtime_execute(m->runtime, &batch, out, &err))
        fail_msg("%s", err.text);
    return out;
}

/* One leaves while the next step is on its way, which writes to it. */
static void pages_leave_and_come_back(void **state)
{
    (void)state;
    struct program *program = synthetic_program("llama", "Q8_0");
    struct model m = open_on(program, "cuda", DTYPE_I8);
    const size_t width = runtime_output_width(m.runtime), bytes = runtime_page_bytes(m.runtime);
    float *rows = sequences_rows(m.runtime);
    char *left = malloc(bytes);
    assert_non_null(left);
    sequences_alone(m.runtime, program, 0, SERVERD_PAGE_TOKENS, SERVERD_PAGE_TOKENS, rows);
    float *before = answer_behind(&m, 0, SERVERD_PAGE_TOKENS);
    const serverd_kv_page first = {0, SERVERD_NO_PAGE}, other = {3, SERVERD_NO_PAGE};
    assert_true(runtime_kv_leaves_late(m.runtime));
    for (uint32_t i = 0; i < 100; i++) /* more than are on their way at once */
        assert_int_equal(runtime_kv_export(m.runtime, first, left, &err), SERVERD_OK);
    free(answer_behind(&m, 0, 3));
    assert_int_equal(runtime_kv_settle(m.runtime, &err), SERVERD_OK);
    for (uint32_t i = 0; i < 100; i++)
        assert_int_equal(runtime_kv_import(m.runtime, other, left, &err), SERVERD_OK);
    memset(left, 0, bytes); /* it is the caller's again */
    float *after = answer_behind(&m, 3, SERVERD_PAGE_TOKENS),
          *spoiled = answer_behind(&m, 0, SERVERD_PAGE_TOKENS);
    assert_memory_equal(before, after, width * sizeof *before);
    assert_memory_not_equal(before, spoiled, width * sizeof *before);
    free(before);
    free(after);
    free(spoiled);
    free(rows);
    free(left);
    close_model(&m);
    program_unref(program);
}

static uint32_t count(const struct program *program, const struct fusion *fusions, uint32_t op,
                      bool (*is_it)(const struct fusion *))
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < program->graph.n_nodes; i++)
        n += program->graph.nodes[i].op == op && is_it(&fusions[i]);
    return n;
}

static bool is_done(const struct fusion *fusion)
{
    return fusion->is_done;
}

static bool makes_fragments(const struct fusion *fusion)
{
    return fusion->makes_fragments;
}

static bool converts(const struct fusion *fusion)
{
    return !fusion->has_fragments;
}

static bool joins_or_adds(const struct fusion *fusion)
{
    return fusion->n_joined > 0 || fusion->add;
}

/* Of a layer only attention's result is converted, if it does not end with a tile. */
static void nodes_of_a_layer_are_done_together(void **state)
{
    (void)state;
    struct program *program = synthetic_program("llama", "F32");
    const serverd_graph *graph = &program->graph;
    const uint32_t n_layers = program->config.n_layers, outputs[] = {graph->output};
    const serverd_partition partition = {.struct_bytes = sizeof partition,
                                         .n_nodes = graph->n_nodes,
                                         .n_outputs = 1,
                                         .outputs = outputs};
    struct fusion *fusions = fuse(graph, &partition, true);
    assert_non_null(fusions);
    assert_int_equal(count(program, fusions, SERVERD_OP_ROPE, is_done), 2 * n_layers);
    assert_int_equal(count(program, fusions, SERVERD_OP_RMS_NORM, makes_fragments),
                     2 * n_layers + 1);
    assert_int_equal(count(program, fusions, SERVERD_OP_GLU, makes_fragments), n_layers);
    assert_int_equal(count(program, fusions, SERVERD_OP_LINEAR, converts), n_layers);
    /* q k v, gate up; o and down with the sum behind them, but where rows are selected between */
    assert_int_equal(count(program, fusions, SERVERD_OP_LINEAR, is_done), 3 * n_layers);
    assert_int_equal(count(program, fusions, SERVERD_OP_LINEAR, joins_or_adds), 4 * n_layers - 1);
    assert_int_equal(count(program, fusions, SERVERD_OP_ADD, is_done), 2 * n_layers - 1);
    free(fusions);
    fusions = fuse(graph, &partition, false); /* nowhere to append to */
    assert_non_null(fusions);
    assert_int_equal(count(program, fusions, SERVERD_OP_ROPE, is_done), 0);
    free(fusions);
    program_unref(program);
}

static void ranks_share_a_model(void **state)
{
    (void)state;
    struct program *whole = synthetic_program("qwen3", "Q8_0"), *shards[2];
    for (uint32_t r = 0; r < 2; r++)
        shards[r] = synthetic_shard("qwen3", "Q8_0", (struct shard){r, 2});
    struct model reference = open_on(whole, "cpu-reference", DTYPE_BF16),
                 cuda = open_placed(shards, 2, "cuda", NULL, DTYPE_BF16);
    float *exact = sequences_rows(cuda.runtime), *alone[N_SEQUENCES];
    for (uint32_t s = 0; s < N_SEQUENCES; s++) {
        alone[s] = sequences_rows(cuda.runtime);
        sequences_alone(reference.runtime, whole, s, 19, 19, exact);
        sequences_alone(cuda.runtime, shards[0], s, 19, 19, alone[s]);
        assert_true(sequences_divergence(exact, alone[s], 19, runtime_output_width(cuda.runtime)) <
                    2e-3);
    }
    sequences_check_bits(cuda.runtime, shards[0], alone, 19);
    for (uint32_t s = 0; s < N_SEQUENCES; s++)
        free(alone[s]);
    free(exact);
    close_model(&reference);
    close_model(&cuda);
    program_unref(whole);
    program_unref(shards[0]);
    program_unref(shards[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoders_are_near_the_reference_and_bit_equal_to_themselves),
        cmocka_unit_test(super_blocks_are_near_the_reference),
        cmocka_unit_test(own_formats_are_near_the_reference),
        cmocka_unit_test(one_file_serves_both),
        cmocka_unit_test(tokens_are_drawn_and_logits_stay_to_be_read),
        cmocka_unit_test(draws_are_checked),
        cmocka_unit_test(layers_on_two_devices_have_the_bits_of_one),
        cmocka_unit_test(steps_of_one_shape_have_their_own_bits),
        cmocka_unit_test(pages_leave_and_come_back),
        cmocka_unit_test(nodes_of_a_layer_are_done_together),
        cmocka_unit_test(ranks_share_a_model),
    };
    char reason[128] = "";
    if (gpu_count(reason, sizeof reason) == 0) {
        print_error("%s\n", reason);
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
