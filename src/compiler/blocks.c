#include "compiler/blocks.h"

#include "base/error.h"
#include "base/numeric.h"
#include "compiler/rope_table.h"
#include "program/dtype.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 128 };

/* ---- tensors ------------------------------------------------------------------------------- */

static void full_name(const struct arch *arch, const char *name, const char *suffix,
                      char out[NAME_BYTES])
{
    if (arch->layer == UINT32_MAX)
        (void)snprintf(out, NAME_BYTES, "%s.%s", name, suffix);
    else
        (void)snprintf(out, NAME_BYTES, "blk.%u.%s.%s", arch->layer, name, suffix);
}

static struct source_tensor *find(const struct arch *arch, const char *name, const char *suffix)
{
    char full[NAME_BYTES];
    full_name(arch, name, suffix, full);
    return source_find(arch->source, full);
}

static uint32_t fail_tensor(struct arch *arch, const struct source_tensor *tensor, uint64_t rows,
                            uint64_t columns)
{
    char found[96] = "";
    size_t n = 0;
    for (uint32_t d = 0; d < tensor->rank; d++)
        n += (size_t)snprintf(found + n, sizeof found - n, "%s%" PRIu64, d ? ", " : "",
                              tensor->dims[d]);
    arch->has_failed = true;
    if (rows == 0)
        fail(&arch->err, SERVERD_CORRUPT, "%s: tensor %.100s: shape [%s], [%" PRIu64 "] is needed",
             arch->source->keys.path, tensor->name, found, columns);
    else
        fail(&arch->err, SERVERD_CORRUPT,
             "%s: tensor %.100s: shape [%s], [%" PRIu64 ", %" PRIu64 "] is needed",
             arch->source->keys.path, tensor->name, found, rows, columns);
    return NO_VALUE;
}

static uint32_t constant(struct arch *arch, struct source_tensor *from)
{
    if (arch->has_failed)
        return NO_VALUE;
    from->is_used = true;
    serverd_tensor tensor = {.struct_bytes = sizeof tensor,
                             .dtype = from->dtype,
                             .name = from->name,
                             .rank = from->rank,
                             .data = from->data,
                             .bytes = from->bytes};
    memcpy(tensor.dims, from->dims, sizeof tensor.dims);
    return graph_constant(arch->graph, &tensor);
}

/* A matrix [rows][columns], or a vector if rows is 0. `or_null` may be missing: NO_VALUE. */
static uint32_t shaped(struct arch *arch, struct source_tensor *or_null, uint64_t rows,
                       uint64_t columns)
{
    if (!or_null || arch->has_failed)
        return NO_VALUE;
    bool is_right =
        rows == 0 ? or_null->rank == 1 && or_null->dims[0] == columns
                  : or_null->rank == 2 && or_null->dims[0] == rows && or_null->dims[1] == columns;
    return is_right ? constant(arch, or_null) : fail_tensor(arch, or_null, rows, columns);
}

static struct source_tensor *need(struct arch *arch, const char *name, const char *suffix)
{
    struct source_tensor *tensor = find(arch, name, suffix);
    if (tensor || arch->has_failed)
        return tensor;
    char full[NAME_BYTES];
    full_name(arch, name, suffix, full);
    arch->has_failed = true;
    fail(&arch->err, SERVERD_CORRUPT, "%s: tensor %s is missing", arch->source->keys.path, full);
    return NULL;
}

static uint32_t matrix(struct arch *arch, const char *name, uint64_t rows, uint64_t columns)
{
    return shaped(arch, need(arch, name, "weight"), rows, columns);
}

static uint32_t vector(struct arch *arch, const char *name, const char *suffix, uint64_t n)
{
    return shaped(arch, need(arch, name, suffix), 0, n);
}

/* ---- nodes --------------------------------------------------------------------------------- */

static uint32_t node(struct arch *arch, serverd_op op, uint32_t a, uint32_t b, uint32_t c,
                     const serverd_attributes *attributes)
{
    uint32_t inputs[] = {a, b, c};
    return arch->has_failed ? NO_VALUE : graph_node(arch->graph, op, inputs, 3, attributes);
}

void begin_layer(struct arch *arch, uint32_t layer)
{
    arch->layer = layer;
    graph_set_layer(arch->graph, layer);
}

void end_layers(struct arch *arch)
{
    begin_layer(arch, UINT32_MAX);
}

static uint32_t embed_rows(struct arch *arch, uint32_t table, serverd_embed_index index,
                           float scale)
{
    serverd_attributes attributes = {.embed = {.index = index, .scale = scale}};
    return node(arch, SERVERD_OP_EMBED, table, NO_VALUE, NO_VALUE, &attributes);
}

