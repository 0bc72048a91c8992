/* JSON in templates: nothing of it becomes a control token, whatever the template does with it. */
#include "base/clock.h"
#include "text/chat_template.h"
#include "text/small_vocabulary.h"
#include "text/template_json.h"
#include "text/template_value.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct small_vocabulary small;
static struct tokenizer *tokenizer;
static serverd_error err;

static int setup(void **state)
{
    (void)state;
    small_vocabulary_init(&small, SMALL_BPE_LLAMA);
    return tokenizer_create(&small.vocabulary, &tokenizer, &err) == SERVERD_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    tokenizer_destroy(tokenizer);
    return 0;
}

/* What a template makes of x. */
static void render(const char *source, const char *x, struct buffer *out)
{
    struct chat_template *template;
    struct arena *arena = arena_create(1 << 20);
    const struct template_budget budget = template_budget_default();
    json_error_t at;
    json_t *json = json_loads(x, JSON_DECODE_ANY, &at);
    struct template_value *globals = template_map(arena),
                          *value = template_from_json(arena, tokenizer, json);
    assert_non_null(value);
    assert_true(template_map_set(arena, globals, "x", 1, value));
    assert_int_equal(chat_template_compile(source, strlen(source), &template, &err), SERVERD_OK);
    buffer_init(out, 1 << 20);
    if (chat_template_render(template, arena, globals, &budget, &system_clock, out, &err))
        fail_msg("%s", err.text);
    chat_template_destroy(template);
    json_decref(json);
    arena_destroy(arena);
}

static uint32_t count_control(const struct buffer *text)
{
    struct token_list ids;
    uint32_t n = 0;
    token_list_init(&ids, 4096);
    assert_int_equal(tokenizer_encode(tokenizer, buffer_str(text), text->len,
                                      TOKENIZER_PARSE_SPECIAL, &ids, &err),
                     SERVERD_OK);
    for (uint32_t i = 0; i < ids.n; i++)
        n += tokenizer_is_control(tokenizer, ids.id[i]);
    token_list_deinit(&ids);
    return n;
}

static void values_are_what_json_says(void **state)
{
    (void)state;
    struct buffer out;
    render("{{ x.a }} {{ x.b[1] }} {{ x.c is none }} {{ x.d }} {{ x.e + 0.5 }}",
           "{\"a\": 7, \"b\": [0, true], \"c\": null, \"d\": \"text\", \"e\": 1.0}", &out);
    assert_string_equal(buffer_str(&out), "7 True True text 1.5");
    buffer_deinit(&out);
}

static void no_text_becomes_a_control_token(void **state)
{
    (void)state;
    struct buffer out;
    render("<|im_start|>{{ x | tojson }}", "{\"<|im_start|>\": [\"<|im_start|>\"]}", &out);
    assert_int_equal(count_control(&out), 1); /* the template's */
    out.len = tokenizer_unguard(out.data, out.len);
    assert_int_equal(count_control(&out), 3);
    buffer_deinit(&out);
}

/* An arena that is full at any allocation gives NULL, and no half of a value. */
static void a_full_arena_gives_nothing(void **state)
{
    (void)state;
    json_error_t at;
    json_t *json = json_loads("{\"a\": [1, \"two\", {\"b\": 3.5}], \"c\": null}", 0, &at);
    bool has_failed = false, is_made = false;
    for (size_t limit = 4096; limit < (1 << 16); limit += 64) {
        struct arena *arena = arena_create(limit);
        while (arena && arena_alloc(arena, 96))
            ;
        if (arena)
            has_failed |= !template_from_json(arena, tokenizer, json);
        arena_destroy(arena);
    }
    struct arena *arena = arena_create(1 << 16);
    is_made = template_from_json(arena, tokenizer, json) != NULL;
    arena_destroy(arena);
    assert_true(has_failed && is_made);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_what_json_says),
        cmocka_unit_test(no_text_becomes_a_control_token),
        cmocka_unit_test(a_full_arena_gives_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
