#include "fake_run.h"

#include "frontend_dsl/dsl_json.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ALIVE = 4096, MAX_CALLS = 8 };

struct dsl_run {
    struct dsl_run_setup setup;
    struct dsl_program *program;
    json_t *args;
    size_t at;
    bool has_begun;
    enum dsl_run_status status;
    struct dsl_error error;

    pthread_mutex_t lock; /* the mailbox */
    bool is_woken, blocks;
    char calls[MAX_CALLS][32];
    unsigned n_calls;
    const char *stop;
};

/* A test is one process: this is its own. */
static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct dsl_run *all[MAX_ALIVE];
static unsigned n_alive;
static _Atomic unsigned n_advanced;

const char *const dsl_op_names[DSL_N_OPS] = {"gen", "select", "score", "fork"};

unsigned fake_run_n_alive(void)
{
    (void)pthread_mutex_lock(&all_lock);
    const unsigned n = n_alive;
    (void)pthread_mutex_unlock(&all_lock);
    return n;
}

unsigned fake_run_n_advanced(void)
{
    return atomic_load(&n_advanced);
}

void fake_run_wake_all(void)
{
    (void)pthread_mutex_lock(&all_lock);
    for (unsigned i = 0; i < n_alive; i++) {
        (void)pthread_mutex_lock(&all[i]->lock);
        all[i]->is_woken = true;
        all[i]->setup.host.wake(all[i]->setup.host.context);
        (void)pthread_mutex_unlock(&all[i]->lock);
    }
    (void)pthread_mutex_unlock(&all_lock);
}

struct dsl_program *fake_program_create(void)
{
    struct dsl_program *program = calloc(1, sizeof *program);
    atomic_init(&program->n_references, 1);
    return program;
}

struct dsl_program *dsl_program_ref(struct dsl_program *program)
{
    (void)atomic_fetch_add(&program->n_references, 1);
    return program;
}

void dsl_program_unref(struct dsl_program *program)
{
    if (program && atomic_fetch_sub(&program->n_references, 1) == 1)
        free(program);
}

char *dsl_json_text(const json_t *value, size_t *n)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    if (text && n)
        *n = strlen(text);
    return text;
}

uint64_t dsl_seed(uint64_t seed, const char *label, uint64_t number)
{
    return (seed * 1000 + strlen(label) + number) << 11;
}

static const char *step_of(const struct dsl_run *run)
{
    return json_string_value(json_array_get(json_object_get(run->args, "do"), run->at));
}

serverd_status dsl_run_create(const struct dsl_run_setup *setup, struct dsl_run **out,
                              struct dsl_error *error)
{
    struct dsl_run *run = calloc(1, sizeof *run);
    run->setup = *setup;
    run->args = json_incref((json_t *)setup->args);
    run->program = dsl_program_ref(setup->program);
    (void)pthread_mutex_init(&run->lock, NULL);
    if (step_of(run) && strcmp(step_of(run), "refuse") == 0) {
        dsl_error_set(error, "invalid_arguments", "refused");
        json_decref(run->args);
        dsl_program_unref(run->program);
        free(run);
        return SERVERD_INVALID;
    }
    (void)pthread_mutex_lock(&all_lock);
    all[n_alive++] = run;
    (void)pthread_mutex_unlock(&all_lock);
    *out = run;
    return SERVERD_OK;
}

void dsl_run_destroy(struct dsl_run *run)
{
    if (!run)
        return;
    (void)pthread_mutex_lock(&all_lock);
    unsigned i = 0;
    while (all[i] != run)
        i++;
    all[i] = all[--n_alive];
    (void)pthread_mutex_unlock(&all_lock);
    dsl_error_deinit(&run->error);
    dsl_program_unref(run->program);
    json_decref(run->args);
    free(run);
}

static enum dsl_progress fail_with(struct dsl_run *run, const char *code)
{
    dsl_error_set(&run->error, code, "it failed");
    run->status = strcmp(code, "cancelled") == 0 ? DSL_STATUS_CANCELLED : DSL_STATUS_FAILED;
    return DSL_RUN_ENDED;
}

static void wait_for_calls(struct dsl_run *run, const char *ids)
{
    for (const char *at = ids; at; at = strchr(at, ',')) {
        at += *at == ',';
        (void)snprintf(run->calls[run->n_calls++], 32, "%.*s", (int)strcspn(at, ","), at);
    }
}

