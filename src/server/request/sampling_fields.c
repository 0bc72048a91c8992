#include "server/request/sampling_fields.h"

#include "base/numeric.h"
#include "server/server_internal.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static bool read_one_id(struct exchange *x, json_t *id, const char *param, struct token_list *out,
                        struct api_error *e)
{
    json_t *list = json_pack("[O]", id);
    bool is_good = list ? api_read_ids(x, list, param, out, e) : api_error_no_memory(e);
    json_decref(list);
    return is_good;
}

/* ---- numbers ----------------------------------------------------------------------------- */

static const struct {
    size_t from, to;
} numbers[] = {
#define SAME(name)                                                                                 \
    {                                                                                              \
        offsetof(struct api_fields, name), offsetof(struct sampling_params, name)                  \
    }
    SAME(typical_p),     SAME(top_n_sigma),    SAME(xtc_probability),
    SAME(xtc_threshold), SAME(dry_multiplier), SAME(dry_base),
#undef SAME
};

static void set_numbers(const struct api_fields *f, int64_t context_size,
                        struct sampling_params *params)
{
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        double stated = *(const double *)((const char *)f + numbers[i].from);
        if (!isnan(stated))
            *(float *)((char *)params + numbers[i].to) = (float)stated;
    }
    if (f->dry_allowed_length != API_UNSET)
        params->dry_allowed = (uint32_t)f->dry_allowed_length;
    if (f->dry_penalty_last_n != API_UNSET)
        params->dry_penalty_last = (int32_t)f->dry_penalty_last_n;
    if (f->repeat_last_n != API_UNSET) { /* more than the context can have are all */
        params->has_penalty_window = true;
        params->penalty_last = f->repeat_last_n >= context_size ? -1 : (int32_t)f->repeat_last_n;
    }
}

/* ---- the order of the steps -------------------------------------------------------------- */

static const struct {
    const char *name;
    enum sampling_step step;
} step_names[] = {
    {"temperature", STEP_TEMPERATURE},
    {"top_n_sigma", STEP_TOP_N_SIGMA},
    {"top_k", STEP_TOP_K},
    {"typical_p", STEP_TYPICAL_P},
    {"typ_p", STEP_TYPICAL_P},
    {"top_p", STEP_TOP_P},
    {"min_p", STEP_MIN_P},
    {"xtc", STEP_XTC},
};

/* N_SAMPLING_STEPS: unknown. */
static enum sampling_step find_step(const char *name)
{
    for (size_t i = 0; name && i < sizeof step_names / sizeof *step_names; i++)
        if (strcmp(step_names[i].name, name) == 0)
            return step_names[i].step;
    return N_SAMPLING_STEPS;
}

/* What comes before all steps anyway may be named in front of them. */
static bool is_penalty(const char *name)
{
    return name && (strcmp(name, "penalties") == 0 || strcmp(name, "dry") == 0);
}

/* Of the steps as they are by default. */
static void move_temperature_last(struct sampling_params *params)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < params->n_steps; i++)
        if (params->step[i] != STEP_TEMPERATURE)
            params->step[n++] = params->step[i];
    params->step[n] = STEP_TEMPERATURE;
}

/* The name of a step, as requests call it. */
const char *sampling_step_name(enum sampling_step step)
{
    size_t i = 0;
    while (step_names[i].step != step)
        i++;
    return step_names[i].name;
}

/* Steps that are not named do not run. */
static bool set_steps(struct exchange *x, const struct api_fields *f,
                      struct sampling_params *params, struct api_error *e)
{
    bool is_taken[N_SAMPLING_STEPS] = {false};
    if (!f->samplers) {
        if (f->temperature_is_last)
            move_temperature_last(params);
        return true;
    }
    if (!json_is_array(f->samplers)) {
        api_error_set(e, "invalid_type", "samplers", "samplers has to be a list of names.");
        return false;
    }
    params->n_steps = 0;
    for (size_t i = 0; i < json_array_size(f->samplers); i++) {
        const char *name = json_string_value(json_array_get(f->samplers, i));
        enum sampling_step step = find_step(name);
        if (is_penalty(name) && params->n_steps == 0)
            continue;
        if (f->temperature_is_last && name && strcmp(name, "infill") == 0) {
            exchange_ignored_field(x, "samplers.infill"); /* its editors name it always */
            continue;
        }
        if (step == N_SAMPLING_STEPS || is_taken[step]) {
            api_error_set(e, "invalid_value", "samplers",
                          "samplers: element %zu is not one of temperature, top_n_sigma, top_k, "
                          "typical_p, top_p, min_p and xtc, each once; penalties and dry can only "
                          "be in front.",
                          i);
            return false;
        }
        is_taken[step] = true;
        params->step[params->n_steps++] = (uint8_t)step;
    }
    return true;
}

