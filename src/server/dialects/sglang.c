/* SGLang's /generate: texts or ids, one or many, with its own names for the sampling parameters. */
#include "base/numeric.h"
#include "server/dialects/sglang_reply.h"
#include "server/endpoints.h"
#include "server/request/modality.h"
#include "server/request/output_form.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_NEW_TOKENS 128

/* ---- one prompt's parameters as those of a completion ---- */

static const struct {
    const char *from, *to;
} names[] = {
    {"max_new_tokens", "max_tokens"},
    {"min_new_tokens", "min_tokens"},
    {"sampling_seed", "seed"},
    {"n", "n"},
    {"temperature", "temperature"},
    {"top_p", "top_p"},
    {"top_k", "top_k"},
    {"min_p", "min_p"},
    {"frequency_penalty", "frequency_penalty"},
    {"presence_penalty", "presence_penalty"},
    {"repetition_penalty", "repetition_penalty"},
    {"stop", "stop"},
    {"stop_regex", "stop_regex"},
    {"stop_token_ids", "stop_token_ids"},
    {"ignore_eos", "ignore_eos"},
    {"skip_special_tokens", "skip_special_tokens"},
    {"no_stop_trim", "no_stop_trim"},
    {"logit_bias", "logit_bias"},
    {"regex", "regex"},
    {"json_schema", "json_schema"},
    {"ebnf", "ebnf"},
};

/* JSON in a text, or as it is; what is neither is refused as a form of the output. */
static void add_tags(json_t *out, json_t *value)
{
    json_t *tags =
        json_loadb(json_string_value(value), json_string_length(value), JSON_ALLOW_NUL, NULL);
    (void)json_object_set(out, "response_format", tags ? tags : value);
    json_decref(tags);
}

static void add_parameter(struct exchange *x, json_t *out, const char *name, json_t *value)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i].from, name) == 0) {
            (void)json_object_set(out, names[i].to, value);
            return;
        }
    }
    if (strcmp(name, "structural_tag") == 0)
        add_tags(out, value);
    else if (strcmp(name, "spaces_between_special_tokens") != 0)
        exchange_ignored_field(x, name);
}

static json_t *completion_of(struct exchange *x, const json_t *root, const json_t *params)
{
    static const char *const shared[] = {"model", "priority", "cache_salt", "stream"};
    json_t *out = json_object(), *value;
    const char *name;
    json_t *adapter = json_body_get(root, "lora_path");
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        if ((value = json_body_get(root, shared[i])))
            (void)json_object_set(out, shared[i], value);
    if (json_is_string(adapter))
        (void)json_object_set(out, "model", adapter);
    json_object_foreach((json_t *)params, name, value) add_parameter(x, out, name, value);
    return out;
}

/* ---- the body ---- */

struct body {
    json_t *root;
    const json_t *prompts; /* a list */
    bool is_list, has_ids;
    bool wants_logprobs;
    int64_t start; /* of the prompt's log probabilities */
    int64_t n_top;
};

static bool refuse(struct api_error *e, const char *code, const char *param, const char *text)
{
    api_error_set(e, code, param, "%s %s", param, text);
    return false;
}

static bool read_int(const json_t *root, const char *name, int64_t least, int64_t most,
                     int64_t *out, struct api_error *e)
{
    const json_t *value = json_body_get(root, name);
    if (!value || (json_body_integer(value, out) && *out >= least && *out <= most))
        return true;
    return refuse(e, "invalid_value", name, "is out of range.");
}

/* A list of prompts in *made, which owns it. */
static bool read_prompts(struct body *b, json_t **made, struct api_error *e)
{
    json_t *text = json_body_get(b->root, "text"), *ids = json_body_get(b->root, "input_ids");
    json_t *value = text ? text : ids;
    const char *param = text ? "text" : "input_ids";
    if (!value || (text && ids))
        return refuse(e, "missing_required_parameter", "text", "or input_ids has to be there.");
    b->has_ids = ids != NULL;
    const json_t *first = json_array_get(value, 0);
    b->is_list = json_is_array(value) && (b->has_ids ? json_is_array(first) : true);
    *made = b->is_list ? json_incref(value) : json_pack("[O]", value);
    b->prompts = *made;
    size_t i;
    json_t *prompt;
    json_array_foreach(*made, i, prompt)
    {
        if (b->has_ids ? !json_is_array(prompt) : !json_is_string(prompt))
            return refuse(e, "invalid_type", param, "has to be one prompt or a list of them.");
    }
    if (i == 0 || i > LIMIT_PROMPTS)
        return refuse(e, "invalid_value", param, "has no prompt, or too many.");
    return true;
}

