#include "compiler/shard.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/dtype.h"
#include "program/graph.h"
#include "program/op.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Columns of a value, or of a matrix's rows. count 0: not cut. */
struct span {
    uint32_t begin, count;
};

/* What becomes of a value: first what its readers want, then what its node makes. */
struct plan {
    bool is_wanted_whole;
    bool is_conflicting; /* readers want different parts */
    struct span wanted;
    struct span made; /* count 0: whole */
    uint32_t value;   /* of the new graph; NO_VALUE: nobody needs it */
};

struct sharding {
    struct program *program;
    const serverd_graph *graph; /* the whole one */
    struct shard shard;
    struct plan *plans; /* [n_values] */
    struct span *inner; /* [n_nodes] columns that a LINEAR keeps of its matrix; count 0: all */
    uint8_t *store;     /* cut columns, one matrix after the other */
    size_t store_bytes, n_stored;
    struct graph_builder *builder;
};

/* ---- shares ---------------------------------------------------------------------------------- */

/* Rank 0 never has less than another one: its memory is measured for all. */
static struct span share(uint32_t n, uint32_t rank, uint32_t n_ranks)
{
    const uint64_t begin = ((uint64_t)n * rank + n_ranks - 1) / n_ranks;
    const uint64_t end = ((uint64_t)n * (rank + 1) + n_ranks - 1) / n_ranks;
    return (struct span){(uint32_t)begin, (uint32_t)(end - begin)};
}

static struct span scaled(struct span span, uint32_t by)
{
    return (struct span){span.begin * by, span.count * by};
}

/* Columns in units: as coarse as leaves every rank several, for the back-ends' sake; never in the
 * midst of a block, if there are as many blocks as ranks. */
static struct span share_columns(uint32_t n, uint32_t block, struct shard shard)
{
    static const uint32_t units[] = {256, 128, 64, 32};
    const uint32_t several = 4 * shard.n_ranks;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (n % units[i] == 0 && units[i] % block == 0 && n / units[i] >= several)
            return scaled(share(n / units[i], shard.rank, shard.n_ranks), units[i]);
    const uint32_t unit = n % block == 0 && n / block >= shard.n_ranks ? block : 1;
    return scaled(share(n / unit, shard.rank, shard.n_ranks), unit);
}

struct heads {
    struct span query, kv;
};

static serverd_status share_heads(const serverd_attn *attn, struct shard shard, struct heads *out,
                                  serverd_error *err)
{
    const uint32_t group = attn->n_heads / attn->n_kv_heads;
    if (shard.n_ranks <= attn->n_kv_heads) {
        out->kv = share(attn->n_kv_heads, shard.rank, shard.n_ranks);
        out->query = scaled(out->kv, group);
        return SERVERD_OK;
    }
    const uint32_t n_sharing = shard.n_ranks / attn->n_kv_heads; /* ranks of one KV head */
    if (shard.n_ranks % attn->n_kv_heads != 0 || n_sharing > group)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%u ranks cannot share %u heads with %u KV heads evenly", shard.n_ranks,
                    attn->n_heads, attn->n_kv_heads);
    out->kv = (struct span){shard.rank / n_sharing, 1};
    out->query = share(group, shard.rank % n_sharing, n_sharing);
    out->query.begin += out->kv.begin * group;
    return SERVERD_OK;
}

/* ---- what readers want, from the end to the beginning ---------------------------------------- */

static uint32_t input_of(const serverd_graph *graph, const serverd_node *node, uint32_t i)
{
    return graph->operands[node->first_operand + i];
}

static uint32_t output_of(const serverd_graph *graph, const serverd_node *node)
{
    return graph->operands[node->first_operand + node->n_inputs];
}

/* The node that makes an activation. */
static const serverd_node *maker(const serverd_graph *graph, uint32_t value)
{
    return &graph->nodes[graph->values[value].producer];
}

static void want_whole(struct sharding *s, uint32_t value)
{
    s->plans[value].is_wanted_whole = true;
}

