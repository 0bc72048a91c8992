/* Where activations lie. Within a stage some rows may be phases ahead of others, so two values that
 * are in use in the same stage may share memory only if their rows lie in it alike. Synthetic
 * models of every architecture. */
#include "kernels/cpu/cpu_internal.h"
#include "kernels/cpu/delegate.h"
#include "program/op.h"
#include "program/sdp_plan.h"
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
            const bool is_sum = handle->addition[action->index] != CPU_NO_NODE;
            if (is_sum && action->kind == ACTION_NODE) { /* a linear layer that writes it */
                widen(&plain[cpu_written_by(handle, action->index)], phase->stage);
                widen(&plain[cpu_added_value(handle, action->index)], phase->stage);
            }
            for (uint32_t i = 0; i < (uint32_t)node->n_inputs + node->n_outputs; i++) {
                uint32_t v = graph->operands[node->first_operand + i];
                /* keys and values are read where they are appended */
                if (node->op == SERVERD_OP_ATTN && i > 0 && i < node->n_inputs &&
                    action->kind != ACTION_APPEND)
                    continue;
                if (node->op == SERVERD_OP_ATTN && action->kind == ACTION_APPEND &&
                    (i == 0 || i >= node->n_inputs))
                    continue;
                if (is_sum && i >= node->n_inputs)
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

static const serverd_limits small = {.struct_bytes = sizeof small,
                                     .max_rows = 512,
                                     .max_logit_rows = 64,
                                     .max_seqs = 16,
                                     .max_context = 512};
static const serverd_limits large = {.struct_bytes = sizeof large,
                                     .max_rows = 2048,
                                     .max_logit_rows = 256,
                                     .max_seqs = 256,
                                     .max_context = 512};

static serverd_partition whole_of(const struct program *program, const serverd_plan *or_null)
{
    return (serverd_partition){.struct_bytes = sizeof(serverd_partition),
                               .n_nodes = program->graph.n_nodes,
                               .n_outputs = 1,
                               .outputs = &program->graph.output,
                               .plan = or_null};
}

/* The partition outlives it. */
static serverd_handle *plan_partition(const struct program *program,
                                      const serverd_partition *partition)
{
    serverd_handle *handle = calloc(1, sizeof *handle);
    assert_non_null(handle);
    handle->graph = &program->graph;
    handle->partition = partition;
    handle->has_kv = true;
    handle->limits = small;
    assert_int_equal(cpu_plan(handle, NULL, &err), SERVERD_OK);
    return handle;
}

static void check_overlap(const struct program *program, const serverd_handle *handle)
{
    uint32_t n = program->graph.n_values;
    struct use *uses = calloc(2 * (size_t)n, sizeof *uses);
    assert_non_null(uses);
    find_uses(handle, uses, uses + n);
    for (uint32_t a = 0; a < 2 * n; a++)
        for (uint32_t b = 0; b < a; b++)
            check_pair(&uses[a], &uses[b]);
    free(uses);
}

static void for_all_models(void (*check)(struct program *program))
{
    static const char *const archs[] = {"llama",  "qwen2", "qwen3", "gemma2",
                                        "gemma3", "phi3",  "bert"};
    static const char *const dtypes[] = {"F32", "Q8_0"};
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
            struct program *program = synthetic_program(archs[i], dtypes[d]);
            check(program);
            program_unref(program);
        }
}

static void check_fresh(struct program *program)
{
    const serverd_partition whole = whole_of(program, NULL);
    serverd_handle *handle = plan_partition(program, &whole);
    check_overlap(program, handle);
    cpu_unload(handle);
}

static void values_of_a_stage_do_not_overlap(void **state)
{
    (void)state;
    for_all_models(check_fresh);
}

/* ---- plans that were made earlier ------------------------------------------------------------ */

struct exported {
    serverd_buffer *buffers;
    uint32_t *use;
    serverd_plan plan;
};

static struct exported export_plan(const struct program *program)
{
    const serverd_graph *graph = &program->graph;
    const serverd_partition whole = whole_of(program, NULL);
    struct exported e = {
        calloc(graph->n_nodes, 2 * sizeof *e.buffers), calloc(graph->n_nodes, sizeof *e.use), {0}};
    assert_int_equal(cpu_delegate.plan(graph, &whole, &large, e.buffers, e.use, &e.plan, &err),
                     SERVERD_OK);
    return e;
}

