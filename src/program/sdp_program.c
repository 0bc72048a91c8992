#include "program/sdp_program.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/op.h"
#include "program/sdp_file.h"
#include "program/sdp_plan.h"
#include "program/tokenizer_image.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Graph, names and templates of the largest models are far below it. */
#define PROGRAM_BYTES (256 * MIB)

/* What is being read. Everything made lies in the program's arena. */
struct loading {
    const struct sdp_file *file;
    struct program *program;
    const char *strings;
    uint64_t string_bytes;
    uint32_t n_tensors;      /* records of TENS */
    serverd_tensor *tensors; /* the graph's */
    uint32_t *tensor_at;     /* [n_tensors] index in the graph; an alias has that of its tensor */
};

/* ---- sections as arrays ---------------------------------------------------------------------- */

/* The section's records; a section that is not there has none. */
static serverd_status records(const struct loading *loading, uint32_t type, size_t record_bytes,
                              const void **out, uint32_t *n, serverd_error *err)
{
    const struct sdp_section *section = sdp_find(loading->file, type);
    char name[5];
    sdp_type_name(type, name);
    *out = NULL;
    *n = 0;
    if (!section)
        return SERVERD_OK;
    if (section->stored_bytes % record_bytes != 0 ||
        section->stored_bytes / record_bytes > LIMIT_GRAPH_ITEMS ||
        section->n_items != section->stored_bytes / record_bytes)
        return fail(err, SERVERD_CORRUPT,
                    "%s.n_items: %" PRIu64 " of %zu bytes in %" PRIu64 " bytes", name,
                    section->n_items, record_bytes, section->stored_bytes);
    *out = sdp_bytes(loading->file, section);
    *n = (uint32_t)section->n_items;
    return SERVERD_OK;
}

static bool is_zero(const void *bytes, size_t n)
{
    const char *p = bytes;
    for (size_t i = 0; i < n; i++)
        if (p[i] != 0)
            return false;
    return true;
}

static serverd_status no_memory(serverd_error *err)
{
    return fail(err, SERVERD_NOMEM, "no memory for a program");
}

static serverd_status load_strings(struct loading *loading, serverd_error *err)
{
    const struct sdp_section *section = sdp_find(loading->file, SDP_STRS);
    loading->strings = sdp_bytes(loading->file, section);
    loading->string_bytes = section->stored_bytes;
    if (section->stored_bytes == 0 || loading->strings[section->stored_bytes - 1] != '\0')
        return fail(err, SERVERD_CORRUPT, "STRS: its last string does not end");
    return SERVERD_OK;
}

/* The string lies in the section and ends there: its last byte is a NUL. NULL: it does not. */
static const char *string_at(const struct loading *loading, uint32_t offset)
{
    return offset < loading->string_bytes ? loading->strings + offset : NULL;
}

/* ---- CONF ------------------------------------------------------------------------------------ */

static serverd_status load_kv_layers(struct loading *loading, const struct sdp_config *config,
                                     serverd_error *err)
{
    const struct sdp_kv_layer *from = (const void *)(config + 1);
    serverd_kv_layer *layers =
        arena_array(loading->program->arena, max_size(config->n_kv_layers, 1), sizeof *layers);
    if (!layers)
        return no_memory(err);
    for (uint32_t i = 0; i < config->n_kv_layers; i++) {
        if (!is_zero(from[i].reserved, sizeof from[i].reserved))
            return fail(err, SERVERD_CORRUPT, "CONF.kv_layer[%u].reserved: it is not 0", i);
        layers[i] =
            (serverd_kv_layer){from[i].n_kv_heads, from[i].k_dim, from[i].v_dim, from[i].window};
    }
    loading->program->kv.layers = layers;
    loading->program->kv.n_layers = config->n_kv_layers;
    return SERVERD_OK;
}

