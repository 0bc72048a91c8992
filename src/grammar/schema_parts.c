/* Arrays and objects of a schema: what its keywords leave, as a union of parts. Keywords that do
 * not branch come first, so that branches die early. */
#include "grammar/normal_internal.h"

#include <string.h>

struct scope {
    struct normal *n;
    const struct json_value *schema;
    enum part_type type;
    bool is_annotated;
};

static struct part_list anything(struct normal *n)
{
    struct part_list list = {0};
    part_list_add(n, &list, part_anything(n));
    return list;
}

static struct part_list of(const struct scope *scope, const struct json_value *schema,
                           bool is_negated)
{
    uint32_t literal = literal_of_schema(scope->n, schema) ^ (is_negated ? 1u : 0u);
    return parts_of(scope->n, literal, scope->type, scope->is_annotated && !is_negated);
}

static struct part_list both(const struct scope *scope, struct part_list a, struct part_list b)
{
    return part_list_and(scope->n, scope->type, a, b);
}

static const struct json_value *word(const struct scope *scope, const char *name)
{
    return normal_ok(scope->n) ? schema_word(scope->n, scope->schema, name) : NULL;
}

static const struct json_value *list_word(const struct scope *scope, const char *name)
{
    const struct json_value *v = word(scope, name);
    if (v && (v->kind != JSON_ARRAY || v->n == 0)) {
        normal_refuse(scope->n, SERVERD_INVALID, v, "%s: no list of schemas", name);
        return NULL;
    }
    return v;
}

static const struct json_value *first_of(const struct json_value *v)
{
    return v ? v->first : NULL;
}

static bool mentions_type(const struct json_value *type, enum part_type wanted)
{
    const char *name = wanted == PART_ARRAY ? "array" : "object";
    if (type->kind != JSON_ARRAY)
        return json_is_text(type, name);
    for (const struct json_value *v = type->first; v; v = v->next)
        if (json_is_text(v, name))
            return true;
    return false;
}

/* ---- conditions on one property -------------------------------------------------------------- */

static struct part_list with_key(const struct scope *scope, struct text_piece name, bool is_there)
{
    struct part_list out = {0};
    struct normal *n = scope->n;
    struct part *part = part_new(n);
    struct object_key *key = normal_array(n, 1, sizeof *key);
    if (!part || !key)
        return out;
    *key = (struct object_key){.name = name,
                               .goal = is_there ? GOAL_TRUE : GOAL_FALSE,
                               .rank = is_there ? RANK_REQUIRED : RANK_OTHER,
                               .is_required = is_there};
    part->keys = key;
    part->n_keys = 1;
    part->min = is_there ? 1 : 0;
    part_list_add(n, &out, part);
    return out;
}

static struct text_piece name_of(const struct scope *scope, const struct json_value *v)
{
    if (v->kind != JSON_STRING) {
        normal_refuse(scope->n, SERVERD_INVALID, v, "no name");
        return (struct text_piece){"", 0};
    }
    return (struct text_piece){v->text, v->n};
}

/* What must hold if the property `v->name` is there: a list of names, or a schema. */
static struct part_list consequence(const struct scope *scope, const struct json_value *v,
                                    bool is_negated)
{
    struct part_list out = {0};
    if (v->kind != JSON_ARRAY)
        return of(scope, v, is_negated);
    if (!is_negated)
        out = anything(scope->n);
    for (const struct json_value *name = v->first; name && normal_ok(scope->n); name = name->next) {
        if (is_negated)
            part_list_append(scope->n, &out, with_key(scope, name_of(scope, name), false));
        else
            out = both(scope, out, with_key(scope, name_of(scope, name), true));
    }
    return out;
}

static const char *const dependency_words[] = {"dependentRequired", "dependentSchemas",
                                               "dependencies"};

static struct part_list with_dependencies(const struct scope *scope, struct part_list list)
{
    for (size_t i = 0; i < 3; i++)
        for (const struct json_value *v = first_of(word(scope, dependency_words[i]));
             v && normal_ok(scope->n); v = v->next) {
            struct text_piece name = {v->name ? v->name : "", v->name_n};
            struct part_list without = both(scope, list, with_key(scope, name, false));
            struct part_list with = both(scope, list, with_key(scope, name, true));
            if (with.n > 0)
                with = both(scope, with, consequence(scope, v, false));
            part_list_append(scope->n, &without, with);
            list = without;
        }
    return list;
}

