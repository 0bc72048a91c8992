/* Merging neighbours, the best pair first: a linked list of symbols and a heap of pairs. O(n log
 * n). */
#include "base/numeric.h"
#include "text/tokenizer_internal.h"

#include <stdlib.h>

bool tokenizer_reserve_symbols(struct encode_scratch *scratch, size_t n)
{
    if (n <= scratch->symbol_cap)
        return true;
    if (n > INT32_MAX / 4)
        return false;
    size_t cap = max_size(n, scratch->symbol_cap * 2);
    struct symbol *bigger = realloc(scratch->symbols, cap * sizeof *bigger);
    if (!bigger)
        return false;
    scratch->symbols = bigger;
    scratch->symbol_cap = cap;
    return true;
}

static bool comes_before(const struct heap_item *a, const struct heap_item *b)
{
    return a->priority < b->priority || (a->priority == b->priority && a->left < b->left);
}

static bool heap_push(struct encode_scratch *scratch, struct heap_item item)
{
    if (scratch->heap_len == scratch->heap_cap) {
        size_t cap = max_size(64, scratch->heap_cap * 2);
        struct heap_item *bigger = realloc(scratch->heap, cap * sizeof *bigger);
        if (!bigger)
            return false;
        scratch->heap = bigger;
        scratch->heap_cap = cap;
    }
    size_t i = scratch->heap_len++;
    for (; i > 0 && comes_before(&item, &scratch->heap[(i - 1) / 2]); i = (i - 1) / 2)
        scratch->heap[i] = scratch->heap[(i - 1) / 2];
    scratch->heap[i] = item;
    return true;
}

static struct heap_item heap_pop(struct encode_scratch *scratch)
{
    struct heap_item *heap = scratch->heap, first = heap[0], last = heap[--scratch->heap_len];
    size_t i = 0, n = scratch->heap_len;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && comes_before(&heap[child + 1], &heap[child]);
        if (!comes_before(&heap[child], &last))
            break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return first;
}

bool tokenizer_merge_symbols(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                             const char *text, size_t n,
                             bool (*find)(const struct tokenizer *tokenizer, const char *text,
                                          const struct symbol *left, const struct symbol *right,
                                          struct merge *out))
{
    struct symbol *symbols = scratch->symbols;
    struct merge merge;
    scratch->heap_len = 0;
    for (int32_t i = 0; i < (int32_t)n; i++) {
        symbols[i].previous = i - 1;
        symbols[i].next = i + 1 < (int32_t)n ? i + 1 : -1;
        if (i > 0 && find(tokenizer, text, &symbols[i - 1], &symbols[i], &merge) &&
            !heap_push(scratch,
                       (struct heap_item){merge.priority, i - 1,
                                          symbols[i - 1].len + symbols[i].len, merge.symbol}))
            return false;
    }
    while (scratch->heap_len > 0) {
        struct heap_item item = heap_pop(scratch);
        struct symbol *left = &symbols[item.left];
        if (left->len == 0 || left->next < 0 || left->len + symbols[left->next].len != item.len)
            continue; /* one of the two has merged elsewhere */
        struct symbol *right = &symbols[left->next];
        left->len += right->len;
        left->id = item.symbol;
        left->next = right->next;
        right->len = 0;
        if (left->next >= 0)
            symbols[left->next].previous = item.left;
        const int32_t starts[] = {left->previous, item.left};
        for (int i = 0; i < 2; i++) {
            if (starts[i] < 0 || symbols[starts[i]].next < 0)
                continue;
            const struct symbol *a = &symbols[starts[i]], *b = &symbols[a->next];
            if (find(tokenizer, text, a, b, &merge) &&
                !heap_push(scratch, (struct heap_item){merge.priority, starts[i], a->len + b->len,
                                                       merge.symbol}))
                return false;
        }
    }
    return true;
}
