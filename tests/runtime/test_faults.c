/* Every status of every member of a delegate's table: it comes out where it should, and nothing
 * breaks or leaks (run it under AddressSanitizer). The model is split over two devices, of which
 * one fails. */
#include "base/clock.h"
#include "base/error.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "runtime/runtime.h"
#include "support/run_program.h"
#include "support/synthetic_program.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_TOKENS = 20, CONTEXT = 32 };

static serverd_error err;
static struct worker_pool *pool;
static struct program *program;
static uint32_t n_warnings;

static int set_up(void **state)
{
    (void)state;
    program = synthetic_program("gemma3", "Q8_0");
    return worker_pool_create(2, &pool, &err) == SERVERD_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    program_unref(program);
    worker_pool_destroy(pool);
    return 0;
}

static void count_warning(void *context, int level, const char *text)
{
    (void)context, (void)level, (void)text;
    n_warnings++;
}

static serverd_status open_on(const serverd_delegate *const *delegates, uint32_t n,
                              const char *device, const char *place, struct runtime **out)
{
    const struct runtime_options options = {.delegates = delegates,
                                            .n_delegates = n,
                                            .device = device,
                                            .place = place,
                                            .pool = pool,
                                            .clock = &system_clock,
                                            .limits = {.struct_bytes = sizeof(serverd_limits),
                                                       .max_rows = N_TOKENS,
                                                       .max_logit_rows = N_TOKENS,
                                                       .max_seqs = 2,
                                                       .max_context = CONTEXT},
                                            .kv_dtype = DTYPE_BF16,
                                            .wants_kv_identity = true,
                                            .log = count_warning};
    n_warnings = 0;
    err = (serverd_error){0};
    return runtime_open(program, &options, out, &err);
}

static serverd_status run(struct runtime *runtime, float *out)
{
    int32_t token[N_TOKENS];
    run_random_tokens(program, token, N_TOKENS);
    return run_one_sequence(runtime, program, token, N_TOKENS, out, &err);
}

/* ---- by script ------------------------------------------------------------------------------- */

/* One call of everything that can be asked of a runtime; each returns the first failure. */
static serverd_status ask_zero(struct runtime *runtime)
{
    const serverd_kv_page page = {1, SERVERD_NO_PAGE};
    return runtime_kv_zero(runtime, &page, 1, &err);
}

static serverd_status ask_copy(struct runtime *runtime)
{
    const serverd_kv_page from = {0, SERVERD_NO_PAGE}, to = {1, SERVERD_NO_PAGE};
    return runtime_kv_copy(runtime, from, to, SERVERD_PAGE_TOKENS / 2, &err);
}

static serverd_status ask_page(struct runtime *runtime, bool is_import)
{
    const serverd_kv_page page = {1, SERVERD_NO_PAGE};
    char *bytes = calloc(1, runtime_page_bytes(runtime));
    assert_non_null(bytes);
    serverd_status status = is_import ? runtime_kv_import(runtime, page, bytes, &err)
                                      : runtime_kv_export(runtime, page, bytes, &err);
    free(bytes);
    return status;
}

static serverd_status ask_export(struct runtime *runtime)
{
    return ask_page(runtime, false);
}

static serverd_status ask_import(struct runtime *runtime)
{
    return ask_page(runtime, true);
}

static serverd_status ask_footprint(struct runtime *runtime)
{
    serverd_footprint footprint;
    for (uint32_t p = 0; p < runtime_placement(runtime)->n_partitions; p++) {
        serverd_status status = runtime_footprint(runtime, p, &footprint, &err);
        if (status != SERVERD_OK)
            return status;
    }
    return SERVERD_OK;
}

static serverd_status ask_execute(struct runtime *runtime)
{
    float *out = calloc((size_t)N_TOKENS * runtime_output_width(runtime), sizeof *out);
    assert_non_null(out);
    serverd_status status = run(runtime, out);
    free(out);
    return status;
}

