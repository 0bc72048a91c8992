/* What the load client makes of a stream, however it is cut. */
#include "tools/bench/record.h"
#include "tools/sse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/param.h>

#include <cmocka.h>

static serverd_error err;

/* Events, each behind a |. */
static void collect(void *context, const char *data, size_t n)
{
    buffer_append_char(context, '|');
    buffer_append(context, data, n);
}

/* The stream in pieces of `step` bytes. */
static void assert_events(const char *stream, const char *expected, size_t step)
{
    struct buffer events;
    struct sse_parser parser;
    size_t n = strlen(stream);
    buffer_init(&events, 4096);
    sse_init(&parser, 4096, collect, &events);
    for (size_t i = 0; i < n; i += step)
        assert_int_equal(sse_push(&parser, stream + i, n - i < step ? n - i : step, &err),
                         SERVERD_OK);
    assert_int_equal(sse_end(&parser, &err), SERVERD_OK);
    if (strcmp(buffer_str(&events), expected) != 0)
        fail_msg("in pieces of %zu: \"%s\", expected \"%s\"", step, buffer_str(&events), expected);
    sse_deinit(&parser);
    buffer_deinit(&events);
}

static void events_do_not_depend_on_how_the_stream_is_cut(void **state)
{
    (void)state;
    static const char *const streams[][2] = {
        {"data: a\n\ndata: b\n\n", "|a|b"},
        {"data: a\r\n\r\ndata: b\r\n\r\n", "|a|b"},
        {"data: a\r\rdata: b\r\r", "|a|b"},
        {"data:a\n\ndata:  b\n\n", "|a| b"},
        {": comment\n\ndata: a\n: more\nevent: x\nid: 1\n\n", "|a"},
        {"data: one\ndata: two\n\ndata\n\n", "|one\ntwo"},
        {"\n\n\r\n\ndata: a\n\n\n\n", "|a"},
        {"data: [DONE]\n\n", "|[DONE]"},
        {"data: not ended", "|not ended"},
        {"data: not ended\n", "|not ended"},
        {"data:\n\n", "|"},
        {"datax: a\n\nDATA: b\n\n", ""},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++)
        for (size_t step = 1; step < 12; step++)
            assert_events(streams[i][0], streams[i][1], step);
}

static struct sse_parser named;

static void collect_named(void *context, const char *data, size_t n)
{
    buffer_append(context, buffer_str(&named.name), named.name.len);
    collect(context, data, n);
}

static void an_event_has_its_own_name(void **state)
{
    (void)state;
    static const char stream[] = "event: var.delta\ndata: a\n\ndata: b\nevent:c\n\nevent: x\n\n"
                                 "data: d\n\nevent: e\nevent: f\ndata: g\n\n";
    for (size_t step = 1; step < 12; step++) {
        struct buffer events;
        buffer_init(&events, 4096);
        sse_init(&named, 4096, collect_named, &events);
        for (size_t i = 0; i < sizeof stream - 1; i += step)
            assert_int_equal(sse_push(&named, stream + i, MIN(step, sizeof stream - 1 - i), &err),
                             SERVERD_OK);
        assert_string_equal(buffer_str(&events), "var.delta|ac|b|df|g");
        sse_deinit(&named);
        buffer_deinit(&events);
    }
}

static void a_line_or_an_event_past_the_limit_is_refused(void **state)
{
    (void)state;
    struct sse_parser parser;
    struct buffer events;
    char line[64];
    buffer_init(&events, 4096);
    memset(line, 'a', sizeof line);
    sse_init(&parser, 32, collect, &events);
    assert_int_equal(sse_push(&parser, line, sizeof line, &err), SERVERD_INVALID);
    sse_deinit(&parser);
    sse_init(&parser, 32, collect, &events);
    assert_int_equal(sse_push(&parser, "data: 0123456789012345678\n", 26, &err), SERVERD_OK);
    assert_int_equal(sse_push(&parser, "data: 0123456789012345678\n", 26, &err), SERVERD_INVALID);
    sse_deinit(&parser);
    buffer_deinit(&events);
}

static void event(struct record *record, const char *data, double now_s)
{
    record_event(record, data, strlen(data), now_s);
}

