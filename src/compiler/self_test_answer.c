/* Running the cases of the self-test: all prompts in steps of so many rows, then all continuations
 * side by side. */
#include "base/clock.h"
#include "base/error.h"
#include "base/numeric.h"
#include "compiler/self_test_internal.h"
#include "kernels/builtin.h"
#include "program/op.h"
#include "runtime/runtime.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- answers --------------------------------------------------------------------------------- */

void answers_free(struct answers *answers)
{
    for (uint32_t i = 0; i < LIMIT_TEST_CASES; i++) {
        free(answers->rows[i]);
        free(answers->greedy[i]);
    }
    *answers = (struct answers){0};
}

static serverd_status no_memory(serverd_error *err)
{
    return fail(err, SERVERD_NOMEM, "no memory for a self-test");
}

static serverd_status take_answers(const struct program *program, const struct sdp_tests *tests,
                                   struct answers *out, serverd_error *err)
{
    const serverd_graph *graph = &program->graph;
    *out = (struct answers){.width = (uint32_t)value_width(&graph->values[graph->output]),
                            .n_cases = tests->n_cases};
    for (uint32_t i = 0; i < tests->n_cases; i++) {
        const struct sdp_case *c = &tests->cases[i];
        size_t floats;
        if (!size_mul(sdp_case_rows(c), out->width, &floats) ||
            !(out->rows[i] = calloc(floats, sizeof(float))) ||
            !(out->greedy[i] = calloc((size_t)c->n_greedy + 1, sizeof(int32_t))))
            return no_memory(err);
    }
    return SERVERD_OK;
}

static serverd_status check_finite(const struct sdp_tests *tests, const struct answers *answers,
                                   serverd_error *err)
{
    for (uint32_t i = 0; i < tests->n_cases; i++)
        for (size_t r = 0; r < sdp_case_rows(&tests->cases[i]); r++)
            for (size_t k = 0; k < answers->width; k++)
                if (!isfinite(answers->rows[i][r * answers->width + k]))
                    return fail(err, SERVERD_NUMERIC,
                                "case %u of %u tokens, row %zu: number %zu is not finite", i,
                                tests->cases[i].n_tokens, r, k);
    return SERVERD_OK;
}

/* ---- on a device ----------------------------------------------------------------------------- */

/* Logits are large: no step gives more rows of them, but one for each case. */
enum { OUTPUT_ROWS = 16 };

/* Everything of a step, for the largest one. */
struct answering {
    const struct sdp_tests *tests;
    struct runtime *runtime;
    struct answers *answers;
    bool is_encoder;
    uint32_t max_rows, max_outputs, max_pages; /* pages of a case */
    int32_t *token, *position;                 /* [max_rows] */
    uint32_t *row_seq, *logit_row;
    uint32_t *pages; /* [n_cases][max_pages] */
    uint32_t *table; /* of the cases of a step */
    float *out;      /* [max_outputs][width] */
    float **to;      /* [max_outputs] where each row of `out` goes */
    serverd_batch batch;
    uint32_t last_case; /* that the step has a row of */
};

static void begin_step(struct answering *a)
{
    a->batch = (serverd_batch){.struct_bytes = sizeof a->batch,
                               .token = a->token,
                               .position = a->position,
                               .row_seq = a->row_seq,
                               .logit_row = a->logit_row,
                               .page_table = a->is_encoder ? NULL : a->table,
                               .max_pages = a->is_encoder ? 0 : a->max_pages,
                               .step = a->batch.step + 1};
    a->last_case = UINT32_MAX;
}

/* to: NULL if the row's logits are not wanted. */
static void add_row(struct answering *a, uint32_t index, int32_t token, uint32_t position,
                    float *to)
{
    serverd_batch *batch = &a->batch;
    if (a->last_case != index) {
        memcpy(a->table + (size_t)batch->n_seqs * a->max_pages,
               a->pages + (size_t)index * a->max_pages, a->max_pages * sizeof *a->table);
        if (a->is_encoder)
            a->to[batch->n_seqs] = a->answers->rows[index];
        batch->n_seqs++;
        a->last_case = index;
    }
    if (to) {
        a->to[batch->n_logit_rows] = to;
        a->logit_row[batch->n_logit_rows++] = batch->n_rows;
    }
    a->token[batch->n_rows] = token;
    a->position[batch->n_rows] = (int32_t)position;
    a->row_seq[batch->n_rows++] = batch->n_seqs - 1;
}

static serverd_status end_step(struct answering *a, serverd_error *err)
{
    const size_t width = a->answers->width;
    serverd_status status = runtime_execute(a->runtime, &a->batch, a->out, err);
    const uint32_t n = a->is_encoder ? a->batch.n_seqs : a->batch.n_logit_rows;
    for (uint32_t i = 0; i < n && status == SERVERD_OK; i++)
        memcpy(a->to[i], a->out + i * width, width * sizeof *a->out);
    return status;
}

