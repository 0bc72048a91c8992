/* Attention over paged keys and values. A query sees its keys in segments of 256 that begin at
 * multiples of 256 in the sequence; the segments' softmax parts are merged in ascending order.
 * So a row's sum has one order whatever the chunk, the batch and the number of threads. */
#include "kernels/cpu/attention_job.h"
#include "kernels/cpu/strips.h"

#include <math.h>
#include <string.h>

static size_t align16(size_t n)
{
    return (n + 15) / 16 * 16;
}

static size_t max_queries(const serverd_attn *a)
{
    return CPU_ATTENTION_ROWS * attention_group(a);
}

struct attention_scratch cpu_carve_attention(const struct attention_job *job, uint32_t worker)
{
    const serverd_attn *a = job->attn;
    size_t n = max_queries(a);
    struct attention_scratch s = {.acc = cpu_worker_scratch(job->step, worker)};
    s.queries = s.acc + n * attention_value_width(a);
    s.max = s.queries + align16(n * a->k_dim);
    s.sum = s.max + n;
    s.begin = (uint32_t *)(void *)(s.sum + n);
    s.end = s.begin + n;
    s.kernel = s.max + align16(4 * n);
    s.strips = (char *)(s.kernel + align16(job->step->kernels->attention_scratch(a->k_dim)));
    return s;
}

size_t cpu_attention_scratch(const struct cpu_kernels *kernels, const serverd_node *node)
{
    const serverd_attn *a = &node->attributes.attn;
    size_t n = max_queries(a);
    return (n * attention_value_width(a) + align16(n * a->k_dim) + align16(4 * n) +
            align16(kernels->attention_scratch(a->k_dim))) *
               sizeof(float) +
           cpu_strips_scratch(a->k_dim, a->v_dim);
}

/* Items of rows first .. first + n - 1. */
static uint32_t cut_items(const serverd_batch *batch, uint32_t first, uint32_t n,
                          struct cpu_attention_item *items)
{
    uint32_t n_items = 0, end = first + n;
    for (uint32_t row = first; row < end;) {
        uint32_t count = 1;
        while (count < CPU_ATTENTION_ROWS && row + count < end &&
               batch->row_seq[row + count] == batch->row_seq[row])
            count++;
        items[n_items++] = (struct cpu_attention_item){row, count};
        row += count;
    }
    return n_items;
}

void cpu_plan_attention(serverd_handle *handle, const serverd_batch *batch)
{
    uint32_t seq = UINT32_MAX;
    for (uint32_t row = 0; row < batch->n_rows; row++)
        if (batch->row_seq[row] != seq)
            handle->seq_begin[seq = batch->row_seq[row]] = row;
    handle->seq_begin[batch->n_seqs] = batch->n_rows;
    cpu_plan_split(handle, batch);
    uint32_t page = 0;
    for (uint32_t s = 0; s < batch->n_seqs && handle->step_kv; s++) {
        handle->seq_first_page[s] = page;
        page += (handle->seq_begin[s + 1] - handle->seq_begin[s] + SERVERD_PAGE_TOKENS - 1) /
                SERVERD_PAGE_TOKENS;
    }
}

/* ---- where keys and values are --------------------------------------------------------------- */

/* The layer's store and the pages of a row's sequence. Of the step's own store there is one layer
 * that all layers of the model use in turn. */
static const struct kv_store_layer *layer_of(const struct cpu_step *step, const serverd_attn *a,
                                             serverd_dtype *dtype)
{
    const serverd_kv *kv = a->is_causal ? step->kv : step->handle->step_kv;
    *dtype = kv->dtype;
    return &kv->layers[a->is_causal ? a->kv_layer : 0];
}

static const uint32_t *pages_of(const struct cpu_step *step, const serverd_attn *a, size_t row)
{
    const serverd_batch *batch = step->batch;
    uint32_t seq = batch->row_seq[row];
    if (a->is_causal)
        return (step->kv->layers[a->kv_layer].is_windowed ? batch->window_table
                                                          : batch->page_table) +
               (size_t)seq * batch->max_pages;
    return step->handle->step_pages + step->handle->seq_first_page[seq];
}

static uint32_t position_of(const struct cpu_step *step, const serverd_attn *a, size_t row)
{
    const serverd_batch *batch = step->batch;
    return a->is_causal ? (uint32_t)batch->position[row]
                        : (uint32_t)row - step->handle->seq_begin[batch->row_seq[row]];
}

