/* Scores of pairs of texts; and, with `items`, how likely a model that makes text goes on with each
 * of some tokens. */
#include "server/dialects/pair_scores.h"
#include "server/endpoints.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct score {
    struct api_fields fields;
    const struct served_model *model;
    int64_t created;
    uint64_t n_tokens;
    /* of pairs */
    struct pair_scores pairs;
    struct text_list first, second;
    /* of tokens */
    uint32_t n_items, n_labels;
    double *log_probability; /* [n_items][n_labels] */
};

static void destroy(void *state)
{
    struct score *s = state;
    pair_scores_deinit(&s->pairs);
    text_list_deinit(&s->first);
    text_list_deinit(&s->second);
    free(s->log_probability);
    api_fields_release(&s->fields);
    free(s);
}

static void write_end(const struct score *s, uint64_t n_tokens, struct buffer *out)
{
    const char *adapter = api_adapter_name(s->model, s->fields.model);
    const char *name = adapter ? adapter : s->model->name;
    buffer_append_str(out, ",\"model\":\"");
    buffer_append_json(out, name, strlen(name));
    buffer_printf(out, "\",\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}}",
                  (unsigned long long)n_tokens, (unsigned long long)n_tokens);
}

/* ---- pairs ----------------------------------------------------------------------------------- */

static void pairs_on_event(void *state, struct event *event, struct buffer *out)
{
    struct score *s = state;
    (void)out;
    pair_scores_event(&s->pairs, event);
}

static void pairs_on_end(void *state, struct buffer *out)
{
    const struct score *s = state;
    char id[64];
    api_make_id("score-", id);
    buffer_printf(out, "{\"id\":\"%s\",\"object\":\"list\",\"created\":%lld,\"data\":[", id,
                  (long long)s->created);
    for (uint32_t i = 0; i < s->pairs.n_pairs; i++) {
        buffer_printf(out, "%s{\"index\":%u,\"object\":\"score\",\"score\":", i ? "," : "", i);
        buffer_append_f32(out, pair_scores_of(&s->pairs, i, false));
        buffer_append_char(out, '}');
    }
    buffer_append_char(out, ']');
    write_end(s, s->pairs.n_tokens, out);
}

static const struct reply_encoder pairs_encoder = {
    .on_event = pairs_on_event, .on_end = pairs_on_end, .destroy = destroy};

