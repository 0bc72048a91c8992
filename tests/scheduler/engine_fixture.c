#include "engine_fixture.h"

#include "base/arena.h"
#include "base/buffer.h"
#include "kernels/builtin.h"
#include "kernels/testing/null_model.h"
#include "program/dtype.h"
#include "sampling/sample.h"
#include "scheduler/draft_model.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- a program that nobody computes ------------------------------------------------------ */

static float weights[N_VOCAB * N_VOCAB];
static const serverd_tensor tensor = {.struct_bytes = sizeof tensor,
                                      .dtype = DTYPE_F32,
                                      .name = "w",
                                      .rank = 2,
                                      .dims = {N_VOCAB, N_VOCAB},
                                      .data = weights,
                                      .bytes = sizeof weights};
static const serverd_value values[] = {
    {.kind = SERVERD_VALUE_CONSTANT, .rank = 2, .producer = UINT32_MAX, .dims = {N_VOCAB, N_VOCAB}},
    {.kind = SERVERD_VALUE_ACTIVATION, .rank = 2, .dims = {SERVERD_DIM_ROWS, N_VOCAB}},
};
static const serverd_node node = {
    .op = SERVERD_OP_EMBED, .n_inputs = 1, .n_outputs = 1, .layer = UINT32_MAX};
static const uint32_t operands[] = {0, 1};

/* Three control tokens, then two letters each; the last token ends a line. */
static const struct vocabulary *make_vocabulary(struct program *program)
{
    struct token_text *token = arena_array(program->arena, N_VOCAB, sizeof *token);
    assert_non_null(token);
    const char *special[] = {"<unk>", "<s>", "</s>"};
    for (uint32_t i = 0; i < N_VOCAB; i++) {
        char text[8] = {(char)('a' + i / 11), (char)('a' + i % 11)};
        if (i == TOKEN_LINE)
            text[1] = '\n';
        const char *bytes = i < 3 ? special[i] : text;
        token[i] = (struct token_text){.bytes = arena_copy(program->arena, bytes, strlen(bytes)),
                                       .len = (uint32_t)strlen(bytes),
                                       .type = i == 0  ? TOKEN_UNKNOWN
                                               : i < 3 ? TOKEN_CONTROL
                                                       : TOKEN_NORMAL};
    }
    struct vocabulary *v = &program->vocabulary;
    *v = (struct vocabulary){.kind = VOCABULARY_SPM, .n_tokens = N_VOCAB, .token = token};
    v->bos = 1;
    v->eos = TOKEN_EOS;
    v->unknown = 0;
    v->eot = v->eom = v->separator = v->padding = v->cls = v->mask = -1;
    v->fim_prefix = v->fim_suffix = v->fim_middle = -1;
    v->fim_pad = v->fim_repo = v->fim_separator = -1;
    return v;
}

/* One layer that sees everything, and one with the window, if there is one. */
static void make_kv(struct program *program, uint32_t window)
{
    serverd_kv_layer *layers = arena_array(program->arena, 2, sizeof *layers);
    assert_non_null(layers);
    layers[0] = layers[1] = (serverd_kv_layer){.n_kv_heads = 1, .k_dim = 4, .v_dim = 4};
    layers[1].window = window;
    program->kv = (serverd_kv_spec){
        .struct_bytes = sizeof program->kv, .n_layers = window > 0 ? 2 : 1, .layers = layers};
}

static struct program *make_program(bool is_encoder, uint32_t window)
{
    struct program *program = program_create(1 << 20);
    assert_non_null(program);
    program->graph = (serverd_graph){.struct_bytes = sizeof program->graph,
                                     .n_tensors = 1,
                                     .n_values = 2,
                                     .n_nodes = 1,
                                     .n_operands = 2,
                                     .output = 1,
                                     .tensors = &tensor,
                                     .values = values,
                                     .nodes = &node,
                                     .operands = operands};
    if (!is_encoder)
        make_kv(program, window);
    program->config.n_vocab = program->config.n_embd = N_VOCAB;
    program->config.is_encoder = is_encoder;
    return program;
}

/* ---- events ------------------------------------------------------------------------------ */

