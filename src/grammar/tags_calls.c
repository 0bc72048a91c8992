/* The formats that calls of tools are made of: tokens, texts that a mark ends, members, lists, and
 * text in which all of that may occur. */
#include "grammar/tags_internal.h"

#include "base/error.h"
#include "grammar/regex.h"
#include "grammar/token_trie.h"

#include <string.h>

/* ---- tokens ---------------------------------------------------------------------------------- */

static bool is_control(const struct tags *t, const struct json_value *name)
{
    const struct tokenizer *tokenizer = t->builder->tokenizer;
    int32_t id = tokenizer ? tokenizer_find(tokenizer, name->text, name->n) : -1;
    return id >= 0 && tokenizer_is_control(tokenizer, id) && !tokenizer_is_end(tokenizer, id);
}

static void add_token(struct tags *t, const struct json_value *format)
{
    const struct json_value *name = tags_field(t, format, "token", JSON_STRING);
    uint32_t text;
    if (!name)
        return;
    if (!is_control(t, name)) {
        tags_wrong(t, name, "the model has no such control token, or it ends the text");
        return;
    }
    char *spelled = arena_alloc(t->builder->budget->arena, (size_t)name->n + 2);
    if (!spelled) {
        (void)tags_check(t, grammar_budget_memory(t->err), NULL);
        return;
    }
    spelled[0] = TOKEN_MARK_BEGIN;
    memcpy(spelled + 1, name->text, name->n);
    spelled[name->n + 1] = TOKEN_MARK_END;
    serverd_status status =
        machine_builder_bytes(t->builder, spelled, (size_t)name->n + 2, &text, t->err);
    if (tags_check(t, status, "invalid_grammar"))
        (void)tags_add(t, OP_TEXT, text);
}

/* ---- texts ----------------------------------------------------------------------------------- */

static bool subtract(struct tags *t, const struct automaton **from, const struct automaton *what)
{
    return what &&
           tags_check(t, automaton_subtract(t->builder->budget, *from, what, from, t->err), NULL);
}

static bool subtract_pattern(struct tags *t, const struct automaton **from, const char *pattern)
{
    struct string_set what;
    return tags_check(t,
                      regex_compile(t->builder->budget, pattern, strlen(pattern), REGEX_WHOLE,
                                    &what, t->err),
                      "invalid_regex") &&
           subtract(t, from, what.automaton);
}

/* Texts that a reader takes as they are, up to the stop. Of tagged values it takes a CDATA frame
 * off, in which the stop does not count, and line ends at the edges, which matters where the value
 * has to be exact. */
static const struct automaton *make_readable(struct tags *t, const struct tags_readable *kind)
{
    const struct automaton *out = NULL;
    if (kind->n_stop > 0) {
        const struct text_piece piece = {kind->stop, kind->n_stop};
        out = tags_without(t, tags_literals(t, &piece, 1));
    } else {
        (void)tags_check(t, automaton_anything(t->builder->budget, &out, t->err), NULL);
    }
    if (out && kind->is_framed)
        (void)subtract_pattern(t, &out, "[ \\t\\r\\n]*<!\\[CDATA\\[[\\s\\S]*");
    if (out && kind->is_framed && kind->is_exact && t->status == SERVERD_OK)
        (void)subtract_pattern(t, &out, "[\\r\\n][\\s\\S]*|[\\s\\S]*[\\r\\n]");
    return t->status == SERVERD_OK ? out : NULL;
}

/* The same, made once: all parameters of a grammar have few kinds of values. */
static const struct automaton *readable(struct tags *t, const struct tags_readable *kind)
{
    for (size_t i = 0; i < t->n_readable; i++) {
        const struct tags_readable *known = &t->readable[i];
        if (known->is_framed == kind->is_framed && known->is_exact == kind->is_exact &&
            known->n_stop == kind->n_stop &&
            (kind->n_stop == 0 || memcmp(known->stop, kind->stop, kind->n_stop) == 0))
            return known->texts;
    }
    const struct automaton *made = make_readable(t, kind);
    if (made && t->n_readable < TAGS_READABLE) {
        t->readable[t->n_readable] = *kind;
        t->readable[t->n_readable++].texts = made;
    }
    return made;
}

