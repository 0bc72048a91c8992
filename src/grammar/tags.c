#include "grammar/tags_internal.h"

#include "base/error.h"
#include "grammar/gbnf.h"
#include "grammar/regex.h"

#include <string.h>

/* ---- formats --------------------------------------------------------------------------------- */

static void add_schema(struct tags *t, const struct json_value *schema)
{
    uint32_t value;
    const char *code = NULL;
    if (!schema || t->status != SERVERD_OK)
        return;
    serverd_status status = machine_builder_schema(t->builder, schema, &value, &code, t->err);
    if (code)
        *t->code = code;
    if (tags_check(t, status, code ? code : "invalid_schema"))
        (void)tags_add(t, OP_VALUE, value);
}

static void add_regex(struct tags *t, const struct json_value *pattern)
{
    struct string_set set;
    uint32_t text;
    if (!pattern || !tags_check(t,
                                regex_compile(t->builder->budget, pattern->text, pattern->n,
                                              REGEX_WHOLE, &set, t->err),
                                "invalid_regex"))
        return;
    if (string_set_is_empty(&set))
        tags_wrong(t, pattern, "matches nothing");
    else if (tags_check(t, machine_builder_text(t->builder, &set, true, &text, t->err),
                        "invalid_regex"))
        (void)tags_add(t, OP_TEXT, text);
}

static void add_grammar(struct tags *t, const struct json_value *text)
{
    uint32_t place, call = text ? tags_add(t, OP_CALL, 0) : 0,
                    jump = text ? tags_add(t, OP_JUMP, 0) : 0;
    if (!text || t->status != SERVERD_OK)
        return;
    if (!tags_check(t, gbnf_compile(t->builder, text->text, text->n, &place, t->err),
                    "invalid_grammar"))
        return;
    tags_set_target(t, call, place);
    tags_set_target(t, jump, tags_here(t));
}

static void add_elements(struct tags *t, const struct json_value *elements, bool is_sequence)
{
    struct either either = EITHER_NONE;
    for (const struct json_value *v = elements ? elements->first : NULL;
         v && t->status == SERVERD_OK; v = v->next) {
        if (!is_sequence)
            either_begin(t, &either, !v->next);
        tags_add_format(t, v);
        if (!is_sequence)
            either_next(t, &either);
    }
    either_end(t, &either);
}

/* A tag without the first n bytes of its `begin`. `structures` have a schema instead of a content.
 */
static void add_tag(struct tags *t, const struct json_value *tag, size_t n)
{
    const struct json_value *begin = tags_field(t, tag, "begin", JSON_STRING);
    const struct json_value *end = tags_field(t, tag, "end", JSON_STRING);
    const struct json_value *schema = json_member(tag, "schema");
    const struct json_value *content = schema ? NULL : tags_field(t, tag, "content", JSON_OBJECT);
    if (t->status != SERVERD_OK)
        return;
    tags_add_literal(t, begin->text + n, begin->n - n);
    if (content && json_is_text(json_member(content, "type"), "any_text") && end->n > 0) {
        const struct text_piece piece = {end->text, end->n};
        const struct automaton *ends = tags_literals(t, &piece, 1),
                               *text = tags_up_to(t, ends, ends);
        if (text)
            tags_add_automaton(t, text);
        return;
    }
    if (schema)
        add_schema(t, schema);
    else
        tags_add_format(t, content);
    tags_add_literal(t, end->text, end->n);
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
        tags_wrong(t, tag, "begin: begins with no trigger");
    return found;
}

static bool spend(struct tags *t, uint64_t n)
{
    return tags_check(t, grammar_budget_spend(t->builder->budget, n, t->err), NULL);
}

/* For each tag its trigger. NULL: failed. */
static const struct json_value **find_triggers(struct tags *t, const struct json_value *tags,
                                               const struct json_value *triggers)
{
    const struct json_value **out =
        arena_array(t->builder->budget->arena, tags->n, sizeof(const struct json_value *));
    uint32_t i = 0;
    if (!out)
        (void)tags_check(t, grammar_budget_memory(t->err), NULL);
    for (const struct json_value *v = tags->first; v && t->status == SERVERD_OK; v = v->next)
        if (spend(t, triggers->n))
            out[i++] = trigger_of(t, v, triggers);
    return t->status == SERVERD_OK ? out : NULL;
}

static const struct automaton *trigger_texts(struct tags *t, const struct json_value *triggers)
{
    struct text_piece *texts = arena_array(t->builder->budget->arena, triggers->n, sizeof *texts);
    size_t n = 0;
    if (!texts)
        (void)tags_check(t, grammar_budget_memory(t->err), NULL);
    for (const struct json_value *v = triggers->first; v && t->status == SERVERD_OK; v = v->next) {
        if (v->kind != JSON_STRING || v->n == 0)
            tags_wrong(t, v, "no trigger");
        else
            texts[n++] = (struct text_piece){v->text, v->n};
    }
    return t->status == SERVERD_OK ? tags_literals(t, texts, n) : NULL;
}

