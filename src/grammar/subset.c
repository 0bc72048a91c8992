/* The subset construction, with guards, obligations and look-behinds (nfa_internal.h). */
#include "grammar/subset_internal.h"

#include <stdlib.h>
#include <string.h>

#define NOT_KNOWN 0xffffffffu /* the kind of the character before does not matter */

/* Every obligation of `few` is one of `many`. */
static bool is_part(const struct subset *s, uint32_t few, uint32_t many)
{
    const uint32_t *words = s->promises.words;
    size_t at = s->promises.offset[many], end = s->promises.offset[many + 1];
    for (size_t i = s->promises.offset[few]; i < s->promises.offset[few + 1]; i += 2, at += 2) {
        while (at < end && subset_compare_pairs(words + at, words + i) < 0)
            at += 2;
        if (at == end || subset_compare_pairs(words + at, words + i) != 0)
            return false;
    }
    return true;
}

/* A thread that promises less makes one at the same node that promises more needless. Of the kept
 * threads [0, n), sorted by node, the last few are looked at. */
static bool is_needless(const struct subset *s, uint32_t n, struct thread t)
{
    for (uint32_t k = 0; k < 64 && n > 0 && s->threads[n - 1].node == t.node; k++, n--)
        if (is_part(s, s->threads[n - 1].promise, t.promise))
            return true;
    return false;
}

/* The present place as a state: the threads that the closure found, the kind of the last character
 * if one of them will ask, and the look-behinds. UINT32_MAX: memory is out. */
static uint32_t intern_state(struct subset *s)
{
    uint32_t n_looks = s->nfa->n_looks, n = 0, before = NOT_KNOWN;
    bool is_new;
    if (s->is_universal)
        return 1;
    if (s->n_threads == 0)
        return 0;
    qsort(s->threads, s->n_threads, sizeof *s->threads, subset_compare_pairs);
    for (uint32_t i = 0; i < s->n_threads; i++) {
        if (is_needless(s, n, s->threads[i]))
            continue;
        s->threads[n++] = s->threads[i];
        if (s->nfa->nodes[s->threads[i].node].kind == NFA_GUARD)
            before = s->before;
    }
    if (!subset_reserve_words(s->scratch, &s->key, &s->cap_key,
                              1 + (size_t)n_looks + 2 * (size_t)n))
        return UINT32_MAX;
    uint32_t *key = s->key;
    key[0] = before;
    if (n_looks > 0)
        memcpy(key + 1, s->behind, n_looks * sizeof *key);
    memcpy(key + 1 + n_looks, s->threads, n * sizeof *s->threads);
    return key_table_add(&s->states, key, 1 + n_looks + 2 * n, &is_new);
}

static bool add_to_bucket(struct subset *s, uint32_t class, uint32_t node, uint32_t promise)
{
    if (!subset_reserve(s->scratch, &s->items, s->n_items, &s->cap_items, sizeof *s->items))
        return false;
    s->items[s->n_items] = (struct bucket_item){{node, promise}, s->bucket[class]};
    s->bucket[class] = ++s->n_items;
    return true;
}

/* Puts the successors of a thread into the buckets of the classes of one kind (N_CHAR_KINDS: of
 * all). */
static bool distribute(struct subset *s, struct thread t, uint32_t kind)
{
    const struct nfa_node *node = &s->nfa->nodes[t.node];
    bool is_loop = node->kind == NFA_ACCEPT && s->nfa->ends_anywhere, broken;
    if (node->kind != NFA_SET && !is_loop)
        return true;
    uint32_t set = is_loop ? 0 : s->set_of[node->index];
    uint32_t n = is_loop ? s->alphabet.n_classes : s->n_classes_of[set];
    for (uint32_t i = 0; i < n; i++) {
        uint32_t class = is_loop ? i : s->classes_of[set][i], promise;
        if (kind != N_CHAR_KINDS && s->kind_of[class] != kind)
            continue;
        if (!subset_step_promise(s, t.promise, class, &promise, &broken))
            return false;
        if (!broken && !add_to_bucket(s, class, is_loop ? t.node : node->next, promise))
            return false;
    }
    return true;
}