static void add_broken_dependencies(const struct scope *scope, struct part_list *out)
{
    for (size_t i = 0; i < 3; i++)
        for (const struct json_value *v = first_of(word(scope, dependency_words[i]));
             v && normal_ok(scope->n); v = v->next) {
            struct text_piece name = {v->name ? v->name : "", v->name_n};
            part_list_append(scope->n, out,
                             both(scope, with_key(scope, name, true), consequence(scope, v, true)));
        }
}

/* ---- combining keywords ---------------------------------------------------------------------- */

static struct part_list with_any(const struct scope *scope, struct part_list list,
                                 const struct json_value *schemas)
{
    struct part_list some = {0}, none = list;
    for (const struct json_value *v = schemas->first; v && normal_ok(scope->n); v = v->next) {
        if (!scope->is_annotated) {
            part_list_append(scope->n, &some, both(scope, list, of(scope, v, false)));
            continue;
        }
        /* what is evaluated depends on all the branches that hold, not on one of them */
        struct part_list so_far = some, yes = of(scope, v, false), no = of(scope, v, true);
        some = both(scope, so_far, no);
        part_list_append(scope->n, &some, both(scope, so_far, yes));
        part_list_append(scope->n, &some, both(scope, none, yes));
        none = both(scope, none, no);
    }
    return some;
}

static struct part_list with_one(const struct scope *scope, struct part_list list,
                                 const struct json_value *schemas)
{
    struct part_list out = {0};
    for (const struct json_value *v = schemas->first; v && normal_ok(scope->n); v = v->next) {
        struct part_list one = both(scope, list, of(scope, v, false));
        for (const struct json_value *other = schemas->first;
             other && normal_ok(scope->n) && one.n > 0; other = other->next) {
            if (other == v)
                continue;
            struct scope plain = *scope;
            plain.is_annotated = false;
            /* branches that exclude each other need no negation, which would multiply */
            if (both(&plain, one, of(&plain, other, false)).n > 0)
                one = both(scope, one, of(scope, other, true));
        }
        part_list_append(scope->n, &out, one);
    }
    return out;
}

static struct part_list with_condition(const struct scope *scope, struct part_list list)
{
    const struct json_value *test = word(scope, "if"), *then = word(scope, "then"),
                            *otherwise = word(scope, "else");
    if (!test || (!then && !otherwise && !scope->is_annotated))
        return list;
    struct part_list yes = both(scope, list, of(scope, test, false));
    struct part_list no = both(scope, list, of(scope, test, true));
    if (then && yes.n > 0)
        yes = both(scope, yes, of(scope, then, false));
    if (otherwise && no.n > 0)
        no = both(scope, no, of(scope, otherwise, false));
    part_list_append(scope->n, &yes, no);
    return yes;
}

/* ---- unevaluated* ---------------------------------------------------------------------------- */

static const struct part *without_unevaluated_items(struct normal *n, const struct part *part,
                                                    uint32_t literal)
{
    if (part->n_evaluated == UNBOUNDED)
        return part;
    struct part *rule = part_new(n);
    uint32_t *prefix = normal_array(n, part->n_evaluated, sizeof *prefix);
    if (!rule || !prefix)
        return NULL;
    rule->prefix = prefix; /* zeros: GOAL_TRUE */
    rule->n_prefix = part->n_evaluated;
    rule->rest = goal_add(n, GOAL_TRUE, literal_either(n, part->evaluated_items, literal));
    rule->n_evaluated = UNBOUNDED;
    return part_and(n, PART_ARRAY, part, rule);
}

