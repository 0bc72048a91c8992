/* What the files of the sentence-transformers package say of an encoder: modules.json and what it
 * points at. Used by import_hf.c. */
#ifndef COMPILER_HF_POOLING_H
#define COMPILER_HF_POOLING_H

#include "compiler/hf_config.h"

/* A folder without modules.json states nothing. A module or a way of pooling that is not known is
 * refused by name. Embeddings always have the length 1, whether there is a Normalize module or not:
 * the API says so. */
serverd_status hf_pooling_read(const char *folder, struct hf_pooling *out, serverd_error *err);

#endif
