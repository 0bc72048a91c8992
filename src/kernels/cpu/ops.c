/* The ops that work row by row. */
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"
#include "kernels/cpu/packed.h"
#include "program/dtype.h"
#include "program/op.h"

#include <math.h>
#include <string.h>

static const serverd_tensor *tensor_input(const struct cpu_op_call *call, uint32_t i)
{
    return &call->step->graph->tensors[node_input(call->step->graph, call->node, i)->tensor];
}

static size_t input_width(const struct cpu_op_call *call)
{
    return value_width(node_input(call->step->graph, call->node, 0));
}

/* ---- embed ----------------------------------------------------------------------------------- */

/* Row `index` of a table, of which the program file may have the packed form only. */
static void read_table_row(const struct cpu_step *step, uint32_t tensor, size_t index, char *blocks,
                           float *out)
{
    const serverd_tensor *table = &step->graph->tensors[tensor];
    const struct dtype_info *info = dtype_info(table->dtype);
    size_t n_blocks = table->dims[1] / info->block_elements;
    const char *row = (const char *)table->data + index * n_blocks * info->block_bytes;
    if (!table->data) {
        packed_read(table->dtype, table->dims[1], step->handle->packed[tensor], index, blocks);
        row = blocks;
    }
    info->to_f32(row, out, n_blocks);
}

static void embed_rows(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker)
{
    const serverd_embed *embed = &call->node->attributes.embed;
    const struct cpu_step *step = call->step;
    uint32_t table = node_input(step->graph, call->node, 0)->tensor;
    size_t width = step->graph->tensors[table].dims[1];
    for (size_t row = first; row < first + n; row++) {
        size_t index = 0;
        if (embed->index == SERVERD_INDEX_TOKEN)
            index = (size_t)step->batch->token[row];
        else if (embed->index == SERVERD_INDEX_POSITION)
            index = (size_t)step->batch->position[row];
        else if (step->batch->segment)
            index = step->batch->segment[row];
        float *out = cpu_output(call) + row * width;
        read_table_row(step, table, index, cpu_worker_scratch(step, worker), out);
        for (size_t i = 0; i < width && embed->scale != 1.0f; i++)
            out[i] *= embed->scale;
    }
}

/* ---- norms ----------------------------------------------------------------------------------- */

/* Norm weights are floats or halves, one element a block (see match). */
static float weight_at(const serverd_tensor *tensor, size_t i)
{
    const struct dtype_info *info = dtype_info(tensor->dtype);
    float x;
    info->to_f32((const char *)tensor->data + i * info->block_bytes, &x, 1);
    return x;
}

static const float *floats_of(const serverd_tensor *tensor, float *space)
{
    if (tensor->dtype == DTYPE_F32 && (uintptr_t)tensor->data % sizeof(float) == 0)
        return tensor->data;
    for (size_t i = 0; i < tensor->dims[0]; i++)
        space[i] = weight_at(tensor, i);
    return space;
}

static void rms_norm_rows(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker)
{
    const serverd_norm *norm = &call->node->attributes.norm;
    size_t width = norm->width, groups = input_width(call) / width;
    const float *w = floats_of(tensor_input(call, 1), cpu_worker_scratch(call->step, worker));
    const float *x = cpu_input(call, 0) + first * groups * width;
    float *out = cpu_output(call) + first * groups * width;
    for (size_t g = 0; g < n * groups; g++, x += width, out += width) {
        float mean = call->step->kernels->sum_of_squares(x, width) / (float)width;
        float inverse = 1.0f / sqrtf(mean + norm->eps);
        call->step->kernels->scale(x, inverse, w, out, width);
    }
}