static const struct part *without_unevaluated_properties(struct normal *n, const struct part *part,
                                                         uint32_t literal)
{
    if (part->evaluated.is_complement)
        return part;
    struct part *rules = part_new(n);
    struct property_rule *rule = normal_array(n, 1, sizeof *rule);
    const struct property_rule **table = normal_array(n, 1, sizeof *table);
    if (!rules || !rule || !table)
        return NULL;
    *rule = (struct property_rule){part->evaluated, goal_add(n, GOAL_TRUE, literal)};
    rule->span.is_complement = true;
    table[0] = rule;
    rules->rules = table;
    rules->n_rules = rule->goal == GOAL_TRUE ? 0 : 1;
    rules->evaluated.is_complement = true;
    return part_and(n, PART_OBJECT, part, rules); /* the names of the span are keys already */
}

static const char *unevaluated_word(enum part_type type)
{
    return type == PART_ARRAY ? "unevaluatedItems" : "unevaluatedProperties";
}

/* The opposite: parts in which something unevaluated breaks the rule. */
static const struct part *with_unevaluated_item(struct normal *n, const struct part *part,
                                                uint32_t literal)
{
    struct part *rule = part_new(n);
    struct items_need *need = normal_array(n, 1, sizeof *need);
    if (!rule || !need || part->n_evaluated == UNBOUNDED)
        return NULL;
    *need = (struct items_need){.literal = literal_either(n, part->evaluated_items, literal) ^ 1,
                                .from = part->n_evaluated,
                                .min = 1,
                                .max = UNBOUNDED};
    rule->contains = need;
    rule->n_contains = 1;
    rule->min = need->from + 1;
    return need->literal == LITERAL_FALSE ? NULL : part_and(n, PART_ARRAY, part, rule);
}

static const struct part *with_unevaluated_property(struct normal *n, const struct part *part,
                                                    uint32_t literal)
{
    struct part *rules = part_new(n);
    struct property_rule *need = normal_array(n, 1, sizeof *need);
    const struct property_rule **table = normal_array(n, 1, sizeof *table);
    if (!rules || !need || !table || part->evaluated.is_complement)
        return NULL;
    *need = (struct property_rule){part->evaluated, goal_add(n, GOAL_TRUE, literal ^ 1)};
    need->span.is_complement = true;
    table[0] = need;
    rules->needs = table;
    rules->n_needs = 1;
    rules->min = 1;
    return need->goal == GOAL_FALSE ? NULL : part_and(n, PART_OBJECT, part, rules);
}

static struct part_list without_unevaluated(const struct scope *scope, struct part_list list,
                                            const struct json_value *rule)
{
    struct part_list out = {0};
    uint32_t literal = literal_of_schema(scope->n, rule);
    for (uint32_t i = 0; i < list.n && normal_ok(scope->n); i++)
        part_list_add(scope->n, &out,
                      scope->type == PART_ARRAY
                          ? without_unevaluated_items(scope->n, list.item[i], literal)
                          : without_unevaluated_properties(scope->n, list.item[i], literal));
    return out;
}

/* ---- a schema -------------------------------------------------------------------------------- */

/* All keywords but unevaluated*. */
static struct part_list of_other_words(const struct scope *scope)
{
    struct normal *n = scope->n;
    struct part_list list = anything(n), none = {0};
    uint32_t target;
    bool is_all;
    const struct json_value *type = word(scope, "type");
    bool is_reference = schema_reference(n, scope->schema, &target, 0, &is_all);
    if (!normal_ok(n))
        return none;
    if (type && !(is_reference && is_all) && !mentions_type(type, scope->type))
        return none;
    for (uint32_t i = 0; normal_ok(n) && schema_reference(n, scope->schema, &target, i, &is_all);
         i++) {
        list = both(scope, list, parts_of(n, target, scope->type, scope->is_annotated));
        if (is_all)
            return list;
    }
    const struct json_value *constant = word(scope, "const"), *members = word(scope, "enum");
    if (constant)
        list = both(scope, list, constant_parts(n, constant, scope->type, false));
    if (members) {
        struct part_list sum = {0};
        for (const struct json_value *v = members->first; v && normal_ok(n); v = v->next)
            part_list_append(n, &sum, constant_parts(n, v, scope->type, false));
        list = both(scope, list, sum);
    }
    if (list.n == 0 || !normal_ok(n))
        return none;
    struct part_list own = {0};
    part_list_add(n, &own,
                  scope->type == PART_ARRAY ? array_words(n, scope->schema)
                                            : object_words(n, scope->schema));
    list = both(scope, list, own);
    for (const struct json_value *v = first_of(list_word(scope, "allOf"));
         v && normal_ok(n) && list.n > 0; v = v->next)
        list = both(scope, list, of(scope, v, false));
    const struct json_value *schemas = list_word(scope, "anyOf");
    if (schemas && list.n > 0)
        list = with_any(scope, list, schemas);
    schemas = list_word(scope, "oneOf");
    if (schemas && list.n > 0)
        list = with_one(scope, list, schemas);
    const struct json_value *negated = word(scope, "not");
    if (negated && list.n > 0)
        list = both(scope, list, of(scope, negated, true));
    if (list.n > 0)
        list = with_condition(scope, list);
    if (scope->type == PART_OBJECT && list.n > 0)
        list = with_dependencies(scope, list);
    return list;
}

