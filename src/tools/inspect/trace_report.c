#include "tools/inspect/trace_report.h"

#include "base/error.h"
#include "base/numeric.h"
#include "kernels/builtin.h"
#include "program/op.h"
#include "tools/bench/stats.h"
#include "tools/inspect/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TENSORS 4u

/* Steps of one row for each sequence, and of more: they differ in what limits them. */
enum step_class { STEPS_DECODE = 0, STEPS_PREFILL, N_CLASSES };
static const char *const class_names[] = {"decode", "prefill"};
static const char *const class_texts[] = {"one row for each sequence",
                                          "more rows: prompts, or guesses"};

/* What times are summed by. */
enum key_kind { BY_OP = 0, BY_LAYER, BY_DEVICE, BY_NODE, N_KINDS };
static const char *const kind_names[] = {"op", "layer", "delegate", "node"};

/* Of a node in all steps of a class. */
struct node_work {
    double us, macs, bytes;
    uint32_t device;
};

struct report {
    const struct trace_report_options *options;
    const serverd_graph *graph;
    struct trace_spans spans;
    uint32_t *node_of;      /* [n_ops] that its time counts for */
    struct node_work *work; /* [n_nodes] */
    double *step_us;        /* [n_steps] of one key */
    enum step_class class;
    double class_us, class_rows; /* of all its steps */
    uint32_t n_class_steps;
    bool is_json;
    struct buffer *out;
};

static enum step_class class_of(const struct trace_step *step)
{
    return step->n_rows > step->n_seqs ? STEPS_PREFILL : STEPS_DECODE;
}

/* ---- work ------------------------------------------------------------------------------------ */

/* As the delegate reads it, if it is a built-in one. */
static double tensor_bytes(const char *device, const serverd_tensor *tensor)
{
    char name[72];
    (void)snprintf(name, sizeof name, "%.*s", (int)strcspn(device, "."), device);
    const serverd_delegate *delegate = builtin_delegate(name);
    serverd_form form = {.struct_bytes = sizeof form};
    serverd_error ignored;
    bool is_known = delegate && delegate->form(tensor, &form, &ignored) == SERVERD_OK;
    return (double)(is_known && form.layout != SERVERD_LAYOUT_ROWS ? form.bytes : tensor->bytes);
}

/* Weights that a node reads in n_steps steps of n_rows rows. Of a table only the rows. */
static double node_bytes(const serverd_graph *graph, uint32_t node, const char *device,
                         double n_steps, double n_rows)
{
    const serverd_node *n = &graph->nodes[node];
    double sum = 0;
    for (uint32_t i = 0; i < n->n_inputs; i++) {
        const serverd_value *value = node_input(graph, n, i);
        if (value->kind != SERVERD_VALUE_CONSTANT)
            continue;
        const serverd_tensor *tensor = &graph->tensors[value->tensor];
        double bytes = tensor_bytes(device, tensor);
        sum += n->op == SERVERD_OP_EMBED ? bytes / (double)max_size(tensor->dims[0], 1) * n_rows
                                         : bytes * n_steps;
    }
    return sum;
}

/* Times of the class's steps, and the work of the nodes that have one. */
static void find_work(struct report *report)
{
    const struct recording *recording = report->options->recording;
    const serverd_graph *graph = report->graph;
    memset(report->work, 0, graph->n_nodes * sizeof *report->work);
    for (uint32_t i = 0; i < recording->n_ops; i++) {
        const struct recorded_op *op = &recording->ops[i];
        if (class_of(&recording->steps[op->step]) != report->class)
            continue;
        report->work[report->node_of[i]].us += op->us;
        report->work[report->node_of[i]].device = op->device;
    }
    report->class_us = 0;
    report->n_class_steps = 0;
    double n_rows = 0, n_logit_steps = 0;
    for (uint32_t s = 0; s < recording->n_steps; s++) {
        const struct trace_step *step = &recording->steps[s];
        if (class_of(step) != report->class)
            continue;
        report->class_us += (double)(step->end_ns - step->begin_ns) * 1e-3;
        report->n_class_steps++;
        n_rows += step->n_rows;
        n_logit_steps += step->n_logit_rows > 0;
        for (uint32_t n = 0; n < graph->n_nodes; n++)
            if (report->work[n].us > 0)
                report->work[n].macs += trace_node_macs(graph, n, &report->spans, step);
    }
    report->class_rows = n_rows;
    for (uint32_t n = 0; n < graph->n_nodes; n++)
        if (report->work[n].us > 0) {
            bool is_selected =
                node_output(graph, &graph->nodes[n])->dims[0] == SERVERD_DIM_SELECTED;
            report->work[n].bytes =
                node_bytes(graph, n, recording->devices[report->work[n].device],
                           is_selected ? n_logit_steps : report->n_class_steps, n_rows);
        }
}

