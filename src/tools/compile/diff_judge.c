#include "tools/compile/diff_judge.h"

#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* So many times the usual noise is too much: 12 dB. Quantised layers of one type differ by less,
 * most of the time. */
#define TOO_MUCH 16.0

/* Less than that is the rounding of f32: 130 dB. */
#define ROUNDING 1e-13

/* Nor does it matter what is so far below the noise of most linear layers: 30 dB. */
#define NEGLIGIBLE 1e-3

/* So many layers before a node have a median. */
#define ENOUGH 3u

/* ---- who is alike ---------------------------------------------------------------------------- */

/* The first weights that a node reads, without their layer: "attn_q.weight". */
static const char *place_of(const serverd_graph *graph, uint32_t node)
{
    const char *name = node_weights(graph, node);
    unsigned layer;
    int skipped = 0;
    if (sscanf(name, "blk.%u.%n", &layer, &skipped) == 1)
        name += skipped;
    return name;
}

static serverd_dtype dtype_of(const serverd_graph *graph, uint32_t node)
{
    const serverd_node *n = &graph->nodes[node];
    for (uint32_t i = 0; i < n->n_inputs; i++) {
        const serverd_value *value = &graph->values[graph->operands[n->first_operand + i]];
        if (value->kind == SERVERD_VALUE_CONSTANT)
            return graph->tensors[value->tensor].dtype;
    }
    return 0;
}

/* With whom a node is compared, the nearest first. */
enum likeness {
    LIKE_PLACE_BEFORE = 0, /* the same place and types, in the layers before it */
    LIKE_PLACE,            /* in all others */
    LIKE_OP,               /* the same operation, anywhere */
    LIKE_LINEAR            /* any linear layer */
};

struct judgement {
    const struct diff_run *run;
    const serverd_graph *a, *b;
    double *noises;    /* [n_nodes] */
    double negligible; /* noise that does not matter */
};

static bool is_like(const struct judgement *j, uint32_t index, uint32_t other,
                    enum likeness likeness)
{
    const struct diff_node *y = &j->run->nodes[other];
    uint32_t op = j->a->nodes[y->a].op;
    if (other == index)
        return false;
    if (likeness == LIKE_LINEAR)
        return op == SERVERD_OP_LINEAR;
    const struct diff_node *x = &j->run->nodes[index];
    if (likeness == LIKE_OP || op != j->a->nodes[x->a].op)
        return op == j->a->nodes[x->a].op;
    return x->group != y->group && (likeness == LIKE_PLACE || other < index) &&
           strcmp(place_of(j->a, x->a), place_of(j->a, y->a)) == 0 &&
           dtype_of(j->a, x->a) == dtype_of(j->a, y->a) &&
           dtype_of(j->b, x->b) == dtype_of(j->b, y->b);
}

/* ---- the judgement --------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static size_t gather(const struct judgement *j, uint32_t index, enum likeness likeness)
{
    size_t n = 0;
    for (uint32_t i = 0; i < j->run->n_nodes; i++)
        if (j->run->nodes[i].is_own && is_like(j, index, i, likeness))
            j->noises[n++] = gap_noise(&j->run->nodes[i].own);
    return n;
}

/* ---- bits ------------------------------------------------------------------------------------ */

static int by_name(const void *key, const void *item)
{
    const struct tensor_difference *t = item;
    return strcmp(key, t->a.name ? t->a.name : t->b.name);
}

static bool reads_changed(const struct diff_files *files, const serverd_graph *graph, uint32_t node)
{
    const serverd_node *n = &graph->nodes[node];
    for (uint32_t i = 0; i < n->n_inputs && files->n_tensors > 0; i++) {
        const serverd_value *value = &graph->values[graph->operands[n->first_operand + i]];
        if (value->kind != SERVERD_VALUE_CONSTANT)
            continue;
        const struct tensor_difference *found =
            bsearch(graph->tensors[value->tensor].name, files->tensors, files->n_tensors,
                    sizeof *files->tensors, by_name);
        if (found && found->what == DIFF_BYTES)
            return true;
    }
    return false;
}

/* Most of the nodes in its place in other layers read what they did. */
static bool is_changed_alone(const struct judgement *j, uint32_t index)
{
    uint32_t n = 0, n_changed = 0;
    for (uint32_t i = 0; i < j->run->n_nodes; i++)
        if (is_like(j, index, i, LIKE_PLACE)) {
            n++;
            n_changed += j->run->nodes[i].is_changed;
        }
    return j->run->nodes[index].is_changed && 2 * n_changed < n;
}

/* ---- noise ----------------------------------------------------------------------------------- */

/* The noise that `share` of those with a likeness stay below; negative: nobody has it. */
static double quantile(const struct judgement *j, uint32_t index, enum likeness likeness,
                       double share)
{
    size_t n = gather(j, index, likeness);
    qsort(j->noises, n, sizeof *j->noises, compare);
    return n > (likeness == LIKE_PLACE_BEFORE ? ENOUGH - 1 : 0)
               ? j->noises[(size_t)(share * (double)(n - 1))]
               : -1;
}

/* The median of the layers before it. The first layers of some models are quieter than all others:
 * so no less than what a quarter of all layers have. Of a node without its like, the median of the
 * operation, or of linear layers. Negative: there are none. */
static double usual_noise(const struct judgement *j, uint32_t index)
{
    double before = quantile(j, index, LIKE_PLACE_BEFORE, 0.5);
    double all = quantile(j, index, LIKE_PLACE, before < 0 ? 0.5 : 0.25);
    if (all < 0)
        all = quantile(j, index, LIKE_OP, 0.5);
    if (all < 0)
        all = quantile(j, index, LIKE_LINEAR, 0.5);
    return before > all ? before : all;
}

static void judge_node(const struct judgement *j, struct diff_node *node, uint32_t index)
{
    node->is_bad = is_changed_alone(j, index);
    if (!node->is_own)
        return;
    double noise = gap_noise(&node->own);
    node->usual = usual_noise(j, index);
    node->is_bad |= node->usual >= 0 && noise > j->negligible && noise > TOO_MUCH * node->usual;
}

serverd_status diff_judge(struct diff_run *run, const struct diff_files *files,
                          const serverd_graph *a, const serverd_graph *b, serverd_error *err)
{
    struct judgement judgement = {
        .run = run, .a = a, .b = b, .noises = calloc(run->n_nodes + 1u, sizeof(double))};
    if (!judgement.noises)
        return fail(err, SERVERD_NOMEM, "no memory to judge %u nodes", run->n_nodes);
    run->bad_node = UINT32_MAX;
    for (uint32_t i = 0; i < run->n_nodes; i++) {
        run->nodes[i].usual = -1;
        run->nodes[i].is_changed = reads_changed(files, a, run->nodes[i].a);
    }
    judgement.negligible = NEGLIGIBLE * quantile(&judgement, UINT32_MAX, LIKE_LINEAR, 0.5);
    if (judgement.negligible < ROUNDING)
        judgement.negligible = ROUNDING;
    for (uint32_t i = 0; i < run->n_nodes; i++) {
        judge_node(&judgement, &run->nodes[i], i);
        if (run->nodes[i].is_bad && run->bad_node == UINT32_MAX)
            run->bad_node = i;
    }
    free(judgement.noises);
    return SERVERD_OK;
}
