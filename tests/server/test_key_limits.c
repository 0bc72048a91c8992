/* What a key may do: its scopes on every route, and its requests and tokens a minute. */
#include "base/buffer.h"
#include "base/limits.h"
#include "edge_fixture.h"
#include "server/rate_limit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define PATH   "/v1/completions"
#define TEN    "{\"prompt\":[11,12],\"max_tokens\":8,\"ignore_eos\":true}" /* 10 tokens */
#define STREAM "{\"prompt\":[11,12],\"max_tokens\":48,\"ignore_eos\":true,\"stream\":true}"

/* Its ignored fields make the longest header. */
#define FIELD(c) "\"" c c c c c c c c c c c c c c c c "\":0,"
#define FIELDS                                                                                     \
    FIELD("aaaa")                                                                                  \
    FIELD("bbbb")                                                                                  \
    FIELD("cccc")                                                                                  \
    FIELD("dddd")                                                                                  \
    FIELD("eeee")                                                                                  \
    FIELD("ffff")                                                                                  \
    FIELD("gggg")                                                                                  \
    FIELD("hhhh") FIELD("iiii") FIELD("jjjj") FIELD("kkkk") FIELD("llll") FIELD("mmmm")
#define MANY_UNKNOWN "{" FIELDS "\"prompt\":[11],\"max_tokens\":1}"

#define MS UINT64_C(1000000)
#define S  (1000 * MS)

/* ---- token buckets, in virtual time --------------------------------------------------------- */

static struct rate_limit *limit_of(uint32_t requests, uint32_t tokens)
{
    struct rate_limit *limit = rate_limit_create();
    assert_non_null(limit);
    rate_limit_set(limit, (const uint32_t[N_RATES]){requests, tokens}, 5 * S);
    return limit;
}

static bool take(struct rate_limit *limit, enum rate rate, uint64_t amount, uint64_t now,
                 uint32_t *wait_ms)
{
    uint64_t taken;
    bool is_there = rate_limit_take(limit, rate, amount, now, &taken, wait_ms);
    if (is_there)
        assert_true(taken <= amount);
    return is_there;
}

static void a_minute_may_come_at_once_and_then_the_rate(void **state)
{
    (void)state;
    uint32_t wait;
    struct rate_limit *limit = limit_of(6, 0);
    for (int i = 0; i < 6; i++)
        assert_true(take(limit, RATE_REQUESTS, 1, 5 * S, &wait));
    assert_false(take(limit, RATE_REQUESTS, 1, 5 * S, &wait));
    assert_int_equal(wait, 10000);
    assert_false(take(limit, RATE_REQUESTS, 1, 14 * S, &wait));
    assert_int_equal(wait, 1000);
    assert_true(take(limit, RATE_REQUESTS, 1, 15 * S, &wait));
    assert_false(take(limit, RATE_REQUESTS, 1, 15 * S, &wait));
    assert_true(take(limit, RATE_TOKENS, 1000000, 15 * S, &wait)); /* they have no limit */
    struct rate_state state_then = rate_limit_state(limit, RATE_REQUESTS, 15 * S);
    assert_int_equal(state_then.n_left, 0);
    assert_int_equal(state_then.full_in_seconds, 60);
    state_then = rate_limit_state(limit, RATE_REQUESTS, 1000 * S);
    assert_int_equal(state_then.n_left, 6);
    assert_int_equal(state_then.full_in_seconds, 0);
    rate_limit_unref(limit);
}

static void more_than_a_minute_holds_needs_a_full_bucket_and_is_owed(void **state)
{
    (void)state;
    uint32_t wait;
    uint64_t taken, now = 5 * S;
    struct rate_limit *limit = limit_of(0, 60);
    assert_true(take(limit, RATE_TOKENS, 1, now, &wait));
    assert_false(rate_limit_take(limit, RATE_TOKENS, 500, now, &taken, &wait));
    assert_int_equal(wait, 1000);
    now += 1 * S;
    assert_true(rate_limit_take(limit, RATE_TOKENS, 500, now, &taken, &wait));
    assert_int_equal(taken, 60);
    rate_limit_settle(limit, RATE_TOKENS, taken, 180, now); /* 120 more than there were */
    assert_int_equal(rate_limit_state(limit, RATE_TOKENS, now).full_in_seconds, 180);
    assert_false(take(limit, RATE_TOKENS, 1, now + 120 * S, &wait));
    assert_true(take(limit, RATE_TOKENS, 1, now + 121 * S, &wait));
    rate_limit_unref(limit);
}

