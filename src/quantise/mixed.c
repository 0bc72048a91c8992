/* Formats tensor by tensor, for a size. Every candidate's damage is the error of the layer's
 * outputs on some text, which says little about how much another layer's counts: so the worst
 * tensors are quantised alone and the KL divergence is measured, and a kind of tensors takes its
 * measured ones' KL for each unit of error. Then the cheapest candidates are raised, step by step,
 * where a byte does the most. Without text the damage is the error of the weights. */
#include "quantise/quantise_internal.h"

#include "base/error.h"
#include "base/numeric.h"
#include "program/op.h"
#include "quantise/awq.h"
#include "quantise/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_CANDIDATES   4u
#define MEASURED_INDEX 1u  /* the candidate that is measured */
#define MOST_MEASURED  16u /* tensors */
#define LOOK_TOKENS    1024u
#define LOOK_ROWS      256u
#define MEASURE_TOKENS 192u

static const struct {
    uint32_t format, group;
} candidates[N_CANDIDATES] = {
    {FORMAT_I4A, 128}, {FORMAT_I4A, 64}, {FORMAT_I4A, 32}, {FORMAT_I8S, 64}};

struct tensor_options {
    uint32_t tensor;
    uint32_t chosen;
    struct quantise_choice choice[N_CANDIDATES]; /* format 0: none, the rows do not allow it */
    uint64_t bytes[N_CANDIDATES];
    double damage[N_CANDIDATES];
    double measured; /* KL of MEASURED_INDEX; negative: not measured */
};

struct search {
    struct pass *pass;
    struct tensor_options *tensors;
    uint32_t n;
    uint64_t fixed_bytes; /* of what is not chosen here */
    uint64_t elements;
};

/* ---- candidates ------------------------------------------------------------------------------ */

static struct tensor_options *options_of(const struct search *search, uint32_t tensor)
{
    for (uint32_t i = 0; i < search->n; i++)
        if (search->tensors[i].tensor == tensor)
            return &search->tensors[i];
    return NULL;
}

static uint64_t bytes_of(const serverd_tensor *tensor, const struct quantise_choice *choice)
{
    const struct grid grid = {choice->format, choice->group, false};
    uint64_t row = 0;
    (void)dtype_row_bytes(grid_dtype(&grid), tensor->dims[1], &row);
    return row * tensor->dims[0];
}

/* Of the layers' matrices that are quantised at all; embedding and head are as the policy says. */
static bool find_options(struct search *search)
{
    struct pass *pass = search->pass;
    const uint32_t n = pass->program->graph.n_tensors;
    search->tensors = calloc(n + 1u, sizeof *search->tensors);
    if (!search->tensors)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        const struct tensor_plan *plan = &pass->plans[i];
        const serverd_tensor *tensor = &pass->tensors[i];
        if (plan->kind == KIND_COUNT || tensor->rank != 2)
            continue;
        if (plan_is_kept(plan) || plan->kind == KIND_EMBED || plan->kind == KIND_HEAD) {
            search->fixed_bytes +=
                plan_is_kept(plan) ? tensor->bytes : bytes_of(tensor, &plan->choice);
            continue;
        }
        struct tensor_options *o = &search->tensors[search->n++];
        *o = (struct tensor_options){.tensor = i, .measured = -1, .chosen = N_CANDIDATES};
        search->elements += tensor->dims[0] * tensor->dims[1];
        for (uint32_t c = 0; c < N_CANDIDATES; c++) {
            o->choice[c] = plan->choice;
            o->choice[c].format = tensor->dims[1] % candidates[c].group ? 0 : candidates[c].format;
            o->choice[c].group = candidates[c].group;
            if (o->choice[c].format == 0)
                continue;
            o->bytes[c] = bytes_of(tensor, &o->choice[c]);
            o->chosen = o->chosen == N_CANDIDATES ? c : o->chosen;
        }
    }
    return true;
}

/* ---- damage ---------------------------------------------------------------------------------- */

