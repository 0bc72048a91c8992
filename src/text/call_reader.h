/* Reads what follows the first literal of a tool call's pattern, byte by byte, until the call (or
 * the list of calls) is complete or turns out to be none. One per opened call; single-threaded. */
#ifndef TEXT_CALL_READER_H
#define TEXT_CALL_READER_H

#include "base/buffer.h"
#include "text/call_pattern.h"

/* A call as far as it has been read. */
struct tool_call {
    struct buffer name, id;  /* id: "" if the model gives none */
    struct buffer arguments; /* JSON object */
};

struct tool_call_list {
    struct tool_call *calls;
    uint32_t n, cap;
    bool is_failed; /* memory, LIMIT_TOOL_CALLS */
};

void tool_call_list_init(struct tool_call_list *list);
void tool_call_list_deinit(struct tool_call_list *list);
struct tool_call *tool_call_list_add(struct tool_call_list *list); /* NULL: failed */
void tool_call_list_drop_last(struct tool_call_list *list);
/* Both take text that can stand in a reply: false for control characters, or more than
 * LIMIT_TOOL_NAME; a name has at least one byte. */
bool tool_call_set_name(struct tool_call *call, const char *name, size_t n);
bool tool_call_set_id(struct tool_call *call, const char *id, size_t n);

/* What is known of the tools. */
struct tool_types {
    /* Whether a parameter is text whatever it looks like. NULL: guess by the text. */
    bool (*is_string)(void *user, const char *tool, const char *key);
    /* Whether there is a tool of this name: what has no mark in front is a call of one, or content.
     * NULL: any name is one. */
    bool (*is_known)(void *user, const char *tool);
    void *user;
    /* Something makes sure that all values of parameters but strings are JSON (a grammar): then a
     * mark inside of one of their strings does not end them. */
    bool are_exact;
};

enum call_read {
    CALL_READING,
    CALL_DONE,        /* with this byte */
    CALL_DONE_BEFORE, /* without this byte, which belongs to what follows */
    CALL_FAILED       /* it is no call */
};

struct call_reader;

/* The pattern, the parameter's pattern (NULL: none) outlive the reader. has_first: the pattern's
 * first element, a literal, has been read. NULL: no memory. */
struct call_reader *call_reader_create(const struct call_pattern *pattern,
                                       const struct call_pattern *parameter, bool has_first,
                                       const struct tool_types *types);
void call_reader_destroy(struct call_reader *reader);

enum call_read call_reader_push(struct call_reader *reader, char byte, bool is_control);

/* The text has ended. CALL_DONE: only closing marks are missing. Else CALL_FAILED; then with
 * `is_cut` a call whose name is known stays in the list with the arguments as far as they go. */
enum call_read call_reader_finish(struct call_reader *reader, bool is_cut);

/* What has been read; after CALL_DONE each has a name and arguments that are a JSON object. */
struct tool_call_list *call_reader_calls(struct call_reader *reader);

/* Bytes of the last call's arguments that will not change whatever follows, as long as it is one.
 */
size_t call_reader_settled(const struct call_reader *reader);

#endif
