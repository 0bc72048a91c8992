/* Hugging Face folders: every class computes what its GGUF form computes, in every type, in one
 * file and in shards; what is not known or not right is refused by name. */
#include "base/buffer.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "compiler/compile.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "runtime/runtime.h"
#include "support/synthetic_folder.h"
#include "support/synthetic_program.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_TOKENS = 40, MAX_PAGES = 4 };

static serverd_error err;

/* ---- folders ------------------------------------------------------------------------------- */

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/test_hf_XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static void path_of(const char *name, char out[256])
{
    (void)snprintf(out, 256, "%s/%s", folder, name);
}

static void write_text(const char *name, const char *text)
{
    char path[256];
    path_of(name, path);
    assert_int_equal(file_write_atomic(path, text, strlen(text), &err), SERVERD_OK);
}

static void remove_file(const char *name)
{
    char path[256];
    path_of(name, path);
    assert_int_equal(unlink(path), 0);
}

/* Puts `to` in the place of the first `from`. */
static void edit(const char *name, const char *from, const char *to)
{
    char path[256], *text;
    size_t n;
    path_of(name, path);
    assert_int_equal(file_read(path, 1 * MIB, &text, &n, &err), SERVERD_OK);
    const char *at = strstr(text, from);
    if (!at)
        fail_msg("%s has no %s", name, from);
    struct buffer b;
    buffer_init(&b, 2 * MIB);
    buffer_append(&b, text, (size_t)(at - text));
    buffer_append_str(&b, to);
    buffer_append_str(&b, at + strlen(from));
    assert_int_equal(file_write_atomic(path, b.data, b.len, &err), SERVERD_OK);
    buffer_deinit(&b);
    free(text);
}

