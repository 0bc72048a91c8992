/* Giving every activation a place that it keeps from the phase that writes it to the last one that
 * reads it: places are found, or taken over from a plan that was made earlier (serverd_plan) as far
 * as it is found to be right. */
#include "base/error.h"
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"
#include "program/op.h"

#include <stdlib.h>
#include <string.h>

#define ALIGN_FLOATS 16 /* 64 bytes */

/* serverd_buffer.form */
enum { FORM_FLOATS = 0, FORM_QUANTISED = 1 };

/* A stretch of the block that values use one after the other. Within a stage some rows may be
 * phases ahead of others: there it may only go on to a value whose rows lie in it alike. */
struct place {
    size_t offset, floats; /* 0 floats: nobody has had it yet */
    size_t used;           /* floats of the value that had it last */
    bool is_quantised;
    uint32_t last_use; /* phase */
};

struct placing {
    struct place *places;
    size_t n_places, max_places;
    size_t total;
    size_t unshared;    /* floats, if every value had a place of its own */
    uint32_t *last_use; /* [n_values] phase */
    uint32_t *planned;  /* [n_values][2] place of each form; NULL: there is no plan */
    struct cpu_plan_record *record;
};

size_t cpu_max_rows(const serverd_limits *limits, const serverd_value *value)
{
    size_t n = limits->max_rows;
    if (value->dims[0] == SERVERD_DIM_SEQS)
        n = limits->max_seqs;
    else if (value->dims[0] == SERVERD_DIM_SELECTED)
        n = limits->max_logit_rows;
    return max_size(n, 1) + CPU_ROW_PADDING;
}

/* Rows of selected logits are few in a prefill, and what is lost there nothing evens out. */
bool cpu_is_fine(const serverd_value *value)
{
    return value->dims[0] == SERVERD_DIM_SELECTED;
}

/* Floats that a row of a form takes. */
static size_t row_floats(const serverd_value *value, uint32_t form)
{
    if (form == FORM_QUANTISED)
        return cpu_n_spans(value_width(value)) * sizeof(struct cpu_span) / sizeof(float);
    return value_width(value);
}

static bool form_floats(const serverd_limits *limits, const serverd_value *value, uint32_t form,
                        size_t *out)
{
    return size_mul(row_floats(value, form), cpu_max_rows(limits, value), out) &&
           size_align(*out, ALIGN_FLOATS, out);
}

/* ---- one value ------------------------------------------------------------------------------- */

/* Nobody reads in that phase any more what lies there, in any row. */
static bool is_over(const serverd_handle *handle, const struct place *place, uint32_t phase,
                    size_t floats, uint32_t form)
{
    if (place->floats == 0)
        return true;
    if (place->last_use >= phase)
        return false;
    return handle->phases[place->last_use].stage != handle->phases[phase].stage ||
           (place->used == floats && place->is_quantised == (form == FORM_QUANTISED));
}

/* The smallest place that is free and large enough, or a new one behind the others. */
static struct place *find_place(const serverd_handle *handle, struct placing *placing,
                                uint32_t phase, size_t floats, uint32_t form)
{
    struct place *best = NULL;
    for (size_t i = 0; i < placing->n_places; i++) {
        struct place *place = &placing->places[i];
        if (place->floats >= floats && is_over(handle, place, phase, floats, form) &&
            (!best || place->floats < best->floats))
            best = place;
    }
    return best ? best : &placing->places[placing->n_places++];
}

/* The place of the plan. NULL: it has none, or it is not free. */
static struct place *planned_place(const serverd_handle *handle, struct placing *placing,
                                   uint32_t phase, size_t floats, uint32_t value, uint32_t form)
{
    const size_t index = placing->planned[2 * (size_t)value + form];
    if (index >= placing->max_places ||
        !is_over(handle, &placing->places[index], phase, floats, form))
        return NULL;
    placing->n_places = max_size(placing->n_places, index + 1);
    return &placing->places[index];
}

