/* Output of models: any text in any family, cut anywhere, gives the same parts as the whole text;
 * calls have arguments that are JSON; nothing but marks and white space is lost. The first byte
 * chooses family and reasoning, the second how the text is cut, and what is known. */
#include "text/json_value.h"
#include "text/stream_parser.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool is_so)
{
    if (!is_so)
        abort();
}

struct heard {
    struct buffer all; /* parts, each named where it begins */
    struct buffer arguments;
    char part;
    size_t n_decided[3];
};

static void check_arguments(struct heard *h)
{
    if (h->arguments.len > 0)
        must(json_value_is_valid(h->arguments.data, h->arguments.len));
    buffer_reset(&h->arguments);
}

static void hear(struct heard *h, char part, const char *text, size_t n)
{
    if (h->part != part)
        buffer_append_char(&h->all, part);
    h->part = part;
    buffer_append(&h->all, text, n);
}

static void on_content(void *user, const char *text, size_t n)
{
    hear(user, 1, text, n);
}

static void on_reasoning(void *user, const char *text, size_t n)
{
    hear(user, 2, text, n);
}

static void on_call(void *user, const char *name, const char *id)
{
    struct heard *h = user;
    check_arguments(h);
    must(*name);
    h->part = 0;
    hear(h, 3, name, strlen(name));
    hear(h, 4, id, strlen(id));
}

static void on_arguments(void *user, const char *json, size_t n)
{
    struct heard *h = user;
    hear(h, 5, json, n);
    buffer_append(&h->arguments, json, n);
}

static void on_decided(void *user, enum stream_part part, size_t n)
{
    ((struct heard *)user)->n_decided[part] += n;
}

static void parse(const struct stream_format *format, const char *text, size_t n, size_t step,
                  unsigned flags, struct heard *h)
{
    *h = (struct heard){0};
    buffer_init(&h->all, 1 << 24);
    buffer_init(&h->arguments, 1 << 24);
    const struct stream_parser_options options = {
        .is_reasoning_open = flags & 128,
        .types = {.are_exact = flags & 64},
        .sink = {on_content, on_reasoning, on_call, on_arguments, on_decided, h}};
    struct stream_parser *parser = stream_parser_create(format, &options);
    must(parser != NULL);
    for (size_t i = 0; i < n; i += step)
        stream_parser_push(parser, text + i, n - i < step ? n - i : step, false);
    stream_parser_finish(parser, false);
    stream_parser_destroy(parser);
    check_arguments(h);
    must(h->n_decided[0] + h->n_decided[1] + h->n_decided[2] == n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    size_t n_families = 0, n_formats = 0;
    while (tool_family_at(n_families))
        n_families++;
    while (reasoning_format_at(n_formats))
        n_formats++;
    struct stream_format *format;
    serverd_error err;
    size_t row = data[0] % (n_families + 1), step = data[1] % 16 + 1u;
    must(stream_format_create(NULL, tool_family_at(row),
                              reasoning_format_at(data[0] / 16 % (n_formats + 1)), &format,
                              &err) == SERVERD_OK);
    const char *text = (const char *)data + 2;
    struct heard whole, cut;
    parse(format, text, size - 2, size, data[1], &whole);
    parse(format, text, size - 2, step, data[1], &cut);
    must(whole.all.len == cut.all.len &&
         memcmp(buffer_str(&whole.all), buffer_str(&cut.all), whole.all.len) == 0);
    buffer_deinit(&whole.all);
    buffer_deinit(&whole.arguments);
    buffer_deinit(&cut.all);
    buffer_deinit(&cut.arguments);
    stream_format_destroy(format);
    return 0;
}
