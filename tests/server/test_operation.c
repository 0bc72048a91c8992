/* What operators do and ask while requests run: drain, forget the cache, load, configuration, and
 * the names of the model. */
#include "edge_fixture.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#define PATH    "/v1/completions"
#define SLOW    "null:min_token=10;step_us=5000"
#define TOKENS  "\nserverd_generated_tokens_total "
#define SLOWER  "null:min_token=10;step_us=400000"
#define SHORT   "{\"prompt\":[11,12],\"max_tokens\":8,\"ignore_eos\":true}"
#define PROMPT  "{\"prompt\":\"%s\",\"max_tokens\":2,\"ignore_eos\":true}"
#define STREAM  "{\"prompt\":\"x\",\"max_tokens\":60,\"ignore_eos\":true,\"stream\":true}"
#define ENDLESS "{\"prompt\":\"x\",\"max_tokens\":500,\"ignore_eos\":true,\"stream\":true}"

static int start(void **state)
{
    *state = edge_create(
        &(struct edge_setup){.device = SLOW, .options = {"max-queue=64", "model-alias=a, b/c,,d"}});
    return 0;
}

static int stop(void **state)
{
    edge_destroy(*state);
    return 0;
}

/* One request on its own connection; the whole reply. */
static char *ask(struct edge *edge, const char *method, const char *target, const char *body)
{
    char head[1024];
    int fd = client_connect(edge);
    (void)snprintf(head, sizeof head,
                   "%s %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %zu\r\n\r\n%s", method, target,
                   body ? "Content-Type: application/json\r\n" : "", body ? strlen(body) : 0,
                   body ? body : "");
    client_send_text(fd, head);
    char *reply = client_read_reply(fd, true);
    assert_non_null(reply);
    (void)close(fd);
    return reply;
}

static void check(struct edge *edge, const char *method, const char *target, const char *body,
                  int status, const char *text)
{
    char *reply = ask(edge, method, target, body);
    if (reply_status(reply) != status || (text && !strstr(reply, text)))
        fail_msg("%s %s: %s", method, target, reply);
    free(reply);
}

static json_t *ask_json(struct edge *edge, const char *target)
{
    char *reply = ask(edge, "GET", target, NULL);
    assert_int_equal(reply_status(reply), 200);
    json_t *root = json_loads(strstr(reply, "\r\n\r\n") + 4, 0, NULL);
    assert_non_null(root);
    free(reply);
    return root;
}

static int begin(struct edge *edge, const char *body)
{
    int fd = client_connect(edge);
    client_post(fd, PATH, "", body);
    return fd;
}

/* ---- drain ---------------------------------------------------------------------------------- */

static void a_drain_refuses_the_new_and_lets_the_running_end(void **state)
{
    struct edge *edge = *state;
    int fd = begin(edge, STREAM);
    assert_true(client_wait_for(fd, "data: "));
    check(edge, "POST", "/admin/drain", NULL, 200, "\"status\":\"draining\"");
    check(edge, "GET", "/ready", NULL, 503, "\"code\":\"draining\"");
    check(edge, "GET", "/health", NULL, 200, NULL);
    check(edge, "POST", PATH, SHORT, 503, "\"code\":\"draining\"");
    check(edge, "GET", "/v1/loads", NULL, 200, "\"num_running_reqs\":1");
    check(edge, "POST", "/admin/drain", "{\"timeout_s\":null}", 200, NULL); /* again is fine */
    assert_true(client_wait_for(fd, "data: [DONE]\n\n"));
    (void)close(fd);
    check(edge, "DELETE", "/admin/drain", NULL, 200, "\"status\":\"serving\"");
    check(edge, "GET", "/ready", NULL, 200, NULL);
    check(edge, "POST", PATH, SHORT, 200, NULL);
    edge_wait_idle(edge);
}

