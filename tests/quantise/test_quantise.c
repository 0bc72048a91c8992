/* Whole programs: what comes out is valid, close to the source, the same for any number of threads;
 * the report's figures are those of the logits. */
#include "support/synthetic_model.h"
#include "support/synthetic_program.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/limits.h"
#include "compiler/compile_file.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "program/sdp_program.h"
#include "quantise/quantise.h"
#include "runtime/runtime.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static serverd_error err;

static struct worker_pool *pool_of(uint32_t n)
{
    struct worker_pool *pool;
    assert_int_equal(worker_pool_create(n, &pool, &err), SERVERD_OK);
    return pool;
}

enum { SEQUENCES = 20, LENGTH = 24 };

static int32_t token_of(uint32_t n_vocab, uint32_t sequence, uint32_t i)
{
    return (int32_t)(hash_mix(sequence * 1000u + i) % n_vocab);
}

/* Sequences of random ids, one JSON object a line. */
static struct memory_file make_text(uint32_t n_vocab)
{
    struct buffer text;
    buffer_init(&text, MIB);
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        buffer_append_str(&text, "{\"prompt_token_ids\":[");
        for (uint32_t i = 0; i < LENGTH; i++)
            buffer_printf(&text, "%s%d", i ? "," : "", token_of(n_vocab, s, i));
        buffer_append_str(&text, "]}\n");
    }
    struct memory_file file = memory_file_create();
    memory_file_write(&file, text.data, text.len);
    buffer_deinit(&text);
    return file;
}

struct outcome {
    struct program *program;
    struct quantise_report report;
};

static struct outcome quantise(const char *arch, const char *policy, bool is_calibrated,
                               double target_bits, uint32_t n_threads)
{
    struct outcome o = {.program = synthetic_program(arch, "F32")};
    struct worker_pool *pool = pool_of(n_threads);
    struct memory_file text = make_text(o.program->config.n_vocab);
    const struct quantise_options options = {.policy = policy,
                                             .calibration = is_calibrated ? text.path : NULL,
                                             .target_bits = target_bits,
                                             .pool = pool};
    if (quantise_program(o.program, &options, &o.report, &err) != SERVERD_OK)
        fail_msg("%s %s: %s", arch, policy, err.text);
    memory_file_close(&text);
    worker_pool_destroy(pool);
    return o;
}

static void end(struct outcome *o)
{
    program_unref(o->program);
    quantise_report_destroy(&o->report);
}

static void every_matrix_gets_its_format(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama",  "qwen2", "qwen3", "gemma2",
                                        "gemma3", "phi3",  "bert",  "mistral3"};
    for (size_t a = 0; a < sizeof archs / sizeof *archs; a++) {
        struct outcome o = quantise(archs[a], "i4a:g32", false, 0, 2);
        assert_int_equal(program_check(o.program, &err), SERVERD_OK);
        assert_true(o.report.n_tensors > 3);
        for (uint32_t i = 0; i < o.program->graph.n_tensors; i++) {
            const serverd_tensor *t = &o.program->graph.tensors[i];
            if (t->rank == 1)
                assert_int_equal(t->dtype, DTYPE_F32);
        }
        for (uint32_t i = 0; i < o.report.n_tensors; i++) {
            const struct tensor_report *t = &o.report.tensors[i];
            const bool is_table = t->kind == KIND_EMBED || t->kind == KIND_HEAD;
            if (dtype_is_own(t->dtype))
                assert_int_equal(dtype_format_of(t->dtype), is_table ? FORMAT_I8S : FORMAT_I4A);
            assert_true(t->weight_error >= 0 && t->weight_error < (is_table ? 1e-3 : 0.03));
        }
        end(&o);
    }
}

/* The same bytes of every tensor. */
static void assert_same_programs(const struct program *a, const struct program *b)
{
    for (uint32_t i = 0; i < a->graph.n_tensors; i++) {
        const serverd_tensor *s = &a->graph.tensors[i], *t = &b->graph.tensors[i];
        assert_int_equal(s->dtype, t->dtype);
        assert_int_equal(s->bytes, t->bytes);
        assert_memory_equal(s->data, t->data, s->bytes);
    }
}

