#include "model.h"

#include "base/hash.h"
#include "program/dtype.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

uint32_t random_below(struct random *random, uint32_t n)
{
    random->state = hash_mix(random->state);
    return (uint32_t)((random->state >> 32) % n);
}

static float random_float(struct random *random)
{
    return (float)random_below(random, 1000) / 100.0f + 0.01f;
}

uint32_t model_constant(struct program *program, struct graph_builder *builder, const char *name,
                        uint32_t dtype, uint32_t rank, uint64_t rows, uint64_t columns)
{
    serverd_tensor tensor = {.struct_bytes = sizeof tensor,
                             .dtype = dtype,
                             .name = name,
                             .rank = rank,
                             .dims = {rows, columns}};
    assert_true(dtype_row_bytes(dtype, tensor.dims[rank - 1], &tensor.bytes));
    if (rank > 1)
        tensor.bytes *= rows;
    tensor.data = arena_alloc(program->arena, tensor.bytes);
    assert_non_null(tensor.data);
    return graph_constant(builder, &tensor);
}

/* What one model is built with. */
struct draft {
    struct program *program;
    struct graph_builder *builder;
    struct random *random;
    uint32_t n_embd, n_heads, n_kv_heads, head_dim, n_ff;
};

static uint32_t add(struct draft *draft, serverd_op op, uint32_t a, uint32_t b, uint32_t c,
                    serverd_attributes attributes)
{
    const uint32_t inputs[] = {a, b, c};
    return graph_node(draft->builder, op, inputs, 3, &attributes);
}

static uint32_t matrix(struct draft *draft, uint32_t rows, uint32_t columns)
{
    static const uint32_t types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0};
    uint32_t n_types = columns % 32 == 0 ? 5 : 3;
    return model_constant(draft->program, draft->builder, "matrix",
                          types[random_below(draft->random, n_types)], 2, rows, columns);
}

static uint32_t vector(struct draft *draft, uint32_t n)
{
    uint32_t dtype = random_below(draft->random, 4) ? DTYPE_F32 : DTYPE_F16;
    return model_constant(draft->program, draft->builder, "vector", dtype, 1, n, 0);
}

static uint32_t linear(struct draft *draft, uint32_t x, uint32_t n_in, uint32_t n_out)
{
    uint32_t bias = random_below(draft->random, 2) ? vector(draft, n_out) : NO_VALUE;
    return add(draft, SERVERD_OP_LINEAR, x, matrix(draft, n_out, n_in), bias,
               (serverd_attributes){0});
}

static uint32_t norm(struct draft *draft, uint32_t x, uint32_t width)
{
    serverd_attributes attributes = {.norm = {.width = width, .eps = 1e-5f}};
    if (random_below(draft->random, 2))
        return add(draft, SERVERD_OP_RMS_NORM, x, vector(draft, width), NO_VALUE, attributes);
    return add(draft, SERVERD_OP_LAYER_NORM, x, vector(draft, width), vector(draft, width),
               attributes);
}

static uint32_t rope(struct draft *draft, uint32_t x)
{
    uint32_t n_rot = 2 * (1 + random_below(draft->random, draft->head_dim / 2));
    uint32_t table = vector(draft, n_rot / 2);
    uint32_t other = random_below(draft->random, 2) ? vector(draft, n_rot / 2) : NO_VALUE;
    serverd_attributes attributes = {.rope = {.head_dim = draft->head_dim,
                                              .n_rot = n_rot,
                                              .is_neox = random_below(draft->random, 2),
                                              .alt_from = 4096,
                                              .mscale = 1.0f,
                                              .alt_mscale = 1.0f}};
    return add(draft, SERVERD_OP_ROPE, x, table, other, attributes);
}

/* Attention with its linears; K and V come from one fused linear, cut in two. */
static uint32_t attention(struct draft *draft, uint32_t x, uint32_t layer, bool is_causal)
{
    uint32_t q_width = draft->n_heads * draft->head_dim;
    uint32_t kv_width = draft->n_kv_heads * draft->head_dim;
    uint32_t q = linear(draft, x, draft->n_embd, q_width);
    uint32_t fused = linear(draft, x, draft->n_embd, 2 * kv_width);
    serverd_attributes slice = {.slice = {.begin = 0, .count = kv_width}};
    uint32_t k = add(draft, SERVERD_OP_SLICE, fused, NO_VALUE, NO_VALUE, slice);
    slice.slice.begin = kv_width;
    uint32_t v = add(draft, SERVERD_OP_SLICE, fused, NO_VALUE, NO_VALUE, slice);
    if (random_below(draft->random, 2)) {
        q = norm(draft, q, draft->head_dim);
        k = norm(draft, k, draft->head_dim);
    }
    if (is_causal) {
        q = rope(draft, q);
        k = rope(draft, k);
    }
    serverd_attributes attn = {
        .attn = {.n_heads = draft->n_heads,
                 .n_kv_heads = draft->n_kv_heads,
                 .k_dim = draft->head_dim,
                 .v_dim = draft->head_dim,
                 .kv_layer = is_causal ? layer : 0,
                 .window = is_causal ? 16 * random_below(draft->random, 3) : 0,
                 .is_causal = is_causal,
                 .scale = random_float(draft->random)}};
    if (is_causal) {
        serverd_kv_layer *kv = (serverd_kv_layer *)&draft->program->kv.layers[layer];
        *kv = (serverd_kv_layer){.n_kv_heads = draft->n_kv_heads,
                                 .k_dim = draft->head_dim,
                                 .v_dim = draft->head_dim,
                                 .window = attn.attn.window};
    }
    return linear(draft, add(draft, SERVERD_OP_ATTN, q, k, v, attn), q_width, draft->n_embd);
}

