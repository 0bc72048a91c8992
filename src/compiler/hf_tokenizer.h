/* tokenizer.json and the special tokens of tokenizer_config.json, config.json and
 * generation_config.json, as a vocabulary. Used by import_hf.c. */
#ifndef COMPILER_HF_TOKENIZER_H
#define COMPILER_HF_TOKENIZER_H

#include "compiler/json_file.h"
#include "program/program.h"

/* A kind, normaliser, pre-tokeniser or post-processor that is not known is refused by name. */
serverd_status hf_tokenizer_import(const char *folder, const struct json_place *config,
                                   struct program *program, serverd_error *err);

#endif
