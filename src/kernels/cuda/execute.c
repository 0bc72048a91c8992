/* A step: its arrays go to the device, node after node is launched, and what comes out returns. */
#include "base/error.h"
#include "base/numeric.h"
#include "kernels/cuda/chains.h"
#include "kernels/cuda/cuda_internal.h"
#include "program/op.h"

#include <string.h>

struct step {
    const serverd_handle *handle;
    struct gpu *gpu;
    const serverd_batch *batch;
    struct gpu_batch on_device;
    const serverd_kv *kv;
    uint32_t n_keys; /* that attention of the step sees at most, rounded up */
    bool has_draws;  /* tokens are wanted of logits that this partition makes */
};

/* ---- arrays ---------------------------------------------------------------------------------- */

static void copy_table(const serverd_batch *batch, const uint32_t *from, uint32_t columns,
                       uint32_t *to)
{
    const uint32_t n = min_u32(batch->max_pages, columns);
    for (uint32_t s = 0; from && s < batch->n_seqs; s++)
        memcpy(to + (size_t)s * columns, from + (size_t)s * batch->max_pages, n * sizeof *to);
}

static void stage(const serverd_handle *handle, const serverd_batch *batch)
{
    const struct step_arrays *to = &handle->staged;
    memcpy(to->token, batch->token, batch->n_rows * sizeof *to->token);
    memcpy(to->position, batch->position, batch->n_rows * sizeof *to->position);
    memcpy(to->row_seq, batch->row_seq, batch->n_rows * sizeof *to->row_seq);
    for (uint32_t row = 0; row < batch->n_rows; row++) {
        to->segment[row] = batch->segment ? batch->segment[row] : 0;
        if (row == 0 || batch->row_seq[row] != batch->row_seq[row - 1])
            to->first_row[batch->row_seq[row]] = row;
    }
    to->first_row[batch->n_seqs] = batch->n_rows;
    if (batch->n_logit_rows > 0)
        memcpy(to->logit_row, batch->logit_row, batch->n_logit_rows * sizeof *to->logit_row);
    copy_table(batch, batch->page_table, handle->max_pages, to->page_table);
    copy_table(batch, batch->window_table, handle->max_pages, to->window_table);
}

static void upload_table(const serverd_handle *handle, const serverd_batch *batch, uint32_t *to,
                         const uint32_t *staged)
{
    gpu_from_host(handle->instance->gpu, to, staged,
                  (size_t)batch->n_seqs * handle->max_pages * sizeof *to);
}

/* What the draws of a step need, after the arrays. */
static void upload_draws(const serverd_handle *handle, const serverd_batch *batch)
{
    const struct step_arrays *staged = &handle->staged, *to = &handle->arrays;
    const size_t n_words = (value_width(&handle->graph->values[handle->graph->output]) + 63) / 64;
    const struct {
        void *to, *staged;
        const void *from;
        size_t bytes;
    } arrays[] = {
        {to->draw, staged->draw, batch->draw, batch->n_logit_rows * sizeof *batch->draw},
        {to->change, staged->change, batch->change, batch->n_changes * sizeof *batch->change},
        {to->mask, staged->mask, batch->mask, batch->n_masks * n_words * sizeof *batch->mask},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        if (arrays[i].bytes == 0)
            continue;
        memcpy(arrays[i].staged, arrays[i].from, arrays[i].bytes);
        gpu_from_host(handle->instance->gpu, arrays[i].to, arrays[i].staged, arrays[i].bytes);
    }
}