static void want_part(struct sharding *s, uint32_t value, struct span part)
{
    struct plan *plan = &s->plans[value];
    if (part.count == 0)
        plan->is_wanted_whole = true;
    else if (plan->wanted.count == 0)
        plan->wanted = part;
    else
        plan->is_conflicting |=
            plan->wanted.begin != part.begin || plan->wanted.count != part.count;
}

/* Groups that are computed together have to stay together. */
static bool keeps_groups(struct span part, uint32_t width)
{
    return part.begin % width == 0 && part.count % width == 0;
}

/* Can the node make a part of its output from the same part of its inputs, or of its matrix? */
static bool can_make(const serverd_graph *graph, const serverd_node *node, struct span part)
{
    switch (node->op) {
    case SERVERD_OP_LINEAR:
    case SERVERD_OP_POS_SCALE:
    case SERVERD_OP_SCALE:
    case SERVERD_OP_SOFTCAP:
    case SERVERD_OP_ACT:
    case SERVERD_OP_GLU:
    case SERVERD_OP_SELECT:
        return true;
    case SERVERD_OP_SLICE: /* of a linear layer with several results in one matrix */
        return maker(graph, input_of(graph, node, 0))->op == SERVERD_OP_LINEAR;
    case SERVERD_OP_ROPE:
        return keeps_groups(part, node->attributes.rope.head_dim);
    case SERVERD_OP_RMS_NORM:
        return keeps_groups(part, node->attributes.norm.width);
    default:
        return false;
    }
}

/* Behind attention or an activation function: the columns of the matrix that are this rank's. */
static serverd_status find_inner(const struct sharding *s, const serverd_node *linear,
                                 struct span *out, serverd_error *err)
{
    const serverd_graph *graph = s->graph;
    const serverd_node *before = maker(graph, input_of(graph, linear, 0));
    if (before->op == SERVERD_OP_SELECT)
        before = maker(graph, input_of(graph, before, 0));
    if (before->op == SERVERD_OP_GLU || before->op == SERVERD_OP_ACT) {
        const serverd_tensor *matrix = &graph->tensors[node_input(graph, linear, 1)->tensor];
        struct dtype_block block;
        if (!dtype_block(matrix->dtype, &block))
            return fail(err, SERVERD_INTERNAL, "tensor %s has an unknown type", matrix->name);
        *out = share_columns((uint32_t)matrix->dims[1], block.elements, s->shard);
        return out->count > 0
                   ? SERVERD_OK
                   : fail(err, SERVERD_UNSUPPORTED, "%u ranks cannot share the %llu columns of %s",
                          s->shard.n_ranks, (unsigned long long)matrix->dims[1], matrix->name);
    }
    *out = (struct span){0};
    struct heads heads;
    serverd_status status = SERVERD_OK;
    if (before->op == SERVERD_OP_ATTN &&
        (status = share_heads(&before->attributes.attn, s->shard, &heads, err)) == SERVERD_OK)
        *out = scaled(heads.query, before->attributes.attn.v_dim);
    return status;
}

static serverd_status plan_attention(struct sharding *s, const serverd_node *node,
                                     serverd_error *err)
{
    const serverd_attn *attn = &node->attributes.attn;
    struct heads heads;
    serverd_status status = share_heads(attn, s->shard, &heads, err);
    if (status != SERVERD_OK)
        return status;
    struct plan *out = &s->plans[output_of(s->graph, node)];
    out->made = scaled(heads.query, attn->v_dim);
    if (out->is_wanted_whole || out->is_conflicting)
        return fail(err, SERVERD_UNSUPPORTED,
                    "models that read attention otherwise than through a linear layer cannot be "
                    "shared by ranks");
    want_part(s, input_of(s->graph, node, 0), scaled(heads.query, attn->k_dim));
    want_part(s, input_of(s->graph, node, 1), scaled(heads.kv, attn->k_dim));
    want_part(s, input_of(s->graph, node, 2), scaled(heads.kv, attn->v_dim));
    return SERVERD_OK;
}

