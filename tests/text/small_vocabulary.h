/* Vocabularies of a few hundred tokens of each kind, and a walk over everything that a tokenizer
 * can be asked. */
#ifndef TESTS_TEXT_SMALL_VOCABULARY_H
#define TESTS_TEXT_SMALL_VOCABULARY_H

#include "text/tokenizer.h"

enum {
    SMALL_BPE_GPT2,
    SMALL_BPE_LLAMA,
    SMALL_BPE_TEKKEN,
    SMALL_BPE_DEEPSEEK,
    SMALL_SPM,
    SMALL_WORDPIECE,
    SMALL_BPE_UTF8,
    SMALL_N_KINDS
};

enum { SMALL_MAX_TOKENS = 320, SMALL_MAX_MERGES = 24 };

struct small_vocabulary {
    struct vocabulary vocabulary; /* whose pointers go into this struct: it stays where it is */
    struct token_text tokens[SMALL_MAX_TOKENS];
    struct merge_text merges[SMALL_MAX_MERGES];
    char texts[SMALL_MAX_TOKENS][24];
};

void small_vocabulary_init(struct small_vocabulary *v, int kind);

/* Encodes, guards, decodes and looks up; aborts where an answer is out of range. Returns a number
 * that stands for all answers. */
uint64_t exercise_tokenizer(const struct tokenizer *tokenizer);

#endif
