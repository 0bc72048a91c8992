#include "text/call_object_internal.h"

#include "base/limits.h"
#include "text/call_values.h"
#include "text/json_value.h"

#include <stdlib.h>
#include <string.h>

struct call_reader {
    const struct call_pattern *pattern, *parameter;
    const struct call_pattern *current;
    struct tool_types types;
    bool is_first_known;
    uint32_t element, outer_element, n_matched;
    struct buffer slot; /* bytes of the present slot */
    uint64_t recent;    /* bit i: the byte before the i-th last came from a control token */
    struct json_track track;
    char quote; /* that a string of Python's began with */
    struct call_object object;
    struct buffer key;
    bool is_text_type, has_type;
    struct tool_call_list list;
    bool is_last_live; /* the last call's arguments are still growing as JSON */
};

/* ---- small helpers ---- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
}

static struct tool_call *last_call(struct call_reader *r)
{
    return r->list.n > 0 ? &r->list.calls[r->list.n - 1] : NULL;
}

/* The call that is read now: made when its name or its id comes first. */
static struct tool_call *this_call(struct call_reader *r)
{
    return r->list.n > 0 ? last_call(r) : tool_call_list_add(&r->list);
}

static const struct mark *literal_behind(const struct call_reader *r)
{
    uint32_t next = r->element + 1;
    const struct call_pattern *p = r->current;
    return next < p->n_elements && p->elements[next].slot == SLOT_LITERAL
               ? &p->elements[next].literal
               : NULL;
}

/* Whether slot's last bytes are the literal, from control tokens where it has to be. */
static bool slot_ends_with(const struct call_reader *r, const struct mark *mark)
{
    const struct buffer *slot = &r->slot;
    if (slot->len < mark->n || memcmp(slot->data + slot->len - mark->n, mark->text, mark->n) != 0)
        return false;
    for (uint32_t i = 0; i < mark->n; i++)
        if (mark->control >> i & 1 && !(r->recent >> (mark->n - 1 - i) & 1))
            return false;
    return true;
}

/* ---- life ---- */

static void start_element(struct call_reader *r)
{
    enum call_slot slot = r->current->elements[r->element].slot;
    buffer_reset(&r->slot);
    r->n_matched = 0;
    r->track = (struct json_track){0};
    call_object_start(&r->object, slot == SLOT_CALLS || slot == SLOT_NAMED_CALLS,
                      slot == SLOT_NAMED_CALLS, !r->is_first_known);
}

struct call_reader *call_reader_create(const struct call_pattern *pattern,
                                       const struct call_pattern *parameter, bool has_first,
                                       const struct tool_types *types)
{
    struct call_reader *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->pattern = r->current = pattern;
    r->parameter = parameter;
    r->types = *types;
    r->is_first_known = has_first;
    r->element = has_first ? 1 : 0;
    buffer_init(&r->slot, LIMIT_TOOL_ARGUMENTS);
    buffer_init(&r->key, LIMIT_TOOL_NAME);
    call_object_init(&r->object, &r->list);
    start_element(r);
    return r;
}

void call_reader_destroy(struct call_reader *r)
{
    if (!r)
        return;
    buffer_deinit(&r->slot);
    buffer_deinit(&r->key);
    call_object_deinit(&r->object);
    tool_call_list_deinit(&r->list);
    free(r);
}

struct tool_call_list *call_reader_calls(struct call_reader *r)
{
    return &r->list;
}

size_t call_reader_settled(const struct call_reader *r)
{
    bool is_live = r->is_last_live || r->object.is_last_live;
    /* without a mark in front it may still be content */
    return is_live && r->is_first_known && r->list.n > 0
               ? r->list.calls[r->list.n - 1].arguments.len
               : 0;
}

/* ---- the end of a slot ---- */

static bool set_name(struct call_reader *r, const char *name, size_t n)
{
    struct tool_call *call = this_call(r);
    return call && tool_call_set_name(call, name, n);
}

