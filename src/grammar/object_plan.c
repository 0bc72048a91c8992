/* Objects on their way into the machine: names that no keyword mentions fall into classes by the
 * patterns that they match. */
#include "grammar/machine_build.h"

#include "grammar/object_state.h"

#include <stdlib.h>
#include <string.h>

struct name_class {
    struct string_set names;
    const bool *matches; /* by pattern */
};

struct object_plan {
    const struct part *part;
    const struct string_set **patterns; /* all that rules and needs speak of */
    uint32_t n_patterns;
    struct name_class *classes;
    uint32_t n_classes;
    struct object_key *keys;
    uint32_t n_keys;
    uint32_t *key_goals, *class_goals; /* [][1 << n_needs] */
    /* For object_can_finish, by what is productive. */
    struct machine_object object;
    struct machine_key *machine_keys;
    uint32_t *key_values, *class_values, *by_order, *required_before;
};

/* ---- classes of names ------------------------------------------------------------------------ */

static bool failed(struct normal *n, serverd_status status)
{
    if (status != SERVERD_OK)
        normal_failed(n, status, NULL);
    return !normal_ok(n);
}

static void collect_patterns(struct normal *n, struct object_plan *plan)
{
    const struct part *part = plan->part;
    uint32_t most = 0;
    for (uint32_t i = 0; i < part->n_rules + part->n_needs; i++)
        most +=
            (i < part->n_rules ? part->rules[i] : part->needs[i - part->n_rules])->span.n_patterns;
    plan->patterns = normal_array(n, most, sizeof *plan->patterns);
    for (uint32_t i = 0; i < part->n_rules + part->n_needs && plan->patterns; i++) {
        const struct name_span *span =
            &(i < part->n_rules ? part->rules[i] : part->needs[i - part->n_rules])->span;
        for (uint32_t j = 0; j < span->n_patterns; j++) {
            bool is_there = false;
            for (uint32_t k = 0; k < plan->n_patterns && !is_there; k++)
                is_there = plan->patterns[k] == span->patterns[j];
            if (!is_there)
                plan->patterns[plan->n_patterns++] = span->patterns[j];
        }
    }
}

/* Whether a rule speaks of the names of a class, which no set has. */
static bool span_has_class(const struct object_plan *plan, const struct name_span *span,
                           const struct name_class *class)
{
    bool is_in = false;
    for (uint32_t i = 0; i < span->n_patterns && !is_in; i++)
        for (uint32_t k = 0; k < plan->n_patterns && !is_in; k++)
            is_in = plan->patterns[k] == span->patterns[i] && class->matches[k];
    return is_in != span->is_complement;
}

static uint32_t class_goal(struct normal *n, const struct object_plan *plan,
                           const struct name_class *class)
{
    uint32_t goal = GOAL_TRUE;
    for (uint32_t i = 0; i < plan->part->n_rules && goal != GOAL_FALSE; i++)
        if (span_has_class(plan, &plan->part->rules[i]->span, class))
            goal = goal_and(n, goal, plan->part->rules[i]->goal);
    return goal;
}

static void add_class(struct normal *n, struct object_plan *plan, struct name_class *out,
                      uint32_t *count, struct string_set names, const bool *matches,
                      uint32_t pattern, bool is_match)
{
    if (string_set_is_empty(&names) || !normal_ok(n))
        return;
    if (*count >= LIMIT_GRAMMAR_CLASSES) {
        normal_refuse(n, SERVERD_TIMEOUT, NULL, "patternProperties: more than %u combinations",
                      LIMIT_GRAMMAR_CLASSES);
        return;
    }
    bool *copy = normal_array(n, plan->n_patterns, sizeof *copy);
    if (!copy)
        return;
    if (matches)
        memcpy(copy, matches, plan->n_patterns * sizeof *copy);
    if (plan->n_patterns)
        copy[pattern] = is_match;
    out[(*count)++] = (struct name_class){names, copy};
}

