/* Shared by filters.c and filters_list.c. */
#ifndef TEXT_JINJA_FILTERS_H
#define TEXT_JINJA_FILTERS_H

#include "text/jinja/eval.h"

/* Filters of sequences. */
extern const struct jinja_entry list_filters[];
extern const size_t n_list_filters;

/* Argument i or the keyword. */
int64_t filter_integer(const struct arguments *a, size_t i, const char *name, int64_t fallback);
bool filter_bool(const struct arguments *a, size_t i, const char *name, bool fallback);

#endif
