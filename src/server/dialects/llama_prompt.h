/* Prompts as llama-server's dialect writes them: a text, ids, or a list of both; a list of such
 * prompts; and the parts of an infill. */
#ifndef SERVER_DIALECTS_LLAMA_PROMPT_H
#define SERVER_DIALECTS_LLAMA_PROMPT_H

#include "server/request/api_request.h"

struct llama_prompts {
    struct token_list items[LIMIT_PROMPTS];
    uint32_t n;
};

/* The fields' prompts. False: *e. Deinit in both cases. */
bool llama_prompts_read(struct exchange *x, const struct api_fields *fields,
                        struct llama_prompts *out, struct api_error *e);
/* The same of an infill, which is one prompt. */
bool llama_prompts_read_infill(struct exchange *x, const struct api_fields *fields,
                               struct llama_prompts *out, struct api_error *e);
void llama_prompts_deinit(struct llama_prompts *prompts);

#endif
