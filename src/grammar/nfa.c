#include "grammar/nfa_internal.h"

#include <string.h>

#define FIRST_NODES 64u

bool nfa_init(struct nfa *nfa, struct arena *arena)
{
    *nfa = (struct nfa){.arena = arena, .cap_nodes = FIRST_NODES, .cap_sets = FIRST_NODES};
    nfa->nodes = arena_array(arena, nfa->cap_nodes, sizeof *nfa->nodes);
    nfa->sets = arena_array(arena, nfa->cap_sets, sizeof *nfa->sets);
    nfa->looks = arena_array(arena, LIMIT_REGEX_LOOKS, sizeof *nfa->looks);
    return nfa->nodes && nfa->sets && nfa->looks &&
           nfa_add(nfa, (struct nfa_node){.kind = NFA_ACCEPT}) == 0;
}

uint32_t nfa_add(struct nfa *nfa, struct nfa_node node)
{
    if (node.next == UINT32_MAX || node.other == UINT32_MAX || nfa->n_nodes >= LIMIT_REGEX_NODES)
        return UINT32_MAX;
    if (nfa->n_nodes == nfa->cap_nodes) {
        size_t bytes = nfa->cap_nodes * sizeof *nfa->nodes;
        struct nfa_node *grown = arena_grow(nfa->arena, nfa->nodes, bytes, 2 * bytes);
        if (!grown)
            return UINT32_MAX;
        nfa->nodes = grown;
        nfa->cap_nodes *= 2;
    }
    nfa->nodes[nfa->n_nodes] = node;
    return nfa->n_nodes++;
}

uint32_t nfa_add_set(struct nfa *nfa, struct charset set, uint32_t next)
{
    uint32_t i = nfa->n_sets;
    /* Copies of a subexpression share their set's ranges; look a little way back. */
    for (uint32_t k = 0; k < 16 && i > 0; k++, i--)
        if (nfa->sets[i - 1].ranges == set.ranges && nfa->sets[i - 1].n_ranges == set.n_ranges)
            return nfa_add(nfa, (struct nfa_node){.kind = NFA_SET, .index = i - 1, .next = next});
    if (nfa->n_sets == nfa->cap_sets) {
        size_t bytes = nfa->cap_sets * sizeof *nfa->sets;
        struct charset *grown = arena_grow(nfa->arena, nfa->sets, bytes, 2 * bytes);
        if (!grown)
            return UINT32_MAX;
        nfa->sets = grown;
        nfa->cap_sets *= 2;
    }
    nfa->sets[nfa->n_sets++] = set;
    return nfa_add(nfa, (struct nfa_node){.kind = NFA_SET, .index = nfa->n_sets - 1, .next = next});
}

uint32_t nfa_add_split(struct nfa *nfa, uint32_t next, uint32_t other)
{
    return nfa_add(nfa, (struct nfa_node){.kind = NFA_SPLIT, .next = next, .other = other});
}

/* The code points of one class. */
static serverd_status set_of_class(struct grammar_budget *budget, struct arena *arena,
                                   const struct automaton *a, uint32_t symbol, struct charset *out,
                                   serverd_error *err)
{
    struct char_range *ranges = arena_array(arena, a->n_ranges, sizeof *ranges);
    uint32_t n = 0;
    if (!ranges)
        return grammar_budget_memory(err);
    for (uint32_t i = 0; i < a->n_ranges; i++)
        if (a->ranges[i].symbol == symbol)
            ranges[n++] = (struct char_range){a->ranges[i].first, a->ranges[i].last};
    *out = (struct charset){.ranges = ranges, .n_ranges = n};
    return grammar_budget_spend(budget, a->n_ranges, err);
}

