/* The same facts as JSON. */
#include "tools/inspect/report.h"

#include "tools/inspect/json.h"

#include <string.h>

/* ---- parts ----------------------------------------------------------------------------------- */

static void put_file(const struct subject *subject, struct buffer *out)
{
    const struct sdp_header *header = subject->file.header;
    json_text(out, "path", subject->path);
    json_flag(out, "is_program_file", subject->is_program_file);
    if (!subject->is_program_file)
        return;
    json_begin_in(out, "version", '[');
    json_item_count(out, header->major);
    json_item_count(out, header->minor);
    json_end(out, ']');
    json_count(out, "bytes", header->file_bytes);
    json_hex(out, "program_id", header->program_id, sizeof header->program_id);
    json_hex(out, "file_root", header->file_root, sizeof header->file_root);
    json_hex(out, "source_hash", header->source_hash, sizeof header->source_hash);
    json_hex(out, "options_hash", header->options_hash, sizeof header->options_hash);
    json_bytes(out, "producer", header->producer, strnlen(header->producer, 32));
    json_flag(out, "is_signed", sdp_find(&subject->file, SDP_TYPE('S', 'I', 'G', 'N')) != NULL);
    json_begin_in(out, "features", '[');
    for (unsigned bit = 0; bit < 64; bit++)
        if (header->required >> bit & 1)
            json_item_text(out, sdp_feature_name(bit) ? sdp_feature_name(bit) : "?");
    json_end(out, ']');
}

static void put_model(const struct subject *subject, struct buffer *out)
{
    const struct program_config *c = &subject->program->config;
    const serverd_graph *graph = &subject->program->graph;
    json_begin_in(out, "model", '{');
    json_text(out, "architecture", c->architecture);
    json_text(out, "name", c->name);
    json_text(out, "quantisation", c->quantisation);
    json_count(out, "parameters", c->n_parameters);
    json_count(out, "weight_bytes", c->weight_bytes);
    json_count(out, "layers", c->n_layers);
    json_count(out, "embedding_length", c->n_embd);
    json_count(out, "vocabulary", c->n_vocab);
    json_count(out, "context_length", c->context_length);
    json_flag(out, "is_encoder", c->is_encoder);
    json_count(out, "nodes", graph->n_nodes);
    json_end(out, '}');
}

static void put_targets(const struct subject *subject, struct buffer *out)
{
    json_begin_in(out, "targets", '[');
    for (uint32_t i = 0; i < subject_n_targets(subject); i++) {
        struct target_facts target;
        subject_target(subject, i, &target);
        json_begin(out, '{');
        json_text(out, "name", target.name);
        json_text(out, "delegate", target.delegate);
        json_flag(out, "runs_here", target.runs_here);
        json_text(out, "reason", target.runs_here ? NULL : target.reason);
        json_end(out, '}');
    }
    json_end(out, ']');
}

static void put_sections(const struct subject *subject, struct buffer *out)
{
    json_begin_in(out, "sections", '[');
    for (uint32_t i = 0; subject->is_program_file && i < subject->file.header->n_sections; i++) {
        const struct sdp_section *section = &subject->file.sections[i];
        char type[5];
        sdp_type_name(section->type, type);
        json_begin(out, '{');
        json_text(out, "type", type);
        json_count(out, "version", section->version);
        json_flag(out, "is_required", section->flags & SDP_REQUIRED);
        json_flag(out, "is_identity", section->flags & SDP_IDENTITY);
        json_count(out, "offset", section->offset);
        json_count(out, "bytes", section->stored_bytes);
        json_count(out, "items", section->n_items);
        json_hex(out, "hash", section->hash, sizeof section->hash);
        json_end(out, '}');
    }
    json_end(out, ']');
}

static void put_tensors(const struct subject *subject, struct buffer *out)
{
    json_begin_in(out, "tensors", '[');
    for (uint32_t i = 0; i < subject_n_tensors(subject); i++) {
        struct tensor_facts t;
        char scratch[24];
        subject_tensor(subject, i, false, &t);
        json_begin(out, '{');
        json_text(out, "name", t.name);
        json_text(out, "dtype", dtype_name(t.dtype, scratch));
        json_begin_in(out, "shape", '[');
        for (uint32_t d = 0; d < t.rank; d++)
            json_item_count(out, t.dims[d]);
        json_end(out, ']');
        json_text(out, "layout", t.layouts);
        json_count(out, "bytes", t.bytes);
        json_count(out, "form_bytes", t.form_bytes);
        json_text(out, "alias_of", t.alias_of);
        json_text(out, "source", t.source);
        if (t.has_hash)
            json_hex(out, "hash", t.hash, sizeof t.hash);
        json_end(out, '}');
    }
    json_end(out, ']');
}

