#include "compiler/sdp_plan_write.h"

#include "base/error.h"
#include "program/sdp_format.h"
#include "program/sdp_plan.h"

#include <stdlib.h>
#include <string.h>

/* Whether it takes every node. */
static bool takes_all(const serverd_graph *graph, const serverd_delegate *delegate)
{
    const serverd_host host = {.struct_bytes = sizeof host, .n_workers = 1};
    for (uint32_t n = 0, step; n < graph->n_nodes; n += step) {
        serverd_claim claim = {.struct_bytes = sizeof claim};
        serverd_error why;
        if (delegate->match(&host, graph, n, &claim, &why) != SERVERD_OK || claim.n_nodes == 0)
            return false;
        step = claim.n_nodes;
    }
    return true;
}

static void put_partition(const struct program_plan *plan, struct buffer *out)
{
    struct sdp_plan_partition record = {.first_node = plan->first_node,
                                        .n_nodes = plan->n_nodes,
                                        .n_buffers = plan->plan.n_buffers,
                                        .arena_bytes = plan->plan.arena_bytes};
    memcpy(record.delegate, plan->delegate, strnlen(plan->delegate, sizeof record.delegate - 1));
    buffer_append(out, &record, sizeof record);
    buffer_append(out, plan->plan.use, plan->n_nodes * sizeof *plan->plan.use);
    if (plan->n_nodes % 2 != 0)
        buffer_append(out, "\0\0\0", sizeof *plan->plan.use);
    buffer_append(out, plan->plan.buffers, plan->plan.n_buffers * sizeof *plan->plan.buffers);
}

static void put_plan(const struct program_plan *plan, struct buffer *out)
{
    const struct sdp_plan head = {.max_rows = plan->limits.max_rows,
                                  .max_logit_rows = plan->limits.max_logit_rows,
                                  .max_seqs = plan->limits.max_seqs,
                                  .max_context = plan->limits.max_context,
                                  .n_partitions = 1};
    buffer_append(out, &head, sizeof head);
    put_partition(plan, out);
}

serverd_status sdp_put_plan(const struct program *program, const serverd_delegate *delegate,
                            const serverd_limits *limits, struct buffer *out,
                            uint32_t *n_partitions, serverd_error *err)
{
    const serverd_graph *graph = &program->graph;
    *n_partitions = 0;
    if (graph->n_nodes == 0 || !delegate->plan || !takes_all(graph, delegate))
        return SERVERD_OK;
    const serverd_partition whole = {.struct_bytes = sizeof whole,
                                     .n_nodes = graph->n_nodes,
                                     .n_outputs = 1,
                                     .outputs = &graph->output};
    struct program_plan plan = {
        .delegate = delegate->name, .n_nodes = graph->n_nodes, .limits = *limits};
    serverd_buffer *buffers = calloc(graph->n_nodes, 2 * sizeof *buffers);
    uint32_t *use = calloc(graph->n_nodes, sizeof *use);
    serverd_status status =
        buffers && use ? delegate->plan(graph, &whole, limits, buffers, use, &plan.plan, err)
                       : fail(err, SERVERD_NOMEM, "no memory for a plan");
    if (status == SERVERD_OK && (status = plan_check(&plan, graph, err)) != SERVERD_OK)
        (void)error_context(err, "the plan of %s", delegate->name);
    if (status == SERVERD_OK) {
        put_plan(&plan, out);
        *n_partitions = 1;
    }
    free(buffers);
    free(use);
    return status;
}
