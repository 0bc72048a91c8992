/* A model on several devices gives the bits, or nearly the numbers, that it gives on one: two CPU
 * instances cut at every node, and the CPU back-end beside the reference. */
#include "base/clock.h"
#include "base/hash.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "program/op.h"
#include "runtime/runtime.h"
#include "support/divergence.h"
#include "support/synthetic_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
    N_PROMPT = 20,
    N_GREEDY = 64,
    N_FEW = 4,
    CONTEXT = 96, /* beyond all windows */
    MAX_PAGES = (CONTEXT + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS,
    N_SEQS = 2
};

static serverd_error err;
static struct worker_pool *pool;

/* What a model says: logits of two prompts in one step, then the best tokens, both sequences in
 * each step. */
struct answer {
    uint32_t width;
    float *logits; /* [N_SEQS * N_PROMPT][width] */
    int32_t tokens[N_SEQS][N_GREEDY];
    float *last; /* [N_SEQS][width] of the last step */
};

static struct runtime *open_on(struct program *program, const char *device, const char *place,
                               serverd_dtype kv, bool is_apart)
{
    const struct runtime_options options = {.delegates = builtin_delegates,
                                            .n_delegates = n_builtin_delegates,
                                            .device = device,
                                            .place = place,
                                            .pool = pool,
                                            .clock = &system_clock,
                                            .limits = {.struct_bytes = sizeof(serverd_limits),
                                                       .max_rows = N_SEQS * N_PROMPT,
                                                       .max_logit_rows = N_SEQS * N_PROMPT,
                                                       .max_seqs = N_SEQS + 1,
                                                       .max_context = CONTEXT},
                                            .kv_dtype = kv,
                                            .wants_window_pages = is_apart,
                                            .window_share = 0.99,
                                            .wants_kv_identity = true};
    struct runtime *runtime;
    if (runtime_open(program, &options, &runtime, &err) != SERVERD_OK)
        fail_msg("%s, %s: %s", device, place ? place : "", err.text);
    return runtime;
}

/* Tokens begin .. end - 1 of both sequences, all logits wanted; out [rows][width]. */
static void step(struct runtime *runtime, int32_t tokens[N_SEQS][CONTEXT], uint32_t begin,
                 uint32_t end, float *out)
{
    int32_t token[N_SEQS * N_PROMPT], position[N_SEQS * N_PROMPT];
    uint32_t row_seq[N_SEQS * N_PROMPT], rows[N_SEQS * N_PROMPT], n = 0;
    uint32_t pages[N_SEQS * MAX_PAGES], windows[N_SEQS * MAX_PAGES];
    bool is_apart = runtime_n_window_pages(runtime) > 0;
    for (uint32_t s = 0; s < N_SEQS; s++) {
        for (uint32_t p = 0; p < MAX_PAGES; p++) {
            pages[s * MAX_PAGES + p] = p * N_SEQS + (s + p) % N_SEQS;
            windows[s * MAX_PAGES + p] = (N_SEQS - s - 1) * MAX_PAGES + p;
        }
        for (uint32_t i = begin; i < end; i++, n++) {
            token[n] = tokens[s][i];
            position[n] = (int32_t)i;
            row_seq[n] = s;
            rows[n] = n;
        }
    }
    const serverd_batch batch = {.struct_bytes = sizeof batch,
                                 .n_rows = n,
                                 .n_seqs = N_SEQS,
                                 .n_logit_rows = n,
                                 .token = token,
                                 .position = position,
                                 .row_seq = row_seq,
                                 .page_table = pages,
                                 .max_pages = MAX_PAGES,
                                 .window_table = is_apart ? windows : NULL,
                                 .logit_row = rows};
    if (runtime_execute(runtime, &batch, out, &err) != SERVERD_OK)
        fail_msg("%s: %s", runtime_device(runtime), err.text);
}

static int32_t best_of(const float *logits, uint32_t n)
{
    int32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = (int32_t)i;
    return best;
}

/* `tokens` of another answer: what to go on with instead of the own ones; NULL: the own ones. */
static struct answer ask_some(struct program *program, struct runtime *runtime,
                              const struct answer *forced, uint32_t n_greedy)
{
    struct answer a = {.width = runtime_output_width(runtime)};
    int32_t tokens[N_SEQS][CONTEXT];
    a.logits = calloc((size_t)N_SEQS * N_PROMPT * a.width, sizeof *a.logits);
    a.last = calloc((size_t)N_SEQS * a.width, sizeof *a.last);
    assert_true(a.logits && a.last);
    for (uint32_t s = 0; s < N_SEQS; s++)
        for (uint32_t i = 0; i < N_PROMPT; i++)
            tokens[s][i] = (int32_t)(hash_mix(s * 100 + i) % program->vocabulary.n_tokens);
    step(runtime, tokens, 0, N_PROMPT, a.logits);
    for (uint32_t s = 0; s < N_SEQS; s++)
        memcpy(a.last + (size_t)s * a.width,
               a.logits + ((size_t)s * N_PROMPT + N_PROMPT - 1) * a.width,
               a.width * sizeof *a.last);
    for (uint32_t i = 0; i < n_greedy; i++) {
        for (uint32_t s = 0; s < N_SEQS; s++) {
            a.tokens[s][i] = best_of(a.last + (size_t)s * a.width, a.width);
            tokens[s][N_PROMPT + i] = forced ? forced->tokens[s][i] : a.tokens[s][i];
        }
        step(runtime, tokens, N_PROMPT + i, N_PROMPT + i + 1, a.last);
    }
    return a;
}

