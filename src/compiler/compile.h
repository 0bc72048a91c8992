/* From a model to a program. The only room that knows file formats and architectures.
 *
 * The stages: an importer (import_gguf.h, import_hf.h; hardened), which makes a source (source.h:
 * keys and tensors by canonical names) and the program's vocabulary and templates -> architecture
 * (arch.h: a table that builds the canonical graph) -> passes (passes.h) -> program_check. Later
 * passes, quantisation, partition and the program file grow between them. Any thread; takes
 * seconds, allocates, reads files. */
#ifndef COMPILER_COMPILE_H
#define COMPILER_COMPILE_H

#include "compiler/passes.h"
#include "compiler/shard.h"
#include "program/program.h"

struct compile_options {
    const char *path; /* a GGUF file, of a split model any one shard; or a Hugging Face folder */
    bool vocabulary_only; /* tokenizer and template only; there need not be tensors */
    /* Weights of an encoder's linear layers that are F32 stay F32; else they become BF16, which is
     * twice as fast and moves an embedding by some 1e-5. */
    bool keeps_f32;
    struct passes_options passes; /* passes.h; zeroed: all, unseen */
    struct shard shard;           /* zeroed: the whole model */
};

/* *out has one reference. Errors name the file and the field, key or tensor. */
serverd_status compile_model(const struct compile_options *options, struct program **out,
                             serverd_error *err);

#endif
