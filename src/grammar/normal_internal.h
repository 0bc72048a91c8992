/* A schema in normal form, on its way to the machine.
 *
 *   literal   a subschema or a constant, or its negation
 *   goal      a conjunction of literals that one value has to satisfy; interned, so that there are
 *             finitely many however a schema refers to itself
 *   scalar_set  the null, booleans, numbers and strings of a goal: exact sets
 *   part      arrays or objects that a conjunction of conditions describes; a goal's arrays and its
 *             objects are a union of parts each
 *
 * What a value's children must satisfy is a goal again, looked at later: recursion in the schema
 * becomes a cycle of goals. Type by type, because keywords are about one type: a branch for strings
 * costs the objects nothing. One thread; everything lies in the budget's arena.
 *
 * Failure is sticky: after it functions give back something harmless, and who loops looks at
 * normal_ok. */
#ifndef GRAMMAR_NORMAL_INTERNAL_H
#define GRAMMAR_NORMAL_INTERNAL_H

#include "grammar/machine.h"
#include "grammar/number_set.h"
#include "grammar/schema_document.h"
#include "grammar/string_set.h"

#define LITERAL_TRUE  0u /* an even literal and its negation, the next odd one */
#define LITERAL_FALSE 1u
#define GOAL_TRUE     0u
#define GOAL_FALSE    1u
#define UNBOUNDED     UINT32_MAX

enum part_type { PART_ARRAY, PART_OBJECT };

enum { WORD_NULL = 1, WORD_FALSE = 2, WORD_TRUE = 4, WORD_ALL = 7 };

struct scalar_set {
    unsigned words; /* WORD_... */
    uint32_t n_numbers, n_strings;
    const struct number_part *numbers; /* a union; none of them empty */
    const struct string_set *strings;
};

/* Names of properties: those of the sets and those that match a pattern, or all others. */
struct name_set {
    const struct text_piece *names; /* ascending */
    uint32_t n;
};
struct name_span {
    const struct name_set **sets;
    const struct string_set **patterns;
    uint32_t n_sets, n_patterns;
    bool is_complement;
};

/* As a rule: every property with such a name has a value that satisfies the goal. As a need: one
 * has. */
struct property_rule {
    struct name_span span;
    uint32_t goal;
};

enum key_rank { RANK_PROPERTIES, RANK_REQUIRED, RANK_OTHER };

/* A name that some keyword mentions: what it must satisfy is gathered here. */
struct object_key {
    struct text_piece name;
    uint32_t goal; /* GOAL_FALSE: must not be there */
    uint32_t serial;
    uint8_t rank; /* of production, then `serial` */
    bool is_required;
};

/* So many items from `from` on satisfy the literal. */
struct items_need {
    uint32_t literal, from, min, max;
};

struct part {
    uint32_t min, max; /* items or properties; max UNBOUNDED: none */

    const struct object_key *keys; /* ascending by name */
    const struct property_rule **rules, **needs;
    uint32_t n_keys, n_rules, n_needs;

    const uint32_t *prefix; /* goals of the first items */
    uint32_t n_prefix, rest;
    const struct items_need *contains;
    uint32_t n_contains;
    const struct json_value *unique; /* the schema that wants items to differ; NULL: none */

    /* What unevaluated* leaves alone; kept only where one of them looks. */
    struct name_span evaluated;
    uint32_t n_evaluated;     /* items; UNBOUNDED: all */
    uint32_t evaluated_items; /* items of this literal too; LITERAL_FALSE: none */
};

struct part_list {
    const struct part **item;
    uint32_t n, cap;
};

enum progress { PROGRESS_NONE, PROGRESS_RUNNING, PROGRESS_DONE };

enum literal_kind { LITERAL_SCHEMA, LITERAL_CONSTANT, LITERAL_EITHER };

struct literal {
    enum literal_kind kind;
    const struct json_value *json;
    uint32_t either[2]; /* of LITERAL_EITHER */
    /* [1]: as seen from inside a `not`, where formats are as wide as they can be */
    struct scalar_set scalars[2];
    uint8_t scalars_progress[2];
    uint32_t scalars_level[2];
    /* [negated][type][annotated] */
    struct part_list parts[2][2][2];
    uint8_t parts_progress[2][2][2];
    uint32_t parts_level[2][2][2];
};

struct goal {
    const uint32_t *literals; /* ascending */
    uint32_t n;
    uint8_t progress;
    bool is_productive; /* some value satisfies it: known after normal_prune */
    struct scalar_set scalars;
    struct part_list parts[2]; /* by type */
};

struct normal {
    struct grammar_budget *budget;
    struct schema_document *document;
    bool produces; /* else it checks */
    serverd_error *err;
    serverd_status status;
    const char *code;               /* of api.md 4.2, with `status` */
    const struct json_value *place; /* the schema that is being looked at, for messages */

