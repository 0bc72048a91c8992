#include "grammar/object_state.h"

#include <string.h>

#define N_MASKS (1u << MACHINE_NEEDS)
#define NO_WAY  UINT32_MAX

/* fewest[mask]: optional properties that it takes to meet the needs of the mask. One key more. */
static void add_key(const struct machine_object *object, uint32_t key, uint32_t fewest[N_MASKS])
{
    uint32_t n_masks = 1u << object->n_needs, next[N_MASKS];
    bool is_required = object->keys[key].is_required;
    for (uint32_t mask = 0; mask < n_masks; mask++)
        next[mask] = is_required ? NO_WAY : fewest[mask];
    for (uint32_t own = 0; own < n_masks; own++) {
        if (object->key_values[key * n_masks + own] == MACHINE_NOTHING)
            continue;
        for (uint32_t mask = 0; mask < n_masks; mask++) {
            uint32_t cost = fewest[mask] == NO_WAY ? NO_WAY : fewest[mask] + !is_required;
            if (cost < next[mask | own])
                next[mask | own] = cost;
        }
    }
    memcpy(fewest, next, n_masks * sizeof *next);
}

static void add_classes(const struct machine_object *object, uint32_t fewest[N_MASKS])
{
    uint32_t n_masks = 1u << object->n_needs;
    for (uint32_t round = 0; round < object->n_needs; round++)
        for (uint32_t c = 0; c < object->n_classes; c++)
            for (uint32_t own = 1; own < n_masks; own++)
                for (uint32_t mask = 0; mask < n_masks; mask++)
                    if (object->class_values[c * n_masks + own] != MACHINE_NOTHING &&
                        fewest[mask] != NO_WAY && fewest[mask] + 1 < fewest[mask | own])
                        fewest[mask | own] = fewest[mask] + 1;
}

static uint32_t fewest_more(const struct machine_object *object, const struct object_state *state,
                            object_is_seen *is_seen, const void *context)
{
    uint32_t fewest[N_MASKS], n_masks = 1u << object->n_needs, best = NO_WAY;
    for (uint32_t mask = 0; mask < n_masks; mask++)
        fewest[mask] = NO_WAY;
    fewest[0] = 0;
    for (uint32_t i = is_seen ? 0 : state->position; i < object->n_possible; i++)
        if (!is_seen || !is_seen(context, object->by_order[i]))
            add_key(object, object->by_order[i], fewest);
    add_classes(object, fewest);
    for (uint32_t mask = 0; mask < n_masks; mask++)
        if ((mask | state->needs) == n_masks - 1 && fewest[mask] < best)
            best = fewest[mask];
    return best;
}

bool object_can_finish(const struct machine_object *object, const struct object_state *state,
                       object_is_seen *is_seen, const void *context)
{
    uint32_t required = object_required_left(object, state, !is_seen);
    uint32_t possible = object->n_possible - (is_seen ? state->n_seen : state->position);
    uint32_t least = state->count + required;
    if (least > object->max)
        return false;
    if (object->n_classes == 0 && state->count + possible < object->min)
        return false;
    if (state->needs == (1u << object->n_needs) - 1)
        return true;
    uint32_t more = fewest_more(object, state, is_seen, context);
    return more != NO_WAY && more <= object->max - least;
}
