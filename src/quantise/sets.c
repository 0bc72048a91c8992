/* Sets of linear layers that read one input, quantised on what they read. */
#include "quantise/quantise_internal.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/numeric.h"
#include "program/op.h"
#include "quantise/awq.h"
#include "quantise/gptq.h"
#include "quantise/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MEMBERS  8u
#define SEARCH_ROWS  512u
#define DAMPING      0.01
#define SHRINKING    0.3 /* what columns of a few thousand rows have in common is partly chance */
#define SCALE_ROUNDS 3u
#define TRIAL_ROWS   64u /* of a matrix, to try awq's scale */

struct member {
    uint32_t tensor;
    struct quant_matrix matrix;
    double weight_error, output_error;
};

struct set {
    uint32_t value; /* the input */
    size_t rows, k;
    float *x; /* [rows][k], the forward pass's own */
    uint32_t n;
    struct member members[MAX_MEMBERS];
    bool is_whole; /* everything that reads the input is a member */
    float *h;      /* [k][k]; NULL: not wanted */
    float *sample; /* [n_sample][k] some rows */
    size_t n_sample;
    float *mean_magnitude, *mean_square; /* [k] */
    double alpha, gain;
};

static void set_destroy(struct set *set)
{
    for (uint32_t m = 0; m < set->n; m++)
        matrix_destroy(&set->members[m].matrix);
    free(set->h);
    free(set->sample);
    free(set->mean_magnitude);
    free(set->mean_square);
}

/* ---- which layers ---------------------------------------------------------------------------- */

static bool is_wanted(const struct pass *pass, uint32_t tensor)
{
    const struct tensor_plan *plan = &pass->plans[tensor];
    return !plan_is_kept(plan) && !plan->is_done;
}

static bool has_member(const struct set *set, uint32_t tensor)
{
    for (uint32_t i = 0; i < set->n; i++)
        if (set->members[i].tensor == tensor)
            return true;
    return false;
}

/* The layers that read the value of `node`'s input; nodes before it have run. */
static void find_members(const struct pass *pass, uint32_t node, struct set *set)
{
    const serverd_graph *graph = &pass->program->graph;
    set->value = graph->operands[graph->nodes[node].first_operand];
    set->is_whole = set->value != graph->output;
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        const serverd_node *n = &graph->nodes[i];
        for (uint32_t k = 0; k < n->n_inputs; k++) {
            if (graph->operands[n->first_operand + k] != set->value)
                continue;
            const uint32_t tensor =
                n->op == SERVERD_OP_LINEAR ? node_input(graph, n, 1)->tensor : UINT32_MAX;
            if (tensor != UINT32_MAX && is_wanted(pass, tensor) && i >= node &&
                (has_member(set, tensor) || set->n < MAX_MEMBERS)) {
                if (!has_member(set, tensor))
                    set->members[set->n++].tensor = tensor;
            } else {
                set->is_whole = false;
            }
        }
    }
}

static unsigned methods_of(const struct pass *pass, const struct set *set)
{
    unsigned methods = 0;
    for (uint32_t i = 0; i < set->n; i++)
        methods |= pass->plans[set->members[i].tensor].choice.methods;
    return methods;
}

/* ---- what the input is like ------------------------------------------------------------------ */

static void find_means(struct set *set)
{
    for (size_t r = 0; r < set->rows; r++)
        for (size_t i = 0; i < set->k; i++) {
            const float x = set->x[r * set->k + i];
            set->mean_magnitude[i] += fabsf(x);
            set->mean_square[i] += x * x;
        }
    for (size_t i = 0; i < set->k; i++) {
        set->mean_magnitude[i] /= (float)set->rows;
        set->mean_square[i] /= (float)set->rows;
    }
}

/* Rows at equal distances. */
static void take_sample(struct set *set)
{
    for (size_t r = 0; r < set->n_sample; r++)
        memcpy(set->sample + r * set->k, set->x + r * set->rows / set->n_sample * set->k,
               set->k * sizeof *set->sample);
}

