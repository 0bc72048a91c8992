/* How well texts go with other texts: what /v1/rerank and /v1/score have in common. A model that
 * judges pairs reads both texts of a pair at once; of one that makes embeddings each text is read
 * alone, and the score is the cosine. On an HTTP thread. */
#ifndef SERVER_DIALECTS_PAIR_SCORES_H
#define SERVER_DIALECTS_PAIR_SCORES_H

#include "server/request/api_request.h"

/* Texts of one field of the request. */
struct text_list {
    const char *param;
    struct api_text *text; /* [n], heap */
    uint32_t n;
    bool is_list; /* else the field is one text */
};

/* A string, or a list of them, at most LIMIT_PROMPTS; where `takes_objects`, {"text": ...} is a
 * string, too. False: *e; nothing to release. */
bool text_list_read(const json_t *value, const char *param, bool takes_objects,
                    struct text_list *out, struct api_error *e);
void text_list_deinit(struct text_list *list);

struct pair_scores {
    const struct served_model *model;
    uint32_t n_pairs, n_inputs, n_first; /* inputs: one per pair, or the first texts and others */
    float **output;                      /* [n_inputs] the model's; NULL: not yet there */
    uint64_t n_tokens;
};

/* Requests for the pairs of first[i] and second[i]; one first text goes with all second ones. The
 * array is heap, *n_requests long; NULL: *e, and nothing to release. `out` is zeroed before. */
struct request **pair_scores_begin(struct exchange *x, const struct api_fields *f,
                                   const struct text_list *first, const struct text_list *second,
                                   struct pair_scores *out, uint32_t *n_requests,
                                   struct api_error *e);
void pair_scores_deinit(struct pair_scores *scores);

/* Takes what an event of a request brings. */
void pair_scores_event(struct pair_scores *scores, struct event *event);

/* When all requests have ended well: the sigmoid of what the model says, that itself if `is_raw`,
 * or the cosine of two embeddings. */
float pair_scores_of(const struct pair_scores *scores, uint32_t pair, bool is_raw);

#endif