/* Free text up to a trigger, and one of its tags; of: the trigger of each. */
static void add_announced_tag(struct tags *t, const struct json_value *triggers,
                              const struct json_value *tags, const struct json_value *const *of,
                              const struct automaton *stops)
{
    struct either either = EITHER_NONE;
    uint32_t n_left = tags->n;
    for (const struct json_value *trigger = triggers->first; trigger && t->status == SERVERD_OK;
         trigger = trigger->next) {
        const struct text_piece piece = {trigger->text, trigger->n};
        uint32_t n_own = 0, at = 0;
        for (uint32_t i = 0; i < tags->n; i++)
            n_own += of[i] == trigger;
        if (!spend(t, tags->n) || n_own == 0)
            continue;
        const struct automaton *text = tags_up_to(t, tags_literals(t, &piece, 1), stops);
        n_left -= n_own;
        either_begin(t, &either, n_left == 0);
        if (!text || automaton_is_empty(text)) {
            tags_wrong(t, trigger, "another trigger always comes before this one");
            return;
        }
        tags_add_automaton(t, text);
        struct either own = EITHER_NONE;
        for (const struct json_value *v = tags->first; v && t->status == SERVERD_OK; v = v->next) {
            if (of[at++] != trigger)
                continue;
            either_begin(t, &own, --n_own == 0);
            add_tag(t, v, trigger->n);
            either_next(t, &own);
        }
        either_end(t, &own);
        either_next(t, &either);
    }
    either_end(t, &either);
}

/* `again` is where it goes on after a tag; free text without a tag ends it. */
static void add_triggered(struct tags *t, const struct json_value *format,
                          const struct json_value *tags)
{
    const struct json_value *triggers = tags_list(t, format, "triggers");
    const struct automaton *stops = triggers && tags ? trigger_texts(t, triggers) : NULL;
    const struct automaton *rest = tags_without(t, stops);
    const struct json_value *const *of =
        t->status == SERVERD_OK ? find_triggers(t, tags, triggers) : NULL;
    bool is_once = tags_flag(format, "stop_after_first");
    if (!of)
        return;
    if (tags_flag(format, "at_least_one"))
        add_announced_tag(t, triggers, tags, of, stops);
    if (tags_flag(format, "at_least_one") && is_once)
        return;
    uint32_t again = tags_add(t, OP_SPLIT, 0);
    add_announced_tag(t, triggers, tags, of, stops);
    uint32_t jump = tags_add(t, OP_JUMP, again);
    tags_set_target(t, again, tags_here(t));
    tags_add_automaton(t, rest);
    if (is_once)
        tags_set_target(t, jump, tags_here(t));
}

static void add_any_tag(struct tags *t, const struct json_value *tags)
{
    struct either either = EITHER_NONE;
    for (const struct json_value *v = tags->first; v && t->status == SERVERD_OK; v = v->next) {
        either_begin(t, &either, !v->next);
        add_tag(t, v, 0);
        either_next(t, &either);
    }
    either_end(t, &either);
}

static void add_separated(struct tags *t, const struct json_value *format)
{
    const struct json_value *tags = tags_list(t, format, "tags");
    const struct json_value *separator = tags_field(t, format, "separator", JSON_STRING);
    if (t->status != SERVERD_OK)
        return;
    uint32_t skip = tags_flag(format, "at_least_one") ? UINT32_MAX : tags_add(t, OP_SPLIT, 0);
    uint32_t again = tags_here(t);
    add_any_tag(t, tags);
    if (!tags_flag(format, "stop_after_first")) {
        uint32_t stop = tags_add(t, OP_SPLIT, 0);
        tags_add_literal(t, separator->text, separator->n);
        (void)tags_add(t, OP_JUMP, again);
        tags_set_target(t, stop, tags_here(t));
    }
    if (skip != UINT32_MAX)
        tags_set_target(t, skip, tags_here(t));
}

static void add_anything(struct tags *t)
{
    const struct automaton *anything;
    if (tags_check(t, automaton_anything(t->builder->budget, &anything, t->err), "invalid_grammar"))
        tags_add_automaton(t, anything);
}

void tags_add_format(struct tags *t, const struct json_value *format)
{
    const struct json_value *type = json_member(format, "type");
    if (t->status != SERVERD_OK)
        return;
    if (++t->depth > LIMIT_GRAMMAR_NESTING)
        (void)tags_check(t, fail(t->err, SERVERD_TIMEOUT, "nested too deeply"), NULL);
    else if (json_is_text(type, "const_string")) {
        const struct json_value *value = tags_field(t, format, "value", JSON_STRING);
        tags_add_literal(t, value ? value->text : "", value ? value->n : 0);
    } else if (json_is_text(type, "json_schema")) {
        const struct json_value *schema = json_member(format, "json_schema");
        if (!schema)
            tags_wrong(t, format, "json_schema: missing");
        add_schema(t, schema);
    } else if (json_is_text(type, "regex"))
        add_regex(t, tags_field(t, format, "pattern", JSON_STRING));
    else if (json_is_text(type, "grammar"))
        add_grammar(t, tags_field(t, format, "grammar", JSON_STRING));
    else if (json_is_text(type, "any_text"))
        add_anything(t);
    else if (json_is_text(type, "sequence") || json_is_text(type, "or"))
        add_elements(t, tags_list(t, format, "elements"), json_is_text(type, "sequence"));
    else if (json_is_text(type, "tag"))
        add_tag(t, format, 0);
    else if (json_is_text(type, "triggered_tags"))
        add_triggered(t, format, tags_list(t, format, "tags"));
    else if (json_is_text(type, "tags_with_separator"))
        add_separated(t, format);
    else if (!tags_add_call_format(t, format))
        tags_wrong(t, format, "type: unknown");
    t->depth--;
}

serverd_status tags_compile(struct machine_builder *builder, const struct json_value *tags,
                            const char **code, serverd_error *err)
{
    struct tags t = {.builder = builder, .code = code, .err = err};
    const struct json_value *format = json_member(tags, "format");
    if (format)
        tags_add_format(&t, format);
    else
        add_triggered(&t, tags, tags_list(&t, tags, "structures"));
    return t.status;
}