/* A state of the table as it was interned. */
struct saved_state {
    uint32_t before;
    const uint32_t *behind;
    const struct thread *threads;
    uint32_t n_threads;
};

static struct saved_state saved_state(struct subset *s, uint32_t number)
{
    const uint32_t *words = s->states.words + s->states.offset[number];
    size_t n = s->states.offset[number + 1] - s->states.offset[number];
    uint32_t n_looks = s->nfa->n_looks;
    return (struct saved_state){words[0], words + 1,
                                (const struct thread *)(const void *)(words + 1 + n_looks),
                                (uint32_t)((n - 1 - n_looks) / 2)};
}

/* The threads of a state when the kind of the next character is known; into s->threads. */
static bool resolve(struct subset *s, const struct saved_state *state, uint32_t after)
{
    subset_begin_closure(s);
    s->before = state->before;
    for (uint32_t i = 0; i < s->nfa->n_looks; i++)
        s->behind[i] = state->behind[i];
    for (uint32_t i = 0; i < state->n_threads; i++)
        if (!subset_push(s, state->threads[i].node, state->threads[i].promise))
            return false;
    return subset_close(s, after);
}

static bool has_pending(const struct subset *s, const struct saved_state *state)
{
    for (uint32_t i = 0; i < state->n_threads; i++)
        if (s->nfa->nodes[state->threads[i].node].kind == NFA_GUARD)
            return true;
    return false;
}

static bool accepts_at_end(const struct subset *s)
{
    for (uint32_t i = 0; i < s->n_threads; i++)
        if (s->nfa->nodes[s->threads[i].node].kind == NFA_ACCEPT &&
            subset_holds_at_end(s, s->threads[i].promise))
            return true;
    return false;
}

/* The state behind one class. */
static uint32_t enter(struct subset *s, const uint32_t *behind, uint32_t class)
{
    subset_begin_closure(s);
    s->before = s->kind_of[class];
    for (uint32_t i = 0; i < s->nfa->n_looks; i++) {
        const struct runner *r = &s->runners[i * N_CHAR_KINDS];
        s->behind[i] =
            behind[i] == AUTOMATON_DEAD
                ? AUTOMATON_DEAD
                : r->automaton
                      ->next[(size_t)behind[i] * r->automaton->n_classes + r->class_of[class]];
    }
    for (uint32_t item = s->bucket[class]; item != 0; item = s->items[item - 1].next)
        if (!subset_push(s, s->items[item - 1].thread.node, s->items[item - 1].thread.promise))
            return UINT32_MAX;
    return subset_close(s, N_CHAR_KINDS) ? intern_state(s) : UINT32_MAX;
}

/* Two classes of one kind with the same successors lead to the same state, but for look-behinds. */
static bool is_alike(const struct subset *s, uint32_t a, uint32_t b)
{
    uint32_t x = s->bucket[a], y = s->bucket[b];
    while (x != 0 && y != 0 && s->items[x - 1].thread.node == s->items[y - 1].thread.node &&
           s->items[x - 1].thread.promise == s->items[y - 1].thread.promise) {
        x = s->items[x - 1].next;
        y = s->items[y - 1].next;
    }
    return x == 0 && y == 0 && s->kind_of[a] == s->kind_of[b];
}

