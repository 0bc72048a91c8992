/* Keywords of arrays and of objects alone, and their negations. */
#include "grammar/normal_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- names ----------------------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b)
{
    return text_piece_compare(*(const struct text_piece *)a, *(const struct text_piece *)b);
}

/* The member names of an object. */
static const struct name_set *member_names(struct normal *n, const struct json_value *object)
{
    struct name_set *set = normal_array(n, 1, sizeof *set);
    struct text_piece *names = normal_array(n, object->n, sizeof *names);
    if (!set || !names)
        return NULL;
    uint32_t count = 0;
    for (const struct json_value *v = object->first; v; v = v->next)
        names[count++] = (struct text_piece){v->name, v->name_n};
    if (count)
        qsort(names, count, sizeof *names, compare_names);
    *set = (struct name_set){names, count};
    return set;
}

static struct name_span span_of_set(struct normal *n, const struct name_set *set)
{
    struct name_span span = {.sets = normal_array(n, 1, sizeof *span.sets)};
    if (span.sets && set) {
        span.sets[0] = set;
        span.n_sets = 1;
    }
    return span;
}

static struct name_span span_of_strings(struct normal *n, const struct string_set *sets,
                                        uint32_t count)
{
    struct name_span span = {.patterns = normal_array(n, count, sizeof *span.patterns)};
    for (uint32_t i = 0; i < count && span.patterns; i++)
        span.patterns[span.n_patterns++] = &sets[i];
    return span;
}

/* ---- building objects ------------------------------------------------------------------------ */

static int compare_keys(const void *a, const void *b)
{
    const struct object_key *x = a, *y = b;
    int order = text_piece_compare(x->name, y->name);
    if (order)
        return order;
    return x->rank != y->rank ? x->rank - y->rank
                              : (x->serial > y->serial) - (x->serial < y->serial);
}

/* Sorts a part's keys, joins those of one name, and applies the part's rules to them. */
static void finish_keys(struct normal *n, struct part *part, struct object_key *keys,
                        uint32_t count)
{
    uint32_t out = 0, n_required = 0;
    if (count)
        qsort(keys, count, sizeof *keys, compare_keys);
    for (uint32_t i = 0; i < count && normal_ok(n); i++) {
        if (out > 0 && text_piece_compare(keys[out - 1].name, keys[i].name) == 0) {
            keys[out - 1].goal = goal_and(n, keys[out - 1].goal, keys[i].goal);
            keys[out - 1].is_required = keys[out - 1].is_required || keys[i].is_required;
        } else {
            keys[out++] = keys[i];
        }
    }
    for (uint32_t i = 0; i < out && normal_ok(n); i++) {
        for (uint32_t r = 0; r < part->n_rules; r++)
            if (name_span_has(&part->rules[r]->span, keys[i].name))
                keys[i].goal = goal_and(n, keys[i].goal, part->rules[r]->goal);
        n_required += keys[i].is_required;
    }
    part->keys = keys;
    part->n_keys = out;
    part->min = part->min > n_required ? part->min : n_required;
}

static void add_rule(struct normal *n, struct part *part, struct name_span span, uint32_t goal)
{
    struct property_rule *rule = normal_array(n, 1, sizeof *rule);
    const struct property_rule **rules = normal_array(n, (size_t)part->n_rules + 1, sizeof *rules);
    if (!rule || !rules || goal == GOAL_TRUE)
        return;
    *rule = (struct property_rule){span, goal};
    if (part->n_rules)
        memcpy(rules, part->rules, part->n_rules * sizeof *rules);
    rules[part->n_rules++] = rule;
    part->rules = rules;
}

/* A part of one key. */
static struct part *part_of_key(struct normal *n, struct text_piece name, uint32_t goal,
                                bool is_required, uint32_t serial)
{
    struct part *part = part_new(n);
    struct object_key *key = normal_array(n, 1, sizeof *key);
    if (!part || !key)
        return NULL;
    *key = (struct object_key){.name = name,
                               .goal = goal,
                               .serial = serial,
                               .rank = is_required ? RANK_REQUIRED : RANK_OTHER,
                               .is_required = is_required};
    finish_keys(n, part, key, 1);
    return is_required && goal_is_known_empty(n, goal) ? NULL : part;
}

