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

/* A run of tokens that may not be completed. */
struct bad_word {
    const int32_t *id;
    uint32_t n; /* >= 1 */
};

/* Text over which repetitions do not reach. */
struct dry_breaker {
    const char *bytes;
    uint32_t n; /* >= 1 */
};

/* The steps whose order a request may choose; what is named like a number is off at its default. */
enum sampling_step {
    STEP_TEMPERATURE,
    STEP_TOP_N_SIGMA,
    STEP_TOP_K,
    STEP_TYPICAL_P,
    STEP_TOP_P,
    STEP_MIN_P,
    STEP_XTC,
    N_SAMPLING_STEPS
};

struct sampling_params {
    float temperature;                    /* 0..100; below 1e-5: greedy */
    int32_t top_k;                        /* 0: off */
    float top_p;                          /* (0, 1] */
    float min_p;                          /* [0, 1] */
    float typical_p;                      /* (0, 1]; 1: off */
    float top_n_sigma;                    /* <= 0: off */
    float xtc_probability, xtc_threshold; /* [0, 1]; probability 0: off */
    uint8_t step[N_SAMPLING_STEPS];       /* enum sampling_step: those that run, in order */
    uint32_t n_steps;
    float repetition_penalty;                  /* (0, 10], distinct tokens of prompt + output */
    float frequency_penalty, presence_penalty; /* -2..2, output only */
    /* Instead, all three penalties look at the newest so many tokens of prompt + output; -1: all.
     */
    bool has_penalty_window;
    int32_t penalty_last;
    float dry_multiplier;     /* 0..100; 0: off */
    float dry_base;           /* 1..100 */
    uint32_t dry_allowed;     /* >= 1: a repetition of so many tokens costs the multiplier */
    int32_t dry_penalty_last; /* tokens of prompt + output that are looked at; -1: all */
    const struct dry_breaker *dry_breakers; /* owned by the request */
    uint32_t n_dry_breakers;
    uint64_t seed;
    uint32_t min_tokens;           /* end and stop tokens are masked until then */
    bool ignore_eos;               /* end tokens are masked always */
    const struct logit_bias *bias; /* owned by the request; distinct tokens */
    uint32_t n_bias;
    const int32_t *allowed; /* NULL: all; ascending */
    uint32_t n_allowed;
    const struct bad_word *bad_words; /* owned by the request */
    uint32_t n_bad_words;
};

/* The API's defaults: temperature 1, all steps in the order of their enum, everything else off. */
struct sampling_params sampling_params_default(void);

/* Ranges of all fields; the error names the field. n_vocab bounds the token ids. */
serverd_status sampling_params_check(const struct sampling_params *params, uint32_t n_vocab,
                                     serverd_error *err);

#endif
