#include "text/call_reader.h"

#include "base/limits.h"

#include <stdlib.h>

void tool_call_list_init(struct tool_call_list *list)
{
    *list = (struct tool_call_list){0};
}

static void tool_call_deinit(struct tool_call *call)
{
    buffer_deinit(&call->name);
    buffer_deinit(&call->id);
    buffer_deinit(&call->arguments);
}

void tool_call_list_deinit(struct tool_call_list *list)
{
    for (uint32_t i = 0; i < list->n; i++)
        tool_call_deinit(&list->calls[i]);
    free(list->calls);
    *list = (struct tool_call_list){0};
}

struct tool_call *tool_call_list_add(struct tool_call_list *list)
{
    if (list->n == list->cap) {
        uint32_t cap = list->cap ? 2 * list->cap : 2;
        struct tool_call *calls = NULL;
        if (list->n < LIMIT_TOOL_CALLS)
            calls = realloc(list->calls, cap * sizeof *calls);
        if (!calls) {
            list->is_failed = true;
            return NULL;
        }
        list->calls = calls;
        list->cap = cap;
    }
    struct tool_call *call = &list->calls[list->n++];
    buffer_init(&call->name, LIMIT_TOOL_NAME);
    buffer_init(&call->id, LIMIT_TOOL_NAME);
    buffer_init(&call->arguments, LIMIT_TOOL_ARGUMENTS);
    return call;
}

void tool_call_list_drop_last(struct tool_call_list *list)
{
    tool_call_deinit(&list->calls[--list->n]);
}

static bool set_word(struct buffer *word, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            return false;
    buffer_append(word, text, n);
    return !word->is_failed;
}

bool tool_call_set_name(struct tool_call *call, const char *name, size_t n)
{
    return n > 0 && set_word(&call->name, name, n);
}

bool tool_call_set_id(struct tool_call *call, const char *id, size_t n)
{
    return set_word(&call->id, id, n);
}
