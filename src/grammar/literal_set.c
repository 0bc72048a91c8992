/* A set of texts as an automaton. */
#include "base/error.h"
#include "base/numeric.h"
#include "base/utf8.h"
#include "grammar/automaton_internal.h"

#include <stdlib.h>
#include <string.h>

static int compare_texts(const void *a, const void *b)
{
    const struct text_piece *x = a, *y = b;
    size_t n = min_size(x->n, y->n);
    int order = n > 0 ? memcmp(x->bytes, y->bytes, n) : 0;
    return order != 0 ? order : (x->n > y->n) - (x->n < y->n);
}

/* Every code point that occurs is a class of its own, the rest is one. */
static serverd_status make_alphabet(struct grammar_budget *budget, struct arena *scratch,
                                    const struct text_piece *texts, size_t n_texts,
                                    struct alphabet *out, serverd_error *err)
{
    size_t n_bytes = 0, n = 0;
    for (size_t i = 0; i < n_texts; i++)
        if (!size_add(n_bytes, texts[i].n, &n_bytes))
            return grammar_budget_memory(err);
    uint8_t *seen = arena_alloc(scratch, CODE_POINT_MAX / 8 + 1);
    if (!seen)
        return grammar_budget_memory(err);
    for (size_t i = 0; i < n_texts; i++) {
        if (utf8_valid_run(texts[i].bytes, texts[i].n) != texts[i].n)
            return fail(err, SERVERD_INVALID, "a text that is not well-formed UTF-8");
        for (size_t at = 0; at < texts[i].n;) {
            uint32_t c;
            at += utf8_decode(texts[i].bytes + at, texts[i].n - at, &c);
            n += (seen[c / 8] >> (c % 8) & 1) == 0;
            seen[c / 8] = (uint8_t)(seen[c / 8] | 1u << (c % 8));
        }
    }
    struct char_range *ranges = arena_array(scratch, n > 0 ? n : 1, sizeof *ranges);
    struct charset *sets = arena_array(scratch, n > 0 ? n : 1, sizeof *sets);
    if (!ranges || !sets)
        return grammar_budget_memory(err);
    n = 0;
    for (uint32_t c = 0; c <= CODE_POINT_MAX; c++) {
        if (seen[c / 8] >> (c % 8) & 1) {
            ranges[n] = (struct char_range){c, c};
            sets[n] = (struct charset){.ranges = &ranges[n], .n_ranges = 1};
            n++;
        }
    }
    serverd_status status = grammar_budget_spend(budget, n_bytes, err);
    return status ? status : alphabet_make(budget, scratch, sets, n, out, err);
}

/* The states on the way to the text that was read last, whose successors are not all known yet. A
 * text that comes behind it in order closes those that it does not share; a closed state is looked
 * up by what it accepts and where it leads, so that equal ones are one, and the automaton is
 * minimal as it grows (Daciuk et al., Incremental Construction of Minimal Acyclic Finite-State
 * Automata, 2000). */
struct open_state {
    bool accepts;
    uint32_t symbol;             /* by which the next state on the way is entered */
    uint32_t *edges;             /* pairs of symbol and closed state */
    uint32_t n_edges, cap_edges; /* in pairs */
};

struct trie {
    struct grammar_budget *budget;
    struct arena *scratch;
    struct key_table closed; /* accepts, pairs; number + 1 is the state */
    struct open_state *path; /* [longest text + 1] */
    size_t depth;            /* of the last open state */
    uint32_t *key;           /* [1 + 2 n_symbols] */
    uint32_t n_symbols;
};

/* The state with what path[depth] has. */
static serverd_status close_state(struct trie *t, uint32_t *out, serverd_error *err)
{
    struct open_state *top = &t->path[t->depth];
    bool is_new;
    t->key[0] = top->accepts;
    if (top->n_edges > 0)
        memcpy(t->key + 1, top->edges, 2 * (size_t)top->n_edges * sizeof *t->key);
    uint32_t number = key_table_add(&t->closed, t->key, 1 + 2 * top->n_edges, &is_new);
    if (number == UINT32_MAX)
        return grammar_budget_memory(err);
    *out = number + 1;
    top->n_edges = 0;
    top->accepts = false;
    return grammar_budget_table(t->budget, t->closed.n_keys + (size_t)1, t->n_symbols, err);
}

/* Closes all states deeper than `depth`. */
static serverd_status close_path(struct trie *t, size_t depth, serverd_error *err)
{
    while (t->depth > depth) {
        uint32_t state = 0;
        serverd_status status = close_state(t, &state, err);
        if (status)
            return status;
        struct open_state *parent = &t->path[--t->depth];
        if (parent->n_edges == parent->cap_edges) {
            uint32_t cap = parent->cap_edges > 0 ? 2 * parent->cap_edges : 4;
            parent->edges = arena_grow(t->scratch, parent->edges,
                                       2 * (size_t)parent->n_edges * sizeof *parent->edges,
                                       2 * (size_t)cap * sizeof *parent->edges);
            if (!parent->edges)
                return grammar_budget_memory(err);
            parent->cap_edges = cap;
        }
        parent->edges[2 * (size_t)parent->n_edges] = parent->symbol;
        parent->edges[2 * (size_t)parent->n_edges++ + 1] = state;
    }
    return SERVERD_OK;
}

