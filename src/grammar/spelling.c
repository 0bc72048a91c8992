#include "grammar/spelling.h"

#include "base/error.h"
#include "grammar/automaton_internal.h"

#include <string.h>

/* States of the byte automaton, before it is minimised, by their keys. q is a state of the
 * automaton over code points. */
enum place {
    PLACE_BETWEEN, /* {., 0, q} between code points */
    PLACE_SAME,    /* {., n_left, q, low} n_left continuation bytes give low and the following code
                      points, which all lead to q; low is NO_BORDER if none of them is ill-formed */
    PLACE_INSIDE,  /* {., n_left, q, low} they give these, to be read from q */
    PLACE_ESCAPE,  /* {., 0, q, same} behind a backslash; same: what is escaped leads to q, else it
                      is to be read from q */
    PLACE_U,       /* {., n, q, same} behind \u and n zeros: 0..2 */
    PLACE_U00,     /* {., digit, q, same} behind \u000 or \u001 */
};

#define NO_BORDER UINT32_MAX

struct speller {
    struct grammar_budget *budget;
    struct arena *scratch;
    const struct automaton *a;
    enum spelling spelling;
    bool is_counted;
    uint8_t class_of[256], first_of[256]; /* classes before merging; the first byte of each */
    uint32_t n_classes;
    uint32_t symbol_of[0x80]; /* of ASCII, in the automaton */
    struct key_table places;  /* number + 1 is the state */
    uint32_t *between;        /* [n_states of a] that state, 0 if it is not there yet */
};

/* Some text has a character that is escaped. */
static bool has_escapes(const struct automaton *a)
{
    for (uint32_t i = 0; i < a->n_ranges && a->ranges[i].first <= '\\'; i++) {
        const struct class_range *r = &a->ranges[i];
        bool is_escaped = r->first < 0x20 || (r->first <= '"' && r->last >= '"') || r->last >= '\\';
        for (uint32_t s = 1; is_escaped && s < a->n_states; s++)
            if (a->next[(size_t)s * a->n_classes + r->symbol] != AUTOMATON_DEAD)
                return true;
    }
    return false;
}

/* Bytes that some state may tell apart begin a class each. A border between two code points shows
 * in the bytes of the second one's spelling, and in what follows them. */
static void cut_bytes(struct speller *s, bool escapes)
{
    static const uint8_t always[] = {0x80, 0x90, 0xa0, 0xc0, 0xc2, 0xe0, 0xe1,
                                     0xed, 0xee, 0xf0, 0xf1, 0xf4, 0xf5};
    static const char json[] = "\"#\\]0123456789:abcdefgnorstuv";
    bool cuts[257] = {true};
    for (size_t i = 0; i < sizeof always; i++)
        cuts[always[i]] = true;
    for (size_t i = 0; i < sizeof json - 1 && escapes; i++)
        cuts[(uint8_t)json[i]] = true;
    cuts[0x20] = true;
    for (uint32_t i = 0; i < s->a->n_ranges; i++) {
        uint32_t c = s->a->ranges[i].first;
        uint32_t n_left = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
        uint32_t lead = c < 0x80 ? c : (0xf80u >> n_left & 0xff) | c >> (6 * n_left);
        cuts[lead] = true;
        if (n_left > 0)
            cuts[lead + 1] = true;
        while (n_left-- > 0) {
            uint32_t byte = 0x80 | (c >> (6 * n_left) & 0x3f);
            cuts[byte] = true;
            if (n_left > 0)
                cuts[byte + 1] = true;
        }
    }
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t like = byte > 0 && !cuts[byte] ? byte - 1 : byte;
        if (byte < 0x80)
            s->symbol_of[byte] = alphabet_find(s->a->ranges, s->a->n_ranges, byte)->symbol;
        if (byte < 0x80 && !escapes) /* ASCII means what its symbol does */
            for (like = 0; s->symbol_of[like] != s->symbol_of[byte];)
                like++;
        if (like == byte)
            s->first_of[s->n_classes++] = (uint8_t)byte;
        s->class_of[byte] = like == byte ? (uint8_t)(s->n_classes - 1) : s->class_of[like];
    }
}

