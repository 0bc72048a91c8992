#include "tools/bench/trace_workloads.h"

#include "serverd/delegate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static serverd_error err;

static void must(serverd_status status)
{
    if (status != SERVERD_OK)
        fail_msg("%s", err.text);
}

static struct trace make(uint32_t block_tokens)
{
    struct trace trace;
    must(trace_init(&trace, block_tokens, &err));
    return trace;
}

static struct trace generate(enum trace_workload workload, uint32_t n, double rate, uint64_t seed)
{
    struct trace trace = make(16);
    const struct trace_workload_options options = {
        .workload = workload, .n = n, .rate = rate, .seed = seed};
    must(trace_generate(&trace, &options, &err));
    return trace;
}

static void parse(struct trace *trace, const char *line)
{
    must(trace_parse_line(trace, line, strlen(line), &err));
}

/* The file's text as a trace; *status is what reading came to. */
static struct trace read_text(const char *text, size_t n, serverd_status *status)
{
    char path[] = "/tmp/test_trace_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, n), n);
    assert_int_equal(close(fd), 0);
    struct trace trace = make(512);
    *status = trace_read(&trace, path, &err);
    assert_int_equal(unlink(path), 0);
    return trace;
}

/* ---- reading --------------------------------------------------------------------------------- */

static void a_line_of_a_published_trace_is_read(void **state)
{
    (void)state;
    struct trace trace = make(512);
    parse(&trace, "{\"timestamp\": 27482, \"input_length\": 1100, \"output_length\": 52, "
                  "\"hash_ids\": [46, 47, 2353]}");
    assert_int_equal(trace.n, 1);
    const struct trace_request *r = trace.requests;
    assert_true(r->arrival_ns == 27482000000u);
    assert_int_equal(r->n_prompt, 1100);
    assert_int_equal(r->n_output, 52);
    assert_int_equal(r->n_runs, 3);
    assert_true(trace.runs[2].id == 2353 && trace.runs[2].n_tokens == 1100 - 1024);
    assert_int_equal(r->key | r->class | (uint32_t)r->priority, 0);
    assert_true(r->cancel_after_ns == 0 && r->deadline_ns == 0);
    trace_deinit(&trace);
}

static void all_fields_are_read(void **state)
{
    (void)state;
    struct trace trace = make(16);
    parse(&trace, "{\"timestamp\": 0.5, \"input_length\": 40, \"output_length\": 0, \"hash_ids\": "
                  "[7, 7, -1], \"key\": \"a\", \"class\": \"hot\", \"priority\": -3, "
                  "\"cancel_after_ms\": 0, \"deadline_ms\": 250.25, \"later\": {}}");
    parse(&trace,
          "{\"timestamp\": 0.5, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [7], "
          "\"key\": \"hot\", \"class\": null}");
    const struct trace_request *r = trace.requests;
    assert_true(r->arrival_ns == 500000);
    assert_int_equal(r->n_runs, 2); /* equal neighbours are one run */
    assert_int_equal(trace.runs[0].n_tokens, 32);
    assert_string_equal(trace_name_text(&trace, r->key), "a");
    assert_string_equal(trace_name_text(&trace, r->class), "hot");
    assert_int_equal(r->priority, -3);
    assert_true(r->cancel_after_ns == 1); /* at once, not never */
    assert_true(r->deadline_ns == 250250000);
    assert_int_equal(r[1].key, r->class); /* one table of names */
    assert_int_equal(r[1].class, 0);
    assert_int_equal(r[1].first_run, 2);
    trace_deinit(&trace);
}

