#include "tools/compile/diff_report.h"

#include "program/op.h"
#include "tools/inspect/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Lines about weights in the text, unless all are wanted. */
#define SOME_TENSORS 20u

static const char *what_differs(unsigned what)
{
    switch (what) {
    case 0:
        return "same";
    case DIFF_ONLY_A:
        return "only in A";
    case DIFF_ONLY_B:
        return "only in B";
    case DIFF_DTYPE:
        return "type";
    case DIFF_SHAPE:
        return "shape";
    case DIFF_BYTES:
        return "bytes";
    default:
        return "type, shape";
    }
}

static void group_name(const struct diff_run *run, uint32_t group, char out[24])
{
    uint32_t layer = run->groups[group].layer;
    if (layer != UINT32_MAX)
        (void)snprintf(out, 24, "%u", layer);
    else
        (void)snprintf(out, 24, "%s", group == 0 ? "before" : "behind");
}

/* ---- text ------------------------------------------------------------------------------------ */

static void put_side(char letter, const struct subject *subject, struct buffer *out)
{
    const struct placement *placement = subject->placement;
    char id[9];
    buffer_printf(out, "%c  %s", letter, subject->path);
    if (subject->is_program_file) {
        format_hex(subject->file.header->program_id, 4, id);
        buffer_printf(out, "  id %s..", id);
    }
    for (uint32_t d = 0; placement && d < placement->n_devices; d++)
        buffer_printf(out, "%s%s (%.63s)", d ? ", " : "  on ", placement->devices[d].name,
                      placement->devices[d].device.name);
    buffer_append_char(out, '\n');
}

static void put_files(const struct diff_report *report, struct buffer *out)
{
    const struct diff_files *files = report->files;
    if (files->n_sections)
        buffer_append_str(out, "\nSECTION       A bytes      B bytes\n");
    for (uint32_t i = 0; i < files->n_sections; i++) {
        const struct section_difference *s = &files->sections[i];
        char type[5];
        sdp_type_name(s->type, type);
        buffer_printf(out, "%-8s %12" PRIu64 " %12" PRIu64 "  %s\n", type, s->a_bytes, s->b_bytes,
                      what_differs(s->what));
    }
    buffer_printf(out, "\nweights  %u the same, %u differ\n", files->n_same, files->n_tensors);
    for (uint32_t i = 0; i < files->n_tensors; i++) {
        const struct tensor_difference *t = &files->tensors[i];
        char dims_a[96] = "-", dims_b[96] = "-", scratch[2][24];
        if (i == SOME_TENSORS && !report->has_all) {
            buffer_printf(out, "... and %u more; --all lists them\n", files->n_tensors - i);
            break;
        }
        if (t->what != DIFF_ONLY_B)
            format_dims(t->a.dims, t->a.rank, dims_a, sizeof dims_a);
        if (t->what != DIFF_ONLY_A)
            format_dims(t->b.dims, t->b.rank, dims_b, sizeof dims_b);
        buffer_printf(out, "%-31s %s %s | %s %s  %s\n", t->a.name ? t->a.name : t->b.name,
                      t->a.name ? dtype_name(t->a.dtype, scratch[0]) : "", dims_a,
                      t->b.name ? dtype_name(t->b.dtype, scratch[1]) : "", dims_b,
                      what_differs(t->what));
    }
}

static void put_db(double db, struct buffer *out)
{
    if (isfinite(db))
        buffer_printf(out, " %8.1f", db);
    else
        buffer_append_str(out, db > 0 ? "    equal" : "      bad");
}

static void put_gap(const struct gap *whole, double own_noise, struct buffer *out)
{
    buffer_printf(out, " %10.3g %10.3g", gap_l1(whole), gap_mse(whole));
    put_db(noise_db(gap_noise(whole)), out);
    buffer_printf(out, " %10.7f", gap_cosine(whole));
    put_db(noise_db(own_noise), out);
}

