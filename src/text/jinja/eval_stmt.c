/* Statements: output, conditions, loops, assignments, macros. */
#include "base/limits.h"
#include "text/jinja/eval.h"

#include <string.h>

enum leave { LEAVE_NOT, LEAVE_BREAK, LEAVE_CONTINUE };

static struct scope *scope_new(struct eval *ev, struct scope *parent)
{
    struct scope *s = arena_alloc(ev->arena, sizeof *s);
    if (!s || !(s->names = template_map(ev->arena))) {
        (void)eval_fail(ev, "out of memory");
        return NULL;
    }
    s->parent = parent;
    return s;
}

static bool bind(struct eval *ev, struct scope *scope, struct text name, struct template_value *v)
{
    struct template_value *key = value_text(ev->arena, name.s, name.n);
    if (!v || !value_map_put(ev->arena, scope->names, key, v))
        return eval_fail(ev, "out of memory") != NULL;
    return true;
}

bool eval_assign(struct eval *ev, const struct node *target, struct template_value *v)
{
    if (target->kind == NODE_NAME)
        return bind(ev, ev->scope, target->name, v);
    if (target->kind == NODE_ATTRIBUTE) {
        struct template_value *ns = eval_node(ev, target->a);
        if (!ns)
            return false;
        if (ns->kind != VALUE_NAMESPACE)
            return eval_fail(ev, "cannot assign attribute on non-namespace object") != NULL;
        struct template_value *key = value_text(ev->arena, target->name.s, target->name.n);
        return value_map_put(ev->arena, ns->self, key, v) || eval_fail(ev, "out of memory");
    }
    if (target->kind != NODE_TUPLE)
        return eval_fail(ev, "cannot assign to this") != NULL;
    struct template_value *list = eval_list_of(ev, v);
    if (!list)
        return false;
    size_t i = 0;
    for (const struct node *n = target->list; n; n = n->next, i++)
        if (i >= list->n)
            return eval_fail(ev, "not enough values to unpack, found %zu", list->n) != NULL;
        else if (!eval_assign(ev, n, list->items[i]))
            return false;
    return i == list->n || eval_fail(ev, "too many values to unpack, allowed %zu", i);
}

struct template_value *eval_capture(struct eval *ev, const struct node *body)
{
    struct buffer b, *outer = ev->out;
    int leave = LEAVE_NOT;
    eval_buffer(ev, &b);
    ev->out = &b;
    (void)eval_body(ev, body, &leave);
    ev->out = outer;
    return eval_take(ev, &b);
}

static struct template_value *capture_scoped(struct eval *ev, const struct node *body)
{
    struct scope *outer = ev->scope, *inner = scope_new(ev, outer);
    if (!inner)
        return NULL;
    ev->scope = inner;
    struct template_value *v = eval_capture(ev, body);
    ev->scope = outer;
    return v;
}

/* A chain of filters whose innermost input is the text of a block. */
static struct template_value *filter_block(struct eval *ev, const struct node *chain,
                                           struct template_value *v)
{
    struct node copy, input = {.kind = NODE_CONST, .value = v};
    if (!chain)
        return v;
    if (chain->a) {
        v = filter_block(ev, chain->a, v);
        if (!v)
            return NULL;
        input.value = v;
    }
    copy = *chain;
    copy.a = &input;
    const struct node *at = ev->at;
    v = eval_node(ev, &copy);
    ev->at = at; /* copy ends here */
    return v;
}

/* ---- loops ---- */

static struct template_value *filtered(struct eval *ev, const struct node *n,
                                       struct template_value *items)
{
    struct template_value *out = eval_got(ev, template_list(ev->arena));
    struct scope *outer = ev->scope;
    for (size_t i = 0; out && i < items->n; i++) {
        ev->scope = scope_new(ev, outer);
        const struct template_value *keep =
            ev->scope && eval_assign(ev, n->a, items->items[i]) ? eval_node(ev, n->c) : NULL;
        if (!keep || (value_is_true(keep) && !eval_add(ev, out, items->items[i])))
            out = NULL;
    }
    ev->scope = outer;
    return out;
}

