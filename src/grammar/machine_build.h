/* Building a machine: texts, values and code are added one by one, then it is finished. One thread;
 * what the machine consists of lies in `keep`, or where it checks, partly in the budget's arena,
 * which has to live as long then. */
#ifndef GRAMMAR_MACHINE_BUILD_H
#define GRAMMAR_MACHINE_BUILD_H

#include "grammar/machine.h"
#include "grammar/normal_internal.h"
#include "grammar/spelling.h"

#define MACHINE_BYTES 1024u

struct machine_table {
    void *items;
    uint32_t n, cap;
};

struct machine_builder {
    struct grammar_budget *budget;
    struct arena *keep;
    bool produces;
    enum json_whitespace whitespace;
    struct machine_table values, arrays, objects, texts, code;
    struct machine_table text_sources; /* what a text was made from, so that it is made once */
    const struct automaton *number_texts;
    const struct tokenizer *tokenizer; /* of control tokens; NULL: there are none */
};

void machine_builder_init(struct machine_builder *builder, struct grammar_budget *budget,
                          struct arena *keep, bool produces, enum json_whitespace whitespace);

/* Appends one item; NULL: no memory. */
void *machine_table_add(struct machine_builder *builder, struct machine_table *table, size_t bytes);

/* A text: of JSON strings, or plain. `is_plain`: always a DFA, checking too. */
serverd_status machine_builder_text(struct machine_builder *builder, const struct string_set *set,
                                    bool is_plain, uint32_t *out, serverd_error *err);

/* The value of a schema. SERVERD_INVALID if nothing satisfies it. *code: see struct normal. */
serverd_status machine_builder_schema(struct machine_builder *builder,
                                      const struct json_value *schema, uint32_t *out,
                                      const char **code, serverd_error *err);

/* The strings that satisfy a schema, as sets in the budget's arena. Errors as above. */
serverd_status machine_builder_strings(struct machine_builder *builder,
                                       const struct json_value *schema,
                                       const struct string_set **out, uint32_t *n_out,
                                       const char **code, serverd_error *err);

/* A text of these bytes alone, whatever they are; at most MACHINE_BYTES, else SERVERD_TIMEOUT. Far
 * cheaper than by an automaton. */
serverd_status machine_builder_bytes(struct machine_builder *builder, const char *bytes, size_t n,
                                     uint32_t *out, serverd_error *err);

/* Index of the new instruction; UINT32_MAX: no memory. */
uint32_t machine_builder_code(struct machine_builder *builder, struct machine_code code);

/* Builder's own: all that `goal` leads to (machine_values.c, object_plan.c). */
struct object_plan;
struct object_plan *object_plan_make(struct normal *n, const struct part *part);
uint32_t object_plan_n_goals(const struct object_plan *plan);
uint32_t object_plan_goal(const struct object_plan *plan, uint32_t index);
/* Whether such an object can be, by which goals are productive. */
bool object_plan_is_possible(struct normal *n, struct object_plan *plan);
/* `values`: by goal. */
serverd_status object_plan_emit(struct machine_builder *builder, struct object_plan *plan,
                                const uint32_t *values, serverd_error *err);

struct array_plan;
struct array_plan *array_plan_make(struct normal *n, const struct part *part);
uint32_t array_plan_n_goals(const struct array_plan *plan);
uint32_t array_plan_goal(const struct array_plan *plan, uint32_t index);
bool array_plan_is_possible(struct normal *n, struct array_plan *plan);
serverd_status array_plan_emit(struct machine_builder *builder, struct array_plan *plan,
                               const uint32_t *values, serverd_error *err);

#endif
