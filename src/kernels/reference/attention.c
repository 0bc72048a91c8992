/* Attention: appending keys and values, then a softmax over the visible keys, key after key. */
#include "base/limits.h"
#include "kernels/reference/matmul.h"
#include "kernels/reference/reference_internal.h"

#include <math.h>
#include <string.h>

struct attention_job {
    const struct reference_step *step;
    const struct reference_kernels *kernels;
    const serverd_attn *attn;
    const struct kv_store_layer *layer; /* NULL: the rows of the step are all there is */
    const float *q, *k, *v;
    float *out;
};

/* Where the store has a token of a row's sequence. */
static size_t slot_of(const struct attention_job *job, uint32_t row, uint32_t position)
{
    const serverd_batch *batch = job->step->batch;
    const uint32_t *table = job->layer->is_windowed ? batch->window_table : batch->page_table;
    size_t entry = (size_t)batch->row_seq[row] * batch->max_pages + position / SERVERD_PAGE_TOKENS;
    return (size_t)table[entry] * SERVERD_PAGE_TOKENS + position % SERVERD_PAGE_TOKENS;
}

static void append_row(void *arg, uint32_t row, uint32_t worker)
{
    (void)worker;
    const struct attention_job *job = arg;
    const serverd_attn *attn = job->attn;
    size_t slot = slot_of(job, row, (uint32_t)job->step->batch->position[row]);
    for (uint32_t head = 0; head < attn->n_kv_heads; head++) {
        size_t at = (size_t)row * attn->n_kv_heads + head;
        reference_kv_write(job->layer, job->step->kv->dtype, slot, head, job->k + at * attn->k_dim,
                           job->v + at * attn->v_dim);
    }
}

/* The keys that a row sees: positions in the store, or rows of the step. */
struct visible {
    uint32_t begin, end;
};

static struct visible visible_keys(const struct attention_job *job, uint32_t row)
{
    const serverd_batch *batch = job->step->batch;
    const serverd_attn *attn = job->attn;
    uint32_t end = (uint32_t)batch->position[row] + 1;
    struct visible keys = {.begin = attn->window > 0 && end > attn->window ? end - attn->window : 0,
                           .end = end};
    if (job->layer)
        return keys;
    uint32_t first = row, behind = row + 1;
    while (first > 0 && batch->row_seq[first - 1] == batch->row_seq[row])
        first--;
    while (behind < batch->n_rows && batch->row_seq[behind] == batch->row_seq[row])
        behind++;
    if (!attn->is_causal)
        return (struct visible){first, behind};
    return (struct visible){first + keys.begin, first + keys.end};
}

static const float *key_at(const struct attention_job *job, uint32_t row, uint32_t index,
                           uint32_t head, float *space)
{
    const serverd_attn *attn = job->attn;
    if (!job->layer)
        return job->k + ((size_t)index * attn->n_kv_heads + head) * attn->k_dim;
    reference_kv_read_key(job->layer, job->step->kv->dtype, slot_of(job, row, index), head, space);
    return space;
}

static const float *value_at(const struct attention_job *job, uint32_t row, uint32_t index,
                             uint32_t head, float *space)
{
    const serverd_attn *attn = job->attn;
    if (!job->layer)
        return job->v + ((size_t)index * attn->n_kv_heads + head) * attn->v_dim;
    reference_kv_read_value(job->layer, job->step->kv->dtype, slot_of(job, row, index), head,
                            space);
    return space;
}

/* One head of one row. The running maximum only keeps exp in range. */
static void attend(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct attention_job *job = arg;
    const serverd_attn *attn = job->attn;
    const uint32_t row = chunk / attn->n_heads, head = chunk % attn->n_heads;
    const uint32_t kv_head = head / (attn->n_heads / attn->n_kv_heads);
    const struct visible keys = visible_keys(job, row);
    const float *q = job->q + (size_t)chunk * attn->k_dim;
    float space[LIMIT_HEAD_DIM];
    double sums[LIMIT_HEAD_DIM], total = 0, most = -INFINITY;
    memset(sums, 0, attn->v_dim * sizeof *sums);
    for (uint32_t i = keys.begin; i < keys.end; i++) {
        double score = (double)attn->scale *
                       job->kernels->dot(q, key_at(job, row, i, kv_head, space), attn->k_dim);
        if (attn->cap > 0)
            score = (double)attn->cap * tanh(score / (double)attn->cap);
        double decay = score > most ? exp(most - score) : 1;
        if (score > most)
            most = score;
        double weight = exp(score - most);
        total = total * decay + weight;
        job->kernels->accumulate(sums, decay, weight, value_at(job, row, i, kv_head, space),
                                 attn->v_dim);
    }
    float *out = job->out + (size_t)chunk * attn->v_dim;
    for (uint32_t i = 0; i < attn->v_dim; i++)
        out[i] = (float)(sums[i] / total);
}

void reference_attend(const struct reference_step *step, const serverd_node *node)
{
    const uint32_t *operands = step->graph->operands + node->first_operand;
    const serverd_attn *attn = &node->attributes.attn;
    struct attention_job job = {.step = step,
                                .kernels = reference_kernels_best(),
                                .attn = attn,
                                .q = step->values[operands[0]],
                                .k = step->values[operands[1]],
                                .v = step->values[operands[2]],
                                .out = step->values[operands[3]]};
    if (attn->is_causal && step->kv) {
        job.layer = &step->kv->layers[attn->kv_layer];
        step->host->parallel_for(step->host->context, step->batch->n_rows, append_row, &job);
    }
    step->host->parallel_for(step->host->context, step->batch->n_rows * attn->n_heads, attend,
                             &job);
}
