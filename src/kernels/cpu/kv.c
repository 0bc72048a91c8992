#include "base/error.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"
#include "program/dtype.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static serverd_status check_spec(const serverd_kv_spec *spec, serverd_error *err)
{
    if (spec->dtype != DTYPE_F32 && spec->dtype != DTYPE_BF16 && spec->dtype != DTYPE_F16 &&
        spec->dtype != DTYPE_I8)
        return fail(err, SERVERD_UNSUPPORTED, "cpu: KV of type %u; there are F32, F16, BF16 and I8",
                    spec->dtype);
    if (spec->page_tokens != SERVERD_PAGE_TOKENS)
        return fail(err, SERVERD_UNSUPPORTED, "cpu: KV pages of %u tokens; there are %u",
                    spec->page_tokens, SERVERD_PAGE_TOKENS);
    return SERVERD_OK;
}

static uint64_t layer_page_bytes(const serverd_kv_spec *spec, const serverd_kv_layer *layer)
{
    return layer->n_kv_heads * (cpu_key_page_bytes(spec->dtype, layer->k_dim) +
                                cpu_value_page_bytes(spec->dtype, layer->v_dim));
}

serverd_status cpu_kv_page_bytes(serverd_instance *instance, const serverd_kv_spec *spec,
                                 serverd_kv_bytes *out, serverd_error *err)
{
    (void)instance;
    serverd_status status = check_spec(spec, err);
    if (status != SERVERD_OK)
        return status;
    *out = (serverd_kv_bytes){0};
    for (uint32_t i = 0; i < spec->n_layers; i++) {
        const serverd_kv_layer *layer = &spec->layers[i];
        *(layer->window > 0 ? &out->window_page : &out->page) += layer_page_bytes(spec, layer);
    }
    return SERVERD_OK;
}

/* Memory that becomes real when it is first written. No huge pages: each layer has stores of its
 * own, and a short context would take two megabytes in each. */
