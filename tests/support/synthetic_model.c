#include "support/synthetic_model.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "program/dtype.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 32, MAX_TENSORS = 256, MAX_VOCAB = 2048 };

enum key_type {
    KEY_U32 = 4,
    KEY_I32 = 5,
    KEY_F32 = 6,
    KEY_BOOL = 7,
    KEY_STRING = 8,
    KEY_ARRAY = 9
};

struct shape {
    const char *arch;
    uint32_t n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim, context;
    bool has_qkv_bias, has_head_norms, has_post_norms, is_fused, is_encoder, is_tied, is_spm;
};

static const struct shape shapes[] = {
    {"llama", 2, 64, 96, 4, 2, 16, 8192},
    {"mistral3", 2, 64, 96, 4, 2, 16, 8192, .is_tied = true},
    {"qwen2", 2, 64, 96, 4, 2, 16, 8192, .has_qkv_bias = true, .is_tied = true},
    {"qwen3", 2, 64, 96, 4, 2, 32, 8192, .has_head_norms = true},
    {"gemma2", 4, 64, 96, 4, 2, 32, 8192, .has_post_norms = true, .is_tied = true, .is_spm = true},
    {"gemma3", 7, 64, 96, 4, 1, 32, 8192, .has_head_norms = true, .has_post_norms = true,
     .is_tied = true, .is_spm = true},
    {"phi3", 2, 64, 96, 4, 2, 16, 8192, .is_fused = true, .is_spm = true},
    {"bert", 2, 64, 96, 4, 4, 16, 512, .has_qkv_bias = true, .is_encoder = true},
};

struct tensor_record {
    char name[64];
    uint32_t dtype, n_dims;
    uint64_t ne[2];
    uint64_t offset, bytes;
};

struct writer {
    const struct shape *shape;
    struct buffer keys, data;
    uint32_t n_keys;
    struct tensor_record tensors[MAX_TENSORS];
    uint32_t n_tensors;
    uint32_t dtype; /* of matrices */
    uint64_t random;
    char vocab[MAX_VOCAB][24];
    int32_t token_type[MAX_VOCAB];
    uint32_t n_vocab;
    struct buffer merges; /* strings as the file holds them */
    uint32_t n_merges;
};

/* ---- keys --------------------------------------------------------------------------------------
 */

static void put_u32(struct buffer *out, uint32_t x)
{
    buffer_append(out, &x, sizeof x);
}

static void put_u64(struct buffer *out, uint64_t x)
{
    buffer_append(out, &x, sizeof x);
}

static void put_string(struct buffer *out, const char *s)
{
    put_u64(out, strlen(s));
    buffer_append_str(out, s);
}

static void put_key(struct writer *w, const char *name, enum key_type type)
{
    char full[128];
    bool is_own = strncmp(name, "general.", 8) != 0 && strncmp(name, "tokenizer.", 10) != 0;
    (void)snprintf(full, sizeof full, "%s%s%s", is_own ? w->shape->arch : "", is_own ? "." : "",
                   name);
    put_string(&w->keys, full);
    put_u32(&w->keys, type);
    w->n_keys++;
}

static void key_u32(struct writer *w, const char *name, uint32_t value)
{
    put_key(w, name, KEY_U32);
    put_u32(&w->keys, value);
}

static void key_f32(struct writer *w, const char *name, float value)
{
    put_key(w, name, KEY_F32);
    buffer_append(&w->keys, &value, sizeof value);
}

static void key_bool(struct writer *w, const char *name, bool value)
{
    put_key(w, name, KEY_BOOL);
    buffer_append_char(&w->keys, value ? 1 : 0);
}

static void key_string(struct writer *w, const char *name, const char *value)
{
    put_key(w, name, KEY_STRING);
    put_string(&w->keys, value);
}

static void key_array(struct writer *w, const char *name, enum key_type type, uint64_t n)
{
    put_key(w, name, KEY_ARRAY);
    put_u32(&w->keys, type);
    put_u64(&w->keys, n);
}

/* ---- vocabularies ------------------------------------------------------------------------------
 */

