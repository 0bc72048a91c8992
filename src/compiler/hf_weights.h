/* The weights of a Hugging Face folder as tensors of a source: model.safetensors, or the shards
 * that model.safetensors.index.json names. Used by import_hf.c.
 *
 * Data stay in the mapped files, but for what has to be made: norm weights that are stored without
 * their 1, tables of rope divisors, vectors that are not aligned. */
#ifndef COMPILER_HF_WEIGHTS_H
#define COMPILER_HF_WEIGHTS_H

#include "compiler/hf_config.h"

/* Fills tensors and mappings of the source. What is made lies in `made`, which outlives the graph.
 * A tensor that has no place in the class is refused by name. */
serverd_status hf_weights_import(const char *folder, const struct hf_config *config,
                                 struct arena *made, struct source *source, serverd_error *err);

#endif
