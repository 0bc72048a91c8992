#include "base/numeric.h"
#include "server/dialects/openai_reply.h"
#include "server/endpoints.h"
#include "server/request/fill_prompt.h"
#include "server/request/output_form.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_TOKENS 16

/* Prompts as ids, in order. */
struct prompt_list {
    struct token_list items[LIMIT_PROMPTS];
    uint32_t n;
};

static bool add_text(struct exchange *x, const struct api_fields *f, const json_t *text,
                     struct prompt_list *out, struct api_error *e)
{
    unsigned flags = TOKENIZER_PARSE_SPECIAL | (f->add_special_tokens ? TOKENIZER_ADD_SPECIAL : 0);
    return api_tokenize(x, json_string_value(text), json_string_length(text), flags, "prompt",
                        &out->items[out->n++], e);
}

/* An empty suffix is none. */
static bool fills_in(const struct api_fields *f)
{
    return json_string_length(f->suffix) > 0;
}

/* The prompt stands before the gap, as a text or as ids. */
static bool add_fill_in(struct exchange *x, const struct api_fields *f, const json_t *item,
                        struct prompt_list *out, struct api_error *e)
{
    struct token_list ids;
    token_list_init(&ids, LIMIT_CONTEXT);
    const struct fill_prompt parts = {
        .before = {json_string_value(item), json_string_length(item)},
        .before_ids = json_is_array(item) ? &ids : NULL,
        .behind = {json_string_value(f->suffix), json_string_length(f->suffix)},
        .adds_special = f->add_special_tokens,
        .before_param = "prompt",
        .behind_param = "suffix"};
    bool is_good = (!parts.before_ids || api_read_ids(x, item, "prompt", &ids, e)) &&
                   fill_prompt_make(x, &parts, &out->items[out->n++], e);
    token_list_deinit(&ids);
    return is_good;
}

static bool add_prompt(struct exchange *x, const struct api_fields *f, const json_t *item,
                       struct prompt_list *out, struct api_error *e)
{
    token_list_init(&out->items[out->n], LIMIT_CONTEXT);
    if (fills_in(f) && (json_is_string(item) || json_is_array(item)))
        return add_fill_in(x, f, item, out, e);
    if (json_is_string(item))
        return add_text(x, f, item, out, e);
    if (json_is_array(item))
        return api_read_ids(x, item, "prompt", &out->items[out->n++], e);
    api_error_set(e, "invalid_type", "prompt",
                  "prompt has to be a string, a list of strings, a list of token ids, or a list of "
                  "lists of token ids.");
    return false;
}

static bool read_prompts(struct exchange *x, const struct api_fields *f, struct prompt_list *out,
                         struct api_error *e)
{
    const json_t *prompt = f->prompt;
    const bool is_one = !json_is_array(prompt) || json_is_number(json_array_get(prompt, 0));
    size_t n;
    if (!api_count_items(prompt, is_one, "prompt", &n, e))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!add_prompt(x, f, is_one ? prompt : json_array_get(prompt, i), out, e))
            return false;
    return true;
}

/* logprobs: 0..20; -1: none. */
static bool read_logprobs(const struct api_fields *f, int32_t *out, struct api_error *e)
{
    int64_t n = -1;
    *out = -1;
    if (!f->logprobs)
        return true;
    if (json_is_boolean(f->logprobs)) {
        *out = json_is_true(f->logprobs) ? 0 : -1;
        return true;
    }
    if (!json_body_integer(f->logprobs, &n)) {
        api_error_set(e, "invalid_type", "logprobs", "logprobs has to be an integer.");
        return false;
    }
    if (n < 0 || n > LIMIT_TOP_LOGPROBS) {
        api_error_set(e, "invalid_value", "logprobs",
                      "logprobs is %" PRId64 ", allowed are 0 to %u.", n, LIMIT_TOP_LOGPROBS);
        return false;
    }
    *out = (int32_t)n;
    return true;
}

/* What becomes of an echo, or of a prompt that is cut, when text follows behind the gap, nobody has
 * said. */
static bool check_suffix(struct exchange *x, const struct api_fields *f, struct api_error *e)
{
    if (f->suffix && !json_is_string(f->suffix)) {
        api_error_set(e, "invalid_type", "suffix", "suffix has to be a string.");
        return false;
    }
    if (!fills_in(f))
        return true;
    if (f->echo || f->truncate_prompt_tokens != API_UNSET) {
        api_error_set(e, "unsupported_value", "suffix",
                      "suffix cannot be used with echo or truncate_prompt_tokens.");
        return false;
    }
    return fill_prompt_check(x, "suffix", e);
}

static bool check_fields(struct exchange *x, const struct api_fields *f, struct api_error *e)
{
    bool ignored;
    if (!api_check_generates(x, e))
        return false;
    if (f->best_of != API_UNSET && f->best_of < f->n) {
        api_error_set(e, "invalid_value", "best_of",
                      "best_of is %" PRId64 ", less than the %" PRId64 " choices of n.", f->best_of,
                      f->n);
        return false;
    }
    if (f->best_of != API_UNSET && f->best_of > f->n && f->stream) {
        api_error_set(e, "invalid_value", "best_of",
                      "best_of is more than n: which choices are the best is known at the end, so "
                      "they cannot be streamed.");
        return false;
    }
    return check_suffix(x, f, e) && openai_read_stream_options(f, &ignored, &ignored, e);
}

