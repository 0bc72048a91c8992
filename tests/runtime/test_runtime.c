/* The choice of a delegate, its options and its pages, with the test doubles as delegates. */
#include "base/arena.h"
#include "base/clock.h"
#include "kernels/builtin.h"
#include "kernels/testing/null_model.h"
#include "program/dtype.h"
#include "runtime/runtime.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum {
    N_VOCAB = 50,
    PAGE = SERVERD_PAGE_TOKENS,
    CONTEXT = PAGE > 16 ? 4 * PAGE : 64,
    MAX_PAGES = CONTEXT / PAGE,
    MAX_ROWS = 32,
    N_TOKENS = PAGE + (PAGE < 4 ? PAGE : 4), /* of one page and a part of the next */
};

static struct program *program;
static struct worker_pool *pool;
static serverd_error err;

/* One node that nobody computes: logits = E[token]. */
static struct program *tiny_program(void)
{
    struct program *made = program_create(1 << 20);
    if (!made)
        return NULL;
    static float weights[N_VOCAB * N_VOCAB];
    static serverd_tensor tensor = {.struct_bytes = sizeof tensor,
                                    .dtype = DTYPE_F32,
                                    .name = "w",
                                    .rank = 2,
                                    .dims = {N_VOCAB, N_VOCAB},
                                    .data = weights,
                                    .bytes = sizeof weights};
    static serverd_value values[] = {
        {.kind = SERVERD_VALUE_CONSTANT,
         .rank = 2,
         .producer = UINT32_MAX,
         .dims = {N_VOCAB, N_VOCAB}},
        {.kind = SERVERD_VALUE_ACTIVATION, .rank = 2, .dims = {SERVERD_DIM_ROWS, N_VOCAB}},
    };
    static serverd_node node = {
        .op = SERVERD_OP_EMBED, .n_inputs = 1, .n_outputs = 1, .layer = UINT32_MAX};
    static uint32_t operands[] = {0, 1};
    made->graph = (serverd_graph){.struct_bytes = sizeof made->graph,
                                  .n_tensors = 1,
                                  .n_values = 2,
                                  .n_nodes = 1,
                                  .n_operands = 2,
                                  .output = 1,
                                  .tensors = &tensor,
                                  .values = values,
                                  .nodes = &node,
                                  .operands = operands};
    static serverd_kv_layer layer = {.n_kv_heads = 1, .k_dim = 4, .v_dim = 4};
    made->kv = (serverd_kv_spec){.struct_bytes = sizeof made->kv, .n_layers = 1, .layers = &layer};
    made->config.n_vocab = N_VOCAB;
    return made;
}

static int set_up(void **state)
{
    (void)state;
    program = tiny_program();
    return program && worker_pool_create(2, &pool, &err) == SERVERD_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    program_unref(program);
    worker_pool_destroy(pool);
    return 0;
}

static serverd_status open_on(const char *device, uint64_t kv_bytes, struct runtime **out)
{
    struct runtime_options options = {.delegates = builtin_delegates,
                                      .n_delegates = n_builtin_delegates,
                                      .device = device,
                                      .pool = pool,
                                      .clock = &system_clock,
                                      .limits = {.struct_bytes = sizeof(serverd_limits),
                                                 .max_rows = MAX_ROWS,
                                                 .max_logit_rows = 4,
                                                 .max_seqs = 3,
                                                 .max_context = CONTEXT},
                                      .kv_dtype = DTYPE_BF16,
                                      .kv_bytes = kv_bytes};
    return runtime_open(program, &options, out, &err);
}