static void on_token(struct plan *plan, const struct event *event)
{
    struct choice_result *result = &plan->result[event->choice];
    assert_false(result->is_finished);
    assert_int_equal(event->index, result->n);
    assert_true(event->release >= result->release);
    assert_int_equal(event->logprobs != NULL, plan->wants_logprobs);
    if (event->logprobs) {
        assert_int_equal(event->logprobs->chosen.token, event->token);
        assert_int_equal(event->logprobs->n_top, plan->n_top_logprobs);
        plan->n_logprobs++;
    }
    result->release = event->release;
    result->is_hidden[result->n] = event->is_hidden;
    result->token[result->n++] = event->token;
}

static void on_finish(struct plan *plan, const struct event *event)
{
    struct choice_result *result = &plan->result[event->choice];
    assert_false(result->is_finished);
    assert_true(event->release >= result->release);
    result->release = event->release;
    result->is_finished = true;
    result->finish = event->finish;
    result->finish_token = event->stop_token;
    result->stop_index = event->stop_index;
}

static void on_prompt_logprobs(const struct world *world, struct plan *plan,
                               const struct event *event)
{
    assert_int_equal(event->index, plan->score_from + plan->n_scored++);
    assert_int_equal(event->token, plan->prompt[event->index]);
    assert_int_equal(event->logprobs->chosen.token, event->token);
    uint64_t state = NULL_MODEL_EMPTY;
    for (uint32_t i = 0; i < event->index; i++)
        state = null_model_next(state, plan->prompt[i], i);
    int32_t last = plan->prompt[event->index - 1];
    int32_t best = null_model_answer(state, last, world->repeat, 0, N_VOCAB);
    assert_int_equal(event->logprobs->chosen_rank == 1, best == event->token);
    if (event->logprobs->n_top > 0)
        assert_int_equal(event->logprobs->top[0].token, best);
}

static void on_next_logprobs(const struct world *world, struct plan *plan,
                             const struct event *event)
{
    assert_int_equal(plan->n_next_scored++, 0);
    assert_int_equal(plan->result[0].n, 0);
    uint64_t state = NULL_MODEL_EMPTY;
    for (uint32_t i = 0; i < plan->n_prompt; i++)
        state = null_model_next(state, plan->prompt[i], i);
    int32_t best =
        null_model_answer(state, plan->prompt[plan->n_prompt - 1], world->repeat, 0, N_VOCAB);
    for (uint32_t i = 0; i < plan->n_next_tokens; i++)
        assert_int_equal(event->next_logprobs[i] > -1.0f, plan->next_tokens[i] == best);
}

static void on_embedding(struct plan *plan, const struct event *event)
{
    plan->n_embeddings++;
    for (uint32_t i = 0; i < N_VOCAB; i++)
        if (event->embedding[i] != 0)
            plan->embedding_token = i;
}

static void on_end(struct plan *plan, const struct event *event)
{
    plan->status = event->status;
    plan->is_cancelled = event->is_cancelled;
    plan->n_output = event->n_output;
    plan->n_cached = event->n_cached;
    plan->prefix_handle = event->prefix_handle;
    plan->n_held = event->n_held;
    plan->first_step = event->first_step;
    plan->times = event->times;
    const struct request_times *t = &event->times;
    assert_true(t->arrival_ns > 0 && t->end_ns >= t->arrival_ns);
    if (t->admitted_ns)
        assert_true(t->admitted_ns >= t->arrival_ns && t->end_ns >= t->admitted_ns);
    if (t->first_token_ns)
        assert_true(t->first_token_ns >= t->admitted_ns && t->end_ns >= t->first_token_ns);
    assert_int_equal(event->n_prompt, plan->n_prompt);
    plan->n_ends++; /* from here on the test may free the plan */
}

static void on_inspection(struct world *world, const struct event *event)
{
    assert_int_equal(event->kind, EVENT_END);
    inspection_destroy(world->inspection);
    world->inspection = event->inspection;
    world->inspection_status = event->status;
    world->inspection_is_cancelled = event->is_cancelled;
    assert_int_equal(event->inspection != NULL, !event->status && !event->is_cancelled);
    world->n_inspected += event->inspection != NULL;
    world->n_inspection_ends++; /* from here on the test may look at it */
    free(event->message);
}

