/* The synthetic models (synthetic_model.h) in the form of Hugging Face folders: the same numbers
 * under the other names and in the other order of rows, made without the importer's tables. */
#ifndef TESTS_SUPPORT_SYNTHETIC_FOLDER_H
#define TESTS_SUPPORT_SYNTHETIC_FOLDER_H

#include "serverd/status.h"

#include <stdbool.h>
#include <stdint.h>

struct synthetic_folder {
    const char *arch;  /* all of synthetic_model but mistral3 */
    const char *dtype; /* F32, F16 or BF16 */
    uint32_t n_shards; /* 1: model.safetensors; more: an index */
    bool is_unaligned; /* the data begin at an odd address */
};

/* Writes into the folder, which is there. */
serverd_status synthetic_folder(const char *path, const struct synthetic_folder *what,
                                serverd_error *err);

#endif