/* functions.NAME:INDEX */
static bool end_index_name(struct call_reader *r, const char *text, size_t n)
{
    struct tool_call *call = this_call(r);
    while (n > 0 && is_space(text[0])) {
        text++;
        n--;
    }
    while (n > 0 && is_space(text[n - 1]))
        n--;
    if (!call || !tool_call_set_id(call, text, n))
        return false;
    const char *colon = memrchr(text, ':', n);
    if (colon)
        n = (size_t)(colon - text);
    if (n > 10 && memcmp(text, "functions.", 10) == 0) {
        text += 10;
        n -= 10;
    }
    return set_name(r, text, n);
}

/* Text between CDATA marks may hold the closing mark. */
static bool is_inside_cdata(const char *text, size_t n)
{
    static const char open[] = "<![CDATA[", close[] = "]]>";
    while (n > 0 && is_space(text[0])) {
        text++;
        n--;
    }
    if (n < sizeof open - 1 || memcmp(text, open, sizeof open - 1) != 0)
        return false;
    while (n > 0 && is_space(text[n - 1]))
        n--;
    return n < sizeof open - 1 + sizeof close - 1 ||
           memcmp(text + n - (sizeof close - 1), close, sizeof close - 1) != 0;
}

/* Whether the parameter that is read is text whatever it looks like. */
static bool is_string_value(struct call_reader *r)
{
    if (r->has_type)
        return r->is_text_type;
    return r->types.is_string &&
           r->types.is_string(r->types.user, buffer_str(&last_call(r)->name), buffer_str(&r->key));
}

/* The value is JSON for sure, and the text has come to the inside of a string in it. */
static bool is_inside_json_string(struct call_reader *r, const char *text, size_t n)
{
    struct json_track track = {0};
    if (!r->types.are_exact || is_string_value(r))
        return false;
    for (size_t i = 0; i < n; i++)
        (void)json_track_push(&track, text[i]);
    return track.in_string;
}

static bool end_value(struct call_reader *r, const char *text, size_t n)
{
    struct tool_call *call = last_call(r);
    if (!call)
        return false;
    bool is_string = is_string_value(r);
    buffer_append_str(&call->arguments, call->arguments.len == 0 ? "{\"" : ", \"");
    buffer_append_json(&call->arguments, buffer_str(&r->key), r->key.len);
    buffer_append_str(&call->arguments, "\": ");
    call_value_to_json(text, n, is_string, &call->arguments);
    return !call->arguments.is_failed;
}

static bool end_type(struct call_reader *r, const char *text, size_t n)
{
    r->has_type = true;
    r->is_text_type =
        (n == 4 && memcmp(text, "true", 4) == 0) || (n == 6 && memcmp(text, "string", 6) == 0);
    return true;
}

/* The slot's text is complete; the literal behind it has been cut off. */
static bool end_slot(struct call_reader *r, enum call_slot slot)
{
    const char *text = buffer_str(&r->slot);
    size_t n = r->slot.len;
    struct tool_call *call;
    switch (slot) {
    case SLOT_INDEX_NAME:
        return end_index_name(r, text, n);
    case SLOT_ID:
        call = this_call(r);
        return call && tool_call_set_id(call, text, n);
    case SLOT_KEY:
        buffer_reset(&r->key);
        buffer_append(&r->key, text, n);
        r->has_type = false;
        return !r->key.is_failed;
    case SLOT_TYPE:
        return end_type(r, text, n);
    case SLOT_VALUE:
        return end_value(r, text, n);
    case SLOT_OBJECT:
        call = last_call(r);
        return call && call_object_to_json(text, n, &call->arguments);
    default:
        return true;
    }
}

/* ---- one byte of a slot: CALL_DONE means that the slot is complete ---- */

