#include "support/synthetic_folder.h"

#include "base/error.h"
#include "base/file.h"
#include "base/limits.h"
#include "compiler/gguf_model.h"
#include "program/dtype.h"
#include "support/synthetic_model.h"
#include "support/synthetic_program.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct folder {
    const char *path;
    const struct synthetic_folder *what;
    struct source model; /* the GGUF file */
    bool is_encoder, is_gemma;
};

/* ---- files --------------------------------------------------------------------------------- */

static serverd_status write_file(const struct folder *f, const char *name, const struct buffer *b,
                                 serverd_error *err)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", f->path, name);
    if (b->is_failed)
        return fail(err, SERVERD_NOMEM, "%s: no memory", path);
    return file_write_atomic(path, b->data, b->len, err);
}

static uint32_t key_u32(const struct folder *f, const char *name)
{
    char full[96];
    uint32_t x = 0;
    serverd_error err;
    (void)snprintf(full, sizeof full, "%s.%s", f->what->arch, name);
    if (source_get_u32(&f->model.keys, full, 0, UINT32_MAX, &x, &err) != SERVERD_OK)
        abort();
    return x;
}

/* ---- config.json --------------------------------------------------------------------------- */

static void put_floats(struct buffer *b, const char *name, const struct source_tensor *tensor)
{
    buffer_printf(b, ", \"%s\": [", name);
    const float *x = tensor->data;
    for (uint64_t i = 0; i < tensor->dims[0]; i++) {
        buffer_append_str(b, i ? ", " : "");
        buffer_append_f32(b, x[i]);
    }
    buffer_append_str(b, "]");
}

static void put_special_members(const struct folder *f, struct buffer *b)
{
    const char *arch = f->what->arch;
    if (strcmp(arch, "llama") == 0) {
        buffer_append_str(b, ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, "
                             "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
                             "\"original_max_position_embeddings\": 64}");
    } else if (strcmp(arch, "gemma2") == 0) {
        buffer_append_str(b, ", \"query_pre_attn_scalar\": 32, \"sliding_window\": 8, "
                             "\"attn_logit_softcapping\": 50.0, \"final_logit_softcapping\": 30.0");
    } else if (strcmp(arch, "gemma3") == 0) {
        buffer_append_str(
            b, ", \"query_pre_attn_scalar\": 32, \"sliding_window\": 8, \"layer_types\": [");
        for (uint32_t i = 0; i < 7; i++)
            buffer_printf(b, "%s\"%s_attention\"", i ? ", " : "", i == 5 ? "full" : "sliding");
        buffer_append_str(b, "], \"attn_logit_softcapping\": null, "
                             "\"final_logit_softcapping\": null, \"rope_parameters\": {"
                             "\"full_attention\": {\"rope_type\": \"linear\", \"factor\": 8.0, "
                             "\"rope_theta\": 10000.0}, \"sliding_attention\": {\"rope_type\": "
                             "\"default\", \"rope_theta\": 10000.0}}");
    } else if (strcmp(arch, "phi3") == 0) {
        buffer_append_str(b, ", \"partial_rotary_factor\": 0.75, \"sliding_window\": null, "
                             "\"original_max_position_embeddings\": 4096, \"rope_scaling\": "
                             "{\"type\": \"longrope\", \"attention_factor\": 1.19");
        put_floats(b, "short_factor", source_find(&f->model, "rope_factors_short.weight"));
        put_floats(b, "long_factor", source_find(&f->model, "rope_factors_long.weight"));
        buffer_append_str(b, "}");
    } else if (f->is_encoder) {
        buffer_append_str(b, ", \"position_embedding_type\": \"absolute\", \"type_vocab_size\": 2");
    }
}

static const char *class_name(const struct folder *f)
{
    static const char *const names[][2] = {{"llama", "LlamaForCausalLM"},
                                           {"qwen2", "Qwen2ForCausalLM"},
                                           {"qwen3", "Qwen3ForCausalLM"},
                                           {"gemma2", "Gemma2ForCausalLM"},
                                           {"gemma3", "Gemma3ForCausalLM"},
                                           {"phi3", "Phi3ForCausalLM"},
                                           {"bert", "BertModel"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i][0], f->what->arch) == 0)
            return names[i][1];
    return "";
}

