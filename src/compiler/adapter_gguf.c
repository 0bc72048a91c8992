/* Adapters in GGUF files: general.type "adapter", adapter.type "lora", adapter.lora.alpha, and
 * tensors BASE.lora_a, BASE.lora_b for the base's tensor BASE. Rows of Q and K stand as in a GGUF
 * file of the base. */
#include "compiler/adapter_internal.h"

#include "base/error.h"
#include "compiler/arch.h"
#include "compiler/gguf_model.h"

#include <float.h>
#include <string.h>

static serverd_status need_text(const struct source_keys *keys, const char *name, const char *text,
                                serverd_error *err)
{
    struct source_string found = {.bytes = "", .len = 0};
    serverd_status status = source_need(keys, name, err);
    if (status == SERVERD_OK)
        status = source_get_string(keys, name, &found, err);
    if (status == SERVERD_OK && strcmp(found.bytes, text) != 0)
        status = fail(err, SERVERD_UNSUPPORTED, "%s: key %s: \"%.64s\", \"%s\" is needed",
                      keys->path, name, found.bytes, text);
    return status;
}

static serverd_status read_keys(const struct source_keys *keys, const struct program *base,
                                struct adapter_source *out, double *alpha, serverd_error *err)
{
    serverd_status status;
    struct source_string name = {.bytes = "", .len = 0};
    if ((status = need_text(keys, "general.type", "adapter", err)) != SERVERD_OK ||
        (status = need_text(keys, "adapter.type", "lora", err)) != SERVERD_OK ||
        (status = need_text(keys, "general.architecture", base->config.architecture, err)) !=
            SERVERD_OK ||
        (status = source_need(keys, "adapter.lora.alpha", err)) != SERVERD_OK ||
        (status = source_get_f64(keys, "adapter.lora.alpha", -FLT_MAX, FLT_MAX, alpha, err)) !=
            SERVERD_OK ||
        (status = source_get_string(keys, "general.name", &name, err)) != SERVERD_OK)
        return status;
    if (source_find_key(keys, "adapter.alora.invocation_tokens"))
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: key adapter.alora.invocation_tokens: adapters that a text turns on are "
                    "not supported",
                    keys->path);
    size_t n = strlen(name.bytes);
    memcpy(out->name, name.bytes, n < sizeof out->name ? n : 0);
    return SERVERD_OK;
}

/* "BASE.lora_a": the length of BASE, and which it is; 0: neither. */
static size_t base_length(const char *name, bool *is_a)
{
    static const char ends[2][8] = {".lora_a", ".lora_b"};
    size_t len = strlen(name), n = sizeof ends[0] - 1;
    for (int i = 0; i < 2; i++)
        if (len > n && strcmp(name + len - n, ends[i]) == 0) {
            *is_a = i == 0;
            return len - n;
        }
    return 0;
}

static serverd_status read_tensors(struct adapter_source *out, double alpha, serverd_error *err)
{
    const char *path = out->source.keys.path;
    for (uint32_t i = 0; i < out->source.n_tensors; i++) {
        const struct source_tensor *tensor = &out->source.tensors[i];
        bool is_a = false;
        size_t n = base_length(tensor->name, &is_a);
        if (n == 0)
            return fail(err, SERVERD_UNSUPPORTED,
                        "%s: tensor %.200s: ends neither in .lora_a nor in .lora_b", path,
                        tensor->name);
        const char *base = arena_copy(out->source.arena, tensor->name, n);
        struct adapter_pair *pair;
        if (!base)
            return fail(err, SERVERD_NOMEM, "%s: no memory for its tensors", path);
        serverd_status status = adapter_pair_of(out, base, base, &pair, err);
        if (status != SERVERD_OK)
            return status;
        *(is_a ? &pair->a : &pair->b) = tensor;
        if (is_a && tensor->rank == 2)
            pair->scale = alpha / (double)tensor->dims[0];
    }
    return SERVERD_OK;
}

serverd_status adapter_read_gguf(const char *path, const struct program *base,
                                 struct adapter_source *out, serverd_error *err)
{
    double alpha = 0;
    serverd_status status = gguf_model_open(path, &out->source, err);
    if (status != SERVERD_OK)
        return status;
    out->rotates_halves = arch_rotates_halves(base->config.architecture);
    status = read_keys(&out->source.keys, base, out, &alpha, err);
    return status == SERVERD_OK ? read_tensors(out, alpha, err) : status;
}