static void deliver(void *context, const struct event *events, uint32_t n)
{
    struct world *world = context;
    world->n_deliveries++;
    for (uint32_t i = 0; i < n; i++) {
        struct plan *plan = events[i].user;
        if (!plan) {
            on_inspection(world, &events[i]);
            continue;
        }
        assert_int_equal(plan->n_ends, 0); /* END is the last */
        assert_int_equal(events[i].owner, plan->owner);
        assert_true(plan->id == 0 || events[i].request_id == plan->id ||
                    world->clock.context == NULL);
        switch (events[i].kind) {
        case EVENT_TOKEN:
            on_token(plan, &events[i]);
            break;
        case EVENT_FINISH:
            on_finish(plan, &events[i]);
            break;
        case EVENT_PROGRESS:
            assert_true(plan->wants_progress && events[i].index > plan->progress);
            plan->progress = events[i].index;
            plan->n_progress++;
            break;
        case EVENT_PROMPT_LOGPROBS:
            on_prompt_logprobs(world, plan, &events[i]);
            break;
        case EVENT_NEXT_LOGPROBS:
            on_next_logprobs(world, plan, &events[i]);
            break;
        case EVENT_EMBEDDING:
            on_embedding(plan, &events[i]);
            break;
        case EVENT_END:
            on_end(plan, &events[i]);
            break;
        }
        free(events[i].logprobs);
        free(events[i].next_logprobs);
        free(events[i].embedding);
        free(events[i].message);
    }
}

/* ---- the world --------------------------------------------------------------------------- */

static uint64_t virtual_now_ns(void *context)
{
    struct world *world = context;
    return world->now_ns += world->tick_ns;
}

static int64_t virtual_wall_seconds(void *context)
{
    (void)context;
    return 0;
}

static void must(serverd_status status, const serverd_error *err)
{
    if (status)
        fail_msg("%s", err->text);
}

/* Of the null delegate; the window pages' are as many. */
#define PAGE_BYTES (SERVERD_PAGE_TOKENS * sizeof(uint64_t))

static void open_runtime(struct world *world, const struct world_options *o, uint32_t max_running)
{
    serverd_error err;
    struct runtime_options options = {
        .delegates = builtin_delegates,
        .n_delegates = n_builtin_delegates,
        .device = o->device ? o->device : "null",
        .pool = world->workers,
        .clock = &system_clock,
        .limits = {.struct_bytes = sizeof(serverd_limits),
                   .max_rows = MAX_ROWS,
                   .max_logit_rows = MAX_LOGIT_ROWS,
                   .max_seqs = max_running,
                   .max_context = CONTEXT},
        .kv_dtype = DTYPE_F32,
        .wants_kv_identity = o->disk_folder != NULL,
        .kv_bytes = o->n_pages * PAGE_BYTES,
    };
    if (o->window > 0) {
        options.wants_window_pages = true;
        options.window_share = o->n_windows > 0 ? (o->n_windows + 0.5) / o->n_pages : 0.5;
        options.kv_bytes += o->n_windows > 0 ? (o->n_windows + 1) * PAGE_BYTES : 0;
    }
    must(runtime_open(world->program, &options, &world->runtime, &err), &err);
    if (o->n_windows > 0) {
        assert_int_equal(runtime_n_pages(world->runtime), o->n_pages);
        assert_int_equal(runtime_n_window_pages(world->runtime), o->n_windows);
    }
}

/* The same program, so a draft of the null delegate is right if it has the same options. */
static void open_draft(struct world *world, const struct world_options *o, uint32_t max_running)
{
    serverd_error err;
    struct runtime_options options = {
        .delegates = builtin_delegates,
        .n_delegates = n_builtin_delegates,
        .device = o->draft_device,
        .pool = world->workers,
        .clock = &system_clock,
        .limits =
            draft_model_limits(max_running, o->n_draft_context ? o->n_draft_context : CONTEXT),
        .kv_dtype = DTYPE_F32,
        .kv_bytes = o->n_draft_pages * PAGE_BYTES * (o->window > 0 ? 2 : 1),
    };
    must(runtime_open(world->program, &options, &world->draft_runtime, &err), &err);
}

