/* From a model's file to a program file: the bytes depend on the model and on how it is compiled,
 * and what is told of both is JSON. */
#include "base/file.h"
#include "base/limits.h"
#include "compiler/compile_file.h"
#include "compiler/facts.h"
#include "kernels/builtin.h"
#include "program/sdp_file.h"
#include "support/synthetic_model.h"
#include "support/synthetic_program.h"
#include "tiny_model.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static serverd_error err;
static char folder[] = "/tmp/serverd-compile-XXXXXX", deep[64], model[2][96], out[2][96];

static int set_up(void **state)
{
    (void)state;
    struct buffer bytes;
    if (!mkdtemp(folder))
        return -1;
    (void)snprintf(deep, sizeof deep, "%s/another folder", folder);
    (void)snprintf(model[0], sizeof model[0], "%s/a.gguf", folder);
    (void)snprintf(model[1], sizeof model[1], "%s/longer name.gguf", deep);
    (void)snprintf(out[0], sizeof out[0], "%s/a.sdp", folder);
    (void)snprintf(out[1], sizeof out[1], "%s/b.sdp", deep);
    buffer_init(&bytes, 32u << 20);
    bool is_made = mkdir(deep, 0700) == 0 &&
                   synthetic_model("gemma3", "Q8_0", &bytes, &err) == SERVERD_OK &&
                   file_write_atomic(model[0], bytes.data, bytes.len, &err) == SERVERD_OK &&
                   file_write_atomic(model[1], bytes.data, bytes.len, &err) == SERVERD_OK;
    buffer_deinit(&bytes);
    return is_made ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        (void)unlink(model[i]);
        (void)unlink(out[i]);
    }
    (void)rmdir(deep);
    return rmdir(folder);
}

static struct compile_file_options options_of(int which)
{
    return (struct compile_file_options){.source = {.path = model[which]},
                                         .out = out[which],
                                         .delegate = builtin_delegate("cpu"),
                                         .wants_tests = true,
                                         .wants_verify = true};
}

