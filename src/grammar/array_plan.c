/* Arrays on their way into the machine. */
#include "grammar/machine_build.h"

#include <string.h>

struct array_plan {
    const struct part *part;
    struct machine_array array; /* `values` are goals, or MACHINE_NOTHING */
    uint32_t *goals;            /* [n_prefix + 1][1 << n_needs] */
    uint32_t *alive;            /* the same, as far as they are productive */
};

static uint32_t position_goal(const struct part *part, uint32_t index)
{
    return index < part->n_prefix ? part->prefix[index] : part->rest;
}

/* The goal of an item that meets the needs of `mask` and, where hits are limited, no others. */
static uint32_t item_goal(struct normal *n, const struct part *part, uint32_t index, uint32_t mask)
{
    uint32_t goal = position_goal(part, index);
    for (uint32_t i = 0; i < part->n_contains; i++) {
        const struct items_need *need = &part->contains[i];
        bool is_hit = mask >> i & 1;
        if (is_hit && index < need->from)
            return GOAL_FALSE;
        if (is_hit)
            goal = goal_add(n, goal, need->literal);
        else if (need->max != UNBOUNDED && index >= need->from)
            goal = goal_add(n, goal, need->literal ^ 1);
    }
    return goal;
}

/* So many items and hits that more make no difference. */
static bool count_steps(struct normal *n, const struct part *part, struct machine_array *array)
{
    uint64_t n_states;
    array->steps = array->max != UNBOUNDED ? array->max : array->n_prefix;
    if (array->steps < array->min)
        array->steps = array->min;
    if (array->steps < array->n_prefix)
        array->steps = array->n_prefix;
    n_states = (uint64_t)array->steps + 1;
    for (uint32_t i = 0; i < array->n_needs && n_states <= LIMIT_GRAMMAR_COUNTS; i++) {
        array->step[i] =
            array->need[i].max != UNBOUNDED ? array->need[i].max + 1 : array->need[i].min;
        n_states *= (uint64_t)array->step[i] + 1;
    }
    if (n_states > LIMIT_GRAMMAR_COUNTS)
        normal_refuse(n, SERVERD_TIMEOUT, NULL, "contains: counts that are too large");
    return normal_ok(n);
}

struct array_plan *array_plan_make(struct normal *n, const struct part *part)
{
    struct array_plan *plan = normal_array(n, 1, sizeof *plan);
    if (!plan)
        return NULL;
    if (part->n_contains > MACHINE_NEEDS) {
        normal_refuse(n, SERVERD_TIMEOUT, NULL, "contains: more than %u at once", MACHINE_NEEDS);
        return NULL;
    }
    *plan = (struct array_plan){
        .part = part,
        .array = {.min = part->min,
                  .max = part->max,
                  .n_prefix = part->n_prefix,
                  .n_needs = part->n_contains,
                  .is_unique = part->unique != NULL},
    };
    for (uint32_t i = 0; i < part->n_contains; i++) {
        const struct items_need *need = &part->contains[i];
        plan->array.need[i] = (struct machine_count){need->min, need->max, need->from};
        if (need->from > plan->array.n_prefix)
            plan->array.n_prefix = need->from;
    }
    uint32_t n_masks = 1u << plan->array.n_needs, rows = plan->array.n_prefix + 1;
    plan->goals = normal_array(n, (size_t)rows * n_masks, sizeof *plan->goals);
    plan->alive = normal_array(n, (size_t)rows * n_masks, sizeof *plan->alive);
    if (!plan->goals || !plan->alive || (part->n_contains && !count_steps(n, part, &plan->array)))
        return NULL;
    for (uint32_t row = 0; row < rows && normal_ok(n); row++)
        for (uint32_t mask = 0; mask < n_masks; mask++)
            plan->goals[row * n_masks + mask] = item_goal(n, part, row, mask);
    plan->array.values = plan->alive;
    return plan;
}

uint32_t array_plan_n_goals(const struct array_plan *plan)
{
    return (plan->array.n_prefix + 1) << plan->array.n_needs;
}

