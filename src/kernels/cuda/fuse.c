#include "kernels/cuda/fuse.h"

#include "base/numeric.h"
#include "kernels/cuda/cuda_internal.h"
#include "program/op.h"

#include <stdlib.h>
#include <string.h>

struct fusing {
    const serverd_graph *graph;
    const serverd_partition *partition;
    uint32_t *n_readers; /* [n_values] nodes that read it, and who gets it from the partition */
    struct fusion *fusions;
};

static const serverd_node *node_at(const struct fusing *f, uint32_t i)
{
    return &f->graph->nodes[f->partition->first_node + i];
}

static uint32_t input_of(const struct fusing *f, const serverd_node *node, uint32_t i)
{
    return f->graph->operands[node->first_operand + i];
}

static uint32_t output_of(const struct fusing *f, const serverd_node *node)
{
    return input_of(f, node, node->n_inputs);
}

static void count_readers(struct fusing *f)
{
    for (uint32_t n = 0; n < f->graph->n_nodes; n++)
        for (uint32_t i = 0; i < f->graph->nodes[n].n_inputs; i++)
            f->n_readers[input_of(f, &f->graph->nodes[n], i)]++;
    for (uint32_t i = 0; i < f->partition->n_outputs; i++)
        f->n_readers[f->partition->outputs[i]]++;
}

/* ---- rows of linear layers ------------------------------------------------------------------- */

static bool can_make_fragments(const struct fusing *f, const serverd_node *node)
{
    const uint64_t width = value_width(node_output(f->graph, node));
    switch (node->op) {
    case SERVERD_OP_RMS_NORM:
    case SERVERD_OP_LAYER_NORM:
        return node->attributes.norm.width == width;
    case SERVERD_OP_ACT:
    case SERVERD_OP_GLU:
        return true;
    case SERVERD_OP_ATTN: /* it writes no zeros behind a row */
        return width % FRAGMENT_ROW_K == 0;
    default:
        return false;
    }
}

/* There is one place for fragments: they last until the next are made. So linear layers that read
 * the same rows share them if they follow each other. */
static void share_fragments(struct fusing *f, uint32_t i)
{
    const uint32_t n_nodes = f->partition->n_nodes, value = output_of(f, node_at(f, i));
    uint32_t end = i + 1;
    while (end < n_nodes && node_at(f, end)->op == SERVERD_OP_LINEAR &&
           input_of(f, node_at(f, end), 0) == value)
        end++;
    const bool are_all = end > i + 1 && f->n_readers[value] == end - i - 1;
    f->fusions[i].makes_fragments = are_all && can_make_fragments(f, node_at(f, i));
    if (f->fusions[i].makes_fragments)
        f->fusions[i + 1].has_fragments = true;
}

static bool has_rows_of_the_last(const struct fusing *f, uint32_t i)
{
    return i > 0 && node_at(f, i - 1)->op == SERVERD_OP_LINEAR &&
           node_at(f, i)->op == SERVERD_OP_LINEAR &&
           input_of(f, node_at(f, i - 1), 0) == input_of(f, node_at(f, i), 0);
}

/* ---- linear layers and what follows them ----------------------------------------------------- */

static enum fragment_form form_of(const struct fusing *f, uint32_t i)
{
    return cuda_fragment_form(cuda_tensor(f->graph, node_at(f, i), 1)->dtype);
}

/* Those behind node i that read the same rows, and have weights of the same form. */
static void join(struct fusing *f, uint32_t i)
{
    uint32_t n = 0;
    if (node_at(f, i)->op != SERVERD_OP_LINEAR || f->fusions[i].is_done)
        return;
    while (n + 1 < GPU_MAX_JOINED && i + n + 1 < f->partition->n_nodes &&
           has_rows_of_the_last(f, i + n + 1) && form_of(f, i) == form_of(f, i + n + 1))
        f->fusions[i + ++n].is_done = true;
    f->fusions[i].n_joined = n;
}

/* The node behind node i adds something to its result, which nobody else wants. */
static void take_sum(struct fusing *f, uint32_t i)
{
    if (node_at(f, i)->op != SERVERD_OP_LINEAR || i + 1 >= f->partition->n_nodes)
        return;
    const serverd_node *add = node_at(f, i + 1);
    const uint32_t value = output_of(f, node_at(f, i));
    if (add->op != SERVERD_OP_ADD || f->n_readers[value] != 1 ||
        (input_of(f, add, 0) != value && input_of(f, add, 1) != value))
        return;
    const uint32_t other = input_of(f, add, input_of(f, add, 0) == value ? 1 : 0);
    if (f->graph->values[other].kind == SERVERD_VALUE_CONSTANT)
        return;
    f->fusions[i].add = add;
    f->fusions[i].added = other;
    f->fusions[i + 1].is_done = true;
}

/* ---- turning and appending ------------------------------------------------------------------- */

static bool turn_alike(const struct fusing *f, const serverd_node *a, const serverd_node *b)
{
    if (a->n_inputs != b->n_inputs ||
        memcmp(&a->attributes.rope, &b->attributes.rope, sizeof a->attributes.rope) != 0)
        return false;
    for (uint32_t i = 1; i < a->n_inputs; i++)
        if (input_of(f, a, i) != input_of(f, b, i))
            return false;
    return true;
}

/* Of the two nodes before node i: queries' and keys' rope, and nobody else wants turned keys. */
static void take_turns(struct fusing *f, uint32_t i)
{
    const serverd_node *node = node_at(f, i);
    const serverd_attn *attn = &node->attributes.attn;
    if (node->op != SERVERD_OP_ATTN || !attn->is_causal || i < 2)
        return;
    const serverd_node *q = node_at(f, i - 2), *k = node_at(f, i - 1);
    if (q->op != SERVERD_OP_ROPE || k->op != SERVERD_OP_ROPE || !turn_alike(f, q, k) ||
        output_of(f, q) != input_of(f, node, 0) || output_of(f, k) != input_of(f, node, 1) ||
        f->n_readers[output_of(f, k)] != 1 || k->attributes.rope.head_dim != attn->k_dim ||
        attn->k_dim > GPU_MAX_TURNED_DIM)
        return;
    f->fusions[i].turn_q = q;
    f->fusions[i].turn_k = k;
    f->fusions[i - 2].is_done = f->fusions[i - 1].is_done = true;
}

struct fusion *fuse(const serverd_graph *graph, const serverd_partition *partition, bool has_store)
{
    struct fusing f = {.graph = graph,
                       .partition = partition,
                       .n_readers = calloc(max_size(graph->n_values, 1), sizeof *f.n_readers),
                       .fusions = calloc(max_size(partition->n_nodes, 1), sizeof *f.fusions)};
    if (!f.n_readers || !f.fusions) {
        free(f.n_readers);
        free(f.fusions);
        return NULL;
    }
    count_readers(&f);
    for (uint32_t i = 0; i < partition->n_nodes; i++) {
        f.fusions[i].has_fragments |= has_rows_of_the_last(&f, i);
        share_fragments(&f, i);
        join(&f, i);
        take_sum(&f, i);
        if (has_store)
            take_turns(&f, i);
    }
    free(f.n_readers);
    return f.fusions;
}
