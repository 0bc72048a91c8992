#include "compiler/sdp_tables.h"

#include "base/limits.h"
#include "base/numeric.h"
#include "program/dtype.h"
#include "program/op.h"

#include <stdio.h>
#include <string.h>

/* ---- strings --------------------------------------------------------------------------------- */

void string_table_init(struct string_table *table)
{
    buffer_init(&table->bytes, UINT32_MAX);
    buffer_append_char(&table->bytes, '\0');
}

void string_table_deinit(struct string_table *table)
{
    buffer_deinit(&table->bytes);
}

uint32_t string_table_add(struct string_table *table, const char *text)
{
    uint32_t offset = (uint32_t)table->bytes.len;
    buffer_append(&table->bytes, text, strlen(text) + 1);
    return offset;
}

/* ---- CONF ------------------------------------------------------------------------------------ */

void sdp_put_config(const struct program *program, struct buffer *out)
{
    const struct program_config *config = &program->config;
    struct sdp_config record = {.n_layers = config->n_layers,
                                .n_embd = config->n_embd,
                                .n_vocab = config->n_vocab,
                                .context_length = config->context_length,
                                .is_encoder = config->is_encoder,
                                .pooling = config->pooling,
                                .n_scores = config->n_scores,
                                .page_tokens = SERVERD_PAGE_TOKENS,
                                .n_kv_layers = program->kv.n_layers,
                                .n_parameters = config->n_parameters,
                                .weight_bytes = config->weight_bytes};
    memcpy(record.architecture, config->architecture,
           strnlen(config->architecture, sizeof record.architecture - 1));
    memcpy(record.name, config->name, strnlen(config->name, sizeof record.name - 1));
    memcpy(record.quantisation, config->quantisation,
           strnlen(config->quantisation, sizeof record.quantisation - 1));
    buffer_append(out, &record, sizeof record);
    for (uint32_t i = 0; i < program->kv.n_layers; i++) {
        const serverd_kv_layer *layer = &program->kv.layers[i];
        struct sdp_kv_layer kv = {.n_kv_heads = layer->n_kv_heads,
                                  .k_dim = layer->k_dim,
                                  .v_dim = layer->v_dim,
                                  .window = layer->window};
        buffer_append(out, &kv, sizeof kv);
    }
}

/* ---- TENS, FORM ------------------------------------------------------------------------------ */

void sdp_put_tensors(const struct program *program, struct string_table *strings,
                     const uint8_t (*hash)[32], struct buffer *out)
{
    for (uint32_t i = 0; i < program->graph.n_tensors; i++) {
        const serverd_tensor *tensor = &program->graph.tensors[i];
        struct sdp_tensor record = {.name = string_table_add(strings, tensor->name),
                                    .flags = tensor->flags & SERVERD_TENSOR_OF_LINEAR,
                                    .dtype = (uint16_t)tensor->dtype,
                                    .rank = (uint8_t)tensor->rank,
                                    .bytes = tensor->bytes,
                                    .alias_of = SDP_NO_TENSOR};
        memcpy(record.dims, tensor->dims, tensor->rank * sizeof *record.dims);
        memcpy(record.hash, hash[i], sizeof record.hash);
        buffer_append(out, &record, sizeof record);
    }
}

static void put_form(const struct program *program, const struct segment *segment, uint32_t section,
                     const struct segment_form *form, struct buffer *out)
{
    const serverd_tensor *tensor = &program->graph.tensors[form->tensor];
    uint64_t n_rows = tensor->rank > 1 ? tensor->dims[0] : 1;
    uint64_t k = tensor->dims[tensor->rank - 1];
    struct sdp_form record = {.tensor = form->tensor,
                              .layout = (uint16_t)form->form.layout,
                              .layout_version = (uint16_t)(form->form.layout >> 16),
                              .section = section,
                              .n_shards = 1,
                              .offset = segment->file_offset + form->offset,
                              .bytes = form->form.bytes,
                              .checksum = form->checksum,
                              .n_rows = (uint32_t)n_rows,
                              .padded_rows = (uint32_t)n_rows,
                              .padded_k = (uint32_t)k};
    buffer_append(out, &record, sizeof record);
}

/* Of the forms that are next in each segment, the first by tensor and layout; n: none is left. */
static uint32_t next_form(const struct segment *segments, uint32_t n, const uint32_t *at)
{
    uint32_t first = n;
    for (uint32_t s = 0; s < n; s++) {
        if (at[s] == segments[s].n_forms)
            continue;
        const struct segment_form *form = &segments[s].forms[at[s]],
                                  *known = first < n ? &segments[first].forms[at[first]] : form;
        if (first == n || form->tensor < known->tensor ||
            (form->tensor == known->tensor && form->form.layout < known->form.layout))
            first = s;
    }
    return first;
}

uint32_t sdp_put_forms(const struct program *program, const struct segment *segments,
                       uint32_t n_segments, struct buffer *out)
{
    uint32_t at[SDP_MAX_SEGMENTS] = {0}, n_forms = 0;
    for (uint32_t s; (s = next_form(segments, n_segments, at)) < n_segments; n_forms++)
        put_form(program, &segments[s], s, &segments[s].forms[at[s]++], out);
    return n_forms;
}

