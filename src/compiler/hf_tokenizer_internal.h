/* Shared by the hf_tokenizer*.c files: a vocabulary under construction. */
#ifndef COMPILER_HF_TOKENIZER_INTERNAL_H
#define COMPILER_HF_TOKENIZER_INTERNAL_H

#include "compiler/hf_tokenizer.h"

struct hf_tokenizer {
    struct json_place root;          /* tokenizer.json */
    struct json_place settings;      /* tokenizer_config.json; object NULL: there is none */
    const struct json_place *config; /* config.json */
    struct arena *arena;             /* of the program */
    struct vocabulary *vocabulary;
    struct token_text *token; /* [n_tokens]; type 0: the id has no token yet */
    bool *is_apart;           /* [n_tokens] added to what the model knows */
    uint32_t n_tokens;
    struct vocabulary_step *step; /* [VOCABULARY_MAX_STEPS]; how many, the vocabulary says */
};

/* Copies the text; the id has room. */
serverd_status hf_tokenizer_put(struct hf_tokenizer *t, uint32_t id, const char *text, size_t len,
                                uint8_t type, float score, serverd_error *err);
/* -1: there is no token of that text. Slow: for a few. */
int32_t hf_tokenizer_find(const struct hf_tokenizer *t, const char *text);
serverd_status hf_tokenizer_no_memory(const struct hf_tokenizer *t, serverd_error *err);

/* hf_tokenizer_models.c: `model`, with its tokens and merges. */
serverd_status hf_tokenizer_count(struct hf_tokenizer *t, const struct json_place *model,
                                  uint32_t *n_tokens, serverd_error *err);
serverd_status hf_tokenizer_model(struct hf_tokenizer *t, const struct json_place *model,
                                  serverd_error *err);

/* hf_tokenizer_steps.c: normaliser, pre-tokeniser. The model's kind is known. */
serverd_status hf_tokenizer_steps(struct hf_tokenizer *t, serverd_error *err);

/* hf_tokenizer_frame.c: post-processor. */
serverd_status hf_tokenizer_frame(struct hf_tokenizer *t, serverd_error *err);

/* hf_tokenizer_decoder.c: decoder, as the pieces that tokens stand for. Behind the steps. */
serverd_status hf_tokenizer_decoder(struct hf_tokenizer *t, serverd_error *err);

/* The member `type` of a part. */
serverd_status hf_tokenizer_type(const struct json_place *place, const char **type,
                                 serverd_error *err);

#endif
