/* Calls of the CPU kernels for measurement. kernel_calls.c is the one file of the tool that knows
 * their header; nothing here depends on how they work. Inputs are made of bytes that are usual
 * numbers in every type. Each `run` spreads its work over the pool as the back-end does, and
 * returns when all of it is done. One caller at a time. */
#ifndef TOOLS_BENCH_KERNEL_CALLS_H
#define TOOLS_BENCH_KERNEL_CALLS_H

#include "runtime/worker_pool.h"
#include "serverd/delegate.h"

#include <stdbool.h>

#define KERNEL_MAX_LEVELS 8u

/* Names of the levels that this machine has, worst first; how many. */
uint32_t kernel_levels(const char *names[KERNEL_MAX_LEVELS]);

/* ---- linear layers ---- */

struct kernel_linear;

struct kernel_linear_options {
    struct worker_pool *pool;
    serverd_dtype dtype;
    size_t n_out, k, max_rows;
    bool is_fine;        /* activations as rows of logits have them */
    size_t weight_bytes; /* copies of the matrix are made up to this, so that no cache holds them */
};

/* Of one type on all levels: packed weights do not depend on them. */
serverd_status kernel_linear_create(const struct kernel_linear_options *options,
                                    struct kernel_linear **out, serverd_error *err);
void kernel_linear_destroy(struct kernel_linear *linear); /* NULL is fine */

/* How the type lies in memory: "nibble, f16 scales"; whether its products are of integers, or
 * of bf16, and whether the form is one of its own rather than f32. */
const char *kernel_linear_form(const struct kernel_linear *linear);
bool kernel_linear_is_integer(const struct kernel_linear *linear);
bool kernel_linear_is_bf16(const struct kernel_linear *linear);
bool kernel_linear_is_own_form(const struct kernel_linear *linear);
size_t kernel_linear_column_bytes(const struct kernel_linear *linear); /* of 16 outputs */

/* Quantises the rows for the level; before `run` on it. */
void kernel_linear_prepare(struct kernel_linear *linear, const char *level, size_t n_rows);

/* y = x W^T of the rows and the first n_columns outputs, a multiple of 16, of the next copy. */
void kernel_linear_run(struct kernel_linear *linear, size_t n_columns);

/* Quantises all rows that were prepared, again. */
void kernel_linear_quantise(struct kernel_linear *linear);

/* ---- attention ---- */

struct kernel_attention;

struct kernel_attention_options {
    struct worker_pool *pool;
    serverd_dtype kv;
    size_t head_dim, group; /* query heads of a KV head */
    size_t context;         /* tokens that the last row sees; a multiple of 256 */
    size_t n_rows;          /* of each sequence: the last ones; 1 is decode */
    size_t n_heads;         /* KV heads of all sequences together */
};

serverd_status kernel_attention_create(const struct kernel_attention_options *options,
                                       struct kernel_attention **out, serverd_error *err);
void kernel_attention_destroy(struct kernel_attention *attention); /* NULL is fine */

void kernel_attention_run(struct kernel_attention *attention, const char *level);

/* Multiply-adds and bytes of keys and values of one run. */
double kernel_attention_macs(const struct kernel_attention *attention);
double kernel_attention_bytes(const struct kernel_attention *attention);

#endif
