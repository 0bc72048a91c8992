#include "sampling/scratch_internal.h"

#include "base/numeric.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct sampling_scratch *sampling_scratch_create(uint32_t n_vocab)
{
    struct sampling_scratch *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->passes = row_passes_best();
    s->n_vocab = n_vocab;
    s->n_blocks = n_blocks(n_vocab);
    size_t n = s->n_blocks, n_padded = n * BLOCK;
    s->block = calloc(n, sizeof *s->block);
    s->copy = calloc(n_padded, sizeof *s->copy);
    s->block_max = calloc(n, sizeof *s->block_max);
    s->block_sum = calloc(n, sizeof *s->block_sum);
    s->id = calloc(n_padded + 1, sizeof *s->id);
    s->z = calloc(n_padded + 1, sizeof *s->z);
    s->weight = calloc(n_padded + 1, sizeof *s->weight);
    s->key = calloc(n_padded + 1, sizeof *s->key);
    s->list_block = calloc(n, sizeof *s->list_block);
    s->longest = calloc(max_size(n_vocab, 1), sizeof *s->longest);
    if (!s->block || !s->copy || !s->block_max || !s->block_sum || !s->id || !s->z || !s->weight ||
        !s->key || !s->list_block || !s->longest) {
        sampling_scratch_destroy(s);
        return NULL;
    }
    for (size_t b = 0; b < n; b++)
        s->list_block[b] = s->z + b * BLOCK;
    for (int i = 0; i < BLOCK; i++)
        s->nothing[i] = -INFINITY;
    return s;
}

void sampling_scratch_destroy(struct sampling_scratch *s)
{
    if (!s)
        return;
    free(s->block);
    free(s->copy);
    free(s->block_max);
    free(s->block_sum);
    free(s->id);
    free(s->z);
    free(s->weight);
    free(s->key);
    free(s->list_block);
    free(s->longest);
    free(s);
}

bool row_take(struct sampling_scratch *s, const float *logits, float *max)
{
    for (uint32_t b = 0; b < s->n_blocks; b++)
        s->block[b] = logits + (size_t)b * BLOCK;
    uint32_t n_last = s->n_vocab % BLOCK;
    if (n_last > 0) {
        uint32_t b = s->n_blocks - 1;
        float *last = s->copy + (size_t)b * BLOCK;
        memcpy(last, s->nothing, sizeof s->nothing);
        memcpy(last, s->block[b], n_last * sizeof *last);
        s->block[b] = last;
    }
    return s->passes->max(s->block, s->n_blocks, s->block_max, max);
}

float *row_logit(struct sampling_scratch *s, int32_t id)
{
    uint32_t b = (uint32_t)id / BLOCK;
    float *copy = s->copy + (size_t)b * BLOCK;
    if (s->block[b] != copy) {
        memcpy(copy, s->block[b], BLOCK * sizeof *copy);
        s->block[b] = copy;
    }
    return copy + (uint32_t)id % BLOCK;
}

void row_clear(struct sampling_scratch *s)
{
    for (uint32_t b = 0; b < s->n_blocks; b++) {
        s->block[b] = s->nothing;
        s->block_max[b] = -INFINITY;
    }
}

void row_mask(struct sampling_scratch *s, const uint64_t *words)
{
    _Static_assert(BLOCK == 64, "a word for each block");
    for (uint32_t b = 0; b < s->n_blocks; b++) {
        uint64_t word = words[b];
        if (word == 0) {
            s->block[b] = s->nothing;
            s->block_max[b] = -INFINITY;
        }
        if (word == 0 || word == UINT64_MAX)
            continue;
        float *copy = row_logit(s, (int32_t)(b * BLOCK));
        for (uint32_t i = 0; i < BLOCK; i++)
            copy[i] = word >> i & 1 ? copy[i] : -INFINITY;
    }
}

bool row_measure(struct sampling_scratch *s, float *max)
{
    float best = -INFINITY;
    for (uint32_t b = 0; b < s->n_blocks; b++) {
        float ignored;
        if (s->block[b] == s->copy + (size_t)b * BLOCK)
            (void)s->passes->max(&s->block[b], 1, &s->block_max[b], &ignored);
        best = s->block_max[b] > best ? s->block_max[b] : best;
    }
    if (best == -INFINITY)
        return false;
    *max = best;
    return true;
}
