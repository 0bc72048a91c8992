#include "tools/compile/diff_run.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/op.h"
#include "tools/compile/diff_judge.h"
#include "tools/compile/diff_probe.h"

#include <stdlib.h>
#include <string.h>

#define NOBODY UINT32_MAX

/* One side: its program, its run, and who reads which value last. */
struct side {
    const struct subject *subject;
    const serverd_graph *graph;
    struct probe probe;
    struct probe_values values;
    uint32_t *last_group; /* [n_values] that reads it */
    uint32_t *group_of;   /* [n_nodes] */
    uint32_t n_groups;
};

struct comparison {
    struct side a, b;
    struct probe_values forced; /* of B: inputs are A's, outputs its own */
    uint32_t *to_a;             /* [b.n_nodes] the node of A that does the same, or NOBODY */
    uint32_t *pair_of;          /* [a.n_nodes] index in nodes, or NOBODY */
    struct diff_run *out;
};

static uint32_t output_of(const serverd_graph *graph, uint32_t node)
{
    const serverd_node *n = &graph->nodes[node];
    return graph->operands[n->first_operand + n->n_inputs];
}

/* ---- groups ---------------------------------------------------------------------------------- */

static serverd_status find_groups(struct side *side, serverd_error *err)
{
    const serverd_graph *graph = side->graph;
    side->group_of = calloc(graph->n_nodes, sizeof *side->group_of);
    side->last_group = calloc(graph->n_values, sizeof *side->last_group);
    if (!side->group_of || !side->last_group)
        return fail(err, SERVERD_NOMEM, "no memory for %u nodes", graph->n_nodes);
    for (uint32_t n = 0; n < graph->n_nodes; n++) {
        side->n_groups += n == 0 || graph->nodes[n].layer != graph->nodes[n - 1].layer;
        side->group_of[n] = side->n_groups - 1;
        for (uint32_t i = 0; i < graph->nodes[n].n_inputs; i++)
            side->last_group[graph->operands[graph->nodes[n].first_operand + i]] =
                side->n_groups - 1;
    }
    side->last_group[graph->output] = side->n_groups; /* nobody may let go of it */
    return SERVERD_OK;
}

static void group_range(const struct side *side, uint32_t group, uint32_t *first, uint32_t *end)
{
    uint32_t n = 0;
    while (side->group_of[n] != group)
        n++;
    *first = n;
    while (n < side->graph->n_nodes && side->group_of[n] == group)
        n++;
    *end = n;
}

/* What a group hands on: the last of its values that others read. */
static uint32_t residual_of(const struct side *side, uint32_t group)
{
    uint32_t first, end;
    group_range(side, group, &first, &end);
    while (end > first + 1 && side->last_group[output_of(side->graph, end - 1)] <= group)
        end--;
    return output_of(side->graph, end - 1);
}

/* ---- pairs ----------------------------------------------------------------------------------- */

static bool does_the_same(const serverd_graph *a, uint32_t i, const serverd_graph *b, uint32_t j)
{
    return a->nodes[i].op == b->nodes[j].op &&
           value_width(node_output(a, &a->nodes[i])) == value_width(node_output(b, &b->nodes[j])) &&
           strcmp(node_weights(a, i), node_weights(b, j)) == 0;
}

/* Nodes that do the same, in order; what one side has alone is stepped over. */
static void pair_group(struct comparison *c, uint32_t group)
{
    uint32_t i, end_a, j, end_b, n_pairs = 0;
    group_range(&c->a, group, &i, &end_a);
    group_range(&c->b, group, &j, &end_b);
    uint32_t n_both = end_a - i + end_b - j;
    c->out->groups[group] =
        (struct diff_group){.layer = c->a.graph->nodes[i].layer, .n_nodes = end_a - i};
    for (; i < end_a; i++) {
        uint32_t found = j;
        while (found < end_b && !does_the_same(c->a.graph, i, c->b.graph, found))
            found++;
        if (found == end_b)
            continue;
        c->pair_of[i] = c->out->n_nodes;
        c->to_a[found] = i;
        c->out->nodes[c->out->n_nodes++] = (struct diff_node){.a = i, .b = found, .group = group};
        j = found + 1;
        n_pairs++;
    }
    c->out->groups[group].n_alone = n_both - 2 * n_pairs;
}

static serverd_status check_alike(const struct comparison *c, serverd_error *err)
{
    const struct side *a = &c->a, *b = &c->b;
    if (a->n_groups != b->n_groups)
        return fail(err, SERVERD_UNSUPPORTED, "A has %u layers, B has %u",
                    a->subject->program->config.n_layers, b->subject->program->config.n_layers);
    for (uint32_t g = 0; g < a->n_groups; g++) {
        uint64_t width_a = value_width(&a->graph->values[residual_of(a, g)]);
        uint64_t width_b = value_width(&b->graph->values[residual_of(b, g)]);
        if (width_a != width_b)
            return fail(err, SERVERD_UNSUPPORTED,
                        "group %u: A hands on rows of %llu numbers, B of %llu", g,
                        (unsigned long long)width_a, (unsigned long long)width_b);
    }
    return SERVERD_OK;
}

