#include "base/error.h"
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"
#include "program/dtype.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static serverd_status element_bytes(const serverd_kv_spec *spec, size_t *out, serverd_error *err)
{
    if (spec->dtype != DTYPE_F32 && spec->dtype != DTYPE_BF16)
        return fail(err, SERVERD_UNSUPPORTED, "cpu: KV of type %u; there are F32 and BF16",
                    spec->dtype);
    if (spec->page_tokens != SERVERD_PAGE_TOKENS)
        return fail(err, SERVERD_UNSUPPORTED, "cpu: KV pages of %u tokens; there are %u",
                    spec->page_tokens, SERVERD_PAGE_TOKENS);
    *out = spec->dtype == DTYPE_F32 ? 4 : 2;
    return SERVERD_OK;
}

/* Bytes of one page of one layer's keys or values. */
static size_t page_bytes(size_t n_kv_heads, size_t dim, size_t element)
{
    return n_kv_heads * dim * SERVERD_PAGE_TOKENS * element; /* heads and dims are bounded */
}

serverd_status cpu_kv_page_bytes(serverd_instance *instance, const serverd_kv_spec *spec,
                                 uint64_t *out, serverd_error *err)
{
    (void)instance;
    size_t element = 0;
    serverd_status status = element_bytes(spec, &element, err);
    if (status != SERVERD_OK)
        return status;
    *out = 0;
    for (uint32_t i = 0; i < spec->n_layers; i++) {
        const serverd_kv_layer *layer = &spec->layers[i];
        *out += page_bytes(layer->n_kv_heads, layer->k_dim, element) +
                page_bytes(layer->n_kv_heads, layer->v_dim, element);
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

static void unmap_store(void *p, size_t bytes)
{
    if (p)
        (void)munmap(p, bytes);
}

serverd_status cpu_kv_create(serverd_instance *instance, const serverd_kv_spec *spec,
                             uint32_t n_pages, serverd_kv **out, serverd_error *err)
{
    (void)instance;
    size_t element = 0;
    serverd_status status = element_bytes(spec, &element, err);
    if (status != SERVERD_OK)
        return status;
    serverd_kv *kv = calloc(1, sizeof *kv);
    if (!kv)
        return fail(err, SERVERD_NOMEM, "cpu: no memory for the KV store");
    *kv = (serverd_kv){.n_layers = spec->n_layers,
                       .n_pages = n_pages,
                       .dtype = spec->dtype,
                       .element_bytes = element,
                       .layers = calloc(max_size(spec->n_layers, 1), sizeof *kv->layers)};
    bool is_made = kv->layers != NULL;
    for (uint32_t i = 0; i < spec->n_layers && is_made; i++) {
        const serverd_kv_layer *from = &spec->layers[i];
        struct cpu_kv_layer *layer = &kv->layers[i];
        *layer = (struct cpu_kv_layer){
            .n_kv_heads = from->n_kv_heads, .k_dim = from->k_dim, .v_dim = from->v_dim};
        is_made = size_mul(page_bytes(from->n_kv_heads, from->k_dim, element), max_size(n_pages, 1),
                           &layer->key_bytes) &&
                  size_mul(page_bytes(from->n_kv_heads, from->v_dim, element), max_size(n_pages, 1),
                           &layer->value_bytes) &&
                  (layer->keys = map_store(layer->key_bytes)) &&
                  (layer->values = map_store(layer->value_bytes));
    }
    if (!is_made) {
        cpu_kv_destroy(kv);
        return fail(err, SERVERD_NOMEM, "cpu: no memory for %u KV pages", n_pages);
    }
    *out = kv;
    return SERVERD_OK;
}

void cpu_kv_destroy(serverd_kv *kv)
{
    for (uint32_t i = 0; kv->layers && i < kv->n_layers; i++) {
        unmap_store(kv->layers[i].keys, kv->layers[i].key_bytes);
        unmap_store(kv->layers[i].values, kv->layers[i].value_bytes);
    }
    free(kv->layers);
    free(kv);
}

/* The element at which a page's head begins. */
static void *slot(const serverd_kv *kv, uint32_t layer, bool is_value, uint32_t page, uint32_t head,
                  uint32_t token)
{
    const struct cpu_kv_layer *l = &kv->layers[layer];
    size_t dim = is_value ? l->v_dim : l->k_dim;
    size_t index = ((size_t)page * l->n_kv_heads + head) * SERVERD_PAGE_TOKENS + token;
    return (char *)(is_value ? l->values : l->keys) + index * dim * kv->element_bytes;
}

serverd_status cpu_kv_zero(serverd_kv *kv, serverd_pages pages, serverd_error *err)
{
    for (uint32_t i = 0; i < pages.n; i++) {
        if (pages.index[i] >= kv->n_pages)
            return fail(err, SERVERD_INTERNAL, "cpu: there is no KV page %u", pages.index[i]);
        for (uint32_t l = 0; l < kv->n_layers; l++) {
            const struct cpu_kv_layer *layer = &kv->layers[l];
            memset(slot(kv, l, false, pages.index[i], 0, 0), 0,
                   page_bytes(layer->n_kv_heads, layer->k_dim, kv->element_bytes));
            memset(slot(kv, l, true, pages.index[i], 0, 0), 0,
                   page_bytes(layer->n_kv_heads, layer->v_dim, kv->element_bytes));
        }
    }
    return SERVERD_OK;
}

serverd_status cpu_kv_copy(serverd_kv *kv, uint32_t from, uint32_t to, uint32_t n_tokens,
                           serverd_error *err)
{
    if (from >= kv->n_pages || to >= kv->n_pages || n_tokens > SERVERD_PAGE_TOKENS)
        return fail(err, SERVERD_INTERNAL, "cpu: cannot copy %u tokens of KV page %u to %u",
                    n_tokens, from, to);
    for (uint32_t l = 0; l < kv->n_layers && from != to; l++) {
        const struct cpu_kv_layer *layer = &kv->layers[l];
        for (uint32_t h = 0; h < layer->n_kv_heads; h++) {
            memcpy(slot(kv, l, false, to, h, 0), slot(kv, l, false, from, h, 0),
                   n_tokens * layer->k_dim * kv->element_bytes);
            memcpy(slot(kv, l, true, to, h, 0), slot(kv, l, true, from, h, 0),
                   n_tokens * layer->v_dim * kv->element_bytes);
        }
    }
    return SERVERD_OK;
}

void cpu_kv_read(const struct cpu_kernels *kernels, const serverd_kv *kv, uint32_t layer,
                 bool is_value, const uint32_t *pages, uint32_t head, uint32_t first, uint32_t n,
                 float *out)
{
    size_t dim = is_value ? kv->layers[layer].v_dim : kv->layers[layer].k_dim;
    while (n > 0) {
        uint32_t token = first % SERVERD_PAGE_TOKENS;
        uint32_t count = (uint32_t)min_size(n, SERVERD_PAGE_TOKENS - token);
        const void *from =
            slot(kv, layer, is_value, pages[first / SERVERD_PAGE_TOKENS], head, token);
        if (kv->dtype == DTYPE_F32)
            memcpy(out, from, count * dim * sizeof *out);
        else
            kernels->from_bf16(from, out, count * dim);
        out += count * dim;
        first += count;
        n -= count;
    }
}

void cpu_kv_write(const struct cpu_kernels *kernels, serverd_kv *kv, uint32_t layer, bool is_value,
                  const uint32_t *pages, uint32_t head, uint32_t position, const float *in)
{
    size_t dim = is_value ? kv->layers[layer].v_dim : kv->layers[layer].k_dim;
    void *to = slot(kv, layer, is_value, pages[position / SERVERD_PAGE_TOKENS], head,
                    position % SERVERD_PAGE_TOKENS);
    if (kv->dtype == DTYPE_F32)
        memcpy(to, in, dim * sizeof *in);
    else
        kernels->to_bf16(in, to, dim);
}
