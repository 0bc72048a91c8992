#include "quantise/quantise_internal.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/numeric.h"
#include "program/op.h"
#include "quantise/evaluate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_SEQUENCES 32u
#define DEFAULT_TOKENS    256u
#define DEFAULT_HELD_OUT  2048u
#define ALIGNMENT         64u

void pass_report_progress(struct pass *pass, double share, const char *what)
{
    if (pass->options->progress)
        pass->options->progress(pass->options->progress_context, share, what);
}

static double seconds_since(uint64_t begin)
{
    return (double)(clock_now_ns(&system_clock) - begin) / 1e9;
}

/* ---- the plan -------------------------------------------------------------------------------- */

/* Rows are whole groups: the largest that divides them, if the wanted one does not. */
static void fit_group_to_rows(struct quantise_choice *choice, uint64_t k)
{
    while (choice->format != 0 && k % choice->group != 0) {
        choice->group /= 2;
        if (choice->group < 32)
            *choice = (struct quantise_choice){0};
    }
}

static serverd_status plan_tensor(struct pass *pass, uint32_t i, serverd_error *err)
{
    struct tensor_plan *plan = &pass->plans[i];
    const serverd_tensor *tensor = &pass->tensors[i];
    if (plan->kind == KIND_COUNT || tensor->rank != 2)
        return SERVERD_OK;
    if (!tensor->data)
        return fail(err, SERVERD_UNSUPPORTED,
                    "tensor %s: a program file cannot be quantised, its source can", tensor->name);
    serverd_status status =
        policy_choose(pass->policy, tensor->name, plan->kind, &plan->choice, err);
    if (status == SERVERD_OK)
        fit_group_to_rows(&plan->choice, tensor->dims[1]);
    return status;
}

static serverd_status make_plans(struct pass *pass, serverd_error *err)
{
    const uint32_t n = pass->program->graph.n_tensors;
    uint8_t *kinds = calloc(n + 1, sizeof *kinds);
    pass->plans = calloc(n + 1, sizeof *pass->plans);
    pass->report->tensors = calloc(n + 1, sizeof *pass->report->tensors);
    if (!kinds || !pass->plans || !pass->report->tensors) {
        free(kinds);
        return fail(err, SERVERD_NOMEM, "no memory for %u tensors", n);
    }
    find_tensor_kinds(&pass->program->graph, kinds);
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < n && status == SERVERD_OK; i++) {
        pass->plans[i].kind = kinds[i];
        status = plan_tensor(pass, i, err);
    }
    free(kinds);
    return status;
}

/* A line for each matrix, kept or not. */
static void begin_report(struct pass *pass)
{
    struct quantise_report *report = pass->report;
    for (uint32_t i = 0; i < pass->program->graph.n_tensors; i++) {
        const serverd_tensor *tensor = &pass->tensors[i];
        struct tensor_plan *plan = &pass->plans[i];
        if (plan->kind == KIND_COUNT || tensor->rank != 2)
            continue;
        struct tensor_report *r = &report->tensors[report->n_tensors++];
        *r = (struct tensor_report){.kind = plan->kind,
                                    .from_dtype = tensor->dtype,
                                    .dtype = tensor->dtype,
                                    .methods = plan->choice.methods,
                                    .n_elements = tensor->dims[0] * tensor->dims[1],
                                    .from_bytes = tensor->bytes,
                                    .bytes = tensor->bytes,
                                    .weight_error = 0,
                                    .output_error = -1};
        (void)snprintf(r->name, sizeof r->name, "%s", tensor->name);
        plan->report = r;
        pass->n_to_do += !plan_is_kept(plan);
    }
}

/* ---- the store ------------------------------------------------------------------------------- */

/* Room for a tensor whose scales may turn out to be f32. */
static serverd_status find_room(struct pass *pass, serverd_error *err)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < pass->program->graph.n_tensors; i++) {
        struct tensor_plan *plan = &pass->plans[i];
        const serverd_tensor *tensor = &pass->tensors[i];
        if (plan_is_kept(plan))
            continue;
        const struct grid grid = {plan->choice.format, plan->choice.group, true};
        uint64_t row;
        size_t room;
        if (!dtype_row_bytes(grid_dtype(&grid), tensor->dims[1], &row) ||
            !size_mul(row, tensor->dims[0], &room) || !size_align(room, ALIGNMENT, &room))
            return fail(err, SERVERD_NOMEM, "tensor %s: its size overflows", tensor->name);
        plan->offset = bytes;
        plan->room = room;
        if (!size_add(bytes, room, &bytes))
            return fail(err, SERVERD_NOMEM, "the size of all tensors overflows");
    }
    pass->store_bytes = bytes;
    return SERVERD_OK;
}