static void a_drain_sends_away_what_waits(void **state)
{
    struct edge *edge = *state;
    int running[EDGE_MAX_RUNNING];
    for (int i = 0; i < EDGE_MAX_RUNNING; i++)
        running[i] = begin(edge, ENDLESS);
    assert_true(edge_waits_for_running(edge, EDGE_MAX_RUNNING));
    int waiting = begin(edge, SHORT);
    struct engine_status status = {0};
    for (int i = 0; i < 1000 && status.n_waiting == 0; i++) {
        engine_status(edge->engine, &status);
        (void)usleep(2000);
    }
    assert_int_equal(status.n_waiting, 1);
    check(edge, "POST", "/admin/drain", "{\"timeout_s\":600}", 200, NULL);
    char *reply = client_read_reply(waiting, true);
    assert_int_equal(reply_status(reply), 503);
    assert_non_null(strstr(reply, "\"code\":\"draining\""));
    assert_non_null(strcasestr(reply, "\r\nretry-after-ms: "));
    free(reply);
    (void)close(waiting);
    for (int i = 0; i < EDGE_MAX_RUNNING; i++)
        (void)close(running[i]);
    edge_wait_idle(edge);
}

static void after_its_time_a_drain_ends_what_runs(void **state)
{
    struct edge *edge = *state;
    int stream = begin(edge, ENDLESS);
    assert_true(client_wait_for(stream, "data: "));
    int whole = begin(edge, "{\"prompt\":\"x\",\"max_tokens\":500,\"ignore_eos\":true}");
    assert_true(edge_waits_for_running(edge, 2));
    check(edge, "POST", "/admin/drain", "{\"timeout_s\":0.2}", 200, NULL);
    char *reply = client_read_all(stream);
    assert_non_null(strstr(reply, "\"code\":\"draining\""));
    assert_non_null(strstr(reply, "data: [DONE]\n\n"));
    free(reply);
    reply = client_read_reply(whole, true);
    assert_int_equal(reply_status(reply), 503);
    assert_non_null(strstr(reply, "\"code\":\"draining\""));
    free(reply);
    (void)close(stream);
    (void)close(whole);
    edge_wait_idle(edge);
    check(edge, "DELETE", "/admin/drain", NULL, 200, NULL);
    stream = begin(edge, STREAM);
    assert_true(client_wait_for(stream, "data: [DONE]\n\n"));
    (void)close(stream);
    edge_wait_idle(edge);
}

static void odd_drains_are_refused_and_change_nothing(void **state)
{
    struct edge *edge = *state;
    static const char *const bodies[] = {"{",
                                         "[]",
                                         "{\"timeout_s\":-1}",
                                         "{\"timeout_s\":\"5\"}",
                                         "{\"timeout_s\":86401}",
                                         "{\"timeout_s\":true}",
                                         "{\"timeout_s\":1e999}"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        check(edge, "POST", "/admin/drain", bodies[i], 400, NULL);
    check(edge, "GET", "/admin/drain", NULL, 405, NULL);
    check(edge, "GET", "/ready", NULL, 200, NULL);
    check(edge, "DELETE", "/admin/drain", NULL, 200, NULL); /* of none */
}

/* A page of some site that the operator looks at must not reach these routes through the browser:
 * such a request needs no leave of the server if it has no body. */
static void pages_of_other_sites_are_no_operators(void **state)
{
    (void)state;
    static const struct {
        const char *headers;
        int status;
    } rows[] = {{"", 200},
                {"Sec-Fetch-Site: none\r\n", 200},
                {"Origin: https://a.example\r\n", 200},
                {"Origin: https://a.example\r\nSec-Fetch-Site: cross-site\r\n", 200},
                {"Origin: https://evil.example\r\n", 403},
                {"Origin: null\r\n", 403},
                {"Sec-Fetch-Site: cross-site\r\n", 403},
                {"Sec-Fetch-Site: same-site\r\n", 403}};
    static const char *const lines[] = {
        "POST /admin/drain HTTP/1.1\r\nContent-Length: 0\r\n", "DELETE /admin/drain HTTP/1.1\r\n",
        "GET /flush_cache HTTP/1.1\r\n", "GET /server_info HTTP/1.1\r\n"};
    struct edge *edge =
        edge_create(&(struct edge_setup){.options = {"cors-origins=https://a.example"}});
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t line = 0; line < sizeof lines / sizeof *lines; line++) {
            char head[512];
            (void)snprintf(head, sizeof head, "%sHost: x\r\nConnection: close\r\n%s\r\n",
                           lines[line], rows[i].headers);
            int fd = client_connect(edge);
            client_send_text(fd, head);
            char *reply = client_read_reply(fd, true);
            if (reply_status(reply) != rows[i].status)
                fail_msg("%s", head);
            free(reply);
            (void)close(fd);
        }
    edge_destroy(edge);
}

