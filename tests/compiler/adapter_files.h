/* Random adapters of every linear layer of a llama model, as files in memory: the same numbers as a
 * GGUF file and as a PEFT folder, made without the importer's tables. */
#ifndef TESTS_COMPILER_ADAPTER_FILES_H
#define TESTS_COMPILER_ADAPTER_FILES_H

#include "base/buffer.h"
#include "program/program.h"

/* `base` is compiled from a GGUF file; alpha is 8. */
void adapter_files_gguf(const struct program *base, uint32_t rank, uint64_t seed,
                        struct buffer *out);
void adapter_files_peft(const struct program *base, uint32_t rank, uint64_t seed,
                        struct buffer *config, struct buffer *weights);

#endif
