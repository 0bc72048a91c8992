/* What is done to a program's graph between import and packing. Each pass is a function of the
 * program alone and leaves one that computes the same: bit by bit, but for `fold`, which adds
 * constants to each other in another order. Single-threaded; new arrays lie in the program's arena.
 */
#ifndef COMPILER_PASSES_H
#define COMPILER_PASSES_H

#include "base/buffer.h"
#include "program/program.h"

struct compile_pass {
    const char *name, *summary;
    serverd_status (*run)(struct program *program, serverd_error *err);
};

/* In the order in which they run. */
extern const struct compile_pass compile_passes[];
extern const uint32_t n_compile_passes;

struct passes_options {
    const char *off; /* names of passes that are left out, comma separated; NULL: none */
    /* The graph as text (graph_print) after each pass, for who wants to see; may be NULL. */
    void (*after)(void *context, const struct compile_pass *pass, const struct program *program);
    void *context;
};

/* An unknown name in `off` is SERVERD_INVALID. */
serverd_status passes_run(struct program *program, const struct passes_options *options,
                          serverd_error *err);

/* True if the comma separated list has the name. */
bool passes_list_has(const char *list, const char *name);

/* One line for each node: its value, operation, operands and attributes. */
void graph_print(const serverd_graph *graph, struct buffer *out);

#endif