/* h = 2 / n sum x x^T, a little less off and a little more on its diagonal. */
static serverd_status find_hessian(struct pass *pass, struct set *set, serverd_error *err)
{
    const size_t k = set->k;
    if (!add_gram(set->x, set->rows, k, set->h, pass->options->pool))
        return fail(err, SERVERD_NOMEM, "no memory for %zu rows of %zu", set->rows, k);
    const float factor = 2.0f / (float)set->rows, less = factor * (1 - (float)SHRINKING);
    for (size_t i = 0; i < k; i++) {
        set->h[i * k + i] *= factor;
        for (size_t j = i + 1; j < k; j++)
            set->h[i * k + j] *= less;
    }
    double mean = 0;
    for (size_t i = 0; i < k; i++)
        mean += (double)set->h[i * k + i] / (double)k;
    const float damping = (float)fmax(mean * DAMPING, 1e-20);
    for (size_t i = 0; i < k; i++) {
        if (set->h[i * k + i] <= 0) /* never active: its weights do nothing */
            for (uint32_t m = 0; m < set->n; m++)
                for (size_t row = 0; row < set->members[m].matrix.n; row++)
                    set->members[m].matrix.weights[row * k + i] = 0;
        set->h[i * k + i] += damping;
    }
    mirror_upper(set->h, k, pass->options->pool);
    return SERVERD_OK;
}

static serverd_status look_at_input(struct pass *pass, struct set *set, serverd_error *err)
{
    const size_t k = set->k;
    const bool wants_h = methods_of(pass, set) & (METHOD_GPTQ | METHOD_SCALE);
    set->n_sample = min_size(SEARCH_ROWS, set->rows);
    set->mean_magnitude = calloc(k, sizeof(float));
    set->mean_square = calloc(k, sizeof(float));
    set->sample = calloc(set->n_sample, k * sizeof(float));
    if (wants_h)
        set->h = calloc(k, k * sizeof(float));
    if (!set->mean_magnitude || !set->mean_square || !set->sample || (wants_h && !set->h))
        return fail(err, SERVERD_NOMEM, "no memory for an input of %zu columns", k);
    find_means(set);
    take_sample(set);
    return wants_h ? find_hessian(pass, set, err) : SERVERD_OK;
}

/* ---- awq ------------------------------------------------------------------------------------- */

struct scale_job {
    const struct set *set;
    const float *scale;
};

static void scale_row(void *arg, uint32_t i, uint32_t worker)
{
    (void)worker;
    const struct scale_job *job = arg;
    float *row = job->set->h + (size_t)i * job->set->k;
    for (size_t j = 0; j < job->set->k; j++)
        row[j] /= job->scale[i] * job->scale[j];
}

static void divide_rows(float *x, size_t rows, size_t k, const float *scale)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < k; i++)
            x[r * k + i] /= scale[i];
}

/* Weights, statistics and the input itself as they are under the scale. */
static void take_scale(struct pass *pass, struct set *set, const float *scale)
{
    const size_t k = set->k;
    for (uint32_t m = 0; m < set->n; m++) {
        struct quant_matrix *matrix = &set->members[m].matrix;
        for (size_t row = 0; row < matrix->n; row++)
            for (size_t i = 0; i < k; i++)
                matrix->weights[row * k + i] *= scale[i];
    }
    for (size_t i = 0; i < k; i++) {
        set->mean_magnitude[i] /= scale[i];
        set->mean_square[i] /= scale[i] * scale[i];
    }
    divide_rows(set->x, set->rows, k, scale);
    divide_rows(set->sample, set->n_sample, k, scale);
    struct scale_job job = {set, scale};
    if (set->h)
        worker_pool_run(pass->options->pool, (uint32_t)k, scale_row, &job);
}

/* Codes by the choice's methods, for numbers that are in the matrix as they are to be. */
static serverd_status find_codes(const struct quantise_choice *choice, struct quant_matrix *matrix,
                                 const float *mean_square, const float *h, struct worker_pool *pool,
                                 serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    (void)matrix_fit(matrix, choice->methods & METHOD_MINMAX ? FIT_MIN_MAX : FIT_PLAIN, mean_square,
                     choice->one_scale, pool);
    if (choice->methods & METHOD_GPTQ)
        status = gptq(matrix, h, pool, err);
    if (status == SERVERD_OK && (choice->methods & METHOD_SCALE))
        status = rescale(matrix, h, SCALE_ROUNDS, pool, err);
    return status;
}

