/* Any bytes as a program file; and a sound one with some bytes changed and its checksums made right
 * again, so that what lies behind them is reached. What is taken is run. */
#include "base/hash.h"
#include "compiler/self_test.h"
#include "compiler/tiny_model.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "program/sdp_file.h"
#include "program/sdp_program.h"
#include "runtime/runtime.h"
#include "support/program_file.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_TOKENS = 5, MAX_DIM = 4096 };

static struct worker_pool *pool;
static char *whole;
static size_t n_whole;

static void must(bool holds)
{
    if (!holds)
        abort();
}

/* The smallest model as a program file. */
static void make_whole(void)
{
    char folder[] = "/tmp/serverd-fuzz-XXXXXX", path[64];
    struct gguf_writer writer;
    struct buffer bytes;
    struct program *program;
    serverd_error err;
    must(mkdtemp(folder) != NULL && worker_pool_create(1, &pool, &err) == SERVERD_OK);
    (void)snprintf(path, sizeof path, "%s/whole.sdp", folder);
    gguf_writer_init(&writer);
    tiny_model_write(&writer, NULL);
    buffer_init(&bytes, 1 << 24);
    gguf_writer_finish(&writer, &bytes);
    must(compile_bytes(bytes.data, bytes.len, &program, &err) == SERVERD_OK);
    must(program_file_write(program, program, path, 1, &err) == SERVERD_OK);
    program_unref(program);
    buffer_deinit(&bytes);
    gguf_writer_deinit(&writer);
    must(file_read(path, 1 << 24, &whole, &n_whole, &err) == SERVERD_OK);
    (void)unlink(path);
    (void)rmdir(folder);
}

/* Checksums of sections and header, as far as they lie in the file. */
static void sign(uint8_t *bytes)
{
    struct sdp_header *header = (void *)bytes;
    uint64_t table = header->table_offset;
    uint64_t n = header->n_sections;
    if (table % 8 != 0 || table < sizeof *header || table > n_whole || n > 64 ||
        n * sizeof(struct sdp_section) > n_whole - table)
        return;
    struct sdp_section *sections = (void *)(bytes + table);
    for (uint64_t i = 0; i < n; i++)
        if (sections[i].offset <= n_whole &&
            sections[i].stored_bytes <= n_whole - sections[i].offset)
            sections[i].checksum = checksum64(bytes + sections[i].offset, sections[i].stored_bytes);
    sdp_compute_ids(header, sections, header->program_id, header->file_root);
    header->checksum = sdp_compute_checksum(header, sections);
}

/* Sizes that a file of some KiB can state but no test has the time for. */
static bool is_small(const struct program *program)
{
    const serverd_graph *graph = &program->graph;
    for (uint32_t i = 0; i < graph->n_values; i++)
        for (uint32_t d = 0; d < graph->values[i].rank; d++)
            if (graph->values[i].dims[d] > MAX_DIM)
                return false;
    for (uint32_t i = 0; i < program->kv.n_layers; i++)
        if ((uint64_t)program->kv.layers[i].n_kv_heads * program->kv.layers[i].k_dim > MAX_DIM)
            return false;
    return graph->n_nodes <= 256;
}

static void run(struct program *program)
{
    static const int32_t tokens[N_TOKENS] = {0, 1, 2, 3, 0}, positions[N_TOKENS] = {0, 1, 2, 3, 4};
    static const uint32_t zeros[N_TOKENS], last = N_TOKENS - 1;
    struct runtime *runtime;
    serverd_error err;
    const struct runtime_options options = {
        .delegates = builtin_delegates,
        .n_delegates = n_builtin_delegates,
        .device = "cpu",
        .pool = pool,
        .kv_dtype = DTYPE_BF16,
        .kv_bytes = 1 << 20,
        .limits = {.max_rows = 8, .max_logit_rows = 4, .max_seqs = 2, .max_context = 16}};
    if (runtime_open(program, &options, &runtime, &err) != SERVERD_OK)
        return;
    const serverd_batch batch = {.struct_bytes = sizeof batch,
                                 .n_rows = N_TOKENS,
                                 .n_seqs = 1,
                                 .n_logit_rows = !program->config.is_encoder,
                                 .token = tokens,
                                 .position = positions,
                                 .row_seq = zeros,
                                 .page_table = zeros,
                                 .max_pages = 1,
                                 .logit_row = &last};
    float *out = malloc(runtime_output_width(runtime) * sizeof *out);
    must(out != NULL);
    (void)runtime_execute(runtime, &batch, out, &err); /* may refuse */
    free(out);
    runtime_close(runtime);
}

static void use_tokenizer(const struct program *program)
{
    struct tokenizer *tokenizer;
    struct token_list ids;
    serverd_error err;
    if (program->vocabulary.kind == VOCABULARY_NONE ||
        tokenizer_create(&program->vocabulary, &tokenizer, &err) != SERVERD_OK)
        return;
    token_list_init(&ids, 1000);
    (void)tokenizer_encode(tokenizer, "a b <s>", 7, TOKENIZER_ADD_SPECIAL, &ids, &err);
    token_list_deinit(&ids);
    tokenizer_destroy(tokenizer);
}

/* As verify does: what the tests say, and whether it is so. */
static void run_tests(const char *path)
{
    struct self_test_result result;
    serverd_error err;
    const struct self_test_options options = {
        .path = path, .device = "cpu", .rows = 16, .pool = pool};
    (void)self_test_run(&options, &result, &err); /* may refuse */
}

static void open_bytes(const void *bytes, size_t n)
{
    struct memory_file file = memory_file_create();
    struct program *program;
    serverd_error err;
    memory_file_write(&file, bytes, n);
    if (sdp_open(file.path, &program, &err) == SERVERD_OK) {
        use_tokenizer(program);
        if (program->graph.n_nodes > 0 && is_small(program)) {
            run(program);
            run_tests(file.path);
        }
        program_unref(program);
    }
    memory_file_close(&file);
}

/* Changes: three bytes of place, one of length 1..8, so many bytes. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!whole)
        make_whole();
    if (size == 0)
        return 0;
    if (data[0] == 0) {
        open_bytes(data + 1, size - 1);
        return 0;
    }
    uint8_t *bytes = malloc(n_whole);
    must(bytes != NULL);
    memcpy(bytes, whole, n_whole);
    for (size_t i = 1; i + 4 < size;) {
        size_t at = (data[i] | (size_t)data[i + 1] << 8 | (size_t)data[i + 2] << 16) % n_whole;
        size_t n = data[i + 3] % 8 + 1u;
        i += 4;
        for (size_t j = 0; j < n && i < size && at + j < n_whole; j++)
            bytes[at + j] = data[i++];
    }
    if (data[0] != 1)
        sign(bytes);
    open_bytes(bytes, n_whole);
    free(bytes);
    return 0;
}
