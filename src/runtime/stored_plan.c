#include "runtime/stored_plan.h"

#include <string.h>

static bool covers(const serverd_limits *plan, const serverd_limits *limits)
{
    return plan->max_rows >= limits->max_rows && plan->max_logit_rows >= limits->max_logit_rows &&
           plan->max_seqs >= limits->max_seqs && plan->max_context >= limits->max_context;
}

static const serverd_plan *find_plan(const struct program *program, const char *delegate,
                                     const serverd_partition *view, const serverd_limits *limits)
{
    for (uint32_t i = 0; i < program->n_plans; i++) {
        const struct program_plan *plan = &program->plans[i];
        if (plan->first_node == view->first_node && plan->n_nodes == view->n_nodes &&
            strcmp(plan->delegate, delegate) == 0 && covers(&plan->limits, limits))
            return &plan->plan;
    }
    return NULL;
}

void stored_plans_use(struct placement *placement, const struct program *program,
                      const serverd_limits *limits)
{
    for (uint32_t p = 0; p < placement->n_partitions; p++) {
        struct placement_partition *partition = &placement->partitions[p];
        const serverd_delegate *delegate = placement->devices[partition->device].delegate;
        partition->view.plan = find_plan(program, delegate->name, &partition->view, limits);
    }
}
