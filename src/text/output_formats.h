/* How a loaded model writes tool calls and reasoning, ready for the parser: found from its chat
 * template, or named by the user. Immutable once made. */
#ifndef TEXT_OUTPUT_FORMATS_H
#define TEXT_OUTPUT_FORMATS_H

#include "text/call_writing.h"
#include "text/reasoning.h"
#include "text/stream_parser.h"

struct output_formats {
    bool template_has_tools;                  /* it shows tools, earlier calls and their results */
    const struct tool_family *family;         /* hermes if nothing tells */
    const struct call_writing *writing;       /* how it writes calls out */
    const struct reasoning_format *reasoning; /* NULL: none */
    struct reasoning_marks marks;             /* of `reasoning`, in this vocabulary */
    /* By what is looked for: [calls][reasoning]; [0][0] is NULL. */
    struct stream_format *by_need[2][2];
};

/* template_source: NULL for a model without. Names: NULL as the template tells; of reasoning "off",
 * too. An unknown name is SERVERD_INVALID. */
serverd_status output_formats_init(struct output_formats *formats,
                                   const struct tokenizer *tokenizer, const char *template_source,
                                   const char *family_name, const char *reasoning_name,
                                   serverd_error *err);
void output_formats_deinit(struct output_formats *formats);

#endif