#define LINE(fields)                                                                               \
    "{\"timestamp\": 10, \"input_length\": 20, \"output_length\": 5, \"hash_ids\": [1, 2]" fields  \
    "}"

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    const struct {
        const char *line, *expected;
    } wrong[] = {
        {"{", "column"},
        {"[1]", "is not a JSON object"},
        {"{}", "timestamp: is missing"},
        {"{\"timestamp\": \"1\"}", "timestamp: is not a number"},
        {"{\"timestamp\": -1}", "timestamp: found -1"},
        {"{\"timestamp\": 1e13}", "timestamp: found 1e+13"},
        {"{\"timestamp\": 9, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1]}",
         "timestamp: found 9, the request before it has 10"},
        {"{\"timestamp\": 10}", "input_length: is missing"},
        {"{\"timestamp\": 10, \"input_length\": 0}", "input_length: found 0, allowed 1 to"},
        {"{\"timestamp\": 10, \"input_length\": 1.5}", "input_length: is not a whole number"},
        {"{\"timestamp\": 10, \"input_length\": 99999999}", "input_length: found 99999999"},
        {"{\"timestamp\": 10, \"input_length\": 1}", "output_length: is missing"},
        {"{\"timestamp\": 10, \"input_length\": 1, \"output_length\": -1}",
         "output_length: found -1"},
        {"{\"timestamp\": 10, \"input_length\": 1, \"output_length\": 1}", "hash_ids: is missing"},
        {"{\"timestamp\": 10, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": 1}",
         "hash_ids: is not an array"},
        {"{\"timestamp\": 10, \"input_length\": 20, \"output_length\": 1, \"hash_ids\": [1]}",
         "hash_ids: found 1, input_length 20 in blocks of 16 tokens needs 2"},
        {"{\"timestamp\": 10, \"input_length\": 20, \"output_length\": 1, \"hash_ids\": [1, 0.5]}",
         "hash_ids: number 2 is not a whole number"},
        {LINE(", \"key\": 1"), "key: is not a string"},
        {LINE(", \"key\": \"0123456789012345678901234567890123456789012345678901234567890123\""),
         "key: 64 bytes, at most 63 allowed"},
        {LINE(", \"class\": []"), "class: is not a string"},
        {LINE(", \"priority\": 1e3"), "priority: is not a whole number"},
        {LINE(", \"priority\": 1000001"), "priority: found 1000001"},
        {LINE(", \"cancel_after_ms\": -1"), "cancel_after_ms: found -1"},
        {LINE(", \"deadline_ms\": true"), "deadline_ms: is not a number"},
        {LINE(", \"timestamp\": 11"), "duplicate"},
        {LINE("") LINE(""), "column"},
    };
    struct trace trace = make(16);
    parse(&trace, LINE(""));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *line = wrong[i].line;
        if (trace_parse_line(&trace, line, strlen(line), &err) != SERVERD_INVALID)
            fail_msg("taken: %s", line);
        if (!strstr(err.text, wrong[i].expected))
            fail_msg("%s: \"%s\" does not say %s", line, err.text, wrong[i].expected);
    }
    parse(&trace, LINE("")); /* nothing of the others is left */
    assert_int_equal(trace.n, 2);
    assert_int_equal(trace.n_runs, 4);
    assert_int_equal(trace.requests[1].first_run, 2);
    trace_deinit(&trace);
}

