/* Choices whose alternatives begin alike become a tree: abc|abd -> ab(?:c|d). The subsets of a
 * search for one of thousands of words stay small by it. */
#include "grammar/regex_internal.h"

#include <stdlib.h>
#include <string.h>

#define FACTOR_FROM  8u   /* alternatives: fewer are not worth it */
#define FACTOR_DEPTH 200u /* of the tree: below, alternatives stay as they are */

/* One alternative: the items of it that are not factored out yet. */
struct alternative {
    struct regex_node *item; /* NULL: nothing is left */
    uint32_t number;
};

static struct regex_node *new_node(struct grammar_budget *budget, enum regex_kind kind)
{
    struct regex_node *node = arena_alloc(budget->arena, sizeof *node);
    if (node)
        node->kind = (uint8_t)kind;
    return node;
}

static void append(struct regex_node *parent, struct regex_node *child)
{
    child->next = NULL;
    if (parent->last)
        parent->last->next = child;
    else
        parent->first = child;
    parent->last = child;
}

static int compare_sets(const struct charset *a, const struct charset *b)
{
    if (a->n_ranges != b->n_ranges)
        return a->n_ranges < b->n_ranges ? -1 : 1;
    return a->n_ranges == 0 ? 0 : memcmp(a->ranges, b->ranges, a->n_ranges * sizeof *a->ranges);
}

/* Sets first and by content, so that equal ones are neighbours; the rest in order. */
static int compare_alternatives(const void *a, const void *b)
{
    const struct alternative *x = a, *y = b;
    bool x_is_set = x->item && x->item->kind == REGEX_SET;
    bool y_is_set = y->item && y->item->kind == REGEX_SET;
    if (x_is_set != y_is_set)
        return x_is_set ? -1 : 1;
    int order = x_is_set ? compare_sets(&x->item->set, &y->item->set) : 0;
    return order != 0 ? order : (x->number > y->number) - (x->number < y->number);
}

/* The rest of an alternative as one node. */
static struct regex_node *rest_of(struct grammar_budget *budget, struct regex_node *item)
{
    struct regex_node *sequence = new_node(budget, item ? REGEX_SEQUENCE : REGEX_EMPTY);
    while (sequence && item) {
        struct regex_node *next = item->next;
        append(sequence, item);
        item = next;
    }
    return sequence;
}

static serverd_status build(struct grammar_budget *budget, struct alternative *alternatives,
                            size_t n, uint32_t depth, struct regex_node **out, serverd_error *err);

/* Alternatives that all begin with the same set: that set, the longest run of such, then the
 * choice of the rests. */
static serverd_status build_group(struct grammar_budget *budget, struct alternative *alternatives,
                                  size_t n, uint32_t depth, struct regex_node **out,
                                  serverd_error *err)
{
    struct regex_node *sequence = new_node(budget, REGEX_SEQUENCE), *rest = NULL;
    if (!sequence)
        return grammar_budget_memory(err);
    for (bool is_common = true; is_common;) {
        struct regex_node *item = alternatives[0].item;
        for (size_t i = 0; i < n; i++)
            alternatives[i].item = alternatives[i].item->next;
        append(sequence, item);
        for (size_t i = 0; i < n; i++)
            is_common = is_common && alternatives[i].item &&
                        alternatives[i].item->kind == REGEX_SET &&
                        compare_sets(&alternatives[i].item->set, &alternatives[0].item->set) == 0;
        serverd_status status = grammar_budget_spend(budget, n, err);
        if (status)
            return status;
    }
    serverd_status status = build(budget, alternatives, n, depth + 1, &rest, err);
    if (!status)
        append(sequence, rest);
    *out = sequence;
    return status;
}

static serverd_status build(struct grammar_budget *budget, struct alternative *alternatives,
                            size_t n, uint32_t depth, struct regex_node **out, serverd_error *err)
{
    struct regex_node *choice = new_node(budget, REGEX_CHOICE), *child = NULL;
    if (!choice)
        return grammar_budget_memory(err);
    qsort(alternatives, n, sizeof *alternatives, compare_alternatives);
    for (size_t i = 0; i < n;) {
        size_t end = i + 1;
        bool is_set = alternatives[i].item && alternatives[i].item->kind == REGEX_SET;
        while (is_set && end < n && alternatives[end].item &&
               alternatives[end].item->kind == REGEX_SET &&
               compare_sets(&alternatives[i].item->set, &alternatives[end].item->set) == 0)
            end++;
        serverd_status status = SERVERD_OK;
        if (end - i > 1 && depth < FACTOR_DEPTH) {
            status = build_group(budget, alternatives + i, end - i, depth, &child, err);
            i = end;
        } else {
            child = rest_of(budget, alternatives[i++].item);
            status = child ? grammar_budget_spend(budget, 1, err) : grammar_budget_memory(err);
        }
        if (status)
            return status;
        append(choice, child);
    }
    *out = choice;
    return SERVERD_OK;
}

serverd_status regex_factor(struct grammar_budget *budget, struct regex_node *choice,
                            serverd_error *err)
{
    size_t n = 0;
    for (const struct regex_node *child = choice->first; child; child = child->next)
        n++;
    if (n < FACTOR_FROM)
        return SERVERD_OK;
    struct alternative *alternatives = arena_array(budget->arena, n, sizeof *alternatives);
    if (!alternatives)
        return grammar_budget_memory(err);
    n = 0;
    for (struct regex_node *child = choice->first; child;) {
        struct regex_node *next = child->next;
        child->next = NULL;
        alternatives[n].number = (uint32_t)n;
        if (child->kind == REGEX_SEQUENCE)
            alternatives[n].item = child->first;
        else if (child->kind != REGEX_EMPTY)
            alternatives[n].item = child;
        n++;
        child = next;
    }
    struct regex_node *tree;
    serverd_status status = build(budget, alternatives, n, 0, &tree, err);
    if (!status) {
        choice->first = tree->first;
        choice->last = tree->last;
    }
    return status;
}
