#include "tools/model.h"

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "compiler/adapter_import.h"
#include "kernels/builtin.h"
#include "kvcache/disk_tier.h"
#include "program/dtype.h"
#include "runtime/delegate_file.h"
#include "runtime/ranks.h"
#include "scheduler/draft_model.h"
#include "tools/program_open.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rows of logits beside one for each running sequence: what scoring a prompt may take a step. */
#define SPARE_LOGIT_ROWS 16

/* Memory for pages on the way to the disk, and for those that come from there. */
#define DISK_STORE_BYTES (64 * MIB)
#define DISK_LOAD_BYTES  (128 * MIB)

/* Of the progress of a start, what compiling is; the rest is packing what is not packed yet. */
#define COMPILE_SHARE 0.5

struct model {
    struct program *program, *draft_program; /* draft_...: NULL if there is no draft model */
    struct program *shards[LIMIT_RANKS];     /* of ranks that share it, the first is `program` */
    uint32_t n_ranks;
    struct tokenizer *tokenizer;
    struct chat_template *chat_template;
    char *template_source; /* of --chat-template; else the program's */
    struct worker_pool *pool;
    struct delegate_list delegates;
    struct runtime *runtime, *draft_runtime;
    struct disk_tier *disk; /* NULL: none */
    struct engine *engine;
    struct metrics *metrics;
    struct served_model served;
};

/* ---- steps of opening, in order
 * ------------------------------------------------------------------ */

static void forward_log(void *context, int level, const char *text)
{
    log_write(context, (enum log_level)level, "runtime", "%s", text);
}

static void count_fallback(void *context)
{
    metrics_add(context, METRIC_DELEGATE_FALLBACKS, 1);
}

/* Packing two models is one progress: each has the share of its weights. */
struct progress_part {
    const struct model_setup *setup;
    double begin, share;
};

static void forward_progress(void *context, double share)
{
    const struct progress_part *part = context;
    model_load_progress(part->setup->load, part->begin + part->share * share);
}

static serverd_status open_program(const struct model *model, const struct model_setup *setup,
                                   const char *path, struct shard shard, struct program **out,
                                   serverd_error *err)
{
    const double each = COMPILE_SHARE / (shard.n_ranks > 0 ? shard.n_ranks : 1);
    struct progress_part part = {setup, shard.rank * each, each};
    const struct program_open_options options = {.path = path,
                                                 .shard = shard,
                                                 .cache = setup->options->program_cache,
                                                 .cache_bytes = setup->options->program_cache_size,
                                                 .pool = model->pool,
                                                 .progress = forward_progress,
                                                 .progress_context = &part,
                                                 .log = forward_log,
                                                 .log_context = setup->log};
    return program_open(&options, out, err);
}

/* The model's program, or a shard for each rank; the first is the one that everybody sees. */
static serverd_status open_programs(struct model *model, const struct model_setup *setup,
                                    serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (uint32_t r = 0; r < model->n_ranks && status == SERVERD_OK; r++)
        status = open_program(model, setup, setup->config->path, (struct shard){r, model->n_ranks},
                              &model->shards[r], err);
    model->program = model->shards[0];
    return status;
}

/* Ranks have equal parts of the threads. */
static serverd_status open_pool(struct model *model, const struct model_setup *setup,
                                serverd_error *err)
{
    model->n_ranks = (uint32_t)setup->options->tensor_parallel_size;
    serverd_status status =
        worker_pool_create((uint32_t)setup->options->threads, &model->pool, err);
    if (status != SERVERD_OK || model->n_ranks == 1)
        return status;
    const uint32_t n_threads = worker_pool_n_workers(model->pool) / model->n_ranks;
    worker_pool_destroy(model->pool);
    model->pool = NULL;
    return worker_pool_create(n_threads > 0 ? n_threads : 1, &model->pool, err);
}

static struct runtime_ranks ranks_of(const struct model *model)
{
    return (struct runtime_ranks){model->shards, model->n_ranks,
                                  worker_pool_n_workers(model->pool)};
}