static void layer_norm_rows(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker)
{
    const serverd_norm *norm = &call->node->attributes.norm;
    size_t width = norm->width, groups = input_width(call) / width;
    float *space = cpu_worker_scratch(call->step, worker);
    const float *w = floats_of(tensor_input(call, 1), space);
    const float *b = floats_of(tensor_input(call, 2), space + width);
    const float *x = cpu_input(call, 0) + first * groups * width;
    float *out = cpu_output(call) + first * groups * width;
    for (size_t g = 0; g < n * groups; g++, x += width, out += width) {
        float mean = call->step->kernels->sum(x, width) / (float)width;
        for (size_t i = 0; i < width; i++)
            out[i] = x[i] - mean;
        float variance = call->step->kernels->sum_of_squares(out, width) / (float)width;
        float inverse = 1.0f / sqrtf(variance + norm->eps);
        for (size_t i = 0; i < width; i++)
            out[i] = out[i] * inverse * w[i] + b[i];
    }
}

static void l2_rows(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker)
{
    (void)worker;
    size_t width = input_width(call);
    for (size_t row = first; row < first + n; row++) {
        const float *x = cpu_input(call, 0) + row * width;
        float *out = cpu_output(call) + row * width;
        float norm = sqrtf(call->step->kernels->sum_of_squares(x, width));
        float inverse = 1.0f / (norm > 1e-12f ? norm : 1e-12f);
        for (size_t i = 0; i < width; i++)
            out[i] = x[i] * inverse;
    }
}

/* ---- positions ------------------------------------------------------------------------------- */

static void fill_rope_row(const struct cpu_rope_table *table, int32_t position, float *out)
{
    for (uint32_t i = 0; i < table->n_pairs; i++) {
        float angle = (float)position * table->inv_freq[i];
        out[2 * i] = cosf(angle) * table->mscale;
        out[2 * i + 1] = sinf(angle) * table->mscale;
    }
}

static void fill_ropes(const void *arg, size_t first, size_t n, uint32_t worker)
{
    (void)worker;
    const struct cpu_step *step = arg;
    for (uint32_t t = 0; t < step->handle->n_ropes; t++) {
        const struct cpu_rope_table *table = &step->handle->ropes[t];
        for (size_t row = first; row < first + n; row++)
            fill_rope_row(table, step->batch->position[row],
                          table->cos_sin + row * 2 * table->n_pairs);
    }
}

void cpu_prepare_ropes(const struct cpu_step *step)
{
    if (step->handle->n_ropes > 0)
        cpu_split(step, step->batch->n_rows, 32, fill_ropes, step);
}

static void rope_rows(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker)
{
    (void)worker;
    const serverd_rope *rope = &call->node->attributes.rope;
    const serverd_handle *handle = call->step->handle;
    const struct cpu_rope_table *table = &handle->ropes[handle->node_rope[call->node_index]];
    size_t width = input_width(call), n_pairs = rope->n_rot / 2;
    for (size_t row = first; row < first + n; row++) {
        const float *cos_sin = table->cos_sin + row * 2 * n_pairs;
        for (size_t at = row * width; at < (row + 1) * width; at += rope->head_dim) {
            const float *x = cpu_input(call, 0) + at;
            float *out = cpu_output(call) + at;
            call->step->kernels->rope(x, cos_sin, n_pairs, rope->is_neox, out);
            memmove(out + rope->n_rot, x + rope->n_rot,
                    (rope->head_dim - rope->n_rot) * sizeof *out);
        }
    }
}

static void pos_scale_rows(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker)
{
    (void)worker;
    const serverd_pos_scale *scale = &call->node->attributes.pos_scale;
    size_t width = input_width(call);
    for (size_t row = first; row < first + n; row++) {
        uint32_t periods = (uint32_t)call->step->batch->position[row] / scale->period;
        float factor = 1.0f + scale->beta * logf(1.0f + (float)periods);
        const float *x = cpu_input(call, 0) + row * width;
        float *out = cpu_output(call) + row * width;
        for (size_t i = 0; i < width; i++)
            out[i] = x[i] * factor;
    }
}

/* ---- element by element ---------------------------------------------------------------------- */

