#include "runtime/runtime.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/dtype.h"
#include "runtime/identity_internal.h"
#include "runtime/kv_size_internal.h"
#include "runtime/packing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct runtime {
    struct program *program;
    struct worker_pool *pool;
    const struct clock *clock;
    serverd_host host;
    void (*log)(void *context, int level, const char *text);
    void *log_context;
    serverd_limits limits;
    serverd_kv_spec kv_spec;

    const serverd_delegate *delegate;
    serverd_device device;
    serverd_instance *instance;
    serverd_handle *handle;
    serverd_kv *kv;
    struct packed_weights packed;
    struct kv_size kv_size;
    uint32_t window; /* tokens of the widest in window pages; 0: there are none */
    bool has_identity;
    struct sha256 identity; /* of the tensors, then of all; if it is wanted */
    char device_text[160];
};

/* ---- what delegates are lent --------------------------------------------------------------- */

static void host_log(void *context, int level, const char *text)
{
    struct runtime *runtime = context;
    if (runtime->log)
        runtime->log(runtime->log_context, level, text);
}

static void host_parallel_for(void *context, uint32_t n_chunks,
                              void (*fn)(void *arg, uint32_t chunk, uint32_t worker), void *arg)
{
    struct runtime *runtime = context;
    worker_pool_run(runtime->pool, n_chunks, fn, arg);
}

static uint64_t host_now_ns(void *context)
{
    struct runtime *runtime = context;
    return clock_now_ns(runtime->clock);
}

/* ---- choice of the delegate ---------------------------------------------------------------- */

static serverd_status find_device(struct runtime *runtime, const serverd_delegate *delegate,
                                  serverd_error *err)
{
    uint32_t n = 0;
    serverd_device device = {.struct_bytes = sizeof device};
    serverd_status status = delegate->devices(&runtime->host, &device, 1, &n, err);
    if (status != SERVERD_OK)
        return error_context(err, "device %s", delegate->name);
    if (n == 0)
        return fail(err, SERVERD_UNSUPPORTED, "device %s: none here: %.127s", delegate->name,
                    device.reason);
    runtime->device = device;
    return SERVERD_OK;
}

static serverd_status claim_graph(const serverd_delegate *delegate, const serverd_graph *graph,
                                  serverd_error *err)
{
    for (uint32_t node = 0; node < graph->n_nodes;) {
        serverd_claim claim = {.struct_bytes = sizeof claim};
        serverd_status status = delegate->match(graph, node, &claim, err);
        if (status != SERVERD_OK)
            return error_context(err, "device %s: node %u", delegate->name, node);
        if (claim.n_nodes == 0 || claim.n_nodes > graph->n_nodes - node)
            return fail(err, SERVERD_UNSUPPORTED, "device %s: cannot run node %u: %.127s",
                        delegate->name, node, claim.reason);
        node += claim.n_nodes;
    }
    return SERVERD_OK;
}

static serverd_status try_delegate(struct runtime *runtime, const serverd_delegate *delegate,
                                   serverd_error *err)
{
    if (delegate->abi >> 16 != SERVERD_DELEGATE_ABI >> 16)
        return fail(err, SERVERD_VERSION, "device %s: made for ABI %u, this is %u", delegate->name,
                    delegate->abi >> 16, SERVERD_DELEGATE_ABI >> 16);
    serverd_status status = find_device(runtime, delegate, err);
    if (status == SERVERD_OK)
        status = claim_graph(delegate, &runtime->program->graph, err);
    if (status == SERVERD_OK)
        runtime->delegate = delegate;
    return status;
}

static serverd_status choose_automatically(struct runtime *runtime,
                                           const struct runtime_options *options,
                                           serverd_error *err)
{
    serverd_status status = fail(err, SERVERD_UNSUPPORTED, "device auto: no delegate is built in");
    for (uint32_t i = 0; i < options->n_delegates && status != SERVERD_OK; i++)
        if (!(options->delegates[i]->flags & SERVERD_DELEGATE_BY_NAME_ONLY))
            status = try_delegate(runtime, options->delegates[i], err);
    return status;
}

static serverd_status choose_by_name(struct runtime *runtime, const struct runtime_options *options,
                                     const char *name, size_t len, serverd_error *err)
{
    for (uint32_t i = 0; i < options->n_delegates; i++) {
        const serverd_delegate *delegate = options->delegates[i];
        if (strlen(delegate->name) == len && memcmp(delegate->name, name, len) == 0)
            return try_delegate(runtime, delegate, err);
    }
    return fail(err, SERVERD_INVALID, "device: there is no %.*s", (int)min_size(len, 64), name);
}