void cpu_append_rows(const struct cpu_op_call *call, size_t first, size_t n)
{
    const serverd_attn *a = &call->node->attributes.attn;
    const struct cpu_step *step = call->step;
    const float *k = cpu_input(call, 1), *v = cpu_input(call, 2);
    serverd_dtype dtype;
    const struct kv_store_layer *layer = layer_of(step, a, &dtype);
    for (size_t row = first; row < first + n; row++) {
        uint32_t position = position_of(step, a, row);
        uint32_t page = pages_of(step, a, row)[position / SERVERD_PAGE_TOKENS];
        for (uint32_t h = 0; h < a->n_kv_heads; h++)
            step->kernels->append(dtype, k + (row * a->n_kv_heads + h) * a->k_dim, a->k_dim,
                                  v + (row * a->n_kv_heads + h) * a->v_dim, a->v_dim,
                                  cpu_kv_keys(layer, page, h), cpu_kv_values(layer, page, h),
                                  position % SERVERD_PAGE_TOKENS);
    }
}

/* ---- queries --------------------------------------------------------------------------------- */

struct visible cpu_visible_from(const struct attention_job *job, uint32_t row)
{
    const serverd_batch *batch = job->step->batch;
    if (!job->attn->is_causal) {
        const uint32_t *seq_begin = job->step->handle->seq_begin;
        uint32_t seq = batch->row_seq[row];
        return (struct visible){0, seq_begin[seq + 1] - seq_begin[seq]};
    }
    uint32_t end = (uint32_t)batch->position[row] + 1, window = job->attn->window;
    return (struct visible){window && end > window ? end - window : 0, end};
}

void cpu_gather_queries(const struct attention_job *job, const struct cpu_attention_item *item,
                        uint32_t head, const struct attention_scratch *s)
{
    const serverd_attn *a = job->attn;
    size_t group = attention_group(a), n = item->n_rows * group;
    for (size_t i = 0; i < n; i++) {
        size_t row = item->first_row + i / group, q_head = head * group + i % group;
        memcpy(s->queries + i * a->k_dim, job->q + (row * a->n_heads + q_head) * a->k_dim,
               a->k_dim * sizeof(float));
    }
}

void cpu_clear_softmax(const struct cpu_softmax *softmax, size_t n, size_t width)
{
    for (size_t i = 0; i < n; i++) {
        softmax->max[i] = -INFINITY;
        softmax->sum[i] = 0.0f;
    }
    memset(softmax->acc, 0, n * width * sizeof *softmax->acc);
}

/* What each query sees of the segment, counted from its beginning; returns what all see together,
 * and in *oldest the row that sees the oldest of it. */
static struct visible see_segment(const struct attention_job *job,
                                  const struct cpu_attention_item *item, uint32_t segment,
                                  const struct attention_scratch *s, uint32_t *oldest)
{
    size_t group = attention_group(job->attn);
    struct visible all = {CPU_SEGMENT, 0};
    *oldest = item->first_row;
    for (uint32_t i = 0; i < item->n_rows; i++) {
        struct visible see = cpu_visible_from(job, item->first_row + i);
        uint32_t begin = (uint32_t)max_size(see.begin, segment);
        uint32_t end = (uint32_t)min_size(see.end, segment + CPU_SEGMENT);
        for (size_t g = 0; g < group; g++) {
            s->begin[i * group + g] = begin < end ? begin - segment : 0;
            s->end[i * group + g] = begin < end ? end - segment : 0;
        }
        if (begin >= end)
            continue;
        if (begin - segment < all.begin) {
            all.begin = begin - segment;
            *oldest = item->first_row + i;
        }
        all.end = (uint32_t)max_size(all.end, end - segment);
    }
    return all;
}

void cpu_attend_segment(const struct attention_job *job, const struct cpu_attention_item *item,
                        uint32_t head, uint32_t segment, const struct attention_scratch *s,
                        const struct cpu_softmax *into)
{
    const serverd_attn *a = job->attn;
    serverd_dtype kv;
    const struct kv_store_layer *layer = layer_of(job->step, a, &kv);
    struct cpu_strips strips;
    cpu_strips_init(&strips, kv, a->k_dim, a->v_dim, s->strips);
    struct cpu_attention call = {.kv = kv,
                                 .keys = strips.keys,
                                 .values = strips.values,
                                 .k_dim = a->k_dim,
                                 .v_dim = a->v_dim,
                                 .scale = a->scale,
                                 .cap = a->cap,
                                 .n_queries = item->n_rows * attention_group(a),
                                 .queries = s->queries,
                                 .begin = s->begin,
                                 .end = s->end,
                                 .max = into->max,
                                 .sum = into->sum,
                                 .acc = into->acc,
                                 .scratch = s->kernel};
    uint32_t oldest;
    const struct visible see = see_segment(job, item, segment, s, &oldest);
    /* rows of several sequences have these pages in common, but only who sees a window page need
     * have it in its table */
    const uint32_t *pages = pages_of(job->step, a, oldest) + segment / SERVERD_PAGE_TOKENS;
    for (uint32_t p = see.begin / SERVERD_PAGE_TOKENS; p * SERVERD_PAGE_TOKENS < see.end; p++)
        cpu_strips_add(&strips, p, cpu_kv_keys(layer, pages[p], head),
                       cpu_kv_values(layer, pages[p], head));
    job->step->kernels->attend(&call);
}

