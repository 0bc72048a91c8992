#include "grammar/schema_document.h"

#include "base/error.h"
#include "base/hash.h"
#include "grammar/uri.h"

#include <string.h>

/* A schema with a name of its own, and all below it that has none. */
struct resource {
    const char *uri; /* absolute, or relative to nothing; without fragment */
    const struct json_value *root;
    enum schema_draft draft;
    struct resource *next;
};

struct anchor {
    const struct resource *resource;
    const char *name;
    const struct json_value *schema;
    bool is_dynamic;
    struct anchor *next;
};

/* Which resource a value belongs to: an open hash table by address. */
struct place {
    const struct json_value *schema;
    struct resource *resource;
};

struct schema_document {
    struct grammar_budget *budget;
    struct resource *resources;
    struct anchor *anchors;
    struct place *places;
    uint32_t n_places, n_slots, n_names; /* names: resources and anchors */
    const struct json_value *root;
};

/* ---- places ---------------------------------------------------------------------------------- */

static uint32_t slot_of(const struct schema_document *document, const struct json_value *schema)
{
    uint32_t slot = (uint32_t)hash_mix((uintptr_t)schema) & (document->n_slots - 1);
    while (document->places[slot].schema && document->places[slot].schema != schema)
        slot = (slot + 1) & (document->n_slots - 1);
    return slot;
}

static struct resource *resource_of(const struct schema_document *document,
                                    const struct json_value *schema)
{
    for (; schema; schema = schema->parent) {
        struct resource *resource = document->places[slot_of(document, schema)].resource;
        if (resource)
            return resource;
    }
    return document->resources;
}

static serverd_status add_place(struct schema_document *document, const struct json_value *schema,
                                struct resource *resource, serverd_error *err)
{
    if (document->n_places * 2 >= document->n_slots) {
        struct place *old = document->places;
        uint32_t n = document->n_slots;
        document->places = arena_array(document->budget->arena, n ? n * 2 : 64, sizeof *old);
        if (!document->places)
            return grammar_budget_memory(err);
        document->n_slots = n ? n * 2 : 64;
        for (uint32_t i = 0; i < n; i++)
            if (old[i].schema)
                document->places[slot_of(document, old[i].schema)] = old[i];
    }
    document->places[slot_of(document, schema)] = (struct place){schema, resource};
    document->n_places++;
    return SERVERD_OK;
}

/* ---- names ----------------------------------------------------------------------------------- */

static serverd_status draft_of_uri(const struct json_value *schema, enum schema_draft *out,
                                   serverd_error *err)
{
    static const struct {
        const char *uri;
        enum schema_draft draft;
    } rows[] = {
        {"http://json-schema.org/draft-04/schema", DRAFT_4},
        {"http://json-schema.org/draft-06/schema", DRAFT_6},
        {"http://json-schema.org/draft-07/schema", DRAFT_7},
        {"http://json-schema.org/draft/2019-09/schema", DRAFT_2019},
        {"http://json-schema.org/draft/2020-12/schema", DRAFT_2020},
        {"http://json-schema.org/schema", DRAFT_UNSAID},
    };
    const struct json_value *uri = json_member(schema, "$schema");
    if (!uri)
        return SERVERD_OK;
    if (uri->kind != JSON_STRING)
        return fail(err, SERVERD_INVALID, "$schema: no string");
    const char *text = uri->text;
    size_t n = strcspn(text, "#");
    if (text[n] == '#' && text[n + 1])
        return fail(err, SERVERD_UNSUPPORTED, "$schema: %.200s is unknown", text);
    bool is_secure = strncmp(text, "https://", 8) == 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *known = rows[i].uri + 7; /* behind http:// */
        const char *said = text + (is_secure ? 8 : 7);
        size_t n_said = n < (is_secure ? 8u : 7u) ? 0 : n - (is_secure ? 8 : 7);
        if (n_said == strlen(known) && strncmp(said, known, n_said) == 0) {
            *out = rows[i].draft;
            return SERVERD_OK;
        }
    }
    return fail(err, SERVERD_UNSUPPORTED, "$schema: %.200s is unknown", text);
}

