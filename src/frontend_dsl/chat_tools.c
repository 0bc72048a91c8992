#include "frontend_dsl/chat_tools_internal.h"

#include "base/limits.h"
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/group_internal.h"
#include "frontend_dsl/roles_internal.h"
#include "frontend_dsl/scratch_internal.h"
#include "frontend_dsl/tools_internal.h"
#include "text/output_formats.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- which tools ----------------------------------------------------------------------------- */

static json_t *describe(const struct dsl_tool *tool)
{
    return json_pack("{s:s, s:{s:s, s:s, s:o}}", "type", "function", "function", "name", tool->name,
                     "description", tool->doc, "parameters", type_spec_schema(tool->params));
}

static void add_tool(lua_State *L, json_t *list, const char *name, const char *only)
{
    const struct dsl_tool *tool = name ? dsl_program_tool(task_of(L)->module->program, name) : NULL;
    if (!tool)
        dsl_raise(L, "invalid_option", "tools: the program has no tool %.64s", name ? name : "?");
    if ((!only || strcmp(only, name) == 0) && json_array_append_new(list, describe(tool)) != 0)
        raise_memory(L);
}

bool chat_tools_are_required(const struct gen_options *o)
{
    const char *choice = json_string_value(o->tool_choice);
    return o->tools && choice && strcmp(choice, "auto") != 0;
}

json_t *chat_tools_list(lua_State *L, const struct gen_options *o)
{
    const struct dsl_model *model = &run_of(L)->setup.model;
    const char *choice = json_string_value(o->tool_choice), *only, *name;
    json_t *list = json_array(), *item;
    size_t i;
    dsl_json_guard(L, list);
    if (!model->output || !model->output->template_has_tools)
        dsl_raise(L, "unsupported", "the model's chat template knows nothing of tools");
    only = choice && strcmp(choice, "auto") != 0 && strcmp(choice, "required") != 0 ? choice : NULL;
    json_array_foreach(o->tools, i, item) add_tool(L, list, json_string_value(item), only);
    json_object_foreach((json_t *)o->tools, name, item) add_tool(L, list, name, only);
    if (json_array_size(list) == 0)
        dsl_raise(L, "invalid_option", "tools has to name tools of the program");
    return list;
}

/* ---- what was said --------------------------------------------------------------------------- */

struct splitter {
    struct output_split *out;
    struct dsl_run *run;
    struct buffer *arguments; /* of the last call */
};

static void on_content(void *user, const char *text, size_t n)
{
    const struct splitter *s = user;
    append_utf8(s->out->text, text, n);
}

static void on_reasoning(void *user, const char *text, size_t n)
{
    const struct splitter *s = user;
    append_utf8(s->out->reasoning, text, n);
}

/* The arguments of the call before are complete. */
static void end_call(struct splitter *s)
{
    json_error_t ignored;
    json_t *call = json_array_get(s->out->calls, json_array_size(s->out->calls) - 1);
    json_t *arguments = json_loadb(buffer_str(s->arguments), s->arguments->len, 0, &ignored);
    if (call)
        (void)json_object_set_new(call, "arguments", arguments ? arguments : json_object());
    buffer_reset(s->arguments);
}

static void on_call(void *user, const char *name, const char *own_id)
{
    struct splitter *s = user;
    char id[32];
    end_call(s);
    (void)snprintf(id, sizeof id, "call_%016" PRIx64,
                   dsl_seed(s->run->setup.seed, "chat tool", ++s->run->n_chat_calls));
    (void)json_array_append_new(s->out->calls,
                                json_pack("{s:s, s:s}", "id", *own_id ? own_id : id, "name", name));
}

static void on_arguments(void *user, const char *json, size_t n)
{
    struct splitter *s = user;
    buffer_append(s->arguments, json, n);
}

static void push_tokens(struct stream_parser *parser, const struct tokenizer *tokenizer,
                        const struct op_choice *choice)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < choice->n && !choice->token[i].is_hidden; i++) {
        uint32_t n;
        const char *piece = tokenizer_piece(tokenizer, choice->token[i].id, &n);
        const bool is_control = tokenizer_is_control(tokenizer, choice->token[i].id);
        if (!is_control && at + n > choice->release)
            n = (uint32_t)(choice->release > at ? choice->release - at : 0);
        stream_parser_push(parser, piece, n, is_control);
        at += is_control ? 0 : n;
    }
}

