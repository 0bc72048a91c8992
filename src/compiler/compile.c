#include "compiler/compile.h"

#include "base/error.h"
#include "base/limits.h"
#include "compiler/arch.h"
#include "compiler/import_gguf.h"
#include "compiler/import_hf.h"
#include "compiler/model_file.h"

#include <string.h>

/* Vocabulary, templates, graph and converted vectors; weights stay in the mapped files. */
#define PROGRAM_BYTES (2 * LIMIT_GGUF_HEADER_BYTES)

/* The program keeps the files that its tensors point into. */
static serverd_status take_mappings(struct source *source, struct program *program,
                                    serverd_error *err)
{
    uint32_t n = source->n_mappings;
    program->mappings = arena_array(program->arena, n ? n : 1, sizeof *program->mappings);
    if (!program->mappings)
        return fail(err, SERVERD_NOMEM, "%s: no memory", source->keys.path);
    memcpy(program->mappings, source->mappings, n * sizeof *program->mappings);
    program->n_mappings = n;
    source->n_mappings = 0;
    return SERVERD_OK;
}

/* "apache-2.0" */
static serverd_status take_license(const struct source *source, struct program *program,
                                   serverd_error *err)
{
    const struct source_key *key = source_find_key(&source->keys, "general.license");
    if (!key || key->is_array || key->type != SOURCE_STRING) /* some write lists: it is only told */
        return SERVERD_OK;
    const struct source_string *text = key->items;
    if (text->len > LIMIT_LICENSE_BYTES)
        return SERVERD_OK;
    program->license = arena_copy(program->arena, text->bytes, text->len);
    return program->license ? SERVERD_OK
                            : fail(err, SERVERD_NOMEM, "%s: no memory", source->keys.path);
}

static serverd_status build(const struct compile_options *options, struct source *source,
                            struct program *program, serverd_error *err)
{
    serverd_status status;
    if (!options->vocabulary_only &&
        ((status = arch_build(options, source, program, err)) != SERVERD_OK ||
         (status = take_mappings(source, program, err)) != SERVERD_OK ||
         (status = passes_run(program, &options->passes, err)) != SERVERD_OK ||
         (status = shard_program(program, options->shard, err)) != SERVERD_OK))
        return status;
    if ((status = take_license(source, program, err)) != SERVERD_OK)
        return status;
    if ((status = program_check(program, err)) != SERVERD_OK)
        return error_context(err, "%s", options->path);
    return SERVERD_OK;
}

serverd_status compile_model(const struct compile_options *options, struct program **out,
                             serverd_error *err)
{
    struct source source = {0};
    struct program *program = program_create(PROGRAM_BYTES);
    if (!program)
        return fail(err, SERVERD_NOMEM, "%s: no memory", options->path);
    const bool is_folder = file_is_folder(options->path) || model_file_is_archive(options->path);
    serverd_status status = is_folder ? import_hf(options, &source, program, err)
                                      : import_gguf(options, &source, program, err);
    if (status == SERVERD_OK)
        status = build(options, &source, program, err);
    if (status == SERVERD_OK)
        *out = program;
    else
        program_unref(program);
    source_close(&source);
    return status;
}