static void put_nodes(const struct diff_report *report, uint32_t group, struct buffer *out)
{
    const serverd_graph *graph = &report->a->program->graph;
    for (uint32_t i = 0; i < report->run->n_nodes; i++) {
        const struct diff_node *node = &report->run->nodes[i];
        if (node->group != group)
            continue;
        buffer_printf(out, "  %5u ", node->a);
        put_gap(&node->whole, gap_noise(&node->own), out);
        buffer_printf(out, "  %s %s%s\n", op_info(graph->nodes[node->a].op)->name,
                      node_weights(graph, node->a), node->is_bad ? "  BAD" : "");
    }
}

static void put_verdict(const struct diff_report *report, struct buffer *out)
{
    const struct diff_run *run = report->run;
    const serverd_graph *graph = &report->a->program->graph;
    char name[24];
    if (run->bad_node == UINT32_MAX) {
        buffer_append_str(out, "\nno layer adds more noise than its like\n");
        return;
    }
    const struct diff_node *node = &run->nodes[run->bad_node];
    group_name(run, node->group, name);
    buffer_printf(out, "\nfirst bad layer: %s, node %u, %s %s: adds noise at", name, node->a,
                  op_info(graph->nodes[node->a].op)->name, node_weights(graph, node->a));
    put_db(noise_db(gap_noise(&node->own)), out);
    buffer_append_str(out, " dB");
    if (node->usual >= 0) {
        buffer_append_str(out, ", its like at");
        put_db(noise_db(node->usual), out);
        buffer_append_str(out, " dB");
    }
    buffer_append_str(out, node->is_changed ? "; its weights have other bits\n" : "\n");
}

static void put_run(const struct diff_report *report, struct buffer *out)
{
    const struct diff_run *run = report->run;
    buffer_append_str(out,
                      "\nLAYER           L1        MSE   SNR dB     cosine  own SNR   (residual "
                      "behind the layer; noise that its nodes add)\n");
    for (uint32_t g = 0; g < run->n_groups; g++) {
        char name[24];
        group_name(run, g, name);
        buffer_printf(out, "%-7s ", name);
        put_gap(&run->groups[g].whole, run->groups[g].own_noise, out);
        if (run->groups[g].n_alone)
            buffer_printf(out, "  %u nodes without a counterpart", run->groups[g].n_alone);
        buffer_append_char(out, '\n');
        if (report->has_nodes)
            put_nodes(report, g, out);
    }
    put_verdict(report, out);
    if (run->logits.n_rows)
        buffer_printf(out,
                      "logits of %" PRIu64 " rows: KL(A || B) mean %.3g, max %.3g; the same "
                      "first token in %.1f %%\n",
                      run->logits.n_rows, run->logits.kl_sum / (double)run->logits.n_rows,
                      run->logits.kl_max,
                      100.0 * (double)run->logits.n_agree / (double)run->logits.n_rows);
}