static bool run_loop(struct eval *ev, const struct node *n, struct template_value *items,
                     int64_t depth)
{
    struct scope *outer = ev->scope;
    int leave = LEAVE_NOT;
    items = eval_list_of(ev, items);
    if (items && n->c)
        items = filtered(ev, n, items);
    if (!items)
        return false;
    struct loop_state *loop = arena_alloc(ev->arena, sizeof *loop);
    struct template_value *v = value_new(ev->arena, VALUE_LOOP);
    if (!loop || !v)
        return eval_fail(ev, "out of memory") != NULL;
    *loop = (struct loop_state){n, outer, items, NULL, 0, depth};
    v->loop = loop;
    bool is_fine = true;
    for (; is_fine && loop->index < items->n && leave != LEAVE_BREAK; loop->index++) {
        leave = LEAVE_NOT;
        ev->scope = scope_new(ev, outer);
        is_fine =
            ev->scope && eval_step(ev, 1) && bind(ev, ev->scope, (struct text){"loop", 4}, v) &&
            eval_assign(ev, n->a, items->items[loop->index]) && eval_body(ev, n->list, &leave);
    }
    ev->scope = outer;
    if (is_fine && !items->n && n->other) {
        ev->scope = scope_new(ev, outer);
        is_fine = ev->scope && eval_body(ev, n->other, &leave);
        ev->scope = outer;
    }
    return is_fine;
}

struct template_value *eval_call_loop(struct eval *ev, struct loop_state *loop,
                                      struct template_value *items)
{
    if (loop->node->op != 'R')
        return eval_fail(ev, "the loop is not marked recursive");
    if (ev->depth >= LIMIT_TEMPLATE_DEPTH || loop->depth >= ev->budget->max_recursion)
        return eval_fail(ev, "recursion deeper than %u", (unsigned)ev->budget->max_recursion);
    struct buffer b, *out = ev->out;
    struct scope *scope = ev->scope;
    eval_buffer(ev, &b);
    ev->out = &b;
    ev->scope = loop->scope;
    (void)run_loop(ev, loop->node, items, loop->depth + 1);
    ev->scope = scope;
    ev->out = out;
    return eval_take(ev, &b);
}

/* ---- macros ---- */

static struct template_value *macro_new(struct eval *ev, const struct node *n)
{
    struct macro *m = arena_alloc(ev->arena, sizeof *m);
    struct template_value *v = value_new(ev->arena, VALUE_MACRO);
    if (!m || !v)
        return eval_fail(ev, "out of memory");
    *m = (struct macro){n, ev->scope};
    v->macro = m;
    return v;
}

/* Whether key names a parameter behind the first `given` ones. */
static bool is_parameter(const struct node *macro, size_t given, const struct template_value *key)
{
    size_t i = 0;
    for (const struct node *p = macro->parameters; p; p = p->next)
        if (i++ >= given && key->kind == VALUE_STRING && p->name.n == key->text.n &&
            !memcmp(p->name.s, key->text.s, key->text.n))
            return true;
    return false;
}

static bool bind_parameters(struct eval *ev, const struct node *n, const struct arguments *args)
{
    size_t i = 0;
    for (const struct node *p = n->parameters; p; p = p->next, i++) {
        struct template_value *v =
            i < args->n ? args->items[i] : value_map_get_text(args->keywords, p->name);
        if (!v && p->a && !(v = eval_node(ev, p->a)))
            return false;
        if (!v)
            v = eval_got(ev, value_undefined(ev->arena, "a parameter was not provided", 28));
        if (!v || !bind(ev, ev->scope, p->name, v))
            return false;
    }
    struct template_value *rest = eval_got(ev, value_new(ev->arena, VALUE_TUPLE));
    struct template_value *others = eval_got(ev, template_map(ev->arena));
    if (!rest || !others)
        return false;
    if (args->n > i && !n->uses_varargs)
        return eval_fail(ev, "macro '%.*s' takes not more than %zu argument(s)", (int)n->name.n,
                         n->name.s, i) != NULL;
    for (; i < args->n; i++)
        if (!eval_add(ev, rest, args->items[i]))
            return false;
    for (size_t k = 0; k < args->keywords->n; k++) {
        const struct map_entry *e = &args->keywords->map.entries[k];
        if (is_parameter(n, args->n, e->key))
            continue;
        const bool is_caller = value_is_string(e->key, "caller");
        if (is_caller ? !n->uses_caller : !n->uses_kwargs)
            return eval_fail(ev, "macro '%.*s' takes no keyword argument '%.*s'", (int)n->name.n,
                             n->name.s, (int)e->key->text.n, e->key->text.s) != NULL;
        if (is_caller ? !bind(ev, ev->scope, e->key->text, e->value)
                      : !value_map_put(ev->arena, others, e->key, e->value))
            return false;
    }
    return (!n->uses_varargs || bind(ev, ev->scope, (struct text){"varargs", 7}, rest)) &&
           (!n->uses_kwargs || bind(ev, ev->scope, (struct text){"kwargs", 6}, others));
}