static serverd_status load_config(struct loading *loading, serverd_error *err)
{
    const struct sdp_section *section = sdp_find(loading->file, SDP_CONF);
    const struct sdp_config *from = sdp_bytes(loading->file, section);
    struct program_config *config = &loading->program->config;
    if (section->stored_bytes < sizeof *from || from->n_kv_layers > LIMIT_LAYERS ||
        section->stored_bytes != sizeof *from + from->n_kv_layers * sizeof(struct sdp_kv_layer))
        return fail(err, SERVERD_CORRUPT, "CONF: %" PRIu64 " bytes", section->stored_bytes);
    if (from->architecture[sizeof from->architecture - 1] || from->name[sizeof from->name - 1] ||
        from->quantisation[sizeof from->quantisation - 1])
        return fail(err, SERVERD_CORRUPT, "CONF: a text does not end");
    if (from->page_tokens != SERVERD_PAGE_TOKENS)
        return fail(err, SERVERD_VERSION, "CONF.page_tokens: %u, this build has %u",
                    from->page_tokens, SERVERD_PAGE_TOKENS);
    if (from->is_encoder > 1 || !is_zero(from->reserved, sizeof from->reserved))
        return fail(err, SERVERD_CORRUPT, "CONF: is_encoder is %u, or reserved bytes are not 0",
                    from->is_encoder);
    *config = (struct program_config){.n_layers = from->n_layers,
                                      .n_embd = from->n_embd,
                                      .n_vocab = from->n_vocab,
                                      .context_length = from->context_length,
                                      .is_encoder = from->is_encoder,
                                      .pooling = from->pooling,
                                      .n_scores = from->n_scores,
                                      .n_parameters = from->n_parameters,
                                      .weight_bytes = from->weight_bytes};
    memcpy(config->architecture, from->architecture, sizeof config->architecture);
    memcpy(config->name, from->name, sizeof config->name);
    memcpy(config->quantisation, from->quantisation, sizeof config->quantisation);
    return load_kv_layers(loading, from, err);
}

/* ---- TENS, FORM ------------------------------------------------------------------------------ */

static serverd_status load_tensor(struct loading *loading, const struct sdp_tensor *from,
                                  serverd_tensor *to, serverd_error *err)
{
    const char *name = string_at(loading, from->name);
    if (!name)
        return fail(err, SERVERD_CORRUPT, "name: offset %u of %" PRIu64 " bytes", from->name,
                    loading->string_bytes);
    if (from->flags & ~(uint32_t)SERVERD_TENSOR_OF_LINEAR)
        return fail(err, SERVERD_VERSION, "flags: %#x is not known here", from->flags);
    if (from->rank == 0 || from->rank > SERVERD_MAX_DIMS)
        return fail(err, SERVERD_CORRUPT, "rank: %u, 1..%u are allowed", from->rank,
                    SERVERD_MAX_DIMS);
    if (!is_zero(from->reserved, sizeof from->reserved))
        return fail(err, SERVERD_CORRUPT, "reserved: it is not 0");
    *to = (serverd_tensor){.struct_bytes = sizeof *to,
                           .dtype = from->dtype,
                           .name = name,
                           .rank = from->rank,
                           .flags = SERVERD_TENSOR_PACKED, /* and what the graph says */
                           .bytes = from->bytes};
    memcpy(to->dims, from->dims, sizeof to->dims);
    return SERVERD_OK;
}

/* An alias has no bytes of its own. */
static serverd_status load_alias(struct loading *loading, const struct sdp_tensor *tensors,
                                 uint32_t index, serverd_error *err)
{
    const struct sdp_tensor *alias = &tensors[index], *of = &tensors[alias->alias_of];
    if (alias->alias_of >= index || of->alias_of != SDP_NO_TENSOR || of->dtype != alias->dtype ||
        of->rank != alias->rank || memcmp(of->dims, alias->dims, sizeof of->dims) != 0)
        return fail(err, SERVERD_CORRUPT, "alias_of: %u is no tensor before it of its shape",
                    alias->alias_of);
    loading->tensor_at[index] = loading->tensor_at[alias->alias_of];
    return SERVERD_OK;
}

