#include "text/template_json.h"

#include "base/buffer.h"
#include "base/limits.h"
#include "text/template_value.h"
#include "text/tokenizer.h"

#include <string.h>

static void guard(const struct tokenizer *tokenizer, const char *text, size_t n, struct buffer *out)
{
    buffer_init(out, LIMIT_TEMPLATE_MEMORY);
    tokenizer_guard(tokenizer, text, n, out);
}

static struct template_value *from_string(struct arena *arena, const struct tokenizer *tokenizer,
                                          const json_t *string)
{
    struct buffer text;
    guard(tokenizer, json_string_value(string), json_string_length(string), &text);
    struct template_value *value =
        text.is_failed ? NULL : template_string(arena, buffer_str(&text), text.len);
    buffer_deinit(&text);
    return value;
}

static bool add_member(struct arena *arena, const struct tokenizer *tokenizer,
                       struct template_value *map, const char *name, const json_t *item)
{
    struct template_value *made = template_from_json(arena, tokenizer, item);
    struct buffer key;
    guard(tokenizer, name, strlen(name), &key);
    const bool is_good =
        made && !key.is_failed && template_map_set(arena, map, buffer_str(&key), key.len, made);
    buffer_deinit(&key);
    return is_good;
}

static struct template_value *from_object(struct arena *arena, const struct tokenizer *tokenizer,
                                          const json_t *object)
{
    struct template_value *map = template_map(arena);
    const char *key;
    json_t *item;
    if (!map)
        return NULL;
    json_object_foreach((json_t *)object, key, item)
    {
        if (!add_member(arena, tokenizer, map, key, item))
            return NULL;
    }
    return map;
}

static struct template_value *from_array(struct arena *arena, const struct tokenizer *tokenizer,
                                         const json_t *array)
{
    struct template_value *list = template_list(arena);
    if (!list)
        return NULL;
    for (size_t i = 0; i < json_array_size(array); i++) {
        struct template_value *made =
            template_from_json(arena, tokenizer, json_array_get(array, i));
        if (!made || !template_list_add(arena, list, made))
            return NULL;
    }
    return list;
}

struct template_value *template_from_json(struct arena *arena, const struct tokenizer *tokenizer,
                                          const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return from_object(arena, tokenizer, value);
    case JSON_ARRAY:
        return from_array(arena, tokenizer, value);
    case JSON_STRING:
        return from_string(arena, tokenizer, value);
    case JSON_INTEGER:
        return template_int(arena, json_integer_value(value));
    case JSON_REAL:
        return template_float(arena, json_real_value(value));
    case JSON_TRUE:
        return template_bool(arena, true);
    case JSON_FALSE:
        return template_bool(arena, false);
    case JSON_NULL:
        break;
    }
    return template_none(arena);
}
