/* What a template can do to its host: nothing but end, in text or an error. And what a guarded
 * text looks like from inside a template. */
#include "base/error.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_LARGE_FRAMES
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__) || defined(HAS_LARGE_FRAMES)
#define STACK_SIZE (4u << 20) /* their frames are several times as large */
#else
#define STACK_SIZE (512u << 10)
#endif

struct job {
    const char *source;
    struct template_budget budget;
    const char *guarded; /* the value of x; NULL: undefined */
    size_t max_output;
    serverd_status status;
    serverd_error err;
    char *output;
};

static void *render(void *context)
{
    struct job *job = context;
    struct chat_template *tmpl;
    struct buffer out;
    job->err.text[0] = '\0';
    job->output = NULL;
    job->status = chat_template_compile(job->source, strlen(job->source), &tmpl, &job->err);
    if (job->status != SERVERD_OK)
        return NULL;
    struct arena *arena = arena_create(256 << 20);
    struct template_value *globals = template_map(arena);
    if (job->guarded)
        (void)template_map_set(arena, globals, "x", 1,
                               template_string(arena, job->guarded, strlen(job->guarded)));
    buffer_init(&out, job->max_output);
    job->status =
        chat_template_render(tmpl, arena, globals, &job->budget, &system_clock, &out, &job->err);
    job->output = strdup(buffer_str(&out));
    buffer_deinit(&out);
    arena_destroy(arena);
    chat_template_destroy(tmpl);
    return NULL;
}

static struct job make_job(const char *source)
{
    return (struct job){
        .source = source, .budget = template_budget_default(), .max_output = 64 << 20};
}

/* On a thread with the stack of a server thread. */
static void render_on_thread(struct job *job)
{
    pthread_attr_t attributes;
    pthread_t thread;
    assert_int_equal(pthread_attr_init(&attributes), 0);
    assert_int_equal(pthread_attr_setstacksize(&attributes, STACK_SIZE), 0);
    assert_int_equal(pthread_create(&thread, &attributes, render, job), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(pthread_attr_destroy(&attributes), 0);
}

static void expect_error(const char *source, const char *part)
{
    struct job job = make_job(source);
    render_on_thread(&job);
    if (job.status == SERVERD_OK || !strstr(job.err.text, part))
        fail_msg("%s: found '%s', expected an error with '%s'", source,
                 job.status ? job.err.text : job.output, part);
    free(job.output);
}

static void endless_recursion_ends_with_an_error(void **state)
{
    (void)state;
    expect_error("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion too deep");
    expect_error("{% macro f() %}{{ [[[[[[f()]]]]]] }}{% endmacro %}{{ f() }}", "too deep");
    expect_error("{% macro f(x=f()) %}{% endmacro %}{{ f() }}", "too deep");
    expect_error("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", "recursion deeper");
    expect_error("{% macro f() %}{% call f() %}{% endcall %}{{ caller() }}{% endmacro %}{{ f() }}",
                 "chat template");
    expect_error("{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}", "nested too deeply");
    expect_error("{% set ns = namespace(x=[]) %}{% for i in range(3000) %}"
                 "{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}",
                 "nested too deeply");
}

static void deep_nesting_ends_with_an_error(void **state)
{
    static const char *const parts[][2] = {{"(", ")"},   {"[", "]"},           {"-", ""},
                                           {"not ", ""}, {"1 if 1 else ", ""}, {"{1:", "}"}};
    (void)state;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        struct buffer b;
        buffer_init(&b, 1 << 20);
        buffer_append_str(&b, "{{ ");
        for (int k = 0; k < 5000; k++)
            buffer_append_str(&b, parts[i][0]);
        buffer_append_str(&b, "1");
        for (int k = 0; k < 5000; k++)
            buffer_append_str(&b, parts[i][1]);
        buffer_append_str(&b, " }}");
        expect_error(buffer_str(&b), "nested too deeply");
        buffer_deinit(&b);
    }
}

static void endless_work_ends_with_an_error(void **state)
{
    (void)state;
    expect_error("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
                 "chat template");
    expect_error("{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(99) %}"
                 "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
                 "chat template");
    expect_error("{{ 'a' * 999999999999 }}", "chat template");
    expect_error("{{ [1] * 999999999999 }}", "chat template");
    expect_error("{{ '%999999999d' % 1 }}{{ range(99999999) }}", "Range too big");
}

/* 2^50 comparisons, if nothing counted them. */
static void comparing_shared_lists_ends(void **state)
{
    (void)state;
    struct job job = make_job("{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(50) %}"
                              "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}"
                              "{% endfor %}{{ ns.x == ns.y }}");
    render_on_thread(&job);
    assert_int_equal(job.status, SERVERD_OK);
    free(job.output);
}

static void a_full_output_is_an_error(void **state)
{
    (void)state;
    struct job job = make_job("{{ 'a' * 100 }}");
    job.max_output = 50;
    render_on_thread(&job);
    assert_int_not_equal(job.status, SERVERD_OK);
    free(job.output);
}

static void errors_name_line_and_column(void **state)
{
    (void)state;
    expect_error("a\n{{ 1 / 0 }}", "line 2, column");
    expect_error("a\nb\n  {{ (1 }}", "line 3, column");
    expect_error("{{ raise_exception('No ' ~ 'way') }}", "No way");
}

/* Guards stay with the text; they are no characters and hide nothing. */
static void a_template_sees_through_guards(void **state)
{
    static const char *const rows[][2] = {
        {"{{ '<think>' in x }}", "True"},
        {"{{ x|length }}", "13"},
        {"{{ x.split('<think>')|length }}", "2"},
        {"{{ x.split('<think>')[1] }}", "b  "},
        {"{{ x.replace('<think>', '') }}", "  ab  "},
        {"{{ x.find('b') }}", "10"},
        {"{{ x.strip() }}", "a<\xffthink>b"},
        {"{{ x }}", "  a<\xffthink>b  "},
        {"{{ x[3:10] }}", "<\xffthink>"},
        {"{{ x.strip().endswith('k>b') }}", "True"},
        {"{{ x.upper() }}", "  A<\xffTHINK>B  "},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct job job = make_job(rows[i][0]);
        job.guarded = "  a<\xffthink>b  ";
        render_on_thread(&job);
        if (job.status != SERVERD_OK)
            fail_msg("%s: %s", rows[i][0], job.err.text);
        assert_string_equal(job.output, rows[i][1]);
        free(job.output);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(endless_recursion_ends_with_an_error),
        cmocka_unit_test(deep_nesting_ends_with_an_error),
        cmocka_unit_test(endless_work_ends_with_an_error),
        cmocka_unit_test(comparing_shared_lists_ends),
        cmocka_unit_test(a_full_output_is_an_error),
        cmocka_unit_test(errors_name_line_and_column),
        cmocka_unit_test(a_template_sees_through_guards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