static serverd_status load_tensors(struct loading *loading, serverd_error *err)
{
    struct program *program = loading->program;
    const void *bytes;
    serverd_status status =
        records(loading, SDP_TENS, sizeof(struct sdp_tensor), &bytes, &loading->n_tensors, err);
    if (status != SERVERD_OK)
        return status;
    const struct sdp_tensor *from = bytes;
    uint32_t n = 0;
    serverd_tensor *tensors =
        arena_array(program->arena, max_size(loading->n_tensors, 1), sizeof *tensors);
    loading->tensor_at =
        arena_array(program->arena, max_size(loading->n_tensors, 1), sizeof *loading->tensor_at);
    if (!tensors || !loading->tensor_at)
        return no_memory(err);
    for (uint32_t i = 0; i < loading->n_tensors; i++) {
        if (from[i].alias_of != SDP_NO_TENSOR) {
            status = load_alias(loading, from, i, err);
        } else {
            loading->tensor_at[i] = n;
            status = load_tensor(loading, &from[i], &tensors[n++], err);
        }
        if (status != SERVERD_OK)
            return error_context(err, "TENS[%u]", i);
    }
    program->graph.tensors = loading->tensors = tensors;
    program->graph.n_tensors = n;
    return SERVERD_OK;
}

/* The form lies in a WGHT section, on 64 bytes. */
static serverd_status check_form(const struct loading *loading, const struct sdp_form *form,
                                 serverd_error *err)
{
    const struct sdp_file *file = loading->file;
    if (form->tensor >= loading->n_tensors)
        return fail(err, SERVERD_CORRUPT, "tensor: %u of %u", form->tensor, loading->n_tensors);
    if (form->section >= file->header->n_sections || file->sections[form->section].type != SDP_WGHT)
        return fail(err, SERVERD_CORRUPT, "section: %u is no WGHT", form->section);
    if (form->n_shards != 1 || form->shard != 0 || form->first_row != 0)
        return fail(err, SERVERD_VERSION, "n_shards: a form in parts is not known here");
    const struct sdp_section *section = &file->sections[form->section];
    if (form->offset % 64 != 0 || form->offset < section->offset ||
        form->offset - section->offset > section->stored_bytes ||
        form->bytes > section->stored_bytes - (form->offset - section->offset))
        return fail(err, SERVERD_CORRUPT,
                    "offset: %" PRIu64 " with %" PRIu64
                    " bytes is not inside its section, or not on 64",
                    form->offset, form->bytes);
    return SERVERD_OK;
}

static serverd_status add_form(struct loading *loading, const struct sdp_form *from,
                               struct program_form *to, serverd_error *err)
{
    struct program *program = loading->program;
    serverd_status status = check_form(loading, from, err);
    if (status != SERVERD_OK)
        return status;
    *to = (struct program_form){
        .tensor = loading->tensor_at[from->tensor],
        .layout = from->layout | (uint32_t)from->layout_version << 16,
        .data = (const char *)loading->file->mapping.data + from->offset,
        .bytes = from->bytes,
    };
    serverd_tensor *tensor = (serverd_tensor *)&program->graph.tensors[to->tensor];
    if (to->layout != SERVERD_LAYOUT_ROWS)
        return SERVERD_OK;
    if (to->bytes != tensor->bytes)
        return fail(err, SERVERD_CORRUPT, "bytes: %" PRIu64 ", the tensor has %" PRIu64, to->bytes,
                    tensor->bytes);
    tensor->data = to->data;
    tensor->flags &= ~(uint32_t)SERVERD_TENSOR_PACKED;
    return SERVERD_OK;
}

static serverd_status load_forms(struct loading *loading, serverd_error *err)
{
    const void *bytes;
    uint32_t n;
    serverd_status status = records(loading, SDP_FORM, sizeof(struct sdp_form), &bytes, &n, err);
    if (status != SERVERD_OK)
        return status;
    const struct sdp_form *from = bytes;
    struct program_form *forms =
        arena_array(loading->program->arena, max_size(n, 1), sizeof *forms);
    if (!forms)
        return no_memory(err);
    for (uint32_t i = 0; i < n; i++) {
        if ((status = add_form(loading, &from[i], &forms[i], err)) != SERVERD_OK)
            return error_context(err, "FORM[%u]", i);
        const struct program_form *last = &forms[i > 0 ? i - 1 : 0];
        if (i > 0 && (forms[i].tensor < last->tensor ||
                      (forms[i].tensor == last->tensor && forms[i].layout <= last->layout)))
            return fail(err, SERVERD_CORRUPT, "FORM[%u]: it does not stand in order", i);
    }
    loading->program->forms = forms;
    loading->program->n_forms = n;
    return SERVERD_OK;
}

