/* Boolean operations: products of two automata. */
#include "grammar/automaton_internal.h"

#include <string.h>

/* Which pairs accept: bit (2 * a + b) of the table. */
enum product {
    PRODUCT_AND = 0x8,
    PRODUCT_OR = 0xe,
    PRODUCT_A_NOT_B = 0x4,
};

/* A pair may lead to acceptance at all: else it is the dead state. */
static bool is_hopeless(enum product product, uint32_t a, uint32_t b)
{
    return product == PRODUCT_AND  ? a == 0 || b == 0
           : product == PRODUCT_OR ? a == 0 && b == 0
                                   : a == 0;
}

static serverd_status grow_rows(struct arena *arena, uint32_t **rows, size_t *cap, size_t n_needed,
                                uint32_t k, serverd_error *err)
{
    if (n_needed <= *cap)
        return SERVERD_OK;
    size_t more = *cap * 2;
    uint32_t *grown = arena_grow(arena, *rows, *cap * k * sizeof **rows, more * k * sizeof **rows);
    if (!grown)
        return grammar_budget_memory(err);
    *rows = grown;
    *cap = more;
    return SERVERD_OK;
}

/* All reachable pairs; pair 0 is (0, 0). */
static serverd_status explore(struct grammar_budget *budget, struct arena *scratch,
                              const struct automaton *a, const struct automaton *b,
                              enum product product, struct raw_automaton *raw,
                              struct alphabet *alphabet, serverd_error *err)
{
    uint32_t *a_class, *b_class;
    serverd_status status = alphabet_join(scratch, a, b, alphabet, &a_class, &b_class, err);
    if (status)
        return status;
    struct key_table pairs;
    size_t cap = 64;
    uint32_t k = alphabet->n_classes;
    uint32_t *rows = arena_array(scratch, cap * k, sizeof *rows);
    bool is_new;
    if (!rows || !key_table_init(&pairs, scratch))
        return grammar_budget_memory(err);
    (void)key_table_add(&pairs, (const uint32_t[2]){0, 0}, 2, &is_new); /* the first fits */
    uint32_t start[2] = {a->start, b->start};
    if (!is_hopeless(product, start[0], start[1]))
        (void)key_table_add(&pairs, start, 2, &is_new);
    for (uint32_t i = 1; i < pairs.n_keys; i++) {
        status = grow_rows(scratch, &rows, &cap, (size_t)i + 1, k, err);
        if (!status)
            status = grammar_budget_spend(budget, k, err);
        if (!status)
            status = grammar_budget_table(budget, pairs.n_keys, k, err);
        if (status)
            return status;
        const uint32_t *row_a = a->next + (size_t)pairs.words[2 * i] * a->n_classes;
        const uint32_t *row_b = b->next + (size_t)pairs.words[2 * i + 1] * b->n_classes;
        for (uint32_t c = 0; c < k; c++) {
            uint32_t pair[2] = {row_a[a_class[c]], row_b[b_class[c]]};
            uint32_t to = 0;
            if (!is_hopeless(product, pair[0], pair[1]))
                to = key_table_add(&pairs, pair, 2, &is_new);
            if (to == UINT32_MAX)
                return grammar_budget_memory(err);
            rows[(size_t)i * k + c] = to;
        }
    }
    uint8_t *labels = arena_alloc(scratch, pairs.n_keys);
    if (!labels)
        return grammar_budget_memory(err);
    for (uint32_t i = 1; i < pairs.n_keys; i++) {
        uint32_t which = 2u * a->accepts[pairs.words[2 * i]] + b->accepts[pairs.words[2 * i + 1]];
        labels[i] = ((uint32_t)product >> which) & 1;
    }
    *raw = (struct raw_automaton){.n_states = pairs.n_keys,
                                  .n_classes = k,
                                  .start = pairs.n_keys > 1 ? 1 : 0,
                                  .next = rows,
                                  .labels = labels};
    return SERVERD_OK;
}

static serverd_status combine(struct grammar_budget *budget, const struct automaton *a,
                              const struct automaton *b, enum product product,
                              const struct automaton **out, serverd_error *err)
{
    struct raw_automaton raw;
    struct alphabet alphabet;
    struct arena *scratch = arena_create(LIMIT_GRAMMAR_SCRATCH);
    if (!scratch)
        return grammar_budget_memory(err);
    serverd_status status = explore(budget, scratch, a, b, product, &raw, &alphabet, err);
    if (!status)
        status = automaton_build(budget, scratch, &raw, &alphabet, out, err);
    arena_destroy(scratch);
    return status;
}

serverd_status automaton_intersect(struct grammar_budget *budget, const struct automaton *a,
                                   const struct automaton *b, const struct automaton **out,
                                   serverd_error *err)
{
    if (a == b || automaton_is_empty(a) || automaton_is_anything(b)) {
        *out = a;
        return SERVERD_OK;
    }
    if (automaton_is_empty(b) || automaton_is_anything(a)) {
        *out = b;
        return SERVERD_OK;
    }
    return combine(budget, a, b, PRODUCT_AND, out, err);
}