/* ---- DRY --------------------------------------------------------------------------------- */

static const struct dry_breaker usual_breakers[] = {{"\n", 1}, {":", 1}, {"\"", 1}, {"*", 1}};

static bool set_breakers(const struct api_fields *f, struct request *request, struct api_error *e)
{
    struct sampling_params *params = &request->sampling;
    const json_t *list = f->dry_sequence_breakers;
    size_t n = json_array_size(list);
    params->dry_breakers = usual_breakers;
    params->n_dry_breakers = sizeof usual_breakers / sizeof *usual_breakers;
    if (!list)
        return true;
    if (!json_is_array(list) || n > LIMIT_DRY_BREAKERS) {
        api_error_set(
            e, json_is_array(list) ? "invalid_value" : "invalid_type", "dry_sequence_breakers",
            "dry_sequence_breakers has to be a list of at most %u strings.", LIMIT_DRY_BREAKERS);
        return false;
    }
    struct dry_breaker *breakers = arena_array(request->arena, n + 1, sizeof *breakers);
    if (!breakers)
        return api_error_no_memory(e);
    params->dry_breakers = breakers;
    params->n_dry_breakers = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i);
        size_t len = json_string_length(item);
        if (!json_is_string(item) || len > LIMIT_DRY_BREAKER_BYTES) {
            api_error_set(e, json_is_string(item) ? "invalid_value" : "invalid_type",
                          "dry_sequence_breakers",
                          "dry_sequence_breakers: element %zu is no string of at most %u bytes.", i,
                          LIMIT_DRY_BREAKER_BYTES);
            return false;
        }
        const char *copy = len ? arena_copy(request->arena, json_string_value(item), len) : "";
        if (!copy)
            return api_error_no_memory(e);
        if (len > 0)
            breakers[params->n_dry_breakers++] = (struct dry_breaker){copy, (uint32_t)len};
    }
    return true;
}

/* ---- logit_bias -------------------------------------------------------------------------- */

/* A bias of -100 or less bans, and so does false. */
static bool read_bias(const json_t *value, struct logit_bias *out, struct api_error *e)
{
    double bias = json_is_number(value) ? json_number_value(value) : 0.0;
    if ((!json_is_number(value) && !json_is_false(value)) || !(bias >= -100.0 && bias <= 100.0)) {
        api_error_set(e, "invalid_value", "logit_bias",
                      "logit_bias: a bias has to be -100 to 100, or false.");
        return false;
    }
    *out = (struct logit_bias){.bias = (float)bias,
                               .is_banned = json_is_false(value) || bias <= -100.0};
    return true;
}

/* Of a token that is named twice the last bias counts. */
static bool add_bias(struct request *request, struct logit_bias *list, struct logit_bias bias,
                     int32_t token, struct api_error *e)
{
    struct sampling_params *params = &request->sampling;
    uint32_t i = 0;
    while (i < params->n_bias && list[i].token != token)
        i++;
    if (i == LIMIT_LOGIT_BIAS) {
        api_error_set(e, "invalid_value", "logit_bias", "logit_bias can be of at most %u tokens.",
                      LIMIT_LOGIT_BIAS);
        return false;
    }
    bias.token = token;
    list[i] = bias;
    params->n_bias += i == params->n_bias;
    return true;
}

/* {"id": bias} */
static bool read_bias_object(struct exchange *x, json_t *object, struct request *request,
                             struct logit_bias *list, struct api_error *e)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        uint64_t id;
        struct logit_bias bias;
        if (!parse_u64(key, 0, exchange_model(x)->program->config.n_vocab - 1, &id)) {
            api_error_set(e, "invalid_value", "logit_bias",
                          "logit_bias: `%.40s` is no token id of this model.", key);
            return false;
        }
        if (!read_bias(value, &bias, e) || !add_bias(request, list, bias, (int32_t)id, e))
            return false;
    }
    return true;
}