static void other_limits_keep_what_was_used(void **state)
{
    (void)state;
    uint32_t wait;
    struct rate_limit *limit = limit_of(10, 100);
    assert_true(take(limit, RATE_REQUESTS, 8, 5 * S, &wait));
    rate_limit_set(limit, (const uint32_t[N_RATES]){20, 0}, 5 * S);
    assert_int_equal(rate_limit_state(limit, RATE_REQUESTS, 5 * S).n_left, 12);
    assert_int_equal(rate_limit_state(limit, RATE_TOKENS, 5 * S).per_minute, 0);
    rate_limit_set(limit, (const uint32_t[N_RATES]){4, 100}, 5 * S);
    assert_int_equal(rate_limit_state(limit, RATE_REQUESTS, 5 * S).n_left, 0);
    assert_false(take(limit, RATE_REQUESTS, 1, 5 * S, &wait));
    assert_int_equal(rate_limit_state(limit, RATE_TOKENS, 5 * S).n_left, 100);
    rate_limit_unref(limit);
}

static uint64_t draw(uint64_t *seed, uint64_t below)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (*seed >> 33) % below;
}

/* Over random requests: the forecast is right, and the long run stays below the limit. */
static void run_random(uint64_t seed)
{
    const uint64_t begin = 5 * S;
    const uint32_t per_minute = 1 + (uint32_t)draw(&seed, 5000);
    struct rate_limit *limit = limit_of(0, per_minute);
    uint64_t now = begin, used_in_all = 0, most_owed = 0;
    for (int i = 0; i < 500; i++) {
        uint64_t taken, amount = draw(&seed, 2 * per_minute + 1);
        uint32_t wait;
        now += draw(&seed, 20 * S);
        if (!rate_limit_take(limit, RATE_TOKENS, amount, now, &taken, &wait)) {
            uint32_t shorter;
            assert_in_range(wait, 50, 60000);
            if (wait == 60000) /* may be longer */
                continue;
            if (wait > 50)
                assert_false(rate_limit_take(limit, RATE_TOKENS, amount, now + (wait - 2) * MS,
                                             &taken, &shorter));
            now += wait * MS;
            if (!rate_limit_take(limit, RATE_TOKENS, amount, now, &taken, &shorter))
                fail_msg("seed %llu: not after %u ms", (unsigned long long)seed, wait);
        }
        const uint64_t used = draw(&seed, amount + 1);
        rate_limit_settle(limit, RATE_TOKENS, taken, used, now);
        used_in_all += used;
        most_owed = used > taken && used - taken > most_owed ? used - taken : most_owed;
        const double allowed = per_minute * (1.0 + (double)(now - begin) / (60.0 * S));
        assert_true((double)used_in_all <= allowed + (double)most_owed + 1.0);
    }
    rate_limit_unref(limit);
}

static void random_requests_stay_below_the_limit(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++)
        run_random(seed);
}

/* ---- scopes --------------------------------------------------------------------------------- */

enum { PUBLIC, ANY_KEY, INFER, EMBED, BATCH, PROGRAMS, PROGRAMS_WRITE, METRICS, ADMIN, N_SCOPES };
enum { NEEDS_MODEL, JSON_BODY }; /* flags say nothing here */

static const struct {
    const char *method, *path;
    int scope;
} routes[] = {
#define GET                                        "GET"
#define DELETE                                     "DELETE"
#define POST                                       "POST"
#define PUT                                        "PUT"
#define ROUTE(method, path, handler, scope, flags) {method, path, scope},
#include "server/routes.def"
#undef ROUTE
#undef GET
#undef DELETE
#undef POST
#undef PUT
};

/* Administrators may change programs. */
#define KEYS                                                                                       \
    "k2 scope=infer\nk3 scope=embed\nk4 scope=batch\nk5 scope=programs\n"                          \
    "k6 scope=programs:write\nk7 scope=metrics\nk8 scope=admin\n"                                  \
    "rest2 scope=embed,batch,programs,programs:write,metrics,admin\n"                              \
    "rest3 scope=infer,batch,programs,programs:write,metrics,admin\n"                              \
    "rest4 scope=infer,embed,programs,programs:write,metrics,admin\n"                              \
    "rest5 scope=infer,embed,batch,programs:write,metrics,admin\n"                                 \
    "rest6 scope=infer,embed,batch,programs,metrics\n"                                             \
    "rest7 scope=infer,embed,batch,programs,programs:write,admin\n"                                \
    "rest8 scope=infer,embed,batch,programs,programs:write,metrics\nplain\nboss admin\n"