static serverd_status run_prompts(struct answering *a, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    begin_step(a);
    for (uint32_t i = 0; i < a->tests->n_cases && status == SERVERD_OK; i++) {
        const struct sdp_case *c = &a->tests->cases[i];
        uint32_t next = 0; /* position whose logits are wanted next */
        for (uint32_t t = 0; t < c->n_tokens && status == SERVERD_OK; t++) {
            const uint32_t at_least = a->is_encoder && t == 0 ? c->n_tokens : 1;
            if (a->batch.n_rows > 0 && (a->batch.n_rows + at_least > a->max_rows ||
                                        a->batch.n_logit_rows == a->max_outputs)) {
                status = end_step(a, err);
                begin_step(a);
            }
            const bool is_wanted = next < c->n_positions && c->position[next] == t;
            add_row(a, i, c->token[t], t,
                    is_wanted ? a->answers->rows[i] + (size_t)next * a->answers->width : NULL);
            next += is_wanted;
        }
    }
    return status == SERVERD_OK ? end_step(a, err) : status;
}

/* Ties go to the lowest id. */
static int32_t likeliest(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

/* The likeliest token behind each case, and behind that, and so on. */
static serverd_status run_greedy(struct answering *a, serverd_error *err)
{
    const struct sdp_tests *tests = a->tests;
    const uint32_t width = a->answers->width;
    float *logits = calloc(tests->n_cases, width * sizeof *logits);
    if (!logits)
        return no_memory(err);
    for (uint32_t i = 0; i < tests->n_cases; i++) {
        const struct sdp_case *c = &tests->cases[i];
        const bool is_last = c->position[c->n_positions - 1] + 1 == c->n_tokens;
        if (c->n_greedy > 0 && is_last)
            memcpy(logits + (size_t)i * width,
                   a->answers->rows[i] + (size_t)(c->n_positions - 1) * width,
                   width * sizeof *logits);
    }
    serverd_status status = SERVERD_OK;
    for (uint32_t g = 0; status == SERVERD_OK; g++) {
        begin_step(a);
        for (uint32_t i = 0; i < tests->n_cases; i++) {
            const struct sdp_case *c = &tests->cases[i];
            float *row = logits + (size_t)i * width;
            if (g >= c->n_greedy)
                continue;
            const int32_t token = likeliest(row, width);
            a->answers->greedy[i][g] = token;
            if (g + 1 < c->n_greedy)
                add_row(a, i, token, c->n_tokens + g, row);
        }
        if (a->batch.n_rows == 0)
            break;
        status = end_step(a, err);
    }
    free(logits);
    return status;
}

static uint32_t longest_of(const struct sdp_tests *tests)
{
    uint32_t longest = 0;
    for (uint32_t i = 0; i < tests->n_cases; i++)
        longest = (uint32_t)max_size(longest, tests->cases[i].n_tokens + tests->cases[i].n_greedy);
    return longest;
}

static serverd_status take_memory(struct answering *a, uint32_t rows, serverd_error *err)
{
    const struct sdp_tests *tests = a->tests;
    uint32_t total = 0, longest = 0;
    for (uint32_t i = 0; i < tests->n_cases; i++) {
        total += tests->cases[i].n_tokens;
        longest = (uint32_t)max_size(longest, tests->cases[i].n_tokens);
    }
    a->max_rows = (uint32_t)min_size(max_size(rows, a->is_encoder ? longest : tests->n_cases),
                                     max_size(total, tests->n_cases));
    a->max_outputs = (uint32_t)min_size(a->max_rows, max_size(tests->n_cases, OUTPUT_ROWS));
    a->max_pages = (longest_of(tests) + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS;
    const size_t n = a->max_rows, pages = (size_t)tests->n_cases * a->max_pages;
    a->token = calloc(n, sizeof *a->token);
    a->position = calloc(n, sizeof *a->position);
    a->row_seq = calloc(n, sizeof *a->row_seq);
    a->logit_row = calloc(n, sizeof *a->logit_row);
    a->pages = calloc(pages, sizeof *a->pages);
    a->table = calloc(pages, sizeof *a->table);
    a->out = calloc(a->max_outputs, a->answers->width * sizeof *a->out);
    a->to = calloc(a->max_outputs, sizeof *a->to);
    if (!a->token || !a->position || !a->row_seq || !a->logit_row || !a->pages || !a->table ||
        !a->out || !a->to)
        return no_memory(err);
    for (uint32_t p = 0; p < pages; p++)
        a->pages[p] = p;
    return SERVERD_OK;
}

static serverd_status open_runtime(struct answering *a, struct program *program,
                                   const struct self_test_options *options, serverd_error *err)
{
    const struct runtime_options opening = {
        .delegates = builtin_delegates,
        .n_delegates = n_builtin_delegates,
        .device = options->device,
        .pool = options->pool,
        .clock = &system_clock,
        .limits = {.struct_bytes = sizeof opening.limits,
                   .max_rows = a->max_rows,
                   .max_logit_rows = a->max_outputs,
                   .max_seqs = a->tests->n_cases,
                   .max_context = longest_of(a->tests)},
        .kv_dtype = a->tests->kv_dtype,
        .n_pages = a->is_encoder ? 0 : a->tests->n_cases * a->max_pages};
    return runtime_open(program, &opening, &a->runtime, err);
}

static bool is_packed(const struct placement *placement)
{
    for (uint32_t p = 0; p < placement->n_partitions; p++) {
        const struct placement_device *device =
            &placement->devices[placement->partitions[p].device];
        if (strcmp(device->delegate->name, SELF_TEST_DELEGATE) != 0)
            return false;
    }
    return true;
}

serverd_status answer_cases(struct program *program, const struct sdp_tests *tests,
                            const struct self_test_options *options, struct answers *out,
                            serverd_error *err)
{
    struct answering a = {.tests = tests, .answers = out, .is_encoder = program->config.is_encoder};
    serverd_status status = take_answers(program, tests, out, err);
    if (status == SERVERD_OK)
        status = take_memory(&a, options->rows, err);
    if (status == SERVERD_OK)
        status = open_runtime(&a, program, options, err);
    if (status == SERVERD_OK) {
        out->is_packed = is_packed(runtime_placement(a.runtime));
        status = run_prompts(&a, err);
    }
    if (status == SERVERD_OK)
        status = check_finite(tests, out, err);
    if (status == SERVERD_OK && !a.is_encoder)
        status = run_greedy(&a, err);
    runtime_close(a.runtime);
    free(a.token);
    free(a.position);
    free(a.row_seq);
    free(a.logit_row);
    free(a.pages);
    free(a.table);
    free(a.out);
    free(a.to);
    if (status != SERVERD_OK)
        answers_free(out);
    return status;
}

/* ---- exactly --------------------------------------------------------------------------------- */

/* The cases as sequences, one behind the other. */
static serverd_status join_cases(const struct sdp_tests *tests, struct token_sequences *out,
                                 serverd_error *err)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < tests->n_cases; i++)
        n += tests->cases[i].n_tokens;
    *out = (struct token_sequences){.token = calloc((size_t)n + 1, sizeof *out->token),
                                    .begin = calloc((size_t)tests->n_cases + 1, sizeof *out->begin),
                                    .n = tests->n_cases};
    if (!out->token || !out->begin)
        return no_memory(err);
    for (uint32_t i = 0; i < tests->n_cases; i++) {
        const struct sdp_case *c = &tests->cases[i];
        memcpy(out->token + out->begin[i], c->token, c->n_tokens * sizeof *c->token);
        out->begin[i + 1] = out->begin[i] + c->n_tokens;
    }
    return SERVERD_OK;
}

