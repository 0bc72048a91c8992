/* Pages of keys and values in the device's memory. */
#include "base/error.h"
#include "base/numeric.h"
#include "kernels/cuda/cuda_internal.h"
#include "program/dtype.h"

#include <stdlib.h>
#include <string.h>

/* Pages that are in staging memory at once, and bytes, but at least one page. */
enum { MAX_STAGED = 64 };
#define STAGED_BYTES ((size_t)32 << 20)

static enum gpu_number number_of(serverd_dtype dtype)
{
    return dtype == DTYPE_F32    ? GPU_F32
           : dtype == DTYPE_F16  ? GPU_F16
           : dtype == DTYPE_BF16 ? GPU_BF16
                                 : GPU_I8;
}

/* Keys and values alike. */
static size_t page_bytes(serverd_dtype dtype, size_t dim)
{
    return gpu_kv_page_bytes(number_of(dtype), (uint32_t)dim);
}

static const struct kv_store_form form = {
    .name = "cuda", .key_bytes = page_bytes, .value_bytes = page_bytes};

/* What a store is to its memory: the device, and pinned memory through which pages leave and come
 * back. A page's pieces are gathered there behind all that was launched before, and taken from
 * there when that is over, at the next cuda_kv_settle; so steps go on meanwhile. */
struct cuda_pages {
    struct gpu *gpu;
    char *staging;
    size_t bytes, used; /* of the staging memory */
    uint32_t n_leaving;
    struct leaving {
        void *out;
        const char *staged;
        size_t bytes;
    } leaving[MAX_STAGED];
};

static void *allocate(void *context, size_t bytes)
{
    const struct cuda_pages *pages = context;
    return gpu_allocate(pages->gpu, bytes);
}

static void release(void *context, void *at, size_t bytes)
{
    const struct cuda_pages *pages = context;
    (void)bytes;
    gpu_free(pages->gpu, at);
}

static void zero(void *context, void *at, size_t bytes)
{
    const struct cuda_pages *pages = context;
    gpu_zero(pages->gpu, at, bytes);
}

static void copy(void *context, void *to, const void *from, size_t bytes)
{
    const struct cuda_pages *pages = context;
    gpu_copy(pages->gpu, to, from, bytes);
}

serverd_status cuda_kv_page_bytes(serverd_instance *instance, const serverd_kv_spec *spec,
                                  serverd_kv_bytes *out, serverd_error *err)
{
    (void)instance;
    return kv_store_page_bytes(&form, spec, out, err);
}

static void destroy_pages(struct cuda_pages *pages)
{
    gpu_free_pinned(pages->gpu, pages->staging);
    free(pages);
}

serverd_status cuda_kv_create(serverd_instance *instance, const serverd_kv_spec *spec,
                              uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                              serverd_error *err)
{
    serverd_kv_bytes bytes;
    serverd_status status = kv_store_page_bytes(&form, spec, &bytes, err);
    if (status != SERVERD_OK)
        return status;
    struct cuda_pages *pages = calloc(1, sizeof *pages);
    if (!pages)
        return fail(err, SERVERD_NOMEM, "cuda: no memory for the KV store");
    const size_t page = bytes.page + bytes.window_page;
    pages->gpu = instance->gpu;
    pages->bytes = max_size(page, min_size(page * MAX_STAGED, STAGED_BYTES));
    pages->staging = gpu_allocate_pinned(pages->gpu, pages->bytes);
    const struct kv_store_memory memory = {
        .context = pages, .allocate = allocate, .release = release, .zero = zero, .copy = copy};
    status = pages->staging
                 ? kv_store_create_in(&memory, &form, spec, n_pages, n_window_pages, out, err)
                 : fail(err, SERVERD_NOMEM, "cuda: no pinned memory for pages");
    if (status != SERVERD_OK)
        destroy_pages(pages);
    return status;
}

void cuda_kv_destroy(serverd_kv *kv)
{
    struct cuda_pages *pages = kv->memory.context;
    kv_store_destroy(kv);
    destroy_pages(pages);
}

/* ---- pages that leave and come back ---------------------------------------------------------- */

static serverd_status settle(struct cuda_pages *pages, serverd_error *err)
{
    const serverd_status status = gpu_wait_for_mark(pages->gpu, err);
    for (uint32_t i = 0; i < pages->n_leaving && status == SERVERD_OK; i++)
        memcpy(pages->leaving[i].out, pages->leaving[i].staged, pages->leaving[i].bytes);
    pages->n_leaving = 0;
    pages->used = 0;
    return status;
}

