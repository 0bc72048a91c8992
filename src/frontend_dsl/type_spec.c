#include "frontend_dsl/type_spec.h"

#include "base/arena.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "frontend_dsl/dsl_json.h"
#include "grammar/regex.h"
#include "grammar/spelling.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum type_kind {
    TYPE_STRING,
    TYPE_INT,
    TYPE_FLOAT,
    TYPE_BOOL,
    TYPE_LIST,
    TYPE_OBJECT,
    TYPE_IMAGE,
    TYPE_JSON,
    N_TYPES
};

static const struct {
    const char *name, *schema; /* in JSON Schema; NULL: anything */
    bool has_bounds;
    const char *least, *most; /* names of the bounds in JSON Schema */
} types[N_TYPES] = {
    [TYPE_STRING] = {"string", "string", true, "minLength", "maxLength"},
    [TYPE_INT] = {"int", "integer", true, "minimum", "maximum"},
    [TYPE_FLOAT] = {"float", "number", true, "minimum", "maximum"},
    [TYPE_BOOL] = {"bool", "boolean", false, NULL, NULL},
    [TYPE_LIST] = {"list", "array", true, "minItems", "maxItems"},
    [TYPE_OBJECT] = {"object", "object", false, NULL, NULL},
    [TYPE_IMAGE] = {"image", "string", false, NULL, NULL},
    [TYPE_JSON] = {"json", NULL, false, NULL, NULL},
};

struct type_field {
    char *name;
    struct type_spec *spec;
};

struct type_spec {
    enum type_kind kind;
    json_t *standard;     /* the default, complete; NULL: it is required */
    json_t *choices;      /* of enum; NULL: any */
    json_t *least, *most; /* numbers; NULL: no bound */
    char *doc, *pattern;  /* NULL: none */
    struct arena *arena;  /* of the automaton */
    const struct dfa *automaton;
    struct type_spec *items;   /* of a list; NULL: anything */
    struct type_field *fields; /* [n_fields] of an object, by name */
    size_t n_fields;
};

void type_spec_destroy(struct type_spec *spec)
{
    if (!spec)
        return;
    json_decref(spec->standard);
    json_decref(spec->choices);
    json_decref(spec->least);
    json_decref(spec->most);
    free(spec->doc);
    free(spec->pattern);
    arena_destroy(spec->arena);
    type_spec_destroy(spec->items);
    for (size_t i = 0; i < spec->n_fields; i++) {
        free(spec->fields[i].name);
        type_spec_destroy(spec->fields[i].spec);
    }
    free(spec->fields);
    free(spec);
}

/* ---- reading ---- */

#define PATH_BYTES 128u

static serverd_status no_memory(struct dsl_error *err)
{
    dsl_error_set(err, "memory_limit", "there is no memory for the program");
    return SERVERD_NOMEM;
}

static serverd_status bad_spec(struct dsl_error *err, const char *path, const char *problem)
{
    dsl_error_set(err, "bad_program", "%s: %s", path, problem);
    return SERVERD_INVALID;
}

static bool find_kind(const char *name, enum type_kind *out)
{
    for (int kind = 0; kind < N_TYPES; kind++)
        if (strcmp(types[kind].name, name) == 0) {
            *out = (enum type_kind)kind;
            return true;
        }
    return false;
}

