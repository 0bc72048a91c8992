#include "text/output_formats.h"

#include "base/error.h"

#include <string.h>

static serverd_status choose(struct output_formats *f, const char *source, const char *family,
                             const char *reasoning, serverd_error *err)
{
    f->template_has_tools = strstr(source, "tools") || strstr(source, "tool_calls");
    f->family = family ? tool_family_find(family) : tool_family_detect(source);
    if (family && !f->family)
        return fail(err, SERVERD_INVALID, "tool-call-parser: there is no family \"%s\"", family);
    if (!f->family)
        f->family = tool_family_find("hermes");
    f->writing = call_writing_find(f->family->name, source);
    bool is_off = reasoning && strcmp(reasoning, "off") == 0;
    f->reasoning = is_off      ? NULL
                   : reasoning ? reasoning_format_find(reasoning)
                               : reasoning_format_detect(source);
    if (reasoning && !is_off && !f->reasoning)
        return fail(err, SERVERD_INVALID, "reasoning-parser: there is no format \"%s\"", reasoning);
    return SERVERD_OK;
}

serverd_status output_formats_init(struct output_formats *f, const struct tokenizer *tokenizer,
                                   const char *template_source, const char *family_name,
                                   const char *reasoning_name, serverd_error *err)
{
    *f = (struct output_formats){0};
    serverd_status status =
        choose(f, template_source ? template_source : "", family_name, reasoning_name, err);
    if (status == SERVERD_OK)
        status = reasoning_marks_init(&f->marks, tokenizer, f->reasoning, err);
    for (int need = 1; need < 4 && status == SERVERD_OK; need++) {
        bool has_calls = need >> 1, has_reasoning = need & 1;
        /* calls alone, where the model writes no reasoning to look for */
        const struct reasoning_format *reasoning = has_reasoning ? f->reasoning : NULL;
        if (has_calls || reasoning)
            status = stream_format_create(tokenizer, has_calls ? f->family : NULL, reasoning,
                                          &f->by_need[has_calls][has_reasoning], err);
    }
    if (status != SERVERD_OK)
        output_formats_deinit(f);
    return status;
}

void output_formats_deinit(struct output_formats *f)
{
    for (int i = 0; i < 4; i++)
        stream_format_destroy(f->by_need[i >> 1][i & 1]);
    *f = (struct output_formats){0};
}
