#include "quantise/forward.h"

#include "base/error.h"
#include "base/numeric.h"
#include "program/op.h"
#include "quantise/linalg.h"

#include <stdlib.h>

static void parallel_for(void *context, uint32_t n_chunks,
                         void (*fn)(void *arg, uint32_t chunk, uint32_t worker), void *arg)
{
    worker_pool_run(context, n_chunks, fn, arg);
}

static void find_last_uses(struct forward *forward)
{
    const serverd_graph *graph = forward->graph;
    for (uint32_t n = 0; n < graph->n_nodes; n++) {
        const serverd_node *node = &graph->nodes[n];
        for (uint32_t i = 0; i < (uint32_t)node->n_inputs + node->n_outputs; i++)
            forward->last_use[graph->operands[node->first_operand + i]] = n;
    }
    forward->last_use[graph->output] = UINT32_MAX;
}

static void set_batch(struct forward *forward, const struct token_sequences *sequences)
{
    const uint32_t n = sequences_n_tokens(sequences);
    for (uint32_t s = 0; s < sequences->n; s++)
        for (uint32_t i = sequences->begin[s]; i < sequences->begin[s + 1]; i++) {
            forward->position[i] = (int32_t)(i - sequences->begin[s]);
            forward->row_seq[i] = s;
            forward->logit_row[i] = i;
        }
    forward->batch = (serverd_batch){.struct_bytes = sizeof forward->batch,
                                     .n_rows = n,
                                     .n_seqs = sequences->n,
                                     .n_logit_rows = n,
                                     .token = sequences->token,
                                     .position = forward->position,
                                     .row_seq = forward->row_seq,
                                     .logit_row = forward->logit_row};
}

serverd_status forward_create(const serverd_graph *graph, uint32_t max_context,
                              const struct token_sequences *sequences, struct worker_pool *pool,
                              struct forward **out, serverd_error *err)
{
    const size_t n = sequences_n_tokens(sequences);
    struct forward *forward = calloc(1, sizeof *forward);
    if (!forward)
        return fail(err, SERVERD_NOMEM, "no memory for a forward pass");
    *forward = (struct forward){.graph = graph,
                                .pool = pool,
                                .max_context = max_context,
                                .position = calloc(n + 1, sizeof *forward->position),
                                .row_seq = calloc(n + 1, sizeof *forward->row_seq),
                                .logit_row = calloc(n + 1, sizeof *forward->logit_row),
                                .values = calloc(graph->n_values + 1, sizeof *forward->values),
                                .last_use = calloc(graph->n_values + 1, sizeof *forward->last_use)};
    forward->host = (serverd_host){.struct_bytes = sizeof forward->host,
                                   .n_workers = worker_pool_n_workers(pool),
                                   .context = pool,
                                   .parallel_for = parallel_for};
    if (!forward->position || !forward->row_seq || !forward->logit_row || !forward->values ||
        !forward->last_use) {
        forward_destroy(forward);
        return fail(err, SERVERD_NOMEM, "no memory for a forward pass over %zu tokens", n);
    }
    set_batch(forward, sequences);
    find_last_uses(forward);
    *out = forward;
    return SERVERD_OK;
}

void forward_destroy(struct forward *forward)
{
    if (!forward)
        return;
    for (uint32_t i = 0; forward->values && i < forward->graph->n_values; i++)
        free(forward->values[i]);
    free(forward->values);
    free(forward->position);
    free(forward->row_seq);
    free(forward->logit_row);
    free(forward->last_use);
    free(forward);
}

size_t forward_rows(const struct forward *forward, uint32_t value)
{
    return reference_rows(&forward->batch, forward->graph->values[value].dims[0]);
}

size_t forward_width(const struct forward *forward, uint32_t value)
{
    return value_width(&forward->graph->values[value]);
}

static void let_go(struct forward *forward, const serverd_node *node, uint32_t index)
{
    for (uint32_t i = 0; i < (uint32_t)node->n_inputs + node->n_outputs; i++) {
        uint32_t value = forward->graph->operands[node->first_operand + i];
        if (forward->last_use[value] == index) {
            free(forward->values[value]);
            forward->values[value] = NULL;
        }
    }
}

/* Linear layers take nearly all of the time: they run on the back-end's kernels, in f32. */
serverd_status forward_run_node(const struct reference_step *step, uint32_t index,
                                struct worker_pool *pool, serverd_error *err)
{
    const serverd_graph *graph = step->graph;
    const serverd_node *node = &graph->nodes[index];
    if (node->op != SERVERD_OP_LINEAR) {
        reference_run_node(step, index);
        return SERVERD_OK;
    }
    const uint32_t *operands = graph->operands + node->first_operand;
    const float *bias =
        node->n_inputs == 3 ? graph->tensors[node_input(graph, node, 2)->tensor].data : NULL;
    return multiply_tensor(step->values[operands[0]],
                           reference_rows(step->batch, node_output(graph, node)->dims[0]),
                           &graph->tensors[node_input(graph, node, 1)->tensor], bias,
                           step->values[operands[node->n_inputs]], pool, err);
}

serverd_status forward_run_to(struct forward *forward, uint32_t node, serverd_error *err)
{
    const serverd_graph *graph = forward->graph;
    const struct reference_step step = {.graph = graph,
                                        .host = &forward->host,
                                        .batch = &forward->batch,
                                        .max_context = forward->max_context,
                                        .values = forward->values};
    for (; forward->next < node; forward->next++) {
        const serverd_node *n = &graph->nodes[forward->next];
        uint32_t made = graph->operands[n->first_operand + n->n_inputs];
        size_t bytes;
        if (!size_mul(forward_rows(forward, made), forward_width(forward, made), &bytes) ||
            !size_mul(bytes, sizeof(float), &bytes) ||
            !(forward->values[made] = malloc(max_size(bytes, 1))))
            return fail(err, SERVERD_NOMEM, "no memory for %u rows of node %u",
                        forward->batch.n_rows, forward->next);
        serverd_status status = forward_run_node(&step, forward->next, forward->pool, err);
        if (status != SERVERD_OK)
            return status;
        let_go(forward, n, forward->next);
    }
    return SERVERD_OK;
}
