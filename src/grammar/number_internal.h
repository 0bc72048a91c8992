/* What number_set.c and number_automaton.c share. */
#ifndef GRAMMAR_NUMBER_INTERNAL_H
#define GRAMMAR_NUMBER_INTERNAL_H

#include "grammar/number_set.h"

#define STEP_MAX 1000000000000000000u /* 10^18, of a step's coefficient */

/* a x b modulo m, and 10^n modulo m; m > 0 */
uint64_t multiply_modulo(uint64_t a, uint64_t b, uint64_t m);
uint64_t power_of_ten_modulo(uint64_t n, uint64_t m);

/* Digits of a magnitude before and behind the point. */
uint32_t decimal_n_whole(const struct decimal *d);
uint32_t decimal_n_fraction(const struct decimal *d);

#endif
