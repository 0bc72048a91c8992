/* serverd-bench scheduler: what the engine itself costs, in real time: a step around the device,
 * and finding a prefix in the tree. */
#include "base/error.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "kvcache/radix_tree.h"
#include "tools/bench/commands.h"
#include "tools/bench/report.h"
#include "tools/bench/virtual_engine.h"

#include <stdlib.h>
#include <string.h>

#define PAGE          SERVERD_PAGE_TOKENS
#define N_VOCAB       256u
#define CONTEXT       4096u
#define PROMPT_TOKENS 64u
#define WARM_UP_STEPS 64u
#define MAX_PATH      6 /* nodes of a prompt in the tree */

struct scheduler_options {
    struct command_list running, waiting;
    uint32_t steps, nodes, tokens, looks, seed;
    const char *jsonl;
};

static void fill(int32_t *tokens, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(3 + hash_mix(seed + i) % (N_VOCAB - 3));
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void ignore(void *context, const struct event *events, uint32_t n)
{
    (void)context;
    for (uint32_t i = 0; i < n; i++)
        free(events[i].message);
}

static serverd_status submit(struct engine *engine, uint64_t seed, uint32_t n_output,
                             serverd_error *err)
{
    struct request *request = request_create();
    int32_t *prompt = request ? arena_array(request->arena, PROMPT_TOKENS, sizeof *prompt) : NULL;
    uint64_t id;
    serverd_status status = SERVERD_OK;
    if (!prompt) {
        status = fail(err, SERVERD_NOMEM, "no memory for a request");
    } else {
        fill(prompt, PROMPT_TOKENS, seed);
        request->prompt = prompt;
        request->n_prompt = PROMPT_TOKENS;
        request->max_new_tokens = n_output;
        request->sampling.temperature = 0;
        status = engine_submit(engine, request, &id, err);
    }
    if (status != SERVERD_OK)
        request_destroy(request);
    return status;
}

/* Microseconds of a step around the device. */
static bool step_us(struct virtual_engine *e, double *us)
{
    uint64_t device_ns = e->machine.real_ns, begin_ns = clock_now_ns(&system_clock);
    bool has_done = engine_step(e->engine);
    uint64_t all_ns = clock_now_ns(&system_clock) - begin_ns;
    *us = (double)(all_ns - (e->machine.real_ns - device_ns)) * 1e-3;
    return has_done;
}

static serverd_status time_steps(struct virtual_engine *e, uint32_t n_running, uint32_t n_waiting,
                                 uint32_t n_steps, struct samples *out, serverd_error *err)
{
    double us;
    for (uint32_t i = 0; i < n_running + n_waiting; i++)
        if (submit(e->engine, hash_mix(i), CONTEXT - PROMPT_TOKENS, err))
            return err->code;
    struct engine_status status;
    uint32_t most =
        n_running * PROMPT_TOKENS + WARM_UP_STEPS; /* more prompts than rows in a step */
    for (uint32_t i = 0; i < most; i++) {
        (void)step_us(e, &us); /* until all of them decode */
        engine_status(e->engine, &status);
        if (status.n_running == n_running && i >= WARM_UP_STEPS)
            break;
    }
    for (uint32_t i = 0; i < n_steps; i++) {
        if (!step_us(e, &us))
            break;
        samples_add(out, us);
    }
    engine_status(e->engine, &status);
    if (status.n_running != n_running || status.n_waiting != n_waiting || out->n != n_steps)
        return fail(err, SERVERD_INTERNAL, "%u requests run and %u wait; meant were %u and %u",
                    status.n_running, status.n_waiting, n_running, n_waiting);
    return SERVERD_OK;
}

/* The same, but in each step one ends, one is admitted and computes its prompt, and one comes. */
static serverd_status time_turnover(struct virtual_engine *e, uint32_t n_running,
                                    uint32_t n_waiting, uint32_t n_steps, struct samples *out,
                                    serverd_error *err)
{
    struct engine_status status;
    uint32_t n_submitted = 0;
    for (; n_submitted < n_running + n_waiting; n_submitted++) {
        uint32_t n_output = n_submitted < n_running ? n_submitted + 1 : n_running;
        if (submit(e->engine, hash_mix(n_submitted), n_output, err))
            return err->code;
    }
    for (uint32_t i = 0; i < WARM_UP_STEPS + n_steps; i++) {
        double us;
        if (!step_us(e, &us))
            return fail(err, SERVERD_INTERNAL, "step %u: there is nothing to do", i);
        if (i >= WARM_UP_STEPS)
            samples_add(out, us);
        if (submit(e->engine, hash_mix(n_submitted++), n_running, err))
            return err->code;
    }
    engine_status(e->engine, &status);
    if (status.n_waiting < n_waiting || status.n_waiting > n_waiting + 2)
        return fail(err, SERVERD_INTERNAL, "%u requests wait; meant were %u", status.n_waiting,
                    n_waiting);
    return SERVERD_OK;
}

/* Two kinds of steps that are measured. */
struct step_kind {
    const char *name;
    serverd_status (*time)(struct virtual_engine *engine, uint32_t n_running, uint32_t n_waiting,
                           uint32_t n_steps, struct samples *out, serverd_error *err);
};
static const struct step_kind step_kinds[] = {{"step", time_steps},
                                              {"step with turnover", time_turnover}};

static serverd_status measure_steps(const struct scheduler_options *o, const struct step_kind *kind,
                                    uint32_t n_running, uint32_t n_waiting, struct samples *out,
                                    serverd_error *err)
{
    struct virtual_engine *engine;
    const struct virtual_engine_options options = {
        .price = {.step_ms = 1},
        .n_vocab = N_VOCAB,
        .context_size = CONTEXT,
        .n_pages = (n_running + 1) * (CONTEXT / PAGE),
        .max_running = n_running,
        .prefill_chunk = 8192,
        .max_queue = 1000000,
        .max_queue_tokens = UINT32_MAX,
        .has_prefix_cache = true,
        .wait_bound = 2,
        .sink = {ignore, NULL},
    };
    serverd_status status = virtual_engine_create(&options, &engine, err);
    if (status != SERVERD_OK)
        return status;
    status = kind->time(engine, n_running, n_waiting, o->steps, out, err);
    virtual_engine_destroy(engine);
    return status;
}

/* ---- the tree -------------------------------------------------------------------------------- */

struct forest {
    struct page_pool *pool;
    struct radix_tree *tree;
    int32_t *tokens; /* of one prompt */
    struct page_id *pages;
    uint32_t n_pages, n_prompts;
    uint32_t fan; /* children of a node */
};

/* Prompt number i: its pages are cut into MAX_PATH parts, and prompts whose numbers agree in their
 * high digits to the base of `fan` agree in as many parts. */
static void make_prompt(const struct forest *f, uint32_t i)
{
    uint64_t prefix = 1;
    uint32_t divisor = 1;
    for (uint32_t part = 1; part < MAX_PATH; part++)
        divisor *= f->fan;
    for (uint32_t part = 0, page = 0; part < MAX_PATH; part++) {
        uint32_t end = f->n_pages * (part + 1) / MAX_PATH;
        prefix = hash_mix(prefix + i / divisor % f->fan);
        for (; page < end; page++)
            fill(f->tokens + (size_t)page * PAGE, PAGE, prefix + (uint64_t)page * PAGE);
        divisor /= f->fan > 1 ? f->fan : 1;
    }
}

static serverd_status plant(struct forest *f, const struct scheduler_options *o, serverd_error *err)
{
    while (radix_tree_n_nodes(f->tree) < o->nodes) {
        struct radix_hold hold = {0};
        make_prompt(f, f->n_prompts++);
        uint32_t n = f->n_pages * PAGE;
        uint32_t n_found = radix_tree_find(f->tree, 0, f->tokens, n).n_pages;
        uint32_t n_new = f->n_pages - n_found;
        if (page_pool_take(f->pool, n_new, f->pages + n_found, err) ||
            radix_tree_hold(f->tree, 0, f->tokens, n_found, f->pages, &hold, err))
            return err->code;
        if (radix_tree_publish(f->tree, &hold, f->tokens + (size_t)n_found * PAGE,
                               f->pages + n_found, n_new, RADIX_PROMPT, err))
            return err->code;
        radix_tree_release(f->tree, &hold);
    }
    return SERVERD_OK;
}

static serverd_status look(struct forest *f, const struct scheduler_options *o, struct samples *out,
                           serverd_error *err)
{
    for (uint32_t i = 0; i < o->looks; i++) {
        struct radix_hold hold = {0};
        make_prompt(f, (uint32_t)(hash_mix(o->seed + i) % f->n_prompts));
        uint64_t begin_ns = clock_now_ns(&system_clock);
        struct radix_match match = radix_tree_find(f->tree, 0, f->tokens, f->n_pages * PAGE);
        if (radix_tree_hold(f->tree, 0, f->tokens, match.n_pages, f->pages, &hold, err))
            return err->code;
        samples_add(out, (double)(clock_now_ns(&system_clock) - begin_ns) * 1e-3);
        radix_tree_release(f->tree, &hold);
        if (match.n_pages != f->n_pages)
            return fail(err, SERVERD_INTERNAL, "%u pages were found, %u are there", match.n_pages,
                        f->n_pages);
    }
    return SERVERD_OK;
}

static serverd_status measure_tree(const struct scheduler_options *o, struct samples *out,
                                   uint32_t *n_nodes, serverd_error *err)
{
    struct forest f = {.n_pages = o->tokens / PAGE, .fan = 2};
    /* so many children that a tree of this depth has more nodes than are asked for */
    for (double n = 0; n < o->nodes; f.fan++) {
        n = 0;
        for (uint32_t part = 0; part < MAX_PATH; part++)
            n = n * f.fan + f.fan;
    }
    f.pool = page_pool_create((uint32_t)min_size((size_t)(o->nodes + 1) * f.n_pages, 1u << 26), 0);
    f.tree = f.pool ? radix_tree_create(f.pool, 0) : NULL;
    f.tokens = calloc((size_t)f.n_pages * PAGE, sizeof *f.tokens);
    f.pages = calloc(f.n_pages, sizeof *f.pages);
    serverd_status status = SERVERD_OK;
    if (!f.tree || !f.tokens || !f.pages)
        status = fail(err, SERVERD_NOMEM, "no memory for a tree of %u nodes", o->nodes);
    if (status == SERVERD_OK)
        status = plant(&f, o, err);
    if (status == SERVERD_OK)
        status = look(&f, o, out, err);
    if (f.tree)
        *n_nodes = radix_tree_n_nodes(f.tree);
    radix_tree_destroy(f.tree);
    page_pool_destroy(f.pool);
    free(f.tokens);
    free(f.pages);
    return status;
}

/* ---- report ---------------------------------------------------------------------------------- */

struct report {
    struct table table;
    struct json_lines lines;
};

static serverd_status add(struct report *report, const char *name, struct samples *samples,
                          serverd_error *err)
{
    double mean = samples_mean(samples), p50 = samples_percentile(samples, 0.5),
           p99 = samples_percentile(samples, 0.99), max = samples_max(samples);
    table_cell(&report->table, "%s", name);
    table_cell(&report->table, "%.2f", mean);
    table_cell(&report->table, "%.2f", p50);
    table_cell(&report->table, "%.2f", p99);
    table_cell(&report->table, "%.2f", max);
    table_cell(&report->table, "%zu", samples->n);
    return json_lines_add(&report->lines,
                          json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:I}", "kind", "scheduler",
                                    "version", PROJECT_VERSION, "name", name, "mean_us", mean,
                                    "p50_us", p50, "p99_us", p99, "max_us", max, "n",
                                    (json_int_t)samples->n),
                          err);
}

