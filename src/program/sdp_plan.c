#include "program/sdp_plan.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/op.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Far above any memory, and far below what overflows when some are added. */
#define MOST_BYTES ((uint64_t)1 << 48)

#define NO_BUFFER UINT32_MAX

_Static_assert(sizeof(serverd_buffer) == sizeof(struct sdp_buffer) &&
                   offsetof(serverd_buffer, offset) == offsetof(struct sdp_buffer, offset) &&
                   offsetof(serverd_buffer, last_use) == offsetof(struct sdp_buffer, last_use),
               "buffers are used in place");

uint64_t plan_rows(const serverd_limits *limits, const serverd_value *value)
{
    if (value->dims[0] == SERVERD_DIM_SEQS)
        return limits->max_seqs;
    return value->dims[0] == SERVERD_DIM_SELECTED ? limits->max_logit_rows : limits->max_rows;
}

uint64_t plan_buffer_bytes(const serverd_limits *limits, const serverd_graph *graph,
                           const serverd_buffer *buffer)
{
    const uint64_t rows = plan_rows(limits, &graph->values[buffer->value]);
    return (buffer->fixed_bytes + buffer->row_bytes * rows + 63) / 64 * 64;
}

uint64_t plan_naive_bytes(const struct program_plan *plan, const serverd_graph *graph)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < plan->plan.n_buffers; i++)
        bytes += plan_buffer_bytes(&plan->limits, graph, &plan->plan.buffers[i]);
    return bytes;
}

/* ---- replay ---------------------------------------------------------------------------------- */

struct replay {
    const struct program_plan *plan;
    const serverd_graph *graph;
    uint32_t *buffer_of; /* [n_values] that of form 0, or NO_BUFFER */
    uint32_t *made_by;   /* [n_values] node of the partition, or NO_BUFFER */
    uint32_t live[LIMIT_LIVE_BUFFERS];
    uint32_t n_live;
};

/* Its size is what the limits make of it, and it holds its value. */
static serverd_status check_size(const struct replay *replay, const serverd_buffer *buffer,
                                 serverd_error *err)
{
    const serverd_graph *graph = replay->graph;
    const serverd_limits *limits = &replay->plan->limits;
    if (buffer->value >= graph->n_values ||
        graph->values[buffer->value].kind == SERVERD_VALUE_CONSTANT)
        return fail(err, SERVERD_CORRUPT, "value: %u is none that a step makes", buffer->value);
    const serverd_value *value = &graph->values[buffer->value];
    const uint64_t rows = plan_rows(limits, value), width = value_width(value) * sizeof(float);
    if (buffer->row_bytes > MOST_BYTES / max_size(rows, 1) || buffer->fixed_bytes > MOST_BYTES ||
        buffer->offset > MOST_BYTES)
        return fail(err, SERVERD_CORRUPT, "row_bytes: %" PRIu64 " is too much", buffer->row_bytes);
    if (buffer->form == 0 && buffer->row_bytes != width)
        return fail(err, SERVERD_CORRUPT, "row_bytes: %" PRIu64 ", the value has %" PRIu64,
                    buffer->row_bytes, width);
    if (buffer->offset % 64 != 0 ||
        buffer->offset + plan_buffer_bytes(limits, graph, buffer) > replay->plan->plan.arena_bytes)
        return fail(err, SERVERD_CORRUPT,
                    "offset: %" PRIu64 " with %" PRIu64
                    " bytes is not on 64, or leaves the arena of %" PRIu64,
                    buffer->offset, plan_buffer_bytes(limits, graph, buffer),
                    replay->plan->plan.arena_bytes);
    return SERVERD_OK;
}

/* Against all that are alive when it begins; those that have ended are dropped. */
static serverd_status begin_buffer(struct replay *replay, uint32_t index, serverd_error *err)
{
    const serverd_limits *limits = &replay->plan->limits;
    const serverd_buffer *buffers = replay->plan->plan.buffers, *buffer = &buffers[index];
    const uint64_t end = buffer->offset + plan_buffer_bytes(limits, replay->graph, buffer);
    uint32_t n = 0;
    for (uint32_t i = 0; i < replay->n_live; i++) {
        const serverd_buffer *other = &buffers[replay->live[i]];
        if (other->last_use < buffer->first_use)
            continue;
        replay->live[n++] = replay->live[i];
        if (other->offset < end &&
            buffer->offset < other->offset + plan_buffer_bytes(limits, replay->graph, other))
            return fail(err, SERVERD_CORRUPT,
                        "offset: it overlaps buffer %u, which is alive from %u to %u",
                        replay->live[i], other->first_use, other->last_use);
    }
    if (n == LIMIT_LIVE_BUFFERS)
        return fail(err, SERVERD_CORRUPT, "more than %u are alive", LIMIT_LIVE_BUFFERS);
    replay->live[n++] = index;
    replay->n_live = n;
    return SERVERD_OK;
}