static void *map_store(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static bool store_bytes(const struct cpu_kv_layer *layer, size_t page_bytes, size_t *out)
{
    return size_mul(page_bytes, layer->n_kv_heads, out) &&
           size_mul(*out, max_size(layer->n_pages, 1), out);
}

static bool create_layer(const serverd_kv *kv, const serverd_kv_layer *from,
                         struct cpu_kv_layer *layer)
{
    if (from->n_kv_heads == 0)
        return true;
    bool is_windowed = from->window > 0 && kv->n_window_pages > 0;
    size_t bytes;
    *layer = (struct cpu_kv_layer){.n_kv_heads = from->n_kv_heads,
                                   .k_dim = from->k_dim,
                                   .v_dim = from->v_dim,
                                   .is_windowed = is_windowed,
                                   .n_pages = is_windowed ? kv->n_window_pages : kv->n_pages,
                                   .key_bytes = cpu_key_page_bytes(kv->dtype, from->k_dim),
                                   .value_bytes = cpu_value_page_bytes(kv->dtype, from->v_dim)};
    return store_bytes(layer, layer->key_bytes, &bytes) && (layer->keys = map_store(bytes)) &&
           store_bytes(layer, layer->value_bytes, &bytes) && (layer->values = map_store(bytes));
}

serverd_status cpu_kv_create(serverd_instance *instance, const serverd_kv_spec *spec,
                             uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                             serverd_error *err)
{
    (void)instance;
    serverd_status status = check_spec(spec, err);
    if (status != SERVERD_OK)
        return status;
    serverd_kv *kv = calloc(1, sizeof *kv);
    if (!kv)
        return fail(err, SERVERD_NOMEM, "cpu: no memory for the KV store");
    *kv = (serverd_kv){.n_layers = spec->n_layers,
                       .n_pages = n_pages,
                       .n_window_pages = n_window_pages,
                       .dtype = spec->dtype,
                       .layers = calloc(max_size(spec->n_layers, 1), sizeof *kv->layers)};
    bool is_made = kv->layers != NULL;
    for (uint32_t i = 0; i < spec->n_layers && is_made; i++) {
        is_made = create_layer(kv, &spec->layers[i], &kv->layers[i]);
        if (kv->layers[i].is_windowed)
            kv->window = (uint32_t)max_size(kv->window, spec->layers[i].window);
    }
    if (!is_made) {
        cpu_kv_destroy(kv);
        return fail(err, SERVERD_NOMEM, "cpu: no memory for %u KV pages, %u window pages", n_pages,
                    n_window_pages);
    }
    *out = kv;
    return SERVERD_OK;
}

void cpu_kv_destroy(serverd_kv *kv)
{
    for (uint32_t i = 0; kv->layers && i < kv->n_layers; i++) {
        const struct cpu_kv_layer *layer = &kv->layers[i];
        size_t bytes;
        if (layer->keys && store_bytes(layer, layer->key_bytes, &bytes))
            (void)munmap(layer->keys, bytes);
        if (layer->values && store_bytes(layer, layer->value_bytes, &bytes))
            (void)munmap(layer->values, bytes);
    }
    free(kv->layers);
    free(kv);
}

/* ---- pages ----------------------------------------------------------------------------------- */

static serverd_status check_page(const serverd_kv *kv, serverd_kv_page page, serverd_error *err)
{
    if ((page.page != SERVERD_NO_PAGE && page.page >= kv->n_pages) ||
        (page.window_page != SERVERD_NO_PAGE && page.window_page >= kv->n_window_pages))
        return fail(err, SERVERD_INTERNAL,
                    "cpu: there is no KV page %u, or no window page %u; there are %u and %u",
                    page.page, page.window_page, kv->n_pages, kv->n_window_pages);
    return SERVERD_OK;
}

/* Where the layer has these tokens; SERVERD_NO_PAGE: they are left out. */
static uint32_t page_in(const struct cpu_kv_layer *layer, serverd_kv_page page)
{
    return layer->is_windowed ? page.window_page : page.page;
}

/* Of one page, with all heads. */
static size_t keys_size(const struct cpu_kv_layer *layer)
{
    return layer->n_kv_heads * layer->key_bytes;
}

static size_t values_size(const struct cpu_kv_layer *layer)
{
    return layer->n_kv_heads * layer->value_bytes;
}

serverd_status cpu_kv_zero(serverd_kv *kv, const serverd_kv_page *pages, uint32_t n,
                           serverd_error *err)
{
    for (uint32_t i = 0; i < n; i++) {
        serverd_status status = check_page(kv, pages[i], err);
        if (status != SERVERD_OK)
            return status;
        for (uint32_t l = 0; l < kv->n_layers; l++) {
            const struct cpu_kv_layer *layer = &kv->layers[l];
            uint32_t page = page_in(layer, pages[i]);
            if (page == SERVERD_NO_PAGE || layer->n_kv_heads == 0)
                continue;
            memset(cpu_kv_keys(layer, page, 0), 0, keys_size(layer));
            memset(cpu_kv_values(layer, page, 0), 0, values_size(layer));
        }
    }
    return SERVERD_OK;
}

serverd_status cpu_kv_copy(serverd_kv *kv, serverd_kv_page from, serverd_kv_page to,
                           uint32_t n_tokens, serverd_error *err)
{
    serverd_status status = check_page(kv, from, err);
    if (status == SERVERD_OK)
        status = check_page(kv, to, err);
    if (status != SERVERD_OK)
        return status;
    if (n_tokens > SERVERD_PAGE_TOKENS ||
        (from.page == SERVERD_NO_PAGE) != (to.page == SERVERD_NO_PAGE) ||
        (from.window_page == SERVERD_NO_PAGE) != (to.window_page == SERVERD_NO_PAGE))
        return fail(err, SERVERD_INTERNAL, "cpu: cannot copy %u tokens of KV page %u to %u",
                    n_tokens, from.page, to.page);
    /* tokens lie side by side: whole pages, of which nobody reads what lies behind n_tokens */
    for (uint32_t l = 0; l < kv->n_layers; l++) {
        const struct cpu_kv_layer *layer = &kv->layers[l];
        uint32_t source = page_in(layer, from), target = page_in(layer, to);
        if (source == target || layer->n_kv_heads == 0) /* left out, too */
            continue;
        memcpy(cpu_kv_keys(layer, target, 0), cpu_kv_keys(layer, source, 0), keys_size(layer));
        memcpy(cpu_kv_values(layer, target, 0), cpu_kv_values(layer, source, 0),
               values_size(layer));
    }
    return SERVERD_OK;
}

/* ---- pages that leave and come back ---------------------------------------------------------- */

/* Raised when pages lie differently, or when keys and values come out with other bits. */
#define KV_VERSION 1

/* The level counts, too: those with a bf16 dot product of their own give other bits than the rest.
 */
serverd_status cpu_kv_identity(serverd_instance *instance, const serverd_kv_spec *spec,
                               uint64_t *out, serverd_error *err)
{
    (void)spec, (void)err;
    const char *level = instance->kernels->name;
    *out = sha256_number(level, strlen(level)) + KV_VERSION;
    return SERVERD_OK;
}

/* Layer by layer, the keys of all heads and then their values; layers in window pages come last. */
serverd_status cpu_kv_export(const serverd_kv *kv, serverd_kv_page page, void *out,
                             serverd_error *err)
{
    serverd_status status = check_page(kv, page, err);
    char *at = out;
    for (uint32_t i = 0; i < 2 * kv->n_layers && status == SERVERD_OK; i++) {
        const struct cpu_kv_layer *layer = &kv->layers[i % kv->n_layers];
        uint32_t index = page_in(layer, page);
        if (layer->is_windowed != (i >= kv->n_layers) || index == SERVERD_NO_PAGE ||
            layer->n_kv_heads == 0)
            continue;
        memcpy(at, cpu_kv_keys(layer, index, 0), keys_size(layer));
        memcpy(at + keys_size(layer), cpu_kv_values(layer, index, 0), values_size(layer));
        at += keys_size(layer) + values_size(layer);
    }
    return status;
}

serverd_status cpu_kv_import(serverd_kv *kv, serverd_kv_page page, const void *bytes,
                             serverd_error *err)
{
    serverd_status status = check_page(kv, page, err);
    const char *at = bytes;
    for (uint32_t i = 0; i < 2 * kv->n_layers && status == SERVERD_OK; i++) {
        const struct cpu_kv_layer *layer = &kv->layers[i % kv->n_layers];
        uint32_t index = page_in(layer, page);
        if (layer->is_windowed != (i >= kv->n_layers) || index == SERVERD_NO_PAGE ||
            layer->n_kv_heads == 0)
            continue;
        memcpy(cpu_kv_keys(layer, index, 0), at, keys_size(layer));
        memcpy(cpu_kv_values(layer, index, 0), at + keys_size(layer), values_size(layer));
        at += keys_size(layer) + values_size(layer);
    }
    return status;
}