static uint32_t add_token(struct writer *w, int32_t type, const char *text)
{
    if (w->n_vocab == MAX_VOCAB)
        return w->n_vocab - 1;
    (void)snprintf(w->vocab[w->n_vocab], sizeof w->vocab[0], "%s", text);
    w->token_type[w->n_vocab] = type;
    return w->n_vocab++;
}

/* A byte as byte-level BPE writes it: printable Latin-1 as itself, the others from U+0100 on. */
static void byte_text(unsigned byte, char out[4])
{
    unsigned code = byte, next = 0x100;
    for (unsigned b = 0; b <= byte; b++) {
        bool is_plain = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        if (b == byte && !is_plain)
            code = next;
        next += !is_plain;
    }
    if (code < 0x80) {
        out[0] = (char)code;
        out[1] = '\0';
    } else {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        out[2] = '\0';
    }
}

static void add_merge(struct writer *w, const char *left, const char *right)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%s %s", left, right);
    put_string(&w->merges, text);
    w->n_merges++;
    (void)snprintf(text, sizeof text, "%s%s", left, right);
    (void)add_token(w, 1, text);
}

static void bpe_vocabulary(struct writer *w)
{
    char text[4], letter[2] = "a", second[2] = "a";
    (void)add_token(w, 3, "<|endoftext|>");
    (void)add_token(w, 3, "<|im_start|>");
    (void)add_token(w, 3, "<|im_end|>");
    for (unsigned b = 0; b < 256; b++) {
        byte_text(b, text);
        (void)add_token(w, 1, text);
    }
    byte_text(' ', text);
    for (letter[0] = 'a'; letter[0] <= 'z'; letter[0]++)
        add_merge(w, text, letter);
    for (letter[0] = 'a'; letter[0] <= 'z'; letter[0]++)
        for (second[0] = 'a'; second[0] <= 'z'; second[0]++)
            add_merge(w, letter, second);
    key_string(w, "tokenizer.ggml.model", "gpt2");
    key_string(w, "tokenizer.ggml.pre", "gpt-2");
    key_u32(w, "tokenizer.ggml.bos_token_id", 1);
    key_u32(w, "tokenizer.ggml.eos_token_id", 2);
    key_bool(w, "tokenizer.ggml.add_bos_token", false);
}

static void spm_vocabulary(struct writer *w)
{
    char text[24];
    (void)add_token(w, 3, "<pad>");
    (void)add_token(w, 3, "<eos>");
    (void)add_token(w, 3, "<bos>");
    (void)add_token(w, 2, "<unk>");
    (void)add_token(w, 3, "<|im_start|>");
    (void)add_token(w, 3, "<|im_end|>");
    for (unsigned b = 0; b < 256; b++) {
        (void)snprintf(text, sizeof text, "<0x%02X>", b);
        (void)add_token(w, 6, text);
    }
    (void)add_token(w, 1, "\xe2\x96\x81");
    for (char c = '!'; c <= '~'; c++) {
        (void)snprintf(text, sizeof text, "%c", c);
        (void)add_token(w, 1, text);
    }
    for (char c = 'a'; c <= 'z'; c++) {
        (void)snprintf(text, sizeof text, "\xe2\x96\x81%c", c);
        (void)add_token(w, 1, text);
    }
    for (char c = 'a'; c <= 'z'; c++) {
        for (char d = 'a'; d <= 'z'; d++) {
            (void)snprintf(text, sizeof text, "%c%c", c, d);
            (void)add_token(w, 1, text);
        }
    }
    key_string(w, "tokenizer.ggml.model", "llama");
    key_string(w, "tokenizer.ggml.pre", "default");
    key_u32(w, "tokenizer.ggml.bos_token_id", 2);
    key_u32(w, "tokenizer.ggml.eos_token_id", 1);
    key_u32(w, "tokenizer.ggml.unknown_token_id", 3);
    key_u32(w, "tokenizer.ggml.padding_token_id", 0);
    key_bool(w, "tokenizer.ggml.add_bos_token", true);
    key_bool(w, "tokenizer.ggml.add_space_prefix", false);
}