/* Options that say how one model is to be treated are the default one's. */
static const char *own_option(const struct model_setup *setup, const char *value)
{
    return setup->is_default ? value : NULL;
}

static serverd_status read_template(struct model *model, const char *path, serverd_error *err)
{
    const struct program_template *own = program_find_template(model->program, "default");
    const char *source = own ? own->source : NULL;
    size_t n = own ? own->len : 0;
    if (path) {
        serverd_status status =
            file_read(path, LIMIT_TEMPLATE_SOURCE, &model->template_source, &n, err);
        if (status != SERVERD_OK)
            return error_context(err, "chat-template");
        source = model->template_source;
    }
    if (!source)
        return SERVERD_OK; /* a base model */
    model->served.chat_template_source = source;
    serverd_status status = chat_template_compile(source, n, &model->chat_template, err);
    return status == SERVERD_OK ? SERVERD_OK : error_context(err, "chat template");
}

/* A template of the file that does not compile costs the chat endpoint, not the model. */
static serverd_status open_template(struct model *model, const struct model_setup *setup,
                                    serverd_error *err)
{
    const char *path = own_option(setup, setup->options->chat_template);
    serverd_status status = read_template(model, path, err);
    if (status == SERVERD_OK || path)
        return status;
    log_warn(setup->log, "model", "%s: chat is not possible; give another with --chat-template",
             err->text);
    return SERVERD_OK;
}

static uint32_t context_size(const struct model *model, const struct model_setup *setup)
{
    uint32_t trained = model->program->config.context_length;
    uint32_t wanted = (uint32_t)setup->options->ctx_size;
    if (wanted == 0 || (model->program->config.is_encoder && wanted > trained))
        return trained;
    if (wanted > trained)
        log_warn(setup->log, "model", "ctx-size %u is above the %u that the model was trained for",
                 wanted, trained);
    return wanted;
}

static bool wants_disk(const struct model_setup *setup)
{
    return own_option(setup, setup->options->kv_disk_path) && setup->options->prefix_cache;
}

static struct runtime_options runtime_options(const struct model *model,
                                              const struct model_setup *setup,
                                              struct progress_part *part)
{
    static const serverd_dtype kv_dtypes[] = {DTYPE_BF16, DTYPE_F16, DTYPE_I8,
                                              DTYPE_F32}; /* as the option */
    return (struct runtime_options){
        .delegates = model->delegates.items,
        .n_delegates = model->delegates.n,
        .device = setup->options->device,
        .pool = model->pool,
        .clock = setup->clock,
        .kv_dtype = kv_dtypes[setup->options->kv_dtype],
        .log = forward_log,
        .log_context = setup->log,
        .progress = forward_progress,
        .progress_context = part,
        .fell_back = count_fallback,
        .fell_back_context = setup->metrics,
    };
}

/* Of all weights that are packed, the model's. */
static double model_share(const struct model *model)
{
    double own = (double)model->program->config.weight_bytes, draft = 0;
    if (model->draft_program)
        draft = (double)model->draft_program->config.weight_bytes;
    return own + draft > 0 ? own / (own + draft) : 1;
}

/* Those of files behind those that are built in: what stands in the folder of the installation, and
 * what the user names. */
static serverd_status load_delegates(struct model *model, const struct model_setup *setup,
                                     serverd_error *err)
{
    serverd_status status =
        delegate_list_create(&model->delegates, builtin_delegates, n_builtin_delegates, err);
    if (status != SERVERD_OK)
        return status;
    delegate_list_load_folder(&model->delegates, DELEGATE_FOLDER, forward_log, setup->log);
    return delegate_list_load_all(&model->delegates, setup->options->delegate, err);
}

/* Line by line, so that each is a record of the log. */
static void explain(const struct model *model, const struct model_setup *setup)
{
    struct buffer text;
    buffer_init(&text, LIMIT_EXPLAIN_BYTES);
    placement_explain(runtime_placement(model->runtime), &text);
    const char *line = buffer_str(&text);
    for (size_t n; *line; line += n + (line[n] != '\0')) {
        n = strcspn(line, "\n");
        log_info(setup->log, "runtime", "%.*s", (int)n, line);
    }
    if (text.is_failed)
        log_info(setup->log, "runtime", "and so on");
    buffer_deinit(&text);
}