static enum call_read push_name(struct call_reader *r, char c)
{
    if (r->slot.len == 0 && is_space(c))
        return CALL_READING;
    if (is_name_byte(c)) {
        buffer_append_char(&r->slot, c);
        return r->slot.len <= LIMIT_TOOL_NAME ? CALL_READING : CALL_FAILED;
    }
    return set_name(r, buffer_str(&r->slot), r->slot.len) ? CALL_DONE_BEFORE : CALL_FAILED;
}

static enum call_read push_until_literal(struct call_reader *r, enum call_slot slot, char c)
{
    const struct mark *literal = literal_behind(r);
    size_t most = slot == SLOT_VALUE || slot == SLOT_OBJECT ? LIMIT_TOOL_ARGUMENTS : 256;
    buffer_append_char(&r->slot, c);
    if (!literal || r->slot.is_failed || r->slot.len > most ||
        (slot == SLOT_RECIPIENT && r->slot.len > 0 && is_space(c)))
        return CALL_FAILED;
    if (!slot_ends_with(r, literal))
        return CALL_READING;
    size_t n = r->slot.len - literal->n;
    if (slot == SLOT_VALUE && last_call(r) &&
        (is_inside_json_string(r, r->slot.data, n) || is_inside_cdata(r->slot.data, n)))
        return CALL_READING;
    r->slot.len = n;
    r->slot.data[n] = '\0';
    if (!end_slot(r, slot))
        return CALL_FAILED;
    r->element++; /* the literal is read, too */
    return CALL_DONE;
}

static enum call_read push_arguments(struct call_reader *r, char c)
{
    struct tool_call *call = last_call(r);
    if (!call)
        return CALL_FAILED;
    if (call->arguments.len == 0) {
        if (is_space(c))
            return CALL_READING;
        if (c != '{')
            return CALL_FAILED;
        r->track = (struct json_track){0};
        r->is_last_live = true;
    }
    buffer_append_char(&call->arguments, c);
    if (call->arguments.is_failed)
        return CALL_FAILED;
    return json_track_push(&r->track, c) ? CALL_DONE : CALL_READING;
}

/* Brackets and both kinds of quotes. */
static enum call_read push_python(struct call_reader *r, char c)
{
    struct json_track *t = &r->track;
    struct buffer *slot = &r->slot;
    if (slot->len == 0 && is_space(c))
        return CALL_READING;
    if ((slot->len == 0 && c != '[') ||
        (slot->len == 1 && !is_space(c) && (!is_name_byte(c) || (c >= '0' && c <= '9'))))
        return CALL_FAILED;
    buffer_append_char(slot, c);
    if (slot->is_failed)
        return CALL_FAILED;
    if (t->in_string) {
        bool ends = c == r->quote && !t->is_escaped;
        t->is_escaped = c == '\\' && !t->is_escaped;
        t->in_string = !ends;
        return CALL_READING;
    }
    if (c == '"' || c == '\'') {
        r->quote = c;
        t->in_string = true;
    } else if (c == '[' || c == '(' || c == '{') {
        t->depth++;
    } else if (c == ']' || c == ')' || c == '}') {
        if (--t->depth == 0)
            return call_python_parse(slot->data, slot->len, &r->list) ? CALL_DONE : CALL_FAILED;
    }
    return CALL_READING;
}

static bool is_beginning(const struct buffer *slot, const struct mark *mark)
{
    return mark && slot->len <= mark->n && memcmp(slot->data, mark->text, slot->len) == 0;
}

