/* A folder as Hugging Face's libraries write it, to a source for the architecture and to the parts
 * of a program that are not the graph.
 *
 *     config.json                          sizes, rope, windows   hf_config.c, hf_rope.c
 *     model.safetensors, or an index       weights                hf_weights.c, hf_names.c
 *     tokenizer.json, tokenizer_config.json   vocabulary          hf_tokenizer.c
 *     generation_config.json, templates    defaults, chat         hf_texts.c
 *     modules.json and what it names       pooling                hf_pooling.c */
#ifndef COMPILER_IMPORT_HF_H
#define COMPILER_IMPORT_HF_H

#include "compiler/compile.h"
#include "compiler/source.h"

/* As import_gguf; options->path is the folder. */
serverd_status import_hf(const struct compile_options *options, struct source *source,
                         struct program *program, serverd_error *err);

#endif