static void drains_under_load_lose_no_request(void **state)
{
    struct edge *edge = *state;
    enum { N = 24 };
    int fds[N], n_whole = 0;
    for (int round = 0; round < 6; round++) {
        for (int i = 0; i < N; i++) {
            fds[i] = begin(edge, SHORT);
            if (i == N / 2)
                check(edge, "POST", "/admin/drain", "{\"timeout_s\":60}", 200, NULL);
            if (i == N / 2 + round)
                check(edge, "DELETE", "/admin/drain", NULL, 200, NULL);
        }
        for (int i = 0; i < N; i++) {
            char *reply = client_read_reply(fds[i], true);
            const int status = reply_status(reply);
            if (status != 200 && status != 503)
                fail_msg("round %d: %s", round, reply ? reply : "no reply");
            n_whole += status == 200;
            free(reply);
            (void)close(fds[i]);
        }
    }
    assert_true(n_whole > N);
    edge_wait_idle(edge);
}

static void a_drain_while_loading_holds_until_it_is_taken_back(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){.is_loading = true});
    check(edge, "POST", "/admin/drain", NULL, 200, "\"num_running_reqs\":0");
    edge_publish(edge);
    check(edge, "GET", "/ready", NULL, 503, "\"code\":\"draining\"");
    check(edge, "POST", PATH, SHORT, 503, "\"code\":\"draining\"");
    check(edge, "GET", "/v1/loads", NULL, 200, NULL);
    check(edge, "DELETE", "/admin/drain", NULL, 200, NULL);
    check(edge, "POST", PATH, SHORT, 200, NULL);
    edge_destroy(edge);
}

/* ---- the cache ------------------------------------------------------------------------------ */

static long n_cached(struct edge *edge)
{
    char body[512], prompt[257];
    memset(prompt, 'x', 256);
    prompt[256] = '\0';
    (void)snprintf(body, sizeof body, PROMPT, prompt);
    char *reply = ask(edge, "POST", PATH, body);
    const char *at = strstr(reply, "\"cached_tokens\":");
    assert_non_null(at);
    const long n = strtol(at + strlen("\"cached_tokens\":"), NULL, 10);
    free(reply);
    return n;
}

static void a_flush_makes_the_cache_cold(void **state)
{
    static const char *const paths[] = {"/flush_cache", "/reset_prefix_cache"};
    static const char *const methods[] = {"GET", "POST"};
    for (size_t i = 0; i < 4; i++) {
        (void)n_cached(*state);
        assert_true(n_cached(*state) > 0);
        check(*state, methods[i % 2], paths[i / 2], NULL, 200, "\"success\":true");
        assert_int_equal(n_cached(*state), 0);
    }
}

