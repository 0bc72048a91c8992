/* From the syntax tree to the automaton. */
#include "base/error.h"
#include "grammar/regex_internal.h"

#define LONG_REPEAT 8u /* repetitions of one character: from here they are a length */

/* What one pattern's compilation shares. */
struct regex_compiler {
    struct grammar_budget *budget;
    serverd_error *err;
    bool has_failed; /* *err says why; else a failed emission is one of too many nodes */
};

/* What a subtree may look at outside of itself. */
struct looks_at {
    bool before; /* ^ \b \B */
    bool after;  /* $ \b \B */
    bool ahead, behind;
};

static struct looks_at looks_at(const struct regex_node *node)
{
    struct looks_at all = {0};
    if (node->kind == REGEX_GUARD) {
        bool is_word = node->guard == GUARD_WORD_BORDER || node->guard == GUARD_NO_WORD_BORDER;
        bool is_end = node->guard == GUARD_TEXT_END || node->guard == GUARD_LINE_END;
        all.before = !is_end;
        all.after = is_end || is_word;
    }
    if (node->kind == REGEX_LOOK) {
        all.ahead = !node->is_behind;
        all.behind = node->is_behind;
    }
    for (const struct regex_node *child = node->first; child; child = child->next) {
        struct looks_at inner = looks_at(child);
        all.before |= inner.before;
        all.after |= inner.after;
        all.ahead |= inner.ahead;
        all.behind |= inner.behind;
    }
    return all;
}

/* Code points that a subtree reads, if that is always the same number. */
static bool fixed_length(const struct regex_node *node, uint64_t *out)
{
    uint64_t total = 0, length;
    switch ((enum regex_kind)node->kind) {
    case REGEX_EMPTY:
    case REGEX_GUARD:
    case REGEX_LOOK:
        *out = 0;
        return true;
    case REGEX_SET:
        *out = 1;
        return true;
    case REGEX_SEQUENCE:
        for (const struct regex_node *child = node->first; child; child = child->next) {
            if (!fixed_length(child, &length) || (total += length) > UINT32_MAX)
                return false;
        }
        *out = total;
        return true;
    case REGEX_CHOICE:
        for (const struct regex_node *child = node->first; child; child = child->next) {
            if (!fixed_length(child, &length) || (child != node->first && length != total))
                return false;
            total = length;
        }
        *out = total;
        return true;
    case REGEX_REPEAT:
        if (!fixed_length(node->first, &length) ||
            (length > 0 && (node->min != node->max || length * node->min > UINT32_MAX)))
            return false;
        *out = length * node->min;
        return true;
    }
    return false;
}

static uint32_t emit(struct regex_compiler *c, struct nfa *nfa, struct regex_node *node,
                     uint32_t next);

static serverd_status compile_look(struct regex_compiler *c, struct regex_node *node,
                                   struct nfa_look *out);

/* A look-around: an automaton per kind of character before it. */
static uint32_t emit_look(struct regex_compiler *c, struct nfa *nfa, struct regex_node *node,
                          uint32_t next)
{
    if (node->look == 0) {
        if (nfa->n_looks == LIMIT_REGEX_LOOKS) {
            (void)fail(c->err, SERVERD_TIMEOUT, "too complex: more than %u look-arounds",
                       LIMIT_REGEX_LOOKS);
            c->has_failed = true;
            return UINT32_MAX;
        }
        struct nfa_look look;
        if (compile_look(c, node, &look)) {
            c->has_failed = true;
            return UINT32_MAX;
        }
        nfa->looks[nfa->n_looks++] = look;
        node->look = nfa->n_looks;
    }
    return nfa_add(nfa, (struct nfa_node){.kind = node->is_behind ? NFA_BEHIND : NFA_AHEAD,
                                          .index = node->look - 1,
                                          .next = next});
}

