/* Patterns as Lua's string library has them (reference manual, 6.4.1): classes, sets, *, +, -, ?,
 * captures, %1, %b(), %f[set], ^ and $.
 *
 * A pattern is a list of items, without alternatives. So whoever backtracks needs one frame for
 * each repeated item and no recursion, and which captures are open at an item is known when the
 * pattern is made:
 *
 *     "(%a+)=(%d*)"  ──▶  open · %a+ · close · '=' · open · %d* · close · done
 *                                ▲ frame: where it began,    ▲ frame
 *                                  how many it may still give back
 *
 * Each item tried and each byte passed is charged. Mistakes in a pattern are found when it is made,
 * where Lua's own library finds those only that a match comes to. */
#ifndef FRONTEND_DSL_DSL_PATTERN_H
#define FRONTEND_DSL_DSL_PATTERN_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

#define DSL_PATTERN_CAPTURES 32

struct dsl_pattern;

struct dsl_capture {
    size_t begin;
    size_t n; /* bytes; SIZE_MAX: the capture is a position */
};

struct dsl_match {
    size_t begin, end;
    int n_captures;
    struct dsl_capture captures[DSL_PATTERN_CAPTURES];
};

/* Pushes a userdata and gives what is in it. Raises if the text is no pattern, or longer than
 * LIMIT_DSL_PATTERN_BYTES. `has_anchor`: ^ at its beginning is one, else a character. */
struct dsl_pattern *dsl_pattern_push(lua_State *L, const char *text, size_t n, bool has_anchor);

bool dsl_pattern_is_anchored(const struct dsl_pattern *pattern);

/* Matches at `at` <= n. *out is complete on success only. The pattern's frames are used: one match
 * at a time. */
bool dsl_pattern_match(lua_State *L, struct dsl_pattern *pattern, const char *text, size_t n,
                       size_t at, struct dsl_match *out);

#endif
