#include "tools/bench/kernel_calls.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/strips.h"
#include "program/dtype.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT         64u
#define ATTENTION_ROWS    32u /* of one work item */
#define CHUNKS_PER_WORKER 10u
#define MAX_COPIES        256u

uint32_t kernel_levels(const char *names[KERNEL_MAX_LEVELS])
{
    static const char *const known[] = {"generic", "avx2",       "avxvnni",
                                        "avx512",  "avx512bf16", "amx"};
    uint32_t n = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (cpu_kernels_named(known[i]))
            names[n++] = known[i];
    return n;
}

static void *take(size_t bytes)
{
    size_t rounded;
    if (!size_align(max_size(bytes, 1), ALIGNMENT, &rounded))
        return NULL;
    return aligned_alloc(ALIGNMENT, rounded);
}

/* Usual numbers in every type: f16 0.5 to 2, bf16 and f32 1e-5 to 1, and any codes. */
static void fill(uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(0x38 | (hash_mix(i) & 7));
}

/* ---- linear layers ---- */

struct kernel_linear {
    struct kernel_linear_options options;
    const struct packed_form *form;
    const struct cpu_kernels *kernels;
    uint8_t *weights; /* [n_copies] */
    size_t copy_bytes, n_copies, copy;
    struct cpu_rows rows;
    size_t row_bytes;
    float *values, *out;
    void **scratch; /* [workers] */
    size_t n_rows, n_columns, blocks_per_chunk;
};

static size_t n_workers(const struct worker_pool *pool)
{
    return worker_pool_n_workers(pool);
}

static bool take_weights(struct kernel_linear *linear)
{
    const struct kernel_linear_options *o = &linear->options;
    const struct dtype_info *info = dtype_info(o->dtype);
    size_t bytes = o->n_out * o->k / info->block_elements * info->block_bytes;
    uint8_t *blocks = take(bytes);
    if (!blocks || !packed_bytes(linear->form, o->n_out, o->k, &linear->copy_bytes)) {
        free(blocks);
        return false;
    }
    fill(blocks, bytes);
    linear->n_copies = min_size(
        max_size(1, (o->weight_bytes + linear->copy_bytes - 1) / linear->copy_bytes), MAX_COPIES);
    linear->weights = take(linear->copy_bytes * linear->n_copies);
    if (linear->weights) {
        serverd_tensor tensor = {.struct_bytes = sizeof tensor,
                                 .dtype = o->dtype,
                                 .rank = 2,
                                 .dims = {o->n_out, o->k},
                                 .data = blocks,
                                 .bytes = bytes};
        packed_write(&tensor, 0, o->n_out, linear->weights);
        for (size_t i = 1; i < linear->n_copies; i++)
            memcpy(linear->weights + i * linear->copy_bytes, linear->weights, linear->copy_bytes);
    }
    free(blocks);
    return linear->weights != NULL;
}

static bool take_rows(struct kernel_linear *linear)
{
    const struct kernel_linear_options *o = &linear->options;
    size_t n = o->max_rows + CPU_ROW_PADDING, k = o->k;
    linear->row_bytes = cpu_n_spans(k) * n * sizeof *linear->rows.spans;
    linear->values = take(n * k * sizeof *linear->values);
    linear->out = take(n * o->n_out * sizeof *linear->out);
    linear->rows = (struct cpu_rows){.values = linear->values,
                                     .is_fine = o->is_fine,
                                     .spans = take(linear->row_bytes),
                                     .n_max = n};
    if (!linear->values || !linear->out || !linear->rows.spans)
        return false;
    memset(linear->out, 0, n * o->n_out * sizeof *linear->out);
    for (size_t i = 0; i < n * k; i++)
        linear->values[i] = (float)(hash_mix(i) >> 40) * 0x1p-23f - 1.0f;
    return true;
}

