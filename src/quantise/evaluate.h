/* Source and program side by side on the same text, in exact float32. */
#ifndef QUANTISE_EVALUATE_H
#define QUANTISE_EVALUATE_H

#include "quantise/forward.h"
#include "quantise/report.h"

struct evaluation {
    const serverd_graph *source, *program; /* equal but for their tensors */
    uint32_t n_layers, max_context;
    bool is_encoder;
    const struct token_sequences *sequences;
    struct worker_pool *pool;
};

/* *layers: [n_layers], free() it. */
serverd_status evaluate(const struct evaluation *evaluation, struct layer_report **layers,
                        struct divergence_report *out, serverd_error *err);

#endif
