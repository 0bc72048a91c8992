/* How families of models write tool calls and reasoning, as tables: a new family is a new row, read
 * by the machine of call_reader.h and stream_parser.h.
 *
 * A call is described by a pattern: literal text with slots in braces. White space before a literal
 * is optional. `{name}` a function's name, `{id}` the model's id of the call, `{index_name}` both
 * as functions.NAME:INDEX, `{skip}` anything, each up to the literal behind it; `{arguments}` a
 * JSON object; `{call}` an object of name and arguments; `{calls}` a list of those, or one;
 * `{named_calls}` a list of {NAME: arguments}; `{python}` a list of calls as Python writes them;
 * `{object}` an object with bare keys and quoting marks; `{parameters}` any number of the family's
 * parameter pattern, which has `{key}`, `{value}` and perhaps `{type}`. */
#ifndef TEXT_TOOL_FAMILY_H
#define TEXT_TOOL_FAMILY_H

#include <stdbool.h>
#include <stddef.h>

enum {
    TOOL_FAMILY_PATTERNS = 4,
    TOOL_FAMILY_DROPPED = 8,
    TOOL_FAMILY_HINTS = 3,
};

enum tool_id_form {
    TOOL_ID_CALL,      /* call_ and random characters */
    TOOL_ID_SHORT,     /* nine letters and digits */
    TOOL_ID_FUNCTIONS, /* functions.NAME:INDEX */
};

struct tool_family {
    const char *name;
    /* A template that has all of them writes calls this way. */
    const char *hints[TOOL_FAMILY_HINTS];
    /* Tried side by side from where their first literals fit. */
    const char *patterns[TOOL_FAMILY_PATTERNS];
    /* What a pattern without a literal in front begins with; it fits at the message's start, and
     * behind another call. */
    bool is_at_start;
    const char *parameter;
    const char *separator; /* between calls, no content; NULL: white space alone */
    /* Frames of messages: no content wherever they stand. */
    const char *dropped[TOOL_FAMILY_DROPPED];
    enum tool_id_form id_form;
};

struct reasoning_format {
    const char *name;
    const char *hints[TOOL_FAMILY_HINTS];
    const char *open, *close;
    const char *dropped[TOOL_FAMILY_DROPPED];
};

/* By name or a template's text; NULL: none. */
const struct tool_family *tool_family_find(const char *name);
const struct tool_family *tool_family_detect(const char *template_text);
const struct reasoning_format *reasoning_format_find(const char *name);
const struct reasoning_format *reasoning_format_detect(const char *template_text);

/* The i-th row of each table, NULL behind the last; for help texts and tests. */
const struct tool_family *tool_family_at(size_t i);
const struct reasoning_format *reasoning_format_at(size_t i);

/* Whether a prompt ends inside a block of reasoning. */
bool reasoning_is_open(const struct reasoning_format *format, const char *prompt, size_t n);
/* Whether it ends behind one: the template has left no room for another. */
bool reasoning_is_over(const struct reasoning_format *format, const char *prompt, size_t n);

#endif