static serverd_status read_pattern(struct type_spec *spec, const json_t *source, const char *path,
                                   uint64_t deadline_ns, struct dsl_error *err)
{
    struct string_set set;
    struct grammar_budget budget;
    serverd_error problem;
    if (spec->kind != TYPE_STRING || !json_is_string(source))
        return bad_spec(err, path, "a pattern is a text, and of strings only");
    const char *text = json_string_value(source);
    struct arena *scratch = arena_create(LIMIT_GRAMMAR_BYTES);
    spec->pattern = strdup(text);
    spec->arena = arena_create(LIMIT_GRAMMAR_BYTES);
    if (!scratch || !spec->pattern || !spec->arena) {
        arena_destroy(scratch);
        return no_memory(err);
    }
    grammar_budget_init(&budget, scratch, &processor_clock, deadline_ns);
    serverd_status status =
        regex_compile(&budget, text, strlen(text), REGEX_SEARCH, &set, &problem);
    if (status == SERVERD_OK)
        status = spell(&budget, &set, SPELLING_PLAIN, spec->arena, &spec->automaton, &problem);
    arena_destroy(scratch);
    if (status != SERVERD_OK)
        dsl_error_set(err, "bad_program", "%s: the pattern: %s", path, problem.text);
    return status;
}

static serverd_status read_spec(const json_t *source, const char *path, uint64_t deadline_ns,
                                struct type_spec *spec, struct dsl_error *err);

static struct type_spec *make(void)
{
    return calloc(1, sizeof(struct type_spec));
}

static int compare_fields(const void *a, const void *b)
{
    return strcmp(((const struct type_field *)a)->name, ((const struct type_field *)b)->name);
}

/* Lua's {} is a list in JSON. */
static bool is_empty_list(const json_t *value)
{
    return json_is_array(value) && json_array_size(value) == 0;
}

static serverd_status read_fields(struct type_spec *spec, const json_t *source, const char *path,
                                  uint64_t deadline_ns, struct dsl_error *err)
{
    const char *name;
    json_t *item;
    spec->kind = TYPE_OBJECT;
    if (!source || is_empty_list(source))
        return SERVERD_OK;
    if (!json_is_object(source))
        return bad_spec(err, path, "fields have to be {name = type}");
    spec->fields = calloc(json_object_size(source) + 1, sizeof *spec->fields);
    if (!spec->fields)
        return no_memory(err);
    json_object_foreach((json_t *)source, name, item)
    {
        char below[PATH_BYTES];
        struct type_field *field = &spec->fields[spec->n_fields++];
        snprintf(below, sizeof below, "%s.%s", path, name);
        field->name = strdup(name);
        field->spec = make();
        if (!field->name || !field->spec)
            return no_memory(err);
        serverd_status status = read_spec(item, below, deadline_ns, field->spec, err);
        if (status != SERVERD_OK)
            return status;
    }
    qsort(spec->fields, spec->n_fields, sizeof *spec->fields, compare_fields);
    return SERVERD_OK;
}

static serverd_status read_bound(const struct type_spec *spec, const json_t *source,
                                 const char *path, json_t **out, struct dsl_error *err)
{
    if (!source)
        return SERVERD_OK;
    if (!types[spec->kind].has_bounds)
        return bad_spec(err, path, "min and max are for int, float, string and list");
    if (!json_is_number(source) || (spec->kind != TYPE_FLOAT && !json_is_integer(source)))
        return bad_spec(err, path, "min and max have to be numbers, and whole except of a float");
    *out = json_incref((json_t *)source);
    return SERVERD_OK;
}

static serverd_status check(const struct type_spec *spec, const json_t *value, const char *path,
                            const char *code, json_t **out, struct dsl_error *err);

/* The choices, each of the type and without bounds of its own; then the default. */
static serverd_status read_values(struct type_spec *spec, const json_t *source, const char *path,
                                  struct dsl_error *err)
{
    const json_t *choices = json_object_get(source, "enum"),
                 *standard = json_object_get(source, "default");
    size_t i;
    json_t *item;
    serverd_status status = SERVERD_OK;
    if (choices) {
        if (!json_is_array(choices) || json_array_size(choices) == 0)
            return bad_spec(err, path, "enum has to be a list of values");
        json_t *list = json_array();
        if (!list)
            return no_memory(err);
        json_array_foreach(choices, i, item)
        {
            json_t *complete;
            status = check(spec, item, path, "bad_program", &complete, err);
            if (status != SERVERD_OK || json_array_append_new(list, complete) != 0)
                break;
        }
        spec->choices = list;
    }
    if (status != SERVERD_OK || !standard)
        return status;
    if (spec->kind == TYPE_OBJECT && is_empty_list(standard)) {
        json_t *empty = json_object();
        status = check(spec, empty, path, "bad_program", &spec->standard, err);
        json_decref(empty);
        return status;
    }
    return check(spec, standard, path, "bad_program", &spec->standard, err);
}

