#include "grammar/dfa.h"

/* How many different bytes may follow, at most two; *byte is one of them. */
static int count_next(const struct dfa *dfa, struct dfa_run run, int *byte)
{
    int n = 0;
    for (int b = 0; b < 256 && n < 2; b++) {
        struct dfa_run next = run;
        if (dfa_step(dfa, &next, (uint8_t)b)) {
            *byte = b;
            n++;
        }
    }
    return n;
}

bool dfa_is_final(const struct dfa *dfa, struct dfa_run run)
{
    int byte;
    return dfa_is_accepting(dfa, run) && count_next(dfa, run, &byte) == 0;
}

int dfa_forced_byte(const struct dfa *dfa, struct dfa_run run)
{
    int byte = -1;
    return !dfa_is_accepting(dfa, run) && count_next(dfa, run, &byte) == 1 ? byte : -1;
}

bool dfa_accepts(const struct dfa *dfa, const void *text, size_t n)
{
    const uint8_t *bytes = text;
    struct dfa_run run = dfa_begin(dfa);
    if (dfa->start == DFA_DEAD)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!dfa_step(dfa, &run, bytes[i]))
            return false;
    return dfa_is_accepting(dfa, run);
}

size_t dfa_bytes(const struct dfa *dfa)
{
    size_t cell = dfa->next16 ? sizeof *dfa->next16 : sizeof *dfa->next32;
    size_t per_state = dfa->n_classes * cell + 1 + (dfa->least ? 2 * sizeof *dfa->least : 0);
    return sizeof *dfa + dfa->n_states * per_state;
}
