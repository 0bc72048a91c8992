#include "grammar/machine_build.h"

#include "base/error.h"
#include "grammar/text_reach.h"

#include <string.h>

/* ---- tables ---------------------------------------------------------------------------------- */

void machine_builder_init(struct machine_builder *builder, struct grammar_budget *budget,
                          struct arena *keep, bool produces, enum json_whitespace whitespace)
{
    *builder = (struct machine_builder){
        .budget = budget, .keep = keep, .produces = produces, .whitespace = whitespace};
}

void *machine_table_add(struct machine_builder *builder, struct machine_table *table, size_t bytes)
{
    if (table->n == table->cap) {
        uint32_t cap = table->cap ? table->cap * 2 : 16;
        char *items = arena_array(builder->keep, cap, bytes);
        if (!items)
            return NULL;
        if (table->n)
            memcpy(items, table->items, table->n * bytes);
        table->items = items;
        table->cap = cap;
    }
    return (char *)table->items + table->n++ * bytes;
}

uint32_t machine_builder_code(struct machine_builder *builder, struct machine_code code)
{
    struct machine_code *out = machine_table_add(builder, &builder->code, sizeof *out);
    if (!out || builder->code.n > LIMIT_GRAMMAR_CODE)
        return UINT32_MAX;
    *out = code;
    return builder->code.n - 1;
}

/* ---- texts ----------------------------------------------------------------------------------- */

struct text_source {
    struct string_set set;
    bool is_plain;
};

static bool is_same(const struct text_source *a, const struct text_source *b)
{
    return a->is_plain == b->is_plain && a->set.min == b->set.min && a->set.max == b->set.max &&
           (a->set.automaton == b->set.automaton ||
            automaton_equal(a->set.automaton, b->set.automaton));
}

static bool is_inexhaustible(const struct string_set *set)
{
    bool is = set->max == UNBOUNDED;
    for (uint32_t state = 1; state < set->automaton->n_states && is; state++)
        is = set->automaton->longest[state] == UNBOUNDED;
    return is;
}

serverd_status machine_builder_text(struct machine_builder *builder, const struct string_set *set,
                                    bool is_plain, uint32_t *out, serverd_error *err)
{
    const struct text_source source = {*set, is_plain};
    const struct text_source *known = builder->text_sources.items;
    for (uint32_t i = 0; i < builder->text_sources.n; i++)
        if (is_same(&known[i], &source)) {
            *out = i;
            return SERVERD_OK;
        }
    struct machine_text *text = machine_table_add(builder, &builder->texts, sizeof *text);
    struct text_source *kept = machine_table_add(builder, &builder->text_sources, sizeof *kept);
    if (!text || !kept)
        return grammar_budget_memory(err);
    *text = (struct machine_text){.is_anything = set->min == 0 && set->max == UNBOUNDED &&
                                                 automaton_is_anything(set->automaton),
                                  .is_plain = is_plain,
                                  .is_inexhaustible = is_inexhaustible(set)};
    *kept = source;
    *out = builder->texts.n - 1;
    struct string_set *copy = arena_alloc(builder->keep, sizeof *copy);
    if (!copy)
        return grammar_budget_memory(err);
    *copy = *set;
    text->set = builder->produces ? NULL : copy;
    if (!builder->produces && !is_plain)
        return SERVERD_OK;
    uint32_t index = *out;
    const struct dfa *dfa;
    const uint8_t *reach = NULL;
    serverd_status status = spell(builder->budget, set, is_plain ? SPELLING_PLAIN : SPELLING_JSON,
                                  builder->keep, &dfa, err);
    if (status == SERVERD_OK && builder->produces)
        status = text_reach(builder->budget, dfa, builder->keep, &reach, err);
    if (status == SERVERD_OK) {
        text = &((struct machine_text *)builder->texts.items)[index];
        text->dfa = dfa;
        text->reach = reach;
    }
    return status;
}

