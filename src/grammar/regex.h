/* Regular expressions: ECMA-262 with the meaning of its u flag, read leniently.
 *
 * Understood: code points, classes, \d \w \s (as ECMA-262: \d and \w are ASCII), \b \B, ^ $
 * anywhere, groups of all kinds, {m,n}, lazy quantifiers (the same language), \p{...}, \xHH \uHHHH
 * \u{...} \cX, surrogate pairs, look-ahead and look-behind anywhere (they are exact: obligations
 * that the subset construction carries along). Beyond ECMA-262, as Python and Rust write: (?i)
 * (?s) (?m) (?x) with and without scope, (?P<name>...), and in whole texts \A \z \Z. `{`, `}` and
 * `]` that can be nothing else, and escaped punctuation, stand for themselves.
 *
 * Refused: back-references, atomic groups, possessive quantifiers, conditionals, look-around inside
 * look-behind, look-behind inside look-ahead, $ \b \B inside look-behind (SERVERD_UNSUPPORTED);
 * everything else that ECMA-262 calls an error (SERVERD_INVALID, with the position in bytes); too
 * many states (SERVERD_TIMEOUT). */
#ifndef GRAMMAR_REGEX_H
#define GRAMMAR_REGEX_H

#include "grammar/string_set.h"

enum regex_use {
    REGEX_SEARCH, /* JSON Schema `pattern`: a match anywhere in the text */
    REGEX_WHOLE,  /* the `regex` forms: the match is the whole text */
};

/* Texts that match. The set has bounds only where a long {m,n} of single characters became a length
 * of the whole text. */
serverd_status regex_compile(struct grammar_budget *budget, const char *pattern, size_t n,
                             enum regex_use use, struct string_set *out, serverd_error *err);

#endif
