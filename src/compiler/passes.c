#include "compiler/passes.h"

#include "base/error.h"
#include "base/numeric.h"
#include "program/dtype.h"
#include "program/op.h"

#include <stdlib.h>
#include <string.h>

static serverd_status no_memory(serverd_error *err)
{
    return fail(err, SERVERD_NOMEM, "no memory for a pass over the graph");
}

static void *copy_array(struct arena *arena, const void *items, size_t n, size_t size)
{
    void *copy = arena_array(arena, max_size(n, 1), size);
    if (copy && n > 0)
        memcpy(copy, items, n * size);
    return copy;
}

static uint32_t output_of(const serverd_graph *graph, const serverd_node *node)
{
    return graph->operands[node->first_operand + node->n_inputs];
}

/* ---- fold ------------------------------------------------------------------------------------ */

/* The node that makes a value, if it is of this op; NULL: it is not. */
static const serverd_node *maker(const serverd_graph *graph, uint32_t value, uint32_t op)
{
    const serverd_value *v = &graph->values[value];
    if (v->kind != SERVERD_VALUE_ACTIVATION || graph->nodes[v->producer].op != op)
        return NULL;
    return &graph->nodes[v->producer];
}

static uint32_t count_readers(const serverd_graph *graph, uint32_t value)
{
    uint32_t n = value == graph->output;
    for (uint32_t i = 0; i < graph->n_nodes; i++)
        for (uint32_t j = 0; j < graph->nodes[i].n_inputs; j++)
            n += graph->operands[graph->nodes[i].first_operand + j] == value;
    return n;
}

static const serverd_node *embedding(const serverd_graph *graph, uint32_t value,
                                     serverd_embed_index index)
{
    const serverd_node *node = maker(graph, value, SERVERD_OP_EMBED);
    return node && node->attributes.embed.index == (uint32_t)index &&
                   node->attributes.embed.scale == 1.0f
               ? node
               : NULL;
}

/* positions + the only row of segments, as a new f32 tensor. */
static serverd_status add_row_to_table(struct program *program, const serverd_tensor *table,
                                       const serverd_tensor *segments, serverd_tensor *out,
                                       serverd_error *err)
{
    uint64_t n_rows = table->dims[0], width = table->dims[1];
    const struct dtype_info *info = dtype_info(table->dtype);
    const struct dtype_info *segment_info = dtype_info(segments->dtype);
    uint64_t row_bytes = width / info->block_elements * info->block_bytes;
    float *sums = arena_array(program->arena, n_rows * width, sizeof *sums);
    float *segment = arena_array(program->arena, width, sizeof *segment);
    if (!sums || !segment)
        return no_memory(err);
    segment_info->to_f32(segments->data, segment, width / segment_info->block_elements);
    for (uint64_t row = 0; row < n_rows; row++) {
        info->to_f32((const char *)table->data + row * row_bytes, sums + row * width,
                     width / info->block_elements);
        for (uint64_t i = 0; i < width; i++)
            sums[row * width + i] += segment[i];
    }
    *out = *table;
    out->dtype = DTYPE_F32;
    out->data = sums;
    out->bytes = n_rows * width * sizeof *sums;
    return SERVERD_OK;
}

/* Does every token have the same row of this table? Pairs of texts have two segments. */
static bool has_one_row(const struct program *program, const serverd_node *segment)
{
    uint32_t table = node_input(&program->graph, segment, 0)->tensor;
    return program->config.n_scores == 0 || program->graph.tensors[table].dims[0] == 1;
}

/* An encoder adds the same row to every token: it goes into the table of positions.
 *   add(add(x, embed(segment)), embed(position))  ->  add(x, embed(position + segment)) */
static serverd_status fold(struct program *program, serverd_error *err)
{
    serverd_graph *graph = &program->graph;
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        const serverd_node *outer = &graph->nodes[i];
        if (outer->op != SERVERD_OP_ADD)
            continue;
        const uint32_t *in = &graph->operands[outer->first_operand];
        const serverd_node *inner = maker(graph, in[0], SERVERD_OP_ADD);
        const serverd_node *position = embedding(graph, in[1], SERVERD_INDEX_POSITION);
        if (!inner || !position || count_readers(graph, in[0]) != 1)
            continue;
        const uint32_t *added = &graph->operands[inner->first_operand];
        const serverd_node *segment = embedding(graph, added[1], SERVERD_INDEX_SEGMENT);
        if (!segment || !has_one_row(program, segment))
            continue;
        uint32_t table = node_input(graph, position, 0)->tensor;
        serverd_tensor *tensors =
            copy_array(program->arena, graph->tensors, graph->n_tensors, sizeof *tensors);
        uint32_t *operands =
            copy_array(program->arena, graph->operands, graph->n_operands, sizeof *operands);
        if (!tensors || !operands)
            return no_memory(err);
        serverd_status status = add_row_to_table(
            program, &graph->tensors[table], &graph->tensors[node_input(graph, segment, 0)->tensor],
            &tensors[table], err);
        if (status != SERVERD_OK)
            return status;
        operands[outer->first_operand] = added[0];
        graph->tensors = tensors;
        graph->operands = operands;
    }
    return SERVERD_OK;
}

