#include "base/hint.h"

#include "base/numeric.h"

#include <string.h>

/* "-" and "_" are the same in names. */
static bool same_char(char a, char b)
{
    return a == b || (a == '-' && b == '_') || (a == '_' && b == '-');
}

bool same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++)
        if (!same_char(*a, *b))
            return false;
    return *a == *b;
}

#define MAX_HINT_BYTES 40u

/* The number of insertions, deletions, replacements and swaps of neighbours that make b of a
 * (optimal string alignment). Both at most MAX_HINT_BYTES long. */
static unsigned edit_distance(const char *a, size_t n_a, const char *b, size_t n_b)
{
    unsigned rows[3][MAX_HINT_BYTES + 1]; /* of the table, by i % 3 */
    for (size_t i = 0; i <= n_a; i++) {
        unsigned *row = rows[i % 3];
        const unsigned *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= n_b; j++) {
            if (i == 0) {
                row[j] = (unsigned)j;
                continue;
            }
            unsigned best = above[j - 1] + !same_char(a[i - 1], b[j - 1]);
            if (above[j] + 1 < best)
                best = above[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            if (i > 1 && j > 1 && same_char(a[i - 1], b[j - 2]) && same_char(a[i - 2], b[j - 1]) &&
                above2[j - 2] + 1 < best)
                best = above2[j - 2] + 1;
            row[j] = best;
        }
    }
    return rows[n_a % 3][n_b];
}

struct hint hint_for(const char *typed)
{
    size_t n = strlen(typed);
    return (struct hint){
        .typed = typed, .n_typed = n, .distance = 2 + (unsigned)min_size(n, 12) / 4};
}

void hint_consider(struct hint *hint, const char *word, size_t n)
{
    if (hint->n_typed > MAX_HINT_BYTES || n > MAX_HINT_BYTES)
        return;
    unsigned distance = edit_distance(hint->typed, hint->n_typed, word, n);
    if (hint->n_typed >= 3 && n > hint->n_typed && strncmp(hint->typed, word, hint->n_typed) == 0)
        distance = 1; /* a beginning is nearer than most typing errors */
    if (distance < hint->distance && distance < n) {
        hint->distance = distance;
        hint->best = word;
        hint->n_best = n;
    }
}
