/* The table of the CUDA back-end, and which nodes it takes. */
#include "kernels/cuda/delegate.h"

#include "base/error.h"
#include "base/numeric.h"
#include "kernels/cuda/cuda_internal.h"
#include "kernels/meeting_cost.h"
#include "program/dtype.h"
#include "program/op.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_DEVICES = 64 };

static serverd_status cuda_devices(const serverd_host *host, serverd_device *out, uint32_t cap,
                                   uint32_t *n, serverd_error *err)
{
    char reason[sizeof out->reason] = "";
    (void)host, (void)err;
    *n = min_u32(gpu_count(reason, sizeof reason), MAX_DEVICES);
    if (*n == 0 && cap > 0) {
        out[0] = (serverd_device){.struct_bytes = sizeof *out};
        (void)snprintf(out[0].reason, sizeof out[0].reason, "%s", reason);
    }
    for (uint32_t i = 0; i < min_u32(*n, cap); i++) {
        struct gpu_info info;
        out[i] = (serverd_device){.struct_bytes = sizeof *out, .ordinal = i};
        if (!gpu_describe(i, &info))
            continue;
        out[i].memory_bytes = info.memory_bytes;
        out[i].free_bytes = info.free_bytes;
        (void)snprintf(out[i].name, sizeof out[i].name, "%s", info.name);
    }
    return SERVERD_OK;
}

/* ---- what it takes, and how long that lasts -----------------------------------------------------
 */

static bool refuse(serverd_claim *out, enum serverd_reason reason, const char *text)
{
    *out = (serverd_claim){.struct_bytes = sizeof *out, .reason = reason};
    (void)snprintf(out->text, sizeof out->text, "%s", text);
    return false;
}

/* What the constants of a node take on the device, and their elements. */
struct constants {
    uint64_t bytes, elements;
};

/* The matrices of a node can be brought into fragments. */
static bool can_read(const serverd_graph *graph, const serverd_node *node, serverd_claim *out,
                     struct constants *constants)
{
    *constants = (struct constants){0};
    for (uint32_t i = 0; i < node->n_inputs; i++) {
        serverd_form form;
        serverd_error ignored;
        if (node_input(graph, node, i)->kind != SERVERD_VALUE_CONSTANT)
            continue;
        const serverd_tensor *tensor = cuda_tensor(graph, node, i);
        const struct dtype_info *type = dtype_info(tensor->dtype);
        if (!type || !type->to_f32)
            return refuse(out, SERVERD_REASON_DTYPE, type ? type->name : "unknown type");
        if (cuda_form(tensor, &form, &ignored) != SERVERD_OK)
            return refuse(out, SERVERD_REASON_SHAPE, "the matrix is too large");
        constants->bytes += form.bytes;
        constants->elements += tensor->dims[0] * (tensor->rank > 1 ? tensor->dims[1] : 1);
    }
    return true;
}

/* Launching a kernel. */
#define LAUNCH_SECONDS 4e-6

static const double rows_of_estimate[] = {1, 16, 512};
enum { N_ESTIMATES = sizeof rows_of_estimate / sizeof *rows_of_estimate };

static void claim_meeting(const serverd_host *host, const serverd_graph *graph,
                          const serverd_node *node, serverd_claim *out)
{
    char reason[sizeof out->text];
    if (!meetings_are_possible(host, &node->attributes.shard, reason, sizeof reason)) {
        (void)refuse(out, SERVERD_REASON_OP, reason);
        return;
    }
    *out = (serverd_claim){.struct_bytes = sizeof *out, .n_nodes = 1};
    for (size_t i = 0; i < N_ESTIMATES; i++)
        out->seconds[i] =
            (float)(LAUNCH_SECONDS + meeting_seconds(graph, node, rows_of_estimate[i]));
}

static serverd_status cuda_match(const serverd_host *host, const serverd_graph *graph,
                                 uint32_t index, serverd_claim *out, serverd_error *err)
{
    const serverd_node *node = &graph->nodes[index];
    struct gpu_info info;
    struct constants constants;
    (void)err;
    if (node->op >= SERVERD_OP_COUNT) {
        (void)refuse(out, SERVERD_REASON_OP, "");
        return SERVERD_OK;
    }
    if (op_is_collective(node->op)) {
        claim_meeting(host, graph, node, out);
        return SERVERD_OK;
    }
    if (!can_read(graph, node, out, &constants))
        return SERVERD_OK;
    *out = (serverd_claim){
        .struct_bytes = sizeof *out, .n_nodes = 1, .resident_bytes = constants.bytes};
    if (!gpu_describe(0, &info) || info.bytes_per_second <= 0 || info.macs_per_second <= 0)
        return SERVERD_OK;
    const bool is_matrix = node->op == SERVERD_OP_LINEAR;
    const double width = (double)value_width(node_output(graph, node)) * sizeof(float) * 3;
    for (size_t i = 0; i < N_ESTIMATES; i++)
        out->seconds[i] =
            (float)(LAUNCH_SECONDS + rows_of_estimate[i] * width / info.bytes_per_second +
                    (is_matrix ? (double)constants.bytes / info.bytes_per_second +
                                     rows_of_estimate[i] * (double)constants.elements /
                                         info.macs_per_second
                               : 0));
    return SERVERD_OK;
}

/* ---- an instance ----------------------------------------------------------------------------- */

static serverd_status cuda_open(const serverd_host *host, const serverd_device *device,
                                serverd_instance **out, serverd_error *err)
{
    serverd_instance *instance = calloc(1, sizeof *instance);
    if (!instance)
        return fail(err, SERVERD_NOMEM, "cuda: no memory");
    instance->host = host;
    const serverd_status status = gpu_open(device->ordinal, &instance->gpu, err);
    if (status != SERVERD_OK)
        free(instance);
    else
        *out = instance;
    return status;
}

static void cuda_close(serverd_instance *instance)
{
    gpu_close(instance->gpu);
    free(instance);
}

const serverd_delegate cuda_delegate = {
    .abi = SERVERD_DELEGATE_ABI,
    .struct_bytes = sizeof(serverd_delegate),
    .name = "cuda",
    .version = "1",
    .flags = SERVERD_DELEGATE_BY_NAME_ONLY, /* emulated only: "auto" is for what has run on a GPU */
    .devices = cuda_devices,
    .match = cuda_match,
    .form = cuda_form,
    .pack = cuda_pack,
    .open = cuda_open,
    .load = cuda_load,
    .kv_page_bytes = cuda_kv_page_bytes,
    .kv_create = cuda_kv_create,
    .kv_zero = kv_store_zero,
    .kv_copy = kv_store_copy,
    .execute = cuda_execute,
    .kv_destroy = cuda_kv_destroy,
    .unload = cuda_unload,
    .close = cuda_close,
    .kv_identity = cuda_kv_identity,
    .kv_export = cuda_kv_export,
    .kv_import = cuda_kv_import,
    .footprint = cuda_footprint,
    .kv_settle = cuda_kv_settle,
    .read_logits = cuda_read_logits,
};