static serverd_status write_config(const struct folder *f, serverd_error *err)
{
    struct buffer b;
    buffer_init(&b, 1 * MIB);
    uint32_t n_heads = key_u32(f, "attention.head_count"), head_dim = 0;
    head_dim = key_u32(f, "attention.key_length");
    if (head_dim == 0)
        head_dim = key_u32(f, "embedding_length") / n_heads;
    bool is_tied = !f->is_encoder && !source_find(&f->model, "output.weight");
    buffer_printf(&b,
                  "{\"architectures\": [\"%s\"], \"hidden_size\": %u, \"num_hidden_layers\": %u, "
                  "\"intermediate_size\": %u, \"num_attention_heads\": %u, "
                  "\"num_key_value_heads\": %u, \"head_dim\": %u, \"max_position_embeddings\": %u, "
                  "\"tie_word_embeddings\": %s, \"%s\": %s",
                  class_name(f), key_u32(f, "embedding_length"), key_u32(f, "block_count"),
                  key_u32(f, "feed_forward_length"), n_heads, key_u32(f, "attention.head_count_kv"),
                  head_dim, key_u32(f, "context_length"), is_tied ? "true" : "false",
                  f->is_encoder ? "layer_norm_eps" : "rms_norm_eps",
                  f->is_encoder ? "1e-12" : "1e-6");
    if (!f->is_encoder && strcmp(f->what->arch, "gemma3") != 0)
        buffer_append_str(&b, ", \"rope_theta\": 10000");
    put_special_members(f, &b);
    buffer_append_str(&b, "}\n");
    serverd_status status = write_file(f, "config.json", &b, err);
    buffer_deinit(&b);
    return status;
}

/* ---- weights ------------------------------------------------------------------------------- */

struct renaming {
    const char *from, *to;
};

static const struct renaming decoder_names[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"attn_norm", "input_layernorm"},
    {"attn_qkv", "self_attn.qkv_proj"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"attn_output", "self_attn.o_proj"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"post_attention_norm", "post_attention_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
};

static const struct renaming bert_names[] = {
    {"token_embd", "embeddings.word_embeddings"},
    {"position_embd", "embeddings.position_embeddings"},
    {"token_types", "embeddings.token_type_embeddings"},
    {"token_embd_norm", "embeddings.LayerNorm"},
    {"attn_q", "attention.self.query"},
    {"attn_k", "attention.self.key"},
    {"attn_v", "attention.self.value"},
    {"attn_output", "attention.output.dense"},
    {"attn_output_norm", "attention.output.LayerNorm"},
    {"ffn_up", "intermediate.dense"},
    {"ffn_down", "output.dense"},
    {"layer_output_norm", "output.LayerNorm"},
};

static const char *rename_module(const struct folder *f, const char *module)
{
    if (strcmp(module, "ffn_norm") == 0)
        return f->is_gemma ? "pre_feedforward_layernorm" : "post_attention_layernorm";
    if (strcmp(module, "ffn_up") == 0 && strcmp(f->what->arch, "phi3") == 0)
        return "mlp.gate_up_proj";
    const struct renaming *rows = f->is_encoder ? bert_names : decoder_names;
    size_t n = f->is_encoder ? sizeof bert_names / sizeof bert_names[0]
                             : sizeof decoder_names / sizeof decoder_names[0];
    for (size_t i = 0; i < n; i++)
        if (strcmp(rows[i].from, module) == 0)
            return rows[i].to;
    return NULL; /* rope factors, which are in the configuration */
}

/* blk.N.MODULE.SUFFIX or MODULE.SUFFIX. */
static bool rename_tensor(const struct folder *f, const char *name, char out[128])
{
    char module[64] = "", suffix[16] = "";
    unsigned layer = 0;
    bool is_in_layer = sscanf(name, "blk.%u.%63[^.].%15s", &layer, module, suffix) == 3;
    if (!is_in_layer && sscanf(name, "%63[^.].%15s", module, suffix) != 2)
        return false;
    const char *to = rename_module(f, module);
    if (!to)
        return false;
    if (is_in_layer)
        (void)snprintf(out, 128, "%s.%u.%s.%s", f->is_encoder ? "encoder.layer" : "model.layers",
                       layer, to, suffix);
    else
        (void)snprintf(out, 128, "%s.%s", to, suffix);
    return true;
}

/* GGUF's rows 2i + b of a head are rows b * D/2 + i there (llama's Q and K). */
static void put_unpermuted(const struct source_tensor *tensor, uint32_t head_dim,
                           struct buffer *out)
{
    uint64_t row_bytes = tensor->bytes / tensor->dims[0];
    for (uint64_t row = 0; row < tensor->dims[0]; row++) {
        uint64_t head = row / head_dim, in_head = row % head_dim, half = head_dim / 2;
        uint64_t from = head * head_dim + 2 * (in_head % half) + in_head / half;
        buffer_append(out, (const char *)tensor->data + from * row_bytes, row_bytes);
    }
}

static void put_data(const struct folder *f, const struct source_tensor *tensor, struct buffer *out)
{
    const char *point = strrchr(tensor->name, '.');
    bool is_norm = point && point - tensor->name > 4 && strncmp(point - 4, "norm", 4) == 0;
    bool is_q_or_k = strstr(tensor->name, "attn_q.") || strstr(tensor->name, "attn_k.");
    if (strcmp(f->what->arch, "llama") == 0 && is_q_or_k) {
        put_unpermuted(tensor, key_u32(f, "embedding_length") / key_u32(f, "attention.head_count"),
                       out);
    } else if (f->is_gemma && is_norm) {
        const float *x = tensor->data;
        for (uint64_t i = 0; i < tensor->dims[0]; i++) {
            float y = x[i] - 1.0f;
            buffer_append(out, &y, sizeof y);
        }
    } else {
        buffer_append(out, tensor->data, tensor->bytes);
    }
}