static serverd_status check_buffers(struct replay *replay, serverd_error *err)
{
    const serverd_plan *plan = &replay->plan->plan;
    for (uint32_t i = 0; i < plan->n_buffers; i++) {
        const serverd_buffer *buffer = &plan->buffers[i];
        serverd_status status = check_size(replay, buffer, err);
        if (status == SERVERD_OK && buffer->last_use < buffer->first_use)
            status = fail(err, SERVERD_CORRUPT, "last_use: %u is before %u", buffer->last_use,
                          buffer->first_use);
        if (status == SERVERD_OK && i > 0 && buffer->first_use < plan->buffers[i - 1].first_use)
            status = fail(err, SERVERD_CORRUPT, "first_use: they do not ascend");
        if (status == SERVERD_OK && buffer->form == 0 &&
            replay->buffer_of[buffer->value] != NO_BUFFER)
            status = fail(err, SERVERD_CORRUPT, "value: %u has two", buffer->value);
        if (status == SERVERD_OK)
            status = begin_buffer(replay, i, err);
        if (status != SERVERD_OK)
            return error_context(err, "buffer[%u]", i);
        if (buffer->form == 0)
            replay->buffer_of[buffer->value] = i;
    }
    return SERVERD_OK;
}

static uint32_t use_of(const struct replay *replay, uint32_t node)
{
    return replay->plan->plan.use[node - replay->plan->first_node];
}

/* What the node reads is written before, and still there. */
static serverd_status check_read(const struct replay *replay, uint32_t node, uint32_t value,
                                 serverd_error *err)
{
    const uint32_t maker = replay->made_by[value], use = use_of(replay, node);
    if (maker == NO_BUFFER) /* a constant, or of an earlier partition */
        return SERVERD_OK;
    if (use_of(replay, maker) > use)
        return fail(err, SERVERD_CORRUPT, "use: it reads value %u at %u, written at %u", value, use,
                    use_of(replay, maker));
    const uint32_t index = replay->buffer_of[value];
    if (index == NO_BUFFER) /* given away, or handed from one to the other */
        return SERVERD_OK;
    const serverd_buffer *buffer = &replay->plan->plan.buffers[index];
    return buffer->last_use >= use
               ? SERVERD_OK
               : fail(err, SERVERD_CORRUPT, "use: it reads value %u at %u, which lives until %u",
                      value, use, buffer->last_use);
}

static serverd_status check_written(const struct replay *replay, uint32_t node, uint32_t value,
                                    serverd_error *err)
{
    const uint32_t index = replay->buffer_of[value], use = use_of(replay, node);
    if (index == NO_BUFFER)
        return SERVERD_OK;
    const serverd_buffer *buffer = &replay->plan->plan.buffers[index];
    return buffer->first_use <= use && buffer->last_use >= use
               ? SERVERD_OK
               : fail(err, SERVERD_CORRUPT,
                      "use: it writes value %u at %u, which lives from %u to %u", value, use,
                      buffer->first_use, buffer->last_use);
}

static serverd_status check_nodes(struct replay *replay, serverd_error *err)
{
    const serverd_graph *graph = replay->graph;
    const struct program_plan *plan = replay->plan;
    for (uint32_t n = plan->first_node; n < plan->first_node + plan->n_nodes; n++) {
        const serverd_node *node = &graph->nodes[n];
        const uint32_t *operands = &graph->operands[node->first_operand];
        for (uint32_t i = 0; i < (uint32_t)node->n_inputs + node->n_outputs; i++) {
            const bool is_input = i < node->n_inputs;
            serverd_status status = is_input ? check_read(replay, n, operands[i], err)
                                             : check_written(replay, n, operands[i], err);
            if (status != SERVERD_OK)
                return error_context(err, "node[%u]", n);
            if (!is_input)
                replay->made_by[operands[i]] = n;
        }
    }
    return SERVERD_OK;
}

