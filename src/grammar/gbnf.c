#include "grammar/gbnf.h"

#include "base/error.h"
#include "grammar/gbnf_internal.h"
#include "grammar/regex.h"

#include <string.h>

/* ---- what the rules are like ----------------------------------------------------------------- */

/* One round towards the least fixed point of nullable and productive; true: something changed. */
static bool settle(struct gbnf *gbnf, struct gbnf_node *node)
{
    bool was_nullable = node->is_nullable, was_productive = node->is_productive, changed = false;
    bool any_nullable = false, all_nullable = true, any_productive = false, all_productive = true;
    for (struct gbnf_node *child = node->first; child; child = child->next) {
        changed = settle(gbnf, child) || changed;
        any_nullable = any_nullable || child->is_nullable;
        all_nullable = all_nullable && child->is_nullable;
        any_productive = any_productive || child->is_productive;
        all_productive = all_productive && child->is_productive;
    }
    switch (node->kind) {
    case GBNF_REGEX:
        node->is_productive = true;
        break;
    case GBNF_RULE:
        node->is_nullable = gbnf->rules[node->rule].body->is_nullable;
        node->is_productive = gbnf->rules[node->rule].body->is_productive;
        break;
    case GBNF_SERIES:
        node->is_nullable = all_nullable;
        node->is_productive = all_productive;
        break;
    case GBNF_EITHER:
        node->is_nullable = any_nullable;
        node->is_productive = any_productive;
        break;
    case GBNF_REPEAT:
        node->is_nullable = node->min == 0 || all_nullable;
        node->is_productive = node->min == 0 || all_productive;
        break;
    }
    return changed || node->is_nullable != was_nullable || node->is_productive != was_productive;
}

static serverd_status settle_all(struct gbnf *gbnf)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t i = 0; i < gbnf->n_rules; i++)
            changed = settle(gbnf, gbnf->rules[i].body) || changed;
        serverd_status status = grammar_budget_spend(gbnf->budget, gbnf->n, gbnf->err);
        if (status != SERVERD_OK)
            return status;
    }
    return SERVERD_OK;
}

static serverd_status check_left(struct gbnf *gbnf, uint32_t index, unsigned depth);

/* Follows what may come first in a node; *goes_on: what comes behind it may be first too. */
static serverd_status check_first(struct gbnf *gbnf, const struct gbnf_node *node, unsigned depth)
{
    serverd_status status = SERVERD_OK;
    if (node->kind == GBNF_RULE)
        return check_left(gbnf, node->rule, depth + 1);
    for (const struct gbnf_node *child = node->first; child && status == SERVERD_OK;
         child = child->next) {
        status = check_first(gbnf, child, depth);
        if (node->kind == GBNF_SERIES && !child->is_nullable)
            break;
    }
    return status;
}

static serverd_status check_left(struct gbnf *gbnf, uint32_t index, unsigned depth)
{
    struct gbnf_rule *rule = &gbnf->rules[index];
    if (rule->is_open)
        return gbnf_wrong(gbnf, rule->at, "left recursion: the rule may begin with itself");
    if (rule->is_visited)
        return SERVERD_OK;
    if (depth > LIMIT_GRAMMAR_NESTING)
        return fail(gbnf->err, SERVERD_TIMEOUT, "rules that begin with rules, more than %u deep",
                    LIMIT_GRAMMAR_NESTING);
    rule->is_open = true;
    serverd_status status = check_first(gbnf, rule->body, depth);
    rule->is_open = false;
    rule->is_visited = true;
    return status;
}

/* ---- what is regular ------------------------------------------------------------------------- */

static uint32_t inline_bytes(struct gbnf *gbnf, struct gbnf_node *node, unsigned depth);

static uint32_t bytes_of_rule(struct gbnf *gbnf, uint32_t index, unsigned depth)
{
    struct gbnf_rule *rule = &gbnf->rules[index];
    if (rule->is_open || depth > LIMIT_GRAMMAR_NESTING)
        return 0; /* recursive */
    if (!rule->is_visited) {
        rule->is_open = true;
        rule->body->n_inline = inline_bytes(gbnf, rule->body, depth + 1);
        rule->is_open = false;
        /* within a cycle the answer depends on where one came in; it is settled by the first who
         * asks, and asked again below: a wrong "no" costs speed alone */
        rule->is_visited = true;
    }
    return rule->body->n_inline;
}