static struct answer ask(struct program *program, struct runtime *runtime,
                         const struct answer *forced)
{
    return ask_some(program, runtime, forced, N_GREEDY);
}

static void free_answer(struct answer *a)
{
    free(a->logits);
    free(a->last);
}

static void assert_same(const struct answer *expected, const struct answer *found, const char *what)
{
    if (memcmp(expected->logits, found->logits,
               (size_t)N_SEQS * N_PROMPT * expected->width * sizeof(float)) != 0)
        fail_msg("%s: other logits", what);
    if (memcmp(expected->tokens, found->tokens, sizeof expected->tokens) != 0)
        fail_msg("%s: other tokens", what);
    if (memcmp(expected->last, found->last, (size_t)N_SEQS * expected->width * sizeof(float)) != 0)
        fail_msg("%s: other logits in the end", what);
}

/* ---- two CPU instances ----------------------------------------------------------------------- */

/* All greedy tokens where layers meet, some elsewhere. */
static void check_every_cut(const char *arch, const char *dtype, serverd_dtype kv, bool is_apart)
{
    struct program *program = synthetic_program(arch, dtype);
    struct runtime *runtime = open_on(program, "cpu", NULL, kv, is_apart);
    struct answer expected = ask(program, runtime, NULL),
                  expected_few = ask_some(program, runtime, NULL, N_FEW);
    runtime_close(runtime);
    for (uint32_t node = 1; node < program->graph.n_nodes; node++) {
        char place[64], what[128];
        (void)snprintf(place, sizeof place, "node.%u-%u=cpu.1", node, program->graph.n_nodes - 1);
        (void)snprintf(what, sizeof what, "%s, %s, cut at node %u (%s)", arch, dtype, node,
                       op_info(program->graph.nodes[node].op)->name);
        runtime = open_on(program, "cpu", place, kv, is_apart);
        assert_int_equal(runtime_placement(runtime)->n_partitions, 2);
        bool is_between = program->graph.nodes[node].layer != program->graph.nodes[node - 1].layer;
        struct answer found = ask_some(program, runtime, NULL, is_between ? N_GREEDY : N_FEW);
        assert_same(is_between ? &expected : &expected_few, &found, what);
        free_answer(&found);
        runtime_close(runtime);
    }
    free_answer(&expected);
    free_answer(&expected_few);
    program_unref(program);
}

static const char *const archs[] = {"llama",  "mistral3", "qwen2", "qwen3",
                                    "gemma2", "gemma3",   "phi3"};
enum { N_ARCHS = sizeof archs / sizeof *archs };

static void a_cut_at_any_node_changes_no_bit(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ARCHS; i++) {
        check_every_cut(archs[i], "Q8_0", DTYPE_BF16, false);
        check_every_cut(archs[i], "F32", DTYPE_F16, false);
    }
    check_every_cut("gemma2", "Q4_0", DTYPE_I8, true);
    check_every_cut("gemma3", "Q8_0", DTYPE_BF16, true);
}

/* Every other node elsewhere, and every other layer, in both directions; three instances. */
static void many_cuts_change_no_bit(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ARCHS; i++) {
        struct program *program = synthetic_program(archs[i], "Q8_0");
        struct runtime *runtime = open_on(program, "cpu", NULL, DTYPE_BF16, false);
        struct answer expected = ask(program, runtime, NULL);
        runtime_close(runtime);
        char place[4096];
        size_t at = 0;
        for (uint32_t n = 0; n < program->graph.n_nodes && at < sizeof place - 32; n++)
            if (n % 3)
                at += (size_t)snprintf(place + at, sizeof place - at, "node.%u=cpu.%u,", n, n % 3);
        const char *const places[] = {place, "blk.0=cpu.1", "blk.1=cpu.1,embed=cpu.1",
                                      "output=cpu.1,linear=cpu.2"};
        for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
            runtime = open_on(program, "cpu", places[p], DTYPE_BF16, false);
            assert_true(runtime_placement(runtime)->n_partitions > 1);
            struct answer found = ask(program, runtime, NULL);
            assert_same(&expected, &found, places[p]);
            free_answer(&found);
            runtime_close(runtime);
        }
        free_answer(&expected);
        program_unref(program);
    }
}

