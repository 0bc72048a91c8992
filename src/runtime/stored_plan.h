/* Plans that a program file has (program_plan), for the partitions that they are of. */
#ifndef RUNTIME_STORED_PLAN_H
#define RUNTIME_STORED_PLAN_H

#include "program/program.h"
#include "runtime/placement.h"

/* Gives each partition that the program has a plan of, from the same delegate, for the same nodes
 * and for limits that are not below these, this plan; the others none. */
void stored_plans_use(struct placement *placement, const struct program *program,
                      const serverd_limits *limits);

#endif
