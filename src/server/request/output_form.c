#include "server/request/output_form.h"

#include "base/numeric.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the fields ---- */

/* What has been found so far. */
struct finder {
    struct output_form *out;
    struct api_error *e;
    bool is_failed;
};

static void refuse(struct finder *f, const char *code, const char *param, const char *text)
{
    if (!f->is_failed)
        api_error_set(f->e, code, param, "%s %s", param, text);
    f->is_failed = true;
}

/* A form whose text is the value: a string as it is, others as JSON. */
static void found(struct finder *f, enum grammar_form form, const char *param, const json_t *value)
{
    struct buffer text;
    if (f->out->is_set) {
        refuse(f, "invalid_value", param, "and another field both say what the output has to be.");
        return;
    }
    buffer_init(&text, LIMIT_GRAMMAR_TEXT);
    if (json_is_string(value))
        buffer_append(&text, json_string_value(value), json_string_length(value));
    else if (value)
        json_body_write(value, JSON_SPELLING_COMPACT, &text);
    if (text.len == 0)
        buffer_append_char(&text, ' ');
    f->out->text = buffer_take(&text, &f->out->n);
    if (!f->out->text) {
        refuse(f, "grammar_too_complex", param, "is too long.");
        return;
    }
    f->out->is_set = true;
    f->out->form = form;
    (void)snprintf(f->out->param, sizeof f->out->param, "%s", param);
}

static bool is_schema(const json_t *value)
{
    return json_is_object(value) || json_is_boolean(value) || json_is_string(value);
}

static void read_one(struct finder *f, const json_t *from, const char *name, const char *param,
                     enum grammar_form form)
{
    const json_t *value = json_body_get(from, name);
    bool is_list = form == GRAMMAR_CHOICE, is_json = form == GRAMMAR_JSON_SCHEMA;
    if (!value)
        return;
    if (is_list ? !json_is_array(value) : is_json ? !is_schema(value) : !json_is_string(value))
        refuse(f, "invalid_type", param,
               is_list   ? "has to be a list of strings."
               : is_json ? "has to be a JSON schema."
                         : "has to be a string.");
    else
        found(f, form, param, value);
}

static void read_response_format(struct finder *f, const json_t *root)
{
    static const char param[] = "response_format";
    const json_t *format = json_body_get(root, param);
    const char *type = json_string_value(json_body_get(format, "type"));
    if (!format || (type && strcmp(type, "text") == 0))
        return;
    if (!type) {
        refuse(f, "invalid_type", param, "has to be an object with a type.");
        return;
    }
    if (strcmp(type, "json_object") == 0) {
        const json_t *schema = json_body_get(format, "schema");
        found(f, schema ? GRAMMAR_JSON_SCHEMA : GRAMMAR_JSON_OBJECT, param, schema);
    } else if (strcmp(type, "json_schema") == 0) {
        const json_t *schema = json_body_get(json_body_get(format, "json_schema"), "schema");
        if (schema && is_schema(schema))
            found(f, GRAMMAR_JSON_SCHEMA, "response_format.json_schema.schema", schema);
        else
            refuse(f, "missing_required_parameter", "response_format.json_schema.schema",
                   "has to be there.");
    } else if (strcmp(type, "structural_tag") == 0) {
        found(f, GRAMMAR_TAGS, param, format);
    } else {
        refuse(f, "unsupported_value", param,
               "has to be of type text, json_object, json_schema or structural_tag.");
    }
}

static void read_whitespace(struct finder *f, const json_t *root)
{
    static const char *const names[] = {"spaced", "compact", "flexible"};
    const json_t *value = json_body_get(root, "json_whitespace");
    const char *text = json_string_value(value);
    for (size_t i = 0; text && i < sizeof names / sizeof *names; i++) {
        if (strcmp(text, names[i]) == 0) {
            f->out->whitespace = (enum json_whitespace)i;
            return;
        }
    }
    if (value)
        refuse(f, "invalid_value", "json_whitespace", "has to be spaced, compact or flexible.");
}

bool output_form_read(const struct api_fields *fields, struct output_form *out, struct api_error *e)
{
    static const struct {
        const char *name;
        enum grammar_form form;
    } plain[] = {{"json_schema", GRAMMAR_JSON_SCHEMA},
                 {"guided_json", GRAMMAR_JSON_SCHEMA},
                 {"guided_regex", GRAMMAR_REGEX},
                 {"regex", GRAMMAR_REGEX},
                 {"guided_choice", GRAMMAR_CHOICE},
                 {"choice", GRAMMAR_CHOICE},
                 {"guided_grammar", GRAMMAR_GBNF},
                 {"grammar", GRAMMAR_GBNF},
                 {"ebnf", GRAMMAR_GBNF}};
    static const struct {
        const char *name, *param;
        enum grammar_form form;
    } inner[] = {{"json", "structured_outputs.json", GRAMMAR_JSON_SCHEMA},
                 {"regex", "structured_outputs.regex", GRAMMAR_REGEX},
                 {"choice", "structured_outputs.choice", GRAMMAR_CHOICE},
                 {"grammar", "structured_outputs.grammar", GRAMMAR_GBNF}};
    struct finder f = {.out = out, .e = e};
    const json_t *structured = json_body_get(fields->root, "structured_outputs");
    *out = (struct output_form){0};
    read_response_format(&f, fields->root);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        read_one(&f, fields->root, plain[i].name, plain[i].name, plain[i].form);
    if (structured && !json_is_object(structured))
        refuse(&f, "invalid_type", "structured_outputs", "has to be an object.");
    for (size_t i = 0; i < sizeof inner / sizeof *inner; i++)
        read_one(&f, structured, inner[i].name, inner[i].param, inner[i].form);
    if (json_is_true(json_body_get(structured, "json_object")))
        found(&f, GRAMMAR_JSON_OBJECT, "structured_outputs.json_object", NULL);
    read_whitespace(&f, fields->root);
    return !f.is_failed;
}