static void open_disk(struct world *world, const char *folder)
{
    serverd_error err;
    struct disk_tier_options options = {.folder = folder,
                                        .page_bytes = runtime_page_bytes(world->runtime),
                                        .window_page_bytes =
                                            runtime_window_page_bytes(world->runtime),
                                        .max_bytes = PAGES(1u << 20), /* each page takes a block */
                                        .store_bytes = 64 << 10,
                                        .load_bytes = 64 << 10,
                                        .clock = &system_clock};
    must(runtime_kv_identity(world->runtime, options.identity, &err), &err);
    must(disk_tier_create(&options, &world->disk, &err), &err);
    assert_true(disk_tier_flush(world->disk, UINT64_C(10000000000)));
}

void folder_create(char path[64])
{
    (void)snprintf(path, 64, "/tmp/serverd-disk-XXXXXX");
    assert_non_null(mkdtemp(path));
}

void folder_remove(const char *path)
{
    DIR *folder = opendir(path);
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder));)
        (void)unlinkat(dirfd(folder), entry->d_name, 0);
    (void)closedir(folder);
    assert_int_equal(rmdir(path), 0);
}

struct world *world_create(const struct world_options *o)
{
    serverd_error err;
    struct world *world = calloc(1, sizeof *world);
    assert_non_null(world);
    world->repeat = o->repeat;
    world->now_ns = 1000000000;
    world->clock = o->has_real_clock ? system_clock
                                     : (struct clock){virtual_now_ns, virtual_wall_seconds, world};
    uint32_t max_running = o->max_running ? o->max_running : 8;
    world->program = make_program(o->is_encoder, o->window);
    must(worker_pool_create(1, &world->workers, &err), &err);
    open_runtime(world, o, max_running);
    if (o->draft_device)
        open_draft(world, o, max_running);
    must(tokenizer_create(make_vocabulary(world->program), &world->tokenizer, &err), &err);
    world->metrics = metrics_create();
    if (o->disk_folder)
        open_disk(world, o->disk_folder);
    struct engine_options options = {
        .max_pinned_fraction = o->max_pinned_fraction,
        .dedup_min_tokens = o->dedup_min_tokens,
        .has_prefix_cache = !o->has_no_prefix_cache,
        .runtime = world->runtime,
        .tokenizer = world->tokenizer,
        .clock = &world->clock,
        .metrics = world->metrics,
        .sink = {deliver, world},
        .context_size = CONTEXT,
        .max_running = max_running,
        .prefill_chunk = o->prefill_chunk ? o->prefill_chunk : 32,
        .max_queue = o->max_queue ? o->max_queue : 10000,
        .max_queue_tokens = o->max_queue_tokens ? o->max_queue_tokens : 10000000,
        .queue_timeout_ns = o->queue_timeout_ns,
        .itl_target_ns = o->itl_target_ns,
        .wait_bound = 2,
        .disk = world->disk,
        .max_draft = o->max_draft,
        .draft_runtime = world->draft_runtime,
    };
    must(engine_create(&options, &world->engine, &err), &err);
    if (o->has_thread)
        must(engine_start(world->engine, &err), &err);
    return world;
}

void world_destroy(struct world *world)
{
    engine_destroy(world->engine);
    disk_tier_destroy(world->disk);
    inspection_destroy(world->inspection);
    runtime_close(world->draft_runtime);
    runtime_close(world->runtime);
    tokenizer_destroy(world->tokenizer);
    metrics_destroy(world->metrics);
    worker_pool_destroy(world->workers);
    program_unref(world->program);
    free(world);
}

void world_run(struct world *world)
{
    serverd_error err;
    for (struct engine_status status = {.n_waiting = 1}; status.n_waiting > 0;) {
        while (engine_step(world->engine)) {
            world->now_ns += 1000000;
            must(engine_check(world->engine, &err), &err);
        }
        engine_status(world->engine, &status);
        if (status.n_waiting > 0 && !world->disk)
            fail_msg("%u requests wait for nothing", status.n_waiting);
        (void)usleep(status.n_waiting > 0 ? 100 : 0);
    }
}

void world_step(struct world *world, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        (void)engine_step(world->engine);
}

uint32_t world_n_steps(const struct world *world)
{
    struct engine_status status;
    engine_status(world->engine, &status);
    return (uint32_t)status.n_steps;
}

