#include "grammar/grammar_internal.h"

#include "base/error.h"
#include "base/hash.h"
#include "grammar/gbnf.h"
#include "grammar/machine_build.h"
#include "grammar/regex.h"
#include "grammar/tags.h"

#include <stdlib.h>
#include <string.h>

struct compiler {
    struct machine_builder builder;
    struct grammar_budget budget;
    const char *text;
    size_t n;
    const char *code;
    serverd_error *err;
};

static bool has_failed(struct compiler *c, serverd_status status, const char *invalid)
{
    if (status == SERVERD_OK)
        return false;
    if (!c->code)
        c->code = status == SERVERD_INVALID       ? invalid
                  : status == SERVERD_UNSUPPORTED ? "unsupported_schema"
                                                  : "grammar_too_complex";
    return true;
}

static serverd_status add_code(struct compiler *c, enum machine_op op, uint32_t a)
{
    const struct machine_code code = {.op = op, .a = a};
    return machine_builder_code(&c->builder, code) == UINT32_MAX ? grammar_budget_memory(c->err)
                                                                 : SERVERD_OK;
}

static serverd_status one_instruction(struct compiler *c, enum machine_op op, uint32_t a)
{
    serverd_status status = add_code(c, op, a);
    return status == SERVERD_OK ? add_code(c, OP_RETURN, 0) : status;
}

/* ---- forms ----------------------------------------------------------------------------------- */

static serverd_status compile_schema(struct compiler *c)
{
    const struct json_value *schema;
    uint32_t value;
    serverd_status status = json_tree_parse(c->text, c->n, c->budget.arena, &schema, c->err);
    if (status == SERVERD_OK)
        status = machine_builder_schema(&c->builder, schema, &value, &c->code, c->err);
    return has_failed(c, status, "invalid_schema") ? status : one_instruction(c, OP_VALUE, value);
}

static serverd_status compile_object(struct compiler *c)
{
    c->text = "{\"type\": \"object\"}";
    c->n = strlen(c->text);
    return compile_schema(c);
}

static serverd_status one_text(struct compiler *c, const struct string_set *set)
{
    uint32_t text;
    serverd_status status = machine_builder_text(&c->builder, set, true, &text, c->err);
    return status == SERVERD_OK ? one_instruction(c, OP_TEXT, text) : status;
}

static serverd_status compile_regex(struct compiler *c)
{
    struct string_set set;
    serverd_status status = regex_compile(&c->budget, c->text, c->n, REGEX_WHOLE, &set, c->err);
    if (status == SERVERD_OK && string_set_is_empty(&set))
        status = fail(c->err, SERVERD_INVALID, "regex: matches nothing");
    return has_failed(c, status, "invalid_regex") ? status : one_text(c, &set);
}

static serverd_status compile_choice(struct compiler *c)
{
    const struct json_value *list;
    const struct automaton *automaton;
    struct string_set set;
    serverd_status status = json_tree_parse(c->text, c->n, c->budget.arena, &list, c->err);
    if (has_failed(c, status, "invalid_grammar"))
        return status;
    struct text_piece *texts = arena_array(c->budget.arena, list->n, sizeof *texts);
    if (!texts)
        return grammar_budget_memory(c->err);
    size_t n_texts = 0;
    bool is_list = list->kind == JSON_ARRAY && list->n > 0;
    for (const struct json_value *v = is_list ? list->first : NULL; v; v = v->next) {
        is_list = is_list && v->kind == JSON_STRING;
        if (is_list)
            texts[n_texts++] = (struct text_piece){v->text, v->n};
    }
    if (!is_list)
        status = fail(c->err, SERVERD_INVALID, "choice: no list of strings");
    if (status == SERVERD_OK)
        status = automaton_literals(&c->budget, texts, n_texts, &automaton, c->err);
    if (status == SERVERD_OK)
        status = string_set_make(&c->budget, automaton, 0, UINT32_MAX, &set, c->err);
    return has_failed(c, status, "invalid_grammar") ? status : one_text(c, &set);
}

static serverd_status compile_gbnf(struct compiler *c)
{
    uint32_t place;
    serverd_status status = add_code(c, OP_CALL, 0);
    if (status == SERVERD_OK)
        status = add_code(c, OP_RETURN, 0);
    if (status == SERVERD_OK)
        status = gbnf_compile(&c->builder, c->text, c->n, &place, c->err);
    if (status == SERVERD_OK)
        ((struct machine_code *)c->builder.code.items)[0].a = place;
    return has_failed(c, status, "invalid_grammar") ? status : SERVERD_OK;
}

