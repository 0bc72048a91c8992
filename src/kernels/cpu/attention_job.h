/* What the ways to compute an attention share (attention.c, attention_split.c). */
#ifndef KERNELS_CPU_ATTENTION_JOB_H
#define KERNELS_CPU_ATTENTION_JOB_H

#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"

struct attention_job {
    const struct cpu_step *step;
    uint32_t node;
    const serverd_attn *attn;
    const float *q;
    float *out;
    const struct cpu_attention_item *items; /* of a job that is not split */
    uint32_t n_items;
};

/* A worker's memory: the queries of one chunk, what each sees, its running softmax, and strips of
 * pages that are none. */
struct attention_scratch {
    float *queries, *acc, *max, *sum, *kernel;
    uint32_t *begin, *end;
    void *strips; /* cpu_strips_scratch bytes */
};

/* Positions that a row sees. */
struct visible {
    uint32_t begin, end;
};

/* Query heads of one KV head. */
static inline size_t attention_group(const serverd_attn *a)
{
    return a->n_heads / a->n_kv_heads;
}

static inline size_t attention_value_width(const serverd_attn *a)
{
    return ((size_t)a->v_dim + 15) / 16 * 16;
}

struct visible cpu_visible_from(const struct attention_job *job, uint32_t row);
struct attention_scratch cpu_carve_attention(const struct attention_job *job, uint32_t worker);
/* Nothing was seen yet by n queries. */
void cpu_clear_softmax(const struct cpu_softmax *softmax, size_t n, size_t width);
/* The rows of `item` against the keys and values of one segment and one KV head, which are those of
 * the item's first row; merges into `into`. */
void cpu_attend_segment(const struct attention_job *job, const struct cpu_attention_item *item,
                        uint32_t head, uint32_t segment, const struct attention_scratch *scratch,
                        const struct cpu_softmax *into);
/* Copies the queries of the item's rows. */
void cpu_gather_queries(const struct attention_job *job, const struct cpu_attention_item *item,
                        uint32_t head, const struct attention_scratch *scratch);
/* Divides the sums by their weights and writes the item's rows. */
void cpu_put_attention(const struct attention_job *job, const struct cpu_attention_item *item,
                       uint32_t head, const struct cpu_softmax *softmax);

/* attention_split.c. False: this step is better not split. */
bool cpu_run_split_attention(const struct attention_job *job);

#endif
