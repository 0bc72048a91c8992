#include "grammar/alphabet_internal.h"

#include <stdlib.h>
#include <string.h>

static int compare_u32(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

const struct class_range *alphabet_find(const struct class_range *ranges, uint32_t n_ranges,
                                        uint32_t code_point)
{
    uint32_t low = 0, high = n_ranges;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (ranges[middle].last < code_point)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n_ranges && ranges[low].first <= code_point ? &ranges[low] : NULL;
}

/* The elementary ranges between all borders of the sets, without surrogates, all of class 0. */
static struct class_range *cut_ranges(struct arena *arena, const struct charset *sets,
                                      size_t n_sets, uint32_t *n_out)
{
    size_t n_cuts = 3, n = 0;
    for (size_t i = 0; i < n_sets; i++)
        n_cuts += 2 * (size_t)sets[i].n_ranges;
    uint32_t *cuts = arena_array(arena, n_cuts, sizeof *cuts);
    struct class_range *ranges = arena_array(arena, n_cuts, sizeof *ranges);
    if (!cuts || !ranges)
        return NULL;
    cuts[n++] = 0;
    cuts[n++] = 0xd800;
    cuts[n++] = 0xe000;
    for (size_t i = 0; i < n_sets; i++) {
        for (uint32_t k = 0; k < sets[i].n_ranges; k++) {
            cuts[n++] = sets[i].ranges[k].first;
            cuts[n++] = sets[i].ranges[k].last + 1;
        }
    }
    qsort(cuts, n, sizeof *cuts, compare_u32);
    uint32_t n_ranges = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t first = cuts[i], end = i + 1 < n ? cuts[i + 1] : CODE_POINT_MAX + 1;
        if (first < end && first != 0xd800)
            ranges[n_ranges++] = (struct class_range){first, end - 1, 0};
    }
    *n_out = n_ranges;
    return ranges;
}

/* Splits every class that the set cuts. `size` is of a class in elementary ranges; `inside` and
 * `fresh` have room for as many classes as there are ranges. */
static uint64_t refine(struct alphabet *alphabet, struct charset set, uint32_t *size,
                       uint32_t *inside, uint32_t *fresh)
{
    uint64_t work = 0;
    for (int pass = 0; pass < 3; pass++) {
        for (uint32_t k = 0; k < set.n_ranges; k++) {
            const struct class_range *r =
                alphabet_find(alphabet->ranges, alphabet->n_ranges, set.ranges[k].first);
            const struct class_range *end = alphabet->ranges + alphabet->n_ranges;
            for (; r < end && r->first <= set.ranges[k].last; r++, work++) {
                struct class_range *own = alphabet->ranges + (r - alphabet->ranges);
                uint32_t old = own->symbol;
                if (pass == 0) {
                    inside[old]++;
                } else if (pass == 1 && inside[old] > 0 && inside[old] < size[old]) {
                    if (fresh[old] == 0)
                        fresh[old] = alphabet->n_classes++;
                    own->symbol = fresh[old];
                    size[fresh[old]]++;
                } else if (pass == 2) {
                    inside[old] = 0;
                }
            }
        }
        if (pass == 1) { /* what has gone from the old classes */
            for (uint32_t c = 0; c < alphabet->n_classes; c++) {
                if (fresh[c] != 0) {
                    size[c] -= inside[c];
                    inside[c] = fresh[c] = 0;
                }
            }
            work += alphabet->n_classes;
        }
    }
    return work;
}

serverd_status alphabet_make(struct grammar_budget *budget, struct arena *arena,
                             const struct charset *sets, size_t n_sets, struct alphabet *out,
                             serverd_error *err)
{
    struct alphabet alphabet = {.n_classes = 1};
    alphabet.ranges = cut_ranges(arena, sets, n_sets, &alphabet.n_ranges);
    if (!alphabet.ranges)
        return grammar_budget_memory(err);
    uint32_t *size = arena_array(arena, alphabet.n_ranges, sizeof *size);
    uint32_t *inside = arena_array(arena, alphabet.n_ranges, sizeof *inside);
    uint32_t *fresh = arena_array(arena, alphabet.n_ranges, sizeof *fresh);
    if (!size || !inside || !fresh)
        return grammar_budget_memory(err);
    size[0] = alphabet.n_ranges;
    for (size_t i = 0; i < n_sets; i++) {
        serverd_status status =
            grammar_budget_spend(budget, refine(&alphabet, sets[i], size, inside, fresh) + 1, err);
        if (status)
            return status;
    }
    *out = alphabet;
    return SERVERD_OK;
}

serverd_status alphabet_classes(const struct alphabet *alphabet, struct arena *arena,
                                struct charset set, uint32_t **out, uint32_t *n_out,
                                serverd_error *err)
{
    uint8_t *seen = arena_alloc(arena, alphabet->n_classes);
    uint32_t *classes = arena_array(arena, alphabet->n_classes, sizeof *classes);
    if (!seen || !classes)
        return grammar_budget_memory(err);
    for (uint32_t k = 0; k < set.n_ranges; k++) {
        const struct class_range *r =
            alphabet_find(alphabet->ranges, alphabet->n_ranges, set.ranges[k].first);
        const struct class_range *end = alphabet->ranges + alphabet->n_ranges;
        for (; r < end && r->first <= set.ranges[k].last; r++)
            seen[r->symbol] = 1;
    }
    uint32_t n = 0;
    for (uint32_t c = 0; c < alphabet->n_classes; c++)
        if (seen[c])
            classes[n++] = c;
    *out = classes;
    *n_out = n;
    return SERVERD_OK;
}

serverd_status alphabet_join(struct arena *arena, const struct automaton *a,
                             const struct automaton *b, struct alphabet *out, uint32_t **a_class,
                             uint32_t **b_class, serverd_error *err)
{
    size_t max_ranges = (size_t)a->n_ranges + b->n_ranges;
    struct alphabet joined = {.ranges = arena_array(arena, max_ranges, sizeof *joined.ranges)};
    uint32_t *of_a = arena_array(arena, max_ranges, sizeof *of_a);
    uint32_t *of_b = arena_array(arena, max_ranges, sizeof *of_b);
    /* Classes of a pair, chained behind the class of a. */
    uint32_t *head = arena_array(arena, a->n_classes, sizeof *head);
    uint32_t *chain = arena_array(arena, max_ranges + 1, sizeof *chain);
    if (!joined.ranges || !of_a || !of_b || !head || !chain)
        return grammar_budget_memory(err);
    for (uint32_t i = 0, j = 0; i < a->n_ranges && j < b->n_ranges;) {
        const struct class_range *x = &a->ranges[i], *y = &b->ranges[j];
        uint32_t first = x->first > y->first ? x->first : y->first;
        uint32_t last = x->last < y->last ? x->last : y->last;
        uint32_t found = head[x->symbol]; /* class + 1 */
        while (found != 0 && of_b[found - 1] != y->symbol)
            found = chain[found];
        if (found == 0) {
            of_a[joined.n_classes] = x->symbol;
            of_b[joined.n_classes] = y->symbol;
            found = ++joined.n_classes;
            chain[found] = head[x->symbol];
            head[x->symbol] = found;
        }
        joined.ranges[joined.n_ranges++] = (struct class_range){first, last, found - 1};
        i += x->last == last;
        j += y->last == last;
    }
    *out = joined;
    *a_class = of_a;
    *b_class = of_b;
    return SERVERD_OK;
}
