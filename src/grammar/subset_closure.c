/* Where a subset may be without reading, and what its threads have promised. */
#include "grammar/subset_internal.h"

#include <stdlib.h>
#include <string.h>

bool subset_reserve(struct arena *arena, void *array_pointer, uint32_t n_used, uint32_t *cap,
                    size_t size)
{
    void *old;
    if (n_used < *cap)
        return true;
    uint32_t more = *cap > 0 ? *cap * 2 : 64;
    memcpy(&old, array_pointer, sizeof old);
    void *grown = more < *cap ? NULL : arena_grow(arena, old, n_used * size, more * size);
    if (!grown)
        return false;
    memcpy(array_pointer, &grown, sizeof grown);
    *cap = more;
    return true;
}

/* Room for n words in a buffer whose contents may go. */
bool subset_reserve_words(struct arena *arena, uint32_t **words, uint32_t *cap, size_t n)
{
    if (n <= *cap)
        return true;
    if (n > UINT32_MAX / 2)
        return false;
    *words = arena_array(arena, 2 * n, sizeof **words);
    *cap = *words ? (uint32_t)(2 * n) : 0;
    return *words != NULL;
}

/* True if (node, promise) was not there since the last stamp; *failed if memory is out. */
static bool visit(struct subset *s, struct thread t, bool *failed)
{
    uint64_t key = (uint64_t)t.promise << 32 | t.node;
    if (s->n_visited * 2 >= s->cap_visited) {
        uint32_t cap = s->cap_visited > 0 ? s->cap_visited * 2 : 256;
        uint32_t *stamps = arena_array(s->scratch, cap, sizeof *stamps);
        uint64_t *keys = arena_array(s->scratch, cap, sizeof *keys);
        if (!stamps || !keys) {
            *failed = true;
            return false;
        }
        for (uint32_t i = 0; i < s->cap_visited; i++) {
            if (s->visited[i] != s->stamp)
                continue;
            uint64_t at = s->visited_key[i] * 0x9e3779b97f4a7c15u >> 20;
            while (stamps[at & (cap - 1)] == s->stamp)
                at++;
            stamps[at & (cap - 1)] = s->stamp;
            keys[at & (cap - 1)] = s->visited_key[i];
        }
        s->visited = stamps;
        s->visited_key = keys;
        s->cap_visited = cap;
    }
    uint64_t at = key * 0x9e3779b97f4a7c15u >> 20;
    for (; s->visited[at & (s->cap_visited - 1)] == s->stamp; at++)
        if (s->visited_key[at & (s->cap_visited - 1)] == key)
            return false;
    s->visited[at & (s->cap_visited - 1)] = s->stamp;
    s->visited_key[at & (s->cap_visited - 1)] = key;
    s->n_visited++;
    return true;
}

int subset_compare_pairs(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    if (x[0] != y[0])
        return x[0] < y[0] ? -1 : 1;
    return (x[1] > y[1]) - (x[1] < y[1]);
}

/* The number of a set of obligations. false: memory is out. */
static bool make_promise(struct subset *s, uint32_t *pairs, uint32_t n_pairs, uint32_t *out)
{
    uint32_t n = 0;
    bool is_new;
    qsort(pairs, n_pairs, 2 * sizeof *pairs, subset_compare_pairs);
    for (uint32_t i = 0; i < n_pairs; i++) {
        if (n > 0 && pairs[2 * n - 2] == pairs[2 * i] && pairs[2 * n - 1] == pairs[2 * i + 1])
            continue;
        pairs[2 * n] = pairs[2 * i];
        pairs[2 * n + 1] = pairs[2 * i + 1];
        n++;
    }
    *out = key_table_add(&s->promises, pairs, 2 * n, &is_new);
    return *out != UINT32_MAX;
}

/* The obligations of a promise plus one more. false: memory is out. */
static bool add_promise(struct subset *s, uint32_t promise, uint32_t runner, uint32_t *out)
{
    size_t first = s->promises.offset[promise], n = s->promises.offset[promise + 1] - first;
    if (!subset_reserve_words(s->scratch, &s->pairs, &s->cap_pairs, n + 2))
        return false;
    uint32_t *pairs = s->pairs;
    memcpy(pairs, s->promises.words + first, n * sizeof *pairs);
    pairs[n] = runner;
    pairs[n + 1] = s->runners[runner].automaton->start;
    return make_promise(s, pairs, (uint32_t)(n / 2 + 1), out);
}

