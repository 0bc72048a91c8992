/* Attention of few rows, whose items are too few for the workers or read the same pages: it is cut
 * along the context. A unit is one segment of the context for some neighbouring rows that have it
 * in the same pages (one sequence, or sequences with a common prefix), so these pages are read once
 * for all of them. Each unit leaves a softmax part for each of its queries; a second hand-out
 * merges a row's parts, segments in ascending order. This is what a row's own item does
 * (attention.c), so the bits are the same whether a step is split or not. */
#include "base/error.h"
#include "base/numeric.h"
#include "kernels/cpu/attention_job.h"

#include <stdlib.h>

#define MAX_ROWS     64        /* more rows are enough work as they are */
#define MAX_UNITS    4096      /* segments times rows of a step */
#define PARTS_FLOATS (2 << 20) /* room for parts: 8 MiB, of which a step touches what it needs */

/* Items for each worker below which units even out the work. */
#define FEW_ITEMS 4

struct cpu_split {
    struct cpu_split_unit {
        struct cpu_attention_item rows;
        uint32_t segment; /* its number */
    } units[MAX_UNITS];
    float *parts;
    /* Leading segments that lie in the same pages as those of the row before, and so in the same
     * window pages. */
    uint32_t shared[MAX_ROWS];
};

/* Parts lie as [segment][KV head] of max [queries], sum [queries], acc [queries][width]. */
struct split_job {
    const struct attention_job *job;
    const struct cpu_split *split;
    uint32_t n_units;
    size_t n_queries, width; /* queries: rows times the heads of a group, rounded up to 16 */
};

/* What a step of sequences without common pages writes of the parts, for the footprint: as many as
 * are split at most, as long as they may be. */
static size_t usual_bytes(const serverd_handle *handle)
{
    const serverd_graph *graph = handle->graph;
    size_t most = 0, workers = handle->instance->host->n_workers;
    for (uint32_t i = cpu_first_node(handle); i < cpu_end_node(handle); i++) {
        const serverd_attn *a = &graph->nodes[i].attributes.attn;
        if (graph->nodes[i].op != SERVERD_OP_ATTN || !a->is_causal)
            continue;
        size_t rows = min_size(FEW_ITEMS * workers / a->n_kv_heads + 1, handle->limits.max_seqs);
        size_t queries = (rows * (a->n_heads / a->n_kv_heads) + 15) / 16 * 16;
        size_t segments = handle->limits.max_context / CPU_SEGMENT + 1;
        most = max_size(most, segments * a->n_kv_heads * queries * (2 + (size_t)a->v_dim));
    }
    return min_size(most, PARTS_FLOATS) * sizeof(float);
}

serverd_status cpu_create_split(serverd_handle *handle, serverd_error *err)
{
    struct cpu_split *split = handle->instance->split;
    handle->footprint.scratch_bytes += sizeof *split + PARTS_FLOATS * sizeof(float);
    if (!split && (split = calloc(1, sizeof *split))) {
        handle->instance->split = split;
        split->parts = aligned_alloc(64, PARTS_FLOATS * sizeof(float));
    }
    handle->split = split;
    if (!split || !split->parts)
        return fail(err, SERVERD_NOMEM, "cpu: no memory for parts of attention");
    handle->footprint.scratch_bytes -= PARTS_FLOATS * sizeof(float) - usual_bytes(handle);
    return SERVERD_OK;
}

void cpu_destroy_split(struct cpu_split *split)
{
    if (split)
        free(split->parts);
    free(split);
}

static uint32_t shared_segments(const serverd_batch *batch, uint32_t row)
{
    uint32_t seq = batch->row_seq[row], before = batch->row_seq[row - 1];
    if (seq == before)
        return UINT32_MAX;
    const uint32_t *a = batch->page_table + (size_t)seq * batch->max_pages;
    const uint32_t *b = batch->page_table + (size_t)before * batch->max_pages;
    size_t tokens = min_size((size_t)batch->position[row], (size_t)batch->position[row - 1]) + 1;
    uint32_t n = 0, pages = (uint32_t)(tokens / SERVERD_PAGE_TOKENS);
    while (n < pages && a[n] == b[n])
        n++;
    return n / CPU_SEGMENT_PAGES;
}

void cpu_plan_split(serverd_handle *handle, const serverd_batch *batch)
{
    if (!handle->split || batch->n_rows > MAX_ROWS || !batch->page_table)
        return;
    handle->split->shared[0] = 0;
    for (uint32_t row = 1; row < batch->n_rows; row++)
        handle->split->shared[row] = shared_segments(batch, row);
}

static bool sees(const struct attention_job *job, uint32_t row, uint32_t segment)
{
    struct visible see = cpu_visible_from(job, row);
    return see.begin < (segment + 1) * CPU_SEGMENT && see.end > segment * CPU_SEGMENT;
}

/* Units of one segment; `n_seen` counts the rows that see it, those of one sequence once. False:
 * too many. */
