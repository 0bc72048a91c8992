#include "runtime/packing.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "runtime/identity_internal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

/* One block for all packed weights, in pages of two megabytes where the kernel has them: a decode
 * step reads it from end to end. */
#define HUGE_PAGE      (2 * MIB)
#define PACK_ALIGNMENT 4096

/* A worker packs what becomes about one huge page at a time: two that met in a page would both wait
 * for the kernel to clear one. */
#define CHUNK_BYTES HUGE_PAGE
#define CHUNK_ROWS  64 /* or a multiple of it, as pack() asks */

/* After so many bytes of source weights, or one tensor, they are let go of. */
#define ROUND_BYTES (32 * MIB)

static serverd_status take_block(struct packed_weights *out, size_t bytes, serverd_error *err)
{
    size_t rounded;
    if (!size_align(bytes, HUGE_PAGE, &rounded) ||
        !(out->block = aligned_alloc(HUGE_PAGE, rounded)))
        return fail(err, SERVERD_NOMEM, "no memory for %zu bytes of packed weights", bytes);
    (void)madvise(out->block, rounded, MADV_HUGEPAGE); /* a hint */
    return SERVERD_OK;
}

static bool is_wanted(const struct packing *packing, uint32_t tensor)
{
    return !packing->is_wanted || packing->is_wanted[tensor];
}

/* A form that the program's file has is used where it lies. True: there is nothing to pack. */
static bool use_in_place(const struct packing *packing, struct packed_weights *out, uint32_t tensor,
                         const serverd_form *form)
{
    const struct program_form *found = program_find_form(packing->program, tensor, form->layout);
    if (form->layout == SERVERD_LAYOUT_ROWS || !found || found->bytes != form->bytes)
        return false;
    out->tensor[tensor] = found->data;
    return true;
}

/* Forms of all tensors, and the places of those that are packed in one block of *block bytes. */
static serverd_status plan_packing(const struct packing *packing, struct packed_weights *out,
                                   serverd_form *forms, size_t *places, size_t *block,
                                   serverd_error *err)
{
    const serverd_graph *graph = &packing->program->graph;
    size_t total = 0;
    for (uint32_t i = 0; i < graph->n_tensors; i++) {
        forms[i] = (serverd_form){.struct_bytes = sizeof forms[i], .layout = SERVERD_LAYOUT_ROWS};
        if (!is_wanted(packing, i))
            continue;
        serverd_status status = packing->delegate->form(&graph->tensors[i], &forms[i], err);
        if (status != SERVERD_OK)
            return error_context(err, "tensor %s", graph->tensors[i].name);
        if (use_in_place(packing, out, i, &forms[i]))
            forms[i].layout = SERVERD_LAYOUT_ROWS; /* as far as packing goes */
        else if (!graph->tensors[i].data && forms[i].bytes > 0)
            return fail(err, SERVERD_UNSUPPORTED,
                        "tensor %s: the program file has no form of it for device %s",
                        graph->tensors[i].name, packing->delegate->name);
        if (forms[i].layout == SERVERD_LAYOUT_ROWS)
            continue;
        if (forms[i].alignment > HUGE_PAGE || !size_align(total, PACK_ALIGNMENT, &total))
            return fail(err, SERVERD_NOMEM, "the packed weights overflow");
        places[i] = total;
        if (!size_add(total, forms[i].bytes, &total))
            return fail(err, SERVERD_NOMEM, "the packed weights overflow");
    }
    *block = total;
    return SERVERD_OK;
}

struct pack_chunk {
    uint32_t tensor;
    uint64_t first_row, n_rows;
};

/* Some tensors, one behind the other. */
struct pack_round {
    const struct packing *packing;
    struct packed_weights *out;
    const serverd_form *forms;
    struct pack_chunk *chunks;
    uint32_t n_chunks, capacity;
    _Atomic bool has_failed; /* the first failure owns `error` */
    serverd_error error;
};

static serverd_status add_chunk(struct pack_round *round, struct pack_chunk chunk,
                                serverd_error *err)
{
    if (round->n_chunks == round->capacity) {
        uint32_t capacity = 2 * round->capacity + 64;
        struct pack_chunk *grown = realloc(round->chunks, capacity * sizeof *grown);
        if (!grown)
            return fail(err, SERVERD_NOMEM, "no memory to pack");
        round->chunks = grown;
        round->capacity = capacity;
    }
    round->chunks[round->n_chunks++] = chunk;
    return SERVERD_OK;
}

/* Tensors are at most some terabytes (program_check): so many chunks are a small number. */
static serverd_status add_tensor(struct pack_round *round, uint32_t index, serverd_error *err)
{
    const serverd_tensor *tensor = &round->packing->program->graph.tensors[index];
    uint64_t n_rows = 1;
    for (uint32_t d = 0; d + 1 < tensor->rank; d++)
        n_rows *= tensor->dims[d]; /* checked by program_check */
    uint64_t row_bytes = round->forms[index].bytes / max_size(n_rows, 1);
    uint64_t rows = CHUNK_BYTES / max_size(row_bytes, 1) / CHUNK_ROWS * CHUNK_ROWS;
    rows = max_size(rows, CHUNK_ROWS);
    for (uint64_t first = 0; first < n_rows; first += rows) {
        struct pack_chunk chunk = {index, first, min_size(n_rows - first, rows)};
        if (add_chunk(round, chunk, err))
            return err->code;
    }
    return SERVERD_OK;
}