/* ---- tensors --------------------------------------------------------------------------------- */

void pass_put(struct pass *pass, uint32_t tensor, const struct quant_matrix *matrix)
{
    struct tensor_plan *plan = &pass->plans[tensor];
    serverd_tensor *t = &pass->tensors[tensor];
    struct quant_matrix measured = *matrix; /* whose sums are scratch */
    double signal, noise;
    matrix_error(&measured, pass->options->pool, &signal, &noise);
    plan->report->weight_error = signal > 0 ? noise / signal : 0;
    matrix_write(matrix, pass->options->pool, pass->store + plan->offset);
    program_forget_tensor(pass->program, tensor);
    t->dtype = grid_dtype(&matrix->grid);
    t->data = pass->store + plan->offset;
    t->bytes = (uint64_t)matrix->n * matrix_groups(matrix) * dtype_info(t->dtype)->block_bytes;
    plan->is_done = true;
    plan->report->dtype = t->dtype;
    plan->report->bytes = t->bytes;
    pass->n_done++;
    pass_report_progress(pass, (double)pass->n_done / (double)pass->n_to_do, t->name);
}

serverd_status pass_quantise_alone(struct pass *pass, uint32_t tensor, serverd_error *err)
{
    const struct quantise_choice *choice = &pass->plans[tensor].choice;
    const uint64_t begin = clock_now_ns(&system_clock);
    struct quant_matrix matrix;
    serverd_status status = matrix_create(&pass->tensors[tensor], choice->format, choice->group,
                                          pass->options->pool, &matrix, err);
    if (status != SERVERD_OK)
        return status;
    (void)matrix_fit(&matrix, choice->methods & METHOD_MINMAX ? FIT_MIN_MAX : FIT_PLAIN, NULL,
                     choice->one_scale, pass->options->pool);
    pass_put(pass, tensor, &matrix);
    pass->plans[tensor].report->seconds = seconds_since(begin);
    matrix_destroy(&matrix);
    return SERVERD_OK;
}

static bool is_table(const struct pass *pass, uint32_t tensor)
{
    const serverd_graph *graph = &pass->program->graph;
    for (uint32_t i = 0; i < graph->n_nodes; i++)
        if (graph->nodes[i].op == SERVERD_OP_EMBED &&
            node_input(graph, &graph->nodes[i], 0)->tensor == tensor)
            return true;
    return false;
}

static serverd_status quantise_all(struct pass *pass, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    const bool is_calibrated = pass_is_calibrated(pass);
    for (uint32_t i = 0; i < pass->program->graph.n_tensors && status == SERVERD_OK; i++)
        if (!plan_is_kept(&pass->plans[i]) && (!is_calibrated || is_table(pass, i)))
            status = pass_quantise_alone(pass, i, err);
    if (status == SERVERD_OK && is_calibrated)
        status = pass_quantise_sets(pass, err);
    return status;
}

/* ---- the pass -------------------------------------------------------------------------------- */

static serverd_status calibrate(struct pass *pass, serverd_error *err)
{
    const struct quantise_options *o = pass->options;
    if (!o->calibration && policy_needs_calibration(pass->policy))
        return fail(err, SERVERD_INVALID,
                    "%s needs text to calibrate on: a file of JSON lines, or self", o->policy);
    if (!o->calibration)
        return SERVERD_OK;
    const struct calibration_options options = {
        .source = o->calibration,
        .n_sequences = o->n_sequences ? o->n_sequences : DEFAULT_SEQUENCES,
        .sequence_tokens = o->sequence_tokens ? o->sequence_tokens : DEFAULT_TOKENS,
        .n_held_out_tokens = o->n_held_out_tokens ? o->n_held_out_tokens : DEFAULT_HELD_OUT};
    pass_report_progress(pass, 0, "reading text");
    const uint64_t begin = clock_now_ns(&system_clock);
    serverd_status status =
        calibration_create(pass->program, &options, o->pool, &pass->calibration, err);
    pass->report->calibration_seconds = seconds_since(begin);
    pass->report->n_calibration_tokens = sequences_n_tokens(&pass->calibration.used);
    return status;
}

