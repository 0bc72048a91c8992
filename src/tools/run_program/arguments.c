#include "tools/run_program/arguments.h"

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hint.h"
#include "base/limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- text to value ---- */

static serverd_status fail_unknown(const char *name, json_t *properties, serverd_error *err)
{
    struct hint hint = hint_for(name);
    const char *key;
    json_t *ignored;
    json_object_foreach(properties, key, ignored)
    {
        (void)ignored;
        hint_consider(&hint, key, strlen(key));
    }
    if (hint.best)
        return fail(err, SERVERD_INVALID, "--arg: there is no argument %.100s; did you mean %.*s?",
                    name, (int)hint.n_best, hint.best);
    return fail(err, SERVERD_INVALID, "--arg: there is no argument %.100s; --describe lists them",
                name);
}

/* `type`: JSON Schema's, NULL if it is any. */
static serverd_status parse_value(const char *name, const char *type, const char *text, size_t n,
                                  json_t **out, serverd_error *err)
{
    json_error_t at;
    if (type && strcmp(type, "string") == 0) {
        *out = json_stringn(text, n);
        return *out ? SERVERD_OK : fail(err, SERVERD_INVALID, "--arg %.100s: not UTF-8", name);
    }
    *out = json_loadb(text, n, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &at);
    if (*out)
        return SERVERD_OK;
    return fail(err, SERVERD_INVALID, "--arg %.100s: \"%.100s\" is not JSON of a%s%s: %.100s", name,
                text, type && strchr("aeiou", *type) ? "n " : " ", type ? type : "value", at.text);
}

/* The text behind the =; free() *out. */
static serverd_status take_text(const char *name, const char *text, char **out, size_t *n,
                                serverd_error *err)
{
    if (*text != '@') {
        *n = strlen(text);
        *out = strdup(text);
        return *out ? SERVERD_OK : fail(err, SERVERD_NOMEM, "--arg %.100s: no memory", name);
    }
    serverd_status status = file_read(text + 1, RUN_ARGUMENTS_LIMIT, out, n, err);
    if (status != SERVERD_OK)
        return fail(err, SERVERD_INVALID, "--arg %.100s: %.300s", name, err->text);
    if (*n > 0 && (*out)[*n - 1] == '\n')
        (*out)[--*n] = '\0';
    return SERVERD_OK;
}

serverd_status argument_add(json_t *args, const char *pair, const json_t *schema,
                            serverd_error *err)
{
    const char *equals = strchr(pair, '=');
    if (!equals || equals == pair || equals - pair > 128)
        return fail(err, SERVERD_INVALID, "--arg: \"%.100s\" is not NAME=VALUE", pair);
    char name[129];
    (void)snprintf(name, sizeof name, "%.*s", (int)(equals - pair), pair);
    json_t *properties = json_object_get(schema, "properties"),
           *declared = json_object_get(properties, name);
    if (!declared)
        return fail_unknown(name, properties, err);
    if (json_object_get(args, name))
        return fail(err, SERVERD_INVALID, "--arg: %s is given twice", name);
    char *text;
    size_t n;
    json_t *value;
    serverd_status status = take_text(name, equals + 1, &text, &n, err);
    if (status != SERVERD_OK)
        return status;
    status = parse_value(name, json_string_value(json_object_get(declared, "type")), text, n,
                         &value, err);
    free(text);
    if (status == SERVERD_OK && json_object_set_new(args, name, value) != 0)
        status = fail(err, SERVERD_NOMEM, "--arg %s: no memory", name);
    return status;
}

/* ---- files ---- */

static serverd_status read_standard_input(char **out, size_t *n, serverd_error *err)
{
    struct buffer text;
    char block[65536];
    size_t got;
    buffer_init(&text, RUN_ARGUMENTS_LIMIT);
    while ((got = fread(block, 1, sizeof block, stdin)) > 0)
        buffer_append(&text, block, got);
    if (text.is_failed || ferror(stdin)) {
        buffer_deinit(&text);
        return fail(err, SERVERD_INVALID, "standard input: cannot be read, or more than %zu bytes",
                    RUN_ARGUMENTS_LIMIT);
    }
    buffer_append(&text, "", 0);
    *out = buffer_take(&text, n);
    if (!*out)
        *out = strdup("");
    return *out ? SERVERD_OK : fail(err, SERVERD_NOMEM, "standard input: no memory");
}

static serverd_status read_text(const char *option, const char *path, char **out, size_t *n,
                                serverd_error *err)
{
    serverd_status status = strcmp(path, "-") == 0
                                ? read_standard_input(out, n, err)
                                : file_read(path, RUN_ARGUMENTS_LIMIT, out, n, err);
    return status == SERVERD_OK ? status
                                : fail(err, SERVERD_INVALID, "%s: %.400s", option, err->text);
}

static serverd_status parse_object(const char *text, size_t n, json_t **out, json_error_t *at)
{
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, at);
    if (json_is_object(*out))
        return SERVERD_OK;
    if (*out)
        (void)snprintf(at->text, sizeof at->text, "no object");
    json_decref(*out);
    return SERVERD_INVALID;
}

serverd_status arguments_read(const char *path, json_t **out, serverd_error *err)
{
    char *text;
    size_t n;
    json_error_t at;
    serverd_status status = read_text("--args-json", path, &text, &n, err);
    if (status != SERVERD_OK)
        return status;
    if (parse_object(text, n, out, &at) != SERVERD_OK)
        status = fail(err, SERVERD_INVALID, "--args-json: %.200s, line %d: %.150s", path, at.line,
                      at.text);
    free(text);
    return status;
}

/* Takes `object` over. Members beside args, seed and id, or no args: it is the arguments. */
static json_t *item_of(json_t *object)
{
    const char *key;
    json_t *ignored;
    bool is_item = json_is_object(json_object_get(object, "args"));
    json_object_foreach(object, key, ignored)
    {
        (void)ignored;
        is_item = is_item &&
                  (strcmp(key, "args") == 0 || strcmp(key, "seed") == 0 || strcmp(key, "id") == 0);
    }
    return is_item ? object : json_pack("{s:o}", "args", object);
}

static serverd_status add_line(json_t *items, const char *path, const char *line, size_t n,
                               size_t number, serverd_error *err)
{
    json_t *object;
    json_error_t at;
    if (strspn(line, " \t\r") >= n)
        return SERVERD_OK;
    if (parse_object(line, n, &object, &at) != SERVERD_OK)
        return fail(err, SERVERD_INVALID, "--batch: %.200s, line %zu: %.150s", path, number,
                    at.text);
    if (json_array_append_new(items, item_of(object)) != 0)
        return fail(err, SERVERD_NOMEM, "--batch: no memory");
    return SERVERD_OK;
}

serverd_status arguments_read_batch(const char *path, json_t **items, serverd_error *err)
{
    char *text;
    size_t n, number = 0;
    serverd_status status = read_text("--batch", path, &text, &n, err);
    if (status != SERVERD_OK)
        return status;
    json_t *list = json_array();
    for (const char *line = text; status == SERVERD_OK && line < text + n;) {
        const char *end = memchr(line, '\n', (size_t)(text + n - line));
        size_t length = end ? (size_t)(end - line) : (size_t)(text + n - line);
        status = add_line(list, path, line, length, ++number, err);
        line += length + 1;
    }
    if (status == SERVERD_OK && json_array_size(list) == 0)
        status = fail(err, SERVERD_INVALID, "--batch: %.200s: no line in it", path);
    free(text);
    if (status == SERVERD_OK)
        *items = list;
    else
        json_decref(list);
    return status;
}
