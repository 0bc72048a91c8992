#include "server/request/tool_use.h"

#include "base/limits.h"

#include <stdio.h>
#include <string.h>

static bool refuse(struct api_error *e, const char *code, const char *param, const char *text)
{
    api_error_set(e, code, param, "%s %s", param, text);
    return false;
}

static bool is_good_name(const char *name)
{
    size_t n = name ? strlen(name) : 0;
    return n > 0 && n <= 128 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == n;
}

static bool add_function(json_t *list, const json_t *function, const char *param,
                         struct api_error *e)
{
    const char *name = json_string_value(json_body_get(function, "name"));
    const json_t *parameters = json_body_get(function, "parameters");
    if (!json_is_object(function))
        return refuse(e, "invalid_type", param, "has to be an object.");
    if (!is_good_name(name))
        return refuse(e, "invalid_value", param,
                      "needs a name of 1 to 128 letters, digits, _, - or .");
    if (parameters && !json_is_object(parameters) && !json_is_boolean(parameters))
        return refuse(e, "invalid_type", param, "has parameters that are no JSON schema.");
    json_t *copy = json_deep_copy(function);
    if (!parameters)
        (void)json_object_set_new(copy, "parameters",
                                  json_pack("{s:s,s:{}}", "type", "object", "properties"));
    if (json_array_append_new(list, json_pack("{s:s,s:o}", "type", "function", "function", copy)))
        return refuse(e, "model_unavailable", param, "found no memory.");
    return true;
}

/* One text argument. */
static bool add_custom(json_t *list, const json_t *custom, const char *param, struct api_error *e)
{
    const char *text = json_string_value(json_body_get(custom, "description"));
    json_t *function = json_pack("{s:O,s:s,s:b,s:{s:s,s:{s:{s:s}},s:[s],s:b}}", "name",
                                 json_body_get(custom, "name"), "description", text ? text : "",
                                 "strict", 1, "parameters", "type", "object", "properties", "input",
                                 "type", "string", "required", "input", "additionalProperties", 0);
    bool is_good = add_function(list, function, param, e);
    json_decref(function);
    return is_good;
}

static bool add_tool(json_t *list, const json_t *tool, size_t i, struct api_error *e)
{
    char param[64];
    const char *type = json_string_value(json_body_get(tool, "type"));
    (void)snprintf(param, sizeof param, "tools[%zu]", i);
    if (!json_is_object(tool))
        return refuse(e, "invalid_type", param, "is no object.");
    if (type && strcmp(type, "custom") == 0)
        return add_custom(list, json_body_get(tool, "custom"), param, e);
    if (type && strcmp(type, "function") != 0)
        return refuse(e, "unsupported_value", param, "has to be of type function or custom.");
    (void)snprintf(param, sizeof param, "tools[%zu].function", i);
    if (!json_body_get(tool, "function"))
        return refuse(e, "missing_required_parameter", param, "is missing.");
    return add_function(list, json_body_get(tool, "function"), param, e);
}

static bool read_list(const struct api_fields *f, struct tool_use *out, struct api_error *e)
{
    const json_t *tools = f->tools ? f->tools : f->functions;
    const char *param = f->tools ? "tools" : "functions";
    size_t n = json_array_size(tools);
    if (!tools)
        return true;
    if (!json_is_array(tools) || n > LIMIT_TOOLS) {
        api_error_set(e, json_is_array(tools) ? "invalid_value" : "invalid_type", param,
                      "%s has to be a list of at most %u.", param, LIMIT_TOOLS);
        return false;
    }
    out->list = json_array();
    out->is_legacy = !f->tools;
    for (size_t i = 0; i < n; i++) {
        char place[64];
        (void)snprintf(place, sizeof place, "functions[%zu]", i);
        const json_t *tool = json_array_get(tools, i);
        if (!(out->is_legacy ? add_function(out->list, tool, place, e)
                             : add_tool(out->list, tool, i, e)))
            return false;
    }
    return true;
}

static const json_t *find(const json_t *list, const char *name)
{
    size_t i;
    json_t *tool;
    json_array_foreach((json_t *)list, i, tool)
    {
        const json_t *function = json_object_get(tool, "function");
        const char *own = json_string_value(json_object_get(function, "name"));
        if (name && own && strcmp(name, own) == 0)
            return function;
    }
    return NULL;
}