/* A part that needs a property of the span; the names of its sets become keys. */
static struct part *part_of_need(struct normal *n, struct name_span span, uint32_t goal)
{
    struct part *part = part_new(n);
    struct property_rule *rule = normal_array(n, 1, sizeof *rule);
    const struct property_rule **needs = normal_array(n, 1, sizeof *needs);
    uint32_t count = 0;
    for (uint32_t i = 0; i < span.n_sets; i++)
        count += span.sets[i]->n;
    struct object_key *keys = normal_array(n, count, sizeof *keys);
    if (!part || !rule || !needs || !keys || goal_is_known_empty(n, goal))
        return NULL;
    *rule = (struct property_rule){span, goal};
    needs[0] = rule;
    part->needs = needs;
    part->n_needs = 1;
    part->min = 1;
    count = 0;
    for (uint32_t i = 0; i < span.n_sets; i++)
        for (uint32_t j = 0; j < span.sets[i]->n; j++)
            keys[count++] = (struct object_key){.name = span.sets[i]->names[j], .rank = RANK_OTHER};
    finish_keys(n, part, keys, count);
    return part;
}

static struct part *part_of_range(struct normal *n, uint32_t min, uint32_t max)
{
    struct part *part = part_new(n);
    if (part) {
        part->min = min;
        part->max = max;
    }
    return part;
}

/* ---- objects --------------------------------------------------------------------------------- */

/* The keywords of one schema. */
struct object_schema {
    const struct json_value *properties, *patterns, *additional, *required, *names;
    uint32_t min, max;
};

static const struct json_value *object_word(struct normal *n, const struct json_value *schema,
                                            const char *word)
{
    const struct json_value *v = schema_word(n, schema, word);
    if (v && v->kind != JSON_OBJECT) {
        normal_refuse(n, SERVERD_INVALID, v, "%s: no object", word);
        return NULL;
    }
    return v;
}

static struct object_schema read_object(struct normal *n, const struct json_value *schema)
{
    struct object_schema out = {
        .properties = object_word(n, schema, "properties"),
        .patterns = object_word(n, schema, "patternProperties"),
        .additional = schema_word(n, schema, "additionalProperties"),
        .required = schema_word(n, schema, "required"),
        .names = schema_word(n, schema, "propertyNames"),
        .min = schema_count(n, schema, "minProperties", 0),
        .max = schema_count(n, schema, "maxProperties", UNBOUNDED),
    };
    const struct json_value *required = out.required;
    enum schema_draft draft = schema_draft_of(n->document, schema);
    if (required && required->kind != JSON_ARRAY) {
        /* a boolean is how draft-03 said it of one property; it says nothing since */
        bool is_old = (required->kind == JSON_TRUE || required->kind == JSON_FALSE) &&
                      (draft == DRAFT_UNSAID || draft == DRAFT_4);
        if (!is_old)
            normal_refuse(n, SERVERD_INVALID, required, "required: no list of names");
        out.required = NULL;
    }
    for (const struct json_value *v = out.required ? out.required->first : NULL; v; v = v->next)
        if (v->kind != JSON_STRING)
            normal_refuse(n, SERVERD_INVALID, v, "required: no name");
    return out;
}

/* Names that `properties` and `patternProperties` speak of. */
static struct name_span spoken_of(struct normal *n, const struct object_schema *schema)
{
    struct name_span span = {0};
    if (schema->properties)
        span = span_of_set(n, member_names(n, schema->properties));
    if (schema->patterns)
        span.patterns = normal_array(n, schema->patterns->n, sizeof *span.patterns);
    for (const struct json_value *v = schema->patterns ? schema->patterns->first : NULL;
         v && normal_ok(n); v = v->next) {
        const struct string_set *pattern = schema_pattern(n, v, v->name, v->name_n);
        if (pattern && span.patterns)
            span.patterns[span.n_patterns++] = pattern;
    }
    return span;
}

static void add_object_rules(struct normal *n, const struct object_schema *schema,
                             const struct name_span *spoken, struct part *part)
{
    uint32_t i = 0;
    for (const struct json_value *v = schema->patterns ? schema->patterns->first : NULL;
         v && normal_ok(n); v = v->next, i++) {
        struct name_span span = {.patterns = &spoken->patterns[i], .n_patterns = 1};
        add_rule(n, part, span, goal_add(n, GOAL_TRUE, literal_of_schema(n, v)));
    }
    if (schema->additional) {
        struct name_span others = *spoken;
        others.is_complement = true;
        add_rule(n, part, others, goal_add(n, GOAL_TRUE, literal_of_schema(n, schema->additional)));
    }
    if (schema->names) {
        uint32_t literal = literal_of_schema(n, schema->names);
        struct scalar_set names = scalars_of(n, literal, false);
        if (literal == LITERAL_TRUE || !normal_ok(n))
            return;
        struct name_span others = span_of_strings(n, names.strings, names.n_strings);
        others.is_complement = true;
        add_rule(n, part, others, GOAL_FALSE);
    }
}