static void wordpiece_vocabulary(struct writer *w)
{
    static const char *const special[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    char text[24];
    for (size_t i = 0; i < 5; i++)
        (void)add_token(w, 3, special[i]);
    for (char c = '!'; c <= '~'; c++) {
        if (c >= 'A' && c <= 'Z')
            continue;
        (void)snprintf(text, sizeof text, "\xe2\x96\x81%c", c);
        (void)add_token(w, 1, text);
        (void)snprintf(text, sizeof text, "%c", c);
        (void)add_token(w, 1, text);
    }
    key_string(w, "tokenizer.ggml.model", "bert");
    key_u32(w, "tokenizer.ggml.padding_token_id", 0);
    key_u32(w, "tokenizer.ggml.unknown_token_id", 1);
    key_u32(w, "tokenizer.ggml.cls_token_id", 2);
    key_u32(w, "tokenizer.ggml.seperator_token_id", 3);
    key_u32(w, "tokenizer.ggml.mask_token_id", 4);
    key_u32(w, "tokenizer.ggml.bos_token_id", 2);
    key_u32(w, "tokenizer.ggml.eos_token_id", 3);
}

#define CHATML                                                                                     \
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"                                \
    "{{ message.content }}<|im_end|>\n{% endfor %}"                                                \
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

static void put_vocabulary(struct writer *w)
{
    if (w->shape->is_encoder)
        wordpiece_vocabulary(w);
    else if (w->shape->is_spm)
        spm_vocabulary(w);
    else
        bpe_vocabulary(w);
    key_array(w, "tokenizer.ggml.tokens", KEY_STRING, w->n_vocab);
    for (uint32_t i = 0; i < w->n_vocab; i++)
        put_string(&w->keys, w->vocab[i]);
    key_array(w, "tokenizer.ggml.token_type", KEY_I32, w->n_vocab);
    buffer_append(&w->keys, w->token_type, w->n_vocab * sizeof w->token_type[0]);
    if (w->n_merges > 0) {
        key_array(w, "tokenizer.ggml.merges", KEY_STRING, w->n_merges);
        buffer_append(&w->keys, buffer_str(&w->merges), w->merges.len);
    }
    if (w->shape->is_spm) {
        key_array(w, "tokenizer.ggml.scores", KEY_F32, w->n_vocab);
        for (uint32_t i = 0; i < w->n_vocab; i++) {
            float score = -(float)i;
            buffer_append(&w->keys, &score, sizeof score);
        }
    }
    if (!w->shape->is_encoder)
        key_string(w, "tokenizer.chat_template", CHATML);
}

/* ---- hyper-parameters --------------------------------------------------------------------------
 */

static void put_hparams(struct writer *w)
{
    const struct shape *s = w->shape;
    key_string(w, "general.architecture", s->arch);
    key_string(w, "general.name", s->arch);
    key_u32(w, "block_count", s->n_layers);
    key_u32(w, "context_length", s->context);
    key_u32(w, "embedding_length", s->n_embd);
    key_u32(w, "feed_forward_length", s->n_ff);
    key_u32(w, "attention.head_count", s->n_heads);
    key_u32(w, "attention.head_count_kv", s->n_kv_heads);
    if (s->head_dim * s->n_heads != s->n_embd) {
        key_u32(w, "attention.key_length", s->head_dim);
        key_u32(w, "attention.value_length", s->head_dim);
    }
    key_f32(w, s->is_encoder ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon",
            s->is_encoder ? 1e-12f : 1e-6f);
    if (s->is_encoder) {
        key_bool(w, "attention.causal", false);
        key_u32(w, "pooling_type", 1);
    } else {
        key_f32(w, "rope.freq_base", 10000.0f);
    }
}

/* Windows and original contexts are so short that a few dozen tokens reach past them. */
static void put_special_hparams(struct writer *w)
{
    const char *arch = w->shape->arch;
    if (strcmp(arch, "mistral3") == 0) {
        key_string(w, "rope.scaling.type", "yarn");
        key_f32(w, "rope.scaling.factor", 4.0f);
        key_u32(w, "rope.scaling.original_context_length", 16);
        key_f32(w, "attention.temperature_scale", 0.1f);
    } else if (strcmp(arch, "gemma2") == 0) {
        key_u32(w, "attention.sliding_window", 8);
        key_f32(w, "attn_logit_softcapping", 50.0f);
        key_f32(w, "final_logit_softcapping", 30.0f);
    } else if (strcmp(arch, "gemma3") == 0) {
        key_u32(w, "attention.sliding_window", 8);
        key_string(w, "rope.scaling.type", "linear");
        key_f32(w, "rope.scaling.factor", 8.0f);
    } else if (strcmp(arch, "phi3") == 0) {
        key_u32(w, "rope.dimension_count", 12);
        key_u32(w, "attention.sliding_window", 8);
        key_string(w, "rope.scaling.type", "longrope");
        key_u32(w, "rope.scaling.original_context_length", 4096);
        key_f32(w, "rope.scaling.attn_factor", 1.19f);
    }
}

/* ---- weights -----------------------------------------------------------------------------------
 */

/* Roughly normal: the sum of four uniform numbers. */
static float random_normal(struct writer *w)
{
    float sum = 0.0f;
    for (int i = 0; i < 4; i++)
        sum += (float)(hash_mix(w->random++) >> 40) * 0x1p-24f - 0.5f;
    return sum * 1.7320508f;
}

static void put_q8_0(struct buffer *out, const float *x)
{
    float max = 0.0f;
    for (int i = 0; i < 32; i++)
        max = fmaxf(max, fabsf(x[i]));
    uint16_t d = f32_to_f16(max / 127.0f);
    buffer_append(out, &d, sizeof d);
    for (int i = 0; i < 32; i++) {
        float q = f16_to_f32(d) > 0.0f ? roundf(x[i] / f16_to_f32(d)) : 0.0f;
        buffer_append_char(out, (char)(int8_t)fmaxf(-127.0f, fminf(127.0f, q)));
    }
}

static int q4_code(float x, float d)
{
    float q = d > 0.0f ? roundf(x / d) + 8.0f : 8.0f;
    return (int)fmaxf(0.0f, fminf(15.0f, q));
}

static void put_q4_0(struct buffer *out, const float *x)
{
    float max = 0.0f;
    for (int i = 0; i < 32; i++)
        max = fmaxf(max, fabsf(x[i]));
    uint16_t h = f32_to_f16(max / 7.0f);
    float d = f16_to_f32(h);
    buffer_append(out, &h, sizeof h);
    for (int i = 0; i < 16; i++)
        buffer_append_char(out, (char)(q4_code(x[i], d) | q4_code(x[i + 16], d) << 4));
}

/* Code of x on a grid of `step` from 0 to `most`. */
static uint8_t code_of(float x, float step, float most)
{
    return (uint8_t)(step > 0.0f ? fmaxf(0.0f, fminf(most, roundf(x / step))) : 0.0f);
}

/* 8 sub-blocks of 32 with scales and minima of six bits (docs/internals/block-formats.md). */
static void put_q4_k(struct buffer *out, const float *x)
{
    float scale[8], minimum[8], most_scale = 0.0f, most_minimum = 0.0f;
    for (int j = 0; j < 8; j++) {
        float low = 0.0f, high = 0.0f;
        for (int i = 0; i < 32; i++) {
            low = fminf(low, x[32 * j + i]);
            high = fmaxf(high, x[32 * j + i]);
        }
        scale[j] = (high - low) / 15.0f;
        minimum[j] = -low;
        most_scale = fmaxf(most_scale, scale[j]);
        most_minimum = fmaxf(most_minimum, minimum[j]);
    }
    const uint16_t d = f32_to_f16(most_scale / 63.0f), dmin = f32_to_f16(most_minimum / 63.0f);
    uint8_t s[12] = {0}, qs[128] = {0};
    for (int j = 0; j < 8; j++) {
        const uint8_t a = code_of(scale[j], f16_to_f32(d), 63.0f),
                      b = code_of(minimum[j], f16_to_f32(dmin), 63.0f);
        s[j % 4] |= j < 4 ? a : (uint8_t)(a >> 4 << 6);
        s[j % 4 + 4] |= j < 4 ? b : (uint8_t)(b >> 4 << 6);
        s[j % 4 + 8] |= j < 4 ? 0 : (uint8_t)((a & 15) | (b & 15) << 4);
        for (int i = 0; i < 32; i++)
            qs[32 * (j / 2) + i] |=
                (uint8_t)(code_of(x[32 * j + i] + f16_to_f32(dmin) * b, f16_to_f32(d) * a, 15.0f)
                          << 4 * (j % 2));
    }
    buffer_append(out, &d, sizeof d);
    buffer_append(out, &dmin, sizeof dmin);
    buffer_append(out, s, sizeof s);
    buffer_append(out, qs, sizeof qs);
}

/* 16 sub-blocks of 16 with scales of eight bits. */
static void put_q6_k(struct buffer *out, const float *x)
{
    uint8_t ql[128] = {0}, qh[64] = {0}, scales[16];
    float most[16] = {0}, most_of_all = 0.0f;
    for (int i = 0; i < 256; i++)
        most[i / 16] = fmaxf(most[i / 16], fabsf(x[i]));
    for (int g = 0; g < 16; g++)
        most_of_all = fmaxf(most_of_all, most[g]);
    const uint16_t d = f32_to_f16(most_of_all / 31.0f / 127.0f);
    for (int g = 0; g < 16; g++)
        scales[g] = code_of(most[g] / 31.0f, f16_to_f32(d), 127.0f);
    for (int i = 0; i < 256; i++) {
        const float step = f16_to_f32(d) * scales[i / 16];
        const uint8_t q = code_of(x[i] + 32.0f * step, step, 63.0f);
        const int h = i / 128, p = i / 32 % 4, l = i % 32;
        ql[64 * h + 32 * (p % 2) + l] |= (uint8_t)((q & 15) << 4 * (p / 2));
        qh[32 * h + l] |= (uint8_t)(q >> 4 << 2 * p);
    }
    buffer_append(out, ql, sizeof ql);
    buffer_append(out, qh, sizeof qh);
    buffer_append(out, scales, sizeof scales);
    buffer_append(out, &d, sizeof d);
}

static void put_number(struct buffer *out, uint32_t dtype, float x)
{
    const uint16_t half = dtype == DTYPE_F16 ? f32_to_f16(x) : f32_to_bf16(x);
    if (dtype == DTYPE_F32)
        buffer_append(out, &x, sizeof x);
    else
        buffer_append(out, &half, sizeof half);
}

static void put_elements(struct buffer *out, uint32_t dtype, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i += dtype_info(dtype)->block_elements) {
        if (dtype == DTYPE_Q8_0)
            put_q8_0(out, x + i);
        else if (dtype == DTYPE_Q4_0)
            put_q4_0(out, x + i);
        else if (dtype == DTYPE_Q4_K)
            put_q4_k(out, x + i);
        else if (dtype == DTYPE_Q6_K)
            put_q6_k(out, x + i);
        else
            put_number(out, dtype, x[i]);
    }
}