static void compile(struct compile_file_options options, uint32_t n_threads)
{
    assert_int_equal(worker_pool_create(n_threads, &options.pool, &err), SERVERD_OK);
    if (compile_file(&options, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    worker_pool_destroy(options.pool);
}

static void the_bytes_do_not_depend_on_threads_or_places(void **state)
{
    (void)state;
    char *bytes[2];
    size_t n[2];
    for (int i = 0; i < 2; i++) {
        compile(options_of(i), (uint32_t)i + 1);
        assert_int_equal(file_read(out[i], 1 << 28, &bytes[i], &n[i], &err), SERVERD_OK);
    }
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(bytes[0], bytes[1], n[0]);
    free(bytes[0]);
    free(bytes[1]);
}

static void a_compiled_file_has_all_sections(void **state)
{
    (void)state;
    static const uint32_t types[] = {SDP_CONF, SDP_STRS, SDP_TENS, SDP_GRPH, SDP_TARG,
                                     SDP_FORM, SDP_PLAN, SDP_WGHT, SDP_TOKN, SDP_CHAT,
                                     SDP_TEST, SDP_META, SDP_DEBG};
    struct sdp_file file;
    compile(options_of(0), 2);
    assert_int_equal(sdp_file_open(out[0], &file, &err), SERVERD_OK);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        assert_non_null(sdp_find(&file, types[i]));
    assert_int_equal(file.header->n_sections, sizeof types / sizeof *types);
    const struct sdp_target *targets = sdp_bytes(&file, sdp_find(&file, SDP_TARG));
    assert_true(targets[0].isa & SDP_ISA_AVX512_VNNI);
    assert_int_equal(targets[1].isa, SDP_ISA_AVX2 | SDP_ISA_FMA | SDP_ISA_F16C);
    assert_int_equal(targets[2].isa, 0);
    sdp_file_close(&file);
}

static void tests_can_be_left_out(void **state)
{
    (void)state;
    struct compile_file_options options = options_of(0);
    struct sdp_file file;
    options.wants_tests = false;
    compile(options, 2);
    assert_int_equal(sdp_file_open(out[0], &file, &err), SERVERD_OK);
    assert_null(sdp_find(&file, SDP_TEST));
    sdp_file_close(&file);
}

/* A program cache made without tests serves who wants them, and who plans as always. */
static void the_key_of_a_cache_is_of_what_is_not_as_always(void **state)
{
    (void)state;
    struct compile_file_options options = options_of(0);
    uint8_t plain[32], other[32];
    compile_options_hash(&options, plain);
    options.wants_tests = options.wants_verify = false;
    options.limits = (serverd_limits){.max_rows = COMPILE_MAX_ROWS,
                                      .max_logit_rows = COMPILE_MAX_LOGIT_ROWS,
                                      .max_seqs = COMPILE_MAX_SEQS};
    compile_options_hash(&options, other);
    assert_memory_equal(plain, other, sizeof plain);
    options.limits.max_rows++;
    compile_options_hash(&options, other);
    assert_memory_not_equal(plain, other, sizeof plain);
}

/* ---- facts ----------------------------------------------------------------------------------- */

static json_t *parse(struct buffer *text)
{
    json_error_t problem;
    json_t *root = json_loads(buffer_str(text), JSON_REJECT_DUPLICATES, &problem);
    if (!root)
        fail_msg("%s: %s", problem.text, buffer_str(text));
    buffer_deinit(text);
    return root;
}

static void expect_text(const json_t *root, const char *key, const char *text)
{
    const json_t *value = json_object_get(root, key);
    if (!json_is_string(value) || strcmp(json_string_value(value), text) != 0)
        fail_msg("%s is not \"%s\"", key, text);
}

static void meta_says_what_it_was_and_how_it_was_made(void **state)
{
    (void)state;
    struct program *program = synthetic_program("qwen2", "Q4_0");
    struct compile_file_options options = options_of(0);
    struct buffer text;
    buffer_init(&text, 1 << 16);
    facts_put_meta(program, &options, &text);
    json_t *root = parse(&text);
    expect_text(root, "architecture", "qwen2");
    expect_text(root, "options", "");
    assert_null(json_object_get(root, "license"));
    json_decref(root);
    program->license = "\"\\\n\xff";
    options.quantise = "i4a:g64:awq";
    options.calibration = "/home/somebody/secret.jsonl";
    options.target_bits = 4.5;
    options.source.passes.off = "fold,dedup";
    options.limits.max_seqs = 4;
    buffer_init(&text, 1 << 16);
    facts_put_meta(program, &options, &text);
    root = parse(&text);
    expect_text(root, "license", "\"\\\n\xef\xbf\xbd");
    expect_text(root, "options",
                "--quantize i4a:g64:awq --calibrate FILE --target-bits 4.5 --without fold,dedup "
                "--max-seqs 4");
    json_decref(root);
    program_unref(program);
}

/* Checks what becomes of a licence that a file names. */
static void expect_license(void (*put)(struct gguf_writer *), const char *or_null)
{
    struct gguf_writer writer;
    struct buffer bytes;
    struct program *program;
    gguf_writer_init(&writer);
    tiny_model_write(&writer, NULL);
    if (put)
        put(&writer);
    buffer_init(&bytes, 1 << 24);
    gguf_writer_finish(&writer, &bytes);
    gguf_writer_deinit(&writer);
    assert_int_equal(compile_bytes(bytes.data, bytes.len, &program, &err), SERVERD_OK);
    if (or_null)
        assert_string_equal(program->license, or_null);
    else
        assert_null(program->license);
    program_unref(program);
    buffer_deinit(&bytes);
}

static void put_license(struct gguf_writer *writer)
{
    gguf_put_string(writer, "general.license", "apache-2.0");
}

static void put_number(struct gguf_writer *writer)
{
    gguf_put_u32(writer, "general.license", 2);
}

static void put_novel(struct gguf_writer *writer)
{
    static char text[LIMIT_LICENSE_BYTES + 2];
    memset(text, 'x', sizeof text - 1);
    gguf_put_string(writer, "general.license", text);
}

static void a_licence_is_kept_if_it_is_a_short_text(void **state)
{
    (void)state;
    expect_license(NULL, NULL);
    expect_license(put_license, "apache-2.0");
    expect_license(put_number, NULL);
    expect_license(put_novel, NULL);
}

static void debug_says_what_each_node_reads(void **state)
{
    (void)state;
    struct program *program = synthetic_program("bert", "F32");
    struct pass_history history = {0};
    struct buffer text;
    buffer_init(&history.passes, 1 << 16);
    for (uint32_t i = 0; i < n_compile_passes; i++)
        pass_history_add(&history, &compile_passes[i], program);
    buffer_init(&text, 1 << 20);
    facts_put_debug(program, &history, &text);
    json_t *root = parse(&text);
    assert_int_equal(json_array_size(json_object_get(root, "passes")), n_compile_passes);
    const json_t *sources = json_object_get(root, "sources");
    assert_int_equal(json_array_size(sources), program->graph.n_nodes);
    uint32_t n_names = 0;
    for (size_t n = 0; n < json_array_size(sources); n++) {
        const json_t *names = json_array_get(sources, n);
        for (size_t i = 0; i < json_array_size(names); i++, n_names++)
            assert_true(program_find_tensor(program, json_string_value(json_array_get(names, i))) >=
                        0);
    }
    assert_true(n_names >= program->graph.n_tensors);
    json_decref(root);
    buffer_deinit(&history.passes);
    program_unref(program);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bytes_do_not_depend_on_threads_or_places),
        cmocka_unit_test(a_compiled_file_has_all_sections),
        cmocka_unit_test(tests_can_be_left_out),
        cmocka_unit_test(the_key_of_a_cache_is_of_what_is_not_as_always),
        cmocka_unit_test(meta_says_what_it_was_and_how_it_was_made),
        cmocka_unit_test(a_licence_is_kept_if_it_is_a_short_text),
        cmocka_unit_test(debug_says_what_each_node_reads),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
