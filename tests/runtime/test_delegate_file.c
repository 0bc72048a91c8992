/* Delegates in shared objects: what is refused, by name, and the example out of tree. Argument: the
 * folder that build_delegates.sh has filled. */
#include "base/clock.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "program/op.h"
#include "runtime/delegate_file.h"
#include "runtime/runtime.h"
#include "support/divergence.h"
#include "support/run_program.h"
#include "support/synthetic_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const char *folder;
static serverd_error err;
static struct delegate_list list;

static const char *path_of(const char *name)
{
    static char path[4096];
    (void)snprintf(path, sizeof path, "%s/%s.so", folder, name);
    return path;
}

/* A copy that may be spoiled. */
static char copy_path[4200];

static void copy_of(const char *name, mode_t mode)
{
    (void)snprintf(copy_path, sizeof copy_path, "%s/copy.so", folder);
    (void)unlink(copy_path);
    FILE *from = fopen(path_of(name), "rb"), *to = fopen(copy_path, "wb");
    assert_true(from && to);
    for (int c; (c = fgetc(from)) != EOF;)
        assert_int_equal(fputc(c, to), c);
    assert_int_equal(fclose(from) | fclose(to), 0);
    assert_int_equal(chmod(copy_path, mode), 0);
}

static int set_up(void **state)
{
    (void)state;
    return delegate_list_create(&list, builtin_delegates, n_builtin_delegates, &err);
}

