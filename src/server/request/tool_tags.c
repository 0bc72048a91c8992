#include "server/request/tool_tags.h"

#include "base/limits.h"
#include "base/numeric.h"
#include "server/request/tool_notation.h"

#include <string.h>

#define MAX_FRAMES 4 /* in front of what a message has to be */

/* ---- calls ----------------------------------------------------------------------------------- */

static bool may_be_called(const struct tool_use *use, const char *name)
{
    return !use->only || strcmp(use->only, name) == 0;
}

/* Whether a token in it ends the output: then nothing can be written behind it. */
static bool ends_output(const struct notation *m, const char *text)
{
    for (struct writing_piece piece = call_writing_next(m->tokenizer, &text);
         piece.kind != WRITING_END; piece = call_writing_next(m->tokenizer, &text)) {
        int32_t id =
            piece.kind == WRITING_TOKEN ? tokenizer_find(m->tokenizer, piece.text, piece.n) : -1;
        if (id >= 0 && tokenizer_is_end(m->tokenizer, id))
            return true;
    }
    return false;
}

/* Whether the text has control tokens, none of which ends the output. */
static bool is_frame(const struct notation *m, const char *text)
{
    const char *at = text;
    for (struct writing_piece piece = call_writing_next(m->tokenizer, &at);
         piece.kind != WRITING_END; piece = call_writing_next(m->tokenizer, &at))
        if (piece.kind == WRITING_TOKEN)
            return !ends_output(m, text);
    return false;
}

static bool is_single(const struct notation *m)
{
    const char *between = m->writing->between;
    return m->writing->is_single || m->setup->use->max_calls == 1 ||
           (between && ends_output(m, between));
}

/* All calls of one reply: a sequence. */
static json_t *make_calls(struct notation *m)
{
    const struct tool_use *use = m->setup->use;
    const struct call_writing *w = m->writing;
    json_t *tool, *kinds = json_array(), *between = json_array(), *all = json_array();
    size_t i;
    json_array_foreach(use->list, i, tool)
    {
        const json_t *function = json_object_get(tool, "function");
        const struct slots slots = {function, json_string_value(json_object_get(function, "name")),
                                    NULL, NULL, false};
        json_t *pieces = json_array();
        if (may_be_called(use, slots.name)) {
            notation_add(m, w->call, &slots, pieces);
            format_append(kinds, format_sequence(json_incref(pieces)));
        }
        json_decref(pieces);
    }
    uint32_t max = is_single(m) ? 1 : use->max_calls ? use->max_calls : LIMIT_TOOL_CALLS;
    const struct slots none = {0};
    if (w->prefix && is_frame(m, w->prefix)) {
        json_t *prefix = json_array();
        notation_add(m, w->prefix, &none, prefix);
        format_append(all, json_pack("{s:s,s:o,s:i}", "type", "repeat", "content",
                                     format_sequence(prefix), "max", 1));
    }
    notation_add(m, w->begin, &none, all);
    if (max > 1)
        notation_add(m, w->between, &none, between);
    json_t *calls = json_pack("{s:s,s:o,s:i,s:i}", "type", "repeat", "content",
                              format_either(kinds), "min", 1, "max", (int)max);
    if (json_array_size(between) > 0)
        (void)json_object_set_new(calls, "separator", format_sequence(between));
    else
        json_decref(between);
    format_append(all, calls);
    notation_add(m, w->end, &none, all);
    return format_sequence(all);
}

/* ---- frames and content ---------------------------------------------------------------------- */

static void add_frame(const struct notation *m, const char *text, const char **out, size_t *n)
{
    for (size_t i = 0; i < *n; i++)
        if (strcmp(out[i], text) == 0)
            return;
    if (is_frame(m, text))
        out[(*n)++] = text;
}

enum { FRAMES = 2 * TOOL_FAMILY_DROPPED + 1 };

/* Marks that are control tokens and may stand around content: frames of messages, and the beginning
 * of reasoning, which ends the grammar's part until it is over. */
static size_t find_frames(const struct notation *m, const char *out[FRAMES])
{
    const struct tool_family *family = m->setup->formats->family;
    const struct reasoning_format *reasoning = m->setup->formats->reasoning;
    size_t n = 0;
    for (size_t i = 0; family && i < TOOL_FAMILY_DROPPED && family->dropped[i]; i++)
        add_frame(m, family->dropped[i], out, &n);
    for (size_t i = 0; reasoning && i < TOOL_FAMILY_DROPPED && reasoning->dropped[i]; i++)
        add_frame(m, reasoning->dropped[i], out, &n);
    if (reasoning)
        add_frame(m, reasoning->open, out, &n);
    return n;
}