/* Enough for every level. */
static bool take_scratch(struct kernel_linear *linear)
{
    const char *names[KERNEL_MAX_LEVELS];
    uint32_t n_levels = kernel_levels(names);
    size_t bytes = 0, n = n_workers(linear->options.pool);
    for (uint32_t i = 0; i < n_levels; i++)
        bytes = max_size(bytes, cpu_kernels_named(names[i])->linear_scratch(linear->options.k));
    linear->scratch = calloc(n, sizeof *linear->scratch);
    for (size_t i = 0; linear->scratch && i < n; i++)
        if (!(linear->scratch[i] = take(bytes)))
            return false;
    return linear->scratch != NULL;
}

serverd_status kernel_linear_create(const struct kernel_linear_options *options,
                                    struct kernel_linear **out, serverd_error *err)
{
    struct kernel_linear *linear = calloc(1, sizeof *linear);
    if (linear) {
        linear->options = *options;
        linear->form = packed_form(options->dtype);
    }
    if (!linear || !take_weights(linear) || !take_rows(linear) || !take_scratch(linear)) {
        kernel_linear_destroy(linear);
        return fail(err, SERVERD_NOMEM, "kernels: no memory for matrices of %zu x %zu",
                    options->n_out, options->k);
    }
    *out = linear;
    return SERVERD_OK;
}

void kernel_linear_destroy(struct kernel_linear *linear)
{
    if (!linear)
        return;
    for (size_t i = 0; linear->scratch && i < n_workers(linear->options.pool); i++)
        free(linear->scratch[i]);
    free(linear->scratch);
    free(linear->weights);
    free(linear->values);
    free(linear->out);
    free(linear->rows.spans);
    free(linear);
}

const char *kernel_linear_form(const struct kernel_linear *linear)
{
    return linear->form->name;
}

bool kernel_linear_is_integer(const struct kernel_linear *linear)
{
    return !packed_is_float(linear->form);
}

bool kernel_linear_is_bf16(const struct kernel_linear *linear)
{
    return linear->form->codes == CODES_BF16;
}

bool kernel_linear_is_own_form(const struct kernel_linear *linear)
{
    return packed_is_own_form(linear->options.dtype);
}

size_t kernel_linear_column_bytes(const struct kernel_linear *linear)
{
    return packed_column_bytes(linear->form, linear->options.k);
}

static void quantise_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    struct kernel_linear *linear = arg;
    size_t k = linear->options.k;
    for (size_t r = chunk * 8u; r < min_size(linear->n_rows, chunk * 8u + 8u); r++)
        linear->kernels->quantise(linear->values + r * k, k, &linear->rows, r);
}

void kernel_linear_quantise(struct kernel_linear *linear)
{
    worker_pool_run(linear->options.pool, (uint32_t)((linear->n_rows + 7) / 8), quantise_chunk,
                    linear);
}

void kernel_linear_prepare(struct kernel_linear *linear, const char *level, size_t n_rows)
{
    linear->kernels = cpu_kernels_named(level);
    linear->n_rows = n_rows;
    memset(linear->rows.spans, 0, linear->row_bytes); /* rows that are only read for their tile */
    kernel_linear_quantise(linear);
}

static void linear_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    struct kernel_linear *linear = arg;
    size_t first = chunk * linear->blocks_per_chunk, column_bytes;
    size_t n_blocks = linear->n_columns / PACKED_COLUMNS;
    column_bytes = packed_column_bytes(linear->form, linear->options.k);
    const struct cpu_linear call = {
        .form = linear->form,
        .weights = linear->weights + linear->copy * linear->copy_bytes + first * column_bytes,
        .column_bytes = column_bytes,
        .first_block = first,
        .n_blocks = min_size(linear->blocks_per_chunk, n_blocks - first),
        .n_out = linear->options.n_out,
        .k = linear->options.k,
        .x = &linear->rows,
        .n_rows = linear->n_rows,
        .out = linear->out,
        .out_stride = linear->options.n_out,
        .scratch = linear->scratch[worker]};
    linear->kernels->linear(&call);
}

