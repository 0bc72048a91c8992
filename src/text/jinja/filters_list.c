/* Filters that take or give sequences. */
#include "base/numeric.h"
#include "text/jinja/filters.h"

#include <string.h>

#define FILTER(name)                                                                               \
    static struct template_value *name(struct eval *ev, struct template_value *v,                  \
                                       const struct arguments *a)

/* ---- parts that several use ---- */

static struct template_value *new_list(struct eval *ev)
{
    return eval_got(ev, template_list(ev->arena));
}

/* item.a.b.0 by "a.b.0", or by a number; the item itself if there is no attribute. */
static struct template_value *dig(struct eval *ev, struct template_value *item,
                                  struct template_value *attribute)
{
    if (!attribute || attribute->kind == VALUE_NONE)
        return item;
    if (attribute->kind != VALUE_STRING)
        return eval_item(ev, item, attribute);
    struct text path = attribute->text;
    while (item && path.n > 0) {
        const char *dot = memchr(path.s, '.', path.n);
        size_t n = dot ? (size_t)(dot - path.s) : path.n;
        int64_t index = 0;
        bool is_number = n > 0 && n < 10;
        for (size_t i = 0; i < n && is_number; i++) {
            is_number = path.s[i] >= '0' && path.s[i] <= '9';
            index = index * 10 + (path.s[i] - '0');
        }
        struct template_value *key = is_number ? eval_int(ev, index) : eval_string(ev, path.s, n);
        item = key ? eval_item(ev, item, key) : NULL;
        path = dot ? (struct text){dot + 1, path.n - n - 1} : (struct text){"", 0};
    }
    return item;
}

static struct template_value *sort_key(struct eval *ev, struct template_value *item,
                                       struct template_value *attribute, bool is_sensitive);

/* The keys of "a,b" as a tuple. */
static struct template_value *sort_keys(struct eval *ev, struct template_value *item,
                                        struct text names, bool is_sensitive)
{
    struct template_value *keys = eval_got(ev, value_new(ev->arena, VALUE_TUPLE));
    while (keys) {
        const char *comma = memchr(names.s, ',', names.n);
        const size_t n = comma ? (size_t)(comma - names.s) : names.n;
        struct template_value *name = eval_string(ev, names.s, n);
        if (!name || !eval_add(ev, keys, sort_key(ev, item, name, is_sensitive)))
            return NULL;
        if (!comma)
            break;
        names = (struct text){comma + 1, names.n - n - 1};
    }
    return keys;
}

/* What is compared: the attributes, in lower case unless case counts. */
static struct template_value *sort_key(struct eval *ev, struct template_value *item,
                                       struct template_value *attribute, bool is_sensitive)
{
    if (attribute && attribute->kind == VALUE_STRING &&
        memchr(attribute->text.s, ',', attribute->text.n))
        return sort_keys(ev, item, attribute->text, is_sensitive);
    struct template_value *key = dig(ev, item, attribute);
    const struct arguments none = {NULL, 0, NULL};
    if (key && key->kind == VALUE_STRING && !is_sensitive)
        key = eval_method(ev, key, (struct text){"lower", 5}, &none);
    return key;
}

/* ---- elements ---- */

FILTER(filter_list)
{
    (void)a;
    struct template_value *list = eval_list_of(ev, v), *out = list ? new_list(ev) : NULL;
    for (size_t i = 0; out && i < list->n; i++)
        if (!eval_add(ev, out, list->items[i]))
            return NULL;
    return out;
}

static struct template_value *element(struct eval *ev, struct template_value *v, bool is_last)
{
    struct template_value *list = eval_list_of(ev, v);
    if (!list)
        return NULL;
    if (list->n == 0)
        return eval_got(ev, value_undefined(ev->arena, "the sequence is empty", 21));
    return list->items[is_last ? list->n - 1 : 0];
}

FILTER(filter_first)
{
    (void)a;
    return element(ev, v, false);
}

FILTER(filter_last)
{
    (void)a;
    return element(ev, v, true);
}

FILTER(filter_join)
{
    const struct template_value *d = argument(a, 0, "d");
    struct template_value *attribute = argument(a, 1, "attribute");
    struct template_value *list = eval_list_of(ev, v);
    struct buffer b;
    if (!list)
        return NULL;
    eval_buffer(ev, &b);
    for (size_t i = 0; i < list->n && !ev->status; i++) {
        struct template_value *item = dig(ev, list->items[i], attribute);
        if (i > 0 && d)
            (void)format_str(ev, &b, d);
        if (item)
            (void)format_str(ev, &b, item);
    }
    return eval_take(ev, &b);
}