/* Some frames, and behind them the format. */
static json_t *behind_frames(struct notation *m, json_t *format)
{
    const char *frames[FRAMES];
    const struct slots none = {0};
    size_t n = find_frames(m, frames);
    json_t *kinds = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *pieces = json_array();
        notation_add(m, frames[i], &none, pieces);
        format_append(kinds, format_sequence(pieces));
    }
    if (n == 0) {
        json_decref(kinds);
        return format;
    }
    json_t *repeat = json_pack("{s:s,s:o,s:i}", "type", "repeat", "content", format_either(kinds),
                               "max", MAX_FRAMES);
    return format_sequence(json_pack("[o,o]", repeat, format));
}

/* The form of content as a format. */
static json_t *make_content(const struct output_form *form)
{
    json_t *value, *list, *item;
    size_t i;
    switch (form->form) {
    case GRAMMAR_JSON_OBJECT:
        return format_of_schema(json_pack("{s:s}", "type", "object"));
    case GRAMMAR_JSON_SCHEMA:
        value = json_loadb(form->text, form->n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        return format_of_schema(value ? value : json_stringn(form->text, form->n));
    case GRAMMAR_REGEX:
        return json_pack("{s:s,s:s%}", "type", "regex", "pattern", form->text, form->n);
    case GRAMMAR_GBNF:
        return json_pack("{s:s,s:s%}", "type", "grammar", "grammar", form->text, form->n);
    case GRAMMAR_CHOICE:
        list = json_array();
        value = json_loadb(form->text, form->n, JSON_ALLOW_NUL, NULL);
        json_array_foreach(value, i, item)
            format_append(list, json_pack("{s:s,s:O}", "type", "const_string", "value", item));
        json_decref(value);
        return format_either(list);
    default:
        value = json_loadb(form->text, form->n, JSON_ALLOW_NUL, NULL);
        item = json_object_get(value, "format");
        item = item ? json_incref(item) : NULL;
        if (!item && value) { /* the older way to write triggered tags */
            (void)json_object_set_new(value, "type", json_string("triggered_tags"));
            (void)json_object_set(value, "tags", json_object_get(value, "structures"));
            return value;
        }
        json_decref(value);
        return item;
    }
}

/* ---- where calls begin ----------------------------------------------------------------------- */

/* Whether a token comes in front of the arguments: then no text alone is the beginning of a call.
 */
static bool has_token(const struct notation *m, const char *text)
{
    for (struct writing_piece piece = call_writing_next(m->tokenizer, &text);
         piece.kind == WRITING_TEXT || piece.kind == WRITING_TOKEN ||
         (piece.kind == WRITING_SLOT && strncmp(piece.text, "name}", 5) == 0);
         piece = call_writing_next(m->tokenizer, &text))
        if (piece.kind == WRITING_TOKEN)
            return true;
    return false;
}

/* Text at the beginning of a call by which it is known, in front of the first slot or token; *n 0:
 * a token begins it. *is_trigger: where it stands there is a call. */
static const char *mark_of(const struct notation *m, size_t *n, bool *is_trigger)
{
    const char *text = m->writing->begin ? m->writing->begin : m->writing->call, *at = text;
    struct writing_piece first = call_writing_next(m->tokenizer, &at);
    *is_trigger = first.kind == WRITING_TEXT && !has_token(m, text);
    *n = first.kind == WRITING_TEXT ? first.n : 0;
    if (*is_trigger && *n > 1) /* what is behind a tag may be written in other ways */
        *n = 1 + min_size(*n - 1, strcspn(text + 1, "\n{["));
    return text;
}

/* A sequence without the first n bytes of its text. */
static void cut_front(json_t *format, size_t n)
{
    json_t *first = json_array_get(json_object_get(format, "elements"), 0);
    json_t *value = json_object_get(first, "value");
    if (n == 0 || !value)
        return;
    const char *text = json_string_value(value);
    size_t len = json_string_length(value);
    if (len == n)
        (void)json_array_remove(json_object_get(format, "elements"), 0);
    else
        (void)json_object_set_new(first, "value", json_stringn(text + n, len - n));
}

/* Texts by which the reader knows a call, one way or another: without tokens in it, such a call
 * could be written as free text. */
static void add_stops(const struct notation *m, json_t *triggers)
{
    const struct tool_family *family = m->setup->formats->family;
    struct call_pattern pattern;
    serverd_error ignored; /* the table has been compiled before */
    for (size_t i = 0; i < TOOL_FAMILY_PATTERNS && family->patterns[i]; i++) {
        uint64_t control = 0;
        (void)call_pattern_compile(m->tokenizer, family->patterns[i], &pattern, &ignored);
        for (uint32_t j = 0; j < pattern.n_elements; j++)
            control |= pattern.elements[j].literal.control;
        const struct mark *first = &pattern.elements[0].literal;
        if (pattern.elements[0].slot == SLOT_LITERAL && control == 0)
            format_append(triggers, json_stringn(first->text, first->n));
    }
}

/* Text in which calls may come. */
static json_t *make_interleaved(struct notation *m)
{
    const struct slots none = {0};
    const char *frames[FRAMES];
    json_t *parts = json_array(), *triggers = json_array();
    bool is_trigger, is_last = is_single(m);
    size_t n_mark, n = find_frames(m, frames);
    const char *mark = mark_of(m, &n_mark, &is_trigger);
    json_t *calls = make_calls(m);
    if (m->writing->begin) {
        cut_front(calls, n_mark);
    } else { /* the mark stands in each call: calls follow each other as parts do */
        json_t *repeat = json_array_get(json_object_get(calls, "elements"), 0);
        json_t *content = json_incref(json_object_get(repeat, "content"));
        json_decref(calls);
        calls = content;
        size_t i;
        json_t *kind, *kinds = json_object_get(calls, "elements");
        const char *type = json_string_value(json_object_get(calls, "type"));
        if (strcmp(type, "or") != 0)
            cut_front(calls, n_mark);
        else
            json_array_foreach(kinds, i, kind) cut_front(kind, n_mark);
    }
    if (is_trigger)
        format_append(triggers, json_stringn(mark, n_mark));
    add_stops(m, triggers);
    format_append(parts, json_pack("{s:s%,s:o,s:b}", "begin", mark, n_mark, "content", calls,
                                   "is_last", is_last));
    for (size_t i = 0; i < n; i++) {
        const char *rest = frames[i];
        struct writing_piece first = call_writing_next(m->tokenizer, &rest);
        size_t n_text = first.kind == WRITING_TEXT ? first.n : 0;
        json_t *pieces = json_array();
        notation_add(m, frames[i] + n_text, &none, pieces);
        format_append(parts, json_pack("{s:s%,s:o}", "begin", frames[i], n_text, "content",
                                       format_sequence(pieces)));
    }
    return json_pack("{s:s,s:o,s:o}", "type", "interleaved", "triggers", triggers, "parts", parts);
}

/* Families without a mark: what begins as a call of a known tool is one. */
static json_t *make_at_start(struct notation *m)
{
    const struct call_writing *w = m->writing;
    json_t *tool, *prefixes = json_array(), *content;
    size_t i;
    const char *slot = strstr(w->call, "{name}"), *behind = slot + strlen("{name}");
    json_array_foreach(m->setup->use->list, i, tool)
    {
        const json_t *function = json_object_get(tool, "function");
        const char *name = json_string_value(json_object_get(function, "name"));
        format_append(prefixes, json_sprintf("%s%.*s%s%.1s", w->begin ? w->begin : "",
                                             (int)(slot - w->call), w->call, name, behind));
    }
    if (w->content) {
        json_decref(prefixes);
        content = format_sequence(json_pack("[{s:s,s:s},{s:s}]", "type", "const_string", "value",
                                            w->content, "type", "any_text"));
    } else {
        content = json_pack("{s:s,s:o}", "type", "text_unless", "unless", prefixes);
    }
    return format_either(json_pack("[o,o]", make_calls(m), content));
}

bool tool_tags_make(const struct tool_tags_setup *setup, struct tool_tags *out, struct api_error *e)
{
    const struct tool_use *use = setup->use;
    struct notation m = {.setup = setup,
                         .writing = setup->formats->writing,
                         .tokenizer = setup->tokenizer,
                         .are_exact = true,
                         .e = e};
    const char *frames[FRAMES];
    json_t *format = NULL;
    *out = (struct tool_tags){0};
    if (!use->list) { /* content alone, which may have to stand in a frame */
        if (setup->form->is_set && find_frames(&m, frames) > 0)
            format = behind_frames(&m, make_content(setup->form));
    } else if (!m.writing) {
        return true;
    } else if (use->mode == TOOLS_REQUIRED) {
        format = behind_frames(&m, make_calls(&m));
    } else if (setup->form->is_set) {
        format = format_either(json_pack("[o,o]", make_calls(&m), make_content(setup->form)));
        format = behind_frames(&m, format);
    } else {
        format = m.writing->is_at_start ? make_at_start(&m) : make_interleaved(&m);
    }
    if (format)
        out->tags = json_pack("{s:s,s:o}", "type", "structural_tag", "format", format);
    out->are_exact = out->tags && use->list && m.are_exact;
    if (!m.is_failed)
        return true;
    json_decref(out->tags);
    *out = (struct tool_tags){0};
    return false;
}