/* ---- a row ----------------------------------------------------------------------------------- */

static uint32_t key_of(const struct report *report, enum key_kind kind, uint32_t node)
{
    const serverd_node *n = &report->graph->nodes[node];
    const uint32_t keys[] = {n->op, n->layer, report->work[node].device, node};
    return keys[kind];
}

struct row {
    char name[96];
    uint32_t node; /* of BY_NODE */
    double us, macs, bytes, p10, p50, p90;
    const char *limit; /* "read", "int8", "fp32", or NULL: not known */
    double of_limit;
};

static void name_row(const struct report *report, enum key_kind kind, uint32_t key, struct row *row)
{
    if (kind == BY_OP)
        (void)snprintf(row->name, sizeof row->name, "%s", op_info(key)->name);
    else if (kind == BY_LAYER && key == UINT32_MAX)
        (void)snprintf(row->name, sizeof row->name, "outside");
    else if (kind == BY_LAYER)
        (void)snprintf(row->name, sizeof row->name, "%u", key);
    else if (kind == BY_DEVICE)
        (void)snprintf(row->name, sizeof row->name, "%s", report->options->recording->devices[key]);
    else
        (void)snprintf(row->name, sizeof row->name, "%u %s", key,
                       op_info(report->graph->nodes[key].op)->name);
}

/* The limit that is nearest. Attention multiplies floats, linear layers codes. */
static void find_limit(const struct report *report, bool is_attention, struct row *row)
{
    const struct machine_limits *limits = &report->options->limits;
    double seconds = row->us * 1e-6 / report->options->recording->n_workers;
    double most = is_attention ? limits->fp32_gmacs : limits->int8_gmacs;
    double reading = limits->read_gbps > 0 ? row->bytes / seconds / 1e9 / limits->read_gbps : 0;
    double computing = most > 0 ? row->macs / seconds / 1e9 / most : 0;
    row->of_limit = reading > computing ? reading : computing;
    if (row->of_limit > 0)
        row->limit = reading > computing ? "read" : is_attention ? "fp32" : "int8";
}

static void find_times(struct report *report, enum key_kind kind, uint32_t key, struct row *row)
{
    const struct recording *recording = report->options->recording;
    memset(report->step_us, 0, recording->n_steps * sizeof *report->step_us);
    for (uint32_t i = 0; i < recording->n_ops; i++)
        if (key_of(report, kind, report->node_of[i]) == key)
            report->step_us[recording->ops[i].step] += recording->ops[i].us;
    struct samples samples = {0};
    for (uint32_t s = 0; s < recording->n_steps; s++)
        if (class_of(&recording->steps[s]) == report->class)
            samples_add(&samples, report->step_us[s] / recording->n_workers);
    row->p10 = samples_percentile(&samples, 0.1);
    row->p50 = samples_percentile(&samples, 0.5);
    row->p90 = samples_percentile(&samples, 0.9);
    samples_deinit(&samples);
}

static void fill_row(struct report *report, enum key_kind kind, uint32_t key, struct row *row)
{
    bool is_attention = true;
    *row = (struct row){.node = key};
    name_row(report, kind, key, row);
    for (uint32_t n = 0; n < report->graph->n_nodes; n++) {
        const struct node_work *work = &report->work[n];
        if (work->us <= 0 || key_of(report, kind, n) != key)
            continue;
        row->us += work->us;
        row->macs += work->macs;
        row->bytes += work->bytes;
        is_attention &= report->graph->nodes[n].op == SERVERD_OP_ATTN;
    }
    find_times(report, kind, key, row);
    find_limit(report, is_attention, row);
}

/* ---- writing --------------------------------------------------------------------------------- */

static void list_tensors(const struct report *report, uint32_t node, const char **names,
                         uint32_t *n)
{
    const serverd_node *of = &report->graph->nodes[node];
    *n = 0;
    for (uint32_t i = 0; i < of->n_inputs && *n < MAX_TENSORS; i++) {
        const serverd_value *value = node_input(report->graph, of, i);
        if (value->kind == SERVERD_VALUE_CONSTANT)
            names[(*n)++] = report->graph->tensors[value->tensor].name;
    }
}

