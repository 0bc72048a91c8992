/* After a program is open, nobody takes memory or gives it back: not the library, the threads, nor
 * the kernels. */
#include "base/hash.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "program/op.h"
#include "runtime/runtime.h"
#include "serverd/runtime.h"
#include "support/count_memory.h"
#include "support/program_file.h"
#include "support/synthetic_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CONTEXT = 1100, N_SESSIONS = 4, MAX_ROWS = 64, N_DECODE = 1000, N_MIXED = 100 };

static serverd_error err;
static uint64_t n_before;

static void must(serverd_status status)
{
    if (status != SERVERD_OK)
        fail_msg("%s", err.text);
}

static void decode_steps(serverd_session *session)
{
    must(serverd_session_decode(session, 1, &err));
    for (uint32_t i = 1; i < N_DECODE; i++)
        must(serverd_session_decode(session, serverd_session_greedy(session), &err));
}

/* Prompts of all lengths beside sessions that go on; some end, some go back. */
static void mixed_steps(serverd_runtime *runtime, serverd_session **sessions, int32_t n_vocab)
{
    int32_t tokens[MAX_ROWS];
    for (uint32_t i = 0; i < MAX_ROWS; i++)
        tokens[i] = (int32_t)(hash_mix(i) % (uint64_t)n_vocab);
    for (uint32_t step = 0; step < N_MIXED; step++) {
        serverd_input inputs[N_SESSIONS];
        for (uint32_t i = 0; i < N_SESSIONS; i++) {
            bool is_prompt = step % N_SESSIONS == i;
            uint32_t n = is_prompt ? 1 + (uint32_t)(hash_mix(step) % (MAX_ROWS - N_SESSIONS)) : 1;
            if (is_prompt)
                serverd_session_reset(sessions[i]);
            inputs[i] = (serverd_input){sessions[i], tokens, n};
        }
        must(serverd_runtime_step(runtime, inputs, N_SESSIONS, &err));
        if (step % 7 == 0)
            must(serverd_session_rollback(sessions[step % N_SESSIONS], 1, &err));
    }
    serverd_session_destroy(sessions[0]);
    must(serverd_session_create(runtime, &sessions[0], &err));
    must(serverd_session_prefill(sessions[0], tokens, MAX_ROWS, &err));
}

static void expect_none(const char *arch, const char *dtype, serverd_kv_type kv_type)
{
    const struct program_file file = program_file_create(arch, dtype);
    const struct serverd_delegate *delegates[] = {serverd_cpu_delegate()};
    const serverd_runtime_options options = {.delegates = delegates,
                                             .n_delegates = 1,
                                             .max_context = CONTEXT,
                                             .max_sessions = N_SESSIONS,
                                             .max_rows = MAX_ROWS,
                                             .n_threads = 2,
                                             .kv_type = kv_type};
    serverd_runtime *runtime;
    serverd_session *sessions[N_SESSIONS];
    serverd_runtime_info info;
    must(serverd_runtime_open(file.path, &options, &runtime, &err));
    for (uint32_t i = 0; i < N_SESSIONS; i++)
        must(serverd_session_create(runtime, &sessions[i], &err));
    serverd_runtime_get_info(runtime, &info);
    uint64_t space = count_memory_address_space();
    n_before = count_memory_calls();
    decode_steps(sessions[0]);
    mixed_steps(runtime, sessions, (int32_t)info.n_vocab);
    uint64_t n_calls = count_memory_calls() - n_before;
    if (n_calls > 0)
        fail_msg("%s %s: %llu calls", arch, dtype, (unsigned long long)n_calls);
    if (count_memory_address_space() > space)
        fail_msg("%s %s: the address space has grown", arch, dtype);
    serverd_runtime_close(runtime);
    program_file_remove(&file);
}

static void nothing_is_allocated_after_open(void **state)
{
    (void)state;
    expect_none("llama", "Q8_0", SERVERD_KV_BF16);
    expect_none("gemma3", "Q4_0", SERVERD_KV_INT8);
    expect_none("qwen3", "BF16", SERVERD_KV_F16);
    expect_none("phi3", "F32", SERVERD_KV_F32);
}

/* ---- adapters -------------------------------------------------------------------------------- */

