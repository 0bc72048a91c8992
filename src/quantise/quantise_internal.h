/* The parts of the pass. */
#ifndef QUANTISE_INTERNAL_H
#define QUANTISE_INTERNAL_H

#include "quantise/matrix.h"
#include "quantise/quantise.h"

/* What is planned for one tensor. */
struct tensor_plan {
    struct quantise_choice choice;
    uint8_t kind;
    bool is_done;
    uint64_t offset, room; /* in the store, room for its blocks whatever their scales */
    struct tensor_report *report;
};

struct pass {
    struct program *program;
    const struct quantise_options *options;
    struct quantise_report *report;
    struct quantise_policy *policy;
    struct calibration calibration; /* nothing in it: none */
    serverd_graph source;           /* the graph as it was */
    serverd_tensor *tensors;        /* the program's, as they are now */
    struct tensor_plan *plans;      /* [n_tensors] */
    uint8_t *store;                 /* memory of the new tensors, in program->mappings */
    size_t store_bytes;
    uint32_t n_done, n_to_do;
};

static inline bool pass_is_calibrated(const struct pass *pass)
{
    return pass->calibration.used.n > 0;
}

static inline bool plan_is_kept(const struct tensor_plan *plan)
{
    return plan->choice.format == 0;
}

void pass_report_progress(struct pass *pass, double share, const char *what);

/* A matrix that is finished becomes the program's tensor. */
void pass_put(struct pass *pass, uint32_t tensor, const struct quant_matrix *matrix);

/* Fits one tensor alone. `column_weight` may be NULL. */
serverd_status pass_quantise_alone(struct pass *pass, uint32_t tensor, serverd_error *err);

/* sets.c: all tensors of linear layers, on the calibration's text. */
serverd_status pass_quantise_sets(struct pass *pass, serverd_error *err);

/* fold.c: who makes a value can divide its columns. */
struct fold {
    enum { FOLD_NONE, FOLD_NORM, FOLD_ROWS } kind;
    uint32_t weight, bias; /* tensors; bias may be UINT32_MAX */
};
struct fold find_fold(const struct pass *pass, uint32_t value);
/* Column j of the value is divided by divisor[j]. False: it cannot be, and nothing has changed. */
serverd_status apply_fold(struct pass *pass, const struct fold *fold, const float *divisor,
                          serverd_error *err);

/* mixed.c: formats tensor by tensor, for a size. */
serverd_status pass_choose_formats(struct pass *pass, serverd_error *err);

#endif