static void a_chat_stream_makes_times_text_and_usage(void **state)
{
    (void)state;
    struct record r;
    record_init(&r);
    r.keeps_text = true;
    r.start_s = 1;
    event(&r, "{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}", 1.5);
    event(&r, "{\"choices\":[{\"delta\":{\"reasoning_content\":\"hm \"}}]}", 2);
    event(&r, "{\"choices\":[{\"delta\":{\"content\":\"Hello\"}}],\"usage\":null}", 3);
    event(&r, "{\"choices\":[{\"delta\":{\"content\":\" you\"},\"finish_reason\":null}]}", 4);
    event(&r, "{\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}", 5);
    event(&r,
          "{\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":5,"
          "\"prompt_tokens_details\":{\"cached_tokens\":8}}}",
          5);
    assert_false(r.is_done);
    event(&r, "[DONE]", 5);
    assert_true(r.is_done && record_is_good(&r) && r.has_usage);
    assert_int_equal(r.n_chunks, 3);
    assert_string_equal(buffer_str(&r.text), "hm Hello you");
    assert_string_equal(r.finish, "stop");
    assert_int_equal(r.n_prompt, 9);
    assert_int_equal(r.n_output, 5);
    assert_int_equal(r.n_cached, 8);
    assert_true(record_ttft(&r) == 1 && record_tpot(&r) == 0.5);
    record_deinit(&r);
}

static void a_completion_stream_is_read_too(void **state)
{
    (void)state;
    struct record r;
    record_init(&r);
    event(&r, "{\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}", 1);
    event(&r, "{\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}]}", 2);
    assert_int_equal(r.n_chunks, 1);
    assert_string_equal(r.finish, "length");
    record_deinit(&r);
}

static void a_nul_is_text_like_any_other(void **state)
{
    (void)state;
    struct record r;
    record_init(&r);
    r.keeps_text = true;
    event(&r, "{\"choices\":[{\"delta\":{\"content\":\"\\u0000b\"}}]}", 1);
    assert_true(record_is_good(&r));
    assert_int_equal(r.n_chunks, 1);
    assert_int_equal(r.text.len, 2);
    assert_memory_equal(r.text.data, "\0b", 2);
    record_deinit(&r);
}

static void errors_are_kept_with_their_message(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"{\"error\":{\"message\":\"out of pages\",\"code\":503}}", "in the stream: out of pages"},
        {"{\"error\":\"short form\"}", "in the stream: short form"},
        {"{\"error\":{}}", "in the stream: error without a message"},
        {"not json", "event that is no JSON object: "},
        {"[1]", "event that is no JSON object: "},
        {"", "event that is no JSON object: "},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct record r;
        record_init(&r);
        event(&r, rows[i][0], 1);
        if (strncmp(r.error, rows[i][1], strlen(rows[i][1])) != 0)
            fail_msg("\"%s\" does not begin with \"%s\"", r.error, rows[i][1]);
        record_fail(&r, "another");
        assert_null(strstr(r.error, "another"));
        record_deinit(&r);
    }
}

static void an_error_reply_gives_its_message_or_its_beginning(void **state)
{
    (void)state;
    struct record r;
    record_init(&r);
    r.http_status = 429;
    record_fail_reply(&r, "{\"error\":{\"message\":\"busy\"}}", 28);
    assert_string_equal(r.error, "HTTP 429: busy");
    record_deinit(&r);
    record_init(&r);
    r.http_status = 502;
    record_fail_reply(&r, "<html>bad", 9);
    assert_string_equal(r.error, "HTTP 502: <html>bad");
    record_deinit(&r);
    record_init(&r);
    r.http_status = 500;
    record_fail_reply(&r, "a\xff\xfe", 3); /* reports are UTF-8 */
    assert_string_equal(r.error, "HTTP 500: a??");
    record_deinit(&r);
}

static void strange_objects_do_no_harm(void **state)
{
    (void)state;
    static const char *const rows[] = {
        "{}",
        "{\"choices\":3}",
        "{\"choices\":[3,null,{\"delta\":[]},{\"text\":5,\"finish_reason\":7}]}",
        "{\"usage\":[1]}",
        "{\"usage\":{\"prompt_tokens\":-5,\"completion_tokens\":99999999999999}}",
        "{\"usage\":{\"prompt_tokens_details\":null}}",
    };
    struct record r;
    record_init(&r);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        event(&r, rows[i], 1);
    assert_true(record_is_good(&r));
    assert_int_equal(r.n_chunks, 0);
    assert_true(record_ttft(&r) == 0 && record_tpot(&r) == 0);
    record_deinit(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_do_not_depend_on_how_the_stream_is_cut),
        cmocka_unit_test(an_event_has_its_own_name),
        cmocka_unit_test(a_line_or_an_event_past_the_limit_is_refused),
        cmocka_unit_test(a_chat_stream_makes_times_text_and_usage),
        cmocka_unit_test(a_completion_stream_is_read_too),
        cmocka_unit_test(a_nul_is_text_like_any_other),
        cmocka_unit_test(errors_are_kept_with_their_message),
        cmocka_unit_test(an_error_reply_gives_its_message_or_its_beginning),
        cmocka_unit_test(strange_objects_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
