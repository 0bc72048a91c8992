#include "grammar/charset.h"

#include "base/error.h"

#include <stdlib.h>
#include <utf8proc.h>

#define SURROGATE_FIRST 0xd800u
#define SURROGATE_LAST  0xdfffu
#define CASED_LAST      0x1ffffu /* no code point beyond has a simple case mapping */

static int compare_first(const void *a, const void *b)
{
    const struct char_range *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

/* Sorted, merged and cut in place; returns how many are left. ranges has room for one more. */
static size_t normalise(struct char_range *ranges, size_t n)
{
    size_t n_out = 0;
    qsort(ranges, n, sizeof *ranges, compare_first);
    for (size_t i = 0; i < n; i++) {
        struct char_range r = ranges[i];
        if (n_out > 0 && r.first <= ranges[n_out - 1].last + 1) {
            if (r.last > ranges[n_out - 1].last)
                ranges[n_out - 1].last = r.last;
        } else {
            ranges[n_out++] = r;
        }
    }
    return n_out;
}

serverd_status charset_make(struct grammar_budget *budget, const struct char_range *ranges,
                            size_t n_ranges, struct charset *out, serverd_error *err)
{
    if (n_ranges > CODE_POINT_MAX)
        return grammar_budget_memory(err);
    struct char_range *own = arena_array(budget->arena, 2 * n_ranges + 1, sizeof *own);
    if (!own)
        return grammar_budget_memory(err);
    size_t n = 0;
    for (size_t i = 0; i < n_ranges; i++) {
        struct char_range r = ranges[i];
        if (r.last > CODE_POINT_MAX)
            r.last = CODE_POINT_MAX;
        if (r.first > r.last)
            continue;
        if (r.first < SURROGATE_FIRST)
            own[n++] = (struct char_range){r.first,
                                           r.last < SURROGATE_FIRST ? r.last : SURROGATE_FIRST - 1};
        if (r.last > SURROGATE_LAST)
            own[n++] = (struct char_range){r.first > SURROGATE_LAST ? r.first : SURROGATE_LAST + 1,
                                           r.last};
    }
    n = normalise(own, n);
    *out = (struct charset){.ranges = own, .n_ranges = (uint32_t)n};
    return grammar_budget_spend(budget, n_ranges + 1, err);
}

serverd_status charset_complement(struct grammar_budget *budget, struct charset set,
                                  struct charset *out, serverd_error *err)
{
    struct char_range *gaps = arena_array(budget->arena, (size_t)set.n_ranges + 1, sizeof *gaps);
    if (!gaps)
        return grammar_budget_memory(err);
    uint32_t next = 0, n = 0;
    for (uint32_t i = 0; i < set.n_ranges; i++) {
        if (set.ranges[i].first > next)
            gaps[n++] = (struct char_range){next, set.ranges[i].first - 1};
        next = set.ranges[i].last + 1;
    }
    if (next <= CODE_POINT_MAX)
        gaps[n++] = (struct char_range){next, CODE_POINT_MAX};
    return charset_make(budget, gaps, n, out, err);
}

bool charset_has(struct charset set, uint32_t code_point)
{
    uint32_t low = 0, high = set.n_ranges;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (set.ranges[middle].last < code_point)
            low = middle + 1;
        else
            high = middle;
    }
    return low < set.n_ranges && set.ranges[low].first <= code_point;
}

/* Simple case folding (Unicode's CaseFolding.txt, C and S): one code point for all that differ in
 * case only. The library has the full one; where that gives several code points, the simple one is
 * the small letter, but for the dotted capital I, which has none. */
static uint32_t fold(uint32_t code_point)
{
    utf8proc_int32_t full[4];
    int class = 0;
    if (code_point < 0x80)
        return code_point >= 'A' && code_point <= 'Z' ? code_point + 32 : code_point;
    if (code_point == 0x130)
        return code_point;
    utf8proc_ssize_t n =
        utf8proc_decompose_char((utf8proc_int32_t)code_point, full, 4, UTF8PROC_CASEFOLD, &class);
    return n == 1 ? (uint32_t)full[0] : (uint32_t)utf8proc_tolower((utf8proc_int32_t)code_point);
}

/* All code points that share their fold with another one, ordered by fold. */
struct cased {
    uint32_t fold, code_point;
};

struct case_table {
    struct cased *entries;
    size_t n;
};

static int compare_fold(const void *a, const void *b)
{
    const struct cased *x = a, *y = b;
    return (x->fold > y->fold) - (x->fold < y->fold);
}

static serverd_status make_cases(struct grammar_budget *budget, serverd_error *err)
{
    struct case_table *table = arena_alloc(budget->arena, sizeof *table);
    uint8_t *is_target = arena_alloc(budget->arena, CASED_LAST + 1);
    if (!table || !is_target)
        return grammar_budget_memory(err);
    for (uint32_t c = 0; c <= CASED_LAST; c++) {
        if (fold(c) != c) {
            table->n += is_target[fold(c)] ? 1 : 2;
            is_target[fold(c)] = 1;
        }
    }
    table->entries = arena_array(budget->arena, table->n, sizeof *table->entries);
    if (!table->entries)
        return grammar_budget_memory(err);
    size_t n = 0;
    for (uint32_t c = 0; c <= CASED_LAST; c++)
        if (is_target[fold(c)] && n < table->n)
            table->entries[n++] = (struct cased){fold(c), c};
    table->n = n;
    qsort(table->entries, n, sizeof *table->entries, compare_fold);
    budget->cases = table;
    return grammar_budget_spend(budget, CASED_LAST, err);
}

static size_t find_fold(const struct case_table *table, uint32_t folded)
{
    size_t low = 0, high = table->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (table->entries[middle].fold < folded)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

serverd_status charset_fold_case(struct grammar_budget *budget, struct charset set,
                                 struct charset *out, serverd_error *err)
{
    serverd_status status = budget->cases ? SERVERD_OK : make_cases(budget, err);
    if (status)
        return status;
    const struct case_table *table = budget->cases;
    struct char_range *more =
        arena_array(budget->arena, table->n + (size_t)set.n_ranges, sizeof *more);
    size_t n = 0;
    if (!more)
        return grammar_budget_memory(err);
    for (uint32_t i = 0; i < set.n_ranges; i++)
        more[n++] = set.ranges[i];
    for (size_t i = 0; i < table->n;) { /* one orbit after the other */
        uint32_t folded = table->entries[i].fold;
        bool is_in = false;
        size_t end = i;
        for (; end < table->n && table->entries[end].fold == folded; end++)
            is_in |= charset_has(set, table->entries[end].code_point);
        for (; i < end; i++)
            if (is_in)
                more[n++] =
                    (struct char_range){table->entries[i].code_point, table->entries[i].code_point};
    }
    status = grammar_budget_spend(budget, table->n, err);
    return status ? status : charset_make(budget, more, n, out, err);
}

serverd_status charset_fold_one(struct grammar_budget *budget, uint32_t code_point,
                                struct charset *out, serverd_error *err)
{
    struct char_range orbit[16] = {{code_point, code_point}};
    serverd_status status = budget->cases ? SERVERD_OK : make_cases(budget, err);
    if (status)
        return status;
    size_t n = 1;
    for (size_t i = find_fold(budget->cases, fold(code_point));
         i < budget->cases->n && budget->cases->entries[i].fold == fold(code_point) && n < 16; i++)
        orbit[n++] = (struct char_range){budget->cases->entries[i].code_point,
                                         budget->cases->entries[i].code_point};
    return charset_make(budget, orbit, n, out, err);
}