/* The promise behind a character of a class; *broken if an obligation cannot be met any more. */
bool subset_step_promise(struct subset *s, uint32_t promise, uint32_t class, uint32_t *out,
                         bool *broken)
{
    size_t first = s->promises.offset[promise], n = s->promises.offset[promise + 1] - first;
    *broken = false;
    *out = 0;
    if (n == 0)
        return true;
    if (!subset_reserve_words(s->scratch, &s->pairs, &s->cap_pairs, n))
        return false;
    uint32_t *pairs = s->pairs, n_pairs = 0;
    for (size_t i = 0; i < n; i += 2) {
        uint32_t number = s->promises.words[first + i];
        const struct runner *r = &s->runners[number];
        uint32_t state = s->promises.words[first + i + 1];
        state = r->automaton->next[(size_t)state * r->automaton->n_classes + r->class_of[class]];
        if (state == AUTOMATON_DEAD) {
            *broken = true;
            return true;
        }
        if (state != r->universal) {
            pairs[2 * n_pairs] = number;
            pairs[2 * n_pairs + 1] = state;
            n_pairs++;
        }
    }
    return make_promise(s, pairs, n_pairs, out);
}

bool subset_holds_at_end(const struct subset *s, uint32_t promise)
{
    for (size_t i = s->promises.offset[promise]; i < s->promises.offset[promise + 1]; i += 2)
        if (!s->runners[s->promises.words[i]].automaton->accepts[s->promises.words[i + 1]])
            return false;
    return true;
}

enum verdict {
    VERDICT_NO,
    VERDICT_YES,
    VERDICT_PENDING, /* it depends on the next character */
};

/* after: the kind of the next character, N_CHAR_KINDS while it is not known */
static enum verdict judge_guard(uint32_t guard, uint32_t before, uint32_t after)
{
    bool is_border = (before == CHAR_WORD) != (after == CHAR_WORD);
    switch ((enum nfa_guard)guard) {
    case GUARD_TEXT_START:
        return before == CHAR_NONE ? VERDICT_YES : VERDICT_NO;
    case GUARD_LINE_START:
        return before == CHAR_NONE || before == CHAR_NEWLINE ? VERDICT_YES : VERDICT_NO;
    case GUARD_TEXT_END:
        if (after == N_CHAR_KINDS)
            return VERDICT_PENDING;
        return after == CHAR_NONE ? VERDICT_YES : VERDICT_NO;
    case GUARD_LINE_END:
        if (after == N_CHAR_KINDS)
            return VERDICT_PENDING;
        return after == CHAR_NONE || after == CHAR_NEWLINE ? VERDICT_YES : VERDICT_NO;
    case GUARD_WORD_BORDER:
    case GUARD_NO_WORD_BORDER:
        if (after == N_CHAR_KINDS)
            return VERDICT_PENDING;
        return is_border == (guard == GUARD_WORD_BORDER) ? VERDICT_YES : VERDICT_NO;
    }
    return VERDICT_NO;
}

bool subset_push(struct subset *s, uint32_t node, uint32_t promise)
{
    if (!subset_reserve(s->scratch, &s->stack, s->n_stack, &s->cap_stack, sizeof *s->stack))
        return false;
    s->stack[s->n_stack++] = (struct thread){node, promise};
    return true;
}

/* Goes on from everything on the stack without reading; what waits for a character, or is
 * pending, is added to the threads. false: memory is out. */
bool subset_close(struct subset *s, uint32_t after)
{
    bool failed = false;
    while (s->n_stack > 0) {
        struct thread t = s->stack[--s->n_stack];
        const struct nfa_node *node = &s->nfa->nodes[t.node];
        if (!visit(s, t, &failed)) {
            if (failed)
                return false;
            continue;
        }
        enum verdict verdict = VERDICT_YES;
        uint32_t runner = node->index * N_CHAR_KINDS + s->before;
        switch ((enum nfa_kind)node->kind) {
        case NFA_SPLIT:
            if (!subset_push(s, node->other, t.promise))
                return false;
            break;
        case NFA_SET:
            verdict = s->nfa->sets[node->index].n_ranges > 0 ? VERDICT_PENDING : VERDICT_NO;
            break;
        case NFA_ACCEPT:
            s->is_universal |= s->nfa->ends_anywhere && t.promise == 0;
            verdict = VERDICT_PENDING;
            break;
        case NFA_GUARD:
            verdict = judge_guard(node->guard, s->before, after);
            break;
        case NFA_BEHIND:
            if (!s->runners[runner].automaton->accepts[s->behind[node->index]])
                verdict = VERDICT_NO;
            break;
        case NFA_AHEAD:
            if (automaton_is_empty(s->runners[runner].automaton))
                verdict = VERDICT_NO;
            else if (s->runners[runner].automaton->start != s->runners[runner].universal &&
                     !add_promise(s, t.promise, runner, &t.promise))
                return false;
            break;
        }
        if (verdict == VERDICT_YES && !subset_push(s, node->next, t.promise))
            return false;
        if (verdict == VERDICT_PENDING) {
            if (!subset_reserve(s->scratch, &s->threads, s->n_threads, &s->cap_threads,
                                sizeof *s->threads))
                return false;
            s->threads[s->n_threads++] = t;
        }
    }
    return true;
}

void subset_begin_closure(struct subset *s)
{
    s->n_threads = s->n_stack = s->n_visited = 0;
    s->is_universal = false;
    s->stamp++;
}
