/* Each allocation of building and checking a graph fails once: the builder says "no memory" and
 * nothing leaks. The linker sends the allocation calls here (--wrap). */
#include "base/error.h"
#include "program/dtype.h"
#include "program/program.h"

#include "program/graph.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static uint32_t n_calls, failing_call; /* 0: none fails */

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

static bool fails_now(void)
{
    return ++n_calls == failing_call;
}

void *__wrap_malloc(size_t n)
{
    return fails_now() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails_now() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails_now() ? NULL : __real_realloc(p, n);
}

enum { N_STEPS = 300, WIDTH = 4 };

/* A chain long enough that every array grows several times. */
static serverd_status build(struct program *program, struct graph_builder *builder,
                            serverd_error *err)
{
    static const float table[2 * WIDTH], weights[N_STEPS][WIDTH];
    static const uint16_t halves[WIDTH];
    serverd_tensor tensor = {.dtype = DTYPE_F32,
                             .name = "table",
                             .rank = 2,
                             .dims = {2, WIDTH},
                             .data = table,
                             .bytes = sizeof table};
    serverd_attributes embed = {.embed = {.scale = 1.0f}};
    serverd_attributes norm = {.norm = {.width = WIDTH, .eps = 1e-5f}};
    uint32_t input = graph_constant(builder, &tensor);
    uint32_t x = graph_node(builder, SERVERD_OP_EMBED, &input, 1, &embed);
    for (int i = 0; i < N_STEPS; i++) {
        bool is_half = i == 17;
        tensor = (serverd_tensor){.dtype = is_half ? DTYPE_F16 : DTYPE_F32,
                                  .name = "weight",
                                  .rank = 1,
                                  .dims = {WIDTH},
                                  .data = is_half ? (const void *)halves : weights[i],
                                  .bytes = is_half ? sizeof halves : sizeof weights[i]};
        const uint32_t inputs[] = {x, graph_constant(builder, &tensor)};
        x = graph_node(builder, SERVERD_OP_RMS_NORM, inputs, 2, &norm);
    }
    serverd_status status = graph_finish(builder, x, &program->graph, err);
    return status == SERVERD_OK ? graph_check(&program->graph, err) : status;
}

static serverd_status build_once(void)
{
    serverd_error err = {0};
    struct program *program = program_create(1 << 20);
    struct graph_builder *builder = program ? graph_builder_create(program->arena) : NULL;
    serverd_status status = builder ? build(program, builder, &err) : SERVERD_NOMEM;
    graph_builder_destroy(builder);
    program_unref(program);
    return status;
}

static void each_failing_allocation_is_no_memory(void **state)
{
    (void)state;
    failing_call = n_calls = 0;
    assert_int_equal(build_once(), SERVERD_OK);
    uint32_t n = n_calls;
    assert_true(n > 10);
    for (uint32_t i = 1; i <= n; i++) {
        failing_call = i;
        n_calls = 0;
        serverd_status status = build_once();
        failing_call = 0;
        if (status != SERVERD_NOMEM)
            fail_msg("allocation %u of %u fails: the status is %s", i, n, status_name(status));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_failing_allocation_is_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