/* ---- GRPH ------------------------------------------------------------------------------------ */

/* The parts of the section, one behind the other. */
struct graph_parts {
    const struct sdp_graph *head;
    const struct sdp_value *values;
    const struct sdp_node *nodes;
    const uint32_t *operands;
    const char *attributes;
};

static serverd_status find_parts(const struct loading *loading, struct graph_parts *out,
                                 serverd_error *err)
{
    const struct sdp_section *section = sdp_find(loading->file, SDP_GRPH);
    const struct sdp_graph *head = sdp_bytes(loading->file, section);
    if (section->stored_bytes < sizeof *head)
        return fail(err, SERVERD_CORRUPT, "GRPH: %" PRIu64 " bytes", section->stored_bytes);
    if (head->n_values > LIMIT_GRAPH_ITEMS || head->n_nodes > LIMIT_GRAPH_ITEMS ||
        head->n_operands > LIMIT_GRAPH_ITEMS ||
        head->attribute_bytes > LIMIT_GRAPH_ITEMS * sizeof(serverd_attributes))
        return fail(err, SERVERD_CORRUPT, "GRPH: more than %u parts of a kind", LIMIT_GRAPH_ITEMS);
    out->head = head;
    out->values = (const void *)(head + 1);
    out->nodes = (const void *)(out->values + head->n_values);
    out->operands = (const void *)(out->nodes + head->n_nodes);
    out->attributes = (const char *)(out->operands + head->n_operands);
    uint64_t bytes = sizeof *head + head->n_values * sizeof *out->values +
                     head->n_nodes * sizeof *out->nodes + head->n_operands * sizeof *out->operands +
                     head->attribute_bytes;
    if (bytes != section->stored_bytes)
        return fail(err, SERVERD_CORRUPT, "GRPH: %" PRIu64 " bytes, its parts have %" PRIu64,
                    section->stored_bytes, bytes);
    return SERVERD_OK;
}

static serverd_status load_value(const struct loading *loading, const struct sdp_value *from,
                                 serverd_value *to, serverd_error *err)
{
    bool is_constant = from->kind == SERVERD_VALUE_CONSTANT;
    if (from->rank == 0 || from->rank > SERVERD_MAX_DIMS)
        return fail(err, SERVERD_CORRUPT, "rank: %u", from->rank);
    if (is_constant && from->tensor >= loading->n_tensors)
        return fail(err, SERVERD_CORRUPT, "tensor: %u of %u", from->tensor, loading->n_tensors);
    if (from->dtype != 0 || from->flags != 0)
        return fail(err, SERVERD_VERSION, "dtype %u and flags %u are not known here", from->dtype,
                    from->flags);
    *to = (serverd_value){.kind = from->kind,
                          .rank = from->rank,
                          .tensor = is_constant ? loading->tensor_at[from->tensor] : 0,
                          .producer = from->producer};
    memcpy(to->dims, from->dims, sizeof to->dims);
    return SERVERD_OK;
}

static serverd_status load_node(const struct graph_parts *parts, const struct sdp_node *from,
                                serverd_node *to, serverd_error *err)
{
    const struct op_info *info = op_info(from->op);
    if (!info || from->op_version != 1)
        return fail(err, SERVERD_VERSION, "op: %u of version %u is not known here", from->op,
                    from->op_version);
    if (from->attribute_bytes != info->attribute_bytes ||
        from->first_attribute > parts->head->attribute_bytes ||
        from->attribute_bytes > parts->head->attribute_bytes - from->first_attribute)
        return fail(err, SERVERD_CORRUPT, "attribute_bytes: %u at %u, %s has %u",
                    from->attribute_bytes, from->first_attribute, info->name,
                    info->attribute_bytes);
    *to = (serverd_node){.op = from->op,
                         .op_version = from->op_version,
                         .n_inputs = from->n_inputs,
                         .n_outputs = from->n_outputs,
                         .first_operand = from->first_operand,
                         .layer = from->layer};
    memcpy(&to->attributes, parts->attributes + from->first_attribute, from->attribute_bytes);
    return SERVERD_OK;
}