static serverd_status check_names(const json_t *source, const char *path, struct dsl_error *err)
{
    static const char *const known[] = {"type", "items", "fields", "default", "doc",
                                        "enum", "min",   "max",    "pattern"};
    const char *name;
    json_t *item;
    json_object_foreach((json_t *)source, name, item)
    {
        bool is_known = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            is_known |= strcmp(known[i], name) == 0;
        if (!is_known) {
            dsl_error_set(err, "bad_program", "%s: a type has no field %s", path, name);
            return SERVERD_INVALID;
        }
    }
    return SERVERD_OK;
}

/* What only some types have. */
static serverd_status read_parts(struct type_spec *spec, const json_t *source, const char *path,
                                 uint64_t deadline_ns, struct dsl_error *err)
{
    const json_t *items = json_object_get(source, "items"),
                 *fields = json_object_get(source, "fields"),
                 *pattern = json_object_get(source, "pattern"),
                 *doc = json_object_get(source, "doc");
    serverd_status status = SERVERD_OK;
    if (doc && !json_is_string(doc))
        return bad_spec(err, path, "doc has to be a text");
    if (doc && !(spec->doc = strdup(json_string_value(doc))))
        return no_memory(err);
    if (items) {
        char below[PATH_BYTES];
        if (spec->kind != TYPE_LIST)
            return bad_spec(err, path, "items are for lists");
        snprintf(below, sizeof below, "%s[]", path);
        if (!(spec->items = make()))
            return no_memory(err);
        status = read_spec(items, below, deadline_ns, spec->items, err);
    }
    if (status == SERVERD_OK && fields && spec->kind != TYPE_OBJECT)
        return bad_spec(err, path, "fields are for objects");
    if (status == SERVERD_OK && spec->kind == TYPE_OBJECT)
        status = fields ? read_fields(spec, fields, path, deadline_ns, err)
                        : bad_spec(err, path, "an object needs fields");
    if (status == SERVERD_OK)
        status = read_bound(spec, json_object_get(source, "min"), path, &spec->least, err);
    if (status == SERVERD_OK)
        status = read_bound(spec, json_object_get(source, "max"), path, &spec->most, err);
    if (status == SERVERD_OK && pattern)
        status = read_pattern(spec, pattern, path, deadline_ns, err);
    return status;
}

static serverd_status read_spec(const json_t *source, const char *path, uint64_t deadline_ns,
                                struct type_spec *spec, struct dsl_error *err)
{
    const json_t *type = json_is_string(source) ? source : json_object_get(source, "type");
    if (!json_is_string(source) && !json_is_object(source))
        return bad_spec(err, path, "a type has to be a name or {type = name, ..}");
    if (!json_is_string(type) || !find_kind(json_string_value(type), &spec->kind)) {
        dsl_error_set(err, "bad_program",
                      "%s: the type %s is none of string, int, float, bool, list, object, image, "
                      "json",
                      path, json_is_string(type) ? json_string_value(type) : "is missing and");
        return SERVERD_INVALID;
    }
    if (json_is_string(source))
        return spec->kind == TYPE_OBJECT ? bad_spec(err, path, "an object needs fields")
                                         : SERVERD_OK;
    serverd_status status = check_names(source, path, err);
    if (status == SERVERD_OK)
        status = read_parts(spec, source, path, deadline_ns, err);
    if (status == SERVERD_OK)
        status = read_values(spec, source, path, err);
    return status;
}

