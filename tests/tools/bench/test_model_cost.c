/* Costs and the driver on synthetic models. */
#include "base/file.h"
#include "program/dtype.h"
#include "support/synthetic_model.h"
#include "tools/bench/model_cost.h"
#include "tools/bench/model_driver.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static serverd_error err;

static void open_driver(struct driver *driver, const char *arch, const char *device)
{
    char path[] = "/tmp/serverd-cost-XXXXXX";
    struct buffer bytes;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    buffer_init(&bytes, 1 << 25);
    assert_int_equal(synthetic_model(arch, "F32", &bytes, &err), SERVERD_OK);
    assert_int_equal(file_write_atomic(path, bytes.data, bytes.len, &err), SERVERD_OK);
    const struct driver_options options = {.path = path,
                                           .program_cache = "off",
                                           .device = device,
                                           .threads = 2,
                                           .max_rows = 32,
                                           .max_seqs = 3,
                                           .max_context = 80,
                                           .kv_dtype = DTYPE_BF16};
    if (driver_open(driver, &options, &err) != SERVERD_OK)
        fail_msg("%s on %s: %s", arch, device, err.text);
    buffer_deinit(&bytes);
    (void)close(fd);
    (void)unlink(path);
}

/* 2 layers; q, o 64 x 64, k, v 32 x 64, three of 96 x 64; a head of its own. Behind the attention
 * of the last layer are selected rows only. */
static void a_llama_costs_what_its_matrices_say(void **state)
{
    (void)state;
    struct driver driver;
    struct model_cost cost;
    open_driver(&driver, "llama", "cpu");
    const struct program *program = driver.program;
    assert_int_equal(model_cost(&program->graph, driver.delegate, &cost, &err), SERVERD_OK);
    double before = 64 * 64 + 2 * 32 * 64, behind = 64 * 64 + 3 * 96 * 64;
    double vocab = program->config.n_vocab;
    assert_true(cost.body_macs == 2 * before + behind);
    assert_true(cost.head_macs == behind + 64 * vocab);
    assert_true(cost.body_bytes == 4 * cost.body_macs);
    /* 16 columns in a block */
    assert_true(cost.head_bytes == 4 * (behind + 64 * ceil(vocab / 16) * 16));
    assert_true(cost.embed_bytes >= 4 * 64 && cost.embed_bytes < 5 * 64);
    assert_true(model_kv_bytes(&program->kv, runtime_page_bytes(driver.runtime), 10) ==
                10 * 2 * 2 * (16 + 16) * 2);
    assert_true(model_attention_macs(&program->graph, 10) == 10 * 2 * 4 * (16 + 16));
    driver_close(&driver);
}

static void windows_bound_what_is_read(void **state)
{
    (void)state;
    struct driver driver;
    open_driver(&driver, "gemma2", "null");
    const serverd_kv_spec *kv = &driver.program->kv;
    double little = model_kv_bytes(kv, SERVERD_PAGE_TOKENS, 1), all = 0, token = 0;
    bool has_window = false;
    for (uint32_t i = 0; i < kv->n_layers; i++) {
        double seen = kv->layers[i].window ? kv->layers[i].window : 100000;
        has_window = has_window || kv->layers[i].window;
        double numbers = kv->layers[i].n_kv_heads * (kv->layers[i].k_dim + kv->layers[i].v_dim);
        all += seen * numbers;
        token += numbers;
    }
    assert_true(has_window);
    double found = model_kv_bytes(kv, SERVERD_PAGE_TOKENS, 100000);
    assert_true(fabs(found - all / token) < 1e-6 * found && found < 100000 * little);
    driver_close(&driver);
}

static void the_driver_runs_prompts_in_chunks_and_decodes(void **state)
{
    (void)state;
    static const char *const devices[] = {"null", "cpu"};
    for (size_t d = 0; d < 2; d++) {
        struct driver driver;
        open_driver(&driver, "llama", devices[d]);
        assert_int_equal(driver_clear(&driver, 3, 80, &err), SERVERD_OK);
        for (uint32_t chunk = 5; chunk <= 32; chunk += 9)
            if (driver_prefill(&driver, 3, 0, 37, chunk, &err) != SERVERD_OK)
                fail_msg("%s, chunk %u: %s", devices[d], chunk, err.text);
        for (uint32_t at = 37; at < 80; at++)
            assert_int_equal(driver_decode(&driver, 3, at, &err), SERVERD_OK);
        const struct driver_slice too_many = {0, 0, 33, true};
        assert_int_equal(driver_step(&driver, &too_many, 1, &err), SERVERD_INTERNAL);
        driver_close(&driver);
    }
}

/* The last token's logits do not depend on how the prompt was cut: the driver's pages are right. */
static void chunks_do_not_change_the_result(void **state)
{
    (void)state;
    struct driver driver;
    open_driver(&driver, "llama", "cpu");
    float expected[8];
    for (uint32_t chunk = 32; chunk >= 7; chunk -= 5) {
        assert_int_equal(driver_clear(&driver, 1, 80, &err), SERVERD_OK);
        assert_int_equal(driver_prefill(&driver, 1, 0, 50, chunk, &err), SERVERD_OK);
        for (size_t i = 0; i < 8; i++) {
            if (chunk == 32)
                expected[i] = driver.out[i];
            assert_true(driver.out[i] == expected[i]);
        }
    }
    driver_close(&driver);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_llama_costs_what_its_matrices_say),
        cmocka_unit_test(windows_bound_what_is_read),
        cmocka_unit_test(the_driver_runs_prompts_in_chunks_and_decodes),
        cmocka_unit_test(chunks_do_not_change_the_result),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