/* `x`: [rows][k] of what the layer reads; NULL: the error of the weights. */
static serverd_status find_damage(struct search *search, struct tensor_options *o, const float *x,
                                  size_t rows, serverd_error *err)
{
    struct worker_pool *pool = search->pass->options->pool;
    const serverd_tensor *tensor = &search->pass->tensors[o->tensor];
    double signal = -1;
    for (uint32_t c = 0; c < N_CANDIDATES; c++) {
        if (o->choice[c].format == 0)
            continue;
        struct quant_matrix matrix;
        double noise = 0, energy = 0;
        serverd_status status =
            matrix_create(tensor, o->choice[c].format, o->choice[c].group, pool, &matrix, err);
        if (status != SERVERD_OK)
            return status;
        (void)matrix_fit(&matrix, FIT_PLAIN, NULL, false, pool);
        if (x)
            status =
                output_energy(&matrix, x, rows, pool, &noise, signal < 0 ? &energy : NULL, err);
        else
            matrix_error(&matrix, pool, &energy, &noise);
        matrix_destroy(&matrix);
        if (status != SERVERD_OK)
            return status;
        signal = signal < 0 ? energy : signal;
        o->damage[c] = signal > 0 ? noise / signal : 0;
    }
    return SERVERD_OK;
}

/* The first sequences, up to so many tokens; the arrays are `all`'s. */
static struct token_sequences first_of(const struct token_sequences *all, uint32_t tokens)
{
    struct token_sequences some = *all;
    while (some.n > 1 && some.begin[some.n] > tokens)
        some.n--;
    return some;
}

/* A copy of some rows at equal distances; NULL: no memory. */
static float *sample_rows(const float *x, size_t rows, size_t k, size_t n)
{
    float *sample = calloc(n, k * sizeof *sample);
    for (size_t r = 0; sample && r < n; r++)
        memcpy(sample + r * k, x + r * rows / n * k, k * sizeof *sample);
    return sample;
}

static serverd_status look_at_layer(struct search *search, struct forward *forward, uint32_t node,
                                    struct tensor_options *o, serverd_error *err)
{
    const serverd_graph *graph = forward->graph;
    const uint32_t input = graph->operands[graph->nodes[node].first_operand];
    serverd_status status = forward_run_to(forward, node, err);
    if (status != SERVERD_OK)
        return status;
    const size_t rows = forward_rows(forward, input), n = min_size(rows, LOOK_ROWS);
    float *x = sample_rows(forward->values[input], rows, forward_width(forward, input), n);
    status = x ? find_damage(search, o, x, n, err)
               : fail(err, SERVERD_NOMEM, "no memory to choose formats");
    free(x);
    return status;
}

static serverd_status look_at_layers(struct search *search, serverd_error *err)
{
    struct pass *pass = search->pass;
    const serverd_graph *graph = &pass->program->graph;
    const struct token_sequences some = first_of(&pass->calibration.used, LOOK_TOKENS);
    struct forward *forward = NULL;
    serverd_status status = forward_create(graph, pass->program->config.context_length, &some,
                                           pass->options->pool, &forward, err);
    for (uint32_t i = 0; i < graph->n_nodes && status == SERVERD_OK; i++) {
        const serverd_node *node = &graph->nodes[i];
        struct tensor_options *o = node->op == SERVERD_OP_LINEAR
                                       ? options_of(search, node_input(graph, node, 1)->tensor)
                                       : NULL;
        if (o && o->damage[o->chosen] == 0) /* once, though several nodes may read it */
            status = look_at_layer(search, forward, i, o, err);
        pass_report_progress(pass, 0, "choosing formats");
    }
    forward_destroy(forward);
    return status;
}

/* ---- measuring ------------------------------------------------------------------------------- */

/* The program with one tensor in one format; its blocks are to be freed. */
static serverd_status replace_tensor(struct search *search, const struct tensor_options *o,
                                     serverd_tensor *tensors, void **blocks, serverd_error *err)
{
    struct pass *pass = search->pass;
    const struct quantise_choice *choice = &o->choice[MEASURED_INDEX];
    struct quant_matrix matrix;
    serverd_status status = matrix_create(&pass->tensors[o->tensor], choice->format, choice->group,
                                          pass->options->pool, &matrix, err);
    if (status != SERVERD_OK)
        return status;
    const struct dtype_info *info = dtype_info(grid_dtype(&matrix.grid));
    const size_t bytes = matrix.n * matrix_groups(&matrix) * info->block_bytes;
    *blocks = malloc(bytes);
    if (*blocks) {
        (void)matrix_fit(&matrix, FIT_PLAIN, NULL, false, pass->options->pool);
        matrix_write(&matrix, pass->options->pool, *blocks);
        tensors[o->tensor].dtype = grid_dtype(&matrix.grid);
        tensors[o->tensor].data = *blocks;
        tensors[o->tensor].bytes = bytes;
    }
    matrix_destroy(&matrix);
    return *blocks ? SERVERD_OK : fail(err, SERVERD_NOMEM, "no memory to measure a tensor");
}

