/* llama-server's dialect: the events of a stream add up to the whole reply, and what it generates
 * is what /v1/completions generates with the same parameters. Requests are made from printed seeds.
 */
#include "api_fixture.h"

#include "base/hash.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_SEEDS 200

struct maker {
    uint64_t state;
    struct buffer body;
};

static uint32_t draw(struct maker *m, uint32_t n)
{
    m->state = hash_mix(m->state + 1);
    return (uint32_t)(m->state % n);
}

static void add_text(struct maker *m)
{
    buffer_append_char(&m->body, '"');
    for (uint32_t i = draw(m, 6) + 1; i > 0; i--)
        buffer_append_char(&m->body, (char)('a' + draw(m, 26)));
    buffer_append_char(&m->body, '"');
}

/* Without the braces. */
static void make_body(struct maker *m)
{
    buffer_append_str(&m->body, "\"prompt\":[");
    for (uint32_t i = draw(m, 3) + 1, is_first = 1; i > 0; i--, is_first = 0) {
        buffer_append_str(&m->body, is_first ? "" : ",");
        add_text(m);
    }
    buffer_printf(&m->body,
                  "],\"n_predict\":%u,\"seed\":%u,\"temperature\":%u.5,\"return_tokens\":true",
                  draw(m, 30) + 1, draw(m, 1000), draw(m, 9));
    buffer_printf(&m->body, ",\"n_cmpl\":%u,\"n_probs\":%u", draw(m, 2) + 1, draw(m, 4));
    if (draw(m, 2)) {
        buffer_append_str(&m->body, ",\"stop\":[");
        add_text(m);
        buffer_append_str(&m->body, ",\"a\"]");
    }
    if (draw(m, 3) == 0)
        buffer_append_str(&m->body, ",\"post_sampling_probs\":true");
    if (draw(m, 3) == 0)
        buffer_append_str(&m->body, ",\"repeat_penalty\":1.5,\"repeat_last_n\":9");
}

static json_t *whole_reply(struct api_world *world, const char *path, const char *members)
{
    char body[1024];
    json_error_t error;
    (void)snprintf(body, sizeof body, "{%s}", members);
    struct api_reply reply = api_post(world, path, body);
    json_t *root = json_loadb(reply.body, reply.len, 0, &error);
    if (reply.status != 200 || !root)
        fail_msg("%s: %d %s", body, reply.status, reply.body);
    free(reply.body);
    return root;
}

/* ---- streams that add up ---- */

struct joined {
    struct buffer text;
    json_t *tokens, *probabilities, *final;
};

static void join_event(struct joined *choices, const char *line, size_t n)
{
    json_t *event = json_loadb(line, n, 0, NULL);
    assert_non_null(event);
    struct joined *c = &choices[json_integer_value(json_object_get(event, "index"))];
    json_t *probabilities = json_object_get(event, "completion_probabilities");
    const json_t *content = json_object_get(event, "content");
    assert_null(c->final); /* nothing comes behind it */
    buffer_append(&c->text, json_string_value(content), json_string_length(content));
    assert_int_equal(json_array_extend(c->tokens, json_object_get(event, "tokens")), 0);
    if (probabilities)
        assert_int_equal(json_array_extend(c->probabilities, probabilities), 0);
    if (json_is_true(json_object_get(event, "stop")))
        c->final = json_incref(event);
    json_decref(event);
}

static void check_choice(struct joined *c, json_t *whole)
{
    static const char *const same[] = {
        "index",         "model",     "tokens_predicted", "tokens_evaluated", "truncated",
        "tokens_cached", "stop_type", "stopping_word",    "timings"};
    assert_non_null(c->final);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        assert_true(
            json_equal(json_object_get(c->final, same[i]), json_object_get(whole, same[i])));
    const json_t *content = json_object_get(whole, "content");
    assert_int_equal(c->text.len, json_string_length(content));
    assert_memory_equal(buffer_str(&c->text), json_string_value(content), c->text.len);
    assert_true(json_equal(c->tokens, json_object_get(whole, "tokens")));
    const json_t *probabilities = json_object_get(whole, "completion_probabilities");
    if (probabilities)
        assert_true(json_equal(c->probabilities, probabilities));
    assert_int_equal(json_array_size(c->probabilities), json_array_size(probabilities));
}