/* From here on the program has a table of tensors of its own; the source keeps the old one. */
static serverd_status take_tensors(struct pass *pass, serverd_error *err)
{
    struct program *program = pass->program;
    const uint32_t n = program->graph.n_tensors;
    pass->source = program->graph;
    pass->tensors = arena_array(program->arena, n, sizeof *pass->tensors);
    if (!pass->tensors)
        return fail(err, SERVERD_NOMEM, "no memory for %u tensors", n);
    memcpy(pass->tensors, program->graph.tensors, n * sizeof *pass->tensors);
    program->graph.tensors = pass->tensors;
    return SERVERD_OK;
}

static void update_config(struct pass *pass)
{
    struct program_config *config = &pass->program->config;
    uint64_t most = 0;
    for (uint32_t i = 0; i < pass->report->n_tensors; i++) {
        const struct tensor_report *t = &pass->report->tensors[i];
        uint64_t n = 0;
        for (uint32_t j = 0; j < pass->report->n_tensors; j++)
            if (pass->report->tensors[j].dtype == t->dtype)
                n += pass->report->tensors[j].n_elements;
        config->weight_bytes = config->weight_bytes + t->bytes - t->from_bytes;
        if (n > most) {
            most = n;
            (void)snprintf(config->quantisation, sizeof config->quantisation, "%s",
                           dtype_info(t->dtype)->name);
        }
    }
}

static serverd_status measure(struct pass *pass, serverd_error *err)
{
    if (!pass_is_calibrated(pass))
        return SERVERD_OK;
    pass_report_progress(pass, 1, "measuring");
    const uint64_t begin = clock_now_ns(&system_clock);
    const struct evaluation evaluation = {.source = &pass->source,
                                          .program = &pass->program->graph,
                                          .n_layers = pass->program->config.n_layers,
                                          .max_context = pass->program->config.context_length,
                                          .is_encoder = pass->program->config.is_encoder,
                                          .sequences = &pass->calibration.held_out,
                                          .pool = pass->options->pool};
    serverd_status status =
        evaluate(&evaluation, &pass->report->layers, &pass->report->divergence, err);
    pass->report->n_layers = status == SERVERD_OK ? evaluation.n_layers : 0;
    pass->report->measuring_seconds = seconds_since(begin);
    return status;
}

static serverd_status run(struct pass *pass, serverd_error *err)
{
    serverd_status status;
    if ((status = policy_create(pass->options->policy, &pass->policy, err)) != SERVERD_OK)
        return error_context(err, "quantize");
    if ((status = take_tensors(pass, err)) != SERVERD_OK ||
        (status = make_plans(pass, err)) != SERVERD_OK ||
        (status = calibrate(pass, err)) != SERVERD_OK)
        return status;
    begin_report(pass);
    if ((status = pass_choose_formats(pass, err)) != SERVERD_OK)
        return status;
    if (pass->n_to_do > 0 && ((status = find_room(pass, err)) != SERVERD_OK ||
                              (status = program_add_store(pass->program, pass->store_bytes,
                                                          &pass->store, err)) != SERVERD_OK ||
                              (status = quantise_all(pass, err)) != SERVERD_OK))
        return status;
    update_config(pass);
    return measure(pass, err);
}

serverd_status quantise_program(struct program *program, const struct quantise_options *options,
                                struct quantise_report *report, serverd_error *err)
{
    const uint64_t begin = clock_now_ns(&system_clock);
    *report = (struct quantise_report){.n_tensors = 0};
    struct pass pass = {.program = program, .options = options, .report = report};
    (void)snprintf(report->model, sizeof report->model, "%s", program->config.name);
    const char *slash = strrchr(options->policy, '/'); /* of a file its name, wherever it lies */
    (void)snprintf(report->policy, sizeof report->policy, "%s",
                   slash ? slash + 1 : options->policy);
    (void)snprintf(report->calibration, sizeof report->calibration, "%s",
                   options->calibration ? options->calibration : "");
    serverd_status status = run(&pass, err);
    if (status == SERVERD_OK)
        status = program_check(program, err);
    report->seconds = seconds_since(begin);
    policy_destroy(pass.policy);
    calibration_destroy(&pass.calibration);
    free(pass.plans);
    if (status != SERVERD_OK)
        quantise_report_destroy(report);
    return status;
}
