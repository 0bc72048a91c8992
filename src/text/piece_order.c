/* Ids in the order of their pieces, and how much neighbours share: what a walk over all tokens
 * along a grammar needs. */
#include "base/error.h"
#include "base/numeric.h"
#include "text/image_builder_internal.h"

#include <stdlib.h>
#include <string.h>

enum { KEY_BYTES = 8 };

/* A piece's first bytes as a number that sorts as they do, zeros behind its end. */
struct key {
    uint64_t begin;
    uint32_t id, len;
    const char *bytes;
};

static int compare_keys(const void *a, const void *b)
{
    const struct key *x = a, *y = b;
    const int order = memcmp(x->bytes, y->bytes, min_size(x->len, y->len));
    if (order != 0)
        return order;
    if (x->len != y->len)
        return x->len < y->len ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static struct key make_key(const struct image_builder *builder, uint32_t id)
{
    uint8_t bytes[KEY_BYTES] = {0};
    uint64_t begin;
    const uint32_t offset = builder->piece_offsets[id];
    const uint32_t len = builder->piece_offsets[id + 1] - offset;
    memcpy(bytes, builder->piece_bytes + offset, min_size(len, KEY_BYTES));
    memcpy(&begin, bytes, sizeof begin);
    return (struct key){__builtin_bswap64(begin), id, len, builder->piece_bytes + offset};
}

/* By `begin`, least byte first; equal keys keep their order. Which of the two arrays has them. */
static struct key *sort_by_begin(struct key *keys, struct key *spare, uint32_t n)
{
    uint32_t count[KEY_BYTES][256] = {0};
    for (uint32_t i = 0; i < n; i++)
        for (int k = 0; k < KEY_BYTES; k++)
            count[k][keys[i].begin >> (8 * k) & 255]++;
    for (int k = 0; k < KEY_BYTES; k++) {
        uint32_t sum = 0;
        for (int b = 0; b < 256; b++) {
            const uint32_t here = count[k][b];
            count[k][b] = sum;
            sum += here;
        }
        for (uint32_t i = 0; i < n; i++)
            spare[count[k][keys[i].begin >> (8 * k) & 255]++] = keys[i];
        struct key *swap = keys;
        keys = spare;
        spare = swap;
    }
    return keys;
}

static uint16_t shared(const struct key *a, const struct key *b)
{
    const size_t n = min_size(min_size(a->len, b->len), UINT16_MAX);
    const uint64_t differs = a->begin ^ b->begin;
    size_t i = differs ? (size_t)__builtin_clzll(differs) / 8 : KEY_BYTES;
    while (!differs && i < n && a->bytes[i] == b->bytes[i])
        i++;
    return (uint16_t)min_size(i, n);
}

serverd_status image_make_order(struct image_builder *builder, serverd_error *err)
{
    const uint32_t n = builder->vocabulary->n_tokens;
    struct key *both = malloc(2 * (size_t)n * sizeof *both);
    builder->order = malloc(n * sizeof *builder->order);
    builder->prefixes = malloc(n * sizeof *builder->prefixes);
    if (!both || !builder->order || !builder->prefixes) {
        free(both);
        return fail(err, SERVERD_NOMEM, "tokenizer: no memory for %u tokens", n);
    }
    for (uint32_t i = 0; i < n; i++)
        both[i] = make_key(builder, i);
    struct key *keys = sort_by_begin(both, both + n, n);
    for (uint32_t i = 0, end; i < n; i = end) {
        end = i + 1;
        while (end < n && keys[end].begin == keys[i].begin)
            end++;
        if (end - i > 1)
            qsort(&keys[i], end - i, sizeof *keys, compare_keys);
    }
    for (uint32_t i = 0; i < n; i++) {
        builder->order[i] = keys[i].id;
        builder->prefixes[i] = i > 0 ? shared(&keys[i - 1], &keys[i]) : 0;
    }
    free(both);
    return SERVERD_OK;
}