/* Beside the text, one for each prompt; an empty one is none. */
static bool refuse_media(const json_t *root, struct api_error *e)
{
    static const char *const media[] = {"image_data", "audio_data", "video_data"};
    for (size_t i = 0; i < sizeof media / sizeof *media; i++) {
        const json_t *value = json_body_get(root, media[i]);
        bool is_empty = !value || (json_is_array(value) && json_array_size(value) == 0) ||
                        (json_is_string(value) && json_string_length(value) == 0);
        if (!is_empty)
            return refuse(e, "unsupported_modality", media[i], "is there: " MODALITY_REFUSAL);
    }
    return true;
}

static bool read_body(struct body *b, struct api_error *e)
{
    b->start = -1;
    b->wants_logprobs = json_is_true(json_body_get(b->root, "return_logprob"));
    return refuse_media(b->root, e) &&
           read_int(b->root, "logprob_start_len", -1, LIMIT_CONTEXT, &b->start, e) &&
           read_int(b->root, "top_logprobs_num", 0, LIMIT_TOP_LOGPROBS, &b->n_top, e);
}

/* ---- requests ---- */

static void score_prompt(const struct body *b, struct request *request)
{
    int64_t start = b->start;
    if (start < 0)
        start = request->max_new_tokens == 0 ? 0 : request->n_prompt;
    request->wants_prompt_logprobs = b->wants_logprobs && start + 1 < (int64_t)request->n_prompt;
    request->score_from = (uint32_t)start + 1;
}

static struct request *make_request(struct exchange *x, const struct body *b, const json_t *prompt,
                                    const struct api_fields *fields, struct api_error *e)
{
    const char *param = b->has_ids ? "input_ids" : "text";
    struct token_list ids;
    struct request *request = NULL;
    token_list_init(&ids, LIMIT_CONTEXT);
    bool is_good =
        b->has_ids ? api_read_ids(x, prompt, param, &ids, e)
                   : api_tokenize(x, json_string_value(prompt), json_string_length(prompt),
                                  TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_SPECIAL, param, &ids, e);
    if (is_good && ids.n == 0)
        is_good = refuse(e, "invalid_value", param, "has a prompt without tokens.");
    if (is_good)
        request = api_make_request(x, fields, ids.id, ids.n, DEFAULT_NEW_TOKENS,
                                   b->wants_logprobs ? (int32_t)b->n_top : -1, param, e);
    if (request)
        score_prompt(b, request);
    token_list_deinit(&ids);
    return request;
}

struct call {
    struct request **requests;
    struct api_fields *fields; /* of each prompt */
    uint32_t n;                /* requests that there are */
    uint32_t n_prompts;
    struct output_form form; /* of all prompts */
};

static bool is_same_form(const struct output_form *a, const struct output_form *b)
{
    return a->is_set == b->is_set && a->form == b->form && a->whitespace == b->whitespace &&
           a->n == b->n && (a->n == 0 || memcmp(a->text, b->text, a->n) == 0);
}

static bool read_form(const struct body *b, size_t i, struct call *call, struct api_error *e)
{
    struct output_form own;
    if (i == 0)
        return output_form_read(&call->fields[0], &call->form, e);
    if (!json_is_array(json_body_get(b->root, "sampling_params")))
        return true; /* as of the first prompt */
    bool is_good = output_form_read(&call->fields[i], &own, e);
    if (is_good && !is_same_form(&own, &call->form))
        is_good = refuse(e, "unsupported_value", "sampling_params",
                         "can have one form of the output, the same for all prompts.");
    output_form_release(&own);
    return is_good;
}

static bool add_prompt(struct exchange *x, const struct body *b, size_t i, struct call *call,
                       struct api_error *e)
{
    const json_t *params = json_body_get(b->root, "sampling_params");
    if (json_is_array(params))
        params = json_array_get(params, i);
    if (params && !json_is_object(params))
        return refuse(e, "invalid_type", "sampling_params",
                      "has to be an object, or one for each.");
    struct api_fields *fields = &call->fields[i];
    if (!api_fields_read_json(x, API_COMPLETIONS, completion_of(x, b->root, params), fields, e))
        return false;
    struct request *request = make_request(x, b, json_array_get(b->prompts, i), fields, e);
    if (request)
        call->requests[call->n++] = request;
    return request && read_form(b, i, call, e);
}