static int status_of(struct edge *edge, const char *method, const char *path, const char *key)
{
    char head[512];
    const bool has_body = method[0] == 'P'; /* POST, PUT */
    (void)snprintf(head, sizeof head,
                   "%s %s HTTP/1.1\r\nHost: x\r\n%s%s%s%sConnection: close\r\n\r\n%s", method, path,
                   key ? "x-api-key: " : "", key ? key : "", key ? "\r\n" : "",
                   has_body ? "Content-Type: application/json\r\nContent-Length: 1\r\n" : "",
                   has_body ? "{" : "");
    return client_status(edge, head);
}

static void check_route(struct edge *edge, const char *method, const char *path, int scope)
{
    static const char *const rest[] = {
        [INFER] = "rest2",          [EMBED] = "rest3",   [BATCH] = "rest4", [PROGRAMS] = "rest5",
        [PROGRAMS_WRITE] = "rest6", [METRICS] = "rest7", [ADMIN] = "rest8"};
    char key[8];
    if (scope == PUBLIC) {
        assert_int_not_equal(status_of(edge, method, path, NULL), 401);
        return;
    }
    assert_int_equal(status_of(edge, method, path, NULL), 401);
    assert_int_equal(status_of(edge, method, path, "wrong"), 401);
    for (int other = INFER; other < N_SCOPES; other++) {
        (void)snprintf(key, sizeof key, "k%d", other);
        const int status = status_of(edge, method, path, key);
        if (scope == ANY_KEY || scope == other || (scope == PROGRAMS_WRITE && other == ADMIN))
            assert_true(status != 401 && status != 403);
        else
            assert_int_equal(status, 403);
    }
    if (scope != ANY_KEY)
        assert_int_equal(status_of(edge, method, path, rest[scope]), 403);
    const int plain = status_of(edge, method, path, "plain");
    const bool is_for_few = scope == ADMIN || scope == PROGRAMS_WRITE;
    assert_true(is_for_few ? plain == 403 : plain != 401 && plain != 403);
    const int boss = status_of(edge, method, path, "boss");
    assert_true(boss != 401 && boss != 403);
}

static void every_route_is_for_keys_of_its_scope(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){.keys = KEYS});
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        char path[128], alias[144];
        const size_t n = strcspn(routes[i].path, "{");
        (void)snprintf(path, sizeof path, "%.*s%s", (int)n, routes[i].path,
                       routes[i].path[n] ? "tiny" : "");
        check_route(edge, routes[i].method, path, routes[i].scope);
        if (strncmp(path, "/v1/", 4) != 0)
            continue;
        check_route(edge, routes[i].method, path + 3, routes[i].scope);
        (void)snprintf(alias, sizeof alias, "/v3%s/", path + 3);
        check_route(edge, routes[i].method, alias, routes[i].scope);
    }
    edge_destroy(edge);
}

static void odd_properties_are_refused(void **state)
{
    (void)state;
    static const char *const broken[] = {
        "k scope=",      "k scope=infer,",   "k scope=,infer", "k scope=root",
        "k scope=Infer", "k scope=inferx",   "k rpm=0",        "k rpm=",
        "k rpm=-1",      "k tpm=1000000001", "k tpm=1e3",      "k tpm=99999999999999999999999",
        "k rpm=1 tpm",   "k admin=1",        "k scope infer",  "k name="};
    serverd_error err;
    struct edge *edge = edge_create(&(struct edge_setup){.keys = "k\n"});
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        edge_write_keys(edge, broken[i]);
        if (server_reload_keys(edge->server, &err) == SERVERD_OK)
            fail_msg("%s is taken", broken[i]);
        assert_null(strstr(err.text, "k scope"));
    }
    edge_write_keys(edge, "k name=a scope=infer,admin rpm=1000000000 tpm=1 weight=3\n");
    assert_int_equal(server_reload_keys(edge->server, &err), SERVERD_OK);
    edge_destroy(edge);
}