void kernel_linear_run(struct kernel_linear *linear, size_t n_columns)
{
    size_t n_blocks = n_columns / PACKED_COLUMNS;
    size_t n_chunks = n_workers(linear->options.pool) * CHUNKS_PER_WORKER;
    linear->n_columns = n_columns;
    linear->blocks_per_chunk = max_size(2, n_blocks / n_chunks / 2 * 2);
    worker_pool_run(
        linear->options.pool,
        (uint32_t)((n_blocks + linear->blocks_per_chunk - 1) / linear->blocks_per_chunk),
        linear_chunk, linear);
    linear->copy = (linear->copy + 1) % linear->n_copies;
}

/* ---- attention ---- */

struct kernel_attention {
    struct kernel_attention_options options;
    const struct cpu_kernels *kernels;
    uint8_t *keys, *values; /* [n_heads][context / page] pages */
    size_t key_bytes, value_bytes, n_items_per_head;
    float *queries; /* of one item: [ATTENTION_ROWS * group][head_dim] */
    float **memory; /* [workers] strips and scratch of kernels, the running softmax, what is seen */
    size_t strips_floats, scratch_floats;
};

static size_t item_queries(const struct kernel_attention *attention)
{
    const struct kernel_attention_options *o = &attention->options;
    return min_size(o->n_rows, ATTENTION_ROWS) * o->group;
}

static bool take_attention(struct kernel_attention *attention)
{
    const struct kernel_attention_options *o = &attention->options;
    const char *names[KERNEL_MAX_LEVELS];
    uint32_t n_levels = kernel_levels(names);
    size_t n = item_queries(attention), floats = 0;
    size_t n_pages = o->n_heads * (o->context / SERVERD_PAGE_TOKENS);
    attention->key_bytes = cpu_key_page_bytes(o->kv, o->head_dim);
    attention->value_bytes = cpu_value_page_bytes(o->kv, o->head_dim);
    attention->n_items_per_head = (o->n_rows + ATTENTION_ROWS - 1) / ATTENTION_ROWS;
    attention->keys = take(n_pages * attention->key_bytes);
    attention->values = take(n_pages * attention->value_bytes);
    attention->queries = take(n * o->head_dim * sizeof(float));
    attention->memory = calloc(n_workers(o->pool), sizeof *attention->memory);
    if (!attention->keys || !attention->values || !attention->queries || !attention->memory)
        return false;
    fill(attention->keys, n_pages * attention->key_bytes);
    fill(attention->values, n_pages * attention->value_bytes);
    for (size_t i = 0; i < n * o->head_dim; i++)
        attention->queries[i] = (float)(hash_mix(i) >> 40) * 0x1p-23f - 1.0f;
    for (uint32_t i = 0; i < n_levels; i++)
        floats = max_size(floats, cpu_kernels_named(names[i])->attention_scratch(o->head_dim));
    attention->strips_floats = cpu_strips_scratch(o->head_dim, o->head_dim) / sizeof(float);
    attention->scratch_floats = attention->strips_floats + (floats + 15) / 16 * 16;
    for (size_t i = 0; i < n_workers(o->pool); i++)
        if (!(attention->memory[i] =
                  take((attention->scratch_floats + n * (o->head_dim + 16) + 4 * (n + 16)) *
                       sizeof(float))))
            return false;
    return true;
}

serverd_status kernel_attention_create(const struct kernel_attention_options *options,
                                       struct kernel_attention **out, serverd_error *err)
{
    struct kernel_attention *attention = calloc(1, sizeof *attention);
    if (attention)
        attention->options = *options;
    if (!attention || !take_attention(attention)) {
        kernel_attention_destroy(attention);
        return fail(err, SERVERD_NOMEM, "kernels: no memory for %zu heads of %zu tokens",
                    options->n_heads, options->context);
    }
    *out = attention;
    return SERVERD_OK;
}

