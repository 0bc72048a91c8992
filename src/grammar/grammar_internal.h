#ifndef GRAMMAR_GRAMMAR_INTERNAL_H
#define GRAMMAR_GRAMMAR_INTERNAL_H

#include "grammar/grammar.h"
#include "grammar/machine.h"

#include <stdatomic.h>

struct grammar {
    struct machine machine;
    struct arena *keep, *work; /* `work` only if it checks */
    uint64_t id;               /* of this grammar alone, for caches */
    atomic_uint n_refs;
};

#endif
