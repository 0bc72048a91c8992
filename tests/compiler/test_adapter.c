/* Adapters: GGUF, PEFT and adapter files are one, on bases of either order of rows; back-ends
 * agree; damaged files of every kind are refused or sound. */
#include "base/file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "compiler/adapter_files.h"
#include "compiler/adapter_import.h"
#include "compiler/compile.h"
#include "kernels/builtin.h"
#include "program/adapter_file.h"
#include "program/dtype.h"
#include "program/sdp_file.h"
#include "runtime/runtime.h"
#include "support/synthetic_folder.h"
#include "support/synthetic_program.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { RANK = 5, N_TOKENS = 20, N_SEQS = 5, MAX_PAGES = 2, SEED = 3 };

static serverd_error err;
static char folder[64], gguf_path[96], peft_path[96], sdp_path[96];
static struct program *base;
static struct buffer gguf, config, weights;

static void write_file(const char *path, const void *bytes, size_t n)
{
    assert_int_equal(file_write_atomic(path, bytes, n, &err), SERVERD_OK);
}

static void write_peft(void)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/adapter_config.json", peft_path);
    write_file(path, config.data, config.len);
    (void)snprintf(path, sizeof path, "%s/adapter_model.safetensors", peft_path);
    write_file(path, weights.data, weights.len);
}

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/test_adapter_XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    (void)snprintf(gguf_path, sizeof gguf_path, "%s/a.gguf", folder);
    (void)snprintf(peft_path, sizeof peft_path, "%s/peft", folder);
    (void)snprintf(sdp_path, sizeof sdp_path, "%s/a.sdp", folder);
    if (mkdir(peft_path, 0700) != 0)
        return -1;
    base = synthetic_program("llama", "F32");
    buffer_init(&gguf, 1 << 24);
    buffer_init(&config, 1 << 16);
    buffer_init(&weights, 1 << 24);
    adapter_files_gguf(base, RANK, SEED, &gguf);
    adapter_files_peft(base, RANK, SEED, &config, &weights);
    write_file(gguf_path, gguf.data, gguf.len);
    write_peft();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", folder);
    program_unref(base);
    buffer_deinit(&gguf);
    buffer_deinit(&config);
    buffer_deinit(&weights);
    return system(command);
}