static const struct {
    const char *when;
    serverd_status (*ask)(struct runtime *runtime);
} asked[] = {{"zero", ask_zero},     {"copy", ask_copy},           {"export", ask_export},
             {"import", ask_import}, {"footprint", ask_footprint}, {"1", ask_execute}};

static void a_call_that_fails_says_so_and_the_next_one_works(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
        for (uint32_t code = SERVERD_UNSUPPORTED; code <= SERVERD_INTERNAL; code++) {
            char device[128];
            (void)snprintf(device, sizeof device, "hetero:cpu,fault:inner=cpu;script=error@%s:%s",
                           asked[i].when, status_name((serverd_status)code));
            struct runtime *runtime;
            if (open_on(builtin_delegates, n_builtin_delegates, device, "blk.0=cpu,blk.1=fault",
                        &runtime) != SERVERD_OK)
                fail_msg("%s: %s", device, err.text);
            assert_int_equal(n_warnings, 0);
            if (asked[i].ask(runtime) != (serverd_status)code)
                fail_msg("%s: got %u, \"%s\"", device, err.code, err.text);
            for (size_t j = 0; j < sizeof asked / sizeof *asked; j++)
                if (asked[j].ask(runtime) != SERVERD_OK)
                    fail_msg("%s: then %s: \"%s\"", device, asked[j].when, err.text);
            runtime_close(runtime);
        }
}

/* What fails while a model is opened sends the nodes elsewhere, or ends with the reason. */
static void a_start_that_fails_goes_elsewhere(void **state)
{
    (void)state;
    static const char *const whens[] = {"load", "kv", "page_bytes"};
    for (size_t i = 0; i < sizeof whens / sizeof *whens; i++)
        for (uint32_t code = SERVERD_UNSUPPORTED; code <= SERVERD_INTERNAL; code++) {
            char device[128];
            (void)snprintf(device, sizeof device, "hetero:cpu,fault:inner=cpu;script=error@%s:%s",
                           whens[i], status_name((serverd_status)code));
            struct runtime *runtime;
            if (open_on(builtin_delegates, n_builtin_delegates, device, "blk.1=fault", &runtime) !=
                SERVERD_OK)
                fail_msg("%s: %s", device, err.text);
            assert_int_equal(n_warnings, 1);
            assert_null(strstr(runtime_device(runtime), "fault"));
            assert_int_equal(ask_execute(runtime), SERVERD_OK);
            runtime_close(runtime);
            assert_int_equal(
                open_on(builtin_delegates, n_builtin_delegates, device + 11, NULL, &runtime), code);
            assert_non_null(strstr(err.text, "by script"));
        }
}

static void rows_that_are_no_numbers_come_out_as_they_are(void **state)
{
    (void)state;
    struct runtime *runtime;
    assert_int_equal(open_on(builtin_delegates, n_builtin_delegates,
                             "hetero:cpu,fault:inner=cpu;script=nan@1:3", "output=fault", &runtime),
                     SERVERD_OK);
    const uint32_t width = runtime_output_width(runtime);
    float *out = calloc((size_t)N_TOKENS * width, sizeof *out);
    assert_non_null(out);
    assert_int_equal(run(runtime, out), SERVERD_OK);
    for (uint32_t row = 0; row < N_TOKENS; row++)
        assert_int_equal(isnan(out[(size_t)row * width]) != 0, row == 3);
    free(out);
    runtime_close(runtime);
}

static void a_lost_device_stays_lost(void **state)
{
    (void)state;
    struct runtime *runtime;
    assert_int_equal(open_on(builtin_delegates, n_builtin_delegates,
                             "hetero:cpu,fault:inner=cpu;script=lost@1", "blk.1=fault", &runtime),
                     SERVERD_OK);
    for (int i = 0; i < 3; i++)
        for (size_t j = 0; j < sizeof asked / sizeof *asked; j++)
            (void)asked[j].ask(runtime);
    assert_int_equal(ask_execute(runtime), SERVERD_DEVICE_LOST);
    runtime_close(runtime);
}

