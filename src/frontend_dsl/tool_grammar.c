/* Holding the model to a call: the notation of its family as a structural tag (grammar/tags.h). */
#include "frontend_dsl/chat_tools_internal.h"
#include "frontend_dsl/dsl_json.h"
#include "text/output_formats.h"

#include <stdlib.h>
#include <string.h>

/* A slot's format, a new reference; NULL: families that write arguments one by one are not held. */
static json_t *slot_format(const struct writing_piece *slot, const json_t *function)
{
    static const struct {
        const char *slot, *type, *key, *value;
    } fixed[] = {{"number", "const_string", "value", "0"},
                 {"id", "regex", "pattern", "[a-zA-Z0-9]{9}"},
                 {"line", "const_string", "value", "\n"}};
    if (slot->n == 4 && memcmp(slot->text, "name", 4) == 0)
        return json_pack("{s:s, s:O}", "type", "const_string", "value",
                         json_object_get(function, "name"));
    if (slot->n == 9 && memcmp(slot->text, "arguments", 9) == 0)
        return json_pack("{s:s, s:O}", "type", "json_schema", "json_schema",
                         json_object_get(function, "parameters"));
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        if (strlen(fixed[i].slot) == slot->n && memcmp(fixed[i].slot, slot->text, slot->n) == 0)
            return json_pack("{s:s, s:s}", "type", fixed[i].type, fixed[i].key, fixed[i].value);
    return NULL;
}

/* Appends the formats of a text with slots. False: it has one that is not known here. */
static bool add_pieces(const struct tokenizer *tokenizer, const char *text, const json_t *function,
                       json_t *out)
{
    struct writing_piece piece;
    while (text && (piece = call_writing_next(tokenizer, &text)).kind != WRITING_END) {
        json_t *format = NULL;
        if (piece.kind == WRITING_TEXT)
            format = json_pack("{s:s, s:s%}", "type", "const_string", "value", piece.text, piece.n);
        else if (piece.kind == WRITING_TOKEN)
            format = json_pack("{s:s, s:s%}", "type", "token", "token", piece.text, piece.n);
        else
            format = slot_format(&piece, function);
        if (!format || json_array_append_new(out, format) != 0)
            return false;
    }
    return true;
}

/* {format: begin, a call of one of them, end}, a new reference; NULL: it cannot be said. */
static json_t *one_call(const struct dsl_model *model, const json_t *list)
{
    const struct call_writing *w = model->output->writing;
    json_t *all = json_array(), *calls = json_array(), *tool;
    size_t i;
    bool is_good = w && add_pieces(model->tokenizer, w->begin, NULL, all);
    json_array_foreach(list, i, tool)
    {
        json_t *pieces = json_array();
        is_good = is_good &&
                  add_pieces(model->tokenizer, w->call, json_object_get(tool, "function"), pieces);
        (void)json_array_append_new(
            calls, json_pack("{s:s, s:o}", "type", "sequence", "elements", pieces));
    }
    (void)json_array_append_new(all, json_pack("{s:s, s:o}", "type", "or", "elements", calls));
    is_good = is_good && add_pieces(model->tokenizer, w->end, NULL, all);
    json_t *tags = json_pack("{s:s, s:{s:s, s:o}}", "type", "structural_tag", "format", "type",
                             "sequence", "elements", all);
    if (is_good)
        return tags;
    json_decref(tags);
    return NULL;
}

struct grammar *tool_grammar(lua_State *L, const json_t *list)
{
    json_t *tags = one_call(&run_of(L)->setup.model, list);
    size_t n;
    if (!tags)
        return NULL;
    char *text = dsl_json_text(tags, &n);
    json_decref(tags);
    if (!text)
        raise_memory(L);
    lua_pushlstring(L, text, n); /* Lua's from here on, as the compiler may raise */
    free(text);
    struct grammar *grammar = gen_compile(L, GRAMMAR_TAGS, lua_tostring(L, -1), n);
    lua_pop(L, 1);
    return grammar;
}
