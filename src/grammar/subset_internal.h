/* The subset construction's state: what subset.c and subset_closure.c share. */
#ifndef GRAMMAR_SUBSET_INTERNAL_H
#define GRAMMAR_SUBSET_INTERNAL_H

#include "grammar/nfa_internal.h"

/* A position that the text may have reached, and what it has promised of the rest. */
struct thread {
    uint32_t node, promise; /* promise: number of a set of obligations; 0: none */
};

/* An automaton that runs along, by the classes of the alphabet. */
struct runner {
    const struct automaton *automaton;
    uint32_t *class_of; /* [n_classes of the alphabet] */
    uint32_t universal;
};

struct subset {
    struct grammar_budget *budget;
    struct arena *scratch;
    const struct nfa *nfa;
    struct alphabet alphabet;
    uint8_t *kind_of;      /* [n_classes] enum char_kind */
    uint32_t *set_of;      /* [n_sets of the nfa] the first set that is equal */
    uint32_t **classes_of; /* [n_sets of the nfa] */
    uint32_t *n_classes_of;
    struct runner *runners;    /* [n_looks][N_CHAR_KINDS] */
    struct key_table promises; /* sorted lists of (runner, state) */
    struct key_table states;   /* kind before, states of look-behinds, threads */
    uint32_t *behind;          /* [n_looks] where we are: states of look-behinds; else 0 */
    uint32_t before;           /* and the kind of the last character */
    struct thread *threads;    /* what a closure found */
    uint32_t n_threads, cap_threads;
    bool is_universal; /* the closure accepts whatever follows */
    struct thread *stack;
    uint32_t n_stack, cap_stack;
    uint32_t *visited; /* open addressing, of (node, promise); stamped */
    uint64_t *visited_key;
    uint32_t n_visited, cap_visited, stamp;
    /* A class's successors: a linked list. */
    uint32_t *bucket; /* [n_classes] item + 1 */
    struct bucket_item {
        struct thread thread;
        uint32_t next;
    } * items;
    uint32_t n_items, cap_items;
    uint32_t *key, *saved, *pairs; /* buffers that are used again */
    uint32_t cap_key, cap_saved, cap_pairs;
};

/* Room for one more item in an array; false if memory is out. */
bool subset_reserve(struct arena *arena, void *array_pointer, uint32_t n_used, uint32_t *cap,
                    size_t size);
/* Room for n words in a buffer whose contents may go. */
bool subset_reserve_words(struct arena *arena, uint32_t **words, uint32_t *cap, size_t n);

/* A closure: begin, push where it starts, close. What waits for a character, or is pending, is then
 * in s->threads. `after`: the kind of the next character, N_CHAR_KINDS while it is not known.
 * false: memory is out. */
void subset_begin_closure(struct subset *s);
bool subset_push(struct subset *s, uint32_t node, uint32_t promise);
bool subset_close(struct subset *s, uint32_t after);

/* The promise behind a character of a class; *broken if an obligation cannot be met any more.
 * false: memory is out. */
bool subset_step_promise(struct subset *s, uint32_t promise, uint32_t class, uint32_t *out,
                         bool *broken);
bool subset_holds_at_end(const struct subset *s, uint32_t promise);

/* Order of two pairs of words: obligations, or threads. */
int subset_compare_pairs(const void *a, const void *b);

#endif
