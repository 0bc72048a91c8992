/* Where activations lie. Within a stage some rows may be phases ahead of others, so two values that
 * are in use in the same stage may share memory only if their rows lie in it alike. Synthetic
 * models of every architecture. */
#include "kernels/cpu/cpu_internal.h"
#include "program/op.h"
#include "support/synthetic_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static serverd_error err;

/* A value as it lies in memory, and the stages in which it is written or read. */
struct use {
    size_t begin, end, row_floats;
    uint32_t first, last;
};

static void widen(struct use *use, uint32_t stage)
{
    use->first = stage < use->first ? stage : use->first;
    use->last = stage > use->last ? stage : use->last;
}

/* Stages of the nodes that touch each value; of its quantised form the same. */
static void find_uses(const serverd_handle *handle, struct use *plain, struct use *quantised)
{
    const serverd_graph *graph = handle->graph;
    for (uint32_t v = 0; v < graph->n_values; v++) {
        const serverd_value *value = &graph->values[v];
        plain[v] = quantised[v] = (struct use){.first = UINT32_MAX};
        if (value->kind != SERVERD_VALUE_ACTIVATION || v == graph->output)
            continue; /* the output lies at the caller's */
        size_t rows = cpu_max_rows(&handle->limits, value);
        plain[v].row_floats = value_width(value);
        plain[v].begin = handle->value_at[v];
        plain[v].end = plain[v].begin + rows * plain[v].row_floats;
        if (handle->quantised_at[v] == CPU_NOWHERE)
            continue;
        quantised[v].row_floats =
            cpu_n_spans(value_width(value)) * sizeof(struct cpu_span) / sizeof(float);
        quantised[v].begin = handle->quantised_at[v];
        quantised[v].end = quantised[v].begin + rows * quantised[v].row_floats;
    }
    for (uint32_t p = 0; p < handle->n_phases; p++) {
        const struct cpu_phase *phase = &handle->phases[p];
        for (uint32_t a = 0; a < phase->n_actions; a++) {
            const struct cpu_action *action = &handle->actions[phase->first_action + a];
            if (action->kind == ACTION_QUANTISE) {
                widen(&plain[action->index], phase->stage);
                widen(&quantised[action->index], phase->stage);
                continue;
            }
            const serverd_node *node = &graph->nodes[action->index];
            for (uint32_t i = 0; i < (uint32_t)node->n_inputs + node->n_outputs; i++) {
                uint32_t v = graph->operands[node->first_operand + i];
                /* keys and values are read where they are appended */
                if (node->op == SERVERD_OP_ATTN && i > 0 && i < node->n_inputs &&
                    action->kind != ACTION_APPEND)
                    continue;
                if (node->op == SERVERD_OP_ATTN && action->kind == ACTION_APPEND &&
                    (i == 0 || i >= node->n_inputs))
                    continue;
                widen(&plain[v], phase->stage);
                if (node->op == SERVERD_OP_LINEAR && i == 0 && quantised[v].end > 0)
                    widen(&quantised[v], phase->stage);
            }
        }
    }
}

static void check_pair(const struct use *a, const struct use *b)
{
    bool share_memory = a->begin < b->end && b->begin < a->end;
    bool share_stage = a->first <= b->last && b->first <= a->last;
    if (a->first == UINT32_MAX || b->first == UINT32_MAX || !share_memory || !share_stage)
        return;
    assert_int_equal(a->begin, b->begin);
    assert_int_equal(a->row_floats, b->row_floats);
}

static void values_of_a_stage_do_not_overlap(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"};
    static const char *const dtypes[] = {"F32", "Q8_0"};
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
            struct program *program = synthetic_program(archs[i], dtypes[d]);
            serverd_handle *handle = calloc(1, sizeof *handle);
            assert_non_null(handle);
            const serverd_partition whole = {.n_nodes = program->graph.n_nodes,
                                             .n_outputs = 1,
                                             .outputs = &program->graph.output};
            handle->graph = &program->graph;
            handle->partition = &whole;
            handle->has_kv = true;
            handle->limits = (serverd_limits){
                .max_rows = 512, .max_logit_rows = 64, .max_seqs = 16, .max_context = 512};
            assert_int_equal(cpu_plan(handle, &err), SERVERD_OK);
            uint32_t n = program->graph.n_values;
            struct use *uses = calloc(2 * (size_t)n, sizeof *uses);
            assert_non_null(uses);
            find_uses(handle, uses, uses + n);
            for (uint32_t a = 0; a < 2 * n; a++)
                for (uint32_t b = 0; b < a; b++)
                    check_pair(&uses[a], &uses[b]);
            free(uses);
            cpu_unload(handle);
            program_unref(program);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(values_of_a_stage_do_not_overlap)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