static serverd_status hand_over(serverd_status status, struct type_spec *spec,
                                struct type_spec **out)
{
    if (status == SERVERD_OK)
        *out = spec;
    else
        type_spec_destroy(spec);
    return status;
}

serverd_status type_spec_read(const json_t *source, const char *path, uint64_t deadline_ns,
                              struct type_spec **out, struct dsl_error *err)
{
    struct type_spec *spec = make();
    if (!spec)
        return no_memory(err);
    return hand_over(read_spec(source, path, deadline_ns, spec, err), spec, out);
}

serverd_status type_spec_read_fields(const json_t *fields, const char *path, uint64_t deadline_ns,
                                     struct type_spec **out, struct dsl_error *err)
{
    struct type_spec *spec = make();
    if (!spec)
        return no_memory(err);
    return hand_over(read_fields(spec, fields, path, deadline_ns, err), spec, out);
}

/* ---- checking ---- */

static serverd_status breach(struct dsl_error *err, const char *code, const char *path,
                             const char *problem, const char *detail)
{
    dsl_error_set(err, code, "%s %s%s", path, problem, detail);
    snprintf(err->param, sizeof err->param, "%s", path);
    return SERVERD_INVALID;
}

/* < 0, 0, > 0; whole numbers exactly. */
static int compare_numbers(const json_t *a, const json_t *b)
{
    if (json_is_integer(a) && json_is_integer(b)) {
        json_int_t x = json_integer_value(a), y = json_integer_value(b);
        return (x > y) - (x < y);
    }
    double x = json_number_value(a), y = json_number_value(b);
    return (x > y) - (x < y);
}

/* What min and max are about, a new number; NULL: nothing. */
static json_t *measure(const struct type_spec *spec, const json_t *value)
{
    switch (spec->kind) {
    case TYPE_INT:
    case TYPE_FLOAT:
        return json_incref((json_t *)value);
    case TYPE_STRING:
        return json_integer((json_int_t)json_string_length(value));
    case TYPE_LIST:
        return json_integer((json_int_t)json_array_size(value));
    default:
        return NULL;
    }
}

static serverd_status check_bounds(const struct type_spec *spec, const json_t *value,
                                   const char *path, const char *code, struct dsl_error *err)
{
    json_t *size = measure(spec, value);
    const char *what = spec->kind == TYPE_STRING ? "bytes: "
                       : spec->kind == TYPE_LIST ? "items: "
                                                 : "";
    serverd_status status = SERVERD_OK;
    const json_t *bound = NULL;
    const char *problem = NULL;
    if (size && spec->least && compare_numbers(size, spec->least) < 0) {
        bound = spec->least;
        problem = "at least";
    } else if (size && spec->most && compare_numbers(size, spec->most) > 0) {
        bound = spec->most;
        problem = "at most";
    }
    if (bound) {
        char *found = dsl_json_text(size, NULL), *allowed = dsl_json_text(bound, NULL);
        char text[160];
        snprintf(text, sizeof text, "%s%s, %s %s", what, found ? found : "?", problem,
                 allowed ? allowed : "?");
        free(found);
        free(allowed);
        status = breach(err, code, path, *what ? "has " : "is ", text);
    }
    json_decref(size);
    return status;
}

static serverd_status check_choices(const struct type_spec *spec, const json_t *value,
                                    const char *path, const char *code, struct dsl_error *err)
{
    size_t i;
    json_t *item;
    if (!spec->choices)
        return SERVERD_OK;
    json_array_foreach(spec->choices, i, item)
    {
        if (json_equal(item, value))
            return SERVERD_OK;
    }
    char *allowed = dsl_json_text(spec->choices, NULL);
    breach(err, code, path, "is none of ", allowed ? allowed : "the allowed values");
    free(allowed);
    return SERVERD_INVALID;
}

