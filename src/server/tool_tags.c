/* Grammars that hold a model to whole calls. */
#include "server/tool_use.h"

#include "base/limits.h"

#include <stdlib.h>
#include <string.h>

/* What the arguments have to be. A schema's own references stay its own: it has an id. */
static json_t *arguments_schema(const struct tool_use *use, const json_t *function,
                                const char *name)
{
    json_t *parameters = json_object_get(function, "parameters");
    bool is_strict = json_is_true(json_object_get(function, "strict"));
    if (!json_is_object(parameters) || (use->mode == TOOLS_AUTO && !is_strict))
        return json_pack("{s:s}", "type", "object");
    json_t *schema = json_copy(parameters);
    if (!json_object_get(schema, "$id"))
        (void)json_object_set_new(schema, "$id", json_sprintf("tool:%s", name));
    if (!json_object_get(schema, "type"))
        (void)json_object_set_new(schema, "type", json_string("object"));
    return schema;
}

/* One tool's call. */
static json_t *make_tag(const struct tool_use *use, const struct tool_family *family,
                        const json_t *function)
{
    static const char slot[] = "{call}";
    const char *name = json_string_value(json_object_get(function, "name"));
    const char *at = strstr(family->written, slot), *key = family->arguments_key;
    json_t *schema = json_pack("{s:s,s:{s:{s:s},s:o},s:[s,s],s:b}", "type", "object", "properties",
                               "name", "const", name, key, arguments_schema(use, function, name),
                               "required", "name", key, "additionalProperties", 0);
    return json_pack("{s:s,s:s%,s:{s:s,s:o},s:s}", "type", "tag", "begin", family->written,
                     (size_t)(at - family->written), "content", "type", "json_schema",
                     "json_schema", schema, "end", at + sizeof slot - 1);
}

json_t *tool_use_tags(const struct tool_use *use, const struct tool_family *family)
{
    json_t *tags = json_array(), *tool, *format;
    size_t i, n_mark = family->written ? strcspn(family->written, "{\n") : 0;
    bool is_required = use->mode == TOOLS_REQUIRED;
    if (!family->written || (n_mark == 0 && !is_required)) {
        json_decref(tags);
        return NULL;
    }
    json_array_foreach(use->list, i, tool)
    {
        const json_t *function = json_object_get(tool, "function");
        const char *name = json_string_value(json_object_get(function, "name"));
        if (!use->only || strcmp(use->only, name) == 0)
            (void)json_array_append_new(tags, make_tag(use, family, function));
    }
    if (is_required)
        format = json_pack("{s:s,s:o,s:s,s:b,s:b}", "type", "tags_with_separator", "tags", tags,
                           "separator", family->separator ? family->separator : "\n",
                           "at_least_one", 1, "stop_after_first", use->max_calls == 1);
    else
        format =
            json_pack("{s:s,s:o,s:[s%],s:b}", "type", "triggered_tags", "tags", tags, "triggers",
                      family->written, n_mark, "stop_after_first", use->max_calls == 1);
    return format ? json_pack("{s:s,s:o}", "type", "structural_tag", "format", format) : NULL;
}
