/* Which device runs which node. Every delegate says for every node whether it runs it and at what
 * cost; the user may place nodes; the rest goes where the whole takes least time. Consecutive nodes
 * of one device are a partition (delegate.h).
 *
 * Used while a program is opened, and by tools that only want to know. One thread. */
#ifndef RUNTIME_PLACEMENT_H
#define RUNTIME_PLACEMENT_H

#include "base/buffer.h"
#include "base/limits.h"
#include "serverd/delegate.h"

#include <stdbool.h>

#define PLACEMENT_NO_DEVICE UINT8_MAX

struct program; /* program/program.h */

struct placement_options {
    const serverd_delegate *const *delegates; /* in order of preference */
    uint32_t n_delegates;
    /* "auto": every delegate that is not for use by name only, node by node; "NAME[:options]": one;
     * "hetero:A,B,..": these, cut between layers; NULL: "auto". Options are key=value, between them
     * `;` or, of a single device, `,`. Of a shard the delegate `collective` is asked, too. */
    const char *device;
    /* "WHAT=NAME,..": the device of some nodes; the first that fits a node counts. WHAT is blk.A,
     * blk.A-B (layers), embed (what is before the layers), output (what is behind them), node.A,
     * node.A-B, or the name of an operation. NAME is a delegate, or NAME.1, NAME.2, ..: further
     * devices of the same one. NULL or "": none. */
    const char *place;
    const serverd_host *host; /* outlives the placement */
    /* Whose graph it is: forms that its file has; NULL: none. Outlives the placement. */
    const struct program *program;
};

struct placement_device {
    const serverd_delegate *delegate;
    char name[72];                      /* "cpu", "cpu.1" */
    char options[LIMIT_DEVICE_OPTIONS]; /* "key=value;..." */
    bool is_general;                    /* may run what nobody has placed */
    serverd_device device;
    uint32_t n_sharing;  /* ranks of the group that have this device, the own among them */
    uint32_t reason;     /* SERVERD_REASON_UNAVAILABLE, _INIT_FAILED; NONE: it can be used */
    serverd_error error; /* why */
};

/* What a device says of a node: serverd_claim without the text. */
struct placement_claim {
    uint32_t n_nodes, reason;
    float seconds[3];
    uint64_t resident_bytes;
};

struct placement_partition {
    serverd_partition view;
    uint32_t device;
};

struct placement {
    const serverd_graph *graph;
    const serverd_host *host;
    const struct program *program; /* may be NULL */
    char *device_text;             /* as it was given */
    bool is_hetero;
    struct placement_device devices[LIMIT_DEVICES];
    uint32_t n_devices;
    struct placement_claim *claims; /* [n_devices][n_nodes] */
    uint8_t *placed;                /* [n_nodes] device by the user's will, or NO_DEVICE */
    uint8_t *chosen;                /* [n_nodes] */
    struct placement_partition *partitions;
    uint32_t n_partitions;
    uint32_t *values; /* the partitions' lists */
};

/* Asks all delegates and cuts the graph, which must outlive the placement. Impossible wishes are
 * errors that name them. */
serverd_status placement_create(const serverd_graph *graph, const struct placement_options *options,
                                struct placement **out, serverd_error *err);
void placement_destroy(struct placement *placement); /* NULL is fine */

/* A device failed to open or to load: the graph is cut again without it, placed nodes included. If
 * that cannot be, fails with `reason`. */
serverd_status placement_without(struct placement *placement, uint32_t device,
                                 const serverd_error *reason, serverd_error *err);

/* Seconds of one average step by a claim: half decode (1 and 16 rows), half prefill (512). */
double placement_seconds(const struct placement_claim *claim);

static inline const struct placement_claim *placement_claim(const struct placement *placement,
                                                            uint32_t device, uint32_t node)
{
    return &placement->claims[(size_t)device * placement->graph->n_nodes + node];
}

/* "unsupported-op", "slower", ... */
const char *placement_reason_name(uint32_t reason);

/* For each partition: its nodes, device, cost; for each device that did not get them: why. Lines
 * of text; the buffer says if it failed. */
void placement_explain(const struct placement *placement, struct buffer *out);

#endif
