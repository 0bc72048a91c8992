#include "tools/bench/model_driver.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "kernels/builtin.h"
#include "tools/program_open.h"

#include <stdlib.h>
#include <string.h>

#define CACHE_BYTES (64 * GIB) /* as the daemon's */

/* The delegate whose name stands before " (" in the runtime's description. */
static const serverd_delegate *delegate_of(const struct runtime *runtime)
{
    const char *text = runtime_device(runtime);
    size_t n = strcspn(text, " ");
    for (uint32_t i = 0; i < n_builtin_delegates; i++)
        if (strlen(builtin_delegates[i]->name) == n &&
            memcmp(builtin_delegates[i]->name, text, n) == 0)
            return builtin_delegates[i];
    return NULL;
}

static serverd_status open_runtime(struct driver *driver, const struct driver_options *options,
                                   serverd_error *err)
{
    const struct runtime_options runtime_options = {
        .delegates = builtin_delegates,
        .n_delegates = n_builtin_delegates,
        .device = options->device,
        .pool = driver->pool,
        .clock = &system_clock,
        .limits = {.struct_bytes = sizeof(serverd_limits),
                   .max_rows = driver->max_rows,
                   .max_logit_rows = driver->max_seqs,
                   .max_seqs = driver->max_seqs,
                   .max_context = driver->max_context,
                   .max_adapters = options->max_adapters,
                   .max_adapter_rank = options->max_adapter_rank},
        .kv_dtype = options->kv_dtype,
    };
    serverd_status status = runtime_open(driver->program, &runtime_options, &driver->runtime, err);
    if (status != SERVERD_OK)
        return status;
    driver->delegate = delegate_of(driver->runtime);
    if (!driver->delegate)
        return fail(err, SERVERD_INTERNAL, "no delegate is called %s",
                    runtime_device(driver->runtime));
    uint64_t wanted = (uint64_t)driver->pages_per_seq * driver->max_seqs;
    if (!driver->program->config.is_encoder && runtime_n_pages(driver->runtime) < wanted)
        return fail(err, SERVERD_NOMEM,
                    "%u sequences of %u tokens need %llu KV pages, memory is there for %u",
                    driver->max_seqs, driver->max_context, (unsigned long long)wanted,
                    runtime_n_pages(driver->runtime));
    return SERVERD_OK;
}

static serverd_status make_arrays(struct driver *driver, serverd_error *err)
{
    size_t rows = driver->max_rows, seqs = driver->max_seqs;
    driver->token = calloc(rows, sizeof *driver->token);
    driver->position = calloc(rows, sizeof *driver->position);
    driver->row_seq = calloc(rows, sizeof *driver->row_seq);
    driver->page_table = calloc(seqs * driver->pages_per_seq, sizeof *driver->page_table);
    driver->logit_row = calloc(seqs, sizeof *driver->logit_row);
    driver->out = calloc(seqs * runtime_output_width(driver->runtime), sizeof *driver->out);
    driver->slices = calloc(seqs, sizeof *driver->slices);
    driver->adapter_slot = calloc(seqs, sizeof *driver->adapter_slot);
    driver->adapter_scale = calloc(seqs, sizeof *driver->adapter_scale);
    if (!driver->token || !driver->position || !driver->row_seq || !driver->page_table ||
        !driver->logit_row || !driver->out || !driver->slices || !driver->adapter_slot ||
        !driver->adapter_scale)
        return fail(err, SERVERD_NOMEM, "no memory for %zu rows of %zu sequences", rows, seqs);
    return SERVERD_OK;
}

serverd_status driver_open(struct driver *driver, const struct driver_options *options,
                           serverd_error *err)
{
    *driver = (struct driver){.max_rows = options->max_rows,
                              .max_seqs = options->max_seqs,
                              .max_context = options->max_context,
                              .pages_per_seq = (options->max_context + SERVERD_PAGE_TOKENS - 1) /
                                               SERVERD_PAGE_TOKENS};
    serverd_status status = worker_pool_create(options->threads, &driver->pool, err);
    const struct program_open_options opening = {.path = options->path,
                                                 .cache = options->program_cache,
                                                 .cache_bytes = CACHE_BYTES,
                                                 .pool = driver->pool};
    if (status == SERVERD_OK)
        status = program_open(&opening, &driver->program, err);
    if (status == SERVERD_OK)
        status = open_runtime(driver, options, err);
    if (status == SERVERD_OK)
        status = make_arrays(driver, err);
    return status;
}

