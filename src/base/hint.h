/* The known word nearest to a mistyped one, for error messages. Pure functions, any thread. */
#ifndef BASE_HINT_H
#define BASE_HINT_H

#include <stdbool.h>
#include <stddef.h>

/* Initialise with hint_for, offer every known word, then read `best`. */
struct hint {
    const char *typed, *best; /* best: n_best bytes, NULL if none is near */
    size_t n_typed, n_best;
    unsigned distance;
};

struct hint hint_for(const char *typed);

/* word[0..n-1]; it must outlive the hint. */
void hint_consider(struct hint *hint, const char *word, size_t n);

/* Equal names, "-" and "_" being the same. */
bool same_name(const char *a, const char *b);

#endif