serverd_status plan_check(const struct program_plan *plan, const serverd_graph *graph,
                          serverd_error *err)
{
    const size_t n = max_size(graph->n_values, 1);
    struct replay *replay = calloc(1, sizeof *replay);
    uint32_t *lists = malloc(2 * n * sizeof *lists);
    serverd_status status = SERVERD_OK;
    if (!replay || !lists) {
        status = fail(err, SERVERD_NOMEM, "no memory to check a plan");
    } else {
        memset(lists, 0xff, 2 * n * sizeof *lists);
        replay->plan = plan;
        replay->graph = graph;
        replay->buffer_of = lists;
        replay->made_by = lists + n;
        if (plan->plan.arena_bytes > MOST_BYTES)
            status = fail(err, SERVERD_CORRUPT, "arena_bytes: %" PRIu64 " is too much",
                          plan->plan.arena_bytes);
        if (status == SERVERD_OK)
            status = check_buffers(replay, err);
        if (status == SERVERD_OK)
            status = check_nodes(replay, err);
    }
    free(replay);
    free(lists);
    return status;
}

/* ---- the section ----------------------------------------------------------------------------- */

struct rest {
    const char *at;
    uint64_t bytes;
};

static const void *take(struct rest *rest, uint64_t bytes)
{
    const void *found = rest->at;
    if (bytes > rest->bytes)
        return NULL;
    rest->at += bytes;
    rest->bytes -= bytes;
    return found;
}

static bool is_zero(const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

static serverd_status load_partition(struct rest *rest, const struct program *program,
                                     const serverd_limits *limits, struct program_plan *out,
                                     serverd_error *err)
{
    const struct sdp_plan_partition *from = take(rest, sizeof *from);
    const serverd_graph *graph = &program->graph;
    if (!from)
        return fail(err, SERVERD_CORRUPT, "first_node: the section ends before");
    if (from->reserved != 0 || !is_zero(from->reserved2, sizeof from->reserved2) ||
        from->delegate[sizeof from->delegate - 1] != '\0')
        return fail(err, SERVERD_CORRUPT, "reserved: it is not 0, or the delegate does not end");
    if (from->n_nodes == 0 || from->n_nodes > graph->n_nodes ||
        from->first_node > graph->n_nodes - from->n_nodes)
        return fail(err, SERVERD_CORRUPT, "n_nodes: %u from %u, the graph has %u", from->n_nodes,
                    from->first_node, graph->n_nodes);
    const uint64_t use_bytes = ((uint64_t)from->n_nodes * sizeof(uint32_t) + 7) / 8 * 8;
    const uint32_t *use = take(rest, use_bytes);
    const serverd_buffer *buffers = take(rest, from->n_buffers * sizeof *buffers);
    if (!use || !buffers)
        return fail(err, SERVERD_CORRUPT, "n_buffers: %u, the section ends before",
                    from->n_buffers);
    *out = (struct program_plan){.delegate = from->delegate,
                                 .first_node = from->first_node,
                                 .n_nodes = from->n_nodes,
                                 .limits = *limits,
                                 .plan = {.struct_bytes = sizeof out->plan,
                                          .n_buffers = from->n_buffers,
                                          .buffers = buffers,
                                          .use = use,
                                          .arena_bytes = from->arena_bytes}};
    return plan_check(out, graph, err);
}

serverd_status sdp_plan_load(const struct sdp_file *file, struct program *program,
                             serverd_error *err)
{
    const struct sdp_section *section = sdp_find(file, SDP_PLAN);
    if (!section)
        return SERVERD_OK;
    struct rest rest = {sdp_bytes(file, section), section->stored_bytes};
    const struct sdp_plan *head = take(&rest, sizeof *head);
    if (!head || head->n_partitions > LIMIT_PLAN_PARTITIONS ||
        !is_zero(head->reserved, sizeof head->reserved))
        return fail(err, SERVERD_CORRUPT,
                    "PLAN.n_partitions: more than %u, or reserved bytes are not 0",
                    LIMIT_PLAN_PARTITIONS);
    const serverd_limits limits = {.struct_bytes = sizeof limits,
                                   .max_rows = head->max_rows,
                                   .max_logit_rows = head->max_logit_rows,
                                   .max_seqs = head->max_seqs,
                                   .max_context = head->max_context};
    struct program_plan *plans =
        arena_array(program->arena, max_size(head->n_partitions, 1), sizeof *plans);
    if (!plans)
        return fail(err, SERVERD_NOMEM, "no memory for a program");
    for (uint32_t i = 0; i < head->n_partitions; i++) {
        serverd_status status = load_partition(&rest, program, &limits, &plans[i], err);
        if (status != SERVERD_OK)
            return error_context(err, "PLAN.partition[%u]", i);
    }
    if (rest.bytes != 0)
        return fail(err, SERVERD_CORRUPT, "PLAN: %" PRIu64 " bytes too many", rest.bytes);
    program->plans = plans;
    program->n_plans = head->n_partitions;
    return SERVERD_OK;
}
