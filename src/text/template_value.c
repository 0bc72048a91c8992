#include "text/template_value.h"

#include "base/limits.h"
#include "base/numeric.h"
#include "text/jinja/value_internal.h"

#include <string.h>

#define SMALL_MAP 8 /* searched without an index */

struct template_value *value_new(struct arena *arena, enum value_kind kind)
{
    struct template_value *v = arena_alloc(arena, sizeof *v);
    if (v)
        v->kind = kind;
    return v;
}

struct template_value *value_text(struct arena *arena, const char *s, size_t n)
{
    struct template_value *v = value_new(arena, VALUE_STRING);
    if (v)
        v->text = (struct text){s, n};
    return v;
}

struct template_value *value_undefined(struct arena *arena, const char *why, size_t n)
{
    struct template_value *v = value_new(arena, VALUE_UNDEFINED);
    if (v)
        v->text = (struct text){why, n};
    return v;
}

struct template_value *template_none(struct arena *arena)
{
    return value_new(arena, VALUE_NONE);
}

struct template_value *template_bool(struct arena *arena, bool value)
{
    struct template_value *v = value_new(arena, VALUE_BOOL);
    if (v)
        v->boolean = value;
    return v;
}

struct template_value *template_int(struct arena *arena, int64_t value)
{
    struct template_value *v = value_new(arena, VALUE_INT);
    if (v)
        v->integer = value;
    return v;
}

struct template_value *template_float(struct arena *arena, double value)
{
    struct template_value *v = value_new(arena, VALUE_FLOAT);
    if (v)
        v->real = value;
    return v;
}

struct template_value *template_string(struct arena *arena, const char *bytes, size_t n)
{
    char *copy = arena_copy(arena, n ? bytes : "", n);
    return copy ? value_text(arena, copy, n) : NULL;
}

struct template_value *template_list(struct arena *arena)
{
    return value_new(arena, VALUE_LIST);
}

struct template_value *template_map(struct arena *arena)
{
    return value_new(arena, VALUE_MAP);
}

bool template_list_add(struct arena *arena, struct template_value *list,
                       struct template_value *item)
{
    if (!list || !item)
        return false;
    if (list->n == list->cap) {
        size_t cap;
        if (!size_mul(list->cap ? list->cap : 4, 2, &cap))
            return false;
        struct template_value **items = arena_array(arena, cap, sizeof *items);
        if (!items)
            return false;
        if (list->n)
            memcpy(items, list->items, list->n * sizeof *items);
        list->items = items;
        list->cap = cap;
    }
    list->items[list->n++] = item;
    return true;
}

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

/* Equal keys hash alike: 1, 1.0 and True are one key, as in Python. */
static uint64_t value_hash(const struct template_value *v)
{
    uint64_t h = 0x51ed270b;
    if (v->kind == VALUE_STRING) {
        for (size_t i = 0; i < v->text.n; i++)
            h = (h ^ (unsigned char)v->text.s[i]) * 0x100000001b3u;
        return mix(h, v->text.n);
    }
    if (value_is_number(v)) {
        double d = value_real(v);
        uint64_t bits;
        d = d == 0 ? 0 : d;
        memcpy(&bits, &d, sizeof bits);
        return mix(h, bits);
    }
    if (v->kind == VALUE_TUPLE)
        return mix(h, v->n);
    return mix(h, (uint64_t)v->kind);
}

/* *left bounds the work: a list that holds another one twice, which again holds one twice and so
 * on, is small and takes for ever to walk. */
static bool equal(const struct template_value *a, const struct template_value *b, unsigned depth,
                  uint32_t *left);

static struct map_entry *find(const struct template_value *map, const struct template_value *key,
                              uint64_t hash, uint32_t *left)
{
    if (!map->map.index) {
        for (size_t i = 0; i < map->n; i++)
            if (map->map.entries[i].hash == hash && equal(map->map.entries[i].key, key, 0, left))
                return &map->map.entries[i];
        return NULL;
    }
    const size_t mask = map->map.index_cap - 1;
    for (size_t at = (size_t)hash & mask; map->map.index[at]; at = (at + 1) & mask) {
        struct map_entry *e = &map->map.entries[map->map.index[at] - 1];
        if (e->hash == hash && equal(e->key, key, 0, left))
            return e;
    }
    return NULL;
}