static void write_row_json(const struct report *report, enum key_kind kind, const struct row *row)
{
    const uint32_t n_workers = report->options->recording->n_workers;
    const double n = report->n_class_steps, seconds = row->us * 1e-6 / n_workers;
    const char *names[MAX_TENSORS];
    uint32_t n_names;
    struct buffer *out = report->out;
    json_begin(out, '{');
    json_text(out, kind_names[kind], row->name);
    json_number(out, "p10_us", row->p10);
    json_number(out, "p50_us", row->p50);
    json_number(out, "p90_us", row->p90);
    json_number(out, "share", row->us / n_workers / report->class_us);
    json_number(out, "weight_bytes", row->bytes / n);
    json_number(out, "macs", row->macs / n);
    json_number(out, "gb_s", row->bytes / seconds / 1e9);
    json_number(out, "gmac_s", row->macs / seconds / 1e9);
    json_text(out, "limit", row->limit);
    json_number(out, "of_limit", row->of_limit);
    if (kind == BY_NODE) {
        list_tensors(report, row->node, names, &n_names);
        json_begin_in(out, "tensors", '[');
        for (uint32_t i = 0; i < n_names; i++)
            json_item_text(out, names[i]);
        json_end(out, ']');
    }
    json_end(out, '}');
}

static void write_row_text(const struct report *report, enum key_kind kind, const struct row *row)
{
    const uint32_t n_workers = report->options->recording->n_workers;
    const double n = report->n_class_steps, seconds = row->us * 1e-6 / n_workers;
    const char *names[MAX_TENSORS];
    uint32_t n_names = 0;
    struct buffer *out = report->out;
    buffer_printf(out,
                  "| %-14s | %9.1f | %9.1f | %9.1f | %5.1f %% | %8.3f | %8.3f | %6.2f | %7.2f |",
                  row->name, row->p10, row->p50, row->p90,
                  100 * row->us / n_workers / report->class_us, row->bytes / n / 1e6,
                  row->macs / n / 1e6, row->bytes / seconds / 1e9, row->macs / seconds / 1e9);
    if (row->limit)
        buffer_printf(out, " %s %4.1f %% |", row->limit, 100 * row->of_limit);
    else
        buffer_append_str(out, "             |");
    if (kind == BY_NODE)
        list_tensors(report, row->node, names, &n_names);
    for (uint32_t i = 0; i < n_names; i++)
        buffer_printf(out, "%s%s", i > 0 ? ", " : " ", names[i]);
    buffer_append_str(out, kind == BY_NODE ? " |\n" : "\n");
}

static void write_table_head(const struct report *report, enum key_kind kind)
{
    static const char line[] = "----------------";
    buffer_printf(
        report->out,
        "\n| %-14s |    p10 us |    p50 us |    p90 us |   share |       MB |     MMAC |  "
        " GB/s |  GMAC/s | of limit    |%s\n",
        kind_names[kind], kind == BY_NODE ? " weights |" : "");
    buffer_printf(
        report->out,
        "|%s|----------:|----------:|----------:|--------:|---------:|---------:|-------:|"
        "--------:|-------------|%s\n",
        line, kind == BY_NODE ? "---------|" : "");
}

/* ---- tables ---------------------------------------------------------------------------------- */

static int by_first(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* The keys that nodes with a time have, ascending; returns how many. `keys` has room for all
 * nodes. */
static uint32_t list_keys(const struct report *report, enum key_kind kind, uint32_t *keys)
{
    uint32_t n = 0, n_kept = 0;
    for (uint32_t node = 0; node < report->graph->n_nodes; node++)
        if (report->work[node].us > 0)
            keys[n++] = key_of(report, kind, node);
    qsort(keys, n, sizeof *keys, by_first);
    for (uint32_t i = 0; i < n; i++)
        if (i == 0 || keys[i] != keys[i - 1])
            keys[n_kept++] = keys[i];
    return n_kept;
}

/* The n slowest to the front, slowest first. */
static void slowest_first(const struct report *report, uint32_t *nodes, uint32_t n_nodes,
                          uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = i + 1; j < n_nodes; j++)
            if (report->work[nodes[j]].us > report->work[nodes[i]].us) {
                uint32_t node = nodes[i];
                nodes[i] = nodes[j];
                nodes[j] = node;
            }
}

static void write_table(struct report *report, enum key_kind kind, uint32_t *keys)
{
    uint32_t n = list_keys(report, kind, keys);
    if (kind == BY_NODE) {
        uint32_t n_wanted = (uint32_t)min_size(n, report->options->n_nodes);
        slowest_first(report, keys, n, n_wanted);
        n = n_wanted;
    }
    if (n == 0)
        return;
    if (report->is_json)
        json_begin_in(report->out, kind_names[kind], '[');
    else
        write_table_head(report, kind);
    for (uint32_t i = 0; i < n; i++) {
        struct row row;
        fill_row(report, kind, keys[i], &row);
        (report->is_json ? write_row_json : write_row_text)(report, kind, &row);
    }
    if (report->is_json)
        json_end(report->out, ']');
}

