/* Sets of numbers as JSON Schema has them, in exact decimals.
 *
 * A set is an interval, a multiple and multiples that are left out: closed under intersection; a
 * complement is a union of such sets. Checking and producing part here:
 *
 * - Checking: a number's text may be spelled in any way (1.0, 10E-1). The grammar of JSON numbers
 *   is checked while it comes (number_text_automaton), the value when it is complete, by
 *   number_set_has: exact decimal comparison and remainder, any digits and exponents.
 * - Producing: number_set_automaton, the texts without exponent. Integers have no fraction; other
 *   numbers may have one, trailing zeros too; no -0. Digits before the point: at most 20 (12 if the
 *   multiple has a significant part of 256 and more), or what the bounds need; behind it: at most
 *   20, or what the bounds need.
 *
 * Emptiness is exact. A multipleOf whose significant digits, trailing zeros apart, are beyond
 * LIMIT_GRAMMAR_MULTIPLE is checked but not produced (SERVERD_TIMEOUT from number_set_automaton).*/
#ifndef GRAMMAR_NUMBER_SET_H
#define GRAMMAR_NUMBER_SET_H

#include "grammar/automaton.h"

/* +-digits x 10^exponent, without leading and trailing zeros; zero has no digits. */
struct decimal {
    const char *digits; /* '0'..'9', in an arena or in the text it was parsed from */
    uint32_t n_digits;
    int32_t exponent; /* of the last digit; clamped to +-10^9, which no comparison notices */
    bool is_negative;
};

/* A JSON number. false if it is none. Digits are copied to `arena`. */
bool decimal_parse(struct arena *arena, const char *text, size_t n, struct decimal *out);
/* <0, 0, >0 */
int decimal_compare(const struct decimal *a, const struct decimal *b);
bool decimal_is_integer(const struct decimal *d);

enum number_bound {
    BOUND_NONE,
    BOUND_INCLUSIVE,
    BOUND_EXCLUSIVE,
};

/* coefficient x 10^exponent, the coefficient without trailing zeros; 0: none */
struct number_step {
    uint64_t coefficient;
    int32_t exponent;
};

struct number_set {
    struct decimal low, high;
    enum number_bound low_bound, high_bound;
    struct number_step multiple;  /* of this; integers: {1, 0} */
    struct number_step *excluded; /* and not of any of these */
    uint32_t n_excluded;
};

/* All numbers; all integers. */
struct number_set number_set_all(void);
struct number_set number_set_integers(void);
/* Exactly this value: enum and const. */
struct number_set number_set_value(const struct decimal *value);

/* A multipleOf: SERVERD_INVALID unless positive, SERVERD_TIMEOUT beyond 18 significant digits. */
serverd_status number_step_make(const struct decimal *value, struct number_step *out,
                                serverd_error *err);

/* SERVERD_TIMEOUT if the least common multiple has more than 18 significant digits. */
serverd_status number_set_intersect(struct grammar_budget *budget, const struct number_set *a,
                                    const struct number_set *b, struct number_set *out,
                                    serverd_error *err);

/* All numbers that are not in `a`: at most LIMIT_NUMBER_PARTS disjoint sets. */
serverd_status number_set_complement(struct grammar_budget *budget, const struct number_set *a,
                                     struct number_set **out, size_t *n_out, serverd_error *err);

bool number_set_has(const struct number_set *set, const struct decimal *value);

/* Exact; may need the automaton. */
serverd_status number_set_is_empty(struct grammar_budget *budget, const struct number_set *set,
                                   bool *out, serverd_error *err);

/* The texts that are produced. */
serverd_status number_set_automaton(struct grammar_budget *budget, const struct number_set *set,
                                    const struct automaton **out, serverd_error *err);

/* The texts of all JSON numbers, in any spelling. */
serverd_status number_text_automaton(struct grammar_budget *budget, const struct automaton **out,
                                     serverd_error *err);

#endif
