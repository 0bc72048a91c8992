/* The fields of requests, in one table: name, type, range, endpoints. What a request says about
 * sampling, stops and output becomes one `struct request`, whatever the dialect. */
#ifndef SERVER_REQUEST_API_REQUEST_H
#define SERVER_REQUEST_API_REQUEST_H

#include "server/exchange.h"
#include "server/request/json_body.h"

/* Endpoints a field belongs to. */
enum api_endpoint {
    API_CHAT = 1,
    API_COMPLETIONS = 2,
    API_EMBEDDINGS = 4,
    API_TOKENIZE = 8,
    API_DETOKENIZE = 16,
    API_APPLY_TEMPLATE = 32,
    API_RERANK = 64,
    API_SCORE = 128,
    API_LLAMA = 256, /* llama-server's /completion */
    API_INFILL = 512 /* and its /infill */
};

#define API_UNSET INT64_MIN /* an integer that the request does not state; floats: NaN */

/* The body of a request. Strings and nested values belong to `root`. */
struct api_fields {
    json_t *root;
    /* values that are looked at by their endpoint */
    json_t *prompt, *messages, *input, *content, *tokens, *stop, *stop_regex, *stop_token_ids,
        *logit_bias, *allowed_token_ids, *bad_words, *stream_options, *chat_template_kwargs,
        *documents, *tools, *tool_choice, *functions, *function_call, *logprobs, *samplers,
        *dry_sequence_breakers, *query, *texts, *text_1, *text_2, *items, *label_token_ids, *suffix,
        *response_fields, *lora, *input_prefix, *input_suffix, *input_extra;
    const char *model, *encoding_format, *cache_salt, *reasoning_format, *reasoning_effort,
        *logprobs_mode, *service_tier, *chat_template, *user, *safety_identifier;
    int64_t max_tokens, max_completion_tokens, n, best_of, top_k, top_logprobs, seed, min_tokens,
        priority, dimensions, top_n, dry_allowed_length, dry_penalty_last_n, prompt_logprobs,
        truncate_prompt_tokens, reasoning_budget, max_tool_calls, repeat_last_n, t_max_predict_ms;
    double temperature, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty,
        typical_p, top_n_sigma, xtc_probability, xtc_threshold, dry_multiplier, dry_base;
    bool stream, echo, ignore_eos, include_stop_str_in_output, skip_special_tokens,
        add_special_tokens, add_special, parse_special, return_tokens_as_token_ids,
        return_token_ids, return_token_strs, with_pieces, add_generation_prompt,
        continue_final_message, normalize, parallel_tool_calls, separate_reasoning,
        stream_reasoning, return_documents, return_text, raw_scores, apply_softmax, item_first,
        post_sampling_probs, cache_prompt, return_tokens, return_progress, timings_per_token,
        temperature_is_last;
};

/* Parses the exchange's body. False: *e; nothing to release. */
bool api_fields_read(struct exchange *x, enum api_endpoint endpoint, struct api_fields *out,
                     struct api_error *e);
/* The same of a body that another dialect was turned into; takes `root` over. */
bool api_fields_read_json(struct exchange *x, enum api_endpoint endpoint, json_t *root,
                          struct api_fields *out, struct api_error *e);
void api_fields_release(struct api_fields *fields);

/* Are the n bytes of `name` the id, or one of the aliases (comma separated, NULL: none)? */
bool api_is_id(const char *id, const char *aliases, const char *name, size_t n);

/* The adapter that a request's model means, of the model with this id and these aliases: the name
 * itself, or what stands behind the model and a colon. NULL: the model, which is also "default" and
 * no name. */
const char *api_adapter_of(const char *id, const char *aliases, const char *name);
const char *api_adapter_name(const struct served_model *model, const char *name);

/* The next of the model's aliases, of *n bytes; NULL: there is none. *at begins as the list. */
const char *api_next_alias(const char **at, size_t *n);

/* The name must be the loaded model's, "default", empty, or that of an adapter. */
bool api_check_model(const struct served_model *model, const char *name, struct api_error *e);

/* False: the model makes no text, *e says what it does. */
bool api_check_generates(struct exchange *x, struct api_error *e);

/* A request for the engine with sampling, stops, limits of `fields`, and a copy of the prompt.
 * default_tokens: max_tokens if none is stated, -1 for all that fit; n_logprobs: -1 for none.
 * `param` names the prompt's field. NULL: *e. */
struct request *api_make_request(struct exchange *x, const struct api_fields *fields,
                                 const int32_t *prompt, uint32_t n_prompt, int64_t default_tokens,
                                 int32_t n_logprobs, const char *param, struct api_error *e);

/* Keeps the last tokens of a prompt, as many as truncate_prompt_tokens says. */
void api_truncate_prompt(struct exchange *x, const struct api_fields *fields,
                         int64_t default_tokens, struct token_list *ids);

/* How many prompts, inputs or texts a field has: the elements of a list, or one if is_one says that
 * the value is one of them. False, *e: it is missing, or has none or too many. */
bool api_count_items(const json_t *value, bool is_one, const char *param, size_t *n,
                     struct api_error *e);

/* Ids of a JSON list, each in the vocabulary. */
bool api_read_ids(struct exchange *x, const json_t *list, const char *param, struct token_list *out,
                  struct api_error *e);

/* Tokenises; errors name the field. */
bool api_tokenize(struct exchange *x, const char *text, size_t n, unsigned flags, const char *param,
                  struct token_list *out, struct api_error *e);

/* Not NUL-terminated; belongs to the fields. */
struct api_text {
    const char *bytes;
    size_t n;
};

/* The same of a pair, as the model reads pairs; *n_first tokens are of the first segment. */
bool api_tokenize_pair(struct exchange *x, struct api_text first, struct api_text second,
                       const char *param, struct token_list *out, uint32_t *n_first,
                       struct api_error *e);

/* A random id: prefix and 24 characters. */
void api_make_id(const char *prefix, char out[64]);

#endif