const struct part *object_words(struct normal *n, const struct json_value *json)
{
    struct object_schema schema = read_object(n, json);
    struct part *part = part_of_range(n, schema.min, schema.max);
    uint32_t count =
        (schema.properties ? schema.properties->n : 0) + (schema.required ? schema.required->n : 0);
    struct object_key *keys = normal_array(n, count, sizeof *keys);
    if (!part || !keys || !normal_ok(n))
        return NULL;
    struct name_span spoken = spoken_of(n, &schema);
    if (!normal_ok(n))
        return NULL;
    add_object_rules(n, &schema, &spoken, part);
    count = 0;
    for (const struct json_value *v = schema.properties ? schema.properties->first : NULL; v;
         v = v->next)
        keys[count++] = (struct object_key){.name = {v->name, v->name_n},
                                            .goal = goal_add(n, GOAL_TRUE, literal_of_schema(n, v)),
                                            .serial = v->serial,
                                            .rank = RANK_PROPERTIES};
    for (const struct json_value *v = schema.required ? schema.required->first : NULL; v;
         v = v->next)
        keys[count++] = (struct object_key){.name = {v->text, v->n},
                                            .serial = v->serial,
                                            .rank = RANK_REQUIRED,
                                            .is_required = true};
    finish_keys(n, part, keys, count);
    part->evaluated = spoken;
    if (schema.additional)
        part->evaluated = (struct name_span){.is_complement = true};
    for (uint32_t i = 0; i < part->n_keys && normal_ok(n); i++)
        if (part->keys[i].is_required && goal_is_known_empty(n, part->keys[i].goal))
            return NULL;
    return part->min <= part->max ? part : NULL;
}

struct part_list object_words_negated(struct normal *n, const struct json_value *json)
{
    struct part_list out = {0};
    struct object_schema schema = read_object(n, json);
    if (!normal_ok(n))
        return out;
    struct name_span spoken = spoken_of(n, &schema);
    for (const struct json_value *v = schema.required ? schema.required->first : NULL; v;
         v = v->next)
        part_list_add(
            n, &out,
            part_of_key(n, (struct text_piece){v->text, v->n}, GOAL_FALSE, false, v->serial));
    for (const struct json_value *v = schema.properties ? schema.properties->first : NULL;
         v && normal_ok(n); v = v->next)
        part_list_add(n, &out,
                      part_of_key(n, (struct text_piece){v->name, v->name_n},
                                  goal_add(n, GOAL_TRUE, literal_of_schema(n, v) ^ 1), true,
                                  v->serial));
    uint32_t i = 0;
    for (const struct json_value *v = schema.patterns ? schema.patterns->first : NULL;
         v && normal_ok(n); v = v->next, i++) {
        struct name_span span = {.patterns = &spoken.patterns[i], .n_patterns = 1};
        part_list_add(n, &out,
                      part_of_need(n, span, goal_add(n, GOAL_TRUE, literal_of_schema(n, v) ^ 1)));
    }
    if (schema.additional && normal_ok(n)) {
        struct name_span others = spoken;
        others.is_complement = true;
        uint32_t literal = literal_of_schema(n, schema.additional) ^ 1;
        part_list_add(n, &out, part_of_need(n, others, goal_add(n, GOAL_TRUE, literal)));
    }
    if (schema.names && normal_ok(n)) {
        uint32_t literal = literal_of_schema(n, schema.names);
        struct scalar_set names = scalars_of(n, literal, true);
        struct name_span others = span_of_strings(n, names.strings, names.n_strings);
        others.is_complement = true;
        if (literal != LITERAL_TRUE && normal_ok(n))
            part_list_add(n, &out, part_of_need(n, others, GOAL_TRUE));
    }
    if (schema.min > 0)
        part_list_add(n, &out, part_of_range(n, 0, schema.min - 1));
    if (schema.max < UNBOUNDED - 1)
        part_list_add(n, &out, part_of_range(n, schema.max + 1, UNBOUNDED));
    return out;
}

/* ---- arrays ---------------------------------------------------------------------------------- */

struct array_schema {
    const struct json_value *prefix, *rest; /* prefix: a list */
    uint32_t min, max;
    uint32_t contains, min_contains, max_contains; /* LITERAL_TRUE with min 0: nothing */
    bool has_contains, is_unique;
};