static const char *resolved(struct schema_document *document, const char *base,
                            const char *reference, serverd_error *err)
{
    struct buffer text;
    buffer_init(&text, 1 << 20);
    uri_resolve(base, reference, &text);
    const char *out =
        text.is_failed ? NULL : arena_copy(document->budget->arena, buffer_str(&text), text.len);
    buffer_deinit(&text);
    if (!out)
        (void)grammar_budget_memory(err);
    return out;
}

static struct resource *find_resource(const struct schema_document *document, const char *uri)
{
    for (struct resource *r = document->resources; r; r = r->next)
        if (strcmp(r->uri, uri) == 0)
            return r;
    return NULL;
}

static serverd_status add_resource(struct schema_document *document,
                                   const struct json_value *schema, const char *base,
                                   const char *id, enum schema_draft draft, struct resource **out,
                                   serverd_error *err)
{
    struct resource *resource = arena_alloc(document->budget->arena, sizeof *resource);
    const char *uri = resolved(document, base, id, err);
    if (!resource)
        return grammar_budget_memory(err);
    if (!uri)
        return err->code;
    *resource = (struct resource){.uri = uri, .root = schema, .draft = draft};
    struct resource **link = &document->resources;
    while (*link)
        link = &(*link)->next;
    *link = resource;
    document->n_names++;
    *out = resource;
    return SERVERD_OK;
}

static serverd_status add_anchor(struct schema_document *document, const struct json_value *schema,
                                 const struct resource *resource, const char *name, bool is_dynamic,
                                 serverd_error *err)
{
    struct anchor *anchor = arena_alloc(document->budget->arena, sizeof *anchor);
    if (!anchor)
        return grammar_budget_memory(err);
    for (const struct anchor *a = document->anchors; a; a = a->next)
        if (a->resource == resource && strcmp(a->name, name) == 0 && a->schema != schema)
            return fail(err, SERVERD_INVALID, "$anchor: %.200s is there twice", name);
    *anchor = (struct anchor){.resource = resource,
                              .name = name,
                              .schema = schema,
                              .is_dynamic = is_dynamic,
                              .next = document->anchors};
    document->anchors = anchor;
    document->n_names++;
    return SERVERD_OK;
}

/* The names that `schema` gives itself; *resource becomes its own if it begins one. */
static serverd_status add_names(struct schema_document *document, const struct json_value *schema,
                                struct resource **resource, serverd_error *err)
{
    enum schema_draft draft = (*resource)->draft;
    const struct json_value *id = json_member(schema, "$id");
    if (!id && draft == DRAFT_4)
        id = json_member(schema, "id");
    bool hides_id = draft <= DRAFT_7 && json_member(schema, "$ref");
    serverd_status status = SERVERD_OK;
    if (id && id->kind == JSON_STRING && !hides_id) {
        bool is_anchor = id->text[0] == '#' && id->text[1];
        if (is_anchor && (draft <= DRAFT_7 || draft == DRAFT_UNSAID))
            status = add_anchor(document, schema, *resource, id->text + 1, false, err);
        else if (!is_anchor && schema != document->root) {
            status = draft_of_uri(schema, &draft, err);
            if (status == SERVERD_OK)
                status = add_resource(document, schema, (*resource)->uri, id->text, draft, resource,
                                      err);
        }
    }
    static const char *const words[] = {"$anchor", "$dynamicAnchor"};
    for (int i = 0; status == SERVERD_OK && draft >= DRAFT_2019 && i < 2; i++) {
        const struct json_value *name = json_member(schema, words[i]);
        if (name && name->kind == JSON_STRING)
            status = add_anchor(document, schema, *resource, name->text, i == 1, err);
    }
    return status;
}

/* ---- walking --------------------------------------------------------------------------------- */

static bool is_among(const char *name, const char *const *words)
{
    for (; *words; words++)
        if (strcmp(name, *words) == 0)
            return true;
    return false;
}

static serverd_status walk(struct schema_document *document, const struct json_value *schema,
                           struct resource *resource, serverd_error *err);

