#include "kernels/testing/fault.h"

#include "base/error.h"
#include "base/numeric.h"
#include "kernels/builtin.h"
#include "kernels/cpu/delegate.h"
#include "program/op.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_EVENTS 32

enum fault_kind {
    FAULT_NAN,
    FAULT_INF,
    FAULT_ERROR,
    FAULT_OOM,
    FAULT_LOST,
    FAULT_HANG,
    FAULT_SLOW
};

/* The calls that a script can hit. */
enum member {
    MEMBER_EXECUTE,
    MEMBER_LOAD,
    MEMBER_KV,
    MEMBER_PAGE_BYTES,
    MEMBER_ZERO,
    MEMBER_COPY,
    MEMBER_IDENTITY,
    MEMBER_EXPORT,
    MEMBER_IMPORT,
    MEMBER_FOOTPRINT,
    MEMBER_READ,
    N_MEMBERS
};

static const char *const member_names[N_MEMBERS] = {
    [MEMBER_LOAD] = "load",     [MEMBER_KV] = "kv",         [MEMBER_PAGE_BYTES] = "page_bytes",
    [MEMBER_ZERO] = "zero",     [MEMBER_COPY] = "copy",     [MEMBER_IDENTITY] = "identity",
    [MEMBER_EXPORT] = "export", [MEMBER_IMPORT] = "import", [MEMBER_FOOTPRINT] = "footprint",
    [MEMBER_READ] = "read",
};

/* Hits calls first .. first + count - 1 of a member, counted from 1. */
struct fault_event {
    enum fault_kind kind;
    enum member member;
    int64_t first, count;
    uint64_t value;
};

static const struct {
    const char *name;
    enum fault_kind kind;
    uint64_t value; /* unless the script says another */
} kinds[] = {
    {"nan", FAULT_NAN, 0},     {"inf", FAULT_INF, 0},
    {"oom", FAULT_OOM, 0},     {"error", FAULT_ERROR, SERVERD_INTERNAL},
    {"lost", FAULT_LOST, 0},   {"hang", FAULT_HANG, 3600},
    {"slow", FAULT_SLOW, 100},
};

struct serverd_instance {
    const serverd_host *host;
    const serverd_delegate *inner;
    serverd_instance *inner_instance; /* opened when first needed */
    struct fault_event events[MAX_EVENTS];
    uint32_t n_events;
    int64_t n_calls[N_MEMBERS];
    bool is_lost;
};

struct serverd_handle {
    serverd_instance *instance;
    serverd_handle *inner;
    const serverd_graph *graph;
    const serverd_partition *partition;
};

struct serverd_kv {
    serverd_instance *instance;
    serverd_kv *inner;
};

/* ---- the script ---------------------------------------------------------------------------- */

static void sleep_ms(uint64_t ms)
{
    struct timespec left = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000 * 1000000)};
    while (nanosleep(&left, &left) != 0)
        continue;
}

static bool parse_status(const char *name, uint64_t *out)
{
    for (uint32_t code = SERVERD_UNSUPPORTED; code <= SERVERD_INTERNAL; code++) {
        if (strcmp(status_name((serverd_status)code), name) == 0) {
            *out = code;
            return true;
        }
    }
    return false;
}

static bool parse_when(const char *text, struct fault_event *event)
{
    event->first = 1;
    for (enum member m = MEMBER_EXECUTE + 1; m < N_MEMBERS; m++)
        if (strcmp(text, member_names[m]) == 0) {
            event->member = m;
            return true;
        }
    event->member = MEMBER_EXECUTE;
    return parse_i64(text, 1, INT64_MAX, &event->first);
}

/* KIND@WHEN[:VALUE][xCOUNT]; `text` is cut into its parts. */
static bool parse_event(char *text, struct fault_event *event)
{
    char *when = strchr(text, '@');
    if (!when)
        return false;
    *when++ = '\0';
    char *count = strrchr(when, 'x'), *value = strchr(when, ':');
    if (count && (count[1] < '0' || count[1] > '9'))
        count = NULL; /* of "export" */
    if (count)
        *count++ = '\0';
    if (value)
        *value++ = '\0';
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(text, kinds[i].name) != 0)
            continue;
        *event = (struct fault_event){.kind = kinds[i].kind, .count = 1, .value = kinds[i].value};
        return parse_when(when, event) &&
               (!count || parse_i64(count, 1, INT32_MAX, &event->count)) &&
               (!value || parse_u64(value, 0, 86400000, &event->value) ||
                (event->kind == FAULT_ERROR && parse_status(value, &event->value)));
    }
    return false;
}

