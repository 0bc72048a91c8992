#include "kernels/kv_store.h"

#include "base/error.h"
#include "base/numeric.h"
#include "program/dtype.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static serverd_status check_spec(const struct kv_store_form *form, const serverd_kv_spec *spec,
                                 serverd_error *err)
{
    if (spec->dtype != DTYPE_F32 && spec->dtype != DTYPE_BF16 && spec->dtype != DTYPE_F16 &&
        spec->dtype != DTYPE_I8)
        return fail(err, SERVERD_UNSUPPORTED, "%s: KV of type %u; there are F32, F16, BF16 and I8",
                    form->name, spec->dtype);
    if (spec->page_tokens != SERVERD_PAGE_TOKENS)
        return fail(err, SERVERD_UNSUPPORTED, "%s: KV pages of %u tokens; there are %u", form->name,
                    spec->page_tokens, SERVERD_PAGE_TOKENS);
    return SERVERD_OK;
}

serverd_status kv_store_page_bytes(const struct kv_store_form *form, const serverd_kv_spec *spec,
                                   serverd_kv_bytes *out, serverd_error *err)
{
    serverd_status status = check_spec(form, spec, err);
    if (status != SERVERD_OK)
        return status;
    *out = (serverd_kv_bytes){0};
    for (uint32_t i = 0; i < spec->n_layers; i++) {
        const serverd_kv_layer *layer = &spec->layers[i];
        *(layer->window > 0 ? &out->window_page : &out->page) +=
            layer->n_kv_heads * (form->key_bytes(spec->dtype, layer->k_dim) +
                                 form->value_bytes(spec->dtype, layer->v_dim));
    }
    return SERVERD_OK;
}

/* Memory that becomes real when it is first written. No huge pages: each layer has stores of its
 * own, and a short context would take two megabytes in each. */