/* The one state to which all scalar values among low..high lead from q; UINT32_MAX if they differ.
 * There are some. */
static uint32_t common_target(const struct automaton *a, uint32_t q, uint32_t low, uint32_t high)
{
    uint32_t target = UINT32_MAX, from = 0, to = a->n_ranges;
    while (from < to) {
        uint32_t middle = (from + to) / 2;
        if (a->ranges[middle].last < low)
            from = middle + 1;
        else
            to = middle;
    }
    for (uint32_t i = from; i < a->n_ranges && a->ranges[i].first <= high; i++) {
        uint32_t here = a->next[(size_t)q * a->n_classes + a->ranges[i].symbol];
        if (target != UINT32_MAX && here != target)
            return UINT32_MAX;
        target = here;
    }
    return target;
}

/* UINT32_MAX: no memory. */
static uint32_t state_of(struct speller *s, enum place place, uint32_t x, uint32_t q, uint32_t low)
{
    bool is_new;
    uint32_t n = key_table_add(&s->places, (const uint32_t[4]){place, x, q, low}, 4, &is_new);
    return n == UINT32_MAX ? n : n + 1;
}

static uint32_t between(struct speller *s, uint32_t q)
{
    if (q != AUTOMATON_DEAD && s->between[q] == 0) {
        uint32_t state = state_of(s, PLACE_BETWEEN, 0, q, 0);
        if (state == UINT32_MAX)
            return state;
        s->between[q] = state;
    }
    return s->between[q]; /* of the dead state 0 */
}

/* The first code point whose spelling has n_left bytes behind the lead. */
static uint32_t shortest_form(uint32_t n_left)
{
    return n_left == 3 ? 0x10000 : n_left == 2 ? 0x800 : 0x80;
}

/* Where n_left continuation bytes are missing that give low and the following code points, from q.
 */
static uint32_t inside(struct speller *s, uint32_t n_left, uint32_t q, uint32_t low)
{
    uint32_t high = low + (1u << (6 * n_left)) - 1;
    bool is_overlong = low == 0 && n_left >= 2;
    if ((low >= 0xd800 && high <= 0xdfff) || low > CODE_POINT_MAX)
        return DFA_DEAD;
    uint32_t target = common_target(s->a, q, is_overlong ? shortest_form(n_left) : low, high);
    if (n_left == 0 || target == AUTOMATON_DEAD)
        return between(s, target);
    if (target == UINT32_MAX)
        return state_of(s, PLACE_INSIDE, n_left, q, low);
    bool has_surrogates = low < 0xd800 && high >= 0xd800 && low >= 0xd000;
    bool has_border = is_overlong || has_surrogates || high > CODE_POINT_MAX;
    return state_of(s, PLACE_SAME, n_left, target, has_border ? low : NO_BORDER);
}

/* From between code points by one byte. */
static uint32_t step_between(struct speller *s, uint32_t q, uint8_t byte)
{
    if (byte >= 0x80) {
        if (byte < 0xc2 || byte > 0xf4)
            return DFA_DEAD;
        uint32_t n_left = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
        return inside(s, n_left, q, (byte & (0x3fu >> n_left)) << (6 * n_left));
    }
    if (s->spelling == SPELLING_JSON && byte == '\\') {
        uint32_t target = common_target(s->a, q, 0, 0x1f);
        bool same = target != UINT32_MAX && automaton_step(s->a, q, '"') == target &&
                    automaton_step(s->a, q, '\\') == target;
        if (same && target == AUTOMATON_DEAD)
            return DFA_DEAD;
        return state_of(s, PLACE_ESCAPE, 0, same ? target : q, same);
    }
    if (s->spelling == SPELLING_JSON && (byte == '"' || byte < 0x20))
        return DFA_DEAD;
    return between(s, s->a->next[(size_t)q * s->a->n_classes + s->symbol_of[byte]]);
}

