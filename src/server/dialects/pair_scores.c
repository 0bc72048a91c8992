#include "server/dialects/pair_scores.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- texts ----------------------------------------------------------------------------------- */

static bool read_text(const json_t *value, const char *param, bool takes_objects,
                      struct api_text *out, struct api_error *e)
{
    const json_t *text = value;
    if (takes_objects && json_is_object(value))
        text = json_body_get(value, "text");
    if (!json_is_string(text)) {
        api_error_set(e, "invalid_type", param, "%s has to be a string%s.", param,
                      takes_objects ? ", or an object with a member text" : "");
        return false;
    }
    *out = (struct api_text){json_string_value(text), json_string_length(text)};
    if (out->n == 0)
        api_error_set(e, "invalid_value", param, "%s is empty.", param);
    return out->n > 0;
}

bool text_list_read(const json_t *value, const char *param, bool takes_objects,
                    struct text_list *out, struct api_error *e)
{
    const bool is_list = json_is_array(value);
    size_t n;
    if (!api_count_items(value, !is_list, param, &n, e))
        return false;
    struct api_text *texts = calloc(n, sizeof *texts);
    bool is_good = texts;
    if (!texts)
        (void)api_error_no_memory(e);
    for (size_t i = 0; i < n && is_good; i++) {
        char name[48];
        (void)snprintf(name, sizeof name, is_list ? "%s[%zu]" : "%s", param, i);
        is_good = read_text(is_list ? json_array_get(value, i) : value, name, takes_objects,
                            &texts[i], e);
    }
    if (!is_good) {
        free(texts);
        return false;
    }
    *out = (struct text_list){.param = param, .text = texts, .n = (uint32_t)n, .is_list = is_list};
    return true;
}

void text_list_deinit(struct text_list *list)
{
    free(list->text);
    *list = (struct text_list){0};
}

/* ---- requests -------------------------------------------------------------------------------- */

static bool check_model(struct exchange *x, struct api_error *e)
{
    const struct program_config *config = &exchange_model(x)->program->config;
    if (!config->is_encoder)
        api_error_set(e, "unsupported_value", "model",
                      "This model makes text; it neither judges pairs nor makes embeddings.");
    else if (config->n_scores > 1)
        api_error_set(e, "unsupported_value", "model",
                      "This model has %u outputs for a pair; one is needed.", config->n_scores);
    else
        return true;
    return false;
}

static void name_text(const struct text_list *list, uint32_t i, char out[48])
{
    (void)snprintf(out, 48, list->is_list ? "%s[%u]" : "%s", list->param, i);
}

static struct request *make_request(struct exchange *x, const struct api_fields *f,
                                    const struct token_list *ids, uint32_t n_first,
                                    const char *param, struct api_error *e)
{
    struct request *request = api_make_request(x, f, ids->id, ids->n, 0, -1, param, e);
    if (!request)
        return NULL;
    request->wants_embedding = true;
    request->n_first_segment = n_first;
    return request;
}

static struct request *request_of_pair(struct exchange *x, const struct api_fields *f,
                                       const struct text_list *first,
                                       const struct text_list *second, uint32_t pair,
                                       struct api_error *e)
{
    char param[48];
    struct token_list ids;
    struct request *request = NULL;
    uint32_t n_first = 0;
    name_text(second, pair, param);
    token_list_init(&ids, LIMIT_CONTEXT);
    if (api_tokenize_pair(x, first->text[first->n == 1 ? 0 : pair], second->text[pair], param, &ids,
                          &n_first, e))
        request = make_request(x, f, &ids, n_first, param, e);
    token_list_deinit(&ids);
    return request;
}

static struct request *request_of_text(struct exchange *x, const struct api_fields *f,
                                       const struct text_list *list, uint32_t i,
                                       struct api_error *e)
{
    char param[48];
    struct token_list ids;
    struct request *request = NULL;
    name_text(list, i, param);
    token_list_init(&ids, LIMIT_CONTEXT);
    if (api_tokenize(x, list->text[i].bytes, list->text[i].n, TOKENIZER_ADD_SPECIAL, param, &ids,
                     e))
        request = make_request(x, f, &ids, 0, param, e);
    token_list_deinit(&ids);
    return request;
}

struct request **pair_scores_begin(struct exchange *x, const struct api_fields *f,
                                   const struct text_list *first, const struct text_list *second,
                                   struct pair_scores *out, uint32_t *n_requests,
                                   struct api_error *e)
{
    const struct served_model *model = exchange_model(x);
    if (!check_model(x, e))
        return NULL;
    const bool judges = model->program->config.n_scores > 0;
    const uint32_t n = judges ? second->n : first->n + second->n;
    struct request **requests = calloc(n, sizeof *requests);
    float **output = calloc(n, sizeof *output);
    uint32_t made = 0;
    if (!requests || !output)
        (void)api_error_no_memory(e);
    while (requests && output && made < n) {
        const bool is_first = made < first->n;
        struct request *request = judges ? request_of_pair(x, f, first, second, made, e)
                                         : request_of_text(x, f, is_first ? first : second,
                                                           is_first ? made : made - first->n, e);
        if (!request)
            break;
        requests[made++] = request;
    }
    if (made < n) {
        for (uint32_t i = 0; i < made; i++)
            request_destroy(requests[i]);
        free(requests);
        free(output);
        return NULL;
    }
    *out = (struct pair_scores){
        .model = model, .n_pairs = second->n, .n_inputs = n, .n_first = first->n, .output = output};
    *n_requests = n;
    return requests;
}

void pair_scores_deinit(struct pair_scores *scores)
{
    for (uint32_t i = 0; i < scores->n_inputs; i++)
        free(scores->output[i]);
    free(scores->output);
    *scores = (struct pair_scores){0};
}

/* ---- results --------------------------------------------------------------------------------- */

void pair_scores_event(struct pair_scores *scores, struct event *event)
{
    if (event->kind == EVENT_EMBEDDING) {
        free(scores->output[event->user_index]);
        scores->output[event->user_index] = event->embedding;
        event->embedding = NULL;
    } else if (event->kind == EVENT_END) {
        scores->n_tokens += event->n_prompt;
    }
}

static float cosine(const float *a, const float *b, uint32_t n)
{
    double aa = 0, bb = 0, ab = 0;
    for (uint32_t i = 0; i < n; i++) {
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
        ab += (double)a[i] * (double)b[i];
    }
    return aa > 0 && bb > 0 ? (float)(ab / sqrt(aa * bb)) : 0.0f;
}

float pair_scores_of(const struct pair_scores *scores, uint32_t pair, bool is_raw)
{
    const struct program_config *config = &scores->model->program->config;
    if (config->n_scores == 0)
        return cosine(scores->output[scores->n_first == 1 ? 0 : pair],
                      scores->output[scores->n_first + pair], config->n_embd);
    float x = scores->output[pair][0];
    return is_raw ? x : (float)(1.0 / (1.0 + exp(-(double)x)));
}
