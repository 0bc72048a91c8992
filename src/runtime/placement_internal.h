/* What the files of the placement share. */
#ifndef RUNTIME_PLACEMENT_INTERNAL_H
#define RUNTIME_PLACEMENT_INTERNAL_H

#include "runtime/placement.h"

/* placement.c: what a device says of a node, and what the host says against it: reason and text. */
serverd_status placement_ask(const struct placement *placement, uint32_t device, uint32_t node,
                             serverd_claim *out, serverd_error *err);

/* placement_wishes.c: fills in the devices and `placed` from the options. */
serverd_status placement_read_wishes(struct placement *placement,
                                     const struct placement_options *options, serverd_error *err);

/* placement_cut.c: `chosen` from the claims. */
serverd_status placement_choose(struct placement *placement, serverd_error *err);

/* placement_fit.c: whether the weights of what is chosen fit the devices; the best choice that
 * does, of runs of nodes, one for each device. handover [n_nodes] INFINITY: devices cannot change
 * there. For up to LIMIT_HETERO_DEVICES devices. */
bool placement_fits(const struct placement *placement);
serverd_status placement_fit(struct placement *placement, const double *handover,
                             serverd_error *err);

/* Whether a device may run a node as far as the user is concerned. */
static inline bool placement_is_allowed(const struct placement *placement, uint32_t device,
                                        uint32_t node)
{
    uint8_t placed = placement->placed[node];
    return placed == PLACEMENT_NO_DEVICE ? placement->devices[device].is_general : placed == device;
}

#endif
