#include "base/metrics_internal.h"

#include "base/hash.h"
#include "base/limits.h"
#include "base/numeric.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the table ---- */

#define MAX_BUCKETS 17u /* with +Inf */
#define MAX_NAME    128u

/* Upper bounds, ascending; +Inf is implied. */
struct buckets {
    unsigned n;
    double bounds[MAX_BUCKETS - 1];
};

static const struct buckets buckets_NONE = {0};
static const struct buckets buckets_TTFT = {
    16, {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}};
static const struct buckets buckets_ITL = {
    16, {.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5}};
static const struct buckets buckets_E2E = {12, {.05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40, 80, 160}};
static const struct buckets buckets_STEP = {
    16,
    {5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, .001, .0025, .005, .01, .025, .05, .1, .25, 1}};
static const struct buckets buckets_TOKENS = {
    11, {1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576}};

struct row {
    const char *name, *labels, *help;
    enum metric_kind kind;
    const struct buckets *buckets;
    bool is_of_model;
};

static const struct row rows[METRIC_COUNT] = {
#define METRIC(id, kind, name, labels, buckets, help)                                              \
    [METRIC_##id] = {name, labels, help, kind, &buckets_##buckets, false},
#define MODEL_METRIC(id, kind, name, labels, buckets, help)                                        \
    [METRIC_##id] = {name, labels, help, kind, &buckets_##buckets, true},
#include "base/metrics.def"
#undef METRIC
#undef MODEL_METRIC
};

/* Labels without values: one series for each set of them. */
static bool is_family(const struct row *row)
{
    size_t n = strlen(row->labels);
    return n > 0 && row->labels[n - 1] != '"';
}

/* ---- values ---- */

struct series {
    char *labels; /* endpoint="chat",outcome="ok" */
    double value;
};

struct metric {
    _Atomic uint64_t value; /* bits of a double: the value, or a histogram's sum */
    _Atomic uint64_t counts[MAX_BUCKETS];
    struct series *series; /* a labelled family's, guarded by metrics->mutex */
    size_t n_series;
};

struct metrics {
    pthread_mutex_t mutex;
    struct metric metrics[METRIC_COUNT];
    char *model;                     /* label, as it is rendered; NULL: not one of several */
    struct metrics *children, *next; /* of models; the list under the parent's mutex */
};

/* Relaxed everywhere: each value stands alone (metrics.h). */
static double load(const _Atomic uint64_t *bits)
{
    uint64_t u = atomic_load_explicit(bits, memory_order_relaxed);
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static uint64_t double_bits(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static void add(_Atomic uint64_t *bits, double value)
{
    uint64_t old = atomic_load_explicit(bits, memory_order_relaxed), new;
    do {
        double x;
        memcpy(&x, &old, sizeof x);
        new = double_bits(x + value);
    } while (!atomic_compare_exchange_weak_explicit(bits, &old, new, memory_order_relaxed,
                                                    memory_order_relaxed));
}

struct metrics *metrics_create(void)
{
    struct metrics *metrics = calloc(1, sizeof *metrics);
    if (metrics)
        (void)pthread_mutex_init(&metrics->mutex, NULL); /* cannot fail with default attributes */
    return metrics;
}

void metrics_destroy(struct metrics *metrics)
{
    if (!metrics)
        return;
    while (metrics->children) {
        struct metrics *child = metrics->children;
        metrics->children = child->next;
        metrics_destroy(child); /* one level deep */
    }
    free(metrics->model);
    for (size_t id = 0; id < METRIC_COUNT; id++) {
        struct metric *metric = &metrics->metrics[id];
        for (size_t i = 0; i < metric->n_series; i++)
            free(metric->series[i].labels);
        free(metric->series);
    }
    (void)pthread_mutex_destroy(&metrics->mutex);
    free(metrics);
}

void metrics_reset_gauges(struct metrics *metrics)
{
    if (!metrics)
        return;
    (void)pthread_mutex_lock(&metrics->mutex);
    for (size_t id = 0; id < METRIC_COUNT; id++) {
        struct metric *metric = &metrics->metrics[id];
        if (!rows[id].is_of_model || rows[id].kind != GAUGE)
            continue;
        atomic_store_explicit(&metric->value, 0, memory_order_relaxed);
        for (size_t i = 0; i < metric->n_series; i++)
            metric->series[i].value = 0;
    }
    (void)pthread_mutex_unlock(&metrics->mutex);
}

/* A value that a metric can take: counters only grow, and nothing is NaN or infinite. */
static bool is_legal(enum metric_id id, double value)
{
    return isfinite(value) && (rows[id].kind != COUNTER || value >= 0);
}

void metrics_add(struct metrics *metrics, enum metric_id id, double value)
{
    if (metrics && rows[id].kind != HISTOGRAM && is_legal(id, value))
        add(&metrics->metrics[id].value, value);
}

void metrics_set(struct metrics *metrics, enum metric_id id, double value)
{
    if (metrics && rows[id].kind == GAUGE && is_legal(id, value))
        atomic_store_explicit(&metrics->metrics[id].value, double_bits(value),
                              memory_order_relaxed);
}

void metrics_observe(struct metrics *metrics, enum metric_id id, double value)
{
    if (!metrics || rows[id].kind != HISTOGRAM || !is_legal(id, value))
        return;
    struct metric *metric = &metrics->metrics[id];
    const struct buckets *buckets = rows[id].buckets;
    unsigned i = 0;
    while (i < buckets->n && value > buckets->bounds[i])
        i++;
    atomic_fetch_add_explicit(&metric->counts[i], 1, memory_order_relaxed);
    add(&metric->value, value);
}

double metrics_get(struct metrics *metrics, enum metric_id id)
{
    return metrics && rows[id].kind != HISTOGRAM ? load(&metrics->metrics[id].value) : 0;
}

/* ---- labelled families ---- */

static void append_label_value(struct buffer *out, const char *value)
{
    for (const char *s = value; *s; s++) {
        if (*s == '\\' || *s == '"')
            buffer_append_char(out, '\\');
        if (*s == '\n')
            buffer_append_str(out, "\\n");
        else
            buffer_append_char(out, *s);
    }
}

/* key="value",...; values NULL: "other" for each key. */
static void append_labels(struct buffer *out, const char *keys, const char *const *values)
{
    for (size_t i = 0; *keys; i++) {
        size_t n = strcspn(keys, ",");
        if (i > 0)
            buffer_append_char(out, ',');
        buffer_append(out, keys, n);
        buffer_append_str(out, "=\"");
        append_label_value(out, values ? values[i] : "other");
        buffer_append_char(out, '"');
        keys += n + (keys[n] == ',');
    }
}

static struct series *find_series(struct metric *metric, const char *labels)
{
    for (size_t i = 0; i < metric->n_series; i++)
        if (strcmp(metric->series[i].labels, labels) == 0)
            return &metric->series[i];
    return NULL;
}

/* Takes ownership of `labels`. The array is made whole at the first series, one longer than the
 * limit, for "other". */
static struct series *add_series(struct metric *metric, char *labels)
{
    if (!metric->series)
        metric->series = calloc(LIMIT_METRIC_SERIES + 1, sizeof *metric->series);
    if (!metric->series) {
        free(labels);
        return NULL;
    }
    struct series *series = &metric->series[metric->n_series++];
    *series = (struct series){.labels = labels};
    return series;
}

/* The mutex is held. NULL without memory: the update is lost. */
static struct series *series_for(struct metric *metric, const char *keys, const char *const *values)
{
    struct buffer labels;
    buffer_init(&labels, 4 * KIB);
    append_labels(&labels, keys, values);
    struct series *series = labels.is_failed ? NULL : find_series(metric, buffer_str(&labels));
    if (!series && values && (labels.is_failed || metric->n_series >= LIMIT_METRIC_SERIES))
        series = series_for(metric, keys, NULL); /* one level deep */
    else if (!series) {
        char *text = buffer_take(&labels, NULL);
        series = text ? add_series(metric, text) : NULL;
    }
    buffer_deinit(&labels);
    return series;
}

void metrics_add_labelled(struct metrics *metrics, enum metric_id id, const char *const *values,
                          double value)
{
    if (!metrics || rows[id].kind == HISTOGRAM || !is_legal(id, value))
        return;
    (void)pthread_mutex_lock(&metrics->mutex);
    struct series *series = series_for(&metrics->metrics[id], rows[id].labels, values);
    if (series)
        series->value += value;
    (void)pthread_mutex_unlock(&metrics->mutex);
}

void metrics_set_labelled(struct metrics *metrics, enum metric_id id, const char *const *values,
                          double value)
{
    if (!metrics || rows[id].kind != GAUGE || !is_legal(id, value))
        return;
    (void)pthread_mutex_lock(&metrics->mutex);
    struct series *series = series_for(&metrics->metrics[id], rows[id].labels, values);
    if (series)
        series->value = value;
    (void)pthread_mutex_unlock(&metrics->mutex);
}

/* ---- Prometheus text, version 0.0.4 ---- */

void metrics_append_number(struct buffer *out, double x)
{
    if (x == floor(x) && fabs(x) < 0x1p53)
        buffer_printf(out, "%lld", (long long)x);
    else
        buffer_append_f64(out, x);
}

static void append_name(struct buffer *out, const struct row *row)
{
    buffer_printf(out, "serverd_%s%s", row->name, row->kind == COUNTER ? "_total" : "");
}

static void append_head(struct buffer *out, const struct row *row)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    buffer_append_str(out, "# HELP ");
    append_name(out, row);
    buffer_printf(out, " %s\n# TYPE ", row->help);
    append_name(out, row);
    buffer_printf(out, " %s\n", kinds[row->kind]);
}

/* {model="...",phase="emit",le="1"}, of what there is; `bound` NULL: without le. */
static void append_labels_of(struct buffer *out, const char *model, const char *labels,
                             const double *bound)
{
    const bool has_labels = labels[0] != '\0';
    if (!model && !has_labels && !bound)
        return;
    buffer_printf(out, "{%s%s%s", model ? model : "", model && has_labels ? "," : "", labels);
    if (bound) {
        buffer_append_str(out, model || has_labels ? ",le=\"" : "le=\"");
        if (isinf(*bound))
            buffer_append_str(out, "+Inf");
        else
            metrics_append_number(out, *bound);
        buffer_append_char(out, '"');
    }
    buffer_append_char(out, '}');
}

/* name: as it is shown, without the ending of its kind. */
static void append_histogram(struct buffer *out, const char *name, const struct row *row,
                             const struct metric *metric, const char *model, const char *labels)
{
    uint64_t n = 0; /* buckets count all that is below their bound */
    for (unsigned i = 0; i <= row->buckets->n; i++) {
        const double bound = i < row->buckets->n ? row->buckets->bounds[i] : (double)INFINITY;
        n += atomic_load_explicit(&metric->counts[i], memory_order_relaxed);
        buffer_printf(out, "%s_bucket", name);
        append_labels_of(out, model, labels, &bound);
        buffer_printf(out, " %llu\n", (unsigned long long)n);
    }
    buffer_printf(out, "%s_sum", name);
    append_labels_of(out, model, labels, NULL);
    buffer_append_char(out, ' ');
    metrics_append_number(out, load(&metric->value));
    buffer_printf(out, "\n%s_count", name);
    append_labels_of(out, model, labels, NULL);
    buffer_printf(out, " %llu\n", (unsigned long long)n);
}

static void append_family(struct buffer *out, const struct row *row, const struct metric *metric,
                          const char *model)
{
    for (size_t i = 0; i < metric->n_series; i++) {
        append_name(out, row);
        append_labels_of(out, model, metric->series[i].labels, NULL);
        buffer_append_char(out, ' ');
        metrics_append_number(out, metric->series[i].value);
        buffer_append_char(out, '\n');
    }
}

static void append_metric(struct buffer *out, struct metrics *metrics, size_t id)
{
    const struct row *row = &rows[id];
    const struct metric *metric = &metrics->metrics[id];
    if (row->kind == HISTOGRAM) {
        char name[MAX_NAME];
        (void)snprintf(name, sizeof name, "serverd_%s", row->name);
        append_histogram(out, name, row, metric, metrics->model, row->labels);
    } else if (is_family(row)) {
        (void)pthread_mutex_lock(&metrics->mutex);
        append_family(out, row, metric, metrics->model);
        (void)pthread_mutex_unlock(&metrics->mutex);
    } else {
        append_name(out, row);
        append_labels_of(out, metrics->model, row->labels, NULL);
        buffer_append_char(out, ' ');
        metrics_append_number(out, load(&metric->value));
        buffer_append_char(out, '\n');
    }
}

/* ---- several models ---- */

struct metrics *metrics_create_of_model(struct metrics *parent, const char *model)
{
    struct metrics *metrics = metrics_create();
    if (!metrics)
        return NULL;
    struct buffer label;
    buffer_init(&label, 4 * KIB);
    append_labels(&label, "model", &model);
    metrics->model = buffer_take(&label, NULL);
    buffer_deinit(&label);
    if (!metrics->model) {
        metrics_destroy(metrics);
        return NULL;
    }
    (void)pthread_mutex_lock(&parent->mutex);
    struct metrics **last = &parent->children;
    while (*last)
        last = &(*last)->next;
    *last = metrics;
    (void)pthread_mutex_unlock(&parent->mutex);
    return metrics;
}

/* Children are only ever added, at the end. */
static struct metrics *first_child(struct metrics *metrics)
{
    (void)pthread_mutex_lock(&metrics->mutex);
    struct metrics *first = metrics->children;
    (void)pthread_mutex_unlock(&metrics->mutex);
    return first;
}

static struct metrics *next_child(struct metrics *metrics, const struct metrics *child)
{
    (void)pthread_mutex_lock(&metrics->mutex);
    struct metrics *next = child->next;
    (void)pthread_mutex_unlock(&metrics->mutex);
    return next;
}

/* ---- all of it ---- */

void metrics_render(struct metrics *metrics, struct buffer *out)
{
    if (!metrics)
        return;
    struct metrics *const first = first_child(metrics);
    for (size_t id = 0; id < METRIC_COUNT; id++) {
        if (id == 0 || strcmp(rows[id].name, rows[id - 1].name) != 0)
            append_head(out, &rows[id]);
        if (!first || !rows[id].is_of_model)
            append_metric(out, metrics, id);
        else
            for (struct metrics *child = first; child; child = next_child(metrics, child))
                append_metric(out, child, id);
    }
}

/* ---- for other names of the same ---- */

double metrics_sum(struct metrics *metrics, enum metric_id id)
{
    const struct metric *metric = &metrics->metrics[id];
    double sum = 0;
    if (!is_family(&rows[id]))
        return load(&metric->value);
    (void)pthread_mutex_lock(&metrics->mutex);
    for (size_t i = 0; i < metric->n_series; i++)
        sum += metric->series[i].value;
    (void)pthread_mutex_unlock(&metrics->mutex);
    return sum;
}

double metrics_count(struct metrics *metrics, enum metric_id id)
{
    uint64_t n = 0;
    for (unsigned i = 0; i <= rows[id].buckets->n; i++)
        n += atomic_load_explicit(&metrics->metrics[id].counts[i], memory_order_relaxed);
    return (double)n;
}

void metrics_append_histogram(struct buffer *out, const char *name, const char *labels,
                              struct metrics *metrics, enum metric_id id)
{
    append_histogram(out, name, &rows[id], &metrics->metrics[id], NULL, labels);
}

void metrics_append_family(struct buffer *out, const char *name, const char *labels,
                           const char *key, struct metrics *metrics, enum metric_id id)
{
    const struct metric *metric = &metrics->metrics[id];
    (void)pthread_mutex_lock(&metrics->mutex);
    for (size_t i = 0; i < metric->n_series; i++) {
        const char *value = strchr(metric->series[i].labels, '=');
        buffer_printf(out, "%s{%s,%s%s} ", name, labels, key, value ? value : "=\"\"");
        metrics_append_number(out, metric->series[i].value);
        buffer_append_char(out, '\n');
    }
    (void)pthread_mutex_unlock(&metrics->mutex);
}

void metrics_append_label(struct buffer *out, const char *key, const char *value)
{
    append_labels(out, key, &value);
}

struct metrics *metrics_next_of_models(struct metrics *metrics, struct metrics *previous)
{
    if (previous)
        return previous == metrics ? NULL : next_child(metrics, previous);
    struct metrics *first = first_child(metrics);
    return first ? first : metrics;
}

const char *metrics_model(const struct metrics *metrics, size_t *n)
{
    static const char key[] = "model=\"";
    if (!metrics->model)
        return NULL;
    *n = strlen(metrics->model) - (sizeof key - 1) - 1;
    return metrics->model + sizeof key - 1;
}