/* Whatever stands in a file: it is read or refused, and a key that was good stays it. */
static void random_key_files_harm_nothing(void **state)
{
    (void)state;
    static const char *const words[] = {"k",      "name=", "scope=",      "infer",   ",",
                                        "embed",  "rpm=",  "tpm=",        "weight=", "admin",
                                        "\n",     " ",     "\t",          "\r",      "#",
                                        "0",      "7",     "99999999999", "=",       "scope=infer",
                                        "name=a", "\xff",  "\x01",        "rpm=5",   "tpm=10",
                                        "-1",     "\n\n"};
    serverd_error err;
    uint64_t seed = 7;
    int n_good = 0;
    struct edge *edge = edge_create(&(struct edge_setup){.keys = "k\n"});
    for (int round = 0; round < 3000; round++) {
        struct buffer file;
        buffer_init(&file, 64 * KIB);
        for (uint64_t n = draw(&seed, 12); n > 0; n--)
            buffer_append_str(&file, words[draw(&seed, sizeof words / sizeof *words)]);
        edge_write_keys(edge, buffer_str(&file));
        const uint32_t n_before = server_n_keys(edge->server);
        if (server_reload_keys(edge->server, &err) == SERVERD_OK)
            n_good++;
        else
            assert_int_equal(server_n_keys(edge->server), n_before);
        assert_true(server_n_keys(edge->server) > 0);
        buffer_deinit(&file);
    }
    assert_in_range(n_good, 100, 2900); /* both happen */
    edge_write_keys(edge, "k\n");
    assert_int_equal(server_reload_keys(edge->server, &err), SERVERD_OK);
    check_route(edge, "GET", "/health", PUBLIC);
    assert_int_equal(status_of(edge, "GET", "/v1/models", "k"), 200);
    edge_destroy(edge);
}

/* ---- limits --------------------------------------------------------------------------------- */

static char *ask(struct edge *edge, const char *key, const char *body)
{
    char headers[128];
    (void)snprintf(headers, sizeof headers, "x-api-key: %s\r\n", key);
    int fd = client_connect(edge);
    client_post(fd, PATH, headers, body);
    char *reply = client_read_reply(fd, true);
    assert_non_null(reply);
    (void)close(fd);
    return reply;
}

/* A number behind a header; -1: it is not there. */
static long header(const char *reply, const char *name)
{
    char line[64];
    (void)snprintf(line, sizeof line, "\r\n%s: ", name);
    const char *end = strstr(reply, "\r\n\r\n"), *at = strcasestr(reply, line);
    return at && end && at < end ? strtol(at + strlen(line), NULL, 10) : -1;
}

static void check_status(struct edge *edge, const char *key, const char *body, int status)
{
    char *reply = ask(edge, key, body);
    if (reply_status(reply) != status)
        fail_msg("%s", reply);
    free(reply);
}

static void requests_over_the_rate_get_429_until_there_is_room(void **state)
{
    (void)state;
    struct edge *edge =
        edge_create(&(struct edge_setup){.keys = "a rpm=2 name=anna\nb rpm=2\nfree\n"});
    char *reply = ask(edge, "a", TEN);
    assert_int_equal(header(reply, "x-ratelimit-limit-requests"), 2);
    assert_int_equal(header(reply, "x-ratelimit-remaining-requests"), 1);
    assert_in_range(header(reply, "x-ratelimit-reset-requests"), 28, 30);
    assert_int_equal(header(reply, "x-ratelimit-limit-tokens"), -1);
    free(reply);
    check_status(edge, "a", "{", 400); /* counts, too */
    reply = ask(edge, "a", TEN);
    assert_int_equal(reply_status(reply), 429);
    assert_non_null(strstr(reply, "\"code\":\"rate_limit_exceeded\""));
    assert_non_null(strstr(reply, "\"type\":\"rate_limit_error\""));
    assert_non_null(strstr(reply, "Please try again in "));
    assert_in_range(header(reply, "retry-after-ms"), 20000, 30000);
    assert_in_range(header(reply, "retry-after"), 20, 30);
    assert_non_null(strcasestr(reply, "x-should-retry: true"));
    assert_int_equal(header(reply, "x-ratelimit-remaining-requests"), 0);
    free(reply);
    check_status(edge, "b", TEN, 200); /* has a limit of its own */
    for (int i = 0; i < 5; i++)
        assert_int_equal(status_of(edge, "GET", "/v1/models", "a"), 200); /* costs nothing */
    reply = ask(edge, "free", TEN);
    assert_int_equal(reply_status(reply), 200);
    assert_null(strcasestr(reply, "x-ratelimit"));
    free(reply);
    edge_advance(edge, 31);
    check_status(edge, "a", TEN, 200);
    check_status(edge, "a", TEN, 429);
    assert_true(edge_metric(edge, "{key=\"anna\",limit=\"requests\"} ") == 2);
    edge_destroy(edge);
}