/* Logits are wanted at the cases' positions alone: the head is the largest layer. */
static void select_rows(struct forward *forward, const struct sdp_tests *tests,
                        const struct token_sequences *sequences)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < tests->n_cases; i++)
        for (uint32_t p = 0; p < tests->cases[i].n_positions; p++)
            forward->logit_row[n++] = sequences->begin[i] + tests->cases[i].position[p];
    forward->batch.n_logit_rows = n;
}

/* All nodes; weights leave memory behind the node that read them. */
static serverd_status run_nodes(struct forward *forward, const struct program *program,
                                serverd_error *err)
{
    const serverd_graph *graph = &program->graph;
    serverd_status status = SERVERD_OK;
    for (uint32_t n = 0; n < graph->n_nodes && status == SERVERD_OK; n++) {
        const serverd_node *node = &graph->nodes[n];
        status = forward_run_to(forward, n + 1, err);
        for (uint32_t i = 0; i < node->n_inputs; i++) {
            const serverd_value *value = node_input(graph, node, i);
            if (value->kind == SERVERD_VALUE_CONSTANT)
                program_forget_tensor(program, value->tensor);
        }
    }
    return status;
}

static serverd_status run_exactly(const struct program *program, const struct sdp_tests *tests,
                                  const struct token_sequences *sequences, struct worker_pool *pool,
                                  struct answers *out, serverd_error *err)
{
    struct forward *forward = NULL;
    serverd_status status =
        forward_create(&program->graph, longest_of(tests), sequences, pool, &forward, err);
    if (status != SERVERD_OK)
        return status;
    select_rows(forward, tests, sequences);
    status = run_nodes(forward, program, err);
    const float *row = status == SERVERD_OK ? forward->values[program->graph.output] : NULL;
    for (uint32_t i = 0; i < tests->n_cases && row; i++) {
        const size_t floats = (size_t)sdp_case_rows(&tests->cases[i]) * out->width;
        memcpy(out->rows[i], row, floats * sizeof *row);
        row += floats;
    }
    forward_destroy(forward);
    return status;
}

serverd_status answer_exactly(const struct program *program, const struct sdp_tests *tests,
                              struct worker_pool *pool, struct answers *out, serverd_error *err)
{
    struct token_sequences sequences = {0};
    serverd_status status = take_answers(program, tests, out, err);
    if (status == SERVERD_OK)
        status = join_cases(tests, &sequences, err);
    if (status == SERVERD_OK)
        status = run_exactly(program, tests, &sequences, pool, out, err);
    if (status == SERVERD_OK)
        status = check_finite(tests, out, err);
    free(sequences.token);
    free(sequences.begin);
    if (status != SERVERD_OK)
        answers_free(out);
    return status;
}
