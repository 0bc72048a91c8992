#include "grammar/normal_internal.h"

#include "base/error.h"
#include "base/hash.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- failures -------------------------------------------------------------------------------- */

static const char *code_of(serverd_status status)
{
    switch (status) {
    case SERVERD_UNSUPPORTED:
        return "unsupported_schema";
    case SERVERD_TIMEOUT:
    case SERVERD_NOMEM:
        return "grammar_too_complex";
    default:
        return "invalid_schema";
    }
}

void normal_failed(struct normal *n, serverd_status status, const struct json_value *where)
{
    if (n->status != SERVERD_OK)
        return;
    n->status = status;
    if (!n->code)
        n->code = code_of(status);
    where = where ? where : n->place;
    if (where) {
        struct buffer pointer;
        buffer_init(&pointer, 4096);
        json_pointer(where, &pointer);
        (void)error_context(n->err, "%.300s", buffer_str(&pointer));
        buffer_deinit(&pointer);
    }
}

void normal_refuse(struct normal *n, serverd_status status, const struct json_value *where,
                   const char *format, ...)
{
    if (n->status != SERVERD_OK)
        return;
    char text[256];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    (void)fail(n->err, status, "%s", text);
    normal_failed(n, status, where);
}

void *normal_array(struct normal *n, size_t count, size_t bytes)
{
    void *out = arena_array(n->budget->arena, count, bytes);
    if (!out && n->status == SERVERD_OK) {
        serverd_status status = grammar_budget_memory(n->err);
        normal_failed(n, status, NULL);
    }
    return out;
}

/* A table of pointers with room for one more. */
static bool grow(struct normal *n, void ***table, uint32_t *cap, uint32_t count)
{
    if (count < *cap)
        return true;
    uint32_t larger = *cap ? *cap * 2 : 64;
    void **copy = normal_array(n, larger, sizeof *copy);
    if (!copy)
        return false;
    if (count)
        memcpy(copy, *table, count * sizeof *copy);
    *table = copy;
    *cap = larger;
    return true;
}

/* ---- literals -------------------------------------------------------------------------------- */

static uint32_t literal_hash(enum literal_kind kind, const struct json_value *json, uint32_t a,
                             uint32_t b)
{
    return (uint32_t)hash_mix((uintptr_t)json ^ hash_mix((uint64_t)a << 32 | b) ^
                              (uint64_t)kind << 60);
}

/* Where such a literal is, or goes, in the hash table. */
static uint32_t *literal_slot(const struct normal *n, const struct literal *like)
{
    uint32_t mask = n->n_literal_slots - 1;
    uint32_t slot = literal_hash(like->kind, like->json, like->either[0], like->either[1]) & mask;
    for (;; slot = (slot + 1) & mask) {
        if (n->literal_slots[slot] == 0)
            return &n->literal_slots[slot];
        const struct literal *other = n->literals[n->literal_slots[slot]];
        if (other->kind == like->kind && other->json == like->json &&
            other->either[0] == like->either[0] && other->either[1] == like->either[1])
            return &n->literal_slots[slot];
    }
}

static bool grow_literal_slots(struct normal *n)
{
    if (n->n_literals * 2 < n->n_literal_slots)
        return true;
    uint32_t larger = n->n_literal_slots ? n->n_literal_slots * 2 : 256;
    uint32_t *slots = normal_array(n, larger, sizeof *slots);
    if (!slots)
        return false;
    n->literal_slots = slots;
    n->n_literal_slots = larger;
    for (uint32_t i = 1; i < n->n_literals; i++)
        *literal_slot(n, n->literals[i]) = i;
    return true;
}

