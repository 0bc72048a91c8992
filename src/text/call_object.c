#include "text/call_object_internal.h"

#include "base/limits.h"
#include "text/json_value.h"

#include <string.h>

bool json_track_push(struct json_track *t, char c)
{
    if (t->in_string) {
        bool ends = c == '"' && !t->is_escaped;
        t->is_escaped = c == '\\' && !t->is_escaped;
        t->in_string = !ends;
        return ends && t->depth == 0;
    }
    if (c == '"') {
        t->in_string = true;
    } else if (c == '{' || c == '[') {
        t->depth++;
    } else if ((c == '}' || c == ']') && t->depth > 0) {
        t->depth--;
        return t->depth == 0;
    }
    return false;
}

void call_object_init(struct call_object *o, struct tool_call_list *list)
{
    *o = (struct call_object){.list = list};
    buffer_init(&o->key, LIMIT_TOOL_NAME);
    buffer_init(&o->value, LIMIT_TOOL_ARGUMENTS);
}

void call_object_deinit(struct call_object *o)
{
    buffer_deinit(&o->key);
    buffer_deinit(&o->value);
}

void call_object_start(struct call_object *o, bool may_be_list, bool is_named, bool is_strict)
{
    o->phase = OBJECT_START;
    o->may_be_list = may_be_list;
    o->is_list = false;
    o->is_named = is_named;
    o->is_strict = is_strict;
}

static struct tool_call *last_call(const struct call_object *o)
{
    return o->list->n > 0 ? &o->list->calls[o->list->n - 1] : NULL;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool end_object_name(struct call_object *o)
{
    struct buffer name;
    buffer_init(&name, LIMIT_TOOL_NAME);
    bool is_good = last_call(o)->name.len == 0 &&
                   json_string_decode(buffer_str(&o->value), o->value.len, &name) &&
                   tool_call_set_name(last_call(o), buffer_str(&name), name.len);
    buffer_deinit(&name);
    return is_good;
}

static bool end_object_id(struct call_object *o)
{
    struct buffer id;
    buffer_init(&id, LIMIT_TOOL_NAME);
    bool is_good = json_string_decode(buffer_str(&o->value), o->value.len, &id) &&
                   tool_call_set_id(last_call(o), buffer_str(&id), id.len);
    buffer_deinit(&id);
    return is_good;
}

static bool key_is(const struct call_object *o, const char *key)
{
    return strcmp(buffer_str(&o->key), key) == 0;
}

static bool is_arguments_key(const struct call_object *o)
{
    return o->is_named || key_is(o, "arguments") || key_is(o, "parameters");
}

static bool is_name_key(const struct call_object *o)
{
    return !o->is_named && (key_is(o, "name") || key_is(o, "tool_name"));
}

static bool is_id_key(const struct call_object *o)
{
    return !o->is_named && key_is(o, "id");
}

static bool end_object_value(struct call_object *o)
{
    struct tool_call *call = last_call(o);
    o->is_last_live = false;
    if (is_name_key(o))
        return end_object_name(o);
    if (is_arguments_key(o)) {
        o->has_arguments = true;
        return !o->is_arguments_text ||
               json_string_decode(buffer_str(&o->value), o->value.len, &call->arguments);
    }
    if (is_id_key(o) && buffer_str(&o->value)[0] == '"')
        return end_object_id(o);
    return !o->is_strict || is_id_key(o) || key_is(o, "type");
}

static bool start_object_value(struct call_object *o, char c)
{
    buffer_reset(&o->value);
    o->track = (struct json_track){0};
    o->is_arguments_text = false;
    if (!is_arguments_key(o))
        return true;
    o->is_arguments_text = c == '"';
    o->is_last_live = c == '{' && last_call(o)->name.len > 0;
    return c == '{' || c == '"';
}

static void keep_value_byte(struct call_object *o, char c)
{
    bool is_direct = is_arguments_key(o) && !o->is_arguments_text;
    buffer_append_char(is_direct ? &last_call(o)->arguments : &o->value, c);
}

static bool open_call(struct call_object *o)
{
    o->has_arguments = false;
    o->phase = OBJECT_FIRST_KEY;
    return o->is_named || tool_call_list_add(o->list);
}

static bool end_key(struct call_object *o)
{
    if (!o->is_named)
        return !o->key.is_failed;
    struct tool_call *call = tool_call_list_add(o->list);
    return call && tool_call_set_name(call, buffer_str(&o->key), o->key.len);
}

static enum call_read close_call(struct call_object *o)
{
    struct tool_call *call = last_call(o);
    if (!o->is_named && (call->name.len == 0 || (!o->has_arguments && o->is_strict)))
        return CALL_FAILED;
    if (call && call->arguments.len == 0)
        buffer_append_str(&call->arguments, "{}");
    o->phase = OBJECT_AFTER;
    return o->is_list ? CALL_READING : CALL_DONE;
}

enum call_read call_object_push(struct call_object *o, char c)
{
    bool is_fine = true;
    if (is_space(c) && o->phase != OBJECT_KEY && o->phase != OBJECT_VALUE)
        return CALL_READING;
    switch (o->phase) {
    case OBJECT_START:
        if (c == '[' && o->may_be_list) {
            o->is_list = true;
            o->phase = OBJECT_OPEN;
            break;
        }
        is_fine = c == '{' && open_call(o);
        break;
    case OBJECT_OPEN:
        is_fine = c == '{' && open_call(o);
        break;
    case OBJECT_FIRST_KEY:
        if (c == '}' && !o->is_named)
            return close_call(o);
        /* fall through */
    case OBJECT_NEXT_KEY:
        is_fine = c == '"';
        buffer_reset(&o->key);
        o->is_escaped = false;
        o->phase = OBJECT_KEY;
        break;
    case OBJECT_KEY:
        if (c == '"' && !o->is_escaped) {
            is_fine = end_key(o);
            o->phase = OBJECT_COLON;
            break;
        }
        o->is_escaped = c == '\\' && !o->is_escaped;
        buffer_append_char(&o->key, c);
        is_fine = !o->key.is_failed;
        break;
    case OBJECT_COLON:
        is_fine = c == ':';
        o->phase = OBJECT_VALUE_START;
        break;
    case OBJECT_VALUE_START:
        is_fine = start_object_value(o, c);
        o->phase = OBJECT_VALUE;
        /* fall through */
    case OBJECT_VALUE:
        if (!is_fine)
            break;
        if (o->track.depth == 0 && !o->track.in_string && (c == ',' || c == '}' || c == ']')) {
            is_fine = end_object_value(o); /* a number or a word ends before this byte */
            if (c == '}' && is_fine)
                return close_call(o);
            is_fine = is_fine && c == ',';
            o->phase = OBJECT_NEXT_KEY;
            break;
        }
        keep_value_byte(o, c);
        if (json_track_push(&o->track, c)) {
            is_fine = end_object_value(o);
            o->phase = OBJECT_AFTER_VALUE;
        }
        break;
    case OBJECT_AFTER_VALUE:
        if (c == '}')
            return close_call(o);
        is_fine = c == ',';
        o->phase = OBJECT_NEXT_KEY;
        break;
    case OBJECT_AFTER:
        if (c == ']')
            return CALL_DONE;
        is_fine = c == ',';
        o->phase = OBJECT_OPEN;
        break;
    }
    return is_fine ? CALL_READING : CALL_FAILED;
}