static serverd_status load_graph(struct loading *loading, serverd_error *err)
{
    struct arena *arena = loading->program->arena;
    struct graph_parts parts = {0};
    serverd_status status = find_parts(loading, &parts, err);
    if (status != SERVERD_OK)
        return status;
    const struct sdp_graph *head = parts.head;
    serverd_value *values = arena_array(arena, max_size(head->n_values, 1), sizeof *values);
    serverd_node *nodes = arena_array(arena, max_size(head->n_nodes, 1), sizeof *nodes);
    if (!values || !nodes)
        return no_memory(err);
    for (uint32_t i = 0; i < head->n_values; i++)
        if ((status = load_value(loading, &parts.values[i], &values[i], err)) != SERVERD_OK)
            return error_context(err, "GRPH.value[%u]", i);
    for (uint32_t i = 0; i < head->n_nodes; i++)
        if ((status = load_node(&parts, &parts.nodes[i], &nodes[i], err)) != SERVERD_OK)
            return error_context(err, "GRPH.node[%u]", i);
    serverd_graph *graph = &loading->program->graph;
    graph->values = values;
    graph->nodes = nodes;
    graph->operands = parts.operands;
    graph->n_values = head->n_values;
    graph->n_nodes = head->n_nodes;
    graph->n_operands = head->n_operands;
    graph->output = head->output;
    return SERVERD_OK;
}

/* ---- texts ----------------------------------------------------------------------------------- */

/* A text of `section`, which a NUL follows. NULL: it is not there. */
static const char *text_at(const struct sdp_file *file, const struct sdp_section *section,
                           uint32_t offset, uint32_t n)
{
    const char *bytes = sdp_bytes(file, section);
    bool is_inside = offset < section->stored_bytes && n < section->stored_bytes - offset;
    return is_inside && bytes[offset + n] == '\0' ? bytes + offset : NULL;
}

static serverd_status load_templates(struct loading *loading, const struct sdp_section *section,
                                     serverd_error *err)
{
    const struct sdp_chat *chat = sdp_bytes(loading->file, section);
    const struct sdp_template *from = (const void *)(chat + 1);
    struct program_template *templates =
        arena_array(loading->program->arena, max_size(chat->n_templates, 1), sizeof *templates);
    if (!templates)
        return no_memory(err);
    for (uint32_t i = 0; i < chat->n_templates; i++) {
        templates[i].name = text_at(loading->file, section, from[i].name, from[i].name_bytes);
        templates[i].source = text_at(loading->file, section, from[i].source, from[i].source_bytes);
        templates[i].len = from[i].source_bytes;
        if (!templates[i].name || !templates[i].source)
            return fail(err, SERVERD_CORRUPT, "CHAT.template[%u]: it is not inside the section", i);
    }
    loading->program->templates = templates;
    loading->program->n_templates = chat->n_templates;
    return SERVERD_OK;
}

static serverd_status load_chat(struct loading *loading, serverd_error *err)
{
    const struct sdp_section *section = sdp_find(loading->file, SDP_CHAT);
    if (!section)
        return SERVERD_OK;
    const struct sdp_chat *chat = sdp_bytes(loading->file, section);
    if (section->stored_bytes < sizeof *chat ||
        chat->n_templates > (section->stored_bytes - sizeof *chat) / sizeof(struct sdp_template))
        return fail(err, SERVERD_CORRUPT, "CHAT.n_templates: more than its %" PRIu64 " bytes hold",
                    section->stored_bytes);
    loading->program->sampling = (struct program_sampling){
        .has_temperature = chat->flags & SDP_HAS_TEMPERATURE,
        .has_top_k = chat->flags & SDP_HAS_TOP_K,
        .has_top_p = chat->flags & SDP_HAS_TOP_P,
        .has_min_p = chat->flags & SDP_HAS_MIN_P,
        .has_repetition_penalty = chat->flags & SDP_HAS_REPETITION_PENALTY,
        .temperature = chat->temperature,
        .top_p = chat->top_p,
        .min_p = chat->min_p,
        .repetition_penalty = chat->repetition_penalty,
        .top_k = chat->top_k,
    };
    return load_templates(loading, section, err);
}

