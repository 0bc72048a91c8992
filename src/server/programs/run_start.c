/* A run as the service wants it: whose it is, its model, and that both outlive it. */
#include "base/hash.h"
#include "frontend_dsl/dsl_program.h"
#include "server/programs/programs_internal.h"
#include "server/request/api_request.h"
#include "server/request/grammar_cache.h"

#include <stdlib.h>
#include <string.h>

/* What a job keeps while it needs its model. */
struct hold {
    struct server *server;
    struct model_entry *entry;
    struct sampling_params sampling; /* the model's defaults */
    const char **streamed;
    struct rate_limit *limit;
    uint64_t n_reserved; /* tokens of it */
};

static void release(void *context, uint64_t n_tokens)
{
    struct hold *hold = context;
    rate_limit_settle(hold->limit, RATE_TOKENS, hold->n_reserved, n_tokens,
                      clock_now_ns(hold->server->context.clock));
    rate_limit_unref(hold->limit);
    if (hold->entry)
        model_set_release(&hold->server->models, hold->entry, true);
    free(hold->streamed);
    free(hold);
}

/* ---- the model ---------------------------------------------------------------------------------
 */

static struct grammar *find_grammar(void *context, const uint8_t key[GRAMMAR_KEY_BYTES])
{
    const struct hold *hold = context;
    return grammar_cache_find(&hold->entry->grammars, key);
}

static void keep_grammar(void *context, const uint8_t key[GRAMMAR_KEY_BYTES],
                         struct grammar *grammar)
{
    const struct hold *hold = context;
    grammar_cache_keep(&hold->entry->grammars, key, grammar);
}

static const struct token_trie *trie(void *context, serverd_error *err)
{
    const struct hold *hold = context;
    return grammar_cache_trie(&hold->entry->grammars, hold->entry->served->tokenizer, err);
}

/* What the model recommends, over the API's defaults. */
static void set_sampling(const struct hold *hold, struct sampling_params *params)
{
    const struct program_sampling *own = &hold->entry->served->program->sampling;
    *params = sampling_params_default();
    if (hold->server->context.options->sampling_defaults != 0)
        return;
    if (own->has_temperature)
        params->temperature = own->temperature;
    if (own->has_top_p)
        params->top_p = own->top_p;
    if (own->has_min_p)
        params->min_p = own->min_p;
    if (own->has_top_k)
        params->top_k = own->top_k;
    if (own->has_repetition_penalty)
        params->repetition_penalty = own->repetition_penalty;
}

static struct dsl_model model_of(struct hold *hold)
{
    const struct served_model *served = hold->entry->served;
    return (struct dsl_model){.engine = served->engine,
                              .tokenizer = served->tokenizer,
                              .chat_template = served->chat_template,
                              .chat_template_source = served->chat_template_source,
                              .output = &served->output,
                              .name = served->name,
                              .context_size = served->context_size,
                              .sampling = &hold->sampling,
                              .memo = hold->entry->memo,
                              .find_grammar = find_grammar,
                              .keep_grammar = keep_grammar,
                              .trie = trie,
                              .grammar_context = hold};
}

/* ---- the run -----------------------------------------------------------------------------------
 */

/* 53 bits, so that every reader of JSON gets the number that was meant. */
static uint64_t draw_seed(void)
{
    uint64_t seed = 0;
    serverd_error ignored; /* a seed of 0 is a seed */
    (void)random_bytes(&seed, sizeof seed, &ignored);
    return seed >> 11;
}

static void set_owner(struct exchange *x, const struct run_body *body, struct dsl_run_setup *run)
{
    run->tenant = run->cache_space = x->tenant;
    run->weight = x->weight;
    if (body->cache_salt)
        run->cache_space =
            hash_mix(x->tenant ^ sha256_number(body->cache_salt, strlen(body->cache_salt)));
    run->priority = body->priority > x->max_priority ? x->max_priority : body->priority;
}

/* One token is enough to begin with: what was used is owed. */
static bool reserve_tokens(struct exchange *x, struct hold *hold, struct api_error *e)
{
    uint32_t wait_ms;
    hold->limit = rate_limit_ref(x->limit);
    if (rate_limit_take(x->limit, RATE_TOKENS, 1, clock_now_ns(x->server->context.clock),
                        &hold->n_reserved, &wait_ms))
        return true;
    auth_refuse_rate(x, RATE_TOKENS, wait_ms, e);
    return false;
}

static struct hold *hold_model(struct exchange *x, const struct run_body *body, struct api_error *e)
{
    struct hold *hold = calloc(1, sizeof *hold);
    api_error_set(e, "model_unavailable", NULL, "The server is out of memory.");
    if (!hold)
        return NULL;
    hold->server = x->server;
    if (body->n_streamed > 0) {
        hold->streamed = calloc(body->n_streamed, sizeof *hold->streamed);
        if (hold->streamed)
            memcpy(hold->streamed, body->streamed, body->n_streamed * sizeof *hold->streamed);
    }
    if ((body->n_streamed > 0 && !hold->streamed) || !reserve_tokens(x, hold, e)) {
        release(hold, 0);
        return NULL;
    }
    model_set_hold(&x->server->models, x->model_entry);
    hold->entry = x->model_entry;
    set_sampling(hold, &hold->sampling);
    return hold;
}

static void refuse_start(struct api_error *e, enum dsl_start how)
{
    if (how == DSL_START_FULL) {
        api_error_set(e, "rate_limit_exceeded", NULL,
                      "Too many runs of programs wait. Please try again in 1s.");
        e->retry_after_ms = 1000;
    } else if (how == DSL_START_STOPPED) {
        api_error_set(e, "draining", NULL, "The server takes no new requests now.");
    } else {
        api_error_set(e, "model_unavailable", NULL, "The server is out of memory.");
    }
}

struct dsl_job *run_start(struct exchange *x, struct dsl_program *program, const char *name,
                          const struct run_body *body, struct program_error *e)
{
    struct api_error error;
    struct dsl_job *job = NULL;
    struct hold *hold = NULL;
    if (!run_body_check_args(body, program, e))
        return NULL;
    if (api_check_model(exchange_model(x), body->model, &error) &&
        (hold = hold_model(x, body, &error)) != NULL) {
        struct dsl_job_setup setup = {.program_name = name,
                                      .body = body->root,
                                      .items = body->items,
                                      .is_batch = body->is_batch,
                                      .stops_on_error = body->stops_on_error,
                                      .max_parallel = body->max_parallel,
                                      .seed = body->has_seed ? body->seed : draw_seed(),
                                      .keeps_events = body->is_stream || body->is_background,
                                      .has_text = body->has_text,
                                      .has_trace = body->has_trace,
                                      .is_background = body->is_background,
                                      .release = release,
                                      .release_context = hold};
        setup.run =
            (struct dsl_run_setup){.program = program,
                                   .model = model_of(hold),
                                   .sampling = body->sampling,
                                   .limits = body->limits,
                                   .wants_deltas = setup.keeps_events && !body->streams_none,
                                   .streamed = hold->streamed,
                                   .n_streamed = body->n_streamed,
                                   .adapter = api_adapter_name(exchange_model(x), body->model)};
        set_owner(x, body, &setup.run);
        const enum dsl_start how = dsl_service_start(programs_of(x)->service, &setup, &job);
        if (how == DSL_START_OK)
            return job;
        refuse_start(&error, how);
        release(hold, 0);
    }
    program_error_of_server(e, &error);
    return NULL;
}