/* A tensor of n_rows rows of n elements (n_rows 0: a vector) around `mean`. */
static void put_tensor(struct writer *w, int layer, const char *name, uint32_t n_rows, uint32_t n,
                       float mean, float spread)
{
    struct tensor_record *t = &w->tensors[w->n_tensors++];
    if (layer < 0)
        (void)snprintf(t->name, sizeof t->name, "%s", name);
    else
        (void)snprintf(t->name, sizeof t->name, "blk.%d.%s", layer, name);
    t->dtype = n_rows ? w->dtype : DTYPE_F32;
    t->n_dims = n_rows ? 2 : 1;
    t->ne[0] = n;
    t->ne[1] = n_rows;
    while (w->data.len % ALIGNMENT != 0)
        buffer_append_char(&w->data, 0);
    t->offset = w->data.len;
    float row[256];
    for (uint32_t r = 0; r < (n_rows ? n_rows : 1); r++) {
        for (uint32_t i = 0; i < n && i < 256; i++)
            row[i] = mean + spread * random_normal(w);
        put_elements(&w->data, t->dtype, row, n < 256 ? n : 256);
    }
}

static void put_matrix(struct writer *w, int layer, const char *name, uint32_t n_out, uint32_t n_in)
{
    put_tensor(w, layer, name, n_out, n_in, 0.0f, 0.8f / sqrtf((float)n_in));
}