static serverd_status add_steps(const struct scheduler_options *o, struct report *report,
                                const struct step_kind *kind, uint32_t n_running,
                                uint32_t n_waiting, serverd_error *err)
{
    struct samples us = {0};
    char name[CELL_BYTES];
    (void)snprintf(name, sizeof name, "%s, %u running, %u waiting", kind->name, n_running,
                   n_waiting);
    progress_show("%s", name);
    serverd_status status = measure_steps(o, kind, n_running, n_waiting, &us, err);
    if (status == SERVERD_OK)
        status = add(report, name, &us, err);
    samples_deinit(&us);
    return status;
}

static serverd_status add_tree(const struct scheduler_options *o, struct report *report,
                               serverd_error *err)
{
    struct samples us = {0};
    char name[CELL_BYTES];
    uint32_t n_nodes = 0;
    serverd_status status = measure_tree(o, &us, &n_nodes, err);
    (void)snprintf(name, sizeof name, "find and hold %u tokens, %u nodes", o->tokens / PAGE * PAGE,
                   n_nodes);
    if (status == SERVERD_OK)
        status = add(report, name, &us, err);
    samples_deinit(&us);
    return status;
}

static serverd_status bench_scheduler_run(const void *values, serverd_error *err)
{
    static const char *const headers[] = {"<us of real time", "mean", "p50", "p99", "max", "n"};
    const struct scheduler_options *o = values;
    struct report report;
    if (json_lines_open(&report.lines, o->jsonl, err))
        return err->code;
    serverd_status status = table_init(&report.table, 6, headers, err);
    if (status == SERVERD_OK)
        status = add_tree(o, &report, err);
    for (size_t k = 0; k < sizeof step_kinds / sizeof *step_kinds; k++)
        for (uint32_t i = 0; i < o->running.n; i++)
            for (uint32_t j = 0; j < o->waiting.n && status == SERVERD_OK; j++)
                status = add_steps(o, &report, &step_kinds[k], o->running.value[i],
                                   o->waiting.value[j], err);
    progress_clear();
    if (status == SERVERD_OK)
        table_print(&report.table, stdout);
    table_deinit(&report.table);
    json_lines_close(&report.lines);
    return status;
}