FILTER(filter_reverse)
{
    (void)a;
    bool is_text = v->kind == VALUE_STRING;
    struct template_value *list = eval_list_of(ev, v), *out = list ? new_list(ev) : NULL;
    for (size_t i = list ? list->n : 0; out && i-- > 0;)
        if (!eval_add(ev, out, list->items[i]))
            return NULL;
    const struct arguments none = {NULL, 0, NULL};
    return out && is_text ? filter_join(ev, out, &none) : out;
}

/* ---- choice ---- */

/* select, reject, selectattr, rejectattr: [attribute,] test, its arguments; no test: truth. */
static struct template_value *choose(struct eval *ev, struct template_value *v,
                                     const struct arguments *a, bool by_attribute, bool wanted)
{
    size_t skip = by_attribute;
    if (a->n < skip)
        return eval_fail(ev, "Missing parameter for attribute name");
    bool has_test = a->n > skip;
    if (has_test && a->items[skip]->kind != VALUE_STRING)
        return eval_fail(ev, "the test's name has to be a string");
    struct arguments rest = {NULL, 0, a->keywords};
    if (a->n > skip + 1)
        rest = (struct arguments){a->items + skip + 1, a->n - skip - 1, a->keywords};
    struct template_value *list = eval_list_of(ev, v), *out = list ? new_list(ev) : NULL;
    for (size_t i = 0; out && i < list->n; i++) {
        struct template_value *x = list->items[i];
        if (by_attribute)
            x = dig(ev, x, a->items[0]);
        int is_match = -1;
        if (x)
            is_match = has_test ? eval_test(ev, a->items[skip]->text, x, &rest) : value_is_true(x);
        if (is_match < 0 || ((is_match != 0) == wanted && !eval_add(ev, out, list->items[i])))
            return NULL;
    }
    return out;
}

FILTER(filter_select)
{
    return choose(ev, v, a, false, true);
}

FILTER(filter_reject)
{
    return choose(ev, v, a, false, false);
}

FILTER(filter_selectattr)
{
    return choose(ev, v, a, true, true);
}

FILTER(filter_rejectattr)
{
    return choose(ev, v, a, true, false);
}

FILTER(filter_map)
{
    struct template_value *attribute = argument(a, SIZE_MAX, "attribute");
    struct template_value *fallback = argument(a, SIZE_MAX, "default");
    if (!attribute && (a->n == 0 || a->items[0]->kind != VALUE_STRING))
        return eval_fail(ev, "map requires a filter argument");
    struct arguments rest = {NULL, 0, a->keywords};
    if (a->n > 1)
        rest = (struct arguments){a->items + 1, a->n - 1, a->keywords};
    struct template_value *list = eval_list_of(ev, v), *out = list ? new_list(ev) : NULL;
    for (size_t i = 0; out && i < list->n; i++) {
        struct template_value *x = attribute
                                       ? dig(ev, list->items[i], attribute)
                                       : eval_filter(ev, a->items[0]->text, list->items[i], &rest);
        if (x && attribute && fallback && x->kind == VALUE_UNDEFINED)
            x = fallback;
        if (!eval_add(ev, out, x))
            return NULL;
    }
    return out;
}

/* ---- order ---- */

/* Items with what they are ordered by. */
struct keyed {
    struct template_value *key, *item;
};

/* Stable, by insertion of sorted runs; false: two values have no order. */
static bool merge_sort(struct eval *ev, struct keyed *x, struct keyed *spare, size_t n,
                       bool is_reverse)
{
    if (n < 2)
        return true;
    size_t half = n / 2, i = 0, j = half;
    if (!eval_step(ev, n) || !merge_sort(ev, x, spare, half, is_reverse) ||
        !merge_sort(ev, x + half, spare, n - half, is_reverse))
        return false;
    for (size_t k = 0; k < n; k++) {
        int order = i < half && j < n ? value_compare(x[j].key, x[i].key, 0) : 0;
        if (order == 2)
            return eval_fail(ev, "'<' not supported between instances of '%s' and '%s'",
                             value_type_name(x[j].key), value_type_name(x[i].key)) != NULL;
        bool takes_right = i == half || (j < n && order == (is_reverse ? 1 : -1));
        spare[k] = takes_right ? x[j++] : x[i++];
    }
    memcpy(x, spare, n * sizeof *x);
    return true;
}