/* One continuation byte of a code point that is read from q, or, if `same`, leads to q anyhow. */
static uint32_t step_inside(struct speller *s, uint32_t n_left, uint32_t q, uint32_t low, bool same,
                            uint8_t byte)
{
    if ((byte & 0xc0) != 0x80)
        return DFA_DEAD;
    if (low == NO_BORDER)
        return n_left == 1 ? between(s, q) : state_of(s, PLACE_SAME, n_left - 1, q, NO_BORDER);
    uint32_t size = 1u << (6 * (n_left - 1)), start = low + (byte & 0x3fu) * size;
    if (low == 0 && n_left >= 2 && start < shortest_form(n_left))
        return DFA_DEAD;
    if (!same)
        return inside(s, n_left - 1, q, start);
    /* Blocks of 64 and more lie on one side of every border. */
    bool is_wrong = (start >= 0xd800 && start <= 0xdfff) || start > CODE_POINT_MAX;
    return is_wrong      ? DFA_DEAD
           : n_left == 1 ? between(s, q)
                         : state_of(s, PLACE_SAME, n_left - 1, q, NO_BORDER);
}

/* Characters that have a short escape, and the letters of these. */
static const char escaped[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";

/* A character that was escaped is complete. */
static uint32_t unescaped(struct speller *s, uint32_t q, bool same, uint32_t c)
{
    return between(s, same ? q : automaton_step(s->a, q, c));
}

/* Behind \u: only 00xx of control characters without a short escape. */
static uint32_t step_u(struct speller *s, uint32_t n_zeros, uint32_t q, bool same, uint8_t byte)
{
    if (n_zeros < 2)
        return byte == '0' ? state_of(s, PLACE_U, n_zeros + 1, q, same) : DFA_DEAD;
    return byte == '0' || byte == '1' ? state_of(s, PLACE_U00, byte - '0', q, same) : DFA_DEAD;
}

static uint32_t step_u00(struct speller *s, uint32_t digit, uint32_t q, bool same, uint8_t byte)
{
    uint32_t low = byte >= '0' && byte <= '9'   ? byte - '0'
                   : byte >= 'a' && byte <= 'f' ? byte - 'a' + 10
                                                : 16;
    uint32_t c = digit * 16 + low;
    if (low == 16 || (c != 0 && strchr(escaped, (int)c)))
        return DFA_DEAD;
    return unescaped(s, q, same, c);
}

static uint32_t step(struct speller *s, const uint32_t key[4], uint8_t byte)
{
    const char *letter;
    switch ((enum place)key[0]) {
    case PLACE_BETWEEN:
        return step_between(s, key[2], byte);
    case PLACE_SAME:
        return step_inside(s, key[1], key[2], key[3], true, byte);
    case PLACE_INSIDE:
        return step_inside(s, key[1], key[2], key[3], false, byte);
    case PLACE_ESCAPE:
        if (byte == 'u')
            return state_of(s, PLACE_U, 0, key[2], key[3]);
        letter = byte != 0 ? strchr(letters, byte) : NULL;
        return letter ? unescaped(s, key[2], key[3], (uint8_t)escaped[letter - letters]) : DFA_DEAD;
    case PLACE_U:
        return step_u(s, key[1], key[2], key[3], byte);
    case PLACE_U00:
        return step_u00(s, key[1], key[2], key[3], byte);
    }
    return DFA_DEAD;
}

/* All states and their rows; state 0 is dead. */
static serverd_status explore(struct speller *s, struct raw_automaton *raw, serverd_error *err)
{
    uint32_t k = s->n_classes;
    size_t cap = 64;
    uint32_t *rows = arena_array(s->scratch, cap * k, sizeof *rows);
    s->between = arena_array(s->scratch, s->a->n_states, sizeof *s->between);
    if (!rows || !s->between || !key_table_init(&s->places, s->scratch) ||
        between(s, s->a->start) == UINT32_MAX)
        return grammar_budget_memory(err);
    for (uint32_t i = 0; i < s->places.n_keys; i++) {
        serverd_status status = grammar_budget_spend(s->budget, k, err);
        if (!status)
            status = grammar_budget_table(s->budget, s->places.n_keys + 1, k, err);
        if (status)
            return status;
        if (i + 2u > cap) {
            rows = arena_grow(s->scratch, rows, cap * k * sizeof *rows, 2 * cap * k * sizeof *rows);
            cap *= 2;
            if (!rows)
                return grammar_budget_memory(err);
        }
        uint32_t key[4];
        memcpy(key, s->places.words + s->places.offset[i], sizeof key);
        for (uint32_t c = 0; c < k; c++) {
            uint32_t to = step(s, key, s->first_of[c]);
            if (to == UINT32_MAX)
                return grammar_budget_memory(err);
            rows[(i + 1) * (size_t)k + c] = to;
        }
    }
    uint32_t n_states = s->places.n_keys + 1;
    uint8_t *labels = arena_alloc(s->scratch, n_states);
    if (!labels)
        return grammar_budget_memory(err);
    /* Without states inside of code points it is the same automaton, which is minimal. */
    bool is_same = true;
    for (uint32_t i = 1; i < n_states; i++) {
        const uint32_t *key = s->places.words + s->places.offset[i - 1];
        is_same = is_same && key[0] == PLACE_BETWEEN;
        if (key[0] == PLACE_BETWEEN)
            labels[i] = (uint8_t)((s->is_counted ? DFA_BOUNDARY : 0) |
                                  (s->a->accepts[key[2]] ? DFA_ACCEPTS : 0));
    }
    *raw = (struct raw_automaton){.n_states = n_states,
                                  .n_classes = k,
                                  .start = automaton_is_empty(s->a) ? 0 : 1,
                                  .next = rows,
                                  .labels = labels,
                                  .is_minimal = is_same};
    return SERVERD_OK;
}

/* Code points that are still to come: of states between code points known, of those inside by
 * what they lead to. At most 6 bytes lie between. */
static void measure(const struct dfa *dfa, uint32_t *least, uint32_t *most)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t s = 1; s < dfa->n_states; s++) {
            for (uint32_t byte = 0; byte < 256 && !(dfa->flags[s] & DFA_BOUNDARY); byte++) {
                uint32_t to = dfa_next(dfa, s, (uint8_t)byte);
                uint32_t weight = (dfa->flags[to] & DFA_BOUNDARY) != 0;
                if (to == DFA_DEAD || least[to] == UINT32_MAX)
                    continue;
                uint32_t high = most[to] == UINT32_MAX ? UINT32_MAX : most[to] + weight;
                changed |= least[to] + weight < least[s] || high > most[s];
                if (least[to] + weight < least[s])
                    least[s] = least[to] + weight;
                if (high > most[s])
                    most[s] = high;
            }
        }
    }
}