enum { N_ADAPTERS = 3, N_SEQS = 8, RANK = 6, N_STEPS = 200, ROWS_OF_SEQ = 4 };
enum { PAGES_OF_SEQ = (ROWS_OF_SEQ + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS };

static int compare_sites(const void *a, const void *b)
{
    const struct adapter_site *x = a, *y = b;
    return strcmp(x->tensor, y->tensor);
}

static const float *random_floats(struct arena *arena, size_t n, uint64_t seed)
{
    float *x = arena_array(arena, n, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(hash_mix(seed ^ i) >> 40) / 0x1p28f;
    return x;
}

/* Of all linear layers. */
static void put_adapter(struct runtime *runtime, const struct program *program, uint32_t slot)
{
    const serverd_graph *graph = &program->graph;
    struct adapter *adapter = adapter_create();
    assert_non_null(adapter);
    struct adapter_site *sites = arena_array(adapter->arena, graph->n_nodes, sizeof *sites);
    assert_non_null(sites);
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        const serverd_node *node = &graph->nodes[i];
        if (node->op != SERVERD_OP_LINEAR || node->layer == UINT32_MAX)
            continue;
        const serverd_tensor *w = &graph->tensors[node_input(graph, node, 1)->tensor];
        const uint32_t n_in = (uint32_t)w->dims[1], n_out = (uint32_t)w->dims[0];
        sites[adapter->n_sites++] = (struct adapter_site){
            .tensor = w->name,
            .rank = RANK,
            .n_in = n_in,
            .n_out = n_out,
            .scale = 1,
            .a = random_floats(adapter->arena, (size_t)RANK * n_in, slot * 1000 + i),
            .b = random_floats(adapter->arena, (size_t)RANK * n_out, slot * 2000 + i)};
    }
    qsort(sites, adapter->n_sites, sizeof *sites, compare_sites);
    adapter->sites = sites;
    adapter->max_rank = RANK;
    must(adapter_check(adapter, &err));
    must(runtime_adapter_set(runtime, slot, adapter, &err));
    adapter_destroy(adapter);
}

/* Steps of all mixtures: each sequence has one of the adapters or none, another one each time, and
 * 1 to ROWS_OF_SEQ rows. */
static void steps_with_adapters(struct runtime *runtime, uint32_t n_vocab, float *out)
{
    int32_t token[MAX_ROWS], position[MAX_ROWS];
    uint32_t row_seq[MAX_ROWS], logit_row[N_SEQS], slot[N_SEQS];
    uint32_t pages[N_SEQS * PAGES_OF_SEQ];
    float scale[N_SEQS];
    for (uint32_t i = 0; i < N_SEQS * PAGES_OF_SEQ; i++)
        pages[i] = i;
    for (uint32_t step = 0; step < N_STEPS; step++) {
        serverd_batch batch = {.struct_bytes = sizeof batch,
                               .n_seqs = N_SEQS,
                               .n_logit_rows = N_SEQS,
                               .token = token,
                               .position = position,
                               .row_seq = row_seq,
                               .page_table = pages,
                               .max_pages = PAGES_OF_SEQ,
                               .logit_row = logit_row,
                               .adapter_slot = slot,
                               .adapter_scale = scale};
        for (uint32_t s = 0; s < N_SEQS; s++) {
            uint64_t random = hash_mix(step * N_SEQS + s);
            slot[s] = random % (N_ADAPTERS + 1) < N_ADAPTERS ? (uint32_t)(random % (N_ADAPTERS + 1))
                                                             : SERVERD_NO_ADAPTER;
            scale[s] = 0.5f;
            for (uint32_t n = 1 + (uint32_t)(random >> 32) % ROWS_OF_SEQ, i = 0; i < n; i++) {
                token[batch.n_rows] = (int32_t)(hash_mix(random + i) % n_vocab);
                position[batch.n_rows] = (int32_t)i;
                row_seq[batch.n_rows++] = s;
            }
            logit_row[s] = batch.n_rows - 1;
        }
        must(runtime_execute(runtime, &batch, out, &err));
    }
}

static void expect_none_with_adapters(const char *dtype)
{
    struct program *program = synthetic_program("llama", dtype);
    struct worker_pool *pool;
    struct runtime *runtime;
    must(worker_pool_create(2, &pool, &err));
    const struct runtime_options options = {.delegates = builtin_delegates,
                                            .n_delegates = n_builtin_delegates,
                                            .device = "cpu",
                                            .pool = pool,
                                            .limits = {.max_rows = MAX_ROWS,
                                                       .max_logit_rows = N_SEQS,
                                                       .max_seqs = N_SEQS,
                                                       .max_context = 16,
                                                       .max_adapters = N_ADAPTERS,
                                                       .max_adapter_rank = RANK},
                                            .kv_dtype = DTYPE_BF16};
    must(runtime_open(program, &options, &runtime, &err));
    for (uint32_t slot = 0; slot < N_ADAPTERS; slot++)
        put_adapter(runtime, program, slot);
    float *out = calloc((size_t)N_SEQS * program->config.n_vocab, sizeof *out);
    assert_non_null(out);
    n_before = count_memory_calls();
    steps_with_adapters(runtime, program->config.n_vocab, out);
    uint64_t n_calls = count_memory_calls() - n_before;
    if (n_calls > 0)
        fail_msg("adapters beside %s: %llu calls", dtype, (unsigned long long)n_calls);
    free(out);
    runtime_close(runtime);
    worker_pool_destroy(pool);
    program_unref(program);
}

static void nothing_is_allocated_in_steps_with_adapters(void **state)
{
    (void)state;
    expect_none_with_adapters("Q8_0"); /* F16 in the slots */
    expect_none_with_adapters("F32");
}

static void the_counter_counts(void **state)
{
    (void)state;
    const struct program_file file = program_file_create("llama", "Q8_0");
    assert_true(count_memory_calls() > 100);
    program_file_remove(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_counter_counts),
        cmocka_unit_test(nothing_is_allocated_after_open),
        cmocka_unit_test(nothing_is_allocated_in_steps_with_adapters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