static uint32_t add_literal(struct normal *n, enum literal_kind kind, const struct json_value *json,
                            uint32_t a, uint32_t b)
{
    const struct literal like = {.kind = kind, .json = json, .either = {a, b}};
    if (!normal_ok(n) || !grow_literal_slots(n))
        return LITERAL_TRUE;
    uint32_t *slot = literal_slot(n, &like);
    if (*slot)
        return *slot * 2;
    if (n->n_literals >= LIMIT_GRAMMAR_GOALS) {
        normal_refuse(n, SERVERD_TIMEOUT, json, "too many subschemas");
        return LITERAL_TRUE;
    }
    struct literal *literal = normal_array(n, 1, sizeof *literal);
    if (!literal || !grow(n, (void ***)&n->literals, &n->cap_literals, n->n_literals))
        return LITERAL_TRUE;
    *literal = like;
    n->literals[n->n_literals] = literal;
    *slot = n->n_literals;
    return n->n_literals++ * 2;
}

/* Keywords that say nothing about values. */
static bool is_silent(const char *word)
{
    static const char *const silent[] = {"title",   "description", "$comment",
                                         "default", "examples",    "example",
                                         "$schema", "definitions", "$defs"};
    for (size_t i = 0; i < sizeof silent / sizeof *silent; i++)
        if (strcmp(word, silent[i]) == 0)
            return true;
    return false;
}

/* Whether nothing but its reference says something about values. */
static bool is_reference_alone(const struct normal *n, const struct json_value *schema)
{
    const struct json_value *reference = json_member(schema, "$ref");
    if (!reference || reference->kind != JSON_STRING)
        return false;
    if (schema_draft_of(n->document, schema) <= DRAFT_7)
        return true;
    for (const struct json_value *v = schema->first; v; v = v->next)
        if (v != reference && !is_silent(v->name))
            return false;
    return true;
}

/* The string that alone satisfies a schema of nothing but `const`, or `enum` of one, and `type`;
 * NULL: it is another schema. Such schemas tell the branches of a union apart; as constants they
 * are known to differ without an automaton. */
static const struct json_value *only_string(const struct normal *n, const struct json_value *schema)
{
    const struct json_value *constant = schema_word(n, schema, "const");
    const struct json_value *members = schema_word(n, schema, "enum");
    for (const struct json_value *v = schema->first; v; v = v->next) {
        bool is_type = strcmp(v->name, "type") == 0 && json_is_text(v, "string");
        if (v != constant && v != members && !is_type && !is_silent(v->name))
            return NULL;
    }
    if (members && (constant || members->kind != JSON_ARRAY || members->n != 1))
        return NULL;
    const struct json_value *value = members ? members->first : constant;
    return value && value->kind == JSON_STRING ? value : NULL;
}

uint32_t literal_of_schema(struct normal *n, const struct json_value *schema)
{
    uint32_t chain = 0;
    while (schema->kind == JSON_OBJECT && is_reference_alone(n, schema)) {
        const struct json_value *target = NULL;
        if (!normal_ok(n))
            return LITERAL_TRUE;
        if (++chain > LIMIT_GRAMMAR_REFERENCES) {
            normal_refuse(n, SERVERD_INVALID, schema, "$ref: leads to itself");
            return LITERAL_TRUE;
        }
        serverd_status status = schema_resolve(n->document, schema, "$ref", &target, n->err);
        if (status != SERVERD_OK) {
            normal_failed(n, status, schema);
            return LITERAL_TRUE;
        }
        schema = target;
    }
    if (schema->kind == JSON_TRUE || (schema->kind == JSON_OBJECT && schema->n == 0))
        return LITERAL_TRUE;
    if (schema->kind == JSON_FALSE)
        return LITERAL_FALSE;
    if (schema->kind != JSON_OBJECT) {
        normal_refuse(n, SERVERD_INVALID, schema, "a schema is an object or a boolean");
        return LITERAL_TRUE;
    }
    const struct json_value *string = only_string(n, schema);
    return string ? literal_of_constant(n, string) : add_literal(n, LITERAL_SCHEMA, schema, 0, 0);
}

uint32_t literal_of_constant(struct normal *n, const struct json_value *value)
{
    return add_literal(n, LITERAL_CONSTANT, value, 0, 0);
}

uint32_t literal_either(struct normal *n, uint32_t a, uint32_t b)
{
    if (a == LITERAL_TRUE || b == LITERAL_TRUE || a == (b ^ 1))
        return LITERAL_TRUE;
    if (a == LITERAL_FALSE || a == b)
        return b;
    return b == LITERAL_FALSE ? a : add_literal(n, LITERAL_EITHER, NULL, a, b);
}

