/* The one metrics registry, rendered as Prometheus text. Thread-safe. Unlabelled counters,
 * gauges and histograms are updated with relaxed atomics: an update is never lost, two metrics
 * read together may be one update apart. Labelled families take a mutex and are for the HTTP
 * edge; a family keeps at most 256 series, further ones count under the label value "other". */
#ifndef BASE_METRICS_H
#define BASE_METRICS_H

#include "base/buffer.h"

enum metric_id {
#define METRIC(id, kind, name, labels, buckets, help)       METRIC_##id,
#define MODEL_METRIC(id, kind, name, labels, buckets, help) METRIC_##id,
#include "base/metrics.def"
#undef METRIC
#undef MODEL_METRIC
    METRIC_COUNT
};

struct metrics;

struct metrics *metrics_create(void);
void metrics_destroy(struct metrics *metrics);

/* The registry of one of several models, for its engine: what is in it is rendered with its parent,
 * with the label model="...". Destroyed with the parent. NULL: no memory. */
struct metrics *metrics_create_of_model(struct metrics *parent, const char *model);

/* metrics may be NULL everywhere below: nothing happens. */
void metrics_reset_gauges(struct metrics *metrics); /* an engine has gone, its counts stay */
void metrics_add(struct metrics *metrics, enum metric_id id, double value);
void metrics_set(struct metrics *metrics, enum metric_id id, double value);
void metrics_observe(struct metrics *metrics, enum metric_id id, double value);
double metrics_get(struct metrics *metrics, enum metric_id id); /* unlabelled counter or gauge */

/* One value per label key of the family, in order. */
void metrics_add_labelled(struct metrics *metrics, enum metric_id id, const char *const *values,
                          double value);
void metrics_set_labelled(struct metrics *metrics, enum metric_id id, const char *const *values,
                          double value);

void metrics_render(struct metrics *metrics, struct buffer *out);

/* The same numbers under the names that dashboards and routers for vLLM, SGLang and llama-server
 * know, with the label model_name; model: the name of the only one. */
void metrics_render_compat(struct metrics *metrics, const char *model, struct buffer *out);

#endif
