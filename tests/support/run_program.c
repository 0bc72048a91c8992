#include "support/run_program.h"

#include "base/hash.h"
#include "kernels/builtin.h"
#include "program/dtype.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MAX_TOKENS = 512 };

size_t run_program_floats(const struct program *program, uint32_t n)
{
    const struct program_config *config = &program->config;
    return config->is_encoder ? config->n_embd : (size_t)n * config->n_vocab;
}

serverd_status run_one_sequence(struct runtime *runtime, const struct program *program,
                                const int32_t *tokens, uint32_t n, float *out, serverd_error *err)
{
    int32_t position[MAX_TOKENS];
    uint32_t row[MAX_TOKENS], zero[MAX_TOKENS] = {0};
    assert_true(n <= MAX_TOKENS);
    for (uint32_t i = 0; i < n; i++) {
        position[i] = (int32_t)i;
        row[i] = i;
    }
    const serverd_batch batch = {.struct_bytes = sizeof batch,
                                 .n_rows = n,
                                 .n_seqs = 1,
                                 .n_logit_rows = program->config.is_encoder ? 0 : n,
                                 .token = tokens,
                                 .position = position,
                                 .row_seq = zero,
                                 .page_table = row, /* page i is number i */
                                 .max_pages = (n + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS,
                                 .logit_row = row};
    return runtime_execute(runtime, &batch, out, err);
}

void run_random_tokens(const struct program *program, int32_t *out, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = (int32_t)(hash_mix(i) % program->vocabulary.n_tokens);
}

float *run_program(struct program *program, const char *device, const int32_t *tokens, uint32_t n)
{
    serverd_error err;
    struct worker_pool *pool;
    struct runtime *runtime;
    if (worker_pool_create(2, &pool, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    const struct runtime_options options = {
        .delegates = builtin_delegates,
        .n_delegates = n_builtin_delegates,
        .device = device,
        .pool = pool,
        .limits = {.max_rows = n, .max_logit_rows = n, .max_seqs = 1, .max_context = n + 1},
        .kv_dtype = DTYPE_F32,
    };
    if (runtime_open(program, &options, &runtime, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    float *out = malloc(run_program_floats(program, n) * sizeof *out);
    assert_non_null(out);
    if (run_one_sequence(runtime, program, tokens, n, out, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    runtime_close(runtime);
    worker_pool_destroy(pool);
    return out;
}