uint32_t array_plan_goal(const struct array_plan *plan, uint32_t index)
{
    return plan->goals[index];
}

/* Hits of a state, and what an item that meets `mask` makes of them. */
static void unpack(const struct machine_array *array, uint32_t state, uint32_t *index,
                   uint32_t *hits)
{
    for (uint32_t i = array->n_needs; i-- > 0;) {
        hits[i] = state % (array->step[i] + 1);
        state /= array->step[i] + 1;
    }
    *index = state;
}

static bool may_close(const struct machine_array *array, uint32_t index, const uint32_t *hits)
{
    bool may = index >= array->min && index <= array->max;
    for (uint32_t i = 0; i < array->n_needs; i++)
        may = may && hits[i] >= array->need[i].min && hits[i] <= array->need[i].max;
    return may;
}

static bool state_can_finish(const struct machine_array *array, uint32_t state)
{
    uint32_t index, hits[MACHINE_NEEDS], n_masks = 1u << array->n_needs;
    unpack(array, state, &index, hits);
    if (may_close(array, index, hits))
        return true;
    if (index >= array->max)
        return false;
    uint32_t row = index < array->n_prefix ? index : array->n_prefix;
    for (uint32_t mask = 0; mask < n_masks; mask++) {
        uint32_t next[MACHINE_NEEDS];
        if (array->values[row * n_masks + mask] == MACHINE_NOTHING)
            continue;
        for (uint32_t i = 0; i < array->n_needs; i++)
            next[i] = hits[i] + (mask >> i & 1);
        if (array_state(array, index + 1, next) != state &&
            array_can_finish(array, index + 1, next))
            return true;
    }
    return false;
}

static bool fill_can_finish(struct normal *n, struct machine_array *array)
{
    uint32_t n_states = array->steps + 1;
    static const uint32_t none[MACHINE_NEEDS];
    for (uint32_t i = 0; i < array->n_needs; i++)
        n_states *= array->step[i] + 1;
    serverd_status status = grammar_budget_spend(n->budget, n_states, n->err);
    if (status != SERVERD_OK)
        normal_failed(n, status, NULL);
    uint8_t *bits = normal_ok(n) ? normal_array(n, n_states / 8 + 1, 1) : NULL;
    array->can_finish = bits;
    for (uint32_t state = n_states; state-- > 0 && bits;)
        if (state_can_finish(array, state))
            bits[state / 8] |= (uint8_t)(1u << (state % 8));
    return bits && array_can_finish(array, 0, none);
}

static bool is_of_few_texts(const struct number_set *set)
{
    bool is_one = set->low_bound == BOUND_INCLUSIVE && set->high_bound == BOUND_INCLUSIVE &&
                  decimal_compare(&set->low, &set->high) == 0;
    /* others have fractions of many digits: more than any array has items */
    return is_one || (set->multiple.coefficient > 0 && set->multiple.exponent >= 0);
}

/* The texts of part i of a goal's numbers, or behind them, of its strings. NULL: they are too many
 * to be counted, or failed. */
static const struct automaton *texts_of(struct normal *n, const struct scalar_set *scalars,
                                        uint32_t i)
{
    const struct automaton *texts = NULL;
    serverd_status status;
    if (i < scalars->n_numbers) {
        if (!is_of_few_texts(&scalars->numbers[i].set))
            return NULL;
        status = number_set_automaton(n->budget, &scalars->numbers[i].set, &texts, n->err);
    } else {
        const struct string_set *set = &scalars->strings[i - scalars->n_numbers];
        uint64_t count = 0;
        status = string_set_count(n->budget, set, LIMIT_GRAMMAR_UNIQUE, &count, n->err);
        if (status == SERVERD_OK && count == LIMIT_GRAMMAR_UNIQUE)
            return NULL;
        if (status == SERVERD_OK)
            status = string_set_fold(n->budget, set, &texts, n->err);
    }
    if (status != SERVERD_OK)
        normal_failed(n, status, NULL);
    return status == SERVERD_OK ? texts : NULL;
}