uint32_t embed_tokens(struct arch *arch, float scale)
{
    arch->token_table = matrix(arch, "token_embd", arch->params.n_vocab, arch->params.n_embd);
    return embed_rows(arch, arch->token_table, SERVERD_INDEX_TOKEN, scale);
}

uint32_t embed(struct arch *arch, const char *name, serverd_embed_index index, uint32_t n_rows)
{
    struct source_tensor *tensor = need(arch, name, "weight");
    if (!tensor || arch->has_failed)
        return NO_VALUE;
    if (n_rows == 0 && tensor->rank == 1) { /* a table of one row */
        tensor->rank = 2;
        tensor->dims[1] = tensor->dims[0];
        tensor->dims[0] = 1;
    }
    uint32_t table = shaped(arch, tensor, n_rows ? n_rows : tensor->dims[0], arch->params.n_embd);
    return embed_rows(arch, table, index, 1.0f);
}

bool has_weight(const struct arch *arch, const char *name)
{
    return find(arch, name, "weight") != NULL;
}

/* Norm over groups of `width`: the row, or each head. */
static uint32_t rms_norm_of(struct arch *arch, uint32_t x, const char *name, uint32_t width)
{
    serverd_attributes attributes = {.norm = {.width = width, .eps = arch->params.eps}};
    uint32_t weight = vector(arch, name, "weight", width);
    return node(arch, SERVERD_OP_RMS_NORM, x, weight, NO_VALUE, &attributes);
}

uint32_t rms_norm(struct arch *arch, uint32_t x, const char *name)
{
    return rms_norm_of(arch, x, name, arch->params.n_embd);
}

uint32_t layer_norm(struct arch *arch, uint32_t x, const char *name)
{
    uint32_t width = arch->params.n_embd;
    serverd_attributes attributes = {.norm = {.width = width, .eps = arch->params.eps}};
    uint32_t weight = vector(arch, name, "weight", width);
    uint32_t bias = vector(arch, name, "bias", width);
    return node(arch, SERVERD_OP_LAYER_NORM, x, weight, bias, &attributes);
}

/* The matrix in BF16. Its source is not read again. */
static struct source_tensor *narrow(struct arch *arch, struct source_tensor *tensor)
{
    uint64_t n = tensor->bytes / sizeof(float);
    uint16_t *narrow = arena_array(arch->program->arena, n, sizeof *narrow);
    if (!narrow) {
        arch->has_failed = true;
        fail(&arch->err, SERVERD_NOMEM, "%s: no memory for tensor %s", arch->source->keys.path,
             tensor->name);
        return tensor;
    }
    const char *wide = tensor->data;
    for (uint64_t i = 0; i < n; i++) {
        float value;
        memcpy(&value, wide + i * sizeof value, sizeof value);
        narrow[i] = f32_to_bf16(value);
    }
    for (uint32_t i = 0; i < arch->source->n_mappings; i++)
        mapping_forget(&arch->source->mappings[i], tensor->data, tensor->bytes);
    tensor->dtype = DTYPE_BF16;
    tensor->data = narrow;
    tensor->bytes = n * sizeof *narrow;
    return tensor;
}

uint32_t linear(struct arch *arch, uint32_t x, const char *name, uint32_t n_in, uint32_t n_out)
{
    struct source_tensor *tensor = need(arch, name, "weight");
    if (tensor && arch->narrows_f32 && tensor->dtype == DTYPE_F32 && !arch->has_failed)
        tensor = narrow(arch, tensor);
    uint32_t weight = shaped(arch, tensor, n_out, n_in);
    uint32_t bias = shaped(arch, find(arch, name, "bias"), 0, n_out);
    return node(arch, SERVERD_OP_LINEAR, x, weight, bias, NULL);
}

uint32_t add(struct arch *arch, uint32_t a, uint32_t b)
{
    return node(arch, SERVERD_OP_ADD, a, b, NO_VALUE, NULL);
}

uint32_t activate(struct arch *arch, uint32_t x, serverd_activation activation)
{
    serverd_attributes attributes = {.activation = activation};
    return node(arch, SERVERD_OP_ACT, x, NO_VALUE, NO_VALUE, &attributes);
}

static uint32_t slice(struct arch *arch, uint32_t x, uint32_t begin, uint32_t count)
{
    serverd_attributes attributes = {.slice = {.begin = begin, .count = count}};
    return node(arch, SERVERD_OP_SLICE, x, NO_VALUE, NO_VALUE, &attributes);
}

/* ---- rope ---------------------------------------------------------------------------------- */

static uint32_t frequency_constant(struct arch *arch, const char *name, const float *values)
{
    uint32_t n = arch->params.n_rot / 2;
    serverd_tensor tensor = {.struct_bytes = sizeof tensor,
                             .dtype = DTYPE_F32,
                             .name = name,
                             .rank = 1,
                             .dims = {n},
                             .data = values,
                             .bytes = (uint64_t)n * sizeof *values};
    return graph_constant(arch->graph, &tensor);
}