static bool grow_map(struct arena *arena, struct template_value *map)
{
    size_t cap;
    if (map->n >= UINT32_MAX / 8 || !size_mul(map->cap ? map->cap : 4, 2, &cap))
        return false;
    struct map_entry *entries = arena_array(arena, cap, sizeof *entries);
    uint32_t *index = NULL;
    if (cap > SMALL_MAP)
        index = arena_array(arena, 2 * cap, sizeof *index);
    if (!entries || (cap > SMALL_MAP && !index))
        return false;
    if (map->n)
        memcpy(entries, map->map.entries, map->n * sizeof *entries);
    for (size_t i = 0; index && i < map->n; i++) {
        size_t at = (size_t)entries[i].hash & (2 * cap - 1);
        while (index[at])
            at = (at + 1) & (2 * cap - 1);
        index[at] = (uint32_t)(i + 1);
    }
    map->map.entries = entries;
    map->map.index = index;
    map->map.index_cap = 2 * cap;
    map->cap = cap;
    return true;
}

bool value_map_put(struct arena *arena, struct template_value *map, struct template_value *key,
                   struct template_value *value)
{
    if (!map || !key || !value)
        return false;
    const uint64_t hash = value_hash(key);
    uint32_t left = LIMIT_TEMPLATE_COMPARED;
    struct map_entry *e = find(map, key, hash, &left);
    if (e) {
        e->value = value;
        return true;
    }
    if (map->n == map->cap && !grow_map(arena, map))
        return false;
    map->map.entries[map->n++] = (struct map_entry){key, value, hash};
    if (map->map.index) {
        const size_t mask = map->map.index_cap - 1;
        size_t at = (size_t)hash & mask;
        while (map->map.index[at])
            at = (at + 1) & mask;
        map->map.index[at] = (uint32_t)map->n;
    }
    return true;
}

bool template_map_set(struct arena *arena, struct template_value *map, const char *key,
                      size_t key_len, struct template_value *value)
{
    return value_map_put(arena, map, template_string(arena, key, key_len), value);
}

struct template_value *value_map_get(const struct template_value *map,
                                     const struct template_value *key)
{
    uint32_t left = LIMIT_TEMPLATE_COMPARED;
    const struct map_entry *e = find(map, key, value_hash(key), &left);
    return e ? e->value : NULL;
}

struct template_value *value_map_get_text(const struct template_value *map, struct text key)
{
    const struct template_value v = {.kind = VALUE_STRING, .text = key};
    return value_map_get(map, &v);
}

static bool is_hashable(const struct template_value *v, unsigned depth, uint32_t *left)
{
    if (v->kind == VALUE_LIST || v->kind == VALUE_MAP || depth > LIMIT_TEMPLATE_RECURSION ||
        *left == 0)
        return false;
    --*left;
    for (size_t i = 0; v->kind == VALUE_TUPLE && i < v->n; i++)
        if (!is_hashable(v->items[i], depth + 1, left))
            return false;
    return true;
}

bool value_is_hashable(const struct template_value *v)
{
    uint32_t left = LIMIT_TEMPLATE_COMPARED;
    return is_hashable(v, 0, &left);
}

bool value_is_string(const struct template_value *v, const char *s)
{
    return v->kind == VALUE_STRING && v->text.n == strlen(s) && !memcmp(v->text.s, s, v->text.n);
}

bool value_is_number(const struct template_value *v)
{
    return v->kind == VALUE_BOOL || v->kind == VALUE_INT || v->kind == VALUE_FLOAT;
}

bool value_is_sequence(const struct template_value *v)
{
    return v->kind == VALUE_LIST || v->kind == VALUE_TUPLE;
}

bool value_is_view(const struct template_value *v)
{
    return v->kind == VALUE_LIST && v->self && v->self->text.s[0] == 'd';
}

bool value_is_true(const struct template_value *v)
{
    switch (v->kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    case VALUE_BOOL:
        return v->boolean;
    case VALUE_INT:
        return v->integer != 0;
    case VALUE_FLOAT:
        return v->real != 0;
    case VALUE_STRING:
        return v->text.n > 0;
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_MAP:
        return v->n > 0;
    default:
        return true;
    }
}