static bool is_any_text(const struct string_set *set)
{
    return set->min == 0 && set->max == UINT32_MAX && automaton_is_anything(set->automaton);
}

/* The texts of the set that can be read. */
static bool keep_readable(struct tags *t, const struct json_value *format,
                          const struct json_value *stop, struct string_set *set)
{
    const struct tags_readable kind = {.stop = stop ? stop->text : NULL,
                                       .n_stop = stop ? stop->n : 0,
                                       .is_framed = tags_flag(format, "is_framed"),
                                       .is_exact = !is_any_text(set)};
    const struct automaton *texts = readable(t, &kind);
    struct string_set all = {.automaton = texts, .max = UINT32_MAX}, kept;
    if (!texts)
        return false;
    if (is_any_text(set)) {
        *set = all;
        return true;
    }
    if (!tags_check(t, string_set_intersect(t->builder->budget, set, &all, &kept, t->err), NULL))
        return false;
    *set = kept;
    return true;
}

/* {schema, stop, is_framed}: a string of the schema as it is, in which `stop` does not occur. */
static void add_string(struct tags *t, const struct json_value *format)
{
    const struct json_value *schema = json_member(format, "schema");
    const struct json_value *stop = json_member(format, "stop");
    const struct string_set *sets = NULL;
    const char *code = NULL;
    uint32_t n = 0, n_left = 0, text;
    struct either either = EITHER_NONE;
    if (!schema || (stop && stop->kind != JSON_STRING)) {
        tags_wrong(t, format, "schema: missing, or stop: of the wrong type");
        return;
    }
    serverd_status status = machine_builder_strings(t->builder, schema, &sets, &n, &code, t->err);
    if (code)
        *t->code = code;
    if (!tags_check(t, status, code ? code : "invalid_schema"))
        return;
    struct string_set *kept = arena_array(t->builder->budget->arena, n, sizeof *kept);
    if (!kept)
        (void)tags_check(t, grammar_budget_memory(t->err), NULL);
    for (uint32_t i = 0; i < n && t->status == SERVERD_OK; i++) {
        struct string_set set = sets[i];
        if (keep_readable(t, format, stop, &set) && !string_set_is_empty(&set))
            kept[n_left++] = set;
    }
    if (n_left == 0)
        tags_wrong(t, schema, "no string of the schema can be written here");
    for (uint32_t i = 0; i < n_left && t->status == SERVERD_OK; i++) {
        either_begin(t, &either, i + 1 == n_left);
        if (tags_check(t, machine_builder_text(t->builder, &kept[i], true, &text, t->err), NULL))
            (void)tags_add(t, OP_TEXT, text);
        either_next(t, &either);
    }
    either_end(t, &either);
}

/* {unless}: any text that begins with none of these, white space apart. */
static void add_text_unless(struct tags *t, const struct json_value *texts)
{
    struct grammar_budget *budget = t->builder->budget;
    const struct automaton *anything, *begins, *spaced, *whole, *out = NULL;
    struct text_piece *pieces = arena_array(budget->arena, texts->n, sizeof *pieces);
    struct string_set space;
    size_t n = 0;
    if (!pieces)
        (void)tags_check(t, grammar_budget_memory(t->err), NULL);
    for (const struct json_value *v = texts->first; v && t->status == SERVERD_OK; v = v->next) {
        if (v->kind != JSON_STRING || v->n == 0)
            tags_wrong(t, v, "no text");
        else
            pieces[n++] = (struct text_piece){v->text, v->n};
    }
    begins = tags_literals(t, pieces, n);
    if (!begins)
        return;
    static const char white[] = "[ \\t\\r\\n]*";
    serverd_status status =
        regex_compile(budget, white, sizeof white - 1, REGEX_WHOLE, &space, t->err);
    if (status == SERVERD_OK)
        status = automaton_concat(budget, space.automaton, begins, &spaced, t->err);
    if (status == SERVERD_OK)
        status = automaton_anything(budget, &anything, t->err);
    if (status == SERVERD_OK)
        status = automaton_concat(budget, spaced, anything, &whole, t->err);
    if (status == SERVERD_OK)
        status = automaton_complement(budget, whole, &out, t->err);
    if (tags_check(t, status, "invalid_grammar"))
        tags_add_automaton(t, out);
}

