#include "grammar/text_reach.h"

#include "base/utf8.h"

#include <string.h>

/* Where one is in a character: how many bytes are missing, and what the next may be. */
struct phase {
    uint8_t first, last, next; /* bytes that go on, and the phase behind them */
};

enum { BETWEEN, ONE, TWO, THREE, AFTER_E0, AFTER_ED, AFTER_F0, AFTER_F4, N_PHASES };

static const struct phase phases[N_PHASES] = {
    [ONE] = {0x80, 0xbf, BETWEEN},  [TWO] = {0x80, 0xbf, ONE},      [THREE] = {0x80, 0xbf, TWO},
    [AFTER_E0] = {0xa0, 0xbf, ONE}, [AFTER_ED] = {0x80, 0x9f, ONE}, [AFTER_F0] = {0x90, 0xbf, TWO},
    [AFTER_F4] = {0x80, 0x8f, TWO},
};

/* First bytes of ordinary characters. */
static const struct phase starts[] = {
    {0x20, 0x21, BETWEEN},  {0x23, 0x5b, BETWEEN}, {0x5d, 0x7f, BETWEEN},  {0xc2, 0xdf, ONE},
    {0xe0, 0xe0, AFTER_E0}, {0xe1, 0xec, TWO},     {0xed, 0xed, AFTER_ED}, {0xee, 0xef, TWO},
    {0xf0, 0xf0, AFTER_F0}, {0xf1, 0xf3, THREE},   {0xf4, 0xf4, AFTER_F4},
};

/* A state in a phase. Distances are found by going over all of them until nothing changes; a round
 * moves them by at least one, and they end at REACH_MAX. */
struct walk {
    const struct dfa *dfa;
    uint8_t *reach; /* [n_states][N_PHASES]: REACH_ bits */
};

static uint8_t *reach_at(const struct walk *walk, uint32_t state, uint8_t phase)
{
    return &walk->reach[(size_t)state * N_PHASES + phase];
}

/* What lies behind the bytes of a range. */
static void look(struct walk *walk, uint32_t state, const struct phase *phase, uint8_t *least,
                 bool *is_exact, bool *any_dead, bool *any_alive)
{
    const struct dfa *dfa = walk->dfa;
    uint32_t last_class = UINT32_MAX;
    for (unsigned byte = phase->first; byte <= phase->last; byte++) {
        uint32_t class = dfa->class_of[byte];
        if (class == last_class)
            continue;
        last_class = class;
        uint32_t next = dfa_next(dfa, state, (uint8_t)byte);
        if (next == DFA_DEAD) {
            *any_dead = true;
            continue;
        }
        *any_alive = true;
        uint8_t reach = *reach_at(walk, next, phase->next);
        uint8_t count = reach & REACH_COUNT;
        count = (uint8_t)(count + (phase->next == BETWEEN && count < REACH_MAX));
        if (*least != UINT8_MAX && count != *least)
            *is_exact = false;
        if (!(reach & REACH_EXACT))
            *is_exact = false;
        *least = count < *least ? count : *least;
    }
}

static uint8_t settled(struct walk *walk, uint32_t state, uint8_t phase)
{
    uint8_t least = UINT8_MAX;
    bool is_exact = true, any_dead = false, any_alive = false;
    if (phase != BETWEEN)
        look(walk, state, &phases[phase], &least, &is_exact, &any_dead, &any_alive);
    for (size_t i = 0; phase == BETWEEN && i < sizeof starts / sizeof *starts; i++)
        look(walk, state, &starts[i], &least, &is_exact, &any_dead, &any_alive);
    if (any_dead)
        return any_alive ? 0 : REACH_EXACT;
    return (uint8_t)(least | (is_exact && least < REACH_MAX ? REACH_EXACT : 0));
}

#define NOT_THERE 0xffu /* a state that is never in this phase */

/* Which states are within a character, and where: whatever a state is, characters may begin there
 * (and be refused). */