/* Between parameters: the next one, or what stands behind them all. */
static enum call_read push_parameters(struct call_reader *r, char c)
{
    const struct mark *first = &r->parameter->elements[0].literal, *behind = literal_behind(r);
    struct tool_call *call = last_call(r);
    if (r->slot.len == 0 && is_space(c))
        return CALL_READING;
    buffer_append_char(&r->slot, c);
    r->is_last_live = true;
    if (slot_ends_with(r, first) && r->slot.len == first->n) {
        r->outer_element = r->element;
        r->current = r->parameter;
        r->element = 1;
        buffer_reset(&r->slot);
        return CALL_READING;
    }
    if (behind && slot_ends_with(r, behind) && r->slot.len == behind->n) {
        buffer_append_str(&call->arguments, call->arguments.len == 0 ? "{}" : "}");
        r->element++;
        return call->arguments.is_failed ? CALL_FAILED : CALL_DONE;
    }
    return is_beginning(&r->slot, first) || is_beginning(&r->slot, behind) ? CALL_READING
                                                                           : CALL_FAILED;
}

static enum call_read push_literal(struct call_reader *r, const struct mark *mark, char c,
                                   bool is_control)
{
    if (r->n_matched == 0 && is_space(c) && !is_space(mark->text[0]))
        return CALL_READING;
    if (c != mark->text[r->n_matched] || (mark->control >> r->n_matched & 1 && !is_control))
        return CALL_FAILED;
    r->n_matched++;
    return r->n_matched == mark->n ? CALL_DONE : CALL_READING;
}

static enum call_read push_element(struct call_reader *r, char c, bool is_control)
{
    const struct call_element *element = &r->current->elements[r->element];
    switch (element->slot) {
    case SLOT_LITERAL:
        return push_literal(r, &element->literal, c, is_control);
    case SLOT_NAME:
        return push_name(r, c);
    case SLOT_ARGUMENTS:
        return push_arguments(r, c);
    case SLOT_CALL:
    case SLOT_CALLS:
    case SLOT_NAMED_CALLS:
        return call_object_push(&r->object, c);
    case SLOT_PYTHON:
        return push_python(r, c);
    case SLOT_PARAMETERS:
        return push_parameters(r, c);
    default:
        return push_until_literal(r, element->slot, c);
    }
}

/* ---- all of it ---- */

static enum call_read check_calls(struct call_reader *r)
{
    for (uint32_t i = 0; i < r->list.n; i++) {
        const struct tool_call *call = &r->list.calls[i];
        bool is_known = r->is_first_known || !r->types.is_known ||
                        r->types.is_known(r->types.user, buffer_str(&call->name));
        if (!is_known || call->name.len == 0 || call->arguments.is_failed || call->id.is_failed ||
            buffer_str(&call->arguments)[0] != '{' ||
            !json_value_is_valid(call->arguments.data, call->arguments.len))
            return CALL_FAILED;
    }
    return r->list.n > 0 && !r->list.is_failed ? CALL_DONE : CALL_FAILED;
}

enum call_read call_reader_push(struct call_reader *r, char c, bool is_control)
{
    r->recent = r->recent << 1 | is_control;
    for (;;) {
        enum call_read read = push_element(r, c, is_control);
        if (read == CALL_READING || read == CALL_FAILED)
            return r->list.is_failed ? CALL_FAILED : read;
        r->element++;
        if (r->element == r->current->n_elements && r->current == r->parameter) {
            r->current = r->pattern;
            r->element = r->outer_element;
        }
        if (r->element == r->current->n_elements) {
            enum call_read end = check_calls(r);
            return end == CALL_DONE ? read : end;
        }
        start_element(r);
        if (read == CALL_DONE)
            return CALL_READING;
    }
}

enum call_read call_reader_finish(struct call_reader *r, bool is_cut)
{
    bool is_whole = r->current == r->pattern && r->list.n > 0;
    for (uint32_t i = r->element; i < r->pattern->n_elements && is_whole; i++)
        is_whole = r->pattern->elements[i].slot == SLOT_LITERAL;
    if (is_whole && check_calls(r) == CALL_DONE)
        return CALL_DONE;
    struct tool_call *last = last_call(r);
    if (!is_cut) {
        tool_call_list_deinit(&r->list);
    } else if (last && last->name.len == 0) {
        tool_call_list_drop_last(&r->list);
    }
    return CALL_FAILED;
}
