/* The reference's nodes: linear layers against plain double precision and level against level; a
 * whole model against the CPU back-end, which shares nothing with it but the conversions of types.
 */
#include "base/clock.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "kernels/builtin.h"
#include "kernels/reference/matmul.h"
#include "kernels/reference/run_node.h"
#include "program/dtype.h"
#include "program/op.h"
#include "runtime/runtime.h"
#include "support/divergence.h"
#include "support/synthetic_program.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static serverd_error err;

static float random_float(uint64_t seed)
{
    return (float)(int64_t)(hash_mix(seed) >> 40) / (float)(1 << 23) - 1.0f;
}

static void serial_for(void *context, uint32_t n_chunks,
                       void (*fn)(void *arg, uint32_t chunk, uint32_t worker), void *arg)
{
    (void)context;
    for (uint32_t i = n_chunks; i-- > 0;) /* in no order that counts */
        fn(arg, i, 0);
}

static const serverd_host serial_host = {
    .struct_bytes = sizeof serial_host, .n_workers = 1, .parallel_for = serial_for};

/* ---- sums ------------------------------------------------------------------------------------ */

static void every_level_adds_in_one_order(void **state)
{
    (void)state;
    enum { N_ROWS = 13, N_COLUMNS = 5 };
    static float x[N_ROWS * REFERENCE_SPAN], w[REFERENCE_COLUMNS * REFERENCE_SPAN];
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        x[i] = random_float(i);
    for (size_t i = 0; i < sizeof w / sizeof *w; i++)
        w[i] = random_float(i + 1000000);
    const size_t sizes[] = {1, 15, 16, 33, 576, REFERENCE_SPAN};
    const struct reference_kernels *best = reference_kernels_best();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        double sums[2][N_ROWS][REFERENCE_COLUMNS] = {0};
        size_t k = sizes[i];
        reference_kernels_generic.add_products(x, REFERENCE_SPAN, N_ROWS, w, N_COLUMNS, k, sums[0]);
        best->add_products(x, REFERENCE_SPAN, N_ROWS, w, N_COLUMNS, k, sums[1]);
        for (size_t r = 0; r < N_ROWS; r++)
            for (size_t c = 0; c < N_COLUMNS; c++) {
                double exact = 0, alone[1][REFERENCE_COLUMNS] = {0};
                for (size_t j = 0; j < k; j++)
                    exact += (double)x[r * REFERENCE_SPAN + j] * (double)w[c * REFERENCE_SPAN + j];
                assert_true(fabs(sums[0][r][c] - exact) < 1e-6 * sqrt((double)k) * 3);
                assert_memory_equal(&sums[0][r][c], &sums[1][r][c], sizeof exact);
                best->add_products(x + r * REFERENCE_SPAN, 0, 1, w + c * REFERENCE_SPAN, 1, k,
                                   alone);
                assert_memory_equal(&sums[0][r][c], &alone[0][0], sizeof exact);
            }
        double a = reference_kernels_generic.dot(x, w, k), b = best->dot(x, w, k);
        assert_memory_equal(&a, &b, sizeof a);
        double some[2][32] = {{1, 2, 3}, {1, 2, 3}};
        reference_kernels_generic.accumulate(some[0], 0.7, 1.3, x, 31);
        best->accumulate(some[1], 0.7, 1.3, x, 31);
        assert_memory_equal(some[0], some[1], sizeof some[0]);
    }
}

/* ---- models ---------------------------------------------------------------------------------- */

enum { N_TOKENS = 40, CONTEXT = 64, N_PAGES = CONTEXT / SERVERD_PAGE_TOKENS };

struct rows {
    int32_t token[N_TOKENS], position[N_TOKENS];
    uint32_t row_seq[N_TOKENS], logit_row[N_TOKENS], pages[N_PAGES];
    serverd_batch batch;
};

static void fill_rows(struct rows *rows, uint32_t n, uint32_t n_tokens)
{
    for (uint32_t i = 0; i < n; i++) {
        rows->token[i] = (int32_t)(hash_mix(i) % n_tokens);
        rows->position[i] = (int32_t)i;
        rows->row_seq[i] = 0;
        rows->logit_row[i] = i;
    }
    for (uint32_t i = 0; i < N_PAGES; i++)
        rows->pages[i] = N_PAGES - 1 - i;
    rows->batch = (serverd_batch){.struct_bytes = sizeof rows->batch,
                                  .n_rows = n,
                                  .n_seqs = 1,
                                  .n_logit_rows = n,
                                  .token = rows->token,
                                  .position = rows->position,
                                  .row_seq = rows->row_seq,
                                  .page_table = rows->pages,
                                  .max_pages = N_PAGES,
                                  .logit_row = rows->logit_row};
}