bool output_form_set_tags(struct output_form *form, const json_t *tags, const char *param,
                          struct api_error *e)
{
    struct finder f = {.out = form, .e = e};
    char kept[sizeof form->param];
    memcpy(kept, form->param, sizeof kept);
    param = form->is_set ? kept : param;
    free(form->text);
    form->text = NULL;
    form->is_set = false;
    found(&f, GRAMMAR_TAGS, param, tags);
    return !f.is_failed;
}

void output_form_release(struct output_form *form)
{
    free(form->text);
    *form = (struct output_form){0};
}

/* ---- requests ---- */

/* On the job thread: what the requests wait for. */
struct preparation {
    struct output_form form;
};

static void drop(void *context)
{
    struct preparation *p = context;
    if (p)
        output_form_release(&p->form);
    free(p);
}

static bool compile(struct exchange *x, const struct output_form *form, struct grammar **out,
                    struct api_error *e)
{
    const struct server_context *context = exchange_context(x);
    /* the bound is processor time: a busy machine refuses no grammar that an idle one takes */
    const struct grammar_options options = {.whitespace = form->whitespace,
                                            .tokenizer = exchange_model(x)->tokenizer,
                                            .max_ns = form->max_ns};
    const char *code = NULL;
    serverd_error err;
    const uint64_t begin = clock_now_ns(context->clock);
    serverd_status status =
        grammar_compile(form->form, form->text, form->n, &options, out, &code, &err);
    const char *result = status == SERVERD_OK ? "ok" : "refused";
    metrics_add_labelled(context->metrics, METRIC_GRAMMAR_COMPILES, &result, 1);
    metrics_observe(context->metrics, METRIC_GRAMMAR_COMPILE_TIME,
                    (double)(clock_now_ns(context->clock) - begin) * 1e-9);
    if (status == SERVERD_OK)
        return true;
    if (code)
        api_error_set(e, code, form->param, "%s: %s", form->param, err.text);
    else
        api_error_from(e, &err);
    return false;
}

/* Gives the grammar to all requests. */
static void assign(struct request **requests, uint32_t n, struct grammar *grammar,
                   const struct token_trie *trie)
{
    for (uint32_t i = 0; i < n; i++) {
        requests[i]->grammar = grammar_ref(grammar);
        requests[i]->trie = trie;
    }
}

static bool prepare(void *context, struct exchange *x, struct request **requests, uint32_t n,
                    struct api_error *e)
{
    const struct preparation *p = context;
    if (!p)
        return api_error_no_memory(e);
    struct grammar_cache *cache = exchange_grammars(x);
    uint8_t key[GRAMMAR_KEY_BYTES];
    serverd_error err;
    grammar_key(p->form.form, p->form.whitespace, p->form.text, p->form.n, key);
    const struct token_trie *trie = grammar_cache_trie(cache, exchange_model(x)->tokenizer, &err);
    struct grammar *grammar =
        grammar_cache_find(cache, key); /* others may have asked for the same */
    if (!trie)
        api_error_from(e, &err);
    const bool is_kept = grammar != NULL;
    bool is_good = trie && (is_kept || compile(x, &p->form, &grammar, e));
    if (is_good && !is_kept)
        grammar_cache_keep(cache, key, grammar);
    if (is_good)
        assign(requests, n, grammar, trie);
    grammar_unref(grammar);
    return is_good;
}

void output_form_generate(struct exchange *x, struct request **requests, uint32_t n,
                          struct output_form *form, const struct reply_encoder *encoder,
                          void *state, bool is_stream)
{
    struct grammar_cache *cache = exchange_grammars(x);
    uint8_t key[GRAMMAR_KEY_BYTES];
    if (!form->is_set) {
        output_form_release(form);
        exchange_generate(x, requests, n, encoder, state, is_stream);
        return;
    }
    grammar_key(form->form, form->whitespace, form->text, form->n, key);
    struct grammar *grammar = grammar_cache_find(cache, key);
    if (grammar) {
        assign(requests, n, grammar, cache->trie);
        grammar_unref(grammar);
        output_form_release(form);
        exchange_generate(x, requests, n, encoder, state, is_stream);
        return;
    }
    struct preparation *p = calloc(1, sizeof *p);
    if (p) {
        p->form = *form;
        *form = (struct output_form){0};
    }
    output_form_release(form);
    const struct exchange_preparation preparation = {prepare, drop, p};
    exchange_generate_prepared(x, requests, n, &preparation, encoder, state, is_stream);
}
