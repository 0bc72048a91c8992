/* Building a graph, for compiler/ and tests. A builder checks every node by the op table as it
 * is added; after the first failure it ignores further calls and graph_finish reports it, so
 * an architecture reads as a plain sequence of calls. Single-threaded. */
#ifndef PROGRAM_GRAPH_H
#define PROGRAM_GRAPH_H

#include "base/arena.h"
#include "serverd/delegate.h"

#define NO_VALUE UINT32_MAX

struct graph_builder;

/* Everything that graph_finish hands out lies in `arena`. */
struct graph_builder *graph_builder_create(struct arena *arena);
void graph_builder_destroy(struct graph_builder *builder);

/* Nodes added from now on belong to this layer (UINT32_MAX: none). */
void graph_set_layer(struct graph_builder *builder, uint32_t layer);

/* A constant; `tensor` and its name are copied, its data is not, but for a vector (rank 1) of
 * another type than F32, which is converted here. Returns the value; the same one for the same
 * bytes. */
uint32_t graph_constant(struct graph_builder *builder, const serverd_tensor *tensor);

/* A node with its inputs (trailing NO_VALUEs are left out); returns the output value. */
uint32_t graph_node(struct graph_builder *builder, serverd_op op, const uint32_t *inputs,
                    uint32_t n_inputs, const serverd_attributes *attributes);

/* Checks one constant: type, shape, size, data; vectors are finite. */
serverd_status graph_check_tensor(const serverd_tensor *tensor, serverd_error *err);

/* Checks a finished graph from first to last: operands in range and produced before use, one
 * producer per value, shapes and attributes by the op table, the output. */
serverd_status graph_check(const serverd_graph *graph, serverd_error *err);

serverd_status graph_finish(struct graph_builder *builder, uint32_t output, serverd_graph *graph,
                            serverd_error *err);

#endif
