/* From a file to a program: every architecture, and what is refused on the way. */
#include "tiny_model.h"

#include "base/limits.h"
#include "compiler/compile.h"
#include "compiler/gguf_reader.h"
#include "program/dtype.h"
#include "program/op.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static serverd_error err;

static void expect(struct gguf_writer *w, serverd_status code, const char *text)
{
    serverd_status status = compile_writer(w, &err);
    if (status != code)
        fail_msg("status %d instead of %d: %s", status, code, err.text);
    if (code != SERVERD_OK && !strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static uint32_t count(const struct program *program, serverd_op op)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < program->graph.n_nodes; i++)
        n += program->graph.nodes[i].op == op;
    return n;
}

static const serverd_node *find_node(const struct program *program, serverd_op op, uint32_t layer)
{
    for (uint32_t i = 0; i < program->graph.n_nodes; i++)
        if (program->graph.nodes[i].op == op && program->graph.nodes[i].layer == layer)
            return &program->graph.nodes[i];
    fail_msg("no such node in layer %u", layer);
    return NULL;
}

/* ---- architectures ------------------------------------------------------------------------- */

static void every_architecture_becomes_a_program(void **state)
{
    (void)state;
    static const char *const names[] = {"llama",  "mistral3", "qwen2", "qwen3",
                                        "gemma2", "gemma3",   "phi3",  "bert"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct program *program = synthetic_program(names[i], "F32");
        bool is_encoder = strcmp(names[i], "bert") == 0;
        assert_string_equal(program->config.architecture, names[i]);
        assert_string_equal(program->config.quantisation, is_encoder ? "BF16" : "F32");
        assert_int_equal(program->config.is_encoder, is_encoder);
        assert_int_equal(program->kv.n_layers, is_encoder ? 0 : program->config.n_layers);
        assert_int_equal(count(program, SERVERD_OP_ATTN), program->config.n_layers);
        assert_int_equal(program->n_templates, is_encoder ? 0 : 1);
        assert_int_equal(program->vocabulary.n_tokens, program->config.n_vocab);
        program_unref(program);
    }
}

static void gemma3_has_windows_but_in_every_sixth_layer_and_a_rope_for_each(void **state)
{
    (void)state;
    struct program *program = synthetic_program("gemma3", "F32");
    for (uint32_t layer = 0; layer < program->config.n_layers; layer++) {
        uint32_t window = layer == 5 ? 0 : 8;
        assert_int_equal(find_node(program, SERVERD_OP_ATTN, layer)->attributes.attn.window,
                         window);
        assert_int_equal(program->kv.layers[layer].window, window);
    }
    const serverd_node *local = find_node(program, SERVERD_OP_ROPE, 0);
    const serverd_node *global = find_node(program, SERVERD_OP_ROPE, 5);
    uint32_t a = node_input(&program->graph, local, 1)->tensor;
    uint32_t b = node_input(&program->graph, global, 1)->tensor;
    const float *x = program->graph.tensors[a].data, *y = program->graph.tensors[b].data;
    assert_true(x[0] == 1.0f);   /* base^0, not scaled */
    assert_true(y[0] == 0.125f); /* linear scaling by 8 */
    program_unref(program);
}

static void the_graph_of_gemma2_caps_scores_and_logits(void **state)
{
    (void)state;
    struct program *program = synthetic_program("gemma2", "F32");
    assert_true(find_node(program, SERVERD_OP_ATTN, 0)->attributes.attn.cap == 50.0f);
    assert_int_equal(count(program, SERVERD_OP_SOFTCAP), 1);
    program_unref(program);
}

static void longrope_keeps_both_tables(void **state)
{
    (void)state;
    struct program *program = synthetic_program("phi3", "F32");
    const serverd_node *rope = find_node(program, SERVERD_OP_ROPE, 0);
    assert_int_equal(rope->n_inputs, 3);
    assert_int_equal(rope->attributes.rope.n_rot, 12);
    assert_int_equal(rope->attributes.rope.alt_from, 4096);
    program_unref(program);
}

static void tied_weights_are_one_constant(void **state)
{
    (void)state;
    struct program *program = synthetic_program("qwen2", "F32");
    const serverd_node *head = &program->graph.nodes[program->graph.n_nodes - 1];
    const serverd_node *embed = &program->graph.nodes[0];
    assert_int_equal(head->op, SERVERD_OP_LINEAR);
    assert_int_equal(node_input(&program->graph, head, 1)->tensor,
                     node_input(&program->graph, embed, 0)->tensor);
    program_unref(program);
}

