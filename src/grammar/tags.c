#include "grammar/tags.h"

#include "base/error.h"
#include "grammar/gbnf.h"
#include "grammar/regex.h"

#include <stdio.h>
#include <string.h>

struct tags {
    struct machine_builder *builder;
    const char **code;
    serverd_error *err;
    serverd_status status;
    unsigned depth;
};

/* ---- failures and code ----------------------------------------------------------------------- */

static void wrong(struct tags *t, const struct json_value *where, const char *what)
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

static bool check(struct tags *t, serverd_status status, const char *invalid)
{
    if (status != SERVERD_OK && t->status == SERVERD_OK) {
        t->status = status;
        if (status == SERVERD_INVALID)
            *t->code = invalid;
    }
    return t->status == SERVERD_OK;
}

static uint32_t add(struct tags *t, enum machine_op op, uint32_t a)
{
    const struct machine_code code = {.op = op, .a = a};
    uint32_t at = machine_builder_code(t->builder, code);
    if (at == UINT32_MAX)
        (void)check(t, grammar_budget_memory(t->err), NULL);
    return at;
}

static uint32_t here(const struct tags *t)
{
    return t->builder->code.n;
}

static void set_target(struct tags *t, uint32_t at, uint32_t target)
{
    if (t->status == SERVERD_OK)
        ((struct machine_code *)t->builder->code.items)[at].a = target;
}

static void add_automaton(struct tags *t, const struct automaton *automaton)
{
    const struct string_set set = {.automaton = automaton, .max = UINT32_MAX};
    uint32_t text;
    if (t->status == SERVERD_OK &&
        check(t, machine_builder_text(t->builder, &set, true, &text, t->err), "invalid_grammar"))
        (void)add(t, OP_TEXT, text);
}

/* ---- texts ----------------------------------------------------------------------------------- */

static const struct automaton *literals(struct tags *t, const struct text_piece *texts, size_t n)
{
    const struct automaton *out = NULL;
    if (t->status == SERVERD_OK)
        (void)check(t, automaton_literals(t->builder->budget, texts, n, &out, t->err),
                    "invalid_grammar");
    return t->status == SERVERD_OK ? out : NULL;
}

static void add_literal(struct tags *t, const char *text, size_t n)
{
    const struct text_piece piece = {text, n};
    const struct automaton *automaton = n > 0 ? literals(t, &piece, 1) : NULL;
    if (automaton)
        add_automaton(t, automaton);
}

/* Texts that end with one of `ends`, and nowhere before with one of `stops`. */
static const struct automaton *up_to(struct tags *t, const struct automaton *ends,
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
    return check(t, status, "invalid_grammar") ? out : NULL;
}

/* Texts in which none of `stops` occurs. */
static const struct automaton *without(struct tags *t, const struct automaton *stops)
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
    return check(t, status, "invalid_grammar") ? out : NULL;
}

/* ---- fields ---------------------------------------------------------------------------------- */

static const struct json_value *field(struct tags *t, const struct json_value *object,
                                      const char *name, enum json_kind kind)
{
    const struct json_value *v = json_member(object, name);
    if (v && v->kind == kind)
        return v;
    char text[96];
    (void)snprintf(text, sizeof text, "%s: %s", name, v ? "of the wrong type" : "missing");
    wrong(t, object, text);
    return NULL;
}

static bool flag(const struct json_value *object, const char *name)
{
    const struct json_value *v = json_member(object, name);
    return v && v->kind == JSON_TRUE;
}

static const struct json_value *list(struct tags *t, const struct json_value *object,
                                     const char *name)
{
    const struct json_value *v = field(t, object, name, JSON_ARRAY);
    if (v && v->n == 0)
        wrong(t, v, "an empty list");
    return v && v->n > 0 ? v : NULL;
}

/* ---- formats --------------------------------------------------------------------------------- */

static void add_format(struct tags *t, const struct json_value *format);

static void add_schema(struct tags *t, const struct json_value *schema)
{
    uint32_t value;
    const char *code = NULL;
    if (!schema || t->status != SERVERD_OK)
        return;
    serverd_status status = machine_builder_schema(t->builder, schema, &value, &code, t->err);
    if (code)
        *t->code = code;
    if (check(t, status, code ? code : "invalid_schema"))
        (void)add(t, OP_VALUE, value);
}

static void add_regex(struct tags *t, const struct json_value *pattern)
{
    struct string_set set;
    uint32_t text;
    if (!pattern || !check(t,
                           regex_compile(t->builder->budget, pattern->text, pattern->n, REGEX_WHOLE,
                                         &set, t->err),
                           "invalid_regex"))
        return;
    if (string_set_is_empty(&set))
        wrong(t, pattern, "matches nothing");
    else if (check(t, machine_builder_text(t->builder, &set, true, &text, t->err), "invalid_regex"))
        (void)add(t, OP_TEXT, text);
}