static serverd_status plan_node(struct sharding *s, uint32_t index, serverd_error *err)
{
    const serverd_graph *graph = s->graph;
    const serverd_node *node = &graph->nodes[index];
    if (node->op == SERVERD_OP_ATTN)
        return plan_attention(s, node, err);
    struct plan *out = &s->plans[output_of(graph, node)];
    if (out->wanted.count > 0 && !out->is_wanted_whole && !out->is_conflicting &&
        can_make(graph, node, out->wanted))
        out->made = out->wanted;
    if (node->op == SERVERD_OP_LINEAR) {
        serverd_status status = SERVERD_OK;
        if (out->made.count == 0)
            status = find_inner(s, node, &s->inner[index], err);
        want_part(s, input_of(graph, node, 0), s->inner[index]);
        return status;
    }
    if (node->op == SERVERD_OP_SLICE && out->made.count > 0)
        return SERVERD_OK; /* becomes a linear layer of its own, which reads what that one does */
    for (uint32_t i = 0; i < node->n_inputs; i++)
        if (graph->values[input_of(graph, node, i)].kind == SERVERD_VALUE_ACTIVATION)
            want_part(s, input_of(graph, node, i), out->made);
    return SERVERD_OK;
}

/* The result: logits of a decoder are cut if they come straight from a linear layer. */
static void plan_result(struct sharding *s)
{
    const serverd_graph *graph = s->graph;
    const serverd_node *node = maker(graph, graph->output);
    while (node->op == SERVERD_OP_SOFTCAP || node->op == SERVERD_OP_SCALE)
        node = maker(graph, input_of(graph, node, 0));
    const uint64_t width = value_width(&graph->values[graph->output]);
    if (s->program->config.is_encoder || node->op != SERVERD_OP_LINEAR || width < s->shard.n_ranks)
        want_whole(s, graph->output);
    else
        want_part(s, graph->output, share_columns((uint32_t)width, 1, s->shard));
}

static serverd_status plan_all(struct sharding *s, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    plan_result(s);
    for (uint32_t n = s->graph->n_nodes; n-- > 0 && status == SERVERD_OK;)
        status = plan_node(s, n, err);
    return status;
}

/* ---- matrices -------------------------------------------------------------------------------- */

static const serverd_tensor *tensor_of(const serverd_graph *graph, const serverd_node *node,
                                       uint32_t i)
{
    return &graph->tensors[node_input(graph, node, i)->tensor];
}

/* As the constant it is, under a name that says what of it is here. */
static uint32_t add_part(struct sharding *s, const serverd_tensor *part, const char *how)
{
    char name[512];
    serverd_tensor named = *part;
    (void)snprintf(name, sizeof name, "%.400s:%s:%u/%u", part->name, how, s->shard.rank,
                   s->shard.n_ranks);
    named.name = name;
    return graph_constant(s->builder, &named);
}

/* Rows of a matrix or elements of a vector, where they stand. */
static uint32_t add_rows(struct sharding *s, const serverd_tensor *whole, struct span rows)
{
    serverd_tensor part = *whole;
    const uint64_t row_bytes = whole->bytes / whole->dims[0];
    part.dims[0] = rows.count;
    part.bytes = rows.count * row_bytes;
    part.data = (const char *)whole->data + rows.begin * row_bytes;
    part.flags = 0;
    return add_part(s, &part, "rows");
}

/* Whether the columns are whole blocks. */
static bool are_blocks(const serverd_tensor *matrix, struct span columns, struct dtype_block *block)
{
    return dtype_block(matrix->dtype, block) && columns.begin % block->elements == 0 &&
           columns.count % block->elements == 0;
}

static size_t column_bytes(const serverd_tensor *matrix, struct span columns)
{
    struct dtype_block block;
    const size_t row_bytes = are_blocks(matrix, columns, &block)
                                 ? (size_t)columns.count / block.elements * block.bytes
                                 : (size_t)columns.count * sizeof(float);
    return (size_t)matrix->dims[0] * row_bytes;
}

