/* Whole models on the emulated CUDA back-end: near the exact reference, and with the same bits for
 * a sequence alone, in chunks and beside others. Argument: none. */
#include "base/clock.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "kernels/builtin.h"
#include "kernels/cuda/delegate.h"
#include "program/dtype.h"
#include "quantise/quantise.h"
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

enum { MAX_TOKENS = 37, CONTEXT = 64, MAX_SEQS = 2, MAX_ROWS = MAX_TOKENS * MAX_SEQS };

#define MAX_PAGES ((CONTEXT + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS)

static serverd_error err;

struct model {
    struct program *program;
    struct worker_pool *pool;
    struct runtime *runtime;
    uint32_t width;
};

static struct model open_on(struct program *program, const char *device, serverd_dtype kv)
{
    const serverd_delegate *const delegates[] = {builtin_delegate("cpu-reference"), &cuda_delegate};
    struct model m = {.program = program};
    assert_int_equal(worker_pool_create(1, &m.pool, &err), SERVERD_OK);
    const struct runtime_options options = {.delegates = delegates,
                                            .n_delegates = 2,
                                            .device = device,
                                            .pool = m.pool,
                                            .clock = &system_clock,
                                            .limits = {.max_rows = MAX_ROWS,
                                                       .max_logit_rows = MAX_ROWS,
                                                       .max_seqs = MAX_SEQS,
                                                       .max_context = CONTEXT},
                                            .kv_dtype = kv,
                                            .wants_window_pages = true,
                                            .window_share = 0.9};
    if (runtime_open(program, &options, &m.runtime, &err) != SERVERD_OK)
        fail_msg("%s: %s", device, err.text);
    m.width = runtime_output_width(m.runtime);
    return m;
}

static void close_model(struct model *m)
{
    runtime_close(m->runtime);
    worker_pool_destroy(m->pool);
}

static int32_t token_of(const struct model *m, uint32_t seq, uint32_t position)
{
    return (int32_t)(hash_mix(seq * 1000u + position) % m->program->vocabulary.n_tokens);
}

/* Tokens begin[s] .. end[s] - 1 of each sequence that has any; all outputs, one after the other. */
static void step(const struct model *m, const uint32_t *begin, const uint32_t *end, float *out)
{
    int32_t token[MAX_ROWS], position[MAX_ROWS];
    uint32_t row_seq[MAX_ROWS], logit_row[MAX_ROWS], table[MAX_SEQS * MAX_PAGES];
    uint32_t n = 0, n_seqs = 0;
    for (uint32_t s = 0; s < MAX_SEQS; s++) {
        if (begin[s] == end[s])
            continue;
        for (uint32_t p = 0; p < MAX_PAGES; p++)
            table[n_seqs * MAX_PAGES + p] = p * MAX_SEQS + (s + p) % MAX_SEQS;
        for (uint32_t i = begin[s]; i < end[s]; i++, n++) {
            token[n] = token_of(m, s, i);
            position[n] = (int32_t)i;
            row_seq[n] = n_seqs;
            logit_row[n] = n;
        }
        n_seqs++;
    }
    const bool is_windowed = runtime_n_window_pages(m->runtime) > 0;
    const serverd_batch batch = {.struct_bytes = sizeof batch,
                                 .n_rows = n,
                                 .n_seqs = n_seqs,
                                 .n_logit_rows = n,
                                 .token = token,
                                 .position = position,
                                 .row_seq = row_seq,
                                 .page_table = table,
                                 .max_pages = MAX_PAGES,
                                 .window_table = is_windowed ? table : NULL,
                                 .logit_row = logit_row};
    if (runtime_execute(m->runtime, &batch, out, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
}

static void run_alone(const struct model *m, uint32_t seq, uint32_t n_tokens, uint32_t chunk,
                      float *out)
{
    for (uint32_t at = 0; at < n_tokens; at += chunk) {
        uint32_t begin[MAX_SEQS] = {0}, end[MAX_SEQS] = {0};
        begin[seq] = at;
        end[seq] = min_u32(at + chunk, n_tokens);
        step(m, begin, end, out + (size_t)at * m->width);
    }
}

static float *take_rows(const struct model *m)
{
    float *rows = malloc((size_t)MAX_ROWS * m->width * sizeof *rows);
    assert_non_null(rows);
    return rows;
}

/* `name` of its matrices' type. */
static void check_decoder(struct program *program, const char *name, serverd_dtype kv,
                          uint32_t n_tokens)
{
    struct model reference = open_on(program, "cpu-reference", kv),
                 cuda = open_on(program, "cuda", kv);
    const size_t bytes = (size_t)n_tokens * cuda.width * sizeof(float);
    float *exact = take_rows(&cuda), *alone[MAX_SEQS], *out = take_rows(&cuda);
    double sum = 0;
    for (uint32_t s = 0; s < MAX_SEQS; s++) {
        alone[s] = take_rows(&cuda);
        run_alone(&reference, s, n_tokens, n_tokens, exact);
        run_alone(&cuda, s, n_tokens, n_tokens, alone[s]);
        for (uint32_t t = 0; t < n_tokens; t++)
            sum += divergence(exact + (size_t)t * cuda.width, alone[s] + (size_t)t * cuda.width,
                              cuda.width);
    }
    const double mean = sum / MAX_SEQS / n_tokens;
    print_message("%s: a mean divergence of %.2g\n", name, mean);
    if (!(mean >= 0 && mean <= 2e-3))
        fail_msg("%s: a mean divergence of %g", name, mean);
    run_alone(&cuda, 0, n_tokens, 5, out);
    assert_memory_equal(out, alone[0], bytes);
    for (uint32_t at = 0; at < n_tokens; at += 9) { /* the second one is one token behind */
        const uint32_t behind = at > 0 ? at - 1 : 0, begin[MAX_SEQS] = {at, behind},
                       end[MAX_SEQS] = {min_u32(at + 9, n_tokens), min_u32(at + 8, n_tokens)};
        step(&cuda, begin, end, out);
        const size_t n = end[0] - begin[0], m = end[1] - begin[1];
        assert_memory_equal(out, alone[0] + (size_t)at * cuda.width, n * cuda.width * sizeof *out);
        assert_memory_equal(out + n * cuda.width, alone[1] + (size_t)behind * cuda.width,
                            m * cuda.width * sizeof *out);
    }
    for (uint32_t s = 0; s < MAX_SEQS; s++)
        free(alone[s]);
    free(exact);
    free(out);
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