/* Under the lock. True: the step is done. */
static bool take_step(struct dsl_run *run, const char *step, enum dsl_progress *progress)
{
    if (strncmp(step, "emit ", 5) == 0) {
        run->setup.host.emit(run->setup.host.context, step + 5,
                             json_pack("{s:s, s:i}", "branch", "0", "at", (int)run->at));
        return true;
    }
    if (strcmp(step, "again") == 0) {
        run->at++;
        *progress = DSL_RUN_AGAIN;
        return false;
    }
    if (strcmp(step, "compute") == 0) { /* for ever */
        *progress = DSL_RUN_AGAIN;
        return false;
    }
    if (strcmp(step, "block") == 0) {
        const bool is_over = run->blocks && run->is_woken;
        run->blocks = !is_over;
        run->is_woken = false;
        *progress = DSL_RUN_BLOCKED;
        return is_over;
    }
    if (strncmp(step, "tool ", 5) == 0) {
        if (!run->blocks)
            wait_for_calls(run, step + 5);
        run->blocks = run->n_calls > 0;
        run->status = run->blocks ? DSL_STATUS_REQUIRES_ACTION : DSL_STATUS_RUNNING;
        *progress = DSL_RUN_NEEDS_TOOLS;
        return !run->blocks;
    }
    *progress = fail_with(run, step + 5);
    return false;
}

enum dsl_progress dsl_run_advance(struct dsl_run *run, uint64_t slice_ns)
{
    enum dsl_progress progress = DSL_RUN_ENDED;
    const char *step;
    (void)slice_ns;
    if (!run->has_begun)
        (void)atomic_fetch_add(&n_advanced, 1);
    run->has_begun = true;
    (void)pthread_mutex_lock(&run->lock);
    if (run->stop) {
        progress = fail_with(run, run->stop);
        (void)pthread_mutex_unlock(&run->lock);
        return progress;
    }
    run->status = DSL_STATUS_RUNNING;
    while ((step = step_of(run)) != NULL && take_step(run, step, &progress))
        run->at++;
    if (!step) {
        run->status = DSL_STATUS_COMPLETED;
        progress = DSL_RUN_ENDED;
    }
    (void)pthread_mutex_unlock(&run->lock);
    return progress;
}

uint64_t dsl_run_timer_ns(const struct dsl_run *run)
{
    (void)run;
    return UINT64_MAX;
}

bool dsl_run_post_tool_result(struct dsl_run *run, const char *call_id, const json_t *output,
                              const char *error)
{
    bool is_taken = false;
    (void)output, (void)error;
    (void)pthread_mutex_lock(&run->lock);
    for (unsigned i = 0; i < run->n_calls && !is_taken; i++) {
        if (strcmp(run->calls[i], call_id) != 0)
            continue;
        memcpy(run->calls[i], run->calls[--run->n_calls], 32);
        is_taken = true;
    }
    if (is_taken)
        run->setup.host.wake(run->setup.host.context);
    (void)pthread_mutex_unlock(&run->lock);
    return is_taken;
}

void dsl_run_stop(struct dsl_run *run, const char *code)
{
    (void)pthread_mutex_lock(&run->lock);
    run->stop = run->stop ? run->stop : code;
    run->setup.host.wake(run->setup.host.context);
    (void)pthread_mutex_unlock(&run->lock);
}

struct dsl_usage dsl_run_usage(const struct dsl_run *run)
{
    (void)run;
    return (struct dsl_usage){.prompt_tokens = 3, .completion_tokens = 4};
}

struct dsl_counters dsl_run_counters(const struct dsl_run *run)
{
    (void)run;
    return (struct dsl_counters){.n_branches_active = 1};
}

uint32_t dsl_run_take_gaps(struct dsl_run *run, uint64_t *gap_ns, uint32_t n)
{
    (void)run, (void)gap_ns, (void)n;
    return 0;
}

const struct dsl_error *dsl_run_error(const struct dsl_run *run)
{
    return *run->error.code ? &run->error : NULL;
}

json_t *dsl_run_object(const struct dsl_run *run, bool with_text, bool with_trace)
{
    static const char *const names[] = {"queued",    "running", "requires_action",
                                        "completed", "failed",  "cancelled"};
    json_t *calls = NULL, *error = NULL;
    pthread_mutex_t *lock = &((struct dsl_run *)run)->lock;
    (void)with_text, (void)with_trace;
    (void)pthread_mutex_lock(lock);
    for (unsigned i = 0; i < run->n_calls; i++) {
        calls = calls ? calls : json_array();
        (void)json_array_append_new(calls, json_pack("{s:s}", "id", run->calls[i]));
    }
    (void)pthread_mutex_unlock(lock);
    if (*run->error.code)
        error = json_pack("{s:s, s:s}", "code", run->error.code, "message", run->error.message);
    return json_pack("{s:s, s:I, s:O?, s:o?, s:o?, s:{s:i, s:i}}", "status", names[run->status],
                     "seed", (json_int_t)run->setup.seed, "value",
                     json_object_get(run->args, "value"), "required_action",
                     calls ? json_pack("{s:o}", "tool_calls", calls) : NULL, "error", error,
                     "usage", "prompt_tokens", 3, "completion_tokens", 4);
}