/* The states behind all classes whose buckets are not empty. */
static serverd_status enter_classes(struct subset *s, const uint32_t *behind, uint32_t *row,
                                    serverd_error *err)
{
    uint32_t first_of[8], n_firsts = 0; /* classes that others may be like */
    uint64_t work = s->n_items + s->alphabet.n_classes;
    bool has_behind = false;
    for (uint32_t i = 0; i < s->nfa->n_looks; i++)
        has_behind |= behind[i] != AUTOMATON_DEAD;
    for (uint32_t c = 0; c < s->alphabet.n_classes; c++) {
        uint32_t i = 0;
        if (row[c] == 1 || s->bucket[c] == 0)
            continue;
        while (i < n_firsts && !is_alike(s, first_of[i], c))
            i++;
        if (i < n_firsts) {
            row[c] = row[first_of[i]];
            continue;
        }
        row[c] = enter(s, behind, c);
        work += s->n_threads + 1;
        if (row[c] == UINT32_MAX)
            return grammar_budget_memory(err);
        if (!has_behind && n_firsts < sizeof first_of / sizeof *first_of)
            first_of[n_firsts++] = c;
    }
    return grammar_budget_spend(s->budget, work, err);
}

/* Fills the row of a state and its label. */
static serverd_status expand(struct subset *s, uint32_t number, uint32_t *row, uint8_t *label,
                             serverd_error *err)
{
    uint32_t k = s->alphabet.n_classes, n_looks = s->nfa->n_looks;
    struct saved_state state = saved_state(s, number);
    /* A copy, for the table moves when it grows. */
    if (!subset_reserve_words(s->scratch, &s->saved, &s->cap_saved,
                              n_looks + 2 * (size_t)state.n_threads + 1))
        return grammar_budget_memory(err);
    uint32_t *copy = s->saved;
    memcpy(copy, state.behind, (n_looks + 2 * (size_t)state.n_threads) * sizeof *copy);
    state.behind = copy;
    state.threads = (const struct thread *)(const void *)(copy + n_looks);
    bool pending = has_pending(s, &state);
    memset(s->bucket, 0, k * sizeof *s->bucket);
    s->n_items = 0;
    for (uint32_t kind = 0; kind < N_CHAR_KINDS; kind++) {
        if (pending || kind == CHAR_NONE)
            if (!resolve(s, &state, pending ? kind : (uint32_t)CHAR_NONE))
                return grammar_budget_memory(err);
        if (kind == CHAR_NONE)
            *label = accepts_at_end(s);
        if (pending ? kind == CHAR_NONE : kind != CHAR_NONE)
            continue;
        for (uint32_t i = 0; i < s->n_threads; i++)
            if (!distribute(s, s->threads[i], pending ? kind : (uint32_t)N_CHAR_KINDS))
                return grammar_budget_memory(err);
        if (s->is_universal) /* the guard that just passed ends a search: all is well */
            for (uint32_t c = 0; c < k; c++)
                row[c] = s->kind_of[c] == kind ? 1 : row[c];
    }
    return enter_classes(s, state.behind, row, err);
}

