#include "program/adapter.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/op.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of the rows of Q and K in the shape id. */
enum { ROWS_NEIGHBOURS = 0, ROWS_HALVES = 1, ROWS_UNTURNED = 2 };

struct adapter *adapter_create(void)
{
    struct adapter *adapter = calloc(1, sizeof *adapter);
    if (!adapter)
        return NULL;
    adapter->arena = arena_create(LIMIT_ADAPTER_BYTES);
    if (adapter->arena)
        return adapter;
    free(adapter);
    return NULL;
}

void adapter_destroy(struct adapter *adapter)
{
    if (!adapter)
        return;
    arena_destroy(adapter->arena);
    mapping_close(&adapter->mapping);
    free(adapter);
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* The exponents of infinity and NaN are the greatest: a maximum over bits finds both. */
static bool are_finite(const float *x, size_t n)
{
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t magnitude = f32_bits(x[i]) & 0x7fffffffu;
        most = magnitude > most ? magnitude : most;
    }
    return most < 0x7f800000u;
}

static serverd_status check_site(const struct adapter_site *site, serverd_error *err)
{
    if (site->rank == 0 || site->rank > LIMIT_ADAPTER_RANK)
        return fail(err, SERVERD_UNSUPPORTED, "%s: rank %u, 1 to %u are possible", site->tensor,
                    site->rank, LIMIT_ADAPTER_RANK);
    if (site->n_in == 0 || site->n_in > LIMIT_ADAPTER_DIM || site->n_out == 0 ||
        site->n_out > LIMIT_ADAPTER_DIM)
        return fail(err, SERVERD_CORRUPT,
                    "%s: a matrix of %u rows and %u columns, 1 to %u are "
                    "possible",
                    site->tensor, site->n_out, site->n_in, LIMIT_ADAPTER_DIM);
    if (!isfinite(site->scale))
        return fail(err, SERVERD_CORRUPT, "%s: its scale is not finite", site->tensor);
    if (!are_finite(site->a, (size_t)site->rank * site->n_in) ||
        !are_finite(site->b, (size_t)site->rank * site->n_out))
        return fail(err, SERVERD_CORRUPT, "%s: NaN or infinity", site->tensor);
    return SERVERD_OK;
}

serverd_status adapter_check(const struct adapter *adapter, serverd_error *err)
{
    uint32_t max_rank = 0;
    if (adapter->n_sites == 0 || adapter->n_sites > LIMIT_ADAPTER_SITES)
        return fail(err, SERVERD_CORRUPT, "%u sites, 1 to %u are possible", adapter->n_sites,
                    LIMIT_ADAPTER_SITES);
    for (uint32_t i = 0; i < adapter->n_sites; i++) {
        const struct adapter_site *site = &adapter->sites[i];
        serverd_status status = check_site(site, err);
        if (status != SERVERD_OK)
            return status;
        if (i > 0 && strcmp(adapter->sites[i - 1].tensor, site->tensor) >= 0)
            return fail(err, SERVERD_CORRUPT, "%s: there twice, or out of order", site->tensor);
        max_rank = site->rank > max_rank ? site->rank : max_rank;
    }
    if (max_rank != adapter->max_rank)
        return fail(err, SERVERD_CORRUPT, "rank %u is stated, the greatest is %u",
                    adapter->max_rank, max_rank);
    return SERVERD_OK;
}

/* ---- identities ------------------------------------------------------------------------------ */

static void add_floats(struct sha256 *h, const float *x, size_t n)
{
    uint8_t digest[16];
    checksum128(x, n * sizeof *x, digest);
    sha256_update(h, digest, sizeof digest);
}

void adapter_compute_id(struct adapter *adapter)
{
    struct sha256 h;
    sha256_init(&h);
    for (uint32_t i = 0; i < adapter->n_sites; i++) {
        const struct adapter_site *site = &adapter->sites[i];
        const uint32_t head[] = {site->rank, site->n_in, site->n_out, f32_bits(site->scale)};
        sha256_update(&h, site->tensor, strlen(site->tensor) + 1);
        sha256_update(&h, head, sizeof head);
        add_floats(&h, site->a, (size_t)site->rank * site->n_in);
        add_floats(&h, site->b, (size_t)site->rank * site->n_out);
    }
    sha256_final(&h, adapter->id);
}

