/* Pages of keys and values, in whatever type is asked for. */
#include "base/error.h"
#include "base/numeric.h"
#include "kernels/reference/reference_internal.h"
#include "program/dtype.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- one head of one token ------------------------------------------------------------------- */

/* Codes of -127 .. 127, nearest even, behind their scale. */
static void write_i8(const float *x, size_t n, char *out)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)x[i]));
    float scale = (float)(most / 127);
    memcpy(out, &scale, sizeof scale);
    for (size_t i = 0; i < n; i++) {
        double code = scale > 0 ? nearbyint((double)x[i] / (double)scale) : 0;
        out[sizeof scale + i] = (char)(int8_t)fmin(fmax(code, -127), 127);
    }
}

static void read_i8(const char *from, size_t n, float *out)
{
    float scale;
    memcpy(&scale, from, sizeof scale);
    for (size_t i = 0; i < n; i++)
        out[i] = scale * (float)(int8_t)from[sizeof scale + i];
}

static void write_halves(serverd_dtype dtype, const float *x, size_t n, char *out)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h = dtype == DTYPE_BF16 ? f32_to_bf16(x[i]) : f32_to_f16(x[i]);
        memcpy(out + i * sizeof h, &h, sizeof h);
    }
}

static void read_halves(serverd_dtype dtype, const char *from, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, from + i * sizeof h, sizeof h);
        out[i] = dtype == DTYPE_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
    }
}

static void write_head(serverd_dtype dtype, const float *x, size_t n, char *out)
{
    if (dtype == DTYPE_F32)
        memcpy(out, x, n * sizeof *x);
    else if (dtype == DTYPE_I8)
        write_i8(x, n, out);
    else
        write_halves(dtype, x, n, out);
}

static void read_head(serverd_dtype dtype, const char *from, size_t n, float *out)
{
    if (dtype == DTYPE_F32)
        memcpy(out, from, n * sizeof *out);
    else if (dtype == DTYPE_I8)
        read_i8(from, n, out);
    else
        read_halves(dtype, from, n, out);
}

void reference_kv_write(const struct reference_kv_layer *layer, serverd_dtype dtype, size_t slot,
                        uint32_t head, const float *key, const float *value)
{
    size_t at = slot * layer->n_kv_heads + head;
    write_head(dtype, key, layer->k_dim, layer->keys + at * layer->key_bytes);
    write_head(dtype, value, layer->v_dim, layer->values + at * layer->value_bytes);
}

void reference_kv_read_key(const struct reference_kv_layer *layer, serverd_dtype dtype, size_t slot,
                           uint32_t head, float *out)
{
    size_t at = slot * layer->n_kv_heads + head;
    read_head(dtype, layer->keys + at * layer->key_bytes, layer->k_dim, out);
}

void reference_kv_read_value(const struct reference_kv_layer *layer, serverd_dtype dtype,
                             size_t slot, uint32_t head, float *out)
{
    size_t at = slot * layer->n_kv_heads + head;
    read_head(dtype, layer->values + at * layer->value_bytes, layer->v_dim, out);
}

/* ---- stores ---------------------------------------------------------------------------------- */

static serverd_status check_spec(const serverd_kv_spec *spec, serverd_error *err)
{
    if (spec->dtype != DTYPE_F32 && spec->dtype != DTYPE_BF16 && spec->dtype != DTYPE_F16 &&
        spec->dtype != DTYPE_I8)
        return fail(err, SERVERD_UNSUPPORTED,
                    "cpu-reference: KV of type %u; there are F32, F16, BF16 and I8", spec->dtype);
    if (spec->page_tokens != SERVERD_PAGE_TOKENS)
        return fail(err, SERVERD_UNSUPPORTED, "cpu-reference: KV pages of %u tokens; there are %u",
                    spec->page_tokens, SERVERD_PAGE_TOKENS);
    return SERVERD_OK;
}