/* What a scale is worth when the other methods have done their part, which do some of the same:
 * some rows of each member are quantised as all will be. *error is what their outputs lose. */
static serverd_status try_scale(struct pass *pass, const struct set *set, const float *scale,
                                double *error, serverd_error *err)
{
    struct worker_pool *pool = pass->options->pool;
    struct set trial = {.rows = 0, .k = set->k, .n = set->n, .n_sample = set->n_sample};
    const size_t k = set->k;
    serverd_status status = SERVERD_OK;
    trial.sample = calloc(trial.n_sample, k * sizeof(float));
    trial.mean_magnitude = calloc(k, sizeof(float));
    trial.mean_square = calloc(k, sizeof(float));
    trial.h = set->h ? calloc(k, k * sizeof(float)) : NULL;
    if (!trial.sample || !trial.mean_magnitude || !trial.mean_square || (set->h && !trial.h))
        status = fail(err, SERVERD_NOMEM, "no memory to try awq");
    for (uint32_t m = 0; m < set->n && status == SERVERD_OK; m++) {
        trial.members[m].tensor = set->members[m].tensor;
        status =
            matrix_some_rows(&set->members[m].matrix, TRIAL_ROWS, &trial.members[m].matrix, err);
    }
    if (status == SERVERD_OK) {
        memcpy(trial.sample, set->sample, trial.n_sample * k * sizeof(float));
        memcpy(trial.mean_square, set->mean_square, k * sizeof(float));
        if (trial.h)
            memcpy(trial.h, set->h, k * k * sizeof(float));
        take_scale(pass, &trial, scale);
    }
    *error = 0;
    for (uint32_t m = 0; m < set->n && status == SERVERD_OK; m++) {
        struct quant_matrix *matrix = &trial.members[m].matrix;
        const struct quantise_choice *choice = &pass->plans[trial.members[m].tensor].choice;
        double noise = 0;
        status = find_codes(choice, matrix, trial.mean_square, trial.h, pool, err);
        if (status == SERVERD_OK)
            status = output_energy(matrix, trial.sample, trial.n_sample, pool, &noise, NULL, err);
        *error += noise * (double)set->members[m].matrix.n / (double)matrix->n;
    }
    set_destroy(&trial);
    return status;
}

/* The scale that was found, its root, or none, whichever is best in the end. */
static serverd_status choose_scale(struct pass *pass, struct set *set, float *scale,
                                   serverd_error *err)
{
    float *tried = calloc(set->k, sizeof *tried);
    double least = 0, error, best = 0;
    if (!tried)
        return fail(err, SERVERD_NOMEM, "no memory to try awq");
    serverd_status status = SERVERD_OK;
    static const double powers[] = {0, 0.5, 1};
    for (size_t p = 0; p < sizeof powers / sizeof *powers && status == SERVERD_OK; p++) {
        for (size_t i = 0; i < set->k; i++)
            tried[i] = (float)pow((double)scale[i], powers[p]);
        status = try_scale(pass, set, tried, &error, err);
        if (status == SERVERD_OK && (p == 0 || error < least)) {
            least = error;
            best = powers[p];
        }
    }
    for (size_t i = 0; i < set->k; i++)
        scale[i] = (float)pow((double)scale[i], best);
    set->alpha *= best;
    free(tried);
    return status;
}

static serverd_status search_scale(struct pass *pass, struct set *set, serverd_error *err)
{
    const struct fold fold = find_fold(pass, set->value);
    if (!set->is_whole || fold.kind == FOLD_NONE)
        return SERVERD_OK;
    struct quant_matrix matrices[MAX_MEMBERS];
    for (uint32_t m = 0; m < set->n; m++)
        matrices[m] = set->members[m].matrix;
    const struct awq_set awq = {matrices, set->n, set->sample, set->n_sample, set->mean_magnitude};
    float *scale = calloc(set->k, sizeof *scale);
    if (!scale)
        return fail(err, SERVERD_NOMEM, "no memory for awq");
    serverd_status status =
        awq_search(&awq, pass->options->pool, scale, &set->alpha, &set->gain, err);
    if (status == SERVERD_OK && set->alpha > 0 &&
        (methods_of(pass, set) & (METHOD_GPTQ | METHOD_SCALE)))
        status = choose_scale(pass, set, scale, err);
    if (status == SERVERD_OK && set->alpha > 0) {
        status = apply_fold(pass, &fold, scale, err);
        if (status == SERVERD_OK)
            take_scale(pass, set, scale);
    }
    free(scale);
    return status;
}