/* ---- members and lists ----------------------------------------------------------------------- */

/* A whole number of few digits; false: it is none. */
static bool read_count(const struct decimal *d, uint32_t *out)
{
    uint32_t x = 0;
    if (d->is_negative || d->exponent < 0 || d->n_digits + (uint32_t)d->exponent > 6)
        return false;
    for (uint32_t i = 0; i < d->n_digits + (uint32_t)d->exponent; i++)
        x = x * 10 + (i < d->n_digits ? (uint32_t)(d->digits[i] - '0') : 0);
    *out = d->n_digits == 0 ? 0 : x;
    return x <= LIMIT_GRAMMAR_REPEAT;
}

static uint32_t limit_of(struct tags *t, const struct json_value *format, const char *name,
                         uint32_t otherwise)
{
    const struct json_value *v = json_member(format, name);
    uint32_t x = otherwise;
    if (v && (v->kind != JSON_NUMBER || !read_count(v->number, &x)))
        tags_wrong(t, v, "has to be a small whole number");
    return x;
}

/* Code that is called: where it is. What comes behind it goes on behind it. */
static uint32_t begin_body(struct tags *t, uint32_t *jump)
{
    *jump = tags_add(t, OP_JUMP, 0);
    return tags_here(t);
}

static void end_body(struct tags *t, uint32_t jump)
{
    (void)tags_add(t, OP_RETURN, 0);
    tags_set_target(t, jump, tags_here(t));
}

static void add_separator(struct tags *t, const struct json_value *format)
{
    const struct json_value *separator = json_member(format, "separator");
    if (separator && separator->kind == JSON_STRING)
        tags_add_literal(t, separator->text, separator->n);
    else if (separator)
        tags_add_format(t, separator);
}

/* {content, separator, min, max}: so many times, one behind the other. */
static void add_repeat(struct tags *t, const struct json_value *format)
{
    const struct json_value *content = tags_field(t, format, "content", JSON_OBJECT);
    uint32_t min = limit_of(t, format, "min", 0);
    uint32_t max = limit_of(t, format, "max", LIMIT_GRAMMAR_REPEAT), jump, body, again;
    if (t->status == SERVERD_OK && (max == 0 || min > max))
        tags_wrong(t, format, "max: less than min, or 0");
    if (t->status != SERVERD_OK)
        return;
    body = begin_body(t, &jump);
    tags_add_format(t, content);
    end_body(t, jump);
    again = begin_body(t, &jump);
    add_separator(t, format);
    (void)tags_add(t, OP_CALL, body);
    end_body(t, jump);
    uint32_t skip = min == 0 ? tags_add(t, OP_SPLIT, 0) : UINT32_MAX;
    (void)tags_add(t, OP_CALL, body);
    if (max > 1 && t->status == SERVERD_OK) {
        const struct machine_code code = {
            .op = OP_REPEAT, .a = again, .min = min > 0 ? min - 1 : 0, .max = max - 1};
        if (machine_builder_code(t->builder, code) == UINT32_MAX)
            (void)tags_check(t, grammar_budget_memory(t->err), NULL);
    }
    if (skip != UINT32_MAX)
        tags_set_target(t, skip, tags_here(t));
}

/* {members: [{content, is_required}], separator}: in this order, some left out. There are two
 * tracks, in front of the first one that is written and behind it:
 *
 *     bare:      [0] ----> [1] ----> [2]      a separator comes before each of the other track
 *                   \         \
 *     written:             [1] ----> [2]
 */
