/* The special tokens of a vocabulary, in the order in which they are cut out of texts, and the trie
 * of their texts. */
#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "text/image_builder_internal.h"

#include <stdlib.h>
#include <string.h>

struct special {
    const char *bytes;
    uint32_t len, token, index; /* index: among the specials, longest first */
};

static bool is_special(const struct image_builder *builder, uint32_t id)
{
    const uint8_t type = builder->types[id];
    return builder->vocabulary->token[id].len > 0 &&
           (type == TOKEN_CONTROL || type == TOKEN_USER_DEFINED || type == TOKEN_UNKNOWN);
}

static int compare_lengths(const void *a, const void *b)
{
    const struct special *x = a, *y = b;
    if (x->len != y->len)
        return x->len < y->len ? 1 : -1;
    return (x->token > y->token) - (x->token < y->token);
}

static int compare_bytes(const void *a, const void *b)
{
    const struct special *x = a, *y = b;
    const int order = memcmp(x->bytes, y->bytes, min_size(x->len, y->len));
    if (order != 0)
        return order;
    if (x->len != y->len)
        return x->len < y->len ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

/* What a node stands for: texts begin .. end - 1 share `depth` bytes. */
struct span {
    uint32_t begin, end, depth;
};

/* Level by level: a node is made when its parent is looked at, so it comes after all nodes before
 * its parent. items are sorted by bytes; a text that ends is first among those that go on. */
static uint32_t make_nodes(const struct special *items, uint32_t n,
                           struct tokenizer_trie_node *nodes, struct span *spans)
{
    uint32_t n_nodes = 1;
    nodes[0] = (struct tokenizer_trie_node){0};
    spans[0] = (struct span){0, n, 0};
    for (uint32_t node = 0; node < n_nodes; node++) {
        struct span span = spans[node];
        const uint32_t first = n_nodes;
        if (span.depth > 0 && items[span.begin].len == span.depth)
            nodes[node].special = items[span.begin].index + 1;
        while (span.begin < span.end && items[span.begin].len == span.depth)
            span.begin++; /* further tokens of the same text never match */
        for (uint32_t i = span.begin, end; i < span.end; i = end) {
            const uint8_t byte = (uint8_t)items[i].bytes[span.depth];
            for (end = i + 1; end < span.end && (uint8_t)items[end].bytes[span.depth] == byte;)
                end++;
            nodes[n_nodes] = (struct tokenizer_trie_node){.byte = byte};
            spans[n_nodes++] = (struct span){i, end, span.depth + 1};
        }
        nodes[node].n_children = (uint16_t)(n_nodes - first);
        nodes[node].first_child = n_nodes > first ? first : 0;
    }
    return n_nodes;
}

static serverd_status make_trie(struct image_builder *builder, struct special *items, uint32_t n,
                                serverd_error *err)
{
    size_t n_nodes = 1;
    for (uint32_t i = 0; i < n; i++) {
        items[i].index = i;
        n_nodes += items[i].len;
    }
    qsort(items, n, sizeof *items, compare_bytes);
    struct span *spans = malloc(n_nodes * sizeof *spans);
    builder->trie = malloc(n_nodes * sizeof *builder->trie);
    if (spans && builder->trie)
        builder->n_nodes = make_nodes(items, n, builder->trie, spans);
    free(spans);
    return builder->n_nodes > 0
               ? SERVERD_OK
               : fail(err, SERVERD_NOMEM, "tokenizer: no memory for %u special tokens", n);
}

serverd_status image_make_specials(struct image_builder *builder, serverd_error *err)
{
    const struct vocabulary *v = builder->vocabulary;
    uint32_t n = 0;
    for (uint32_t i = 0; i < v->n_tokens; i++)
        n += is_special(builder, i);
    struct special *items = malloc(max_size(n, 1) * sizeof *items);
    builder->specials = malloc(max_size(n, 1) * sizeof *builder->specials);
    if (!items || !builder->specials) {
        free(items);
        return fail(err, SERVERD_NOMEM, "tokenizer: no memory for %u special tokens", n);
    }
    uint32_t longest = 0;
    for (uint32_t i = 0, k = 0; i < v->n_tokens; i++) {
        if (is_special(builder, i))
            items[k++] = (struct special){v->token[i].bytes, v->token[i].len, i, 0};
    }
    qsort(items, n, sizeof *items, compare_lengths);
    for (uint32_t i = 0; i < n; i++)
        builder->specials[i] = items[i].token;
    builder->n_specials = n;
    longest = n > 0 ? items[0].len : 0;
    serverd_status status =
        longest > LIMIT_SPECIAL_BYTES
            ? fail(err, SERVERD_UNSUPPORTED,
                   "tokenizer: special token %u has %u bytes, at most %u are allowed",
                   items[0].token, longest, LIMIT_SPECIAL_BYTES)
            : make_trie(builder, items, n, err);
    free(items);
    return status;
}
