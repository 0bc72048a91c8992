/* Whatever is asked for, the frames of a stream add up to the reply that is no stream: text,
 * finish, stop, log probabilities, token ids, usage. Requests are made from printed seeds. */
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

#define N_SEEDS 300

struct maker {
    uint64_t state;
    struct buffer body;
};

static uint32_t draw(struct maker *m, uint32_t n)
{
    m->state = hash_mix(m->state + 1);
    return (uint32_t)(m->state % n);
}

static void add_word(struct maker *m)
{
    for (uint32_t i = draw(m, 8) + 1; i > 0; i--)
        buffer_append_char(&m->body, (char)('a' + draw(m, 26)));
}

static void add_prompt(struct maker *m, bool is_chat)
{
    uint32_t n = draw(m, 3) + 1;
    buffer_append_str(&m->body, is_chat ? "\"messages\":[" : "\"prompt\":[");
    for (uint32_t i = 0; i < n; i++) {
        buffer_append_str(&m->body, i ? "," : "");
        buffer_append_str(&m->body, is_chat ? "{\"role\":\"user\",\"content\":\"" : "\"");
        add_word(m);
        buffer_append_str(&m->body, is_chat ? "\"}" : "\"");
    }
    buffer_append_char(&m->body, ']');
}

/* Two letters are likely to occur in a text of random letters, also across tokens. */
static void add_stops(struct maker *m)
{
    buffer_append_str(&m->body, ",\"stop\":[");
    for (uint32_t i = 0; i < 12; i++) {
        buffer_printf(&m->body, "%s\"%c", i ? "," : "", (char)('a' + draw(m, 26)));
        if (i > 2)
            buffer_append_char(&m->body, (char)('a' + draw(m, 26)));
        if (i > 8)
            buffer_append_char(&m->body, (char)('a' + draw(m, 26)));
        buffer_append_char(&m->body, '"');
    }
    buffer_append_char(&m->body, ']');
}

static void add_sampling(struct maker *m)
{
    buffer_printf(&m->body, ",\"max_tokens\":%u,\"seed\":%u", draw(m, 40), draw(m, 100));
    if (draw(m, 2))
        buffer_printf(&m->body, ",\"n\":%u", draw(m, 3) + 1);
    if (draw(m, 2)) /* hot: any token comes, the end and other control tokens too */
        buffer_append_str(&m->body, ",\"temperature\":100");
    /* the byte 0 would be a key of top_logprobs, which this test's parser does not take */
    buffer_printf(&m->body, ",\"logit_bias\":{\"3\":false,\"6\":false%s}",
                  draw(m, 3) == 0 ? ",\"2\":20,\"1\":20" : "");
    if (draw(m, 3) == 0)
        buffer_append_str(&m->body, ",\"skip_special_tokens\":false");
    if (draw(m, 3) == 0)
        buffer_append_str(&m->body, ",\"include_stop_str_in_output\":true");
    if (draw(m, 3) == 0)
        buffer_append_str(&m->body, ",\"return_token_ids\":true");
    if (draw(m, 4) == 0)
        buffer_append_str(&m->body, ",\"return_tokens_as_token_ids\":true");
    if (draw(m, 2))
        add_stops(m);
    if (draw(m, 3) == 0)
        buffer_append_str(&m->body, ",\"stop_regex\":[\"[a-m][n-z]+[a-e]\",\"\",\"\\\\d+\"]");
}

/* Without the closing brace. */
static void make_request(struct maker *m, bool is_chat)
{
    buffer_append_char(&m->body, '{');
    add_prompt(m, is_chat);
    add_sampling(m);
    if (is_chat && draw(m, 2))
        buffer_printf(&m->body, ",\"logprobs\":true,\"top_logprobs\":%u", draw(m, 4));
    if (!is_chat && draw(m, 2))
        buffer_printf(&m->body, ",\"logprobs\":%u", draw(m, 4));
    if (!is_chat && draw(m, 2))
        buffer_append_str(&m->body, ",\"echo\":true");
}

/* ---- a stream becomes a reply --------------------------------------------------------------- */