static void a_patient_flush_is_busy_if_requests_run_on(void **state)
{
    struct edge *edge = *state;
    (void)n_cached(edge);
    int fd = begin(edge, ENDLESS);
    assert_true(client_wait_for(fd, "data: "));
    int flush = client_connect(edge);
    client_send_text(flush, "GET /flush_cache?timeout=30 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_false(client_is_closed(flush, 50));
    edge_advance(edge, 31);
    char *reply = client_read_reply(flush, true);
    assert_int_equal(reply_status(reply), 400);
    assert_non_null(strstr(reply, "\"code\":\"busy\""));
    assert_non_null(strcasestr(reply, "\r\nx-should-retry: false\r\n"));
    free(reply);
    client_send_text(flush, "POST /flush_cache?timeout=60 HTTP/1.1\r\nHost: x\r\n\r\n");
    (void)close(fd); /* now it gets idle */
    reply = client_read_reply(flush, true);
    assert_int_equal(reply_status(reply), 200);
    free(reply);
    (void)close(flush);
    assert_int_equal(n_cached(edge), 0);
    check(edge, "GET", "/flush_cache?timeout=x", NULL, 400, "timeout");
    check(edge, "GET", "/flush_cache?timeout=3601", NULL, 400, "timeout");
    edge_wait_idle(edge);
}

/* ---- what is asked -------------------------------------------------------------------------- */

static double number(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    if (!json_is_number(value))
        fail_msg("%s is no number", name);
    return json_number_value(value);
}

static void loads_say_what_runs(void **state)
{
    struct edge *edge = *state;
    (void)n_cached(edge);
    (void)n_cached(edge);
    int fd = begin(edge, ENDLESS);
    assert_true(client_wait_for(fd, "data: "));
    json_t *root = ask_json(edge, "/v1/loads");
    const json_t *load = json_array_get(json_object_get(root, "loads"), 0);
    assert_string_equal(json_string_value(json_object_get(load, "model")), "tiny");
    assert_true(number(load, "num_running_reqs") == 1);
    assert_true(number(load, "num_waiting_reqs") == 0);
    assert_true(number(load, "waiting_tokens") == 0);
    assert_true(number(load, "token_usage") > 0 && number(load, "token_usage") < 1);
    assert_true(number(load, "gen_throughput") >= 0);
    assert_true(number(load, "cache_hit_rate") > 0 && number(load, "cache_hit_rate") < 1);
    assert_true(number(root, "timestamp") == 1700000000);
    json_decref(root);
    (void)close(fd);
    edge_wait_idle(edge);
}

static void slots_show_what_runs(void **state)
{
    struct edge *edge = *state;
    int fd = begin(edge, ENDLESS);
    assert_true(client_wait_for(fd, "data: "));
    json_t *root = ask_json(edge, "/slots");
    const json_t *first = json_array_get(root, 0), *second = json_array_get(root, 1);
    assert_int_equal(json_array_size(root), 16); /* --max-running */
    assert_true(json_is_true(json_object_get(first, "is_processing")));
    assert_true(number(first, "n_prompt_tokens") >= 1);
    assert_true(number(json_object_get(first, "next_token"), "n_decoded") >= 1);
    assert_true(json_is_false(json_object_get(second, "is_processing")));
    json_decref(root);
    (void)close(fd);
    edge_wait_idle(edge);
    root = ask_json(edge, "/slots");
    assert_true(json_is_false(json_object_get(json_array_get(root, 0), "is_processing")));
    json_decref(root);
}

static void properties_have_the_settings_that_requests_get(void **state)
{
    json_t *root = ask_json(*state, "/props");
    const json_t *settings = json_object_get(root, "default_generation_settings");
    const json_t *params = json_object_get(settings, "params");
    assert_true(number(settings, "n_ctx") == EDGE_CONTEXT);
    assert_true(number(params, "temperature") == 0.8 && number(params, "seed") == -1);
    assert_true(number(root, "total_slots") == 16);
    assert_true(json_is_string(json_object_get(root, "chat_template")));
    json_decref(root);
}

static void a_grammar_is_compiled_once_and_timed(void **state)
{
    struct edge *edge = *state;
    for (int i = 0; i < 2; i++)
        check(edge, "POST", "/v1/completions",
              "{\"prompt\":\"x\",\"max_tokens\":4,\"regex\":\"[ab]{9}\"}", 200, "\"text\":\"");
    assert_true(edge_metric(edge, "serverd_grammar_compile_time_seconds_count ") == 1);
    assert_true(edge_metric(edge, "serverd_grammar_compiles_total{result=\"ok\"} ") == 1);
    assert_true(edge_metric(edge, "serverd_grammar_waiting ") == 0);
}

static void a_probe_gets_a_real_token(void **state)
{
    struct edge *edge = *state;
    const double before = edge_metric(edge, TOKENS);
    check(edge, "GET", "/health_generate", NULL, 200, "{\"status\":\"ok\"}");
    assert_true(edge_metric(edge, TOKENS) == before + 1);
    check(edge, "GET", "/health_generate", NULL, 200, "{\"status\":\"ok\"}");
    assert_true(edge_metric(edge, TOKENS) == before + 2);
}

/* A probe that waits for the engine, which has a long step to do first. */
static int begin_probe(struct edge *edge, int *running)
{
    *running = begin(edge, ENDLESS);
    assert_true(edge_waits_for_running(edge, 1));
    int probe = client_connect(edge);
    client_send_text(probe, "GET /health_generate HTTP/1.1\r\nHost: x\r\n\r\n");
    (void)usleep(50000);
    return probe;
}

static void probes_do_not_pile_up(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){.device = SLOWER});
    int running, probe = begin_probe(edge, &running);
    for (int i = 0; i < 20; i++)
        check(edge, "GET", "/health_generate", NULL, 200, "ok"); /* by the heartbeat */
    struct pollfd silent = {.fd = probe, .events = POLLIN};
    assert_int_equal(poll(&silent, 1, 0), 0);
    char *reply = client_read_reply(probe, true);
    assert_int_equal(reply_status(reply), 200);
    free(reply);
    (void)close(running);
    (void)close(probe);
    edge_wait_idle(edge);
    edge_destroy(edge);
}