static void a_response_in_the_background_is_one_request(void **state)
{
    (void)state;
    struct edge *edge = edge_create(
        &(struct edge_setup){.keys = "a rpm=10\n", .chat_template = "{{ messages[0].content }}"});
    int fd = client_connect(edge);
    client_post(fd, "/v1/responses", "x-api-key: a\r\n",
                "{\"input\":\"x\",\"background\":true,\"max_output_tokens\":2}");
    char *reply = client_read_reply(fd, true);
    assert_int_equal(reply_status(reply), 200);
    free(reply);
    (void)close(fd);
    edge_wait_idle(edge);
    reply = ask(edge, "a", TEN);
    assert_int_equal(header(reply, "x-ratelimit-remaining-requests"), 8);
    free(reply);
    edge_destroy(edge);
}

static void tokens_are_reserved_and_settled_by_what_was_used(void **state)
{
    (void)state;
    struct edge *edge = edge_create(
        &(struct edge_setup){.device = "null:min_token=10;step_us=5000", .keys = "a tpm=60\n"});
    char *reply = ask(edge, "a", TEN);
    assert_int_equal(reply_status(reply), 200);
    assert_int_equal(header(reply, "x-ratelimit-limit-tokens"), 60);
    assert_in_range(header(reply, "x-ratelimit-remaining-tokens"), 50, 52);
    free(reply);
    int fd = client_connect(edge);
    client_post(fd, PATH, "x-api-key: a\r\n", STREAM); /* 50 more */
    assert_true(client_wait_for(fd, "data: "));
    reply = ask(edge, "a", TEN);
    assert_int_equal(reply_status(reply), 429);
    assert_non_null(strstr(reply, "tokens per minute"));
    assert_in_range(header(reply, "x-ratelimit-remaining-tokens"), 0, 5);
    free(reply);
    (void)close(fd); /* what was not generated is given back */
    edge_wait_idle(edge);
    check_status(edge, "a", TEN, 200);
    edge_destroy(edge);
}

static void what_is_refused_costs_no_tokens(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){.keys = "a tpm=60\n"});
    for (int i = 0; i < 20; i++) {
        check_status(edge, "a", "{\"prompt\":[11],\"max_tokens\":\"x\"}", 400);
        check_status(edge, "a", "{\"prompt\":[11,99999999],\"max_tokens\":50}", 400);
    }
    check_status(edge, "a", STREAM, 200);
    edge_destroy(edge);
}

static void a_prompt_for_more_than_a_minute_waits_for_a_full_one(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){.keys = "a tpm=5\n"});
    check_status(edge, "a", TEN, 200); /* owes 5 now */
    check_status(edge, "a", TEN, 429);
    edge_advance(edge, 100);
    check_status(edge, "a", TEN, 429);
    edge_advance(edge, 25);
    check_status(edge, "a", TEN, 200);
    edge_destroy(edge);
}

static void limits_outlive_a_reload(void **state)
{
    (void)state;
    serverd_error err;
    struct edge *edge = edge_create(&(struct edge_setup){.keys = "a rpm=2\n"});
    check_status(edge, "a", TEN, 200);
    check_status(edge, "a", TEN, 200);
    edge_write_keys(edge, "other rpm=9\na rpm=3 name=anna\n");
    assert_int_equal(server_reload_keys(edge->server, &err), SERVERD_OK);
    check_status(edge, "a", TEN, 200);
    check_status(edge, "a", TEN, 429);
    edge_write_keys(edge, "a rpm=3 scope=none\n");
    assert_int_not_equal(server_reload_keys(edge->server, &err), SERVERD_OK);
    check_status(edge, "a", TEN, 429);
    edge_write_keys(edge, "a\n");
    assert_int_equal(server_reload_keys(edge->server, &err), SERVERD_OK);
    check_status(edge, "a", TEN, 200);
    edge_destroy(edge);
}