static uint32_t feed_forward(struct draft *draft, uint32_t x)
{
    serverd_attributes function = {.activation = random_below(draft->random, 6)};
    uint32_t up = linear(draft, x, draft->n_embd, draft->n_ff);
    if (random_below(draft->random, 2)) {
        uint32_t gate = linear(draft, x, draft->n_embd, draft->n_ff);
        up = add(draft, SERVERD_OP_GLU, gate, up, NO_VALUE, function);
    } else {
        up = add(draft, SERVERD_OP_ACT, up, NO_VALUE, NO_VALUE, function);
    }
    return linear(draft, up, draft->n_ff, draft->n_embd);
}

static uint32_t embed(struct draft *draft, serverd_embed_index index, uint32_t n_rows)
{
    serverd_attributes attributes = {.embed = {.index = index, .scale = 1.0f}};
    return add(draft, SERVERD_OP_EMBED, matrix(draft, n_rows, draft->n_embd), NO_VALUE, NO_VALUE,
               attributes);
}

static uint32_t layers(struct draft *draft, uint32_t x, uint32_t n_layers, bool is_causal)
{
    const serverd_attributes none = {0};
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        graph_set_layer(draft->builder, layer);
        uint32_t y = attention(draft, norm(draft, x, draft->n_embd), layer, is_causal);
        x = add(draft, SERVERD_OP_ADD, x, y, NO_VALUE, none);
        y = feed_forward(draft, norm(draft, x, draft->n_embd));
        x = add(draft, SERVERD_OP_ADD, x, y, NO_VALUE, none);
    }
    graph_set_layer(draft->builder, UINT32_MAX);
    return x;
}

static struct program *begin(struct random *random, struct draft *draft)
{
    struct program *program = program_create(16u << 20);
    assert_non_null(program);
    uint32_t n_kv_heads = 1 + random_below(random, 3);
    *draft = (struct draft){.program = program,
                            .builder = graph_builder_create(program->arena),
                            .random = random,
                            .n_embd = 8 * (1 + random_below(random, 8)),
                            .n_heads = n_kv_heads * (1 + random_below(random, 3)),
                            .n_kv_heads = n_kv_heads,
                            .head_dim = 2 * (1 + random_below(random, 8)),
                            .n_ff = 8 * (1 + random_below(random, 8))};
    assert_non_null(draft->builder);
    program->config.n_layers = 1 + random_below(random, 3);
    program->config.n_embd = draft->n_embd;
    program->config.n_vocab = 1 + random_below(random, 50);
    program->config.context_length = 1 + random_below(random, 100);
    return program;
}

static struct program *end(struct draft *draft, uint32_t output)
{
    serverd_error err = {0};
    if (graph_finish(draft->builder, output, &draft->program->graph, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    graph_builder_destroy(draft->builder);
    return draft->program;
}

struct program *model_decoder(struct random *random)
{
    struct draft draft;
    struct program *program = begin(random, &draft);
    uint32_t n_layers = program->config.n_layers, n_vocab = program->config.n_vocab;
    program->kv.n_layers = n_layers;
    program->kv.layers = arena_array(program->arena, n_layers, sizeof *program->kv.layers);
    assert_non_null(program->kv.layers);
    uint32_t x = embed(&draft, SERVERD_INDEX_TOKEN, n_vocab + random_below(random, 4));
    if (random_below(random, 2)) {
        serverd_attributes scale = {.pos_scale = {.beta = 0.1f, .period = 8192}};
        x = add(&draft, SERVERD_OP_POS_SCALE, x, NO_VALUE, NO_VALUE, scale);
    }
    x = norm(&draft, layers(&draft, x, n_layers, true), draft.n_embd);
    x = add(&draft, SERVERD_OP_SELECT, x, NO_VALUE, NO_VALUE, (serverd_attributes){0});
    x = linear(&draft, x, draft.n_embd, n_vocab);
    if (random_below(random, 2))
        x = add(&draft, SERVERD_OP_SOFTCAP, x, NO_VALUE, NO_VALUE,
                (serverd_attributes){.factor = 30.0f});
    return end(&draft, x);
}

struct program *model_encoder(struct random *random)
{
    const serverd_attributes none = {0};
    struct draft draft;
    struct program *program = begin(random, &draft);
    program->config.is_encoder = true;
    uint32_t x = embed(&draft, SERVERD_INDEX_TOKEN, program->config.n_vocab);
    uint32_t position = embed(&draft, SERVERD_INDEX_POSITION, program->config.context_length);
    uint32_t segment = embed(&draft, SERVERD_INDEX_SEGMENT, 2);
    x = add(&draft, SERVERD_OP_ADD, x, position, NO_VALUE, none);
    x = add(&draft, SERVERD_OP_ADD, x, segment, NO_VALUE, none);
    x = layers(&draft, x, program->config.n_layers, false);
    serverd_attributes pooling = {.pooling = SERVERD_POOL_MEAN + random_below(random, 3)};
    x = add(&draft, SERVERD_OP_POOL, x, NO_VALUE, NO_VALUE, pooling);
    x = add(&draft, SERVERD_OP_SCALE, x, NO_VALUE, NO_VALUE, (serverd_attributes){.factor = 2.0f});
    return end(&draft, add(&draft, SERVERD_OP_L2, x, NO_VALUE, NO_VALUE, none));
}
