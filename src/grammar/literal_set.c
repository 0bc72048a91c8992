/* A set of texts as an automaton: their trie, which automaton_build makes minimal. */
#include "base/error.h"
#include "base/numeric.h"
#include "base/utf8.h"
#include "grammar/automaton_internal.h"

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

/* State 1 is the root. */
static serverd_status make_trie(struct grammar_budget *budget, struct arena *scratch,
                                const struct text_piece *texts, size_t n_texts,
                                const struct alphabet *alphabet, struct raw_automaton *out,
                                serverd_error *err)
{
    uint32_t k = alphabet->n_classes, n_states = 2;
    size_t cap = 64;
    uint32_t *rows = arena_array(scratch, cap * k, sizeof *rows);
    uint8_t *labels = arena_alloc(scratch, cap);
    if (!rows || !labels)
        return grammar_budget_memory(err);
    for (size_t i = 0; i < n_texts; i++) {
        uint32_t state = 1;
        for (size_t at = 0; at < texts[i].n;) {
            uint32_t c;
            at += utf8_decode(texts[i].bytes + at, texts[i].n - at, &c);
            size_t cell =
                (size_t)state * k + alphabet_find(alphabet->ranges, alphabet->n_ranges, c)->symbol;
            if (rows[cell] == 0) {
                if (n_states == cap) {
                    rows = arena_grow(scratch, rows, cap * k * sizeof *rows,
                                      2 * cap * k * sizeof *rows);
                    labels = arena_grow(scratch, labels, cap, 2 * cap);
                    cap *= 2;
                    if (!rows || !labels)
                        return grammar_budget_memory(err);
                }
                serverd_status status = grammar_budget_table(budget, n_states + 1, k, err);
                if (status)
                    return status;
                rows[cell] = n_states++;
            }
            state = rows[cell];
        }
        labels[state] = 1;
        serverd_status status = grammar_budget_spend(budget, texts[i].n + 1, err);
        if (status)
            return status;
    }
    *out = (struct raw_automaton){
        .n_states = n_states, .n_classes = k, .start = 1, .next = rows, .labels = labels};
    return SERVERD_OK;
}

serverd_status automaton_literals(struct grammar_budget *budget, const struct text_piece *texts,
                                  size_t n_texts, const struct automaton **out, serverd_error *err)
{
    struct raw_automaton raw;
    struct alphabet alphabet;
    struct arena *scratch = arena_create(LIMIT_GRAMMAR_SCRATCH);
    if (!scratch)
        return grammar_budget_memory(err);
    serverd_status status = make_alphabet(budget, scratch, texts, n_texts, &alphabet, err);
    if (!status)
        status = make_trie(budget, scratch, texts, n_texts, &alphabet, &raw, err);
    if (!status)
        status = automaton_build(budget, scratch, &raw, &alphabet, out, err);
    arena_destroy(scratch);
    return status;
}
