/* Sets of Unicode scalar values (code points without surrogates): sorted, disjoint, not adjacent
 * ranges. Immutable, in the arena of whoever made them. */
#ifndef GRAMMAR_CHARSET_H
#define GRAMMAR_CHARSET_H

#include "grammar/budget.h"

#include <stdbool.h>

#define CODE_POINT_MAX 0x10ffffu

struct char_range {
    uint32_t first, last;
};

struct charset {
    const struct char_range *ranges;
    uint32_t n_ranges;
};

/* Ranges in any order, overlapping, with surrogates: these are left out. */
serverd_status charset_make(struct grammar_budget *budget, const struct char_range *ranges,
                            size_t n_ranges, struct charset *out, serverd_error *err);
serverd_status charset_complement(struct grammar_budget *budget, struct charset set,
                                  struct charset *out, serverd_error *err);

/* With every code point that differs from one of the set in case only (simple case folding). */
serverd_status charset_fold_case(struct grammar_budget *budget, struct charset set,
                                 struct charset *out, serverd_error *err);

/* One code point and those that differ from it in case only: a quick charset_fold_case. */
serverd_status charset_fold_one(struct grammar_budget *budget, uint32_t code_point,
                                struct charset *out, serverd_error *err);

/* \p{name}: general categories (L, Lu, Letter, gc=..., General_Category=...), scripts (Greek,
 * sc=, Script=, scx=, Script_Extensions=), binary properties (Alphabetic, Any, ASCII, ...).
 * SERVERD_INVALID for a name that is unknown. The data are PCRE2's. */
serverd_status charset_property(struct grammar_budget *budget, const char *name, size_t n,
                                struct charset *out, serverd_error *err);

bool charset_has(struct charset set, uint32_t code_point);

#endif