serverd_status cuda_kv_settle(serverd_kv *kv, serverd_error *err)
{
    return settle(kv->memory.context, err);
}

/* A page's pieces on their way to staging memory or from there, as many at once as a launch takes.
 */
struct moving {
    struct gpu *gpu;
    char *staged;
    void (*move)(struct gpu *gpu, const struct gpu_pieces *pieces, char *staged);
    size_t bytes; /* until now; with `move` NULL they are only counted */
    struct gpu_pieces pieces;
};

static void gather(struct gpu *gpu, const struct gpu_pieces *pieces, char *staged)
{
    gpu_gather(gpu, pieces, staged);
}

static void scatter(struct gpu *gpu, const struct gpu_pieces *pieces, char *staged)
{
    gpu_scatter(gpu, pieces, staged);
}

static void launch_move(struct moving *moving)
{
    if (moving->pieces.n > 0)
        moving->move(moving->gpu, &moving->pieces, moving->staged);
    moving->pieces.n = 0;
}

static void add_piece(void *context, char *at, size_t bytes)
{
    struct moving *moving = context;
    const size_t offset = moving->bytes;
    moving->bytes += bytes;
    if (!moving->move)
        return;
    if (moving->pieces.n == GPU_MAX_PIECES)
        launch_move(moving);
    moving->pieces.of[moving->pieces.n++] =
        (struct gpu_piece){.at = at, .bytes = (uint32_t)bytes, .offset = (uint32_t)offset};
}

/* Bytes of the page, and where they are to be staged. */
static serverd_status stage(const serverd_kv *kv, serverd_kv_page page, size_t *bytes,
                            char **staged, serverd_error *err)
{
    struct cuda_pages *pages = kv->memory.context;
    struct moving counted = {.move = NULL};
    serverd_status status = kv_store_pieces(kv, page, add_piece, &counted, err);
    if (status == SERVERD_OK &&
        (pages->n_leaving == MAX_STAGED || counted.bytes > pages->bytes - pages->used))
        status = settle(pages, err);
    *bytes = counted.bytes;
    *staged = pages->staging + pages->used;
    pages->used += status == SERVERD_OK ? counted.bytes : 0;
    return status;
}

static serverd_status move_page(const serverd_kv *kv, serverd_kv_page page, char *staged,
                                void (*move)(struct gpu *, const struct gpu_pieces *, char *),
                                serverd_error *err)
{
    const struct cuda_pages *pages = kv->memory.context;
    struct moving moving = {.gpu = pages->gpu, .staged = staged, .move = move};
    gpu_enter(pages->gpu);
    const serverd_status status = kv_store_pieces(kv, page, add_piece, &moving, err);
    launch_move(&moving);
    gpu_mark(pages->gpu);
    return status;
}

serverd_status cuda_kv_export(const serverd_kv *kv, serverd_kv_page page, void *out,
                              serverd_error *err)
{
    struct cuda_pages *pages = kv->memory.context;
    size_t bytes;
    char *staged;
    serverd_status status = stage(kv, page, &bytes, &staged, err);
    if (status == SERVERD_OK)
        status = move_page(kv, page, staged, gather, err);
    if (status == SERVERD_OK)
        pages->leaving[pages->n_leaving++] = (struct leaving){out, staged, bytes};
    return status;
}

serverd_status cuda_kv_import(serverd_kv *kv, serverd_kv_page page, const void *from,
                              serverd_error *err)
{
    size_t bytes;
    char *staged;
    const serverd_status status = stage(kv, page, &bytes, &staged, err);
    if (status != SERVERD_OK)
        return status;
    memcpy(staged, from, bytes);
    return move_page(kv, page, staged, scatter, err);
}

/* Raised when pages lie differently, or when keys and values come out with other bits. */
#define KV_VERSION 0x47000003u

serverd_status cuda_kv_identity(serverd_instance *instance, const serverd_kv_spec *spec,
                                uint64_t *out, serverd_error *err)
{
    (void)instance, (void)spec, (void)err;
    *out = KV_VERSION;
    return SERVERD_OK;
}

struct gpu_kv cuda_kv_layer(const serverd_kv *kv, uint32_t index)
{
    const struct kv_store_layer *layer = &kv->layers[index];
    return (struct gpu_kv){.keys = layer->keys,
                           .values = layer->values,
                           .n_kv_heads = layer->n_kv_heads,
                           .k_dim = layer->k_dim,
                           .v_dim = layer->v_dim,
                           .type = number_of(kv->dtype),
                           .is_windowed = layer->is_windowed};
}
