#include "runtime/steps.h"

#include "base/error.h"
#include "base/numeric.h"
#include "program/op.h"

#include <stdlib.h>

#define BUFFER_ALIGNMENT 64

/* ---- buffers --------------------------------------------------------------------------------- */

/* Memory that passing values have one after the other. */
struct buffer_place {
    size_t offset, bytes;
    uint32_t last_part; /* that reads the value that has it now */
};

struct buffer_plan {
    const serverd_graph *graph;
    uint32_t *last_part; /* [n_values] */
    size_t *offset;      /* [n_values] */
    struct buffer_place *places;
    size_t n_places, total;
};

static bool value_bytes(const serverd_value *value, const serverd_limits *limits, size_t *out)
{
    size_t rows = limits->max_rows;
    if (value->dims[0] != SERVERD_DIM_ROWS)
        rows = value->dims[0] == SERVERD_DIM_SEQS ? limits->max_seqs : limits->max_logit_rows;
    return size_mul(max_size(rows, 1), value_width(value), out) &&
           size_mul(*out, sizeof(float), out) && size_align(*out, BUFFER_ALIGNMENT, out);
}

/* The smallest free place that is large enough, or a new one. */
static bool take_place(struct buffer_plan *plan, uint32_t part, uint32_t value, size_t bytes)
{
    struct buffer_place *best = NULL;
    for (size_t i = 0; i < plan->n_places; i++) {
        struct buffer_place *place = &plan->places[i];
        if (place->last_part < part && place->bytes >= bytes &&
            (!best || place->bytes < best->bytes))
            best = place;
    }
    if (!best) {
        best = &plan->places[plan->n_places++];
        *best = (struct buffer_place){.offset = plan->total, .bytes = bytes};
        if (!size_add(plan->total, bytes, &plan->total))
            return false;
    }
    best->last_part = plan->last_part[value];
    plan->offset[value] = best->offset;
    return true;
}

static bool plan_buffers(struct buffer_plan *plan, const struct placement *placement,
                         const serverd_limits *limits)
{
    for (uint32_t p = 0; p < placement->n_partitions; p++) {
        const serverd_partition *view = &placement->partitions[p].view;
        for (uint32_t i = 0; i < view->n_inputs; i++)
            plan->last_part[view->inputs[i]] = p;
    }
    for (uint32_t p = 0; p < placement->n_partitions; p++) {
        const serverd_partition *view = &placement->partitions[p].view;
        for (uint32_t i = 0; i < view->n_outputs; i++) {
            uint32_t value = view->outputs[i];
            size_t bytes;
            if (value != plan->graph->output &&
                (!value_bytes(&plan->graph->values[value], limits, &bytes) ||
                 !take_place(plan, p, value, bytes)))
                return false;
        }
    }
    return true;
}

static bool make_plan(struct buffer_plan *plan, const struct placement *placement,
                      const serverd_limits *limits)
{
    const serverd_graph *graph = placement->graph;
    *plan = (struct buffer_plan){.graph = graph,
                                 .last_part = calloc(graph->n_values, sizeof *plan->last_part),
                                 .offset = calloc(graph->n_values, sizeof *plan->offset),
                                 .places = calloc(graph->n_values, sizeof *plan->places)};
    return plan->last_part && plan->offset && plan->places && plan_buffers(plan, placement, limits);
}

static void free_plan(struct buffer_plan *plan)
{
    free(plan->last_part);
    free(plan->offset);
    free(plan->places);
}

bool steps_buffer_bytes(const struct placement *placement, const serverd_limits *limits,
                        size_t *out)
{
    struct buffer_plan plan;
    bool fits = make_plan(&plan, placement, limits);
    if (fits)
        *out = plan.total;
    free_plan(&plan);
    return fits;
}

/* ---- parts ----------------------------------------------------------------------------------- */

static serverd_status take_arrays(struct steps *steps, const struct placement *placement,
                                  serverd_error *err)
{
    size_t n = 1;
    for (uint32_t p = 0; p < placement->n_partitions; p++)
        n += (size_t)placement->partitions[p].view.n_inputs +
             placement->partitions[p].view.n_outputs;
    steps->parts = calloc(max_size(placement->n_partitions, 1), sizeof *steps->parts);
    steps->values = calloc(n, sizeof *steps->values);
    if (!steps->parts || !steps->values)
        return fail(err, SERVERD_NOMEM, "no memory for %u partitions", placement->n_partitions);
    steps->n_parts = placement->n_partitions;
    return SERVERD_OK;
}

