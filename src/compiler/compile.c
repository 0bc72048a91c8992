#include "compiler/compile.h"

#include "base/error.h"
#include "base/limits.h"
#include "compiler/arch.h"
#include "compiler/import_gguf.h"

#include <string.h>

/* Vocabulary, templates, graph and converted vectors; weights stay in the mapped files. */
#define PROGRAM_BYTES (2 * LIMIT_GGUF_HEADER_BYTES)

static serverd_status import_names(const struct gguf_file *file, struct program_config *config,
                                   serverd_error *err)
{
    struct gguf_string architecture = {.bytes = ""}, name = {.bytes = ""},
                       type = {.bytes = "model"};
    serverd_status status;
    if ((status = gguf_get_string(file, "general.architecture", &architecture, err)) !=
            SERVERD_OK ||
        (status = gguf_get_string(file, "general.name", &name, err)) != SERVERD_OK ||
        (status = gguf_get_string(file, "general.type", &type, err)) != SERVERD_OK)
        return status;
    if (strcmp(type.bytes, "model") != 0)
        return fail(err, SERVERD_UNSUPPORTED, "%s: key general.type: \"%.64s\", model is needed",
                    file->path, type.bytes);
    import_text(architecture, config->architecture, sizeof config->architecture);
    import_text(name, config->name, sizeof config->name);
    return SERVERD_OK;
}

static serverd_status import_keys(const struct gguf_file *file, struct program *program,
                                  serverd_error *err)
{
    serverd_status status;
    if ((status = import_names(file, &program->config, err)) != SERVERD_OK ||
        (status = import_vocabulary(file, program, err)) != SERVERD_OK ||
        (status = import_templates(file, program, err)) != SERVERD_OK)
        return status;
    return import_sampling(file, &program->sampling, err);
}

/* The program keeps the files that its tensors point into. */
static serverd_status take_mappings(struct gguf_model *file, struct program *program,
                                    serverd_error *err)
{
    program->mappings = arena_array(program->arena, file->n_shards, sizeof *program->mappings);
    if (!program->mappings)
        return fail(err, SERVERD_NOMEM, "%s: no memory", file->first.path);
    memcpy(program->mappings, file->mappings, file->n_shards * sizeof *program->mappings);
    program->n_mappings = file->n_shards;
    file->n_shards = 0;
    return SERVERD_OK;
}

static serverd_status import_all(const struct compile_options *options, struct gguf_model *file,
                                 struct program *program, serverd_error *err)
{
    serverd_status status = import_keys(&file->first, program, err);
    if (status != SERVERD_OK)
        return status;
    if (!options->vocabulary_only && ((status = arch_build(file, program, err)) != SERVERD_OK ||
                                      (status = take_mappings(file, program, err)) != SERVERD_OK))
        return status;
    if ((status = program_check(program, err)) != SERVERD_OK)
        return error_context(err, "%s", options->path);
    return SERVERD_OK;
}

serverd_status compile_model(const struct compile_options *options, struct program **out,
                             serverd_error *err)
{
    struct gguf_model file = {0};
    struct program *program = NULL;
    serverd_status status = options->vocabulary_only
                                ? gguf_model_open_keys(options->path, &file, err)
                                : gguf_model_open(options->path, &file, err);
    if (status != SERVERD_OK)
        return status;
    program = program_create(PROGRAM_BYTES);
    if (!program)
        status = fail(err, SERVERD_NOMEM, "%s: no memory", options->path);
    else
        status = import_all(options, &file, program, err);
    if (status == SERVERD_OK)
        *out = program;
    else
        program_unref(program);
    gguf_model_close(&file);
    return status;
}