/* Of the time of the thread that executes, what operations are; the rest is waiting. */
static double covered(const struct report *report)
{
    const struct recording *recording = report->options->recording;
    double us = 0;
    for (uint32_t i = 0; i < recording->n_ops; i++)
        if (recording->ops[i].worker == 0 &&
            class_of(&recording->steps[recording->ops[i].step]) == report->class)
            us += recording->ops[i].us;
    return us / report->class_us;
}

static void write_class(struct report *report, uint32_t *keys)
{
    struct buffer *out = report->out;
    find_work(report);
    if (report->n_class_steps == 0 || report->class_us <= 0)
        return;
    double mean = report->class_us / report->n_class_steps;
    if (report->is_json) {
        json_begin_in(out, class_names[report->class], '{');
        json_count(out, "steps", report->n_class_steps);
        json_number(out, "mean_us", mean);
        json_number(out, "mean_rows", report->class_rows / report->n_class_steps);
        json_number(out, "ops_share", covered(report));
    } else {
        buffer_printf(
            out,
            "\n## %s: %u steps of %s\n\nmean %.3f ms, %.1f rows; operations are %.1f %% of "
            "worker 0's time, the rest is waiting\n",
            class_names[report->class], report->n_class_steps, class_texts[report->class],
            mean * 1e-3, report->class_rows / report->n_class_steps, 100 * covered(report));
    }
    for (int kind = 0; kind < N_KINDS; kind++)
        write_table(report, (enum key_kind)kind, keys);
    if (report->is_json)
        json_end(out, '}');
}

static void write_all(struct report *report, uint32_t *keys)
{
    const struct recording *recording = report->options->recording;
    const struct machine_limits *limits = &report->options->limits;
    struct buffer *out = report->out;
    if (report->is_json) {
        json_begin(out, '{');
        json_text(out, "model", recording->model);
        json_count(out, "workers", recording->n_workers);
        json_count(out, "events_lost", recording->n_lost);
        json_begin_in(out, "limits", '{');
        json_number(out, "read_gbps", limits->read_gbps);
        json_number(out, "int8_gmacs", limits->int8_gmacs);
        json_number(out, "fp32_gmacs", limits->fp32_gmacs);
        json_end(out, '}');
    } else {
        buffer_printf(
            out,
            "%s: %u workers, %u steps, %u events, %llu lost\nlimits: read %.1f GB/s, int8 "
            "%.0f GMAC/s, fp32 %.0f GMAC/s\n",
            recording->model, recording->n_workers, recording->n_steps, recording->n_ops,
            (unsigned long long)recording->n_lost, limits->read_gbps, limits->int8_gmacs,
            limits->fp32_gmacs);
    }
    for (int class = 0; class < N_CLASSES; class ++) {
        report->class = (enum step_class) class;
        write_class(report, keys);
    }
    if (report->is_json) {
        json_end(out, '}');
        buffer_append_char(out, '\n');
    }
}

serverd_status trace_report(const struct trace_report_options *options, bool is_json,
                            struct buffer *out, serverd_error *err)
{
    const struct recording *recording = options->recording;
    struct report report = {
        .options = options, .graph = options->graph, .is_json = is_json, .out = out};
    if (options->graph->n_nodes != recording->n_nodes)
        return fail(
            err, SERVERD_INVALID,
            "the trace is of a program of %u nodes, this one has %u: another model, or other "
            "passes",
            recording->n_nodes, options->graph->n_nodes);
    trace_find_spans(report.graph, &report.spans);
    report.node_of = calloc(max_size(recording->n_ops, 1), sizeof *report.node_of);
    report.work = calloc(max_size(report.graph->n_nodes, 1), sizeof *report.work);
    report.step_us = calloc(max_size(recording->n_steps, 1), sizeof *report.step_us);
    uint32_t *keys = calloc(max_size(report.graph->n_nodes, 1), sizeof *keys);
    serverd_status status = SERVERD_OK;
    if (!report.node_of || !report.work || !report.step_us || !keys) {
        status = fail(err, SERVERD_NOMEM, "no memory for a report");
    } else {
        for (uint32_t i = 0; i < recording->n_ops; i++)
            report.node_of[i] = trace_main_node(report.graph, recording->ops[i].first_node,
                                                recording->ops[i].n_nodes);
        write_all(&report, keys);
    }
    free(report.node_of);
    free(report.work);
    free(report.step_us);
    free(keys);
    return status;
}