/* "key=value,key=value" after the delegate's name. */
static serverd_status set_options(struct runtime *runtime, const char *text, serverd_error *err)
{
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
        if (!runtime->delegate->set_option)
            return fail(err, SERVERD_INVALID, "device %s: has no option %s",
                        runtime->delegate->name, key);
        serverd_status status = runtime->delegate->set_option(runtime->instance, key, value, err);
        if (status != SERVERD_OK)
            return error_context(err, "device %s: %s", runtime->delegate->name, key);
        text += len + (text[len] != '\0');
    }
    return SERVERD_OK;
}

static serverd_status open_delegate(struct runtime *runtime, const struct runtime_options *options,
                                    serverd_error *err)
{
    const char *device = options->device ? options->device : "auto";
    size_t name_len = strcspn(device, ":");
    bool is_auto = name_len == 4 && memcmp(device, "auto", 4) == 0;
    serverd_status status = is_auto ? choose_automatically(runtime, options, err)
                                    : choose_by_name(runtime, options, device, name_len, err);
    if (status != SERVERD_OK)
        return status;
    const serverd_delegate *delegate = runtime->delegate;
    status = delegate->open(&runtime->host, &runtime->device, &runtime->instance, err);
    if (status != SERVERD_OK)
        return error_context(err, "device %s", delegate->name);
    (void)snprintf(runtime->device_text, sizeof runtime->device_text, "%s (%.64s)", delegate->name,
                   runtime->device.name);
    return set_options(runtime, device + name_len + (device[name_len] == ':'), err);
}

static serverd_status pack(struct runtime *runtime, const struct runtime_options *options,
                           serverd_error *err)
{
    const struct packing packing = {.program = runtime->program,
                                    .delegate = runtime->delegate,
                                    .pool = runtime->pool,
                                    .identity =
                                        options->wants_kv_identity ? &runtime->identity : NULL,
                                    .progress = options->progress,
                                    .progress_context = options->progress_context};
    return pack_weights(&packing, &runtime->packed, err);
}

/* ---- KV pages ------------------------------------------------------------------------------ */

static uint32_t widest_window(const serverd_kv_spec *spec)
{
    uint32_t widest = 0;
    for (uint32_t i = 0; i < spec->n_layers; i++)
        widest = (uint32_t)max_size(widest, spec->layers[i].window);
    return widest;
}

static serverd_status size_kv(struct runtime *runtime, const struct runtime_options *options,
                              serverd_error *err)
{
    const serverd_limits *limits = &runtime->limits;
    struct kv_demand demand = {.window_share = options->window_share,
                               .max_context = limits->max_context,
                               .max_seqs = limits->max_seqs,
                               .kv_bytes = options->kv_bytes,
                               .free_bytes = runtime->device.free_bytes};
    if (options->wants_window_pages)
        demand.window = widest_window(&runtime->kv_spec);
    serverd_status status =
        runtime->delegate->kv_page_bytes(runtime->instance, &runtime->kv_spec, &demand.bytes, err);
    if (status != SERVERD_OK)
        return status;
    if (demand.bytes.page == 0 && demand.bytes.window_page == 0)
        return fail(err, SERVERD_INTERNAL, "device %s: says that a page has no bytes",
                    runtime->delegate->name);
    status = kv_size_find(&demand, &runtime->kv_size, err);
    if (status == SERVERD_OK && runtime->kv_size.n_window_pages > 0)
        runtime->window = demand.window;
    return status;
}

static bool can_export(const serverd_delegate *delegate)
{
    return delegate->kv_identity && delegate->kv_export && delegate->kv_import;
}

/* What the identity has beside the tensors. */
static serverd_status finish_identity(struct runtime *runtime, serverd_error *err)
{
    const serverd_delegate *delegate = runtime->delegate;
    if (!can_export(delegate))
        return SERVERD_OK;
    uint64_t number;
    serverd_status status =
        delegate->kv_identity(runtime->instance, &runtime->kv_spec, &number, err);
    if (status != SERVERD_OK)
        return status;
    struct sha256 *identity = &runtime->identity;
    identity_add_graph(identity, &runtime->program->graph, runtime->limits.max_context);
    identity_add_kv_spec(identity, &runtime->kv_spec);
    sha256_update(identity, &number, sizeof number);
    const uint64_t bytes[] = {runtime->kv_size.page_bytes, runtime->kv_size.window_page_bytes};
    sha256_update(identity, bytes, sizeof bytes); /* window pages lie apart, or not */
    /* with their ends: "ab", "c" is not "a", "bc" */
    sha256_update(identity, delegate->name, strlen(delegate->name) + 1);
    sha256_update(identity, delegate->version, strlen(delegate->version) + 1);
    sha256_update(identity, PROJECT_VERSION, sizeof PROJECT_VERSION);
    runtime->has_identity = true;
    return SERVERD_OK;
}