static void add_rows(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker)
{
    (void)worker;
    size_t width = input_width(call);
    call->step->kernels->add(cpu_input(call, 0) + first * width, cpu_input(call, 1) + first * width,
                             cpu_output(call) + first * width, n * width);
}

static void scale_rows(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker)
{
    (void)worker;
    size_t width = input_width(call);
    call->step->kernels->scale(cpu_input(call, 0) + first * width, call->node->attributes.factor,
                               NULL, cpu_output(call) + first * width, n * width);
}

static void softcap_rows(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker)
{
    (void)worker;
    size_t width = input_width(call);
    call->step->kernels->softcap(cpu_input(call, 0) + first * width, call->node->attributes.factor,
                                 cpu_output(call) + first * width, n * width);
}

/* ACT, GLU. Rows are taken one by one so that the lanes of a row are the same in any batch. */
static void activate_rows(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker)
{
    (void)worker;
    size_t width = input_width(call);
    for (size_t row = first; row < first + n; row++) {
        const float *b = call->node->op == SERVERD_OP_GLU ? cpu_input(call, 1) + row * width : NULL;
        call->step->kernels->activate(call->node->attributes.activation,
                                      cpu_input(call, 0) + row * width, b,
                                      cpu_output(call) + row * width, width);
    }
}

/* ---- rows and columns ------------------------------------------------------------------------ */

static void slice_rows(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker)
{
    (void)worker;
    const serverd_slice *slice = &call->node->attributes.slice;
    size_t width = input_width(call);
    for (size_t row = first; row < first + n; row++)
        memcpy(cpu_output(call) + row * slice->count,
               cpu_input(call, 0) + row * width + slice->begin, slice->count * sizeof(float));
}

static void select_rows(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker)
{
    (void)worker;
    size_t width = input_width(call);
    for (size_t i = first; i < first + n; i++)
        memcpy(cpu_output(call) + i * width,
               cpu_input(call, 0) + call->step->batch->logit_row[i] * width, width * sizeof(float));
}

static void pool_seqs(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker)
{
    (void)worker;
    size_t width = input_width(call);
    const uint32_t *begin = call->step->handle->seq_begin;
    uint32_t pooling = call->node->attributes.pooling;
    for (size_t seq = first; seq < first + n; seq++) {
        size_t from = begin[seq], to = begin[seq + 1];
        float *out = cpu_output(call) + seq * width;
        const float *x = cpu_input(call, 0);
        if (pooling != SERVERD_POOL_MEAN) {
            size_t row = pooling == SERVERD_POOL_CLS ? from : to - 1;
            memcpy(out, x + row * width, width * sizeof *out);
            continue;
        }
        memset(out, 0, width * sizeof *out);
        for (size_t row = from; row < to; row++)
            for (size_t i = 0; i < width; i++)
                out[i] += x[row * width + i];
        for (size_t i = 0; i < width; i++)
            out[i] /= (float)(to - from);
    }
}

/* ---- a run of actions ------------------------------------------------------------------------ */

static void quantise_rows(const struct cpu_step *step, uint32_t value, size_t first, size_t n)
{
    struct cpu_rows q = cpu_quantised(step->handle, value);
    size_t k = value_width(&step->graph->values[value]);
    for (size_t row = first; row < first + n; row++)
        step->kernels->quantise(cpu_value(step, value) + row * k, k, &q, row);
}

static void run_node(const struct cpu_op_call *call, size_t first, size_t n, uint32_t worker)
{
    static void (*const ops[SERVERD_OP_COUNT])(const struct cpu_op_call *call, size_t first,
                                               size_t n, uint32_t worker) = {
        [SERVERD_OP_EMBED] = embed_rows,
        [SERVERD_OP_RMS_NORM] = rms_norm_rows,
        [SERVERD_OP_LAYER_NORM] = layer_norm_rows,
        [SERVERD_OP_ROPE] = rope_rows,
        [SERVERD_OP_POS_SCALE] = pos_scale_rows,
        [SERVERD_OP_ADD] = add_rows,
        [SERVERD_OP_SCALE] = scale_rows,
        [SERVERD_OP_SOFTCAP] = softcap_rows,
        [SERVERD_OP_ACT] = activate_rows,
        [SERVERD_OP_GLU] = activate_rows,
        [SERVERD_OP_SLICE] = slice_rows,
        [SERVERD_OP_SELECT] = select_rows,
        [SERVERD_OP_POOL] = pool_seqs,
        [SERVERD_OP_L2] = l2_rows,
    };
    ops[call->node->op](call, first, n, worker);
}