static bool place_form(const serverd_handle *handle, struct placing *placing, uint32_t phase,
                       uint32_t value, uint32_t form, size_t *index)
{
    size_t floats;
    const serverd_value *v = &handle->graph->values[value];
    if (!form_floats(&handle->limits, v, form, &floats) ||
        !size_add(placing->unshared, floats, &placing->unshared))
        return false;
    struct place *place = placing->planned
                              ? planned_place(handle, placing, phase, floats, value, form)
                              : find_place(handle, placing, phase, floats, form);
    if (!place)
        return false;
    place->floats = max_size(place->floats, floats);
    place->used = floats;
    place->is_quantised = form == FORM_QUANTISED;
    place->last_use = placing->last_use[value];
    *index = (size_t)(place - placing->places);
    struct cpu_plan_record *record = placing->record;
    if (record) {
        const uint64_t row_bytes = row_floats(v, form) * sizeof(float);
        record->buffers[record->n_buffers++] = (serverd_buffer){
            .value = value,
            .form = (uint16_t)form,
            .place = (uint16_t)*index,
            .fixed_bytes = floats * sizeof(float) -
                           row_bytes * (cpu_max_rows(&handle->limits, v) - CPU_ROW_PADDING),
            .row_bytes = row_bytes,
            .first_use = phase,
            .last_use = placing->last_use[value]};
    }
    return true;
}

static bool place_value(serverd_handle *handle, struct placing *placing, uint32_t phase,
                        uint32_t value)
{
    if (handle->value_at[value] != CPU_NOWHERE && /* or it lies at the caller's */
        !place_form(handle, placing, phase, value, FORM_FLOATS, &handle->value_at[value]))
        return false;
    /* the phase behind may still have to quantise it */
    return handle->quantised_at[value] == CPU_NOWHERE ||
           place_form(handle, placing, phase, value, FORM_QUANTISED, &handle->quantised_at[value]);
}

/* ---- all values ------------------------------------------------------------------------------ */

/* The last phase that reads each value. An attention's keys and values are read where they are
 * appended, which is before it. */
static void find_last_uses(const serverd_handle *handle, uint32_t *last_use)
{
    const serverd_graph *graph = handle->graph;
    for (uint32_t p = 0; p < handle->n_phases; p++)
        for (uint32_t a = 0; a < handle->phases[p].n_actions; a++) {
            const struct cpu_action *action = &handle->actions[handle->phases[p].first_action + a];
            if (action->kind == ACTION_QUANTISE) {
                last_use[action->index] = p;
                continue;
            }
            const serverd_node *node = &graph->nodes[action->index];
            for (uint32_t i = 0; i < node->n_inputs; i++)
                last_use[graph->operands[node->first_operand + i]] = p;
            last_use[cpu_written_by(handle, action->index)] = p;
            if (handle->addition[action->index] != CPU_NO_NODE)
                last_use[cpu_added_value(handle, action->index)] = p;
        }
}

/* Places behind one another; values that have one are told where it begins. */
static bool set_offsets(serverd_handle *handle, struct placing *placing)
{
    for (size_t i = 0; i < placing->n_places; i++) {
        placing->places[i].offset = placing->total;
        if (!size_add(placing->total, placing->places[i].floats, &placing->total))
            return false;
    }
    struct cpu_plan_record *record = placing->record;
    for (uint32_t i = 0; record && i < record->n_buffers; i++)
        record->buffers[i].offset =
            placing->places[record->buffers[i].place].offset * sizeof(float);
    return !record || placing->n_places <= UINT16_MAX;
}

static void set_value_offsets(serverd_handle *handle, const struct placing *placing, uint32_t value)
{
    if (handle->value_at[value] != CPU_NOWHERE)
        handle->value_at[value] = placing->places[handle->value_at[value]].offset;
    if (handle->quantised_at[value] != CPU_NOWHERE)
        handle->quantised_at[value] = placing->places[handle->quantised_at[value]].offset;
}

/* Calls for each value that the partition reads or makes, in the order of the phases. */
typedef bool (*value_fn)(serverd_handle *handle, struct placing *placing, uint32_t phase,
                         uint32_t value);

