/* The inside of template values, for the Jinja engine only. A value is never freed alone: it lives
 * in the arena of its rendering (constants: of the template). Lists and maps are changed only
 * while they are built; a namespace is the one thing a template can change. */
#ifndef TEXT_JINJA_VALUE_INTERNAL_H
#define TEXT_JINJA_VALUE_INTERNAL_H

#include "text/template_value.h"

enum value_kind {
    VALUE_UNDEFINED, /* text: why, for the error when it is used */
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_STRING,
    VALUE_LIST,
    VALUE_TUPLE,
    VALUE_MAP,
    VALUE_NAMESPACE, /* map */
    VALUE_LOOP,      /* map of the plain attributes; cycle() and changed() are methods */
    VALUE_CYCLER,    /* list, position */
    VALUE_JOINER,    /* text, position */
    VALUE_FUNCTION,  /* text: name of a built-in */
    VALUE_METHOD,    /* text: name; self */
    VALUE_MACRO,
};

struct text {
    const char *s;
    size_t n;
};

struct map_entry {
    struct template_value *key, *value;
    uint64_t hash;
};

struct loop_state;
struct macro;

struct template_value {
    enum value_kind kind;
    size_t n, cap; /* items or entries */
    union {
        bool boolean;
        int64_t integer;
        double real;
        struct text text;
        struct template_value **items;
        struct {
            struct map_entry *entries;
            uint32_t *index; /* open addressing, entry + 1; NULL while the map is small */
            size_t index_cap;
        } map;
        struct loop_state *loop;
        struct macro *macro;
    };
    /* of a method; of a namespace its map; state of a cycler or joiner (an integer); of a list that
     * is a range how it prints, of one that is a view of a dict the view's name; of a pair that
     * groupby made its list */
    struct template_value *self;
};

struct template_value *value_new(struct arena *arena, enum value_kind kind);
struct template_value *value_text(struct arena *arena, const char *s, size_t n); /* not copied */
struct template_value *value_undefined(struct arena *arena, const char *why, size_t n);

bool value_is_string(const struct template_value *v, const char *s);
bool value_is_number(const struct template_value *v); /* bool, int, float */
bool value_is_sequence(const struct template_value *v);
bool value_is_view(const struct template_value *v); /* of a dict: no items by index */
bool value_is_true(const struct template_value *v);
double value_real(const struct template_value *v); /* of a number */
int64_t value_integer(const struct template_value *v);
bool value_equal(const struct template_value *a, const struct template_value *b);

/* -1, 0, 1; 2 if Python has no order between them. */
int value_compare(const struct template_value *a, const struct template_value *b, unsigned depth);
const char *value_type_name(const struct template_value *v); /* Python's */

struct template_value *value_map_get(const struct template_value *map,
                                     const struct template_value *key);
struct template_value *value_map_get_text(const struct template_value *map, struct text key);
bool value_map_put(struct arena *arena, struct template_value *map, struct template_value *key,
                   struct template_value *value);
bool value_is_hashable(const struct template_value *v);

#endif