static void check_stream(struct api_world *world, const char *members, json_t *whole)
{
    enum { MAX_CHOICES = 8 };
    struct joined choices[MAX_CHOICES] = {0};
    char body[1024];
    for (size_t i = 0; i < MAX_CHOICES; i++) {
        buffer_init(&choices[i].text, MIB);
        choices[i].tokens = json_array();
        choices[i].probabilities = json_array();
    }
    (void)snprintf(body, sizeof body, "{%s,\"stream\":true}", members);
    struct api_reply reply = api_post(world, "/completion", body);
    for (const char *at = reply.body; *at;) {
        const char *end = strstr(at, "\n\n");
        assert_memory_equal(at, "data: ", 6);
        assert_non_null(end);
        join_event(choices, at + 6, (size_t)(end - at) - 6);
        at = end + 2;
    }
    if (json_is_object(whole))
        check_choice(&choices[0], whole);
    for (size_t i = 0; i < json_array_size(whole); i++)
        check_choice(&choices[i], json_array_get(whole, i));
    for (size_t i = 0; i < MAX_CHOICES; i++) {
        buffer_deinit(&choices[i].text);
        json_decref(choices[i].tokens);
        json_decref(choices[i].probabilities);
        json_decref(choices[i].final);
    }
    free(reply.body);
}

static void the_events_of_a_stream_add_up_to_the_whole_reply(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama", "gemma3"};
    for (size_t a = 0; a < 2; a++) {
        struct api_world *world = api_world_create(archs[a], NULL);
        for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
            struct maker m = {.state = seed};
            buffer_init(&m.body, MIB);
            make_body(&m);
            json_t *whole = whole_reply(world, "/completion", m.body.data);
            print_message("%s seed %u: %s\n", archs[a], (unsigned)seed, m.body.data);
            check_stream(world, m.body.data, whole);
            json_decref(whole);
            buffer_deinit(&m.body);
        }
        api_world_destroy(world);
    }
}

/* ---- the same as the other dialect ---- */

static void it_generates_what_completions_generate(void **state)
{
    (void)state;
    static const struct {
        const char *llama, *openai;
    } pairs[] = {
        {"\"n_predict\":20,\"seed\":5,\"temperature\":7",
         "\"max_tokens\":20,\"seed\":5,\"temperature\":7,\"top_k\":40,\"top_p\":0.95,\"min_p\":0."
         "05,"
         "\"samplers\":[\"top_n_sigma\",\"top_k\",\"typical_p\",\"top_p\",\"min_p\",\"xtc\","
         "\"temperature\"]"},
        {"\"n_predict\":20,\"seed\":5,\"temperature\":6,\"repeat_penalty\":2,\"repeat_last_n\":-1",
         "\"max_tokens\":20,\"seed\":5,\"temperature\":6,\"repetition_penalty\":2,\"top_k\":40,"
         "\"top_p\":0.95,\"min_p\":0.05,\"samplers\":[\"top_k\",\"top_p\",\"min_p\","
         "\"temperature\"]"},
        {"\"n_predict\":9,\"temperature\":0,\"cache_prompt\":false",
         "\"max_tokens\":9,\"temperature\":0"},
    };
    struct api_world *world = api_world_create_with_cache("llama");
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char members[512];
        (void)snprintf(members, sizeof members, "\"prompt\":\"the quick fox\",%s", pairs[i].llama);
        json_t *ours = whole_reply(world, "/completion", members);
        (void)snprintf(members, sizeof members, "\"prompt\":\"the quick fox\",%s", pairs[i].openai);
        json_t *other = whole_reply(world, "/v1/completions", members);
        json_t *choice = json_array_get(json_object_get(other, "choices"), 0);
        assert_string_equal(json_string_value(json_object_get(ours, "content")),
                            json_string_value(json_object_get(choice, "text")));
        json_decref(ours);
        json_decref(other);
    }
    api_world_destroy(world);
}

static void without_cache_prompt_nothing_is_reused(void **state)
{
    (void)state;
    char members[256];
    struct api_world *world = api_world_create_with_cache("llama");
    static const char *const caches[] = {"true", "true", "false"};
    int64_t n_cached[3];
    for (int i = 0; i < 3; i++) {
        (void)snprintf(members, sizeof members,
                       "\"prompt\":\"0123456789 0123456789 0123456789 0123456789\",\"n_predict\":1,"
                       "\"cache_prompt\":%s",
                       caches[i]);
        json_t *reply = whole_reply(world, "/completion", members);
        n_cached[i] = json_integer_value(json_object_get(reply, "tokens_cached"));
        json_decref(reply);
    }
    assert_int_equal(n_cached[0], 0);
    assert_true(n_cached[1] > 0);
    assert_int_equal(n_cached[2], 0);
    api_world_destroy(world);
}

static void a_client_may_leave_after_any_step(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", NULL);
    static const char body[] =
        "{\"prompt\":[\"a\",\"b\"],\"n_cmpl\":2,\"n_predict\":6,\"stream\":true,"
        "\"return_progress\":true,\"n_probs\":2}";
    for (uint32_t steps = 0; steps < 12; steps++) {
        struct api_reply reply =
            api_call_and_leave(world, "/completion", body, sizeof body - 1, steps);
        free(reply.body);
    }
    api_world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_events_of_a_stream_add_up_to_the_whole_reply),
        cmocka_unit_test(it_generates_what_completions_generate),
        cmocka_unit_test(without_cache_prompt_nothing_is_reused),
        cmocka_unit_test(a_client_may_leave_after_any_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
