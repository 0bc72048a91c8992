/* Whole models on the emulated CUDA back-end: near the exact reference, and with the same bits for
 * a sequence alone, in chunks and beside others. Argument: none. */
#include "base/clock.h"
#include "kernels/builtin.h"
#include "kernels/cuda/delegate.h"
#include "program/dtype.h"
#include "quantise/quantise.h"
#include "runtime/runtime.h"
#include "support/sequences.h"
#include "support/synthetic_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MAX_TOKENS = 37 };

static serverd_error err;

struct model {
    struct worker_pool *pool;
    struct runtime *runtime;
};

static struct model open_on(struct program *program, const char *device, serverd_dtype kv)
{
    const serverd_delegate *const delegates[] = {builtin_delegate("cpu-reference"), &cuda_delegate};
    struct model m;
    assert_int_equal(worker_pool_create(1, &m.pool, &err), SERVERD_OK);
    const struct runtime_options options = {.delegates = delegates,
                                            .n_delegates = 2,
                                            .device = device,
                                            .pool = m.pool,
                                            .clock = &system_clock,
                                            .limits = sequences_limits(),
                                            .kv_dtype = kv,
                                            .wants_window_pages = true,
                                            .window_share = 0.9};
    if (runtime_open(program, &options, &m.runtime, &err) != SERVERD_OK)
        fail_msg("%s: %s", device, err.text);
    return m;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoders_are_near_the_reference_and_bit_equal_to_themselves),
        cmocka_unit_test(super_blocks_are_near_the_reference),
        cmocka_unit_test(own_formats_are_near_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