/* Most steps have no chains, and those on the device are 0. */
static void upload_chains(serverd_handle *handle, const serverd_batch *batch)
{
    const size_t row = handle->n_segments;
    const bool is_any = chains_find(batch, handle->n_segments, handle->staged.chain);
    const uint32_t n = max_u32(batch->n_seqs, handle->n_chained);
    if (!is_any && handle->n_chained == 0)
        return;
    memset(handle->staged.chain + batch->n_seqs * row, 0,
           (n - batch->n_seqs) * row * sizeof *handle->staged.chain);
    gpu_from_host(handle->instance->gpu, handle->arrays.chain, handle->staged.chain,
                  n * row * sizeof *handle->staged.chain);
    handle->n_chained = is_any ? batch->n_seqs : 0;
}

/* Of the page tables the rows of the step's sequences. */
static struct gpu_batch upload(serverd_handle *handle, const serverd_batch *batch)
{
    const struct step_arrays *at = &handle->arrays;
    stage(handle, batch);
    gpu_from_host(handle->instance->gpu, handle->arrays_block, handle->staged_block,
                  handle->lists_bytes);
    if (batch->page_table)
        upload_table(handle, batch, at->page_table, handle->staged.page_table);
    upload_chains(handle, batch);
    if (batch->window_table)
        upload_table(handle, batch, at->window_table, handle->staged.window_table);
    return (struct gpu_batch){.n_rows = batch->n_rows,
                              .n_seqs = batch->n_seqs,
                              .n_logit_rows = batch->n_logit_rows,
                              .max_pages = handle->max_pages,
                              .token = at->token,
                              .position = at->position,
                              .row_seq = at->row_seq,
                              .segment = at->segment,
                              .first_row = at->first_row,
                              .logit_row = at->logit_row,
                              .page_table = at->page_table,
                              .window_table = at->window_table,
                              .chain = at->chain,
                              .n_segments = handle->n_segments};
}

