/* JSON as values for a chat template. */
#ifndef TEXT_TEMPLATE_JSON_H
#define TEXT_TEMPLATE_JSON_H

#include "base/arena.h"

#include <jansson.h>

struct template_value;
struct tokenizer;

/* A copy in the arena; texts and keys of it cannot become the tokenizer's control tokens. NULL: the
 * arena is full. Recursive: whoever parsed the JSON has bounded its depth. */
struct template_value *template_from_json(struct arena *arena, const struct tokenizer *tokenizer,
                                          const json_t *value);

#endif
