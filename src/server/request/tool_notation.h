/* How a model's family writes one call, as formats of structural tags (grammar/tags.h): the texts
 * with slots of call_writing.h, filled with what a tool's schema lets the slots be. */
#ifndef SERVER_REQUEST_TOOL_NOTATION_H
#define SERVER_REQUEST_TOOL_NOTATION_H

#include "server/request/tool_tags.h"

/* Making them; the first failure stays. */
struct notation {
    const struct tool_tags_setup *setup;
    const struct call_writing *writing;
    const struct tokenizer *tokenizer;
    bool are_exact;
    struct api_error *e;
    bool is_failed;
};

/* What the slots of one text stand for. */
struct slots {
    const json_t *function;
    const char *name;
    const char *key;     /* of a member; NULL: any */
    const json_t *value; /* its schema; NULL: any */
    bool is_string;
};

/* A format at the end of a list. */
void format_append(json_t *list, json_t *format);

/* Taking over what they are made of: one behind the other; one of several. */
json_t *format_sequence(json_t *list);
json_t *format_either(json_t *list);
json_t *format_of_schema(json_t *schema);

/* Appends the formats of a text with slots; NULL: nothing. */
void notation_add(struct notation *m, const char *text, const struct slots *slots, json_t *out);

#endif
