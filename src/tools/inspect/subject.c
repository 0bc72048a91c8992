#include "tools/inspect/subject.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "compiler/compile.h"
#include "kernels/builtin.h"
#include "kernels/cpu/cpu_kernels.h"
#include "program/dtype.h"
#include "program/op.h"
#include "program/sdp_program.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what delegates are lent ----------------------------------------------------------------- */

static void host_log(void *context, int level, const char *text)
{
    (void)context, (void)level, (void)text; /* it says the same as an error */
}

static void host_parallel_for(void *context, uint32_t n_chunks,
                              void (*fn)(void *arg, uint32_t chunk, uint32_t worker), void *arg)
{
    const struct subject *subject = context;
    worker_pool_run(subject->pool, n_chunks, fn, arg);
}

static uint64_t host_now_ns(void *context)
{
    (void)context;
    return clock_now_ns(&system_clock);
}

/* ---- opening --------------------------------------------------------------------------------- */

static serverd_status open_program(struct subject *subject, serverd_error *err)
{
    if (!sdp_is_program_file(subject->path)) {
        const struct compile_options options = {.path = subject->path};
        return compile_model(&options, &subject->program, err);
    }
    serverd_status status = sdp_open(subject->path, &subject->program, err);
    if (status == SERVERD_OK)
        status = sdp_file_open(subject->path, &subject->file, err);
    subject->is_program_file = status == SERVERD_OK;
    return status;
}

static serverd_status load_delegates(struct subject *subject, const char *paths, serverd_error *err)
{
    serverd_status status =
        delegate_list_create(&subject->delegates, builtin_delegates, n_builtin_delegates, err);
    if (status != SERVERD_OK)
        return status;
    delegate_list_load_folder(&subject->delegates, DELEGATE_FOLDER, host_log, subject);
    return delegate_list_load_all(&subject->delegates, paths, err);
}

serverd_status subject_open(struct subject *subject, const char *path, const char *delegates,
                            uint32_t threads, serverd_error *err)
{
    *subject = (struct subject){.path = path};
    serverd_status status = worker_pool_create(threads, &subject->pool, err);
    if (status == SERVERD_OK)
        status = load_delegates(subject, delegates, err);
    if (status != SERVERD_OK)
        return status;
    subject->host = (serverd_host){.struct_bytes = sizeof subject->host,
                                   .n_workers = worker_pool_n_workers(subject->pool),
                                   .context = subject,
                                   .log = host_log,
                                   .parallel_for = host_parallel_for,
                                   .now_ns = host_now_ns};
    return open_program(subject, err);
}

void subject_close(struct subject *subject)
{
    placement_destroy(subject->placement);
    sdp_file_close(&subject->file);
    program_unref(subject->program);
    delegate_list_destroy(&subject->delegates);
    worker_pool_destroy(subject->pool);
    *subject = (struct subject){0};
}

serverd_status subject_place(struct subject *subject, const char *device, const char *place,
                             serverd_error *err)
{
    const struct placement_options options = {.delegates = subject->delegates.items,
                                              .n_delegates = subject->delegates.n,
                                              .device = device,
                                              .place = place,
                                              .host = &subject->host,
                                              .program = subject->program};
    if (subject->program->graph.n_nodes == 0) /* a vocabulary alone */
        return SERVERD_OK;
    return placement_create(&subject->program->graph, &options, &subject->placement, err);
}

/* ---- records of a program file --------------------------------------------------------------- */

/* sdp_open has checked the sections it needs; only those are looked at here. */
static const void *records_of(const struct subject *subject, uint32_t type, size_t record_bytes,
                              uint32_t *n)
{
    const struct sdp_section *section = sdp_find(&subject->file, type);
    *n = section ? (uint32_t)(section->stored_bytes / record_bytes) : 0;
    return section ? sdp_bytes(&subject->file, section) : NULL;
}

/* STRS ends with a NUL, so that a string that begins inside ends inside. */
static const char *string_at(const struct subject *subject, uint32_t offset)
{
    const struct sdp_section *strings = sdp_find(&subject->file, SDP_STRS);
    return strings && offset < strings->stored_bytes
               ? (const char *)sdp_bytes(&subject->file, strings) + offset
               : "?";
}

