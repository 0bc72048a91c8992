/* Pages of keys and values, in main memory or a device's, for back-ends that differ in how a page
 * of one head lies in its bytes and in nothing else. The members of the delegate but kv_page_bytes,
 * kv_create and kv_identity are these functions themselves; their rules are delegate.h's. */
#ifndef KERNELS_KV_STORE_H
#define KERNELS_KV_STORE_H

#include "serverd/delegate.h"

#include <stdbool.h>
#include <stddef.h>

/* What a back-end stores: F32, F16, BF16 and I8. */
struct kv_store_form {
    const char *name; /* of the back-end, for errors */
    /* Of one page of one head. */
    size_t (*key_bytes)(serverd_dtype dtype, size_t k_dim);
    size_t (*value_bytes)(serverd_dtype dtype, size_t v_dim);
};

/* Memory that a store may lie in. Calls are in order with what the back-end does in a step. Pages
 * of other memory than main memory leave and come back by functions of the back-end's own. */
struct kv_store_memory {
    void *context;
    void *(*allocate)(void *context, size_t bytes); /* zeros, or noise; NULL: there is none */
    void (*release)(void *context, void *at, size_t bytes);
    void (*zero)(void *context, void *at, size_t bytes);
    void (*copy)(void *context, void *to, const void *from, size_t bytes);
};

struct kv_store_layer {
    uint32_t n_kv_heads, k_dim, v_dim; /* n_kv_heads 0: another instance has the layer */
    bool is_windowed;                  /* its pages are the window pages */
    uint32_t n_pages;
    char *keys, *values;           /* [n_pages][n_kv_heads * key_bytes], value_bytes */
    size_t key_bytes, value_bytes; /* of one page of one head */
};

struct serverd_kv {
    const char *name; /* the form's */
    uint32_t n_layers, n_pages;
    uint32_t n_window_pages; /* 0: none, pages hold all layers */
    uint32_t window;         /* the widest of those layers that are in window pages */
    serverd_dtype dtype;
    struct kv_store_memory memory;
    struct kv_store_layer *layers;
};

serverd_status kv_store_page_bytes(const struct kv_store_form *form, const serverd_kv_spec *spec,
                                   serverd_kv_bytes *out, serverd_error *err);
serverd_status kv_store_create(const struct kv_store_form *form, const serverd_kv_spec *spec,
                               uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                               serverd_error *err);
/* The same in other memory than main memory. */
serverd_status kv_store_create_in(const struct kv_store_memory *memory,
                                  const struct kv_store_form *form, const serverd_kv_spec *spec,
                                  uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                                  serverd_error *err);
void kv_store_destroy(serverd_kv *kv);

serverd_status kv_store_zero(serverd_kv *kv, const serverd_kv_page *pages, uint32_t n,
                             serverd_error *err);
serverd_status kv_store_copy(serverd_kv *kv, serverd_kv_page from, serverd_kv_page to,
                             uint32_t n_tokens, serverd_error *err);
/* The stretches of memory that a page has, layer by layer, all its keys and then its values; layers
 * in window pages come last. */
serverd_status kv_store_pieces(const serverd_kv *kv, serverd_kv_page page,
                               void (*piece)(void *context, char *at, size_t bytes), void *context,
                               serverd_error *err);
/* These one behind the other, of main memory. */
serverd_status kv_store_export(const serverd_kv *kv, serverd_kv_page page, void *out,
                               serverd_error *err);
serverd_status kv_store_import(serverd_kv *kv, serverd_kv_page page, const void *bytes,
                               serverd_error *err);

#endif
