/* From languages of code points to languages of bytes.
 *
 * SPELLING_PLAIN: UTF-8 as it is: whole outputs by regex, choices, the texts of numbers.
 * SPELLING_JSON: what stands between the quotes of a JSON string, in the one spelling that is
 *   produced: raw UTF-8, only what must be escaped is escaped: \" \\ \b \f \n \r \t, else \u00xx
 *   with small hexadecimal digits. The quotes are the caller's.
 *
 * Any other spelling (\u0041, surrogate pairs, \/) is legal where a text is checked. That needs no
 * automaton of its own: json_text.h decodes byte by byte, and the decoded code points walk the
 * automaton. */
#ifndef GRAMMAR_SPELLING_H
#define GRAMMAR_SPELLING_H

#include "grammar/dfa.h"
#include "grammar/string_set.h"

enum spelling {
    SPELLING_PLAIN,
    SPELLING_JSON,
};

/* The DFA lies in `keep`, which may be the budget's arena or a longer-lived one. */
serverd_status spell(struct grammar_budget *budget, const struct string_set *set,
                     enum spelling spelling, struct arena *keep, const struct dfa **out,
                     serverd_error *err);
serverd_status spell_automaton(struct grammar_budget *budget, const struct automaton *automaton,
                               enum spelling spelling, struct arena *keep, const struct dfa **out,
                               serverd_error *err);

#endif
