#include "grammar/stop_pattern.h"

#include "base/error.h"
#include "base/limits.h"
#include "grammar/regex.h"
#include "grammar/spelling.h"

#include <stdlib.h>

/* ---- compiling ------------------------------------------------------------------------------- */

static serverd_status compile(struct grammar_budget *budget, const char *text, size_t n,
                              struct arena *keep, const struct dfa **out, serverd_error *err)
{
    struct string_set set;
    const struct automaton *automaton;
    serverd_status status = regex_compile(budget, text, n, REGEX_WHOLE, &set, err);
    if (status == SERVERD_OK) /* a scanner's runs are states without counts */
        status = string_set_fold(budget, &set, &automaton, err);
    if (status == SERVERD_OK)
        status = spell_automaton(budget, automaton, SPELLING_PLAIN, keep, out, err);
    return status;
}

serverd_status stop_pattern_compile(const char *text, size_t n, const struct clock *clock,
                                    struct arena *keep, const struct dfa **out, serverd_error *err)
{
    struct grammar_budget budget;
    const struct dfa *dfa;
    struct arena *arena = arena_create(LIMIT_GRAMMAR_BYTES);
    if (!arena)
        return fail(err, SERVERD_NOMEM, "no memory for a pattern");
    grammar_budget_init(&budget, arena, clock,
                        clock_now_ns(clock) + LIMIT_STOP_PATTERN_MS * UINT64_C(1000000));
    budget.max_states = 4 * LIMIT_STOP_PATTERN_STATES; /* on the way there may be more */
    serverd_status status = compile(&budget, text, n, keep, &dfa, err);
    arena_destroy(arena);
    if (status != SERVERD_OK)
        return status;
    if (dfa->n_states > LIMIT_STOP_PATTERN_STATES)
        return fail(err, SERVERD_TIMEOUT, "too complex: %u states, at most %u allowed",
                    dfa->n_states, LIMIT_STOP_PATTERN_STATES);
    if (dfa_is_accepting(dfa, dfa_begin(dfa)))
        return fail(err, SERVERD_INVALID, "matches the empty text, which is everywhere");
    *out = dfa;
    return SERVERD_OK;
}

/* ---- scanning -------------------------------------------------------------------------------- */

struct thread {
    uint32_t state;
    uint64_t begin;
};

/* One pattern's threads, the oldest first. */
struct scan {
    const struct dfa *dfa;
    struct thread *threads; /* [n_states + 1] */
    uint32_t n;
    uint64_t *taken; /* [n_states] the byte, + 1, behind which a thread was in the state */
};

struct stop_scanner {
    uint64_t n_bytes;
    uint32_t n;
    struct scan scans[];
};

struct stop_scanner *stop_scanner_create(const struct dfa *const *patterns, uint32_t n)
{
    struct stop_scanner *scanner = calloc(1, sizeof *scanner + n * sizeof *scanner->scans);
    if (!scanner)
        return NULL;
    scanner->n = n;
    for (uint32_t i = 0; i < n; i++) {
        struct scan *scan = &scanner->scans[i];
        scan->dfa = patterns[i];
        scan->threads = calloc(patterns[i]->n_states + 1, sizeof *scan->threads);
        scan->taken = calloc(patterns[i]->n_states, sizeof *scan->taken);
        if (!scan->threads || !scan->taken) {
            stop_scanner_destroy(scanner);
            return NULL;
        }
    }
    return scanner;
}

void stop_scanner_destroy(struct stop_scanner *scanner)
{
    for (uint32_t i = 0; scanner && i < scanner->n; i++) {
        free(scanner->scans[i].threads);
        free(scanner->scans[i].taken);
    }
    free(scanner);
}

/* Byte number `at` of the text. True: a match ends behind it, which begins at *begin. */
static bool scan_byte(struct scan *scan, uint8_t byte, uint64_t at, uint64_t *begin)
{
    const struct dfa *dfa = scan->dfa;
    uint32_t n_kept = 0;
    scan->threads[scan->n++] = (struct thread){dfa->start, at};
    for (uint32_t i = 0; i < scan->n; i++) {
        const uint32_t state = dfa_next(dfa, scan->threads[i].state, byte);
        if (state == DFA_DEAD || scan->taken[state] == at + 1)
            continue;
        scan->taken[state] = at + 1;
        scan->threads[n_kept] = (struct thread){state, scan->threads[i].begin};
        if (dfa->flags[state] & DFA_ACCEPTS) {
            *begin = scan->threads[n_kept].begin;
            return true;
        }
        n_kept++;
    }
    scan->n = n_kept;
    return false;
}

bool stop_scanner_push(struct stop_scanner *scanner, const char *bytes, uint32_t len,
                       uint32_t *index, uint64_t *begin, uint64_t *end)
{
    for (uint32_t b = 0; b < len; b++) {
        bool is_found = false;
        for (uint32_t i = 0; i < scanner->n; i++) {
            uint64_t from;
            if (!scan_byte(&scanner->scans[i], (uint8_t)bytes[b], scanner->n_bytes, &from) ||
                (is_found && from >= *begin))
                continue;
            is_found = true;
            *index = i;
            *begin = from;
        }
        *end = ++scanner->n_bytes;
        if (is_found)
            return true;
    }
    return false;
}

void stop_scanner_skip(struct stop_scanner *scanner, uint32_t len)
{
    scanner->n_bytes += len;
    for (uint32_t i = 0; i < scanner->n; i++)
        scanner->scans[i].n = 0;
}

uint64_t stop_scanner_safe(const struct stop_scanner *scanner)
{
    uint64_t safe = scanner->n_bytes;
    for (uint32_t i = 0; i < scanner->n; i++)
        if (scanner->scans[i].n > 0 && scanner->scans[i].threads[0].begin < safe)
            safe = scanner->scans[i].threads[0].begin;
    return safe;
}
