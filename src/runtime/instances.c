#include "runtime/instances.h"

#include "base/error.h"
#include "base/numeric.h"

#include <stdlib.h>
#include <string.h>

/* ---- opening --------------------------------------------------------------------------------- */

/* "key=value;key=value" or with commas. */
static serverd_status set_options(const struct instance *item, const char *text, serverd_error *err)
{
    const serverd_delegate *delegate = item->delegate;
    while (*text) {
        size_t len = strcspn(text, ",;"), key_len = strcspn(text, "=,;");
        char key[64], value[256];
        if (key_len == len || key_len >= sizeof key || len - key_len - 1 >= sizeof value)
            return fail(err, SERVERD_INVALID, "device: %.*s is not key=value",
                        (int)min_size(len, 200), text);
        memcpy(key, text, key_len);
        key[key_len] = '\0';
        memcpy(value, text + key_len + 1, len - key_len - 1);
        value[len - key_len - 1] = '\0';
        if (!delegate->set_option)
            return fail(err, SERVERD_INVALID, "device %s: has no option %s", delegate->name, key);
        serverd_status status = delegate->set_option(item->instance, key, value, err);
        if (status != SERVERD_OK)
            return error_context(err, "device %s: %s", delegate->name, key);
        text += len + (text[len] != '\0');
    }
    return SERVERD_OK;
}

struct instance *instances_of(struct instances *instances, uint32_t device)
{
    for (uint32_t i = 0; i < instances->n; i++)
        if (instances->items[i].device == device)
            return &instances->items[i];
    return NULL;
}

serverd_status instances_open(struct instances *instances, const struct placement *placement,
                              uint32_t *failed, bool *is_device, serverd_error *err)
{
    *is_device = false;
    for (uint32_t p = 0; p < placement->n_partitions; p++) {
        uint32_t index = placement->partitions[p].device;
        const struct placement_device *device = &placement->devices[index];
        if (instances_of(instances, index))
            continue;
        struct instance *item = &instances->items[instances->n];
        *item = (struct instance){.delegate = device->delegate, .device = index};
        serverd_status status =
            device->delegate->open(placement->host, &device->device, &item->instance, err);
        if (status != SERVERD_OK) {
            *failed = index;
            *is_device = true;
            return error_context(err, "device %s", device->name);
        }
        instances->n++;
        status = set_options(item, device->options, err);
        if (status != SERVERD_OK)
            return status;
    }
    return SERVERD_OK;
}

void instances_close(struct instances *instances)
{
    for (uint32_t i = 0; i < instances->n; i++) {
        struct instance *item = &instances->items[i];
        if (item->kv)
            item->delegate->kv_destroy(item->kv);
        free(item->layers);
    }
    for (uint32_t i = instances->n; i-- > 0;)
        instances->items[i].delegate->close(instances->items[i].instance);
    *instances = (struct instances){0};
}

/* ---- stores ---------------------------------------------------------------------------------- */

static bool has_store(const struct instance *item)
{
    return item->kv != NULL;
}

/* Marks the layers whose attention each instance runs. */
static void divide(struct instances *instances, const struct placement *placement,
                   const serverd_kv_spec *spec)
{
    const serverd_graph *graph = placement->graph;
    for (uint32_t p = 0; p < placement->n_partitions; p++) {
        const serverd_partition *view = &placement->partitions[p].view;
        struct instance *item = instances_of(instances, placement->partitions[p].device);
        for (uint32_t n = view->first_node; n < view->first_node + view->n_nodes; n++) {
            const serverd_attn *attn = &graph->nodes[n].attributes.attn;
            if (graph->nodes[n].op != SERVERD_OP_ATTN || !attn->is_causal ||
                attn->kv_layer >= spec->n_layers)
                continue;
            item->layers[attn->kv_layer] = spec->layers[attn->kv_layer];
            item->spec.n_layers = spec->n_layers;
        }
    }
    /* a model whose nodes do not say: test doubles keep all layers */
    if (instances->n == 1 && instances->items[0].spec.n_layers == 0) {
        memcpy(instances->items[0].layers, spec->layers, spec->n_layers * sizeof *spec->layers);
        instances->items[0].spec.n_layers = spec->n_layers;
    }
}

static serverd_status ask_bytes(struct instances *instances, const struct placement *placement,
                                uint32_t *failed, serverd_error *err)
{
    for (uint32_t i = 0; i < instances->n; i++) {
        struct instance *item = &instances->items[i];
        if (item->spec.n_layers == 0)
            continue;
        *failed = item->device;
        serverd_status status =
            item->delegate->kv_page_bytes(item->instance, &item->spec, &item->bytes, err);
        if (status != SERVERD_OK)
            return status;
        if (item->bytes.page == 0 && item->bytes.window_page == 0)
            return fail(err, SERVERD_INTERNAL, "device %s: says that a page has no bytes",
                        placement->devices[item->device].name);
        if (__builtin_add_overflow(instances->bytes.page, item->bytes.page,
                                   &instances->bytes.page) ||
            __builtin_add_overflow(instances->bytes.window_page, item->bytes.window_page,
                                   &instances->bytes.window_page))
            return fail(err, SERVERD_NOMEM, "device %s: the bytes of a page overflow",
                        placement->devices[item->device].name);
    }
    return SERVERD_OK;
}