double world_counter(const struct world *world, const char *series)
{
    struct buffer text;
    buffer_init(&text, 1 << 20);
    metrics_render(world->metrics, &text);
    const char *at = strstr(buffer_str(&text), series);
    double value = at ? strtod(at + strlen(series), NULL) : 0;
    buffer_deinit(&text);
    return value;
}

void world_check_empty(struct world *world)
{
    serverd_error err;
    struct engine_status status;
    must(engine_check(world->engine, &err), &err);
    engine_status(world->engine, &status);
    assert_int_equal(status.n_running, 0);
    assert_int_equal(status.n_waiting, 0);
    assert_int_equal(status.n_waiting_tokens, 0);
    assert_int_equal(status.n_free_pages, status.n_pages);
    assert_true(world_counter(world, "\nserverd_kv_window_pages_pinned ") == 0);
}

/* ---- plans ------------------------------------------------------------------------------- */

/* Token i is the letters i / 11 and i % 11. */
const struct reasoning_marks plan_marks[2] = {{.open = {.text = "ad", .n = 2},
                                               .close = {.text = "gg", .n = 2},
                                               .open_token = 3,
                                               .close_tokens = {72},
                                               .n_close_tokens = 1},
                                              {.open = {.text = "ad", .n = 2},
                                               .close = {.text = "bbcc", .n = 4},
                                               .open_token = 3,
                                               .close_tokens = {12, 24},
                                               .n_close_tokens = 2}};

struct plan *plan_create(void)
{
    struct plan *plan = calloc(1, sizeof *plan);
    assert_non_null(plan);
    plan->n_choices = 1;
    plan->score_from = 1;
    plan->max_new_tokens = 10;
    plan->sampling = sampling_params_default();
    plan->sampling.temperature = 0;
    plan->stop_token = -1;
    plan->reasoning_budget = UINT32_MAX;
    plan_fill_prompt(plan, 5, 1);
    return plan;
}

void plan_begin_alike(struct plan *plan, uint32_t n, uint64_t seed)
{
    assert_true(n <= plan->n_prompt);
    for (uint32_t i = 0; i < n; i++)
        plan->prompt[i] = (int32_t)(hash_mix(seed * 1000 + i) % N_VOCAB);
}

void plan_fill_prompt(struct plan *plan, uint32_t n_prompt, uint64_t seed)
{
    assert_true(n_prompt <= MAX_PROMPT);
    plan->n_prompt = n_prompt;
    for (uint32_t i = 0; i < n_prompt; i++)
        plan->prompt[i] = (int32_t)(hash_mix(seed * 1000 + i) % N_VOCAB);
}

struct request *plan_request(struct world *world, struct plan *plan)
{
    struct request *r = request_create();
    assert_non_null(r);
    int32_t *prompt = arena_array(r->arena, plan->n_prompt, sizeof *prompt);
    memcpy(prompt, plan->prompt, plan->n_prompt * sizeof *prompt);
    r->user = plan;
    r->prompt = prompt;
    r->n_prompt = plan->n_prompt;
    r->n_choices = plan->n_choices;
    r->max_new_tokens = plan->max_new_tokens;
    r->sampling = plan->sampling;
    if (plan->stop) {
        struct stop_string *stop = arena_alloc(r->arena, sizeof *stop);
        *stop = (struct stop_string){plan->stop, (uint32_t)strlen(plan->stop)};
        r->stops = stop;
        r->n_stops = 1;
    }
    if (plan->stop_token >= 0) {
        int32_t *token = arena_alloc(r->arena, sizeof *token);
        *token = plan->stop_token;
        r->stop_tokens = token;
        r->n_stop_tokens = 1;
    }
    r->includes_stop = plan->includes_stop;
    r->reasoning = plan->reasoning;
    r->is_reasoning_open = plan->is_reasoning_open;
    r->reasoning_budget = plan->reasoning_budget;
    r->wants_logprobs = plan->wants_logprobs;
    r->logprobs_are_processed = plan->logprobs_are_processed;
    r->wants_prompt_logprobs = plan->wants_prompt_logprobs;
    r->score_from = plan->score_from;
    r->hold_ns = plan->hold_ns;
    r->hold_rank = plan->hold_rank;
    r->behind = plan->behind;
    r->owner = plan->owner;
    int32_t *next = arena_array(r->arena, 4, sizeof *next);
    memcpy(next, plan->next_tokens, sizeof plan->next_tokens);
    r->next_tokens = next;
    r->n_next_tokens = plan->n_next_tokens;
    r->n_top_logprobs = plan->n_top_logprobs;
    r->wants_embedding = plan->wants_embedding;
    r->priority = plan->priority;
    r->tenant = plan->tenant;
    r->weight = plan->weight;
    r->cache_space = plan->cache_space;
    r->deadline_ns = plan->deadline_ns;
    r->decode_ns = plan->decode_ns;
    r->wants_progress = plan->wants_progress;
    r->arrival_ns = clock_now_ns(&world->clock);
    return r;
}

