/* Plans of program files: who gets one, and that nothing that is computed depends on it. */
#include "runtime/stored_plan.h"

#include "base/hash.h"
#include "program/sdp_program.h"
#include "support/program_file.h"
#include "support/run_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_TOKENS = 40 };

static serverd_error err;

static struct program *open_program(const struct program_file *file)
{
    struct program *program;
    if (sdp_open(file->path, &program, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    assert_int_equal(program->n_plans, 1);
    return program;
}

static void results_are_the_same_with_a_plan_and_without(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama", "gemma2", "phi3", "bert"};
    int32_t tokens[N_TOKENS];
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        struct program_file file = program_file_create(archs[i], "Q8_0");
        struct program *program = open_program(&file);
        for (uint32_t t = 0; t < N_TOKENS; t++)
            tokens[t] = (int32_t)(hash_mix(t) % program->config.n_vocab);
        float *planned = run_program(program, "cpu", tokens, N_TOKENS);
        program->n_plans = 0;
        float *fresh = run_program(program, "cpu", tokens, N_TOKENS);
        assert_memory_equal(planned, fresh, run_program_floats(program, N_TOKENS) * sizeof *fresh);
        free(planned);
        free(fresh);
        program_unref(program);
        program_file_remove(&file);
    }
}

/* Whether the plan goes to a partition of that delegate, for these nodes and limits. */
static bool is_used(const struct program *program, const char *delegate, uint32_t first_node,
                    uint32_t n_nodes, const serverd_limits *limits)
{
    static const serverd_plan other;
    const serverd_delegate table = {.name = delegate};
    struct placement_partition partition = {
        .view = {.first_node = first_node, .n_nodes = n_nodes, .plan = &other}};
    struct placement placement = {.partitions = &partition, .n_partitions = 1};
    placement.devices[0].delegate = &table;
    stored_plans_use(&placement, program, limits);
    assert_true(partition.view.plan == NULL || partition.view.plan == &program->plans[0].plan);
    return partition.view.plan != NULL;
}

static void a_plan_goes_to_its_nodes_within_its_limits(void **state)
{
    (void)state;
    struct program_file file = program_file_create("qwen3", "Q8_0");
    struct program *program = open_program(&file);
    const uint32_t n = program->graph.n_nodes;
    const serverd_limits same = program->plans[0].limits;
    assert_true(is_used(program, "cpu", 0, n, &same));
    assert_false(is_used(program, "cpu-reference", 0, n, &same));
    assert_false(is_used(program, "cpu", 1, n - 1, &same));
    assert_false(is_used(program, "cpu", 0, n - 1, &same));
    for (int field = 0; field < 4; field++) {
        serverd_limits limits = same;
        uint32_t *number[] = {&limits.max_rows, &limits.max_logit_rows, &limits.max_seqs,
                              &limits.max_context};
        --*number[field];
        assert_true(is_used(program, "cpu", 0, n, &limits));
        *number[field] += 2;
        assert_false(is_used(program, "cpu", 0, n, &limits));
    }
    program_unref(program);
    program_file_remove(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_are_the_same_with_a_plan_and_without),
        cmocka_unit_test(a_plan_goes_to_its_nodes_within_its_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