static void make_rope(struct arch *arch, bool is_local, struct arch_rope *out)
{
    struct rope_table table;
    if (rope_table_make(arch, is_local, &table, &arch->err) != SERVERD_OK) {
        arch->has_failed = true;
        return;
    }
    const char *name = is_local ? "rope.local" : "rope.global";
    *out = (struct arch_rope){.is_made = true,
                              .inv_freq = frequency_constant(arch, name, table.inv_freq),
                              .alt_inv_freq = NO_VALUE,
                              .mscale = table.mscale};
    if (table.alt_inv_freq)
        out->alt_inv_freq = frequency_constant(arch, "rope.global_long", table.alt_inv_freq);
}

static uint32_t rope(struct arch *arch, uint32_t x, bool is_local)
{
    struct arch_rope *shared = &arch->rope[is_local && arch->row->has_local_rope];
    if (!shared->is_made && !arch->has_failed)
        make_rope(arch, shared != &arch->rope[0], shared);
    serverd_attributes attributes = {
        .rope = {.head_dim = arch->params.k_dim,
                 .n_rot = arch->params.n_rot,
                 .is_neox = arch->row->is_neox || arch->source->rotates_halves,
                 .alt_from = arch->params.rope_original_context,
                 .mscale = shared->mscale,
                 .alt_mscale = shared->mscale}};
    return node(arch, SERVERD_OP_ROPE, x, shared->inv_freq, shared->alt_inv_freq, &attributes);
}

/* ---- attention ----------------------------------------------------------------------------- */

struct qkv {
    uint32_t q, k, v;
};

static struct qkv project(struct arch *arch, uint32_t x)
{
    const struct arch_params *p = &arch->params;
    uint32_t n_q = p->n_heads[arch->layer] * p->k_dim, n_k = p->n_kv_heads[arch->layer] * p->k_dim,
             n_v = p->n_kv_heads[arch->layer] * p->v_dim;
    if (!has_weight(arch, "attn_qkv"))
        return (struct qkv){.q = linear(arch, x, "attn_q", p->n_embd, n_q),
                            .k = linear(arch, x, "attn_k", p->n_embd, n_k),
                            .v = linear(arch, x, "attn_v", p->n_embd, n_v)};
    uint32_t fused = linear(arch, x, "attn_qkv", p->n_embd, n_q + n_k + n_v);
    return (struct qkv){.q = slice(arch, fused, 0, n_q),
                        .k = slice(arch, fused, n_q, n_k),
                        .v = slice(arch, fused, n_q + n_k, n_v)};
}

static uint32_t scale_by_position(struct arch *arch, uint32_t q)
{
    if (arch->params.temperature_scale == 0.0f)
        return q;
    serverd_attributes attributes = {.pos_scale = {.beta = arch->params.temperature_scale,
                                                   .period = arch->params.rope_original_context}};
    return node(arch, SERVERD_OP_POS_SCALE, q, NO_VALUE, NO_VALUE, &attributes);
}

static uint32_t attend(struct arch *arch, struct qkv x, bool is_local)
{
    const struct arch_params *p = &arch->params;
    serverd_attn attn = {.n_heads = p->n_heads[arch->layer],
                         .n_kv_heads = p->n_kv_heads[arch->layer],
                         .k_dim = p->k_dim,
                         .v_dim = p->v_dim,
                         .window = is_local ? p->window : 0,
                         .is_causal = !arch->row->is_encoder,
                         .scale = p->attn_scale,
                         .cap = p->attn_cap};
    if (attn.is_causal) {
        attn.kv_layer = arch->n_kv_layers++;
        arch->kv_layers[attn.kv_layer] = (serverd_kv_layer){.n_kv_heads = attn.n_kv_heads,
                                                            .k_dim = attn.k_dim,
                                                            .v_dim = attn.v_dim,
                                                            .window = attn.window};
    }
    serverd_attributes attributes = {.attn = attn};
    return node(arch, SERVERD_OP_ATTN, x.q, x.k, x.v, &attributes);
}

/* Behind the attention of the last layer only the rows whose logits are wanted go on. */
static uint32_t keep_needed_rows(struct arch *arch, uint32_t x)
{
    bool is_last = arch->layer + 1 == arch->params.n_layers;
    if (arch->row->is_encoder || !is_last)
        return x;
    return node(arch, SERVERD_OP_SELECT, x, NO_VALUE, NO_VALUE, NULL);
}