static const struct type_field *find_field(const struct type_spec *spec, const char *name)
{
    const struct type_field key = {.name = (char *)(uintptr_t)name};
    if (spec->n_fields == 0)
        return NULL;
    return bsearch(&key, spec->fields, spec->n_fields, sizeof key, compare_fields);
}

static serverd_status check_field(const struct type_field *field, const json_t *value,
                                  const char *path, const char *code, json_t *object,
                                  struct dsl_error *err)
{
    char below[PATH_BYTES];
    json_t *complete;
    snprintf(below, sizeof below, "%s.%s", path, field->name);
    if (value) {
        serverd_status status = check(field->spec, value, below, code, &complete, err);
        if (status != SERVERD_OK)
            return status;
    } else if (field->spec->standard) {
        complete = json_deep_copy(field->spec->standard);
    } else {
        return breach(err, code, below, "is required", "");
    }
    return json_object_set_new(object, field->name, complete) == 0 ? SERVERD_OK : no_memory(err);
}

static serverd_status check_object(const struct type_spec *spec, const json_t *value,
                                   const char *path, const char *code, json_t **out,
                                   struct dsl_error *err)
{
    const char *name;
    json_t *item;
    json_object_foreach((json_t *)value, name, item)
    {
        if (!find_field(spec, name)) {
            char below[PATH_BYTES];
            snprintf(below, sizeof below, "%s.%s", path, name);
            return breach(err, code, below, "is not declared", "");
        }
    }
    json_t *object = json_object();
    if (!object)
        return no_memory(err);
    for (size_t i = 0; i < spec->n_fields; i++) {
        serverd_status status =
            check_field(&spec->fields[i], json_object_get(value, spec->fields[i].name), path, code,
                        object, err);
        if (status != SERVERD_OK) {
            json_decref(object);
            return status;
        }
    }
    *out = object;
    return SERVERD_OK;
}

static serverd_status check_list(const struct type_spec *spec, const json_t *value,
                                 const char *path, const char *code, json_t **out,
                                 struct dsl_error *err)
{
    json_t *list = json_array(), *item;
    size_t i;
    if (!list)
        return no_memory(err);
    json_array_foreach(value, i, item)
    {
        char below[PATH_BYTES];
        json_t *complete = NULL;
        serverd_status status = SERVERD_OK;
        snprintf(below, sizeof below, "%s[%zu]", path, i + 1);
        if (spec->items)
            status = check(spec->items, item, below, code, &complete, err);
        else
            complete = json_deep_copy(item);
        if (status == SERVERD_OK && json_array_append_new(list, complete) != 0)
            status = no_memory(err);
        if (status != SERVERD_OK) {
            json_decref(list);
            return status;
        }
    }
    *out = list;
    return SERVERD_OK;
}

/* The value as one of the type's, a new reference; *is_one: it is of the type. NULL: no memory, or
 * it is none. */
static json_t *as_number(const struct type_spec *spec, const json_t *value, bool *is_one)
{
    *is_one = json_is_number(value);
    if (!*is_one)
        return NULL;
    if (spec->kind == TYPE_FLOAT)
        return json_real(json_number_value(value));
    if (json_is_integer(value))
        return json_integer(json_integer_value(value));
    double number = json_real_value(value);
    *is_one = number == floor(number) && number >= -0x1p63 && number < 0x1p63;
    return *is_one ? json_integer((json_int_t)number) : NULL;
}

static serverd_status check_kind(const struct type_spec *spec, const json_t *value,
                                 const char *path, const char *code, json_t **out,
                                 struct dsl_error *err)
{
    bool is_one = false;
    json_t *complete = NULL;
    switch (spec->kind) {
    case TYPE_INT:
    case TYPE_FLOAT:
        complete = as_number(spec, value, &is_one);
        break;
    case TYPE_STRING:
    case TYPE_IMAGE:
        is_one = json_is_string(value);
        break;
    case TYPE_BOOL:
        is_one = json_is_boolean(value);
        break;
    case TYPE_JSON:
        is_one = true;
        break;
    case TYPE_LIST:
        if (json_is_array(value))
            return check_list(spec, value, path, code, out, err);
        break;
    case TYPE_OBJECT:
        if (json_is_object(value))
            return check_object(spec, value, path, code, out, err);
        break;
    case N_TYPES:
        break;
    }
    if (!is_one)
        return breach(err, code, path, "has to be of type ", types[spec->kind].name);
    *out = complete ? complete : json_deep_copy(value);
    return *out ? SERVERD_OK : no_memory(err);
}