static int compare_tensors(const void *a, const void *b)
{
    const serverd_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static const serverd_tensor *matrix_of(const serverd_graph *graph, const serverd_node *node)
{
    return &graph->tensors[node_input(graph, node, 1)->tensor];
}

/* The matrices of linear layers inside the model's layers: head and embedding may be one or two,
 * and what a pass makes of norms and tables does not count. */
serverd_status adapter_shape_id(const struct program *base, uint8_t out[32], serverd_error *err)
{
    const serverd_graph *graph = &base->graph;
    const serverd_tensor **matrices = calloc((size_t)graph->n_nodes + 1, sizeof *matrices);
    if (!matrices)
        return fail(err, SERVERD_NOMEM, "no memory for a model's shape");
    uint32_t n = 0, rows = ROWS_UNTURNED;
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        const serverd_node *node = &graph->nodes[i];
        if (node->op == SERVERD_OP_LINEAR && node->layer != UINT32_MAX)
            matrices[n++] = matrix_of(graph, node);
        else if (node->op == SERVERD_OP_ROPE)
            rows = node->attributes.rope.is_neox ? ROWS_HALVES : ROWS_NEIGHBOURS;
    }
    if (n > 0)
        qsort(matrices, n, sizeof *matrices, compare_tensors);
    struct sha256 h;
    sha256_init(&h);
    sha256_update(&h, base->config.architecture, strlen(base->config.architecture) + 1);
    sha256_update(&h, &rows, sizeof rows);
    for (uint32_t i = 0; i < n; i++) {
        sha256_update(&h, matrices[i]->name, strlen(matrices[i]->name) + 1);
        sha256_update(&h, matrices[i]->dims, 2 * sizeof *matrices[i]->dims);
    }
    sha256_final(&h, out);
    free(matrices);
    return SERVERD_OK;
}

/* ---- the base -------------------------------------------------------------------------------- */

static uint32_t find_linear(const serverd_graph *graph, const char *tensor, bool is_in_layer)
{
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        const serverd_node *node = &graph->nodes[i];
        if (node->op == SERVERD_OP_LINEAR && (node->layer != UINT32_MAX) == is_in_layer &&
            strcmp(matrix_of(graph, node)->name, tensor) == 0)
            return i;
    }
    return UINT32_MAX;
}

uint32_t adapter_find_node(const serverd_graph *graph, const char *tensor)
{
    uint32_t node = find_linear(graph, tensor, true);
    if (node == UINT32_MAX && strcmp(tensor, "token_embd.weight") != 0)
        node = find_linear(graph, tensor, false);
    if (node == UINT32_MAX && strcmp(tensor, "output.weight") == 0)
        node = find_linear(graph, "token_embd.weight", false);
    return node;
}

static serverd_status fits_site(const struct adapter_site *site, const struct program *base,
                                serverd_error *err)
{
    uint32_t node = adapter_find_node(&base->graph, site->tensor);
    if (node == UINT32_MAX)
        return fail(err, SERVERD_INVALID, "%s: the base has no linear layer of this name",
                    site->tensor);
    const serverd_tensor *w = matrix_of(&base->graph, &base->graph.nodes[node]);
    if (w->dims[0] != site->n_out || w->dims[1] != site->n_in)
        return fail(err, SERVERD_INVALID, "%s: made for a matrix [%u, %u], the base has [%u, %u]",
                    site->tensor, site->n_out, site->n_in, (unsigned)w->dims[0],
                    (unsigned)w->dims[1]);
    return SERVERD_OK;
}

serverd_status adapter_fits(const struct adapter *adapter, const struct program *base,
                            serverd_error *err)
{
    uint8_t shape_id[32];
    if (strcmp(adapter->architecture, base->config.architecture) != 0)
        return fail(err, SERVERD_INVALID, "made for architecture %s, the base is %s",
                    adapter->architecture, base->config.architecture);
    for (uint32_t i = 0; i < adapter->n_sites; i++) {
        serverd_status status = fits_site(&adapter->sites[i], base, err);
        if (status != SERVERD_OK)
            return status;
    }
    serverd_status status = adapter_shape_id(base, shape_id, err);
    if (status == SERVERD_OK && memcmp(shape_id, adapter->shape_id, sizeof shape_id) != 0)
        return fail(err, SERVERD_INVALID,
                    "made for another base: other layers, or rows of Q and K in another order");
    return status;
}
