/* How the files of this room make automata. */
#ifndef GRAMMAR_AUTOMATON_INTERNAL_H
#define GRAMMAR_AUTOMATON_INTERNAL_H

#include "grammar/alphabet_internal.h"
#include "grammar/minimise_internal.h"

/* The canonical form, in the budget's arena, of an automaton over an alphabet; labels are 0 and
 * 1. `scratch` is filled with whatever is needed on the way. */
serverd_status automaton_build(struct grammar_budget *budget, struct arena *scratch,
                               const struct raw_automaton *raw, const struct alphabet *alphabet,
                               const struct automaton **out, serverd_error *err);

/* The state from which everything is accepted; UINT32_MAX if there is none. */
uint32_t automaton_universal(const struct automaton *a);

/* Every length between shortest and longest is accepted, from every state. */
bool automaton_has_no_gaps(const struct automaton *a);

/* An open-addressing table from keys, which are lists of words, to 0, 1, 2, ... in order of
 * arrival. The keys lie one behind the other in `words`. */
struct key_table {
    struct arena *arena;
    uint32_t *words, *slots; /* a slot: key number + 1 */
    size_t *offset;          /* [n_keys + 1], into words */
    size_t cap_words;
    uint32_t n_keys, cap_keys, n_slots;
};

bool key_table_init(struct key_table *table, struct arena *arena);
/* The key's number; *is_new if it was not there. UINT32_MAX: no memory. */
uint32_t key_table_add(struct key_table *table, const uint32_t *key, uint32_t n_words,
                       bool *is_new);

/* A copy of the array with room for n_new bytes. */
void *arena_grow(struct arena *arena, const void *old, size_t n_old, size_t n_new);

#endif
