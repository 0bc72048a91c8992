/* Generation programs against a real engine with a tiny model: everything on the caller's thread,
 * a step of the engine whenever the run is blocked. */
#ifndef TESTS_FRONTEND_DSL_RUN_FIXTURE_H
#define TESTS_FRONTEND_DSL_RUN_FIXTURE_H

#include "frontend_dsl/run.h"
#include "text/output_formats.h"

struct named_program {
    const char *name, *source;
};

struct dsl_world_options {
    const char *arch;          /* NULL: llama */
    const char *chat_template; /* NULL: ChatML; "": none */
    uint32_t n_pages;          /* 0: enough */
    uint32_t context;          /* 0: 1024 */
    uint32_t max_queue;        /* 0: enough */
    bool has_no_prefix_cache;
};

struct dsl_world {
    struct program *program;
    struct worker_pool *pool;
    struct tokenizer *tokenizer;
    struct runtime *runtime;
    struct engine *engine;
    struct token_trie *trie;
    struct chat_template *chat_template;
    struct output_formats output;
    struct score_memo *memo;
    struct dsl_model model;
    struct clock clock;
    uint64_t now_ns;
    const struct named_program *programs; /* for call(); ends with a name NULL */
    _Atomic size_t lua_bytes;
    json_t *events; /* [{event, ..data}] of all runs since the last clear */
};

struct dsl_world *dsl_world_create(const struct dsl_world_options *options);
void dsl_world_destroy(struct dsl_world *world);

/* What a test may change of a run. */
struct run_options {
    const char *args; /* JSON; NULL: {} */
    const char *sampling;
    uint64_t seed;
    struct dsl_limits limits;
    bool wants_deltas;
    uint32_t rank;
    uint64_t cache_space;
    size_t memory_bytes; /* of Lua; 0: limits.memory_mb */
};
struct run_options run_options_default(void);

struct dsl_program *must_read(const char *name, const char *source);
/* NULL: there was no room for it in options->memory_bytes. */
struct dsl_run *run_create(struct dsl_world *world, const char *source,
                           const struct run_options *options);

/* Until it ends, or needs tools. Steps the engine when the run is blocked. */
enum dsl_progress run_advance(struct dsl_world *world, struct dsl_run *run);

/* Runs it to its end and checks that the engine keeps nothing; the run's object with text and
 * trace. The body is that of main. */
json_t *run_source(struct dsl_world *world, const char *source, const struct run_options *options);
json_t *run_body(struct dsl_world *world, const char *body);
json_t *run_body_as(struct dsl_world *world, const char *body, const struct run_options *options);

/* Its value, which must be there. The caller's. */
json_t *value_of_body(struct dsl_world *world, const char *body);
/* The code it fails with. */
void must_fail(struct dsl_world *world, const char *body, const char *code);
/* Compares with JSON text; prints both. */
void must_equal(json_t *value, const char *expected); /* takes the reference */

/* A row of the object's trace. */
int trace_count(const json_t *object);
long trace_field(const json_t *object, int row, const char *field);
const char *trace_text(const json_t *object, int row, const char *field);
/* K3 holds for every row: prompt = reused + prefill; and from a branch's second operation on
 * prefill = appended + carry. */
void check_counts(const json_t *object);

#endif