static void put_norm(struct writer *w, int layer, const char *name, uint32_t n)
{
    put_tensor(w, layer, name, 0, n, 1.0f, 0.2f);
}

static void put_bias(struct writer *w, int layer, const char *name, uint32_t n)
{
    put_tensor(w, layer, name, 0, n, 0.0f, 0.2f);
}

static void put_attention(struct writer *w, int layer)
{
    const struct shape *s = w->shape;
    uint32_t n_q = s->n_heads * s->head_dim, n_kv = s->n_kv_heads * s->head_dim;
    if (s->is_fused) {
        put_matrix(w, layer, "attn_qkv.weight", n_q + 2 * n_kv, s->n_embd);
    } else {
        put_matrix(w, layer, "attn_q.weight", n_q, s->n_embd);
        put_matrix(w, layer, "attn_k.weight", n_kv, s->n_embd);
        put_matrix(w, layer, "attn_v.weight", n_kv, s->n_embd);
    }
    if (s->has_qkv_bias) {
        put_bias(w, layer, "attn_q.bias", n_q);
        put_bias(w, layer, "attn_k.bias", n_kv);
        put_bias(w, layer, "attn_v.bias", n_kv);
    }
    if (s->has_head_norms) {
        put_norm(w, layer, "attn_q_norm.weight", s->head_dim);
        put_norm(w, layer, "attn_k_norm.weight", s->head_dim);
    }
    put_matrix(w, layer, "attn_output.weight", s->n_embd, n_q);
}

