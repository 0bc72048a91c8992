/* Devices that are too small: where the way of least time asks for more weights than a device has
 * memory, all cuts of the model into runs, one for each device from the fastest to the slowest, are
 * tried, and the fastest one that fits is taken. */
#include "base/error.h"
#include "runtime/placement_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Nodes between two places where devices may change. */
struct unit {
    uint32_t first_node, n_nodes;
};

struct sums {
    double seconds;
    uint64_t bytes;   /* of weights */
    uint32_t refused; /* units that the device does not run */
};

struct fit {
    struct placement *placement;
    const double *handover;
    struct unit *units;
    uint32_t n_units, n_used; /* devices that can be used, by speed */
    uint32_t order[LIMIT_DEVICES];
    struct sums *sums; /* [n_used][n_units + 1] of the units before */
    uint32_t end[LIMIT_DEVICES], best[LIMIT_DEVICES]; /* unit behind each device's run */
    double best_seconds;
};

/* Devices of one delegate and number are one memory. */
static bool is_same_memory(const struct placement *placement, uint32_t a, uint32_t b)
{
    const struct placement_device *x = &placement->devices[a], *y = &placement->devices[b];
    return x->delegate == y->delegate && x->device.ordinal == y->device.ordinal;
}

/* Of all nodes that are on this device's memory. */
static uint64_t chosen_bytes(const struct placement *placement, uint32_t device)
{
    uint64_t sum = 0;
    for (uint32_t n = 0; n < placement->graph->n_nodes; n++)
        if (is_same_memory(placement, device, placement->chosen[n]))
            sum += placement_claim(placement, placement->chosen[n], n)->resident_bytes;
    return sum;
}

bool placement_fits(const struct placement *placement)
{
    for (uint32_t d = 0; d < placement->n_devices; d++)
        if (chosen_bytes(placement, d) > placement->devices[d].device.free_bytes)
            return false;
    return true;
}

/* ---- what units cost ------------------------------------------------------------------------- */

static void cut_units(struct fit *fit)
{
    const uint32_t n_nodes = fit->placement->graph->n_nodes;
    for (uint32_t n = 0; n < n_nodes; n++) {
        if (n == 0 || !isinf(fit->handover[n]))
            fit->units[fit->n_units++] = (struct unit){.first_node = n};
        fit->units[fit->n_units - 1].n_nodes++;
    }
}

static void add_unit(const struct placement *placement, const struct unit *unit, uint32_t device,
                     struct sums *sums)
{
    const uint32_t end = unit->first_node + unit->n_nodes;
    for (uint32_t n = unit->first_node; n < end;) {
        const struct placement_claim *claim = placement_claim(placement, device, n);
        if (!placement_is_allowed(placement, device, n) || claim->n_nodes == 0) {
            sums->refused++;
            return;
        }
        sums->seconds += placement_seconds(claim);
        sums->bytes += claim->resident_bytes;
        n += claim->n_nodes;
    }
}

static struct sums *sums_at(const struct fit *fit, uint32_t rank, uint32_t unit)
{
    return &fit->sums[(size_t)rank * (fit->n_units + 1) + unit];
}

/* Of units begin .. end - 1. */
static struct sums sums_between(const struct fit *fit, uint32_t rank, uint32_t begin, uint32_t end)
{
    const struct sums *to = sums_at(fit, rank, end), *from = sums_at(fit, rank, begin);
    return (struct sums){to->seconds - from->seconds, to->bytes - from->bytes,
                         to->refused - from->refused};
}

static void sum_units(struct fit *fit)
{
    for (uint32_t rank = 0; rank < fit->n_used; rank++)
        for (uint32_t u = 0; u < fit->n_units; u++) {
            *sums_at(fit, rank, u + 1) = *sums_at(fit, rank, u);
            add_unit(fit->placement, &fit->units[u], fit->order[rank], sums_at(fit, rank, u + 1));
        }
}

/* By the time that a device takes for all that it runs. */
static void order_devices(struct fit *fit)
{
    const struct placement *placement = fit->placement;
    double speed[LIMIT_DEVICES];
    for (uint32_t d = 0; d < placement->n_devices; d++) {
        if (placement->devices[d].reason != SERVERD_REASON_NONE)
            continue;
        double seconds = 0, most = 0;
        for (uint32_t n = 0; n < placement->graph->n_nodes; n++) {
            const struct placement_claim *claim = placement_claim(placement, d, n);
            seconds += claim->n_nodes > 0 ? placement_seconds(claim) : 0;
            most += claim->n_nodes > 0;
        }
        uint32_t at = fit->n_used++;
        double mean = most > 0 ? seconds / most : INFINITY;
        for (; at > 0 && speed[at - 1] > mean; at--) {
            speed[at] = speed[at - 1];
            fit->order[at] = fit->order[at - 1];
        }
        speed[at] = mean;
        fit->order[at] = d;
    }
}

