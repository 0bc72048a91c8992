#include "base/base64.h"
#include "base/numeric.h"
#include "server/endpoints.h"
#include "server/request/api_request.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct embeddings {
    struct api_fields fields;
    const struct served_model *model;
    uint32_t n_inputs, width;
    float **vectors; /* [n_inputs] */
    uint64_t n_tokens;
    bool is_base64;
};

static void destroy(void *state)
{
    struct embeddings *s = state;
    for (uint32_t i = 0; s->vectors && i < s->n_inputs; i++)
        free(s->vectors[i]);
    free(s->vectors);
    api_fields_release(&s->fields);
    free(s);
}

/* ---- the reply
 * ------------------------------------------------------------------------------------ */

/* Little-endian, as this machine. */
static void write_base64(const float *x, uint32_t n, struct buffer *out)
{
    buffer_append_char(out, '"');
    base64_append(out, x, (size_t)n * sizeof *x);
    buffer_append_char(out, '"');
}

static void write_list(const float *x, uint32_t n, struct buffer *out)
{
    buffer_append_char(out, '[');
    for (uint32_t i = 0; i < n; i++) {
        if (i)
            buffer_append_char(out, ',');
        buffer_append_f32(out, x[i]);
    }
    buffer_append_char(out, ']');
}

/* Fewer dimensions: cut and of length 1 again. */
static void shorten(float *x, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    float scale = sum > 0.0 ? (float)(1.0 / sqrt(sum)) : 0.0f;
    for (uint32_t i = 0; i < n; i++)
        x[i] *= scale;
}

static void on_event(void *state, struct event *event, struct buffer *out)
{
    struct embeddings *s = state;
    (void)out;
    if (event->kind == EVENT_EMBEDDING) {
        free(s->vectors[event->user_index]);
        s->vectors[event->user_index] = event->embedding;
        event->embedding = NULL;
    } else if (event->kind == EVENT_END) {
        s->n_tokens += event->n_prompt;
    }
}

static void on_end(void *state, struct buffer *out)
{
    struct embeddings *s = state;
    uint32_t width = s->fields.dimensions == API_UNSET ? s->width : (uint32_t)s->fields.dimensions;
    buffer_append_str(out, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < s->n_inputs; i++) {
        float *vector = s->vectors[i];
        buffer_printf(out, "%s{\"object\":\"embedding\",\"index\":%u,\"embedding\":", i ? "," : "",
                      i);
        if (vector && width < s->width && s->fields.normalize)
            shorten(vector, width);
        if (s->is_base64)
            write_base64(vector, vector ? width : 0, out);
        else
            write_list(vector, vector ? width : 0, out);
        buffer_append_char(out, '}');
    }
    buffer_append_str(out, "],\"model\":\"");
    const char *adapter = api_adapter_name(s->model, s->fields.model);
    const char *name = adapter ? adapter : s->model->name;
    buffer_append_json(out, name, strlen(name));
    buffer_printf(out, "\",\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}}",
                  (unsigned long long)s->n_tokens, (unsigned long long)s->n_tokens);
}

static const struct reply_encoder encoder = {
    .on_event = on_event, .on_end = on_end, .destroy = destroy};

/* ---- the request
 * ---------------------------------------------------------------------------------- */

/* How many of the tokens stand in front of the text, such as [CLS]: those around it are the
 * frame's, in order. */
static uint32_t count_front(const struct token_list *ids, const struct token_list *frame)
{
    uint32_t n = 0;
    while (n < frame->n && n < ids->n && ids->id[n] == frame->id[n])
        n++;
    const uint32_t n_behind = frame->n - n;
    const bool is_framed =
        ids->n >= frame->n && (n_behind == 0 || memcmp(ids->id + ids->n - n_behind, frame->id + n,
                                                       n_behind * sizeof *ids->id) == 0);
    return is_framed ? n : 0;
}

/* Keeps the last tokens of the text, as many as truncate_prompt_tokens says with those around it,
 * at least one. */
static bool truncate(struct exchange *x, const struct api_fields *f, bool is_framed,
                     struct token_list *ids, struct api_error *e)
{
    const int64_t wanted = f->truncate_prompt_tokens;
    const int64_t n_kept = wanted < 0 ? exchange_model(x)->context_size : wanted;
    struct token_list frame;
    if (wanted == API_UNSET || wanted == 0 || n_kept >= ids->n) /* 0 is refused with the request */
        return true;
    token_list_init(&frame, 2 * VOCABULARY_MAX_FRAME);
    const bool is_good =
        !is_framed || api_tokenize(x, "", 0, TOKENIZER_ADD_SPECIAL, "input", &frame, e);
    const uint32_t front = count_front(ids, &frame);
    const uint32_t n_text = ids->n > frame.n ? ids->n - frame.n : 0;
    if (is_good && n_text > 1) {
        const uint32_t n_dropped = min_u32((uint32_t)(ids->n - n_kept), n_text - 1);
        ids->n -= n_dropped;
        memmove(ids->id + front, ids->id + front + n_dropped, (ids->n - front) * sizeof *ids->id);
    }
    token_list_deinit(&frame);
    return is_good;
}

