/* The check of a program: random models pass, damaged ones fail with a text and never crash. */
#include "model.h"

#include "base/file.h"
#include "base/hash.h"
#include "program/dtype.h"
#include "program/op.h"

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

static struct program *decoder(uint64_t seed)
{
    struct random random = {seed};
    return model_decoder(&random);
}

static void accept_program(const struct program *program, uint64_t seed)
{
    if (program_check(program, &err) != SERVERD_OK)
        fail_msg("seed %llu: %s", (unsigned long long)seed, err.text);
}

static void random_models_pass(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct random random = {seed};
        struct program *program = seed % 2 ? model_encoder(&random) : model_decoder(&random);
        accept_program(program, seed);
        program_unref(program);
    }
}

/* ---- damage -------------------------------------------------------------------------------- */

/* One 32-bit word of a model's plain data, pointers left alone, becomes another. */
struct site {
    void *base;
    size_t n, stride, begin, end; /* words lie in begin..end-1 of each of the n items */
};

static void damage(struct program *program, struct random *random)
{
    serverd_graph *graph = &program->graph;
    const struct site sites[] = {
        {(void *)graph->nodes, graph->n_nodes, sizeof *graph->nodes, 0, sizeof *graph->nodes},
        {(void *)graph->values, graph->n_values, sizeof *graph->values, 0, sizeof *graph->values},
        {(void *)graph->operands, graph->n_operands, sizeof *graph->operands, 0,
         sizeof *graph->operands},
        {(void *)graph->tensors, graph->n_tensors, sizeof *graph->tensors,
         offsetof(serverd_tensor, rank), offsetof(serverd_tensor, data)},
        {(void *)program->kv.layers, program->kv.n_layers, sizeof *program->kv.layers, 0,
         sizeof *program->kv.layers},
        {&graph->output, 1, sizeof graph->output, 0, sizeof graph->output},
    };
    const struct site *site;
    do
        site = &sites[random_below(random, sizeof sites / sizeof sites[0])];
    while (site->n == 0);
    uint32_t words = (uint32_t)(site->end - site->begin) / 4;
    char *at = (char *)site->base + random_below(random, (uint32_t)site->n) * site->stride +
               site->begin + 4 * (size_t)random_below(random, words);
    static const uint32_t nasty[] = {0,     1,          2,          3,          16,        255,
                                     65536, 0x7fffffff, 0x80000000, UINT32_MAX, 0x7fc00000};
    uint32_t word;
    memcpy(&word, at, sizeof word);
    switch (random_below(random, 3)) {
    case 0:
        word = nasty[random_below(random, sizeof nasty / sizeof nasty[0])];
        break;
    case 1:
        word ^= 1u << random_below(random, 32);
        break;
    default:
        word += random_below(random, 5) - 2;
    }
    memcpy(at, &word, sizeof word);
}

/* What a delegate relies on, told another way: each operand is a constant or was written before,
 * with the number of columns that the op needs. */
static void assert_runnable(const struct program *program, uint64_t seed)
{
    const serverd_graph *graph = &program->graph;
    bool *is_written = calloc(graph->n_values, sizeof *is_written);
    assert_non_null(is_written);
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        const serverd_node *node = &graph->nodes[i];
        for (uint32_t k = 0; k < node->n_inputs; k++) {
            uint32_t value = graph->operands[node->first_operand + k];
            if (graph->values[value].kind != SERVERD_VALUE_CONSTANT && !is_written[value])
                fail_msg("seed %llu: node %u reads value %u unwritten", (unsigned long long)seed, i,
                         value);
        }
        uint32_t output = graph->operands[node->first_operand + node->n_inputs];
        if (is_written[output])
            fail_msg("seed %llu: value %u is written twice", (unsigned long long)seed, output);
        is_written[output] = true;
        if (node->op == SERVERD_OP_LINEAR)
            assert_int_equal(value_width(node_input(graph, node, 0)),
                             graph->tensors[node_input(graph, node, 1)->tensor].dims[1]);
    }
    assert_true(is_written[graph->output]);
    free(is_written);
}

static void damaged_models_fail_cleanly_or_run(void **state)
{
    (void)state;
    uint32_t n_refused = 0, n = 20000;
    for (uint64_t seed = 0; seed < n; seed++) {
        struct random random = {hash_mix(seed / 50)}, of_damage = {seed};
        struct program *program = seed % 100 < 70 ? model_decoder(&random) : model_encoder(&random);
        for (uint32_t k = 1 + random_below(&of_damage, 2); k > 0; k--)
            damage(program, &of_damage);
        err = (serverd_error){0};
        serverd_status status = program_check(program, &err);
        if (status == SERVERD_OK) {
            assert_runnable(program, seed);
        } else {
            n_refused++;
            assert_true(status == SERVERD_CORRUPT || status == SERVERD_UNSUPPORTED);
            assert_int_equal(status, err.code);
            assert_true(err.text[0] != '\0');
        }
        program_unref(program);
    }
    assert_true(n_refused > n / 3);
}

/* ---- single faults ------------------------------------------------------------------------- */

static serverd_node *first_node(struct program *program, serverd_op op)
{
    for (uint32_t i = 0; i < program->graph.n_nodes; i++)
        if (program->graph.nodes[i].op == op)
            return (serverd_node *)&program->graph.nodes[i];
    return NULL;
}

static void refuse_program(struct program *program, const char *text)
{
    err = (serverd_error){0};
    assert_int_not_equal(program_check(program, &err), SERVERD_OK);
    if (!strstr(err.text, text))
        fail_msg("the error is \"%s\", not \"%s\"", err.text, text);
    program_unref(program);
}

