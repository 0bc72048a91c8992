#include "grammar/string_set.h"

#include "grammar/automaton_internal.h"

#define FOLD_SIZE                                                                                  \
    512u /* states x ranges of a product: if it is no larger, lengths are folded in                \
          */

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t most(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

serverd_status string_set_fold(struct grammar_budget *budget, const struct string_set *set,
                               const struct automaton **out, serverd_error *err)
{
    const struct automaton *lengths;
    static const struct char_range all = {0, CODE_POINT_MAX};
    struct charset any;
    if (set->min == 0 && set->max == UINT32_MAX) {
        *out = set->automaton;
        return SERVERD_OK;
    }
    serverd_status status = charset_make(budget, &all, 1, &any, err);
    if (!status)
        status = automaton_repeat_set(budget, any, set->min, set->max, &lengths, err);
    return status ? status : automaton_intersect(budget, set->automaton, lengths, out, err);
}

static serverd_status make_empty(struct grammar_budget *budget, struct string_set *out,
                                 serverd_error *err)
{
    const struct automaton *nothing;
    serverd_status status = automaton_nothing(budget, &nothing, err);
    if (!status)
        *out = (struct string_set){.automaton = nothing, .min = 0, .max = UINT32_MAX};
    return status;
}

serverd_status string_set_make(struct grammar_budget *budget, const struct automaton *automaton,
                               uint32_t min, uint32_t max, struct string_set *out,
                               serverd_error *err)
{
    struct string_set set = {.automaton = automaton, .min = min, .max = max};
    uint32_t shortest = automaton->shortest[automaton->start];
    uint32_t longest = automaton->longest[automaton->start];
    if (automaton_is_empty(automaton) || min > max || min > longest || max < shortest)
        return make_empty(budget, out, err);
    if (min <= shortest)
        set.min = 0;
    if (max >= longest)
        set.max = UINT32_MAX;
    uint64_t length = set.max != UINT32_MAX ? set.max : set.min;
    bool is_bounded = set.min > 0 || set.max != UINT32_MAX;
    bool is_small = (length + 1) * automaton->n_states <= FOLD_SIZE / automaton->n_ranges;
    bool has_gaps = set.min > 0 && set.max != UINT32_MAX && !automaton_has_no_gaps(automaton);
    if (is_bounded && (is_small || has_gaps)) {
        serverd_status status = string_set_fold(budget, &set, &set.automaton, err);
        if (status)
            return status;
        set.min = 0;
        set.max = UINT32_MAX;
    }
    *out = set;
    return SERVERD_OK;
}

serverd_status string_set_anything(struct grammar_budget *budget, struct string_set *out,
                                   serverd_error *err)
{
    *out = (struct string_set){.min = 0, .max = UINT32_MAX};
    return automaton_anything(budget, &out->automaton, err);
}

serverd_status string_set_intersect(struct grammar_budget *budget, const struct string_set *a,
                                    const struct string_set *b, struct string_set *out,
                                    serverd_error *err)
{
    const struct automaton *both;
    serverd_status status = automaton_intersect(budget, a->automaton, b->automaton, &both, err);
    return status ? status
                  : string_set_make(budget, both, most(a->min, b->min), least(a->max, b->max), out,
                                    err);
}

/* Three ways not to be in b: another language, too short, too long. */
serverd_status string_set_subtract(struct grammar_budget *budget, const struct string_set *a,
                                   const struct string_set *b, struct string_set out[3],
                                   size_t *n_out, serverd_error *err)
{
    const struct automaton *other, *both;
    struct string_set parts[3];
    size_t n = 0, n_parts = 0;
    serverd_status status = automaton_subtract(budget, a->automaton, b->automaton, &other, err);
    if (!status)
        status = automaton_intersect(budget, a->automaton, b->automaton, &both, err);
    if (!status)
        status = string_set_make(budget, other, a->min, a->max, &parts[n_parts++], err);
    if (!status && b->min > 0)
        status = string_set_make(budget, both, a->min, least(a->max, b->min - 1), &parts[n_parts++],
                                 err);
    if (!status && b->max != UINT32_MAX)
        status =
            string_set_make(budget, both, most(a->min, b->max + 1), a->max, &parts[n_parts++], err);
    if (status)
        return status;
    for (size_t i = 0; i < n_parts; i++)
        if (!string_set_is_empty(&parts[i]))
            out[n++] = parts[i];
    *n_out = n;
    return SERVERD_OK;
}

serverd_status string_set_complement(struct grammar_budget *budget, const struct string_set *a,
                                     struct string_set out[3], size_t *n_out, serverd_error *err)
{
    struct string_set anything;
    serverd_status status = string_set_anything(budget, &anything, err);
    return status ? status : string_set_subtract(budget, &anything, a, out, n_out, err);
}

serverd_status string_set_union(struct grammar_budget *budget, const struct string_set *a,
                                const struct string_set *b, struct string_set *out, bool *merged,
                                serverd_error *err)
{
    *merged = true;
    if (string_set_is_empty(a) || string_set_is_empty(b)) {
        *out = string_set_is_empty(a) ? *b : *a;
        return SERVERD_OK;
    }
    if (a->min == b->min && a->max == b->max) {
        const struct automaton *either;
        serverd_status status = automaton_union(budget, a->automaton, b->automaton, &either, err);
        return status ? status : string_set_make(budget, either, a->min, a->max, out, err);
    }
    bool meets = (a->max == UINT32_MAX || b->min <= a->max + 1) &&
                 (b->max == UINT32_MAX || a->min <= b->max + 1);
    if (meets && automaton_equal(a->automaton, b->automaton))
        return string_set_make(budget, a->automaton, least(a->min, b->min), most(a->max, b->max),
                               out, err);
    *merged = false;
    return SERVERD_OK;
}

bool string_set_has(const struct string_set *set, const char *text, size_t n)
{
    uint64_t length = 0;
    for (size_t i = 0; i < n; i++)
        length += ((uint8_t)text[i] & 0xc0) != 0x80;
    return length >= set->min && (set->max == UINT32_MAX || length <= set->max) &&
           automaton_accepts(set->automaton, text, n);
}

serverd_status string_set_count(struct grammar_budget *budget, const struct string_set *set,
                                uint64_t bound, uint64_t *out, serverd_error *err)
{
    const struct automaton *a = set->automaton, *folded;
    /* Without gaps each length gives a text: many lengths are many texts. */
    uint32_t longest = least(set->max, a->longest[a->start]);
    uint32_t shortest = most(set->min, a->shortest[a->start]);
    if (string_set_is_empty(set)) {
        *out = 0;
        return SERVERD_OK;
    }
    if (longest == UINT32_MAX || (longest - shortest >= bound && automaton_has_no_gaps(a))) {
        *out = bound;
        return SERVERD_OK;
    }
    serverd_status status = string_set_fold(budget, set, &folded, err);
    if (!status)
        *out = automaton_count(folded, bound);
    return status;
}
