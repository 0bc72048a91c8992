/* Names of tensors: of a Hugging Face class to canonical ones. Pure. */
#ifndef COMPILER_HF_NAMES_H
#define COMPILER_HF_NAMES_H

#include "compiler/hf_config.h"

enum hf_name { HF_NAME_UNKNOWN, HF_NAME_KNOWN, HF_NAME_UNUSED };
enum { HF_NAME_BYTES = 128 };

/* out[] is filled if the name is known. Unused are tables that every reader computes itself, heads
 * that are tied, poolers, and the parts of a model that are not its text part. */
enum hf_name hf_canonical_name(const struct hf_class *class, bool is_tied, const char *name,
                               char out[HF_NAME_BYTES]);

#endif