/* Asks for the memory of the model and its draft model. What no device foretells counts as what is
 * in the file. */
static serverd_status reserve(struct model *model, const struct model_setup *setup,
                              const struct runtime_options *opening, serverd_error *err)
{
    struct runtime_memory memory;
    const struct runtime_ranks ranks = ranks_of(model);
    uint64_t bytes = 0;
    for (uint32_t r = 0; r < model->n_ranks; r++)
        bytes += model->shards[r]->config.weight_bytes;
    if (model_load_memory(setup->load) > 0) {
        serverd_status status = model->n_ranks > 1
                                    ? runtime_predict_ranks(&ranks, opening, &memory, err)
                                    : runtime_predict(model->program, opening, &memory, err);
        if (status != SERVERD_OK && status != SERVERD_UNSUPPORTED)
            return status;
        if (status == SERVERD_OK)
            bytes = runtime_memory_peak(&memory);
    }
    if (model->draft_program)
        bytes += model->draft_program->config.weight_bytes;
    return model_load_reserve(setup->load, bytes, err);
}

static serverd_status open_runtime(struct model *model, const struct model_setup *setup,
                                   serverd_error *err)
{
    const struct options *options = setup->options;
    uint32_t context = context_size(model, setup);
    uint32_t max_running = (uint32_t)options->max_running;
    uint32_t max_rows = (uint32_t)options->prefill_chunk + max_running;
    if (model->program->config.is_encoder) /* a whole input is one chunk */
        max_rows = (uint32_t)max_size(max_rows, context);
    struct progress_part part = {setup, COMPILE_SHARE, (1 - COMPILE_SHARE) * model_share(model)};
    struct runtime_options opening = runtime_options(model, setup, &part);
    opening.limits =
        (serverd_limits){.struct_bytes = sizeof(serverd_limits),
                         .max_rows = max_rows,
                         .max_logit_rows = max_running + SPARE_LOGIT_ROWS,
                         .max_seqs = max_running,
                         .max_context = context,
                         .max_adapters = model->n_ranks > 1 ? 0 : (uint32_t)options->max_adapters,
                         .max_adapter_rank = (uint32_t)options->max_adapter_rank};
    opening.place = options->place;
    opening.kv_bytes = options->kv_memory;
    opening.free_bytes = model_load_memory(setup->load) / 2;
    opening.wants_window_pages = true;
    opening.wants_kv_identity = wants_disk(setup);
    serverd_status status = reserve(model, setup, &opening, err);
    const struct runtime_ranks ranks = ranks_of(model);
    if (status == SERVERD_OK)
        status = model->n_ranks > 1 ? runtime_open_ranks(&ranks, &opening, &model->runtime, err)
                                    : runtime_open(model->program, &opening, &model->runtime, err);
    if (status == SERVERD_OK && options->explain)
        explain(model, setup);
    return status;
}

/* ---- the draft model ------------------------------------------------------------------------- */

static bool wants_draft(const struct model_setup *setup)
{
    return own_option(setup, setup->options->draft_model_path) && setup->options->speculation;
}

static serverd_status compile_draft(struct model *model, const struct model_setup *setup,
                                    serverd_error *err)
{
    if (own_option(setup, setup->options->draft_model_path) && !setup->options->speculation)
        log_warn(setup->log, "model", "draft-model-path is not used: speculation is off");
    if (!wants_draft(setup))
        return SERVERD_OK;
    serverd_status status = open_program(model, setup, setup->options->draft_model_path,
                                         (struct shard){0}, &model->draft_program, err);
    if (status == SERVERD_OK)
        status = draft_model_check(model->draft_program, model->program, err);
    if (status != SERVERD_OK)
        return error_context(err, "draft-model-path");
    if (model->draft_program->config.weight_bytes > model->program->config.weight_bytes)
        log_warn(setup->log, "model", "draft-model-path: the draft model is larger than the model");
    return SERVERD_OK;
}

