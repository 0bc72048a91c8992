/* How turns of a model's chat template are laid behind each other. */
#include "base/arena.h"
#include "server/programs/programs_internal.h"
#include "text/chat_template.h"
#include "text/template_value.h"

#include <string.h>

static struct template_value *text_of(struct arena *arena, const char *text)
{
    return template_string(arena, text, strlen(text));
}

static bool set(struct arena *arena, struct template_value *map, const char *key,
                struct template_value *value)
{
    return value && template_map_set(arena, map, key, strlen(key), value);
}

static bool add_turn(struct arena *arena, struct template_value *list, const char *role)
{
    struct template_value *turn = template_map(arena);
    return turn && set(arena, turn, "role", text_of(arena, role)) &&
           set(arena, turn, "content", text_of(arena, "body")) &&
           template_list_add(arena, list, turn);
}

/* The first n turns of user and assistant, one after the other. */
static bool render(const struct exchange *x, const struct served_model *model, uint32_t n,
                   bool prompts, struct buffer *out)
{
    struct arena *arena = arena_create(LIMIT_TEMPLATE_MEMORY);
    const struct template_budget budget = template_budget_default();
    struct template_value *globals = arena ? template_map(arena) : NULL;
    struct template_value *messages = arena ? template_list(arena) : NULL;
    serverd_error ignored; /* a template that refuses this conversation has no mode */
    bool is_good = globals && messages;
    for (uint32_t i = 0; i < n && is_good; i++)
        is_good = add_turn(arena, messages, i % 2 ? "assistant" : "user");
    is_good = is_good && set(arena, globals, "messages", messages) &&
              set(arena, globals, "add_generation_prompt", template_bool(arena, prompts)) &&
              set(arena, globals, "bos_token", text_of(arena, "")) &&
              set(arena, globals, "eos_token", text_of(arena, "</s>")) &&
              chat_template_render(model->chat_template, arena, globals, &budget,
                                   x->server->context.clock, out, &ignored) == SERVERD_OK;
    arena_destroy(arena);
    return is_good;
}

static bool is_prefix(const struct buffer *a, const struct buffer *b)
{
    return a->len <= b->len && memcmp(buffer_str(a), buffer_str(b), a->len) == 0;
}

const char *program_template_mode(const struct exchange *x, const struct served_model *model)
{
    struct buffer prompt, two, three;
    const char *mode = NULL;
    if (!model || !model->chat_template)
        return NULL;
    buffer_init(&prompt, LIMIT_TEMPLATE_OUTPUT);
    buffer_init(&two, LIMIT_TEMPLATE_OUTPUT);
    buffer_init(&three, LIMIT_TEMPLATE_OUTPUT);
    if (render(x, model, 1, true, &prompt) && render(x, model, 2, false, &two) &&
        render(x, model, 3, false, &three))
        mode = is_prefix(&prompt, &two) && is_prefix(&two, &three) ? "append" : "rewrite";
    buffer_deinit(&prompt);
    buffer_deinit(&two);
    buffer_deinit(&three);
    return mode;
}