static void free_exported(struct exported *e)
{
    free(e->buffers);
    free(e->use);
}

static void expect_same_places(const struct program *program, const serverd_handle *a,
                               const serverd_handle *b)
{
    const size_t bytes = program->graph.n_values * sizeof *a->value_at;
    assert_memory_equal(a->value_at, b->value_at, bytes);
    assert_memory_equal(a->quantised_at, b->quantised_at, bytes);
    assert_int_equal(a->footprint.activation_bytes, b->footprint.activation_bytes);
    assert_int_equal(a->footprint.unshared_bytes, b->footprint.unshared_bytes);
}

static void check_followed(struct program *program)
{
    struct exported e = export_plan(program);
    const struct program_plan plan = {
        .delegate = "cpu", .n_nodes = program->graph.n_nodes, .limits = large, .plan = e.plan};
    if (plan_check(&plan, &program->graph, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    assert_true(plan_naive_bytes(&plan, &program->graph) > e.plan.arena_bytes);
    const serverd_partition fresh = whole_of(program, NULL), planned = whole_of(program, &e.plan);
    serverd_handle *a = plan_partition(program, &fresh), *b = plan_partition(program, &planned);
    check_overlap(program, b);
    expect_same_places(program, a, b); /* sizes stand in the same order for both limits */
    cpu_unload(b);
    /* other places for the same sharing: it is the plan that decides */
    uint16_t n_places = 0;
    for (uint32_t i = 0; i < e.plan.n_buffers; i++)
        if (e.buffers[i].place >= n_places)
            n_places = (uint16_t)(e.buffers[i].place + 1);
    for (uint32_t i = 0; i < e.plan.n_buffers; i++)
        e.buffers[i].place = (uint16_t)(n_places - 1 - e.buffers[i].place);
    b = plan_partition(program, &planned);
    check_overlap(program, b);
    assert_int_equal(a->footprint.activation_bytes, b->footprint.activation_bytes);
    assert_memory_not_equal(a->value_at, b->value_at,
                            program->graph.n_values * sizeof *a->value_at);
    cpu_unload(a);
    cpu_unload(b);
    free_exported(&e);
}

static void a_plan_made_earlier_is_followed(void **state)
{
    (void)state;
    for_all_models(check_followed);
}

static void check_not_followed(struct program *program)
{
    struct exported e = export_plan(program);
    const serverd_partition fresh = whole_of(program, NULL), planned = whole_of(program, &e.plan);
    serverd_handle *a = plan_partition(program, &fresh), *b;
    for (int i = 0; i < 2; i++) {
        if (i == 0)
            for (uint32_t k = 0; k < e.plan.n_buffers; k++)
                e.buffers[k].place = 0; /* all in one */
        else
            e.plan.n_buffers = 1; /* the others have none */
        b = plan_partition(program, &planned);
        expect_same_places(program, a, b);
        cpu_unload(b);
    }
    cpu_unload(a);
    free_exported(&e);
}

static void a_wrong_plan_is_not_followed(void **state)
{
    (void)state;
    for_all_models(check_not_followed);
}

/* Attention is the last phase of its stage if the phases behind it may write what it reads: all
 * layers of an encoder have one store of keys and values. */
static void check_stages(struct program *program)
{
    const serverd_partition whole = whole_of(program, NULL);
    serverd_handle *handle = plan_partition(program, &whole);
    for (uint32_t p = 0; p < handle->n_phases; p++) {
        const struct cpu_phase *phase = &handle->phases[p];
        if (phase->kind != PHASE_ATTENTION)
            continue;
        const serverd_node *node =
            &program->graph.nodes[handle->actions[phase->first_action].index];
        assert_true(p > 0 && phase->stage != phase[-1].stage);
        if (!node->attributes.attn.is_causal)
            assert_true(phase->stage != phase[1].stage);
    }
    cpu_unload(handle);
}

static void a_stage_writes_nothing_that_its_attention_reads(void **state)
{
    (void)state;
    for_all_models(check_stages);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_a_stage_do_not_overlap),
        cmocka_unit_test(a_stage_writes_nothing_that_its_attention_reads),
        cmocka_unit_test(a_plan_made_earlier_is_followed),
        cmocka_unit_test(a_wrong_plan_is_not_followed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
