#include "compiler/verify_file.h"

#include "base/error.h"
#include "base/numeric.h"
#include "kernels/builtin.h"
#include "kernels/cpu/packed.h"
#include "program/dtype.h"
#include "program/sdp_file.h"
#include "program/sdp_program.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

/* ---- weights --------------------------------------------------------------------------------- */

enum { CHUNK_ROWS = 64 };

struct weights_job {
    const serverd_tensor *tensor;
    const struct dtype_info *info;
    const void *packed; /* NULL: the tensor has rows */
    uint64_t n_rows;
    size_t k;
    char *memory;             /* [workers][k] floats, and as many bytes for what they come from */
    _Atomic uint64_t bad_row; /* the first one that is found, n_rows: none */
};

static bool is_row_finite(const struct weights_job *job, uint64_t row, float *numbers)
{
    const struct dtype_info *info = job->info;
    const size_t n_blocks = job->k / info->block_elements, bytes = n_blocks * info->block_bytes;
    const char *blocks = (const char *)job->tensor->data + row * bytes;
    if (job->packed) {
        packed_read(job->tensor->dtype, job->k, job->packed, row, numbers + job->k);
        blocks = (const char *)(numbers + job->k);
    }
    info->to_f32(blocks, numbers, n_blocks);
    for (size_t i = 0; i < job->k; i++)
        if (!isfinite(numbers[i]))
            return false;
    return true;
}

static void check_rows(void *arg, uint32_t chunk, uint32_t worker)
{
    struct weights_job *job = arg;
    float *numbers = (float *)(void *)(job->memory + 2 * worker * job->k * sizeof(float));
    const uint64_t first = (uint64_t)chunk * CHUNK_ROWS;
    for (uint64_t row = first; row < min_size(first + CHUNK_ROWS, job->n_rows); row++)
        if (!is_row_finite(job, row, numbers)) {
            uint64_t before = atomic_load(&job->bad_row);
            while (row < before && !atomic_compare_exchange_weak(&job->bad_row, &before, row))
                ;
            return;
        }
}

/* The form that the CPU back-end wants, if it is the tensor's own bits in another order. */
static const void *packed_of(const struct program *program, uint32_t index)
{
    const serverd_tensor *tensor = &program->graph.tensors[index];
    serverd_form form = {.struct_bytes = sizeof form};
    serverd_error none;
    if (!packed_is_own_form(tensor->dtype) ||
        builtin_delegate("cpu")->form(tensor, &form, &none) != SERVERD_OK)
        return NULL;
    const struct program_form *found = program_find_form(program, index, form.layout);
    return found && found->bytes == form.bytes ? found->data : NULL;
}

static serverd_status verify_matrix(const struct program *program, uint32_t index,
                                    struct worker_pool *pool, serverd_error *err)
{
    const serverd_tensor *tensor = &program->graph.tensors[index];
    struct weights_job job = {.tensor = tensor,
                              .info = dtype_info(tensor->dtype),
                              .packed = tensor->data ? NULL : packed_of(program, index),
                              .n_rows = tensor->dims[0],
                              .k = tensor->dims[1],
                              .bad_row = tensor->dims[0]};
    size_t bytes;
    if (!job.info || !job.info->to_f32 || (!tensor->data && !job.packed))
        return SERVERD_OK; /* nobody here can read it, nor run it */
    /* a row as it is in the file is never larger than its floats */
    if (!size_mul(job.k, 2 * sizeof(float), &bytes) ||
        !size_mul(bytes, worker_pool_n_workers(pool), &bytes) || !(job.memory = malloc(bytes)))
        return fail(err, SERVERD_NOMEM, "no memory to read tensor %s", tensor->name);
    worker_pool_run(pool, (uint32_t)((job.n_rows + CHUNK_ROWS - 1) / CHUNK_ROWS), check_rows, &job);
    free(job.memory);
    program_forget_tensor(program, index);
    const uint64_t bad_row = atomic_load(&job.bad_row);
    return bad_row == job.n_rows ? SERVERD_OK
                                 : fail(err, SERVERD_CORRUPT,
                                        "tensor %s: row %" PRIu64 " has numbers that are not "
                                        "finite",
                                        tensor->name, bad_row);
}

serverd_status verify_weights(const struct program *program, struct worker_pool *pool,
                              serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < program->graph.n_tensors && status == SERVERD_OK; i++)
        if (program->graph.tensors[i].rank == 2)
            status = verify_matrix(program, i, pool, err);
    return status;
}

/* ---- all ------------------------------------------------------------------------------------- */

serverd_status verify_file(const struct verify_options *options, struct self_test_result *out,
                           serverd_error *err)
{
    const char *path = options->test.path;
    struct program *program = NULL;
    struct sdp_file file = {0};
    struct self_test_result result = {.n_cases = 0};
    serverd_status status = sdp_open(path, &program, err);
    if (status == SERVERD_OK)
        status = sdp_file_open(path, &file, err);
    if (status == SERVERD_OK)
        status = sdp_file_verify(&file, options->progress, options->progress_context, err);
    if (status == SERVERD_OK &&
        (status = verify_weights(program, options->test.pool, err)) != SERVERD_OK)
        (void)error_context(err, "%s", path);
    sdp_file_close(&file);
    program_unref(program);
    if (status == SERVERD_OK && options->wants_test)
        status = self_test_run(&options->test, &result, err);
    if (status == SERVERD_OK)
        *out = result;
    return status;
}