static void make_classes(struct normal *n, struct object_plan *plan)
{
    struct name_class *now = normal_array(n, LIMIT_GRAMMAR_CLASSES, sizeof *now);
    struct name_class *next = normal_array(n, LIMIT_GRAMMAR_CLASSES, sizeof *next);
    uint32_t count = 0;
    if (!now || !next)
        return;
    add_class(n, plan, now, &count, n->any_string, NULL, 0, false);
    for (uint32_t p = 0; p < plan->n_patterns && normal_ok(n); p++) {
        uint32_t n_next = 0;
        for (uint32_t c = 0; c < count && normal_ok(n); c++) {
            struct string_set inside, outside[3];
            size_t n_outside = 0;
            if (failed(n, string_set_intersect(n->budget, &now[c].names, plan->patterns[p], &inside,
                                               n->err)) ||
                failed(n, string_set_subtract(n->budget, &now[c].names, plan->patterns[p], outside,
                                              &n_outside, n->err)))
                return;
            add_class(n, plan, next, &n_next, inside, now[c].matches, p, true);
            for (size_t i = 0; i < n_outside; i++)
                add_class(n, plan, next, &n_next, outside[i], now[c].matches, p, false);
        }
        struct name_class *swap = now;
        now = next;
        next = swap;
        count = n_next;
    }
    plan->classes = now;
    plan->n_classes = count;
}

/* ---- keys ------------------------------------------------------------------------------------ */

static const struct object_key *find_key(const struct object_plan *plan, struct text_piece name)
{
    uint32_t begin = 0, end = plan->part->n_keys;
    while (begin < end) {
        uint32_t middle = begin + (end - begin) / 2;
        int order = text_piece_compare(plan->part->keys[middle].name, name);
        if (order == 0)
            return &plan->part->keys[middle];
        if (order < 0)
            begin = middle + 1;
        else
            end = middle;
    }
    return NULL;
}

/* A class of few names becomes keys, so that it is known when they are used up. */
static bool spell_out(struct normal *n, struct object_plan *plan, const struct name_class *class,
                      struct object_key **out, uint32_t *n_out)
{
    uint64_t count;
    const struct automaton *automaton;
    struct text_piece *names;
    size_t n_names;
    *n_out = 0;
    if (failed(n, string_set_count(n->budget, &class->names, LIMIT_GRAMMAR_NAMES + 1, &count,
                                   n->err)) ||
        count > LIMIT_GRAMMAR_NAMES)
        return false;
    if (failed(n, string_set_fold(n->budget, &class->names, &automaton, n->err)) ||
        failed(n, automaton_enumerate(n->budget, automaton, LIMIT_GRAMMAR_NAMES, &names, &n_names,
                                      n->err)))
        return false;
    *out = normal_array(n, n_names, sizeof **out);
    uint32_t goal = class_goal(n, plan, class);
    for (size_t i = 0; i < n_names && *out; i++)
        if (!find_key(plan, names[i]))
            (*out)[(*n_out)++] = (struct object_key){
                .name = names[i], .goal = goal, .rank = RANK_OTHER, .serial = UINT32_MAX};
    return true;
}

static void gather_keys(struct normal *n, struct object_plan *plan)
{
    uint32_t n_classes = 0, most = plan->part->n_keys + LIMIT_GRAMMAR_CLASSES;
    plan->keys = normal_array(n, (size_t)most + LIMIT_GRAMMAR_NAMES, sizeof *plan->keys);
    if (!plan->keys)
        return;
    for (; plan->n_keys < plan->part->n_keys; plan->n_keys++)
        plan->keys[plan->n_keys] = plan->part->keys[plan->n_keys];
    for (uint32_t i = 0; i < plan->n_classes && normal_ok(n); i++) {
        struct object_key *names;
        uint32_t count;
        if (class_goal(n, plan, &plan->classes[i]) == GOAL_FALSE)
            continue;
        if (plan->n_keys + LIMIT_GRAMMAR_NAMES <= most + LIMIT_GRAMMAR_NAMES &&
            spell_out(n, plan, &plan->classes[i], &names, &count) &&
            plan->n_keys + count <= most + LIMIT_GRAMMAR_NAMES) {
            for (uint32_t j = 0; j < count; j++)
                plan->keys[plan->n_keys++] = names[j];
        } else {
            plan->classes[n_classes++] = plan->classes[i];
        }
    }
    plan->n_classes = n_classes;
}