static void copy_blocks(const serverd_tensor *whole, struct span columns,
                        const struct dtype_block *block, uint8_t *out)
{
    const size_t row_bytes = whole->bytes / whole->dims[0];
    const size_t begin = (size_t)columns.begin / block->elements * block->bytes;
    const size_t n = (size_t)columns.count / block->elements * block->bytes;
    for (uint64_t row = 0; row < whole->dims[0]; row++)
        memcpy(out + row * n, (const char *)whole->data + row * row_bytes + begin, n);
}

static serverd_status copy_as_f32(const serverd_tensor *whole, struct span columns, uint8_t *out,
                                  serverd_error *err)
{
    const struct dtype_info *info = dtype_info(whole->dtype);
    const size_t row_bytes = whole->bytes / whole->dims[0], n = columns.count * sizeof(float);
    float *row = calloc(whole->dims[1], sizeof *row);
    if (!row)
        return fail(err, SERVERD_NOMEM, "no memory for a row of %s", whole->name);
    for (uint64_t i = 0; i < whole->dims[0]; i++) {
        info->to_f32((const char *)whole->data + i * row_bytes, row,
                     whole->dims[1] / info->block_elements);
        memcpy(out + i * n, row + columns.begin, n);
    }
    free(row);
    return SERVERD_OK;
}

/* Columns of a matrix, copied; NO_VALUE: see err. */
static uint32_t add_columns(struct sharding *s, const serverd_tensor *whole, struct span columns,
                            serverd_error *err)
{
    struct dtype_block block;
    serverd_tensor part = *whole;
    uint8_t *out = s->store + s->n_stored;
    part.data = out;
    part.bytes = column_bytes(whole, columns);
    part.dims[1] = columns.count;
    part.flags = 0;
    s->n_stored += (part.bytes + 63) / 64 * 64;
    if (are_blocks(whole, columns, &block)) {
        copy_blocks(whole, columns, &block, out);
    } else {
        part.dtype = DTYPE_F32;
        if (copy_as_f32(whole, columns, out, err) != SERVERD_OK)
            return NO_VALUE;
    }
    return add_part(s, &part, "columns");
}

static serverd_status take_store(struct sharding *s, serverd_error *err)
{
    for (uint32_t n = 0; n < s->graph->n_nodes; n++)
        if (s->inner[n].count > 0) {
            const serverd_tensor *matrix = tensor_of(s->graph, &s->graph->nodes[n], 1);
            s->store_bytes += (column_bytes(matrix, s->inner[n]) + 63) / 64 * 64;
        }
    return s->store_bytes > 0 ? program_add_store(s->program, s->store_bytes, &s->store, err)
                              : SERVERD_OK;
}

/* ---- the new graph --------------------------------------------------------------------------- */

static uint32_t add_node(struct sharding *s, serverd_op op, const uint32_t *inputs, uint32_t n,
                         const serverd_attributes *attributes)
{
    return graph_node(s->builder, op, inputs, n, attributes);
}

/* An input as the node needs it: a part of what is whole is a slice. */
static uint32_t operand(struct sharding *s, uint32_t value, struct span part)
{
    const serverd_value *v = &s->graph->values[value];
    const struct plan *plan = &s->plans[value];
    if (v->kind == SERVERD_VALUE_CONSTANT) {
        serverd_tensor tensor = s->graph->tensors[v->tensor];
        tensor.flags = 0; /* a table that was the head's matrix, too, is a table now */
        return graph_constant(s->builder, &tensor);
    }
    if (part.count == 0 || plan->made.count > 0)
        return plan->value;
    const serverd_attributes attributes = {.slice = {part.begin, part.count}};
    return add_node(s, SERVERD_OP_SLICE, &plan->value, 1, &attributes);
}