/* Runs tokens begin..end-1 of a sequence and returns the best token after the last. */
static int32_t run(struct runtime *runtime, const int32_t *tokens, uint32_t begin, uint32_t end,
                   const uint32_t *pages, float *logits)
{
    int32_t position[CONTEXT];
    uint32_t row_seq[CONTEXT] = {0}, logit_row = end - begin - 1;
    for (uint32_t i = begin; i < end; i++)
        position[i - begin] = (int32_t)i;
    serverd_batch batch = {.struct_bytes = sizeof batch,
                           .n_rows = end - begin,
                           .n_seqs = 1,
                           .n_logit_rows = 1,
                           .token = tokens + begin,
                           .position = position,
                           .row_seq = row_seq,
                           .page_table = pages,
                           .max_pages = MAX_PAGES,
                           .logit_row = &logit_row};
    if (runtime_execute(runtime, &batch, logits, &err) != SERVERD_OK)
        return -1;
    int32_t best = 0;
    for (int32_t i = 1; i < N_VOCAB; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* In steps of what is allowed. */
static int32_t run_all(struct runtime *runtime, const int32_t *tokens, uint32_t n,
                       const uint32_t *pages, float *logits)
{
    int32_t best = -1;
    for (uint32_t begin = 0; begin < n; begin += MAX_ROWS)
        best =
            run(runtime, tokens, begin, n - begin < MAX_ROWS ? n : begin + MAX_ROWS, pages, logits);
    return best;
}

static int32_t expected(const int32_t *tokens, uint32_t n, uint32_t min_token)
{
    uint64_t after = NULL_MODEL_EMPTY;
    for (uint32_t i = 0; i < n; i++)
        after = null_model_next(after, tokens[i], i);
    return null_model_token(after, min_token, N_VOCAB);
}

static void the_null_model_is_a_function_of_history_however_it_is_cut(void **state)
{
    (void)state;
    struct runtime *runtime;
    assert_int_equal(open_on("null:min_token=7", 0, &runtime), SERVERD_OK);
    assert_int_equal(runtime_n_pages(runtime), 3 * MAX_PAGES);
    assert_int_equal(runtime_output_width(runtime), N_VOCAB);
    int32_t tokens[CONTEXT];
    for (uint32_t i = 0; i < CONTEXT; i++)
        tokens[i] = (int32_t)(hash_mix(i) % N_VOCAB);
    uint32_t pages[MAX_PAGES]; /* in disorder, each once */
    for (uint32_t i = 0; i < MAX_PAGES; i++)
        pages[i] = (5 + 7 * i) % (3 * MAX_PAGES);
    float logits[N_VOCAB];
    for (uint32_t chunk = 1; chunk <= 32; chunk++) {
        for (uint32_t begin = 0; begin < CONTEXT; begin += chunk) {
            uint32_t end = begin + chunk < CONTEXT ? begin + chunk : CONTEXT;
            int32_t best = run(runtime, tokens, begin, end, pages, logits);
            assert_true(best >= 7);
            assert_int_equal(best, expected(tokens, end, 7));
        }
    }
    runtime_close(runtime);
}

static serverd_kv_page page_at(uint32_t index)
{
    return (serverd_kv_page){index, SERVERD_NO_PAGE};
}

static void a_stale_or_foreign_page_changes_the_answer(void **state)
{
    (void)state;
    struct runtime *runtime;
    assert_int_equal(open_on("null", 0, &runtime), SERVERD_OK);
    int32_t tokens[N_TOKENS];
    for (int32_t i = 0; i < N_TOKENS; i++)
        tokens[i] = i % N_VOCAB;
    const uint32_t pages[MAX_PAGES] = {0, 1}, foreign[MAX_PAGES] = {2, 1}, copy[MAX_PAGES] = {2, 3};
    float logits[N_VOCAB];
    int32_t right = run_all(runtime, tokens, N_TOKENS, pages, logits);
    assert_int_equal(run(runtime, tokens, PAGE, N_TOKENS, pages, logits), right);
    assert_int_not_equal(run(runtime, tokens, PAGE, N_TOKENS, foreign, logits), right);
    assert_int_equal(run_all(runtime, tokens, N_TOKENS, pages, logits), right);
    assert_int_equal(runtime_kv_copy(runtime, page_at(0), page_at(2), PAGE, &err), SERVERD_OK);
    assert_int_equal(run(runtime, tokens, PAGE, N_TOKENS, copy, logits), right);
    const serverd_kv_page wiped[] = {page_at(0), page_at(2)};
    assert_int_equal(runtime_kv_zero(runtime, wiped, 2, &err), SERVERD_OK);
    assert_int_not_equal(run(runtime, tokens, PAGE, N_TOKENS, pages, logits), right);
    assert_int_not_equal(runtime_kv_copy(runtime, page_at(0), page_at(1000), PAGE, &err),
                         SERVERD_OK);
    runtime_close(runtime);
}

static void a_page_leaves_and_comes_back(void **state)
{
    (void)state;
    static const char *const devices[] = {"null", "fault:inner=null"};
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        struct runtime *runtime;
        assert_int_equal(open_on(devices[i], 0, &runtime), SERVERD_OK);
        int32_t tokens[N_TOKENS];
        for (int32_t t = 0; t < N_TOKENS; t++)
            tokens[t] = t % N_VOCAB;
        const uint32_t pages[MAX_PAGES] = {0, 1}, other[MAX_PAGES] = {2, 3};
        float logits[N_VOCAB];
        char bytes[SERVERD_PAGE_TOKENS * sizeof(uint64_t)];
        uint8_t identity[32];
        assert_int_equal(runtime_page_bytes(runtime), sizeof bytes);
        int32_t right = run_all(runtime, tokens, N_TOKENS, pages, logits);
        assert_int_not_equal(run(runtime, tokens, PAGE, N_TOKENS, other, logits), right);
        assert_int_equal(runtime_kv_export(runtime, page_at(0), bytes, &err), SERVERD_OK);
        assert_int_equal(runtime_kv_import(runtime, page_at(2), bytes, &err), SERVERD_OK);
        assert_int_equal(run(runtime, tokens, PAGE, N_TOKENS, other, logits), right);
        assert_int_equal(runtime_kv_export(runtime, page_at(1000), bytes, &err), SERVERD_INTERNAL);
        assert_int_equal(runtime_kv_import(runtime, page_at(1000), bytes, &err), SERVERD_INTERNAL);
        /* nobody wanted it at open */
        assert_int_equal(runtime_kv_identity(runtime, identity, &err), SERVERD_UNSUPPORTED);
        runtime_close(runtime);
    }
}

static void pages_stay_in_a_delegate_that_cannot_export_them(void **state)
{
    (void)state;
    serverd_delegate one_way = *builtin_delegates[n_builtin_delegates - 2];
    assert_string_equal(one_way.name, "null");
    one_way.kv_import = NULL;
    const serverd_delegate *const list[] = {&one_way};
    const struct runtime_options options = {
        .delegates = list,
        .n_delegates = 1,
        .device = "null",
        .pool = pool,
        .limits = {.max_rows = 1, .max_seqs = 1, .max_context = CONTEXT},
        .wants_kv_identity = true};
    struct runtime *runtime;
    char bytes[SERVERD_PAGE_TOKENS * sizeof(uint64_t)] = {0};
    uint8_t identity[32];
    assert_int_equal(runtime_open(program, &options, &runtime, &err), SERVERD_OK);
    assert_int_equal(runtime_kv_identity(runtime, identity, &err), SERVERD_UNSUPPORTED);
    assert_int_equal(runtime_kv_export(runtime, page_at(0), bytes, &err), SERVERD_UNSUPPORTED);
    assert_int_equal(runtime_kv_import(runtime, page_at(0), bytes, &err), SERVERD_UNSUPPORTED);
    runtime_close(runtime);
}

static void a_device_that_is_not_there_is_named(void **state)
{
    (void)state;
    struct runtime *runtime;
    const struct {
        const char *device, *word;
    } rows[] = {{"npu", "npu"},
                {"null:step_ms=3", "step_ms"},
                {"null:step_us=x", "step_us"},
                {"null:step_us", "step_us"},
                {"null:min_token=50", "min_token"},
                {"fault:inner=npu", "npu"},
                {"fault:script=nan", "nan"},
                {"fault:script=boom@1", "boom"},
                {"fault:script=error@1:no", "error"},
                {"fault:inner=fault", "fault"},
                {"fault:script=oom@load", "no memory"},
                {"fault:script=oom@kv", "no memory"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (open_on(rows[i].device, 0, &runtime) == SERVERD_OK)
            fail_msg("%s was opened", rows[i].device);
        if (!strstr(err.text, rows[i].word))
            fail_msg("%s: \"%s\"", rows[i].device, err.text);
    }
}

static void memory_that_holds_no_context_is_refused_with_what_is_needed(void **state)
{
    (void)state;
    struct runtime *runtime;
    const uint64_t page_bytes = SERVERD_PAGE_TOKENS * sizeof(uint64_t);
    assert_int_equal(open_on("null", page_bytes * MAX_PAGES - 1, &runtime), SERVERD_NOMEM);
    assert_non_null(strstr(err.text, "kv-memory"));
    assert_int_equal(open_on("null", page_bytes * (MAX_PAGES + 1) + 5, &runtime), SERVERD_OK);
    assert_int_equal(runtime_n_pages(runtime), MAX_PAGES + 1);
    assert_int_equal(runtime_page_bytes(runtime), page_bytes);
    runtime_close(runtime);
}

static void a_step_beyond_the_promise_is_refused(void **state)
{
    (void)state;
    struct runtime *runtime;
    assert_int_equal(open_on("null", 0, &runtime), SERVERD_OK);
    int32_t tokens[CONTEXT] = {0};
    const uint32_t pages[MAX_PAGES] = {0, 1, 2, 3}, none[MAX_PAGES] = {9999, 9999, 9999, 9999};
    float logits[N_VOCAB];
    assert_int_equal(run(runtime, tokens, 0, MAX_ROWS + 1, pages, logits), -1);
    assert_int_equal(err.code, SERVERD_INTERNAL);
    assert_int_equal(run(runtime, tokens, 0, 8, none, logits), -1);
    runtime_close(runtime);
}

static void faults_come_when_the_script_says(void **state)
{
    (void)state;
    struct runtime *runtime;
    assert_int_equal(
        open_on(
            "fault:inner=null;inner.min_token=3;script=nan@2+inf@3+error@4:timeout+oom@5x2+lost@8",
            0, &runtime),
        SERVERD_OK);
    const int32_t tokens[] = {1, 2};
    const uint32_t pages[MAX_PAGES] = {0};
    float logits[N_VOCAB];
    assert_int_equal(run(runtime, tokens, 0, 2, pages, logits), expected(tokens, 2, 3));
    (void)run(runtime, tokens, 0, 2, pages, logits);
    assert_true(isnan(logits[0]) && isnan(logits[N_VOCAB - 1]));
    (void)run(runtime, tokens, 0, 2, pages, logits);
    assert_true(isinf(logits[0]));
    const serverd_status codes[] = {SERVERD_TIMEOUT, SERVERD_NOMEM, SERVERD_NOMEM};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(run(runtime, tokens, 0, 2, pages, logits), -1);
        assert_int_equal(err.code, codes[i]);
    }
    assert_int_equal(run(runtime, tokens, 0, 2, pages, logits), expected(tokens, 2, 3));
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(run(runtime, tokens, 0, 2, pages, logits), -1);
        assert_int_equal(err.code, SERVERD_DEVICE_LOST);
    }
    runtime_close(runtime);
}