/* State i + 1 has read i of the bytes. */
static struct dfa *dfa_of_bytes(struct arena *keep, const char *bytes, size_t n)
{
    struct dfa *dfa = arena_alloc(keep, sizeof *dfa);
    uint32_t n_states = (uint32_t)n + 2, n_classes = 1;
    uint8_t class_of[256] = {0};
    for (size_t i = 0; i < n; i++)
        if (class_of[(uint8_t)bytes[i]] == 0)
            class_of[(uint8_t)bytes[i]] = (uint8_t)n_classes++;
    uint16_t *next = arena_array(keep, (size_t)n_states * n_classes, sizeof *next);
    uint8_t *flags = arena_array(keep, n_states, sizeof *flags);
    if (!dfa || !next || !flags)
        return NULL;
    memset(next, 0, (size_t)n_states * n_classes * sizeof *next);
    memset(flags, 0, n_states);
    for (uint32_t i = 0; i < n; i++)
        next[(i + 1) * n_classes + class_of[(uint8_t)bytes[i]]] = (uint16_t)(i + 2);
    flags[n_states - 1] = DFA_ACCEPTS;
    *dfa = (struct dfa){.n_states = n_states,
                        .start = 1,
                        .n_classes = n_classes,
                        .max = UNBOUNDED,
                        .next16 = next,
                        .flags = flags};
    memcpy(dfa->class_of, class_of, sizeof class_of);
    return dfa;
}

serverd_status machine_builder_bytes(struct machine_builder *builder, const char *bytes, size_t n,
                                     uint32_t *out, serverd_error *err)
{
    if (n > MACHINE_BYTES)
        return fail(err, SERVERD_TIMEOUT, "grammar: a token of %zu bytes, at most %u allowed", n,
                    MACHINE_BYTES);
    struct machine_text *text = machine_table_add(builder, &builder->texts, sizeof *text);
    struct text_source *kept = machine_table_add(builder, &builder->text_sources, sizeof *kept);
    struct dfa *dfa = dfa_of_bytes(builder->keep, bytes, n);
    if (!text || !kept || !dfa)
        return grammar_budget_memory(err);
    *text = (struct machine_text){.is_plain = true, .dfa = dfa};
    *kept = (struct text_source){.set = {.min = UNBOUNDED}, .is_plain = true}; /* as no other */
    *out = builder->texts.n - 1;
    return SERVERD_OK;
}

/* ---- values ---------------------------------------------------------------------------------- */

struct goal_plan {
    struct array_plan **arrays;
    struct object_plan **objects;
    uint32_t n_arrays, n_objects;
    bool is_planned;
};

struct planner {
    struct normal *n;
    struct machine_builder *builder;
    struct goal_plan *plans; /* by goal */
    uint32_t cap;
    uint32_t *queue, n_queued, cap_queue; /* goals that the root leads to */
};

static void enqueue(struct planner *p, uint32_t goal)
{
    struct normal *n = p->n;
    if (goal == GOAL_FALSE || !normal_ok(n))
        return;
    if (goal >= p->cap) {
        uint32_t cap = goal * 2 > 256 ? goal * 2 : 256;
        struct goal_plan *plans = normal_array(n, cap, sizeof *plans);
        uint32_t *queue = normal_array(n, (size_t)cap, sizeof *queue);
        if (!plans || !queue)
            return;
        if (p->cap)
            memcpy(plans, p->plans, p->cap * sizeof *plans);
        if (p->n_queued)
            memcpy(queue, p->queue, p->n_queued * sizeof *queue);
        p->plans = plans;
        p->queue = queue;
        p->cap = cap;
    }
    if (!p->plans[goal].is_planned) {
        p->plans[goal].is_planned = true;
        p->queue[p->n_queued++] = goal;
    }
}

static void plan_arrays(struct planner *p, uint32_t index)
{
    struct normal *n = p->n;
    const struct part_list *parts = &n->goals[index]->parts[PART_ARRAY];
    struct array_plan **plans = normal_array(n, parts->n, sizeof(void *));
    uint32_t count = 0;
    for (uint32_t i = 0; i < parts->n && normal_ok(n); i++) {
        struct array_plan *plan = array_plan_make(n, parts->item[i]);
        if (!plan)
            break;
        plans[count++] = plan;
        for (uint32_t j = 0; j < array_plan_n_goals(plan); j++)
            enqueue(p, array_plan_goal(plan, j));
    }
    p->plans[index].arrays = plans;
    p->plans[index].n_arrays = count;
}

static void plan_objects(struct planner *p, uint32_t index)
{
    struct normal *n = p->n;
    const struct part_list *parts = &n->goals[index]->parts[PART_OBJECT];
    struct object_plan **plans = normal_array(n, parts->n, sizeof(void *));
    uint32_t count = 0;
    for (uint32_t i = 0; i < parts->n && normal_ok(n); i++) {
        struct object_plan *plan = object_plan_make(n, parts->item[i]);
        if (!plan)
            break;
        plans[count++] = plan;
        for (uint32_t j = 0; j < object_plan_n_goals(plan); j++)
            enqueue(p, object_plan_goal(plan, j));
    }
    p->plans[index].objects = plans;
    p->plans[index].n_objects = count;
}