/* A state inside a code point may lead to shorter and to longer futures, and to none between. */
static bool has_gaps(const struct dfa *dfa)
{
    for (uint32_t s = 1; s < dfa->n_states; s++) {
        uint32_t covered = dfa->least[s];
        if (dfa->flags[s] & DFA_BOUNDARY)
            continue; /* string_set.c has looked */
        for (bool grew = true; grew && covered < dfa->most[s];) {
            grew = false;
            for (uint32_t byte = 0; byte < 256; byte++) {
                uint32_t to = dfa_next(dfa, s, (uint8_t)byte);
                uint32_t weight = (dfa->flags[to] & DFA_BOUNDARY) != 0;
                if (to == DFA_DEAD || dfa->least[to] + weight > covered + 1)
                    continue;
                uint32_t high = dfa->most[to] == UINT32_MAX ? UINT32_MAX : dfa->most[to] + weight;
                grew |= high > covered;
                covered = high > covered ? high : covered;
            }
        }
        if (covered < dfa->most[s])
            return true;
    }
    return false;
}

/* The minimal automaton as a struct dfa in `keep`. */
static serverd_status finish(struct speller *s, const struct raw_automaton *raw,
                             const struct string_set *set, struct arena *keep, struct dfa **out,
                             serverd_error *err)
{
    uint32_t *state, *class, n, k;
    serverd_status status = minimise(s->budget, s->scratch, raw, &state, &n, err);
    if (!status)
        status = merge_classes(s->budget, s->scratch, raw, state, &class, &k, err);
    if (status)
        return status;
    struct dfa *dfa = arena_alloc(keep, sizeof *dfa);
    uint8_t *flags = arena_alloc(keep, n);
    uint16_t *next16 = n <= UINT16_MAX ? arena_array(keep, (size_t)n * k, sizeof *next16) : NULL;
    uint32_t *next32 = n > UINT16_MAX ? arena_array(keep, (size_t)n * k, sizeof *next32) : NULL;
    uint32_t *least = s->is_counted ? arena_array(keep, n, sizeof *least) : NULL;
    uint32_t *most = s->is_counted ? arena_array(keep, n, sizeof *most) : NULL;
    if (!dfa || !flags || (!next16 && !next32) || (s->is_counted && (!least || !most)))
        return grammar_budget_memory(err);
    *dfa = (struct dfa){.n_states = n,
                        .start = state[raw->start],
                        .n_classes = k,
                        .min = set->min,
                        .max = set->max,
                        .next16 = next16,
                        .next32 = next32,
                        .flags = flags,
                        .least = least,
                        .most = most};
    for (uint32_t byte = 0; byte < 256; byte++)
        dfa->class_of[byte] = (uint8_t) class[s->class_of[byte]];
    for (uint32_t i = 0; s->is_counted && i < n; i++)
        least[i] = UINT32_MAX;
    for (uint32_t i = 1; i < raw->n_states; i++) {
        if (state[i] == DFA_DEAD)
            continue;
        const uint32_t *row = raw->next + (size_t)i * raw->n_classes;
        const uint32_t *key = s->places.words + s->places.offset[i - 1];
        flags[state[i]] = raw->labels[i];
        if (s->is_counted && key[0] == PLACE_BETWEEN) {
            least[state[i]] = s->a->shortest[key[2]];
            most[state[i]] = s->a->longest[key[2]];
        }
        for (uint32_t c = 0; c < raw->n_classes; c++) {
            size_t cell = (size_t)state[i] * k + class[c];
            if (next16)
                next16[cell] = (uint16_t)state[row[c]];
            else
                next32[cell] = state[row[c]];
        }
    }
    if (s->is_counted)
        measure(dfa, least, most);
    *out = dfa;
    return SERVERD_OK;
}

