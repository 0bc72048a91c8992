#include "kernels/reference/run_node.h"

#include "base/numeric.h"
#include "kernels/reference/matmul.h"
#include "kernels/reference/reference_internal.h"

#include <math.h>
#include <string.h>

/* One node of a step; the functions below compute one row of its output. */
struct call {
    const struct reference_step *step;
    const serverd_node *node;
    const float *a, *b; /* inputs that are activations; NULL: there is none */
    float *out;
    size_t width; /* columns of a */
    void (*run_row)(const struct call *call, size_t row);
};

size_t reference_rows(const serverd_batch *batch, int64_t kind)
{
    if (kind == SERVERD_DIM_SEQS)
        return batch->n_seqs;
    return kind == SERVERD_DIM_SELECTED ? batch->n_logit_rows : batch->n_rows;
}

/* A vector among the constants is F32 (program/op.h). */
static const float *vector(const struct call *call, uint32_t input)
{
    return reference_tensor(call->step->graph, call->node, input)->data;
}

static void embed_row(const struct call *call, size_t row)
{
    const serverd_embed *embed = &call->node->attributes.embed;
    const uint32_t table = node_input(call->step->graph, call->node, 0)->tensor;
    const size_t width = call->step->graph->tensors[table].dims[1];
    size_t index = 0;
    if (embed->index == SERVERD_INDEX_TOKEN)
        index = (size_t)call->step->batch->token[row];
    else if (embed->index == SERVERD_INDEX_POSITION)
        index = (size_t)call->step->batch->position[row];
    else if (call->step->batch->segment)
        index = call->step->batch->segment[row];
    float *out = call->out + row * width;
    for (size_t begin = 0; begin < width; begin += REFERENCE_SPAN)
        reference_read_weights(call->step, table, index, begin,
                               min_size(REFERENCE_SPAN, width - begin), out + begin);
    for (size_t i = 0; i < width; i++)
        out[i] *= embed->scale;
}

/* ---- norms ----------------------------------------------------------------------------------- */

static double sum_of_squares(const float *x, double mean, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += ((double)x[i] - mean) * ((double)x[i] - mean);
    return sum;
}

static void rms_norm_row(const struct call *call, size_t row)
{
    const serverd_norm *norm = &call->node->attributes.norm;
    const float *w = vector(call, 1);
    for (size_t at = row * call->width; at < (row + 1) * call->width; at += norm->width) {
        const float *x = call->a + at;
        double mean = sum_of_squares(x, 0, norm->width) / norm->width;
        double inverse = 1 / sqrt(mean + (double)norm->eps);
        for (size_t i = 0; i < norm->width; i++)
            call->out[at + i] = (float)((double)x[i] * inverse * (double)w[i]);
    }
}

static void layer_norm_row(const struct call *call, size_t row)
{
    const serverd_norm *norm = &call->node->attributes.norm;
    const float *w = vector(call, 1), *b = vector(call, 2);
    for (size_t at = row * call->width; at < (row + 1) * call->width; at += norm->width) {
        const float *x = call->a + at;
        double mean = 0;
        for (size_t i = 0; i < norm->width; i++)
            mean += (double)x[i];
        mean /= norm->width;
        double variance = sum_of_squares(x, mean, norm->width) / norm->width;
        double inverse = 1 / sqrt(variance + (double)norm->eps);
        for (size_t i = 0; i < norm->width; i++)
            call->out[at + i] =
                (float)(((double)x[i] - mean) * inverse * (double)w[i] + (double)b[i]);
    }
}

static void l2_row(const struct call *call, size_t row)
{
    const float *x = call->a + row * call->width;
    double norm = fmax(sqrt(sum_of_squares(x, 0, call->width)), 1e-12);
    for (size_t i = 0; i < call->width; i++)
        call->out[row * call->width + i] = (float)((double)x[i] / norm);
}

/* ---- positions ------------------------------------------------------------------------------- */

static void rope_row(const struct call *call, size_t row)
{
    const serverd_rope *rope = &call->node->attributes.rope;
    bool is_alternative = call->node->n_inputs == 3 && call->step->max_context > rope->alt_from;
    const float *inv_freq = vector(call, is_alternative ? 2 : 1);
    const double mscale = (double)(is_alternative ? rope->alt_mscale : rope->mscale);
    const uint32_t n_pairs = rope->n_rot / 2;
    const float position = (float)call->step->batch->position[row];
    for (uint32_t i = 0; i < n_pairs; i++) {
        const float angle = position * inv_freq[i]; /* in f32, as the tables are made for */
        const double c = cos((double)angle) * mscale, s = sin((double)angle) * mscale;
        const size_t first = rope->is_neox ? i : 2 * i,
                     second = first + (rope->is_neox ? n_pairs : 1);
        for (size_t at = row * call->width; at < (row + 1) * call->width; at += rope->head_dim) {
            const double x = (double)call->a[at + first], y = (double)call->a[at + second];
            call->out[at + first] = (float)(x * c - y * s);
            call->out[at + second] = (float)(x * s + y * c);
        }
    }
    for (size_t at = row * call->width; at < (row + 1) * call->width; at += rope->head_dim)
        memmove(call->out + at + rope->n_rot, call->a + at + rope->n_rot,
                (rope->head_dim - rope->n_rot) * sizeof *call->out);
}

static void pos_scale_row(const struct call *call, size_t row)
{
    const serverd_pos_scale *scale = &call->node->attributes.pos_scale;
    uint32_t periods = (uint32_t)call->step->batch->position[row] / scale->period;
    double factor = 1 + (double)scale->beta * log(1 + (double)periods);
    for (size_t i = row * call->width; i < (row + 1) * call->width; i++)
        call->out[i] = (float)((double)call->a[i] * factor);
}

