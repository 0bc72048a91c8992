#include "compiler/import_hf.h"

#include "base/error.h"
#include "base/limits.h"
#include "compiler/hf_config.h"
#include "compiler/hf_pooling.h"
#include "compiler/hf_texts.h"
#include "compiler/hf_tokenizer.h"
#include "compiler/hf_weights.h"

#include <stdio.h>
#include <string.h>

enum { PATH_BYTES = 4096 };

/* Cut at a UTF-8 border. */
static void copy_name(const char *from, char *out, size_t size)
{
    size_t n = strlen(from);
    if (n > size - 1)
        n = size - 1;
    while (n > 0 && ((unsigned char)from[n] & 0xc0u) == 0x80u)
        n--;
    memcpy(out, from, n);
    out[n] = '\0';
}

static serverd_status import_names(const struct json_place *config, const struct hf_class *class,
                                   struct program_config *out, serverd_error *err)
{
    const char *name = "";
    serverd_status status = json_place_string(config, "_name_or_path", &name, err);
    if (status != SERVERD_OK)
        return status;
    copy_name(class->arch, out->architecture, sizeof out->architecture);
    copy_name(name, out->name, sizeof out->name);
    return SERVERD_OK;
}

static serverd_status import_parts(const struct compile_options *options,
                                   const struct json_place *config, struct source *source,
                                   struct program *program, serverd_error *err)
{
    serverd_status status;
    struct hf_pooling pooling;
    struct hf_config made;
    const char *folder = options->path;
    if ((status = hf_pooling_read(folder, &pooling, err)) != SERVERD_OK ||
        (status = hf_config_import(config, &pooling, source, &made, err)) != SERVERD_OK ||
        (status = import_names(config, made.class, &program->config, err)) != SERVERD_OK ||
        (status = hf_tokenizer_import(folder, config, program, err)) != SERVERD_OK ||
        (status = hf_templates_import(folder, program, err)) != SERVERD_OK ||
        (status = hf_sampling_import(folder, &program->sampling, err)) != SERVERD_OK)
        return status;
    if (options->vocabulary_only)
        return SERVERD_OK;
    return hf_weights_import(folder, &made, program->arena, source, err);
}

static serverd_status import_config(const struct compile_options *options, struct source *source,
                                    struct program *program, serverd_error *err)
{
    char path[PATH_BYTES];
    json_t *root;
    const struct json_bounds bounds = {LIMIT_HF_CONFIG_BYTES, LIMIT_HF_CONFIG_VALUES};
    serverd_status status = join_path(options->path, "config.json", sizeof path, path, err);
    if (status != SERVERD_OK ||
        (status = json_file_read(path, bounds, JSON_OBJECT, &root, err)) != SERVERD_OK)
        return status;
    const struct json_place config = {.file = path, .where = "", .object = root};
    status = import_parts(options, &config, source, program, err);
    json_decref(root);
    return status;
}

serverd_status import_hf(const struct compile_options *options, struct source *source,
                         struct program *program, serverd_error *err)
{
    struct source made = {.arena = arena_create(LIMIT_GGUF_HEADER_BYTES),
                          .keys.path = options->path,
                          .rotates_halves = true};
    if (!made.arena)
        return fail(err, SERVERD_NOMEM, "%s: no memory", options->path);
    serverd_status status = import_config(options, &made, program, err);
    if (status != SERVERD_OK)
        source_close(&made);
    else
        *source = made;
    return status;
}