static void append_string(json_t *object, const char *name, const json_t *text)
{
    json_t *old = json_object_get(object, name);
    if (!json_is_string(text))
        return;
    if (!old) {
        json_object_set_new(object, name, json_copy((json_t *)text));
        return;
    }
    struct buffer joined;
    buffer_init(&joined, MIB);
    buffer_append_str(&joined, json_string_value(old));
    buffer_append_str(&joined, json_string_value(text));
    json_object_set_new(object, name, json_stringn(joined.data, joined.len));
    buffer_deinit(&joined);
}

/* Lists are joined, also those inside objects; the rest is replaced. */
static void merge(json_t *object, const char *name, const json_t *value)
{
    json_t *old = json_object_get(object, name);
    if (json_is_array(value) && json_is_array(old)) {
        json_array_extend(old, (json_t *)value);
    } else if (json_is_object(value) && json_is_object(old)) {
        const char *key;
        json_t *item;
        json_object_foreach((json_t *)value, key, item) merge(old, key, item);
    } else if (!(json_is_null(value) && old)) {
        json_object_set_new(object, name, json_deep_copy(value));
    }
}

static json_t *find_choice(json_t *choices, json_int_t index)
{
    json_t *choice;
    size_t i;
    json_array_foreach(choices, i, choice)
    {
        if (json_integer_value(json_object_get(choice, "index")) == index)
            return choice;
    }
    choice = json_object();
    json_object_set_new(choice, "index", json_integer(index));
    json_array_append_new(choices, choice);
    return choice;
}

static void add_choice(json_t *choices, const json_t *chunk)
{
    const char *key;
    json_t *value;
    json_t *choice = find_choice(choices, json_integer_value(json_object_get(chunk, "index")));
    const json_t *delta = json_object_get(chunk, "delta");
    bool is_finished = json_is_string(json_object_get(choice, "finish_reason"));
    assert_false(is_finished); /* nothing follows the finish */
    if (delta) {
        bool is_first = json_object_get(choice, "text") == NULL;
        bool is_last = json_is_string(json_object_get(chunk, "finish_reason"));
        assert_int_equal(json_object_get(delta, "role") != NULL, is_first);
        assert_int_equal(json_object_size(delta) == 0, is_last);
    }
    append_string(choice, "text",
                  json_object_get(delta ? delta : chunk, delta ? "content" : "text"));
    json_object_foreach((json_t *)chunk, key, value)
    {
        if (strcmp(key, "text") != 0 && strcmp(key, "delta") != 0 && strcmp(key, "index") != 0)
            merge(choice, key, value);
    }
}

/* One frame's JSON; false at [DONE]. */
static bool add_frame(json_t *reply, const char *line, size_t n)
{
    assert_true(n > 6 && memcmp(line, "data: ", 6) == 0);
    if (n == 12 && memcmp(line + 6, "[DONE]", 6) == 0)
        return false;
    json_t *frame = json_loadb(line + 6, n - 6, 0, NULL);
    json_t *choices = json_object_get(frame, "choices"), *choice;
    size_t i;
    if (!frame)
        fail_msg("%.*s", (int)n, line);
    json_array_foreach(choices, i, choice) add_choice(json_object_get(reply, "choices"), choice);
    assert_null(json_object_get(reply, "usage")); /* the chunk with usage is the last */
    if (json_array_size(choices) == 0)
        json_object_set(reply, "usage", json_object_get(frame, "usage"));
    else
        assert_true(json_is_null(json_object_get(frame, "usage")));
    json_decref(frame);
    return true;
}

static json_t *join_stream(const char *text)
{
    json_t *reply = json_pack("{s:[]}", "choices");
    const char *end;
    while ((end = strstr(text, "\n\n")) && add_frame(reply, text, (size_t)(end - text)))
        text = end + 2;
    assert_non_null(end);
    assert_string_equal(end, "\n\n"); /* nothing behind [DONE] */
    return reply;
}

/* ---- the reply that is no stream, in the same form ------------------------------------------ */