static void add_grammar(struct tags *t, const struct json_value *text)
{
    uint32_t place, call = text ? add(t, OP_CALL, 0) : 0, jump = text ? add(t, OP_JUMP, 0) : 0;
    if (!text || t->status != SERVERD_OK)
        return;
    if (!check(t, gbnf_compile(t->builder, text->text, text->n, &place, t->err), "invalid_grammar"))
        return;
    set_target(t, call, place);
    set_target(t, jump, here(t));
}

/* Alternatives: begin_either, then for each of them its code and next_either, then end_either. */
struct either {
    uint32_t split, jumps; /* jumps: a list through their targets */
};

static void begin_alternative(struct tags *t, struct either *either, bool is_last)
{
    if (either->split != UINT32_MAX)
        set_target(t, either->split, here(t));
    either->split = is_last ? UINT32_MAX : add(t, OP_SPLIT, 0);
}

static void end_alternative(struct tags *t, struct either *either)
{
    either->jumps = add(t, OP_JUMP, either->jumps);
}

static void end_either(struct tags *t, const struct either *either)
{
    for (uint32_t at = either->jumps; t->status == SERVERD_OK && at != UINT32_MAX;) {
        uint32_t before = ((struct machine_code *)t->builder->code.items)[at].a;
        set_target(t, at, here(t));
        at = before;
    }
}

#define EITHER_NONE ((struct either){UINT32_MAX, UINT32_MAX})

static void add_elements(struct tags *t, const struct json_value *elements, bool is_sequence)
{
    struct either either = EITHER_NONE;
    for (const struct json_value *v = elements ? elements->first : NULL;
         v && t->status == SERVERD_OK; v = v->next) {
        if (!is_sequence)
            begin_alternative(t, &either, !v->next);
        add_format(t, v);
        if (!is_sequence)
            end_alternative(t, &either);
    }
    end_either(t, &either);
}

/* A tag without the first n bytes of its `begin`. `structures` have a schema instead of a content.
 */
static void add_tag(struct tags *t, const struct json_value *tag, size_t n)
{
    const struct json_value *begin = field(t, tag, "begin", JSON_STRING);
    const struct json_value *end = field(t, tag, "end", JSON_STRING);
    const struct json_value *schema = json_member(tag, "schema");
    const struct json_value *content = schema ? NULL : field(t, tag, "content", JSON_OBJECT);
    if (t->status != SERVERD_OK)
        return;
    add_literal(t, begin->text + n, begin->n - n);
    if (content && json_is_text(json_member(content, "type"), "any_text") && end->n > 0) {
        const struct text_piece piece = {end->text, end->n};
        const struct automaton *ends = literals(t, &piece, 1), *text = up_to(t, ends, ends);
        if (text)
            add_automaton(t, text);
        return;
    }
    if (schema)
        add_schema(t, schema);
    else
        add_format(t, content);
    add_literal(t, end->text, end->n);
}

static bool begins_with(const struct json_value *tag, const struct json_value *trigger)
{
    const struct json_value *begin = json_member(tag, "begin");
    return begin && begin->kind == JSON_STRING && begin->n >= trigger->n &&
           memcmp(begin->text, trigger->text, trigger->n) == 0;
}

/* The trigger that announces a tag: the shortest, which comes first. */
static const struct json_value *trigger_of(struct tags *t, const struct json_value *tag,
                                           const struct json_value *triggers)
{
    const struct json_value *found = NULL;
    for (const struct json_value *v = triggers->first; v; v = v->next)
        if (begins_with(tag, v) && (!found || v->n < found->n))
            found = v;
    if (!found)
        wrong(t, tag, "begin: begins with no trigger");
    return found;
}

static const struct automaton *trigger_texts(struct tags *t, const struct json_value *triggers)
{
    struct text_piece *texts = arena_array(t->builder->budget->arena, triggers->n, sizeof *texts);
    size_t n = 0;
    if (!texts)
        (void)check(t, grammar_budget_memory(t->err), NULL);
    for (const struct json_value *v = triggers->first; v && t->status == SERVERD_OK; v = v->next) {
        if (v->kind != JSON_STRING || v->n == 0)
            wrong(t, v, "no trigger");
        else
            texts[n++] = (struct text_piece){v->text, v->n};
    }
    return t->status == SERVERD_OK ? literals(t, texts, n) : NULL;
}

/* Free text up to a trigger, and one of its tags. */
static void add_announced_tag(struct tags *t, const struct json_value *triggers,
                              const struct json_value *tags, const struct automaton *stops)
{
    struct either either = EITHER_NONE;
    uint32_t n_left = 0;
    for (const struct json_value *v = tags->first; v && t->status == SERVERD_OK; v = v->next)
        n_left += trigger_of(t, v, triggers) != NULL;
    for (const struct json_value *trigger = triggers->first; trigger && t->status == SERVERD_OK;
         trigger = trigger->next) {
        const struct text_piece piece = {trigger->text, trigger->n};
        uint32_t n_own = 0;
        for (const struct json_value *v = tags->first; v; v = v->next)
            n_own += trigger_of(t, v, triggers) == trigger;
        if (n_own == 0 || t->status != SERVERD_OK)
            continue;
        const struct automaton *text = up_to(t, literals(t, &piece, 1), stops);
        n_left -= n_own;
        begin_alternative(t, &either, n_left == 0);
        if (!text || automaton_is_empty(text)) {
            wrong(t, trigger, "another trigger always comes before this one");
            return;
        }
        add_automaton(t, text);
        struct either own = EITHER_NONE;
        for (const struct json_value *v = tags->first; v && t->status == SERVERD_OK; v = v->next) {
            if (trigger_of(t, v, triggers) != trigger)
                continue;
            begin_alternative(t, &own, --n_own == 0);
            add_tag(t, v, trigger->n);
            end_alternative(t, &own);
        }
        end_either(t, &own);
        end_alternative(t, &either);
    }
    end_either(t, &either);
}