void diff_report_text(const struct diff_report *report, struct buffer *out)
{
    put_side('A', report->a, out);
    put_side('B', report->b, out);
    put_files(report, out);
    if (report->run)
        put_run(report, out);
    else
        buffer_printf(out, "\nnot run: %s\n", report->why);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void json_side(const char *key, const struct subject *subject, struct buffer *out)
{
    const struct placement *placement = subject->placement;
    json_begin_in(out, key, '{');
    json_text(out, "path", subject->path);
    if (subject->is_program_file)
        json_hex(out, "program_id", subject->file.header->program_id, 32);
    json_begin_in(out, "devices", '[');
    for (uint32_t d = 0; placement && d < placement->n_devices; d++)
        json_item_text(out, placement->devices[d].name);
    json_end(out, ']');
    json_end(out, '}');
}

static void json_facts(const char *key, const struct tensor_facts *facts, struct buffer *out)
{
    char scratch[24];
    if (!facts->name)
        return;
    json_begin_in(out, key, '{');
    json_text(out, "dtype", dtype_name(facts->dtype, scratch));
    json_begin_in(out, "shape", '[');
    for (uint32_t d = 0; d < facts->rank; d++)
        json_item_count(out, facts->dims[d]);
    json_end(out, ']');
    json_hex(out, "hash", facts->hash, sizeof facts->hash);
    json_end(out, '}');
}

static void json_files(const struct diff_files *files, struct buffer *out)
{
    json_begin_in(out, "sections", '[');
    for (uint32_t i = 0; i < files->n_sections; i++) {
        char type[5];
        sdp_type_name(files->sections[i].type, type);
        json_begin(out, '{');
        json_text(out, "type", type);
        json_count(out, "a_bytes", files->sections[i].a_bytes);
        json_count(out, "b_bytes", files->sections[i].b_bytes);
        json_text(out, "differs", what_differs(files->sections[i].what));
        json_end(out, '}');
    }
    json_end(out, ']');
    json_count(out, "same_tensors", files->n_same);
    json_begin_in(out, "tensors", '[');
    for (uint32_t i = 0; i < files->n_tensors; i++) {
        const struct tensor_difference *t = &files->tensors[i];
        json_begin(out, '{');
        json_text(out, "name", t->a.name ? t->a.name : t->b.name);
        json_text(out, "differs", what_differs(t->what));
        json_facts("a", &t->a, out);
        json_facts("b", &t->b, out);
        json_end(out, '}');
    }
    json_end(out, ']');
}

/* Without noise the SNR is infinite: null. */
static void json_gap(const char *key, const struct gap *gap, struct buffer *out)
{
    json_begin_in(out, key, '{');
    json_number(out, "l1", gap_l1(gap));
    json_number(out, "mse", gap_mse(gap));
    json_number(out, "snr_db", noise_db(gap_noise(gap)));
    json_number(out, "cosine", gap_cosine(gap));
    json_count(out, "not_finite", gap->n_not_finite);
    json_end(out, '}');
}

static void json_nodes(const struct diff_report *report, struct buffer *out)
{
    const serverd_graph *graph = &report->a->program->graph;
    json_begin_in(out, "nodes", '[');
    for (uint32_t i = 0; i < report->run->n_nodes; i++) {
        const struct diff_node *node = &report->run->nodes[i];
        json_begin(out, '{');
        json_count(out, "a", node->a);
        json_count(out, "b", node->b);
        json_text(out, "op", op_info(graph->nodes[node->a].op)->name);
        json_text(out, "weights", node_weights(graph, node->a));
        json_count(out, "group", node->group);
        json_gap("whole", &node->whole, out);
        if (node->is_own)
            json_gap("own", &node->own, out);
        json_flag(out, "is_changed", node->is_changed);
        json_flag(out, "is_bad", node->is_bad);
        json_end(out, '}');
    }
    json_end(out, ']');
}

static void json_run(const struct diff_report *report, struct buffer *out)
{
    const struct diff_run *run = report->run;
    json_count(out, "tokens", report->n_tokens);
    json_begin_in(out, "layers", '[');
    for (uint32_t g = 0; g < run->n_groups; g++) {
        char name[24];
        group_name(run, g, name);
        json_begin(out, '{');
        json_text(out, "layer", name);
        json_gap("residual", &run->groups[g].whole, out);
        json_number(out, "own_snr_db", noise_db(run->groups[g].own_noise));
        json_count(out, "nodes_alone", run->groups[g].n_alone);
        json_end(out, '}');
    }
    json_end(out, ']');
    json_nodes(report, out);
    json_begin_in(out, "first_bad", '{');
    if (run->bad_node != UINT32_MAX) {
        const struct diff_node *node = &run->nodes[run->bad_node];
        char name[24];
        group_name(run, node->group, name);
        json_text(out, "layer", name);
        json_count(out, "node", node->a);
        json_text(out, "weights", node_weights(&report->a->program->graph, node->a));
    }
    json_end(out, '}');
    json_begin_in(out, "logits", '{');
    json_count(out, "rows", run->logits.n_rows);
    if (run->logits.n_rows) {
        json_number(out, "kl_mean", run->logits.kl_sum / (double)run->logits.n_rows);
        json_number(out, "kl_max", run->logits.kl_max);
        json_count(out, "same_first_token", run->logits.n_agree);
    }
    json_end(out, '}');
}

void diff_report_json(const struct diff_report *report, struct buffer *out)
{
    json_begin(out, '{');
    json_side("a", report->a, out);
    json_side("b", report->b, out);
    json_files(report->files, out);
    if (report->run)
        json_run(report, out);
    else
        json_text(out, "not_run", report->why);
    json_end(out, '}');
    buffer_append_char(out, '\n');
}