static json_t *read_whole(const struct api_reply *found)
{
    json_t *root = json_loadb(found->body, found->len, 0, NULL), *choice;
    size_t i;
    assert_non_null(root);
    json_t *reply = json_pack("{s:O,s:O}", "choices", json_object_get(root, "choices"), "usage",
                              json_object_get(root, "usage"));
    json_array_foreach(json_object_get(reply, "choices"), i, choice)
    {
        json_t *message = json_object_get(choice, "message");
        if (message)
            json_object_set(choice, "text", json_object_get(message, "content"));
        json_object_del(choice, "message");
        assert_int_equal(json_integer_value(json_object_get(choice, "index")), i);
    }
    json_decref(root);
    return reply;
}

/* With logprobs and no token at all a stream has null where a reply has empty lists. */
static void forget_empty_logprobs(json_t *reply)
{
    json_t *choice;
    size_t i;
    json_array_foreach(json_object_get(reply, "choices"), i, choice)
    {
        const json_t *logprobs = json_object_get(choice, "logprobs");
        if (json_array_size(json_object_get(logprobs, "content")) == 0 &&
            json_array_size(json_object_get(logprobs, "tokens")) == 0)
            json_object_set_new(choice, "logprobs", json_null());
    }
}

static int compare_index(const void *a, const void *b)
{
    const json_t *const *p = a, *const *q = b;
    return (int)(json_integer_value(json_object_get(*p, "index")) -
                 json_integer_value(json_object_get(*q, "index")));
}

static void sort_choices(json_t *reply)
{
    json_t *sorted[64], *choices = json_object_get(reply, "choices");
    size_t n = json_array_size(choices);
    assert_true(n <= 64);
    for (size_t i = 0; i < n; i++)
        sorted[i] = json_incref(json_array_get(choices, i));
    qsort(sorted, n, sizeof *sorted, compare_index);
    for (size_t i = 0; i < n; i++)
        json_array_set_new(choices, i, sorted[i]);
}

static void drop_cached(json_t *reply)
{
    /* the second of two equal calls may find more of its prompt computed */
    json_object_del(json_object_get(reply, "usage"), "prompt_tokens_details");
}