/* `again` is where it goes on after a tag; free text without a tag ends it. */
static void add_triggered(struct tags *t, const struct json_value *format,
                          const struct json_value *tags)
{
    const struct json_value *triggers = list(t, format, "triggers");
    const struct automaton *stops = triggers && tags ? trigger_texts(t, triggers) : NULL;
    const struct automaton *rest = without(t, stops);
    bool is_once = flag(format, "stop_after_first");
    if (t->status != SERVERD_OK)
        return;
    if (flag(format, "at_least_one"))
        add_announced_tag(t, triggers, tags, stops);
    if (flag(format, "at_least_one") && is_once)
        return;
    uint32_t again = add(t, OP_SPLIT, 0);
    add_announced_tag(t, triggers, tags, stops);
    uint32_t jump = add(t, OP_JUMP, again);
    set_target(t, again, here(t));
    add_automaton(t, rest);
    if (is_once)
        set_target(t, jump, here(t));
}

static void add_any_tag(struct tags *t, const struct json_value *tags)
{
    struct either either = EITHER_NONE;
    for (const struct json_value *v = tags->first; v && t->status == SERVERD_OK; v = v->next) {
        begin_alternative(t, &either, !v->next);
        add_tag(t, v, 0);
        end_alternative(t, &either);
    }
    end_either(t, &either);
}

static void add_separated(struct tags *t, const struct json_value *format)
{
    const struct json_value *tags = list(t, format, "tags");
    const struct json_value *separator = field(t, format, "separator", JSON_STRING);
    if (t->status != SERVERD_OK)
        return;
    uint32_t skip = flag(format, "at_least_one") ? UINT32_MAX : add(t, OP_SPLIT, 0);
    uint32_t again = here(t);
    add_any_tag(t, tags);
    if (!flag(format, "stop_after_first")) {
        uint32_t stop = add(t, OP_SPLIT, 0);
        add_literal(t, separator->text, separator->n);
        (void)add(t, OP_JUMP, again);
        set_target(t, stop, here(t));
    }
    if (skip != UINT32_MAX)
        set_target(t, skip, here(t));
}

static void add_anything(struct tags *t)
{
    const struct automaton *anything;
    if (check(t, automaton_anything(t->builder->budget, &anything, t->err), "invalid_grammar"))
        add_automaton(t, anything);
}

static void add_format(struct tags *t, const struct json_value *format)
{
    const struct json_value *type = json_member(format, "type");
    if (t->status != SERVERD_OK)
        return;
    if (++t->depth > LIMIT_GRAMMAR_NESTING)
        (void)check(t, fail(t->err, SERVERD_TIMEOUT, "nested too deeply"), NULL);
    else if (json_is_text(type, "const_string")) {
        const struct json_value *value = field(t, format, "value", JSON_STRING);
        add_literal(t, value ? value->text : "", value ? value->n : 0);
    } else if (json_is_text(type, "json_schema")) {
        const struct json_value *schema = json_member(format, "json_schema");
        if (!schema)
            wrong(t, format, "json_schema: missing");
        add_schema(t, schema);
    } else if (json_is_text(type, "regex"))
        add_regex(t, field(t, format, "pattern", JSON_STRING));
    else if (json_is_text(type, "grammar"))
        add_grammar(t, field(t, format, "grammar", JSON_STRING));
    else if (json_is_text(type, "any_text"))
        add_anything(t);
    else if (json_is_text(type, "sequence") || json_is_text(type, "or"))
        add_elements(t, list(t, format, "elements"), json_is_text(type, "sequence"));
    else if (json_is_text(type, "tag"))
        add_tag(t, format, 0);
    else if (json_is_text(type, "triggered_tags"))
        add_triggered(t, format, list(t, format, "tags"));
    else if (json_is_text(type, "tags_with_separator"))
        add_separated(t, format);
    else
        wrong(t, format, "type: unknown");
    t->depth--;
}

serverd_status tags_compile(struct machine_builder *builder, const struct json_value *tags,
                            const char **code, serverd_error *err)
{
    struct tags t = {.builder = builder, .code = code, .err = err};
    const struct json_value *format = json_member(tags, "format");
    if (format)
        add_format(&t, format);
    else
        add_triggered(&t, tags, list(&t, tags, "structures"));
    return t.status;
}
