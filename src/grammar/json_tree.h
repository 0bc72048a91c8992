/* JSON text as a tree that keeps what a schema needs and general parsers lose: exact numbers, the
 * order of members, and the way up. Everything lies in an arena. */
#ifndef GRAMMAR_JSON_TREE_H
#define GRAMMAR_JSON_TREE_H

#include "base/arena.h"
#include "base/buffer.h"
#include "grammar/number_set.h"
#include "serverd/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum json_kind {
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT
};

struct json_value {
    enum json_kind kind;
    uint32_t serial;  /* place in the order of the text */
    uint32_t n;       /* bytes of the text; number of children */
    const char *text; /* of a string, decoded (UTF-8), NUL-terminated */
    const struct decimal *number;
    const struct json_value *first, *next; /* child; sibling */
    const struct json_value *parent;       /* NULL: the whole */
    const char *name;                      /* of a member, decoded, NUL-terminated; else NULL */
    uint32_t name_n;
};

/* At most LIMIT_GRAMMAR_NESTING levels. SERVERD_INVALID with the byte's place, SERVERD_NOMEM if the
 * arena is full. Members of one name: all are kept, look-ups find the last. */
serverd_status json_tree_parse(const char *text, size_t n, struct arena *arena,
                               const struct json_value **out, serverd_error *err);

/* The member of that name; NULL if there is none or `object` is no object. */
const struct json_value *json_member(const struct json_value *object, const char *name);
const struct json_value *json_member_n(const struct json_value *object, const char *name, size_t n);

bool json_is_text(const struct json_value *value, const char *text);

/* Equality of JSON Schema: numbers by value, objects without order. */
bool json_value_equal(const struct json_value *a, const struct json_value *b);

/* Equal values have equal hashes. */
uint64_t json_hash(const struct json_value *value);

/* Appends where the value is, as a JSON pointer in a fragment: "#/properties/a". */
void json_pointer(const struct json_value *value, struct buffer *out);

#endif