static void find_phases(struct walk *walk)
{
    const struct dfa *dfa = walk->dfa;
    memset(walk->reach, NOT_THERE, (size_t)dfa->n_states * N_PHASES);
    for (uint32_t state = 0; state < dfa->n_states; state++)
        *reach_at(walk, state, BETWEEN) = REACH_MAX | REACH_EXACT;
    for (int round = 0; round < 3; round++) /* a character has four bytes */
        for (uint32_t state = 1; state < dfa->n_states; state++) {
            for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
                for (unsigned byte = starts[i].first; byte <= starts[i].last; byte++)
                    *reach_at(walk, dfa_next(dfa, state, (uint8_t)byte), starts[i].next) =
                        REACH_MAX | REACH_EXACT;
            for (uint8_t phase = ONE; phase < N_PHASES; phase++)
                for (unsigned byte = phases[phase].first;
                     *reach_at(walk, state, phase) != NOT_THERE && byte <= phases[phase].last;
                     byte++)
                    *reach_at(walk, dfa_next(dfa, state, (uint8_t)byte), phases[phase].next) =
                        REACH_MAX | REACH_EXACT;
        }
}

serverd_status text_reach(struct grammar_budget *budget, const struct dfa *dfa, struct arena *keep,
                          const uint8_t **out, serverd_error *err)
{
    struct walk walk = {.dfa = dfa};
    *out = NULL;
    if (dfa->n_states > LIMIT_GRAMMAR_REACH) /* masks do without */
        return SERVERD_OK;
    uint8_t *by_state = arena_alloc(keep, dfa->n_states);
    walk.reach = arena_array(budget->arena, dfa->n_states, N_PHASES);
    if (!by_state || !walk.reach)
        return grammar_budget_memory(err);
    find_phases(&walk);
    for (bool has_changed = true; has_changed;) {
        has_changed = false;
        for (uint32_t state = dfa->n_states; state-- > 1;)
            for (uint8_t phase = 0; phase < N_PHASES; phase++) {
                uint8_t *was = reach_at(&walk, state, phase);
                if (*was == NOT_THERE)
                    continue;
                uint8_t now = settled(&walk, state, phase);
                has_changed = has_changed || now != *was;
                *was = now;
            }
        serverd_status status = grammar_budget_spend(budget, dfa->n_states, err);
        if (status != SERVERD_OK)
            return status;
    }
    for (uint32_t state = 0; state < dfa->n_states; state++)
        by_state[state] = state == DFA_DEAD ? 0 : *reach_at(&walk, state, BETWEEN);
    *out = by_state;
    return SERVERD_OK;
}

uint8_t text_reach_of(const struct dfa *dfa, const uint8_t *reach, struct dfa_run run)
{
    uint8_t own = reach[run.state];
    if (!dfa->least)
        return own;
    uint32_t most_least = 0;
    bool is_limited = false;
    for (uint32_t state = 1; state < dfa->n_states; state++) {
        if (dfa->flags[state] &
            DFA_BOUNDARY) /* within a character it is one more, and one less read */
            most_least = dfa->least[state] > most_least ? dfa->least[state] : most_least;
        is_limited = is_limited || dfa->most[state] != UINT32_MAX;
    }
    if (is_limited && run.count < dfa->min)
        return 0;
    if (dfa->max == UINT32_MAX)
        return own;
    uint32_t left = dfa->max - run.count, count = own & REACH_COUNT;
    if (left <= most_least)
        return 0;
    left -= most_least;
    if (left > count || count < REACH_MAX)
        return (uint8_t)(left < count ? left : count);
    /* whatever comes is legal, as long as there is room */
    return (uint8_t)(left >= REACH_MAX ? REACH_MAX : most_least == 0 ? left | REACH_EXACT : left);
}

uint32_t ordinary_characters(const char *text, size_t n)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; count++) {
        unsigned char c = (unsigned char)text[i];
        uint32_t code_point;
        size_t taken = utf8_decode(text + i, n - i, &code_point);
        if (c < 0x20 || c == '"' || c == '\\' || utf8_valid_run(text + i, taken) != taken)
            return UINT32_MAX;
        i += taken;
    }
    return count;
}
