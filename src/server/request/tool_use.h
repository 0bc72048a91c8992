/* The tools of a chat request: tools and tool_choice, or the older functions and function_call, in
 * one form, whatever the dialect. */
#ifndef SERVER_REQUEST_TOOL_USE_H
#define SERVER_REQUEST_TOOL_USE_H

#include "server/request/api_request.h"

enum tool_mode { TOOLS_AUTO, TOOLS_REQUIRED };

struct tool_use {
    json_t *list; /* [{"type": "function", "function": {...}}], as templates want it; NULL: none */
    bool is_legacy;     /* answered as function_call */
    uint32_t max_calls; /* 0: any number */
    enum tool_mode mode;
    const char *only; /* the one tool that has to be called, in `list`; NULL: any */
    bool is_strict;   /* arguments follow the schema of each tool, not of strict ones alone */
};

/* False: *e. tool_use_release in every case. */
bool tool_use_read(const struct api_fields *fields, struct tool_use *out, struct api_error *e);
void tool_use_release(struct tool_use *use);

/* For tool_types, whose user is the list: whether the schema says that a parameter is a string;
 * whether there is such a tool. */
bool tool_parameter_is_string(void *list, const char *tool, const char *key);
bool tool_is_known(void *list, const char *tool);

/* Messages for a template that knows nothing of tools: the list and how to call them go into the
 * system text, earlier calls and results into texts. A new reference; NULL: no memory. */
json_t *tool_fallback_messages(const json_t *messages, const json_t *list);

#endif
