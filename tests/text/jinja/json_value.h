/* JSON to template values, for tests. */
#ifndef TESTS_TEXT_JINJA_JSON_VALUE_H
#define TESTS_TEXT_JINJA_JSON_VALUE_H

#include "text/template_value.h"

#include <jansson.h>
#include <string.h>

static inline struct template_value *value_of_json(struct arena *arena, const json_t *json)
{
    struct template_value *made;
    const char *key;
    json_t *item;
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        made = template_map(arena);
        json_object_foreach((json_t *)json, key, item)(void)
            template_map_set(arena, made, key, strlen(key), value_of_json(arena, item));
        return made;
    case JSON_ARRAY:
        made = template_list(arena);
        for (size_t i = 0; i < json_array_size(json); i++)
            (void)template_list_add(arena, made, value_of_json(arena, json_array_get(json, i)));
        return made;
    case JSON_STRING:
        return template_string(arena, json_string_value(json), json_string_length(json));
    case JSON_INTEGER:
        return template_int(arena, json_integer_value(json));
    case JSON_REAL:
        return template_float(arena, json_real_value(json));
    case JSON_TRUE:
    case JSON_FALSE:
        return template_bool(arena, json_is_true(json));
    default:
        return template_none(arena);
    }
}

#endif