static void run_action(const struct cpu_step *step, const struct cpu_action *action, size_t first,
                       size_t n, uint32_t worker)
{
    if (action->kind == ACTION_QUANTISE) {
        quantise_rows(step, action->index, first, n);
        return;
    }
    const struct cpu_op_call call = {
        .step = step, .node = &step->graph->nodes[action->index], .node_index = action->index};
    if (action->kind == ACTION_APPEND)
        cpu_append_rows(&call, first, n);
    else
        run_node(&call, first, n, worker);
}

/* Quantising counts as the node that made the value. */
static uint32_t node_of(const struct cpu_step *step, const struct cpu_action *action)
{
    return action->kind == ACTION_QUANTISE ? step->graph->values[action->index].producer
                                           : action->index;
}

/* A node and quantising what it made are one. */
static bool is_last_of_node(const struct cpu_step *step, const struct cpu_phase *phase, uint32_t i)
{
    const struct cpu_action *action = step->handle->actions + phase->first_action + i;
    return i + 1 == phase->n_actions || node_of(step, action) != node_of(step, action + 1);
}

/* Rows that a thread takes through all actions before the next ones, so that they stay in its
 * cache. */
#define ROWS_AT_ONCE 8

void cpu_run_actions(const struct cpu_step *step, const struct cpu_phase *phase, size_t first,
                     size_t n, uint32_t worker)
{
    const serverd_handle *handle = step->handle;
    const struct cpu_action *actions = handle->actions + phase->first_action;
    struct cpu_laps laps;
    cpu_laps_start(step, worker, &laps);
    for (size_t row = first; row < first + n; row += ROWS_AT_ONCE) {
        size_t count = min_size(ROWS_AT_ONCE, first + n - row);
        for (uint32_t i = 0; i < phase->n_actions; i++) {
            run_action(step, &actions[i], row, count, worker);
            if (is_last_of_node(step, phase, i))
                cpu_laps_add(step, &laps, i);
        }
    }
    for (uint32_t i = 0; i < phase->n_actions; i++)
        if (is_last_of_node(step, phase, i))
            cpu_laps_tell(step, &laps, i, worker, node_of(step, &actions[i]), n);
}

struct rows_job {
    const struct cpu_step *step;
    const struct cpu_phase *phase;
};

static void run_job(const void *arg, size_t first, size_t n, uint32_t worker)
{
    const struct rows_job *job = arg;
    cpu_run_actions(job->step, job->phase, first, n, worker);
}

/* Elements of all actions that are worth a hand-out to another thread. */
#define GRAIN 4096

static size_t elements_of(const struct cpu_step *step, const struct cpu_phase *phase)
{
    const serverd_graph *graph = step->graph;
    size_t n = 1;
    for (uint32_t i = 0; i < phase->n_actions; i++) {
        const struct cpu_action *action = &step->handle->actions[phase->first_action + i];
        n += action->kind == ACTION_QUANTISE
                 ? value_width(&graph->values[action->index])
                 : value_width(node_output(graph, &graph->nodes[action->index]));
    }
    return n;
}

void cpu_run_rows(const struct cpu_step *step, const struct cpu_phase *phase)
{
    struct rows_job job = {.step = step, .phase = phase};
    cpu_split(step, cpu_rows_of(step, phase->rows), max_size(1, GRAIN / elements_of(step, phase)),
              run_job, &job);
}