/* Its threads are the model's: the engine runs one after the other. */
static serverd_status open_draft(struct model *model, const struct model_setup *setup,
                                 serverd_error *err)
{
    if (!model->draft_program)
        return SERVERD_OK;
    const struct program_config *config = &model->draft_program->config;
    uint32_t context = runtime_limits(model->runtime)->max_context;
    if (context > config->context_length)
        context = config->context_length; /* of longer texts it guesses nothing */
    double begin = COMPILE_SHARE + (1 - COMPILE_SHARE) * model_share(model);
    struct progress_part part = {setup, begin, 1 - begin};
    struct runtime_options opening = runtime_options(model, setup, &part);
    opening.limits = draft_model_limits((uint32_t)setup->options->max_running, context);
    if (setup->options->draft_device)
        opening.device = setup->options->draft_device;
    serverd_status status =
        runtime_open(model->draft_program, &opening, &model->draft_runtime, err);
    if (status != SERVERD_OK)
        return error_context(err, "draft-model-path");
    uint64_t n_pages = runtime_n_pages(model->draft_runtime);
    log_info(setup->log, "model",
             "draft model: %s, %s, %.1f M parameters, context %u, on %s, KV cache for %llu tokens "
             "(%llu MiB)",
             config->architecture, config->quantisation, (double)config->n_parameters / 1e6,
             context, runtime_device(model->draft_runtime),
             (unsigned long long)n_pages * SERVERD_PAGE_TOKENS,
             (unsigned long long)(runtime_kv_total_bytes(model->draft_runtime) / MIB));
    return SERVERD_OK;
}

/* ---- adapters -------------------------------------------------------------------------------- */

static serverd_status add_adapter(struct model *model, const struct model_setup *setup,
                                  const char *name, const char *path, float scale,
                                  serverd_error *err)
{
    struct adapter *adapter;
    if (strcmp(name, setup->config->name) == 0 || strcmp(name, "default") == 0)
        return fail(err, SERVERD_INVALID, "%s is the model's name", name);
    serverd_status status = adapter_import(path, model->program, &adapter, err);
    if (status != SERVERD_OK)
        return status;
    status = engine_load_adapter(model->engine, name, adapter, scale, err);
    if (status == SERVERD_OK)
        log_info(setup->log, "model", "adapter %s: %u layers, rank %u, scale %g", name,
                 adapter->n_sites, adapter->max_rank, (double)scale);
    adapter_destroy(adapter);
    return status;
}

/* NAME=FILE[:SCALE]; changes the text. What stands behind the last colon is a scale if it is a
 * number. */
static serverd_status add_entry(struct model *model, const struct model_setup *setup, char *entry,
                                serverd_error *err)
{
    double scale = 1;
    char *path = strchr(entry, '='), *colon = strrchr(entry, ':');
    if (!path || path == entry || path[1] == '\0')
        return fail(err, SERVERD_INVALID, "%.200s is not NAME=FILE[:SCALE]", entry);
    if (colon > path && parse_f64(colon + 1, &scale))
        *colon = '\0';
    if (scale < -ADAPTER_MAX_SCALE || scale > ADAPTER_MAX_SCALE)
        return fail(err, SERVERD_INVALID, "a scale of %g, %g to %g are possible", scale,
                    -ADAPTER_MAX_SCALE, ADAPTER_MAX_SCALE);
    *path++ = '\0';
    return add_adapter(model, setup, entry, path, (float)scale, err);
}