static serverd_status parse_script(serverd_instance *instance, const char *script,
                                   serverd_error *err)
{
    while (*script) {
        char text[64];
        size_t len = strcspn(script, "+");
        if (instance->n_events == MAX_EVENTS)
            return fail(err, SERVERD_INVALID, "script: more than %d events", MAX_EVENTS);
        if (len < sizeof text) {
            memcpy(text, script, len);
            text[len] = '\0';
        }
        if (len >= sizeof text || !parse_event(text, &instance->events[instance->n_events]))
            return fail(err, SERVERD_INVALID, "script: %.*s is not KIND@WHEN[:VALUE][xCOUNT]",
                        (int)min_size(len, 60), script);
        instance->n_events++;
        script += len + (script[len] != '\0');
    }
    return SERVERD_OK;
}

static bool is_hit(const serverd_instance *instance, const struct fault_event *event,
                   enum member member)
{
    int64_t call = instance->n_calls[member];
    return event->member == member && call >= event->first && call - event->first < event->count;
}

/* What comes before the inner call: waits and refusals. */
static serverd_status strike_before(serverd_instance *instance, enum member member,
                                    serverd_error *err)
{
    instance->n_calls[member]++;
    for (uint32_t i = 0; i < instance->n_events; i++) {
        const struct fault_event *event = &instance->events[i];
        if (!is_hit(instance, event, member))
            continue;
        if (event->kind == FAULT_HANG || event->kind == FAULT_SLOW)
            sleep_ms(event->kind == FAULT_HANG ? event->value * 1000 : event->value);
        if (event->kind == FAULT_LOST)
            instance->is_lost = true;
        if (event->kind == FAULT_ERROR)
            return fail(err, (serverd_status)event->value, "fault: error by script");
        if (event->kind == FAULT_OOM)
            return fail(err, SERVERD_NOMEM, "fault: no memory by script");
    }
    if (instance->is_lost)
        return fail(err, SERVERD_DEVICE_LOST, "fault: device lost by script");
    return SERVERD_OK;
}

/* What comes after it: numbers that are none. */
static void strike_after(const serverd_handle *handle, const serverd_batch *batch, float *out)
{
    const serverd_instance *instance = handle->instance;
    const uint32_t output = handle->partition->outputs[handle->partition->n_outputs - 1];
    const serverd_value *value = &handle->graph->values[output];
    uint64_t width = value_width(value), n_rows = batch->n_rows;
    if (value->dims[0] != SERVERD_DIM_ROWS)
        n_rows = value->dims[0] == SERVERD_DIM_SEQS ? batch->n_seqs : batch->n_logit_rows;
    for (uint32_t i = 0; i < instance->n_events; i++) {
        const struct fault_event *event = &instance->events[i];
        if (!is_hit(instance, event, MEMBER_EXECUTE) || event->value >= n_rows ||
            event->kind > FAULT_INF)
            continue;
        for (uint64_t j = 0; j < width; j++)
            out[event->value * width + j] = event->kind == FAULT_NAN ? NAN : INFINITY;
        if (output == handle->graph->output && batch->drawn && event->value < batch->n_logit_rows)
            batch->drawn[event->value] = SERVERD_DRAWN_LOGITS; /* of numbers that are none */
    }
}

/* ---- the inner delegate -------------------------------------------------------------------- */