static void add_members(struct tags *t, const struct json_value *format)
{
    const struct json_value *members = tags_field(t, format, "members", JSON_ARRAY);
    uint32_t n = members ? members->n : 0, jump;
    uint32_t *bodies = arena_array(t->builder->budget->arena, n, sizeof *bodies);
    uint32_t *written = arena_array(t->builder->budget->arena, n + 1, sizeof *written);
    uint32_t *leaves = arena_array(t->builder->budget->arena, n + 1, sizeof *leaves), i = 0;
    if (!bodies || !written || !leaves)
        (void)tags_check(t, grammar_budget_memory(t->err), NULL);
    if (!members || t->status != SERVERD_OK)
        return;
    for (const struct json_value *m = members->first; m && t->status == SERVERD_OK; m = m->next) {
        const struct json_value *content = tags_field(t, m, "content", JSON_OBJECT);
        bodies[i++] = begin_body(t, &jump);
        if (content)
            tags_add_format(t, content);
        end_body(t, jump);
    }
    i = 0;
    for (const struct json_value *m = members->first; m && t->status == SERVERD_OK; m = m->next) {
        uint32_t skip = tags_flag(m, "is_required") ? UINT32_MAX : tags_add(t, OP_SPLIT, 0);
        (void)tags_add(t, OP_CALL, bodies[i]);
        leaves[i++] = tags_add(t, OP_JUMP, 0); /* to the other track */
        if (skip != UINT32_MAX)
            tags_set_target(t, skip, tags_here(t));
        else
            break; /* the others stand behind it */
    }
    uint32_t n_leaves = i, end = tags_add(t, OP_JUMP, 0);
    i = 0;
    for (const struct json_value *m = members->first; m && t->status == SERVERD_OK; m = m->next) {
        written[i] = tags_here(t);
        uint32_t skip = tags_flag(m, "is_required") ? UINT32_MAX : tags_add(t, OP_SPLIT, 0);
        add_separator(t, format);
        (void)tags_add(t, OP_CALL, bodies[i++]);
        if (skip != UINT32_MAX)
            tags_set_target(t, skip, tags_here(t));
    }
    if (t->status != SERVERD_OK)
        return;
    written[n] = tags_here(t);
    for (i = 0; i < n_leaves; i++)
        tags_set_target(t, leaves[i], written[i + 1]);
    tags_set_target(t, end, tags_here(t));
}

/* ---- text in which other things occur -------------------------------------------------------- */

static const struct json_value *begin_of(struct tags *t, const struct json_value *part)
{
    return tags_field(t, part, "begin", JSON_STRING);
}

static bool is_same_text(const struct json_value *a, const struct json_value *b)
{
    return a->n == b->n && memcmp(a->text, b->text, a->n) == 0;
}

/* Whether an earlier part begins with the same text. */
static bool is_seen(struct tags *t, const struct json_value *parts, const struct json_value *part)
{
    if (!tags_check(t, grammar_budget_spend(t->builder->budget, parts->n, t->err), NULL))
        return false;
    for (const struct json_value *p = parts->first; p != part; p = p->next)
        if (is_same_text(begin_of(t, p), begin_of(t, part)))
            return true;
    return false;
}

static uint32_t count_begins(struct tags *t, const struct json_value *parts)
{
    uint32_t n = 0;
    for (const struct json_value *p = parts->first; p && t->status == SERVERD_OK; p = p->next)
        n += begin_of(t, p) && !is_seen(t, parts, p);
    return n;
}

/* Free text up to and with the beginning of the part. */
static void add_way_to(struct tags *t, const struct json_value *begin,
                       const struct automaton *stops)
{
    const struct text_piece piece = {begin->text, begin->n};
    const struct automaton *way =
        begin->n == 0 ? tags_without(t, stops) : tags_up_to(t, tags_literals(t, &piece, 1), stops);
    if (way && automaton_is_empty(way))
        tags_wrong(t, begin, "a trigger always comes before it");
    else if (way)
        tags_add_automaton(t, way);
}