/* ---- dedup ----------------------------------------------------------------------------------- */

static bool is_same_tensor(const serverd_tensor *a, const serverd_tensor *b)
{
    return a->dtype == b->dtype && a->rank == b->rank && a->bytes == b->bytes && a->data &&
           b->data && memcmp(a->dims, b->dims, a->rank * sizeof *a->dims) == 0 &&
           (a->data == b->data || memcmp(a->data, b->data, a->bytes) == 0);
}

/* A matrix that stands twice in the source, as embedding and as head, is one. */
static serverd_status dedup(struct program *program, serverd_error *err)
{
    serverd_graph *graph = &program->graph;
    struct arena *arena = program->arena;
    serverd_tensor *tensors = copy_array(arena, graph->tensors, graph->n_tensors, sizeof *tensors);
    serverd_value *values = copy_array(arena, graph->values, graph->n_values, sizeof *values);
    uint32_t *same = arena_array(arena, max_size(graph->n_tensors, 1), sizeof *same);
    if (!tensors || !values || !same)
        return no_memory(err);
    for (uint32_t i = 0; i < graph->n_tensors; i++) {
        same[i] = i;
        for (uint32_t j = 0; j < i && same[i] == i; j++)
            if (same[j] == j && is_same_tensor(&tensors[i], &tensors[j]))
                same[i] = j;
        tensors[same[i]].flags |= tensors[i].flags;
    }
    for (uint32_t i = 0; i < graph->n_values; i++)
        if (values[i].kind == SERVERD_VALUE_CONSTANT)
            values[i].tensor = same[values[i].tensor];
    graph->tensors = tensors;
    graph->values = values;
    return SERVERD_OK;
}

/* ---- dce ------------------------------------------------------------------------------------- */

struct renumbering {
    bool *has_node, *has_value, *has_tensor;
    uint32_t *value_at, *tensor_at, *node_at;
};

static bool take_renumbering(struct arena *arena, const serverd_graph *graph,
                             struct renumbering *out)
{
    size_t nodes = max_size(graph->n_nodes, 1), values = max_size(graph->n_values, 1),
           tensors = max_size(graph->n_tensors, 1);
    *out = (struct renumbering){
        .has_node = arena_array(arena, nodes, sizeof(bool)),
        .has_value = arena_array(arena, values, sizeof(bool)),
        .has_tensor = arena_array(arena, tensors, sizeof(bool)),
        .node_at = arena_array(arena, nodes, sizeof(uint32_t)),
        .value_at = arena_array(arena, values, sizeof(uint32_t)),
        .tensor_at = arena_array(arena, tensors, sizeof(uint32_t)),
    };
    return out->has_node && out->has_value && out->has_tensor && out->node_at && out->value_at &&
           out->tensor_at;
}

/* From the result backwards; nodes stand in execution order. Attention writes keys and values. */
static void mark_used(const serverd_graph *graph, struct renumbering *r)
{
    r->has_value[graph->output] = true;
    for (uint32_t i = graph->n_nodes; i-- > 0;) {
        const serverd_node *node = &graph->nodes[i];
        r->has_node[i] = node->op == SERVERD_OP_ATTN || r->has_value[output_of(graph, node)];
        if (!r->has_node[i])
            continue;
        for (uint32_t j = 0; j <= node->n_inputs; j++)
            r->has_value[graph->operands[node->first_operand + j]] = true;
    }
    for (uint32_t i = 0; i < graph->n_values; i++)
        if (r->has_value[i] && graph->values[i].kind == SERVERD_VALUE_CONSTANT)
            r->has_tensor[graph->values[i].tensor] = true;
}

static uint32_t number(const bool *has, uint32_t n, uint32_t *at)
{
    uint32_t next = 0;
    for (uint32_t i = 0; i < n; i++) {
        at[i] = next;
        next += has[i];
    }
    return next;
}