static serverd_status open_inner(serverd_instance *instance, const char *name, serverd_error *err)
{
    for (uint32_t i = 0; i < n_builtin_delegates; i++) {
        const serverd_delegate *inner = builtin_delegates[i];
        if (strcmp(inner->name, name) != 0 || inner == &fault_delegate)
            continue;
        uint32_t n = 0;
        serverd_device device = {.struct_bytes = sizeof device};
        serverd_status status = inner->devices(instance->host, &device, 1, &n, err);
        if (status == SERVERD_OK && n == 0)
            status = fail(err, SERVERD_UNSUPPORTED, "%s: %.127s", name, device.reason);
        if (status == SERVERD_OK)
            status = inner->open(instance->host, &device, &instance->inner_instance, err);
        if (status == SERVERD_OK)
            instance->inner = inner;
        return status;
    }
    return fail(err, SERVERD_INVALID, "there is no inner delegate %.60s", name);
}

static serverd_status need_inner(serverd_instance *instance, serverd_error *err)
{
    return instance->inner ? SERVERD_OK : open_inner(instance, "null", err);
}

static serverd_status fault_devices(const serverd_host *host, serverd_device *out, uint32_t cap,
                                    uint32_t *n, serverd_error *err)
{
    (void)host, (void)err;
    if (cap > 0) {
        out[0] = (serverd_device){.struct_bytes = sizeof out[0], .free_bytes = UINT64_C(1) << 30};
        out[0].memory_bytes = out[0].free_bytes;
        (void)snprintf(out[0].name, sizeof out[0].name, "test double");
    }
    *n = 1;
    return SERVERD_OK;
}

/* The inner delegate is not known yet: `load` asks it. Where ranks meet nobody fails by script. */
static serverd_status fault_match(const serverd_host *host, const serverd_graph *graph,
                                  uint32_t node, serverd_claim *out, serverd_error *err)
{
    (void)host, (void)err;
    *out = (serverd_claim){.struct_bytes = sizeof *out};
    while (node + out->n_nodes < graph->n_nodes &&
           !op_is_collective(graph->nodes[node + out->n_nodes].op))
        out->n_nodes++;
    return SERVERD_OK;
}

/* The host packs for the CPU back-end, the one of the inner delegates that wants it; the others
 * find the tensors as they are, or read this form. */
static serverd_status fault_form(const serverd_tensor *tensor, serverd_form *out,
                                 serverd_error *err)
{
    return cpu_delegate.form(tensor, out, err);
}

static serverd_status fault_pack(const serverd_tensor *tensor, const serverd_form *form,
                                 uint64_t first_row, uint64_t n_rows, void *dst, serverd_error *err)
{
    return cpu_delegate.pack(tensor, form, first_row, n_rows, dst, err);
}

static serverd_status fault_open(const serverd_host *host, const serverd_device *device,
                                 serverd_instance **out, serverd_error *err)
{
    (void)device;
    *out = calloc(1, sizeof **out);
    if (!*out)
        return fail(err, SERVERD_NOMEM, "fault: no memory");
    (*out)->host = host;
    return SERVERD_OK;
}

static serverd_status fault_set_option(serverd_instance *instance, const char *key,
                                       const char *value, serverd_error *err)
{
    if (strcmp(key, "script") == 0)
        return parse_script(instance, value, err);
    if (strcmp(key, "inner") == 0) {
        if (instance->inner)
            return fail(err, SERVERD_INVALID, "is %s already", instance->inner->name);
        return open_inner(instance, value, err);
    }
    if (strncmp(key, "inner.", 6) != 0)
        return fail(err, SERVERD_INVALID, "there are inner, inner.KEY and script");
    serverd_status status = need_inner(instance, err);
    if (status != SERVERD_OK)
        return status;
    if (!instance->inner->set_option)
        return fail(err, SERVERD_INVALID, "%s has no options", instance->inner->name);
    return instance->inner->set_option(instance->inner_instance, key + 6, value, err);
}

static void fault_unload(serverd_handle *handle)
{
    if (handle->inner)
        handle->instance->inner->unload(handle->inner);
    free(handle);
}