static void shard_name(const struct folder *f, uint32_t shard, char out[64])
{
    if (f->what->n_shards <= 1)
        (void)snprintf(out, 64, "model.safetensors");
    else
        (void)snprintf(out, 64, "model-%05u-of-%05u.safetensors", shard + 1, f->what->n_shards);
}

/* What every folder has and no reader uses. */
static void put_leftover(const struct folder *f, struct buffer *header, struct buffer *data)
{
    if (!f->is_encoder)
        return;
    static const int64_t ids[4] = {0, 1, 2, 3};
    buffer_printf(header,
                  ", \"embeddings.position_ids\": {\"dtype\": \"I64\", \"shape\": [1, 4], "
                  "\"data_offsets\": [%zu, %zu]}",
                  data->len, data->len + sizeof ids);
    buffer_append(data, ids, sizeof ids);
}

static serverd_status write_shard(const struct folder *f, uint32_t shard, struct buffer *index,
                                  serverd_error *err)
{
    struct buffer header, data, file;
    char name[128], file_name[64];
    buffer_init(&header, 16 * MIB);
    buffer_init(&data, 64 * MIB);
    buffer_init(&file, 80 * MIB);
    shard_name(f, shard, file_name);
    buffer_append_str(&header, "{\"__metadata__\": {\"format\": \"pt\"}");
    for (uint32_t i = 0; i < f->model.n_tensors; i++) {
        const struct source_tensor *tensor = &f->model.tensors[i];
        if (i % f->what->n_shards != shard || !rename_tensor(f, tensor->name, name))
            continue;
        size_t begin = data.len;
        put_data(f, tensor, &data);
        buffer_printf(&header, ", \"%s\": {\"dtype\": \"%s\", \"shape\": [%" PRIu64, name,
                      dtype_info(tensor->dtype)->name, tensor->dims[0]);
        if (tensor->rank == 2)
            buffer_printf(&header, ", %" PRIu64, tensor->dims[1]);
        buffer_printf(&header, "], \"data_offsets\": [%zu, %zu]}", begin, data.len);
        buffer_printf(index, "%s\"%s\": \"%s\"", index->len ? ", " : "", name, file_name);
    }
    if (f->what->n_shards == 1)
        put_leftover(f, &header, &data);
    buffer_append_char(&header, '}');
    while (header.len % 8 != (f->what->is_unaligned ? 3 : 0) && !header.is_failed)
        buffer_append_char(&header, ' ');
    uint64_t n = header.len;
    buffer_append(&file, &n, sizeof n);
    buffer_append(&file, header.data, header.len);
    buffer_append(&file, data.data, data.len);
    serverd_status status = write_file(f, file_name, &file, err);
    buffer_deinit(&header);
    buffer_deinit(&data);
    buffer_deinit(&file);
    return status;
}

static serverd_status write_weights(const struct folder *f, serverd_error *err)
{
    struct buffer index, file;
    serverd_status status = SERVERD_OK;
    buffer_init(&index, 16 * MIB);
    buffer_init(&file, 16 * MIB);
    for (uint32_t i = 0; i < f->what->n_shards && status == SERVERD_OK; i++)
        status = write_shard(f, i, &index, err);
    if (status == SERVERD_OK && f->what->n_shards > 1) {
        buffer_printf(&file, "{\"metadata\": {}, \"weight_map\": {%s}}", buffer_str(&index));
        status = write_file(f, "model.safetensors.index.json", &file, err);
    }
    buffer_deinit(&index);
    buffer_deinit(&file);
    return status;
}

/* ---- the whole ----------------------------------------------------------------------------- */

serverd_status synthetic_folder(const char *path, const struct synthetic_folder *what,
                                serverd_error *err)
{
    struct folder f = {.path = path,
                       .what = what,
                       .is_encoder = strcmp(what->arch, "bert") == 0,
                       .is_gemma = strncmp(what->arch, "gemma", 5) == 0};
    struct buffer bytes;
    buffer_init(&bytes, 64 * MIB);
    serverd_status status = synthetic_model(what->arch, what->dtype, &bytes, err);
    struct memory_file file = memory_file_create();
    if (status == SERVERD_OK) {
        memory_file_write(&file, bytes.data, bytes.len);
        status = gguf_model_open(file.path, &f.model, err);
    }
    if (status == SERVERD_OK)
        status = write_config(&f, err);
    if (status == SERVERD_OK)
        status = write_weights(&f, err);
    source_close(&f.model);
    memory_file_close(&file);
    buffer_deinit(&bytes);
    return status;
}
