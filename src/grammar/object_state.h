/* How far an object has come, and whether it can be finished from there. */
#ifndef GRAMMAR_OBJECT_STATE_H
#define GRAMMAR_OBJECT_STATE_H

#include "grammar/machine.h"

struct object_state {
    uint32_t count;      /* properties so far */
    uint32_t position;   /* producing: keys in order that are behind us */
    uint32_t n_seen;     /* checking: possible keys so far, */
    uint32_t n_required; /* and required ones */
    uint32_t needs;      /* met, a bit each */
};

/* Checking: whether the key was there; producing: NULL. */
typedef bool object_is_seen(const void *context, uint32_t key);

bool object_can_finish(const struct machine_object *object, const struct object_state *state,
                       object_is_seen *is_seen, const void *context);

/* Required keys that are still to come. */
static inline uint32_t object_required_left(const struct machine_object *object,
                                            const struct object_state *state, bool produces)
{
    return object->n_required -
           (produces ? object->required_before[state->position] : state->n_required);
}

#endif