uint32_t nfa_add_automaton(struct grammar_budget *budget, struct nfa *nfa,
                           const struct automaton *a, uint32_t next)
{
    serverd_error ignored; /* all failures here are of memory or time; the caller says so */
    struct charset *sets = arena_array(nfa->arena, a->n_classes, sizeof *sets);
    uint32_t *entry = arena_array(nfa->arena, a->n_states, sizeof *entry);
    if (!sets || !entry)
        return UINT32_MAX;
    for (uint32_t c = 0; c < a->n_classes; c++)
        if (set_of_class(budget, nfa->arena, a, c, &sets[c], &ignored))
            return UINT32_MAX;
    /* A state is a split whose `other` is `next` if the state accepts, else nothing; its `next` is
     * a chain of splits over its transitions. Nothing is a set without characters. */
    uint32_t nothing = nfa_add_set(nfa, (struct charset){0}, 0);
    for (uint32_t s = 0; s < a->n_states; s++) {
        entry[s] = nfa_add_split(nfa, nothing, a->accepts[s] ? next : nothing);
        if (entry[s] == UINT32_MAX)
            return UINT32_MAX;
    }
    for (uint32_t s = 1; s < a->n_states; s++) {
        uint32_t chain = nothing;
        for (uint32_t c = 0; c < a->n_classes; c++) {
            uint32_t to = a->next[(size_t)s * a->n_classes + c];
            if (to == AUTOMATON_DEAD)
                continue;
            uint32_t edge = nfa_add_set(nfa, sets[c], entry[to]);
            chain = nfa_add_split(nfa, edge, chain);
            if (chain == UINT32_MAX)
                return UINT32_MAX;
        }
        nfa->nodes[entry[s]].next = chain;
    }
    return entry[a->start];
}

struct charset nfa_word_set(void)
{
    static const struct char_range word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    return (struct charset){.ranges = word, .n_ranges = 4};
}

struct charset nfa_newline_set(void)
{
    static const struct char_range newline[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
    return (struct charset){.ranges = newline, .n_ranges = 3};
}

serverd_status automaton_concat(struct grammar_budget *budget, const struct automaton *a,
                                const struct automaton *b, const struct automaton **out,
                                serverd_error *err)
{
    struct nfa nfa = {0};
    struct arena *scratch = arena_create(LIMIT_GRAMMAR_SCRATCH);
    serverd_status status = SERVERD_OK;
    uint32_t at = UINT32_MAX;
    if (scratch && nfa_init(&nfa, scratch))
        at = nfa_add_automaton(budget, &nfa, b, 0);
    if (at != UINT32_MAX)
        at = nfa_add_automaton(budget, &nfa, a, at);
    nfa.start = at;
    if (at == UINT32_MAX)
        status = grammar_budget_memory(err);
    else
        status = nfa_determinise(budget, scratch, &nfa, CHAR_NONE, out, err);
    arena_destroy(scratch);
    return status;
}

/* `n_optional` copies that may end at any time, or endless ones, before `next`. */
static uint32_t add_optional(struct grammar_budget *budget, struct nfa *nfa,
                             const struct automaton *a, uint32_t n_optional, bool is_endless,
                             uint32_t next)
{
    uint32_t at = next;
    if (is_endless) {
        uint32_t loop = nfa_add_split(nfa, next, next);
        uint32_t body = loop == UINT32_MAX ? loop : nfa_add_automaton(budget, nfa, a, loop);
        if (body == UINT32_MAX)
            return body;
        nfa->nodes[loop].next = body;
        return loop;
    }
    for (uint32_t i = 0; i < n_optional && at != UINT32_MAX; i++) {
        at = nfa_add_automaton(budget, nfa, a, at);
        if (at != UINT32_MAX)
            at = nfa_add_split(nfa, at, next);
    }
    return at;
}

serverd_status automaton_repeat(struct grammar_budget *budget, const struct automaton *a,
                                uint32_t min, uint32_t max, const struct automaton **out,
                                serverd_error *err)
{
    if (max < min)
        return automaton_nothing(budget, out, err);
    struct nfa nfa = {0};
    struct arena *scratch = arena_create(LIMIT_GRAMMAR_SCRATCH);
    serverd_status status = SERVERD_OK;
    uint32_t at = UINT32_MAX;
    if (scratch && nfa_init(&nfa, scratch))
        at = add_optional(budget, &nfa, a, max - min, max == UINT32_MAX, 0);
    for (uint32_t i = 0; i < min && at != UINT32_MAX; i++)
        at = nfa_add_automaton(budget, &nfa, a, at);
    nfa.start = at;
    if (at == UINT32_MAX)
        status = grammar_budget_memory(err);
    else
        status = nfa_determinise(budget, scratch, &nfa, CHAR_NONE, out, err);
    arena_destroy(scratch);
    return status;
}