static void put_decoder_layer(struct writer *w, int layer)
{
    const struct shape *s = w->shape;
    put_norm(w, layer, "attn_norm.weight", s->n_embd);
    put_attention(w, layer);
    put_norm(w, layer, "ffn_norm.weight", s->n_embd);
    if (s->has_post_norms) {
        put_norm(w, layer, "post_attention_norm.weight", s->n_embd);
        put_norm(w, layer, "post_ffw_norm.weight", s->n_embd);
    }
    if (!s->is_fused)
        put_matrix(w, layer, "ffn_gate.weight", s->n_ff, s->n_embd);
    put_matrix(w, layer, "ffn_up.weight", s->is_fused ? 2 * s->n_ff : s->n_ff, s->n_embd);
    put_matrix(w, layer, "ffn_down.weight", s->n_embd, s->n_ff);
}

static void put_encoder_layer(struct writer *w, int layer)
{
    const struct shape *s = w->shape;
    put_attention(w, layer);
    put_bias(w, layer, "attn_output.bias", s->n_embd);
    put_norm(w, layer, "attn_output_norm.weight", s->n_embd);
    put_bias(w, layer, "attn_output_norm.bias", s->n_embd);
    put_matrix(w, layer, "ffn_up.weight", s->n_ff, s->n_embd);
    put_bias(w, layer, "ffn_up.bias", s->n_ff);
    put_matrix(w, layer, "ffn_down.weight", s->n_embd, s->n_ff);
    put_bias(w, layer, "ffn_down.bias", s->n_embd);
    put_norm(w, layer, "layer_output_norm.weight", s->n_embd);
    put_bias(w, layer, "layer_output_norm.bias", s->n_embd);
}

/* As Llama 3.1 scales rope: factor 8 for waves longer than 64 tokens, 1 for those shorter than 16,
 * in between by the number of turns within 64. */
static void put_divisors(struct writer *w, uint32_t n)
{
    put_tensor(w, -1, "rope_freqs.weight", 0, n, 0.0f, 0.0f);
    float *divisors = (float *)(void *)(w->data.data + w->tensors[w->n_tensors - 1].offset);
    for (uint32_t i = 0; i < n && !w->data.is_failed; i++) {
        double turns = 64.0 / (2.0 * M_PI * pow(10000.0, (double)i / n));
        double kept = fmin(1.0, fmax(0.0, (turns - 1.0) / 3.0));
        divisors[i] = (float)(1.0 / (kept + (1.0 - kept) / 8.0));
    }
}