static void a_probe_that_takes_too_long_fails(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){.device = SLOWER});
    int running, probe = begin_probe(edge, &running);
    edge_advance(edge, 21);
    char *reply = client_read_reply(probe, true);
    assert_int_equal(reply_status(reply), 504);
    free(reply);
    (void)close(running);
    (void)close(probe);
    edge_wait_idle(edge);
    edge_destroy(edge);
}

static void dashboards_of_others_find_their_names_if_they_are_wanted(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){.options = {"metrics-compat=true"}});
    check(edge, "GET", "/metrics", NULL, 200, "\nvllm:num_requests_running{model_name=\"tiny\"} 0");
    check(edge, "GET", "/metrics", NULL, 200,
          "\nvllm:lora_requests_info{model_name=\"tiny\",max_lora=\"8\",running_lora_adapters=\"\","
          "waiting_lora_adapters=\"\"} 1700000000\n");
    edge_destroy(edge);
    edge = edge_create(&(struct edge_setup){0});
    char *reply = ask(edge, "GET", "/metrics", NULL);
    assert_null(strstr(reply, "vllm:"));
    free(reply);
    edge_destroy(edge);
}

static void the_configuration_is_told_with_its_reasons(void **state)
{
    json_t *root = ask_json(*state, "/get_server_info"), *again = ask_json(*state, "/server_info");
    assert_true(json_equal(root, again));
    assert_true(number(root, "page_size") == 16);
    assert_true(number(root, "max_total_num_tokens") >= EDGE_CONTEXT);
    const json_t *option = json_object_get(json_object_get(root, "options"), "max-queue");
    assert_true(number(option, "value") == 64);
    assert_string_equal(json_string_value(json_object_get(option, "reason")), "command line");
    option = json_object_get(json_object_get(root, "options"), "host");
    assert_string_equal(json_string_value(json_object_get(option, "value")), "127.0.0.1");
    assert_string_equal(json_string_value(json_object_get(option, "reason")), "default");
    const json_t *states = json_object_get(root, "internal_states");
    assert_true(json_is_null(
        json_object_get(json_array_get(states, 0), "avg_spec_accept_length"))); /* no guesses */
    json_decref(root);
    json_decref(again);
}

