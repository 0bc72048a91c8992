/* Program files: what is written comes back bit by bit, the same bytes each time, and nothing that
 * is damaged is taken. */
#include "base/file.h"
#include "base/hash.h"
#include "compiler/self_test.h"
#include "program/sdp_file.h"
#include "program/sdp_program.h"
#include "support/program_file.h"
#include "support/run_program.h"
#include "support/synthetic_program.h"
#include "text/tokenizer.h"
#include "tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_TOKENS = 40 };

static serverd_error err;
static char folder[] = "/tmp/serverd-sdp-XXXXXX";

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    return rmdir(folder);
}

static void path_of(const char *name, char out[96])
{
    (void)snprintf(out, 96, "%s/%s.sdp", folder, name);
}

static void write_file(const struct program *program, const char *path, uint32_t n_threads)
{
    if (program_file_write(program, program, path, n_threads, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
}

static struct program *open_file(const char *path)
{
    struct program *program;
    if (sdp_open(path, &program, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    return program;
}

static void fill_tokens(const struct program *program, int32_t tokens[N_TOKENS])
{
    for (uint32_t i = 0; i < N_TOKENS; i++)
        tokens[i] = (int32_t)(hash_mix(i) % program->config.n_vocab);
}

/* ---- the same answers ------------------------------------------------------------------------ */

static void expect_same_results(struct program *a, struct program *b, const char *name)
{
    /* the reference turns packed rows back */
    static const char *const devices[] = {"cpu", "cpu-reference", "fault:inner=cpu-reference"};
    int32_t tokens[N_TOKENS];
    fill_tokens(a, tokens);
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        float *x = run_program(a, devices[i], tokens, N_TOKENS);
        float *y = run_program(b, devices[i], tokens, N_TOKENS);
        if (memcmp(x, y, run_program_floats(a, N_TOKENS) * sizeof *x) != 0)
            fail_msg("%s on %s: the results differ", name, devices[i]);
        free(x);
        free(y);
    }
}

static void expect_same_texts(const struct program *a, const struct program *b)
{
    assert_int_equal(a->vocabulary.n_tokens, b->vocabulary.n_tokens);
    for (uint32_t i = 0; i < a->vocabulary.n_tokens; i++) {
        uint32_t n, m;
        const char *x = vocabulary_text(&a->vocabulary, i, &n),
                   *y = vocabulary_text(&b->vocabulary, i, &m);
        assert_int_equal(n, m);
        assert_memory_equal(x, y, n);
    }
    assert_int_equal(a->n_templates, b->n_templates);
    for (uint32_t i = 0; i < a->n_templates; i++) {
        assert_string_equal(a->templates[i].name, b->templates[i].name);
        assert_int_equal(a->templates[i].len, b->templates[i].len);
        assert_string_equal(a->templates[i].source, b->templates[i].source);
    }
    assert_memory_equal(&a->sampling, &b->sampling, sizeof a->sampling);
}

static void check_round_trip(const char *arch, const char *dtype)
{
    char path[96], name[32];
    (void)snprintf(name, sizeof name, "%s-%s", arch, dtype);
    path_of(name, path);
    struct program *source = synthetic_program(arch, dtype);
    write_file(source, path, 2);
    struct program *program = open_file(path);
    assert_string_equal(program->config.architecture, source->config.architecture);
    assert_string_equal(program->config.quantisation, source->config.quantisation);
    assert_int_equal(program->config.n_parameters, source->config.n_parameters);
    assert_true(program->has_id);
    expect_same_results(source, program, name);
    expect_same_texts(source, program);
    program_unref(source);
    program_unref(program);
    (void)unlink(path);
}

static void every_architecture_answers_as_its_source(void **state)
{
    (void)state;
    static const char *const names[] = {"llama",  "mistral3", "qwen2", "qwen3",
                                        "gemma2", "gemma3",   "phi3",  "bert"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        check_round_trip(names[i], "F32");
}

static void every_type_answers_as_its_source(void **state)
{
    (void)state;
    static const char *const types[] = {"F16", "BF16", "Q4_0", "Q8_0"};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        check_round_trip("qwen2", types[i]);
}

/* ---- the same bytes -------------------------------------------------------------------------- */

static void expect_same_bytes(const char *a, const char *b)
{
    char *x, *y;
    size_t n, m;
    assert_int_equal(file_read(a, 1 << 28, &x, &n, &err), SERVERD_OK);
    assert_int_equal(file_read(b, 1 << 28, &y, &m, &err), SERVERD_OK);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x);
    free(y);
}

static void the_bytes_do_not_depend_on_threads_or_names(void **state)
{
    (void)state;
    char a[96], b[96];
    path_of("a", a);
    path_of("b", b);
    struct program *source = synthetic_program("gemma3", "Q4_0");
    write_file(source, a, 1);
    write_file(source, b, 3);
    expect_same_bytes(a, b);
    program_unref(source);
    source = synthetic_program("gemma3", "Q4_0"); /* imported again */
    write_file(source, b, 2);
    expect_same_bytes(a, b);
    program_unref(source);
    (void)unlink(a);
    (void)unlink(b);
}

/* ---- damage ---------------------------------------------------------------------------------- */

struct damaged {
    char *bytes;
    size_t n;
    struct memory_file file;
};

static struct damaged make_damaged(void)
{
    struct damaged d;
    char path[96];
    path_of("whole", path);
    d.file = memory_file_create();
    struct program *source = synthetic_program("qwen2", "Q8_0");
    write_file(source, path, 2);
    program_unref(source);
    assert_int_equal(file_read(path, 1 << 28, &d.bytes, &d.n, &err), SERVERD_OK);
    (void)unlink(path);
    return d;
}

static void free_damaged(struct damaged *d)
{
    free(d->bytes);
    memory_file_close(&d->file);
}

static serverd_status try_open(const struct damaged *d, size_t n)
{
    struct program *program = NULL;
    memory_file_write(&d->file, d->bytes, n);
    serverd_status status = sdp_open(d->file.path, &program, &err);
    program_unref(program);
    return status;
}

static serverd_status try_verify(const struct damaged *d)
{
    struct sdp_file file;
    serverd_status status = sdp_file_open(d->file.path, &file, &err);
    if (status != SERVERD_OK)
        return status;
    status = sdp_file_verify(&file, NULL, NULL, &err);
    sdp_file_close(&file);
    return status;
}

static void a_flipped_byte_of_the_header_is_refused_by_field(void **state)
{
    (void)state;
    struct damaged d = make_damaged();
    for (size_t i = 0; i < sizeof(struct sdp_header); i++) {
        d.bytes[i] = (char)(d.bytes[i] ^ 0x55);
        if (try_open(&d, d.n) == SERVERD_OK)
            fail_msg("byte %zu is taken", i);
        if (!strstr(err.text, "header."))
            fail_msg("byte %zu: \"%s\"", i, err.text);
        d.bytes[i] = (char)(d.bytes[i] ^ 0x55);
    }
    assert_int_equal(try_open(&d, d.n), SERVERD_OK);
    free_damaged(&d);
}

static void a_cut_file_is_refused(void **state)
{
    (void)state;
    struct damaged d = make_damaged();
    for (size_t n = 0; n < d.n; n += n < 4096 ? 97 : 4096)
        if (try_open(&d, n) == SERVERD_OK)
            fail_msg("%zu of %zu bytes are taken", n, d.n);
    free_damaged(&d);
}

static void verifying_finds_every_flipped_bit(void **state)
{
    (void)state;
    struct damaged d = make_damaged();
    assert_int_equal(try_open(&d, d.n), SERVERD_OK);
    assert_int_equal(try_verify(&d), SERVERD_OK);
    for (uint64_t i = 0; i < 1000; i++) {
        size_t at = hash_mix(i) % d.n;
        char bit = (char)(1 << hash_mix(i + 77) % 8);
        d.bytes[at] = (char)(d.bytes[at] ^ bit);
        if (try_open(&d, d.n) == SERVERD_OK && try_verify(&d) == SERVERD_OK)
            fail_msg("bit %#x of byte %zu is not found", (unsigned)bit, at);
        d.bytes[at] = (char)(d.bytes[at] ^ bit);
    }
    free_damaged(&d);
}

/* ---- changes that are signed again ------------------------------------------------------------
 */

/* Makes checksum and ids right again after a change. */
static void sign(struct damaged *d)
{
    struct sdp_header *header = (void *)d->bytes;
    const struct sdp_section *sections = (const void *)(d->bytes + header->table_offset);
    sdp_compute_ids(header, sections, header->program_id, header->file_root);
    header->checksum = sdp_compute_checksum(header, sections);
}

static void expect_refusal(const struct damaged *d, serverd_status code, const char *text)
{
    serverd_status status = try_open(d, d->n);
    if (status != code || !strstr(err.text, text))
        fail_msg("%d \"%s\" does not say \"%s\"", status, err.text, text);
}

static struct sdp_section *find_section(struct damaged *d, uint32_t type)
{
    struct sdp_header *header = (void *)d->bytes;
    struct sdp_section *sections = (void *)(d->bytes + header->table_offset);
    for (uint32_t i = 0; i < header->n_sections; i++)
        if (sections[i].type == type)
            return &sections[i];
    return NULL;
}

/* ---- the plan --------------------------------------------------------------------------------
 */

struct plan_view {
    struct sdp_section *section;
    struct sdp_plan *head;
    struct sdp_plan_partition *partition;
    uint32_t *use;
    struct sdp_buffer *buffers;
};

static struct plan_view view_plan(struct damaged *d)
{
    struct plan_view v = {.section = find_section(d, SDP_PLAN)};
    assert_non_null(v.section);
    v.head = (void *)(d->bytes + v.section->offset);
    v.partition = (void *)(v.head + 1);
    v.use = (void *)(v.partition + 1);
    v.buffers = (void *)(v.use + (v.partition->n_nodes + 1) / 2 * 2);
    return v;
}

static void expect_bad_plan(struct damaged *d, const struct plan_view *v, const char *text)
{
    v->section->checksum = checksum64(v->head, v->section->stored_bytes);
    sign(d);
    expect_refusal(d, SERVERD_CORRUPT, text);
}

static void a_plan_whose_live_buffers_overlap_is_refused(void **state)
{
    (void)state;
    struct damaged d = make_damaged();
    struct plan_view v = view_plan(&d);
    const uint32_t n = v.partition->n_buffers;
    uint32_t n_tried = 0;
    assert_true(n > 10);
    for (uint64_t i = 0; i < 4000; i++) {
        struct sdp_buffer *a = &v.buffers[hash_mix(i) % n], *b = &v.buffers[hash_mix(~i) % n];
        if (a == b || a->first_use > b->last_use || b->first_use > a->last_use)
            continue;
        const uint64_t before = a->offset;
        a->offset = b->offset; /* the same bytes, or too many */
        expect_bad_plan(&d, &v, "PLAN.partition[0]: buffer[");
        a->offset = before;
        n_tried++;
    }
    assert_true(n_tried > 50);
    free_damaged(&d);
}

static void a_damaged_plan_is_refused_by_field(void **state)
{
    (void)state;
    struct damaged d = make_damaged();
    struct plan_view v = view_plan(&d);
    const uint32_t last = v.partition->n_buffers - 1;
#define EXPECT(field, value, text)                                                                 \
    do {                                                                                           \
        const __typeof__(field) before = field;                                                    \
        field = value;                                                                             \
        expect_bad_plan(&d, &v, text);                                                             \
        field = before;                                                                            \
    } while (0)
    EXPECT(v.head->n_partitions, 65, "PLAN.n_partitions");
    EXPECT(v.head->n_partitions, 2, "PLAN.partition[1]: first_node");
    EXPECT(v.head->n_partitions, 0, "bytes too many");
    EXPECT(v.head->reserved[43], 1, "reserved");
    EXPECT(v.head->max_rows, 65, "buffer[1]: offset: it overlaps");
    EXPECT(v.head->max_rows, UINT32_MAX, "buffer[");
    EXPECT(v.partition->first_node, 1, "n_nodes");
    EXPECT(v.partition->n_nodes, 0, "n_nodes");
    EXPECT(v.partition->n_buffers, UINT32_MAX, "n_buffers");
    EXPECT(v.partition->n_buffers, last, "bytes too many");
    EXPECT(v.partition->reserved, 1, "reserved");
    EXPECT(v.partition->delegate[15], 'x', "the delegate does not end");
    EXPECT(v.partition->arena_bytes, v.partition->arena_bytes - 64, "leaves the arena");
    EXPECT(v.partition->arena_bytes, UINT64_MAX, "arena_bytes");
    EXPECT(v.buffers[0].value, UINT32_MAX, "buffer[0]: value");
    EXPECT(v.buffers[0].offset, 4, "buffer[0]: offset");
    EXPECT(v.buffers[0].offset, UINT64_MAX - 63, "buffer[0]");
    EXPECT(v.buffers[0].row_bytes, v.buffers[0].row_bytes - 4, "row_bytes");
    EXPECT(v.buffers[0].fixed_bytes, UINT64_MAX, "row_bytes");
    EXPECT(v.buffers[last].first_use, 0, "first_use");
    EXPECT(v.buffers[last].last_use, 0, "last_use");
    EXPECT(v.buffers[1].value, v.buffers[0].value, "buffer[1]");
    EXPECT(v.use[0], 7, "node[0]: use: it writes");
    EXPECT(v.use[v.partition->n_nodes - 1], 0, "use: it reads");
#undef EXPECT
    sign(&d);
    v.section->checksum = checksum64(v.head, v.section->stored_bytes);
    sign(&d);
    assert_int_equal(try_open(&d, d.n), SERVERD_OK);
    free_damaged(&d);
}

/* Kernels read a matrix in the form that its flag asks for: what the graph does with it counts. */
static void a_matrix_is_one_whatever_its_flag_says(void **state)
{
    (void)state;
    static const int32_t tokens[] = {0, 1, 2, 3};
    struct damaged d = make_damaged();
    float *results[2];
    size_t bytes = 0;
    for (uint32_t flags = 0; flags <= SERVERD_TENSOR_OF_LINEAR; flags++) {
        struct program *program;
        struct sdp_section *section = find_section(&d, SDP_TENS);
        struct sdp_tensor *tensors = (void *)(d.bytes + section->offset);
        for (size_t i = 0; i < section->stored_bytes / sizeof *tensors; i++)
            tensors[i].flags = flags;
        section->checksum = checksum64(tensors, section->stored_bytes);
        sign(&d);
        memory_file_write(&d.file, d.bytes, d.n);
        assert_int_equal(sdp_open(d.file.path, &program, &err), SERVERD_OK);
        results[flags] = run_program(program, "cpu", tokens, 4);
        bytes = run_program_floats(program, 4) * sizeof **results;
        program_unref(program);
    }
    assert_memory_equal(results[0], results[1], bytes);
    free(results[0]);
    free(results[1]);
    free_damaged(&d);
}

/* ---- later versions -------------------------------------------------------------------------- */

static void what_a_later_version_needs_is_refused_by_name(void **state)
{
    (void)state;
    struct damaged d = make_damaged();
    struct sdp_header *header = (void *)d.bytes;
    header->required |= SDP_NEEDS_EXPERTS;
    sign(&d);
    expect_refusal(&d, SERVERD_VERSION, "bit 3 (experts)");
    header->required = (uint64_t)1 << 50;
    sign(&d);
    expect_refusal(&d, SERVERD_VERSION, "bit 50");
    header->required = 0;
    header->major = 2;
    sign(&d);
    expect_refusal(&d, SERVERD_VERSION, "header.major");
    header->major = 1;
    struct sdp_section *graph = find_section(&d, SDP_GRPH);
    struct sdp_graph *head = (void *)(d.bytes + graph->offset);
    struct sdp_node *node = (void *)(d.bytes + graph->offset + sizeof *head +
                                     head->n_values * sizeof(struct sdp_value));
    node->op_version = 2;
    graph->checksum = checksum64(head, graph->stored_bytes);
    sign(&d);
    expect_refusal(&d, SERVERD_VERSION, "version 2 is not known");
    free_damaged(&d);
}

static void what_a_later_version_adds_is_passed_over(void **state)
{
    (void)state;
    struct damaged d = make_damaged();
    struct sdp_header *header = (void *)d.bytes;
    header->minor = 7;
    header->optional = 1;
    struct sdp_section *meta = find_section(&d, SDP_META);
    assert_non_null(meta);
    meta->type = SDP_TYPE('N', 'E', 'W', '1');
    meta->version = 9;
    sign(&d);
    assert_int_equal(try_open(&d, d.n), SERVERD_OK);
    meta->flags |= SDP_REQUIRED;
    sign(&d);
    expect_refusal(&d, SERVERD_VERSION, "NEW1");
    free_damaged(&d);
}

/* ---- files of earlier versions --------------------------------------------------------------- */

/* The smallest model, written by each minor version: tests/data/sdp/tiny-1.N.sdp. A later writer
 * may write other bytes; every later reader must read these. Made by `test_sdp --make FILE`. */
static const char *const golden_files[] = {"tiny-1.0.sdp", "tiny-1.1.sdp"};
#define GOLDEN_CHECKSUM UINT64_C(0x86da9cd1ba60ecd5)

static const char *data_folder;

static struct program *tiny_program(void)
{
    struct gguf_writer writer;
    struct buffer bytes;
    struct program *program;
    gguf_writer_init(&writer);
    tiny_model_write(&writer, NULL);
    buffer_init(&bytes, 1 << 24);
    gguf_writer_finish(&writer, &bytes);
    assert_int_equal(compile_bytes(bytes.data, bytes.len, &program, &err), SERVERD_OK);
    buffer_deinit(&bytes);
    gguf_writer_deinit(&writer);
    return program;
}

static uint64_t checksum_of_results(struct program *program)
{
    static const int32_t tokens[] = {0, 3, 1, 2, 0};
    float *out = run_program(program, "cpu", tokens, 5);
    uint64_t checksum = checksum64(out, run_program_floats(program, 5) * sizeof *out);
    free(out);
    return checksum;
}

static uint32_t n_cases_of(const char *path)
{
    struct worker_pool *pool;
    struct self_test_result result;
    assert_int_equal(worker_pool_create(1, &pool, &err), SERVERD_OK);
    const struct self_test_options options = {
        .path = path, .device = "cpu", .rows = 64, .pool = pool};
    if (self_test_run(&options, &result, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    worker_pool_destroy(pool);
    return result.n_cases;
}

static void golden_files_are_read_as_they_were_meant(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < sizeof golden_files / sizeof *golden_files; i++) {
        char path[512];
        (void)snprintf(path, sizeof path, "%s/sdp/%s", data_folder, golden_files[i]);
        struct program *program = open_file(path);
        assert_int_equal(program->config.n_vocab, 4);
        assert_int_equal(program->n_plans, i > 0);     /* since 1.1 */
        assert_int_equal(n_cases_of(path) > 0, i > 0); /* likewise */
        if (checksum_of_results(program) != GOLDEN_CHECKSUM)
            fail_msg("%s: the results have the checksum %#llx", path,
                     (unsigned long long)checksum_of_results(program));
        program_unref(program);
    }
}

static int make_golden(const char *path)
{
    struct program *program = tiny_program();
    write_file(program, path, 1);
    (void)printf("GOLDEN_CHECKSUM UINT64_C(%#llx)\n",
                 (unsigned long long)checksum_of_results(program));
    program_unref(program);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--make") == 0)
        return make_golden(argv[2]);
    data_folder = argc > 1 ? argv[1] : ".";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_files_are_read_as_they_were_meant),
        cmocka_unit_test(every_architecture_answers_as_its_source),
        cmocka_unit_test(every_type_answers_as_its_source),
        cmocka_unit_test(the_bytes_do_not_depend_on_threads_or_names),
        cmocka_unit_test(a_flipped_byte_of_the_header_is_refused_by_field),
        cmocka_unit_test(a_cut_file_is_refused),
        cmocka_unit_test(verifying_finds_every_flipped_bit),
        cmocka_unit_test(a_plan_whose_live_buffers_overlap_is_refused),
        cmocka_unit_test(a_damaged_plan_is_refused_by_field),
        cmocka_unit_test(a_matrix_is_one_whatever_its_flag_says),
        cmocka_unit_test(what_a_later_version_needs_is_refused_by_name),
        cmocka_unit_test(what_a_later_version_adds_is_passed_over),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
