/* The weights of a program file on their way to the disk: forms are packed into a window of
 * memory by all threads, hashed while they are there, and written in pieces of whole huge pages. So
 * memory is bounded by the largest tensor, whatever the model. One caller. */
#ifndef COMPILER_SDP_SEGMENT_H
#define COMPILER_SDP_SEGMENT_H

#include "base/file.h"
#include "program/program.h"
#include "runtime/worker_pool.h"

#include <stdbool.h>

/* One tensor in one layout. */
struct segment_form {
    uint32_t tensor;
    serverd_form form;
    uint64_t offset; /* from the start of the segment, on 64 */
    uint64_t checksum;
};

struct segment {
    const serverd_graph *graph;
    const serverd_delegate *delegate; /* packs; forms of SERVERD_LAYOUT_ROWS are copied */
    struct worker_pool *pool;
    struct new_file *file;
    uint64_t file_offset; /* of the segment */
    struct segment_form *forms;
    uint32_t n_forms;                               /* in the order of their places */
    void (*forget)(void *context, uint32_t tensor); /* its source bytes are not needed any more */
    void (*progress)(void *context, double share);  /* may be NULL */
    void *context;
};

/* Filled in: the places of all forms. Returns the segment's bytes; false: overflow. */
bool segment_place(struct segment *segment, uint64_t *bytes);

/* Packs and writes everything. Fills in the forms' checksums, tensor_hash[tensor] (base/hash.h's
 * tree over the source's bytes) of all tensors that have a form, and hash and checksum of the
 * whole segment. */
serverd_status segment_write(struct segment *segment, uint8_t (*tensor_hash)[32],
                             uint8_t segment_hash[32], uint64_t *segment_checksum,
                             serverd_error *err);

#endif