static serverd_status walk_children(struct schema_document *document,
                                    const struct json_value *parent, struct resource *resource,
                                    serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (const struct json_value *v = parent->first; v && status == SERVERD_OK; v = v->next)
        status = walk(document, v, resource, err);
    return status;
}

static serverd_status walk(struct schema_document *document, const struct json_value *schema,
                           struct resource *resource, serverd_error *err)
{
    static const char *const single[] = {"additionalProperties",
                                         "additionalItems",
                                         "contains",
                                         "else",
                                         "if",
                                         "items",
                                         "not",
                                         "propertyNames",
                                         "then",
                                         "unevaluatedItems",
                                         "unevaluatedProperties",
                                         NULL};
    static const char *const several[] = {"$defs",       "allOf",        "anyOf",
                                          "definitions", "dependencies", "dependentSchemas",
                                          "items",       "oneOf",        "patternProperties",
                                          "prefixItems", "properties",   NULL};
    if (schema->kind != JSON_OBJECT)
        return SERVERD_OK;
    serverd_status status = grammar_budget_spend(document->budget, 1 + document->n_names / 8, err);
    if (status == SERVERD_OK)
        status = add_names(document, schema, &resource, err);
    if (status == SERVERD_OK)
        status = add_place(document, schema, resource, err);
    for (const struct json_value *v = schema->first; v && status == SERVERD_OK; v = v->next) {
        if (v->kind == JSON_OBJECT && is_among(v->name, single))
            status = walk(document, v, resource, err);
        else if (is_among(v->name, several))
            status = walk_children(document, v, resource, err);
    }
    return status;
}

serverd_status schema_document_create(struct grammar_budget *budget, const struct json_value *root,
                                      struct schema_document **out, serverd_error *err)
{
    struct schema_document *document = arena_alloc(budget->arena, sizeof *document);
    enum schema_draft draft = DRAFT_UNSAID;
    struct resource *resource;
    if (!document)
        return grammar_budget_memory(err);
    *document = (struct schema_document){.budget = budget, .root = root};
    serverd_status status = draft_of_uri(root, &draft, err);
    const struct json_value *id = json_member(root, "$id");
    if (!id && draft == DRAFT_4)
        id = json_member(root, "id");
    bool has_id = id && id->kind == JSON_STRING;
    if (status == SERVERD_OK)
        status = add_resource(document, root, "", has_id ? id->text : "", draft, &resource, err);
    if (status == SERVERD_OK)
        status = add_place(document, root, resource, err);
    if (status == SERVERD_OK)
        status = walk(document, root, resource, err);
    *out = document;
    return status;
}

enum schema_draft schema_draft_of(const struct schema_document *document,
                                  const struct json_value *schema)
{
    return resource_of(document, schema)->draft;
}

/* ---- references ------------------------------------------------------------------------------ */

static const struct json_value *child_of(const struct json_value *value, const char *token,
                                         size_t n)
{
    if (value->kind == JSON_OBJECT)
        return json_member_n(value, token, n);
    if (value->kind != JSON_ARRAY || n == 0 || n > 9 || (n > 1 && token[0] == '0'))
        return NULL;
    uint32_t index = 0;
    for (size_t i = 0; i < n; i++) {
        if (token[i] < '0' || token[i] > '9')
            return NULL;
        index = index * 10 + (uint32_t)(token[i] - '0');
    }
    const struct json_value *child = value->first;
    while (child && index-- > 0)
        child = child->next;
    return child;
}

/* RFC 6901; `pointer` begins with a slash, its %XX undone. */
static const struct json_value *follow(const struct json_value *value, const char *pointer,
                                       size_t n)
{
    struct buffer token;
    buffer_init(&token, n + 1);
    size_t i = 0;
    while (value && i < n) {
        buffer_reset(&token);
        for (i++; i < n && pointer[i] != '/'; i++) {
            bool is_escape =
                pointer[i] == '~' && i + 1 < n && (pointer[i + 1] == '0' || pointer[i + 1] == '1');
            buffer_append_char(&token,
                               !is_escape ? pointer[i] : (pointer[i + 1] == '0' ? '~' : '/'));
            i += is_escape;
        }
        value = child_of(value, buffer_str(&token), token.len);
    }
    bool is_failed = token.is_failed;
    buffer_deinit(&token);
    return is_failed ? NULL : value;
}

