/* Grammars that hold a model to whole calls of known tools, in the notation of its family, and what
 * is no call to the form that the request wants: as structural tags (grammar/tags.h). */
#ifndef SERVER_REQUEST_TOOL_TAGS_H
#define SERVER_REQUEST_TOOL_TAGS_H

#include "server/request/output_form.h"
#include "server/request/tool_use.h"

struct tool_tags_setup {
    const struct tool_use *use; /* without a list: no tools, but the frames of the content */
    const struct output_formats *formats;
    const struct tokenizer *tokenizer;
    const struct output_form *form; /* of content; not set: any text */
};

struct tool_tags {
    json_t *tags;   /* NULL: nothing to hold to, or the family has no notation here */
    bool are_exact; /* as in tool_types */
};

/* With TOOLS_REQUIRED calls come from the beginning, else where the model begins one; then content
 * with a form is a call or follows the form. Arguments follow the schema if use->is_strict or the
 * tool is. False: *e says which tool's schema has no place in the notation. */
bool tool_tags_make(const struct tool_tags_setup *setup, struct tool_tags *out,
                    struct api_error *e);

#endif