static struct adapter *import(const char *path, const struct program *program)
{
    struct adapter *adapter = NULL;
    if (adapter_import(path, program, &adapter, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    return adapter;
}

static void check_equal(const struct adapter *a, const struct adapter *b)
{
    assert_memory_equal(a->id, b->id, sizeof a->id);
    assert_memory_equal(a->shape_id, b->shape_id, sizeof a->shape_id);
    assert_int_equal(a->n_sites, b->n_sites);
    assert_int_equal(a->max_rank, b->max_rank);
    for (uint32_t i = 0; i < a->n_sites; i++) {
        const struct adapter_site *x = &a->sites[i], *y = &b->sites[i];
        assert_string_equal(x->tensor, y->tensor);
        assert_true(f32_bits(x->scale) == f32_bits(y->scale));
        assert_memory_equal(x->a, y->a, sizeof(float) * x->rank * x->n_in);
        assert_memory_equal(x->b, y->b, sizeof(float) * x->rank * x->n_out);
    }
}

/* ---- forms ----------------------------------------------------------------------------------- */

static void all_forms_are_one_adapter(void **state)
{
    (void)state;
    char *first, *second;
    size_t n, m;
    struct adapter *a = import(gguf_path, base), *b = import(peft_path, base), *c;
    check_equal(a, b);
    assert_int_equal(adapter_write(a, sdp_path, &err), SERVERD_OK);
    assert_int_equal(file_read(sdp_path, 1 << 24, &first, &n, &err), SERVERD_OK);
    assert_int_equal(adapter_write(b, sdp_path, &err), SERVERD_OK);
    assert_int_equal(file_read(sdp_path, 1 << 24, &second, &m, &err), SERVERD_OK);
    assert_int_equal(n, m);
    assert_memory_equal(first, second, n); /* bytes depend on the adapter alone */
    c = import(sdp_path, base);
    check_equal(a, c);
    free(first);
    free(second);
    adapter_destroy(a);
    adapter_destroy(b);
    adapter_destroy(c);
}

static void quantised_bases_have_the_same_shape(void **state)
{
    (void)state;
    struct adapter *a = import(gguf_path, base), *b;
    struct program *quantised = synthetic_program("llama", "Q8_0");
    assert_int_equal(adapter_write(a, sdp_path, &err), SERVERD_OK);
    b = import(sdp_path, quantised);
    check_equal(a, b);
    program_unref(quantised);
    adapter_destroy(a);
    adapter_destroy(b);
}

static struct program *folder_program(void)
{
    char path[96];
    struct program *program = NULL;
    const struct synthetic_folder what = {"llama", "F32", 1, false};
    (void)snprintf(path, sizeof path, "%s/base", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(synthetic_folder(path, &what, &err), SERVERD_OK);
    assert_int_equal(compile_model(&(struct compile_options){.path = path}, &program, &err),
                     SERVERD_OK);
    return program;
}

/* ---- results --------------------------------------------------------------------------------- */

/* Logits of all rows of N_SEQS sequences; sequence s has the slot s % 3 - 1: none, 0, 1. Without
 * adapters if both are NULL; free(). */
static float *compute(struct program *program, const char *device, const struct adapter *first,
                      const struct adapter *second)
{
    enum { ROWS = N_TOKENS * N_SEQS };
    int32_t token[ROWS], position[ROWS];
    uint32_t row_seq[ROWS], rows[ROWS], pages[N_SEQS * MAX_PAGES], slot[N_SEQS];
    float scale[N_SEQS];
    struct worker_pool *pool;
    struct runtime *runtime;
    for (uint32_t i = 0; i < ROWS; i++) {
        token[i] = (int32_t)(hash_mix(i) % program->config.n_vocab);
        position[i] = (int32_t)(i % N_TOKENS);
        row_seq[i] = i / N_TOKENS;
        rows[i] = i;
    }
    for (uint32_t s = 0; s < N_SEQS; s++) {
        slot[s] = s % 3 == 0 ? SERVERD_NO_ADAPTER : s % 3 - 1;
        scale[s] = s < 3 ? 1.0f : 0.5f;
        for (uint32_t p = 0; p < MAX_PAGES; p++)
            pages[s * MAX_PAGES + p] = s * MAX_PAGES + p;
    }
    assert_int_equal(worker_pool_create(2, &pool, &err), SERVERD_OK);
    const struct runtime_options options = {.delegates = builtin_delegates,
                                            .n_delegates = n_builtin_delegates,
                                            .device = device,
                                            .pool = pool,
                                            .limits = {.max_rows = ROWS,
                                                       .max_logit_rows = ROWS,
                                                       .max_seqs = N_SEQS,
                                                       .max_context = 32,
                                                       .max_adapters = 2,
                                                       .max_adapter_rank = RANK},
                                            .kv_dtype = DTYPE_F32};
    if (runtime_open(program, &options, &runtime, &err) != SERVERD_OK ||
        (first && runtime_adapter_set(runtime, 0, first, &err) != SERVERD_OK) ||
        (second && runtime_adapter_set(runtime, 1, second, &err) != SERVERD_OK))
        fail_msg("%s", err.text);
    serverd_batch batch = {.struct_bytes = sizeof batch,
                           .n_rows = ROWS,
                           .n_seqs = N_SEQS,
                           .n_logit_rows = ROWS,
                           .token = token,
                           .position = position,
                           .row_seq = row_seq,
                           .page_table = pages,
                           .max_pages = MAX_PAGES,
                           .logit_row = rows};
    if (first) {
        batch.adapter_slot = slot;
        batch.adapter_scale = scale;
    }
    float *out = calloc((size_t)ROWS * program->config.n_vocab, sizeof *out);
    assert_non_null(out);
    if (runtime_execute(runtime, &batch, out, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    runtime_close(runtime);
    worker_pool_destroy(pool);
    return out;
}

static double greatest_difference(const float *a, const float *b, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return most;
}

static void back_ends_and_bases_agree(void **state)
{
    (void)state;
    struct buffer other;
    buffer_init(&other, 1 << 24);
    adapter_files_gguf(base, RANK - 2, SEED + 1, &other);
    char other_path[96];
    (void)snprintf(other_path, sizeof other_path, "%s/other.gguf", folder);
    write_file(other_path, other.data, other.len);
    struct program *halves = folder_program();
    struct adapter *a = import(gguf_path, base), *b = import(other_path, base);
    struct adapter *c = import(gguf_path, halves), *d = import(peft_path, halves),
                   *e = import(other_path, halves);
    check_equal(c, d); /* in the folder's order of rows, whatever form it came in */
    assert_memory_not_equal(a->id, c->id, sizeof a->id);
    size_t seq = (size_t)N_TOKENS * base->config.n_vocab, n = seq * N_SEQS;
    float *plain = compute(base, "cpu", NULL, NULL), *cpu = compute(base, "cpu", a, b);
    float *exact = compute(base, "cpu-reference", a, b), *folded = compute(halves, "cpu", d, e);
    assert_true(greatest_difference(cpu, exact, n) < 1e-3);
    assert_true(greatest_difference(cpu, folded, n) < 1e-3);
    for (uint32_t s = 0; s < N_SEQS; s++)
        if (s % 3 == 0)
            assert_memory_equal(cpu + s * seq, plain + s * seq, seq * sizeof *cpu);
        else
            assert_true(greatest_difference(cpu + s * seq, plain + s * seq, seq) > 0.01);
    /* a row's result does not depend on what the others have */
    float *swapped = compute(base, "cpu", a, a);
    assert_memory_equal(cpu + seq, swapped + seq, seq * sizeof *cpu);
    assert_memory_not_equal(cpu + 2 * seq, swapped + 2 * seq, seq * sizeof *cpu);
    free(plain);
    free(cpu);
    free(exact);
    free(folded);
    free(swapped);
    adapter_destroy(a);
    adapter_destroy(b);
    adapter_destroy(c);
    adapter_destroy(d);
    adapter_destroy(e);
    program_unref(halves);
    buffer_deinit(&other);
}

/* The base without an adapter file that was made for the other order of rows. */
static void the_other_order_of_rows_is_refused(void **state)
{
    (void)state;
    char path[96];
    struct program *halves = NULL;
    struct adapter *a = import(gguf_path, base), *b;
    (void)snprintf(path, sizeof path, "%s/base", folder);
    assert_int_equal(compile_model(&(struct compile_options){.path = path}, &halves, &err),
                     SERVERD_OK);
    assert_int_equal(adapter_write(a, sdp_path, &err), SERVERD_OK);
    assert_int_equal(adapter_import(sdp_path, halves, &b, &err), SERVERD_INVALID);
    assert_non_null(strstr(err.text, "another order"));
    adapter_destroy(a);
    program_unref(halves);
}

/* ---- hostile files --------------------------------------------------------------------------- */

static void try_import(const char *path)
{
    struct adapter *adapter = NULL;
    if (adapter_import(path, base, &adapter, &err) == SERVERD_OK)
        adapter_destroy(adapter);
    else if (err.text[0] == '\0')
        fail_msg("%s: refused without a reason", path);
}

static void every_changed_byte_of_an_adapter_file_is_found(void **state)
{
    (void)state;
    struct adapter *a = import(gguf_path, base), *b;
    char *bytes;
    size_t n;
    assert_int_equal(adapter_write(a, sdp_path, &err), SERVERD_OK);
    assert_int_equal(file_read(sdp_path, 1 << 24, &bytes, &n, &err), SERVERD_OK);
    struct memory_file file = memory_file_create();
    for (uint64_t i = 0; i < 1000; i++) {
        size_t at = i < 256 ? i : hash_mix(i) % n;
        char before = bytes[at];
        struct sdp_file opened;
        bytes[at] = (char)(before ^ (1 << hash_mix(i + 7777) % 8));
        memory_file_write(&file, bytes, n);
        serverd_status status = adapter_file_open(file.path, &b, &err);
        if (status == SERVERD_OK) { /* a hash, or between sections: verify sees it */
            adapter_destroy(b);
            assert_int_equal(sdp_file_open_kind(file.path, SDP_KIND_ADAPTER, &opened, &err),
                             SERVERD_OK);
            if (sdp_file_verify(&opened, NULL, NULL, &err) == SERVERD_OK)
                fail_msg("byte %zu", at);
            sdp_file_close(&opened);
        }
        bytes[at] = before;
    }
    for (size_t len = 0; len < n; len += 512) {
        memory_file_write(&file, bytes, len);
        assert_int_not_equal(adapter_file_open(file.path, &b, &err), SERVERD_OK);
    }
    memory_file_close(&file);
    free(bytes);
    adapter_destroy(a);
}

static void damaged_sources_are_refused_or_sound(void **state)
{
    (void)state;
    struct memory_file file = memory_file_create();
    for (uint64_t i = 0; i < 3000; i++) {
        size_t n = gguf.len < 8192 ? gguf.len : 8192, at = hash_mix(i) % n;
        char before = gguf.data[at];
        gguf.data[at] = (char)hash_mix(i + 999);
        memory_file_write(&file, gguf.data, i % 8 ? gguf.len : at);
        try_import(file.path);
        gguf.data[at] = before;
    }
    memory_file_close(&file);
    for (uint64_t i = 0; i < 1500; i++) {
        struct buffer *which = i % 3 == 0 ? &config : &weights;
        size_t n = which->len < 6000 ? which->len : 6000, at = hash_mix(i) % n;
        char before = which->data[at];
        which->data[at] = (char)hash_mix(i + 999);
        write_peft();
        try_import(peft_path);
        which->data[at] = before;
    }
    write_peft();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_forms_are_one_adapter),
        cmocka_unit_test(quantised_bases_have_the_same_shape),
        cmocka_unit_test(back_ends_and_bases_agree),
        cmocka_unit_test(the_other_order_of_rows_is_refused),
        cmocka_unit_test(every_changed_byte_of_an_adapter_file_is_found),
        cmocka_unit_test(damaged_sources_are_refused_or_sound),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