/* queries and documents are other names of text_1 and text_2. */
static struct request **pairs_requests(struct exchange *x, struct score *s, uint32_t *n,
                                       struct api_error *e)
{
    const struct api_fields *f = &s->fields;
    const char *first = json_body_get(f->root, "text_1") || !f->text_1 ? "text_1" : "queries";
    const char *second = f->text_2 || !f->documents ? "text_2" : "documents";
    if (!text_list_read(f->text_1, first, true, &s->first, e) ||
        !text_list_read(f->text_2 ? f->text_2 : f->documents, second, true, &s->second, e))
        return NULL;
    if (s->first.n != 1 && s->first.n != s->second.n) {
        api_error_set(e, "invalid_value", first,
                      "%s has %u elements and %s %u; one, or as many, are needed.", first,
                      s->first.n, second, s->second.n);
        return NULL;
    }
    return pair_scores_begin(x, f, &s->first, &s->second, &s->pairs, n, e);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static void tokens_on_event(void *state, struct event *event, struct buffer *out)
{
    struct score *s = state;
    (void)out;
    if (event->kind == EVENT_PROMPT_LOGPROBS)
        s->log_probability[event->user_index] = (double)event->logprobs->chosen.logprob;
    else if (event->kind == EVENT_END && event->user_index % s->n_labels == 0)
        s->n_tokens += event->n_prompt - 1; /* without the label */
}

/* Their probabilities, or their shares of the sum of these. */
static void write_row(const struct score *s, const double *logs, struct buffer *out)
{
    double most = 0, sum = 1;
    if (s->fields.apply_softmax) {
        most = logs[0];
        for (uint32_t i = 1; i < s->n_labels; i++)
            most = fmax(most, logs[i]);
        sum = 0;
        for (uint32_t i = 0; i < s->n_labels; i++)
            sum += exp(logs[i] - most);
    }
    buffer_append_char(out, '[');
    for (uint32_t i = 0; i < s->n_labels; i++) {
        if (i)
            buffer_append_char(out, ',');
        buffer_append_f32(out, (float)(exp(logs[i] - most) / sum));
    }
    buffer_append_char(out, ']');
}

static void tokens_on_end(void *state, struct buffer *out)
{
    const struct score *s = state;
    buffer_append_str(out, "{\"object\":\"scoring\",\"scores\":[");
    for (uint32_t i = 0; i < s->n_items; i++) {
        if (i)
            buffer_append_char(out, ',');
        write_row(s, s->log_probability + (size_t)i * s->n_labels, out);
    }
    buffer_append_char(out, ']');
    write_end(s, s->n_tokens, out);
}

static const struct reply_encoder tokens_encoder = {
    .on_event = tokens_on_event, .on_end = tokens_on_end, .destroy = destroy};

/* Two texts are one text, two lists of ids are one list. */
static bool join(struct exchange *x, const struct api_fields *f, const json_t *item,
                 const char *param, struct token_list *ids, struct api_error *e)
{
    const json_t *a = f->item_first ? item : f->query, *b = f->item_first ? f->query : item;
    if (json_is_array(a) && json_is_array(b))
        return api_read_ids(x, a, param, ids, e) && api_read_ids(x, b, param, ids, e);
    if (!json_is_string(a) || !json_is_string(b)) {
        api_error_set(e, "invalid_type", param,
                      "%s and query have to be two strings, or two lists of token ids.", param);
        return false;
    }
    struct buffer text;
    buffer_init(&text, SIZE_MAX / 2);
    buffer_append(&text, json_string_value(a), json_string_length(a));
    buffer_append(&text, json_string_value(b), json_string_length(b));
    bool is_good = !text.is_failed && api_tokenize(x, buffer_str(&text), text.len,
                                                   TOKENIZER_ADD_SPECIAL, param, ids, e);
    if (text.is_failed)
        (void)api_error_no_memory(e);
    buffer_deinit(&text);
    return is_good;
}

/* One request per label: its token stands behind the item and is scored as part of the prompt. The
 * prefix cache has the rest from the first one on. */
static bool add_item(struct exchange *x, const struct api_fields *f, const json_t *item,
                     uint32_t index, const struct token_list *labels, struct request **out,
                     struct api_error *e)
{
    char param[32];
    struct token_list ids;
    (void)snprintf(param, sizeof param, "items[%u]", index);
    token_list_init(&ids, LIMIT_CONTEXT);
    bool is_good = join(x, f, item, param, &ids, e);
    if (is_good && ids.n == 0) {
        api_error_set(e, "invalid_value", param, "%s and query are empty.", param);
        is_good = false;
    }
    if (is_good && !token_list_add(&ids, 0)) {
        (void)api_error_no_memory(e);
        is_good = false;
    }
    for (uint32_t i = 0; i < labels->n && is_good; i++) {
        ids.id[ids.n - 1] = labels->id[i];
        out[i] = api_make_request(x, f, ids.id, ids.n, 0, -1, param, e);
        is_good = out[i];
        if (is_good) {
            out[i]->wants_prompt_logprobs = true;
            out[i]->score_from = ids.n - 1;
        }
    }
    token_list_deinit(&ids);
    return is_good;
}

static bool read_labels(struct exchange *x, const json_t *list, struct token_list *labels,
                        struct api_error *e)
{
    if (!json_is_array(list) || json_array_size(list) == 0) {
        api_error_set(e, list ? "invalid_type" : "missing_required_parameter", "label_token_ids",
                      "label_token_ids has to be a list of token ids.");
        return false;
    }
    return api_read_ids(x, list, "label_token_ids", labels, e);
}

static struct request **items_requests(struct exchange *x, struct score *s,
                                       const struct token_list *labels, uint32_t *n,
                                       struct api_error *e)
{
    const json_t *items = s->fields.items;
    /* a text, or the ids of one */
    const bool is_one = !json_is_array(items) || json_is_number(json_array_get(items, 0));
    const size_t n_items = is_one ? 1 : json_array_size(items);
    if (n_items == 0 || n_items * labels->n > LIMIT_PROMPTS) {
        api_error_set(e, "invalid_value", "items",
                      "items has %zu elements for %u labels, their product may be 1 to %u.",
                      n_items, labels->n, LIMIT_PROMPTS);
        return NULL;
    }
    const uint32_t n_requests = (uint32_t)n_items * labels->n;
    struct request **requests = calloc(n_requests, sizeof *requests);
    s->log_probability = calloc(n_requests, sizeof *s->log_probability);
    bool is_good = requests && s->log_probability;
    if (!is_good)
        (void)api_error_no_memory(e);
    for (uint32_t i = 0; i < n_items && is_good; i++)
        is_good = add_item(x, &s->fields, is_one ? items : json_array_get(items, i), i, labels,
                           requests + (size_t)i * labels->n, e);
    if (!is_good) {
        for (uint32_t i = 0; requests && i < n_requests; i++)
            request_destroy(requests[i]);
        free(requests);
        return NULL;
    }
    s->n_items = (uint32_t)n_items;
    s->n_labels = labels->n;
    *n = n_requests;
    return requests;
}

static struct request **tokens_requests(struct exchange *x, struct score *s, uint32_t *n,
                                        struct api_error *e)
{
    struct token_list labels;
    struct request **requests = NULL;
    if (!api_check_generates(x, e))
        return NULL;
    if (!s->fields.query) {
        api_error_set(e, "missing_required_parameter", "query", "query is missing.");
        return NULL;
    }
    token_list_init(&labels, LIMIT_LABELS);
    if (read_labels(x, s->fields.label_token_ids, &labels, e))
        requests = items_requests(x, s, &labels, n, e);
    token_list_deinit(&labels);
    return requests;
}

/* ---- the endpoint ---------------------------------------------------------------------------- */

void endpoint_score(struct exchange *x)
{
    struct api_error e;
    uint32_t n = 0;
    struct score *s = calloc(1, sizeof *s);
    if (!s) {
        (void)api_error_no_memory(&e);
        exchange_fail(x, &e);
        return;
    }
    if (!api_fields_read(x, API_SCORE, &s->fields, &e)) {
        free(s);
        exchange_fail(x, &e);
        return;
    }
    s->model = exchange_model(x);
    s->created = clock_wall_seconds(exchange_context(x)->clock);
    const bool is_of_tokens = s->fields.items;
    struct request **requests =
        is_of_tokens ? tokens_requests(x, s, &n, &e) : pairs_requests(x, s, &n, &e);
    if (requests) {
        exchange_generate(x, requests, n, is_of_tokens ? &tokens_encoder : &pairs_encoder, s,
                          false);
        return;
    }
    destroy(s);
    exchange_fail(x, &e);
}
