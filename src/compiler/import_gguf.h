/* A GGUF file, or shards of one, to a source for the architecture and to the parts of a program
 * that are not the graph: names, vocabulary, chat templates, recommended sampling. */
#ifndef COMPILER_IMPORT_GGUF_H
#define COMPILER_IMPORT_GGUF_H

#include "compiler/compile.h"
#include "compiler/source.h"

/* Texts are copied into the program's arena; the source has no tensors if the vocabulary alone is
 * wanted. On an error there is nothing to close. */
serverd_status import_gguf(const struct compile_options *options, struct source *source,
                           struct program *program, serverd_error *err);

#endif