static void put_weights(struct writer *w)
{
    const struct shape *s = w->shape;
    put_tensor(w, -1, "token_embd.weight", w->n_vocab, s->n_embd, 0.0f, s->is_tied ? 0.12f : 1.0f);
    for (uint32_t layer = 0; layer < s->n_layers; layer++) {
        if (s->is_encoder)
            put_encoder_layer(w, (int)layer);
        else
            put_decoder_layer(w, (int)layer);
    }
    if (s->is_encoder) {
        put_matrix(w, -1, "position_embd.weight", s->context, s->n_embd);
        put_matrix(w, -1, "token_types.weight", 2, s->n_embd);
        put_norm(w, -1, "token_embd_norm.weight", s->n_embd);
        put_bias(w, -1, "token_embd_norm.bias", s->n_embd);
        return;
    }
    put_norm(w, -1, "output_norm.weight", s->n_embd);
    if (!s->is_tied)
        put_matrix(w, -1, "output.weight", w->n_vocab, s->n_embd);
    if (strcmp(s->arch, "llama") == 0)
        put_divisors(w, s->head_dim / 2);
    if (strcmp(s->arch, "phi3") == 0) {
        put_tensor(w, -1, "rope_factors_short.weight", 0, 6, 1.5f, 0.1f);
        put_tensor(w, -1, "rope_factors_long.weight", 0, 6, 4.0f, 0.5f);
    }
}

/* ---- the file ----------------------------------------------------------------------------------
 */

static void put_file(struct writer *w, struct buffer *out)
{
    buffer_append_str(out, "GGUF");
    put_u32(out, 3);
    put_u64(out, w->n_tensors);
    put_u64(out, w->n_keys);
    buffer_append(out, buffer_str(&w->keys), w->keys.len);
    for (uint32_t i = 0; i < w->n_tensors; i++) {
        const struct tensor_record *t = &w->tensors[i];
        put_string(out, t->name);
        put_u32(out, t->n_dims);
        buffer_append(out, t->ne, t->n_dims * sizeof t->ne[0]);
        put_u32(out, t->dtype);
        put_u64(out, t->offset);
    }
    while (out->len % ALIGNMENT != 0 && !out->is_failed)
        buffer_append_char(out, 0);
    buffer_append(out, buffer_str(&w->data), w->data.len);
}

static bool find_dtype(const char *name, uint32_t *out)
{
    static const uint32_t known[] = {DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q8_0,
                                     DTYPE_Q4_0, DTYPE_Q4_K, DTYPE_Q6_K};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        *out = known[i];
        if (strcmp(dtype_info(known[i])->name, name) == 0)
            return true;
    }
    return false;
}

serverd_status synthetic_model(const char *arch, const char *dtype, struct buffer *out,
                               serverd_error *err)
{
    struct writer *w = calloc(1, sizeof *w);
    if (!w)
        return fail(err, SERVERD_NOMEM, "no memory");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].arch, arch) == 0)
            w->shape = &shapes[i];
    serverd_status status = SERVERD_OK;
    struct shape wide;
    if (!w->shape || !find_dtype(dtype, &w->dtype)) {
        status = fail(err, SERVERD_INVALID, "no synthetic model of %s in %s", arch, dtype);
    } else {
        if (dtype_info(w->dtype)->block_elements > 32) { /* rows are whole blocks */
            wide = *w->shape;
            wide.n_embd = wide.n_ff = 256;
            wide.head_dim = 256 / wide.n_heads;
            w->shape = &wide;
        }
        buffer_init(&w->keys, 1 << 20);
        buffer_init(&w->data, 1 << 24);
        buffer_init(&w->merges, 1 << 20);
        w->random = hash_bytes(arch, strlen(arch), 1);
        put_hparams(w);
        put_special_hparams(w);
        put_vocabulary(w);
        put_weights(w);
        put_file(w, out);
        if (w->keys.is_failed || w->data.is_failed || w->merges.is_failed || out->is_failed)
            status = fail(err, SERVERD_NOMEM, "no memory for the model's bytes");
        buffer_deinit(&w->keys);
        buffer_deinit(&w->data);
        buffer_deinit(&w->merges);
    }
    free(w);
    return status;
}
