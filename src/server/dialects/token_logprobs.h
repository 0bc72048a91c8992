/* Log probabilities as the OpenAI dialects show them: the completions' four arrays and the chat's
 * list of objects, as JSON that grows token by token. */
#ifndef SERVER_DIALECTS_TOKEN_LOGPROBS_H
#define SERVER_DIALECTS_TOKEN_LOGPROBS_H

#include "base/buffer.h"
#include "sampling/logprobs.h"
#include "text/stream_parser.h"
#include "text/tokenizer.h"

/* How tokens are named. */
struct token_style {
    const struct tokenizer *tokenizer;
    bool as_ids;        /* token_id:N */
    bool skips_special; /* control tokens have no text */
};

bool token_has_text(const struct token_style *style, int32_t token);
uint64_t token_code_points(const struct token_style *style, int32_t token); /* that it adds */
uint64_t count_code_points(const char *bytes, size_t n);

/* The insides of the arrays, comma separated. */
struct logprob_text {
    struct buffer content;                       /* chat */
    struct buffer tokens, values, tops, offsets; /* completions */
    struct buffer held, held_json; /* chat: entries of tokens that may turn out to be no content */
    struct buffer piece;           /* working memory */
    uint32_t n;                    /* entries of completions */
};

void logprob_text_init(struct logprob_text *text);
void logprob_text_deinit(struct logprob_text *text);
void logprob_text_reset(struct logprob_text *text); /* entries that are held stay */

/* One token of a completion; `l` NULL: nothing is known about the first. offset: code points of the
 * text in front of it. */
void logprob_text_add(struct logprob_text *text, const struct token_style *style, int32_t token,
                      const struct logprobs *l, uint64_t offset);

/* One token of a chat, whose text begins at byte first_byte of the choice's: held until it is known
 * what that byte is part of. */
void logprob_text_hold(struct logprob_text *text, const struct token_style *style,
                       const struct logprobs *l, uint64_t first_byte);

/* What bytes up to `end` are part of. */
void logprob_text_decide(struct logprob_text *text, enum stream_part part, uint64_t end);

/* One element of "prompt_logprobs", a comma before it: the token and the n_top best by id. */
void prompt_logprob_write(const struct token_style *style, const struct logprobs *l, uint32_t n_top,
                          struct buffer *out);

/* The value of "logprobs"; before: the prompt's part, or NULL. */
void logprob_text_write_completion(const struct logprob_text *text,
                                   const struct logprob_text *before, struct buffer *out);
void logprob_text_write_chat(const struct logprob_text *text, struct buffer *out);

#endif
