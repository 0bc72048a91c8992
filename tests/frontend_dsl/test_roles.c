/* Turns: the tokens of a conversation are those of its rendered template, bodies apart. */
#include "run_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Reasoning-like frames go from old turns; a template that rewrites. */
#define REWRITING                                                                                  \
    "{% for m in messages %}<|im_start|>{{ m.role + (' now' if loop.last else '') }}\n"            \
    "{{ m.content }}<|im_end|>\n{% endfor %}"                                                      \
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

/* The system's text stands inside of the user's turn. */
#define FOLDING                                                                                    \
    "{% if messages[0].role == 'system' %}{% set head = messages[0].content + '\n\n' %}"           \
    "{% set rest = messages[1:] %}{% else %}{% set head = '' %}{% set rest = messages %}{% endif " \
    "%}"                                                                                           \
    "{% for m in rest %}<|im_start|>{{ m.role }}\n"                                                \
    "{% if loop.first %}{{ head }}{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"              \
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

/* Once there are three messages, each has a longer mark. */
#define GROWING                                                                                    \
    "{% for m in messages %}<|im_start|>{{ m.role }}"                                              \
    "{% if messages|length > 2 %} and much is known of it by now{% endif %}\n"                     \
    "{{ m.content }}<|im_end|>\n{% endfor %}"                                                      \
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

/* Shows the last message alone. */
#define FORGETTING                                                                                 \
    "{% for m in messages[-1:] %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor "  \
    "%}"

static struct dsl_world *world;

static int setup(void **state)
{
    (void)state;
    world = dsl_world_create(&(struct dsl_world_options){0});
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    dsl_world_destroy(world);
    return 0;
}

static void turns_have_the_marks_of_the_template(void **state)
{
    (void)state;
    must_equal(
        value_of_body(world,
                      "s:system('be good'):user('hello there') s:open('assistant'):add('well')\n"
                      "return s:text()"),
        "\"<|im_start|>system\\nbe good<|im_end|>\\n<|im_start|>user\\nhello there<|im_end|>\\n"
        "<|im_start|>assistant\\nwell\"");
}

static void a_turn_returns_its_bodys_value(void **state)
{
    (void)state;
    must_equal(value_of_body(world, "local a = s:user('x') local b = s:assistant{name = 'b', "
                                    "max_tokens = 3, ignore_eos = true}\n"
                                    "local c = s:user(function(t) t:add('in') return 5 end)\n"
                                    "return {a == s, b == s.v.b, c, #s:messages(), "
                                    "s:messages()[3].content, s:messages()[2].role}"),
               "[true,true,5,3,\"in\",\"assistant\"]");
}

static void a_conversation_reuses_all_that_was_said(void **state)
{
    (void)state;
    json_t *object = run_body(world, "s:system('short')\n"
                                     "for i = 1, 4 do s:user('question ' .. i) "
                                     "s:assistant{max_tokens = 5, ignore_eos = true} end");
    check_counts(object);
    long n = 0;
    for (int i = 0; i < 4; i++) {
        if (i > 0)
            assert_int_equal(trace_field(object, i, "reused"), n - 1);
        n = trace_field(object, i, "prompt") + 5;
    }
    json_decref(object);
}

static void control_tokens_in_bodies_are_text(void **state)
{
    (void)state;
    must_equal(value_of_body(world, "local t = 'x<|im_end|>y' s:user(t)\n"
                                    "return {s:len() > count_tokens(t), count_tokens(t) > 3, "
                                    "s:copy():special(t):len() - s:copy():add(t):len() < 0}"),
               "[true,true,true]");
}

static void turns_do_not_nest(void **state)
{
    (void)state;
    must_fail(world, "s:open('user'):open('user')", "role_nesting");
    must_fail(world, "s:close()", "role_nesting");
    must_fail(world, "s:open('nobody')", "invalid_option");
}

static void text_may_follow_a_closed_turn(void **state)
{
    (void)state;
    must_equal(
        value_of_body(world,
                      "s:user('x') s:add('raw') s:user('y') s:open('assistant') return s:text()"),
        "\"<|im_start|>user\\nx<|im_end|>\\nraw<|im_start|>user\\ny<|im_end|>\\n<|im_start|>"
        "assistant\\n\"");
}

static void branches_continue_turns(void **state)
{
    (void)state;
    /* judge: an open turn is forked, each branch closes it in its own way */
    json_t *object = run_body(
        world,
        "s:open('user'):add('Essay: some words of it')\n"
        "local marks = s:map({'a', 'b', 'c'}, function(b, dim) b:add(' grade ', dim):close()\n"
        " return b:open('assistant'):add('Grade:'):gen{name = 'g', max_tokens = 2, ignore_eos = "
        "true} end)\n"
        "s:add(' and advice'):close() s:assistant{max_tokens = 2, ignore_eos = true} return "
        "s:len()");
    check_counts(object);
    assert_int_equal(trace_count(object), 5);
    const long essay = trace_field(object, 0, "prompt");
    for (int i = 1; i < 5; i++)
        assert_int_equal(trace_field(object, i, "reused"), essay);
    assert_int_equal(trace_field(object, 1, "batch_peers"), 2);
    json_decref(object);
}

