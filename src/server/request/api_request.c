#include "server/request/api_request.h"

#include "base/hash.h"
#include "base/numeric.h"
#include "server/request/request_class.h"
#include "server/request/sampling_fields.h"
#include "server/request/stop_fields.h"
#include "server/server_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the table ----------------------------------------------------------------------------------
 */

enum field_kind {
    FIELD_JSON,    /* json_t *: any type, the endpoint looks at it */
    FIELD_STRING,  /* const char * */
    FIELD_INT,     /* int64_t */
    FIELD_FLOAT,   /* double */
    FIELD_BOOL,    /* bool */
    FIELD_NOTHING, /* accepted, has no effect */
    FIELD_REFUSED  /* changes the output in ways that this server does not know: 400, unless it
                    * states its neutral value: false, [], {}, or a number between min and max */
};

struct field {
    const char *name;
    enum field_kind kind;
    unsigned endpoints;
    size_t offset;
    double min, max;
};

#define AT(member) offsetof(struct api_fields, member)
#define GENERATE   (API_CHAT | API_COMPLETIONS)
#define LLAMA      (API_LLAMA | API_INFILL)
#define SAMPLE     (GENERATE | LLAMA)
#define TEMPLATED  (API_CHAT | API_APPLY_TEMPLATE | API_TOKENIZE)
#define PAIRS      (API_RERANK | API_SCORE)
#define EVERY      1023u
#define TOKENS_MAX 1e9

