/* serverd-compile MODEL -o FILE */
#include "tools/compile/commands.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "compiler/adapter_import.h"
#include "compiler/compile_file.h"
#include "kernels/builtin.h"
#include "program/adapter_file.h"
#include "program/sdp_file.h"
#include "program/sdp_program.h"
#include "runtime/delegate_file.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct values {
    const char *model, *out, *base;
    const char *quantise, *calibration, *report, *target_size;
    double target_bits;
    const char *dump_after, *without, *device, *delegate, *shard;
    uint32_t max_rows, max_logit_rows, max_seqs, max_context, threads;
    bool self_test, verify, quiet;
};

#define AT(field) offsetof(struct values, field)

static const struct command_option rows[] = {
    {"model", 0, COMMAND_STRING, AT(model), "MODEL", NULL, 0, 0,
     "What to compile: a GGUF file, or the first file of a split one; or a Hugging Face folder, or "
     "a zip of one"},
    {"output", 'o', COMMAND_STRING, AT(out), "FILE", NULL, 0, 0, "The program file to write"},
    {"quantize", 0, COMMAND_STRING, AT(quantise), "POLICY", "keep", 0, 0,
     "What weights become: keep; FORMAT[:gGROUP][:METHOD+METHOD], such as i4a:g64:awq+gptq+scale; "
     "int8, int4, int4-best, fp8, mxfp4, nf4; or a .yaml file of rules"},
    {"calibrate", 0, COMMAND_STRING, AT(calibration), "FILE", NULL, 0, 0,
     "Text that quantising looks at: JSON lines with text, messages or prompt_token_ids; or self, "
     "text that the model makes itself"},
    {"target-bits", 0, COMMAND_FLOAT, AT(target_bits), "BITS", "0", 0, 32,
     "Bits for each weight that are met by choosing formats tensor by tensor; 0: as the policy "
     "says"},
    {"target-size", 0, COMMAND_STRING, AT(target_size), "SIZE", NULL, 0, 0,
     "The same as bytes of all weights: 300M"},
    {"report", 0, COMMAND_STRING, AT(report), "FILE", NULL, 0, 0,
     "Write a page about what quantising did, as HTML"},
    {"base", 0, COMMAND_STRING, AT(base), "FILE", NULL, 0, 0,
     "The model that an adapter is for, in any form and quantisation; MODEL is the adapter then"},
    {"device", 0, COMMAND_STRING, AT(device), "NAMES", "cpu", 0, 0,
     "Back-ends whose forms of the weights go in, cpu first, such as cpu,cuda: one file for "
     "machines of both kinds; none of them need have a device here"},
    {"delegate", 0, COMMAND_STRING, AT(delegate), "FILES", NULL, 0, 0,
     "Shared objects with further back-ends, comma separated"},
    {"shard", 0, COMMAND_STRING, AT(shard), "R/N", NULL, 0, 0,
     "Write rank R's part, 0 to N-1, of a model that N ranks share"},
    {"dump-after", 0, COMMAND_STRING, AT(dump_after), "PASS", NULL, 0, 0,
     "Print the graph as it is after this pass: fold, dedup, dce; without --output nothing else"},
    {"without", 0, COMMAND_STRING, AT(without), "PASS,...", NULL, 0, 0, "Leave these passes out"},
    {"max-rows", 0, COMMAND_COUNT, AT(max_rows), "N", "2048", 1, 65536,
     "Plan memory for steps of so many rows; a process with higher limits plans for itself"},
    {"max-logit-rows", 0, COMMAND_COUNT, AT(max_logit_rows), "N", "256", 1, 65536,
     "Of which so many have logits"},
    {"max-seqs", 0, COMMAND_COUNT, AT(max_seqs), "N", "256", 1, 4096,
     "And which are of so many sequences"},
    {"max-context", 0, COMMAND_COUNT, AT(max_context), "TOKENS", "0", 0, 16777216,
     "Of at most so many tokens; 0: what the model was trained for"},
    {"threads", 't', COMMAND_COUNT, AT(threads), "N", "0", 0, 1024,
     "Threads that work; 0: one for each processor that the process may use"},
    {"self-test", 0, COMMAND_FLAG, AT(self_test), NULL, "true", 0, 0,
     "Put into the file what the model answers to some texts (--no-self-test: do not)"},
    {"verify", 0, COMMAND_FLAG, AT(verify), NULL, "true", 0, 0,
     "Read the written file again, check every byte and what it answers (--no-verify: do not)"},
    {"quiet", 'q', COMMAND_FLAG, AT(quiet), NULL, NULL, 0, 0, "No progress bar"},
};

