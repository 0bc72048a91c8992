/* A low-rank adapter: what is added to the linear layers of a base model, y += scale * B (A x).
 * Made by compiler/ or read from an adapter file (adapter_file.h); the runtime hands it to the
 * delegates (runtime.h), which copy what they need. Immutable once checked; any thread, one owner.
 *
 *   site   of one matrix W [n_out][n_in]:  A [rank][n_in], B [n_out][rank], scale
 *
 * An adapter fits every quantisation of its base: what counts is the *shape id*, a hash of
 * architecture, names and sizes of the layers' matrices, and the order of the rows of Q and K. */
#ifndef PROGRAM_ADAPTER_H
#define PROGRAM_ADAPTER_H

#include "program/program.h"

struct adapter_site {
    const char *tensor; /* the name of W */
    uint32_t rank, n_in, n_out;
    float scale;
    const float *a, *b; /* [rank][n_in], [n_out][rank] */
};

struct adapter {
    char architecture[32], name[128]; /* of the base; of the adapter, may be "" */
    uint8_t shape_id[32];             /* of the base */
    uint8_t id[32]; /* what it computes: adapters with the same one give the same results */
    uint32_t n_sites, max_rank;
    const struct adapter_site *sites; /* by name */

    struct arena *arena;    /* of all that does not lie in the file */
    struct mapping mapping; /* of an adapter file; else empty */
};

/* An empty adapter with its arena; NULL: no memory. */
struct adapter *adapter_create(void);
void adapter_destroy(struct adapter *adapter); /* NULL is fine */

/* Sites in order and named once, sizes within limits.h, every number finite. */
serverd_status adapter_check(const struct adapter *adapter, serverd_error *err);

/* Fills in adapter->id from the sites. */
void adapter_compute_id(struct adapter *adapter);

/* The shape id of a base. */
serverd_status adapter_shape_id(const struct program *base, uint8_t out[32], serverd_error *err);

/* The linear layer with that matrix, or UINT32_MAX. A head that is tied is found by the name that
 * it would have of its own, "output.weight". */
uint32_t adapter_find_node(const serverd_graph *graph, const char *tensor);

/* Whether the adapter is one of this base; the error says what differs. */
serverd_status adapter_fits(const struct adapter *adapter, const struct program *base,
                            serverd_error *err);

#endif
