#include "compiler/hf_tokenizer.h"

serverd_status hf_tokenizer_import(const char *folder, const struct json_place *config,
                                   struct program *program, serverd_error *err)
{
    struct vocabulary *v = &program->vocabulary;
    (void)folder, (void)config, (void)err;
    v->bos = v->eos = v->eot = v->eom = v->unknown = v->separator = v->padding = v->cls = v->mask =
        -1;
    v->fim_prefix = v->fim_suffix = v->fim_middle = v->fim_pad = v->fim_repo = v->fim_separator =
        -1;
    return SERVERD_OK;
}