/* ---- element by element ---------------------------------------------------------------------- */

static void add_row(const struct call *call, size_t row)
{
    for (size_t i = row * call->width; i < (row + 1) * call->width; i++)
        call->out[i] = call->a[i] + call->b[i];
}

static void scale_row(const struct call *call, size_t row)
{
    for (size_t i = row * call->width; i < (row + 1) * call->width; i++)
        call->out[i] = call->a[i] * call->node->attributes.factor;
}

static void softcap_row(const struct call *call, size_t row)
{
    const double cap = (double)call->node->attributes.factor;
    for (size_t i = row * call->width; i < (row + 1) * call->width; i++)
        call->out[i] = (float)(cap * tanh((double)call->a[i] / cap));
}

static double activate(uint32_t function, double x)
{
    switch (function) {
    case SERVERD_ACT_SILU:
        return x / (1 + exp(-x));
    case SERVERD_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(M_2_SQRTPI * M_SQRT1_2 * (x + 0.044715 * x * x * x)));
    case SERVERD_ACT_GELU_ERF:
        return 0.5 * x * (1 + erf(x * M_SQRT1_2));
    case SERVERD_ACT_RELU:
        return x < 0 ? 0 : x;
    case SERVERD_ACT_SIGMOID:
        return 1 / (1 + exp(-x));
    default:
        return tanh(x);
    }
}

static void activate_row(const struct call *call, size_t row)
{
    for (size_t i = row * call->width; i < (row + 1) * call->width; i++) {
        double y = activate(call->node->attributes.activation, (double)call->a[i]);
        call->out[i] = (float)(call->b ? y * (double)call->b[i] : y);
    }
}

/* ---- rows and columns ------------------------------------------------------------------------ */

static void slice_row(const struct call *call, size_t row)
{
    const serverd_slice *slice = &call->node->attributes.slice;
    memmove(call->out + row * slice->count, call->a + row * call->width + slice->begin,
            slice->count * sizeof *call->out);
}

static void select_row(const struct call *call, size_t row)
{
    memcpy(call->out + row * call->width, call->a + call->step->batch->logit_row[row] * call->width,
           call->width * sizeof *call->out);
}

static void pool_seq(const struct call *call, size_t seq)
{
    const serverd_batch *batch = call->step->batch;
    const uint32_t pooling = call->node->attributes.pooling;
    float *out = call->out + seq * call->width;
    size_t from = 0, to;
    while (batch->row_seq[from] != seq)
        from++;
    for (to = from; to < batch->n_rows && batch->row_seq[to] == seq;)
        to++;
    if (pooling != SERVERD_POOL_MEAN) {
        size_t row = pooling == SERVERD_POOL_CLS ? from : to - 1;
        memcpy(out, call->a + row * call->width, call->width * sizeof *out);
        return;
    }
    for (size_t i = 0; i < call->width; i++) {
        double sum = 0;
        for (size_t row = from; row < to; row++)
            sum += (double)call->a[row * call->width + i];
        out[i] = (float)(sum / (double)(to - from));
    }
}

/* ---- a node ---------------------------------------------------------------------------------- */

/* NULL: a file of its own. */
static void (*const row_functions[SERVERD_OP_COUNT])(const struct call *, size_t) = {
    [SERVERD_OP_EMBED] = embed_row,
    [SERVERD_OP_RMS_NORM] = rms_norm_row,
    [SERVERD_OP_LAYER_NORM] = layer_norm_row,
    [SERVERD_OP_ROPE] = rope_row,
    [SERVERD_OP_POS_SCALE] = pos_scale_row,
    [SERVERD_OP_ADD] = add_row,
    [SERVERD_OP_SCALE] = scale_row,
    [SERVERD_OP_SOFTCAP] = softcap_row,
    [SERVERD_OP_ACT] = activate_row,
    [SERVERD_OP_GLU] = activate_row,
    [SERVERD_OP_SLICE] = slice_row,
    [SERVERD_OP_SELECT] = select_row,
    [SERVERD_OP_POOL] = pool_seq,
    [SERVERD_OP_L2] = l2_row,
};

static void run_row(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct call *call = arg;
    call->run_row(call, chunk);
}

/* The rows of an input that is an activation. */
static const float *input_rows(const struct reference_step *step, const serverd_node *node,
                               uint32_t input)
{
    if (input >= node->n_inputs ||
        node_input(step->graph, node, input)->kind != SERVERD_VALUE_ACTIVATION)
        return NULL;
    return step->values[step->graph->operands[node->first_operand + input]];
}

void reference_run_node(const struct reference_step *step, uint32_t index)
{
    const serverd_graph *graph = step->graph;
    const serverd_node *node = &graph->nodes[index];
    if (node->op == SERVERD_OP_LINEAR) {
        reference_run_linear(step, node);
        return;
    }
    if (node->op == SERVERD_OP_ATTN) {
        reference_attend(step, node);
        return;
    }
    struct call call = {.step = step,
                        .node = node,
                        .a = input_rows(step, node, 0),
                        .b = input_rows(step, node, 1),
                        .out = step->values[graph->operands[node->first_operand + node->n_inputs]],
                        .width = value_width(node_input(graph, node, 0)),
                        .run_row = row_functions[node->op]};
    size_t n = reference_rows(step->batch, node_output(graph, node)->dims[0]);
    if (n > 0)
        step->host->parallel_for(step->host->context, (uint32_t)n, run_row, &call);
}