/* A delegate with a layout of its own: the rows in reverse order. */
static serverd_status reverse_form(const serverd_tensor *tensor, serverd_form *out,
                                   serverd_error *e)
{
    (void)e;
    *out = (serverd_form){
        .struct_bytes = sizeof *out, .layout = 77, .bytes = tensor->bytes, .alignment = 4096};
    return SERVERD_OK;
}

static serverd_status reverse_pack(const serverd_tensor *tensor, const serverd_form *form,
                                   uint64_t first_row, uint64_t n_rows, void *dst, serverd_error *e)
{
    (void)form, (void)e;
    uint64_t row_bytes = tensor->bytes / tensor->dims[0];
    for (uint64_t i = first_row; i < first_row + n_rows; i++)
        memcpy((char *)dst + (tensor->dims[0] - 1 - i) * row_bytes,
               (const char *)tensor->data + i * row_bytes, row_bytes);
    return SERVERD_OK;
}

static const void *loaded;

static serverd_status reverse_load(serverd_instance *instance, const serverd_graph *graph,
                                   const serverd_partition *partition, const void *const *packed,
                                   const serverd_limits *limits, const serverd_kv_spec *kv,
                                   serverd_handle **out, serverd_error *e)
{
    loaded = packed[0];
    const float *rows = packed[0], *source = graph->tensors[0].data;
    for (uint32_t i = 0; i < N_VOCAB; i++)
        assert_memory_equal(rows + (size_t)i * N_VOCAB,
                            source + (size_t)(N_VOCAB - 1 - i) * N_VOCAB, N_VOCAB * sizeof *rows);
    return builtin_delegates[n_builtin_delegates - 2]->load(instance, graph, partition, packed,
                                                            limits, kv, out, e);
}