/* ---- GRPH ------------------------------------------------------------------------------------ */

void sdp_put_graph(const struct program *program, struct buffer *out)
{
    const serverd_graph *graph = &program->graph;
    struct sdp_graph head = {.n_values = graph->n_values,
                             .n_nodes = graph->n_nodes,
                             .n_operands = graph->n_operands,
                             .output = graph->output};
    for (uint32_t i = 0; i < graph->n_nodes; i++)
        head.attribute_bytes += op_info(graph->nodes[i].op)->attribute_bytes;
    buffer_append(out, &head, sizeof head);
    for (uint32_t i = 0; i < graph->n_values; i++) {
        const serverd_value *value = &graph->values[i];
        bool is_constant = value->kind == SERVERD_VALUE_CONSTANT;
        struct sdp_value record = {.kind = (uint8_t)value->kind,
                                   .rank = (uint8_t)value->rank,
                                   .tensor = is_constant ? value->tensor : 0,
                                   .producer = value->producer};
        memcpy(record.dims, value->dims, value->rank * sizeof *record.dims);
        buffer_append(out, &record, sizeof record);
    }
    uint32_t first_attribute = 0;
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        const serverd_node *node = &graph->nodes[i];
        struct sdp_node record = {.op = node->op,
                                  .op_version = node->op_version,
                                  .first_operand = node->first_operand,
                                  .n_inputs = node->n_inputs,
                                  .n_outputs = node->n_outputs,
                                  .first_attribute = first_attribute,
                                  .attribute_bytes = op_info(node->op)->attribute_bytes,
                                  .layer = node->layer};
        first_attribute += record.attribute_bytes;
        buffer_append(out, &record, sizeof record);
    }
    buffer_append(out, graph->operands, graph->n_operands * sizeof *graph->operands);
    for (uint32_t i = 0; i < graph->n_nodes; i++)
        buffer_append(out, &graph->nodes[i].attributes,
                      op_info(graph->nodes[i].op)->attribute_bytes);
}

/* ---- CHAT ------------------------------------------------------------------------------------ */

void sdp_put_chat(const struct program *program, struct buffer *out)
{
    const struct program_sampling *s = &program->sampling;
    struct sdp_chat chat = {
        .n_templates = program->n_templates,
        .flags = (s->has_temperature ? SDP_HAS_TEMPERATURE : 0u) |
                 (s->has_top_k ? SDP_HAS_TOP_K : 0u) | (s->has_top_p ? SDP_HAS_TOP_P : 0u) |
                 (s->has_min_p ? SDP_HAS_MIN_P : 0u) |
                 (s->has_repetition_penalty ? SDP_HAS_REPETITION_PENALTY : 0u),
        .temperature = s->temperature,
        .top_p = s->top_p,
        .min_p = s->min_p,
        .repetition_penalty = s->repetition_penalty,
        .top_k = s->top_k,
    };
    buffer_append(out, &chat, sizeof chat);
    size_t at = sizeof chat + program->n_templates * sizeof(struct sdp_template);
    for (uint32_t i = 0; i < program->n_templates; i++) {
        const struct program_template *template = &program->templates[i];
        uint32_t name_bytes = (uint32_t)strlen(template->name);
        struct sdp_template record = {.name = (uint32_t)at,
                                      .name_bytes = name_bytes,
                                      .source = (uint32_t)at + name_bytes + 1,
                                      .source_bytes = template->len};
        buffer_append(out, &record, sizeof record);
        at += (size_t)name_bytes + 1 + template->len + 1;
    }
    for (uint32_t i = 0; i < program->n_templates; i++) {
        const struct program_template *template = &program->templates[i];
        buffer_append(out, template->name, strlen(template->name) + 1);
        buffer_append(out, template->source, template->len);
        buffer_append_char(out, '\0');
    }
}

/* ---- features -------------------------------------------------------------------------------- */

static bool is_codebook(serverd_dtype dtype)
{
    return (dtype >= DTYPE_IQ2_XXS && dtype <= DTYPE_IQ4_XS) || dtype == DTYPE_IQ1_M;
}

uint64_t sdp_required_features(const struct program *program)
{
    uint64_t features = program->config.is_encoder ? SDP_NEEDS_ENCODER : 0;
    for (uint32_t i = 0; i < program->kv.n_layers; i++)
        if (program->kv.layers[i].window > 0)
            features |= SDP_NEEDS_WINDOWS;
    for (uint32_t i = 0; i < program->graph.n_tensors; i++) {
        serverd_dtype dtype = program->graph.tensors[i].dtype;
        if (is_codebook(dtype))
            features |= SDP_NEEDS_CODEBOOKS;
        if (dtype == DTYPE_MXFP4 || dtype == DTYPE_NVFP4 ||
            (dtype_is_own(dtype) && dtype_format_of(dtype) == FORMAT_F8))
            features |= SDP_NEEDS_FP8;
    }
    for (uint32_t i = 0; i < program->graph.n_nodes; i++)
        if (op_is_collective(program->graph.nodes[i].op))
            features |= SDP_NEEDS_TENSOR_SHARDS;
    return features;
}