static int compare_order(const void *a, const void *b)
{
    const struct object_key *x = a, *y = b;
    if (x->rank != y->rank)
        return x->rank - y->rank;
    if (x->serial != y->serial)
        return x->serial < y->serial ? -1 : 1;
    return text_piece_compare(x->name, y->name);
}

/* ---- goals ----------------------------------------------------------------------------------- */

/* `goal` and the needs of `mask`; GOAL_FALSE if one of them does not speak of such names. */
static uint32_t with_needs(struct normal *n, const struct part *part, uint32_t goal, uint32_t mask,
                           uint32_t speaks)
{
    if (mask & ~speaks)
        return GOAL_FALSE;
    for (uint32_t i = 0; i < part->n_needs; i++)
        if (mask >> i & 1)
            goal = goal_and(n, goal, part->needs[i]->goal);
    return goal;
}

static void make_goals(struct normal *n, struct object_plan *plan)
{
    const struct part *part = plan->part;
    uint32_t n_masks = 1u << part->n_needs;
    plan->key_goals = normal_array(n, (size_t)plan->n_keys * n_masks, sizeof(uint32_t));
    plan->class_goals = normal_array(n, (size_t)plan->n_classes * n_masks, sizeof(uint32_t));
    if (!plan->key_goals || !plan->class_goals)
        return;
    for (uint32_t i = 0; i < plan->n_keys && normal_ok(n); i++) {
        uint32_t speaks = 0;
        for (uint32_t j = 0; j < part->n_needs; j++)
            if (name_span_has(&part->needs[j]->span, plan->keys[i].name))
                speaks |= 1u << j;
        for (uint32_t mask = 0; mask < n_masks; mask++)
            plan->key_goals[i * n_masks + mask] =
                with_needs(n, part, plan->keys[i].goal, mask, speaks);
    }
    for (uint32_t i = 0; i < plan->n_classes && normal_ok(n); i++) {
        uint32_t speaks = 0, goal = class_goal(n, plan, &plan->classes[i]);
        for (uint32_t j = 0; j < part->n_needs; j++)
            if (span_has_class(plan, &part->needs[j]->span, &plan->classes[i]))
                speaks |= 1u << j;
        for (uint32_t mask = 0; mask < n_masks; mask++)
            plan->class_goals[i * n_masks + mask] = with_needs(n, part, goal, mask, speaks);
    }
}

struct object_plan *object_plan_make(struct normal *n, const struct part *part)
{
    struct object_plan *plan = normal_array(n, 1, sizeof *plan);
    if (!plan)
        return NULL;
    plan->part = part;
    if (part->n_needs > MACHINE_NEEDS) {
        normal_refuse(n, SERVERD_TIMEOUT, NULL, "more than %u properties that must exist somewhere",
                      MACHINE_NEEDS);
        return NULL;
    }
    collect_patterns(n, plan);
    if (normal_ok(n))
        make_classes(n, plan);
    if (normal_ok(n))
        gather_keys(n, plan);
    if (!normal_ok(n))
        return NULL;
    if (plan->n_keys)
        qsort(plan->keys, plan->n_keys, sizeof *plan->keys, compare_order);
    make_goals(n, plan);
    uint32_t n_masks = 1u << part->n_needs;
    plan->machine_keys = normal_array(n, plan->n_keys, sizeof *plan->machine_keys);
    plan->key_values = normal_array(n, (size_t)plan->n_keys * n_masks, sizeof(uint32_t));
    plan->class_values = normal_array(n, (size_t)plan->n_classes * n_masks, sizeof(uint32_t));
    plan->by_order = normal_array(n, plan->n_keys, sizeof(uint32_t));
    plan->required_before = normal_array(n, (size_t)plan->n_keys + 1, sizeof(uint32_t));
    return normal_ok(n) ? plan : NULL;
}