/* x W^T + bias with some rows of the matrix. */
static uint32_t add_linear_rows(struct sharding *s, const serverd_node *node, struct span rows)
{
    const uint32_t inputs[] = {operand(s, input_of(s->graph, node, 0), (struct span){0}),
                               add_rows(s, tensor_of(s->graph, node, 1), rows),
                               node->n_inputs > 2 ? add_rows(s, tensor_of(s->graph, node, 2), rows)
                                                  : NO_VALUE};
    return add_node(s, SERVERD_OP_LINEAR, inputs, 3, NULL);
}

/* With some columns: rank 0's part of the sum has the bias. */
static uint32_t add_linear_columns(struct sharding *s, const serverd_node *node,
                                   struct span columns, serverd_error *err)
{
    const bool has_bias = node->n_inputs > 2 && s->shard.rank == 0;
    const serverd_attributes attributes = {.shard = {s->shard.rank, s->shard.n_ranks, 0, 0}};
    const uint32_t inputs[] = {operand(s, input_of(s->graph, node, 0), columns),
                               add_columns(s, tensor_of(s->graph, node, 1), columns, err),
                               has_bias ? operand(s, input_of(s->graph, node, 2), (struct span){0})
                                        : NO_VALUE};
    if (inputs[1] == NO_VALUE)
        return NO_VALUE;
    const uint32_t part = add_node(s, SERVERD_OP_LINEAR, inputs, 3, NULL);
    return add_node(s, SERVERD_OP_ALL_REDUCE, &part, 1, &attributes);
}

static serverd_attributes attributes_of(const struct sharding *s, const serverd_node *node)
{
    serverd_attributes attributes = node->attributes;
    struct heads heads;
    serverd_error ignored; /* it was asked before */
    if (node->op == SERVERD_OP_ATTN &&
        share_heads(&node->attributes.attn, s->shard, &heads, &ignored) == SERVERD_OK) {
        attributes.attn.n_heads = heads.query.count;
        attributes.attn.n_kv_heads = heads.kv.count;
    }
    return attributes;
}

/* The parts of a node's inputs: attention's differ, all others' are as the output's. */
static struct span part_of_input(const struct sharding *s, const serverd_node *node, uint32_t i)
{
    if (node->op == SERVERD_OP_ATTN)
        return s->plans[input_of(s->graph, node, i)].wanted;
    return s->plans[output_of(s->graph, node)].made;
}

static uint32_t add_like(struct sharding *s, const serverd_node *node)
{
    uint32_t inputs[8];
    const serverd_attributes attributes = attributes_of(s, node);
    for (uint32_t i = 0; i < node->n_inputs; i++)
        inputs[i] = operand(s, input_of(s->graph, node, i), part_of_input(s, node, i));
    return add_node(s, (serverd_op)node->op, inputs, node->n_inputs, &attributes);
}

/* A slice of a linear layer's result is a linear layer with some of the rows. */
static uint32_t add_slice_rows(struct sharding *s, const serverd_node *slice, struct span part)
{
    part.begin += slice->attributes.slice.begin;
    return add_linear_rows(s, maker(s->graph, input_of(s->graph, slice, 0)), part);
}

static bool is_needed(const struct plan *plan)
{
    return plan->is_wanted_whole || plan->wanted.count > 0;
}

static uint32_t build_node(struct sharding *s, uint32_t index, serverd_error *err)
{
    const serverd_node *node = &s->graph->nodes[index];
    const struct span made = s->plans[output_of(s->graph, node)].made;
    graph_set_layer(s->builder, node->layer);
    if (node->op == SERVERD_OP_LINEAR && made.count > 0)
        return add_linear_rows(s, node, made);
    if (node->op == SERVERD_OP_LINEAR && s->inner[index].count > 0)
        return add_linear_columns(s, node, s->inner[index], err);
    if (node->op == SERVERD_OP_SLICE && made.count > 0)
        return add_slice_rows(s, node, made);
    return add_like(s, node);
}

