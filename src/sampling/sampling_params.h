/* Parameters of one choice's sampling, as the API defines them. */
#ifndef SAMPLING_SAMPLING_PARAMS_H
#define SAMPLING_SAMPLING_PARAMS_H

#include "serverd/status.h"

#include <stdbool.h>
#include <stdint.h>

struct logit_bias {
    int32_t token;
    float bias;     /* added to the logit */
    bool is_banned; /* never drawn */
};

struct sampling_params {
    float temperature;                         /* 0..100; below 1e-5: greedy */
    int32_t top_k;                             /* 0: off */
    float top_p;                               /* (0, 1] */
    float min_p;                               /* [0, 1] */
    float repetition_penalty;                  /* (0, 10], distinct tokens of prompt + output */
    float frequency_penalty, presence_penalty; /* -2..2, output only */
    uint64_t seed;
    uint32_t min_tokens;           /* end and stop tokens are masked until then */
    bool ignore_eos;               /* end tokens are masked always */
    const struct logit_bias *bias; /* owned by the request; distinct tokens */
    uint32_t n_bias;
    const int32_t *allowed; /* NULL: all; ascending */
    uint32_t n_allowed;
};

/* The API's defaults: temperature 1, everything else off. */
struct sampling_params sampling_params_default(void);

/* Ranges of all fields; the error names the field. n_vocab bounds the token ids. */
serverd_status sampling_params_check(const struct sampling_params *params, uint32_t n_vocab,
                                     serverd_error *err);

#endif