/* ---- one set --------------------------------------------------------------------------------- */

static serverd_status quantise_member(struct pass *pass, const struct set *set,
                                      struct member *member, serverd_error *err)
{
    const struct quantise_choice *choice = &pass->plans[member->tensor].choice;
    struct worker_pool *pool = pass->options->pool;
    struct quant_matrix *matrix = &member->matrix;
    serverd_status status = find_codes(choice, matrix, set->mean_square, set->h, pool, err);
    double signal = 0, noise = 0;
    if (status == SERVERD_OK)
        status = output_energy(matrix, set->sample, set->n_sample, pool, &noise, &signal, err);
    if (status != SERVERD_OK)
        return error_context(err, "tensor %s", pass->tensors[member->tensor].name);
    member->output_error = signal > 0 ? noise / signal : 0;
    return SERVERD_OK;
}

static serverd_status make_matrices(struct pass *pass, struct set *set, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (uint32_t m = 0; m < set->n && status == SERVERD_OK; m++) {
        const uint32_t tensor = set->members[m].tensor;
        const struct quantise_choice *choice = &pass->plans[tensor].choice;
        status = matrix_create(&pass->tensors[tensor], choice->format, choice->group,
                               pass->options->pool, &set->members[m].matrix, err);
    }
    return status;
}

static serverd_status run_set(struct pass *pass, struct set *set, serverd_error *err)
{
    const uint64_t begin = clock_now_ns(&system_clock);
    serverd_status status = make_matrices(pass, set, err);
    if (status == SERVERD_OK)
        status = look_at_input(pass, set, err);
    if (status == SERVERD_OK && (methods_of(pass, set) & METHOD_AWQ))
        status = search_scale(pass, set, err);
    for (uint32_t m = 0; m < set->n && status == SERVERD_OK; m++) {
        struct member *member = &set->members[m];
        status = quantise_member(pass, set, member, err);
        if (status != SERVERD_OK)
            break;
        struct tensor_report *report = pass->plans[member->tensor].report;
        pass_put(pass, member->tensor, &member->matrix);
        report->output_error = member->output_error;
        report->awq_alpha = set->alpha;
        report->awq_gain = set->gain;
        report->seconds = (double)(clock_now_ns(&system_clock) - begin) / 1e9 / (double)set->n;
    }
    return status;
}

static serverd_status quantise_before(struct pass *pass, struct forward *forward, uint32_t node,
                                      serverd_error *err)
{
    struct set set = {.n = 0};
    find_members(pass, node, &set);
    set.x = forward->values[set.value];
    set.rows = forward_rows(forward, set.value);
    set.k = forward_width(forward, set.value);
    serverd_status status = run_set(pass, &set, err);
    set_destroy(&set);
    return status;
}

serverd_status pass_quantise_sets(struct pass *pass, serverd_error *err)
{
    const serverd_graph *graph = &pass->program->graph;
    struct forward *forward = NULL;
    serverd_status status =
        forward_create(graph, pass->program->config.context_length, &pass->calibration.used,
                       pass->options->pool, &forward, err);
    for (uint32_t n = 0; n < graph->n_nodes && status == SERVERD_OK; n++) {
        const serverd_node *node = &graph->nodes[n];
        if (node->op != SERVERD_OP_LINEAR || !is_wanted(pass, node_input(graph, node, 1)->tensor))
            continue;
        status = forward_run_to(forward, n, err);
        if (status == SERVERD_OK)
            status = quantise_before(pass, forward, n, err);
    }
    forward_destroy(forward);
    return status;
}