static void an_encoder_can_be_cut_too(void **state)
{
    (void)state;
    struct program *program = synthetic_program("bert", "Q8_0");
    int32_t tokens[N_SEQS][CONTEXT];
    float *expected = NULL;
    for (uint32_t i = 0; i < N_SEQS * CONTEXT; i++)
        tokens[i / CONTEXT][i % CONTEXT] = (int32_t)(hash_mix(i) % program->vocabulary.n_tokens);
    for (uint32_t node = 0; node < program->graph.n_nodes; node++) {
        char place[64];
        (void)snprintf(place, sizeof place, "node.%u-%u=cpu.1", node, program->graph.n_nodes - 1);
        struct runtime *runtime = open_on(program, "cpu", node ? place : NULL, DTYPE_F32, false);
        size_t n = (size_t)N_SEQS * runtime_output_width(runtime);
        float *out = calloc(n, sizeof *out);
        assert_non_null(out);
        step(runtime, tokens, 0, N_PROMPT, out);
        if (expected && memcmp(expected, out, n * sizeof *out) != 0)
            fail_msg("cut at node %u", node);
        if (expected)
            free(out);
        else
            expected = out;
        runtime_close(runtime);
    }
    free(expected);
    program_unref(program);
}

/* What a partition says that it takes: values share places, and more rows take more. */
static void footprints_are_planned_without_loading(void **state)
{
    (void)state;
    static const char *const devices[] = {"cpu", "cpu-reference"};
    for (size_t d = 0; d < 2; d++) {
        struct program *program = synthetic_program("llama", "Q8_0");
        struct runtime *runtime = open_on(program, devices[d], "blk.1=cpu.1", DTYPE_BF16, false);
        const struct placement *placement = runtime_placement(runtime);
        for (uint32_t p = 0; p < placement->n_partitions; p++) {
            const struct placement_partition *partition = &placement->partitions[p];
            const serverd_delegate *delegate = placement->devices[partition->device].delegate;
            serverd_footprint planned, more;
            assert_int_equal(runtime_footprint(runtime, p, &planned, &err), SERVERD_OK);
            assert_true(planned.activation_bytes <= planned.unshared_bytes);
            assert_true(planned.scratch_bytes > 0);
            if (partition->view.n_nodes > 8)
                assert_true(planned.activation_bytes < planned.unshared_bytes);
            /* of an instance that nobody has opened for it */
            serverd_instance *instance;
            serverd_limits limits = *runtime_limits(runtime);
            assert_int_equal(delegate->open(placement->host,
                                            &placement->devices[partition->device].device,
                                            &instance, &err),
                             SERVERD_OK);
            limits.max_rows *= 4;
            serverd_kv_spec spec = program->kv;
            spec.dtype = DTYPE_BF16;
            spec.page_tokens = SERVERD_PAGE_TOKENS;
            assert_int_equal(delegate->footprint(instance, &program->graph, &partition->view,
                                                 &limits, &spec, &more, &err),
                             SERVERD_OK);
            delegate->close(instance);
            assert_true(more.activation_bytes >= planned.activation_bytes);
            assert_true(more.unshared_bytes >= planned.unshared_bytes);
        }
        /* the residual passes twice */
        assert_true(runtime_buffer_bytes(runtime) > 0);
        runtime_close(runtime);
        runtime = open_on(program, devices[d], NULL, DTYPE_BF16, false);
        assert_int_equal(runtime_buffer_bytes(runtime), 0);
        runtime_close(runtime);
        program_unref(program);
    }
}

