/* The op table (every op is of version 1): name, operand counts and the shape rule of every
 * canonical op.
 *
 * Activations are matrices [rows, columns]. Constant vectors (norm weights, biases, frequency
 * tables) are F32 whatever the file had; constant matrices have any type with a conversion. */
#ifndef PROGRAM_OP_H
#define PROGRAM_OP_H

#include "serverd/delegate.h"

#include <stdbool.h>

struct op_info {
    const char *name;
    uint8_t min_inputs, max_inputs;
    uint8_t attribute_bytes; /* of serverd_attributes that the op has; the rest may be anything */
    /* Checks the attributes and the inputs' shapes and writes the output's rank and dims. The
     * operands must be in range and as many as the table says, the constants checked. */
    serverd_status (*infer)(const serverd_graph *graph, const serverd_node *node,
                            serverd_value *out, serverd_error *err);
};

const struct op_info *op_info(uint32_t op); /* NULL for an unknown op */

static inline const serverd_value *node_input(const serverd_graph *graph, const serverd_node *node,
                                              uint32_t i)
{
    return &graph->values[graph->operands[node->first_operand + i]];
}

static inline const serverd_value *node_output(const serverd_graph *graph, const serverd_node *node)
{
    return &graph->values[graph->operands[node->first_operand + node->n_inputs]];
}

/* Whether it meets the other ranks of a group (delegate.h): a delegate that knows of none has no
 * part in it. */
static inline bool op_is_collective(uint32_t op)
{
    return op == SERVERD_OP_ALL_REDUCE || op == SERVERD_OP_GATHER;
}

/* Columns of a row: the product of the dims after the first. */
uint64_t value_width(const serverd_value *value);

#endif