static int tear_down(void **state)
{
    (void)state;
    delegate_list_destroy(&list);
    return 0;
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void expect_refusal(const char *path, const char *word)
{
    uint32_t n = list.n;
    if (delegate_list_load(&list, path, &err) == SERVERD_OK)
        fail_msg("%s was taken", path);
    if (!strstr(err.text, word) || !strstr(err.text, path))
        fail_msg("%s: \"%s\" does not say \"%s\"", path, err.text, word);
    assert_int_equal(list.n, n);
}

static void a_file_that_is_wrong_is_refused_with_the_reason(void **state)
{
    (void)state;
    static const struct {
        const char *name, *word;
    } rows[] = {
        {"broken1", "made for ABI 4, this is 3"},
        {"broken2", "does not work with ABI 3.2"},
        {"broken3", "bytes"},
        {"broken4", "has no execute"},
        {"broken5", "there is a delegate cpu already"},
        {"broken6", "proper name"},
        {"broken7", "proper name"},
        {"broken8", "some of the kv functions"},
        {"broken11", "no symbol serverd_delegate_entry"},
        {"not-there", "No such file"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_refusal(path_of(rows[i].name), rows[i].word);
    expect_refusal(folder, "no regular file");
    copy_of("example", 0755);
    struct stat info;
    assert_int_equal(stat(copy_path, &info), 0);
    for (off_t size = info.st_size / 2; size > 0; size /= 3) {
        assert_int_equal(truncate(copy_path, size), 0);
        expect_refusal(copy_path, "cut off");
    }
    assert_int_equal(truncate(copy_path, 0), 0);
    expect_refusal(copy_path, "cut off");
}

static void a_file_that_others_could_have_written_is_refused(void **state)
{
    (void)state;
    static const mode_t modes[] = {0775, 0757, 0777, 0666};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        copy_of("example", modes[i]);
        expect_refusal(copy_path, "written by others");
    }
    copy_of("example", 0500);
    if (geteuid() == 0) {
        assert_int_equal(chown(copy_path, 12345, 0), 0);
        expect_refusal(copy_path, "belongs to user 12345");
        assert_int_equal(chown(copy_path, 0, 0), 0);
    }
    assert_int_equal(delegate_list_load(&list, copy_path, &err), SERVERD_OK);
    expect_refusal(path_of("example"), "there is a delegate example already");
}

static void other_minor_versions_are_taken_as_far_as_they_go(void **state)
{
    (void)state;
    assert_int_equal(delegate_list_load(&list, path_of("broken9"), &err), SERVERD_OK);
    assert_null(list.items[list.n - 1]->footprint); /* beyond its struct_bytes */
    delegate_list_destroy(&list);
    assert_int_equal(set_up(NULL), SERVERD_OK);
    assert_int_equal(delegate_list_load(&list, path_of("broken10"), &err), SERVERD_OK);
    assert_non_null(list.items[list.n - 1]->footprint);
    assert_int_equal(list.items[list.n - 1]->struct_bytes, sizeof(serverd_delegate));
}

static void several_files_are_a_list_and_a_folder_warns(void **state)
{
    (void)state;
    char paths[8192];
    int n = snprintf(paths, sizeof paths, "%s,", path_of("example"));
    (void)snprintf(paths + n, sizeof paths - (size_t)n, "%s", path_of("broken0"));
    assert_int_equal(delegate_list_load_all(&list, paths, &err), SERVERD_OK);
    assert_int_equal(list.n, n_builtin_delegates + 2);
    assert_string_equal(list.items[n_builtin_delegates]->name, "example");
    assert_string_equal(list.items[n_builtin_delegates + 1]->name, "broken");
    assert_int_equal(delegate_list_load_all(&list, NULL, &err), SERVERD_OK);
    assert_int_equal(delegate_list_load_all(&list, "", &err), SERVERD_OK);
    delegate_list_destroy(&list);
    assert_int_equal(set_up(NULL), SERVERD_OK);
    delegate_list_load_folder(&list, folder, NULL, NULL);
    assert_true(list.n > n_builtin_delegates);
    delegate_list_load_folder(&list, "/not/there", NULL, NULL);
}

/* ---- running --------------------------------------------------------------------------------- */

enum { N_TOKENS = 24, CONTEXT = 32 };

static struct worker_pool *pool;
static char warnings[4096];

static void keep_warning(void *context, int level, const char *text)
{
    (void)context, (void)level;
    size_t n = strlen(warnings);
    (void)snprintf(warnings + n, sizeof warnings - n, "%s\n", text);
}

static void count_fallback(void *context)
{
    uint32_t *or_null = context;
    if (or_null)
        ++*or_null;
}

static serverd_status open_on(struct program *program, const char *device, const char *place,
                              uint32_t *fallbacks, struct runtime **out)
{
    const struct runtime_options options = {.delegates = list.items,
                                            .n_delegates = list.n,
                                            .device = device,
                                            .place = place,
                                            .pool = pool,
                                            .clock = &system_clock,
                                            .limits = {.struct_bytes = sizeof(serverd_limits),
                                                       .max_rows = N_TOKENS,
                                                       .max_logit_rows = N_TOKENS,
                                                       .max_seqs = 1,
                                                       .max_context = CONTEXT},
                                            .kv_dtype = DTYPE_F32,
                                            .log = keep_warning,
                                            .fell_back = count_fallback,
                                            .fell_back_context = fallbacks};
    warnings[0] = '\0';
    return runtime_open(program, &options, out, &err);
}

static uint32_t n_events[SERVERD_OP_COUNT];

/* Events of the example delegate, by the operation of their first node. */
static void count_events(const struct trace *trace)
{
    memset(n_events, 0, sizeof n_events);
    for (uint32_t w = 0; w < trace_n_workers(trace); w++)
        for (uint32_t i = 0; i < trace_n_events(trace, w); i++) {
            const struct trace_event *event = trace_event_at(trace, w, i);
            if (strcmp(trace_device(trace, event->partition), "example") == 0)
                n_events[trace_graph(trace)->nodes[event->first_node].op]++;
        }
}

static float *logits_of(struct program *program, struct runtime *runtime)
{
    int32_t token[N_TOKENS];
    run_random_tokens(program, token, N_TOKENS);
    float *out = calloc((size_t)N_TOKENS * runtime_output_width(runtime), sizeof *out);
    assert_non_null(out);
    if (run_one_sequence(runtime, program, token, N_TOKENS, out, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    return out;
}

static void explain(const struct runtime *runtime, struct buffer *out)
{
    buffer_init(out, 1 << 20);
    placement_explain(runtime_placement(runtime), out);
    assert_false(out->is_failed);
}

static void the_example_runs_its_operations(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama", "qwen3", "gemma3", "phi3"};
    assert_int_equal(delegate_list_load(&list, path_of("example"), &err), SERVERD_OK);
    for (size_t a = 0; a < sizeof archs / sizeof *archs; a++) {
        struct program *program = synthetic_program(archs[a], "F32");
        struct runtime *alone, *with;
        assert_int_equal(open_on(program, "cpu", NULL, NULL, &alone), SERVERD_OK);
        if (open_on(program, "cpu", "rms_norm=example,glu=example", NULL, &with) != SERVERD_OK)
            fail_msg("%s", err.text);
        assert_non_null(strstr(runtime_device(with), "example"));
        assert_string_equal(warnings, "");
        struct buffer text;
        explain(with, &text);
        assert_non_null(strstr(buffer_str(&text), "rms_norm): example"));
        assert_non_null(strstr(buffer_str(&text), "glu): example"));
        assert_non_null(strstr(buffer_str(&text), "not example: unsupported-op"));
        buffer_deinit(&text);
        struct trace *trace;
        assert_int_equal(runtime_create_trace(with, 1 << 16, 64, &trace, &err), SERVERD_OK);
        runtime_set_trace(with, trace);
        float *x = logits_of(program, alone), *y = logits_of(program, with);
        count_events(trace);
        runtime_set_trace(with, NULL);
        trace_destroy(trace);
        assert_true(n_events[SERVERD_OP_RMS_NORM] > 0 && n_events[SERVERD_OP_GLU] > 0);
        const size_t width = runtime_output_width(alone);
        for (size_t row = 0; row < N_TOKENS; row++) {
            double kl = divergence(x + row * width, y + row * width, width);
            if (!(kl <= 1e-6))
                fail_msg("%s: row %zu differs by %g", archs[a], row, kl);
        }
        free(x);
        free(y);
        runtime_close(alone);
        runtime_close(with);
        program_unref(program);
    }
}

/* Left to itself it makes no offer that is good enough. */
static void the_example_is_slower_where_it_may_choose(void **state)
{
    (void)state;
    struct program *program = synthetic_program("llama", "F32");
    struct runtime *runtime;
    struct buffer text;
    assert_int_equal(delegate_list_load(&list, path_of("example"), &err), SERVERD_OK);
    assert_int_equal(open_on(program, "auto", NULL, NULL, &runtime), SERVERD_OK);
    assert_int_equal(runtime_placement(runtime)->n_partitions, 1);
    explain(runtime, &text);
    assert_non_null(strstr(buffer_str(&text), "not example: slower ("));
    assert_non_null(strstr(buffer_str(&text), "not example: unsupported-op"));
    buffer_deinit(&text);
    runtime_close(runtime);
    program_unref(program);
}

static void what_cannot_start_costs_one_warning_and_its_nodes_go_to_others(void **state)
{
    (void)state;
    static const char *const ways[] = {"open", "load"};
    uint32_t n_fallbacks = 0;
    assert_int_equal(delegate_list_load(&list, path_of("example"), &err), SERVERD_OK);
    struct program *program = synthetic_program("llama", "Q8_0");
    struct runtime *alone, *without;
    assert_int_equal(open_on(program, "cpu", NULL, NULL, &alone), SERVERD_OK);
    float *expected = logits_of(program, alone);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(setenv("EXAMPLE_DELEGATE_FAIL", ways[i], 1), 0);
        assert_int_equal(open_on(program, "cpu", "rms_norm=example", &n_fallbacks, &without),
                         SERVERD_OK);
        assert_int_equal(unsetenv("EXAMPLE_DELEGATE_FAIL"), 0);
        assert_non_null(strstr(warnings, "example is not used"));
        assert_non_null(strstr(warnings, "told to fail"));
        assert_ptr_equal(strchr(warnings, '\n'), warnings + strlen(warnings) - 1);
        assert_int_equal(n_fallbacks, i + 1);
        struct buffer text;
        explain(without, &text);
        assert_non_null(strstr(buffer_str(&text), "not example: init-failed"));
        assert_non_null(strstr(buffer_str(&text), "told to fail"));
        buffer_deinit(&text);
        float *found = logits_of(program, without);
        assert_memory_equal(expected, found,
                            (size_t)N_TOKENS * runtime_output_width(alone) * sizeof *found);
        free(found);
        runtime_close(without);
    }
    /* alone there is nobody to fall back to */
    assert_int_not_equal(open_on(program, "example", NULL, &n_fallbacks, &without), SERVERD_OK);
    assert_non_null(strstr(err.text, "example"));
    assert_non_null(strstr(err.text, "unsupported-op"));
    free(expected);
    runtime_close(alone);
    program_unref(program);
}

/* It loads, and then everything that it is asked fails. */
static void a_delegate_that_fails_in_everything_breaks_nothing(void **state)
{
    (void)state;
    struct program *program = synthetic_program("llama", "F32");
    struct runtime *runtime;
    assert_int_equal(delegate_list_load(&list, path_of("broken0"), &err), SERVERD_OK);
    assert_int_not_equal(open_on(program, "broken", NULL, NULL, &runtime), SERVERD_OK);
    assert_int_not_equal(open_on(program, "hetero:cpu,broken", NULL, NULL, &runtime), SERVERD_OK);
    assert_int_equal(open_on(program, "auto", NULL, NULL, &runtime), SERVERD_OK);
    struct buffer text;
    explain(runtime, &text);
    assert_non_null(strstr(buffer_str(&text), "not broken: unavailable"));
    buffer_deinit(&text);
    runtime_close(runtime);
    program_unref(program);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_file_that_is_wrong_is_refused_with_the_reason, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_file_that_others_could_have_written_is_refused, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(other_minor_versions_are_taken_as_far_as_they_go, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(several_files_are_a_list_and_a_folder_warns, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(the_example_runs_its_operations, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_example_is_slower_where_it_may_choose, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(
            what_cannot_start_costs_one_warning_and_its_nodes_go_to_others, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_delegate_that_fails_in_everything_breaks_nothing, set_up,
                                        tear_down),
    };
    if (argc != 2 || worker_pool_create(2, &pool, &err) != SERVERD_OK)
        return 2;
    folder = argv[1];
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    worker_pool_destroy(pool);
    return failed;
}