static serverd_status begin_sets(struct subset *s, serverd_error *err)
{
    const struct nfa *nfa = s->nfa;
    struct key_table distinct;
    size_t n_all = 0, max = (size_t)nfa->n_sets + 2;
    bool asks_word = false, asks_line = false, is_new;
    for (uint32_t i = 0; i < nfa->n_nodes; i++) {
        if (nfa->nodes[i].kind != NFA_GUARD)
            continue;
        uint8_t guard = nfa->nodes[i].guard;
        asks_word |= guard == GUARD_WORD_BORDER || guard == GUARD_NO_WORD_BORDER;
        asks_line |= guard == GUARD_LINE_START || guard == GUARD_LINE_END;
    }
    for (uint32_t i = 0; i < nfa->n_looks; i++) { /* a look may ask what came before */
        for (uint32_t kind = 1; kind < N_CHAR_KINDS; kind++)
            asks_word |= nfa->looks[i].after[kind] != nfa->looks[i].after[0];
        max += (size_t)nfa->looks[i].after[0]->n_classes * N_CHAR_KINDS;
        for (uint32_t kind = 1; kind < N_CHAR_KINDS; kind++)
            max += nfa->looks[i].after[kind]->n_classes;
    }
    asks_line |= asks_word;
    struct charset *sets = arena_array(s->scratch, max, sizeof *sets);
    s->set_of = arena_array(s->scratch, (size_t)nfa->n_sets + 1, sizeof *s->set_of);
    s->classes_of = arena_array(s->scratch, (size_t)nfa->n_sets + 1, sizeof *s->classes_of);
    s->n_classes_of = arena_array(s->scratch, (size_t)nfa->n_sets + 1, sizeof *s->n_classes_of);
    uint32_t *first_of = arena_array(s->scratch, (size_t)nfa->n_sets + 1, sizeof *first_of);
    if (!sets || !s->set_of || !s->classes_of || !s->n_classes_of || !first_of ||
        !key_table_init(&distinct, s->scratch))
        return grammar_budget_memory(err);
    for (uint32_t i = 0; i < nfa->n_sets; i++) {
        uint32_t number = key_table_add(&distinct, (const uint32_t *)nfa->sets[i].ranges,
                                        2 * nfa->sets[i].n_ranges, &is_new);
        if (number == UINT32_MAX)
            return grammar_budget_memory(err);
        if (is_new) {
            first_of[number] = i;
            sets[n_all++] = nfa->sets[i];
        }
        s->set_of[i] = first_of[number];
    }
    if (asks_word)
        sets[n_all++] = nfa_word_set();
    if (asks_line)
        sets[n_all++] = nfa_newline_set();
    for (uint32_t i = 0; i < nfa->n_looks; i++) {
        for (uint32_t kind = 0; kind < N_CHAR_KINDS; kind++) {
            const struct automaton *a = nfa->looks[i].after[kind];
            if (kind > 0 && a == nfa->looks[i].after[0])
                continue;
            for (uint32_t c = 0; c < a->n_classes; c++) {
                struct char_range *ranges = arena_array(s->scratch, a->n_ranges, sizeof *ranges);
                uint32_t n = 0;
                if (!ranges)
                    return grammar_budget_memory(err);
                for (uint32_t r = 0; r < a->n_ranges; r++)
                    if (a->ranges[r].symbol == c)
                        ranges[n++] = (struct char_range){a->ranges[r].first, a->ranges[r].last};
                sets[n_all++] = (struct charset){.ranges = ranges, .n_ranges = n};
            }
        }
    }
    serverd_status status = alphabet_make(s->budget, s->scratch, sets, n_all, &s->alphabet, err);
    for (uint32_t i = 0; !status && i < nfa->n_sets; i++)
        if (s->set_of[i] == i)
            status = alphabet_classes(&s->alphabet, s->scratch, nfa->sets[i], &s->classes_of[i],
                                      &s->n_classes_of[i], err);
    if (status)
        return status;
    s->kind_of = arena_alloc(s->scratch, s->alphabet.n_classes);
    s->bucket = arena_array(s->scratch, s->alphabet.n_classes, sizeof *s->bucket);
    if (!s->kind_of || !s->bucket)
        return grammar_budget_memory(err);
    for (uint32_t i = 0; i < s->alphabet.n_ranges; i++) {
        uint32_t c = s->alphabet.ranges[i].first;
        s->kind_of[s->alphabet.ranges[i].symbol] =
            asks_word && charset_has(nfa_word_set(), c)      ? CHAR_WORD
            : asks_line && charset_has(nfa_newline_set(), c) ? CHAR_NEWLINE
                                                             : CHAR_OTHER;
    }
    return SERVERD_OK;
}

