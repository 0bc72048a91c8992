/* An engine on the null or the fault delegate with a virtual clock, and requests whose whole
 * answer is known beforehand: the null model's logits are a function of the history, and the
 * oracle draws from them one sequence at a time. */
#ifndef TESTS_ENGINE_FIXTURE_H
#define TESTS_ENGINE_FIXTURE_H

#include "scheduler/engine.h"
#include "serverd/delegate.h"
#include "text/reasoning.h"

enum {
    N_VOCAB = 120,
    TOKEN_EOS = 2,
    TOKEN_LINE = N_VOCAB - 1,
    CONTEXT = 256,
    MAX_PROMPT = 160,
    MAX_CHOICES = 4,
    MAX_ROWS = 64,
    MAX_LOGIT_ROWS = 20,
};

/* Pages for the memory of n pages of 16 tokens. */
#define PAGES(n) (((n)*16u + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS)

/* Of n tokens those in whole pages. */
#define WHOLE(n) ((n) / SERVERD_PAGE_TOKENS * SERVERD_PAGE_TOKENS)

struct world_options {
    const char *device; /* NULL: null */
    uint32_t n_pages;   /* 0: enough for all */
    uint32_t window;    /* tokens that a layer sees, which lies in window pages; 0: there is none */
    uint32_t n_windows; /* window pages; 0: half as many as pages */
    uint32_t max_running, prefill_chunk, max_queue, max_queue_tokens;
    uint64_t queue_timeout_ns, itl_target_ns;
    uint32_t max_draft;                      /* guessed tokens of a sequence per step */
    const char *draft_device;                /* NULL: no draft model */
    uint32_t n_draft_pages, n_draft_context; /* 0: enough for all */
    uint32_t repeat; /* percent of the tokens that repeat the text; `device` has to say it, too */
    bool is_encoder, has_thread, has_real_clock, has_no_prefix_cache;
    const char *disk_folder; /* NULL: no disk tier */
    double max_pinned_fraction;
    uint32_t dedup_min_tokens;
};

struct world {
    struct program *program;
    struct worker_pool *workers;
    struct runtime *runtime, *draft_runtime;
    struct tokenizer *tokenizer;
    struct metrics *metrics;
    struct disk_tier *disk;
    struct engine *engine;
    struct clock clock;
    uint64_t now_ns;
    uint64_t tick_ns; /* each look at the clock takes so long, so each step does */
    uint32_t n_deliveries;
    /* Of inspections, which have no plan: how many ended, how many were made, the last one. */
    _Atomic uint32_t n_inspection_ends;
    uint32_t n_inspected;
    serverd_status inspection_status;
    bool inspection_is_cancelled;
    struct inspection *inspection; /* the world's; NULL: it was not made */
    uint32_t repeat;               /* as the null delegate's option */
};

/* Prints and exits if anything cannot be made. */
struct world *world_create(const struct world_options *options);
void world_destroy(struct world *world);

/* A request as the test plans it, and what came back. */
struct plan {
    int32_t prompt[MAX_PROMPT];
    uint32_t n_prompt, n_choices, max_new_tokens;
    struct sampling_params sampling;
    const char *stop;   /* NULL: none */
    int32_t stop_token; /* -1: none */
    bool includes_stop, wants_logprobs, logprobs_are_processed, wants_prompt_logprobs,
        wants_embedding;
    uint32_t n_top_logprobs;
    int32_t priority;
    uint64_t deadline_ns, decode_ns, tenant, hold_ns;
    bool wants_progress;
    uint32_t weight, score_from;
    int32_t next_tokens[4]; /* whose log probabilities behind the prompt are wanted */
    uint32_t n_next_tokens;
    uint32_t hold_rank;
    uint64_t behind;
    enum request_owner owner;
    const struct reasoning_marks *reasoning; /* one of plan_marks, or NULL */
    bool is_reasoning_open;
    uint32_t reasoning_budget;

    uint64_t id;
    struct choice_result {
        int32_t token[CONTEXT];
        bool is_hidden[CONTEXT];
        uint32_t n;
        uint64_t release;
        bool is_finished;
        enum finish_reason finish;
        int32_t finish_token, stop_index;
    } result[MAX_CHOICES];
    uint32_t progress, n_progress; /* the last one's tokens */
    uint32_t n_scored, n_next_scored, n_embeddings, n_logprobs, embedding_token;
    _Atomic uint32_t n_ends;
    serverd_status status;
    bool is_cancelled;
    uint32_t n_output, n_cached;
    uint64_t cache_space;
    uint64_t prefix_handle;
    uint32_t n_held;
    uint64_t first_step;
    struct request_times times;
};

/* Blocks of reasoning begin with "ad" and end with "gg", one token, or "bbcc", two. */
extern const struct reasoning_marks plan_marks[2];

struct plan *plan_create(void); /* one choice, greedy, 10 tokens, prompt of 5 */
void plan_fill_prompt(struct plan *plan, uint32_t n_prompt, uint64_t seed);
/* Its first n tokens are those of the prompt with that seed. */
void plan_begin_alike(struct plan *plan, uint32_t n, uint64_t seed);
struct request *plan_request(struct world *world, struct plan *plan);
serverd_status plan_submit(struct world *world, struct plan *plan, serverd_error *err);

/* What must come of the choice. */
void oracle(const struct world *world, const struct plan *plan, uint32_t choice,
            struct choice_result *out);

/* The answer is whole and right; or, if the request was cut short, right as far as it goes. */
void plan_check_whole(const struct world *world, const struct plan *plan);
void plan_check_prefix(const struct world *world, const struct plan *plan);

/* A folder for a disk tier; removed with all that it holds. */
void folder_create(char path[64]);
void folder_remove(const char *path);

/* Fails the test if the request is refused. */
void plan_must_submit(struct world *world, struct plan *plan);
/* Its answer is whole and right; frees it. */
void plan_finish(struct world *world, struct plan *plan);
/* One choice of n_new tokens, whatever they are. */
struct plan *plan_of(uint32_t n_prompt, uint32_t n_new, uint64_t seed);

void world_step(struct world *world, uint32_t n);
uint32_t world_n_steps(const struct world *world);
/* The number behind the series' name and labels (with the space) in the metrics; 0: not there. */
double world_counter(const struct world *world, const char *series);

/* Steps, with checks, until the engine has nothing to do, nor waits for the disk. */
void world_run(struct world *world);
void world_check_empty(struct world *world); /* all pages are back */

#endif