static char *json_of(const struct quantise_report *report)
{
    struct buffer text;
    buffer_init(&text, 4 * MIB);
    quantise_report_json(report, &text);
    return buffer_take(&text, NULL);
}

static void any_number_of_threads_gives_the_same_program(void **state)
{
    (void)state;
    static const char *const policies[] = {"i4a:g32:awq+gptq+scale", "i4s:g32:gptq", "nf4:g32"};
    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        struct outcome first = quantise("qwen2", policies[p], true, 0, 1);
        char *text = json_of(&first.report);
        for (uint32_t n = 2; n <= 3; n++) {
            struct outcome other = quantise("qwen2", policies[p], true, 0, n);
            char *other_text = json_of(&other.report);
            assert_same_programs(first.program, other.program);
            assert_string_equal(text, other_text);
            free(other_text);
            end(&other);
        }
        free(text);
        end(&first);
    }
}

static void eight_bits_change_little_and_methods_help(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama", "qwen2", "gemma3", "phi3"};
    for (size_t a = 0; a < sizeof archs / sizeof *archs; a++) {
        struct outcome wide = quantise(archs[a], "i8s:g32", true, 0, 2);
        struct outcome plain = quantise(archs[a], "i4a:g32", true, 0, 2);
        struct outcome best = quantise(archs[a], "i4a:g32:gptq+scale", true, 0, 2);
        double plain_error = 0, best_error = 0;
        assert_true(wide.report.divergence.mean_kl < 0.1 * plain.report.divergence.mean_kl);
        assert_true(wide.report.divergence.n_tokens >= LENGTH);
        assert_true(wide.report.n_layers > 0 && wide.report.layers[0].cosine > 0.999);
        for (uint32_t i = 0; i < plain.report.n_tensors; i++)
            if (plain.report.tensors[i].output_error >= 0) {
                plain_error += plain.report.tensors[i].output_error;
                best_error += best.report.tensors[i].output_error;
            }
        assert_true(best_error < plain_error);
        assert_int_equal(plain.program->config.weight_bytes, best.program->config.weight_bytes);
        end(&wide);
        end(&plain);
        end(&best);
    }
}

/* Scales that are folded away leave what the model computes: in 8 bits it stays close. */
static void folded_scales_cancel(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama", "qwen2", "gemma2", "bert"};
    for (size_t a = 0; a < sizeof archs / sizeof *archs; a++) {
        struct outcome o = quantise(archs[a], "i8s:g32:awq", true, 0, 2);
        const struct divergence_report *d = &o.report.divergence;
        double most = 0;
        for (uint32_t i = 0; i < o.report.n_tensors; i++)
            most = fmax(most, o.report.tensors[i].awq_alpha);
        assert_true(most > 0);
        assert_true(d->is_encoder ? d->min_cosine > 0.999 : d->mean_kl < 1e-3);
        end(&o);
    }
}

/* Mean negative log likelihood of the held-out sequences by the runtime, which computes with
 * quantised activations. */