static size_t head_bytes(serverd_dtype dtype, size_t dim)
{
    if (dtype == DTYPE_I8)
        return sizeof(float) + dim;
    return dim * (dtype == DTYPE_F32 ? 4 : 2);
}

/* Of one page. */
static size_t keys_size(const struct reference_kv_layer *layer)
{
    return SERVERD_PAGE_TOKENS * layer->n_kv_heads * layer->key_bytes;
}

static size_t values_size(const struct reference_kv_layer *layer)
{
    return SERVERD_PAGE_TOKENS * layer->n_kv_heads * layer->value_bytes;
}

serverd_status reference_kv_page_bytes(serverd_instance *instance, const serverd_kv_spec *spec,
                                       serverd_kv_bytes *out, serverd_error *err)
{
    (void)instance;
    serverd_status status = check_spec(spec, err);
    if (status != SERVERD_OK)
        return status;
    *out = (serverd_kv_bytes){0};
    for (uint32_t i = 0; i < spec->n_layers; i++) {
        const serverd_kv_layer *layer = &spec->layers[i];
        *(layer->window > 0 ? &out->window_page : &out->page) +=
            (uint64_t)SERVERD_PAGE_TOKENS * layer->n_kv_heads *
            (head_bytes(spec->dtype, layer->k_dim) + head_bytes(spec->dtype, layer->v_dim));
    }
    return SERVERD_OK;
}

/* Memory that becomes real when it is first written. */
static char *map_store(size_t page_bytes, uint32_t n_pages)
{
    size_t bytes;
    if (!size_mul(page_bytes, max_size(n_pages, 1), &bytes))
        return NULL;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static bool create_layer(const serverd_kv *kv, const serverd_kv_layer *from,
                         struct reference_kv_layer *layer)
{
    if (from->n_kv_heads == 0)
        return true;
    bool is_windowed = from->window > 0 && kv->n_window_pages > 0;
    *layer = (struct reference_kv_layer){.n_kv_heads = from->n_kv_heads,
                                         .k_dim = from->k_dim,
                                         .v_dim = from->v_dim,
                                         .is_windowed = is_windowed,
                                         .n_pages = is_windowed ? kv->n_window_pages : kv->n_pages,
                                         .key_bytes = head_bytes(kv->dtype, from->k_dim),
                                         .value_bytes = head_bytes(kv->dtype, from->v_dim)};
    return (layer->keys = map_store(keys_size(layer), layer->n_pages)) &&
           (layer->values = map_store(values_size(layer), layer->n_pages));
}

serverd_status reference_kv_create(serverd_instance *instance, const serverd_kv_spec *spec,
                                   uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                                   serverd_error *err)
{
    (void)instance;
    serverd_status status = check_spec(spec, err);
    if (status != SERVERD_OK)
        return status;
    serverd_kv *kv = calloc(1, sizeof *kv);
    if (!kv)
        return fail(err, SERVERD_NOMEM, "cpu-reference: no memory for the KV store");
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
        reference_kv_destroy(kv);
        return fail(err, SERVERD_NOMEM, "cpu-reference: no memory for %u KV pages, %u window pages",
                    n_pages, n_window_pages);
    }
    *out = kv;
    return SERVERD_OK;
}

void reference_kv_destroy(serverd_kv *kv)
{
    for (uint32_t i = 0; kv->layers && i < kv->n_layers; i++) {
        const struct reference_kv_layer *layer = &kv->layers[i];
        size_t n = max_size(layer->n_pages, 1);
        if (layer->keys)
            (void)munmap(layer->keys, keys_size(layer) * n);
        if (layer->values)
            (void)munmap(layer->values, values_size(layer) * n);
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
                    "cpu-reference: there is no KV page %u, or no window page %u; there are %u and "
                    "%u",
                    page.page, page.window_page, kv->n_pages, kv->n_window_pages);
    return SERVERD_OK;
}

/* Where the layer has these tokens; SERVERD_NO_PAGE: nowhere, or they are left out. */
static uint32_t page_in(const struct reference_kv_layer *layer, serverd_kv_page page)
{
    if (layer->n_kv_heads == 0)
        return SERVERD_NO_PAGE;
    return layer->is_windowed ? page.window_page : page.page;
}

