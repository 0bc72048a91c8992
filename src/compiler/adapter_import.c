#include "compiler/adapter_internal.h"

#include "base/error.h"
#include "base/limits.h"
#include "program/adapter_file.h"
#include "program/dtype.h"
#include "program/op.h"
#include "program/sdp_file.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Names come sorted, so the pair is most often the last one. */
static struct adapter_pair *find_pair(const struct adapter_source *from, const char *tensor)
{
    for (uint32_t i = from->n_pairs; i-- > 0;)
        if (strcmp(from->pairs[i].tensor, tensor) == 0)
            return &from->pairs[i];
    return NULL;
}

serverd_status adapter_pair_of(struct adapter_source *from, const char *tensor, const char *module,
                               struct adapter_pair **out, serverd_error *err)
{
    const char *path = from->source.keys.path;
    struct arena *arena = from->source.arena;
    if ((*out = find_pair(from, tensor)))
        return SERVERD_OK;
    if (from->n_pairs == LIMIT_ADAPTER_SITES)
        return fail(err, SERVERD_CORRUPT, "%s: more than %u modules", path, LIMIT_ADAPTER_SITES);
    if (!from->pairs)
        from->pairs = arena_array(arena, (size_t)from->source.n_tensors + 1, sizeof *from->pairs);
    struct adapter_pair pair = {.tensor = arena_copy(arena, tensor, strlen(tensor)),
                                .module = arena_copy(arena, module, strlen(module))};
    if (!from->pairs || !pair.tensor || !pair.module)
        return fail(err, SERVERD_NOMEM, "%s: no memory for its tensors", path);
    *out = &from->pairs[from->n_pairs++];
    **out = pair;
    return SERVERD_OK;
}

/* ---- one site -------------------------------------------------------------------------------- */

struct making {
    const struct adapter_source *from;
    const struct program *base;
    struct adapter *adapter;
    struct adapter_site *sites;
};

/* How the heads of a linear layer are turned behind it; NULL: they are not. */
static const serverd_rope *rope_behind(const serverd_graph *graph, uint32_t linear)
{
    uint32_t value =
        graph->operands[graph->nodes[linear].first_operand + graph->nodes[linear].n_inputs];
    for (uint32_t i = linear + 1; i < graph->n_nodes; i++) {
        const serverd_node *node = &graph->nodes[i];
        const uint32_t *operands = &graph->operands[node->first_operand];
        if (operands[0] != value)
            continue;
        if (node->op == SERVERD_OP_ROPE)
            return &node->attributes.rope;
        if (node->op == SERVERD_OP_RMS_NORM) /* of heads */
            value = operands[node->n_inputs];
    }
    return NULL;
}

static serverd_status fail_shape(const struct making *making, const struct adapter_pair *pair,
                                 const serverd_tensor *w, serverd_error *err)
{
    return fail(err, SERVERD_INVALID,
                "%s: %s: A [%" PRIu64 ", %" PRIu64 "] and B [%" PRIu64 ", %" PRIu64
                "], the base has [%" PRIu64 ", %" PRIu64 "]",
                making->from->source.keys.path, pair->module, pair->a->dims[0], pair->a->dims[1],
                pair->b->dims[0], pair->b->dims[1], w->dims[0], w->dims[1]);
}

static float *read_matrix(const struct making *making, const struct source_tensor *from)
{
    const struct dtype_info *type = dtype_info(from->dtype);
    uint64_t n = from->dims[0] * from->dims[1];
    float *out = arena_array(making->adapter->arena, n, sizeof *out);
    if (out)
        type->to_f32(from->data, out, n / type->block_elements);
    return out;
}

/* Neighbours (2i, 2i + 1) of a head where halves (i, i + d/2) stood, or the other way round. */
static void turn_heads(float *b, const struct adapter_site *site, uint32_t head_dim,
                       bool into_halves, float *head)
{
    const size_t rank = site->rank, half = head_dim / 2;
    for (size_t first = 0; first < site->n_out; first += head_dim) {
        float *rows = b + first * rank;
        memcpy(head, rows, head_dim * rank * sizeof *head);
        for (size_t i = 0; i < head_dim; i++) {
            size_t halves = i, neighbours = i < half ? 2 * i : 2 * (i - half) + 1;
            memcpy(rows + (into_halves ? halves : neighbours) * rank,
                   head + (into_halves ? neighbours : halves) * rank, rank * sizeof *head);
        }
    }
}

/* Rows of B in the order of the base. */
static serverd_status order_rows(const struct making *making, const struct adapter_pair *pair,
                                 uint32_t node, const struct adapter_site *site, float *b,
                                 serverd_error *err)
{
    const serverd_rope *rope = rope_behind(&making->base->graph, node);
    bool has_halves = making->from->rotates_halves;
    if (!rope || (rope->is_neox != 0) == has_halves)
        return SERVERD_OK;
    if (rope->n_rot != rope->head_dim)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: %s: the base turns %u of %u elements of a head, and in another order",
                    making->from->source.keys.path, pair->module, rope->n_rot, rope->head_dim);
    float *head =
        arena_array(making->adapter->arena, (size_t)rope->head_dim * site->rank, sizeof *head);
    if (!head)
        return fail(err, SERVERD_NOMEM, "%s: no memory", making->from->source.keys.path);
    turn_heads(b, site, rope->head_dim, rope->is_neox != 0, head);
    return SERVERD_OK;
}