static void model_and_tokenizer_introduce_themselves(void **state)
{
    json_t *root = ask_json(*state, "/model_info"), *again = ask_json(*state, "/get_model_info");
    assert_true(json_equal(root, again));
    assert_string_equal(json_string_value(json_object_get(root, "served_model_name")), "tiny");
    assert_true(json_is_true(json_object_get(root, "is_generation")));
    json_decref(root);
    json_decref(again);
    root = ask_json(*state, "/tokenizer_info");
    static const char *const names[] = {
        "tokenizer_class", "model_max_length", "vocab_size",    "bos_token",           "eos_token",
        "pad_token",       "unk_token",        "chat_template", "added_tokens_decoder"};
    assert_int_equal(json_object_size(root), sizeof names / sizeof *names);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_non_null(json_object_get(root, names[i]));
    assert_true(number(root, "model_max_length") == EDGE_CONTEXT);
    assert_string_equal(json_string_value(json_object_get(root, "eos_token")), "<|im_end|>");
    json_decref(root);
}

static void aliases_name_the_model(void **state)
{
    static const char *const good[] = {"tiny", "a", "b/c", "d", "default", ""};
    static const char *const bad[] = {"b", "a,", "a, b/c", ",", " ", "tin"};
    char body[256];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        (void)snprintf(body, sizeof body, "{\"model\":\"%s\",\"prompt\":\"x\",\"max_tokens\":1}",
                       good[i]);
        check(*state, "POST", PATH, body, 200, "\"model\":\"tiny\"");
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        (void)snprintf(body, sizeof body, "{\"model\":\"%s\",\"prompt\":\"x\",\"max_tokens\":1}",
                       bad[i]);
        check(*state, "POST", PATH, body, 404, "model_not_found");
    }
    check(*state, "GET", "/v1/models/b%2Fc", NULL, 200, "{\"id\":\"b/c\",");
    check(*state, "GET", "/v1/models/default", NULL, 200, "{\"id\":\"tiny\",");
    json_t *root = ask_json(*state, "/v1/models");
    const json_t *data = json_object_get(root, "data");
    assert_int_equal(json_array_size(data), 4);
    for (size_t i = 0; i < 4; i++) {
        const json_t *model = json_array_get(data, i);
        assert_string_equal(json_string_value(json_object_get(model, "id")), good[i]);
        assert_string_equal(json_string_value(json_object_get(model, "root")), "tiny");
    }
    json_decref(root);
    static const char anthropic[] =
        "GET /v1/models HTTP/1.0\r\nHost: x\r\nanthropic-version: 1\r\n\r\n";
    char *reply = client_talk(*state, anthropic, sizeof anthropic - 1);
    assert_non_null(strstr(reply, "\"first_id\":\"tiny\",\"last_id\":\"d\"}"));
    free(reply);
}

#define FACT(f) cmocka_unit_test_setup_teardown(f, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FACT(a_drain_refuses_the_new_and_lets_the_running_end),
        FACT(a_drain_sends_away_what_waits),
        FACT(after_its_time_a_drain_ends_what_runs),
        FACT(odd_drains_are_refused_and_change_nothing),
        cmocka_unit_test(a_drain_while_loading_holds_until_it_is_taken_back),
        cmocka_unit_test(pages_of_other_sites_are_no_operators),
        FACT(drains_under_load_lose_no_request),
        FACT(a_flush_makes_the_cache_cold),
        FACT(a_patient_flush_is_busy_if_requests_run_on),
        FACT(loads_say_what_runs),
        FACT(slots_show_what_runs),
        FACT(properties_have_the_settings_that_requests_get),
        FACT(a_grammar_is_compiled_once_and_timed),
        FACT(a_probe_gets_a_real_token),
        cmocka_unit_test(probes_do_not_pile_up),
        cmocka_unit_test(a_probe_that_takes_too_long_fails),
        cmocka_unit_test(dashboards_of_others_find_their_names_if_they_are_wanted),
        FACT(the_configuration_is_told_with_its_reasons),
        FACT(model_and_tokenizer_introduce_themselves),
        FACT(aliases_name_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