static struct keyed *sorted(struct eval *ev, struct template_value *list,
                            struct template_value *attribute, struct template_value *fallback,
                            bool is_sensitive, bool is_reverse)
{
    struct keyed *x = arena_array(ev->arena, list->n + 1, 2 * sizeof *x);
    if (!x) {
        (void)eval_fail(ev, "out of memory");
        return NULL;
    }
    for (size_t i = 0; i < list->n; i++) {
        x[i] =
            (struct keyed){sort_key(ev, list->items[i], attribute, is_sensitive), list->items[i]};
        if (!x[i].key)
            return NULL;
        if (fallback && x[i].key->kind == VALUE_UNDEFINED)
            x[i].key = fallback;
    }
    return merge_sort(ev, x, x + list->n + 1, list->n, is_reverse) ? x : NULL;
}

FILTER(filter_sort)
{
    struct template_value *list = eval_list_of(ev, v), *out = list ? new_list(ev) : NULL;
    struct keyed *x = out ? sorted(ev, list, argument(a, 2, "attribute"), NULL,
                                   filter_bool(a, 1, "case_sensitive", false),
                                   filter_bool(a, 0, "reverse", false))
                          : NULL;
    for (size_t i = 0; x && i < list->n; i++)
        if (!eval_add(ev, out, x[i].item))
            return NULL;
    return x ? out : NULL;
}

FILTER(filter_dictsort)
{
    const struct template_value *by = argument(a, 1, "by");
    struct template_value *pairs = NULL, *out = new_list(ev);
    const struct arguments none = {NULL, 0, NULL};
    if (v->kind != VALUE_MAP)
        return eval_fail(ev, "dictsort takes a mapping");
    pairs = eval_method(ev, v, (struct text){"items", 5}, &none);
    struct template_value *index = eval_int(ev, by && value_is_string(by, "value") ? 1 : 0);
    struct keyed *x = pairs && index && out ? sorted(ev, pairs, index, NULL,
                                                     filter_bool(a, 0, "case_sensitive", false),
                                                     filter_bool(a, 2, "reverse", false))
                                            : NULL;
    for (size_t i = 0; x && i < pairs->n; i++)
        if (!eval_add(ev, out, x[i].item))
            return NULL;
    return x ? out : NULL;
}

static struct template_value *extreme(struct eval *ev, struct template_value *v,
                                      const struct arguments *a, int wanted)
{
    bool is_sensitive = filter_bool(a, 0, "case_sensitive", false);
    struct template_value *attribute = argument(a, 1, "attribute");
    struct template_value *list = eval_list_of(ev, v), *best = NULL, *best_key = NULL;
    for (size_t i = 0; list && i < list->n; i++) {
        struct template_value *key = sort_key(ev, list->items[i], attribute, is_sensitive);
        int order = !key ? 2 : best ? value_compare(key, best_key, 0) : wanted;
        if (order == 2)
            return eval_fail(ev, "the values cannot be compared");
        if (order == wanted) {
            best = list->items[i];
            best_key = key;
        }
    }
    if (!list)
        return NULL;
    return best ? best : eval_got(ev, value_undefined(ev->arena, "the sequence is empty", 21));
}

FILTER(filter_min)
{
    return extreme(ev, v, a, -1);
}

FILTER(filter_max)
{
    return extreme(ev, v, a, 1);
}

FILTER(filter_unique)
{
    bool is_sensitive = filter_bool(a, 0, "case_sensitive", false);
    struct template_value *attribute = argument(a, 1, "attribute");
    struct template_value *list = eval_list_of(ev, v), *out = list ? new_list(ev) : NULL;
    struct template_value *seen = out ? new_list(ev) : NULL;
    for (size_t i = 0; seen && i < list->n; i++) {
        struct template_value *key = sort_key(ev, list->items[i], attribute, is_sensitive);
        bool is_new = key != NULL;
        for (size_t j = 0; is_new && j < seen->n; j++)
            is_new = !value_equal(seen->items[j], key);
        if (!key || !eval_step(ev, 1 + seen->n) ||
            (is_new && (!eval_add(ev, seen, key) || !eval_add(ev, out, list->items[i]))))
            return NULL;
    }
    return out;
}

/* ---- groups ---- */

