#include "kernels/batch_check.h"

#include "base/error.h"
#include "base/numeric.h"
#include "program/op.h"

#include <float.h>
#include <stdbool.h>

void batch_bounds_find(struct batch_bounds *bounds, const serverd_graph *graph,
                       const serverd_partition *partition)
{
    bounds->n_tokens = INT32_MAX;
    bounds->n_positions = bounds->limits.max_context;
    bounds->n_segments = UINT8_MAX + 1;
    for (uint32_t i = partition->first_node; i < partition->first_node + partition->n_nodes; i++) {
        const serverd_node *node = &graph->nodes[i];
        if (node->op != SERVERD_OP_EMBED)
            continue;
        uint64_t rows = graph->tensors[node_input(graph, node, 0)->tensor].dims[0];
        if (node->attributes.embed.index == SERVERD_INDEX_TOKEN)
            bounds->n_tokens = min_size(bounds->n_tokens, rows);
        else if (node->attributes.embed.index == SERVERD_INDEX_POSITION)
            bounds->n_positions = min_size(bounds->n_positions, rows);
        else
            bounds->n_segments = min_size(bounds->n_segments, rows);
    }
}

/* Sequences stand in order, none is left out, and a row follows the one before it. */
static bool follows(const serverd_batch *batch, uint32_t row)
{
    if (row == 0)
        return batch->row_seq[0] == 0;
    if (batch->row_seq[row] == batch->row_seq[row - 1])
        return batch->position[row] == batch->position[row - 1] + 1;
    return batch->row_seq[row] == batch->row_seq[row - 1] + 1;
}

static serverd_status check_rows(const struct batch_bounds *bounds, const serverd_batch *batch,
                                 serverd_error *err)
{
    for (uint32_t row = 0; row < batch->n_rows; row++) {
        int32_t token = batch->token[row], position = batch->position[row];
        if (token < 0 || (uint64_t)token >= bounds->n_tokens || position < 0 ||
            (uint64_t)position >= bounds->n_positions || !follows(batch, row))
            return fail(err, SERVERD_INTERNAL,
                        "%s: row %u is token %d at position %d of sequence %u", bounds->name, row,
                        token, position, batch->row_seq[row]);
        if (batch->segment && batch->segment[row] >= bounds->n_segments)
            return fail(err, SERVERD_INTERNAL, "%s: row %u is of segment %u, there are %u",
                        bounds->name, row, batch->segment[row], (unsigned)bounds->n_segments);
    }
    for (uint32_t i = 0; i < batch->n_logit_rows; i++)
        if (batch->logit_row[i] >= batch->n_rows ||
            (i > 0 && batch->logit_row[i] <= batch->logit_row[i - 1]))
            return fail(err, SERVERD_INTERNAL, "%s: logit row %u of %u", bounds->name,
                        batch->logit_row[i], batch->n_rows);
    return SERVERD_OK;
}

/* Entries first .. end - 1 of a sequence's table. */
static serverd_status check_entries(const struct batch_bounds *bounds, const uint32_t *table,
                                    uint32_t seq, uint32_t first, uint32_t end, uint32_t n_pages,
                                    serverd_error *err)
{
    for (uint32_t i = first; i < end; i++)
        if (table[i] >= n_pages)
            return fail(err, SERVERD_INTERNAL, "%s: sequence %u has no page for token %u",
                        bounds->name, seq, i * SERVERD_PAGE_TOKENS);
    return SERVERD_OK;
}