static serverd_status measure_tensor(struct search *search, struct tensor_options *o,
                                     serverd_tensor *tensors, serverd_error *err)
{
    struct pass *pass = search->pass;
    const struct token_sequences some = first_of(&pass->calibration.held_out, MEASURE_TOKENS);
    void *blocks = NULL;
    serverd_status status = replace_tensor(search, o, tensors, &blocks, err);
    if (status == SERVERD_OK) {
        serverd_graph changed = pass->source;
        changed.tensors = tensors;
        struct layer_report *layers;
        struct divergence_report found;
        const struct evaluation evaluation = {.source = &pass->source,
                                              .program = &changed,
                                              .n_layers = pass->program->config.n_layers,
                                              .max_context = pass->program->config.context_length,
                                              .is_encoder = pass->program->config.is_encoder,
                                              .sequences = &some,
                                              .pool = pass->options->pool};
        status = evaluate(&evaluation, &layers, &found, err);
        if (status == SERVERD_OK) {
            o->measured = found.is_encoder ? 1 - found.mean_cosine : found.mean_kl;
            free(layers);
        }
    }
    free(blocks);
    tensors[o->tensor] = pass->source.tensors[o->tensor];
    return status;
}

static struct tensor_options *worst_unmeasured(const struct search *search)
{
    struct tensor_options *worst = NULL;
    for (uint32_t i = 0; i < search->n; i++) {
        struct tensor_options *o = &search->tensors[i];
        if (o->measured < 0 && o->choice[MEASURED_INDEX].format != 0 &&
            (!worst || o->damage[MEASURED_INDEX] > worst->damage[MEASURED_INDEX]))
            worst = o;
    }
    return worst;
}

static serverd_status measure_worst(struct search *search, serverd_error *err)
{
    struct pass *pass = search->pass;
    const size_t n = pass->source.n_tensors;
    serverd_tensor *tensors = calloc(n + 1u, sizeof *tensors);
    if (!tensors)
        return fail(err, SERVERD_NOMEM, "no memory to measure tensors");
    memcpy(tensors, pass->source.tensors, n * sizeof *tensors);
    serverd_status status = SERVERD_OK;
    struct tensor_options *o;
    for (uint32_t i = 0; i < MOST_MEASURED && status == SERVERD_OK; i++)
        if ((o = worst_unmeasured(search)))
            status = measure_tensor(search, o, tensors, err);
    free(tensors);
    return status;
}

/* Damages become KL: by their own measurement, their kind's, or everyone's. */
static void apply_measurements(struct search *search)
{
    double kl[KIND_COUNT + 1] = {0}, damage[KIND_COUNT + 1] = {0};
    for (uint32_t i = 0; i < search->n; i++) {
        const struct tensor_options *o = &search->tensors[i];
        const uint8_t kind = search->pass->plans[o->tensor].kind;
        if (o->measured < 0)
            continue;
        kl[kind] += o->measured;
        damage[kind] += o->damage[MEASURED_INDEX];
        kl[KIND_COUNT] += o->measured;
        damage[KIND_COUNT] += o->damage[MEASURED_INDEX];
    }
    for (uint32_t i = 0; i < search->n; i++) {
        struct tensor_options *o = &search->tensors[i];
        uint8_t kind = search->pass->plans[o->tensor].kind;
        kind = damage[kind] > 0 ? kind : KIND_COUNT;
        double factor = damage[kind] > 0 ? kl[kind] / damage[kind] : 1;
        if (o->measured >= 0 && o->damage[MEASURED_INDEX] > 0)
            factor = o->measured / o->damage[MEASURED_INDEX];
        for (uint32_t c = 0; c < N_CANDIDATES; c++)
            o->damage[c] *= factor;
    }
}