FILTER(filter_groupby)
{
    struct template_value *attribute = argument(a, 0, "attribute");
    struct template_value *fallback = argument(a, 1, "default");
    bool is_sensitive = filter_bool(a, 2, "case_sensitive", false);
    struct template_value *list = eval_list_of(ev, v), *out = list ? new_list(ev) : NULL;
    struct template_value *group = NULL, *last = NULL;
    if (!attribute)
        return eval_fail(ev, "groupby takes an attribute");
    struct keyed *x = out ? sorted(ev, list, attribute, fallback, is_sensitive, false) : NULL;
    for (size_t i = 0; x && i < list->n; i++) {
        struct template_value *name = dig(ev, x[i].item, attribute);
        if (name && name->kind == VALUE_UNDEFINED && fallback)
            name = fallback;
        if (!name)
            return NULL;
        if (!last || !value_equal(last, x[i].key)) {
            struct template_value *tuple = eval_got(ev, value_new(ev->arena, VALUE_TUPLE));
            group = new_list(ev);
            if (!tuple || !eval_add(ev, tuple, name) || !eval_add(ev, tuple, group) ||
                !eval_add(ev, out, tuple))
                return NULL;
            tuple->self = group;
            last = x[i].key;
        }
        if (!eval_add(ev, group, x[i].item))
            return NULL;
    }
    return x ? out : NULL;
}

FILTER(filter_batch)
{
    int64_t size = filter_integer(a, 0, "linecount", 0);
    struct template_value *fill = argument(a, 1, "fill_with");
    struct template_value *list = eval_list_of(ev, v), *out = list ? new_list(ev) : NULL;
    struct template_value *line = NULL;
    if (size < 1)
        return eval_fail(ev, "batch takes a positive number");
    for (size_t i = 0; out && i < list->n; i++) {
        if (i % (size_t)size == 0 && (!(line = new_list(ev)) || !eval_add(ev, out, line)))
            return NULL;
        if (!eval_add(ev, line, list->items[i]))
            return NULL;
    }
    while (out && line && fill && line->n < (size_t)size)
        if (!eval_step(ev, 1) || !eval_add(ev, line, fill))
            return NULL;
    return out;
}

FILTER(filter_slice)
{
    int64_t count = filter_integer(a, 0, "slices", 0);
    struct template_value *fill = argument(a, 1, "fill_with");
    struct template_value *list = eval_list_of(ev, v), *out = list ? new_list(ev) : NULL;
    if (count < 1)
        return eval_fail(ev, "slice takes a positive number");
    size_t per = list ? list->n / (size_t)count : 0, extra = list ? list->n % (size_t)count : 0;
    for (size_t i = 0, at = 0; out && i < (size_t)count; i++) {
        size_t n = per + (i < extra);
        struct template_value *part = eval_step(ev, 1) ? new_list(ev) : NULL;
        for (size_t j = 0; part && j < n; j++)
            if (!eval_add(ev, part, list->items[at++]))
                return NULL;
        if (part && fill && extra > 0 && i >= extra && !eval_add(ev, part, fill))
            return NULL;
        if (!eval_add(ev, out, part))
            return NULL;
    }
    return out;
}

FILTER(filter_sum)
{
    struct template_value *attribute = argument(a, 0, "attribute"), *sum = argument(a, 1, "start");
    struct template_value *list = eval_list_of(ev, v);
    if (!sum && !(sum = eval_int(ev, 0)))
        return NULL;
    if (sum->kind == VALUE_STRING)
        return eval_fail(ev, "sum() can't sum strings [use ''.join(seq) instead]");
    for (size_t i = 0; list && sum && i < list->n; i++) {
        struct template_value *x = dig(ev, list->items[i], attribute);
        sum = x ? eval_binary(ev, OP_ADD, sum, x) : NULL;
    }
    return list ? sum : NULL;
}

const struct jinja_entry list_filters[] = {
    {"batch", filter_batch, 2},
    {"dictsort", filter_dictsort, 3},
    {"first", filter_first, 0},
    {"groupby", filter_groupby, 3},
    {"join", filter_join, 2},
    {"last", filter_last, 0},
    {"list", filter_list, 0},
    {"map", filter_map, 64},
    {"max", filter_max, 2},
    {"min", filter_min, 2},
    {"reject", filter_reject, 64},
    {"rejectattr", filter_rejectattr, 64},
    {"reverse", filter_reverse, 0},
    {"select", filter_select, 64},
    {"selectattr", filter_selectattr, 64},
    {"slice", filter_slice, 2},
    {"sort", filter_sort, 3},
    {"sum", filter_sum, 2},
    {"unique", filter_unique, 2},
};

const size_t n_list_filters = sizeof list_filters / sizeof *list_filters;
