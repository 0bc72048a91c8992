/* Output of models, by family: each golden text, whole, in all splits into two and at random cuts,
 * gives the parts that stand beside it; with trust in the grammar, too. Detection by template. */
#include "base/file.h"
#include "text/stream_parser.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *data_folder;

struct heard {
    struct buffer content, thought;
    struct tool_call_list calls;
    size_t n_decided[3];
};

static void on_content(void *user, const char *text, size_t n)
{
    buffer_append(&((struct heard *)user)->content, text, n);
}

static void on_reasoning(void *user, const char *text, size_t n)
{
    buffer_append(&((struct heard *)user)->thought, text, n);
}

static void on_call(void *user, const char *name, const char *id)
{
    struct tool_call *call = tool_call_list_add(&((struct heard *)user)->calls);
    assert_non_null(call);
    buffer_append_str(&call->name, name);
    buffer_append_str(&call->id, id);
}

static void on_decided(void *user, enum stream_part part, size_t n)
{
    ((struct heard *)user)->n_decided[part] += n;
}

static void on_arguments(void *user, const char *json, size_t n)
{
    struct tool_call_list *calls = &((struct heard *)user)->calls;
    assert_true(calls->n > 0 && n > 0);
    buffer_append(&calls->calls[calls->n - 1].arguments, json, n);
}

static bool is_string(void *user, const char *tool, const char *key)
{
    (void)tool;
    size_t i;
    json_t *item;
    json_array_foreach((json_t *)user, i, item)
    {
        if (strcmp(json_string_value(item), key) == 0)
            return true;
    }
    return false;
}

static const char *text_of(const json_t *entry, const char *key)
{
    return json_string_value(json_object_get(entry, key));
}