static serverd_status build(struct sharding *s, serverd_graph *out, serverd_error *err)
{
    const serverd_graph *graph = s->graph;
    for (uint32_t n = 0; n < graph->n_nodes; n++) {
        struct plan *plan = &s->plans[output_of(graph, &graph->nodes[n])];
        if (graph->nodes[n].op != SERVERD_OP_ATTN && !is_needed(plan))
            continue;
        err->code = SERVERD_OK;
        plan->value = build_node(s, n, err);
        if (err->code != SERVERD_OK)
            return err->code;
    }
    const struct plan *result = &s->plans[graph->output];
    const uint32_t width = (uint32_t)value_width(&graph->values[graph->output]);
    const serverd_attributes attributes = {
        .shard = {s->shard.rank, s->shard.n_ranks, result->made.begin, width}};
    const uint32_t output = result->made.count > 0
                                ? add_node(s, SERVERD_OP_GATHER, &result->value, 1, &attributes)
                                : result->value;
    return graph_finish(s->builder, output, out, err);
}

/* ---- the program ----------------------------------------------------------------------------- */

static serverd_status share_kv(struct program *program, serverd_error *err)
{
    serverd_kv_layer *layers =
        arena_array(program->arena, max_size(program->kv.n_layers, 1), sizeof *layers);
    if (!layers)
        return fail(err, SERVERD_NOMEM, "no memory for %u KV layers", program->kv.n_layers);
    for (uint32_t i = 0; i < program->kv.n_layers; i++)
        layers[i] = program->kv.layers[i];
    for (uint32_t n = 0; n < program->graph.n_nodes; n++) {
        const serverd_node *node = &program->graph.nodes[n];
        if (node->op == SERVERD_OP_ATTN && node->attributes.attn.is_causal)
            layers[node->attributes.attn.kv_layer].n_kv_heads = node->attributes.attn.n_kv_heads;
    }
    program->kv.layers = layers;
    return SERVERD_OK;
}

static serverd_status check_tensors(const serverd_graph *graph, serverd_error *err)
{
    for (uint32_t i = 0; i < graph->n_tensors; i++)
        if (!graph->tensors[i].data)
            return fail(err, SERVERD_UNSUPPORTED,
                        "tensor %s: the program file has it in packed form only: ranks share the "
                        "model that it was made from",
                        graph->tensors[i].name);
    return SERVERD_OK;
}

static uint64_t bytes_of_weights(const serverd_graph *graph)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < graph->n_tensors; i++)
        bytes += graph->tensors[i].bytes;
    return bytes;
}

static serverd_status cut(struct sharding *s, serverd_error *err)
{
    serverd_graph made;
    serverd_status status = check_tensors(s->graph, err);
    if (status == SERVERD_OK)
        status = plan_all(s, err);
    if (status == SERVERD_OK)
        status = take_store(s, err);
    if (status == SERVERD_OK)
        status = build(s, &made, err);
    if (status != SERVERD_OK)
        return status;
    s->program->graph = made;
    s->program->config.weight_bytes = bytes_of_weights(&made);
    return share_kv(s->program, err);
}

serverd_status shard_program(struct program *program, struct shard shard, serverd_error *err)
{
    if (shard.n_ranks <= 1)
        return SERVERD_OK;
    if (shard.n_ranks > LIMIT_RANKS || shard.rank >= shard.n_ranks)
        return fail(err, SERVERD_INVALID, "rank %u of %u, at most %u are possible", shard.rank,
                    shard.n_ranks, LIMIT_RANKS);
    const serverd_graph whole = program->graph;
    struct sharding s = {.program = program,
                         .graph = &whole,
                         .shard = shard,
                         .plans = calloc(max_size(whole.n_values, 1), sizeof *s.plans),
                         .inner = calloc(max_size(whole.n_nodes, 1), sizeof *s.inner),
                         .builder = graph_builder_create(program->arena)};
    serverd_status status = s.plans && s.inner && s.builder
                                ? cut(&s, err)
                                : fail(err, SERVERD_NOMEM, "no memory to share a model");
    graph_builder_destroy(s.builder);
    free(s.inner);
    free(s.plans);
    return status == SERVERD_OK ? status
                                : error_context(err, "rank %u of %u", shard.rank, shard.n_ranks);
}