static void a_template_may_rewrite_old_turns(void **state)
{
    (void)state;
    struct dsl_world *other =
        dsl_world_create(&(struct dsl_world_options){.chat_template = REWRITING});
    must_equal(
        value_of_body(other,
                      "s:user('one') s:assistant(function(t) t:add('two') end) s:user('three')\n"
                      "return s:text()"),
        "\"<|im_start|>user\\none<|im_end|>\\n<|im_start|>assistant\\ntwo<|im_end|>\\n"
        "<|im_start|>user now\\nthree\"");
    json_t *object = run_body(
        other,
        "for i = 1, 3 do s:user('question') s:assistant{max_tokens = 3, ignore_eos = true} end");
    for (int i = 0; i < trace_count(object); i++)
        assert_int_equal(trace_field(object, i, "prompt"),
                         trace_field(object, i, "reused") + trace_field(object, i, "prefill"));
    json_decref(object);
    dsl_world_destroy(other);
}

static void a_template_may_fold_the_system_into_the_user(void **state)
{
    (void)state;
    struct dsl_world *other =
        dsl_world_create(&(struct dsl_world_options){.chat_template = FOLDING});
    must_equal(value_of_body(
                   other, "s:system('be good'):user('hello') s:open('assistant') return s:text()"),
               "\"<|im_start|>user\\nbe good\\n\\nhello<|im_end|>\\n<|im_start|>assistant\\n\"");
    dsl_world_destroy(other);
}

static void without_a_template_there_are_no_roles(void **state)
{
    (void)state;
    struct dsl_world *other = dsl_world_create(&(struct dsl_world_options){.chat_template = ""});
    must_fail(other, "s:user('x')", "no_chat_template");
    dsl_world_destroy(other);
}

/* What has no room leaves the conversation as it was. */
static void a_turn_without_room_changes_nothing(void **state)
{
    (void)state;
    struct dsl_world *other =
        dsl_world_create(&(struct dsl_world_options){.chat_template = GROWING, .context = 100});
    must_equal(value_of_body(
                   other, "s:user(('w '):rep(20)) s:assistant(function(t) t:add(('w '):rep(40)) "
                          "end)\n"
                          "local before, len, text = json.encode(s:messages()), s:len(), s:text()\n"
                          "local ok, e = pcall(s.user, s, 'three')\n"
                          "local same = json.encode(s:messages()) == before and s:len() == len\n"
                          "return {ok, e.code, same, s:text() == text, #s:messages()}"),
               "[false,\"context_length_exceeded\",true,true,2]");
    dsl_world_destroy(other);
}

static void without_a_template_no_turn_begins(void **state)
{
    (void)state;
    struct dsl_world *other = dsl_world_create(&(struct dsl_world_options){.chat_template = ""});
    must_equal(value_of_body(other, "pcall(s.user, s, 'x') return #s:messages()"), "0");
    dsl_world_destroy(other);
}

/* Its own tokens are not behind those of the parent any more. */
static void a_branch_with_another_past_is_not_concatenated(void **state)
{
    (void)state;
    struct dsl_world *other =
        dsl_world_create(&(struct dsl_world_options){.chat_template = FORGETTING});
    must_fail(other,
              "s:user(('w '):rep(100)) s:fork(2, function(b) b:user('y') end):join('concat')",
              "template_error");
    dsl_world_destroy(other);
}

static void a_template_that_refuses_says_why(void **state)
{
    (void)state;
    struct dsl_world *other = dsl_world_create(&(struct dsl_world_options){
        .chat_template = "{% if messages|length > 2 %}{{ raise_exception('too many') }}{% endif %}"
                         "{% for m in messages %}[{{ m.content }}]{% endfor %}"});
    must_fail(other, "s:user('x') s:user('y') s:user('z')", "template_error");
    dsl_world_destroy(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_have_the_marks_of_the_template),
        cmocka_unit_test(a_turn_returns_its_bodys_value),
        cmocka_unit_test(a_conversation_reuses_all_that_was_said),
        cmocka_unit_test(control_tokens_in_bodies_are_text),
        cmocka_unit_test(turns_do_not_nest),
        cmocka_unit_test(text_may_follow_a_closed_turn),
        cmocka_unit_test(branches_continue_turns),
        cmocka_unit_test(a_template_may_rewrite_old_turns),
        cmocka_unit_test(a_template_may_fold_the_system_into_the_user),
        cmocka_unit_test(without_a_template_there_are_no_roles),
        cmocka_unit_test(a_turn_without_room_changes_nothing),
        cmocka_unit_test(without_a_template_no_turn_begins),
        cmocka_unit_test(a_branch_with_another_past_is_not_concatenated),
        cmocka_unit_test(a_template_that_refuses_says_why),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
