/* Attention over paged keys and values. A query sees its keys in segments of 256 that begin at
 * multiples of 256 in the sequence; the segments' softmax parts are merged in ascending order.
 * So a row's sum has one order whatever the chunk, the batch and the number of threads. */
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

struct attention_job {
    const struct cpu_op_call *call;
    const serverd_attn *attn;
    const float *q, *k, *v;
    float *out;
};

/* A worker's memory: one segment of keys and values of one KV head, and the running softmax of
 * each (row, query head) of the item. */
struct attention_scratch {
    float *keys, *values, *scores, *part;
    float *max, *sum, *acc;
};

static size_t group_size(const serverd_attn *a)
{
    return a->n_heads / a->n_kv_heads;
}

size_t cpu_attention_scratch(const serverd_node *node)
{
    const serverd_attn *a = &node->attributes.attn;
    size_t n_queries = CPU_ATTENTION_ROWS * group_size(a);
    return CPU_SEGMENT * ((size_t)a->k_dim + a->v_dim) + CPU_SEGMENT + a->v_dim +
           n_queries * (2 + (size_t)a->v_dim);
}

static struct attention_scratch carve(const serverd_attn *a, float *p)
{
    size_t n_queries = CPU_ATTENTION_ROWS * group_size(a);
    struct attention_scratch s = {.keys = p};
    s.values = s.keys + CPU_SEGMENT * (size_t)a->k_dim;
    s.scores = s.values + CPU_SEGMENT * (size_t)a->v_dim;
    s.part = s.scores + CPU_SEGMENT;
    s.max = s.part + a->v_dim;
    s.sum = s.max + n_queries;
    s.acc = s.sum + n_queries;
    return s;
}

void cpu_plan_attention(serverd_handle *handle, const serverd_batch *batch)
{
    handle->n_items = 0;
    for (uint32_t row = 0; row < batch->n_rows;) {
        uint32_t n = 1;
        while (n < CPU_ATTENTION_ROWS && row + n < batch->n_rows &&
               batch->row_seq[row + n] == batch->row_seq[row])
            n++;
        handle->items[handle->n_items++] = (struct cpu_attention_item){row, n};
        row += n;
    }
    uint32_t seq = UINT32_MAX;
    for (uint32_t row = 0; row < batch->n_rows; row++)
        if (batch->row_seq[row] != seq)
            handle->seq_begin[seq = batch->row_seq[row]] = row;
    handle->seq_begin[batch->n_seqs] = batch->n_rows;
}

/* ---- appending to the cache ------------------------------------------------------------------ */

static const uint32_t *pages_of(const serverd_batch *batch, uint32_t row)
{
    return batch->page_table + (size_t)batch->row_seq[row] * batch->max_pages;
}

static void append_rows(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker)
{
    (void)worker;
    const serverd_attn *a = &call->node->attributes.attn;
    const struct cpu_step *step = call->step;
    const float *k = cpu_input(call, 1), *v = cpu_input(call, 2);
    for (size_t row = first; row < first + n; row++) {
        const uint32_t *pages = pages_of(step->batch, (uint32_t)row);
        uint32_t position = (uint32_t)step->batch->position[row];
        for (uint32_t h = 0; h < a->n_kv_heads; h++) {
            cpu_kv_write(step->kernels, step->kv, a->kv_layer, false, pages, h, position,
                         k + (row * a->n_kv_heads + h) * a->k_dim);
            cpu_kv_write(step->kernels, step->kv, a->kv_layer, true, pages, h, position,
                         v + (row * a->n_kv_heads + h) * a->v_dim);
        }
    }
}

/* ---- queries --------------------------------------------------------------------------------- */

struct visible {
    uint32_t begin, end; /* positions */
};

static struct visible visible_from(const struct attention_job *job, uint32_t row)
{
    const serverd_batch *batch = job->call->step->batch;
    if (!job->attn->is_causal) {
        const uint32_t *seq_begin = job->call->step->handle->seq_begin;
        uint32_t seq = batch->row_seq[row];
        return (struct visible){0, seq_begin[seq + 1] - seq_begin[seq]};
    }
    uint32_t end = (uint32_t)batch->position[row] + 1, window = job->attn->window;
    return (struct visible){window && end > window ? end - window : 0, end};
}

