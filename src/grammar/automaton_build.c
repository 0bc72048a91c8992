/* The canonical form of automata: what makes equality a comparison of tables. */
#include "grammar/automaton_internal.h"

#include <string.h>

/* Joins ranges whose classes became one and numbers classes by first appearance. */
static void join_ranges(struct class_range *ranges, uint32_t *n_ranges, const uint32_t *merged,
                        uint32_t *order, uint32_t n_classes)
{
    uint32_t n = 0, n_seen = 0;
    for (uint32_t c = 0; c < n_classes; c++)
        order[c] = UINT32_MAX;
    for (uint32_t i = 0; i < *n_ranges; i++) {
        struct class_range r = ranges[i];
        uint32_t class = merged[r.symbol];
        if (order[class] == UINT32_MAX)
            order[class] = n_seen++;
        r.symbol = order[class];
        if (n > 0 && ranges[n - 1].symbol == r.symbol && ranges[n - 1].last + 1 == r.first)
            ranges[n - 1].last = r.last;
        else
            ranges[n++] = r;
    }
    *n_ranges = n;
}

/* State numbers breadth-first, the symbols in their new order. */
static void number_states(const uint32_t *table, uint32_t k, uint32_t start, uint32_t *number,
                          uint32_t *queue)
{
    uint32_t n = 0;
    if (start != 0) {
        queue[n++] = start;
        number[start] = n;
    }
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t *row = table + (size_t)queue[i] * k;
        for (uint32_t c = 0; c < k; c++) {
            if (row[c] != 0 && number[row[c]] == 0) {
                queue[n++] = row[c];
                number[row[c]] = n;
            }
        }
    }
}

/* Fills shortest and longest; both by passes over the reversed edges. */
static serverd_status measure(struct grammar_budget *budget, struct arena *scratch,
                              struct automaton *a, uint32_t *shortest, uint32_t *longest,
                              serverd_error *err)
{
    uint32_t n = a->n_states, k = a->n_classes, n_queue = 0;
    uint32_t *offset = arena_array(scratch, (size_t)n + 2, sizeof *offset);
    uint32_t *queue = arena_array(scratch, n, sizeof *queue);
    uint32_t *n_open = arena_array(scratch, n, sizeof *n_open); /* edges to unfinished states */
    if (!offset || !queue || !n_open)
        return grammar_budget_memory(err);
    for (uint32_t s = 1; s < n; s++) {
        for (uint32_t c = 0; c < k; c++) {
            uint32_t to = a->next[(size_t)s * k + c];
            if (to != 0) {
                offset[to + 2]++;
                n_open[s]++;
            }
        }
    }
    for (uint32_t s = 0; s + 2 <= n + 1; s++)
        offset[s + 2] += offset[s + 1];
    uint32_t *tail = arena_array(scratch, offset[n + 1] > 0 ? offset[n + 1] : 1, sizeof *tail);
    if (!tail)
        return grammar_budget_memory(err);
    for (uint32_t s = 1; s < n; s++) {
        for (uint32_t c = 0; c < k; c++) {
            uint32_t to = a->next[(size_t)s * k + c];
            if (to != 0)
                tail[offset[to + 1]++] = s;
        }
    }
    for (uint32_t s = 0; s < n; s++) {
        shortest[s] = UINT32_MAX;
        longest[s] = s == 0 ? 0 : UINT32_MAX;
        if (a->accepts[s]) {
            shortest[s] = 0;
            queue[n_queue++] = s;
        }
    }
    for (uint32_t i = 0; i < n_queue; i++) {
        for (uint32_t e = offset[queue[i]]; e < offset[queue[i] + 1]; e++) {
            if (shortest[tail[e]] == UINT32_MAX) {
                shortest[tail[e]] = shortest[queue[i]] + 1;
                queue[n_queue++] = tail[e];
            }
        }
    }
    /* States leave when all their successors have: what stays can reach a cycle. */
    n_queue = 0;
    for (uint32_t s = 1; s < n; s++)
        if (n_open[s] == 0)
            queue[n_queue++] = s;
    for (uint32_t i = 0; i < n_queue; i++) {
        uint32_t s = queue[i], most = 0;
        for (uint32_t c = 0; c < k; c++) {
            uint32_t to = a->next[(size_t)s * k + c];
            if (to != 0 && longest[to] + 1 > most)
                most = longest[to] + 1;
        }
        longest[s] = most;
        for (uint32_t e = offset[s]; e < offset[s + 1]; e++)
            if (--n_open[tail[e]] == 0)
                queue[n_queue++] = tail[e];
    }
    return grammar_budget_spend(budget, (uint64_t)n * k, err);
}