serverd_status automaton_union(struct grammar_budget *budget, const struct automaton *a,
                               const struct automaton *b, const struct automaton **out,
                               serverd_error *err)
{
    if (a == b || automaton_is_empty(b) || automaton_is_anything(a)) {
        *out = a;
        return SERVERD_OK;
    }
    if (automaton_is_empty(a) || automaton_is_anything(b)) {
        *out = b;
        return SERVERD_OK;
    }
    return combine(budget, a, b, PRODUCT_OR, out, err);
}

serverd_status automaton_subtract(struct grammar_budget *budget, const struct automaton *a,
                                  const struct automaton *b, const struct automaton **out,
                                  serverd_error *err)
{
    if (automaton_is_empty(a) || automaton_is_empty(b)) {
        *out = a;
        return SERVERD_OK;
    }
    return combine(budget, a, b, PRODUCT_A_NOT_B, out, err);
}

serverd_status automaton_complement(struct grammar_budget *budget, const struct automaton *a,
                                    const struct automaton **out, serverd_error *err)
{
    const struct automaton *anything;
    serverd_status status = automaton_anything(budget, &anything, err);
    return status ? status : automaton_subtract(budget, anything, a, out, err);
}

/* Whether the product has an accepting pair, without building it. */
static serverd_status is_product_empty(struct grammar_budget *budget, const struct automaton *a,
                                       const struct automaton *b, enum product product, bool *out,
                                       serverd_error *err)
{
    struct raw_automaton raw;
    struct alphabet alphabet;
    struct arena *scratch = arena_create(LIMIT_GRAMMAR_SCRATCH);
    if (!scratch)
        return grammar_budget_memory(err);
    serverd_status status = explore(budget, scratch, a, b, product, &raw, &alphabet, err);
    if (!status)
        *out = memchr(raw.labels, 1, raw.n_states) == NULL;
    arena_destroy(scratch);
    return status;
}

serverd_status automaton_includes(struct grammar_budget *budget, const struct automaton *whole,
                                  const struct automaton *part, bool *out, serverd_error *err)
{
    return is_product_empty(budget, part, whole, PRODUCT_A_NOT_B, out, err);
}

serverd_status automaton_are_disjoint(struct grammar_budget *budget, const struct automaton *a,
                                      const struct automaton *b, bool *out, serverd_error *err)
{
    return is_product_empty(budget, a, b, PRODUCT_AND, out, err);
}

/* Languages from nothing. */

serverd_status automaton_nothing(struct grammar_budget *budget, const struct automaton **out,
                                 serverd_error *err)
{
    return automaton_repeat_set(budget, (struct charset){0}, 1, 1, out, err);
}

serverd_status automaton_anything(struct grammar_budget *budget, const struct automaton **out,
                                  serverd_error *err)
{
    static const struct char_range all = {0, CODE_POINT_MAX};
    struct charset set;
    serverd_status status = charset_make(budget, &all, 1, &set, err);
    return status ? status : automaton_repeat_set(budget, set, 0, UINT32_MAX, out, err);
}

serverd_status automaton_repeat_set(struct grammar_budget *budget, struct charset set, uint32_t min,
                                    uint32_t max, const struct automaton **out, serverd_error *err)
{
    /* State i + 1 has read i code points; the last one may loop. */
    uint64_t n_states = (max == UINT32_MAX ? min : (uint64_t)max) + 2;
    struct alphabet alphabet;
    uint32_t *classes, n_classes, *rows = NULL;
    uint8_t *labels = NULL;
    struct arena *scratch = arena_create(LIMIT_GRAMMAR_SCRATCH);
    serverd_status status =
        scratch ? grammar_budget_table(budget, n_states, 2, err) : grammar_budget_memory(err);
    if (!status)
        status = alphabet_make(budget, scratch, &set, 1, &alphabet, err);
    if (!status)
        status = alphabet_classes(&alphabet, scratch, set, &classes, &n_classes, err);
    if (status)
        goto out;
    rows = arena_array(scratch, n_states * alphabet.n_classes, sizeof *rows);
    labels = arena_alloc(scratch, n_states);
    if (!rows || !labels) {
        status = grammar_budget_memory(err);
        goto out;
    }
    for (uint64_t s = 1; s < n_states; s++) {
        bool is_last = s + 1 == n_states;
        labels[s] = s - 1 >= min && s - 1 <= max;
        for (uint32_t c = 0; c < n_classes; c++)
            if (!is_last || max == UINT32_MAX)
                rows[s * alphabet.n_classes + classes[c]] = (uint32_t)(is_last ? s : s + 1);
    }
    struct raw_automaton raw = {.n_states = (uint32_t)n_states,
                                .n_classes = alphabet.n_classes,
                                .start = 1,
                                .next = rows,
                                .labels = labels};
    status = automaton_build(budget, scratch, &raw, &alphabet, out, err);
out:
    arena_destroy(scratch);
    return status;
}