static void add_layout(struct tensor_facts *facts, const struct sdp_form *form)
{
    uint32_t layout = form->layout | (uint32_t)form->layout_version << 16;
    size_t at = strlen(facts->layouts);
    const char *space = at ? " " : "";
    if (layout == SERVERD_LAYOUT_ROWS)
        (void)snprintf(facts->layouts + at, sizeof facts->layouts - at, "%srows", space);
    else if (form->layout_version)
        (void)snprintf(facts->layouts + at, sizeof facts->layouts - at, "%s%u.%u", space,
                       form->layout, form->layout_version);
    else
        (void)snprintf(facts->layouts + at, sizeof facts->layouts - at, "%s%u", space,
                       form->layout);
    facts->form_bytes += form->bytes;
}

/* Forms stand in the order of their tensors. */
static uint32_t first_form(const struct sdp_form *forms, uint32_t n, uint32_t tensor)
{
    uint32_t begin = 0;
    while (n > 0) {
        uint32_t half = n / 2;
        bool is_before = forms[begin + half].tensor < tensor;
        begin = is_before ? begin + half + 1 : begin;
        n = is_before ? n - half - 1 : half;
    }
    return begin;
}

static void tensor_of_file(const struct subject *subject, uint32_t index, struct tensor_facts *out)
{
    uint32_t n, n_forms;
    const struct sdp_tensor *tensors = records_of(subject, SDP_TENS, sizeof *tensors, &n);
    const struct sdp_form *forms = records_of(subject, SDP_FORM, sizeof *forms, &n_forms);
    const struct sdp_tensor *tensor = &tensors[index];
    *out = (struct tensor_facts){.name = string_at(subject, tensor->name),
                                 .dtype = tensor->dtype,
                                 .rank = tensor->rank,
                                 .bytes = tensor->bytes,
                                 .has_hash = true};
    memcpy(out->dims, tensor->dims, sizeof out->dims);
    memcpy(out->hash, tensor->hash, sizeof out->hash);
    if (tensor->source)
        out->source = string_at(subject, tensor->source);
    if (tensor->alias_of != SDP_NO_TENSOR)
        out->alias_of = string_at(subject, tensors[tensor->alias_of].name);
    for (uint32_t i = first_form(forms, n_forms, index); i < n_forms && forms[i].tensor == index;
         i++)
        add_layout(out, &forms[i]);
}

uint32_t subject_n_tensors(const struct subject *subject)
{
    uint32_t n = subject->program->graph.n_tensors;
    if (subject->is_program_file)
        (void)records_of(subject, SDP_TENS, sizeof(struct sdp_tensor), &n);
    return n;
}

void subject_tensor(const struct subject *subject, uint32_t index, bool wants_hash,
                    struct tensor_facts *out)
{
    if (subject->is_program_file) {
        tensor_of_file(subject, index, out);
        return;
    }
    const serverd_tensor *tensor = &subject->program->graph.tensors[index];
    *out = (struct tensor_facts){.name = tensor->name,
                                 .dtype = tensor->dtype,
                                 .rank = tensor->rank,
                                 .bytes = tensor->bytes,
                                 .layouts = "rows",
                                 .has_hash = wants_hash};
    memcpy(out->dims, tensor->dims, sizeof out->dims);
    if (wants_hash)
        sha256_tree(tensor->data, tensor->bytes, out->hash);
}

/* ---- weights of partitions ------------------------------------------------------------------- */

/* Devices of one delegate have one form of a tensor. A tensor that a delegate uses as it stands, or
 * that the file has in its form, lies in the file. */
static void count_weight(const struct subject *subject, const serverd_delegate *delegate,
                         uint32_t tensor, struct weight_bytes *sum)
{
    const serverd_tensor *t = &subject->program->graph.tensors[tensor];
    serverd_form form = {.struct_bytes = sizeof form};
    serverd_error err;
    if (delegate->form(t, &form, &err) != SERVERD_OK || form.layout == SERVERD_LAYOUT_ROWS) {
        sum->in_file += t->bytes;
        return;
    }
    const struct program_form *found = program_find_form(subject->program, tensor, form.layout);
    if (found && found->bytes == form.bytes)
        sum->in_file += form.bytes;
    else
        sum->packed += form.bytes;
}

struct weight_bytes subject_weight_bytes(const struct subject *subject, uint32_t partition)
{
    const struct placement *placement = subject->placement;
    const serverd_graph *graph = &subject->program->graph;
    const serverd_delegate **seen = calloc(max_size(graph->n_tensors, 1), sizeof(void *));
    struct weight_bytes sum = {0};
    for (uint32_t n = 0; n < graph->n_nodes && seen; n++) {
        const struct placement_partition *p =
            &placement->partitions[partition == UINT32_MAX ? 0 : partition];
        const serverd_delegate *delegate = placement->devices[placement->chosen[n]].delegate;
        if (partition != UINT32_MAX &&
            (n < p->view.first_node || n >= p->view.first_node + p->view.n_nodes))
            continue;
        for (uint32_t i = 0; i < graph->nodes[n].n_inputs; i++) {
            const serverd_value *value = node_input(graph, &graph->nodes[n], i);
            if (value->kind != SERVERD_VALUE_CONSTANT || seen[value->tensor] == delegate)
                continue;
            seen[value->tensor] = delegate;
            count_weight(subject, delegate, value->tensor, &sum);
        }
    }
    free((void *)seen);
    return sum;
}