static void plan_all(struct planner *p, uint32_t root)
{
    enqueue(p, root);
    for (uint32_t i = 0; i < p->n_queued && normal_ok(p->n); i++) {
        uint32_t goal = p->queue[i];
        if (p->n->goals[goal]->n > 0)
            p->n->place = literal_at(p->n, p->n->goals[goal]->literals[0])->json;
        goal_expand(p->n, goal);
        if (normal_ok(p->n))
            plan_arrays(p, goal);
        if (normal_ok(p->n))
            plan_objects(p, goal);
    }
}

/* A goal is productive if a finite value satisfies it: the least fixed point. */
static bool becomes_productive(struct planner *p, uint32_t index)
{
    struct normal *n = p->n;
    const struct goal_plan *plan = &p->plans[index];
    bool is_productive = !scalars_are_empty(&n->goals[index]->scalars);
    for (uint32_t i = 0; i < plan->n_arrays && !is_productive; i++)
        is_productive = array_plan_is_possible(n, plan->arrays[i]);
    for (uint32_t i = 0; i < plan->n_objects && !is_productive; i++)
        is_productive = object_plan_is_possible(n, plan->objects[i]);
    return is_productive;
}

static void find_productive(struct planner *p)
{
    struct normal *n = p->n;
    for (bool has_changed = true; has_changed && normal_ok(n);) {
        has_changed = false;
        for (uint32_t i = p->n_queued; i-- > 0 && normal_ok(n);) {
            struct goal *goal = n->goals[p->queue[i]];
            serverd_status status = grammar_budget_spend(n->budget, 16, n->err);
            if (status != SERVERD_OK)
                normal_failed(n, status, NULL);
            if (!goal->is_productive && becomes_productive(p, p->queue[i]))
                goal->is_productive = has_changed = true;
        }
    }
}

/* ---- emission -------------------------------------------------------------------------------- */

/* One automaton for all the numbers of a value. */
static serverd_status number_text(struct machine_builder *builder, const struct scalar_set *set,
                                  uint32_t *out, serverd_error *err)
{
    const struct automaton *all = NULL, *one, *both;
    for (uint32_t i = 0; i < set->n_numbers; i++) {
        serverd_status status =
            number_set_automaton(builder->budget, &set->numbers[i].set, &one, err);
        if (status == SERVERD_OK && all) {
            status = automaton_union(builder->budget, all, one, &both, err);
            one = both;
        }
        if (status != SERVERD_OK)
            return status;
        all = one;
    }
    *out = MACHINE_NOTHING;
    if (!all || automaton_is_empty(all))
        return SERVERD_OK;
    const struct string_set texts = {.automaton = all, .max = UNBOUNDED};
    return machine_builder_text(builder, &texts, true, out, err);
}

static serverd_status emit_scalars(struct machine_builder *builder, const struct scalar_set *set,
                                   struct machine_value *value, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    value->words = set->words;
    value->number = MACHINE_NOTHING;
    if (builder->produces) {
        status = number_text(builder, set, &value->number, err);
    } else if (set->n_numbers > 0) {
        value->number = 0;
        value->numbers = set->numbers;
        value->n_numbers = set->n_numbers;
    }
    value->n_texts = set->n_strings;
    uint32_t *texts = arena_array(builder->keep, set->n_strings, sizeof *texts);
    if (!texts)
        return grammar_budget_memory(err);
    for (uint32_t i = 0; i < set->n_strings && status == SERVERD_OK; i++)
        status = machine_builder_text(builder, &set->strings[i], false, &texts[i], err);
    value->texts = texts;
    return status;
}

static serverd_status emit_value(struct planner *p, uint32_t index, const uint32_t *values,
                                 serverd_error *err)
{
    struct machine_builder *builder = p->builder;
    const struct goal_plan *plan = &p->plans[index];
    struct machine_value value = {.first_array = builder->arrays.n,
                                  .first_object = builder->objects.n};
    serverd_status status = emit_scalars(builder, &p->n->goals[index]->scalars, &value, err);
    for (uint32_t i = 0; i < plan->n_arrays && status == SERVERD_OK; i++)
        if (array_plan_is_possible(p->n, plan->arrays[i])) {
            status = array_plan_emit(builder, plan->arrays[i], values, err);
            value.n_arrays++;
        }
    for (uint32_t i = 0; i < plan->n_objects && status == SERVERD_OK; i++)
        if (object_plan_is_possible(p->n, plan->objects[i])) {
            status = object_plan_emit(builder, plan->objects[i], values, err);
            value.n_objects++;
        }
    if (status == SERVERD_OK)
        ((struct machine_value *)builder->values.items)[values[index]] = value;
    return status;
}