/* ---- goals ----------------------------------------------------------------------------------- */

static uint32_t *goal_slot(const struct normal *n, const uint32_t *literals, uint32_t count)
{
    uint32_t mask = n->n_goal_slots - 1;
    uint32_t slot = (uint32_t)hash_bytes(literals, count * sizeof *literals, 1) & mask;
    for (;; slot = (slot + 1) & mask) {
        if (n->goal_slots[slot] == 0)
            return &n->goal_slots[slot];
        const struct goal *other = n->goals[n->goal_slots[slot]];
        if (other->n == count && memcmp(other->literals, literals, count * sizeof *literals) == 0)
            return &n->goal_slots[slot];
    }
}

static bool grow_goal_slots(struct normal *n)
{
    if (n->n_goals * 2 < n->n_goal_slots)
        return true;
    uint32_t larger = n->n_goal_slots ? n->n_goal_slots * 2 : 256;
    uint32_t *slots = normal_array(n, larger, sizeof *slots);
    if (!slots)
        return false;
    n->goal_slots = slots;
    n->n_goal_slots = larger;
    for (uint32_t i = GOAL_FALSE + 1; i < n->n_goals; i++)
        *goal_slot(n, n->goals[i]->literals, n->goals[i]->n) = i;
    return true;
}

static const struct json_value *string_of(const struct normal *n, uint32_t literal)
{
    const struct literal *at = literal_at(n, literal);
    bool is_string = at->kind == LITERAL_CONSTANT && at->json->kind == JSON_STRING;
    return is_string ? at->json : NULL;
}

/* A value that is one string is no other one: literals that say so are dropped. UINT32_MAX: it
 * would have to be two; else how many literals are left. */
static uint32_t settle_strings(const struct normal *n, uint32_t *literals, uint32_t count)
{
    const struct json_value *own = NULL;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count && !own; i++)
        if (literals[i] % 2 == 0)
            own = string_of(n, literals[i]);
    for (uint32_t i = 0; i < count; i++) {
        const struct json_value *other = own ? string_of(n, literals[i]) : NULL;
        bool is_negated = literals[i] % 2;
        if (other && json_value_equal(other, own) == is_negated)
            return UINT32_MAX;
        if (!other || !is_negated)
            literals[kept++] = literals[i];
    }
    return kept;
}

/* The goal of literals[0..count-1], ascending, without repetitions; takes the array over. */
static uint32_t intern_goal(struct normal *n, uint32_t *literals, uint32_t count)
{
    for (uint32_t i = 0; i + 1 < count; i++)
        if (literals[i] % 2 == 0 && literals[i + 1] == literals[i] + 1)
            return GOAL_FALSE;
    count = settle_strings(n, literals, count);
    if (count == UINT32_MAX)
        return GOAL_FALSE;
    if (count == 0)
        return GOAL_TRUE;
    if (!normal_ok(n) || !grow_goal_slots(n))
        return GOAL_FALSE;
    uint32_t *slot = goal_slot(n, literals, count);
    if (*slot)
        return *slot;
    if (n->n_goals >= LIMIT_GRAMMAR_GOALS) {
        normal_refuse(n, SERVERD_TIMEOUT, NULL, "more than %u combinations of subschemas",
                      LIMIT_GRAMMAR_GOALS);
        return GOAL_FALSE;
    }
    struct goal *goal = normal_array(n, 1, sizeof *goal);
    if (!goal || !grow(n, (void ***)&n->goals, &n->cap_goals, n->n_goals))
        return GOAL_FALSE;
    *goal = (struct goal){.literals = literals, .n = count};
    n->goals[n->n_goals] = goal;
    *slot = n->n_goals;
    return n->n_goals++;
}

