/* select and score: the scores are those of the texts' tokens, the winner's pages are kept. */
#include "run_fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

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

static void a_choice_is_appended(void **state)
{
    (void)state;
    must_equal(
        value_of_body(
            world,
            "s:add('is it') local c, info = s:select{name = 'c', choices = {' yes', ' no', ' "
            "perhaps not'}}\n"
            "local p = 0 for _, x in ipairs(info.probs) do p = p + x end\n"
            "return {s:text() == 'is it' .. c, s.v.c == c, #info.scores, math.abs(p - 1) < 1e-9,"
            " info.margin >= 0, #info.logprobs == 3}"),
        "[true,true,3,true,true,true]");
    must_equal(value_of_body(world, "return (s:add('x'):select{choices = {'only'}})"), "\"only\"");
}

/* Acceptance 4, of every method that has a formula in the tokens' log probabilities. */
static void scores_are_those_of_score(void **state)
{
    (void)state;
    must_equal(value_of_body(
                   world, "local choices = {' a', ' be', ' see here', ' dont know what', 'eq', ' "
                          "zz top of it', ' me', ' you'}\n"
                          "local worst = 0\n"
                          "for _, method in ipairs{'token_length_normalized', 'joint'} do\n"
                          " local b = s:add('this is') local scores = {}\n"
                          " for i, c in ipairs(choices) do local x = b:copy():score(c)\n"
                          "  scores[i] = method == 'joint' and x.sum or x.mean end\n"
                          " local _, info = b:copy():select{choices = choices, method = method}\n"
                          " for i = 1, #choices do worst = math.max(worst, math.abs(info.scores[i] "
                          "- scores[i])) end\n"
                          "end return worst < 1e-5"),
               "true");
}

/* The log probability of a text is what its tokens get as a prompt; whatever is cached. */
static void log_probabilities_do_not_depend_on_the_cache(void **state)
{
    (void)state;
    must_equal(
        value_of_body(world,
                      "s:add(('long beginning '):rep(12)) local x = s:score(' and its end')\n"
                      "s:gen{max_tokens = 1} local k = s:copy()\n"
                      "local t = {} for i = 1, 3 do t[i] = s:copy():score(' other words').sum end\n"
                      "return {#x.tokens == #x.logprobs, t[1] == t[2], t[2] == t[3], x.sum < 0}"),
        "[true,true,true,true]");
}

/* K7: what select prefills are its literal and the choices, and nothing of the winner again. */
static void a_select_prefills_its_literal_and_the_choices(void **state)
{
    (void)state;
    json_t *object =
        run_body(world, "s:add('one two three'):gen{max_tokens = 3, ignore_eos = true}\n"
                        "s:add(' which')\n"
                        "local c = s:select{choices = {' abcdef', ' ghijkl', ' z'}}\n"
                        "s:add(' and'):gen{max_tokens = 2, ignore_eos = true}");
    check_counts(object);
    assert_int_equal(trace_count(object), 3);
    assert_string_equal(trace_text(object, 1, "op"), "select");
    const long end = trace_field(object, 0, "prompt") + trace_field(object, 0, "completion");
    assert_int_equal(trace_field(object, 1, "reused"), end - 1);
    assert_true(trace_field(object, 2, "prefill") <= 5);
    json_decref(object);
}

/* A boundary inside of what would be one token is healed: the choice's text is what counts. */
static void boundaries_are_healed(void **state)
{
    (void)state;
    /* "ab" is one token: behind "a" the choice "b" is scored as that token */
    must_equal(value_of_body(world, "s:add('x a') local x = s:score('b') s:add('b')\n"
                                    "return {#x.tokens, s:len() == count_tokens('x ab')}"),
               "[1,true]");
}

static void greedy_keeps_the_maxima(void **state)
{
    (void)state;
    must_equal(value_of_body(
                   world,
                   "s:add('so') local c, info = s:select{method = 'greedy_token', choices = {' a', "
                   "' b', ' cd ef'}}\n"
                   "local sum, best = 0, 1 for i, x in ipairs(info.scores) do sum = sum + x end\n"
                   "for i = 1, 3 do if info.logprobs[i][1] > info.logprobs[best][1] then best = i "
                   "end end\n"
                   "return {sum, info.scores[info.index], info.index == best}"),
               "[1.0,1.0,true]");
}

/* As many as there may be, by each method. */
static void many_choices_are_compared(void **state)
{
    (void)state;
    must_equal(
        value_of_body(
            world,
            "s:add('one of') local c, n = {}, 0 for i = 1, 256 do c[i] = ' x' .. i .. ' y' end\n"
            "for _, m in ipairs{'joint', 'greedy_token', 'token_length_normalized',"
            " 'unconditional_likelihood_normalized'} do\n"
            " local _, info = s:copy():select{choices = c, method = m} n = n + #info.scores end\n"
            "return n"),
        "1024");
}

static void equal_choices_go_to_the_first(void **state)
{
    (void)state;
    must_equal(value_of_body(world, "local c, i = s:add('so'):select{choices = {' b', ' b', ' b'}} "
                                    "return {i.index, i.margin}"),
               "[1,0.0]");
}

static void wrong_choices_are_refused(void **state)
{
    (void)state;
    must_fail(world, "s:add('x'):select{}", "invalid_option");
    must_fail(world, "s:add('x'):select{choices = {}}", "invalid_option");
    must_fail(world, "s:add('x'):select{choices = {1}}", "invalid_option");
    must_fail(world, "s:add('x'):select{choices = {'a'}, method = 'best'}", "invalid_option");
    must_fail(world, "s:add('x'):select{choices = {'a'}, temperature = 1}", "invalid_option");
    must_fail(world, "s:select{choices = {'a'}}", "invalid_option");
}

static void gen_with_choices_is_select(void **state)
{
    (void)state;
    must_equal(value_of_body(world,
                             "local x, info = s:add('x'):gen{name = 'v', choices = {' a', ' b'}}"
                             " return {x == s.v.v, info.index >= 1}"),
               "[true,true]");
}

/* What they are behind a begin token alone is computed once for all runs. */
static void unconditional_likelihood_is_remembered(void **state)
{
    (void)state;
    struct dsl_world *spm = dsl_world_create(&(struct dsl_world_options){.arch = "phi3"});
    static const char body[] =
        "s:add('label is') local _, info = s:select{method = 'unconditional_likelihood_normalized',"
        " choices = {' positive', ' negative', ' x'}} return info.scores";
    struct run_options options = run_options_default();
    json_t *first = run_body_as(spm, body, &options);
    options.cache_space = 9;
    json_t *second = run_body_as(spm, body, &options);
    check_counts(first);
    assert_true(json_equal(json_object_get(first, "value"), json_object_get(second, "value")));
    assert_int_equal(json_array_size(json_object_get(first, "value")), 3);
    assert_true(trace_field(first, 0, "prefill") > trace_field(second, 0, "prefill"));
    json_decref(first);
    json_decref(second);
    dsl_world_destroy(spm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_choice_is_appended),
        cmocka_unit_test(scores_are_those_of_score),
        cmocka_unit_test(log_probabilities_do_not_depend_on_the_cache),
        cmocka_unit_test(a_select_prefills_its_literal_and_the_choices),
        cmocka_unit_test(boundaries_are_healed),
        cmocka_unit_test(greedy_keeps_the_maxima),
        cmocka_unit_test(many_choices_are_compared),
        cmocka_unit_test(equal_choices_go_to_the_first),
        cmocka_unit_test(wrong_choices_are_refused),
        cmocka_unit_test(gen_with_choices_is_select),
        cmocka_unit_test(unconditional_likelihood_is_remembered),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
