/* Tests, by name: `value is name(argument)`. Each returns 1, 0 or -1 (error). */
#include "text/jinja/eval.h"
#include "text/jinja/text_internal.h"

#include <string.h>

typedef const struct template_value value_t;
typedef const struct arguments args_t;

struct test_entry {
    const char *name;
    int (*call)(struct eval *ev, struct template_value *v, args_t *a);
    int op;        /* of a comparison */
    size_t n_args; /* exactly */
};

static int is_boolean(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev, (void)a;
    return v->kind == VALUE_BOOL;
}

static int is_callable(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev, (void)a; /* an undefined value has a __call__, which fails */
    return v->kind == VALUE_FUNCTION || v->kind == VALUE_METHOD || v->kind == VALUE_MACRO ||
           v->kind == VALUE_JOINER || v->kind == VALUE_LOOP || v->kind == VALUE_UNDEFINED;
}

static int is_defined(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev, (void)a;
    return v->kind != VALUE_UNDEFINED;
}

static int is_undefined(struct eval *ev, struct template_value *v, args_t *a)
{
    return !is_defined(ev, v, a);
}

/* v % n == r */
static int has_remainder(struct eval *ev, struct template_value *v, struct template_value *n,
                         int64_t r)
{
    struct template_value *got = n ? eval_binary(ev, OP_MOD, v, n) : NULL;
    return !got ? -1 : value_is_number(got) && value_real(got) == (double)r;
}

static int is_divisible(struct eval *ev, struct template_value *v, args_t *a)
{
    return has_remainder(ev, v, a->items[0], 0);
}

static int is_even(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return has_remainder(ev, v, eval_int(ev, 2), 0);
}

static int is_odd(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    return has_remainder(ev, v, eval_int(ev, 2), 1);
}

static int is_never(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev, (void)v, (void)a;
    return 0;
}

static int is_false(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev, (void)a;
    return v->kind == VALUE_BOOL && !v->boolean;
}

static int is_true(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev, (void)a;
    return v->kind == VALUE_BOOL && v->boolean;
}

static int is_filter(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev, (void)a;
    return v->kind == VALUE_STRING && jinja_has_filter(v->text);
}

static int is_test(struct eval *ev, struct template_value *v, args_t *a);

static int is_float(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev, (void)a;
    return v->kind == VALUE_FLOAT;
}

static int is_integer(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev, (void)a;
    return v->kind == VALUE_INT;
}

static int is_number(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev, (void)a;
    return value_is_number(v);
}

static int is_in(struct eval *ev, struct template_value *v, args_t *a)
{
    return eval_compare(ev, CMP_IN, v, a->items[0]);
}

static int is_sequence(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev, (void)a; /* what has a length and items; an undefined value pretends to */
    return (value_is_sequence(v) && !value_is_view(v)) || v->kind == VALUE_STRING ||
           v->kind == VALUE_MAP || v->kind == VALUE_UNDEFINED;
}

static int is_iterable(struct eval *ev, struct template_value *v, args_t *a)
{
    return is_sequence(ev, v, a) || value_is_view(v) || v->kind == VALUE_LOOP;
}

static int is_mapping(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev, (void)a;
    return v->kind == VALUE_MAP;
}

static int is_none(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev, (void)a;
    return v->kind == VALUE_NONE;
}

static int is_string(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev, (void)a;
    return v->kind == VALUE_STRING;
}

static int is_lower(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    v = format_text(ev, v);
    return !v ? -1 : text_is_cased(v->text, CASE_LOWER);
}

static int is_upper(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)a;
    v = format_text(ev, v);
    return !v ? -1 : text_is_cased(v->text, CASE_UPPER);
}

/* Identity: of scalars, equality within a type. */
static int is_same(struct eval *ev, struct template_value *v, args_t *a)
{
    value_t *other = a->items[0];
    (void)ev;
    if (v->kind != other->kind)
        return 0;
    return v == other || (v->kind < VALUE_LIST && value_equal(v, other));
}

static const struct test_entry rows[] = {
    {"!=", NULL, CMP_NE, 1},
    {"<", NULL, CMP_LT, 1},
    {"<=", NULL, CMP_LE, 1},
    {"==", NULL, CMP_EQ, 1},
    {">", NULL, CMP_GT, 1},
    {">=", NULL, CMP_GE, 1},
    {"boolean", is_boolean, 0, 0},
    {"callable", is_callable, 0, 0},
    {"defined", is_defined, 0, 0},
    {"divisibleby", is_divisible, 0, 1},
    {"eq", NULL, CMP_EQ, 1},
    {"equalto", NULL, CMP_EQ, 1},
    {"escaped", is_never, 0, 0},
    {"even", is_even, 0, 0},
    {"false", is_false, 0, 0},
    {"filter", is_filter, 0, 0},
    {"float", is_float, 0, 0},
    {"ge", NULL, CMP_GE, 1},
    {"greaterthan", NULL, CMP_GT, 1},
    {"gt", NULL, CMP_GT, 1},
    {"in", is_in, 0, 1},
    {"integer", is_integer, 0, 0},
    {"iterable", is_iterable, 0, 0},
    {"le", NULL, CMP_LE, 1},
    {"lessthan", NULL, CMP_LT, 1},
    {"lower", is_lower, 0, 0},
    {"lt", NULL, CMP_LT, 1},
    {"mapping", is_mapping, 0, 0},
    {"ne", NULL, CMP_NE, 1},
    {"none", is_none, 0, 0},
    {"number", is_number, 0, 0},
    {"odd", is_odd, 0, 0},
    {"sameas", is_same, 0, 1},
    {"sequence", is_sequence, 0, 0},
    {"string", is_string, 0, 0},
    {"test", is_test, 0, 0},
    {"true", is_true, 0, 0},
    {"undefined", is_undefined, 0, 0},
    {"upper", is_upper, 0, 0},
};

static const struct test_entry *find(struct text name)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (name.n == strlen(rows[i].name) && !memcmp(name.s, rows[i].name, name.n))
            return &rows[i];
    return NULL;
}

static int is_test(struct eval *ev, struct template_value *v, args_t *a)
{
    (void)ev, (void)a;
    return v->kind == VALUE_STRING && find(v->text) != NULL;
}

int eval_test(struct eval *ev, struct text name, struct template_value *v,
              const struct arguments *args)
{
    const struct test_entry *e = find(name);
    if (!e || args->n != e->n_args) {
        (void)eval_fail(ev, e ? "test '%.*s' takes %zu argument(s)" : "No test named '%.*s'.",
                        (int)(name.n > 80 ? 80 : name.n), name.s, e ? e->n_args : 0);
        return -1;
    }
    return e->call ? e->call(ev, v, args) : eval_compare(ev, e->op, v, args->items[0]);
}