static double nll_of(struct program *program)
{
    struct worker_pool *pool = pool_of(2);
    struct runtime *runtime;
    const uint32_t n_vocab = program->config.n_vocab;
    const struct runtime_options options = {.delegates = builtin_delegates,
                                            .n_delegates = n_builtin_delegates,
                                            .device = "cpu",
                                            .pool = pool,
                                            .clock = &system_clock,
                                            .limits = {.struct_bytes = sizeof options.limits,
                                                       .max_rows = LENGTH,
                                                       .max_logit_rows = LENGTH,
                                                       .max_seqs = 1,
                                                       .max_context = LENGTH},
                                            .kv_dtype = DTYPE_F32};
    if (runtime_open(program, &options, &runtime, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    int32_t token[LENGTH], position[LENGTH];
    uint32_t row_seq[LENGTH] = {0}, logit_row[LENGTH], pages[] = {0, 1};
    float *logits = calloc((size_t)LENGTH * n_vocab, sizeof *logits);
    double sum = 0;
    uint32_t n = 0;
    for (uint32_t s = 4; s < SEQUENCES; s += 5) {
        for (uint32_t i = 0; i < LENGTH; i++) {
            token[i] = token_of(n_vocab, s, i);
            position[i] = (int32_t)i;
            logit_row[i] = i;
        }
        const serverd_batch batch = {.struct_bytes = sizeof batch,
                                     .n_rows = LENGTH,
                                     .n_seqs = 1,
                                     .n_logit_rows = LENGTH,
                                     .token = token,
                                     .position = position,
                                     .row_seq = row_seq,
                                     .page_table = pages,
                                     .max_pages = 2,
                                     .logit_row = logit_row};
        assert_int_equal(runtime_execute(runtime, &batch, logits, &err), SERVERD_OK);
        for (uint32_t i = 0; i + 1 < LENGTH; i++, n++) {
            const float *row = logits + (size_t)i * n_vocab;
            double total = 0;
            for (uint32_t v = 0; v < n_vocab; v++)
                total += exp((double)row[v]);
            sum += log(total) - (double)row[token[i + 1]];
        }
    }
    free(logits);
    runtime_close(runtime);
    worker_pool_destroy(pool);
    return sum / n;
}

static void the_report_says_what_the_runtime_computes(void **state)
{
    (void)state;
    static const char *const policies[] = {
        "i4a:g32:awq+gptq+scale", "i8a:g32", "i4z:g32", "nf4:g32", "f8:g32", "mxfp4"};
    struct program *source = synthetic_program("qwen2", "F32");
    const double source_nll = nll_of(source);
    program_unref(source);
    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        struct outcome o = quantise("qwen2", policies[p], true, 0, 2);
        const double nll = nll_of(o.program);
        assert_true(fabs(o.report.divergence.source_nll - source_nll) < 0.01 * source_nll);
        assert_true(fabs(o.report.divergence.nll - nll) < 0.01 * nll);
        end(&o);
    }
}

static void a_target_is_met_within_a_hundredth(void **state)
{
    (void)state;
    for (int is_calibrated = 0; is_calibrated < 2; is_calibrated++) {
        struct outcome o = quantise("llama", "int4", is_calibrated, 6.0, 2);
        double bits = 0, elements = 0;
        bool has_narrow = false, has_wide = false;
        for (uint32_t i = 0; i < o.report.n_tensors; i++) {
            const struct tensor_report *t = &o.report.tensors[i];
            if (t->kind == KIND_EMBED || t->kind == KIND_HEAD)
                continue;
            bits += 8.0 * (double)t->bytes;
            elements += (double)t->n_elements;
            has_wide |= dtype_format_of(t->dtype) == FORMAT_I8S;
            has_narrow |= dtype_format_of(t->dtype) == FORMAT_I4A;
        }
        assert_true(has_narrow && has_wide);
        assert_true(bits / elements <= 6.0 && bits / elements > 5.5);
        assert_true(o.report.n_candidates > 1);
        end(&o);
    }
}

static void reports_are_json_and_a_page(void **state)
{
    (void)state;
    struct outcome o = quantise("llama", "int4-best", true, 0, 2);
    char *text = json_of(&o.report);
    json_error_t where;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &where);
    if (!json)
        fail_msg("%s: %s", where.text, text);
    assert_int_equal(json_array_size(json_object_get(json, "tensors")), o.report.n_tensors);
    assert_true(json_number_value(json_object_get(json_object_get(json, "divergence"), "mean_kl")) >
                0);
    json_decref(json);
    free(text);
    struct buffer page;
    buffer_init(&page, 4 * MIB);
    quantise_report_html(&o.report, &page);
    assert_false(page.is_failed);
    assert_non_null(strstr(page.data, "<svg"));
    assert_null(strstr(page.data, "<script"));
    assert_null(strstr(page.data, "http"));
    buffer_deinit(&page);
    end(&o);
}