static uint32_t emit_repeat(struct regex_compiler *c, struct nfa *nfa, struct regex_node *node,
                            uint32_t next)
{
    uint32_t min = node->min, max = node->max, at = next;
    uint64_t length;
    struct regex_node *child = node->first;
    if (fixed_length(child, &length) && length == 0) { /* once is as good as often */
        min = min > 0 ? 1 : 0;
        max = max > 0 ? 1 : 0;
    }
    if (max == UINT32_MAX) {
        uint32_t loop = nfa_add_split(nfa, next, next);
        if (loop == UINT32_MAX)
            return loop;
        uint32_t body = emit(c, nfa, child, loop);
        if (body == UINT32_MAX)
            return body;
        nfa->nodes[loop].next = body;
        at = min > 0 ? body : loop;
        min = min > 0 ? min - 1 : 0;
    } else {
        for (uint32_t i = min; i < max && at != UINT32_MAX; i++) {
            at = emit(c, nfa, child, at);
            if (at != UINT32_MAX)
                at = nfa_add_split(nfa, at, next);
        }
    }
    for (uint32_t i = 0; i < min && at != UINT32_MAX; i++)
        at = emit(c, nfa, child, at);
    return at;
}

/* The children of a sequence in reverse, without recursion over them. */
static uint32_t emit_sequence(struct regex_compiler *c, struct nfa *nfa, struct regex_node *node,
                              uint32_t next)
{
    size_t n = 0;
    for (const struct regex_node *child = node->first; child; child = child->next)
        n++;
    struct regex_node **children = arena_array(nfa->arena, n, sizeof *children);
    if (!children)
        return UINT32_MAX;
    n = 0;
    for (struct regex_node *child = node->first; child; child = child->next)
        children[n++] = child;
    while (n > 0 && next != UINT32_MAX)
        next = emit(c, nfa, children[--n], next);
    return next;
}

static uint32_t emit_choice(struct regex_compiler *c, struct nfa *nfa, struct regex_node *node,
                            uint32_t next)
{
    uint32_t at = UINT32_MAX;
    if (!node->is_factored && regex_factor(c->budget, node, c->err)) {
        c->has_failed = true;
        return UINT32_MAX;
    }
    node->is_factored = true;
    for (struct regex_node *child = node->first; child; child = child->next) {
        uint32_t entry = emit(c, nfa, child, next);
        if (entry == UINT32_MAX)
            return entry;
        at = at == UINT32_MAX ? entry : nfa_add_split(nfa, entry, at);
    }
    return at;
}

/* The nodes of a subtree before `next`; the entry. UINT32_MAX: emission_failed says why. */
static uint32_t emit(struct regex_compiler *c, struct nfa *nfa, struct regex_node *node,
                     uint32_t next)
{
    switch ((enum regex_kind)node->kind) {
    case REGEX_EMPTY:
        return next;
    case REGEX_SET:
        return nfa_add_set(nfa, node->set, next);
    case REGEX_SEQUENCE:
        return emit_sequence(c, nfa, node, next);
    case REGEX_CHOICE:
        return emit_choice(c, nfa, node, next);
    case REGEX_REPEAT:
        return emit_repeat(c, nfa, node, next);
    case REGEX_GUARD:
        return nfa_add(nfa,
                       (struct nfa_node){.kind = NFA_GUARD, .guard = node->guard, .next = next});
    case REGEX_LOOK:
        return emit_look(c, nfa, node, next);
    }
    return UINT32_MAX;
}

static bool may_be_nothing(const struct regex_node *node)
{
    return node->kind == REGEX_EMPTY || (node->kind == REGEX_REPEAT && node->min == 0);
}

/* Where anything may come before a subtree, or behind it, its outermost repetitions need not go
 * beyond their minimum: .*a+ matches somewhere iff a does. */
