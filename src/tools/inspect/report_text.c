/* The text of serverd-inspect: lines of facts, tables with a head in capitals. */
#include "tools/inspect/report.h"

#include "base/numeric.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- the head -------------------------------------------------------------------------------- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static void put_features(const struct sdp_header *header, struct buffer *out)
{
    const char *separator = "";
    for (unsigned bit = 0; bit < 64; bit++) {
        if (!(header->required >> bit & 1))
            continue;
        const char *name = sdp_feature_name(bit); /* known, or the file were not open */
        buffer_printf(out, "%s%s", separator, name ? name : "?");
        separator = ", ";
    }
    if (!*separator)
        buffer_append_char(out, '-');
}

static void put_file(const struct subject *subject, struct buffer *out)
{
    char size[24], id[9], root[9];
    const struct sdp_header *header = subject->file.header;
    buffer_append_str(out, base_name(subject->path));
    if (!subject->is_program_file) {
        format_bytes(subject->program->config.weight_bytes, size, sizeof size);
        buffer_printf(out, "  no program file, compiled in memory  weights %s\n", size);
        return;
    }
    format_bytes(header->file_bytes, size, sizeof size);
    format_hex(header->program_id, 4, id);
    format_hex(header->file_root, 4, root);
    bool is_signed = sdp_find(&subject->file, SDP_TYPE('S', 'I', 'G', 'N')) != NULL;
    buffer_printf(out, "  program %u.%u  %s  id %s..  root %s..  %s  features ", header->major,
                  header->minor, size, id, root, is_signed ? "signed" : "unsigned");
    put_features(header, out);
    buffer_append_char(out, '\n');
}

static void put_model(const struct subject *subject, struct buffer *out)
{
    const struct program_config *c = &subject->program->config;
    buffer_printf(out, "model    %s%s%s, %s, %.1f M parameters, %u layers x %u, vocabulary %u, ",
                  c->architecture, c->name[0] ? ", " : "", c->name, c->quantisation,
                  (double)c->n_parameters / 1e6, c->n_layers, c->n_embd, c->n_vocab);
    buffer_printf(out, "context %u%s\n", c->context_length, c->is_encoder ? ", encoder" : "");
}

static void put_targets(const struct subject *subject, struct buffer *out)
{
    uint32_t n = subject_n_targets(subject);
    bool is_any = false;
    if (n > 0)
        buffer_append_str(out, "targets ");
    for (uint32_t i = 0; i < n; i++) {
        struct target_facts target;
        subject_target(subject, i, &target);
        buffer_printf(out, " %s%s", target.name, target.runs_here ? "*" : "");
        if (!target.runs_here)
            buffer_printf(out, " (%s)", target.reason);
        is_any |= target.runs_here;
    }
    if (n > 0)
        buffer_append_str(out, is_any ? "   * runs here\n" : "\n");
}

/* ---- tables ---------------------------------------------------------------------------------- */

static void put_sections(const struct subject *subject, struct buffer *out)
{
    const struct sdp_header *header = subject->file.header;
    if (!subject->is_program_file)
        return;
    buffer_append_str(out, "\nSECTION        off         size  items      hash\n");
    for (uint32_t i = 0; i < header->n_sections; i++) {
        const struct sdp_section *section = &subject->file.sections[i];
        char type[5], hash[17];
        sdp_type_name(section->type, type);
        format_hex(section->hash, 8, hash);
        buffer_printf(out, "%-4s %13" PRIu64 " %12" PRIu64 " %6" PRIu64 "  %s..\n", type,
                      section->offset, section->stored_bytes, section->n_items, hash);
    }
}

static void put_tensors(const struct subject *subject, struct buffer *out)
{
    buffer_append_str(out, "\nTENSOR                          dtype     shape            layout"
                           "        bytes   bits  source\n");
    for (uint32_t i = 0; i < subject_n_tensors(subject); i++) {
        struct tensor_facts t;
        char dims[96], scratch[24];
        double elements = 1;
        subject_tensor(subject, i, false, &t);
        for (uint32_t d = 0; d < t.rank; d++)
            elements *= (double)t.dims[d];
        format_dims(t.dims, t.rank, dims, sizeof dims);
        buffer_printf(out, "%-31s %-9s %-16s %-6s %12" PRIu64 " %6.2f  ", t.name,
                      dtype_name(t.dtype, scratch), dims, t.alias_of ? "-" : t.layouts, t.bytes,
                      (double)t.bytes * 8 / elements);
        if (t.alias_of)
            buffer_printf(out, "alias of %s", t.alias_of);
        else
            buffer_append_str(out, t.source ? t.source : "-");
        buffer_append_char(out, '\n');
    }
}

static void put_seconds(double seconds, struct buffer *out)
{
    if (seconds <= 0)
        buffer_append_str(out, "     ?    ");
    else if (seconds >= 1)
        buffer_printf(out, " %7.2f s ", seconds);
    else if (seconds >= 1e-3)
        buffer_printf(out, " %7.2f ms", seconds * 1e3);
    else
        buffer_printf(out, " %7.1f us", seconds * 1e6);
}