static serverd_status load_inner(serverd_handle *handle, const void *const *packed,
                                 const serverd_limits *limits, const serverd_kv_spec *kv,
                                 serverd_error *err)
{
    const serverd_delegate *inner = handle->instance->inner;
    const serverd_partition *partition = handle->partition;
    for (uint32_t node = partition->first_node;
         node < partition->first_node + partition->n_nodes;) {
        serverd_claim claim = {.struct_bytes = sizeof claim};
        serverd_status status =
            inner->match(handle->instance->host, handle->graph, node, &claim, err);
        if (status != SERVERD_OK)
            return status;
        if (claim.n_nodes == 0)
            return fail(err, SERVERD_UNSUPPORTED, "%s: node %u: %.127s", inner->name, node,
                        claim.text);
        node += claim.n_nodes;
    }
    return inner->load(handle->instance->inner_instance, handle->graph, partition, packed, limits,
                       kv, &handle->inner, err);
}

static serverd_status fault_load(serverd_instance *instance, const serverd_graph *graph,
                                 const serverd_partition *partition, const void *const *packed,
                                 const serverd_limits *limits, const serverd_kv_spec *kv,
                                 serverd_handle **out, serverd_error *err)
{
    serverd_status status = need_inner(instance, err);
    if (status == SERVERD_OK)
        status = strike_before(instance, MEMBER_LOAD, err);
    if (status != SERVERD_OK)
        return status;
    serverd_handle *handle = calloc(1, sizeof *handle);
    if (!handle)
        return fail(err, SERVERD_NOMEM, "fault: no memory");
    *handle = (serverd_handle){.instance = instance, .graph = graph, .partition = partition};
    status = load_inner(handle, packed, limits, kv, err);
    if (status != SERVERD_OK)
        fault_unload(handle);
    else
        *out = handle;
    return status;
}

static serverd_status fault_footprint(serverd_instance *instance, const serverd_graph *graph,
                                      const serverd_partition *partition,
                                      const serverd_limits *limits, const serverd_kv_spec *kv,
                                      serverd_footprint *out, serverd_error *err)
{
    serverd_status status = need_inner(instance, err);
    if (status == SERVERD_OK)
        status = strike_before(instance, MEMBER_FOOTPRINT, err);
    if (status == SERVERD_OK && !instance->inner->footprint)
        status = fail(err, SERVERD_UNSUPPORTED, "fault: %s does not say what it takes",
                      instance->inner->name);
    return status == SERVERD_OK ? instance->inner->footprint(instance->inner_instance, graph,
                                                             partition, limits, kv, out, err)
                                : status;
}

static serverd_status fault_kv_page_bytes(serverd_instance *instance, const serverd_kv_spec *spec,
                                          serverd_kv_bytes *out, serverd_error *err)
{
    serverd_status status = need_inner(instance, err);
    if (status == SERVERD_OK)
        status = strike_before(instance, MEMBER_PAGE_BYTES, err);
    return status != SERVERD_OK
               ? status
               : instance->inner->kv_page_bytes(instance->inner_instance, spec, out, err);
}

static serverd_status fault_kv_create(serverd_instance *instance, const serverd_kv_spec *spec,
                                      uint32_t n_pages, uint32_t n_window_pages, serverd_kv **out,
                                      serverd_error *err)
{
    serverd_status status = need_inner(instance, err);
    if (status == SERVERD_OK)
        status = strike_before(instance, MEMBER_KV, err);
    if (status != SERVERD_OK)
        return status;
    serverd_kv *kv = calloc(1, sizeof *kv);
    if (!kv)
        return fail(err, SERVERD_NOMEM, "fault: no memory");
    kv->instance = instance;
    status = instance->inner->kv_create(instance->inner_instance, spec, n_pages, n_window_pages,
                                        &kv->inner, err);
    if (status != SERVERD_OK)
        free(kv);
    else
        *out = kv;
    return status;
}

static void fault_kv_destroy(serverd_kv *kv)
{
    kv->instance->inner->kv_destroy(kv->inner);
    free(kv);
}

static serverd_status fault_kv_zero(serverd_kv *kv, const serverd_kv_page *pages, uint32_t n,
                                    serverd_error *err)
{
    serverd_status status = strike_before(kv->instance, MEMBER_ZERO, err);
    return status == SERVERD_OK ? kv->instance->inner->kv_zero(kv->inner, pages, n, err) : status;
}