uint32_t attention(struct arch *arch, uint32_t x, enum head_norms norms)
{
    const struct arch_params *p = &arch->params;
    bool is_local = p->window != 0 && p->is_local[arch->layer];
    struct qkv heads = project(arch, x);
    if (norms == HEAD_NORMS_RMS) {
        heads.q = rms_norm_of(arch, heads.q, "attn_q_norm", p->k_dim);
        heads.k = rms_norm_of(arch, heads.k, "attn_k_norm", p->k_dim);
    }
    if (!arch->row->is_encoder) {
        heads.q = scale_by_position(arch, rope(arch, heads.q, is_local));
        heads.k = rope(arch, heads.k, is_local);
    }
    uint32_t mixed = keep_needed_rows(arch, attend(arch, heads, is_local));
    return linear(arch, mixed, "attn_output", p->n_heads[arch->layer] * p->v_dim, p->n_embd);
}

/* ---- feed-forward -------------------------------------------------------------------------- */

uint32_t gated_mlp(struct arch *arch, uint32_t x, serverd_activation activation)
{
    uint32_t n_embd = arch->params.n_embd, n_ff = arch->params.n_ff[arch->layer], gate, up;
    if (has_weight(arch, "ffn_gate")) {
        gate = linear(arch, x, "ffn_gate", n_embd, n_ff);
        up = linear(arch, x, "ffn_up", n_embd, n_ff);
    } else {
        uint32_t both = linear(arch, x, "ffn_up", n_embd, 2 * n_ff);
        gate = slice(arch, both, 0, n_ff);
        up = slice(arch, both, n_ff, n_ff);
    }
    serverd_attributes attributes = {.activation = activation};
    uint32_t h = node(arch, SERVERD_OP_GLU, gate, up, NO_VALUE, &attributes);
    return linear(arch, h, "ffn_down", n_ff, n_embd);
}

/* ---- ends and whole decoders
 * ------------------------------------------------------------------------------ */

uint32_t decoder_head(struct arch *arch, uint32_t x)
{
    const struct arch_params *p = &arch->params;
    x = rms_norm(arch, x, "output_norm");
    if (has_weight(arch, "output"))
        x = linear(arch, x, "output", p->n_embd, p->n_vocab);
    else
        x = node(arch, SERVERD_OP_LINEAR, x, arch->token_table, NO_VALUE, NULL);
    if (p->final_cap == 0.0f)
        return x;
    serverd_attributes attributes = {.factor = p->final_cap};
    return node(arch, SERVERD_OP_SOFTCAP, x, NO_VALUE, NO_VALUE, &attributes);
}

static uint32_t pool(struct arch *arch, uint32_t x)
{
    serverd_attributes attributes = {.pooling = arch->params.pooling};
    return node(arch, SERVERD_OP_POOL, x, NO_VALUE, NO_VALUE, &attributes);
}

uint32_t pooled(struct arch *arch, uint32_t x)
{
    return node(arch, SERVERD_OP_L2, pool(arch, x), NO_VALUE, NO_VALUE, NULL);
}

uint32_t scored(struct arch *arch, uint32_t x)
{
    uint32_t n_embd = arch->params.n_embd;
    x = pool(arch, x);
    if (has_weight(arch, "cls"))
        x = activate(arch, linear(arch, x, "cls", n_embd, n_embd), SERVERD_ACT_TANH);
    return linear(arch, x, "cls.output", n_embd, arch->params.n_scores);
}

uint32_t pre_norm_decoder(struct arch *arch, enum head_norms norms)
{
    uint32_t x = embed_tokens(arch, 1.0f);
    for (uint32_t layer = 0; layer < arch->params.n_layers; layer++) {
        begin_layer(arch, layer);
        uint32_t a = attention(arch, rms_norm(arch, x, "attn_norm"), norms);
        x = add(arch, keep_needed_rows(arch, x), a);
        x = add(arch, x, gated_mlp(arch, rms_norm(arch, x, "ffn_norm"), SERVERD_ACT_SILU));
    }
    end_layers(arch);
    return decoder_head(arch, x);
}

uint32_t sandwich_decoder(struct arch *arch, enum head_norms norms)
{
    uint32_t x = embed_tokens(arch, __builtin_sqrtf((float)arch->params.n_embd));
    for (uint32_t layer = 0; layer < arch->params.n_layers; layer++) {
        begin_layer(arch, layer);
        uint32_t a = attention(arch, rms_norm(arch, x, "attn_norm"), norms);
        x = add(arch, keep_needed_rows(arch, x), rms_norm(arch, a, "post_attention_norm"));
        uint32_t f = gated_mlp(arch, rms_norm(arch, x, "ffn_norm"), SERVERD_ACT_GELU_TANH);
        x = add(arch, x, rms_norm(arch, f, "post_ffw_norm"));
    }
    end_layers(arch);
    return decoder_head(arch, x);
}
