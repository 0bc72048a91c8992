#include "quantise/report.h"

#include "program/dtype.h"
#include "quantise/quantise_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void quantise_report_destroy(struct quantise_report *report)
{
    free(report->tensors);
    free(report->layers);
    free(report->candidates);
    *report = (struct quantise_report){0};
}

double quantise_report_bits(const struct quantise_report *report)
{
    double bits = 0, elements = 0;
    for (uint32_t i = 0; i < report->n_tensors; i++) {
        bits += 8.0 * (double)report->tensors[i].bytes;
        elements += (double)report->tensors[i].n_elements;
    }
    return elements > 0 ? bits / elements : 0;
}

static void put_text(struct buffer *out, const char *key, const char *text)
{
    buffer_printf(out, "\"%s\":\"", key);
    buffer_append_json(out, text, strlen(text));
    buffer_append_str(out, "\",");
}

/* null: not measured. */
static void put_number(struct buffer *out, const char *key, double x)
{
    buffer_printf(out, "\"%s\":", key);
    if (x < 0)
        buffer_append_str(out, "null");
    else
        buffer_append_f64(out, x);
    buffer_append_char(out, ',');
}

/* Instead of the comma behind the last member. */
static void end_with(struct buffer *out, char c)
{
    if (out->len > 0 && !out->is_failed && out->data[out->len - 1] == ',')
        out->data[out->len - 1] = c;
    else
        buffer_append_char(out, c);
}

static void put_tensor(const struct tensor_report *t, struct buffer *out)
{
    const bool is_kept = t->from_dtype == t->dtype;
    buffer_append_char(out, '{');
    put_text(out, "name", t->name);
    put_text(out, "kind", tensor_kind_name(t->kind));
    put_text(out, "from", dtype_info(t->from_dtype)->name);
    put_text(out, "format", dtype_info(t->dtype)->name);
    buffer_printf(out, "\"bytes\":%llu,\"elements\":%llu,", (unsigned long long)t->bytes,
                  (unsigned long long)t->n_elements);
    put_number(out, "weight_error", is_kept ? 0 : t->weight_error);
    put_number(out, "snr_db", is_kept || t->weight_error <= 0 ? -1 : -10 * log10(t->weight_error));
    put_number(out, "output_error", t->output_error);
    put_number(out, "awq_alpha", t->awq_alpha);
    end_with(out, '}');
}

static void put_divergence(const struct divergence_report *d, struct buffer *out)
{
    buffer_printf(out, "\"tokens\":%u,", d->n_tokens);
    if (d->is_encoder) {
        put_number(out, "mean_cosine", d->mean_cosine);
        put_number(out, "min_cosine", d->min_cosine);
        return;
    }
    put_number(out, "mean_kl", d->mean_kl);
    put_number(out, "p99_kl", d->p99_kl);
    put_number(out, "max_kl", d->max_kl);
    put_number(out, "source_nll", d->source_nll);
    put_number(out, "nll", d->nll);
    put_number(out, "top1", d->top1);
    buffer_printf(out, "\"kl_by_position\":{\"tokens\":%u,\"mean\":[", d->bucket_tokens);
    for (uint32_t i = 0; i < d->n_buckets; i++) {
        buffer_append_f64(out, d->bucket_kl[i]);
        buffer_append_char(out, ',');
    }
    end_with(out, ']');
    buffer_append_str(out, "},");
}

void quantise_report_json(const struct quantise_report *report, struct buffer *out)
{
    buffer_append_char(out, '{');
    put_text(out, "model", report->model);
    put_text(out, "policy", report->policy);
    buffer_printf(out, "\"calibration_tokens\":%u,", report->n_calibration_tokens);
    put_number(out, "bits", quantise_report_bits(report));
    buffer_append_str(out, "\"tensors\":[");
    for (uint32_t i = 0; i < report->n_tensors; i++) {
        put_tensor(&report->tensors[i], out);
        buffer_append_char(out, ',');
    }
    end_with(out, ']');
    buffer_append_str(out, ",\"layers\":[");
    for (uint32_t i = 0; i < report->n_layers; i++) {
        buffer_append_char(out, '{');
        put_number(out, "error", report->layers[i].error);
        put_number(out, "cosine", fabs(report->layers[i].cosine));
        end_with(out, '}');
        buffer_append_char(out, ',');
    }
    end_with(out, ']');
    buffer_append_str(out, ",\"divergence\":");
    if (report->divergence.n_tokens == 0) {
        buffer_append_str(out, "null");
    } else {
        buffer_append_char(out, '{');
        put_divergence(&report->divergence, out);
        end_with(out, '}');
    }
    buffer_append_str(out, ",\"candidates\":[");
    for (uint32_t i = 0; i < report->n_candidates; i++)
        buffer_printf(out, "%s{\"bits\":%.6g,\"damage\":%.6g}", i ? "," : "",
                      report->candidates[i].bits, report->candidates[i].damage);
    buffer_append_str(out, "]}");
}