uint32_t object_plan_n_goals(const struct object_plan *plan)
{
    return (plan->n_keys + plan->n_classes) << plan->part->n_needs;
}

uint32_t object_plan_goal(const struct object_plan *plan, uint32_t index)
{
    uint32_t n_key_goals = plan->n_keys << plan->part->n_needs;
    return index < n_key_goals ? plan->key_goals[index] : plan->class_goals[index - n_key_goals];
}

/* ---- what is possible ------------------------------------------------------------------------ */

static void fill(struct normal *n, const uint32_t *goals, uint32_t count, uint32_t *values)
{
    for (uint32_t i = 0; i < count; i++)
        values[i] = n->goals[goals[i]]->is_productive ? goals[i] : MACHINE_NOTHING;
}

bool object_plan_is_possible(struct normal *n, struct object_plan *plan)
{
    const struct part *part = plan->part;
    uint32_t n_masks = 1u << part->n_needs, n_classes = 0;
    struct machine_object *object = &plan->object;
    *object = (struct machine_object){.min = part->min, .max = part->max, .n_needs = part->n_needs};
    fill(n, plan->key_goals, plan->n_keys * n_masks, plan->key_values);
    for (uint32_t i = 0; i < plan->n_keys; i++) {
        bool is_possible = plan->key_values[i * n_masks] != MACHINE_NOTHING;
        plan->machine_keys[i] = (struct machine_key){.bytes = plan->keys[i].name.bytes,
                                                     .n = (uint32_t)plan->keys[i].name.n,
                                                     .order = object->n_possible,
                                                     .is_required = plan->keys[i].is_required,
                                                     .is_possible = is_possible};
        if (plan->keys[i].is_required && !is_possible)
            return false;
        if (!is_possible)
            continue;
        plan->required_before[object->n_possible] = object->n_required;
        object->n_required += plan->keys[i].is_required;
        plan->by_order[object->n_possible++] = i;
    }
    plan->required_before[object->n_possible] = object->n_required;
    fill(n, plan->class_goals, plan->n_classes * n_masks, plan->class_values);
    for (uint32_t i = 0; i < plan->n_classes; i++) /* dead classes count for nothing */
        n_classes += plan->class_values[i * n_masks] != MACHINE_NOTHING;
    object->n_keys = plan->n_keys;
    object->n_classes = n_classes ? plan->n_classes : 0;
    object->keys = plan->machine_keys;
    object->by_order = plan->by_order;
    object->required_before = plan->required_before;
    object->key_values = plan->key_values;
    object->class_values = plan->class_values;
    const struct object_state start = {0};
    return object_can_finish(object, &start, NULL, NULL);
}

/* ---- into the machine ------------------------------------------------------------------------ */

/* A name as it stands between the quotes. */
static serverd_status spell_key(struct machine_builder *builder, struct text_piece name,
                                struct machine_key *key, serverd_error *err)
{
    struct buffer text;
    buffer_init(&text, 6 * (size_t)name.n + 1);
    for (size_t i = 0; i < name.n; i++) {
        static const char plain[] = "\"\\\b\f\n\r\t", spelled[] = "\"\\bfnrt";
        char c = name.bytes[i];
        const char *found = c ? strchr(plain, c) : NULL;
        if (!builder->produces || (!found && (unsigned char)c >= 0x20))
            buffer_append_char(&text, c);
        else if (found)
            buffer_printf(&text, "\\%c", spelled[found - plain]);
        else
            buffer_printf(&text, "\\u%04x", (unsigned)(unsigned char)c);
    }
    key->bytes = arena_copy(builder->keep, buffer_str(&text), text.len);
    key->n = (uint32_t)text.len;
    bool is_failed = text.is_failed || !key->bytes;
    buffer_deinit(&text);
    return is_failed ? grammar_budget_memory(err) : SERVERD_OK;
}

/* Keys are sorted by bytes: keys[] with their rows of values. */
struct sorted_key {
    struct machine_key key;
    uint32_t source;
};

