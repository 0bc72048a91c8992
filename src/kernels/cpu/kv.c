/* How the store of kv_store.h lies here: cpu_kernels.h, attention_template.h. */
#include "base/hash.h"
#include "kernels/cpu/cpu_internal.h"

#include <string.h>

static const struct kv_store_form form = {
    .name = "cpu", .key_bytes = cpu_key_page_bytes, .value_bytes = cpu_value_page_bytes};

serverd_status cpu_kv_page_bytes(serverd_instance *instance, const serverd_kv_spec *spec,
                                 serverd_kv_bytes *out, serverd_error *err)
{
    (void)instance;
    return kv_store_page_bytes(&form, spec, out, err);
}

serverd_status cpu_kv_create(serverd_instance *instance, const serverd_kv_spec *spec,
                             uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                             serverd_error *err)
{
    (void)instance;
    return kv_store_create(&form, spec, n_pages, n_window_pages, out, err);
}

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
