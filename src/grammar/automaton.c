/* Questions to an automaton. */
#include "base/error.h"
#include "base/utf8.h"
#include "grammar/automaton_internal.h"

#include <string.h>

uint32_t automaton_step(const struct automaton *a, uint32_t state, uint32_t code_point)
{
    const struct class_range *r = alphabet_find(a->ranges, a->n_ranges, code_point);
    return r ? a->next[(size_t)state * a->n_classes + r->symbol] : AUTOMATON_DEAD;
}

bool automaton_accepts(const struct automaton *a, const char *text, size_t n)
{
    uint32_t state = a->start;
    if (utf8_valid_run(text, n) != n)
        return false;
    for (size_t at = 0; at < n && state != AUTOMATON_DEAD;) {
        uint32_t code_point;
        at += utf8_decode(text + at, n - at, &code_point);
        state = automaton_step(a, state, code_point);
    }
    return a->accepts[state];
}

bool automaton_is_anything(const struct automaton *a)
{
    return a->n_states == 2 && a->n_classes == 1 && a->accepts[1] && a->next[1] == 1;
}

bool automaton_equal(const struct automaton *a, const struct automaton *b)
{
    return a == b ||
           (a->n_states == b->n_states && a->n_classes == b->n_classes && a->start == b->start &&
            a->n_ranges == b->n_ranges && memcmp(a->accepts, b->accepts, a->n_states) == 0 &&
            memcmp(a->ranges, b->ranges, a->n_ranges * sizeof *a->ranges) == 0 &&
            memcmp(a->next, b->next, (size_t)a->n_states * a->n_classes * sizeof *a->next) == 0);
}

/* How many scalar values belong to a class. */
static uint64_t class_size(const struct automaton *a, uint32_t symbol)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < a->n_ranges; i++)
        if (a->ranges[i].symbol == symbol)
            n += a->ranges[i].last - a->ranges[i].first + 1;
    return n;
}

static uint64_t saturating(uint64_t a, uint64_t b, uint64_t n, uint64_t bound)
{
    uint64_t product, sum;
    if (__builtin_mul_overflow(a, b, &product) || __builtin_add_overflow(product, n, &sum) ||
        sum > bound)
        return bound;
    return sum;
}

/* Texts from each state, the states with the shorter futures first. */
static uint64_t count_texts(struct arena *scratch, const struct automaton *a, uint64_t bound)
{
    uint32_t n = a->n_states, n_lengths = a->longest[a->start] + 2;
    uint64_t *count = arena_array(scratch, n, sizeof *count);
    uint64_t *sizes = arena_array(scratch, a->n_classes, sizeof *sizes);
    uint32_t *order = arena_array(scratch, n, sizeof *order);
    uint32_t *place = arena_array(scratch, (size_t)n_lengths + 1, sizeof *place);
    if (!count || !sizes || !order || !place)
        return bound; /* more texts than memory: not few */
    for (uint32_t c = 0; c < a->n_classes; c++)
        sizes[c] = class_size(a, c);
    for (uint32_t s = 0; s < n; s++)
        place[a->longest[s] + 1]++;
    for (uint32_t i = 1; i <= n_lengths; i++)
        place[i] += place[i - 1];
    for (uint32_t s = 0; s < n; s++)
        order[place[a->longest[s]]++] = s;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t s = order[i];
        const uint32_t *row = a->next + (size_t)s * a->n_classes;
        count[s] = a->accepts[s];
        for (uint32_t c = 0; s != AUTOMATON_DEAD && c < a->n_classes; c++)
            count[s] = saturating(count[row[c]], sizes[c], count[s], bound);
    }
    return count[a->start];
}

uint64_t automaton_count(const struct automaton *a, uint64_t bound)
{
    if (automaton_is_empty(a) || bound == 0)
        return 0;
    if (a->longest[a->start] == UINT32_MAX)
        return bound;
    struct arena *scratch = arena_create(LIMIT_GRAMMAR_SCRATCH);
    uint64_t n = scratch ? count_texts(scratch, a, bound) : bound;
    arena_destroy(scratch);
    return n;
}

static size_t encode(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(lead[n] | c);
    return n;
}

serverd_status automaton_example(struct grammar_budget *budget, const struct automaton *a,
                                 const char **out, size_t *n, serverd_error *err)
{
    if (automaton_is_empty(a))
        return fail(err, SERVERD_INTERNAL, "an example of an empty language");
    char *text = arena_array(budget->arena, (size_t)a->shortest[a->start] + 1, 4);
    size_t length = 0;
    if (!text)
        return grammar_budget_memory(err);
    for (uint32_t state = a->start; a->shortest[state] > 0;) {
        const struct class_range *r = a->ranges;
        uint32_t to;
        for (;; r++) {
            to = a->next[(size_t)state * a->n_classes + r->symbol];
            if (to != AUTOMATON_DEAD && a->shortest[to] + 1 == a->shortest[state])
                break;
        }
        length += encode(r->first, text + length);
        state = to;
    }
    *out = text;
    *n = length;
    return SERVERD_OK;
}

/* One place on the way to a text: the next code point to try is `code_point`, in range `range`. */
struct place {
    uint32_t state, range, code_point;
    size_t n_text;
};

serverd_status automaton_enumerate(struct grammar_budget *budget, const struct automaton *a,
                                   size_t max_texts, struct text_piece **out, size_t *n_out,
                                   serverd_error *err)
{
    if (automaton_is_empty(a)) {
        *n_out = 0;
        *out = NULL;
        return SERVERD_OK;
    }
    uint32_t longest = a->longest[a->start];
    if (longest == UINT32_MAX || automaton_count(a, (uint64_t)max_texts + 1) > max_texts)
        return fail(err, SERVERD_TIMEOUT, "too complex: more than %zu texts", max_texts);
    struct text_piece *texts = arena_array(budget->arena, max_texts + 1, sizeof *texts);
    struct place *stack = arena_array(budget->arena, (size_t)longest + 1, sizeof *stack);
    char *text = arena_array(budget->arena, (size_t)longest + 1, 4);
    size_t n = 0, depth = 0;
    if (!texts || !stack || !text)
        return grammar_budget_memory(err);
    stack[depth++] = (struct place){.state = a->start};
    while (depth > 0) {
        struct place *top = &stack[depth - 1];
        if (top->range == 0 && top->code_point == 0 && a->accepts[top->state]) {
            texts[n].n = top->n_text;
            texts[n].bytes = arena_copy(budget->arena, text, top->n_text);
            if (!texts[n++].bytes)
                return grammar_budget_memory(err);
        }
        while (top->range < a->n_ranges &&
               (top->code_point > a->ranges[top->range].last ||
                a->next[(size_t)top->state * a->n_classes + a->ranges[top->range].symbol] ==
                    AUTOMATON_DEAD))
            top->range++;
        if (top->range == a->n_ranges) {
            depth--;
            continue;
        }
        const struct class_range *r = &a->ranges[top->range];
        uint32_t code_point = top->code_point > r->first ? top->code_point : r->first;
        top->code_point = code_point + 1;
        stack[depth] =
            (struct place){.state = a->next[(size_t)top->state * a->n_classes + r->symbol],
                           .n_text = top->n_text + encode(code_point, text + top->n_text)};
        depth++;
        serverd_status status = grammar_budget_spend(budget, a->n_ranges, err);
        if (status)
            return status;
    }
    *out = texts;
    *n_out = n;
    return SERVERD_OK;
}