serverd_status plan_submit(struct world *world, struct plan *plan, serverd_error *err)
{
    struct request *request = plan_request(world, plan);
    uint64_t id;
    serverd_status status = engine_submit(world->engine, request, &id, err);
    if (status)
        request_destroy(request);
    else if (world->clock.context) /* else the engine's thread reads the plan already */
        plan->id = id;
    return status;
}

static uint64_t append_piece(const struct world *world, char *text, uint64_t len, int32_t token)
{
    uint32_t n;
    const char *piece = tokenizer_piece(world->tokenizer, token, &n);
    if (tokenizer_is_control(world->tokenizer, token))
        n = 0;
    memcpy(text + len, piece, n);
    text[len + n] = '\0';
    return len + n;
}

static const char *piece_of(const void *user, int32_t token, uint32_t *n)
{
    return tokenizer_piece(user, token, n);
}

/* Where a text of the plan's is, found by looking at all of it. */
struct thought {
    bool is_open;
    size_t begin; /* of the block, or of what stands behind the last one */
    uint32_t n_tokens, n_forced;
};

/* The token that has to come, -1: none. */
static int32_t forced_token(const struct plan *plan, struct thought *thought)
{
    const struct reasoning_marks *marks = plan->reasoning;
    bool is_over = thought->is_open && thought->n_tokens >= plan->reasoning_budget;
    if (!marks || (!is_over && thought->n_forced == 0))
        return -1;
    int32_t token = marks->close_tokens[thought->n_forced++];
    thought->n_forced %= marks->n_close_tokens;
    return token;
}

/* A token has made the text longer; whether it is no answer. */
static bool think(const struct plan *plan, struct thought *thought, const char *text)
{
    bool was_open = thought->is_open;
    if (!plan->reasoning)
        return false;
    const char *begin = text + thought->begin;
    const char *close = was_open ? strstr(begin, plan->reasoning->close.text) : NULL;
    if (close) {
        thought->is_open = false;
        thought->begin = (size_t)(close - text) + plan->reasoning->close.n;
        begin = text + thought->begin;
    }
    if (!thought->is_open &&
        strncmp(begin, plan->reasoning->open.text, plan->reasoning->open.n) == 0) {
        thought->is_open = true;
        thought->begin += plan->reasoning->open.n;
    }
    thought->n_tokens += was_open && thought->is_open;
    return was_open || thought->is_open;
}