/* Keys and values of positions first .. first+n-1 of one KV head, as floats. */
static void read_segment(const struct attention_job *job, uint32_t row, uint32_t head,
                         uint32_t first, uint32_t n, struct attention_scratch *s)
{
    const serverd_attn *a = job->attn;
    const struct cpu_step *step = job->call->step;
    if (a->is_causal) {
        const uint32_t *pages = pages_of(step->batch, row);
        cpu_kv_read(step->kernels, step->kv, a->kv_layer, false, pages, head, first, n, s->keys);
        cpu_kv_read(step->kernels, step->kv, a->kv_layer, true, pages, head, first, n, s->values);
        return;
    }
    size_t begin = step->handle->seq_begin[step->batch->row_seq[row]] + first;
    for (size_t i = 0; i < n; i++) {
        size_t at = (begin + i) * a->n_kv_heads + head;
        memcpy(s->keys + i * a->k_dim, job->k + at * a->k_dim, a->k_dim * sizeof(float));
        memcpy(s->values + i * a->v_dim, job->v + at * a->v_dim, a->v_dim * sizeof(float));
    }
}

/* Adds the part of a segment that one row sees to each of the group's queries. */
static void attend_segment(const struct attention_job *job, uint32_t row, uint32_t row_in_item,
                           uint32_t head, uint32_t segment, struct visible read,
                           struct attention_scratch *s)
{
    const serverd_attn *a = job->attn;
    const struct cpu_kernels *kernels = job->call->step->kernels;
    struct visible see = visible_from(job, row);
    uint32_t begin = (uint32_t)max_size(see.begin, segment);
    uint32_t end = (uint32_t)min_size(see.end, segment + CPU_SEGMENT);
    if (begin >= end)
        return;
    const float *keys = s->keys + (begin - read.begin) * (size_t)a->k_dim;
    const float *values = s->values + (begin - read.begin) * (size_t)a->v_dim;
    size_t group = group_size(a);
    for (size_t g = 0; g < group; g++) {
        size_t query = row_in_item * group + g, q_head = head * group + g;
        const float *q = job->q + (row * (size_t)a->n_heads + q_head) * a->k_dim;
        float *acc = s->acc + query * a->v_dim, sum;
        float max =
            kernels->scores(q, keys, a->k_dim, end - begin, a->scale, a->cap, s->scores, &sum);
        kernels->weighted_sum(s->scores, values, a->v_dim, end - begin, s->part);
        float both = max > s->max[query] ? max : s->max[query];
        if (max != max)
            both = max; /* NaN goes on to the logits, where it is found */
        float old = s->max[query] == -INFINITY ? 0.0f : expf(s->max[query] - both);
        float new = expf(max - both);
        kernels->blend(acc, old, s->part, new, acc, a->v_dim);
        s->sum[query] = s->sum[query] * old + sum * new;
        s->max[query] = both;
    }
}

static void attention_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    const struct attention_job *job = arg;
    const serverd_attn *a = job->attn;
    const serverd_handle *handle = job->call->step->handle;
    const struct cpu_attention_item *item = &handle->items[chunk / a->n_kv_heads];
    uint32_t head = chunk % a->n_kv_heads;
    size_t group = group_size(a), n_queries = item->n_rows * group;
    struct attention_scratch s = carve(a, cpu_worker_scratch(job->call->step, worker));
    memset(s.acc, 0, n_queries * a->v_dim * sizeof *s.acc);
    for (size_t i = 0; i < n_queries; i++) {
        s.max[i] = -INFINITY;
        s.sum[i] = 0.0f;
    }
    uint32_t last = item->first_row + item->n_rows - 1;
    struct visible all = {visible_from(job, item->first_row).begin, visible_from(job, last).end};
    for (uint32_t segment = all.begin / CPU_SEGMENT * CPU_SEGMENT; segment < all.end;
         segment += CPU_SEGMENT) {
        struct visible read = {(uint32_t)max_size(segment, all.begin),
                               (uint32_t)min_size(segment + CPU_SEGMENT, all.end)};
        read_segment(job, item->first_row, head, read.begin, read.end - read.begin, &s);
        for (uint32_t i = 0; i < item->n_rows; i++)
            attend_segment(job, item->first_row + i, i, head, segment, read, &s);
    }
    for (size_t i = 0; i < n_queries; i++) {
        size_t row = item->first_row + i / group, q_head = head * group + i % group;
        float *out = job->out + (row * a->n_heads + q_head) * a->v_dim;
        for (size_t d = 0; d < a->v_dim; d++)
            out[d] = s.acc[i * a->v_dim + d] / s.sum[i];
    }
}

void cpu_run_attention(const struct cpu_op_call *call)
{
    const serverd_attn *a = &call->node->attributes.attn;
    struct attention_job job = {.call = call,
                                .attn = a,
                                .q = cpu_input(call, 0),
                                .k = cpu_input(call, 1),
                                .v = cpu_input(call, 2),
                                .out = cpu_output(call)};
    if (a->is_causal)
        cpu_split(call, call->n_rows, 32, append_rows);
    call->step->host->parallel_for(call->step->host->context,
                                   call->step->handle->n_items * a->n_kv_heads, attention_chunk,
                                   &job);
}