static serverd_status add_text(struct trie *t, const struct alphabet *alphabet,
                               struct text_piece text, serverd_error *err)
{
    size_t depth = 0;
    bool is_common = true;
    for (size_t at = 0; at < text.n; depth++) {
        uint32_t c;
        at += utf8_decode(text.bytes + at, text.n - at, &c);
        uint32_t symbol = alphabet_find(alphabet->ranges, alphabet->n_ranges, c)->symbol;
        is_common = is_common && depth < t->depth && t->path[depth].symbol == symbol;
        if (is_common)
            continue;
        serverd_status status = close_path(t, depth, err);
        if (status)
            return status;
        t->path[depth].symbol = symbol;
        t->depth = depth + 1;
    }
    serverd_status status = close_path(t, depth, err);
    t->path[depth].accepts = true;
    return status ? status : grammar_budget_spend(t->budget, text.n + 1, err);
}

/* The closed states as a table; the root was closed last. */
static serverd_status make_rows(struct trie *t, uint32_t root, struct raw_automaton *out,
                                serverd_error *err)
{
    uint32_t n_states = t->closed.n_keys + 1, k = t->n_symbols;
    uint32_t *rows = arena_array(t->scratch, (size_t)n_states * k, sizeof *rows);
    uint8_t *labels = arena_alloc(t->scratch, n_states);
    if (!rows || !labels)
        return grammar_budget_memory(err);
    for (uint32_t s = 1; s < n_states; s++) {
        const uint32_t *key = t->closed.words + t->closed.offset[s - 1];
        size_t n_edges = (t->closed.offset[s] - t->closed.offset[s - 1]) / 2;
        labels[s] = (uint8_t)key[0];
        for (size_t e = 0; e < n_edges; e++)
            rows[(size_t)s * k + key[1 + 2 * e]] = key[2 + 2 * e];
    }
    *out = (struct raw_automaton){.n_states = n_states,
                                  .n_classes = k,
                                  .start = root,
                                  .next = rows,
                                  .labels = labels,
                                  .is_minimal = true};
    return SERVERD_OK;
}

static serverd_status make_trie(struct grammar_budget *budget, struct arena *scratch,
                                const struct text_piece *texts, size_t n_texts,
                                const struct alphabet *alphabet, struct raw_automaton *out,
                                serverd_error *err)
{
    struct trie t = {.budget = budget, .scratch = scratch, .n_symbols = alphabet->n_classes};
    size_t longest = 0;
    uint32_t root = 0;
    for (size_t i = 0; i < n_texts; i++)
        longest = max_size(longest, texts[i].n);
    struct text_piece *sorted = arena_array(scratch, n_texts, sizeof *sorted);
    t.path = arena_array(scratch, longest + 1, sizeof *t.path);
    t.key = arena_array(scratch, 1 + 2 * (size_t)alphabet->n_classes, sizeof *t.key);
    if (!sorted || !t.path || !t.key || !key_table_init(&t.closed, scratch))
        return grammar_budget_memory(err);
    memcpy(sorted, texts, n_texts * sizeof *sorted);
    qsort(sorted, n_texts, sizeof *sorted, compare_texts);
    serverd_status status = SERVERD_OK;
    for (size_t i = 0; i < n_texts && !status; i++)
        status = add_text(&t, alphabet, sorted[i], err);
    if (!status)
        status = close_path(&t, 0, err);
    if (!status)
        status = close_state(&t, &root, err);
    return status ? status : make_rows(&t, root, out, err);
}

serverd_status automaton_literals(struct grammar_budget *budget, const struct text_piece *texts,
                                  size_t n_texts, const struct automaton **out, serverd_error *err)
{
    struct raw_automaton raw;
    struct alphabet alphabet;
    struct arena *scratch = arena_create(LIMIT_GRAMMAR_SCRATCH);
    if (!scratch)
        return grammar_budget_memory(err);
    if (n_texts == 0) {
        arena_destroy(scratch);
        return automaton_nothing(budget, out, err);
    }
    serverd_status status = make_alphabet(budget, scratch, texts, n_texts, &alphabet, err);
    if (!status)
        status = make_trie(budget, scratch, texts, n_texts, &alphabet, &raw, err);
    if (!status)
        status = automaton_build(budget, scratch, &raw, &alphabet, out, err);
    arena_destroy(scratch);
    return status;
}