static void fill(const char *arch, const char *dtype, uint32_t n_shards, bool is_unaligned)
{
    const struct synthetic_folder what = {arch, dtype, n_shards, is_unaligned};
    if (synthetic_folder(folder, &what, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
}

static struct program *compile_folder_with(bool keeps_f32)
{
    struct program *program = NULL;
    const struct compile_options options = {.path = folder, .keeps_f32 = keeps_f32};
    if (compile_model(&options, &program, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    return program;
}

static struct program *compile_folder(void)
{
    return compile_folder_with(false);
}

static void expect_refusal(serverd_status code, const char *text)
{
    struct program *program = NULL;
    serverd_status status =
        compile_model(&(struct compile_options){.path = folder}, &program, &err);
    if (status == SERVERD_OK)
        program_unref(program);
    if (status != code || !strstr(err.text, text))
        fail_msg("status %d instead of %d, \"%s\" should say \"%s\"", status, code,
                 status == SERVERD_OK ? "" : err.text, text);
}

/* ---- the same results ---------------------------------------------------------------------- */

/* All logits of a sequence, or its embedding; free(). */
static float *compute(struct program *program, size_t *n)
{
    int32_t token[N_TOKENS], position[N_TOKENS];
    uint32_t row_seq[N_TOKENS] = {0}, rows[N_TOKENS], pages[MAX_PAGES] = {0, 1, 2, 3};
    bool is_encoder = program->config.is_encoder;
    struct worker_pool *pool;
    struct runtime *runtime;
    for (uint32_t i = 0; i < N_TOKENS; i++) {
        token[i] = (int32_t)(hash_mix(i) % program->config.n_vocab);
        position[i] = (int32_t)i;
        rows[i] = i;
    }
    assert_int_equal(worker_pool_create(2, &pool, &err), SERVERD_OK);
    const struct runtime_options options = {.delegates = builtin_delegates,
                                            .n_delegates = n_builtin_delegates,
                                            .device = "cpu",
                                            .pool = pool,
                                            .clock = &system_clock,
                                            .limits = {.max_rows = N_TOKENS,
                                                       .max_logit_rows = N_TOKENS,
                                                       .max_seqs = 1,
                                                       .max_context = 64},
                                            .kv_dtype = DTYPE_F32};
    if (runtime_open(program, &options, &runtime, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    const serverd_batch batch = {.struct_bytes = sizeof batch,
                                 .n_rows = N_TOKENS,
                                 .n_seqs = 1,
                                 .n_logit_rows = is_encoder ? 0 : N_TOKENS,
                                 .token = token,
                                 .position = position,
                                 .row_seq = row_seq,
                                 .page_table = is_encoder ? NULL : pages,
                                 .max_pages = is_encoder ? 0 : MAX_PAGES,
                                 .logit_row = rows};
    *n = (size_t)runtime_output_width(runtime) * (is_encoder ? 1 : N_TOKENS);
    float *out = calloc(*n, sizeof *out);
    assert_non_null(out);
    if (runtime_execute(runtime, &batch, out, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    runtime_close(runtime);
    worker_pool_destroy(pool);
    return out;
}

static double log_sum(const float *x, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)x[i]);
    return log(sum);
}

/* The mean over positions of the divergence of the distributions. */
static double divergence(const float *a, const float *b, uint32_t n_vocab)
{
    double sum = 0;
    for (uint32_t row = 0; row < N_TOKENS; row++, a += n_vocab, b += n_vocab) {
        double za = log_sum(a, n_vocab), zb = log_sum(b, n_vocab);
        for (uint32_t i = 0; i < n_vocab; i++) {
            double la = (double)a[i] - za, lb = (double)b[i] - zb;
            sum += exp(la) * (la - lb);
        }
    }
    return sum / N_TOKENS;
}

/* In llama's folders rows of Q and K stand in another order, in Gemma's the norms without their 1:
 * the same numbers but for the last bits. */
static bool has_same_bits(const char *arch)
{
    return strcmp(arch, "llama") != 0 && strncmp(arch, "gemma", 5) != 0;
}

static void compare(const char *arch, const char *dtype, uint32_t n_shards, bool is_unaligned)
{
    struct program *gguf = synthetic_program(arch, dtype);
    fill(arch, dtype, n_shards, is_unaligned);
    struct program *hf = compile_folder();
    size_t n, m;
    float *a = compute(gguf, &n), *b = compute(hf, &m);
    assert_int_equal(n, m);
    assert_string_equal(hf->config.architecture, arch);
    assert_int_equal(hf->config.context_length, gguf->config.context_length);
    assert_int_equal(hf->config.n_parameters, gguf->config.n_parameters);
    if (has_same_bits(arch) && memcmp(a, b, n * sizeof *a) != 0)
        fail_msg("%s %s in %u files: other bits", arch, dtype, n_shards);
    if (!hf->config.is_encoder && divergence(a, b, hf->config.n_vocab) > 1e-6)
        fail_msg("%s %s: divergence %g", arch, dtype, divergence(a, b, hf->config.n_vocab));
    free(a);
    free(b);
    program_unref(gguf);
    program_unref(hf);
}

static void every_class_computes_what_its_gguf_form_does(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama",  "qwen2", "qwen3", "gemma2",
                                        "gemma3", "phi3",  "bert"};
    static const char *const dtypes[] = {"F32", "F16", "BF16"};
    for (size_t i = 0; i < sizeof archs / sizeof archs[0]; i++)
        for (size_t k = 0; k < sizeof dtypes / sizeof dtypes[0]; k++)
            compare(archs[i], dtypes[k], 1, k == 1);
}

static void linear_layers_of_an_encoder_are_bf16_unless_f32_is_kept(void **state)
{
    (void)state;
    fill("bert", "F32", 1, true);
    struct program *narrow = compile_folder_with(false), *wide = compile_folder_with(true);
    assert_string_equal(narrow->config.quantisation, "BF16");
    assert_string_equal(wide->config.quantisation, "F32");
    int64_t up = program_find_tensor(narrow, "blk.0.ffn_up.weight");
    int64_t table = program_find_tensor(narrow, "token_embd.weight");
    assert_int_equal(narrow->graph.tensors[up].dtype, DTYPE_BF16);
    assert_int_equal(narrow->graph.tensors[table].dtype, DTYPE_F32);
    size_t n, m;
    float *a = compute(narrow, &n), *b = compute(wide, &m);
    double dot = 0;
    for (size_t i = 0; i < n; i++)
        dot += (double)a[i] * (double)b[i];
    assert_true(memcmp(a, b, n * sizeof *a) != 0);
    assert_true(dot > 0.9999);
    free(a);
    free(b);
    program_unref(narrow);
    program_unref(wide);
}

static void shards_are_one_model(void **state)
{
    (void)state;
    compare("qwen3", "BF16", 3, false);
    compare("bert", "F16", 5, true);
}

/* ---- config.json --------------------------------------------------------------------------- */

static void a_class_that_is_not_known_is_refused_with_the_known_ones(void **state)
{
    (void)state;
    fill("llama", "F32", 1, false);
    edit("config.json", "LlamaForCausalLM", "MambaForCausalLM");
    expect_refusal(SERVERD_UNSUPPORTED, "unknown class \"MambaForCausalLM\"; supported are Llama");
}

static void members_that_change_the_result_are_not_passed_over(void **state)
{
    (void)state;
    static const struct {
        const char *member, *text;
        serverd_status code;
    } cases[] = {
        {"\"quantization_config\": {\"quant_method\": \"aqlm\"}", "quant_method: \"aqlm\"",
         SERVERD_UNSUPPORTED},
        {"\"hidden_act\": \"relu\"", "hidden_act: \"relu\"", SERVERD_UNSUPPORTED},
        {"\"rope_parameters\": {\"rope_type\": \"dynamic\"}", "rope_type: \"dynamic\"",
         SERVERD_UNSUPPORTED},
        {"\"rope_parameters\": {\"rope_type\": \"linear\"}", "rope_parameters.factor is missing",
         SERVERD_CORRUPT},
        {"\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": \"8\"}",
         "rope_parameters.factor: found \"8\", needed is a number", SERVERD_CORRUPT},
        {"\"rope_parameters\": {\"rope_type\": \"longrope\", \"short_factor\": [1, 2]}",
         "short_factor: found an array of 2", SERVERD_CORRUPT},
        {"\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 4, \"truncate\": false}",
         "truncate", SERVERD_UNSUPPORTED},
        {"\"rope_local_base_freq\": 5000", "a rope base for local layers", SERVERD_UNSUPPORTED},
        {"\"layer_types\": [\"full_attention\"]", "layer_types: 1 items for 2", SERVERD_CORRUPT},
        {"\"layer_types\": [\"full_attention\", \"linear_attention\"]",
         "layer_types[1]: \"linear_attention\"", SERVERD_UNSUPPORTED},
        {"\"partial_rotary_factor\": 0.01", "elements of a head are rotated", SERVERD_CORRUPT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char put[256];
        fill("qwen2", "F32", 1, false);
        (void)snprintf(put, sizeof put, "\"rope_theta\": 10000, %s", cases[i].member);
        edit("config.json", "\"rope_theta\": 10000", put);
        expect_refusal(cases[i].code, cases[i].text);
    }
}

static void sizes_of_another_type_or_out_of_range_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *text;
    } cases[] = {
        {"\"hidden_size\": 64", "\"hidden_size\": \"64\"", "hidden_size: found \"64\""},
        {"\"hidden_size\": 64", "\"hidden_size\": -1", "hidden_size: found -1"},
        {"\"hidden_size\": 64", "\"hidden_size\": 1e3", "hidden_size: found 1000"},
        {"\"hidden_size\": 64", "\"x\": 64", "hidden_size is missing"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "blk.2."},
        {"\"intermediate_size\": 96", "\"intermediate_size\": 95", "[95, 64] is needed"},
        {"\"num_attention_heads\": 4", "\"num_attention_heads\": 0", "found 0"},
        {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "do not share"},
        {"\"tie_word_embeddings\": true", "\"tie_word_embeddings\": 1", "true or false"},
        {"\"architectures\": [", "\"architectures\": [\"A\", ", "an array of one class name"},
        {"\"hidden_size\"", "\"hidden_size\": 64, \"hidden_size\"", "duplicate"},
        {"{", "[", "config.json: line"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fill("qwen2", "F32", 1, false);
        edit("config.json", cases[i].from, cases[i].to);
        expect_refusal(SERVERD_CORRUPT, cases[i].text);
    }
}

static const serverd_node *find_node(const struct program *program, serverd_op op, uint32_t layer)
{
    for (uint32_t i = 0; i < program->graph.n_nodes; i++)
        if (program->graph.nodes[i].op == op && program->graph.nodes[i].layer == layer)
            return &program->graph.nodes[i];
    fail_msg("no such node in layer %u", layer);
    return NULL;
}

static void mistral_has_its_window_in_every_layer_and_qwen_from_a_layer_on(void **state)
{
    (void)state;
    fill("llama", "F32", 1, false);
    edit("config.json", "LlamaForCausalLM", "MistralForCausalLM");
    struct program *program = compile_folder();
    assert_int_equal(find_node(program, SERVERD_OP_ATTN, 0)->attributes.attn.window, 4096);
    assert_int_equal(find_node(program, SERVERD_OP_ATTN, 1)->attributes.attn.window, 4096);
    program_unref(program);
    edit("config.json", "\"rope_theta\"", "\"sliding_window\": null, \"rope_theta\"");
    program = compile_folder();
    assert_int_equal(find_node(program, SERVERD_OP_ATTN, 1)->attributes.attn.window, 0);
    program_unref(program);

    fill("qwen2", "F32", 1, false);
    edit("config.json", "\"rope_theta\"",
         "\"sliding_window\": 64, \"max_window_layers\": 1, \"rope_theta\"");
    program = compile_folder();
    assert_int_equal(find_node(program, SERVERD_OP_ATTN, 1)->attributes.attn.window, 0);
    program_unref(program);
    edit("config.json", "\"rope_theta\"", "\"use_sliding_window\": true, \"rope_theta\"");
    program = compile_folder();
    assert_int_equal(find_node(program, SERVERD_OP_ATTN, 0)->attributes.attn.window, 0);
    assert_int_equal(find_node(program, SERVERD_OP_ATTN, 1)->attributes.attn.window, 64);
    program_unref(program);
}

/* The multipliers that the scaling's definition gives for factor 4: 1 + 0.1 ln 4 by default. */
static void yarn_has_the_multiplier_that_is_stated(void **state)
{
    (void)state;
    static const struct {
        const char *members;
        double mscale;
    } cases[] = {{"", 1.1386294361119891},
                 {", \"attention_factor\": 1.25", 1.25},
                 {", \"mscale\": 1.0, \"mscale_all_dim\": 1.0", 1.0},
                 {", \"mscale\": 0.707, \"mscale_all_dim\": 1.0", 0.96432781617878}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char put[256];
        fill("qwen2", "F32", 1, false);
        (void)snprintf(put, sizeof put,
                       "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0, "
                       "\"original_max_position_embeddings\": 2048%s}, \"rope_theta\"",
                       cases[i].members);
        edit("config.json", "\"rope_theta\"", put);
        struct program *program = compile_folder();
        double mscale = (double)find_node(program, SERVERD_OP_ROPE, 0)->attributes.rope.mscale;
        if (fabs(mscale - cases[i].mscale) > 1e-6)
            fail_msg("%s: %.9g instead of %.9g", cases[i].members, mscale, cases[i].mscale);
        program_unref(program);
    }
}

/* ---- weights ------------------------------------------------------------------------------- */

static void a_tensor_that_is_not_known_is_refused_by_name(void **state)
{
    (void)state;
    fill("qwen2", "F32", 1, false);
    edit("config.json", "Qwen2ForCausalLM", "LlamaForCausalLM"); /* takes biases, too */
    program_unref(compile_folder());
    fill("qwen3", "F32", 1, false);
    edit("config.json", "Qwen3ForCausalLM", "LlamaForCausalLM");
    expect_refusal(SERVERD_UNSUPPORTED, "attn_k_norm.weight is not part of");
    fill("bert", "F32", 1, false);
    edit("config.json", "BertModel", "LlamaForCausalLM");
    edit("config.json", "layer_norm_eps", "rms_norm_eps");
    expect_refusal(SERVERD_UNSUPPORTED, "is not part of LlamaForCausalLM");
}

static void pickles_and_empty_folders_are_refused(void **state)
{
    (void)state;
    fill("qwen2", "F32", 1, false);
    write_text("model.safetensors", "PK\3\4 and so on, much longer than eight bytes");
    expect_refusal(SERVERD_UNSUPPORTED, "a pickle file");
    write_text("model.safetensors", "PK");
    expect_refusal(SERVERD_CORRUPT, "not a safetensors file");
    remove_file("model.safetensors");
    write_text("pytorch_model.bin", "x");
    expect_refusal(SERVERD_UNSUPPORTED, "convert the model to safetensors");
    remove_file("pytorch_model.bin");
    expect_refusal(SERVERD_INVALID, "neither model.safetensors nor");
    remove_file("config.json");
    expect_refusal(SERVERD_INVALID, "config.json: cannot open");
}

static void indexes_that_do_not_fit_their_files_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *text;
        serverd_status code;
    } cases[] = {
        {"model-00001", "../model-00001", "the plain name", SERVERD_CORRUPT},
        {"model-00001", "/etc/model-00001", "the plain name", SERVERD_CORRUPT},
        {"\"model-00001-of-00002.safetensors\"", "\".safetensors\"", "the plain name",
         SERVERD_CORRUPT},
        {"\"model-00001-of-00002.safetensors\"", "7", "the plain name", SERVERD_CORRUPT},
        {"model-00001", "model-00007", "the index says model-00007", SERVERD_CORRUPT},
        {"model-00001", "model-00002", "the index says model-00002", SERVERD_CORRUPT},
        {"\"model.layers.0.", "\"model.layers.9.", "the index says none", SERVERD_CORRUPT},
        {"\"model.norm.weight\"",
         "\"x\": \"model-00001-of-00002.safetensors\", "
         "\"model.norm.weight\"",
         "tensors are named", SERVERD_CORRUPT},
        {"\"model.norm.weight\"",
         "\"model.norm.weight\": \"model-00002-of-00002.safetensors\", "
         "\"model.norm.weight\"",
         "duplicate", SERVERD_CORRUPT},
        {"\"weight_map\"", "\"map\"", "weight_map is missing", SERVERD_CORRUPT},
        {"\"weight_map\": {", "\"weight_map\": [], \"x\": {", "needed is an object",
         SERVERD_CORRUPT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fill("qwen2", "F32", 2, false);
        edit("model.safetensors.index.json", cases[i].from, cases[i].to);
        expect_refusal(cases[i].code, cases[i].text);
    }
    fill("qwen2", "F32", 2, false);
    remove_file("model-00002-of-00002.safetensors");
    expect_refusal(SERVERD_INVALID, "model-00002-of-00002.safetensors: cannot open");
}

/* ---- pooling and texts --------------------------------------------------------------------- */

#define MODULES                                                                                    \
    "[{\"idx\": 0, \"type\": \"sentence_transformers.models.Transformer\", \"path\": \"\"},"       \
    " {\"idx\": 1, \"type\": \"sentence_transformers.models.Pooling\", \"path\": \"1_Pooling\"}]"

static void pooling_and_the_longest_input_are_those_of_the_modules(void **state)
{
    (void)state;
    char path[256];
    fill("bert", "F32", 1, false);
    path_of("1_Pooling", path);
    assert_int_equal(mkdir(path, 0700), 0);
    write_text("modules.json", MODULES);
    write_text("sentence_bert_config.json", "{\"max_seq_length\": 100}");
    write_text("1_Pooling/config.json",
               "{\"pooling_mode_mean_tokens\": false, \"pooling_mode_cls_token\": true}");
    struct program *program = compile_folder();
    assert_int_equal(program->config.pooling, SERVERD_POOL_CLS);
    assert_int_equal(program->config.context_length, 100);
    program_unref(program);

    write_text("1_Pooling/config.json", "{\"pooling_mode_max_tokens\": true}");
    expect_refusal(SERVERD_UNSUPPORTED, "pooling_mode_max_tokens is not supported");
    write_text("1_Pooling/config.json",
               "{\"pooling_mode_mean_tokens\": true, \"pooling_mode_cls_token\": true}");
    expect_refusal(SERVERD_UNSUPPORTED, "together are not supported");
    write_text("1_Pooling/config.json", "{}");
    expect_refusal(SERVERD_CORRUPT, "no pooling_mode_");
    write_text("modules.json", "[{\"type\": \"sentence_transformers.models.Dense\"}]");
    expect_refusal(SERVERD_UNSUPPORTED, "Dense\" is not supported");
    write_text("modules.json", "[{\"type\": \"a.Pooling\", \"path\": \"../x\"}]");
    expect_refusal(SERVERD_CORRUPT, "a plain name");
}

static void templates_and_sampling_are_imported(void **state)
{
    (void)state;
    char path[256];
    fill("qwen2", "F32", 1, false);
    write_text("tokenizer_config.json",
               "{\"chat_template\": [{\"name\": \"default\", \"template\": \"A\"}, {\"name\": "
               "\"tool_use\", \"template\": \"B\"}]}");
    path_of("additional_chat_templates", path);
    assert_int_equal(mkdir(path, 0700), 0);
    write_text("additional_chat_templates/rag.jinja", "C");
    write_text("additional_chat_templates/notes.txt", "D");
    write_text("generation_config.json",
               "{\"do_sample\": true, \"temperature\": 0.7, \"top_k\": 20}");
    struct program *program = compile_folder();
    assert_int_equal(program->n_templates, 3);
    assert_string_equal(program_find_template(program, "default")->source, "A");
    assert_string_equal(program_find_template(program, "tool_use")->source, "B");
    assert_string_equal(program_find_template(program, "rag")->source, "C");
    assert_true(program->sampling.has_temperature && program->sampling.temperature == 0.7f);
    assert_true(program->sampling.has_top_k && program->sampling.top_k == 20);
    assert_false(program->sampling.has_top_p);
    program_unref(program);

    write_text("chat_template.jinja", "E");
    write_text("generation_config.json", "{\"do_sample\": false, \"temperature\": 0.7}");
    program = compile_folder();
    assert_int_equal(program->n_templates, 2);
    assert_string_equal(program_find_template(program, "default")->source, "E");
    assert_false(program->sampling.has_temperature);
    program_unref(program);

    write_text("generation_config.json", "{\"temperature\": -1}");
    expect_refusal(SERVERD_CORRUPT, "temperature: found -1");
    write_text("additional_chat_templates/default.jinja", "F");
    expect_refusal(SERVERD_CORRUPT, "chat template default is there twice");
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, drop_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(every_class_computes_what_its_gguf_form_does),
        IN_FOLDER(a_class_that_is_not_known_is_refused_with_the_known_ones),
        IN_FOLDER(members_that_change_the_result_are_not_passed_over),
        IN_FOLDER(sizes_of_another_type_or_out_of_range_are_refused),
        IN_FOLDER(mistral_has_its_window_in_every_layer_and_qwen_from_a_layer_on),
        IN_FOLDER(yarn_has_the_multiplier_that_is_stated),
        IN_FOLDER(a_tensor_that_is_not_known_is_refused_by_name),
        IN_FOLDER(pickles_and_empty_folders_are_refused),
        IN_FOLDER(indexes_that_do_not_fit_their_files_are_refused),
        IN_FOLDER(pooling_and_the_longest_input_are_those_of_the_modules),
        IN_FOLDER(templates_and_sampling_are_imported),
        IN_FOLDER(shards_are_one_model),
        IN_FOLDER(linear_layers_of_an_encoder_are_bf16_unless_f32_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