/* [id or text, bias]; of a text each of its tokens. */
static bool read_bias_pair(struct exchange *x, const json_t *pair, struct request *request,
                           struct logit_bias *list, struct api_error *e)
{
    json_t *what = json_array_get(pair, 0);
    struct logit_bias bias;
    struct token_list ids;
    if (json_array_size(pair) != 2 || !(json_is_integer(what) || json_is_string(what))) {
        api_error_set(e, "invalid_value", "logit_bias",
                      "logit_bias: an element of a list has to be a token id or a text, and its "
                      "bias.");
        return false;
    }
    if (!read_bias(json_array_get(pair, 1), &bias, e))
        return false;
    token_list_init(&ids, LIMIT_LOGIT_BIAS);
    bool is_good = json_is_string(what)
                       ? api_tokenize(x, json_string_value(what), json_string_length(what), 0,
                                      "logit_bias", &ids, e)
                       : read_one_id(x, what, "logit_bias", &ids, e);
    for (uint32_t i = 0; is_good && i < ids.n; i++)
        is_good = add_bias(request, list, bias, ids.id[i], e);
    token_list_deinit(&ids);
    return is_good;
}

static bool set_bias(struct exchange *x, const struct api_fields *f, struct request *request,
                     struct api_error *e)
{
    if (!f->logit_bias)
        return true;
    size_t n = json_is_array(f->logit_bias) ? json_array_size(f->logit_bias)
                                            : json_object_size(f->logit_bias);
    if (!(json_is_object(f->logit_bias) || json_is_array(f->logit_bias)) || n > LIMIT_LOGIT_BIAS) {
        api_error_set(e, "invalid_value", "logit_bias",
                      "logit_bias has to be an object or a list of at most %u entries.",
                      LIMIT_LOGIT_BIAS);
        return false;
    }
    struct logit_bias *list = arena_array(request->arena, LIMIT_LOGIT_BIAS, sizeof *list);
    if (!list)
        return api_error_no_memory(e);
    request->sampling.bias = list;
    if (json_is_object(f->logit_bias))
        return read_bias_object(x, f->logit_bias, request, list, e);
    for (size_t i = 0; i < n; i++)
        if (!read_bias_pair(x, json_array_get(f->logit_bias, i), request, list, e))
            return false;
    return true;
}

/* ---- banned words ------------------------------------------------------------------------ */

/* A word is written in several ways: at the start of a text, behind a space, behind other text. */
static const char *const word_contexts[] = {"", " ", "\n"};

enum {
    N_CONTEXTS = sizeof word_contexts / sizeof *word_contexts,
    MAX_WORDS = LIMIT_BAD_WORDS / N_CONTEXTS
};

static bool add_word(struct request *request, struct bad_word *words, const int32_t *ids,
                     uint32_t n, struct api_error *e)
{
    struct sampling_params *params = &request->sampling;
    for (uint32_t i = 0; i < params->n_bad_words; i++)
        if (words[i].n == n && memcmp(words[i].id, ids, n * sizeof *ids) == 0)
            return true;
    int32_t *copy = arena_array(request->arena, n, sizeof *copy);
    if (!copy)
        return api_error_no_memory(e);
    memcpy(copy, ids, n * sizeof *copy);
    words[params->n_bad_words++] = (struct bad_word){copy, n};
    return true;
}

/* The number of tokens that say "\n", or a space and it; 0: the cut is not there. */
static uint32_t count_newline(const struct tokenizer *tokenizer, const struct token_list *ids)
{
    for (uint32_t i = 0, n; i < ids->n; i++) {
        const char *piece = tokenizer_piece(tokenizer, ids->id[i], &n);
        if (n == 1 && piece[0] == '\n')
            return i + 1;
        if (n != 1 || piece[0] != ' ')
            break;
    }
    return 0;
}

static bool add_text(struct exchange *x, const char *text, size_t len, unsigned context,
                     struct request *request, struct bad_word *words, struct api_error *e)
{
    struct buffer whole;
    struct token_list ids;
    buffer_init(&whole, LIMIT_REQUEST_BYTES);
    token_list_init(&ids, LIMIT_BAD_WORD_TOKENS + 2);
    buffer_append_str(&whole, word_contexts[context]);
    buffer_append(&whole, text, len);
    bool is_good = whole.is_failed
                       ? api_error_no_memory(e)
                       : api_tokenize(x, whole.data, whole.len, 0, "bad_words", &ids, e);
    bool is_cut = word_contexts[context][0] == '\n';
    uint32_t begin = is_cut && is_good ? count_newline(exchange_model(x)->tokenizer, &ids) : 0;
    uint32_t n = is_cut && begin == 0 ? 0 : ids.n - begin;
    if (is_good && n > LIMIT_BAD_WORD_TOKENS) {
        api_error_set(e, "invalid_value", "bad_words", "A word has more than %u tokens.",
                      LIMIT_BAD_WORD_TOKENS);
        is_good = false;
    }
    if (is_good && n > 0)
        is_good = add_word(request, words, ids.id + begin, n, e);
    token_list_deinit(&ids);
    buffer_deinit(&whole);
    return is_good;
}