void oracle(const struct world *world, const struct plan *plan, uint32_t choice,
            struct choice_result *out)
{
    uint32_t n_end;
    const int32_t *end = tokenizer_end_tokens(world->tokenizer, &n_end);
    struct sampler_setup setup = {.params = &plan->sampling,
                                  .choice = choice,
                                  .n_vocab = N_VOCAB,
                                  .prompt = plan->prompt,
                                  .n_prompt = plan->n_prompt,
                                  .end_tokens = end,
                                  .n_end_tokens = n_end,
                                  .stop_tokens = &plan->stop_token,
                                  .n_stop_tokens = plan->stop_token >= 0,
                                  .piece = piece_of,
                                  .piece_user = world->tokenizer};
    struct sampler *sampler = sampler_create(&setup);
    struct sampling_scratch *scratch = sampling_scratch_create(N_VOCAB);
    uint64_t state = NULL_MODEL_EMPTY, len = 0, searched_from = 0;
    int32_t token = plan->prompt[plan->n_prompt - 1];
    char text[CONTEXT * 8] = "";
    struct thought thought = {.is_open = plan->is_reasoning_open};
    *out = (struct choice_result){.finish_token = -1, .stop_index = -1, .is_finished = true};
    out->finish = FINISH_LENGTH;
    for (uint32_t i = 0; i < plan->n_prompt; i++)
        state = null_model_next(state, plan->prompt[i], i);
    while (out->n < plan->max_new_tokens && plan->n_prompt + out->n < CONTEXT) {
        float logits[N_VOCAB] = {0};
        logits[null_model_answer(state, token, world->repeat, 0, N_VOCAB)] = 16.0f;
        serverd_error err;
        int32_t forced = forced_token(plan, &thought);
        if (forced >= 0)
            token = forced;
        else
            must(sampler_draw(sampler, scratch, logits, out->n, &token, &err), &err);
        sampler_accept(sampler, token);
        state = null_model_next(state, token, plan->n_prompt + out->n);
        out->token[out->n++] = token;
        out->release = len;
        if (token == TOKEN_EOS || token == plan->stop_token) {
            out->is_hidden[out->n - 1] = true;
            out->finish = FINISH_STOP;
            out->finish_token = token;
            break;
        }
        out->release = len = append_piece(world, text, len, token);
        if (think(plan, &thought, text) || out->n <= plan->sampling.min_tokens)
            searched_from = len;
        const char *match = plan->stop ? strstr(text + searched_from, plan->stop) : NULL;
        if (match) {
            out->finish = FINISH_STOP;
            out->stop_index = 0;
            out->release =
                (uint64_t)(match - text) + (plan->includes_stop ? strlen(plan->stop) : 0);
            break;
        }
    }
    sampler_destroy(sampler);
    sampling_scratch_destroy(scratch);
}

void plan_check_prefix(const struct world *world, const struct plan *plan)
{
    assert_int_equal(plan->n_ends, 1);
    for (uint32_t c = 0; c < plan->n_choices; c++) {
        struct choice_result expected;
        oracle(world, plan, c, &expected);
        assert_true(plan->result[c].n <= expected.n);
        assert_true(plan->result[c].release <= expected.release);
        assert_memory_equal(plan->result[c].token, expected.token,
                            plan->result[c].n * sizeof(int32_t));
    }
}

void plan_check_whole(const struct world *world, const struct plan *plan)
{
    plan_check_prefix(world, plan);
    assert_int_equal(plan->status, SERVERD_OK);
    assert_false(plan->is_cancelled);
    uint32_t n_output = 0;
    for (uint32_t c = 0; c < plan->n_choices; c++) {
        struct choice_result expected;
        const struct choice_result *found = &plan->result[c];
        oracle(world, plan, c, &expected);
        assert_true(found->is_finished);
        assert_int_equal(found->n, expected.n);
        assert_int_equal(found->finish, expected.finish);
        assert_int_equal(found->finish_token, expected.finish_token);
        assert_int_equal(found->stop_index, expected.stop_index);
        assert_int_equal(found->release, expected.release);
        assert_memory_equal(found->is_hidden, expected.is_hidden, sizeof expected.is_hidden);
        n_output += found->n;
    }
    assert_int_equal(plan->n_output, n_output);
    if (plan->wants_logprobs)
        assert_int_equal(plan->n_logprobs, n_output);
    if (plan->wants_prompt_logprobs)
        assert_int_equal(plan->n_scored, plan->n_prompt - plan->score_from);
    assert_int_equal(plan->n_next_scored, plan->n_next_tokens > 0);
}

void plan_must_submit(struct world *world, struct plan *plan)
{
    serverd_error err;
    if (plan_submit(world, plan, &err))
        fail_msg("%s", err.text);
}

void plan_finish(struct world *world, struct plan *plan)
{
    plan_check_whole(world, plan);
    free(plan);
}

struct plan *plan_of(uint32_t n_prompt, uint32_t n_new, uint64_t seed)
{
    struct plan *plan = plan_create();
    plan_fill_prompt(plan, n_prompt, seed);
    plan->max_new_tokens = n_new;
    plan->sampling.ignore_eos = true;
    return plan;
}