static struct array_schema read_array(struct normal *n, const struct json_value *schema)
{
    struct array_schema out = {
        .rest = schema_word(n, schema, "items"),
        .prefix = schema_word(n, schema, "prefixItems"),
        .min = schema_count(n, schema, "minItems", 0),
        .max = schema_count(n, schema, "maxItems", UNBOUNDED),
        .max_contains = UNBOUNDED,
    };
    if (out.prefix && out.prefix->kind != JSON_ARRAY)
        normal_refuse(n, SERVERD_INVALID, out.prefix, "prefixItems: no list");
    if (out.rest && out.rest->kind == JSON_ARRAY) {
        if (schema_draft_of(n->document, schema) == DRAFT_2020 || out.prefix)
            normal_refuse(n, SERVERD_INVALID, out.rest, "items: a list");
        out.prefix = out.rest;
        out.rest = schema_word(n, schema, "additionalItems");
    }
    const struct json_value *contains = schema_word(n, schema, "contains");
    if (contains) {
        out.contains = literal_of_schema(n, contains);
        out.has_contains = true;
        out.min_contains = schema_count(n, schema, "minContains", 1);
        out.max_contains = schema_count(n, schema, "maxContains", UNBOUNDED);
    }
    const struct json_value *unique = schema_word(n, schema, "uniqueItems");
    if (unique && unique->kind != JSON_TRUE && unique->kind != JSON_FALSE)
        normal_refuse(n, SERVERD_INVALID, unique, "uniqueItems: no boolean");
    out.is_unique = unique && unique->kind == JSON_TRUE;
    return out;
}

static void add_contains(struct normal *n, struct part *part, uint32_t literal, uint32_t from,
                         uint32_t min, uint32_t max)
{
    struct items_need *contains = normal_array(n, 1, sizeof *contains);
    if (!part || !contains)
        return;
    *contains = (struct items_need){literal, from, min, max};
    part->contains = contains;
    part->n_contains = 1;
    if (min > 0 && from + min > part->min)
        part->min = from + min;
}

const struct part *array_words(struct normal *n, const struct json_value *json)
{
    struct array_schema schema = read_array(n, json);
    struct part *part = part_of_range(n, schema.min, schema.max);
    uint32_t *prefix = normal_array(n, schema.prefix ? schema.prefix->n : 0, sizeof *prefix);
    if (!part || !prefix || !normal_ok(n))
        return NULL;
    for (const struct json_value *v = schema.prefix ? schema.prefix->first : NULL;
         v && normal_ok(n); v = v->next)
        prefix[part->n_prefix++] = goal_add(n, GOAL_TRUE, literal_of_schema(n, v));
    part->prefix = prefix;
    part->n_evaluated = part->n_prefix;
    if (schema.rest) {
        part->rest = goal_add(n, GOAL_TRUE, literal_of_schema(n, schema.rest));
        part->n_evaluated = UNBOUNDED;
    }
    bool counts = schema.min_contains > 0 || schema.max_contains != UNBOUNDED;
    if (schema.has_contains && schema.min_contains > schema.max_contains)
        return NULL;
    if (schema.has_contains && counts)
        add_contains(n, part, schema.contains, 0, schema.min_contains, schema.max_contains);
    enum schema_draft draft = schema_draft_of(n->document, json);
    if (schema.has_contains && draft >= DRAFT_2020)
        part->evaluated_items = schema.contains;
    part->unique = schema.is_unique ? json : NULL;
    const struct part *out = part_and(n, PART_ARRAY, part, part_anything(n)); /* trims */
    return out;
}

struct part_list array_words_negated(struct normal *n, const struct json_value *json)
{
    struct part_list out = {0};
    struct array_schema schema = read_array(n, json);
    uint32_t index = 0;
    for (const struct json_value *v = schema.prefix ? schema.prefix->first : NULL;
         v && normal_ok(n); v = v->next, index++) {
        struct part *part = part_of_range(n, index + 1, UNBOUNDED);
        uint32_t *prefix = normal_array(n, (size_t)index + 1, sizeof *prefix);
        if (!part || !prefix)
            return out;
        prefix[index] = goal_add(n, GOAL_TRUE, literal_of_schema(n, v) ^ 1);
        part->prefix = prefix;
        part->n_prefix = index + 1;
        if (!goal_is_known_empty(n, prefix[index]))
            part_list_add(n, &out, part);
    }
    if (schema.rest && normal_ok(n)) {
        uint32_t literal = literal_of_schema(n, schema.rest) ^ 1;
        struct part *part = part_of_range(n, 0, UNBOUNDED);
        add_contains(n, part, literal, index, 1, UNBOUNDED);
        if (literal != LITERAL_FALSE)
            part_list_add(n, &out, part);
    }
    if (schema.min > 0)
        part_list_add(n, &out, part_of_range(n, 0, schema.min - 1));
    if (schema.max < UNBOUNDED - 1)
        part_list_add(n, &out, part_of_range(n, schema.max + 1, UNBOUNDED));
    if (schema.has_contains && schema.min_contains > 0) {
        struct part *part = part_of_range(n, 0, UNBOUNDED);
        add_contains(n, part, schema.contains, 0, 0, schema.min_contains - 1);
        part_list_add(n, &out, part);
    }
    if (schema.has_contains && schema.max_contains < UNBOUNDED - 1) {
        struct part *part = part_of_range(n, 0, UNBOUNDED);
        add_contains(n, part, schema.contains, 0, schema.max_contains + 1, UNBOUNDED);
        part_list_add(n, &out, part);
    }
    if (schema.is_unique)
        normal_refuse(n, SERVERD_UNSUPPORTED, json, "uniqueItems: inside of a negation");
    return out;
}