static void put_partitions(const struct subject *subject, struct buffer *out)
{
    const struct placement *placement = subject->placement;
    json_begin_in(out, "partitions", '[');
    for (uint32_t p = 0; placement && p < placement->n_partitions; p++) {
        const serverd_partition *view = &placement->partitions[p].view;
        const struct placement_device *device =
            &placement->devices[placement->partitions[p].device];
        struct partition_cost cost;
        partition_cost(subject, p, &cost);
        json_begin(out, '{');
        json_text(out, "delegate", device->name);
        json_text(out, "device", device->device.name);
        json_count(out, "first_node", view->first_node);
        json_count(out, "nodes", view->n_nodes);
        json_count(out, "weight_bytes", cost.weight_bytes);
        json_begin_in(out, "seconds", '{');
        json_number(out, "1", cost.seconds[0]);
        json_number(out, "16", cost.seconds[1]);
        json_number(out, "512", cost.seconds[2]);
        json_end(out, '}');
        json_end(out, '}');
    }
    json_end(out, ']');
}

static void put_plan(const struct subject *subject, struct buffer *out)
{
    struct buffer text;
    buffer_init(&text, 1 << 24);
    if (subject->placement)
        placement_explain(subject->placement, &text);
    json_text(out, "explain", buffer_str(&text));
    out->is_failed |= text.is_failed;
    buffer_deinit(&text);
    report_stored_plans_json(subject, out);
}

static void put_tokens(const struct subject *subject, struct buffer *out)
{
    const struct vocabulary *v = &subject->program->vocabulary;
    json_begin_in(out, "special_tokens", '{');
#define PUT_ID(name)                                                                               \
    if (v->name >= 0)                                                                              \
        json_count(out, #name, (uint64_t)v->name);
    VOCABULARY_IDS(PUT_ID)
#undef PUT_ID
    json_end(out, '}');
    json_begin_in(out, "tokens", '[');
    for (uint32_t i = 0; i < v->n_tokens; i++) {
        uint32_t n;
        const char *text = vocabulary_text(v, i, &n);
        json_begin(out, '{');
        json_count(out, "id", i);
        json_text(out, "type", token_type_name(vocabulary_type(v, i)));
        json_bytes(out, "text", text, n);
        json_end(out, '}');
    }
    json_end(out, ']');
}

static void put_memory(const struct report_parts *parts, struct buffer *out)
{
    const struct memory_facts *m = parts->memory;
    json_begin_in(out, "memory", '{');
    if (!m) {
        json_text(out, "error", parts->why);
        json_end(out, '}');
        return;
    }
    json_count(out, "context", m->context);
    json_count(out, "sequences", m->seqs);
    json_flag(out, "holds_all_contexts", m->is_whole);
    json_count(out, "mapped", m->mapped);
    json_count(out, "packed", m->packed);
    json_count(out, "activations", m->activation);
    json_count(out, "activations_naive", m->unshared);
    json_count(out, "scratch", m->scratch);
    json_count(out, "kv", m->kv);
    json_count(out, "engine", m->engine);
    json_count(out, "process", m->process);
    json_count(out, "peak", m->peak);
    json_end(out, '}');
}

void report_json(const struct subject *subject, const struct report_parts *parts,
                 struct buffer *out)
{
    json_begin(out, '{');
    put_file(subject, out);
    put_model(subject, out);
    put_targets(subject, out);
    report_facts_json(subject, out);
    report_tests_json(subject, out);
    put_sections(subject, out);
    if (parts->has_tensors)
        put_tensors(subject, out);
    put_partitions(subject, out);
    if (parts->has_plan)
        put_plan(subject, out);
    if (parts->has_tokens)
        put_tokens(subject, out);
    put_memory(parts, out);
    json_end(out, '}');
    buffer_append_char(out, '\n');
}
