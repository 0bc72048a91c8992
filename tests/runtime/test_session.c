/* The library: sessions give the bits of one batch over the same tokens, however the tokens came;
 * calls that are wrong change nothing; what fails poisons. */
#include "base/hash.h"
#include "kernels/builtin.h"
#include "program/sdp_program.h"
#include "serverd/runtime.h"
#include "support/program_file.h"
#include "support/run_program.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CONTEXT = 100, N_SESSIONS = 3, MAX_ROWS = 24 };

static serverd_error err;
static struct program_file llama, gemma, bert;

static int set_up(void **state)
{
    (void)state;
    llama = program_file_create("llama", "Q8_0");
    gemma = program_file_create("gemma3", "Q4_0");
    bert = program_file_create("bert", "Q8_0");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    program_file_remove(&llama);
    program_file_remove(&gemma);
    program_file_remove(&bert);
    return 0;
}

static serverd_runtime *open_on(const char *path, const char *device)
{
    const serverd_runtime_options options = {.delegates = builtin_delegates,
                                             .n_delegates = n_builtin_delegates,
                                             .device = device,
                                             .max_context = CONTEXT,
                                             .max_sessions = N_SESSIONS,
                                             .max_rows = MAX_ROWS,
                                             .n_threads = 2,
                                             .kv_type = SERVERD_KV_F32};
    serverd_runtime *runtime;
    if (serverd_runtime_open(path, &options, &runtime, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    return runtime;
}

static serverd_session *session_of(serverd_runtime *runtime)
{
    serverd_session *session;
    assert_int_equal(serverd_session_create(runtime, &session, &err), SERVERD_OK);
    return session;
}

static void must(serverd_status status)
{
    if (status != SERVERD_OK)
        fail_msg("%s", err.text);
}

/* ---- the same bits --------------------------------------------------------------------------- */

/* A session and what it should have. */
struct twin {
    serverd_session *session;
    int32_t tokens[CONTEXT];
    uint32_t n;
};

static void expect_logits(struct program *program, const struct twin *twin, const char *what)
{
    size_t width = run_program_floats(program, 1);
    float *all = run_program(program, "cpu", twin->tokens, twin->n);
    const float *row = all + (program->config.is_encoder ? 0 : (twin->n - 1) * width);
    const float *logits = serverd_session_logits(twin->session);
    if (!logits || memcmp(logits, row, width * sizeof *row) != 0)
        fail_msg("%s: after %u tokens the logits differ", what, twin->n);
    free(all);
}

static uint64_t number;

static uint32_t pick(uint32_t n)
{
    return (uint32_t)(hash_mix(number++) % n);
}

/* More tokens, at most `most`, as far as there is room. */
static uint32_t grow(struct twin *twin, uint32_t most, uint32_t n_vocab)
{
    uint32_t n = 1 + pick(most);
    if (n > CONTEXT - twin->n)
        n = CONTEXT - twin->n;
    for (uint32_t i = 0; i < n; i++)
        twin->tokens[twin->n + i] = (int32_t)pick(n_vocab);
    twin->n += n;
    return n;
}

static void step_some(serverd_runtime *runtime, struct twin *twins, uint32_t n_vocab, bool *is_in)
{
    serverd_input inputs[N_SESSIONS];
    uint32_t n_inputs = 0, first = pick(N_SESSIONS); /* in any order */
    for (uint32_t i = 0; i < N_SESSIONS; i++) {
        uint32_t s = (i + first) % N_SESSIONS, before = twins[s].n;
        is_in[s] = false;
        if (before == CONTEXT || (n_inputs > 0 && pick(3) == 0))
            continue;
        uint32_t n = grow(&twins[s], pick(2) ? 1 : MAX_ROWS / N_SESSIONS, n_vocab);
        inputs[n_inputs++] = (serverd_input){twins[s].session, twins[s].tokens + before, n};
        is_in[s] = true;
    }
    if (n_inputs > 0)
        must(serverd_runtime_step(runtime, inputs, n_inputs, &err));
}

static void one_operation(serverd_runtime *runtime, struct program *program, struct twin *twins)
{
    uint32_t n_vocab = program->config.n_vocab;
    struct twin *twin = &twins[pick(N_SESSIONS)];
    uint32_t before = twin->n;
    bool is_in[N_SESSIONS] = {false};
    switch (pick(8)) {
    case 0:
        twin->n = pick(twin->n + 1);
        must(serverd_session_rollback(twin->session, twin->n, &err));
        assert_null(serverd_session_logits(twin->session));
        break;
    case 1:
        twin->n = 0;
        if (pick(2)) {
            serverd_session_reset(twin->session);
        } else {
            serverd_session_destroy(twin->session);
            twin->session = session_of(runtime);
        }
        break;
    case 2:
    case 3:
        if (before < CONTEXT) {
            uint32_t n = grow(twin, 3 * MAX_ROWS, n_vocab);
            must(serverd_session_prefill(twin->session, twin->tokens + before, n, &err));
            is_in[twin - twins] = true;
        }
        break;
    default:
        step_some(runtime, twins, n_vocab, is_in);
    }
    for (uint32_t i = 0; i < N_SESSIONS; i++) {
        assert_int_equal(serverd_session_position(twins[i].session), twins[i].n);
        if (is_in[i])
            expect_logits(program, &twins[i], program->config.architecture);
    }
}

static void random_operations_give_the_bits_of_one_batch(void **state)
{
    (void)state;
    const char *paths[] = {llama.path, gemma.path};
    for (uint32_t p = 0; p < 2; p++) {
        struct program *program;
        must(sdp_open(paths[p], &program, &err));
        serverd_runtime *runtime = open_on(paths[p], NULL);
        struct twin twins[N_SESSIONS] = {0};
        for (uint32_t i = 0; i < N_SESSIONS; i++)
            twins[i].session = session_of(runtime);
        number = 1000 * p;
        for (uint32_t i = 0; i < 150; i++)
            one_operation(runtime, program, twins);
        serverd_runtime_close(runtime);
        program_unref(program);
    }
}

static void encoders_give_an_embedding_of_a_whole_text(void **state)
{
    (void)state;
    struct program *program;
    must(sdp_open(bert.path, &program, &err));
    serverd_runtime *runtime = open_on(bert.path, NULL);
    struct twin twin = {.session = session_of(runtime)};
    (void)grow(&twin, MAX_ROWS, program->config.n_vocab);
    must(serverd_session_prefill(twin.session, twin.tokens, twin.n, &err));
    expect_logits(program, &twin, "bert");
    assert_int_equal(serverd_session_greedy(twin.session), -1);
    assert_int_equal(serverd_session_decode(twin.session, 1, &err), SERVERD_INVALID);
    serverd_session_reset(twin.session);
    int32_t zeros[MAX_ROWS + 1] = {0};
    assert_int_equal(serverd_session_prefill(twin.session, zeros, MAX_ROWS + 1, &err),
                     SERVERD_INVALID);
    serverd_runtime_info info;
    serverd_runtime_get_info(runtime, &info);
    assert_true(info.is_encoder);
    assert_int_equal(info.n_results, program->config.n_embd);
    serverd_runtime_close(runtime);
    program_unref(program);
}

static void greedy_is_the_highest_logit(void **state)
{
    (void)state;
    serverd_runtime *runtime = open_on(llama.path, NULL);
    serverd_session *session = session_of(runtime);
    serverd_runtime_info info;
    serverd_runtime_get_info(runtime, &info);
    assert_int_equal(serverd_session_greedy(session), -1); /* nothing has been said */
    must(serverd_session_decode(session, 1, &err));
    for (uint32_t i = 0; i < 20; i++) {
        int32_t token = serverd_session_greedy(session);
        const float *logits = serverd_session_logits(session);
        for (uint32_t v = 0; v < info.n_vocab; v++)
            assert_true(logits[v] < logits[token] ||
                        (logits[v] == logits[token] && (int32_t)v >= token));
        must(serverd_session_decode(session, token, &err));
    }
    serverd_runtime_close(runtime);
}

/* ---- calls that are wrong -------------------------------------------------------------------- */

static void wrong_calls_change_nothing(void **state)
{
    (void)state;
    serverd_runtime *runtime = open_on(llama.path, NULL), *other = open_on(llama.path, NULL);
    serverd_session *a = session_of(runtime), *b = session_of(runtime), *c = session_of(other);
    int32_t tokens[CONTEXT + 1] = {0}, bad[] = {0, -1}, high[] = {0, INT32_MAX};
    must(serverd_session_prefill(a, tokens, 5, &err));
    const struct {
        serverd_input inputs[2];
        uint32_t n;
    } steps[] = {
        {{{a, tokens, 1}}, 0}, /* nothing */
        {{{a, tokens, 0}}, 1}, /* no token */
        {{{a, bad, 2}}, 1},    /* no such token */
        {{{a, high, 2}}, 1},   /* nor this one */
        {{{a, tokens, 1}, {a, tokens, 1}}, 2} /* twice */,
        {{{a, tokens, 1}, {c, tokens, 1}}, 2} /* another runtime's */,
        {{{a, tokens, MAX_ROWS}, {b, tokens, 1}}, 2} /* too many rows */,
        {{{b, tokens, 1}, {a, bad, 2}}, 2} /* the second one */,
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        assert_int_equal(serverd_runtime_step(runtime, steps[i].inputs, steps[i].n, &err),
                         SERVERD_INVALID);
        assert_int_equal(serverd_session_position(a), 5);
        assert_int_equal(serverd_session_position(b), 0);
        assert_non_null(serverd_session_logits(a));
    }
    assert_int_equal(serverd_session_prefill(a, tokens, CONTEXT - 4, &err), SERVERD_INVALID);
    assert_int_equal(serverd_session_prefill(a, tokens, SIZE_MAX, &err), SERVERD_INVALID);
    assert_int_equal(serverd_session_rollback(a, 6, &err), SERVERD_INVALID);
    must(serverd_session_prefill(a, tokens, CONTEXT - 5, &err)); /* to the last one */
    assert_int_equal(serverd_session_position(a), serverd_session_capacity(a));
    assert_int_equal(serverd_session_decode(a, 0, &err), SERVERD_INVALID);
    (void)session_of(runtime);
    assert_int_equal(serverd_session_create(runtime, &c, &err), SERVERD_BUSY);
    serverd_session_destroy(b);
    assert_int_equal(serverd_runtime_step(runtime, &(serverd_input){b, tokens, 1}, 1, &err),
                     SERVERD_INVALID);
    serverd_runtime_close(runtime);
    serverd_runtime_close(other);
}

static void what_cannot_be_opened_is_refused(void **state)
{
    (void)state;
    serverd_runtime *runtime = NULL;
    serverd_memory memory;
    const serverd_runtime_options cpu = {.delegates = builtin_delegates, .n_delegates = 1},
                                  none = {0};
    serverd_runtime_options large = cpu;
    assert_int_equal(serverd_runtime_open(llama.path, &none, &runtime, &err), SERVERD_INVALID);
    assert_int_not_equal(serverd_runtime_open("/dev/null", &cpu, &runtime, &err), SERVERD_OK);
    assert_int_not_equal(serverd_runtime_plan(llama.folder, &cpu, &memory, &err), SERVERD_OK);
    large.max_sessions = UINT32_MAX;
    assert_int_equal(serverd_runtime_open(llama.path, &large, &runtime, &err), SERVERD_INVALID);
    large = cpu;
    large.max_rows = UINT32_MAX;
    assert_int_equal(serverd_runtime_open(llama.path, &large, &runtime, &err), SERVERD_INVALID);
    large = cpu;
    large.max_context = UINT32_MAX;
    assert_int_equal(serverd_runtime_plan(llama.path, &large, &memory, &err), SERVERD_INVALID);
    large = cpu;
    large.kv_type = (serverd_kv_type)9;
    assert_int_equal(serverd_runtime_open(llama.path, &large, &runtime, &err), SERVERD_INVALID);
    large = cpu;
    large.device = "no-such-device";
    assert_int_not_equal(serverd_runtime_open(llama.path, &large, &runtime, &err), SERVERD_OK);
    assert_null(runtime);
    serverd_runtime_close(NULL);
    serverd_session_destroy(NULL);
}

/* ---- failures -------------------------------------------------------------------------------- */

static void a_failed_step_poisons_until_reset(void **state)
{
    (void)state;
    serverd_runtime *runtime = open_on(llama.path, "fault:inner=cpu,script=error@2:nomem");
    serverd_session *a = session_of(runtime), *b = session_of(runtime), *c = session_of(runtime);
    int32_t tokens[] = {1, 2, 3};
    must(serverd_session_prefill(c, tokens, 3, &err)); /* execute 1 */
    const serverd_input inputs[] = {{a, tokens, 3}, {b, tokens, 2}};
    assert_int_equal(serverd_runtime_step(runtime, inputs, 2, &err), SERVERD_NOMEM);
    serverd_session *hit[] = {a, b};
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(serverd_session_error(hit[i]), SERVERD_NOMEM);
        assert_int_equal(serverd_session_decode(hit[i], 1, &err), SERVERD_NOMEM);
        assert_int_equal(serverd_session_rollback(hit[i], 0, &err), SERVERD_NOMEM);
        assert_null(serverd_session_logits(hit[i]));
    }
    must(serverd_session_decode(c, 4, &err)); /* the others are well */
    serverd_session_reset(a);
    must(serverd_session_prefill(a, tokens, 3, &err));
    assert_int_equal(serverd_session_position(a), 3);
    serverd_runtime_close(runtime);
}

static void a_result_that_is_no_number_poisons_its_session_alone(void **state)
{
    (void)state;
    serverd_runtime *runtime = open_on(llama.path, "fault:inner=cpu,script=nan@1:1");
    serverd_session *a = session_of(runtime), *b = session_of(runtime);
    int32_t tokens[] = {1, 2, 3};
    const serverd_input inputs[] = {{a, tokens, 3}, {b, tokens, 2}};
    assert_int_equal(serverd_runtime_step(runtime, inputs, 2, &err), SERVERD_NUMERIC);
    assert_int_equal(serverd_session_error(a), SERVERD_OK);
    assert_int_equal(serverd_session_position(a), 3);
    assert_non_null(serverd_session_logits(a));
    assert_int_equal(serverd_session_error(b), SERVERD_NUMERIC);
    assert_null(serverd_session_logits(b));
    serverd_session_destroy(b);
    b = session_of(runtime); /* the same place, as new */
    must(serverd_session_prefill(b, tokens, 2, &err));
    serverd_runtime_close(runtime);
}

static void a_lost_device_ends_all(void **state)
{
    (void)state;
    serverd_runtime *runtime = open_on(llama.path, "fault:inner=cpu,script=lost@1");
    serverd_session *a = session_of(runtime), *b = session_of(runtime);
    assert_int_equal(serverd_session_decode(a, 1, &err), SERVERD_DEVICE_LOST);
    assert_int_equal(serverd_session_decode(b, 1, &err), SERVERD_DEVICE_LOST);
    serverd_session_reset(a);
    assert_int_equal(serverd_session_decode(a, 1, &err), SERVERD_DEVICE_LOST);
    serverd_runtime_close(runtime);
}

/* ---- stopping -------------------------------------------------------------------------------- */

static void stop_ends_one_call(void **state)
{
    (void)state;
    serverd_runtime *runtime = open_on(llama.path, NULL);
    serverd_session *session = session_of(runtime);
    must(serverd_session_decode(session, 1, &err));
    serverd_session_stop(session);
    assert_int_equal(serverd_session_decode(session, 1, &err), SERVERD_TIMEOUT);
    assert_int_equal(serverd_session_position(session), 1);
    must(serverd_session_decode(session, 1, &err));
    serverd_session_stop(session);
    serverd_session_reset(session);
    must(serverd_session_decode(session, 1, &err));
    serverd_runtime_close(runtime);
}

static void *stop_soon(void *session)
{
    serverd_session_stop(session);
    return NULL;
}

static void stop_from_another_thread_keeps_what_is_done(void **state)
{
    (void)state;
    serverd_runtime *runtime = open_on(llama.path, "fault:inner=cpu,script=slow@1:50x9");
    serverd_session *session = session_of(runtime);
    int32_t tokens[CONTEXT] = {0};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, stop_soon, session), 0);
    assert_int_equal(serverd_session_prefill(session, tokens, CONTEXT, &err), SERVERD_TIMEOUT);
    (void)pthread_join(thread, NULL);
    size_t n = serverd_session_position(session);
    assert_true(n < CONTEXT && n % MAX_ROWS == 0);
    must(serverd_session_prefill(session, tokens + n, CONTEXT - n, &err));
    serverd_runtime_close(runtime);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void a_plan_adds_up(void **state)
{
    (void)state;
    serverd_runtime_options options = {
        .delegates = builtin_delegates, .n_delegates = 1, .max_context = 160, .n_threads = 1};
    serverd_memory one, four;
    must(serverd_runtime_plan(llama.path, &options, &one, &err));
    options.max_sessions = 4;
    must(serverd_runtime_plan(llama.path, &options, &four, &err));
    assert_int_equal(four.kv_bytes, 4 * one.kv_bytes);
    assert_int_equal(four.mapped_bytes, one.mapped_bytes);
    assert_int_equal(one.packed_bytes, 0); /* the file has all forms */
    assert_true(four.table_bytes > one.table_bytes);
    assert_int_equal(one.peak_bytes, one.mapped_bytes + one.packed_bytes + one.activation_bytes +
                                         one.scratch_bytes + one.kv_bytes + one.table_bytes);
    assert_true(one.gathered_bytes > 0);
    assert_true(one.activation_bytes > 0 && one.unshared_bytes > one.activation_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_give_the_bits_of_one_batch),
        cmocka_unit_test(encoders_give_an_embedding_of_a_whole_text),
        cmocka_unit_test(greedy_is_the_highest_logit),
        cmocka_unit_test(wrong_calls_change_nothing),
        cmocka_unit_test(what_cannot_be_opened_is_refused),
        cmocka_unit_test(a_failed_step_poisons_until_reset),
        cmocka_unit_test(a_result_that_is_no_number_poisons_its_session_alone),
        cmocka_unit_test(a_lost_device_ends_all),
        cmocka_unit_test(stop_ends_one_call),
        cmocka_unit_test(stop_from_another_thread_keeps_what_is_done),
        cmocka_unit_test(a_plan_adds_up),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