static serverd_status compile_tags(struct compiler *c)
{
    const struct json_value *tags;
    serverd_status status = json_tree_parse(c->text, c->n, c->budget.arena, &tags, c->err);
    if (status == SERVERD_OK)
        status = tags_compile(&c->builder, tags, &c->code, c->err);
    return has_failed(c, status, "invalid_grammar") ? status : add_code(c, OP_RETURN, 0);
}

static serverd_status (*const forms[])(struct compiler *) = {
    [GRAMMAR_JSON_SCHEMA] = compile_schema, [GRAMMAR_JSON_OBJECT] = compile_object,
    [GRAMMAR_REGEX] = compile_regex,        [GRAMMAR_CHOICE] = compile_choice,
    [GRAMMAR_GBNF] = compile_gbnf,          [GRAMMAR_TAGS] = compile_tags,
};

/* No two grammars are at one address at one time. Never 0. */
static uint64_t unique_id(const struct grammar *grammar)
{
    return hash_mix(hash_mix(clock_now_ns(&system_clock)) ^ (uintptr_t)grammar) | 1;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static struct machine finished(const struct machine_builder *builder)
{
    return (struct machine){
        .produces = builder->produces,
        .whitespace = builder->whitespace,
        .code = builder->code.items,
        .n_code = builder->code.n,
        .values = builder->values.items,
        .n_values = builder->values.n,
        .arrays = builder->arrays.items,
        .n_arrays = builder->arrays.n,
        .objects = builder->objects.items,
        .n_objects = builder->objects.n,
        .texts = builder->texts.items,
        .n_texts = builder->texts.n,
        .number_texts = builder->number_texts,
    };
}

serverd_status grammar_compile(enum grammar_form form, const char *text, size_t n,
                               const struct grammar_options *options, struct grammar **out,
                               const char **code, serverd_error *err)
{
    size_t max_bytes = options->max_bytes ? options->max_bytes : LIMIT_GRAMMAR_BYTES;
    const struct clock *clock = options->clock ? options->clock : &processor_clock;
    uint64_t deadline =
        clock_now_ns(clock) + (options->max_ns ? options->max_ns : LIMIT_GRAMMAR_TIME_NS);
    struct compiler c = {.text = text, .n = n, .err = err};
    struct grammar *grammar = calloc(1, sizeof *grammar);
    *code = "grammar_too_complex";
    if (!grammar)
        return fail(err, SERVERD_NOMEM, "grammar: no memory");
    atomic_init(&grammar->n_refs, 1);
    grammar->keep = arena_create(max_bytes);
    grammar->work = arena_create(max_bytes);
    serverd_status status = SERVERD_OK;
    if (!grammar->keep || !grammar->work)
        status = fail(err, SERVERD_NOMEM, "grammar: no memory");
    else if (n > LIMIT_GRAMMAR_TEXT)
        status = fail(err, SERVERD_TIMEOUT, "grammar: %zu bytes, at most %zu allowed", n,
                      LIMIT_GRAMMAR_TEXT);
    if (status == SERVERD_OK) {
        grammar_budget_init(&c.budget, grammar->work, clock, deadline);
        machine_builder_init(&c.builder, &c.budget, grammar->keep, !options->checks,
                             options->whitespace);
        c.builder.tokenizer = options->tokenizer;
        status = forms[form](&c);
    }
    if (has_failed(&c, status, "invalid_grammar")) {
        *code = c.code;
        grammar_unref(grammar);
        return status;
    }
    grammar->machine = finished(&c.builder);
    if (!options->checks) {
        arena_destroy(grammar->work);
        grammar->work = NULL;
    }
    grammar->id = unique_id(grammar);
    *out = grammar;
    return SERVERD_OK;
}

void grammar_key(enum grammar_form form, enum json_whitespace whitespace, const char *text,
                 size_t n, uint8_t key[GRAMMAR_KEY_BYTES])
{
    struct sha256 hash;
    const uint8_t kind[2] = {(uint8_t)form, (uint8_t)whitespace};
    sha256_init(&hash);
    sha256_update(&hash, kind, sizeof kind);
    sha256_update(&hash, text, n);
    sha256_final(&hash, key);
}

struct grammar *grammar_ref(struct grammar *grammar)
{
    atomic_fetch_add_explicit(&grammar->n_refs, 1, memory_order_relaxed);
    return grammar;
}

void grammar_unref(struct grammar *grammar)
{
    /* acquire and release: whoever frees sees what all others did with it before */
    if (!grammar || atomic_fetch_sub_explicit(&grammar->n_refs, 1, memory_order_acq_rel) > 1)
        return;
    arena_destroy(grammar->keep);
    arena_destroy(grammar->work);
    free(grammar);
}

size_t grammar_bytes(const struct grammar *grammar)
{
    return sizeof *grammar + arena_used(grammar->keep) +
           (grammar->work ? arena_used(grammar->work) : 0);
}