static uint32_t inline_bytes(struct gbnf *gbnf, struct gbnf_node *node, unsigned depth)
{
    uint64_t sum = 16;
    bool is_regular = true;
    if (node->kind == GBNF_REGEX)
        sum += node->n_regex;
    if (node->kind == GBNF_RULE) {
        uint32_t n = bytes_of_rule(gbnf, node->rule, depth);
        is_regular = n > 0;
        sum += n;
    }
    for (struct gbnf_node *child = node->first; child; child = child->next) {
        uint32_t n = inline_bytes(gbnf, child, depth);
        is_regular = is_regular && n > 0;
        sum += n;
    }
    node->n_inline =
        is_regular && node->is_productive && sum <= LIMIT_GRAMMAR_INLINE ? (uint32_t)sum : 0;
    return node->n_inline;
}

static void append_regex(const struct gbnf *gbnf, const struct gbnf_node *node, struct buffer *out)
{
    if (node->kind == GBNF_RULE) {
        append_regex(gbnf, gbnf->rules[node->rule].body, out);
        return;
    }
    buffer_append_str(out, "(?:");
    if (node->kind == GBNF_REGEX)
        buffer_append(out, node->regex, node->n_regex);
    bool is_first = true;
    for (const struct gbnf_node *child = node->first; child; child = child->next) {
        if (node->kind == GBNF_EITHER && !is_first)
            buffer_append_char(out, '|');
        append_regex(gbnf, child, out);
        is_first = false;
    }
    buffer_append_char(out, ')');
    if (node->kind == GBNF_REPEAT && node->max == UINT32_MAX)
        buffer_printf(out, "{%u,}", node->min);
    else if (node->kind == GBNF_REPEAT)
        buffer_printf(out, "{%u,%u}", node->min, node->max);
}

/* ---- code ------------------------------------------------------------------------------------ */

struct emitter {
    struct gbnf *gbnf;
    struct machine_builder *builder;
    serverd_status status;
};

static uint32_t add(struct emitter *e, enum machine_op op, uint32_t a)
{
    const struct machine_code code = {.op = op, .a = a};
    uint32_t at = machine_builder_code(e->builder, code);
    if (at == UINT32_MAX && e->status == SERVERD_OK)
        e->status = grammar_budget_memory(e->gbnf->err);
    return at;
}

static void set_target(struct emitter *e, uint32_t at, uint32_t target)
{
    if (e->status == SERVERD_OK)
        ((struct machine_code *)e->builder->code.items)[at].a = target;
}

static void emit(struct emitter *e, const struct gbnf_node *node);

/* first..last (not included) as one text. */
static void emit_regex(struct emitter *e, const struct gbnf_node *first,
                       const struct gbnf_node *last)
{
    struct buffer regex;
    struct string_set set;
    uint32_t text = 0;
    buffer_init(&regex, (size_t)LIMIT_GRAMMAR_INLINE * 16);
    for (const struct gbnf_node *node = first; node != last; node = node->next)
        append_regex(e->gbnf, node, &regex);
    serverd_status status = regex.is_failed
                                ? grammar_budget_memory(e->gbnf->err)
                                : regex_compile(e->gbnf->budget, buffer_str(&regex), regex.len,
                                                REGEX_WHOLE, &set, e->gbnf->err);
    buffer_deinit(&regex);
    if (status == SERVERD_OK && string_set_is_empty(&set))
        status = gbnf_wrong(e->gbnf, first->at, "nothing matches this");
    if (status == SERVERD_OK)
        status = machine_builder_text(e->builder, &set, true, &text, e->gbnf->err);
    if (status != SERVERD_OK)
        e->status = status;
    else
        (void)add(e, OP_TEXT, text);
}

static void emit_series(struct emitter *e, const struct gbnf_node *node)
{
    for (const struct gbnf_node *child = node->first; child && e->status == SERVERD_OK;) {
        const struct gbnf_node *end = child;
        uint64_t bytes = 0;
        while (end && end->n_inline > 0 && bytes + end->n_inline <= LIMIT_GRAMMAR_INLINE) {
            bytes += end->n_inline;
            end = end->next;
        }
        if (end != child) {
            emit_regex(e, child, end);
            child = end;
        } else {
            emit(e, child);
            child = child->next;
        }
    }
}

