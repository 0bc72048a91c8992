/* The functions that every template can call. */
#include "base/limits.h"
#include "text/jinja/eval.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef const struct arguments args_t;

static bool put_all(struct eval *ev, struct template_value *map, const struct template_value *from)
{
    for (size_t i = 0; i < from->n; i++)
        if (!value_map_put(ev->arena, map, from->map.entries[i].key, from->map.entries[i].value))
            return eval_fail(ev, "out of memory") != NULL;
    return true;
}

/* A new map of a mapping or of pairs, and of the keywords. */
static struct template_value *call_dict(struct eval *ev, struct template_value *self, args_t *a)
{
    (void)self;
    struct template_value *out = eval_got(ev, template_map(ev->arena));
    if (!out)
        return NULL;
    if (a->n > 0 && a->items[0]->kind == VALUE_MAP) {
        if (!put_all(ev, out, a->items[0]))
            return NULL;
    } else if (a->n > 0) {
        const struct template_value *pairs = eval_list_of(ev, a->items[0]);
        for (size_t i = 0; pairs && i < pairs->n; i++) {
            const struct template_value *pair = pairs->items[i];
            if (!value_is_sequence(pair) || pair->n != 2 || !value_is_hashable(pair->items[0]))
                return eval_fail(ev, "dictionary update sequence element #%zu is no pair", i);
            if (!value_map_put(ev->arena, out, pair->items[0], pair->items[1]))
                return eval_fail(ev, "out of memory");
        }
        if (!pairs)
            return NULL;
    }
    return put_all(ev, out, a->keywords) ? out : NULL;
}

static struct template_value *call_namespace(struct eval *ev, struct template_value *self,
                                             args_t *a)
{
    struct template_value *map = call_dict(ev, self, a);
    struct template_value *v = map ? eval_got(ev, value_new(ev->arena, VALUE_NAMESPACE)) : NULL;
    if (v)
        v->self = map;
    return v;
}

static struct template_value *call_range(struct eval *ev, struct template_value *self, args_t *a)
{
    int64_t bounds[3] = {0, 0, 1};
    (void)self;
    for (size_t i = 0; i < a->n; i++) {
        if (a->items[i]->kind != VALUE_INT && a->items[i]->kind != VALUE_BOOL)
            return eval_fail(ev, "'%s' object cannot be interpreted as an integer",
                             value_type_name(a->items[i]));
        bounds[a->n == 1 ? 1 : i] = value_integer(a->items[i]);
    }
    if (a->n == 0 || bounds[2] == 0)
        return eval_fail(ev, a->n ? "range() arg 3 must not be zero"
                                  : "range expected at least 1 argument, got 0");
    struct template_value *out = eval_got(ev, template_list(ev->arena));
    char shown[80];
    int64_t at = bounds[0];
    (void)snprintf(shown, sizeof shown, "range(%" PRId64 ", %" PRId64, bounds[0], bounds[1]);
    if (bounds[2] != 1)
        (void)snprintf(shown + strlen(shown), sizeof shown - strlen(shown), ", %" PRId64,
                       bounds[2]);
    (void)snprintf(shown + strlen(shown), sizeof shown - strlen(shown), ")");
    if (out && !(out->self = eval_string(ev, shown, strlen(shown))))
        return NULL;
    while (out && (bounds[2] > 0 ? at < bounds[1] : at > bounds[1])) {
        if (out->n >= LIMIT_TEMPLATE_RANGE)
            return eval_fail(ev, "Range too big. The sandbox blocks ranges larger than %u.",
                             LIMIT_TEMPLATE_RANGE);
        if (!eval_step(ev, 1) || !eval_add(ev, out, eval_int(ev, at)))
            return NULL;
        if (__builtin_add_overflow(at, bounds[2], &at))
            break;
    }
    return out;
}

static struct template_value *call_cycler(struct eval *ev, struct template_value *self, args_t *a)
{
    (void)self;
    if (a->n == 0)
        return eval_fail(ev, "at least one item has to be provided");
    struct template_value *v = eval_got(ev, value_new(ev->arena, VALUE_CYCLER));
    for (size_t i = 0; v && i < a->n; i++)
        if (!eval_add(ev, v, a->items[i]))
            return NULL;
    return v && (v->self = eval_int(ev, 0)) ? v : NULL;
}

static struct template_value *call_joiner(struct eval *ev, struct template_value *self, args_t *a)
{
    (void)self;
    const struct template_value *separator = argument(a, 0, "sep");
    if (separator && separator->kind != VALUE_STRING)
        return eval_fail(ev, "joiner() takes a string");
    struct template_value *v = eval_got(ev, value_new(ev->arena, VALUE_JOINER));
    if (!v || !(v->self = eval_int(ev, 0)))
        return NULL;
    v->text = separator ? separator->text : (struct text){", ", 2};
    return v;
}

static struct template_value *call_raise(struct eval *ev, struct template_value *self, args_t *a)
{
    (void)self;
    struct template_value *message = argument(a, 0, "message");
    if (!message)
        return eval_fail(ev, "raise_exception() takes a message");
    message = format_text(ev, message);
    if (!message)
        return NULL;
    return eval_fail(ev, "%.*s", (int)(message->text.n > 400 ? 400 : message->text.n),
                     message->text.s);
}

/* strftime() runs with a leading mark, so that an empty result differs from a failure. */
static struct template_value *call_strftime_now(struct eval *ev, struct template_value *self,
                                                args_t *a)
{
    (void)self;
    const struct template_value *format = argument(a, 0, "format");
    char pattern[256], text[1024];
    if (!format || format->kind != VALUE_STRING || format->text.n > sizeof pattern - 2)
        return eval_fail(ev, "strftime_now() takes a format of at most %zu bytes",
                         sizeof pattern - 2);
    pattern[0] = '=';
    if (format->text.n)
        memcpy(pattern + 1, format->text.s, format->text.n);
    pattern[format->text.n + 1] = '\0';
    const time_t now = (time_t)clock_wall_seconds(ev->clock);
    struct tm local;
    if (!localtime_r(&now, &local))
        return eval_fail(ev, "strftime_now(): no local time");
    const size_t n = strftime(text, sizeof text, pattern, &local);
    return n ? eval_string(ev, text + 1, n - 1) : eval_fail(ev, "strftime_now(): result too long");
}

static const struct jinja_entry rows[] = {
    {"cycler", call_cycler, SIZE_MAX},
    {"dict", call_dict, 1},
    {"joiner", call_joiner, 1},
    {"namespace", call_namespace, 1},
    {"raise_exception", call_raise, 1},
    {"range", call_range, 3},
    {"strftime_now", call_strftime_now, 1},
};

static const struct jinja_entry *find(struct text name)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (name.n == strlen(rows[i].name) && !memcmp(name.s, rows[i].name, name.n))
            return &rows[i];
    return NULL;
}

bool jinja_has_function(struct text name)
{
    return find(name) != NULL;
}

struct template_value *eval_function(struct eval *ev, struct text name,
                                     const struct arguments *args)
{
    const struct jinja_entry *e = find(name);
    if (!e)
        return eval_fail(ev, "'%.*s' is undefined", (int)(name.n > 80 ? 80 : name.n), name.s);
    if (args->n > e->max_args)
        return eval_fail(ev, "%s() takes at most %zu argument(s)", e->name, e->max_args);
    return e->call(ev, NULL, args);
}
