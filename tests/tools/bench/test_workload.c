#include "tools/bench/workload.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static serverd_error err;

static const struct workload_options base = {.n = 12,
                                             .concurrency = 3,
                                             .prompt_words = 40,
                                             .max_tokens = 8,
                                             .shared_words = 30,
                                             .turns = 3,
                                             .preambles = 4,
                                             .questions = 5,
                                             .long_words = 100,
                                             .n_long = 2,
                                             .rate = 10,
                                             .seed = 1,
                                             .is_chat = true,
                                             .model = "m"};

static struct workload *create(enum scenario scenario, uint64_t seed)
{
    struct workload_options options = base;
    struct workload *workload;
    options.scenario = scenario;
    options.seed = seed;
    if (workload_create(&options, &workload, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    return workload;
}

static void end(struct workload *workload, struct record *record, const char *text)
{
    buffer_append_str(&record->text, text);
    assert_int_equal(workload_done(workload, record, &err), SERVERD_OK);
    record_deinit(record);
}

/* All bodies in order, one request at a time, each answered with its number. */
static char *all_bodies(enum scenario scenario, uint64_t seed, uint32_t *n)
{
    struct workload *workload = create(scenario, seed);
    struct buffer all, body;
    char answer[16];
    buffer_init(&all, 1 << 24);
    buffer_init(&body, 1 << 20);
    *n = 0;
    while (!workload_is_over(workload)) {
        struct record record;
        double wait_s;
        record_init(&record);
        workload_progress(workload, 1000 * (size_t)*n);
        if (!workload_next(workload, 1e9, 0, &record, &wait_s))
            fail_msg("nothing may start after %u requests", *n);
        assert_int_equal(workload_body(workload, &record, &body, &err), SERVERD_OK);
        buffer_append(&all, body.data, body.len);
        buffer_append_char(&all, '\n');
        (void)snprintf(answer, sizeof answer, "answer %u", (*n)++);
        end(workload, &record, answer);
    }
    buffer_deinit(&body);
    workload_destroy(workload);
    return buffer_take(&all, &(size_t){0});
}

static void the_same_seed_asks_the_same(void **state)
{
    (void)state;
    for (int s = SCENARIO_CLOSED; s <= SCENARIO_CODE_EDIT; s++) {
        if (s == SCENARIO_LONGPREFILL)
            continue; /* starts by what comes back */
        uint32_t n[3];
        char *first = all_bodies((enum scenario)s, 1, &n[0]);
        char *again = all_bodies((enum scenario)s, 1, &n[1]);
        char *other = all_bodies((enum scenario)s, 2, &n[2]);
        assert_string_equal(first, again);
        assert_string_not_equal(first, other);
        assert_int_equal(n[0], s == SCENARIO_FEWSHOT ? 20 : s == SCENARIO_MULTITURN ? 9 : 12);
        free(first);
        free(again);
        free(other);
    }
}

static json_t *body_of(struct workload *workload, struct record *record)
{
    struct buffer body;
    double wait_s;
    buffer_init(&body, 1 << 20);
    record_init(record);
    assert_true(workload_next(workload, 1e9, 0, record, &wait_s));
    assert_int_equal(workload_body(workload, record, &body, &err), SERVERD_OK);
    json_t *root = json_loadb(body.data, body.len, 0, NULL);
    assert_non_null(root);
    buffer_deinit(&body);
    return root;
}

static const char *content(const json_t *body, size_t i, const char *role)
{
    const json_t *message = json_array_get(json_object_get(body, "messages"), i);
    assert_string_equal(json_string_value(json_object_get(message, "role")), role);
    return json_string_value(json_object_get(message, "content"));
}

static void distinct_prompts_differ_from_their_first_words(void **state)
{
    (void)state;
    struct workload *workload = create(SCENARIO_CLOSED, 1);
    struct record r[2];
    json_t *a = body_of(workload, &r[0]), *b = body_of(workload, &r[1]);
    assert_int_not_equal(strncmp(content(a, 0, "user"), content(b, 0, "user"), 12), 0);
    assert_int_equal(json_integer_value(json_object_get(a, "max_tokens")), 8);
    assert_true(json_is_true(json_object_get(a, "stream")));
    assert_true(json_is_true(json_object_get(a, "ignore_eos")));
    json_decref(a);
    json_decref(b);
    workload_destroy(workload);
}

static void a_shared_preamble_is_the_same_and_the_question_is_not(void **state)
{
    (void)state;
    struct workload *workload = create(SCENARIO_SHARED, 1);
    struct record r[2];
    json_t *a = body_of(workload, &r[0]), *b = body_of(workload, &r[1]);
    assert_string_equal(content(a, 0, "system"), content(b, 0, "system"));
    assert_string_not_equal(content(a, 1, "user"), content(b, 1, "user"));
    json_decref(a);
    json_decref(b);
    workload_destroy(workload);
}

static void fewshot_asks_every_question_of_every_preamble_once(void **state)
{
    (void)state;
    struct workload *workload = create(SCENARIO_FEWSHOT, 7);
    uint32_t count[4] = {0}, n_changes = 0, last = 0;
    for (uint32_t i = 0; i < 20; i++) {
        struct record record;
        json_decref(body_of(workload, &record));
        assert_true(record.preamble < 4);
        count[record.preamble]++;
        n_changes += record.preamble != last;
        last = record.preamble;
        end(workload, &record, "");
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(count[i], 5);
    assert_true(n_changes > 4); /* shuffled */
    assert_true(workload_is_over(workload));
    workload_destroy(workload);
}

static void a_turn_sends_the_history_with_the_answers(void **state)
{
    (void)state;
    struct workload *workload = create(SCENARIO_MULTITURN, 1);
    struct record r[3];
    json_t *first = body_of(workload, &r[0]);
    json_decref(body_of(workload, &r[1]));
    json_decref(body_of(workload, &r[2]));
    assert_int_equal(r[1].conversation, 1);
    double wait_s;
    struct record none = {0};
    assert_false(workload_next(workload, 0, 3, &none, &wait_s));
    end(workload, &r[0], "the answer");
    struct record again;
    json_t *second = body_of(workload, &again);
    assert_int_equal(again.conversation, 0);
    assert_int_equal(again.turn, 1);
    assert_true(again.keeps_text);
    assert_string_equal(content(second, 0, "system"), content(first, 0, "system"));
    assert_string_equal(content(second, 1, "user"), content(first, 1, "user"));
    assert_string_equal(content(second, 2, "assistant"), "the answer");
    assert_string_not_equal(content(second, 3, "user"), content(first, 1, "user"));
    json_decref(first);
    json_decref(second);
    for (int i = 1; i < 3; i++)
        end(workload, &r[i], "");
    end(workload, &again, "");
    workload_destroy(workload);
}

static void a_conversation_ends_with_its_first_failure(void **state)
{
    (void)state;
    struct workload_options options = base;
    struct workload *workload;
    struct record record;
    options.scenario = SCENARIO_MULTITURN;
    options.conversations = 1;
    assert_int_equal(workload_create(&options, &workload, &err), SERVERD_OK);
    json_decref(body_of(workload, &record));
    assert_false(workload_is_over(workload));
    record_fail(&record, "failed");
    end(workload, &record, "");
    assert_true(workload_is_over(workload));
    workload_destroy(workload);
}

static void arrivals_ascend_at_the_mean_rate(void **state)
{
    (void)state;
    struct workload_options options = base;
    options.scenario = SCENARIO_POISSON;
    options.n = 2000;
    struct workload *workload;
    struct record record = {0};
    double wait_s, now = 0;
    assert_int_equal(workload_create(&options, &workload, &err), SERVERD_OK);
    for (uint32_t i = 0; i < options.n; i++) {
        if (!workload_next(workload, now, i, &record, &wait_s)) {
            assert_true(wait_s > 0);
            now += wait_s + 1e-9;
            assert_true(workload_next(workload, now, i, &record, &wait_s));
        }
        assert_int_equal(record.index, i);
    }
    assert_true(fabs(now - workload_arrival(&options, options.n - 1)) < 1e-3);
    assert_true(now > 180 && now < 220);
    workload_destroy(workload);
}

/* One alone; then the streams; then each long one while all streams go on. */
static void long_prompts_come_one_by_one_beside_the_streams(void **state)
{
    (void)state;
    struct workload *workload = create(SCENARIO_LONGPREFILL, 1);
    struct record alone, stream[3], beside[2], none = {0};
    double wait_s;
    json_decref(body_of(workload, &alone));
    assert_true(alone.is_long && alone.is_alone);
    assert_false(workload_next(workload, 0, 1, &none, &wait_s));
    end(workload, &alone, "");
    for (int i = 0; i < 3; i++) {
        json_decref(body_of(workload, &stream[i]));
        assert_false(stream[i].is_long);
    }
    assert_false(workload_next(workload, 0, 3, &none, &wait_s));
    workload_progress(workload, 20);
    json_decref(body_of(workload, &beside[0]));
    assert_true(beside[0].is_long && !beside[0].is_alone);
    workload_progress(workload, 60);
    assert_false(workload_next(workload, 0, 4, &none, &wait_s));
    end(workload, &beside[0], "");
    assert_false(workload_next(workload, 0, 3, &none, &wait_s));
    workload_progress(workload, 80);
    json_t *body = body_of(workload, &beside[1]);
    assert_int_equal(json_integer_value(json_object_get(body, "max_tokens")), 1);
    json_decref(body);
    end(workload, &beside[1], "");
    workload_progress(workload, 200);
    assert_false(workload_next(workload, 0, 3, &none, &wait_s));
    for (int i = 0; i < 3; i++) {
        assert_false(workload_is_over(workload));
        end(workload, &stream[i], "");
    }
    assert_true(workload_is_over(workload));
    workload_destroy(workload);
}

static void lengths_stay_in_their_range_and_use_it(void **state)
{
    (void)state;
    struct workload_options options = base;
    struct workload *workload;
    options.n = 200;
    options.max_tokens_max = 16;
    options.is_chat = false;
    options.extra = "{\"cache_prompt\": false, \"temperature\": 1}";
    assert_int_equal(workload_create(&options, &workload, &err), SERVERD_OK);
    bool seen[17] = {false};
    for (uint32_t i = 0; i < options.n; i++) {
        struct record record;
        json_t *body = body_of(workload, &record);
        json_int_t n = json_integer_value(json_object_get(body, "max_tokens"));
        assert_true(n >= 8 && n <= 16);
        seen[n] = true;
        assert_true(json_is_string(json_object_get(body, "prompt")));
        assert_true(json_is_false(json_object_get(body, "cache_prompt")));
        assert_int_equal(json_integer_value(json_object_get(body, "temperature")), 1);
        json_decref(body);
        end(workload, &record, "");
    }
    assert_true(seen[8] && seen[12] && seen[16]);
    workload_destroy(workload);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    struct workload *workload = NULL;
    struct workload_options options = base;
    options.extra = "{";
    assert_int_equal(workload_create(&options, &workload, &err), SERVERD_INVALID);
    options.extra = "[]";
    assert_int_equal(workload_create(&options, &workload, &err), SERVERD_INVALID);
    options.extra = NULL;
    options.scenario = SCENARIO_FEWSHOT;
    options.preambles = options.questions = 1000000;
    assert_int_equal(workload_create(&options, &workload, &err), SERVERD_INVALID);
    assert_null(workload);
}

static void text_has_as_many_words_as_asked(void **state)
{
    (void)state;
    for (uint32_t n = 0; n < 40; n++) {
        struct buffer text;
        uint64_t state_of_text = n;
        uint32_t n_found = 0;
        buffer_init(&text, 4096);
        workload_text(&text, &state_of_text, n);
        for (const char *s = buffer_str(&text); *s; s++)
            n_found += s == buffer_str(&text) || s[-1] == ' ';
        assert_int_equal(n_found, n);
        buffer_deinit(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_seed_asks_the_same),
        cmocka_unit_test(distinct_prompts_differ_from_their_first_words),
        cmocka_unit_test(a_shared_preamble_is_the_same_and_the_question_is_not),
        cmocka_unit_test(fewshot_asks_every_question_of_every_preamble_once),
        cmocka_unit_test(a_turn_sends_the_history_with_the_answers),
        cmocka_unit_test(a_conversation_ends_with_its_first_failure),
        cmocka_unit_test(arrivals_ascend_at_the_mean_rate),
        cmocka_unit_test(long_prompts_come_one_by_one_beside_the_streams),
        cmocka_unit_test(lengths_stay_in_their_range_and_use_it),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(text_has_as_many_words_as_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