static void *map_store(void *context, size_t bytes)
{
    (void)context;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void unmap_store(void *context, void *at, size_t bytes)
{
    (void)context;
    (void)munmap(at, bytes);
}

static void zero_bytes(void *context, void *at, size_t bytes)
{
    (void)context;
    memset(at, 0, bytes);
}

static void copy_bytes(void *context, void *to, const void *from, size_t bytes)
{
    (void)context;
    memcpy(to, from, bytes);
}

static const struct kv_store_memory main_memory = {
    .allocate = map_store, .release = unmap_store, .zero = zero_bytes, .copy = copy_bytes};

static bool store_bytes(const struct kv_store_layer *layer, size_t page_bytes, size_t *out)
{
    return size_mul(page_bytes, layer->n_kv_heads, out) &&
           size_mul(*out, max_size(layer->n_pages, 1), out);
}

static bool create_layer(const struct kv_store_form *form, const serverd_kv *kv,
                         const serverd_kv_layer *from, struct kv_store_layer *layer)
{
    if (from->n_kv_heads == 0)
        return true;
    bool is_windowed = from->window > 0 && kv->n_window_pages > 0;
    size_t bytes;
    *layer = (struct kv_store_layer){.n_kv_heads = from->n_kv_heads,
                                     .k_dim = from->k_dim,
                                     .v_dim = from->v_dim,
                                     .is_windowed = is_windowed,
                                     .n_pages = is_windowed ? kv->n_window_pages : kv->n_pages,
                                     .key_bytes = form->key_bytes(kv->dtype, from->k_dim),
                                     .value_bytes = form->value_bytes(kv->dtype, from->v_dim)};
    return store_bytes(layer, layer->key_bytes, &bytes) &&
           (layer->keys = kv->memory.allocate(kv->memory.context, bytes)) &&
           store_bytes(layer, layer->value_bytes, &bytes) &&
           (layer->values = kv->memory.allocate(kv->memory.context, bytes));
}

serverd_status kv_store_create(const struct kv_store_form *form, const serverd_kv_spec *spec,
                               uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                               serverd_error *err)
{
    return kv_store_create_in(&main_memory, form, spec, n_pages, n_window_pages, out, err);
}

serverd_status kv_store_create_in(const struct kv_store_memory *memory,
                                  const struct kv_store_form *form, const serverd_kv_spec *spec,
                                  uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                                  serverd_error *err)
{
    serverd_status status = check_spec(form, spec, err);
    if (status != SERVERD_OK)
        return status;
    serverd_kv *kv = calloc(1, sizeof *kv);
    if (!kv)
        return fail(err, SERVERD_NOMEM, "%s: no memory for the KV store", form->name);
    *kv = (serverd_kv){.name = form->name,
                       .n_layers = spec->n_layers,
                       .n_pages = n_pages,
                       .n_window_pages = n_window_pages,
                       .dtype = spec->dtype,
                       .memory = *memory,
                       .layers = calloc(max_size(spec->n_layers, 1), sizeof *kv->layers)};
    bool is_made = kv->layers != NULL;
    for (uint32_t i = 0; i < spec->n_layers && is_made; i++) {
        is_made = create_layer(form, kv, &spec->layers[i], &kv->layers[i]);
        if (kv->layers[i].is_windowed)
            kv->window = (uint32_t)max_size(kv->window, spec->layers[i].window);
    }
    if (!is_made) {
        kv_store_destroy(kv);
        return fail(err, SERVERD_NOMEM, "%s: no memory for %u KV pages, %u window pages",
                    form->name, n_pages, n_window_pages);
    }
    *out = kv;
    return SERVERD_OK;
}

void kv_store_destroy(serverd_kv *kv)
{
    for (uint32_t i = 0; kv->layers && i < kv->n_layers; i++) {
        const struct kv_store_layer *layer = &kv->layers[i];
        size_t bytes;
        if (layer->keys && store_bytes(layer, layer->key_bytes, &bytes))
            kv->memory.release(kv->memory.context, layer->keys, bytes);
        if (layer->values && store_bytes(layer, layer->value_bytes, &bytes))
            kv->memory.release(kv->memory.context, layer->values, bytes);
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
                    "%s: there is no KV page %u, or no window page %u; there are %u and %u",
                    kv->name, page.page, page.window_page, kv->n_pages, kv->n_window_pages);
    return SERVERD_OK;
}

/* Where the layer has these tokens; SERVERD_NO_PAGE: they are left out. */
static uint32_t page_in(const struct kv_store_layer *layer, serverd_kv_page page)
{
    return layer->is_windowed ? page.window_page : page.page;
}

/* Of one page, with all heads. */
static size_t keys_size(const struct kv_store_layer *layer)
{
    return layer->n_kv_heads * layer->key_bytes;
}

static size_t values_size(const struct kv_store_layer *layer)
{
    return layer->n_kv_heads * layer->value_bytes;
}

static char *keys_at(const struct kv_store_layer *layer, uint32_t page)
{
    return layer->keys + page * keys_size(layer);
}

static char *values_at(const struct kv_store_layer *layer, uint32_t page)
{
    return layer->values + page * values_size(layer);
}

serverd_status kv_store_zero(serverd_kv *kv, const serverd_kv_page *pages, uint32_t n,
                             serverd_error *err)
{
    for (uint32_t i = 0; i < n; i++) {
        serverd_status status = check_page(kv, pages[i], err);
        if (status != SERVERD_OK)
            return status;
        for (uint32_t l = 0; l < kv->n_layers; l++) {
            const struct kv_store_layer *layer = &kv->layers[l];
            uint32_t page = page_in(layer, pages[i]);
            if (page == SERVERD_NO_PAGE || layer->n_kv_heads == 0)
                continue;
            kv->memory.zero(kv->memory.context, keys_at(layer, page), keys_size(layer));
            kv->memory.zero(kv->memory.context, values_at(layer, page), values_size(layer));
        }
    }
    return SERVERD_OK;
}

serverd_status kv_store_copy(serverd_kv *kv, serverd_kv_page from, serverd_kv_page to,
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
        return fail(err, SERVERD_INTERNAL, "%s: cannot copy %u tokens of KV page %u to %u",
                    kv->name, n_tokens, from.page, to.page);
    /* tokens may lie side by side: whole pages, of which nobody reads what lies behind n_tokens */
    for (uint32_t l = 0; l < kv->n_layers; l++) {
        const struct kv_store_layer *layer = &kv->layers[l];
        uint32_t source = page_in(layer, from), target = page_in(layer, to);
        if (source == target || layer->n_kv_heads == 0) /* left out, too */
            continue;
        kv->memory.copy(kv->memory.context, keys_at(layer, target), keys_at(layer, source),
                        keys_size(layer));
        kv->memory.copy(kv->memory.context, values_at(layer, target), values_at(layer, source),
                        values_size(layer));
    }
    return SERVERD_OK;
}

/* ---- pages that leave and come back ---------------------------------------------------------- */

serverd_status kv_store_pieces(const serverd_kv *kv, serverd_kv_page page,
                               void (*piece)(void *context, char *at, size_t bytes), void *context,
                               serverd_error *err)
{
    serverd_status status = check_page(kv, page, err);
    for (uint32_t i = 0; i < 2 * kv->n_layers && status == SERVERD_OK; i++) {
        const struct kv_store_layer *layer = &kv->layers[i % kv->n_layers];
        uint32_t index = page_in(layer, page);
        if (layer->is_windowed != (i >= kv->n_layers) || index == SERVERD_NO_PAGE ||
            layer->n_kv_heads == 0)
            continue;
        piece(context, keys_at(layer, index), keys_size(layer));
        piece(context, values_at(layer, index), values_size(layer));
    }
    return status;
}

static void copy_out(void *context, char *at, size_t bytes)
{
    char **to = context;
    memcpy(*to, at, bytes);
    *to += bytes;
}

static void copy_in(void *context, char *at, size_t bytes)
{
    const char **from = context;
    memcpy(at, *from, bytes);
    *from += bytes;
}

serverd_status kv_store_export(const serverd_kv *kv, serverd_kv_page page, void *out,
                               serverd_error *err)
{
    char *to = out;
    return kv_store_pieces(kv, page, copy_out, &to, err);
}

serverd_status kv_store_import(serverd_kv *kv, serverd_kv_page page, const void *bytes,
                               serverd_error *err)
{
    const char *from = bytes;
    return kv_store_pieces(kv, page, copy_in, &from, err);
}
