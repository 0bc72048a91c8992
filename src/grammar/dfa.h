/* Deterministic automata over bytes: what production walks and token masks are made from. Made by
 * spelling.h from automata over code points; immutable.
 *
 * "Alive" is exact: a run that dfa_step let pass can be completed to an accepted text. That holds
 * for the length in code points too, which is counted beside the state (string_set.h): each state
 * knows how few and how many further code points lead to acceptance, and where both bounds matter
 * the automaton was built so that every length in between is possible.
 *
 * A run is {state, count}. Without bounds the count stays 0; with a lower bound alone it stops
 * there: so that equal futures are equal runs. For masks: while `count >= min` and max - count is
 * more than the code points of the longest token plus `shortest`, the mask depends on the state
 * alone. */
#ifndef GRAMMAR_DFA_H
#define GRAMMAR_DFA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DFA_DEAD = 0,     /* the state from which nothing is accepted */
    DFA_ACCEPTS = 1,  /* flags: the text may end here, if its length allows */
    DFA_BOUNDARY = 2, /* flags, where it is counted: entering the state completes a code point */
};

struct dfa {
    uint32_t n_states, start; /* start 0: empty */
    uint32_t n_classes;
    uint32_t min, max;            /* code points; 0 and UINT32_MAX: not counted */
    uint8_t class_of[256];        /* of a byte */
    const uint16_t *next16;       /* [n_states][n_classes], if n_states < 65536 */
    const uint32_t *next32;       /* the same, else; the other one is NULL */
    const uint8_t *flags;         /* [n_states] */
    const uint32_t *least, *most; /* [n_states] further code points to acceptance; NULL if not
                                     counted; most UINT32_MAX: no bound */
};

struct dfa_run {
    uint32_t state, count;
};

static inline uint32_t dfa_next(const struct dfa *dfa, uint32_t state, uint8_t byte)
{
    size_t cell = (size_t)state * dfa->n_classes + dfa->class_of[byte];
    return dfa->next16 ? dfa->next16[cell] : dfa->next32[cell];
}

static inline struct dfa_run dfa_begin(const struct dfa *dfa)
{
    return (struct dfa_run){.state = dfa->start, .count = 0};
}

/* A step by one byte; false, and *run as it was, if nothing that begins so is accepted. */
static inline bool dfa_step(const struct dfa *dfa, struct dfa_run *run, uint8_t byte)
{
    uint32_t state = dfa_next(dfa, run->state, byte), count = run->count;
    if (state == DFA_DEAD)
        return false;
    if (dfa->least) {
        if ((dfa->flags[state] & DFA_BOUNDARY) && (count < dfa->min || dfa->max != UINT32_MAX))
            count++;
        if (count > dfa->max || dfa->least[state] > dfa->max - count ||
            (count < dfa->min && dfa->most[state] < dfa->min - count))
            return false;
    }
    *run = (struct dfa_run){.state = state, .count = count};
    return true;
}

/* The text that was read is a whole one. */
static inline bool dfa_is_accepting(const struct dfa *dfa, struct dfa_run run)
{
    return (dfa->flags[run.state] & DFA_ACCEPTS) != 0 && run.count >= dfa->min;
}

/* Nothing but the empty text can follow: production may go on without asking the model. */
bool dfa_is_final(const struct dfa *dfa, struct dfa_run run);

/* The byte that must come next: 0..255, or -1 if the text may end or go on in several ways. */
int dfa_forced_byte(const struct dfa *dfa, struct dfa_run run);

/* A whole text. */
bool dfa_accepts(const struct dfa *dfa, const void *text, size_t n);

size_t dfa_bytes(const struct dfa *dfa); /* memory of its tables */

#endif
