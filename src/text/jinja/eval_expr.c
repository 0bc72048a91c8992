/* Expressions: names, operators, attributes, items, slices, calls. */
#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "text/jinja/text_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct template_value *eval_fail(struct eval *ev, const char *format, ...)
{
    char what[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (!ev->status)
        ev->status = fail(ev->err, SERVERD_INVALID,
                          "chat template, line %" PRIu32 ", column %" PRIu32 ": %s",
                          ev->at ? ev->at->line : 1, ev->at ? ev->at->column : 1, what);
    return NULL;
}

bool eval_step(struct eval *ev, size_t cost)
{
    const uint32_t before = ev->steps;
    if (cost >= ev->budget->max_steps || (ev->steps += (uint32_t)cost) > ev->budget->max_steps)
        return eval_fail(ev, "more than %" PRIu32 " steps", ev->budget->max_steps) != NULL;
    if (before / 1024 != ev->steps / 1024 && ev->budget->max_time_ns &&
        clock_now_ns(&processor_clock) > ev->deadline_ns)
        return eval_fail(ev, "took too long") != NULL;
    return !ev->status;
}

struct template_value *eval_got(struct eval *ev, struct template_value *v)
{
    return v ? v : eval_fail(ev, "out of memory");
}

struct template_value *eval_string(struct eval *ev, const char *s, size_t n)
{
    if (!eval_step(ev, 1 + n / 256))
        return NULL;
    return eval_got(ev, template_string(ev->arena, s, n));
}

void eval_buffer(struct eval *ev, struct buffer *b)
{
    buffer_init(b, ev->budget->max_output);
}

struct template_value *eval_take(struct eval *ev, struct buffer *b)
{
    struct template_value *v = NULL;
    if (b->is_failed)
        (void)eval_fail(ev, "text longer than %zu bytes", ev->budget->max_output);
    else if (!ev->status)
        v = eval_string(ev, buffer_str(b), b->len);
    buffer_deinit(b);
    return v;
}

struct template_value *eval_bool(struct eval *ev, bool b)
{
    return eval_got(ev, template_bool(ev->arena, b));
}

struct template_value *eval_int(struct eval *ev, int64_t i)
{
    return eval_got(ev, template_int(ev->arena, i));
}

bool eval_add(struct eval *ev, struct template_value *list, struct template_value *item)
{
    if (!item || !list)
        return false;
    if (!template_list_add(ev->arena, list, item))
        return eval_fail(ev, "out of memory") != NULL;
    return true;
}

struct template_value *argument(const struct arguments *args, size_t i, const char *name)
{
    if (i < args->n)
        return args->items[i];
    return name && args->keywords
               ? value_map_get_text(args->keywords, (struct text){name, strlen(name)})
               : NULL;
}

/* An undefined value that says why when it is used. */
static struct template_value *undefined(struct eval *ev, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static struct template_value *undefined(struct eval *ev, const char *format, ...)
{
    char why[200];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(why, sizeof why, format, args);
    va_end(args);
    const char *copy = arena_copy(ev->arena, why, strlen(why));
    return eval_got(ev, copy ? value_undefined(ev->arena, copy, strlen(copy)) : NULL);
}

static int shown(struct text name)
{
    return name.n > 80 ? 80 : (int)name.n;
}

static struct template_value *eval_name(struct eval *ev, struct text name)
{
    struct template_value *v;
    for (struct scope *s = ev->scope; s; s = s->parent)
        if ((v = value_map_get_text(s->names, name)) != NULL)
            return v;
    if ((v = value_map_get_text(ev->globals, name)) != NULL)
        return v;
    if (jinja_has_function(name)) {
        v = value_new(ev->arena, VALUE_FUNCTION);
        if (v)
            v->text = name;
        return eval_got(ev, v);
    }
    return undefined(ev, "'%.*s' is undefined", shown(name), name.s);
}

static struct template_value *used_undefined(struct eval *ev, const struct template_value *v)
{
    return eval_fail(ev, "%.*s", v->text.n > 300 ? 300 : (int)v->text.n, v->text.s);
}

/* ---- items and attributes ---- */

static struct template_value *loop_attribute(struct eval *ev, const struct loop_state *loop,
                                             struct text name)
{
    const int64_t i = (int64_t)loop->index, n = (int64_t)loop->items->n;
    const struct {
        const char *name;
        int64_t value;
        bool is_bool;
    } rows[] = {
        {"index", i + 1, false},
        {"index0", i, false},
        {"revindex", n - i, false},
        {"revindex0", n - i - 1, false},
        {"length", n, false},
        {"first", i == 0, true},
        {"last", i + 1 == n, true},
        {"depth", loop->depth, false},
        {"depth0", loop->depth - 1, false},
    };
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++)
        if (name.n == strlen(rows[k].name) && !memcmp(name.s, rows[k].name, name.n))
            return rows[k].is_bool ? eval_bool(ev, rows[k].value != 0)
                                   : eval_int(ev, rows[k].value);
    if (name.n == 8 && !memcmp(name.s, "previtem", 8))
        return i > 0 ? loop->items->items[i - 1] : undefined(ev, "there is no such item");
    if (name.n == 8 && !memcmp(name.s, "nextitem", 8))
        return i + 1 < n ? loop->items->items[i + 1] : undefined(ev, "there is no next item");
    return NULL;
}

static struct template_value *plain_attribute(struct eval *ev, struct template_value *v,
                                              struct text name)
{
    if (v->kind == VALUE_NAMESPACE)
        return value_map_get_text(v->self, name);
    if (v->kind == VALUE_LOOP) {
        struct template_value *got = loop_attribute(ev, v->loop, name);
        if (got || ev->status)
            return got;
    }
    if (v->kind == VALUE_MACRO && name.n == 4 && !memcmp(name.s, "name", 4))
        return eval_got(ev, value_text(ev->arena, v->macro->node->name.s, v->macro->node->name.n));
    if (v->kind == VALUE_CYCLER && name.n == 7 && !memcmp(name.s, "current", 7))
        return v->items[v->self->integer];
    if (v->kind == VALUE_TUPLE && v->self && name.n == 7 && !memcmp(name.s, "grouper", 7))
        return v->items[0];
    if (v->kind == VALUE_TUPLE && v->self && name.n == 4 && !memcmp(name.s, "list", 4))
        return v->self;
    if (!jinja_has_method(v, name))
        return NULL;
    struct template_value *method = value_new(ev->arena, VALUE_METHOD);
    if (method) {
        method->text = name;
        method->self = v;
    }
    return eval_got(ev, method);
}

static bool index_of(struct eval *ev, const struct template_value *key, size_t n, size_t *out)
{
    (void)ev;
    if (key->kind != VALUE_INT && key->kind != VALUE_BOOL)
        return false;
    int64_t i = value_integer(key);
    if (i < 0)
        i += (int64_t)n;
    if (i < 0 || (uint64_t)i >= n)
        return false;
    *out = (size_t)i;
    return true;
}

static struct template_value *plain_item(struct eval *ev, struct template_value *v,
                                         struct template_value *key)
{
    size_t i;
    const size_t cost = (v->kind == VALUE_STRING ? v->text.n : 0) / 256 +
                        (key->kind == VALUE_STRING ? key->text.n : 0) / 256;
    if (!eval_step(ev, cost))
        return NULL;
    if (v->kind == VALUE_MAP)
        return value_is_hashable(key) ? value_map_get(v, key) : NULL;
    if (value_is_sequence(v) && !value_is_view(v))
        return index_of(ev, key, v->n, &i) ? v->items[i] : NULL;
    if (v->kind == VALUE_STRING && index_of(ev, key, text_length(v->text), &i)) {
        const size_t from = text_offset(v->text, i), to = text_offset(v->text, i + 1);
        return eval_string(ev, v->text.s + from, to - from);
    }
    return NULL;
}

struct template_value *eval_attribute(struct eval *ev, struct template_value *v, struct text name)
{
    if (v->kind == VALUE_UNDEFINED)
        return used_undefined(ev, v);
    struct template_value *got = plain_attribute(ev, v, name);
    if (!got && !ev->status && v->kind == VALUE_MAP)
        got = value_map_get_text(v, name);
    if (got || ev->status)
        return got;
    return undefined(ev, "'%s object' has no attribute '%.*s'", value_type_name(v), shown(name),
                     name.s);
}

struct template_value *eval_item(struct eval *ev, struct template_value *v,
                                 struct template_value *key)
{
    if (v->kind == VALUE_UNDEFINED)
        return used_undefined(ev, v);
    struct template_value *got = plain_item(ev, v, key);
    if (!got && !ev->status && key->kind == VALUE_STRING)
        got = plain_attribute(ev, v, key->text);
    if (got || ev->status)
        return got;
    const struct text name = key->kind == VALUE_STRING ? key->text : (struct text){"item", 4};
    return undefined(ev, "'%s object' has no attribute '%.*s'", value_type_name(v), shown(name),
                     name.s);
}

static bool slice_bound(struct eval *ev, const struct node *n, int64_t *out, bool *is_given)
{
    *is_given = false;
    if (!n)
        return true;
    const struct template_value *v = eval_node(ev, n);
    if (!v)
        return false;
    if (v->kind == VALUE_NONE)
        return true;
    if (v->kind != VALUE_INT && v->kind != VALUE_BOOL)
        return eval_fail(ev, "a slice takes integers, not %s", value_type_name(v)) != NULL;
    *out = value_integer(v);
    *is_given = true;
    return true;
}

/* Python's rule: counted from the end if negative, then held inside. */
static int64_t slice_clamp(int64_t i, int64_t n, int64_t low, int64_t high)
{
    if (i < 0)
        i += n;
    return i < low ? low : i > high ? high : i;
}

static struct template_value *slice(struct eval *ev, struct template_value *v, const struct node *n)
{
    int64_t start = 0, stop = 0, step = 1;
    bool has_start, has_stop, has_step;
    if (!slice_bound(ev, n->a, &start, &has_start) || !slice_bound(ev, n->b, &stop, &has_stop) ||
        !slice_bound(ev, n->c, &step, &has_step))
        return NULL;
    if (v->kind == VALUE_UNDEFINED)
        return used_undefined(ev, v);
    if (v->kind == VALUE_MAP)
        return eval_fail(ev, "unhashable type: 'slice'");
    if (v->kind == VALUE_STRING && !eval_step(ev, v->text.n / 256))
        return NULL;
    if (step == 0 || (v->kind != VALUE_STRING && !value_is_sequence(v)))
        return step ? undefined(ev, "'%s object' has no such slice", value_type_name(v))
                    : eval_fail(ev, "slice step cannot be zero");
    const int64_t len = (int64_t)(v->kind == VALUE_STRING ? text_length(v->text) : v->n);
    const int64_t low = step < 0 ? -1 : 0, high = step < 0 ? len - 1 : len;
    start = has_start ? slice_clamp(start, len, low, high) : step < 0 ? high : low;
    stop = has_stop ? slice_clamp(stop, len, low, high) : step < 0 ? low : high;
    if (step > len)
        step = len + 1;
    if (step < -len)
        step = -len - 1;
    if (v->kind == VALUE_STRING && step == 1) {
        const size_t from = text_offset(v->text, (size_t)start);
        const size_t to = stop > start ? text_offset(v->text, (size_t)stop) : from;
        return eval_string(ev, v->text.s + from, to - from);
    }
    struct template_value *source = v;
    if (v->kind == VALUE_STRING && !(source = eval_list_of(ev, v)))
        return NULL;
    struct template_value *out =
        eval_got(ev, value_new(ev->arena, v->kind == VALUE_TUPLE ? VALUE_TUPLE : VALUE_LIST));
    struct buffer text;
    eval_buffer(ev, &text);
    for (int64_t i = start; out && (step > 0 ? i < stop : i > stop); i += step) {
        struct template_value *item = source->items[i];
        if (!eval_step(ev, 1))
            out = NULL;
        else if (v->kind == VALUE_STRING)
            buffer_append(&text, item->text.s, item->text.n);
        else if (!eval_add(ev, out, item))
            out = NULL;
    }
    if (out && v->kind == VALUE_STRING)
        return eval_take(ev, &text);
    buffer_deinit(&text);
    return out;
}

/* Everything that can be looped over, as a list. */
struct template_value *eval_list_of(struct eval *ev, struct template_value *v)
{
    if (value_is_sequence(v))
        return v;
    struct template_value *list = eval_got(ev, template_list(ev->arena));
    if (!list || v->kind == VALUE_UNDEFINED)
        return list;
    if (v->kind == VALUE_MAP) {
        for (size_t i = 0; i < v->n; i++)
            if (!eval_add(ev, list, v->map.entries[i].key))
                return NULL;
        return list;
    }
    if (v->kind != VALUE_STRING)
        return eval_fail(ev, "'%s' object is not iterable", value_type_name(v));
    for (size_t at = 0; at < v->text.n;) {
        const struct text rest = {v->text.s + at, v->text.n - at};
        const size_t n = text_offset(rest, 1);
        if (!eval_add(ev, list, eval_string(ev, rest.s, n)))
            return NULL;
        at += n;
    }
    return list;
}

/* ---- operators ---- */

static struct template_value *arithmetic_fail(struct eval *ev, const struct template_value *a,
                                              const struct template_value *b)
{
    if (a->kind == VALUE_UNDEFINED)
        return used_undefined(ev, a);
    if (b->kind == VALUE_UNDEFINED)
        return used_undefined(ev, b);
    return eval_fail(ev, "unsupported operand types: '%s' and '%s'", value_type_name(a),
                     value_type_name(b));
}

static struct template_value *integer_power(struct eval *ev, int64_t base, int64_t exponent)
{
    int64_t r = 1;
    if (exponent < 0)
        return eval_got(ev, template_float(ev->arena, pow((double)base, (double)exponent)));
    for (; exponent; exponent >>= 1) {
        if ((exponent & 1) && __builtin_mul_overflow(r, base, &r))
            return eval_fail(ev, "integer out of range");
        if (exponent > 1 && __builtin_mul_overflow(base, base, &base))
            return eval_fail(ev, "integer out of range");
    }
    return eval_int(ev, r);
}

static struct template_value *integer_binary(struct eval *ev, int op, int64_t a, int64_t b)
{
    int64_t r = 0;
    bool overflows = false;
    switch (op) {
    case OP_ADD:
        overflows = __builtin_add_overflow(a, b, &r);
        break;
    case OP_SUB:
        overflows = __builtin_sub_overflow(a, b, &r);
        break;
    case OP_MUL:
        overflows = __builtin_mul_overflow(a, b, &r);
        break;
    case OP_POW:
        return integer_power(ev, a, b);
    default:
        if (b == 0)
            return eval_fail(ev, "division by zero");
        if (op == OP_DIV)
            return eval_got(ev, template_float(ev->arena, (double)a / (double)b));
        if (b == -1) {
            overflows = op == OP_FLOOR_DIV && __builtin_sub_overflow((int64_t)0, a, &r);
            break;
        }
        r = op == OP_MOD ? a % b : a / b; /* Python rounds down */
        if (a % b && (a % b < 0) != (b < 0))
            r += op == OP_MOD ? b : -1;
    }
    return overflows ? eval_fail(ev, "integer out of range") : eval_int(ev, r);
}

static struct template_value *real_binary(struct eval *ev, int op, double a, double b)
{
    double r = 0;
    if (b == 0 && (op == OP_DIV || op == OP_FLOOR_DIV || op == OP_MOD))
        return eval_fail(ev, "division by zero");
    switch (op) {
    case OP_ADD:
        r = a + b;
        break;
    case OP_SUB:
        r = a - b;
        break;
    case OP_MUL:
        r = a * b;
        break;
    case OP_DIV:
        r = a / b;
        break;
    case OP_FLOOR_DIV:
        r = floor(a / b);
        break;
    case OP_MOD:
        r = a - b * floor(a / b);
        break;
    default:
        r = pow(a, b);
    }
    return eval_got(ev, template_float(ev->arena, r));
}

static struct template_value *repeat(struct eval *ev, struct template_value *v, int64_t times)
{
    if (v->kind == VALUE_STRING) {
        struct buffer b;
        eval_buffer(ev, &b);
        for (int64_t i = 0; i < times && v->text.n && !b.is_failed && eval_step(ev, 1); i++)
            buffer_append(&b, v->text.s, v->text.n);
        return eval_take(ev, &b);
    }
    struct template_value *out = eval_got(ev, value_new(ev->arena, v->kind));
    for (int64_t i = 0; i < times && v->n && out; i++)
        for (size_t k = 0; k < v->n; k++)
            if (!eval_step(ev, 1) || !eval_add(ev, out, v->items[k]))
                return NULL;
    return out;
}

static struct template_value *join_values(struct eval *ev, const struct template_value *a,
                                          const struct template_value *b)
{
    if (a->kind == VALUE_STRING) {
        struct buffer text;
        eval_buffer(ev, &text);
        buffer_append(&text, a->text.s, a->text.n);
        buffer_append(&text, b->text.s, b->text.n);
        return eval_take(ev, &text);
    }
    struct template_value *out = eval_got(ev, value_new(ev->arena, a->kind));
    for (size_t i = 0; out && i < a->n + b->n; i++)
        if (!eval_step(ev, 1) || !eval_add(ev, out, i < a->n ? a->items[i] : b->items[i - a->n]))
            return NULL;
    return out;
}

struct template_value *eval_binary(struct eval *ev, int op, struct template_value *a,
                                   struct template_value *b)
{
    if (value_is_number(a) && value_is_number(b)) {
        if (a->kind == VALUE_FLOAT || b->kind == VALUE_FLOAT)
            return real_binary(ev, op, value_real(a), value_real(b));
        return integer_binary(ev, op, value_integer(a), value_integer(b));
    }
    const bool a_repeats = a->kind == VALUE_STRING || value_is_sequence(a);
    if (op == OP_ADD && a->kind == b->kind && a_repeats)
        return join_values(ev, a, b);
    if (op == OP_MUL && a_repeats && (b->kind == VALUE_INT || b->kind == VALUE_BOOL))
        return repeat(ev, a, value_integer(b));
    if (op == OP_MUL && (b->kind == VALUE_STRING || value_is_sequence(b)) &&
        (a->kind == VALUE_INT || a->kind == VALUE_BOOL))
        return repeat(ev, b, value_integer(a));
    if (op == OP_MOD && a->kind == VALUE_STRING) {
        const struct template_value none = {.kind = VALUE_MAP};
        struct template_value keywords = none;
        const struct arguments args = {b->kind == VALUE_TUPLE ? b->items : &b,
                                       b->kind == VALUE_TUPLE ? b->n : 1, &keywords};
        return format_percent(ev, a, &args);
    }
    return arithmetic_fail(ev, a, b);
}

static int contains(struct eval *ev, struct template_value *item, struct template_value *v)
{
    if (v->kind == VALUE_STRING) {
        if (item->kind != VALUE_STRING) {
            (void)eval_fail(ev, "'in <string>' requires string as left operand, not %s",
                            value_type_name(item));
            return -1;
        }
        size_t at, len;
        return eval_step(ev, v->text.n / 256) ? text_find(v->text, item->text, false, &at, &len)
                                              : -1;
    }
    if (v->kind == VALUE_MAP) {
        if (!value_is_hashable(item)) {
            (void)eval_fail(ev, "unhashable type: '%s'", value_type_name(item));
            return -1;
        }
        return value_map_get(v, item) != NULL;
    }
    struct template_value *list = eval_list_of(ev, v);
    if (!list || !eval_step(ev, 1 + list->n / 16))
        return -1;
    for (size_t i = 0; i < list->n; i++)
        if (value_equal(list->items[i], item))
            return 1;
    return 0;
}

int eval_compare(struct eval *ev, int op, struct template_value *a, struct template_value *b)
{
    int r;
    if (a->kind == VALUE_STRING && b->kind == VALUE_STRING &&
        !eval_step(ev, min_size(a->text.n, b->text.n) / 256))
        return -1;
    switch (op) {
    case CMP_EQ:
        return value_equal(a, b);
    case CMP_NE:
        return !value_equal(a, b);
    case CMP_IN:
        return contains(ev, a, b);
    case CMP_NOT_IN:
        r = contains(ev, a, b);
        return r < 0 ? r : !r;
    default:
        break;
    }
    r = value_compare(a, b, 0);
    if (r == 2) {
        (void)arithmetic_fail(ev, a, b);
        return -1;
    }
    return op == CMP_LT ? r < 0 : op == CMP_LE ? r <= 0 : op == CMP_GT ? r > 0 : r >= 0;
}

static struct template_value *eval_comparison(struct eval *ev, const struct node *n)
{
    struct template_value *a = eval_node(ev, n->a);
    for (const struct node *operand = n->list; a && operand; operand = operand->next) {
        struct template_value *b = eval_node(ev, operand->a);
        const int r = b ? eval_compare(ev, operand->op, a, b) : -1;
        if (r < 0)
            return NULL;
        if (!r)
            return eval_bool(ev, false);
        a = b;
    }
    return a ? eval_bool(ev, true) : NULL;
}

static struct template_value *eval_concat(struct eval *ev, const struct node *n)
{
    struct buffer b;
    eval_buffer(ev, &b);
    for (const struct node *item = n->list; item && !ev->status; item = item->next) {
        struct template_value *v = eval_node(ev, item);
        if (v)
            (void)format_str(ev, &b, v);
    }
    return eval_take(ev, &b);
}

static struct template_value *eval_sequence(struct eval *ev, const struct node *n)
{
    struct template_value *out =
        eval_got(ev, value_new(ev->arena, n->kind == NODE_TUPLE ? VALUE_TUPLE : VALUE_LIST));
    for (const struct node *item = n->list; out && item; item = item->next)
        if (!eval_add(ev, out, eval_node(ev, item)))
            return NULL;
    return out;
}

static struct template_value *eval_dict(struct eval *ev, const struct node *n)
{
    struct template_value *out = eval_got(ev, template_map(ev->arena));
    for (const struct node *item = n->list; out && item; item = item->next->next) {
        struct template_value *key = eval_node(ev, item);
        struct template_value *v = key ? eval_node(ev, item->next) : NULL;
        if (!v)
            return NULL;
        if (!value_is_hashable(key))
            return eval_fail(ev, "unhashable type: '%s'", value_type_name(key));
        if (!value_map_put(ev->arena, out, key, v))
            return eval_fail(ev, "out of memory");
    }
    return out;
}

/* ---- calls, filters, tests ---- */

static bool spread(struct eval *ev, const struct node *n, struct template_value *items,
                   struct template_value *keywords)
{
    struct template_value *v = eval_node(ev, n->a);
    if (!v)
        return false;
    if (n->op == '*') {
        v = eval_list_of(ev, v);
        for (size_t i = 0; v && i < v->n; i++)
            if (!eval_add(ev, items, v->items[i]))
                return false;
        return v != NULL;
    }
    if (v->kind != VALUE_MAP)
        return eval_fail(ev, "** needs a mapping, not %s", value_type_name(v)) != NULL;
    for (size_t i = 0; i < v->n; i++)
        if (!value_map_put(ev->arena, keywords, v->map.entries[i].key, v->map.entries[i].value))
            return eval_fail(ev, "out of memory") != NULL;
    return true;
}

static bool eval_arguments(struct eval *ev, const struct node *first, struct arguments *out)
{
    struct template_value *items = eval_got(ev, template_list(ev->arena));
    struct template_value *keywords = eval_got(ev, template_map(ev->arena));
    if (!items || !keywords)
        return false;
    for (const struct node *n = first; n; n = n->next) {
        if (n->kind == NODE_SPREAD) {
            if (!spread(ev, n, items, keywords))
                return false;
            continue;
        }
        struct template_value *v = eval_node(ev, n->kind == NODE_KEYWORD ? n->a : n);
        if (!v)
            return false;
        if (n->kind != NODE_KEYWORD) {
            if (!eval_add(ev, items, v))
                return false;
        } else if (!template_map_set(ev->arena, keywords, n->name.s, n->name.n, v)) {
            return eval_fail(ev, "out of memory") != NULL;
        }
    }
    *out = (struct arguments){items->items, items->n, keywords};
    return true;
}

struct template_value *eval_call(struct eval *ev, struct template_value *f,
                                 const struct arguments *args)
{
    switch (f->kind) {
    case VALUE_UNDEFINED:
        return used_undefined(ev, f);
    case VALUE_FUNCTION:
        return eval_function(ev, f->text, args);
    case VALUE_METHOD:
        return eval_method(ev, f->self, f->text, args);
    case VALUE_MACRO:
        return eval_call_macro(ev, f->macro, args);
    case VALUE_LOOP:
        if (args->n != 1)
            return eval_fail(ev, "loop() takes one argument");
        return eval_call_loop(ev, f->loop, args->items[0]);
    case VALUE_JOINER:
        if (f->self->integer++)
            return eval_got(ev, value_text(ev->arena, f->text.s, f->text.n));
        return eval_string(ev, "", 0);
    default:
        return eval_fail(ev, "'%s' object is not callable", value_type_name(f));
    }
}

static struct template_value *eval_call_node(struct eval *ev, const struct node *n)
{
    struct arguments args;
    struct template_value *f = eval_node(ev, n->a);
    if (!f || !eval_arguments(ev, n->list, &args))
        return NULL;
    ev->at = n;
    return eval_call(ev, f, &args);
}

static struct template_value *eval_filter_node(struct eval *ev, const struct node *n)
{
    struct arguments args;
    struct template_value *v = eval_node(ev, n->a);
    if (!v || !eval_arguments(ev, n->list, &args))
        return NULL;
    ev->at = n;
    return eval_filter(ev, n->name, v, &args);
}

static struct template_value *eval_test_node(struct eval *ev, const struct node *n)
{
    struct arguments args;
    struct template_value *v = eval_node(ev, n->a);
    if (!v || !eval_arguments(ev, n->list, &args))
        return NULL;
    ev->at = n;
    const int r = eval_test(ev, n->name, v, &args);
    return r < 0 ? NULL : eval_bool(ev, (r != 0) != (n->op == '!'));
}

static struct template_value *eval_sign(struct eval *ev, const struct node *n)
{
    struct template_value *v = eval_node(ev, n->a);
    if (!v)
        return NULL;
    if (v->kind == VALUE_UNDEFINED)
        return used_undefined(ev, v);
    if (!value_is_number(v))
        return eval_fail(ev, "bad operand type for unary sign: '%s'", value_type_name(v));
    if (v->kind == VALUE_FLOAT)
        return eval_got(ev, template_float(ev->arena, n->kind == NODE_NEG ? -v->real : v->real));
    return n->kind == NODE_NEG ? integer_binary(ev, OP_SUB, 0, value_integer(v))
                               : eval_int(ev, value_integer(v));
}

static struct template_value *eval_choice(struct eval *ev, const struct node *n)
{
    const struct template_value *condition = eval_node(ev, n->b);
    if (!condition)
        return NULL;
    if (value_is_true(condition))
        return eval_node(ev, n->a);
    if (n->c)
        return eval_node(ev, n->c);
    return undefined(ev, "the inline if-expression has no else");
}

static struct template_value *eval_item_node(struct eval *ev, const struct node *n)
{
    struct template_value *v = eval_node(ev, n->a);
    if (!v)
        return NULL;
    if (n->b->kind == NODE_SLICE)
        return slice(ev, v, n->b);
    struct template_value *key = eval_node(ev, n->b);
    return key ? eval_item(ev, v, key) : NULL;
}

static struct template_value *eval_kind(struct eval *ev, const struct node *n)
{
    struct template_value *a, *b;
    switch (n->kind) {
    case NODE_CONST:
        return n->value;
    case NODE_NAME:
        return eval_name(ev, n->name);
    case NODE_LIST:
    case NODE_TUPLE:
        return eval_sequence(ev, n);
    case NODE_DICT:
        return eval_dict(ev, n);
    case NODE_NOT:
        a = eval_node(ev, n->a);
        return a ? eval_bool(ev, !value_is_true(a)) : NULL;
    case NODE_NEG:
    case NODE_POS:
        return eval_sign(ev, n);
    case NODE_AND:
        a = eval_node(ev, n->a);
        return a && value_is_true(a) ? eval_node(ev, n->b) : a;
    case NODE_OR:
        a = eval_node(ev, n->a);
        return a && !value_is_true(a) ? eval_node(ev, n->b) : a;
    case NODE_BINARY:
        a = eval_node(ev, n->a);
        b = a ? eval_node(ev, n->b) : NULL;
        return b ? eval_binary(ev, n->op, a, b) : NULL;
    case NODE_CONCAT:
        return eval_concat(ev, n);
    case NODE_COMPARE:
        return eval_comparison(ev, n);
    case NODE_IF_ELSE:
        return eval_choice(ev, n);
    case NODE_ATTRIBUTE:
        a = eval_node(ev, n->a);
        return a ? eval_attribute(ev, a, n->name) : NULL;
    case NODE_ITEM:
        return eval_item_node(ev, n);
    case NODE_CALL:
        return eval_call_node(ev, n);
    case NODE_FILTER:
        return eval_filter_node(ev, n);
    case NODE_TEST:
        return eval_test_node(ev, n);
    default:
        return eval_fail(ev, "not an expression");
    }
}

struct template_value *eval_node(struct eval *ev, const struct node *n)
{
    const struct node *outer = ev->at;
    if (ev->depth >= LIMIT_TEMPLATE_DEPTH)
        return eval_fail(ev, "nested too deeply");
    if (!eval_step(ev, 1))
        return NULL;
    ev->depth++;
    ev->at = n;
    struct template_value *v = eval_kind(ev, n);
    ev->depth--;
    if (v)
        ev->at = outer;
    return v;
}