static void bind_value(const struct steps *steps, const struct buffer_plan *plan, uint32_t value,
                       struct step_part *part, uint32_t index)
{
    if (value == plan->graph->output) /* lies at the caller's, and others read it there */
        part->result = index;
    else
        part->values[index] = (float *)(void *)(steps->block + plan->offset[value]);
}

static void bind_parts(struct steps *steps, const struct placement *placement,
                       struct instances *instances, const struct buffer_plan *plan)
{
    float **at = steps->values;
    for (uint32_t p = 0; p < steps->n_parts; p++) {
        const serverd_partition *view = &placement->partitions[p].view;
        struct step_part *part = &steps->parts[p];
        *part =
            (struct step_part){.instance = instances_of(instances, placement->partitions[p].device),
                               .view = view,
                               .values = at,
                               .result = UINT32_MAX};
        for (uint32_t i = 0; i < view->n_inputs; i++)
            bind_value(steps, plan, view->inputs[i], part, i);
        for (uint32_t i = 0; i < view->n_outputs; i++)
            bind_value(steps, plan, view->outputs[i], part, view->n_inputs + i);
        at += view->n_inputs + view->n_outputs;
    }
}

serverd_status steps_create(struct steps *steps, const struct placement *placement,
                            struct instances *instances, const serverd_limits *limits,
                            serverd_error *err)
{
    serverd_status status = take_arrays(steps, placement, err);
    if (status != SERVERD_OK)
        return status;
    struct buffer_plan plan = {0};
    bool fits = make_plan(&plan, placement, limits);
    if (fits && plan.total > 0)
        fits = (steps->block = aligned_alloc(BUFFER_ALIGNMENT, plan.total)) != NULL;
    steps->n_bytes = plan.total;
    if (fits)
        bind_parts(steps, placement, instances, &plan);
    else
        status = fail(err, SERVERD_NOMEM, "no memory for %zu bytes between partitions", plan.total);
    free_plan(&plan);
    return status;
}

void steps_destroy(struct steps *steps)
{
    for (uint32_t p = steps->n_parts; p-- > 0;)
        if (steps->parts[p].handle)
            steps->parts[p].instance->delegate->unload(steps->parts[p].handle);
    free(steps->parts);
    free(steps->values);
    free(steps->block);
    *steps = (struct steps){0};
}

serverd_status steps_run_part(const struct steps *steps, uint32_t index, const serverd_batch *batch,
                              float *out, serverd_error *err)
{
    const struct step_part *part = &steps->parts[index];
    const struct instance *item = part->instance;
    serverd_batch without; /* for delegates that take no adapters: none has sites there */
    if (part->result != UINT32_MAX)
        part->values[part->result] = out;
    if (batch->adapter_slot && !item->delegate->adapter) {
        without = *batch;
        without.adapter_slot = NULL;
        batch = &without;
    }
    return item->delegate->execute(part->handle, batch, item->kv,
                                   (const float *const *)part->values,
                                   part->values + part->view->n_inputs, err);
}

serverd_status steps_run(const struct steps *steps, const serverd_batch *batch, float *out,
                         serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (uint32_t p = 0; p < steps->n_parts && status == SERVERD_OK; p++)
        status = steps_run_part(steps, p, batch, out, err);
    return status;
}

bool steps_draw(const struct steps *steps)
{
    const struct step_part *last = steps->n_parts > 0 ? &steps->parts[steps->n_parts - 1] : NULL;
    return last && last->result != UINT32_MAX && last->result >= last->view->n_inputs &&
           last->instance->delegate->read_logits;
}

serverd_status steps_read_logits(const struct steps *steps, uint32_t logit_row, float *out,
                                 serverd_error *err)
{
    if (!steps_draw(steps))
        return fail(err, SERVERD_INTERNAL, "logits are not read from a device that draws nothing");
    const struct step_part *last = &steps->parts[steps->n_parts - 1];
    return last->instance->delegate->read_logits(last->handle, logit_row, out, err);
}