static void call_release(struct call *call)
{
    for (uint32_t i = 0; call->requests && i < call->n; i++)
        request_destroy(call->requests[i]);
    free(call->requests);
    output_form_release(&call->form);
}

static void release_fields(struct call *call)
{
    for (uint32_t i = 0; call->fields && i < call->n_prompts; i++)
        api_fields_release(&call->fields[i]);
    free(call->fields);
}

static bool make_call(struct exchange *x, const struct body *b, struct call *call,
                      struct api_error *e)
{
    const size_t n = json_array_size(b->prompts);
    call->n_prompts = (uint32_t)n;
    call->requests = calloc(n, sizeof *call->requests);
    call->fields = calloc(n, sizeof *call->fields);
    bool is_good = call->requests && call->fields;
    if (!is_good)
        (void)api_error_no_memory(e);
    for (size_t i = 0; i < n && is_good; i++)
        is_good = add_prompt(x, b, i, call, e);
    return is_good;
}

void endpoint_generate(struct exchange *x)
{
    struct body body = {0};
    struct call call = {0};
    struct api_error e;
    json_t *prompts = NULL;
    if (!exchange_take_json(x, &body.root, &e)) {
        exchange_fail(x, &e);
        return;
    }
    struct sglang_reply *reply = NULL;
    if (api_check_generates(x, &e) && read_body(&body, &e) && read_prompts(&body, &prompts, &e) &&
        make_call(x, &body, &call, &e)) {
        const struct sglang_setup setup = {
            .exchange = x,
            .is_list = body.is_list || call.requests[0]->n_choices > 1,
            .is_stream = call.fields[0].stream,
            .names_tokens = json_is_true(json_body_get(body.root, "return_text_in_logprobs")),
            .id = json_string_value(json_body_get(body.root, "rid")),
            .requests = call.requests,
            .n_requests = call.n,
            .fields = call.fields};
        reply = sglang_reply_create(&setup);
        if (!reply)
            (void)api_error_no_memory(&e);
    }
    if (reply) {
        const char *id = json_string_value(json_body_get(body.root, "rid"));
        if (id)
            exchange_set_body_id(x, id);
        bool is_stream = call.fields[0].stream;
        output_form_generate(x, call.requests, call.n, &call.form, &sglang_reply_encoder, reply,
                             is_stream);
    } else {
        call_release(&call);
        exchange_fail(x, &e);
    }
    release_fields(&call);
    json_decref(prompts);
    json_decref(body.root);
}

/* ---- aborting ---- */

/* The id, NULL for all. False: *e. */
static bool read_abort(struct exchange *x, const json_t *root, const char **id, struct api_error *e)
{
    const json_t *all = json_body_get(root, "abort_all"), *rid = json_body_get(root, "rid");
    *id = json_string_value(rid);
    if ((all && !json_is_boolean(all)) || (rid && !*id))
        return refuse(e, "invalid_type", all && !json_is_boolean(all) ? "abort_all" : "rid",
                      "has to be true or false, or a string.");
    if (json_is_true(all)) {
        *id = NULL;
        if (!x->is_admin)
            api_error_set(e, "insufficient_scope", "abort_all",
                          "Only administrators may abort all requests.");
        return x->is_admin;
    }
    return (*id && **id) ||
           refuse(e, "missing_required_parameter", "rid", "or abort_all has to be there.");
}

void endpoint_abort_request(struct exchange *x)
{
    struct api_error e;
    struct buffer body;
    json_t *root;
    const char *id;
    if (!exchange_take_json(x, &root, &e)) {
        exchange_fail(x, &e);
        return;
    }
    if (read_abort(x, root, &id, &e)) {
        uint32_t n = exchange_cancel_others(x->server, id, x->tenant, x->is_admin);
        buffer_init(&body, 1 * KIB);
        buffer_printf(&body, "{\"aborted\":%u}", n);
        exchange_reply(x, 200, "application/json", &body);
    } else {
        exchange_fail(x, &e);
    }
    json_decref(root);
}