serverd_status reference_kv_zero(serverd_kv *kv, const serverd_kv_page *pages, uint32_t n,
                                 serverd_error *err)
{
    for (uint32_t i = 0; i < n; i++) {
        serverd_status status = check_page(kv, pages[i], err);
        if (status != SERVERD_OK)
            return status;
        for (uint32_t l = 0; l < kv->n_layers; l++) {
            const struct reference_kv_layer *layer = &kv->layers[l];
            size_t page = page_in(layer, pages[i]);
            if (page == SERVERD_NO_PAGE)
                continue;
            memset(layer->keys + page * keys_size(layer), 0, keys_size(layer));
            memset(layer->values + page * values_size(layer), 0, values_size(layer));
        }
    }
    return SERVERD_OK;
}

serverd_status reference_kv_copy(serverd_kv *kv, serverd_kv_page from, serverd_kv_page to,
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
        return fail(err, SERVERD_INTERNAL,
                    "cpu-reference: cannot copy %u tokens of KV page %u to %u", n_tokens, from.page,
                    to.page);
    for (uint32_t l = 0; l < kv->n_layers; l++) {
        const struct reference_kv_layer *layer = &kv->layers[l];
        size_t source = page_in(layer, from), target = page_in(layer, to);
        if (source == target) /* left out, too */
            continue;
        memcpy(layer->keys + target * keys_size(layer), layer->keys + source * keys_size(layer),
               keys_size(layer) / SERVERD_PAGE_TOKENS * n_tokens);
        memcpy(layer->values + target * values_size(layer),
               layer->values + source * values_size(layer),
               values_size(layer) / SERVERD_PAGE_TOKENS * n_tokens);
    }
    return SERVERD_OK;
}

/* ---- pages that leave and come back ---------------------------------------------------------- */

/* Raised when pages lie differently, or when keys and values come out with other bits. */
#define KV_VERSION 1

serverd_status reference_kv_identity(serverd_instance *instance, const serverd_kv_spec *spec,
                                     uint64_t *out, serverd_error *err)
{
    (void)instance, (void)spec, (void)err;
    *out = KV_VERSION;
    return SERVERD_OK;
}

/* Layer by layer, keys and then values; layers in window pages come last. */
serverd_status reference_kv_export(const serverd_kv *kv, serverd_kv_page page, void *out,
                                   serverd_error *err)
{
    serverd_status status = check_page(kv, page, err);
    char *at = out;
    for (uint32_t i = 0; i < 2 * kv->n_layers && status == SERVERD_OK; i++) {
        const struct reference_kv_layer *layer = &kv->layers[i % kv->n_layers];
        size_t index = page_in(layer, page);
        if (layer->is_windowed != (i >= kv->n_layers) || index == SERVERD_NO_PAGE)
            continue;
        memcpy(at, layer->keys + index * keys_size(layer), keys_size(layer));
        at += keys_size(layer);
        memcpy(at, layer->values + index * values_size(layer), values_size(layer));
        at += values_size(layer);
    }
    return status;
}

serverd_status reference_kv_import(serverd_kv *kv, serverd_kv_page page, const void *bytes,
                                   serverd_error *err)
{
    serverd_status status = check_page(kv, page, err);
    const char *at = bytes;
    for (uint32_t i = 0; i < 2 * kv->n_layers && status == SERVERD_OK; i++) {
        const struct reference_kv_layer *layer = &kv->layers[i % kv->n_layers];
        size_t index = page_in(layer, page);
        if (layer->is_windowed != (i >= kv->n_layers) || index == SERVERD_NO_PAGE)
            continue;
        memcpy(layer->keys + index * keys_size(layer), at, keys_size(layer));
        at += keys_size(layer);
        memcpy(layer->values + index * values_size(layer), at, values_size(layer));
        at += values_size(layer);
    }
    return status;
}
