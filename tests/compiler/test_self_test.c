/* The self-test of program files: it passes wherever they run, and finds what was changed. */
#include "base/file.h"
#include "base/hash.h"
#include "compiler/sdp_write.h"
#include "compiler/verify_file.h"
#include "kernels/builtin.h"
#include "program/sdp_program.h"
#include "program/sdp_test.h"
#include "support/program_file.h"
#include "support/synthetic_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static serverd_error err;
static char folder[] = "/tmp/serverd-self-test-XXXXXX", path[64], other_path[64];

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    (void)snprintf(path, sizeof path, "%s/a.sdp", folder);
    (void)snprintf(other_path, sizeof other_path, "%s/b-with-a-longer-name.sdp", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return rmdir(folder);
}

static struct worker_pool *make_pool(uint32_t n_threads)
{
    struct worker_pool *pool;
    assert_int_equal(worker_pool_create(n_threads, &pool, &err), SERVERD_OK);
    return pool;
}

/* ---- making and running ---------------------------------------------------------------------- */

static void write_file(const struct program *program, const char *to, uint32_t n_threads)
{
    if (program_file_write(program, program, to, n_threads, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
}

static serverd_status run_on(const char *file, const char *device, uint32_t rows,
                             struct self_test_result *out)
{
    struct worker_pool *pool = make_pool(2);
    const struct self_test_options options = {
        .path = file, .device = device, .rows = rows, .pool = pool};
    serverd_status status = self_test_run(&options, out, &err);
    worker_pool_destroy(pool);
    return status;
}

static void expect_pass(const char *device, uint32_t rows, const char *what)
{
    struct self_test_result result;
    if (run_on(path, device, rows, &result) != SERVERD_OK)
        fail_msg("%s on %s, %u rows: %s", what, device, rows, err.text);
    assert_in_range(result.n_cases, 1, LIMIT_TEST_CASES);
}

/* ---- it passes ------------------------------------------------------------------------------- */

static void check_architecture(const char *arch, const char *dtype)
{
    struct program *program = synthetic_program(arch, dtype);
    write_file(program, path, 2);
    expect_pass("cpu", 512, arch);
    expect_pass("cpu", 7, arch); /* prompts in pieces */
    expect_pass("cpu:isa=generic", 64, arch);
    expect_pass("cpu-reference", 64, arch); /* other bits, near enough */
    program_unref(program);
    (void)unlink(path);
}

static void every_architecture_passes_on_every_level(void **state)
{
    (void)state;
    static const char *const names[] = {"llama",  "mistral3", "qwen2", "qwen3",
                                        "gemma2", "gemma3",   "phi3",  "bert"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        check_architecture(names[i], i % 2 ? "Q8_0" : "F32");
}

static void a_file_without_tests_has_no_cases(void **state)
{
    (void)state;
    struct program *program = synthetic_program("llama", "Q4_0");
    struct worker_pool *pool = make_pool(1);
    struct self_test_result result;
    const struct sdp_write_options options = {
        .path = path, .delegate = builtin_delegate("cpu"), .pool = pool};
    assert_int_equal(sdp_write(program, &options, &err), SERVERD_OK);
    assert_int_equal(run_on(path, "cpu", 64, &result), SERVERD_OK);
    assert_int_equal(result.n_cases, 0);
    worker_pool_destroy(pool);
    program_unref(program);
    (void)unlink(path);
}

static void the_bytes_do_not_depend_on_threads_or_names(void **state)
{
    (void)state;
    static const char *const names[] = {"gemma3", "bert"};
    for (size_t i = 0; i < 2; i++) {
        struct program *program = synthetic_program(names[i], "F16");
        char *a, *b;
        size_t n, m;
        write_file(program, path, 1);
        write_file(program, other_path, 3);
        assert_int_equal(file_read(path, 1 << 28, &a, &n, &err), SERVERD_OK);
        assert_int_equal(file_read(other_path, 1 << 28, &b, &m, &err), SERVERD_OK);
        assert_int_equal(n, m);
        assert_memory_equal(a, b, n);
        free(a);
        free(b);
        program_unref(program);
        (void)unlink(path);
        (void)unlink(other_path);
    }
}

/* ---- it finds ---------------------------------------------------------------------------------
 */

/* A whole file in memory; checksums and hashes of what is changed are made right again. */
struct image {
    char *bytes;
    size_t n;
    struct sdp_header *header;
    struct sdp_section *sections;
};

static struct image read_image(void)
{
    struct image image;
    assert_int_equal(file_read(path, 1 << 28, &image.bytes, &image.n, &err), SERVERD_OK);
    image.header = (void *)image.bytes;
    image.sections = (void *)(image.bytes + image.header->table_offset);
    return image;
}

static struct sdp_section *section_of(const struct image *image, uint32_t type)
{
    for (uint32_t i = 0; i < image->header->n_sections; i++)
        if (image->sections[i].type == type)
            return &image->sections[i];
    fail_msg("there is no such section");
    return NULL;
}

static serverd_status run_image(const struct image *image, struct self_test_result *out)
{
    struct memory_file file = memory_file_create();
    struct sdp_section *tests = section_of(image, SDP_TEST);
    tests->checksum = checksum64(image->bytes + tests->offset, tests->stored_bytes);
    sdp_compute_ids(image->header, image->sections, image->header->program_id,
                    image->header->file_root);
    image->header->checksum = sdp_compute_checksum(image->header, image->sections);
    memory_file_write(&file, image->bytes, image->n);
    serverd_status status = run_on(file.path, "cpu", 512, out);
    memory_file_close(&file);
    return status;
}

/* The forms of a layer's matrices: every bit of them is used. Norms and the like are too few. */
static bool is_of_layer(const struct image *image, const struct sdp_form *form)
{
    const struct sdp_tensor *tensors =
        (const void *)(image->bytes + section_of(image, SDP_TENS)->offset);
    const char *strings = image->bytes + section_of(image, SDP_STRS)->offset;
    const struct sdp_tensor *tensor = &tensors[form->tensor];
    return tensor->rank == 2 && strncmp(strings + tensor->name, "blk.", 4) == 0;
}

static void a_changed_weight_is_found(void **state)
{
    (void)state;
    struct program *program = synthetic_program("llama", "F16");
    write_file(program, path, 2);
    struct image image = read_image();
    const struct sdp_section *section = section_of(&image, SDP_FORM);
    const struct sdp_form *forms = (const void *)(image.bytes + section->offset);
    struct self_test_result result;
    assert_int_equal(run_image(&image, &result), SERVERD_OK);
    uint32_t n_tried = 0;
    for (uint64_t i = 0; n_tried < 100; i++) {
        const struct sdp_form *form = &forms[hash_mix(i) % section->n_items];
        if (!is_of_layer(&image, form))
            continue;
        /* the upper bits of the fraction of an f16 */
        size_t at = form->offset + hash_mix(i + 1000000) % (form->bytes / 2) * 2 + 1;
        image.bytes[at] ^= 3;
        const serverd_status status = run_image(&image, &result);
        if (status != SERVERD_NUMERIC || !strstr(err.text, "self-test: case "))
            fail_msg("byte %zu of tensor %u: %d %s", at, form->tensor, status, err.text);
        image.bytes[at] ^= 3;
        n_tried++;
    }
    free(image.bytes);
    program_unref(program);
    (void)unlink(path);
}

static void weights_of_another_model_are_not_written(void **state)
{
    (void)state;
    static const char *const names[] = {"qwen2", "bert"};
    for (size_t i = 0; i < 2; i++) {
        struct program *program = synthetic_program(names[i], "Q8_0");
        struct program *source = synthetic_program(names[i], "Q8_0");
        /* as if packing had gone wrong: a matrix has the rows of the next one of its shape */
        serverd_tensor *tensors = (serverd_tensor *)source->graph.tensors;
        for (uint32_t a = 0; a < source->graph.n_tensors; a++)
            for (uint32_t b = a + 1; b < source->graph.n_tensors; b++)
                if (tensors[a].rank == 2 && tensors[b].rank == 2 &&
                    tensors[a].dims[0] == tensors[b].dims[0] &&
                    tensors[a].bytes == tensors[b].bytes) {
                    tensors[a].data = tensors[b].data;
                    break;
                }
        assert_int_equal(program_file_write(program, source, path, 2, &err), SERVERD_NUMERIC);
        assert_non_null(strstr(err.text, "self-test: case "));
        assert_int_not_equal(access(path, F_OK), 0);
        program_unref(program);
        program_unref(source);
    }
}

static void another_greedy_token_is_named_with_its_position(void **state)
{
    (void)state;
    struct program *program = synthetic_program("qwen3", "Q8_0");
    write_file(program, path, 2);
    struct image image = read_image();
    struct sdp_test_case *c =
        (void *)(image.bytes + section_of(&image, SDP_TEST)->offset + sizeof(struct sdp_test));
    uint64_t *checksums = (void *)(c + 1);
    int32_t *greedy = (int32_t *)(void *)(checksums + c->n_positions) + c->n_tokens;
    struct self_test_result result;
    greedy[3] ^= 1;
    assert_int_equal(run_image(&image, &result), SERVERD_NUMERIC);
    assert_non_null(strstr(err.text, "case 0 of 8 tokens, position 11: the likeliest token is"));
    greedy[3] ^= 1;
    checksums[5] ^= 1;
    assert_int_equal(run_image(&image, &result), SERVERD_NUMERIC);
    assert_non_null(
        strstr(err.text, "case 0 of 8 tokens, position 5: the row of logits has the checksum"));
    free(image.bytes);
    program_unref(program);
    (void)unlink(path);
}

/* An Inf or NaN in a row that no text of the test has is no less wrong. */
static void a_weight_that_is_no_number_is_found(void **state)
{
    (void)state;
    static const char *const dtypes[] = {"F32", "F16", "Q8_0", "Q4_0"};
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        struct program *program = synthetic_program("llama", dtypes[d]);
        struct worker_pool *pool;
        write_file(program, path, 2);
        program_unref(program);
        struct image image = read_image();
        assert_int_equal(worker_pool_create(2, &pool, &err), SERVERD_OK);
        const struct sdp_section *section = section_of(&image, SDP_FORM);
        const struct sdp_form *forms = (const void *)(image.bytes + section->offset);
        uint32_t n_tried = 0, n_found = 0;
        for (uint64_t i = 0; i < 40; i++) {
            const struct sdp_form *form = &forms[hash_mix(i) % section->n_items];
            if (!is_of_layer(&image, form))
                continue;
            /* exponents all ones, whether numbers or scales lie there */
            char *bytes = image.bytes + form->offset, saved[64];
            memcpy(saved, bytes, sizeof saved);
            memset(bytes, 0x7f, sizeof saved);
            memset(bytes + 2, 0xff, 2);
            struct memory_file file = memory_file_create();
            memory_file_write(&file, image.bytes, image.n);
            assert_int_equal(sdp_open(file.path, &program, &err), SERVERD_OK);
            n_found += verify_weights(program, pool, &err) == SERVERD_CORRUPT &&
                       strstr(err.text, "tensor blk.") && strstr(err.text, "not finite");
            program_unref(program);
            memory_file_close(&file);
            memcpy(bytes, saved, sizeof saved);
            n_tried++;
        }
        struct memory_file file = memory_file_create();
        memory_file_write(&file, image.bytes, image.n);
        assert_int_equal(sdp_open(file.path, &program, &err), SERVERD_OK);
        assert_int_equal(verify_weights(program, pool, &err), SERVERD_OK);
        program_unref(program);
        memory_file_close(&file);
        if (n_found != n_tried || n_tried == 0)
            fail_msg("%s: %u of %u are found", dtypes[d], n_found, n_tried);
        worker_pool_destroy(pool);
        free(image.bytes);
        (void)unlink(path);
    }
}

/* ---- hostile sections ------------------------------------------------------------------------ */

static void a_damaged_section_is_refused_by_field(void **state)
{
    (void)state;
    enum {
        HEAD = 0,
        CASE = sizeof(struct sdp_test),
        IDS = CASE + sizeof(struct sdp_test_case) + 8 * sizeof(uint64_t)
    };
    static const struct {
        size_t at;
        uint32_t value;
        const char *text;
    } changes[] = {
        {HEAD + offsetof(struct sdp_test, n_cases), 0, "n_cases"},
        {HEAD + offsetof(struct sdp_test, n_cases), 4, "TEST.case[3]: n_tokens"},
        {HEAD + offsetof(struct sdp_test, n_cases), UINT32_MAX, "n_cases"},
        {HEAD + offsetof(struct sdp_test, n_cases), 2, "bytes too many"},
        {HEAD + offsetof(struct sdp_test, n_top), 0, "n_top"},
        {HEAD + offsetof(struct sdp_test, n_top), 65, "n_top"},
        {HEAD + offsetof(struct sdp_test, kv_dtype), 77, "kv_dtype"},
        {HEAD + offsetof(struct sdp_test, kl_limit), 0x7fc00000, "kl_limit"},
        {HEAD + offsetof(struct sdp_test, reserved), 1, "reserved"},
        {CASE + offsetof(struct sdp_test_case, n_tokens), 0, "TEST.case[0]: n_tokens"},
        {CASE + offsetof(struct sdp_test_case, n_tokens), UINT32_MAX, "n_tokens"},
        {CASE + offsetof(struct sdp_test_case, n_greedy), UINT32_MAX, "n_greedy"},
        {CASE + offsetof(struct sdp_test_case, n_positions), 0, "n_positions"},
        {CASE + offsetof(struct sdp_test_case, n_positions), UINT32_MAX, "n_positions"},
        {CASE + offsetof(struct sdp_test_case, n_values), 1, "n_positions"},
        {CASE + offsetof(struct sdp_test_case, reserved), 1, "reserved"},
        {IDS, 0x7fffffff, "token: "},
        {IDS + 4 * 8, UINT32_MAX, "greedy: "},
        {IDS + 4 * (8 + 16), 5, "position: "},
        {IDS + 4 * (8 + 16 + 8), UINT32_MAX, "top: "},
        {IDS + 4 * (8 + 16 + 8 + 8 * 20), 0x7f800000, "log_p: "},
    };
    struct program *program = synthetic_program("llama", "Q8_0");
    write_file(program, path, 2);
    struct image image = read_image();
    char *section = image.bytes + section_of(&image, SDP_TEST)->offset;
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        struct self_test_result result;
        uint32_t before;
        memcpy(&before, section + changes[i].at, sizeof before);
        memcpy(section + changes[i].at, &changes[i].value, sizeof before);
        const serverd_status status = run_image(&image, &result);
        if ((status != SERVERD_CORRUPT && status != SERVERD_VERSION) ||
            !strstr(err.text, "sdp: TEST") || !strstr(err.text, changes[i].text))
            fail_msg("change %zu: %d \"%s\" does not say \"%s\"", i, status, err.text,
                     changes[i].text);
        memcpy(section + changes[i].at, &before, sizeof before);
    }
    free(image.bytes);
    program_unref(program);
    (void)unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture_passes_on_every_level),
        cmocka_unit_test(a_file_without_tests_has_no_cases),
        cmocka_unit_test(the_bytes_do_not_depend_on_threads_or_names),
        cmocka_unit_test(a_changed_weight_is_found),
        cmocka_unit_test(a_weight_that_is_no_number_is_found),
        cmocka_unit_test(weights_of_another_model_are_not_written),
        cmocka_unit_test(another_greedy_token_is_named_with_its_position),
        cmocka_unit_test(a_damaged_section_is_refused_by_field),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