static float yarn_mscale(float log_multiplier)
{
    struct gguf_writer w;
    struct buffer bytes;
    tiny_model_write(&w, NULL);
    gguf_put_string(&w, "llama.rope.scaling.type", "yarn");
    gguf_put_f32(&w, "llama.rope.scaling.factor", 4.0f);
    gguf_put_f32(&w, "llama.rope.scaling.yarn_log_multiplier", log_multiplier);
    buffer_init(&bytes, 1 * MIB);
    gguf_writer_finish(&w, &bytes);
    struct program *program = NULL;
    assert_int_equal(compile_bytes(bytes.data, bytes.len, &program, &err), SERVERD_OK);
    float mscale = find_node(program, SERVERD_OP_ROPE, 0)->attributes.rope.mscale;
    program_unref(program);
    buffer_deinit(&bytes);
    gguf_writer_deinit(&w);
    return mscale;
}

static void yarn_scales_by_the_factor_unless_the_model_divides_it_out(void **state)
{
    (void)state;
    assert_true(fabsf(yarn_mscale(0.0f) - 1.1386294f) < 1e-6f); /* 1 + 0.1 ln 4 */
    assert_true(yarn_mscale(1.0f) == 1.0f);
}

/* ---- refusals ------------------------------------------------------------------------------ */

static void an_unknown_architecture_is_named_with_the_known_ones(void **state)
{
    (void)state;
    struct gguf_writer w;
    tiny_model_write(&w, "general.architecture");
    gguf_put_string(&w, "general.architecture", "mamba");
    expect(&w, SERVERD_UNSUPPORTED, "unknown architecture \"mamba\"; supported are llama");
}

static void each_needed_key_and_tensor_is_missed_by_name(void **state)
{
    (void)state;
    static const char *const names[] = {
        "general.architecture",
        "llama.block_count",
        "llama.embedding_length",
        "llama.context_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
        "tokenizer.ggml.tokens",
        "token_embd.weight",
        "output_norm.weight",
        "blk.0.attn_norm.weight",
        "blk.0.attn_q.weight",
        "blk.0.attn_k.weight",
        "blk.0.attn_v.weight",
        "blk.0.attn_output.weight",
        "blk.0.ffn_norm.weight",
        "blk.0.ffn_up.weight",
        "blk.0.ffn_down.weight",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct gguf_writer w;
        char text[96] = "";
        (void)snprintf(text, sizeof text, "%s is missing", names[i]);
        tiny_model_write(&w, names[i]);
        expect(&w, SERVERD_CORRUPT, text);
    }
}

static void each_tensor_of_another_shape_is_refused_with_both_shapes(void **state)
{
    (void)state;
    static const struct {
        const char *name, *needed;
    } tensors[] = {
        {"output_norm.weight", "[8] is needed"},
        {"blk.0.attn_norm.weight", "[8] is needed"},
        {"blk.0.attn_q.weight", "[8, 8] is needed"},
        {"blk.0.attn_k.weight", "[4, 8] is needed"},
        {"blk.0.attn_v.weight", "[4, 8] is needed"},
        {"blk.0.attn_output.weight", "[8, 8] is needed"},
        {"blk.0.ffn_gate.weight", "[16, 8] is needed"},
        {"blk.0.ffn_up.weight", "[16, 8] is needed"},
        {"blk.0.ffn_down.weight", "[8, 16] is needed"},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        struct gguf_writer w;
        tiny_model_write(&w, tensors[i].name);
        tiny_put_tensor(&w, tensors[i].name, 3, 5);
        expect(&w, SERVERD_CORRUPT, tensors[i].needed);
        assert_non_null(strstr(err.text, "shape [3, 5]"));
        assert_non_null(strstr(err.text, tensors[i].name));
    }
}

static void a_tensor_that_nothing_reads_is_refused(void **state)
{
    (void)state;
    struct gguf_writer w;
    tiny_model_write(&w, NULL);
    tiny_put_tensor(&w, "blk.0.attn_sinks.weight", 0, 8);
    expect(&w, SERVERD_UNSUPPORTED, "blk.0.attn_sinks.weight is not part of architecture llama");
}