/* In whole segments, so that a sequence that grows by a token seldom changes a launch. */
static uint32_t count_keys(const serverd_batch *batch)
{
    uint32_t most = 1, n_rows = 0;
    for (uint32_t row = 0; row < batch->n_rows; row++) {
        n_rows = row > 0 && batch->row_seq[row] == batch->row_seq[row - 1] ? n_rows + 1 : 1;
        most = max_u32(most, max_u32(n_rows, (uint32_t)batch->position[row] + 1));
    }
    return (most + GPU_SEGMENT_KEYS - 1) / GPU_SEGMENT_KEYS * GPU_SEGMENT_KEYS;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static size_t n_rows_of(const serverd_batch *batch, int64_t kind)
{
    if (kind == SERVERD_DIM_SEQS)
        return batch->n_seqs;
    return kind == SERVERD_DIM_SELECTED ? batch->n_logit_rows : batch->n_rows;
}

/* A node's operands on the device. */
struct call {
    const struct step *step;
    const serverd_node *node;
    const serverd_attributes *attributes;
    uint32_t n_rows;        /* of the output */
    size_t n;               /* elements of the output */
    uint32_t width;         /* columns of the first input */
    const float *a, *b, *c; /* inputs, NULL: there is none */
    float *out;
    const struct fusion *fusion;
};

static const void *operand(const struct step *step, const serverd_node *node, uint32_t i)
{
    const serverd_handle *handle = step->handle;
    if (i >= node->n_inputs)
        return NULL;
    const uint32_t value = handle->graph->operands[node->first_operand + i];
    if (handle->graph->values[value].kind == SERVERD_VALUE_CONSTANT)
        return handle->tensor[handle->graph->values[value].tensor];
    return handle->value[value];
}

static float *result(const struct step *step, const serverd_node *node)
{
    return step->handle->value[step->handle->graph->operands[node->first_operand + node->n_inputs]];
}

static void run_embed(const struct call *call)
{
    static const enum gpu_index indexes[] = {[SERVERD_INDEX_TOKEN] = GPU_INDEX_TOKEN,
                                             [SERVERD_INDEX_POSITION] = GPU_INDEX_POSITION,
                                             [SERVERD_INDEX_SEGMENT] = GPU_INDEX_SEGMENT};
    const serverd_embed *embed = &call->attributes->embed;
    const serverd_tensor *table = cuda_tensor(call->step->handle->graph, call->node, 0);
    gpu_embed(call->step->gpu, &call->step->on_device, call->a, cuda_fragment_form(table->dtype),
              (uint32_t)table->dims[0], indexes[embed->index], (uint32_t)table->dims[1],
              embed->scale, call->out);
}

/* Node i of the partition, a linear layer. */
static struct gpu_linear_part part_of(const struct step *step, uint32_t i)
{
    const serverd_graph *graph = step->handle->graph;
    const serverd_node *node = &graph->nodes[step->handle->partition->first_node + i];
    const struct fusion *fusion = &step->handle->fusions[i];
    return (struct gpu_linear_part){.w = operand(step, node, 1),
                                    .bias = operand(step, node, 2),
                                    .added =
                                        fusion->add ? step->handle->value[fusion->added] : NULL,
                                    .y = result(step, fusion->add ? fusion->add : node),
                                    .n = (uint32_t)cuda_tensor(graph, node, 1)->dims[0]};
}

static void run_linear(const struct call *call)
{
    const struct step *step = call->step;
    const serverd_tensor *w = cuda_tensor(step->handle->graph, call->node, 1);
    const uint32_t k = (uint32_t)w->dims[1], n_parts = call->fusion->n_joined + 1,
                   first = (uint32_t)(call->fusion - step->handle->fusions);
    struct gpu_linear_part parts[GPU_MAX_JOINED];
    if (!call->fusion->has_fragments)
        gpu_rows_to_fragments(step->gpu, call->a, call->n_rows, k, step->handle->fragments);
    for (uint32_t i = 0; i < n_parts; i++)
        parts[i] = part_of(step, first + i);
    gpu_linear_parts(step->gpu, step->handle->fragments, cuda_fragment_form(w->dtype), parts,
                     n_parts, call->n_rows, k);
}

static void run_norm(const struct call *call)
{
    const serverd_norm *norm = &call->attributes->norm;
    if (call->fusion->makes_fragments)
        gpu_norm_to_fragments(call->step->gpu, call->a, call->b, call->c, call->n_rows, norm->width,
                              norm->eps, call->step->handle->fragments);
    else
        gpu_norm(call->step->gpu, call->a, call->b, call->c, (uint32_t)(call->n / norm->width),
                 norm->width, norm->eps, call->out);
}

/* The factors of a rope node, and what results are multiplied with. */
static const float *turn_of(const struct step *step, const serverd_node *node, float *mscale)
{
    const serverd_rope *rope = &node->attributes.rope;
    const bool is_alternative =
        node->n_inputs > 2 && step->handle->bounds.limits.max_context > rope->alt_from;
    *mscale = is_alternative ? rope->alt_mscale : rope->mscale;
    return operand(step, node, is_alternative ? 2 : 1);
}

static void run_rope(const struct call *call)
{
    const serverd_rope *rope = &call->attributes->rope;
    float mscale;
    const float *inv_freq = turn_of(call->step, call->node, &mscale);
    gpu_rope(call->step->gpu, &call->step->on_device, call->a, inv_freq,
             call->width / rope->head_dim, rope, mscale, call->out);
}

/* Keys and values into the pages, and what was put off until now. */
static void append(const struct call *call, const struct gpu_kv *kv)
{
    const struct step *step = call->step;
    const serverd_node *turn_q = call->fusion->turn_q;
    if (!turn_q) {
        gpu_append(step->gpu, &step->on_device, kv, call->b, call->c);
        return;
    }
    float mscale;
    const float *inv_freq = turn_of(step, turn_q, &mscale);
    gpu_turn_and_append(step->gpu, &step->on_device, kv, inv_freq, &turn_q->attributes.rope, mscale,
                        call->attributes->attn.n_heads, operand(step, turn_q, 0),
                        operand(step, call->fusion->turn_k, 0), call->c, result(step, turn_q));
}

static void run_attn(const struct call *call)
{
    const struct step *step = call->step;
    const serverd_attn *attn = &call->attributes->attn;
    struct gpu_kv kv = {.keys = NULL};
    if (attn->is_causal && step->kv) {
        kv = cuda_kv_layer(step->kv, attn->kv_layer);
        append(call, &kv);
    }
    gpu_attend(step->gpu, &step->on_device, attn, &kv, call->a, call->b, call->c, step->n_keys,
               step->handle->scratch, step->handle->scratch_floats, call->out,
               call->fusion->makes_fragments ? step->handle->fragments : NULL);
}

static void run_pos_scale(const struct call *call)
{
    gpu_pos_scale(call->step->gpu, &call->step->on_device, call->a, call->width,
                  &call->attributes->pos_scale, call->out);
}

static void run_add(const struct call *call)
{
    gpu_add(call->step->gpu, call->a, call->b, call->n, call->out);
}

static void run_scale(const struct call *call)
{
    gpu_scale(call->step->gpu, call->a, call->n, call->attributes->factor, call->out);
}

static void run_softcap(const struct call *call)
{
    gpu_softcap(call->step->gpu, call->a, call->n, call->attributes->factor, call->out);
}

static void run_activation(const struct call *call)
{
    if (call->fusion->makes_fragments)
        gpu_activate_to_fragments(call->step->gpu, call->a, call->b, call->n_rows, call->width,
                                  call->attributes->activation, call->step->handle->fragments);
    else
        gpu_activate(call->step->gpu, call->a, call->b, call->n, call->attributes->activation,
                     call->out);
}

static void run_slice(const struct call *call)
{
    const serverd_slice *slice = &call->attributes->slice;
    gpu_slice(call->step->gpu, call->a, call->n_rows, call->width, slice->begin, slice->count,
              call->out);
}

static void run_select(const struct call *call)
{
    gpu_select(call->step->gpu, &call->step->on_device, call->a, call->width, call->out);
}

static void run_pool(const struct call *call)
{
    gpu_pool(call->step->gpu, &call->step->on_device, call->a, call->width,
             call->attributes->pooling, call->out);
}

static void run_l2(const struct call *call)
{
    gpu_l2(call->step->gpu, call->a, call->n_rows, call->width, call->out);
}

static void run_reduce(const struct call *call)
{
    meetings_all_reduce(&call->step->handle->meetings, call->step->gpu, call->a, call->n,
                        call->out);
}

static void run_gather(const struct call *call)
{
    meetings_gather(&call->step->handle->meetings, call->step->gpu, call->node, call->a,
                    call->n_rows, call->out);
}

static void (*const runs[SERVERD_OP_COUNT])(const struct call *) = {
    [SERVERD_OP_EMBED] = run_embed,         [SERVERD_OP_LINEAR] = run_linear,
    [SERVERD_OP_RMS_NORM] = run_norm,       [SERVERD_OP_LAYER_NORM] = run_norm,
    [SERVERD_OP_ROPE] = run_rope,           [SERVERD_OP_ATTN] = run_attn,
    [SERVERD_OP_POS_SCALE] = run_pos_scale, [SERVERD_OP_ADD] = run_add,
    [SERVERD_OP_SCALE] = run_scale,         [SERVERD_OP_SOFTCAP] = run_softcap,
    [SERVERD_OP_ACT] = run_activation,      [SERVERD_OP_GLU] = run_activation,
    [SERVERD_OP_SLICE] = run_slice,         [SERVERD_OP_SELECT] = run_select,
    [SERVERD_OP_POOL] = run_pool,           [SERVERD_OP_L2] = run_l2,
    [SERVERD_OP_ALL_REDUCE] = run_reduce,   [SERVERD_OP_GATHER] = run_gather,
};

/* Node i of the partition. */
static void run_node(const struct step *step, uint32_t i)
{
    const serverd_graph *graph = step->handle->graph;
    const serverd_node *node = &graph->nodes[step->handle->partition->first_node + i];
    const struct fusion *fusion = &step->handle->fusions[i];
    const serverd_value *output = node_output(graph, node);
    const struct call call = {.step = step,
                              .node = node,
                              .attributes = &node->attributes,
                              .n_rows = (uint32_t)n_rows_of(step->batch, output->dims[0]),
                              .n = n_rows_of(step->batch, output->dims[0]) * value_width(output),
                              .width = (uint32_t)value_width(node_input(graph, node, 0)),
                              .a = operand(step, node, 0),
                              .b = operand(step, node, 1),
                              .c = operand(step, node, 2),
                              .out = result(step, node),
                              .fusion = fusion};
    if (call.n_rows > 0 && !fusion->is_done)
        runs[node->op](&call);
}

/* ---- the step -------------------------------------------------------------------------------- */

static size_t value_bytes(const struct step *step, uint32_t value)
{
    const serverd_value *v = &step->handle->graph->values[value];
    return n_rows_of(step->batch, v->dims[0]) * value_width(v) * sizeof(float);
}

static void launch_draws(const struct step *step)
{
    const serverd_handle *handle = step->handle;
    const uint32_t output = handle->graph->output;
    const struct gpu_draws draws = {.draw = handle->arrays.draw,
                                    .change = handle->arrays.change,
                                    .unchanged = handle->arrays.unchanged,
                                    .mask = handle->arrays.mask,
                                    .drawn = handle->arrays.drawn};
    gpu_draw(step->gpu, handle->value[output], step->batch->n_logit_rows,
             (uint32_t)value_width(&handle->graph->values[output]), &draws);
}

static void launch_nodes(void *context)
{
    const struct step *step = context;
    for (uint32_t i = 0; i < step->handle->partition->n_nodes; i++)
        run_node(step, i);
    if (step->has_draws)
        launch_draws(step);
}

/* Long prompts are bound by what they compute, and seldom have the same shape. */
#define GRAPH_ROWS 256u

static void launch_step(serverd_handle *handle, struct step *step)
{
    const struct step_shape shape = {.kv = step->kv,
                                     .n_rows = step->batch->n_rows,
                                     .n_seqs = step->batch->n_seqs,
                                     .n_logit_rows = step->batch->n_logit_rows,
                                     .n_keys = step->n_keys,
                                     .has_draws = step->has_draws};
    if (step->batch->n_rows > GRAPH_ROWS)
        launch_nodes(step);
    else
        graphs_run(&handle->graphs, step->gpu, &shape, launch_nodes, step);
}

/* The logits are this partition's, and of some rows nothing else is wanted than a token. */
static bool has_draws(const serverd_handle *handle, const serverd_batch *batch)
{
    for (uint32_t i = 0; handle->arrays.unchanged && batch->draw && i < batch->n_logit_rows; i++)
        if (batch->draw[i].kind != SERVERD_DRAW_LOGITS)
            return true;
    return false;
}

static bool wants_logits(const serverd_batch *batch, uint32_t row)
{
    return batch->draw[row].kind == SERVERD_DRAW_LOGITS;
}

/* Rows of logits that are wanted, those that follow each other with one copy. */
static void copy_logits(const struct step *step, const float *from, float *to)
{
    const serverd_batch *batch = step->batch;
    const size_t width = value_width(&step->handle->graph->values[step->handle->graph->output]);
    for (uint32_t i = 0, end; i < batch->n_logit_rows; i = end) {
        for (end = i + 1;
             end < batch->n_logit_rows && wants_logits(batch, end) == wants_logits(batch, i);)
            end++;
        if (wants_logits(batch, i))
            gpu_to_host(step->gpu, to + i * width, from + i * width,
                        (end - i) * width * sizeof *to);
    }
    gpu_to_host(step->gpu, step->handle->staged.drawn, step->handle->arrays.drawn,
                batch->n_logit_rows * sizeof *batch->drawn);
}

static void tell_drawn(const struct step *step)
{
    const serverd_batch *batch = step->batch;
    for (uint32_t i = 0; step->has_draws && i < batch->n_logit_rows; i++)
        if (!wants_logits(batch, i))
            batch->drawn[i] = step->handle->staged.drawn[i];
}

static void copy_outputs(const struct step *step, float *const *outputs)
{
    const serverd_handle *handle = step->handle;
    const serverd_partition *partition = handle->partition;
    for (uint32_t i = 0; i < partition->n_outputs; i++) {
        const uint32_t value = partition->outputs[i];
        if (cuda_is_elsewhere(handle->graph, value))
            continue;
        if (step->has_draws && value == handle->graph->output)
            copy_logits(step, handle->value[value], outputs[i]);
        else
            gpu_to_host(step->gpu, outputs[i], handle->value[value], value_bytes(step, value));
    }
}

serverd_status cuda_execute(serverd_handle *handle, const serverd_batch *batch, serverd_kv *kv,
                            const float *const *inputs, float *const *outputs, serverd_error *err)
{
    const serverd_partition *partition = handle->partition;
    struct batch_bounds bounds = handle->bounds;
    if (handle->has_kv && !kv)
        return fail(err, SERVERD_INTERNAL, "cuda: a decoder without KV pages");
    if (handle->has_kv) {
        bounds.n_pages = kv->n_pages;
        bounds.n_window_pages = kv->n_window_pages;
        bounds.window = kv->window;
    }
    serverd_status status = batch_check(&bounds, batch, err);
    if (status == SERVERD_OK && handle->arrays.unchanged)
        status = batch_check_draws(&bounds, batch,
                                   value_width(&handle->graph->values[handle->graph->output]), err);
    if (status != SERVERD_OK)
        return status;
    handle->n_drawn = 0;
    gpu_enter(handle->instance->gpu);
    status = meetings_begin(&handle->meetings, handle->instance->gpu, &handle->graphs, err);
    if (status != SERVERD_OK)
        return status;
    struct step step = {.handle = handle,
                        .gpu = handle->instance->gpu,
                        .batch = batch,
                        .on_device = upload(handle, batch),
                        .kv = kv,
                        .n_keys = count_keys(batch),
                        .has_draws = has_draws(handle, batch)};
    if (step.has_draws)
        upload_draws(handle, batch);
    for (uint32_t i = 0; i < partition->n_inputs; i++)
        gpu_from_host(step.gpu, handle->value[partition->inputs[i]], inputs[i],
                      value_bytes(&step, partition->inputs[i]));
    launch_step(handle, &step);
    copy_outputs(&step, outputs);
    const serverd_host *host = handle->instance->host;
    if (host->meanwhile)
        host->meanwhile(host->context);
    status = meetings_wait(&handle->meetings, step.gpu, &handle->graphs, err);
    handle->n_drawn = status == SERVERD_OK && step.has_draws ? batch->n_logit_rows : 0;
    if (status == SERVERD_OK)
        tell_drawn(&step);
    return status;
}

serverd_status cuda_read_logits(serverd_handle *handle, uint32_t logit_row, float *out,
                                serverd_error *err)
{
    const uint32_t output = handle->graph->output;
    const size_t width = value_width(&handle->graph->values[output]);
    if (logit_row >= handle->n_drawn)
        return fail(err, SERVERD_INTERNAL, "cuda: logit row %u of the last step's %u", logit_row,
                    handle->n_drawn);
    gpu_enter(handle->instance->gpu);
    gpu_to_host(handle->instance->gpu, out, handle->value[output] + logit_row * width,
                width * sizeof *out);
    return gpu_wait(handle->instance->gpu, err);
}