static struct part_list of_schema(const struct scope *outer)
{
    struct scope scope = *outer;
    const struct json_value *unevaluated = word(&scope, unevaluated_word(scope.type));
    scope.is_annotated = scope.is_annotated || unevaluated;
    struct part_list list = of_other_words(&scope);
    return unevaluated && normal_ok(scope.n) ? without_unevaluated(&scope, list, unevaluated)
                                             : list;
}

/* Values that satisfy all else, but have something unevaluated that breaks the rule. */
static void add_unevaluated(const struct scope *outer, struct part_list *out)
{
    struct scope scope = *outer;
    const struct json_value *unevaluated = word(&scope, unevaluated_word(scope.type));
    if (!unevaluated)
        return;
    uint32_t literal = literal_of_schema(scope.n, unevaluated);
    if (literal == LITERAL_TRUE)
        return;
    scope.is_annotated = true;
    struct part_list list = of_other_words(&scope);
    for (uint32_t i = 0; i < list.n && normal_ok(scope.n); i++)
        part_list_add(scope.n, out,
                      scope.type == PART_ARRAY
                          ? with_unevaluated_item(scope.n, list.item[i], literal)
                          : with_unevaluated_property(scope.n, list.item[i], literal));
}

/* Two or more of the schemas, or none. */
static void add_not_one(const struct scope *scope, const struct json_value *schemas,
                        struct part_list *out)
{
    struct part_list none = anything(scope->n);
    for (const struct json_value *v = schemas->first; v && normal_ok(scope->n); v = v->next) {
        none = both(scope, none, of(scope, v, true));
        for (const struct json_value *w = v->next; w && normal_ok(scope->n); w = w->next)
            part_list_append(scope->n, out, both(scope, of(scope, v, false), of(scope, w, false)));
    }
    part_list_append(scope->n, out, none);
}

static void add_combined_negations(const struct scope *scope, struct part_list *out)
{
    struct normal *n = scope->n;
    for (const struct json_value *v = first_of(list_word(scope, "allOf")); v && normal_ok(n);
         v = v->next)
        part_list_append(n, out, of(scope, v, true));
    const struct json_value *schemas = list_word(scope, "anyOf");
    if (schemas) {
        struct part_list none = anything(n);
        for (const struct json_value *v = schemas->first; v && normal_ok(n); v = v->next)
            none = both(scope, none, of(scope, v, true));
        part_list_append(n, out, none);
    }
    schemas = list_word(scope, "oneOf");
    if (schemas)
        add_not_one(scope, schemas, out);
    const struct json_value *negated = word(scope, "not");
    if (negated)
        part_list_append(n, out, of(scope, negated, false));
    const struct json_value *test = word(scope, "if"), *then = word(scope, "then"),
                            *otherwise = word(scope, "else");
    if (test && then)
        part_list_append(n, out, both(scope, of(scope, test, false), of(scope, then, true)));
    if (test && otherwise)
        part_list_append(n, out, both(scope, of(scope, test, true), of(scope, otherwise, true)));
}

