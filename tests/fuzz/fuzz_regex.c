/* Any bytes as a pattern, searched for and whole: compiling ends in an automaton or an error, and
 * the automaton, its bytes and its reader say the same of a few texts. */
#include "grammar/json_text.h"
#include "grammar/regex.h"
#include "grammar/spelling.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_texts(const struct string_set *set, const struct dfa *dfa, const char *data,
                      size_t size)
{
    const char *texts[] = {"", "a", "ab\n", "\xc3\xa9 0", data};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        size_t n = texts[i] == data ? size : strlen(texts[i]);
        if (string_set_has(set, texts[i], n) != dfa_accepts(dfa, texts[i], n))
            abort();
    }
}

static void try_pattern(const char *data, size_t size, enum regex_use use)
{
    struct arena *arena = arena_create(64 * MIB);
    struct grammar_budget budget;
    struct string_set set;
    const struct dfa *dfa;
    serverd_error err = {0};
    grammar_budget_init(&budget, arena, &system_clock, clock_now_ns(&system_clock) + 1000000000u);
    budget.max_states = 2000;
    budget.max_cells = 100000;
    if (regex_compile(&budget, data, size, use, &set, &err) != SERVERD_OK) {
        if (err.text[0] == '\0')
            abort();
    } else if (spell(&budget, &set, SPELLING_PLAIN, arena, &dfa, &err) == SERVERD_OK) {
        try_texts(&set, dfa, data, size);
    }
    arena_destroy(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 4096)
        return 0;
    try_pattern((const char *)data, size, REGEX_SEARCH);
    try_pattern((const char *)data, size, REGEX_WHOLE);
    return 0;
}