/* A head takes memory that the reply's head needs, too: no size that is
 * allowed may leave a request unanswered, nor one that is not much more. */
static void heads_of_any_size_are_answered(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){
        .options = {"cors-origins=https://a.example"}, .keys = "a rpm=1000000 tpm=1000000000\n"});
    for (int n_headers = 1; n_headers <= 55; n_headers += 54)
        for (size_t n = 3000; n < 11500; n += n < 9000 ? 211 : 617) {
            struct buffer head;
            buffer_init(&head, 64 * KIB);
            buffer_printf(&head,
                          "POST " PATH " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-api-key: "
                          "a\r\nOrigin: https://a.example\r\n"
                          "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                          strlen(MANY_UNKNOWN));
            for (int i = 0; i < n_headers; i++) {
                buffer_printf(&head, "X-%d: ", i);
                for (size_t at = 0; at < n / (size_t)n_headers; at++)
                    buffer_append_char(&head, 'a');
                buffer_append_str(&head, "\r\n");
            }
            buffer_append_str(&head, "\r\n");
            const bool fits = head.len <= 8 * KIB;
            buffer_append_str(&head, MANY_UNKNOWN);
            int fd = client_connect(edge);
            client_send(fd, head.data, head.len);
            char *reply = client_read_all(fd);
            if (reply_status(reply) != (fits ? 200 : 431))
                fail_msg("%d headers, %zu bytes: %s", n_headers, head.len, reply);
            free(reply);
            (void)close(fd);
            buffer_deinit(&head);
        }
    edge_destroy(edge);
}

/* ---- headers of every reply ----------------------------------------------------------------- */

static void replies_say_where_the_time_went(void **state)
{
    (void)state;
    struct edge *edge =
        edge_create(&(struct edge_setup){.device = "null:min_token=10;step_us=5000"});
    char *reply = ask(edge, "none", TEN);
    const char *timing = strcasestr(reply, "\r\nserver-timing: queue;dur=");
    assert_non_null(timing);
    float queue, prefill, decode;
    assert_int_equal(sscanf(timing + strlen("\r\nserver-timing: "),
                            "queue;dur=%f, prefill;dur=%f, decode;dur=%f\r\n", &queue, &prefill,
                            &decode),
                     3);
    assert_true(queue >= 0 && prefill >= 5 && decode >= 35);
    const long ms = header(reply, "openai-processing-ms");
    assert_true((float)ms + 2 >= queue + prefill + decode);
    free(reply);
    reply = ask(edge, "none", STREAM);
    assert_null(strcasestr(reply, "server-timing"));
    assert_true(header(reply, "openai-processing-ms") >= 0);
    free(reply);
    reply = ask(edge, "none", "{");
    assert_int_equal(reply_status(reply), 400);
    assert_null(strcasestr(reply, "server-timing"));
    assert_non_null(strcasestr(reply, "\r\nx-should-retry: false\r\n"));
    const char *id = strcasestr(reply, "\r\nx-request-id: "), *same;
    assert_non_null(id);
    id += strlen("\r\nx-request-id: ");
    same = strcasestr(reply, "\r\nrequest-id: ");
    assert_non_null(same);
    assert_memory_equal(id, same + strlen("\r\nrequest-id: "), strcspn(id, "\n"));
    free(reply);
    edge_destroy(edge);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_minute_may_come_at_once_and_then_the_rate),
        cmocka_unit_test(more_than_a_minute_holds_needs_a_full_bucket_and_is_owed),
        cmocka_unit_test(other_limits_keep_what_was_used),
        cmocka_unit_test(random_requests_stay_below_the_limit),
        cmocka_unit_test(every_route_is_for_keys_of_its_scope),
        cmocka_unit_test(odd_properties_are_refused),
        cmocka_unit_test(random_key_files_harm_nothing),
        cmocka_unit_test(requests_over_the_rate_get_429_until_there_is_room),
        cmocka_unit_test(a_response_in_the_background_is_one_request),
        cmocka_unit_test(tokens_are_reserved_and_settled_by_what_was_used),
        cmocka_unit_test(what_is_refused_costs_no_tokens),
        cmocka_unit_test(a_prompt_for_more_than_a_minute_waits_for_a_full_one),
        cmocka_unit_test(limits_outlive_a_reload),
        cmocka_unit_test(heads_of_any_size_are_answered),
        cmocka_unit_test(replies_say_where_the_time_went),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