static bool add_ids(struct exchange *x, const json_t *list, struct request *request,
                    struct bad_word *words, struct api_error *e)
{
    struct token_list ids;
    token_list_init(&ids, LIMIT_BAD_WORD_TOKENS);
    bool is_good = api_read_ids(x, list, "bad_words", &ids, e);
    if (is_good && ids.n > 0)
        is_good = add_word(request, words, ids.id, ids.n, e);
    token_list_deinit(&ids);
    return is_good;
}

static bool add_id(struct exchange *x, json_t *id, struct request *request, struct bad_word *words,
                   struct api_error *e)
{
    struct token_list ids;
    token_list_init(&ids, 1);
    bool is_good =
        read_one_id(x, id, "bad_words", &ids, e) && add_word(request, words, ids.id, ids.n, e);
    token_list_deinit(&ids);
    return is_good;
}

/* A string, the id of a token, or a list of ids. */
static bool add_item(struct exchange *x, json_t *item, struct request *request,
                     struct bad_word *words, struct api_error *e)
{
    size_t len = json_string_length(item);
    if (json_is_array(item))
        return add_ids(x, item, request, words, e);
    if (json_is_integer(item))
        return add_id(x, item, request, words, e);
    if (!json_is_string(item) || len == 0) {
        api_error_set(e, json_is_string(item) ? "invalid_value" : "invalid_type", "bad_words",
                      "bad_words has to hold words, token ids or lists of token ids.");
        return false;
    }
    for (unsigned c = 0; c < N_CONTEXTS; c++)
        if (!add_text(x, json_string_value(item), len, c, request, words, e))
            return false;
    return true;
}

static bool set_bad_words(struct exchange *x, const struct api_fields *f, struct request *request,
                          struct api_error *e)
{
    size_t n = json_array_size(f->bad_words);
    if (!f->bad_words)
        return true;
    if (!json_is_array(f->bad_words) || n > MAX_WORDS) {
        api_error_set(e, json_is_array(f->bad_words) ? "invalid_value" : "invalid_type",
                      "bad_words", "bad_words has to be a list of at most %u words.",
                      (unsigned)MAX_WORDS);
        return false;
    }
    struct bad_word *words = arena_array(request->arena, n * N_CONTEXTS + 1, sizeof *words);
    if (!words)
        return api_error_no_memory(e);
    request->sampling.bad_words = words;
    for (size_t i = 0; i < n; i++)
        if (!add_item(x, json_array_get(f->bad_words, i), request, words, e))
            return false;
    return true;
}

/* ---- log probabilities ------------------------------------------------------------------- */

static bool set_logprobs_mode(const struct api_fields *f, struct request *request,
                              struct api_error *e)
{
    const char *mode = f->logprobs_mode;
    bool is_processed = f->post_sampling_probs || (mode && strcmp(mode, "processed") == 0);
    if (mode && strcmp(mode, "processed") != 0 && strcmp(mode, "raw") != 0) {
        api_error_set(e, "invalid_value", "logprobs_mode",
                      "logprobs_mode is `%.40s`, allowed are raw and processed.", mode);
        return false;
    }
    if (is_processed && f->best_of != API_UNSET && f->best_of > 1) {
        api_error_set(e, "unsupported_value", "logprobs_mode",
                      "logprobs_mode can only be raw with best_of, which ranks by these.");
        return false;
    }
    request->logprobs_are_processed = is_processed;
    return true;
}

bool sampling_fields_read(struct exchange *x, const struct api_fields *fields,
                          struct request *request, struct api_error *e)
{
    set_numbers(fields, exchange_model(x)->context_size, &request->sampling);
    return set_bias(x, fields, request, e) && set_steps(x, fields, &request->sampling, e) &&
           set_breakers(fields, request, e) && set_bad_words(x, fields, request, e) &&
           set_logprobs_mode(fields, request, e);
}