static void check_refusal(const char *policy, const char *text, const char *expected)
{
    struct program *program = synthetic_program("llama", "F32");
    struct worker_pool *pool = pool_of(1);
    struct memory_file file = memory_file_create();
    if (text)
        memory_file_write(&file, text, strlen(text));
    const struct quantise_options options = {
        .policy = policy, .calibration = text ? file.path : NULL, .pool = pool};
    struct quantise_report report;
    assert_int_equal(quantise_program(program, &options, &report, &err), SERVERD_INVALID);
    if (!strstr(err.text, expected))
        fail_msg("\"%s\" does not say \"%s\"", err.text, expected);
    memory_file_close(&file);
    worker_pool_destroy(pool);
    program_unref(program);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    check_refusal("int4-best", NULL, "calibrate");
    check_refusal("int5", NULL, "is int");
    check_refusal("int4", "", "too little");
    check_refusal("int4", "{\"text\":5}\n", ":1: needs text");
    check_refusal("int4", "\n{\"prompt_token_ids\":[1,-1]}\n", ":2: prompt_token_ids[1]");
    check_refusal("int4", "{\"prompt_token_ids\":[999999999]}\n", "are allowed");
    check_refusal("int4", "{\"messages\":[{\"role\":\"user\"}]}\n", ":1: ");
    check_refusal("int4", "not json\n", "no JSON");
    check_refusal("int4", "{\"text\":\"a\",\"text\":\"b\"}\n", "no JSON");
}

/* A quantised model's program file computes what the program did. */
static void program_files_hold_quantised_weights(void **state)
{
    (void)state;
    static const char *const policies[] = {"i4a:g32", "i4z:g32", "i8a:g32", "nf4:g32", "f8:g32"};
    char path[64], page[64];
    (void)snprintf(path, sizeof path, "/tmp/serverd-quantise-%d.sdp", (int)getpid());
    (void)snprintf(page, sizeof page, "/tmp/serverd-quantise-%d.html", (int)getpid());
    struct buffer bytes;
    buffer_init(&bytes, 32 * MIB);
    assert_int_equal(synthetic_model("qwen2", "F32", &bytes, &err), SERVERD_OK);
    struct memory_file model = memory_file_create();
    memory_file_write(&model, bytes.data, bytes.len);
    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        struct worker_pool *pool = pool_of(2);
        struct outcome direct = quantise("qwen2", policies[p], false, 0, 2);
        struct program *opened;
        const struct compile_file_options options = {.source = {.path = model.path},
                                                     .out = path,
                                                     .delegate = builtin_delegate("cpu"),
                                                     .pool = pool,
                                                     .quantise = policies[p],
                                                     .report = page,
                                                     .wants_verify = true};
        if (compile_file(&options, &err) != SERVERD_OK ||
            sdp_open(path, &opened, &err) != SERVERD_OK)
            fail_msg("%s: %s", policies[p], err.text);
        assert_true(nll_of(opened) == nll_of(direct.program));
        program_unref(opened);
        end(&direct);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(unlink(page), 0);
        worker_pool_destroy(pool);
    }
    memory_file_close(&model);
    buffer_deinit(&bytes);
}

/* Text of the model's own is the same each time, and enough. */
static void a_model_makes_its_own_text(void **state)
{
    (void)state;
    struct calibration found[2];
    const struct calibration_options options = {
        .source = "self", .n_sequences = 6, .sequence_tokens = 20, .n_held_out_tokens = 30};
    for (uint32_t i = 0; i < 2; i++) {
        struct program *program = synthetic_program("llama", "F32");
        struct worker_pool *pool = pool_of(1 + i);
        if (calibration_create(program, &options, pool, &found[i], &err) != SERVERD_OK)
            fail_msg("%s", err.text);
        worker_pool_destroy(pool);
        program_unref(program);
    }
    assert_int_equal(found[0].used.n, 6);
    assert_int_equal(sequences_n_tokens(&found[0].used), 120);
    assert_true(sequences_n_tokens(&found[0].held_out) >= 30);
    assert_memory_equal(found[0].used.token, found[1].used.token, 120 * sizeof(int32_t));
    calibration_destroy(&found[0]);
    calibration_destroy(&found[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_matrix_gets_its_format),
        cmocka_unit_test(any_number_of_threads_gives_the_same_program),
        cmocka_unit_test(eight_bits_change_little_and_methods_help),
        cmocka_unit_test(folded_scales_cancel),
        cmocka_unit_test(the_report_says_what_the_runtime_computes),
        cmocka_unit_test(a_target_is_met_within_a_hundredth),
        cmocka_unit_test(reports_are_json_and_a_page),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(program_files_hold_quantised_weights),
        cmocka_unit_test(a_model_makes_its_own_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