static void sizes_out_of_bounds_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        uint32_t value;
        const char *text;
    } cases[] = {
        {"llama.block_count", 0, "0, 1.."},
        {"llama.block_count", 5000, "5000, 1..1024"},
        {"llama.embedding_length", UINT32_MAX, "4294967295"},
        {"llama.context_length", 0, "0, 1.."},
        {"llama.attention.head_count", 0, "0, 1.."},
        {"llama.attention.head_count_kv", 3, "2 heads do not share 3 KV heads"},
        {"tokenizer.ggml.bos_token_id", 4, "4, 0..3"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gguf_writer w;
        tiny_model_write(&w, cases[i].key);
        gguf_put_u32(&w, cases[i].key, cases[i].value);
        expect(&w, SERVERD_CORRUPT, cases[i].text);
        assert_non_null(strstr(err.text, cases[i].key));
    }
}

static void features_that_would_change_the_text_are_refused(void **state)
{
    (void)state;
    struct gguf_writer w;
    tiny_model_write(&w, NULL);
    gguf_put_u32(&w, "llama.expert_count", 8);
    expect(&w, SERVERD_UNSUPPORTED, "expert_count: 8");
    tiny_model_write(&w, NULL);
    gguf_put_string(&w, "llama.rope.scaling.type", "spiral");
    expect(&w, SERVERD_UNSUPPORTED, "unknown scaling \"spiral\"");
    tiny_model_write(&w, NULL);
    gguf_put_bool(&w, "llama.attention.causal", false);
    expect(&w, SERVERD_UNSUPPORTED, "attention.causal: false");
    tiny_model_write(&w, NULL);
    gguf_put_string(&w, "general.type", "adapter");
    expect(&w, SERVERD_UNSUPPORTED, "\"adapter\"");
    tiny_model_write(&w, "tokenizer.ggml.model");
    gguf_put_string(&w, "tokenizer.ggml.model", "rwkv");
    expect(&w, SERVERD_UNSUPPORTED, "unknown tokenizer \"rwkv\"");
}

static void numbers_that_are_not_finite_are_refused(void **state)
{
    (void)state;
    struct gguf_writer w;
    tiny_model_write(&w, "llama.attention.layer_norm_rms_epsilon");
    gguf_put_f32(&w, "llama.attention.layer_norm_rms_epsilon", NAN);
    expect(&w, SERVERD_CORRUPT, "layer_norm_rms_epsilon");
    tiny_model_write(&w, NULL);
    gguf_put_f32(&w, "llama.rope.freq_base", INFINITY);
    expect(&w, SERVERD_CORRUPT, "rope.freq_base");
    tiny_model_write(&w, "output_norm.weight");
    float bad[8] = {1, 1, NAN, 1, 1, 1, 1, 1};
    gguf_put_tensor(&w, "output_norm.weight", DTYPE_F32, 1, (uint64_t[]){8}, bad, sizeof bad);
    expect(&w, SERVERD_CORRUPT, "element 2 is not finite");
}

/* ---- vocabulary ---------------------------------------------------------------------------- */

static void token_arrays_are_as_long_as_the_tokens(void **state)
{
    (void)state;
    static const int32_t types[] = {3, 3, 1, 9};
    static const float scores[] = {0, 0, 0, NAN};
    struct gguf_writer w;
    tiny_model_write(&w, NULL);
    gguf_put_array(&w, "tokenizer.ggml.token_type", SOURCE_I32, 3, types, 12);
    expect(&w, SERVERD_CORRUPT, "needed are 4 integers");
    tiny_model_write(&w, NULL);
    gguf_put_array(&w, "tokenizer.ggml.token_type", SOURCE_I32, 4, types, 16);
    expect(&w, SERVERD_CORRUPT, "token 3 has type 9");
    tiny_model_write(&w, NULL);
    gguf_put_array(&w, "tokenizer.ggml.scores", SOURCE_F32, 4, scores, 16);
    expect(&w, SERVERD_CORRUPT, "item 3 is not a number");
    tiny_model_write(&w, NULL);
    gguf_put_array(&w, "tokenizer.ggml.scores", SOURCE_F32, 2, scores, 8);
    expect(&w, SERVERD_CORRUPT, "2 items for 4 tokens");
}