    struct literal **literals; /* by literal / 2 */
    uint32_t n_literals, cap_literals;
    uint32_t *literal_slots, n_literal_slots;
    struct goal **goals;
    uint32_t n_goals, cap_goals;
    uint32_t *goal_slots, n_goal_slots;

    struct string_set any_string;
    const struct string_set **patterns; /* compiled, beside their texts */
    const struct json_value **pattern_texts;
    uint32_t n_patterns, cap_patterns;
    struct known_format {
        const struct json_value *name;
        bool is_inside_not;
        struct string_set set;
    } formats[32]; /* the first so many that were made */
    uint32_t n_formats;

    /* Depth of looks ahead (normal_is_empty); a look that meets what is being worked on gets
     * stuck, and its results are thrown away. */
    uint32_t level, depth;
    bool is_stuck;
};

static inline bool normal_ok(const struct normal *n)
{
    return n->status == SERVERD_OK && !n->is_stuck;
}

serverd_status normal_init(struct normal *n, struct grammar_budget *budget,
                           struct schema_document *document, bool produces, serverd_error *err);

/* Failures. `where`: the value whose pointer the message begins with; NULL: n->place. normal_failed
 * takes over what *err says and picks the code by the status. */
void normal_refuse(struct normal *n, serverd_status status, const struct json_value *where,
                   const char *format, ...) __attribute__((format(printf, 4, 5)));
void normal_failed(struct normal *n, serverd_status status, const struct json_value *where);
void *normal_array(struct normal *n, size_t count, size_t bytes); /* NULL: failed */

/* Literals. */
uint32_t literal_of_schema(struct normal *n, const struct json_value *schema);
uint32_t literal_of_constant(struct normal *n, const struct json_value *value);
uint32_t literal_either(struct normal *n, uint32_t a, uint32_t b);
static inline struct literal *literal_at(const struct normal *n, uint32_t literal)
{
    return n->literals[literal / 2];
}

/* Goals. */
uint32_t goal_add(struct normal *n, uint32_t goal, uint32_t literal);
uint32_t goal_and(struct normal *n, uint32_t a, uint32_t b);
/* Fills in scalars and parts. */
void goal_expand(struct normal *n, uint32_t goal);
/* True only if nothing satisfies the goal; false may mean: not seen so soon. */
bool goal_is_known_empty(struct normal *n, uint32_t goal);

/* Keywords (schema_words.c). A keyword of the schema's draft; NULL if it is not there. */
const struct json_value *schema_word(const struct normal *n, const struct json_value *schema,
                                     const char *word);
/* The schema that a reference leads to, as a literal. Only that counts if `*is_all`. */
bool schema_reference(struct normal *n, const struct json_value *schema, uint32_t *literal,
                      uint32_t index, bool *is_all);
/* A count: a whole number, not negative; `otherwise` if the keyword is not there. */
uint32_t schema_count(struct normal *n, const struct json_value *schema, const char *word,
                      uint32_t otherwise);
const struct string_set *schema_pattern(struct normal *n, const struct json_value *where,
                                        const char *text, size_t n_text);

/* Scalars (scalars.c). `is_inside_not`: see struct literal. */
struct scalar_set scalars_of(struct normal *n, uint32_t literal, bool is_inside_not);
struct scalar_set scalars_and(struct normal *n, struct scalar_set a, struct scalar_set b);
struct scalar_set scalars_or(struct normal *n, struct scalar_set a, struct scalar_set b);
struct scalar_set scalars_not(struct normal *n, struct scalar_set a);
struct scalar_set scalars_all(struct normal *n);
static inline bool scalars_are_empty(const struct scalar_set *set)
{
    return !set->words && set->n_numbers == 0 && set->n_strings == 0;
}

/* Parts (parts.c). */
const struct part *part_anything(struct normal *n);
struct part *part_new(struct normal *n); /* anything, to be narrowed */
const struct part *part_and(struct normal *n, enum part_type type, const struct part *a,
                            const struct part *b); /* NULL: nothing is left, or failed */
void part_list_add(struct normal *n, struct part_list *list, const struct part *part);
void part_list_append(struct normal *n, struct part_list *list, struct part_list other);
struct part_list part_list_and(struct normal *n, enum part_type type, struct part_list a,
                               struct part_list b);
bool name_span_has(const struct name_span *span, struct text_piece name);
int text_piece_compare(struct text_piece a, struct text_piece b);

/* Parts of a literal (schema_parts.c, with part_words.c for keywords of one type). */
struct part_list parts_of(struct normal *n, uint32_t literal, enum part_type type,
                          bool is_annotated);
const struct part *array_words(struct normal *n, const struct json_value *schema);
const struct part *object_words(struct normal *n, const struct json_value *schema);
struct part_list array_words_negated(struct normal *n, const struct json_value *schema);
struct part_list object_words_negated(struct normal *n, const struct json_value *schema);
struct part_list constant_parts(struct normal *n, const struct json_value *value,
                                enum part_type type, bool is_negated);

#endif
