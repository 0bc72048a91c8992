/* Chat templates and recommended sampling of a Hugging Face folder. Used by import_hf.c. */
#ifndef COMPILER_HF_TEXTS_H
#define COMPILER_HF_TEXTS_H

#include "program/program.h"

/* chat_template.jinja, else tokenizer_config.json:chat_template, which is a text or a list of
 * {name, template}; and additional_chat_templates/NAME.jinja. */
serverd_status hf_templates_import(const char *folder, struct program *program, serverd_error *err);

/* generation_config.json, unless it says that nothing is drawn (do_sample: false). */
serverd_status hf_sampling_import(const char *folder, struct program_sampling *out,
                                  serverd_error *err);

#endif