static void keep_used(const serverd_graph *from, const struct renumbering *r, serverd_graph *to)
{
    serverd_tensor *tensors = (serverd_tensor *)to->tensors;
    serverd_value *values = (serverd_value *)to->values;
    serverd_node *nodes = (serverd_node *)to->nodes;
    uint32_t *operands = (uint32_t *)to->operands, n_operands = 0;
    for (uint32_t i = 0; i < from->n_tensors; i++)
        if (r->has_tensor[i])
            tensors[r->tensor_at[i]] = from->tensors[i];
    for (uint32_t i = 0; i < from->n_values; i++) {
        if (!r->has_value[i])
            continue;
        serverd_value *value = &values[r->value_at[i]];
        *value = from->values[i];
        if (value->kind == SERVERD_VALUE_CONSTANT)
            value->tensor = r->tensor_at[value->tensor];
        else
            value->producer = r->node_at[value->producer];
    }
    for (uint32_t i = 0; i < from->n_nodes; i++) {
        if (!r->has_node[i])
            continue;
        serverd_node *node = &nodes[r->node_at[i]];
        *node = from->nodes[i];
        node->first_operand = n_operands;
        for (uint32_t j = 0; j <= node->n_inputs; j++)
            operands[n_operands++] = r->value_at[from->operands[from->nodes[i].first_operand + j]];
    }
    to->n_operands = n_operands;
    to->output = r->value_at[from->output];
}

static serverd_status dce(struct program *program, serverd_error *err)
{
    serverd_graph *graph = &program->graph;
    struct arena *arena = program->arena;
    struct renumbering r;
    if (!take_renumbering(arena, graph, &r))
        return no_memory(err);
    mark_used(graph, &r);
    serverd_graph kept = *graph;
    kept.n_nodes = number(r.has_node, graph->n_nodes, r.node_at);
    kept.n_values = number(r.has_value, graph->n_values, r.value_at);
    kept.n_tensors = number(r.has_tensor, graph->n_tensors, r.tensor_at);
    kept.tensors = arena_array(arena, max_size(kept.n_tensors, 1), sizeof *kept.tensors);
    kept.values = arena_array(arena, max_size(kept.n_values, 1), sizeof *kept.values);
    kept.nodes = arena_array(arena, max_size(kept.n_nodes, 1), sizeof *kept.nodes);
    kept.operands = arena_array(arena, max_size(graph->n_operands, 1), sizeof *kept.operands);
    if (!kept.tensors || !kept.values || !kept.nodes || !kept.operands)
        return no_memory(err);
    keep_used(graph, &r, &kept);
    *graph = kept;
    return SERVERD_OK;
}

/* ---- the pipeline ---------------------------------------------------------------------------- */

const struct compile_pass compile_passes[] = {
    {"fold", "Constants that are always added to each other become one", fold},
    {"dedup", "Weights of the same bytes become one", dedup},
    {"dce", "What nothing reads goes", dce},
};

const uint32_t n_compile_passes = sizeof compile_passes / sizeof *compile_passes;

bool passes_list_has(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = list; at && *at; at += strcspn(at, ",") + (at[strcspn(at, ",")] == ','))
        if (strcspn(at, ",") == n && memcmp(at, name, n) == 0)
            return true;
    return false;
}

static serverd_status check_names(const char *list, serverd_error *err)
{
    for (const char *at = list; at && *at;) {
        size_t n = strcspn(at, ",");
        bool is_known = false;
        for (uint32_t i = 0; i < n_compile_passes; i++)
            is_known |=
                strlen(compile_passes[i].name) == n && memcmp(compile_passes[i].name, at, n) == 0;
        if (!is_known)
            return fail(err, SERVERD_INVALID, "there is no pass %.*s; there are fold, dedup, dce",
                        (int)min_size(n, 64), at);
        at += n + (at[n] == ',');
    }
    return SERVERD_OK;
}

serverd_status passes_run(struct program *program, const struct passes_options *options,
                          serverd_error *err)
{
    serverd_status status = check_names(options->off, err);
    for (uint32_t i = 0; i < n_compile_passes && status == SERVERD_OK; i++) {
        const struct compile_pass *pass = &compile_passes[i];
        if (passes_list_has(options->off, pass->name))
            continue;
        if ((status = pass->run(program, err)) != SERVERD_OK)
            (void)error_context(err, "pass %s", pass->name);
        else if (options->after)
            options->after(options->context, pass, program);
    }
    return status;
}
