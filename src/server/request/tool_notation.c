#include "server/request/tool_notation.h"

#include "base/limits.h"
#include "base/numeric.h"

#include <string.h>

#define MAX_MEMBERS 64 /* of arguments without a schema */

/* ---- formats --------------------------------------------------------------------------------- */

void format_append(json_t *list, json_t *format)
{
    (void)json_array_append_new(list, format);
}

/* Texts that stand side by side are one. */
static void format_append_text(json_t *list, const char *text, size_t n)
{
    json_t *last = json_array_get(list, json_array_size(list) - 1);
    const json_t *value = json_object_get(last, "value");
    if (n == 0)
        return;
    if (!value) {
        format_append(list, json_pack("{s:s,s:s%}", "type", "const_string", "value", text, n));
        return;
    }
    struct buffer both;
    buffer_init(&both, LIMIT_GRAMMAR_TEXT);
    buffer_append(&both, json_string_value(value), json_string_length(value));
    buffer_append(&both, text, n);
    (void)json_object_set_new(last, "value", json_stringn(buffer_str(&both), both.len));
    buffer_deinit(&both);
}

json_t *format_sequence(json_t *list)
{
    return json_pack("{s:s,s:o}", "type", "sequence", "elements", list);
}

/* One of several; alone it is itself. */
json_t *format_either(json_t *list)
{
    if (json_array_size(list) != 1)
        return json_pack("{s:s,s:o}", "type", "or", "elements", list);
    json_t *one = json_incref(json_array_get(list, 0));
    json_decref(list);
    return one;
}

static json_t *regex(const char *pattern)
{
    return json_pack("{s:s,s:s}", "type", "regex", "pattern", pattern);
}

json_t *format_of_schema(json_t *schema)
{
    return json_pack("{s:s,s:o}", "type", "json_schema", "json_schema", schema);
}

static json_t *any_value(void)
{
    return format_of_schema(json_true());
}

/* ---- schemas --------------------------------------------------------------------------------- */

/* Whether its arguments follow its schema. */
static bool is_strict(const struct notation *m, const json_t *function)
{
    return m->setup->use->is_strict || json_is_true(json_object_get(function, "strict"));
}

static json_t *arguments_schema(const struct notation *m, const json_t *function)
{
    json_t *parameters = json_object_get(function, "parameters");
    if (!json_is_object(parameters) || !is_strict(m, function))
        return json_pack("{s:s}", "type", "object");
    json_t *schema = json_copy(parameters);
    if (!json_is_string(json_object_get(schema, "type")))
        (void)json_object_set_new(schema, "type", json_string("object"));
    return schema;
}

static bool is_one_of(const char *name, const char *const *names)
{
    for (; *names; names++)
        if (strcmp(name, *names) == 0)
            return true;
    return false;
}

/* References that stay right where only the definitions come along. */
static bool refers_to_definitions(const json_t *value, unsigned depth)
{
    static const char *const others[] = {"$dynamicRef", "$recursiveRef",  "$id",
                                         "$anchor",     "$dynamicAnchor", NULL};
    const char *key;
    json_t *item;
    size_t i;
    bool is_good = depth < LIMIT_GRAMMAR_NESTING;
    json_object_foreach((json_t *)value, key, item)
    {
        const char *text = json_string_value(item);
        if (text && strcmp(key, "$ref") == 0)
            is_good = is_good && (strncmp(text, "#/$defs/", 8) == 0 ||
                                  strncmp(text, "#/definitions/", 14) == 0);
        is_good = is_good && !is_one_of(key, others) && refers_to_definitions(item, depth + 1);
    }
    json_array_foreach((json_t *)value, i, item) is_good =
        is_good && refers_to_definitions(item, depth + 1);
    return is_good;
}

/* Whether a list of members, each by its own schema, is all that the schema says. */
static bool is_list_of_members(const json_t *schema)
{
    static const char *const known[] = {
        "type",    "properties",  "required", "additionalProperties", "title",
        "$schema", "$comment",    "examples", "description",          "default",
        "$defs",   "definitions", "strict",   "deprecated",           NULL};
    const json_t *type = json_object_get(schema, "type");
    const char *key;
    json_t *value;
    if (type && !json_is_array(type) &&
        !(json_is_string(type) && strcmp(json_string_value(type), "object") == 0))
        return false;
    json_object_foreach((json_t *)schema, key, value) if (!is_one_of(key, known)) return false;
    return (!json_object_get(schema, "properties") ||
            json_is_object(json_object_get(schema, "properties"))) &&
           refers_to_definitions(schema, 0);
}

/* A member's own schema, with what it may refer to. */
static json_t *member_schema(const json_t *schema, json_t *own)
{
    static const char *const kept[] = {"$schema", "$defs", "definitions"};
    json_t *out = json_pack("{s:[O]}", "allOf", own);
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        if (json_object_get(schema, kept[i]))
            (void)json_object_set(out, kept[i], json_object_get(schema, kept[i]));
    return out;
}

