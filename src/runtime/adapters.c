#include "runtime/adapters.h"

#include "base/error.h"
#include "base/numeric.h"

#include <stdlib.h>

static int compare_nodes(const void *a, const void *b)
{
    const serverd_adapter_site *x = a, *y = b;
    return (x->node > y->node) - (x->node < y->node);
}

/* All sites, by node. */
static serverd_status find_nodes(const serverd_graph *graph, const struct adapter *adapter,
                                 serverd_adapter_site *sites, serverd_error *err)
{
    for (uint32_t i = 0; i < adapter->n_sites; i++) {
        const struct adapter_site *from = &adapter->sites[i];
        sites[i] = (serverd_adapter_site){.node = adapter_find_node(graph, from->tensor),
                                          .rank = from->rank,
                                          .a = from->a,
                                          .b = from->b,
                                          .scale = from->scale};
        if (sites[i].node == UINT32_MAX)
            return fail(err, SERVERD_INTERNAL, "adapter: the model has no %s", from->tensor);
    }
    if (adapter->n_sites > 0)
        qsort(sites, adapter->n_sites, sizeof *sites, compare_nodes);
    return SERVERD_OK;
}

static serverd_status set_part(const struct step_part *part, uint32_t slot,
                               const serverd_adapter *or_null, serverd_error *err)
{
    const serverd_delegate *delegate = part->instance->delegate;
    if (delegate->adapter)
        return delegate->adapter(part->handle, slot, or_null, err);
    return or_null && or_null->n_sites > 0
               ? fail(err, SERVERD_UNSUPPORTED, "device %s: takes no adapters", delegate->name)
               : SERVERD_OK;
}

static void clear(const struct steps *steps, uint32_t slot)
{
    serverd_error ignored; /* emptying a slot frees */
    for (uint32_t p = 0; p < steps->n_parts; p++)
        (void)set_part(&steps->parts[p], slot, NULL, &ignored);
}

static serverd_status set_parts(const struct steps *steps, uint32_t slot,
                                const serverd_adapter_site *sites, uint32_t n_sites,
                                serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (uint32_t p = 0, first = 0; p < steps->n_parts && status == SERVERD_OK; p++) {
        const serverd_partition *view = steps->parts[p].view;
        uint32_t n = 0;
        while (first + n < n_sites && sites[first + n].node < view->first_node + view->n_nodes)
            n++;
        const serverd_adapter part = {
            .struct_bytes = sizeof part, .n_sites = n, .sites = sites + first};
        status = set_part(&steps->parts[p], slot, n > 0 ? &part : NULL, err);
        first += n;
    }
    return status;
}

serverd_status adapters_set(const struct steps *steps, const serverd_graph *graph, uint32_t slot,
                            const struct adapter *or_null, serverd_error *err)
{
    clear(steps, slot);
    if (!or_null)
        return SERVERD_OK;
    serverd_adapter_site *sites = calloc(max_size(or_null->n_sites, 1), sizeof *sites);
    if (!sites)
        return fail(err, SERVERD_NOMEM, "no memory for %u sites", or_null->n_sites);
    serverd_status status = find_nodes(graph, or_null, sites, err);
    if (status == SERVERD_OK)
        status = set_parts(steps, slot, sites, or_null->n_sites, err);
    if (status != SERVERD_OK)
        clear(steps, slot);
    free(sites);
    return status;
}