serverd_status instances_divide_kv(struct instances *instances, const struct placement *placement,
                                   const serverd_kv_spec *spec, uint32_t *failed,
                                   serverd_error *err)
{
    for (uint32_t i = 0; i < instances->n; i++) {
        struct instance *item = &instances->items[i];
        item->spec = *spec;
        item->spec.n_layers = 0;
        item->spec.layers = item->layers =
            calloc(max_size(spec->n_layers, 1), sizeof *item->layers);
        *failed = item->device;
        if (!item->layers)
            return fail(err, SERVERD_NOMEM, "no memory for %u KV layers", spec->n_layers);
    }
    divide(instances, placement, spec);
    return ask_bytes(instances, placement, failed, err);
}

serverd_status instances_create_kv(struct instances *instances, uint32_t n_pages,
                                   uint32_t n_window_pages, uint32_t *failed, serverd_error *err)
{
    instances->n_pages = n_pages;
    instances->n_window_pages = n_window_pages;
    for (uint32_t i = 0; i < instances->n; i++) {
        struct instance *item = &instances->items[i];
        if (item->spec.n_layers == 0)
            continue;
        *failed = item->device;
        serverd_status status = item->delegate->kv_create(item->instance, &item->spec, n_pages,
                                                          n_window_pages, &item->kv, err);
        if (status != SERVERD_OK)
            return status;
    }
    return SERVERD_OK;
}

serverd_status instances_kv_zero(struct instances *instances, const serverd_kv_page *pages,
                                 uint32_t n, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < instances->n && status == SERVERD_OK; i++)
        if (has_store(&instances->items[i]))
            status = instances->items[i].delegate->kv_zero(instances->items[i].kv, pages, n, err);
    return status;
}

serverd_status instances_kv_copy(struct instances *instances, serverd_kv_page from,
                                 serverd_kv_page to, uint32_t n_tokens, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < instances->n && status == SERVERD_OK; i++)
        if (has_store(&instances->items[i]))
            status = instances->items[i].delegate->kv_copy(instances->items[i].kv, from, to,
                                                           n_tokens, err);
    return status;
}

bool instances_can_export(const struct instances *instances)
{
    bool is_any = false;
    for (uint32_t i = 0; i < instances->n; i++) {
        const serverd_delegate *delegate = instances->items[i].delegate;
        if (instances->items[i].spec.n_layers == 0)
            continue;
        if (!delegate->kv_identity || !delegate->kv_export || !delegate->kv_import)
            return false;
        is_any = true;
    }
    return is_any;
}

/* One half of a page in one store. */
struct part {
    const struct instance *item;
    serverd_kv_page page;
    size_t at; /* in the exported bytes */
};

/* The next part of a page that is not left out; false: there is none. `index` counts the halves of
 * all instances. */
static bool next_part(const struct instances *instances, serverd_kv_page page, uint32_t *index,
                      size_t *at, struct part *out)
{
    bool is_apart = instances->n_window_pages > 0;
    for (; *index < 2 * instances->n; ++*index) {
        bool is_window = *index >= instances->n;
        const struct instance *item = &instances->items[*index % instances->n];
        size_t bytes = is_window ? item->bytes.window_page : item->bytes.page;
        if (!is_apart && !is_window)
            bytes = item->bytes.page + item->bytes.window_page;
        if (!has_store(item) || bytes == 0 || (is_window && !is_apart) ||
            (is_window ? page.window_page : page.page) == SERVERD_NO_PAGE)
            continue;
        *out = (struct part){.item = item, .page = page, .at = *at};
        *(is_window ? &out->page.page : &out->page.window_page) = SERVERD_NO_PAGE;
        *at += bytes;
        ++*index;
        return true;
    }
    return false;
}

serverd_status instances_kv_export(const struct instances *instances, serverd_kv_page page,
                                   char *out, serverd_error *err)
{
    uint32_t index = 0;
    size_t at = 0;
    struct part part;
    serverd_status status = SERVERD_OK;
    while (status == SERVERD_OK && next_part(instances, page, &index, &at, &part))
        status = part.item->delegate->kv_export(part.item->kv, part.page, out + part.at, err);
    return status;
}

serverd_status instances_kv_import(struct instances *instances, serverd_kv_page page,
                                   const char *bytes, serverd_error *err)
{
    uint32_t index = 0;
    size_t at = 0;
    struct part part;
    serverd_status status = SERVERD_OK;
    while (status == SERVERD_OK && next_part(instances, page, &index, &at, &part))
        status = part.item->delegate->kv_import(part.item->kv, part.page, bytes + part.at, err);
    return status;
}

bool instances_leave_late(const struct instances *instances)
{
    for (uint32_t i = 0; i < instances->n; i++)
        if (has_store(&instances->items[i]) && instances->items[i].delegate->kv_settle)
            return true;
    return false;
}

serverd_status instances_kv_settle(struct instances *instances, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < instances->n && status == SERVERD_OK; i++)
        if (has_store(&instances->items[i]) && instances->items[i].delegate->kv_settle)
            status = instances->items[i].delegate->kv_settle(instances->items[i].kv, err);
    return status;
}