double value_real(const struct template_value *v)
{
    return v->kind == VALUE_FLOAT ? v->real : (double)value_integer(v);
}

int64_t value_integer(const struct template_value *v)
{
    return v->kind == VALUE_BOOL ? v->boolean : v->kind == VALUE_INT ? v->integer : 0;
}

static bool equal_maps(const struct template_value *a, const struct template_value *b,
                       unsigned depth, uint32_t *left)
{
    for (size_t i = 0; i < a->n; i++) {
        const struct map_entry *e = &a->map.entries[i], *other = find(b, e->key, e->hash, left);
        if (!other || !equal(e->value, other->value, depth, left))
            return false;
    }
    return true;
}

static bool equal(const struct template_value *a, const struct template_value *b, unsigned depth,
                  uint32_t *left)
{
    if (a == b)
        return true;
    if (depth > LIMIT_TEMPLATE_RECURSION || *left == 0)
        return false;
    --*left;
    if (value_is_number(a) && value_is_number(b)) {
        if (a->kind != VALUE_FLOAT && b->kind != VALUE_FLOAT)
            return value_integer(a) == value_integer(b);
        return value_real(a) == value_real(b);
    }
    if (a->kind != b->kind)
        return false;
    switch (a->kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return true;
    case VALUE_STRING:
        return a->text.n == b->text.n && !memcmp(a->text.s, b->text.s, a->text.n);
    case VALUE_LIST:
    case VALUE_TUPLE:
        if (a->n != b->n)
            return false;
        for (size_t i = 0; i < a->n; i++)
            if (!equal(a->items[i], b->items[i], depth + 1, left))
                return false;
        return true;
    case VALUE_MAP:
        return a->n == b->n && equal_maps(a, b, depth + 1, left);
    default:
        return false;
    }
}

bool value_equal(const struct template_value *a, const struct template_value *b)
{
    uint32_t left = LIMIT_TEMPLATE_COMPARED;
    return equal(a, b, 0, &left);
}

int value_compare(const struct template_value *a, const struct template_value *b, unsigned depth)
{
    if (value_is_number(a) && value_is_number(b)) {
        if (a->kind != VALUE_FLOAT && b->kind != VALUE_FLOAT) {
            const int64_t x = value_integer(a), y = value_integer(b);
            return (x > y) - (x < y);
        }
        const double x = value_real(a), y = value_real(b);
        return (x > y) - (x < y);
    }
    if (a->kind != b->kind || depth > LIMIT_TEMPLATE_RECURSION)
        return 2;
    if (a->kind == VALUE_STRING) { /* UTF-8 keeps the order of code points */
        const size_t n = min_size(a->text.n, b->text.n);
        const int c = n ? memcmp(a->text.s, b->text.s, n) : 0;
        return c ? (c > 0) - (c < 0) : (a->text.n > b->text.n) - (a->text.n < b->text.n);
    }
    if (!value_is_sequence(a))
        return 2;
    for (size_t i = 0; i < a->n && i < b->n; i++)
        if (!value_equal(a->items[i], b->items[i]))
            return value_compare(a->items[i], b->items[i], depth + 1);
    return (a->n > b->n) - (a->n < b->n);
}

const char *value_type_name(const struct template_value *v)
{
    static const char *const names[] = {
        [VALUE_UNDEFINED] = "Undefined",
        [VALUE_NONE] = "NoneType",
        [VALUE_BOOL] = "bool",
        [VALUE_INT] = "int",
        [VALUE_FLOAT] = "float",
        [VALUE_STRING] = "str",
        [VALUE_LIST] = "list",
        [VALUE_TUPLE] = "tuple",
        [VALUE_MAP] = "dict",
        [VALUE_NAMESPACE] = "Namespace",
        [VALUE_LOOP] = "loop",
        [VALUE_CYCLER] = "Cycler",
        [VALUE_JOINER] = "Joiner",
        [VALUE_FUNCTION] = "function",
        [VALUE_METHOD] = "method",
        [VALUE_MACRO] = "Macro",
    };
    return names[v->kind];
}
