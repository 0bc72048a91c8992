/* What quantising did: to each tensor, to each layer, to what the model says. */
#ifndef QUANTISE_REPORT_H
#define QUANTISE_REPORT_H

#include "base/buffer.h"
#include "quantise/policy.h"

#include <stdbool.h>
#include <stdint.h>

/* Errors are shares of the energy: sum of squares of the error over that of the exact numbers.
 * Negative: not measured. */
struct tensor_report {
    char name[96];
    uint8_t kind;               /* enum tensor_kind */
    uint32_t from_dtype, dtype; /* equal: kept */
    unsigned methods;
    uint64_t n_elements, from_bytes, bytes;
    double weight_error; /* of the weights that went in, scaled by awq */
    double output_error; /* of the layer's outputs on calibration rows */
    double awq_alpha, awq_gain;
    double seconds;
};

/* The residual behind a layer against the source's, on held-out tokens. */
struct layer_report {
    double error, cosine;
};

/* Source against program in exact float32, over the whole vocabulary. */
struct divergence_report {
    uint32_t n_tokens; /* 0: not measured */
    double mean_kl, p99_kl, max_kl;
    double source_nll, nll; /* of the text, per token */
    double top1;            /* share of positions with the same first choice */
    uint32_t n_buckets;     /* mean KL by position in the sequence */
    uint32_t bucket_tokens;
    double bucket_kl[64];
    double min_cosine, mean_cosine; /* of embeddings: encoders have these instead */
    bool is_encoder;
};

/* A point of the search for a size. */
struct candidate_report {
    double bits, damage;
};

struct quantise_report {
    char model[128], policy[256], calibration[256];
    struct tensor_report *tensors; /* in the order of the graph; matrices only */
    struct layer_report *layers;   /* n_layers 0: not measured */
    uint32_t n_tensors, n_layers;
    struct divergence_report divergence;
    struct candidate_report *candidates;
    uint32_t n_candidates;
    uint32_t n_calibration_tokens;
    double seconds, calibration_seconds, measuring_seconds;
};

void quantise_report_destroy(struct quantise_report *report);

/* JSON without times, so that equal work gives equal bytes. */
void quantise_report_json(const struct quantise_report *report, struct buffer *out);

/* A page that stands alone: tables and plots, no scripts. */
void quantise_report_html(const struct quantise_report *report, struct buffer *out);

/* Bits for each weight of all matrices. */
double quantise_report_bits(const struct quantise_report *report);

#endif
