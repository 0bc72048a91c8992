/* A look at JSON text before a parser sees it, without memory: what a parser would need memory or
 * stack for is bounded. It is no check of the syntax. */
#ifndef BASE_JSON_SCAN_H
#define BASE_JSON_SCAN_H

#include <stddef.h>

/* NULL if the text is within LIMIT_JSON_DEPTH, LIMIT_JSON_NUMBER_BYTES and `max_values` (objects,
 * arrays, members and items); else what is wrong with it, as the end of a sentence: "is nested too
 * deeply". */
const char *json_scan(const char *text, size_t n, size_t max_values);

#endif
