#include "tiny_model.h"

#include "base/limits.h"
#include "compiler/gguf_reader.h"
#include "program/dtype.h"

#include <stdlib.h>
#include <string.h>

enum { N_EMBD = 8, N_FF = 16, N_VOCAB = 4 };

void tiny_put_tensor(struct gguf_writer *w, const char *name, uint64_t rows, uint64_t columns)
{
    static const float zeros[1024];
    uint64_t dims[] = {rows, columns};
    size_t n = (size_t)((rows ? rows : 1) * columns);
    gguf_put_tensor(w, name, DTYPE_F32, rows ? 2 : 1, rows ? dims : dims + 1, zeros,
                    n <= 1024 ? n * sizeof *zeros : 0);
}

static void put_tokens(struct gguf_writer *w)
{
    static const char *const tokens[N_VOCAB] = {"<s>", "</s>", "a", "b"};
    struct buffer b;
    buffer_init(&b, 1 * MIB);
    for (size_t i = 0; i < N_VOCAB; i++)
        gguf_append_string(&b, tokens[i], strlen(tokens[i]));
    gguf_put_array(w, "tokenizer.ggml.tokens", SOURCE_STRING, N_VOCAB, b.data, b.len);
    buffer_deinit(&b);
}

static void put_sizes(struct gguf_writer *w, const char *or_null)
{
    static const struct {
        const char *name;
        uint32_t value;
    } sizes[] = {
        {"llama.block_count", 1},           {"llama.embedding_length", N_EMBD},
        {"llama.context_length", 32},       {"llama.feed_forward_length", N_FF},
        {"llama.attention.head_count", 2},  {"llama.attention.head_count_kv", 1},
        {"tokenizer.ggml.bos_token_id", 0}, {"tokenizer.ggml.eos_token_id", 1},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (!or_null || strcmp(or_null, sizes[i].name) != 0)
            gguf_put_u32(w, sizes[i].name, sizes[i].value);
}

static void put_tensors(struct gguf_writer *w, const char *or_null)
{
    static const struct {
        const char *name;
        uint64_t rows, columns;
    } tensors[] = {
        {"token_embd.weight", N_VOCAB, N_EMBD},       {"output_norm.weight", 0, N_EMBD},
        {"blk.0.attn_norm.weight", 0, N_EMBD},        {"blk.0.attn_q.weight", N_EMBD, N_EMBD},
        {"blk.0.attn_k.weight", N_EMBD / 2, N_EMBD},  {"blk.0.attn_v.weight", N_EMBD / 2, N_EMBD},
        {"blk.0.attn_output.weight", N_EMBD, N_EMBD}, {"blk.0.ffn_norm.weight", 0, N_EMBD},
        {"blk.0.ffn_gate.weight", N_FF, N_EMBD},      {"blk.0.ffn_up.weight", N_FF, N_EMBD},
        {"blk.0.ffn_down.weight", N_EMBD, N_FF},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++)
        if (!or_null || strcmp(or_null, tensors[i].name) != 0)
            tiny_put_tensor(w, tensors[i].name, tensors[i].rows, tensors[i].columns);
}

static bool is_left_out(const char *or_null, const char *name)
{
    return or_null && strcmp(or_null, name) == 0;
}

void tiny_model_write(struct gguf_writer *w, const char *or_null)
{
    gguf_writer_init(w);
    if (!is_left_out(or_null, "general.architecture"))
        gguf_put_string(w, "general.architecture", "llama");
    put_sizes(w, or_null);
    if (!is_left_out(or_null, "llama.attention.layer_norm_rms_epsilon"))
        gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (!is_left_out(or_null, "tokenizer.ggml.model"))
        gguf_put_string(w, "tokenizer.ggml.model", "gpt2");
    if (!is_left_out(or_null, "tokenizer.ggml.pre"))
        gguf_put_string(w, "tokenizer.ggml.pre", "gpt-2");
    if (!is_left_out(or_null, "tokenizer.ggml.tokens"))
        put_tokens(w);
    gguf_put_string(w, "tokenizer.chat_template", "{{ messages }}");
    put_tensors(w, or_null);
}

serverd_status compile_writer(struct gguf_writer *w, serverd_error *err)
{
    struct buffer bytes;
    buffer_init(&bytes, 64 * MIB);
    gguf_writer_finish(w, &bytes);
    struct program *program = NULL;
    serverd_status status = compile_bytes(bytes.data, bytes.len, &program, err);
    program_unref(program);
    buffer_deinit(&bytes);
    gguf_writer_deinit(w);
    return status;
}