static serverd_status check_pair(const struct making *making, const struct adapter_pair *pair,
                                 serverd_error *err)
{
    const char *path = making->from->source.keys.path;
    if (!pair->a || !pair->b)
        return fail(err, SERVERD_CORRUPT, "%s: %s: has A or B alone", path, pair->module);
    for (int i = 0; i < 2; i++) {
        const struct source_tensor *matrix = i == 0 ? pair->a : pair->b;
        const struct dtype_info *type = dtype_info(matrix->dtype);
        if (matrix->rank != 2)
            return fail(err, SERVERD_CORRUPT, "%s: tensor %s: %u dims, 2 are needed", path,
                        matrix->name, matrix->rank);
        if (!type || !type->to_f32)
            return fail(err, SERVERD_UNSUPPORTED, "%s: tensor %s: type %u", path, matrix->name,
                        matrix->dtype);
    }
    uint64_t rank = pair->a->dims[0];
    if (rank == 0 || rank > LIMIT_ADAPTER_RANK || pair->b->dims[1] != rank)
        return fail(err, SERVERD_CORRUPT,
                    "%s: %s: rank %" PRIu64 " of A and %" PRIu64 " of B, 1 to %u are possible",
                    path, pair->module, rank, pair->b->dims[1], LIMIT_ADAPTER_RANK);
    if (!isfinite((float)pair->scale))
        return fail(err, SERVERD_CORRUPT, "%s: %s: its scale is not finite", path, pair->module);
    return SERVERD_OK;
}

static serverd_status make_site(struct making *making, const struct adapter_pair *pair,
                                struct adapter_site *site, serverd_error *err)
{
    const serverd_graph *graph = &making->base->graph;
    const char *path = making->from->source.keys.path;
    serverd_status status = check_pair(making, pair, err);
    if (status != SERVERD_OK)
        return status;
    uint32_t node = adapter_find_node(graph, pair->tensor);
    if (node == UINT32_MAX)
        return fail(err, SERVERD_INVALID, "%s: %s: the base has no linear layer %s", path,
                    pair->module, pair->tensor);
    const serverd_tensor *w = &graph->tensors[node_input(graph, &graph->nodes[node], 1)->tensor];
    if (w->dims[1] != pair->a->dims[1] || w->dims[0] != pair->b->dims[0])
        return fail_shape(making, pair, w, err);
    float *a = read_matrix(making, pair->a), *b = read_matrix(making, pair->b);
    *site = (struct adapter_site){
        .tensor = arena_copy(making->adapter->arena, pair->tensor, strlen(pair->tensor)),
        .rank = (uint32_t)pair->a->dims[0],
        .n_in = (uint32_t)w->dims[1],
        .n_out = (uint32_t)w->dims[0],
        .scale = (float)pair->scale,
        .a = a,
        .b = b};
    if (!a || !b || !site->tensor)
        return fail(err, SERVERD_NOMEM, "%s: no memory for its numbers", path);
    return order_rows(making, pair, node, site, b, err);
}

/* ---- all ------------------------------------------------------------------------------------- */

static int compare_sites(const void *a, const void *b)
{
    const struct adapter_site *x = a, *y = b;
    return strcmp(x->tensor, y->tensor);
}

static serverd_status make_sites(struct making *making, serverd_error *err)
{
    struct adapter *adapter = making->adapter;
    uint32_t n = making->from->n_pairs;
    struct adapter_site *sites = arena_array(adapter->arena, (size_t)n + 1, sizeof *sites);
    if (!sites)
        return fail(err, SERVERD_NOMEM, "%s: no memory", making->from->source.keys.path);
    for (uint32_t i = 0; i < n; i++) {
        serverd_status status = make_site(making, &making->from->pairs[i], &sites[i], err);
        if (status != SERVERD_OK)
            return status;
        if (sites[i].rank > adapter->max_rank)
            adapter->max_rank = sites[i].rank;
    }
    if (n > 0)
        qsort(sites, n, sizeof *sites, compare_sites);
    adapter->sites = sites;
    adapter->n_sites = n;
    return SERVERD_OK;
}

static serverd_status make_adapter(const struct adapter_source *from, const struct program *base,
                                   struct adapter *adapter, serverd_error *err)
{
    struct making making = {.from = from, .base = base, .adapter = adapter};
    memcpy(adapter->architecture, base->config.architecture, sizeof adapter->architecture);
    memcpy(adapter->name, from->name, sizeof adapter->name);
    serverd_status status = adapter_shape_id(base, adapter->shape_id, err);
    if (status != SERVERD_OK || (status = make_sites(&making, err)) != SERVERD_OK)
        return status;
    if ((status = adapter_check(adapter, err)) != SERVERD_OK)
        return error_context(err, "%s", from->source.keys.path);
    adapter_compute_id(adapter);
    return SERVERD_OK;
}

static serverd_status open_file(const char *path, const struct program *base, struct adapter **out,
                                serverd_error *err)
{
    serverd_status status = adapter_file_open(path, out, err);
    if (status != SERVERD_OK)
        return status;
    if ((status = adapter_fits(*out, base, err)) == SERVERD_OK)
        return status;
    adapter_destroy(*out);
    return error_context(err, "%s", path);
}

serverd_status adapter_import(const char *path, const struct program *base, struct adapter **out,
                              serverd_error *err)
{
    if (sdp_is_program_file(path))
        return open_file(path, base, out, err);
    struct adapter_source from = {0};
    struct adapter *adapter = adapter_create();
    if (!adapter)
        return fail(err, SERVERD_NOMEM, "%s: no memory", path);
    serverd_status status = file_is_folder(path) ? adapter_read_peft(path, base, &from, err)
                                                 : adapter_read_gguf(path, base, &from, err);
    if (status == SERVERD_OK)
        status = make_adapter(&from, base, adapter, err);
    if (status == SERVERD_OK)
        *out = adapter;
    else
        adapter_destroy(adapter);
    source_close(&from.source);
    return status;
}