static int compare_bytes(const void *a, const void *b)
{
    const struct sorted_key *x = a, *y = b;
    return text_piece_compare((struct text_piece){x->key.bytes, x->key.n},
                              (struct text_piece){y->key.bytes, y->key.n});
}

static uint32_t value_of(uint32_t goal, const uint32_t *values)
{
    return goal == MACHINE_NOTHING ? MACHINE_NOTHING : values[goal];
}

static serverd_status emit_keys(struct machine_builder *builder, const struct object_plan *plan,
                                const uint32_t *values, struct machine_object *out,
                                serverd_error *err)
{
    uint32_t count = plan->n_keys, n_masks = 1u << plan->part->n_needs;
    struct sorted_key *sorted = arena_array(builder->budget->arena, count, sizeof *sorted);
    struct machine_key *keys = arena_array(builder->keep, count, sizeof *keys);
    uint32_t *table = arena_array(builder->keep, (size_t)count * n_masks, sizeof *table);
    uint32_t *by_order = arena_array(builder->keep, count, sizeof *by_order);
    uint32_t *before = arena_array(builder->keep, (size_t)count + 1, sizeof *before);
    if (!sorted || !keys || !table || !by_order || !before)
        return grammar_budget_memory(err);
    for (uint32_t i = 0; i < count; i++) {
        sorted[i] = (struct sorted_key){plan->machine_keys[i], i};
        serverd_status status = spell_key(builder, plan->keys[i].name, &sorted[i].key, err);
        if (status != SERVERD_OK)
            return status;
    }
    if (count)
        qsort(sorted, count, sizeof *sorted, compare_bytes);
    for (uint32_t i = 0; i < count; i++) {
        keys[i] = sorted[i].key;
        if (keys[i].is_possible)
            by_order[keys[i].order] = i;
        for (uint32_t mask = 0; mask < n_masks; mask++)
            table[i * n_masks + mask] =
                value_of(plan->key_values[sorted[i].source * n_masks + mask], values);
    }
    memcpy(before, plan->required_before, ((size_t)count + 1) * sizeof *before);
    out->keys = keys;
    out->key_values = table;
    out->by_order = by_order;
    out->required_before = before;
    return SERVERD_OK;
}

static serverd_status emit_classes(struct machine_builder *builder, const struct object_plan *plan,
                                   const uint32_t *values, struct machine_object *out,
                                   serverd_error *err)
{
    uint32_t n_masks = 1u << plan->part->n_needs, count = 0;
    struct machine_class *classes = arena_array(builder->keep, plan->n_classes, sizeof *classes);
    uint32_t *table = arena_array(builder->keep, (size_t)plan->n_classes * n_masks, sizeof *table);
    if (!classes || !table)
        return grammar_budget_memory(err);
    for (uint32_t i = 0; i < plan->n_classes; i++) {
        const uint32_t *row = plan->class_values + (size_t)i * n_masks;
        if (row[0] == MACHINE_NOTHING)
            continue;
        serverd_status status = machine_builder_text(builder, &plan->classes[i].names, false,
                                                     &classes[count].text, err);
        if (status != SERVERD_OK)
            return status;
        for (uint32_t mask = 0; mask < n_masks; mask++)
            table[count * n_masks + mask] = value_of(row[mask], values);
        count++;
    }
    out->classes = classes;
    out->class_values = table;
    out->n_classes = count;
    return SERVERD_OK;
}

serverd_status object_plan_emit(struct machine_builder *builder, struct object_plan *plan,
                                const uint32_t *values, serverd_error *err)
{
    struct machine_object object = plan->object;
    serverd_status status = emit_keys(builder, plan, values, &object, err);
    if (status == SERVERD_OK)
        status = emit_classes(builder, plan, values, &object, err);
    if (status != SERVERD_OK)
        return status;
    struct machine_object *out = machine_table_add(builder, &builder->objects, sizeof *out);
    if (!out)
        return grammar_budget_memory(err);
    *out = object;
    return SERVERD_OK;
}