/* Pages that leave one split model go on in another; a model that is split otherwise refuses. */
static void pages_of_all_devices_leave_and_come_back(void **state)
{
    (void)state;
    for (int is_apart = 0; is_apart < 2; is_apart++) {
        struct program *program = synthetic_program("gemma3", "Q8_0");
        struct runtime *runtime = open_on(program, "cpu", "blk.1=cpu.1", DTYPE_BF16, is_apart);
        struct runtime *other = open_on(program, "cpu", "blk.0=cpu.1", DTYPE_BF16, is_apart);
        struct runtime *whole = open_on(program, "cpu", NULL, DTYPE_BF16, is_apart);
        uint8_t id[3][32];
        assert_int_equal(runtime_kv_identity(runtime, id[0], &err), SERVERD_OK);
        assert_int_equal(runtime_kv_identity(other, id[1], &err), SERVERD_OK);
        assert_int_equal(runtime_kv_identity(whole, id[2], &err), SERVERD_OK);
        assert_memory_not_equal(id[0], id[1], sizeof id[0]);
        assert_memory_not_equal(id[0], id[2], sizeof id[0]);
        assert_int_equal(runtime_page_bytes(runtime), runtime_page_bytes(whole));
        assert_int_equal(runtime_window_page_bytes(runtime), runtime_window_page_bytes(whole));
        struct answer before = ask(program, runtime, NULL);
        size_t bytes = runtime_page_bytes(runtime) + runtime_window_page_bytes(runtime);
        char *page = malloc(bytes), *again = malloc(bytes);
        assert_true(page && again);
        for (uint32_t p = 0; p < MAX_PAGES * N_SEQS; p++) {
            serverd_kv_page at = {p, is_apart ? p : SERVERD_NO_PAGE};
            assert_int_equal(runtime_kv_export(runtime, at, page, &err), SERVERD_OK);
            assert_int_equal(runtime_kv_zero(runtime, &at, 1, &err), SERVERD_OK);
            assert_int_equal(runtime_kv_export(runtime, at, again, &err), SERVERD_OK);
            for (size_t i = 0; i < bytes; i++)
                assert_int_equal(again[i], 0);
            assert_int_equal(runtime_kv_import(runtime, at, page, &err), SERVERD_OK);
            assert_int_equal(runtime_kv_export(runtime, at, again, &err), SERVERD_OK);
            assert_memory_equal(page, again, bytes);
        }
        /* a step beyond the last one reads all that came back */
        int32_t tokens[N_SEQS][CONTEXT] = {{0}};
        float *out[2];
        for (int i = 0; i < 2; i++) {
            out[i] = calloc((size_t)N_SEQS * before.width, sizeof(float));
            assert_non_null(out[i]);
        }
        step(runtime, tokens, N_PROMPT + N_GREEDY, N_PROMPT + N_GREEDY + 1, out[0]);
        struct answer unused = ask(program, whole, NULL);
        step(whole, tokens, N_PROMPT + N_GREEDY, N_PROMPT + N_GREEDY + 1, out[1]);
        assert_memory_equal(out[0], out[1], (size_t)N_SEQS * before.width * sizeof(float));
        free_answer(&unused);
        free_answer(&before);
        free(out[0]);
        free(out[1]);
        free(page);
        free(again);
        runtime_close(runtime);
        runtime_close(other);
        runtime_close(whole);
        program_unref(program);
    }
}

/* ---- the CPU back-end and the reference ------------------------------------------------------ */

/* Over all rows of the first step and the last one. */
static double mean_divergence(const struct answer *a, const struct answer *b)
{
    double sum = 0;
    for (size_t row = 0; row < N_SEQS * N_PROMPT; row++)
        sum += divergence(a->logits + row * a->width, b->logits + row * a->width, a->width);
    for (size_t row = 0; row < N_SEQS; row++)
        sum += divergence(a->last + row * a->width, b->last + row * a->width, a->width);
    return sum / (N_SEQS * (N_PROMPT + 1));
}

static void the_reference_takes_over_anywhere(void **state)
{
    (void)state;
    static const char *const places[] = {"embed=cpu-reference",  "blk.0=cpu-reference",
                                         "blk.1=cpu-reference",  "output=cpu-reference",
                                         "linear=cpu-reference", "attn=cpu-reference",
                                         "blk.0-1=cpu-reference"};
    static const serverd_dtype kinds[] = {DTYPE_BF16, DTYPE_F16, DTYPE_I8, DTYPE_F32};
    for (size_t a = 0; a < N_ARCHS; a++)
        for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
            struct program *program = synthetic_program(archs[a], p % 2 ? "Q8_0" : "BF16");
            serverd_dtype kv = kinds[(a + p) % 4];
            struct runtime *runtime = open_on(program, "cpu", NULL, kv, a % 2);
            struct answer expected = ask(program, runtime, NULL);
            runtime_close(runtime);
            runtime = open_on(program, "hetero:cpu,cpu-reference", places[p], kv, a % 2);
            assert_non_null(strstr(runtime_device(runtime), "cpu-reference"));
            struct answer found = ask(program, runtime, &expected);
            double kl = mean_divergence(&expected, &found);
            if (!(kl <= 1e-3))
                fail_msg("%s, %s: differs by %g", archs[a], places[p], kl);
            free_answer(&expected);
            free_answer(&found);
            runtime_close(runtime);
            program_unref(program);
        }
}

static int set_up(void **state)
{
    (void)state; /* one thread: that several change nothing is what test_bits.c is about */
    return worker_pool_create(1, &pool, &err) == SERVERD_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    worker_pool_destroy(pool);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cut_at_any_node_changes_no_bit),
        cmocka_unit_test(many_cuts_change_no_bit),
        cmocka_unit_test(an_encoder_can_be_cut_too),
        cmocka_unit_test(the_reference_takes_over_anywhere),
        cmocka_unit_test(footprints_are_planned_without_loading),
        cmocka_unit_test(pages_of_all_devices_leave_and_come_back),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