static void pack_chunk(void *arg, uint32_t index, uint32_t worker)
{
    (void)worker;
    struct pack_round *round = arg;
    const struct pack_chunk *chunk = &round->chunks[index];
    const serverd_tensor *tensor = &round->packing->program->graph.tensors[chunk->tensor];
    serverd_error error;
    if (round->packing->delegate->pack(tensor, &round->forms[chunk->tensor], chunk->first_row,
                                       chunk->n_rows, (void *)round->out->tensor[chunk->tensor],
                                       &error) == SERVERD_OK)
        return;
    if (!atomic_exchange(&round->has_failed, true)) {
        round->error = error;
        (void)error_context(&round->error, "tensor %s", tensor->name);
    }
}

/* Packs the tensors from `first` on that make a round; *end is the one behind them. */
static serverd_status pack_some(struct pack_round *round, uint32_t first, uint32_t *end,
                                const size_t *places, serverd_error *err)
{
    const serverd_graph *graph = &round->packing->program->graph;
    uint64_t bytes = 0;
    round->n_chunks = 0;
    for (*end = first; *end < graph->n_tensors; ++*end) {
        bytes += graph->tensors[*end].bytes;
        if (*end > first && bytes > ROUND_BYTES)
            break;
        if (round->forms[*end].layout == SERVERD_LAYOUT_ROWS)
            continue;
        round->out->tensor[*end] = round->out->block + places[*end];
        if (add_tensor(round, *end, err))
            return err->code;
    }
    worker_pool_run(round->packing->pool, round->n_chunks, pack_chunk, round);
    if (!atomic_load(&round->has_failed))
        return SERVERD_OK;
    *err = round->error;
    return err->code;
}

static serverd_status pack_all(const struct packing *packing, struct packed_weights *out,
                               serverd_form *forms, size_t *places, serverd_error *err)
{
    const serverd_graph *graph = &packing->program->graph;
    struct pack_round round = {.packing = packing, .out = out, .forms = forms};
    if (packing->identity && packing->program->has_id) /* covers the tensors */
        sha256_update(packing->identity, packing->program->id, sizeof packing->program->id);
    size_t block = 0;
    serverd_status status = plan_packing(packing, out, forms, places, &block, err);
    if (status == SERVERD_OK && block > 0)
        status = take_block(out, block, err);
    uint64_t total = 1, done = 0;
    for (uint32_t i = 0; i < graph->n_tensors; i++)
        total += graph->tensors[i].bytes;
    for (uint32_t first = 0, end; first < graph->n_tensors && status == SERVERD_OK; first = end) {
        status = pack_some(&round, first, &end, places, err);
        for (uint32_t i = first; i < end && status == SERVERD_OK; i++) {
            /* now, while the bytes are in memory */
            if (packing->identity && !packing->program->has_id &&
                (status = identity_add_tensor(packing->identity, &graph->tensors[i], packing->pool,
                                              err)))
                (void)error_context(err, "tensor %s", graph->tensors[i].name);
            if (!packing->program->forms)
                program_forget_tensor(packing->program, i);
            done += graph->tensors[i].bytes;
        }
        if (packing->progress)
            packing->progress(packing->progress_context, (double)done / (double)total);
    }
    free(round.chunks);
    return status;
}

/* One entry for each tensor. */
struct lists {
    serverd_form *forms;
    size_t *places;
};

static serverd_status take_lists(const struct packing *packing, struct lists *lists,
                                 struct packed_weights *out, serverd_error *err)
{
    size_t n = max_size(packing->program->graph.n_tensors, 1);
    *lists = (struct lists){calloc(n, sizeof *lists->forms), calloc(n, sizeof *lists->places)};
    *out = (struct packed_weights){.tensor = calloc(n, sizeof *out->tensor)};
    if (!lists->forms || !lists->places || !out->tensor)
        return fail(err, SERVERD_NOMEM, "no memory for %zu tensors", n);
    return SERVERD_OK;
}

static void free_lists(struct lists *lists)
{
    free(lists->forms);
    free(lists->places);
}

serverd_status pack_weights(const struct packing *packing, struct packed_weights *out,
                            serverd_error *err)
{
    struct lists lists;
    serverd_status status = take_lists(packing, &lists, out, err);
    if (status == SERVERD_OK)
        status = pack_all(packing, out, lists.forms, lists.places, err);
    free_lists(&lists);
    return status;
}

serverd_status packing_measure(const struct packing *packing, struct packing_bytes *out,
                               serverd_error *err)
{
    struct packed_weights weights;
    struct lists lists;
    size_t block = 0;
    serverd_status status = take_lists(packing, &lists, &weights, err);
    if (status == SERVERD_OK)
        status = plan_packing(packing, &weights, lists.forms, lists.places, &block, err);
    *out = (struct packing_bytes){.block = block};
    for (uint32_t i = 0; i < packing->program->graph.n_tensors && status == SERVERD_OK; i++)
        if (is_wanted(packing, i) && lists.forms[i].layout == SERVERD_LAYOUT_ROWS)
            out->in_place += lists.forms[i].bytes;
    free_lists(&lists);
    packed_weights_free(&weights);
    return status;
}

void packed_weights_free(struct packed_weights *weights)
{
    free((void *)weights->tensor);
    free(weights->block);
    *weights = (struct packed_weights){0};
}