/* ---- progress ----------------------------------------------------------------------------------
 */

static void draw_bar(void *context, double share)
{
    (void)context;
    char bar[33];
    int n = (int)(share * 32);
    memset(bar, '.', 32);
    memset(bar, '#', (size_t)(n < 0 ? 0 : n > 32 ? 32 : n));
    bar[32] = '\0';
    (void)fprintf(stderr, "\r[%s] %3.0f %%", bar, share * 100);
}

/* ---- the command -------------------------------------------------------------------------------
 */

static void dump(void *context, const struct compile_pass *pass, const struct program *program)
{
    const struct values *values = context;
    struct buffer text;
    if (strcmp(pass->name, values->dump_after) != 0)
        return;
    buffer_init(&text, SIZE_MAX / 2);
    graph_print(&program->graph, &text);
    (void)fputs(buffer_str(&text), stdout); /* flushed and checked at exit, as far as it goes */
    buffer_deinit(&text);
}

static struct compile_options source_of(const struct values *values)
{
    return (struct compile_options){.path = values->model,
                                    .passes = {.off = values->without,
                                               .after = values->dump_after ? dump : NULL,
                                               .context = (void *)values}};
}

/* "0/2" */
static serverd_status read_shard(const char *or_null, struct shard *out, serverd_error *err)
{
    char rank[16];
    uint64_t r, n;
    const char *slash = or_null ? strchr(or_null, '/') : NULL;
    *out = (struct shard){0};
    if (!or_null)
        return SERVERD_OK;
    (void)snprintf(rank, sizeof rank, "%.*s", slash ? (int)(slash - or_null) : 0, or_null);
    if (!slash || !parse_u64(rank, 0, LIMIT_RANKS - 1, &r) ||
        !parse_u64(slash + 1, 1, LIMIT_RANKS, &n) || r >= n)
        return fail(err, SERVERD_INVALID, "--shard: %.32s is no R/N with R below N, at most %u",
                    or_null, LIMIT_RANKS);
    *out = (struct shard){(uint32_t)r, (uint32_t)n};
    return SERVERD_OK;
}

/* The back-ends that --device names, in that order. */
static serverd_status find_delegates(const struct delegate_list *list, const char *names,
                                     const serverd_delegate *out[LIMIT_DELEGATES], uint32_t *n,
                                     serverd_error *err)
{
    *n = 0;
    for (const char *at = names; *at; at += strcspn(at, ",") + (at[strcspn(at, ",")] == ',')) {
        const size_t length = strcspn(at, ",");
        uint32_t i = 0;
        while (i < list->n && (strlen(list->items[i]->name) != length ||
                               memcmp(list->items[i]->name, at, length) != 0))
            i++;
        if (i == list->n || *n == LIMIT_DELEGATES)
            return fail(err, SERVERD_INVALID, "--device: there is no back-end %.*s",
                        (int)min_size(length, 64), at);
        out[(*n)++] = list->items[i];
    }
    if (*n == 0 || out[0] != builtin_delegate("cpu")) /* whose plan and self-test go in */
        return fail(err, SERVERD_INVALID, "--device: cpu has to be the first, as in cpu,cuda");
    return SERVERD_OK;
}

/* The graph and nothing else. */
static serverd_status only_dump(const struct values *values, serverd_error *err)
{
    struct program *program;
    const struct compile_options source = source_of(values);
    serverd_status status = compile_model(&source, &program, err);
    if (status == SERVERD_OK)
        program_unref(program);
    return status;
}

static serverd_status check_dump(const struct values *values, serverd_error *err)
{
    for (uint32_t i = 0; values->dump_after && i < n_compile_passes; i++)
        if (strcmp(compile_passes[i].name, values->dump_after) == 0 &&
            !passes_list_has(values->without, values->dump_after))
            return SERVERD_OK;
    return values->dump_after ? fail(err, SERVERD_INVALID,
                                     "--dump-after: %.64s is no pass that runs; there are fold, "
                                     "dedup, dce",
                                     values->dump_after)
                              : SERVERD_OK;
}