static void put_partitions(const struct subject *subject, struct buffer *out)
{
    const struct placement *placement = subject->placement;
    if (!placement)
        return;
    buffer_append_str(out, "\nPARTITION  delegate         nodes          layers       weights"
                           "     1 row     16 rows    512 rows\n");
    for (uint32_t p = 0; p < placement->n_partitions; p++) {
        const serverd_partition *view = &placement->partitions[p].view;
        const struct placement_device *device =
            &placement->devices[placement->partitions[p].device];
        char layers[32], nodes[32], weights[24];
        struct partition_cost cost;
        partition_layers(placement, p, layers, sizeof layers);
        partition_cost(subject, p, &cost);
        format_bytes(cost.weight_bytes, weights, sizeof weights);
        (void)snprintf(nodes, sizeof nodes, "%u-%u", view->first_node,
                       view->first_node + view->n_nodes - 1);
        buffer_printf(out, "%9u  %-15s  %-13s  %-11s %8s ", p, device->name, nodes, layers,
                      weights);
        for (int t = 0; t < 3; t++)
            put_seconds(cost.seconds[t], out);
        buffer_append_char(out, '\n');
    }
}

static void put_plan(const struct subject *subject, const struct report_parts *parts,
                     struct buffer *out)
{
    const struct memory_facts *m = parts->memory;
    buffer_append_str(out, "\nWHY\n");
    if (subject->placement)
        placement_explain(subject->placement, out);
    report_stored_plans_text(subject, out);
    if (!m)
        return;
    buffer_append_str(out, "\nARENA            planned        naive\n");
    buffer_printf(out, "activations %12" PRIu64 " %12" PRIu64 "  1/%.1f\n", m->activation,
                  m->unshared, m->activation ? (double)m->unshared / (double)m->activation : 0.0);
    buffer_printf(out, "scratch     %12" PRIu64 "            -\n", m->scratch);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static void put_special(const char *name, int32_t id, struct buffer *out)
{
    if (id >= 0)
        buffer_printf(out, " %s %d", name, id);
}

static void put_tokens(const struct subject *subject, struct buffer *out)
{
    static const char *const kinds[] = {"none", "BPE", "BPE on UTF-8", "SentencePiece",
                                        "WordPiece"};
    const struct vocabulary *v = &subject->program->vocabulary;
    uint32_t kind = (uint32_t)v->kind;
    buffer_printf(out, "\nTOKENS   %u, %s%s%s\nspecial ", v->n_tokens,
                  kind < sizeof kinds / sizeof *kinds ? kinds[kind] : "?", v->pre[0] ? ", " : "",
                  v->pre);
#define PUT_ID(name) put_special(#name, v->name, out);
    VOCABULARY_IDS(PUT_ID)
#undef PUT_ID
    buffer_append_str(out, "\n     id  type          text\n");
    for (uint32_t i = 0; i < v->n_tokens; i++) {
        uint32_t n;
        const char *text = vocabulary_text(v, i, &n);
        buffer_printf(out, "%7u  %-12s  \"", i, token_type_name(vocabulary_type(v, i)));
        buffer_append_json(out, text, n);
        buffer_append_str(out, "\"\n");
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void put_memory(const struct report_parts *parts, struct buffer *out)
{
    const struct memory_facts *m = parts->memory;
    char weights[24], packed[24], arenas[24], kv[24], rest[24], peak[24];
    buffer_append_str(out, "\nmemory   ");
    if (!m) {
        buffer_printf(out, "not known: %s\n", parts->why);
        return;
    }
    format_bytes(m->mapped, weights, sizeof weights);
    format_bytes(m->packed, packed, sizeof packed);
    format_bytes(m->activation + m->scratch, arenas, sizeof arenas);
    format_bytes(m->kv, kv, sizeof kv);
    format_bytes(m->engine + m->process, rest, sizeof rest);
    format_bytes(m->peak, peak, sizeof peak);
    buffer_printf(out, "%u x %u seqs: weights %s mapped", m->context, m->seqs, weights);
    if (m->packed)
        buffer_printf(out, " and %s packed", packed);
    buffer_printf(out, ", arenas %s, KV %s %s%s, daemon %s, peak %s\n", arenas, parts->kv_dtype, kv,
                  m->is_whole ? "" : " (less than all contexts)", rest, peak);
}

void report_text(const struct subject *subject, const struct report_parts *parts,
                 struct buffer *out)
{
    put_file(subject, out);
    put_model(subject, out);
    put_targets(subject, out);
    report_facts_text(subject, out);
    report_tests_text(subject, out);
    put_sections(subject, out);
    if (parts->has_tensors)
        put_tensors(subject, out);
    put_partitions(subject, out);
    if (parts->has_plan)
        put_plan(subject, parts, out);
    if (parts->has_tokens)
        put_tokens(subject, out);
    put_memory(parts, out);
}