/* ---- members before there is an instance ------------------------------------------------------
 */

static serverd_status wanted;

static serverd_status refuse(serverd_error *e)
{
    *e = (serverd_error){.code = wanted, .node = UINT32_MAX, .text = "told to fail"};
    return wanted;
}

static serverd_status bad_devices(const serverd_host *host, serverd_device *out, uint32_t cap,
                                  uint32_t *n, serverd_error *e)
{
    (void)host, (void)out, (void)cap, (void)n;
    return refuse(e);
}

static serverd_status bad_match(const serverd_host *host, const serverd_graph *graph, uint32_t node,
                                serverd_claim *out, serverd_error *e)
{
    (void)host, (void)graph, (void)node, (void)out;
    return refuse(e);
}

static serverd_status bad_form(const serverd_tensor *tensor, serverd_form *out, serverd_error *e)
{
    (void)tensor, (void)out;
    return refuse(e);
}

static serverd_status bad_pack(const serverd_tensor *tensor, const serverd_form *form,
                               uint64_t first_row, uint64_t n_rows, void *dst, serverd_error *e)
{
    (void)tensor, (void)form, (void)first_row, (void)n_rows, (void)dst;
    return refuse(e);
}

static serverd_status bad_open(const serverd_host *host, const serverd_device *device,
                               serverd_instance **out, serverd_error *e)
{
    (void)host, (void)device, (void)out;
    return refuse(e);
}

static serverd_status bad_set_option(serverd_instance *instance, const char *key, const char *value,
                                     serverd_error *e)
{
    (void)instance, (void)key, (void)value;
    return refuse(e);
}

static serverd_status bad_identity(serverd_instance *instance, const serverd_kv_spec *spec,
                                   uint64_t *out, serverd_error *e)
{
    (void)instance, (void)spec, (void)out;
    return refuse(e);
}

/* The CPU back-end under another name, with one member that fails. */
static void every_member_before_that_fails_too(void **state)
{
    (void)state;
    for (int member = 0; member < 7; member++)
        for (uint32_t code = SERVERD_UNSUPPORTED; code <= SERVERD_INTERNAL; code++) {
            serverd_delegate bad = *builtin_delegates[0];
            const serverd_delegate *const list[] = {builtin_delegates[0], &bad};
            const char *device = "cpu";
            bool goes_on = false; /* without it */
            bad.name = "bad";
            wanted = (serverd_status)code;
            switch (member) {
            case 0:
                bad.devices = bad_devices;
                break;
            case 1:
                bad.match = bad_match;
                break;
            case 2:
                bad.form = bad_form;
                break;
            case 3:
                bad.pack = bad_pack;
                break;
            case 4:
                bad.open = bad_open;
                goes_on = true;
                break;
            case 5:
                bad.set_option = bad_set_option;
                device = "hetero:cpu,bad:key=value";
                break;
            default:
                bad.kv_identity = bad_identity;
                break;
            }
            struct runtime *runtime;
            serverd_status status = open_on(list, 2, device, "blk.1=bad", &runtime);
            if (goes_on) {
                assert_int_equal(status, SERVERD_OK);
                assert_int_equal(n_warnings, 1);
                assert_int_equal(ask_execute(runtime), SERVERD_OK);
                runtime_close(runtime);
            } else {
                if (status != (serverd_status)code || !strstr(err.text, "told to fail"))
                    fail_msg("member %d, %s: got %u, \"%s\"", member,
                             status_name((serverd_status)code), status, err.text);
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_that_fails_says_so_and_the_next_one_works),
        cmocka_unit_test(a_start_that_fails_goes_elsewhere),
        cmocka_unit_test(rows_that_are_no_numbers_come_out_as_they_are),
        cmocka_unit_test(a_lost_device_stays_lost),
        cmocka_unit_test(every_member_before_that_fails_too),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