static bool cut_segment(const struct attention_job *job, uint32_t segment, uint32_t *n_units,
                        uint32_t *n_seen)
{
    struct cpu_split *split = job->step->handle->split;
    const serverd_batch *batch = job->step->batch;
    struct cpu_split_unit *unit = NULL;
    for (uint32_t row = 0; row < batch->n_rows; row++) {
        if (!sees(job, row, segment)) {
            unit = NULL;
            continue;
        }
        if (row == 0 || batch->row_seq[row] != batch->row_seq[row - 1])
            (*n_seen)++;
        if (unit && split->shared[row] > segment && unit->rows.n_rows < CPU_ATTENTION_ROWS) {
            unit->rows.n_rows++;
            continue;
        }
        if (*n_units == MAX_UNITS)
            return false;
        unit = &split->units[(*n_units)++];
        *unit = (struct cpu_split_unit){{row, 1}, segment};
    }
    return true;
}

static struct cpu_softmax part_at(const struct split_job *split, uint32_t segment, uint32_t head,
                                  uint32_t row)
{
    const serverd_attn *a = split->job->attn;
    size_t first = row * attention_group(a), n = split->n_queries;
    float *base =
        split->split->parts + ((size_t)segment * a->n_kv_heads + head) * n * (2 + split->width);
    return (struct cpu_softmax){base + first, base + n + first,
                                base + 2 * n + first * split->width};
}

static void run_unit(void *arg, uint32_t chunk, uint32_t worker)
{
    const struct split_job *split = arg;
    const serverd_attn *a = split->job->attn;
    const struct cpu_split_unit *unit = &split->split->units[chunk / a->n_kv_heads];
    uint32_t head = chunk % a->n_kv_heads;
    const struct attention_scratch scratch = cpu_carve_attention(split->job, worker);
    const struct cpu_softmax part = part_at(split, unit->segment, head, unit->rows.first_row);
    cpu_watch_start(split->job->step, worker);
    cpu_gather_queries(split->job, &unit->rows, head, &scratch);
    cpu_clear_softmax(&part, unit->rows.n_rows * attention_group(a), split->width);
    cpu_attend_segment(split->job, &unit->rows, head, unit->segment * CPU_SEGMENT, &scratch, &part);
    cpu_watch_node(split->job->step, worker, split->job->node, unit->rows.n_rows);
}

static void merge_row(void *arg, uint32_t row, uint32_t worker)
{
    const struct split_job *split = arg;
    const serverd_attn *a = split->job->attn;
    const struct attention_scratch scratch = cpu_carve_attention(split->job, worker);
    const struct cpu_softmax softmax = {scratch.max, scratch.sum, scratch.acc};
    const struct cpu_attention_item item = {row, 1};
    size_t group = attention_group(a);
    struct visible see = cpu_visible_from(split->job, row);
    cpu_watch_start(split->job->step, worker);
    for (uint32_t head = 0; head < a->n_kv_heads; head++) {
        cpu_clear_softmax(&softmax, group, split->width);
        for (uint32_t s = see.begin / CPU_SEGMENT; s * CPU_SEGMENT < see.end; s++) {
            const struct cpu_softmax part = part_at(split, s, head, row);
            split->job->step->kernels->merge(&part, group, a->v_dim, &softmax);
        }
        cpu_put_attention(split->job, &item, head, &softmax);
    }
    cpu_watch_node(split->job->step, worker, split->job->node, 1);
}

bool cpu_run_split_attention(const struct attention_job *job)
{
    const struct cpu_step *step = job->step;
    const serverd_attn *a = job->attn;
    const uint32_t n_rows = step->batch->n_rows;
    if (!step->handle->split || !a->is_causal || n_rows == 0 || n_rows > MAX_ROWS)
        return false;
    uint32_t end = 0;
    for (uint32_t row = 0; row < n_rows; row++)
        end = (uint32_t)max_size(end, cpu_visible_from(job, row).end);
    struct split_job split = {.job = job,
                              .split = step->handle->split,
                              .n_queries = (n_rows * attention_group(a) + 15) / 16 * 16,
                              .width = attention_value_width(a)};
    const uint32_t n_segments = (end + CPU_SEGMENT - 1) / CPU_SEGMENT;
    if (n_segments < 2 ||
        (size_t)n_segments * a->n_kv_heads * split.n_queries * (2 + split.width) > PARTS_FLOATS)
        return false;
    uint32_t n_seen = 0;
    for (uint32_t segment = 0; segment < n_segments; segment++)
        if (!cut_segment(job, segment, &split.n_units, &n_seen))
            return false;
    bool is_shared = split.n_units < n_seen - n_seen / 4;
    bool is_enough = step->host->n_workers == 1 ||
                     step->batch->n_seqs * a->n_kv_heads >= FEW_ITEMS * step->host->n_workers;
    if (!is_shared && is_enough)
        return false;
    step->host->parallel_for(step->host->context, split.n_units * a->n_kv_heads, run_unit, &split);
    step->host->parallel_for(step->host->context, n_rows, merge_row, &split);
    return true;
}