static bool is_required(const json_t *schema, const char *key)
{
    size_t i;
    json_t *name;
    json_array_foreach(json_object_get(schema, "required"), i, name)
    {
        const char *text = json_string_value(name);
        if (text && strcmp(text, key) == 0)
            return true;
    }
    return false;
}

/* ---- texts with slots ------------------------------------------------------------------------ */

static bool is_word(const char *key)
{
    return *key &&
           strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") ==
               strlen(key);
}

/* Bare where readers know bare words, else quoted; in tags as it is. */
static void add_key(struct notation *m, const struct slots *slots, json_t *out)
{
    if (!slots->key) {
        format_append(out, regex("[A-Za-z0-9_.-]{1,64}"));
    } else if (m->writing->notation == VALUE_TAGGED || is_word(slots->key)) {
        format_append_text(out, slots->key, strlen(slots->key));
    } else {
        struct buffer quoted;
        buffer_init(&quoted, LIMIT_GRAMMAR_TEXT);
        buffer_append_json_string(&quoted, slots->key, strlen(slots->key));
        format_append_text(out, buffer_str(&quoted), quoted.len);
        buffer_deinit(&quoted);
    }
}

/* A string as it is; stop, of n bytes, ends it, unless that is a control token. */
static json_t *bare_string(const struct slots *slots, const char *stop, size_t n, bool is_framed)
{
    json_t *schema =
        slots->value ? json_incref((json_t *)slots->value) : json_pack("{s:s}", "type", "string");
    json_t *format =
        json_pack("{s:s,s:o,s:b}", "type", "string", "schema", schema, "is_framed", is_framed);
    if (n > 0)
        (void)json_object_set_new(format, "stop", json_stringn(stop, n));
    return format;
}

/* A string between two quotes. */
static void add_quoted(struct notation *m, const struct slots *slots, json_t *out)
{
    const char *quote = m->writing->quote, *rest = quote;
    bool is_token = call_writing_next(m->tokenizer, &rest).kind == WRITING_TOKEN;
    notation_add(m, quote, slots, out);
    format_append(out, bare_string(slots, quote, is_token ? 0 : strlen(quote), false));
    notation_add(m, quote, slots, out);
}

/* A string as it is; at: what stands behind it. */
static void add_tagged(struct notation *m, const struct slots *slots, const char *at, json_t *out)
{
    struct writing_piece stop = call_writing_next(m->tokenizer, &at);
    struct writing_piece behind = call_writing_next(m->tokenizer, &at);
    bool has_token = stop.kind != WRITING_TEXT || behind.kind == WRITING_TOKEN;
    while (stop.n > 0 && stop.text[stop.n - 1] == '\n') /* readers look for the mark alone */
        stop.n--;
    for (; stop.n > 0 && *stop.text == '\n'; stop.n--)
        stop.text++;
    format_append(out, bare_string(slots, stop.text, has_token ? 0 : stop.n, true));
}

/* at: what stands behind the slot. */
static void add_value(struct notation *m, const struct slots *slots, const char *at, json_t *out)
{
    enum value_notation notation = m->writing->notation;
    bool is_free = !slots->value;
    if (notation == VALUE_TAGGED && (slots->is_string || is_free)) {
        add_tagged(m, slots, at, out);
    } else if (notation == VALUE_QUOTED && slots->is_string) {
        add_quoted(m, slots, out);
    } else if (notation == VALUE_QUOTED && is_free) {
        json_t *quoted = json_array();
        add_quoted(m, slots, quoted);
        format_append(out, format_either(json_pack("[o,o]", format_sequence(quoted), any_value())));
    } else {
        format_append(out, is_free ? any_value()
                                   : format_of_schema(json_incref((json_t *)slots->value)));
    }
}

static const char *type_name(const struct slots *slots)
{
    const json_t *own = json_array_get(json_object_get(slots->value, "allOf"), 0);
    const char *type = json_string_value(json_object_get(own, "type"));
    if (slots->is_string)
        return "string";
    return !type ? "object" : strcmp(type, "integer") == 0 ? "number" : type;
}

static void add_member(struct notation *m, json_t *list, const struct slots *slots, bool must)
{
    json_t *pieces = json_array();
    notation_add(m, m->writing->member, slots, pieces);
    format_append(list,
                  json_pack("{s:o,s:b}", "content", format_sequence(pieces), "is_required", must));
}

/* Whether the name can be written between the literals of a member. */
static bool can_be_key(const struct notation *m, const char *key)
{
    size_t n = strlen(key);
    return n > 0 && n <= LIMIT_TOOL_NAME &&
           (m->writing->notation != VALUE_TAGGED || !strpbrk(key, "<>\"\r\n"));
}