static void weights_are_packed_as_the_delegate_asks(void **state)
{
    (void)state;
    serverd_delegate reverse = *builtin_delegates[n_builtin_delegates - 2];
    assert_string_equal(reverse.name, "null");
    reverse.name = "reverse";
    reverse.flags = 0;
    reverse.form = reverse_form;
    reverse.pack = reverse_pack;
    reverse.load = reverse_load;
    const serverd_delegate *const list[] = {&reverse};
    float *weights = (float *)program->graph.tensors[0].data;
    for (size_t i = 0; i < (size_t)N_VOCAB * N_VOCAB; i++)
        weights[i] = (float)i;
    struct runtime_options options = {
        .delegates = list,
        .n_delegates = 1,
        .device = "auto",
        .pool = pool,
        .limits = {.max_rows = 1, .max_seqs = 1, .max_context = CONTEXT}};
    struct runtime *runtime;
    assert_int_equal(runtime_open(program, &options, &runtime, &err), SERVERD_OK);
    assert_int_equal((uintptr_t)loaded % 4096, 0);
    assert_non_null(strstr(runtime_device(runtime), "reverse"));
    runtime_close(runtime);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_null_model_is_a_function_of_history_however_it_is_cut),
        cmocka_unit_test(a_stale_or_foreign_page_changes_the_answer),
        cmocka_unit_test(a_page_leaves_and_comes_back),
        cmocka_unit_test(pages_stay_in_a_delegate_that_cannot_export_them),
        cmocka_unit_test(a_device_that_is_not_there_is_named),
        cmocka_unit_test(memory_that_holds_no_context_is_refused_with_what_is_needed),
        cmocka_unit_test(a_step_beyond_the_promise_is_refused),
        cmocka_unit_test(faults_come_when_the_script_says),
        cmocka_unit_test(weights_are_packed_as_the_delegate_asks),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