static void trim_search(struct regex_node *node, bool at_start, bool at_end)
{
    struct regex_node *head = NULL, *tail = NULL;
    if (node->kind == REGEX_REPEAT)
        node->max = node->min;
    if (node->kind == REGEX_REPEAT && node->min == 1)
        trim_search(node->first, at_start, at_end);
    if (node->kind == REGEX_CHOICE)
        for (struct regex_node *item = node->first; item; item = item->next)
            trim_search(item, at_start, at_end);
    if (node->kind != REGEX_SEQUENCE)
        return;
    for (struct regex_node *item = node->first; item; item = item->next) {
        if (may_be_nothing(item))
            continue;
        head = head ? head : item;
        tail = item;
    }
    bool is_before = true, is_behind = tail == NULL;
    for (struct regex_node *item = node->first; item; item = item->next) {
        is_before = is_before && item != head;
        if ((is_before && at_start) || (is_behind && at_end))
            item->max = 0; /* it may be nothing */
        is_behind = is_behind || item == tail;
    }
    if (at_start && head)
        trim_search(head, true, at_end && head == tail);
    if (at_end && tail && (head != tail || !at_start))
        trim_search(tail, false, true);
}

/* A loop over any characters before `entry`: a search from anywhere. */
static uint32_t add_search(struct regex_compiler *c, struct nfa *nfa, uint32_t entry)
{
    static const struct char_range all = {0, CODE_POINT_MAX};
    struct charset any;
    if (charset_make(c->budget, &all, 1, &any, c->err)) {
        c->has_failed = true;
        return UINT32_MAX;
    }
    uint32_t loop = nfa_add_split(nfa, entry, entry);
    if (loop == UINT32_MAX)
        return loop;
    uint32_t body = nfa_add_set(nfa, any, loop);
    if (body != UINT32_MAX)
        nfa->nodes[loop].other = body;
    return body == UINT32_MAX ? body : loop;
}

static serverd_status emission_failed(struct regex_compiler *c)
{
    if (c->has_failed)
        return c->err->code;
    return fail(c->err, SERVERD_TIMEOUT, "too complex: more than %u positions", LIMIT_REGEX_NODES);
}

static serverd_status compile_look(struct regex_compiler *c, struct regex_node *node,
                                   struct nfa_look *out)
{
    struct looks_at sees = looks_at(node->first);
    struct nfa nfa;
    serverd_status status = SERVERD_OK;
    if (node->is_behind && (sees.ahead || sees.behind || sees.after))
        return fail(c->err, SERVERD_UNSUPPORTED,
                    "pattern, byte %u: a look-behind with look-around, $ or \\b in it cannot be "
                    "enforced",
                    node->at);
    if (sees.behind)
        return fail(c->err, SERVERD_UNSUPPORTED,
                    "pattern, byte %u: a look-ahead with a look-behind in it cannot be enforced",
                    node->at);
    struct arena *scratch = arena_create(LIMIT_GRAMMAR_SCRATCH);
    if (!scratch || !nfa_init(&nfa, scratch)) {
        status = grammar_budget_memory(c->err);
        goto out;
    }
    nfa.ends_anywhere = !node->is_behind;
    trim_search(node->first, node->is_behind, !node->is_behind);
    nfa.start = emit(c, &nfa, node->first, 0);
    if (nfa.start != UINT32_MAX && node->is_behind)
        nfa.start = add_search(c, &nfa, nfa.start);
    if (nfa.start == UINT32_MAX) {
        status = emission_failed(c);
        goto out;
    }
    for (uint32_t kind = 0; kind < N_CHAR_KINDS && !status; kind++) {
        if (kind > 0 && (node->is_behind || !sees.before)) {
            out->after[kind] = out->after[0];
            continue;
        }
        status = nfa_determinise(c->budget, scratch, &nfa, kind, &out->after[kind], c->err);
        if (!status && node->is_negated)
            status = automaton_complement(c->budget, out->after[kind], &out->after[kind], c->err);
    }
out:
    arena_destroy(scratch);
    return status;
}

/* The lengths that the whole text may have, as far as they were taken out of the tree. */
struct length_bounds {
    uint32_t min, max;
};

/* A pattern that is anchored on both sides, of fixed length but for one long repetition of single
 * characters: that one becomes * and its bounds a length of the whole text. `starts`, `ends`: it
 * is anchored by what stands around it. */