static serverd_status begin_runners(struct subset *s, serverd_error *err)
{
    const struct nfa *nfa = s->nfa;
    s->runners =
        arena_array(s->scratch, (size_t)nfa->n_looks * N_CHAR_KINDS + 1, sizeof *s->runners);
    s->behind = arena_array(s->scratch, (size_t)nfa->n_looks + 1, sizeof *s->behind);
    if (!s->runners || !s->behind)
        return grammar_budget_memory(err);
    for (uint32_t i = 0; i < nfa->n_looks * N_CHAR_KINDS; i++) {
        struct runner *r = &s->runners[i];
        r->automaton = nfa->looks[i / N_CHAR_KINDS].after[i % N_CHAR_KINDS];
        r->universal = automaton_universal(r->automaton);
        r->class_of = arena_array(s->scratch, s->alphabet.n_classes, sizeof *r->class_of);
        if (!r->class_of)
            return grammar_budget_memory(err);
        for (uint32_t k = 0; k < s->alphabet.n_ranges; k++)
            r->class_of[s->alphabet.ranges[k].symbol] =
                alphabet_find(r->automaton->ranges, r->automaton->n_ranges,
                              s->alphabet.ranges[k].first)
                    ->symbol;
    }
    /* Only look-behinds run along; a look-ahead's place stays 0. */
    for (uint32_t i = 0; i < nfa->n_nodes; i++)
        if (nfa->nodes[i].kind == NFA_BEHIND)
            s->behind[nfa->nodes[i].index] =
                s->runners[nfa->nodes[i].index * N_CHAR_KINDS].automaton->start;
    return SERVERD_OK;
}

static serverd_status explore(struct subset *s, enum char_kind known_before,
                              struct raw_automaton *raw, serverd_error *err)
{
    uint32_t k = s->alphabet.n_classes;
    uint32_t rows_cap = 0, labels_cap = 0, *rows = NULL;
    uint8_t *labels = NULL;
    bool is_new;
    subset_begin_closure(s);
    s->before = known_before;
    /* State 0 is dead, state 1 accepts whatever follows. Both have keys that no other state has. */
    if (!key_table_init(&s->states, s->scratch) || !key_table_init(&s->promises, s->scratch) ||
        key_table_add(&s->promises, NULL, 0, &is_new) != 0 ||
        key_table_add(&s->states, NULL, 0, &is_new) != 0 ||
        key_table_add(&s->states, (const uint32_t[1]){0}, 1, &is_new) != 1 ||
        !subset_push(s, s->nfa->start, 0) || !subset_close(s, N_CHAR_KINDS))
        return grammar_budget_memory(err);
    uint32_t start = intern_state(s);
    if (start == UINT32_MAX)
        return grammar_budget_memory(err);
    for (uint32_t i = 0; i < s->states.n_keys; i++) {
        serverd_status status = grammar_budget_table(s->budget, s->states.n_keys, k, err);
        if (status)
            return status;
        if (!subset_reserve(s->scratch, &rows, i, &rows_cap, k * sizeof *rows) ||
            !subset_reserve(s->scratch, &labels, i, &labels_cap, sizeof *labels))
            return grammar_budget_memory(err);
        for (uint32_t c = 0; c < k; c++)
            rows[(size_t)i * k + c] = i == 1;
        labels[i] = i == 1;
        if (i > 1)
            status = expand(s, i, rows + (size_t)i * k, &labels[i], err);
        if (status)
            return status;
    }
    *raw = (struct raw_automaton){.n_states = s->states.n_keys,
                                  .n_classes = k,
                                  .start = start,
                                  .next = rows,
                                  .labels = labels};
    return SERVERD_OK;
}

serverd_status nfa_determinise(struct grammar_budget *budget, struct arena *scratch,
                               const struct nfa *nfa, enum char_kind known_before,
                               const struct automaton **out, serverd_error *err)
{
    struct subset s = {.budget = budget, .scratch = scratch, .nfa = nfa};
    struct raw_automaton raw;
    serverd_status status = begin_sets(&s, err);
    if (!status)
        status = begin_runners(&s, err);
    if (!status)
        status = explore(&s, known_before, &raw, err);
    if (!status)
        status = automaton_build(budget, scratch, &raw, &s.alphabet, out, err);
    return status;
}
