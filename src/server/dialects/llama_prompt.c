#include "server/dialects/llama_prompt.h"

#include "server/request/fill_prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void llama_prompts_deinit(struct llama_prompts *prompts)
{
    for (uint32_t i = 0; i < prompts->n; i++)
        token_list_deinit(&prompts->items[i]);
    prompts->n = 0;
}

static bool wrong_type(struct api_error *e)
{
    api_error_set(e, "invalid_type", "prompt",
                  "prompt has to be a string, a list of strings and token ids, or a list of such "
                  "prompts.");
    return false;
}

static bool add_id(struct exchange *x, json_t *id, struct token_list *out, struct api_error *e)
{
    json_t *list = json_pack("[O]", id);
    bool is_good = list && out->n < out->limit && api_read_ids(x, list, "prompt", out, e);
    if (!list)
        (void)api_error_no_memory(e);
    else if (!is_good && out->n == out->limit)
        api_error_set(e, "invalid_value", "prompt", "prompt has more than %u tokens.", out->limit);
    json_decref(list);
    return is_good;
}

/* Texts between ids have nothing added. */
static bool add_mixed(struct exchange *x, const json_t *list, struct token_list *out,
                      struct api_error *e)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        bool is_good;
        if (json_is_string(item)) {
            is_good = (i > 0 || fill_prompt_begin(x, "prompt", out, e)) &&
                      api_tokenize(x, json_string_value(item), json_string_length(item),
                                   TOKENIZER_PARSE_SPECIAL, "prompt", out, e);
        } else if (json_is_number(item)) {
            is_good = add_id(x, item, out, e);
        } else {
            is_good = wrong_type(e);
        }
        if (!is_good)
            return false;
    }
    return true;
}

/* An object has its text in it; and media, which nothing here can read. */
static const json_t *text_of(const json_t *prompt, struct api_error *e)
{
    const json_t *media = json_body_get(prompt, "multimodal_data");
    if (!json_is_object(prompt))
        return prompt;
    if (media && json_array_size(media) > 0) {
        api_error_set(e, "unsupported_modality", "prompt", "Only text is read here.");
        return NULL;
    }
    const json_t *text = json_body_get(prompt, "prompt_string");
    if (!json_is_string(text))
        (void)wrong_type(e);
    return json_is_string(text) ? text : NULL;
}

/* Whether the list has an element that is a number, or one that is not. */
static bool has_number(const json_t *list, bool is_number)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        if (json_is_number(item) == is_number)
            return true;
    }
    return false;
}

static bool add_prompt(struct exchange *x, const json_t *prompt, struct llama_prompts *out,
                       struct api_error *e)
{
    struct token_list *ids = &out->items[out->n++];
    token_list_init(ids, LIMIT_CONTEXT);
    const json_t *text = text_of(prompt, e);
    if (!text)
        return false;
    if (json_is_string(text))
        return api_tokenize(x, json_string_value(text), json_string_length(text),
                            TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_SPECIAL, "prompt", ids, e);
    if (!json_is_array(text))
        return wrong_type(e);
    return has_number(text, false) ? add_mixed(x, text, ids, e)
                                   : api_read_ids(x, text, "prompt", ids, e);
}

bool llama_prompts_read(struct exchange *x, const struct api_fields *f, struct llama_prompts *out,
                        struct api_error *e)
{
    const json_t *prompt = f->prompt;
    /* a list with an id is one prompt */
    const bool is_one = !json_is_array(prompt) || has_number(prompt, true);
    size_t n;
    if (!api_count_items(prompt, is_one, "prompt", &n, e))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!add_prompt(x, is_one ? prompt : json_array_get(prompt, i), out, e))
            return false;
    return true;
}

/* ---- infill ---- */

/* A text that may be absent; n 0 then. */
static bool read_text(const json_t *value, const char *param, struct api_text *out,
                      struct api_error *e)
{
    *out = (struct api_text){json_string_value(value), json_string_length(value)};
    if (!value || json_is_string(value))
        return true;
    api_error_set(e, "invalid_type", param, "%s has to be a string.", param);
    return false;
}

static bool read_file(const json_t *item, size_t i, struct fill_file *out, struct api_error *e)
{
    char name[64], text[64];
    (void)snprintf(name, sizeof name, "input_extra[%zu].filename", i);
    (void)snprintf(text, sizeof text, "input_extra[%zu].text", i);
    if (!json_is_object(item)) {
        api_error_set(e, "invalid_type", "input_extra", "input_extra[%zu] has to be an object.", i);
        return false;
    }
    return read_text(json_body_get(item, "filename"), name, &out->name, e) &&
           read_text(json_body_get(item, "text"), text, &out->text, e);
}

/* *out: heap, NULL if there is none. */
static bool read_files(const json_t *extra, struct fill_file **out, uint32_t *n,
                       struct api_error *e)
{
    *out = NULL;
    *n = (uint32_t)json_array_size(extra);
    if (extra && (!json_is_array(extra) || json_array_size(extra) > LIMIT_FILL_FILES)) {
        api_error_set(e, json_is_array(extra) ? "invalid_value" : "invalid_type", "input_extra",
                      "input_extra has to be a list of at most %u files.", LIMIT_FILL_FILES);
        return false;
    }
    if (*n == 0)
        return true;
    *out = calloc(*n, sizeof **out);
    if (!*out)
        return api_error_no_memory(e);
    for (uint32_t i = 0; i < *n; i++)
        if (!read_file(json_array_get(extra, i), i, &(*out)[i], e))
            return false;
    return true;
}

/* What the gap begins with: a text, to which nothing is added. */
static bool read_begun(struct exchange *x, const json_t *prompt, struct token_list *out,
                       struct api_error *e)
{
    struct api_text text;
    return read_text(prompt, "prompt", &text, e) &&
           (text.n == 0 || api_tokenize(x, text.bytes, text.n, 0, "prompt", out, e));
}

bool llama_prompts_read_infill(struct exchange *x, const struct api_fields *f,
                               struct llama_prompts *out, struct api_error *e)
{
    struct token_list begun, *ids = &out->items[out->n++];
    struct fill_file *files = NULL;
    struct fill_prompt parts = {.begun = &begun,
                                .adds_special = true,
                                .before_param = "input_prefix",
                                .behind_param = "input_suffix",
                                .files_param = "input_extra"};
    token_list_init(ids, LIMIT_CONTEXT);
    if (!f->input_prefix && !f->input_suffix) {
        api_error_set(e, "missing_required_parameter", "input_prefix",
                      "input_prefix and input_suffix are missing.");
        return false;
    }
    token_list_init(&begun, LIMIT_CONTEXT);
    bool is_good = fill_prompt_check(x, "input_prefix", e) &&
                   read_text(f->input_prefix, "input_prefix", &parts.before, e) &&
                   read_text(f->input_suffix, "input_suffix", &parts.behind, e) &&
                   read_files(f->input_extra, &files, &parts.n_files, e) &&
                   read_begun(x, f->prompt, &begun, e);
    parts.files = files;
    is_good = is_good && fill_prompt_make(x, &parts, ids, e);
    free(files);
    token_list_deinit(&begun);
    return is_good;
}