static const struct field fields[] = {
    {"model", FIELD_STRING, EVERY, AT(model), 0, 0},
    {"prompt", FIELD_JSON, API_COMPLETIONS | API_TOKENIZE | LLAMA, AT(prompt), 0, 0},
    {"messages", FIELD_JSON, TEMPLATED, AT(messages), 0, 0},
    {"input", FIELD_JSON, API_EMBEDDINGS, AT(input), 0, 0},
    {"content", FIELD_JSON, API_TOKENIZE, AT(content), 0, 0},
    {"tokens", FIELD_JSON, API_DETOKENIZE, AT(tokens), 0, 0},
    {"max_tokens", FIELD_INT, SAMPLE, AT(max_tokens), -1, TOKENS_MAX},
    {"max_completion_tokens", FIELD_INT, API_CHAT, AT(max_completion_tokens), -1, TOKENS_MAX},
    {"n", FIELD_INT, SAMPLE, AT(n), 1, LIMIT_CHOICES},
    {"best_of", FIELD_INT, API_COMPLETIONS, AT(best_of), 1, LIMIT_CHOICES},
    {"stream", FIELD_BOOL, SAMPLE, AT(stream), 0, 0},
    {"stream_options", FIELD_JSON, GENERATE, AT(stream_options), 0, 0},
    {"echo", FIELD_BOOL, API_COMPLETIONS, AT(echo), 0, 0},
    {"suffix", FIELD_JSON, API_COMPLETIONS, AT(suffix), 0, 0},
    {"logprobs", FIELD_JSON, GENERATE, AT(logprobs), 0, 0},
    {"top_logprobs", FIELD_INT, API_CHAT, AT(top_logprobs), 0, LIMIT_TOP_LOGPROBS},
    {"prompt_logprobs", FIELD_INT, GENERATE, AT(prompt_logprobs), 0, LIMIT_TOP_LOGPROBS},
    {"truncate_prompt_tokens", FIELD_INT, GENERATE | API_EMBEDDINGS, AT(truncate_prompt_tokens), -1,
     TOKENS_MAX},
    {"temperature", FIELD_FLOAT, SAMPLE, AT(temperature), 0, 100},
    {"top_k", FIELD_INT, SAMPLE, AT(top_k), -1, INT32_MAX},
    {"top_p", FIELD_FLOAT, SAMPLE, AT(top_p), 1e-9, 1},
    {"min_p", FIELD_FLOAT, SAMPLE, AT(min_p), 0, 1},
    {"repetition_penalty", FIELD_FLOAT, GENERATE, AT(repetition_penalty), 1e-3, 10},
    {"frequency_penalty", FIELD_FLOAT, SAMPLE, AT(frequency_penalty), -2, 2},
    {"presence_penalty", FIELD_FLOAT, SAMPLE, AT(presence_penalty), -2, 2},
    {"logit_bias", FIELD_JSON, SAMPLE, AT(logit_bias), 0, 0},
    {"allowed_token_ids", FIELD_JSON, GENERATE, AT(allowed_token_ids), 0, 0},
    {"bad_words", FIELD_JSON, GENERATE, AT(bad_words), 0, 0},
    {"typical_p", FIELD_FLOAT, SAMPLE, AT(typical_p), 1e-9, 1},
    {"top_n_sigma", FIELD_FLOAT, SAMPLE, AT(top_n_sigma), -1e9, 1e9},
    {"xtc_probability", FIELD_FLOAT, SAMPLE, AT(xtc_probability), 0, 1},
    {"xtc_threshold", FIELD_FLOAT, SAMPLE, AT(xtc_threshold), 0, 1},
    {"dry_multiplier", FIELD_FLOAT, SAMPLE, AT(dry_multiplier), 0, 100},
    {"dry_base", FIELD_FLOAT, SAMPLE, AT(dry_base), 1, 100},
    {"dry_allowed_length", FIELD_INT, SAMPLE, AT(dry_allowed_length), 1, INT32_MAX},
    {"dry_penalty_last_n", FIELD_INT, SAMPLE, AT(dry_penalty_last_n), -1, INT32_MAX},
    {"dry_sequence_breakers", FIELD_JSON, SAMPLE, AT(dry_sequence_breakers), 0, 0},
    {"samplers", FIELD_JSON, SAMPLE, AT(samplers), 0, 0},
    {"logprobs_mode", FIELD_STRING, GENERATE, AT(logprobs_mode), 0, 0},
    {"post_sampling_probs", FIELD_BOOL, SAMPLE, AT(post_sampling_probs), 0, 0},
    {"seed", FIELD_INT, SAMPLE, AT(seed), -0x1p63, 0x1p63},
    {"min_tokens", FIELD_INT, GENERATE, AT(min_tokens), 0, TOKENS_MAX},
    {"ignore_eos", FIELD_BOOL, SAMPLE, AT(ignore_eos), 0, 0},
    {"stop", FIELD_JSON, SAMPLE, AT(stop), 0, 0},
    {"stop_regex", FIELD_JSON, SAMPLE, AT(stop_regex), 0, 0},
    {"stop_token_ids", FIELD_JSON, GENERATE, AT(stop_token_ids), 0, 0},
    {"include_stop_str_in_output", FIELD_BOOL, GENERATE, AT(include_stop_str_in_output), 0, 0},
    {"no_stop_trim", FIELD_BOOL, GENERATE, AT(include_stop_str_in_output), 0, 0},
    {"skip_special_tokens", FIELD_BOOL, GENERATE, AT(skip_special_tokens), 0, 0},
    {"add_special_tokens", FIELD_BOOL, API_COMPLETIONS | API_EMBEDDINGS | API_TOKENIZE,
     AT(add_special_tokens), 0, 0},
    {"add_special", FIELD_BOOL, API_TOKENIZE, AT(add_special), 0, 0},
    {"parse_special", FIELD_BOOL, API_TOKENIZE, AT(parse_special), 0, 0},
    {"return_token_strs", FIELD_BOOL, API_TOKENIZE, AT(return_token_strs), 0, 0},
    {"with_pieces", FIELD_BOOL, API_TOKENIZE, AT(with_pieces), 0, 0},
    {"return_tokens_as_token_ids", FIELD_BOOL, GENERATE, AT(return_tokens_as_token_ids), 0, 0},
    {"return_token_ids", FIELD_BOOL, GENERATE, AT(return_token_ids), 0, 0},
    {"priority", FIELD_INT, SAMPLE, AT(priority), INT32_MIN, INT32_MAX},
    {"add_generation_prompt", FIELD_BOOL, TEMPLATED, AT(add_generation_prompt), 0, 0},
    {"continue_final_message", FIELD_BOOL, TEMPLATED, AT(continue_final_message), 0, 0},
    {"chat_template", FIELD_STRING, TEMPLATED, AT(chat_template), 0, 0},
    {"chat_template_kwargs", FIELD_JSON, TEMPLATED, AT(chat_template_kwargs), 0, 0},
    {"documents", FIELD_JSON, TEMPLATED | PAIRS, AT(documents), 0, 0},
    {"query", FIELD_JSON, PAIRS, AT(query), 0, 0},
    {"texts", FIELD_JSON, API_RERANK, AT(texts), 0, 0},
    {"top_n", FIELD_INT, API_RERANK, AT(top_n), 1, INT32_MAX},
    {"return_documents", FIELD_BOOL, API_RERANK, AT(return_documents), 0, 0},
    {"return_text", FIELD_BOOL, API_RERANK, AT(return_text), 0, 0},
    {"raw_scores", FIELD_BOOL, API_RERANK, AT(raw_scores), 0, 0},
    {"text_1", FIELD_JSON, API_SCORE, AT(text_1), 0, 0},
    {"text_2", FIELD_JSON, API_SCORE, AT(text_2), 0, 0},
    {"queries", FIELD_JSON, API_SCORE, AT(text_1), 0, 0},
    {"items", FIELD_JSON, API_SCORE, AT(items), 0, 0},
    {"label_token_ids", FIELD_JSON, API_SCORE, AT(label_token_ids), 0, 0},
    {"apply_softmax", FIELD_BOOL, API_SCORE, AT(apply_softmax), 0, 0},
    {"item_first", FIELD_BOOL, API_SCORE, AT(item_first), 0, 0},
    {"encoding_format", FIELD_STRING, API_EMBEDDINGS, AT(encoding_format), 0, 0},
    {"dimensions", FIELD_INT, API_EMBEDDINGS, AT(dimensions), 1, 1e6},
    {"normalize", FIELD_BOOL, API_EMBEDDINGS, AT(normalize), 0, 0},
    /* llama-server's */
    {"n_predict", FIELD_INT, LLAMA, AT(max_tokens), -1, TOKENS_MAX},
    {"n_cmpl", FIELD_INT, LLAMA, AT(n), 1, LIMIT_CHOICES},
    {"n_probs", FIELD_INT, LLAMA, AT(top_logprobs), 0, LIMIT_TOP_LOGPROBS},
    {"repeat_penalty", FIELD_FLOAT, LLAMA, AT(repetition_penalty), 1e-3, 10},
    {"repeat_last_n", FIELD_INT, LLAMA, AT(repeat_last_n), -1, INT32_MAX},
    {"t_max_predict_ms", FIELD_INT, LLAMA, AT(t_max_predict_ms), -1, 1e9},
    {"cache_prompt", FIELD_BOOL, LLAMA, AT(cache_prompt), 0, 0},
    {"return_tokens", FIELD_BOOL, LLAMA, AT(return_tokens), 0, 0},
    {"return_progress", FIELD_BOOL, LLAMA, AT(return_progress), 0, 0},
    {"timings_per_token", FIELD_BOOL, SAMPLE, AT(timings_per_token), 0, 0},
    {"response_fields", FIELD_JSON, LLAMA, AT(response_fields), 0, 0},
    {"lora", FIELD_JSON, LLAMA, AT(lora), 0, 0},
    {"input_prefix", FIELD_JSON, API_INFILL, AT(input_prefix), 0, 0},
    {"input_suffix", FIELD_JSON, API_INFILL, AT(input_suffix), 0, 0},
    {"input_extra", FIELD_JSON, API_INFILL, AT(input_extra), 0, 0},
    {"id_slot", FIELD_NOTHING, LLAMA, 0, 0, 0},
    {"n_keep", FIELD_NOTHING, LLAMA, 0, 0, 0},
    {"n_cache_reuse", FIELD_NOTHING, LLAMA, 0, 0, 0},
    /* accounting and hints */
    {"user", FIELD_STRING, EVERY, AT(user), 0, 0},
    {"safety_identifier", FIELD_STRING, EVERY, AT(safety_identifier), 0, 0},
    {"prompt_cache_key", FIELD_NOTHING, EVERY, 0, 0, 0},
    {"cache_salt", FIELD_STRING, EVERY, AT(cache_salt), 0, 0},
    {"store", FIELD_NOTHING, EVERY, 0, 0, 0},
    {"metadata", FIELD_NOTHING, EVERY, 0, 0, 0},
    {"service_tier", FIELD_STRING, EVERY, AT(service_tier), 0, 0},
    {"prediction", FIELD_NOTHING, API_CHAT, 0, 0, 0},
    {"include_reasoning", FIELD_NOTHING, API_CHAT, 0, 0, 0},
    /* tools and reasoning */
    {"tools", FIELD_JSON, TEMPLATED, AT(tools), 0, 0},
    {"tool_choice", FIELD_JSON, TEMPLATED, AT(tool_choice), 0, 0},
    {"functions", FIELD_JSON, API_CHAT, AT(functions), 0, 0},
    {"function_call", FIELD_JSON, API_CHAT, AT(function_call), 0, 0},
    {"parallel_tool_calls", FIELD_BOOL, API_CHAT, AT(parallel_tool_calls), 0, 0},
    {"max_tool_calls", FIELD_INT, API_CHAT, AT(max_tool_calls), 1, TOKENS_MAX},
    {"separate_reasoning", FIELD_BOOL, API_CHAT, AT(separate_reasoning), 0, 0},
    {"stream_reasoning", FIELD_BOOL, API_CHAT, AT(stream_reasoning), 0, 0},
    {"reasoning_format", FIELD_STRING, API_CHAT, AT(reasoning_format), 0, 0},
    {"reasoning_effort", FIELD_STRING, TEMPLATED, AT(reasoning_effort), 0, 0},
    {"reasoning_budget", FIELD_INT, API_CHAT, AT(reasoning_budget), -1, TOKENS_MAX},
    {"max_thinking_tokens", FIELD_INT, API_CHAT, AT(reasoning_budget), -1, TOKENS_MAX},
    {"thinking_token_budget", FIELD_INT, API_CHAT, AT(reasoning_budget), -1, TOKENS_MAX},
    /* the form of the output: output_form.c reads them */
    {"response_format", FIELD_NOTHING, GENERATE, 0, 0, 0},
    {"json_schema", FIELD_NOTHING, SAMPLE, 0, 0, 0},
    {"guided_json", FIELD_NOTHING, GENERATE, 0, 0, 0},
    {"guided_regex", FIELD_NOTHING, GENERATE, 0, 0, 0},
    {"guided_choice", FIELD_NOTHING, GENERATE, 0, 0, 0},
    {"guided_grammar", FIELD_NOTHING, GENERATE, 0, 0, 0},
    {"structured_outputs", FIELD_NOTHING, GENERATE, 0, 0, 0},
    {"regex", FIELD_NOTHING, GENERATE, 0, 0, 0},
    {"choice", FIELD_NOTHING, GENERATE, 0, 0, 0},
    {"grammar", FIELD_NOTHING, SAMPLE, 0, 0, 0},
    {"ebnf", FIELD_NOTHING, GENERATE, 0, 0, 0},
    {"json_whitespace", FIELD_NOTHING, GENERATE, 0, 0, 0},
    /* what would change the output */
    {"truncate_prompt_tokens", FIELD_REFUSED, PAIRS, 0, 0, 0},
};