static serverd_status fault_kv_copy(serverd_kv *kv, serverd_kv_page from, serverd_kv_page to,
                                    uint32_t n_tokens, serverd_error *err)
{
    serverd_status status = strike_before(kv->instance, MEMBER_COPY, err);
    return status == SERVERD_OK ? kv->instance->inner->kv_copy(kv->inner, from, to, n_tokens, err)
                                : status;
}

static serverd_status fault_kv_identity(serverd_instance *instance, const serverd_kv_spec *spec,
                                        uint64_t *out, serverd_error *err)
{
    serverd_status status = need_inner(instance, err);
    if (status == SERVERD_OK)
        status = strike_before(instance, MEMBER_IDENTITY, err);
    return status != SERVERD_OK
               ? status
               : instance->inner->kv_identity(instance->inner_instance, spec, out, err);
}

static serverd_status fault_kv_export(const serverd_kv *kv, serverd_kv_page page, void *out,
                                      serverd_error *err)
{
    serverd_status status = strike_before(kv->instance, MEMBER_EXPORT, err);
    return status == SERVERD_OK ? kv->instance->inner->kv_export(kv->inner, page, out, err)
                                : status;
}

static serverd_status fault_kv_import(serverd_kv *kv, serverd_kv_page page, const void *bytes,
                                      serverd_error *err)
{
    serverd_status status = strike_before(kv->instance, MEMBER_IMPORT, err);
    return status == SERVERD_OK ? kv->instance->inner->kv_import(kv->inner, page, bytes, err)
                                : status;
}

static serverd_status fault_kv_settle(serverd_kv *kv, serverd_error *err)
{
    const serverd_delegate *inner = kv->instance->inner;
    return inner->kv_settle ? inner->kv_settle(kv->inner, err) : SERVERD_OK;
}

static serverd_status fault_execute(serverd_handle *handle, const serverd_batch *batch,
                                    serverd_kv *kv, const float *const *inputs,
                                    float *const *outputs, serverd_error *err)
{
    serverd_instance *instance = handle->instance;
    serverd_status status = strike_before(instance, MEMBER_EXECUTE, err);
    if (status == SERVERD_OK)
        status = instance->inner->execute(handle->inner, batch, kv ? kv->inner : NULL, inputs,
                                          outputs, err);
    if (status == SERVERD_OK && handle->partition->n_outputs > 0)
        strike_after(handle, batch, outputs[handle->partition->n_outputs - 1]);
    return status;
}

static serverd_status fault_read_logits(serverd_handle *handle, uint32_t logit_row, float *out,
                                        serverd_error *err)
{
    serverd_instance *instance = handle->instance;
    serverd_status status = strike_before(instance, MEMBER_READ, err);
    if (status == SERVERD_OK && !instance->inner->read_logits)
        status = fail(err, SERVERD_INTERNAL, "fault: %s draws nothing", instance->inner->name);
    return status == SERVERD_OK ? instance->inner->read_logits(handle->inner, logit_row, out, err)
                                : status;
}

static void fault_close(serverd_instance *instance)
{
    if (instance->inner_instance)
        instance->inner->close(instance->inner_instance);
    free(instance);
}

const serverd_delegate fault_delegate = {
    .abi = SERVERD_DELEGATE_ABI,
    .struct_bytes = sizeof(serverd_delegate),
    .name = "fault",
    .version = "1",
    .flags = SERVERD_DELEGATE_BY_NAME_ONLY,
    .devices = fault_devices,
    .match = fault_match,
    .form = fault_form,
    .pack = fault_pack,
    .open = fault_open,
    .set_option = fault_set_option,
    .load = fault_load,
    .kv_page_bytes = fault_kv_page_bytes,
    .kv_create = fault_kv_create,
    .kv_zero = fault_kv_zero,
    .kv_copy = fault_kv_copy,
    .execute = fault_execute,
    .kv_destroy = fault_kv_destroy,
    .unload = fault_unload,
    .close = fault_close,
    .kv_identity = fault_kv_identity,
    .kv_export = fault_kv_export,
    .kv_import = fault_kv_import,
    .footprint = fault_footprint,
    .kv_settle = fault_kv_settle,
    .read_logits = fault_read_logits,
};