static serverd_status add_adapters(struct model *model, const struct model_setup *setup,
                                   serverd_error *err)
{
    const char *list = setup->config->adapters;
    char *text = list ? strdup(list) : NULL, *rest = NULL;
    if (!list)
        return SERVERD_OK;
    if (model->n_ranks > 1) {
        free(text);
        return fail(err, SERVERD_UNSUPPORTED, "lora: a model that several ranks share takes none");
    }
    serverd_status status = text ? SERVERD_OK : fail(err, SERVERD_NOMEM, "no memory");
    for (char *entry = text ? strtok_r(text, ",", &rest) : NULL; entry && status == SERVERD_OK;
         entry = strtok_r(NULL, ",", &rest))
        status = add_entry(model, setup, entry, err);
    free(text);
    return status == SERVERD_OK ? status : error_context(err, "lora");
}

/* ---- disk and engine ------------------------------------------------------------------------- */

/* A model whose pages cannot leave their device goes without. */
static serverd_status open_disk(struct model *model, const struct model_setup *setup,
                                serverd_error *err)
{
    const struct options *options = setup->options;
    struct disk_tier_options disk = {.folder = options->kv_disk_path,
                                     .page_bytes = runtime_page_bytes(model->runtime),
                                     .window_page_bytes = runtime_window_page_bytes(model->runtime),
                                     .max_bytes = options->kv_disk_size,
                                     .store_bytes = DISK_STORE_BYTES,
                                     .load_bytes = DISK_LOAD_BYTES,
                                     .clock = setup->clock,
                                     .metrics = setup->config->metrics,
                                     .log = forward_log,
                                     .log_context = setup->log};
    if (!wants_disk(setup))
        return SERVERD_OK;
    serverd_status status = runtime_kv_identity(model->runtime, disk.identity, err);
    if (status == SERVERD_UNSUPPORTED) {
        log_warn(setup->log, "model", "kv-disk-path is not used: %s", err->text);
        return SERVERD_OK;
    }
    if (status == SERVERD_OK)
        status = disk_tier_create(&disk, &model->disk, err);
    return status == SERVERD_OK ? SERVERD_OK : error_context(err, "kv-disk-path");
}

static serverd_status start_engine(struct model *model, const struct model_setup *setup,
                                   serverd_error *err)
{
    const struct options *options = setup->options;
    const struct engine_options engine_options = {
        .runtime = model->runtime,
        .tokenizer = model->tokenizer,
        .clock = setup->clock,
        .log = setup->log,
        .metrics = setup->config->metrics,
        .sink = setup->sink,
        .context_size = runtime_limits(model->runtime)->max_context,
        .max_running = (uint32_t)options->max_running,
        .prefill_chunk = (uint32_t)options->prefill_chunk,
        .itl_target_ns = (uint64_t)(options->itl_target_ms * 1e6),
        .max_draft = options->speculation ? (uint32_t)options->draft_tokens : 0,
        .draft_runtime = model->draft_runtime,
        .has_prefix_cache = options->prefix_cache,
        .max_pinned_fraction = options->programs_max_pinned_fraction,
        .dedup_min_tokens = (uint32_t)options->programs_dedup_min_tokens,
        .disk = model->disk,
        .max_queue = (uint32_t)options->max_queue,
        .max_queue_tokens = (uint64_t)options->max_queue_tokens,
        .queue_timeout_ns = (uint64_t)(options->queue_timeout * 1e9),
        .wait_bound = options->queue_wait_bound,
    };
    serverd_status status = engine_create(&engine_options, &model->engine, err);
    if (status == SERVERD_OK)
        status = add_adapters(model, setup, err);
    return status == SERVERD_OK ? engine_start(model->engine, err) : status;
}

/* What the output depends on beside the request: build, weights, device. */
static void make_fingerprint(struct model *model, const struct model_setup *setup)
{
    const struct program_config *config = &model->program->config;
    char text[1024];
    (void)snprintf(text, sizeof text, "%s %s %s %llu %s %.256s %d", PROJECT_VERSION,
                   config->architecture, config->name, (unsigned long long)config->weight_bytes,
                   runtime_device(model->runtime),
                   setup->options->place ? setup->options->place : "", setup->options->kv_dtype);
    (void)snprintf(model->served.fingerprint, sizeof model->served.fingerprint, "fp_%012llx",
                   (unsigned long long)(hash_bytes(text, strlen(text), 0) >> 16));
}

