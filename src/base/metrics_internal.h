/* Shared by the files that render the registry. */
#ifndef BASE_METRICS_INTERNAL_H
#define BASE_METRICS_INTERNAL_H

#include "base/metrics.h"

enum metric_kind { COUNTER, GAUGE, HISTOGRAM };

/* A counter's or a gauge's value, of a family the sum of its series; a histogram's sum. */
double metrics_sum(struct metrics *metrics, enum metric_id id);

/* The observations of a histogram. */
double metrics_count(struct metrics *metrics, enum metric_id id);

/* The three kinds of lines of a histogram under another name; labels: KEY="VALUE",... or "". */
void metrics_append_histogram(struct buffer *out, const char *name, const char *labels,
                              struct metrics *metrics, enum metric_id id);

/* The lines of a family with one label key under another name and key. */
void metrics_append_family(struct buffer *out, const char *name, const char *labels,
                           const char *key, struct metrics *metrics, enum metric_id id);

void metrics_append_number(struct buffer *out, double x);

/* KEY="VALUE", escaped. */
void metrics_append_label(struct buffer *out, const char *key, const char *value);

/* The registries that engines write to, one after the other: those of models, or the one that
 * there is. previous NULL: the first; NULL: no more. */
struct metrics *metrics_next_of_models(struct metrics *metrics, struct metrics *previous);

/* Its name, as a label's value between the quotes; NULL: not one of several. *n bytes. */
const char *metrics_model(const struct metrics *metrics, size_t *n);

#endif
