/* How far a text goes on whatever comes: for masks, which need not look at tokens of so few
 * characters one by one.
 *
 * A character is *ordinary* if it stands for itself inside of a JSON string: all but quotes,
 * backslashes and control characters. */
#ifndef GRAMMAR_TEXT_REACH_H
#define GRAMMAR_TEXT_REACH_H

#include "grammar/budget.h"
#include "grammar/dfa.h"

#define REACH_MAX   24u   /* further is not looked */
#define REACH_COUNT 0x3fu /* bits of the number */
#define REACH_EXACT 0x80u /* and never one character more, whichever it is */

/* By state of `dfa`, in `keep`: so many ordinary characters may come, all of them, from a state
 * between two characters (others: 0). Lengths that are counted beside the state are not regarded.
 */
serverd_status text_reach(struct grammar_budget *budget, const struct dfa *dfa, struct arena *keep,
                          const uint8_t **out, serverd_error *err);

/* Ordinary characters that text[0..n-1] consists of; UINT32_MAX if it has other bytes too. */
uint32_t ordinary_characters(const char *text, size_t n);

/* Runs from this one on: REACH_ bits, with the length that is counted. */
uint8_t text_reach_of(const struct dfa *dfa, const uint8_t *reach, struct dfa_run run);

#endif
