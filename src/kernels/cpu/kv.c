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

serverd_status cpu_kv_page_bytes(serverd_instance *instance, const serverd_kv_spec *spec,
                                 uint64_t *out, serverd_error *err)
{
    (void)instance;
    serverd_status status = check_spec(spec, err);
    if (status != SERVERD_OK)
        return status;
    *out = 0;
    for (uint32_t i = 0; i < spec->n_layers; i++) {
        const serverd_kv_layer *layer = &spec->layers[i];
        *out += layer->n_kv_heads * (cpu_key_page_bytes(spec->dtype, layer->k_dim) +
                                     cpu_value_page_bytes(spec->dtype, layer->v_dim));
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

static bool store_bytes(const serverd_kv *kv, const struct cpu_kv_layer *layer, size_t page_bytes,
                        size_t *out)
{
    return size_mul(page_bytes, layer->n_kv_heads, out) &&
           size_mul(*out, max_size(kv->n_pages, 1), out);
}

serverd_status cpu_kv_create(serverd_instance *instance, const serverd_kv_spec *spec,
                             uint32_t n_pages, serverd_kv **out, serverd_error *err)
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
                       .dtype = spec->dtype,
                       .layers = calloc(max_size(spec->n_layers, 1), sizeof *kv->layers)};
    bool is_made = kv->layers != NULL;
    for (uint32_t i = 0; i < spec->n_layers && is_made; i++) {
        const serverd_kv_layer *from = &spec->layers[i];
        struct cpu_kv_layer *layer = &kv->layers[i];
        *layer =
            (struct cpu_kv_layer){.n_kv_heads = from->n_kv_heads,
                                  .k_dim = from->k_dim,
                                  .v_dim = from->v_dim,
                                  .key_bytes = cpu_key_page_bytes(spec->dtype, from->k_dim),
                                  .value_bytes = cpu_value_page_bytes(spec->dtype, from->v_dim)};
        size_t bytes;
        is_made = store_bytes(kv, layer, layer->key_bytes, &bytes) &&
                  (layer->keys = map_store(bytes)) &&
                  store_bytes(kv, layer, layer->value_bytes, &bytes) &&
                  (layer->values = map_store(bytes));
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
        const struct cpu_kv_layer *layer = &kv->layers[i];
        size_t bytes;
        if (layer->keys && store_bytes(kv, layer, layer->key_bytes, &bytes))
            (void)munmap(layer->keys, bytes);
        if (layer->values && store_bytes(kv, layer, layer->value_bytes, &bytes))
            (void)munmap(layer->values, bytes);
    }
    free(kv->layers);
    free(kv);
}

serverd_status cpu_kv_zero(serverd_kv *kv, serverd_pages pages, serverd_error *err)
{
    for (uint32_t i = 0; i < pages.n; i++) {
        if (pages.index[i] >= kv->n_pages)
            return fail(err, SERVERD_INTERNAL, "cpu: there is no KV page %u", pages.index[i]);
        for (uint32_t l = 0; l < kv->n_layers; l++) {
            const struct cpu_kv_layer *layer = &kv->layers[l];
            memset(cpu_kv_keys(layer, pages.index[i], 0), 0, layer->n_kv_heads * layer->key_bytes);
            memset(cpu_kv_values(layer, pages.index[i], 0), 0,
                   layer->n_kv_heads * layer->value_bytes);
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
    /* tokens lie side by side: whole pages, of which nobody reads what lies behind n_tokens */
    for (uint32_t l = 0; l < kv->n_layers && from != to; l++) {
        const struct cpu_kv_layer *layer = &kv->layers[l];
        memcpy(cpu_kv_keys(layer, to, 0), cpu_kv_keys(layer, from, 0),
               layer->n_kv_heads * layer->key_bytes);
        memcpy(cpu_kv_values(layer, to, 0), cpu_kv_values(layer, from, 0),
               layer->n_kv_heads * layer->value_bytes);
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

static serverd_status check_page(const serverd_kv *kv, uint32_t page, serverd_error *err)
{
    if (page >= kv->n_pages)
        return fail(err, SERVERD_INTERNAL, "cpu: there is no KV page %u", page);
    return SERVERD_OK;
}

/* Layer by layer, the keys of all heads and then their values. */
serverd_status cpu_kv_export(const serverd_kv *kv, uint32_t page, void *out, serverd_error *err)
{
    serverd_status status = check_page(kv, page, err);
    char *at = out;
    for (uint32_t l = 0; l < kv->n_layers && status == SERVERD_OK; l++) {
        const struct cpu_kv_layer *layer = &kv->layers[l];
        size_t key_bytes = layer->n_kv_heads * layer->key_bytes;
        size_t value_bytes = layer->n_kv_heads * layer->value_bytes;
        memcpy(at, cpu_kv_keys(layer, page, 0), key_bytes);
        memcpy(at + key_bytes, cpu_kv_values(layer, page, 0), value_bytes);
        at += key_bytes + value_bytes;
    }
    return status;
}

serverd_status cpu_kv_import(serverd_kv *kv, uint32_t page, const void *bytes, serverd_error *err)
{
    serverd_status status = check_page(kv, page, err);
    const char *at = bytes;
    for (uint32_t l = 0; l < kv->n_layers && status == SERVERD_OK; l++) {
        const struct cpu_kv_layer *layer = &kv->layers[l];
        size_t key_bytes = layer->n_kv_heads * layer->key_bytes;
        size_t value_bytes = layer->n_kv_heads * layer->value_bytes;
        memcpy(cpu_kv_keys(layer, page, 0), at, key_bytes);
        memcpy(cpu_kv_values(layer, page, 0), at + key_bytes, value_bytes);
        at += key_bytes + value_bytes;
    }
    return status;
}
