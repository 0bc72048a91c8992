/* The graph builder and the shape rule of each op. */
#include "model.h"

#include "program/dtype.h"
#include "program/op.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* The values that the cases below take their inputs from. */
enum {
    ROWS,     /* [T, 12] */
    WIDE,     /* [T, 24] */
    SELECTED, /* [R, 12] */
    POOLED,   /* [S, 12] */
    MATRIX,   /* constant [24, 12] */
    VECTOR,   /* constant [12] */
    SHORT,    /* constant [2] */
    N_KNOWN,
    NONE = N_KNOWN
};

static struct program *program;
static struct graph_builder *builder;
static uint32_t known[N_KNOWN + 1];
static serverd_error err;

static uint32_t node(serverd_op op, uint32_t a, uint32_t b, uint32_t c,
                     serverd_attributes attributes)
{
    const uint32_t inputs[] = {a, b, c};
    return graph_node(builder, op, inputs, 3, &attributes);
}

static int set_up(void **state)
{
    (void)state;
    program = program_create(1 << 20);
    builder = program ? graph_builder_create(program->arena) : NULL;
    if (!builder)
        return -1;
    const serverd_attributes embed = {.embed = {.scale = 1.0f}}, none = {0};
    uint32_t narrow = model_constant(program, builder, "narrow", DTYPE_F32, 2, 5, 12);
    uint32_t wide = model_constant(program, builder, "wide", DTYPE_F32, 2, 5, 24);
    known[ROWS] = node(SERVERD_OP_EMBED, narrow, NO_VALUE, NO_VALUE, embed);
    known[WIDE] = node(SERVERD_OP_EMBED, wide, NO_VALUE, NO_VALUE, embed);
    known[SELECTED] = node(SERVERD_OP_SELECT, known[ROWS], NO_VALUE, NO_VALUE, none);
    known[POOLED] = node(SERVERD_OP_POOL, known[ROWS], NO_VALUE, NO_VALUE,
                         (serverd_attributes){.pooling = SERVERD_POOL_MEAN});
    known[MATRIX] = model_constant(program, builder, "matrix", DTYPE_F16, 2, 24, 12);
    known[VECTOR] = model_constant(program, builder, "vector", DTYPE_F32, 1, 12, 0);
    known[SHORT] = model_constant(program, builder, "short", DTYPE_F32, 1, 2, 0);
    known[NONE] = NO_VALUE;
    return known[SHORT] == NO_VALUE ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    graph_builder_destroy(builder);
    program_unref(program);
    return 0;
}

struct rule {
    serverd_op op;
    uint8_t inputs[3];
    serverd_attributes attributes;
    int64_t rows, columns; /* of the output; 0: refused */
    const char *error;
};