static serverd_status spell_once(struct grammar_budget *budget, const struct string_set *set,
                                 enum spelling spelling, struct arena *keep, struct dfa **out,
                                 serverd_error *err)
{
    struct speller s = {.budget = budget,
                        .scratch = arena_create(LIMIT_GRAMMAR_SCRATCH),
                        .a = set->automaton,
                        .spelling = spelling,
                        .is_counted = set->min > 0 || set->max != UINT32_MAX};
    struct raw_automaton raw;
    if (!s.scratch)
        return grammar_budget_memory(err);
    cut_bytes(&s, spelling == SPELLING_JSON && has_escapes(s.a));
    serverd_status status = explore(&s, &raw, err);
    if (!status)
        status = finish(&s, &raw, set, keep, out, err);
    arena_destroy(s.scratch);
    return status;
}

serverd_status spell(struct grammar_budget *budget, const struct string_set *set,
                     enum spelling spelling, struct arena *keep, const struct dfa **out,
                     serverd_error *err)
{
    struct dfa *dfa;
    struct string_set folded = {.min = 0, .max = UINT32_MAX};
    serverd_status status = spell_once(budget, set, spelling, keep, &dfa, err);
    if (!status && set->min > 0 && set->max != UINT32_MAX && has_gaps(dfa)) {
        status = string_set_fold(budget, set, &folded.automaton, err);
        if (!status)
            status = spell_once(budget, &folded, spelling, keep, &dfa, err);
    }
    if (!status)
        *out = dfa;
    return status;
}

serverd_status spell_automaton(struct grammar_budget *budget, const struct automaton *automaton,
                               enum spelling spelling, struct arena *keep, const struct dfa **out,
                               serverd_error *err)
{
    struct string_set set = {.automaton = automaton, .min = 0, .max = UINT32_MAX};
    return spell(budget, &set, spelling, keep, out, err);
}
