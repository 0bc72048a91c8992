/* A model in one GGUF file or in shards PREFIX-00001-of-0000N.gguf: the first file's keys and
 * the tensors of all, mapped. Used by compile.c and arch.c, single-threaded. */
#ifndef COMPILER_GGUF_MODEL_H
#define COMPILER_GGUF_MODEL_H

#include "compiler/gguf_reader.h"

struct gguf_model {
    struct arena *arena;    /* headers; ends with the model */
    struct gguf_file first; /* its keys are the model's keys */
    uint32_t n_shards;
    struct mapping *mappings; /* [n_shards], in the arena; maps nothing in a model of keys only */
    uint32_t n_tensors;
    struct gguf_tensor *tensors; /* of all shards, by name */
};

/* Opens every shard of the model that the file at `path` (any shard) belongs to. The mappings
 * end with the model unless they are taken over by setting n_shards to 0. */
serverd_status gguf_model_open(const char *path, struct gguf_model *out, serverd_error *err);

/* The keys only: no tensor data is mapped, other shards are not looked at. */
serverd_status gguf_model_open_keys(const char *path, struct gguf_model *out, serverd_error *err);

void gguf_model_close(struct gguf_model *model); /* a zeroed one is fine */

/* NULL if there is none. */
struct gguf_tensor *gguf_model_find(const struct gguf_model *model, const char *name);

#endif
