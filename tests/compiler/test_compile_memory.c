/* Each allocation of compiling a model fails once: the answer is "no memory", and nothing leaks
 * (run it with the address sanitizer). The linker sends the allocation calls here (--wrap). */
#include "base/limits.h"
#include "compiler/compile.h"
#include "support/synthetic_model.h"
#include "tiny_model.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

/* Allocations until the one that fails; a test program has one thread. */
static unsigned n_until_failure = UINT_MAX;

static bool fails_now(void)
{
    return n_until_failure != UINT_MAX && n_until_failure-- == 0;
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

/* Compiles with allocation n failing; true if there were fewer. */
static bool compile_short_of_memory(const struct buffer *bytes, unsigned n)
{
    serverd_error err = {0};
    struct program *program = NULL;
    n_until_failure = n;
    serverd_status status = compile_bytes(bytes->data, bytes->len, &program, &err);
    /* wrapped below zero once the failure has been: then it reads as never again */
    bool is_over = n_until_failure != UINT_MAX;
    n_until_failure = UINT_MAX;
    if (!is_over && status != SERVERD_NOMEM)
        fail_msg("allocation %u fails: status %d, %s", n, status, err.text);
    if (is_over)
        assert_int_equal(status, SERVERD_OK);
    program_unref(program);
    return is_over;
}

static void each_failing_allocation_is_no_memory(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "gemma3", "phi3", "bert"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct buffer bytes;
        serverd_error err;
        buffer_init(&bytes, 16 * MIB);
        assert_int_equal(synthetic_model(names[i], "F16", &bytes, &err), SERVERD_OK);
        unsigned n = 0;
        while (!compile_short_of_memory(&bytes, n))
            n++;
        assert_in_range(n, 10, 10000);
        buffer_deinit(&bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_failing_allocation_is_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
