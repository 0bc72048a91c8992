/* From a model file to a program. The only room that knows file formats and architectures.
 *
 * The stages: container (gguf_model.h, hardened) -> vocabulary and templates (import_gguf.h) ->
 * architecture (arch.h: a table that builds the canonical graph) -> program_check. Later passes,
 * quantisation, partition and the program file grow between them. Any thread; takes seconds,
 * allocates, reads files. */
#ifndef COMPILER_COMPILE_H
#define COMPILER_COMPILE_H

#include "program/program.h"

struct compile_options {
    const char *path;     /* GGUF file; of a split model any one shard */
    bool vocabulary_only; /* tokenizer and template only; the file need not have tensors */
};

/* *out has one reference. Errors name the file and the field, key or tensor. */
serverd_status compile_model(const struct compile_options *options, struct program **out,
                             serverd_error *err);

#endif