void driver_close(struct driver *driver)
{
    runtime_close(driver->runtime);
    if (driver->pool)
        worker_pool_destroy(driver->pool);
    program_unref(driver->program);
    free(driver->token);
    free(driver->position);
    free(driver->row_seq);
    free(driver->page_table);
    free(driver->logit_row);
    free(driver->out);
    free(driver->slices);
    free(driver->adapter_slot);
    free(driver->adapter_scale);
    *driver = (struct driver){0};
}

/* Any ids do: the model's work does not depend on them. */
static int32_t token_of(const struct driver *driver, uint32_t seq, uint32_t position)
{
    uint64_t n_vocab = driver->program->config.n_vocab;
    return (int32_t)(hash_mix((uint64_t)seq << 32 | position) % (n_vocab ? n_vocab : 1));
}

serverd_status driver_step(struct driver *driver, const struct driver_slice *slices, uint32_t n,
                           serverd_error *err)
{
    bool is_encoder = driver->program->config.is_encoder;
    serverd_batch batch = {.struct_bytes = sizeof batch,
                           .n_seqs = n,
                           .token = driver->token,
                           .position = driver->position,
                           .row_seq = driver->row_seq,
                           .page_table = is_encoder ? NULL : driver->page_table,
                           .max_pages = is_encoder ? 0 : driver->pages_per_seq,
                           .logit_row = driver->logit_row,
                           .step = driver->n_steps++};
    if (driver->n_adapters > 0) {
        batch.adapter_slot = driver->adapter_slot;
        batch.adapter_scale = driver->adapter_scale;
    }
    for (uint32_t s = 0; s < n; s++) {
        const struct driver_slice *slice = &slices[s];
        driver->adapter_slot[s] = driver->n_adapters ? slice->seq % driver->n_adapters : 0;
        driver->adapter_scale[s] = 1;
        if (slice->n > driver->max_rows - batch.n_rows)
            return fail(err, SERVERD_INTERNAL, "a step of more than %u rows", driver->max_rows);
        for (uint32_t i = 0; i < slice->n; i++) {
            uint32_t row = batch.n_rows++;
            driver->token[row] = token_of(driver, slice->seq, slice->begin + i);
            driver->position[row] = (int32_t)(slice->begin + i);
            driver->row_seq[row] = s;
        }
        if (slice->wants_logits && !is_encoder)
            driver->logit_row[batch.n_logit_rows++] = batch.n_rows - 1;
        uint32_t *table = driver->page_table + (size_t)s * driver->pages_per_seq;
        for (uint32_t p = 0; p * SERVERD_PAGE_TOKENS < slice->begin + slice->n; p++)
            table[p] = slice->seq * driver->pages_per_seq + p;
    }
    return runtime_execute(driver->runtime, &batch, driver->out, err);
}

serverd_status driver_prefill(struct driver *driver, uint32_t n_seqs, uint32_t begin, uint32_t end,
                              uint32_t chunk, serverd_error *err)
{
    uint32_t seq = 0, at = begin;
    while (seq < n_seqs) {
        uint32_t left = chunk, n_slices = 0;
        while (seq < n_seqs && left > 0) {
            uint32_t n = end - at < left ? end - at : left;
            driver->slices[n_slices++] = (struct driver_slice){seq, at, n, at + n == end};
            left -= n;
            at += n;
            if (at == end) {
                seq++;
                at = begin;
            }
        }
        serverd_status status = driver_step(driver, driver->slices, n_slices, err);
        if (status != SERVERD_OK)
            return status;
    }
    return SERVERD_OK;
}

serverd_status driver_decode(struct driver *driver, uint32_t n_seqs, uint32_t position,
                             serverd_error *err)
{
    for (uint32_t s = 0; s < n_seqs; s++)
        driver->slices[s] = (struct driver_slice){s, position, 1, true};
    return driver_step(driver, driver->slices, n_seqs, err);
}

serverd_status driver_clear(struct driver *driver, uint32_t n_seqs, uint32_t n_tokens,
                            serverd_error *err)
{
    uint32_t n_pages = (n_tokens + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS;
    for (uint32_t s = 0; s < n_seqs && !driver->program->config.is_encoder; s++) {
        for (uint32_t p = 0; p < n_pages; p++) {
            const serverd_kv_page page = {s * driver->pages_per_seq + p, SERVERD_NO_PAGE};
            serverd_status status = runtime_kv_zero(driver->runtime, &page, 1, err);
            if (status != SERVERD_OK)
                return status;
        }
    }
    return SERVERD_OK;
}
