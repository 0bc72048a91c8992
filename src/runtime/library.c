/* The library's runtime (serverd/runtime.h): a program file, its threads, its sessions' memory. */
#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/dtype.h"
#include "program/sdp_program.h"
#include "runtime/session_internal.h"

#include <stdlib.h>
#include <string.h>

#define DEFAULT_ROWS 256u

/* ---- options --------------------------------------------------------------------------------- */

static serverd_status check_options(const serverd_runtime_options *options, serverd_error *err)
{
    if (options->n_delegates == 0 || !options->delegates)
        return fail(err, SERVERD_INVALID, "options.delegates: there is none");
    if (options->kv_type > SERVERD_KV_F32)
        return fail(err, SERVERD_INVALID, "options.kv_type: %u, 0..%u are allowed",
                    options->kv_type, SERVERD_KV_F32);
    return SERVERD_OK;
}

static serverd_status find_limits(const struct program *program,
                                  const serverd_runtime_options *options, serverd_limits *out,
                                  serverd_error *err)
{
    const struct program_config *config = &program->config;
    uint32_t context = options->max_context ? options->max_context : config->context_length;
    uint32_t n_sessions = (uint32_t)max_size(options->max_sessions, 1);
    uint32_t n_rows = options->max_rows;
    uint32_t max_context = config->is_encoder ? config->context_length : LIMIT_CONTEXT;
    if (n_rows == 0)
        n_rows = config->is_encoder ? context : DEFAULT_ROWS;
    const struct {
        const char *name;
        uint32_t value, max;
    } bounds[] = {{"max_context", context, max_context},
                  {"max_sessions", n_sessions, LIMIT_SESSIONS},
                  {"max_rows", n_rows, LIMIT_STEP_ROWS}};
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        if (bounds[i].value > bounds[i].max)
            return fail(err, SERVERD_INVALID, "options.%s: %u, at most %u are allowed",
                        bounds[i].name, bounds[i].value, bounds[i].max);
    *out = (serverd_limits){.struct_bytes = sizeof *out,
                            .max_rows = (uint32_t)max_size(n_rows, n_sessions),
                            .max_logit_rows = n_sessions,
                            .max_seqs = n_sessions,
                            .max_context = context};
    return SERVERD_OK;
}