void chat_tools_split(lua_State *L, const struct dsl_op *op, const struct op_choice *choice,
                      bool has_tools, bool is_reasoning_open, struct output_split *out)
{
    const struct dsl_model *model = &op->run->setup.model;
    out->calls = json_array();
    dsl_json_guard(L, out->calls);
    out->text = scratch_buffer(L, LIMIT_PENDING_TEXT);
    out->reasoning = scratch_buffer(L, LIMIT_PENDING_TEXT);
    struct splitter s = {out, op->run, scratch_buffer(L, LIMIT_TOOL_ARGUMENTS)};
    const struct stream_format *format =
        model->output ? model->output->by_need[has_tools][model->output->reasoning != NULL] : NULL;
    if (!format) {
        buffer_append(out->text, buffer_str(&choice->text), choice->text.len);
        return;
    }
    const struct stream_parser_options options = {
        .is_reasoning_open = is_reasoning_open,
        .sink = {on_content, on_reasoning, on_call, on_arguments, NULL, &s}};
    struct stream_parser *parser = stream_parser_create(format, &options);
    if (!parser)
        raise_memory(L);
    push_tokens(parser, model->tokenizer, choice);
    stream_parser_finish(parser, choice->finish == FINISH_LENGTH);
    stream_parser_destroy(parser);
    end_call(&s);
    out->n_calls = (uint32_t)json_array_size(out->calls);
    if (out->text->is_failed || out->reasoning->is_failed || s.arguments->is_failed)
        raise_memory(L);
}

/* ---- running calls --------------------------------------------------------------------------- */

/* The call at the top of the stack: its field as a string on the stack, or NULL. */
static const char *string_field(lua_State *L, int index, const char *name)
{
    lua_getfield(L, index, name);
    return lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
}

/* What a tool has said, pushed as text: its error's message, a string as it is, else JSON. */
static void push_output(lua_State *L, int result)
{
    struct dsl_error error;
    if (lua_type(L, result) == LUA_TSTRING) {
        lua_pushvalue(L, result);
        return;
    }
    json_t *value = NULL;
    dsl_error_init(&error);
    if (lua_type(L, result) == LUA_TTABLE && luaL_getmetafield(L, result, "__tostring")) {
        lua_pop(L, 1);
        dsl_error_read(L, result, &error); /* an error that was kept */
        lua_pushstring(L, error.message);
        dsl_error_deinit(&error);
        return;
    }
    value = dsl_json_check(L, result, LIMIT_TOOL_ARGUMENTS, "tool_error");
    size_t n;
    char *text = dsl_json_text(value, &n);
    if (!text)
        raise_memory(L);
    lua_pushlstring(L, text, n);
    free(text);
    lua_remove(L, -2);
}

enum { SELF = 1, CALLS, GROUP, RESULTS };

/* All have answered: a turn for each, in the order of the calls. */
static int calls_end(lua_State *L, int status, lua_KContext ctx)
{
    struct dsl_state *state = state_check(L, SELF);
    struct dsl_group *group = group_get(L, GROUP);
    (void)status;
    (void)ctx;
    group_end_wait(L, group);
    lua_settop(L, GROUP);
    group_push_results(L, group);
    if (state->has_open_turn)
        roles_close(L, state);
    for (uint32_t i = 0; i < group->n; i++) {
        size_t n;
        lua_settop(L, RESULTS);
        lua_rawgeti(L, CALLS, i + 1);
        const char *name = string_field(L, RESULTS + 1, "name");
        const char *id = string_field(L, RESULTS + 1, "id");
        lua_rawgeti(L, RESULTS, i + 1);
        push_output(L, lua_gettop(L));
        const char *text = lua_tolstring(L, -1, &n);
        roles_open(L, state, "tool", name, id);
        state_add(L, state, text, n);
        roles_close(L, state);
    }
    lua_settop(L, RESULTS);
    return 1;
}

int state_call_tools(lua_State *L)
{
    lua_settop(L, CALLS);
    (void)state_check(L, SELF);
    luaL_checktype(L, CALLS, LUA_TTABLE);
    const lua_Unsigned n = lua_rawlen(L, CALLS);
    if (n > LIMIT_TOOL_CALLS)
        dsl_raise(L, "invalid_option", "more than %u calls", LIMIT_TOOL_CALLS);
    struct dsl_group *group = group_create(L, (uint32_t)n);
    group->keeps_errors = true;
    tasks_check_room(L, group->n);
    for (uint32_t i = 0; i < n; i++) {
        lua_settop(L, GROUP);
        lua_rawgeti(L, CALLS, i + 1);
        if (lua_type(L, -1) != LUA_TTABLE)
            dsl_raise(L, "invalid_option", "calls[%u] is no call", i + 1);
        lua_pushcfunction(L, global_call_tool);
        lua_getfield(L, -2, "name");
        lua_getfield(L, -3, "arguments");
        (void)task_create(L, group->run, group, i, 2);
    }
    lua_settop(L, GROUP);
    return group_wait(L, group, 0, calls_end);
}
