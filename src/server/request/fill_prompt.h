/* The prompt of a fill-in: what stands before a gap and behind it, between the model's own tokens
 * for that (text/fill_in.h). Texts are plain: what looks like a control token in them is text. */
#ifndef SERVER_REQUEST_FILL_PROMPT_H
#define SERVER_REQUEST_FILL_PROMPT_H

#include "server/request/api_request.h"

struct fill_file {
    struct api_text name, text;
};

struct fill_prompt {
    struct api_text before, behind;
    const struct token_list *before_ids; /* instead of `before`; NULL: the text */
    const struct fill_file *files;       /* [n_files] that may help, in front */
    uint32_t n_files;
    const struct token_list *begun; /* what the gap begins with; NULL: nothing */
    bool adds_special;              /* BOS, if the model wants it */
    const char *before_param, *behind_param, *files_param; /* names of the fields, for errors */
};

/* False: the model has no such tokens, and *e says so. param: the field that asks for a fill-in. */
bool fill_prompt_check(struct exchange *x, const char *param, struct api_error *e);

/* Appends the prompt; the model has the tokens. False: *e. */
bool fill_prompt_make(struct exchange *x, const struct fill_prompt *parts, struct token_list *out,
                      struct api_error *e);

/* Appends BOS if the model's texts begin with it. False: *e. */
bool fill_prompt_begin(struct exchange *x, const char *param, struct token_list *out,
                       struct api_error *e);

/* The request ends at the tokens that lead over to another file, too. False: *e. */
bool fill_prompt_set_stops(struct exchange *x, struct request *request, struct api_error *e);

#endif
