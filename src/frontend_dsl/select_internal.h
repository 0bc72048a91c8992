/* select and score: which of several texts the model finds likeliest to follow. */
#ifndef FRONTEND_DSL_SELECT_INTERNAL_H
#define FRONTEND_DSL_SELECT_INTERNAL_H

#include "frontend_dsl/gen_internal.h"

enum select_method { SELECT_TOKEN_LENGTH, SELECT_JOINT, SELECT_GREEDY, SELECT_UNCONDITIONAL };

/* A text behind the open literal: its tokens are those of the literal and it together (a boundary
 * between the two is healed), scored from where they differ from the literal's own. */
struct scored_text {
    const char *text; /* of the options */
    size_t n_bytes;
    int32_t *token; /* [n_token] all behind the state's tokens */
    uint32_t n_tokens, n_scored;
    float *logprob;                  /* [n_scored] */
    float *alone;                    /* [n_scored] behind the begin token alone; NULL: not wanted */
    bool is_alone_known;             /* from the memo */
    uint32_t request, alone_request; /* of the operation; UINT32_MAX: none */
};

struct select_plan {
    const char *name; /* NULL: none */
    enum select_method method;
    bool is_score;     /* s:score: one text, which is not appended */
    uint32_t n_shared; /* tokens behind the state's that all have */
    uint32_t n_base;   /* with the state's */
    uint32_t n;
    struct scored_text *text; /* [n] */
    double *score, *prob;     /* [n] */
    uint32_t best;
    int32_t begin; /* the begin token; -1: the model has none */
};

/* The choice of gen{choices = ..}; the state is at index 1. */
int select_as_gen(lua_State *L, const struct gen_options *options);
int state_select(lua_State *L);
int state_score(lua_State *L);

/* From the log probabilities: score, prob, best (select_score.c). */
void select_decide(struct select_plan *plan);

/* What tokens have behind the begin token alone. Any thread. */
bool score_memo_find(struct score_memo *memo, const int32_t *token, uint32_t n, float *out);
void score_memo_keep(struct score_memo *memo, const int32_t *token, uint32_t n, const float *alone);

#endif