static serverd_status check(const struct type_spec *spec, const json_t *value, const char *path,
                            const char *code, json_t **out, struct dsl_error *err)
{
    json_t *complete;
    serverd_status status = check_kind(spec, value, path, code, &complete, err);
    if (status != SERVERD_OK)
        return status;
    status = check_bounds(spec, complete, path, code, err);
    if (status == SERVERD_OK)
        status = check_choices(spec, complete, path, code, err);
    if (status == SERVERD_OK && spec->automaton &&
        !dfa_accepts(spec->automaton, json_string_value(complete), json_string_length(complete)))
        status = breach(err, code, path, "does not match the pattern ", spec->pattern);
    if (status == SERVERD_OK)
        *out = complete;
    else
        json_decref(complete);
    return status;
}

serverd_status type_spec_complete(const struct type_spec *spec, const json_t *value,
                                  const char *path, const char *code, json_t **out,
                                  struct dsl_error *err)
{
    if (value)
        return check(spec, value, path, code, out, err);
    if (spec->kind != TYPE_OBJECT)
        return breach(err, code, path, "is required", "");
    json_t *empty = json_object();
    serverd_status status = empty ? check(spec, empty, path, code, out, err) : no_memory(err);
    json_decref(empty);
    return status;
}

/* ---- JSON Schema ---- */

static void add_object_schema(const struct type_spec *spec, json_t *schema)
{
    json_t *properties = json_object(), *required = json_array();
    for (size_t i = 0; i < spec->n_fields; i++) {
        const struct type_field *field = &spec->fields[i];
        json_object_set_new(properties, field->name, type_spec_schema(field->spec));
        if (!field->spec->standard)
            json_array_append_new(required, json_string(field->name));
    }
    json_object_set_new(schema, "properties", properties);
    json_object_set_new(schema, "required", required);
    json_object_set_new(schema, "additionalProperties", json_false());
}

/* Bounds of a text are bytes here and characters there, of up to four bytes: what is published
 * refuses nothing that is allowed. */
static void add_bounds(const struct type_spec *spec, json_t *schema)
{
    const char *least = types[spec->kind].least, *most = types[spec->kind].most;
    if (spec->least && spec->kind == TYPE_STRING)
        json_object_set_new(schema, least, json_integer((json_integer_value(spec->least) + 3) / 4));
    else if (spec->least)
        json_object_set(schema, least, spec->least);
    if (spec->most)
        json_object_set(schema, most, spec->most);
}

json_t *type_spec_schema(const struct type_spec *spec)
{
    json_t *schema = json_object();
    if (types[spec->kind].schema)
        json_object_set_new(schema, "type", json_string(types[spec->kind].schema));
    if (spec->doc)
        json_object_set_new(schema, "description", json_string(spec->doc));
    if (spec->kind == TYPE_IMAGE)
        json_object_set_new(schema, "format", json_string("uri"));
    if (spec->items)
        json_object_set_new(schema, "items", type_spec_schema(spec->items));
    if (spec->kind == TYPE_OBJECT)
        add_object_schema(spec, schema);
    if (spec->choices)
        json_object_set(schema, "enum", spec->choices);
    if (spec->pattern)
        json_object_set_new(schema, "pattern", json_string(spec->pattern));
    add_bounds(spec, schema);
    if (spec->standard)
        json_object_set(schema, "default", spec->standard);
    return schema;
}
