/* Filters, by name. */
#include "text/jinja/eval.h"

#include <string.h>

static struct template_value *filter_trim(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    v = format_text(ev, v);
    const struct text t = v ? text_strip(v->text, argument(a, 0, "chars"), 3) : (struct text){"", 0};
    return v ? eval_string(ev, t.s, t.n) : NULL;
}

static struct template_value *filter_length(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    (void)a;
    if (v->kind == VALUE_STRING)
        return eval_int(ev, (int64_t)text_length(v->text));
    struct template_value *list = eval_list_of(ev, v);
    return list ? eval_int(ev, (int64_t)list->n) : NULL;
}

static struct template_value *filter_default(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    struct template_value *other = argument(a, 0, "default_value"), *all = argument(a, 1, "boolean");
    if (v->kind != VALUE_UNDEFINED && !(all && value_is_true(all) && !value_is_true(v)))
        return v;
    return other ? other : eval_string(ev, "", 0);
}

static struct template_value *filter_join(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    const struct template_value *d = argument(a, 0, "d"), *attribute = argument(a, 1, "attribute");
    struct template_value *list = eval_list_of(ev, v);
    struct buffer b;
    eval_buffer(ev, &b);
    for (size_t i = 0; list && i < list->n && !ev->status; i++) {
        struct template_value *item = list->items[i];
        if (i && d)
            (void)format_str(ev, &b, d);
        if (attribute && attribute->kind == VALUE_STRING)
            item = eval_attribute(ev, item, attribute->text);
        if (item)
            (void)format_str(ev, &b, item);
    }
    return eval_take(ev, &b);
}

static struct template_value *filter_string(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    (void)a;
    return format_text(ev, v);
}

static struct template_value *filter_list(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    (void)a;
    struct template_value *list = eval_list_of(ev, v), *out = list ? eval_got(ev, template_list(ev->arena)) : NULL;
    for (size_t i = 0; out && i < list->n; i++)
        if (!eval_add(ev, out, list->items[i]))
            return NULL;
    return out;
}

static struct template_value *filter_first(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    (void)a;
    struct template_value *list = eval_list_of(ev, v);
    return !list ? NULL : list->n ? list->items[0] : eval_got(ev, value_undefined(ev->arena, "no first item", 13));
}

static struct template_value *filter_last(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    (void)a;
    struct template_value *list = eval_list_of(ev, v);
    return !list ? NULL : list->n ? list->items[list->n - 1] : eval_got(ev, value_undefined(ev->arena, "no last item", 12));
}

static struct template_value *filter_method(struct eval *ev, struct template_value *v, const struct arguments *a,
                                            const char *name)
{
    v = format_text(ev, v);
    return v ? eval_method(ev, v, (struct text){name, strlen(name)}, a) : NULL;
}

static struct template_value *filter_upper(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    return filter_method(ev, v, a, "upper");
}

static struct template_value *filter_lower(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    return filter_method(ev, v, a, "lower");
}

static struct template_value *filter_replace(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    return filter_method(ev, v, a, "replace");
}

static struct template_value *filter_items(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    if (v->kind == VALUE_UNDEFINED)
        return eval_got(ev, template_list(ev->arena));
    return v->kind == VALUE_MAP ? eval_method(ev, v, (struct text){"items", 5}, a)
                                : eval_fail(ev, "Can only get item pairs from a mapping.");
}

/* select, reject, selectattr, rejectattr */
static struct template_value *choose(struct eval *ev, struct template_value *v, const struct arguments *a,
                                     bool by_attribute, bool wanted)
{
    struct template_value *list = eval_list_of(ev, v), *out = list ? eval_got(ev, template_list(ev->arena)) : NULL;
    const size_t skip = by_attribute;
    if (a->n < skip)
        return eval_fail(ev, "Missing parameter for attribute name");
    for (size_t i = 0; out && i < list->n; i++) {
        struct template_value *x = by_attribute ? eval_item(ev, list->items[i], a->items[0]) : list->items[i];
        const struct arguments rest = {a->items + skip + 1, a->n > skip ? a->n - skip - 1 : 0, a->keywords};
        const int r = !x ? -1 : a->n > skip ? eval_test(ev, a->items[skip]->text, x, &rest) : value_is_true(x);
        if (r < 0 || ((r != 0) == wanted && !eval_add(ev, out, list->items[i])))
            return NULL;
    }
    return out;
}

static struct template_value *filter_select(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    return choose(ev, v, a, false, true);
}

static struct template_value *filter_reject(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    return choose(ev, v, a, false, false);
}

static struct template_value *filter_selectattr(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    return choose(ev, v, a, true, true);
}

static struct template_value *filter_rejectattr(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    return choose(ev, v, a, true, false);
}

static struct template_value *filter_map(struct eval *ev, struct template_value *v, const struct arguments *a)
{
    struct template_value *list = eval_list_of(ev, v), *out = list ? eval_got(ev, template_list(ev->arena)) : NULL;
    struct template_value *attribute = argument(a, SIZE_MAX, "attribute");
    const struct arguments rest = {a->items + 1, a->n ? a->n - 1 : 0, a->keywords};
    if (!attribute && (!a->n || a->items[0]->kind != VALUE_STRING))
        return eval_fail(ev, "map requires a filter argument");
    for (size_t i = 0; out && i < list->n; i++)
        if (!eval_add(ev, out, attribute ? eval_item(ev, list->items[i], attribute)
                                         : eval_filter(ev, a->items[0]->text, list->items[i], &rest)))
            return NULL;
    return out;
}

struct template_value *eval_filter(struct eval *ev, struct text name, struct template_value *v,
                                   const struct arguments *args)
{
    static const struct jinja_entry rows[] = {
        {"count", filter_length, 0},   {"d", filter_default, 2},      {"default", filter_default, 2},
        {"first", filter_first, 0},    {"items", filter_items, 0},    {"join", filter_join, 2},
        {"last", filter_last, 0},      {"length", filter_length, 0},  {"list", filter_list, 0},
        {"lower", filter_lower, 0},    {"map", filter_map, 16},       {"reject", filter_reject, 16},
        {"rejectattr", filter_rejectattr, 16}, {"replace", filter_replace, 3}, {"safe", filter_string, 0},
        {"select", filter_select, 16}, {"selectattr", filter_selectattr, 16}, {"string", filter_string, 0},
        {"tojson", format_json, 5},    {"trim", filter_trim, 1},      {"upper", filter_upper, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (name.n == strlen(rows[i].name) && !memcmp(name.s, rows[i].name, name.n)) {
            if (args->n > rows[i].max_args)
                return eval_fail(ev, "filter '%s' takes at most %zu argument(s)", rows[i].name, rows[i].max_args);
            return eval_step(ev, 1) ? rows[i].call(ev, v, args) : NULL;
        }
    return eval_fail(ev, "No filter named '%.*s'", (int)(name.n > 80 ? 80 : name.n), name.s);
}
