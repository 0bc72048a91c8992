/* Pages of keys and values, in whatever type is asked for. */
#include "base/numeric.h"
#include "kernels/reference/reference_internal.h"
#include "program/dtype.h"

#include <math.h>
#include <string.h>

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

/* A page has token by token, and in each head by head. */
static size_t token_bytes(size_t page_bytes)
{
    return page_bytes / SERVERD_PAGE_TOKENS;
}

void reference_kv_write(const struct kv_store_layer *layer, serverd_dtype dtype, size_t slot,
                        uint32_t head, const float *key, const float *value)
{
    size_t at = slot * layer->n_kv_heads + head;
    write_head(dtype, key, layer->k_dim, layer->keys + at * token_bytes(layer->key_bytes));
    write_head(dtype, value, layer->v_dim, layer->values + at * token_bytes(layer->value_bytes));
}

void reference_kv_read_key(const struct kv_store_layer *layer, serverd_dtype dtype, size_t slot,
                           uint32_t head, float *out)
{
    size_t at = slot * layer->n_kv_heads + head;
    read_head(dtype, layer->keys + at * token_bytes(layer->key_bytes), layer->k_dim, out);
}

void reference_kv_read_value(const struct kv_store_layer *layer, serverd_dtype dtype, size_t slot,
                             uint32_t head, float *out)
{
    size_t at = slot * layer->n_kv_heads + head;
    read_head(dtype, layer->values + at * token_bytes(layer->value_bytes), layer->v_dim, out);
}

/* ---- stores ---------------------------------------------------------------------------------- */

/* Keys and values alike: those of I8 have their scale in front of them. */
static size_t page_bytes(serverd_dtype dtype, size_t dim)
{
    size_t bytes = dtype == DTYPE_I8 ? sizeof(float) + dim : dim * (dtype == DTYPE_F32 ? 4 : 2);
    return SERVERD_PAGE_TOKENS * bytes;
}

static const struct kv_store_form form = {
    .name = "cpu-reference", .key_bytes = page_bytes, .value_bytes = page_bytes};

serverd_status reference_kv_page_bytes(serverd_instance *instance, const serverd_kv_spec *spec,
                                       serverd_kv_bytes *out, serverd_error *err)
{
    (void)instance;
    return kv_store_page_bytes(&form, spec, out, err);
}

serverd_status reference_kv_create(serverd_instance *instance, const serverd_kv_spec *spec,
                                   uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                                   serverd_error *err)
{
    (void)instance;
    return kv_store_create(&form, spec, n_pages, n_window_pages, out, err);
}

/* Raised when pages lie differently, or when keys and values come out with other bits. */
#define KV_VERSION 1

serverd_status reference_kv_identity(serverd_instance *instance, const serverd_kv_spec *spec,
                                     uint64_t *out, serverd_error *err)
{
    (void)instance, (void)spec, (void)err;
    *out = KV_VERSION;
    return SERVERD_OK;
}