static bool add_listed_members(struct notation *m, const struct slots *slots, const json_t *schema,
                               json_t *members)
{
    json_t *properties = json_object_get(schema, "properties"), *own, *name;
    const char *key;
    size_t i;
    json_object_foreach(properties, key, own)
    {
        bool must = is_required(schema, key);
        if (json_is_false(own) && !must)
            continue;
        if (!can_be_key(m, key))
            return false;
        json_t *value = member_schema(schema, own);
        const struct slots inner = {
            slots->function, slots->name, key, value,
            tool_parameter_is_string(m->setup->use->list, slots->name, key)};
        add_member(m, members, &inner, must);
        json_decref(value);
    }
    json_array_foreach(json_object_get(schema, "required"), i, name)
    {
        json_t *others = json_object_get(schema, "additionalProperties");
        key = json_string_value(name);
        if (!key || !can_be_key(m, key))
            return false;
        if (json_object_get(properties, key))
            continue;
        json_t *value = member_schema(schema, others ? others : json_true());
        const struct slots inner = {slots->function, slots->name, key, value, false};
        add_member(m, members, &inner, true);
        json_decref(value);
    }
    return true;
}

/* Arguments one by one: by the schema, or any. */
static void add_members(struct notation *m, const struct slots *slots, json_t *out)
{
    const char *between = m->writing->member_between ? m->writing->member_between : "";
    const json_t *function = slots->function, *schema = json_object_get(function, "parameters");
    json_t *members = json_array();
    if (is_strict(m, function) && json_is_object(schema) && is_list_of_members(schema) &&
        add_listed_members(m, slots, schema, members)) {
        format_append(out, json_pack("{s:s,s:o,s:s}", "type", "members", "members", members,
                                     "separator", between));
        return;
    }
    json_decref(members);
    m->are_exact = false;
    if (json_is_true(json_object_get(function, "strict")) && json_is_object(schema) &&
        !m->is_failed) {
        api_error_set(m->e, "unsupported_schema", "tools",
                      "tools: the parameters of %s cannot be held to their schema as this model "
                      "writes calls (%s): at the top it may have properties, required and "
                      "additionalProperties, and references to $defs.",
                      slots->name, m->writing->family);
        m->is_failed = true;
    }
    const struct slots any = {function, slots->name, NULL, NULL, false};
    json_t *pieces = json_array();
    notation_add(m, m->writing->member, &any, pieces);
    format_append(out,
                  json_pack("{s:s,s:o,s:s,s:i}", "type", "repeat", "content",
                            format_sequence(pieces), "separator", between, "max", MAX_MEMBERS));
}

static void add_slot(struct notation *m, const struct writing_piece *piece, const char *at,
                     const struct slots *slots, json_t *out)
{
    static const struct {
        const char *name, *pattern;
    } patterns[] = {{"number", "0|[1-9][0-9]{0,2}"}, {"id", "[a-zA-Z0-9]{9}"}, {"line", "\\n?"}};
    char name[32] = "";
    memcpy(name, piece->text, min_size(piece->n, sizeof name - 1));
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        if (strcmp(name, patterns[i].name) == 0)
            format_append(out, regex(patterns[i].pattern));
    if (strcmp(name, "name") == 0)
        format_append_text(out, slots->name, strlen(slots->name));
    else if (strcmp(name, "arguments") == 0)
        format_append(out, format_of_schema(arguments_schema(m, slots->function)));
    else if (strcmp(name, "members") == 0)
        add_members(m, slots, out);
    else if (strcmp(name, "key") == 0)
        add_key(m, slots, out);
    else if (strcmp(name, "value") == 0)
        add_value(m, slots, at, out);
    else if (strcmp(name, "is_string") == 0 && slots->value)
        format_append_text(out, slots->is_string ? "true" : "false", slots->is_string ? 4 : 5);
    else if (strcmp(name, "type") == 0 && slots->value)
        format_append_text(out, type_name(slots), strlen(type_name(slots)));
    else if (strcmp(name, "is_string") == 0)
        format_append(out, regex("true|false"));
    else if (strcmp(name, "type") == 0)
        format_append(out, regex("string|number|boolean|object|array|null"));
}

void notation_add(struct notation *m, const char *text, const struct slots *slots, json_t *out)
{
    const char *at = text ? text : "";
    for (struct writing_piece piece = call_writing_next(m->tokenizer, &at);
         piece.kind != WRITING_END; piece = call_writing_next(m->tokenizer, &at)) {
        if (piece.kind == WRITING_SLOT)
            add_slot(m, &piece, at, slots, out);
        else if (piece.kind == WRITING_TOKEN)
            format_append(out,
                          json_pack("{s:s,s:s%}", "type", "token", "token", piece.text, piece.n));
        else
            format_append_text(out, piece.text, piece.n);
    }
}
