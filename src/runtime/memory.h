/* What a model takes of memory, found without loading it (runtime_predict). */
#ifndef RUNTIME_MEMORY_H
#define RUNTIME_MEMORY_H

#include <stdint.h>

/* Bytes. What the process takes at most is the sum of them, without `unshared` and `gathered`, and
 * what is not the runtime's: code, stacks, its callers' own. */
struct runtime_memory {
    uint64_t mapped;     /* of the program's file, as far as all of it is read */
    uint64_t gathered;   /* tables of which only the rows of tokens that come are read */
    uint64_t packed;     /* weights in forms that the file has not */
    uint64_t activation; /* of a step, where several values have one place after the other */
    uint64_t unshared;   /* the same, if each had a place of its own */
    uint64_t scratch;    /* what else delegates take, and what passes between partitions */
    uint64_t kv;         /* all pages */
    uint64_t table;      /* graph and names, as the program keeps them; the placement */
};

void runtime_memory_add(struct runtime_memory *memory, const struct runtime_memory *more);
uint64_t runtime_memory_peak(const struct runtime_memory *memory);

#endif
