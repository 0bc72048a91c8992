/* Any bytes as a chat template: compiling and rendering end in text or an error. */
#include "base/clock.h"
#include "text/chat_template.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct template_value *text(struct arena *arena, const char *s)
{
    return template_string(arena, s, strlen(s));
}

static struct template_value *message(struct arena *arena, const char *role, const char *content)
{
    struct template_value *map = template_map(arena);
    (void)template_map_set(arena, map, "role", 4, text(arena, role));
    (void)template_map_set(arena, map, "content", 7, text(arena, content));
    return map;
}

static struct template_value *globals(struct arena *arena)
{
    struct template_value *map = template_map(arena), *messages = template_list(arena);
    (void)template_list_add(arena, messages, message(arena, "system", "Be brief."));
    (void)template_list_add(arena, messages, message(arena, "user", "<|im_\xffstart|> \xc3\xa9 1"));
    (void)template_list_add(arena, messages, message(arena, "assistant", "a\nb </think> c"));
    (void)template_map_set(arena, map, "messages", 8, messages);
    (void)template_map_set(arena, map, "bos_token", 9, text(arena, "<s>"));
    (void)template_map_set(arena, map, "add_generation_prompt", 21, template_bool(arena, true));
    (void)template_map_set(arena, map, "n", 1, template_int(arena, -3));
    (void)template_map_set(arena, map, "x", 1, template_float(arena, 2.5));
    (void)template_map_set(arena, map, "tools", 5, template_none(arena));
    return map;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct chat_template *tmpl;
    serverd_error err;
    if (chat_template_compile((const char *)data, size, &tmpl, &err) != SERVERD_OK) {
        if (err.text[0] == '\0')
            abort();
        return 0;
    }
    struct arena *arena = arena_create(64 << 20);
    struct buffer out;
    struct template_budget budget = template_budget_default();
    budget.max_steps = 20000;
    budget.max_output = 1 << 20;
    buffer_init(&out, 1 << 20);
    if (arena &&
        chat_template_render(tmpl, arena, globals(arena), &budget, &system_clock, &out, &err) !=
            SERVERD_OK &&
        err.text[0] == '\0')
        abort();
    buffer_deinit(&out);
    arena_destroy(arena);
    chat_template_destroy(tmpl);
    return 0;
}