static serverd_status create_kv(struct runtime *runtime, const struct runtime_options *options,
                                serverd_error *err)
{
    runtime->kv_spec = runtime->program->kv;
    if (runtime->kv_spec.n_layers == 0)
        return SERVERD_OK;
    runtime->kv_spec.struct_bytes = sizeof runtime->kv_spec;
    runtime->kv_spec.dtype = options->kv_dtype;
    runtime->kv_spec.page_tokens = SERVERD_PAGE_TOKENS;
    serverd_status status = size_kv(runtime, options, err);
    if (status == SERVERD_OK && options->wants_kv_identity)
        status = finish_identity(runtime, err);
    if (status != SERVERD_OK)
        return status;
    return runtime->delegate->kv_create(runtime->instance, &runtime->kv_spec,
                                        runtime->kv_size.n_pages, runtime->kv_size.n_window_pages,
                                        &runtime->kv, err);
}

/* ---- life ---------------------------------------------------------------------------------- */

static serverd_status open_parts(struct runtime *runtime, const struct runtime_options *options,
                                 serverd_error *err)
{
    serverd_status status = open_delegate(runtime, options, err);
    if (status == SERVERD_OK)
        status = pack(runtime, options, err);
    if (status == SERVERD_OK)
        status = create_kv(runtime, options, err);
    if (status != SERVERD_OK)
        return status;
    return runtime->delegate->load(runtime->instance, &runtime->program->graph,
                                   (const void *const *)runtime->packed.tensor, &runtime->limits,
                                   runtime->kv ? &runtime->kv_spec : NULL, &runtime->handle, err);
}

serverd_status runtime_open(struct program *program, const struct runtime_options *options,
                            struct runtime **out, serverd_error *err)
{
    if (program->graph.n_nodes == 0)
        return fail(err, SERVERD_UNSUPPORTED, "the file holds a vocabulary and no model");
    struct runtime *runtime = calloc(1, sizeof *runtime);
    if (!runtime)
        return fail(err, SERVERD_NOMEM, "no memory for the runtime");
    runtime->program = program_ref(program);
    runtime->pool = options->pool;
    runtime->clock = options->clock ? options->clock : &system_clock;
    runtime->log = options->log;
    runtime->log_context = options->log_context;
    runtime->limits = options->limits;
    runtime->limits.struct_bytes = sizeof runtime->limits;
    sha256_init(&runtime->identity);
    runtime->host = (serverd_host){.struct_bytes = sizeof runtime->host,
                                   .n_workers = worker_pool_n_workers(options->pool),
                                   .context = runtime,
                                   .log = host_log,
                                   .parallel_for = host_parallel_for,
                                   .now_ns = host_now_ns};
    serverd_status status = open_parts(runtime, options, err);
    if (status != SERVERD_OK) {
        runtime_close(runtime);
        return status;
    }
    *out = runtime;
    return SERVERD_OK;
}

void runtime_close(struct runtime *runtime)
{
    if (!runtime)
        return;
    const serverd_delegate *delegate = runtime->delegate;
    if (runtime->handle)
        delegate->unload(runtime->handle);
    if (runtime->kv)
        delegate->kv_destroy(runtime->kv);
    if (runtime->instance)
        delegate->close(runtime->instance);
    packed_weights_free(&runtime->packed);
    program_unref(runtime->program);
    free(runtime);
}

/* ---- use ----------------------------------------------------------------------------------- */

uint32_t runtime_n_pages(const struct runtime *runtime)
{
    return runtime->kv_size.n_pages;
}

uint32_t runtime_n_window_pages(const struct runtime *runtime)
{
    return runtime->kv_size.n_window_pages;
}

uint64_t runtime_page_bytes(const struct runtime *runtime)
{
    return runtime->kv_size.page_bytes;
}

uint64_t runtime_window_page_bytes(const struct runtime *runtime)
{
    return runtime->kv_size.window_page_bytes;
}