/* ---- the choice ------------------------------------------------------------------------------ */

static uint64_t chosen_bytes(const struct search *search)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < search->n; i++)
        bytes += search->tensors[i].bytes[search->tensors[i].chosen];
    return bytes;
}

static double chosen_damage(const struct search *search)
{
    double damage = 0;
    for (uint32_t i = 0; i < search->n; i++)
        damage += search->tensors[i].damage[search->tensors[i].chosen];
    return damage;
}

/* The step of one tensor to a greater candidate that takes away the most for each byte, if it fits
 * into `room`: the steps of the convex hull, from the steepest on. */
static struct tensor_options *best_step(const struct search *search, uint64_t room, uint32_t *to)
{
    struct tensor_options *best = NULL;
    double most = 0;
    for (uint32_t i = 0; i < search->n; i++) {
        struct tensor_options *o = &search->tensors[i];
        for (uint32_t c = o->chosen + 1; c < N_CANDIDATES; c++) {
            const uint64_t more = o->bytes[c] - o->bytes[o->chosen];
            const double gain = o->damage[o->chosen] - o->damage[c];
            if (o->choice[c].format == 0 || more == 0 || more > room || gain <= most * (double)more)
                continue;
            most = gain / (double)more;
            best = o;
            *to = c;
        }
    }
    return best;
}

static void note_point(struct search *search)
{
    struct quantise_report *report = search->pass->report;
    struct candidate_report *grown =
        realloc(report->candidates, (report->n_candidates + 1u) * sizeof *grown);
    if (!grown)
        return; /* a plot with fewer points */
    report->candidates = grown;
    grown[report->n_candidates++] = (struct candidate_report){
        8.0 * (double)chosen_bytes(search) / (double)search->elements, chosen_damage(search)};
}

static serverd_status choose(struct search *search, uint64_t target, serverd_error *err)
{
    uint64_t bytes = chosen_bytes(search);
    if (bytes > target)
        return fail(err, SERVERD_INVALID,
                    "the target is %.3f bits for each weight of the layers, the least is %.3f",
                    8.0 * (double)target / (double)search->elements,
                    8.0 * (double)bytes / (double)search->elements);
    uint32_t to = 0, n = 0;
    struct tensor_options *o;
    note_point(search);
    while ((o = best_step(search, target - bytes, &to))) {
        bytes += o->bytes[to] - o->bytes[o->chosen];
        o->chosen = to;
        if (n++ % 8 == 7)
            note_point(search);
    }
    note_point(search);
    for (uint32_t i = 0; i < search->n; i++) {
        const struct tensor_options *t = &search->tensors[i];
        search->pass->plans[t->tensor].choice = t->choice[t->chosen];
    }
    return SERVERD_OK;
}

static serverd_status run_search(struct search *search, serverd_error *err)
{
    struct pass *pass = search->pass;
    const struct quantise_options *options = pass->options;
    serverd_status status = SERVERD_OK;
    if (!find_options(search))
        return fail(err, SERVERD_NOMEM, "no memory to choose formats");
    if (search->n == 0)
        return fail(err, SERVERD_INVALID, "a target, but the policy quantises no layer");
    uint64_t target = (uint64_t)(options->target_bits * (double)search->elements / 8);
    if (options->target_bytes)
        target = options->target_bytes > search->fixed_bytes
                     ? options->target_bytes - search->fixed_bytes
                     : 0;
    if (pass_is_calibrated(pass)) {
        status = look_at_layers(search, err);
        if (status == SERVERD_OK)
            status = measure_worst(search, err);
        apply_measurements(search);
    }
    for (uint32_t i = 0; i < search->n && status == SERVERD_OK && !pass_is_calibrated(pass); i++)
        status = find_damage(search, &search->tensors[i], NULL, 0, err);
    return status == SERVERD_OK ? choose(search, target, err) : status;
}

serverd_status pass_choose_formats(struct pass *pass, serverd_error *err)
{
    if (pass->options->target_bits <= 0 && pass->options->target_bytes == 0)
        return SERVERD_OK;
    struct search search = {.pass = pass};
    serverd_status status = run_search(&search, err);
    free(search.tensors);
    return status == SERVERD_OK ? status : error_context(err, "target");
}