/* All parts that begin so. `ends` is where the last ones lead. */
static void add_parts(struct tags *t, const struct json_value *parts,
                      const struct json_value *begin, struct either *ends)
{
    struct either either = EITHER_NONE;
    uint32_t n_left = 0;
    (void)tags_check(t, grammar_budget_spend(t->builder->budget, parts->n, t->err), NULL);
    for (const struct json_value *p = parts->first; p; p = p->next)
        n_left += is_same_text(begin_of(t, p), begin);
    for (const struct json_value *p = parts->first; p && t->status == SERVERD_OK; p = p->next) {
        if (!is_same_text(begin_of(t, p), begin))
            continue;
        const struct json_value *content = tags_field(t, p, "content", JSON_OBJECT);
        either_begin(t, &either, --n_left == 0);
        if (content)
            tags_add_format(t, content);
        either_next(t, tags_flag(p, "is_last") ? ends : &either);
    }
    either_end(t, &either);
}

static const struct automaton *stops_of(struct tags *t, const struct json_value *format)
{
    const struct json_value *triggers = tags_field(t, format, "triggers", JSON_ARRAY);
    const struct automaton *none = NULL;
    struct text_piece *texts =
        arena_array(t->builder->budget->arena, triggers ? triggers->n : 0, sizeof *texts);
    size_t n = 0;
    if (!texts)
        (void)tags_check(t, grammar_budget_memory(t->err), NULL);
    for (const struct json_value *v = triggers ? triggers->first : NULL;
         v && t->status == SERVERD_OK; v = v->next) {
        if (v->kind != JSON_STRING || v->n == 0)
            tags_wrong(t, v, "no trigger");
        else
            texts[n++] = (struct text_piece){v->text, v->n};
    }
    if (t->status == SERVERD_OK && n > 0)
        return tags_literals(t, texts, n);
    (void)tags_check(t, automaton_nothing(t->builder->budget, &none, t->err), NULL);
    return t->status == SERVERD_OK ? none : NULL;
}

/* {triggers, parts: [{begin, content, is_last}]}: free text, in which parts occur. A trigger occurs
 * in it as the beginning of a part only; `begin` that is no trigger may stand in it without. */
static void add_interleaved(struct tags *t, const struct json_value *format)
{
    const struct json_value *parts = tags_list(t, format, "parts");
    const struct automaton *stops = parts ? stops_of(t, format) : NULL;
    const struct automaton *rest = stops ? tags_without(t, stops) : NULL;
    uint32_t n_left = parts ? count_begins(t, parts) : 0;
    if (t->status != SERVERD_OK)
        return;
    uint32_t again = tags_add(t, OP_SPLIT, 0);
    struct either either = EITHER_NONE, ends = EITHER_NONE;
    for (const struct json_value *p = parts->first; p && t->status == SERVERD_OK; p = p->next) {
        if (is_seen(t, parts, p))
            continue;
        either_begin(t, &either, --n_left == 0);
        add_way_to(t, begin_of(t, p), stops);
        add_parts(t, parts, begin_of(t, p), &ends);
        either_next(t, &either);
    }
    either_end(t, &either);
    (void)tags_add(t, OP_JUMP, again);
    tags_set_target(t, again, tags_here(t));
    tags_add_automaton(t, rest);
    either_end(t, &ends);
}

bool tags_add_call_format(struct tags *t, const struct json_value *format)
{
    static const struct {
        const char *type;
        void (*add)(struct tags *t, const struct json_value *format);
    } formats[] = {{"token", add_token},
                   {"string", add_string},
                   {"repeat", add_repeat},
                   {"members", add_members},
                   {"interleaved", add_interleaved}};
    const struct json_value *type = json_member(format, "type");
    const struct json_value *unless = json_member(format, "unless");
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (json_is_text(type, formats[i].type)) {
            formats[i].add(t, format);
            return true;
        }
    }
    if (!json_is_text(type, "text_unless") || !unless || unless->kind != JSON_ARRAY)
        return false;
    add_text_unless(t, unless);
    return true;
}
