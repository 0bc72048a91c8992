/* What an output has to be: grammars, and outputs as values. */
#include "base/numeric.h"
#include "frontend_dsl/gen_internal.h"

#include <stdlib.h>
#include <string.h>

#define INTEGER " ?-?(0|[1-9][0-9]{0,17})"

static const struct {
    const char *name, *pattern; /* NULL: a JSON string */
    enum gen_value value;
} dtypes[] = {
    {"int", INTEGER, GEN_INT},
    {"float", INTEGER "(\\.[0-9]{1,17})?([eE][+-]?[0-9]{1,3})?", GEN_FLOAT},
    {"bool", " ?(true|false)", GEN_BOOL},
    {"string", NULL, GEN_JSON},
};

/* ---- schemas --------------------------------------------------------------------------------- */

static bool is_map_of_schemas(const char *key)
{
    static const char *const names[] = {"properties", "$defs", "definitions", "patternProperties",
                                        "dependentSchemas"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(key, names[i]) == 0)
            return true;
    return false;
}

static bool is_schema(const char *key)
{
    static const char *const names[] = {
        "items", "additionalProperties", "not", "contains", "propertyNames", "if", "then",
        "else",  "unevaluatedProperties"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(key, names[i]) == 0)
            return true;
    return false;
}

static json_t *ordered_schema(const json_t *schema, uint32_t depth);

/* The members named in `required` first, in its order; the others by name, as they stand. */
static json_t *ordered_map(const json_t *map, const json_t *required, uint32_t depth)
{
    json_t *out = json_object(), *item;
    const char *key;
    size_t i;
    json_array_foreach(required, i, item)
    {
        const json_t *member = json_object_get(map, json_string_value(item));
        if (member)
            (void)json_object_set_new(out, json_string_value(item), ordered_schema(member, depth));
    }
    json_object_foreach((json_t *)map, key, item)
    {
        if (!json_object_get(out, key))
            (void)json_object_set_new(out, key, ordered_schema(item, depth));
    }
    return out;
}

/* A schema from a Lua table: an empty table is an object where a schema stands, and properties come
 * in the order of `required`. Depth is bounded by the conversion. */
static json_t *ordered_schema(const json_t *schema, uint32_t depth)
{
    const char *key;
    json_t *item, *out;
    size_t i;
    if (json_is_array(schema) && json_array_size(schema) == 0)
        return json_object();
    if (!json_is_object(schema) || depth > LIMIT_JSON_DEPTH)
        return json_incref((json_t *)schema);
    out = json_object();
    json_object_foreach((json_t *)schema, key, item)
    {
        json_t *made;
        if (is_map_of_schemas(key)) {
            const json_t *required =
                strcmp(key, "properties") == 0 ? json_object_get(schema, "required") : NULL;
            made = ordered_map(item, required, depth + 1);
        } else if (is_schema(key)) {
            made = ordered_schema(item, depth + 1);
        } else if (strcmp(key, "anyOf") == 0 || strcmp(key, "oneOf") == 0 ||
                   strcmp(key, "allOf") == 0 || strcmp(key, "prefixItems") == 0) {
            json_t *member;
            made = json_array();
            json_array_foreach(item, i, member)(void)
                json_array_append_new(made, ordered_schema(member, depth + 1));
        } else {
            made = json_incref(item);
        }
        (void)json_object_set_new(out, key, made);
    }
    return out;
}

/* ---- compiling ------------------------------------------------------------------------------- */

struct grammar *gen_compile(lua_State *L, enum grammar_form form, const char *text, size_t n)
{
    const struct dsl_model *model = &run_of(L)->setup.model;
    const struct grammar_options options = {.tokenizer = model->tokenizer};
    uint8_t key[GRAMMAR_KEY_BYTES];
    const char *code = NULL;
    serverd_error err;
    struct grammar *grammar;
    if (!model->trie)
        dsl_raise(L, "invalid_grammar", "this model takes no grammars");
    sandbox_charge(L, n / 16);
    grammar_key(form, WHITESPACE_SPACED, text, n, key);
    grammar = model->find_grammar ? model->find_grammar(model->grammar_context, key) : NULL;
    if (grammar)
        return grammar;
    if (grammar_compile(form, text, n, &options, &grammar, &code, &err))
        dsl_raise(L, "invalid_grammar", "%s", err.text);
    if (model->keep_grammar)
        model->keep_grammar(model->grammar_context, key, grammar);
    return grammar;
}

static struct grammar *compile_schema(lua_State *L, const json_t *schema)
{
    if (json_is_string(schema))
        return gen_compile(L, GRAMMAR_JSON_SCHEMA, json_string_value(schema),
                           json_string_length(schema));
    json_t *ordered = ordered_schema(schema, 0);
    char *text = json_dumps(ordered, JSON_COMPACT | JSON_ENCODE_ANY);
    json_decref(ordered);
    if (!text)
        raise_memory(L);
    lua_pushstring(L, text); /* Lua's from here on, as the compiler may raise */
    free(text);
    size_t n;
    const char *kept = lua_tolstring(L, -1, &n);
    struct grammar *grammar = gen_compile(L, GRAMMAR_JSON_SCHEMA, kept, n);
    lua_pop(L, 1);
    return grammar;
}

static struct grammar *compile_dtype(lua_State *L, const char *dtype, enum gen_value *value)
{
    static const char string[] = "{\"type\":\"string\"}";
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(dtypes[i].name, dtype) != 0)
            continue;
        *value = dtypes[i].value;
        const char *pattern = dtypes[i].pattern;
        return pattern ? gen_compile(L, GRAMMAR_REGEX, pattern, strlen(pattern))
                       : gen_compile(L, GRAMMAR_JSON_SCHEMA, string, sizeof string - 1);
    }
    dsl_raise(L, "invalid_option", "dtype has to be int, float, bool or string");
}

struct grammar *gen_grammar(lua_State *L, const struct gen_options *o, enum gen_value *value)
{
    *value = o->json_schema ? GEN_JSON : GEN_TEXT;
    if (o->json_schema)
        return compile_schema(L, o->json_schema);
    if (o->regex)
        return gen_compile(L, GRAMMAR_REGEX, o->regex, strlen(o->regex));
    if (o->ebnf)
        return gen_compile(L, GRAMMAR_GBNF, o->ebnf, strlen(o->ebnf));
    return o->dtype ? compile_dtype(L, o->dtype, value) : NULL;
}

/* ---- values ---------------------------------------------------------------------------------- */

json_t *gen_value(enum gen_value kind, const char *text, size_t n)
{
    json_error_t ignored;
    if (kind == GEN_TEXT)
        return json_stringn(text, n);
    /* the grammar has passed it: what it takes for a number is one in JSON, too */
    json_t *value = json_loadb(text, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &ignored);
    if (kind != GEN_FLOAT || !json_is_integer(value))
        return value;
    json_t *real = json_real((double)json_integer_value(value));
    json_decref(value);
    return real;
}
