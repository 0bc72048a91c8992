/* Arrays and objects under a conjunction of conditions, and unions of such. */
#include "grammar/normal_internal.h"

#include "base/numeric.h"

#include <string.h>

int text_piece_compare(struct text_piece a, struct text_piece b)
{
    int order = memcmp(a.bytes, b.bytes, min_size(a.n, b.n));
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

static bool name_set_has(const struct name_set *set, struct text_piece name)
{
    uint32_t begin = 0, end = set->n;
    while (begin < end) {
        uint32_t middle = begin + (end - begin) / 2;
        int order = text_piece_compare(set->names[middle], name);
        if (order == 0)
            return true;
        if (order < 0)
            begin = middle + 1;
        else
            end = middle;
    }
    return false;
}

bool name_span_has(const struct name_span *span, struct text_piece name)
{
    bool is_in = false;
    for (uint32_t i = 0; i < span->n_sets && !is_in; i++)
        is_in = name_set_has(span->sets[i], name);
    for (uint32_t i = 0; i < span->n_patterns && !is_in; i++)
        is_in = string_set_has(span->patterns[i], name.bytes, name.n);
    return is_in != span->is_complement;
}

struct part *part_new(struct normal *n)
{
    struct part *part = normal_array(n, 1, sizeof *part);
    if (part)
        *part =
            (struct part){.max = UNBOUNDED, .rest = GOAL_TRUE, .evaluated_items = LITERAL_FALSE};
    return part;
}

const struct part *part_anything(struct normal *n)
{
    return part_new(n);
}

/* ---- objects --------------------------------------------------------------------------------- */

/* What rules say about a key that their part does not know itself. */
static uint32_t goal_by_rules(struct normal *n, const struct part *part, struct text_piece name)
{
    uint32_t goal = GOAL_TRUE;
    for (uint32_t i = 0; i < part->n_rules && goal != GOAL_FALSE; i++)
        if (name_span_has(&part->rules[i]->span, name))
            goal = goal_and(n, goal, part->rules[i]->goal);
    return goal;
}

static struct object_key joined_key(struct normal *n, const struct object_key *a,
                                    const struct object_key *b)
{
    struct object_key out = *a;
    bool is_a_first = a->rank < b->rank || (a->rank == b->rank && a->serial < b->serial);
    out.goal = goal_and(n, a->goal, b->goal);
    out.rank = is_a_first ? a->rank : b->rank;
    out.serial = is_a_first ? a->serial : b->serial;
    out.is_required = a->is_required || b->is_required;
    return out;
}

/* False if the object cannot be any more. */
static bool join_keys(struct normal *n, const struct part *a, const struct part *b,
                      struct part *out)
{
    uint32_t i = 0, j = 0, n_required = 0;
    if (a->n_keys == 0 && a->n_rules == 0 && b->n_keys == 0) {
        return true;
    }
    struct object_key *keys = normal_array(n, (size_t)a->n_keys + b->n_keys, sizeof *keys);
    if (!keys)
        return false;
    while ((i < a->n_keys || j < b->n_keys) && normal_ok(n)) {
        int order = i == a->n_keys   ? 1
                    : j == b->n_keys ? -1
                                     : text_piece_compare(a->keys[i].name, b->keys[j].name);
        struct object_key *key = &keys[out->n_keys++];
        bool is_new = true;
        if (order == 0) {
            *key = joined_key(n, &a->keys[i++], &b->keys[j++]);
        } else if (order < 0) {
            *key = a->keys[i++];
            is_new = b->n_rules > 0;
            key->goal = goal_and(n, key->goal, goal_by_rules(n, b, key->name));
        } else {
            *key = b->keys[j++];
            is_new = a->n_rules > 0;
            key->goal = goal_and(n, key->goal, goal_by_rules(n, a, key->name));
        }
        n_required += key->is_required;
        if (key->is_required && is_new && goal_is_known_empty(n, key->goal))
            return false;
    }
    out->keys = keys;
    out->min = out->min > n_required ? out->min : n_required;
    return true;
}

static const struct property_rule **join_rules(struct normal *n, const struct property_rule **a,
                                               uint32_t n_a, const struct property_rule **b,
                                               uint32_t n_b, uint32_t *count)
{
    *count = n_a;
    if (n_b == 0)
        return a;
    const struct property_rule **out = normal_array(n, (size_t)n_a + n_b, sizeof(void *));
    if (!out)
        return NULL;
    if (n_a)
        memcpy(out, a, n_a * sizeof *out);
    for (uint32_t j = 0; j < n_b; j++) {
        bool is_there = false;
        for (uint32_t i = 0; i < n_a && !is_there; i++)
            is_there = a[i] == b[j];
        if (!is_there)
            out[(*count)++] = b[j];
    }
    return out;
}

/* Names that both leave: the union of the spans, of which either may be a complement. Both being
 * plain is the rule; a complement comes from `additionalProperties`, which leaves nothing. */
static struct name_span join_spans(struct normal *n, const struct name_span *a,
                                   const struct name_span *b)
{
    if (a->is_complement || b->is_complement)
        return a->is_complement ? *a : *b;
    if (a->n_sets + a->n_patterns == 0 || b->n_sets + b->n_patterns == 0)
        return a->n_sets + a->n_patterns == 0 ? *b : *a;
    struct name_span out = {0};
    out.sets = normal_array(n, (size_t)a->n_sets + b->n_sets, sizeof *out.sets);
    out.patterns = normal_array(n, (size_t)a->n_patterns + b->n_patterns, sizeof *out.patterns);
    if (!out.sets || !out.patterns)
        return out;
    for (uint32_t i = 0; i < a->n_sets + b->n_sets; i++)
        out.sets[out.n_sets++] = i < a->n_sets ? a->sets[i] : b->sets[i - a->n_sets];
    for (uint32_t i = 0; i < a->n_patterns + b->n_patterns; i++)
        out.patterns[out.n_patterns++] =
            i < a->n_patterns ? a->patterns[i] : b->patterns[i - a->n_patterns];
    return out;
}

static bool join_objects(struct normal *n, const struct part *a, const struct part *b,
                         struct part *out)
{
    out->rules = join_rules(n, a->rules, a->n_rules, b->rules, b->n_rules, &out->n_rules);
    out->needs = join_rules(n, a->needs, a->n_needs, b->needs, b->n_needs, &out->n_needs);
    out->evaluated = join_spans(n, &a->evaluated, &b->evaluated);
    return join_keys(n, a, b, out);
}

/* ---- arrays ---------------------------------------------------------------------------------- */

static bool join_arrays(struct normal *n, const struct part *a, const struct part *b,
                        struct part *out)
{
    uint32_t n_prefix = a->n_prefix > b->n_prefix ? a->n_prefix : b->n_prefix;
    uint32_t *prefix = normal_array(n, n_prefix, sizeof *prefix);
    struct items_need *contains =
        normal_array(n, (size_t)a->n_contains + b->n_contains, sizeof *contains);
    if (!prefix || !contains)
        return false;
    for (uint32_t i = 0; i < n_prefix; i++)
        prefix[i] = goal_and(n, i < a->n_prefix ? a->prefix[i] : a->rest,
                             i < b->n_prefix ? b->prefix[i] : b->rest);
    for (uint32_t i = 0; i < a->n_contains; i++)
        contains[out->n_contains++] = a->contains[i];
    for (uint32_t i = 0; i < b->n_contains; i++) {
        bool is_there = false;
        for (uint32_t j = 0; j < a->n_contains && !is_there; j++)
            is_there = memcmp(&a->contains[j], &b->contains[i], sizeof *contains) == 0;
        if (!is_there)
            contains[out->n_contains++] = b->contains[i];
    }
    for (uint32_t i = 0; i < out->n_contains; i++)
        if (contains[i].min > 0 && contains[i].min != UNBOUNDED) {
            uint32_t least = contains[i].min + contains[i].from;
            out->min = least > out->min ? least : out->min;
        }
    out->prefix = prefix;
    out->n_prefix = n_prefix;
    out->rest = goal_and(n, a->rest, b->rest);
    out->contains = contains;
    out->unique = a->unique ? a->unique : b->unique;
    out->n_evaluated = a->n_evaluated > b->n_evaluated ? a->n_evaluated : b->n_evaluated;
    out->evaluated_items = literal_either(n, a->evaluated_items, b->evaluated_items);
    for (uint32_t i = 0; i < n_prefix && i < out->max && normal_ok(n); i++)
        if (goal_is_known_empty(n, prefix[i]))
            out->max = i;
    if (out->max > n_prefix && goal_is_known_empty(n, out->rest))
        out->max = n_prefix;
    return true;
}

const struct part *part_and(struct normal *n, enum part_type type, const struct part *a,
                            const struct part *b)
{
    serverd_status status = grammar_budget_spend(n->budget, 1, n->err);
    if (status != SERVERD_OK)
        normal_failed(n, status, NULL);
    struct part *out = normal_ok(n) ? part_new(n) : NULL;
    if (!out)
        return NULL;
    out->min = a->min > b->min ? a->min : b->min;
    out->max = a->max < b->max ? a->max : b->max;
    bool is_possible = type == PART_OBJECT ? join_objects(n, a, b, out) : join_arrays(n, a, b, out);
    return is_possible && normal_ok(n) && out->min <= out->max ? out : NULL;
}

/* ---- unions ---------------------------------------------------------------------------------- */

void part_list_add(struct normal *n, struct part_list *list, const struct part *part)
{
    if (!part || !normal_ok(n))
        return;
    if (list->n >= LIMIT_GRAMMAR_PARTS) {
        normal_refuse(n, SERVERD_TIMEOUT, NULL,
                      "anyOf, oneOf, not...: more than %u alternatives of one value",
                      LIMIT_GRAMMAR_PARTS);
        return;
    }
    if (list->n == list->cap) {
        uint32_t cap = list->cap ? list->cap * 2 : 4;
        const struct part **item = normal_array(n, cap, sizeof *item);
        if (!item)
            return;
        if (list->n)
            memcpy(item, list->item, list->n * sizeof *item);
        list->item = item;
        list->cap = cap;
    }
    list->item[list->n++] = part;
}

void part_list_append(struct normal *n, struct part_list *list, struct part_list other)
{
    for (uint32_t i = 0; i < other.n; i++)
        part_list_add(n, list, other.item[i]);
}

struct part_list part_list_and(struct normal *n, enum part_type type, struct part_list a,
                               struct part_list b)
{
    struct part_list out = {0};
    for (uint32_t i = 0; i < a.n && normal_ok(n); i++)
        for (uint32_t j = 0; j < b.n && normal_ok(n); j++)
            part_list_add(n, &out, part_and(n, type, a.item[i], b.item[j]));
    return out;
}