static void attention_agrees_with_its_kv_layer(void **state)
{
    (void)state;
    struct program *program = decoder(3);
    first_node(program, SERVERD_OP_ATTN)->attributes.attn.window += 16;
    refuse_program(program, "KV layer 0 has another shape");
    program = decoder(3);
    first_node(program, SERVERD_OP_ATTN)->attributes.attn.kv_layer++;
    refuse_program(program, "KV layer 1");
    program = decoder(3);
    program->config.is_encoder = true;
    refuse_program(program, "causal attention in an encoder");
}

static void a_node_names_itself_in_the_error(void **state)
{
    (void)state;
    struct program *program = decoder(4);
    serverd_node *node = first_node(program, SERVERD_OP_ROPE);
    node->attributes.rope.n_rot = 3;
    uint32_t index = (uint32_t)(node - program->graph.nodes);
    char text[64];
    snprintf(text, sizeof text, "node %u (rope) of layer 0: n_rot is 3", index);
    refuse_program(program, text);
    assert_int_equal(err.node, index);
}

static void norm_weights_are_finite(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        struct program *program = decoder(5);
        for (uint32_t t = 0; t < program->graph.n_tensors; t++) {
            const serverd_tensor *tensor = &program->graph.tensors[t];
            if (tensor->rank == 1)
                memcpy((char *)tensor->data + tensor->bytes - 4, &bad[i], 4);
        }
        refuse_program(program, "is not finite");
    }
}

static void tables_cover_the_vocabulary(void **state)
{
    (void)state;
    struct program *program = decoder(6);
    program->config.n_vocab += 10;
    refuse_program(program, "rows, ");
    struct random random = {7};
    program = model_encoder(&random);
    program->config.context_length++;
    refuse_program(program, "rows, ");
}

static void the_result_has_the_width_of_the_vocabulary(void **state)
{
    (void)state;
    struct program *program = decoder(8);
    assert_true(program->config.n_vocab > 1);
    program->config.n_vocab--;
    refuse_program(program, "the result has");
}

static void a_value_without_a_writer_is_refused(void **state)
{
    (void)state;
    struct program *program = decoder(10);
    serverd_graph *graph = &program->graph;
    /* A twin of the first node's output that the second node reads. */
    serverd_value *values = arena_array(program->arena, graph->n_values + 1, sizeof *values);
    assert_non_null(values);
    memcpy(values, graph->values, graph->n_values * sizeof *values);
    uint32_t *operands = (uint32_t *)graph->operands;
    uint32_t made = operands[graph->nodes[0].first_operand + graph->nodes[0].n_inputs];
    values[graph->n_values] = values[made];
    graph->values = values;
    operands[graph->nodes[1].first_operand] = graph->n_values++;
    refuse_program(program, "which no node before makes");
}

static void special_tokens_are_tokens(void **state)
{
    (void)state;
    static const struct token_text tokens[2] = {{"a", 1, 0, TOKEN_NORMAL}, {"", 0, 0, TOKEN_BYTE}};
    struct program *program = program_create(1 << 20);
    assert_non_null(program);
    program->vocabulary = (struct vocabulary){
        .kind = VOCABULARY_SPM, .n_tokens = 2, .token = tokens, .bos = -1, .eos = 1};
    accept_program(program, 0);
    program->vocabulary.fim_pad = 2;
    refuse_program(program, "fim_pad token is 2, there are 2 tokens");
}

/* ---- life ---------------------------------------------------------------------------------- */

static void the_last_reference_ends_the_mappings(void **state)
{
    (void)state;
    char path[] = "/tmp/test_program_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "12345678", 8), 8);
    close(fd);
    struct file file;
    assert_int_equal(file_open(path, &file, &err), SERVERD_OK);
    struct program *program = program_create(1 << 20);
    assert_non_null(program);
    program->mappings = arena_array(program->arena, 1, sizeof *program->mappings);
    assert_non_null(program->mappings);
    assert_int_equal(file_map(&file, &program->mappings[0], &err), SERVERD_OK);
    program->n_mappings = 1;
    file_close(&file);
    assert_ptr_equal(program_ref(program), program);
    program_unref(program);
    assert_memory_equal(program->mappings[0].data, "12345678", 8);
    program_unref(program);
    program_unref(NULL);
    unlink(path);
}

static void templates_and_tensors_are_found_by_name(void **state)
{
    (void)state;
    static const struct program_template templates[] = {{"default", "a", 1}, {"tool_use", "b", 1}};
    struct program *program = decoder(11);
    program->templates = templates;
    program->n_templates = 2;
    assert_ptr_equal(program_find_template(program, "tool_use"), &templates[1]);
    assert_null(program_find_template(program, "rerank"));
    assert_int_equal(program_find_tensor(program, "nothing"), -1);
    int64_t found = program_find_tensor(program, "vector");
    assert_true(found >= 0);
    assert_string_equal(program->graph.tensors[found].name, "vector");
    program_unref(program);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_models_pass),
        cmocka_unit_test(damaged_models_fail_cleanly_or_run),
        cmocka_unit_test(attention_agrees_with_its_kv_layer),
        cmocka_unit_test(a_node_names_itself_in_the_error),
        cmocka_unit_test(norm_weights_are_finite),
        cmocka_unit_test(tables_cover_the_vocabulary),
        cmocka_unit_test(the_result_has_the_width_of_the_vocabulary),
        cmocka_unit_test(a_value_without_a_writer_is_refused),
        cmocka_unit_test(special_tokens_are_tokens),
        cmocka_unit_test(the_last_reference_ends_the_mappings),
        cmocka_unit_test(templates_and_tensors_are_found_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