#define ATTN(...)                                                                                  \
    {                                                                                              \
        .attn = {                                                                                  \
            .n_heads = 6,                                                                          \
            .n_kv_heads = 3,                                                                       \
            .k_dim = 4,                                                                            \
            .v_dim = 4,                                                                            \
            .scale = 1,                                                                            \
            .is_causal = 1,                                                                        \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#define ROPE(...)                                                                                  \
    {                                                                                              \
        .rope = {.head_dim = 6, .n_rot = 4, .mscale = 1, __VA_ARGS__ }                             \
    }

enum { T = SERVERD_DIM_ROWS, S = SERVERD_DIM_SEQS, R = SERVERD_DIM_SELECTED };

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init" /* a case changes one field of a good default */
static const struct rule rules[] = {
    {SERVERD_OP_EMBED, {MATRIX, NONE, NONE}, {.embed = {.scale = 2}}, T, 12, NULL},
    {SERVERD_OP_EMBED, {VECTOR, NONE, NONE}, {.embed = {.scale = 2}}, 0, 0, "no constant matrix"},
    {SERVERD_OP_EMBED, {ROWS, NONE, NONE}, {.embed = {.scale = 2}}, 0, 0, "no constant matrix"},
    {SERVERD_OP_EMBED, {MATRIX, NONE, NONE}, {.embed = {.index = 3}}, 0, 0, "unknown index 3"},
    {SERVERD_OP_EMBED, {MATRIX, NONE, NONE}, {.embed = {.scale = NAN}}, 0, 0, "not finite"},
    {SERVERD_OP_EMBED, {MATRIX, MATRIX, NONE}, {.embed = {.scale = 2}}, 0, 0, "2 inputs"},

    {SERVERD_OP_LINEAR, {ROWS, MATRIX, NONE}, {{0}}, T, 24, NULL},
    {SERVERD_OP_LINEAR, {SELECTED, MATRIX, NONE}, {{0}}, R, 24, NULL},
    {SERVERD_OP_LINEAR, {WIDE, MATRIX, NONE}, {{0}}, 0, 0, "24 columns, 12 are needed"},
    {SERVERD_OP_LINEAR,
     {ROWS, MATRIX, VECTOR},
     {{0}},
     0,
     0,
     "12 elements of F32, 24 of F32 are needed"},
    {SERVERD_OP_LINEAR, {ROWS, ROWS, NONE}, {{0}}, 0, 0, "no constant matrix"},
    {SERVERD_OP_LINEAR, {MATRIX, MATRIX, NONE}, {{0}}, 0, 0, "an activation is needed"},
    {SERVERD_OP_LINEAR, {ROWS, NONE, NONE}, {{0}}, 0, 0, "1 inputs"},
    {SERVERD_OP_LINEAR, {ROWS, NONE, VECTOR}, {{0}}, 0, 0, "input 1 is value"},

    {SERVERD_OP_RMS_NORM, {ROWS, VECTOR, NONE}, {.norm = {12, 0}}, T, 12, NULL},
    {SERVERD_OP_RMS_NORM, {WIDE, VECTOR, NONE}, {.norm = {12, 1e-5f}}, T, 24, NULL},
    {SERVERD_OP_RMS_NORM, {ROWS, VECTOR, NONE}, {.norm = {5, 0}}, 0, 0, "groups of 5"},
    {SERVERD_OP_RMS_NORM, {ROWS, VECTOR, NONE}, {.norm = {0, 0}}, 0, 0, "groups of 0"},
    {SERVERD_OP_RMS_NORM, {ROWS, SHORT, NONE}, {.norm = {12, 0}}, 0, 0, "2 elements"},
    {SERVERD_OP_RMS_NORM, {ROWS, VECTOR, NONE}, {.norm = {12, -1}}, 0, 0, "eps is -1"},
    {SERVERD_OP_RMS_NORM, {ROWS, VECTOR, VECTOR}, {.norm = {12, 0}}, 0, 0, "3 inputs"},
    {SERVERD_OP_LAYER_NORM, {ROWS, VECTOR, VECTOR}, {.norm = {12, 1}}, T, 12, NULL},
    {SERVERD_OP_LAYER_NORM, {ROWS, VECTOR, SHORT}, {.norm = {12, 1}}, 0, 0, "2 elements"},

    {SERVERD_OP_ROPE, {ROWS, SHORT, NONE}, ROPE(.is_neox = 1), T, 12, NULL},
    {SERVERD_OP_ROPE, {ROWS, SHORT, SHORT}, ROPE(.alt_mscale = 1), T, 12, NULL},
    {SERVERD_OP_ROPE, {ROWS, SHORT, VECTOR}, ROPE(.alt_mscale = 1), 0, 0, "12 elements"},
    {SERVERD_OP_ROPE, {ROWS, VECTOR, NONE}, ROPE(.is_neox = 1), 0, 0, "12 elements"},
    {SERVERD_OP_ROPE, {SELECTED, SHORT, NONE}, ROPE(.is_neox = 1), 0, 0, "selected rows"},
    {SERVERD_OP_ROPE, {POOLED, SHORT, NONE}, ROPE(.is_neox = 1), 0, 0, "one row per sequence"},
    {SERVERD_OP_ROPE, {ROWS, SHORT, NONE}, ROPE(.is_neox = 2), 0, 0, "is_neox is 2"},
    {SERVERD_OP_ROPE, {ROWS, SHORT, NONE}, ROPE(.head_dim = 5), 0, 0, "heads of 5"},
    {SERVERD_OP_ROPE, {ROWS, SHORT, NONE}, ROPE(.head_dim = 0), 0, 0, "head_dim is 0"},
    {SERVERD_OP_ROPE, {ROWS, SHORT, NONE}, ROPE(.n_rot = 8), 0, 0, "n_rot is 8"},
    {SERVERD_OP_ROPE, {ROWS, SHORT, NONE}, ROPE(.n_rot = 5), 0, 0, "n_rot is 5"},
    {SERVERD_OP_ROPE, {ROWS, SHORT, NONE}, ROPE(.n_rot = 0), 0, 0, "n_rot is 0"},
    {SERVERD_OP_ROPE, {ROWS, SHORT, NONE}, ROPE(.mscale = INFINITY), 0, 0, "mscale"},

    {SERVERD_OP_ATTN, {WIDE, ROWS, ROWS}, ATTN(.window = 5), T, 24, NULL},
    {SERVERD_OP_ATTN, {WIDE, ROWS, ROWS}, ATTN(.is_causal = 0), T, 24, NULL},
    {SERVERD_OP_ATTN, {WIDE, ROWS, WIDE}, ATTN(.v_dim = 8), T, 48, NULL},
    {SERVERD_OP_ATTN, {WIDE, WIDE, ROWS}, ATTN(.cap = 5), 0, 0, "input 1 has 24 columns"},
    {SERVERD_OP_ATTN, {WIDE, ROWS, POOLED}, ATTN(.cap = 5), 0, 0, "one row per sequence"},
    {SERVERD_OP_ATTN, {WIDE, ROWS, ROWS}, ATTN(.n_kv_heads = 4), 0, 0, "6 heads do not share 4"},
    {SERVERD_OP_ATTN, {WIDE, ROWS, ROWS}, ATTN(.n_kv_heads = 0), 0, 0, "n_kv_heads is 0"},
    {SERVERD_OP_ATTN, {WIDE, ROWS, ROWS}, ATTN(.n_heads = 5000), 0, 0, "n_heads is 5000"},
    {SERVERD_OP_ATTN, {WIDE, ROWS, ROWS}, ATTN(.k_dim = 100000), 0, 0, "k_dim is 100000"},
    {SERVERD_OP_ATTN, {WIDE, ROWS, ROWS}, ATTN(.v_dim = 0), 0, 0, "v_dim is 0"},
    {SERVERD_OP_ATTN, {WIDE, ROWS, ROWS}, ATTN(.is_causal = 2), 0, 0, "is_causal is 2"},
    {SERVERD_OP_ATTN, {WIDE, ROWS, ROWS}, ATTN(.is_causal = 0, .window = 5), 0, 0, "a window of 5"},
    {SERVERD_OP_ATTN, {WIDE, ROWS, ROWS}, ATTN(.scale = NAN), 0, 0, "scale is not finite"},
    {SERVERD_OP_ATTN, {WIDE, ROWS, ROWS}, ATTN(.cap = -1), 0, 0, "cap is -1"},

    {SERVERD_OP_POS_SCALE, {ROWS, NONE, NONE}, {.pos_scale = {0.5f, 8}}, T, 12, NULL},
    {SERVERD_OP_POS_SCALE, {ROWS, NONE, NONE}, {.pos_scale = {0.5f, 0}}, 0, 0, "period is 0"},
    {SERVERD_OP_POS_SCALE, {POOLED, NONE, NONE}, {.pos_scale = {1, 8}}, 0, 0, "per sequence"},

    {SERVERD_OP_ADD, {ROWS, ROWS, NONE}, {{0}}, T, 12, NULL},
    {SERVERD_OP_ADD, {ROWS, WIDE, NONE}, {{0}}, 0, 0, "24 columns, 12 are needed"},
    {SERVERD_OP_ADD, {ROWS, SELECTED, NONE}, {{0}}, 0, 0, "differ in their rows"},
    {SERVERD_OP_ADD, {ROWS, VECTOR, NONE}, {{0}}, 0, 0, "an activation is needed"},
    {SERVERD_OP_GLU, {WIDE, WIDE, NONE}, {.activation = SERVERD_ACT_TANH}, T, 24, NULL},
    {SERVERD_OP_GLU, {WIDE, WIDE, NONE}, {.activation = 6}, 0, 0, "unknown activation function 6"},
    {SERVERD_OP_ACT, {SELECTED, NONE, NONE}, {.activation = SERVERD_ACT_SILU}, R, 12, NULL},
    {SERVERD_OP_ACT, {ROWS, NONE, NONE}, {.activation = 99}, 0, 0, "unknown activation function"},
    {SERVERD_OP_SCALE, {POOLED, NONE, NONE}, {.factor = -2}, S, 12, NULL},
    {SERVERD_OP_SCALE, {ROWS, NONE, NONE}, {.factor = INFINITY}, 0, 0, "factor is not finite"},
    {SERVERD_OP_SOFTCAP, {ROWS, NONE, NONE}, {.factor = 30}, T, 12, NULL},
    {SERVERD_OP_SOFTCAP, {ROWS, NONE, NONE}, {.factor = 0}, 0, 0, "cap is 0"},

    {SERVERD_OP_SLICE, {ROWS, NONE, NONE}, {.slice = {4, 8}}, T, 8, NULL},
    {SERVERD_OP_SLICE, {ROWS, NONE, NONE}, {.slice = {5, 8}}, 0, 0, "columns 5..13 of 12"},
    {SERVERD_OP_SLICE, {ROWS, NONE, NONE}, {.slice = {4, 0}}, 0, 0, "columns 4..4 of 12"},
    {SERVERD_OP_SLICE, {ROWS, NONE, NONE}, {.slice = {8, UINT32_MAX}}, 0, 0, "columns 8.."},
    {SERVERD_OP_SELECT, {WIDE, NONE, NONE}, {{0}}, R, 24, NULL},
    {SERVERD_OP_SELECT, {SELECTED, NONE, NONE}, {{0}}, 0, 0, "selected rows"},
    {SERVERD_OP_POOL, {ROWS, NONE, NONE}, {.pooling = SERVERD_POOL_LAST}, S, 12, NULL},
    {SERVERD_OP_POOL, {ROWS, NONE, NONE}, {.pooling = 0}, 0, 0, "unknown pooling 0"},
    {SERVERD_OP_POOL, {ROWS, NONE, NONE}, {.pooling = 4}, 0, 0, "unknown pooling 4"},
    {SERVERD_OP_L2, {POOLED, NONE, NONE}, {{0}}, S, 12, NULL},
    {SERVERD_OP_L2, {MATRIX, NONE, NONE}, {{0}}, 0, 0, "an activation is needed"},
    {SERVERD_OP_ALL_REDUCE, {ROWS, NONE, NONE}, {.shard = {1, 2, 0, 0}}, T, 12, NULL},
    {SERVERD_OP_ALL_REDUCE, {ROWS, NONE, NONE}, {.shard = {2, 2, 0, 0}}, 0, 0, "rank 2 of 2"},
    {SERVERD_OP_ALL_REDUCE, {ROWS, NONE, NONE}, {.shard = {0, 17, 0, 0}}, 0, 0, "n_ranks is 17"},
    {SERVERD_OP_ALL_REDUCE, {ROWS, NONE, NONE}, {.shard = {0, 0, 0, 0}}, 0, 0, "n_ranks is 0"},
    {SERVERD_OP_ALL_REDUCE, {VECTOR, NONE, NONE}, {.shard = {0, 2, 0, 0}}, 0, 0, "an activation"},
    {SERVERD_OP_GATHER, {SELECTED, NONE, NONE}, {.shard = {1, 2, 8, 20}}, R, 20, NULL},
    {SERVERD_OP_GATHER, {ROWS, NONE, NONE}, {.shard = {1, 2, 9, 20}}, 0, 0, "columns 9..21 of 20"},
    {SERVERD_OP_GATHER, {ROWS, NONE, NONE}, {.shard = {1, 1, 0, 12}}, 0, 0, "rank 1 of 1"},
    {SERVERD_OP_COUNT, {ROWS, NONE, NONE}, {{0}}, 0, 0, "unknown op"},
};
#pragma GCC diagnostic pop

static void check_rule(size_t i)
{
    const struct rule *rule = &rules[i];
    uint32_t out = node(rule->op, known[rule->inputs[0]], known[rule->inputs[1]],
                        known[rule->inputs[2]], rule->attributes);
    serverd_graph graph;
    if (rule->error) {
        assert_int_equal(out, NO_VALUE);
        assert_int_not_equal(graph_finish(builder, 0, &graph, &err), SERVERD_OK);
        if (!strstr(err.text, rule->error))
            fail_msg("rule %zu: the error is \"%s\", not \"%s\"", i, err.text, rule->error);
        return;
    }
    if (graph_finish(builder, out, &graph, &err) != SERVERD_OK)
        fail_msg("rule %zu: %s", i, err.text);
    const serverd_value *value = &graph.values[out];
    assert_int_equal(value->rank, 2);
    if (value->dims[0] != rule->rows || value->dims[1] != rule->columns)
        fail_msg("rule %zu: the shape is [%lld, %lld]", i, (long long)value->dims[0],
                 (long long)value->dims[1]);
    if (graph_check(&graph, &err) != SERVERD_OK)
        fail_msg("rule %zu: %s", i, err.text);
}

static void each_op_has_its_shape_and_its_refusals(void **state)
{
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        check_rule(i);
        tear_down(state);
        assert_int_equal(set_up(state), 0);
    }
}

static void every_op_is_in_the_table(void **state)
{
    (void)state;
    bool is_tested[SERVERD_OP_COUNT] = {false};
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (rules[i].op < SERVERD_OP_COUNT && !rules[i].error)
            is_tested[rules[i].op] = true;
    for (uint32_t op = 0; op < SERVERD_OP_COUNT; op++) {
        assert_non_null(op_info(op));
        assert_non_null(op_info(op)->name);
        assert_true(is_tested[op]);
    }
    assert_null(op_info(SERVERD_OP_COUNT));
}

static void the_first_failure_is_the_one_reported(void **state)
{
    (void)state;
    graph_set_layer(builder, 7);
    const serverd_attributes none = {0};
    uint32_t bad = node(SERVERD_OP_ADD, known[ROWS], known[WIDE], NO_VALUE, none);
    assert_int_equal(bad, NO_VALUE);
    assert_int_equal(node(SERVERD_OP_L2, bad, NO_VALUE, NO_VALUE, none), NO_VALUE);
    assert_int_equal(node(SERVERD_OP_L2, known[ROWS], NO_VALUE, NO_VALUE, none), NO_VALUE);
    assert_int_equal(model_constant(program, builder, "late", DTYPE_F32, 1, 2, 0), NO_VALUE);
    serverd_graph graph;
    assert_int_equal(graph_finish(builder, known[ROWS], &graph, &err), SERVERD_CORRUPT);
    assert_non_null(strstr(err.text, "node 4 (add) of layer 7: input 1 has 24 columns"));
}

/* ---- constants ----------------------------------------------------------------------------- */

static void vectors_become_f32(void **state)
{
    (void)state;
    static const uint16_t halves[3] = {0x3c00, 0xc000, 0x0001};
    const serverd_tensor tensor = {.dtype = DTYPE_F16,
                                   .name = "bias",
                                   .rank = 1,
                                   .dims = {3},
                                   .data = halves,
                                   .bytes = sizeof halves};
    assert_int_not_equal(graph_constant(builder, &tensor), NO_VALUE);
    serverd_graph graph;
    assert_int_equal(graph_finish(builder, known[ROWS], &graph, &err), SERVERD_OK);
    const serverd_tensor *made = &graph.tensors[graph.n_tensors - 1];
    assert_int_equal(made->dtype, DTYPE_F32);
    assert_int_equal(made->bytes, 12);
    assert_string_equal(made->name, "bias");
    assert_ptr_not_equal(made->name, tensor.name);
    const float expected[3] = {1.0f, -2.0f, 0x1p-24f};
    assert_memory_equal(made->data, expected, sizeof expected);
}

static void the_same_bytes_are_one_constant(void **state)
{
    (void)state;
    static const float data[8];
    serverd_tensor tensor = {
        .dtype = DTYPE_F32, .name = "table", .rank = 2, .dims = {2, 4}, .data = data, .bytes = 32};
    uint32_t table = graph_constant(builder, &tensor);
    tensor.name = "head";
    assert_int_equal(graph_constant(builder, &tensor), table);
    tensor.dims[0] = 4;
    tensor.dims[1] = 2;
    assert_int_not_equal(graph_constant(builder, &tensor), table);
}

static void refuse_tensor(serverd_tensor tensor, const char *text)
{
    serverd_status status = graph_check_tensor(&tensor, &err);
    assert_int_not_equal(status, SERVERD_OK);
    if (!strstr(err.text, text))
        fail_msg("the error is \"%s\", not \"%s\"", err.text, text);
}

static void tensors_fill_their_shape_exactly(void **state)
{
    (void)state;
    static const char data[144];
    const serverd_tensor good = {.dtype = DTYPE_Q4_K,
                                 .name = "w",
                                 .rank = 2,
                                 .dims = {1, 256},
                                 .data = data,
                                 .bytes = sizeof data};
    assert_int_equal(graph_check_tensor(&good, &err), SERVERD_OK);
    serverd_tensor bad = good;
    bad.bytes = 143;
    refuse_tensor(bad, "143 bytes, its shape needs 144");
    bad = good;
    bad.dims[1] = 255;
    refuse_tensor(bad, "rows of 255 elements are not made of Q4_K blocks of 256");
    bad = good;
    bad.dims[0] = 0;
    refuse_tensor(bad, "dim 0 is 0");
    bad = good;
    bad.dims[0] = UINT64_MAX;
    refuse_tensor(bad, "dim 0 is 18446744073709551615");
    bad.dims[0] = UINT64_MAX / 144 + 2;
    refuse_tensor(bad, "its size overflows");
    bad.rank = 3;
    bad.dims[0] = bad.dims[1] = UINT32_MAX;
    bad.dims[2] = 256;
    refuse_tensor(bad, "its size overflows");
    bad.rank = 5;
    refuse_tensor(bad, "5 dims");
    bad.rank = 0;
    refuse_tensor(bad, "0 dims");
    bad = good;
    bad.data = NULL;
    refuse_tensor(bad, "has no data");
    bad = good;
    bad.dtype = 4;
    refuse_tensor(bad, "unknown element type 4");
    bad.dtype = DTYPE_Q8_K;
    refuse_tensor(bad, "type Q8_K cannot be used");
    bad = good;
    bad.name = NULL;
    refuse_tensor(bad, "no name");
}

static void a_graph_in_a_full_arena_is_no_memory(void **state)
{
    (void)state;
    struct program *small = program_create(4096);
    assert_non_null(small);
    struct graph_builder *other = graph_builder_create(small->arena);
    static const float data[300];
    for (int i = 0; i < 300; i++) {
        const serverd_tensor tensor = {
            .dtype = DTYPE_F32, .name = "v", .rank = 1, .dims = {1}, .data = data + i, .bytes = 4};
        graph_constant(other, &tensor);
    }
    serverd_graph graph;
    assert_int_equal(graph_finish(other, 0, &graph, &err), SERVERD_NOMEM);
    graph_builder_destroy(other);
    graph_builder_destroy(NULL);
    program_unref(small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_op_has_its_shape_and_its_refusals, set_up, tear_down),
        cmocka_unit_test(every_op_is_in_the_table),
        cmocka_unit_test_setup_teardown(the_first_failure_is_the_one_reported, set_up, tear_down),
        cmocka_unit_test_setup_teardown(vectors_become_f32, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_same_bytes_are_one_constant, set_up, tear_down),
        cmocka_unit_test(tensors_fill_their_shape_exactly),
        cmocka_unit_test(a_graph_in_a_full_arena_is_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
