/* Small random models, built by the graph builder, for the tests of this room. */
#ifndef TESTS_PROGRAM_MODEL_H
#define TESTS_PROGRAM_MODEL_H

#include "program/graph.h"
#include "program/program.h"

struct random {
    uint64_t state;
};

uint32_t random_below(struct random *random, uint32_t n);

/* A decoder or encoder of random shape that program_check accepts; unref it. */
struct program *model_decoder(struct random *random);
struct program *model_encoder(struct random *random);

/* A constant of zeros in the program's arena. */
uint32_t model_constant(struct program *program, struct graph_builder *builder, const char *name,
                        uint32_t dtype, uint32_t rank, uint64_t rows, uint64_t columns);

#endif
