/* The patterns of a tool family (tool_family.h) cut into literals and slots, with what the
 * vocabulary says of the literals: where it has control tokens, only those tokens count, not text
 * that looks like them. */
#ifndef TEXT_CALL_PATTERN_H
#define TEXT_CALL_PATTERN_H

#include "serverd/status.h"

#include <stdbool.h>
#include <stdint.h>

struct tokenizer;

enum { MARK_BYTES = 64, PATTERN_ELEMENTS = 16 };

/* Text that means something. Byte i has to come from a control token if bit i of `control` is set.
 */
struct mark {
    const char *text;
    uint32_t n;
    uint64_t control;
};

enum call_slot {
    SLOT_LITERAL,
    SLOT_NAME,
    SLOT_INDEX_NAME,
    SLOT_ID,
    SLOT_SKIP,
    SLOT_RECIPIENT,
    SLOT_ARGUMENTS,
    SLOT_CALL,
    SLOT_CALLS,
    SLOT_NAMED_CALLS,
    SLOT_PYTHON,
    SLOT_OBJECT,
    SLOT_PARAMETERS,
    SLOT_KEY,
    SLOT_VALUE,
    SLOT_TYPE
};

struct call_element {
    enum call_slot slot;
    struct mark literal; /* of SLOT_LITERAL */
};

struct call_pattern {
    struct call_element elements[PATTERN_ELEMENTS];
    uint32_t n_elements;
};

/* text[0..n-1] outlives the mark. tokenizer NULL: nothing is a control token. */
struct mark mark_make(const struct tokenizer *tokenizer, const char *text, size_t n);

/* SERVERD_INTERNAL: the text is no pattern, which is a mistake in the table. */
serverd_status call_pattern_compile(const struct tokenizer *tokenizer, const char *text,
                                    struct call_pattern *out, serverd_error *err);

#endif