static struct part_list of_negation(const struct scope *scope)
{
    struct normal *n = scope->n;
    struct part_list out = {0};
    uint32_t target;
    bool is_all;
    for (uint32_t i = 0; normal_ok(n) && schema_reference(n, scope->schema, &target, i, &is_all);
         i++) {
        part_list_append(n, &out, parts_of(n, target ^ 1, scope->type, false));
        if (is_all)
            return out;
    }
    const struct json_value *type = word(scope, "type");
    if (type && !mentions_type(type, scope->type))
        return anything(n);
    const struct json_value *constant = word(scope, "const"), *members = word(scope, "enum");
    if (constant)
        part_list_append(n, &out, constant_parts(n, constant, scope->type, true));
    if (members) {
        struct part_list none = anything(n);
        for (const struct json_value *v = members->first; v && normal_ok(n); v = v->next)
            if (v->kind == (scope->type == PART_ARRAY ? JSON_ARRAY : JSON_OBJECT))
                none = both(scope, none, constant_parts(n, v, scope->type, true));
        part_list_append(n, &out, none);
    }
    if (!normal_ok(n))
        return out;
    part_list_append(n, &out,
                     scope->type == PART_ARRAY ? array_words_negated(n, scope->schema)
                                               : object_words_negated(n, scope->schema));
    add_combined_negations(scope, &out);
    if (scope->type == PART_OBJECT)
        add_broken_dependencies(scope, &out);
    add_unevaluated(scope, &out);
    return out;
}

static struct part_list of_literal(struct normal *n, uint32_t index, enum part_type type,
                                   bool is_annotated)
{
    const struct literal *literal = literal_at(n, index);
    struct scope scope = {n, literal->json, type, is_annotated};
    bool is_negated = index % 2;
    if (literal->kind == LITERAL_CONSTANT)
        return constant_parts(n, literal->json, type, is_negated);
    if (literal->kind == LITERAL_SCHEMA)
        return is_negated ? of_negation(&scope) : of_schema(&scope);
    struct part_list a = parts_of(n, literal->either[0] ^ (index & 1), type, false);
    struct part_list b = parts_of(n, literal->either[1] ^ (index & 1), type, false), out = {0};
    if (is_negated)
        return part_list_and(n, type, a, b);
    part_list_append(n, &out, a);
    part_list_append(n, &out, b);
    return out;
}

/* Annotations reach nobody through a negation, or where nobody looks. */
static void drop_annotations(struct normal *n, struct part_list *list)
{
    for (uint32_t i = 0; i < list->n; i++) {
        struct part *part = part_new(n);
        if (!part)
            return;
        *part = *list->item[i];
        part->evaluated = (struct name_span){0};
        part->n_evaluated = 0;
        part->evaluated_items = LITERAL_FALSE;
        list->item[i] = part;
    }
}

struct part_list parts_of(struct normal *n, uint32_t index, enum part_type type, bool is_annotated)
{
    struct part_list out = {0};
    if (index == LITERAL_TRUE)
        return anything(n);
    if (index == LITERAL_FALSE || !normal_ok(n))
        return out;
    struct literal *literal = literal_at(n, index);
    bool is_negated = index % 2;
    uint8_t *progress = &literal->parts_progress[is_negated][type][is_annotated];
    uint32_t *level = &literal->parts_level[is_negated][type][is_annotated];
    if (*progress == PROGRESS_DONE)
        return literal->parts[is_negated][type][is_annotated];
    if (*progress == PROGRESS_RUNNING) {
        if (*level < n->level)
            n->is_stuck = true;
        else
            normal_refuse(n, SERVERD_INVALID, literal->json, "$ref: leads to itself");
        return out;
    }
    if (n->depth >= LIMIT_GRAMMAR_DEPTH) {
        normal_refuse(n, SERVERD_TIMEOUT, literal->json, "schemas refer too deeply");
        return out;
    }
    const struct json_value *outer = n->place;
    *progress = PROGRESS_RUNNING;
    *level = n->level;
    n->depth++;
    n->place = literal->json ? literal->json : outer;
    out = of_literal(n, index, type, is_annotated);
    if (!is_annotated)
        drop_annotations(n, &out);
    n->place = outer;
    n->depth--;
    *progress = normal_ok(n) ? PROGRESS_DONE : PROGRESS_NONE;
    literal->parts[is_negated][type][is_annotated] = out;
    return out;
}
