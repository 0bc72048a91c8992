/* Nondeterministic automata with assertions, and the subset construction.
 *
 * A node is a set of characters, a choice, or an assertion that passes or not where it stands:
 *
 * - a guard looks at the characters on both sides (^ $ \b). What depends on the next character
 *   stays pending in a subset until that character is known.
 * - a look-ahead is a language that the rest of the text must belong to. A thread of the subset
 *   carries the states of all such automata that it has promised: its obligations. One that is
 *   dead ends the thread, one that is satisfied whatever comes is dropped.
 * - a look-behind is a language that the text so far must belong to: its automaton runs along
 *   from the start of the text, and its state is part of the subset.
 *
 * So all of them are exact, at the price of states. */
#ifndef GRAMMAR_NFA_INTERNAL_H
#define GRAMMAR_NFA_INTERNAL_H

#include "grammar/automaton_internal.h"

enum nfa_kind {
    NFA_SET,    /* a character of sets[set], then `next` */
    NFA_SPLIT,  /* `next` or `other` */
    NFA_GUARD,  /* `next` if `guard` holds */
    NFA_AHEAD,  /* `next` if the rest belongs to looks[look] */
    NFA_BEHIND, /* `next` if what was read belongs to looks[look] */
    NFA_ACCEPT,
};

enum nfa_guard {
    GUARD_TEXT_START,
    GUARD_LINE_START,
    GUARD_TEXT_END,
    GUARD_LINE_END,
    GUARD_WORD_BORDER,
    GUARD_NO_WORD_BORDER,
};

/* What a guard sees of the characters beside it. */
enum char_kind {
    CHAR_NONE, /* the text's start or end */
    CHAR_NEWLINE,
    CHAR_WORD,
    CHAR_OTHER,
    N_CHAR_KINDS,
};

struct nfa_node {
    uint8_t kind, guard;
    uint32_t index; /* of the set or the look */
    uint32_t next, other;
};

struct nfa_look {
    const struct automaton *after[N_CHAR_KINDS]; /* by the kind of the character before; for a
                                                    look-behind all the same */
};

struct nfa {
    struct arena *arena;
    struct nfa_node *nodes;
    struct charset *sets;
    struct nfa_look *looks;
    uint32_t n_nodes, cap_nodes, n_sets, cap_sets, n_looks;
    uint32_t start;
    bool ends_anywhere; /* what follows acceptance does not matter: a search */
};

/* Node 0 accepts. Looks are at most LIMIT_REGEX_LOOKS. */
bool nfa_init(struct nfa *nfa, struct arena *arena);
/* The new node's number; UINT32_MAX: no memory, or more than LIMIT_REGEX_NODES. */
uint32_t nfa_add(struct nfa *nfa, struct nfa_node node);
uint32_t nfa_add_set(struct nfa *nfa, struct charset set, uint32_t next);
uint32_t nfa_add_split(struct nfa *nfa, uint32_t next, uint32_t other);
/* `a`, then `next`; the entry. */
uint32_t nfa_add_automaton(struct grammar_budget *budget, struct nfa *nfa,
                           const struct automaton *a, uint32_t next);

/* \w and the line terminators, as the guards understand them. */
struct charset nfa_word_set(void);
struct charset nfa_newline_set(void);

/* The language. `scratch` is filled on the way. `known_before`: of the character before the text's
 * start, for a look-ahead that begins in the middle; CHAR_NONE at the start. */
serverd_status nfa_determinise(struct grammar_budget *budget, struct arena *scratch,
                               const struct nfa *nfa, enum char_kind known_before,
                               const struct automaton **out, serverd_error *err);

#endif