static struct stream_format *make_format(const json_t *entry)
{
    const char *family = text_of(entry, "family"), *reasoning = text_of(entry, "reasoning");
    const struct tool_family *f = family ? tool_family_find(family) : NULL;
    const struct reasoning_format *r = reasoning ? reasoning_format_find(reasoning) : NULL;
    struct stream_format *format;
    serverd_error err;
    if ((family && !f) || (reasoning && !r))
        fail_msg("no family %s or reasoning %s", family, reasoning);
    if (stream_format_create(NULL, f, r, &format, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    return format;
}

static void compare_calls(const json_t *entry, const struct heard *heard)
{
    const json_t *calls = json_object_get(entry, "calls");
    const char *text = text_of(entry, "text");
    if (json_array_size(calls) != heard->calls.n)
        fail_msg("%u calls in %s", heard->calls.n, text);
    for (uint32_t i = 0; i < heard->calls.n; i++) {
        const json_t *wanted = json_array_get(calls, i);
        const struct tool_call *call = &heard->calls.calls[i];
        const char *id = text_of(wanted, "id"), *partial = text_of(wanted, "partial");
        assert_string_equal(buffer_str(&call->name), text_of(wanted, "name"));
        if (id)
            assert_string_equal(buffer_str(&call->id), id);
        if (partial) {
            assert_string_equal(buffer_str(&call->arguments), partial);
            continue;
        }
        json_error_t e;
        json_t *arguments = json_loads(buffer_str(&call->arguments), JSON_REJECT_DUPLICATES, &e);
        if (!arguments || !json_equal(arguments, json_object_get(wanted, "arguments")))
            fail_msg("arguments %s in %s", buffer_str(&call->arguments), text);
        json_decref(arguments);
    }
}

/* cuts: ascending places, n_cuts of them. */
static void check(const json_t *entry, const struct stream_format *format, const size_t *cuts,
                  size_t n_cuts, bool trusts)
{
    const char *text = text_of(entry, "text");
    const size_t n = strlen(text);
    struct heard heard = {0};
    buffer_init(&heard.content, 1 << 20);
    buffer_init(&heard.thought, 1 << 20);
    tool_call_list_init(&heard.calls);
    const struct stream_parser_options options = {
        .is_reasoning_open = json_is_true(json_object_get(entry, "is_open")),
        .trusts_calls = trusts,
        .types = {is_string, NULL, json_object_get(entry, "strings")},
        .sink = {on_content, on_reasoning, on_call, on_arguments, on_decided, &heard}};
    struct stream_parser *parser = stream_parser_create(format, &options);
    assert_non_null(parser);
    size_t begin = 0;
    for (size_t i = 0; i <= n_cuts; i++) {
        size_t end = i < n_cuts ? cuts[i] : n;
        stream_parser_push(parser, text + begin, end - begin, false);
        begin = end;
    }
    stream_parser_finish(parser, json_is_true(json_object_get(entry, "is_cut")));
    stream_parser_destroy(parser);
    if (strcmp(buffer_str(&heard.content), text_of(entry, "content")) != 0)
        fail_msg("content \"%s\" of %s", buffer_str(&heard.content), text);
    if (strcmp(buffer_str(&heard.thought), text_of(entry, "thought")) != 0)
        fail_msg("reasoning \"%s\" of %s", buffer_str(&heard.thought), text);
    compare_calls(entry, &heard);
    assert_int_equal(heard.n_decided[STREAM_CONTENT], heard.content.len);
    assert_int_equal(heard.n_decided[STREAM_REASONING], heard.thought.len);
    assert_int_equal(heard.n_decided[0] + heard.n_decided[1] + heard.n_decided[2], n);
    buffer_deinit(&heard.content);
    buffer_deinit(&heard.thought);
    tool_call_list_deinit(&heard.calls);
}

static int by_place(const void *a, const void *b)
{
    const size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

static void check_file(const char *name)
{
    char path[4096];
    json_error_t e;
    (void)snprintf(path, sizeof path, "%s/tool_calls/%s", data_folder, name);
    json_t *list = json_load_file(path, 0, &e);
    if (!list)
        fail_msg("%s: %s", path, e.text);
    size_t i;
    json_t *entry;
    srand(7);
    json_array_foreach(list, i, entry)
    {
        struct stream_format *format = make_format(entry);
        size_t n = strlen(text_of(entry, "text")), cuts[12];
        /* a text that is no whole call in the end cannot be trusted */
        bool may_trust = json_array_size(json_object_get(entry, "calls")) > 0;
        check(entry, format, NULL, 0, false);
        for (size_t cut = 0; cut <= n; cut++)
            check(entry, format, &cut, 1, false);
        for (int k = 0; k < 200; k++) {
            size_t n_cuts = (size_t)rand() % 12 + 1;
            for (size_t c = 0; c < n_cuts; c++)
                cuts[c] = (size_t)rand() % (n + 1);
            qsort(cuts, n_cuts, sizeof *cuts, by_place);
            check(entry, format, cuts, n_cuts, may_trust && k % 2);
        }
        stream_format_destroy(format);
    }
    assert_true(i > 30);
    json_decref(list);
}

static void rendered_calls_are_read_back(void **state)
{
    (void)state;
    check_file("templates.json");
}

static void written_texts_are_read(void **state)
{
    (void)state;
    check_file("written.json");
}

static void templates_tell_their_family(void **state)
{
    (void)state;
    char path[4096];
    json_error_t e;
    (void)snprintf(path, sizeof path, "%s/tool_calls/templates.json", data_folder);
    json_t *list = json_load_file(path, 0, &e);
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry)
    {
        char *bytes, *text;
        size_t n;
        serverd_error err;
        (void)snprintf(path, sizeof path, "%s/chat_templates/%s.jinja", data_folder,
                       text_of(entry, "template"));
        assert_int_equal(file_read(path, 1 << 20, &bytes, &n, &err), SERVERD_OK);
        text = strndup(bytes, n);
        free(bytes);
        const struct tool_family *family = tool_family_detect(text);
        const struct reasoning_format *reasoning = reasoning_format_detect(text);
        if (!family || strcmp(family->name, text_of(entry, "family")) != 0)
            fail_msg("%s is taken for %s", text_of(entry, "template"),
                     family ? family->name : "none");
        const char *wanted = text_of(entry, "reasoning");
        if (wanted && (!reasoning || strcmp(reasoning->name, wanted) != 0))
            fail_msg("%s is taken for reasoning %s", text_of(entry, "template"),
                     reasoning ? reasoning->name : "none");
        free(text);
    }
    json_decref(list);
}

static void every_pattern_compiles(void **state)
{
    (void)state;
    for (size_t i = 0; tool_family_at(i); i++) {
        for (size_t k = 0; k <= 1; k++) {
            struct stream_format *format;
            serverd_error err;
            if (stream_format_create(NULL, tool_family_at(i), k ? reasoning_format_at(i % 9) : NULL,
                                     &format, &err) != SERVERD_OK)
                fail_msg("%s: %s", tool_family_at(i)->name, err.text);
            stream_format_destroy(format);
        }
    }
}

static void open_reasoning_is_seen(void **state)
{
    (void)state;
    const struct reasoning_format *think = reasoning_format_find("think");
    assert_true(reasoning_is_open(think, "x<think>\n", 9));
    assert_false(reasoning_is_open(think, "x<think>\n</think>", 17));
    assert_false(reasoning_is_open(think, "say <think> or not", 18));
    assert_false(reasoning_is_open(think, "hello", 5));
    assert_true(reasoning_is_open(think, "<think>a</think>b<think>", 24));
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    data_folder = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rendered_calls_are_read_back), cmocka_unit_test(written_texts_are_read),
        cmocka_unit_test(templates_tell_their_family),  cmocka_unit_test(every_pattern_compiles),
        cmocka_unit_test(open_reasoning_is_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
