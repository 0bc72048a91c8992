/* Pages of keys and values in the device's memory. */
#include "base/error.h"
#include "kernels/cuda/cuda_internal.h"
#include "program/dtype.h"

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

static void *allocate(void *context, size_t bytes)
{
    return gpu_allocate(context, bytes);
}

static void release(void *context, void *at, size_t bytes)
{
    (void)bytes;
    gpu_free(context, at);
}

static void zero(void *context, void *at, size_t bytes)
{
    gpu_zero(context, at, bytes);
}

static void copy(void *context, void *to, const void *from, size_t bytes)
{
    gpu_copy(context, to, from, bytes);
}

static void to_host(void *context, void *to, const void *from, size_t bytes)
{
    gpu_to_host(context, to, from, bytes);
}

static void from_host(void *context, void *to, const void *from, size_t bytes)
{
    gpu_from_host(context, to, from, bytes);
}

static serverd_status wait(void *context, serverd_error *err)
{
    return gpu_wait(context, err);
}

serverd_status cuda_kv_page_bytes(serverd_instance *instance, const serverd_kv_spec *spec,
                                  serverd_kv_bytes *out, serverd_error *err)
{
    (void)instance;
    return kv_store_page_bytes(&form, spec, out, err);
}

serverd_status cuda_kv_create(serverd_instance *instance, const serverd_kv_spec *spec,
                              uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                              serverd_error *err)
{
    const struct kv_store_memory memory = {.context = instance->gpu,
                                           .allocate = allocate,
                                           .release = release,
                                           .zero = zero,
                                           .copy = copy,
                                           .to_host = to_host,
                                           .from_host = from_host,
                                           .wait = wait};
    return kv_store_create_in(&memory, &form, spec, n_pages, n_window_pages, out, err);
}

/* Raised when pages lie differently, or when keys and values come out with other bits. */
#define KV_VERSION 0x47000002u

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