/* ---- all cuts -------------------------------------------------------------------------------- */

/* Memory that the devices before have taken of this one's. */
static uint64_t taken_bytes(const struct fit *fit, uint32_t rank)
{
    uint64_t sum = 0;
    for (uint32_t r = 0; r < rank; r++)
        if (is_same_memory(fit->placement, fit->order[r], fit->order[rank]))
            sum += sums_between(fit, r, r ? fit->end[r - 1] : 0, fit->end[r]).bytes;
    return sum;
}

static double handover_at(const struct fit *fit, uint32_t unit)
{
    return unit == 0 || unit == fit->n_units ? 0 : fit->handover[fit->units[unit].first_node];
}

/* Gives the units from `begin` on to the devices from `rank` on. At most LIMIT_HETERO_DEVICES deep.
 */
static void try_cuts(struct fit *fit, uint32_t rank, uint32_t begin, double seconds)
{
    if (seconds >= fit->best_seconds)
        return;
    if (begin == fit->n_units) {
        for (uint32_t r = rank; r < fit->n_used; r++)
            fit->end[r] = begin;
        memcpy(fit->best, fit->end, sizeof fit->best);
        fit->best_seconds = seconds;
        return;
    }
    if (rank == fit->n_used)
        return;
    const uint64_t free_bytes = fit->placement->devices[fit->order[rank]].device.free_bytes;
    const uint64_t taken = taken_bytes(fit, rank);
    for (uint32_t end = fit->n_units + 1; end-- > begin;) {
        const struct sums own = sums_between(fit, rank, begin, end);
        if (end > begin &&
            (own.refused > 0 || taken > free_bytes || own.bytes > free_bytes - taken))
            continue;
        fit->end[rank] = end;
        try_cuts(fit, rank + 1, end,
                 seconds + own.seconds + (end > begin ? handover_at(fit, end) : 0));
    }
}

static void take_best(const struct fit *fit)
{
    for (uint32_t rank = 0, unit = 0; rank < fit->n_used; rank++)
        for (; unit < fit->best[rank]; unit++)
            memset(fit->placement->chosen + fit->units[unit].first_node, (int)fit->order[rank],
                   fit->units[unit].n_nodes);
}

static serverd_status too_small(const struct fit *fit, serverd_error *err)
{
    const struct placement *placement = fit->placement;
    uint64_t needed = 0, free_bytes = 0;
    for (uint32_t n = 0; n < placement->graph->n_nodes; n++)
        needed += placement_claim(placement, placement->chosen[n], n)->resident_bytes;
    for (uint32_t d = 0; d < placement->n_devices; d++) {
        bool is_counted = placement->devices[d].reason != SERVERD_REASON_NONE;
        for (uint32_t e = 0; e < d; e++)
            is_counted |= is_same_memory(placement, d, e);
        if (!is_counted)
            free_bytes += placement->devices[d].device.free_bytes;
    }
    return fail(err, SERVERD_NOMEM,
                "device %.64s: memory: the weights need %.1f MB, the devices have %.1f MB, and no "
                "cut between layers fits",
                placement->device_text, (double)needed / 1e6, (double)free_bytes / 1e6);
}

serverd_status placement_fit(struct placement *placement, const double *handover,
                             serverd_error *err)
{
    const uint32_t n_nodes = placement->graph->n_nodes;
    struct fit fit = {.placement = placement,
                      .handover = handover,
                      .units = calloc(n_nodes, sizeof *fit.units),
                      .best_seconds = INFINITY};
    serverd_status status = SERVERD_OK;
    order_devices(&fit);
    if (fit.units)
        cut_units(&fit);
    fit.sums = calloc((size_t)fit.n_used * (fit.n_units + 1), sizeof *fit.sums);
    if (!fit.units || !fit.sums) {
        status = fail(err, SERVERD_NOMEM, "no memory to place %u nodes", n_nodes);
    } else {
        sum_units(&fit);
        try_cuts(&fit, 0, 0, 0);
        if (isinf(fit.best_seconds))
            status = too_small(&fit, err);
        else
            take_best(&fit);
    }
    free(fit.units);
    free(fit.sums);
    return status;
}