static const struct json_value *find_anchor(const struct schema_document *document,
                                            const struct resource *resource, const char *name,
                                            bool *is_dynamic)
{
    for (const struct anchor *a = document->anchors; a; a = a->next)
        if (a->resource == resource && strcmp(a->name, name) == 0) {
            *is_dynamic = a->is_dynamic;
            return a->schema;
        }
    return NULL;
}

static const struct json_value *find_fragment(struct schema_document *document,
                                              const struct resource *resource, const char *fragment,
                                              bool *is_dynamic)
{
    struct buffer text;
    const struct json_value *out = NULL;
    if (!fragment[0])
        return resource->root;
    buffer_init(&text, 1 << 20);
    if (uri_decode(fragment, strlen(fragment), &text)) {
        if (text.data[0] == '/')
            out = follow(resource->root, text.data, text.len);
        else
            out = find_anchor(document, resource, text.data, is_dynamic);
    }
    buffer_deinit(&text);
    return out;
}

/* A dynamic anchor stands for whichever schema of that name is entered first at run time: known
 * here only if there is one. */
static serverd_status check_single(const struct schema_document *document, const char *keyword,
                                   const char *name, serverd_error *err)
{
    uint32_t n = 0;
    for (const struct anchor *a = document->anchors; a; a = a->next)
        n += a->is_dynamic && strcmp(a->name, name) == 0;
    if (n > 1)
        return fail(err, SERVERD_UNSUPPORTED, "%s: #%.100s is in %u schemas", keyword, name, n);
    return SERVERD_OK;
}

/* The same for $recursiveAnchor of 2019-09. */
static serverd_status check_recursive(const struct schema_document *document,
                                      const struct json_value *target, serverd_error *err)
{
    const struct json_value *own = json_member(target, "$recursiveAnchor");
    if (!own || own->kind != JSON_TRUE)
        return SERVERD_OK;
    for (const struct resource *r = document->resources; r; r = r->next) {
        const struct json_value *other = json_member(r->root, "$recursiveAnchor");
        if (r->root != target && other && other->kind == JSON_TRUE)
            return fail(err, SERVERD_UNSUPPORTED, "$recursiveRef: with several targets");
    }
    return SERVERD_OK;
}

serverd_status schema_resolve(struct schema_document *document, const struct json_value *schema,
                              const char *keyword, const struct json_value **out,
                              serverd_error *err)
{
    const struct json_value *reference = json_member(schema, keyword);
    if (!reference || reference->kind != JSON_STRING)
        return fail(err, SERVERD_INVALID, "%s: no string", keyword);
    struct resource *resource = resource_of(document, schema);
    const char *text = reference->text;
    size_t n_uri = strcspn(text, "#");
    const char *fragment = text[n_uri] == '#' ? text + n_uri + 1 : "";
    if (n_uri > 0) {
        const char *uri = resolved(document, resource->uri, text, err);
        if (!uri)
            return err->code;
        resource = find_resource(document, uri);
        if (!resource)
            return fail(err, SERVERD_UNSUPPORTED, "%s: %.200s is outside of the document", keyword,
                        text);
    }
    bool is_dynamic = false;
    serverd_status status = grammar_budget_spend(document->budget, 1 + document->n_places / 8, err);
    if (status != SERVERD_OK)
        return status;
    const struct json_value *target = find_fragment(document, resource, fragment, &is_dynamic);
    if (!target ||
        (target->kind != JSON_OBJECT && target->kind != JSON_TRUE && target->kind != JSON_FALSE))
        return fail(err, SERVERD_INVALID, "%s: %.200s leads to no schema", keyword, text);
    if (is_dynamic && strcmp(keyword, "$dynamicRef") == 0)
        status = check_single(document, keyword, fragment, err);
    else if (strcmp(keyword, "$recursiveRef") == 0)
        status = check_recursive(document, target, err);
    if (status == SERVERD_OK && target->kind == JSON_OBJECT &&
        !document->places[slot_of(document, target)].schema)
        status = walk(document, target, resource_of(document, target), err);
    *out = target;
    return status;
}