static bool for_values(serverd_handle *handle, struct placing *placing, value_fn fn)
{
    bool fits = true;
    for (uint32_t i = 0; i < handle->partition->n_inputs && fits; i++)
        fits = fn(handle, placing, 0, handle->partition->inputs[i]);
    for (uint32_t p = 0; p < handle->n_phases && fits; p++)
        for (uint32_t a = 0; a < handle->phases[p].n_actions && fits; a++) {
            const struct cpu_action *action = &handle->actions[handle->phases[p].first_action + a];
            if (action->kind == ACTION_NODE)
                fits = fn(handle, placing, p, cpu_written_by(handle, action->index));
        }
    return fits;
}

static bool bind_value(serverd_handle *handle, struct placing *placing, uint32_t phase,
                       uint32_t value)
{
    (void)phase;
    set_value_offsets(handle, placing, value);
    return true;
}

/* ---- plans that were made earlier ------------------------------------------------------------ */

static const serverd_plan *plan_of(const serverd_partition *partition)
{
    return partition->struct_bytes >= sizeof *partition ? partition->plan : NULL;
}

/* Which place the plan gives to each form of each value. */
static bool read_plan(const serverd_handle *handle, const serverd_plan *plan,
                      struct placing *placing)
{
    const size_t n = 2 * (size_t)handle->graph->n_values;
    placing->planned = malloc((n + 1) * sizeof *placing->planned);
    if (!placing->planned)
        return false;
    memset(placing->planned, 0xff, n * sizeof *placing->planned);
    for (uint32_t i = 0; i < plan->n_buffers; i++) {
        const serverd_buffer *buffer = &plan->buffers[i];
        if (buffer->value < handle->graph->n_values && buffer->form <= FORM_QUANTISED)
            placing->planned[2 * (size_t)buffer->value + buffer->form] = buffer->place;
    }
    return true;
}

/* Whose values are in the host's memory, or in codes, was marked by CPU_NOWHERE before: placing
 * does not change that, so it can be done again. */
static bool place_all(serverd_handle *handle, struct placing *placing)
{
    memset(placing->places, 0, placing->max_places * sizeof *placing->places);
    placing->n_places = placing->total = placing->unshared = 0;
    return for_values(handle, placing, place_value) && set_offsets(handle, placing);
}

static bool place_as_planned_or_anew(serverd_handle *handle, struct placing *placing)
{
    const serverd_plan *plan = placing->record ? NULL : plan_of(handle->partition);
    bool is_planned = plan && read_plan(handle, plan, placing) && place_all(handle, placing);
    free(placing->planned);
    placing->planned = NULL;
    return is_planned || place_all(handle, placing);
}

serverd_status cpu_place_activations(serverd_handle *handle, struct cpu_plan_record *or_null,
                                     serverd_error *err)
{
    const size_t n = (size_t)handle->partition->n_nodes + handle->partition->n_inputs;
    struct placing placing = {
        .max_places = 2 * n + 1,
        .places = calloc(2 * n + 1, sizeof *placing.places),
        .last_use = calloc(max_size(handle->graph->n_values, 1), sizeof *placing.last_use),
        .record = or_null};
    bool fits = placing.places && placing.last_use;
    if (fits)
        find_last_uses(handle, placing.last_use);
    size_t bytes;
    fits = fits && place_as_planned_or_anew(handle, &placing) &&
           for_values(handle, &placing, bind_value) &&
           size_mul(max_size(placing.unshared, ALIGN_FLOATS), sizeof(float), &bytes);
    handle->activation_floats = max_size(placing.total, ALIGN_FLOATS);
    handle->footprint.activation_bytes = placing.total * sizeof(float);
    handle->footprint.unshared_bytes = placing.unshared * sizeof(float);
    free(placing.places);
    free(placing.last_use);
    return fits ? SERVERD_OK : fail(err, SERVERD_NOMEM, "cpu: no memory for activations");
}