static void check_seed(struct api_world *world, uint64_t seed, bool is_chat)
{
    const char *path = is_chat ? "/v1/chat/completions" : "/v1/completions";
    struct maker m = {.state = seed * 2 + is_chat};
    buffer_init(&m.body, MIB);
    make_request(&m, is_chat);
    size_t len = m.body.len;
    buffer_append_char(&m.body, '}');
    struct api_reply whole = api_post(world, path, buffer_str(&m.body));
    buffer_consume(&m.body, 0);
    m.body.len = len;
    buffer_append_str(&m.body, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    struct api_reply stream = api_post(world, path, buffer_str(&m.body));
    if (whole.status != 200 || stream.status != 200)
        fail_msg("seed %llu: %s: %s", (unsigned long long)seed, buffer_str(&m.body), whole.body);
    json_t *expected = read_whole(&whole), *found = join_stream(stream.body);
    forget_empty_logprobs(expected);
    forget_empty_logprobs(found);
    sort_choices(found);
    drop_cached(expected);
    drop_cached(found);
    if (!json_equal(expected, found)) {
        char *a = json_dumps(expected, JSON_SORT_KEYS), *b = json_dumps(found, JSON_SORT_KEYS);
        (void)fprintf(stderr, "whole:  %s\nstream: %s\n%s\n", a, b, stream.body);
        fail_msg("seed %llu: %s", (unsigned long long)seed, buffer_str(&m.body));
    }
    json_decref(expected);
    json_decref(found);
    free(whole.body);
    free(stream.body);
    buffer_deinit(&m.body);
}

static void check_all(const char *arch, bool is_chat)
{
    struct api_world *world = api_world_create(arch, NULL);
    for (uint64_t seed = 0; seed < N_SEEDS; seed++)
        check_seed(world, seed, is_chat);
    api_world_destroy(world);
}

static void a_chat_stream_adds_up_to_the_whole_reply(void **state)
{
    (void)state;
    check_all("llama", true);
}

static void a_completion_stream_adds_up_to_the_whole_reply(void **state)
{
    (void)state;
    check_all("llama", false);
}

static void streams_of_a_sentencepiece_model_add_up(void **state)
{
    (void)state;
    check_all("gemma3", true);
    check_all("gemma3", false);
}

/* ---- log probabilities ----------------------------------------------------------------------- */

static json_t *post_json(struct api_world *world, const char *path, const char *body)
{
    struct api_reply reply = api_post(world, path, body);
    json_t *root = json_loadb(reply.body, reply.len, 0, NULL);
    if (reply.status != 200)
        fail_msg("%s", reply.body);
    assert_non_null(root);
    free(reply.body);
    return root;
}

/* The logprobs' tokens of a greedy chat on one letter. */
static json_t *chat_tokens(struct api_world *world, char letter, const char *stop)
{
    char body[256];
    (void)snprintf(body, sizeof body,
                   "{\"messages\":[{\"role\":\"user\",\"content\":\"%c\"}],\"temperature\":0,"
                   "\"max_tokens\":6,\"logprobs\":true,\"stop\":\"%s\"}",
                   letter, stop);
    json_t *reply = post_json(world, "/v1/chat/completions", body);
    json_t *choice = json_array_get(json_object_get(reply, "choices"), 0);
    json_t *list = json_object_get(json_object_get(choice, "logprobs"), "content");
    json_incref(list);
    json_decref(reply);
    return list;
}

static const char *token_text(const json_t *list, size_t i)
{
    return json_string_value(json_object_get(json_array_get(list, i), "token"));
}

static void tokens_that_a_stop_string_cut_off_are_not_in_a_chats_logprobs(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", NULL);
    const char *letters = "abcdefghijklmnopqrstuvwxyz";
    int n_checked = 0;
    for (char letter = 'a'; letter <= 'z'; letter++) {
        char stop[32];
        json_t *whole = chat_tokens(world, letter, "");
        (void)snprintf(stop, sizeof stop, "%s%s", token_text(whole, 2), token_text(whole, 3));
        bool is_plain = strlen(stop) == 4 && strspn(stop, letters) == 4;
        if (is_plain) {
            json_t *cut = chat_tokens(world, letter, stop);
            assert_int_equal(json_array_size(cut), 2);
            json_decref(cut);
            /* the third token is cut in its middle, so it is shown whole */
            json_t *half = chat_tokens(world, letter, stop + 1);
            assert_int_equal(json_array_size(half), 3);
            json_decref(half);
            n_checked++;
        }
        json_decref(whole);
    }
    assert_true(n_checked > 3);
    api_world_destroy(world);
}

static void echoed_scores_of_a_prompt_do_not_depend_on_the_cache(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", NULL);
    const char *body = "{\"prompt\":\"the quick brown fox jumps over the lazy dog and runs\","
                       "\"max_tokens\":0,\"echo\":true,\"logprobs\":3}";
    json_t *first = post_json(world, "/v1/completions", body);
    json_t *second = post_json(world, "/v1/completions", body);
    assert_true(json_equal(json_object_get(first, "choices"), json_object_get(second, "choices")));
    json_decref(first);
    json_decref(second);
    api_world_destroy(world);
}

/* ---- clients that leave ---------------------------------------------------------------------- */

static void a_client_may_leave_after_any_step(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", NULL);
    static const char *const bodies[] = {
        "{\"prompt\":[\"a\",\"b\",\"c\"],\"n\":3,\"max_tokens\":8,\"stream\":true,\"logprobs\":2}",
        "{\"prompt\":[\"a\",\"b\",\"c\"],\"n\":3,\"max_tokens\":8,\"logprobs\":2,\"echo\":true}"};
    for (int i = 0; i < 2; i++) {
        for (uint32_t steps = 0; steps < 20; steps++) {
            struct api_reply reply =
                api_call_and_leave(world, "/v1/completions", bodies[i], strlen(bodies[i]), steps);
            free(reply.body);
        }
    }
    api_world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chat_stream_adds_up_to_the_whole_reply),
        cmocka_unit_test(a_completion_stream_adds_up_to_the_whole_reply),
        cmocka_unit_test(streams_of_a_sentencepiece_model_add_up),
        cmocka_unit_test(tokens_that_a_stop_string_cut_off_are_not_in_a_chats_logprobs),
        cmocka_unit_test(echoed_scores_of_a_prompt_do_not_depend_on_the_cache),
        cmocka_unit_test(a_client_may_leave_after_any_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
