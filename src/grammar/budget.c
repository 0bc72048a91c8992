#include "grammar/budget.h"

#include "base/error.h"

#define STEPS_PER_LOOK 4096u /* at the clock */

void grammar_budget_init(struct grammar_budget *budget, struct arena *arena,
                         const struct clock *clock, uint64_t deadline_ns)
{
    *budget = (struct grammar_budget){
        .arena = arena,
        .clock = clock,
        .deadline_ns = deadline_ns,
        .max_states = LIMIT_GRAMMAR_STATES,
        .max_cells = LIMIT_GRAMMAR_CELLS,
    };
}

serverd_status grammar_budget_spend(struct grammar_budget *budget, uint64_t n, serverd_error *err)
{
    uint64_t before = budget->n_steps / STEPS_PER_LOOK;
    budget->n_steps += n;
    if (budget->n_steps / STEPS_PER_LOOK != before &&
        clock_now_ns(budget->clock) > budget->deadline_ns)
        return fail(err, SERVERD_TIMEOUT, "too complex: not compiled within the time allowed");
    return SERVERD_OK;
}

serverd_status grammar_budget_table(const struct grammar_budget *budget, size_t n_states,
                                    size_t n_classes, serverd_error *err)
{
    if (n_states > budget->max_states)
        return fail(err, SERVERD_TIMEOUT, "too complex: more than %u states", budget->max_states);
    if (n_classes > 0 && n_states > budget->max_cells / n_classes)
        return fail(err, SERVERD_TIMEOUT,
                    "too complex: %zu states of %zu kinds of characters, at most %zu transitions "
                    "allowed",
                    n_states, n_classes, budget->max_cells);
    return SERVERD_OK;
}

serverd_status grammar_budget_memory(serverd_error *err)
{
    return fail(err, SERVERD_TIMEOUT, "too complex: not compiled within the memory allowed");
}