static serverd_status emit_goal(struct planner *p, uint32_t index, const uint32_t *values,
                                serverd_error *err)
{
    const struct goal *goal = p->n->goals[index];
    p->n->place = goal->n > 0 ? literal_at(p->n, goal->literals[0])->json : NULL;
    return emit_value(p, index, values, err);
}

static serverd_status emit_all(struct planner *p, uint32_t root, uint32_t *out, serverd_error *err)
{
    struct normal *n = p->n;
    uint32_t *values = normal_array(n, n->n_goals, sizeof *values);
    serverd_status status = SERVERD_OK;
    if (!values)
        return n->status;
    for (uint32_t i = 0; i < p->n_queued; i++) {
        uint32_t goal = p->queue[i];
        if (!n->goals[goal]->is_productive)
            continue;
        values[goal] = p->builder->values.n;
        if (!machine_table_add(p->builder, &p->builder->values, sizeof(struct machine_value)))
            return grammar_budget_memory(err);
    }
    for (uint32_t i = 0; i < p->n_queued && status == SERVERD_OK; i++)
        if (n->goals[p->queue[i]]->is_productive)
            status = emit_goal(p, p->queue[i], values, err);
    *out = values[root];
    return status;
}

/* The document of a schema; failures are the normal form's. */
static void begin_schema(struct machine_builder *builder, const struct json_value *schema,
                         struct normal *n, serverd_error *err)
{
    struct schema_document *document;
    *n = (struct normal){.err = err};
    serverd_status status = schema_document_create(builder->budget, schema, &document, err);
    if (status == SERVERD_OK)
        status = normal_init(n, builder->budget, document, builder->produces, err);
    if (status != SERVERD_OK)
        normal_failed(n, status, NULL);
}

serverd_status machine_builder_strings(struct machine_builder *builder,
                                       const struct json_value *schema,
                                       const struct string_set **out, uint32_t *n_out,
                                       const char **code, serverd_error *err)
{
    struct normal n;
    *n_out = 0;
    begin_schema(builder, schema, &n, err);
    uint32_t root = normal_ok(&n) ? goal_add(&n, GOAL_TRUE, literal_of_schema(&n, schema)) : 0;
    if (normal_ok(&n) && root != GOAL_FALSE) {
        goal_expand(&n, root);
        *out = n.goals[root]->scalars.strings;
        *n_out = n.goals[root]->scalars.n_strings;
    }
    if (normal_ok(&n) && *n_out == 0)
        normal_refuse(&n, SERVERD_INVALID, schema, "no string satisfies the schema");
    *code = n.code;
    return n.status;
}

serverd_status machine_builder_schema(struct machine_builder *builder,
                                      const struct json_value *schema, uint32_t *out,
                                      const char **code, serverd_error *err)
{
    struct normal n;
    struct planner p = {.n = &n, .builder = builder};
    serverd_status status = SERVERD_OK;
    begin_schema(builder, schema, &n, err);
    if (!normal_ok(&n)) {
        *code = n.code;
        return n.status;
    }
    if (!builder->produces && !builder->number_texts)
        status = number_text_automaton(builder->budget, &builder->number_texts, err);
    if (status != SERVERD_OK)
        normal_failed(&n, status, NULL);
    uint32_t root = goal_add(&n, GOAL_TRUE, literal_of_schema(&n, schema));
    plan_all(&p, root);
    find_productive(&p);
    bool is_possible = normal_ok(&n) && root != GOAL_FALSE && n.goals[root]->is_productive;
    if (normal_ok(&n) && !is_possible && builder->produces)
        normal_refuse(&n, SERVERD_INVALID, schema, "no value satisfies the schema");
    if (normal_ok(&n) && !is_possible) { /* to check is to reject everything */
        struct machine_value *nothing =
            machine_table_add(builder, &builder->values, sizeof *nothing);
        *out = builder->values.n - 1;
        if (nothing)
            *nothing = (struct machine_value){.number = MACHINE_NOTHING};
        else
            normal_failed(&n, grammar_budget_memory(err), schema);
    } else if (normal_ok(&n)) {
        status = emit_all(&p, root, out, err);
        if (status != SERVERD_OK)
            normal_failed(&n, status, NULL);
    }
    *code = n.code;
    return n.status;
}