static void emit_either(struct emitter *e, const struct gbnf_node *node)
{
    uint32_t jumps[2] = {0, 0}; /* the last jump, linked to the one before by its target */
    bool has_jump = false;
    for (const struct gbnf_node *child = node->first; child && e->status == SERVERD_OK;
         child = child->next) {
        const struct gbnf_node *other = child->next;
        if (!child->is_productive)
            continue;
        while (other && !other->is_productive)
            other = other->next;
        uint32_t split = other ? add(e, OP_SPLIT, 0) : 0;
        emit(e, child);
        if (!other)
            break;
        uint32_t jump = add(e, OP_JUMP, has_jump ? jumps[0] : UINT32_MAX);
        has_jump = true;
        jumps[0] = jump;
        set_target(e, split, e->builder->code.n);
    }
    struct machine_code *code = e->builder->code.items;
    for (uint32_t at = jumps[0]; has_jump && e->status == SERVERD_OK && at != UINT32_MAX;) {
        uint32_t before = code[at].a;
        code[at].a = e->builder->code.n;
        at = before;
    }
}

static void emit_repeat(struct emitter *e, const struct gbnf_node *node)
{
    if (!node->first->is_productive || node->max == 0)
        return; /* not once */
    uint32_t repeat = add(e, OP_REPEAT, 0);
    uint32_t jump = add(e, OP_JUMP, 0);
    set_target(e, repeat, e->builder->code.n);
    if (e->status == SERVERD_OK) {
        struct machine_code *code = e->builder->code.items;
        /* a body that may be empty may as well be left out */
        code[repeat].min = node->first->is_nullable ? 0 : node->min;
        code[repeat].max = node->max;
    }
    emit(e, node->first);
    (void)add(e, OP_RETURN, 0);
    set_target(e, jump, e->builder->code.n);
}

static void emit(struct emitter *e, const struct gbnf_node *node)
{
    if (e->status != SERVERD_OK)
        return;
    if (node->n_inline > 0 && !(node->kind == GBNF_SERIES && !node->first)) {
        struct gbnf_node alone = *node;
        alone.next = NULL;
        emit_regex(e, &alone, NULL);
        return;
    }
    switch (node->kind) {
    case GBNF_REGEX:
        break; /* longer than is inlined: cannot be, its own limit is smaller */
    case GBNF_RULE:
        (void)add(e, OP_CALL, node->rule); /* a rule: becomes its place at the end */
        break;
    case GBNF_SERIES:
        emit_series(e, node);
        break;
    case GBNF_EITHER:
        emit_either(e, node);
        break;
    case GBNF_REPEAT:
        emit_repeat(e, node);
        break;
    }
}

/* Rules that are called, and those that they call. */
static void emit_rules(struct emitter *e, uint32_t root, uint32_t begin)
{
    struct gbnf *gbnf = e->gbnf;
    uint32_t done = begin;
    gbnf->rules[root].code = e->builder->code.n + 1;
    emit(e, gbnf->rules[root].body);
    (void)add(e, OP_RETURN, 0);
    for (; done < e->builder->code.n && e->status == SERVERD_OK; done++) {
        struct machine_code code = ((struct machine_code *)e->builder->code.items)[done];
        if (code.op != OP_CALL)
            continue;
        struct gbnf_rule *rule = &gbnf->rules[code.a];
        if (rule->code == 0) {
            rule->code = e->builder->code.n + 1;
            emit(e, rule->body);
            (void)add(e, OP_RETURN, 0);
        }
        set_target(e, done, rule->code - 1);
    }
}

serverd_status gbnf_compile(struct machine_builder *builder, const char *text, size_t n,
                            uint32_t *out, serverd_error *err)
{
    struct gbnf gbnf = {.text = text, .n = n, .budget = builder->budget, .err = err};
    struct emitter e = {.gbnf = &gbnf, .builder = builder};
    uint32_t root;
    serverd_status status = gbnf_parse(&gbnf, &root);
    if (status == SERVERD_OK)
        status = settle_all(&gbnf);
    for (uint32_t i = 0; i < gbnf.n_rules && status == SERVERD_OK; i++)
        status = check_left(&gbnf, i, 0);
    if (status == SERVERD_OK && !gbnf.rules[root].body->is_productive)
        status = gbnf_wrong(&gbnf, gbnf.rules[root].at, "no text is ever complete");
    if (status != SERVERD_OK)
        return status;
    for (uint32_t i = 0; i < gbnf.n_rules; i++)
        gbnf.rules[i].is_visited = false;
    for (uint32_t i = 0; i < gbnf.n_rules; i++)
        (void)bytes_of_rule(&gbnf, i, 0);
    *out = builder->code.n;
    emit_rules(&e, root, builder->code.n);
    return e.status;
}
