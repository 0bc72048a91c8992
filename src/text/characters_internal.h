/* What tokenizers ask of a character beside its category. */
#ifndef TEXT_CHARACTERS_INTERNAL_H
#define TEXT_CHARACTERS_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

/* Of the CJK blocks that BERT's tokenizer sets apart: a word of its own each. */
bool char_is_ideograph(uint32_t c);

#endif
