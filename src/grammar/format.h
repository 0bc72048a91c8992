/* The string formats of JSON Schema as sets of strings, by their RFCs. */
#ifndef GRAMMAR_FORMAT_H
#define GRAMMAR_FORMAT_H

#include "grammar/string_set.h"

enum format_use {
    FORMAT_CHECK,   /* all that the RFC allows, leap seconds at 23:59:60 UTC in any zone too */
    FORMAT_PRODUCE, /* no leap seconds, capital T and Z, no obsolete forms: a subset */
};

/* date-time date time duration email hostname ipv4 ipv6 uri uri-reference uri-template uuid byte:
 * enforced. Any other name is an annotation. */
bool format_is_known(const char *name, size_t n);

/* `name` must be known. */
serverd_status format_set(struct grammar_budget *budget, const char *name, size_t n,
                          enum format_use use, struct string_set *out, serverd_error *err);

#endif