static uint32_t pages_of(uint32_t n_tokens)
{
    return (n_tokens + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS;
}

/* The pool is the caller's to set. */
static serverd_status make_options(const struct program *program,
                                   const serverd_runtime_options *from, struct runtime_options *out,
                                   serverd_error *err)
{
    static const serverd_dtype kv_dtypes[] = {[SERVERD_KV_BF16] = DTYPE_BF16,
                                              [SERVERD_KV_F16] = DTYPE_F16,
                                              [SERVERD_KV_INT8] = DTYPE_I8,
                                              [SERVERD_KV_F32] = DTYPE_F32};
    *out = (struct runtime_options){.delegates = from->delegates,
                                    .n_delegates = from->n_delegates,
                                    .device = from->device,
                                    .kv_dtype = kv_dtypes[from->kv_type],
                                    .log = from->log,
                                    .log_context = from->log_context};
    serverd_status status = find_limits(program, from, &out->limits, err);
    if (status != SERVERD_OK)
        return status;
    uint64_t n_pages = (uint64_t)pages_of(out->limits.max_context) * out->limits.max_seqs;
    if (n_pages > LIMIT_KV_PAGES)
        return fail(err, SERVERD_INVALID, "options.max_sessions: %u of %u tokens are too many",
                    out->limits.max_seqs, out->limits.max_context);
    out->n_pages = (uint32_t)n_pages;
    return SERVERD_OK;
}

/* ---- arrays ---------------------------------------------------------------------------------- */

/* The arrays of a step, in one block: each where the last one ends. */
struct block {
    char *at; /* NULL: sizes are added up, no more */
    size_t bytes;
    bool is_small; /* so far */
};

static void *take(struct block *block, size_t n, size_t size)
{
    void *p = block->at ? block->at + block->bytes : NULL;
    size_t bytes;
    block->is_small = block->is_small && size_mul(n, size, &bytes) &&
                      size_align(bytes, 64, &bytes) && size_add(block->bytes, bytes, &block->bytes);
    return p;
}

static void lay_out(struct serverd_runtime *runtime, const serverd_limits *limits,
                    struct block *block)
{
    size_t n_seqs = limits->max_seqs, n_rows = limits->max_rows;
    bool is_encoder = runtime->program->config.is_encoder;
    *block = (struct block){.at = block->at, .is_small = true};
    runtime->sessions = take(block, n_seqs, sizeof *runtime->sessions);
    runtime->token = take(block, n_rows, sizeof *runtime->token);
    runtime->position = take(block, n_rows, sizeof *runtime->position);
    runtime->row_seq = take(block, n_rows, sizeof *runtime->row_seq);
    runtime->logit_row = take(block, n_seqs, sizeof *runtime->logit_row);
    runtime->results = take(block, n_seqs * runtime->n_results, sizeof *runtime->results);
    if (is_encoder)
        return;
    runtime->page_table =
        take(block, n_seqs * runtime->n_session_pages, sizeof *runtime->page_table);
    runtime->zeroed = take(block, n_rows / SERVERD_PAGE_TOKENS + n_seqs, sizeof *runtime->zeroed);
}

/* All of them; *bytes: what they take. */
static serverd_status size_arrays(struct serverd_runtime *runtime, const serverd_limits *limits,
                                  size_t *bytes, serverd_error *err)
{
    const struct program_config *config = &runtime->program->config;
    struct block block = {0};
    runtime->n_results = program_output_width(config);
    runtime->n_session_pages = pages_of(limits->max_context);
    lay_out(runtime, limits, &block);
    if (!block.is_small)
        return fail(err, SERVERD_NOMEM, "the arrays of %u sessions overflow", limits->max_seqs);
    *bytes = block.bytes;
    return SERVERD_OK;
}

static serverd_status take_arrays(struct serverd_runtime *runtime, serverd_error *err)
{
    const serverd_limits *limits = runtime_limits(runtime->runtime);
    size_t bytes = 0;
    serverd_status status = size_arrays(runtime, limits, &bytes, err);
    if (status != SERVERD_OK)
        return status;
    struct block block = {.at = aligned_alloc(64, bytes)};
    runtime->arrays = block.at;
    if (!block.at)
        return fail(err, SERVERD_NOMEM, "no memory for %zu bytes of sessions", bytes);
    lay_out(runtime, limits, &block);
    runtime->n_sessions = limits->max_seqs;
    for (uint32_t i = 0; i < runtime->n_sessions; i++) {
        runtime->sessions[i] = (struct serverd_session){.owner = runtime, .index = i};
        atomic_init(&runtime->sessions[i].stops, false);
    }
    return SERVERD_OK;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* What plan and open begin with. *runtime is to be closed on failure, too. */
static serverd_status open_program(const char *path, const serverd_runtime_options *from,
                                   struct runtime_options *options, struct serverd_runtime *runtime,
                                   serverd_error *err)
{
    serverd_status status = check_options(from, err);
    if (status == SERVERD_OK)
        status = sdp_open(path, &runtime->program, err);
    if (status == SERVERD_OK && runtime->program->graph.n_nodes == 0)
        status = fail(err, SERVERD_UNSUPPORTED, "%s: holds a vocabulary and no model", path);
    if (status == SERVERD_OK)
        status = make_options(runtime->program, from, options, err);
    if (status == SERVERD_OK)
        status = worker_pool_create(from->n_threads, &runtime->pool, err);
    options->pool = runtime->pool;
    return status;
}

static void release(struct serverd_runtime *runtime)
{
    runtime_close(runtime->runtime);
    worker_pool_destroy(runtime->pool);
    program_unref(runtime->program);
    free(runtime->arrays);
}

serverd_status serverd_runtime_open(const char *path, const serverd_runtime_options *options,
                                    serverd_runtime **out, serverd_error *err)
{
    struct runtime_options opening;
    struct serverd_runtime *runtime = calloc(1, sizeof *runtime);
    if (!runtime)
        return fail(err, SERVERD_NOMEM, "no memory for a runtime");
    serverd_status status = open_program(path, options, &opening, runtime, err);
    if (status == SERVERD_OK)
        status = runtime_open(runtime->program, &opening, &runtime->runtime, err);
    if (status == SERVERD_OK)
        status = take_arrays(runtime, err);
    if (status != SERVERD_OK) {
        serverd_runtime_close(runtime);
        return status;
    }
    *out = runtime;
    return SERVERD_OK;
}

serverd_status serverd_runtime_plan(const char *path, const serverd_runtime_options *options,
                                    serverd_memory *out, serverd_error *err)
{
    struct runtime_options opening;
    struct serverd_runtime runtime = {0};
    struct runtime_memory memory;
    size_t bytes = 0;
    serverd_status status = open_program(path, options, &opening, &runtime, err);
    if (status == SERVERD_OK)
        status = runtime_predict(runtime.program, &opening, &memory, err);
    if (status == SERVERD_OK)
        status = size_arrays(&runtime, &opening.limits, &bytes, err);
    release(&runtime);
    if (status != SERVERD_OK)
        return status;
    memory.table += bytes + sizeof runtime;
    *out = (serverd_memory){.mapped_bytes = memory.mapped,
                            .gathered_bytes = memory.gathered,
                            .packed_bytes = memory.packed,
                            .activation_bytes = memory.activation,
                            .unshared_bytes = memory.unshared,
                            .scratch_bytes = memory.scratch,
                            .kv_bytes = memory.kv,
                            .table_bytes = memory.table,
                            .peak_bytes = runtime_memory_peak(&memory)};
    return SERVERD_OK;
}

void serverd_runtime_close(serverd_runtime *runtime)
{
    if (!runtime)
        return;
    release(runtime);
    free(runtime);
}

void serverd_runtime_get_info(const serverd_runtime *runtime, serverd_runtime_info *out)
{
    const struct program_config *config = &runtime->program->config;
    const serverd_limits *limits = runtime_limits(runtime->runtime);
    *out = (serverd_runtime_info){.is_encoder = config->is_encoder,
                                  .n_vocab = config->n_vocab,
                                  .n_results = runtime->n_results,
                                  .max_context = limits->max_context,
                                  .max_sessions = limits->max_seqs,
                                  .max_rows = limits->max_rows,
                                  .architecture = config->architecture,
                                  .name = config->name,
                                  .device = runtime_device(runtime->runtime)};
}