static const struct field *find_field(const char *name, unsigned endpoint)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if ((fields[i].endpoints & endpoint) && strcmp(fields[i].name, name) == 0)
            return &fields[i];
    return NULL;
}

static bool wrong_type(const struct field *field, const char *expected, struct api_error *e)
{
    api_error_set(e, "invalid_type", field->name, "%s has to be %s.", field->name, expected);
    return false;
}

static bool is_neutral(const struct field *field, const json_t *value)
{
    if (json_is_number(value)) {
        double x = json_number_value(value);
        return x >= field->min && x <= field->max;
    }
    if (json_is_string(value))
        return json_string_length(value) == 0;
    return json_is_false(value) || (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

static bool read_integer(const struct field *field, const json_t *value, int64_t *out,
                         struct api_error *e)
{
    if (!json_body_integer(value, out))
        return wrong_type(field, "an integer", e);
    if ((double)*out >= field->min && (double)*out <= field->max)
        return true;
    api_error_set(e, "invalid_value", field->name, "%s is %" PRId64 ", allowed are %.0f to %.0f.",
                  field->name, *out, field->min, field->max);
    return false;
}

static bool read_float(const struct field *field, const json_t *value, double *out,
                       struct api_error *e)
{
    if (!json_is_number(value))
        return wrong_type(field, "a number", e);
    *out = json_number_value(value);
    if (*out >= field->min && *out <= field->max)
        return true;
    api_error_set(e, "invalid_value", field->name, "%s is %g, allowed are %g to %g.", field->name,
                  *out, field->min, field->max);
    return false;
}

static bool read_field(const struct field *field, json_t *value, struct api_fields *out,
                       struct api_error *e)
{
    char *at = (char *)out + field->offset;
    switch (field->kind) {
    case FIELD_JSON:
        memcpy(at, &value, sizeof value);
        return true;
    case FIELD_STRING: {
        const char *text = json_string_value(value);
        if (!text || strlen(text) != json_string_length(value))
            return wrong_type(field, "a string", e);
        memcpy(at, &text, sizeof text);
        return true;
    }
    case FIELD_INT:
        return read_integer(field, value, (int64_t *)at, e);
    case FIELD_FLOAT:
        return read_float(field, value, (double *)at, e);
    case FIELD_BOOL:
        if (!json_is_boolean(value))
            return wrong_type(field, "true or false", e);
        *(bool *)at = json_is_true(value);
        return true;
    case FIELD_REFUSED:
        if (is_neutral(field, value))
            return true;
        api_error_set(e, "unsupported_value", field->name, "%s is not supported by this server.",
                      field->name);
        return false;
    default:
        return true;
    }
}

/* A field with a shape of its own: other modalities than text. */
static bool check_shapes(const json_t *root, struct api_error *e)
{
    const json_t *modalities = json_body_get(root, "modalities");
    for (size_t i = 0; i < json_array_size(modalities); i++) {
        const char *m = json_string_value(json_array_get(modalities, i));
        if (!m || strcmp(m, "text") != 0) {
            api_error_set(e, "unsupported_modality", "modalities", "Only text is made here.");
            return false;
        }
    }
    return true;
}

static bool has_own_shape(const char *name)
{
    return strcmp(name, "modalities") == 0;
}

/* What llama-server takes where a request says nothing, whatever the model recommends. */
static void set_llama_defaults(struct api_fields *out)
{
    out->temperature = 0.8;
    out->top_k = 40;
    out->top_p = 0.95;
    out->min_p = 0.05;
    out->repeat_last_n = 64;
    out->temperature_is_last = true;
}

static void set_initial(struct api_fields *out, enum api_endpoint endpoint, json_t *root)
{
    *out = (struct api_fields){.root = root,
                               .max_tokens = API_UNSET,
                               .max_completion_tokens = API_UNSET,
                               .n = 1,
                               .best_of = API_UNSET,
                               .top_k = API_UNSET,
                               .top_logprobs = API_UNSET,
                               .seed = API_UNSET,
                               .dimensions = API_UNSET,
                               .top_n = API_UNSET,
                               .temperature = NAN,
                               .top_p = NAN,
                               .min_p = NAN,
                               .repetition_penalty = NAN,
                               .frequency_penalty = NAN,
                               .presence_penalty = NAN,
                               .typical_p = NAN,
                               .top_n_sigma = NAN,
                               .xtc_probability = NAN,
                               .xtc_threshold = NAN,
                               .dry_multiplier = NAN,
                               .dry_base = NAN,
                               .prompt_logprobs = API_UNSET,
                               .truncate_prompt_tokens = API_UNSET,
                               .reasoning_budget = -1,
                               .max_tool_calls = API_UNSET,
                               .dry_allowed_length = API_UNSET,
                               .dry_penalty_last_n = API_UNSET,
                               .repeat_last_n = API_UNSET,
                               .cache_prompt = true,
                               .skip_special_tokens = true,
                               .add_special_tokens = true,
                               .parse_special = true,
                               .add_generation_prompt = true,
                               .normalize = true,
                               .parallel_tool_calls = true,
                               .stream_reasoning = true,
                               .separate_reasoning = true};
    if (endpoint & LLAMA)
        set_llama_defaults(out);
}

static bool read_all(struct exchange *x, enum api_endpoint endpoint, struct api_fields *out,
                     struct api_error *e)
{
    const char *name;
    json_t *value;
    json_object_foreach(out->root, name, value)
    {
        const struct field *field = find_field(name, endpoint);
        if (!field && !has_own_shape(name)) {
            if (x->server->context.options->strict_fields) {
                api_error_set(e, "unknown_parameter", name, "There is no parameter of this name.");
                return false;
            }
            exchange_ignored_field(x, name);
        }
        if (field && !json_is_null(value) && !read_field(field, value, out, e))
            return false;
    }
    return check_shapes(out->root, e);
}

bool api_fields_read_json(struct exchange *x, enum api_endpoint endpoint, json_t *root,
                          struct api_fields *out, struct api_error *e)
{
    set_initial(out, endpoint, root);
    if (read_all(x, endpoint, out, e) && api_check_model(exchange_model(x), out->model, e))
        return true;
    api_fields_release(out);
    return false;
}

bool api_fields_read(struct exchange *x, enum api_endpoint endpoint, struct api_fields *out,
                     struct api_error *e)
{
    json_t *root;
    return exchange_take_json(x, &root, e) && api_fields_read_json(x, endpoint, root, out, e);
}

void api_fields_release(struct api_fields *f)
{
    json_decref(f->root);
    f->root = NULL;
}

const char *api_next_alias(const char **at, size_t *n)
{
    if (!*at)
        return NULL;
    const char *alias = *at + strspn(*at, ", ");
    *n = strcspn(alias, ", ");
    *at = alias + *n;
    return *n > 0 ? alias : NULL;
}

bool api_is_id(const char *id, const char *aliases, const char *name, size_t n)
{
    const char *alias;
    size_t n_alias;
    if (strlen(id) == n && memcmp(id, name, n) == 0)
        return true;
    while ((alias = api_next_alias(&aliases, &n_alias)))
        if (n_alias == n && memcmp(alias, name, n) == 0)
            return true;
    return false;
}

const char *api_adapter_of(const char *id, const char *aliases, const char *name)
{
    if (!name || *name == '\0' || strcmp(name, "default") == 0 ||
        api_is_id(id, aliases, name, strlen(name)))
        return NULL;
    for (const char *colon = strchr(name, ':'); colon; colon = strchr(colon + 1, ':'))
        if (api_is_id(id, aliases, name, (size_t)(colon - name)))
            return colon + 1;
    return name;
}

const char *api_adapter_name(const struct served_model *model, const char *name)
{
    return api_adapter_of(model->name, model->aliases, name);
}

bool api_check_model(const struct served_model *model, const char *name, struct api_error *e)
{
    const char *adapter = api_adapter_name(model, name);
    if (!adapter || engine_has_adapter(model->engine, adapter))
        return true;
    api_error_unknown_model(e, name);
    return false;
}

bool api_check_generates(struct exchange *x, struct api_error *e)
{
    const struct program_config *config = &exchange_model(x)->program->config;
    if (config->is_encoder)
        api_error_set(e, "unsupported_value", "model",
                      config->n_scores ? "This model judges pairs of texts; use /v1/rerank."
                                       : "This model makes embeddings; use /v1/embeddings.");
    return !config->is_encoder;
}

/* ---- ids and text -------------------------------------------------------------------------------
 */

bool api_count_items(const json_t *value, bool is_one, const char *param, size_t *n,
                     struct api_error *e)
{
    *n = is_one ? 1 : json_array_size(value);
    if (!value)
        api_error_set(e, "missing_required_parameter", param, "%s is missing.", param);
    else if (*n == 0 || *n > LIMIT_PROMPTS)
        api_error_set(e, "invalid_value", param, "%s has %zu elements, allowed are 1 to %u.", param,
                      *n, LIMIT_PROMPTS);
    else
        return true;
    return false;
}

bool api_read_ids(struct exchange *x, const json_t *list, const char *param, struct token_list *out,
                  struct api_error *e)
{
    uint32_t n_vocab = exchange_model(x)->program->config.n_vocab;
    size_t n = json_array_size(list);
    if (n > out->limit) {
        api_error_set(e, "invalid_value", param, "%s has %zu token ids, at most %u are allowed.",
                      param, n, out->limit);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        if (!json_body_integer(json_array_get(list, i), &id)) {
            api_error_set(e, "invalid_type", param, "%s: element %zu is no token id.", param, i);
            return false;
        }
        if (id < 0 || id >= n_vocab) {
            api_error_set(e, "invalid_value", param,
                          "%s: token id %" PRId64 " is not in the vocabulary of this model, which "
                          "has %u; were the ids made by another tokenizer?",
                          param, id, n_vocab);
            return false;
        }
        if (!token_list_add(out, (int32_t)id))
            return api_error_no_memory(e);
    }
    return true;
}

/* Notes the time; false: *e is the error. */
static bool end_tokenize(struct exchange *x, uint64_t begin, serverd_status status,
                         const serverd_error *err, const char *param, struct api_error *e)
{
    metrics_observe(x->server->context.metrics, METRIC_TOKENIZE_TIME,
                    (double)(clock_now_ns(x->server->context.clock) - begin) * 1e-9);
    if (status == SERVERD_OK)
        return true;
    api_error_from(e, err);
    (void)snprintf(e->param, sizeof e->param, "%s", param);
    return false;
}

bool api_tokenize(struct exchange *x, const char *text, size_t n, unsigned flags, const char *param,
                  struct token_list *out, struct api_error *e)
{
    serverd_error err;
    uint64_t begin = clock_now_ns(x->server->context.clock);
    serverd_status status =
        tokenizer_encode(exchange_model(x)->tokenizer, text, n, flags, out, &err);
    return end_tokenize(x, begin, status, &err, param, e);
}

bool api_tokenize_pair(struct exchange *x, struct api_text first, struct api_text second,
                       const char *param, struct token_list *out, uint32_t *n_first,
                       struct api_error *e)
{
    serverd_error err;
    uint64_t begin = clock_now_ns(x->server->context.clock);
    serverd_status status =
        tokenizer_encode_pair(exchange_model(x)->tokenizer, first.bytes, first.n, second.bytes,
                              second.n, out, n_first, &err);
    return end_tokenize(x, begin, status, &err, param, e);
}

/* ---- one request --------------------------------------------------------------------------------
 */

static float choose(double stated, bool has_own, float own, float fallback)
{
    if (!isnan(stated))
        return (float)stated;
    return has_own ? own : fallback;
}

static uint64_t choose_seed(const struct api_fields *f)
{
    uint64_t seed = 0;
    serverd_error ignored; /* a seed of 0 is a seed */
    if (f->seed != API_UNSET)
        return (uint64_t)f->seed;
    (void)random_bytes(&seed, sizeof seed, &ignored);
    return seed;
}

static void set_sampling(struct exchange *x, const struct api_fields *f,
                         struct sampling_params *params)
{
    const struct program_sampling none = {0},
                                  *own = x->server->context.options->sampling_defaults == 0
                                             ? &exchange_model(x)->program->sampling
                                             : &none;
    params->temperature = choose(f->temperature, own->has_temperature, own->temperature, 1.0f);
    params->top_p = choose(f->top_p, own->has_top_p, own->top_p, 1.0f);
    params->min_p = choose(f->min_p, own->has_min_p, own->min_p, 0.0f);
    params->repetition_penalty =
        choose(f->repetition_penalty, own->has_repetition_penalty, own->repetition_penalty, 1.0f);
    params->frequency_penalty = choose(f->frequency_penalty, false, 0.0f, 0.0f);
    params->presence_penalty = choose(f->presence_penalty, false, 0.0f, 0.0f);
    params->top_k = own->has_top_k ? own->top_k : 0;
    if (f->top_k != API_UNSET)
        params->top_k = f->top_k < 0 ? 0 : (int32_t)f->top_k;
    params->seed = choose_seed(f);
    params->min_tokens = (uint32_t)f->min_tokens;
    params->ignore_eos = f->ignore_eos;
}

/* A copy of ids in the request's arena. */
static bool copy_ids(struct request *request, const int32_t *ids, uint32_t n, const int32_t **out,
                     struct api_error *e)
{
    int32_t *copy = arena_array(request->arena, max_size(n, 1), sizeof *copy);
    if (!copy)
        return api_error_no_memory(e);
    if (n > 0)
        memcpy(copy, ids, n * sizeof *copy);
    *out = copy;
    return true;
}

static bool read_id_list(struct exchange *x, const json_t *list, const char *param, uint32_t limit,
                         struct request *request, const int32_t **out, uint32_t *n,
                         struct api_error *e)
{
    if (!list)
        return true;
    if (!json_is_array(list)) {
        api_error_set(e, "invalid_type", param, "%s has to be a list of token ids.", param);
        return false;
    }
    struct token_list ids;
    token_list_init(&ids, limit);
    bool is_good =
        api_read_ids(x, list, param, &ids, e) && copy_ids(request, ids.id, ids.n, out, e);
    *n = ids.n;
    token_list_deinit(&ids);
    return is_good;
}

static int compare_ids(const void *a, const void *b)
{
    const int32_t *p = a, *q = b;
    return (*p > *q) - (*p < *q);
}

static bool set_allowed(struct exchange *x, const struct api_fields *f, struct request *request,
                        struct api_error *e)
{
    const int32_t *ids = NULL;
    uint32_t n = 0;
    if (!read_id_list(x, f->allowed_token_ids, "allowed_token_ids", LIMIT_VOCAB, request, &ids, &n,
                      e))
        return false;
    if (!f->allowed_token_ids)
        return true;
    if (n == 0) {
        api_error_set(e, "invalid_value", "allowed_token_ids", "allowed_token_ids is empty.");
        return false;
    }
    qsort((int32_t *)ids, n, sizeof *ids, compare_ids);
    request->sampling.allowed = ids;
    request->sampling.n_allowed = n;
    return true;
}

static int64_t wanted_tokens(const struct api_fields *f, int64_t default_tokens)
{
    int64_t wanted =
        f->max_completion_tokens != API_UNSET ? f->max_completion_tokens : f->max_tokens;
    return wanted == API_UNSET ? default_tokens : wanted;
}

/* -1 keeps what leaves room for the wanted tokens, or for one if all that fit are wanted. */
void api_truncate_prompt(struct exchange *x, const struct api_fields *f, int64_t default_tokens,
                         struct token_list *ids)
{
    int64_t n_kept = f->truncate_prompt_tokens, context = exchange_model(x)->context_size;
    if (n_kept == API_UNSET || n_kept == 0) /* 0 is refused when the request is made */
        return;
    if (n_kept < 0) {
        int64_t wanted = wanted_tokens(f, default_tokens);
        n_kept = context - (wanted < 0 ? 1 : wanted);
        n_kept = n_kept > 1 ? n_kept : 1;
    }
    if (n_kept >= ids->n)
        return;
    memmove(ids->id, ids->id + ids->n - n_kept, (size_t)n_kept * sizeof *ids->id);
    ids->n = (uint32_t)n_kept;
}

/* Nothing is known of the first token. */
static bool set_prompt_logprobs(const struct api_fields *f, struct request *request,
                                struct api_error *e)
{
    if (f->truncate_prompt_tokens == 0) {
        api_error_set(e, "invalid_value", "truncate_prompt_tokens",
                      "truncate_prompt_tokens is 0, allowed are 1 or more, and -1.");
        return false;
    }
    if (f->prompt_logprobs == API_UNSET)
        return true;
    if (f->stream) {
        api_error_set(e, "unsupported_value", "prompt_logprobs",
                      "prompt_logprobs cannot be streamed.");
        return false;
    }
    request->wants_prompt_logprobs = request->n_prompt > 1;
    request->n_top_logprobs = max_u32(request->n_top_logprobs, (uint32_t)f->prompt_logprobs);
    return true;
}

/* Clips the wanted tokens to the room behind the prompt. */
static bool set_lengths(struct exchange *x, const struct api_fields *f, struct request *request,
                        int64_t default_tokens, const char *param, struct api_error *e)
{
    uint32_t context = exchange_model(x)->context_size;
    int64_t wanted = wanted_tokens(f, default_tokens);
    uint32_t needed = request->n_prompt + (wanted != 0);
    if (needed > context) {
        api_error_set(e, "context_length_exceeded", param,
                      "This model's maximum context length is %u tokens. However, your prompt has "
                      "%u tokens.",
                      context, request->n_prompt);
        e->n_prompt_tokens = request->n_prompt;
        e->n_ctx = context;
        return false;
    }
    uint32_t room = context - request->n_prompt;
    request->max_new_tokens = wanted < 0 || wanted > room ? room : (uint32_t)wanted;
    return true;
}

static bool set_deadline(struct exchange *x, struct request *request, struct api_error *e)
{
    const char *text = exchange_header(x, "x-request-timeout");
    double seconds;
    if (!text)
        return true;
    if (!parse_f64(text, &seconds) || seconds <= 0.0 || seconds > 1e6) {
        api_error_set(e, "invalid_value", "x-request-timeout",
                      "x-request-timeout has to be seconds above 0.");
        return false;
    }
    request->deadline_ns = exchange_arrival_ns(x) + (uint64_t)(seconds * 1e9);
    return true;
}

struct request *api_make_request(struct exchange *x, const struct api_fields *f,
                                 const int32_t *prompt, uint32_t n_prompt, int64_t default_tokens,
                                 int32_t n_logprobs, const char *param, struct api_error *e)
{
    struct request *r = request_create();
    serverd_error err;
    if (!r) {
        (void)api_error_no_memory(e);
        return NULL;
    }
    r->n_prompt = n_prompt;
    r->n_choices = (uint32_t)f->n;
    r->includes_stop = f->include_stop_str_in_output;
    r->skips_special = f->skip_special_tokens;
    r->wants_logprobs = n_logprobs >= 0;
    r->n_top_logprobs = n_logprobs > 0 ? (uint32_t)n_logprobs : 0;
    r->tenant = r->cache_space = x->tenant;
    r->weight = x->weight;
    if (f->cache_salt)
        r->cache_space = hash_mix(x->tenant ^ sha256_number(f->cache_salt, strlen(f->cache_salt)));
    const char *adapter = api_adapter_name(exchange_model(x), f->model);
    if (adapter && !(r->adapter = arena_copy(r->arena, adapter, strlen(adapter)))) {
        (void)api_error_no_memory(e);
        request_destroy(r);
        return NULL;
    }
    set_sampling(x, f, &r->sampling);
    if (request_class_read(f, r, e) && copy_ids(r, prompt, n_prompt, &r->prompt, e) &&
        set_lengths(x, f, r, default_tokens, param, e) && set_prompt_logprobs(f, r, e) &&
        stop_fields_read(f, r, e) &&
        read_id_list(x, f->stop_token_ids, "stop_token_ids", LIMIT_STOP_TOKEN_IDS, r,
                     &r->stop_tokens, &r->n_stop_tokens, e) &&
        set_allowed(x, f, r, e) && sampling_fields_read(x, f, r, e) && set_deadline(x, r, e)) {
        if (sampling_params_check(&r->sampling, exchange_model(x)->program->config.n_vocab, &err) ==
            SERVERD_OK)
            return r;
        api_error_from(e, &err);
    }
    request_destroy(r);
    return NULL;
}

void api_make_id(const char *prefix, char out[64])
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    uint8_t random[24] = {0};
    serverd_error ignored; /* an id without randomness is still an id */
    (void)random_bytes(random, sizeof random, &ignored);
    size_t n = (size_t)snprintf(out, 32, "%s", prefix);
    for (size_t i = 0; i < sizeof random; i++)
        out[n++] = letters[random[i] % (sizeof letters - 1)];
    out[n] = '\0';
}
