/* The values that a chat template computes with: what JSON has, plus what Jinja adds inside.
 * Values are immutable from outside once built and live in an arena; strings are UTF-8 bytes
 * that may hold TOKENIZER_GUARD bytes. */
#ifndef TEXT_TEMPLATE_VALUE_H
#define TEXT_TEMPLATE_VALUE_H

#include "base/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct template_value;

/* All return NULL if the arena is full; the adders then do nothing and return false. */
struct template_value *template_none(struct arena *arena);
struct template_value *template_bool(struct arena *arena, bool value);
struct template_value *template_int(struct arena *arena, int64_t value);
struct template_value *template_float(struct arena *arena, double value);
struct template_value *template_string(struct arena *arena, const char *bytes,
                                       size_t n); /* copied */
struct template_value *template_list(struct arena *arena);
struct template_value *template_map(struct arena *arena); /* keeps insertion order */

bool template_list_add(struct arena *arena, struct template_value *list,
                       struct template_value *item);
/* An equal key is replaced. */
bool template_map_set(struct arena *arena, struct template_value *map, const char *key,
                      size_t key_len, struct template_value *value);

#endif