uint64_t runtime_kv_total_bytes(const struct runtime *runtime)
{
    const struct kv_size *size = &runtime->kv_size;
    return size->n_pages * size->page_bytes + size->n_window_pages * size->window_page_bytes;
}

uint32_t runtime_window_span(const struct runtime *runtime)
{
    return kv_window_span(runtime->window);
}

const serverd_limits *runtime_limits(const struct runtime *runtime)
{
    return &runtime->limits;
}

uint32_t runtime_output_width(const struct runtime *runtime)
{
    const struct program_config *config = &runtime->program->config;
    return config->is_encoder ? config->n_embd : config->n_vocab;
}

const char *runtime_device(const struct runtime *runtime)
{
    return runtime->device_text;
}

serverd_status runtime_execute(struct runtime *runtime, const serverd_batch *batch, float *out,
                               serverd_error *err)
{
    const serverd_limits *limits = &runtime->limits;
    if (batch->n_rows == 0 || batch->n_rows > limits->max_rows ||
        batch->n_seqs > limits->max_seqs || batch->n_logit_rows > limits->max_logit_rows)
        return fail(err, SERVERD_INTERNAL,
                    "step %llu: %u rows, %u sequences, %u logit rows; promised were at most "
                    "%u, %u, %u",
                    (unsigned long long)batch->step, batch->n_rows, batch->n_seqs,
                    batch->n_logit_rows, limits->max_rows, limits->max_seqs,
                    limits->max_logit_rows);
    return runtime->delegate->execute(runtime->handle, batch, runtime->kv, out, err);
}

serverd_status runtime_kv_zero(struct runtime *runtime, const serverd_kv_page *pages, uint32_t n,
                               serverd_error *err)
{
    if (!runtime->kv)
        return SERVERD_OK;
    return runtime->delegate->kv_zero(runtime->kv, pages, n, err);
}

static bool is_there(const struct runtime *runtime, serverd_kv_page page)
{
    const struct kv_size *size = &runtime->kv_size;
    return (page.page == SERVERD_NO_PAGE || page.page < size->n_pages) &&
           (page.window_page == SERVERD_NO_PAGE || page.window_page < size->n_window_pages);
}

serverd_status runtime_kv_copy(struct runtime *runtime, serverd_kv_page from, serverd_kv_page to,
                               uint32_t n_tokens, serverd_error *err)
{
    if (!runtime->kv)
        return SERVERD_OK;
    if (!is_there(runtime, from) || !is_there(runtime, to) || n_tokens > SERVERD_PAGE_TOKENS)
        return fail(err, SERVERD_INTERNAL, "kv copy: page %u to %u, %u tokens; there are %u pages",
                    from.page, to.page, n_tokens, runtime->kv_size.n_pages);
    return runtime->delegate->kv_copy(runtime->kv, from, to, n_tokens, err);
}

/* SERVERD_OK if a page can be taken out or put in. */
static serverd_status check_transfer(const struct runtime *runtime, serverd_kv_page page,
                                     serverd_error *err)
{
    if (!runtime->kv || !can_export(runtime->delegate))
        return fail(err, SERVERD_UNSUPPORTED, "device %s: KV pages cannot leave it",
                    runtime->delegate->name);
    if (!is_there(runtime, page))
        return fail(err, SERVERD_INTERNAL, "kv transfer: page %u, window page %u; there are %u, %u",
                    page.page, page.window_page, runtime->kv_size.n_pages,
                    runtime->kv_size.n_window_pages);
    return SERVERD_OK;
}

serverd_status runtime_kv_export(struct runtime *runtime, serverd_kv_page page, void *out,
                                 serverd_error *err)
{
    serverd_status status = check_transfer(runtime, page, err);
    return status == SERVERD_OK ? runtime->delegate->kv_export(runtime->kv, page, out, err)
                                : status;
}

serverd_status runtime_kv_import(struct runtime *runtime, serverd_kv_page page, const void *bytes,
                                 serverd_error *err)
{
    serverd_status status = check_transfer(runtime, page, err);
    return status == SERVERD_OK ? runtime->delegate->kv_import(runtime->kv, page, bytes, err)
                                : status;
}

serverd_status runtime_kv_identity(struct runtime *runtime, uint8_t out[32], serverd_error *err)
{
    if (!runtime->has_identity)
        return fail(err, SERVERD_UNSUPPORTED, "device %s: KV pages have no identity",
                    runtime->delegate->name);
    struct sha256 identity = runtime->identity; /* so that it can be asked again */
    sha256_final(&identity, out);
    return SERVERD_OK;
}