static struct request *make_request(struct exchange *x, const struct api_fields *f,
                                    const json_t *item, uint32_t index, struct api_error *e)
{
    char param[32];
    struct token_list ids;
    struct request *request = NULL;
    (void)snprintf(param, sizeof param, "input[%u]", index);
    token_list_init(&ids, LIMIT_CONTEXT);
    bool is_good = false;
    if (json_is_string(item))
        is_good = api_tokenize(x, json_string_value(item), json_string_length(item),
                               f->add_special_tokens ? TOKENIZER_ADD_SPECIAL : 0, param, &ids, e);
    else if (json_is_array(item))
        is_good = api_read_ids(x, item, param, &ids, e);
    else
        api_error_set(e, "invalid_type", param,
                      "input has to be a string, a list of strings, a list of token ids, or a list "
                      "of lists of token ids.");
    const bool is_framed = json_is_string(item) && f->add_special_tokens;
    is_good = is_good && truncate(x, f, is_framed, &ids, e);
    bool is_empty = json_is_string(item) ? json_string_length(item) == 0 : ids.n == 0;
    if (is_good && is_empty)
        api_error_set(e, "invalid_value", param, "%s is empty.", param);
    else if (is_good)
        request = api_make_request(x, f, ids.id, ids.n, 0, -1, param, e);
    if (request)
        request->wants_embedding = true;
    token_list_deinit(&ids);
    return request;
}

static bool check_fields(struct exchange *x, const struct api_fields *f, struct api_error *e)
{
    const struct program_config *config = &exchange_model(x)->program->config;
    const char *format = f->encoding_format;
    if (!config->is_encoder)
        api_error_set(e, "unsupported_value", "model",
                      "This model makes text, not embeddings; use /v1/completions.");
    else if (config->n_scores > 0)
        api_error_set(e, "unsupported_value", "model",
                      "This model judges pairs of texts; use /v1/rerank.");
    else if (format && strcmp(format, "float") != 0 && strcmp(format, "base64") != 0)
        api_error_set(e, "invalid_value", "encoding_format",
                      "encoding_format has to be float or base64.");
    else if (f->dimensions != API_UNSET && f->dimensions > config->n_embd)
        api_error_set(e, "invalid_value", "dimensions", "This model's embeddings have %u elements.",
                      config->n_embd);
    else
        return true;
    return false;
}

static void release_requests(struct request **requests, uint32_t n)
{
    for (uint32_t i = 0; requests && i < n; i++)
        if (requests[i])
            request_destroy(requests[i]);
    free(requests);
}

static struct request **make_requests(struct exchange *x, const struct api_fields *f, uint32_t *n,
                                      struct api_error *e)
{
    const json_t *input = f->input;
    const bool is_one = !json_is_array(input) || json_is_number(json_array_get(input, 0));
    size_t count;
    if (!api_count_items(input, is_one, "input", &count, e))
        return NULL;
    struct request **requests = calloc(count, sizeof *requests);
    if (!requests) {
        (void)api_error_no_memory(e);
        return NULL;
    }
    for (*n = 0; *n < count; (*n)++) {
        const json_t *item = is_one ? input : json_array_get(input, *n);
        requests[*n] = make_request(x, f, item, *n, e);
        if (!requests[*n]) {
            release_requests(requests, *n);
            return NULL;
        }
    }
    return requests;
}

void endpoint_embeddings(struct exchange *x)
{
    struct api_error e;
    struct embeddings *s = calloc(1, sizeof *s);
    if (!s) {
        (void)api_error_no_memory(&e);
        exchange_fail(x, &e);
        return;
    }
    if (!api_fields_read(x, API_EMBEDDINGS, &s->fields, &e)) {
        free(s);
        exchange_fail(x, &e);
        return;
    }
    s->model = exchange_model(x);
    s->width = s->model->program->config.n_embd;
    s->is_base64 = s->fields.encoding_format && strcmp(s->fields.encoding_format, "base64") == 0;
    struct request **requests = NULL;
    uint32_t n = 0;
    if (check_fields(x, &s->fields, &e))
        requests = make_requests(x, &s->fields, &n, &e);
    if (requests) {
        s->vectors = calloc(n, sizeof *s->vectors);
        s->n_inputs = s->vectors ? n : 0;
        if (!s->vectors)
            (void)api_error_no_memory(&e);
    }
    if (requests && s->vectors) {
        exchange_generate(x, requests, n, &encoder, s, false);
        return;
    }
    release_requests(requests, n);
    destroy(s);
    exchange_fail(x, &e);
}