uint32_t goal_and(struct normal *n, uint32_t a, uint32_t b)
{
    if (a == GOAL_TRUE || a == b || b == GOAL_FALSE)
        return b;
    if (b == GOAL_TRUE || a == GOAL_FALSE)
        return a;
    const struct goal *x = n->goals[a], *y = n->goals[b];
    uint32_t *literals = normal_array(n, (size_t)x->n + y->n, sizeof *literals);
    if (!literals)
        return GOAL_FALSE;
    uint32_t i = 0, j = 0, count = 0;
    while (i < x->n || j < y->n) {
        bool takes_x = j >= y->n || (i < x->n && x->literals[i] <= y->literals[j]);
        uint32_t literal = takes_x ? x->literals[i++] : y->literals[j++];
        if (count == 0 || literals[count - 1] != literal)
            literals[count++] = literal;
    }
    return intern_goal(n, literals, count);
}

uint32_t goal_add(struct normal *n, uint32_t goal, uint32_t literal)
{
    if (literal == LITERAL_TRUE)
        return goal;
    if (literal == LITERAL_FALSE)
        return GOAL_FALSE;
    uint32_t *one = normal_array(n, 1, sizeof *one);
    if (!one)
        return GOAL_FALSE;
    *one = literal;
    return goal_and(n, goal, intern_goal(n, one, 1));
}

void goal_expand(struct normal *n, uint32_t index)
{
    struct goal *goal = n->goals[index];
    if (goal->progress == PROGRESS_DONE || !normal_ok(n))
        return;
    goal->progress = PROGRESS_RUNNING;
    const struct json_value *outer = n->place;
    struct scalar_set scalars = scalars_all(n);
    for (uint32_t i = 0; i < goal->n && !n->place;
         i++) /* what is done to all of them is done here */
        n->place = literal_at(n, goal->literals[i])->json;
    for (uint32_t i = 0; i < goal->n && normal_ok(n); i++)
        scalars = scalars_and(n, scalars, scalars_of(n, goal->literals[i], false));
    goal->scalars = scalars;
    for (unsigned type = PART_ARRAY; type <= PART_OBJECT; type++) {
        struct part_list list = {0};
        part_list_add(n, &list, part_anything(n));
        for (uint32_t i = 0; i < goal->n && normal_ok(n) && list.n > 0; i++)
            list = part_list_and(n, type, list, parts_of(n, goal->literals[i], type, false));
        goal->parts[type] = list;
    }
    goal->progress = normal_ok(n) ? PROGRESS_DONE : PROGRESS_NONE;
    n->place = outer;
}

bool goal_is_known_empty(struct normal *n, uint32_t index)
{
    if (index <= GOAL_FALSE || !normal_ok(n))
        return index == GOAL_FALSE;
    struct goal *goal = n->goals[index];
    if (goal->progress == PROGRESS_RUNNING)
        return false;
    if (goal->progress == PROGRESS_NONE) {
        if (n->level >= LIMIT_GRAMMAR_LOOKS)
            return false;
        n->level++;
        goal_expand(n, index);
        n->level--;
        n->is_stuck = false;
    }
    return goal->progress == PROGRESS_DONE && scalars_are_empty(&goal->scalars) &&
           goal->parts[PART_ARRAY].n == 0 && goal->parts[PART_OBJECT].n == 0;
}

serverd_status normal_init(struct normal *n, struct grammar_budget *budget,
                           struct schema_document *document, bool produces, serverd_error *err)
{
    *n = (struct normal){.budget = budget, .document = document, .produces = produces, .err = err};
    serverd_status status = string_set_anything(budget, &n->any_string, err);
    if (status != SERVERD_OK)
        return status;
    struct literal *anything = normal_array(n, 1, sizeof *anything);
    struct goal *goals = normal_array(n, 2, sizeof *goals);
    if (!anything || !goals || !grow(n, (void ***)&n->literals, &n->cap_literals, 0) ||
        !grow(n, (void ***)&n->goals, &n->cap_goals, 0))
        return n->status;
    anything->kind = LITERAL_SCHEMA; /* LITERAL_TRUE; its place is never in the hash table */
    n->literals[n->n_literals++] = anything;
    goals[1].progress = PROGRESS_DONE;
    n->goals[n->n_goals++] = &goals[0];
    n->goals[n->n_goals++] = &goals[1];
    return SERVERD_OK;
}