static void a_file_of_keys_gives_vocabulary_and_templates(void **state)
{
    (void)state;
    struct gguf_writer w;
    struct buffer bytes;
    tiny_model_write(&w, NULL);
    gguf_put_string(&w, "tokenizer.chat_template.tool_use", "{{ tools }}");
    gguf_put_f32(&w, "general.sampling.temp", 0.5f);
    buffer_init(&bytes, 1 * MIB);
    gguf_writer_finish(&w, &bytes);
    struct memory_file file = memory_file_create();
    memory_file_write(&file, bytes.data, bytes.len);
    struct program *program = NULL;
    struct compile_options options = {.path = file.path, .vocabulary_only = true};
    assert_int_equal(compile_model(&options, &program, &err), SERVERD_OK);
    assert_int_equal(program->graph.n_nodes, 0);
    assert_int_equal(program->vocabulary.n_tokens, 4);
    assert_memory_equal(program->vocabulary.token[1].bytes, "</s>", 4);
    assert_int_equal(program->vocabulary.bos, 0);
    assert_int_equal(program->vocabulary.cls, -1);
    assert_string_equal(program_find_template(program, "default")->source, "{{ messages }}");
    assert_string_equal(program_find_template(program, "tool_use")->source, "{{ tools }}");
    assert_true(program->sampling.has_temperature && program->sampling.temperature == 0.5f);
    assert_false(program->sampling.has_top_k);
    program_unref(program);
    memory_file_close(&file);
    buffer_deinit(&bytes);
    gguf_writer_deinit(&w);
}

static void rope_divisors_are_above_zero_and_as_many_as_pairs(void **state)
{
    (void)state;
    struct gguf_writer w;
    tiny_model_write(&w, NULL);
    tiny_put_tensor(&w, "rope_freqs.weight", 0, 3);
    expect(&w, SERVERD_CORRUPT, "rope_freqs.weight: 3 elements");
    tiny_model_write(&w, NULL);
    tiny_put_tensor(&w, "rope_freqs.weight", 0, 2); /* zeros */
    expect(&w, SERVERD_CORRUPT, "a finite number above 0");
}

/* Files of these models often lack add_bos_token, and answer poorly without a BOS. */
static void some_pretokenizers_mean_a_bos_unless_a_key_says_otherwise(void **state)
{
    (void)state;
    static const struct {
        const char *pre;
        bool adds_bos;
    } rows[] = {{"gpt-2", false},  {"qwen2", false},  {"llama-bpe", true}, {"llama3", true},
                {"pixtral", true}, {"falcon3", true}, {"lfm2", true},      {"tekken", true}};
    for (size_t i = 0; i < 2 * sizeof rows / sizeof *rows; i++) {
        struct gguf_writer w;
        struct buffer bytes;
        struct program *program;
        const bool has_key = i % 2;
        buffer_init(&bytes, 64 * MIB);
        tiny_model_write(&w, "tokenizer.ggml.pre");
        gguf_put_string(&w, "tokenizer.ggml.pre", rows[i / 2].pre);
        if (has_key)
            gguf_put_bool(&w, "tokenizer.ggml.add_bos_token", !rows[i / 2].adds_bos);
        gguf_writer_finish(&w, &bytes);
        gguf_writer_deinit(&w);
        if (compile_bytes(bytes.data, bytes.len, &program, &err))
            fail_msg("%s: %s", rows[i / 2].pre, err.text);
        if (program->vocabulary.adds_bos != (rows[i / 2].adds_bos != has_key))
            fail_msg("%s", rows[i / 2].pre);
        program_unref(program);
        buffer_deinit(&bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture_becomes_a_program),
        cmocka_unit_test(gemma3_has_windows_but_in_every_sixth_layer_and_a_rope_for_each),
        cmocka_unit_test(the_graph_of_gemma2_caps_scores_and_logits),
        cmocka_unit_test(longrope_keeps_both_tables),
        cmocka_unit_test(tied_weights_are_one_constant),
        cmocka_unit_test(yarn_scales_by_the_factor_unless_the_model_divides_it_out),
        cmocka_unit_test(an_unknown_architecture_is_named_with_the_known_ones),
        cmocka_unit_test(each_needed_key_and_tensor_is_missed_by_name),
        cmocka_unit_test(each_tensor_of_another_shape_is_refused_with_both_shapes),
        cmocka_unit_test(a_tensor_that_nothing_reads_is_refused),
        cmocka_unit_test(sizes_out_of_bounds_are_refused),
        cmocka_unit_test(features_that_would_change_the_text_are_refused),
        cmocka_unit_test(numbers_that_are_not_finite_are_refused),
        cmocka_unit_test(token_arrays_are_as_long_as_the_tokens),
        cmocka_unit_test(a_file_of_keys_gives_vocabulary_and_templates),
        cmocka_unit_test(some_pretokenizers_mean_a_bos_unless_a_key_says_otherwise),
        cmocka_unit_test(rope_divisors_are_above_zero_and_as_many_as_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