void kernel_attention_destroy(struct kernel_attention *attention)
{
    if (!attention)
        return;
    for (size_t i = 0; attention->memory && i < n_workers(attention->options.pool); i++)
        free(attention->memory[i]);
    free(attention->memory);
    free(attention->keys);
    free(attention->values);
    free(attention->queries);
    free(attention);
}

/* Rows first .. of the last n_rows of a context; the item's queries, one segment after the
 * other. */
static void attention_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    const struct kernel_attention *attention = arg;
    const struct kernel_attention_options *o = &attention->options;
    size_t head = chunk / attention->n_items_per_head;
    size_t first = chunk % attention->n_items_per_head * ATTENTION_ROWS;
    size_t n_rows = min_size(ATTENTION_ROWS, o->n_rows - first), n = n_rows * o->group;
    size_t width = (o->head_dim + 15) / 16 * 16, n_pages = o->context / SERVERD_PAGE_TOKENS;
    float *scratch = attention->memory[worker], *acc = scratch + attention->scratch_floats;
    float *max = acc + n * width, *sum = max + n;
    uint32_t *begin = (uint32_t *)(void *)(sum + n), *end = begin + n;
    for (size_t i = 0; i < n; i++) {
        max[i] = -INFINITY;
        sum[i] = 0;
        begin[i] = 0;
    }
    memset(acc, 0, n * width * sizeof *acc);
    struct cpu_strips strips;
    const struct cpu_attention call = {.kv = o->kv,
                                       .keys = strips.keys,
                                       .values = strips.values,
                                       .k_dim = o->head_dim,
                                       .v_dim = o->head_dim,
                                       .scale = 1.0f / sqrtf((float)o->head_dim),
                                       .n_queries = n,
                                       .queries = attention->queries,
                                       .begin = begin,
                                       .end = end,
                                       .max = max,
                                       .sum = sum,
                                       .acc = acc,
                                       .scratch = scratch + attention->strips_floats};
    size_t first_sees = o->context - o->n_rows + first + 1, last_sees = first_sees + n_rows - 1;
    for (size_t segment = 0; segment < last_sees; segment += CPU_SEGMENT) {
        size_t n_valid = min_size(CPU_SEGMENT_PAGES, n_pages - segment / SERVERD_PAGE_TOKENS);
        cpu_strips_init(&strips, o->kv, o->head_dim, o->head_dim, scratch);
        for (size_t p = 0; p < n_valid; p++) {
            size_t at = head * n_pages + segment / SERVERD_PAGE_TOKENS + p;
            cpu_strips_add(&strips, (uint32_t)p, attention->keys + at * attention->key_bytes,
                           attention->values + at * attention->value_bytes);
        }
        for (size_t i = 0; i < n; i++) {
            size_t sees = first_sees + i / o->group;
            end[i] = (uint32_t)(sees > segment ? min_size(sees - segment, CPU_SEGMENT) : 0);
        }
        attention->kernels->attend(&call);
    }
}

void kernel_attention_run(struct kernel_attention *attention, const char *level)
{
    attention->kernels = cpu_kernels_named(level);
    worker_pool_run(attention->options.pool,
                    (uint32_t)(attention->options.n_heads * attention->n_items_per_head),
                    attention_chunk, attention);
}

double kernel_attention_macs(const struct kernel_attention *attention)
{
    const struct kernel_attention_options *o = &attention->options;
    double mean_seen = (double)o->context - ((double)o->n_rows - 1) / 2;
    return (double)o->n_heads * (double)o->group * (double)o->n_rows * mean_seen * 2 *
           (double)o->head_dim;
}

double kernel_attention_bytes(const struct kernel_attention *attention)
{
    const struct kernel_attention_options *o = &attention->options;
    return (double)o->n_heads * (double)(o->context / SERVERD_PAGE_TOKENS) *
           (double)(attention->key_bytes + attention->value_bytes);
}