static void take_length(struct regex_node *tree, bool starts, bool ends, struct length_bounds *out)
{
    struct regex_node *items = tree->kind == REGEX_SEQUENCE ? tree->first : tree, *longest = NULL;
    uint64_t length, fixed = 0;
    bool is_last = ends;
    for (struct regex_node *item = items; item; item = item->next) {
        bool is_long = item->kind == REGEX_REPEAT && fixed_length(item->first, &length) &&
                       length == 1 &&
                       (item->max == UINT32_MAX ? item->min : item->max) >= LONG_REPEAT;
        if (is_long && (!longest || item->min != item->max))
            longest = item;
    }
    for (const struct regex_node *item = items; item; item = item->next) {
        starts |= item->kind == REGEX_GUARD && item->guard == GUARD_TEXT_START;
        is_last |= item->kind == REGEX_GUARD && item->guard == GUARD_TEXT_END;
        length = 1;
        if (item != longest && (!fixed_length(item, &length) || (fixed += length) > UINT32_MAX / 2))
            return;
        if (length > 0 && !starts)
            return;
        if (length > 0)
            is_last = ends;
    }
    if (!longest || !starts || !is_last || longest->min > UINT32_MAX / 2 ||
        (longest->max != UINT32_MAX && longest->max > UINT32_MAX / 2))
        return;
    uint32_t min = (uint32_t)fixed + longest->min;
    uint32_t max = longest->max == UINT32_MAX ? UINT32_MAX : (uint32_t)fixed + longest->max;
    out->min = min > out->min ? min : out->min;
    out->max = max < out->max ? max : out->max;
    longest->min = 0;
    longest->max = UINT32_MAX;
}

/* The same of look-aheads at the start: (?=.{1,254}$). */
static void take_look_lengths(struct regex_node *tree, bool starts, struct length_bounds *out)
{
    struct regex_node *item = tree->kind == REGEX_SEQUENCE ? tree->first : tree;
    for (; item && (item->kind == REGEX_GUARD || item->kind == REGEX_LOOK); item = item->next) {
        starts |= item->kind == REGEX_GUARD && item->guard == GUARD_TEXT_START;
        if (item->kind == REGEX_LOOK && !item->is_behind && !item->is_negated)
            take_length(item->first, starts, false, out);
    }
}

/* The first thing that a match must do is to stand at the start. */
static bool is_anchored(const struct regex_node *node)
{
    while (node->kind == REGEX_SEQUENCE)
        node = node->first;
    return node->kind == REGEX_GUARD && node->guard == GUARD_TEXT_START;
}

serverd_status regex_compile(struct grammar_budget *budget, const char *pattern, size_t n,
                             enum regex_use use, struct string_set *out, serverd_error *err)
{
    struct regex_compiler c = {.budget = budget, .err = err};
    struct regex_node *tree;
    struct nfa nfa;
    const struct automaton *automaton = NULL;
    struct length_bounds bounds = {.min = 0, .max = UINT32_MAX};
    bool is_whole = use == REGEX_WHOLE;
    serverd_status status = regex_parse(budget, pattern, n, use, &tree, err);
    if (status)
        return status;
    take_length(tree, is_whole, is_whole, &bounds);
    take_look_lengths(tree, is_whole, &bounds);
    bool is_anchored_search = use == REGEX_SEARCH && is_anchored(tree);
    struct arena *scratch = arena_create(LIMIT_GRAMMAR_SCRATCH);
    if (!scratch || !nfa_init(&nfa, scratch)) {
        status = grammar_budget_memory(err);
        goto out;
    }
    nfa.ends_anywhere = use == REGEX_SEARCH;
    if (use == REGEX_SEARCH)
        trim_search(tree, true, true);
    nfa.start = emit(&c, &nfa, tree, 0);
    if (nfa.start != UINT32_MAX && use == REGEX_SEARCH && !is_anchored_search)
        nfa.start = add_search(&c, &nfa, nfa.start);
    if (nfa.start == UINT32_MAX)
        status = emission_failed(&c);
    else
        status = nfa_determinise(budget, scratch, &nfa, CHAR_NONE, &automaton, err);
out:
    arena_destroy(scratch);
    return status ? status : string_set_make(budget, automaton, bounds.min, bounds.max, out, err);
}