/* The tools that allowed_tools names. */
static bool keep_allowed(struct tool_use *use, const json_t *allowed, struct api_error *e)
{
    const char *mode = json_string_value(json_body_get(allowed, "mode"));
    const json_t *names = json_body_get(allowed, "tools");
    json_t *kept = json_array();
    size_t i;
    json_t *item;
    bool is_good = mode && json_is_array(names);
    json_array_foreach((json_t *)names, i, item)
    {
        const json_t *function = json_body_get(item, "function");
        const json_t *name = json_body_get(function ? function : item, "name");
        const json_t *found = find(use->list, json_string_value(name));
        is_good = is_good && found &&
                  json_array_append_new(
                      kept, json_pack("{s:s,s:O}", "type", "function", "function", found)) == 0;
    }
    json_decref(use->list);
    use->list = kept;
    if (!is_good)
        return refuse(e, "invalid_value", "tool_choice", "names a tool that is not in tools.");
    if (strcmp(mode, "auto") != 0 && strcmp(mode, "required") != 0)
        return refuse(e, "invalid_value", "tool_choice", "has a mode that is not known.");
    use->mode = strcmp(mode, "required") == 0 ? TOOLS_REQUIRED : TOOLS_AUTO;
    if (json_array_size(kept) > 0)
        return true;
    tool_use_release(use); /* as without tools */
    return use->mode == TOOLS_AUTO ||
           refuse(e, "invalid_value", "tool_choice", "requires a call and allows no tool.");
}

/* {"type": "function", "function": {"name"}}, or {"name"} of old. */
static bool read_named(struct tool_use *use, const json_t *choice, const char *param,
                       struct api_error *e)
{
    const json_t *function = json_body_get(choice, "function");
    if (!function)
        function = json_body_get(choice, "custom");
    const json_t *name = json_body_get(function ? function : choice, "name");
    const json_t *found = find(use->list, json_string_value(name));
    if (!found)
        return refuse(e, "invalid_value", param, "names a tool that is not in tools.");
    use->mode = TOOLS_REQUIRED;
    use->only = json_string_value(json_object_get(found, "name"));
    use->max_calls = 1;
    return true;
}

static bool read_choice(const struct api_fields *f, struct tool_use *use, struct api_error *e)
{
    bool is_legacy = !f->tools && f->functions;
    const char *param = is_legacy ? "function_call" : "tool_choice";
    const json_t *choice = is_legacy ? f->function_call : f->tool_choice;
    const char *text = json_string_value(choice);
    const char *type = json_string_value(json_body_get(choice, "type"));
    if (text && strcmp(text, "none") == 0) {
        json_decref(use->list);
        use->list = NULL;
        return true;
    }
    if (!choice || (text && strcmp(text, "auto") == 0))
        return true;
    if (!use->list)
        return refuse(e, "invalid_value", param, "needs tools.");
    if (text && strcmp(text, "required") == 0) {
        use->mode = TOOLS_REQUIRED;
        return true;
    }
    if (type && strcmp(type, "allowed_tools") == 0)
        return keep_allowed(use, json_body_get(choice, "allowed_tools"), e);
    if (json_is_object(choice))
        return read_named(use, choice, param, e);
    return refuse(e, "invalid_value", param, "has to be auto, none, required or one tool.");
}

bool tool_use_read(const struct api_fields *f, struct tool_use *out, struct api_error *e)
{
    *out = (struct tool_use){0};
    if (!read_list(f, out, e))
        return false;
    if (out->is_legacy || !f->parallel_tool_calls)
        out->max_calls = 1;
    else if (f->max_tool_calls != API_UNSET && f->max_tool_calls < LIMIT_TOOL_CALLS)
        out->max_calls = (uint32_t)f->max_tool_calls;
    if (json_array_size(out->list) == 0)
        tool_use_release(out);
    bool is_good = read_choice(f, out, e);
    out->is_strict = out->mode == TOOLS_REQUIRED;
    return is_good;
}

void tool_use_release(struct tool_use *use)
{
    json_decref(use->list);
    use->list = NULL;
}

/* A string whatever it looks like; one among other types is one unless it reads as another. */
static bool is_string_schema(const json_t *schema)
{
    const json_t *type = json_object_get(schema, "type"), *value;
    const json_t *list = json_object_get(schema, "enum");
    size_t i, n_strings = 0;
    if (json_is_array(type) && json_array_size(type) == 1)
        type = json_array_get(type, 0);
    if (type)
        return json_is_string(type) && strcmp(json_string_value(type), "string") == 0;
    json_array_foreach((json_t *)list, i, value) n_strings += json_is_string(value);
    return json_is_string(json_object_get(schema, "const")) ||
           (n_strings > 0 && n_strings == json_array_size(list));
}

bool tool_parameter_is_string(void *list, const char *tool, const char *key)
{
    const json_t *parameters = json_object_get(find(list, tool), "parameters");
    return is_string_schema(json_object_get(json_object_get(parameters, "properties"), key));
}

bool tool_is_known(void *list, const char *tool)
{
    return find(list, tool) != NULL;
}