static void an_error_in_a_file_names_its_line(void **state)
{
    (void)state;
    const char good[] = "{\"timestamp\": 1, \"input_length\": 9, \"output_length\": 5, "
                        "\"hash_ids\": [1]}\n";
    const struct {
        const char *text;
        size_t n;
        const char *expected;
    } cases[] = {
        {"", 0, "holds no request"},
        {"\n \n", 3, "holds no request"},
        {"\0\n", 2, "line 1: holds a NUL"},
        {"{\"a\": \0}\n", 9, "line 1: holds a NUL"},
        {"\n\n{}\n", 5, "line 3: timestamp: is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        serverd_status status;
        struct trace trace = read_text(cases[i].text, cases[i].n, &status);
        assert_int_equal(status, SERVERD_INVALID);
        if (!strstr(err.text, cases[i].expected))
            fail_msg("\"%s\" does not say %s", err.text, cases[i].expected);
        trace_deinit(&trace);
    }
    serverd_status status;
    struct trace trace = read_text(good, strlen(good) - 1, &status); /* no last line end */
    must(status);
    assert_int_equal(trace.n, 1);
    trace_deinit(&trace);
    trace = make(512);
    assert_int_equal(trace_read(&trace, "/nonexistent/trace", &err), SERVERD_INVALID);
    trace_deinit(&trace);
}

static void a_line_has_its_bound(void **state)
{
    (void)state;
    size_t n = TRACE_MAX_LINE_BYTES + 10;
    char *text = malloc(n);
    assert_non_null(text);
    memset(text, ' ', n);
    serverd_status status;
    struct trace trace = read_text(text, n, &status);
    assert_int_equal(status, SERVERD_INVALID);
    assert_non_null(strstr(err.text, "line 1: holds a NUL, or more than the allowed"));
    trace_deinit(&trace);
    free(text);
}

static void names_have_their_bound(void **state)
{
    (void)state;
    struct trace trace = make(16);
    char text[16];
    uint32_t number;
    for (uint32_t i = 1; i < TRACE_MAX_NAMES; i++) {
        (void)snprintf(text, sizeof text, "%u", i);
        must(trace_name(&trace, text, &number, &err));
        assert_int_equal(number, i);
    }
    assert_int_equal(trace_name(&trace, "one more", &number, &err), SERVERD_INVALID);
    must(trace_name(&trace, "777", &number, &err));
    assert_int_equal(number, 777);
    trace_deinit(&trace);
}

static void a_block_is_whole_pages(void **state)
{
    (void)state;
    struct trace trace;
    assert_int_equal(trace_init(&trace, 0, &err), SERVERD_INVALID);
    trace_deinit(&trace);
    assert_int_equal(trace_init(&trace, 24, &err), SERVERD_INVALID);
    trace_deinit(&trace);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static int32_t *tokens_of(const struct trace *trace, const struct trace_request *r)
{
    int32_t *tokens = calloc(r->n_prompt + r->n_output, sizeof *tokens);
    assert_non_null(tokens);
    trace_prompt(trace, r, tokens);
    for (uint32_t i = r->n_prompt; i < r->n_prompt + r->n_output; i++) /* as the device answers */
        tokens[i] = i < SERVERD_PAGE_TOKENS ? tokens[i - 1] : tokens[i - SERVERD_PAGE_TOKENS];
    return tokens;
}

static void the_same_id_is_the_same_tokens(void **state)
{
    (void)state;
    struct trace trace = make(32);
    parse(
        &trace,
        "{\"timestamp\": 0, \"input_length\": 70, \"output_length\": 0, \"hash_ids\": [1, 2, 3]}");
    parse(
        &trace,
        "{\"timestamp\": 0, \"input_length\": 96, \"output_length\": 0, \"hash_ids\": [2, 1, 3]}");
    int32_t *a = tokens_of(&trace, &trace.requests[0]), *b = tokens_of(&trace, &trace.requests[1]);
    assert_memory_equal(a, b + 32, 32 * sizeof *a);
    assert_memory_equal(a + 32, b, 32 * sizeof *a);
    assert_memory_equal(a + 64, b + 64, 6 * sizeof *a);
    assert_memory_not_equal(a, a + 32, 16 * sizeof *a);
    for (uint32_t i = 0; i < 70; i++)
        assert_in_range(a[i], 3, TRACE_VOCABULARY - 1);
    free(a);
    free(b);
    trace_deinit(&trace);
}

/* Page by page against all requests before. */
static uint64_t naive_optimum(const struct trace *trace)
{
    uint64_t n_cached = 0;
    int32_t **tokens = calloc(trace->n, sizeof *tokens);
    assert_non_null(tokens);
    for (uint32_t i = 0; i < trace->n; i++) {
        const struct trace_request *r = &trace->requests[i];
        uint32_t best = 0;
        tokens[i] = tokens_of(trace, r);
        for (uint32_t j = 0; j < i; j++) {
            const struct trace_request *other = &trace->requests[j];
            uint32_t n_other = other->n_prompt + other->n_output - (other->n_output > 0), n = 0;
            while (n + SERVERD_PAGE_TOKENS <= n_other && n + SERVERD_PAGE_TOKENS < r->n_prompt &&
                   other->key == r->key &&
                   memcmp(tokens[i] + n, tokens[j] + n, SERVERD_PAGE_TOKENS * sizeof(int32_t)) == 0)
                n += SERVERD_PAGE_TOKENS;
            best = n > best ? n : best;
        }
        n_cached += best;
    }
    for (uint32_t i = 0; i < trace->n; i++)
        free(tokens[i]);
    free(tokens);
    return n_cached;
}

static void the_optimum_is_that_of_a_naive_search(void **state)
{
    (void)state;
    for (int w = TRACE_HOT_COLD; w <= TRACE_MIXED; w++) {
        struct trace trace = generate((enum trace_workload)w, 60, 0, 7);
        uint64_t n_cached;
        must(trace_optimum(&trace, &n_cached, &err));
        if (n_cached != naive_optimum(&trace))
            fail_msg("workload %d: %llu cached", w, (unsigned long long)n_cached);
        trace_deinit(&trace);
    }
}

static void prefixes_of_runs_are_told_apart(void **state)
{
    (void)state;
    /* one run is longer, ends in the middle, goes on with another id, has a key */
    static const char *const lines[] = {
        "{\"timestamp\": 0, \"input_length\": 96, \"output_length\": 1, \"hash_ids\": [1, 1, 2]}",
        "{\"timestamp\": 0, \"input_length\": 96, \"output_length\": 1, \"hash_ids\": [1, 1, 1]}",
        "{\"timestamp\": 0, \"input_length\": 96, \"output_length\": 1, \"hash_ids\": [1, 2, 2]}",
        "{\"timestamp\": 0, \"input_length\": 97, \"output_length\": 9, \"hash_ids\": [1, 1, 1, "
        "1]}",
        "{\"timestamp\": 0, \"input_length\": 96, \"output_length\": 1, \"hash_ids\": [1, 1, 2]}",
        "{\"timestamp\": 0, \"input_length\": 128, \"output_length\": 64, \"hash_ids\": [1, 1, 2, "
        "2]}",
        "{\"timestamp\": 0, \"input_length\": 192, \"output_length\": 0, \"hash_ids\": [1, 1, 2, "
        "2, 2, 2]}",
        "{\"timestamp\": 0, \"input_length\": 96, \"output_length\": 1, \"hash_ids\": [1, 1, 2], "
        "\"key\": \"k\"}",
        "{\"timestamp\": 0, \"input_length\": 80, \"output_length\": 1, \"hash_ids\": [1, 1, 2], "
        "\"key\": \"k\"}",
    };
    struct trace trace = make(32);
    uint64_t n_cached;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        parse(&trace, lines[i]);
    must(trace_optimum(&trace, &n_cached, &err));
    assert_int_equal(n_cached, naive_optimum(&trace));
    assert_true(n_cached > 0);
    trace_deinit(&trace);
}

/* ---- workloads ------------------------------------------------------------------------------- */

static void assert_same(const struct trace *a, const struct trace *b)
{
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->n_runs, b->n_runs);
    for (uint32_t i = 0; i < a->n; i++) {
        const struct trace_request *x = &a->requests[i], *y = &b->requests[i];
        assert_true(x->arrival_ns == y->arrival_ns);
        assert_int_equal(x->n_prompt, y->n_prompt);
        assert_int_equal(x->n_output, y->n_output);
        assert_string_equal(trace_name_text(a, x->key), trace_name_text(b, y->key));
        assert_string_equal(trace_name_text(a, x->class), trace_name_text(b, y->class));
    }
    for (uint32_t i = 0; i < a->n_runs; i++)
        assert_true(a->runs[i].id == b->runs[i].id && a->runs[i].n_tokens == b->runs[i].n_tokens);
}

static void a_workload_is_a_function_of_its_seed(void **state)
{
    (void)state;
    struct trace a = generate(TRACE_MIXED, 50, 3, 1), b = generate(TRACE_MIXED, 50, 3, 1),
                 other = generate(TRACE_MIXED, 50, 3, 2);
    assert_same(&a, &b);
    assert_true(a.runs[0].id != other.runs[0].id);
    trace_deinit(&a);
    trace_deinit(&b);
    trace_deinit(&other);
}

static void what_is_written_is_read_back(void **state)
{
    (void)state;
    for (int w = TRACE_HOT_COLD; w <= TRACE_LONG_BEHIND_STREAMS; w++) {
        struct trace trace = generate((enum trace_workload)w, 30, 2, 3), back = make(16);
        char *text = NULL;
        size_t n = 0;
        FILE *file = open_memstream(&text, &n);
        assert_non_null(file);
        must(trace_write(&trace, file, &err));
        assert_int_equal(fclose(file), 0);
        for (char *line = text, *end; line < text + n; line = end + 1) {
            end = strchr(line, '\n');
            must(trace_parse_line(&back, line, (size_t)(end - line), &err));
        }
        assert_same(&trace, &back);
        trace_deinit(&trace);
        trace_deinit(&back);
        free(text);
    }
}

static void shares_are_exact(void **state)
{
    (void)state;
    struct trace trace = generate(TRACE_HOT_COLD, 1000, 0, 1);
    uint32_t n_cold = 0;
    for (uint32_t i = 0; i < trace.n; i++) {
        n_cold += strcmp(trace_name_text(&trace, trace.requests[i].class), "cold") == 0;
        assert_true(trace.requests[i].arrival_ns == 0);
    }
    assert_int_equal(trace.n, 1000);
    assert_int_equal(n_cold, 50);
    trace_deinit(&trace);
}

static void arrivals_have_their_rate(void **state)
{
    (void)state;
    struct trace trace = generate(TRACE_HOT_COLD, 2000, 20, 1);
    double seconds = (double)trace.requests[1999].arrival_ns * 1e-9;
    assert_true(seconds > 90 && seconds < 110);
    for (uint32_t i = 1; i < trace.n; i++)
        assert_true(trace.requests[i - 1].arrival_ns <= trace.requests[i].arrival_ns);
    trace_deinit(&trace);
}

static void a_turn_begins_with_the_whole_turn_before(void **state)
{
    (void)state;
    struct trace trace = generate(TRACE_MULTITURN, 4, 0, 1);
    assert_int_equal(trace.n, 4);
    int32_t *before = NULL;
    for (uint32_t i = 0; i < 4; i++) {
        int32_t *tokens = tokens_of(&trace, &trace.requests[i]);
        if (before) {
            const struct trace_request *last = &trace.requests[i - 1];
            assert_true(trace.requests[i].n_prompt > last->n_prompt + last->n_output);
            assert_memory_equal(tokens, before, (last->n_prompt + last->n_output) * sizeof *tokens);
        }
        free(before);
        before = tokens;
    }
    free(before);
    trace_deinit(&trace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_of_a_published_trace_is_read),
        cmocka_unit_test(all_fields_are_read),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(an_error_in_a_file_names_its_line),
        cmocka_unit_test(a_line_has_its_bound),
        cmocka_unit_test(names_have_their_bound),
        cmocka_unit_test(a_block_is_whole_pages),
        cmocka_unit_test(the_same_id_is_the_same_tokens),
        cmocka_unit_test(the_optimum_is_that_of_a_naive_search),
        cmocka_unit_test(prefixes_of_runs_are_told_apart),
        cmocka_unit_test(a_workload_is_a_function_of_its_seed),
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(shares_are_exact),
        cmocka_unit_test(arrivals_have_their_rate),
        cmocka_unit_test(a_turn_begins_with_the_whole_turn_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