static void describe(struct model *model, const struct model_setup *setup)
{
    const struct program_config *config = &model->program->config;
    log_info(setup->log, "model",
             "%s: %s, %s, %.1f M parameters, context %u, on %s, KV cache for %llu tokens "
             "(%llu MiB)",
             setup->config->name, config->architecture, config->quantisation,
             (double)config->n_parameters / 1e6, model->served.context_size,
             runtime_device(model->runtime),
             (unsigned long long)runtime_n_pages(model->runtime) * SERVERD_PAGE_TOKENS,
             (unsigned long long)(runtime_kv_total_bytes(model->runtime) / MIB));
    const char *labels[] = {PROJECT_VERSION, config->architecture, runtime_device(model->runtime)};
    metrics_set_labelled(setup->metrics, METRIC_BUILD_INFO, labels, 1);
}

static serverd_status open_parts(struct model *model, const struct model_setup *setup,
                                 serverd_error *err)
{
    serverd_status status = open_pool(model, setup, err);
    if (status == SERVERD_OK)
        status = load_delegates(model, setup, err);
    if (status == SERVERD_OK)
        status = open_programs(model, setup, err);
    if (status == SERVERD_OK)
        status = tokenizer_create(&model->program->vocabulary, &model->tokenizer, err);
    if (status == SERVERD_OK)
        status = open_template(model, setup, err);
    if (status == SERVERD_OK)
        status = output_formats_init(&model->served.output, model->tokenizer,
                                     model->served.chat_template_source,
                                     own_option(setup, setup->options->tool_call_parser),
                                     own_option(setup, setup->options->reasoning_parser), err);
    if (status == SERVERD_OK)
        status = compile_draft(model, setup, err); /* refused before anything is packed */
    if (status == SERVERD_OK)
        status = open_runtime(model, setup, err);
    if (status == SERVERD_OK)
        status = open_draft(model, setup, err);
    if (status == SERVERD_OK)
        status = open_disk(model, setup, err);
    if (status == SERVERD_OK)
        status = start_engine(model, setup, err);
    return status;
}

serverd_status model_open(const struct model_setup *setup, struct model **out, serverd_error *err)
{
    struct model *model = calloc(1, sizeof *model);
    if (!model)
        return fail(err, SERVERD_NOMEM, "model: no memory");
    model->metrics = setup->config->metrics;
    serverd_status status = open_parts(model, setup, err);
    if (status != SERVERD_OK) {
        model_close(model);
        return error_context(err, "%.100s", setup->config->name);
    }
    model->served.name = setup->config->name;
    model->served.path = setup->config->path;
    model->served.aliases = setup->config->aliases;
    model->served.created = clock_wall_seconds(setup->clock);
    model->served.program = model->program;
    model->served.tokenizer = model->tokenizer;
    model->served.chat_template = model->chat_template;
    model->served.engine = model->engine;
    model->served.context_size = runtime_limits(model->runtime)->max_context;
    model->served.device = runtime_device(model->runtime);
    make_fingerprint(model, setup);
    describe(model, setup);
    *out = model;
    return SERVERD_OK;
}

const struct served_model *model_served(const struct model *model)
{
    return &model->served;
}

void model_close(struct model *model)
{
    if (!model)
        return;
    engine_destroy(model->engine);
    disk_tier_destroy(model->disk);
    runtime_close(model->draft_runtime);
    runtime_close(model->runtime);
    worker_pool_destroy(model->pool);
    delegate_list_destroy(&model->delegates);
    if (model->chat_template)
        chat_template_destroy(model->chat_template);
    output_formats_deinit(&model->served.output);
    if (model->tokenizer)
        tokenizer_destroy(model->tokenizer);
    program_unref(model->draft_program);
    for (uint32_t r = 0; r < model->n_ranks; r++)
        program_unref(model->shards[r]);
    free(model->template_source);
    metrics_reset_gauges(model->metrics);
    free(model);
    (void)malloc_trim(0); /* what the heap has of it goes back to the system */
}