static serverd_status compile(const struct values *values, const struct delegate_list *list,
                              struct worker_pool *pool, serverd_error *err)
{
    uint64_t target_bytes = 0;
    const serverd_delegate *delegates[LIMIT_DELEGATES];
    uint32_t n_delegates;
    struct compile_options source = source_of(values);
    if (read_shard(values->shard, &source.shard, err) != SERVERD_OK ||
        find_delegates(list, values->device, delegates, &n_delegates, err) != SERVERD_OK)
        return err->code;
    if (values->target_size && !parse_size(values->target_size, &target_bytes))
        return fail(err, SERVERD_INVALID, "--target-size: %.64s is no size", values->target_size);
    const char *quantise = strcmp(values->quantise, "keep") == 0 ? NULL : values->quantise;
    if (!quantise &&
        (values->calibration || values->report || values->target_bits > 0 || target_bytes > 0))
        return fail(err, SERVERD_INVALID,
                    "--calibrate, --report and --target-* need --quantize POLICY");
    bool has_bar = !values->quiet && isatty(STDERR_FILENO);
    const struct compile_file_options options = {
        .source = source,
        .out = values->out,
        .delegate = delegates[0],
        .others = delegates + 1,
        .n_others = n_delegates - 1,
        .pool = pool,
        .quantise = quantise,
        .calibration = values->calibration,
        .target_bits = values->target_bits,
        .target_bytes = target_bytes,
        .report = values->report,
        .limits = {.max_rows = values->max_rows,
                   .max_logit_rows = values->max_logit_rows,
                   .max_seqs = values->max_seqs,
                   .max_context = values->max_context},
        .wants_tests = values->self_test,
        .wants_verify = values->verify,
        .progress = has_bar ? draw_bar : NULL};
    serverd_status status = compile_file(&options, err);
    if (has_bar)
        (void)fputs("\r\033[K", stderr);
    return status;
}

static void warn(void *context, int level, const char *text)
{
    (void)context, (void)level;
    (void)fprintf(stderr, "%s\n", text);
}

static serverd_status compile_with_delegates(const struct values *values, struct worker_pool *pool,
                                             serverd_error *err)
{
    struct delegate_list list;
    serverd_status status =
        delegate_list_create(&list, builtin_delegates, n_builtin_delegates, err);
    if (status != SERVERD_OK)
        return status;
    if (strcmp(values->device, "cpu") != 0)
        delegate_list_load_folder(&list, DELEGATE_FOLDER, warn, NULL);
    status = delegate_list_load_all(&list, values->delegate, err);
    if (status == SERVERD_OK)
        status = compile(values, &list, pool, err);
    delegate_list_destroy(&list);
    return status;
}

/* What was written is read again, as whoever opens it does. */
static serverd_status check_adapter(const char *path, const struct program *base,
                                    serverd_error *err)
{
    struct adapter *adapter;
    serverd_status status = adapter_file_open(path, &adapter, err);
    if (status != SERVERD_OK)
        return status;
    status = adapter_fits(adapter, base, err);
    adapter_destroy(adapter);
    return status;
}

static serverd_status compile_adapter(const struct values *values, serverd_error *err)
{
    struct program *base;
    struct adapter *adapter;
    const struct compile_options source = {.path = values->base};
    serverd_status status = sdp_is_program_file(values->base) ? sdp_open(values->base, &base, err)
                                                              : compile_model(&source, &base, err);
    if (status != SERVERD_OK)
        return error_context(err, "--base");
    status = adapter_import(values->model, base, &adapter, err);
    if (status == SERVERD_OK) {
        status = adapter_write(adapter, values->out, err);
        adapter_destroy(adapter);
    }
    if (status == SERVERD_OK && values->verify &&
        (status = check_adapter(values->out, base, err)) != SERVERD_OK)
        err->code = status = SERVERD_INTERNAL;
    program_unref(base);
    return status;
}

static serverd_status run(const void *arg, serverd_error *err)
{
    const struct values *values = arg;
    struct worker_pool *pool = NULL;
    if (check_dump(values, err))
        return err->code;
    if (values->model && values->dump_after && !values->out)
        return only_dump(values, err);
    if (!values->model || !values->out)
        return fail(err, SERVERD_INVALID, "%s; see --help",
                    values->model ? "--output: names the file to write"
                                  : "names no model to compile");
    if (values->base)
        return compile_adapter(values, err);
    serverd_status status = worker_pool_create(values->threads, &pool, err);
    if (status == SERVERD_OK)
        status = compile_with_delegates(values, pool, err);
    worker_pool_destroy(pool);
    return status;
}

const struct command compile_command = {.name = "",
                                        .summary = "Compiles a model into a program file",
                                        .options = rows,
                                        .n_options = sizeof rows / sizeof *rows,
                                        .bare = {"model"},
                                        .run = run,
                                        .values_bytes = sizeof(struct values)};