struct template_value *eval_call_macro(struct eval *ev, const struct macro *m,
                                       const struct arguments *args)
{
    struct scope *outer = ev->scope;
    struct template_value *v = NULL;
    if (ev->depth + 8 >= LIMIT_TEMPLATE_DEPTH)
        return eval_fail(ev, "recursion too deep");
    ev->depth += 8; /* the C frames between two expressions */
    ev->scope = scope_new(ev, m->scope);
    if (ev->scope && bind_parameters(ev, m->node, args))
        v = eval_capture(ev, m->node->list);
    ev->scope = outer;
    ev->depth -= 8;
    return v;
}

static bool call_block(struct eval *ev, const struct node *n)
{
    struct node call = *n->a, argument_node = {.kind = NODE_KEYWORD, .name = {"caller", 6}};
    struct node value = {.kind = NODE_CONST, .value = macro_new(ev, n)};
    if (!value.value)
        return false;
    argument_node.a = &value;
    argument_node.next = call.list;
    call.list = &argument_node;
    const struct node *at = ev->at;
    struct template_value *v = eval_node(ev, &call);
    ev->at = at;
    return v && format_str(ev, ev->out, v);
}

/* ---- the rest ---- */

static bool eval_if(struct eval *ev, const struct node *n, int *leave)
{
    for (;; n = n->other) {
        const struct template_value *condition = eval_node(ev, n->a);
        if (!condition)
            return false;
        if (value_is_true(condition))
            return eval_body(ev, n->list, leave);
        if (!n->other || n->other->op != 'E')
            return eval_body(ev, n->other, leave);
    }
}

static bool eval_with(struct eval *ev, const struct node *n, int *leave)
{
    struct scope *outer = ev->scope, *inner = scope_new(ev, outer);
    bool is_fine = inner != NULL;
    for (const struct node *set = n->parameters; is_fine && set; set = set->next) {
        struct template_value *v = eval_node(ev, set->b); /* sees the outer names */
        ev->scope = inner;
        is_fine = v && eval_assign(ev, set->a, v);
        ev->scope = outer;
    }
    ev->scope = inner;
    is_fine = is_fine && eval_body(ev, n->list, leave);
    ev->scope = outer;
    return is_fine;
}

static bool eval_statement(struct eval *ev, const struct node *n, int *leave)
{
    struct template_value *v;
    switch (n->kind) {
    case NODE_DATA:
        buffer_append(ev->out, n->value->text.s, n->value->text.n);
        return true;
    case NODE_OUTPUT:
        v = eval_node(ev, n->a);
        return v && format_str(ev, ev->out, v);
    case NODE_IF:
        return eval_if(ev, n, leave);
    case NODE_FOR:
        v = eval_node(ev, n->b);
        return v && run_loop(ev, n, v, 1);
    case NODE_SET:
        v = eval_node(ev, n->b);
        return v && eval_assign(ev, n->a, v);
    case NODE_SET_BLOCK:
        v = capture_scoped(ev, n->list);
        v = v ? filter_block(ev, n->b, v) : NULL;
        return v && eval_assign(ev, n->a, v);
    case NODE_MACRO:
        v = macro_new(ev, n);
        return v && bind(ev, ev->scope, n->name, v);
    case NODE_CALL_BLOCK:
        return call_block(ev, n);
    case NODE_FILTER_BLOCK:
        v = capture_scoped(ev, n->list);
        v = v ? filter_block(ev, n->b, v) : NULL;
        return v && format_str(ev, ev->out, v);
    case NODE_WITH:
    case NODE_SCOPE:
        return eval_with(ev, n, leave);
    case NODE_BREAK:
        *leave = LEAVE_BREAK;
        return true;
    case NODE_CONTINUE:
        *leave = LEAVE_CONTINUE;
        return true;
    default:
        return eval_fail(ev, "not a statement") != NULL;
    }
}

bool eval_body(struct eval *ev, const struct node *first, int *leave)
{
    if (ev->depth + 4 >= LIMIT_TEMPLATE_DEPTH)
        return eval_fail(ev, "nested too deeply") != NULL;
    ev->depth += 4;
    bool is_fine = true;
    for (const struct node *n = first; is_fine && n && *leave == LEAVE_NOT; n = n->next) {
        ev->at = n;
        is_fine = eval_step(ev, 1) && eval_statement(ev, n, leave);
        if (is_fine && ev->out->is_failed)
            is_fine = eval_fail(ev, "output longer than %zu bytes", ev->budget->max_output) != NULL;
    }
    ev->depth -= 4;
    return is_fine;
}