serverd_status automaton_build(struct grammar_budget *budget, struct arena *scratch,
                               const struct raw_automaton *raw, const struct alphabet *alphabet,
                               const struct automaton **out, serverd_error *err)
{
    uint32_t *state_of, *class_of, n_states, n_classes;
    serverd_status status = minimise(budget, scratch, raw, &state_of, &n_states, err);
    if (!status)
        status = merge_classes(budget, scratch, raw, state_of, &class_of, &n_classes, err);
    if (status)
        return status;
    struct class_range *ranges = arena_array(scratch, alphabet->n_ranges, sizeof *ranges);
    uint32_t *order = arena_array(scratch, n_classes, sizeof *order);
    uint32_t *table = arena_array(scratch, (size_t)n_states * n_classes, sizeof *table);
    uint32_t *number = arena_array(scratch, n_states, sizeof *number);
    uint32_t *queue = arena_array(scratch, n_states, sizeof *queue);
    if (!ranges || !order || !table || !number || !queue)
        return grammar_budget_memory(err);
    uint32_t n_ranges = alphabet->n_ranges;
    memcpy(ranges, alphabet->ranges, n_ranges * sizeof *ranges);
    join_ranges(ranges, &n_ranges, class_of, order, n_classes);
    for (uint32_t s = 0; s < raw->n_states; s++) {
        const uint32_t *row = raw->next + (size_t)s * raw->n_classes;
        for (uint32_t c = 0; state_of[s] != 0 && c < raw->n_classes; c++)
            table[(size_t)state_of[s] * n_classes + order[class_of[c]]] = state_of[row[c]];
    }
    number_states(table, n_classes, state_of[raw->start], number, queue);

    struct automaton *a = arena_alloc(budget->arena, sizeof *a);
    struct class_range *own_ranges = arena_array(budget->arena, n_ranges, sizeof *own_ranges);
    uint32_t *next = arena_array(budget->arena, (size_t)n_states * n_classes, sizeof *next);
    uint8_t *accepts = arena_alloc(budget->arena, n_states);
    uint32_t *shortest = arena_array(budget->arena, n_states, sizeof *shortest);
    uint32_t *longest = arena_array(budget->arena, n_states, sizeof *longest);
    if (!a || !own_ranges || !next || !accepts || !shortest || !longest)
        return grammar_budget_memory(err);
    memcpy(own_ranges, ranges, n_ranges * sizeof *ranges);
    for (uint32_t s = 1; s < n_states; s++)
        for (uint32_t c = 0; c < n_classes; c++)
            next[(size_t)number[s] * n_classes + c] = number[table[(size_t)s * n_classes + c]];
    for (uint32_t s = 0; s < raw->n_states; s++)
        if (state_of[s] != 0)
            accepts[number[state_of[s]]] = raw->labels[s] & 1;
    *a = (struct automaton){.n_states = n_states,
                            .n_classes = n_classes,
                            .start = state_of[raw->start] != 0,
                            .n_ranges = n_ranges,
                            .ranges = own_ranges,
                            .next = next,
                            .accepts = accepts,
                            .shortest = shortest,
                            .longest = longest};
    status = measure(budget, scratch, a, shortest, longest, err);
    if (!status)
        *out = a;
    return status;
}

uint32_t automaton_universal(const struct automaton *a)
{
    for (uint32_t s = 1; s < a->n_states; s++) {
        bool stays = a->accepts[s];
        for (uint32_t c = 0; stays && c < a->n_classes; c++)
            stays = a->next[(size_t)s * a->n_classes + c] == s;
        if (stays)
            return s;
    }
    return UINT32_MAX;
}

/* [low, high] of a state must be the union of [0, 0], if it accepts, and of its successors'
 * intervals plus one; then each length in it is accepted, by induction over the length. */
bool automaton_has_no_gaps(const struct automaton *a)
{
    for (uint32_t s = 1; s < a->n_states; s++) {
        uint32_t covered = a->accepts[s] ? 0 : a->shortest[s]; /* all lengths up to here */
        const uint32_t *row = a->next + (size_t)s * a->n_classes;
        bool grew = true;
        while (covered < a->longest[s] && grew) {
            grew = false;
            for (uint32_t c = 0; c < a->n_classes; c++) {
                if (row[c] == 0 || a->shortest[row[c]] > covered)
                    continue; /* begins behind covered + 1 */
                uint32_t high = a->longest[row[c]];
                high = high == UINT32_MAX ? UINT32_MAX : high + 1;
                if (high > covered) {
                    covered = high;
                    grew = true;
                }
            }
        }
        if (covered < a->longest[s])
            return false;
    }
    return true;
}