/* How many values a goal has; parts may overlap. UNBOUNDED: more than are counted. */
static uint32_t count_values(struct normal *n, const struct goal *goal)
{
    const struct scalar_set *scalars = &goal->scalars;
    uint64_t sum = (uint64_t)__builtin_popcount(scalars->words);
    for (int strings = 0; strings < 2; strings++) {
        const struct automaton *all = NULL, *both;
        uint32_t from = strings ? scalars->n_numbers : 0;
        uint32_t to = scalars->n_numbers + (strings ? scalars->n_strings : 0);
        for (uint32_t i = from; i < to; i++) {
            const struct automaton *texts = texts_of(n, scalars, i);
            if (!texts)
                return UNBOUNDED;
            both = texts;
            serverd_status status =
                all ? automaton_union(n->budget, all, texts, &both, n->err) : SERVERD_OK;
            if (status != SERVERD_OK) {
                normal_failed(n, status, NULL);
                return UNBOUNDED;
            }
            all = both;
        }
        sum += all ? automaton_count(all, LIMIT_GRAMMAR_UNIQUE) : 0;
    }
    return sum < LIMIT_GRAMMAR_UNIQUE ? (uint32_t)sum : UNBOUNDED;
}

/* Production of items that differ: of scalars, whose values can be counted, so that it is known
 * when they are used up. */
static void limit_unique(struct normal *n, struct array_plan *plan)
{
    const struct goal *goal = n->goals[plan->goals[plan->array.n_prefix]];
    bool is_plain = plan->array.n_prefix == 0 && plan->array.n_needs == 0 &&
                    goal->parts[PART_ARRAY].n == 0 && goal->parts[PART_OBJECT].n == 0;
    if (!is_plain) {
        normal_refuse(n, SERVERD_UNSUPPORTED, plan->part->unique,
                      "uniqueItems: of other items than numbers, strings and words");
        return;
    }
    uint32_t count = count_values(n, goal);
    plan->array.max = plan->array.max < count ? plan->array.max : count;
}

bool array_plan_is_possible(struct normal *n, struct array_plan *plan)
{
    struct machine_array *array = &plan->array;
    uint32_t count = array_plan_n_goals(plan);
    for (uint32_t i = 0; i < count; i++)
        plan->alive[i] = n->goals[plan->goals[i]]->is_productive ? plan->goals[i] : MACHINE_NOTHING;
    if (array->n_needs > 0)
        return fill_can_finish(n, array);
    array->max = plan->part->max;
    for (uint32_t i = 0; i < count; i++)
        if (plan->alive[i] == MACHINE_NOTHING && i < array->max)
            array->max = i;
    if (n->produces && array->is_unique && array->max > 1)
        limit_unique(n, plan);
    return array->min <= array->max;
}

serverd_status array_plan_emit(struct machine_builder *builder, struct array_plan *plan,
                               const uint32_t *values, serverd_error *err)
{
    uint32_t count = array_plan_n_goals(plan), n_states = plan->array.steps + 1;
    struct machine_array *array = machine_table_add(builder, &builder->arrays, sizeof *array);
    uint32_t *table = arena_array(builder->keep, count, sizeof *table);
    if (!array || !table)
        return grammar_budget_memory(err);
    *array = plan->array;
    for (uint32_t i = 0; i < count; i++)
        table[i] = plan->alive[i] == MACHINE_NOTHING ? MACHINE_NOTHING : values[plan->alive[i]];
    array->values = table;
    for (uint32_t i = 0; i < array->n_needs; i++)
        n_states *= array->step[i] + 1;
    if (array->can_finish) {
        uint8_t *bits = arena_alloc(builder->keep, n_states / 8 + 1);
        if (!bits)
            return grammar_budget_memory(err);
        memcpy(bits, array->can_finish, n_states / 8 + 1);
        array->can_finish = bits;
    }
    return SERVERD_OK;
}