void cpu_put_attention(const struct attention_job *job, const struct cpu_attention_item *item,
                       uint32_t head, const struct cpu_softmax *softmax)
{
    const serverd_attn *a = job->attn;
    size_t width = attention_value_width(a), group = attention_group(a);
    for (size_t i = 0; i < item->n_rows * group; i++) {
        size_t row = item->first_row + i / group, q_head = head * group + i % group;
        float *out = job->out + (row * a->n_heads + q_head) * a->v_dim;
        float inverse = 1.0f / softmax->sum[i];
        for (size_t d = 0; d < a->v_dim; d++)
            out[d] = softmax->acc[i * width + d] * inverse;
    }
}

/* ---- one item after the other ---------------------------------------------------------------- */

static void attend_item(const struct attention_job *job, const struct cpu_attention_item *item,
                        uint32_t head, uint32_t worker)
{
    const serverd_attn *a = job->attn;
    const struct attention_scratch s = cpu_carve_attention(job, worker);
    const struct cpu_softmax softmax = {s.max, s.sum, s.acc};
    cpu_gather_queries(job, item, head, &s);
    cpu_clear_softmax(&softmax, item->n_rows * attention_group(a), attention_value_width(a));
    uint32_t last = item->first_row + item->n_rows - 1;
    uint32_t begin = cpu_visible_from(job, item->first_row).begin;
    uint32_t end = cpu_visible_from(job, last).end;
    for (uint32_t segment = begin / CPU_SEGMENT * CPU_SEGMENT; segment < end;
         segment += CPU_SEGMENT)
        cpu_attend_segment(job, item, head, segment, &s, &softmax);
    cpu_put_attention(job, item, head, &softmax);
}

static struct attention_job attention_job(const struct cpu_step *step,
                                          const struct cpu_phase *phase)
{
    const serverd_handle *handle = step->handle;
    const serverd_node *node = &handle->graph->nodes[handle->actions[phase->first_action].index];
    struct cpu_op_call call = {.step = step, .node = node};
    return (struct attention_job){.step = step,
                                  .node = handle->actions[phase->first_action].index,
                                  .attn = &node->attributes.attn,
                                  .q = cpu_input(&call, 0),
                                  .out = cpu_output(&call)};
}

static void attention_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    const struct attention_job *job = arg;
    /* the longest contexts stand last in a prompt: they begin first */
    uint32_t n_heads = job->attn->n_kv_heads;
    const struct cpu_attention_item *item = &job->items[job->n_items - 1 - chunk / n_heads];
    cpu_watch_resume(job->step, worker);
    attend_item(job, item, chunk % n_heads, worker);
    cpu_watch_node(job->step, worker, job->node, item->n_rows);
}

void cpu_run_attention(const struct cpu_step *step, const struct cpu_phase *phase)
{
    struct attention_job job = attention_job(step, phase);
    if (cpu_run_split_attention(&job))
        return;
    job.items = step->handle->items;
    job.n_items = cut_items(step->batch, 0, step->batch->n_rows, step->handle->items);
    step->host->parallel_for(step->host->context, job.n_items * job.attn->n_kv_heads,
                             attention_chunk, &job);
}

void cpu_attend_rows(const struct cpu_step *step, const struct cpu_phase *phase, size_t first,
                     size_t n, uint32_t worker)
{
    const struct attention_job job = attention_job(step, phase);
    /* each row has its own place, so that workers do not meet */
    struct cpu_attention_item *items = step->handle->items + first;
    uint32_t n_items = cut_items(step->batch, (uint32_t)first, (uint32_t)n, items);
    for (uint32_t i = 0; i < n_items; i++)
        for (uint32_t head = 0; head < job.attn->n_kv_heads; head++)
            attend_item(&job, &items[i], head, worker);
    cpu_watch_node(step, worker, job.node, n);
}
