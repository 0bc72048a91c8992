/* The sections META and DEBG of a program file: what is known of a model and how it was made, as
 * JSON. Nothing that runs depends on them. */
#ifndef COMPILER_FACTS_H
#define COMPILER_FACTS_H

#include "compiler/compile_file.h"

/* META: {"architecture","name","quantisation","parameters","weight_bytes","license","options",
 * "serverd","compiler"}; the licence is left out where the source names none. */
void facts_put_meta(const struct program *program, const struct compile_file_options *options,
                    struct buffer *out);

/* What passes leave behind: a passes_options.after, its context a struct pass_history. */
struct pass_history {
    struct buffer passes; /* elements of a JSON list */
    void (*after)(void *context, const struct compile_pass *pass, const struct program *program);
    void *context; /* of `after`, which is called, too, unless it is NULL */
};
void pass_history_add(void *history, const struct compile_pass *pass,
                      const struct program *program);

/* DEBG: {"passes":[{"name","nodes","tensors"}],"sources":[[tensor names] of each node]}. */
void facts_put_debug(const struct program *program, const struct pass_history *history,
                     struct buffer *out);

#endif