static serverd_status pair_all(struct comparison *c, serverd_error *err)
{
    c->to_a = malloc(c->b.graph->n_nodes * sizeof *c->to_a);
    c->pair_of = malloc(c->a.graph->n_nodes * sizeof *c->pair_of);
    c->out->nodes = calloc(c->a.graph->n_nodes, sizeof *c->out->nodes);
    c->out->groups = calloc(c->a.n_groups, sizeof *c->out->groups);
    if (!c->to_a || !c->pair_of || !c->out->nodes || !c->out->groups)
        return fail(err, SERVERD_NOMEM, "no memory to pair %u nodes", c->a.graph->n_nodes);
    memset(c->to_a, 0xff, c->b.graph->n_nodes * sizeof *c->to_a);
    memset(c->pair_of, 0xff, c->a.graph->n_nodes * sizeof *c->pair_of);
    c->out->n_groups = c->a.n_groups;
    for (uint32_t g = 0; g < c->a.n_groups; g++)
        pair_group(c, g);
    return SERVERD_OK;
}

/* ---- running --------------------------------------------------------------------------------- */

static serverd_status run_group(struct side *side, uint32_t group, serverd_error *err)
{
    uint32_t first, end;
    serverd_status status = SERVERD_OK;
    group_range(side, group, &first, &end);
    for (uint32_t n = first; n < end && status == SERVERD_OK; n++)
        status = probe_run(&side->probe, n, &side->values, &side->values, err);
    return status;
}

/* B's node on A's inputs, if A has them all: `forced` borrows them for the call. */
static serverd_status run_forced(struct comparison *c, struct diff_node *pair, serverd_error *err)
{
    const serverd_graph *a = c->a.graph, *b = c->b.graph;
    const serverd_node *node = &b->nodes[pair->b];
    const uint32_t *inputs = b->operands + node->first_operand;
    uint32_t output = output_of(b, pair->b);
    bool has_all = true;
    for (uint32_t i = 0; i < node->n_inputs; i++) {
        uint32_t producer = b->values[inputs[i]].producer;
        if (b->values[inputs[i]].kind != SERVERD_VALUE_ACTIVATION)
            continue;
        has_all &= c->to_a[producer] != NOBODY;
        if (has_all)
            c->forced.rows[inputs[i]] = c->a.values.rows[output_of(a, c->to_a[producer])];
    }
    serverd_status status = SERVERD_OK;
    if (has_all)
        status = probe_run(&c->b.probe, pair->b, &c->forced, &c->forced, err);
    pair->is_own = has_all;
    if (has_all && status == SERVERD_OK)
        gap_add(&pair->own, c->a.values.rows[output_of(a, pair->a)], c->forced.rows[output],
                probe_floats(&c->b.probe, output));
    for (uint32_t i = 0; i < node->n_inputs; i++)
        if (b->values[inputs[i]].kind == SERVERD_VALUE_ACTIVATION)
            c->forced.rows[inputs[i]] = NULL;
    probe_values_drop(&c->forced, output);
    return status;
}

static void measure_residual(struct comparison *c, uint32_t group)
{
    uint32_t a = residual_of(&c->a, group), b = residual_of(&c->b, group);
    size_t n = min_size(probe_floats(&c->a.probe, a), probe_floats(&c->b.probe, b));
    gap_add(&c->out->groups[group].whole, c->a.values.rows[a], c->b.values.rows[b], n);
}

static serverd_status compare_group(struct comparison *c, uint32_t group, serverd_error *err)
{
    serverd_status status = run_group(&c->a, group, err);
    if (status != SERVERD_OK)
        return error_context(err, "A");
    status = run_group(&c->b, group, err);
    for (uint32_t i = 0; i < c->out->n_nodes && status == SERVERD_OK; i++) {
        struct diff_node *pair = &c->out->nodes[i];
        uint32_t a = output_of(c->a.graph, pair->a), b = output_of(c->b.graph, pair->b);
        if (pair->group != group)
            continue;
        gap_add(&pair->whole, c->a.values.rows[a], c->b.values.rows[b],
                probe_floats(&c->b.probe, b));
        status = run_forced(c, pair, err);
    }
    if (status == SERVERD_OK)
        measure_residual(c, group);
    return status == SERVERD_OK ? SERVERD_OK : error_context(err, "B");
}

/* Values that no later group reads. */
static void let_go(struct side *side, uint32_t group)
{
    for (uint32_t v = 0; v < side->graph->n_values; v++)
        if (side->values.rows[v] && side->last_group[v] <= group)
            probe_values_drop(&side->values, v);
}