static serverd_status load_tokenizer(struct loading *loading, serverd_error *err)
{
    const struct sdp_section *section = sdp_find(loading->file, SDP_TOKN);
    if (!section)
        return SERVERD_OK;
    serverd_status status =
        tokenizer_image_open(sdp_bytes(loading->file, section), section->stored_bytes,
                             &loading->program->vocabulary, err);
    return status == SERVERD_OK ? status : error_context(err, "TOKN");
}

/* ---- all ------------------------------------------------------------------------------------- */

/* Of a checked graph. Kernels read a matrix in the form that the flag asks for, so a file's word
 * for it is not taken. */
static void mark_matrices(struct loading *loading)
{
    const serverd_graph *graph = &loading->program->graph;
    for (uint32_t n = 0; n < graph->n_nodes; n++)
        if (graph->nodes[n].op == SERVERD_OP_LINEAR)
            loading->tensors[node_input(graph, &graph->nodes[n], 1)->tensor].flags |=
                SERVERD_TENSOR_OF_LINEAR;
}

static serverd_status load_program(struct loading *loading, serverd_error *err)
{
    serverd_status status = load_strings(loading, err);
    if (status == SERVERD_OK)
        status = load_config(loading, err);
    if (status == SERVERD_OK)
        status = load_tensors(loading, err);
    if (status == SERVERD_OK)
        status = load_forms(loading, err);
    if (status == SERVERD_OK)
        status = load_graph(loading, err);
    if (status == SERVERD_OK)
        status = load_chat(loading, err);
    if (status == SERVERD_OK)
        status = load_tokenizer(loading, err);
    if (status != SERVERD_OK)
        return status;
    memcpy(loading->program->id, loading->file->header->program_id, 32);
    loading->program->has_id = true;
    status = program_check(loading->program, err);
    if (status != SERVERD_OK)
        return status;
    mark_matrices(loading);
    return sdp_plan_load(loading->file, loading->program, err);
}

/* A matrix without rows must be there in some other layout. */
static serverd_status check_forms(const struct program *program, serverd_error *err)
{
    for (uint32_t i = 0, f = 0; i < program->graph.n_tensors; i++) {
        while (f < program->n_forms && program->forms[f].tensor < i)
            f++;
        if (f == program->n_forms || program->forms[f].tensor != i)
            return fail(err, SERVERD_CORRUPT, "FORM: tensor %s has none",
                        program->graph.tensors[i].name);
    }
    return SERVERD_OK;
}

/* Without the gaps between sections, which nobody reads. */
static uint64_t read_bytes(const struct sdp_file *file)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < file->header->n_sections; i++)
        if (file->sections[i].type != SDP_WGHT)
            bytes += file->sections[i].stored_bytes;
    return bytes;
}

serverd_status sdp_open(const char *path, struct program **out, serverd_error *err)
{
    struct sdp_file file;
    serverd_status status = sdp_file_open(path, &file, err);
    if (status != SERVERD_OK)
        return status;
    struct program *program = program_create(PROGRAM_BYTES);
    struct loading loading = {.file = &file, .program = program};
    if (!program || !(program->mappings = arena_array(program->arena, 1, sizeof file.mapping)))
        status = no_memory(err);
    if (status == SERVERD_OK) {
        program->mappings[0] = file.mapping; /* ends with the program */
        program->n_mappings = 1;
        program->read_bytes = read_bytes(&file);
        status = load_program(&loading, err);
    }
    if (status == SERVERD_OK)
        status = check_forms(program, err);
    if (status == SERVERD_OK) {
        *out = program;
        return SERVERD_OK;
    }
    if (!program || program->n_mappings == 0)
        sdp_file_close(&file);
    program_unref(program);
    return error_context(err, "%s: sdp", path);
}
