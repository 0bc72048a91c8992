#include "grammar/tags_internal.h"

#include "base/error.h"

#include <stdio.h>
#include <string.h>

/* ---- failures and code ----------------------------------------------------------------------- */

void tags_wrong(struct tags *t, const struct json_value *where, const char *what)
{
    struct buffer pointer;
    if (t->status != SERVERD_OK)
        return;
    buffer_init(&pointer, 4096);
    json_pointer(where, &pointer);
    t->status = fail(t->err, SERVERD_INVALID, "%.300s: %s", buffer_str(&pointer), what);
    *t->code = "invalid_grammar";
    buffer_deinit(&pointer);
}

bool tags_check(struct tags *t, serverd_status status, const char *invalid)
{
    if (status != SERVERD_OK && t->status == SERVERD_OK) {
        t->status = status;
        if (status == SERVERD_INVALID)
            *t->code = invalid;
    }
    return t->status == SERVERD_OK;
}

uint32_t tags_add(struct tags *t, enum machine_op op, uint32_t a)
{
    const struct machine_code code = {.op = op, .a = a};
    uint32_t at = machine_builder_code(t->builder, code);
    if (at == UINT32_MAX)
        (void)tags_check(t, grammar_budget_memory(t->err), NULL);
    return at;
}

uint32_t tags_here(const struct tags *t)
{
    return t->builder->code.n;
}

void tags_set_target(struct tags *t, uint32_t at, uint32_t target)
{
    if (t->status == SERVERD_OK)
        ((struct machine_code *)t->builder->code.items)[at].a = target;
}

void tags_add_automaton(struct tags *t, const struct automaton *automaton)
{
    const struct string_set set = {.automaton = automaton, .max = UINT32_MAX};
    uint32_t text;
    if (t->status == SERVERD_OK &&
        tags_check(t, machine_builder_text(t->builder, &set, true, &text, t->err),
                   "invalid_grammar"))
        (void)tags_add(t, OP_TEXT, text);
}

/* ---- texts ----------------------------------------------------------------------------------- */

const struct automaton *tags_literals(struct tags *t, const struct text_piece *texts, size_t n)
{
    const struct automaton *out = NULL;
    if (t->status == SERVERD_OK)
        (void)tags_check(t, automaton_literals(t->builder->budget, texts, n, &out, t->err),
                         "invalid_grammar");
    return t->status == SERVERD_OK ? out : NULL;
}

void tags_add_literal(struct tags *t, const char *text, size_t n)
{
    const struct text_piece piece = {text, n};
    uint32_t index;
    if (n == 0 || t->status != SERVERD_OK)
        return;
    if (n > MACHINE_BYTES) {
        const struct automaton *automaton = tags_literals(t, &piece, 1);
        if (automaton)
            tags_add_automaton(t, automaton);
    } else if (tags_check(t, machine_builder_bytes(t->builder, text, n, &index, t->err),
                          "invalid_grammar")) {
        (void)tags_add(t, OP_TEXT, index);
    }
}

/* Texts that end with one of `ends`, and nowhere before with one of `stops`. */
const struct automaton *tags_up_to(struct tags *t, const struct automaton *ends,
                                   const struct automaton *stops)
{
    struct grammar_budget *budget = t->builder->budget;
    const struct automaton *anything, *one, *some, *whole, *stopped, *beyond, *out = NULL;
    const struct char_range every = {0, CODE_POINT_MAX};
    struct charset all;
    if (!ends || !stops)
        return NULL;
    serverd_status status = automaton_anything(budget, &anything, t->err);
    if (status == SERVERD_OK)
        status = charset_make(budget, &every, 1, &all, t->err);
    if (status == SERVERD_OK)
        status = automaton_repeat_set(budget, all, 1, 1, &one, t->err);
    if (status == SERVERD_OK)
        status = automaton_concat(budget, one, anything, &some, t->err);
    if (status == SERVERD_OK)
        status = automaton_concat(budget, anything, ends, &whole, t->err);
    if (status == SERVERD_OK)
        status = automaton_concat(budget, anything, stops, &stopped, t->err);
    if (status == SERVERD_OK)
        status = automaton_concat(budget, stopped, some, &beyond, t->err);
    if (status == SERVERD_OK)
        status = automaton_subtract(budget, whole, beyond, &out, t->err);
    return tags_check(t, status, "invalid_grammar") ? out : NULL;
}

/* Texts in which none of `stops` occurs. */
const struct automaton *tags_without(struct tags *t, const struct automaton *stops)
{
    struct grammar_budget *budget = t->builder->budget;
    const struct automaton *anything, *stopped, *with, *out = NULL;
    if (!stops)
        return NULL;
    serverd_status status = automaton_anything(budget, &anything, t->err);
    if (status == SERVERD_OK)
        status = automaton_concat(budget, anything, stops, &stopped, t->err);
    if (status == SERVERD_OK)
        status = automaton_concat(budget, stopped, anything, &with, t->err);
    if (status == SERVERD_OK)
        status = automaton_complement(budget, with, &out, t->err);
    return tags_check(t, status, "invalid_grammar") ? out : NULL;
}

/* ---- fields ---------------------------------------------------------------------------------- */

const struct json_value *tags_field(struct tags *t, const struct json_value *object,
                                    const char *name, enum json_kind kind)
{
    const struct json_value *v = json_member(object, name);
    if (v && v->kind == kind)
        return v;
    char text[96];
    (void)snprintf(text, sizeof text, "%s: %s", name, v ? "of the wrong type" : "missing");
    tags_wrong(t, object, text);
    return NULL;
}

bool tags_flag(const struct json_value *object, const char *name)
{
    const struct json_value *v = json_member(object, name);
    return v && v->kind == JSON_TRUE;
}

const struct json_value *tags_list(struct tags *t, const struct json_value *object,
                                   const char *name)
{
    const struct json_value *v = tags_field(t, object, name, JSON_ARRAY);
    if (v && v->n == 0)
        tags_wrong(t, v, "an empty list");
    return v && v->n > 0 ? v : NULL;
}

/* ---- alternatives ---------------------------------------------------------------------------- */

void either_begin(struct tags *t, struct either *either, bool is_last)
{
    if (either->split != UINT32_MAX)
        tags_set_target(t, either->split, tags_here(t));
    either->split = is_last ? UINT32_MAX : tags_add(t, OP_SPLIT, 0);
}

void either_next(struct tags *t, struct either *either)
{
    either->jumps = tags_add(t, OP_JUMP, either->jumps);
}

void either_end(struct tags *t, const struct either *either)
{
    for (uint32_t at = either->jumps; t->status == SERVERD_OK && at != UINT32_MAX;) {
        uint32_t before = ((struct machine_code *)t->builder->code.items)[at].a;
        tags_set_target(t, at, tags_here(t));
        at = before;
    }
}