static void measure_logits(struct comparison *c, uint32_t n_rows)
{
    const struct program_config *config = &c->a.subject->program->config;
    if (config->is_encoder)
        return;
    for (uint32_t r = 0; r < n_rows; r++)
        logits_gap_add(
            &c->out->logits, c->a.values.rows[c->a.graph->output] + (size_t)r * config->n_vocab,
            c->b.values.rows[c->b.graph->output] + (size_t)r * config->n_vocab, config->n_vocab);
}

/* Logits of rows evenly spread, the last among them: a vocabulary is wide. */
static uint32_t choose_rows(uint32_t n, uint32_t out[LIMIT_DIFF_LOGIT_ROWS])
{
    uint32_t n_rows = (uint32_t)min_size(n, LIMIT_DIFF_LOGIT_ROWS);
    for (uint32_t i = 0; i < n_rows; i++)
        out[i] = (uint32_t)((uint64_t)(i + 1) * n / n_rows) - 1;
    return n_rows;
}

static serverd_status compare_sequence(struct comparison *c, const struct token_sequence *sequence,
                                       serverd_error *err)
{
    uint32_t rows[LIMIT_DIFF_LOGIT_ROWS], n_rows = choose_rows(sequence->n, rows);
    serverd_status status = SERVERD_OK;
    probe_begin(&c->a.probe, sequence->id, sequence->n, rows, n_rows);
    probe_begin(&c->b.probe, sequence->id, sequence->n, rows, n_rows);
    for (uint32_t g = 0; g < c->a.n_groups && status == SERVERD_OK; g++) {
        status = compare_group(c, g, err);
        let_go(&c->a, g);
        let_go(&c->b, g);
    }
    if (status == SERVERD_OK)
        measure_logits(c, n_rows);
    probe_values_drop(&c->a.values, c->a.graph->output);
    probe_values_drop(&c->b.values, c->b.graph->output);
    return status;
}

/* ---- life ------------------------------------------------------------------------------------ */

static serverd_status open_side(struct side *side, uint32_t max_tokens, serverd_error *err)
{
    side->graph = &side->subject->program->graph;
    if (side->graph->n_nodes == 0)
        return fail(err, SERVERD_UNSUPPORTED, "%s: a vocabulary without a graph",
                    side->subject->path);
    serverd_status status = find_groups(side, err);
    if (status == SERVERD_OK)
        status = probe_values_init(&side->values, side->graph, err);
    if (status == SERVERD_OK)
        status = probe_open(&side->probe, side->subject, max_tokens,
                            (uint32_t)min_size(max_tokens, LIMIT_DIFF_LOGIT_ROWS), err);
    return status;
}

static void close_side(struct side *side)
{
    probe_close(&side->probe);
    probe_values_deinit(&side->values);
    free(side->last_group);
    free(side->group_of);
}

static serverd_status compare(struct comparison *c, const struct token_sequences *tokens,
                              serverd_error *err)
{
    uint32_t longest = 1;
    for (uint32_t i = 0; i < tokens->n; i++)
        longest = (uint32_t)max_size(longest, tokens->items[i].n);
    serverd_status status = open_side(&c->a, longest, err);
    if (status == SERVERD_OK)
        status = open_side(&c->b, longest, err);
    if (status == SERVERD_OK)
        status = check_alike(c, err);
    if (status == SERVERD_OK)
        status = pair_all(c, err);
    if (status == SERVERD_OK)
        status = probe_values_init(&c->forced, c->b.graph, err);
    for (uint32_t i = 0; i < tokens->n && status == SERVERD_OK; i++)
        status = compare_sequence(c, &tokens->items[i], err);
    return status;
}

static void find_worst(struct diff_run *run)
{
    for (uint32_t i = 0; i < run->n_nodes; i++) {
        struct diff_group *group = &run->groups[run->nodes[i].group];
        double noise = gap_noise(&run->nodes[i].own);
        group->own_noise = noise > group->own_noise ? noise : group->own_noise;
    }
}

serverd_status diff_run(const struct subject *a, const struct subject *b,
                        const struct diff_files *files, const struct token_sequences *tokens,
                        struct diff_run *out, serverd_error *err)
{
    *out = (struct diff_run){.bad_node = UINT32_MAX};
    struct comparison c = {.a = {.subject = a}, .b = {.subject = b}, .out = out};
    serverd_status status = compare(&c, tokens, err);
    if (status == SERVERD_OK) {
        find_worst(out);
        status = diff_judge(out, files, c.a.graph, c.b.graph, err);
    }
    close_side(&c.a);
    close_side(&c.b);
    probe_values_deinit(&c.forced);
    free(c.to_a);
    free(c.pair_of);
    return status;
}

void diff_run_free(struct diff_run *run)
{
    free(run->nodes);
    free(run->groups);
    *run = (struct diff_run){0};
}