#define AT(field) offsetof(struct scheduler_options, field)

static const struct command_option rows[] = {
    {"running", 'r', COMMAND_LIST, AT(running), "N,...", "16,64,256", 1, 1024,
     "Sequences that decode in each step"},
    {"waiting", 'w', COMMAND_LIST, AT(waiting), "N,...", "0,1000", 0, 100000,
     "Requests that wait meanwhile"},
    {"steps", 0, COMMAND_COUNT, AT(steps), "N", "1000", 1, 3000, "Steps that are measured"},
    {"nodes", 0, COMMAND_COUNT, AT(nodes), "N", "10000", 10, 1000000, "Nodes of the prefix tree"},
    {"tokens", 0, COMMAND_COUNT, AT(tokens), "N", "1000", 96, 65536, "Tokens of a prompt in it"},
    {"looks", 0, COMMAND_COUNT, AT(looks), "N", "10000", 1, 10000000, "Prompts that are looked up"},
    {"seed", 0, COMMAND_COUNT, AT(seed), "N", "1", 0, 4294967295.0, "Chooses them"},
    {"jsonl", 'o', COMMAND_STRING, AT(jsonl), "FILE", NULL, 0, 0, "Append JSON lines to this file"},
};

const struct command bench_scheduler = {
    .name = "scheduler",
    .summary = "What the engine and its prefix tree cost themselves, without a model",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
    .run = bench_scheduler_run,
    .values_bytes = sizeof(struct scheduler_options),
};