/* The last row of a sequence needs the most pages, the first one the oldest window page. */
static serverd_status check_pages(const struct batch_bounds *bounds, const serverd_batch *batch,
                                  serverd_error *err)
{
    const uint32_t window = bounds->n_window_pages > 0 ? bounds->window : 0;
    serverd_status status = SERVERD_OK;
    if (!batch->page_table || (window > 0 && !batch->window_table))
        return fail(err, SERVERD_INTERNAL, "%s: a decoder without KV pages", bounds->name);
    for (uint32_t row = 0, first = 0; row < batch->n_rows && status == SERVERD_OK; row++) {
        uint32_t seq = batch->row_seq[row];
        if (row + 1 < batch->n_rows && batch->row_seq[row + 1] == seq)
            continue;
        uint32_t end = (uint32_t)batch->position[row] / SERVERD_PAGE_TOKENS + 1;
        uint32_t oldest = (uint32_t)batch->position[first] + 1;
        oldest = oldest > window ? (oldest - window) / SERVERD_PAGE_TOKENS : 0;
        size_t at = (size_t)seq * batch->max_pages;
        if (end > batch->max_pages)
            return fail(err, SERVERD_INTERNAL, "%s: sequence %u needs %u pages, the table has %u",
                        bounds->name, seq, end, batch->max_pages);
        status = check_entries(bounds, batch->page_table + at, seq, 0, end, bounds->n_pages, err);
        if (status == SERVERD_OK && window > 0)
            status = check_entries(bounds, batch->window_table + at, seq, oldest, end,
                                   bounds->n_window_pages, err);
        first = row + 1;
    }
    return status;
}

serverd_status batch_check(const struct batch_bounds *bounds, const serverd_batch *batch,
                           serverd_error *err)
{
    const serverd_limits *limits = &bounds->limits;
    if (batch->n_rows == 0 || batch->n_rows > limits->max_rows ||
        batch->n_seqs > limits->max_seqs || batch->n_logit_rows > limits->max_logit_rows ||
        batch->row_seq[batch->n_rows - 1] + 1 != batch->n_seqs)
        return fail(err, SERVERD_INTERNAL,
                    "%s: %u rows, %u sequences, %u logit rows are too many or do not fit",
                    bounds->name, batch->n_rows, batch->n_seqs, batch->n_logit_rows);
    serverd_status status = check_rows(bounds, batch, err);
    return status == SERVERD_OK && bounds->n_pages > 0 ? check_pages(bounds, batch, err) : status;
}

static bool is_number(double value, double least, double most)
{
    return value >= least && value <= most; /* NaN is not */
}

static bool can_draw(const serverd_batch *batch, const serverd_draw *draw)
{
    return draw->kind <= SERVERD_DRAW_RANDOM && draw->first_change <= batch->n_changes &&
           draw->n_changes <= batch->n_changes - draw->first_change &&
           (draw->mask == SERVERD_NO_MASK || draw->mask < batch->n_masks) &&
           (draw->kind != SERVERD_DRAW_RANDOM ||
            (is_number(draw->u, 0, 1) && draw->u < 1 &&
             is_number((double)draw->scale, 0, DBL_MAX) && is_number((double)draw->top_p, 0, 1) &&
             is_number((double)draw->min_p, 0, 1)));
}

serverd_status batch_check_draws(const struct batch_bounds *bounds, const serverd_batch *batch,
                                 uint64_t n_vocab, serverd_error *err)
{
    if (!batch->draw)
        return SERVERD_OK;
    if (!batch->drawn || batch->n_changes > SERVERD_MAX_CHANGES ||
        batch->n_masks > SERVERD_MAX_MASKS)
        return fail(err, SERVERD_INTERNAL, "%s: %u changes of logits, %u masks, at most %u, %u",
                    bounds->name, batch->n_changes, batch->n_masks, SERVERD_MAX_CHANGES,
                    SERVERD_MAX_MASKS);
    for (uint32_t i = 0; i < batch->n_changes; i++)
        if (batch->change[i].token < 0 || (uint64_t)batch->change[i].token >= n_vocab)
            return fail(err, SERVERD_INTERNAL, "%s: a change of logit %d of %llu", bounds->name,
                        batch->change[i].token, (unsigned long long)n_vocab);
    for (uint32_t i = 0; i < batch->n_logit_rows; i++)
        if (!can_draw(batch, &batch->draw[i]))
            return fail(err, SERVERD_INTERNAL, "%s: logit row %u has a draw that cannot be",
                        bounds->name, i);
    return SERVERD_OK;
}
