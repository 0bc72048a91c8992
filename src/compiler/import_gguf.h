/* From the keys of a GGUF file to the parts of a program that are not the graph: vocabulary,
 * chat templates, recommended sampling. Everything is copied into the program's arena. */
#ifndef COMPILER_IMPORT_GGUF_H
#define COMPILER_IMPORT_GGUF_H

#include "compiler/gguf_reader.h"
#include "program/program.h"

serverd_status import_vocabulary(const struct gguf_file *file, struct program *program,
                                 serverd_error *err);
serverd_status import_templates(const struct gguf_file *file, struct program *program,
                                serverd_error *err);
serverd_status import_sampling(const struct gguf_file *file, struct program_sampling *out,
                               serverd_error *err);

/* Copies text into a field of `size` bytes, cut at a UTF-8 border. */
void import_text(struct gguf_string text, char *out, size_t size);

#endif
