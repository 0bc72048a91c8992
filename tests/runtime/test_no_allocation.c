/* After a program is open, nobody takes memory or gives it back: not the library, the threads, nor
 * the kernels. */
#include "base/hash.h"
#include "serverd/runtime.h"
#include "support/count_memory.h"
#include "support/program_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