/* One request for the engine per prompt; the array and what is in it. The best of the choices are
 * found by the log probabilities of their tokens. */
static struct request **make_requests(struct exchange *x, const struct api_fields *f,
                                      const struct prompt_list *prompts, int32_t n_logprobs,
                                      bool is_ranked, struct api_error *e)
{
    const int32_t n_wanted = is_ranked && n_logprobs < 0 ? 0 : n_logprobs;
    if (prompts->n * f->n > LIMIT_PROMPTS) {
        api_error_set(e, "invalid_value", is_ranked ? "best_of" : "n",
                      "%u prompts of %" PRId64 " choices each, at most %u choices are allowed.",
                      prompts->n, f->n, LIMIT_PROMPTS);
        return NULL;
    }
    struct request **requests = calloc(prompts->n, sizeof *requests);
    bool is_good = requests != NULL;
    if (!is_good)
        (void)api_error_no_memory(e);
    for (uint32_t i = 0; i < prompts->n && is_good; i++) {
        const struct token_list *ids = &prompts->items[i];
        if (ids->n == 0) {
            api_error_set(e, "invalid_value", "prompt", "prompt %u has no tokens.", i);
            is_good = false;
            break;
        }
        requests[i] =
            api_make_request(x, f, ids->id, ids->n, DEFAULT_TOKENS, n_wanted, "prompt", e);
        is_good = requests[i] && (!fills_in(f) || fill_prompt_set_stops(x, requests[i], e));
        if (is_good)
            requests[i]->wants_prompt_logprobs |= f->echo && n_logprobs >= 0 && ids->n > 1;
    }
    for (uint32_t i = 0; requests && !is_good && i < prompts->n; i++)
        if (requests[i])
            request_destroy(requests[i]);
    if (!is_good) {
        free(requests);
        return NULL;
    }
    return requests;
}

static void generate(struct exchange *x, struct api_fields *f, const struct prompt_list *prompts,
                     struct request **requests, struct output_form *form, int32_t n_logprobs,
                     uint32_t n_shown)
{
    bool is_stream = f->stream;
    uint64_t n_prompt_tokens = 0;
    for (uint32_t i = 0; i < prompts->n; i++)
        n_prompt_tokens += prompts->items[i].n;
    const struct openai_reply_setup setup = {.exchange = x,
                                             .fields = f,
                                             .is_echo = f->echo,
                                             .n_logprobs = n_logprobs,
                                             .n_shown = n_shown,
                                             .n_prompts = prompts->n,
                                             .n_prompt_tokens = n_prompt_tokens};
    struct openai_reply *reply = openai_reply_create(&setup);
    bool is_good = reply != NULL;
    for (uint32_t i = 0; i < prompts->n && is_good; i++)
        is_good = openai_reply_set_prompt(reply, i, prompts->items[i].id, prompts->items[i].n);
    if (is_good) {
        output_form_generate(x, requests, prompts->n, form, &openai_reply_encoder, reply,
                             is_stream);
        return;
    }
    struct api_error e;
    (void)api_error_no_memory(&e);
    output_form_release(form);
    if (reply)
        openai_reply_destroy(reply);
    for (uint32_t i = 0; i < prompts->n; i++)
        request_destroy(requests[i]);
    free(requests);
    exchange_fail(x, &e);
}

void endpoint_completions(struct exchange *x)
{
    struct api_fields fields;
    struct api_error e;
    int32_t n_logprobs = -1;
    struct prompt_list *prompts = calloc(1, sizeof *prompts);
    struct request **requests = NULL;
    if (!prompts) {
        (void)api_error_no_memory(&e);
        exchange_fail(x, &e);
        return;
    }
    if (!api_fields_read(x, API_COMPLETIONS, &fields, &e)) {
        free(prompts);
        exchange_fail(x, &e);
        return;
    }
    uint32_t n_shown = (uint32_t)fields.n;
    struct output_form form = {0};
    if (check_fields(x, &fields, &e) && output_form_read(&fields, &form, &e) &&
        read_logprobs(&fields, &n_logprobs, &e) && read_prompts(x, &fields, prompts, &e)) {
        for (uint32_t i = 0; i < prompts->n; i++)
            api_truncate_prompt(x, &fields, DEFAULT_TOKENS, &prompts->items[i]);
        if (fields.best_of != API_UNSET)
            fields.n = fields.best_of; /* all of them are made */
        requests = make_requests(x, &fields, prompts, n_logprobs, (uint32_t)fields.n > n_shown, &e);
    }
    if (requests) {
        generate(x, &fields, prompts, requests, &form, n_logprobs, n_shown);
    } else {
        output_form_release(&form);
        api_fields_release(&fields);
        exchange_fail(x, &e);
    }
    for (uint32_t i = 0; i < prompts->n; i++)
        token_list_deinit(&prompts->items[i]);
    free(prompts);
}