/* ---- targets --------------------------------------------------------------------------------- */

/* What a target of that name needs of the processor. */
static const struct {
    const char *name, *level;
} cpu_targets[] = {{"cpu-avx512vnni", "avx512"}, {"cpu-avx2", "avx2"}, {"cpu-portable", "generic"}};

static const serverd_delegate *find_delegate(const struct subject *subject, const char *name)
{
    for (uint32_t i = 0; i < subject->delegates.n; i++)
        if (strcmp(subject->delegates.items[i]->name, name) == 0)
            return subject->delegates.items[i];
    return NULL;
}

static void check_here(const struct subject *subject, struct target_facts *target)
{
    const serverd_delegate *delegate = find_delegate(subject, target->delegate);
    serverd_device device = {.struct_bytes = sizeof device};
    serverd_error err;
    uint32_t n = 0;
    if (!delegate) {
        (void)snprintf(target->reason, sizeof target->reason, "no delegate %s", target->delegate);
        return;
    }
    if (delegate->devices(&subject->host, &device, 1, &n, &err) != SERVERD_OK)
        (void)snprintf(target->reason, sizeof target->reason, "%.150s", err.text);
    else if (n == 0)
        (void)snprintf(target->reason, sizeof target->reason, "%.127s", device.reason);
    for (size_t i = 0; i < sizeof cpu_targets / sizeof *cpu_targets && n > 0; i++)
        if (strcmp(target->name, cpu_targets[i].name) == 0 &&
            !cpu_kernels_named(cpu_targets[i].level)) {
            (void)snprintf(target->reason, sizeof target->reason, "no %s here",
                           cpu_targets[i].level);
            return;
        }
    target->runs_here = n > 0;
}

uint32_t subject_n_targets(const struct subject *subject)
{
    uint32_t n = 0;
    if (subject->is_program_file)
        (void)records_of(subject, SDP_TARG, sizeof(struct sdp_target), &n);
    return n;
}

void subject_target(const struct subject *subject, uint32_t index, struct target_facts *out)
{
    uint32_t n;
    const struct sdp_target *targets = records_of(subject, SDP_TARG, sizeof *targets, &n);
    *out = (struct target_facts){0};
    (void)snprintf(out->name, sizeof out->name, "%.*s", (int)sizeof targets->name,
                   targets[index].name);
    (void)snprintf(out->delegate, sizeof out->delegate, "%.*s", (int)sizeof targets->delegate,
                   targets[index].delegate);
    check_here(subject, out);
}

/* ---- small texts ----------------------------------------------------------------------------- */

void format_dims(const uint64_t *dims, uint32_t rank, char *out, size_t size)
{
    size_t at = (size_t)snprintf(out, size, "[");
    for (uint32_t i = 0; i < rank && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%" PRIu64, i ? ", " : "", dims[i]);
    if (at < size)
        (void)snprintf(out + at, size - at, "]");
}

const char *dtype_name(serverd_dtype dtype, char scratch[24])
{
    const struct dtype_info *info = dtype_info(dtype);
    if (info)
        return info->name;
    (void)snprintf(scratch, 24, "type %u", dtype);
    return scratch;
}

void format_bytes(uint64_t bytes, char *out, size_t size)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double x = (double)bytes;
    size_t unit = 0;
    while (x >= 999.95 && unit + 1 < sizeof units / sizeof *units) {
        x /= 1000;
        unit++;
    }
    (void)snprintf(out, size,
                   unit == 0   ? "%.0f %s"
                   : x < 9.995 ? "%.2f %s"
                               : "%.1f %s",
                   x, units[unit]);
}

void format_hex(const uint8_t *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = '\0';
}

const char *node_weights(const serverd_graph *graph, uint32_t node)
{
    for (uint32_t i = 0; i < graph->nodes[node].n_inputs; i++) {
        const serverd_value *value = node_input(graph, &graph->nodes[node], i);
        if (value->kind == SERVERD_VALUE_CONSTANT)
            return graph->tensors[value->tensor].name;
    }
    return "";
}
