/* Any bytes as config.json: keys or an error with text. */
#include "base/limits.h"
#include "compiler/hf_config.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *root;
    serverd_error err = {0};
    if (json_file_parse("config.json", (const char *)data, size, LIMIT_HF_CONFIG_VALUES,
                        JSON_OBJECT, &root, &err) != SERVERD_OK)
        return 0;
    struct source source = {.arena = arena_create(64 * MIB), .keys.path = "config.json"};
    const struct json_place place = {.file = "config.json", .where = "", .object = root};
    const struct hf_pooling pooling = {.pooling = SERVERD_POOL_MEAN, .max_tokens = 100};
    struct hf_config config;
    if (!source.arena)
        abort();
    if (hf_config_import(&place, &pooling, &source, &config, &err) != SERVERD_OK &&
        err.text[0] == '\0')
        abort();
    source_close(&source);
    json_decref(root);
    return 0;
}
