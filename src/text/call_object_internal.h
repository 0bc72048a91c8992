/* Calls that are written as JSON objects, byte by byte: {"name": N, "arguments": {...}}, a list of
 * those, or a list of {N: arguments}. A part of the call reader. */
#ifndef TEXT_CALL_OBJECT_INTERNAL_H
#define TEXT_CALL_OBJECT_INTERNAL_H

#include "text/call_reader.h"

/* Where a JSON value ends, byte by byte. */
struct json_track {
    uint32_t depth;
    bool in_string, is_escaped;
};

/* True: the value is complete with this byte. Scalars never are. */
bool json_track_push(struct json_track *track, char c);

/* An object of name and arguments, or {NAME: arguments}, perhaps in a list. */
enum object_phase {
    OBJECT_START, /* [ or { */
    OBJECT_OPEN,  /* { of the next call */
    OBJECT_FIRST_KEY,
    OBJECT_NEXT_KEY,
    OBJECT_KEY,
    OBJECT_COLON,
    OBJECT_VALUE_START,
    OBJECT_VALUE,
    OBJECT_AFTER_VALUE,
    OBJECT_AFTER, /* , or ] */
};

struct call_object {
    struct tool_call_list *list; /* where the calls go */
    enum object_phase phase;
    bool is_list, may_be_list, is_named;
    bool is_strict;  /* an object that is no call is content, so: no other keys, none missing */
    bool is_escaped; /* in a key */
    bool has_arguments, is_arguments_text;
    bool is_last_live; /* the last call's arguments grow as they come */
    struct buffer key, value;
    struct json_track track;
};

void call_object_init(struct call_object *object, struct tool_call_list *list);
void call_object_deinit(struct call_object *object);
void call_object_start(struct call_object *object, bool may_be_list, bool is_named, bool is_strict);
enum call_read call_object_push(struct call_object *object, char c);

#endif