/* All values of a step, each in memory of its own; to be freed. */
static float **run_all(const serverd_graph *graph, const serverd_batch *batch)
{
    float **values = calloc(graph->n_values, sizeof *values);
    assert_non_null(values);
    for (uint32_t v = 0; v < graph->n_values; v++)
        if (graph->values[v].kind == SERVERD_VALUE_ACTIVATION) {
            values[v] = calloc(reference_rows(batch, graph->values[v].dims[0]) *
                                   value_width(&graph->values[v]),
                               sizeof(float));
            assert_non_null(values[v]);
        }
    const struct reference_step step = {.graph = graph,
                                        .host = &serial_host,
                                        .batch = batch,
                                        .max_context = CONTEXT,
                                        .values = values};
    for (uint32_t n = 0; n < graph->n_nodes; n++)
        reference_run_node(&step, n);
    return values;
}

static void free_all(const serverd_graph *graph, float **values)
{
    for (uint32_t v = 0; v < graph->n_values; v++)
        free(values[v]);
    free(values);
}

static float *run_on_cpu(struct program *program, const serverd_batch *batch, uint32_t *width)
{
    struct worker_pool *pool;
    struct runtime *runtime;
    assert_int_equal(worker_pool_create(1, &pool, &err), SERVERD_OK);
    const struct runtime_options options = {.delegates = builtin_delegates,
                                            .n_delegates = n_builtin_delegates,
                                            .device = "cpu",
                                            .pool = pool,
                                            .clock = &system_clock,
                                            .limits = {.max_rows = N_TOKENS,
                                                       .max_logit_rows = N_TOKENS,
                                                       .max_seqs = 1,
                                                       .max_context = CONTEXT},
                                            .kv_dtype = DTYPE_F32};
    if (runtime_open(program, &options, &runtime, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    *width = runtime_output_width(runtime);
    float *out = calloc((size_t)N_TOKENS * *width, sizeof *out);
    assert_non_null(out);
    assert_int_equal(runtime_execute(runtime, batch, out, &err), SERVERD_OK);
    runtime_close(runtime);
    worker_pool_destroy(pool);
    return out;
}

/* Where the CPU back-end multiplies floats there is nothing but rounding between the two; with bf16
 * weights that of activations, too. */
static void it_computes_what_the_cpu_back_end_computes(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama",  "mistral3", "qwen2", "qwen3",
                                        "gemma2", "gemma3",   "phi3"};
    static const struct {
        const char *dtype;
        double limit;
    } rows[] = {{"F32", 1e-6}, {"BF16", 1e-4}, {"Q8_0", 1e-3}, {"Q4_0", 1e-3}};
    for (size_t a = 0; a < sizeof archs / sizeof *archs; a++)
        for (size_t d = 0; d < sizeof rows / sizeof *rows; d++) {
            struct program *program = synthetic_program(archs[a], rows[d].dtype);
            struct rows step;
            uint32_t width;
            fill_rows(&step, N_TOKENS, program->vocabulary.n_tokens);
            float *expected = run_on_cpu(program, &step.batch, &width);
            float **values = run_all(&program->graph, &step.batch);
            const float *logits = values[program->graph.output];
            for (size_t row = 0; row < N_TOKENS; row++) {
                double kl = divergence(expected + row * width, logits + row * width, width);
                if (!(kl <= rows[d].limit))
                    fail_msg("%s, %s: row %zu differs by %g", archs[a], rows[d].dtype, row, kl);
            }
            free_all(&program->graph, values);
            free(expected);
            program_unref(program);
        }
}

static void an_encoder_too(void **state)
{
    (void)state;
    struct program *program = synthetic_program("bert", "F32");
    struct rows step;
    uint32_t width;
    fill_rows(&step, 20, program->vocabulary.n_tokens);
    float *expected = run_on_cpu(program, &step.batch, &width);
    float **values = run_all(&program->graph, &step.batch);
    const float *vector = values[program->graph.output];
    double dot = 0, norms[2] = {0, 0};
    for (uint32_t i = 0; i < width; i++) {
        dot += (double)expected[i] * (double)vector[i];
        norms[0] += (double)expected[i] * (double)expected[i];
        norms[1] += (double)vector[i] * (double)vector[i];
    }
    assert_true(norms[0] > 0 && dot / sqrt(norms[0] * norms[1]) > 1 - 1e-6);
    free_all(&program->graph, values);
    free(expected);
    program_unref(program);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_level_adds_in_one_order),
        cmocka_unit_test(it_computes_what_the_cpu_back_end_computes),
        cmocka_unit_test(an_encoder_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
