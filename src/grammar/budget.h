/* What compiling one schema, regex or grammar may take. Every function of this room that can grow
 * takes a budget, makes its results in the budget's arena and ends with an error when it is used
 * up: never a stall, never a half-made result.
 *
 * Errors of the whole room, and what they are in the API (api.md 4.2):
 *   SERVERD_INVALID      the text is wrong: invalid_regex, invalid_schema
 *   SERVERD_UNSUPPORTED  understood, but no automaton expresses it: unsupported_schema
 *   SERVERD_TIMEOUT      more states, memory or time than the budget has: grammar_too_complex
 *   SERVERD_NOMEM        malloc failed
 *
 * One thread at a time; results are immutable and may be shared once made. */
#ifndef GRAMMAR_BUDGET_H
#define GRAMMAR_BUDGET_H

#include "base/arena.h"
#include "base/clock.h"
#include "base/limits.h"
#include "serverd/status.h"

#include <stdint.h>

struct grammar_budget {
    struct arena *arena;       /* what functions give back lives here, as long as the arena */
    const struct clock *clock; /* for the deadline */
    uint64_t deadline_ns;      /* of clock_now_ns */
    uint32_t max_states;       /* of one automaton */
    size_t max_cells;          /* transitions of one automaton: states x classes */
    uint64_t n_steps;          /* done so far; the clock is looked at every few thousand */
    /* Made when first needed, for all that is compiled within the budget. */
    struct case_table *cases;          /* of charset_fold_case */
    struct property_entry *properties; /* of charset_property */
    struct format_cache *formats;      /* of format_set */
};

/* The usual bounds of limits.h. `arena` and `clock` stay the caller's. */
void grammar_budget_init(struct grammar_budget *budget, struct arena *arena,
                         const struct clock *clock, uint64_t deadline_ns);

/* `n` small pieces of work more. SERVERD_TIMEOUT when the deadline is over. */
serverd_status grammar_budget_spend(struct grammar_budget *budget, uint64_t n, serverd_error *err);

/* SERVERD_TIMEOUT unless an automaton of this size is allowed. */
serverd_status grammar_budget_table(const struct grammar_budget *budget, size_t n_states,
                                    size_t n_classes, serverd_error *err);

/* The error of an allocation in an arena that failed: at its limit (SERVERD_TIMEOUT). */
serverd_status grammar_budget_memory(serverd_error *err);

#endif
