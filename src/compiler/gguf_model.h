/* A model in one GGUF file or in shards PREFIX-00001-of-0000N.gguf as a source: the first file's
 * keys and the tensors of all, mapped. Used by import_gguf.c, single-threaded. */
#ifndef COMPILER_GGUF_MODEL_H
#define COMPILER_GGUF_MODEL_H

#include "compiler/source.h"

/* Opens every shard of the model that the file at `path` (any shard) belongs to. */
serverd_status gguf_model_open(const char *path, struct source *out, serverd_error *err);

/* The keys only: no tensor data is mapped, other shards are not looked at. */
serverd_status gguf_model_open_keys(const char *path, struct source *out, serverd_error *err);

#endif