/* ---- constants ------------------------------------------------------------------------------- */

static struct part_list constant_array(struct normal *n, const struct json_value *value)
{
    struct part_list out = {0};
    struct part *part = part_of_range(n, value->n, value->n);
    uint32_t *prefix = normal_array(n, value->n, sizeof *prefix);
    if (!part || !prefix)
        return out;
    for (const struct json_value *v = value->first; v; v = v->next)
        prefix[part->n_prefix++] = goal_add(n, GOAL_TRUE, literal_of_constant(n, v));
    part->prefix = prefix;
    part_list_add(n, &out, part);
    return out;
}

static struct part_list other_arrays(struct normal *n, const struct json_value *value)
{
    struct part_list out = {0};
    uint32_t index = 0;
    if (value->n > 0)
        part_list_add(n, &out, part_of_range(n, 0, value->n - 1));
    part_list_add(n, &out, part_of_range(n, value->n + 1, UNBOUNDED));
    for (const struct json_value *v = value->first; v && normal_ok(n); v = v->next, index++) {
        struct part *part = part_of_range(n, value->n, value->n);
        uint32_t *prefix = normal_array(n, (size_t)index + 1, sizeof *prefix);
        if (!part || !prefix)
            break;
        prefix[index] = goal_add(n, GOAL_TRUE, literal_of_constant(n, v) ^ 1);
        part->prefix = prefix;
        part->n_prefix = index + 1;
        part_list_add(n, &out, part);
    }
    return out;
}

static struct part_list constant_object(struct normal *n, const struct json_value *value)
{
    struct part_list out = {0};
    struct part *part = part_of_range(n, value->n, value->n);
    struct object_key *keys = normal_array(n, value->n, sizeof *keys);
    if (!part || !keys)
        return out;
    struct name_span others = span_of_set(n, member_names(n, value));
    others.is_complement = true;
    uint32_t count = 0;
    add_rule(n, part, others, GOAL_FALSE);
    for (const struct json_value *v = value->first; v; v = v->next)
        keys[count++] =
            (struct object_key){.name = {v->name, v->name_n},
                                .goal = goal_add(n, GOAL_TRUE, literal_of_constant(n, v)),
                                .serial = v->serial,
                                .is_required = true};
    finish_keys(n, part, keys, count);
    part_list_add(n, &out, part);
    return out;
}

static struct part_list other_objects(struct normal *n, const struct json_value *value)
{
    struct part_list out = {0};
    for (const struct json_value *v = value->first; v && normal_ok(n); v = v->next) {
        struct text_piece name = {v->name, v->name_n};
        uint32_t other = goal_add(n, GOAL_TRUE, literal_of_constant(n, v) ^ 1);
        part_list_add(n, &out, part_of_key(n, name, GOAL_FALSE, false, v->serial));
        part_list_add(n, &out, part_of_key(n, name, other, true, v->serial));
    }
    struct name_span others = span_of_set(n, member_names(n, value));
    others.is_complement = true;
    part_list_add(n, &out, part_of_need(n, others, GOAL_TRUE));
    return out;
}

struct part_list constant_parts(struct normal *n, const struct json_value *value,
                                enum part_type type, bool is_negated)
{
    struct part_list out = {0};
    bool is_of_type = value->kind == (type == PART_ARRAY ? JSON_ARRAY : JSON_OBJECT);
    if (!is_of_type && is_negated)
        part_list_add(n, &out, part_anything(n));
    if (!is_of_type)
        return out;
    if (type == PART_ARRAY)
        return is_negated ? other_arrays(n, value) : constant_array(n, value);
    return is_negated ? other_objects(n, value) : constant_object(n, value);
}
